"""Rows 10, 11, 20, 25, 26 and 27: a good citizen of its process, from import to exit."""

import importlib.util
import subprocess
import sys
import sysconfig

import pytest

from promises.children import ENVIRONMENT, LAYERS, WAITING, run

CONCURRENT = """
import concurrent.futures

layer = fastconv1d.Conv1d(32, 32, 5, padding=2).eval()
twin = fastconv1d.ConvTranspose1d(32, 16, 4, stride=2).eval()
lengths = [1, 2, 7, 64, 129, 500, 1023]
inputs = [np.ascontiguousarray(np.resize(x, (2, 32, n))) for n in lengths]
with fastconv1d.num_threads(1):
    expected = [(layer(a).tobytes(), twin(a).tobytes()) for a in inputs]
start = threading.Barrier(64)

def host(seed):
    start.wait()
    for i in range(int(sys.argv[1])):
        j = (seed + i) % len(inputs)
        # the threads of a call are 1 to 8: a context variable, so each host thread's own
        with fastconv1d.num_threads(1 + (seed + i) % 8):
            if (layer(inputs[j]).tobytes(), twin(inputs[j]).tobytes()) != expected[j]:
                return False
    return True

with concurrent.futures.ThreadPoolExecutor(64) as hosts:
    assert all(hosts.map(host, range(64)))
"""


def test_64_threads_on_one_module(share):
    run(CONCURRENT, int(1000 * share), timeout=600)


def test_64_threads_with_a_thread_switch_every_microsecond(share):
    run("sys.setswitchinterval(1e-6)\n" + CONCURRENT, int(300 * share), timeout=600)


@pytest.mark.parametrize(
    "name", ["workers", "openmp", "pages", "unfold", "gemm", "blas_engine", "direct_engine"]
)
def test_extensions_declare_that_they_need_no_gil(name):
    # Py_mod_gil = Py_MOD_GIL_NOT_USED; only a free-threaded interpreter reads it.
    if importlib.util.find_spec(f"fastconv1d.kernels.{name}") is None:
        assert name == "openmp"
        pytest.skip("built without OpenMP")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        code = f"import sys, fastconv1d.kernels.{name}; assert not sys._is_gil_enabled()"
        subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True)


def test_no_fpu_state_changes():
    run("""
tiny = np.float32(1e-40)
small = np.full((1, 64, 2048), 1e-20, np.float32)
weight = np.full((64, 64, 1), 2e-21, np.float32)

def subnormals_are_kept():
    return (tiny * np.float32(0.5)) > 0 and (tiny + np.float32(0)) == tiny

assert subnormals_are_kept()
with fastconv1d.num_threads(1):
    one = fastconv1d.conv1d(small[:, :1], weight[:1, :1])
    # the product itself is subnormal: 2e-41
    assert (one > 0).all() and (one < np.finfo(np.float32).tiny).all()
    serial = fastconv1d.conv1d(small, weight)
with fastconv1d.num_threads(8):
    for _ in range(50):
        assert (fastconv1d.conv1d(small, weight) == serial).all()
        assert (fastconv1d.conv1d(small, weight, algorithm="blas") > 0).all()
assert threads.n_started() > 0
assert (serial > 0).all()
seen = []
thread = threading.Thread(target=lambda: seen.append(subnormals_are_kept()))
thread.start()
thread.join()
assert seen == [True] and subnormals_are_kept()
""")


TICKER = """
x, w = np.ones((N, 128, 60000), np.float32), np.ones((128, 128, 9), np.float32)
fastconv1d.set_num_threads(1)
ticks, over = [], threading.Event()

def tick():
    while not over.is_set():
        ticks.append(clock())
        time.sleep(0.001)

def longest_gap(call):
    ticks.clear()
    over.clear()
    ticker = threading.Thread(target=tick)
    ticker.start()
    time.sleep(0.05)
    kept = call()  # NumPy frees hundreds of megabytes with the GIL held: not before the last tick
    over.set()
    ticker.join()
    return max(b - a for a, b in zip(ticks, ticks[1:]))

gaps, idles = [], []
for _ in range(20):
    idles.append(longest_gap(lambda: time.sleep(0.2)))
    gaps.append(longest_gap(lambda: CALL))
    if gaps[-1] < 0.02:
        break
print(min(gaps) - min(idles), len(ticks))
"""


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("algorithm", ["direct", "blas"])
def test_the_gil_is_free_during_a_call(backward, algorithm, share):
    # Clock time less what the threads waited for a CPU, and less the longest gap beside a sleep:
    # others use the machine too. Many attempts, as only what holds the GIL is late in each.
    name = "conv1d_backward(x, x, w, padding=4" if backward else "conv1d(x, w, padding=4"
    call = f"fastconv1d.{name}, algorithm={algorithm!r})"
    code = WAITING + f"N = {max(1, round(8 * share))}\n" + TICKER.replace("CALL", call)
    gap, ticks = map(float, run(code, timeout=600).split())
    assert ticks > 10
    assert gap < 0.02


RUNTIMES = {
    "sklearn": "from sklearn.cluster import KMeans\n"
    "KMeans(3, n_init=1).fit(rng.standard_normal((5000, 8)))",
    "torch": "import torch\n"
    "torch.set_num_threads(2); torch.ones(300, 300) @ torch.ones(300, 300)\n"
    "torch.nn.functional.conv1d(torch.ones(2, 64, 999), torch.ones(64, 64, 9))",
    "onnxruntime": "import onnxruntime",
}


@pytest.mark.parametrize("other", RUNTIMES)
@pytest.mark.parametrize("order", ["before", "after", "around"])
@pytest.mark.filterwarnings("ignore")
def test_other_runtimes_before_and_after(tmp_path, other, order):
    if importlib.util.find_spec(other) is None:
        pytest.skip(f"{other} is not installed")
    before = "import numpy as np\nrng = np.random.default_rng(0)\n" + RUNTIMES[other] + "\n"
    code = before if order in ("before", "around") else ""
    code += LAYERS + "\nexpected = bits()\n"
    code += RUNTIMES[other] + "\n" if order in ("after", "around") else ""
    code += """
for _ in range(3):
    assert bits() == expected
with fastconv1d.num_threads(1):
    assert bits() == expected
child = os.fork()
if child == 0:
    signal.alarm(10)
    os._exit(0 if bits() == expected else 3)
assert os.waitpid(child, 0)[1] == 0
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr


EXIT = """
for _ in range(4):
    child = os.fork()
    if child == 0:
        break  # it ends as its parent does, without the time of an import
    assert os.waitpid(child, 0)[1] == 0
assert all(bits())
assert threads.n_started() > 0
"""
DAEMONS = """
start = threading.Barrier(5)

def forever():
    start.wait()
    while True:
        bits()

for _ in range(4):
    threading.Thread(target=forever, daemon=True).start()
start.wait()
time.sleep(0.02)
"""


def test_exit_after_a_threaded_call(share):
    for _ in range(int(100 * share)):
        assert run(EXIT) == ""


def test_exit_while_daemon_threads_call(share):
    for _ in range(int(100 * share)):
        assert run(DAEMONS) == ""
