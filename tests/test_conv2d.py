"""Two dimensions against the reference: exact, on every instruction set, any layout and threads."""

import itertools
import pickle

import numpy as np
import pytest

import fastconv1d
from fastconv1d import reference
from fastconv1d.kernels import direct_engine
from fastconv1d.planner import explain

ISAS = direct_engine.supported_isas()


@pytest.fixture(params=ISAS)
def isa(request):
    before = direct_engine.isa()
    direct_engine.set_isa(request.param)
    yield request.param
    direct_engine.set_isa(before)


def whole(rng, shape, dtype="float32"):
    return rng.integers(-4, 5, shape).astype(dtype)


# (C_in, C_out, groups), kernel, stride, dilation, size: what each has a path of its own for
LAYERS = [
    ((3, 8, 1), (7, 7), (2, 2), (1, 1), (23, 31)),
    ((16, 24, 1), (3, 3), (1, 1), (1, 1), (14, 14)),
    ((40, 9, 1), (3, 3), (1, 1), (1, 1), (7, 7)),
    ((8, 64, 1), (3, 3), (2, 2), (1, 1), (15, 16)),
    ((5, 6, 1), (1, 1), (1, 1), (1, 1), (9, 13)),
    ((5, 6, 1), (1, 1), (2, 2), (1, 1), (9, 13)),
    ((4, 6, 2), (5, 1), (1, 1), (1, 1), (20, 17)),
    ((4, 6, 2), (1, 5), (1, 1), (1, 1), (20, 17)),
    ((4, 6, 1), (5, 1), (2, 1), (1, 1), (33, 1)),
    ((4, 6, 1), (1, 5), (1, 2), (1, 3), (1, 33)),
    ((7, 7, 7), (3, 3), (1, 1), (1, 1), (12, 13)),
    ((7, 7, 7), (3, 3), (2, 2), (1, 1), (12, 13)),
    ((7, 7, 7), (5, 5), (1, 1), (1, 1), (7, 7)),
    ((7, 7, 7), (5, 5), (2, 2), (1, 1), (40, 70)),
    ((7, 7, 7), (5, 5), (2, 1), (1, 1), (9, 30)),
    ((7, 14, 7), (3, 3), (1, 1), (2, 2), (12, 13)),
    ((2, 3, 1), (3, 3), (1, 1), (3, 5), (25, 700)),
    ((2, 3, 1), (2, 3), (3, 2), (9, 40), (30, 120)),
    ((150, 4, 1), (12, 12), (1, 1), (1, 1), (13, 15)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("layer", LAYERS)
def test_every_path_is_exact(isa, layer, mode, dtype):
    (c_in, c_out, groups), kernel, stride, dilation, size = layer
    rng = np.random.default_rng(0)
    pads = [((min(2, n - 1), min(1, n - 1))) for n in size]
    x, b = whole(rng, (2, c_in, *size), dtype), whole(rng, c_out, dtype)
    w = whole(rng, (c_out, c_in // groups, *kernel), dtype)
    window = {"stride": stride, "padding": pads, "dilation": dilation, "groups": groups}
    expected = reference.conv2d(x, w, b, **window, padding_mode=mode)
    for threads in (1, 2):
        with fastconv1d.num_threads(threads):
            y = fastconv1d.conv2d(x, w, b, **window, padding_mode=mode)
        np.testing.assert_array_equal(y, expected)
    blas = fastconv1d.conv2d(x, w, b, **window, padding_mode=mode, algorithm="blas")
    np.testing.assert_array_equal(blas, expected)
    last = np.moveaxis(x, 1, -1).copy()
    y = fastconv1d.conv2d(last, w, b, **window, padding_mode=mode, layout="NHWC")
    np.testing.assert_array_equal(np.moveaxis(y, -1, 1), expected)


@pytest.mark.parametrize("layer", LAYERS)
def test_steps_around_the_sums(layer):
    (c_in, c_out, groups), kernel, stride, dilation, size = layer
    rng = np.random.default_rng(1)
    x = whole(rng, (2, c_in, *size))
    w, b = whole(rng, (c_out, c_in // groups, *kernel)), whole(rng, c_out)
    window = {"stride": stride, "padding": 2, "dilation": dilation, "groups": groups}
    plain = fastconv1d.conv2d(np.maximum(x, 0), w, b, **window)
    more = whole(rng, plain.shape)
    around = {"pre_activation": "relu", "activation": "relu", "residual_scale": 2.0}
    for position in ("before", "after"):
        y = fastconv1d.conv2d(
            x, w, b, **window, **around, residual=more, residual_position=position
        )
        late = np.maximum(plain, 0) + 2 * more
        expected = late if position == "after" else np.maximum(plain + 2 * more, 0)
        np.testing.assert_array_equal(y, expected)
    layer_of = fastconv1d.Conv2d(c_in, c_out, kernel, **window, activation="gelu")
    layer_of.load_state_dict({"weight": w, "bias": b})
    np.testing.assert_allclose(
        layer_of(np.maximum(x, 0)),
        fastconv1d.GELU()._step().apply(plain.astype(np.float64)),
        rtol=1e-6,
        atol=1e-6,
    )


def test_bits_depend_on_neither_threads_batch_nor_layout():
    rng = np.random.default_rng(2)
    for (c_in, c_out, groups), kernel, stride, dilation, size in LAYERS:
        x = rng.standard_normal((3, c_in, *size)).astype(np.float32)
        w = rng.standard_normal((c_out, c_in // groups, *kernel)).astype(np.float32)
        layer = fastconv1d.Conv2d(c_in, c_out, kernel, stride, 2, dilation, groups, bias=False)
        layer.weight = w
        with fastconv1d.num_threads(1):
            y = layer(x)
        with fastconv1d.num_threads(3):
            np.testing.assert_array_equal(layer(x), y)
        for i in range(3):
            np.testing.assert_array_equal(layer(x[i]), y[i])
        np.testing.assert_array_equal(fastconv1d.conv2d(x, w, None, stride, 2, dilation, groups), y)
        layer.layout = "NHWC"
        np.testing.assert_array_equal(np.moveaxis(layer(np.moveaxis(x, 1, -1).copy()), -1, 1), y)


def test_a_kernel_of_one_row_has_the_bits_of_a_layer_of_one_dimension():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, 20, 50)).astype(np.float32)
    w = rng.standard_normal((30, 20, 5)).astype(np.float32)
    y = fastconv1d.conv1d(x, w, padding=2, stride=2)
    row = fastconv1d.conv2d(x[:, :, None], w[:, :, None], padding=(0, 2), stride=(1, 2))
    column = fastconv1d.conv2d(x[..., None], w[..., None], padding=(2, 0), stride=(2, 1))
    np.testing.assert_array_equal(row[:, :, 0], y)
    np.testing.assert_array_equal(column[..., 0], y)


@pytest.mark.parametrize(("flip", "order"), list(itertools.product((1, -1), ("C", "F"))))
def test_any_strides(flip, order):
    rng = np.random.default_rng(4)
    x = np.asarray(whole(rng, (2, 4, 9, 20)), order=order)[:, :, ::flip, ::flip]
    w = np.asarray(whole(rng, (6, 4, 3, 3)), order=order)[:, :, ::-flip]
    expected = reference.conv2d(x, w, padding=1)
    np.testing.assert_array_equal(fastconv1d.conv2d(x, w, padding=1), expected)
    out = np.zeros((2, 6, 9, 40), np.float32)[..., ::2]
    assert fastconv1d.conv2d(x, w, padding=1, out=out) is out
    np.testing.assert_array_equal(out, expected)


def test_accuracy_is_within_eight_units_of_roundoff():
    rng = np.random.default_rng(5)
    for (c_in, c_out, groups), kernel, stride, dilation, size in LAYERS:
        scale = 10.0 ** rng.uniform(-2, 2, (1, c_in, *size))
        x = (rng.standard_normal((1, c_in, *size)) * scale).astype(np.float32)
        w = rng.standard_normal((c_out, c_in // groups, *kernel)).astype(np.float32)
        window = {"stride": stride, "padding": 1, "dilation": dilation, "groups": groups}
        y = fastconv1d.conv2d(x, w, **window)
        exact = reference.conv2d(x.astype(np.float64), w.astype(np.float64), **window)
        sums = reference.conv2d(abs(x).astype(np.float64), abs(w).astype(np.float64), **window)
        assert (abs(y - exact) <= 8 * 2.0**-24 * sums).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_window(bad):
    for (c_in, c_out, groups), kernel, stride, dilation, size in LAYERS:
        x = np.ones((1, c_in, *size), np.float32)
        x[0, 0, size[0] // 2, size[1] // 2] = bad
        w = np.ones((c_out, c_in // groups, *kernel), np.float32)
        window = {"stride": stride, "padding": 1, "dilation": dilation, "groups": groups}
        y = fastconv1d.conv2d(x, w, **window)
        touched = reference.conv2d((~np.isfinite(x)).astype(np.float32), w, **window) > 0
        np.testing.assert_array_equal(~np.isfinite(y), touched)


def test_gradients_of_long_batches_and_large_strides():
    rng = np.random.default_rng(6)
    x, w = whole(rng, (300, 6, 9, 40), "float64"), whole(rng, (4, 6, 2, 3), "float64")
    y = fastconv1d.conv2d(x, w, stride=(9, 8))
    g = whole(rng, y.shape, "float64")
    by_input, by_weight, by_bias = fastconv1d.conv2d_backward(g, x, w, stride=(9, 8))
    dx, dw = whole(rng, x.shape, "float64"), whole(rng, w.shape, "float64")
    assert (g * reference.conv2d(dx, w, stride=(9, 8))).sum() == (by_input * dx).sum()
    assert (g * reference.conv2d(x, dw, stride=(9, 8))).sum() == (by_weight * dw).sum()
    np.testing.assert_array_equal(by_bias, g.sum((0, 2, 3)))


@pytest.mark.parametrize("stride", [(1, 2), (1, 4), (2, 1), (3, 3)])
@pytest.mark.parametrize("kernel", [(1, 2), (1, 3), (2, 1), (1, 1)])
def test_gradients_of_phases_of_one_tap(kernel, stride):
    rng = np.random.default_rng(11)
    x, w = whole(rng, (1, 4, 7, 15), "float64"), whole(rng, (3, 4, *kernel), "float64")
    window = {"stride": stride, "padding": ((1, 0), (1, 0)), "dilation": (1, 7)}
    g = whole(rng, reference.conv2d(x, w, **window).shape, "float64")
    by_input = fastconv1d.conv2d_backward(g, x, w, **window)[0]
    expected = fastconv1d.conv2d_backward(g, x, w, **window, algorithm="blas")[0]
    np.testing.assert_array_equal(by_input, expected)
    dx = whole(rng, x.shape, "float64")
    assert (g * reference.conv2d(dx, w, **window)).sum() == (by_input * dx).sum()


@pytest.mark.parametrize("value", [np.inf, 1.0])
def test_gradients_beside_weights_that_are_not_finite(value):
    g = np.ones((1, 1, 3, 3), np.float32)
    w = np.ones((1, 1, 2, 2), np.float32)
    w[0, 0, 0, 1] = value
    by_input = fastconv1d.grad.conv2d_input((1, 1, 4, 4), w, g)
    expected = np.array([[1, 2, 2, 1], [2, 4, 4, 2], [2, 4, 4, 2], [1, 2, 2, 1]], np.float32)
    if np.isinf(value):  # only where that tap meets an output
        expected[:3, 1:] = np.inf
    np.testing.assert_array_equal(by_input[0, 0], expected)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_training_through_all_steps(layout):
    rng = np.random.default_rng(7)
    layer = fastconv1d.Conv2d(
        4, 4, 3, padding=1, activation="silu", pre_activation="tanh", layout=layout, dtype="float64"
    )
    x = rng.standard_normal((2, 4, 5, 6) if layout == "NCHW" else (2, 5, 6, 4))
    more = rng.standard_normal(x.shape)
    layer.train()
    y = layer(x, residual=more)
    g = rng.standard_normal(y.shape)
    by_input = layer.backward(g)
    step = 1e-6
    for place in ((0, 1, 2, 3), (1, 3, 4, 0)):
        if any(i >= n for i, n in zip(place, x.shape, strict=True)):
            continue
        other = x.copy()
        other[place] += step
        slope = ((layer(other, residual=more) - y) * g).sum() / step
        assert slope == pytest.approx(by_input[place], abs=1e-4)
    other = layer.weight.copy()
    layer.weight[1, 2, 0, 1] += step
    slope = ((layer(x, residual=more) - y) * g).sum() / step
    layer.weight[...] = other
    assert slope == pytest.approx(layer.weight_grad[1, 2, 0, 1], abs=1e-4)


def test_networks():
    rng = np.random.default_rng(8)
    net = fastconv1d.Sequential(
        fastconv1d.Conv2d(3, 8, 3, stride=2, padding=1),
        fastconv1d.ReLU(),
        fastconv1d.Residual(
            fastconv1d.Conv2d(8, 8, 3, padding=1), fastconv1d.ReLU(), fastconv1d.Conv2d(8, 8, 1)
        ),
        fastconv1d.Sigmoid(),
    )
    x = rng.standard_normal((2, 3, 17, 20)).astype(np.float32)
    y = net(x)
    assert y.shape == (2, 8, 9, 10)
    assert net(x[0]).shape == (8, 9, 10)
    first, _, block, _ = net
    a = np.maximum(first(x), 0)
    inner = [*block]
    expected = 1 / (1 + np.exp(-(inner[2](np.maximum(inner[0](a), 0)) + a).astype(np.float64)))
    np.testing.assert_allclose(y, expected, rtol=1e-5)
    assert fastconv1d.flops(net, x.shape) == sum(
        2 * 2 * 90 * layer.weight[:].size for layer in (first, inner[0], inner[2])
    )
    assert "(2, 8, 9, 10)" in str(fastconv1d.summary(net, x.shape))
    net.train()
    np.testing.assert_allclose(net(x), y, rtol=1e-5)
    assert net.backward(np.ones_like(y)).shape == x.shape
    with pytest.raises(ValueError, match="Expected 3D"):
        net(x[0, 0])


@pytest.mark.parametrize("algorithm", ["direct", "blas"])
def test_networks_by_both_engines(algorithm):
    rng = np.random.default_rng(11)
    layers = [fastconv1d.Conv2d(4, 4, 3, padding=1, algorithm=algorithm) for _ in range(2)]
    for layer in layers:
        layer.weight = whole(rng, (4, 4, 3, 3))
        layer.bias = whole(rng, 4)
    block = fastconv1d.Residual(layers[0], fastconv1d.ReLU(), layers[1])
    net = fastconv1d.Sequential(block, fastconv1d.PReLU(4, init=0.5))
    x = whole(rng, (2, 4, 6, 7))
    inner = np.maximum(reference.conv2d(x, layers[0].weight, layers[0].bias, padding=1), 0)
    z = reference.conv2d(inner, layers[1].weight, layers[1].bias, padding=1) + x
    np.testing.assert_array_equal(net(x), np.where(z > 0, z, z / 2))
    np.testing.assert_array_equal(net.train()(x), np.where(z > 0, z, z / 2))


def test_snake_of_planes():
    rng = np.random.default_rng(12)
    net = fastconv1d.Sequential(fastconv1d.Conv2d(2, 3, 1), fastconv1d.Snake(np.array([1, 2, 4.0])))
    x = rng.standard_normal((2, 2, 5, 6)).astype(np.float32)
    z, alpha = net[0](x).astype(np.float64), np.array([1, 2, 4.0]).reshape(3, 1, 1)
    np.testing.assert_allclose(net(x), z + np.sin(alpha * z) ** 2 / alpha, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(net.train()(x), net.eval()(x), rtol=1e-5, atol=1e-6)


def test_planes_do_not_come_in_pieces():
    net = fastconv1d.Sequential(fastconv1d.ReLU(), fastconv1d.Conv2d(1, 1, 3))
    text = r"layer 1, Conv2d: positions should be along one axis, \(N, C, L\)"
    for length in (None, 8):
        with pytest.raises(ValueError, match=text):
            fastconv1d.receptive_field(net, length)
    with pytest.raises(ValueError, match=text):
        net.stream()
    with pytest.raises(ValueError, match=r"^Conv2d: positions should be along one axis"):
        fastconv1d.receptive_field(net[1])
    linear = fastconv1d.Sequential(fastconv1d.Linear(3, 3))
    with pytest.raises(ValueError, match="layer 0, Linear: positions should be along the last"):
        fastconv1d.receptive_field(linear)


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 8, 8)])
def test_planes_are_not_chunked(shape):
    array = pytest.importorskip("dask.array")
    from fastconv1d.dask import apply

    layer = fastconv1d.Conv2d(1, 1, 3)
    x = array.zeros(shape, dtype=np.float32)
    for network in (layer, fastconv1d.Sequential(layer)):
        with pytest.raises(ValueError, match=r"Conv2d: positions should be along one axis"):
            apply(network, x)


def test_explain_names_rows():
    layer = fastconv1d.Conv2d(64, 64, 3, padding=1)
    plan = explain(layer, (1, 64, 56, 56), threads=1)
    assert plan["engine"] == "direct"
    assert 1 <= plan["items_per_unit"] <= 56
    assert plan["flops"] == fastconv1d.flops(layer, (1, 64, 56, 56))
    plan = explain(fastconv1d.Conv2d(2, 2, 3, dtype="complex64"), (2, 5, 5))
    assert plan["engine"] == "blas"


def test_layers_are_copied_and_checked():
    layer = fastconv1d.Conv2d(4, 6, (3, 5), padding=((0, 1), (2, 3)), groups=2)
    assert "padding=((0, 1), (2, 3))" in repr(layer)
    again = pickle.loads(pickle.dumps(layer))
    x = np.random.default_rng(9).standard_normal((4, 9, 9)).astype(np.float32)
    np.testing.assert_array_equal(again(x), layer(x))
    made = fastconv1d.Conv2d.from_state_dict(layer.state_dict(), groups=2, padding=((0, 1), (2, 3)))
    np.testing.assert_array_equal(made(x), layer(x))
    layer.stride = (2, 1)
    assert layer(x).shape == (6, 4, 10)
    with pytest.raises(ValueError, match="kernel_size is that"):
        layer.kernel_size = 3
    with pytest.raises(ValueError, match="layout should be 'NCHW' or 'NHWC'"):
        layer.layout = "NCL"
    with pytest.raises(TypeError, match="not implemented for"):
        fastconv1d.conv2d(np.ones((1, 1, 2, 2), int), np.ones((1, 1, 1, 1), int))


def test_there_is_no_stream():
    with pytest.raises(ValueError, match=r"chunks should be \(N, C, L\), got a Conv2d$"):
        fastconv1d.Conv2d(4, 6, 3).stream()
    with pytest.raises(ValueError, match=r"a kernel of \(3, 1\) may be a Conv1d"):
        fastconv1d.Conv2d(4, 6, (3, 1)).stream(2)
    with pytest.raises(TypeError, match="module should be a Conv1d, got Conv2d"):
        fastconv1d.StreamingConv1d(fastconv1d.Conv2d(4, 6, 3))


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular"])
@pytest.mark.parametrize("channels", [2, 20, 67])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), ((2, 3), (1, 2))])
def test_depthwise_layers_with_channels_last_have_the_same_bits(
    isa, channels, mode, stride, dilation
):
    rng = np.random.default_rng(12)
    x = rng.standard_normal((3, channels, 12, 9)).astype(np.float32)
    window = {"stride": stride, "padding": (2, 1), "dilation": dilation, "padding_mode": mode}
    more = {"activation": "gelu", "residual_scale": 0.5}
    layer = fastconv1d.Conv2d(channels, channels, (3, 4), groups=channels, **window, **more)
    y = layer(x)
    residual = rng.standard_normal(y.shape).astype(np.float32)
    expected = layer(x, residual=residual)
    layer.layout = "NHWC"
    last, more = (np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, residual))
    for threads in (1, 2):
        with fastconv1d.num_threads(threads):
            bits = layer(last, residual=more)
            assert layer(last).tobytes() == np.moveaxis(y, 1, -1).tobytes()
            assert layer(last[1]).tobytes() == layer(last)[1].tobytes()
        assert bits.tobytes() == np.moveaxis(expected, 1, -1).tobytes()


def test_16_bit_storage():
    rng = np.random.default_rng(10)
    x, w = whole(rng, (2, 4, 9, 20), np.float16), whole(rng, (6, 4, 3, 3))
    y = fastconv1d.conv2d(x, w, padding=1)
    assert y.dtype == np.float16
    np.testing.assert_array_equal(y, reference.conv2d(x.astype(np.float32), w, padding=1))
    grads = fastconv1d.conv2d_backward(y, x, w, padding=1)
    assert [g.dtype for g in grads] == [np.float16, np.float32, np.float32]
