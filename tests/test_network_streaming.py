"""Networks as streams: any chunks give the bits of the whole call; states, resets, refusals."""

import copy
import gc
import io
import itertools
import os
import pickle
import tracemalloc

import numpy as np
import pytest
from layers import assert_same_bits

import fastconv1d
from fastconv1d import (
    ELU,
    GELU,
    Conv1d,
    ConvTranspose1d,
    LeakyReLU,
    Mean,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SiLU,
    Snake,
    StreamingNetwork,
    Tanh,
)
from fastconv1d.core.flow import Windows

ACTIVATIONS = (ReLU, LeakyReLU, ELU, GELU, SiLU, Tanh, Sigmoid)


class Draw:
    """Random networks of a dtype; those of one length where branches meet."""

    def __init__(self, rng, dtype="float32", algorithm="auto"):
        self.rng, self.dtype, self.algorithm = rng, dtype, algorithm
        self.reach = 1  # a length that no reflection is too long for

    def pick(self, *options):
        return options[self.rng.integers(len(options))]

    def activation(self, channels):
        if np.dtype(self.dtype).kind == "c":
            return Sequential()
        if self.rng.random() < 0.15:
            return Snake(self.rng.uniform(0.2, 3, channels))
        return self.pick(*ACTIVATIONS)()

    def conv(self, c_in, c_out, kind=Conv1d, **options):
        groups = [g for g in (1, 1, 2, 3, c_in) if c_in % g == 0 and c_out % g == 0]
        real = np.dtype(self.dtype).kind == "f"
        if real and self.rng.random() < 0.2:
            options["activation"] = self.pick("silu", "relu", ("leaky_relu", 0.2))
        if real and self.rng.random() < 0.15:
            options["pre_activation"] = self.pick("tanh", "sigmoid", "elu")
        return kind(
            c_in,
            c_out,
            groups=self.pick(*groups),
            bias=bool(self.rng.integers(2)),
            dtype=self.dtype,
            rng=self.rng,
            algorithm=self.algorithm,
            **options,
        )

    def same(self, c_in, c_out):
        """A convolution that keeps the length."""
        kernel_size, dilation = self.pick(1, 1, 2, 3, 4, 7), self.pick(1, 1, 2, 5)
        span = dilation * (kernel_size - 1) + 1
        left = self.pick(span - 1, (span - 1) // 2, 0)
        options = {"kernel_size": kernel_size, "dilation": dilation}
        options["padding"] = (left, span - 1 - left)
        if self.rng.random() < 0.25:
            return self.conv(c_in, c_out, ConvTranspose1d, **options)
        options["padding_mode"] = self.pick("zeros", "zeros", "reflect", "replicate")
        self.reach += span
        return self.conv(c_in, c_out, **options)

    def strided(self, c_in, c_out):
        """A convolution that changes the length."""
        kernel_size, stride = self.pick(1, 2, 3, 5, 8), self.pick(1, 2, 3, 4)
        padding = self.pick(0, 0, 1, (kernel_size - 1, 0), (2, 5))
        options = {"kernel_size": kernel_size, "stride": stride}
        if self.rng.random() < 0.4:
            padding = self.pick(0, (kernel_size - 1) // 2, (0, max(0, kernel_size - stride)))
            more = int(self.rng.integers(stride))
            kind = ConvTranspose1d
            return self.conv(c_in, c_out, kind, padding=padding, output_padding=more, **options)
        mode = self.pick("zeros", "zeros", "reflect", "replicate")
        self.reach += 4 * (kernel_size + 5)
        return self.conv(c_in, c_out, padding=padding, padding_mode=mode, **options)

    def branch(self, c_in, c_out, depth):
        """Layers that keep the length."""
        layers, now = [], c_in
        for i in range(count := int(self.rng.integers(1, 4))):
            what = self.rng.random()
            if what < 0.35:
                layers.append(self.activation(now))
            elif what < 0.6 and depth:
                layers.append(self.container(now, depth - 1))
            width = c_out if i == count - 1 else self.pick(2, 3, 4, 6)
            layers.append(self.same(now, width))
            now = width
        return Sequential(*layers, *([self.activation(now)] if self.rng.random() < 0.4 else []))

    def container(self, channels, depth):
        what = self.rng.random()
        if what < 0.3:
            count = int(self.rng.integers(1, 4))
            return Mean(*(self.branch(channels, channels, depth) for _ in range(count)))
        scale = self.pick(1.0, 1.0, 0.5, -1.5)
        branch = self.branch(channels, channels, depth)
        if what < 0.45:
            shortcut = self.branch(channels, channels, 0)
            return Residual(*branch, shortcut=shortcut, residual_scale=scale)
        if what < 0.6:  # an encoder and its decoder, which keep multiples of the stride
            stride = self.pick(2, 3)
            down = self.conv(channels, 4, kernel_size=stride, stride=stride)
            up = self.conv(4, channels, ConvTranspose1d, kernel_size=stride, stride=stride)
            return Residual(down, *self.branch(4, 4, 0), up, residual_scale=scale)
        return Residual(*branch, residual_scale=scale)

    def network(self):
        layers, now = [], int(self.pick(1, 2, 3, 4, 6))
        c_in = now
        for _ in range(int(self.rng.integers(1, 5))):
            what = self.rng.random()
            if what < 0.4:
                width = self.pick(1, 2, 3, 4, 6)
                layers.append(self.strided(now, width))
                now = width
            elif what < 0.8:
                layers.append(self.container(now, int(self.rng.integers(0, 3))))
            else:
                layers.append(self.activation(now))
        return Sequential(*layers), c_in


def array(rng, dtype, *shape):
    x = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        x = x + 1j * rng.standard_normal(shape)
    return x.astype(dtype)


def drawn(seed, dtype="float32", algorithm="auto", n_batch=None):
    """A network, its input, and the output of the whole call; lengths that it does not take left."""
    rng = np.random.default_rng(seed)
    draw = Draw(rng, dtype, algorithm)
    n_batch = n_batch or int(rng.integers(1, 4))
    while True:
        draw.reach = 1
        net, c_in = draw.network()
        for length in 6 * (draw.reach + int(rng.integers(0, 60))) + np.arange(7):
            x = array(rng, dtype, n_batch, c_in, int(length))
            try:
                return net, x, net(x)
            except ValueError:
                continue


def random_chunks(rng, length):
    longest = int(rng.choice((1, 2, 5, 20, 100, 400)))
    cuts = [0]
    while cuts[-1] < length:
        cuts.append(min(length, cuts[-1] + int(rng.integers(0, longest + 1))))
    return list(itertools.pairwise(cuts))


def streamed(stream, x, chunks):
    return np.concatenate([*(stream(x[:, :, a:b]) for a, b in chunks), stream.flush()], axis=2)


def check(seed, n_chunkings=2, **options):
    net, x, whole = drawn(seed, **options)
    rng = np.random.default_rng(seed)
    stream = net.stream(x.shape[0])
    for _ in range(n_chunkings):
        chunks = random_chunks(rng, x.shape[2])
        assert_same_bits(streamed(stream, x, chunks), whole, f"seed {seed}, chunks {chunks}\n{net}")


@pytest.mark.parametrize("part", range(3))
def test_any_chunks_give_the_bits_of_the_whole(part, share):
    for seed in range(part, int(300 * share), 3):
        check(seed)


def test_double_precision(share):
    for seed in range(1000, 1000 + int(60 * share)):
        check(seed, dtype="float64")
