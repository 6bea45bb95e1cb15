"""The order of the rooms: every module imports only those before it, for types and locally too."""

import ast
from pathlib import Path

import fastconv1d

ROOT = Path(fastconv1d.__file__).parent

# A package stands for all of its modules; among themselves they may import as they like.
ROOMS = """
version
kernels
core.geometry core.geometry2d core.arrays core.activations core.threads core.files core.machine
core.extras
config
core.engines core.reach core.spec core.spec2d core.minimal core.spectral_tiles core.fft
core.partitions core.fast core.adjoint core.forward
core.planes core.ranges core.chosen core.advice
core.flow
folding weights
core.base core.training core.parameters core.convolution core.sliding core.dense core.network
core.between core.program core.pieces
functional functional2d grad geometry
streaming modules elementwise pooling normalization linear recurrent shaping sequential
planner costs receptive reference
__init__
torch onnx dask run bench demo
__main__
""".split()


def modules():
    """Names of all Python modules of the package with their paths, without the package's own."""
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if name != "core.__init__":
            yield name, path


def room_of(name):
    """The room that a module belongs to."""
    if name == "core":
        return name
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in ROOMS:
            return ".".join(parts[:end])
    raise AssertionError(f"{name} is in no room: add it to the order")


def imported(name, path):
    """Names of the modules of the package that a module imports, wherever in its text."""
    package = name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        found = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
            found = [n.removeprefix("fastconv1d").lstrip(".") or "__init__" for n in found
                     if n.partition(".")[0] == "fastconv1d"]  # fmt: skip
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            base += node.module.split(".") if node.module else []
            found = [".".join([*base, alias.name]) for alias in node.names]
        for target in found:
            yield target if target.split(".")[0] in TOP else "__init__"


TOP = {path.stem for path in ROOT.iterdir()}


def edges():
    """Pairs of rooms of which the first imports the second."""
    pairs = set()
    for name, path in modules():
        for target in imported(name, path):
            parts = target.split(".")
            while parts and not (ROOT.joinpath(*parts).is_dir() or _is_file(parts)):
                parts.pop()
            pairs.add((room_of(name), room_of(".".join(parts) or "__init__")))
    return {(a, b) for a, b in pairs if a != b}


def _is_file(parts):
    folder = ROOT.joinpath(*parts[:-1])
    return any((folder / f"{parts[-1]}{suffix}").is_file() for suffix in (".py", ".pyx"))


def test_nothing_imports_upwards():
    place = {room: i for i, room in enumerate(ROOMS)}
    upwards = sorted(f"{a} imports {b}" for a, b in edges() if place[b] > place[a])
    assert upwards == []


def test_every_room_is_lived_in():
    lived_in = {room_of(name) for name, _ in modules()}
    assert lived_in == {room for room in ROOMS if room != "kernels"} | {"kernels"}


def test_rooms_that_are_imported():
    assert ("functional", "core.forward") in edges()
    assert ("core.forward", "kernels") in edges()
    assert ("streaming", "core.convolution") in edges()


def test_private_names_stay_in_their_rooms():
    taken = []
    for name, path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = name.split(".")[: -node.level] + (node.module or "").split(".")
                if room_of(".".join(filter(None, base)) or "__init__") != room_of(name):
                    private = [a.name for a in node.names if a.name.startswith("_")]
                    taken += [f"{name}: {p}" for p in private if not p.startswith("__")]
    assert taken == []
