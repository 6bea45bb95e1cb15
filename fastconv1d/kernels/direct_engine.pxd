# The fc1d_isa of simd/fc1d.h whose kernels are in use.
cdef const void* isa_in_use() noexcept nogil
