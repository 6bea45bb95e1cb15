cimport numpy as cnp

# Scratch and packed weights: at a multiple of 64 bytes, NULL without memory.
cdef void *take_bytes(size_t n_bytes) noexcept nogil
cdef void give_bytes(void *data) noexcept nogil

# A result: what PyArray_EMPTY makes, in memory that is kept if it is large.
cdef cnp.ndarray new_array(int nd, cnp.npy_intp *shape, int typenum)
