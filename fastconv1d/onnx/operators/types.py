"""Element types of ONNX as NumPy's, and what may be done with each.

The 16-bit floats are stored as such and computed in float32, each operator rounding once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.arrays import half_of
from ...kernels.network import convert
from ..registry import Node

Array = NDArray[Any]

_SINGLE = np.dtype(np.float32)

# The numbers of onnx.TensorProto.DataType.
_NAMES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
}


def element_dtype(node: Node, number: int) -> np.dtype[Any]:
    """Return the dtype with this number in ONNX."""
    if number not in _NAMES:
        raise node.error(f"the element type {number} is not supported; supported are {_NAMES}")
    if number == 16:
        try:
            from ml_dtypes import bfloat16
        except ImportError:
            raise node.error("bfloat16 needs the package ml_dtypes") from None
        return np.dtype(bfloat16)
    return np.dtype(_NAMES[number])


def is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or half_of(dtype) != 0


def widened(x: Array) -> Array:
    """Return the array, one of 16-bit floats in float32."""
    return converted(x, _SINGLE) if half_of(x.dtype) else x


def converted(x: Array, dtype: np.dtype[Any]) -> Array:
    """Return the array in a dtype; float32 and 16 bits by kernels, 5 to 10 times NumPy's speed."""
    if x.dtype == dtype:
        return x
    half = half_of(x.dtype) or half_of(dtype)
    if not half or _SINGLE not in (x.dtype, dtype):
        return x.astype(dtype)
    y = np.empty(x.shape, dtype)
    convert(np.ascontiguousarray(x), y, half, dtype == _SINGLE)
    return y


def narrowed(x: Array, dtype: np.dtype[Any]) -> Array:
    """Return floats in the dtype, anything else as it is."""
    return converted(x, dtype) if x.dtype.kind == "f" else x


def computed_wide(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with 16-bit floats computed in float32, float results converted back."""

    def run(x: Array, *others: Array | None) -> Any:
        if not half_of(x.dtype):
            return function(x, *others)
        results = function(widened(x), *(o if o is None else widened(o) for o in others))
        if isinstance(results, tuple):
            return tuple(narrowed(r, x.dtype) for r in results)
        return narrowed(results, x.dtype)

    return run


def check_float(x: Array) -> None:
    if not is_float(x.dtype):
        raise TypeError(f"the input should be of floating point, got dtype {x.dtype}")


def check_same(*arrays: Array | None) -> None:
    """Raise TypeError unless all arrays that are there have one dtype."""
    given = [a.dtype for a in arrays if a is not None]
    if any(dtype != given[0] for dtype in given):
        raise TypeError(f"the inputs should have one dtype, got {', '.join(map(str, given))}")
