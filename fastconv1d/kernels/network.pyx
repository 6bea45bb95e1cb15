"""Layers between convolutions: softmax, normalizations, recurrent layers, quantization.

Arrays are C-contiguous, of float32 or float64, and all of a call of one dtype.
"""

cimport numpy as cnp

from libc.stddef cimport ptrdiff_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastconv1d.kernels.direct_engine cimport isa_in_use
from fastconv1d.kernels.gemm cimport gemm_add, gemv_add

cnp.import_array()

cdef extern from "simd/fc1d.h" nogil:
    ctypedef struct fc1d_norm:
        const void* x
        const void* scale
        const void* shift
        void* y
        ptrdiff_t n_rows, n, span, channels
        double epsilon
        int centered

    ctypedef struct fc1d_pool:
        const void* x
        void* y
        ptrdiff_t planes, rows, columns, rows_out, columns_out
        ptrdiff_t row_taps, row_step, row_dilation, row_before
        ptrdiff_t taps, step, dilation, before, row_length
        int largest

    ctypedef struct fc1d_kernels:
        void (*softmax_rows)(const void*, void*, ptrdiff_t, ptrdiff_t, int) noexcept nogil
        void (*standardize_rows)(const fc1d_norm*) noexcept nogil
        void (*lstm_rows)(const void*, void*, void*, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*gru_rows)(const void*, const void*, const void*, void*, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*quantize)(const void*, void*, ptrdiff_t, double, ptrdiff_t, ptrdiff_t, ptrdiff_t, int) noexcept nogil
        void (*erf_rows)(const void*, void*, ptrdiff_t) noexcept nogil
        void (*convert)(const void*, void*, ptrdiff_t, int, int) noexcept nogil
        void (*pool)(const fc1d_pool*, void*) noexcept nogil

    ctypedef struct fc1d_isa:
        fc1d_kernels f32, f64


cdef inline const fc1d_kernels* _kernels(cnp.ndarray x) noexcept:
    cdef const fc1d_isa* isa = <const fc1d_isa*> isa_in_use()
    return &isa.f32 if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32 else &isa.f64


cdef inline ptrdiff_t _last(cnp.ndarray x) noexcept:
    return x.shape[x.ndim - 1]


def softmax(cnp.ndarray x not None, cnp.ndarray y not None, bint logarithm):
    """y = exp(x)/sum(exp(x)) over the last axis, which has an element at least, or its logarithm."""
    cdef const fc1d_kernels* kernels = _kernels(x)
    cdef ptrdiff_t n = _last(x), n_rows = cnp.PyArray_SIZE(x) // n
    cdef const void* source = cnp.PyArray_DATA(x)
    cdef void* target = cnp.PyArray_DATA(y)
    with nogil:
        kernels.softmax_rows(source, target, n_rows, n, logarithm)


def standardize(cnp.ndarray x not None, cnp.ndarray y not None, ptrdiff_t n, cnp.ndarray scale, cnp.ndarray shift,
                ptrdiff_t span, double epsilon, bint centered):
    """y = (x - mean)/sqrt(variance + epsilon)*scale + shift of each n elements, of mean 0 if not centered.

    scale and shift have n elements if span is 0, otherwise one for span elements, in turn; they may be None.
    """
    cdef const fc1d_kernels* kernels = _kernels(x)
    cdef fc1d_norm q
    memset(&q, 0, sizeof(q))
    q.x, q.y = cnp.PyArray_DATA(x), cnp.PyArray_DATA(y)
    q.scale = NULL if scale is None else cnp.PyArray_DATA(scale)
    q.shift = NULL if shift is None else cnp.PyArray_DATA(shift)
    q.n_rows, q.n, q.span, q.channels = cnp.PyArray_SIZE(x) // n, n, span, 1 if scale is None else scale.shape[0]
    q.epsilon, q.centered = epsilon, centered
    with nogil:
        kernels.standardize_rows(&q)


cdef inline void _add_product(bint single, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void* a, const void* b,
                              void* c) noexcept nogil:
    """C[m, n] += A[m, k] @ B[n, k].T"""
    if m == 1 and max(n, k) < 0x7fffffff:
        if single:
            gemv_add(n, k, <const float*> a, <const float*> b, <float*> c)
        else:
            gemv_add(n, k, <const double*> a, <const double*> b, <double*> c)
    elif single:
        gemm_add(True, m, n, k, <const float*> a, k, <const float*> b, k, <float*> c, n)
    else:
        gemm_add(True, m, n, k, <const double*> a, k, <const double*> b, k, <double*> c, n)


def lstm(cnp.ndarray gates not None, cnp.ndarray back not None, cnp.ndarray state not None, cnp.ndarray cell not None,
         cnp.ndarray y not None):
    """All steps of one direction of an LSTM.

    gates (T, N, 4H) from the inputs, back (4H, H), state and cell (N, H), y (T, N, H). The gates lie in the order
    input, output, forget, new. gates is scratch, cell becomes the last one.
    """
    cdef const fc1d_kernels* kernels = _kernels(y)
    cdef bint single = cnp.PyArray_TYPE(y) == cnp.NPY_FLOAT32
    cdef ptrdiff_t _t, steps = y.shape[0], rows = y.shape[1], n = y.shape[2], size = cnp.PyArray_ITEMSIZE(y)
    cdef char* g = <char*> cnp.PyArray_DATA(gates)
    cdef char* h = <char*> cnp.PyArray_DATA(y)
    cdef const void* last = cnp.PyArray_DATA(state)
    cdef const void* r = cnp.PyArray_DATA(back)
    cdef void* c = cnp.PyArray_DATA(cell)
    with nogil:
        for _t in range(steps):
            _add_product(single, rows, 4 * n, n, last, r, g)
            kernels.lstm_rows(g, c, h, rows, n)
            last = h
            g += 4 * rows * n * size
            h += rows * n * size


def gru(cnp.ndarray gates not None, cnp.ndarray back not None, cnp.ndarray back_bias not None,
        cnp.ndarray state not None, cnp.ndarray pushes not None, cnp.ndarray y not None):
    """All steps of one direction of a GRU, with the reset after the product.

    gates (T, N, 3H) from the inputs, back (3H, H), back_bias (N, 3H), state (N, H), y (T, N, H). The gates lie in the
    order update, reset, new. pushes (N, 3H) is scratch.
    """
    cdef const fc1d_kernels* kernels = _kernels(y)
    cdef bint single = cnp.PyArray_TYPE(y) == cnp.NPY_FLOAT32
    cdef ptrdiff_t _t, steps = y.shape[0], rows = y.shape[1], n = y.shape[2], size = cnp.PyArray_ITEMSIZE(y)
    cdef char* g = <char*> cnp.PyArray_DATA(gates)
    cdef char* h = <char*> cnp.PyArray_DATA(y)
    cdef const void* last = cnp.PyArray_DATA(state)
    cdef const void* r = cnp.PyArray_DATA(back)
    cdef const void* bias = cnp.PyArray_DATA(back_bias)
    cdef void* p = cnp.PyArray_DATA(pushes)
    with nogil:
        for _t in range(steps):
            memcpy(p, bias, 3 * rows * n * size)
            _add_product(single, rows, 3 * n, n, last, r, p)
            kernels.gru_rows(g, p, last, h, rows, n)
            last = h
            g += 3 * rows * n * size
            h += rows * n * size


def quantize(cnp.ndarray x not None, cnp.ndarray y not None, double scale, ptrdiff_t zero, ptrdiff_t low,
             ptrdiff_t high):
    """y = round(x/scale) + zero, half to even and kept in [low, high], in one or two bytes."""
    cdef const fc1d_kernels* kernels = _kernels(x)
    cdef ptrdiff_t n = cnp.PyArray_SIZE(x)
    cdef int size = cnp.PyArray_ITEMSIZE(y)
    cdef const void* source = cnp.PyArray_DATA(x)
    cdef void* target = cnp.PyArray_DATA(y)
    with nogil:
        kernels.quantize(source, target, n, scale, zero, low, high, size)


def erf(cnp.ndarray x not None, cnp.ndarray y not None):
    """y = erf(x), of float32 within 3 ulp."""
    cdef const fc1d_kernels* kernels = _kernels(x)
    cdef ptrdiff_t n = cnp.PyArray_SIZE(x)
    cdef const void* source = cnp.PyArray_DATA(x)
    cdef void* target = cnp.PyArray_DATA(y)
    with nogil:
        kernels.erf_rows(source, target, n)


def convert(cnp.ndarray x not None, cnp.ndarray y not None, int half, bint widen):
    """y = x, one of them float32 and the other of 16 bits: those of `half`, see activations.half_of."""
    cdef const fc1d_isa* isa = <const fc1d_isa*> isa_in_use()
    cdef ptrdiff_t n = cnp.PyArray_SIZE(x)
    cdef const void* source = cnp.PyArray_DATA(x)
    cdef void* target = cnp.PyArray_DATA(y)
    with nogil:
        isa.f32.convert(source, target, n, half, widen)


def pool(cnp.ndarray x not None, cnp.ndarray y not None, rows, columns, bint largest):
    """The largest or the sum of each window of x (planes, H, W) in y (planes, H_out, W_out).

    rows and columns are (taps, step, dilation, before).
    """
    cdef const fc1d_kernels* kernels = _kernels(x)
    cdef fc1d_pool q
    memset(&q, 0, sizeof(q))
    q.x, q.y, q.largest = cnp.PyArray_DATA(x), cnp.PyArray_DATA(y), largest
    q.planes, q.rows, q.columns, q.rows_out, q.columns_out = x.shape[0], x.shape[1], x.shape[2], y.shape[1], y.shape[2]
    q.row_taps, q.row_step, q.row_dilation, q.row_before = rows
    q.taps, q.step, q.dilation, q.before = columns
    # Whole vectors, of 16 elements at most, are written behind the columns and read behind the last window.
    cdef ptrdiff_t lanes = 16
    q.row_length = max(q.before + q.columns, (q.columns_out - 1) * q.step + (q.taps - 1) * q.dilation + 1)
    q.row_length += 3 * lanes
    cdef void* scratch = malloc(q.row_length * cnp.PyArray_ITEMSIZE(x))
    if scratch == NULL:
        raise MemoryError
    with nogil:
        kernels.pool(&q, scratch)
    free(scratch)
