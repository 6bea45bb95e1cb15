"""The documentation: its code runs, its pictures are drawn anew, public names are explained."""

import importlib
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

import fastconv1d

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
OPTIONAL = (
    "torch",
    "onnx",
    "pandas",
    "xarray",
    "sklearn",
    "zarr",
    "fastapi",
    "dask",
    "distributed",
)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page):
    """Return the page's Python, with empty lines in front so that a traceback names the line."""
    text = page.read_text(encoding="utf-8")
    found = BLOCK.finditer(text)
    return ["\n" * text[: match.start(1)].count("\n") + match[1] for match in found]


@pytest.mark.parametrize(
    "page", [p for p in PAGES if blocks(p)], ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_code_of_pages_runs(page, tmp_path, monkeypatch):
    code = blocks(page)
    for package in OPTIONAL:
        if re.search(rf"^(import|from) {package}\b", "\n".join(code), re.MULTILINE):
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    threads = fastconv1d.get_num_threads()
    namespace = {"__name__": "__main__"}
    try:
        for block in code:
            exec(compile(block, str(page), "exec"), namespace)
    finally:
        fastconv1d.set_num_threads(threads)


# ---- Pictures ----------------------------------------------------------------------------------


def test_pictures_are_what_the_library_draws(tmp_path):
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs" / "pictures.py")
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    pictures.main(tmp_path)
    drawn = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in (ROOT / "docs" / "pictures").iterdir()}
    assert drawn == kept, "run python docs/pictures.py"


# ---- Docstrings --------------------------------------------------------------------------------

CONFIG = ["set_max_workers", "get_max_workers", "set_kept_memory", "get_kept_memory"]
CONFIG += ["release_memory", "config_info"]


def public_objects(module):
    """Yield the names and objects of an API page, with the public methods of classes."""
    for name in CONFIG if module is fastconv1d.config else module.__all__:
        thing = getattr(module, name)
        if callable(thing):
            yield name, thing
        if inspect.isclass(thing):
            for method_name, method in inspect.getmembers(thing, callable):
                own = str(getattr(method, "__module__", "")).startswith("fastconv1d")
                if own and not method_name.startswith("_"):
                    yield f"{name}.{method_name}", method


def parameters(thing):
    """Return the names that a call takes, of a class those of its own constructor."""
    if inspect.isclass(thing) and not inspect.isfunction(thing.__init__):
        return getattr(thing, "_fields", [])
    return [p for p in inspect.signature(thing).parameters if p not in ("self", "cls")]


def returns_something(thing):
    annotation = inspect.signature(thing).return_annotation
    return annotation not in (None, "None", "Iterator[None]") and "Iterator" not in str(annotation)


def needed_sections(thing):
    needed = {"Examples"}
    if parameters(thing):
        needed.add("Attributes" if hasattr(thing, "_fields") else "Parameters")
    if not inspect.isclass(thing) and returns_something(thing):
        needed.add("Returns")
    return needed


def present_sections(thing):
    doc = inspect.getdoc(thing) or ""
    present = set(re.findall(r"^(\w[\w ]*)\n-{3,}$", doc, re.MULTILINE))
    return present if ">>>" in doc else present - {"Examples"}


@pytest.mark.parametrize("name", ["", ".grad", ".config", ".torch", ".onnx", ".dask"])
def test_docstrings_have_their_sections(name):
    if name in (".torch", ".onnx", ".dask"):
        pytest.importorskip(name[1:])
    missing = {}
    for path, thing in public_objects(importlib.import_module("fastconv1d" + name)):
        lacking = needed_sections(thing) - present_sections(thing)
        if lacking:
            missing[path] = sorted(lacking)
    assert missing == {}


def test_api_pages_have_every_public_name():
    pages = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "docs" / "api").glob("*.md"))
    listed = set(re.findall(r"^   (\w+)$", pages, re.MULTILINE))
    names = {n for n in fastconv1d.__all__ if callable(getattr(fastconv1d, n))}
    names |= set(fastconv1d.grad.__all__) | set(CONFIG)
    assert names <= listed, sorted(names - listed)
