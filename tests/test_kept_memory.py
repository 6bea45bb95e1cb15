"""Memory that is kept for the next results: never handed out twice, bounded, given back."""

import gc
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import fastconv1d
from fastconv1d import config
from fastconv1d.core import arrays
from fastconv1d.kernels import memory

MIB = 1 << 20


@pytest.fixture(autouse=True)
def limit_of_64_mib():
    before = config.get_kept_memory()
    config.set_kept_memory(64 * MIB)
    config.release_memory()
    yield
    config.set_kept_memory(before)


def block(n_bytes, value=None):
    array = arrays.new((n_bytes,), np.dtype(np.uint8))
    if value is not None:
        array[...] = value
    return array


def address(array):
    return array.__array_interface__["data"][0]


def kept():
    return config.config_info()["kept_memory"]


def layer_and_input(length=300_000):
    rng = np.random.default_rng(0)
    layer = fastconv1d.Conv1d(1, 8, 3).eval()
    layer.weight = rng.integers(-3, 4, (8, 1, 3)).astype(np.float32)
    layer.bias = rng.integers(-3, 4, 8).astype(np.float32)
    return layer, rng.integers(-9, 10, (1, 1, length)).astype(np.float32)


def test_a_freed_result_is_the_memory_of_the_next():
    layer, x = layer_and_input()
    first = layer(x)
    expected, place = first.copy(), address(first)
    assert first.flags.owndata and first.base is None and first.flags.writeable
    second = layer(x)
    assert address(second) != place
    del first
    assert kept() >= expected.nbytes
    third = layer(x)
    assert address(third) == place
    assert kept() == 0
    np.testing.assert_array_equal(third, expected)


@pytest.mark.parametrize(
    "call",
    [
        fastconv1d.conv1d,
        lambda x, w: fastconv1d.conv_transpose1d(x, w.swapaxes(0, 1)),
        lambda x, w: fastconv1d.conv1d_backward(np.ones((1, 8, 299_998), "f"), x, w)[0],
        lambda x, w: fastconv1d.conv1d(x, w, layout="NCL", activation="relu"),
        lambda x, w: fastconv1d.conv1d(x.astype("D"), w.astype("D")),
        lambda x, w: fastconv1d.Sequential(fastconv1d.Conv1d(1, 8, 1), fastconv1d.ReLU())(x),
        lambda x, w: fastconv1d.ReLU()(x),
    ],
)
def test_who_makes_large_results_keeps_them(call):
    layer, x = layer_and_input()
    result = call(x, layer.weight)
    assert address(result) % 64 == 0
    n_bytes = result.nbytes
    config.release_memory()
    del result
    assert n_bytes <= kept() <= n_bytes + n_bytes // 4


def test_views_keep_the_memory():
    whole = block(4 * MIB, 7)
    part, place = whole[5:9], address(whole)
    del whole
    gc.collect()
    assert kept() == 0
    others = [block(4 * MIB, i) for i in range(3)]
    assert place not in map(address, others)
    assert part.tolist() == [7] * 4
    memoryview_of_part = memoryview(part)
    del part
    others.append(block(4 * MIB, 9))
    assert bytes(memoryview_of_part) == b"\7" * 4
    del memoryview_of_part
    assert kept() >= 4 * MIB


def test_a_result_can_be_resized():
    array = block(3 * MIB)
    array[...] = np.arange(3 * MIB, dtype=np.uint64).astype(np.uint8)
    array.resize(9 * MIB, refcheck=False)
    np.testing.assert_array_equal(array[: 3 * MIB], np.arange(3 * MIB).astype(np.uint8))
    array.resize(100, refcheck=False)
    assert array.tolist() == list(range(100))
    array.resize(2 * MIB, refcheck=False)
    assert array[:100].tolist() == list(range(100))
    assert kept() >= 12 * MIB


def test_the_limit_holds():
    blocks = [block(20 * MIB) for _ in range(5)]
    while blocks:
        blocks.pop()
        assert kept() <= 64 * MIB
    assert kept() >= 40 * MIB
    config.set_kept_memory(25 * MIB)
    assert 20 * MIB <= kept() <= 25 * MIB
    block(40 * MIB)  # larger than all that may be kept
    assert 20 * MIB <= kept() <= 25 * MIB
    for _ in range(100):  # more blocks than there are places
        blocks.append(block(MIB))
    config.set_kept_memory(1 << 40)
    blocks.clear()
    assert 60 * MIB <= kept() <= 140 * MIB


def test_the_longest_unused_goes_first():
    sizes = [10 * MIB, 20 * MIB, 30 * MIB]
    blocks = [block(n) for n in sizes]
    while blocks:
        blocks.pop(0)
    left = [kept()]
    for n in sizes:
        blocks.append(block(n))
        left.append(kept())
    assert left[0] == left[1] > left[2] > left[3] == 0


def test_without_a_limit_nothing_is_kept():
    config.set_kept_memory(0)
    array = block(8 * MIB)
    config.set_kept_memory(64 * MIB)
    del array  # NumPy's own
    assert kept() == 0
    array = block(8 * MIB)
    config.set_kept_memory(0)
    del array
    assert kept() == 0


def test_release():
    block(8 * MIB)
    assert config.release_memory() >= 8 * MIB
    assert kept() == config.release_memory() == 0


def test_much_larger_blocks_are_left_to_larger_results():
    place = address(block(16 * MIB))
    assert address(block(8 * MIB)) != place
    config.release_memory()
    place = address(block(16 * MIB))
    assert address(block(15 * MIB)) == place


def test_what_idles_is_released(monkeypatch):
    block(8 * MIB)
    memory.set_idle(0.0)
    try:
        threading.Event().wait(0.02)
        block(2 * MIB)
        assert kept() < 4 * MIB
    finally:
        memory.set_idle()


@pytest.mark.parametrize("n", [-1, 1 << 62])
def test_limits_that_are_refused(n):
    with pytest.raises(ValueError, match=f"set_kept_memory expects an integer from 0 .*got {n}"):
        config.set_kept_memory(n)


@pytest.mark.parametrize("n", [1.5, "1", None, True])
def test_limits_of_other_types(n):
    with pytest.raises(TypeError, match="set_kept_memory expects an int, but got"):
        config.set_kept_memory(n)


@pytest.mark.parametrize(
    ("text", "expected"), [("0", 0), ("1048576", MIB), ("", None), ("-1", None), ("9" * 40, None)]
)
def test_the_environment(monkeypatch, text, expected):
    monkeypatch.setenv("FASTCONV1D_KEPT_MEMORY", text)
    if text and expected is None:
        with pytest.warns(RuntimeWarning, match="FASTCONV1D_KEPT_MEMORY should be an integer"):
            limit = config._kept_memory_at_start()
    else:
        limit = config._kept_memory_at_start()
    assert limit == (config._default_kept_memory() if expected is None else expected)


@pytest.mark.parametrize(
    ("room", "limit"), [(None, 512 * MIB), (1 << 40, 512 * MIB), (1 << 30, 128 * MIB), (0, 0)]
)
def test_the_default_leaves_seven_eighths(monkeypatch, room, limit):
    monkeypatch.setattr(config, "_memory_of_the_machine", lambda: room)
    assert config._default_kept_memory() == limit


def test_threads_never_share_a_block():
    failures = []

    def work(number):
        rng = np.random.default_rng(number)
        mine = []
        try:
            for i in range(300):
                array = block(int(rng.integers(MIB, 3 * MIB)), (number * 31 + i) % 251)
                mine.append((array, (number * 31 + i) % 251))
                if len(mine) > 3:
                    array, value = mine.pop(int(rng.integers(3)))
                    if array[0] != value or array[-1] != value or np.ptp(array[:: 1 << 14]) != 0:
                        raise AssertionError("somebody wrote to this block")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert kept() <= 64 * MIB


def test_results_of_threads_are_right():
    layer, x = layer_and_input()
    expected = layer(x)
    wrong = []

    def work():
        for _ in range(20):
            if not np.array_equal(layer(x), expected):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forks():
    layer, x = layer_and_input()
    expected = layer(x).copy()
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            block(2 * MIB)

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        held = layer(x)
        for _ in range(20):
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                right = np.array_equal(layer(x), expected) and np.array_equal(held, expected)
                del held
                right = right and np.array_equal(layer(x), expected)
                config.release_memory()
                os._exit(0 if right and np.array_equal(layer(x), expected) else 3)
            assert os.waitpid(child, 0)[1] == 0
            np.testing.assert_array_equal(held, expected)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


PRELUDE = """
import re, resource
import numpy as np
import fastconv1d
from fastconv1d import config
def status(field):
    return int(re.search(field + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
layer = fastconv1d.Conv1d(1, 8, 3).eval()
x = np.ones((1, 1, 3_000_000), np.float32)
"""


def run(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code],
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_memory_that_is_kept_makes_way():
    """Address space that ends: what is kept is given back before an allocation fails."""
    run("""
config.set_kept_memory(1 << 30)
del layer
first = fastconv1d.Conv1d(1, 8, 3).eval()
first(x)
assert config.config_info()["kept_memory"] > 90e6
resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + (60 << 20),) * 2)
y = fastconv1d.Conv1d(1, 12, 3).eval()(x)  # 144 MB: fits the 60 MiB and the 96 MB that were kept
assert y.shape == (1, 12, 2_999_998) and config.config_info()["kept_memory"] == 0
try:
    fastconv1d.Conv1d(1, 80, 3).eval()(x)
except MemoryError:
    del y
    print(first(x).shape)
""")


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="reads it")
def test_the_system_may_take_what_is_kept():
    """Pages that it takes before it lets a process fail, in a memory cgroup too."""
    run("""
def reclaimable():
    text = open("/proc/self/smaps_rollup").read()
    return int(re.search(r"LazyFree:\\s+(\\d+) kB", text)[1]) * 1024
config.set_kept_memory(1 << 30)
layer(x)
kept = config.config_info()["kept_memory"]
assert kept > 90e6 and reclaimable() > 0.9 * kept, (kept, reclaimable())
y = layer(x)
assert reclaimable() < 0.1 * kept, "a result that is alive"
""")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_release_lowers_the_resident_set():
    run("""
config.set_kept_memory(1 << 30)
before = status("VmRSS")
layer(x)
config.release_memory()
assert status("VmRSS") < before + (8 << 20)
""")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize("calls", [1500, pytest.param(10_000, marks=pytest.mark.soak)])
def test_the_resident_set_stays_within_the_limit(calls):
    """Of many calls of random lengths, beyond that of the same calls without kept memory."""
    code = """
rng = np.random.default_rng(0)
w = np.ones((8, 1, 3), np.complex64)
others = (
    lambda a: fastconv1d.conv_transpose1d(a, w.real.swapaxes(0, 1), stride=2),
    lambda a: fastconv1d.conv1d_backward(a, a, w.real[:1], padding=1),
    lambda a: fastconv1d.conv1d(a.astype(np.complex64), w),
    lambda a: fastconv1d.unfold1d(a, 3),
)
for i in range({calls}):
    length = int(2 ** rng.uniform(10, 20))
    layer(x[:, :, :length])
    if i % 10 == 0:
        others[i // 10 % 4](x[:, :, : length // 2])
print(status("VmRSS"))
"""
    without = int(run(code.format(calls=calls), FASTCONV1D_KEPT_MEMORY="0"))
    limit = 48 * MIB
    kept = int(run(code.format(calls=calls), FASTCONV1D_KEPT_MEMORY=str(limit)))
    assert kept <= without + limit + 8 * MIB


def test_arrays_of_a_context():
    memory.release()
    before = memory.enter()
    try:
        first = np.full(MIB // 4, 7, np.uint8)
        place = address(first)
        assert place % 64 == 0
        del first
        assert memory.kept() > 0
        again = np.zeros(MIB // 4 - 1000, np.uint8)
        assert address(again) == place and not again.any()
        grown = np.arange(MIB // 32)
        grown.resize(2 * MIB // 32, refcheck=False)
        assert (grown[: MIB // 32] == np.arange(MIB // 32)).all() and not grown[MIB // 32 :].any()
    finally:
        memory.leave(before)
    small = np.empty(MIB // 4, np.uint8)
    kept = memory.kept()
    del small
    assert memory.kept() == kept
    del again
    assert memory.kept() > kept
