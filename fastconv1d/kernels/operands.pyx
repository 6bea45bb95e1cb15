"""What is asked of arrays on memory that is not the library's: may a kernel read them, did somebody write to them."""
cimport numpy as cnp
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

cnp.import_array()

cdef enum:
    LANES = 8  # independent chains of multiplications: 30 GB/s in L2

cdef uint64_t PRIME = <uint64_t> 0x9E3779B97F4A7C15


cdef inline uint64_t _mixed(uint64_t h, uint64_t word) noexcept nogil:
    """A bijection of each of the two: a single word that changes always changes the result."""
    h ^= word
    return (h << 17 | h >> 47) * PRIME  # not turned, the signs of two words would cancel


cdef uint64_t _mixed_bytes(uint64_t h, const char* data, Py_ssize_t n_bytes) noexcept nogil:
    cdef uint64_t lanes[LANES]
    cdef uint64_t word
    cdef Py_ssize_t i, lane
    for lane in range(LANES):
        lanes[lane] = h + lane
    i = 0
    while i <= n_bytes - 8 * LANES:
        for lane in range(LANES):
            memcpy(&word, data + i + 8 * lane, 8)
            lanes[lane] = _mixed(lanes[lane], word)
        i += 8 * LANES
    for lane in range(LANES):
        h = _mixed(h, lanes[lane])
    while i < n_bytes:
        word = 0
        memcpy(&word, data + i, min(8, n_bytes - i))
        h = _mixed(h, word)
        i += 8
    return h


cdef uint64_t _mixed_samples(uint64_t h, cnp.ndarray array, Py_ssize_t samples) noexcept:
    """Elements in equal distances, the first and the last among them."""
    cdef Py_ssize_t size = cnp.PyArray_SIZE(array), i, at, rest, offset
    cdef int itemsize = min(8, cnp.PyArray_ITEMSIZE(array)), axis
    cdef uint64_t word = 0
    for i in range(samples):
        rest, offset = i * (size - 1) // max(1, samples - 1), 0
        for axis in range(cnp.PyArray_NDIM(array) - 1, -1, -1):
            at = rest // array.shape[axis]
            offset += (rest - at * array.shape[axis]) * array.strides[axis]
            rest = at
        memcpy(&word, cnp.PyArray_BYTES(array) + offset, itemsize)
        h = _mixed(h, word)
    return h


def are_real(cnp.ndarray x not None, cnp.ndarray w not None, b=None):
    """Whether arrays, of which the last may be None, are aligned, native and all float32 or all float64."""
    cdef int typenum = cnp.PyArray_TYPE(x)
    cdef cnp.ndarray bias = w if b is None else b
    return ((typenum == cnp.NPY_FLOAT32 or typenum == cnp.NPY_FLOAT64)
            and cnp.PyArray_TYPE(w) == typenum and cnp.PyArray_TYPE(bias) == typenum
            and cnp.PyArray_ISBEHAVED_RO(x) and cnp.PyArray_ISBEHAVED_RO(w) and cnp.PyArray_ISBEHAVED_RO(bias))


def fingerprint(tuple arrays not None, Py_ssize_t small=-1, Py_ssize_t samples=16):
    """Return a number of 64 bits that follows from the arrays' types, shapes, strides and bits.

    Any change of a single element changes it for certain, others but for one in 2**64, unless they were made to. Of
    arrays of more than ``small`` bytes, if that is given, only ``samples`` elements are looked at.
    """
    cdef uint64_t h = <uint64_t> len(arrays)
    cdef cnp.ndarray array
    cdef const char* data
    cdef Py_ssize_t n_bytes
    cdef int axis
    for array in arrays:
        h = _mixed(h, <uint64_t> cnp.PyArray_TYPE(array))
        for axis in range(cnp.PyArray_NDIM(array)):
            h = _mixed(_mixed(h, <uint64_t> array.shape[axis]), <uint64_t> array.strides[axis])
        if cnp.PyArray_SIZE(array) == 0:
            continue
        if 0 <= small < cnp.PyArray_NBYTES(array):
            h = _mixed_samples(h, array, samples)
            continue
        if not cnp.PyArray_ISONESEGMENT(array):
            array = cnp.PyArray_GETCONTIGUOUS(array)
        data, n_bytes = cnp.PyArray_BYTES(array), cnp.PyArray_NBYTES(array)
        with nogil:
            h = _mixed_bytes(h, data, n_bytes)
    return h
