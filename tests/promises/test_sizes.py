"""Row 15: sizes are checked in 64 bits, and no BLAS call gets more than an int holds."""

import random

import numpy as np
import pytest

import fastconv1d
import fastconv1d.reference
from fastconv1d.core import geometry
from fastconv1d.kernels import gemm

MAX = 2**63 - 1
EDGES = [0, 1, 2, 3, 7, 2**31 - 1, 2**31, 2**32, 2**61, 2**62 - 1, 2**62, MAX - 1, MAX]


def draw(rng):
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(EDGES)
    if kind < 0.6:
        return rng.randrange(20)
    return rng.randrange(1 << rng.randrange(1, 64))


def fits(*values):
    return all(-MAX - 1 <= value <= MAX for value in values)


def check_conv(length, kernel_size, stride, left, right, dilation):
    padded, extent = length + left + right, dilation * (kernel_size - 1) + 1
    try:
        given = geometry.conv_geometry(
            (1, 1, length), (1, 1, kernel_size), None, stride, (left, right), dilation, 1, "zeros"
        )
    except OverflowError:
        return not fits(padded, extent) or max(left, right) > geometry.PADDING_MAX
    except ValueError:
        return extent > padded or length == 0
    l_out, stride_run, dilation_run, left_run = given[1:5]
    last = (l_out - 1) * stride_run + (kernel_size - 1) * dilation_run
    return (
        l_out == (padded - extent) // stride + 1
        and last == (l_out - 1) * stride + (kernel_size - 1) * dilation
        # whatever a kernel computes, one step past the end included
        and fits(padded, extent, last - left_run, -left_run)
        and (l_out > 1 or stride_run <= 2**31)
        and (kernel_size > 1 or dilation_run <= 2**31)
    )


def check_transposed(length, kernel_size, stride, left, right, dilation, extra):
    full = (length - 1) * stride + dilation * (kernel_size - 1) + extra + 1
    try:
        given = geometry.conv_transpose_geometry(
            (1, 1, length), (1, 1, kernel_size), None, stride, (left, right), extra, 1, dilation
        )
    except OverflowError:
        return not fits(full) or max(left, right) > geometry.PADDING_MAX
    except ValueError:
        return length == 0 or full < left + right or extra >= max(stride, dilation)
    l_out, stride_run, dilation_run = given[1:4]
    last = (length - 1) * stride_run + (kernel_size - 1) * dilation_run
    return l_out == full - left - right and fits(full, l_out, last, last - left)


def test_random_tuples(share):
    rng = random.Random(15)
    for i in range(int(500_000 * share)):
        length, left, right, extra = (draw(rng) for _ in range(4))
        kernel_size, stride, dilation = (max(1, draw(rng)) for _ in range(3))
        sizes = length, kernel_size, stride, left, right, dilation
        assert check_conv(*sizes), (i, sizes)
        assert check_transposed(*sizes, extra), (i, sizes, extra)


@pytest.fixture(params=[1, 2, 7, 64])
def blas_limit(request):
    previous = gemm.set_blas_limit(request.param)
    yield request.param
    gemm.set_blas_limit(previous)


@pytest.mark.parametrize("kind", ["complex64", "complex128"])
def test_products_are_cut_where_an_int_would_not_do(blas_limit, kind):
    rng = np.random.default_rng(blas_limit)

    def integers(*shape):
        parts = rng.integers(-8, 9, (2, *shape))
        return (parts[0] + 1j * parts[1]).astype(kind)

    for case in range(10):
        channels, length = int(rng.integers(1, 12)), int(rng.integers(9, 90))
        x, w = integers(2, channels, length), integers(5, channels, 1 + case)
        y = fastconv1d.conv1d(x, w, padding=3, algorithm="blas")
        gradients = fastconv1d.conv1d_backward(y, x, w, padding=3, algorithm="blas")
        gemm.set_blas_limit()
        np.testing.assert_array_equal(y, fastconv1d.reference.conv1d(x, w, padding=3))
        for cut, whole in zip(
            gradients, fastconv1d.conv1d_backward(y, x, w, padding=3, algorithm="blas"), strict=True
        ):
            np.testing.assert_array_equal(cut, whole)
        gemm.set_blas_limit(blas_limit)
