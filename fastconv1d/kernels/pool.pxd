# One unit of a job, with the scratch of the thread that runs it.
ctypedef void (*unit_fn)(const void *job, Py_ssize_t unit, void *scratch) noexcept nogil

cdef enum:
    MAX_WORKERS = 1023

cdef void run_units(
    unit_fn run, const void *job, Py_ssize_t first, Py_ssize_t last,
    void *scratch, size_t slab, Py_ssize_t n_threads,
) noexcept nogil
