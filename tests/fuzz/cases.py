"""The kinds of cases; each case follows from the seed and its number alone."""

import random

import numpy as np
from layers import (
    Library,
    assert_layer_accurate,
    assert_layer_exact,
    assert_same_bits,
    assert_transforms_accurate,
    draw_layer,
    random_view,
)

import fastconv1d
import fastconv1d.reference

from . import files, hostile, mutated

LIBRARIES = [Library("auto"), Library("blas")]


def layers(rng):
    """A random layer: exact on integers, accurate on floats, forward and gradients."""
    layer, lib = draw_layer(rng.choice), rng.choice(LIBRARIES)
    threads = rng.choice((1, 2, 3))
    with fastconv1d.num_threads(threads):
        assert_layer_exact(lib, layer, rng.randrange(2**32))
        assert_layer_accurate(lib, layer, layer.normal_arrays(rng.randrange(2**32)))


def layouts(rng):
    """Arrays with any order, sign and step of axes: the bits of contiguous ones."""
    layer, lib = draw_layer(rng.choice), rng.choice(LIBRARIES)
    views = np.random.default_rng(rng.randrange(2**32))
    arrays = layer.normal_arrays(rng.randrange(2**32))
    x, w, b, g = arrays
    vx, vw, vb, vg = (None if a is None else random_view(a, views) for a in arrays)
    assert_same_bits(layer.forward(lib)(vx, vw, vb), layer.forward(lib)(x, w, b), layer)
    results = layer.backward(lib)(vg, vx, vw), layer.backward(lib)(g, x, w)
    for result, bits in zip(*results, strict=True):
        assert_same_bits(result, bits, layer)


def planes(rng):
    """A random layer of two dimensions: exact on integers against the reference, also backwards."""
    pick, numbers = rng.choice, np.random.default_rng(rng.randrange(2**32))
    dtype = pick((np.float32, np.float64, np.complex64, np.complex128))
    groups = pick((1, 1, 2, 4))
    c_in, c_out = groups * pick((1, 1, 2, 5)), groups * pick((1, 1, 3, 9))
    kernel = pick((1, 2, 3, 3, 5)), pick((1, 2, 3, 3, 5))
    stride, dilation = (
        (pick((1, 1, 2, 3)), pick((1, 1, 2, 4))),
        (pick((1, 1, 2)), pick((1, 1, 2, 7))),
    )
    size = tuple(
        d * (k - 1) + pick((1, 1, 2, 4, 7, 15, 40)) for d, k in zip(dilation, kernel, strict=True)
    )
    most = [min(n - 1, 4) for n in size]
    padding = tuple((rng.randint(0, m), rng.randint(0, m)) for m in most)
    mode = pick(("zeros", "zeros", "reflect", "replicate", "circular"))

    def whole(shape):
        a = numbers.integers(-4, 5, shape).astype(dtype)
        return a + 1j * numbers.integers(-4, 5, shape) if a.dtype.kind == "c" else a

    x = random_view(whole((pick((0, 1, 1, 3)), c_in, *size)), numbers)
    w, b = whole((c_out, c_in // groups, *kernel)), pick((None, whole(c_out)))
    window = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    algorithm = pick(("auto", "blas"))
    with fastconv1d.num_threads(pick((1, 2, 3))):
        y = fastconv1d.conv2d(x, w, b, **window, padding_mode=mode, algorithm=algorithm)
        expected = fastconv1d.reference.conv2d(x, w, b, **window, padding_mode=mode)
        np.testing.assert_array_equal(y, expected)
        g = whole(y.shape)
        by_input, by_weight, _ = fastconv1d.conv2d_backward(
            g, x, w, **window, padding_mode=mode, algorithm=algorithm
        )
    # <g, conv(dx, w)> = <gradient, dx> and <g, conv(x, dw)> = <gradient, dw>, in whole numbers
    dx, dw = whole(x.shape), whole(w.shape)
    forward = fastconv1d.reference.conv2d
    for gradient, change, other in (
        (by_input, dx, forward(dx, w, **window, padding_mode=mode)),
        (by_weight, dw, forward(x, dw, **window, padding_mode=mode)),
    ):
        wide = np.complex128 if dtype().dtype.kind == "c" else np.float64
        left = np.vdot(other.astype(wide), g.astype(wide))
        assert left == np.vdot(change.astype(wide), gradient.astype(wide))


# Of the direct sums that results are compared with, for an item: some seconds of complex128.
MOST_MACS = 1_000_000_000


def transforms(rng):
    """A random layer by transforms: within its bound of the direct sums, forward and gradients."""
    pick, numbers = rng.choice, np.random.default_rng(rng.randrange(2**32))
    dtype = pick((np.float32, np.float32, np.float64, np.complex64, np.complex128))
    groups, transposed = pick((1, 1, 2, 5)), pick((False, True))
    c_in, c_out = groups * pick((1, 1, 2, 5)), groups * pick((1, 1, 2, 5))
    kernel = pick((1, 2, 3, 30, 127, 256, 257, 511, 512, 513, 900))
    stride, dilation = pick(((1, 1), (1, 1), (1, 2), (1, 7), (1, 300), (2, 1), (5, 1), (700, 1)))
    mode = pick(("zeros", "zeros", "reflect", "replicate", "circular"))
    length = pick((1, 2, 17, 255, 256, 257, 1023, 1024, 1025, 3000))
    if transposed:
        length = min(length, 21_000 // stride)  # outputs of the result
    else:
        length = max(length, dilation * (kernel - 1) + 1 if pick((True, False)) else 1)
    most = length - 1 if mode in ("reflect", "circular") else dilation * kernel
    padding = rng.randint(0, most), rng.randint(0, most)
    if not transposed and length + sum(padding) < dilation * (kernel - 1) + 1:
        return
    columns = length
    if transposed:
        whole = (length - 1) * stride + dilation * (kernel - 1) + 1
        padding = tuple(min(p, (whole - 1) // 3) for p in padding)
    else:
        columns = (length + sum(padding) - dilation * (kernel - 1) - 1) // stride + 1
    if columns * kernel * c_in * c_out // groups > MOST_MACS:
        return

    def normal(*shape):
        a = numbers.standard_normal(shape)
        a = a + 1j * numbers.standard_normal(shape) if np.dtype(dtype).kind == "c" else a
        return random_view(a.astype(dtype), numbers)

    x, b = normal(pick((0, 1, 1, 3)), c_in, length), pick((None, normal(c_out)))
    first, second = (c_in, c_out // groups) if transposed else (c_out, c_in // groups)
    w = normal(first, second, kernel)
    window = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    window["padding_mode"] = mode
    name = "conv_transpose1d" if transposed else "conv1d"
    forward, backward = getattr(fastconv1d, name), getattr(fastconv1d, f"{name}_backward")
    with fastconv1d.num_threads(pick((1, 2, 3))):
        y = forward(x, w, b, **window, algorithm="fft")
        expected = forward(x, w, b, **window)
        assert_transforms_accurate(y, expected, x, w, b)
        g = normal(*y.shape)
        gradients = backward(g, x, w, **window, algorithm="fft")
        exact = backward(g, x, w, **window)
    assert_transforms_accurate(gradients[0], exact[0], g, w)
    assert_transforms_accurate(gradients[1], exact[1], g, x)
    np.testing.assert_array_equal(gradients[2], exact[2])


KINDS = {"hostile": hostile.run, "files": files.run, "layers": layers, "layouts": layouts}
KINDS["planes"], KINDS["transforms"] = planes, transforms
if mutated.torch is not None:  # an extra
    KINDS["mutated"] = mutated.run


def run(kinds, seed, number):
    """Run one case; it raises whatever it finds."""
    rng = random.Random(f"{seed}:{number}")
    KINDS[rng.choice(kinds)](rng)
