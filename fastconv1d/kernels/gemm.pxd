from fastconv1d.kernels.numeric cimport num_t


cdef void gemm_add(
    bint conj_trans_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    const num_t *a, Py_ssize_t lda, const num_t *b, Py_ssize_t ldb, num_t *c, Py_ssize_t ldc,
) noexcept nogil

cdef void gemv_add(
    Py_ssize_t n, Py_ssize_t k, const num_t *a, const num_t *b, num_t *c,
) noexcept nogil
