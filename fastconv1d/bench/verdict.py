"""What is said of a whole model: who is right, who is fast, and where the time goes."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

OURS = "fastconv1d"
# From this share of the model's time on, what is no convolution decides how fast the model is.
MUCH = 0.4

Row = Mapping[str, Any]


def aligned(lines: Sequence[Sequence[str]], n_left: int = 1) -> str:
    """Return cells in columns, the first ones left and the others right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < n_left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def correctness(
    errors: Mapping[str, Sequence[float | None]],
    wrong: Collection[str],
    excluded: Mapping[str, str],
) -> str:
    """Return a line a library: its largest difference, or why it is left out."""
    lines = []
    for name, each in errors.items():
        verdict = "WRONG, not timed" if name in wrong else "right"
        finite = [off for off in each if off is not None]
        off = f"largest difference {max(finite, default=0.0):.1e} of the largest value"
        if len(finite) < len(each):
            off = "outputs of another size, or not finite"
        lines.append(f"{name}: {verdict}, {off}")
    lines += [f"{name}: WRONG, not timed: other outputs" for name in wrong if name not in errors]
    lines += [f"{name} is left out: {why}" for name, why in excluded.items()]
    return "\n".join(lines) or "nothing to compare the outputs with: install onnxruntime"


def whole(measured: Mapping[str, Any]) -> str:
    """Return the table of the whole model."""
    seconds = measured["seconds"]
    lines = [["whole model", "ms", "quartiles", "its time / ours"]]
    for name, each in seconds.items():
        low, high = measured["quartiles"][name]
        ratio = f"{each / seconds[OURS]:.2f}" if OURS in seconds else "-"
        lines.append([name, f"{1e3 * each:.3f}", f"{1e3 * low:.3f} to {1e3 * high:.3f}", ratio])
    return aligned(lines)


def together(rows: Sequence[Row], name: str) -> float | None:
    """Return a library's time for all convolutions; None where it lacks one."""
    if any(name not in row["seconds"] for row in rows):
        return None
    return float(sum(row["count"] * row["seconds"][name] for row in rows))


def rest(measured: Mapping[str, Any], name: str) -> float | None:
    """Return what a library's whole model takes beside its convolutions."""
    convolutions = together(measured["layers"], name)
    whole = measured["seconds"].get(name)
    return None if convolutions is None or whole is None else whole - convolutions


def layers(measured: Mapping[str, Any]) -> str:
    """Return the table of the convolutions, what the rest takes, and what follows from it."""
    rows, inside = measured["layers"], measured["inside"]
    left_out = f"{inside} more could not be cut out: in bodies of If or Loop" if inside else ""
    if not rows:
        return "\n".join(filter(None, ["no convolution was cut out", left_out]))
    names = [name for name in measured["versions"] if any(name in row["seconds"] for row in rows)]
    lines = [["convolutions, each by itself (us)", "times", "MFLOP", *names]]
    for row in rows:
        cells = [_micro(row["seconds"].get(name)) for name in names]
        lines.append([row["layer"], str(row["count"]), f"{row['flops'] / 1e6:.1f}", *cells])
    count = str(sum(row["count"] for row in rows))
    flops = f"{sum(row['count'] * row['flops'] for row in rows) / 1e6:.1f}"
    sums = [_micro(together(rows, name)) for name in names]
    lines.append(["together", count, flops, *sums])
    lines.append(["the rest of the model", "", "", *(_micro(rest(measured, n)) for n in names)])
    notes = [left_out, *_excluded(rows), *conclusion(measured)]
    return "\n".join([aligned(lines), *filter(None, notes)])


def _micro(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e6 * seconds:.1f}"


def _excluded(rows: Sequence[Row]) -> list[str]:
    return [
        f"{name} is left out on {row['layer']}: {why}"
        for row in rows
        for name, why in row["excluded"].items()
    ]


def conclusion(measured: Mapping[str, Any]) -> list[str]:
    """Return what the figures say: who is fastest, and what would help."""
    seconds = measured["seconds"]
    mine = {name: each for name, each in seconds.items() if name.startswith(OURS)}
    peers = {name: each for name, each in seconds.items() if name not in mine}
    if not mine or not peers:
        return []
    ours, best = min(mine, key=mine.__getitem__), min(peers, key=peers.__getitem__)
    ratio = peers[best] / mine[ours]
    how = f"{ratio:.2f} times as fast as" if ratio >= 1 else f"{1 / ratio:.2f} times as slow as"
    lines = [f"{ours} is {how} {best}, the fastest other."]
    beside, other = rest(measured, OURS), rest(measured, best)
    if beside is not None and beside > MUCH * mine[OURS]:
        line = f"What is no convolution takes {beside / mine[OURS]:.0%} of the time here"
        line += f", {max(other, 0.0) / peers[best]:.0%} in {best}." if other is not None else "."
        lines.append(line)
        if len(mine) == 1:
            lines.append("--rest times it with ONNX Runtime for the rest as well.")
    if any(_is_negative(rest(measured, name)) for name in seconds):
        lines.append(
            "A rest below zero: the library computes several layers at once, or keeps its arrays "
            "in another order between them, which a layer by itself has to pay for."
        )
    return lines


def _is_negative(value: float | None) -> bool:
    return value is not None and value < 0
