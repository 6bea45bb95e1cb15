"""ONNX's operators on NumPy arrays, by theme; importing this enters them in the table."""

from . import (
    activations,
    elementwise,
    indexing,
    linear,
    normalization,
    pooling,
    quantization,
    recurrent,
    reductions,
    resizing,
    shapes,
    signals,
)

__all__ = [
    "activations",
    "elementwise",
    "indexing",
    "linear",
    "normalization",
    "pooling",
    "quantization",
    "recurrent",
    "reductions",
    "resizing",
    "shapes",
    "signals",
]
