"""Layers between convolutions: values by hand, gradients by differences, bits, state, errors."""

import copy
import pickle
import tracemalloc

import numpy as np
import pytest

import fastconv1d as f


def rng():
    return np.random.default_rng(3)


def random(*shape, dtype=np.float32, seed=3):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# ---- values --------------------------------------------------------------------------------------

X = np.array([[[1.0, 4.0, 2.0, 8.0, 5.0]]])
VALUES = [
    (f.MaxPool1d(2), X, [[[4, 8]]]),
    (f.MaxPool1d(2, ceil_mode=True), X, [[[4, 8, 5]]]),
    (f.MaxPool1d(3, 1, 1), X, [[[4, 4, 8, 8, 8]]]),
    (f.MaxPool1d(2, 1, dilation=3), X, [[[8, 5]]]),
    (f.MaxPool1d(9, 3, 4), -X, [[[-1, -1]]]),
    (f.AvgPool1d(2), X, [[[2.5, 5]]]),
    (f.AvgPool1d(2, padding=1), X, [[[0.5, 3, 6.5]]]),
    (f.AvgPool1d(2, padding=1, count_include_pad=False), X, [[[1, 3, 6.5]]]),
    (f.AvgPool1d(3, 2, ceil_mode=True), X, [[[7 / 3, 5]]]),
    (f.AvgPool1d(2, 2, ceil_mode=True), X, [[[2.5, 5, 5]]]),
    (f.AdaptiveAvgPool1d(1), X, [[[4]]]),
    (f.AdaptiveAvgPool1d(2), X, [[[7 / 3, 5]]]),
    (f.AdaptiveMaxPool1d(3), X, [[[4, 8, 8]]]),
    (f.LayerNorm(5, eps=0, dtype=float), X, ((X - 4) / np.sqrt(6)).tolist()),
    (f.InstanceNorm1d(1, eps=0, dtype=float), X, ((X - 4) / np.sqrt(6)).tolist()),
    (f.GroupNorm(1, 1, eps=0, dtype=float), X, ((X - 4) / np.sqrt(6)).tolist()),
    (f.BatchNorm1d(1, eps=0.21, dtype=float), X, (X / 1.1).tolist()),
    (f.Flatten(), X, [[1, 4, 2, 8, 5]]),
    (f.Transpose(1, 2), X, [[[1], [4], [2], [8], [5]]]),
    (f.Select(2, -2), X, [[8]]),
    (f.Upsample(scale_factor=2), X[..., :2], [[[1, 1, 4, 4]]]),
    (f.Upsample(scale_factor=2, mode="linear"), X[..., :2], [[[1, 1.75, 3.25, 4]]]),
    (f.Upsample(4, mode="linear", align_corners=True), X[..., :2], [[[1, 2, 3, 4]]]),
    (f.Upsample(2), X, [[[1, 2]]]),
    (f.Softmax(0), np.log([[1.0], [3.0]]), [[0.25], [0.75]]),
    (f.ReLU6(), np.array([-1.0, 3, 7]), [0, 3, 6]),
    (f.Hardswish(), np.array([-4.0, -1, 1, 4]), [0, -1 / 3, 2 / 3, 4]),
    (f.PReLU(2, dtype=float), np.array([[[-4.0], [4]]]), [[[-1], [4]]]),
    (f.GLU(0), np.array([4.0, 0]), [2]),
    (f.Gate(), np.array([[np.arctanh(0.5)], [0]]), [[0.25]]),
    (f.Identity("anything", at=1), X, X.tolist()),
    (f.Dropout(0.5), X, X.tolist()),
    (f.Concat(f.Identity(), f.MaxPool1d(3, 1, 1)), X[0], [[1, 4, 2, 8, 5], [4, 4, 8, 8, 8]]),
    (f.Sum(f.Identity(), f.Identity(), f.ReLU6()), X[0, :, :2], [[3, 12]]),
]


@pytest.mark.parametrize(("layer", "x", "expected"), VALUES, ids=lambda v: type(v).__name__)
def test_values_by_hand(layer, x, expected):
    np.testing.assert_allclose(layer(x), expected, rtol=1e-13, atol=1e-15)
    strided = np.repeat(x, 2, axis=-1)[..., ::2]
    np.testing.assert_array_equal(layer(strided), layer(x))
    np.testing.assert_array_equal(layer(np.asfortranarray(x)), layer(x))


def test_linear_is_exact_on_integers():
    drawn = rng()
    for features, outputs, rows in (
        (1, 1, (1,)),
        (5, 3, (4,)),
        (70, 33, (2, 9)),
        (300, 130, (65,)),
    ):
        layer = f.Linear(features, outputs, dtype=np.float64)
        weight = drawn.integers(-9, 9, (outputs, features)).astype(float)
        bias = drawn.integers(-9, 9, outputs).astype(float)
        layer.load_state_dict({"weight": weight, "bias": bias})
        x = drawn.integers(-9, 9, (*rows, features)).astype(float)
        np.testing.assert_array_equal(layer(x), x @ weight.T + bias)
    assert f.Linear(3, 2)(np.zeros((0, 3), np.float32)).shape == (0, 2)
    assert f.Linear(3, 2)(np.ones(3, np.float32)).shape == (2,)


def test_pooling_keeps_nan():
    x = np.arange(40, dtype=np.float32)[np.newaxis]
    x[0, 7] = np.nan
    for layer in (f.MaxPool1d(3, 1), f.MaxPool1d(12, 4), f.AdaptiveMaxPool1d(4)):
        found = np.isnan(layer(x)[0])
        parts = layer.train().backward(np.ones_like(layer(x)))  # the gradient goes to the NaN
        assert found.any()
        assert parts[0, 7] == found.sum()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("hidden", [1, 6, 70])
def test_recurrent_layers_by_their_formulas(hidden, batch):
    x = random(7, batch, 4, dtype=np.float64)
    lstm, gru = (kind(4, hidden, dtype=np.float64, rng=rng()) for kind in (f.LSTM, f.GRU))
    h = c = np.zeros((batch, hidden))
    output, (h_n, c_n) = lstm(x)
    s = lstm.state_dict()
    for t in range(7):
        gates = x[t] @ s["weight_ih_l0"].T + s["bias_ih_l0"] + s["bias_hh_l0"]
        i, keep, g, o = np.split(gates + h @ s["weight_hh_l0"].T, 4, axis=1)
        c = sigmoid(keep) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(output[t], h, rtol=1e-11, atol=1e-13)
    np.testing.assert_array_equal(h_n[0], output[-1])
    np.testing.assert_allclose(c_n[0], c, rtol=1e-11, atol=1e-13)
    h = np.zeros((batch, hidden))
    output, h_n = gru(x)
    s = gru.state_dict()
    for t in range(7):
        a = np.split(x[t] @ s["weight_ih_l0"].T + s["bias_ih_l0"], 3, axis=1)
        b = np.split(h @ s["weight_hh_l0"].T + s["bias_hh_l0"], 3, axis=1)
        r, z = sigmoid(a[0] + b[0]), sigmoid(a[1] + b[1])
        h = (1 - z) * np.tanh(a[2] + r * b[2]) + z * h
        np.testing.assert_allclose(output[t], h, rtol=1e-11, atol=1e-13)


# ---- gradients -----------------------------------------------------------------------------------

DOUBLE = {"dtype": np.float64}
GRADIENTS = [
    f.MaxPool1d(3, 2, 1), f.MaxPool1d(2, 1, dilation=2), f.AvgPool1d(3, 2, 1, ceil_mode=True),
    f.AvgPool1d(5, 1, 2, count_include_pad=False), f.AdaptiveAvgPool1d(4), f.AdaptiveMaxPool1d(4),
    f.BatchNorm1d(4, **DOUBLE), f.GroupNorm(2, 4, **DOUBLE), f.LayerNorm(9, **DOUBLE),
    f.LayerNorm((4, 9), **DOUBLE), f.InstanceNorm1d(4, affine=True, **DOUBLE),
    f.Linear(9, 3, rng=rng(), **DOUBLE), f.Flatten(), f.Transpose(0, 2), f.Select(1, 2),
    f.Upsample(scale_factor=2), f.Upsample(13, mode="linear"), f.Upsample(5), f.Softmax(1),
    f.PReLU(4, **DOUBLE), f.PReLU(**DOUBLE), f.ReLU6(), f.Hardswish(), f.Mish(), f.Softplus(2.0),
    f.GLU(1), f.Gate(), f.Identity(), f.Concat(f.Mish(), f.Identity(), dim=2),
    f.Gate(f.Mish(), f.Softplus()), f.Sum(f.Mish(), f.Tanh()),
    f.Graph({"a": f.Mish(), "b": (f.Tanh(), "input"), "c": (f.Gate(), "a", "b"),
             "d": (f.Sum(), "c", "a", "input"), "e": f.AvgPool1d(2)}),
]  # fmt: skip


def named(layer):
    return repr(layer).replace("\n", "")[:60]


@pytest.mark.parametrize("layer", GRADIENTS, ids=named)
def test_gradients_by_differences(layer):
    layer = copy.deepcopy(layer).train()
    x = random(3, 4, 9, dtype=np.float64)
    for parameter in layer.parameters():
        parameter[...] += 0.3 * random(*parameter.shape, dtype=np.float64)
    y = layer(x)
    g = random(*y.shape, dtype=np.float64, seed=4)
    by_input = layer.backward(g)
    gradients = dict(layer.named_gradients())

    def slope(array):
        """The directional derivative along a random direction, and the direction."""
        direction, h = random(*array.shape, dtype=np.float64, seed=5), 1e-6
        array += h * direction
        above = layer(x)
        array -= 2 * h * direction
        below = layer(x)
        array += h * direction
        return (g * (above - below)).sum() / (2 * h), direction

    wanted, direction = slope(x)
    np.testing.assert_allclose((by_input * direction).sum(), wanted, rtol=1e-6, atol=1e-7)
    for key, parameter in layer.named_parameters():
        wanted, direction = slope(parameter)
        found = (gradients[key] * direction).sum()
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)
    with pytest.raises((ValueError, TypeError), match=r"grad_output|should"):
        layer.backward(np.ones((2, 2)))


def test_dropout():
    layer = f.Dropout(0.25, rng=rng()).train()
    x = np.ones((40, 50), np.float32)
    y = layer(x)
    assert set(np.unique(y)) == {0, np.float32(1 / 0.75)}
    assert 0.7 < (y > 0).mean() < 0.8
    np.testing.assert_array_equal(layer.backward(x), y)
    assert not f.Dropout(1.0).train()(x).any()
    np.testing.assert_array_equal(layer.eval()(x), x)


def test_a_frozen_norm_in_a_network_that_learns():
    net = f.Sequential(f.Conv1d(2, 3, 3, dtype=np.float64, rng=rng()), f.BatchNorm1d(3, **DOUBLE))
    norm = net[1]
    norm.load_state_dict({**norm.state_dict(), "running_var": [0.5, 2.0, 4.0]})
    net.train()
    norm.eval()
    x = random(2, 2, 9, dtype=np.float64)
    y = net(x)
    g = random(*y.shape, dtype=np.float64)
    scale = 1 / np.sqrt(norm.running_var + 1e-5)
    alone = f.Conv1d(2, 3, 3, dtype=np.float64).train()
    alone.load_state_dict(net[0].state_dict())
    alone(x)
    np.testing.assert_allclose(net.backward(g), alone.backward(g * scale[:, None]), rtol=1e-12)
    assert norm.num_batches_tracked == 0


def test_a_training_loop_learns():
    drawn = rng()
    net = f.Sequential(
        f.Conv1d(1, 8, 5, rng=drawn), f.BatchNorm1d(8), f.ReLU(), f.AdaptiveAvgPool1d(1),
        f.Flatten(), f.Linear(8, 2, rng=drawn),
    ).train()  # fmt: skip
    kinds = drawn.integers(0, 2, 64)
    time = np.arange(100)
    x = np.sin(time * np.where(kinds, 0.5, 0.2)[:, None])[:, None].astype(np.float32)
    losses = []
    for _ in range(60):
        net.zero_grad()
        scores = net(x)
        parts = f.Softmax(1)(scores)
        losses.append(-np.log(parts[np.arange(64), kinds]).mean())
        net.backward((parts - np.eye(2, dtype=np.float32)[kinds]) / np.float32(64))
        gradients = dict(net.named_gradients())
        for key, parameter in net.named_parameters():
            parameter[...] -= np.float32(0.5) * gradients[key]
    assert losses[0] > 0.5
    assert losses[-1] < 0.1


# ---- networks ------------------------------------------------------------------------------------


def kinds(net, x):
    net(x)
    return [type(operation).__name__ for operation in net._program.operations]


def trained(layer):
    """The layer with other parameters and buffers than a new one's."""
    drawn = rng()
    state = layer.state_dict()
    new = {key: drawn.random(value.shape) + 0.5 for key, value in state.items() if value.ndim}
    layer.load_state_dict({**state, **new})
    return layer


def by_layers(net, x):
    for layer in net:
        x = layer(x)
    return x


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("conv", "n"),
    [
        (lambda d: f.Conv1d(4, 6, 3, padding=1, dtype=d, rng=rng()), 1),
        (lambda d: f.Conv1d(4, 6, 3, groups=2, bias=False, dtype=d, rng=rng()), 1),
        (lambda d: f.ConvTranspose1d(4, 6, 3, 2, groups=2, dtype=d, rng=rng()), 1),
        (lambda d: f.Conv1d(4, 6, 3, activation="relu", dtype=d, rng=rng()), 3),
    ],
)
def test_a_norm_behind_a_convolution_is_folded(conv, n, dtype):
    net = f.Sequential(conv(dtype), trained(f.BatchNorm1d(6, dtype=dtype)), f.Mish())
    x = random(3, 4, 40, dtype=dtype)
    assert len(kinds(net, x)) == n
    tolerance = 1e-6 if dtype == np.float32 else 1e-14
    np.testing.assert_allclose(net(x), by_layers(net, x), rtol=tolerance * 10, atol=tolerance * 3)
    net[1].weight = net[1].weight * 2  # a changed norm is folded again
    np.testing.assert_allclose(net(x), by_layers(net, x), rtol=tolerance * 10, atol=tolerance * 3)
    net[1].eps = 0.5
    np.testing.assert_allclose(net(x), by_layers(net, x), rtol=tolerance * 10, atol=tolerance * 3)
    net[0].load_state_dict({k: -v for k, v in net[0].state_dict().items()})
    np.testing.assert_allclose(net(x), by_layers(net, x), rtol=tolerance * 10, atol=tolerance * 3)
    net.train()
    np.testing.assert_allclose(net(x), by_layers(net, x), rtol=tolerance * 10, atol=tolerance * 3)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [0, 2, "valid", "same"])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_norm_before_a_convolution_is_folded_where_that_is_exact(mode, padding, groups):
    conv = f.Conv1d(4, 6, 5, padding=padding, padding_mode=mode, groups=groups, rng=rng())
    net = f.Sequential(trained(f.BatchNorm1d(4)), conv, f.ReLU())
    x = random(3, 4, 40)
    exact = mode != "zeros" or padding in (0, "valid")
    assert kinds(net, x) == (["Convolve"] if exact else ["Apply", "Convolve"])
    np.testing.assert_allclose(net(x), by_layers(net, x), rtol=1e-5, atol=2e-6)
    if padding == 0:
        conv.padding, conv.padding_mode = 1, "zeros"  # from now on it is not
        assert kinds(net, x) == ["Apply", "Convolve"]
        np.testing.assert_allclose(net(x), by_layers(net, x), rtol=1e-5, atol=2e-6)


def test_what_is_fused():
    x = random(2, 4, 20)
    copies = f.Sequential(f.Dropout(), f.Conv1d(4, 4, 1), f.Identity(), f.ReLU6(), f.Identity())
    assert kinds(copies, x) == ["Convolve", "Apply"]
    normed = f.Sequential(f.Transpose(1, 2), trained(f.LayerNorm(4)), f.Transpose(-1, -2))
    assert kinds(normed, x) == ["ChannelNorm"]
    np.testing.assert_allclose(normed(x), by_layers(normed, x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        f.Sequential(f.Transpose(-1, -2), normed[1], f.Transpose(-1, -2))(x[0]),
        normed(x)[0], rtol=1e-6,
    )  # fmt: skip
    head = f.Sequential(f.Linear(20, 8), f.ReLU(), f.Linear(8, 20), f.Tanh())
    assert kinds(head, x) == ["Dense", "Dense"]
    assert kinds(f.Residual(f.Linear(20, 20)), x) == ["Dense"]
    assert kinds(f.Sequential(f.Linear(20, 8), f.PReLU(4)), x) == ["Dense", "Activate"]
    assert kinds(f.Sequential(f.Conv1d(4, 4, 1), f.PReLU(4)), x) == ["Convolve"]
    skips = f.Sum(f.Conv1d(4, 4, 1), f.Conv1d(4, 4, 1))
    assert kinds(skips, x) == ["Convolve", "Convolve"]
    for net in (head, skips, f.Residual(f.Linear(20, 20))):
        expected = net(x)
        out = np.full_like(expected, np.nan)
        assert net(x, out=out) is out
        np.testing.assert_array_equal(out, expected)


def unet():
    drawn = rng()
    inner = f.Sequential(
        f.MaxPool1d(2), f.Conv1d(8, 16, 3, padding=1, rng=drawn), f.GroupNorm(4, 16), f.SiLU(),
        f.ConvTranspose1d(16, 8, 2, 2, rng=drawn),
    )  # fmt: skip
    return f.Sequential(
        f.Conv1d(3, 8, 3, padding=1, rng=drawn), f.Concat(f.Identity(), inner), f.Dropout(),
        f.Transpose(1, 2), f.LayerNorm(16), f.Transpose(1, 2), f.Gate(),
        f.Conv1d(8, 4, 1, rng=drawn), f.AvgPool1d(3, 1, 1), f.PReLU(4), f.AdaptiveAvgPool1d(2),
        f.Flatten(), f.Linear(8, 5, rng=drawn), f.Softmax(1),
    )  # fmt: skip


def test_bits_depend_on_neither_threads_nor_batch():
    recurrent = f.Sequential(
        f.Transpose(1, 2), f.LSTM(3, 40, 2, batch_first=True, bidirectional=True, rng=rng()),
        f.GRU(80, 30, batch_first=True, rng=rng()), f.Linear(30, 7, rng=rng()),
    )  # fmt: skip
    x = random(9, 3, 600)
    for net in (unet(), recurrent):
        with f.num_threads(1):
            expected = net(x)
        for threads in (2, 3):
            with f.num_threads(threads):
                np.testing.assert_array_equal(net(x), expected)
        for n in (1, 2, 4):
            np.testing.assert_array_equal(net(x[n : 2 * n + 1]), expected[n : 2 * n + 1])


def test_no_allocation_for_a_repeated_shape():
    net = f.Sequential(
        f.Conv1d(4, 16, 3, padding=1), f.BatchNorm1d(16), f.ReLU(), f.MaxPool1d(2),
        f.Conv1d(16, 16, 1), f.GroupNorm(4, 16), f.Mish(), f.GLU(1), f.AdaptiveAvgPool1d(4),
        f.Flatten(), f.Linear(32, 8), f.Softmax(1),
    )  # fmt: skip
    x = random(4, 4, 4000)
    out = net(x)
    tracemalloc.start()
    try:
        for _ in range(3):
            net(x, out=out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20_000
    sizes = sorted({a.base.nbytes if a.base is not None else a.nbytes
                    for a in net._spare[0].values if a is not None})  # fmt: skip
    assert net._spare[0].nbytes <= 2 * 4 * 16 * 4000 * 4
    assert sizes[-1] == 4 * 16 * 4000 * 4


def test_small_sizes():
    net = f.Sequential(
        f.Conv1d(3, 4, 1), f.BatchNorm1d(4), f.MaxPool1d(1), f.GLU(1), f.GroupNorm(1, 2),
        f.Softmax(1), f.Upsample(scale_factor=2),
    )  # fmt: skip
    assert net(np.ones((0, 3, 5), np.float32)).shape == (0, 2, 10)
    assert net(np.ones((1, 3, 1), np.float32)).shape == (1, 2, 2)
    assert f.LayerNorm(0)(np.ones((2, 0), np.float32)).shape == (2, 0)
    assert f.AdaptiveAvgPool1d(3)(np.ones((0, 2, 4))).shape == (0, 2, 3)
    assert f.BatchNorm1d(2)(np.ones((0, 2, 4), np.float32)).shape == (0, 2, 4)
    assert f.Softmax(1)(np.ones((2, 0))).shape == (2, 0)
    assert f.LSTM(3, 4)(np.ones((5, 0, 3), np.float32))[0].shape == (5, 0, 4)
    assert f.Gate()(np.ones((0, 4, 3))).shape == (0, 2, 3)


def test_a_graph():
    nodes = {"conv.0": f.Conv1d(2, 4, 1, rng=rng()), "z": f.Gate()}
    nodes["conv.1"] = f.Conv1d(2, 2, 1, rng=rng())
    nodes["sum"] = f.Sum(), "conv.1", "input"
    nodes["both"] = f.Concat(), "sum", "z", "input"
    net = f.Graph(nodes)
    assert list(net.state_dict()) == [
        "conv.0.weight", "conv.0.bias", "conv.1.weight", "conv.1.bias",
    ]  # fmt: skip
    assert repr(net) == (
        "Graph(\n  (conv.0): Conv1d(2, 4, kernel_size=(1,), stride=(1,))\n  (z): Gate()\n"
        "  (conv.1): Conv1d(2, 2, kernel_size=(1,), stride=(1,))\n"
        "  (sum of conv.1, input): Sum()\n  (both of sum, z, input): Concat()\n)"
    )
    x = random(3, 2, 7)
    z = f.Gate()(net["conv.0"](x))
    expected = np.concatenate([net["conv.1"](z) + x, z, x], axis=1)
    np.testing.assert_allclose(net(x), expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(net(x[0]), expected[0], rtol=1e-6, atol=1e-7)
    inside = f.Sequential(f.Graph(nodes), f.Conv1d(6, 1, 1))
    assert next(iter(inside.state_dict())) == "0.conv.0.weight"
    rows = f.summary(net, (3, 2, 7)).rows
    assert [row.name for row in rows] == ["conv.0", "z", "conv.1", "sum", "both"]


def test_costs():
    net = f.Sequential(
        f.Conv1d(3, 8, 5), f.BatchNorm1d(8), f.Transpose(1, 2), f.GRU(8, 4, batch_first=True),
        f.Select(1, -1), f.Linear(4, 2),
    )  # fmt: skip
    rows = f.summary(net, (2, 3, 24)).rows
    assert [row.parameters for row in rows] == [128, 16, 0, 12 * 8 + 12 * 4 + 24, 0, 10]
    products = [2 * 2 * 8 * 20 * 15, 0, 0, 2 * 2 * 20 * (12 * 8 + 12 * 4), 0, 2 * 2 * 4 * 2]
    assert [row.flops for row in rows] == products
    assert rows[-1].output_shape == (2, 2)
    assert sum(a.size for a in net.parameters()) == sum(row.parameters for row in rows)


# ---- state ---------------------------------------------------------------------------------------


def test_parameters_and_buffers():
    net = f.Sequential(f.Conv1d(1, 2, 1), f.BatchNorm1d(2), f.Sequential(f.LSTM(2, 3)), f.PReLU())
    keys = [key for key, _ in net.named_parameters()]
    assert keys == [
        "0.weight", "0.bias", "1.weight", "1.bias", "2.0.weight_ih_l0", "2.0.weight_hh_l0",
        "2.0.bias_ih_l0", "2.0.bias_hh_l0", "3.weight",
    ]  # fmt: skip
    assert [key for key in net.state_dict() if key not in keys] == [
        "1.running_mean", "1.running_var", "1.num_batches_tracked",
    ]  # fmt: skip
    assert not any(array.flags.writeable for array in net.parameters())
    assert all(array.flags.writeable for array in net.train().parameters())
    twice = f.Sequential(net[0], f.ReLU(), net[0])
    assert len(list(twice.parameters())) == 2
    old = {key: value for key, value in net.state_dict().items() if "tracked" not in key}
    assert net.load_state_dict(old) == ([], [])
    with pytest.raises(ValueError, match=r"size mismatch for 1\.running_mean"):
        net.load_state_dict({**net.state_dict(), "1.running_mean": np.ones(3)})


@pytest.mark.parametrize("train", [False, True])
def test_copies(train):
    net = unet().train(train)
    lstm = f.LSTM(3, 4)
    x = random(2, 3, 40)
    for again in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        assert again.training is train
        np.testing.assert_array_equal(again.eval()(x), copy.deepcopy(net).eval()(x))
        assert not any(array.flags.writeable for array in again.parameters())
    same = pickle.loads(pickle.dumps(lstm))
    steps = random(5, 2, 3)
    np.testing.assert_array_equal(same(steps)[0], lstm(steps)[0])
    lstm.weight_hh_l0 = np.zeros((16, 4), np.float32)
    assert not lstm.weight_hh_l0.any()
    assert same.weight_hh_l0.any()


def test_modes():
    norm = f.BatchNorm1d(2)
    with pytest.raises(ValueError, match="read-only"):
        norm.running_mean[:] = 1
    norm.train().weight[:] = 3
    assert norm.eval().weight.tolist() == [3, 3]
    norm.weight = np.float32([1, 2])
    assert norm.weight.tolist() == [1, 2]
    norm.reset_parameters()
    assert norm.weight.tolist() == [1, 1]


# ---- errors --------------------------------------------------------------------------------------

ONES = np.ones((2, 4, 9), np.float32)
ERRORS = [
    (lambda: f.MaxPool1d(0), ValueError, "kernel_size should be at least 1, got kernel_size=0"),
    (lambda: f.MaxPool1d(2, 0), ValueError, "stride should be at least 1"),
    (lambda: f.MaxPool1d(2, padding=2), ValueError, "pad should be at most half of effective"),
    (lambda: f.MaxPool1d(2, padding=-1), ValueError, "negative padding"),
    (lambda: f.MaxPool1d(2, ceil_mode=1), TypeError, "ceil_mode should be a bool, got 1"),
    (lambda: f.MaxPool1d(12)(ONES), ValueError, "window of 12 positions should fit into 9"),
    (lambda: f.MaxPool1d(2)(ONES[0, 0]), ValueError, r"2D .*3D .*got input of size: \[9\]"),
    (lambda: f.AvgPool1d(2, padding=2), ValueError, "at most half of kernel size"),
    (lambda: f.AvgPool1d(2)(ONES.astype(int)), TypeError, "'Long'.*float32 or float64"),
    (lambda: f.AdaptiveAvgPool1d(None), TypeError, "output_size"),
    (lambda: f.AdaptiveAvgPool1d(2)(ONES[..., :0]), ValueError, "at least one position"),
    (lambda: f.BatchNorm1d(3)(ONES), ValueError, "contain 4 elements not 3.*a batch axis, x"),
    (lambda: f.BatchNorm1d(4)(ONES[0, 0]), ValueError, "expected 2D or 3D input .got 1D"),
    (lambda: f.BatchNorm1d(4)(ONES.astype(float)), TypeError, "float64.*float32.*dtype=float64"),
    (lambda: f.BatchNorm1d(4, dtype=complex), TypeError, "float32 or float64, got complex128"),
    (lambda: f.GroupNorm(3, 4), ValueError, "num_channels must be divisible by num_groups"),
    (lambda: f.GroupNorm(2, 6)(ONES), ValueError, r"input of shape \[2, 4, 9\]"),
    (lambda: f.LayerNorm(8)(ONES), ValueError, r"\[\*, 8\], but got .*two Transpose"),
    (lambda: f.LayerNorm(()), ValueError, "a size at least"),
    (lambda: f.InstanceNorm1d(5)(ONES), ValueError, "dim=1 to match num_features .5."),
    (lambda: f.InstanceNorm1d(4)(ONES[..., :1]), ValueError, "more than 1 spatial element"),
    (lambda: f.Linear(8, 2)(ONES), ValueError, r"in_features=8 numbers, got .*\[2, 4, 9\]"),
    (lambda: f.Linear(9, 2)(ONES.astype(float)), TypeError, "x.astype"),
    (lambda: f.Linear(-1, 2), ValueError, "negative dimension -1"),
    (lambda: f.Flatten(2, 1)(ONES), ValueError, "start_dim cannot come after end_dim"),
    (lambda: f.Flatten(3)(ONES), ValueError, r"range of \[-3, 2\], but got start_dim=3"),
    (lambda: f.Select(1, 4)(ONES), ValueError, "index 4 out of range"),
    (f.Upsample, ValueError, "only one of size or scale_factor"),
    (lambda: f.Upsample(4, 2.0), ValueError, "only one of size or scale_factor"),
    (lambda: f.Upsample(4, mode="cubic"), ValueError, "'nearest' or 'linear'"),
    (lambda: f.Upsample(4, align_corners=True), ValueError, "interpolating modes"),
    (lambda: f.Upsample(4)(ONES[0]), ValueError, "batch axis"),
    (lambda: f.Upsample(scale_factor=-1.0), ValueError, "above 0"),
    (lambda: f.Softmax(None), TypeError, "1 for the channels"),
    (lambda: f.Softmax(3)(ONES), ValueError, "Dimension out of range"),
    (lambda: f.GLU()(ONES), ValueError, "dimension 2 is size 9"),
    (lambda: f.Gate()(ONES[:, :3]), ValueError, "dimension 1 is size 3"),
    (lambda: f.Gate(f.ReLU()), ValueError, "two branches.*got 1"),
    (lambda: f.Gate(f.ReLU(), f.MaxPool1d(2))(ONES), ValueError, "two values of one size"),
    (lambda: f.PReLU(3)(ONES), ValueError, "numbers = 3 and channel size = 4"),
    (lambda: f.Dropout(1.5), ValueError, "between 0 and 1, but got 1.5"),
    (lambda: f.LSTM(4, 5)(ONES), ValueError, "Expected 4, got 9.*Transpose"),
    (lambda: f.LSTM(9, 5)(ONES[:0]), ValueError, "sequence length to be larger than 0"),
    (lambda: f.LSTM(9, 5)(ONES, ONES), TypeError, "a tuple .h_0, c_0."),
    (lambda: f.GRU(9, 5)(ONES, ONES), ValueError, r"hidden\[0\] size \[1, 4, 5\], got \[2, 4, 9\]"),
    (lambda: f.LSTM(9, 5, proj_size=5), ValueError, "smaller than hidden_size"),
    (lambda: f.GRU(9, 0), ValueError, "hidden_size must be greater than zero"),
    (lambda: f.GRU(9, 5, 0), ValueError, "num_layers must be greater than zero"),
    (lambda: f.GRU(9, 5).nothing, AttributeError, "no attribute 'nothing'"),
    (lambda: f.GRU(9, 5, 2, dropout=0.5).train()(ONES), RuntimeError, "for inference.*eval"),
    (lambda: f.Concat(f.Identity(), f.MaxPool1d(2))(ONES), ValueError, "except in dimension 1"),
    (lambda: f.Sum(f.Identity(), f.MaxPool1d(2))(ONES), ValueError, "should have one size"),
    (lambda: f.Graph({}), TypeError, "one at least, got"),
    (lambda: f.Graph({"a": (f.ReLU(), "b")}), ValueError, "nodes before it, got 'b'"),
    (lambda: f.Graph({"a": f.ReLU(), "a.b": f.ReLU()}), ValueError, "beginning of another's"),
    (lambda: f.Graph({"input": f.ReLU()}), ValueError, "not be 'input'"),
    (lambda: f.Graph({"a": f.ReLU(), "b": (f.ReLU(), "input")}), ValueError, r"\['a'\] that are"),
    (lambda: f.Graph({"a": (f.ReLU(), "input", "input")}), ValueError, "read one value"),
    (lambda: f.Graph({"a": 3}), TypeError, "layer a should be"),
    (lambda: f.Sequential(f.MaxPool1d(2, return_indices=True)), ValueError, "one output"),
    (lambda: f.Sequential(f.Conv1d(4, 6, 1), f.BatchNorm1d(4))(ONES), ValueError, "^layer 1, B"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "text"), ERRORS)
def test_errors(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_recurrent_layers_have_no_backward():
    layer = f.GRU(9, 5).train()
    net = f.Sequential(layer).train()
    y = net(ONES)
    with pytest.raises(RuntimeError, match="GRU is for inference: it has no backward"):
        net.backward(y)


# ---- edges ---------------------------------------------------------------------------------------


def test_a_norm_between_exchanges_of_other_axes():
    """Four axes, where 1 and 2 are not the last ones: the norm is over what its shape says."""
    norm = f.LayerNorm(4)
    norm.weight, norm.bias = random(4, seed=1), random(4, seed=2)
    network = f.Sequential(f.Transpose(1, 2), norm, f.Transpose(1, 2))
    x = random(2, 3, 8, 4)
    expected = norm(np.ascontiguousarray(x.swapaxes(1, 2))).swapaxes(1, 2)
    np.testing.assert_array_equal(network(x), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits_of_a_norm_do_not_depend_on_the_length(dtype):
    norm = f.BatchNorm1d(23, dtype=dtype)
    state = {name: np.abs(random(23, seed=i)) for i, name in enumerate(norm.state_dict())}
    norm.load_state_dict({**state, "num_batches_tracked": np.array(1)})
    norm.eval()
    x = random(3, 23, 40, dtype=dtype)
    whole = norm(x)
    for at in range(40):
        np.testing.assert_array_equal(norm(x[:, :, at : at + 1]), whole[:, :, at : at + 1])


def test_a_norm_of_the_batch_does_not_stream():
    network = f.Sequential(f.Conv1d(3, 3, 1), f.BatchNorm1d(3, track_running_stats=False))
    with pytest.raises(ValueError, match="layer 1, BatchNorm1d: its outputs may depend"):
        network.stream()


def test_a_norm_of_other_channels_is_named():
    with pytest.raises(ValueError, match="layer 1, BatchNorm1d"):
        f.Sequential(f.Conv1d(4, 3, 1), f.BatchNorm1d(5))(random(1, 4, 6))


@pytest.mark.parametrize(
    "network",
    [
        f.Sequential(f.Linear(3, 4), f.ReLU()),
        f.Sequential(f.ReLU(), f.Linear(3, 4)),
        f.Residual(f.Linear(3, 3)),
    ],
    ids=repr,
)
def test_no_rows(network):
    assert network(random(0, 3)).shape == (0, network(random(1, 3)).shape[1])


def test_windows_larger_than_what_there_is():
    """The last window of ceil_mode may be all there is; no positions are none."""
    x = random(1, 2, 5, dtype=np.float64)
    y = f.AvgPool1d(20, 18, 3, ceil_mode=True)(x)
    np.testing.assert_allclose(y, x.sum(axis=2, keepdims=True) / 11, rtol=1e-12)
    for kernel_size in (8, 32):
        empty = f.MaxPool1d(kernel_size, 16, kernel_size // 2)(random(1, 2, 0))
        assert empty.shape == (1, 2, 1) and np.isneginf(empty).all()
