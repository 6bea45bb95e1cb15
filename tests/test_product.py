"""Products with a packed matrix: exact on small integers, the same bits however rows are cut."""

import numpy as np
import pytest

from fastconv1d.core.activations import parse_activation
from fastconv1d.kernels import direct_engine
from fastconv1d.kernels.product import ByteProduct, Product

STEPS = (None, "relu", ("leaky_relu", 0.5))


@pytest.fixture(params=direct_engine.supported_isas())
def isa(request):
    before = direct_engine.isa()
    direct_engine.set_isa(request.param)
    yield request.param
    direct_engine.set_isa(before)


def whole(rng, dtype, *shape):
    return rng.integers(-4, 5, shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_convolutions_of_integers(isa, dtype):
    rng = np.random.default_rng(0)
    for trial in range(150):
        n, channels, taps, length, items = (int(v) for v in rng.integers(1, (150, 40, 6, 30, 5)))
        dilation, stride, left, right = (int(v) for v in rng.integers((1, 1, 0, 0), 4))
        span = dilation * (taps - 1) + 1
        length = max(length, span)
        w, bias = whole(rng, dtype, n, taps, channels), whole(rng, dtype, n)
        x = whole(rng, dtype, items, length, channels)
        padded = np.pad(x, ((0, 0), (left, right), (0, 0)))
        end = padded.shape[1] - span + 1
        wanted = bias + sum(
            padded[:, k * dilation : k * dilation + end : stride] @ w[:, k].T for k in range(taps)
        )
        residual = whole(rng, dtype, *wanted.shape) if trial % 3 else None
        step, last = parse_activation(STEPS[trial % 4 % 3]), trial % 2 == 1
        if residual is not None and not last:
            wanted = wanted + residual
        if step is not None:
            wanted = step.apply(wanted)
        if residual is not None and last:
            wanted = wanted + residual
        product = Product(w, bias, step, last, stride, dilation, left, right)
        assert product.shape(x) == wanted.shape
        np.testing.assert_array_equal(product(x, residual, None, 1 + trial % 2), wanted)


@pytest.mark.parametrize("terms", [1, 127, 128, 129, 300])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (0,), (5, 0, 2), (3, 2, 11)])
def test_matrices_of_any_number_of_dimensions(isa, terms, shape):
    rng = np.random.default_rng(1)
    for n in (1, 5, 16, 33, 64, 70):
        w, x = whole(rng, np.float32, n, terms), whole(rng, np.float32, *shape, terms)
        out = np.full((*shape, n), np.nan, np.float32)
        assert Product(w)(x, None, out) is out
        np.testing.assert_array_equal(out, x @ w.T)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "silu", "gelu", "gelu_tanh", "elu"])
def test_curves_are_those_of_a_pass_of_their_own(isa, name):
    rng = np.random.default_rng(2)
    w, x = whole(rng, np.float32, 37, 9), rng.standard_normal((11, 9)).astype(np.float32)
    step = parse_activation(name)
    wanted = Product(w)(x)
    direct_engine.finish(step, wanted[np.newaxis], None, 1.0, False)
    np.testing.assert_array_equal(Product(w, None, step)(x), wanted)


def test_bits_depend_on_nothing_beside_the_row():
    rng = np.random.default_rng(3)
    w, x = (rng.standard_normal((n, 777)).astype(np.float32) for n in (201, 100))
    product = Product(w)
    y = product(x)
    for n_threads in (1, 2):
        for rows in (1, 2, 5, 50):
            np.testing.assert_array_equal(product(x[:rows], None, None, n_threads), y[:rows])
    np.testing.assert_array_equal(Product(w[:70])(x), y[:, :70])


def test_views_and_what_is_not_taken():
    rng = np.random.default_rng(4)
    w, x = whole(rng, np.float32, 6, 5), whole(rng, np.float32, 4, 10)[:, ::2]
    product = Product(w)
    np.testing.assert_array_equal(product(x), x @ w.T)
    np.testing.assert_array_equal(product(x[::-1]), x[::-1] @ w.T)
    assert product(x.astype(np.float64)) is None
    assert product(x.astype(">f4")) is None
    assert product(x[:, :4]) is None and product.shape(x[:, :4]) is None
    assert product(x, np.zeros((4, 5), np.float32)) is None
    assert product(x, np.zeros((6, 4), np.float32).T) is None
    assert product(x, None, np.zeros((4, 12), np.float32)[:, ::2]) is None
    frozen = np.zeros((4, 6), np.float32)
    frozen.flags.writeable = False
    assert product(x, None, frozen) is None
    along = Product(whole(rng, np.float32, 6, 3, 5), None, None, False, 1, 2)
    assert along(np.zeros((1, 4, 5), np.float32)) is None
    assert along.shape(np.zeros((1, 4, 5), np.float32)) is None
    assert along(np.zeros((5, 5), np.float32)) is None
    with pytest.raises(ValueError, match=r"not be empty, got size \[3, 0\]"):
        Product(np.zeros((3, 0), np.float32))


@pytest.mark.parametrize("threads", [1, 2])
def test_products_of_bytes_are_exact(isa, threads):
    """All extremes, so that 16 bits would saturate; up to 2**24 the results are whole numbers."""
    rng = np.random.default_rng(1)
    for trial in range(60):
        rows, n, k = (int(v) for v in rng.integers(1, (90, 200, 300)))
        low, high = ((0, 255), (250, 255), (0, 3))[trial % 3]
        x = rng.integers(low, high + 1, (rows, k)).astype(np.uint8)
        w = rng.choice(np.array([-128, -127, 0, 1, 127], np.int8), (n, k))
        zero = int(rng.integers(0, 256))
        scale, bias = rng.integers(1, 3, n).astype(np.float32), whole(rng, np.float32, n)
        sums = (x.astype(np.int64) - zero) @ w.T.astype(np.int64)
        wanted = sums.astype(np.float32) * scale
        found = ByteProduct(w, scale, zero)(x, threads)
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(ByteProduct(w, scale, zero, bias)(x, threads), wanted + bias)
        steps = np.clip(np.rint(wanted / np.float32(8)), -1000, 900) * np.float32(8)
        rounded = ByteProduct(w, scale, zero, bias, 8, -1000, 900)
        np.testing.assert_array_equal(rounded(x, threads), steps + bias)
        deep = np.asfortranarray(x[None])
        np.testing.assert_array_equal(ByteProduct(w, scale, zero)(deep, 1), wanted[None])


def test_bytes_that_are_not_taken():
    w = np.ones((2, 3), np.int8)
    product = ByteProduct(w, np.ones(2, np.float32), 0)
    assert product(np.zeros((0, 3), np.uint8)).shape == (0, 2)
    for x in (np.zeros((1, 4), np.uint8), np.zeros((1, 3), np.int8), np.zeros((), np.uint8)):
        assert product(x) is None
    with pytest.raises(ValueError, match="rows of 1 to 65000 terms, got size"):
        ByteProduct(np.zeros((1, 65001), np.int8), np.ones(1, np.float32), 0)
