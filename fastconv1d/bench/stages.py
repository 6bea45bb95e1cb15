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

from .environment import cores


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
    threads = {
        f"threads_{n}": ["--subject", "threads", "--threads", str(n), *common]
        for n in thread_counts()
    }
    return {
        "forward": [*layers, *common],
        "backward": ["--backward", *layers, *common],
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
    done = subprocess.run([sys.executable, *command, "--json", str(target)], check=False)
    stage = {"command": shown, "seconds": time.perf_counter() - started, "status": done.returncode}
    if target.exists():
        stage |= json.loads(target.read_text(encoding="utf-8"))
    return stage


def run_report(args: argparse.Namespace, peers: Sequence[str]) -> int:
    """Measure every stage unless told to read them, and write the report's files."""
    from .document import write_report

    folder = Path(args.report)
    data = folder / "report.json"
    if args.from_json and not data.exists():
        print(f"fastconv1d bench: --from-json needs {data}", file=sys.stderr)
        return 2
    if not args.from_json:
        folder.mkdir(parents=True, exist_ok=True)
        report = measure_stages(args, peers)
        data.write_text(json.dumps(report) + "\n", encoding="utf-8")
    report = json.loads(data.read_text(encoding="utf-8"))
    write_report(report, folder)
    failed = [name for name, stage in report["stages"].items() if stage["status"]]
    print(f"\nwrote {folder / 'report.md'}" + (f"; failed: {failed}" if failed else ""))
    return 1 if failed else 0


def measure_stages(args: argparse.Namespace, peers: Sequence[str]) -> dict[str, Any]:
    """Run the stages one after the other."""
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in stages(args, peers).items():
            measured[name] = _run_stage(arguments, Path(folder) / f"{name}.json")
    return {"seconds": sum(each["seconds"] for each in measured.values()), "stages": measured}
