from fastconv1d.kernels.workers cimport unit_fn

# The fc1d_isa of simd/fc1d.h whose kernels are in use.
cdef const void* isa_in_use() noexcept nogil

# Multiply-adds below which a call is not shared among threads.
cdef double SERIAL_MACS

cdef int run_job(unit_fn run, const void* job, ptrdiff_t units, double macs, size_t scratch_bytes,
                 int n_threads) except -2 nogil

# Fills an fc1d_activation, and returns what should be kept while it is used.
cdef object set_activation(void* step, activation, ptrdiff_t channels, dtype)
