"""Matrices packed once, for products with a few rows or with the positions of short sequences.

BLAS packs its operands in every call: with a row or fifty of them that is most of the time. Here the
matrix stays packed, rows may overlap as the positions of a convolution do where channels lie side by
side, and bias, residual and activation are done while the sums are in registers.
"""

cimport numpy as cnp

import numpy as np

from libc.stddef cimport ptrdiff_t
from libc.string cimport memcpy, memset

from fastconv1d.kernels.direct_engine cimport isa_in_use
from fastconv1d.kernels.memory cimport give_bytes, take_bytes
from fastconv1d.kernels.workers cimport run_units, unit_fn

cnp.import_array()

cdef extern from "simd/fc1d.h" nogil:
    ctypedef struct fc1d_activation:
        int function
        double parameter

    ctypedef struct fc1d_product:
        const void* x
        const void* w
        const void* bias
        const void* residual
        void* y
        ptrdiff_t rows, per_item, x_item, x_row, x_tap, y_row, n, k, taps, row_unit, column_unit
        int add
        fc1d_activation step
        double residual_scale
        int residual_last

    ctypedef struct fc1d_planes:
        const void* from_ "from"
        void* to
        ptrdiff_t rows, columns, from_plane, to_plane

    ctypedef struct fc1d_kernels:
        void (*transpose_planes)(const fc1d_planes*, ptrdiff_t, void*) noexcept nogil
        void (*product)(const fc1d_product*, ptrdiff_t, void*) noexcept nogil
        void (*pack_product)(const void*, void*, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*lstm_rows)(const void*, void*, void*, ptrdiff_t, ptrdiff_t) noexcept nogil
        ptrdiff_t lanes, product_width

    ctypedef struct fc1d_bytes:
        const unsigned char* x
        const signed char* w
        const int* minus
        const float* scale
        const float* bias
        float* y
        ptrdiff_t rows, n, k, row_unit
        float step, low, high

    ctypedef struct fc1d_isa:
        fc1d_kernels f32, f64
        void (*byte_product)(const fc1d_bytes*, ptrdiff_t, void*) noexcept nogil
        ptrdiff_t byte_width

cdef enum:
    ROW_UNIT = 48  # rows of a unit where threads share the work: whole register tiles
    TURN_ALONE = 1 << 16  # elements that one thread transposes in some 20 us

# Multiply-adds that a second thread is worth its start for, as in the direct engine.
cdef double SERIAL_MACS = 5e5


cdef class Product:
    """``activation(x @ weight.T + bias)`` of rows, or a convolution of (N, L, C) arrays.

    Parameters
    ----------
    weight : ndarray of shape (n, k) or (n, taps, k)
        C-contiguous, float32 or float64. With three dimensions the rows are positions.
    bias : ndarray of shape (n,) or None
    step : fastconv1d.core.activations.Activation or None
        Without an alpha for each channel.
    residual_last : bool
        Whether a residual is added after the activation.
    stride, dilation, left, right : int
        Of a convolution; zeros before and after each item.
    first_in, first_out : bool
        Whether x is (N, C, L), and the result (N, C, L).
    """

    cdef fc1d_product q
    cdef const fc1d_kernels* kernels
    cdef void* packed  # at a cache line: a row of 512 sums over 128 terms takes 1.9 us instead of 3.8
    cdef cnp.ndarray bias
    cdef int typenum
    cdef bint along, first_in, first_out
    cdef ptrdiff_t channels, width, stride, dilation, span, left, right, itemsize

    def __init__(self, cnp.ndarray weight not None, cnp.ndarray bias=None, step=None, bint residual_last=False,
                 ptrdiff_t stride=1, ptrdiff_t dilation=1, ptrdiff_t left=0, ptrdiff_t right=0,
                 bint first_in=False, bint first_out=False):
        cdef const fc1d_isa* isa = <const fc1d_isa*> isa_in_use()
        cdef ptrdiff_t padded
        if cnp.PyArray_SIZE(weight) == 0:
            raise ValueError(f"the weight should not be empty, got size {[*(<object> weight).shape]}")
        self.along = weight.ndim == 3
        self.first_in, self.first_out = first_in and self.along, first_out and self.along
        self.typenum, self.itemsize = cnp.PyArray_TYPE(weight), cnp.PyArray_ITEMSIZE(weight)
        self.kernels = &isa.f32 if self.typenum == cnp.NPY_FLOAT32 else &isa.f64
        memset(&self.q, 0, sizeof(self.q))
        self.channels = weight.shape[weight.ndim - 1]
        self.q.n, self.q.taps = weight.shape[0], weight.shape[1] if self.along else 1
        self.span = dilation * (self.q.taps - 1) + 1
        self.q.k, self.q.x_tap = self.channels, dilation * self.channels
        if dilation == 1 or self.q.taps == 1:  # a position's numbers are one piece
            self.q.k, self.q.taps = self.channels * self.q.taps, 1
            self.q.x_tap = self.q.k
        self.stride, self.dilation, self.left, self.right = stride, dilation, left, right
        self.width = self.kernels.product_width
        padded = (self.q.n + self.kernels.lanes - 1) // self.kernels.lanes * self.kernels.lanes
        self.packed = take_bytes(padded * self.q.k * self.q.taps * self.itemsize)
        if self.packed == NULL:
            raise MemoryError(f"no memory for a weight of {cnp.PyArray_SIZE(weight)} elements")
        self.q.w = self.packed
        self.kernels.pack_product(cnp.PyArray_DATA(weight), self.packed, self.q.n, self.q.k * self.q.taps)
        if bias is not None:
            self.bias = np.zeros(padded, weight.dtype)
            self.bias[:self.q.n] = bias
            self.q.bias = cnp.PyArray_DATA(self.bias)
        if step is not None:
            self.q.step.function, self.q.step.parameter = step.function, step.parameter
        self.q.residual_last, self.q.residual_scale = residual_last, 1

    def __dealloc__(self):
        give_bytes(self.packed)

    def __call__(self, cnp.ndarray x not None, cnp.ndarray residual=None, cnp.ndarray out=None, int n_threads=1):
        """Return the product, in `out` where it is given: a C-contiguous array of its shape and dtype.

        x is (..., k), or (N, L, C) for a convolution; a residual has the result's shape and dtype. None is
        returned for operands that are not taken: of another dtype or shape, or a residual that is not contiguous.
        """
        cdef fc1d_product q = self.q
        cdef cnp.npy_intp shape[32]
        cdef cnp.ndarray y
        cdef int ndim = x.ndim
        if cnp.PyArray_TYPE(x) != self.typenum or not cnp.PyArray_ISBEHAVED_RO(x) or not self._shape(x, shape):
            return None
        if out is None:
            out = <cnp.ndarray> cnp.PyArray_EMPTY(ndim, shape, self.typenum, 0)
        elif not self._fits(out, ndim, shape) or not cnp.PyArray_ISWRITEABLE(out):
            return None
        if residual is not None and not self._fits(residual, ndim, shape):
            return None
        if cnp.PyArray_SIZE(out) == 0:
            return out
        y = out
        if self.first_out and shape[1] > 1 and shape[2] > 1:
            shape[1], shape[2] = shape[2], shape[1]
            y = <cnp.ndarray> cnp.PyArray_EMPTY(3, shape, self.typenum, 0)
            if residual is not None:
                residual = self._turned(residual, 0, 0, n_threads)
        if residual is not None:
            q.residual = cnp.PyArray_DATA(residual)
        if self.along:
            x = self._in_rows(x, n_threads)
            q.per_item = cnp.PyArray_SIZE(y) // (shape[0] * q.n)
            q.x_item, q.x_row = x.shape[1] * self.channels, self.stride * self.channels
            q.rows = q.per_item * shape[0]
        else:
            x = cnp.PyArray_GETCONTIGUOUS(x)
            q.rows = cnp.PyArray_SIZE(x) // self.channels
            q.per_item, q.x_row = q.rows, self.channels
        q.x, q.y, q.y_row = cnp.PyArray_DATA(x), cnp.PyArray_DATA(y), q.n
        self._run(&q, n_threads)
        if y is not out:
            self._turn(y, cnp.PyArray_DATA(out), q.per_item * q.n, n_threads)
        return out

    def shape(self, cnp.ndarray x not None):
        """Return the shape of the result for x, or None where x is not taken."""
        cdef cnp.npy_intp shape[32]
        return tuple([shape[i] for i in range(x.ndim)]) if self._shape(x, shape) else None

    cdef bint _shape(self, cnp.ndarray x, cnp.npy_intp* shape) noexcept:
        """Enter the shape of the result, or return False where x is not taken."""
        cdef int i, ndim = x.ndim
        cdef ptrdiff_t length
        if not 1 <= ndim <= 32 or x.shape[1 if self.first_in and ndim == 3 else ndim - 1] != self.channels:
            return False
        for i in range(ndim):
            shape[i] = x.shape[i]
        shape[ndim - 1] = self.q.n
        if not self.along:
            return True
        if ndim != 3:
            return False
        length = x.shape[2 if self.first_in else 1] + self.left + self.right
        if length < self.span:
            return False
        length = (length - self.span) // self.stride + 1
        shape[1], shape[2] = (self.q.n, length) if self.first_out else (length, self.q.n)
        return True

    cdef bint _fits(self, cnp.ndarray a, int ndim, cnp.npy_intp* shape) noexcept:
        cdef int i
        if cnp.PyArray_TYPE(a) != self.typenum or a.ndim != ndim or not cnp.PyArray_IS_C_CONTIGUOUS(a):
            return False
        if not cnp.PyArray_ISBEHAVED_RO(a):
            return False
        for i in range(ndim):
            if a.shape[i] != shape[i]:
                return False
        return True

    cdef cnp.ndarray _in_rows(self, cnp.ndarray x, int n_threads):
        """Return (N, L, C) or (N, C, L) as (N, L, C) between zeros."""
        cdef cnp.npy_intp shape[3]
        cdef ptrdiff_t _item, size = self.itemsize * self.channels, whole, inner
        x = cnp.PyArray_GETCONTIGUOUS(x)
        if self.first_in and self.channels > 1 and x.shape[2] > 1:
            return self._turned(x, self.left, self.right, n_threads)
        shape[0], shape[1], shape[2] = x.shape[0], x.shape[2 if self.first_in else 1], self.channels
        if self.left == 0 and self.right == 0:
            return x.reshape(shape[0], shape[1], shape[2]) if self.first_in else x
        inner = shape[1] * size
        shape[1] += self.left + self.right
        whole = shape[1] * size
        cdef cnp.ndarray made = <cnp.ndarray> cnp.PyArray_EMPTY(3, shape, self.typenum, 0)
        cdef char* target = <char*> cnp.PyArray_DATA(made)
        cdef const char* source = <const char*> cnp.PyArray_DATA(x)
        for _item in range(x.shape[0]):
            memset(target, 0, self.left * size)
            memcpy(target + self.left * size, source, inner)
            memset(target + self.left * size + inner, 0, self.right * size)
            target += whole
            source += inner
        return made

    cdef cnp.ndarray _turned(self, cnp.ndarray x, ptrdiff_t left, ptrdiff_t right, int n_threads):
        """Return contiguous (N, C, L) as (N, L, C) between zeros."""
        cdef cnp.npy_intp shape[3]
        cdef ptrdiff_t item, size = self.itemsize * x.shape[1]
        shape[0], shape[1], shape[2] = x.shape[0], x.shape[2] + left + right, x.shape[1]
        cdef cnp.ndarray made = <cnp.ndarray> cnp.PyArray_EMPTY(3, shape, self.typenum, 0)
        cdef char* target = <char*> cnp.PyArray_DATA(made)
        for item in range(x.shape[0] if left or right else 0):
            memset(target + item * shape[1] * size, 0, left * size)
            memset(target + (item * shape[1] + left + x.shape[2]) * size, 0, right * size)
        self._turn(x, target + left * size, shape[1] * shape[2], n_threads)
        return made

    cdef void _turn(self, cnp.ndarray x, void* target, ptrdiff_t to_plane, int n_threads):
        """Transpose the planes of contiguous x (N, rows, columns)."""
        cdef fc1d_planes q
        cdef ptrdiff_t n = x.shape[0]
        q.from_, q.to, q.to_plane = cnp.PyArray_DATA(x), target, to_plane
        q.rows, q.columns, q.from_plane = x.shape[1], x.shape[2], x.shape[1] * x.shape[2]
        if n * q.from_plane < TURN_ALONE:
            n_threads = 1
        with nogil:
            run_units(<unit_fn> self.kernels.transpose_planes, &q, 0, n, NULL, 0, min(<ptrdiff_t> n_threads, n))

    cdef void _run(self, fc1d_product* q, int n_threads):
        cdef double macs = <double> q.rows * q.n * q.k * q.taps
        cdef ptrdiff_t units = 1
        q.row_unit, q.column_unit = q.rows, q.n
        if n_threads > 1 and macs > SERIAL_MACS:
            if q.rows > ROW_UNIT:
                q.row_unit = ROW_UNIT
                units = (q.rows + ROW_UNIT - 1) // ROW_UNIT
            else:
                q.column_unit = self.width
                units = (q.n + self.width - 1) // self.width
        with nogil:
            run_units(<unit_fn> self.kernels.product, q, 0, units, NULL, 0, min(<ptrdiff_t> n_threads, units))

    cdef void _add(self, fc1d_product* q, const void* x, ptrdiff_t rows, ptrdiff_t x_row, void* y) noexcept nogil:
        """Add the product of a few rows to y, whose rows lie one after the other."""
        q.x, q.y, q.rows, q.per_item, q.x_row, q.y_row = x, y, rows, rows, x_row, self.q.n
        q.row_unit, q.column_unit, q.add = rows, self.q.n, True
        self.kernels.product(q, 0, NULL)


cdef class ByteProduct:
    """``(x - zero) @ weight.T * scale`` of rows of bytes, in exact sums; then rounded to steps, then plus a bias.

    Parameters
    ----------
    weight : ndarray of shape (n, k), int8
    scale : ndarray of shape (n,), float32
        What an x of 1 more adds, for a weight of 1.
    zero : int
        The byte that stands for 0, from 0 to 255.
    bias : ndarray of shape (n,), float32, or None
    step, low, high : float
        Results before the bias are multiples of `step`, from low to high steps; any number if step is 0.
    """

    cdef fc1d_bytes q
    cdef const fc1d_isa* isa
    cdef object kept  # what q points to

    def __init__(self, cnp.ndarray weight not None, scale, int zero, bias=None, float step=0, float low=0,
                 float high=0):
        cdef ptrdiff_t n = weight.shape[0], k = weight.shape[1], width
        self.isa = <const fc1d_isa*> isa_in_use()
        width = self.isa.byte_width
        memset(&self.q, 0, sizeof(self.q))
        if k > _MOST_TERMS or n == 0 or k == 0:
            raise ValueError(f"the weight should have rows of 1 to {_MOST_TERMS} terms, got size {[n, k]}")
        panels, groups = (n + width - 1) // width, (k + 3) // 4
        padded = np.zeros((panels * width, groups * 4), np.int8)
        padded[:n, :k] = weight
        raw = np.empty(padded.size + 64, np.int8)
        skipped = -raw.ctypes.data % 64
        cdef cnp.ndarray packed = raw[skipped : skipped + padded.size]
        cdef cnp.ndarray minus = (weight.sum(1, np.int64) * zero).astype(np.int32)
        cdef cnp.ndarray scales = np.ascontiguousarray(scale, np.float32), sums
        packed[:] = padded.reshape(panels, width, groups, 4).transpose(0, 2, 1, 3).reshape(-1)
        self.q.w, self.q.minus = <const signed char*> cnp.PyArray_DATA(packed), <const int*> cnp.PyArray_DATA(minus)
        self.q.scale = <const float*> cnp.PyArray_DATA(scales)
        self.kept = packed, minus, scales
        if bias is not None:
            sums = np.ascontiguousarray(bias, np.float32)
            self.q.bias = <const float*> cnp.PyArray_DATA(sums)
            self.kept += (sums,)
        self.q.n, self.q.k = n, k
        self.q.step, self.q.low, self.q.high = step, low, high

    def __call__(self, cnp.ndarray x not None, int n_threads=1):
        """Return the product of x (..., k), uint8; None for another one."""
        cdef fc1d_bytes q = self.q
        cdef cnp.npy_intp shape[32]
        cdef cnp.ndarray y
        cdef int i
        if cnp.PyArray_TYPE(x) != cnp.NPY_UINT8 or not 1 <= x.ndim <= 32 or x.shape[x.ndim - 1] != q.k:
            return None
        for i in range(x.ndim):
            shape[i] = x.shape[i]
        shape[x.ndim - 1] = q.n
        y = <cnp.ndarray> cnp.PyArray_EMPTY(x.ndim, shape, cnp.NPY_FLOAT32, 0)
        x = cnp.PyArray_GETCONTIGUOUS(x)
        q.rows = cnp.PyArray_SIZE(x) // q.k
        if q.rows == 0:
            return y
        q.x, q.y = <const unsigned char*> cnp.PyArray_DATA(x), <float*> cnp.PyArray_DATA(y)
        cdef ptrdiff_t units = 1
        q.row_unit = q.rows
        if n_threads > 1 and <double> q.rows * q.n * q.k > 4 * SERIAL_MACS:
            q.row_unit = ROW_UNIT
            units = (q.rows + ROW_UNIT - 1) // ROW_UNIT
        with nogil:
            run_units(<unit_fn> self.isa.byte_product, &q, 0, units, NULL, 0, min(<ptrdiff_t> n_threads, units))
        return y


# Terms of a sum of products of bytes that 32 bits hold: 2**31 / (255 * 128).
cdef ptrdiff_t _MOST_TERMS = 65_000


cdef class Lstm:
    """An LSTM of one or two directions, with its matrices packed once.

    Parameters
    ----------
    weights, backs : ndarray of shape (directions, 4*hidden, k) and (directions, 4*hidden, hidden)
        Of inputs and of states, float32 or float64; gates lie in the order input, output, forget, new.
    biases : sequence of ndarray of shape (4*hidden,), or of None
    backward : sequence of bool
        Which directions go from the last position to the first.
    """

    cdef list into, back
    cdef tuple backward
    cdef ptrdiff_t channels, n

    def __init__(self, weights, backs, biases, backward):
        self.into = [Product(np.ascontiguousarray(w), b) for w, b in zip(weights, biases)]
        self.back = [Product(np.ascontiguousarray(b)) for b in backs]
        self.backward = tuple(backward)
        self.channels, self.n = weights.shape[2], backs.shape[2]

    def __call__(self, cnp.ndarray x not None, cnp.ndarray state=None, cnp.ndarray cell=None, int n_threads=1):
        """Return y (T, directions, N, hidden), the last states and the last cells (directions, N, hidden).

        x is (T, N, k), state and cell are the first ones, None for zeros. None is returned for arrays that are not
        taken: of another dtype or shape, or empty.
        """
        cdef Product into = <Product> self.into[0]
        cdef cnp.npy_intp shape[4]
        cdef cnp.ndarray y, last, cells, gates
        cdef ptrdiff_t size, i, steps
        cdef int typenum = into.typenum, count = <int> len(self.into)
        if x.ndim != 3 or cnp.PyArray_TYPE(x) != typenum or x.shape[2] != self.channels or cnp.PyArray_SIZE(x) == 0:
            return None
        steps = x.shape[0]
        shape[0], shape[1], shape[2], shape[3] = steps, count, x.shape[1], self.n
        for given in (state, cell):
            if given is not None and not _is_of(<cnp.ndarray> given, typenum, shape + 1):
                return None
        x = cnp.PyArray_GETCONTIGUOUS(x)
        y = <cnp.ndarray> cnp.PyArray_EMPTY(4, shape, typenum, 0)
        last = <cnp.ndarray> cnp.PyArray_ZEROS(3, shape + 1, typenum, 0)
        cells = <cnp.ndarray> cnp.PyArray_ZEROS(3, shape + 1, typenum, 0)
        if state is not None:
            state = cnp.PyArray_GETCONTIGUOUS(state)
            memcpy(cnp.PyArray_DATA(last), cnp.PyArray_DATA(state), cnp.PyArray_NBYTES(last))
        if cell is not None:
            cell = cnp.PyArray_GETCONTIGUOUS(cell)
            memcpy(cnp.PyArray_DATA(cells), cnp.PyArray_DATA(cell), cnp.PyArray_NBYTES(cells))
        size = shape[2] * self.n * into.itemsize  # of one direction's states
        for i in range(count):
            gates = (<Product> self.into[i])(x, None, None, n_threads)
            if gates is None:  # x is not aligned, or in another order of bytes
                return None
            _walk(<Product> self.back[i], steps, shape[2], <char*> cnp.PyArray_DATA(gates),
                  <char*> cnp.PyArray_DATA(last) + i * size, <char*> cnp.PyArray_DATA(cells) + i * size,
                  <char*> cnp.PyArray_DATA(y) + i * size, count * size, self.backward[i])
        return y, last, cells


cdef bint _is_of(cnp.ndarray a, int typenum, const cnp.npy_intp* shape) noexcept:
    if a.ndim != 3 or cnp.PyArray_TYPE(a) != typenum or not cnp.PyArray_ISBEHAVED_RO(a):
        return False
    return a.shape[0] == shape[0] and a.shape[1] == shape[1] and a.shape[2] == shape[2]


# All steps of one direction: gates (T, N, 4H) from the inputs are scratch, `state` and `cell` become the last ones,
# y has `pitch` bytes from a step to the next one.
cdef void _walk(Product back, ptrdiff_t steps, ptrdiff_t rows, char* gates, char* state, char* cell, char* y,
                ptrdiff_t pitch, bint backward):
    cdef fc1d_product q = back.q
    cdef ptrdiff_t i, t, n = back.channels, size = rows * back.channels * back.itemsize
    cdef const char* last = state
    with nogil:
        for i in range(steps):
            t = steps - 1 - i if backward else i
            back._add(&q, last, rows, n, gates + 4 * t * size)
            back.kernels.lstm_rows(gates + 4 * t * size, cell, y + t * pitch, rows, n)
            last = y + t * pitch
        memcpy(state, last, size)
