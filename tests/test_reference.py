"""The oracle itself, against sums written out by hand and NumPy's own padding and correlation."""

import numpy as np
import pytest
from hypothesis import given
from layers import OPS, PADDING_MODES, Layer, layers

from fastconv1d import reference


def by_definition(layer, x, w, b):
    """The formula of each operation, one multiplication at a time."""
    y = np.zeros((layer.n_batch, layer.c_out, layer.l_out), np.result_type(x, np.int64))
    left, right = layer.pads
    modes = {"zeros": "constant", "replicate": "edge", "reflect": "reflect", "circular": "wrap"}
    in_per, out_per = layer.c_in // layer.groups, layer.c_out // layer.groups
    if layer.op == "conv1d":
        padded = np.pad(x, ((0, 0), (0, 0), (left, right)), modes[layer.padding_mode])
        for n, co, at, ci, k in np.ndindex(*y.shape, in_per, layer.kernel_size):
            source = padded[n, co // out_per * in_per + ci, at * layer.stride + k * layer.dilation]
            y[n, co, at] += w[co, ci, k] * source
    else:
        for n, ci, at, co, k in np.ndindex(*x.shape, out_per, layer.kernel_size):
            o = at * layer.stride + k * layer.dilation - left
            if 0 <= o < layer.l_out:
                y[n, ci // in_per * out_per + co, o] += w[ci, co, k] * x[n, ci, at]
    return y if b is None else y + b[:, None]


SMALL = {
    "kernel_size": 3,
    "n_batch": 2,
    "l_out": 9,
    "c_in_per_group": 2,
    "c_out_per_group": 3,
}


@given(layers(**SMALL))
def test_forward_is_the_formula(layer):
    x, w, b, _ = layer.integer_arrays()
    np.testing.assert_array_equal(layer.forward(reference)(x, w, b), by_definition(layer, x, w, b))


@given(layers(**SMALL))
def test_gradients_are_the_derivatives(layer):
    # The operations are linear in each array: derivatives are differences of unit steps, exactly.
    layer = Layer(**{**vars(layer), "dtype": "complex128", "bias": True})
    x, w, b, g = layer.integer_arrays()
    dx, dw, db = layer.backward(reference)(g, x, w)
    y = by_definition(layer, x, w, b)
    for array, grad in ((x, dx), (w, dw), (b, db)):
        for index in list(np.ndindex(array.shape))[:: max(1, array.size // 12)]:
            array[index] += 1
            change = by_definition(layer, x, w, b) - y
            array[index] -= 1
            assert grad[index] == np.sum(g * change.conj())


def test_known_values():
    x, w = np.array([[[1.0, 2.0, 4.0, 8.0]]]), np.array([[[1.0, 10.0]]])
    conv = reference.conv1d
    assert conv(x, w).tolist() == [[[21.0, 42.0, 84.0]]]
    assert conv(x, w, padding="same").tolist() == [[[21.0, 42.0, 84.0, 8.0]]]
    assert conv(x, w, np.array([0.5]), stride=2).tolist() == [[[21.5, 84.5]]]
    assert conv(x, w, dilation=3).tolist() == [[[81.0]]]
    assert conv(x, w, padding=(2, 0), padding_mode="reflect").tolist() == [
        [[24.0, 12.0, 21.0, 42.0, 84.0]]
    ]
    assert conv(x, w, padding=(0, 2), padding_mode="circular").tolist() == [
        [[21.0, 42.0, 84.0, 18.0, 21.0]]
    ]
    assert conv(x, w, padding=1, padding_mode="replicate").tolist() == [
        [[11.0, 21.0, 42.0, 84.0, 88.0]]
    ]
    assert reference.conv_transpose1d(x[..., :2], w, stride=2, output_padding=1).tolist() == [
        [[1.0, 10.0, 2.0, 20.0, 0.0]]
    ]


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128", "int32"])
@pytest.mark.parametrize("op", OPS)
def test_dtypes(op, dtype):
    x = np.ones((1, 1, 3), dtype)
    function = getattr(reference, op)
    assert function(x, x).dtype == dtype
    wide = {"f": "float64", "c": "complex128", "i": "int64"}[np.dtype(dtype).kind]
    assert reference.accumulate(function, x, x).dtype == wide
    backward = getattr(reference, op + "_backward")
    assert [grad.dtype for grad in backward(function(x, x), x, x)] == [dtype] * 3


def test_int64_sums_are_exact():
    x = np.array([[[2**40 + 1, 2**40 + 3]]])
    w = np.array([[[2**20 + 1, -(2**20)]]])
    assert reference.conv1d(x, w).item() == (2**40 + 1) * (2**20 + 1) - (2**40 + 3) * 2**20


def test_output_mask_leaves_out_what_it_masks():
    x = np.ones((1, 1, 3))
    for mask in np.ndindex(2, 2, 2):
        grads = reference.conv1d_backward(x[..., :1], x, x, output_mask=mask)
        assert [grad is not None for grad in grads] == [bool(m) for m in mask]


def test_magnitude_bounds_the_sum():
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(s) - 0.5j for s in ((2, 3, 9), (4, 3, 2), (4,)))
    y, scale = reference.conv1d(x, w, b), reference.magnitude(reference.conv1d, x, w, b)
    assert scale.dtype == np.float64
    assert np.all(np.abs(y) <= scale)
    expected = np.abs(b[1]) + np.sum(np.abs(w[1]) * np.abs(x[0, :, 3:5]))
    assert scale[0, 1, 3] == pytest.approx(expected, rel=1e-14)


def test_unfold_and_fold_are_adjoint():
    rng = np.random.default_rng(1)
    x = rng.integers(-9, 10, (2, 3, 17))
    cols = reference.unfold1d(x, 4, dilation=2, padding=(3, 1), stride=3)
    c = rng.integers(-9, 10, cols.shape)
    folded = reference.fold1d(c, 17, 4, dilation=2, padding=(3, 1), stride=3)
    assert np.sum(cols * c) == np.sum(x * folded)
    padded = np.pad(x, ((0, 0), (0, 0), (3, 1)))
    assert cols[1, 2 * 4 + 3, 2] == padded[1, 2, 2 * 3 + 3 * 2]


@pytest.mark.parametrize("mode", PADDING_MODES)
def test_padding_limits(mode):
    x, w = np.ones((1, 1, 4)), np.ones((1, 1, 1))
    limit = {"zeros": 99, "reflect": 3, "replicate": 99, "circular": 4}[mode]
    assert reference.conv1d(x, w, padding=limit, padding_mode=mode).shape == (1, 1, 4 + 2 * limit)
    if limit < 99:
        with pytest.raises(ValueError, match=f"{mode} padding"):
            reference.conv1d(x, w, padding=limit + 1, padding_mode=mode)


@pytest.mark.parametrize(
    ("error", "match", "kwargs"),
    [
        (ValueError, "non-positive stride", {"stride": 0}),
        (ValueError, "dilation should be greater than zero", {"dilation": -1}),
        (ValueError, "non-positive groups", {"groups": 0}),
        (ValueError, "negative padding", {"padding": (-1, 0)}),
        (ValueError, "Invalid padding string", {"padding": "full"}),
        (ValueError, "not supported for strided", {"padding": "same", "stride": 2}),
        (ValueError, "at least 2 at dimension 0", {"groups": 2}),
        (ValueError, "can't be greater than actual input size", {"dilation": 9}),
        (ValueError, "padding_mode", {"padding_mode": "constant"}),
        (TypeError, "stride must be an int", {"stride": 1.0}),
        (OverflowError, "64 bits", {"padding": 2**63}),
        (OverflowError, "64 bits", {"padding": 2**63 - 5}),
        (OverflowError, "64 bits", {"dilation": 2**62}),
    ],
)
def test_errors(error, match, kwargs):
    with pytest.raises(error, match=match):
        reference.conv1d(np.ones((1, 1, 4)), np.ones((1, 1, 3)), **kwargs)
