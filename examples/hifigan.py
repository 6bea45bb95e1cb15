"""HiFi-GAN V1's generator: 80 mel bins a frame become 256 samples of audio.

    python examples/hifigan.py [--frames 200] [--seed 0] [--algorithm fast]

builds the network with random weights, prints what it costs and how fast it runs. `load_official`
takes the weights of the authors' checkpoints, whose key 'generator' is a state dict.

Kong, Kim and Bae, "HiFi-GAN: Generative Adversarial Networks for Efficient and High Fidelity Speech
Synthesis", 2020; https://github.com/jik876/hifi-gan, config_v1.json.
"""

import argparse
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fastconv1d import (
    Conv1d,
    ConvTranspose1d,
    LeakyReLU,
    Mean,
    Residual,
    Sequential,
    Tanh,
    fold_weight_norm,
    summary,
)

MEL_BINS = 80
CHANNELS = 512
UPSAMPLING = ((8, 16), (8, 16), (2, 4), (2, 4))  # rate, kernel size
KERNEL_SIZES = (3, 7, 11)
DILATIONS = (1, 3, 5)
SAMPLE_RATE = 22050
SLOPE = 0.1
LAST_SLOPE = 0.01  # torch's default, before the last convolution


def conv(
    rng: np.random.Generator, c_in: int, c_out: int, kernel_size: int, **options: Any
) -> Conv1d:
    """A convolution that keeps the length, and about the size, of its input."""
    layer = Conv1d(c_in, c_out, kernel_size, padding="same", rng=rng, **options)
    layer.weight = layer.weight * np.float32(1.5)
    return layer


def upsampling(rng: np.random.Generator, c_in: int, rate: int, kernel_size: int) -> ConvTranspose1d:
    """A transposed convolution to half the channels and `rate` times the length."""
    padding = (kernel_size - rate) // 2
    layer = ConvTranspose1d(c_in, c_in // 2, kernel_size, rate, padding, rng=rng)
    layer.weight = layer.weight * np.float32(1.2 * rate**0.5)
    return layer


def resblock(
    rng: np.random.Generator, channels: int, kernel_size: int, algorithm: str
) -> Sequential:
    """Three residual blocks of two convolutions each, the first of them dilated."""
    sizes, options = (channels, channels, kernel_size), {"algorithm": algorithm}
    return Sequential(
        *(
            Residual(
                LeakyReLU(SLOPE),
                conv(rng, *sizes, dilation=dilation, **options),
                LeakyReLU(SLOPE),
                conv(rng, *sizes, **options),
            )
            for dilation in DILATIONS
        )
    )


def generator(
    rng: np.random.Generator, channels: int = CHANNELS, algorithm: str = "auto"
) -> Sequential:
    """The network for input (N, 80, frames) and output (N, 1, 256*frames), with random weights.

    With ``algorithm="winograd"`` or "fast" the residual blocks take fewer multiplications.
    """
    layers: list = [conv(rng, MEL_BINS, channels, 7)]
    for rate, kernel_size in UPSAMPLING:
        layers += [LeakyReLU(SLOPE), upsampling(rng, channels, rate, kernel_size)]
        channels //= 2
        layers.append(Mean(*(resblock(rng, channels, size, algorithm) for size in KERNEL_SIZES)))
    return Sequential(*layers, LeakyReLU(LAST_SLOPE), conv(rng, channels, 1, 7), Tanh())


def official_names() -> Iterator[str]:
    """The names of the convolutions in the authors' code, in the order of `generator`."""
    yield "conv_pre"
    for stage in range(len(UPSAMPLING)):
        yield f"ups.{stage}"
        for branch in range(len(KERNEL_SIZES)):
            block = f"resblocks.{stage * len(KERNEL_SIZES) + branch}"
            for i in range(len(DILATIONS)):
                yield f"{block}.convs1.{i}"
                yield f"{block}.convs2.{i}"
    yield "conv_post"


def to_official(net: Sequential) -> dict[str, np.ndarray]:
    """The network's weights under the authors' keys, without weight norm."""
    ours = net.state_dict()
    prefixes = [key[: -len("weight")] for key in ours if key.endswith("weight")]
    return {
        f"{name}.{parameter}": ours[prefix + parameter]
        for prefix, name in zip(prefixes, official_names(), strict=True)
        for parameter in ("weight", "bias")
    }


def load_official(net: Sequential, state: Mapping[str, np.ndarray]) -> None:
    """Load weights under the authors' keys, with or without weight norm."""
    ours = [key[: -len("weight")] for key in net.state_dict() if key.endswith("weight")]
    new = {}
    for prefix, name in zip(ours, official_names(), strict=True):
        if f"{name}.weight_g" in state:
            weight = fold_weight_norm(state[f"{name}.weight_g"], state[f"{name}.weight_v"])
        else:
            weight = state[f"{name}.weight"]
        new[prefix + "weight"], new[prefix + "bias"] = weight, state[f"{name}.bias"]
    net.load_state_dict(new)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--algorithm", choices=("auto", "winograd", "fast"), default="auto")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    net = generator(rng, algorithm=options.algorithm)
    mel = rng.standard_normal((1, MEL_BINS, options.frames), dtype=np.float32)
    costs = summary(net, mel.shape).total
    print(f"{costs.parameters:,} parameters, {costs.flops / 1e9:.1f} GFLOP")
    audio = net(mel)
    begin = time.perf_counter()
    net(mel, out=audio)
    elapsed = time.perf_counter() - begin
    seconds = audio.shape[-1] / SAMPLE_RATE
    print(f"{seconds:.2f} s of audio in {elapsed:.2f} s: {seconds / elapsed:.2f} times real time")
    print(f"{costs.flops / 1e9 / elapsed:.1f} GFLOP/s, standard deviation {audio.std():.3f}")


if __name__ == "__main__":
    main()
