# ruff: noqa: E402 (what follows imports the package that is asked for first)
"""ONNX models: read into a callable, and written from a network.

Imported on request, as ``import fastconv1d.onnx``; onnx is an optional dependency.
"""

from ..core.extras import require

require(__name__, "onnx")

from .model import OnnxModel, from_onnx
from .registry import OnnxError
from .session import InferenceSession
from .write import to_onnx

__all__ = ["InferenceSession", "OnnxError", "OnnxModel", "from_onnx", "to_onnx"]
