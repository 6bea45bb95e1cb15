"""Activations, residuals, layouts and 16-bit storage: bit for bit what the separate steps give."""

import copy
import pickle
import threading

import numpy as np
import pytest
from layers import DTYPES, assert_exact

import fastconv1d
from fastconv1d import (
    Conv1d,
    ConvTranspose1d,
    conv1d,
    conv1d_backward,
    conv_transpose1d,
    num_threads,
    reference,
)
from fastconv1d.core.activations import Activation, parse_activation, parse_steps
from fastconv1d.core.forward import activate
from fastconv1d.kernels import direct_engine

FUNCTIONS = [
    "relu",
    ("leaky_relu", 0.1),
    "elu",
    ("elu", 0.7),
    "gelu",
    ("gelu", "tanh"),
    "silu",
    "tanh",
    "sigmoid",
    ("snake", 0.3),
]
REAL = [np.float32, np.float64]


def bits(array):
    kind = {2: np.uint16, 4: np.uint32, 8: np.uint64}[array.dtype.itemsize]
    return np.ascontiguousarray(array).view(kind)


def assert_same_bits(a, b):
    assert a.dtype == b.dtype and a.shape == b.shape
    np.testing.assert_array_equal(bits(a), bits(b))


def exact(activation, x):
    """The function in float64 for float32 arguments, with float32 parameters."""
    wide = activation._replace(parameter=float(np.float32(activation.parameter)))
    if activation.alpha is not None:
        wide = wide._replace(alpha=activation.alpha.astype(np.float32).astype(np.float64))
    return wide.apply(x.astype(np.float64), 1)


def finished(activation, x):
    y = x.copy()
    direct_engine.finish(activation, y, None, 1.0, False)
    return y


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_float32_functions_are_within_two_ulp_everywhere(function, isa, share):
    step = 9973 if share == 1 else 99991
    numbers = np.arange(0, 2**32, step, dtype=np.uint64).astype(np.uint32).view(np.float32)
    special_numbers = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 88.8, -103.98, -14.3]
    x = np.concatenate([numbers, np.array(special_numbers, np.float32)])[None, None]
    activation = parse_activation(function, 1)
    y = finished(activation, x)
    with np.errstate(all="ignore"):
        expected = exact(activation, x)
        rounded = expected.astype(np.float32)
        ulp = np.spacing(np.abs(rounded)).astype(np.float64)
        error = np.abs(y.astype(np.float64) - expected) / ulp
    finite = np.isfinite(rounded)
    assert error[finite].max() <= 2
    np.testing.assert_array_equal(y[~finite], rounded[~finite])


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_float64_functions_against_numpy(function, isa):
    x = np.random.default_rng(0).standard_normal((2, 3, 501)) * 20
    x[0, 0, :6] = [0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324]
    activation = parse_activation(function, 3)
    np.testing.assert_allclose(
        finished(activation, x), activation.apply(x, 1), rtol=1e-12, atol=1e-300
    )


def test_bits_do_not_depend_on_the_place(isa):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1, 1, 67)).astype(np.float32)
    for function in FUNCTIONS:
        activation = parse_activation(function, 1)
        whole = finished(activation, x)
        for start in range(0, 20):
            for stop in (start + 1, start + 7, 67):
                part = finished(activation, np.ascontiguousarray(x[:, :, start:stop]))
                assert_same_bits(part, whole[:, :, start:stop])


def random_case(rng):
    """A random layer with all of its operands, those of (N, C, L)."""
    groups, c_in, c_out = (int(rng.integers(1, n)) for n in (4, 20, 50))
    kernel_size, dilation = int(rng.integers(1, 8)), int(rng.integers(1, 4))
    stride = int(rng.integers(1, 10)) if rng.random() < 0.6 else 1
    transposed = bool(rng.integers(2))
    spread = 300 if rng.random() < 0.7 else 10 * stride  # the others have a few columns
    length = dilation * kernel_size + int(rng.integers(spread))
    dtype = REAL[int(rng.random() < 0.3)]
    shape = (groups * c_in, c_out) if transposed else (groups * c_out, c_in)
    mode = str(rng.choice(["zeros", "reflect", "replicate", "circular"]))
    padding = tuple(int(p) for p in rng.integers(0, 4, 2)) if length > 4 else 0
    layer = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "padding_mode": "zeros" if transposed and mode == "reflect" else mode,
    }
    x = rng.standard_normal((int(rng.integers(1, 5)), groups * c_in, length)).astype(dtype)
    w = rng.standard_normal((*shape, kernel_size)).astype(dtype)
    b = rng.standard_normal(groups * c_out).astype(dtype) if rng.random() < 0.7 else None
    return transposed, x, w, b, layer


def random_function(rng, channels):
    if rng.random() < 0.3:
        return None
    function = FUNCTIONS[int(rng.integers(len(FUNCTIONS)))]
    if function[0] == "snake":
        return "snake", rng.random(channels) + 0.1
    return function


def as_nlc(array):
    return np.ascontiguousarray(array.swapaxes(1, 2))


@pytest.mark.parametrize("algorithm", ["auto", "blas"])
def test_every_combination_equals_the_separate_steps(algorithm, isa, share):
    rng = np.random.default_rng(2)
    done = 0
    for _ in range(int(3000 * share)):
        transposed, x, w, b, layer = random_case(rng)
        function = conv_transpose1d if transposed else conv1d
        try:
            plain = function(x, w, b, **layer, algorithm=algorithm)
        except ValueError:  # a cropping beyond the output
            continue
        if plain.size == 0:
            continue
        before = random_function(rng, x.shape[1])
        after = random_function(rng, plain.shape[1])
        scale, position = float(rng.choice([1.0, 0.5])), str(rng.choice(["before", "after"]))
        half = [None, np.float16][int(x.dtype == np.float32 and rng.random() < 0.3)]
        residual = None
        if rng.random() < 0.6:
            residual = rng.standard_normal(plain.shape).astype(half or x.dtype)
        if half:
            x = x.astype(half)
        wide_x = np.ascontiguousarray(x, w.dtype)
        wide_residual = None if residual is None else np.ascontiguousarray(residual, w.dtype)
        steps = parse_steps(before, after, scale, position, (x.shape[1], plain.shape[1]))
        if steps.before:
            wide_x = finished(steps.before, wide_x)
        expected = function(wide_x, w, b, **layer, algorithm=algorithm)
        direct_engine.finish(steps.after, expected, wide_residual, scale, steps.residual_last)
        expected = expected.astype(x.dtype)
        options = {
            "activation": after,
            "pre_activation": before,
            "residual": residual,
            "residual_scale": scale,
            "residual_position": position,
        }
        result = function(x, w, b, **layer, **options, algorithm=algorithm)
        assert_same_bits(result, expected)
        options["residual"] = None if residual is None else as_nlc(residual)
        result = function(as_nlc(x), w, b, **layer, **options, layout="NLC", algorithm=algorithm)
        assert result.flags.c_contiguous
        assert_same_bits(result, as_nlc(expected))
        done += 1
    assert done > 2000 * share


def test_against_the_reference(share):
    rng = np.random.default_rng(3)
    for _ in range(int(1000 * share)):
        transposed, x, w, b, layer = random_case(rng)
        functions = (conv_transpose1d, reference.conv_transpose1d)
        ours, slow = functions if transposed else (conv1d, reference.conv1d)
        try:
            shape = ours(x, w, b, **layer).shape
        except ValueError:  # a cropping beyond the output
            continue
        options = {
            "pre_activation": random_function(rng, x.shape[1]),
            "activation": random_function(rng, shape[1]),
            "residual": rng.standard_normal(shape).astype(x.dtype),
            "residual_scale": 0.25,
            "residual_position": str(rng.choice(["before", "after"])),
            "layout": str(rng.choice(["NCL", "NLC"])),
        }
        if options["layout"] == "NLC":
            x, options["residual"] = as_nlc(x), as_nlc(options["residual"])
        expected = slow(x, w, b, **layer, **options)
        result = ours(x, w, b, **layer, **options)
        assert result.dtype == expected.dtype
        scale = np.abs(w).sum() * np.abs(x).max() + 1
        tolerance = (1e-6 if x.dtype == np.float32 else 1e-14) * scale
        np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance)


def test_the_formula():
    x, w = np.array([[[1.0, -2.0, 4.0]]]), np.array([[[1.0, 10.0]]])
    residual = np.array([[[-100.0, 8.0]]])
    plain = conv1d(x, w, np.array([0.5]), pre_activation=("leaky_relu", 0.5))  # of 1, -1, 4
    np.testing.assert_array_equal(plain, [[[-8.5, 39.5]]])
    options = {"activation": "relu", "residual": residual, "residual_scale": 0.25}
    options["pre_activation"] = ("leaky_relu", 0.5)
    np.testing.assert_array_equal(conv1d(x, w, np.array([0.5]), **options), [[[0.0, 41.5]]])
    options["residual_position"] = "after"
    np.testing.assert_array_equal(conv1d(x, w, np.array([0.5]), **options), [[[-25.0, 41.5]]])


def test_padded_zeros_stay_zero_after_the_pre_activation():
    x, w = np.zeros((1, 1, 3)), np.ones((1, 1, 3))
    y = conv1d(x, w, padding=1, pre_activation="sigmoid")
    np.testing.assert_array_equal(y, [[[1.0, 1.5, 1.0]]])
    y = conv1d(x, w, padding=1, pre_activation="sigmoid", padding_mode="replicate")
    np.testing.assert_array_equal(y, [[[1.5, 1.5, 1.5]]])


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex_takes_a_residual_and_a_layout_but_no_activation(dtype):
    rng = np.random.default_rng(4)
    x = (rng.standard_normal((2, 3, 20)) + 1j * rng.standard_normal((2, 3, 20))).astype(dtype)
    w = (rng.standard_normal((4, 3, 3)) + 1j * rng.standard_normal((4, 3, 3))).astype(dtype)
    plain = conv1d(x, w)
    expected = plain + plain[::-1] * dtype(0.5)
    assert_close = np.testing.assert_allclose
    assert_close(conv1d(x, w, residual=plain[::-1], residual_scale=0.5), expected, rtol=1e-6)
    assert_close(as_nlc(conv1d(as_nlc(x), w, layout="NLC")), plain, rtol=1e-6)
    with pytest.raises(TypeError, match="activations take real dtypes"):
        conv1d(x, w, activation="relu")


# ---- 16 bits -------------------------------------------------------------------------------------


def test_float16_conversions_are_numpy_s(isa):
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)[None, None]
    one = np.ones((1, 1, 1), np.float32)
    finite = np.isfinite(every[0, 0])
    wide = conv1d(every.copy(), one)
    np.testing.assert_array_equal(wide[..., finite], every[..., finite])  # -0 + 0 is 0
    numbers = np.arange(0, 2**32, 65521, dtype=np.uint64).astype(np.uint32).view(np.float32)
    numbers = numbers[~np.isnan(numbers)][None, None]
    with np.errstate(over="ignore"):
        expected = numbers.astype(np.float16)
    zeros = np.zeros((1, 1, numbers.shape[2]), np.float16)
    layer = conv1d(zeros[:, :, :1], np.zeros((numbers.size, 1, 1), np.float32), numbers[0, 0])
    np.testing.assert_array_equal(layer[0, :, 0], expected[0, 0])


def test_bfloat16_conversions_are_ml_dtypes_s(isa):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    numbers = np.arange(0, 2**32, 65521, dtype=np.uint64).astype(np.uint32).view(np.float32)
    numbers = numbers[~np.isnan(numbers)]
    layer = conv1d(np.zeros((1, 1), bfloat16), np.zeros((numbers.size, 1, 1), np.float32), numbers)
    np.testing.assert_array_equal(layer[:, 0], numbers.astype(bfloat16))
    every = np.arange(2**16, dtype=np.uint16).view(bfloat16)[None]
    finite = np.isfinite(every[0].astype(np.float32))
    wide = conv1d(every.copy(), np.ones((1, 1, 1), np.float32))
    np.testing.assert_array_equal(wide[:, finite], every[:, finite])


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 8, 17])
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("layout", ["NCL", "NLC"])
def test_half_inputs_are_computed_in_float32(stride, name, layout, isa):
    dtype = np.float16
    if name == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    rng = np.random.default_rng(5)
    x = rng.standard_normal((3, 11, 257)).astype(dtype)
    w = rng.standard_normal((13, 11, 5)).astype(dtype)
    expected = conv1d(x.astype(np.float32), w.astype(np.float32), stride=stride).astype(dtype)
    if layout == "NLC":
        x, expected = as_nlc(x), as_nlc(expected)
    assert_same_bits(conv1d(x, w, stride=stride, layout=layout), expected)
    layer = Conv1d(11, 13, 5, stride, bias=False, layout=layout)
    layer.weight = w.astype(np.float32)
    assert_same_bits(layer(x), expected)
    out = np.empty_like(expected)
    assert layer(x, out=out) is out
    assert_same_bits(out, expected)


def test_half_gradients_are_rounded_once():
    rng = np.random.default_rng(6)
    g, x, w = (
        rng.standard_normal(s).astype(np.float16) for s in ((2, 4, 18), (2, 3, 20), (4, 3, 3))
    )
    wide = conv1d_backward(*(a.astype(np.float32) for a in (g, x, w)))
    for ours, expected in zip(conv1d_backward(g, x, w), wide, strict=True):
        assert_same_bits(ours, expected.astype(np.float16))


def test_complex32_in_both_forms():
    rng = np.random.default_rng(7)
    parts = [rng.standard_normal((*s, 2)).astype(np.float16) for s in ((2, 3, 20), (4, 3, 3), (4,))]
    wide = [p.astype(np.float32) for p in parts]
    x, w, b = (p[..., 0] + 1j * p[..., 1] for p in wide)
    expected = conv1d(*(a.astype(np.complex64) for a in (x, w, b)), stride=2)
    result = conv1d(*parts, stride=2)
    assert result.dtype == np.float16 and result.shape == (2, 4, 9, 2)
    np.testing.assert_array_equal(result[..., 0], expected.real.astype(np.float16))
    np.testing.assert_array_equal(result[..., 1], expected.imag.astype(np.float16))
    pair = np.dtype([("real", np.float16), ("imag", np.float16)])
    structured = conv1d(*(p.view(pair)[..., 0] for p in parts), stride=2)
    assert structured.dtype == pair
    np.testing.assert_array_equal(structured["imag"], result[..., 1])


# ---- layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Conv1d, ConvTranspose1d])
@pytest.mark.parametrize("layout", ["NCL", "NLC"])
def test_layers_equal_the_functions(kind, layout):
    rng = np.random.default_rng(8)
    layer = kind(
        6,
        4,
        3,
        stride=2,
        padding=1,
        activation=("snake", rng.random(4)),
        pre_activation="elu",
        residual_scale=0.5,
        residual_position="after",
        layout=layout,
        rng=rng,
    )
    function = conv1d if kind is Conv1d else conv_transpose1d
    x = rng.standard_normal((2, 6, 21) if layout == "NCL" else (2, 21, 6)).astype(np.float32)
    options = {
        "activation": layer.activation,
        "pre_activation": "elu",
        "residual_scale": 0.5,
        "residual_position": "after",
        "layout": layout,
    }
    arguments = (x, layer.weight, layer.bias, 2, 1)
    plain = function(*arguments, **options)
    residual = rng.standard_normal(plain.shape).astype(np.float32)
    expected = function(*arguments, residual=residual, **options)
    assert_same_bits(layer(x), plain)
    assert_same_bits(layer(x, residual=residual), expected)
    assert_same_bits(layer(x[0], residual=residual[0]), expected[0])
    out = np.empty_like(expected)
    assert layer(x, residual=residual, out=out) is out
    assert_same_bits(out, expected)
    strided = np.empty((*expected.shape[:2], 2 * expected.shape[2]), np.float32)[:, :, ::2]
    assert_same_bits(layer(x, residual=residual, out=strided), expected)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert_same_bits(other(x, residual=residual), expected)
    layer.activation = None
    assert_same_bits(layer(x), function(*arguments, **{**options, "activation": None}))


@pytest.mark.parametrize("kind", [Conv1d, ConvTranspose1d])
@pytest.mark.parametrize("position", ["before", "after"])
@pytest.mark.parametrize("layout", ["NCL", "NLC"])
@pytest.mark.parametrize("function", [None, *FUNCTIONS], ids=str)
def test_backward_by_finite_differences(kind, position, layout, function):
    rng = np.random.default_rng(9)
    layer = kind(
        2,
        3,
        3,
        stride=2,
        activation=function,
        pre_activation=("gelu", "tanh"),
        residual_scale=0.5,
        residual_position=position,
        layout=layout,
        dtype=np.float64,
        rng=rng,
    ).train()
    x = rng.standard_normal((2, 2, 9) if layout == "NCL" else (2, 9, 2))
    residual = rng.standard_normal(layer(x).shape)
    g = rng.standard_normal(residual.shape)
    y = layer(x, residual=residual)
    layer.eval()
    assert_same_bits(y, layer(x, residual=residual))
    layer.train()
    layer(x, residual=residual)
    grad = layer.backward(g)
    weight, step = layer.weight.copy(), 1e-6

    def slope(change):
        return ((change(step) - change(-step)) * g).sum() / (2 * step)

    def by_input(direction):
        return slope(lambda t: layer.eval()(x + t * direction, residual=residual))

    def by_residual(direction):
        return slope(lambda t: layer.eval()(x, residual=residual + t * direction))

    def by_weight(direction):
        def change(t):
            layer.weight = weight + t * direction
            return layer.eval()(x, residual=residual)

        return slope(change)

    cases = (by_input, x, grad), (by_residual, residual, layer.residual_grad)
    for along, like, gradient in (*cases, (by_weight, weight, layer.weight_grad)):
        direction = rng.standard_normal(like.shape)
        np.testing.assert_allclose(along(direction), (gradient * direction).sum(), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_backward_of_half_inputs_is_rounded_once(function, dtype):
    dtype = np.dtype(dtype if dtype == "float16" else pytest.importorskip("ml_dtypes").bfloat16)
    rng = np.random.default_rng(10)
    layer = Conv1d(4, 6, 3, activation=function, pre_activation=function, rng=rng).train()
    x = rng.standard_normal((2, 4, 9)).astype(dtype)
    g, residual = (rng.standard_normal((2, 6, 7)).astype(dtype) for _ in range(2))
    layer(x, residual=residual)
    grad, by_residual = layer.backward(g), layer.residual_grad
    assert grad.dtype == by_residual.dtype == dtype and layer.weight_grad.dtype == np.float32
    layer(x.astype(np.float32), residual=residual.astype(np.float32))
    wide = layer.backward(g.astype(np.float32))
    near = 0.02 if dtype == np.float16 else 0.1
    np.testing.assert_allclose(grad.astype(np.float32), wide, rtol=near, atol=near)
    layer(x)
    layer.backward(g)
    assert layer.residual_grad is None


@pytest.mark.parametrize("dtype", REAL)
def test_a_scaled_residual_has_the_same_bits_everywhere(dtype, isa):
    rng = np.random.default_rng(11)
    for groups, length, position in ((1, 198, "before"), (8, 198, "after"), (8, 31, "before")):
        x = rng.standard_normal((2, 32, length)).astype(dtype)
        w = rng.standard_normal((40, 32 // groups, 6)).astype(dtype)
        residual = rng.standard_normal((2, 40, length - 5)).astype(dtype)
        options = {"groups": groups, "residual_scale": -1.3, "residual_position": position}
        y = conv1d(x, w, residual=residual, activation=("leaky_relu", 0.3), **options)
        options["activation"] = ("leaky_relu", 0.3)
        last = conv1d(
            as_nlc(x), w, residual=np.ascontiguousarray(as_nlc(residual)), layout="NLC", **options
        )
        assert_same_bits(as_nlc(y), last)
        apart = np.repeat(residual, 2, axis=2)[:, :, ::2]  # strides of two elements
        assert_same_bits(y, conv1d(x, w, residual=apart, **options))
        for i in range(2):
            assert_same_bits(y[i], conv1d(x[i], w, residual=residual[i], **options))


def test_threads_make_the_first_steps_of_a_depthwise_layer():
    x = np.random.default_rng(12).standard_normal((4, 50, 300)).astype(np.float32)
    for _ in range(20):
        layer = Conv1d(300, 300, 3, groups=300, layout="NLC")
        expected = conv1d(x, layer.weight, layer.bias, groups=300, layout="NLC", algorithm="direct")
        results = [None] * 4
        barrier = threading.Barrier(4)

        def work(i, layer=layer, results=results, barrier=barrier):
            barrier.wait()
            results[i] = layer(x)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for result in results:
            assert_same_bits(result, expected)


def test_no_alias_of_alpha_changes_a_layer():
    alpha = np.ones(3, np.float32)
    layer = Conv1d(2, 3, 1, activation=("snake", alpha), rng=np.random.default_rng(13))
    x = np.ones((2, 4), np.float32)
    y = layer(x)
    alpha[:] = 2
    assert_same_bits(layer(x), y)
    assert_same_bits(layer(x.astype(">f4")), y)
    with pytest.raises(ValueError, match="read-only"):
        layer.activation[1][:] = 2


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"activation": "swish"}, ValueError, "activation should be None or one of 'relu'"),
        ({"activation": 3}, TypeError, "activation should be None, a name or a tuple"),
        ({"pre_activation": "swish"}, ValueError, "pre_activation should be"),
        ({"activation": ("relu", 1.0)}, ValueError, "'relu' has no parameter"),
        ({"activation": ("leaky_relu", "x")}, TypeError, "should be a number"),
        ({"activation": ("leaky_relu", np.nan)}, ValueError, "finite number, got nan"),
        ({"activation": ("gelu", "erf")}, ValueError, "'none' or 'tanh', got 'erf'"),
        ({"activation": "snake"}, ValueError, "needs its alpha"),
        ({"activation": ("snake", np.ones(5))}, ValueError, "each of 2 channels, got size .5."),
        ({"activation": ("snake", "a")}, TypeError, "real numbers"),
        ({"layout": "NHC"}, ValueError, "layout should be 'NCL' or 'NLC', got 'NHC'"),
        ({"residual_position": "middle"}, ValueError, "'before' or 'after'"),
        ({"residual_scale": "2"}, ValueError, "finite number"),
        ({"residual_scale": np.inf}, ValueError, "finite number, got inf"),
        ({"residual": np.zeros((1, 2, 9))}, ValueError, r"size of the output, \[1, 2, 8\], got"),
        ({"residual": np.zeros((1, 2, 8), np.float32)}, TypeError, "residual type"),
    ],
)
def test_bad_options(options, error, message):
    x, w = np.zeros((1, 3, 10)), np.zeros((2, 3, 3))
    with pytest.raises(error, match=message):
        conv1d(x, w, **options)
    with pytest.raises(error, match=message):
        conv_transpose1d(np.zeros((1, 3, 6)), np.zeros((3, 2, 3)), **options)
    if "residual" not in options:
        with pytest.raises(error, match=message):
            Conv1d(3, 2, 3, **options)
        with pytest.raises(error, match=message):
            ConvTranspose1d(3, 2, 3, **options)


def test_a_residual_may_not_be_the_output():
    x, w, y = np.ones((1, 3, 10)), np.ones((2, 3, 3)), np.zeros((1, 2, 8))
    layer = Conv1d(3, 2, 3, dtype=np.float64)
    with pytest.raises(ValueError, match="share no memory with an input"):
        conv1d(x, w, residual=y, out=y)
    with pytest.raises(ValueError, match="share no memory with an input"):
        layer(x, residual=y, out=y)
    with pytest.raises(ValueError, match="share no memory with an input"):
        layer(x, out=x.reshape(-1)[:16].reshape(1, 2, 8))


def test_a_layer_that_is_not_finite_gets_its_steps(isa):
    w = np.ones((2, 3, 4))
    w[0, 0, 0] = np.inf
    layer = ConvTranspose1d(2, 3, 4, 2, bias=False, dtype=np.float64, activation="tanh")
    layer.weight = w
    y = layer(np.ones((1, 2, 3)))
    expected = np.tanh(reference.conv_transpose1d(np.ones((1, 2, 3)), w, stride=2))
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    assert y[0, 0, 0] == 1


def test_parameters_of_the_wrong_kind():
    x = np.zeros((1, 3, 10), np.float16)
    with pytest.raises(TypeError, match="weight of float32 or a 16-bit dtype, got float64"):
        conv1d(x, np.zeros((2, 3, 3)))
    with pytest.raises(TypeError, match="should be the same"):
        conv1d(np.zeros((1, 3, 10)), np.zeros((2, 3, 3), np.float16))
    assert isinstance(parse_activation(Activation("relu")), Activation)
    assert parse_activation(parse_activation(("gelu", "tanh"))).name == "gelu_tanh"


@pytest.mark.parametrize("dtype", DTYPES)
def test_activate_is_for_real_dtypes_and_layouts(dtype):
    x = np.arange(-6, 6).reshape(2, 2, 3).astype(dtype)
    if x.dtype.kind == "c":
        return
    relu = parse_activation("relu")
    assert_same_bits(activate(relu, x, "NLC"), np.maximum(x, 0))


@pytest.mark.parametrize("dtype", REAL)
def test_depthwise_layers_with_channels_side_by_side(dtype, isa, share):
    rng = np.random.default_rng(10)
    for _ in range(int(600 * share)):
        channels, kernel_size = int(rng.integers(2, 70)), int(rng.integers(1, 200))
        dilation, stride = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        length = int(rng.integers(1, 300)) + dilation * kernel_size
        padding = tuple(int(p) for p in rng.integers(0, 6, 2))
        x = rng.standard_normal((int(rng.integers(1, 4)), channels, length)).astype(dtype)
        w = rng.standard_normal((channels, 1, kernel_size)).astype(dtype)
        b = rng.standard_normal(channels).astype(dtype) if rng.random() < 0.7 else None
        layer = {"stride": stride, "padding": padding, "dilation": dilation, "groups": channels}
        layer["padding_mode"] = str(rng.choice(["zeros", "reflect", "replicate", "circular"]))
        options = {"activation": random_function(rng, channels)}
        expected = conv1d(x, w, b, **layer, **options)
        assert_same_bits(
            as_nlc(conv1d(as_nlc(x), w, b, **layer, **options, layout="NLC")), expected
        )
        residual = rng.standard_normal(expected.shape).astype(dtype)
        options |= {
            "residual_scale": 0.5,
            "residual_position": str(rng.choice(["before", "after"])),
        }
        expected = conv1d(x, w, b, **layer, **options, residual=residual)
        with num_threads(int(rng.integers(1, 4))):
            result = conv1d(
                as_nlc(x), w, b, **layer, **options, residual=as_nlc(residual), layout="NLC"
            )
        assert_same_bits(as_nlc(result), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"residual_scale": np.ones(2)},
        {"residual_position": np.ones(2)},
        {"layout": np.ones(2)},
        {"activation": np.ones(2)},
        {"activation": ("gelu", np.ones(2))},
    ],
    ids=str,
)
def test_an_array_for_an_option(options):
    with pytest.raises((TypeError, ValueError), match=r"should be .*, got "):
        conv1d(np.ones((1, 3)), np.ones((1, 1, 2)), **options)


def test_a_layout_set_later_is_checked():
    layer = Conv1d(2, 3, 1)
    with pytest.raises(ValueError, match="layout should be 'NCL' or 'NLC', got 'nlc'"):
        layer.layout = "nlc"
    assert layer(np.ones((2, 4), np.float32)).shape == (3, 4)


def test_out_of_a_training_forward_is_checked_as_in_eval():
    layer = Conv1d(2, 2, 1, activation="relu").train()
    x, r = np.ones((2, 2), np.float32), np.ones((2, 2), np.float32)
    for out, residual in ((r, r), (layer.weight[:, :, 0], None)):
        with pytest.raises(ValueError, match="out should share no memory with an input"):
            layer(x, residual=residual, out=out)


def test_a_complex_layer_has_no_activation_in_training():
    layer = Conv1d(2, 2, 1, dtype=np.complex64, activation="relu").train()
    with pytest.raises(TypeError, match=r"activations take real dtypes, got .* complex64"):
        layer(np.ones((2, 2), np.complex64))


def test_alpha_of_another_number_of_channels_is_not_read():
    activation = Activation("snake", 0.0, np.ones(2))
    with pytest.raises(ValueError, match="broadcast"):
        activate(activation, np.ones((3, 4)), "NCL")


def test_a_missing_weight_is_a_type_error_for_16_bits_too():
    for x in (np.ones((1, 2, 9), np.float16), np.ones((1, 2, 9), np.float32)):
        with pytest.raises(TypeError, match="weight"):
            fastconv1d.conv1d(x, None)


@pytest.mark.parametrize("op", ["conv1d_backward", "conv_transpose1d_backward"])
def test_gradients_of_float32_parameters_of_16_bit_inputs(op):
    rng = np.random.default_rng(23)
    x, g = (rng.integers(-3, 4, (2, 3, 8)).astype(np.float16) for _ in range(2))
    w = rng.integers(-3, 4, (3, 3, 1)).astype(np.float32)
    for result, wanted in zip(
        getattr(fastconv1d, op)(g, x, w), getattr(reference, op)(g, x, w), strict=True
    ):
        assert_exact(result, wanted, op)
    assert [a.dtype for a in getattr(fastconv1d, op)(g, x, w)] == ["float16", "float32", "float32"]


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("sizes", [(32, 33, 1, 1), (32, 41, 4, 3), (16, 256, 1, 1), (9, 5, 14, 1)])
def test_residuals_of_few_channels_are_added_row_by_row(sizes, dtype, isa):
    c_in, c_out, kernel, dilation = sizes
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 9, (2, c_in, 1_237)).astype(dtype)
    w, b = (rng.integers(-9, 9, s).astype(dtype) for s in ((c_out, c_in, kernel), (c_out,)))
    options = {"padding": 2, "dilation": dilation}
    plain = reference.conv1d(x, w, b, **options)
    residual = rng.integers(-99, 99, plain.shape).astype(dtype)
    for threads in (1, 2):
        with num_threads(threads):
            y = conv1d(x, w, b, residual=residual, activation="relu", **options)
            assert_exact(y, np.maximum(plain + residual, 0))
