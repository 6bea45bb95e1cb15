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

from .contestants import PEER_NAMES
from .environment import child_environment, describe_machine, is_child, pin_to_one_core
from .layers import Layer, load_layers, select_layers


def run_bench(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """Run the benchmark.

    Parameters
    ----------
    args : argparse.Namespace
        threads, layers, backward, dtype, json, isa, algorithm, peers.
    argv : list of str
        The command line they came from, to hand to the child process.

    Returns
    -------
    int
        The exit status: 0, 1 when fastconv1d gave a wrong result, 2 for bad arguments.
    """
    layers = select_layers(load_layers(), args.layers)
    peers = list(PEER_NAMES) if args.peers is None else args.peers.split(",")
    unknown = sorted(set(peers) - {*PEER_NAMES, ""})
    if not layers or unknown:
        problem = f"unknown peers {unknown}" if layers else f"no layer matches {args.layers!r}"
        print(f"fastconv1d bench: {problem}", file=sys.stderr)
        return 2
    if is_child():
        return _measure(args, layers, [name for name in peers if name])
    if args.threads == 1:
        pin_to_one_core()
    command = [sys.executable, "-m", "fastconv1d", *argv]
    return subprocess.call(command, env=child_environment(args.threads, args.isa))


def _progress(layers: Sequence[Layer]) -> Iterable[Layer]:
    try:
        from tqdm import tqdm
    except ImportError:
        return layers
    return tqdm(layers, unit="layer", leave=False, disable=None)


def _measure(args: argparse.Namespace, layers: Sequence[Layer], peers: Sequence[str]) -> int:
    from ..config import config_info
    from . import contestants, report
    from .measure import machine_gauges, measure_layer

    isa = config_info()["isa"]
    with ExitStack() as stack:
        fields, notes = contestants.build(args, peers, stack)
        about = describe_machine(args.threads, isa, [each.version for each in fields])
        about += [f"timed    {args.dtype} {'gradients' if args.backward else 'forward'}", *notes]
        print("\n".join(about), end="\n\n", flush=True)
        gauges = machine_gauges(args.dtype)
        rows = [measure_layer(layer, fields, gauges, args) for layer in _progress(layers)]
    print(report.table(rows), report.summary(rows), sep="\n\n")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"about": about, "rows": rows}, file, indent=1)
    return 1 if any("fastconv1d" in row["excluded"] for row in rows) else 0
