"""Norms, and element-wise maps that patterns leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..activations import half_of
from .layers import Fused

Array = NDArray[Any]


@dataclass
class Normalize(Fused):
    """``(x - mean)/sqrt(variance + epsilon)*scale + shift`` over some axes."""

    axes: tuple[int, ...] = (-1,)
    epsilon: float = 1e-5
    scale: Array | None = None
    shift: Array | None = None

    def build(self) -> Callable[..., Any]:
        axes, epsilon, scale, shift = self.axes, self.epsilon, self.scale, self.shift

        def run(x: Array) -> Array:
            wide = x.astype(np.float32) if half_of(x.dtype) else x
            y = wide - wide.mean(axes, keepdims=True)
            variance = np.mean(np.square(y), axes, keepdims=True)
            variance += variance.dtype.type(epsilon)
            y /= np.sqrt(variance, out=variance)
            if scale is not None:
                y *= scale.astype(y.dtype, copy=False)
            if shift is not None:
                y += shift.astype(y.dtype, copy=False)
            return y.astype(x.dtype, copy=False)

        return run


@dataclass
class Affine(Fused):
    """``x * scale + shift``."""

    def build(self) -> Callable[..., Any]:
        def run(x: Array, scale: Array, shift: Array) -> Array:
            y = x * scale
            return np.add(y, shift, out=y)

        return run


@dataclass
class Rounded(Fused):
    """What is left of values that were quantised and back: multiples of a scale, within limits."""

    scale: float = 1.0
    limits: tuple[int, int] = (-128, 127)

    def build(self) -> Callable[..., Any]:
        scale, (low, high) = self.scale, self.limits

        def run(x: Array) -> Array:
            if x.dtype != np.float32:
                raise TypeError(f"the input should be float32, as the scale is, got {x.dtype}")
            y = np.divide(x, np.float32(scale))
            np.rint(y, out=y)
            np.maximum(y, np.float32(low), out=y)
            np.minimum(y, np.float32(high), out=y)
            return np.multiply(y, np.float32(scale), out=y)

        return run
