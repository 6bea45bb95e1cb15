"""Tables and summaries of measured rows."""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

HEADER = (
    "layer",
    "MFLOP",
    "us",
    "GFLOP/s",
    "of gemm",
    "of peak",
    "torch us",
    "vs torch",
    "best peer",
    "its us",
    "vs best",
)
LEFT = (HEADER.index("layer"), HEADER.index("best peer"))


def geomean(values: Collection[float]) -> float:
    """Return the geometric mean of positive numbers."""
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def ratio_to(row: Mapping[str, Any], peer: str | None) -> float | None:
    """Return how many times faster fastconv1d is than a peer on a row; None if unknown."""
    seconds = row["seconds"]
    if "fastconv1d" not in seconds or peer not in seconds:
        return None
    return seconds[peer] / seconds["fastconv1d"]


def best_peer(row: Mapping[str, Any]) -> str | None:
    """Return the name of the fastest other contestant of a row; None without one."""
    peers = {name: s for name, s in row["seconds"].items() if name != "fastconv1d"}
    return min(peers, key=lambda name: peers[name]) if peers else None


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    seconds = row["seconds"]
    ours, torch, best = seconds.get("fastconv1d"), seconds.get("torch"), best_peer(row)
    rate = None if ours is None else row["flops"] / ours / 1e9

    def share(gauge: str) -> float | None:
        limit = row["gauges"].get(gauge)
        return None if rate is None or not limit else rate / limit

    def micro(value: float | None) -> float | None:
        return None if value is None else 1e6 * value

    return (
        row["layer"],
        _number(row["flops"] / 1e6, ".1f"),
        _number(micro(ours), ".1f"),
        _number(rate, ".1f"),
        _number(share("gemm"), ".0%"),
        _number(share("peak"), ".0%"),
        _number(micro(torch), ".1f"),
        _number(ratio_to(row, "torch"), ".2f"),
        best or "-",
        _number(micro(seconds.get(best)), ".1f"),
        _number(ratio_to(row, best), ".2f"),
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as aligned text, names left and figures right."""
    lines = [HEADER, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def aligned(cells: Sequence[str]) -> str:
        pairs = enumerate(zip(cells, widths, strict=True))
        return "  ".join(c.ljust(w) if i in LEFT else c.rjust(w) for i, (c, w) in pairs).rstrip()

    return "\n".join(map(aligned, lines))


def _ratio_line(title: str, ratios: Mapping[str, float]) -> str:
    """Return geomean and minimum of named ratios, and the names of those below 1."""
    if not ratios:
        return f"{title}: nothing to compare with"
    worst = min(ratios, key=lambda name: ratios[name])
    line = f"{title}: geomean {geomean(ratios.values()):.3f}, min {ratios[worst]:.3f} ({worst})"
    below = [f"{name} {value:.3f}" for name, value in ratios.items() if value < 1.0]
    return line + f", below 1.0: {len(below)}" + (f" ({', '.join(below)})" if below else "")


def ratios(rows: Sequence[Mapping[str, Any]], peer: str | None = None) -> dict[str, float]:
    """Return the ratio of each layer to a peer, or to each layer's best peer."""
    named = {row["layer"]: ratio_to(row, peer or best_peer(row)) for row in rows}
    return {name: value for name, value in named.items() if value is not None}


def rates(rows: Sequence[Mapping[str, Any]], gauge: str) -> list[float]:
    """Return the readings of a gauge over the rows."""
    return [row["gauges"][gauge] for row in rows if gauge in row["gauges"]]


def _exclusions(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each contestant and reason it was left out of layers."""
    layers: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, why in row["excluded"].items():
            layers.setdefault((name, why), []).append(row["layer"])
    return [
        f"excluded {name} on {', '.join(where)}: {why}" for (name, why), where in layers.items()
    ]


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the closing lines: the machine's rates, ratios, and who was left out where."""
    lines = []
    for gauge, title in (("gemm", "SciPy's BLAS gemm"), ("peak", "an FMA loop")):
        readings = rates(rows, gauge)
        if readings:
            low, high, middle = min(readings), max(readings), statistics.median(readings)
            lines.append(f"{title} in this run: {middle:.1f} GFLOP/s ({low:.1f} to {high:.1f})")
    lines.append(_ratio_line("to torch", ratios(rows, "torch")))
    lines.append(_ratio_line("to the best peer of each layer", ratios(rows)))
    return "\n".join(lines + _exclusions(rows))
