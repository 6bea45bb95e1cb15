"""The three primitives of an engine beside their formulas: what the tests of engines share."""

import ctypes
import functools
import hashlib
import mmap
import subprocess
import sys
from pathlib import Path

import numpy as np
from threadpoolctl import ThreadpoolController

from fastconv1d import reference
from fastconv1d.core.geometry import Geometry
from fastconv1d.kernels import direct_engine

ZEROS, REFLECT, REPLICATE, CIRCULAR = range(4)

# Of NumPy's own BLAS, which the references use and the engines do not. With two threads their many
# small products of complex numbers took four times as much of a CPU.
for library in ThreadpoolController().lib_controllers:
    if "numpy" in library.filepath:
        library.set_num_threads(1)


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


class Remembered:
    """The references of one test, which its runs on the other instruction sets ask for again."""

    MOST_BYTES = 2**28

    def __init__(self):
        self.test, self.results, self.n_bytes = None, {}, 0

    def start(self, test):
        """Forget the results of another test than this."""
        if test != self.test:
            self.__init__()
            self.test = test

    def __call__(self, function):
        @functools.wraps(function)
        def remembering(*arguments):
            key = (function.__name__, *map(self.key, arguments))
            if key not in self.results:
                result = function(*arguments)
                result.flags.writeable = False
                if self.test is None or self.n_bytes + result.nbytes > self.MOST_BYTES:
                    return result
                self.results[key] = result
                self.n_bytes += result.nbytes
            return self.results[key]

        return remembering

    @staticmethod
    def key(argument):
        if not isinstance(argument, np.ndarray):
            return argument
        digest = hashlib.blake2b(np.ascontiguousarray(argument).data).digest()
        return argument.shape, argument.dtype.str, digest


remembered = Remembered()
reference_correlate = remembered(reference._correlate)
reference_scatter = remembered(reference._scatter)
reference_weight_gradient = remembered(reference._weight_gradient)


def slow_correlate(x, w, b, l_out, stride=1, dilation=1, left=0, mode=ZEROS, groups=1):
    name = reference.PADDING_MODES[mode]
    y = reference_correlate(wide(x), wide(w), l_out, stride, left, dilation, groups, name)
    return y if b is None else y + wide(b)[:, None]


def slow_scatter(x, w, b, l_out, stride=1, dilation=1, left=0, groups=1):
    y = reference_scatter(wide(x), wide(w), l_out, stride, left, dilation, groups, "zeros")
    return y if b is None else y + wide(b)[:, None]


def slow_weight_gradient(g, x, kernel_size, stride=1, dilation=1, left=0, mode=ZEROS, groups=1):
    shape, name = (g.shape[1], x.shape[1] // groups, kernel_size), reference.PADDING_MODES[mode]
    where = stride, left, dilation, groups, name
    return reference_weight_gradient(wide(g), wide(x), shape, *where)


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
