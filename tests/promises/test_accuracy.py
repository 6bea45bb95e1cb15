"""Sums within 8*u*S of the exact ones, exact where they can be, and gradients that are adjoint."""

import numpy as np
import pytest
from layers import (
    DTYPES,
    OPS,
    REALISTIC,
    Layer,
    Library,
    assert_forward_accurate,
    assert_layer_accurate,
    assert_layer_exact,
    assert_within,
    longer,
    random_layers,
    random_planes,
)

from fastconv1d import reference


def test_random_layers_are_exact(lib, share):
    for seed, layer in enumerate(random_layers(int(1000 * share), seed=2)):
        assert_layer_exact(lib, layer, seed)


def test_random_layers_are_accurate(lib, share):
    planes = random_planes(int(2000 * share), seed=1)
    for seed, layer in enumerate(random_layers(int(20_000 * share), seed=1) + planes):
        assert_forward_accurate(lib, layer, layer.normal_arrays(seed))


def test_gradients_of_random_layers_are_accurate(lib, share):
    for seed, layer in enumerate(random_layers(int(5000 * share), seed=10)):
        assert_layer_accurate(lib, layer, layer.normal_arrays(seed))


@pytest.mark.parametrize(("dtype", "decades"), [("float32", 15), ("float64", 30)])
def test_accurate_over_magnitudes(lib, share, dtype, decades):
    # float32 holds products of 1e-30 to 1e30, float64 has both factors so far apart.
    for seed, layer in enumerate(random_layers(int(1000 * share), seed=3, dtype=dtype)):
        rng = np.random.default_rng(seed)
        arrays = [
            a if a is None else (a * 10 ** rng.uniform(-decades, decades, a.shape)).astype(dtype)
            for a in layer.normal_arrays(seed)
        ]
        assert_layer_accurate(lib, layer, arrays)


@pytest.mark.parametrize(("dtype", "count"), [("float64", 5000), ("complex128", 2500)])
def test_adjoint_identities(lib, share, dtype, count):
    # <g, W x> = <W^H g, x> = <dw, w>: each gradient is the adjoint of the forward.
    layers = random_layers(int(count * share), seed=11, dtype=dtype)
    layers += random_planes(int(count * share) // 5, seed=11, dtype=dtype)
    for seed, layer in enumerate(layers):
        x, w, _, g = layer.normal_arrays(seed)
        y = layer.forward(lib)(x, w)
        dx, dw, db = layer.backward(lib)(g, x, w)
        scale = np.vdot(np.abs(g), reference.magnitude(layer.forward(reference), x, w))
        assert abs(np.vdot(g, y) - np.vdot(dx, x)) <= 1e-12 * scale, layer
        assert abs(np.vdot(g, y) - np.vdot(dw, w)) <= 1e-12 * scale, layer
        sums = g.sum(axis=(0, *range(2, g.ndim)))
        np.testing.assert_allclose(db, sums, rtol=0, atol=1e-12 * np.abs(g).sum())


# Data of one sign, as after a rectifier: sums grow with every term, and errors with the sums. Each
# draws inputs and weights.
ONE_SIGN = {
    "uniform": lambda rng, shape: rng.random(shape),
    "rectified": lambda rng, shape: np.abs(rng.standard_normal(shape)) * (rng.random(shape) < 0.5),
    "near one": lambda rng, shape: 1 + rng.random(shape) / 1000,
}


def one_sign(layer, kind, seed=0):
    """x, w, b and g of a layer; real and imaginary parts are of one sign each."""
    rng = np.random.default_rng(seed)
    inputs, weights = ONE_SIGN[kind], ONE_SIGN["near one" if kind == "near one" else "uniform"]
    arrays = []
    for like, draw in zip(layer.normal_arrays(), (inputs, weights, weights, inputs), strict=True):
        array = None if like is None else draw(rng, like.shape).astype(layer.dtype)
        if array is not None and layer.dtype.startswith("complex"):
            array += 1j * draw(rng, like.shape).astype(like.real.dtype)
        arrays.append(array)
    return arrays


@pytest.mark.parametrize("kind", ONE_SIGN)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("channels", "kernel_size"), [(2048, 16), (8192, 16)])
def test_data_of_one_sign(lib, kind, dtype, channels, kernel_size):
    # Many terms forward and in the gradient by the input; 8 rows are whole register tiles.
    layer = Layer("conv1d", dtype, 1, channels, 8, kernel_size + 24, kernel_size, bias=False)
    assert_forward_accurate(lib, layer, one_sign(layer, kind))
    layer = Layer("conv1d", dtype, 1, 8, channels, kernel_size + 24, kernel_size, bias=False)
    x, w, _, g = one_sign(layer, kind)
    exact = layer.backward(reference)(longer(g), longer(x), longer(w))[0]
    scale = layer.backward(reference)(*(np.abs(longer(a)) for a in (g, x, w)))[0]
    assert_within(layer.backward(lib)(g, x, w)[0], exact, scale, f"{layer} dx")


@pytest.mark.parametrize("kind", ONE_SIGN)
@pytest.mark.parametrize(
    ("channels", "units"), [(32, 8), (128, 16), (384, 30), (512, 20), (3000, 12)]
)
def test_one_chain_of_one_sign(lib, kind, channels, units):
    # A chain of 128 terms, and 384 of a GEMM, is rounded after each: rms errors of 2.7 and 4.6 u S.
    layer = Layer(c_in=channels, c_out=256, l_in=400, bias=False)
    x, w, _, _ = one_sign(layer, kind)
    y = layer.forward(lib)(x, w)
    exact = w[:, :, 0].astype(float) @ x[0].astype(float)
    units = min(units, 16) if lib.algorithm == "auto" else units
    assert_within(y[0], exact, exact, str(layer), units)
    rms = np.sqrt(np.mean(((y[0] - exact) / exact) ** 2)) * 2**24
    assert rms < (3 if lib.algorithm == "auto" else 5), rms


@pytest.mark.parametrize("kind", ONE_SIGN)
def test_half_a_million_terms_of_one_sign(lib, kind):
    layer = Layer(c_in=4096, c_out=8, kernel_size=128, l_in=140, bias=False)
    x, w, _, _ = one_sign(layer, kind)
    wide = np.lib.stride_tricks.sliding_window_view(x[0].astype(float), 128, axis=1)
    y = np.tensordot(w.astype(float), wide.swapaxes(1, 2), 2)[None]
    assert_within(layer.forward(lib)(x, w), y, y, str(layer))


@pytest.mark.parametrize("kind", ONE_SIGN)
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_four_million_columns_of_one_sign(lib, kind, dtype):
    layer = Layer(c_in=1, c_out=2, l_in=4_000_000, bias=False, dtype=dtype)
    x, w, _, g = one_sign(layer, kind)
    _, dw, db = layer.backward(lib)(g, x, w)
    g, x = (a[0].astype(np.complex128 if dtype == "complex64" else np.float64) for a in (g, x))
    exact, scale = g @ x.conj().T, np.abs(g) @ np.abs(x).T
    assert_within(dw[:, :, 0], exact, scale, f"{layer} dw")
    assert_within(db, g.sum(1), np.abs(g).sum(1), f"{layer} db")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_constant_data_are_no_worse_with_more_terms(lib, dtype):
    # Every rounding goes the same way: 128 terms in a row are off by up to 32 u S, 384 by 96.
    rng = np.random.default_rng(5)
    for c_in in (128, 384, 5000, *[300_000] * 6):
        x = np.full((1, c_in, 20), rng.random(), dtype)
        w = np.full((8, c_in, 1), rng.random(), dtype)
        exact = np.full((1, 8, 20), np.longdouble(c_in)) * x[0, 0, 0] * w[0, 0, 0]
        assert_within(lib.conv1d(x, w), exact, exact, f"{c_in} terms", units=100)


def test_the_bound_notices_a_wrong_bit():
    # An error of 16 units in one output is not lost in the bound.
    layer = next(layer for layer in REALISTIC if layer.op == "conv1d")
    x, w, b, g = layer.normal_arrays()

    class Wrong:
        @staticmethod
        def conv1d(*args, **kwargs):
            y = Library("auto").conv1d(*args, **kwargs)
            scale = reference.magnitude(layer.forward(reference), *args[:3])
            y[0, 3, 700] += 16 * np.finfo(y.dtype).eps / 2 * scale[0, 3, 700]
            return y

    with pytest.raises(AssertionError, match="times the bound"):
        assert_forward_accurate(Wrong, layer, (x, w, b, g))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_that_only_one_direction_takes(op, dtype):
    # The direct engine has no scatter of strides beyond 1,024: what needs one goes to BLAS.
    for stride in (1023, 1024, 1025, 3000):
        for layer in random_layers(3, seed=stride, op=op, dtype=dtype, stride=stride, l_out=5):
            assert_layer_exact(Library("auto"), layer)
            if op == "conv1d":
                assert_layer_exact(Library("direct"), layer)
