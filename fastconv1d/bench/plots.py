"""The report's plots, each a function of measured figures and a path of an SVG file."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from .costs import new_length_spread, start_spread
from .report import best_peer, rates, ratio_to
from .timing import Spread

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "fastconv1d",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}
WIDTH = 5.2  # inches: 500 pixels; a phone has 358, on which 9 points are still 8 pixels
# told apart by those who do not see all colours, too (Okabe and Ito)
COLOURS = {
    "fastconv1d": "#000000",
    "torch": "#d55e00",
    "onnxruntime": "#0072b2",
    "openvino": "#009e73",
    "jax": "#cc79a7",
    "scipy": "#e69f00",
}
# What a dark page has in place of colours, after any property.
DARK = {
    "#000000": "#e6e6e6",
    "#333333": "#b8b8b8",
    "#999999": "#8a8f98",
    "#dddddd": "#34383f",
    "#e4e4e4": "#2b2f36",
    "#0072b2": "#4aa8e0",
}
MARKERS = {
    "fastconv1d": "o",
    "torch": "s",
    "onnxruntime": "^",
    "openvino": "D",
    "jax": "v",
    "scipy": "P",
}
Rows = Sequence[Mapping[str, Any]]


def libraries(rows: Rows) -> list[str]:
    """Return the libraries that some row has a time of, in the order of COLOURS."""
    return [name for name in COLOURS if any(name in row["seconds"] for row in rows)]


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="svg", metadata={"Date": None}, transparent=True)
    lines = path.read_text(encoding="utf-8").replace("<defs>", f"{_dark()}<defs>", 1).splitlines()
    path.write_text("\n".join(map(str.rstrip, lines)) + "\n", encoding="utf-8")


def _dark() -> str:
    """Return the rules that change colours where the page around an image is dark."""
    text = f"svg {{ fill: {DARK['#000000']} }}"  # letters are black because they say nothing
    rules = [
        f'[style*="{name}: {light}"] {{ {name}: {dark} !important }}'
        for light, dark in DARK.items()
        for name in ("fill", "stroke")
    ]
    inside = "\n".join([text, *rules])
    return f"<style>@media (prefers-color-scheme: dark) {{\n{inside}\n}}</style>\n "


def _plain(value: float, _: object = None) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _seconds(value: float, _: object = None) -> str:
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if value >= size * 0.999:
            return f"{value / size:g} {unit}"
    return f"{value * 1e6:g} µs"


def _power(value: float, _: object = None) -> str:
    return f"$10^{{{math.log10(value):.0f}}}$"


def _log(axis: Any, form: Callable[..., str], ticks: Sequence[float] | None = None) -> None:
    """Make an axis logarithmic with labels at these ticks, or at 1, 2 and 5 of each decade."""
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
    axis.set_major_locator(FixedLocator(ticks) if ticks else LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(form))


def _whiskers(row: Mapping[str, Any], name: str) -> tuple[float, float]:
    """Return how far below and above the median the quartiles of a library's time lie."""
    low, high = row["quartiles"][name]
    return row["seconds"][name] - low, high - row["seconds"][name]


def _ratio_quartiles(row: Mapping[str, Any], name: str) -> tuple[float, float]:
    """Return how far around the ratio to a peer it is when both times lie on quartiles."""
    (low, high), (our_low, our_high) = row["quartiles"][name], row["quartiles"]["fastconv1d"]
    ratio = row["seconds"][name] / row["seconds"]["fastconv1d"]
    return ratio - low / our_high, high / our_low - ratio


def ratios(rows: Rows, path: Path) -> None:
    """Draw how many times as long as fastconv1d each peer takes, a group of bars a layer."""
    peers = libraries(rows)[1:]
    size = 0.8 / max(len(peers), 1)
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH, 1.2 + 0.066 * len(rows) * (len(peers) + 1)), layout="constrained")
        axes = figure.subplots()
        for index, peer in enumerate(peers):
            found = [(y, row) for y, row in enumerate(rows) if ratio_to(row, peer)]
            values = [row["seconds"][peer] / row["seconds"]["fastconv1d"] for _, row in found]
            errors = zip(*(_ratio_quartiles(row, peer) for _, row in found), strict=True)
            axes.barh(
                [y + (index - (len(peers) - 1) / 2) * size for y, _ in found],
                [value - 1 for value in values],
                size,
                left=1,
                xerr=list(errors) or None,
                color=COLOURS[peer],
                label=peer,
                error_kw={"elinewidth": 0.6, "ecolor": "#333333"},
            )
        _log(axes.xaxis, _plain)
        axes.axvline(1, color="black", linewidth=1.2)
        axes.set_yticks(range(len(rows)), [row["layer"] for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="x", labeltop=True)
        axes.set_xlabel("time of the peer / time of fastconv1d\nright of 1 fastconv1d is faster")
        _legend(figure, axes)
        _save(figure, path)


def sweep(rows: Rows, lost: float, path: Path) -> None:
    """Draw the ratio of each layer to its best peer over its work, and name those below `lost`."""
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH, 5.0), layout="constrained")
        axes = figure.subplots()
        for name in libraries(rows)[1:]:
            pairs = [(row["flops"], ratio_to(row, name)) for row in rows if best_peer(row) == name]
            found = [(flops / 1e6, ratio) for flops, ratio in pairs if ratio]
            axes.plot(
                [flops for flops, _ in found],
                [ratio for _, ratio in found],
                MARKERS[name],
                color=COLOURS[name],
                markersize=4,
                linestyle="none",
                label=f"{name} is the fastest other",
            )
        axes.axhline(1, color="black", linewidth=1.2)
        for row in rows:
            ratio = ratio_to(row, best_peer(row))
            if ratio is not None and ratio < lost:
                place = (row["flops"] / 1e6, ratio)
                axes.annotate(row["layer"], place, (4, -3), textcoords="offset points", fontsize=7)
        _log(axes.xaxis, _plain, [10.0**n for n in range(-3, 6)])
        _log(axes.yaxis, _plain)
        axes.set_xlabel("work of a call, MFLOP")
        axes.set_ylabel("time of the fastest other / time of fastconv1d")
        _legend(figure, axes)
        _save(figure, path)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 4))


def roofline(rows: Rows, bandwidth: float, path: Path) -> None:
    """Draw each layer's rate over its arithmetic intensity, under the machine's two roofs."""
    points = [(row["flops"] / row["bytes"], row) for row in rows if "fastconv1d" in row["seconds"]]
    points.sort(key=lambda point: point[0])
    peak = sorted(rates(rows, "peak"))[len(rates(rows, "peak")) // 2]
    low, high = min(x for x, _ in points) / 1.5, max(x for x, _ in points) * 1.5
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH, 6.0), layout="constrained")
        axes = figure.subplots()
        ridge = peak / bandwidth
        roof = [min(low, ridge), ridge, max(high, ridge)]
        axes.plot(roof, [min(peak, x * bandwidth) for x in roof], color="black", linewidth=1.5)
        for name in libraries(rows):
            ours = name == "fastconv1d"
            found = [(x, row) for x, row in points if name in row["seconds"]]
            axes.plot(
                [x for x, _ in found],
                [row["flops"] / row["seconds"][name] / 1e9 for _, row in found],
                MARKERS[name],
                color=COLOURS[name],
                fillstyle="full" if ours else "none",
                markersize=5.5 if ours else 3.5,
                markeredgewidth=0.8,
                zorder=3 if ours else 2,
                label=name,
            )
        _log(axes.xaxis, _plain)
        _log(axes.yaxis, _plain, [10.0**n for n in range(-3, 5)])
        axes.set_xlim(low, high)
        axes.set_ylim(top=peak * 1.15)
        _name_from_above(axes, [(x, row["layer"]) for x, row in points])
        axes.set_xlabel("operations for each byte of input, weight and output")
        axes.set_ylabel("GFLOP/s")
        axes.legend(loc="lower center", title=f"roofs: {peak:.1f} GFLOP/s, {bandwidth:.1f} GB/s")
        _save(figure, path)


def _name_from_above(axes: Axes, points: Sequence[tuple[float, str]]) -> None:
    """Write the names of points evenly above the axes, each with a line down to its place in x."""
    for index, (x, name) in enumerate(points):
        place = (index + 0.5) / len(points)
        axes.annotate(
            name,
            xy=(x, 1.0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(place, 1.06),
            textcoords="axes fraction",
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=7.5,
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.5, "shrinkB": 0},
            annotation_clip=False,
        )
        axes.axvline(x, color="#e4e4e4", linewidth=0.5, zorder=0)


def _lines(axes: Axes, rows: Rows, size: str) -> None:
    """Draw the time of every library over one of the layer's sizes."""
    for name in libraries(rows):
        found = [row for row in rows if name in row["seconds"]]
        axes.errorbar(
            [row["sizes"][size] for row in found],
            [row["seconds"][name] for row in found],
            yerr=list(zip(*(_whiskers(row, name) for row in found), strict=True)),
            color=COLOURS[name],
            marker=MARKERS[name],
            markersize=3.5,
            linewidth=1.2,
            label=name,
        )
    _log(axes.yaxis, _seconds)


def lengths(rows: Rows, path: Path) -> None:
    """Draw the time of a call over the length of its input, and the peers' over ours."""
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH, 6.6), layout="constrained")
        times, relative = figure.subplots(2, 1, sharex=True)
        _lines(times, rows, "l_in")
        times.set_ylabel("time of a call")
        for name in libraries(rows):
            found = [row for row in rows if ratio_to(row, name)]
            relative.plot(
                [row["sizes"]["l_in"] for row in found],
                [ratio_to(row, name) for row in found],
                color=COLOURS[name],
                marker=MARKERS[name],
                markersize=3.5,
                linewidth=1.2,
            )
        relative.set_ylabel("time / time of fastconv1d")
        _log(relative.yaxis, _plain)
        for axes in (times, relative):
            _log(axes.xaxis, _power, [10**n for n in range(3, 8)])
        relative.set_xlabel("length of the input")
        _legend(figure, times)
        _save(figure, path)


def kernel_sizes(rows: Rows, path: Path) -> None:
    """Draw the time of a call over the kernel size, dense and depthwise."""
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH, 6.6), layout="constrained")
        panels = figure.subplots(2, 1)
        for axes, title in zip(panels, ("dense", "depthwise"), strict=True):
            found = [row for row in rows if row["layer"].startswith(f"{title}_")]
            _lines(axes, found, "kernel_size")
            _log(axes.xaxis, _plain, sorted({row["sizes"]["kernel_size"] for row in found}))
            axes.set_ylabel("time of a call")
            axes.set_title(title, fontsize=10)
        panels[1].set_xlabel("kernel size")
        _legend(figure, panels[0])
        _save(figure, path)


def threads(counts: Mapping[int, Rows], path: Path) -> None:
    """Draw the time of a call over the number of threads, a panel a layer."""
    names = [row["layer"] for row in next(iter(counts.values()))]
    n_rows = -(-len(names) // 2)
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH, 0.6 + 2.1 * n_rows), layout="constrained")
        panels = figure.subplots(n_rows, 2, squeeze=False).flat
        for name, axes in zip(names, panels, strict=False):
            found = [
                {**row, "sizes": {"threads": n}}
                for n, rows in counts.items()
                for row in rows
                if row["layer"] == name
            ]
            _lines(axes, found, "threads")
            _log(axes.xaxis, _plain, list(counts))
            axes.set_xlim(min(counts) / 1.15, max(counts) * 1.15)
            axes.set_title(name, fontsize=9)
        for axes in list(panels):
            axes.axis("off")
        figure.supxlabel("threads", fontsize=9)
        figure.supylabel("time of a call", fontsize=9)
        _legend(figure, figure.axes[0])
        _save(figure, path)


def memory(costs: Mapping[str, Any], path: Path) -> None:
    """Draw the resident memory that calls at random lengths add."""
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH, 3.6), layout="constrained")
        axes = figure.subplots()
        for name, cost in costs.items():
            growth = cost["memory_growth"]
            if growth.get("calls"):
                axes.plot(
                    growth["calls"],
                    growth["megabytes"],
                    color=COLOURS[name],
                    marker=MARKERS[name],
                    markersize=3.5,
                    linewidth=1.2,
                    label=name,
                )
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("calls, each at a length of its own")
        axes.set_ylabel("resident MB added")
        _legend(figure, axes)
        _save(figure, path)


def costs(found: Mapping[str, Any], rows: Rows, path: Path) -> None:
    """Draw what comes before and around the work, a panel a cost, a bar a library."""
    tiny = [row for row in rows if row["layer"] == "tiny"]

    def overhead(name: str) -> Spread | None:
        if not tiny or name not in tiny[0]["seconds"]:
            return None
        low, high = tiny[0]["quartiles"][name]
        return Spread(tiny[0]["seconds"][name], low, high, tiny[0]["rounds"][name])

    panels: dict[str, Callable[[str], Spread | None]] = {
        "import": lambda name: start_spread(found[name], "import_seconds"),
        "first module\nand its first call": lambda name: start_spread(found[name], "first_seconds"),
        "another module\nand its first call": lambda name: start_spread(
            found[name], "further_seconds"
        ),
        "a call of the\nlayer `tiny`": overhead,
        "a new length /\na repeated one": lambda name: new_length_spread(found[name]),
    }
    with matplotlib.rc_context({**STYLE, "font.size": 8}):
        figure = Figure((WIDTH, 4.6), layout="constrained")
        places = figure.subplots(2, 3, sharey=True)
        for axes, (title, measure) in zip(places.flat, panels.items(), strict=False):
            form = _times if "length" in title else _seconds
            _dots(axes, {name: measure(name) for name in found}, form)
            axes.set_title(title, fontsize=8)
        for axes in places.flat[len(panels) :]:
            axes.axis("off")
        _save(figure, path)


def _times(value: float, _: object = None) -> str:
    return f"{value:.3g} x"


def _dots(axes: Axes, spreads: Mapping[str, Spread | None], form: Callable[..., str]) -> None:
    """Draw a dot a library with its quartiles, its value written above."""
    for index, (name, spread) in enumerate(spreads.items()):
        if spread is None:
            continue
        middle = spread.median
        errors = [[middle - spread.low], [spread.high - middle]]
        axes.errorbar(middle, index, xerr=errors, color=COLOURS[name], marker=MARKERS[name])
        text = form(float(f"{middle:.2g}"))
        axes.annotate(text, (middle, index), (0, 5), textcoords="offset points", ha="center")
    axes.set_yticks(range(len(spreads)), list(spreads))
    axes.set_ylim(len(spreads) - 0.5, -0.8)
    axes.margins(x=0.3)
    _log(axes.xaxis, form, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0])
    axes.tick_params(axis="x", labelbottom=False)
