"""Conv2d against torch: the grid of arguments, gradients, text and errors."""

import itertools

import numpy as np
import pytest

import fastconv1d

torch = pytest.importorskip("torch")

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
