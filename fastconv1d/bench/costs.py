"""What a library costs beside its calls: import, first call, new lengths, memory, disk.

Every figure comes from a fresh interpreter that loads one library; the libraries take turns.
"""

import argparse
import ctypes
import importlib.metadata
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from . import contestants
from .layers import Layer, Problem, load_layers, make_problem, select_layers
from .sweeps import DENSE
from .timing import Spread, sample, spread

ROUNDS = 7
FIRST_LAYERS = ("hifi_pre", "ecapa_g")  # the first of the process, and one more
N_NEW_LENGTHS = 60
NEW_LENGTHS = range(1000, 4000)
USUAL_LENGTH = 2500
N_CALLS = 2000
CALL_LENGTHS = (100, 5000)
N_WARM = 50
N_CHECKPOINTS = 20
GROWTH_SECONDS = 20.0  # JAX compiles a program for each new length: it is stopped here
SHIPPED = (".py", ".so", ".pyd", ".csv", ".wav", ".typed")  # of an install in place

_CHILD = """
import time
start = time.perf_counter()
import {module}
seconds = time.perf_counter() - start
from fastconv1d.bench import costs
costs.child({module!r}, {task!r}, seconds, {quick!r})
"""


# ---- in a process of its own ---------------------------------------------------------------------


def child(name: str, task: str, import_seconds: float, quick: bool) -> None:
    """Run one task with one library and print its figures as JSON."""
    args = argparse.Namespace(threads=1, algorithm="auto", backward=False, isa=None)
    with ExitStack() as stack:
        library = contestants.make(name, args, stack)
        figures = {**TASKS[task](library, quick), "import_seconds": import_seconds}
    print(json.dumps({**figures, "version": library.version}))


def first_calls(library: contestants.Contestant, quick: bool) -> dict[str, float]:
    """Time creating a module and calling it once, for two layers; and calling the first again."""
    figures = {}
    for title, name in zip(("first", "further"), FIRST_LAYERS, strict=True):
        problem = make_problem(select_layers(load_layers(), name)[0], np.float32)
        if library.name in ("onnxruntime", "openvino"):
            contestants.onnx_model(problem)  # a user has a file: load what writes one
        start = time.perf_counter()
        call = library.prepare(problem, False)
        call()
        figures[f"{title}_seconds"] = time.perf_counter() - start
        figures[f"{title}_repeated_seconds"] = min(sample(call, 1) for _ in range(20))
    return figures


def new_lengths(library: contestants.Contestant, quick: bool) -> dict[str, list[float]]:
    """Compare calls at lengths never seen before with calls at one length, time a column.

    The two alternate, each on a fresh copy of its input, so that caches treat them alike.
    """
    problem = _problem(NEW_LENGTHS.stop)
    call = library.any_length(problem)
    lengths = random.Random(0).sample(NEW_LENGTHS, 5 if quick else N_NEW_LENGTHS)

    def column_seconds(length: int) -> float:
        x = problem.x[:, :, :length].copy()
        return sample(lambda: call(x), 1) / length

    for _ in range(3):
        column_seconds(USUAL_LENGTH)
    pairs = [(column_seconds(length), column_seconds(USUAL_LENGTH)) for length in lengths]
    new, repeated = map(list, zip(*pairs, strict=True))
    return {"new": new, "repeated": repeated}


def memory_growth(library: contestants.Contestant, quick: bool) -> dict[str, list[float]]:
    """Read the resident MB that calls at random lengths add after the first ones."""
    if not Path("/proc/self/statm").exists():
        return {"calls": [], "megabytes": []}
    low, high = CALL_LENGTHS
    problem = _problem(high)
    call = library.any_length(problem)
    n_calls = 40 if quick else N_CALLS
    lengths = random.Random(0).sample(range(low, high), n_calls + N_WARM)
    for length in (high, *lengths[:N_WARM]):
        call(problem.x[:, :, :length].copy())
    before, end = _resident(), time.perf_counter() + GROWTH_SECONDS
    calls, megabytes = [0.0], [0.0]
    for index, length in enumerate(lengths[N_WARM:], 1):
        call(problem.x[:, :, :length].copy())
        late = time.perf_counter() > end
        if late or index % (n_calls // N_CHECKPOINTS) == 0:
            calls.append(index)
            megabytes.append(_resident() - before)
        if late:
            break
    return {"calls": calls, "megabytes": megabytes}


TASKS: Mapping[str, Callable[[contestants.Contestant, bool], Mapping[str, Any]]] = {
    "first_calls": first_calls,
    "new_lengths": new_lengths,
    "memory_growth": memory_growth,
}


def _problem(length: int) -> Problem:
    sizes = {**asdict(DENSE), "l_in": length, "kernel_size": 3, "padding": 1}
    return make_problem(Layer(**sizes), np.float32)


def _resident() -> float:
    """Return the resident memory in MB, what the allocator keeps free given back before."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


# ---- in the process that asks --------------------------------------------------------------------


def _ask(name: str, task: str, quick: bool) -> dict[str, Any]:
    script = _CHILD.format(module=name, task=task, quick=quick)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"error": lines[-1][:200] if lines else f"exit status {done.returncode}"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _distribution(module: str) -> importlib.metadata.Distribution:
    """Return what installed a module: onnxruntime may be onnxruntime-gpu's."""
    try:
        return importlib.metadata.distribution(module)
    except importlib.metadata.PackageNotFoundError:
        name = importlib.metadata.packages_distributions()[module][0]
        return importlib.metadata.distribution(name)


def _files_size(distribution: importlib.metadata.Distribution) -> int:
    paths = [Path(str(distribution.locate_file(path))) for path in distribution.files or ()]
    return sum(path.stat().st_size for path in paths if path.is_file())


def _folder_size(folder: Path) -> int:
    paths = (path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return sum(path.stat().st_size for path in paths if path.is_file() and path.suffix in SHIPPED)


def requirements(name: str) -> set[str]:
    """Return the installed distributions that a distribution needs, itself included."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    needed: set[str] = set()
    waiting = [name]
    while waiting:
        each = canonicalize_name(waiting.pop())
        try:
            lines = importlib.metadata.requires(each) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        needed.add(each)
        found = [Requirement(line) for line in lines]
        names = [r.name for r in found if not r.marker or r.marker.evaluate({"extra": ""})]
        waiting += [each for each in names if canonicalize_name(each) not in needed]
    return needed


def installed_size(name: str) -> dict[str, float]:
    """Return the MB of a library's files and of those with everything that it requires."""
    from packaging.utils import canonicalize_name

    if name == "fastconv1d":
        own = _folder_size(Path(__file__).resolve().parent.parent)
        others = requirements("numpy") | requirements("scipy") | requirements("threadpoolctl")
    else:
        distribution = _distribution(name)
        own = _files_size(distribution)
        others = requirements(distribution.name) - {canonicalize_name(distribution.name)}
    rest = sum(_files_size(importlib.metadata.distribution(each)) for each in others)
    return {"own": own / 1e6, "with_requirements": (own + rest) / 1e6}


def measure(names: Sequence[str], quick: bool) -> dict[str, dict[str, Any]]:
    """Return every cost of each library."""
    costs: dict[str, dict[str, Any]] = {name: {"starts": [], "errors": {}} for name in names}

    def ask(name: str, task: str) -> dict[str, Any]:
        figures = _ask(name, task, quick)
        if "error" in figures:
            costs[name]["errors"][task] = figures["error"]
        return figures

    for _ in range(1 if quick else ROUNDS):
        for name in names:
            costs[name]["starts"].append(ask(name, "first_calls"))
    for name in names:
        costs[name]["new_lengths"] = ask(name, "new_lengths")
        costs[name]["memory_growth"] = ask(name, "memory_growth")
        costs[name]["megabytes"] = installed_size(name)
        costs[name]["version"] = costs[name]["starts"][0].get("version", name)
    return costs


# ---- what is told of it --------------------------------------------------------------------------


def start_spread(cost: Mapping[str, Any], figure: str) -> Spread | None:
    """Return the spread of a figure over the processes that were started; None without one."""
    found = [start[figure] for start in cost["starts"] if figure in start]
    return spread(found) if found else None


def new_length_spread(cost: Mapping[str, Any]) -> Spread | None:
    """Return how many times a call at a repeated length one at a new length takes."""
    times = cost["new_lengths"]
    pairs = zip(times.get("new", ()), times.get("repeated", ()), strict=True)
    found = [new / repeated for new, repeated in pairs]
    return spread(found) if found else None


def table(costs: Mapping[str, Any]) -> str:
    """Return the medians as aligned text, a line a library."""
    lines = ["library       import ms  first call ms  further ms  new length x  growth MB  disk MB"]
    for name, cost in costs.items():
        milli = [1e3 * spread.median if spread else math.nan for spread in _starts(cost)]
        new = new_length_spread(cost)
        growth = cost["memory_growth"].get("megabytes") or [math.nan]
        cells = f"{milli[0]:12.1f}{milli[1]:15.2f}{milli[2]:12.2f}"
        cells += f"{new.median if new else math.nan:14.2f}{growth[-1]:11.1f}"
        lines.append(f"{name:11s}{cells}{cost['megabytes']['own']:9.1f}")
        lines += [f"  {task}: {why}" for task, why in cost["errors"].items()]
    return "\n".join(lines)


def _starts(cost: Mapping[str, Any]) -> list[Spread | None]:
    figures = ("import_seconds", "first_seconds", "further_seconds")
    return [start_spread(cost, figure) for figure in figures]
