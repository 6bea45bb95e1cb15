"""Weight gradients of long kernels over few columns, which are correlates. Exact on integers."""

import numpy as np
import pytest

import fastconv1d
from fastconv1d import grad, reference

CASES = [
    # transposed, N, c_in, c_out, K, stride, padding, dilation, L, mode
    (False, 1, 1, 18, 256, 128, 0, 1, 640, "zeros"),
    (False, 3, 2, 9, 17, 1, 8, 1, 20, "zeros"),
    (False, 2, 5, 13, 33, 3, 40, 2, 70, "zeros"),
    (False, 70, 1, 7, 7, 1, 0, 1, 8, "zeros"),
    (False, 2, 3, 6, 19, 2, 9, 1, 30, "reflect"),
    (False, 2, 3, 6, 19, 1, 9, 1, 30, "circular"),
    (False, 2, 3, 6, 19, 5, 9, 2, 40, "replicate"),
    (True, 2, 21, 1, 64, 32, 0, 1, 5, "zeros"),
    (True, 1, 11, 3, 20, 3, 4, 2, 9, "zeros"),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_exact(isa, case, dtype):
    transposed, n, c_in, c_out, kernel, stride, padding, dilation, length, mode = case
    rng = np.random.default_rng(0)
    x = rng.integers(-4, 5, (n, c_in, length)).astype(dtype)
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    if transposed:
        w = rng.integers(-4, 5, (c_in, c_out, kernel)).astype(dtype)
        forward, backward = fastconv1d.conv_transpose1d, fastconv1d.conv_transpose1d_backward
        oracle = reference.conv_transpose1d_backward
    else:
        options["padding_mode"] = mode
        w = rng.integers(-4, 5, (c_out, c_in, kernel)).astype(dtype)
        forward, backward = fastconv1d.conv1d, fastconv1d.conv1d_backward
        oracle = reference.conv1d_backward
    g = rng.integers(-4, 5, forward(x, w, **options).shape).astype(dtype)
    expected = oracle(g, x, w, **options)
    for threads in (1, 2):
        with fastconv1d.num_threads(threads):
            for got, right in zip(backward(g, x, w, **options), expected, strict=True):
                np.testing.assert_array_equal(got, right)
    wide = np.zeros((n, c_in, 2 * length), dtype)[:, :, ::-2]
    wide[...] = x
    np.testing.assert_array_equal(backward(g, wide, w, **options)[1], expected[1])


def test_the_bits_follow_from_the_shapes_alone(isa):
    rng = np.random.default_rng(1)
    x, g = (rng.standard_normal(s).astype("f") for s in ((9, 2, 300), (9, 33, 6)))
    w = rng.standard_normal((33, 2, 50)).astype("f")
    with fastconv1d.num_threads(1):
        expected = fastconv1d.conv1d_backward(g, x, w, stride=50)
    for threads in (2, 3, 8):
        with fastconv1d.num_threads(threads):
            for mask in ((True, True, True), (False, True, False), (False, False, True)):
                got = fastconv1d.conv1d_backward(g, x, w, stride=50, output_mask=mask)
                for a, b in zip(got, expected, strict=True):
                    if a is not None:
                        np.testing.assert_array_equal(a, b)
            alone = grad.conv1d_weight(x, w.shape, g, stride=50)
            np.testing.assert_array_equal(alone, expected[1])
