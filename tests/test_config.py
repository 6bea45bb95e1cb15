"""Threads, determinism and what the environment, affinity and cgroup say about them."""

import contextvars
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import fastconv1d
from fastconv1d import config
from fastconv1d.kernels.workers import counts


@pytest.fixture(autouse=True)
def _restored():
    threads, workers = fastconv1d.get_num_threads(), config._max_workers
    yield
    fastconv1d.set_num_threads(threads)
    config.set_max_workers(workers)
    fastconv1d.use_deterministic_algorithms(False)


def test_set_num_threads():
    for n in (1, 3, np.int64(2), config.MAX_THREADS):
        fastconv1d.set_num_threads(n)
        assert fastconv1d.get_num_threads() == n
        assert config.execution() == (n, False)


@pytest.mark.parametrize(
    "function", [fastconv1d.set_num_threads, lambda n: fastconv1d.num_threads(n).__enter__()]
)
def test_bad_thread_counts(function):
    before = fastconv1d.get_num_threads()
    for n in (0, -1, config.MAX_THREADS + 1, 2**40):
        with pytest.raises(ValueError, match=f"num_threads expects a positive integer.*got {n}"):
            function(n)
    for n in ("x", 1.0, None, True):
        with pytest.raises(
            TypeError, match=f"num_threads expects an int, but got {type(n).__name__}"
        ):
            function(n)
    with pytest.raises(OverflowError):
        function(2**63)
    assert fastconv1d.get_num_threads() == before


def test_max_workers(monkeypatch):
    monkeypatch.setattr(config, "_default", 2)
    config.set_max_workers(None)
    fastconv1d.set_num_threads(5)
    assert config.get_max_workers() == counts()[0] == 5
    fastconv1d.set_num_threads(1)
    assert config.get_max_workers() == counts()[0] == 2
    for n in (0, 7, np.int64(3), config.MAX_THREADS - 1):
        config.set_max_workers(n)
        fastconv1d.set_num_threads(9)
        assert config.get_max_workers() == counts()[0] == n
    for n in (-1, config.MAX_THREADS, 2**40):
        with pytest.raises(ValueError, match=f"set_max_workers expects an integer.*got {n}"):
            config.set_max_workers(n)
    for n in ("x", 1.0, True):
        with pytest.raises(TypeError, match="set_max_workers expects an int or None, but got"):
            config.set_max_workers(n)


def test_num_threads_nests_and_restores():
    fastconv1d.set_num_threads(5)
    with fastconv1d.num_threads(2):
        assert fastconv1d.get_num_threads() == 2
        with fastconv1d.num_threads(3):
            assert fastconv1d.get_num_threads() == 3
        assert fastconv1d.get_num_threads() == 2
        fastconv1d.set_num_threads(4)
        assert fastconv1d.get_num_threads() == 2
    assert fastconv1d.get_num_threads() == 4
    with pytest.raises(KeyError), fastconv1d.num_threads(2):
        raise KeyError
    assert fastconv1d.get_num_threads() == 4


def test_num_threads_is_of_one_host_thread():
    fastconv1d.set_num_threads(5)
    inside, leave, seen = threading.Event(), threading.Event(), []

    def other():
        with fastconv1d.num_threads(2):
            inside.set()
            leave.wait(60)
            seen.append(fastconv1d.get_num_threads())

    thread = (
        threading.Thread(target=other, context=contextvars.Context())
        if sys.version_info >= (3, 14)
        else threading.Thread(target=other)
    )
    thread.start()
    assert inside.wait(60)
    assert fastconv1d.get_num_threads() == 5
    with fastconv1d.num_threads(3):
        leave.set()
        thread.join()
        assert fastconv1d.get_num_threads() == 3
    assert seen == [2]


def test_deterministic_algorithms():
    assert not fastconv1d.are_deterministic_algorithms_enabled()
    fastconv1d.use_deterministic_algorithms(True)
    assert fastconv1d.are_deterministic_algorithms_enabled()
    assert config.execution()[1]
    for mode in (1, "x", None):
        with pytest.raises(TypeError, match="argument 'mode' must be bool"):
            fastconv1d.use_deterministic_algorithms(mode)
    assert fastconv1d.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("ours", "openmp", "expected"),
    [
        ("3", "7", 3),
        ("", "7", 7),
        (None, "4,2", 4),
        (None, "0", None),
        (None, "x", None),
        (None, str(10**30), None),
        (None, None, None),
    ],
)
def test_environment(monkeypatch, ours, openmp, expected):
    for name, value in (("FASTCONV1D_NUM_THREADS", ours), ("OMP_NUM_THREADS", openmp)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert config._threads_from_environment() == expected


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", "99999", "²"])
def test_bad_environment_warns(monkeypatch, text):
    monkeypatch.setenv("FASTCONV1D_NUM_THREADS", text)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with pytest.warns(RuntimeWarning, match=f"FASTCONV1D_NUM_THREADS should be .* got '{text}'"):
        assert config._threads_from_environment() == 2


@pytest.mark.parametrize(("text", "expected"), [("0", 0), (" 7 ", 7), ("1023", 1023), ("", None)])
def test_max_workers_of_the_environment(monkeypatch, text, expected):
    monkeypatch.setenv("FASTCONV1D_MAX_WORKERS", text)
    assert config._workers_from_environment() == expected


@pytest.mark.parametrize("text", ["-1", "1024", "x", "1.5"])
def test_bad_max_workers_of_the_environment_warn(monkeypatch, text):
    monkeypatch.setenv("FASTCONV1D_MAX_WORKERS", text)
    with pytest.warns(RuntimeWarning, match=f"FASTCONV1D_MAX_WORKERS should be .* got '{text}'"):
        assert config._workers_from_environment() is None


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu.max": "garbage"}, None),
        ({"cpu.max": "1000 0"}, None),
        ({}, None),
    ],
)
def test_cgroup_quota(tmp_path, files, expected):
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    assert config._cgroup_quota(str(tmp_path)) == expected


@pytest.mark.parametrize(
    ("affinity", "quota", "expected"), [(8, None, 8), (8, 1.5, 2), (2, 4.0, 2), (4, 0.2, 1)]
)
def test_default_threads(monkeypatch, affinity, quota, expected):
    monkeypatch.setattr(config, "_threads_from_environment", lambda: None)
    monkeypatch.setattr(config, "_cpu_affinity", lambda: affinity)
    monkeypatch.setattr(config, "_cgroup_quota", lambda: quota)
    assert config._default_threads() == expected


def test_environment_of_a_new_process():
    code = "import fastconv1d; print(fastconv1d.get_num_threads())"
    env = {**os.environ, "FASTCONV1D_NUM_THREADS": "3"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert (run.stdout, run.stderr) == ("3\n", "")


def test_config_info():
    info = config.config_info()
    assert info["fastconv1d"] == fastconv1d.__version__
    assert info["numpy"] == np.__version__
    assert info["threads"] == fastconv1d.get_num_threads()
    assert info["max_workers"] == config.get_max_workers()
    assert info["isa"] in info["isas"]
    assert info["kept_memory_limit"] == config.get_kept_memory()
    assert info["compiler"]
    assert info["blas"] and info["blas"][0]["num_threads"] >= 1
    json.dumps(info)


def test_show_config(capsys):
    assert fastconv1d.show_config() is None
    printed = capsys.readouterr().out
    names = {line.split()[0] for line in printed.splitlines()}
    assert {
        "fastconv1d",
        "numpy",
        "scipy",
        "build",
        "cpu",
        "caches",
        "compiler",
        "isa",
        "threads",
        "max_workers",
        "kept_memory",
        "layer",
        "environment",
        "blas",
    } <= names
    assert fastconv1d.__version__ in printed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork_after_a_threaded_call():
    x, w = np.ones((8, 64, 2048), np.float32), np.ones((64, 64, 3), np.float32)
    with fastconv1d.num_threads(2):
        expected = fastconv1d.conv1d(x, w)
        for _ in range(5):
            child = os.fork()
            if child == 0:
                signal.alarm(20)  # a child that hangs is ended, and fails the test
                same = (fastconv1d.conv1d(x, w) == expected).all()
                os._exit(0 if same else 3)
            assert os.waitpid(child, 0)[1] == 0
            np.testing.assert_array_equal(fastconv1d.conv1d(x, w), expected)


def test_every_variable_of_the_environment_is_documented():
    package = Path(fastconv1d.__file__).parent
    setup = package.with_name("setup.py")  # not beside an installed package
    files = [*package.rglob("*.py"), *package.rglob("*.pyx"), *([setup] if setup.exists() else [])]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    names = set(re.findall(r"FASTCONV1D_[A-Z0-9_]+", text)) - {"FASTCONV1D_BENCH_CHILD"}  # internal
    assert names <= set(config.ENVIRONMENT)
    assert all(re.search(rf"^{name} ", config.__doc__, re.MULTILINE) for name in config.ENVIRONMENT)
