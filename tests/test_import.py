"""What importing the package does, and does not do."""

import subprocess
import sys

import pytest

import fastconv1d

PUBLIC = """
conv1d conv_transpose1d conv1d_backward conv_transpose1d_backward unfold1d fold1d grad
Conv1d ConvTranspose1d set_num_threads get_num_threads num_threads
use_deterministic_algorithms are_deterministic_algorithms_enabled show_config
""".split()


def run(code):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names(name):
    assert getattr(fastconv1d, name).__doc__
    assert name in fastconv1d.__all__


def test_all_names_exist():
    assert all(hasattr(fastconv1d, name) for name in fastconv1d.__all__)


def test_rooms_come_on_request():
    code = """
import sys
import fastconv1d
assert not {f"fastconv1d.{name}" for name in ("planner", "reference", "dask")} & set(sys.modules)
print(fastconv1d.planner.explain.__name__, fastconv1d.reference.conv1d.__name__)
try:
    fastconv1d.plan
except AttributeError as error:
    print(error)
"""
    assert run(code) == "explain conv1d\nmodule 'fastconv1d' has no attribute 'plan'\n"


def test_import_is_light():
    # Only the declared dependencies, and of SciPy nothing beyond its BLAS (whose package brought
    # scipy.sparse until SciPy 1.11).
    code = """
import sys
import scipy.linalg
given = set(sys.modules)
before = {name.partition(".")[0] for name in sys.modules}
import fastconv1d
after = {name.partition(".")[0] for name in sys.modules} - before
heavy = after & {"torch", "onnx", "onnxruntime", "openvino", "tqdm", "hypothesis", "pytest"}
heavy |= {name for name in ("scipy.signal", "scipy.sparse", "scipy.stats")
          if name in sys.modules and name not in given}
print(sorted(heavy))
"""
    assert run(code) == "[]\n"


def test_import_changes_no_environment_and_starts_no_thread():
    code = """
import os
import sys
import threading
import scipy.linalg.cython_blas
environment, switch = dict(os.environ), sys.getswitchinterval()
tasks = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
import fastconv1d
print(dict(os.environ) == environment, sys.getswitchinterval() == switch, threading.active_count())
now = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
print(now - tasks)
"""
    assert run(code) == "True True 1\n0\n"


def test_import_prints_nothing():
    assert run("import fastconv1d") == ""
