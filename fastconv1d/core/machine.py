"""What a measurement or a bug report was made on: the processor, its caches, and which build."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

_CACHES = "/sys/devices/system/cpu/cpu0/cache"


def cpu_model() -> str:
    """Return the processor's name.

    Examples
    --------
    >>> from fastconv1d.core.machine import cpu_model
    >>> bool(cpu_model())
    True
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "unknown"


def caches(folder: str = _CACHES) -> str:
    """Return the caches of the first CPU, such as 'L1d 32K, L1i 32K, L2 1024K, L3 32M'."""
    found = []
    try:
        for cache in sorted(Path(folder).glob("index*")):
            level, kind, size = (
                (cache / name).read_text(encoding="utf-8").strip()
                for name in ("level", "type", "size")
            )
            found.append(f"L{level}{ {'Data': 'd', 'Instruction': 'i'}.get(kind, '') } {size}")
    except OSError:
        pass
    return ", ".join(found) or "not exposed"


def build(package: Path = Path(__file__).parents[1]) -> str:
    """Return which build of the package this is: a wheel's tag, or a checkout's commit.

    Parameters
    ----------
    package : Path
        The folder of the package.

    Returns
    -------
    str
        Such as 'wheel cp311-cp311-manylinux_2_28_x86_64' or 'commit 1a2b3c4-dirty'.
    """
    if (package.parent / ".git").exists():
        return _commit(package.parent) or "a checkout of an unknown commit"
    return _wheel(package) or "unknown"


def _commit(checkout: Path) -> str | None:
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return f"commit {done.stdout.strip()}"


def _wheel(package: Path) -> str | None:
    try:
        installed = metadata.distribution(package.name)
    except metadata.PackageNotFoundError:
        return None
    if Path(str(installed.locate_file(package.name))).resolve() != package.resolve():
        return None  # another installation than the one in use
    lines = (installed.read_text("WHEEL") or "").splitlines()
    tags = [line.partition(":")[2].strip() for line in lines if line.startswith("Tag:")]
    return f"wheel {', '.join(tags)}" if tags else None
