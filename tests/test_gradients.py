"""Gradients of both operations: exact, accurate, adjoint, and the limits of differences."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from layers import (
    DTYPES,
    OPS,
    PADDING_MODES,
    Layer,
    assert_exact,
    assert_layer_exact,
    assert_same_bits,
    layers,
    random_layers,
)

from fastconv1d import grad, reference


def test_convolutions_are_adjoint_to_each_other(lib):
    # <g, conv1d(x, w)> = <conv_transpose1d(g, w), x>: the same weight serves both.
    for seed, layer in enumerate(
        random_layers(200, seed=12, op="conv1d", dtype="float64", padding_mode="zeros")
    ):
        x, w, _, g = layer.normal_arrays(seed)
        y = layer.forward(lib)(x, w)
        left, right = layer.pads
        # Enough extra input on the right that the transpose reaches the length of x.
        reach = (layer.l_out - 1) * layer.stride + layer.span - left
        args = {"stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups}
        back = lib.conv_transpose1d(g, w, padding=(left, 0), **args)
        assert back.shape[2] == max(reach, 0)
        reached = min(reach, layer.l_in)
        scale = np.vdot(np.abs(g), reference.magnitude(layer.forward(reference), x, w))
        inner = np.vdot(back[:, :, :reached], x[:, :, :reached])
        assert abs(np.vdot(g, y) - inner) <= 1e-12 * scale, layer
        assert right >= 0


@pytest.mark.parametrize("mode", PADDING_MODES)
@pytest.mark.parametrize("padding", [0, 2, (3, 1), "same"])
def test_finite_differences_conv1d(lib, mode, padding):
    layer = Layer("conv1d", "float64", 2, 4, 6, 9, 3, 1, padding, 2, groups=2, padding_mode=mode)
    assert_finite_differences(lib, layer)
    if padding != "same":
        assert_finite_differences(lib, dataclasses.replace(layer, stride=3))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 2, (3, 1)])
def test_finite_differences_conv_transpose1d(lib, stride, padding):
    layer = Layer(
        "conv_transpose1d", "float64", 2, 4, 6, 5, 4, stride, padding, 2, 2, output_padding=1
    )
    assert_finite_differences(lib, layer)


def assert_finite_differences(lib, layer, step=1e-4):
    """Compare with central differences of sum(y**2)/2, whose gradient by y is y."""
    x, w, b, _ = layer.normal_arrays()

    def loss():
        return np.sum(layer.forward(lib)(x, w, b) ** 2) / 2

    grads = layer.backward(lib)(layer.forward(lib)(x, w, b), x, w)
    for array, gradient in zip((x, w, b), grads, strict=True):
        for index in np.ndindex(array.shape):
            kept = array[index]
            array[index] = kept + step
            above = loss()
            array[index] = kept - step
            below = loss()
            array[index] = kept
            difference = (above - below) / (2 * step)
            assert difference == pytest.approx(gradient[index], rel=1e-7, abs=1e-7), (layer, index)


@settings(max_examples=100)
@given(layer=layers(dtype="complex128"))
def test_complex_gradients_conjugate(lib, layer):
    assert_layer_exact(lib, layer, seed=1)


def test_complex_conjugates_by_hand(lib):
    x, w, g = (np.array([[[v]]]) for v in (1 + 2j, 3 - 1j, 2 + 5j))
    for op in OPS:
        dx, dw, db = getattr(lib, op + "_backward")(g, x, w)
        assert dx.item() == g.item() * (3 + 1j)
        assert dw.item() == g.item() * (1 - 2j)
        assert db.item() == g.item()


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_and_dilations(lib, op, dtype):
    for stride in range(1, 10):
        for dilation in range(1, 10):
            layer = Layer(op, dtype, 2, 3, 2, 67, 3, stride, (4, 1), dilation)
            assert_layer_exact(lib, layer)


@pytest.mark.parametrize("op", OPS)
def test_every_length(lib, op):
    for l_in in range(1, 140):
        assert_layer_exact(
            lib, Layer(op, "float32", 2, 3, 2, l_in, 4, 1, 2 if l_in > 1 else 1 + (op == "conv1d"))
        )


def test_stride_leaves_an_unread_tail(lib):
    # (l_in + pads - span) % stride inputs at the end are never read: their gradient is exactly 0.
    x, w, g = np.ones((1, 2, 12)), np.ones((3, 2, 2)), np.ones((1, 3, 3))
    dx, _, _ = lib.conv1d_backward(g, x, w, stride=4)
    assert dx[0, 0].tolist() == [3, 3, 0, 0] * 3
    x = x[..., :11]
    dx, _, _ = lib.conv1d_backward(g, x, w, stride=4)
    assert dx[0, 1].tolist() == [3, 3, 0, 0, 3, 3, 0, 0, 3, 3, 0]


@pytest.mark.parametrize("mask", list(np.ndindex(2, 2, 2)))
def test_output_mask(lib, mask):
    mask = tuple(bool(m) for m in mask)
    for layer in random_layers(20, seed=13):
        x, w, _, g = layer.normal_arrays()
        full = layer.backward(lib)(g, x, w)
        for wanted, gradient, masked in zip(
            mask, full, layer.backward(lib)(g, x, w, output_mask=mask), strict=True
        ):
            if wanted:
                assert_same_bits(masked, gradient, layer)
            else:
                assert masked is None


def test_grad_functions():
    # As torch.nn.grad: the first size is a shape, the rest are the arguments of the forward.
    for layer in random_layers(100, seed=14, padding_mode="zeros"):
        x, w, _, g = layer.integer_arrays()
        dx, dw, _ = layer.backward(reference)(g, x, w)
        kwargs = {k: v for k, v in layer.params.items() if k != "padding_mode"}
        by_input = getattr(grad, layer.op + "_input")
        by_weight = getattr(grad, layer.op + "_weight")
        assert_exact(by_input(x.shape, w, g, **kwargs), dx, layer)
        assert_exact(by_weight(x, w.shape, g, **kwargs), dw, layer)


def test_grad_output_of_a_wrong_shape(lib):
    x, w = np.ones((2, 3, 9)), np.ones((4, 3, 3))
    for shape in ((2, 4, 8), (2, 3, 7), (1, 4, 7), (4, 7), (2, 4, 0)):
        with pytest.raises(ValueError, match=r"grad_output|shape"):
            lib.conv1d_backward(np.ones(shape), x, w)
