"""Look for dead links in the built site: ``python docs/check_links.py build/docs``.

Sphinx warns of references it cannot resolve; this reads what came out: every file, anchor and image
that a page of the site names should be there. Addresses of other sites are counted, not asked for.
"""

import argparse
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page links to, and the anchors it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors = {"", "top"}
        self.without_alt: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect links and anchors."""
        found = dict(attrs)
        self.links += [value for name in ("href", "src") if (value := found.get(name))]
        self.anchors |= {value for name in ("id", "name") if (value := found.get(name))}
        if tag == "img" and not found.get("alt"):
            self.without_alt.append(found.get("src") or "")


def main(site: Path) -> int:
    """Print what is dead and return how much that is."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    dead, local, other = [], 0, set()
    for path, page in pages.items():
        dead += [f"{path}: no alternative text: {image}" for image in page.without_alt]
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                other.add(link)
                continue
            local += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                dead.append(f"{path}: no such file: {link}")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                dead.append(f"{path}: no such anchor: {link}")
    print(*dead, f"{len(pages)} pages, {local} links within the site, {len(dead)} dead;", sep="\n")
    print(f"{len(other)} addresses elsewhere, not asked for")
    return len(dead)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path, help="the folder of the built site")
    sys.exit(min(main(parser.parse_args().site), 1))
