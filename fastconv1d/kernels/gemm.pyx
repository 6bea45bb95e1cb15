"""SciPy's BLAS behind one fused gemm on row-major matrices.

LP64 limits, BLAS's missing ``const`` and its column-major order are handled here, nowhere else.
"""

from scipy.linalg cimport cython_blas

from fastconv1d.kernels.blas_int cimport blas_int
from fastconv1d.kernels.numeric cimport num_t

cdef extern from "limits.h":
    const int INT_MAX

cdef Py_ssize_t blas_limit = INT_MAX


def set_blas_limit(Py_ssize_t limit=INT_MAX):
    """Set the largest size or leading dimension handed to one BLAS call (a hook for tests).

    Parameters
    ----------
    limit : int, optional
        From 1 to the largest C int, which is the default.

    Returns
    -------
    previous : int
        The limit until now.
    """
    global blas_limit
    if not 1 <= limit <= INT_MAX:
        raise ValueError(f"the BLAS limit should be between 1 and {INT_MAX}, got {limit}")
    previous, blas_limit = blas_limit, limit
    return previous


# C[m, n] += A[m, k] @ B[k, n], or A[m, k] @ conj(B[n, k]).T with conj_trans_b.
#
# All three are row-major with the given row lengths (lda, ldb, ldc). BLAS is column-major, so it is
# asked for C.T += op(B).T @ A.T on the same memory. C is always added to: no result ever depends on
# what beta = 0 does with NaN. Sizes beyond blas_limit are cut into blocks in a fixed order; a row
# length beyond it cannot be passed on at all, so that matrix is then handed over row by row.
cdef void gemm_add(
    bint conj_trans_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    const num_t *a, Py_ssize_t lda, const num_t *b, Py_ssize_t ldb, num_t *c, Py_ssize_t ldc,
) noexcept nogil:
    cdef Py_ssize_t limit = blas_limit
    cdef Py_ssize_t step_m = 1 if lda > limit or ldc > limit else limit
    cdef Py_ssize_t step_n = 1 if conj_trans_b and ldb > limit else limit
    cdef Py_ssize_t step_k = 1 if not conj_trans_b and ldb > limit else limit
    cdef Py_ssize_t i = 0, j, p
    cdef const num_t *b_block
    while i < m:
        j = 0
        while j < n:
            p = 0
            while p < k:
                b_block = b + (j * ldb + p if conj_trans_b else p * ldb + j)
                _gemm_block(
                    conj_trans_b, min(step_m, m - i), min(step_n, n - j), min(step_k, k - p),
                    a + i * lda + p, lda, b_block, ldb, c + i * ldc + j, ldc,
                )
                p += min(step_k, k - p)
            j += min(step_n, n - j)
        i += min(step_m, m - i)


# One BLAS call. A matrix of a single row may have any row length: BLAS gets the shortest valid one.
cdef void _gemm_block(
    bint conj_trans_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    const num_t *a, Py_ssize_t lda, const num_t *b, Py_ssize_t ldb, num_t *c, Py_ssize_t ldc,
) noexcept nogil:
    cdef Py_ssize_t b_rows = n if conj_trans_b else k
    cdef Py_ssize_t b_columns = k if conj_trans_b else n
    cdef blas_int bm = <blas_int> m, bn = <blas_int> n, bk = <blas_int> k
    cdef blas_int blda = <blas_int> (k if m == 1 else lda)
    cdef blas_int bldb = <blas_int> (b_columns if b_rows == 1 else ldb)
    cdef blas_int bldc = <blas_int> (n if m == 1 else ldc)
    cdef num_t one = 1
    cdef char *trans_b = b"C" if conj_trans_b else b"N"
    cdef char *trans_a = b"N"
    cdef num_t *pa = <num_t *> a
    cdef num_t *pb = <num_t *> b
    if num_t is float:
        cython_blas.sgemm(
            trans_b, trans_a, &bn, &bm, &bk, &one, pb, &bldb, pa, &blda, &one, c, &bldc)
    elif num_t is double:
        cython_blas.dgemm(
            trans_b, trans_a, &bn, &bm, &bk, &one, pb, &bldb, pa, &blda, &one, c, &bldc)
    elif num_t is floatcomplex:
        cython_blas.cgemm(
            trans_b, trans_a, &bn, &bm, &bk, &one, pb, &bldb, pa, &blda, &one, c, &bldc)
    else:
        cython_blas.zgemm(
            trans_b, trans_a, &bn, &bm, &bk, &one, pb, &bldb, pa, &blda, &one, c, &bldc)


# c[n] += B[n, k] @ a[k] of reals, B row-major: half of what a product of matrices takes for one row.
cdef void gemv_add(
    Py_ssize_t n, Py_ssize_t k, const num_t *a, const num_t *b, num_t *c,
) noexcept nogil:
    cdef blas_int bn = <blas_int> n, bk = <blas_int> k, step = 1
    cdef num_t one = 1
    if num_t is float:
        cython_blas.sgemv(b"T", &bk, &bn, &one, <num_t *> b, &bk, <num_t *> a, &step, &one, c, &step)
    elif num_t is double:
        cython_blas.dgemv(b"T", &bk, &bn, &one, <num_t *> b, &bk, <num_t *> a, &step, &one, c, &step)
    else:
        gemm_add(True, 1, n, k, a, k, b, k, c, n)
