"""Conv2d against torch: the grid of arguments, gradients, text and errors; models that hold it."""

import itertools

import numpy as np
import pytest

import fastconv1d

torch = pytest.importorskip("torch")
from fastconv1d.torch import FastConv2d, accelerate, restore  # noqa: E402

nn = torch.nn
MODES = ("zeros", "reflect", "replicate", "circular")


def whole(rng, shape, dtype):
    """Whole numbers, so that sums are exact; complex ones have two parts."""
    numbers = rng.integers(-4, 5, shape).astype(dtype)
    return numbers + 1j * rng.integers(-4, 5, shape) if numbers.dtype.kind == "c" else numbers


def problem(dtype, groups=1, kernel=(3, 2), shape=(2, 4, 9, 11), c_out=6):
    rng = np.random.default_rng(0)
    x = whole(rng, shape, dtype)
    w = whole(rng, (c_out, shape[1] // groups, *kernel), dtype)
    return x, w, whole(rng, (c_out,), dtype), rng


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("stride", [1, 2, (2, 1), (1, 3)])
@pytest.mark.parametrize("padding", [0, 1, (2, 1), "valid"])
@pytest.mark.parametrize("dilation", [1, 2, (1, 3), (3, 1)])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_grid_of_arguments_forward_and_backward(dtype, stride, padding, dilation, groups):
    x, w, b, rng = problem(dtype, groups)
    given = [torch.tensor(a, requires_grad=True) for a in (x, w, b)]
    y = torch.nn.functional.conv2d(*given, stride, padding, dilation, groups)
    own = fastconv1d.conv2d(x, w, b, stride, padding, dilation, groups)
    np.testing.assert_array_equal(own, y.detach().numpy())
    g = whole(rng, y.shape, dtype)
    y.backward(torch.tensor(g))
    grads = fastconv1d.conv2d_backward(g, x, w, stride, padding, dilation, groups)
    for mine, theirs in zip(grads, given, strict=True):
        np.testing.assert_array_equal(mine, theirs.grad.numpy())


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kernel", [(3, 3), (1, 5), (4, 1), (1, 1)])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("padding", ["same", 2, (1, 2)])
def test_layers_with_every_padding_mode(mode, kernel, groups, padding):
    rng = np.random.default_rng(1)
    theirs = torch.nn.Conv2d(4, 8, kernel, padding=padding, groups=groups, padding_mode=mode)
    own = fastconv1d.Conv2d(4, 8, kernel, padding=padding, groups=groups, padding_mode=mode)
    state = {k: whole(rng, v.shape, "float32") for k, v in theirs.state_dict().items()}
    theirs.load_state_dict({k: torch.tensor(v) for k, v in state.items()})
    own.load_state_dict(state)
    x = whole(rng, (2, 4, 7, 6), "float32")
    given = torch.tensor(x, requires_grad=True)
    y = theirs(given)
    np.testing.assert_array_equal(own(x), y.detach().numpy())
    own.train()
    np.testing.assert_array_equal(own(x), y.detach().numpy())
    g = whole(rng, y.shape, "float32")
    y.backward(torch.tensor(g))
    np.testing.assert_array_equal(own.backward(g), given.grad.numpy())
    np.testing.assert_array_equal(own.weight_grad, theirs.weight.grad.numpy())
    np.testing.assert_array_equal(own.bias_grad, theirs.bias.grad.numpy())


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 3, "stride": 2},
        {"kernel_size": (3, 5), "stride": (2, 1), "padding": (4, 2)},
        {"kernel_size": (3, 5), "stride": (2, 1), "padding": (4, 2), "dilation": (3, 1)},
        {"kernel_size": 1, "bias": False, "groups": 2},
        {"kernel_size": 3, "padding": "same", "padding_mode": "reflect"},
        {"kernel_size": 3, "padding": 1, "dilation": 2},
    ],
)
def test_text_and_state_are_those_of_torch(arguments):
    theirs, own = torch.nn.Conv2d(4, 6, **arguments), fastconv1d.Conv2d(4, 6, **arguments)
    assert repr(own) == repr(theirs)
    assert list(own.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert own.state_dict()[key].shape == tuple(value.shape)
        assert abs(own.state_dict()[key]).max() <= (6 if value.ndim == 1 else 1)
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    own.load_state_dict(state)
    x = np.random.default_rng(2).standard_normal((2, 4, 17, 19)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor(x)).numpy()
    np.testing.assert_allclose(own(x), expected, rtol=1e-4, atol=1e-5)


def test_initial_parameters_are_drawn_from_the_same_interval():
    own = fastconv1d.Conv2d(8, 64, (3, 5), rng=np.random.default_rng(3))
    bound = (8 * 15) ** -0.5
    for parameter in own.state_dict().values():
        assert 0.9 * bound < abs(parameter).max() <= bound
        assert abs(parameter.mean()) < bound / 4


BAD = [
    ((1, 4, 5, 5), (6, 3, 3, 3), {}),
    ((1, 4, 2, 5), (6, 4, 3, 3), {}),
    ((1, 4, 5, 5), (6, 4, 3, 3), {"stride": 0}),
    ((1, 4, 5, 5), (6, 4, 3, 3), {"padding": -1}),
    ((1, 4, 5, 5), (6, 4, 3, 3), {"dilation": 0}),
    ((1, 4, 5, 5), (6, 4, 3, 3), {"groups": 5}),
    ((1, 4, 5, 5), (6, 4, 3, 3), {"stride": (1, 2, 3)}),
    ((1, 4, 5, 5), (6, 4, 3, 3), {"padding": "same", "stride": 2}),
    ((1, 4, 5, 5), (6, 4, 3, 3), {"padding": "other"}),
    ((1, 4, 0, 5), (6, 4, 1, 1), {"padding": 1}),
    ((4, 5), (6, 4, 3, 3), {}),
]


@pytest.mark.parametrize(("x", "w", "arguments"), BAD)
def test_what_torch_refuses_is_refused(x, w, arguments):
    with pytest.raises((RuntimeError, ValueError, TypeError)):
        torch.nn.functional.conv2d(torch.zeros(x), torch.zeros(w), **arguments)
    with pytest.raises((ValueError, TypeError)):
        fastconv1d.conv2d(np.zeros(x), np.zeros(w), **arguments)


@pytest.mark.parametrize(
    ("x", "w"),
    [
        ((0, 4, 5, 5), (6, 4, 3, 3)),
        ((2, 0, 5, 5), (6, 0, 3, 3)),
    ],
)
def test_sizes_of_zero(x, w):
    given = [torch.zeros(shape, requires_grad=True) for shape in (x, w)]
    y = torch.nn.functional.conv2d(*given)
    own = fastconv1d.conv2d(np.zeros(x), np.zeros(w))
    assert own.shape == tuple(y.shape)
    grads = fastconv1d.conv2d_backward(own, np.zeros(x), np.zeros(w))
    assert [g.shape for g in grads[:2]] == [x, w]


def test_single_gradients():
    rng, shape = np.random.default_rng(4), (3, 4, 9, 11)
    x, w = whole(rng, shape, "float64"), whole(rng, (6, 2, 3, 2), "float64")
    arguments = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}
    y = fastconv1d.conv2d(x, w, **arguments)
    g = whole(rng, y.shape, "float64")
    pair = torch.tensor(w), torch.tensor(g)
    theirs = torch.nn.grad.conv2d_input(shape, *pair, **arguments)
    np.testing.assert_array_equal(
        fastconv1d.grad.conv2d_input(shape, w, g, **arguments), theirs.numpy()
    )
    theirs = torch.nn.grad.conv2d_weight(torch.tensor(x), w.shape, pair[1], **arguments)
    np.testing.assert_array_equal(
        fastconv1d.grad.conv2d_weight(x, w.shape, g, **arguments), theirs.numpy()
    )
    one = fastconv1d.grad.conv2d_input(shape[1:], w, g[0], **arguments)
    np.testing.assert_array_equal(one, fastconv1d.grad.conv2d_input(shape, w, g, **arguments)[0])
    np.testing.assert_array_equal(
        fastconv1d.grad.conv2d_weight(x[0], w.shape, g[0], **arguments),
        fastconv1d.grad.conv2d_weight(x[:1], w.shape, g[:1], **arguments),
    )


@pytest.mark.parametrize(
    ("kernel", "dilation", "padding", "stride"),
    list(itertools.product([2, (3, 1)], [1, (1, 2)], [0, (2, 1)], [1, (2, 3)])),
)
@pytest.mark.parametrize("shape", [(4, 9, 11), (2, 3, 8, 7)])
def test_unfold_and_fold(kernel, dilation, padding, stride, shape):
    x = whole(np.random.default_rng(5), shape, "float64")
    window = kernel, dilation, padding, stride
    theirs = torch.nn.functional.unfold(torch.tensor(x), *window)
    columns = fastconv1d.unfold2d(x, *window)
    np.testing.assert_array_equal(columns, theirs.numpy())
    back = torch.nn.functional.fold(theirs, shape[-2:], *window)
    np.testing.assert_array_equal(fastconv1d.fold2d(columns, shape[-2:], *window), back.numpy())


def test_the_examples_of_torch_documentation():
    rng = np.random.default_rng(6)
    x = rng.standard_normal((2, 16, 50, 100)).astype(np.float32)
    for arguments in (
        {"kernel_size": 3, "stride": 2},
        {"kernel_size": (3, 5), "stride": (2, 1), "padding": (4, 2)},
        {"kernel_size": (3, 5), "stride": (2, 1), "padding": (4, 2), "dilation": (3, 1)},
    ):
        theirs = torch.nn.Conv2d(16, 33, **arguments)
        own = fastconv1d.Conv2d(16, 33, **arguments)
        own.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
        with torch.no_grad():
            expected = theirs(torch.tensor(x)).numpy()
        np.testing.assert_allclose(own(x), expected, rtol=1e-4, atol=1e-5)


# ---- accelerate(model, conv2d=True) --------------------------------------------------------------


def filled(module):
    """A module of small integers, whose sums are exact."""
    rng = np.random.default_rng(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.tensor(whole(rng, tuple(parameter.shape), "float64")))
    return module


@pytest.fixture
def by_torch(monkeypatch):
    """The inputs of calls that torch computed itself."""
    inputs, forward = [], nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: inputs.append(x) or forward(self, x))
    return inputs


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kernel", [1, 3, (1, 4), (5, 1), (2, 3)])
@pytest.mark.parametrize(
    "arguments",
    [
        {}, {"stride": 2}, {"stride": (1, 3), "padding": (2, 1)}, {"padding": "same"},
        {"padding": "same", "dilation": (2, 1)}, {"padding": "valid", "dilation": 2},
        {"groups": 2, "bias": False}, {"groups": 4, "padding": 1, "stride": (2, 1)},
        {"padding": (1, 2), "padding_mode": "reflect"}, {"padding": 2, "padding_mode": "circular"},
        {"padding": "same", "padding_mode": "replicate"},
    ],
)  # fmt: skip
def test_accelerated_layers(kernel, arguments, dtype, by_torch):
    torchs = filled(nn.Conv2d(4, 8, kernel, **arguments)).to(dtype).eval()
    fast, report = accelerate(torchs, conv2d=True)
    assert report == ([""], {}) and type(fast) is FastConv2d
    assert report.layers[""]["engine"] == "direct" and "inputs" not in report.layers[""]
    rng = np.random.default_rng(8)
    for shape in ((2, 4, 11, 13), (4, 9, 10), (3, 4, 9, 9)):
        x = torch.tensor(whole(rng, shape, "float64")).to(dtype)
        with torch.no_grad():
            expected = torchs(x)
            del by_torch[:]
            assert torch.equal(fast(x), expected) and torch.equal(fast(x), expected)
            assert fast(x).stride() == expected.stride() and by_torch == []
        for training in (False, True):  # gradients are torch's
            results = []
            for module in (torchs.train(training), fast.train(training)):
                given = x.clone().requires_grad_()
                y = module(given)
                results.append((y, *torch.autograd.grad(y.sum(), [given, *module.parameters()])))
            assert all(map(torch.equal, *results))
        torchs.eval(), fast.eval()
    back = restore(fast)
    assert type(back) is nn.Conv2d and vars(back).keys() == vars(torchs).keys()


@pytest.mark.parametrize("shape", [(2, 4, 6, 5), (2, 1, 6, 5), (2, 4, 1, 1), (1, 4, 6, 1)])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("which", ["input", "weight", "both", "neither"])
def test_outputs_have_torchs_layout(shape, groups, which, by_torch):
    c_in = shape[1]
    if c_in % groups:
        pytest.skip("groups divide the channels")
    torchs = filled(nn.Conv2d(c_in, 8, 3, padding=1, groups=groups)).eval()
    x = torch.tensor(whole(np.random.default_rng(9), shape, "float32"))
    if which in ("input", "both"):
        x = x.to(memory_format=torch.channels_last)
    if which in ("weight", "both"):
        torchs.to(memory_format=torch.channels_last)
    fast, _ = accelerate(torchs, conv2d=True)
    with torch.no_grad():
        y = fast(x)
        assert which != "neither" or by_torch == []
        expected = torchs(x)
    assert torch.equal(y, expected) and y.stride() == expected.stride()


def test_inputs_of_planes_of_any_strides(by_torch):
    torchs = filled(nn.Conv2d(4, 8, 3, padding=1)).eval()
    fast, _ = accelerate(torchs, conv2d=True)
    x = torch.tensor(whole(np.random.default_rng(10), (3, 8, 12, 14), "float32"))
    here = x[:, ::2], x[:, :4, 1:, 2:], x[:1].expand(2, 8, 12, 14)[:, :4], x[1, 4:]
    there = x[:, :4].transpose(2, 3), x[:, :4, :, ::2], x[:, :1].expand(3, 4, 12, 14)
    with torch.no_grad():
        for view in (*here, *there):
            del by_torch[:]
            y = fast(view)
            assert by_torch == [] or any(view is other for other in there)
            expected = torchs(view)
            assert torch.equal(y, expected) and y.stride() == expected.stride()


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 7, 2, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1, groups=16),
        nn.Conv2d(16, 40, (5, 1), padding=(2, 0)), nn.ReLU(), nn.Conv2d(40, 24, 3, 2),
    ).eval()  # fmt: skip


def test_bits_of_planes_do_not_depend_on_threads_or_batch():
    fast, report = accelerate(network(), conv2d=True)
    assert report.replaced == ["0", "2", "3", "5"] and report.left == {}
    x = torch.randn(5, 3, 60, 44)
    before = torch.get_num_threads()
    try:
        outputs = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with torch.no_grad():
                outputs += [fast(x), torch.cat([fast(part) for part in x.split(2)])]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(outputs[0], each) for each in outputs[1:])


def test_planes_are_opted_in():
    model = network()
    fast, report = accelerate(model)
    assert report.replaced == ["3"] and report.left.keys() == {"0", "2", "5"}
    again, report = accelerate(fast, conv2d=True)
    assert report.replaced == ["0", "2", "3", "5"] and "inputs" not in report.layers["3"]
    assert accelerate(again)[1].replaced == report.replaced  # once taken, they stay
    back = restore(again)
    assert [vars(m).keys() for m in back] == [vars(m).keys() for m in model]
    x = torch.randn(1, 3, 60, 44)
    with torch.no_grad():
        assert torch.equal(back(x), model(x))
        torch.testing.assert_close(again(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", [False, True])
def test_planes_see_hooks_and_writes(norm):
    torchs = filled(nn.Conv2d(4, 8, 3)).eval()
    if norm:
        torch.nn.utils.parametrizations.weight_norm(torchs)
    fast, _ = accelerate(torchs, conv2d=True)
    seen, x = [], torch.randn(2, 4, 9, 8)
    fast.register_forward_hook(lambda module, args, y: seen.append(module) or y + 1)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), torchs(x) + 1, rtol=1e-4, atol=1e-3)
        assert seen == [fast]
        for module in (torchs, fast):
            parameter = next(module.parameters())
            parameter.data[0] = 3.0
        torch.testing.assert_close(fast(x), torchs(x) + 1, rtol=1e-4, atol=1e-3)
