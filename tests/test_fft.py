"""algorithm="fft": transforms in blocks, their error, what they promise, and when they are used."""

import itertools
import pickle
import tracemalloc

import numpy as np
import pytest
from layers import assert_transforms_accurate, random_view

import fastconv1d
from fastconv1d import (
    Conv1d,
    ConvTranspose1d,
    LeakyReLU,
    Residual,
    Sequential,
    config,
    conv1d,
    conv1d_backward,
    conv_transpose1d,
    conv_transpose1d_backward,
    reference,
)
from fastconv1d.core import fft
from fastconv1d.core.chosen import ChosenLayer
from fastconv1d.core.fft import block_size, unsuited
from fastconv1d.planner import explain

DTYPES = ("float32", "float64", "complex64", "complex128")


def normal(rng, *shape, dtype="float32"):
    a = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        a = a + 1j * rng.standard_normal(shape)
    return a.astype(dtype)


def by_transforms(layer):
    return isinstance(layer._pack().run, ChosenLayer)


def relative_error(y, expected, x, w, axes=(1, 2)):
    """In units of u times sum |w| times max |x|."""
    scale = np.abs(w).sum(axis=axes).max() * np.abs(x).max()
    return np.abs(y - expected).max() / scale / (np.finfo(y.dtype).eps / 2)


# ---- the functions against the reference ---------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    ("groups", "c_in", "c_out"), [(1, 1, 1), (1, 3, 2), (3, 3, 6), (2, 6, 2), (5, 5, 5)]
)
def test_convolutions(isa, dtype, mode, groups, c_in, c_out):
    rng = np.random.default_rng(groups + c_in)
    for kernel, length, stride, dilation in (
        (1, 7, 1, 1), (5, 300, 1, 3), (257, 900, 1, 1), (300, 1200, 4, 1), (63, 700, 1, 11),
        (600, 601, 1, 1), (512, 513, 1, 1), (513, 2000, 512, 1),
    ):  # fmt: skip
        span = dilation * (kernel - 1) + 1
        padding = (min(length - 1, span // 2), min(length - 1, span - 1))
        x = normal(rng, 2, c_in, length, dtype=dtype)
        w = normal(rng, c_out, c_in // groups, kernel, dtype=dtype)
        b = normal(rng, c_out, dtype=dtype)
        window = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        y = conv1d(x, w, b, **window, padding_mode=mode, algorithm="fft")
        expected = conv1d(x, w, b, **window, padding_mode=mode, algorithm="blas")
        assert y.dtype == dtype
        assert relative_error(y, expected, x, w) < 12
        assert unsuited(x.dtype.char, w.shape, stride, dilation, *padding, False) is None
        if span > 1:
            assert y.tobytes() != expected.tobytes()  # it was another engine


def test_convolutions_against_the_reference():
    rng = np.random.default_rng(0)
    for length, kernel in itertools.product((1, 2, 255, 256, 257, 513), (1, 2, 31, 255, 256, 257)):
        x = rng.integers(-4, 5, (1, 2, length)).astype(np.float64)
        w = rng.integers(-4, 5, (2, 1, kernel)).astype(np.float64)
        options = {"padding": (kernel - 1, kernel // 2), "groups": 2}
        y = conv1d(x, w, algorithm="fft", **options)
        np.testing.assert_array_equal(np.rint(y), reference.conv1d(x, w, **options))
        assert np.abs(y - np.rint(y)).max() < 1e-9


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(("groups", "c_in", "c_out"), [(1, 1, 1), (1, 3, 2), (3, 3, 6), (2, 6, 2)])
def test_transposed_convolutions(dtype, mode, groups, c_in, c_out):
    rng = np.random.default_rng(groups + c_in)
    for kernel, length, stride, dilation, more in (
        (1, 7, 1, 1, 0), (5, 300, 1, 3, 1), (257, 900, 1, 1, 0), (300, 400, 4, 1, 3),
        (63, 700, 1, 11, 2), (7, 90, 9, 1, 5), (513, 20, 512, 1, 0),
    ):  # fmt: skip
        x = normal(rng, 2, c_in, length, dtype=dtype)
        w = normal(rng, c_in, c_out // groups, kernel, dtype=dtype)
        b = normal(rng, c_out, dtype=dtype)
        whole = (length - 1) * stride + dilation * (kernel - 1) + 1
        window = {"stride": stride, "padding": (whole // 5, whole // 4), "dilation": dilation}
        window |= {"groups": groups, "padding_mode": mode, "output_padding": more}
        y = conv_transpose1d(x, w, b, **window, algorithm="fft")
        expected = conv_transpose1d(x, w, b, **window, algorithm="blas")
        # positions may have several cropped ones added
        assert relative_error(y, expected, x, w, axes=(0, 2)) < 40


@pytest.mark.parametrize("stride", [1, 3])
def test_gradients(stride):
    rng = np.random.default_rng(1)
    for groups, most, mode in ((1, 1, "zeros"), (2, 5, "reflect"), (6, 1, "circular")):
        dilation = most if stride == 1 else 1
        x, w = normal(rng, 2, 6, 900), normal(rng, 6, 6 // groups, 131)
        window = {"stride": stride, "padding": (40, 11), "dilation": dilation, "groups": groups}
        window["padding_mode"] = mode
        g = normal(rng, *conv1d(x, w, **window).shape)
        actual = conv1d_backward(g, x, w, **window, algorithm="fft")
        expected = conv1d_backward(g, x, w, **window)
        assert actual[0].tobytes() != expected[0].tobytes()
        for got, want, other in zip(actual, expected, (w, x, x), strict=True):
            assert_transforms_accurate(got, want, g, other)
        actual = conv_transpose1d_backward(
            normal(rng, *conv_transpose1d(x, w, **window).shape), x, w, **window, algorithm="fft"
        )
        assert [a.shape for a in actual] == [x.shape, w.shape, (6,)]


def test_gradients_of_a_depthwise_layer_are_adjoint():
    rng = np.random.default_rng(2)
    x, w = normal(rng, 2, 3, 5000, dtype="float64"), normal(rng, 3, 1, 777, dtype="float64")
    window = {"padding": "causal", "groups": 3, "algorithm": "fft"}
    g = normal(rng, 2, 3, 5000, dtype="float64")
    by_input, by_weight, _ = conv1d_backward(g, x, w, **window)
    assert np.vdot(by_weight, w) == pytest.approx(np.vdot(g, conv1d(x, w, **window)), rel=1e-11)
    assert np.vdot(by_input, x) == pytest.approx(np.vdot(g, conv1d(x, w, **window)), rel=1e-11)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_training(threads):
    rng = np.random.default_rng(3)
    options = {"groups": 4, "padding": 40, "dilation": 2, "activation": "silu"}
    layers = [
        Conv1d(4, 4, 301, **options, algorithm=a, dtype=np.float64, rng=np.random.default_rng(0))
        for a in ("fft", "auto")
    ]
    x = normal(rng, 2, 4, 2000, dtype="float64")
    with fastconv1d.num_threads(threads):
        got = []
        for layer in layers:
            y = layer.train()(x)
            got.append((y, layer.backward(np.cos(y)), layer.weight_grad, layer.bias_grad))
    for actual, expected in zip(*got, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)


# ---- steps, layouts, strides, sizes --------------------------------------------------------------


@pytest.mark.parametrize("layout", ["NCL", "NLC"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("pre", [None, "relu", ("snake", np.ones(4))])
@pytest.mark.parametrize("act", [None, "tanh", ("snake", np.linspace(1, 2, 4))])
@pytest.mark.parametrize("position", ["before", "after"])
def test_steps(layout, transposed, pre, act, position):
    rng = np.random.default_rng(4)
    make = ConvTranspose1d if transposed else Conv1d
    options = {
        "padding": (40, 3), "dilation": 3, "pre_activation": pre, "activation": act,
        "layout": layout,
        "residual_position": position, "residual_scale": -0.5, "groups": 2,
    }  # fmt: skip
    layer = make(4, 4, 150, **options, algorithm="fft")
    direct = make(4, 4, 150, **options)
    direct.load_state_dict(layer.state_dict())
    assert by_transforms(layer)
    shape = (2, 1111, 4) if layout == "NLC" else (2, 4, 1111)
    x = normal(rng, *shape)
    residual = normal(rng, *direct(x).shape)
    for more in (None, residual):
        expected = direct(x, residual=more)
        out = np.empty_like(expected)
        assert layer(x, residual=more, out=out) is out
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(layer(x, residual=more), out)


def test_complex_residual():
    rng = np.random.default_rng(5)
    layer = Conv1d(2, 2, 99, dtype=np.complex64, algorithm="fft", residual_scale=2.0)
    exact = Conv1d(2, 2, 99, dtype=np.complex64, residual_scale=2.0)
    exact.load_state_dict(layer.state_dict())
    x = normal(rng, 1, 2, 500, dtype="complex64")
    more = normal(rng, 1, 2, 402, dtype="complex64")
    np.testing.assert_allclose(layer(x, residual=more), exact(x, residual=more), atol=1e-4)


def test_sixteen_bits():
    rng = np.random.default_rng(6)
    layer = Conv1d(3, 3, 200, groups=3, padding="same", activation="relu", algorithm="fft")
    x = normal(rng, 2, 3, 900).astype(np.float16)
    y = layer(x, residual=x)
    wide = layer(x.astype(np.float32), residual=x.astype(np.float32))
    assert y.dtype == np.float16
    np.testing.assert_array_equal(y, wide.astype(np.float16))


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_any_strides_have_the_same_bits(dtype):
    rng = np.random.default_rng(7)
    x, w = normal(rng, 3, 4, 1500, dtype=dtype), normal(rng, 4, 2, 130, dtype=dtype)
    b = normal(rng, 4, dtype=dtype)
    for window in ({"padding": 9}, {"dilation": 4, "padding": "same"}, {"stride": 3}):
        y = conv1d(x, w, b, groups=2, algorithm="fft", **window)
        for _ in range(20):
            views = [random_view(a, rng) for a in (x, w, b)]
            assert conv1d(*views, groups=2, algorithm="fft", **window).tobytes() == y.tobytes()
        out = np.zeros((*y.shape[:2], 2 * y.shape[2]), dtype)[:, :, ::-2]
        assert conv1d(x, w, b, groups=2, algorithm="fft", out=out, **window) is out
        np.testing.assert_array_equal(out, y)


def test_empty_arrays():
    w = np.ones((2, 2, 100))
    assert conv1d(np.ones((0, 2, 500)), w, algorithm="fft").shape == (0, 2, 401)
    assert conv_transpose1d(np.ones((1, 2, 1)), w, padding=50, algorithm="fft").shape == (1, 2, 0)
    layer = Conv1d(2, 2, 100, algorithm="fft", padding=99)
    assert layer(np.ones((0, 2, 3), np.float32)).shape == (0, 2, 102)
    assert layer(np.ones((2, 1), np.float32)).shape == (2, 100)
    with pytest.raises(ValueError, match="Kernel size can't be greater"):
        Conv1d(2, 2, 100, algorithm="fft")(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match="to have 2 channels, but got 3"):
        layer(np.ones((3, 300), np.float32))
    with pytest.raises(TypeError, match="should be the same"):
        layer(np.ones((2, 300)))
    with pytest.raises(ValueError, match="out should share no memory"):
        x = np.ones((2, 399), np.float32)
        Conv1d(2, 2, 100, algorithm="fft", padding="same")(x, out=x)


# ---- promises ------------------------------------------------------------------------------------


def test_error_is_near_that_of_the_direct_engine():
    rng = np.random.default_rng(8)
    errors = []
    for _ in range(60):
        groups, kernel = int(rng.integers(1, 4)), int(rng.integers(40, 3000))
        x, w = normal(rng, 1, groups, 2 * kernel + 1000), normal(rng, groups, 1, kernel)
        exact = conv1d(x.astype(np.float64), w.astype(np.float64), groups=groups)
        by = {a: conv1d(x, w, groups=groups, algorithm=a) for a in ("fft", "direct")}
        error = {a: np.abs(y - exact).max() for a, y in by.items()}
        errors.append(error["fft"] / error["direct"])
        bound = np.log2(kernel) / 2 * np.finfo(np.float32).eps
        assert error["fft"] <= bound * np.abs(w).sum(2).max() * np.abs(x).max()
    assert max(errors) < 4


@pytest.mark.parametrize(
    "options",
    [{"groups": 3}, {"groups": 1}, {"groups": 3, "dilation": 5}, {"groups": 3, "stride": 4}],
    ids=str,
)
def test_bits_do_not_depend_on_threads_batch_or_how_long_the_row_is(options):
    rng = np.random.default_rng(9)
    layer = Conv1d(3, 3, 333, **options, rng=rng, algorithm="fft", padding=100)
    function = {"padding": 100, "algorithm": "fft", **options}
    x = normal(rng, 3, 3, 200_000)
    y = layer(x)
    for threads in (1, 2, 3, 8):
        with fastconv1d.num_threads(threads):
            assert layer(x).tobytes() == y.tobytes()
            assert conv1d(x, layer.weight, layer.bias, **function).tobytes() == y.tobytes()
    for n in range(3):
        assert layer(x[n]).tobytes() == y[n].tobytes()
    # a prefix keeps its bits but for the last block of each row
    geometry = layer._spec.geometry(x.shape, layer.weight.shape, None)
    made = fft.plan(layer.weight.shape, x.dtype, geometry, False, y.shape[2])
    lost = made.step * options.get("dilation", 1) + 333 * options.get("dilation", 1)
    prefix = layer(x[:, :, :150_000])
    kept = prefix.shape[2] - lost
    assert kept > 2000
    np.testing.assert_array_equal(prefix[:, :, :kept], y[:, :, :kept])


def test_what_is_not_finite_reaches_its_blocks():
    rng = np.random.default_rng(10)
    layer = Conv1d(2, 2, 200, groups=2, algorithm="fft")
    x = normal(rng, 1, 2, 100_000)
    y = layer(x)
    step = 2 * block_size(200, 1, 1, 4) - 199
    for value in (np.nan, np.inf):
        bad = x.copy()
        bad[0, 1, 50_000] = value
        z = layer(bad)
        np.testing.assert_array_equal(z[0, 0], y[0, 0])  # the other channel
        touched = np.flatnonzero(~np.isfinite(z[0, 1]))
        assert set(range(50_000 - 199, 50_001)) <= set(touched)
        first, last = (50_000 - 199) // step * step, (50_000 // step + 1) * step
        assert first <= touched[0] <= touched[-1] < last
        same = np.r_[0:first, last : y.shape[2]]
        np.testing.assert_array_equal(z[0, 1, same], y[0, 1, same])
        assert np.isnan(z[0, 1, touched]).all()


def test_weights_that_are_not_finite():
    x = np.ones((1, 1, 500))
    w = np.ones((1, 1, 70))
    w[0, 0, 3] = np.inf
    np.testing.assert_array_equal(
        conv_transpose1d(x, w, algorithm="fft"), conv_transpose1d(x, w, algorithm="blas")
    )
    assert np.isnan(conv1d(x, w, algorithm="fft")).all()


def test_deterministic_mode_is_direct(deterministic):
    rng = np.random.default_rng(11)
    for algorithm in ("fft", "fast"):
        layer = Conv1d(2, 2, 900, groups=2, rng=rng, algorithm=algorithm, activation="relu")
        direct = Conv1d(2, 2, 900, groups=2, activation="relu")
        direct.load_state_dict(layer.state_dict())
        x = normal(rng, 2, 5000)
        assert layer(x).tobytes() == direct(x).tobytes()
        assert explain(layer, x.shape)["engine"] == "direct"
        y = conv1d(x, layer.weight, groups=2, algorithm=algorithm)
        assert y.tobytes() == conv1d(x, layer.weight, groups=2).tobytes()
    z = normal(rng, 1, 2, 900, dtype="complex64")
    layer = Conv1d(2, 2, 100, dtype=np.complex64, algorithm="fft")
    expected = conv1d(z, layer.weight, layer.bias)
    assert layer(z).tobytes() == expected.tobytes()


def test_memory_is_bounded():
    taps = np.ones((1, 1, 5001), np.float32)
    layer = Conv1d(1, 1, 5001, padding="same", algorithm="fft")
    x = np.ones((1, 4_000_000), np.float32)
    out = np.empty_like(x)
    layer(x, out=out)
    tracemalloc.start()
    layer(x, out=out)
    conv1d(x, taps, padding="same", algorithm="fft", out=out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


# ---- layers --------------------------------------------------------------------------------------


def test_spectra_are_kept_and_dropped(monkeypatch):
    calls = []
    made = fft.weight_spectra
    monkeypatch.setattr(fft, "weight_spectra", lambda *a: calls.append(a) or made(*a))
    rng = np.random.default_rng(12)
    layer = Conv1d(2, 2, 400, groups=2, algorithm="fft", padding="causal")
    x = normal(rng, 2, 20_000)
    first = layer(x)
    layer(x)
    assert len(calls) == 1
    weight = layer.weight * 2
    layer.weight = weight
    second = layer(x)
    assert len(calls) == 2
    layer.bias = np.zeros(2, np.float32)
    np.testing.assert_array_equal(
        layer(x), conv1d(x, weight, groups=2, padding="causal", algorithm="fft")
    )
    assert not np.array_equal(first, second)
    copied = pickle.loads(pickle.dumps(layer))
    assert copied.algorithm == "fft"
    assert copied(x).tobytes() == layer(x).tobytes()


def test_layers_that_transforms_do_not_compute():
    rng = np.random.default_rng(13)
    for options in ({"stride": 2, "dilation": 3}, {"stride": 2, "padding": "same_upper"}):
        layer = Conv1d(2, 3, 5, **options, algorithm="fft")
        direct = Conv1d(2, 3, 5, **options)
        direct.load_state_dict(layer.state_dict())
        x = normal(rng, 2, 99)
        if "dilation" in options:
            assert not by_transforms(layer)
            assert layer(x).tobytes() == direct(x).tobytes()
        else:
            np.testing.assert_allclose(layer(x), direct(x), atol=1e-5)


def test_in_a_network():
    rng = np.random.default_rng(14)

    def net(algorithm):
        options = {"padding": "same", "groups": 8, "algorithm": algorithm}
        return Sequential(
            Residual(LeakyReLU(0.1), Conv1d(8, 8, 301, **options)),
            Conv1d(8, 8, 301, **options),
            LeakyReLU(0.1),
        )

    direct = net("auto")
    x = normal(rng, 1, 8, 4000)
    expected = direct(x)
    for algorithm in ("fft", "fast"):
        fast = net(algorithm)
        fast.load_state_dict(direct.state_dict())
        y = fast(x)
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)
        assert y.tobytes() != expected.tobytes()
    with config.algorithm("fast"):
        assert direct(x).tobytes() == y.tobytes()
    assert direct(x).tobytes() == expected.tobytes()


# ---- what is taken, and by default ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "length", "engine"),
    [
        (lambda: Conv1d(1, 1, 4097, algorithm="fast"), 100_000, "fft"),
        (lambda: Conv1d(8, 8, 2000, groups=8, algorithm="fast"), 30_000, "fft"),
        (lambda: Conv1d(8, 8, 5, groups=8, algorithm="fast"), 30_000, "direct"),
        (lambda: Conv1d(128, 128, 3, algorithm="fast"), 1000, "winograd"),
        (lambda: Conv1d(16, 16, 1, algorithm="fast"), 1000, "direct"),
        (lambda: Conv1d(64, 64, 3, algorithm="fast"), 20_000, "winograd"),
        (lambda: Conv1d(64, 64, 7, dilation=3, algorithm="fast"), 3000, "fft"),
        (lambda: Conv1d(256, 256, 3, algorithm="fast"), 32, "direct"),  # too short
        (lambda: Conv1d(192, 192, 11, algorithm="fast"), 74, "direct"),  # two tiles
        (lambda: Conv1d(4, 768, 15, algorithm="fast"), 10_000, "direct"),  # few inputs
        (lambda: Conv1d(128, 128, 3, stride=2, algorithm="fast"), 3000, "direct"),
        (lambda: Conv1d(1, 1, 4097), 100_000, "direct"),
        (lambda: Conv1d(1, 1, 5, algorithm="fft"), 1000, "fft"),
        (lambda: Conv1d(1, 1, 5, stride=2, dilation=2, algorithm="fft"), 1000, "direct"),
    ],
)
def test_what_is_taken(layer, length, engine):
    layer = layer()
    told = explain(layer, (1, layer.in_channels, length))
    assert told["engine"] == engine
    if layer.algorithm == "fast":
        assert min(told["expected"], key=told["expected"].get) == engine
    x = normal(np.random.default_rng(0), 1, layer.in_channels, length)
    by_engine = "auto" if engine == "direct" else engine
    other = Conv1d(
        layer.in_channels, layer.out_channels, layer.kernel_size, stride=layer.stride,
        dilation=layer.dilation, groups=layer.groups, algorithm=by_engine,
    )  # fmt: skip
    other.load_state_dict(layer.state_dict())
    assert layer(x).tobytes() == other(x).tobytes()


def test_short_inputs_of_a_fast_layer_are_direct():
    layer = Conv1d(4, 4, 300, groups=4, padding="causal", algorithm="fast")
    engines = [explain(layer, (1, 4, length))["engine"] for length in (1, 100_000)]
    assert engines == ["direct", "fft"]
    direct = Conv1d(4, 4, 300, groups=4, padding="causal")
    direct.load_state_dict(layer.state_dict())
    x = np.ones((4, 1), np.float32)
    assert layer(x).tobytes() == direct(x).tobytes()


def test_the_default():
    rng = np.random.default_rng(15)
    x, w = normal(rng, 1, 1, 50_000), normal(rng, 1, 1, 3000)
    plain, fast = conv1d(x, w), conv1d(x, w, algorithm="fft")
    layer = Conv1d.from_state_dict({"weight": w})
    assert plain.tobytes() != fast.tobytes()
    assert layer(x).tobytes() == plain.tobytes()
    assert config.get_algorithm() == "auto"
    with config.algorithm("fast"):
        assert config.get_algorithm() == "fast"
        assert conv1d(x, w).tobytes() == layer(x).tobytes() == fast.tobytes()
        assert conv1d(x, w, algorithm="direct").tobytes() == plain.tobytes()
        with config.algorithm("auto"):
            assert conv1d(x, w).tobytes() == layer(x).tobytes() == plain.tobytes()
        assert explain(layer, x.shape)["engine"] == "fft"
    assert conv1d(x, w).tobytes() == layer(x).tobytes() == plain.tobytes()
    config.set_algorithm("fast")
    try:
        assert config.config_info()["algorithm"] == "fast"
        assert conv1d(x, w).tobytes() == layer(x).tobytes() == fast.tobytes()
    finally:
        config.set_algorithm("auto")
    assert layer(x).tobytes() == plain.tobytes()


def test_the_default_from_the_environment(monkeypatch, capsys):
    monkeypatch.setenv("FASTCONV1D_ALGORITHM", "fast")
    config._algorithm_from_environment()
    try:
        assert config.get_algorithm() == "fast"
        fastconv1d.show_config()
        assert "algorithm      fast" in capsys.readouterr().out
    finally:
        config.set_algorithm("auto")
    monkeypatch.setenv("FASTCONV1D_ALGORITHM", "fft")
    with pytest.warns(RuntimeWarning, match="FASTCONV1D_ALGORITHM should be one of auto, fast"):
        config._algorithm_from_environment()
    assert config.get_algorithm() == "auto"


def test_errors():
    known = "'auto', 'blas', 'direct', 'fast', 'fft', 'winograd'"
    one = np.ones((1, 1, 1))
    for make in (
        lambda a: Conv1d(1, 1, 1, algorithm=a),
        lambda a: ConvTranspose1d(1, 1, 1, algorithm=a),
        lambda a: conv1d(one, one, algorithm=a),
        lambda a: conv1d_backward(one, one, one, algorithm=a),
    ):
        with pytest.raises(ValueError, match=f"algorithm should be one of {known}, got 'quick'"):
            make("quick")
    with pytest.raises(ValueError, match="set_algorithm expects one of auto, fast, got 'fft'"):
        config.set_algorithm("fft")
    with (
        pytest.raises(TypeError, match="algorithm expects a str, but got int"),
        config.algorithm(1),
    ):
        pass


def test_planes_take_fast_as_direct():
    rng = np.random.default_rng(16)
    x, w = normal(rng, 1, 2, 9, 9), normal(rng, 2, 2, 3, 3)
    expected = fastconv1d.conv2d(x, w)
    for algorithm in ("fast", "fft"):
        assert fastconv1d.conv2d(x, w, algorithm=algorithm).tobytes() == expected.tobytes()
        layer = fastconv1d.Conv2d(2, 2, 3, algorithm=algorithm)
        direct = fastconv1d.Conv2d(2, 2, 3)
        direct.load_state_dict(layer.state_dict())
        assert layer(x).tobytes() == direct(x).tobytes()


# ---- streams ------------------------------------------------------------------------------------


def streamed(stream, x, chunks):
    """The outputs of chunks of x, of the lengths that `chunks` gives, and of the end."""
    parts, at = [], 0
    for n in itertools.cycle(chunks):
        if at >= x.shape[-1]:
            break
        parts.append(stream(x[..., at : at + n]))
        at += n
    return np.concatenate([*parts, stream.flush()], axis=-1)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_a_stream(transposed, dtype):
    rng = np.random.default_rng(17)
    make = ConvTranspose1d if transposed else Conv1d
    options = {"groups": 2, "dtype": dtype}
    layer, direct = (make(2, 2, 700, **options, algorithm=a) for a in ("fft", "auto"))
    direct.load_state_dict(layer.state_dict())
    x = normal(rng, 1, 2, 3000, dtype=dtype)
    y = streamed(layer.stream(), x, (1000, 2000))
    assert_transforms_accurate(y, direct(x), x, layer.weight)


CHUNKS = [(480,), (64,), (256,), (1, 300, 17, 1000), (16,), (5000, 100, 100)]


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize("layout", ["NCL", "NLC"])
@pytest.mark.parametrize(
    ("groups", "c_in", "c_out", "options"),
    [
        (1, 1, 2, {"padding": "causal"}),
        (3, 3, 3, {"padding": (700, 900), "activation": "tanh", "pre_activation": "relu"}),
        (2, 4, 2, {"padding": 0, "bias": False}),
        (3, 3, 3, {"padding": (9, 2), "padding_mode": "reflect"}),
    ],
)
def test_a_stream_of_a_kernel_in_parts(chunks, layout, groups, c_in, c_out, options):
    rng = np.random.default_rng(18)
    layer = Conv1d(c_in, c_out, 2100, groups=groups, **options, layout=layout, algorithm="fft")
    direct = Conv1d(c_in, c_out, 2100, groups=groups, **options, layout=layout)
    direct.load_state_dict(layer.state_dict())
    stream, exact = layer.stream(n_batch=2), direct.stream(n_batch=2)
    for length in (9000, 4000):  # the second with what is kept of the first
        x = normal(rng, 2, c_in, length)
        at, axis = 0, 2
        x = np.ascontiguousarray(x.swapaxes(1, 2)) if layout == "NLC" else x
        axis = 1 if layout == "NLC" else 2
        for n in itertools.cycle(chunks):
            if at >= length:
                break
            chunk = x[:, at : at + n] if layout == "NLC" else x[:, :, at : at + n]
            expected, y = exact(chunk), stream(chunk)
            assert y.shape == expected.shape
            np.testing.assert_allclose(y, expected, rtol=0, atol=3e-6)
            at += n
        np.testing.assert_allclose(stream.flush(), exact.flush(), rtol=0, atol=3e-6)
        assert axis in (1, 2)


def test_a_stream_in_parts_takes_other_states():
    """What is kept of the past is that of the state that a stream is in."""
    rng = np.random.default_rng(19)
    layer = Conv1d(2, 2, 2000, groups=2, padding="causal", algorithm="fft")
    direct = Conv1d(2, 2, 2000, groups=2, padding="causal")
    direct.load_state_dict(layer.state_dict())
    streams = layer.stream(n_batch=3), direct.stream(n_batch=3)
    kept = []
    for step in range(60):
        x = normal(rng, 3, 2, 300)
        y, expected = (stream(x) for stream in streams)
        np.testing.assert_allclose(y, expected, rtol=0, atol=2e-6)
        if step % 7 == 3:
            kept.append([stream.state_dict() for stream in streams])
        if step % 11 == 5:
            for stream in streams:
                stream.reset([1])
        if step % 13 == 7:
            for stream, state in zip(streams, kept[0], strict=True):
                stream.load_state_dict(state)
        if step == 40:
            streams = [pickle.loads(pickle.dumps(stream)) for stream in streams]
        if step == 50:
            for stream in streams:
                stream.reset()


def test_a_stream_in_deterministic_mode_is_direct(deterministic):
    rng = np.random.default_rng(20)
    layer = Conv1d(2, 2, 2000, groups=2, padding="causal", algorithm="fft")
    direct = Conv1d(2, 2, 2000, groups=2, padding="causal")
    direct.load_state_dict(layer.state_dict())
    x = normal(rng, 1, 2, 5000)
    assert streamed(layer.stream(), x, (300,)).tobytes() == direct(x).tobytes()


# ---- guests -------------------------------------------------------------------------------------


def test_accelerated_models():
    torch = pytest.importorskip("torch")
    from fastconv1d.torch import accelerate

    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv1d(4, 4, 2000, groups=4, padding=1000), torch.nn.ReLU(),
        torch.nn.Conv1d(4, 4, 3), torch.nn.ConvTranspose1d(4, 2, 1500),
    ).eval()  # fmt: skip
    x = torch.randn(2, 4, 6000)
    with torch.no_grad():
        expected = model(x)
        plain = accelerate(model)[0](x)
        for algorithm in ("fast", "fft"):
            fast, report = accelerate(model, algorithm=algorithm)
            engines = [layer["engine"] for layer in report.layers.values()]
            assert engines == ["fft", "direct" if algorithm == "fast" else "fft", "fft"]
            y = fast(x)
            assert torch.allclose(y, expected, atol=1e-5)
            assert not torch.equal(y, plain)
            assert torch.equal(fast(x), y)
            model[0].weight.mul_(2)  # another's, as the model was copied
            fast[0].weight.mul_(0)
            assert torch.allclose(fast[0](x), fast[0].bias[:, None].expand(2, 4, -1), atol=1e-6)
            model[0].weight.div_(2)
        with config.algorithm("fast"):
            by_default = accelerate(model)[0]
        assert torch.equal(by_default(x), accelerate(model, algorithm="fast")[0](x))


def test_models_of_onnx():
    pytest.importorskip("onnx")
    from fastconv1d.onnx import from_onnx, to_onnx

    net = Sequential(Conv1d(2, 2, 3000, groups=2, padding=1500, rng=np.random.default_rng(0)))
    proto = to_onnx(net)
    x = normal(np.random.default_rng(1), 1, 2, 20_000)
    plain, fast = from_onnx(proto)(x), from_onnx(proto, algorithm="fast")(x)
    assert plain.tobytes() == net(x).tobytes()
    with config.algorithm("fast"):
        assert fast.tobytes() == net(x).tobytes() == from_onnx(proto)(x).tobytes()
    assert fast.tobytes() != plain.tobytes()
    with pytest.raises(ValueError, match="expects one of auto, fast, got 'fft'"):
        from_onnx(proto, algorithm="fft")
