"""Sums within 8*u*S of the exact ones, exact where they can be, and gradients that are adjoint."""

import numpy as np
import pytest
from layers import (
    DTYPES,
    OPS,
    REALISTIC,
    Library,
    assert_forward_accurate,
    assert_layer_accurate,
    assert_layer_exact,
    random_layers,
)

from fastconv1d import reference


def test_random_layers_are_exact(lib, share):
    for seed, layer in enumerate(random_layers(int(1000 * share), seed=2)):
        assert_layer_exact(lib, layer, seed)


def test_random_layers_are_accurate(lib, share):
    for seed, layer in enumerate(random_layers(int(20_000 * share), seed=1)):
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
    for seed, layer in enumerate(random_layers(int(count * share), seed=11, dtype=dtype)):
        x, w, _, g = layer.normal_arrays(seed)
        y = layer.forward(lib)(x, w)
        dx, dw, db = layer.backward(lib)(g, x, w)
        scale = np.vdot(np.abs(g), reference.magnitude(layer.forward(reference), x, w))
        assert abs(np.vdot(g, y) - np.vdot(dx, x)) <= 1e-12 * scale, layer
        assert abs(np.vdot(g, y) - np.vdot(dw, w)) <= 1e-12 * scale, layer
        np.testing.assert_allclose(db, g.sum(axis=(0, 2)), rtol=0, atol=1e-12 * np.abs(g).sum())


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
            if op == "conv1d" and dtype.startswith("float"):
                assert_layer_exact(Library("direct"), layer)
