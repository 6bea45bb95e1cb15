"""Tiles of short transforms: against the direct sums, what they promise, when they are taken."""

import numpy as np
import pytest
from layers import random_view

from fastconv1d import (
    Conv1d,
    ConvTranspose1d,
    config,
    conv1d,
    conv1d_backward,
    conv_transpose1d,
    reference,
)
from fastconv1d.core import fft
from fastconv1d.core.activations import parse_steps
from fastconv1d.core.geometry import PADDING_MODES, Geometry
from fastconv1d.core.spectral_tiles import FACTORS, FILTERED, Sizes, Tiles, points_of, unsuited
from fastconv1d.kernels import direct_engine
from fastconv1d.planner import explain

# The largest error in units of u times sum |w| times max |x|: 1.0 of 3,000 random layers.
LIMIT = 3
# And of minimal filtering.
FILTER_LIMIT = 24


def normal(rng, *shape, dtype="float32"):
    return rng.standard_normal(shape).astype(dtype)


def by_tiles(
    x, w, b=None, padding=0, dilation=1, groups=1, points=None, threads=1, mode="zeros", stride=1
):
    """A convolution by tiles, whatever the rule says of the layer."""
    left, right = (padding, padding) if isinstance(padding, int) else padding
    l_out = (x.shape[2] + left + right - dilation * (w.shape[2] - 1) - 1) // stride + 1
    y = np.full((x.shape[0], w.shape[0], l_out), np.nan, x.dtype)
    modes = PADDING_MODES[mode]
    geometry = Geometry(w.shape[0], l_out, stride, dilation, left, right, groups, modes)
    Tiles(w, groups, dilation, stride, points).correlate(x, w, b, y, geometry, (threads, False))
    return y


def error(y, expected, x, w):
    scale = np.abs(w).sum(axis=(1, 2)).max() * np.abs(x).max()
    return np.abs(y - expected).max(initial=0) / scale / (np.finfo(y.dtype).eps / 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("points", FACTORS)
def test_every_size_of_tile(isa, points, dtype):
    rng = np.random.default_rng(points)
    for c_in, c_out, groups, dilation, length in (
        (16, 16, 1, 1, 200), (17, 33, 1, 3, 301), (34, 6, 2, 1, 77), (1, 1, 1, 7, 5),
        (140, 35, 1, 1, 100), (130, 3, 1, 60, 90),
    ):  # fmt: skip
        taps = min(1 + int(rng.integers(points)), 60)
        x = normal(rng, 2, c_in, length, dtype=dtype)
        w = normal(rng, c_out, c_in // groups, taps, dtype=dtype)
        b = normal(rng, c_out, dtype=dtype)
        window = {"padding": (dilation * (taps - 1), taps // 2), "dilation": dilation}
        window["groups"] = groups
        if sum(window["padding"]) + length <= dilation * (taps - 1):
            continue
        expected = conv1d(x.astype("d"), w.astype("d"), b.astype("d"), **window)
        y = by_tiles(x, w, b, points=points, **window)
        assert error(y, expected, x, w) < LIMIT


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_integers_against_the_reference(isa, mode):
    rng = np.random.default_rng(0)
    for length in (1, 2, 9, 16, 63, 150):
        for taps, dilation in ((1, 1), (2, 3), (9, 1), (9, 4)):
            padding = min(length - 1, 5), min(length - 1, 3)
            if length + sum(padding) <= dilation * (taps - 1):
                continue
            x = rng.integers(-4, 5, (1, 6, length)).astype("d")
            w = rng.integers(-4, 5, (4, 3, taps)).astype("d")
            window = {"padding": padding, "dilation": dilation, "groups": 2}
            y = by_tiles(x, w, mode=mode, **window)
            expected = reference.conv1d(x, w, padding_mode=mode, **window)
            np.testing.assert_array_equal(np.rint(y), expected)
            assert np.abs(y - expected).max() < 1e-11


def test_transposed(isa):
    rng = np.random.default_rng(1)
    for c_in, c_out, groups, taps, dilation, length, crop in (
        (16, 20, 1, 7, 1, 100, (0, 0)), (32, 32, 2, 12, 3, 50, (9, 30)),
        (3, 5, 1, 40, 1, 1, (30, 3)),
    ):  # fmt: skip
        x, w = normal(rng, 3, c_in, length), normal(rng, c_in, c_out // groups, taps)
        b = normal(rng, c_out)
        window = {"padding": crop, "dilation": dilation, "groups": groups}
        expected = conv_transpose1d(x.astype("d"), w.astype("d"), b.astype("d"), **window)
        y = np.full(expected.shape, np.nan, "f")
        geometry = Geometry(c_out, y.shape[2], 1, dilation, *crop, groups, 0)
        assert Tiles(w, groups, dilation).scatter(x, w, b, y, geometry, (1, False))
        assert error(y, expected, x, w.swapaxes(0, 1)) < LIMIT
        w[0, 0, 0] = np.inf
        assert not Tiles(w, groups, dilation).scatter(x, w, b, y, geometry, (1, False))


@pytest.mark.parametrize("stride", [2, 3, 8])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_strides(isa, stride, mode):
    rng = np.random.default_rng(stride)
    for c_in, c_out, groups, taps, length, points in (
        (16, 20, 1, 9, 300, None), (6, 34, 2, 2 * stride, 77, FILTERED), (5, 5, 1, 1, 40, 16),
        (32, 8, 1, 31, 31, None), (17, 4, 1, 4 * stride - 1, 200, FILTERED),
    ):  # fmt: skip
        padding = min(length - 1, taps - 1), min(length - 1, 2)
        x, w, b = (
            normal(rng, 2, c_in, length),
            normal(rng, c_out, c_in // groups, taps),
            normal(rng, c_out),
        )
        window = {"padding": padding, "groups": groups, "stride": stride}
        wide = (a.astype("d") for a in (x, w, b))
        expected = conv1d(*wide, padding_mode=mode, **window)
        y = by_tiles(x, w, b, mode=mode, points=points, **window)
        assert error(y, expected, x, w) < (FILTER_LIMIT if points == FILTERED else LIMIT)


@pytest.mark.parametrize("stride", [1, 2, 3, 8])
def test_strides_of_scatters(isa, stride):
    rng = np.random.default_rng(stride)
    for c_in, c_out, groups, taps, length, crop, more, points in (
        (16, 20, 1, 9, 100, (0, 0), 0, None), (6, 34, 2, 3 * stride, 77, (stride, 5), 0, FILTERED),
        (5, 5, 1, 1, 40, (3, 0), 0, 16), (32, 8, 1, 31, 31, (17, 30), stride - 1, None),
        (17, 4, 1, 2 * stride + 1, 1, (1, 0), 0, FILTERED),
    ):  # fmt: skip
        if points == FILTERED and not 2 <= -(-taps // stride) <= 4:
            continue
        x, w = normal(rng, 2, c_in, length), normal(rng, c_in, c_out // groups, taps)
        b = normal(rng, c_out)
        window = {"padding": crop, "groups": groups, "stride": stride, "output_padding": more}
        wide = (a.astype("d") for a in (x, w, b))
        expected = conv_transpose1d(*wide, **window)
        residual = normal(rng, *expected.shape)
        expected = np.maximum(expected, 0) + 2 * residual
        y = np.full(expected.shape, np.nan, "f")
        geometry = Geometry(c_out, y.shape[2], stride, 1, *crop, groups, 0)
        operands = x, w, b, y, geometry, (1, False), parse_steps(None, "relu", 2, "after")
        assert Tiles(w, groups, 1, stride, points).scatter(*operands, residual)
        limit = FILTER_LIMIT if points == FILTERED else LIMIT
        assert error(y, expected, x, w.swapaxes(0, 1)) < limit


@pytest.mark.parametrize("taps", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_minimal_filtering(isa, taps, dtype):
    rng = np.random.default_rng(taps)
    for channels, groups, dilation, length in ((32, 1, 1, 500), (66, 2, 3, 100), (5, 1, 9, 30)):
        x = normal(rng, 2, channels, length, dtype=dtype)
        w = normal(rng, channels, channels // groups, taps, dtype=dtype)
        window = {"dilation": dilation, "groups": groups, "padding": (dilation, 1)}
        expected = conv1d(x.astype("d"), w.astype("d"), **window)
        y = by_tiles(x, w, points=FILTERED, **window)
        assert error(y, expected, x, w) < FILTER_LIMIT
        assert by_tiles(x, w, points=FILTERED, threads=2, **window).tobytes() == y.tobytes()
        assert by_tiles(x[1:], w, points=FILTERED, **window).tobytes() == y[1:].tobytes()


@pytest.mark.parametrize("dilation", [1, 3, 500])
def test_steps_residuals_and_any_layout(isa, dilation):
    rng = np.random.default_rng(dilation)
    taps, length = 6, 700
    w, b = normal(rng, 18, 20, taps), normal(rng, 18)
    left, right = 2 * dilation, 3 * dilation
    l_out = length - (taps - 1) * dilation + left + right
    geometry = Geometry(18, l_out, 1, dilation, left, right, 1, 0)
    tiles = Tiles(w, 1, dilation)
    slope = rng.standard_normal(18)
    for before, after, last in (
        (None, "relu", False), ("silu", ("prelu", slope), True), ("leaky_relu", None, False),
    ):  # fmt: skip
        steps = parse_steps(before, after, 0.5, "after" if last else "before", (20, 18))
        x, more = normal(rng, 2, 20, length), normal(rng, 2, 18, l_out)
        wide = x.astype("d") if before is None else steps.before.apply(x.astype("d"))
        expected = conv1d(
            wide, w.astype("d"), b.astype("d"), padding=(left, right), dilation=dilation
        )
        if not last:
            expected += 0.5 * more
        if after is not None:
            expected = steps.after.apply(expected)
        if last:
            expected += 0.5 * more
        for seed in range(3):
            views = np.random.default_rng(seed)
            y = random_view(np.empty((2, 18, l_out), "f"), views)
            operands = random_view(x, views), w, b, y, geometry, (1, False), steps
            tiles.correlate(*operands, random_view(more, views))
            assert error(y, expected, wide, w) < 2 * LIMIT
        half = np.empty((2, 18, l_out), np.float16)
        tiles.correlate(
            x.astype(np.float16), w, b, half, geometry, (1, False), steps, more.astype(np.float16)
        )
        np.testing.assert_allclose(half, expected, rtol=0, atol=0.01 * np.abs(expected).max())


@pytest.mark.parametrize("points", [FILTERED, 16, 24, 96])
@pytest.mark.parametrize("act", [None, "relu"])
def test_rows_in_any_layout_have_the_same_bits(isa, points, act):
    """Whole vectors of rows are read and written in place, others through a copy."""
    rng = np.random.default_rng(points)
    length, channels = 333, 48
    w, b = normal(rng, channels, channels, 4), normal(rng, channels)
    geometry = Geometry(channels, length, 1, 1, 2, 1, 1, 0)
    steps = parse_steps(None, act, 1.0, "before")
    x = normal(rng, 2, channels, length)
    tiles, y = Tiles(w, 1, 1, 1, points), np.full(x.shape, np.nan, "f")
    tiles.correlate(x, w, b, y, geometry, (1, False), steps)
    expected = conv1d(x.astype("d"), w.astype("d"), b.astype("d"), padding=(2, 1), activation=act)
    assert error(y, expected, x, w) < (FILTER_LIMIT if points == FILTERED else LIMIT)

    def placed(a, order, steps=(1, 1)):
        """The array amid numbers that nothing may read or write."""
        shape = [a.shape[i] for i in order]
        around = np.full((shape[0], 3 + steps[0] * shape[1], 7 + steps[1] * shape[2]), 1e30, "f")
        inside = around[:, 1:][:, : steps[0] * shape[1] : steps[0]]
        inside = inside[:, :, 5:][:, :, : steps[1] * shape[2] : steps[1]].transpose(order)
        inside[...] = a
        return around, inside

    for order in ((0, 1, 2), (0, 2, 1)):
        for steps_in, steps_out in (((1, 1), (1, 1)), ((1, 2), (1, 1)), ((2, 1), (1, 2))):
            _, view = placed(x, order, steps_in)
            around, out = placed(np.zeros_like(y), order, steps_out)
            tiles.correlate(view, w, b, out, geometry, (1, False), steps)
            assert out.tobytes() == y.tobytes()
            out[...] = 1e30
            assert (around == np.float32(1e30)).all()


@pytest.mark.parametrize("points", [FILTERED, 16, 48])
@pytest.mark.parametrize("channels", [(1, 1), (15, 33), (129, 16), (260, 70)])
def test_every_count_of_tiles(isa, points, channels):
    """Of 1 to 30 tiles a register tile has any number of rows, and sums go on after 128 terms."""
    rng = np.random.default_rng(7)
    c_in, c_out = channels
    w = rng.integers(-3, 4, (c_out, c_in, 3)).astype("d")
    outputs = points - 2
    for tiles in (*range(1, 15), 24, 25, 30):
        x = rng.integers(-3, 4, (1, c_in, tiles * outputs + 1)).astype("d")
        expected = conv1d(x, w)
        y = by_tiles(x, w, points=points)
        np.testing.assert_array_equal(np.rint(y), expected)
        assert np.abs(y - expected).max() < 1e-9


def test_bits_depend_on_the_layer_alone(isa):
    rng = np.random.default_rng(2)
    for channels, taps, dilation, groups, length in ((32, 9, 1, 1, 3000), (40, 20, 7, 2, 2000)):
        x, w = normal(rng, 5, channels, length), normal(rng, channels, channels // groups, taps)
        window = {"dilation": dilation, "groups": groups, "padding": 3}
        y = by_tiles(x, w, **window)
        assert by_tiles(x, w, threads=2, **window).tobytes() == y.tobytes()
        assert by_tiles(x, w, threads=7, **window).tobytes() == y.tobytes()
        assert by_tiles(x[2:3], w, **window).tobytes() == y[2:3].tobytes()
        points = points_of(Sizes(channels // groups, channels // groups, taps, groups))
        outputs = points - taps + 1
        for part in (1, length // 2, length - 1):
            some = by_tiles(
                x[:, :, :part], w, padding=(3, dilation * taps), dilation=dilation, groups=groups
            )
            # tiles of which every input is there
            known = max(0, (part + 3) // dilation - points + 1) // outputs * outputs * dilation
            assert some[:, :, :known].tobytes() == y[:, :, :known].tobytes()


def test_what_is_not_finite_stays_in_its_tiles(isa):
    rng = np.random.default_rng(3)
    taps, dilation = 7, 2
    x, w = normal(rng, 2, 32, 1000), normal(rng, 32, 32, taps)
    points = points_of(Sizes(32, 32, taps, 1))
    outputs = points - taps + 1
    y = by_tiles(x, w, dilation=dilation)
    for place, value in ((0, np.nan), (501, np.inf), (999, -np.inf)):
        other = x.copy()
        other[0, 4, place] = value
        z = by_tiles(other, w, dilation=dilation)
        position, phase = np.arange(z.shape[2]) // dilation, np.arange(z.shape[2]) % dilation
        tile = position // outputs
        read = place // dilation - tile * outputs
        touched = (phase == place % dilation) & (read >= 0) & (read < points)
        assert z[1].tobytes() == y[1].tobytes()
        assert z[0][:, ~touched].tobytes() == y[0][:, ~touched].tobytes()
        direct = conv1d(other, w, dilation=dilation)
        assert not np.isfinite(z[~np.isfinite(direct)]).any()


def test_no_items_and_no_outputs():
    w = np.ones((16, 16, 5), np.float32)
    assert by_tiles(np.ones((0, 16, 9), np.float32), w).shape == (0, 16, 5)
    assert by_tiles(np.ones((2, 16, 4), np.float32), w).shape == (2, 16, 0)
    assert conv1d(np.ones((0, 16, 9), np.float32), w, algorithm="fft").shape == (0, 16, 5)


def test_error_beside_the_direct_engine(isa):
    rng = np.random.default_rng(4)
    ratios = []
    for _ in range(40):
        taps, dilation = int(rng.integers(5, 60)), int(rng.integers(1, 4))
        c_in, c_out = (int(c) for c in rng.integers(16, 100, 2))
        x = normal(rng, 1, c_in, dilation * taps + int(rng.integers(1, 300)))
        w = normal(rng, c_out, c_in, taps)
        exact = conv1d(x.astype("d"), w.astype("d"), dilation=dilation)
        direct = np.abs(conv1d(x, w, dilation=dilation) - exact).max()
        ratios.append(np.abs(by_tiles(x, w, dilation=dilation) - exact).max() / direct)
    assert max(ratios) < 2  # 1.1 at most, and 0.2 in the middle


def test_what_is_unsuited():
    assert unsuited("f", (8, 8, 9), 1, 1, 0, 0, False) is None
    for layer, rule in (
        (("F", (8, 8, 9), 1, 1), "dtype"), (("f", (8, 0, 9), 1, 1), "zero"),
        (("f", (8, 8, 9), 2, 2), "stride"), (("f", (8, 8, 385), 1, 1), "K"),
        (("f", (8, 8, 9), 1, 1 << 40), "dilation"),
    ):  # fmt: skip
        assert rule in unsuited(*layer, 0, 0, False)


@pytest.mark.parametrize(
    ("shape", "groups", "transposed", "tiles"),
    [
        ((64, 64, 31), 1, False, True), ((768, 48, 128), 16, False, True),
        ((64, 64, 31), 1, True, True), ((1, 1, 300), 1, False, False),
        ((64, 1, 300), 64, False, False), ((64, 64, 2000), 1, False, False),
    ],
)  # fmt: skip
def test_which_layers_take_tiles(shape, groups, transposed, tiles):
    geometry = Geometry(0, 0, 1, 1, 0, 0, groups, 0)
    assert fft.takes_tiles(shape, np.dtype("f"), geometry, transposed) == tiles


@pytest.mark.parametrize("layout", ["NCL", "NLC"])
@pytest.mark.parametrize("make", [Conv1d, ConvTranspose1d])
def test_layers(make, layout):
    rng = np.random.default_rng(5)
    options = {"padding": 5, "dilation": 2, "activation": "relu", "layout": layout, "rng": rng}
    layer = make(32, 48, 11, algorithm="fft", **options)
    direct = make(32, 48, 11, **options)
    direct.load_state_dict(layer.state_dict())
    x = normal(rng, 2, 32, 400) if layout == "NCL" else normal(rng, 2, 400, 32)
    for model in (layer, direct):
        model.eval()
    y, expected = layer(x), direct(x)
    assert y.tobytes() != expected.tobytes()
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-6 * np.abs(expected).max() + 1e-6)
    with config.num_threads(2):
        assert layer(x).tobytes() == y.tobytes()
    assert explain(layer, x.shape)["engine"] == "fft"
    config.use_deterministic_algorithms(True)
    try:
        assert layer(x).tobytes() == direct(x).tobytes()
    finally:
        config.use_deterministic_algorithms(False)


def test_gradients_by_the_input():
    rng = np.random.default_rng(6)
    x, w = normal(rng, 2, 32, 300), normal(rng, 32, 16, 20)
    window = {"padding": (7, 3), "dilation": 2, "groups": 2}
    g = normal(rng, *conv1d(x, w, **window).shape)
    actual = conv1d_backward(g, x, w, **window, algorithm="fft")
    expected = conv1d_backward(g, x, w, **window)
    assert actual[0].tobytes() != expected[0].tobytes()
    np.testing.assert_allclose(actual[0], expected[0], atol=1e-4 * np.abs(expected[0]).max())
    for got, want in zip(actual[1:], expected[1:], strict=True):
        assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(512, 16, 200, 6000), (256, 64, 300, 20_000)])
def test_scratch_of_large_tiles_is_bounded(dtype, sizes):
    c_in, c_out, kernel, length = sizes
    x, w = np.zeros((1, c_in, length), dtype), np.zeros((c_out, c_in, kernel), dtype)
    x[0, 7, 1000] = w[3, 7, 5] = 1
    direct_engine.largest_scratch(True)
    y = conv1d(x, w, algorithm="fft")
    assert direct_engine.largest_scratch() <= 32 << 20
    expected = np.zeros_like(y)
    expected[0, 3, 995] = 1
    np.testing.assert_allclose(y, expected, atol=1e-5)
