"""Short inputs: vectors along channels or items; taps that read only padding. Exact on integers."""

import itertools

import numpy as np
import pytest

import fastconv1d
from fastconv1d import reference
from fastconv1d.planner import explain


def integers(rng, shape, dtype):
    return rng.integers(-4, 5, shape).astype(dtype)


def normals(rng, shape, dtype):
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if dtype == "complex64" else x).astype(dtype)


def layer_of(rng, c_in, c_out, kernel, dtype, **options):
    layer = fastconv1d.Conv1d(c_in, c_out, kernel, dtype=dtype, **options)
    layer.weight = integers(rng, layer.weight.shape, dtype)
    layer.bias = integers(rng, layer.bias.shape, dtype)
    return layer.eval()


def expected_of(layer, x):
    names = "stride", "padding", "dilation", "groups", "padding_mode"
    options = {name: getattr(layer, name) for name in names}
    return reference.conv1d(x, layer.weight, layer.bias, **options)


DEPTHWISE = [
    # c_in, multiplier, K, stride, padding, dilation, L, mode
    (1536, 1, 4, 1, 3, 1, 4, "zeros"),
    (1000, 1, 7, 1, 3, 1, 8, "zeros"),
    (321, 1, 5, 2, 2, 1, 16, "zeros"),
    (768, 1, 31, 1, 15, 1, 2, "zeros"),
    (67, 2, 3, 1, 1, 1, 13, "zeros"),
    (130, 4, 9, 3, 8, 2, 25, "zeros"),
    (99, 3, 3, 1, 2, 2, 7, "reflect"),
    (99, 1, 3, 1, 2, 2, 7, "circular"),
    (64, 1, 3, 1, 1, 1, 2, "replicate"),
    (40, 1, 300, 1, 150, 1, 3, "zeros"),
    (40, 1, 5, 1, 40, 1, 3, "zeros"),  # columns that read nothing
    (50, 1, 101, 1, 100, 1, 13, "zeros"),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", DEPTHWISE)
def test_short_depthwise_inputs(isa, case, dtype):
    c_in, multiplier, kernel, stride, padding, dilation, length, mode = case
    rng = np.random.default_rng(0)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": c_in}
    layer = layer_of(rng, c_in, c_in * multiplier, kernel, dtype, padding_mode=mode, **options)
    assert explain(layer, (2, c_in, length))["kernel"] == "run_channels"
    for n, threads in itertools.product((1, 3), (1, 2)):
        x = integers(rng, (n, c_in, length), dtype)
        with fastconv1d.num_threads(threads):
            np.testing.assert_array_equal(layer(x), expected_of(layer, x))
    every_other = integers(rng, (2, 2 * c_in, 2 * length), dtype)[:, ::-2, ::-2]
    np.testing.assert_array_equal(layer(every_other), expected_of(layer, every_other))


ITEMS = [
    # N, c_in, c_out, K, stride, padding, dilation, groups, L, mode
    (512, 16, 24, 1, 1, 0, 1, 1, 1, "zeros"),
    (65, 77, 4, 1, 1, 0, 1, 1, 1, "zeros"),
    (130, 16, 17, 3, 1, 1, 1, 1, 2, "zeros"),
    (101, 8, 16, 64, 1, 32, 1, 1, 7, "zeros"),
    (100, 6, 9, 5, 2, 4, 2, 3, 5, "zeros"),
    (64, 200, 5, 3, 1, 1, 1, 1, 3, "replicate"),
    (70, 5, 13, 3, 1, 3, 2, 1, 4, "reflect"),
    (70, 5, 13, 3, 1, 3, 2, 1, 4, "circular"),
    (40, 2, 3, 140, 1, 139, 1, 1, 4, "zeros"),
    (64, 128, 70, 5, 1, 2, 1, 1, 15, "zeros"),  # vectors that are nearly full
    (9, 16, 70, 1, 3, 0, 1, 1, 2, "zeros"),
    (40, 110, 37, 41, 1, 80, 4, 1, 1, "zeros"),  # totals of one level
    (33, 150, 19, 31, 1, 30, 1, 1, 3, "zeros"),
    (19, 257, 160, 3, 2, 32, 32, 1, 43, "zeros"),  # a window of some items alone
    (40, 1100, 8, 101, 1, 100, 2, 1, 1, "zeros"),  # and of two
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", ITEMS)
def test_many_short_items(isa, case, dtype):
    n, c_in, c_out, kernel, stride, padding, dilation, groups, length, mode = case
    rng = np.random.default_rng(0)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    layer = layer_of(rng, c_in, c_out, kernel, dtype, padding_mode=mode, **options)
    assert explain(layer, (n, c_in, length))["kernel"] == "run_items"
    x = integers(rng, (n, c_in, length), dtype)
    for threads in (1, 2):
        with fastconv1d.num_threads(threads):
            y = layer(x)
            np.testing.assert_array_equal(y, expected_of(layer, x))
    x = rng.standard_normal(x.shape).astype(
        dtype
    )  # the bits of an item are those that it has alone
    y = layer(x)
    for i in (0, n // 2, n - 1):
        np.testing.assert_array_equal(layer(x[i : i + 1])[0], y[i])


TRANSPOSED_ITEMS = [
    # N, c_in, c_out, K, padding, dilation, groups, L
    (64, 300, 2, 9, 0, 1, 1, 9),
    (65, 77, 4, 1, 0, 1, 1, 1),
    (100, 6, 9, 5, 4, 2, 3, 7),
    (131, 40, 17, 3, 1, 3, 1, 2),
    (70, 33, 1, 41, 19, 1, 1, 3),
    (33, 150, 19, 30, 2, 1, 1, 1),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", TRANSPOSED_ITEMS)
def test_many_short_items_of_transposed_layers(isa, case, dtype):
    n, c_in, c_out, kernel, padding, dilation, groups, length = case
    rng = np.random.default_rng(0)
    options = {"padding": padding, "dilation": dilation, "groups": groups}
    layer = fastconv1d.ConvTranspose1d(c_in, c_out, kernel, dtype=dtype, **options)
    layer.weight = integers(rng, layer.weight.shape, dtype)
    layer.bias = integers(rng, layer.bias.shape, dtype)
    layer.eval()
    assert explain(layer, (n, c_in, length))["kernel"] == "run_items"
    x = integers(rng, (n, c_in, length), dtype)
    expected = reference.conv_transpose1d(x, layer.weight, layer.bias, **options)
    for threads in (1, 2):
        with fastconv1d.num_threads(threads):
            np.testing.assert_array_equal(layer(x), expected)
    x = normals(rng, x.shape, dtype)  # the bits of an item are those that it has alone, and longer
    y = layer(x)
    longer = np.pad(x, ((0, 0), (0, 0), (0, 70)))
    for i in (0, n // 2, n - 1):
        np.testing.assert_array_equal(layer(x[i : i + 1])[0], y[i])
        np.testing.assert_array_equal(layer(longer[i : i + 1])[0, :, : y.shape[2]], y[i])


@pytest.mark.parametrize("length", range(1, 20))
def test_rows_shorter_than_vectors(isa, length):
    rng = np.random.default_rng(length)
    for dtype, padding in itertools.product(("float32", "float64"), (0, 1, 3, 9, 17)):
        if length + 2 * padding < 3:
            continue
        layer = layer_of(rng, 5, 9, 3, dtype, padding=padding)
        x = integers(rng, (3, 5, length), dtype)
        np.testing.assert_array_equal(layer(x), expected_of(layer, x))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stride", [2, 3, 4, 5, 8])
def test_strided_rows_end_anywhere(isa, stride, dtype):
    rng = np.random.default_rng(stride)
    layer = layer_of(rng, 2, 3, 1, dtype, stride=stride)
    for length in (1, 2, 3, 5, 11, 12, 13, 23, 24, 25, 46, 47, 48, 49, 50, 51, 97, 145, 1001):
        x = integers(rng, (2, 2, length), dtype)
        np.testing.assert_array_equal(layer(x), expected_of(layer, x))


def test_short_inputs_with_steps_and_16_bits(isa):
    rng = np.random.default_rng(1)
    for groups, n in ((64, 2), (1, 80)):
        alpha = rng.uniform(0.5, 2, 64).astype(np.float32)
        for after in ("relu", "tanh", ("snake", alpha)):
            layer = layer_of(rng, 64, 64, 3, "float32", padding=1, groups=groups, activation=after,
                             pre_activation="relu")  # fmt: skip
            plain = layer_of(
                np.random.default_rng(1), 64, 64, 3, "float32", padding=1, groups=groups
            )
            plain.weight, plain.bias = layer.weight, layer.bias
            x = integers(rng, (n, 64, 3), np.float32)
            sums = plain(np.maximum(x, 0))
            act = {"relu": fastconv1d.ReLU(), "tanh": fastconv1d.Tanh()}.get(str(after))
            act = act or fastconv1d.Snake(alpha)
            np.testing.assert_array_equal(layer(x), act(sums))
            half = x.astype(np.float16)
            np.testing.assert_array_equal(layer(half), act(sums).astype(np.float16))


DEAD = [
    # transposed, N, c_in, c_out, K, stride, padding, dilation, groups, L
    (False, 1, 40, 24, 8, 1, 28, 8, 1, 17),
    (False, 1, 51, 19, 21, 1, 80, 8, 1, 47),
    (False, 1, 25, 26, 3, 1, 64, 64, 1, 50),
    (False, 3, 3, 17, 51, 4, 1600, 64, 1, 105),
    (False, 2, 6, 4, 9, 1, 100, 1, 2, 9),
    (False, 1, 300, 9, 20, 1, 19, 1, 1, 3),
    (True, 1, 27, 6, 101, 1, 0, 1, 1, 32),
    (True, 2, 12, 7, 101, 3, 4, 1, 1, 5),
    (True, 1, 12, 8, 64, 4, 0, 1, 1, 3),
    (True, 1, 9, 6, 7, 2, 0, 40, 3, 11),
    # parts of a tile leave out taps of their own
    (False, 1, 37, 43, 31, 2, 30, 1, 1, 3),
    (False, 1, 100, 33, 10, 1, 18, 2, 1, 4),
    (False, 2, 150, 70, 41, 1, 40, 1, 1, 5),
    (False, 1, 9, 40, 130, 1, 129, 1, 1, 11),
    (True, 1, 51, 64, 41, 2, 0, 1, 1, 8),
    (True, 2, 34, 130, 21, 2, 3, 16, 2, 19),
]


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("case", DEAD)
def test_left_out_taps_do_not_change_bits(isa, case, dtype):
    # Zeros of the input's own are multiplied; those beyond its ends are left out.
    transposed, n, c_in, c_out, kernel, stride, padding, dilation, groups, length = case
    rng = np.random.default_rng(5)
    x = normals(rng, (n, c_in, length), dtype)
    reach = dilation * (kernel - 1)
    options = {"stride": stride, "dilation": dilation, "groups": groups}
    if transposed:
        w = normals(rng, (c_in, c_out // groups, kernel), dtype)
        y = fastconv1d.conv_transpose1d(x, w, padding=padding, **options)
        wide = np.pad(x, ((0, 0), (0, 0), (reach, reach)))
        whole = fastconv1d.conv_transpose1d(wide, w, **options)
        expected = whole[:, :, reach * stride + padding :][:, :, : y.shape[2]]
    else:
        w = normals(rng, (c_out, c_in // groups, kernel), dtype)
        y = fastconv1d.conv1d(x, w, padding=padding, **options)
        wide = np.pad(x, ((0, 0), (0, 0), (padding, padding)))
        expected = fastconv1d.conv1d(wide, w, **options)
    assert y.tobytes() == np.ascontiguousarray(expected).tobytes()


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_steps_of_parts(isa, activation):
    rng = np.random.default_rng(6)
    layer = layer_of(rng, 37, 43, 31, "float32", stride=2, padding=30, activation=activation)
    plain = fastconv1d.Conv1d(37, 43, 31, stride=2, padding=30)
    plain.weight, plain.bias = layer.weight, layer.bias
    x, residual = integers(rng, (1, 37, 3), "float32"), integers(rng, (1, 43, 17), "float32")
    function = {"relu": lambda z: np.maximum(z, 0), "tanh": fastconv1d.Tanh()}[activation]
    np.testing.assert_array_equal(layer(x), function(plain.eval()(x)))
    y = layer(x, residual=residual)
    np.testing.assert_array_equal(y, function(plain(x) + residual))


def test_scratch_of_many_items_is_bounded(isa):
    layer = layer_of(np.random.default_rng(7), 8, 8, 3, "float32", padding=10_000)
    assert explain(layer, (64, 8, 1))["scratch_bytes"] < 4 << 20
    x = integers(np.random.default_rng(7), (64, 8, 1), "float32")
    np.testing.assert_array_equal(layer(x), expected_of(layer, x))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", DEAD)
def test_taps_that_read_only_padding(isa, case, dtype):
    transposed, n, c_in, c_out, kernel, stride, padding, dilation, groups, length = case
    rng = np.random.default_rng(2)
    x = integers(rng, (n, c_in, length), dtype)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if transposed:
        w = integers(rng, (c_in, c_out // groups, kernel), dtype)
        function, oracle = fastconv1d.conv_transpose1d, reference.conv_transpose1d
    else:
        w = integers(rng, (c_out, c_in // groups, kernel), dtype)
        function, oracle = fastconv1d.conv1d, reference.conv1d
    b = integers(rng, c_out, dtype)
    for threads in (1, 2):
        with fastconv1d.num_threads(threads):
            np.testing.assert_array_equal(function(x, w, b, **options), oracle(x, w, b, **options))
    if not transposed:  # zero times infinity is no part that may be left out
        w[0, 0, 0] = np.inf
        with np.errstate(invalid="ignore"):
            expected = oracle(x, w, b, **options)
        np.testing.assert_array_equal(function(x, w, b, **options), expected)


@pytest.mark.parametrize("stride", [3, 5, 6, 7, 9, 12, 16, 17, 100])
@pytest.mark.parametrize("length", [1, 7, 8, 9, 40, 333])
def test_phases_of_any_stride(isa, stride, length):
    rng = np.random.default_rng(3)
    for kernel, padding in ((stride, 0), (stride + 1, 1), (2 * stride, stride // 2)):
        x = integers(rng, (2, 3, length), np.float32)
        w, b = integers(rng, (3, 5, kernel), np.float32), integers(rng, 5, np.float32)
        options = {"stride": stride, "padding": padding}
        y = fastconv1d.conv_transpose1d(x, w, b, **options)
        np.testing.assert_array_equal(y, reference.conv_transpose1d(x, w, b, **options))


@pytest.mark.parametrize("length", range(1, 13))
def test_few_columns(isa, length):
    rng = np.random.default_rng(4)
    for dtype in ("float32", "float64"):
        layer = layer_of(rng, 70, 77, 3, dtype, padding=1)
        x = integers(rng, (1, 70, length), dtype)
        np.testing.assert_array_equal(layer(x), expected_of(layer, x))
