"""The memory of large results, packs and scratch, kept for the next ones.

Fresh pages cost up to half of the time of a layer with a large output: the system clears each one when
it is first written to. So a block that becomes free is kept, up to a limit, and the next result of
about its size lies in it. An array in such a block is an ordinary one: NumPy's allocator hook
(``PyDataMem_SetHandler``, in force while that one array is made) frees it when the array dies, and
views keep their array alive.

What is kept is given back: all of it on demand, blocks beyond the limit at once (the longest unused
first), blocks that nobody took for IDLE seconds with the next block that comes, and before that the
system may take their pages when it is short of memory (``MADV_FREE``).

Any thread may take and give, without the GIL. The lock is never waited for: whoever finds it held for
long does without kept memory, so that a child forked while it was held goes on.
"""

import os

cimport numpy as cnp
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strcpy

cnp.import_array()

cdef extern from "atomics.h" nogil:
    long long fc1d_load(long long *at)
    long long fc1d_add(long long *at, long long n)
    long long fc1d_swap(long long *at, long long value)
    bint fc1d_swap_if(long long *at, long long old, long long value)
    void fc1d_release(long long *at)
    void fc1d_relax()

cdef extern from "mapped.h" nogil:
    size_t FC1D_HUGE
    void *fc1d_map(size_t n_bytes)
    void fc1d_unmap(void *at, size_t n_bytes)
    void fc1d_disown(void *at, size_t n_bytes)
    double fc1d_seconds()

cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyDataMemAllocator:
        void *ctx
        void *(*malloc)(void *ctx, size_t size) noexcept nogil
        void *(*calloc)(void *ctx, size_t count, size_t size) noexcept nogil
        void *(*realloc)(void *ctx, void *data, size_t size) noexcept nogil
        void (*free)(void *ctx, void *data, size_t size) noexcept nogil

    ctypedef struct PyDataMem_Handler:
        char name[127]
        uint8_t version
        PyDataMemAllocator allocator

    object PyDataMem_SetHandler(object handler)

cdef extern from "Python.h":
    object PyCapsule_New(void *pointer, const char *name, void *destructor)

cdef enum:
    # Before the data of each block; keeps the data at a cache line.
    HEADER = 64
    # Blocks that are kept at the most.
    MOST = 64
    # Tries to get the lock, a few ns each: it is held for some 100 ns.
    TRIES = 2000

# Bytes from which a block is kept. malloc itself keeps smaller ones.
cdef size_t LEAST = 1 << 20
# Seconds after which a block that nobody took goes back, and after which the system may have its pages.
cdef double IDLE = 10.0
cdef double UNUSED = 0.5

cdef struct Block:
    char *at  # what the system or malloc gave, with the header
    size_t n_bytes  # whole pages; 0 for what malloc has
    size_t room  # of the data
    double since  # when it was given
    bint disowned

cdef long long _lock = 0
cdef Block _kept[MOST]  # guarded by _lock, the longest kept first
cdef Py_ssize_t _n_kept = 0
cdef long long _n_bytes = 0  # of them
cdef long long _limit = 0


cdef bint _acquire() noexcept nogil:
    cdef int _i
    for _i in range(TRIES):
        if fc1d_swap_if(&_lock, 0, 1):
            return True
        fc1d_relax()
    return False


cdef Block _remove(Py_ssize_t i) noexcept nogil:
    """Take a block out; the lock is held."""
    global _n_kept, _n_bytes
    cdef Block block = _kept[i]
    for i in range(i, _n_kept - 1):
        _kept[i] = _kept[i + 1]
    _n_kept -= 1
    _n_bytes -= block.n_bytes
    return block


cdef Py_ssize_t _remove_beyond(long long limit, double before, Block *removed) noexcept nogil:
    """Take out what is beyond a limit, or was last used before a time; returns how many blocks."""
    cdef Py_ssize_t n = 0
    while _n_kept > 0 and (_n_bytes > limit or _n_kept == MOST or _kept[0].since < before):
        removed[n] = _remove(0)
        n += 1
    return n


cdef void _disown_oldest(double before) noexcept nogil:
    """Let the system take the pages of one block that has not been used since; the lock is held."""
    cdef Py_ssize_t i
    for i in range(_n_kept):
        if _kept[i].since >= before:
            return
        if not _kept[i].disowned:
            fc1d_disown(_kept[i].at, _kept[i].n_bytes)
            _kept[i].disowned = True
            return


cdef void _unmap(const Block *blocks, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        fc1d_unmap(blocks[i].at, blocks[i].n_bytes)


cdef long long _release(long long limit) noexcept nogil:
    """Give back what is beyond a limit; returns the bytes."""
    cdef Block removed[MOST]
    cdef Py_ssize_t n, i
    cdef long long n_bytes = 0
    if not _acquire():
        return 0
    n = _remove_beyond(limit, 0, removed)
    fc1d_release(&_lock)
    _unmap(removed, n)
    for i in range(n):
        n_bytes += removed[i].n_bytes
    return n_bytes


cdef size_t _rounded(size_t n_bytes) noexcept nogil:
    """Sizes in steps of an eighth or less, so that lengths that change a little find their block."""
    cdef size_t step = 1 << 16
    while step * 16 < n_bytes:
        step *= 2
    return (n_bytes + step - 1) // step * step


cdef Block _reused(size_t n_bytes) noexcept nogil:
    """The smallest kept block that has room and is not half as large again; none of size 0."""
    cdef Block block
    cdef Py_ssize_t i, best = -1
    block.n_bytes = 0
    if _n_kept == 0 or not _acquire():
        return block
    for i in range(_n_kept):
        if n_bytes <= _kept[i].n_bytes <= n_bytes + n_bytes // 2 and (
                best < 0 or _kept[i].n_bytes <= _kept[best].n_bytes):
            best = i
    if best >= 0:
        block = _remove(best)
    fc1d_release(&_lock)
    return block


cdef void *take_bytes(size_t n_bytes) noexcept nogil:
    """Memory of that size at a multiple of 64 bytes that holds anything, or NULL."""
    cdef Block block
    cdef char *at
    if n_bytes < LEAST or fc1d_load(&_limit) == 0:
        at = <char *> malloc(n_bytes + 2 * HEADER)
        if at == NULL:
            return NULL
        block.at, block.n_bytes, block.room = at, 0, n_bytes
        at += HEADER - <size_t> at % HEADER
    else:
        block = _reused(n_bytes + HEADER)
        if block.n_bytes == 0:
            if n_bytes > (<size_t> 1 << 62):
                return NULL
            block.n_bytes = _rounded(n_bytes + HEADER)
            block.at = <char *> fc1d_map(block.n_bytes)
            if block.at == NULL and _release(0) > 0:
                block.at = <char *> fc1d_map(block.n_bytes)
            if block.at == NULL:
                return NULL
        block.room = block.n_bytes - HEADER
        at = block.at
    memcpy(at, &block, sizeof(Block))
    return at + HEADER


cdef void give_bytes(void *data) noexcept nogil:
    """Keep memory of `take_bytes`, or give it back."""
    cdef Block block
    cdef Block removed[MOST]
    cdef Py_ssize_t n
    cdef long long limit = fc1d_load(&_limit)
    global _n_kept, _n_bytes
    if data == NULL:
        return
    memcpy(&block, <char *> data - HEADER, sizeof(Block))
    if block.n_bytes == 0:
        free(block.at)
        return
    if <long long> block.n_bytes > limit:
        fc1d_unmap(block.at, block.n_bytes)
        return
    # In huge pages that costs 3 % of taking them anew. In small ones it is a fifth: see _disown_oldest.
    block.disowned = block.n_bytes >= 2 * FC1D_HUGE
    if block.disowned:
        fc1d_disown(block.at, block.n_bytes)
    block.since = fc1d_seconds()
    if not _acquire():
        fc1d_unmap(block.at, block.n_bytes)
        return
    n = _remove_beyond(limit - <long long> block.n_bytes, block.since - IDLE, removed)
    _disown_oldest(block.since - UNUSED)
    _kept[_n_kept] = block
    _n_kept += 1
    _n_bytes += block.n_bytes
    fc1d_release(&_lock)
    _unmap(removed, n)


# ---- arrays ----------------------------------------------------------------------------------------------------------

cdef void *_hook_malloc(void *ctx, size_t size) noexcept nogil:
    return take_bytes(size)


cdef void *_hook_calloc(void *ctx, size_t count, size_t size) noexcept nogil:
    cdef void *data = take_bytes(count * size)  # NumPy has checked the product
    if data != NULL:
        memset(data, 0, count * size)
    return data


cdef void *_hook_realloc(void *ctx, void *data, size_t size) noexcept nogil:
    cdef Block block
    cdef void *moved = take_bytes(size)
    if moved == NULL or data == NULL:
        return moved
    memcpy(&block, <char *> data - HEADER, sizeof(Block))
    memcpy(moved, data, min(size, block.room))
    give_bytes(data)
    return moved


cdef void _hook_free(void *ctx, void *data, size_t size) noexcept nogil:
    give_bytes(data)


cdef PyDataMem_Handler _hook
strcpy(_hook.name, "fastconv1d")
_hook.version = 1
_hook.allocator.ctx = NULL
_hook.allocator.malloc, _hook.allocator.calloc = _hook_malloc, _hook_calloc
_hook.allocator.realloc, _hook.allocator.free = _hook_realloc, _hook_free
cdef object _handler = PyCapsule_New(&_hook, "mem_handler", NULL)


cdef cnp.ndarray new_array(int nd, cnp.npy_intp *shape, int typenum):
    cdef double n_bytes = 4
    cdef int i
    for i in range(nd):
        n_bytes *= <double> shape[i]
    if n_bytes < LEAST or fc1d_load(&_limit) == 0:
        return cnp.PyArray_EMPTY(nd, shape, typenum, 0)
    before = PyDataMem_SetHandler(_handler)
    try:
        return cnp.PyArray_EMPTY(nd, shape, typenum, 0)
    finally:
        PyDataMem_SetHandler(before)


def new(tuple shape, dtype):
    """Return an array that holds anything, as `numpy.empty`."""
    cdef double n_bytes = 4
    for length in shape:
        n_bytes *= length
    if n_bytes < LEAST or fc1d_load(&_limit) == 0:
        return _empty(shape, dtype)
    before = PyDataMem_SetHandler(_handler)
    try:
        return _empty(shape, dtype)
    finally:
        PyDataMem_SetHandler(before)


from numpy import empty as _empty  # noqa: E402


# ---- settings --------------------------------------------------------------------------------------------------------

def set_limit(long long n_bytes):
    """Keep at most so many bytes from now on."""
    fc1d_swap(&_limit, n_bytes)
    _release(n_bytes)


def set_idle(double seconds=10.0):
    """Set the seconds after which an unused block goes back (a hook for tests)."""
    global IDLE
    IDLE = seconds


def limit():
    """Bytes that are kept at the most."""
    return fc1d_load(&_limit)


def kept():
    """Bytes that are kept now."""
    return _n_bytes


def release():
    """Give all that is kept back to the system; returns the bytes."""
    cdef long long n_bytes = 0
    cdef int _i
    for _i in range(100):  # others may hold the lock for long once, hardly each time
        n_bytes += _release(0)
        if _n_kept == 0:
            break
    return n_bytes


def _after_fork_in_child():
    global _n_kept, _n_bytes
    if fc1d_load(&_lock):  # its holder is not here, and the list may be half changed
        _n_kept = 0
        _n_bytes = 0
        fc1d_release(&_lock)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
