"""Row 9: the process never has more OS threads than its host threads and the limit on workers."""

import os
import threading
import time

import numpy as np
import pytest

import fastconv1d
from fastconv1d import config
from fastconv1d.core import threads
from fastconv1d.kernels.workers import counts

pytestmark = pytest.mark.skipif(
    not os.path.isdir("/proc/self/task"), reason="counts threads in /proc"
)

RNG = np.random.default_rng(9)
X = RNG.standard_normal((2, 32, 128)).astype(np.float32)
W = RNG.standard_normal((32, 32, 5)).astype(np.float32)
XC = RNG.standard_normal((4, 32, 256)).astype(np.complex64)
WC = RNG.standard_normal((32, 32, 3)).astype(np.complex64)


def n_tasks():
    return len(os.listdir("/proc/self/task"))


def n_teams():
    """How many host threads have led one: OpenMP's runtime has a pool for each of them."""
    if threads.in_force().layer == "workers":
        return 1
    from fastconv1d.kernels import openmp

    return openmp.counts()[0]


def gone(thread):
    """Whether a thread that was joined has left /proc, which may be a little later."""
    return not os.path.exists(f"/proc/self/task/{thread.native_id}")


def until(condition):
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    assert condition()


@pytest.fixture
def limit():
    before = config._max_workers
    config.set_max_workers(0)
    until(lambda: counts()[1] == 0)
    fastconv1d.conv1d(
        XC, WC, algorithm="blas"
    )  # BLAS has its own threads, which a fork may have ended
    time.sleep(0.05)  # a thread that has ended leaves /proc a little later
    config.set_max_workers(8)
    yield 8
    config.set_max_workers(before)


class Watch(threading.Thread):
    """Notes the largest number of OS threads, 1,000 times a second, until told to end."""

    def __init__(self):
        super().__init__()
        self.most, self.looks, self.over = 0, 0, threading.Event()

    def run(self):
        while not self.over.wait(0.001):
            self.most = max(self.most, n_tasks())
            self.looks += 1


def calls(n, wrong, errors):
    try:
        expected = (
            fastconv1d.conv1d(X, W).tobytes(),
            fastconv1d.conv1d(XC, WC, algorithm="blas").tobytes(),
        )
        with fastconv1d.num_threads(8):
            for i in range(n):
                if fastconv1d.conv1d(X, W).tobytes() != expected[0]:
                    wrong.append(i)
                if (
                    i % 50 == 0
                    and fastconv1d.conv1d(XC, WC, algorithm="blas").tobytes() != expected[1]
                ):
                    wrong.append(i)
    except BaseException as error:
        errors.append(error)


def test_64_host_threads_that_ask_for_8(limit, share):
    wrong, errors = [], []
    before, watch = n_tasks(), Watch()
    watch.start()
    for _ in range(20):
        hosts = [
            threading.Thread(target=calls, args=(int(1000 * share), wrong, errors))
            for _ in range(64)
        ]
        for host in hosts:
            host.start()
        for host in hosts:
            host.join()
        if watch.looks > 10:  # on a busy machine it seldom has its turn
            break
        until(lambda hosts=hosts: all(map(gone, hosts)))
    watch.over.set()
    watch.join()
    assert not wrong
    assert not errors
    assert watch.looks > 10
    assert before + 1 < watch.most <= before + 1 + 64 + limit * n_teams()
    assert counts()[1] <= limit


def test_host_threads_that_come_and_go(limit, share):
    # A pool for each host thread would leave its threads to end at their leisure.
    before, most = n_tasks(), 0
    for _ in range(int(500 * share)):
        host = threading.Thread(target=calls, args=(2, [], []))
        host.start()
        most = max(most, n_tasks())
        host.join()
        until(lambda host=host: gone(host))
        most = max(most, n_tasks())
    teams = 1 if threads.in_force().layer == "workers" else 2  # of the host that has ended, too
    assert most <= before + 2 + limit * teams  # a host may leave /proc after the next has come


def test_no_workers_at_all(limit):
    config.set_max_workers(0)
    before = n_tasks()
    with fastconv1d.num_threads(8):
        many = fastconv1d.conv1d(X, W)
    with fastconv1d.num_threads(1):
        one = fastconv1d.conv1d(X, W)
    assert n_tasks() <= before  # threads of other tests may still have been leaving
    assert counts() == (0, 0, 0)
    assert many.tobytes() == one.tobytes()


def test_workers_beyond_a_lower_limit_end(limit):
    if threads.in_force().layer != "workers":  # also beside torch
        pytest.skip("OpenMP's threads end in the next call")
    with fastconv1d.num_threads(8):
        fastconv1d.conv1d(np.ones((8, 64, 512), np.float32), np.ones((64, 64, 3), np.float32))
    assert counts() == (8, 7, 7)
    for n in (5, 1, 0):
        config.set_max_workers(n)
        until(lambda n=n: counts() == (n, n, n))
