"""Four torch models before and after `fastconv1d.torch.accelerate`, with random weights.

    pip install 'fastconv1d[torch]'
    python examples/torch_models.py [MODEL ...] [--seconds 1.0] [--rounds 7] [--winograd]

For each model it prints torch's time, the accelerated time, taken in turns in one process, and the
largest difference between the two outputs, as a part of the largest output.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from fastconv1d.torch import accelerate


class ConvTasNet(nn.Module):
    """Separates two speakers (Luo and Mesgarani 2019), in the paper's best non-causal sizes."""

    def __init__(
        self, filters=512, length=16, bottleneck=128, hidden=512, blocks=8, repeats=3, speakers=2
    ):
        super().__init__()
        self.speakers = speakers
        self.encoder = nn.Conv1d(1, filters, length, stride=length // 2, bias=False)
        self.norm = nn.GroupNorm(1, filters, eps=1e-8)
        self.bottleneck = nn.Conv1d(filters, bottleneck, 1)
        self.blocks = nn.ModuleList(
            TasNetBlock(bottleneck, hidden, 2**b) for _ in range(repeats) for b in range(blocks)
        )
        self.mask = nn.Sequential(nn.PReLU(), nn.Conv1d(bottleneck, speakers * filters, 1))
        self.decoder = nn.ConvTranspose1d(filters, 1, length, stride=length // 2, bias=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Audio (N, 1, L) to (N, speakers, L) for L a multiple of half the filters' length."""
        mixture = F.relu(self.encoder(audio))
        hidden, skips = self.bottleneck(self.norm(mixture)), 0
        for block in self.blocks:
            hidden, skip = block(hidden)
            skips = skips + skip
        masks = torch.sigmoid(self.mask(skips)).unflatten(1, (self.speakers, -1))
        separated = (masks * mixture.unsqueeze(1)).flatten(0, 1)
        return self.decoder(separated).unflatten(0, (-1, self.speakers)).squeeze(2)


class TasNetBlock(nn.Module):
    def __init__(self, channels, hidden, dilation):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(channels, hidden, 1),
            nn.PReLU(),
            nn.GroupNorm(1, hidden, eps=1e-8),
            nn.Conv1d(hidden, hidden, 3, padding=dilation, dilation=dilation, groups=hidden),
            nn.PReLU(),
            nn.GroupNorm(1, hidden, eps=1e-8),
        )
        self.residual = nn.Conv1d(hidden, channels, 1)
        self.skip = nn.Conv1d(hidden, channels, 1)

    def forward(self, x):
        hidden = self.layers(x)
        return x + self.residual(hidden), self.skip(hidden)


class WaveNet(nn.Module):
    """Predicts the next of 256 levels (van den Oord et al. 2016): 4 blocks of 10 dilated layers."""

    def __init__(self, residual=32, skip=256, levels=256, layers=10, blocks=4):
        super().__init__()
        self.start = nn.Conv1d(levels, residual, 1)
        dilations = [2**layer for _ in range(blocks) for layer in range(layers)]
        self.filters = nn.ModuleList(
            nn.Conv1d(residual, residual, 2, dilation=d) for d in dilations
        )
        self.gates = nn.ModuleList(nn.Conv1d(residual, residual, 2, dilation=d) for d in dilations)
        self.residuals = nn.ModuleList(nn.Conv1d(residual, residual, 1) for _ in dilations)
        self.skips = nn.ModuleList(nn.Conv1d(residual, skip, 1) for _ in dilations)
        self.end = nn.Sequential(
            nn.ReLU(), nn.Conv1d(skip, skip, 1), nn.ReLU(), nn.Conv1d(skip, levels, 1)
        )

    def forward(self, one_hot: Tensor) -> Tensor:
        """One-hot levels (N, 256, L) to logits (N, 256, L), causal."""
        x, skips = self.start(one_hot), 0
        for filter, gate, residual, skip in zip(
            self.filters, self.gates, self.residuals, self.skips, strict=True
        ):
            padded = F.pad(x, (filter.dilation[0], 0))
            hidden = torch.tanh(filter(padded)) * torch.sigmoid(gate(padded))
            skips = skips + skip(hidden)
            x = x + residual(hidden)
        return self.end(skips)


class HifiGan(nn.Module):
    """A mel spectrogram to audio (Kong et al. 2020), generator V1, weight-normed as trained."""

    def __init__(self, mels=80, channels=512, rates=(8, 8, 2, 2), kernels=(16, 16, 4, 4)):
        super().__init__()
        self.pre = weight_norm(nn.Conv1d(mels, channels, 7, padding=3))
        self.ups, self.blocks = nn.ModuleList(), nn.ModuleList()
        for rate, kernel in zip(rates, kernels, strict=True):
            up = nn.ConvTranspose1d(
                channels, channels // 2, kernel, stride=rate, padding=(kernel - rate) // 2
            )
            channels //= 2
            self.ups.append(weight_norm(up))
            self.blocks.append(nn.ModuleList(HifiBlock(channels, k) for k in (3, 7, 11)))
        self.post = weight_norm(nn.Conv1d(channels, 1, 7, padding=3))

    def forward(self, mel: Tensor) -> Tensor:
        """Mel frames (N, 80, T) to audio (N, 1, 256*T)."""
        x = self.pre(mel)
        for up, blocks in zip(self.ups, self.blocks, strict=True):
            x = up(F.leaky_relu(x, 0.1))
            x = sum(block(x) for block in blocks) / len(blocks)
        return torch.tanh(self.post(F.leaky_relu(x)))


class HifiBlock(nn.Module):
    def __init__(self, channels, kernel):
        super().__init__()

        def conv(dilation):
            return weight_norm(
                nn.Conv1d(channels, channels, kernel, padding="same", dilation=dilation)
            )

        self.dilated = nn.ModuleList(conv(d) for d in (1, 3, 5))
        self.plain = nn.ModuleList(conv(1) for _ in range(3))

    def forward(self, x):
        for dilated, plain in zip(self.dilated, self.plain, strict=True):
            x = x + plain(F.leaky_relu(dilated(F.leaky_relu(x, 0.1)), 0.1))
        return x


class Wav2Vec2Features(nn.Module):
    """The feature extractor of wav2vec 2.0 (Baevski et al. 2020), base model."""

    def __init__(self, channels=512):
        super().__init__()
        sizes = [(10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)]
        self.convs = nn.ModuleList(
            nn.Conv1d(1 if i == 0 else channels, channels, kernel, stride=stride, bias=False)
            for i, (kernel, stride) in enumerate(sizes)
        )
        self.norm = nn.GroupNorm(channels, channels)

    def forward(self, audio: Tensor) -> Tensor:
        """Audio (N, 1, L) at 16 kHz to features (N, 512, about L/320)."""
        x = F.gelu(self.norm(self.convs[0](audio)))
        for conv in self.convs[1:]:
            x = F.gelu(conv(x))
        return x


def conv_tasnet(seconds):
    """Return the model and an input of 8 kHz audio."""
    return ConvTasNet(), torch.randn(1, 1, 8 * math.ceil(1000 * seconds))


def wavenet(seconds):
    """Return the model and an input of 16 kHz levels."""
    levels = torch.randint(256, (1, math.ceil(16000 * seconds)))
    return WaveNet(), F.one_hot(levels, 256).transpose(1, 2).float()


def hifi_gan(seconds):
    """Return the model and an input of mel frames for 22,050 Hz audio."""
    return HifiGan(), torch.randn(1, 80, math.ceil(22050 / 256 * seconds))


def wav2vec2(seconds):
    """Return the model and an input of 16 kHz audio."""
    return Wav2Vec2Features(), torch.randn(1, 1, max(400, math.ceil(16000 * seconds)))


MODELS = {make.__name__: make for make in (conv_tasnet, wavenet, hifi_gan, wav2vec2)}


def compare(make, seconds, rounds, algorithm):
    """Return the seconds of torch, of fastconv1d, and the difference beside the largest output."""
    torch.manual_seed(0)
    model, x = make(seconds)
    model.eval()
    fast, report = accelerate(model, algorithm=algorithm)
    assert report.replaced and not report.left, report
    times = {model: [], fast: []}
    with torch.inference_mode():
        y = model(x)
        difference = float((fast(x) - y).abs().max() / y.abs().max())
        for _ in range(rounds):
            for contestant, taken in times.items():
                start = time.perf_counter()
                contestant(x)
                taken.append(time.perf_counter() - start)
    return *(statistics.median(taken) for taken in times.values()), difference


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--seconds", type=float, default=1.0, help="of audio")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--winograd", action="store_true", help="fewer multiplications")
    options = parser.parse_args(arguments)
    algorithm = "winograd" if options.winograd else "auto"
    unknown = set(options.models) - set(MODELS)
    if unknown:
        parser.error(f"no model {', '.join(sorted(unknown))}: there are {', '.join(MODELS)}")
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    print(f"{'model':12} {'torch ms':>9} {'fast ms':>9} {'faster':>7}  largest difference")
    ratios = []
    for name in options.models or MODELS:
        slow, fast, difference = compare(MODELS[name], options.seconds, options.rounds, algorithm)
        ratios.append(slow / fast)
        print(
            f"{name:12} {1e3 * slow:9.1f} {1e3 * fast:9.1f} {slow / fast:6.2f}x  {difference:.1e}"
        )
    print(f"geometric mean {statistics.geometric_mean(ratios):.2f}x")
    torch.set_num_threads(before)


if __name__ == "__main__":
    main()
