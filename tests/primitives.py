"""The three primitives of an engine beside their formulas: what the tests of engines share."""

import ctypes
import mmap
import subprocess
import sys
from pathlib import Path

import numpy as np

from fastconv1d import reference
from fastconv1d.core.geometry import Geometry
from fastconv1d.kernels import direct_engine

ZEROS, REFLECT, REPLICATE, CIRCULAR = range(4)


def integers(rng, *shape, dtype=np.float32):
    """Small integers: every dtype holds their sums exactly."""
    values = rng.integers(-4, 5, shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.integers(-4, 5, shape)
    return values.astype(dtype)


def normals(rng, *shape, dtype=np.float32):
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def length(x, kernel_size, stride, dilation, left, right):
    """Output columns of a correlate; below 1 if there are none."""
    return (x.shape[2] + left + right - dilation * (kernel_size - 1) - 1) // stride + 1


def wide(array):
    """At least float64: exact for small integers. Longer types stay as they are."""
    return array.astype(np.promote_types(array.dtype, np.float64))


def slow_correlate(x, w, b, l_out, stride=1, dilation=1, left=0, mode=ZEROS, groups=1):
    name = reference.PADDING_MODES[mode]
    y = reference._correlate(wide(x), wide(w), l_out, stride, left, dilation, groups, name)
    return y if b is None else y + wide(b)[:, None]


def slow_scatter(x, w, b, l_out, stride=1, dilation=1, left=0, groups=1):
    y = reference._scatter(wide(x), wide(w), l_out, stride, left, dilation, groups, "zeros")
    return y if b is None else y + wide(b)[:, None]


def slow_weight_gradient(g, x, kernel_size, stride=1, dilation=1, left=0, mode=ZEROS, groups=1):
    shape, name = (g.shape[1], x.shape[1] // groups, kernel_size), reference.PADDING_MODES[mode]
    return reference._weight_gradient(wide(g), wide(x), shape, stride, left, dilation, groups, name)


def longer(array):
    """In a dtype with more bits."""
    return array.astype(np.result_type(array.dtype, np.longdouble))


def nan_like(array):
    return np.full_like(array, np.nan)


def window(stride=1, dilation=1, left=0, mode=ZEROS, groups=1, right=0):
    """A geometry as primitives take it: they read the sizes off their arrays."""
    return Geometry(0, 0, stride, dilation, left, right, groups, mode)


def correlate(x, w, b, l_out, stride=1, dilation=1, left=0, mode=ZEROS, groups=1, threads=1):
    """The direct engine's result, after a call that leaves NaN in the same scratch."""
    y = np.full((len(x), len(w), l_out), np.nan, x.dtype)
    for values in (nan_like(x), x):
        place = window(stride, dilation, left, mode, groups)
        direct_engine.correlate(values, w, b, y, place, (threads, False))
    return y


def scatter(x, w, b, l_out, stride=1, dilation=1, left=0, groups=1, threads=1):
    y = np.full((len(x), groups * w.shape[1], l_out), np.nan, x.dtype)
    for values in (nan_like(x), x):
        place = window(stride, dilation, left, groups=groups)
        assert direct_engine.scatter(values, w, b, y, place, (threads, False))
    return y


def weight_gradient(
    g, x, kernel_size, stride=1, dilation=1, left=0, mode=ZEROS, groups=1, threads=1
):
    """The direct engine's dw and db."""
    dw = np.full((g.shape[1], x.shape[1] // groups, kernel_size), np.nan, x.dtype)
    db = np.full(g.shape[1], np.nan, x.dtype)
    for one, other in ((nan_like(g), nan_like(x)), (g, x)):
        place = window(stride, dilation, left, mode, groups)
        direct_engine.weight_gradient(one, other, dw, place, (threads, False), db=db)
    return dw, db


def guarded(array, at_end):
    """Return a copy next to memory that may not be touched: behind its end, or before its start.

    The other side has what a page has left over.
    """
    page = mmap.PAGESIZE
    inner = -(-max(array.nbytes, 1) // page) * page
    memory = mmap.mmap(-1, inner + page)
    forbidden = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + (inner if at_end else 0)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(forbidden), ctypes.c_size_t(page), 0) == 0
    offset = inner - array.nbytes if at_end else page
    copy = np.ndarray(array.shape, array.dtype, memory, offset)
    copy[...] = array
    return copy


def in_subprocess(module, function):
    """Call a function of a test module in another process and return what it printed."""
    code = f"import sys; sys.path.insert(0, sys.argv[1]); import {module}; {module}.{function}()"
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout
