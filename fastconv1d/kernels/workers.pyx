"""Units of work shared among threads, and the library's own threads for it.

`run_units` is what engines call, and calls the threading layer in force through one pointer: the
workers here, or OpenMP's threads (`openmp.pyx`). Which thread runs a unit never has an effect on
its bits.

The workers are one set for the process, whoever calls, whichever engine. A call with units to share
takes idle workers, at most as many as it asked for and as there are, and runs units itself as well;
each takes the next one from a counter. A call that finds no worker idle runs alone, so the process
never has more of them than the limit, however many host threads call. A worker that has not come by
the end of the units is not waited for, and a thread that cannot be started is done without.

After a fork the child has no workers and starts its own. CPython's portable locks and threads are
used throughout; workers never touch Python.
"""

import os

from cpython.pythread cimport (
    PyThread_acquire_lock,
    PyThread_allocate_lock,
    PyThread_release_lock,
    PyThread_type_lock,
    WAIT_LOCK,
)
from libc.stdint cimport intptr_t

cdef extern from "atomics.h":
    long long fc1d_load(long long *at) nogil
    long long fc1d_add(long long *at, long long n) nogil  # returns the value before
    long long fc1d_swap(long long *at, long long value) nogil  # returns the value before
    bint fc1d_swap_if(long long *at, long long old, long long value) nogil
    void fc1d_relax() nogil

cdef extern from "loaded.h":
    ctypedef struct fc1d_runtimes:
        int n
        char paths[8][4096]
    long long fc1d_count_loads() nogil
    bint fc1d_find_runtimes(fc1d_runtimes *found)

cdef extern from *:
    """
    #ifndef _WIN32
    #include <signal.h>
    #endif
    /* Signals sent to the process are for its own threads: one of them may be waiting for it. */
    static void fc1d_block_signals(void) {
    #ifndef _WIN32
        int i, faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP};
        sigset_t set;
        sigfillset(&set);
        for (i = 0; i < (int)(sizeof(faults) / sizeof(faults[0])); i++) sigdelset(&set, faults[i]);
        pthread_sigmask(SIG_BLOCK, &set, NULL);
    #endif
    }
    """
    void fc1d_block_signals() nogil

cdef extern from "pythread.h":  # Cython's own declaration has the type of Python 2's
    unsigned long PyThread_start_new_thread(void (*)(void *) noexcept nogil, void *)
    unsigned long PYTHREAD_INVALID_THREAD_ID

cdef extern from "Python.h":
    void PyErr_SetInterrupt()

cdef enum:
    # What a worker does: looks for an invitation, or sleeps until its lock is released; has one
    # that it has not seen; runs units; is to end.
    LOOKING = 0
    ASLEEP
    INVITED
    BUSY
    DISMISSED
    # Added to the members of a team that are not done when its owner goes to sleep.
    OWNER_ASLEEP = 1 << 20

# Looks at a flag before a thread sleeps, at 10 to 45 ns each: 0.5 to 2 ms. A worker that sleeps
# takes 40 to 80 us to come, so one is to be awake for the next call of a model's forward pass.
cdef Py_ssize_t LOOKS = 50000

# A call's team lives on the stack of its owner, who leaves only when no member is left.
cdef struct Team:
    unit_fn run
    const void *job
    Py_ssize_t last
    char *scratch
    size_t slab
    PyThread_type_lock done  # released by the last member when the owner is asleep
    char apart[64]  # the counters are written all the time, the rest never
    long long next
    long long pending

cdef struct Worker:
    Worker *link
    Team *team
    Py_ssize_t index  # in the team; the owner is 0
    PyThread_type_lock wake  # both are held, but for the moment of a release
    PyThread_type_lock done
    char apart[64]
    long long state

# All of this is guarded by _lock.
cdef PyThread_type_lock _lock = PyThread_allocate_lock()
cdef Worker _workers[MAX_WORKERS]
cdef Py_ssize_t _n_slots = 0  # of _workers, used so far
cdef Worker *_left = NULL  # slots whose thread has ended
cdef Worker *_idle = NULL  # the one last used first
cdef Py_ssize_t _limit = 0
cdef Py_ssize_t _started = 0  # threads that run, those dismissed included
cdef Py_ssize_t _dismissed = 0

# The layer in force, a layer_fn.
cdef long long _layer = <intptr_t> &_share_among_workers
cdef object _look = None  # chooses the layer for what the process has loaded
cdef long long _watching = 0  # whether calls look again when more has been loaded
cdef long long _loads = -1  # what fc1d_count_loads said at the last look


# ---- a worker's side -----------------------------------------------------------------------------

cdef void _work_off(Team *team, Py_ssize_t index) noexcept nogil:
    deal_units(team.run, team.job, &team.next, team.last, team.scratch + index * team.slab)


cdef void _await_change(Worker *me) noexcept nogil:
    cdef Py_ssize_t _
    for _ in range(LOOKS):
        if fc1d_load(&me.state) != LOOKING:
            return
        fc1d_relax()
    if fc1d_swap_if(&me.state, LOOKING, ASLEEP):
        PyThread_acquire_lock(me.wake, WAIT_LOCK)


cdef void _live(void *arg) noexcept nogil:
    global _left, _started, _dismissed
    cdef Worker *me = <Worker *> arg
    cdef Team *team
    cdef PyThread_type_lock done
    fc1d_block_signals()
    while True:
        _await_change(me)
        if fc1d_load(&me.state) == DISMISSED:
            break
        if not fc1d_swap_if(&me.state, INVITED, BUSY):
            continue  # the invitation was withdrawn
        team, done = me.team, me.team.done
        _work_off(team, me.index)
        fc1d_swap(&me.state, LOOKING)  # before the owner may give this worker to another
        if fc1d_add(&team.pending, -1) == OWNER_ASLEEP + 1:
            PyThread_release_lock(done)
    PyThread_acquire_lock(_lock, WAIT_LOCK)
    _started -= 1
    _dismissed -= 1
    me.link = _left
    _left = me
    PyThread_release_lock(_lock)


# ---- an owner's side -----------------------------------------------------------------------------

cdef PyThread_type_lock _held_lock() noexcept:
    cdef PyThread_type_lock lock = PyThread_allocate_lock()
    if lock != NULL:
        PyThread_acquire_lock(lock, WAIT_LOCK)
    return lock


cdef Worker *_free_slot() noexcept nogil:
    global _n_slots, _left
    cdef Worker *slot = NULL
    PyThread_acquire_lock(_lock, WAIT_LOCK)
    if _left != NULL:
        slot, _left = _left, _left.link
    elif _n_slots < MAX_WORKERS:
        slot = &_workers[_n_slots]
        _n_slots += 1
    PyThread_release_lock(_lock)
    return slot


# A worker with a new thread, or NULL where the system refuses one.
cdef Worker *_start() noexcept nogil:
    global _left
    cdef Worker *slot = _free_slot()
    cdef bint runs = False
    if slot == NULL:
        return NULL
    with gil:  # CPython looks up the stack size in its thread state
        if slot.wake == NULL:
            slot.wake = _held_lock()
        if slot.done == NULL:
            slot.done = _held_lock()
        if slot.wake != NULL and slot.done != NULL:
            slot.state = LOOKING
            runs = PyThread_start_new_thread(_live, slot) != PYTHREAD_INVALID_THREAD_ID
    if runs:
        return slot
    PyThread_acquire_lock(_lock, WAIT_LOCK)
    slot.link = _left
    _left = slot
    PyThread_release_lock(_lock)
    return NULL


# A list of at most `wanted` workers, linked.
cdef Worker *_take(Py_ssize_t wanted) noexcept nogil:
    global _idle, _started
    cdef Worker *crew = NULL
    cdef Worker *worker
    cdef Py_ssize_t missing
    PyThread_acquire_lock(_lock, WAIT_LOCK)
    while wanted > 0 and _idle != NULL:
        worker, _idle = _idle, _idle.link
        worker.link, crew = crew, worker
        wanted -= 1
    missing = max(0, min(wanted, _limit - _started))
    _started += missing
    PyThread_release_lock(_lock)
    while missing > 0:
        worker = _start()
        if worker == NULL:
            PyThread_acquire_lock(_lock, WAIT_LOCK)
            _started -= missing
            PyThread_release_lock(_lock)
            break
        worker.link, crew = crew, worker
        missing -= 1
    return crew


cdef void _call(Worker *worker, long long state) noexcept nogil:
    if fc1d_swap(&worker.state, state) == ASLEEP:
        PyThread_release_lock(worker.wake)


# Ends idle workers beyond the limit; the caller holds _lock.
cdef void _dismiss_surplus() noexcept nogil:
    global _idle, _dismissed
    cdef Worker *worker
    while _idle != NULL and _started - _dismissed > _limit:
        worker, _idle = _idle, _idle.link
        _dismissed += 1
        _call(worker, DISMISSED)


cdef void _put_back(Worker *crew) noexcept nogil:
    global _idle
    cdef Worker *worker
    PyThread_acquire_lock(_lock, WAIT_LOCK)
    while crew != NULL:
        worker, crew = crew, crew.link
        worker.link, _idle = _idle, worker
    _dismiss_surplus()
    PyThread_release_lock(_lock)


# Waits until every member that has come is done; the others need not come any more.
cdef void _await_crew(Team *team, Worker *crew) noexcept nogil:
    cdef Py_ssize_t _
    while crew != NULL:
        if fc1d_swap_if(&crew.state, INVITED, LOOKING):
            fc1d_add(&team.pending, -1)
        crew = crew.link
    for _ in range(LOOKS):
        if fc1d_load(&team.pending) == 0:
            return
        fc1d_relax()
    if fc1d_add(&team.pending, OWNER_ASLEEP) != 0:
        PyThread_acquire_lock(team.done, WAIT_LOCK)


cdef void _share_among_workers(
    unit_fn run, const void *job, Py_ssize_t first, Py_ssize_t last,
    char *scratch, size_t slab, Py_ssize_t n_threads,
) noexcept nogil:
    cdef Worker *crew = NULL
    cdef Worker *worker
    cdef Team team
    cdef Py_ssize_t members = 0
    if _lock != NULL:
        crew = _take(n_threads - 1)
    if crew == NULL:
        _run_alone(run, job, first, last, scratch, slab, 1)
        return
    team.run, team.job, team.last, team.scratch, team.slab = run, job, last, scratch, slab
    team.next, team.done = first, crew.done
    worker = crew
    while worker != NULL:
        members += 1
        worker.team, worker.index = &team, members
        worker = worker.link
    team.pending = members
    worker = crew
    while worker != NULL:
        _call(worker, INVITED)
        worker = worker.link
    _work_off(&team, 0)
    _await_crew(&team, crew)
    _put_back(crew)


# ---- layers --------------------------------------------------------------------------------------

cdef Py_ssize_t deal_units(
    unit_fn run, const void *job, long long *next, Py_ssize_t last, void *scratch,
) noexcept nogil:
    cdef Py_ssize_t n_run = 0, unit = fc1d_add(next, 1)
    while unit < last:
        run(job, unit, scratch)
        n_run += 1
        unit = fc1d_add(next, 1)
    return n_run


cdef void _run_alone(
    unit_fn run, const void *job, Py_ssize_t first, Py_ssize_t last,
    char *scratch, size_t slab, Py_ssize_t n_threads,
) noexcept nogil:
    cdef Py_ssize_t unit
    for unit in range(first, last):
        run(job, unit, scratch)


cdef void set_layer(layer_fn layer) noexcept nogil:
    fc1d_swap(&_layer, <intptr_t> layer)


cdef Py_ssize_t worker_limit() noexcept nogil:
    return _limit


cdef void _look_again(long long loads) noexcept with gil:
    try:
        _look()
        fc1d_swap(&_loads, loads)
    except KeyboardInterrupt:
        PyErr_SetInterrupt()  # the call notices it when these units are done


cdef void run_units(
    unit_fn run, const void *job, Py_ssize_t first, Py_ssize_t last,
    void *scratch, size_t slab, Py_ssize_t n_threads,
) noexcept nogil:
    cdef long long loads, layer
    n_threads = min(n_threads, last - first)
    if n_threads < 2:
        _run_alone(run, job, first, last, <char *> scratch, slab, 1)
        return
    if fc1d_load(&_watching):
        loads = fc1d_count_loads()
        if loads != fc1d_load(&_loads):
            _look_again(loads)
    layer = fc1d_load(&_layer)
    (<layer_fn> <intptr_t> layer)(run, job, first, last, <char *> scratch, slab, n_threads)


# ---- the Python side -----------------------------------------------------------------------------

def set_limit(Py_ssize_t n):
    """Let at most n workers exist. Those beyond it end as soon as they are idle."""
    global _limit
    with nogil:
        PyThread_acquire_lock(_lock, WAIT_LOCK)
        _limit = max(0, min(n, MAX_WORKERS))
        _dismiss_surplus()
        PyThread_release_lock(_lock)


def counts():
    """The limit, how many workers there are, and how many of them are idle."""
    cdef Py_ssize_t idle = 0, limit, started
    cdef Worker *worker
    with nogil:
        PyThread_acquire_lock(_lock, WAIT_LOCK)
        limit, started, worker = _limit, _started, _idle
        while worker != NULL:
            idle += 1
            worker = worker.link
        PyThread_release_lock(_lock)
    return limit, started, idle


def use(alone=False):
    """Let the workers here share units from now on, or nobody: calls then run alone."""
    set_layer(_run_alone if alone else _share_among_workers)


def watch(look):
    """Call look() at the next call on several threads, and whenever more has been loaded by then.

    None: no more.
    """
    global _look
    if look is not None:
        _look = look
    fc1d_swap(&_loads, -1)
    fc1d_swap(&_watching, look is not None)


def loaded_runtimes():
    """Paths of the OpenMP runtimes in the process, or None where the system does not tell."""
    cdef fc1d_runtimes found
    if not fc1d_find_runtimes(&found):
        return None
    return [os.fsdecode(<bytes> found.paths[i]) for i in range(found.n)]


def _after_fork_in_child():
    # No worker lives here, and whoever held a lock is gone. The slots' locks are not used again.
    global _lock, _n_slots, _left, _idle, _started, _dismissed
    cdef Py_ssize_t i
    _lock = PyThread_allocate_lock()  # NULL: calls run alone
    _left = _idle = NULL
    for i in range(_n_slots):
        _workers[i].wake = _workers[i].done = NULL
    _n_slots = _started = _dismissed = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
