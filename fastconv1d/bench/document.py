"""The report: what ``bench --report`` measured, as plots and as one page in two formats."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import plots
from .costs import new_length_spread, start_spread
from .drawn import LOST, Cluster, clusters, described, layer_of
from .pages import Block, Code, Heading, Picture, Table, Text, html, markdown
from .plots import libraries
from .report import geomean, ratio_to, ratios, summary
from .timing import Spread

Stage = Mapping[str, Any]
SWEEPS = {"sweep": "Random layers", "sweep_backward": "Gradients of random layers"}
METHOD = (
    "Every library computes the same layers with the same weights in one process on one core, "
    "checked against a slow reference in float64 before it is timed. The libraries take turns: a "
    "round calls each once, or for 2 ms where a call is shorter, and figures are medians over the "
    "rounds with quartiles in brackets. Weights, graphs and the conversion of inputs are prepared "
    "beforehand; a call is what a user of that library runs for each new input, and fastconv1d "
    "returns a new array each time (`out=` would save the memory's first touch). Ratios are the "
    "peer's time divided by fastconv1d's: above 1 fastconv1d is faster. Machines that share their "
    "cores swing, so compare ratios, never times from two runs."
)


def write_report(report: Mapping[str, Any], folder: Path) -> None:
    """Write report.md, report.html and the plots of what was measured."""
    blocks: list[Block] = [Heading("Benchmark report", 1)]
    stages = report["stages"]
    blocks += [Text(METHOD), *_machine(report), *_forward(stages["forward"], folder)]
    blocks += _roofline(stages["forward"], folder)
    blocks += _backward(stages["backward"])
    for name in SWEEPS:
        if name in stages:
            blocks += _sweep(name, stages[name], folder)
    blocks += _length(stages["length"], folder)
    blocks += _kernel(stages["kernel"], folder)
    blocks += _threads(stages, folder)
    blocks += _costs(stages["costs"], stages["forward"], folder)
    (folder / "report.md").write_text(markdown(blocks), encoding="utf-8")
    (folder / "report.html").write_text(html(blocks), encoding="utf-8")


def _picture(name: str, shows: str, folder: Path, draw: Any, *figures: Any) -> Picture:
    draw(*figures, folder / name)
    return Picture(name, shows)


def _section(title: str, stage: Stage) -> list[Block]:
    """Return a section's heading, its command, and what went wrong if something did."""
    blocks: list[Block] = [Heading(title), Code(stage["command"])]
    if stage["status"]:
        blocks.append(Text(f"**The command ended with status {stage['status']}.**"))
    return blocks


def _machine(report: Mapping[str, Any]) -> list[Block]:
    minutes = sum(stage["seconds"] for stage in report["stages"].values()) / 60
    about = report["stages"]["forward"].get("about", ["nothing was measured"])
    return [
        Code("\n".join(about)),
        Text(
            f"`python -m fastconv1d bench --report DIR` made all of it in {minutes:.0f} minutes, "
            "by the commands that stand under each title. The file report.json beside this page "
            "holds every figure; with `--from-json` the pages are made from it again."
        ),
    ]


# ---- figures as text -----------------------------------------------------------------------------


def _number(value: float) -> str:
    """Return three significant digits without an exponent."""
    if value == 0:
        return "0"
    digits = max(0, 2 - _exponent(value))
    return f"{value:.{digits}f}"


def _exponent(value: float) -> int:
    return int(f"{abs(value):e}".partition("e")[2])


def _times(row: Mapping[str, Any], name: str) -> str:
    """Return a time in microseconds with its quartiles."""
    if name not in row["seconds"]:
        return "-"
    low, high = (_number(1e6 * each) for each in row["quartiles"][name])
    return f"{_number(1e6 * row['seconds'][name])} ({low} to {high})"


def _ratio(row: Mapping[str, Any], name: str) -> str:
    ratio = ratio_to(row, name)
    return "-" if ratio is None else f"{ratio:.2f}"


def _spread(spread: Spread | None, scale: float) -> str:
    if spread is None:
        return "-"
    low, high = _number(scale * spread.low), _number(scale * spread.high)
    return f"{_number(scale * spread.median)} ({low} to {high})"


def _times_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the microseconds of every library on every row."""
    names = libraries(rows)
    lines = [[row["layer"], *(_times(row, name) for name in names)] for row in rows]
    return Table(["microseconds", *names], lines)


def _ratios_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return what fastconv1d reaches on every row and the ratio of every peer."""
    peers = libraries(rows)[1:]
    header = ["layer", "MFLOP", "GFLOP/s", "of peak", *(f"vs {peer}" for peer in peers)]
    return Table(header, [_ratios_line(row, peers) for row in rows])


def _ratios_line(row: Mapping[str, Any], peers: Sequence[str]) -> list[str]:
    ours, peak = row["seconds"].get("fastconv1d"), row["gauges"].get("peak")
    rate = row["flops"] / ours / 1e9 if ours else None
    cells = [
        row["layer"],
        _number(row["flops"] / 1e6),
        _number(rate) if rate else "-",
        f"{rate / peak:.0%}" if rate and peak else "-",
    ]
    return cells + [_ratio(row, peer) for peer in peers]


def _geomeans(rows: Sequence[Mapping[str, Any]]) -> Text:
    parts = []
    for peer in [*libraries(rows)[1:], None]:
        values = ratios(rows, peer)
        if values:
            title = peer or "the best of them on each layer"
            parts.append(f"{title} {geomean(values.values()):.2f}")
    text = "; ".join(parts) or "no peer was timed"
    return Text(f"Geometric means of the ratios: {text}.")


def _losses(rows: Sequence[Mapping[str, Any]]) -> Text:
    """Name every layer that some peer computes faster, and those peers."""
    slower = []
    for row in rows:
        pairs = [(peer, ratio_to(row, peer)) for peer in libraries([row])[1:]]
        faster = [f"{peer} {ratio:.2f}" for peer, ratio in pairs if ratio and ratio < 1]
        if faster:
            slower.append(f"{row['layer']} ({', '.join(faster)})")
    if not slower:
        return Text("No peer is faster on any of them.")
    return Text(f"A peer is faster on {len(slower)} of {len(rows)}: {', '.join(slower)}.")


# ---- the sections --------------------------------------------------------------------------------


def _forward(stage: Stage, folder: Path) -> list[Block]:
    rows = stage.get("rows", [])
    blocks = _section("Layers", stage)
    if not rows:
        return blocks
    shows = "Time of each peer divided by that of fastconv1d, for every layer"
    return [
        *blocks,
        _picture("ratios.svg", shows, folder, plots.ratios, rows),
        Text("Bars are ratios of medians, whiskers the ratios of their quartiles."),
        _geomeans(rows),
        _losses(rows),
        _ratios_table(rows),
        _times_table(rows),
        Code(summary(rows)),
        *_layers(rows),
    ]


def _layers(rows: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Return what the layers are."""
    text = (
        "N items, channels in and out, K taps, s stride, d dilation, g groups, p padding, L length."
    )
    layers = [layer_of(row) for row in rows]
    lines = [[layer.name, layer.network, described(layer)] for layer in layers]
    return [Heading("Sizes", 3), Text(text), Table(["layer", "network", "sizes"], lines)]


def _roofline(stage: Stage, folder: Path) -> list[Block]:
    rows = stage.get("rows", [])
    if not any("peak" in row["gauges"] and "fastconv1d" in row["seconds"] for row in rows):
        return []
    bandwidth = max(stage["stream"])
    shows = "Rate of each layer over its operations for each byte, under the machine's roofs"
    text = (
        "The same run under two roofs of the core, both measured in it: an FMA loop in registers, "
        f"and memory at {bandwidth:.1f} GB/s (a scaled copy of 64 MiB, read and written). An "
        "operation's bytes are its input, weight, bias and output, once each; layers that fit into "
        "the caches lie above the slanted roof, because their arrays stay there between calls."
    )
    picture = _picture("roofline.svg", shows, folder, plots.roofline, rows, bandwidth)
    return [Heading("Roofline"), Text(text), picture]


def _backward(stage: Stage) -> list[Block]:
    rows = stage.get("rows", [])
    text = (
        "The gradients of input, weight and bias in one call, against torch's. ONNX Runtime and "
        "OpenVINO have none for inference; JAX's are left out because a call took it 0.5 s on "
        "conformer_dw31 and more than a minute on mamba_dw4."
    )
    blocks: list[Block] = [*_section("Gradients", stage), Text(text)]
    if not rows:
        return blocks
    blocks += [_geomeans(rows), _losses(rows), _ratios_table(rows), _times_table(rows)]
    return [*blocks, Code(summary(rows))]


def _sweep(name: str, stage: Stage, folder: Path) -> list[Block]:
    rows = stage.get("rows", [])
    blocks = _section(SWEEPS[name], stage)
    if not any(ratios(rows).values()):
        return blocks
    found = clusters(rows)
    n_lost = sum(len(each.losers) for each in found)
    text = (
        "Layers as networks have them, drawn at random: channels, kernel, stride, dilation, "
        f"groups, batch and length. One is lost below {LOST} of the fastest other's speed: "
        f"{n_lost} of {sum(each.count for each in found)} here. The classes go by the shape, "
        "whether a layer is lost or not."
    )
    shows = "Time of the fastest other divided by that of fastconv1d, over the work of each layer"
    return [
        *blocks,
        Text(text),
        _picture(f"{name}.svg", shows, folder, plots.sweep, rows, LOST),
        _geomeans(rows),
        _clusters_table(found),
        *_losers_table(found),
        *_excluded(rows),
    ]


def _clusters_table(found: Sequence[Cluster]) -> Table:
    lines = [
        [each.cause, str(each.count), str(len(each.losers)), f"{each.geomean:.2f}"]
        for each in found
    ]
    return Table(["class", "layers", "lost", "geomean to the best peer"], lines)


def _losers_table(found: Sequence[Cluster]) -> list[Block]:
    lines = [
        [row["layer"], described(layer_of(row)), each.cause, peer, f"{ratio:.2f}"]
        for each in found
        for ratio, peer, row in each.losers
    ]
    header = ["lost layer", "sizes", "class", "to", "ratio"]
    return [Table(header, lines)] if lines else []


def _length(stage: Stage, folder: Path) -> list[Block]:
    rows = stage.get("rows", [])
    blocks = _section("Time against length", stage)
    if not rows:
        return blocks
    sizes = rows[0]["sizes"]
    text = f"{sizes['c_in']} to {sizes['c_out']} channels, {sizes['kernel_size']} taps."
    shows = "Time of a call over the length of its input"
    picture = _picture("length.svg", shows, folder, plots.lengths, rows)
    return [*blocks, Text(text), picture, _times_table(rows), *_excluded(rows)]


def _kernel(stage: Stage, folder: Path) -> list[Block]:
    rows = stage.get("rows", [])
    blocks = _section("Time against kernel size", stage)
    if not rows:
        return blocks
    sizes = {row["layer"].partition("_")[0]: row["sizes"] for row in rows}
    parts = [f"{name}: {s['c_in']} channels, {s['l_in']} columns" for name, s in sizes.items()]
    shows = "Time of a call over the kernel size"
    picture = _picture("kernel.svg", shows, folder, plots.kernel_sizes, rows)
    return [*blocks, Text("; ".join(parts) + "."), picture, _times_table(rows), *_excluded(rows)]


def _threads(stages: Mapping[str, Stage], folder: Path) -> list[Block]:
    found = {
        int(name.partition("_")[2]): stage
        for name, stage in stages.items()
        if name.startswith("threads_")
    }
    blocks: list[Block] = [Heading("Time against threads")]
    blocks.append(Code("\n".join(stage["command"] for stage in found.values())))
    counts = {n: stage["rows"] for n, stage in found.items() if "rows" in stage}
    if not counts:
        return blocks
    text = (
        "Threads are fixed before a library is loaded, so each number of them is a process of its "
        "own: ratios within a column are from one run, times across columns from two."
    )
    shows = "Time of a call over the number of threads"
    picture = _picture("threads.svg", shows, folder, plots.threads, counts)
    tables: list[Block] = []
    for n, rows in counts.items():
        tables += [Text(f"{n} {'thread' if n == 1 else 'threads'}:"), _times_table(rows)]
    return [*blocks, Text(text), picture, *tables]


def _excluded(rows: Sequence[Mapping[str, Any]]) -> list[Block]:
    lines = [line for line in summary(rows).splitlines() if line.startswith("excluded")]
    return [Code("\n".join(lines))] if lines else []


def _costs(stage: Stage, forward: Stage, folder: Path) -> list[Block]:
    costs = stage.get("costs", {})
    blocks = _section("What a library costs beside the work", stage)
    if not costs:
        return blocks
    text = (
        "Each figure is from fresh interpreters that load one library, in turns. The import "
        "includes NumPy's. The first module is hifi_pre, created and called once in a process that "
        "has computed nothing before; the other is ecapa_g after it. A session of ONNX Runtime or "
        "OpenVINO is created from a model in memory; JAX compiles. The call is the layer `tiny` of "
        "the run above, from Python."
    )
    shows = "Import, first call, another module, call overhead and new lengths"
    return [
        *blocks,
        Text(text),
        _picture("costs.svg", shows, folder, plots.costs, costs, forward.get("rows", [])),
        _starts_table(costs, forward.get("rows", [])),
        *_errors(costs),
        *_new_lengths(costs),
        *_memory(costs, folder),
        *_sizes(costs),
    ]


def _errors(costs: Mapping[str, Any]) -> list[Block]:
    lines = [
        f"{name}, {task}: {why}"
        for name, cost in costs.items()
        for task, why in cost["errors"].items()
    ]
    return [Code("\n".join(lines))] if lines else []


def _starts_table(costs: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Table:
    tiny = next((row for row in rows if row["layer"] == "tiny"), None)
    figures = ("import_seconds", "first_seconds", "first_repeated_seconds", "further_seconds")
    header = ["library", "import ms", "first call ms", "repeated ms", "another ms", "tiny call µs"]
    lines = []
    for name, cost in costs.items():
        cells = [_spread(start_spread(cost, figure), 1e3) for figure in figures]
        lines.append([name, *cells, _times(tiny, name) if tiny else "-"])
    return Table(header, lines)


def _new_lengths(costs: Mapping[str, Any]) -> list[Block]:
    text = (
        "A layer of 64 channels and 3 taps is called at lengths of 1,000 to 4,000 that it has not "
        "seen, and in turn at one it has: time of a column at the former divided by the latter."
    )
    lines = [[name, _spread(new_length_spread(cost), 1.0)] for name, cost in costs.items()]
    return [Heading("New lengths", 3), Text(text), Table(["library", "new / repeated"], lines)]


def _memory(costs: Mapping[str, Any], folder: Path) -> list[Block]:
    lines = []
    for name, cost in costs.items():
        growth = cost["memory_growth"]
        if growth.get("calls"):
            lines.append([name, f"{growth['calls'][-1]:,.0f}", f"{growth['megabytes'][-1]:.1f}"])
    if not lines:
        return []
    text = (
        "Resident memory that calls of the same layer at random lengths of 100 to 5,000 add after "
        "50 of them and one of the longest, what the allocator keeps free given back. A library "
        "that has not made 2,000 calls after 20 s is stopped there."
    )
    shows = "Resident memory over the number of calls"
    picture = _picture("memory.svg", shows, folder, plots.memory, costs)
    header = ["library", "calls", "MB added"]
    return [Heading("Memory over random lengths", 3), Text(text), picture, Table(header, lines)]


def _sizes(costs: Mapping[str, Any]) -> list[Block]:
    text = (
        "Files of the installed distribution, and of those with every distribution it requires "
        "(its metadata's requirements without extras, theirs in turn). Of fastconv1d the modules, "
        "compiled kernels and data of the folder that ran."
    )
    lines = []
    for name, cost in costs.items():
        sizes = cost["megabytes"]
        lines.append([name, f"{sizes['own']:.1f}", f"{sizes['with_requirements']:.1f}"])
    header = ["library", "its own MB", "with requirements MB"]
    return [Heading("Installed size", 3), Text(text), Table(header, lines)]
