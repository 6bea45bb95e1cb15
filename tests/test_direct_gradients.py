"""Weight and bias gradients of the direct engine, for every instruction set that this CPU has."""

import functools
import itertools
import sys

import numpy as np
import pytest
from layers import assert_exact, assert_same_bits, assert_within
from primitives import (
    CIRCULAR,
    REFLECT,
    REPLICATE,
    ZEROS,
    guarded,
    in_subprocess,
    integers,
    length,
    longer,
    nan_like,
    normals,
    slow_correlate,
    slow_scatter,
    slow_weight_gradient,
    weight_gradient,
    wide,
    window,
)

import fastconv1d
from fastconv1d.kernels import direct_engine
from fastconv1d.kernels.totals import add_to

REAL = [np.float32, np.float64]
DTYPES = [*REAL, np.complex64]
MODES = (ZEROS, REFLECT, REPLICATE, CIRCULAR)

pytestmark = pytest.mark.usefixtures("isa")


def check(g, x, *geometry, **more):
    context = f"g {g.shape} x {x.shape} {geometry} {more}"
    dw, db = weight_gradient(g, x, *geometry, **more)
    assert_exact(dw, slow_weight_gradient(g, x, *geometry), context)
    assert_exact(db, wide(g).sum((0, 2)), context)


# ---- register tiles and masked tails -----------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_register_tile(dtype):
    # 1 to 17 output channels are every height beside whole tiles, 1 to 20 pairs of channel and tap
    # every width; the columns leave every number of lanes over.
    rng = np.random.default_rng(1)
    for c_out, kernel_size in itertools.product(range(1, 18), range(1, 11)):
        for c_in, l_out in ((1, 16 + c_out), (2, 1 + kernel_size), (1, 64 - c_out)):
            g = integers(rng, 1, c_out, l_out, dtype=dtype)
            x = integers(rng, 1, c_in, l_out + kernel_size - 1, dtype=dtype)
            check(g, x, kernel_size)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_of_columns(dtype):
    rng = np.random.default_rng(2)
    for c_out, c_in, kernel_size in ((1, 1, 1), (1, 3, 5), (3, 1, 8), (4, 2, 3), (9, 3, 3)):
        for n_batch in (1, 3):
            g = integers(rng, n_batch, c_out, 200, dtype=dtype)
            x = integers(rng, n_batch, c_in, 199 + kernel_size, dtype=dtype)
            for l_out in (*range(1, 72), *range(95, 98), *range(127, 131), 199, 200):
                # as views, whose rows go on with other numbers, and as copies, whose rows do not
                check(g[:, :, :l_out], x[:, :, : l_out + kernel_size - 1], kernel_size)
                check(g[:, :, -l_out:].copy(), x[:, :, : l_out + kernel_size - 1], kernel_size)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_lies_beyond_a_row_is_not_read_into_the_sum(dtype):
    rng = np.random.default_rng(3)
    for l_out, kernel_size in itertools.product((*range(1, 20), 33, 1023, 1025), (1, 3)):
        g = np.full((3, 6, l_out + 17), np.nan, dtype)
        x = np.full((3, 3, l_out + kernel_size + 16), np.inf, dtype)
        g[:, :, :l_out] = integers(rng, 3, 6, l_out)
        x[:, :, : l_out + kernel_size - 1] = integers(rng, 3, 3, l_out + kernel_size - 1)
        check(g[:, :, :l_out], x[:, :, : l_out + kernel_size - 1], kernel_size)


# ---- panels: enough channels and short rows ----------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_panels_of_every_number_of_channels(dtype):
    # Lanes left over, strips of two and three vectors, rows beside whole register tiles, and taps
    # written in ones, twos, fours and eights.
    rng = np.random.default_rng(16)
    taps = itertools.cycle((*range(1, 12), 15, 16, 17, 25))
    for c_in in (*range(5, 34), 40, 47, 48, 49, 63, 64, 65, 80):
        for c_out in (4, 8, 13, 32):
            kernel_size, l_out = next(taps), 5 + (7 * c_in + c_out) % 60
            g = integers(rng, 1, c_out, l_out, dtype=dtype)
            check(g, integers(rng, 1, c_in, l_out + kernel_size - 1, dtype=dtype), kernel_size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_panels_of_strides_dilations_and_items(dtype, mode):
    rng = np.random.default_rng([17, mode])
    cases = itertools.product((1, 2, 3, 4, 5, 8), (1, 2, 3, 7, 60))
    for case, (stride, dilation) in enumerate(cases):
        kernel_size, left = (1, 2, 3, 5, 8, 16, 20)[case % 7], (0, 1, 5, 9)[case % 4]
        n_batch, l_out = ((1, 60), (3, 60), (7, 9), (33, 3), (2, 129), (1, 400))[case % 6]
        l_in = (l_out - 1) * stride + dilation * (kernel_size - 1) + 1 - left - case % 3
        x = integers(rng, n_batch, 48, max(l_in, left + 11), dtype=dtype)
        g = integers(rng, n_batch, 16 + case % 5, l_out, dtype=dtype)
        check(g, x, kernel_size, stride, dilation, left, ZEROS if l_in < left + 11 else mode)


@pytest.mark.parametrize("dtype", DTYPES)
def test_panels_of_units_and_parts(dtype):
    rng = np.random.default_rng(18)
    sizes = [  # the last two have sums of more than one unit
        (1, 48, 40, 9001, 7, 1, 1),
        (40, 48, 32, 97, 5, 2, 1),
        (3, 96, 24, 1025, 9, 2, 2),
        (2, 300, 80, 130, 16, 1, 1),
        (1, 600, 300, 40, 3, 1, 1),
    ]
    for n_batch, c_in, c_out, l_out, kernel_size, stride, groups in sizes:
        l_in = (l_out - 1) * stride + kernel_size
        x = integers(rng, n_batch, c_in, l_in - 3, dtype=dtype)
        g = integers(rng, n_batch, c_out, l_out, dtype=dtype)
        for threads in (1, 3):
            check(g, x, kernel_size, stride, 1, 2, ZEROS, groups, threads=threads)


@pytest.mark.parametrize("dtype", DTYPES)
def test_panels_of_one_chunk(dtype):
    # Finished strip by strip: taps in ones, twos, fours and eights, with taps before them where
    # those are no power of two, the last channels of a row and of the array, blocks of rows.
    rng = np.random.default_rng(20)
    for kernel_size in (*range(1, 20), 23, 41):
        for c_in, c_out, l_out in ((16, 9, 1), (49, 33, 4), (113, 8, 3), (24, 70, 10)):
            g = integers(rng, 1 + l_out % 3, c_out, l_out, dtype=dtype)
            x = integers(rng, len(g), c_in, l_out + kernel_size - 1, dtype=dtype)
            check(g, x, kernel_size, groups=1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_items_of_a_column(dtype):
    # No more partial sums than chunks, here of 128 items whose columns count as whole vectors.
    rng = np.random.default_rng(25)
    for n_batch, channels, l_out in itertools.product((127, 128, 130, 257), (4, 17, 64), (1, 2)):
        g = integers(rng, n_batch, channels + 5, l_out, dtype=dtype)
        check(g, integers(rng, n_batch, channels, l_out, dtype=dtype), 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_taps_that_read_nothing(dtype):
    # Before the input, behind it, and between two strides; in one chunk and in several, of which
    # some taps read nothing in the first or the last.
    rng = np.random.default_rng(21)
    sizes = [  # l_in, l_out, kernel_size, stride, dilation, left
        (1, 1, 13, 1, 1, 6),
        (1, 1, 5, 8, 1, 2),
        (3, 2, 9, 4, 3, 10),
        (2, 9, 8, 1, 1, 8),
        (5, 3, 16, 7, 2, 15),
        (4, 40, 33, 1, 16, 256),
        (150, 400, 21, 1, 7, 130),
        (90, 300, 4, 2, 50, 200),
    ]
    for l_in, l_out, *where in sizes:
        for n_batch, c_in, c_out in ((1, 40, 24), (3, 17, 9), (1, 70, 40)):
            g = integers(rng, n_batch, c_out, l_out, dtype=dtype)
            check(g, integers(rng, n_batch, c_in, l_in, dtype=dtype), *where)


@pytest.mark.parametrize("dtype", REAL)
def test_taps_that_read_nothing_of_a_gradient_that_is_not_finite(dtype):
    # Zero times infinity is no number, whichever taps are left out for the others.
    rng = np.random.default_rng(22)
    for l_in, l_out, kernel_size, left in ((1, 1, 13, 6), (150, 400, 21, 160)):
        g, x = integers(rng, 1, 40, l_out, dtype=dtype), integers(rng, 1, 40, l_in, dtype=dtype)
        g[0, 3, 0] = np.inf
        with np.errstate(invalid="ignore"):
            dw, _ = weight_gradient(g, x, kernel_size, 1, 1, left)
        assert np.isnan(dw[3, :, 0]).all()
        others = [c for c in range(40) if c != 3]
        assert_exact(dw[others], slow_weight_gradient(g[:, others], x, kernel_size, 1, 1, left))


@pytest.mark.parametrize("dtype", DTYPES)
def test_few_channels_to_many(dtype):
    # Vectors along output channels, channels and taps having changed places: one chunk and several,
    # several parts, strips of one to six vectors, every way to write the taps.
    rng = np.random.default_rng(23)
    sizes = [  # kernel_size, dilation, left, l_in
        (1, 1, 0, 40),
        (2, 1, 3, 3),
        (3, 1, 1, 64),
        (4, 3, 4, 64),
        (7, 3, 9, 256),
        (11, 1, 5, 121),
        (5, 2, -1, 30),
        (9, 1, 4, 3001),
    ]
    for c_in, c_out in itertools.product((1, 2, 3, 5, 8, 12, 17, 32), (32, 37, 100, 209)):
        kernel_size, dilation, left, l_in = sizes[(c_in + c_out) % len(sizes)]
        x = integers(rng, 1 + c_in // 12, c_in, l_in, dtype=dtype)
        l_out = length(x, kernel_size, 1, dilation, left, left)
        check(integers(rng, len(x), c_out, l_out, dtype=dtype), x, kernel_size, 1, dilation, left)


@pytest.mark.parametrize("dtype", REAL)
def test_few_channels_of_numbers_that_are_not_finite(dtype):
    rng = np.random.default_rng(24)
    for bad, at in itertools.product((np.nan, np.inf), (0, 1, 40, 98, 99)):
        for left in (0, 2):
            g = integers(rng, 1, 64, 96 + 2 * left, dtype=dtype)
            x = integers(rng, 1, 4, 100, dtype=dtype)
            g[g == 0], x[0, 2, at] = 1, bad
            for one, other in ((g, x), (np.where(g > 3, bad, g).astype(dtype), x)):
                with np.errstate(invalid="ignore"):
                    dw, _ = weight_gradient(one, other, 5, 1, 1, left)
                    wide_dw = slow_weight_gradient(one, other, 5, 1, 1, left)
                assert_exact(np.isnan(dw), np.isnan(wide_dw))


# ---- strides, dilations, paddings, blocks ------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_strides_and_dilations(dtype, mode):
    rng = np.random.default_rng([4, mode])
    pads = [(0, 0), (1, 0), (0, 2), (5, 3), (7, 16)]
    cases = itertools.product(range(1, 10), range(1, 10))
    for case, (stride, dilation) in enumerate(cases):
        (left, right), kernel_size = pads[case % 5], (1, 2, 3, 5, 8, 11)[case % 6]
        x = integers(rng, 1 + case % 3, 3, 40 + dilation * kernel_size + 67 * (case % 4))
        l_out = length(x, kernel_size, stride, dilation, left, right)
        g = integers(rng, len(x), 1 + case % 5, l_out, dtype=dtype)
        check(g, x.astype(dtype), kernel_size, stride, dilation, left, mode)


@pytest.mark.parametrize("dtype", DTYPES)
def test_fewer_columns_than_the_input_has(dtype):
    # The gradient of a transposed layer: any number of columns, crops and skipped input.
    rng = np.random.default_rng(5)
    for stride, left, kernel_size in itertools.product((1, 2, 3, 8), (-5, 0, 4), (1, 4, 9)):
        x, g = integers(rng, 2, 3, 300, dtype=dtype), integers(rng, 2, 5, 30, dtype=dtype)
        check(g, x, kernel_size, stride, 1, left)
        check(g[:, :, :1], x, kernel_size, stride, 2, left)
        check(integers(rng, 2, 5, 400, dtype=dtype), x, kernel_size, stride, 1, left)


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_items(dtype):
    rng = np.random.default_rng(6)
    sizes = itertools.product((2, 5, 16, 33, 130), (1, 2, 3, 7, 9, 16, 31, 50, 400), (1, 3, 9))
    for case, (n_batch, l_out, c_out) in enumerate(sizes):
        kernel_size, stride, dilation = 1 + case % 5, 1 + case % 3, (1, 2, 11)[case % 3]
        l_in = (l_out - 1) * stride + dilation * (kernel_size - 1) + 1
        x = integers(rng, n_batch, 2, l_in, dtype=dtype)
        check(integers(rng, n_batch, c_out, l_out, dtype=dtype), x, kernel_size, stride, dilation)


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_of_channels_chunks_and_parts(dtype):
    rng = np.random.default_rng(7)
    sizes = [
        (1, 1, 1, 70_001, 3, 1, 1),
        (1, 5, 9, 20_001, 1, 1, 1),
        (2, 300, 21, 2050, 3, 1, 1),
        (3, 96, 10, 1025, 9, 2, 3),
        (1, 2, 3, 5000, 1025, 1, 1),
        (1, 2, 3, 3000, 513, 3, 2),
        (2, 3, 5, 1024, 3, 1, 30_000),
        (1, 700, 2, 31, 3, 1, 1),
    ]
    for n_batch, c_in, c_out, l_out, kernel_size, stride, dilation in sizes:
        l_in = (l_out - 1) * stride + dilation * (kernel_size - 1) + 1
        x = integers(rng, n_batch, c_in, l_in - 5, dtype=dtype)
        g = integers(rng, n_batch, c_out, l_out, dtype=dtype)
        for threads in (1, 2):
            check(g, x, kernel_size, stride, dilation, 2, threads=threads)


@pytest.mark.parametrize("dtype", DTYPES)
def test_groups(dtype):
    rng = np.random.default_rng(8)
    sizes = itertools.product((2, 3, 7, 16), (1, 2, 3), (1, 2, 3, 5, 9))
    for case, (groups, c_in, c_out) in enumerate(sizes):
        n_batch, stride, l_in = 1 + case % 3, 1 + case % 4, 30 + 41 * (case % 5)
        x = integers(rng, n_batch, groups * c_in, l_in, dtype=dtype)
        l_out = length(x, 5, stride, 1, 2, 2)
        g = integers(rng, n_batch, groups * c_out, l_out, dtype=dtype)
        for threads in (1, 3):
            check(g, x, 5, stride, 1, 2, case % 4, groups, threads=threads)


@pytest.mark.parametrize("dtype", [*DTYPES, np.complex128])
def test_random_layers(dtype):
    rng = np.random.default_rng(9)

    def one_of(*options):
        return int(rng.choice(options))

    complex_ = np.issubdtype(dtype, np.complexfloating)  # pairs of the same real sums
    for case in range(100 if complex_ else 300):
        groups, stride, dilation = one_of(1, 1, 2, 5), one_of(*range(1, 10)), one_of(*range(1, 10))
        c_in, c_out, n_batch = one_of(1, 2, 9, 70), one_of(1, 4, 8, 23), one_of(1, 1, 2, 33)
        kernel_size, left, right = one_of(1, 2, 3, 7, 40), one_of(0, 1, 9), one_of(0, 1, 9)
        l_in = dilation * kernel_size + one_of(10, 11, 57, 300 // n_batch, 3000 // n_batch)
        x = integers(rng, n_batch, groups * c_in, l_in, dtype=dtype)
        l_out = length(x, kernel_size, stride, dilation, left, right)
        g, threads = integers(rng, n_batch, groups * c_out, l_out, dtype=dtype), 1 + case % 4
        check(g, x, kernel_size, stride, dilation, left, case % 4, groups, threads=threads)


@functools.cache
def long_sums(dtype):
    """Operands, stride and, in a longer dtype, their dw and db with the sums of magnitudes."""
    rng = np.random.default_rng(10)
    sizes = [(1, 1, 1, 50_001), (9, 3, 5, 3001), (33, 8, 8, 200), (300, 4, 9, 17), (2, 40, 9, 901)]
    sizes += [(1, 48, 32, 60), (20, 48, 32, 30), (1, 48, 32, 5000)]
    cases = []
    for (n_batch, c_in, c_out, l_out), stride in itertools.product(sizes, (1, 2, 3)):
        g = normals(rng, n_batch, c_out, l_out, dtype=dtype)
        x = normals(rng, n_batch, c_in, (l_out - 1) * stride + 3, dtype=dtype)
        wide_g, wide_x = longer(g), longer(x)
        dw = np.stack([_dots(wide_g, wide_x, k, stride) for k in range(3)], 2)
        scale = np.stack([_dots(abs(wide_g), abs(wide_x), k, stride) for k in range(3)], 2)
        db = wide_g.sum((0, 2)), abs(wide_g).sum((0, 2))
        cases.append((g, x, stride, (dw, scale), db))
    return cases


@pytest.mark.parametrize("dtype", DTYPES)
def test_accuracy(dtype):
    for g, x, stride, wide_dw, wide_db in long_sums(dtype):
        dw, db = weight_gradient(g, x, 3, stride)
        assert_within(dw, *wide_dw, f"dw {g.shape} {x.shape}")
        assert_within(db, *wide_db, f"db {g.shape}")


def _dots(g, x, k, stride):
    return np.einsum("nol,nil->oi", g, x.conj()[:, :, k::stride][:, :, : g.shape[2]])


# ---- layouts and memory ------------------------------------------------------------------------


def layouts(a):
    """The numbers of `a` in memory of other orders and strides."""
    yield "every third", np.repeat(a, 3, axis=2)[:, :, 1::3]
    yield "reversed", a[:, :, ::-1].copy()[:, :, ::-1]
    yield "all reversed", a[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1]
    yield "items and channels reversed", a[::-1, ::-1].copy()[::-1, ::-1]
    yield "(N, L, C)", a.transpose(0, 2, 1).copy().transpose(0, 2, 1)
    yield "(L, C, N)", a.transpose(2, 1, 0).copy().transpose(2, 1, 0)
    yield "(C, N, L)", a.swapaxes(0, 1).copy().swapaxes(0, 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_do_not_change_bits(dtype):
    rng = np.random.default_rng(11)
    sizes = itertools.product((1, 2, 3, 4, 8), (1, 3), (1, 8, 19, 33, 700))
    for case, (stride, n_batch, l_out) in enumerate(sizes):
        x = normals(rng, n_batch, 12 * n_batch, (l_out - 1) * stride + 9, dtype=dtype)
        g, where = normals(rng, n_batch, 16, l_out, dtype=dtype), (5, stride, 2, 0, case % 4, 2)
        bits = weight_gradient(g, x, *where)
        for (name, a_g), (_, a_x) in zip(layouts(g), layouts(x), strict=True):
            for one, other in ((a_g, x), (g, a_x), (a_g, a_x)):
                for result, expected in zip(weight_gradient(one, other, *where), bits, strict=True):
                    assert_same_bits(result, expected, f"{name} {g.shape} {x.shape}")


# ---- depthwise layers: all three gradients in one pass -----------------------------------------


def depthwise(rng, make, case, dtype):
    """Operands and geometry of a small layer: g, x, w (C, 1, K), and the primitive's arguments."""
    groups, n_batch = (3, 7, 65, 70)[case % 4], (1, 2, 5)[case % 3]
    kernel_size, dilation, stride = (
        1 + case % 9,
        (1, 2, 8)[case // 2 % 3],
        (1, 1, 2, 3)[case // 5 % 4],
    )
    left, right = (0, 1, 5, 3, 20)[case % 5], (0, 3, 0, 2, 30)[case // 3 % 5]
    x = make(
        rng, n_batch, groups, dilation * kernel_size + (1, 40, 163, 300)[case // 7 % 4], dtype=dtype
    )
    l_out = max(1, length(x, kernel_size, stride, dilation, left, right))
    g, w = (
        make(rng, n_batch, groups, l_out, dtype=dtype),
        make(rng, groups, 1, kernel_size, dtype=dtype),
    )
    return g, x, w, (stride, dilation, left, ZEROS, groups)


def by_input(g, x, w, where, transposed):
    """What the primitive that makes this gradient alone returns."""
    if transposed:
        out = nan_like(g)
        direct_engine.correlate(x, w, None, out, window(*where), (1, False))
    else:
        out = nan_like(x)
        direct_engine.scatter(g, w, None, out, window(*where), (1, False))
    return out


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("transposed", [False, True])
def test_depthwise_gradients_in_one_pass(dtype, transposed):
    rng = np.random.default_rng(19)
    fused = 0
    for case in range(420):
        g, x, w, where = depthwise(rng, integers, case, dtype)
        stride, dilation, left, _mode, groups = where
        dw, db = nan_like(w), nan_like(w[:, 0, 0])
        more = {"db": db, "weight": w, "transposed": transposed}
        run = 1 + case % 3, False
        dx = direct_engine.weight_gradient(g, x, dw, window(*where), run, **more)
        context = f"g {g.shape} x {x.shape} {where}"
        assert_exact(dw, slow_weight_gradient(g, x, w.shape[2], *where), context)
        assert_exact(db, wide(g).sum((0, 2)), context)
        if dx is None:
            continue
        fused += 1
        if transposed:
            exact = slow_correlate(x, w, None, g.shape[2], *where)
        else:
            exact = slow_scatter(g, w, None, x.shape[2], stride, dilation, left, groups)
        assert_exact(dx, exact, context)
    assert fused > 60


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("transposed", [False, True])
def test_depthwise_pass_does_not_change_bits(dtype, transposed):
    rng = np.random.default_rng(20)
    for case in range(120):
        g, x, w, where = depthwise(rng, normals, case, dtype)
        if case % 10 == 9:
            w[case % len(w)], g[0, case % len(w), -1] = np.inf, np.nan
        bits = nan_like(w)
        place = window(*where)
        direct_engine.weight_gradient(g, x, bits, place, (1, False))
        for threads in (1, 3):
            dw = nan_like(w)
            more = {"weight": w, "transposed": transposed}
            dx = direct_engine.weight_gradient(g, x, dw, place, (threads, False), **more)
            assert_same_bits(dw, bits, f"{where}")
            if dx is not None:
                assert_same_bits(dx, by_input(g, x, w, where, transposed), f"{g.shape} {where}")
        alone = direct_engine.weight_gradient(g[:1], x[:1], dw, place, (1, False), **more)
        if alone is not None and dx is not None:
            assert_same_bits(alone, dx[:1], f"{g.shape} {where}")
        for (name, a_g), (_, a_x) in zip(layouts(g), layouts(x), strict=True):
            direct_engine.weight_gradient(a_g, a_x, dw, place, (1, False), **more)
            assert_same_bits(dw, bits, f"{name} {where}")


def test_broadcast_operands():
    rng = np.random.default_rng(12)
    constant = np.broadcast_to(np.float32(3), (2, 5, 98))
    repeated = np.broadcast_to(integers(rng, 1, 1, 98), (2, 5, 98))
    x = np.broadcast_to(integers(rng, 2, 1, 100), (2, 4, 100))
    for g in (constant, repeated):
        check(g, x, 3)
        check(g[:, :, :1], x, 3)


def gradients_between_guard_pages():
    rng = np.random.default_rng(13)
    sizes = itertools.product((1, 2, 3, 4, 8), (1, 3), (1, 2, 9), DTYPES, (True, False))
    for case, (stride, n_batch, c_out, dtype, at_end) in enumerate(sizes):
        for l_out in (1, 7, 8, 15, 16, 17, 31, 33, 64, 65, 200, 1023, 1025, 1029):
            kernel_size, c_in, mode = 1 + case % 5, 24 if c_out == 9 else 1 + case % 2, case % 4
            l_in = max(3, (l_out - 1) * stride + kernel_size - 2)
            x = guarded(integers(rng, n_batch, c_in, l_in, dtype=dtype), at_end)
            g = guarded(integers(rng, n_batch, c_out, l_out, dtype=dtype), at_end)
            dw = guarded(np.empty((c_out, c_in, kernel_size), dtype), at_end)
            db = guarded(np.empty(c_out, dtype), at_end)
            geometry = kernel_size, stride, 1, 2, mode
            forwards = backwards = slow_weight_gradient(g, x, *geometry)
            if n_batch > 1:
                backwards = slow_weight_gradient(g[::-1], x, *geometry)
            for view, sums in (
                (g, forwards),
                (g[::-1], backwards),
                (g[:, ::-1], forwards[::-1]),
                (g[::-1, ::-1], backwards[::-1]),
            ):
                wide_db = wide(view).sum((0, 2))
                where = window(stride, 1, 2, mode), (1, False)
                direct_engine.weight_gradient(view, x, dw, *where, db=db)
                assert_exact(dw, sums, f"{g.shape} {stride} {at_end}")
                assert_exact(db, wide_db, f"{g.shape} {stride} {at_end}")
                db[...] = 0
                direct_engine.weight_gradient(view, x, dw, *where, db=db, only_db=True)
                assert_exact(db, wide_db, f"{g.shape} {stride} {at_end}")
    for case, dtype, at_end in itertools.product(range(0, 420, 5), DTYPES, (True, False)):
        arrays = depthwise(rng, integers, case, dtype)
        g, x, w = (guarded(array, at_end) for array in arrays[:3])
        dw = guarded(np.empty_like(w), at_end)
        for transposed in (False, True):
            more = {"weight": w, "transposed": transposed}
            place = window(*arrays[3])
            dx = direct_engine.weight_gradient(g, x, dw, place, (1, False), **more)
            sums = slow_weight_gradient(g, x, w.shape[2], *arrays[3])
            assert_exact(dw, sums.conj() if transposed else sums)
            if dx is not None:
                assert_exact(dx, by_input(*arrays, transposed))
    print(direct_engine.isa())


@pytest.mark.skipif(sys.platform != "linux", reason="protects pages with mprotect")
def test_nothing_outside_of_the_arrays_is_touched(isa, monkeypatch):
    monkeypatch.setenv("FASTCONV1D_ISA", isa)
    out = in_subprocess("test_direct_gradients", "gradients_between_guard_pages")
    assert out.strip() == isa


# ---- bits --------------------------------------------------------------------------------------

# (n_batch, c_in, c_out, l_out, kernel_size, stride, groups): several parts and chunks.
DEEP = [
    (1, 70, 23, 1501, 9, 1, 1),
    (33, 48, 40, 35, 3, 1, 1),
    (130, 3, 4, 50, 3, 2, 1),
    (5, 40, 40, 1203, 31, 1, 40),
    (3, 1, 37, 3001, 10, 5, 1),
    (1, 1, 1, 90_001, 31, 1, 1),
    (2, 64, 1, 4001, 7, 1, 1),
    (2, 24, 36, 1101, 6, 2, 4),
    (1, 48, 40, 3001, 7, 1, 1),
    (33, 48, 40, 35, 3, 2, 1),
    (1, 300, 80, 130, 16, 1, 1),
    (1, 5, 133, 3001, 7, 1, 1),
]


def deep_layer(sizes, dtype):
    n_batch, c_in, c_out, l_out, kernel_size, stride, groups = sizes
    rng = np.random.default_rng(14)
    x = normals(rng, n_batch, c_in, (l_out - 1) * stride + kernel_size, dtype=dtype)
    return normals(rng, n_batch, c_out, l_out, dtype=dtype), x, kernel_size, stride, groups


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", DEEP)
def test_bits_do_not_depend_on_threads(dtype, sizes):
    g, x, kernel_size, stride, groups = deep_layer(sizes, dtype)
    bits = weight_gradient(g, x, kernel_size, stride, 1, 0, ZEROS, groups)
    for threads in (2, 3, 4, 8, 16):
        results = weight_gradient(g, x, kernel_size, stride, 1, 0, ZEROS, groups, threads)
        for result, expected in zip(results, bits, strict=True):
            assert_same_bits(result, expected, f"{threads} threads")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [*DEEP, (1, 2, 3, 5, 3, 1, 1), (4, 3, 9, 33, 1, 2, 3)])
def test_bias_gradient_alone_has_the_same_bits(dtype, sizes):
    g, x, kernel_size, stride, groups = deep_layer(sizes, dtype)
    dw, db = weight_gradient(g, x, kernel_size, stride, 1, 0, ZEROS, groups)
    where = window(stride, 1, 0, ZEROS, groups)
    for threads in (1, 3):
        alone, untouched = nan_like(db), nan_like(dw)
        run = threads, False
        direct_engine.weight_gradient(g, nan_like(x), untouched, where, run, alone, only_db=True)
        assert_same_bits(alone, db, f"{threads} threads")
        assert np.isnan(untouched).all()
        without = nan_like(dw)
        direct_engine.weight_gradient(g, x, without, where, run)
        assert_same_bits(without, dw, f"{threads} threads")


@pytest.mark.parametrize("transposed", [False, True])
def test_output_mask_does_not_change_bits(transposed):
    rng = np.random.default_rng(15)
    w = normals(rng, 6, 6, 5)
    x, g = normals(rng, 3, 6, 900), normals(rng, 3, 6, 904 if transposed else 896)
    backward = getattr(fastconv1d, "conv" + "_transpose" * transposed + "1d_backward")
    whole = backward(g, x, w, algorithm="direct")
    for mask in itertools.product((False, True), repeat=3):
        gradients = backward(g, x, w, algorithm="direct", output_mask=mask)
        for wanted, result, bits in zip(mask, gradients, whole, strict=True):
            if wanted:
                assert_same_bits(result, bits, f"{mask}")
            else:
                assert result is None


@pytest.fixture
def many_passes():
    """As for so many multiply-adds that a unit would keep a signal waiting."""
    before = direct_engine.set_unit_macs(2e4)
    yield
    direct_engine.set_unit_macs(before)


@pytest.mark.usefixtures("many_passes")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "sizes",
    # the last two: several partial sums of panels, and 33 passes over one: a second gradient would
    # not fit into the 4 MiB of partial sums
    [
        (1, 3, 2, 9001, 5, 1),
        (1, 3, 2, 9001, 5, 3),
        (5, 40, 17, 701, 3, 1),
        (5, 40, 17, 701, 3, 3),
        (33, 20, 12, 60, 3, 1),
        (33, 20, 12, 60, 3, 3),
        (5, 80, 34, 701, 3, 1),
        (5, 80, 34, 701, 3, 3),
        (1, 380, 380, 4100, 4, 3),
    ],
)
def test_passes_add_up(sizes, dtype):
    n_batch, c_in, c_out, l_out, kernel_size, stride = sizes
    rng = np.random.default_rng(16)
    g = integers(rng, n_batch, c_out, l_out, dtype=dtype)
    x = integers(rng, n_batch, c_in, (l_out - 1) * stride + kernel_size, dtype=dtype)
    check(g, x, kernel_size, stride)
    g, x = normals(rng, *g.shape, dtype=dtype), normals(rng, *x.shape, dtype=dtype)
    bits = weight_gradient(g, x, kernel_size, stride)
    in_threads = weight_gradient(g, x, kernel_size, stride, threads=3)
    for result, expected in zip(in_threads, bits, strict=True):
        assert_same_bits(result, expected, str(sizes))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "sizes",
    # panels, dot products, one tile an item, several, and more tiles an item than a pass may have
    [
        (1, 40, 17, 90_001, 1),
        (1, 3, 2, 560_001, 1),
        (70, 64, 64, 300, 64),
        (4, 64, 64, 34_001, 64),
        (1, 64, 64, 70_001, 64),
        (5, 80, 34, 20_001, 1),  # several passes over several partial sums of panels
    ],
)
def test_groups_of_chunks_add_up(sizes, dtype):
    # More than 32 chunks a partial sum.
    n_batch, c_in, c_out, l_out, groups = sizes
    rng = np.random.default_rng(17)
    kernel_size = 2
    g = integers(rng, n_batch, c_out, l_out, dtype=dtype)
    x = integers(rng, n_batch, c_in, l_out + kernel_size - 1, dtype=dtype)
    check(g, x, kernel_size, 1, 1, 0, ZEROS, groups)
    w = integers(rng, c_out, c_in // groups, kernel_size, dtype=dtype)
    dx, dw, db = fastconv1d.conv1d_backward(g, x, w, groups=groups)
    alone = weight_gradient(g, x, kernel_size, groups=groups, threads=3)
    assert_same_bits(dw, alone[0])
    assert_same_bits(db, alone[1])
    assert_exact(dx, slow_scatter(g, w.conj(), None, x.shape[2], groups=groups))


def test_totals_are_of_32_sums_each():
    for n in (1, 2, 32, 33, 34, 64, 65, 1024, 1025, 1057, 1058, 33_000):
        totals = []
        for i in range(n):
            add_to(totals, np.array([i + 0.0]), i)
        assert sum(totals) == n * (n - 1) / 2, n
        left = [n - 1]  # of each level, those that do not go on
        while left[-1] >= 32:
            left.append(left[-1] // 32 - 1)
        assert len(totals) == len(left), n


def test_nothing_to_sum_is_zero():
    for n_batch, l_out in ((0, 5), (3, 0)):
        g, x = np.empty((n_batch, 2, l_out), np.float32), np.ones((n_batch, 3, 9), np.float32)
        dw, db = np.full((2, 3, 5), np.nan, np.float32), np.full(2, np.nan, np.float32)
        direct_engine.weight_gradient(g, x, dw, window(), (1, False), db=db)
        assert_exact(dw, np.zeros((2, 3, 5)))
        assert_exact(db, np.zeros(2))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sizes", [(1, 32, 16384), (1, 64, 8192), (4, 64, 8192), (4, 64, 4096)])
def test_scratch_of_many_output_channels_is_bounded(dtype, sizes):
    n_batch, c_in, c_out = sizes
    rng = np.random.default_rng(35)
    g, x = (
        integers(rng, n_batch, c_out, 128, dtype=dtype),
        integers(rng, n_batch, c_in, 128, dtype=dtype),
    )
    dw = np.empty((c_out, c_in, 1), dtype)
    direct_engine.largest_scratch(True)
    direct_engine.weight_gradient(g, x, dw, window(), (1, False))
    assert direct_engine.largest_scratch() <= 4 << 20
    assert_exact(dw[:, :, 0], np.einsum("nol,ncl->oc", g, x))
