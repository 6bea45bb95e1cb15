"""Which threads share the units of a call: the threading layer.

The rule of "auto" is in `_decide`. It is applied at the first call on several threads and again
when the process has loaded more: torch may be imported later than this. `kernels/workers.pyx` and
`kernels/openmp.pyx` are the layers.
"""

import ctypes
import importlib
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

from ..kernels import workers

LAYERS = ("auto", "workers", "openmp")

_SYSTEM_RUNTIME = {"darwin": "libomp.dylib", "win32": "vcomp140.dll"}.get(
    sys.platform, "libgomp.so.1"
)
_HOW_TO_GET = {
    "darwin": "brew install libomp",
    "win32": "the Visual C++ Redistributable has it",
}.get(sys.platform, "apt install libgomp1, dnf install libgomp, apk add libgomp")


class Choice(NamedTuple):
    """The layer in force ("alone": one thread a call), why, and the file of its OpenMP runtime."""

    layer: str
    reason: str
    runtime: str | None = None


_asked = "auto"
_choice = Choice("workers", "no call on several threads yet")
_lock = threading.RLock()  # a signal's handler may call in the midst of a look
_paused = False  # whether this thread's OpenMP threads were ended before the fork that goes on
_unpaused = False  # whether this is a child of a process whose OpenMP threads were not


def _loaded() -> list[str]:
    """Return the files of the OpenMP runtimes in the process, torch's first."""
    paths = workers.loaded_runtimes()
    if paths is None:
        from threadpoolctl import threadpool_info

        paths = [pool["filepath"] for pool in threadpool_info() if pool["user_api"] == "openmp"]
    return sorted(paths, key=lambda path: "torch" not in Path(path).parts)


def _openmp() -> Any:
    """Import the layer, and with it its runtime where the extension is linked to one."""
    return importlib.import_module("fastconv1d.kernels.openmp")


def _bind(path: str, shared: bool) -> str | None:
    """Let `kernels/openmp.pyx` use this runtime, or return what keeps it from that."""
    try:
        if sys.platform == "darwin":  # whose linker looks its symbols up in the process
            ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
        openmp = _openmp()
    except ModuleNotFoundError:
        return "fastconv1d was built without OpenMP: its compiler had none that it can use"
    except ImportError as error:
        failed = str(error)
    except OSError:
        failed = "it cannot be opened"
    else:
        failed = openmp.use(path, shared)
    return failed and f"the OpenMP runtime {path} cannot be used: {failed}"


def _pools_spin() -> bool:
    policy = os.environ.get("OMP_WAIT_POLICY", "").strip().upper()
    return policy != "PASSIVE" and os.environ.get("GOMP_SPINCOUNT", "").strip() != "0"


def _decide(asked: str) -> Choice:
    """Return the layer to use; `_bind` has been called with its runtime."""
    if asked == "workers":
        return Choice("workers", "set")
    if _unpaused:
        return Choice("workers", "forked from a process whose OpenMP threads could not be ended")
    runtimes = _loaded()
    if asked == "auto" and not runtimes:
        return Choice("workers", "no OpenMP runtime is loaded")
    path = runtimes[0] if runtimes else _SYSTEM_RUNTIME
    reason = "set" if asked == "openmp" else "an OpenMP runtime is loaded"
    if path == _choice.runtime:
        return _choice._replace(reason=reason)
    failed = _bind(path, bool(runtimes))
    if failed is None:
        return Choice("openmp", reason, path if runtimes else _loaded_last())
    # Its threads may spin between calls, and a worker without a core is waited for.
    alone = bool(runtimes) and _pools_spin()
    return Choice("alone" if alone else "workers", failed)


def _loaded_last() -> str:
    return (_loaded() or [_SYSTEM_RUNTIME])[-1]


def _put_in_force(choice: Choice) -> None:
    global _choice  # noqa: PLW0603 - one layer for the process
    if choice.layer != "openmp":  # `_bind` has done it
        workers.use(alone=choice.layer == "alone")
    _choice = choice


def look() -> None:
    """Put the layer in force that is right for what the process has loaded."""
    with _lock:
        _put_in_force(_decide(_asked))


def ask(layer: str) -> None:
    """Use a layer of `LAYERS` from now on; RuntimeError if it is not to be had."""
    global _asked  # noqa: PLW0603 - one layer for the process
    with _lock:
        choice = _decide(layer)
        if layer == "openmp" and choice.layer != "openmp":
            _put_in_force(_decide(_asked))
            raise RuntimeError(
                f"the threading layer 'openmp' is not to be had: {choice.reason}. It takes a build "
                f"of fastconv1d by a compiler with OpenMP, and a runtime ({_HOW_TO_GET})"
            )
        _asked = layer
        _put_in_force(choice)
    workers.watch(None if layer == "workers" else look)


def asked() -> str:
    """Return the layer last asked for."""
    return _asked


def in_force() -> Choice:
    """Return the layer that the next call on several threads uses."""
    look()
    return _choice


def runtime_version(path: str) -> str | None:
    """Return what the file of an OpenMP runtime says of its version.

    GCC's has only the names of its newest functions: GOMP_5.0 since GCC 9, GOMP_5.0.1 since 11.
    """
    try:
        data = Path(path).read_bytes()
    except OSError:
        return None
    found = re.findall(rb"(?:LLVM|Intel\(R\)) OMP version: [\d.]+|\0GOMP_[\d.]+(?=\0)", data)
    return max(found).strip(b"\0").decode() if found else None


def n_started() -> int:
    """Return how many threads the layer in force has started for this process."""
    if _choice.layer != "openmp":
        return int(workers.counts()[1])
    return int(_openmp().counts()[1])


# ---- forks: GCC's runtime would wait in a child for threads that it does not have ----------------


def _before_fork() -> None:
    global _paused  # noqa: PLW0603 - of the process
    if _asked != "workers":
        look()
    _paused = False
    if _choice.layer == "openmp":
        _paused = _openmp().before_fork()


def _after_fork_in_child() -> None:
    global _lock, _unpaused  # noqa: PLW0603 - of the process
    _lock = threading.RLock()
    if _paused:
        _openmp().after_fork_in_child()
    elif _loaded():
        _unpaused = True
        _put_in_force(_decide(_asked))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
workers.watch(look)
