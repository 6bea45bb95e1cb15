"""What must be fixed before a numerical library is loaded, and what a table was measured on."""

import os
import platform
from collections.abc import Iterable
from pathlib import Path

from ..core.machine import cpu_model

CHILD_FLAG = "FASTCONV1D_BENCH_CHILD"

# What holds each library to an instruction set.  torch reads the first three (its own kernels,
# oneDNN, MKL), OpenBLAS the fourth, JAX the last; ONNX Runtime and OpenVINO have no such switch.
_ISA_VARIABLES: dict[str, dict[str, str]] = {
    "base": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "OPENBLAS_CORETYPE": "Nehalem",
        "XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2",
    },
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
    },
    "avx512": {},
}


def is_child() -> bool:
    """Return whether this process is the one that measures."""
    return os.environ.get(CHILD_FLAG) == "1"


def same_package() -> dict[str, str]:
    """Return an environment in which a child imports the package that this process did.

    Not one that lies in the folder where the command was given, where ``python -m`` looks first;
    Python 3.10 cannot be told otherwise.
    """
    inherited = os.environ.get("PYTHONPATH")
    folders = [str(Path(__file__).parents[2]), *([inherited] if inherited else [])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "PYTHONSAFEPATH": "1"}


def child_environment(n_threads: int, isa: str | None) -> dict[str, str]:
    """Return the environment of the measuring process."""
    environment = same_package()
    for name in ("OMP", "MKL", "OPENBLAS", "FASTCONV1D"):
        environment[f"{name}_NUM_THREADS"] = str(n_threads)
    environment.update(NPROC=str(n_threads), JAX_PLATFORMS="cpu")  # what XLA's pools go by
    if isa:
        environment.update(_ISA_VARIABLES[isa], FASTCONV1D_ISA=isa)
    environment[CHILD_FLAG] = "1"
    return environment


def cores() -> list[int]:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pin_to_one_core() -> None:
    """Bind this process and its children to the last core it may use, where the OS can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cores()[-1]})


def _first_line(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, IndexError):
        return None


def describe_machine(n_threads: int, isa: str, versions: Iterable[str]) -> list[str]:
    """Return lines that say on what, with what and under which load a table was measured."""
    governor = _first_line(f"/sys/devices/system/cpu/cpu{cores()[0]}/cpufreq/scaling_governor")
    load = f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"
    allowed = ",".join(map(str, cores()))
    return [
        f"machine  {cpu_model()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        f"run      {n_threads} thread(s) on core(s) {allowed}, ISA {isa}, "
        f"governor {governor or 'not exposed'}, load {load}",
        f"versions Python {platform.python_version()}, " + ", ".join(versions),
    ]
