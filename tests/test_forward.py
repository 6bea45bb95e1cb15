"""Forward of both operations: exact on small integers, within 8*u*S on floats."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from layers import (
    DTYPES,
    OPS,
    PADDING_MODES,
    REALISTIC,
    Layer,
    assert_exact,
    assert_layer_accurate,
    assert_layer_exact,
    assert_same_bits,
    layers,
    random_layers,
)

from fastconv1d import reference


def assert_forward_exact(lib, layer):
    x, w, b, _ = layer.integer_arrays()
    y = layer.forward(lib)(x, w, b)
    assert y.dtype == layer.dtype
    assert_exact(y, reference.accumulate(layer.forward(reference), x, w, b), layer)


@settings(max_examples=200)
@given(layer=layers())
def test_any_layer_is_exact_on_integers(lib, layer):
    assert_layer_exact(lib, layer)


@settings(max_examples=200)
@given(layer=layers())
def test_any_layer_is_accurate(lib, layer):
    assert_layer_accurate(lib, layer, layer.normal_arrays())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layer", REALISTIC, ids=lambda layer: f"{layer.op}-{layer.weight_shape}")
def test_realistic_layers_are_exact(lib, layer, dtype):
    assert_layer_exact(lib, dataclasses.replace(layer, dtype=dtype))


@pytest.mark.parametrize("layer", REALISTIC, ids=lambda layer: f"{layer.op}-{layer.weight_shape}")
def test_realistic_layers_are_accurate(lib, layer):
    assert_layer_accurate(lib, layer, layer.normal_arrays())


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("stride", range(1, 10))
@pytest.mark.parametrize("dilation", range(1, 10))
def test_strides_and_dilations(lib, op, stride, dilation):
    for kernel_size, padding in ((1, 0), (2, 1), (3, 2), (7, (5, 3))):
        layer = Layer(
            op=op,
            n_batch=2,
            c_in=3,
            c_out=5,
            l_in=71,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            output_padding=max(stride, dilation) - 1 if op == "conv_transpose1d" else 0,
        )
        assert_forward_exact(lib, layer)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_length(lib, op, dtype):
    for l_in in range(1, 140):
        for stride in (1, 2):
            layer = Layer(op, dtype, 1, 2, 3, l_in, kernel_size=3, stride=stride, padding=1)
            assert_forward_exact(lib, layer)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_channel_count(lib, op, dtype):
    for channels in range(1, 36):
        for c_in, c_out in ((channels, 3), (3, channels), (channels, 1), (1, channels)):
            assert_forward_exact(lib, Layer(op, dtype, 2, c_in, c_out, 19, kernel_size=3))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("multiplier", [1, 2, 3, 7])
def test_depthwise(lib, op, dtype, multiplier):
    for channels, l_in in ((1, 9), (2, 33), (15, 64), (17, 131)):
        if op == "conv1d":
            c_in, c_out = channels, channels * multiplier
        else:
            c_in, c_out = channels * multiplier, channels
        for stride in (1, 2, 3):
            layer = Layer(op, dtype, 2, c_in, c_out, l_in, 5, stride, 2, groups=channels)
            assert_forward_exact(lib, layer)


@pytest.mark.parametrize("op", OPS)
def test_every_kernel_size(lib, op):
    for kernel_size in range(1, 70):
        for l_in, padding in ((kernel_size + 9, 0), (3, kernel_size if op == "conv1d" else 0)):
            assert_forward_exact(lib, Layer(op, "float32", 1, 3, 4, l_in, kernel_size, 1, padding))


def test_kernel_longer_than_input(lib):
    for l_in, kernel_size, padding in ((1, 5, 2), (2, 31, 15), (3, 9, (8, 0)), (3, 9, (0, 8))):
        for stride in (1, 2, 3):
            layer = Layer("conv1d", "float32", 2, 3, 4, l_in, kernel_size, stride, padding)
            assert_layer_exact(lib, layer)


def test_padding_far_larger_than_the_kernel(lib):
    assert_layer_exact(lib, Layer("conv1d", "float32", 1, 2, 3, 5, 3, padding=1000))
    assert_layer_exact(lib, Layer("conv1d", "float64", 1, 2, 3, 5, 3, stride=7, padding=(999, 0)))


def test_crop_beyond_the_kernel(lib):
    for padding in (9, (0, 17), (17, 0)):
        layer = Layer("conv_transpose1d", "float32", 2, 3, 4, 40, 3, padding=padding)
        assert_layer_exact(lib, layer)


@pytest.mark.parametrize("mode", PADDING_MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_modes(lib, mode, dtype):
    for padding in (0, 1, 6, (0, 6), (6, 0), (3, 5), "same", "valid"):
        for kernel_size in (1, 2, 5):
            for stride in (1,) if padding == "same" else (1, 2, 3):
                layer = Layer(
                    "conv1d", dtype, 2, 3, 4, 7, kernel_size, stride, padding, padding_mode=mode
                )
                assert_layer_exact(lib, layer)


def test_padding_modes_at_their_widest(lib):
    for mode, padding in (("reflect", 6), ("circular", 7), ("replicate", 50)):
        layer = Layer("conv1d", "float32", 2, 3, 4, 7, 9, 2, padding, padding_mode=mode)
        assert_layer_exact(lib, layer)
        for pads in ((padding, 2), (2, padding)):
            assert_layer_exact(lib, dataclasses.replace(layer, padding=pads, kernel_size=4))


def test_same_padding_puts_the_extra_zero_on_the_right(lib):
    x, w = np.array([[[1.0, 2.0, 4.0]]]), np.array([[[1.0, 10.0]]])
    assert lib.conv1d(x, w, padding="same").tolist() == [[[21.0, 42.0, 4.0]]]


def test_arguments_in_torch_order(lib):
    layer = Layer("conv1d", "float64", 2, 6, 4, 30, 3, 2, 1, 3, groups=2)
    x, w, b, _ = layer.integer_arrays()
    assert_exact(lib.conv1d(x, w, b, 2, 1, 3, 2), layer.forward(reference)(x, w, b))
    layer = Layer(
        "conv_transpose1d", "float64", 2, 6, 4, 30, 3, 3, 1, 2, groups=2, output_padding=2
    )
    x, w, b, _ = layer.integer_arrays()
    assert_exact(lib.conv_transpose1d(x, w, b, 3, 1, 2, 2, 2), layer.forward(reference)(x, w, b))


def test_arguments_by_torch_name(lib):
    x, w, b = np.ones((1, 2, 9)), np.ones((2, 1, 2)), np.ones(2)
    y = lib.conv1d(
        input=x, weight=w, bias=b, stride=2, padding=1, dilation=3, groups=2, padding_mode="zeros"
    )
    assert_exact(y, reference.conv1d(x, w, b, 2, 1, 3, 2))
    y = lib.conv_transpose1d(
        input=x, weight=w, bias=b, stride=2, padding=1, output_padding=1, groups=2, dilation=3
    )
    assert_exact(y, reference.conv_transpose1d(x, w, b, 2, 1, 1, 2, 3))


@pytest.mark.parametrize("form", [lambda i: (i,), np.int64, np.int8, np.uint16, lambda i: [i]])
def test_forms_of_an_integer(lib, form):
    x, w = np.arange(40.0).reshape(1, 2, 20), np.arange(12.0).reshape(2, 2, 3)
    y = lib.conv1d(x, w, None, form(2), form(3), form(2))
    assert_exact(y, reference.conv1d(x, w, None, 2, 3, 2))
    y = lib.conv_transpose1d(x, w, None, form(2), form(3), form(1), dilation=form(2))
    assert_exact(y, reference.conv_transpose1d(x, w, None, 2, 3, 1, dilation=2))


def test_unbatched_is_a_batch_of_one(lib):
    for layer in random_layers(50, seed=4, n_batch=1):
        x, w, b, g = layer.normal_arrays()
        assert_same_bits(layer.forward(lib)(x[0], w, b), layer.forward(lib)(x, w, b)[0], layer)
        batched, unbatched = (layer.backward(lib)(*a, w) for a in ((g, x), (g[0], x[0])))
        assert_same_bits(unbatched[0], batched[0][0], layer)
        assert_same_bits(unbatched[1], batched[1], layer)
        assert_same_bits(unbatched[2], batched[2], layer)


def test_inputs_are_left_alone(lib):
    for layer in random_layers(50, seed=5):
        arrays = layer.normal_arrays()
        copies = [None if a is None else a.copy() for a in arrays]
        x, w, b, g = arrays
        y = layer.forward(lib)(x, w, b)
        layer.backward(lib)(g, x, w)
        for array, copy in zip(arrays, copies, strict=True):
            assert array is None or array.tobytes() == copy.tobytes()
        assert not any(np.shares_memory(y, a) for a in arrays if a is not None)


def test_out_is_filled_and_returned(lib):
    for layer in random_layers(100, seed=6):
        x, w, b, _ = layer.normal_arrays()
        y = layer.forward(lib)(x, w, b)
        out = np.full_like(y, np.nan)
        assert layer.forward(lib)(x, w, b, out=out) is out
        assert_same_bits(out, y, layer)
