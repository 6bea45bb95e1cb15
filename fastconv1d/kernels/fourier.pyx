"""Correlations by transforms: tables, spectra of weights, blocks; simd/fourier.h says how.

What a call is made of is a `fastconv1d.core.fft.Plan`, whose names are those of simd/fc1d.h.
"""

cimport numpy as cnp

import numpy as np

from libc.math cimport log2
from libc.string cimport memset

from fastconv1d.kernels.direct_engine cimport isa_in_use, run_job, set_activation
from fastconv1d.kernels.workers cimport unit_fn

cnp.import_array()

cdef extern from "simd/fc1d.h" nogil:
    enum: FOURIER_PHASES

    ctypedef struct fc1d_activation:
        int function

    ctypedef struct fc1d_fourier:
        const void* x
        const void* bias
        const void* residual
        const void* nodes
        const void* ends
        const void* turns
        void* w
        void* spectra
        void* y
        ptrdiff_t n, step, kernel, taps, co, ci, groups, first_group
        ptrdiff_t w_co, w_ci, w_tap
        ptrdiff_t x_item, x_channel, x_step, y_item, y_channel, y_step
        ptrdiff_t residual_item, residual_channel, residual_step
        ptrdiff_t l_in, l_out, in_first, in_step, in_split, out_first, out_step, out_split
        ptrdiff_t phases, rows, blocks, together
        double scale, residual_scale
        fc1d_activation before, after
        int is_complex, transposed, mode, sums_kept, residual_last

    ctypedef struct fc1d_fourier_kernels:
        void (*weight)(const fc1d_fourier*, ptrdiff_t, void*) noexcept nogil
        void (*blocks)(const fc1d_fourier*, ptrdiff_t, void*) noexcept nogil
        void (*gradient)(const fc1d_fourier*, ptrdiff_t, void*) noexcept nogil
        void (*window)(const fc1d_fourier*, ptrdiff_t, void*) noexcept nogil
        void (*parts)(const fc1d_fourier*, ptrdiff_t, void*) noexcept nogil
        ptrdiff_t lanes

    ctypedef struct fc1d_transforms:
        const char* name
        fc1d_fourier_kernels f32, f64

    ctypedef struct fc1d_isa:
        const char* name

cdef extern from *:
    """
    #include <string.h>
    #include "simd/fc1d.h"
    static const fc1d_transforms *transforms_of(const char *isa)
    {
    #ifdef FC1D_X86
        if (strcmp(isa, "avx512") == 0)
            return &fc1d_transforms__avx512;
        if (strcmp(isa, "avx2") == 0)
            return &fc1d_transforms__avx2;
    #endif
        return &fc1d_transforms__base;
    }
    """
    const fc1d_transforms* transforms_of(const char* isa) noexcept nogil

# Tables of the last few sizes: 2n numbers each.
_tables = {}
cdef int MOST_TABLES = 8


cdef const void* transforms_in_use() noexcept nogil:
    return transforms_of((<const fc1d_isa*> isa_in_use()).name)


cdef const fc1d_fourier_kernels* _kernels(int typenum) noexcept:
    cdef const fc1d_transforms* isa = transforms_of((<const fc1d_isa*> isa_in_use()).name)
    return &isa.f32 if typenum in (cnp.NPY_FLOAT32, cnp.NPY_COMPLEX64) else &isa.f64


def _made_tables(n, lanes, dtype):
    """Return the arrays `nodes`, `ends` and `turns` of simd/fourier.h."""
    angles, levels = np.array([0.25]), []
    while len(angles) < n // lanes:
        levels.append(angles)
        angles = np.stack([angles / 2, angles / 2 + 0.5], axis=1).ravel()
    heap = np.concatenate([np.zeros(1), *levels])
    nodes = np.stack([np.cos(np.pi * heap), np.sin(np.pi * heap)], axis=1)
    turned, ends = np.zeros(1), []
    squares = angles.reshape(-1, lanes)
    while len(turned) < lanes:
        ends.append(np.stack([np.cos(np.pi * squares), np.sin(np.pi * squares)], axis=1))
        squares = squares / 2
        turned = np.stack([turned / 2, turned / 2 + 0.5], axis=1).ravel()
    inside = np.stack(ends, axis=1) if ends else np.zeros(0)
    turns = np.stack([np.cos(np.pi * turned), np.sin(np.pi * turned)], axis=1)
    return tuple([np.ascontiguousarray(a, dtype) for a in (nodes, inside, turns)])


cdef tuple _tables_of(ptrdiff_t n, ptrdiff_t lanes, dtype):
    key = n, lanes, dtype
    made = _tables.get(key)
    if made is None:
        made = _made_tables(n, lanes, dtype)
        while len(_tables) >= MOST_TABLES:
            _tables.pop(next(iter(_tables), None), None)
        _tables[key] = made
    return made


cdef tuple _begin(fc1d_fourier* q, plan, dtype):
    """Fill in what a plan says; returns the tables, which the job reads."""
    cdef const fc1d_fourier_kernels* kernels = _kernels(dtype.num)
    memset(q, 0, sizeof(fc1d_fourier))
    q.is_complex = dtype.kind == "c"
    q.n, q.step, q.kernel, q.taps, q.co, q.ci = plan.n, plan.step, plan.kernel, plan.taps, plan.co, plan.ci
    q.in_first, q.in_step, q.in_split = plan.in_first, plan.in_step, plan.in_split
    q.out_first, q.out_step, q.out_split = plan.out_first, plan.out_step, plan.out_split
    q.phases, q.blocks, q.together = plan.phases, plan.blocks, plan.together
    q.transposed, q.mode, q.sums_kept = plan.transposed, plan.mode, plan.sums_kept
    q.scale, q.residual_scale = 1.0 / q.n, 1.0
    cdef tuple tables = _tables_of(q.n, kernels.lanes, np.dtype("f" if dtype.char in "fF" else "d"))
    cdef cnp.ndarray nodes = tables[0], ends = tables[1], turns = tables[2]
    q.nodes, q.ends, q.turns = cnp.PyArray_DATA(nodes), cnp.PyArray_DATA(ends), cnp.PyArray_DATA(turns)
    return tables


cdef inline double _work(const fc1d_fourier* q) noexcept nogil:
    """Multiply-adds of a transform: six a butterfly."""
    return 3.0 * q.n * log2(<double> q.n)


def weight_spectra(cnp.ndarray w not None, plan, ptrdiff_t first, cnp.ndarray spectra not None, int n_threads):
    """Write the spectra of the weight's groups from `first` on, as many as there are rows of `spectra` for.

    ``spectra`` (rows, 2n) is contiguous, a row for each (group, output channel, input channel), both as they are split.
    """
    cdef fc1d_fourier q
    cdef const fc1d_fourier_kernels* kernels = _kernels(cnp.PyArray_TYPE(w))
    cdef ptrdiff_t size = cnp.PyArray_ITEMSIZE(w), rows = spectra.shape[0]
    cdef int inputs = plan.transposed, status
    _tables_used = _begin(&q, plan, w.dtype)
    q.w, q.spectra, q.first_group = cnp.PyArray_DATA(w), cnp.PyArray_DATA(spectra), first
    q.w_co, q.w_ci, q.w_tap = w.strides[inputs] // size, w.strides[1 - inputs] // size, w.strides[2] // size
    with nogil:
        status = run_job(<unit_fn> kernels.weight, &q, rows, rows * _work(&q), 0, n_threads)
    if status < 0:
        raise MemoryError("no memory for the scratch of a transform")


def run_blocks(cnp.ndarray x not None, cnp.ndarray spectra not None, cnp.ndarray bias, cnp.ndarray y not None, plan,
               ptrdiff_t first, steps, cnp.ndarray residual, int n_threads):
    """Write the outputs of the groups from `first` on that `spectra` are of.

    x (N, C_in, L_in), y (N, C_out, L_out) and residual, of any strides, have one dtype; bias is contiguous or None.
    """
    cdef fc1d_fourier q
    cdef const fc1d_fourier_kernels* kernels = _kernels(cnp.PyArray_TYPE(x))
    cdef ptrdiff_t size = cnp.PyArray_ITEMSIZE(x), n_batch = x.shape[0], across, units, scratch
    cdef double work
    cdef int status
    _tables_used = _begin(&q, plan, x.dtype)
    q.spectra, q.first_group, q.groups = cnp.PyArray_DATA(spectra), first, spectra.shape[0] // (q.co * q.ci)
    q.x, q.y = cnp.PyArray_DATA(x), cnp.PyArray_DATA(y)
    q.x_item, q.x_channel, q.x_step = x.strides[0] // size, x.strides[1] // size, x.strides[2] // size
    q.y_item, q.y_channel, q.y_step = y.strides[0] // size, y.strides[1] // size, y.strides[2] // size
    q.l_in, q.l_out = x.shape[2], y.shape[2]
    if bias is not None:
        q.bias = cnp.PyArray_DATA(bias)
    if residual is not None:
        q.residual = cnp.PyArray_DATA(residual)
        q.residual_item, q.residual_channel = residual.strides[0] // size, residual.strides[1] // size
        q.residual_step = residual.strides[2] // size
    _alphas = (set_activation(&q.before, steps.before, x.shape[1], x.dtype),
               set_activation(&q.after, steps.after, y.shape[1], x.dtype))
    q.residual_scale, q.residual_last = steps.residual_scale, steps.residual_last
    across = (q.blocks + q.together - 1) // q.together
    units = n_batch * ((q.phases + FOURIER_PHASES - 1) // FOURIER_PHASES) * q.groups * across
    scratch = ((q.co if q.sums_kept else q.ci) + 1) * q.together + 1
    scratch *= (1 if q.is_complex else 2) * q.n * size
    work = (q.co + q.ci) * _work(&q) + 4.0 * q.co * q.ci * q.n
    with nogil:
        status = run_job(<unit_fn> kernels.blocks, &q, units, n_batch * q.phases * q.groups * q.blocks * work,
                         scratch, n_threads)
    if status < 0:
        raise MemoryError("no memory for the scratch of a transform")


def run_gradient(cnp.ndarray g not None, cnp.ndarray x not None, cnp.ndarray dw not None, plan, int n_threads):
    """Write the gradient by the weight, contiguous; real dtypes."""
    cdef fc1d_fourier q
    cdef const fc1d_fourier_kernels* kernels = _kernels(cnp.PyArray_TYPE(x))
    cdef ptrdiff_t size = cnp.PyArray_ITEMSIZE(x), pairs
    cdef double work
    cdef int status
    _tables_used = _begin(&q, plan, x.dtype)
    q.x, q.y, q.w = cnp.PyArray_DATA(x), cnp.PyArray_DATA(g), cnp.PyArray_DATA(dw)
    q.x_item, q.x_channel, q.x_step = x.strides[0] // size, x.strides[1] // size, x.strides[2] // size
    q.y_item, q.y_channel, q.y_step = g.strides[0] // size, g.strides[1] // size, g.strides[2] // size
    q.w_co, q.w_ci, q.w_tap = dw.strides[0] // size, dw.strides[1] // size, dw.strides[2] // size
    q.l_in, q.l_out, q.rows = x.shape[2], g.shape[2], x.shape[0] * q.phases
    pairs = dw.shape[0] * dw.shape[1]
    work = <double> q.rows * q.blocks * (2 * _work(&q) + 4.0 * q.n)
    with nogil:
        status = run_job(<unit_fn> kernels.gradient, &q, pairs, pairs * work, 6 * q.n * size, n_threads)
    if status < 0:
        raise MemoryError("no memory for the scratch of a transform")


def transform_window(cnp.ndarray x not None, cnp.ndarray ring not None, ptrdiff_t slot, ptrdiff_t first, plan, steps,
                     int n_threads):
    """Write the spectra of inputs `first` to ``first + 2n`` of x (N, C, L), zeros beyond its ends, to a slot of a ring.

    ring (N, C, parts, 2n) is contiguous.
    """
    cdef fc1d_fourier q
    cdef const fc1d_fourier_kernels* kernels = _kernels(cnp.PyArray_TYPE(x))
    cdef ptrdiff_t size = cnp.PyArray_ITEMSIZE(x), units = x.shape[0] * x.shape[1]
    cdef int status
    _tables_used = _begin(&q, plan, x.dtype)
    q.x, q.spectra, q.first_group, q.in_first = cnp.PyArray_DATA(x), cnp.PyArray_DATA(ring), slot, first
    q.ci, q.groups, q.taps, q.l_in, q.mode = x.shape[1], 1, ring.shape[2], x.shape[2], 0
    q.x_item, q.x_channel, q.x_step = x.strides[0] // size, x.strides[1] // size, x.strides[2] // size
    _alpha = set_activation(&q.before, steps.before, x.shape[1], x.dtype)
    with nogil:
        status = run_job(<unit_fn> kernels.window, &q, units, units * _work(&q), 0, n_threads)
    if status < 0:
        raise MemoryError("no memory for the scratch of a transform")


def sum_parts(cnp.ndarray ring not None, cnp.ndarray spectra not None, cnp.ndarray kept not None, ptrdiff_t slot, plan,
              ptrdiff_t groups, int n_threads):
    """Write the sums of all parts but the newest, whose window is in `slot`, to kept (N, C_out, 2n)."""
    _parts(ring, spectra, kept, slot, plan, groups, None, None, 0, None, None, n_threads)


def finish_parts(cnp.ndarray ring not None, cnp.ndarray spectra not None, cnp.ndarray kept not None, ptrdiff_t slot,
                 plan, ptrdiff_t groups, cnp.ndarray bias, cnp.ndarray y not None, ptrdiff_t element, steps,
                 cnp.ndarray residual, int n_threads):
    """Write to y what the kept sums and the newest part make, from element `element` of the block on."""
    _parts(ring, spectra, kept, slot, plan, groups, bias, y, element, steps, residual, n_threads)


cdef _parts(cnp.ndarray ring, cnp.ndarray spectra, cnp.ndarray kept, ptrdiff_t slot, plan, ptrdiff_t groups,
            cnp.ndarray bias, cnp.ndarray y, ptrdiff_t element, steps, cnp.ndarray residual, int n_threads):
    cdef fc1d_fourier q
    cdef const fc1d_fourier_kernels* kernels = _kernels(cnp.PyArray_TYPE(ring))
    cdef ptrdiff_t size = cnp.PyArray_ITEMSIZE(ring), units = kept.shape[0] * kept.shape[1], parts = ring.shape[2]
    cdef double work
    cdef int status
    _tables_used = _begin(&q, plan, ring.dtype)
    q.x, q.spectra, q.w, q.first_group = cnp.PyArray_DATA(ring), cnp.PyArray_DATA(spectra), cnp.PyArray_DATA(kept), slot
    q.groups, q.co, q.ci, q.taps = groups, kept.shape[1] // groups, ring.shape[1] // groups, parts
    _alpha = None
    if y is not None:
        q.y, q.l_out, q.step, q.in_first, q.out_first = cnp.PyArray_DATA(y), y.shape[2], y.shape[2], element, 0
        q.y_item, q.y_channel, q.y_step = y.strides[0] // size, y.strides[1] // size, y.strides[2] // size
        if bias is not None:
            q.bias = cnp.PyArray_DATA(bias)
        if residual is not None:
            q.residual = cnp.PyArray_DATA(residual)
            q.residual_item, q.residual_channel = residual.strides[0] // size, residual.strides[1] // size
            q.residual_step = residual.strides[2] // size
        _alpha = set_activation(&q.after, steps.after, y.shape[1], y.dtype)
        q.residual_scale, q.residual_last = steps.residual_scale, steps.residual_last
    work = 4.0 * q.n * q.ci * (1 if y is not None else parts) + (_work(&q) if y is not None else 0)
    with nogil:
        status = run_job(<unit_fn> kernels.parts, &q, units, units * work, 4 * q.n * size, n_threads)
    if status < 0:
        raise MemoryError("no memory for the scratch of a transform")
