# One unit of a job, with the scratch of the thread that runs it.
ctypedef void (*unit_fn)(const void *job, Py_ssize_t unit, void *scratch) noexcept nogil

# A threading layer: runs the units from first to last - 1 on the calling thread and n_threads - 1
# others at the most, of which the i-th has scratch + slab * i; returns when all are done.
ctypedef void (*layer_fn)(
    unit_fn run, const void *job, Py_ssize_t first, Py_ssize_t last,
    char *scratch, size_t slab, Py_ssize_t n_threads,
) noexcept nogil

cdef enum:
    MAX_WORKERS = 1023

cdef void run_units(
    unit_fn run, const void *job, Py_ssize_t first, Py_ssize_t last,
    void *scratch, size_t slab, Py_ssize_t n_threads,
) noexcept nogil

# What layers are made of. deal_units returns how many it has run.
cdef void set_layer(layer_fn layer) noexcept nogil
cdef Py_ssize_t worker_limit() noexcept nogil
cdef Py_ssize_t deal_units(
    unit_fn run, const void *job, long long *next, Py_ssize_t last, void *scratch,
) noexcept nogil
