# distutils: language = c
"""The direct engine: windows and register tiles, of real and complex numbers, no unfold.

Python-visible: the door of an engine (``unsuited``, ``prepare``, ``correlate``, ``scatter``, ``weight_gradient``, as in
``blas_engine``), ``PreparedLayer`` (weights packed once, called many times), and the instruction set in use.
``simd/fc1d.h`` has the formula that the C side computes; this
file decides block and tile sizes (``_block_channels``, ``_plan``), owns scratch, and runs the units on threads.

Every output is the sum over chains of (ci, k) in one order that depends on the layer alone, so its bits depend on
neither the tile, the thread, the batch nor the length.
"""
import os
import warnings

import numpy as np

from .memory import new
from .totals import add_to

cimport cython
cimport numpy as cnp
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.math cimport INFINITY
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastconv1d.kernels.memory cimport give_bytes, new_array, take_bytes
from fastconv1d.kernels.pages cimport touch_rows
from fastconv1d.kernels.workers cimport run_units, unit_fn

cnp.import_array()

cdef extern from "simd/fc1d.h" nogil:
    enum: FC1D_FAN

    ctypedef struct fc1d_run:
        ptrdiff_t start, extra, offset

    ctypedef struct fc1d_activation:
        int function
        double parameter, limit
        const void* alpha

    ctypedef struct fc1d_weight:
        const void* data
        ptrdiff_t sg, so, si, sk
        const ptrdiff_t* tap_k
        ptrdiff_t taps, fused, parts

    ctypedef struct fc1d_problem:
        const void* x
        const void* w
        const void* bias
        const fc1d_weight* unpacked
        long long* not_finite
        void* y
        ptrdiff_t xn, xc, xl, yn, yc, yl
        int half, parts, pairs
        fc1d_activation before, after
        const void* residual
        ptrdiff_t rn, rc, rl
        double residual_scale
        int residual_last
        ptrdiff_t n_batch, groups, c_in, c_out, l_in, l_out, n_cols
        ptrdiff_t x_step, y_step, y_shift
        ptrdiff_t n_phases, fused
        int mode
        ptrdiff_t kernel_size
        const ptrdiff_t* phase_start
        ptrdiff_t ci_chain, ci_block, k_block
        ptrdiff_t group_blocks, levels
        const int32_t* tap
        const int32_t* in_place
        const fc1d_run* runs
        ptrdiff_t n_runs, row_pitch
        ptrdiff_t tile_cols, items_per_unit, item_pitch, groups_per_unit, co_unit, co_block
        ptrdiff_t n_tiles, n_item_units, n_group_units, n_co_units
        const ptrdiff_t* pos
        ptrdiff_t x_base
        int by_rows, plain, staged
        ptrdiff_t stage_pitch, window_elems, stage_elems, emit_rows, emit_pitch, total_elems
        int streamed, leaves_out
        ptrdiff_t strip
        ptrdiff_t rows_in, rows_out, n_row_tiles, row_step, row_base
        ptrdiff_t kernel_rows, row_dilation
        ptrdiff_t xh, yh, rh
        const fc1d_run* row_runs
        ptrdiff_t n_row_runs
        const void* x_end
        int stacked

    ctypedef struct fc1d_gradient:
        fc1d_problem window
        const void* g
        const void* g_end
        ptrdiff_t gn, gc, gl
        void* dw
        double* db
        ptrdiff_t dw_part, db_part, parts, first_chunk, chunks
        int fetch, add
        ptrdiff_t panel, stride, sums_pitch, panel_offset, g_offset, sums_offset, live_offset, copy_offset
        ptrdiff_t finish_rows
        int swapped
        const int32_t* place
        const int32_t* column
        const int32_t* in_place
        ptrdiff_t base, inside, beyond
        const void* w
        void* dx
        int scatter
        const int32_t* back

    ctypedef struct fc1d_kernels:
        void (*run_unit)(const fc1d_problem*, ptrdiff_t, void*) noexcept nogil
        void (*run_items)(const fc1d_problem*, ptrdiff_t, void*) noexcept nogil
        void (*run_channels)(const fc1d_problem*, ptrdiff_t, void*) noexcept nogil
        int (*pack_weights)(const fc1d_weight*, const fc1d_problem*, void*) noexcept nogil
        int (*all_finite)(const void*, ptrdiff_t) noexcept nogil
        void (*run_gradient)(const fc1d_gradient*, ptrdiff_t, void*) noexcept nogil
        void (*run_positions)(const fc1d_problem*, ptrdiff_t, void*) noexcept nogil
        void (*step)(ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, const void*, const void**, const void*,
                     void*) noexcept nogil
        void (*finish_rows)(const fc1d_activation*, void*, const void*, ptrdiff_t, ptrdiff_t, ptrdiff_t, double,
                            int) noexcept nogil
        double (*fma_loop)(ptrdiff_t) noexcept nogil
        ptrdiff_t lanes, rows
        const ptrdiff_t* vectors

    ctypedef struct fc1d_isa:
        const char* name
        fc1d_kernels f32, f64

    int fc1d_supported(const fc1d_isa** isas, int room)

cdef extern from *:
    """
    #ifdef __VERSION__
    #define FC1D_COMPILER __VERSION__
    #elif defined(_MSC_FULL_VER)
    #define FC1D_COMPILER "MSVC"
    #else
    #define FC1D_COMPILER "unknown"
    #endif
    #if defined(__clang__) || !defined(__GNUC__)
    #define FC1D_COMPILER_NAME ""
    #else
    #define FC1D_COMPILER_NAME "GCC "
    #endif
    """
    const char* FC1D_COMPILER
    const char* FC1D_COMPILER_NAME

cdef extern from "atomics.h" nogil:
    long long fc1d_load(long long* at)
    long long fc1d_swap(long long* at, long long value)
    bint fc1d_swap_if(long long* at, long long old, long long value)
    void fc1d_release(long long* at)

cdef extern from "Python.h":
    int check_signals "PyErr_CheckSignals"() noexcept  # -1: a handler raised, and the exception is set

# ---- instruction sets ------------------------------------------------------------------------------------------------

cdef const fc1d_isa* _isas[4]
cdef int _n_isas = fc1d_supported(_isas, 4)
cdef const fc1d_isa* _isa = _isas[0]


cdef const void* isa_in_use() noexcept nogil:
    return _isa


def compiler():
    """The compiler that built this."""
    return (<bytes> FC1D_COMPILER_NAME + <bytes> FC1D_COMPILER).decode()


def supported_isas():
    """Names of the instruction sets this build and this CPU have, best first."""
    return tuple((<bytes> _isas[i].name).decode() for i in range(_n_isas))


def isa():
    """Name of the instruction set in use."""
    return (<bytes> _isa.name).decode()


def set_isa(name):
    """Use another instruction set for layers prepared from now on (tests and benchmarks)."""
    global _isa
    names = supported_isas()
    if name not in names:
        raise ValueError(f"isa must be one of {', '.join(names)} on this CPU, got {name!r}")
    _isa = _isas[names.index(name)]


def _isa_from_environment():
    name = os.environ.get("FASTCONV1D_ISA", "")
    if not name:
        return
    if name in supported_isas():
        set_isa(name)
    else:
        warnings.warn(
            f"FASTCONV1D_ISA={name!r} is not one of {', '.join(supported_isas())} on this CPU; using {isa()}",
            RuntimeWarning, stacklevel=2)


_isa_from_environment()


def peak_gflops(dtype="float32", double seconds=0.2):
    """GFLOP/s of independent multiply-adds in registers on this thread, with the instruction set in use."""
    import time

    cdef const fc1d_kernels* kernels = &_isa.f32 if np.dtype(dtype).itemsize == 4 else &_isa.f64
    cdef double best = 0, flops, start, spent, end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        with nogil:
            flops = 2 * kernels.fma_loop(20000)
        spent = time.perf_counter() - start
        best = max(best, flops / spent / 1e9)
    return best


# ---- blocking: depends on the layer alone, so that bits do ----------------------------------------------------------

# A strip (one register tile's columns of every channel of a block) stays in L1 while the weights stream past it: 384
# vectors are 12 KiB of AVX2 and 24 KiB of AVX-512 (an L1 has 32 or 48 KiB). On AVX2, 8 to 20 KiB measured alike
# within 4 %, 10 to 14 KiB the best.
cdef ptrdiff_t STRIP_VECTORS = 384
# Terms of one chain of sums; partial sums are added to the output. Worst errors in units of u*sum|w||x|,
# magnitudes over 30 decades, 512 terms: 14 at 512 in a chain, 10 at 256, 8 at 128. With a pass over all tiles for each
# chain, 128 cost 1 to 3 % of the speed, 64 4 to 12 %; the chains of a block follow one another in a tile now.
cdef ptrdiff_t CHAIN = 128
# With so few channels and terms the time goes into writing outputs: the window is kept to what stays in L1, and outputs
# are written row by row instead of a strip of every row. Measured with 64 to 768 outputs: 2.2x at 1 channel, 10 terms,
# 1.13x at 4 and 60; 0.98x at 12 and 60, 0.88x at 64 and 128.
# With a residual, which is read as the output is written, up to 32 channels: 16 and 32 channels to 256 1.16 to 1.33x,
# with 8 lanes 1.07 to 1.19x, 32 to 32 1.0 to 1.08x; 0.97x at the worst of 14 layers.
cdef ptrdiff_t FEW_CHANNELS = 8
cdef ptrdiff_t FEW_CHANNELS_ADDED = 32
cdef ptrdiff_t FEW_TERMS = 128
# With more of both, outputs are written row by row where register tiles have this many rows (AVX-512: a strip that
# comes from L2 is used as often) and the output is larger than a share of L2, or where the weights of a register tile
# outweigh its strip. Of 38 random layers 1.00x if all was in a cache (0.91 to 1.09), 1.08x if nothing was
# (0.92 to 1.55); 128 channels to as many of 300 positions, 3 taps, 0.93x otherwise. With 4 rows 0.88 to 1.03x of
# 12 layers in a cache, but 1.28 to 1.41x for 24 and 30 terms and large outputs that are not.
cdef ptrdiff_t TALL_ROWS = 8
cdef ptrdiff_t LARGE_OUTPUT_BYTES = 512 * 1024
cdef ptrdiff_t FEW_TERMS_OF_LARGE = 32
# The window of a tile and the weights of a block of output channels share L2 (512 KiB in the smallest in use).
cdef ptrdiff_t WINDOW_BYTES = 128 * 1024
cdef ptrdiff_t WEIGHT_BYTES = 192 * 1024
# A window whose columns are items is read from one end to the other, so less of it has to stay.
cdef ptrdiff_t ITEM_WINDOW_BYTES = 256 * 1024
cdef ptrdiff_t STAGE_BYTES = 256 * 1024
# Totals of layers with more than FC1D_FAN chains, of all levels together.
cdef ptrdiff_t TOTAL_BYTES = 1024 * 1024
# Rows of y and residual on the way between a stage and arrays of other strides or storage.
cdef ptrdiff_t EMIT_BYTES = 1024 * 1024
# Rows of short depthwise inputs and outputs on their way between transpositions, in L1.
cdef ptrdiff_t CHANNELS_BYTES = 24 * 1024
# What a row of a few elements costs beside its multiply-adds, and an element of a transposition.
cdef double ROW_CYCLES = 30
cdef double TRANSPOSED_CYCLES = 2
# Columns of a tile that may leave out taps of their own, as in simd/across.h.
cdef ptrdiff_t PART_COLUMNS = 6
# An input of so many bytes comes from beyond L2. Of twelve layers of 8 to 1,024 channels to 1 to 4, one tap, nine
# gained 3 to 35 % by streaming their rows, none lost more than 4 %, but one of 1.3 MB, which L2 still had, took 1.6
# times as long.
cdef ptrdiff_t STREAM_BYTES = 2 * 1024 * 1024
# Weights of so many bytes do not stay in L2 with the rest, see `_find_live`.
cdef ptrdiff_t LIVE_BYTES = 1024 * 1024
# Calls of one length, one after another, after which they are copied, which takes as long as 4 to 28 of them (384 and
# 768 channels each way, 5 and 13 taps); later ones take a third to an eighth of the time.
cdef ptrdiff_t LIVE_CALLS = 16
# Scratch of one thread; a layer that needs more goes to the BLAS engine.
cdef ptrdiff_t SCRATCH_BYTES = 4 * 1024 * 1024
# Positions beyond this are left to the BLAS engine, whose index arithmetic is checked term by term.
cdef ptrdiff_t FAR = <ptrdiff_t> 1 << 40
# Phases of a scatter: the tables grow with the stride.
cdef ptrdiff_t MOST_PHASES = 1024
# Below this many multiply-adds a parallel region (2 us warm) costs more than it saves.
cdef double SERIAL_MACS = 5e5
# Multiply-adds a thread does between two looks for a pending signal: 0.01 s at 50 GFLOP/s.
cdef double SIGNAL_MACS = 2.5e8
# And those of one unit of a gradient, at the most: 0.1 to 0.2 s.
cdef double UNIT_MACS = 4e9
cdef double _unit_macs = UNIT_MACS


cdef inline ptrdiff_t _ceil(ptrdiff_t a, ptrdiff_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline ptrdiff_t _gcd(ptrdiff_t a, ptrdiff_t b) noexcept nogil:
    while b:
        a, b = b, a % b
    return a


cdef void _block_channels(fc1d_problem* p, ptrdiff_t dilation, const fc1d_kernels* kernels) noexcept nogil:
    """Channels and taps of one chain of sums, and channels of a window: whole chains."""
    cdef ptrdiff_t rows = min(p.c_out, kernels.rows)
    cdef ptrdiff_t width = kernels.vectors[rows] * kernels.lanes
    # taps of one output phase, and the contiguous runs of the window that they read
    cdef ptrdiff_t taps = _ceil(p.kernel_size, p.n_phases // _gcd(p.n_phases, dilation))
    cdef ptrdiff_t runs = min(taps, p.x_step // _gcd(p.x_step, dilation))
    cdef ptrdiff_t reach = (taps - runs) * max(1, dilation // _gcd(p.x_step * p.n_phases, dilation))
    _cut_chains(p, taps, min(taps * width, runs * width + reach), kernels.lanes)


cdef void _block_planes(fc1d_problem* p, ptrdiff_t rows, ptrdiff_t dilation,
                        const fc1d_kernels* kernels) noexcept nogil:
    """The same for planes, whose strips lie in as many rows as the kernel has."""
    cdef ptrdiff_t width = kernels.vectors[min(p.c_out, kernels.rows)] * kernels.lanes, taps = p.kernel_size // rows
    cdef ptrdiff_t common = _gcd(p.x_step, dilation), runs = min(taps, p.x_step // common)
    cdef ptrdiff_t reach = (taps - runs) * max(1, dilation // common)
    _cut_chains(p, p.kernel_size, rows * min(taps * width, runs * width + reach), kernels.lanes)


cdef void _cut_chains(fc1d_problem* p, ptrdiff_t taps, ptrdiff_t per_channel, ptrdiff_t lanes) noexcept nogil:
    """Chains of so many taps a channel, of which a strip has ``per_channel`` elements in the window."""
    cdef ptrdiff_t fit = max(1, STRIP_VECTORS * lanes // per_channel)
    cdef ptrdiff_t chains = _ceil(p.c_in, max(1, min(fit, CHAIN // taps)))
    p.ci_chain = p.ci_block = _ceil(p.c_in, chains)
    p.k_block = _ceil(taps, _ceil(taps, CHAIN))
    if p.k_block == taps:
        fit = min(fit // p.ci_chain, FC1D_FAN)
        p.ci_block = min(p.c_in, p.ci_chain * _ceil(chains, _ceil(chains, fit)))
    _group_chains(p, taps)


cdef void _group_chains(fc1d_problem* p, ptrdiff_t taps) noexcept nogil:
    """The levels of totals.h, none for up to FC1D_FAN chains."""
    cdef ptrdiff_t k_blocks = max(1, _ceil(taps, p.k_block)), carried
    p.levels = 0
    if _ceil(p.c_in, p.ci_chain) * k_blocks <= FC1D_FAN:
        return
    p.group_blocks = max(1, FC1D_FAN // _ceil(p.ci_block, p.ci_chain))
    carried = _ceil(_ceil(p.c_in, p.ci_block) * k_blocks, p.group_blocks) - 1
    while carried > 0:
        p.levels += 1
        carried = (carried - 1) // FC1D_FAN


cdef double _macs(const fc1d_problem* p) noexcept nogil:
    """Multiply-adds of a call."""
    return <double> p.n_batch * p.groups * p.c_out * p.c_in * p.kernel_size / p.n_phases * p.n_cols


cdef struct Taps:
    ptrdiff_t* phase_start  # n_phases + 1
    ptrdiff_t* k            # kernel position of each tap, taps sorted by output phase
    ptrdiff_t* pos          # input position of each tap for column 0, up to a shift
    ptrdiff_t* order        # taps sorted by (pos mod x_step, pos)


cdef void _sort_taps(fc1d_problem* p, Taps* taps, ptrdiff_t dilation, bint transposed) noexcept nogil:
    """Fill the tap tables in O(K * runs + phases)."""
    cdef ptrdiff_t k, r, j, n = p.kernel_size, step = p.x_step
    for r in range(p.n_phases + 1):
        taps.phase_start[r] = 0
    for k in range(n):
        taps.phase_start[k * dilation % p.n_phases + 1] += 1
    for r in range(p.n_phases):
        taps.phase_start[r + 1] += taps.phase_start[r]
    for k in range(n):  # phase_start[r] walks to the end of phase r and is put back below
        r = k * dilation % p.n_phases
        j = taps.phase_start[r]
        taps.k[j] = k
        taps.pos[j] = -(k * dilation // p.n_phases) if transposed else k * dilation
        taps.phase_start[r] += 1
    for r in range(p.n_phases, 0, -1):
        taps.phase_start[r] = taps.phase_start[r - 1]
    taps.phase_start[0] = 0
    # A correlate has one phase and ascending positions; k and k + cycle share their residue modulo x_step.
    # A scatter has x_step 1, and positions that descend with k whatever the phase.
    cdef ptrdiff_t cycle = step // _gcd(step, dilation)
    j = 0
    if not transposed:
        for r in range(min(cycle, n)):
            k = r
            while k < n:
                taps.order[j] = k
                j += 1
                k += cycle
    else:
        for j in range(n):
            taps.order[n - 1 - taps.k[j]] = j


# ---- tiles: free to depend on lengths, batch and threads, because bits do not ----------------------------------------

cdef ptrdiff_t _make_runs(fc1d_problem* p, const Taps* taps, ptrdiff_t base, ptrdiff_t cols, ptrdiff_t slot, bint split,
                          fc1d_run* runs, ptrdiff_t* where) noexcept nogil:
    """Lay the taps' input positions out as runs of a window row of ``cols`` columns (``slot`` with padding).

    Taps of one residue less than ``cols`` apart share a run; ``split`` gives each tap its own. Sets ``where[j]`` to the
    place of tap j's first column in the row and returns the row's length. Taps that no column needs have no place.
    """
    cdef ptrdiff_t i, j, pos, last = 0, offset = 0, n = 0, step = p.x_step, gap
    cdef fc1d_run* run = runs
    for i in range(p.kernel_size):
        j = taps.order[i]
        pos = taps.pos[j]
        if p.leaves_out and not _is_live(p, pos) and (n or i + 1 < p.kernel_size):  # there is one run at least
            where[j] = 0
            continue
        gap = pos - last
        if step > 1:  # divisions are a tenth of a small call
            gap = gap // step if gap % step == 0 else -1
        if n == 0 or split or gap >= cols or gap < 0:
            if n > 0:
                offset += _ceil(slot + run.extra, 16) * 16
            run = runs + n
            n += 1
            run.start = pos + base
            run.extra = 0
            run.offset = offset
        else:
            run.extra += gap
        where[j] = offset + run.extra
        last = pos
    p.n_runs = n
    p.runs = runs
    return offset + slot + run.extra if n else slot


cdef inline bint _is_live(const fc1d_problem* p, ptrdiff_t pos) noexcept nogil:
    """Whether a tap at this position reads some of the input in any column."""
    return p.x_base + pos + (p.n_cols - 1) * p.x_step >= 0 and p.x_base + pos < p.l_in


cdef ptrdiff_t _count_live(const fc1d_problem* p) noexcept nogil:
    """Taps that some column needs."""
    cdef ptrdiff_t j, n = 0
    if p.leaves_out == 0:
        return p.kernel_size
    for j in range(p.kernel_size):
        n += _is_live(p, p.pos[j])
    return max(n, 1)


cdef ptrdiff_t _odd_lines(ptrdiff_t elements, ptrdiff_t itemsize) noexcept nogil:
    """Round a row up to an odd number of cache lines, so that rows do not meet in one set of the cache."""
    cdef ptrdiff_t line = 64 // itemsize
    return (_ceil(elements, line) | 1) * line


cdef void _choose_items(fc1d_problem* p, const fc1d_kernels* kernels, ptrdiff_t n_taps, ptrdiff_t reach,
                        ptrdiff_t shared_room, ptrdiff_t apart_room, ptrdiff_t units, bint* split) noexcept nogil:
    """Put several short items side by side in one tile where that fills the lanes better.

    Compares cycles for one item and input channel: multiply-adds at two vectors a cycle, the junction columns of a
    shared run (``reach``) or the K short copies of split runs at one element a cycle, and the pass through the
    staging tile.
    The rooms are the columns that a tile of either kind may have.
    """
    cdef ptrdiff_t n = p.n_cols, lanes = kernels.lanes, rows = min(p.c_out, kernels.rows), room
    cdef ptrdiff_t vectors = _ceil(n, lanes)
    cdef double macs = <double> p.c_out * n_taps / p.n_phases / (2 * lanes)
    cdef double alone = vectors * lanes * macs * max(1., 8. / (vectors * rows))
    cdef double staging = 0 if p.staged else <double> p.c_out * n / p.c_in
    cdef double shared = (n + reach) * macs + staging if 2 * (n + reach) <= shared_room else INFINITY
    cdef double apart = n * macs + <double> n_taps * n + staging if 2 * n <= apart_room else INFINITY
    if p.n_batch == 1 or min(shared, apart) > 0.97 * alone:
        return
    split[0] = apart < shared
    p.item_pitch = n if split[0] else n + reach
    room = (apart_room if split[0] else shared_room) // p.item_pitch
    p.items_per_unit = max(1, min(room, p.n_batch // max(1, min(units, p.n_batch))))
    if p.items_per_unit == 1:
        split[0] = False
        p.item_pitch = n


cdef bint _leaves_out(const fc1d_problem* p, ptrdiff_t cols) noexcept nogil:
    """Whether some tap reads nothing but zeros beyond the ends in the first or the last tile of so many columns."""
    cdef ptrdiff_t k, low = p.x_base, last = p.x_base + (p.n_cols - 1) // cols * cols * p.x_step
    for k in range(p.kernel_size):
        if low + p.pos[k] + (min(cols, p.n_cols) - 1) * p.x_step < 0 or last + p.pos[k] >= p.l_in:
            return True
    return False


cdef bint _writes_rows(const fc1d_problem* p, const fc1d_kernels* kernels, ptrdiff_t itemsize) noexcept nogil:
    """Whether a layer of more than few channels, whose outputs are not staged, writes them row by row."""
    cdef ptrdiff_t rows = min(p.c_out, kernels.rows), strip = kernels.vectors[rows] * kernels.lanes
    cdef bint large = (<double> p.n_batch * p.groups * p.c_out * p.l_out * max(1, p.rows_out) * itemsize
                       > LARGE_OUTPUT_BYTES)
    if kernels.rows < TALL_ROWS:
        return large and p.c_in * p.kernel_size <= FEW_TERMS_OF_LARGE
    return large or p.kernel_size * rows >= strip


cdef void _live_columns(const fc1d_problem* p, ptrdiff_t k, ptrdiff_t* begin, ptrdiff_t* end) noexcept nogil:
    """The columns in which tap k reads some of the input."""
    cdef ptrdiff_t first = -p.x_base - p.pos[k], step = p.x_step
    end[0] = min(p.n_cols, _ceil(max(0, p.l_in + first), step))
    begin[0] = min(end[0], _ceil(max(0, first), step))


cdef ptrdiff_t _live_strip(const fc1d_problem* p, const fc1d_kernels* kernels) noexcept nogil:
    """Columns of register tiles that leave out taps of their own: as many as have the fewest cycles of a block.

    Those of multiply-adds, a tenth more for each vector that a tile is narrower, some 60 of a tile's start and end, and
    100 to find the taps. Seven random layers are 0.92 to 1.5 times as fast as with tiles of the widest strip,
    each of which packed a window. Looks at a few taps and widths only: this is a part of a call.
    """
    cdef ptrdiff_t lanes = kernels.lanes, rows = min(p.c_out, kernels.rows), widest = kernels.vectors[rows]
    cdef ptrdiff_t vectors = widest, width, begin, end, columns, best_width = widest * lanes, i, apart
    cdef ptrdiff_t few = min(p.kernel_size, 16)
    cdef double cycles, best = INFINITY
    apart = p.kernel_size // few
    while True:
        width, columns = vectors * lanes, 0
        for i in range(few):
            _live_columns(p, i * apart, &begin, &end)
            if begin < end:
                columns += _ceil(end, width) * width - begin // width * width
        cycles = (<double> columns * p.kernel_size / few * p.ci_block * rows / (2 * lanes)
                  * (1 + 0.1 * (widest - vectors)) + _ceil(p.n_cols, width) * (60 + 100. * rows / p.c_out))
        if cycles < best:
            best, best_width = cycles, width
        if vectors == 1:
            return best_width
        vectors = _ceil(vectors, 2)


cdef ptrdiff_t _plan(fc1d_problem* p, const Taps* taps, ptrdiff_t base, const fc1d_kernels* kernels,
                     ptrdiff_t itemsize, int n_threads, fc1d_run* runs, ptrdiff_t* where, int32_t* tap) noexcept nogil:
    """Tile sizes and tap tables of one call; returns the scratch bytes of a thread."""
    cdef ptrdiff_t rows = kernels.rows, lanes = kernels.lanes, c, j, r, count
    cdef ptrdiff_t strip = kernels.vectors[min(p.c_out, rows)] * lanes
    cdef ptrdiff_t units = 4 * n_threads if n_threads > 1 else 1
    cdef bint split = False
    # columns that the window's share of L2 holds, with the taps in shared runs or apart
    cdef ptrdiff_t few = FEW_CHANNELS if p.residual == NULL else FEW_CHANNELS_ADDED
    p.by_rows = p.c_in <= few and p.c_in * p.kernel_size <= FEW_TERMS
    cdef ptrdiff_t budget = (STRIP_VECTORS * lanes * itemsize if p.by_rows else WINDOW_BYTES) // (itemsize * p.ci_block)
    cdef ptrdiff_t merged = _make_runs(p, taps, base, FAR, 0, False, runs, where), n_taps = _count_live(p)
    cdef ptrdiff_t reach = 0
    for j in range(p.n_runs):
        reach = max(reach, runs[j].extra)
    cdef ptrdiff_t shared = (budget - merged) // p.n_runs, apart = budget // n_taps
    p.plain = p.yl == 1 and p.half == 0 and not p.pairs and (p.residual == NULL or p.rl == 1)
    p.staged = p.y_step > 1 or not p.plain
    # the window of a correlate is packed once for all channels of the stage, so they should all fit
    cdef ptrdiff_t stage_rows = p.c_out if p.staged and p.y_step == 1 else p.n_phases * min(p.c_out, 32 * p.fused)
    cdef ptrdiff_t staged = STAGE_BYTES // (itemsize * stage_rows)
    cdef ptrdiff_t narrowest = strip if p.levels < 2 else lanes  # rows of many phases in several levels of totals
    cdef ptrdiff_t cols = max(narrowest, min(max(shared, apart), staged) if p.staged else max(shared, apart))
    # a tap reads some of the input in l_in / x_step columns, and has the rest of their register tiles as well
    if p.leaves_out and 4 * (p.l_in // p.x_step + strip) < 3 * p.n_cols:
        if _ceil(p.kernel_size, p.n_phases) > p.k_block:  # several passes over the outputs of a tile
            cols = narrowest
        else:
            p.strip = strip = _live_strip(p, kernels)

    p.item_pitch = p.n_cols
    p.items_per_unit = 1
    if p.n_cols <= cols and p.strip == 0:
        _choose_items(p, kernels, n_taps, reach, min(shared, staged), min(apart, staged), units, &split)
    if p.items_per_unit > 1:
        p.staged = True
    p.n_item_units = _ceil(p.n_batch, p.items_per_unit)
    p.by_rows |= not p.staged and _writes_rows(p, kernels, itemsize)

    # enough units for the threads: narrower tiles first, then fewer output channels a unit
    p.n_tiles = _ceil(p.n_cols, cols)
    count = p.n_item_units * p.groups
    units = max(units, <ptrdiff_t> (_macs(p) / (4 * SIGNAL_MACS)))  # each packs its window: not too many
    while count * p.n_tiles < units and _ceil(p.n_cols, 2 * p.n_tiles) >= 4 * strip:
        p.n_tiles *= 2
    cdef ptrdiff_t even = n_threads // _gcd(n_threads, count)  # three units keep two threads as long as four
    if count * p.n_tiles < units and _ceil(p.n_cols, _ceil(p.n_tiles, even) * even) >= strip:
        p.n_tiles = _ceil(p.n_tiles, even) * even
    p.tile_cols = p.n_cols
    if p.n_tiles > 1:
        p.tile_cols = _ceil(_ceil(p.n_cols, p.n_tiles), strip) * strip
        p.n_tiles = _ceil(p.n_cols, p.tile_cols)
    cdef ptrdiff_t total = (p.items_per_unit - 1) * p.item_pitch + p.tile_cols
    cdef ptrdiff_t slot = _ceil(total, lanes) * lanes
    p.stage_pitch = _odd_lines(slot, itemsize)
    _split_channels(p, kernels, itemsize, units, count * p.n_tiles)
    units = max(units, <ptrdiff_t> (_macs(p) / SIGNAL_MACS))
    p.groups_per_unit = max(1, min(p.groups, p.groups * p.n_item_units * p.n_tiles * p.n_co_units // units))
    p.n_group_units = _ceil(p.groups, p.groups_per_unit)

    # several items in shared runs are as far apart as all taps reach
    cdef ptrdiff_t apart_from = FAR if p.items_per_unit > 1 else slot
    p.row_pitch = _odd_lines(_make_runs(p, taps, base, apart_from, slot, split, runs, where), itemsize)
    p.window_elems = p.ci_block * p.row_pitch
    p.tap = tap
    for r in range(p.n_phases):
        for c in range(p.ci_block):
            for j in range(p.phase_start[r], p.phase_start[r + 1]):
                tap[0] = <int32_t> (c * p.row_pitch + where[j])
                tap += 1
    if _reads_in_place(p, rows):
        p.in_place = tap
        p.streamed = (p.kernel_size == 1 and p.c_out <= min(p.ci_block, 4) and not p.staged
                      and p.c_in * p.l_in * itemsize > STREAM_BYTES)
        for c in range(p.ci_block):
            for j in range(p.kernel_size):
                tap[0] = <int32_t> (c * p.xc + p.x_base + p.pos[j] - runs[0].start)
                tap += 1
    return _lay_stage(p, kernels, itemsize)


cdef bint _reads_in_place(const fc1d_problem* p, ptrdiff_t rows) noexcept nogil:
    """Whether tiles inside the input take their rows from it: what is packed serves one register tile of rows alone.

    384 channels to 2 of 14,221 positions took 1.48 ms and take 1.26, 32 to 1 with 7 taps 0.58 and 0.50 (AVX-512).
    """
    return (p.c_out <= rows and p.n_phases == 1 and p.x_step * p.xl * p.parts == 1 and p.half == 0
            and p.before.function == 0 and p.items_per_unit == 1 and p.n_tiles > 1
            and p.ci_block * max(p.xc, -p.xc) + p.l_in < TAPS_REACH)


cdef ptrdiff_t _whole_rows(const fc1d_problem* p, const fc1d_kernels* kernels) noexcept nogil:
    """After so many rows a register tile and an output channel end together."""
    return kernels.rows // _gcd(kernels.rows, p.fused) * p.fused


cdef void _split_channels(fc1d_problem* p, const fc1d_kernels* kernels, ptrdiff_t itemsize, ptrdiff_t units,
                          ptrdiff_t count) noexcept nogil:
    """Output channels of a unit, of which there are ``count`` without this, and ``units`` should be."""
    cdef ptrdiff_t rows = kernels.rows, room
    cdef ptrdiff_t whole = _whole_rows(p, kernels)
    p.co_unit = _ceil(p.c_out, whole) * whole
    if p.staged:
        p.co_unit = min(p.co_unit, max(whole, STAGE_BYTES // (itemsize * p.n_phases * p.stage_pitch) // whole * whole))
    if p.levels:
        room = TOTAL_BYTES // (itemsize * p.levels * p.n_phases * p.stage_pitch)
        p.co_unit = min(p.co_unit, max(whole, room // whole * whole))
    while count * _ceil(p.c_out, p.co_unit) < units and p.co_unit >= max(2 * whole, 4 * rows):
        p.co_unit = _ceil(p.co_unit, 2 * whole) * whole
    p.n_co_units = _ceil(p.c_out, p.co_unit)
    p.co_block = max(rows, WEIGHT_BYTES // (itemsize * p.ci_block * min(p.k_block, p.kernel_size)) // rows * rows)


cdef ptrdiff_t _lay_stage(fc1d_problem* p, const fc1d_kernels* kernels, ptrdiff_t itemsize) noexcept nogil:
    """What follows the window in scratch; returns the bytes of all."""
    cdef ptrdiff_t lanes = kernels.lanes
    p.stage_elems = p.n_phases * min(p.co_unit, p.c_out) * p.stage_pitch if p.staged else 0
    p.emit_pitch = 0 if p.plain else _odd_lines(p.tile_cols * p.y_step, itemsize)
    p.emit_rows = min(lanes, p.c_out // p.fused)
    if not p.plain:
        p.emit_rows = max(1, min(p.emit_rows, EMIT_BYTES // (2 * itemsize * p.emit_pitch)))
    p.total_elems = p.n_phases * min(p.co_unit, p.c_out) * p.stage_pitch if p.levels else 0
    if p.leaves_out:  # planes have no places of taps to look at
        p.leaves_out = _leaves_out(p, min(p.tile_cols, PART_COLUMNS if p.items_per_unit == 1 else p.tile_cols))
    if p.leaves_out:
        p.co_block = _ceil(p.co_block, 4 * lanes) * 4 * lanes  # run_across takes four vectors of channels
    else:
        p.strip = 0
    return itemsize * (p.window_elems + p.stage_elems + 2 * p.emit_rows * p.emit_pitch + p.levels * p.total_elems)


cdef ptrdiff_t _pack_in_units(fc1d_problem* p, const fc1d_weight* weight, long long* not_finite, ptrdiff_t itemsize,
                              ptrdiff_t scratch_bytes) noexcept nogil:
    """Have units pack what they need of a weight that is needed once, which spares a way through memory.

    Returns the bytes of scratch. The gradient by the input of 1024 to 1024 channels, 7 taps, 2 positions: 5.4 -> 3.2
    ms, of 400 to 400, 8 taps, 4 positions 842 -> 502 us.
    """
    cdef ptrdiff_t taps = min(p.k_block, p.kernel_size), block = itemsize * min(p.co_block, p.c_out) * p.ci_block * taps
    if p.n_tiles * p.n_item_units > 1 or scratch_bytes + block + 64 > SCRATCH_BYTES:
        return scratch_bytes
    p.unpacked, p.not_finite = weight, not_finite
    return scratch_bytes + block + 64


cdef ptrdiff_t _window_items(const fc1d_problem* p, ptrdiff_t itemsize) noexcept nogil:
    """Items whose positions of a block of channels the window holds."""
    return ITEM_WINDOW_BYTES // (itemsize * (p.ci_block * p.l_in + 1))


cdef bint _many_items(const fc1d_problem* p, const fc1d_kernels* kernels, ptrdiff_t itemsize) noexcept nogil:
    """Whether items should be the columns of a tile, and each position of the output a pass.

    Compares cycles for one item of a group: multiply-adds at two vectors a cycle, columns that are dropped as well, 10
    ns for a row that is packed or stored by itself, against transposing all of it. Of 222 layers of 16 to 512 channels,
    3 and 5 taps, 5 to 40 positions and 32 to 200 items, dropped columns decide for 32, which are 1.12 to 1.68
    times as fast so with 16 lanes.
    """
    cdef ptrdiff_t lanes = kernels.lanes, room = _window_items(p, itemsize), channels = p.groups * p.c_out // p.fused
    room = min(room if room < lanes else room // lanes * lanes, p.n_batch)
    if (2 * p.n_batch < lanes or p.parts > 1 or p.y_step != p.fused or p.residual != NULL or p.l_in > 64 or p.l_in == 0
            or (p.l_in > 1 and p.xl != 1) or (p.l_out > 1 and p.yl != 1)
            or (p.groups * p.c_in > 1 and p.xc != p.l_in) or (channels > 1 and p.yc != p.l_out) or 2 * room < lanes
            or lanes * _whole_rows(p, kernels) * p.n_cols * (1 + p.levels) * itemsize > TOTAL_BYTES):
        return False
    cdef double column = <double> p.c_in * p.c_out * p.kernel_size / (2 * lanes), taps = 0, narrow
    cdef ptrdiff_t k, begin, end
    for k in range(p.kernel_size):
        _live_columns(p, k, &begin, &end)
        taps += end - begin
    narrow = max(1., 4. / p.c_out)
    # with a unit of one vector each weight is read for that one
    cdef double one_vector = 1. if _window_items(p, itemsize) >= 2 * lanes and p.n_batch > lanes else 1.2
    cdef ptrdiff_t reach = p.pos[p.kernel_size - 1] - p.pos[0]
    reach = max(reach, -reach) // p.x_step
    cdef ptrdiff_t columns = min(_ceil(p.n_cols, lanes) * lanes, p.n_cols + reach)  # by itself, or beside others
    cdef double alone = columns * column * narrow + ROW_CYCLES * (p.c_in + p.c_out)
    cdef double across = (column * taps / p.kernel_size * narrow * one_vector * _ceil(room, lanes) * lanes / room
                          + TRANSPOSED_CYCLES * (p.c_in * p.l_in + p.c_out // p.fused * p.l_out))
    return across < 0.96 * alone


# ---- planes ----------------------------------------------------------------------------------------------------------

# Output rows that a tile of part of their columns should have: each row of the input is packed once for all of them. A
# depthwise layer has as little to do for each output as packing has.
cdef ptrdiff_t FEW_ROWS = 2
cdef ptrdiff_t MANY_ROWS = 8


cdef struct Planes:  # the tables of a call
    fc1d_run* runs
    fc1d_run* row_runs
    ptrdiff_t* where      # of each column of the kernel
    ptrdiff_t* row_where  # the slot of each row of the kernel
    int32_t* tap


cdef ptrdiff_t _lay_rows(fc1d_problem* rows, const Taps* down, ptrdiff_t n, fc1d_run* runs,
                         ptrdiff_t* where) noexcept nogil:
    """Slots of a window for n output rows; returns how many. ``rows`` is the problem of the kernel's rows alone."""
    cdef ptrdiff_t i, j, r = 0, slots = 0
    _make_runs(rows, down, rows.row_base, n, n, False, runs, where)
    for i in range(rows.kernel_size):  # runs follow one another without gaps
        j = down.order[i]
        if r + 1 < rows.n_runs and where[j] >= runs[r + 1].offset:
            slots += n + runs[r].extra
            r += 1
        where[j] += slots - runs[r].offset
    slots = 0
    for r in range(rows.n_runs):
        runs[r].offset = slots
        slots += n + runs[r].extra
    return slots


cdef void _lay_columns(fc1d_problem* line, const Taps* across, ptrdiff_t region, fc1d_run* runs,
                       ptrdiff_t* where) noexcept nogil:
    """Put every run that `_make_runs` made into a region of its own."""
    cdef ptrdiff_t i, j, r = 0
    for i in range(line.kernel_size):
        j = across.order[i]
        if r + 1 < line.n_runs and where[j] >= runs[r + 1].offset:
            r += 1
        where[j] += r * region - runs[r].offset
    for r in range(line.n_runs):
        runs[r].offset = r * region


cdef bint _rows_follow(const fc1d_problem* p) noexcept nogil:
    """Whether the rows of planes of one size are one row, in all operands."""
    return (p.l_in == p.l_out and p.rows_in == p.rows_out and p.xh == p.l_in * p.xl and p.yh == p.l_out * p.yl
            and (p.residual == NULL or p.rh == p.l_out * p.rl))


cdef bint _stacks(const fc1d_problem* p, ptrdiff_t rows, ptrdiff_t dilation) noexcept nogil:
    """Whether four rows of a depthwise layer are made at once: 3x3 and 5x5 taps, one or two rows apart."""
    return (p.c_in * p.c_out == 1 and dilation == 1 and (rows == 3 or rows == 5) and p.kernel_size == rows * rows
            and p.row_step <= 2 and p.n_tiles == 1 and p.plain and p.yh == p.n_cols
            and (p.residual == NULL or p.rh == p.n_cols)
            and p.rows_out - (p.n_row_tiles - 1) * p.items_per_unit >= 4)


cdef ptrdiff_t _plan_planes(fc1d_problem* p, const Taps* across, const Taps* down, ptrdiff_t rows, ptrdiff_t dilation,
                            ptrdiff_t base, const fc1d_kernels* kernels, ptrdiff_t itemsize, int n_threads,
                            const Planes* t) noexcept nogil:
    """Tile sizes and tables of one call; returns the scratch bytes of a thread. ``rows`` are those of the kernel."""
    cdef ptrdiff_t lanes = kernels.lanes, taps = p.kernel_size // rows, j, i, c, reach = 0, shared = 0, slots, region
    cdef ptrdiff_t strip = kernels.vectors[min(p.c_out, kernels.rows)] * lanes, count, many, room
    cdef ptrdiff_t units = 4 * n_threads if n_threads > 1 else 1
    cdef fc1d_problem line = p[0], column = p[0]
    cdef int32_t* tap = t.tap
    cdef bint split = False, apart
    line.kernel_size, column.kernel_size, column.x_step = taps, rows, p.row_step
    _make_runs(&line, across, base, FAR, 1, False, t.runs, t.where)
    for j in range(line.n_runs):
        reach = max(reach, t.runs[j].extra)
    if p.x_step == 1 and p.mode == 0:  # zeros between two rows that both of them read
        shared = max(0, min(min(-base, reach), p.n_cols + reach + base - p.l_in))
    # cycles of an input row: columns between two rows are computed, too, or each tap has its own copy of the row
    cdef double macs = <double> p.c_out * p.kernel_size / (2 * lanes)
    split = taps > 1 and p.n_cols * macs + <double> (taps - 1) * p.n_cols < 0.95 * (p.n_cols + reach - shared) * macs

    p.by_rows = p.c_in <= FEW_CHANNELS and p.c_in * p.kernel_size <= FEW_TERMS
    cdef ptrdiff_t budget = (STRIP_VECTORS * lanes * itemsize if p.by_rows else WINDOW_BYTES) // (itemsize * p.ci_block)
    cdef ptrdiff_t staged = max(strip, STAGE_BYTES // (itemsize * p.c_out))
    p.item_pitch = p.n_cols + (0 if split else reach - shared)
    many = min(p.rows_out, MANY_ROWS if macs < 4 else FEW_ROWS)
    p.n_tiles, p.n_row_tiles, p.tile_cols = 1, 1, p.n_cols
    while True:
        p.items_per_unit = _ceil(p.rows_out, p.n_row_tiles)
        slots = _lay_rows(&column, down, p.items_per_unit, t.row_runs, t.row_where)
        if p.items_per_unit <= many or (slots * p.item_pitch * (taps if split else line.n_runs) <= budget
                                        and p.items_per_unit * p.item_pitch <= staged):
            break
        p.n_row_tiles = _ceil(p.rows_out, min(p.items_per_unit - 1, p.items_per_unit * 7 // 8 + 1))
    while slots * p.item_pitch * (taps if split else line.n_runs) > budget or p.items_per_unit * p.item_pitch > staged:
        apart = reach > (taps - 1) * strip
        room = min(budget // (slots * (taps if apart else line.n_runs)), staged // p.items_per_unit)
        if not apart:
            room -= reach
        if room >= strip or p.items_per_unit == 1:  # rows of part of the columns
            split = apart
            p.tile_cols = min(p.n_cols, max(strip, room // strip * strip))
            p.n_tiles = _ceil(p.n_cols, p.tile_cols)
            p.tile_cols = _ceil(_ceil(p.n_cols, p.n_tiles), strip) * strip
            p.n_tiles = _ceil(p.n_cols, p.tile_cols)
            p.item_pitch = p.tile_cols + (0 if split else reach)
            break
        p.items_per_unit = _ceil(p.items_per_unit, 2)
        slots = _lay_rows(&column, down, p.items_per_unit, t.row_runs, t.row_where)

    # enough units for the threads, none too long: fewer rows, then fewer output channels
    p.n_row_tiles = _ceil(p.rows_out, p.items_per_unit)
    units = max(units, <ptrdiff_t> (_macs(p) * p.rows_out / (4 * SIGNAL_MACS)))
    while p.n_batch * p.groups * p.n_row_tiles * p.n_tiles < units and p.items_per_unit >= 2 * many:
        p.items_per_unit = _ceil(p.items_per_unit, 2)
        p.n_row_tiles = _ceil(p.rows_out, p.items_per_unit)
    p.items_per_unit = _ceil(p.rows_out, p.n_row_tiles)
    slots = _lay_rows(&column, down, p.items_per_unit, t.row_runs, t.row_where)
    p.n_item_units = p.n_batch * p.n_row_tiles
    count = p.n_item_units * p.groups * p.n_tiles
    p.plain = p.yl == 1 and p.half == 0 and (p.residual == NULL or p.rl == 1)
    p.staged = not p.plain or (p.items_per_unit > 1 and (
        p.yh != p.item_pitch or p.n_cols != p.item_pitch or (p.residual != NULL and p.rh != p.yh)))
    p.by_rows |= not p.staged and _writes_rows(p, kernels, itemsize)
    if _stacks(p, rows, dilation):
        p.stacked, p.staged = <int> rows, False
    cdef ptrdiff_t slot = _ceil((p.items_per_unit - 1) * p.item_pitch + p.tile_cols, lanes) * lanes
    p.stage_pitch = _odd_lines(slot, itemsize)
    _split_channels(p, kernels, itemsize, units, count)
    p.groups_per_unit = max(1, min(p.groups, p.groups * p.n_item_units * p.n_tiles * p.n_co_units
                                   // max(units, <ptrdiff_t> (_macs(p) * p.rows_out / SIGNAL_MACS))))
    p.n_group_units = _ceil(p.groups, p.groups_per_unit)

    _make_runs(&line, across, base, FAR, 1, split, t.runs, t.where)
    region = _ceil(slots * p.item_pitch + (0 if split else reach) + lanes, 16) * 16
    _lay_columns(&line, across, region, t.runs, t.where)
    p.runs, p.n_runs, p.row_runs, p.n_row_runs = t.runs, line.n_runs, t.row_runs, column.n_runs
    p.row_pitch = _odd_lines(p.n_runs * region + lanes, itemsize)  # a short row is written as a vector
    p.window_elems = p.ci_block * p.row_pitch
    p.tap = t.tap
    for c in range(p.ci_block):
        for i in range(rows):
            for j in range(taps):
                tap[0] = <int32_t> (c * p.row_pitch + t.where[j] + t.row_where[i] * p.item_pitch)
                tap += 1
    return _lay_stage(p, kernels, itemsize)


# ---- running ---------------------------------------------------------------------------------------------------------

cdef long long _largest_scratch = 0


cdef void _note_scratch(long long n_bytes) noexcept nogil:
    cdef long long seen = fc1d_load(&_largest_scratch)
    while n_bytes > seen and not fc1d_swap_if(&_largest_scratch, seen, n_bytes):
        seen = fc1d_load(&_largest_scratch)


def largest_scratch(reset=False):
    """Bytes of scratch that any thread has had so far; with ``reset`` counting starts again (for tests)."""
    return fc1d_swap(&_largest_scratch, 0) if reset else fc1d_load(&_largest_scratch)


cdef int run_job(unit_fn run, const void* job, ptrdiff_t units, double macs, size_t scratch_bytes,
                 int n_threads) except -2 nogil:
    """Run every unit of a job, on threads where there are several, and look for signals between rounds of them.

    Returns -1 when scratch cannot be had; raises what a signal's handler raises.
    """
    cdef ptrdiff_t first = 0, last, batch
    cdef size_t slab = (scratch_bytes + 4096 + 63) // 64 * 64
    cdef int status = 0
    n_threads = <int> max(1, min(<ptrdiff_t> n_threads, units))
    batch = max(<ptrdiff_t> n_threads, <ptrdiff_t> (units * min(1., n_threads * SIGNAL_MACS / max(1., macs))))
    _note_scratch(slab)
    cdef char* scratch = <char*> take_bytes(slab * n_threads)
    if scratch == NULL and n_threads > 1:
        n_threads = 1
        scratch = <char*> take_bytes(slab)
    if scratch == NULL:
        return -1
    while first < units:
        last = min(units, first + batch)
        run_units(run, job, first, last, scratch, slab, n_threads)
        first = last
        if first < units:
            with gil:
                status = -2 if check_signals() < 0 else 0
            if status < 0:
                break
    give_bytes(scratch)
    return status


cdef object set_activation(void* step, activation, ptrdiff_t channels, dtype):
    """Fill an fc1d_activation by a fastconv1d.core.activations.Activation; returns the array that it points to."""
    cdef fc1d_activation* f = <fc1d_activation*> step
    if activation is None:
        return None
    f.function, f.parameter, f.limit = activation.function, activation.parameter, activation.limit
    if activation.alpha is None:
        return None
    alpha = np.array(np.broadcast_to(activation.alpha, (channels,)), dtype, order="C")
    f.alpha = cnp.PyArray_DATA(alpha)
    return alpha


def finish(activation, cnp.ndarray y not None, cnp.ndarray residual, double residual_scale, bint residual_last):
    """y = f(y + scale*residual), or f(y) + scale*residual, in place, bit for bit as inside a layer.

    y and residual are C-contiguous arrays of shape (N, C, L) and of the same dtype, float32 or float64.
    """
    cdef fc1d_activation f
    cdef const fc1d_kernels* kernels = &_isa.f32 if cnp.PyArray_TYPE(y) == cnp.NPY_FLOAT32 else &_isa.f64
    cdef const void* more = NULL if residual is None else cnp.PyArray_DATA(residual)
    cdef void* rows = cnp.PyArray_DATA(y)
    cdef ptrdiff_t n_rows = y.shape[0] * y.shape[1], length = y.shape[2], channels = y.shape[1]
    memset(&f, 0, sizeof(f))
    _alpha = set_activation(&f, activation, channels, y.dtype)  # kept while the kernel reads it
    with nogil:
        kernels.finish_rows(&f, rows, more, n_rows, length, channels, residual_scale, residual_last)


cdef void _keep_taps(const fc1d_problem* p, const Taps* taps, const ptrdiff_t* place, ptrdiff_t kept,
                     Taps* to) noexcept nogil:
    """The tables of those taps that have a place, ``kept`` of them; may be done in place."""
    cdef ptrdiff_t r, j, i = 0, begin = 0, end
    for j in range(p.kernel_size):
        if place[taps.order[j]] >= 0:
            to.order[i] = place[taps.order[j]]
            i += 1
    j = 0
    for r in range(p.n_phases):
        end = taps.phase_start[r + 1]
        to.phase_start[r] = begin
        while j < end:
            if place[j] >= 0:
                to.k[begin], to.pos[begin] = taps.k[j], taps.pos[j]
                begin += 1
            j += 1
    to.phase_start[p.n_phases] = kept


cdef class LiveTaps:
    """The taps of a layer that read some of the input in calls of one length, and their packed weights."""
    cdef Taps taps
    cdef ptrdiff_t kernel_size
    cdef void* tables
    cdef void* packed
    cdef bytes places  # of each tap of the layer, -1 for one that is left out

    def __cinit__(self, ptrdiff_t n_phases, ptrdiff_t kernel_size, size_t packed_bytes, bytes places):
        self.kernel_size, self.places = kernel_size, places
        self.tables = PyMem_Malloc((n_phases + 1 + 3 * kernel_size) * sizeof(ptrdiff_t))
        self.packed = take_bytes(packed_bytes + 64)
        if self.tables == NULL or self.packed == NULL:
            raise MemoryError("cannot allocate the weights of the taps that read the input")
        self.taps.phase_start = <ptrdiff_t*> self.tables
        self.taps.k = self.taps.phase_start + n_phases + 1
        self.taps.pos = self.taps.k + kernel_size
        self.taps.order = self.taps.pos + kernel_size

    def __dealloc__(self):
        PyMem_Free(self.tables)
        give_bytes(self.packed)


cdef void _copy_live(const fc1d_problem* p, const ptrdiff_t* places, ptrdiff_t rows, ptrdiff_t itemsize,
                     const char* weight, char* live) noexcept nogil:
    """Copy what is packed of the taps that have a place; sums are not cut between taps."""
    cdef ptrdiff_t blocks = _ceil(p.c_in, p.ci_block), i, r, t, c, j, taps, n, n_ci
    for i in range(p.groups * blocks):
        n_ci = min(p.c_in - i % blocks * p.ci_block, p.ci_block)
        for r in range(p.n_phases):
            taps = p.phase_start[r + 1] - p.phase_start[r]
            for t in range(_ceil(p.c_out, rows)):
                n = min(p.c_out - t * rows, rows) * itemsize
                for c in range(n_ci):
                    for j in range(taps):
                        if places[p.phase_start[r] + j] >= 0:
                            memcpy(live, weight + (c * taps + j) * n, n)
                            live += n
                weight += n_ci * taps * n


@cython.final
cdef class PreparedLayer:
    """A layer's geometry and packed weights, for any number of calls.

    Parameters
    ----------
    weight : ndarray, float32, float64, complex64 or complex128
        (C_out, C_in/groups, K), or (C_in, C_out/groups, K) when transposed; with ``down`` (C_out, C_in/groups, KH, KW).
        Copied.
    bias : ndarray of shape (C_out,) or None
        Copied.
    geometry : fastconv1d.core.geometry.Geometry
        Its sizes of the output are not looked at. The padding is that of a correlate, which has a mode, or the cropping
        of a scatter.
    transposed : bool
        Scatter instead of correlate.
    steps : fastconv1d.core.activations.Steps, optional
        What happens to each input and each sum.
    output_padding : int
        Columns added on the right of a scatter.
    same : int
        For a correlate whose padding gives ceil(L_in / stride) columns: 1 with an odd position on the right
        (same_upper), 2 on the left (same_lower); 0 for pads as given.
    channels_last : bool
        Whether calls take and return (N, L, C).
    down : tuple of int, optional
        (stride, dilation, top, bottom) of a correlate of two dimensions: what geometry says of columns is said of rows
        here.
    packed : PreparedLayer, optional
        One of the same weight, bias and geometry, whose packed weight serves here, too: only the steps may differ.
    lengths : tuple of int, optional
        Those of input and output, of a layer for a single call: taps that read nothing of the input are not packed, and
        the weight, which the call must not write to, is packed as that call needs it.
    """
    cdef fc1d_problem problem
    cdef Taps taps
    cdef const fc1d_kernels* kernels
    cdef void* tables
    cdef void* packed
    cdef object bias, alphas
    cdef PreparedLayer owner  # whose tables and packed weight these are
    cdef cnp.ndarray by_tap  # the weight of a depthwise layer as (K, C), made by the first call that needs it
    cdef readonly bint transposed
    cdef ptrdiff_t stride, dilation, span, pad_left, pad_right, output_padding
    cdef ptrdiff_t itemsize  # of a real number
    cdef int typenum, same, parts  # 2 real numbers of a complex one
    cdef readonly str isa
    cdef readonly bint finite  # the weight, as far as it is packed
    cdef LiveTaps live  # of the last length that many calls had one after another
    cdef bytes places  # as those of `live`, of the last call
    cdef ptrdiff_t seen  # how often, one after another
    cdef fc1d_weight unpacked
    cdef cnp.ndarray weight  # whose memory that is, where a call may need it
    cdef readonly bint channels_last
    # Of planes: the kernel's rows, otherwise 0, their taps, and the steps and the padding of rows.
    cdef ptrdiff_t rows, row_dilation, pad_top, pad_bottom
    cdef Taps down

    def __cinit__(self, cnp.ndarray weight, bias, geometry, bint transposed=False, steps=None,
                  ptrdiff_t output_padding=0, int same=0, bint channels_last=False, down=None,
                  PreparedLayer packed=None, lengths=None):
        if packed is None:
            self._pack_all(weight, bias, geometry, transposed, down, lengths)
            self.output_padding, self.same, self.channels_last = output_padding, same, channels_last
        else:
            self._share(packed)
        if steps is not None:
            self._set_steps(steps)

    cdef int _pack_all(self, cnp.ndarray weight, bias, geometry, bint transposed, down, lengths) except -1:
        cdef fc1d_problem* p = &self.problem
        cdef ptrdiff_t stride, dilation, pad_left, pad_right, groups, fused
        cdef int mode
        memset(p, 0, sizeof(fc1d_problem))
        if down is not None:
            weight = self._set_rows(weight, down)
        _, _, stride, dilation, pad_left, pad_right, groups, mode = geometry
        self.typenum, self.parts = cnp.PyArray_TYPE(weight), 1
        if self.typenum in (cnp.NPY_COMPLEX64, cnp.NPY_COMPLEX128) and not self.rows:
            self.parts = 2
        elif self.typenum not in (cnp.NPY_FLOAT32, cnp.NPY_FLOAT64):
            raise TypeError(f"the direct engine computes float32, float64 and, of one dimension, complex numbers, "
                            f"got {weight.dtype}")
        if min(stride, dilation, groups) < 1 or weight.shape[0] % groups:
            raise ValueError("stride, dilation and groups should be positive, and groups divide the channels, "
                             f"got stride={stride}, dilation={dilation}, groups={groups}")
        shape = weight.shape[0], weight.shape[1], weight.shape[2] // (self.rows or 1)
        rule = _unsuited_window(shape, stride, dilation, pad_left, pad_right, transposed)
        if rule is not None:
            raise ValueError(f"{rule}, got a weight of size {list((<object> weight).shape)}, stride={stride}, "
                             f"dilation={dilation}, padding=({pad_left}, {pad_right})")
        self.itemsize = cnp.PyArray_ITEMSIZE(weight) // self.parts
        self.kernels = &_isa.f32 if self.itemsize == 4 else &_isa.f64
        self.isa = isa()
        self.transposed, self.stride, self.dilation = transposed, stride, dilation
        self.pad_left, self.pad_right = pad_left, pad_right
        cdef ptrdiff_t first = weight.shape[0] // groups, second = weight.shape[1]
        p.groups, p.kernel_size, p.mode = groups, weight.shape[2], 0 if transposed else mode
        self.span = dilation * ((p.kernel_size // self.rows if self.rows else p.kernel_size) - 1) + 1
        p.c_out, p.c_in = second if transposed else first, first if transposed else second
        p.x_step, p.y_step = 1 if transposed else stride, stride if transposed else 1
        p.fused = stride if transposed and dilation == 1 and p.kernel_size % stride == 0 else 1
        p.n_phases = p.y_step // p.fused
        p.kernel_size //= p.fused
        p.parts = self.parts
        p.c_in *= p.parts
        p.fused *= p.parts
        p.y_step *= p.parts
        p.c_out *= p.fused
        self._prepare_taps()
        if lengths is not None and p.mode == 0 and p.kernel_size > 1:
            self._leave_out(weight, lengths[0], lengths[1])
        self._find_weight(weight)
        self.weight, self.finite = weight, True
        if lengths is None:
            self._is_ready(p)
            self.weight = None
        if bias is not None:  # np.repeat costs a quarter of a small call
            fused = p.fused // p.parts
            self.bias = cnp.PyArray_NewCopy(bias, cnp.NPY_CORDER) if fused == 1 else np.repeat(bias, fused)
            p.bias = cnp.PyArray_DATA(self.bias)
        return 0

    cdef cnp.ndarray _set_rows(self, cnp.ndarray weight, down):
        """Keep what is said of rows; returns the weight with rows and columns of the kernel as one dimension."""
        cdef ptrdiff_t stride, dilation
        stride, dilation, self.pad_top, self.pad_bottom = down
        rule = unsuited_planes((<object> weight).dtype.char, (<object> weight).shape, stride, dilation)
        if rule is not None or stride < 1:
            raise ValueError(f"{rule}, got a weight of size {list((<object> weight).shape)}, stride={stride} and "
                             f"dilation={dilation} of rows")
        self.rows, self.row_dilation, self.problem.row_step = weight.shape[2], dilation, stride
        return (<object> weight).reshape(weight.shape[0], weight.shape[1], weight.shape[2] * weight.shape[3])

    cdef int _share(self, PreparedLayer packed) except -1:
        self.owner = packed
        self.rows, self.row_dilation = packed.rows, packed.row_dilation
        self.pad_top, self.pad_bottom, self.down = packed.pad_top, packed.pad_bottom, packed.down
        self.problem, self.taps, self.kernels = packed.problem, packed.taps, packed.kernels
        self.bias = packed.bias
        self.transposed, self.stride, self.dilation = packed.transposed, packed.stride, packed.dilation
        self.span, self.pad_left, self.pad_right = packed.span, packed.pad_left, packed.pad_right
        self.output_padding, self.same = packed.output_padding, packed.same
        self.itemsize, self.typenum, self.isa = packed.itemsize, packed.typenum, packed.isa
        self.parts = packed.parts
        self.finite, self.channels_last = packed.finite, packed.channels_last
        return 0

    cdef int _set_steps(self, steps) except -1:
        cdef fc1d_problem* p = &self.problem
        dtype = cnp.PyArray_DescrFromType(self.typenum)
        memset(&p.before, 0, sizeof(fc1d_activation))
        memset(&p.after, 0, sizeof(fc1d_activation))
        self.alphas = (set_activation(&p.before, steps.before, p.groups * p.c_in, dtype),
                       set_activation(&p.after, steps.after, p.groups * p.c_out // p.fused, dtype))
        p.residual_scale, p.residual_last = steps.residual_scale, steps.residual_last
        return 0

    def with_steps(self, steps):
        """The same layer with other steps, over the same packed weight."""
        return PreparedLayer(None, None, None, steps=steps, packed=self if self.owner is None else self.owner)

    cdef int _prepare_taps(self) except -1:
        cdef fc1d_problem* p = &self.problem
        cdef ptrdiff_t k = p.kernel_size
        if self.rows:
            return self._prepare_plane_taps()
        _block_channels(p, self.dilation, self.kernels)
        self.tables = PyMem_Malloc((p.n_phases + 1 + 3 * k) * sizeof(ptrdiff_t))
        if self.tables == NULL:
            raise MemoryError("cannot allocate the tap tables")
        self.taps.phase_start = <ptrdiff_t*> self.tables
        self.taps.k = self.taps.phase_start + p.n_phases + 1
        self.taps.pos = self.taps.k + k
        self.taps.order = self.taps.pos + k
        p.phase_start = self.taps.phase_start
        _sort_taps(p, &self.taps, self.dilation, self.transposed)
        return 0

    cdef int _leave_out(self, cnp.ndarray weight, ptrdiff_t l_in, ptrdiff_t l_out) except -1:
        """Forget taps that read nothing but zeros; chains of sums begin and end with the channels that they did.

        Zero times a finite weight adds nothing. A scatter has no such products at all.
        """
        cdef fc1d_problem* p = &self.problem
        cdef ptrdiff_t n = p.kernel_size, low = -self.pad_left, begin = 0, end = l_out, shift = 0, first, r, j, kept = 0
        if p.c_in * p.c_out == 1 or l_in * l_out == 0:
            return 0
        cdef ptrdiff_t* place = <ptrdiff_t*> PyMem_Malloc(n * sizeof(ptrdiff_t))
        if place == NULL:
            raise MemoryError("cannot allocate the tap tables")
        if self.transposed:
            low = self.pad_left // self.stride - (1 if self.pad_left % self.stride < 0 else 0)
            shift = self.pad_left - low * self.stride
            end = (l_out - 1 + shift) // self.stride + 1
        for r in range(p.n_phases):
            if self.transposed and p.n_phases > 1:  # columns of this phase that are in the output
                begin = shift > r
                end = (l_out - 1 + shift - r + self.stride) // self.stride
            for j in range(self.taps.phase_start[r], self.taps.phase_start[r + 1]):
                first = low + self.taps.pos[j] + begin * p.x_step
                first += max(0, _ceil(-first, p.x_step)) * p.x_step
                place[j] = -1
                if first < min(l_in, low + self.taps.pos[j] + end * p.x_step):
                    place[j] = kept
                    kept += 1
        if 0 < kept < n and not self._cuts_taps() and (self.transposed or self._all_finite(weight)):
            _keep_taps(p, &self.taps, place, kept, &self.taps)
            p.kernel_size = kept
        PyMem_Free(place)
        return 0

    cdef bint _cuts_taps(self) noexcept:
        """Whether a chain of sums may end between taps of a channel."""
        cdef ptrdiff_t r
        for r in range(self.problem.n_phases):
            if self.taps.phase_start[r + 1] - self.taps.phase_start[r] > self.problem.k_block:
                return True
        return False

    cdef bint _all_finite(self, cnp.ndarray weight) noexcept:
        return (cnp.PyArray_IS_C_CONTIGUOUS(weight)
                and self.kernels.all_finite(cnp.PyArray_DATA(weight), cnp.PyArray_SIZE(weight) * self.parts))

    cdef int _prepare_plane_taps(self) except -1:
        """Taps of a row of the kernel and of a column of it; `taps.k` counts all, as they are packed."""
        cdef fc1d_problem* p = &self.problem
        cdef fc1d_problem line = p[0]
        cdef ptrdiff_t k = p.kernel_size, across = k // self.rows, i
        _block_planes(p, self.rows, self.dilation, self.kernels)
        self.tables = PyMem_Malloc((6 + k + 2 * across + 3 * self.rows) * sizeof(ptrdiff_t))
        if self.tables == NULL:
            raise MemoryError("cannot allocate the tap tables")
        self.taps.phase_start = <ptrdiff_t*> self.tables
        self.taps.k = self.taps.phase_start + 4
        self.taps.pos = self.taps.k + k
        self.taps.order = self.taps.pos + across
        self.down.phase_start = self.taps.order + across
        self.down.k = self.down.phase_start + 2
        self.down.pos = self.down.k + self.rows
        self.down.order = self.down.pos + self.rows
        line.kernel_size = across
        _sort_taps(&line, &self.taps, self.dilation, False)
        line.kernel_size, line.x_step = self.rows, p.row_step
        _sort_taps(&line, &self.down, self.row_dilation, False)
        for i in range(k):
            self.taps.k[i] = i
        p.phase_start = self.taps.phase_start + 2
        self.taps.phase_start[2], self.taps.phase_start[3] = 0, k
        return 0

    cdef void _find_weight(self, cnp.ndarray weight) noexcept:
        cdef fc1d_problem* p = &self.problem
        cdef fc1d_weight* u = &self.unpacked
        cdef ptrdiff_t s0 = weight.strides[0] // self.itemsize, s1 = weight.strides[1] // self.itemsize
        u.data, u.sk = cnp.PyArray_DATA(weight), weight.strides[2] // self.itemsize
        u.tap_k, u.taps, u.fused, u.parts = self.taps.k, weight.shape[2], p.fused, p.parts
        if self.transposed:
            u.sg, u.so, u.si = p.c_in // p.parts * s0, s1, s0
        else:
            u.sg, u.so, u.si = p.c_out // p.fused * s0, s0, s1

    cdef int _pack(self) noexcept nogil:
        """Pack the weight; returns -1 without memory."""
        cdef fc1d_problem* p = &self.problem
        # run_across loads up to a vector past the last weight
        self.packed = take_bytes(p.groups * p.c_out * p.c_in * p.kernel_size * self.itemsize + 64)
        if self.packed == NULL:
            return -1
        self.finite = self.kernels.pack_weights(&self.unpacked, p, self.packed)
        p.w = self.packed
        return 0

    cdef bint _is_ready(self, fc1d_problem* p) except -1:
        """Pack the weight for a call, if that is not done; False for a scatter of one that is not finite."""
        cdef int failed = 0
        if self.problem.w == NULL:
            with nogil:
                failed = self._pack()
        if failed:
            raise MemoryError("cannot allocate the packed weight")
        p.w = self.problem.w
        return self.finite or not self.transposed

    def __dealloc__(self):
        PyMem_Free(self.tables)
        give_bytes(self.packed)

    cpdef int run(self, cnp.ndarray x, cnp.ndarray y, ptrdiff_t pad_left, threads, cnp.ndarray residual=None,
                  dict plan=None) except -1:
        """y = layer(x) for x (N, C_in, L_in) and y (N, C_out, L_out), strides of whole elements.

        Column 0 of y is the one that pad_left says. x, y and the residual, of the shape of y, have one dtype: the
        layer's, or one of 16 bits. With ``plan`` nothing is computed, and the dict gets what would be done.
        """
        cdef fc1d_problem p = self.problem  # a copy a call: calls on one layer may run at the same time
        cdef ptrdiff_t base
        self._take(&p, x, y, residual, 2)
        if p.n_batch == 0 or p.l_out == 0:
            return 0
        p.n_cols = p.l_out
        if self.parts == 2:
            self._take_parts(&p)
        if self._side_by_side(&p):
            p.rows_in, p.kernel_rows = 1, 1
            self._is_ready(&p)
            return self._run_positions(&p, 1, -pad_left, threads, plan)
        base = -pad_left
        if self.transposed:
            pad_left *= self.parts
            base = pad_left // p.y_step - (1 if pad_left % p.y_step < 0 else 0)
            p.y_shift = pad_left - base * p.y_step
            p.n_cols = (p.l_out - 1 + p.y_shift) // p.y_step + 1
        p.pos, p.x_base = self.taps.pos, base
        if not self.transposed and self._is_short(&p):
            self._is_ready(&p)
            return self._run_channels(&p, threads, plan)
        if _many_items(&p, self.kernels, self.itemsize):
            return self._run_items(&p, threads, plan) if self._is_ready(&p) else 0
        return self._run_line(&p, &self.taps, base, threads, plan)

    cdef int _run_line(self, fc1d_problem* p, const Taps* taps, ptrdiff_t base, threads, dict plan) except -1:
        cdef ptrdiff_t size = self.itemsize, scratch_bytes
        cdef int failed = 0
        cdef double macs = _macs(p)
        cdef int n_threads = 1
        cdef bint unpacked = self.problem.w == NULL
        cdef long long not_finite = 0
        cdef fc1d_problem given
        if macs >= SERIAL_MACS:
            n_threads = threads if isinstance(threads, int) else threads()
        cdef ptrdiff_t k = p.kernel_size
        p.pos, p.x_base = taps.pos, base
        if unpacked:
            given = p[0]
        p.leaves_out = p.mode == 0 and k > 1 and _leaves_out(p, PART_COLUMNS) and self.finite
        cdef LiveTaps live = None
        if p.leaves_out and plan is None and not unpacked:
            live = self._find_live(p)
        if live is not None:
            p.w, p.kernel_size, p.phase_start = live.packed, live.kernel_size, live.taps.phase_start
            return self._run_line(p, &live.taps, base, threads, plan)
        cdef size_t where_bytes = k * sizeof(ptrdiff_t), run_bytes = k * sizeof(fc1d_run)
        cdef size_t table_bytes = where_bytes + run_bytes + 2 * p.ci_block * k * sizeof(int32_t)
        cdef ptrdiff_t few[256]  # for small layers, without malloc
        cdef char* tables = <char*> few if table_bytes <= sizeof(few) else <char*> malloc(table_bytes)
        if tables == NULL:
            raise MemoryError("cannot allocate the tap tables of a call")
        try:
            if plan is None and p.yl == 1:
                self._touch(p, p.l_out, n_threads)
            with nogil:
                scratch_bytes = _plan(p, taps, base, self.kernels, size, n_threads,
                                      <fc1d_run*> (tables + where_bytes), <ptrdiff_t*> tables,
                                      <int32_t*> (tables + where_bytes + run_bytes))
                if unpacked:
                    scratch_bytes = _pack_in_units(p, &self.unpacked, &not_finite, size, scratch_bytes)
                if unpacked and p.unpacked == NULL and plan is None:
                    failed = self._pack()
                    p.w = self.packed
                # a weight that turns out not to be finite takes a scatter to another engine
                if plan is None and not failed and (self.finite or not (self.transposed or p.leaves_out)):
                    failed = run_job(<unit_fn> self.kernels.run_unit, p,
                                     p.n_tiles * p.n_co_units * p.n_group_units * p.n_item_units, macs,
                                     scratch_bytes, n_threads)
        finally:
            if tables != <char*> few:
                free(tables)
        if plan is not None:
            plan.update(self._told(p), threads=n_threads, scratch_bytes=scratch_bytes)
            return 0
        if failed:
            raise MemoryError(f"cannot allocate a packed weight, or scratch of {scratch_bytes} bytes a thread")
        if not_finite:
            self.finite = False
        if not self.finite and not self.transposed and p.leaves_out:  # once more, with all taps
            self._is_ready(&given)
            self._run_line(&given, taps, base, threads, None)
        return 0

    cdef LiveTaps _find_live(self, const fc1d_problem* p):
        """The taps that read the input in this call and many before it, of a large weight, if they are few.

        The others lie between them, so that a line of the cache that is read is for the most part not used. 768
        channels to as many, 13 taps, one position: 596 -> 156 us.
        """
        cdef ptrdiff_t k = p.kernel_size, j, n = 0
        cdef size_t size = p.groups * p.c_out * p.c_in * self.itemsize
        cdef bytes places
        cdef ptrdiff_t* place
        cdef LiveTaps live
        if size * k < LIVE_BYTES or 2 * _count_live(p) > k or self.rows:
            return None
        if self.owner is not None:
            return self.owner._find_live(p)
        places = PyBytes_FromStringAndSize(NULL, k * sizeof(ptrdiff_t))
        place = <ptrdiff_t*> <char*> places
        for j in range(k):
            place[j] = -1
            if _is_live(p, p.pos[j]):
                place[j] = n
                n += 1
        with cython.critical_section(self):
            live = self.live
            if live is not None and live.places == places:
                return live
            self.seen = self.seen + 1 if self.places == places else 1
            self.places = places
            if self.seen < LIVE_CALLS or n == 0 or self._cuts_taps():
                return None
            self.seen = 0
        try:
            live = LiveTaps(p.n_phases, n, size * n, places)
        except MemoryError:
            return None
        _keep_taps(p, &self.taps, place, n, &live.taps)
        with nogil:
            _copy_live(p, place, self.kernels.rows, self.itemsize, <const char*> p.w, <char*> live.packed)
        with cython.critical_section(self):
            self.live = live
        return live

    cdef void _take(self, fc1d_problem* p, cnp.ndarray x, cnp.ndarray y, cnp.ndarray residual, int last) noexcept:
        """Fill in the operands, whose columns are axis ``last``."""
        cdef int half = _half(x)
        cdef int shift = 1 if half else 2 if self.itemsize == 4 else 3  # of a stride: divisions would be slower
        p.x, p.y, p.half = cnp.PyArray_DATA(x), cnp.PyArray_DATA(y), half
        p.xn, p.xc, p.xl = x.strides[0] >> shift, x.strides[1] >> shift, x.strides[last] >> shift
        p.yn, p.yc, p.yl = y.strides[0] >> shift, y.strides[1] >> shift, y.strides[last] >> shift
        p.n_batch, p.l_in, p.l_out = x.shape[0], x.shape[last], y.shape[last]
        if residual is not None:
            p.residual = cnp.PyArray_DATA(residual)
            p.rn, p.rc = residual.strides[0] >> shift, residual.strides[1] >> shift
            p.rl = residual.strides[last] >> shift
        if p.l_out == 1:
            p.yl = p.rl = 1
        if last == 2:
            return
        p.rows_in, p.rows_out = x.shape[2], y.shape[2]
        p.xh, p.yh = x.strides[2] >> shift, y.strides[2] >> shift
        if residual is not None:
            p.rh = residual.strides[2] >> shift
        cdef ptrdiff_t end = cnp.PyArray_ITEMSIZE(x)
        for axis in range(4):
            end += max(x.strides[axis], 0) * (x.shape[axis] - 1)
        p.x_end = <const char*> p.x + end

    cdef void _take_parts(self, fc1d_problem* p) noexcept:
        """Make real operands of complex ones, whose strides are in real numbers."""
        if p.n_cols == 1:
            p.yl = p.rl = 2
        if p.xc == 2:  # the parts of neighbouring channels follow each other
            p.parts = p.xc = 1
        if not self.transposed and p.yc == 2 and p.yl != 2 and (p.residual == NULL or p.rc == 2):
            p.fused = p.y_step = p.yc = p.rc = 1
            return
        p.l_out *= 2
        p.pairs = p.yl != 2 or (p.residual != NULL and p.rl != 2)
        if not p.pairs:
            p.yl = p.rl = 1

    cpdef int run_planes(self, cnp.ndarray x, cnp.ndarray y, ptrdiff_t top, ptrdiff_t left, threads,
                         cnp.ndarray residual=None, dict plan=None) except -1:
        """y = layer(x) for x (N, C_in, H_in, W_in) and y (N, C_out, H_out, W_out); otherwise as `run`.

        Row 0 and column 0 of y are those that top and left say.
        """
        cdef fc1d_problem p = self.problem
        cdef Planes t
        cdef ptrdiff_t k = p.kernel_size, scratch_bytes
        cdef int failed
        self._take(&p, x, y, residual, 3)
        if cnp.PyArray_SIZE(x) == 0 or cnp.PyArray_SIZE(y) == 0:
            return 0
        p.n_cols, p.row_base = p.l_out, -top
        if _rows_follow(&p) and k * p.x_step * p.row_step == 1 and not (top or left):
            p.l_in = p.l_out = p.n_cols = p.l_in * p.rows_in
            p.rows_out = 0
            return self._run_line(&p, &self.taps, 0, threads, plan)
        if self.rows * p.rows_in * p.rows_out == 1 and top == 0:
            p.rows_out = 0
            return self._run_line(&p, &self.taps, -left, threads, plan)
        if k == self.rows and p.l_in * p.l_out == 1 and left == 0:
            p.l_in, p.l_out, p.n_cols, p.x_step = p.rows_in, p.rows_out, p.rows_out, p.row_step
            p.xl, p.yl, p.rl = p.xh, p.yh if p.rows_out > 1 else 1, p.rh if p.rows_out > 1 else 1
            p.rows_out = 0
            return self._run_line(&p, &self.down, -top, threads, plan)
        if self._side_by_side(&p):
            p.kernel_rows, p.row_dilation = self.rows, self.row_dilation
            return self._run_positions(&p, p.rows_out, -left, threads, plan)
        cdef double macs = _macs(&p) * p.rows_out
        cdef int n_threads = 1
        if macs >= SERIAL_MACS:
            n_threads = threads if isinstance(threads, int) else threads()
        cdef size_t table_bytes = k * (2 * sizeof(fc1d_run) + 2 * sizeof(ptrdiff_t)) + p.ci_block * k * sizeof(int32_t)
        cdef ptrdiff_t few[512]
        cdef char* tables = <char*> few if table_bytes <= sizeof(few) else <char*> malloc(table_bytes)
        if tables == NULL:
            raise MemoryError("cannot allocate the tap tables of a call")
        t.runs = <fc1d_run*> tables
        t.row_runs = t.runs + k
        t.where = <ptrdiff_t*> (t.row_runs + k)
        t.row_where = t.where + k
        t.tap = <int32_t*> (t.row_where + k)
        try:
            if plan is None and p.yl == 1 and p.yh == p.l_out:
                self._touch(&p, p.rows_out * p.l_out, n_threads)
            with nogil:
                scratch_bytes = _plan_planes(&p, &self.taps, &self.down, self.rows, self.row_dilation, -left,
                                             self.kernels, self.itemsize, n_threads, &t)
                if plan is None:
                    failed = run_job(<unit_fn> self.kernels.run_unit, &p,
                                     p.n_tiles * p.n_co_units * p.n_group_units * p.n_item_units, macs,
                                     scratch_bytes, n_threads)
        finally:
            if tables != <char*> few:
                free(tables)
        if plan is not None:
            plan.update(self._told(&p), threads=n_threads, scratch_bytes=scratch_bytes)
            return 0
        if failed:
            raise MemoryError(f"cannot allocate scratch of {scratch_bytes} bytes a thread")
        return 0

    cdef int _touch(self, const fc1d_problem* p, ptrdiff_t length, int n_threads) except -1:
        """Take the pages of a result of long rows that units write to side by side."""
        cdef ptrdiff_t rows = p.c_out // p.fused * p.groups, item, size = 2 if p.half else self.itemsize
        cdef char* y = <char*> p.y
        if length * size < 1 << 20:
            return 0
        with nogil:
            for item in range(p.n_batch):
                touch_rows(y + item * p.yn * size, rows, p.yc * size, length * size, n_threads)
        return 0

    cdef dict _told(self, const fc1d_problem* p):
        """What `_block_channels` and `_plan` chose, under the names that `fastconv1d.planner.explain` documents."""
        cdef ptrdiff_t rows = min(p.c_out, self.kernels.rows)
        return {
            "kernel": "run_unit",
            "register_tile": (rows, self.kernels.vectors[rows] * self.kernels.lanes),
            "phases": p.n_phases,
            "fused_phases": p.fused,
            "ci_chain": p.ci_chain,
            "ci_block": p.ci_block,
            "k_block": min(p.k_block, p.kernel_size),
            "tile_cols": p.tile_cols,
            "tiles": p.n_tiles,
            "items_per_unit": p.items_per_unit,
            "co_unit": min(p.co_unit, p.c_out),
            "groups_per_unit": p.groups_per_unit,
            "units": p.n_tiles * p.n_co_units * p.n_group_units * p.n_item_units,
            "window_runs": p.n_runs,
            "window_bytes": p.window_elems * self.itemsize,
            "by_rows": bool(p.by_rows),
            "staged": bool(p.staged),
        }

    def plan_planes(self, shape, shape_out, ptrdiff_t top, ptrdiff_t left, threads):
        """As `plan`, for arrays of shapes (N, C_in, H_in, W_in) and (N, C_out, H_out, W_out)."""
        dtype = cnp.PyArray_DescrFromType(self.typenum)
        x, y = np.empty(shape, dtype), np.empty(shape_out, dtype)
        if self.channels_last:
            x, y = (np.empty(a.transpose(0, 2, 3, 1).shape, dtype).transpose(0, 3, 1, 2) for a in (x, y))
        told = {"engine": "direct", "isa": self.isa}
        self.run_planes(x, y, top, left, threads, plan=told)
        return told

    def plan(self, ptrdiff_t n_batch, ptrdiff_t l_in, ptrdiff_t l_out, ptrdiff_t pad_left, threads):
        """Return what `run` would do for contiguous arrays of these sizes."""
        cdef fc1d_problem* p = &self.problem
        dtype = cnp.PyArray_DescrFromType(self.typenum)
        shapes = (n_batch, self._channels_in(), l_in), (n_batch, p.c_out // p.fused * p.groups, l_out)
        if self.channels_last:
            x, y = (np.empty((n, length, c), dtype).swapaxes(1, 2) for n, c, length in shapes)
        else:
            x, y = (np.empty(shape, dtype) for shape in shapes)
        told = {"engine": "direct", "isa": self.isa}
        self.run(x, y, pad_left, threads, plan=told)
        return told

    cdef ptrdiff_t _channels_in(self) noexcept:
        return self.problem.c_in * self.problem.groups // self.parts

    cdef bint _side_by_side(self, const fc1d_problem* p) noexcept:
        """Whether this is a depthwise correlate whose steps are vectors along the channels."""
        return (not self.transposed and p.c_in * p.c_out == 1 and p.groups > 1 and p.xc == 1 and p.yc == 1
                and (p.residual == NULL or p.rc == 1) and not p.half and p.before.function == 0
                and p.after.alpha == NULL and self._positions_scratch() <= SCRATCH_BYTES)

    cdef ptrdiff_t _positions_scratch(self) noexcept:
        """Bytes: where the row of each tap is, and a row of zeros."""
        return self.problem.kernel_size * sizeof(void*) + self.problem.groups * self.itemsize

    cdef cnp.ndarray _weight_by_tap(self):
        """Weight and bias of a depthwise layer as (K + 1, C), or (C_out / groups, K, C) and the biases.

        For the caller to keep: another thread may be making it, too.
        """
        cdef cnp.ndarray by_tap
        if self.owner is not None:
            return self.owner._weight_by_tap()
        with cython.critical_section(self):
            if self.by_tap is None:
                self.by_tap = self._made_by_tap()
            by_tap = self.by_tap
        return by_tap

    cdef cnp.ndarray _made_by_tap(self):
        cdef fc1d_problem* p = &self.problem
        cdef cnp.npy_intp[3] shape
        shape[0], shape[1], shape[2] = p.groups, p.kernel_size, p.c_out
        packed = cnp.PyArray_SimpleNewFromData(3, shape, self.typenum, self.packed)
        bias = np.zeros(p.groups * p.c_out, packed.dtype) if self.bias is None else self.bias
        return np.concatenate([packed.transpose(2, 1, 0).ravel(), bias.reshape(p.groups, p.c_out).T.ravel()])

    cdef bint _is_short(self, const fc1d_problem* p) noexcept:
        """Whether transposing pays, so that vectors run along the groups of one input channel.

        It saves 45 ns a group (AVX2): 1,536 channels with 4 taps took 72 us for 4 positions and take 5.4, 72 and 18 for
        16, 86 and 89 for 64. 64 items of 400 channels with 101 taps over 13 positions took 20.9 ms by items and take
        7.2.
        """
        return (p.c_in == 1 and p.groups >= 2 * self.kernels.lanes and p.c_out <= self.kernels.rows and p.l_in <= 48
                and min(p.kernel_size, p.l_in) * p.l_out <= 2500 and p.kernel_size <= 1000 and p.yl == 1
                and p.residual == NULL and not p.half and p.before.alpha == NULL and p.after.alpha == NULL
                and p.l_in > 0)

    cdef int _run_channels(self, fc1d_problem* p, threads, dict plan) except -1:
        cdef double macs = _macs(p)
        cdef int n_threads = 1, failed
        cdef ptrdiff_t size = self.itemsize, rows = p.l_in + p.c_out * p.l_out + 1, units, scratch_bytes
        cdef ptrdiff_t width = 4 * self.kernels.lanes
        cdef cnp.ndarray by_tap = self._weight_by_tap()
        if macs >= SERIAL_MACS:
            n_threads = threads if isinstance(threads, int) else threads()
        p.w = cnp.PyArray_DATA(by_tap)
        if p.bias != NULL:
            p.bias = <const char*> p.w + p.groups * p.c_out * p.kernel_size * size
        p.leaves_out = p.mode == 0 and p.kernel_size <= p.k_block and self.finite
        units = _ceil(p.groups, max(1, CHANNELS_BYTES // (size * rows * width)) * width)
        if n_threads > 1:
            units = max(units, min(p.groups // width, _ceil(4 * n_threads, p.n_batch)))
        p.groups_per_unit = _ceil(_ceil(p.groups, max(1, units)), width) * width
        p.n_group_units = _ceil(p.groups, p.groups_per_unit)
        p.row_pitch = _odd_lines(p.groups_per_unit, size)
        scratch_bytes = (p.kernel_size + 8) * sizeof(void*) + rows * p.row_pitch * size
        if plan is not None:
            plan.update(kernel="run_channels", units=p.n_batch * p.n_group_units, threads=n_threads,
                        scratch_bytes=scratch_bytes)
            return 0
        with nogil:
            failed = run_job(<unit_fn> self.kernels.run_channels, p, p.n_batch * p.n_group_units, macs,
                             scratch_bytes, n_threads)
        if failed:
            raise MemoryError(f"cannot allocate scratch of {scratch_bytes} bytes a thread")
        return 0

    cdef int _run_items(self, fc1d_problem* p, threads, dict plan) except -1:
        cdef double macs = _macs(p)
        cdef int n_threads = 1, failed
        cdef ptrdiff_t size = self.itemsize, lanes = self.kernels.lanes, rows = self.kernels.rows, units, scratch_bytes
        cdef ptrdiff_t terms = p.ci_block * p.kernel_size, whole = _whole_rows(p, self.kernels)
        if macs >= SERIAL_MACS:
            n_threads = threads if isinstance(threads, int) else threads()
        p.items_per_unit = min(_window_items(p, size), max(6 * lanes, STAGE_BYTES // (size * p.c_out * p.n_cols)))
        # whole vectors that the window and, with as few channels as can be, the stage have room for
        p.items_per_unit = min(p.items_per_unit, TOTAL_BYTES // (size * whole * p.n_cols * (1 + p.levels)))
        p.items_per_unit = max(1, p.items_per_unit // lanes) * lanes
        units = _ceil(p.n_batch, p.items_per_unit)
        if n_threads > 1:
            units = max(units, min(p.n_batch // (2 * lanes), _ceil(4 * n_threads, p.groups)))
        p.items_per_unit = _ceil(_ceil(p.n_batch, max(1, units)), lanes) * lanes
        p.n_item_units = _ceil(p.n_batch, p.items_per_unit)
        p.co_unit = max(1, STAGE_BYTES // (size * p.items_per_unit * p.n_cols * whole * (1 + p.levels))) * whole
        p.co_unit = min(p.co_unit, _ceil(p.c_out, whole) * whole)
        p.n_co_units = _ceil(p.c_out, p.co_unit)
        p.co_block = max(rows, WEIGHT_BYTES // (size * p.ci_block * min(p.k_block, p.kernel_size)) // rows * rows)
        p.row_pitch = p.stage_pitch = _odd_lines(p.items_per_unit, size)
        p.window_elems = (p.ci_block * p.l_in + 1) * p.row_pitch
        p.stage_elems = min(p.co_unit, p.c_out) * p.n_cols * p.stage_pitch
        p.emit_rows = 4 * lanes if p.y_step > 1 else 0  # positions in the order of y
        p.by_rows = p.window_elems <= STRIP_VECTORS * lanes
        p.leaves_out = p.mode == 0 and p.kernel_size > 1 and _leaves_out(p, 1) and self.finite
        scratch_bytes = size * (p.window_elems + (1 + p.levels) * p.stage_elems + p.emit_rows * p.stage_pitch)
        scratch_bytes += terms * sizeof(int32_t)
        if plan is not None:
            plan.update(kernel="run_items", units=p.n_item_units * p.groups * p.n_co_units, threads=n_threads,
                        scratch_bytes=scratch_bytes)
            return 0
        with nogil:
            failed = run_job(<unit_fn> self.kernels.run_items, p, p.n_item_units * p.groups * p.n_co_units, macs,
                             scratch_bytes, n_threads)
        if failed:
            raise MemoryError(f"cannot allocate scratch of {scratch_bytes} bytes a thread")
        return 0

    cdef int _run_positions(self, fc1d_problem* p, ptrdiff_t rows_out, ptrdiff_t base, threads, dict plan) except -1:
        cdef ptrdiff_t places = rows_out * p.l_out
        cdef double macs = <double> p.n_batch * p.groups * places * p.kernel_size
        cdef int n_threads = 1, failed
        cdef size_t scratch_bytes = self._positions_scratch()
        cdef cnp.ndarray by_tap = self._weight_by_tap()  # whose bias is that of the layer
        if macs >= SERIAL_MACS:
            n_threads = threads if isinstance(threads, int) else threads()
        p.w, p.pos, p.x_base, p.n_cols = cnp.PyArray_DATA(by_tap), self.taps.pos, base, places
        p.tile_cols = max(1, min(places, <ptrdiff_t> (places * min(1., SIGNAL_MACS * p.n_batch / macs))))
        while n_threads > 1 and p.n_batch * _ceil(places, p.tile_cols) < 4 * n_threads and p.tile_cols > 16:
            p.tile_cols = _ceil(p.tile_cols, 2)
        p.n_tiles = _ceil(places, p.tile_cols)
        if plan is not None:
            plan.update(kernel="run_positions", units=p.n_batch * p.n_tiles, threads=n_threads,
                        scratch_bytes=scratch_bytes)
            return 0
        with nogil:
            failed = run_job(<unit_fn> self.kernels.run_positions, p, p.n_batch * p.n_tiles, macs, scratch_bytes,
                             n_threads)
        if failed:
            raise MemoryError(f"cannot allocate scratch of {scratch_bytes} bytes a thread")
        return 0

    def __call__(self, x, threads=1, residual=None, out=None):
        """The layer's output for x (N, C_in, L_in) or (C_in, L_in), or None for anything but the plain case.

        Plain: an aligned native ndarray of the layer's dtype (or of 16 bits for float32), of strides of whole elements,
        with the layer's channels, no zero dimension, an output of at least one element, and finite weights where
        scatter needs them; a residual likewise and of the output's shape; an `out` that is C-contiguous as well and
        lies apart from both. The caller sends the rest to the general path.
        ``threads`` is how many threads may work, or a function that returns it, called only for a call worth several.
        """
        cdef fc1d_problem* p = &self.problem
        if not cnp.PyArray_CheckExact(x):
            return None
        if self.rows:
            return self._call_planes(x, threads, residual, out)
        cdef cnp.ndarray a = x
        cdef int nd = cnp.PyArray_NDIM(a), typenum = cnp.PyArray_TYPE(a), half = 0
        if typenum != self.typenum and self.typenum == cnp.NPY_FLOAT32:
            half = typenum == cnp.NPY_FLOAT16 or a.dtype.name == "bfloat16"
        if self.transposed and not self.finite:
            return None
        if (nd != 3 and nd != 2) or (typenum != self.typenum and not half) or not _plain(a):
            return None
        cdef int channel_axis = nd - 1 if self.channels_last else nd - 2
        if a.shape[channel_axis] != self._channels_in():
            return None
        cdef ptrdiff_t l_in = a.shape[nd - 2 if self.channels_last else nd - 1], l_out
        cdef ptrdiff_t left = self.pad_left, right = self.pad_right
        if l_in >= FAR:
            return None
        if self.same:
            _even_pads(l_in, self.stride, self.span, self.same, &left, &right)
        if self.transposed:
            l_out = (l_in - 1) * self.stride - left - right + self.span + self.output_padding
        else:
            l_out = l_in + left + right - self.span
            if l_out < 0 or not _mode_takes(p.mode, l_in, max(left, right)):
                return None
            l_out = l_out // self.stride + 1
        if l_out < 1:
            return None
        cdef cnp.npy_intp shape[3]
        cdef cnp.npy_intp c_out = p.c_out // p.fused * p.groups
        shape[0], shape[1], shape[2] = a.shape[0], c_out, l_out
        shape[channel_axis], shape[nd - 2 if self.channels_last else nd - 1] = c_out, l_out
        cdef cnp.ndarray r = residual if _fits(residual, typenum, nd, shape) else None
        cdef cnp.ndarray y = _result(a, r, out, nd, shape)
        if y is None or (residual is not None and r is None):
            return None
        if r is not None:
            r = self._as_ncl(r, nd)
        self.run(self._as_ncl(a, nd), self._as_ncl(y, nd), left, threads, r)
        return y

    cdef _call_planes(self, cnp.ndarray a, threads, residual, out):
        """As `__call__`, for x (N, C_in, H_in, W_in) or (C_in, H_in, W_in)."""
        cdef fc1d_problem* p = &self.problem
        cdef int nd = cnp.PyArray_NDIM(a), typenum = cnp.PyArray_TYPE(a), half = 0, first = nd - 3
        cdef ptrdiff_t top = self.pad_top, bottom = self.pad_bottom, left = self.pad_left, right = self.pad_right
        cdef ptrdiff_t height, width, row_span = self.row_dilation * (self.rows - 1) + 1
        cdef cnp.npy_intp shape[4]
        if typenum != self.typenum and self.typenum == cnp.NPY_FLOAT32:
            half = typenum == cnp.NPY_FLOAT16 or a.dtype.name == "bfloat16"
        if (nd != 4 and nd != 3) or (typenum != self.typenum and not half) or not _plain(a):
            return None
        cdef int channel_axis = nd - 1 if self.channels_last else first
        cdef int row_axis = first if self.channels_last else first + 1
        if a.shape[channel_axis] != p.c_in * p.groups:
            return None
        height, width = a.shape[row_axis], a.shape[row_axis + 1]
        if max(height, width) >= FAR:
            return None
        if self.same:
            _even_pads(height, p.row_step, row_span, self.same, &top, &bottom)
            _even_pads(width, self.stride, self.span, self.same, &left, &right)
        cdef ptrdiff_t rows_out = height + top + bottom - row_span, l_out = width + left + right - self.span
        if (rows_out < 0 or l_out < 0 or not _mode_takes(p.mode, height, max(top, bottom))
                or not _mode_takes(p.mode, width, max(left, right))):
            return None
        shape[0] = a.shape[0]
        shape[channel_axis] = p.c_out * p.groups
        shape[row_axis], shape[row_axis + 1] = rows_out // p.row_step + 1, l_out // self.stride + 1
        cdef cnp.ndarray r = residual if _fits(residual, typenum, nd, shape) else None
        cdef cnp.ndarray y = _result(a, r, out, nd, shape)
        if y is None or (residual is not None and r is None):
            return None
        self.run_planes(self._as_nchw(a, nd), self._as_nchw(y, nd), top, left, threads,
                        None if r is None else self._as_nchw(r, nd))
        return y

    cdef cnp.ndarray _as_nchw(self, cnp.ndarray a, int nd):
        """A view of shape (N, C, H, W)."""
        if nd == 3:
            a = a[None]
        return (<object> a).transpose(0, 3, 1, 2) if self.channels_last else a

    cdef cnp.ndarray _as_ncl(self, cnp.ndarray a, int nd):
        """A view of shape (N, C, L)."""
        if self.channels_last:
            a = cnp.PyArray_SwapAxes(a, nd - 2, nd - 1)
        return a if nd == 3 else a[None]


cdef inline int _half(cnp.ndarray a) noexcept:
    """How elements of 16 bits are stored: 1 float16, 2 bfloat16; 0 for wider ones."""
    if cnp.PyArray_ITEMSIZE(a) != 2:
        return 0
    return 1 if cnp.PyArray_TYPE(a) == cnp.NPY_FLOAT16 else 2


cdef bint _plain(cnp.ndarray a) noexcept:
    """Aligned, native, strides of whole elements, and not empty."""
    cdef int axis
    if not cnp.PyArray_ISBEHAVED_RO(a):
        return False
    for axis in range(cnp.PyArray_NDIM(a)):
        if a.shape[axis] == 0 or a.strides[axis] & (cnp.PyArray_ITEMSIZE(a) - 1):  # 2, 4, 8 or 16
            return False
    return True


cdef bint _has_shape(cnp.ndarray a, int nd, const cnp.npy_intp* shape) noexcept:
    return cnp.PyArray_NDIM(a) == nd and cnp.PyArray_CompareLists(a.shape, shape, nd)


cdef bint _fits(residual, int typenum, int nd, const cnp.npy_intp* shape) noexcept:
    """Whether the kernels can read it."""
    return (residual is not None and cnp.PyArray_CheckExact(residual) and cnp.PyArray_TYPE(residual) == typenum
            and _plain(residual) and _has_shape(residual, nd, shape))


cdef cnp.ndarray _result(cnp.ndarray x, cnp.ndarray residual, out, int nd, cnp.npy_intp* shape):
    """A new result of x's dtype, or `out` where it can be written to in place; otherwise None."""
    cdef cnp.ndarray y
    cdef int typenum = cnp.PyArray_TYPE(x)
    if out is None:
        try:
            return new_array(nd, shape, typenum)
        except ValueError:  # beyond 64 bits of bytes
            return None
    if not cnp.PyArray_CheckExact(out):
        return None
    y = out
    if (cnp.PyArray_TYPE(y) != typenum or not cnp.PyArray_ISCARRAY(y) or not _has_shape(y, nd, shape)
            or _may_overlap(y, x) or (residual is not None and _may_overlap(y, residual))):
        return None
    return y


cdef void _even_pads(ptrdiff_t length, ptrdiff_t stride, ptrdiff_t span, int same, ptrdiff_t* left,
                     ptrdiff_t* right) noexcept nogil:
    """The padding that gives ceil(length / stride) outputs, see `PreparedLayer`'s ``same``."""
    right[0] = max((length - 1) // stride * stride + span - length, 0)
    left[0] = (right[0] + same - 1) // 2
    right[0] -= left[0]


cdef bint _mode_takes(int mode, ptrdiff_t length, ptrdiff_t pad) noexcept nogil:
    return not (mode == 1 and pad >= length or mode == 3 and pad > length)


cdef bint _may_overlap(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Whether the ranges of memory between the first and the last elements meet."""
    cdef char* low[2]
    cdef char* high[2]
    cdef cnp.ndarray each
    cdef int i = 0, axis
    cdef ptrdiff_t step
    for each in (a, b):
        low[i] = cnp.PyArray_BYTES(each)
        high[i] = low[i] + cnp.PyArray_ITEMSIZE(each)
        for axis in range(cnp.PyArray_NDIM(each)):
            step = (each.shape[axis] - 1) * each.strides[axis]
            if step > 0:
                high[i] += step
            else:
                low[i] += step
        i += 1
    return low[0] < high[1] and low[1] < high[0]


ctypedef fused word_t:
    int32_t
    int64_t


cdef void _to_rows(const char* x, ptrdiff_t sn, ptrdiff_t sc, ptrdiff_t sl, ptrdiff_t n_batch, ptrdiff_t channels,
                   ptrdiff_t n, ptrdiff_t first, ptrdiff_t room, ptrdiff_t pitch, word_t* ring) noexcept nogil:
    """ring[(first + i) % room][item, c] = x[item, c, i] for x with strides of bytes, rows of pitch elements."""
    cdef ptrdiff_t i, item, c
    cdef word_t* row
    for i in range(n):
        row = ring + (first + i) % room * pitch
        for item in range(n_batch):
            for c in range(channels):
                row[item * channels + c] = (<const word_t*> (x + item * sn + c * sc + i * sl))[0]


cdef void _from_rows(const word_t* rows, ptrdiff_t width, ptrdiff_t n, word_t* y) noexcept nogil:
    """y[j, i] = rows[i, j] for j < width, i < n."""
    cdef ptrdiff_t i, j
    for j in range(width):
        for i in range(n):
            y[j * n + i] = rows[i * width + j]


# Positions that a chunk for the ring may have. Whole calls have a price for each group, the ring for each position:
# 1,536 channels, 4 taps: 1.8 us for 1 position, 20 for 8, 41 for 16, where a whole call takes 97, 105 and 108;
# 64 channels, 31 taps: 0.8, 2.7 and 4.7 for 11, 12 and 12.
cdef ptrdiff_t MOST_POSITIONS = 16


def most_positions():
    """The longest chunk that `DepthwiseRing` takes."""
    return MOST_POSITIONS


@cython.final
cdef class Guard:
    """Whether somebody is at work on an object that has one user at a time: ``with guard`` is that one, or an error."""
    cdef long long busy
    cdef str what

    def __cinit__(self, str what):
        self.what = what

    cdef int take(self) except -1:
        if fc1d_swap(&self.busy, 1):
            raise RuntimeError(f"this {self.what} is being called by another thread, or by a signal's handler: "
                               f"use one for each")
        return 0

    def __enter__(self):
        self.take()

    def __exit__(self, *error):
        fc1d_release(&self.busy)


cdef class DepthwiseRing:
    """A few outputs at a time of a depthwise correlate with stride 1: one input and one output channel a group.

    The inputs that the next outputs read are rows of all channels in a ring, so that a position is vectors along the
    channels. The bits are those of the layer.

    Parameters
    ----------
    layer : PreparedLayer
    weight : ndarray of shape (C, 1, K)
    bias : ndarray of shape (C,) or None
    n_batch, dilation : int
    keep : int
        The inputs that are kept, at least dilation*(K - 1).
    guard : Guard
        Of the stream.
    """
    cdef const fc1d_kernels* kernels
    cdef cnp.ndarray weight, ring, results
    cdef object bias
    cdef const void** rows
    cdef ptrdiff_t n_batch, channels, taps, dilation, chain, keep, room, newest, taken
    cdef ptrdiff_t itemsize, width, row_pitch, weight_pitch  # elements
    cdef int typenum
    cdef readonly bint active
    cdef Guard guard

    def __cinit__(self, PreparedLayer layer not None, cnp.ndarray weight not None, bias, ptrdiff_t n_batch,
                  ptrdiff_t dilation, ptrdiff_t keep, Guard guard not None):
        self.guard = guard
        self.kernels, self.typenum = layer.kernels, layer.typenum
        self.chain = layer.problem.k_block
        self.n_batch, self.channels, self.taps, self.dilation = n_batch, weight.shape[0], weight.shape[2], dilation
        self.keep, self.room = keep, keep + MOST_POSITIONS
        self.bias = bias
        self.itemsize, self.width = layer.itemsize, n_batch * self.channels
        self.row_pitch = _odd_lines(self.width, self.itemsize)
        self.weight_pitch = _odd_lines(self.channels, self.itemsize)
        self.weight = np.zeros((self.taps, self.weight_pitch), (<object> weight).dtype)
        (<object> self.weight)[:, :self.channels] = weight[:, 0].T
        self.rows = <const void**> PyMem_Malloc(self.taps * sizeof(void*))
        if self.rows == NULL:
            raise MemoryError("cannot allocate the rows of a position")

    def __dealloc__(self):
        PyMem_Free(self.rows)

    def enter(self, history):
        """Go on after the inputs of history, (N, C, keep)."""
        if self.ring is None:
            dtype = (<object> self.weight).dtype
            self.ring = np.empty((self.room, self.row_pitch), dtype)
            self.results = np.empty((MOST_POSITIONS, self.width), dtype)
        (<object> self.ring)[:self.keep, :self.width] = history.reshape(self.width, self.keep).T
        self.newest, self.taken, self.active = self.keep - 1, 0, True

    def copy_to(self, history):
        """Write the last inputs to history[:, :, :keep]; returns how many were taken since `enter`."""
        cdef ptrdiff_t i
        for i in range(self.keep):
            row = (<object> self.ring)[(self.newest - self.keep + 1 + i + self.room) % self.room, :self.width]
            history[:, :, i] = row.reshape(self.n_batch, self.channels)
        return self.taken

    def stop(self):
        """Take no more inputs until `enter`."""
        self.active = False

    def advance(self, chunk):
        """The outputs for the inputs (N, C, n), or (C, n) of one item; None for anything but a short plain array."""
        if not cnp.PyArray_CheckExact(chunk):
            return None
        self.guard.take()
        try:
            return self._advance(<cnp.ndarray> chunk) if self.active else None
        finally:
            fc1d_release(&self.guard.busy)

    cdef _advance(self, cnp.ndarray chunk):
        cdef cnp.ndarray x = chunk
        cdef int nd = cnp.PyArray_NDIM(x)
        if cnp.PyArray_TYPE(x) != self.typenum or not cnp.PyArray_ISBEHAVED_RO(x):
            return None
        if not (nd == 3 and x.shape[0] == self.n_batch or nd == 2 and self.n_batch == 1):
            return None
        cdef ptrdiff_t n = x.shape[nd - 1]
        if x.shape[nd - 2] != self.channels or not 1 <= n <= MOST_POSITIONS:
            return None
        cdef cnp.ndarray y = cnp.PyArray_EMPTY(nd, x.shape, self.typenum, 0)
        cdef char* out = <char*> cnp.PyArray_DATA(y)
        cdef char* results = out if n == 1 else <char*> cnp.PyArray_DATA(self.results)
        cdef ptrdiff_t i
        with nogil:
            self._take(<const char*> cnp.PyArray_DATA(x), x.strides[0] if nd == 3 else 0, x.strides[nd - 2],
                       x.strides[nd - 1], n)
            for i in range(n):
                self._column((self.newest + 1 + i) % self.room, results + i * self.width * self.itemsize)
            if n > 1:
                if self.typenum == cnp.NPY_FLOAT32:
                    _from_rows(<const int32_t*> results, self.width, n, <int32_t*> out)
                else:
                    _from_rows(<const int64_t*> results, self.width, n, <int64_t*> out)
        self.newest = (self.newest + n) % self.room
        self.taken += n
        return y

    cdef void _take(self, const char* x, ptrdiff_t sn, ptrdiff_t sc, ptrdiff_t sl, ptrdiff_t n) noexcept nogil:
        """Copy n inputs into the ring, after the newest."""
        cdef char* ring = <char*> cnp.PyArray_DATA(self.ring)
        cdef ptrdiff_t first = (self.newest + 1) % self.room, size = self.itemsize
        if n == 1 and sc == size and (self.n_batch == 1 or sn == size * self.channels):
            memcpy(ring + first * self.row_pitch * size, x, self.width * size)
        elif size == 4:
            _to_rows(x, sn, sc, sl, self.n_batch, self.channels, n, first, self.room, self.row_pitch, <int32_t*> ring)
        else:
            _to_rows(x, sn, sc, sl, self.n_batch, self.channels, n, first, self.room, self.row_pitch, <int64_t*> ring)

    cdef void _column(self, ptrdiff_t row, char* out) noexcept nogil:
        """The output whose last tap is in a row of the ring, for all items and channels."""
        cdef char* ring = <char*> cnp.PyArray_DATA(self.ring)
        cdef const void* bias = NULL if self.bias is None else cnp.PyArray_DATA(<cnp.ndarray> self.bias)
        cdef ptrdiff_t k, item, item_bytes = self.channels * self.itemsize
        for k in range(self.taps - 1, -1, -1):
            self.rows[k] = ring + row * self.row_pitch * self.itemsize
            row -= self.dilation
            if row < 0:
                row += self.room
        for item in range(self.n_batch):
            self.kernels.step(self.channels, self.weight_pitch, self.taps, self.chain, cnp.PyArray_DATA(self.weight),
                              self.rows, bias, out + item * item_bytes)
            for k in range(self.taps):
                self.rows[k] = <const char*> self.rows[k] + item_bytes


# ---- the door -------------------------------------------------------------------------------------------------------

# Whether steps, residuals, 16 bits and any strides are dealt with inside.
FUSES = True


def unsuited(dtype_char, shape, stride, dilation, pad_left, pad_right, transposed):
    """The rule that keeps a layer with a weight of this shape from this engine, or None. Depends on the layer alone."""
    if dtype_char not in ("f", "d", "F", "D"):
        return "the dtype should be float32, float64, complex64 or complex128"
    return _unsuited_window(shape, stride, dilation, pad_left, pad_right, transposed)


cdef _unsuited_window(shape, ptrdiff_t stride, ptrdiff_t dilation, ptrdiff_t pad_left, ptrdiff_t pad_right,
                      bint transposed):
    cdef ptrdiff_t k = shape[2]
    if 0 in shape:
        return "no dimension of the weight may be zero"
    if max(stride, dilation, abs(pad_left), abs(pad_right)) >= FAR or dilation >= FAR // k:
        return "stride, padding and dilation*K should be below 2**40"
    if transposed and stride > MOST_PHASES:
        return f"the stride of a scatter should be at most {MOST_PHASES}"
    # a strip of 768 columns for each tap, or for each run of taps that reach over all, at 8 bytes an element
    if 8 * min(768 * k, 768 * min(k, stride) + k * dilation) > SCRATCH_BYTES // 2:
        return "the window of the kernel should fit the scratch"
    return None


def unsuited_planes(dtype_char, shape, ptrdiff_t stride, ptrdiff_t dilation):
    """As `unsuited`, for a correlate with a weight (C_out, C_in/groups, KH, KW): what rows need beside columns."""
    cdef ptrdiff_t k = shape[2]
    if dtype_char not in ("f", "d"):
        return "the dtype should be float32 or float64"
    if 0 in shape:
        return "no dimension of the weight may be zero"
    if max(stride, dilation) >= FAR or dilation >= FAR // k:
        return "stride and dilation*K should be below 2**40"
    if 8 * k * (192 + 32) * shape[3] > SCRATCH_BYTES // 2:  # a strip for each tap, at 8 bytes an element
        return "the window of the kernel should fit the scratch"
    return None


def correlate_planes(x, w, bias, y, geometry, down, run, steps=None, residual=None):
    """y[n, co, h, l] = bias[co] + sum over ci, i, k of w[co, ci, i, k] * x[n, ci, row, column].

    row = h*sh + i*dh - top and column = l*sw + k*dw - left.

    ``down`` is (sh, dh, top, bottom); geometry says the same of columns.
    """
    cdef PreparedLayer layer = PreparedLayer(w, bias, geometry, False, steps, down=down)
    layer.run_planes(x, y, layer.pad_top, layer.pad_left, run[0], residual)


def prepare(weight, bias, spec):
    """The layer that a Spec describes, packed, or None where `scatter` would decline its weight."""
    cdef PreparedLayer layer
    if weight.dtype.kind == "c" and (spec.steps.before or spec.steps.after):
        return None  # an error of each call
    layer = PreparedLayer(weight, bias, spec.window, spec.transposed, spec.steps, spec.output_padding, spec.same,
                          spec.channels_last)
    return None if layer.transposed and not layer.finite else layer


def correlate(x, w, bias, y, geometry, run, steps=None, residual=None):
    """y[n, co, l] = bias[co] + sum over ci, k of w[co, ci, k] * x[n, ci, l*stride + k*dilation - left].

    ``run`` is how many threads may work, and whether the mode is deterministic, which makes no difference here.
    """
    lengths = x.shape[2], y.shape[2]
    cdef PreparedLayer layer = PreparedLayer(w, bias, geometry, False, steps, lengths=lengths)
    layer.run(x, y, layer.pad_left, run[0], residual)


def scatter(x, w, bias, y, geometry, run, steps=None, residual=None):
    """y[n, co, o] = bias[co] + sum of w[ci, co, k] * x[n, ci, l] over ci, k, l: l*stride + k*dilation - left == o.

    Beyond the ends of the input the windows hold zeros, which times a finite weight are no part of the sum. Returns
    False for a weight that is not finite: y is yet to be computed then. A residual shares no memory with y.
    """
    lengths = x.shape[2], y.shape[2]
    cdef PreparedLayer layer = PreparedLayer(w, bias, geometry, True, steps, lengths=lengths)
    layer.run(x, y, layer.pad_left, run[0], residual)
    return layer.finite


# ---- the weight gradient ---------------------------------------------------------------------------------------------

# Columns of a chunk: rows of g for one register tile (4 to 8 of them, 4 KiB each) stay in L1 while the window passes.
cdef ptrdiff_t CHUNK_COLS = 1024
# The same in vectors for depthwise layers, where nothing passes again: a bound of the error.
cdef ptrdiff_t ROW_VECTORS = 256
# Depthwise groups that keep threads busy without partial sums.
cdef ptrdiff_t ENOUGH_GROUPS = 64
# Taps of a depthwise layer whose gradient by the input is made in the same pass: those that NAME(row) has.
cdef ptrdiff_t ROW_TERMS = 8
# Elements of a row between its first and last tap, which tables of 32 bits hold.
cdef ptrdiff_t TAPS_REACH = <ptrdiff_t> 1 << 30
# Partial sums: at most 16, in at most 4 MiB; a number that depends on shapes only, so that bits do not on threads.
cdef ptrdiff_t PARTS = 16
cdef ptrdiff_t PARTS_BYTES = 4 * 1024 * 1024
# Scratch of panels: the panel of a chunk, in L2, and the sums of a unit. With 3 MiB of sums a layer of 768 to 384
# channels and 16 taps took 1/1.2 of its time with 1 MiB; all scratch is to stay below 4 MiB.
cdef ptrdiff_t PANEL_BYTES = 512 * 1024
cdef ptrdiff_t SUMS_BYTES = 3 * 1024 * 1024
# Input channels up to which they may be the rows of register tiles, all of one unit.
cdef ptrdiff_t SWAPPED_CHANNELS = 32
# Bytes of a gradient by the output that are transposed in cache, as they are then, for few products.
cdef ptrdiff_t SWAPPED_BYTES = 1024 * 1024
# Multiply-adds of a gradient of one unit, which is one thread: 0.1 ms. Of more columns there are partial sums.
cdef double SWAPPED_MACS = 1e7
# Sums of a gradient of one chunk, in L1 on their way to the result.
cdef ptrdiff_t FINISH_BYTES = 16 * 1024
# The input of a depthwise row passes through a window here, and the hardware does not foresee the next row: fetched
# ahead, 1.8x with 32 MiB of operands, but 0.9x with 2 MiB, which an L2 holds. Rows read in place need no help.
cdef ptrdiff_t FETCH_BYTES = 4 * 1024 * 1024


cdef ptrdiff_t _reach(const fc1d_problem* p) noexcept nogil:
    """The longest run's elements beyond one a column."""
    cdef ptrdiff_t reach = 0, j
    for j in range(p.n_runs):
        reach = max(reach, p.runs[j].extra)
    return reach


cdef void _even_tiles(fc1d_problem* p, ptrdiff_t most_cols, ptrdiff_t lanes) noexcept nogil:
    """Tiles of at most ``most_cols`` columns, about as wide as one another."""
    p.tile_cols = _ceil(_ceil(p.n_cols, _ceil(p.n_cols, most_cols)), lanes) * lanes
    p.n_tiles = _ceil(p.n_cols, p.tile_cols)
    p.items_per_unit = 1


cdef bint _panels_win(const fc1d_gradient* q, ptrdiff_t lanes, ptrdiff_t itemsize) noexcept nogil:
    """Whether panels should be faster than dot products, each as a multiple of the time of its multiply-adds.

    Dot products pay for summing lanes after each row of columns, for lanes idle at the end of each item's, and for rows
    that vectors do not begin at: of 64 bytes all of those lie in two cache lines. Panels pay for idle lanes, a single
    vector, and transposing. Measured both ways on 600 layers in cache (4 to 300 channels, 1 to 15 taps, 1 to 1500
    columns, 1 to 16 items; 300 of float32 and 150 of float64 with AVX-512, 150 of float32 with AVX2): on average the
    way that is chosen takes 0.3 to 0.9 % longer than the better one, more than 10 % on 1 to 2 % of the layers, at most
    1.32 times; dot products alone would take 1.35 to 1.64 times, panels alone 1.06 to 1.12 times. 1.4 became 1 for SSE2
    in an earlier such sweep.
    """
    cdef const fc1d_problem* p = &q.window
    return (_panel_time(p.c_in, p.c_out, p.kernel_size, q.stride, lanes)
            < _dots_time(p.n_batch, p.n_cols, lanes, itemsize))


cdef double _panel_time(ptrdiff_t c_in, ptrdiff_t c_out, double taps, ptrdiff_t stride, ptrdiff_t lanes) noexcept nogil:
    cdef double vectors = _ceil(c_in, lanes)
    cdef double narrow = 1.3 if vectors == 1 else 1.
    return vectors * lanes / c_in * narrow * (1 + 8 * stride / (taps * c_out) + 8 / (taps * c_in))


cdef double _dots_time(ptrdiff_t n_batch, ptrdiff_t n_cols, ptrdiff_t lanes, ptrdiff_t itemsize) noexcept nogil:
    cdef ptrdiff_t width = lanes * itemsize
    cdef double apart = 1.4 if width >= 32 else 1.
    cdef double columns = min(<double> CHUNK_COLS, <double> n_batch * n_cols)
    return apart * _ceil(n_cols, lanes) * lanes / n_cols + 40 / columns


cdef bint _swapped_wins(cnp.ndarray g, cnp.ndarray x, ptrdiff_t taps, ptrdiff_t dilation,
                        const fc1d_kernels* kernels) noexcept:
    """Whether channels should change places: panels whose vectors run along the many output channels.

    Of 180 layers of 2 to 32 channels to 32 to 600 (1 to 16 taps, 1 to 1500 columns, 1 to 16 items) 41 gained or lost
    more than 5 % with AVX-512, 1.45 times on average, up to 2.7, 17 with AVX2, 1.63 times; none lost more than 5 %. The
    limits on items, dilation and bytes are of 300 others, which lost up to 2.8 times without them. The margin is of 550
    more: 1.9 to 3.7 % longer than the better way on average, 1.21 times at most where they change places.

    Numbers that are not finite would meet zeros that no window has, so `_is_finite` has to be asked as well.
    """
    cdef ptrdiff_t c_in = x.shape[1], c_out = g.shape[1], lanes = kernels.lanes, size = cnp.PyArray_ITEMSIZE(x)
    if not 2 <= c_in <= SWAPPED_CHANNELS or c_out < 2 * lanes or x.shape[2] <= dilation * (taps - 1) // 2:
        return False
    if x.shape[0] > 1 and taps < 7 or cnp.PyArray_SIZE(g) * size > SWAPPED_BYTES and taps * c_in < 100:
        return False
    if <double> cnp.PyArray_SIZE(g) * c_in * taps > SWAPPED_MACS and g.shape[2] < 2 * CHUNK_COLS:  # no partial sums
        return False
    cdef double there = (_panel_time(c_out, c_in, taps, 1, lanes) + 6. / (taps * c_in)) * x.shape[2] / g.shape[2]
    cdef double here = _dots_time(g.shape[0], g.shape[2], lanes, size)
    if c_out >= kernels.rows:
        here = min(here, _panel_time(c_in, c_out, taps, 1, lanes))
    return 1.15 * there < here


cdef bint _is_finite(cnp.ndarray a, const fc1d_kernels* kernels):
    if cnp.PyArray_IS_C_CONTIGUOUS(a):
        return kernels.all_finite(cnp.PyArray_DATA(a), cnp.PyArray_SIZE(a))
    return np.isfinite(a).all()


cdef bint _plan_panels(fc1d_gradient* q, const Taps* taps, ptrdiff_t base, const fc1d_kernels* kernels,
                       ptrdiff_t itemsize, fc1d_run* runs, ptrdiff_t* where) noexcept nogil:
    """Chunks for panels, where they are worth it and fit; expects x_step 1."""
    cdef fc1d_problem* p = &q.window
    cdef ptrdiff_t lanes = kernels.lanes, rows = kernels.rows, span, row, room, cols
    cdef bint several
    cdef ptrdiff_t width = kernels.vectors[min(rows, p.c_out)] * lanes, ci_pad = _ceil(p.c_in, lanes) * lanes
    q.sums_pitch = p.kernel_size * ci_pad
    if 32 * q.sums_pitch * itemsize > SUMS_BYTES:
        return False
    if q.swapped == 0 and (p.c_out < rows or not _panels_win(q, lanes, itemsize)):
        return False
    _even_tiles(p, CHAIN, lanes)
    span = (min(p.tile_cols, p.n_cols) - 1) * q.stride + 1
    several = 2 * p.n_cols <= CHAIN and p.n_batch > 1  # items lie as far apart as the longest run reaches
    row = _make_runs(p, taps, base, span if several else FAR, span, False, runs, where)
    if not several and row > span + p.kernel_size * 16:  # one run, if that is not longer than several
        row = _make_runs(p, taps, base, span, span, False, runs, where)
    room = PANEL_BYTES // (itemsize * width)
    if several:
        p.item_pitch = _ceil(span + _reach(p), q.stride) * q.stride
        p.items_per_unit = max(1, min(p.n_batch, min(CHAIN // p.n_cols, room // (p.item_pitch * p.n_runs))))
        row = _make_runs(p, taps, base, span, p.items_per_unit * p.item_pitch, False, runs, where)
    if row > room:
        return False
    q.panel = p.ci_block = width
    p.row_pitch = _odd_lines(row, itemsize)
    cols = p.items_per_unit * p.tile_cols  # rows of g lie beside the sums
    p.co_unit = max(rows, SUMS_BYTES // (itemsize * (q.sums_pitch + cols)) // rows * rows)
    if p.n_tiles == 1 and p.items_per_unit >= p.n_batch:
        q.sums_pitch = p.kernel_size * width
        q.finish_rows = max(rows, FINISH_BYTES // (itemsize * q.sums_pitch) // rows * rows)
        if q.swapped:
            q.finish_rows = p.c_out
        q.finish_rows = min(q.finish_rows, _ceil(p.c_out, rows) * rows)
        p.co_unit = p.c_out
        if not q.swapped:
            room = SUMS_BYTES // itemsize - q.finish_rows * q.sums_pitch
            p.co_unit = min(p.c_out, max(rows, room // cols // rows * rows))
    return True


cdef void _plan_dots(fc1d_gradient* q, const Taps* taps, ptrdiff_t base, const fc1d_kernels* kernels,
                     ptrdiff_t itemsize, fc1d_run* runs, ptrdiff_t* where) noexcept nogil:
    """Chunks for dot products."""
    cdef fc1d_problem* p = &q.window
    cdef ptrdiff_t lanes = kernels.lanes, row
    cdef ptrdiff_t cols = ROW_VECTORS * lanes if p.c_in * p.c_out == 1 else CHUNK_COLS
    while True:
        _even_tiles(p, cols, lanes)
        row = _make_runs(p, taps, base, p.tile_cols, p.tile_cols, False, runs, where)
        if row * itemsize <= WINDOW_BYTES or cols <= 16 * lanes:
            break
        cols //= 2
    p.item_pitch = p.tile_cols
    if p.n_tiles == 1 and 2 * p.n_cols <= CHUNK_COLS and p.n_batch > 1:
        p.item_pitch = p.tile_cols + _reach(p)
        cols = min(CHUNK_COLS, WINDOW_BYTES // (itemsize * p.n_runs))
        p.items_per_unit = max(1, min(p.n_batch, cols // p.item_pitch))
        row = _make_runs(p, taps, base, p.tile_cols, p.items_per_unit * p.item_pitch, False, runs, where)
    p.row_pitch = _odd_lines(row, itemsize)
    p.ci_block = max(1, min(p.c_in, WINDOW_BYTES // (itemsize * p.row_pitch)))
    p.ci_block = _ceil(p.c_in, _ceil(p.c_in, p.ci_block))
    p.co_unit = p.c_out


cdef void _plan_gradient(fc1d_gradient* q, Taps* taps, ptrdiff_t dilation, ptrdiff_t base, const fc1d_kernels* kernels,
                         ptrdiff_t itemsize, fc1d_run* runs, ptrdiff_t* where) noexcept nogil:
    """Panels or dot products, chunks and partial sums, from shapes alone."""
    cdef fc1d_problem* p = &q.window
    cdef ptrdiff_t size = itemsize * p.groups * p.c_out * p.c_in * p.kernel_size, parts
    p.x_step = 1
    _sort_taps(p, taps, dilation, False)
    if not _plan_panels(q, taps, base, kernels, itemsize, runs, where):
        p.x_step = q.stride
        _sort_taps(p, taps, dilation, False)
        _plan_dots(q, taps, base, kernels, itemsize, runs, where)
    p.n_item_units = _ceil(p.n_batch, p.items_per_unit)
    q.chunks = parts = p.n_item_units * p.n_tiles
    if q.panel:
        parts = min(parts, q.chunks * p.items_per_unit * p.tile_cols // CHUNK_COLS)  # each has a chunk
    elif p.c_in * p.c_out == 1:
        parts = min(parts, ENOUGH_GROUPS // p.groups)
    q.parts = max(1, min(min(PARTS, parts), PARTS_BYTES // size))


cdef void _split_gradient(fc1d_gradient* q, const fc1d_kernels* kernels, int n_threads) noexcept nogil:
    """Enough units for the threads, without an effect on bits: output channels, then groups."""
    cdef fc1d_problem* p = &q.window
    cdef ptrdiff_t rows = kernels.rows, units = 4 * n_threads if n_threads > 1 else 1
    p.co_unit = _ceil(_ceil(p.c_out, _ceil(p.c_out, p.co_unit)), rows) * rows
    if q.swapped:  # few rows, which go to the result together
        units = 1
    while p.groups * q.parts * _ceil(p.c_out, p.co_unit) < units and p.co_unit >= 2 * rows:
        p.co_unit = _ceil(p.co_unit, 2 * rows) * rows
    if not q.swapped:  # each packs the window again: not too many
        units = max(units, <ptrdiff_t> (_macs(p) / (8 * SIGNAL_MACS)))
    while p.groups * q.parts * _ceil(p.c_out, p.co_unit) < units and p.co_unit >= 8 * rows:
        p.co_unit = _ceil(p.co_unit, 2 * rows) * rows
    p.n_co_units = _ceil(p.c_out, p.co_unit)
    p.groups_per_unit = max(1, min(p.groups, p.groups * q.parts * p.n_co_units // units))
    p.n_group_units = _ceil(p.groups, p.groups_per_unit)


cdef ptrdiff_t _chunks_together(const fc1d_gradient* q) noexcept nogil:
    """Chunks that one pass has all of: those of an item where `run_gradient` goes item by item."""
    cdef const fc1d_problem* p = &q.window
    return p.n_tiles if p.c_in * p.c_out == 1 and q.parts == 1 and p.n_tiles <= FC1D_FAN else 1


cdef ptrdiff_t _count_passes(fc1d_gradient* q, const fc1d_kernels* kernels) noexcept nogil:
    """Passes over the units, each with a share of the chunks, from shapes alone.

    No unit keeps a signal waiting, and no partial sum is of more than FC1D_FAN chunks.
    """
    cdef fc1d_problem* p = &q.window
    cdef ptrdiff_t co_unit = p.co_unit, together = _chunks_together(q), shares = q.chunks // together
    _split_gradient(q, kernels, 1)  # more threads have more units
    cdef double passes = 1 + _macs(p) / (_unit_macs * q.parts * p.n_co_units * p.n_group_units)
    p.co_unit = co_unit
    return max(<ptrdiff_t> min(passes, <double> (shares // q.parts)), _ceil(shares, q.parts * (FC1D_FAN // together)))


cdef ptrdiff_t _lay_scratch(fc1d_gradient* q, const fc1d_kernels* kernels) noexcept nogil:
    """Places in scratch; returns its elements."""
    cdef fc1d_problem* p = &q.window
    cdef ptrdiff_t cols = p.items_per_unit * p.tile_cols, end = p.ci_block * p.row_pitch
    if q.panel:
        q.panel_offset = end
        q.g_offset = q.panel_offset + q.panel * _ceil(p.row_pitch, q.stride) * q.stride
        q.sums_offset = q.g_offset + p.co_unit * cols
        end = q.finish_rows if q.finish_rows else p.co_unit
        q.live_offset = q.sums_offset + end * q.sums_pitch + 8 * q.sums_pitch // p.kernel_size  # eight taps are read
        end = q.live_offset + p.kernel_size
    q.copy_offset = end
    return end + kernels.rows * cols


cdef void _read_in_place(fc1d_gradient* q, ptrdiff_t reach, int32_t* tables) noexcept nogil:
    """Say which columns read no padding, and where their taps are in a row of the input; two tables of K."""
    cdef fc1d_problem* p = &q.window
    cdef ptrdiff_t j
    q.inside, q.beyond = -q.base, p.l_in - q.base - reach
    q.in_place, q.back = tables, tables + p.kernel_size
    for j in range(p.kernel_size):
        tables[j] = <int32_t> (reach // max(1, p.kernel_size - 1) * j)
        tables[p.kernel_size + j] = -tables[j]


cdef int32_t* _gradient_tables(fc1d_gradient* q, const ptrdiff_t* where, ptrdiff_t reach) noexcept nogil:
    """Fill the tables of places in a window row or panel; the caller frees what is returned, NULL without memory."""
    cdef fc1d_problem* p = &q.window
    cdef ptrdiff_t k = p.kernel_size, c, j, i, phase
    cdef ptrdiff_t n_taps = k if q.panel else p.ci_block * k, n_place = p.row_pitch if q.panel else 0
    cdef ptrdiff_t n_cols = min(p.n_cols, p.tile_cols), n_columns = p.items_per_unit * n_cols if q.panel else 0
    cdef int32_t* tap = <int32_t*> malloc((n_taps + n_place + n_columns + 2 * k) * sizeof(int32_t))
    if tap == NULL:
        return NULL
    if p.c_in * p.c_out * q.stride == 1 and k <= ROW_TERMS and reach < TAPS_REACH:
        _read_in_place(q, reach, tap + n_taps + n_place + n_columns)
    cdef int32_t* place = tap + n_taps
    cdef int32_t* column = place + n_place
    p.tap, q.place, q.column = tap, place, column
    if q.panel == 0:
        for c in range(p.ci_block):
            for j in range(k):
                tap[c * k + j] = <int32_t> (c * p.row_pitch + where[j])
        return tap
    for i in range(n_place):  # positions of one phase of the stride lie together, as columns read them
        phase = i % q.stride
        place[i] = <int32_t> ((phase * _ceil(p.row_pitch, q.stride) + i // q.stride) * q.panel)
    for j in range(k):
        tap[j] = place[where[j]]
    for c in range(p.items_per_unit):
        for j in range(n_cols):
            column[c * n_cols + j] = place[c * p.item_pitch + j * q.stride]
    return tap


def set_unit_macs(double macs=UNIT_MACS):
    """Set the multiply-adds of one unit of a weight gradient (a hook for tests); returns those until now."""
    global _unit_macs
    previous, _unit_macs = _unit_macs, macs
    return previous


cdef bint _input_in_same_pass(const fc1d_gradient* q, const fc1d_kernels* kernels, cnp.ndarray weight,
                              ptrdiff_t reach) noexcept:
    """Whether the gradient by the input is made beside that by the weight: few taps of one channel a group."""
    cdef const fc1d_problem* p = &q.window
    if p.c_in * p.c_out != 1 or p.kernel_size > ROW_TERMS or q.parts > 1 or not cnp.PyArray_IS_C_CONTIGUOUS(weight):
        return False
    if not q.scatter:
        return True
    # positions that meet the ends of g pass slowly, and there zeros meet the weight
    return (q.in_place != NULL and q.gl == 1 and p.mode == 0
            and kernels.all_finite(cnp.PyArray_DATA(weight), cnp.PyArray_SIZE(weight))
            and 4 * (max(0, q.base + reach) + max(0, p.l_in - p.n_cols - q.base)) <= p.l_in)


cdef bint _is_correlate(cnp.ndarray g, cnp.ndarray x, cnp.ndarray dw, ptrdiff_t stride, ptrdiff_t dilation,
                        ptrdiff_t pad_left):
    """Whether the weight gradient is faster as a correlate: few input channels and long kernels.

    The columns of its tiles are the taps, and each input channel is an item, while the other ways pass over the columns
    for a few taps at a time. Of 200 layers of 1 to 128 input channels, 7 to 128 taps and 2 to 128 columns, float32 and
    AVX2, those of this rule gained up to 20 times (half of them 1.6 and more) and lost up to 16 %.
    """
    cdef ptrdiff_t c_out = dw.shape[0], c_in = dw.shape[1], k = dw.shape[2], n_batch = g.shape[0], l_out = g.shape[2]
    if not (k >= 16 and l_out <= 2 * k or k >= 5 and l_out <= k and c_in <= 8):
        return False
    return _unsuited_window((c_out, n_batch, l_out), dilation, stride, pad_left, 0, False) is None


def _weight_gradient_by_correlate(cnp.ndarray g, cnp.ndarray x, cnp.ndarray dw, geometry, run):
    """dw[co, ci, k] = sum over n, l of g[n, co, l] * x[n, ci, k*dilation + l*stride - left]: items as channels."""
    _, _, stride, dilation, left, right, _, mode = geometry
    window = 0, 0, dilation, stride, left, right, 1, mode
    cdef PreparedLayer layer = PreparedLayer((<object> g).swapaxes(0, 1), None, window,
                                             lengths=(x.shape[2], dw.shape[2]))
    layer.run((<object> x).swapaxes(0, 1), (<object> dw).swapaxes(0, 1), left, run[0])


def _complex_weight_gradient(cnp.ndarray g, cnp.ndarray x, cnp.ndarray dw, geometry, run, db, bint only_db,
                             bint transposed):
    """The products of both parts of g and x as a real gradient, of twice the channels each way, and added up."""
    cdef ptrdiff_t c_out = dw.shape[0], c_in = dw.shape[1], k = dw.shape[2]
    real = np.float32 if cnp.PyArray_TYPE(dw) == cnp.NPY_COMPLEX64 else np.float64
    parts = None if db is None else db.view(real)
    if only_db:
        products = np.broadcast_to(np.zeros(1, real), (2 * c_out, 2 * c_in, k))
        _real_weight_gradient(g, x, products, geometry, run, parts, True, None, False, 2)
        return None
    if geometry[6] == 1 and dw.size and g.size and _is_correlate(g, x, dw, geometry[2], geometry[3], geometry[4]):
        _weight_gradient_by_correlate((<object> g).conj(), x, dw, geometry, run)
        if not transposed:
            np.conjugate(dw, out=dw)
        if db is not None:
            _complex_weight_gradient(g, x, dw, geometry, run, db, True, transposed)
        return None
    products = new((2 * c_out, 2 * c_in, k), real)
    _real_weight_gradient(g, x, products, geometry, run, parts, False, None, False, 2)
    products = products.reshape(c_out, 2, c_in, 2, k)
    with np.errstate(all="ignore"):
        np.add(products[:, 0, :, 0], products[:, 1, :, 1], out=dw.real)
        np.subtract(products[:, 1, :, 0], products[:, 0, :, 1], out=dw.imag)
        if transposed:
            np.negative(dw.imag, out=dw.imag)
    return None


cdef void _round_sums(const double* sums, cnp.ndarray db) noexcept:
    """db = sums, of float32 or float64."""
    cdef ptrdiff_t i, step = db.strides[0]
    cdef char* to = <char*> cnp.PyArray_DATA(db)
    cdef bint single = cnp.PyArray_TYPE(db) == cnp.NPY_FLOAT32
    for i in range(db.shape[0]):
        if single:
            (<float*> (to + i * step))[0] = <float> sums[i]
        else:
            (<double*> (to + i * step))[0] = sums[i]


def weight_gradient(cnp.ndarray g not None, cnp.ndarray x not None, cnp.ndarray dw not None, geometry, run, db=None,
                    bint only_db=False, cnp.ndarray weight=None, bint transposed=False):
    """dw[co, ci, k] = sum over n, l of g[n, co, l] * x[n, ci, l*stride + k*dilation - left].

    With ``db`` of shape (C_out,), also db[co] = sum over n, l of g[n, co, l], in the same pass; with ``only_db``
    nothing else: dw and x then give the shapes, on which the order of the sums depends, and are not touched.

    With ``weight`` the gradient by the input is made in the same pass where that is faster, and returned, otherwise
    None: scatter(g, weight), of the shape of x, or if ``transposed`` correlate(x, weight), of the shape of g, with the
    bits of those primitives.

    Of complex numbers x is conjugated, if ``transposed`` g.
    """
    if cnp.PyArray_ISCOMPLEX(dw):
        return _complex_weight_gradient(g, x, dw, geometry, run, db, only_db, transposed)
    return _real_weight_gradient(g, x, dw, geometry, run, db, only_db, weight, transposed, 1)


cdef _real_weight_gradient(cnp.ndarray g, cnp.ndarray x, cnp.ndarray dw, geometry, run, db, bint only_db,
                           cnp.ndarray weight, bint transposed, int parts, bint swapped=False):
    """`weight_gradient` of real numbers, or with ``parts`` 2 of the parts of g and x, each of which dw and db have.

    With ``swapped`` g is the input and x the gradient by the output, of which dw is as ever; False, with nothing done,
    where that cannot be.
    """
    cdef int typenum = cnp.PyArray_TYPE(dw)
    cdef ptrdiff_t size = cnp.PyArray_ITEMSIZE(dw), elements = cnp.PyArray_SIZE(dw)
    cdef const fc1d_kernels* kernels = &_isa.f32 if typenum == cnp.NPY_FLOAT32 else &_isa.f64
    cdef fc1d_gradient q
    cdef fc1d_problem* p = &q.window
    cdef Taps taps
    cdef int failed
    cdef ptrdiff_t stride, dilation, pad_left, groups, chunks, passes, together, i, j
    cdef int mode, n_threads = run[0]
    cdef double macs
    cdef bint alone
    cdef cnp.ndarray grad_input = None, sums, bias_sums
    cdef cnp.npy_intp[2] bias_shape
    _, _, stride, dilation, pad_left, _, groups, mode = geometry
    if elements == 0 or cnp.PyArray_SIZE(g) == 0:
        if not only_db:
            dw[...] = 0
        if db is not None:
            db[...] = 0
        return None
    alone = parts == 1 and not only_db and not swapped and groups == 1
    if alone and _is_correlate(g, x, dw, stride, dilation, pad_left):
        _weight_gradient_by_correlate(g, x, dw, geometry, run)
        if db is not None:
            weight_gradient(g, x, dw, geometry, run, db, True)
        return None
    if (alone and stride == 1 and mode == 0 and _swapped_wins(g, x, dw.shape[2], dilation, kernels)
            and _is_finite(x, kernels) and _is_finite(g, kernels)):
        window = 0, 0, 1, dilation, dilation * (dw.shape[2] - 1) - pad_left, 0, 1, 0
        if _real_weight_gradient(x, g, dw, window, run, None, False, None, False, 1, True) is not False:
            if db is not None:
                weight_gradient(g, x, dw, geometry, run, db, True)
            return None
    memset(&q, 0, sizeof(q))
    q.base = -pad_left
    q.swapped = swapped
    p.groups, p.c_out, p.c_in, p.kernel_size = groups, dw.shape[0] // groups, dw.shape[1], dw.shape[2]
    if swapped:
        p.c_out, p.c_in = p.c_in, p.c_out
    p.n_batch, p.l_in, p.n_cols, q.stride, p.mode = g.shape[0], x.shape[2], g.shape[2], stride, mode
    p.y_step = p.n_phases = p.fused = 1
    p.parts = parts
    q.scatter = not transposed
    p.x = cnp.PyArray_DATA(x)
    p.xn, p.xc, p.xl = x.strides[0] // size, x.strides[1] // size, x.strides[2] // size
    q.g = cnp.PyArray_DATA(g)
    q.gn, q.gc, q.gl = g.strides[0] // size, g.strides[1] // size, g.strides[2] // size
    if p.n_cols == 1:
        q.gl = 1
    q.g_end = <const char*> q.g + size * (max(q.gn, 0) * (g.shape[0] - 1) + max(q.gc, 0) * (g.shape[1] - 1) + p.n_cols)
    cdef ptrdiff_t k = p.kernel_size, scratch_bytes
    cdef size_t run_bytes = k * sizeof(fc1d_run), word = sizeof(ptrdiff_t)
    cdef char* tables = <char*> malloc(run_bytes + (2 + 4 * k) * word)
    cdef int32_t* tap = NULL
    if tables == NULL:
        raise MemoryError("cannot allocate the tap tables of a call")
    cdef ptrdiff_t* where = <ptrdiff_t*> (tables + run_bytes)
    taps.phase_start = where + k
    taps.k = taps.phase_start + 2
    taps.pos = taps.k + k
    taps.order = taps.pos + k
    try:
        _plan_gradient(&q, &taps, dilation, -pad_left, kernels, size, <fc1d_run*> tables, where)
        macs = _macs(p)
        if macs < SERIAL_MACS:
            n_threads = 1
        chunks, passes, together = q.chunks, _count_passes(&q, kernels), _chunks_together(&q)
        if swapped and (q.panel == 0 or passes > 1 or p.co_unit < p.c_out):
            return False
        _split_gradient(&q, kernels, n_threads)
        tap = _gradient_tables(&q, where, dilation * (k - 1))
        if tap == NULL:
            raise MemoryError("cannot allocate the tap tables of a call")
        whole_items = passes == 1 or together == p.n_tiles
        if weight is not None and whole_items and _input_in_same_pass(&q, kernels, weight, dilation * (k - 1)):
            like = g if transposed else x
            grad_input = new((<object> like).shape, like.dtype)
            q.w, q.dx = cnp.PyArray_DATA(weight), cnp.PyArray_DATA(grad_input)
        q.fetch = p.c_in * p.c_out == 1 and size * (cnp.PyArray_SIZE(x) + cnp.PyArray_SIZE(g)) > FETCH_BYTES
        p.pos = taps.pos
        scratch_bytes = size * _lay_scratch(&q, kernels)
        # a single partial sum is the result itself, or added to it from scratch
        in_place = q.parts * passes == 1 or (q.parts == 1 and q.panel > 0)
        sums = dw if only_db or in_place else new((q.parts, *(<object> dw).shape), dw.dtype)
        bias_shape[0], bias_shape[1] = q.parts, dw.shape[0]
        bias_sums = None if db is None else cnp.PyArray_EMPTY(2, bias_shape, cnp.NPY_FLOAT64, 0)
        if not only_db:
            q.dw, q.dw_part = cnp.PyArray_DATA(sums), elements
        if db is not None:
            q.db, q.db_part = <double*> cnp.PyArray_DATA(bias_sums), dw.shape[0]
        totals, bias_totals = [dw], []
        for i in range(passes):
            if i:
                PyErr_CheckSignals()
            q.add = in_place and i % FC1D_FAN > 0
            if in_place and i and not q.add and not only_db:
                add_to(totals, dw, i // FC1D_FAN - 1, 1)
            q.first_chunk = chunks // together * i // passes * together
            q.chunks = chunks // together * (i + 1) // passes * together - q.first_chunk
            with nogil:
                failed = run_job(<unit_fn> kernels.run_gradient, &q, q.parts * p.n_co_units * p.n_group_units,
                                 macs / passes, scratch_bytes, n_threads)
            if failed:
                raise MemoryError(f"cannot allocate scratch of {scratch_bytes} bytes a thread")
            if q.parts * passes == 1:  # most small calls: the sums are the results
                if db is not None:
                    _round_sums(<const double*> cnp.PyArray_DATA(bias_sums), db)
                return grad_input
            with np.errstate(all="ignore"):
                if passes > 1 and not only_db and not in_place:
                    for j in range(q.parts):
                        add_to(totals, sums[j], i * q.parts + j)
                elif q.parts > 1 and not only_db:
                    np.add.reduce(sums, axis=0, out=dw)
                if db is not None:
                    add_to(bias_totals, np.add.reduce(bias_sums, axis=0), i)
        with np.errstate(all="ignore"):
            for total in totals[1:]:
                np.add(dw, total, out=dw)
            if db is not None:
                db[...] = sum(bias_totals[1:], bias_totals[0])
        return grad_input
    finally:
        free(tap)
        free(tables)
