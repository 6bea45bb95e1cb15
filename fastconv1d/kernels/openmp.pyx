"""OpenMP's threads as a threading layer, on the runtime that the process has already.

`prange` goes over the members of a team, and each takes units from a counter, as the workers do: a
team may so be larger than a call wants, because GCC's runtime ends threads when a team is smaller
than the one before, and starts them again for the next.

Built by GCC, this is linked to no runtime: `use` opens one and looks up the few functions that a
`prange` calls (libomp has GCC's names too), so the threads are those of whoever loaded it, whatever
its file is called. Elsewhere the compiler's own way to its runtime stays.

GCC's runtime has a pool for every host thread, and ends the process where a thread cannot be
started. So one host thread leads at a time, and stays leader as long as it lives and calls once a
second; the others run alone; a leader that needs more threads than before first tries whether the
system grants as many.
"""

import os
import time

from cython.parallel cimport prange

from fastconv1d.kernels.workers cimport deal_units, set_layer, unit_fn, worker_limit

cdef extern from "atomics.h":
    long long fc1d_load(long long *at) nogil
    long long fc1d_swap(long long *at, long long value) nogil
    bint fc1d_swap_if(long long *at, long long old, long long value) nogil

cdef extern from "pythread.h":  # Cython declares that it needs the GIL
    unsigned long PyThread_get_thread_ident() nogil

cdef extern from "openmp.h":
    int fc1d_bind(const char *path)  # 0, 1: not to be opened, 2: functions missing
    bint fc1d_pause() nogil
    int fc1d_max_threads() nogil
    bint fc1d_can_start(int n_threads) nogil
    void fc1d_on_thread_end(void (*call)() noexcept nogil) nogil
    void fc1d_hold_signals() nogil
    void fc1d_release_signals() nogil
    long long fc1d_now() nogil
    long long fc1d_worked() nogil

# Nanoseconds. A leader that has not called for so long loses its place to the next who asks.
cdef long long LEASE = 1_000_000_000
# A team that takes so much longer than its leader would have alone, by the time that it has worked,
# has members without a core: a thread that had slept comes after 40 to 80 us.
cdef long long PATIENCE = 300_000
# What it has lost is then made up for: it works alone for so many times as long. On two busy cores a
# region waited for 3 to 10 ms, up to 20 times the time of a small call on one thread.
cdef long long RESPITE = 10
cdef long long MOST_LOST = 50_000_000  # a process may have been suspended

cdef long long _working = 0  # whether a team works; whoever sets it owns the rest, but for _leader
cdef long long _leader = 0
cdef long long _last_call = 0
cdef long long _debt = 0  # nanoseconds that the leader is to work alone
cdef Py_ssize_t _ready = 0  # threads of the leader's teams, itself included, that have been started
cdef Py_ssize_t _n_leaders = 0  # since the runtime was bound, to be told
cdef bint _shared = False  # with another library


# ---- who leads -----------------------------------------------------------------------------------

cdef void _end_lead() noexcept nogil:
    fc1d_swap_if(&_leader, PyThread_get_thread_ident(), 0)


cdef bint _lead() noexcept nogil:
    global _ready, _n_leaders, _last_call
    cdef long long me = PyThread_get_thread_ident(), now = fc1d_now()
    cdef long long leader
    if not fc1d_swap_if(&_working, 0, 1):
        return False
    leader = fc1d_load(&_leader)
    if leader != me:
        if leader != 0 and now - _last_call < LEASE:
            fc1d_swap(&_working, 0)
            return False
        fc1d_swap(&_leader, me)
        fc1d_on_thread_end(_end_lead)
        _ready = 0
        _n_leaders += 1
    _last_call = now
    return True


# ---- teams ---------------------------------------------------------------------------------------

# As many as the runtime's other regions have, where there are such: their threads are to stay.
cdef Py_ssize_t _team_size(Py_ssize_t n_threads) noexcept nogil:
    if _shared:
        return max(n_threads, fc1d_max_threads())
    return min(max(n_threads, _ready), worker_limit() + 1)


# What the leader has done of a call.
cdef struct Share:
    Py_ssize_t n_units
    long long worked  # nanoseconds


cdef void _lead_units(
    unit_fn run, const void *job, long long *next, Py_ssize_t last, void *scratch, Share *mine,
) noexcept nogil:
    cdef long long before = fc1d_worked()
    mine.n_units = deal_units(run, job, next, last, scratch)
    mine.worked = fc1d_worked() - before


# What a team has lost is what its leader must not lose again soon.
cdef void _weigh(const Share *mine, Py_ssize_t n_units, long long begun) noexcept nogil:
    global _debt
    cdef long long lost = fc1d_now() - begun - mine.worked * n_units // max(1, mine.n_units)
    if lost > PATIENCE:
        _debt = RESPITE * min(lost, MOST_LOST)


cdef void _share_among_team(
    unit_fn run, const void *job, Py_ssize_t first, Py_ssize_t last,
    char *scratch, size_t slab, Py_ssize_t n_threads,
) noexcept nogil:
    cdef long long next = first
    cdef Share mine
    cdef int team, member, members
    cdef bint grows
    global _ready, _debt
    n_threads = min(n_threads, worker_limit() + 1)
    if n_threads < 2 or not _lead():
        deal_units(run, job, &next, last, scratch)
        return
    if _debt > 0:
        _lead_units(run, job, &next, last, scratch, &mine)
        _debt -= fc1d_now() - _last_call
        fc1d_swap(&_working, 0)
        return
    team, members = <int> _team_size(n_threads), <int> n_threads
    grows = team > _ready
    if grows:
        fc1d_hold_signals()  # new threads inherit it: as in the workers, signals are not for them
    if not grows or fc1d_can_start(team - 1):
        for member in prange(team, num_threads=team, schedule="static", chunksize=1):
            if member == 0:
                _lead_units(run, job, &next, last, scratch, &mine)
            elif member < members:
                deal_units(run, job, &next, last, scratch + member * slab)
        _ready = team
        _weigh(&mine, last - first, _last_call)
    else:
        deal_units(run, job, &next, last, scratch)
    if grows:
        fc1d_release_signals()
    fc1d_swap(&_working, 0)


# ---- the Python side -----------------------------------------------------------------------------

def use(path, shared):
    """Share units by OpenMP's threads from now on, those of the runtime at this path.

    shared : whether another library uses it. Returns what keeps it from being used, or None.
    """
    global _leader, _shared, _ready, _n_leaders, _debt
    while not fc1d_swap_if(&_working, 0, 1):  # a team at work is the old runtime's
        time.sleep(0.001)
    cdef int failed = fc1d_bind(os.fsencode(path))
    if failed == 0:
        _leader, _ready, _n_leaders, _debt, _shared = 0, 0, 0, 0, shared
        set_layer(_share_among_team)
    fc1d_swap(&_working, 0)
    return (None, "it cannot be opened", "it has no GOMP_parallel")[failed]


def counts():
    """How often a host thread has become the leader on this runtime, and its team's other threads."""
    return _n_leaders, max(0, _ready - 1)


def before_fork():
    """End this thread's idle threads. Returns whether a child may have threads again."""
    global _ready
    cdef bint ended
    with nogil:
        ended = fc1d_pause()
    _ready = 0
    return ended


def after_fork_in_child():
    """Forget the parent's leader and team."""
    global _ready, _debt
    fc1d_swap(&_leader, 0)
    fc1d_swap(&_working, 0)
    _ready = 0
    _debt = 0
