"""Correlate and scatter of the direct engine, for every instruction set that this CPU has."""

import copy
import functools
import itertools
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from layers import assert_exact, assert_same_bits, assert_within
from primitives import (
    CIRCULAR,
    REFLECT,
    REPLICATE,
    ZEROS,
    correlate,
    guarded,
    in_subprocess,
    integers,
    length,
    longer,
    normals,
    scatter,
    slow_correlate,
    slow_scatter,
    window,
)

import fastconv1d
from fastconv1d import reference
from fastconv1d.core.activations import Steps
from fastconv1d.kernels import blas_engine, direct_engine
from fastconv1d.kernels.direct_engine import PreparedLayer
from fastconv1d.planner import explain

DTYPES = [np.float32, np.float64, np.complex64]
MODES = (ZEROS, REFLECT, REPLICATE, CIRCULAR)

pytestmark = pytest.mark.usefixtures("isa")


def check_correlate(x, w, b, *geometry, **more):
    context = f"correlate x {x.shape} w {w.shape} {geometry} {more}"
    assert_exact(correlate(x, w, b, *geometry, **more), slow_correlate(x, w, b, *geometry), context)


def check_scatter(x, w, b, *geometry, **more):
    context = f"scatter x {x.shape} w {w.shape} {geometry} {more}"
    assert_exact(scatter(x, w, b, *geometry, **more), slow_scatter(x, w, b, *geometry), context)


# ---- register tiles and their edges ------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_bias", [False, True])
def test_every_register_tile(dtype, with_bias):
    # 1 to 17 rows are every height of a tile beside whole ones; 200 columns are every width (12
    # vectors of 16 lanes at most), with every number of columns left over.
    rng = np.random.default_rng(1)
    for c_out in range(1, 18):
        x = integers(rng, 1, 3, 202, dtype=dtype)
        w = integers(rng, c_out, 3, 3, dtype=dtype)
        b = integers(rng, c_out, dtype=dtype) if with_bias else None
        y = slow_correlate(x, w, b, 200)
        for l_out in range(1, 201):
            cut = np.ascontiguousarray(x[:, :, : l_out + 2])
            assert_exact(correlate(cut, w, b, l_out), y[:, :, :l_out], f"{c_out} x {l_out}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_register_tile_over_channel_blocks(dtype):
    # 130 channels of 9 taps are several blocks, which add to what the output holds.
    rng = np.random.default_rng(2)
    for c_out in (*range(1, 10), 16, 17):
        x = integers(rng, 1, 130, 208, dtype=dtype)
        w = integers(rng, c_out, 130, 9, dtype=dtype)
        b = integers(rng, c_out, dtype=dtype)
        y = slow_correlate(x, w, b, 200)
        for l_out in (*range(1, 72), 95, 96, 97, 144, 145, 191, 192, 193, 200):
            cut = np.ascontiguousarray(x[:, :, : l_out + 8])
            assert_exact(correlate(cut, w, b, l_out), y[:, :, :l_out], f"{c_out} x {l_out}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_tile_of_few_columns(dtype):
    # Up to 4 vectors of 16 channels and 8 columns, with channels and columns left over, in one
    # block of input channels and in several; the bits are those of a long output.
    rng = np.random.default_rng(3)
    for c_in, c_out in itertools.product((2, 45), (*range(4, 35), 63, 64, 81, 97, 131, 132)):
        x = integers(rng, 1, c_in, 43, dtype=dtype)
        w = integers(rng, c_out, c_in, 4, dtype=dtype)
        b = integers(rng, c_out, dtype=dtype)
        y = slow_correlate(x, w, b, 40)
        real = normals(rng, 1, c_in, 43, dtype=dtype), normals(rng, *w.shape, dtype=dtype)
        long = correlate(*real, b, 40)
        for l_out in range(1, 10):
            cut = np.ascontiguousarray(x[:, :, : l_out + 3])
            assert_exact(correlate(cut, w, b, l_out), y[:, :, :l_out], f"{c_out} x {l_out}")
            cut = np.ascontiguousarray(real[0][:, :, : l_out + 3])
            result = correlate(cut, real[1], b, l_out)
            assert_same_bits(result, long[:, :, :l_out].copy(), f"{c_out} x {l_out}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 8])
def test_every_register_tile_of_scatter(dtype, stride):
    rng = np.random.default_rng(3)
    for c_out in (*range(1, 10), 13, 17):
        w = integers(rng, 3, c_out, 5, dtype=dtype)
        b = integers(rng, c_out, dtype=dtype)
        for l_out in (*range(1, 72, 1 if c_out < 3 else 5), 129, 257, 400):
            x = integers(rng, 1, 3, l_out // stride + 1, dtype=dtype)
            check_scatter(x, w, b, l_out, stride, 1, l_out % (stride + 2))


# ---- strides, dilations, offsets and paddings --------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("stride", "kernel_size"), [(2, 4), (3, 3), (3, 6), (3, 9), (5, 5), (6, 6)]
)
def test_scatter_of_weights_in_any_order_of_axes(dtype, stride, kernel_size):
    rng = np.random.default_rng(33)
    for c_in, c_out in itertools.product((1, 2, 3), (4, 6, 8, 9, 16)):
        x, w = (
            integers(rng, 1, c_in, 23, dtype=dtype),
            integers(rng, c_in, c_out, kernel_size, dtype=dtype),
        )
        for order in itertools.permutations(range(3)):
            same = np.ascontiguousarray(w.transpose(order)).transpose(np.argsort(order))
            check_scatter(x, same, None, 23 * stride, stride)


@pytest.mark.parametrize("dtype", DTYPES)
def test_taps_in_place_beyond_32_bits(dtype):
    rng = np.random.default_rng(34)
    x, w = integers(rng, 1, 2, 40_000, dtype=dtype), integers(rng, 1, 2, 3, dtype=dtype)
    far = 1 << 31
    y = fastconv1d.conv1d(x, w, dilation=far, padding=far)
    assert_exact(y, fastconv1d.reference.conv1d(x, w[:, :, 1:2]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_strides_and_dilations(dtype, mode):
    rng = np.random.default_rng([4, mode])
    pads = [(0, 0), (1, 0), (0, 2), (5, 3), (7, 16)]
    cases = itertools.product(range(1, 10), range(1, 10))
    for case, (stride, dilation) in enumerate(cases):
        (left, right), kernel_size = pads[case % 5], (1, 2, 3, 5, 8, 11)[case % 6]
        l_in = 40 + dilation * kernel_size + 67 * (case % 4)
        x = integers(rng, 1 + case % 2, 3, l_in, dtype=dtype)
        w = integers(rng, 1 + case % 5, 3, kernel_size, dtype=dtype)
        l_out = length(x, kernel_size, stride, dilation, left, right)
        check_correlate(x, w, None, l_out, stride, dilation, left, mode)


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_and_dilations_of_scatter(dtype):
    rng = np.random.default_rng(5)
    cases = itertools.product(range(1, 10), range(1, 10))
    for case, (stride, dilation) in enumerate(cases):
        for kernel_size in (1, 2, 3 + case % 9):
            x = integers(rng, 1 + case % 2, 3, 5 + 29 * (case % 4), dtype=dtype)
            w = integers(rng, 3, 1 + case % 5, kernel_size, dtype=dtype)
            b = integers(rng, 1 + case % 5, dtype=dtype) if case % 2 else None
            whole = (x.shape[2] - 1) * stride + dilation * (kernel_size - 1) + 1
            # all, cropped at both ends, and longer than anything adds to
            for left, l_out in ((0, whole), (case % 11, max(1, whole - 17)), (3, whole + 9)):
                check_scatter(x, w, b, l_out, stride, dilation, left)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_padding_wider_than_the_input(dtype, mode):
    rng = np.random.default_rng([6, mode])
    for l_in in (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33):
        most = {ZEROS: 3 * l_in + 5, REFLECT: l_in - 1, REPLICATE: 3 * l_in + 5, CIRCULAR: l_in}
        for left, right in itertools.product({0, 1, most[mode] // 2, most[mode]}, repeat=2):
            if max(left, right) > most[mode]:
                continue
            for kernel_size, stride in ((1, 1), (3, 1), (4, 2), (2, 5)):
                x = integers(rng, 3, 2, l_in, dtype=dtype)
                w = integers(rng, 5, 2, kernel_size, dtype=dtype)
                l_out = length(x, kernel_size, stride, 1, left, right)
                if l_out > 0:
                    check_correlate(x, w, None, l_out, stride, 1, left, mode)


@pytest.mark.parametrize("dtype", DTYPES)
def test_negative_padding_skips_input(dtype):
    rng = np.random.default_rng(7)
    for skip, stride, dilation in itertools.product((1, 2, 7, 33), (1, 2, 3, 4, 8), (1, 3)):
        x, w = integers(rng, 2, 3, 240, dtype=dtype), integers(rng, 5, 3, 4, dtype=dtype)
        l_out = length(x, 4, stride, dilation, -skip, 2)
        check_correlate(x, w, None, l_out, stride, dilation, -skip)
        b = integers(rng, 5, dtype=dtype)
        check_scatter(x, w.transpose(1, 0, 2), b, 240 * stride, stride, dilation, -skip)


@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_shorter_than_the_stride_leave_phases_without_taps(dtype):
    rng = np.random.default_rng(8)
    for stride, kernel_size in itertools.product((2, 4, 5, 8, 17, 64, 1024), (1, 2, 3)):
        for dilation, left in ((1, 0), (2, 1), (stride, 3), (3 * stride + 1, stride - 1)):
            x, w = integers(rng, 2, 3, 19, dtype=dtype), integers(rng, 3, 5, kernel_size)
            l_out = 18 * stride + dilation * (kernel_size - 1) + 1 - left
            b = integers(rng, 5, dtype=dtype)
            check_scatter(x, w.astype(dtype), b, l_out, stride, dilation, left)
            check_scatter(x, w.astype(dtype), None, l_out, stride, dilation, left)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stride", [2, 4, 8])
def test_interleaved_phases_over_tiles(dtype, stride):
    # Vectors of all phases are riffled where they fit; crops and odd lengths leave both ends.
    rng = np.random.default_rng(9)
    for c_out, l_in in ((1, 3001), (3, 2003), (32, 1501), (40, 517)):
        w = integers(rng, 4, c_out, 2 * stride + 1, dtype=dtype)
        x = integers(rng, 1, 4, l_in, dtype=dtype)
        for left, right in ((0, 0), (1, 0), (stride - 1, 1), (stride + 3, 2 * stride + 1)):
            l_out = (l_in - 1) * stride + 2 * stride + 1 - left - right
            check_scatter(x, w, None, l_out, stride, 1, left)


# ---- blocks and tiles --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_channel_counts_around_block_boundaries(dtype):
    # A chain has at most 128 terms, a window the chains that fit a strip.
    rng = np.random.default_rng(10)
    for kernel_size in (1, 2, 3, 7, 31):
        terms = [m * (128 // kernel_size) + e for m in (1, 2, 3, 8, 12) for e in (-1, 0, 1)]
        strips = [m * n + e for m in (1, 2) for n in (26, 53, 106, 213) for e in (0, 1)]
        for c_in in sorted({c for c in terms + strips if 0 < c * kernel_size < 2600}):
            x = integers(rng, 1, c_in, 61 + kernel_size, dtype=dtype)
            w = integers(rng, 6, c_in, kernel_size, dtype=dtype)
            b = integers(rng, 6, dtype=dtype)
            check_correlate(x, w, b, 62, 1, 1, 0)
            check_scatter(x, w.transpose(1, 0, 2), b, 61, 1, 1, 1)
            check_scatter(x, w.transpose(1, 0, 2), b, 123, 2, 1, 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("c_in", "kernel_size", "groups"), [(130, 9, 1), (200, 3, 2), (40, 70, 1)])
def test_chains_and_windows_of_odd_layers(dtype, c_in, kernel_size, groups):
    # Several chains in a window and several windows: no item, one position, a stride and a padding
    # beyond the kernel, phases without taps, channels and positions backwards, two threads.
    rng = np.random.default_rng(31)
    w = integers(rng, 7 * groups, c_in, kernel_size, dtype=dtype)
    back = integers(rng, c_in * groups, 7, kernel_size, dtype=dtype)
    b = integers(rng, 7 * groups, dtype=dtype)
    beyond = kernel_size + 2
    for n, l_in, threads in ((0, 30, 1), (1, 1, 1), (3, 5, 2), (2, 47, 2), (1, 300, 2)):
        x = integers(rng, n, c_in * groups, l_in, dtype=dtype)
        for stride, dilation, left in ((1, 1, beyond), (2, 2, 3), (beyond, 1, 2 * beyond)):
            for view in (x, x[:, ::-1, ::-1]):
                l_out = length(x, kernel_size, stride, dilation, left, 4 * beyond)
                if l_out > 0:
                    geometry = l_out, stride, dilation, left, ZEROS, groups
                    check_correlate(view, w, b, *geometry, threads=threads)
                l_out = (l_in - 1) * stride + dilation * (kernel_size - 1) + 3
                geometry = l_out, stride, dilation, left, groups
                check_scatter(view, back, b, *geometry, threads=threads)


# More than 32 chains: one level of totals, over channels, taps or both, then two (1,100 chains).
MANY_CHAINS = [(640, 9, 1), (4100, 1, 1), (20, 300, 2), (1, 4300, 5), (1100, 128, 1)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("c_in", "kernel_size", "groups"), MANY_CHAINS)
def test_many_chains_are_exact(dtype, c_in, kernel_size, groups):
    rng = np.random.default_rng(41)
    for c_out in (1, 9) if groups == 1 else (1,):
        x = integers(rng, 2, c_in * groups, kernel_size + 61, dtype=dtype)
        w = integers(rng, c_out * groups, c_in, kernel_size, dtype=dtype)
        b = integers(rng, c_out * groups, dtype=dtype)
        check_correlate(x, w, b, 62, 1, 1, 0, ZEROS, groups, threads=2)
        check_correlate(x, w, b, 21, 3, 1, 0, ZEROS, groups)
        short, back = np.ascontiguousarray(x[:, :, :23]), w.reshape(c_in * groups, c_out, -1)
        for stride in (1, 3, 8):  # with 9, 128 and 4,300 taps: phases of different lengths
            l_out = 22 * stride + kernel_size
            check_scatter(short, back, b, l_out, stride, 1, 0, groups, threads=2)


@pytest.mark.parametrize(("c_in", "kernel_size", "groups"), MANY_CHAINS)
def test_many_chains_have_the_same_bits_everywhere(c_in, kernel_size, groups):
    # Whole tiles, few columns, edges, threads, items, layouts, last steps and single steps.
    rng = np.random.default_rng(42)
    c_out = 17 * groups if groups == 1 else groups
    x = normals(rng, 2, c_in * groups, kernel_size + 149)
    w, b = normals(rng, c_out, c_in, kernel_size), normals(rng, c_out)
    y = correlate(x, w, b, 150, groups=groups)
    assert_same_bits(correlate(x, w, b, 150, groups=groups, threads=3), y)
    for l_out in (1, 2, 7, 8, 9, 33, 101):
        cut = np.ascontiguousarray(x[:1, :, : kernel_size + l_out - 1])
        assert_same_bits(correlate(cut, w, b, l_out, groups=groups), y[:1, :, :l_out])
    crowd = np.ascontiguousarray(np.concatenate([x] * 4)[:, :, : kernel_size + 4])
    assert_same_bits(correlate(crowd, w, b, 5, groups=groups)[4:6], y[:, :, :5].copy())
    side_by_side = np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2)
    out = np.empty((2, 150, c_out), np.float32).swapaxes(1, 2)
    direct_engine.correlate(side_by_side, w, b, out, window(groups=groups), (2, False))
    assert_same_bits(np.ascontiguousarray(out), y)

    module = fastconv1d.Conv1d(
        c_in * groups, c_out, kernel_size, groups=groups, activation="relu"
    ).eval()
    module.weight, module.bias = w, b
    assert_same_bits(module(x), np.maximum(y, 0))
    assert_same_bits(module(x, residual=y), np.maximum(y + y, 0))
    stream = module.stream(2)
    starts = (0, kernel_size, kernel_size + 3, kernel_size + 100, x.shape[2])
    parts = [stream(x[:, :, i:j]) for i, j in itertools.pairwise(starts)]
    parts += [stream.flush()]
    assert_same_bits(np.concatenate(parts, axis=2), np.maximum(y, 0))


def test_two_levels_of_totals_in_single_steps():
    rng = np.random.default_rng(43)
    kernel_size = 33 * 32 * 128 + 129
    x, w = normals(rng, 1, 2, kernel_size + 5), normals(rng, 2, 1, kernel_size)
    b = normals(rng, 2)
    y = correlate(x, w, b, 6, groups=2)
    out = np.empty((1, 6, 2), np.float32).swapaxes(1, 2)
    side_by_side = np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2)
    direct_engine.correlate(side_by_side, w, b, out, window(groups=2), (1, False))
    assert_same_bits(np.ascontiguousarray(out), y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_kernels_are_blocks_of_taps(dtype):
    rng = np.random.default_rng(11)
    for kernel_size in (511, 512, 513, 1023, 1024, 1025, 1700, 4097):
        for c_in, stride, dilation in ((1, 1, 1), (2, 2, 1), (1, 3, 2), (3, 1, 3), (1, 8, 1)):
            x = integers(rng, 1, c_in, kernel_size * dilation + 300, dtype=dtype)
            w = integers(rng, 3, c_in, kernel_size, dtype=dtype)
            b = integers(rng, 3, dtype=dtype)
            left = kernel_size // 3
            l_out = length(x, kernel_size, stride, dilation, left, 5)
            check_correlate(x, w, b, l_out, stride, dilation, left)
            short = np.ascontiguousarray(x[:, :, :190])
            check_scatter(short, w.swapaxes(0, 1), b, 1701, stride, dilation, left)


@pytest.mark.parametrize("dtype", DTYPES)
def test_short_items_share_tiles(dtype):
    rng = np.random.default_rng(12)
    sizes = itertools.product((1, 2, 5, 16, 33), (1, 2, 3, 7, 9, 16, 31, 50), (1, 2, 4, 9))
    for case, (n_batch, l_in, c_out) in enumerate(sizes):
        kernel_size, dilation = 1 + case % 5, (1, 1, 2, 11)[case % 4]
        x = integers(rng, n_batch, 4, l_in, dtype=dtype)
        b = integers(rng, c_out, dtype=dtype)
        for stride in (1, 2, 3):
            w = integers(rng, c_out, 4, kernel_size, dtype=dtype)
            left = right = dilation * kernel_size
            l_out = length(x, kernel_size, stride, dilation, left, right)
            check_correlate(x, w, b, l_out, stride, dilation, left)
            l_out = (l_in - 1) * stride + dilation * (kernel_size - 1) + 1
            check_scatter(x, w.swapaxes(0, 1), b, l_out, stride, dilation, 0)
        for mode in (REFLECT, REPLICATE, CIRCULAR):
            left = l_in - (mode == REFLECT)
            l_out = length(x, kernel_size, 1, 1, left, left)
            if l_out > 0:
                w = integers(rng, c_out, 4, kernel_size, dtype=dtype)
                check_correlate(x, w, b, l_out, 1, 1, left, mode)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dilations_beyond_a_tile(dtype):
    rng = np.random.default_rng(13)
    for c_in, kernel_size, dilation in ((64, 2, 512), (64, 3, 1700), (3, 3, 40_000), (130, 2, 999)):
        x = integers(rng, 1, c_in, 1200 + dilation * kernel_size, dtype=dtype)
        w = integers(rng, 3, c_in, kernel_size, dtype=dtype)
        for stride in (1, 2, 3):
            left = dilation // 2
            l_out = length(x, kernel_size, stride, dilation, left, 0)
            check_correlate(x, w, None, l_out, stride, dilation, left)
            short = np.ascontiguousarray(x[:, :, :700])
            check_scatter(short, w.swapaxes(0, 1), None, 3001, stride, dilation, 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_groups(dtype):
    rng = np.random.default_rng(14)
    sizes = itertools.product((2, 3, 7, 16), (1, 2, 3), (1, 2, 3, 5, 9))
    for case, (groups, c_in, c_out) in enumerate(sizes):
        n_batch, l_in, stride = 1 + case % 3, 30 + 41 * (case % 5), 1 + case % 4
        x = integers(rng, n_batch, groups * c_in, l_in, dtype=dtype)
        b = integers(rng, groups * c_out, dtype=dtype)
        w = integers(rng, groups * c_out, c_in, 5, dtype=dtype)
        l_out = length(x, 5, stride, 1, 2, 2)
        for threads in (1, 2):
            check_correlate(x, w, b, l_out, stride, 1, 2, case % 4, groups, threads=threads)
            w = integers(rng, groups * c_in, c_out, 5, dtype=dtype)
            check_scatter(x, w, b, l_in * stride, stride, 1, 2, groups, threads=threads)
            w = integers(rng, groups * c_out, c_in, 5, dtype=dtype)


@pytest.mark.parametrize("dtype", [*DTYPES, np.complex128])
def test_random_layers(dtype):
    rng = np.random.default_rng(15)

    def one_of(*options):
        return int(rng.choice(options))

    complex_ = np.issubdtype(dtype, np.complexfloating)  # pairs of the same real sums
    for case in range(50 if complex_ else 150):
        groups, stride, dilation = one_of(1, 1, 2, 5), one_of(*range(1, 10)), one_of(*range(1, 10))
        c_in, c_out, n_batch = one_of(1, 2, 9, 70), one_of(1, 4, 8, 23), one_of(1, 1, 2, 33)
        kernel_size, left, right = one_of(1, 2, 3, 7, 40), one_of(0, 1, 9), one_of(0, 1, 9)
        l_in = dilation * kernel_size + one_of(10, 11, 57, 300 // n_batch, 3000 // n_batch)
        x = integers(rng, n_batch, groups * c_in, l_in, dtype=dtype)
        w = integers(rng, groups * c_out, c_in, kernel_size, dtype=dtype)
        b = integers(rng, groups * c_out, dtype=dtype) if case % 2 else None
        l_out, threads = length(x, kernel_size, stride, dilation, left, right), 1 + case % 4
        where = (stride, dilation, left)
        check_correlate(x, w, b, l_out, *where, case % 4, groups, threads=threads)
        w = integers(rng, groups * c_in, c_out, kernel_size, dtype=dtype)
        check_scatter(x, w, b, l_in * stride + right - left, *where, groups, threads=threads)


# (c_in, kernel_size, stride) of long and short sums, and what a spread over 60 orders of magnitude
# leaves within the bound: fewer terms, because a sum of equals rounds less than one that meets its
# largest term first.
DEPTHS = [(1, 1, 1), (1, 4097, 1), (3, 700, 2), (70, 31, 1), (512, 3, 1), (2000, 1, 1), (9, 8, 4)]
SPREAD_DEPTHS = [(1, 1, 1), (3, 31, 1), (17, 5, 2), (90, 1, 1), (9, 8, 4)]


@functools.cache
def long_sums(dtype, decades):
    """Operands and, in a longer dtype, both results with the sums of magnitudes."""
    rng = np.random.default_rng(16)

    def spread(*shape):
        values = normals(rng, *shape, dtype=np.promote_types(dtype, np.float64))
        return (values * 10 ** rng.uniform(-decades, decades, shape)).astype(dtype)

    cases = []
    sizes = itertools.product(SPREAD_DEPTHS if decades else DEPTHS, (1, 6))
    for (c_in, kernel_size, stride), c_out in sizes:
        x, b = spread(1, c_in, kernel_size + 70), spread(c_out)
        w = spread(c_out, c_in, kernel_size)
        where = (70 // stride, stride, 1, 2)
        wide = [longer(a) for a in (x, w, b)]
        scale = [abs(a) for a in wide]
        y = slow_correlate(*wide, *where), slow_correlate(*scale, *where)
        for arrays in (wide, scale):
            arrays[1] = arrays[1].swapaxes(0, 1)
        up = slow_scatter(*wide, *where), slow_scatter(*scale, *where)
        cases.append((x, w, b, where, y, up))
    return cases


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("decades", [0, 15])
def test_accuracy(dtype, decades):
    for x, w, b, where, y, up in long_sums(dtype, decades):
        assert_within(correlate(x, w, b, *where), *y, f"correlate {w.shape} {where}")
        back = w.swapaxes(0, 1)
        assert_within(scatter(x, back, b, *where), *up, f"scatter {w.shape} {where}")


# ---- layouts and memory ------------------------------------------------------------------------


def layouts(x):
    """The numbers of x in memory of other orders and strides."""
    yield "every third", np.repeat(x, 3, axis=2)[:, :, 1::3]
    yield "reversed", x[:, :, ::-1].copy()[:, :, ::-1]
    yield "all reversed", x[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1]
    yield "(N, L, C)", x.transpose(0, 2, 1).copy().transpose(0, 2, 1)
    yield "(L, C, N)", x.transpose(2, 1, 0).copy().transpose(2, 1, 0)
    yield "(C, N, L)", x.swapaxes(0, 1).copy().swapaxes(0, 1)
    wide = np.full((x.shape[0] + 1, x.shape[1] + 2, x.shape[2] + 3), np.nan, x.dtype)
    wide[1:, 1:-1, 1:-2] = x
    yield "inside of NaN", wide[1:, 1:-1, 1:-2]


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_do_not_change_bits(dtype):
    rng = np.random.default_rng(17)
    sizes = itertools.product((1, 2, 3, 4, 8), (1, 2), (37, 600), MODES)
    for stride, dilation, l_in, mode in sizes:
        x, w = normals(rng, 3, 4, l_in, dtype=dtype), normals(rng, 6, 2, 5, dtype=dtype)
        b, where = normals(rng, 6, dtype=dtype), (stride, dilation, 3)
        l_out = length(x, 5, stride, dilation, 3, 3)
        y = correlate(x, w, b, l_out, *where, mode, 2)
        up = scatter(x, w[:4, :, :], None, l_in * stride, *where, 2)
        for name, view in layouts(x):
            assert_same_bits(correlate(view, w, b, l_out, *where, mode, 2), y, name)
            assert_same_bits(scatter(view, w[:4], None, l_in * stride, *where, 2), up, name)
        for name, view in layouts(w):
            strided = np.repeat(b, 2)[::2]
            assert_same_bits(correlate(x, view, strided, l_out, *where, mode, 2), y, name)
            assert_same_bits(scatter(x, view[:4], None, l_in * stride, *where, 2), up, name)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 3), (5, 4, 1, 1), (2, 18, 3, 5), (1, 33, 2, 4)])
def test_complex_results_and_residuals_of_any_strides(dtype, sizes):
    # Both parts of an output are phases that are interleaved, pairs with a stride, or channels.
    n_batch, channels, stride, kernel_size = sizes
    rng = np.random.default_rng(23)
    steps = Steps(residual_scale=0.5)
    for l_out, dilation in itertools.product((1, 2, 35, 131), (1, 2)):
        w = normals(rng, channels, channels, kernel_size, dtype=dtype)
        x = normals(rng, n_batch, channels, (l_out - 1) * stride + 9, dtype=dtype)
        b, where = normals(rng, channels, dtype=dtype), window(stride, dilation, 2)
        short = normals(rng, n_batch, channels, l_out // stride + 1, dtype=dtype)
        for engine, given in ((direct_engine.correlate, x), (direct_engine.scatter, short)):
            y = np.full((n_batch, channels, l_out), np.nan, dtype)
            residual = normals(rng, *y.shape, dtype=dtype)
            plain = y.copy()
            engine(given, w, b, plain, where, (1, False))
            engine(given, w, b, y, where, (1, False), steps, residual)
            assert_within(y, plain + residual * 0.5, abs(plain) + abs(residual), f"{sizes}", 3)
            for (name, out), (_, more) in zip(layouts(y), layouts(residual), strict=True):
                for r in (more, residual):
                    out[...] = np.nan
                    engine(given, w, b, out, where, (2, False), steps, r)
                    assert_same_bits(out.copy(), y, f"{name} {sizes} {l_out} {dilation}")


def test_broadcast_input_is_read_as_it_is():
    rng = np.random.default_rng(18)
    x = np.broadcast_to(integers(rng, 1, 1, 100), (3, 4, 100))
    constant = np.broadcast_to(np.float32(3), (2, 4, 100))
    w = integers(rng, 5, 4, 3)
    for view in (x, constant):
        check_correlate(view, w, None, 98)
        check_scatter(view, w.swapaxes(0, 1), None, 102)


def correlate_and_scatter_between_guard_pages():
    rng = np.random.default_rng(19)
    sizes = itertools.product((1, 2, 3, 4, 8), (1, 2, 7), (1, 3), DTYPES, (True, False))
    for case, (stride, dilation, n_batch, dtype, at_end) in enumerate(sizes):
        for kernel_size, l_in in itertools.product((1, 3, 8), (57, 64, 65, 71, 200, 1100)):
            c_in, c_out, left, mode = 1 + case % 3, 1 + case % 9, case % 4, case % 4
            x = guarded(integers(rng, n_batch, c_in, l_in, dtype=dtype), at_end)
            w = guarded(integers(rng, c_out, c_in, kernel_size, dtype=dtype), at_end)
            b = guarded(integers(rng, c_out, dtype=dtype), at_end)
            l_out = length(x, kernel_size, stride, dilation, left, 1)
            y = guarded(np.empty((n_batch, c_out, l_out), dtype), at_end)
            where = (stride, dilation, left)
            direct_engine.correlate(x, w, b, y, window(*where, mode), (1, False))
            assert_exact(y, slow_correlate(x, w, b, l_out, *where, mode))
            wt = guarded(w.swapaxes(0, 1), at_end)
            y = guarded(np.empty((n_batch, c_out, l_in * stride - 1), dtype), at_end)
            direct_engine.scatter(x, wt, b, y, window(*where), (1, False))
            assert_exact(y, slow_scatter(x, wt, b, l_in * stride - 1, *where))
    for c_out, dtype, at_end in itertools.product((1, 2, 3, 8), DTYPES, (True, False)):
        few_outputs_in_place(rng, c_out, dtype, lambda a, at_end=at_end: guarded(a, at_end))
    print(direct_engine.isa())


def few_outputs_in_place(rng, c_out, dtype, placed):
    for kernel_size, left, l_in in ((1, 0, 2049), (3, 1, 2500), (7, 0, 2063)):
        x = placed(integers(rng, 1, 40, l_in, dtype=dtype))
        w, b = integers(rng, c_out, 40, kernel_size, dtype=dtype), integers(rng, c_out, dtype=dtype)
        expected = slow_correlate(x, w, b, length(x, kernel_size, 1, 1, left, 0), 1, 1, left, ZEROS)
        for threads in (1, 2):
            y = placed(np.empty(expected.shape, dtype))
            direct_engine.correlate(x, w, b, y, window(1, 1, left, ZEROS), (threads, False))
            assert_exact(y, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c_out", [*range(1, 10)])
def test_few_output_channels_read_the_input_in_place(dtype, c_out):
    few_outputs_in_place(np.random.default_rng(31), c_out, dtype, lambda a: a)
    few_outputs_in_place(np.random.default_rng(32), c_out, dtype, lambda a: a[:, ::-1])
    few_outputs_in_place(np.random.default_rng(33), c_out, dtype, lambda a: a[:, :, ::-1])


@pytest.mark.skipif(sys.platform != "linux", reason="protects pages with mprotect")
def test_nothing_outside_of_the_arrays_is_touched(isa, monkeypatch):
    monkeypatch.setenv("FASTCONV1D_ISA", isa)
    name = "correlate_and_scatter_between_guard_pages"
    assert in_subprocess("test_direct_engine", name).strip() == isa


def weights_between_guard_pages():
    # Every way to pack: rows that follow one another, whole vectors of taps, elements picked from a
    # few vectors, and one by one; of phases of strides, fused or not.
    rng = np.random.default_rng(23)
    for kernel_size, dtype in itertools.product(range(1, 19), DTYPES):
        for stride in {1, 2, 3, 5, kernel_size}:
            for dilation, c_out, at_end in ((1, 8, True), (2, 21, False), (1, 17, True)):
                x = integers(rng, 1, 5, 4, dtype=dtype)
                w = guarded(integers(rng, 5, c_out, kernel_size, dtype=dtype), at_end)
                l_out = 3 * stride + dilation * (kernel_size - 1) + 1
                y = np.full((1, c_out, l_out), np.nan, dtype)
                assert direct_engine.scatter(x, w, None, y, window(stride, dilation), (1, False))
                assert_exact(y, slow_scatter(x, w, None, l_out, stride, dilation))
                w = guarded(integers(rng, c_out, 5, kernel_size, dtype=dtype), at_end)
                x, left = integers(rng, 1, 5, 9, dtype=dtype), dilation * kernel_size
                y = np.full((1, c_out, 3), np.nan, dtype)
                where = window(stride, dilation, left)
                direct_engine.correlate(x, w, None, y, where, (1, False))
                assert_exact(y, slow_correlate(x, w, None, 3, stride, dilation, left))
    print(direct_engine.isa())


@pytest.mark.skipif(sys.platform != "linux", reason="protects pages with mprotect")
def test_every_way_to_pack_reads_the_weight_alone(isa, monkeypatch):
    monkeypatch.setenv("FASTCONV1D_ISA", isa)
    assert in_subprocess("test_direct_engine", "weights_between_guard_pages").strip() == isa


# l_in, l_out, kernel_size, stride, dilation, left: some taps read nothing in the whole call.
SHORT = [
    (1, 1, 13, 1, 1, 6),
    (1, 1, 5, 8, 1, 2),
    (1, 3, 12, 4, 1, 5),
    (2, 3, 12, 3, 2, 7),
    (3, 5, 21, 1, 8, 80),
    (5, 4, 7, 2, 3, -1),
    (1, 2, 200, 1, 1, 100),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SHORT)
def test_taps_that_are_not_packed_for_a_call(sizes, dtype):
    l_in, l_out, kernel_size, *where = sizes
    rng = np.random.default_rng(24)
    for c_in, c_out, groups in ((70, 23, 1), (6, 9, 3), (300, 4, 1)):
        x, w = normals(rng, 2, c_in * groups, l_in), normals(rng, c_out * groups, c_in, kernel_size)
        x, w = x.astype(dtype), w.astype(dtype)
        place = window(*where, ZEROS, groups)
        for transposed in (False, True):
            if transposed:
                w = w.reshape(groups, c_out, c_in, kernel_size).swapaxes(1, 2)
                w = np.ascontiguousarray(w).reshape(groups * c_in, c_out, kernel_size)
            layer = PreparedLayer(w, None, place, transposed)
            y, bits = (np.full((2, c_out * groups, l_out), np.nan, dtype) for _ in range(2))
            (direct_engine.scatter if transposed else direct_engine.correlate)(
                x, w, None, y, place, (1, False)
            )
            layer.run(x, bits, where[2], 1)
            assert_same_bits(y, bits, f"{sizes} {transposed}")
            wide = (slow_scatter if transposed else slow_correlate)(
                x, w, None, l_out, *where, groups=groups
            )
            np.testing.assert_allclose(y, wide, rtol=1e-4, atol=1e-4)


def test_infinite_weights_of_taps_that_read_nothing():
    x, w = np.ones((1, 9, 1), np.float32), np.ones((16, 9, 5), np.float32)
    w[3, 4, 0] = np.inf
    y = correlate(x, w, None, 1, 1, 1, 2)  # infinity times the zeros of the padding
    assert np.isnan(y[0, 3, 0])
    assert_exact(np.delete(y, 3, axis=1), np.full((1, 15, 1), 9))
    w = w.swapaxes(0, 1)
    y = np.full((1, 16, 1), np.nan, np.float32)
    assert direct_engine.scatter(x, w, None, y, window(1, 1, 2), (1, False))
    assert_exact(y, np.full((1, 16, 1), 9))


def test_not_a_number_reaches_only_what_reads_it():
    rng = np.random.default_rng(20)
    for stride, dilation, kernel_size in itertools.product((1, 2, 3, 8), (1, 3), (1, 3, 6)):
        x, w = integers(rng, 2, 3, 150), integers(rng, 5, 3, kernel_size)
        where = (stride, dilation, 4)
        l_out = length(x, kernel_size, stride, dilation, 4, 4)
        for i in (0, 1, 31, 32, 75, 148, 149):
            x[1, 2, i] = np.nan
            y = correlate(x, w, None, l_out, *where)
            assert_exact(np.isnan(y), np.isnan(slow_correlate(x, w, None, l_out, *where)))
            y = scatter(x, w.swapaxes(0, 1), None, 150 * stride, *where)
            wide = slow_scatter(x, w.swapaxes(0, 1), None, 150 * stride, *where)
            assert_exact(np.isnan(y), np.isnan(wide))
            x[1, 2, i] = 1


def test_scatter_of_a_weight_that_is_not_finite():
    # Zeros that the windows hold beyond the ends of the input are no part of the sum.
    rng = np.random.default_rng(21)
    for bad, stride in itertools.product((np.nan, np.inf, -np.inf), (1, 2, 3)):
        x, w, b = integers(rng, 2, 3, 20), integers(rng, 3, 5, 4), integers(rng, 5)
        x[x == 0] = 1  # zero times infinity is not a number
        w[1, 3, 0] = w[0, 2, 3] = bad
        y = np.empty((2, 5, 22 * stride), np.float32)
        assert not direct_engine.scatter(x, w, b, y, window(stride), (1, False))
        up = fastconv1d.conv_transpose1d(x, w, b, stride, output_padding=stride - 1)
        wide = slow_scatter(x, w, b, up.shape[2], stride)
        np.testing.assert_array_equal(up, wide.astype(np.float32))
        assert PreparedLayer(w, b, window(stride), True)(x) is None


# ---- bits --------------------------------------------------------------------------------------

# (n_batch, c_in, c_out, l_in, kernel_size, stride, dilation, groups): several blocks and tiles,
# items that share a tile, few and many groups, one channel, one item.
DEEP = [
    (1, 70, 23, 1501, 9, 1, 1, 1),
    (33, 48, 40, 35, 3, 1, 1, 1),
    (5, 40, 40, 1203, 31, 1, 1, 40),
    (3, 1, 37, 9001, 10, 5, 1, 1),
    (2, 64, 1, 4001, 7, 1, 3, 1),
    (1, 1, 1, 30_001, 600, 1, 1, 1),
    (2, 24, 36, 1101, 6, 2, 4, 4),
    (1, 33, 31, 2503, 2, 1, 512, 1),
]


def deep_layer(sizes, dtype):
    n_batch, c_in, c_out, l_in, kernel_size, stride, dilation, groups = sizes
    rng = np.random.default_rng(22)
    x = normals(rng, n_batch, c_in, l_in, dtype=dtype)
    w = normals(rng, c_out, c_in // groups, kernel_size, dtype=dtype)
    wt = normals(rng, c_in, c_out // groups, kernel_size, dtype=dtype)
    b = normals(rng, c_out, dtype=dtype)
    return x, w, wt, b, length(x, kernel_size, stride, dilation, 3, 0), (stride, dilation, 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", DEEP)
def test_bits_do_not_depend_on_threads(dtype, sizes):
    x, w, wt, b, l_out, where = deep_layer(sizes, dtype)
    l_up, groups = x.shape[2] * where[0], sizes[-1]
    y = correlate(x, w, b, l_out, *where, ZEROS, groups)
    up = scatter(x, wt, b, l_up, *where, groups)
    for threads in (2, 3, 8):
        result = correlate(x, w, b, l_out, *where, ZEROS, groups, threads)
        assert_same_bits(result, y, f"{threads} threads")
        result = scatter(x, wt, b, l_up, *where, groups, threads)
        assert_same_bits(result, up, f"{threads} threads")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", DEEP)
def test_bits_do_not_depend_on_batch_mates_or_what_follows(dtype, sizes):
    x, w, wt, b, l_out, where = deep_layer(sizes, dtype)
    (stride, dilation, left), groups = where, sizes[-1]
    y = correlate(x, w, b, l_out, *where, ZEROS, groups)
    up = scatter(x, wt, b, x.shape[2] * stride, *where, groups)
    for items in (slice(0, 1), slice(1, 2), slice(-1, None), slice(0, 17, 2)):
        few = x[items].copy()
        assert_same_bits(correlate(few, w, b, l_out, *where, ZEROS, groups), y[items].copy())
        assert_same_bits(scatter(few, wt, b, up.shape[2], *where, groups), up[items].copy())
    for l_in in (1, 2, 9, 17, 33, 100, 631, 1000, 2400):
        short = np.ascontiguousarray(x[:, :, :l_in])
        count = length(short, w.shape[2], stride, dilation, left, 0)
        if count > 0 and l_in < x.shape[2]:
            result = correlate(short, w, b, count, *where, ZEROS, groups)
            assert_same_bits(result, y[:, :, :count].copy(), f"{l_in}")
        count = l_in * stride - left  # no later input reaches these
        if count > 0 and l_in < x.shape[2]:
            result = scatter(short, wt, b, count, *where, groups)
            assert_same_bits(result, up[:, :, :count].copy(), f"{l_in}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", DEEP)
def test_functions_and_layers_have_the_bits_of_the_primitives(dtype, sizes):
    x, w, wt, b, l_out, where = deep_layer(sizes, dtype)
    (stride, dilation, left), groups = where, sizes[-1]
    y = correlate(x, w, b, l_out, *where, ZEROS, groups)
    results = [
        fastconv1d.conv1d(x, w, b, stride, (3, 0), dilation, groups, algorithm=algorithm)
        for algorithm in ("auto", "direct")
    ]
    results.append(PreparedLayer(w, b, window(*where, ZEROS, groups))(x))
    for result in results:
        assert_same_bits(result, y)
    l_up = (x.shape[2] - 1) * stride + dilation * (w.shape[2] - 1) + 1 - left
    up = scatter(x, wt, b, l_up, *where, groups)
    results = [
        fastconv1d.conv_transpose1d(
            x, wt, b, stride, (3, 0), 0, groups, dilation, algorithm=algorithm
        )
        for algorithm in ("auto", "direct")
    ]
    results.append(PreparedLayer(wt, b, window(*where, ZEROS, groups), True)(x))
    for result in results:
        assert_same_bits(result, up)


# ---- PreparedLayer -----------------------------------------------------------------------------


def prepared(mode=ZEROS, pads=(2, 1), dtype=np.float32, transposed=False, bad=1.0):
    w = np.ones((4, 4, 5), dtype)
    w[0, 0, 0] = bad
    left, right = pads
    return PreparedLayer(w, None, window(2, 1, left, mode, right=right), transposed)


class Subclass(np.ndarray):
    pass


def odd_strides(x):
    """A field of records of an odd multiple of half an element."""
    half = x.dtype.itemsize // 2
    record = np.dtype({"names": ["v"], "formats": [x.dtype], "itemsize": 3 * half})
    return np.zeros(x.shape, record)["v"]


def unaligned(x):
    return np.frombuffer(bytearray(x.nbytes + 1), x.dtype, x.size, 1).reshape(x.shape)


PLAIN = np.ones((2, 4, 20), np.float32)
NOT_PLAIN = {
    "list": PLAIN.tolist(),
    "None": None,
    "subclass": PLAIN.view(Subclass),
    "float64": PLAIN.astype(np.float64),
    "int32": PLAIN.astype(np.int32),
    "complex": PLAIN.astype(np.complex64),
    "byte-swapped": PLAIN.astype(PLAIN.dtype.newbyteorder()),
    "unaligned": unaligned(PLAIN),
    "strides of half elements": odd_strides(PLAIN),
    "one dimension": PLAIN[0, 0],
    "four dimensions": PLAIN[None],
    "no items": PLAIN[:0],
    "no columns": PLAIN[:, :, :0],
    "too few channels": PLAIN[:, :3],
    "too many channels": np.ones((2, 5, 20), np.float32),
    "shorter than the kernel": PLAIN[:, :, :1],
    "columns beyond 2^40": np.broadcast_to(np.float32(1), (1, 4, 1 << 40)),
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_prepared_layer_leaves_the_rest_to_the_general_path(name):
    assert prepared()(NOT_PLAIN[name]) is None
    if name != "shorter than the kernel":
        assert prepared(transposed=True)(NOT_PLAIN[name]) is None


def test_prepared_layer_checks_paddings():
    short = PLAIN[:, :, :6]
    assert prepared(REFLECT, (6, 0))(short) is None
    assert prepared(REFLECT, (0, 6))(short) is None
    assert prepared(REFLECT, (5, 5))(short).shape == (2, 4, 6)
    assert prepared(CIRCULAR, (7, 0))(short) is None
    assert prepared(CIRCULAR, (0, 7))(short) is None
    assert prepared(CIRCULAR, (6, 6))(short).shape == (2, 4, 7)
    assert prepared(REPLICATE, (9, 9))(short).shape == (2, 4, 10)
    assert prepared(pads=(20, 21), transposed=True)(PLAIN[:, :, :19]) is None  # no column is left
    assert prepared(pads=(20, 20), transposed=True)(PLAIN[:, :, :19]).shape == (2, 4, 1)


def test_prepared_layer_takes_plain_inputs():
    frozen = PLAIN.copy()
    frozen.flags.writeable = False
    layer = prepared()
    y = layer(PLAIN)
    assert_exact(y, slow_correlate(PLAIN, np.ones((4, 4, 5)), None, 10, 2, 1, 2))
    for x in (
        frozen,
        PLAIN.copy(order="F"),
        PLAIN[:, :, ::-1],
        np.broadcast_to(np.float32(1), PLAIN.shape),
    ):
        assert_same_bits(layer(x), y)
    one = layer(PLAIN[0])
    assert one.shape == (4, 10)
    assert_same_bits(one, y[0])
    for dtype in (np.float64, np.complex64, np.complex128):
        assert_same_bits(prepared(dtype=dtype)(PLAIN.astype(dtype)), y.astype(dtype))
    for bad in (np.nan, np.inf):
        assert prepared(bad=bad)(PLAIN) is not None
        assert prepared(bad=bad, transposed=True)(PLAIN) is None


def test_prepared_layer_rejects_what_it_cannot_pack():
    with pytest.raises(
        TypeError, match="float64 and, of one dimension, complex numbers, got int32"
    ):
        PreparedLayer(np.ones((1, 1, 1), np.int32), None, window())
    for shape in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(ValueError, match="no dimension of the weight may be zero"):
            PreparedLayer(np.ones(shape, np.float32), None, window())


def test_threads_are_asked_for_large_work_only():
    asked = []

    def threads():
        asked.append(1)
        return 2

    layer = PreparedLayer(np.ones((16, 16, 3), np.float32), None, window())
    layer(np.ones((1, 16, 100), np.float32), threads)
    assert not asked
    y = layer(np.ones((1, 16, 20_000), np.float32), threads)
    assert len(asked) == 1
    assert (y == 48).all()

    def failing():
        raise KeyError("threads")

    with pytest.raises(KeyError):
        layer(np.ones((1, 16, 20_000), np.float32), failing)


def test_prepared_layer_keeps_its_instruction_set(isa):
    x, w = normals(np.random.default_rng(23), 1, 9, 300), np.ones((5, 9, 3), np.float32)
    layer = PreparedLayer(w, None, window())
    assert layer.isa == isa
    y = layer(x)
    for other in direct_engine.supported_isas():
        direct_engine.set_isa(other)
        assert direct_engine.isa() == other
        assert_same_bits(layer(x), y)


def test_instruction_sets():
    names = direct_engine.supported_isas()
    assert names[-1] == "base"
    with pytest.raises(ValueError, match=r"isa must be one of .*base on this CPU, got 'mmx'"):
        direct_engine.set_isa("mmx")
    for dtype in DTYPES:
        assert direct_engine.peak_gflops(dtype, 0.01) > 0.1


# ---- layers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [fastconv1d.Conv1d, fastconv1d.ConvTranspose1d])
def test_one_layer_in_many_host_threads(layer):
    rng = np.random.default_rng(24)
    made = layer(24, 20, 5, stride=2, padding=2, groups=2, algorithm="direct", rng=rng)
    lengths = rng.permutation([*range(5, 80), *range(1000, 1040), *range(9000, 9005)])
    inputs = [normals(rng, int(1 + n % 3), 24, int(n)) for n in lengths]
    with fastconv1d.num_threads(1):
        serial = [made(x) for x in inputs]
    made.weight = made.weight  # the threads pack it at the same time
    with ThreadPoolExecutor(8) as pool:
        for _ in range(4):
            for y, bits in zip(pool.map(made, inputs), serial, strict=True):
                assert_same_bits(y, bits)


def assert_layer_is_fresh(made, x):
    """Assert that a layer computes with the parameters that it shows."""
    function = getattr(fastconv1d, "conv" + "_transpose" * made.transposed + "1d")
    assert_same_bits(made(x), function(x, made.weight, made.bias))


@pytest.mark.parametrize("layer", [fastconv1d.Conv1d, fastconv1d.ConvTranspose1d])
def test_packed_weights_are_never_stale(layer):
    rng = np.random.default_rng(25)
    made, x = layer(3, 4, 5, rng=rng, algorithm="direct"), normals(rng, 2, 3, 40)

    def new():
        return normals(rng, *made.weight.shape)

    assert_layer_is_fresh(made, x)
    before = made(x)

    value = new()
    made.weight = value
    assert_layer_is_fresh(made, x)
    assert (made(x) != before).any()
    packed = made(x)
    value[...] = 0  # the caller's array was copied
    assert_same_bits(made(x), packed)
    made.bias = normals(rng, 4)
    assert_layer_is_fresh(made, x)

    made.load_state_dict({"weight": new(), "bias": normals(rng, 4)})
    assert_layer_is_fresh(made, x)
    made.load_state_dict({"bias": np.zeros(4)}, strict=False)
    assert_layer_is_fresh(made, x)
    made.reset_parameters(rng)
    assert_layer_is_fresh(made, x)

    for array in (made.weight, made.bias):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
        if array.base is not None:
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.view().flags.writeable = True

    weight, bias = made.train().weight, made.bias
    for _ in range(3):
        weight[...] = new()
        bias += 1
        assert_layer_is_fresh(made, x)
    made.eval()
    assert_layer_is_fresh(made, x)
    packed = made(x)
    weight[...], bias[...] = 0, 0  # aliases from train mode
    assert_same_bits(made(x), packed)
    assert_layer_is_fresh(made, x)
    made.train().eval()
    assert_same_bits(made(x), packed)
    assert_layer_is_fresh(made, x)

    kept = made.weight
    for other in (copy.deepcopy(made), copy.copy(made), pickle.loads(pickle.dumps(made))):
        assert_same_bits(other(x), packed)
        other.weight = new()
        assert_layer_is_fresh(other, x)
        assert (other(x) != packed).any()
        assert_same_bits(made(x), packed)
        made.train()
        made.weight[...] = 0
        made.eval()
        assert_layer_is_fresh(made, x)
        assert_layer_is_fresh(other, x)
        made.weight = kept
        assert_same_bits(made(x), packed)


def test_failed_assignments_change_nothing():
    made = fastconv1d.Conv1d(3, 4, 5, rng=np.random.default_rng(26))
    x = normals(np.random.default_rng(27), 1, 3, 40)
    y = made(x)
    with pytest.raises(ValueError, match="weight should have the shape"):
        made.weight = np.zeros((4, 3, 4), np.float32)
    with pytest.raises(ValueError, match="size mismatch"):
        made.load_state_dict({"weight": np.zeros((4, 3, 5)), "bias": np.zeros(5)})
    assert_same_bits(made(x), y)


def test_forced_engines_agree_on_integers():
    rng = np.random.default_rng(28)
    x, w = integers(rng, 2, 6, 301), integers(rng, 8, 3, 5)
    y = [
        fastconv1d.conv1d(x, w, None, 2, 3, 2, 2, algorithm=algorithm)
        for algorithm in ("auto", "blas", "direct")
    ]
    assert_same_bits(y[0], y[2])
    assert_exact(y[1], y[2])
    direct = np.empty_like(y[0])
    blas_engine.correlate(x, w, None, direct, window(2, 2, 3, ZEROS, 2), (1, True))
    assert_exact(direct, y[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("c_in", "c_out", "kernel"), [(24, 41, 1), (30, 19, 1), (9, 37, 3), (70, 43, 3)]
)
def test_large_outputs_are_written_row_by_row(isa, c_in, c_out, kernel, dtype):
    rng = np.random.default_rng(c_in)
    layer = fastconv1d.Conv1d(c_in, c_out, kernel, dtype=dtype, activation="relu").eval()
    layer.weight = rng.integers(-3, 4, layer.weight.shape).astype(dtype)
    layer.bias = rng.integers(-3, 4, layer.bias.shape).astype(dtype)
    x = rng.integers(-3, 4, (1, c_in, 7213)).astype(dtype)
    plan = explain(layer, x.shape)
    assert plan["by_rows"] == (plan["register_tile"][0] == 8 or c_in * kernel <= 32)
    assert not explain(layer, (1, c_in, 40))["by_rows"] or kernel > 1
    expected = reference.conv1d(x, layer.weight, layer.bias)
    residual = rng.integers(-3, 4, expected.shape).astype(dtype)
    for threads in (1, 2):
        with fastconv1d.num_threads(threads):
            np.testing.assert_array_equal(layer(x), np.maximum(expected, 0))
            np.testing.assert_array_equal(
                layer(x, residual=residual), np.maximum(expected + residual, 0)
            )
