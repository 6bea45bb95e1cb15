"""Any memory layout gives the bits of the contiguous copy and is left as it was."""

import math

import numpy as np
import pytest
from layers import (
    DTYPES,
    OPS,
    Layer,
    assert_exact,
    assert_same_bits,
    random_layers,
    random_planes,
    random_view,
)

from fastconv1d import fold1d, unfold1d


def fortran(a, tmp_path):
    return np.asfortranarray(a)


def reversed_steps(a, tmp_path):
    return np.ascontiguousarray(a[(slice(None, None, -1),) * a.ndim])[
        (slice(None, None, -1),) * a.ndim
    ]


def spread_out(a, tmp_path):
    holder = np.full([3 * size + 1 for size in a.shape], np.nan, a.dtype)
    view = holder[tuple(slice(1, None, 3) for _ in a.shape)]
    view[...] = a
    return view


def channels_last(a, tmp_path):
    return np.ascontiguousarray(np.moveaxis(a, -1, 0)).transpose([*range(1, a.ndim), 0])


def read_only(a, tmp_path):
    a = a.copy()
    a.flags.writeable = False
    return a


def byte_swapped(a, tmp_path):
    return a.astype(a.dtype.newbyteorder())


def unaligned(a, tmp_path):
    buffer = bytearray(a.nbytes + 1)
    view = np.frombuffer(buffer, a.dtype, a.size, offset=1).reshape(a.shape)
    view[...] = a
    return view


def odd_strides(a, tmp_path):
    """Items of a packed record: the stride is no multiple of the item size."""
    records = np.zeros(a.shape, [("pad", "u1"), ("value", a.dtype)])
    records["value"] = a
    return records["value"]


def mapped(a, tmp_path):
    path = tmp_path / f"{np.random.default_rng().integers(2**62)}.bin"
    a.tofile(path)
    return np.memmap(path, a.dtype, "r", shape=a.shape)


def subclass(a, tmp_path):
    class Tagged(np.ndarray):
        pass

    return a.view(Tagged)


LAYOUTS = (
    fortran,
    reversed_steps,
    spread_out,
    channels_last,
    read_only,
    byte_swapped,
    unaligned,
    odd_strides,
    mapped,
    subclass,
)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_array_in_every_layout(lib, layout, tmp_path):
    for layer in [*random_layers(24, seed=40), *random_planes(8, seed=40)]:
        arrays = layer.normal_arrays()
        x, w, b, g = arrays
        expected = [layer.forward(lib)(x, w, b), *layer.backward(lib)(g, x, w)]
        for position in range(4):
            if arrays[position] is None:
                continue
            given = list(arrays)
            given[position] = layout(arrays[position], tmp_path)
            before = given[position].tobytes()
            results = [
                layer.forward(lib)(*given[:3]),
                *layer.backward(lib)(given[3], given[0], given[1]),
            ]
            for result, bits in zip(results, expected, strict=True):
                assert type(result) is np.ndarray
                assert_same_bits(result, bits, f"{layer}, array {position}")
            assert given[position].tobytes() == before


def test_random_views(lib, share):
    rng = np.random.default_rng(41)
    planes = random_planes(int(1000 * share), seed=42)
    for layer in random_layers(int(5000 * share), seed=42) + planes:
        x, w, b, g = layer.normal_arrays()
        vx, vw, vg = (random_view(a, rng) for a in (x, w, g))
        vb = None if b is None else random_view(b, rng)
        assert_same_bits(layer.forward(lib)(vx, vw, vb), layer.forward(lib)(x, w, b), layer)
        for result, bits in zip(
            layer.backward(lib)(vg, vx, vw), layer.backward(lib)(g, x, w), strict=True
        ):
            assert_same_bits(result, bits, layer)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_broadcast_zero_strides(lib, axis):
    for layer in random_layers(60, seed=43):
        arrays = layer.normal_arrays()
        views = [np.broadcast_to(a.take([0], axis), a.shape) for a in (*arrays[:2], arrays[3])]
        x, w, g = (v.copy() for v in views)
        assert_same_bits(layer.forward(lib)(*views[:2]), layer.forward(lib)(x, w), layer)
        for result, bits in zip(
            layer.backward(lib)(views[2], *views[:2]), layer.backward(lib)(g, x, w), strict=True
        ):
            assert_same_bits(result, bits, layer)


def test_overlapping_windows_of_one_signal(lib):
    signal = np.random.default_rng(44).standard_normal(300).astype("float32")
    windows = np.lib.stride_tricks.sliding_window_view(signal, 40)[::7][None]
    w = np.random.default_rng(45).standard_normal((3, windows.shape[1], 5)).astype("float32")
    assert_same_bits(lib.conv1d(windows, w), lib.conv1d(windows.copy(), w))


def test_array_likes_are_converted(lib):
    y = lib.conv1d([[[1.0, 2.0, 4.0]]], [[[1.0, 10.0]]], [0.5])
    assert y.dtype == np.float64
    assert y.tolist() == [[[21.5, 42.5]]]

    class Like:
        def __array__(self, dtype=None, copy=None):
            return np.ones((1, 1, 3), "float32")

    y = lib.conv_transpose1d(Like(), Like())
    assert y.dtype == np.float32
    assert y.tolist() == [[[1, 2, 3, 2, 1]]]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_unfold_and_fold(layout, dtype, tmp_path):
    layer = Layer(dtype=dtype, n_batch=2, c_in=3, l_in=23)
    x = layer.normal_arrays()[0]
    cols = unfold1d(x, 4, 2, 3, 2)
    assert_same_bits(unfold1d(layout(x, tmp_path), 4, 2, 3, 2), cols)
    assert_same_bits(fold1d(layout(cols, tmp_path), 23, 4, 2, 3, 2), fold1d(cols, 23, 4, 2, 3, 2))


def test_out_may_have_any_strides(lib):
    for layer in random_layers(60, seed=46) + random_planes(20, seed=46):
        x, w, b, _ = layer.normal_arrays()
        y = layer.forward(lib)(x, w, b)
        for layout in (fortran, reversed_steps, spread_out, channels_last):
            out = layout(np.full_like(y, np.nan), None)
            assert layer.forward(lib)(x, w, b, out=out) is out
            assert_exact(out, y, layer)


def test_out_must_fit(lib):
    x, w = np.ones((2, 3, 9)), np.ones((4, 3, 3))
    for out in (
        np.empty((2, 4, 8)),
        np.empty((1, 4, 7)),
        np.empty((4, 7)),
        np.empty((2, 4, 7), "float32"),
        np.empty((2, 4, 7), "complex128"),
        read_only(np.empty((2, 4, 7)), None),
    ):
        before = out.tobytes()
        with pytest.raises(ValueError, match="out"):
            lib.conv1d(x, w, out=out)
        with pytest.raises(ValueError, match="out"):
            lib.conv_transpose1d(x, w[:3], out=out)
        assert out.tobytes() == before


def window_of(buffer, shape, rng):
    """Return a view of part of `buffer`: from anywhere, in either direction, in steps of 1 or 2."""
    step = int(rng.choice([1, 1, 1, 2, -1, -2]))
    reach = abs(step) * math.prod(shape)
    start = int(rng.integers(0, len(buffer) - reach + 1))
    return buffer[start : start + reach][::step].reshape(shape)


@pytest.mark.parametrize("op", OPS)
def test_out_overlapping_an_input(lib, share, op):
    rng = np.random.default_rng(47)
    shapes = {"conv1d": (4, 3, 3), "conv_transpose1d": (3, 4, 3)}, {"conv1d": 18}
    function = getattr(lib, op)
    refused = accepted = 0
    for _ in range(int(1000 * share)):
        buffer = rng.standard_normal(700)
        x, w = window_of(buffer, (2, 3, 20), rng), window_of(buffer, shapes[0][op], rng)
        b = window_of(buffer, (4,), rng)
        out = window_of(buffer, (2, 4, shapes[1].get(op, 22)), rng)
        expected, before = function(x.copy(), w.copy(), b.copy()), buffer.copy()
        if any(np.shares_memory(out, a) for a in (x, w, b)):
            with pytest.raises(ValueError, match="share no memory"):
                function(x, w, b, out=out)
            assert_same_bits(buffer, before)
            refused += 1
        else:
            assert function(x, w, b, out=out) is out
            assert_same_bits(np.ascontiguousarray(out), expected)
            untouched = np.ones(len(buffer), bool)
            untouched[(addresses(out) - buffer.ctypes.data) // buffer.itemsize] = False
            assert_same_bits(buffer[untouched], before[untouched])
            accepted += 1
    assert refused > 10
    assert accepted > 1


def addresses(array):
    """Return the address of each element."""
    found = np.full(1, array.__array_interface__["data"][0])
    for step, size in zip(array.strides, array.shape, strict=True):
        found = np.add.outer(found, step * np.arange(size)).ravel()
    return found


def test_out_is_an_input(lib):
    x, w = np.ones((1, 1, 4)), np.ones((1, 1, 1))
    for function in (lib.conv1d, lib.conv_transpose1d):
        for out in (x, x[:, :, ::-1], np.broadcast_to(x, x.shape)):
            with pytest.raises(ValueError, match=r"out"):
                function(x, w, out=out)
