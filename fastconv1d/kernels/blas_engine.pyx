"""The three primitives of every 1-D convolution, as unfolded tiles times a matrix, on SciPy's BLAS.

Work is cut into tiles whose sizes depend on the shapes alone, never on the number of threads.
Each tile is one job: it unfolds the input columns it needs into its worker's scratch, block by
block, and adds one GEMM a block to its own piece of the result, so no two jobs write the same
element and every element is one sum in one order. BLAS itself is held at one thread.

A sum of more than 32 blocks is a tree (simd/totals.h): 32 blocks make a group, 32 groups the next
level, and so on, so that the error does not grow with the length of a sum.

Scratch is at most 2 MiB a worker, whatever the lengths; 3 MiB for more than 400,000 terms.
"""

import itertools
import os

import numpy as np

from .totals import add_to

from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawMalloc
from cpython.pythread cimport (
    PyThread_acquire_lock,
    PyThread_get_thread_ident,
    PyThread_release_lock,
    PyThread_type_lock,
    WAIT_LOCK,
)
from libc.stdint cimport uintptr_t
from libc.string cimport memset

from fastconv1d.kernels.gemm cimport gemm_add
from fastconv1d.kernels.numeric cimport num_t
from fastconv1d.kernels.pages cimport touch_rows
from fastconv1d.kernels.workers cimport MAX_WORKERS, run_units, unit_fn
from fastconv1d.kernels.unfold cimport ZEROS, Strided, Window, strided, unfold_tile

cdef extern from "simd/fc1d.h":
    enum: FC1D_FAN

cdef extern from "atomics.h":
    long long fc1d_load(long long *at) nogil
    long long fc1d_add(long long *at, long long n) nogil
    long long fc1d_swap(long long *at, long long value) nogil

cdef extern from "pythread.h":  # Cython declares that it needs the GIL
    PyThread_type_lock PyThread_allocate_lock() nogil

cdef extern from *:
    """
    #ifdef _WIN32
    #include <windows.h>
    #else
    #include <sys/mman.h>
    #endif
    #ifdef _WIN32
    #define fastconv1d_yield() Sleep(0)
    #define fastconv1d_at_fork(before, in_parent, in_child) 0
    #else
    #include <pthread.h>
    #include <sched.h>
    #define fastconv1d_yield() sched_yield()
    #define fastconv1d_at_fork pthread_atfork
    #endif
    /* Not malloc: it may serve the request from address space it has reserved for itself. */
    static int fastconv1d_can_map(size_t n_bytes) {
    #ifdef _WIN32
        void *probe = VirtualAlloc(NULL, n_bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
        return probe != NULL && VirtualFree(probe, 0, MEM_RELEASE);
    #else
        void *probe = mmap(
            NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return probe != MAP_FAILED && munmap(probe, n_bytes) == 0;
    #endif
    }
    """
    int fastconv1d_can_map(size_t n_bytes) nogil
    int fastconv1d_yield() nogil
    int fastconv1d_at_fork(void (*)() noexcept nogil, void (*)() noexcept nogil,
                           void (*)() noexcept nogil)

cdef enum:
    ALIGNMENT = 64
    # Bytes of one row of a tile, rows of one unfolded block, output channels of one tile.
    ROW_BYTES = 2048
    FIXED_ROW_BYTES = 1024
    MIN_ROW_BYTES = 1024
    MAX_ROWS = 384
    MAX_CHANNELS = 256
    # Columns of one GEMM of a weight gradient: with 512, magnitudes over 30 decades were 8.8*u*sum|g||x| off, with 256
    # 5.6 and as fast; 128 costs up to 1.9x with complex64.
    GRADIENT_COLUMNS = 256
    # A weight gradient with fewer jobs than this splits its reduction as well.
    MIN_GRADIENT_JOBS = 8
    PARTIAL_BYTES = 2 << 20
    # Elements of a block that is summed at once: 2 MiB of float64.
    SUM_BLOCK = 1 << 18
    # Address space of one more worker: 32 MiB of OpenBLAS, a stack of 8 MiB, and some to spare.
    WORKER_BYTES = 48 << 20

# Multiply-adds below which a call keeps to one thread. On two AVX2 cores, float32, two threads took
# 67 us for one's 111 at 1.5e6 and 125 for 217 at 3e6; but a worker that has to be woken takes 40-80
# more, which only pays from about here on.
cdef double MIN_PARALLEL_WORK = 3e6
# Multiply-adds a worker does between two looks for a pending signal: 0.01 s at 50 GFLOP/s.
cdef double SIGNAL_WORK = 2.5e8
# And those of one job, at the most: of complex numbers some 0.1 s.
cdef double MOST_WORK = 1e9
cdef double _most_work = MOST_WORK


# -------------------------------------------------------------------------------------------------
# BLAS at one thread, for speed and because the bits of a GEMM depend on its threads. A library with
# one thread count for the whole process is set to one by the first of several concurrent calls and
# put back by the last; one with a count for each host thread (MKL, OpenBLAS on OpenMP) by each call
# for itself. No product is too small to hold: OpenBLAS 0.3.30 threads complex ones from 2^16
# multiply-adds on (real ones from 2^19), and holding costs 1 us.

cdef PyThread_type_lock _blas_lock = PyThread_allocate_lock()
cdef list _process_blas = None  # (get, set) of the thread count
cdef list _thread_blas = None
cdef list _process_restore = []  # (set, previous)
cdef Py_ssize_t _blas_calls = 0
cdef Py_ssize_t _blas_workers = 0
cdef bint _blas_mapped = False
cdef long _blas_owner = 0  # the thread that holds _blas_lock
cdef PyThread_type_lock _fork_gate = PyThread_allocate_lock()  # held while a process forks
cdef long long _forking = 0
cdef long long _jobs = 0  # that run


# The lock is its owner's again in a signal handler that calls while the owner is in Python code.
# Returns whether it was taken, for _unlock_blas.
cdef bint _lock_blas():
    global _blas_owner
    cdef long me = PyThread_get_thread_ident()
    if _blas_owner == me:
        return False
    with nogil:  # the wait for it is then neither interrupted nor in anyone's way
        PyThread_acquire_lock(_blas_lock, WAIT_LOCK)
    _blas_owner = me
    return True


cdef _unlock_blas(bint taken):
    global _blas_owner
    if taken:
        _blas_owner = 0
        PyThread_release_lock(_blas_lock)


# A fork must not find another thread inside OpenBLAS's locks: one around its thread count, which we
# set, and one around the work buffer of each GEMM. The child would wait for them for ever (seen
# twice in some 1,400 forks beside three busy threads). So a fork waits until no job runs, which is
# less than 0.1 s, and jobs that would begin wait for the fork. No job needs the GIL, which whoever
# forks has; and pthread_atfork, not os.register_at_fork: between its handlers no Python code runs,
# which could be a signal's handler that calls or forks itself.
cdef void _begin_job() noexcept nogil:
    fc1d_add(&_jobs, 1)
    while fc1d_load(&_forking):
        fc1d_add(&_jobs, -1)
        PyThread_acquire_lock(_fork_gate, WAIT_LOCK)
        PyThread_release_lock(_fork_gate)
        fc1d_add(&_jobs, 1)


cdef void _end_job() noexcept nogil:
    fc1d_add(&_jobs, -1)


cdef void _before_fork() noexcept nogil:
    PyThread_acquire_lock(_fork_gate, WAIT_LOCK)
    fc1d_swap(&_forking, 1)
    while fc1d_load(&_jobs):
        fastconv1d_yield()


cdef void _after_fork_in_parent() noexcept nogil:
    fc1d_swap(&_forking, 0)
    PyThread_release_lock(_fork_gate)


cdef void _after_fork_in_child() noexcept nogil:
    global _fork_gate
    _fork_gate = PyThread_allocate_lock()
    fc1d_swap(&_jobs, 0)  # a thread on its way to the gate may just have counted itself
    fc1d_swap(&_forking, 0)


def _reset_in_child():
    global _blas_lock, _blas_owner, _blas_calls, _blas_workers
    _blas_lock = PyThread_allocate_lock()
    if _blas_owner == PyThread_get_thread_ident():  # a handler forked while this thread had it
        PyThread_acquire_lock(_blas_lock, WAIT_LOCK)
    else:
        _blas_owner = 0
    _blas_calls = _blas_workers = 0
    _restore(_process_restore)


fastconv1d_at_fork(_before_fork, _after_fork_in_parent, _after_fork_in_child)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)


# OpenBLAS's function that sets the thread count, called without the GIL.
cdef class _OpenBLASSetter:
    cdef void (*function)(int) noexcept nogil

    def __init__(self, function):
        from ctypes import c_void_p, cast
        self.function = <void (*)(int) noexcept nogil> <uintptr_t> cast(function, c_void_p).value

    def __call__(self, int n_threads):
        with nogil:
            _begin_job()
            self.function(n_threads)
            _end_job()


cdef _find_blas():
    global _process_blas, _thread_blas
    from threadpoolctl import ThreadpoolController

    process, thread = [], []
    for library in ThreadpoolController().select(user_api="blas").lib_controllers:
        layer = getattr(library, "threading_layer", None)
        if library.internal_api == "mkl" or layer == "openmp":
            thread.append((library.get_num_threads, library.set_num_threads))
        else:
            process.append((library.get_num_threads, _process_setter(library)))
    _process_blas, _thread_blas = process, thread


def _process_setter(library):
    # threadpoolctl 3.8 lets only the host thread that first set OpenBLAS's count set it again, and
    # ignores all others: so OpenBLAS's own function, with the affixes that builds give it.
    for prefix, suffix in itertools.product(("", "scipy_"), ("", "64_", "_64")):
        name = f"{prefix}openblas_set_num_threads{suffix}"
        if library.internal_api == "openblas" and hasattr(library.dynlib, name):
            return _OpenBLASSetter(getattr(library.dynlib, name))
    return library.set_num_threads


# Both of these may run a signal's handler, which may call or raise: what is not put back stays in the list.
cdef _set_to_one(list libraries, list restore):
    for get_threads, set_threads in libraries:
        previous = get_threads()
        if previous is not None and previous > 1:
            restore.append((set_threads, previous))
            set_threads(1)


cdef _restore(list restore):
    while restore:
        set_threads, previous = restore[len(restore) - 1]  # wraparound is off
        set_threads(previous)
        restore.pop()


# Whether so many more workers can start: OpenBLAS maps a work buffer for each GEMM that runs at the
# same time and keeps it, and hangs where it cannot.
cdef bint _can_map(Py_ssize_t n_workers) noexcept nogil:
    return fastconv1d_can_map(<size_t> n_workers * WORKER_BYTES) != 0


# The first work buffer of BLAS is mapped here, once, by a GEMM too large for any kernel without.
cdef _map_first_buffer():
    global _blas_mapped
    cdef double *zeros
    if not _can_map(1):
        raise MemoryError("no memory for the work buffer of BLAS")
    zeros = <double *> PyMem_RawCalloc(3 * 128 * 128, sizeof(double))
    if zeros == NULL:
        raise MemoryError("no memory to set up BLAS")
    with nogil:
        _begin_job()
        gemm_add(False, 128, 128, 128, zeros, 128, zeros + 16384, 128, zeros + 32768, 128)
        _end_job()
    PyMem_RawFree(zeros)
    _blas_mapped = True


# Holds BLAS at one thread until _leave_blas, which is due unless this raises. Returns how many
# workers may call BLAS: n_workers, or 1 where memory for the buffers of more is short. What else
# the call needs is to be allocated before. The list `restore` is for _leave_blas.
cdef Py_ssize_t _enter_blas(Py_ssize_t n_workers, list restore) except -1:
    global _process_restore, _blas_calls, _blas_workers
    if _process_blas is None:
        _find_blas()
    cdef bint taken = _lock_blas()
    cdef list process = []
    try:
        try:
            if _blas_calls == 0:
                _restore(_process_restore)  # what is left if a handler raised meanwhile
                _set_to_one(_process_blas, process)
            _set_to_one(_thread_blas, restore)
        except BaseException:
            _restore(process)
            _restore(restore)
            raise
        if _blas_calls == 0:
            _process_restore = process
        _blas_calls += 1
        try:
            if not _blas_mapped:
                _map_first_buffer()
            if _blas_workers + n_workers > 1 and not _can_map(_blas_workers + n_workers - 1):
                n_workers = 1
                if _blas_workers > 0 and not _can_map(_blas_workers):
                    raise MemoryError("no memory for the work buffer of BLAS")
            _blas_workers += n_workers
        except BaseException:
            _end_call(restore)
            raise
    finally:
        _unlock_blas(taken)
    return n_workers


cdef _leave_blas(Py_ssize_t n_workers, list restore):
    global _blas_workers
    cdef bint taken = _lock_blas()
    try:
        _blas_workers = max(0, _blas_workers - n_workers)  # a fork in between has set both to 0
        _end_call(restore)
    finally:
        _unlock_blas(taken)


cdef _end_call(list restore):
    global _blas_calls
    _blas_calls = max(0, _blas_calls - 1)
    if _blas_calls == 0:
        _restore(_process_restore)
    _restore(restore)


# -------------------------------------------------------------------------------------------------
# Tiles

cdef inline Py_ssize_t _ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return a // b + (a % b != 0)


# The size of equal parts of at most `limit` that cover `total`, rounded up to a multiple.
cdef Py_ssize_t _part(Py_ssize_t total, Py_ssize_t limit, Py_ssize_t multiple) noexcept nogil:
    cdef Py_ssize_t part = _ceil_div(total, max(1, _ceil_div(total, limit)))
    return max(1, min(limit, _ceil_div(part, multiple) * multiple))


# Rows first_row... of the unfolded input, columns first_column..., then zeros from `width` to
# `padded_width`.
cdef void _unfold_padded(
    const Strided *x, Py_ssize_t item, Py_ssize_t first_channel,
    Py_ssize_t first_row, Py_ssize_t n_rows,
    Py_ssize_t first_column, Py_ssize_t width, Py_ssize_t padded_width,
    const Window *window, num_t *out, Py_ssize_t out_row,
) noexcept nogil:
    cdef Py_ssize_t r
    unfold_tile(x, item, first_channel, first_row, n_rows, first_column, width, window,
                out, out_row)
    if padded_width > width:
        for r in range(n_rows):
            memset(out + r * out_row + width, 0, (padded_width - width) * sizeof(num_t))


# The same as a matrix with *row_length elements a row: the input itself where it already is that
# matrix, a copy in scratch elsewhere.
cdef const num_t *_columns(
    const Strided *x, Py_ssize_t item, Py_ssize_t first_channel,
    Py_ssize_t first_row, Py_ssize_t n_rows,
    Py_ssize_t first_column, Py_ssize_t width, Py_ssize_t padded_width,
    const Window *window, num_t *scratch, Py_ssize_t scratch_row, Py_ssize_t *row_length,
) noexcept nogil:
    cdef Py_ssize_t size = sizeof(num_t)
    cdef Py_ssize_t start = first_column - window.pad_left
    cdef bint rows_usable = n_rows == 1 or (
        x.strides[1] >= width * size and x.strides[1] % size == 0)
    if (window.kernel_size == 1 and window.stride == 1 and width == padded_width and rows_usable
            and x.strides[2] == size and start >= 0 and start <= x.shape[2] - width):
        row_length[0] = x.strides[1] // size if n_rows > 1 else width
        return <const num_t *> (x.data + item * x.strides[0]
                                + (first_channel + first_row) * x.strides[1] + start * size)
    _unfold_padded(x, item, first_channel, first_row, n_rows, first_column, width, padded_width,
                   window, scratch, scratch_row)
    row_length[0] = scratch_row
    return scratch


# Scratch of `n_workers` times `size` elements, aligned; *raw is what to free.
cdef num_t *_allocate(
    Py_ssize_t n_workers, Py_ssize_t size, void **raw, num_t *typed
) except? NULL:
    cdef size_t n_bytes = <size_t> size * sizeof(num_t) * <size_t> n_workers + ALIGNMENT
    raw[0] = PyMem_RawMalloc(n_bytes)
    if raw[0] == NULL:
        raise MemoryError(f"no memory for {n_bytes} bytes of scratch")
    return <num_t *> ((<uintptr_t> raw[0] + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT)


cdef Py_ssize_t _count_workers(
    Py_ssize_t n_jobs, double work_per_job, n_threads
) except -1:
    if n_jobs * work_per_job < MIN_PARALLEL_WORK:
        return 1
    return max(1, min(n_jobs, n_threads, MAX_WORKERS + 1))


# How many jobs run between two looks for a pending signal.
cdef Py_ssize_t _round(Py_ssize_t n_workers, Py_ssize_t n_jobs, double work_per_job) noexcept:
    cdef double jobs = SIGNAL_WORK * n_workers / max(work_per_job, 1.0)
    return max(n_workers, n_jobs if jobs >= n_jobs else <Py_ssize_t> jobs)


# -------------------------------------------------------------------------------------------------
# Correlation

cdef struct Correlation:
    Py_ssize_t n_batch
    Py_ssize_t groups
    Py_ssize_t c_in  # of one group
    Py_ssize_t c_out  # of one group
    Py_ssize_t rows  # c_in * kernel_size
    Py_ssize_t l_out
    Py_ssize_t w_start  # where its weights, (groups, c_out, rows), begin
    Window window
    # Column l is written to, or with `accumulate` added to, y[..., y_start + l * y_step].
    Py_ssize_t y_start
    Py_ssize_t y_step
    Py_ssize_t y_length
    bint accumulate
    # Fixed-width tiles: the last is padded with zeros, so no bit of an output depends on l_out.
    bint fixed
    Py_ssize_t tile
    Py_ssize_t items  # short sequences: so many batch items lie side by side in one tile
    Py_ssize_t tile_row
    Py_ssize_t block_rows
    Py_ssize_t block_channels
    Py_ssize_t levels  # of totals in scratch, which take groups of FC1D_FAN blocks of rows
    Py_ssize_t n_tiles
    Py_ssize_t n_channel_blocks


# Tiles for correlation c, which stands for all phases: it has the largest rows and l_out of them.
cdef void _plan_tiles(Correlation *c, Py_ssize_t n_phases, Py_ssize_t itemsize) noexcept:
    cdef Py_ssize_t most
    # The strided outputs of one tile should stay in cache from phase to phase.
    cdef Py_ssize_t widest = max(MIN_ROW_BYTES, ROW_BYTES // min(c.y_step, ROW_BYTES)) // itemsize
    if c.fixed:
        c.tile = min(widest, FIXED_ROW_BYTES // itemsize)
    else:
        c.tile = _part(c.l_out, widest, 16)
    c.items = 1
    if not c.fixed and 4 * c.l_out <= widest:
        c.tile = max(1, c.l_out)
        c.items = _part(c.n_batch, widest // c.tile, 1)
    # Rows a power of two apart would share cache sets.
    c.tile_row = c.tile * c.items + ALIGNMENT // itemsize
    c.block_rows = _part(c.rows, MAX_ROWS, 1)
    c.levels = 0
    most = _ceil_div(_ceil_div(c.rows, c.block_rows), FC1D_FAN) - 1  # groups that are carried on
    while most > 0:
        c.levels += 1
        most = (most - 1) // FC1D_FAN
    # Fewer channels for more than 15,000 rows, or a job would keep signals and forks waiting.
    most = <Py_ssize_t> (_most_work / (<double> c.tile * c.items * max(1, c.rows) * n_phases))
    c.block_channels = _part(c.c_out, max(8, min(MAX_CHANNELS, most)), 8)
    c.n_tiles = _ceil_div(c.l_out, c.tile)
    c.n_channel_blocks = _ceil_div(c.c_out, c.block_channels)


# out[i, :width] = bias[i], or 0 without one.
cdef void _fill(
    num_t *out, Py_ssize_t out_row, Py_ssize_t n_rows, Py_ssize_t width, const num_t *bias
) noexcept nogil:
    cdef Py_ssize_t i, j
    for i in range(n_rows):
        if bias == NULL:
            memset(out + i * out_row, 0, width * sizeof(num_t))
        else:
            for j in range(width):
                out[i * out_row + j] = bias[i]


# out[i, j * step] = tile[i, j], or += with `accumulate`.
cdef void _store(
    const num_t *tile, Py_ssize_t tile_row, Py_ssize_t n_rows, Py_ssize_t width,
    num_t *out, Py_ssize_t out_row, Py_ssize_t step, bint accumulate,
) noexcept nogil:
    cdef Py_ssize_t i, j
    for i in range(n_rows):
        if accumulate:
            for j in range(width):
                out[i * out_row + j * step] += tile[i * tile_row + j]
        else:
            for j in range(width):
                out[i * out_row + j * step] = tile[i * tile_row + j]


# Group i of sums, (n_rows, width), goes to the totals behind them, each `level` elements further: carry in
# simd/totals.h for any number.
cdef void _carry(
    num_t *totals, Py_ssize_t level, const num_t *sums, Py_ssize_t sums_row, Py_ssize_t n_rows,
    Py_ssize_t width, Py_ssize_t row, Py_ssize_t i,
) noexcept nogil:
    if i > 0 and i % FC1D_FAN == 0:
        _carry(totals + level, level, totals, row, n_rows, width, row, i // FC1D_FAN - 1)
    if i % FC1D_FAN == 0:
        _fill(totals, row, n_rows, width, <const num_t *> NULL)
    _store(sums, sums_row, n_rows, width, totals, row, 1, True)


# Part `index` of a correlation is (item block, group, channel block, tile), the last fastest:
#     y[item, co, y_start + l*y_step] = bias[co] + sum_r w[co, r] * cols[r, l]
# over the rows r = ci * kernel_size + k, for the tile's columns l. Blocks of rows are unfolded and
# added one after another, groups of them as a tree. The sum is built in y itself where its columns
# are adjacent and none is padding, in scratch elsewhere.
cdef void _correlate_tile(
    const Correlation *c, const Strided *x, const num_t *w, const num_t *bias, num_t *y,
    Py_ssize_t index, num_t *scratch,
) noexcept nogil:
    cdef Py_ssize_t first_column = index % c.n_tiles * c.tile
    cdef Py_ssize_t block = index // c.n_tiles % c.n_channel_blocks
    cdef Py_ssize_t outer = index // c.n_tiles // c.n_channel_blocks
    cdef Py_ssize_t group = outer % c.groups, item = outer // c.groups * c.items
    cdef Py_ssize_t n_items = min(c.items, c.n_batch - item), i
    cdef Py_ssize_t channel = group * c.c_out + block * c.block_channels
    cdef Py_ssize_t n_channels = min(c.block_channels, c.c_out - block * c.block_channels)
    cdef Py_ssize_t width = min(c.tile, c.l_out - first_column)
    cdef Py_ssize_t padded_width = n_items * c.tile if c.fixed or n_items > 1 else width
    cdef bint in_place = c.y_step == 1 and padded_width == width
    cdef Py_ssize_t y_item = c.groups * c.c_out * c.y_length
    cdef num_t *out = (y + item * y_item + channel * c.y_length
                       + c.y_start + first_column * c.y_step)
    cdef num_t *target = out if in_place else scratch + c.block_rows * c.tile_row
    cdef Py_ssize_t target_row = c.y_length if in_place else c.tile_row
    cdef Py_ssize_t row = 0, n_rows, cols_row = c.tile_row, groups = 0
    cdef Py_ssize_t group_rows = FC1D_FAN * c.block_rows, level = c.block_channels * c.tile_row
    cdef num_t *totals = scratch + c.block_rows * c.tile_row + level
    cdef const num_t *cols = scratch
    if width <= 0:
        return
    w += c.w_start + channel * c.rows
    if bias != NULL:
        bias += channel
    if not c.accumulate:
        _fill(target, target_row, n_channels, padded_width, bias)
    elif not in_place:
        _fill(target, target_row, n_channels, padded_width, <const num_t *> NULL)
    while row < c.rows:
        n_rows = min(c.block_rows, c.rows - row)
        if row > 0 and row % group_rows == 0:
            _carry(totals, level, target, target_row, n_channels, padded_width, c.tile_row, groups)
            _fill(target, target_row, n_channels, padded_width, <const num_t *> NULL)
            groups += 1
        if n_items == 1:
            cols = _columns(x, item, group * c.c_in, row, n_rows, first_column, width,
                            padded_width, &c.window, scratch, c.tile_row, &cols_row)
        else:
            for i in range(n_items):
                _unfold_padded(x, item + i, group * c.c_in, row, n_rows, 0, width, c.tile,
                               &c.window, scratch + i * c.tile, c.tile_row)
        gemm_add(False, n_channels, padded_width, n_rows, w + row, c.rows,
                 cols, cols_row, target, target_row)
        row += n_rows
    while groups > 0:
        _store(totals, c.tile_row, n_channels, padded_width, target, target_row, 1, True)
        groups = (groups - 1) // FC1D_FAN
        totals += level
    if not in_place:
        for i in range(n_items):
            _store(target + i * c.tile, c.tile_row, n_channels, width, out + i * y_item, c.y_length,
                   c.y_step, c.accumulate)


cdef struct CorrelationJob:
    const Correlation *phases
    Py_ssize_t n_phases
    Strided x
    const void *w
    const void *bias
    void *y


cdef void _correlate_tiles(
    const CorrelationJob *job, Py_ssize_t index, num_t *scratch
) noexcept nogil:
    cdef Py_ssize_t phase
    _begin_job()
    for phase in range(job.n_phases):
        _correlate_tile(&job.phases[phase], &job.x, <const num_t *> job.w,
                        <const num_t *> job.bias, <num_t *> job.y, index, scratch)
    _end_job()


# The tiles of the largest phase, for all.
cdef void _plan_phases(Correlation *phases, Py_ssize_t n_phases, Py_ssize_t itemsize) noexcept:
    cdef Correlation largest = phases[0]
    cdef Py_ssize_t i
    for i in range(1, n_phases):
        largest.rows = max(largest.rows, phases[i].rows)
        largest.l_out = max(largest.l_out, phases[i].l_out)
    _plan_tiles(&largest, n_phases, itemsize)
    for i in range(n_phases):
        phases[i].tile, phases[i].tile_row = largest.tile, largest.tile_row
        phases[i].items = largest.items
        phases[i].block_rows = largest.block_rows
        phases[i].block_channels, phases[i].levels = largest.block_channels, largest.levels
        phases[i].n_tiles, phases[i].n_channel_blocks = largest.n_tiles, largest.n_channel_blocks


# Runs all phases, which differ in w_start, y_start, window, rows and l_out, and write to different
# outputs. Job i is part i of every phase, so that outputs which lie side by side are written
# together.
cdef _run_correlation(
    Correlation *phases, Py_ssize_t n_phases, Strided x, const num_t *w,
    const num_t *bias, num_t *y, n_threads,
):
    cdef Correlation *c = phases
    _plan_phases(phases, n_phases, sizeof(num_t))
    cdef Py_ssize_t n_jobs = (
        _ceil_div(c.n_batch, c.items) * c.groups * c.n_channel_blocks * c.n_tiles)
    cdef double work = <double> c.block_channels * c.rows * c.tile * c.items * n_phases
    cdef Py_ssize_t n_workers = _count_workers(n_jobs, work, n_threads)
    cdef Py_ssize_t jobs_a_round = _round(n_workers, n_jobs, work)
    cdef Py_ssize_t size = (c.block_rows + (1 + c.levels) * c.block_channels) * c.tile_row
    cdef Py_ssize_t start = 0, stop
    cdef list restore = []
    cdef void *raw = NULL
    cdef num_t *scratch
    cdef CorrelationJob job
    job.phases, job.n_phases, job.x, job.w, job.bias, job.y = phases, n_phases, x, w, bias, y
    if n_jobs == 0:
        return
    scratch = _allocate(n_workers, size, &raw, <num_t *> NULL)
    try:
        n_workers = _enter_blas(n_workers, restore)
        try:
            while start < n_jobs:
                stop = start + min(jobs_a_round, n_jobs - start)
                with nogil:
                    run_units(<unit_fn> _correlate_tiles[num_t], &job, start, stop, scratch,
                              size * sizeof(num_t), n_workers)
                PyErr_CheckSignals()
                start = stop
        finally:
            _leave_blas(n_workers, restore)
    finally:
        PyMem_RawFree(raw)


cdef _correlate(
    const num_t[:, :, :] x, const num_t[:, :, ::1] w, const num_t[::1] bias, num_t[:, :, ::1] y,
    Window window, Py_ssize_t groups, n_threads, bint deterministic,
):
    cdef Correlation c
    cdef const num_t *bias_data = NULL
    if bias is not None:
        bias_data = &bias[0]
    c.n_batch, c.groups, c.window = x.shape[0], groups, window
    c.c_in, c.c_out = w.shape[1], w.shape[0] // groups
    c.rows = c.c_in * window.kernel_size
    c.l_out = c.y_length = y.shape[2]
    c.y_start, c.y_step, c.accumulate, c.fixed = 0, 1, False, deterministic
    c.w_start = 0
    _touch[num_t](y, n_threads)
    _run_correlation(&c, 1, strided(x), &w[0, 0, 0] if c.rows else NULL, bias_data, &y[0, 0, 0], n_threads)


# -------------------------------------------------------------------------------------------------
# Scatter. Output o is reached by the taps with k*dilation = o + pad_left (mod stride) only. For
# each residue, those taps are every (stride / gcd)-th one, and in the order of falling k they read
# adjacent inputs: a correlation of stride 1 whose outputs lie `stride` apart. So nothing is added
# twice, no zeros are inserted, and two tiles never meet.

cdef Py_ssize_t _gcd(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    while b:
        a, b = b, a % b
    return a


# The order of packed weights: taps k, k + tap_step, ... of phase k, falling, as (C_out, c_in,
# taps); phase k begins at element w_start of its Correlation. False where a weight is not finite.
# Input channels go by in blocks, so that neither the lines read nor the lines written are left
# before they are used up.
cdef bint _pack_phases(
    const num_t[:, :, :] w, const Correlation *phases, Py_ssize_t n_phases, Py_ssize_t tap_step,
    num_t *out,
) noexcept nogil:
    cdef Py_ssize_t c_in = phases.c_in, c_out = phases.c_out
    cdef Py_ssize_t group, first, channel, k, ci, t, n_taps
    cdef bint not_finite = False
    cdef num_t value
    cdef num_t *row
    for group in range(phases.groups):
        for first in range(0, c_in, 16):
            for channel in range(c_out):
                for k in range(n_phases):
                    n_taps = phases[k].window.kernel_size
                    row = out + phases[k].w_start
                    row += ((group * c_out + channel) * c_in + first) * n_taps
                    for ci in range(first, min(first + 16, c_in)):
                        for t in range(n_taps):
                            value = w[group * c_in + ci, channel, k + (n_taps - 1 - t) * tap_step]
                            not_finite |= value - value != 0
                            row[t] = value
                        row += n_taps
    return not not_finite


# Sets the part of *c that belongs to taps first_tap, first_tap + tap_step, ... (n_taps of them).
# With `clip`, for one tap only, nothing but inputs that exist is read: an infinite weight times a
# padded zero is NaN. Column j is output y_start + j * y_step, and its first packed tap, the last
# one, reads input j + offset.
cdef void _plan_phase(
    Correlation *c, const Window *window, Py_ssize_t first_tap, Py_ssize_t tap_step,
    Py_ssize_t n_taps, Py_ssize_t l_in, bint clip,
) noexcept:
    cdef Py_ssize_t stride = c.y_step, last_tap = first_tap + (n_taps - 1) * tap_step
    cdef Py_ssize_t reach = last_tap * window.dilation
    cdef Py_ssize_t shift = window.pad_left - reach, phase = window.pad_left % stride
    cdef Py_ssize_t offset = shift // stride + (shift % stride > 0), first = 0
    c.y_start = reach % stride - (phase + stride if phase < 0 else phase)
    c.y_start += stride if c.y_start < 0 else 0
    c.l_out = _ceil_div(max(0, c.y_length - c.y_start), stride)
    if clip:
        first = max(0, -offset)
        c.l_out = max(0, min(c.l_out, l_in - offset) - first)
    c.y_start += first * stride if c.l_out else 0
    c.rows = c.c_in * n_taps
    c.window.dilation = window.dilation * tap_step // stride if n_taps > 1 else 1
    c.window.kernel_size, c.window.stride, c.window.pad_left = n_taps, 1, -(offset + first)
    c.window.mode = ZEROS


# One tap after another, each over no inputs but those that exist: slow, for weights that are not
# finite.
cdef _scatter_taps(
    Correlation c, const num_t[:, :, :] x, const num_t[:, :, :] w, num_t *packed, num_t *y,
    const Window *window, n_threads,
):
    cdef Py_ssize_t k
    c.accumulate, c.w_start = True, 0
    for k in range(window.kernel_size):
        _plan_phase(&c, window, k, 1, 1, x.shape[2], True)
        _pack_phases(w[:, :, k:k + 1], &c, 1, 1, packed)
        _run_correlation(&c, 1, strided(x), <const num_t *> packed, <const num_t *> NULL, y, n_threads)


cdef _scatter(
    const num_t[:, :, :] x, const num_t[:, :, :] w, const num_t[::1] bias, num_t[:, :, ::1] y,
    Window window, Py_ssize_t groups, n_threads, bint deterministic,
):
    cdef const num_t *bias_data = NULL
    if bias is not None:
        bias_data = &bias[0]
    cdef Py_ssize_t kernel_size = window.kernel_size
    cdef Py_ssize_t tap_step = window.stride // _gcd(window.stride, window.dilation)
    cdef Py_ssize_t n_phases = min(kernel_size, tap_step), k, start = 0
    cdef void *raw = NULL
    cdef num_t *packed = _allocate(1, w.shape[0] * w.shape[1] * kernel_size, &raw, <num_t *> NULL)
    cdef Correlation *phases = <Correlation *> PyMem_RawMalloc((n_phases + 1) * sizeof(Correlation))
    cdef Correlation c
    cdef bint finite
    c.n_batch, c.groups, c.fixed = x.shape[0], groups, deterministic
    c.c_in, c.c_out = w.shape[0] // groups, w.shape[1]
    c.y_length, c.y_step = y.shape[2], window.stride
    c.accumulate = n_phases < window.stride  # some outputs have no tap
    try:
        _touch[num_t](y, n_threads)
        if phases == NULL:
            raise MemoryError("no memory for the phases of a scatter")
        for k in range(n_phases):
            phases[k] = c
            phases[k].w_start = start
            _plan_phase(&phases[k], &window, k, tap_step, (kernel_size - 1 - k) // tap_step + 1,
                        x.shape[2], False)
            start += c.groups * c.c_out * phases[k].rows
        with nogil:
            finite = n_phases == 0 or _pack_phases(w, phases, n_phases, tap_step, packed)
        if c.accumulate or not finite:
            _fill_all(y, bias_data)
        if not finite:
            _scatter_taps(c, x, w, packed, &y[0, 0, 0], &window, n_threads)
        elif n_phases:
            _run_correlation(phases, n_phases, strided(x), <const num_t *> packed, bias_data, &y[0, 0, 0],
                             n_threads)
    finally:
        PyMem_RawFree(phases)
        PyMem_RawFree(raw)


cdef int _touch(num_t[:, :, ::1] y, Py_ssize_t n_threads) except -1:
    cdef Py_ssize_t row = y.shape[2] * sizeof(num_t)
    with nogil:
        touch_rows(&y[0, 0, 0], y.shape[0] * y.shape[1], row, row, n_threads)
    return 0


cdef void _fill_all(num_t[:, :, ::1] y, const num_t *bias) noexcept:
    cdef Py_ssize_t item
    with nogil:
        for item in range(y.shape[0]):
            _fill(&y[item, 0, 0], y.shape[2], y.shape[1], y.shape[2], bias)


# -------------------------------------------------------------------------------------------------
# Weight gradient

cdef struct Gradient:
    Py_ssize_t n_batch
    Py_ssize_t groups
    Py_ssize_t c_in  # of one group
    Py_ssize_t c_out  # of one group
    Py_ssize_t rows  # c_in * kernel_size
    Py_ssize_t l_out
    Window window
    Window identity  # the window that leaves grad_output as it is
    Py_ssize_t tile
    Py_ssize_t tile_row
    Py_ssize_t block_rows
    Py_ssize_t block_channels
    Py_ssize_t n_tiles
    Py_ssize_t n_row_blocks
    Py_ssize_t n_channel_blocks
    # The reduction over (item, tile) is cut into n_parts, each with a dw of its own; of a part, the
    # steps from first_step to last_step - 1 are next.
    Py_ssize_t n_parts
    Py_ssize_t share  # steps of a part, in groups of FC1D_FAN
    Py_ssize_t first_step
    Py_ssize_t last_step
    Py_ssize_t dw_size
    Strided g
    Strided x
    void *dw
    void *partials


cdef void _plan_gradient(Gradient *c, Py_ssize_t itemsize) noexcept:
    cdef Py_ssize_t n_jobs
    c.tile = _part(c.l_out, min(GRADIENT_COLUMNS, ROW_BYTES // itemsize), 16)
    c.tile_row = c.tile + ALIGNMENT // itemsize
    c.block_rows = _part(c.rows, MAX_ROWS, 8)
    c.block_channels = _part(c.c_out, MAX_CHANNELS, 8)
    c.n_tiles = _ceil_div(c.l_out, c.tile)
    c.n_row_blocks = _ceil_div(c.rows, c.block_rows)
    c.n_channel_blocks = _ceil_div(c.c_out, c.block_channels)
    c.dw_size = c.groups * c.c_out * c.rows
    n_jobs = c.groups * c.n_row_blocks * c.n_channel_blocks
    c.n_parts = min(_ceil_div(MIN_GRADIENT_JOBS, n_jobs), c.n_batch * c.n_tiles)
    c.n_parts = max(1, min(c.n_parts, 1 + PARTIAL_BYTES // (c.dw_size * itemsize)))
    c.share = _ceil_div(c.n_batch * c.n_tiles, c.n_parts)


# Job `index` is (part, group, channel block, row block), the last fastest:
#     dw[co, r] = sum_{item, l} g[item, co, l] * conj(cols[item, r, l]),  r = ci * kernel_size + k
# over the part's items and tiles, in that order. Part 0 adds to dw, part i to partial i - 1; a group
# of steps begins with zeros.
cdef void _gradient_block(
    const Gradient *c, Py_ssize_t index, num_t *scratch
) noexcept nogil:
    cdef Py_ssize_t row = index % c.n_row_blocks * c.block_rows
    cdef Py_ssize_t block = index // c.n_row_blocks % c.n_channel_blocks
    cdef Py_ssize_t outer = index // c.n_row_blocks // c.n_channel_blocks
    cdef Py_ssize_t group = outer % c.groups, part = outer // c.groups
    cdef Py_ssize_t channel = group * c.c_out + block * c.block_channels
    cdef Py_ssize_t n_channels = min(c.block_channels, c.c_out - block * c.block_channels)
    cdef Py_ssize_t n_rows = min(c.block_rows, c.rows - row)
    cdef Py_ssize_t n_steps = min((part + 1) * c.share, c.n_batch * c.n_tiles), step
    cdef Py_ssize_t item, first_column, width, g_row = 0, cols_row = 0
    cdef num_t *out = (
        <num_t *> c.dw if part == 0 else <num_t *> c.partials + (part - 1) * c.dw_size)
    cdef const num_t *g_tile
    cdef const num_t *cols
    out += channel * c.rows + row
    if c.first_step % FC1D_FAN == 0:
        _fill(out, c.rows, n_channels, n_rows, <const num_t *> NULL)
    for step in range(part * c.share + c.first_step, min(part * c.share + c.last_step, n_steps)):
        _begin_job()
        item = step // c.n_tiles
        first_column = step % c.n_tiles * c.tile
        width = min(c.tile, c.l_out - first_column)
        g_tile = _columns(&c.g, item, channel, 0, n_channels, first_column, width, width,
                          &c.identity, scratch + c.block_rows * c.tile_row, c.tile_row, &g_row)
        cols = _columns(&c.x, item, group * c.c_in, row, n_rows, first_column, width, width,
                        &c.window, scratch, c.tile_row, &cols_row)
        gemm_add(True, n_channels, n_rows, width, g_tile, g_row, cols, cols_row, out, c.rows)
        _end_job()


cdef _weight_gradient(
    const num_t[:, :, :] g, const num_t[:, :, :] x, num_t[:, :, ::1] dw, Window window,
    Py_ssize_t groups, n_threads,
):
    cdef Gradient c
    c.n_batch, c.groups, c.l_out = g.shape[0], groups, g.shape[2]
    c.c_in, c.c_out, c.rows = dw.shape[1], dw.shape[0] // groups, dw.shape[1] * dw.shape[2]
    c.window = window
    c.identity.kernel_size = c.identity.stride = c.identity.dilation = 1
    c.identity.pad_left, c.identity.mode = 0, ZEROS
    _plan_gradient(&c, sizeof(num_t))
    cdef Py_ssize_t n_jobs = c.n_parts * groups * c.n_channel_blocks * c.n_row_blocks
    cdef double step_work = <double> c.block_channels * c.block_rows * c.tile
    # A job is over before signals have waited for long, and goes on in the next pass over all jobs.
    cdef Py_ssize_t steps = <Py_ssize_t> max(1., min(<double> c.share, _most_work / step_work))
    cdef Py_ssize_t n_workers = _count_workers(n_jobs, step_work * c.share, n_threads)
    cdef Py_ssize_t jobs_a_round = _round(n_workers, n_jobs, step_work * steps)
    cdef Py_ssize_t size = (c.block_rows + c.block_channels) * c.tile_row
    cdef Py_ssize_t start, stop, i, part
    cdef list restore = []
    cdef void *raw = NULL
    cdef num_t *dw_data = &dw[0, 0, 0]
    cdef list totals = []
    cdef num_t *scratch
    cdef num_t *partials
    result = np.asarray(dw)
    partials = _allocate(1, (c.n_parts - 1) * c.dw_size + n_workers * size, &raw, <num_t *> NULL)
    scratch = partials + (c.n_parts - 1) * c.dw_size
    c.g, c.x, c.dw, c.partials = strided(g), strided(x), dw_data, partials
    try:
        n_workers = _enter_blas(n_workers, restore)
        try:
            c.first_step = 0
            while c.first_step == 0 or c.first_step < c.share:
                c.last_step = c.first_step + min(steps, FC1D_FAN - c.first_step % FC1D_FAN)
                start = 0
                while start < n_jobs:
                    stop = start + min(jobs_a_round, n_jobs - start)
                    with nogil:
                        run_units(<unit_fn> _gradient_block[num_t], &c, start, stop, scratch,
                                  size * sizeof(num_t), n_workers)
                    PyErr_CheckSignals()
                    start = stop
                c.first_step = c.last_step
                if c.first_step % FC1D_FAN and c.first_step < c.share:
                    continue
                with nogil:  # a group is complete
                    for part in range(c.n_parts - 1):
                        for i in range(c.dw_size):
                            dw_data[i] += partials[part * c.dw_size + i]
                if c.share > FC1D_FAN:
                    add_to(totals, result, (c.first_step - 1) // FC1D_FAN)
        finally:
            _leave_blas(n_workers, restore)
        for i in range(len(totals)):
            np.add(result, totals[i], out=result) if i else np.copyto(result, totals[i])
    finally:
        PyMem_RawFree(raw)


# -------------------------------------------------------------------------------------------------
# The Python side: one dtype dispatch an operation.

cdef Window _window(kernel_size, geometry, mode):
    cdef Window window
    _, _, window.stride, window.dilation, window.pad_left, _, _, _ = geometry
    window.kernel_size, window.mode = kernel_size, mode
    return window


def set_most_work(double work=MOST_WORK):
    """Set the multiply-adds of one job (a hook for tests); returns those until now."""
    global _most_work
    previous, _most_work = _most_work, work
    return previous


def fixed_columns(Py_ssize_t itemsize):
    """Columns of a tile in deterministic mode: an output's bits may depend on its place among them."""
    return FIXED_ROW_BYTES // itemsize


# Whether steps, residuals, 16 bits and any strides are dealt with inside.
FUSES = False


def unsuited(dtype_char, shape, stride, dilation, pad_left, pad_right, transposed):
    """The rule that keeps a layer from this engine: none."""
    return None


def prepare(weight, bias, spec):
    """A layer of this engine has no packed form: None."""
    return None


def correlate(x, w, bias, y, geometry, run):
    """Write the correlation of x with w, plus bias, to y.

    ``y[n, co, l] = bias[co] + sum(w[co, ci, k] * x[n, ci, l*stride + k*dilation - left])`` over
    all ci of co's group and all k.

    Parameters
    ----------
    x : ndarray of shape (N, C_in, L_in)
        Any strides; float32, float64, complex64 or complex128, as all other arrays.
    w : ndarray of shape (C_out, C_in / groups, K)
    bias : ndarray of shape (C_out,) or None
    y : C-contiguous ndarray of shape (N, C_out, L_out)
        Its shape says how many outputs there are.
    geometry : fastconv1d.core.geometry.Geometry
        ``left`` may be negative.
    run : tuple of int and bool
        How many threads may work, and whether an output's bits may depend on nothing but its own
        inputs: not on L_out either.

    Notes
    -----
    The shapes are the caller's to check. Raises MemoryError when scratch cannot be had.
    """
    if y.size == 0:
        return
    cdef Window window = _window(w.shape[2], geometry, geometry[7])
    n_threads, deterministic = run
    groups = geometry[6]
    w = np.ascontiguousarray(w)
    if bias is not None:
        bias = np.ascontiguousarray(bias)
    kind = y.dtype.char
    if kind == "f":
        _correlate[float](x, w, bias, y, window, groups, n_threads, deterministic)
    elif kind == "d":
        _correlate[double](x, w, bias, y, window, groups, n_threads, deterministic)
    elif kind == "F":
        _correlate[floatcomplex](x, w, bias, y, window, groups, n_threads, deterministic)
    else:
        _correlate[doublecomplex](x, w, bias, y, window, groups, n_threads, deterministic)


def scatter(x, w, bias, y, geometry, run):
    """Write the transposed correlation of x with w, plus bias, to y. Returns True.

    ``y[n, co, o] = bias[co] + sum(w[ci, co, k] * x[n, ci, l])`` over all ci of co's group, k and l
    with ``l*stride + k*dilation - left == o``. The arguments are those of `correlate`, but for
    w : ndarray of shape (C_in, C_out / groups, K).
    """
    if y.size == 0:
        return True
    cdef Window window = _window(w.shape[2], geometry, ZEROS)
    n_threads, deterministic = run
    groups = geometry[6]
    if bias is not None:
        bias = np.ascontiguousarray(bias)
    kind = y.dtype.char
    if kind == "f":
        _scatter[float](x, w, bias, y, window, groups, n_threads, deterministic)
    elif kind == "d":
        _scatter[double](x, w, bias, y, window, groups, n_threads, deterministic)
    elif kind == "F":
        _scatter[floatcomplex](x, w, bias, y, window, groups, n_threads, deterministic)
    else:
        _scatter[doublecomplex](x, w, bias, y, window, groups, n_threads, deterministic)
    return True


def weight_gradient(g, x, dw, geometry, run, db=None, only_db=False, weight=None, transposed=False):
    """Write the gradient of `correlate` with respect to w to dw, and that of the bias to db.

    ``dw[co, ci, k] = sum(g[n, co, l] * conj(x[n, ci, l*stride + k*dilation - left]))``
    over n and l, where ci counts within co's group. The arguments are those of `correlate`, but for
    g : ndarray of shape (N, C_out, L_out) and
    dw : C-contiguous ndarray of shape (C_out, C_in / groups, K).
    With `only_db` nothing but db is written. `transposed` conjugates g instead of x. The gradient
    by the input for `weight` is never made in the same pass: returns None. The result never depends
    on the number of threads, so deterministic mode changes nothing.
    """
    if db is not None:
        _sum_rows(g, db)
    if only_db or dw.size == 0:
        return None
    cdef Window window = _window(dw.shape[2], geometry, geometry[7])
    n_threads, groups = run[0], geometry[6]
    kind = dw.dtype.char
    if kind == "f":
        _weight_gradient[float](g, x, dw, window, groups, n_threads)
    elif kind == "d":
        _weight_gradient[double](g, x, dw, window, groups, n_threads)
    elif kind == "F":
        _weight_gradient[floatcomplex](g, x, dw, window, groups, n_threads)
    else:
        _weight_gradient[doublecomplex](g, x, dw, window, groups, n_threads)
    if transposed and dw.dtype.kind == "c":
        np.conjugate(dw, out=dw)
    return None


def _sum_rows(g, db):
    """Sum g over batch and length in double precision, in an order given by the shape alone."""
    n_batch, channels, length = g.shape
    total = np.zeros(channels, np.result_type(g.dtype, np.float64))
    if g.size:
        columns = min(length, max(1, SUM_BLOCK // channels))
        items = max(1, SUM_BLOCK // (channels * columns))
        with np.errstate(over="ignore", invalid="ignore"):
            for n in range(0, n_batch, items):
                for begin in range(0, length, columns):
                    block = g[n:n + items, :, begin:begin + columns]
                    total += block.astype(total.dtype, order="C").sum(axis=2).sum(axis=0)
            db[...] = total.astype(g.dtype)
    else:
        db[...] = 0
