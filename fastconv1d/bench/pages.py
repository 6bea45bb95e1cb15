"""A page as a list of blocks, written as Markdown and as HTML."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TypeAlias


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the page's title."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """Lines as they are, commands or output."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A plot beside the page, and what it shows."""

    name: str
    shows: str


@dataclass(frozen=True)
class Table:
    """Cells in rows; the columns after the first are figures."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]] = field(default_factory=list)


Block: TypeAlias = Heading | Text | Code | Picture | Table

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #ffffff; color-scheme: light dark; }
pre { background: #f4f4f4; padding: .6rem .8rem; overflow-x: auto; font-size: 13px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; }
th, td { padding: .15rem .6rem; border-bottom: 1px solid #dddddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; height: auto; }
@media (prefers-color-scheme: dark) {
  body { color: #e6e6e6; background: #16181c; }
  pre { background: #24272d; }
  th, td { border-color: #3a3e45; }
}
"""


def markdown(blocks: Sequence[Block]) -> str:
    """Return a page as Markdown with pipe tables."""
    return "\n\n".join(map(_markdown, blocks)) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Text(text):
            return text
        case Code(text):
            return f"```text\n{text}\n```"
        case Picture(name, shows):
            return f"![{shows}]({name})"
        case Table(header, rows):
            lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
            return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def html(blocks: Sequence[Block]) -> str:
    """Return a page as well-formed HTML that needs nothing but the plots beside it."""
    title = next(block.text for block in blocks if isinstance(block, Heading))
    head = f'<meta charset="utf-8"/>\n<title>{escape(title)}</title>\n<style>{_STYLE}</style>'
    view = '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
    body = "\n".join(map(_html, blocks))
    start = '<!DOCTYPE html>\n<html lang="en">'
    return f"{start}\n<head>\n{head}\n{view}\n</head>\n<body>\n{body}\n</body>\n</html>\n"


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{_inline(text)}</h{level}>"
        case Text(text):
            return f"<p>{_inline(text)}</p>"
        case Code(text):
            return f"<pre>{escape(text)}</pre>"
        case Picture(name, shows):
            return f'<p><img src="{escape(name)}" alt="{escape(shows)}"/></p>'
        case Table(header, rows):
            lines = [_row(header, "th"), *(_row(row, "td") for row in rows)]
            return '<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>"


def _row(cells: Sequence[str], kind: str) -> str:
    return "<tr>" + "".join(f"<{kind}>{_inline(cell)}</{kind}>" for cell in cells) + "</tr>"


def _inline(text: str) -> str:
    """Return text with its `code` and **strong** parts marked up."""
    text = escape(text)
    for mark, kind in (("`", "code"), ("**", "strong")):
        parts = enumerate(text.split(mark))
        text = "".join(f"<{kind}>{part}</{kind}>" if index % 2 else part for index, part in parts)
    return text
