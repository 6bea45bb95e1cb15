"""Convolutions of stride 1 by tiles of short Fourier transforms, for layers of several channels.

`simd/spectral.h` has the formulas. A tile and the order of its sums depend on the layer alone; which tiles a unit has
may depend on anything, because it cannot change a bit.
"""

cimport numpy as cnp

import numpy as np

from libc.stddef cimport ptrdiff_t
from libc.string cimport memset

from fastconv1d.kernels.direct_engine cimport SERIAL_MACS, isa_in_use, run_job, set_activation
from fastconv1d.kernels.workers cimport unit_fn

cnp.import_array()

cdef extern from "simd/fc1d.h" nogil:
    enum: SPECTRAL_FACTORS

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
        ptrdiff_t n_batch, groups, c_in, c_out, l_in, l_out, left, dilation
        int mode
        ptrdiff_t points, outputs
        int n_factors
        ptrdiff_t factors[8]
        ptrdiff_t twiddle_start[8]
        ptrdiff_t n_tiles, n_phases, item_unit, tile_unit, phase_unit, n_item_units, n_tile_units, n_phase_units
        ptrdiff_t window_elems, x_row, x_slot, y_row, y_slot
        fc1d_activation before, after
        double residual_scale
        int residual_last

    ctypedef struct fc1d_kernels:
        void (*spectral)(const fc1d_spectral*, ptrdiff_t, void*) noexcept nogil
        ptrdiff_t lanes, spectral_width

    ctypedef struct fc1d_isa:
        fc1d_kernels f32, f64

cdef enum:
    ROWS = 6  # tiles of a register tile, as in simd/spectral.h

# Bytes of a unit's spectra, in and out: they should stay in L2.
cdef ptrdiff_t SPECTRA_BYTES = 1 << 20
# Tiles that a unit has at the least, so that the weights' way from memory is worth while.
cdef ptrdiff_t LEAST_TILES = 48


def tune(bytes, tiles):
    global SPECTRA_BYTES, LEAST_TILES
    SPECTRA_BYTES, LEAST_TILES = bytes, tiles


cdef inline ptrdiff_t _ceil(ptrdiff_t a, ptrdiff_t b) noexcept nogil:
    return (a + b - 1) // b


cdef class SpectralLayer:
    """A layer whose weights' spectra are packed, for any number of calls.

    Parameters
    ----------
    spectra : ndarray of shape (groups, points/2, 2, C_out/groups, C_in/groups), float32 or float64
        Of each slot the two parts of the weights' spectra, conjugated and divided by the points.
    taps, dilation : int
    factors : sequence of int
        Whose product is the points: 2, 4, and last of all 3.
    """

    cdef fc1d_spectral q
    cdef const fc1d_kernels* kernels
    cdef cnp.ndarray packed, twiddles
    cdef object dtype
    cdef ptrdiff_t taps, itemsize

    def __init__(self, cnp.ndarray spectra not None, ptrdiff_t taps, ptrdiff_t dilation, factors):
        cdef const fc1d_isa* isa = <const fc1d_isa*> isa_in_use()
        self.dtype, self.itemsize = spectra.dtype, cnp.PyArray_ITEMSIZE(spectra)
        self.kernels = &isa.f32 if cnp.PyArray_TYPE(spectra) == cnp.NPY_FLOAT32 else &isa.f64
        self.taps = taps
        memset(&self.q, 0, sizeof(self.q))
        self.q.groups, self.q.points = spectra.shape[0], 2 * spectra.shape[1]
        self.q.c_out, self.q.c_in = spectra.shape[3], spectra.shape[4]
        self.q.dilation, self.q.outputs = dilation, self.q.points - taps + 1
        self._set_twiddles(factors)
        self.packed = _packed(spectra, self.kernels.spectral_width, self.kernels.lanes)
        self.q.w = cnp.PyArray_DATA(self.packed)

    cdef void _set_twiddles(self, factors):
        """Cosines and sines of every factor, as the passes of the transforms read them."""
        cdef ptrdiff_t before = 1, radix, ido, i
        numbers = []
        self.q.n_factors = len(factors)
        for i in range(self.q.n_factors):
            radix = factors[i]
            ido = self.q.points // (before * radix)
            self.q.factors[i], self.q.twiddle_start[i] = radix, sum(map(len, numbers))
            turns = np.outer(np.arange(1, radix), np.arange(1, (ido - 1) // 2 + 1)) * (2 * np.pi * before / self.q.points)
            table = np.zeros((radix - 1, max(0, ido - 1)))
            table[:, 0:2 * turns.shape[1]:2], table[:, 1:2 * turns.shape[1]:2] = np.cos(turns), np.sin(turns)
            numbers.append(table.ravel())
            before *= radix
        self.twiddles = np.concatenate([*numbers, np.zeros(1)]).astype(self.dtype)
        self.q.twiddles = cnp.PyArray_DATA(self.twiddles)

    def run(self, cnp.ndarray x not None, cnp.ndarray bias, cnp.ndarray y not None, cnp.ndarray residual,
            ptrdiff_t left, int mode, steps, int half, int n_threads):
        """y[l] = after(bias + sum over j of w[j] * before(x)[l + j*dilation - left]), and a residual.

        x (N, C, L), y and residual in any strides and all of the storage that ``half`` says, bias contiguous.
        """
        cdef fc1d_spectral q = self.q
        cdef ptrdiff_t size = cnp.PyArray_ITEMSIZE(x), units, lanes = self.kernels.lanes
        cdef int failed
        q.x, q.y, q.half = cnp.PyArray_DATA(x), cnp.PyArray_DATA(y), half
        q.xn, q.xc, q.xl = x.strides[0] // size, x.strides[1] // size, x.strides[2] // size
        q.yn, q.yc, q.yl = y.strides[0] // size, y.strides[1] // size, y.strides[2] // size
        q.n_batch, q.l_in, q.l_out, q.left, q.mode = x.shape[0], x.shape[2], y.shape[2], left, mode
        if bias is not None:
            q.bias = cnp.PyArray_DATA(bias)
        if residual is not None:
            q.residual = cnp.PyArray_DATA(residual)
            q.rn, q.rc = residual.strides[0] // size, residual.strides[1] // size
            q.rl = residual.strides[2] // size
        q.residual_scale, q.residual_last = steps.residual_scale, steps.residual_last
        _kept = (set_activation(&q.before, steps.before, q.groups * q.c_in, self.dtype),
                 set_activation(&q.after, steps.after, q.groups * q.c_out, self.dtype))
        if q.n_batch == 0 or q.l_out == 0:
            return
        cdef double macs = 4. * q.points / 2 / q.outputs * q.c_in * q.c_out * q.groups * q.n_batch * q.l_out
        if macs < SERIAL_MACS:
            n_threads = 1
        self._cut(&q, n_threads)
        cdef size_t scratch = self.itemsize * (2 * q.points * lanes + q.window_elems
                                               + q.points // 2 * (q.x_slot + q.y_slot))
        units = q.groups * q.n_item_units * q.n_tile_units * q.n_phase_units
        with nogil:
            failed = run_job(<unit_fn> self.kernels.spectral, &q, units, macs, scratch, n_threads)
        if failed:
            raise MemoryError(f"cannot allocate scratch of {scratch} bytes a thread")

    cdef void _cut(self, fc1d_spectral* q, int n_threads) noexcept:
        """Cut the work into units, and lay out their scratch."""
        cdef ptrdiff_t lanes = self.kernels.lanes, line = 64 // self.itemsize, across, tiles, most, whole
        q.n_phases = min(q.dilation, q.l_out)
        q.n_tiles = _ceil(_ceil(q.l_out, q.dilation), q.outputs)
        q.x_row, q.y_row = 2 * _ceil(q.c_in, lanes) * lanes, 2 * _ceil(q.c_out, lanes) * lanes
        most = max(LEAST_TILES, SPECTRA_BYTES // (self.itemsize * q.points // 2 * (q.x_row + q.y_row)))
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
        # an odd number of cache lines: slots do not meet in one set
        q.x_slot = (_ceil(tiles * q.x_row, line) | 1) * line
        q.y_slot = (_ceil(tiles * q.y_row, line) | 1) * line


cdef cnp.ndarray _packed(spectra, ptrdiff_t width, ptrdiff_t lanes):
    """Weights in panels of `width` output channels, the last one of whole vectors: in each of them, for an input
    channel, the first parts of all and the second parts."""
    groups, slots, _, c_out, c_in = spectra.shape
    padded = _ceil(c_out, lanes) * lanes
    packed = np.zeros((groups, slots, 2 * c_in * padded), spectra.dtype)
    for first in range(0, padded, width):
        end = min(first + width, padded)
        panel = packed[:, :, 2 * c_in * first:2 * c_in * end].reshape(groups, slots, c_in, 2, end - first)
        panel[..., :c_out - first] = spectra[:, :, :, first:end].transpose(0, 1, 4, 2, 3)
        packed[:, :, 2 * c_in * first:2 * c_in * end] = panel.reshape(groups, slots, -1)
    return packed
