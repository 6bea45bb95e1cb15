"""Convolutions of stride 1 by tiles of short Fourier transforms, for layers of several channels.

`simd/spectral.h` has the formulas. A tile and the order of its sums depend on the layer alone; which tiles a unit has
may depend on anything, because it cannot change a bit.
"""

cimport numpy as cnp

import numpy as np

from .memory import new

from libc.stddef cimport ptrdiff_t
from libc.string cimport memset

from fastconv1d.kernels.direct_engine cimport SERIAL_MACS, run_job, set_activation
from fastconv1d.kernels.fourier cimport transforms_in_use
from fastconv1d.kernels.workers cimport unit_fn

cnp.import_array()

cdef extern from "simd/fc1d.h" nogil:
    enum: SPECTRAL_FILTER

    ctypedef struct fc1d_activation:
        int function

    ctypedef struct fc1d_spectral:
        const void* x
        const void* w
        const void* bias
        const void* residual
        const void* twiddles
        void* y
        ptrdiff_t xn, xc, xl, yn, yc, yl, rn, rc, rl
        int half
        ptrdiff_t n_batch, groups, l_in, l_out, left, dilation
        int mode
        ptrdiff_t c_in, c_out, x_split, y_split, crop, n_cols
        ptrdiff_t points, outputs, components
        int n_factors
        ptrdiff_t factors[8]
        ptrdiff_t twiddle_start[8]
        ptrdiff_t n_tiles, n_phases, item_unit, tile_unit, phase_unit, n_item_units, n_tile_units, n_phase_units
        ptrdiff_t window_elems, x_slot, y_slot
        fc1d_activation before, after
        double residual_scale
        int residual_last

    ctypedef struct fc1d_spectral_weight:
        const fc1d_spectral* layer
        const void* w
        void* packed
        const void* matrix
        ptrdiff_t sg, so, si, sk, kernel_size, taps

    ctypedef struct fc1d_fourier_kernels:
        void (*tiles)(const fc1d_spectral*, ptrdiff_t, void*) noexcept nogil
        void (*pack_tiles)(const fc1d_spectral_weight*, ptrdiff_t, void*) noexcept nogil
        ptrdiff_t lanes

    ctypedef struct fc1d_transforms:
        fc1d_fourier_kernels f32, f64

cdef enum:  # as in simd/spectral.h
    ROWS = 12  # tiles of a register tile
    VECTORS = 2  # and vectors of output channels

# Bytes of a unit's components, in and of a panel of outputs: they should stay in L2. Of 128 channels, 3 taps and 16
# points 512 KiB took 1.72 ms, 1 MiB 1.58 and 1.5 MiB 1.79 (AVX-512, 2 MiB of L2).
cdef ptrdiff_t SPECTRA_BYTES = 1 << 20
# Tiles that a unit has at the least, so that the weights' way from memory is worth while: of 256 channels, 3 taps and 6
# points 48 took 5.1 ms and 96 took 4.8; of 7 taps and 24 points 4.3 and 4.0.
cdef ptrdiff_t LEAST_TILES = 96
# And what those may take of a thread's scratch; the window, and outputs on their way, come on top.
cdef ptrdiff_t MOST_BYTES = 20 << 20


# Multiply-adds that take as long as a number of the weights' spectra.
cdef double PACKED_MACS = 40


cdef inline ptrdiff_t _ceil(ptrdiff_t a, ptrdiff_t b) noexcept nogil:
    return (a + b - 1) // b


cdef class SpectralLayer:
    """A layer whose weights' spectra are packed, for any number of calls.

    Parameters
    ----------
    weight : ndarray of shape (groups, C_out/groups, C_in/groups, K), float32 or float64
        As a correlate has it; of a scatter of a stride above 1, as a scatter has it. Any strides.
    dilation : int
    x_split, y_split : int
        The stride of a correlate, or of a scatter; one of them is 1, and both are with a dilation.
    factors : sequence of int
        Whose product is the points of a tile: 2, 4, and last of all 3. Or none, for minimal filtering.
    matrices : tuple of ndarrays of shapes (6, 6), (7 - taps, 6) and (6, taps)
        Of minimal filtering, by inputs, by outputs and by weights.
    n_threads : int
    """

    cdef fc1d_spectral q
    cdef const fc1d_fourier_kernels* kernels
    cdef cnp.ndarray packed, twiddles  # the first is 64-byte aligned if it is large
    cdef object dtype
    cdef ptrdiff_t itemsize

    def __init__(self, cnp.ndarray weight not None, ptrdiff_t dilation, ptrdiff_t x_split, ptrdiff_t y_split, factors,
                 matrices, int n_threads):
        cdef const fc1d_transforms* isa = <const fc1d_transforms*> transforms_in_use()
        cdef fc1d_spectral_weight p
        cdef ptrdiff_t size = cnp.PyArray_ITEMSIZE(weight), vectors, radix
        cdef int failed
        cdef cnp.ndarray by_weight = None
        self.dtype, self.itemsize = weight.dtype, size
        self.kernels = &isa.f32 if cnp.PyArray_TYPE(weight) == cnp.NPY_FLOAT32 else &isa.f64
        memset(&self.q, 0, sizeof(self.q))
        self.q.x_split, self.q.y_split = x_split, y_split
        self.q.groups, self.q.c_out, self.q.c_in = weight.shape[0], weight.shape[1] * y_split, weight.shape[2] * x_split
        self.q.dilation, p.kernel_size, p.taps = dilation, weight.shape[3], _ceil(weight.shape[3], x_split * y_split)
        p.matrix = NULL
        if matrices is None:
            self.q.points = 1
            for radix in factors:
                self.q.points *= radix
            self._set_twiddles(factors)
        else:
            by_input, by_output, values = matrices
            self.q.points = SPECTRAL_FILTER
            self.twiddles = np.concatenate([by_input.ravel(), by_output.ravel()]).astype(self.dtype)
            by_weight = np.zeros((SPECTRAL_FILTER, SPECTRAL_FILTER), self.dtype)
            by_weight[:, :p.taps] = values
            p.matrix = cnp.PyArray_DATA(by_weight)
        self.q.twiddles = cnp.PyArray_DATA(self.twiddles)
        self.q.components = SPECTRAL_FILTER if matrices is not None else 3 * self.q.points // 2 - 1
        self.q.outputs = self.q.points - p.taps + 1
        vectors = _ceil(self.q.c_out, self.kernels.lanes)
        self.packed = new((self.q.groups, self.q.components, self.q.c_in, vectors * self.kernels.lanes), self.dtype)
        self.q.w = p.packed = cnp.PyArray_DATA(self.packed)
        p.layer, p.w = &self.q, cnp.PyArray_DATA(weight)
        p.sg, p.so = weight.strides[0] // size, weight.strides[1] // size
        p.si, p.sk = weight.strides[2] // size, weight.strides[3] // size
        cdef double macs = <double> cnp.PyArray_SIZE(self.packed) * PACKED_MACS
        with nogil:
            failed = run_job(<unit_fn> self.kernels.pack_tiles, &p, self.q.groups * vectors, macs,
                             3 * self.q.points * self.kernels.lanes * size, n_threads if macs > SERIAL_MACS else 1)
        if failed:
            raise MemoryError("cannot allocate the scratch of a packing")

    cdef void _set_twiddles(self, factors):
        """Cosines and sines of every factor, as the passes of the transforms read them."""
        cdef ptrdiff_t before = 1, radix, ido, i
        numbers = []
        self.q.n_factors = len(factors)
        for i in range(self.q.n_factors):
            radix = factors[i]
            ido = self.q.points // (before * radix)
            self.q.factors[i], self.q.twiddle_start[i] = radix, sum(map(len, numbers))
            turns = np.outer(np.arange(1, radix), np.arange(1, (ido - 1) // 2 + 1))
            turns = turns * (2 * np.pi * before / self.q.points)
            table = np.zeros((radix - 1, max(0, ido - 1)))
            table[:, 0:2 * turns.shape[1]:2], table[:, 1:2 * turns.shape[1]:2] = np.cos(turns), np.sin(turns)
            numbers.append(table.ravel())
            before *= radix
        self.twiddles = np.concatenate([*numbers, np.zeros(1)]).astype(self.dtype)

    def run(self, cnp.ndarray x not None, cnp.ndarray bias, cnp.ndarray y not None, cnp.ndarray residual,
            ptrdiff_t left, ptrdiff_t crop, ptrdiff_t n_cols, int mode, steps, int half, int n_threads):
        """Write a convolution to y; simd/fc1d.h says what left, crop and the columns are.

        x (N, C, L), y and residual in any strides and all of the storage that ``half`` says, bias contiguous.
        """
        cdef fc1d_spectral q = self.q
        cdef ptrdiff_t size = cnp.PyArray_ITEMSIZE(x), units, lanes = self.kernels.lanes
        cdef int failed
        q.x, q.y, q.half = cnp.PyArray_DATA(x), cnp.PyArray_DATA(y), half
        q.xn, q.xc, q.xl = x.strides[0] // size, x.strides[1] // size, x.strides[2] // size
        q.yn, q.yc, q.yl = y.strides[0] // size, y.strides[1] // size, y.strides[2] // size
        q.n_batch, q.l_in, q.l_out, q.left, q.mode = x.shape[0], x.shape[2], y.shape[2], left, mode
        q.crop, q.n_cols = crop, n_cols
        if bias is not None:
            q.bias = cnp.PyArray_DATA(bias)
        if residual is not None:
            q.residual = cnp.PyArray_DATA(residual)
            q.rn, q.rc = residual.strides[0] // size, residual.strides[1] // size
            q.rl = residual.strides[2] // size
        q.residual_scale, q.residual_last = steps.residual_scale, steps.residual_last
        _kept = (set_activation(&q.before, steps.before, q.groups * q.c_in // q.x_split, self.dtype),
                 set_activation(&q.after, steps.after, q.groups * q.c_out // q.y_split, self.dtype))
        if q.n_batch == 0 or q.l_out == 0 or q.n_cols <= 0:
            return
        cdef double macs = 1. * q.components / q.outputs * q.c_in * q.c_out * q.groups * q.n_batch * q.n_cols
        if macs < SERIAL_MACS:
            n_threads = 1
        self._cut(&q, n_threads)
        cdef size_t scratch = self.itemsize * (2 * q.points * lanes + q.window_elems
                                               + q.components * (q.x_slot + q.y_slot))
        units = q.groups * q.n_item_units * q.n_tile_units * q.n_phase_units
        with nogil:
            failed = run_job(<unit_fn> self.kernels.tiles, &q, units, macs, scratch, n_threads)
        if failed:
            raise MemoryError(f"cannot allocate scratch of {scratch} bytes a thread")

    cdef void _cut(self, fc1d_spectral* q, int n_threads) noexcept:
        """Cut the work into units, and lay out their scratch."""
        cdef ptrdiff_t lanes = self.kernels.lanes, line = 64 // self.itemsize, across, tiles, most, whole, x_row, y_row
        q.n_phases = min(q.dilation, q.n_cols)
        q.n_tiles = _ceil(_ceil(q.n_cols, q.dilation), q.outputs)
        x_row, y_row = _ceil(q.c_in, lanes) * lanes, VECTORS * lanes
        most = max(LEAST_TILES, SPECTRA_BYTES // (self.itemsize * q.components * (x_row + y_row)))
        most = max(1, min(most, MOST_BYTES // (self.itemsize * q.components * (x_row + y_row))))
        whole = q.n_batch * q.n_tiles * q.n_phases
        most = min(most, max(ROWS, _ceil(whole, max(1, n_threads // min(q.groups, n_threads)))))
        q.item_unit, q.tile_unit, q.phase_unit = 1, q.n_tiles, q.n_phases
        if q.n_tiles * q.n_phases <= most:
            q.item_unit = min(q.n_batch, most // (q.n_tiles * q.n_phases))
        elif q.n_phases <= most:
            q.tile_unit = most // q.n_phases
            q.tile_unit = _ceil(q.n_tiles, _ceil(q.n_tiles, q.tile_unit))
        else:
            q.tile_unit, q.phase_unit = 1, most
        q.n_item_units = _ceil(q.n_batch, q.item_unit)
        q.n_tile_units = _ceil(q.n_tiles, q.tile_unit)
        q.n_phase_units = _ceil(q.n_phases, q.phase_unit)
        across = q.phase_unit
        q.window_elems = (((q.tile_unit - 1) * q.outputs + q.points) * across + lanes) * lanes
        tiles = q.item_unit * q.tile_unit * across
        # an odd number of cache lines: components do not meet in one set
        q.x_slot = (_ceil(tiles * x_row, line) | 1) * line
        q.y_slot = (_ceil(tiles * y_row, line) | 1) * line
