"""An allocator for NumPy's arrays that keeps large blocks for the next array of their size.

A network's arrays come and go in the same sizes in every call. The C library gives large blocks back to the system and
takes them again, page by page: in a virtual machine 100 to 500 us for each MiB, ten times what it takes to fill it.
NumPy asks the allocator of the context that an array is made in, and gives the memory back to it wherever the array
ends (NEP 49). What is kept and what is in use are never more than what was in use at a time, and nothing is kept while
nobody has asked for it.
"""

cimport numpy as cnp

from cpython.pycapsule cimport PyCapsule_New
from cpython.pythread cimport (
    NOWAIT_LOCK,
    PyThread_acquire_lock,
    PyThread_allocate_lock,
    PyThread_release_lock,
    PyThread_type_lock,
)
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strcpy

cdef extern from "atomics.h" nogil:
    long long fc1d_load(long long *at)
    long long fc1d_add(long long *at, long long n)  # returns the value before

cnp.import_array()

cdef enum:
    # Smaller blocks the C library keeps itself.
    LEAST = 1 << 15
    # Blocks that are kept: each is looked at.
    MOST = 128
    ALIGNMENT = 64

# Lies right before a block's first byte.
cdef struct Header:
    void* raw
    size_t capacity
    bint counted  # in _used

# All of this is guarded by _lock. Who finds it taken does without: a child of a fork may find it so for ever.
cdef PyThread_type_lock _lock = PyThread_allocate_lock()
cdef char* _kept[MOST]  # the one given back last is the last
cdef Py_ssize_t _n_kept = 0
cdef size_t _kept_bytes = 0
cdef size_t _used = 0
cdef size_t _peak = 0
cdef long long _users = 0  # this one has no need of the lock


cdef inline Header* _header(char* block) noexcept nogil:
    return <Header*> (block - sizeof(Header))


cdef char* _new(size_t size, bint counted) noexcept nogil:
    cdef size_t before = sizeof(Header) + ALIGNMENT
    if size > (<size_t> -1) - before:
        return NULL
    cdef char* raw = <char*> malloc(size + before)
    if raw == NULL:
        return NULL
    cdef char* block = raw + before - <size_t> (raw + before) % ALIGNMENT
    _header(block).raw, _header(block).capacity, _header(block).counted = raw, size, counted
    return block


cdef void _drop(Py_ssize_t i) noexcept nogil:
    """Give a kept block back to the C library."""
    _take(i)
    free(_header(_kept[_n_kept]).raw)


cdef char* _take(Py_ssize_t i) noexcept nogil:
    """Return a kept block, which stays behind the last one."""
    global _n_kept, _kept_bytes
    cdef char* block = _kept[i]
    cdef Py_ssize_t k
    _n_kept -= 1
    for k in range(i, _n_kept):
        _kept[k] = _kept[k + 1]
    _kept[_n_kept] = block
    _kept_bytes -= _header(block).capacity
    return block


cdef void* _get(void* context, size_t size) noexcept nogil:
    global _used, _peak
    cdef Py_ssize_t i
    cdef char* block = NULL
    cdef size_t capacity
    if size < LEAST or not PyThread_acquire_lock(_lock, NOWAIT_LOCK):
        return _new(size, False)
    for i in range(_n_kept - 1, -1, -1):
        capacity = _header(_kept[i]).capacity
        if size <= capacity and capacity - size <= size // 4:
            block = _take(i)
            break
    if block == NULL:
        while _n_kept > 0 and _used + _kept_bytes + size > _peak:
            _drop(0)
        block = _new(size, True)
    if block != NULL:
        _header(block).counted = True
        _used += _header(block).capacity
        _peak = max(_peak, _used)
    PyThread_release_lock(_lock)
    return block


cdef void* _get_zeros(void* context, size_t count, size_t size) noexcept nogil:
    if size != 0 and count > (<size_t> -1) // size:
        return NULL
    cdef void* block = _get(context, count * size)
    if block != NULL:
        memset(block, 0, count * size)
    return block


cdef void _give(void* context, void* pointer, size_t size) noexcept nogil:
    global _n_kept, _kept_bytes, _used
    cdef char* block = <char*> pointer
    cdef Header* header
    if block == NULL:
        return
    header = _header(block)
    if not header.counted or not PyThread_acquire_lock(_lock, NOWAIT_LOCK):
        free(header.raw)
        return
    _used -= header.capacity
    if fc1d_load(&_users) == 0:
        free(header.raw)
    else:
        if _n_kept == MOST:
            _drop(0)
        _kept[_n_kept] = block
        _n_kept += 1
        _kept_bytes += header.capacity
    PyThread_release_lock(_lock)


cdef void* _get_again(void* context, void* pointer, size_t size) noexcept nogil:
    cdef char* block
    if pointer == NULL:
        return _get(context, size)
    block = <char*> _get(context, size)
    if block != NULL:
        memcpy(block, pointer, min(size, _header(<char*> pointer).capacity))
        _give(context, pointer, size)
    return block


cdef cnp.PyDataMem_Handler _handler
memset(&_handler, 0, sizeof(_handler))
strcpy(_handler.name, b"fastconv1d")
_handler.version = 1
_handler.allocator.malloc, _handler.allocator.calloc = _get, _get_zeros
_handler.allocator.realloc, _handler.allocator.free = _get_again, _give
_ours = PyCapsule_New(&_handler, "mem_handler", NULL)


def enter():
    """Have arrays of this context use the allocator; returns what `leave` takes."""
    return cnp.PyDataMem_SetHandler(_ours)


def leave(before):
    """Have arrays of this context use the allocator of before."""
    cnp.PyDataMem_SetHandler(before)


def keep():
    """Keep blocks until as many calls of `release`."""
    fc1d_add(&_users, 1)


def release():
    """End a `keep`; with the last one all blocks that are kept go back to the C library."""
    global _peak
    if fc1d_add(&_users, -1) == 1 and PyThread_acquire_lock(_lock, NOWAIT_LOCK):
        while _n_kept > 0:
            _drop(0)
        _peak = _used
        PyThread_release_lock(_lock)


def kept_bytes():
    """Return the bytes that are kept, and those in use that will be."""
    return _kept_bytes, _used
