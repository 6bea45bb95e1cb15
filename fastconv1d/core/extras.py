"""Packages that are asked for but not installed: which extra brings them."""

from __future__ import annotations

from importlib.util import find_spec

# torch's usual wheels for Linux bring some gigabytes of CUDA; those of its own index do not.
CPU_TORCH = "pip install torch --index-url https://download.pytorch.org/whl/cpu"
_EXTRAS = {
    "onnx": "onnx",
    "safetensors": "safetensors",
    "matplotlib": "bench",
    "onnxruntime": "peers",
    "openvino": "peers",
    "jax": "peers",
}


def how_to_install(package: str) -> str:
    """Return the command that installs an optional package.

    Examples
    --------
    >>> from fastconv1d.core.extras import how_to_install
    >>> how_to_install("onnx")
    "pip install 'fastconv1d[onnx]', or pip install onnx"
    """
    if package == "torch":
        return CPU_TORCH
    return f"pip install 'fastconv1d[{_EXTRAS[package]}]', or pip install {package}"


def require(who: str, package: str) -> None:
    """Raise ModuleNotFoundError, with what to do, if a package is not installed.

    Examples
    --------
    >>> from fastconv1d.core.extras import require
    >>> require("fastconv1d", "numpy")
    """
    if find_spec(package) is None:
        text = f"{who} needs {package}, which is not installed: {how_to_install(package)}"
        raise ModuleNotFoundError(text, name=package)
