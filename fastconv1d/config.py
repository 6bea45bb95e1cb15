"""Threads, determinism, fork handlers and what `show_config` prints."""

import contextlib
import contextvars
import math
import os
import warnings
from collections.abc import Iterator
from typing import Any

from .geometry import as_index, shown
from .kernels.blas_engine import openmp_enabled, pause_threads

# More threads than this are refused: a team that the system cannot start ends the process.
MAX_THREADS = 1024

_CGROUP_ROOT = "/sys/fs/cgroup"


def _threads_from_environment() -> int | None:
    """Return the first valid setting of FASTCONV1D_NUM_THREADS and OMP_NUM_THREADS, or None."""
    for name in ("FASTCONV1D_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(name)
        if not text:
            continue
        first = text.split(",")[0].strip()  # OpenMP allows a list, one entry a nesting level
        if first.isascii() and first.isdigit() and 1 <= int(first[:9]) <= MAX_THREADS:
            return int(first)
        if name.startswith("FASTCONV1D"):  # the other one is OpenMP's to complain about
            warnings.warn(
                f"{name} should be an integer from 1 to {MAX_THREADS}, got {shown(text)}; "
                "it is ignored",
                RuntimeWarning,
                stacklevel=2,
            )
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
    ['blas', 'cpus', 'deterministic', 'fastconv1d']
    """
    import platform

    import numpy as np
    import scipy
    from threadpoolctl import threadpool_info

    from . import __version__

    quota = _cgroup_quota()
    return {
        "fastconv1d": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "platform": platform.platform(),
        "isa": _isa(),
        "openmp": bool(openmp_enabled()),
        "threads": get_num_threads(),
        "cpus": _cpu_affinity(),
        "quota": quota,
        "deterministic": _deterministic,
        "blas": [
            {key: pool.get(key) for key in ("internal_api", "version", "num_threads", "filepath")}
            for pool in threadpool_info()
            if pool.get("user_api") == "blas"
        ],
    }


def _isa() -> str:
    try:
        from .kernels import direct_engine
    except ImportError:
        return "none (BLAS engine only)"
    return str(direct_engine.isa())


def show_config() -> None:
    """Print versions, instruction set, OpenMP, BLAS libraries and threads.

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
    pools = info.pop("blas")
    info["openmp"] = "yes" if info["openmp"] else "no (built serial)"
    info["quota"] = "none" if info["quota"] is None else f"{info['quota']:g} CPUs"
    for name, value in info.items():
        print(f"{name:<14} {value}")
    for pool in pools:
        print(
            f"{'blas':<14} {pool['internal_api']} {pool['version']}, "
            f"{pool['num_threads']} threads, {pool['filepath']}"
        )


if hasattr(os, "register_at_fork"):
    # A child of a process with a running OpenMP pool waits for ever in its first parallel region.
    os.register_at_fork(before=pause_threads)
