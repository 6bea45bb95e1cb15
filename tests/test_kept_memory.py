"""The allocator that keeps large blocks for the arrays of the next call."""

import gc
import threading

import numpy as np
import pytest

from fastconv1d.kernels import memory

LARGE = 1 << 20


@pytest.fixture
def inside():
    memory.keep()
    before = memory.enter()
    yield
    memory.leave(before)
    memory.release()


def address(array):
    return array.__array_interface__["data"][0]


def test_a_block_serves_the_next_array(inside):
    first = np.empty(LARGE, np.uint8)
    place = address(first)
    assert place % 64 == 0
    del first
    again = np.empty(LARGE - 1000, np.uint8)
    assert address(again) == place
    other = np.empty(LARGE, np.uint8)
    assert address(other) != place
    again[:], other[:] = 1, 2
    assert again.min() == again.max() == 1


def test_zeros_are_zero(inside):
    first = np.full(LARGE, 7, np.uint8)
    del first
    assert not np.zeros(LARGE, np.uint8).any()


def test_no_more_is_kept_than_was_in_use(inside):
    used = memory.kept_bytes()[1]
    arrays = [np.empty(LARGE, np.uint8) for _ in range(4)]
    most = sum(memory.kept_bytes())
    assert most >= used + 4 * LARGE
    for size in (LARGE // 2, 3 * LARGE, LARGE, 2 * LARGE):
        arrays.pop()
        np.empty(size, np.uint8)
        assert sum(memory.kept_bytes()) <= most + 3 * LARGE


def test_arrays_outlive_the_block(inside):
    array = np.arange(LARGE // 8)
    grown = np.arange(LARGE // 8)
    grown.resize(2 * LARGE // 8, refcheck=False)
    assert (grown[: LARGE // 8] == array).all() and not grown[LARGE // 8 :].any()


def test_nothing_is_kept_when_nobody_asks():
    before = memory.enter()
    try:
        gc.collect()
        kept, used = memory.kept_bytes()
        np.empty(LARGE, np.uint8)
        if memory.kept_bytes()[0] > kept:
            pytest.skip("models of other tests are alive")
        array = np.empty(LARGE, np.uint8)
        memory.keep()
        del array
        assert memory.kept_bytes() == (LARGE, used)
        memory.release()
        assert memory.kept_bytes() == (0, used)
        array = np.empty(LARGE, np.uint8)
        del array
        assert memory.kept_bytes() == (0, used)
    finally:
        memory.leave(before)


def test_threads(inside):
    wrong = []

    def work(number):
        before = memory.enter()
        for i in range(200):
            arrays = [np.full(LARGE // 16 + 4096 * (i % 3), number, np.uint8) for _ in range(3)]
            if any(a.min() != number or a.max() != number for a in arrays):
                wrong.append(number)
        memory.leave(before)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
