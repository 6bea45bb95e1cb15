"""The same results, shapes, gradients and names as torch, over torch's own test grids."""

import itertools
import warnings

import numpy as np
import pytest
from layers import DTYPES, Layer, assert_within, random_layers

import fastconv1d
from fastconv1d import grad, reference

torch = pytest.importorskip("torch")
functional = torch.nn.functional

# Both libraries may be off by 8*u*S.
UNITS = 16

# The arguments that torch's own tests of its operators, modules and padding go through:
# input, weight, bias shapes and the keyword arguments.
CONV = (
    ((1, 3, 4), (3, 3, 3), (3,), {"stride": (2,), "padding": 2, "groups": 1}),
    ((2, 4, 8), (2, 2, 3), (2,), {"stride": 3, "padding": 1, "groups": 2, "dilation": 2}),
    ((1, 4, 5), (1, 4, 3), None, {"stride": (2,), "padding": "valid"}),
    (
        (2, 2, 4),
        (2, 1, 4),
        (2,),
        {"stride": (1,), "padding": "same", "groups": 2, "dilation": (2,)},
    ),
    ((1, 4, 5), (3, 4, 3), None, {}),
    ((2, 4, 10), (5, 4, 3), (5,), {}),
    ((2, 4, 10), (5, 4, 3), (5,), {"stride": 2}),
    ((2, 4, 10), (5, 4, 3), (5,), {"padding": 1}),
    ((2, 4, 10), (5, 4, 5), (5,), {"padding": 2}),
    ((1, 4, 1), (4, 4, 3), (4,), {"padding": 1}),
    ((1, 4, 1), (4, 4, 5), (4,), {"padding": 2}),
    ((0, 4, 10), (5, 4, 3), (5,), {}),
    ((2, 4, 10), (5, 4, 3), (5,), {"dilation": 2}),
    ((2, 4, 6), (6, 2, 3), (6,), {"groups": 2}),
    ((2, 4, 10), (5, 4, 3), (5,), {"padding": "valid"}),
    ((2, 4, 10), (5, 4, 3), (5,), {"padding": "same"}),
    ((2, 4, 10), (5, 4, 4), (5,), {"padding": "same"}),
    ((2, 4, 10), (5, 4, 4), (5,), {"padding": "same", "dilation": 2}),
)
CONV_TRANSPOSE = (
    ((1, 3, 4), (3, 3, 3), (3,), {"stride": (2,), "padding": 2, "output_padding": (1,)}),
    (
        (2, 2, 4),
        (2, 2, 4),
        (4,),
        {"stride": (3,), "padding": (1,), "output_padding": (2,), "groups": 2, "dilation": (4,)},
    ),
    (
        (1, 1, 4),
        (1, 1, 4),
        (1,),
        {"stride": 2, "padding": 1, "output_padding": 1, "groups": 1, "dilation": (2,)},
    ),
    ((1, 1, 4), (1, 2, 3), None, {"stride": 2, "padding": 1, "output_padding": 1, "groups": 1}),
    ((1, 4, 5), (4, 8, 3), None, {}),
    ((1, 3, 7), (3, 4, 3), (4,), {"stride": (3,), "padding": 1, "output_padding": (1,)}),
    ((1, 3, 6), (3, 4, 3), None, {"stride": 2, "padding": 1, "output_padding": 1}),
    ((1, 3, 6), (3, 4, 3), (4,), {"stride": 2, "padding": 1, "output_padding": 1, "dilation": 2}),
    ((2, 4, 7), (4, 3, 3), (6,), {"stride": 3, "padding": 1, "output_padding": 1, "groups": 2}),
)
GRID = [("conv1d", *case) for case in CONV] + [
    ("conv_transpose1d", *case) for case in CONV_TRANSPOSE
]


def normal(rng, shape, dtype):
    values = rng.standard_normal(shape)
    if dtype.startswith("complex"):
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def quiet(function, *args, **kwargs):
    """Call torch without its warnings, such as that of an even kernel with padding='same'."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def to_numpy(tensor):
    return tensor.detach().resolve_conj().resolve_neg().numpy()


def assert_parity(op, arrays, kwargs, torch_forward):
    """Compare forward and gradients of `op` with torch's."""
    x, w, b = arrays
    tensors = [None if a is None else torch.tensor(a, requires_grad=True) for a in arrays]
    expected = quiet(torch_forward, *tensors)
    y = getattr(fastconv1d, op)(x, w, b, **kwargs)
    assert y.dtype == to_numpy(expected).dtype
    forward, backward = getattr(reference, op), getattr(reference, op + "_backward")
    scale = reference.magnitude(forward, x, w, b, **kwargs)
    assert_within(y, to_numpy(expected), scale, (op, kwargs), UNITS)
    if not y.size:
        return
    g = normal(np.random.default_rng(7), y.shape, str(x.dtype))
    quiet(expected.backward, torch.tensor(g))
    grads = getattr(fastconv1d, op + "_backward")(g, x, w, **kwargs)
    scales = reference.magnitude(backward, g, x, w, **kwargs)
    for tensor, gradient, scale in zip(tensors, grads, scales, strict=True):
        if tensor is not None:
            assert_within(gradient, to_numpy(tensor.grad), scale, (op, kwargs), UNITS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("case", GRID, ids=lambda case: f"{case[0]}-{case[4]}")
def test_torch_grid(case, batched, dtype):
    op, x_shape, w_shape, b_shape, kwargs = case
    if not batched and x_shape[0] == 0:
        x_shape = (1, *x_shape[1:])
    rng = np.random.default_rng(0)
    x = normal(rng, x_shape if batched else x_shape[1:], dtype)
    w = normal(rng, w_shape, dtype)
    b = None if b_shape is None else normal(rng, b_shape, dtype)
    torch_function = getattr(functional, op)
    assert_parity(op, (x, w, b), kwargs, lambda *tensors: torch_function(*tensors, **kwargs))


def test_random_layers():
    # F.pad spells the pairs and the modes that torch's functions do not take.
    compared = 0
    for layer in random_layers(300, seed=60):
        if layer.op == "conv_transpose1d":
            if isinstance(layer.padding, tuple):
                continue
            kwargs = layer.params

            def torch_forward(*tensors, kwargs=kwargs):
                return functional.conv_transpose1d(*tensors, **kwargs)
        else:
            mode = {"zeros": "constant"}.get(layer.padding_mode, layer.padding_mode)

            def torch_forward(x, w, b, layer=layer, mode=mode):
                if any(layer.pads):
                    x = functional.pad(x, layer.pads, mode)
                args = (layer.stride, 0, layer.dilation, layer.groups)
                return functional.conv1d(x, w, b, *args)

        x, w, b, _ = layer.normal_arrays()
        assert_parity(layer.op, (x, w, b), layer.params, torch_forward)
        compared += 1
    assert compared > 250


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [0, 1, 3, "same", "valid"])
@pytest.mark.parametrize("kernel_size", [1, 3, 4])
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_padding_modes_of_the_module(mode, padding, kernel_size, dtype):
    args = (4, 6, kernel_size, 1, padding, 2, 2, True, mode)
    theirs = torch.nn.Conv1d(*args, dtype=getattr(torch, dtype))
    x = normal(np.random.default_rng(1), (2, 4, 9), dtype)
    weight, bias = (to_numpy(p) for p in (theirs.weight, theirs.bias))
    kwargs = {"padding": padding, "dilation": 2, "groups": 2, "padding_mode": mode}
    y = fastconv1d.conv1d(x, weight, bias, **kwargs)
    scale = reference.magnitude(reference.conv1d, x, weight, bias, **kwargs)
    assert_within(y, to_numpy(quiet(theirs, torch.tensor(x))), scale, args, UNITS)


CONV_MODULES = (
    (4, 5, 3),
    (4, 5, 3, 2),
    (4, 5, 3, 1, 1),
    (4, 6, (5,), (1,), 2, 2, 2),
    (4, 5, 4, 1, "same", 2),
    (4, 5, 3, 2, "valid"),
    (4, 5, 3, 1, 1, 1, 1, False),
    (4, 8, 3, 1, 2, 1, 4, True, "circular"),
    (4, 8, 3, 1, (2,), 1, 4, False, "reflect"),
    (16, 33, 3, 2),
    (256, 100, 2),
)
CONV_TRANSPOSE_MODULES = (
    (3, 4, 3),
    (3, 4, 3, (3,), 1, (1,)),
    (3, 4, 3, 2, 1, 1, 1, False),
    (3, 4, 3, 2, 1, 1, 1, True, 2),
    (4, 6, 3, 3, 1, 1, 2),
    (4, 6, (5,), 1, (2,), 0, 2, False, 3),
)
MODULES = [("Conv1d", args) for args in CONV_MODULES] + [
    ("ConvTranspose1d", args) for args in CONV_TRANSPOSE_MODULES
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "args"), MODULES)
def test_modules(name, args, dtype):
    rng = np.random.default_rng(2)
    theirs = getattr(torch.nn, name)(*args, dtype=getattr(torch, dtype))
    ours = getattr(fastconv1d, name)(*args, dtype=dtype)
    assert repr(ours) == repr(theirs)
    state = {key: to_numpy(value).copy() for key, value in theirs.state_dict().items()}
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in state.items()
    }
    ours.load_state_dict(state)
    ours.train()
    x = normal(rng, (2, args[0], 23), dtype)
    tensor = torch.tensor(x, requires_grad=True)
    y, expected = ours(x), quiet(theirs, tensor)
    tolerance = {"rtol": 0, "atol": 300 * np.finfo(dtype).eps}
    np.testing.assert_allclose(y, to_numpy(expected), **tolerance)
    g = normal(rng, y.shape, dtype)
    quiet(expected.backward, torch.tensor(g))
    wide = {"rtol": 0, "atol": 3000 * np.finfo(dtype).eps}
    np.testing.assert_allclose(ours.backward(g), to_numpy(tensor.grad), **wide)
    np.testing.assert_allclose(ours.weight_grad, to_numpy(theirs.weight.grad), **wide)
    if theirs.bias is not None:
        np.testing.assert_allclose(ours.bias_grad, to_numpy(theirs.bias.grad), **wide)


@pytest.mark.parametrize("name", ["Conv1d", "ConvTranspose1d"])
def test_state_moves_both_ways(name):
    theirs, ours = getattr(torch.nn, name)(4, 6, 3), getattr(fastconv1d, name)(4, 6, 3)
    state = ours.state_dict()
    theirs.load_state_dict({key: torch.tensor(value) for key, value in state.items()})
    for key, value in theirs.state_dict().items():
        assert np.array_equal(to_numpy(value), state[key])


def test_output_size():
    theirs, ours = (m.ConvTranspose1d(3, 4, 3, 4, 1) for m in (torch.nn, fastconv1d))
    ours.load_state_dict({key: to_numpy(value) for key, value in theirs.state_dict().items()})
    x = np.random.default_rng(3).standard_normal((2, 3, 6)).astype("float32")
    accepted = []
    for size in range(15, 35):
        try:
            expected = theirs(torch.tensor(x), output_size=[size])
        except ValueError:
            with pytest.raises(ValueError, match="requested an output size of"):
                ours(x, output_size=[size])
            continue
        np.testing.assert_allclose(ours(x, output_size=[size]), to_numpy(expected), atol=1e-5)
        accepted.append(size)
    assert accepted == [21, 22, 23, 24]


def test_grad_functions():
    for layer in random_layers(60, seed=61, op="conv1d", padding_mode="zeros", dtype="float64"):
        if not isinstance(layer.padding, int):
            continue
        x, w, _, g = layer.normal_arrays()
        args = (layer.stride, layer.padding, layer.dilation, layer.groups)
        tx, tw, tg = (torch.tensor(a) for a in (x, w, g))
        scales = reference.magnitude(reference.conv1d_backward, g, x, w, *args)
        expected = torch.nn.grad.conv1d_input(x.shape, tw, tg, *args)
        assert_within(
            grad.conv1d_input(x.shape, w, g, *args), to_numpy(expected), scales[0], layer, UNITS
        )
        expected = torch.nn.grad.conv1d_weight(tx, w.shape, tg, *args)
        assert_within(
            grad.conv1d_weight(x, w.shape, g, *args), to_numpy(expected), scales[1], layer, UNITS
        )


def test_unfold_and_fold():
    rng = np.random.default_rng(4)
    for kernel_size, dilation, padding, stride in itertools.product(
        (1, 2, 5), (1, 3), (0, 2), (1, 4)
    ):
        x = rng.standard_normal((2, 3, 17))
        args = [
            (0 if name == "padding" else 1, value)
            for name, value in (("dilation", dilation), ("padding", padding), ("stride", stride))
        ]
        expected = functional.unfold(torch.tensor(x)[:, :, None], (1, kernel_size), *args)
        cols = fastconv1d.unfold1d(x, kernel_size, dilation, padding, stride)
        assert np.array_equal(cols, expected.numpy())
        folded = functional.fold(expected, (1, 17), (1, kernel_size), *args)[:, :, 0]
        np.testing.assert_allclose(
            fastconv1d.fold1d(cols, 17, kernel_size, dilation, padding, stride),
            folded.numpy(),
            rtol=1e-14,
            atol=1e-14,
        )


# torch's backend has no primitive for it, though the (empty) result is defined.
BACKEND = "could not construct a memory descriptor"


@pytest.mark.parametrize("op", ["conv1d", "conv_transpose1d"])
def test_zero_sizes(op):
    outcomes = {"same": 0, "both refuse": 0}
    # Kernels of size 0 are left out: torch computes lengths with them when there are no channels.
    sizes = itertools.product((0, 2), (0, 3), (0, 3), (0, 5), (1, 3), (0, 1))
    for n_batch, c_in, c_out, l_in, kernel_size, padding in sizes:
        x = np.ones((n_batch, c_in, l_in))
        w = np.ones((c_out, c_in, kernel_size) if op == "conv1d" else (c_in, c_out, kernel_size))
        b = np.ones(c_out)
        try:
            expected = getattr(functional, op)(*map(torch.tensor, (x, w, b)), padding=padding)
        except (RuntimeError, IndexError) as error:
            if BACKEND in str(error):
                continue
            with pytest.raises(ValueError, match=r"\w"):
                getattr(fastconv1d, op)(x, w, b, padding=padding)
            outcomes["both refuse"] += 1
            continue
        y = getattr(fastconv1d, op)(x, w, b, padding=padding)
        assert y.shape == tuple(expected.shape), (x.shape, w.shape, padding)
        np.testing.assert_array_equal(y, expected.numpy())
        outcomes["same"] += 1
    assert min(outcomes.values()) >= 10, outcomes


ERRORS = (
    ("int64", "int64", "float64", (1, 1, 4), (1, 1, 2), (1,), {}, "should be the same"),
    ("float64", "float64", "complex128", (1, 1, 4), (1, 1, 2), (1,), {}, "should be the same"),
    *(
        ("float64",) * 3 + case
        for case in (
            ((1, 1, 4), (1, 2, 2), (1,), {"stride": (-1,)}, "non-positive stride is not supported"),
            ((1, 1, 4), (1, 2, 2), (1,), {"padding": (-1,)}, "negative padding is not supported"),
            (
                (1, 1, 4),
                (1, 1, 2),
                (1,),
                {"dilation": (-1,)},
                "dilation should be greater than zero",
            ),
            ((1, 1, 4), (1, 2), (1,), {}, "weight should have at least three dimensions"),
            (
                (2, 2, 4),
                (2, 2, 2),
                (2,),
                {"padding": "same", "groups": 3},
                "expected weight to be at least 3 at dimension 0",
            ),
            (
                (2, 2, 4),
                (2, 2, 2),
                (2,),
                {"groups": 3},
                "expected weight to be at least 3 at dimension 0",
            ),
            (
                (2, 2, 4),
                (2, 2, 2),
                (2,),
                {"padding": "same", "groups": -1},
                "non-positive groups is not supported",
            ),
            (
                (2, 2, 4),
                (2, 2, 2),
                (2,),
                {"padding": "same", "groups": 0},
                "non-positive groups is not supported",
            ),
        )
    ),
)


@pytest.mark.parametrize("case", ERRORS, ids=lambda case: f"{case[7]}-{case[6]}")
def test_torch_error_grid(case):
    *dtypes, x_shape, w_shape, b_shape, kwargs, match = case
    arrays = [np.ones(s, t) for s, t in zip((x_shape, w_shape, b_shape), dtypes, strict=True)]
    with pytest.raises(RuntimeError, match=match):
        functional.conv1d(*map(torch.tensor, arrays), **kwargs)
    error = TypeError if match == "should be the same" else ValueError
    with pytest.raises(error, match=match):
        fastconv1d.conv1d(*arrays, **kwargs)


def test_initialisation_has_the_same_bounds():
    # Uniform in (-sqrt(k), sqrt(k)), k = groups / (C_in * K): as torch, also when transposed.
    for name, fan_in in (("Conv1d", 3 * 7), ("ConvTranspose1d", 9 * 7)):
        torch.manual_seed(0)  # of 18 biases, the largest is below 0.8 of the bound once in 55 times
        theirs = getattr(torch.nn, name)(6, 18, 7, groups=2)
        ours = getattr(fastconv1d, name)(6, 18, 7, groups=2, rng=np.random.default_rng(0))
        for key, value in ours.state_dict().items():
            for values in (value, to_numpy(theirs.state_dict()[key])):
                assert np.max(np.abs(values)) <= fan_in**-0.5
                assert np.max(np.abs(values)) > 0.8 * fan_in**-0.5


def test_layer_shapes_invert():
    layer = Layer("conv1d", "float32", 1, 16, 16, 12, 3, 2, 1)
    x, w, b, _ = layer.normal_arrays()
    down = functional.conv1d(*map(torch.tensor, (x, w, b)), stride=2, padding=1)
    up = fastconv1d.conv_transpose1d(down.numpy(), w, b, stride=2, padding=1, output_padding=1)
    assert up.shape == x.shape
