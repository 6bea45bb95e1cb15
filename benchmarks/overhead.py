"""The small numbers: call overhead, import time, new lengths, two threads, memory.

Prints one line a requirement: its name, the figure and the limit.  Run from anywhere with the
package installed; torch and onnxruntime join the call overhead when they are importable.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial

import numpy as np

import fastconv1d
from fastconv1d.bench import contestants
from fastconv1d.bench.environment import pin_to_one_core
from fastconv1d.bench.layers import load_layers, make_problem, select_layers
from fastconv1d.bench.timing import interleave, sample

IMPORT_SCRIPT = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"

MEMORY_SCRIPT = """
import numpy as np, fastconv1d
def field(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))
layer = fastconv1d.Conv1d(1, 16, 31, rng=np.random.default_rng(0))
with fastconv1d.num_threads(1):
    layer(np.ones((1, 1, 40), np.float32))  # the BLAS maps its own buffers now
    x = np.ones((1, 1, 10_000_000), np.float32)
    out = np.ones((1, 16, 10_000_000 - 30), np.float32)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = field("VmRSS")
    fastconv1d.conv1d(x, layer.weight, layer.bias, out=out)
    print((field("VmHWM") - before) / 1024)
"""

GROWTH_SCRIPT = """
import numpy as np, fastconv1d
def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
rng = np.random.default_rng(0)
layer = fastconv1d.Conv1d(32, 32, 5, rng=rng)
x = np.ones((1, 32, 8000), np.float32)
for length in (8000, *rng.integers(5, 8000, 50)):
    layer(x[:, :, :length])
before = resident()
for length in rng.integers(5, 8000, 2000):
    layer(x[:, :, :length])
print((resident() - before) / 1024)
"""


def child_figure(script):
    """Run a script in a fresh interpreter and return the number it prints."""
    command = [sys.executable, "-c", script]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def report(name, figure, limit=""):
    """Print one requirement's line."""
    print(f"{name:<58} {figure:<28} {limit}", flush=True)


def call_overhead():
    """Time one call from Python of the two smallest layers on one core, against the peers."""
    pin_to_one_core()
    fastconv1d.set_num_threads(1)
    args = argparse.Namespace(threads=1, algorithm="auto", backward=False, isa=None)
    limits = {"tiny": "<= 10 us, goal 1.5 us", "stream_small": "faster than every peer"}
    with ExitStack() as stack:
        fields, _ = contestants.build(args, contestants.PEER_NAMES, stack)
        for layer in select_layers(load_layers(), ",".join(limits)):
            problem = make_problem(layer, np.float32)
            calls = {each.name: each.prepare(problem, False) for each in fields}
            for name, seconds in interleave(calls)[0].items():
                limit = limits[layer.name] if name == "fastconv1d" else ""
                report(f"call of {layer.name}, {name}", f"{1e6 * seconds:.2f} us", limit)


def import_ratio(n_rounds=11):
    """Compare import fastconv1d with import scipy.linalg.cython_blas, in fresh interpreters."""
    names = ("fastconv1d", "scipy.linalg.cython_blas")
    times = {name: [] for name in names}
    for _ in range(n_rounds + 1):
        for name in names:
            times[name].append(child_figure(IMPORT_SCRIPT.format(name)))
    ours, theirs = (statistics.median(times[name][1:]) for name in names)
    figure = f"{ours / theirs:.3f} ({1e3 * ours:.0f} / {1e3 * theirs:.0f} ms)"
    report("import fastconv1d / import scipy.linalg.cython_blas", figure, "<= 1.3")


def new_length_ratio(n_lengths=200, usual=2500):
    """Compare calls at lengths never seen before with calls at one length, time a column.

    The two alternate, each on a fresh copy of its input, so that caches treat them alike.
    """
    rng = np.random.default_rng(0)
    layer = fastconv1d.Conv1d(64, 64, 3, rng=rng)
    values = rng.standard_normal((1, 64, 4000), dtype=np.float32)
    layer(values[:, :, :usual])
    ratios = []
    for length in rng.permutation(np.arange(1000, 4000))[:n_lengths]:
        new, repeated = (
            sample(partial(layer, values[:, :, :columns].copy()), 1) / columns
            for columns in (length, usual)
        )
        ratios.append(new / repeated)
    report(
        "a call at a new length / at a repeated one", f"{statistics.median(ratios):.3f}", "<= 1.15"
    )


def two_threads():
    """Compare two threads with one on every layer, interleaved."""
    gains = {}
    for layer in load_layers():
        problem = make_problem(layer, np.float32)
        call = contestants.Fastconv1d().prepare(problem, False)

        def run(n_threads, call=call):
            with fastconv1d.num_threads(n_threads):
                call()

        seconds, _ = interleave({"one": lambda run=run: run(1), "two": lambda run=run: run(2)})
        gains[layer.name] = seconds["one"] / seconds["two"], layer.flops(np.float32)
    large = [gain for gain, flops in gains.values() if flops > 50e6]
    report("two threads / one, median above 50 MFLOP", f"{statistics.median(large):.3f}", ">= 1.7")
    slower = [f"{name} {gain:.2f}" for name, (gain, _) in gains.items() if gain < 1.0]
    report("layers slower with two threads", f"{len(slower)} {' '.join(slower)}", "0")


def memory():
    """Read peak memory on a long input and growth over many lengths, in fresh interpreters."""
    name = "peak MB beyond the output, L = 1e7, C_out = 16, K = 31"
    report(name, f"{child_figure(MEMORY_SCRIPT):.1f} MB", "< 16 MB")
    name = "RSS growth over 2,000 random lengths"
    report(name, f"{child_figure(GROWTH_SCRIPT):.2f} MB", "< 5 MB")


def main():
    """Print every figure; two-thread figures need at least two cores."""
    started = time.perf_counter()
    import_ratio()
    if os.path.exists("/proc/self/clear_refs"):
        memory()
    new_length_ratio()
    if (os.cpu_count() or 1) > 1:
        two_threads()
    call_overhead()  # last: it loads the peers and their thread pools
    print(f"done in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
