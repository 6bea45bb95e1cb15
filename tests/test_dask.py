"""Dask arrays: the bits of the call on the whole array, for any chunks, on any scheduler."""

import dataclasses
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from layers import PADDING_MODES, assert_same_bits, assert_within, draw_layer, random_layers

import fastconv1d
from fastconv1d import (
    Conv1d,
    ConvTranspose1d,
    LeakyReLU,
    Mean,
    ReLU,
    Residual,
    Sequential,
    SiLU,
    Snake,
    reference,
)
from fastconv1d.core import pieces
from fastconv1d.core.engines import ALGORITHMS
from fastconv1d.core.program import Activate, Convolve
from fastconv1d.core.reach import Reach

pytest.importorskip("dask")
import dask
import dask.array as da

import fastconv1d.dask as fd


@pytest.fixture(autouse=True)
def one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def chunks_of(rng, size):
    """Sizes of random chunks, which may be short, long or even empty."""
    kind = rng.integers(4)
    if kind == 0 or size == 0:
        return (size,)
    longest = 3 if kind == 1 else max(1, size // 3) if kind == 2 else size
    sizes = []
    while sum(sizes) < size:
        sizes.append(int(min(rng.integers(1, longest + 1), size - sum(sizes))))
        if rng.random() < 0.03:
            sizes.append(0)
    return tuple(sizes)


def chunked(rng, array):
    return da.from_array(array, chunks=tuple(chunks_of(rng, size) for size in array.shape))


def random_case(rng, **fixed):
    """A layer with keywords, and its arrays in the dtype and layout that are called."""

    def choose(options):
        return options[int(rng.integers(len(options)))]

    dtype = choose(("float32", "float32", "float64", "float16", "complex64"))
    fixed["dtype"] = "float32" if dtype == "float16" else dtype
    layer = draw_layer(
        choose,
        kernel_size=choose((1, 2, 3, 4, 7)),
        stride=choose((1, 1, 2, 3, 5)),
        dilation=choose((1, 1, 2, 5)),
        c_in_per_group=choose((1, 2, 3)),
        c_out_per_group=choose((1, 2, 5)),
        l_out=choose((1, 2, 5, 17, 60, 131)),
        **fixed,
    )
    if layer.op == "conv_transpose1d":
        layer = dataclasses.replace(layer, padding_mode=choose(PADDING_MODES))
    layer = dataclasses.replace(
        layer, padding=choose((*3 * [layer.padding], "causal", "same_upper", "same_lower"))
    )
    return layer, dtype


def layer_arrays(layer, dtype, seed):
    x, w, b, _ = layer.normal_arrays(seed)
    return x.astype(dtype), w, b


def outcome(call):
    """What a call returns, or the error that it raises."""
    try:
        return call(), None
    except (ValueError, TypeError, OverflowError) as error:
        return None, error


def check_forward(seed, **fixed):
    """One random case equal to the whole call; returns whether it computed something."""
    rng = np.random.default_rng(seed)
    layer, dtype = random_case(rng, **fixed)
    x, w, b = layer_arrays(layer, dtype, seed)
    options = {**layer.params, "padding_mode": layer.padding_mode}
    if dtype != "complex64":
        options["activation"] = [None, "relu", "silu", ("snake", 0.5)][rng.integers(4)]
        options["pre_activation"] = [None, None, "leaky_relu", "sigmoid"][rng.integers(4)]
    options["algorithm"] = ["auto", "auto", "auto", "blas"][rng.integers(4)]
    if rng.random() < 0.3:
        options["layout"] = "NLC"
        x = np.ascontiguousarray(x.swapaxes(1, 2))
    batched = rng.random() < 0.7
    x = x if batched else x[0]
    context = f"{seed}: {layer} {dtype} {options}"
    function, lazy = getattr(fastconv1d, layer.op), getattr(fd, layer.op)
    given = chunked(rng, x)
    expected, error = outcome(lambda: function(x, w, b, **options))
    result, other = outcome(lambda: lazy(given, w, b, **options))
    if error is not None:
        assert type(other) is type(error) and str(other) == str(error), (context, error, other)
        return False
    assert other is None, (context, other)
    if rng.random() < 0.3:
        more = rng.standard_normal(expected.shape).astype(expected.dtype)
        options |= {"residual": more, "residual_scale": 0.5}
        options["residual_position"] = ["before", "after"][rng.integers(2)]
        expected = function(x, w, b, **options)
        options["residual"] = chunked(rng, more)
        result = lazy(given, w, b, **options)
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype), context
    assert result._meta.dtype == expected.dtype and result._meta.ndim == expected.ndim
    assert_same_bits(np.asarray(result.compute()), expected, f"{context} {given.chunks}")
    return True


def check_gradients(seed, **fixed):
    rng = np.random.default_rng(seed)
    layer, dtype = random_case(rng, **fixed)
    x, w, _ = layer_arrays(layer, dtype, seed)
    options = {**layer.params, "padding_mode": layer.padding_mode}
    options["algorithm"] = ["auto", "auto", "auto", "blas"][rng.integers(4)]
    context = f"{seed}: {layer} {dtype} {options}"
    forward, error = outcome(lambda: getattr(fastconv1d, layer.op)(x, w, **options))
    g = rng.standard_normal((1, 1, 1) if error else forward.shape).astype(dtype)
    if rng.random() < 0.2:
        x, g = x[0], g[0]
    given = chunked(rng, g), chunked(rng, x)
    function = getattr(fastconv1d, layer.op + "_backward")
    expected, error = outcome(lambda: function(g, x, w, **options))
    lazy, other = outcome(lambda: getattr(fd, layer.op + "_backward")(*given, w, **options))
    if error is not None:
        assert type(other) is type(error) and str(other) == str(error), (context, error, other)
        return False
    assert other is None, (context, other)
    results = dask.compute(*lazy)
    assert_same_bits(results[0], expected[0], context)
    wide = [a.astype(np.result_type(a.dtype, np.float64)) for a in (g, x, w)]
    names = {name: value for name, value in options.items() if name != "algorithm"}
    oracle = getattr(reference, layer.op + "_backward")
    exact = oracle(*wide, **names)
    scale = oracle(*map(np.abs, wide), **names)
    for i in (1, 2):
        assert results[i].dtype == expected[i].dtype and results[i].shape == lazy[i].shape
        if dtype == "float16":
            ulps = np.spacing(np.abs(expected[i]).astype(np.float16)).astype(np.float64)
            exact_i = exact[i]
            assert (np.abs(results[i] - exact_i) <= ulps + 1e-5 * scale[i]).all(), context
        else:
            assert_within(results[i], exact[i], scale[i], context)
    return True


@pytest.mark.parametrize("op", ["conv1d", "conv_transpose1d"])
def test_random_cases_have_the_bits_of_the_whole_call(op, deterministic, share):
    count = int(700 * share)
    assert sum(check_forward(seed, op=op) for seed in range(count)) > 0.6 * count


@pytest.mark.parametrize("op", ["conv1d", "conv_transpose1d"])
def test_random_gradients(op, deterministic, share):
    count = int(300 * share)
    assert sum(check_gradients(seed, op=op) for seed in range(count)) > 0.6 * count


@pytest.mark.parametrize("algorithm", ["fft", "fast"])
@pytest.mark.parametrize("mode", PADDING_MODES)
@pytest.mark.parametrize("layout", ["NCL", "NLC"])
def test_transforms_of_chunks(algorithm, mode, layout):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((2, 4, 9000), dtype=np.float32)
    for taps, window in ((901, {"groups": 4}), (700, {"stride": 3}), (301, {"dilation": 4})):
        groups = window.get("groups", 1)
        w = rng.standard_normal((4, 4 // groups, taps), dtype=np.float32)
        b = rng.standard_normal(4, dtype=np.float32)
        options = {**window, "padding": (500, 130), "padding_mode": mode}
        around = {"activation": "relu", "algorithm": algorithm, "layout": layout}
        results = []
        for chunks in ((2, 4, 9000), (1, 3, 1000), (2, 4, (10, 7000, 0, 1990))):
            given = da.from_array(x, chunks=chunks)
            given = given.transpose(0, 2, 1) if layout == "NLC" else given
            array = fd.conv1d(given, w, b, **options, **around)
            y = array.compute()
            assert_same_bits(pickle.loads(pickle.dumps(array)).compute(), y)  # by the chunks alone
            results.append(np.ascontiguousarray(y.swapaxes(1, 2) if layout == "NLC" else y))
        exact = fastconv1d.conv1d(*(a.astype(float) for a in (x, w, b)), **options)
        scale = np.abs(w).sum((1, 2)).max() * np.abs(x).max() * np.finfo(np.float32).eps / 2
        for y in results:
            assert y.shape == exact.shape
            assert np.abs(y - np.maximum(exact, 0)).max() < 4 * scale
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pieces.Convolved, "_compute_by_transforms", None)
            with pytest.raises(TypeError):  # which shows that they do take transforms
                fd.conv1d(da.from_array(x), w, b, **options, algorithm="fft").compute()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("taps", [9, 601])
def test_bits_of_deterministic_mode(algorithm, taps, deterministic):
    x = np.random.default_rng(taps).standard_normal((2, 16, 5000), dtype=np.float32)
    for groups in (1, 16):
        layer = Conv1d(
            16,
            16,
            taps,
            groups=groups,
            padding=taps // 2,
            algorithm=algorithm,
            rng=np.random.default_rng(0),
        )
        w, b = layer.state_dict().values()
        options = {"groups": groups, "padding": taps // 2, "algorithm": algorithm}
        whole = fastconv1d.conv1d(x, w, b, **options)
        gradients = fastconv1d.conv1d_backward(whole, x, w, **options)
        given, g = (
            da.from_array(a, chunks=c) for a, c in ((x, (1, 5, 700)), (whole, (2, 16, 900)))
        )
        # Graphs need the mode for transforms alone, and tasks do not.
        fastconv1d.use_deterministic_algorithms(algorithm in ("fast", "fft"))
        arrays = [
            fd.conv1d(given, w, b, **options),
            fd.apply(layer, given),
            fd.conv1d_backward(g, given, w, **options)[0],
        ]
        fastconv1d.use_deterministic_algorithms(False)
        for array, expected in zip(arrays, (whole, whole, gradients[0]), strict=True):
            assert_same_bits(array.compute(), expected)
        fastconv1d.use_deterministic_algorithms(True)


def test_real_dtypes_need_no_deterministic_mode():
    for seed, layer in enumerate(random_layers(40, 5, dtype="float32", groups=1)):
        x, w, b, _ = layer.normal_arrays(seed)
        given = chunked(np.random.default_rng(seed), x)
        expected = layer.forward(fastconv1d)(x, w, b)
        assert_same_bits(layer.forward(fd)(given, w, b).compute(), expected, f"{layer}")


# ---- networks


def random_convolution(rng, c_in, c_out, **fixed):
    size, dilation = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    mode = PADDING_MODES[rng.integers(4)]
    options = {"dilation": dilation, "padding_mode": mode, **fixed}
    options["activation"] = [None, None, "relu", "silu"][rng.integers(4)]
    options["dtype"] = fixed.get("dtype", np.float32)
    if fixed.get("padding") is None:
        options["stride"] = int(rng.integers(1, 4))
        options["padding"] = (int(rng.integers(0, 5)), int(rng.integers(0, 5)))
    if fixed.get("padding") is None and rng.random() < 0.35:
        options["padding"] = tuple(min(p, 2) for p in options["padding"])
        return ConvTranspose1d(c_in, c_out, size, rng=rng, **options)
    if rng.random() < 0.2 and fixed.get("padding") is None:
        options["padding"] = ["same_upper", "same_lower", "causal"][rng.integers(3)]
    if rng.random() < 0.1:
        options["algorithm"] = ["winograd", "blas"][rng.integers(2)]
    return Conv1d(c_in, c_out, size, rng=rng, **options)


def random_network(rng, channels):
    layers = []
    for _ in range(rng.integers(1, 5)):
        same = {"padding": "same"}
        kind = rng.integers(5)
        if kind == 0:
            layers.append(
                [ReLU(), LeakyReLU(0.2), SiLU(), Snake(np.ones(channels))][rng.integers(4)]
            )
        elif kind == 1:
            shortcut = random_convolution(rng, channels, channels, **same)
            block = [SiLU(), random_convolution(rng, channels, channels, **same), ReLU()]
            both = {"shortcut": shortcut} if rng.random() < 0.4 else {}
            layers.append(Residual(*block, residual_scale=[1.0, 0.3][rng.integers(2)], **both))
        elif kind == 2:
            branches = (random_convolution(rng, channels, channels, **same) for _ in range(3))
            layers.append(Mean(*branches))
        else:
            layers.append(random_convolution(rng, channels, channels))
    return Sequential(*layers)


def check_network(seed):
    rng = np.random.default_rng(seed)
    channels = int(rng.integers(1, 4))
    network = random_network(rng, channels)
    dtype = [np.float32, np.float32, np.float16][rng.integers(3)]
    shape = (int(rng.integers(1, 3)), channels, int(rng.choice([1, 7, 40, 150, 333])))
    x = rng.standard_normal(shape).astype(dtype)
    x = x[0] if rng.random() < 0.3 else x
    context = f"{seed}: {network} {x.shape} {dtype}"
    expected, error = outcome(lambda: network(x))
    result, other = outcome(lambda: fd.apply(network, chunked(rng, x)))
    if error is not None:
        assert type(other) is type(error) and str(other) == str(error), (context, error, other)
        return False
    assert other is None, (context, other)
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype), context
    assert_same_bits(result.compute(), expected, context)
    return True


def test_random_networks_have_the_bits_of_the_whole_call(deterministic, share):
    count = int(600 * share)
    assert sum(map(check_network, range(count))) > 0.5 * count


def test_a_layer_alone_in_any_layout():
    rng = np.random.default_rng(0)
    layer = Conv1d(3, 4, 5, stride=2, padding=2, layout="NLC", rng=rng)
    x = rng.standard_normal((2, 50, 3), dtype=np.float32)
    assert_same_bits(fd.apply(layer, chunked(rng, x)).compute(), layer(x))
    y = fd.apply(ReLU(), chunked(rng, x))
    assert_same_bits(y.compute(), ReLU()(x))
    assert_same_bits(fd.apply(Sequential(), chunked(rng, x)).compute(), x)


def test_a_network_is_applied_as_it_was():
    rng = np.random.default_rng(0)
    network = Sequential(Conv1d(1, 2, 3, rng=rng), LeakyReLU(0.5), Snake(np.ones(2))).train()
    x = rng.standard_normal((1, 1, 30), dtype=np.float32)
    expected = network(x)
    result = fd.apply(network, da.from_array(x, chunks=7))
    network[0].weight[:] = 0
    network[1].negative_slope = 0.1
    assert_same_bits(result.compute(), expected)


class Backwards(Conv1d):
    def forward(self, input, **rest):
        return super().forward(input[..., ::-1].copy(), **rest)


def test_layers_that_cannot_be_cut_are_named():
    x = da.ones((1, 1, 30), chunks=7, dtype=np.float32)
    with pytest.raises(TypeError, match=r"^layer 1 should compute .* Backwards with a forward"):
        fd.apply(Sequential(ReLU(), Backwards(1, 1, 3)), x)
    with pytest.raises(ValueError, match=r"^layer 0\.1, Conv1d: .*expected input"):
        fd.apply(Sequential(Residual(ReLU(), Conv1d(2, 2, 3))), x)
    with pytest.raises(TypeError, match="should be a Conv1d"):
        fd.apply([Conv1d(1, 1, 3)], x)


# ---- lazily, and small


def test_nothing_is_computed_by_a_call():
    def block():
        raise AssertionError("computed")

    x = da.from_delayed(dask.delayed(block)(), (2, 3, 40), np.float32)
    x = da.concatenate([x] * 3, axis=2)
    y = fd.conv1d(x, np.ones((4, 3, 3), np.float32), stride=2, padding=1)
    assert y.chunks == ((2,), (4,), (20, 20, 20))
    assert type(y._meta) is np.ndarray and y.dtype == np.float32
    assert fd.conv_transpose1d(x, np.ones((3, 4, 4), np.float32), stride=2).shape == (2, 4, 242)
    fd.conv1d_backward(y, x, np.ones((4, 3, 3), np.float32), stride=2, padding=1)
    with pytest.raises(AssertionError, match="computed"):
        y.compute()


@pytest.mark.parametrize(
    ("kwargs", "lengths"),
    [
        ({"padding": "same"}, (10, 10, 5)),
        ({"padding": "causal"}, (10, 10, 5)),
        ({}, (10, 10, 1)),
        ({"stride": 3, "padding": 2}, (4, 3, 2)),
        ({"padding": 60}, (*13 * (10,), 11)),
    ],
)
def test_output_chunks_follow_the_input(kwargs, lengths):
    x = da.ones((1, 25), chunks=(1, 10))
    y = fd.conv1d(x, np.ones((1, 1, 5)), **kwargs)
    assert y.chunks == ((1,), lengths)
    assert_same_bits(y.compute(), fastconv1d.conv1d(np.ones((1, 25)), np.ones((1, 1, 5)), **kwargs))


def test_graph_size_of_a_chunk():
    x = da.zeros((4, 1000 * 100), chunks=(4, 100), dtype=np.float32)
    y = fd.conv1d(x, np.ones((4, 4, 3000), np.float32), padding="causal")
    graph = y.dask.layers[y.name]
    assert len(graph) == 1000 + 1  # and the weight
    weights = [key for key in graph if isinstance(key, str)]
    assert len(weights) == 1
    rest = [graph[key] for key in graph if key not in weights]
    assert len(pickle.dumps(rest)) < 1000 * 1000  # each names 30 neighbours


def test_large_blocks_are_read_by_parts():
    x = da.zeros((4, 5 * (1 << 17)), chunks=(4, 1 << 17), dtype=np.float32)
    y = fd.conv1d(x, np.ones((1, 4, 9), np.float32), padding="same")
    graph = y.dask.layers[y.name]
    parts = [task for key, task in graph.items() if str(key[0]).endswith("-part")]
    assert len(parts) == 8
    assert all(key[-1] - key[-2] == 4 for key in graph if str(key[0]).endswith("-part"))
    block = np.arange(40.0).reshape(2, 20)
    part = fd._part_of(block, False, 3, 5)
    assert part.base is None and part.tolist() == [[3, 4], [23, 24]]


def test_names_are_those_of_all_that_arrays_depend_on():
    x = da.ones((1, 1, 30), chunks=7, dtype=np.float16)
    g, w = x[..., :28], np.ones((1, 1, 3), np.float16)
    again = fd.conv1d(x, w), fd.conv1d(x, w)
    assert again[0].name == again[1].name
    assert fd.conv1d(x, w, padding=1).name != again[0].name != fd.conv1d(x, 2 * w).name
    gradients = [
        fd.conv1d_backward(g, other, weight)
        for other in (x, x.rechunk(9))
        for weight in (w, w.astype(np.float32))
    ]
    assert len({by_input.name for by_input, _, _ in gradients}) == 2
    assert len({by_weight.name for _, by_weight, _ in gradients}) == 4
    both = dask.compute(*(by_weight for _, by_weight, _ in gradients))
    assert [value.dtype.itemsize for value in both] == [2, 4, 2, 4]


def test_one_packed_weight_a_process():
    w = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
    x = da.ones((3, 100), chunks=(3, 10), dtype=np.float32)
    y = fd.conv1d(x, w)
    (shared,) = (task.value for key, task in y.dask.layers[y.name].items() if isinstance(key, str))
    assert pickle.loads(pickle.dumps(shared)) is shared
    y.compute()
    ranges = shared.work._stages[0]._made
    y.compute()
    assert shared.work._stages[0]._made is ranges is not None
    token, content = shared.token, pickle.dumps(shared)
    del y, shared
    assert token not in fd._shared
    assert pickle.loads(content).work._stages[0]._made is None


# ---- bad input, refused by the call


W = np.ones((1, 1, 3), np.float32)


def refused(error, match, call, *args, **kwargs):
    with pytest.raises(error, match=match):
        call(*args, **kwargs)


@pytest.mark.parametrize("call", [fd.conv1d, fd.conv_transpose1d])
def test_bad_input(call):
    x = da.ones((1, 1, 30), chunks=(1, 1, 7), dtype=np.float32)
    unknown = da.ones((1, 30), chunks=(1, 7), dtype=np.float32)
    unknown = unknown[:, da.ones(30, chunks=7) > 0]
    refused(ValueError, "sizes of all chunks.*compute_chunk_sizes", call, unknown, W)
    refused(TypeError, "not implemented for 'object'", call, x.astype(object), W.astype(object))
    refused(TypeError, "not implemented for 'Int'", call, x.astype(np.int32), W.astype(np.int32))
    refused(TypeError, r"Input type \(int64\) and weight type", call, x.astype(np.int64), W)
    refused(TypeError, "takes Dask arrays, got ndarray", call, np.ones((1, 1, 30)), W)
    chunked_weight = da.from_array(W, chunks=(1, 1, 2))
    refused(TypeError, r"Dask array of 2 chunks: pass weight.compute\(\)", call, x, chunked_weight)
    refused(TypeError, "bias should be an array in memory", call, x, W, da.ones(1))
    refused(ValueError, "negative padding is not supported", call, x, W, padding=-1)
    refused(ValueError, "expected.* input", call, da.ones((1, 2, 30), dtype=np.float32), W)
    refused(ValueError, "residual should have the size", call, x, W, residual=x[..., :3])
    refused(ValueError, "layout should be 'NCL' or 'NLC'", call, x, W, layout="LNC")
    refused(ValueError, "algorithm should be one of", call, x, W, algorithm="fourier")
    refused(ValueError, "Expected 2D .unbatched. or 3D", call, x[0, 0], W)


def test_too_much_padding():
    x = da.ones((1, 1, 5), chunks=2, dtype=np.float32)
    refused(
        ValueError,
        "Padding size should be less",
        fd.conv1d,
        x,
        W,
        padding=5,
        padding_mode="reflect",
    )
    refused(ValueError, "wrapping around more", fd.conv1d, x, W, padding=6, padding_mode="circular")
    refused(ValueError, "Output size is too small", fd.conv_transpose1d, x, W, padding=9)
    refused(ValueError, "Kernel size can't be greater", fd.conv1d, x[..., :2], W)


def test_bad_gradients():
    x = da.ones((1, 1, 30), chunks=7, dtype=np.float32)
    backward = fd.conv1d_backward
    refused(ValueError, "grad_output should have the size", backward, x, x, W)
    refused(TypeError, "grad_output type", backward, x.astype(np.float64), x, W)
    refused(TypeError, "takes Dask arrays", backward, np.ones((1, 1, 28), np.float32), x, W)
    refused(TypeError, "in memory", backward, x[..., :28], x, da.from_array(W))
    refused(TypeError, "three bools", backward, x[..., :28], x, W, output_mask=1)
    assert backward(x[..., :28], x, W, output_mask=(False,) * 3) == (None, None, None)


def test_no_items_and_no_outputs():
    x = da.ones((0, 2, 30), chunks=7, dtype=np.float32)
    w = np.ones((4, 2, 3), np.float32)
    assert fd.conv1d(x, w).compute().shape == (0, 4, 28)
    by_input, by_weight, by_bias = fd.conv1d_backward(fd.conv1d(x, w), x, w)
    assert by_input.compute().shape == (0, 2, 30)
    assert not by_weight.compute().any() and not by_bias.compute().any()


# ---- layers that join by what they read


class Pooling:
    """The largest of windows with padding, the last of them not full, as an operation has it."""

    size, stride, padding = 3, 2, 1

    def reach(self, l_in):
        return Reach(self.stride, 1, self.padding, self.size - 1 - self.padding)

    def windows(self, x):
        ends = np.full((*x.shape[:2], self.padding), -np.inf, x.dtype)
        padded = np.concatenate([ends, x, ends, ends], axis=2)
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.size, axis=2)
        return windows[:, :, :: self.stride].max(-1)


class Pool:
    in_place = False

    def __init__(self, name, layer, source, target):
        self.name, self.layer, self.sources, self.target = name, layer, (source,), target

    def shape(self, shapes, dtype):
        return self.layer.windows(np.zeros(shapes[0], dtype)).shape

    def run(self, given, out):
        np.copyto(out, self.layer.windows(given[0]))

    def flow(self):
        raise ValueError("not in pieces")


def with_a_pool(layer):
    def operations():
        return [
            Convolve("first", CONVOLUTION, 0, 1),
            Pool("pool", layer, 1, 2),
            Activate("last", ReLU(), 2, 3),
        ]

    return operations


CONVOLUTION = Conv1d(2, 2, 5, padding=2, rng=np.random.default_rng(0))


@pytest.mark.parametrize("length", [1, 2, 7, 40, 41])
def test_layers_with_windows_of_their_own(length):
    x = np.random.default_rng(length).standard_normal((1, 2, length), dtype=np.float32)
    operations = with_a_pool(Pooling())
    pipeline, shape = pieces.of_operations(operations(), operations(), x)
    expected = np.maximum(Pooling().windows(CONVOLUTION(x)), 0)
    assert shape == expected.shape and pipeline.step == 2
    for first in range(shape[2]):
        for last in range(first + 1, shape[2] + 1):
            given = [pieces.Piece(a, x[:, :, a:b]) for a, b in pipeline.needs(first, last)]
            out = np.empty((1, 2, last - first), np.float32)
            pipeline.compute([given], first, last, out)
            assert_same_bits(out, np.ascontiguousarray(expected[:, :, first:last]))
    if length == 40:
        assert pipeline.needs(10, 11) == [(16, 24)]


def test_layers_that_read_everything_are_named():
    whole = SimpleNamespace(windows=Pooling().windows)
    operations = with_a_pool(whole)
    with pytest.raises(ValueError, match=r"^layer pool, SimpleNamespace: .*may read all positions"):
        pieces.of_operations(operations(), operations(), np.zeros((1, 2, 9), np.float32))


def test_layers_between_convolutions():
    """Windows at the end, channels that are joined, and networks in train mode."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((1, 4, 190), dtype=np.float32)
    chunked = da.from_array(x, chunks=(1, 4, (64, 61, 63, 2)))
    joined = fastconv1d.Concat(ReLU(), Sequential(Conv1d(4, 6, 3, padding=1, rng=rng), SiLU()))
    networks = [
        fastconv1d.MaxPool1d(4, 4, ceil_mode=True),
        Sequential(joined, Conv1d(10, 2, 5, padding=2, rng=rng)),
        Sequential(Conv1d(4, 8, 1, rng=rng), fastconv1d.GLU(1), Conv1d(4, 4, 3, rng=rng)),
        Sequential(Conv1d(4, 4, 3, rng=rng), fastconv1d.BatchNorm1d(4), ReLU()),
    ]
    for network in networks:
        assert_same_bits(fd.apply(network, chunked).compute(), network.eval()(x))
    trained = networks[-1].train()
    lazy = fd.apply(trained, chunked)
    assert_same_bits(lazy.compute(), trained.eval()(x))
