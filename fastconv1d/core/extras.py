"""Packages that are asked for but not installed: which extra brings them."""

from __future__ import annotations

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


def missing(who: str, package: str) -> ModuleNotFoundError:
    """Return the error of a package that is not installed.

    Examples
    --------
    >>> from fastconv1d.core.extras import missing
    >>> str(missing("fastconv1d.torch", "torch"))[:65]
    'fastconv1d.torch needs torch, which is not installed: pip install'
    """
    text = f"{who} needs {package}, which is not installed: {how_to_install(package)}"
    return ModuleNotFoundError(text, name=package)
