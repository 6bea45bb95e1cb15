"""The three primitives against loops that do what their formulas say."""

import itertools
import threading

import numpy as np
import pytest

from fastconv1d.kernels import blas_engine, gemm
from fastconv1d.kernels.blas_engine import correlate, scatter, weight_gradient

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]
ZEROS, REFLECT, REPLICATE, CIRCULAR = range(4)
PAD = {ZEROS: "constant", REFLECT: "reflect", REPLICATE: "edge", CIRCULAR: "wrap"}


def integers(rng, shape, dtype):
    values = rng.integers(-4, 5, shape).astype(dtype)
    if values.dtype.kind == "c":
        values += 1j * rng.integers(-4, 5, shape)
    return values


def window(x, length, kernel_size, stride, dilation, pad_left, mode):
    """x's unfolded windows, (N, C, K, length)."""
    last = (length - 1) * stride + (kernel_size - 1) * dilation - pad_left
    pad_right = max(0, last + 1 - x.shape[2])
    padded = np.pad(x, [(0, 0), (0, 0), (max(0, pad_left), pad_right)], PAD[mode])
    out = np.zeros((*x.shape[:2], kernel_size, length), x.dtype)
    for k, j in itertools.product(range(kernel_size), range(length)):
        out[:, :, k, j] = padded[:, :, j * stride + k * dilation - min(0, pad_left)]
    return out


def slow_correlate(x, w, bias, length, stride, dilation, pad_left, mode, groups):
    n_batch, c_out = x.shape[0], w.shape[0]
    cols = window(x, length, w.shape[2], stride, dilation, pad_left, mode)
    cols = cols.reshape(n_batch, groups, w.shape[1], *cols.shape[2:])
    y = np.einsum("goik,ngikl->ngol", w.reshape(groups, c_out // groups, *w.shape[1:]), cols)
    return y.reshape(n_batch, c_out, length) + (0 if bias is None else bias[:, None])


def slow_scatter(x, w, bias, length, stride, dilation, pad_left, groups):
    (n_batch, c_in, l_in), (_, c_out, kernel_size) = x.shape, w.shape
    y = np.zeros((n_batch, groups, c_out, length), x.dtype)
    parts = np.einsum(
        "giok,ngil->ngokl",
        w.reshape(groups, c_in // groups, c_out, kernel_size),
        x.reshape(n_batch, groups, c_in // groups, l_in),
    )
    for k, j in itertools.product(range(kernel_size), range(l_in)):
        o = j * stride + k * dilation - pad_left
        if 0 <= o < length:
            y[..., o] += parts[..., k, j]
    return y.reshape(n_batch, groups * c_out, length) + (0 if bias is None else bias[:, None])


def slow_weight_gradient(g, x, kernel_size, stride, dilation, pad_left, mode, groups):
    cols = window(x, g.shape[2], kernel_size, stride, dilation, pad_left, mode)
    n_batch, c_out, length = g.shape
    c_in = x.shape[1] // groups
    cols = cols.reshape(n_batch, groups, c_in, *cols.shape[2:])
    split = g.reshape(n_batch, groups, c_out // groups, length)
    dw = np.einsum("ngol,ngikl->goik", split, cols.conj())
    return dw.reshape(c_out, c_in, kernel_size)


def random_case(rng, dtype, mode):
    """A random layer as (x, w of correlate, g, stride, dilation, pad_left, groups)."""
    groups, c_in, c_out = rng.choice([1, 1, 2, 3]), rng.integers(1, 5), rng.integers(1, 5)
    n_batch, l_in, kernel_size = rng.integers(1, 4), rng.integers(3, 700), rng.integers(1, 8)
    stride, dilation = rng.integers(1, 6), rng.integers(1, 5)
    largest = 9 if mode == ZEROS else min(9, l_in - 1)
    pad_left, pad_right = rng.integers(-2, largest + 1, 2)
    reach = l_in + pad_left + pad_right - (kernel_size - 1) * dilation - 1
    l_out = reach // stride + 1 if reach >= 0 else 0
    x = integers(rng, (n_batch, groups * c_in, l_in), dtype)
    w = integers(rng, (groups * c_out, c_in, kernel_size), dtype)
    g = integers(rng, (n_batch, groups * c_out, l_out), dtype)
    return x, w, g, *map(int, (stride, dilation, pad_left, groups))


def garbage(shape, dtype):
    return np.full(shape, np.nan, dtype)


def check_case(x, w, g, stride, dilation, pad_left, groups, mode, bias, n_threads, fixed):
    y = garbage(g.shape, g.dtype)
    correlate(x, w, bias, y, stride, dilation, pad_left, mode, groups, n_threads, fixed)
    expected = slow_correlate(x, w, bias, g.shape[2], stride, dilation, pad_left, mode, groups)
    np.testing.assert_array_equal(y, expected)
    dw = garbage(w.shape, w.dtype)
    weight_gradient(g, x, dw, stride, dilation, pad_left, mode, groups, n_threads, fixed)
    expected = slow_weight_gradient(g, x, w.shape[2], stride, dilation, pad_left, mode, groups)
    np.testing.assert_array_equal(dw, expected)
    for length in (x.shape[2], x.shape[2] + 7):
        dx = garbage((*x.shape[:2], length), x.dtype)
        scatter(g, w, None, dx, stride, dilation, pad_left, groups, n_threads, fixed)
        expected = slow_scatter(g, w, None, length, stride, dilation, pad_left, groups)
        np.testing.assert_array_equal(dx, expected)


@pytest.mark.parametrize("mode", PAD)
@pytest.mark.parametrize("dtype", DTYPES)
def test_random_layers_are_exact(dtype, mode):
    rng = np.random.default_rng([7, mode])
    for case in range(40):
        x, w, g, *geometry = random_case(rng, dtype, mode)
        bias = integers(rng, (len(w),), dtype) if case % 2 else None
        check_case(x, w, g, *geometry, mode, bias, 1 + case % 3, case % 5 == 0)
