"""Time trained ONNX models here and in ONNX Runtime, in turns, on one thread.

    python tests/models.py                # download the models
    taskset -c 0 python benchmarks/onnx_models.py [--rest] [--json FILE] [PART OF A NAME ...]

Prints the lower quartile of each, and ONNX Runtime's time by ours; --rest adds the same with
``rest="onnxruntime"``.  Texts are 50 characters, audio is a second or the model's own window.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from models import folder, found, inputs_of  # noqa: E402

import fastconv1d  # noqa: E402
from fastconv1d.onnx import InferenceSession  # noqa: E402

BATCH = 50  # windows of a text, one for each character


def contestants(path, rest):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    theirs = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    ours = {"ours": InferenceSession(str(path))}
    if rest:
        ours["rest"] = InferenceSession(str(path), rest="onnxruntime")
    return {**ours, "onnxruntime": theirs}


def lower_quartiles(sessions, values, seconds):
    """Return seconds a call of each session, all of them in turns."""
    names = None
    times = {name: [] for name in sessions}
    for session in sessions.values():  # twice: shapes are learned, buffers made
        session.run(names, values)
        session.run(names, values)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["ours"]) < 5:
        for name, session in sessions.items():
            begin = time.perf_counter()
            session.run(names, values)
            times[name].append(time.perf_counter() - begin)
    return {name: float(np.percentile(t, 25)) for name, t in times.items()}


def geomean(numbers):
    return math.exp(sum(map(math.log, numbers)) / len(numbers))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", help="models whose names hold one of these; all")
    parser.add_argument("--rest", action="store_true", help="with rest='onnxruntime' too")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each model")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    models = {
        name: path
        for name, path in found().items()
        if not given.parts or any(part in name for part in given.parts)
    }
    if not models:
        sys.exit(f"no models in {folder()}: python tests/models.py")
    fastconv1d.set_num_threads(1)
    columns = ["ours", "rest"] if given.rest else ["ours"]
    print(f"{'ms':38} {'onnxruntime':>11} {'ours':>8} {'ratio':>6}", end="")
    print(f" {'rest':>8} {'ratio':>6}" if given.rest else "")
    table = {}
    for name, path in models.items():
        sessions = contestants(path, given.rest)
        values = inputs_of(name, sessions["onnxruntime"], given.batch)
        times = lower_quartiles(sessions, values, given.seconds)
        table[name] = times
        cells = "".join(
            f" {times[c] * 1e3:8.3f} {times['onnxruntime'] / times[c]:6.2f}" for c in columns
        )
        print(f"{name:38} {times['onnxruntime'] * 1e3:11.3f}{cells}", flush=True)
    means = [geomean([t["onnxruntime"] / t[c] for t in table.values()]) for c in columns]
    print(f"{'geomean':50}" + "".join(f" {'':8} {mean:6.2f}" for mean in means))
    if given.json:
        given.json.write_text(json.dumps(table, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
