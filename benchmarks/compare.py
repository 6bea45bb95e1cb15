"""Name the layers that one benchmark run computes slower, or faster, than another beyond noise.

    python -m fastconv1d bench --json before.json
    python -m fastconv1d bench --json after.json
    python benchmarks/compare.py before.json after.json

The reports of ``bench --report`` do as well.  The exit status is 1 when a layer is slower, 2 when
the files cannot be compared.

The machine may be twice as fast in one run as in the other, so a layer's change is relative to
references timed in turns with it: log(after / before) of fastconv1d's median, less the median of
the same of every peer whose version did not change.  With fewer than two such peers the rate of
BLAS's gemm joins them, and then that of the FMA loop if the instruction set is the same.

The noise bound is K times the root of the sum of three squares: the standard errors of the two
medians of fastconv1d, from their quartiles and rounds, and the spread of a control.  The control is
the change, computed in the same way, of each reference relative to the others: what is found for
code that did not change.  Its spread is the larger of that on the layer and that on all layers, by
the median of absolute values.
"""

import argparse
import json
import math
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

OURS = "fastconv1d"
GAUGES = ("gemm", "peak")
# 4 deviations: of 150 simulated pairs of runs of 35 unchanged layers (made_up_run in
# tests/test_bench_compare.py, machines up to twice as fast, heavy tails), 2.7 % had a layer flagged
# as slower with four peers in common, 0 to 2 % with one, 0 to 5 % with none.
K = 4.0
NORMAL_MAD = 1.4826  # standard deviation / median absolute deviation of a normal distribution
NORMAL_IQR = 1.349
MEDIAN_ERROR = 1.2533  # standard error of a median / that of a mean


@dataclass(frozen=True)
class Change:
    """A layer's change relative to the references, as logarithms of time."""

    layer: str
    change: float
    bound: float
    seconds: tuple[float, float]


class NotComparableError(Exception):
    """The two files do not hold the same benchmark."""


def load_rows(path):
    """Return {layer: row} of a file of bench --json or --report, versions and ISA in each row."""
    rows = {}
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        stages = {f"{name}/": s for name, s in data.get("stages", {}).items()} or {"": data}
        for prefix, stage in stages.items():
            for row in stage.get("rows", []):
                context = {"versions": stage.get("versions"), "isa": stage.get("isa")}
                rows[prefix + row["layer"]] = {**row, **context}
    except (OSError, ValueError) as error:
        raise NotComparableError(f"{path} cannot be read: {error}") from error
    except (AttributeError, LookupError, TypeError) as error:
        raise NotComparableError(f"{path} was not written by bench: {error!r}") from error
    if not rows or not all("quartiles" in row and row["versions"] for row in rows.values()):
        raise NotComparableError(
            f"{path} has no quartiles: write it with this version's bench --json"
        )
    return rows


def references(before, after):
    """Return the names of what a layer's times are relative to."""
    names = [
        name
        for name in before["seconds"]
        if name != OURS
        and name in after["seconds"]
        and before["versions"][name] == after["versions"][name]
    ]
    for gauge in GAUGES:
        known = gauge in before["gauges"] and gauge in after["gauges"]
        if len(names) < 2 and known and (gauge != "peak" or before["isa"] == after["isa"]):
            names.append(gauge)
    return names


def log_change(before, after, name):
    """Return the logarithm of the time after / before; of a gauge, of the time it stands for."""
    if name in GAUGES:
        return math.log(before["gauges"][name] / after["gauges"][name])
    return math.log(after["seconds"][name] / before["seconds"][name])


def median_error(row):
    """Return the relative standard error of the median of fastconv1d's times."""
    low, high = row["quartiles"][OURS]
    deviation = (high - low) / NORMAL_IQR / row["seconds"][OURS]
    return MEDIAN_ERROR * deviation / math.sqrt(row["rounds"][OURS])


def robust_deviation(values):
    """Return the standard deviation of values around 0, from the median of absolute values."""
    return NORMAL_MAD * statistics.median(map(abs, values)) if values else 0.0


def controls(changes):
    """Return each reference's change relative to the others; none from a single one."""
    if len(changes) < 2:
        return []
    return [
        value - statistics.median(changes[:index] + changes[index + 1 :])
        for index, value in enumerate(changes)
    ]


def compare(before, after):
    """Return the Change of every layer that both runs have a time of."""
    both = [name for name in before if name in after]
    for name in both:
        if before[name]["flops"] != after[name]["flops"]:
            raise NotComparableError(f"{name} is not the same layer in both files")
    both = [n for n in both if OURS in before[n]["seconds"] and OURS in after[n]["seconds"]]
    moved = {
        name: [
            log_change(before[name], after[name], r) for r in references(before[name], after[name])
        ]
        for name in both
    }
    if not both or not all(moved.values()):
        raise NotComparableError(
            "the files have no layer, or no reference of the same version, in common"
        )
    apart = {name: controls(changes) for name, changes in moved.items()}
    overall = robust_deviation([value for values in apart.values() for value in values])
    if not any(apart.values()):  # a single reference: how its own changes vary over the layers
        middle = statistics.median(changes[0] for changes in moved.values())
        overall = robust_deviation([changes[0] - middle for changes in moved.values()])
    found = []
    for name in both:
        pair = before[name], after[name]
        noise = max(overall, robust_deviation(apart[name]))
        bound = K * math.hypot(noise, *map(median_error, pair))
        change = log_change(*pair, OURS) - statistics.median(moved[name])
        found.append(Change(name, change, bound, tuple(row["seconds"][OURS] for row in pair)))
    return found


def percent(logarithm):
    return f"{100 * math.expm1(logarithm):+.1f} %"


def describe(changes):
    """Return lines that name the layers beyond their bounds, the largest changes first."""
    lines = []
    for title, sign in (("slower", 1), ("faster", -1)):
        beyond = [each for each in changes if sign * each.change > each.bound]
        for each in sorted(beyond, key=lambda each: -abs(each.change)):
            times = " -> ".join(f"{1e6 * value:.1f} us" for value in each.seconds)
            limit = percent(sign * each.bound)
            lines.append(
                f"{title}  {each.layer:24s} {percent(each.change):>9s}  (bound {limit})  {times}"
            )
    middle = percent(statistics.median(each.bound for each in changes)).lstrip("+")
    lines.append(
        f"{len(changes)} layers compared, {len(lines)} beyond noise; median bound {middle}"
    )
    return lines


def main(arguments=None):
    """Compare two files and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before")
    parser.add_argument("after")
    options = parser.parse_args(arguments)
    try:
        before, after = load_rows(options.before), load_rows(options.after)
        changes = compare(before, after)
    except NotComparableError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    print("\n".join(describe(changes)))
    wrong = [name for name, row in after.items() if OURS in row["excluded"]]
    if wrong:
        print(f"not timed, its results were wrong: {', '.join(wrong)}")
    return 1 if wrong or any(each.change > each.bound for each in changes) else 0


if __name__ == "__main__":
    sys.exit(main())
