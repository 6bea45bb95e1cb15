"""Dimensions of size zero: what torch accepts gives torch's shape, what it refuses is refused."""

import itertools

import numpy as np
import pytest
from layers import DTYPES, OPS, assert_exact

from fastconv1d import Conv1d, ConvTranspose1d, fold1d, grad, reference, unfold1d

SIZES = list(itertools.product((0, 2), (0, 3), (0, 3), (0, 5), (0, 1, 3)))


def same_outcome(function, oracle, *args, **kwargs):
    """Assert both return equal arrays or both raise the same type; return the result if any."""
    try:
        expected = oracle(*args, **kwargs)
    except ValueError:
        with pytest.raises(ValueError, match=r"\d"):
            function(*args, **kwargs)
        return None
    result = function(*args, **kwargs)
    many = isinstance(expected, tuple)
    for one, other in zip(result, expected, strict=True) if many else [(result, expected)]:
        assert_exact(one, other, (args, kwargs))
    return result


@pytest.mark.parametrize("padding", [0, 2, (0, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_conv1d(lib, padding, dtype):
    returned = 0
    for n_batch, c_in, c_out, l_in, kernel_size in SIZES:
        x = np.ones((n_batch, c_in, l_in), dtype)
        w, b = np.ones((c_out, c_in, kernel_size), dtype), np.ones(c_out, dtype)
        for bias in (None, b):
            y = same_outcome(lib.conv1d, reference.conv1d, x, w, bias, padding=padding)
            if y is not None:
                returned += 1
                backward = lib.conv1d_backward, reference.conv1d_backward
                assert same_outcome(*backward, np.ones_like(y), x, w, padding=padding)
    assert returned >= 16


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_conv_transpose1d(lib, padding, dtype):
    returned = 0
    for n_batch, c_in, c_out, l_in, kernel_size in SIZES:
        x = np.ones((n_batch, c_in, l_in), dtype)
        w, b = np.ones((c_in, c_out, kernel_size), dtype), np.ones(c_out, dtype)
        for bias in (None, b):
            args = {"stride": 2, "padding": padding, "output_padding": 1}
            y = same_outcome(lib.conv_transpose1d, reference.conv_transpose1d, x, w, bias, **args)
            if y is not None:
                returned += 1
                backward = lib.conv_transpose1d_backward, reference.conv_transpose1d_backward
                assert same_outcome(*backward, np.ones_like(y), x, w, **args)
    assert returned >= 10


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes(lib, mode):
    for n_batch, c_in, l_in, padding in itertools.product((0, 2), (0, 3), (0, 5), (0, 2)):
        x, w = np.ones((n_batch, c_in, l_in)), np.ones((4, c_in, 1))
        args = {"padding": padding, "padding_mode": mode}
        y = same_outcome(lib.conv1d, reference.conv1d, x, w, **args)
        # As torch's pad, which of these modes lets only 'circular' have no channels.
        refused = l_in == 0 or (c_in == 0 and mode != "circular")
        assert (y is None) == refused


@pytest.mark.parametrize("kind", [Conv1d, ConvTranspose1d])
def test_layers(kind):
    for n_batch, c_in, c_out, l_in, kernel_size in SIZES:
        layer = kind(c_in, c_out, kernel_size, padding=1, dtype="float64")
        oracle = getattr(reference, "conv_transpose1d" if layer.transposed else "conv1d")
        x = np.ones((n_batch, c_in, l_in))
        layer.load_state_dict({"weight": np.ones_like(layer.weight), "bias": np.ones(c_out)})
        for _ in range(2):  # packed when first called

            def call(x, w, b, padding, made=layer):
                return made(x)

            y = same_outcome(call, oracle, x, layer.weight, layer.bias, padding=1)
        if y is not None:
            layer.train()(x)
            dx = layer.backward(np.ones_like(y))
            wanted = getattr(reference, oracle.__name__ + "_backward")(
                np.ones_like(y), x, layer.weight, padding=1
            )
            for one, other in zip((dx, layer.weight_grad, layer.bias_grad), wanted, strict=True):
                assert_exact(one, other, (layer, x.shape))


@pytest.mark.parametrize("op", OPS)
def test_single_gradients(op):
    returned = 0
    for n_batch, c_in, c_out, l_in, kernel_size in SIZES:
        x = np.ones((n_batch, c_in, l_in))
        w = np.ones((c_out, c_in, kernel_size) if op == "conv1d" else (c_in, c_out, kernel_size))
        try:
            y = getattr(reference, op)(x, w, padding=1)
        except ValueError:
            continue
        g = np.ones_like(y)
        dx, dw, _ = getattr(reference, op + "_backward")(g, x, w, padding=1)
        assert_exact(getattr(grad, op + "_input")(x.shape, w, g, padding=1), dx, (x.shape, w.shape))
        assert_exact(
            getattr(grad, op + "_weight")(x, w.shape, g, padding=1), dw, (x.shape, w.shape)
        )
        returned += 1
    assert returned >= 5


def test_unfold_and_fold():
    for n_batch, channels, length, kernel_size in itertools.product((0, 2), (0, 3), (0, 5), (0, 3)):
        x = np.ones((n_batch, channels, length))
        cols = same_outcome(unfold1d, reference.unfold1d, x, kernel_size, 1, 1, 1)
        assert (cols is None) == (0 in (channels, length, kernel_size))
        cols = np.ones((n_batch, channels * 3, length))
        y = same_outcome(fold1d, reference.fold1d, cols, length, kernel_size, 1, 1, 1)
        assert (y is None) == (0 in (channels, length, kernel_size))


def test_known_shapes(lib):
    one = np.ones
    assert lib.conv1d(one((0, 2, 5)), one((3, 2, 3)), one(3)).shape == (0, 3, 3)
    assert lib.conv1d(one((0, 2, 0)), one((3, 2, 3)), padding=2).shape == (0, 3, 2)
    # torch's own rule: without input channels there are no output channels either.
    assert lib.conv1d(one((2, 0, 5)), one((3, 0, 3)), one(3)).shape == (2, 0, 3)
    assert lib.conv_transpose1d(one((0, 2, 5)), one((2, 3, 3))).shape == (0, 3, 7)
    assert lib.conv_transpose1d(one((0, 2, 0)), one((2, 3, 3))).shape == (0, 3, 2)
    assert lib.conv_transpose1d(one((2, 2, 2)), one((2, 3, 1)), padding=1).shape == (2, 3, 0)
    assert unfold1d(one((0, 2, 5)), 3).shape == (0, 6, 3)
    assert fold1d(one((0, 6, 3)), 5, 3).shape == (0, 2, 5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [(2,), ()])
@pytest.mark.parametrize("window", [{"padding": (2, 3)}, {"padding": 4, "dilation": 3}])
def test_an_empty_output_of_a_transposed_convolution(lib, dtype, batch, window):
    x, w, b = np.ones((*batch, 2, 3), dtype), np.ones((2, 3, 3), dtype), np.ones(3, dtype)
    x = x[..., :2] if "dilation" in window else x
    y = lib.conv_transpose1d(x, w, b, **window)
    assert y.shape == (*batch, 3, 0)
    assert y.dtype == dtype
    for gradient, like in zip(
        lib.conv_transpose1d_backward(y, x, w, **window), (x, w, b), strict=True
    ):
        assert_nothing(gradient, like)


def assert_nothing(gradient, like):
    assert gradient.dtype == like.dtype
    np.testing.assert_array_equal(gradient, np.zeros_like(like))


def test_known_gradients(lib):
    one = np.ones
    dx, dw, db = lib.conv1d_backward(one((0, 3, 3)), one((0, 2, 5)), one((3, 2, 3)))
    assert (dx.shape, dw.shape, db.shape) == ((0, 2, 5), (3, 2, 3), (3,))
    assert not dw.any()
    assert not db.any()
    dx, dw, db = lib.conv1d_backward(one((2, 0, 3)), one((2, 0, 5)), one((3, 0, 3)))
    assert (dx.shape, dw.shape, db.shape) == ((2, 0, 5), (3, 0, 3), (3,))
    assert not db.any()


@pytest.mark.parametrize(
    ("match", "x", "w", "padding"),
    [
        ("Kernel size can't be greater than actual input size", (2, 2, 0), (3, 2, 3), 0),
        ("Only zero batch or zero channel inputs are supported", (2, 2, 0), (3, 2, 3), 2),
        ("expected weight to be at least 1 at dimension 0", (2, 2, 5), (0, 2, 3), 0),
        ("kernel size should be greater than zero", (2, 2, 5), (3, 2, 0), 0),
    ],
)
def test_known_refusals(lib, match, x, w, padding):
    with pytest.raises(ValueError, match=match):
        lib.conv1d(np.ones(x), np.ones(w), padding=padding)
