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
from layers import assert_same_bits, recurring_growth

import fastconv1d
from fastconv1d import (
    ELU,
    GELU,
    GLU,
    LSTM,
    AdaptiveAvgPool1d,
    AdaptiveMaxPool1d,
    AvgPool1d,
    BatchNorm1d,
    Concat,
    Conv1d,
    ConvTranspose1d,
    Dropout,
    Flatten,
    Gate,
    GroupNorm,
    Identity,
    InstanceNorm1d,
    LayerNorm,
    LeakyReLU,
    Linear,
    MaxPool1d,
    Mean,
    Mish,
    PReLU,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SiLU,
    Snake,
    Softmax,
    StreamingNetwork,
    Sum,
    Tanh,
    Transpose,
)
from fastconv1d.core.base import Layer
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
    """A network, an input of a length that it takes, and the output of the whole call."""
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
    count, n_chunkings = (5000, 3) if share == 1 else (300, 1)
    for seed in range(part, count, 3):
        check(seed, n_chunkings)


def test_double_precision(share):
    for seed in range(1000, 1000 + int(60 * share)):
        check(seed, dtype="float64")


@pytest.mark.parametrize("dtype", ["complex64", "float32"])
def test_layers_of_the_blas_engine_too(dtype, share, deterministic):
    for seed in range(2000, 2000 + int(60 * share)):
        check(seed, dtype=dtype, algorithm="blas")


@pytest.mark.parametrize("isa_networks", [40])
def test_every_instruction_set(isa, isa_networks):
    for seed in range(3000, 3000 + isa_networks):
        check(seed, 1)


def test_winograd_layers_are_computed_directly(deterministic):
    net = Sequential(
        Conv1d(128, 128, 3, padding=1, algorithm="winograd", rng=np.random.default_rng(0)), ReLU()
    )
    x = array(np.random.default_rng(1), "float32", 1, 128, 300)
    assert_same_bits(streamed(net.stream(), x, [(0, 3), (3, 200), (200, 300)]), net(x))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_chunks_of_16_bits(dtype, share):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    for seed in range(4000, 4000 + int(60 * share)):
        net, x, _ = drawn(seed)
        x = x.astype(dtype)
        whole = net(x)
        stream = net.stream(x.shape[0])
        rng, parts = np.random.default_rng(seed), []
        for a, b in random_chunks(rng, x.shape[2]):
            parts.append(stream(x[:, :, a:b]))
            if rng.random() < 0.2:
                stream = saved_and_loaded(stream, net)
        y = np.concatenate([*parts, stream.flush()], axis=2)
        assert_same_bits(y, whole, f"seed {seed}\n{net}")


def saved_and_loaded(stream, net):
    file = io.BytesIO()
    np.savez(file, **stream.state_dict())
    file.seek(0)
    other = net.stream(stream.n_batch)
    other.load_state_dict(np.load(file))
    return other


def test_a_sequence_has_one_dtype():
    net = Sequential(Conv1d(2, 3, 5, padding=2), ReLU())
    stream, x = net.stream(), np.ones((1, 2, 20), np.float32)
    first = stream(x)
    with pytest.raises(TypeError, match="dtype of those before it, float32, got float16"):
        stream(x.astype(np.float16))
    assert_same_bits(np.concatenate([first, stream.flush()], axis=2), net(x))
    half = x.astype(np.float16)
    assert_same_bits(streamed(stream, half, [(0, 9), (9, 20)]), net(half))
    with pytest.raises(TypeError, match=r"^layer 0, Conv1d: Input type \(float64\) and weight"):
        stream(x.astype(np.float64))
    with pytest.raises(TypeError, match=r"^layer 0, Conv1d: Input type \(int64\)"):
        stream(np.ones((1, 2, 3), np.int64))


def test_depthwise_layers_of_any_chunks():
    """Values lie (N, L, C) beside them, for short chunks and long ones, short kernels and long."""
    rng = np.random.default_rng(5)
    for kernel_size, dilation in ((3, 1), (5, 4), (31, 1), (31, 2)):
        net = Sequential(
            Conv1d(6, 16, 1, rng=rng),
            Residual(
                Conv1d(
                    16, 16, kernel_size, groups=16, padding="causal", dilation=dilation, rng=rng
                ),
                SiLU(),
                Conv1d(16, 16, 1, rng=rng),
            ),
            Conv1d(16, 16, kernel_size, groups=16, padding="same", rng=rng, activation="silu"),
        )
        x = array(rng, "float32", 2, 6, 700)
        whole, stream = net(x), net.stream(2)
        for longest in (1, 2, 9, 40, 120, 700):
            chunks = [(a, min(700, a + longest)) for a in range(0, 700, longest)]
            assert_same_bits(streamed(stream, x, chunks), whole, f"{net}, {longest}")


def test_long_chunks_are_taken_in_pieces():
    rng = np.random.default_rng(6)
    net = Sequential(
        Conv1d(2, 64, 9, stride=2, padding=4, rng=rng),
        Residual(Conv1d(64, 64, 3, padding=8, dilation=8, rng=rng), Tanh()),
        ConvTranspose1d(64, 16, 8, stride=4, padding=2, rng=rng),
        Conv1d(16, 1, 5, padding=2, rng=rng),
    )
    x = array(rng, "float32", 2, 2, 20_000)
    whole, stream = net(x), net.stream(2)
    for chunks in ([(0, 20_000)], [(0, 11), (11, 12_345), (12_345, 12_346), (12_346, 20_000)]):
        assert_same_bits(streamed(stream, x, chunks), whole)
    largest = max(array.nbytes for pool in stream._pools for array in pool.arrays)
    assert largest < 2 << 18


def test_exact_values():
    conv = Conv1d(1, 1, 2, padding=(1, 0), dtype=np.float64)
    conv.load_state_dict({"weight": [[[10.0, 1.0]]], "bias": [1.0]})
    delay = Conv1d(1, 1, 3, padding=(2, 0), bias=False, dtype=np.float64)
    delay.load_state_dict({"weight": [[[1.0, 0.0, 0.0]]]})
    ahead = Conv1d(1, 1, 3, padding=(0, 2), bias=False, dtype=np.float64)
    ahead.load_state_dict({"weight": [[[0.0, 0.0, 1.0]]]})
    x = np.array([[[1.0, -2.0, 3.0, 5.0]]])
    for net, expected in (
        (Sequential(conv), [2, 9, -16, 36]),
        (Sequential(conv, ReLU()), [2, 9, 0, 36]),
        (Residual(conv), [3, 7, -13, 41]),
        (Residual(conv, residual_scale=-2), [0, 13, -22, 26]),
        (Residual(delay), [1, -2, 4, 3]),
        (Residual(ahead), [4, 3, 3, 5]),
        (Residual(delay, shortcut=ahead), [3, 5, 1, -2]),
        (Residual(ahead, shortcut=delay), [3, 5, 1, -2]),
        (Mean(ahead, delay), [1.5, 2.5, 0.5, -1]),
        (Mean(conv, Sequential(), ReLU(), ahead), [1.75, 3, -2.5, 11.5]),
        (Sequential(), [1, -2, 3, 5]),
        (Sequential(ReLU(), Tanh()), np.tanh([1, 0, 3, 5])),
    ):
        for chunks in ([(0, 4)], [(0, 1), (1, 4)], [(i, i + 1) for i in range(4)]):
            y = streamed(net.stream(), x, chunks)
            np.testing.assert_allclose(y[0, 0], expected, rtol=1e-15, atol=0)


def test_outputs_come_as_soon_as_they_are_final():
    x = np.ones((1, 2, 9), np.float32)
    causal = Conv1d(2, 2, 3, padding="causal")
    same = Conv1d(2, 2, 5, padding=2)
    for net, counts, rest, latency in (
        (Sequential(causal, ReLU(), causal), [1] * 9, 0, 0),
        (Sequential(same, same), [0] * 4 + [1] * 5, 4, 4),
        (Residual(same), [0, 0, *[1] * 7], 2, 2),
        (Residual(causal, shortcut=same), [0, 0, *[1] * 7], 2, 2),
        (Mean(causal, Sequential(same, same)), [0] * 4 + [1] * 5, 4, 4),
        (Sequential(Conv1d(2, 2, 4, stride=2, padding=(3, 0)), causal), [1, 0] * 4 + [1], 0, 0),
        (Sequential(Conv1d(2, 2, 3), Conv1d(2, 2, 3)), [0] * 4 + [1] * 5, 0, 4),
        (Sequential(ConvTranspose1d(2, 2, 4, stride=2, padding=1)), [1, *[2] * 8], 1, 1),
        (
            Sequential(
                Conv1d(2, 2, 2, stride=2), ConvTranspose1d(2, 2, 2, stride=2, padding="causal")
            ),
            [0, 2] * 4 + [0], 0, 1,
        ),
        (
            Sequential(Conv1d(2, 2, 3, padding=(2, 0), padding_mode="reflect"), causal),
            [0, 0, 3, *[1] * 6], 0, 2,
        ),
    ):  # fmt: skip
        stream = net.stream()
        assert stream.latency == latency, net
        assert [stream(x[:, :, i : i + 1]).shape[2] for i in range(9)] == counts, net
        assert stream.flush().shape[2] == rest, net


def test_latency_of_layers():
    for layer, latency in (
        (Conv1d(1, 1, 3, padding="causal"), 0),
        (Conv1d(1, 1, 7, padding=3), 3),
        (Conv1d(1, 1, 3), 2),
        (Conv1d(1, 1, 8, stride=4), 7),
        (Conv1d(1, 1, 8, stride=4, padding=(7, 0)), 0),
        (Conv1d(1, 1, 3, padding=(2, 0), padding_mode="reflect"), 2),
        (ConvTranspose1d(1, 1, 8, stride=4), 0),
        (ConvTranspose1d(1, 1, 8, stride=4, padding=2), 1),
        (ConvTranspose1d(1, 1, 2, stride=5), 1),
        (ConvTranspose1d(1, 1, 4, stride=2, padding=(0, 7)), 3),
        (Conv1d(1, 1, 3, dilation=1000), 2000),
    ):
        stream = layer.stream()
        assert stream.latency == latency, layer
        assert Sequential(layer).stream().latency == latency, layer
        assert stream.output_length(latency + 1) >= 1, layer


def test_out_and_output_length(share):
    for seed in range(5000, 5000 + int(60 * share)):
        net, x, whole = drawn(seed)
        stream, at = net.stream(x.shape[0]), 0
        y = np.empty(whole.shape, whole.dtype)
        for a, b in random_chunks(np.random.default_rng(seed), x.shape[2]):
            end = at + stream.output_length(b - a)
            target = y[:, :, at:end]
            assert stream(x[:, :, a:b], out=target) is target
            at = end
        rest = y[:, :, at:]
        assert stream.flush(out=rest) is rest
        assert_same_bits(y, whole, f"seed {seed}\n{net}")


def test_unbatched_chunks_have_unbatched_outputs():
    net, x, whole = drawn(3, n_batch=1)
    stream = net.stream()
    parts = [stream(x[0, :, a : a + 7]) for a in range(0, x.shape[2], 7)]
    assert_same_bits(np.concatenate([*parts, stream.flush()[0]], axis=1), whole[0])


def test_chunks_of_any_memory():
    net, x, whole = drawn(8)
    padded = np.repeat(x, 2, axis=2)[:, :, ::2]
    backwards = np.ascontiguousarray(x[:, :, ::-1])[:, :, ::-1]
    swapped = np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2)
    foreign = x.astype(x.dtype.newbyteorder())
    for same in (padded, backwards, swapped, foreign, np.asfortranarray(x)):
        cuts = [(0, 5), (5, 90), (90, x.shape[2])]
        assert_same_bits(streamed(net.stream(x.shape[0]), same, cuts), whole)


def test_a_saved_state_goes_on(share):
    for seed in range(6000, 6000 + int(120 * share)):
        net, x, whole = drawn(seed)
        rng, parts = np.random.default_rng(seed), []
        stream = net.stream(x.shape[0])
        for a, b in random_chunks(rng, x.shape[2]):
            parts.append(stream(x[:, :, a:b]))
            how = rng.integers(6)
            if how == 0:
                stream = saved_and_loaded(stream, net)
            elif how == 1:
                state = stream.state_dict()
                stream(x[:, :, : int(rng.integers(10))])
                stream.load_state_dict(state)
            elif how == 2:
                stream = pickle.loads(pickle.dumps(stream))
            elif how == 3:
                stream, old = copy.deepcopy(stream), stream
                old(x[:, :, :3])
        y = np.concatenate([*parts, stream.flush()], axis=2)
        assert_same_bits(y, whole, f"seed {seed}\n{net}")


def test_a_state_is_a_copy():
    net = Sequential(Conv1d(1, 1, 4), Residual(Conv1d(1, 1, 3, padding=1)))
    stream = net.stream()
    x = np.arange(10, dtype=np.float32)[None, None]
    stream(x[:, :, :7])
    state = stream.state_dict()
    kept = {name: value.copy() for name, value in state.items()}
    stream(x)
    assert all((state[name] == kept[name]).all() for name in kept)
    assert list(state) == ["layer", "position", "dtype", "history.0", "history.1"]
    assert state["position"] == 7
    assert state["history.0"].tolist() == [[[4, 5, 6]]]
    assert state["history.1"].shape == (1, 1, 2)  # the newest two wait for their right neighbour


def test_states_of_other_networks_are_refused():
    rng = np.random.default_rng(9)
    net = Sequential(Conv1d(2, 3, 4, padding="causal", rng=rng), Snake(np.ones(3)))
    stream, x = net.stream(), array(rng, "float32", 1, 2, 40)
    first = stream(x[:, :, :15])
    other = copy.deepcopy(net)
    other[0].weight = net[0].weight + 1
    alpha = copy.deepcopy(net)
    alpha[1].alpha = 2 * np.ones(3)
    good = stream.state_dict()
    bad = [
        (other.stream().state_dict(), "should be that of the layer Sequential"),
        (alpha.stream().state_dict(), "should be that of the layer Sequential"),
        (Sequential(net[0]).stream().state_dict(), "got that of 'Sequential"),
        ({**good, "history.0": good["history.0"][:, :, 1:]}, r"the shape \[1, 2, 3\].* got"),
        ({**good, "history.0": good["history.0"].astype(np.float64)}, "dtype float32, got"),
        ({**good, "history.0": good["history.0"][:, :1]}, "chunks that the network takes"),
        ({**good, "dtype": np.array("int32")}, "chunks that the network takes"),
        ({**good, "dtype": np.array("nonsense")}, "chunks that the network takes"),
        ({**good, "dtype": np.array(3)}, "chunks that the network takes"),
        ({**good, "position": np.array(-1)}, "non-negative integer, got"),
        ({**good, "position": np.array(1.0)}, "non-negative integer, got"),
        ({**good, "position": np.array(0)}, "should have the histories"),
        ({**good, "position": np.array(1)}, r"the shape \[1, 2, 1\]"),
        ({**good, "extra": 1}, "should have the histories"),
        ({"layer": good["layer"]}, "should have the keys"),
        ({}, "should have the keys"),
    ]
    for state, words in bad:
        with pytest.raises(ValueError, match=words):
            stream.load_state_dict(state)
    two = net.stream(2)
    with pytest.raises(ValueError, match=r"the shape \[2, 2, 3\].* got \[1, 2, 3\]"):
        two.load_state_dict(good)
    with pytest.raises(TypeError, match="dict-like, got <class 'int'>"):
        stream.load_state_dict(3)
    y = np.concatenate([first, stream(x[:, :, 15:]), stream.flush()], axis=2)
    assert_same_bits(y, net(x))


def causal_networks():
    rng = np.random.default_rng(10)
    down = Conv1d(4, 6, 4, stride=3, padding=(3 - 2 + 1, 0), rng=rng)
    return [
        Sequential(
            Conv1d(4, 4, 3, padding="causal", dilation=2, rng=rng),
            Residual(ReLU(), Conv1d(4, 4, 4, padding="causal", groups=4, rng=rng), Tanh()),
            Mean(Conv1d(4, 4, 2, padding="causal", rng=rng), Sequential()),
        ),
        Sequential(down, ELU(), ConvTranspose1d(6, 2, 7, stride=3, padding="causal", rng=rng)),
        Sequential(ConvTranspose1d(4, 6, 5, stride=5, rng=rng), Residual(SiLU())),
        Sequential(Conv1d(4, 4, 3, padding="causal", pre_activation="tanh", rng=rng)),
    ]


def test_resets_of_some_items():
    rng = np.random.default_rng(11)
    for net in causal_networks():
        for step in (1, 3):
            x = array(rng, "float32", 3, 4, 36)
            stream = net.stream(3)
            before = [stream(x[:, :, i : i + step]) for i in range(0, 12, step)]
            stream.reset([1])
            after = [stream(x[:, :, i : i + step]) for i in range(12, 36, step)]
            after.append(stream.flush())
            y, others = np.concatenate(before + after, axis=2), [0, 2]
            assert_same_bits(y[others], net(x)[others], repr(net))
            again = np.concatenate(after, axis=2)
            assert_same_bits(again[1:2], net(x[1:2, :, 12:]), repr(net))


def test_resets_of_all_items_and_of_none():
    for seed in range(7000, 7020):
        net, x, whole = drawn(seed, n_batch=2)
        for items in (None, [0, 1], range(2), np.array([1, 0])):
            stream = net.stream(2)
            stream(x[:, :, :7])
            stream.reset(items)
            parts = [stream(x[:, :, i : i + 9]) for i in range(0, x.shape[2], 9)]
            stream.reset([])
            assert_same_bits(np.concatenate([*parts, stream.flush()], axis=2), whole)


def test_resets_that_would_break_step_are_refused():
    causal = Conv1d(1, 1, 3, padding="causal")
    x = np.ones((2, 1, 4), np.float32)
    for inside in (
        Conv1d(1, 1, 3, padding=1),
        Conv1d(1, 1, 3, stride=3, padding=(2, 0)),
        Conv1d(1, 1, 3, padding=(2, 0), padding_mode="replicate"),
        Conv1d(1, 1, 3, padding="causal", pre_activation="sigmoid"),
        ConvTranspose1d(1, 1, 3, padding="causal", pre_activation="sigmoid"),
        ConvTranspose1d(1, 1, 4, stride=2, padding=1),
    ):
        net = Sequential(causal, inside, causal)
        stream = net.stream(2)
        stream.reset([0])  # nothing has begun
        y = stream(x)
        kind = type(inside).__name__
        with pytest.raises(ValueError, match=rf"stay in step .* position 4 of layer 1, {kind}$"):
            stream.reset(0)
        parts = [y, stream(x), stream.flush()]
        assert_same_bits(np.concatenate(parts, axis=2), net(np.concatenate([x, x], axis=2)))
    for items, error in (([2], ValueError), (-1, ValueError), (1.5, TypeError), ("x", TypeError)):
        with pytest.raises(error, match="items should be"):
            stream.reset(items)


class Own(Sequential):
    def forward(self, input, *, out=None):
        return super().forward(input) + 1


class Whole(Tanh):
    """An activation that does not say how it streams."""

    _flow = Layer._flow


def test_what_cannot_stream_is_refused():
    circular = Conv1d(3, 3, 3, padding=1, padding_mode="circular")
    upper = Conv1d(3, 3, 3, stride=2, padding="same_upper")
    cropped = ConvTranspose1d(3, 3, 3, padding=1, padding_mode="reflect")
    conv = Conv1d(2, 3, 3)
    for net, error, words in (
        (Sequential(conv, circular), ValueError, r"^layer 1, Conv1d: a stream cannot wrap around"),
        (Residual(Sequential(circular)), ValueError, r"^layer 0.0, Conv1d: .*wrap around"),
        (Sequential(conv, upper), ValueError, r"^layer 1, Conv1d: .*got padding='same_upper'"),
        (Sequential(cropped), ValueError, r"^layer 0, ConvTranspose1d: .*padding_mode='reflect'"),
        (Sequential(conv, conv), ValueError, r"^layer 1, Conv1d: .*to have 2 channels"),
        (Sequential(conv, Residual(conv)), ValueError, r"^layer 1.0, Conv1d: "),
        (Residual(Conv1d(3, 3, 3)), ValueError, "^Residual: what is added should have one size"),
        (Mean(Conv1d(3, 3, 3), ReLU()), ValueError, "^Mean: what is added should have one size"),
        (Sequential(Conv1d(3, 3, 1, layout="NLC")), ValueError, "layout should be 'NCL' inside"),
        (Sequential(conv, Own(conv)), TypeError, "Own with a forward of its own"),
        (Own(conv), TypeError, "Own with a forward of its own"),
        (Sequential(Whole(), Whole()), ValueError, "^layer 0, Whole: .*on the whole sequence"),
    ):
        with pytest.raises(error, match=words):
            net.stream()
    for n_batch, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="n_batch"):
            Sequential(conv).stream(n_batch)
    for module in (conv, 3, [conv], "x", Sequential):
        with pytest.raises(TypeError, match="module should be a Sequential, Residual or Mean, got"):
            StreamingNetwork(module)


def test_lengths_that_the_network_does_not_take():
    rng = np.random.default_rng(12)
    even = Residual(Conv1d(2, 2, 2, stride=2, rng=rng), ConvTranspose1d(2, 2, 2, stride=2, rng=rng))
    stream, x = even.stream(), array(rng, "float32", 1, 2, 12)
    parts = [stream(x[:, :, :9])]
    with pytest.raises(ValueError, match=r"^Residual: .* one length, got 8 and 9"):
        stream.flush()
    parts += [stream(x[:, :, 9:]), stream.flush()]
    assert_same_bits(np.concatenate(parts, axis=2), even(x))

    reflect = Conv1d(2, 2, 3, padding=(2, 4), padding_mode="reflect", rng=rng)
    net = Sequential(Conv1d(2, 2, 1, rng=rng), reflect)
    stream = net.stream()
    parts = [stream(x[:, :, :4])]
    with pytest.raises(ValueError, match=r"^layer 1, Conv1d: Padding size should be less than"):
        stream.flush()
    parts += [stream(x[:, :, 4:]), stream.flush()]
    assert_same_bits(np.concatenate(parts, axis=2), net(x))

    stream = Sequential(Conv1d(2, 2, 5, rng=rng), ReLU()).stream()
    assert stream(x[:, :, :3]).shape == (1, 2, 0)
    assert stream.flush().shape == (1, 2, 0)
    assert stream.flush().shape == (1, 2, 0)


def test_refused_chunks_leave_the_stream_as_it_was():
    net, x, whole = drawn(21, n_batch=2)
    channels, length = x.shape[1:]
    stream, parts = net.stream(2), []
    for i in range(0, length, 30):
        for bad, error, words in (
            (np.ones((2, channels + 1, 30), np.float32), ValueError, "channels"),
            (x[:1], ValueError, rf"got \[1, {channels}, {length}\]"),
            (x[0], ValueError, rf"got \[{channels}, {length}\]"),
            (x[0, 0], ValueError, rf"got \[{length}\]"),
            (x.astype(np.float64), TypeError, "float64"),
        ):
            with pytest.raises(error, match=words):
                stream(bad)
        with pytest.raises(ValueError, match="out should have the shape"):
            stream(x[:, :, :3], out=np.empty((2, whole.shape[1], 9999), np.float32))
        with pytest.raises(ValueError, match="out should have the shape"):
            stream.flush(out=np.empty((2, whole.shape[1], 9999), np.float32))
        parts.append(stream(x[:, :, i : i + 30]))
    parts.append(stream.flush())
    assert_same_bits(np.concatenate(parts, axis=2), whole)


def test_out_that_shares_memory_is_refused():
    stream = Sequential(Tanh()).stream()
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(1, 2, 6)
    with pytest.raises(ValueError, match="share no memory with an input"):
        stream(x, out=x)
    np.testing.assert_array_equal(stream(x), Tanh()(x))


def test_a_stream_keeps_what_the_network_was():
    rng = np.random.default_rng(12)
    conv, leaky = Conv1d(2, 3, 4, padding="causal", rng=rng), LeakyReLU(0.1)
    block = Residual(Conv1d(3, 3, 1, rng=rng), residual_scale=0.5)
    net = Sequential(conv, leaky, block)
    x = array(rng, "float32", 1, 2, 20)
    whole, stream = net(x), net.stream()
    first = stream(x[:, :, :9])
    conv.weight, conv.dilation, leaky.negative_slope = conv.weight * 2, 3, 0.7
    block.residual_scale = 3.0
    assert_same_bits(np.concatenate([first, stream(x[:, :, 9:])], axis=2), whole)
    assert_same_bits(stream.module(x), whole)
    assert not (net(x) == whole).all()
    net.train()
    whole, stream = net(x), net.stream()
    conv.weight[:] = 0
    assert_same_bits(stream(x), whole)
    assert net.training
    assert not stream.module.training


def test_one_pack_for_a_layer_its_networks_and_their_streams(monkeypatch):
    from fastconv1d.core import convolution

    made, prepare = [], convolution._prepare
    monkeypatch.setattr(convolution, "_prepare", lambda *args: made.append(1) or prepare(*args))
    shared = Conv1d(4, 4, 3, padding="causal")
    net = Sequential(shared, ReLU(), Residual(shared), shared, Tanh())
    x = np.ones((1, 4, 9), np.float32)
    whole = net(x)
    streams = [net.stream(), net.stream(), Residual(shared).stream(), shared.stream()]
    assert_same_bits(streams[0](x), whole)
    assert_same_bits(streams[1](x), whole)
    assert len(made) == 1


def test_threads_do_not_change_bits():
    rng = np.random.default_rng(15)
    net = Sequential(
        Conv1d(64, 64, 7, padding="same", rng=rng), Residual(ReLU(), Conv1d(64, 64, 1, rng=rng))
    )
    x = array(rng, "float32", 2, 64, 3000)
    with fastconv1d.num_threads(1):
        whole = net(x)
    for threads in (1, 2):
        with fastconv1d.num_threads(threads):
            assert_same_bits(streamed(net.stream(2), x, [(0, 1400), (1400, 3000)]), whole)


def test_any_operation_of_windows_can_stream():
    """A flow with nothing but a whole call: an average of 3 with zeros, in steps of 2."""

    def apply(x):
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1)))
        return (padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:])[:, :, ::2]

    x = np.arange(40.0).reshape(2, 1, 20)
    whole, flow = apply(x), Windows(3, 2, 1, 1, apply)
    parts, first = [], 0
    for n in (1, 2, 3, 9, 20, 20):
        last = flow.total([20]) if n == 20 and flow.final([20]) == first else flow.final([n])
        origin = flow.first_read(0, first, [n])
        out = np.empty((2, 1, last - first))
        flow.compute([x[:, :, origin:n]], [origin], first, out)
        parts.append(out)
        first = last
    np.testing.assert_array_equal(np.concatenate(parts, axis=2), whole)
    assert not flow.restarts(1, [2])


def test_a_last_window_that_is_not_full():
    """The largest of 4 in steps of 3, and of what is left over: a call needs 4 positions."""

    def apply(x):
        assert x.shape[2] >= 4
        begins = range(0, x.shape[2] - 1, 3)
        return np.stack([x[:, :, i : i + 4].max(axis=2) for i in begins], axis=2)

    x = np.arange(24.0).reshape(2, 1, 12)[:, :, ::-1]
    flow, out = Windows(4, 3, 0, 0, apply), np.empty((2, 1, 1))
    assert flow.final([12]) == 3
    flow.compute([x[:, :, 9:]], [9], 3, out)
    np.testing.assert_array_equal(out, apply(x)[:, :, 3:])


NETWORKS = [
    Sequential(
        Conv1d(16, 24, 5, padding=2, dilation=3),
        Residual(LeakyReLU(), Conv1d(24, 24, 3, padding=1), Tanh(), Conv1d(24, 24, 1)),
    ),
    Sequential(*(Conv1d(32, 32, 4, padding="causal", groups=32, activation="relu"),) * 3),
    Sequential(
        Conv1d(8, 8, 3, padding=2, padding_mode="replicate", stride=2),
        Mean(Conv1d(8, 8, 3, padding=1), Sequential()),
        ConvTranspose1d(8, 4, 8, stride=4, padding=2),
    ),
]


@pytest.mark.parametrize("net", NETWORKS, ids=len)
@pytest.mark.parametrize("length", [1, 10, 500])
def test_chunks_allocate_nothing_that_stays(net, length):
    stream = net.stream(2)
    x = np.ones((2, net[0].in_channels, length), np.float32)
    n_outputs, channels = 0, net[-1].out_channels if net is not NETWORKS[0] else 24
    for _ in range(300 // length + 9):
        n_outputs = max(n_outputs, stream(x).shape[2])
    result = 4 * 2 * channels * n_outputs
    gc.collect()
    tracemalloc.start()
    for _ in range(50):  # what CPython keeps of small lists and tuples is there by then
        stream(x)
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    for _ in range(50):
        stream(x)
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 1024
    # One chunk's result at a time (two while the next is made), an addition's operands, and views.
    largest = max(array.nbytes for pool in stream._pools for array in pool.arrays)
    assert peak - before < 2 * result + 4 * largest + 8192


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_memory_stays_flat(share):
    rng = np.random.default_rng(17)
    streams = [net.stream() for net in NETWORKS]
    inputs = [array(rng, "float32", 1, net[0].in_channels, 400) for net in NETWORKS]
    lengths = rng.integers(0, 12, 4096).tolist()
    count, warm = (200_000, 20_000) if share == 1 else (20_000, 5_000)

    def run(chunks):
        for i in range(chunks):
            n = 400 if i % 1000 == 0 else lengths[i % 4096]
            streams[i % 3](inputs[i % 3][:, :, :n])
            if i % 5000 == 4999:
                for stream in streams:
                    stream.reset()

    run(warm)
    assert recurring_growth(lambda: run(count)) < 1024


def layers_between():
    rng = np.random.default_rng(30)

    def conv(*args, **options):
        return Conv1d(*args, rng=rng, **options)

    return {
        "batch norm": Sequential(conv(3, 4, 3, padding=1), BatchNorm1d(4), ReLU(), conv(4, 2, 1)),
        "largest": Sequential(
            conv(3, 4, 3, padding=1), MaxPool1d(3, 2, padding=1), conv(4, 2, 3, padding="causal")
        ),
        "last windows": Sequential(
            MaxPool1d(3, 2, ceil_mode=True), AvgPool1d(5, 3, padding=2, ceil_mode=True)
        ),
        "means": Sequential(AvgPool1d(4, 1, padding=2, count_include_pad=False), conv(3, 2, 2)),
        "long means": Sequential(AvgPool1d(40, 20, padding=3), conv(3, 2, 2)),
        "dilated": Sequential(MaxPool1d(3, 1, dilation=4, padding=2)),
        "halves": Sequential(conv(3, 8, 3, padding=2, dilation=2), Gate()),
        "gate": Gate(conv(3, 4, 3, padding="causal"), conv(3, 4, 5, padding=2)),
        "channels": Sequential(conv(3, 8, 3, padding=1), GLU(1), Softmax(1)),
        "concat": Sequential(
            Concat(conv(3, 4, 3, padding="causal"), conv(3, 2, 7, padding=3), Identity()),
            conv(9, 2, 1),
        ),
        "sum": Sequential(
            Sum(conv(3, 4, 3, padding="causal"), conv(3, 4, 7, padding=3)), PReLU(), Mish()
        ),
        "layer norm": Sequential(
            conv(3, 4, 3, padding=1), Transpose(1, 2), LayerNorm(4), Transpose(1, 2),
            conv(4, 2, 3, padding=1), Dropout(0.5),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", layers_between())
def test_layers_between_convolutions(name):
    net = layers_between()[name]
    for length in (97, 100):
        x = array(np.random.default_rng(31), "float32", 2, 3, length)
        whole, stream = net(x), net.stream(2)
        for longest in (1, 3, 20, 100):
            chunks = [(a, min(length, a + longest)) for a in range(0, length, longest)]
            assert_same_bits(streamed(stream, x, chunks), whole, f"{net} {longest}")


def test_layers_that_need_the_whole_sequence():
    conv = Conv1d(3, 4, 3)
    for layer in (
        AdaptiveAvgPool1d(1), AdaptiveMaxPool1d(3), GroupNorm(2, 4), InstanceNorm1d(4), Flatten(),
        Softmax(2), LSTM(4, 4), Transpose(1, 2),
    ):  # fmt: skip
        kind = type(layer).__name__
        with pytest.raises(ValueError, match=rf"^layer 1, {kind}: .* depend on the whole sequence"):
            Sequential(conv, layer).stream()
    with pytest.raises(ValueError, match=r"^layer 0, Linear: .* a Conv1d with kernel_size=1"):
        Sequential(Linear(4, 4)).stream()
