"""unfold and fold of whole arrays against their index formulas."""

import itertools

import numpy as np
import pytest

from fastconv1d.kernels.unfold import fold, unfold

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]
# stride, dilation, pad_left, length of x, columns
GEOMETRIES = [
    (1, 1, 0, 9, 7),
    (1, 1, 2, 9, 11),
    (2, 1, 1, 9, 5),
    (3, 2, 4, 10, 4),
    (7, 5, 0, 12, 3),
    (1, 1, -3, 9, 4),
    (2, 3, 40, 9, 30),
    (1, 1, -40, 9, 5),
    (1, 4, 30, 1, 60),
    (2, 1, 1, 0, 3),
    (1, 1, 0, 5, 0),
]


def positions(kernel_size, n_columns, stride, dilation, pad_left, length):
    """Every (k, l, position) whose position lies in x."""
    for k, column in itertools.product(range(kernel_size), range(n_columns)):
        position = column * stride + k * dilation - pad_left
        if 0 <= position < length:
            yield k, column, position


def slow_unfold(x, kernel_size, n_columns, *geometry):
    out = np.zeros((*x.shape[:2], kernel_size, n_columns), x.dtype)
    for k, column, position in positions(kernel_size, n_columns, *geometry, x.shape[2]):
        out[:, :, k, column] = x[:, :, position]
    return (
        out.reshape(x.shape[0], -1, n_columns)
        if out.size
        else out.reshape(x.shape[0], x.shape[1] * kernel_size, n_columns)
    )


def slow_fold(cols, channels, kernel_size, length, *geometry):
    out = np.zeros((cols.shape[0], channels, length), cols.dtype)
    taps = cols.reshape(cols.shape[0], channels, kernel_size, cols.shape[2])
    for k, column, position in positions(kernel_size, cols.shape[2], *geometry, length):
        out[:, :, position] += taps[:, :, k, column]
    return out


def values(shape, dtype):
    numbers = np.random.default_rng(4).integers(-9, 10, shape).astype(dtype)
    return numbers * (1 + 2j) if numbers.dtype.kind == "c" else numbers


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_unfold_and_fold_follow_their_formulas(geometry, dtype, kernel_size):
    stride, dilation, pad_left, length, n_columns = geometry
    x = values((2, 3, length), dtype).astype(dtype)
    cols = np.full((2, 3 * kernel_size, n_columns), np.nan, dtype)
    unfold(x, cols, stride, dilation, pad_left)
    expected = slow_unfold(x, kernel_size, n_columns, stride, dilation, pad_left)
    np.testing.assert_array_equal(cols, expected)
    out = np.full((2, 3, length), np.nan, dtype)
    fold(cols, out, stride, dilation, pad_left)
    expected = slow_fold(cols, 3, kernel_size, length, stride, dilation, pad_left)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("view", [np.s_[::-1], np.s_[::2], np.s_[:, ::-1], np.s_[..., ::-1]])
def test_any_strides_are_read(view):
    x = values((4, 6, 20), np.float64)[view]
    x.flags.writeable = False
    cols = np.empty((x.shape[0], 3 * x.shape[1], 20))
    unfold(x, cols, 1, 1, 1)
    np.testing.assert_array_equal(cols, slow_unfold(x, 3, 20, 1, 1, 1))
    out = np.empty((x.shape[0], x.shape[1] // 3, 22))
    fold(x, out, 1, 1, 0)
    np.testing.assert_array_equal(out, slow_fold(x, x.shape[1] // 3, 3, 22, 1, 1, 0))


def test_fold_is_the_adjoint_of_unfold():
    x, g = values((2, 3, 50), np.float64), values((2, 12, 20), np.float64)
    cols, back = np.empty_like(g), np.empty_like(x)
    unfold(x, cols, 3, 2, 5)
    fold(g, back, 3, 2, 5)
    assert np.vdot(cols, g) == np.vdot(x, back)


@pytest.mark.parametrize("shape", [(0, 2, 5), (2, 0, 5), (2, 2, 0)])
def test_zero_sizes(shape):
    cols = np.full((shape[0], 3 * shape[1], 4), np.nan)
    unfold(np.ones(shape), cols, 1, 1, 10)
    np.testing.assert_array_equal(cols, np.zeros(cols.shape))
    out = np.full(shape, np.nan)
    fold(cols, out, 1, 1, 10)
    np.testing.assert_array_equal(out, np.zeros(shape))


def test_bad_arguments_are_named():
    x, cols = np.ones((1, 2, 5)), np.ones((1, 4, 4))
    for function, arguments in ((unfold, (x, cols)), (fold, (cols, x))):
        with pytest.raises(ValueError, match="got 0 and 1"):
            function(*arguments, 0, 1, 0)
        with pytest.raises(ValueError, match="got 2"):
            function(arguments[0], np.concatenate([arguments[1]] * 2), 1, 1, 0)
        with pytest.raises(TypeError, match="int64"):
            function(*(a.astype(np.int64) for a in arguments), 1, 1, 0)
    with pytest.raises(ValueError, match="multiple of 2"):
        unfold(x, np.ones((1, 5, 4)), 1, 1, 0)
    with pytest.raises(ValueError, match="dtype mismatch"):
        unfold(x, cols.astype(np.float32), 1, 1, 0)
