"""Layers between convolutions: softmax, normalizations, recurrent layers, quantization.

Arrays are C-contiguous, of float32 or float64, and all of a call of one dtype. `threads` is how many a call may use;
rows are shared among them, and no bit depends on who computes which.
"""

cimport numpy as cnp

from libc.stddef cimport ptrdiff_t
from libc.string cimport memcpy, memset

from fastconv1d.kernels.direct_engine cimport SERIAL_MACS, isa_in_use, run_job
from fastconv1d.kernels.gemm cimport gemm_add, gemv_add
from fastconv1d.kernels.workers cimport unit_fn

cnp.import_array()

cdef extern from "simd/fc1d.h" nogil:
    enum: FC1D_PANEL_BYTES
    enum: FC1D_POOL_STEPS

    ctypedef struct fc1d_norm:
        const void* x
        const void* scale
        const void* shift
        void* y
        ptrdiff_t n, span, channels
        double epsilon
        int centered

    ctypedef struct fc1d_pool:
        const void* x
        void* y
        ptrdiff_t planes, rows, columns, rows_out, columns_out
        ptrdiff_t row_taps, row_step, row_dilation, row_before
        ptrdiff_t taps, step, dilation, before, row_length
        int largest
        const void* divisors

    ctypedef struct fc1d_affine:
        const void* x
        const void* scale
        const void* shift
        void* y
        ptrdiff_t n, channels

    ctypedef struct fc1d_parts:
        const void* x
        void* y
        const ptrdiff_t* begin
        const ptrdiff_t* end
        ptrdiff_t n, count
        int largest

    ctypedef struct fc1d_resample:
        const void* x
        const void* near_
        const void* far_
        void* y
        const ptrdiff_t* left
        const ptrdiff_t* right
        ptrdiff_t n, count

    ctypedef struct fc1d_kernels:
        void (*softmax_rows)(const void*, void*, ptrdiff_t, ptrdiff_t, int) noexcept nogil
        void (*softmax_columns)(const void*, void*, ptrdiff_t, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*standardize_rows)(const fc1d_norm*, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*standardize_columns)(const fc1d_norm*, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*lstm_rows)(const void*, void*, void*, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*gru_rows)(const void*, const void*, const void*, void*, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*quantize)(const void*, void*, ptrdiff_t, double, ptrdiff_t, ptrdiff_t, ptrdiff_t, int) noexcept nogil
        void (*erf_rows)(const void*, void*, ptrdiff_t) noexcept nogil
        void (*convert)(const void*, void*, ptrdiff_t, int, int) noexcept nogil
        void (*pool)(const fc1d_pool*, void*) noexcept nogil
        void (*affine_rows)(const fc1d_affine*, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*resample_rows)(const fc1d_resample*, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*gate)(const void*, const void*, void*, ptrdiff_t, int) noexcept nogil
        void (*reduce_parts)(const fc1d_parts*, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*add_product)(const void*, const void*, void*, ptrdiff_t, ptrdiff_t, ptrdiff_t) noexcept nogil

    ctypedef struct fc1d_isa:
        fc1d_kernels f32, f64


cdef inline const fc1d_kernels* _kernels(cnp.ndarray x) noexcept:
    cdef const fc1d_isa* isa = <const fc1d_isa*> isa_in_use()
    return &isa.f32 if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT32 else &isa.f64


cdef inline ptrdiff_t _last(cnp.ndarray x) noexcept:
    return x.shape[x.ndim - 1]


# ---- rows among threads --------------------------------------------------------------------------

# What a unit of work is of: `block` of `items` rows, or elements. The other fields are a function's own.
cdef struct Job:
    const fc1d_kernels* kernels
    ptrdiff_t items, block, n, size, steps, pitch
    const char* x
    const char* z
    const char* start
    char* c
    char* y
    int flag, single
    fc1d_norm norm
    fc1d_pool pool
    fc1d_affine affine
    fc1d_parts parts
    fc1d_resample resample

# Multiply-adds of a unit: some 20 us.
cdef double UNIT_MACS = 2e5
# What an element takes, in multiply-adds of 0.02 ns: of softmax or a gate 0.4 to 0.6 ns, of a batch norm 0.25 ns (most
# of it memory, which threads share), on one core with AVX-512.
cdef double _OF_CURVE = 16
cdef double _OF_PASS = 2


cdef int _share(unit_fn run, Job* job, double item_macs, size_t scratch_bytes, int threads,
                ptrdiff_t together=1) except -1:
    """Run `run` over blocks of the job's items, `item_macs` multiply-adds each, and at least `together` of them."""
    cdef double macs = item_macs * job.items
    cdef int failed
    if job.items == 0:
        return 0
    job.block = max(together, <ptrdiff_t> min(<double> job.items, UNIT_MACS / max(1., item_macs)))
    if macs < SERIAL_MACS:
        threads = 1
    with nogil:
        failed = run_job(run, job, (job.items + job.block - 1) // job.block, macs, scratch_bytes, threads)
    if failed:
        raise MemoryError
    return 0


cdef inline ptrdiff_t _end(const Job* job, ptrdiff_t unit) noexcept nogil:
    return min(job.items, (unit + 1) * job.block)


cdef void _softmax_unit(const void* of, ptrdiff_t unit, void* scratch) noexcept nogil:
    cdef const Job* job = <const Job*> of
    cdef ptrdiff_t first = unit * job.block, at = first * job.n * job.size
    job.kernels.softmax_rows(job.x + at, job.y + at, _end(job, unit) - first, job.n, job.flag)


def softmax(cnp.ndarray x not None, cnp.ndarray y not None, bint logarithm, int threads=1):
    """y = exp(x)/sum(exp(x)) over the last axis, which has an element at least, or its logarithm."""
    cdef Job job
    memset(&job, 0, sizeof(job))
    job.kernels, job.n, job.size, job.flag = _kernels(x), _last(x), cnp.PyArray_ITEMSIZE(x), logarithm
    job.items = cnp.PyArray_SIZE(x) // job.n
    job.x, job.y = <const char*> cnp.PyArray_DATA(x), <char*> cnp.PyArray_DATA(y)
    _share(<unit_fn> _softmax_unit, &job, _OF_CURVE * job.n, 0, threads)


cdef void _softmax_columns_unit(const void* of, ptrdiff_t unit, void* scratch) noexcept nogil:
    cdef const Job* job = <const Job*> of
    cdef ptrdiff_t first = unit * job.block, at = first * job.n * job.pitch * job.size
    job.kernels.softmax_columns(job.x + at, job.y + at, _end(job, unit) - first, job.n, job.pitch)


def softmax_columns(cnp.ndarray x not None, cnp.ndarray y not None, int threads=1):
    """y = exp(x)/sum(exp(x)) over the middle axis of x (M, n, columns), none of which is 0."""
    cdef Job job
    memset(&job, 0, sizeof(job))
    job.kernels, job.items, job.n, job.pitch = _kernels(x), x.shape[0], x.shape[1], x.shape[2]
    job.size, job.x, job.y = cnp.PyArray_ITEMSIZE(x), <const char*> cnp.PyArray_DATA(x), <char*> cnp.PyArray_DATA(y)
    _share(<unit_fn> _softmax_columns_unit, &job, _OF_CURVE * job.n * job.pitch, 0, threads)


cdef void _standardize_unit(const void* of, ptrdiff_t unit, void* scratch) noexcept nogil:
    cdef const Job* job = <const Job*> of
    job.kernels.standardize_rows(&job.norm, unit * job.block, _end(job, unit))


def standardize(cnp.ndarray x not None, cnp.ndarray y not None, ptrdiff_t n, cnp.ndarray scale, cnp.ndarray shift,
                ptrdiff_t span, double epsilon, bint centered, int threads=1):
    """y = (x - mean)/sqrt(variance + epsilon)*scale + shift of each n elements, of mean 0 if not centered.

    scale and shift have n elements if span is 0, otherwise one for span elements, in turn; they may be None.
    """
    cdef Job job
    memset(&job, 0, sizeof(job))
    job.kernels, job.items = _kernels(x), cnp.PyArray_SIZE(x) // n
    job.norm.x, job.norm.y = cnp.PyArray_DATA(x), cnp.PyArray_DATA(y)
    job.norm.scale = NULL if scale is None else cnp.PyArray_DATA(scale)
    job.norm.shift = NULL if shift is None else cnp.PyArray_DATA(shift)
    job.norm.n, job.norm.span, job.norm.channels = n, span, 1 if scale is None else scale.shape[0]
    job.norm.epsilon, job.norm.centered = epsilon, centered
    _share(<unit_fn> _standardize_unit, &job, 3 * _OF_PASS * n, 0, threads)


cdef void _columns_unit(const void* of, ptrdiff_t unit, void* scratch) noexcept nogil:
    cdef const Job* job = <const Job*> of
    job.kernels.standardize_columns(&job.norm, unit * job.block, _end(job, unit))


def standardize_channels(cnp.ndarray x not None, cnp.ndarray y not None, cnp.ndarray scale, cnp.ndarray shift,
                         double epsilon, int threads=1):
    """As `standardize`, over the channels of x (N, C, L), of which scale and shift have one each; y may be x."""
    cdef Job job
    memset(&job, 0, sizeof(job))
    job.kernels, job.items = _kernels(x), x.shape[0]
    job.norm.x, job.norm.y = cnp.PyArray_DATA(x), cnp.PyArray_DATA(y)
    job.norm.scale = NULL if scale is None else cnp.PyArray_DATA(scale)
    job.norm.shift = NULL if shift is None else cnp.PyArray_DATA(shift)
    job.norm.n, job.norm.span, job.norm.epsilon = x.shape[1], x.shape[2], epsilon
    _share(<unit_fn> _columns_unit, &job, 3 * _OF_PASS * job.norm.n * job.norm.span, 0, threads)


cdef void _affine_unit(const void* of, ptrdiff_t unit, void* scratch) noexcept nogil:
    cdef const Job* job = <const Job*> of
    job.kernels.affine_rows(&job.affine, unit * job.block, _end(job, unit))


def affine(cnp.ndarray x not None, cnp.ndarray y not None, cnp.ndarray scale not None, cnp.ndarray shift not None,
           int threads=1):
    """y = x*scale + shift of x (N, C, L) or (N, C), scale and shift (C,); y may be x."""
    cdef Job job
    cdef ptrdiff_t channels = x.shape[1], n = x.shape[2] if x.ndim == 3 else 1
    memset(&job, 0, sizeof(job))
    job.kernels, job.items = _kernels(x), x.shape[0] * (channels if n > 1 else 1)
    job.affine.x, job.affine.y = cnp.PyArray_DATA(x), cnp.PyArray_DATA(y)
    job.affine.scale, job.affine.shift = cnp.PyArray_DATA(scale), cnp.PyArray_DATA(shift)
    job.affine.n, job.affine.channels = n, channels
    _share(<unit_fn> _affine_unit, &job, _OF_PASS * (n if n > 1 else channels), 0, threads)


cdef void _gate_unit(const void* of, ptrdiff_t unit, void* scratch) noexcept nogil:
    cdef const Job* job = <const Job*> of
    cdef ptrdiff_t i, at, from_
    for i in range(unit * job.block, _end(job, unit)):
        at, from_ = i * job.n * job.size, i * job.pitch * job.size
        job.kernels.gate(job.x + from_, job.z + from_, job.y + at, job.n, job.flag)


def gate(cnp.ndarray a not None, cnp.ndarray b not None, cnp.ndarray y not None, bint squashed, int threads=1):
    """y = f(a)*sigmoid(b), f tanh if squashed, otherwise the identity.

    y (M, n) is contiguous, a and b (M, n) have rows of unit stride that are as far apart in both.
    """
    cdef Job job
    memset(&job, 0, sizeof(job))
    job.kernels, job.items, job.n, job.size = _kernels(y), y.shape[0], y.shape[1], cnp.PyArray_ITEMSIZE(y)
    job.pitch, job.flag = a.strides[0] // job.size, squashed
    job.x, job.z = <const char*> cnp.PyArray_DATA(a), <const char*> cnp.PyArray_DATA(b)
    job.y = <char*> cnp.PyArray_DATA(y)
    _share(<unit_fn> _gate_unit, &job, 2 * _OF_CURVE * job.n, 0, threads)


cdef void _resample_unit(const void* of, ptrdiff_t unit, void* scratch) noexcept nogil:
    cdef const Job* job = <const Job*> of
    job.kernels.resample_rows(&job.resample, unit * job.block, _end(job, unit))


def resample(cnp.ndarray x not None, cnp.ndarray y not None, cnp.ndarray where not None, cnp.ndarray weights,
             int threads=1):
    """y[r, i] = sum over j of x[r, where[j, i]]*weights[j, i] of x (M, n), for two neighbours; of one its value.

    where is of numpy.intp, and in range.
    """
    cdef Job job
    memset(&job, 0, sizeof(job))
    cdef fc1d_resample* q = &job.resample
    cdef ptrdiff_t count = y.shape[1]
    job.kernels, job.items = _kernels(x), x.shape[0]
    q.x, q.y, q.n, q.count = cnp.PyArray_DATA(x), cnp.PyArray_DATA(y), x.shape[1], count
    q.left = <const ptrdiff_t*> cnp.PyArray_DATA(where)
    if where.shape[0] == 2:
        q.right, q.near_ = q.left + count, cnp.PyArray_DATA(weights)
        q.far_ = <const char*> q.near_ + count * cnp.PyArray_ITEMSIZE(x)
    _share(<unit_fn> _resample_unit, &job, 2 * _OF_PASS * count, 0, threads)


# ---- recurrent layers ----------------------------------------------------------------------------

cdef inline void _add_product(bint single, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void* a, const void* b,
                              void* c) noexcept nogil:
    """C[m, n] += A[m, k] @ B[n, k].T"""
    if m == 1 and max(n, k) < 0x7fffffff:
        if single:
            gemv_add(n, k, <const float*> a, <const float*> b, <float*> c)
        else:
            gemv_add(n, k, <const double*> a, <const double*> b, <double*> c)
    elif single:
        gemm_add(True, m, n, k, <const float*> a, k, <const float*> b, k, <float*> c, n)
    else:
        gemm_add(True, m, n, k, <const double*> a, k, <const double*> b, k, <double*> c, n)


cdef inline void _push(const Job* job, ptrdiff_t rows, ptrdiff_t n, const char* last, char* to) noexcept nogil:
    """Add what the last states give to the n gates of some rows."""
    if job.flag:
        job.kernels.add_product(last, job.z, to, rows, n, job.n)
    else:
        _add_product(job.single, rows, n, job.n, last, job.z, to)


cdef void _lstm_unit(const void* of, ptrdiff_t unit, void* scratch) noexcept nogil:
    cdef const Job* job = <const Job*> of
    cdef ptrdiff_t _t, first = unit * job.block, rows = _end(job, unit) - first, n = job.n
    cdef ptrdiff_t width = n * job.size, step = job.items * width
    cdef char* g = <char*> job.x + 4 * first * width
    cdef char* h = job.y + first * width
    cdef char* c = job.c + first * width
    cdef const char* last = job.start + first * width
    for _t in range(job.steps):
        _push(job, rows, 4 * n, last, g)
        job.kernels.lstm_rows(g, c, h, rows, n)
        last = h
        g += 4 * step
        h += step


cdef void _gru_unit(const void* of, ptrdiff_t unit, void* scratch) noexcept nogil:
    cdef const Job* job = <const Job*> of
    cdef ptrdiff_t _t, first = unit * job.block, rows = _end(job, unit) - first, n = job.n
    cdef ptrdiff_t width = n * job.size, step = job.items * width
    cdef const char* g = job.x + 3 * first * width
    cdef char* h = job.y + first * width
    cdef char* p = <char*> job.norm.y + 3 * first * width
    cdef const char* last = job.start + first * width
    for _t in range(job.steps):
        memcpy(p, <const char*> job.norm.x + 3 * first * width, 3 * rows * width)
        _push(job, rows, 3 * n, last, p)
        job.kernels.gru_rows(g, p, last, h, rows, n)
        last = h
        g += 3 * step
        h += step


cdef int _walk(unit_fn run, Job* job, cnp.ndarray gates, cnp.ndarray back, cnp.ndarray state, cnp.ndarray y,
               ptrdiff_t n_gates, int threads) except -1:
    """Run all steps; rows of the batch are shared among threads where `back` lies in panels."""
    job.kernels, job.single = _kernels(y), cnp.PyArray_TYPE(y) == cnp.NPY_FLOAT32
    job.steps, job.items, job.n, job.size = y.shape[0], y.shape[1], y.shape[2], cnp.PyArray_ITEMSIZE(y)
    job.x, job.z = <char*> cnp.PyArray_DATA(gates), <char*> cnp.PyArray_DATA(back)
    job.start = <char*> cnp.PyArray_DATA(state)
    job.y, job.flag = <char*> cnp.PyArray_DATA(y), back.ndim == 3
    cdef double macs = job.steps * <double> (n_gates * job.n) * (job.n + _OF_CURVE)
    if job.flag:
        # Rows that go together read a panel once: all that a thread gets.
        return _share(run, job, macs, 0, threads, (job.items + threads - 1) // max(threads, 1))
    job.block = job.items  # one product of BLAS for all rows
    with nogil:
        run(job, 0, NULL)
    return 0


def lstm(cnp.ndarray gates not None, cnp.ndarray back not None, cnp.ndarray state not None, cnp.ndarray cell not None,
         cnp.ndarray y not None, int threads=1):
    """All steps of one direction of an LSTM.

    gates (T, N, 4H) from the inputs, back (4H, H), state and cell (N, H), y (T, N, H). The gates lie in the order
    input, output, forget, new. gates is scratch, cell becomes the last one. BLAS multiplies by back, and its bits
    follow the batch; with back in panels (see `panel_bytes`) they do not.
    """
    cdef Job job
    memset(&job, 0, sizeof(job))
    job.c = <char*> cnp.PyArray_DATA(cell)
    _walk(<unit_fn> _lstm_unit, &job, gates, back, state, y, 4, threads)


def gru(cnp.ndarray gates not None, cnp.ndarray back not None, cnp.ndarray back_bias not None,
        cnp.ndarray state not None, cnp.ndarray pushes not None, cnp.ndarray y not None, int threads=1):
    """All steps of one direction of a GRU, with the reset after the product.

    gates (T, N, 3H) from the inputs, back (3H, H) or in panels, back_bias (N, 3H), state (N, H), y (T, N, H). The gates
    lie in the order update, reset, new. pushes (N, 3H) is scratch.
    """
    cdef Job job
    memset(&job, 0, sizeof(job))
    job.norm.x, job.norm.y = cnp.PyArray_DATA(back_bias), cnp.PyArray_DATA(pushes)
    _walk(<unit_fn> _gru_unit, &job, gates, back, state, y, 3, threads)


def panel_bytes():
    """The bytes of a row of a panel: a matrix B (k, n) in panels is an array (panels, k, columns of a panel)."""
    return FC1D_PANEL_BYTES


# ---- numbers -------------------------------------------------------------------------------------

def quantize(cnp.ndarray x not None, cnp.ndarray y not None, double scale, ptrdiff_t zero, ptrdiff_t low,
             ptrdiff_t high):
    """y = round(x/scale) + zero, half to even and kept in [low, high], in one or two bytes."""
    cdef const fc1d_kernels* kernels = _kernels(x)
    cdef ptrdiff_t n = cnp.PyArray_SIZE(x)
    cdef int size = cnp.PyArray_ITEMSIZE(y)
    cdef const void* source = cnp.PyArray_DATA(x)
    cdef void* target = cnp.PyArray_DATA(y)
    with nogil:
        kernels.quantize(source, target, n, scale, zero, low, high, size)


def erf(cnp.ndarray x not None, cnp.ndarray y not None):
    """y = erf(x), of float32 within 3 ulp."""
    cdef const fc1d_kernels* kernels = _kernels(x)
    cdef ptrdiff_t n = cnp.PyArray_SIZE(x)
    cdef const void* source = cnp.PyArray_DATA(x)
    cdef void* target = cnp.PyArray_DATA(y)
    with nogil:
        kernels.erf_rows(source, target, n)


def convert(cnp.ndarray x not None, cnp.ndarray y not None, int half, bint widen):
    """y = x, one of them float32 and the other of 16 bits: those of `half`, see activations.half_of."""
    cdef const fc1d_isa* isa = <const fc1d_isa*> isa_in_use()
    cdef ptrdiff_t n = cnp.PyArray_SIZE(x)
    cdef const void* source = cnp.PyArray_DATA(x)
    cdef void* target = cnp.PyArray_DATA(y)
    with nogil:
        isa.f32.convert(source, target, n, half, widen)


# ---- pooling -------------------------------------------------------------------------------------

cdef void _pool_unit(const void* of, ptrdiff_t unit, void* scratch) noexcept nogil:
    cdef const Job* job = <const Job*> of
    cdef fc1d_pool q = job.pool
    cdef ptrdiff_t first = unit * job.block
    q.planes = _end(job, unit) - first
    q.x = <const char*> q.x + first * q.rows * q.columns * job.size
    q.y = <char*> q.y + first * q.rows_out * q.columns_out * job.size
    job.kernels.pool(&q, scratch)


def pool(cnp.ndarray x not None, cnp.ndarray y not None, rows, columns, bint largest, cnp.ndarray divisors=None,
         int threads=1):
    """The largest or the sum of each window of x (planes, H, W) in y (planes, H_out, W_out).

    rows and columns are (taps, step, dilation, before). Sums are divided by the divisors (W_out,) if there are any.
    """
    cdef Job job
    memset(&job, 0, sizeof(job))
    cdef fc1d_pool* q = &job.pool
    job.kernels, job.size, job.items = _kernels(x), cnp.PyArray_ITEMSIZE(x), x.shape[0]
    q.x, q.y, q.largest = cnp.PyArray_DATA(x), cnp.PyArray_DATA(y), largest
    q.rows, q.columns, q.rows_out, q.columns_out = x.shape[1], x.shape[2], y.shape[1], y.shape[2]
    q.row_taps, q.row_step, q.row_dilation, q.row_before = rows
    q.taps, q.step, q.dilation, q.before = columns
    q.divisors = NULL if divisors is None else cnp.PyArray_DATA(divisors)
    # Whole vectors, of 16 elements at most, are written behind the columns and read behind the last window.
    cdef ptrdiff_t lanes = 16
    q.row_length = max(q.before + q.columns, (q.columns_out - 1) * q.step + (q.taps - 1) * q.dilation + 1)
    q.row_length += 3 * lanes
    cdef ptrdiff_t vectors = lanes * max(<ptrdiff_t> 1, min(q.step, <ptrdiff_t> FC1D_POOL_STEPS))
    q.row_length += vectors  # where every position is computed
    cdef double macs = q.rows_out * (<double> q.row_taps * q.columns + <double> q.taps * q.columns_out)
    _share(<unit_fn> _pool_unit, &job, macs, q.row_length * job.size, threads)


cdef void _parts_unit(const void* of, ptrdiff_t unit, void* scratch) noexcept nogil:
    cdef const Job* job = <const Job*> of
    job.kernels.reduce_parts(&job.parts, unit * job.block, _end(job, unit))


def reduce_parts(cnp.ndarray x not None, cnp.ndarray y not None, cnp.ndarray begin not None, cnp.ndarray end not None,
                 bint largest, int threads=1):
    """The largest or the mean of x (planes, L) from begin[i] to end[i] - 1 in y (planes, count); no part is empty.

    begin and end are of numpy.intp.
    """
    cdef Job job
    memset(&job, 0, sizeof(job))
    cdef fc1d_parts* q = &job.parts
    job.kernels, job.items = _kernels(x), x.shape[0]
    q.x, q.y, q.n, q.count, q.largest = cnp.PyArray_DATA(x), cnp.PyArray_DATA(y), x.shape[1], y.shape[1], largest
    q.begin, q.end = <const ptrdiff_t*> cnp.PyArray_DATA(begin), <const ptrdiff_t*> cnp.PyArray_DATA(end)
    _share(<unit_fn> _parts_unit, &job, _OF_PASS * q.n, 0, threads)
