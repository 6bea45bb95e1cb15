"""algorithm="winograd": the identity it rests on, its error, its steps, and when it is used."""

import tracemalloc

import numpy as np
import pytest

import fastconv1d
from fastconv1d import Conv1d, LeakyReLU, Residual, Sequential, conv1d
from fastconv1d.core.chosen import engine_of
from fastconv1d.core.minimal import matrices

# The largest error in units of u times the largest sum |w||x| + |b| of any output.
LIMIT = 16


def _layer(shape, dtype="float32", rng=None, **options):
    c_out, c_in, kernel_size = shape
    return Conv1d(c_in, c_out, kernel_size, dtype=dtype, rng=rng, algorithm="winograd", **options)


def _is_minimal(layer):
    return engine_of(layer._pack().run, 1000) == "winograd"


def _error(layer, x, y):
    """The largest error in units of u and the largest sum."""
    wide = [None if a is None else a.astype(np.float64) for a in (x, layer.weight, layer.bias)]
    geometry = {"padding": layer.padding, "dilation": layer.dilation}
    exact = conv1d(*wide, **geometry)
    scale = conv1d(*(None if a is None else np.abs(a) for a in wide), **geometry)
    return np.abs(y - exact).max() / (np.finfo(x.dtype).eps / 2 * scale.max())


@pytest.mark.parametrize("taps", [2, 3, 4])
def test_the_identity(taps):
    rng = np.random.default_rng(taps)
    by_input, by_output, by_weight = matrices(taps)
    assert by_input.shape == (6, 6)
    assert by_output.shape == (7 - taps, 6)
    assert by_weight.shape == (6, taps)
    # the kernels skip what is zero in all of them
    for matrix in (by_input, by_output):
        assert not matrix[1:, 0].any() and not matrix[:-1, -1].any()
    for _ in range(20):
        x, w = rng.integers(-9, 10, 6), rng.integers(-9, 10, taps)
        y = by_output @ ((by_weight @ w) * (by_input @ x))
        np.testing.assert_allclose(y, np.correlate(x, w, "valid"), rtol=0, atol=1e-11)


SHAPES = [
    (64, 64, 3), (40, 70, 5), (33, 65, 7), (32, 32, 11), (127, 65, 4), (24, 24, 32),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dilation", [1, 2, 3, 8, 9, 64])
def test_error(isa, shape, dilation):
    rng = np.random.default_rng(dilation)
    for dtype, bias, padding in (
        ("float32", True, "same"), ("float64", False, 0), ("float32", False, (3, 0)),
    ):  # fmt: skip
        layer = _layer(shape, dtype, rng, dilation=dilation, bias=bias, padding=padding)
        layer.weight = rng.standard_normal(layer.weight.shape).astype(dtype)
        assert _is_minimal(layer)
        for length in (dilation * (shape[2] - 1) + 1, 900):
            if length <= dilation * (shape[2] - 1):
                continue
            x = rng.standard_normal((2, shape[1], length)).astype(dtype)
            y = layer(x)
            assert y.dtype == dtype
            assert _error(layer, x, y) < LIMIT


@pytest.mark.parametrize("length", [*range(1, 40), 95, 96, 97, 383, 384, 385, 769])
def test_every_length(length):
    rng = np.random.default_rng(length)
    layer = _layer((64, 64, 3), rng=rng, padding=1)
    x = rng.standard_normal((64, length), np.float32)
    y = layer(x)
    assert y.shape == (64, length)
    assert _error(layer, x[None], y[None]) < LIMIT


@pytest.mark.parametrize("pre", [None, "relu", ("leaky_relu", 0.1), "tanh", ("snake", np.ones(64))])
@pytest.mark.parametrize("act", [None, "relu", ("elu", 0.5), ("snake", np.linspace(1, 2, 64))])
@pytest.mark.parametrize("position", ["before", "after"])
@pytest.mark.parametrize("scale", [1.0, -0.5])
def test_steps(pre, act, position, scale):
    rng = np.random.default_rng(5)
    options = {
        "padding": (4, 1), "dilation": 3, "pre_activation": pre, "activation": act,
        "residual_position": position, "residual_scale": scale,
    }  # fmt: skip
    layer = _layer((64, 64, 3), rng=rng, **options)
    direct = Conv1d(64, 64, 3, **options)
    direct.load_state_dict(layer.state_dict())
    assert _is_minimal(layer)
    x = rng.standard_normal((2, 64, 333), np.float32)
    residual = rng.standard_normal((2, 64, 332), np.float32)
    for more in (None, residual):
        expected = direct(x, residual=more)
        out = np.empty_like(expected)
        assert layer(x, residual=more, out=out) is out
        np.testing.assert_allclose(out, expected, rtol=0, atol=2e-5)
        np.testing.assert_array_equal(layer(x, residual=more), out)


def test_bits_do_not_depend_on_threads_batch_or_place():
    rng = np.random.default_rng(6)
    layer = _layer((64, 64, 7), rng=rng, padding=3)
    x = rng.standard_normal((3, 64, 3000), np.float32)
    y = layer(x)
    for threads in (1, 2, 3):
        with fastconv1d.num_threads(threads):
            assert layer(x).tobytes() == y.tobytes()
    for n in range(3):
        assert layer(x[n]).tobytes() == y[n].tobytes()
    # a prefix keeps its bits but for the last tile
    prefix = layer(x[:, :, :2000])
    np.testing.assert_array_equal(prefix[:, :, : 2000 - 3 - 32], y[:, :, : 2000 - 3 - 32])


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((64, 64, 33), {}),
        ((16, 16, 3), {}),
        ((64, 64, 1), {}),
        ((64, 64, 3), {"groups": 16}),
        ((64, 64, 3), {"padding": "same_upper", "stride": 2}),
    ],
)
def test_other_layers_are_computed_directly(shape, options):
    layer = _layer(shape, **options)
    assert not _is_minimal(layer)
    other = Conv1d(shape[1], shape[0], shape[2], **options)
    other.load_state_dict(layer.state_dict())
    x = np.random.default_rng(0).standard_normal((shape[1], 300), np.float32)
    assert layer(x).tobytes() == other(x).tobytes()


def test_deterministic_mode_is_computed_directly(deterministic):
    rng = np.random.default_rng(6)
    layer, direct = _layer((64, 64, 3), rng=rng), Conv1d(64, 64, 3)
    direct.load_state_dict(layer.state_dict())
    x = rng.standard_normal((64, 500), np.float32)
    residual = rng.standard_normal((64, 498), np.float32)
    assert layer(x).tobytes() == direct(x).tobytes()
    assert layer(x, residual=residual).tobytes() == direct(x, residual=residual).tobytes()
    fastconv1d.use_deterministic_algorithms(False)
    assert layer(x).tobytes() != direct(x).tobytes()


def test_a_stream_is_computed_directly():
    rng = np.random.default_rng(7)
    layer, direct = (
        _layer((64, 64, 3), rng=rng, padding="causal"),
        Conv1d(64, 64, 3, padding="causal"),
    )
    direct.load_state_dict(layer.state_dict())
    x = rng.standard_normal((64, 300), np.float32)
    stream = layer.stream()
    parts = [stream(x[:, :100]), stream(x[:, 100:])]
    assert np.concatenate(parts, axis=-1).tobytes() == direct(x).tobytes()


def test_any_layout_has_the_same_bits():
    rng = np.random.default_rng(1)
    layer = _layer((64, 64, 3), rng=rng, padding=1)
    x = rng.standard_normal((2, 64, 50), np.float32)
    residual = rng.standard_normal(x.shape, np.float32)
    y = layer(x, residual=residual)
    views = [
        np.repeat(x, 2, axis=2)[:, :, ::2],
        np.asfortranarray(x),
        x[:, ::-1].copy()[:, ::-1],
        np.concatenate([x, x], axis=2)[:, :, :50],
        x.astype(">f4"),
    ]
    for view in views:
        assert layer(view, residual=residual).tobytes() == y.tobytes()
    assert layer(x, residual=np.asfortranarray(residual)).tobytes() == y.tobytes()
    strided = np.zeros((2, 64, 100), np.float32)[:, :, ::2]
    assert layer(x, residual=residual, out=strided) is strided
    np.testing.assert_array_equal(strided, y)
    assert layer(x[0], residual=residual[0]).tobytes() == y[0].tobytes()


def test_other_inputs():
    rng = np.random.default_rng(1)
    layer = _layer((64, 64, 3), rng=rng)
    assert _is_minimal(layer)
    direct = Conv1d(64, 64, 3)
    direct.load_state_dict(layer.state_dict())
    x = rng.standard_normal((2, 64, 50), np.float32)
    half = x.astype(np.float16)
    np.testing.assert_allclose(layer(half), direct(half), rtol=2e-3, atol=1e-4)
    assert layer(x[:0]).shape == (0, 64, 48)
    with pytest.raises(ValueError, match="to have 64 channels, but got 63"):
        layer(x[:, 1:])
    with pytest.raises(ValueError, match="out should share no memory"):
        layer(x, out=x[:, :, 1:-1])
    with pytest.raises(ValueError, match="out should have the shape"):
        layer(x, out=np.empty((2, 64, 47), np.float32))
    with pytest.raises(ValueError, match="Kernel size can't be greater"):
        layer(x[:, :, :2])
    with pytest.raises(ValueError, match="residual should have the size"):
        layer(x, residual=x)
    with pytest.raises(TypeError, match="should be the same"):
        layer(x.astype(np.float64))
    layer.train()
    assert layer(x).tobytes() == direct(x).tobytes()


def test_scratch_is_bounded():
    layer = _layer((64, 64, 11), padding="same")
    x = np.ones((64, 200_000), np.float32)
    out = layer(x)
    tracemalloc.start()
    layer(x, out=out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 4 << 20


def test_in_a_network():
    rng = np.random.default_rng(2)

    def net(algorithm):
        return Residual(
            LeakyReLU(0.1),
            Conv1d(64, 64, 7, padding="same", dilation=3, algorithm=algorithm),
            LeakyReLU(0.1),
            Conv1d(64, 64, 7, padding="same", algorithm=algorithm),
        )

    fast, direct = Sequential(net("winograd")), Sequential(net("auto"))
    fast.load_state_dict(direct.state_dict())
    x = rng.standard_normal((1, 64, 1000), np.float32)
    y, expected = fast(x), direct(x)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)
    assert y.tobytes() != expected.tobytes()


def test_what_is_asked_for():
    known = "'auto', 'blas', 'direct', 'fast', 'fft', 'winograd'"
    with pytest.raises(ValueError, match=f"one of {known}, got 'toom'"):
        Conv1d(1, 1, 1, algorithm="toom")
    assert not _is_minimal(Conv1d(64, 64, 3, dtype="complex64", algorithm="winograd"))
    x, w = np.ones((64, 20)), np.ones((64, 64, 3))
    assert conv1d(x, w, algorithm="winograd").tobytes() == conv1d(x, w).tobytes()
