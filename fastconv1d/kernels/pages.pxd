cdef int touch_rows(
    void *first, Py_ssize_t n_rows, Py_ssize_t pitch, Py_ssize_t row_bytes, Py_ssize_t n_threads,
) except -1 nogil
