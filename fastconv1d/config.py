"""Threads, determinism, kept memory, the default algorithm and what `show_config` prints.

What the environment may say, read once at import (but for the last three, which a build reads):

==========================  ===================================================================
FASTCONV1D_NUM_THREADS      Threads of a call, 1 to 1024; as `set_num_threads`.
OMP_NUM_THREADS             The same where the one above is unset, as in OpenMP programs.
FASTCONV1D_MAX_WORKERS      Worker threads of the process, 0 to 1023; as `set_max_workers`.
FASTCONV1D_THREADING_LAYER  auto, workers or openmp; as `set_threading_layer`.
FASTCONV1D_KEPT_MEMORY      Bytes kept for the next large results; as `set_kept_memory`.
FASTCONV1D_ALGORITHM        auto or fast; as `set_algorithm`.
FASTCONV1D_ISA              The instruction set: base, avx2, avx512; never one the CPU lacks.
FASTCONV1D_DEBUG            A build: 1 for no optimisation, and bounds checks.
FASTCONV1D_SANITIZE         A build: what to hand to the compiler's -fsanitize.
FASTCONV1D_EMULATE_AVX512   A build: 1 compiles the AVX-512 kernels for AVX2.
==========================  ===================================================================

A value that is not allowed is ignored with a RuntimeWarning.
"""

import contextlib
import contextvars
import math
import os
import warnings
from collections.abc import Iterator
from typing import Any

from .core import threads
from .core.geometry import as_index, shown
from .kernels import direct_engine
from .kernels.memory import kept, release
from .kernels.memory import limit as kept_limit
from .kernels.memory import set_limit as set_kept_limit
from .kernels.workers import counts, set_limit

MAX_THREADS = 1024  # of a call: its own and at most 1023 workers
# Bytes of freed results that are kept, at the most an eighth of the memory that there is. With
# 512 MiB the largest results of layers.csv take 1/1.8 (384 MiB) and 1/1.9 of their time (78 MiB).
KEPT_MEMORY = 512 << 20
MOST_KEPT = 1 << 62
ENVIRONMENT = (
    "FASTCONV1D_NUM_THREADS",
    "OMP_NUM_THREADS",
    "FASTCONV1D_MAX_WORKERS",
    "FASTCONV1D_THREADING_LAYER",
    "FASTCONV1D_KEPT_MEMORY",
    "FASTCONV1D_ALGORITHM",
    "FASTCONV1D_ISA",
    "FASTCONV1D_DEBUG",
    "FASTCONV1D_SANITIZE",
    "FASTCONV1D_EMULATE_AVX512",
)

_CGROUP_ROOT = "/sys/fs/cgroup"


def _integer_from_environment(name: str, text: str, lowest: int, highest: int) -> int | None:
    """Return the variable's value, or None after a warning if it is not between the limits."""
    if text.isascii() and text.isdigit() and lowest <= int(text[:30]) <= highest:
        return int(text[:30])
    if name.startswith("FASTCONV1D"):  # others are not ours to complain about
        warnings.warn(
            f"{name} should be an integer from {lowest} to {highest}, got {shown(text)}; "
            "it is ignored",
            RuntimeWarning,
            stacklevel=3,
        )
    return None


def _threads_from_environment() -> int | None:
    """Return the first valid setting of FASTCONV1D_NUM_THREADS and OMP_NUM_THREADS, or None."""
    for name in ("FASTCONV1D_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(name)
        if text:
            first = text.split(",")[0].strip()  # OpenMP allows a list, one entry a nesting level
            threads = _integer_from_environment(name, first, 1, MAX_THREADS)
            if threads is not None:
                return threads
    return None


def _cpu_affinity() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _cgroup_quota(root: str = _CGROUP_ROOT) -> float | None:
    """Return how many CPUs' worth of time the cgroup grants, or None without a limit."""
    quota, _, period = _read(f"{root}/cpu.max").partition(" ")  # version 2: "max 100000"
    if not quota:
        quota = _read(f"{root}/cpu/cpu.cfs_quota_us")  # version 1: -1 for no limit
        period = _read(f"{root}/cpu/cpu.cfs_period_us")
    try:
        limit = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return limit if limit > 0 else None


def _default_threads() -> int:
    asked = _threads_from_environment()
    if asked is not None:
        return asked
    quota = _cgroup_quota()
    cpus = _cpu_affinity()
    if quota is not None:
        cpus = min(cpus, math.ceil(quota))
    return max(1, min(cpus, MAX_THREADS))


_threads = _default_threads()
_threads_here: contextvars.ContextVar[int | None] = contextvars.ContextVar(
    "fastconv1d_threads", default=None
)
_deterministic = False


def _workers_from_environment() -> int | None:
    text = os.environ.get("FASTCONV1D_MAX_WORKERS", "").strip()
    if not text:
        return None
    return _integer_from_environment("FASTCONV1D_MAX_WORKERS", text, 0, MAX_THREADS - 1)


_default = _threads
_max_workers = _workers_from_environment()


def _checked_threads(function: str, n: Any) -> int:
    try:
        value = as_index("n", n)
    except TypeError:
        raise TypeError(
            f"{function} expects an int, but got {type(n).__name__} ({shown(n)})"
        ) from None
    if not 1 <= value <= MAX_THREADS:
        raise ValueError(
            f"{function} expects a positive integer, at most {MAX_THREADS}, got {shown(n)}"
        )
    return value


def set_num_threads(n: int) -> None:
    """Set how many threads a call of this process may use.

    Parameters
    ----------
    n : int
        From 1 to 1024. A call with little work uses fewer.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is not between 1 and 1024.

    See Also
    --------
    num_threads : The same for one block of one thread.

    Notes
    -----
    The number at start is the environment variable ``FASTCONV1D_NUM_THREADS``, or
    ``OMP_NUM_THREADS``, or the number of CPUs that the affinity of the process and the quota of
    its cgroup allow. No other library is affected: neither OpenMP's own default nor the BLAS.

    Examples
    --------
    >>> import fastconv1d
    >>> before = fastconv1d.get_num_threads()
    >>> fastconv1d.set_num_threads(2)
    >>> fastconv1d.get_num_threads()
    2
    >>> fastconv1d.set_num_threads(before)
    """
    global _threads  # noqa: PLW0603 - one setting for the process, as in torch
    _threads = _checked_threads("set_num_threads", n)
    set_limit(get_max_workers())


def get_num_threads() -> int:
    """Return how many threads a call from here may use.

    Returns
    -------
    int
        The number of the enclosing `num_threads` block, otherwise that of `set_num_threads`.

    Examples
    --------
    >>> import fastconv1d
    >>> fastconv1d.get_num_threads() >= 1
    True
    """
    here = _threads_here.get()
    return _threads if here is None else here


def set_max_workers(n: int | None) -> None:
    """Set how many worker threads the process may have, beside those that call.

    Parameters
    ----------
    n : int or None
        From 0, with which every call runs on its caller's thread alone, to 1023. None: as many as
        the threads of a call (`set_num_threads`, and not less than its number at start), which is
        the setting at start unless the environment variable ``FASTCONV1D_MAX_WORKERS`` has another.

    Raises
    ------
    TypeError
        If `n` is not an integer or None.
    ValueError
        If `n` is not between 0 and 1023.

    Notes
    -----
    A call takes the workers that are idle, at most one fewer than its number of threads, and works
    alone where there are none: 64 threads of a server that all call at once share the workers, and
    the process never has more of them than this. Results have the same bits in any case. Workers
    start when a call first wants them; those beyond a lower limit end when they are idle.

    Examples
    --------
    >>> from fastconv1d import config
    >>> before = config.get_max_workers()
    >>> config.set_max_workers(3)
    >>> config.get_max_workers()
    3
    >>> config.set_max_workers(before)
    """
    global _max_workers  # noqa: PLW0603 - one setting for the process
    if n is not None:
        try:
            value = as_index("n", n)
        except TypeError:
            raise TypeError(
                f"set_max_workers expects an int or None, but got {type(n).__name__} ({shown(n)})"
            ) from None
        if not 0 <= value < MAX_THREADS:
            raise ValueError(
                f"set_max_workers expects an integer from 0 to {MAX_THREADS - 1}, got {shown(n)}"
            )
        n = value
    _max_workers = n
    set_limit(get_max_workers())


def get_max_workers() -> int:
    """Return how many worker threads the process may have, beside those that call.

    Returns
    -------
    int

    Examples
    --------
    >>> from fastconv1d import config
    >>> config.get_max_workers() >= 1
    True
    """
    return max(_default, _threads) if _max_workers is None else _max_workers


def set_threading_layer(layer: str) -> None:
    """Choose which threads share the work of a call.

    Parameters
    ----------
    layer : {'auto', 'workers', 'openmp'}
        'workers': the library's own threads. 'openmp': those of an OpenMP runtime, the one that the
        process has (torch's, scikit-learn's) or else the system's. 'auto', the setting at start
        unless the environment variable ``FASTCONV1D_THREADING_LAYER`` has another: 'workers' in a
        process without an OpenMP runtime, 'openmp' as soon as another library has loaded one.

    Raises
    ------
    TypeError
        If `layer` is not a str.
    ValueError
        If there is no such layer.
    RuntimeError
        If this build or this system has no 'openmp'.

    See Also
    --------
    config_info : Says which layer is in force, why, and on which runtime.

    Notes
    -----
    Results have the same bits in both. OpenMP's threads go on looking for work for milliseconds
    after each of torch's operators, and other threads do not get a core meanwhile: so they are to
    do this work as well. Where 'auto' cannot use a runtime that another library has loaded, calls
    run on one thread, unless ``OMP_WAIT_POLICY=PASSIVE`` has its threads sleep.

    Examples
    --------
    >>> from fastconv1d import config
    >>> before = config.get_threading_layer()
    >>> config.set_threading_layer("workers")
    >>> config.config_info()["threading_layer"]
    'workers'
    >>> config.set_threading_layer(before)
    """
    if not isinstance(layer, str):
        raise TypeError(
            f"set_threading_layer expects a str, but got {type(layer).__name__} ({shown(layer)})"
        )
    if layer not in threads.LAYERS:
        raise ValueError(
            f"set_threading_layer expects one of {', '.join(threads.LAYERS)}, got {shown(layer)}"
        )
    threads.ask(layer)


def get_threading_layer() -> str:
    """Return the setting of `set_threading_layer`.

    Returns
    -------
    str
        'auto', 'workers' or 'openmp'. What 'auto' has chosen is in `config_info`.

    Examples
    --------
    >>> from fastconv1d import config
    >>> config.get_threading_layer() in ("auto", "workers", "openmp")
    True
    """
    return threads.asked()


def _layer_from_environment() -> None:
    text = os.environ.get("FASTCONV1D_THREADING_LAYER", "").strip()
    if not text:
        return
    try:
        set_threading_layer(text)
    except (ValueError, RuntimeError) as error:
        warnings.warn(
            f"FASTCONV1D_THREADING_LAYER is ignored: {error}", RuntimeWarning, stacklevel=2
        )


def set_kept_memory(n_bytes: int) -> None:
    """Set how much memory of freed results is kept for the next ones.

    Parameters
    ----------
    n_bytes : int
        The most that is kept. 0 switches it off: NumPy's allocator has all results then.

    Raises
    ------
    TypeError
        If `n_bytes` is not an integer.
    ValueError
        If `n_bytes` is negative, or 2**62 and more.

    See Also
    --------
    release_memory : Gives back what is kept now.

    Notes
    -----
    Fresh pages are up to half of the time of a layer with a large output: the system clears each of
    them. So results, packed weights and scratch of 1 MiB and more are taken from blocks that were
    freed before, where one of about the size is there. Results are ordinary arrays: each owns its
    memory until it and its views are gone.

    The setting at start is the environment variable ``FASTCONV1D_KEPT_MEMORY``, or 512 MiB, at most
    an eighth of the memory that the machine or the cgroup has. Beyond it, the blocks that were
    unused the longest go back to the system at once. Blocks that nobody took for 10 seconds go back
    when the next one is freed. Until then the system may take the pages of blocks of 4 MiB and more
    at any time that it is short of memory (of smaller ones after half a second, when the next block
    is freed), though tools count them as the process's own.

    Examples
    --------
    >>> from fastconv1d import config
    >>> before = config.get_kept_memory()
    >>> config.set_kept_memory(64 << 20)
    >>> config.get_kept_memory()
    67108864
    >>> config.set_kept_memory(before)
    """
    try:
        value = as_index("n_bytes", n_bytes)
    except TypeError:
        raise TypeError(
            f"set_kept_memory expects an int, but got {type(n_bytes).__name__} ({shown(n_bytes)})"
        ) from None
    if not 0 <= value < MOST_KEPT:
        raise ValueError(
            f"set_kept_memory expects an integer from 0 to {MOST_KEPT - 1}, got {shown(n_bytes)}"
        )
    set_kept_limit(value)


def get_kept_memory() -> int:
    """Return the setting of `set_kept_memory`.

    Returns
    -------
    int
        Bytes. How many are kept now is in `config_info`.

    Examples
    --------
    >>> from fastconv1d import config
    >>> config.get_kept_memory() >= 0
    True
    """
    return kept_limit()


def release_memory() -> int:
    """Give all memory that is kept for the next results back to the system.

    Returns
    -------
    int
        The bytes given back.

    See Also
    --------
    set_kept_memory : Says how much is kept.

    Examples
    --------
    >>> from fastconv1d import config
    >>> config.release_memory() >= 0
    True
    >>> config.config_info()["kept_memory"]
    0
    """
    return release()


def _memory_of_the_machine(root: str = _CGROUP_ROOT) -> int | None:
    """Return the bytes that this process may have, or None where the system does not tell."""
    found = []
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # versions 2 and 1; "max": none
        text = _read(f"{root}/{name}")
        if text.isdigit():
            found.append(int(text))
    with contextlib.suppress(AttributeError, ValueError, OSError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min((n for n in found if n > 0), default=None)


def _default_kept_memory() -> int:
    room = _memory_of_the_machine()
    return KEPT_MEMORY if room is None else min(KEPT_MEMORY, room // 8)


def _kept_memory_at_start() -> int:
    text = os.environ.get("FASTCONV1D_KEPT_MEMORY", "").strip()
    asked = None
    if text:
        asked = _integer_from_environment("FASTCONV1D_KEPT_MEMORY", text, 0, MOST_KEPT - 1)
    return _default_kept_memory() if asked is None else asked


@contextlib.contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Let the calls inside a ``with`` block use `n` threads.

    Parameters
    ----------
    n : int
        From 1 to 1024.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is not between 1 and 1024.

    Notes
    -----
    The setting is a context variable: it holds for the thread or the asyncio task that entered
    the block, and two host threads do not disturb each other. Blocks may be nested.

    Examples
    --------
    >>> import fastconv1d
    >>> with fastconv1d.num_threads(1):
    ...     fastconv1d.get_num_threads()
    1
    """
    token = _threads_here.set(_checked_threads("num_threads", n))
    try:
        yield
    finally:
        _threads_here.reset(token)


# What `algorithm="auto"` may be made to mean.
_DEFAULTS = ("auto", "fast")
_algorithm = "auto"
may_be_fast = False  # whether 'fast' has ever been a default here: a call asks this first
_algorithm_here: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "fastconv1d_algorithm", default=None
)


def _checked_algorithm(function: str, name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{function} expects a str, but got {type(name).__name__} ({shown(name)})")
    if name not in _DEFAULTS:
        raise ValueError(
            f"{function} expects one of {', '.join(_DEFAULTS)}, got {shown(name)}: the others are "
            "for single layers, which take algorithm="
        )
    return name


def set_algorithm(name: str) -> None:
    """Set what ``algorithm="auto"`` means in this process.

    Parameters
    ----------
    name : {'auto', 'fast'}
        'auto', the setting at start unless the environment variable ``FASTCONV1D_ALGORITHM`` has
        the other, is the fastest engine that keeps every promise: bits that depend on neither
        threads nor batch nor length, and the smallest error bound. 'fast' is the fastest of
        'direct', 'winograd' and 'fft' for each layer, whatever its bits.

    Raises
    ------
    TypeError
        If `name` is not a str.
    ValueError
        If there is no such default.

    See Also
    --------
    algorithm : The same for one block of one thread.

    Notes
    -----
    Functions, layers, networks and their backward follow the setting that is in force when they are
    called, unless they were given another algorithm than 'auto'. Models of torch (`accelerate`) and
    of ONNX (`from_onnx`) take the one in force when they are made. Deterministic mode and streams
    are never fast.

    Examples
    --------
    >>> from fastconv1d import config
    >>> before = config.get_algorithm()
    >>> config.set_algorithm("fast")
    >>> config.get_algorithm()
    'fast'
    >>> config.set_algorithm(before)
    """
    global _algorithm, may_be_fast  # noqa: PLW0603 - one setting for the process
    _algorithm = _checked_algorithm("set_algorithm", name)
    may_be_fast = may_be_fast or name == "fast"


def get_algorithm() -> str:
    """Return what ``algorithm="auto"`` means here.

    Returns
    -------
    str
        That of the enclosing `algorithm` block, otherwise that of `set_algorithm`.

    Examples
    --------
    >>> from fastconv1d import config
    >>> config.get_algorithm() in ("auto", "fast")
    True
    """
    here = _algorithm_here.get()
    return _algorithm if here is None else here


@contextlib.contextmanager
def algorithm(name: str) -> Iterator[None]:
    """Set what ``algorithm="auto"`` means inside a block.

    Parameters
    ----------
    name : {'auto', 'fast'}
        As `set_algorithm`.

    Raises
    ------
    TypeError, ValueError
        As `set_algorithm`.

    Notes
    -----
    The setting belongs to the thread or task, so that others do not see it. Blocks may be nested.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import config, conv1d
    >>> x, taps = np.ones((1, 20_000)), np.ones((1, 1, 3_000))
    >>> with config.algorithm("fast"):
    ...     y = conv1d(x, taps)  # by transforms
    >>> bool(np.allclose(y, 3_000))
    True
    """
    global may_be_fast  # noqa: PLW0603
    token = _algorithm_here.set(_checked_algorithm("algorithm", name))
    may_be_fast = may_be_fast or name == "fast"
    try:
        yield
    finally:
        _algorithm_here.reset(token)


def _algorithm_from_environment() -> None:
    text = os.environ.get("FASTCONV1D_ALGORITHM", "").strip()
    if not text:
        return
    try:
        set_algorithm(text)
    except ValueError:
        warnings.warn(
            f"FASTCONV1D_ALGORITHM should be one of {', '.join(_DEFAULTS)}, got {shown(text)}; "
            "it is ignored",
            RuntimeWarning,
            stacklevel=2,
        )


def use_deterministic_algorithms(mode: bool) -> None:
    """Choose whether results must be the same to the bit however the work is divided.

    Parameters
    ----------
    mode : bool
        True: on one machine, an output keeps its bits for any number of threads, whatever else is
        in the batch, and when the input grows at its end. False: the fastest path is taken.

    Raises
    ------
    TypeError
        If `mode` is not a bool.

    Examples
    --------
    >>> import fastconv1d
    >>> fastconv1d.use_deterministic_algorithms(True)
    >>> fastconv1d.are_deterministic_algorithms_enabled()
    True
    >>> fastconv1d.use_deterministic_algorithms(False)
    """
    global _deterministic  # noqa: PLW0603 - one setting for the process, as in torch
    if not isinstance(mode, bool):
        raise TypeError(
            "use_deterministic_algorithms(): argument 'mode' must be bool, "
            f"not {type(mode).__name__}, got {shown(mode)}"
        )
    _deterministic = mode


def are_deterministic_algorithms_enabled() -> bool:
    """Return whether `use_deterministic_algorithms` is on.

    Returns
    -------
    bool

    Examples
    --------
    >>> import fastconv1d
    >>> fastconv1d.are_deterministic_algorithms_enabled()
    False
    """
    return _deterministic


def execution() -> tuple[int, bool]:
    """Return how many threads a call may use, and whether it must be deterministic.

    Examples
    --------
    >>> from fastconv1d import config
    >>> with config.num_threads(2):
    ...     config.execution()
    (2, False)
    """
    here = _threads_here.get()
    return _threads if here is None else here, _deterministic


def config_info() -> dict[str, Any]:
    """Return what `show_config` prints.

    Returns
    -------
    dict
        Names to values; ``blas`` is a list with a dict for each BLAS in the process.

    Examples
    --------
    >>> import fastconv1d.config
    >>> sorted(fastconv1d.config.config_info())[:4]
    ['algorithm', 'blas', 'build', 'caches']
    """
    import platform

    import numpy as np
    import scipy
    from threadpoolctl import threadpool_info

    from .core import machine
    from .version import __version__

    quota = _cgroup_quota()
    limit, started, idle = counts()
    layer, reason, runtime = threads.in_force()
    return {
        "fastconv1d": __version__,
        "build": machine.build(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "platform": platform.platform(),
        "cpu": machine.cpu_model(),
        "caches": machine.caches(),
        "compiler": direct_engine.compiler(),
        "isa": direct_engine.isa(),
        "isas": list(direct_engine.supported_isas()),
        "threads": get_num_threads(),
        "max_workers": limit,
        "threading_layer": layer,
        "threading_reason": reason,
        "openmp": runtime and {"version": threads.runtime_version(runtime), "filepath": runtime},
        "workers": started,
        "idle_workers": idle,
        "cpus": _cpu_affinity(),
        "quota": quota,
        "deterministic": _deterministic,
        "algorithm": get_algorithm(),
        "kept_memory": kept(),
        "kept_memory_limit": kept_limit(),
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        "blas": [
            {key: pool.get(key) for key in ("internal_api", "version", "num_threads", "filepath")}
            for pool in threadpool_info()
            if pool.get("user_api") == "blas"
        ],
    }


def show_config() -> None:
    """Print what a bug report needs: versions, compiler, instruction sets, threads, BLAS.

    Notes
    -----
    `fastconv1d.config.config_info` returns the same as a dict.

    Examples
    --------
    >>> import fastconv1d
    >>> fastconv1d.show_config()  # doctest: +ELLIPSIS
    fastconv1d     ...
    """
    info = config_info()
    pools, layer, openmp = (info.pop(key) for key in ("blas", "threading_layer", "openmp"))
    info["layer"] = f"{layer} ({info.pop('threading_reason')})"
    info["isas"] = ", ".join(info["isas"])
    environment = info.pop("environment")
    info["environment"] = ", ".join(f"{k}={v}" for k, v in environment.items()) or "none of ours"
    held, most = info["kept_memory"] / 2**20, info.pop("kept_memory_limit") / 2**20
    info["kept_memory"] = f"{held:.0f} of at most {most:.0f} MiB"
    info["quota"] = "none" if info["quota"] is None else f"{info['quota']:g} CPUs"
    for name, value in info.items():
        print(f"{name:<14} {value}")
    if openmp:
        print(f"{'openmp':<14} {openmp['version']}, {openmp['filepath']}")
    for blas in pools:
        print(
            f"{'blas':<14} {blas['internal_api']} {blas['version']}, "
            f"{blas['num_threads']} threads, {blas['filepath']}"
        )


set_limit(get_max_workers())
_layer_from_environment()
_algorithm_from_environment()
set_kept_limit(_kept_memory_at_start())
