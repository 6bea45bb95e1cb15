"""Element-wise operations that follow each other, piece by piece: intermediate results stay in L1."""

cimport numpy as cnp

from libc.stddef cimport ptrdiff_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from fastconv1d.kernels.direct_engine cimport isa_in_use
from fastconv1d.kernels.workers cimport run_units, unit_fn

cnp.import_array()

cdef extern from "simd/fc1d.h" nogil:
    enum:
        FC1D_STEP
        FC1D_ALIKE
        FC1D_ONE_NUMBER
        FC1D_REPEATED
        FC1D_CHAIN_AXES
        FC1D_CHAIN_REGISTERS
        FC1D_CHAIN_OPERANDS
        FC1D_CHAIN_OPERATIONS

    ctypedef struct fc1d_activation:
        int function
        double parameter

    ctypedef struct fc1d_operation:
        int kind, target, a, b
        double parameter, second, low
        fc1d_activation step

    ctypedef struct fc1d_operand:
        const void* data
        int kind
        ptrdiff_t strides[8]

    ctypedef struct fc1d_chain:
        fc1d_operand operands[32]
        const fc1d_operation* operations
        int n_operands, n_operations, n_registers, n_axes
        ptrdiff_t sizes[8]
        ptrdiff_t size, unit
        void* y

    ctypedef struct fc1d_kernels:
        void (*chain)(const fc1d_chain*, ptrdiff_t, void*) noexcept nogil

    ctypedef struct fc1d_isa:
        fc1d_kernels f32, f64

# In the order of the enumeration in simd/fc1d.h; "step" is an Activation.
KINDS = (
    "add", "subtract", "multiply", "divide", "larger", "smaller", "power", "scale", "shift", "negate", "absolute",
    "square", "cube", "root", "reciprocal", "exponential", "logarithm", "error_function", "round", "floor", "ceiling",
    "at_least", "at_most", "steps", "sine", "cosine", "sign", "step",
)

cdef enum:
    PIECE = 512  # elements of a register, as in simd/chain.h
    SHARED_PIECES = 32  # of a unit where threads share the work


cdef class Chain:
    """A function of arrays of one dtype, float32 or float64, that repeat as NumPy's.

    Parameters
    ----------
    n_operands : int
    operations : sequence of tuple
        Each a kind of `KINDS`, the numbers of the values that it reads (operands first, then the results of the
        operations in order) and its parameters: numbers, three for "steps" (the scale, the lowest and the highest
        step), an Activation for "step".

    Raises
    ------
    ValueError
        If there are more operands or operations than a chain has room for.
    """

    cdef fc1d_operation* operations
    cdef int n_operands, n_operations, n_registers

    def __cinit__(self):
        self.operations = NULL

    def __init__(self, int n_operands, operations):
        cdef fc1d_operation* o
        cdef int i
        if not 0 < len(operations) <= FC1D_CHAIN_OPERATIONS or not 0 < n_operands <= FC1D_CHAIN_OPERANDS:
            raise ValueError(f"a chain has no room for {len(operations)} operations of {n_operands} operands")
        self.n_operands, self.n_operations = n_operands, len(operations)
        registers, self.n_registers = _registers(n_operands, [sources for _, sources, _ in operations])
        if self.n_registers > FC1D_CHAIN_REGISTERS:
            raise ValueError(f"a chain has no room for {self.n_registers} values at a time")
        self.operations = <fc1d_operation*> malloc(self.n_operations * sizeof(fc1d_operation))
        if self.operations == NULL:
            raise MemoryError
        memset(self.operations, 0, self.n_operations * sizeof(fc1d_operation))
        for i, (kind, sources, parameters) in enumerate(operations):
            o = self.operations + i
            o.kind, o.target = KINDS.index(kind), registers[n_operands + i]
            o.a, o.b = registers[sources[0]], registers[sources[len(sources) - 1]]
            if o.kind == FC1D_STEP:
                o.step.function, o.step.parameter = parameters[0].function, parameters[0].parameter
            elif kind == "steps":
                o.parameter, o.low, o.second = parameters
            elif parameters:
                o.parameter = parameters[0]

    def __dealloc__(self):
        free(self.operations)

    def __call__(self, arrays, cnp.ndarray out=None, int n_threads=1):
        """Return the result, in `out` where it is given: a C-contiguous array of its shape and dtype.

        None is returned for operands that are not taken: of another dtype than the first one or of too many dimensions.
        """
        cdef fc1d_chain q
        cdef cnp.npy_intp shape[32]
        cdef ptrdiff_t steps[32][32]
        cdef const fc1d_isa* isa = <const fc1d_isa*> isa_in_use()
        cdef const fc1d_kernels* kernels
        cdef int i, j, k, ndim = 0, typenum = -1
        cdef cnp.ndarray array
        cdef ptrdiff_t size, units
        for array in arrays:
            if typenum < 0:
                typenum = cnp.PyArray_TYPE(array)
            if cnp.PyArray_TYPE(array) != typenum or not cnp.PyArray_ISBEHAVED_RO(array) or array.ndim > 32:
                return None
            ndim = max(ndim, array.ndim)
        if typenum != cnp.NPY_FLOAT32 and typenum != cnp.NPY_FLOAT64 or len(arrays) != self.n_operands:
            return None
        kernels = &isa.f32 if typenum == cnp.NPY_FLOAT32 else &isa.f64
        for i in range(ndim):
            shape[i] = 1
        for array in arrays:
            for i in range(array.ndim):
                j = ndim - array.ndim + i
                if array.shape[i] != 1 and shape[j] != 1 and array.shape[i] != shape[j]:
                    raise ValueError(f"operands of sizes {[list(a.shape) for a in arrays]} do not repeat to one size")
                if shape[j] == 1:
                    shape[j] = array.shape[i]
        memset(&q, 0, sizeof(q))
        q.size = 1
        for i in range(ndim):
            q.size *= shape[i]
        size = 4 if typenum == cnp.NPY_FLOAT32 else 8
        for k in range(self.n_operands):
            array = arrays[k]
            q.operands[k].data = cnp.PyArray_DATA(array)
            for i in range(ndim):
                j = i - (ndim - array.ndim)
                steps[k][i] = 0 if j < 0 or array.shape[j] == 1 else array.strides[j] // size
        if not _merge(&q, ndim, shape, steps, self.n_operands):
            return None
        if out is None:
            out = <cnp.ndarray> cnp.PyArray_EMPTY(ndim, shape, typenum, 0)
        elif not _fits(out, ndim, shape, typenum):
            return None
        if q.size == 0:
            return out
        q.operations, q.n_operations = self.operations, self.n_operations
        q.n_operands, q.n_registers = self.n_operands, self.n_registers
        q.y, q.unit = cnp.PyArray_DATA(out), PIECE * SHARED_PIECES
        units = (q.size + q.unit - 1) // q.unit
        n_threads = <int> max(1, min(<ptrdiff_t> n_threads, units))
        cdef size_t slab = self.n_registers * PIECE * size + 64
        cdef char* scratch = <char*> malloc(slab * n_threads)
        if scratch == NULL:
            raise MemoryError
        with nogil:
            run_units(<unit_fn> kernels.chain, &q, 0, units, scratch, slab, n_threads)
        free(scratch)
        return out


cdef bint _fits(cnp.ndarray out, int ndim, const cnp.npy_intp* shape, int typenum) noexcept:
    cdef int i
    if cnp.PyArray_TYPE(out) != typenum or out.ndim != ndim or not cnp.PyArray_IS_C_CONTIGUOUS(out):
        return False
    for i in range(ndim):
        if out.shape[i] != shape[i]:
            return False
    return cnp.PyArray_ISBEHAVED(out)


# Enters the axes, those that lie one after the other in all operands as one; says whether there is room for them.
cdef bint _merge(fc1d_chain* q, int ndim, const cnp.npy_intp* shape, ptrdiff_t[32]* steps, int n) noexcept:
    cdef int i, k, at = -1
    cdef bint joined
    cdef ptrdiff_t pace
    for i in range(ndim):
        if shape[i] == 1:
            continue
        joined = at >= 0
        for k in range(n):
            if at >= 0 and q.operands[k].strides[at] != steps[k][i] * shape[i]:
                joined = False
        if not joined:
            at += 1
            if at >= FC1D_CHAIN_AXES:
                return False
            q.sizes[at] = 1
        q.sizes[at] *= shape[i]
        for k in range(n):
            q.operands[k].strides[at] = steps[k][i]
    q.n_axes = at + 1
    if at < 0:
        q.n_axes, q.sizes[0] = 1, 1
    for k in range(n):
        q.operands[k].kind, pace = FC1D_ALIKE, 1
        joined = True
        for i in range(q.n_axes - 1, -1, -1):
            if q.operands[k].strides[i] != pace and q.sizes[i] != 1:
                q.operands[k].kind = FC1D_REPEATED
            if q.operands[k].strides[i] != 0:
                joined = False
            pace *= q.sizes[i]
        if joined:
            q.operands[k].kind = FC1D_ONE_NUMBER
    return True


def _registers(n_operands, sources):
    """Return the register of each value, operands first, and how many there are; one is used again when it is free."""
    last = {value: i for i, values in enumerate(sources) for value in values}
    registers, free, count = [*range(n_operands)], [], n_operands
    for i, values in enumerate(sources):
        if not free:
            free.append(count)
            count += 1
        registers.append(free.pop())
        free += {registers[v] for v in values if v >= n_operands and last[v] == i}
    return registers, count
