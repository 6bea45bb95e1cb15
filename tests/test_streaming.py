"""Streams: the outputs of any chunks are the whole call's, bit for bit; state, resets, refusals."""

import copy
import dataclasses
import gc
import io
import itertools
import os
import pickle
import tracemalloc

import numpy as np
import pytest
from layers import Layer, assert_same_bits, random_layers, recurring_growth

import fastconv1d
from fastconv1d import Conv1d, ConvTranspose1d, StreamingConv1d, StreamingConvTranspose1d

OPS = ("conv1d", "conv_transpose1d")


def module_of(layer, seed=0, algorithm="auto"):
    _, w, b, _ = layer.normal_arrays(seed)
    kind = Conv1d if layer.op == "conv1d" else ConvTranspose1d
    params = {"padding_mode": "zeros", **layer.params}
    made = kind(
        layer.c_in,
        layer.c_out,
        layer.kernel_size,
        bias=layer.bias,
        dtype=layer.dtype,
        algorithm=algorithm,
        **params,
    )
    made.load_state_dict({"weight": w} | ({"bias": b} if layer.bias else {}))
    return made


def can_stream(layer):
    if layer.op == "conv_transpose1d":
        return layer.l_out >= 1
    widest = max(layer.pads) + (layer.padding_mode == "reflect")
    fits = layer.padding_mode == "zeros" or widest <= layer.l_in
    return layer.padding_mode != "circular" and fits and layer.l_out >= 1


def streamable_layers(count, seed, **fixed):
    """Random layers, every one with a padding that a stream can have."""
    rng = np.random.default_rng(seed)
    found = []
    for drawn in random_layers(2 * count, seed, **fixed):
        layer = drawn
        if layer.op == "conv1d":
            padding = "causal" if rng.random() < 0.5 else layer.padding
            mode = ("zeros", "zeros", "replicate", "reflect")[rng.integers(4)]
            layer = dataclasses.replace(drawn, padding=padding, padding_mode=mode)
        elif rng.random() < 0.3:
            layer = dataclasses.replace(drawn, padding=("causal", "same_upper")[rng.integers(2)])
        if can_stream(layer):
            found.append(layer)
    assert len(found) >= count
    return found[:count]


def random_chunks(rng, length):
    """Cut points of a length, chunks of 0, 1 and more."""
    longest = int(rng.choice((1, 2, 5, 20, 100, 400)))
    cuts = [0]
    while cuts[-1] < length:
        cuts.append(min(length, cuts[-1] + int(rng.integers(0, longest + 1))))
    return list(itertools.pairwise(cuts))


def streamed(stream, x, chunks):
    return np.concatenate([*(stream(x[:, :, a:b]) for a, b in chunks), stream.flush()], axis=2)


def check_layer(layer, seed, n_chunkings, algorithm="auto"):
    x, *_ = layer.normal_arrays(seed)
    module = module_of(layer, seed, algorithm)
    whole, rng = module(x), np.random.default_rng(seed)
    stream = module.stream(layer.n_batch)
    for _ in range(n_chunkings):
        chunks = random_chunks(rng, layer.l_in)
        y = streamed(stream, x, chunks)
        assert_same_bits(y, whole, f"{layer}, chunks {chunks}")


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_any_chunks_give_the_bits_of_the_whole(op, dtype, share):
    for seed, layer in enumerate(streamable_layers(50, 1, op=op, dtype=dtype)):
        check_layer(layer, seed, int(50 * share))


@pytest.mark.parametrize("op", OPS)
def test_layers_of_the_blas_engine_too(op, share, deterministic):
    for seed, layer in enumerate(streamable_layers(50, 2, op=op)):
        check_layer(layer, seed, max(1, int(20 * share)), "blas")


@pytest.mark.parametrize("isa_layers", [40])
def test_every_instruction_set(isa, isa_layers):
    for op in OPS:
        for seed, layer in enumerate(streamable_layers(isa_layers, 3, op=op, dtype="float32")):
            check_layer(layer, seed, 3)


LONG = (
    Layer(n_batch=2, c_in=16, c_out=24, l_in=3000, kernel_size=3, dilation=128, padding="causal"),
    Layer(n_batch=1, c_in=40, c_out=30, l_in=2500, kernel_size=9, stride=4, padding=(3, 9)),
    Layer(n_batch=3, c_in=32, c_out=32, l_in=900, kernel_size=300, groups=32, padding="same"),
    Layer(n_batch=1, c_in=4, c_out=4, l_in=2000, kernel_size=2, stride=7),
    Layer(n_batch=1, c_in=4, c_out=4, l_in=2000, kernel_size=3, padding=1000),
    Layer("conv_transpose1d", n_batch=1, c_in=64, c_out=31, l_in=700, kernel_size=16, stride=8),
    Layer("conv_transpose1d", c_in=9, c_out=7, l_in=900, kernel_size=5, dilation=40, stride=3),
    Layer("conv_transpose1d", c_in=9, c_out=7, l_in=900, kernel_size=4, stride=2, padding=(9, 301)),
    Layer("conv_transpose1d", c_in=9, c_out=7, l_in=300, kernel_size=2, stride=5, output_padding=3),
)  # fmt: skip


@pytest.mark.parametrize("layer", LONG)
def test_long_sequences(layer):
    check_layer(layer, 5, 12)


def depthwise(n_batch=1, channels=37, kernel_size=4, **params):
    return Layer(
        n_batch=n_batch, c_in=channels, c_out=channels, groups=channels, l_in=60,
        kernel_size=kernel_size, **{"padding": "causal", **params},
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate"])
def test_depthwise_chunks_of_every_mode(mode):
    rng = np.random.default_rng(20)
    for padding in ((0, 9), (3, 3), (6, 0), (20, 30), 0):
        layer = depthwise(2, 13, 4, padding=padding, padding_mode=mode)
        x, *_ = layer.normal_arrays()
        module = module_of(layer)
        whole, stream = module(x), module.stream(2)
        for longest in (1, 2, 5, 17, 40):
            cuts = [0]
            while cuts[-1] < 60:
                cuts.append(min(60, cuts[-1] + int(rng.integers(0, longest + 1))))
            assert_same_bits(streamed(stream, x, itertools.pairwise(cuts)), whole, f"{layer}")


@pytest.mark.parametrize("isa_dtype", ["float32", "float64", "complex64"])
def test_depthwise_steps_give_the_bits_of_the_whole(isa, isa_dtype):
    rng = np.random.default_rng(6)
    for n_batch, sizes in ((1, (1, 8, 37)), (3, (3, 64))):
        for channels in sizes:
            # A history moves every 64 steps, or as many as it holds.
            for kernel_size, dilation, l_in in (
                *((1, 1, 150), (4, 1, 150), (3, 5, 150)),
                *((129, 1, 400), (300, 1, 400)),
            ):
                layer = depthwise(n_batch, channels, kernel_size, dilation=dilation)
                layer = dataclasses.replace(
                    layer, dtype=isa_dtype, bias=bool(rng.integers(2)), l_in=l_in
                )
                x, *_ = layer.normal_arrays(channels)
                module = module_of(layer)
                whole, stream = module(x), module.stream(n_batch)
                steps = [(i, i + 1) for i in range(l_in)]
                assert_same_bits(streamed(stream, x, steps), whole, f"{layer}")
                mixed = [(0, 3), *steps[3:20], (20, 50), *steps[50:52], (52, 52), *steps[52:]]
                assert_same_bits(streamed(stream, x, mixed), whole, f"{layer}")
                strided = np.repeat(x, 2, axis=2)[:, :, ::2]
                assert_same_bits(streamed(stream, strided, steps), whole, f"{layer}")


def test_steps_of_one_item_may_be_unbatched():
    layer = depthwise()
    x, *_ = layer.normal_arrays()
    module = module_of(layer)
    stream = module.stream()
    y = np.concatenate([stream(x[0, :, i : i + 1]) for i in range(60)], axis=1)
    assert_same_bits(y, module(x[0]))


def test_unbatched_chunks_have_unbatched_outputs():
    module = Conv1d(2, 3, 5, stride=2, padding=2, rng=np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((2, 50)).astype(np.float32)
    stream = module.stream()
    parts = [stream(x[:, a : a + 7]) for a in range(0, 50, 7)]
    assert_same_bits(np.concatenate([*parts, stream.flush()[0]], axis=1), module(x))
    with pytest.raises(ValueError, match=r"should have the size \[2, 2, any\].* got \[2, 7\]"):
        module.stream(2)(x[:, :7])


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("algorithm", ["auto", "blas"])
@pytest.mark.parametrize("layout", ["NCL", "NLC"])
def test_activations_and_layouts_stream_too(op, algorithm, layout, deterministic):
    rng = np.random.default_rng(22)
    fused = [
        {"activation": "silu"},
        {"pre_activation": ("leaky_relu", 0.1)},
        {"activation": "tanh", "pre_activation": "elu"},
        {"activation": "sigmoid"},
        {"pre_activation": "relu", "activation": "gelu"},
    ]
    alphas = {"activation": ("snake", np.linspace(0.5, 2.0, 13))}
    layers = streamable_layers(25, 23, op=op, dtype="float32")
    layers += [depthwise(2, 13), depthwise(1, 8, padding=(2, 5))] if op == "conv1d" else []
    for seed, layer in enumerate(layers):
        x, w, b, _ = layer.normal_arrays(seed)
        kind = Conv1d if op == "conv1d" else ConvTranspose1d
        options = alphas if layer.c_out == 13 else fused[seed % len(fused)]
        options = {**options, "algorithm": algorithm, "layout": layout}
        module = kind(
            layer.c_in, layer.c_out, layer.kernel_size, bias=layer.bias,
            **{"padding_mode": "zeros", **layer.params}, **options,
        )  # fmt: skip
        module.load_state_dict({"weight": w} | ({"bias": b} if layer.bias else {}))
        x = np.ascontiguousarray(x.swapaxes(1, 2)) if layout == "NLC" else x
        axis = 1 if layout == "NLC" else 2
        stream, whole = module.stream(layer.n_batch), module(x)
        for _ in range(3):
            parts = []
            for a, b in random_chunks(rng, layer.l_in):
                chunk = x[:, a:b] if layout == "NLC" else x[:, :, a:b]
                parts.append(stream(chunk))
            y = np.concatenate([*parts, stream.flush()], axis=axis)
            assert_same_bits(y, whole, f"{layer} {options}")
        if layout == "NLC":
            wrong = np.ones((layer.n_batch, 4, layer.c_in + 1), np.float32)
            with pytest.raises(ValueError, match=rf"size \[{layer.n_batch}, any, {layer.c_in}\]"):
                stream(wrong)


def test_padding_is_zeros_after_the_pre_activation():
    x = np.random.default_rng(24).standard_normal((1, 2, 20)).astype(np.float32)
    for kind, padding in ((Conv1d, 0), (Conv1d, 1), (Conv1d, "causal"), (ConvTranspose1d, 1)):
        module = kind(2, 3, 3, padding=padding, pre_activation="sigmoid")
        assert_same_bits(streamed(module.stream(), x, [(0, 5), (5, 20)]), module(x))
        assert_same_bits(streamed(module.stream(), x, [(i, i + 1) for i in range(20)]), module(x))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("op", OPS)
def test_chunks_of_16_bits(op, dtype, deterministic):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    layers = streamable_layers(30, 27, op=op, dtype="float32")
    layers += [depthwise(2, 13), depthwise(1, 8, padding=(2, 5))] if op == "conv1d" else []
    for seed, layer in enumerate(layers):
        x = layer.normal_arrays(seed)[0].astype(dtype)
        for algorithm in ("auto", "blas"):
            module, rng = module_of(layer, seed, algorithm), np.random.default_rng(seed)
            whole = module(x)
            stream, parts = module.stream(layer.n_batch), []
            for a, b in random_chunks(rng, layer.l_in):
                parts.append(stream(x[:, :, a:b]))
                if rng.random() < 0.3:
                    file = io.BytesIO()
                    np.savez(file, **stream.state_dict())
                    file.seek(0)
                    stream = module.stream(layer.n_batch)
                    stream.load_state_dict(np.load(file))
            y = np.concatenate([*parts, stream.flush()], axis=2)
            assert_same_bits(y, whole, f"{layer} {algorithm}")


def test_a_sequence_has_one_dtype():
    module = Conv1d(4, 4, 3, padding="causal", groups=4)
    stream, x = module.stream(), np.ones((1, 4, 9), np.float32)
    half = x.astype(np.float16)
    assert_same_bits(stream(x), module(x))
    with pytest.raises(TypeError, match="dtype of those before it, float32, got float16"):
        stream(half)
    assert_same_bits(stream(x), module(np.concatenate([x, x], axis=2))[:, :, 9:])
    assert stream.flush().dtype == np.float32
    assert_same_bits(stream(half), module(half))
    assert list(stream.state_dict()) == ["layer", "position", "history", "dtype"]
    with pytest.raises(TypeError, match="dtype of those before it, float16, got float32"):
        stream(x)
    for bad in ("float64", "int8", "nonsense"):
        with pytest.raises(ValueError, match="the dtype should be one that a layer of float32"):
            stream.load_state_dict({**stream.state_dict(), "dtype": np.array(bad)})
    assert stream.flush().dtype == np.float16
    wide = Conv1d(2, 2, 3, dtype="float64").stream()
    with pytest.raises(TypeError, match=r"Input type \(float16\) and weight type \(float64\)"):
        wide(np.ones((1, 2, 3), np.float16))


@pytest.mark.parametrize("op", OPS)
def test_out_and_output_length(op):
    for seed, layer in enumerate(streamable_layers(20, 7, op=op, dtype="float32")):
        x, *_ = layer.normal_arrays(seed)
        module = module_of(layer, seed)
        whole, stream, at = module(x), module.stream(layer.n_batch), 0
        y = np.empty(whole.shape, whole.dtype)
        for a, b in random_chunks(np.random.default_rng(seed), layer.l_in):
            end = at + stream.output_length(b - a)
            target = y[:, :, at:end]
            assert stream(x[:, :, a:b], out=target) is target
            at = end
        rest = y[:, :, at:]
        assert stream.flush(out=rest) is rest
        assert_same_bits(y, whole, f"{layer}")


def test_outputs_come_as_soon_as_they_are_final():
    x = np.ones((1, 2, 9), np.float32)
    for module, counts, rest in (
        (Conv1d(2, 3, 5, padding="causal"), [1] * 9, 0),
        (Conv1d(2, 3, 5, padding="same"), [0, 0, *[1] * 7], 2),
        (Conv1d(2, 3, 3, stride=2), [0, 0, 1, 0, 1, 0, 1, 0, 1], 0),
        (Conv1d(2, 3, 3, padding=(2, 0), padding_mode="reflect"), [0, 0, 3, *[1] * 6], 0),
        (Conv1d(2, 3, 3, padding=(2, 0), padding_mode="replicate"), [1] * 9, 0),
        (ConvTranspose1d(2, 3, 8, stride=4, padding="causal"), [4] * 9, 0),
        (ConvTranspose1d(2, 3, 8, stride=4), [4] * 9, 4),
        (ConvTranspose1d(2, 3, 8, stride=4, padding=2), [2, *[4] * 8], 2),
        (ConvTranspose1d(2, 3, 4, stride=2, padding=(0, 3)), [1, *[2] * 8], 0),
    ):
        stream = module.stream()
        assert [stream(x[:, :, i : i + 1]).shape[2] for i in range(9)] == counts, module
        assert stream.flush().shape[2] == rest, module


@pytest.mark.parametrize("op", OPS)
def test_a_saved_state_goes_on(op):
    for seed, layer in enumerate(streamable_layers(60, 8, op=op, dtype="float32")):
        x, *_ = layer.normal_arrays(seed)
        module = module_of(layer, seed)
        whole, rng = module(x), np.random.default_rng(seed)
        stream, parts = module.stream(layer.n_batch), []
        for a, b in random_chunks(rng, layer.l_in):
            parts.append(stream(x[:, :, a:b]))
            how = rng.integers(5)
            if how == 0:
                file = io.BytesIO()
                np.savez(file, **stream.state_dict())
                file.seek(0)
                stream = module.stream(layer.n_batch)
                stream(x[:, :, : int(rng.integers(10))])
                stream.load_state_dict(np.load(file))
            elif how == 1:
                stream = pickle.loads(pickle.dumps(stream))
            elif how == 2:
                stream, old = copy.deepcopy(stream), stream
                old(x[:, :, :3])
        assert_same_bits(np.concatenate([*parts, stream.flush()], axis=2), whole, f"{layer}")


def test_a_state_is_a_copy():
    stream = Conv1d(1, 1, 4).stream()
    x = np.arange(10, dtype=np.float32)[None, None]
    stream(x[:, :, :5])
    state = stream.state_dict()
    kept = {name: value.copy() for name, value in state.items()}
    stream(x)
    assert all((state[name] == kept[name]).all() for name in kept)
    assert state["position"] == 5
    assert state["history"].tolist() == [[[2, 3, 4]]]


def twin(module, **changes):
    state = copy.deepcopy(module)
    for name, value in changes.items():
        setattr(state, name, value)
    return state


def test_states_of_other_layers_are_refused():
    rng = np.random.default_rng(9)
    module = Conv1d(2, 3, 4, padding="causal", rng=rng)
    stream, x = module.stream(), rng.standard_normal((1, 2, 40)).astype(np.float32)
    first = stream(x[:, :, :15])
    other = twin(module)
    other.weight = module.weight + 1
    unbiased = Conv1d(2, 3, 4, padding="causal", bias=False, rng=rng)
    good = stream.state_dict()
    bad = [
        (other.stream().state_dict(), "should be that of the layer Conv1d"),
        (unbiased.stream().state_dict(), "should be that of the layer"),
        (Conv1d(2, 3, 4, padding=1, rng=rng).stream().state_dict(), "got that of 'Conv1d"),
        (ConvTranspose1d(2, 3, 4, rng=rng).stream().state_dict(), "got that of 'ConvTranspose1d"),
        (module.stream(2).state_dict(), r"the shape \[1, 2, 0\].* got \[2, 2, 0\]"),
        ({**good, "history": good["history"][:, :, 1:]}, r"the shape \[1, 2, 3\].* got"),
        ({**good, "history": good["history"].astype(np.float64)}, "dtype float32, got"),
        ({**good, "position": np.array(-1)}, "non-negative integer, got"),
        ({**good, "position": np.array(1.0)}, "non-negative integer, got"),
        ({**good, "position": np.array(0)}, r"the shape \[1, 2, 0\].* got"),
        ({**good, "extra": 1}, "should have the keys"),
        ({"layer": good["layer"]}, "should have the keys"),
        ({}, "should have the keys"),
    ]
    for state, words in bad:
        with pytest.raises(ValueError, match=words):
            stream.load_state_dict(state)
    with pytest.raises(TypeError, match="dict-like, got <class 'int'>"):
        stream.load_state_dict(3)
    y = np.concatenate([first, stream(x[:, :, 15:]), stream.flush()], axis=2)
    assert_same_bits(y, module(x))


@pytest.mark.parametrize("op", OPS)
def test_refused_chunks_leave_the_stream_as_it_was(op):
    kind = Conv1d if op == "conv1d" else ConvTranspose1d
    module = kind(4, 4, 5, padding=2, groups=4, rng=np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((2, 4, 30)).astype(np.float32)
    stream, parts = module.stream(2), []
    for i in range(0, 30, 3):
        for bad, error, words in (
            (x[:, :3], ValueError, r"should have the size \[2, 4, any\].* got \[2, 3, 30\]"),
            (x[:1], ValueError, r"got \[1, 4, 30\]"),
            (x[0], ValueError, r"got \[4, 30\]"),
            (x[0, 0], ValueError, r"got \[30\]"),
            (x.astype(np.float64), TypeError, r"Input type \(float64\) and weight type"),
            (x[:, :3, :1], ValueError, r"got \[2, 3, 1\]"),
            (x[:, :, :1].astype(np.float64), TypeError, "Input type"),
        ):
            with pytest.raises(error, match=words):
                stream(bad)
        with pytest.raises(ValueError, match="out should have the shape"):
            stream(x[:, :, :3], out=np.empty((2, 4, 99), np.float32))
        with pytest.raises(ValueError, match="out should have the shape"):
            stream.flush(out=np.empty((2, 4, 99), np.float32))
        parts.append(stream(x[:, :, i : i + 3]))
    parts.append(stream.flush())
    assert_same_bits(np.concatenate(parts, axis=2), module(x))


class Failing:
    """A flow that cannot compute at the first and every third call."""

    def __init__(self, flow):
        self._flow, self.calls = flow, 0

    def __getattr__(self, name):
        return getattr(self._flow, name)

    def compute(self, *args):
        self.calls += 1
        if self.calls % 3 == 1:
            raise MemoryError("no scratch")
        self._flow.compute(*args)


@pytest.mark.parametrize("op", OPS)
def test_a_chunk_that_fails_can_be_given_again(op):
    for seed, layer in enumerate(streamable_layers(40, 21, op=op, dtype="float32")):
        x, *_ = layer.normal_arrays(seed)
        module = module_of(layer, seed)
        stream, parts, failed = module.stream(layer.n_batch), [], 0
        stream._flow, stream._ring = Failing(stream._flow), None
        chunks = random_chunks(np.random.default_rng(seed), layer.l_in)
        for a, b in [*chunks, (None, None)]:
            for _ in range(9):
                try:
                    parts.append(stream.flush() if a is None else stream(x[:, :, a:b]))
                    break
                except MemoryError:
                    failed += 1
        assert failed
        assert_same_bits(np.concatenate(parts, axis=2), module(x), f"{layer}")


def test_resets_of_some_items():
    rng = np.random.default_rng(10)
    modules = [
        Conv1d(4, 6, 3, padding="causal", dilation=2, rng=rng),
        Conv1d(4, 4, 4, padding="causal", groups=4, rng=rng),
        Conv1d(4, 6, 4, stride=3, padding=(2, 0), rng=rng),
        ConvTranspose1d(4, 6, 7, stride=3, padding="causal", rng=rng),
        ConvTranspose1d(4, 6, 5, stride=5, rng=rng),
    ]
    for module in modules:
        for step in (1, 3):
            x = rng.standard_normal((3, 4, 36)).astype(np.float32)
            stream = module.stream(3)
            before = [stream(x[:, :, i : i + step]) for i in range(0, 12, step)]
            stream.reset([1])
            after = [stream(x[:, :, i : i + step]) for i in range(12, 36, step)]
            after.append(stream.flush())
            y = np.concatenate(before + after, axis=2)
            others = [0, 2]
            assert_same_bits(y[others], module(x)[others], repr(module))
            again = np.concatenate(after, axis=2)
            assert_same_bits(again[1:2], module(x[1:2, :, 12:]), repr(module))


def test_resets_of_all_items_and_of_none():
    for module in (Conv1d(4, 4, 4, padding=1, groups=4), ConvTranspose1d(4, 4, 4, padding=1)):
        x = np.random.default_rng(11).standard_normal((2, 4, 20)).astype(np.float32)
        for items in (None, [0, 1], range(2), np.array([1, 0])):
            stream = module.stream(2)
            stream(x[:, :, :7])
            stream.reset(items)
            parts = [stream(x[:, :, i : i + 1]) for i in range(20)]
            stream.reset([])
            assert_same_bits(np.concatenate([*parts, stream.flush()], axis=2), module(x))


def test_resets_that_would_break_step_are_refused():
    x = np.ones((2, 1, 4), np.float32)
    for module in (
        Conv1d(1, 1, 3, padding=1),
        Conv1d(1, 1, 3, stride=3, padding=(2, 0)),
        Conv1d(1, 1, 3, padding=(2, 0), padding_mode="replicate"),
        ConvTranspose1d(1, 1, 4, stride=2, padding=1),
        ConvTranspose1d(1, 1, 2, stride=5),
    ):
        stream = module.stream(2)
        stream.reset([0])  # nothing has begun
        y = stream(x)
        with pytest.raises(ValueError, match=r"stay in step .* items=\[0\] of n_batch=2 at pos"):
            stream.reset(0)
        parts = [y, stream(x), stream.flush()]
        assert_same_bits(np.concatenate(parts, axis=2), module(np.concatenate([x, x], axis=2)))
    for items, error in (([2], ValueError), (-1, ValueError), (1.5, TypeError), ("x", TypeError)):
        with pytest.raises(error, match="items should be"):
            stream.reset(items)


def test_what_cannot_stream_is_refused():
    for module, words in (
        (Conv1d(1, 1, 3, padding=1, padding_mode="circular"), "wrap around: padding_mode should"),
        (Conv1d(1, 1, 3, stride=2, padding="same_upper"), "got padding='same_upper' and stride=2"),
        (ConvTranspose1d(1, 1, 3, padding=1, padding_mode="reflect"), "padding_mode='reflect'"),
    ):
        with pytest.raises(ValueError, match=words):
            module.stream()
    assert isinstance(Conv1d(1, 1, 3, padding="same_upper").stream(), StreamingConv1d)
    assert isinstance(Conv1d(1, 1, 3, padding_mode="circular").stream(), StreamingConv1d)
    for n_batch, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="n_batch"):
            Conv1d(1, 1, 3).stream(n_batch)
    with pytest.raises(TypeError, match="module should be a Conv1d, got ConvTranspose1d"):
        StreamingConv1d(ConvTranspose1d(1, 1, 3))
    with pytest.raises(TypeError, match="module should be a ConvTranspose1d, got Conv1d"):
        StreamingConvTranspose1d(Conv1d(1, 1, 3))


def test_sequences_too_short():
    stream = Conv1d(1, 1, 5).stream()
    assert stream(np.ones((1, 1, 3), np.float32)).shape == (1, 1, 0)
    assert stream.flush().shape == (1, 1, 0)
    assert stream.flush().shape == (1, 1, 0)
    assert ConvTranspose1d(1, 1, 5).stream().flush().shape == (1, 1, 0)
    stream = Conv1d(1, 1, 3, padding=(2, 4), padding_mode="reflect").stream()
    x = np.random.default_rng(0).standard_normal((1, 1, 9)).astype(np.float32)
    parts = [stream(x[:, :, :2])]
    with pytest.raises(ValueError, match="Padding size should be less than"):
        stream.flush()
    parts.append(stream(x[:, :, 2:4]))
    with pytest.raises(ValueError, match="Padding size should be less than"):
        stream.flush()
    parts += [stream(x[:, :, 4:]), stream.flush()]
    assert_same_bits(np.concatenate(parts, axis=2), stream.module(x))


def test_a_stream_keeps_the_parameters_that_it_was_made_with():
    rng = np.random.default_rng(12)
    module = Conv1d(2, 3, 4, padding="causal", rng=rng)
    x = rng.standard_normal((1, 2, 20)).astype(np.float32)
    whole, stream = module(x), module.stream()
    first = stream(x[:, :, :9])
    module.weight = module.weight * 2
    assert_same_bits(np.concatenate([first, stream(x[:, :, 9:])], axis=2), whole)
    module.train()
    whole, stream = module(x), module.stream()
    module.weight[:] = 0
    assert_same_bits(stream(x), whole)
    assert module.training


def test_weights_that_are_not_finite(deterministic):
    module = ConvTranspose1d(2, 3, 4, stride=2, rng=np.random.default_rng(13))
    weight = module.weight.copy()
    weight[0, 1, 2] = np.inf
    module.weight = weight
    x = np.random.default_rng(14).standard_normal((1, 2, 20)).astype(np.float32)
    whole, stream = module(x), module.stream()
    y = streamed(stream, x, [(0, 3), (3, 4), (4, 20)])
    np.testing.assert_array_equal(np.isfinite(y), np.isfinite(whole))
    np.testing.assert_allclose(y, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_bits(threads):
    module = Conv1d(64, 64, 7, padding="same", rng=np.random.default_rng(15))
    x = np.random.default_rng(16).standard_normal((2, 64, 3000)).astype(np.float32)
    with fastconv1d.num_threads(1):
        whole = module(x)
    with fastconv1d.num_threads(threads):
        assert_same_bits(streamed(module.stream(2), x, [(0, 1400), (1400, 3000)]), whole)


@pytest.mark.parametrize(
    "module",
    [
        Conv1d(16, 24, 5, padding=2, dilation=3),
        Conv1d(32, 32, 4, padding="causal", groups=32),
        Conv1d(8, 8, 3, padding=2, padding_mode="replicate", stride=2),
        ConvTranspose1d(16, 8, 8, stride=4, padding=2),
    ],
    ids=repr,
)
@pytest.mark.parametrize("length", [1, 10, 500])
def test_chunks_allocate_nothing_that_stays(module, length):
    stream = module.stream(2)
    x = np.ones((2, module.in_channels, length), np.float32)
    n_outputs = stream(x).shape[2]
    for _ in range(3):
        n_outputs = max(n_outputs, stream(x).shape[2])
    result = 4 * 2 * module.out_channels * n_outputs
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
    # One chunk's result at a time (two while the next is made), and views.
    assert peak - before < 2 * result + 4096


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_memory_stays_flat(share):
    rng = np.random.default_rng(17)
    streams = [
        Conv1d(16, 24, 5, padding=2, dilation=3).stream(),
        Conv1d(16, 16, 4, padding="causal", groups=16).stream(),
        ConvTranspose1d(16, 8, 8, stride=4, padding=2).stream(),
        Conv1d(16, 8, 3, padding=1, dtype="float32", algorithm="blas").stream(),
    ]
    x = rng.standard_normal((1, 16, 400)).astype(np.float32)
    lengths = rng.integers(0, 12, 4096).tolist()
    count, warm = (1_000_000, 20_000) if share == 1 else (20_000, 5_000)

    def run(chunks):
        for i in range(chunks):
            n = 400 if i % 1000 == 0 else lengths[i % 4096]
            stream = streams[i % 4]
            stream(x[:, :, :n])
            if i % 5000 == 4999:
                stream.flush()

    run(warm)
    assert recurring_growth(lambda: run(count)) < 1024
