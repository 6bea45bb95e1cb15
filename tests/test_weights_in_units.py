"""Weights that units pack, those of live taps alone, and streamed rows: the bits of whole packs."""

import itertools
import sys
import threading

import numpy as np
import pytest
from layers import assert_exact, assert_same_bits
from primitives import in_subprocess

import fastconv1d
from fastconv1d import grad, reference
from fastconv1d.planner import explain

pytestmark = pytest.mark.usefixtures("isa")


def integers(rng, *shape, dtype="float32"):
    values = rng.integers(-3, 4, shape)
    if dtype == "complex64":
        values = values + 1j * rng.integers(-3, 4, shape)
    return values.astype(dtype)


def normals(rng, *shape, dtype="float32"):
    values = rng.standard_normal(shape)
    if dtype == "complex64":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def reversed_in_memory(w):
    return w[:, :, ::-1].copy()[:, :, ::-1]


def every_second(w):
    return np.repeat(w, 2, axis=1)[:, ::2]


# ---- packed by units: a functional call, whose weight is needed once ---------------------------

CASES = [
    # N, C_in, C_out, K, stride, padding, dilation, groups, L
    (1, 257, 70, 3, 1, 1, 1, 1, 4),
    (1, 70, 257, 7, 3, 2, 1, 1, 2),
    (3, 40, 33, 8, 2, 3, 1, 1, 5),
    (1, 33, 40, 5, 2, 4, 3, 1, 9),
    (2, 66, 21, 4, 4, 0, 1, 3, 3),
    (1, 5, 9, 140, 1, 70, 1, 1, 11),  # chains that end between taps
    (1, 4500, 3, 1, 1, 0, 1, 1, 2),  # several levels of totals
    (1, 9, 17, 2, 5, 0, 1, 1, 30),  # phases without taps
]


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_packed_by_units(case, transposed, dtype):
    n, c_in, c_out, k, stride, padding, dilation, groups, length = case
    rng = np.random.default_rng(1)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    function, layer_class = fastconv1d.conv1d, fastconv1d.Conv1d
    exact, shape = reference.conv1d, (c_out, c_in // groups, k)
    if transposed:
        function, layer_class = fastconv1d.conv_transpose1d, fastconv1d.ConvTranspose1d
        exact, shape = reference.conv_transpose1d, (c_in, c_out // groups, k)
    else:
        options["padding"] += dilation * (k - 1) // 2
    x, w, b = (integers(rng, *size, dtype=dtype) for size in ((n, c_in, length), shape, (c_out,)))
    for threads in (1, 2):
        with fastconv1d.num_threads(threads):
            assert_exact(function(x, w, b, **options), exact(x, w, b, **options), f"{case}")
    layer = layer_class(c_in, c_out, k, dtype=dtype, **options)
    for view_of in (np.copy, reversed_in_memory, np.asfortranarray, every_second):
        x, w = normals(rng, *x.shape, dtype=dtype), view_of(normals(rng, *shape, dtype=dtype))
        layer.weight, layer.bias = w, b
        assert_same_bits(function(x, w, b, **options), layer.eval()(x), f"{case}")


def test_empty_inputs_and_inputs_from_behind():
    rng = np.random.default_rng(13)
    w, b = integers(rng, 21, 33, 3), integers(rng, 21)
    up = np.ascontiguousarray(w.swapaxes(0, 1))
    for n, length, stride, padding in itertools.product((0, 1, 2), (0, 1, 2), (1, 5), (2, 7)):
        if n and length == 0:
            continue  # an error, as torch's
        x = integers(rng, n, 33, length)[:, ::-1, ::-1]
        options = {"stride": stride, "padding": padding}
        wanted = reference.conv1d(x, w, b, **options)
        assert_exact(fastconv1d.conv1d(x, w, b, **options), wanted)
        if length:
            wanted = reference.conv_transpose1d(x, up, b, stride, output_padding=stride - 1)
            y = fastconv1d.conv_transpose1d(x, up, b, stride, output_padding=stride - 1)
            assert_exact(y, wanted)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_weights_that_are_not_finite(bad):
    # Zeros of the padding are part of a correlate's sums, but of no scatter's.
    rng = np.random.default_rng(2)
    for k, stride, n in itertools.product((1, 3, 5), (1, 2), (1, 40)):
        x, b = 1 + abs(integers(rng, n, 30, 1)), integers(rng, 40)
        padding = {"padding": k // 2}
        w = integers(rng, 40, 30, k)
        w[7, 3, 0] = w[33, 29, k - 1] = bad
        with np.errstate(invalid="ignore"):
            wanted = reference.conv1d(x, w, b, stride, **padding)
        assert_same_bits(fastconv1d.conv1d(x, w, b, stride, **padding), wanted.astype("float32"))
        w = integers(rng, 30, 40, k)
        w[7, 3, 0] = w[29, 33, k - 1] = bad
        with np.errstate(invalid="ignore"):
            wanted = reference.conv_transpose1d(x, w, b, stride, **padding)
        up = fastconv1d.conv_transpose1d(x, w, b, stride, **padding)
        assert_same_bits(up, wanted.astype("float32"))


def test_gradients_by_the_input_pack_by_units():
    rng = np.random.default_rng(3)
    for k, stride, length in ((3, 4, 16), (7, 1, 3), (4, 1, 301), (13, 1, 1)):
        padding = k // 2
        w, x = integers(rng, 75, 66, k), integers(rng, 1, 66, length)
        g = integers(rng, 1, 75, (length + 2 * padding - k) // stride + 1)
        options = {"stride": stride, "padding": padding}
        wanted = reference.conv1d_backward(g, x, w, **options)[0]
        assert_exact(grad.conv1d_input(x.shape, w, g, **options), wanted)
        w, up = integers(rng, 66, 75, k), {"stride": stride, "padding": padding}
        y = reference.conv_transpose1d(x, w, **up)
        g = integers(rng, *y.shape)
        wanted = reference.conv_transpose1d_backward(g, x, w, **up)[0]
        assert_exact(grad.conv_transpose1d_input(x.shape, w, g, **up), wanted)


# ---- live taps: calls of one length, one after another -----------------------------------------


def large_layer(rng, transposed, **options):
    """Of more than a MiB, whose outer taps read nothing of a short input."""
    kind = fastconv1d.ConvTranspose1d if transposed else fastconv1d.Conv1d
    layer = kind(130, 170, 13, **options)
    layer.weight = normals(rng, *layer.weight.shape)
    layer.bias = normals(rng, 170)
    return layer.eval()


LENGTHS = (*[1] * 18, 2, 1, 2, *[9] * 3, *[2] * 17, 40, 2, 1, 1, *[3] * 18)  # copies after 16


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"dilation": 3}])
def test_live_taps_keep_the_bits(transposed, options):
    rng = np.random.default_rng(4)
    padding = 6 * options.get("dilation", 1)
    c_in = 130
    function = fastconv1d.conv_transpose1d if transposed else fastconv1d.conv1d
    for activation in (None, "relu"):
        layer = large_layer(rng, transposed, padding=padding, activation=activation, **options)
        for length, n in zip(LENGTHS, itertools.cycle((1, 3))):
            x = normals(rng, n, c_in, length)
            wanted = function(
                x, layer.weight, layer.bias, padding=padding, activation=activation, **options
            )
            assert_same_bits(layer(x), wanted, f"{options} length {length}")


def test_live_taps_of_calls_from_several_threads():
    rng = np.random.default_rng(5)
    layer = large_layer(rng, False, padding=6)
    inputs = [normals(rng, 1, 130, length) for length in (1, 2, 3)]
    wanted = [fastconv1d.conv1d(x, layer.weight, layer.bias, padding=6) for x in inputs]
    wrong = []

    def call(first):
        for i in range(first, first + 240):
            which = i // 20 % 3
            if layer(inputs[which]).tobytes() != wanted[which].tobytes():
                wrong.append(which)

    threads = [threading.Thread(target=call, args=(20 * i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_live_taps_are_of_the_weight_now():
    rng = np.random.default_rng(6)
    layer = large_layer(rng, False, padding=6)
    x = normals(rng, 1, 130, 1)
    for _ in range(3):
        layer.weight = normals(rng, *layer.weight.shape)
        wanted = fastconv1d.conv1d(x, layer.weight, layer.bias, padding=6)
        for _ in range(18):
            assert_same_bits(layer(x), wanted)


def calls_without_memory_for_a_copy():
    import resource

    layer = fastconv1d.Conv1d(1024, 1024, 13, padding=6).eval()
    x = np.ones((1, 1024, 1), np.float32)
    wanted = layer(x)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**21, resource.RLIM_INFINITY))
    for _ in range(40):
        assert_same_bits(layer(x), wanted)
    print("the same")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_live_taps_are_not_copied_without_memory(isa):
    name = "calls_without_memory_for_a_copy"
    assert in_subprocess("test_weights_in_units", name).strip() == "the same"


# ---- many short items of a scatter with a stride -----------------------------------------------

UP = [
    # N, C_in, C_out, K, stride, padding, output_padding, groups, L
    (32, 320, 1, 8, 4, 2, 0, 1, 1),
    (17, 64, 5, 6, 3, 1, 2, 1, 2),
    (70, 30, 3, 2, 2, 0, 1, 3, 5),
    (15, 65, 9, 10, 5, 4, 0, 1, 9),
    (31, 6, 128, 8, 4, 0, 0, 2, 1),
    (40, 300, 2, 16, 16, 5, 3, 1, 3),
    (64, 1200, 2, 9, 3, 0, 0, 1, 2),  # several levels of totals
]


@pytest.mark.parametrize("case", UP)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_many_short_items_of_a_scatter_with_a_stride(case, dtype, isa):
    n, c_in, c_out, k, stride, padding, output_padding, groups, length = case
    rng = np.random.default_rng(7)
    options = {"stride": stride, "padding": padding, "output_padding": output_padding}
    options["groups"] = groups
    for activation in (None, "relu"):
        layer = fastconv1d.ConvTranspose1d(
            c_in, c_out, k, dtype=dtype, activation=activation, **options
        )
        layer.weight = integers(rng, *layer.weight.shape, dtype=dtype)
        layer.bias = integers(rng, c_out, dtype=dtype)
        layer.eval()
        if isa == "avx512" and dtype == "float32":
            assert explain(layer, (n, c_in, length), threads=1)["kernel"] == "run_items"
        x = integers(rng, n, c_in, length, dtype=dtype)
        wanted = reference.conv_transpose1d(x, layer.weight, layer.bias, **options)
        wanted = wanted if activation is None else np.maximum(wanted, 0)
        for threads in (1, 2):
            with fastconv1d.num_threads(threads):
                assert_exact(layer(x), wanted, f"{case}")
        x = normals(rng, n, c_in, length, dtype=dtype)
        y = layer(x)
        for i in (0, n // 2, n - 1):
            assert_same_bits(layer(x[i : i + 1]), y[i : i + 1])
    if dtype == "float32":
        half = x.astype("float16")
        wanted = layer(half.astype("float32")).astype("float16")
        assert_same_bits(layer(half), wanted)


@pytest.mark.parametrize("transposed", [False, True])
def test_complex_items_of_one_position(transposed):
    rng = np.random.default_rng(11)
    for n, c_in, c_out in ((33, 40, 9), (17, 7, 30), (64, 33, 33)):
        x, b = (integers(rng, *size, dtype="complex64") for size in ((n, c_in, 1), (c_out,)))
        shape = (c_in, c_out, 1) if transposed else (c_out, c_in, 1)
        w = integers(rng, *shape, dtype="complex64")
        function = fastconv1d.conv_transpose1d if transposed else fastconv1d.conv1d
        exact = reference.conv_transpose1d if transposed else reference.conv1d
        assert_exact(function(x, w, b), exact(x, w, b))


# ---- rows and columns that are no whole squares of a transposition ------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_channels_last_of_every_remainder(dtype):
    rng = np.random.default_rng(8)
    computed = "float32" if dtype == "float16" else dtype
    for channels, length in itertools.product((1, 7, 8, 9, 15, 16, 17, 31, 33, 50), range(1, 36)):
        layer = fastconv1d.Conv1d(channels, channels, 1, layout="NLC", dtype=computed, bias=False)
        layer.weight = 2 * np.eye(channels, dtype=computed)[:, :, None]
        x = integers(rng, 2, length, channels, dtype=dtype)
        np.testing.assert_array_equal(layer.eval()(x), 2 * x)


# ---- strips of a tile with taps of their own to leave out --------------------------------------

SPARSE = [
    # N, C_in, C_out, K, stride, padding, dilation, L: transposed
    (2, 40, 17, 7, 2, 0, 64, 189),
    (1, 100, 100, 17, 2, 30, 16, 109),
    (3, 9, 3, 5, 1, 0, 100, 37),
    (1, 17, 40, 13, 3, 100, 31, 260),
]


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("case", SPARSE)
def test_strips_that_leave_out_taps(case, dtype):
    n, c_in, c_out, k, stride, padding, dilation, length = case
    rng = np.random.default_rng(12)
    x, w = integers(rng, n, c_in, length, dtype=dtype), (c_in, c_out, k)
    w, b = integers(rng, *w, dtype=dtype), integers(rng, c_out, dtype=dtype)
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    wanted = reference.conv_transpose1d(x, w, b, **options)
    for threads in (1, 2):
        with fastconv1d.num_threads(threads):
            assert_exact(fastconv1d.conv_transpose1d(x, w, b, **options), wanted)
            if dtype == "float32":
                more = integers(rng, *wanted.shape)
                around = {"activation": "relu", "residual": more}
                y = fastconv1d.conv_transpose1d(x, w, b, **options, **around)
                assert_exact(y, np.maximum(wanted + more, 0))
    w, options = np.ascontiguousarray(w.swapaxes(0, 1)), {"dilation": dilation}
    options["padding"] = dilation * (k - 1)
    wanted = reference.conv1d(x, w, b, **options)
    assert_exact(fastconv1d.conv1d(x, w, b, **options), wanted)


# ---- streamed rows -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("c_in, c_out, groups", [(65, 1, 1), (66, 4, 2), (137, 3, 1), (1100, 4, 1)])
def test_streamed_rows(c_in, c_out, groups, dtype):
    rng = np.random.default_rng(9)
    length = 2**21 // c_in + 4001
    x, w = integers(rng, 1, c_in, length, dtype=dtype), (c_out, c_in // groups, 1)
    w, b = integers(rng, *w, dtype=dtype), integers(rng, c_out, dtype=dtype)
    more = integers(rng, 1, c_out, length, dtype=dtype)
    options = {"groups": groups, "activation": "relu", "residual": more}
    wanted = np.maximum(reference.conv1d(x, w, b, groups=groups) + more, 0)
    for threads in (1, 2):
        with fastconv1d.num_threads(threads):
            assert_exact(fastconv1d.conv1d(x, w, b, **options), wanted)
    w, x = normals(rng, *w.shape, dtype=dtype), x + normals(rng, *x.shape, dtype=dtype)
    y = fastconv1d.conv1d(x, w, b, groups=groups)
    for begin in (0, 1153, length - 40):
        part = np.ascontiguousarray(x[:, :, begin : begin + 40])
        expected = fastconv1d.conv1d(part, w, b, groups=groups)
        assert_same_bits(expected, y[:, :, begin : begin + 40])


def test_rows_of_two_channels_and_every_width():
    # Twelve vectors of two rows do not fit the registers as others do.
    rng = np.random.default_rng(10)
    w, b = integers(rng, 2, 9, 3), integers(rng, 2)
    x = integers(rng, 1, 9, 600)
    wanted = reference.conv1d(x, w, b)
    for length in range(1, 400, 7):
        y = fastconv1d.conv1d(np.ascontiguousarray(x[:, :, : length + 2]), w, b)
        assert_exact(y, wanted[:, :, :length])
