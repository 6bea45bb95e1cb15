"""``python -m fastconv1d bench``: the benchmark layers, interleaved against other libraries.

The command runs itself again in a child process whose threads, core and instruction set are fixed
before any numerical library is loaded; the child does the measuring.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..core.extras import how_to_install
from ..core.files import check_writable
from ..kernels.direct_engine import supported_isas
from .contestants import PEER_NAMES
from .drawn import random_layers, told
from .environment import child_environment, describe_machine, is_child, pin_to_one_core
from .layers import Layer, read_layers
from .sweeps import subject_layers

FREE = (1, False, "layers", None, None)  # of --threads, --backward, --subject, --json, --sweep


def run_bench(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """Run the benchmark.

    Parameters
    ----------
    args : argparse.Namespace
        model, input, shape, rest, threads, layers, backward, dtype, json, isa, algorithm, peers,
        subject, sweep, count, quick, report, from_json.
    argv : list of str
        The command line they came from, to hand to the child process.

    Returns
    -------
    int
        The exit status: 0, 1 when fastconv1d gave a wrong result, 2 for bad arguments.
    """
    peers = list(PEER_NAMES) if args.peers is None else args.peers.split(",")
    peers = list(dict.fromkeys(name.strip() for name in peers if name.strip()))
    if args.model:
        return _run_model(args, argv, peers)
    try:
        layers = _layers(args)
    except (OSError, ValueError) as error:
        return _refused(f"--layers {args.layers}: {getattr(error, 'strerror', None) or error}")
    problem = _problem(args, layers, peers)
    if problem:
        return _refused(problem)
    if is_child():
        if args.subject == "costs":
            return _measure_costs(args, peers)
        return _measure(args, layers, peers)
    if args.report:
        from .stages import run_report

        return run_report(args, peers)
    return _in_a_child(args, argv)


def _refused(problem: str) -> int:
    print(f"fastconv1d bench: {problem}", file=sys.stderr)
    return 2


def _in_a_child(args: argparse.Namespace, argv: Sequence[str]) -> int:
    if args.threads == 1:
        pin_to_one_core()
    command = [sys.executable, "-m", "fastconv1d", *argv]
    return subprocess.call(command, env=child_environment(args.threads, args.isa))


def _run_model(args: argparse.Namespace, argv: Sequence[str], peers: Sequence[str]) -> int:
    """Measure somebody's model; onnx is needed for that."""
    if is_child():
        from . import models

        return models.run(args, peers)
    problem = _problem_of_model(args) or _problem_of_options(args, peers)
    if problem:
        return _refused(problem)
    return _in_a_child(args, argv)


def _problem_of_model(args: argparse.Namespace) -> str | None:
    """Return what is wrong with the files of a model, if anything."""
    suffixes = [Path(path).suffix for path in args.model]
    if len(set(suffixes)) != len(suffixes) or len(suffixes) > 2:
        return f"one MODEL.onnx and one MODEL.pt2 at most, got {' '.join(args.model)}"
    if any(suffix not in (".onnx", ".pt2") for suffix in suffixes):
        return (
            f"{' '.join(args.model)}: a model should be a file .onnx, or .pt2 as torch.export.save "
            "writes it"
        )
    absent = [path for path in args.model if not Path(path).is_file()]
    if absent:
        return f"there is no file {absent[0]}"
    given = (args.backward, args.subject, args.layers, args.sweep, args.report, args.dtype)
    if given != (False, "layers", "*", None, None, "float32") or args.algorithm != "auto":
        return (
            "--backward, --subject, --layers, --sweep, --report, --dtype and --algorithm go "
            "without MODEL"
        )
    if find_spec("onnx") is None:
        return f"MODEL needs onnx: {how_to_install('onnx')}"
    if args.rest and find_spec("onnxruntime") is None:
        return f"--rest needs onnxruntime: {how_to_install('onnxruntime')}"
    return None


def _layers(args: argparse.Namespace) -> list[Layer]:
    if args.subject == "costs":
        return []
    if args.sweep is not None:
        return random_layers(args.sweep, args.count)
    if args.layers.endswith(".csv"):
        return read_layers(args.layers)
    return subject_layers(args.subject, args.layers, args.quick)


def _problem(args: argparse.Namespace, layers: Sequence[Layer], peers: Sequence[str]) -> str | None:
    """Return what is wrong with the arguments, if anything."""
    if args.input or args.shape or args.rest:
        return "--input, --shape and --rest need MODEL"
    if args.sweep is not None and (args.subject, args.layers) != ("layers", "*"):
        return "--sweep draws its own layers: --subject and --layers go without it"
    if not layers and args.subject != "costs":
        return f"no layer matches {args.layers!r}"
    chosen = (args.threads, args.backward, args.subject, args.json, args.sweep)
    if args.report and chosen != FREE:
        return "--report chooses --threads, --backward, --subject, --json and --sweep itself"
    if args.report and find_spec("matplotlib") is None:
        return f"--report needs matplotlib: {how_to_install('matplotlib')}"
    if args.from_json and not args.report:
        return "--from-json needs --report"
    return _problem_of_options(args, peers)


def _problem_of_options(args: argparse.Namespace, peers: Sequence[str]) -> str | None:
    unknown = sorted(set(peers) - set(PEER_NAMES))
    if unknown:
        return f"unknown peers {unknown}"
    if args.isa and args.isa not in supported_isas():
        return f"--isa {args.isa}: this CPU has {', '.join(supported_isas())}"
    if args.json:
        try:
            check_writable(Path(args.json))
        except OSError as error:
            return f"--json {args.json} cannot be written: {error.strerror}"
    return None


def _progress(layers: Sequence[Layer]) -> Iterable[Layer]:
    try:
        from tqdm import tqdm
    except ImportError:
        return layers
    return tqdm(layers, unit="layer", leave=False, disable=None)


def _measure(args: argparse.Namespace, layers: Sequence[Layer], peers: Sequence[str]) -> int:
    from ..config import config_info
    from . import contestants, report
    from .measure import load_meter, machine_gauges, measure_layer, stream_rate

    isa = config_info()["isa"]
    with ExitStack() as stack:
        fields, notes = contestants.build(args, peers, stack)
        about = describe_machine(args.threads, isa, [each.version for each in fields])
        about += [f"timed    {args.dtype} {'gradients' if args.backward else 'forward'}", *notes]
        print("\n".join(about), end="\n\n", flush=True)
        measured: dict[str, Any] = {"about": about, "isa": isa, "stream": [stream_rate()]}
        measured["versions"] = {each.name: each.version for each in fields}
        gauges, meter = machine_gauges(args.dtype), load_meter()
        rows = [measure_layer(layer, fields, gauges, args, meter) for layer in _progress(layers)]
        measured |= {"stream": [*measured["stream"], stream_rate()], "rows": rows}
    warning = meter.warning()
    measured["busy"] = meter.n_slow / max(meter.n_readings, 1)
    try:
        _write(args.json, measured)
    finally:
        print(report.table(rows), report.summary(rows), sep="\n\n")
        if args.sweep is not None:
            print(f"\n{told(rows)}")
        if warning:
            print(warning)
    return 1 if any("fastconv1d" in row["excluded"] for row in rows) else 0


def _measure_costs(args: argparse.Namespace, peers: Sequence[str]) -> int:
    from ..config import config_info
    from . import costs

    peers = [name for name in peers if name != "scipy"]  # which has none of the layers
    measured = costs.measure(["fastconv1d", *filter(find_spec, peers)], args.quick)
    versions = {name: each["version"] for name, each in measured.items()}
    about = describe_machine(args.threads, config_info()["isa"], versions.values())
    about += [f"left out  {name}: not installed" for name in peers if find_spec(name) is None]
    try:
        _write(args.json, {"about": about, "versions": versions, "costs": measured})
    finally:
        print("\n".join(about), costs.table(measured), sep="\n\n")
    return 0


def _write(path: str | None, measured: Any) -> None:
    if path:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(measured, file, indent=1)
