# The fc1d_transforms of simd/fc1d.h whose kernels are in use.
cdef const void* transforms_in_use() noexcept nogil
