"""Which modules' doctests to collect: those whose optional dependency is installed."""

from importlib.util import find_spec

OPTIONAL = {
    "fastconv1d/torch": "torch",
    "fastconv1d/onnx": "onnx",
    "fastconv1d/dask.py": "dask",
    "fastconv1d/bench/document.py": "matplotlib",
    "fastconv1d/bench/plots.py": "matplotlib",
}

collect_ignore = [path for path, package in OPTIONAL.items() if find_spec(package) is None]
