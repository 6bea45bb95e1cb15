"""Draw the guide's pictures: ``python docs/pictures.py`` writes docs/pictures/*.svg.

No position is typed in here. What an output reads is found by asking the library: an impulse at
each input, a kernel that is one at one tap, and the outputs that are then not zero. The files are
kept in the repository, so that they show wherever the text is read; a test draws them again and
compares the bytes, so they cannot fall behind the code.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from fastconv1d import Conv1d, conv1d, conv_transpose1d
from fastconv1d.geometry import resolve_cropping, resolve_padding

FOLDER = Path(__file__).with_name("pictures")
CELL, GAP, LEFT, STEP = 30, 4, 12, 34  # pixels; STEP = CELL + GAP

KINDS = ("hue0", "hue1", "hue2", "input")

# Three hues take turns over outputs, so that the lines of neighbours can be told apart.
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2937; }
.title { font-weight: 600; } .note { fill: #6b7280; } .number { text-anchor: middle; }
rect { stroke-width: 1.5; }
.input { fill: #e5edfb; stroke: #5b7cc0; }
.pad { fill: none; stroke: #9ca3af; stroke-dasharray: 3 2; }
.hue0 { fill: #fde6c8; stroke: #c2740c; } .hue1 { fill: #d5f0dd; stroke: #2a8a4a; }
.hue2 { fill: #ecdffa; stroke: #8248c0; } line { stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
text { fill: #e5e7eb; } .note { fill: #9ca3af; }
.input { fill: #24324d; stroke: #7f9fe0; } .pad { stroke: #7b828d; }
.hue0 { fill: #4d3312; stroke: #e9a23b; } .hue1 { fill: #173d25; stroke: #5cc483; }
.hue2 { fill: #3a2557; stroke: #b98bee; }
}"""


class Picture:
    """An SVG that grows downwards, a panel after another."""

    def __init__(self, title: str, description: str) -> None:
        self.head = (title, description)
        self.parts: list[str] = []
        self.width = 0
        self.y = 8

    def text(self, x: int, y: int, text: str, kind: str) -> None:
        """Write at the left end of a baseline, or in the middle of it (kind 'number')."""
        self.parts.append(f'<text x="{x}" y="{y}" class="{kind}">{escape(text)}</text>')
        if kind != "number":
            self.width = max(self.width, x + 7 * len(text))

    def heading(self, text: str, note: str = "") -> None:
        """Write a panel's title, and what is to be seen there."""
        self.y += 18
        self.text(LEFT, self.y, text, "title")
        if note:
            self.y += 18
            self.text(LEFT, self.y, note, "note")
        self.y += 10

    def row(
        self, labels: list[str], kinds: list[str], columns: Sequence[float], name: str = ""
    ) -> int:
        """Draw cells in columns, which may be halves, and return the row's y."""
        for label, kind, column in zip(labels, kinds, columns, strict=True):
            x = LEFT + int(column * STEP)
            self.parts.append(
                f'<rect x="{x}" y="{self.y}" width="{CELL}" height="{CELL}" rx="4" class="{kind}"/>'
            )
            self.text(x + CELL // 2, self.y + 20, label, "number")
        end = LEFT + int((columns[-1] + 1) * STEP)
        self.width = max(self.width, end)
        if name:
            self.text(end + 8, self.y + 20, name, "note")
        y = self.y
        self.y += CELL
        return y

    def lines(self, pairs: list[tuple[float, float, int]], top: int, bottom: int) -> None:
        """Join columns of the row at `top` to columns of that at `bottom`: (upper, lower, hue)."""
        for upper, lower, hue in pairs:
            x1, x2 = (LEFT + int(column * STEP) + CELL // 2 for column in (upper, lower))
            self.parts.append(
                f'<line x1="{x1}" y1="{top + CELL}" x2="{x2}" y2="{bottom}" class="{KINDS[hue]}"/>'
            )

    def svg(self) -> str:
        """Return the file's text."""
        width, height = self.width + LEFT, self.y + 12
        title, description = map(escape, self.head)
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                f'viewBox="0 0 {width} {height}" role="img" aria-labelledby="title description">',
                f'<title id="title">{title}</title>',
                f'<desc id="description">{description}</desc>',
                f"<style>{STYLE}</style>",
                *self.parts,
                "</svg>\n",
            ]
        )


# ---- What reads what, by the library ------------------------------------------------------------


def taps(kernel_size: int) -> np.ndarray:
    """Return the kernels that are one at one tap, as (K, 1, 1, K): a weight for each."""
    return np.eye(kernel_size)[:, None, None, :]


def reads(l_in: int, kernel_size: int, **arguments: int) -> list[list[int]]:
    """Return the input position that each tap of each output of `conv1d` reads."""
    impulses = np.eye(l_in)[:, None, :]
    found = [
        conv1d(impulses, tap, **arguments)[:, 0, :].argmax(axis=0) for tap in taps(kernel_size)
    ]
    return np.transpose(found).tolist()


def writes(l_in: int, kernel_size: int, **arguments: int) -> list[list[int]]:
    """Return the output position that each tap of each input of `conv_transpose1d` is added to."""
    impulses = np.eye(l_in)[:, None, :]
    found = [
        conv_transpose1d(impulses, tap, **arguments)[:, 0, :].argmax(axis=1)
        for tap in taps(kernel_size)
    ]
    return np.transpose(found).tolist()


def padded(l_in: int, pads: tuple[int, int], padding_mode: str) -> list[int]:
    """Return what a padded row of 1, 2, ... holds: a kernel of one tap shows it."""
    x = np.arange(1.0, l_in + 1)[None]
    y = conv1d(x, np.ones((1, 1, 1)), padding=pads, padding_mode=padding_mode)
    return y[0].astype(int).tolist()


def channel_pairs(channels: int, groups: int) -> list[tuple[int, int, int]]:
    """Return which input channel each output channel reads, and its group as the hue."""
    impulses = np.eye(channels)[:, :, None]
    weight = np.ones((channels, channels // groups, 1))
    y = conv1d(impulses, weight, groups=groups)[:, :, 0]
    return [(int(i), int(o), int(o) * groups // channels % 3) for i, o in np.argwhere(y)]


# ---- Pictures -----------------------------------------------------------------------------------


def numbers(count: int) -> list[str]:
    """Return the labels 1, 2, ... of a row."""
    return [str(i + 1) for i in range(count)]


def hues(count: int) -> list[str]:
    """Return the kinds of a row of outputs."""
    return [f"hue{i % 3}" for i in range(count)]


def middles(positions: list[list[int]]) -> list[float]:
    """Return the middle of each window."""
    return [sum(row) / len(row) for row in positions]


def windows(picture: Picture, l_in: int, kernel_size: int, **arguments: int) -> None:
    """Draw a row, the outputs under the middles of their windows, and a line for each tap."""
    positions = reads(l_in, kernel_size, **arguments)
    count, columns = len(positions), middles(positions)
    top = picture.row(numbers(l_in), ["input"] * l_in, range(l_in), "input")
    picture.y += 44
    bottom = picture.row(numbers(count), hues(count), columns, "output")
    pairs = [(i, columns[o], o % 3) for o, row in enumerate(positions) for i in row]
    picture.lines(pairs, top, bottom)
    picture.y += 14


def padding_modes() -> Picture:
    """What the added positions hold."""
    picture = Picture(
        "Padding modes", "An input of 1 to 6, padded by three positions on both sides, in each mode"
    )
    for mode in ("zeros", "reflect", "replicate", "circular"):
        picture.heading(f'padding=3, padding_mode="{mode}"')
        kinds = ["pad"] * 3 + ["input"] * 6 + ["pad"] * 3
        picture.row([str(v) for v in padded(6, (3, 3), mode)], kinds, range(12))
        picture.y += 6
    return picture


def padding_strings() -> Picture:
    """Where the strings put positions."""
    picture = Picture(
        "Padding by name", "Where each string puts the padding for a kernel of four taps"
    )
    for padding, stride in (
        ("valid", 1),
        ("same", 1),
        ("causal", 1),
        ("same_upper", 2),
        ("same_lower", 2),
    ):
        left, right = resolve_padding(padding, 4, stride, 1, 7)
        picture.heading(f'padding="{padding}", stride={stride}', f"{left} left, {right} right")
        first = 3 - left  # the inputs of all panels stand below each other
        kinds = ["pad"] * left + ["input"] * 7 + ["pad"] * right
        labels = [str(v) for v in padded(7, (left, right), "zeros")]
        top = picture.row(labels, kinds, range(first, first + len(kinds)), "input")
        positions = reads(len(kinds), 4, stride=stride)
        columns = [3 + o * stride for o in range(len(positions))]
        picture.y += 44
        bottom = picture.row(numbers(len(columns)), hues(len(columns)), columns, "output")
        pairs = [(first + i, columns[o], o % 3) for o, row in enumerate(positions) for i in row]
        picture.lines(pairs, top, bottom)
        picture.y += 14
    return picture


def stride() -> Picture:
    """Windows further apart."""
    picture = Picture("Stride", "Ten inputs and a kernel of three taps, with strides 1, 2 and 3")
    for step in (1, 2, 3):
        picture.heading(f"kernel_size=3, stride={step}")
        windows(picture, 10, 3, stride=step)
    return picture


def dilation() -> Picture:
    """Taps further apart."""
    picture = Picture("Dilation", "Ten inputs and a kernel of three taps, with dilations 1, 2, 4")
    for step in (1, 2, 4):
        picture.heading(f"kernel_size=3, dilation={step}")
        windows(picture, 10, 3, dilation=step)
    return picture


def groups() -> Picture:
    """Which channels read which."""
    picture = Picture("Groups", "Six input and six output channels in one, two, three, six groups")
    for count in (1, 2, 3, 6):
        picture.heading(f"groups={count}", f"weight of shape (6, {6 // count}, K)")
        pairs = channel_pairs(6, count)
        kinds = {o: f"hue{hue}" for _, o, hue in pairs}
        top = picture.row(numbers(6), ["input"] * 6, range(6), "input channels")
        picture.y += 44
        bottom = picture.row(numbers(6), [kinds[o] for o in range(6)], range(6), "output channels")
        picture.lines(pairs, top, bottom)
        picture.y += 14
    return picture


def transposed() -> Picture:
    """What each input is added to, what padding crops and output_padding leaves."""
    picture = Picture(
        "Transposed convolution",
        "Four inputs, a kernel of three taps and stride 2, without padding, with padding, and with "
        "output padding",
    )
    for padding, extra, note in (
        (0, 0, "each input is added to three outputs, two apart; where they overlap they add up"),
        (1, 0, "padding crops both ends (dashed)"),
        (1, 1, "output_padding gives the right end back a position"),
    ):
        full = writes(4, 3, stride=2)
        left, _ = resolve_cropping(padding, 3, 2, 1)
        kept = conv_transpose1d(
            np.zeros((1, 4)), np.ones((1, 1, 3)), None, 2, padding, output_padding=extra
        ).shape[1]
        picture.heading(f"kernel_size=3, stride=2, padding={padding}, output_padding={extra}", note)
        columns = middles(full)
        top = picture.row(numbers(4), hues(4), columns, "input")
        length = max(max(map(max, full)) + 1, left + kept)
        kinds = ["pad"] * left + ["input"] * kept + ["pad"] * (length - left - kept)
        labels = [""] * left + numbers(kept) + [""] * (length - left - kept)
        picture.y += 44
        bottom = picture.row(labels, kinds, range(length), "output")
        pairs = [(columns[i], o, i % 3) for i, row in enumerate(full) for o in row]
        picture.lines(pairs, top, bottom)
        picture.y += 14
    return picture


def streaming() -> Picture:
    """Chunks in, and the outputs that come out with each."""
    picture = Picture(
        "Streaming",
        "A signal in chunks of 3, 1 and 4 positions: with which chunk each output comes, for a "
        "causal layer and one that looks ahead",
    )
    chunks = (3, 1, 4)
    for padding, note in (
        ("causal", "an output needs no later input: each comes with its own position"),
        (1, "an output waits for one input more; flush returns the last"),
    ):
        picture.heading(f"kernel_size=3, padding={padding!r}", note)
        stream = Conv1d(1, 1, 3, padding=padding).stream()
        came = [stream(np.ones((1, 1, n), np.float32)).shape[2] for n in chunks]
        came.append(stream.flush().shape[2])
        kinds = [f"hue{c}" for c, n in enumerate(chunks) for _ in range(n)]
        top = picture.row(numbers(8), kinds, range(8), "chunks")
        picture.y += 44
        kinds = [KINDS[c] for c, n in enumerate(came) for _ in range(n)]
        name = f"outputs, {came[3]} by flush (blue)" if came[3] else "outputs"
        bottom = picture.row(numbers(8), kinds, range(8), name)
        left, right = resolve_padding(padding, 3, 1, 1)
        positions = reads(left + 8 + right, 3)
        pairs = [
            (i - left, o, KINDS.index(kinds[o]))
            for o, row in enumerate(positions)
            for i in row
            if 0 <= i - left < 8
        ]
        picture.lines(pairs, top, bottom)
        picture.y += 14
    return picture


PICTURES = (padding_modes, padding_strings, stride, dilation, groups, transposed, streaming)


def main(folder: Path = FOLDER) -> None:
    """Write every picture."""
    folder.mkdir(exist_ok=True)
    for draw in PICTURES:
        path = folder / f"{draw.__name__}.svg"
        path.write_text(draw().svg(), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    main(parser.parse_args().folder)
