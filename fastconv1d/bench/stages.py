"""``bench --report``: the stages of a report, each a ``bench`` command in a process of its own."""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..core.files import check_writable, what_special
from .environment import cores, same_package

SWEPT, SWEPT_QUICKLY = 120, 6  # layers of a report's sweep, half as many of their gradients


def thread_counts() -> list[int]:
    """Return 1, 2, 4, ... up to the cores that this process may use."""
    return [1 << power for power in range(len(cores()).bit_length())]


def stages(args: argparse.Namespace, peers: Sequence[str]) -> dict[str, list[str]]:
    """Return the arguments of ``bench`` for each stage."""
    common = ["--peers", ",".join(peers)] if args.peers is not None else []
    if args.dtype != "float32":
        common += ["--dtype", args.dtype]
    if args.isa:
        common += ["--isa", args.isa]
    if args.algorithm != "auto":
        common += ["--algorithm", args.algorithm]
    if args.quick:
        common += ["--quick"]
    layers = [] if args.layers == "*" else ["--layers", args.layers]
    count = SWEPT_QUICKLY if args.quick else SWEPT
    threads = {
        f"threads_{n}": ["--subject", "threads", "--threads", str(n), *common]
        for n in thread_counts()
    }
    return {
        "forward": [*layers, *common],
        "backward": ["--backward", *layers, *common],
        "sweep": ["--sweep", "0", "--count", str(count), *common],
        "sweep_backward": ["--backward", "--sweep", "1", "--count", str(count // 2), *common],
        "length": ["--subject", "length", *common],
        "kernel": ["--subject", "kernel", *common],
        **threads,
        "costs": ["--subject", "costs", *common],
    }


def _run_stage(arguments: Iterable[str], target: Path) -> dict[str, Any]:
    """Run one command of ``bench``; its figures, and what went wrong where it wrote none."""
    command = ["-m", "fastconv1d", "bench", *arguments]
    shown = shlex.join(["python", *command])
    print(f"\n$ {shown}", flush=True)
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command, "--json", str(target)], env=same_package(), check=False
    )
    stage = {"command": shown, "seconds": time.perf_counter() - started, "status": done.returncode}
    if target.exists():
        stage |= json.loads(target.read_text(encoding="utf-8"))
    return stage


def run_report(args: argparse.Namespace, peers: Sequence[str]) -> int:
    """Measure every stage unless told to read them, and write the report's files."""
    from .document import write_report

    folder = Path(args.report)
    data = folder / "report.json"
    if args.from_json and (not data.exists() or what_special(data)):
        return _refused(f"--from-json needs {data}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("report.json", "report.md"):
            check_writable(folder / name)
    except OSError as error:
        return _refused(f"--report {folder} cannot be written: {error.strerror}")
    if not args.from_json:
        measured = measure_stages(args, peers)
        data.write_text(json.dumps(measured) + "\n", encoding="utf-8")
    try:
        report = json.loads(data.read_text(encoding="utf-8"))
        write_report(report, folder)
        failed = [name for name, stage in report["stages"].items() if stage["status"]]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if not args.from_json:
            raise
        return _refused(f"{data} is not a report of this version: {type(error).__name__}: {error}")
    print(f"\nwrote {folder / 'report.md'}" + (f"; failed: {failed}" if failed else ""))
    return 1 if failed else 0


def _refused(problem: str) -> int:
    print(f"fastconv1d bench: {' '.join(problem.split())[:300]}", file=sys.stderr)
    return 2


def measure_stages(args: argparse.Namespace, peers: Sequence[str]) -> dict[str, Any]:
    """Run the stages one after the other."""
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in stages(args, peers).items():
            measured[name] = _run_stage(arguments, Path(folder) / f"{name}.json")
    return {"seconds": sum(each["seconds"] for each in measured.values()), "stages": measured}
