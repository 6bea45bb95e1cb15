"""The threading layers: which is in force, on which runtime, and that both share work alike."""

import importlib.util
import os
import shutil
import subprocess
import sys

import pytest
from layers import REALISTIC, Library, assert_same_bits, random_layers
from promises.children import run
from promises.test_bits import WIDE

import fastconv1d
from fastconv1d import config
from fastconv1d.core import threads

BUILT = importlib.util.find_spec("fastconv1d.kernels.openmp") is not None


def path_of(soname):
    """The path of a library that the loader finds, which a process of its own says."""
    code = (
        "import ctypes, sys; ctypes.CDLL(sys.argv[1]);"
        "print(*{l.split()[-1] for l in open('/proc/self/maps') if sys.argv[1] in l})"
    )
    command = [sys.executable, "-c", code, soname]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


RUNTIME = path_of("libgomp.so.1") if BUILT else ""
needs_runtime = pytest.mark.skipif(not RUNTIME, reason="no OpenMP layer or no libgomp here")


def child(code, *arguments, layer="auto", **environment):
    environment = {"FASTCONV1D_THREADING_LAYER": layer, **environment}
    return run("import ctypes\n" + code, *arguments, **environment)


@pytest.fixture
def restored():
    before = config.get_threading_layer()
    yield
    config.set_threading_layer(before)


def test_setting(restored):
    for layer in ("workers", "auto"):
        config.set_threading_layer(layer)
        assert config.get_threading_layer() == layer
    for layer in ("tbb", "", "OpenMP"):
        with pytest.raises(ValueError, match=f"one of auto, workers, openmp, got '{layer}'"):
            config.set_threading_layer(layer)
    for layer in (None, 1, b"workers"):
        with pytest.raises(TypeError, match=f"expects a str, but got {type(layer).__name__}"):
            config.set_threading_layer(layer)
    assert config.get_threading_layer() == "auto"


@pytest.mark.parametrize(
    ("layer", "text"), [("tbb", "expects one of auto, workers, openmp, got 'tbb'")]
)
def test_bad_environment_warns(restored, monkeypatch, layer, text):
    monkeypatch.setenv("FASTCONV1D_THREADING_LAYER", layer)
    before = config.get_threading_layer()
    with pytest.warns(RuntimeWarning, match=f"FASTCONV1D_THREADING_LAYER is ignored: .*{text}"):
        config._layer_from_environment()
    assert config.get_threading_layer() == before


def test_the_setting_of_the_environment(restored, monkeypatch):
    monkeypatch.setenv("FASTCONV1D_THREADING_LAYER", " workers ")
    config._layer_from_environment()
    assert config.get_threading_layer() == "workers"
    assert threads.in_force() == ("workers", "set", None)


def test_auto_without_a_runtime_neither_imports_nor_loads_one():
    child("""
bits()
assert threads.in_force() == ("workers", "no OpenMP runtime is loaded", None), threads.in_force()
assert config.config_info()["openmp"] is None
assert "fastconv1d.kernels.openmp" not in sys.modules
assert workers.counts()[1] == 3
if os.path.exists("/proc/self/maps"):
    assert "omp.so" not in open("/proc/self/maps").read()
""")


LATER = """
expected = bits()
assert threads._choice.layer == "workers"
kept = [ctypes.CDLL(path) for path in sys.argv[1:]]
assert bits() == expected  # which notices it
assert threads._choice.layer == "openmp", threads._choice
assert os.path.samefile(threads._choice.runtime, sys.argv[-1]), threads._choice
runtimes = {line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line}
assert len(runtimes) == len(sys.argv) - 1, runtimes
assert threads.n_started() == 3
"""


@needs_runtime
def test_auto_notices_a_runtime_that_comes_later():
    child(LATER, RUNTIME)


@needs_runtime
def test_the_runtime_of_a_wheel_under_another_name(tmp_path):
    copy = shutil.copy(RUNTIME, tmp_path / "libgomp-e985bcbb.so.1.0.0")
    child(LATER, copy)


@needs_runtime
def test_of_two_runtimes_torch_s_is_taken(tmp_path):
    folder = tmp_path / "torch" / "lib"
    folder.mkdir(parents=True)
    child(LATER, RUNTIME, shutil.copy(RUNTIME, folder / "libgomp-a34b3233.so.1"))


@needs_runtime
def test_another_runtime_takes_over_between_calls(tmp_path):
    folder = tmp_path / "torch"
    folder.mkdir()
    child(
        """
expected = bits()
first = threads.in_force()
assert first.layer == "openmp" and first.reason == "set"
kept = ctypes.CDLL(sys.argv[1])
assert bits() == expected
assert threads._choice == ("openmp", "set", sys.argv[1])
assert threads.n_started() == 3
""",
        shutil.copy(RUNTIME, folder / "libgomp-1.so"),
        layer="openmp",
    )


UNFIT = """
kept = ctypes.CDLL(sys.argv[1])
expected = bits()
layer, reason, runtime = threads.in_force()
assert (layer, runtime) == (sys.argv[2], None), layer
assert reason == f"the OpenMP runtime {sys.argv[1]} cannot be used: it has no GOMP_parallel"
assert workers.counts()[1] == (3 if layer == "workers" else 0)
try:
    config.set_threading_layer("openmp")
except RuntimeError as error:
    assert reason in str(error) and "libgomp1" in str(error)
else:
    raise AssertionError
assert config.get_threading_layer() == "auto" and threads.in_force().layer == layer
config.set_threading_layer("workers")
assert bits() == expected
assert workers.counts()[1] == 3
"""


@needs_runtime
@pytest.mark.parametrize(
    ("environment", "layer"),
    [
        ({}, "alone"),
        ({"OMP_WAIT_POLICY": "passive"}, "workers"),
        ({"GOMP_SPINCOUNT": "0"}, "workers"),
    ],
)
def test_beside_a_runtime_that_cannot_be_used(tmp_path, environment, layer):
    other = shutil.copy(path_of("libm.so.6"), tmp_path / "libomp.so")
    child(UNFIT, other, layer, **environment)


def test_a_build_without_openmp():
    child("""
sys.modules["fastconv1d.kernels.openmp"] = None
try:
    config.set_threading_layer("openmp")
except RuntimeError as error:
    assert "built without OpenMP" in str(error)
else:
    raise AssertionError
bits()
assert threads.in_force().layer == "workers"
""")


@needs_runtime
def test_info():
    child(
        """
info = config.config_info()
assert info["threading_layer"] == "openmp" and info["threading_reason"] == "set"
assert os.path.samefile(info["openmp"]["filepath"], sys.argv[1])
assert info["openmp"]["version"].startswith("GOMP_")
import contextlib, io
with contextlib.redirect_stdout(io.StringIO()) as printed:
    fastconv1d.show_config()
assert "layer          openmp (set)" in printed.getvalue()
assert f"openmp         {info['openmp']['version']}, " in printed.getvalue()
""",
        RUNTIME,
        layer="openmp",
    )


@needs_runtime
def test_bits_of_both_layers(restored):
    lib = Library("auto")
    for layer in [*random_layers(20, seed=13, **WIDE), *REALISTIC]:
        x, w, b, g = layer.normal_arrays()
        results = {}
        for name in ("workers", "openmp"):
            config.set_threading_layer(name)
            with fastconv1d.num_threads(4):
                results[name] = [layer.forward(lib)(x, w, b), *layer.backward(lib)(g, x, w)]
        for one, other in zip(results["workers"], results["openmp"], strict=True):
            assert_same_bits(one, other, layer)


TEAMS = """
from fastconv1d.kernels import openmp
config.set_max_workers(2)
expected = bits()
assert openmp.counts() == (1, 2)  # of 3 that the call asks for
assert workers.counts() == (2, 0, 0)
config.set_max_workers(0)
assert bits() == expected
config.set_max_workers(8)
with fastconv1d.num_threads(2):
    assert bits() == expected
assert openmp.counts() == (1, 2)  # a smaller team's surplus is kept for the next

def until(counts):
    # On busy cores a leader works alone for a while.
    end = time.monotonic() + 60
    while openmp.counts() != counts and time.monotonic() < end:
        fastconv1d.conv1d(big, w)
    assert openmp.counts() == counts

with fastconv1d.num_threads(7):
    until((1, 6))

def other():
    wrong.append(bits() != expected)

wrong, hosts = [], [threading.Thread(target=other) for _ in range(8)]
for host in hosts:
    host.start()
for host in hosts:
    host.join()
assert wrong == 8 * [False]
assert openmp.counts() == (1, 6)  # the leader has just called: the others worked alone
time.sleep(1.1)
leader = threading.Thread(target=until, args=[(2, 3)])
leader.start()
leader.join()
until((3, 3))  # the leader has ended: no need to wait
"""


@needs_runtime
def test_teams_and_their_leaders():
    child("big = np.ones((64, 32, 512), np.float32)\n" + TEAMS, layer="openmp")


@needs_runtime
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_beside_threads_that_were_not_ended():
    child(
        """
kept = ctypes.CDLL(sys.argv[1])
expected = bits()
child = os.fork()
if child == 0:
    signal.alarm(20)
    status = 0 if bits() == expected else 3
    try:
        config.set_threading_layer("openmp")
    except RuntimeError as error:
        status = status or ("could not be ended" not in str(error))
    else:
        status = 4
    config.set_threading_layer("auto")
    status = status or threads.in_force().layer != "workers"
    os._exit(status or bits() != expected)
assert os.waitpid(child, 0)[1] == 0
""",
        RUNTIME,
        layer="workers",
    )
