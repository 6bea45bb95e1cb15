"""Lengths and padding, as the functions compute them: checked 64-bit integers, no arrays."""

from .core.geometry import (
    Geometry,
    conv_geometry,
    conv_length,
    conv_transpose_geometry,
    conv_transpose_length,
    resolve_cropping,
    resolve_padding,
)

__all__ = [
    "Geometry",
    "conv_geometry",
    "conv_length",
    "conv_transpose_geometry",
    "conv_transpose_length",
    "resolve_cropping",
    "resolve_padding",
]
