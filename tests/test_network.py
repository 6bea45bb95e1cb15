"""The compiled layers between convolutions against formulas, on every instruction set."""

import numpy as np
import pytest

from fastconv1d.core.arrays import FLOAT16
from fastconv1d.kernels import network

LENGTHS = [1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 100, 1025]
DTYPES = [np.float32, np.float64]
TOLERANCE = {np.float32: 3e-6, np.float64: 1e-12}


def random(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def near(found, expected, dtype, factor=1):
    tolerance = TOLERANCE[dtype] * factor
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax(isa, dtype, n):
    x = 5 * random(4, n, dtype=dtype)
    y = np.full_like(x, np.nan)
    wide = x.astype(np.float64)
    parts = np.exp(wide - wide.max(-1, keepdims=True))
    network.softmax(x, y, False)
    near(y, parts / parts.sum(-1, keepdims=True), dtype)
    network.softmax(x, y, True)
    near(y, np.log(parts / parts.sum(-1, keepdims=True)), dtype, 4)


def test_softmax_of_what_is_masked_and_far_apart(isa):
    x = np.float32([[-np.inf, 0, -np.inf, 1e4, -1e4] * 7])
    y = np.empty_like(x)
    network.softmax(x, y, False)
    np.testing.assert_array_equal(y, np.where(x == 1e4, np.float32(1 / 7), 0))
    x[0, 3] = np.nan
    network.softmax(x, y, False)
    assert np.isnan(y).all()


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("n", [1, 5, 16, 33, 3000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_standardize_rows(isa, dtype, n, centered):
    x = 100 + random(3, n, dtype=dtype)
    scale, shift = random(n, dtype=dtype, seed=1), random(n, dtype=dtype, seed=2)
    wide = x.astype(np.float64)
    mean = wide.mean(-1, keepdims=True) if centered else 0
    expected = (wide - mean) / np.sqrt(((wide - mean) ** 2).mean(-1, keepdims=True) + 1e-3)
    y = np.full_like(x, np.nan)
    network.standardize(x, y, n, scale, shift, 0, 1e-3, centered)
    near(y, expected * scale + shift, dtype, 30)  # the mean is rounded, 100 times the deviation
    network.standardize(x, y, n, None, None, 0, 1e-3, centered)
    near(y, expected, dtype, 30)


@pytest.mark.parametrize("dtype", DTYPES)
def test_standardize_groups_of_channels(isa, dtype):
    x = random(2, 6, 19, dtype=dtype)
    scale, shift = random(6, dtype=dtype, seed=1), random(6, dtype=dtype, seed=2)
    grouped = x.astype(np.float64).reshape(2, 3, -1)
    mean, variance = grouped.mean(-1, keepdims=True), grouped.var(-1, keepdims=True)
    expected = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
    y = np.full_like(x, np.nan)
    network.standardize(x, y, 2 * 19, scale, shift, 19, 1e-5, True)
    near(y, expected * scale[:, None] + shift[:, None], dtype, 4)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("hidden", [1, 5, 16, 35])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lstm(isa, dtype, hidden, batch):
    gates, back = random(6, batch, 4 * hidden), random(4 * hidden, hidden, seed=1) / 4
    state, cell = random(batch, hidden, seed=2), random(batch, hidden, seed=3)
    arrays = [a.astype(dtype) for a in (gates, back, state, cell)]
    y = np.full((6, batch, hidden), np.nan, dtype)
    network.lstm(*arrays, y)
    for t in range(6):
        enter, leave, keep, new = np.split(gates[t] + state @ back.T, 4, axis=1)
        cell = sigmoid(keep) * cell + sigmoid(enter) * np.tanh(new)
        state = sigmoid(leave) * np.tanh(cell)
        near(y[t], state, dtype, 10)
    near(arrays[3], cell, dtype, 10)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("hidden", [1, 5, 16, 35])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gru(isa, dtype, hidden, batch):
    gates, back = random(6, batch, 3 * hidden), random(3 * hidden, hidden, seed=1) / 4
    bias, state = random(batch, 3 * hidden, seed=2), random(batch, hidden, seed=3)
    arrays = [a.astype(dtype) for a in (gates, back, bias, state)]
    y = np.full((6, batch, hidden), np.nan, dtype)
    network.gru(*arrays, np.empty_like(arrays[2]), y)
    for t in range(6):
        update, reset, new = np.split(gates[t], 3, axis=1)
        push_update, push_reset, push_new = np.split(state @ back.T + bias, 3, axis=1)
        new = np.tanh(new + sigmoid(reset + push_reset) * push_new)
        state = new + sigmoid(update + push_update) * (state - new)
        near(y[t], state, dtype, 10)


@pytest.mark.parametrize("stored", [np.int8, np.uint8, np.int16, np.uint16])
@pytest.mark.parametrize("dtype", DTYPES)
def test_quantize(isa, dtype, stored):
    bounds = np.iinfo(stored)
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1e9, -1e9, np.inf, -np.inf, *range(-40, 40)], dtype)
    zero = 100 if bounds.min == 0 else -7
    y = np.empty(x.shape, stored)
    network.quantize(x, y, 1.0, zero, bounds.min, bounds.max)
    expected = np.clip(np.rint(x) + zero, bounds.min, bounds.max)
    np.testing.assert_array_equal(y, expected.astype(stored))
    network.quantize(x, y, 0.3, zero, bounds.min, bounds.max)
    expected = np.clip(np.rint(x / dtype(0.3)) + zero, bounds.min, bounds.max)
    np.testing.assert_array_equal(y, expected.astype(stored))


@pytest.mark.parametrize("dtype", DTYPES)
def test_erf(isa, dtype):
    special = pytest.importorskip("scipy.special")
    x = np.concatenate([np.linspace(-5, 5, 20011), [0, -0.0, 1e-30, np.inf, -np.inf]]).astype(dtype)
    y = np.empty_like(x)
    network.erf(x, y)
    exact = special.erf(x.astype(np.float64))
    assert (np.abs(y - exact) <= 3 * np.spacing(np.abs(exact).astype(dtype))).all()
    network.erf(np.full(3, np.nan, dtype), y[:3])
    assert np.isnan(y[:3]).all()


def test_conversions(isa):
    x = np.concatenate([random(1001, dtype=np.float32), np.float32([1e9, 6e-8, np.inf])])
    half, back = np.empty(x.shape, np.float16), np.empty_like(x)
    network.convert(x, half, FLOAT16, False)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(half, x.astype(np.float16))
    network.convert(half, back, FLOAT16, True)
    np.testing.assert_array_equal(back, half.astype(np.float32))


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("columns", [(2, 2, 1, 0), (3, 1, 1, 1), (3, 2, 2, 1), (4, 3, 1, 2)])
@pytest.mark.parametrize("rows", [(1, 1, 1, 0), (3, 2, 1, 1), (2, 1, 3, 0)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_pool(isa, dtype, rows, columns, largest):
    x = np.random.default_rng(0).integers(-9, 9, (3, 9, 41)).astype(dtype)
    counts, fill = [], -np.inf if largest else 0
    for size, (taps, step, dilation, before) in zip(x.shape[1:], (rows, columns), strict=True):
        counts.append((size + 2 * before - (taps - 1) * dilation - 1) // step + 1)
    pads = [(0, 0), *((w[3], w[3]) for w in (rows, columns))]
    padded = np.pad(x, pads, constant_values=fill)
    expected = np.full((3, *counts), fill, dtype)
    for i in range(rows[0]):
        for k in range(columns[0]):
            r, c = i * rows[2], k * columns[2]
            part = padded[:, r :: rows[1], c :: columns[1]][:, : counts[0], : counts[1]]
            expected = np.maximum(expected, part) if largest else expected + part
    y = np.full(expected.shape, np.nan, dtype)
    network.pool(x, y, rows, columns, largest)
    np.testing.assert_array_equal(y, expected)


def test_the_largest_of_a_window_with_nan_is_nan(isa):
    x = np.arange(40, dtype=np.float32).reshape(1, 1, 40)
    x[0, 0, [3, 20, 37]] = np.nan
    y = np.empty((1, 1, 38), np.float32)
    network.pool(x, y, (1, 1, 1, 0), (3, 1, 1, 0), True)
    expected = np.maximum(np.maximum(x[..., :-2], x[..., 1:-1]), x[..., 2:])
    np.testing.assert_array_equal(y, expected)
