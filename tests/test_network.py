"""The compiled layers between convolutions against formulas, on every instruction set."""

import numpy as np
import pytest

from fastconv1d.core.arrays import FLOAT16
from fastconv1d.core.network import in_panels
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


@pytest.mark.parametrize("columns", [1, 3, 16, 61, 200])
@pytest.mark.parametrize("dtype", DTYPES)
def test_columns(isa, dtype, columns):
    x = 3 * random(2, 5, columns, dtype=dtype)
    wide = x.astype(np.float64)
    parts = np.exp(wide - wide.max(1, keepdims=True))
    y = np.full_like(x, np.nan)
    network.softmax_columns(x, y)
    near(y, parts / parts.sum(1, keepdims=True), dtype)
    scale, shift = random(5, dtype=dtype, seed=1), random(5, dtype=dtype, seed=2)
    centered = wide - wide.mean(1, keepdims=True)
    normal = centered / np.sqrt((centered**2).mean(1, keepdims=True) + 1e-3)
    network.standardize_channels(x, y, scale, shift, 1e-3)
    near(y, normal * scale[:, None] + shift[:, None], dtype, 10)
    network.standardize_channels(x, x, None, None, 1e-3)  # in place
    near(x, normal, dtype, 10)


@pytest.mark.parametrize("n", [1, 2, 15, 17, 100])
@pytest.mark.parametrize("dtype", DTYPES)
def test_affine_and_gate(isa, dtype, n):
    x, scale, shift = random(3, 7, n, dtype=dtype), random(7, dtype=dtype), random(7, dtype=dtype)
    y = np.full_like(x, np.nan)
    network.affine(x, y, scale, shift)
    near(y, x * scale[:, None] + shift[:, None], dtype)
    flat = np.full((3, 7), np.nan, dtype)
    network.affine(np.ascontiguousarray(x[:, :, 0]), flat, scale, shift)
    near(flat, x[:, :, 0] * scale + shift, dtype)
    pair = random(4, 2 * n, dtype=dtype, seed=3)
    a, b = pair[:, :n], pair[:, n:]
    y = np.full((4, n), np.nan, dtype)
    network.gate(a, b, y, True)
    near(y, np.tanh(a) * sigmoid(b), dtype)
    network.gate(a, b, y, False)
    near(y, a * sigmoid(b), dtype)


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_parts(isa, dtype, largest):
    x = np.random.default_rng(0).integers(-9, 9, (3, 1500)).astype(dtype)
    begin = np.array([0, 0, 3, 10, 20, 1, 1499, 1484])
    end = np.array([1, 1500, 19, 26, 21, 1400, 1500, 1499])
    y = np.full((3, 8), np.nan, dtype)
    network.reduce_parts(x, y, begin, end, largest)
    function = np.max if largest else np.mean
    expected = [function(x[:, a:b].astype(float), axis=1) for a, b in zip(begin, end, strict=True)]
    np.testing.assert_array_equal(y, np.stack(expected, 1).astype(dtype))
    x[1, 15] = np.nan
    network.reduce_parts(x, y, begin, end, largest)
    assert np.isnan(y[1]).tolist() == [False, True, True, True, False, True, False, False]


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("taps", [1, 2, 5])
@pytest.mark.parametrize("step", [3, 4, 7, 16, 17, 40])
@pytest.mark.parametrize("dtype", DTYPES)
def test_pool_of_large_steps(isa, dtype, step, taps, largest):
    for length in (taps, 37, 333):
        count = (length - taps) // step + 1
        x = np.random.default_rng(0).integers(-9, 9, (2, 1, length)).astype(dtype)
        divisors = np.arange(1, count + 1).astype(dtype)
        y = np.full((2, 1, count), np.nan, dtype)
        network.pool(x, y, (1, 1, 1, 0), (taps, step, 1, 0), largest, None if largest else divisors)
        windows = np.lib.stride_tricks.sliding_window_view(x, taps, -1)[..., ::step, :]
        expected = windows.max(-1) if largest else windows.sum(-1) / divisors
        np.testing.assert_array_equal(y, expected.astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_resample(isa, dtype):
    x = random(3, 20, dtype=dtype)
    where = np.random.default_rng(0).integers(0, 20, (2, 33))
    weights = random(2, 33, dtype=dtype, seed=1)
    y = np.full((3, 33), np.nan, dtype)
    network.resample(x, y, where, weights)
    near(y, x[:, where[0]] * weights[0] + x[:, where[1]] * weights[1], dtype)
    network.resample(x, y, where[:1], weights[:1])
    np.testing.assert_array_equal(y, x[:, where[0]])


@pytest.mark.parametrize("hidden", [1, 5, 16, 70])
@pytest.mark.parametrize("dtype", DTYPES)
def test_recurrent_panels(isa, dtype, hidden):
    gates, back = random(4, 7, 4 * hidden, dtype=dtype), random(4 * hidden, hidden, dtype=dtype)
    state, cell = random(7, hidden, dtype=dtype, seed=2), random(7, hidden, dtype=dtype, seed=3)
    expected, found = (np.full((4, 7, hidden), np.nan, dtype) for _ in range(2))
    network.lstm(gates.copy(), back, state, cell.copy(), expected)
    network.lstm(gates.copy(), in_panels(back), state, cell.copy(), found, 2)
    near(found, expected, dtype, 30)
    alone = np.full((4, 1, hidden), np.nan, dtype)
    part = [np.ascontiguousarray(a[..., 3:4, :]) for a in (gates, state, cell)]
    network.lstm(part[0], in_panels(back), part[1], part[2], alone)
    np.testing.assert_array_equal(alone[:, 0], found[:, 3])
