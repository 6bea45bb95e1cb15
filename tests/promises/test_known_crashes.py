"""Calls that crashed other libraries, or gave wrong numbers: here an error or the right result."""

import contextlib
import sys
from pathlib import Path

import numpy as np
import pytest

import fastconv1d
from fastconv1d import Conv1d, ConvTranspose1d, reference

X = np.arange(1.0, 11)[None]
W = np.ones((1, 1, 3))


@contextlib.contextmanager
def limited_memory():
    """Let this process take 1 GiB of address space more."""
    resource = pytest.importorskip("resource")
    if sys.platform != "linux":
        pytest.skip("reads /proc/self/statm")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_dilation_of_2_to_the_31_with_same():
    # The outer taps lie in the padding, whatever 32-bit arithmetic says.
    for dilation in (2**31 - 1, 2**31, 2**31 + 1, 2**32, 2**33):
        for lib in ("auto", "blas"):
            y = fastconv1d.conv1d(X, W, padding="same", dilation=dilation, algorithm=lib)
            np.testing.assert_array_equal(y, X)
        np.testing.assert_array_equal(
            Conv1d(1, 1, 3, padding="same", dilation=dilation, dtype="float64")(X).shape, X.shape
        )
        dx, dw, _ = fastconv1d.conv1d_backward(X, X, W, padding="same", dilation=dilation)
        np.testing.assert_array_equal(dx, X)
        np.testing.assert_array_equal(dw, [[[0, (X * X).sum(), 0]]])
    with pytest.raises(ValueError, match="not supported for strided convolutions, got stride=2"):
        fastconv1d.conv1d(X, W, padding="same", dilation=2**31, stride=2)


@pytest.mark.parametrize("padding", [2**63 - 5, 2**63 - 1, (2**63 - 5, 0), (0, 2**63 - 5)])
def test_padding_near_2_to_the_63(padding):
    for call in (
        lambda: fastconv1d.conv1d(X, W, padding=padding),
        lambda: fastconv1d.conv1d_backward(X, X, W, padding=padding),
        lambda: fastconv1d.conv_transpose1d(X, W, padding=padding),
        lambda: fastconv1d.unfold1d(X, 3, padding=padding),
        lambda: fastconv1d.fold1d(X, 10, 1, padding=padding),
        lambda: Conv1d(1, 1, 3, padding=padding),
        lambda: ConvTranspose1d(1, 1, 3, padding=padding),
    ):
        with pytest.raises((OverflowError, ValueError), match=r"\d"):
            call()


def test_padding_of_2_to_the_31_on_both_sides():
    # 1,431,655,768 outputs fit in memory only on large machines; these strides leave few.
    for stride in (2**20, 2**28 + 1, 2**31 - 1, 2**31, 2**32 + 2, 2**63 - 1):
        for mode in ("zeros", "replicate"):
            args = {"padding": 2**31 - 1, "stride": stride, "padding_mode": mode}
            y = fastconv1d.conv1d(X, W, **args)
            assert y.shape[1] == (10 + 2 * (2**31 - 1) - 3) // stride + 1
            np.testing.assert_array_equal(y, reference.conv1d(X, W, **args))
            grads = fastconv1d.conv1d_backward(y, X, W, **args)
            for one, other in zip(grads, reference.conv1d_backward(y, X, W, **args), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-13)


def test_padding_of_2_to_the_31_with_stride_3():
    with pytest.raises(MemoryError), limited_memory():
        fastconv1d.conv1d(X, W, padding=2**31 - 1, stride=3)
    np.testing.assert_array_equal(fastconv1d.conv1d(X, W)[0, :2], [6, 9])


def test_output_padding_of_the_stride_or_more():
    for stride, output_padding in ((1, 1), (2, 2), (2, 3), (3, 2**31), (1, 2**62)):
        match = f"output_padding={output_padding} stride={stride} dilation=1"
        with pytest.raises(ValueError, match=match):
            fastconv1d.conv_transpose1d(X, W, stride=stride, output_padding=output_padding)
        layer = ConvTranspose1d(1, 1, 3, stride, output_padding=output_padding, dtype="float64")
        with pytest.raises(ValueError, match=match):
            layer(X)
    # A dilation allows more than the stride does.
    args = {"stride": 1, "output_padding": 4, "dilation": 5}
    y = fastconv1d.conv_transpose1d(X, W, **args)
    np.testing.assert_array_equal(y, reference.conv_transpose1d(X, W, **args))


@pytest.mark.parametrize("padding", [4, 50, 3000, (0, 700), (700, 0), 100_000])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_padding_far_larger_than_the_kernel(padding, dtype):
    x, w = X.astype(dtype), W.astype(dtype)
    for mode in ("zeros", "replicate"):
        for stride in (1, 7):
            args = {"padding": padding, "stride": stride, "padding_mode": mode}
            y = fastconv1d.conv1d(x, w, **args)
            np.testing.assert_array_equal(y, reference.conv1d(x, w, **args))
    for mode in ("reflect", "circular"):
        if np.max(padding) > 10:
            with pytest.raises(ValueError, match=str(np.max(padding))):
                fastconv1d.conv1d(x, w, padding=padding, padding_mode=mode)
    with pytest.raises(ValueError, match="Output size is too small"):
        fastconv1d.conv_transpose1d(x, w, padding=7)
