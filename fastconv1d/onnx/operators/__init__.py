"""ONNX's operators on NumPy arrays, by theme; importing this enters them in the table."""

from . import (
    activations,
    attention,
    elementwise,
    indexing,
    linear,
    losses,
    normalization,
    pooling,
    quantization,
    randoms,
    recurrent,
    reductions,
    resizing,
    shapes,
    signals,
)

__all__ = [
    "activations",
    "attention",
    "elementwise",
    "indexing",
    "linear",
    "losses",
    "normalization",
    "pooling",
    "quantization",
    "randoms",
    "recurrent",
    "reductions",
    "resizing",
    "shapes",
    "signals",
]
