"""Write the README's benchmark table from ``python -m fastconv1d bench --json FILE``.

Usage: ``python benchmarks/readme_table.py FILE``, from anywhere with the package installed.
"""

import json
import re
import sys
from pathlib import Path

from fastconv1d.bench.report import ratio_to, ratios, summary

README = Path(__file__).resolve().parent.parent / "README.md"
PEERS = ("torch", "onnxruntime", "openvino")
BEGIN, END = "<!-- benchmark -->", "<!-- end of benchmark -->"


def line(cells):
    """Return one line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def markdown(about, rows):
    """Return the text between the markers: where it was measured, ratios, and their summary."""
    cells = [["layer", *(f"vs {peer}" for peer in PEERS)], ["---", *["---:"] * len(PEERS)]]
    for row in rows:
        found = (ratio_to(row, peer) for peer in PEERS)
        cells.append([row["layer"], *("-" if r is None else f"{r:.2f}" for r in found)])
    closing = [text for text in summary(rows).splitlines() if not text.startswith("excluded")]
    assert ratios(rows), "no peer was measured"
    return "\n".join(
        [
            "How many times faster than each peer, in one run:",
            "",
            *map(line, cells),
            "",
            "```",
            *about,
            *closing,
            "```",
        ]
    )


def main():
    """Replace what stands between the markers."""
    measured = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    text = f"{BEGIN}\n{markdown(measured['about'], measured['rows'])}\n{END}"
    readme = README.read_text(encoding="utf-8")
    new, n_found = re.subn(f"{BEGIN}.*?{END}", lambda _: text, readme, flags=re.DOTALL)
    if n_found != 1:
        raise SystemExit(f"{README} needs one {BEGIN} ... {END}")
    README.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
