"""Sequential, Residual and Mean: values, buffers, threads, state, modes, gradients and errors."""

import copy
import pickle
import threading
import tracemalloc

import numpy as np
import pytest

from fastconv1d import (
    ELU,
    GELU,
    Conv1d,
    ConvTranspose1d,
    LeakyReLU,
    Mean,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SiLU,
    Snake,
    Tanh,
)

ACTIVATIONS = [
    ReLU(), LeakyReLU(0.1), LeakyReLU(), ELU(), ELU(0.5), GELU(), GELU("tanh"), SiLU(), Tanh(),
    Sigmoid(), Snake(np.linspace(0.5, 3, 6)),
]  # fmt: skip
TORCH_NAMES = ["ReLU", "LeakyReLU", "ELU", "GELU", "SiLU", "Tanh", "Sigmoid"]


def _rng():
    return np.random.default_rng(7)


def _block(channels, kernel_size, dilation, dtype, rng):
    return Residual(
        LeakyReLU(0.1),
        Conv1d(
            channels, channels, kernel_size, padding="same", dilation=dilation, dtype=dtype, rng=rng
        ),
        LeakyReLU(0.1),
        Conv1d(channels, channels, kernel_size, padding="same", dtype=dtype, rng=rng),
    )


def _vocoder(dtype=np.float32):
    """A small HiFi-GAN: an upsampling stage of three residual branches, and the ends."""
    rng = _rng()
    return Sequential(
        Conv1d(5, 8, 7, padding=3, dtype=dtype, rng=rng),
        LeakyReLU(0.1),
        ConvTranspose1d(8, 6, 4, 2, 1, dtype=dtype, rng=rng),
        Mean(*(
            Sequential(*(_block(6, k, d, dtype, rng) for d in (1, 3)))
            for k in (3, 5, 7)
        )),
        LeakyReLU(0.1),
        Conv1d(6, 1, 7, padding=3, dtype=dtype, rng=rng),
        Tanh(),
    )  # fmt: skip


def _by_layers(net, x):
    """The same network, one call after the other."""
    if isinstance(net, Mean):
        return sum(_by_layers(branch, x) for branch in net) / len(net)
    if isinstance(net, Sequential):
        names = net._layers
        y = x
        for name, layer in names.items():
            if name != "shortcut":
                y = _by_layers(layer, y)
        if isinstance(net, Residual):
            kept = names["shortcut"](x) if "shortcut" in names else x
            y = y + net.residual_scale * kept
        return y
    return net(x)


def _close(actual, expected):
    wide = expected.dtype.char in "dD"
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=(1e-14 if wide else 1e-6) * scale)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(2, 5, 30), (5, 17), (1, 5, 1), (3, 5, 200)])
def test_equals_layer_by_layer(dtype, shape):
    net = _vocoder(dtype)
    x = _rng().standard_normal(shape).astype(dtype)
    y = net(x)
    assert y.dtype == dtype
    _close(y, _by_layers(net, x))
    out = np.empty_like(y)
    assert net(x, out=out) is out
    assert out.tobytes() == y.tobytes()


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
@pytest.mark.parametrize("place", ["first", "before", "after", "twice", "on both sides", "alone"])
def test_activations_everywhere(activation, place):
    rng = _rng()
    conv = Conv1d(6, 6, 3, padding=1, rng=rng)
    layers = {
        "first": (activation, activation, conv),
        "before": (conv, conv, activation, conv),
        "after": (conv, activation),
        "twice": (conv, activation, activation),
        "on both sides": (activation, conv, activation),
        "alone": (activation,),
    }[place]
    x = rng.standard_normal((2, 6, 40), np.float32) * 3
    net = Sequential(*layers)
    _close(net(x), _by_layers(net, x))


@pytest.mark.parametrize("scale", [1.0, 0.5, -2.0])
@pytest.mark.parametrize("tail", [(), (ReLU(),), (SiLU(), Conv1d(6, 2, 1, rng=_rng()))])
@pytest.mark.parametrize("shortcut", [None, Conv1d(6, 6, 1, rng=_rng()), Tanh(), Sequential()])
@pytest.mark.parametrize(
    "layers",
    [
        (),
        (Conv1d(6, 6, 3, padding=1, rng=_rng()),),
        (Conv1d(6, 6, 3, padding=1, rng=_rng()), ReLU()),
        (ReLU(), Conv1d(6, 6, 3, padding=1, rng=_rng()), ReLU(), ReLU()),
        (Residual(Conv1d(6, 6, 3, padding=1, rng=_rng())),),
        (Snake(np.full(6, 2.0)), Conv1d(6, 6, 1, rng=_rng())),
    ],
    ids=len,
)
def test_residuals(layers, shortcut, tail, scale):
    net = Sequential(Residual(*layers, shortcut=shortcut, residual_scale=scale), *tail)
    x = _rng().standard_normal((2, 6, 40), np.float32)
    before = x.copy()
    _close(net(x), _by_layers(net, x))
    np.testing.assert_array_equal(x, before)
    alone = net[0]
    _close(alone(x), _by_layers(alone, x))


def test_what_is_fused():
    def shapes(net, x):
        net(x)
        return [(type(op).__name__, len(op.sources), op.target) for op in net._program.operations]

    x = np.ones((1, 6, 20), np.float32)
    conv = [Conv1d(6, 6, 3, padding=1) for _ in range(4)]
    act = ReLU()
    assert shapes(Sequential(act, conv[0], act, conv[1], act), x) == [
        ("Convolve", 1, 3), ("Convolve", 1, 5),
    ]  # fmt: skip
    assert shapes(Sequential(Residual(act, conv[0], act, conv[1]), act), x) == [
        ("Convolve", 1, 3), ("Convolve", 2, 6),
    ]  # fmt: skip
    assert shapes(Residual(conv[0], act), x) == [("Convolve", 2, 3)]
    # act is read twice, once by an addition
    assert shapes(Sequential(conv[0], act, Residual(conv[1])), x) == [
        ("Convolve", 1, 2), ("Convolve", 2, 4),
    ]  # fmt: skip
    assert shapes(Sequential(act, Residual(conv[1])), x) == [
        ("Activate", 1, 1), ("Convolve", 2, 3),
    ]  # fmt: skip
    # one activation for two readers
    assert shapes(Sequential(act, Mean(conv[0], conv[1])), x) == [
        ("Convolve", 1, 2), ("Convolve", 1, 3), ("Combine", 2, 4),
    ]  # fmt: skip
    # a layer with steps of its own keeps them
    own = Conv1d(6, 6, 1, activation="tanh", pre_activation="silu")
    assert shapes(Sequential(act, own, act), x) == [
        ("Activate", 1, 1), ("Convolve", 1, 2), ("Activate", 1, 3),
    ]  # fmt: skip
    assert shapes(Residual(own), x) == [("Convolve", 2, 2)]
    for net in (Sequential(act, own, act), Residual(own), Residual(own, residual_scale=0.5)):
        _close(net(x), _by_layers(net, x))
    vocoder = _vocoder()
    vocoder(np.ones((1, 5, 9), np.float32))
    kinds = [type(op).__name__ for op in vocoder._program.operations]
    assert kinds == ["Convolve"] * (2 + 3 * 4) + ["Combine", "Convolve"]


def test_half_types():
    net = _vocoder()
    x = _rng().standard_normal((2, 5, 30)).astype(np.float16)
    y = net(x)
    assert y.dtype == np.float16
    np.testing.assert_allclose(y, net(x.astype(np.float32)), rtol=0, atol=3e-3)
    np.testing.assert_array_equal(ReLU()(x), np.maximum(x, 0))
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    y = net(x.astype(bfloat16))
    assert y.dtype == bfloat16
    np.testing.assert_allclose(y.astype(np.float32), net(x.astype(np.float32)), rtol=0, atol=3e-2)


def test_layout_is_refused():
    net = Sequential(ReLU(), Conv1d(4, 4, 1, layout="NLC"))
    with pytest.raises(ValueError, match=r"^layer 1, Conv1d: layout should be 'NCL' inside"):
        net(np.ones((4, 4), np.float32))


def test_exact_values():
    conv = Conv1d(1, 1, 2, padding=(1, 0), dtype=np.float64)
    conv.load_state_dict({"weight": [[[10.0, 1.0]]], "bias": [1.0]})
    x = np.array([[1.0, -2.0, 3.0]])
    np.testing.assert_array_equal(Sequential(conv)(x), [[2, 9, -16]])
    np.testing.assert_array_equal(Sequential(conv, ReLU())(x), [[2, 9, 0]])
    np.testing.assert_array_equal(Sequential(ReLU(), conv)(x), [[2, 11, 4]])
    np.testing.assert_array_equal(Residual(conv)(x), [[3, 7, -13]])
    np.testing.assert_array_equal(Residual(conv, residual_scale=-2)(x), [[0, 13, -22]])
    np.testing.assert_array_equal(Sequential(Residual(conv), ReLU())(x), [[3, 7, 0]])
    np.testing.assert_array_equal(Residual(conv, ReLU())(x), [[3, 7, 3]])
    np.testing.assert_array_equal(Residual(conv, shortcut=ReLU())(x), [[3, 9, -13]])
    np.testing.assert_array_equal(Mean(conv, Sequential())(x), [[1.5, 3.5, -6.5]])
    np.testing.assert_array_equal(
        Mean(conv, ReLU(), ReLU(), Sequential())(x), [[1.25, 1.75, -1.75]]
    )
    np.testing.assert_array_equal(Sequential()(x), x)
    assert Sequential()(x) is not x


@pytest.mark.parametrize("kind", [Conv1d, ConvTranspose1d])
@pytest.mark.parametrize(
    "arguments",
    [
        {"padding": 2, "padding_mode": "reflect"},
        {"padding": (1, 2), "padding_mode": "circular", "stride": 2},
        {"padding": 2, "padding_mode": "replicate", "dilation": 2, "groups": 2},
        {"padding": "causal"},
        {"padding": "same_upper", "stride": 3},
        {"algorithm": "blas", "bias": False},
    ],
)
def test_geometries(kind, arguments):
    layer = kind(4, 6, 4, **arguments, rng=_rng())
    x = _rng().standard_normal((2, 4, 20), np.float32)
    for net in (Sequential(layer), Sequential(ReLU(), layer), Sequential(layer, Tanh())):
        _close(net(x), _by_layers(net, x))


def test_complex_layers():
    rng = _rng()
    net = Sequential(
        Conv1d(2, 3, 3, dtype=np.complex64, rng=rng),
        Residual(Conv1d(3, 3, 1, dtype=np.complex64, rng=rng), residual_scale=0.5),
    )
    x = (rng.standard_normal((2, 2, 9)) + 1j).astype(np.complex64)
    _close(net(x), _by_layers(net, x))
    with pytest.raises(TypeError, match=r"layer 1, ReLU: .*got an input of dtype complex64"):
        Sequential(net, ReLU())(x)


@pytest.mark.parametrize("view", ["strided", "transposed", "swapped", "list"])
def test_any_input(view):
    net = _vocoder()
    x = _rng().standard_normal((2, 5, 24), np.float32)
    expected = net(x)
    other = {
        "strided": lambda: np.repeat(x, 2, axis=2)[:, :, ::2],
        "transposed": lambda: np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2),
        "swapped": lambda: x.astype(">f4"),
        "list": lambda: [list(item) for item in x],
    }[view]()
    assert net(other).tobytes() == expected.tobytes()


def test_zero_sizes():
    net = _vocoder()
    assert net(np.empty((0, 5, 10), np.float32)).shape == (0, 1, 20)
    with pytest.raises(ValueError, match=r"^layer 0, Conv1d: .*size"):
        net(np.empty((1, 5, 0), np.float32))


def test_out():
    net = _vocoder()
    x = _rng().standard_normal((2, 5, 24), np.float32)
    y = net(x)
    strided = np.zeros((2, 1, 96), np.float32)[:, :, ::2]
    assert net(x, out=strided) is strided
    np.testing.assert_array_equal(strided, y)
    single = np.empty((1, 48), np.float32)
    assert net(x[0], out=single) is single
    np.testing.assert_array_equal(single, y[0])
    with pytest.raises(ValueError, match=r"out should have the shape \[2, 1, 48\], got \[2, 1, 47"):
        net(x, out=np.empty((2, 1, 47), np.float32))
    same = Sequential(Conv1d(5, 5, 1), ReLU())
    with pytest.raises(ValueError, match="out should share no memory with an input"):
        same(x, out=x)
    net.train()
    out = np.empty_like(y)
    assert net(x, out=out) is out
    _close(out, y)


def test_results_are_kept():
    net = _vocoder()
    x = _rng().standard_normal((2, 5, 24), np.float32)
    first = net(x)
    copied = first.copy()
    for other in (2 * x, x[:1], x[:, :, :9]):
        net(other)
    np.testing.assert_array_equal(first, copied)
    for buffers in net._spare:
        assert not any(np.shares_memory(first, v) for v in buffers.values if v is not None)


def _slabs(net):
    (buffers,) = net._spare
    arrays = [v for v in buffers.values if v is not None]
    return buffers, {v.__array_interface__["data"][0] for v in arrays if v.size}


def test_buffers_are_reused_and_bounded():
    rng = _rng()
    chain = Sequential(*(Conv1d(4, 4, 3, padding=1, rng=rng) for _ in range(9)))
    x = rng.standard_normal((2, 4, 50), np.float32)
    chain(x)
    buffers, slabs = _slabs(chain)
    assert len(slabs) == 2
    assert buffers.nbytes == 2 * x.nbytes
    chain(x)
    assert chain._spare[0] is buffers
    chain(np.concatenate([x, x], axis=2))
    larger, slabs = _slabs(chain)
    assert len(slabs) == 2
    assert larger.nbytes == 4 * x.nbytes
    for length in range(1, 40):
        chain(x[:, :, :length])
        assert _slabs(chain)[0].nbytes == 2 * x[:, :, :length].nbytes
    net = _vocoder()
    net(np.ones((1, 5, 100), np.float32))
    buffers, slabs = _slabs(net)
    assert len(slabs) <= 6
    assert buffers.nbytes <= len(slabs) * 4 * 6 * 200


def test_no_allocation_for_a_repeated_shape():
    net = _vocoder()
    x = _rng().standard_normal((1, 5, 20_000), np.float32)
    out = net(x)
    net(x, out=out)
    tracemalloc.start()
    net(x, out=out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500_000  # an array of six channels has 960,000 bytes


def test_threads_share_a_network():
    net = _vocoder()
    rng = _rng()
    inputs = [rng.standard_normal((1 + i % 2, 5, 10 + 7 * (i % 5)), np.float32) for i in range(16)]
    expected = [net(x).tobytes() for x in inputs]
    fresh = copy.deepcopy(net)
    start = threading.Barrier(64)
    wrong = []

    def work(i):
        start.wait()
        for j in range(15):
            k = (i + j) % len(inputs)
            if fresh(inputs[k]).tobytes() != expected[k]:
                wrong.append((i, j))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(fresh._spare) == 1


def test_repr():
    net = Sequential(
        Conv1d(4, 6, 3),
        LeakyReLU(0.1),
        Residual(ReLU(), residual_scale=0.5),
        Mean(Sequential(GELU("tanh")), Sequential()),
    )
    assert repr(net) == (
        "Sequential(\n"
        "  (0): Conv1d(4, 6, kernel_size=(3,), stride=(1,))\n"
        "  (1): LeakyReLU(negative_slope=0.1)\n"
        "  (2): Residual(\n"
        "    residual_scale=0.5\n"
        "    (0): ReLU()\n"
        "  )\n"
        "  (3): Mean(\n"
        "    (0): Sequential(\n"
        "      (0): GELU(approximate='tanh')\n"
        "    )\n"
        "    (1): Sequential()\n"
        "  )\n"
        ")"
    )
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Sequential(
        torch.nn.Conv1d(4, 6, 3), torch.nn.LeakyReLU(0.1), torch.nn.Sequential(torch.nn.ELU())
    )
    ours = Sequential(Conv1d(4, 6, 3), LeakyReLU(0.1), Sequential(ELU()))
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("name", TORCH_NAMES)
def test_torchs_activations(name):
    torch = pytest.importorskip("torch")
    import fastconv1d

    args = {"LeakyReLU": [(), (0.2,)], "ELU": [(), (1.5,)], "GELU": [(), ("tanh",)]}
    for arg in args.get(name, [()]):
        kwargs = {"approximate": arg[0]} if name == "GELU" and arg else {}
        ours = getattr(fastconv1d, name)(*arg).train()
        theirs = getattr(torch.nn, name)(*(() if kwargs else arg), **kwargs)
        assert repr(ours) == repr(theirs)
        x = np.concatenate([np.linspace(-6, 6, 97), [-100, 100, 0.0]])[None]
        leaf = torch.from_numpy(x).requires_grad_()
        expected = theirs(leaf)
        np.testing.assert_allclose(ours(x), expected.detach(), rtol=1e-12, atol=1e-15)
        expected.sum().backward()
        np.testing.assert_allclose(
            ours.backward(np.ones_like(x)), leaf.grad, rtol=1e-10, atol=1e-13
        )


def test_snake():
    alpha = np.array([0.5, 2.0])
    x = _rng().standard_normal((3, 2, 20))
    layer = Snake(alpha).train()
    expected = x + np.sin(alpha[:, None] * x) ** 2 / (alpha[:, None] + 1e-9)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-14)
    step = 1e-6
    slope = (Snake(alpha)(x + step) - Snake(alpha)(x - step)) / (2 * step)
    np.testing.assert_allclose(layer.backward(np.ones_like(x)), slope, rtol=1e-6, atol=1e-8)
    as_dac = Sequential(Snake(alpha[None, :, None]))
    np.testing.assert_allclose(as_dac(x), expected, rtol=1e-14)
    assert as_dac.state_dict()["0.alpha"].shape == (1, 2, 1)
    as_dac.load_state_dict({"0.alpha": [[[1.0], [4.0]]]})
    np.testing.assert_allclose(as_dac(x), Snake([1.0, 4.0])(x), rtol=1e-14)


def test_state_has_torchs_keys():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Sequential(
        torch.nn.Conv1d(4, 6, 3, 2, 1, groups=2),
        torch.nn.ELU(),
        torch.nn.Sequential(torch.nn.ConvTranspose1d(6, 4, 4, 2, bias=False), torch.nn.GELU()),
    )
    ours = Sequential(
        Conv1d(4, 6, 3, 2, 1, groups=2),
        ELU(),
        Sequential(ConvTranspose1d(6, 4, 4, 2, bias=False), GELU()),
    )
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    assert list(ours.state_dict()) == list(state)
    x = torch.randn(2, 4, 20)
    before = ours(x.numpy())
    assert ours.load_state_dict(state) == ([], [])
    with torch.no_grad():
        expected = theirs(x).numpy()
    assert np.abs(before - expected).max() > 0.01
    np.testing.assert_allclose(ours(x.numpy()), expected, rtol=1e-5, atol=1e-6)


def test_names():
    net = Sequential(
        {"pre": Conv1d(2, 2, 1), "act": ReLU(), "block": Residual({"conv": Conv1d(2, 2, 1)})}
    )
    assert list(net.state_dict()) == [
        "pre.weight", "pre.bias", "block.conv.weight", "block.conv.bias",
    ]  # fmt: skip
    assert net["pre"] is net[0]
    assert net[-1] is net["block"]
    assert len(net) == 3
    assert [type(layer).__name__ for layer in net] == ["Conv1d", "ReLU", "Residual"]
    shortcut = Residual(Conv1d(1, 1, 1), shortcut=Conv1d(1, 1, 1, bias=False))
    assert list(shortcut.state_dict()) == ["0.weight", "0.bias", "shortcut.weight"]


def test_changed_parameters_are_used():
    net = _vocoder()
    other = _vocoder()
    for layer in other._leaves().values():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters(np.random.default_rng(99))
    x = _rng().standard_normal((2, 5, 24), np.float32)
    assert not np.allclose(net(x), other(x))
    net.load_state_dict(other.state_dict())
    assert net(x).tobytes() == other(x).tobytes()
    net[0].weight = net[0].weight * 2
    net[0].bias = net[0].bias * 0
    _close(net(x), _by_layers(net, x))
    net[0].stride = (2,)
    _close(net(x), _by_layers(net, x))
    net[2].output_padding = (1,)
    _close(net(x), _by_layers(net, x))
    net[1].negative_slope = 0.5
    net[3].training = False
    _close(net(x), _by_layers(net, x))


def test_load_is_all_or_nothing():
    net = _vocoder()
    state = net.state_dict()
    before = {key: value.copy() for key, value in state.items()}
    state["0.weight"] = state["0.weight"] + 1
    state["5.bias"] = np.ones(2, np.float32)
    with pytest.raises(ValueError, match=r"for Sequential:\n\tsize mismatch for 5\.bias"):
        net.load_state_dict(state)
    del state["5.bias"]
    state["x"] = 1
    with pytest.raises(ValueError, match=r'Missing key\(s\).*"5\.bias".*\n\tUnexpected.*"x"'):
        net.load_state_dict(state)
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[key])
    assert net.load_state_dict(state, strict=False) == (["5.bias"], ["x"])
    np.testing.assert_array_equal(net[0].weight, state["0.weight"])


@pytest.mark.parametrize("protocol", range(2, 6))
def test_pickle(protocol):
    net = _vocoder()
    x = _rng().standard_normal((2, 5, 24), np.float32)
    y = net(x)
    data = pickle.dumps(net, protocol)
    assert len(data) < 60_000  # no buffers
    again = pickle.loads(data)
    assert repr(again) == repr(net)
    assert again(x).tobytes() == y.tobytes()


def test_deepcopy_is_independent():
    net = _vocoder()
    x = _rng().standard_normal((2, 5, 24), np.float32)
    y = net(x)
    other = copy.deepcopy(net)
    other[0].weight = other[0].weight + 1
    assert net(x).tobytes() == y.tobytes()
    assert not np.allclose(other(x), y)


def test_modes_and_gradients():
    torch = pytest.importorskip("torch")
    rng = _rng()
    net = Sequential(
        Conv1d(3, 4, 3, padding=1, dtype=np.float64, rng=rng),
        SiLU(),
        Residual(Conv1d(4, 4, 3, padding=1, dtype=np.float64, rng=rng), Tanh(), residual_scale=0.5),
        Mean(ConvTranspose1d(4, 2, 4, 2, dtype=np.float64, rng=rng),
             ConvTranspose1d(4, 2, 4, 2, dtype=np.float64, rng=rng)),
        Residual(GELU(), shortcut=Conv1d(2, 2, 1, dtype=np.float64, rng=rng)),
    )  # fmt: skip
    x = rng.standard_normal((2, 3, 11))
    y = net(x)
    with pytest.raises(RuntimeError, match="backward needs the input of a forward in train mode"):
        net.backward(y)
    assert net.train() is net
    assert all(layer.training for layer in net._leaves().values())
    _close(net(x), y)
    g = rng.standard_normal(y.shape)
    grad_input = net.backward(g)

    t = {key: torch.from_numpy(v).requires_grad_() for key, v in net.state_dict().items()}
    leaf = torch.from_numpy(x).requires_grad_()
    f = torch.nn.functional
    h = f.silu(f.conv1d(leaf, t["0.weight"], t["0.bias"], padding=1))
    h = torch.tanh(f.conv1d(h, t["2.0.weight"], t["2.0.bias"], padding=1)) + 0.5 * h
    h = sum(f.conv_transpose1d(h, t[f"3.{i}.weight"], t[f"3.{i}.bias"], 2) for i in (0, 1)) / 2
    h = f.gelu(h) + f.conv1d(h, t["4.shortcut.weight"], t["4.shortcut.bias"])
    np.testing.assert_allclose(y, h.detach(), rtol=1e-12, atol=1e-13)
    h.backward(torch.from_numpy(g))
    np.testing.assert_allclose(grad_input, leaf.grad, rtol=1e-10, atol=1e-12)
    for prefix, layer in net._leaves().items():
        if hasattr(layer, "weight"):
            np.testing.assert_allclose(layer.weight_grad, t[prefix + "weight"].grad, rtol=1e-10)
            np.testing.assert_allclose(layer.bias_grad, t[prefix + "bias"].grad, rtol=1e-10)
    net.zero_grad()
    assert net[0].weight_grad is None
    assert net.eval() is net
    assert not any(layer.training for layer in net._leaves().values())
    net[0].train()  # a single one is enough for layer by layer
    _close(net(x), y)


ERRORS = [
    (lambda: Sequential(3), TypeError, "layer 0 should be a Conv1d, .*got 3 of type int"),
    (lambda: Sequential(ReLU), TypeError, "layer 0 should be a Conv1d.* of type type"),
    (lambda: Sequential({"a": None}), TypeError, "layer a should be"),
    (lambda: Residual(ReLU(), shortcut=1), TypeError, "layer shortcut should be"),
    (lambda: Residual(residual_scale="x"), TypeError, "residual_scale should be a number, got 'x'"),
    (Mean, ValueError, "a mean should be of at least one branch, got none"),
    (lambda: LeakyReLU("x"), TypeError, "negative_slope should be a number, got 'x'"),
    (lambda: ELU(None), TypeError, "alpha should be a number, got None"),
    (lambda: GELU("x"), ValueError, "must be either 'none' or 'tanh', got 'x'"),
    (lambda: Snake(np.zeros((2, 2))), ValueError, r"alpha should have the shape .*got \[2, 2\]"),
    (lambda: Snake(["x"]), TypeError, "alpha should be real numbers"),
    (lambda: Sequential(ReLU()).train(1), ValueError, "training mode is expected to be boolean"),
    (lambda: ReLU().train(1), ValueError, "training mode is expected to be boolean"),
    (lambda: ReLU().backward(np.ones((1, 1))), RuntimeError, "got a layer in eval mode"),
    (lambda: Snake(np.ones(3))(np.ones(3)), ValueError, "or 3D .batched. input to Snake"),
    (lambda: ReLU()(np.ones((1, 3), int)), TypeError, "\"ReLU\" not implemented for 'Long'"),
    (
        lambda: Sequential(Conv1d(1, 1, 1))(np.ones(3, np.float32)),
        ValueError,
        "input to Conv1d, but got input of size",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "text"), ERRORS)
def test_errors(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_errors_name_the_layer():
    x = np.ones((1, 4, 10), np.float32)
    net = Sequential(Conv1d(4, 6, 3), ReLU(), Conv1d(5, 6, 3))
    with pytest.raises(ValueError, match=r"^layer 2, Conv1d: .*to have 5 channels, but got 6"):
        net(x)
    nested = Sequential(Sequential(ReLU(), Residual(Conv1d(4, 4, 3))))
    with pytest.raises(ValueError, match=r"^layer 0\.1, Residual: .*\[1, 4, 8\] and \[1, 4, 10\]"):
        nested(x)
    with pytest.raises(ValueError, match=r"^Residual: what is added should have one size"):
        Residual(Conv1d(4, 4, 3))(x)
    with pytest.raises(ValueError, match=r"^layer 0, Mean: what is added should have one size"):
        Sequential(Mean(Conv1d(4, 4, 3), ReLU()))(x)
    with pytest.raises(ValueError, match=r"^layer 1, Snake: .* each of 6 channels, got .*\[5\]"):
        Sequential(Conv1d(4, 6, 3), Snake(np.ones(5)))(x)
    with pytest.raises(TypeError, match=r"^layer 1, Conv1d: .*float64.*weight type \(float32\)"):
        Sequential(ReLU(), Conv1d(4, 6, 3))(x.astype(np.float64))
    with pytest.raises(ValueError, match=r"^layer 0, Conv1d: .*Kernel size can't be greater"):
        Sequential(Conv1d(4, 6, 30))(x)
    for mode in (True, False):
        with pytest.raises(ValueError, match="what is added should have one size"):
            Residual(Conv1d(4, 4, 3)).train(mode)(x)
    assert Sequential(Conv1d(4, 6, 3))(x).shape == (1, 6, 8)
