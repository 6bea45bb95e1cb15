"""Norms, and element-wise maps that patterns leave."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import half_of
from ..kernels import network
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
        axes, parameters = self.axes, (self.scale, self.shift)
        trailing = sorted(axes) == [*range(-len(axes), 0)]

        def run(x: Array) -> Array:
            wide = x.astype(np.float32) if half_of(x.dtype) else x
            if trailing and wide.dtype.char in "fd" and x.ndim >= len(axes):
                shape = x.shape[x.ndim - len(axes) :]
                own = [None if p is None else _of_shape(p, shape) for p in parameters]
                if not any(p is _OTHER for p in own):
                    y = self._rows(wide, own[0], own[1])
                    return y.astype(x.dtype, copy=False)
            return self._any(wide).astype(x.dtype, copy=False)

        return run

    def _rows(self, x: Array, scale: Array | None, shift: Array | None) -> Array:
        """The norm over the last dimensions."""
        y = np.empty(x.shape, x.dtype)
        if x.size:
            n = math.prod(x.shape[x.ndim - len(self.axes) :])
            factors = [
                None if p is None else np.ascontiguousarray(p, x.dtype).reshape(-1)
                for p in (scale, shift)
            ]
            x = np.ascontiguousarray(x)
            network.standardize(x, y, n, *factors, 0, self.epsilon, True)
        return y

    def _any(self, x: Array) -> Array:
        y = x - x.mean(self.axes, keepdims=True)
        variance = np.mean(np.square(y), self.axes, keepdims=True)
        variance += variance.dtype.type(self.epsilon)
        y /= np.sqrt(variance, out=variance)
        if self.scale is not None:
            y = y * self.scale.astype(y.dtype, copy=False)
        if self.shift is not None:
            y = y + self.shift.astype(y.dtype, copy=False)
        return y


_OTHER = np.empty(0)  # stands for parameters that are no row's


def _of_shape(parameter: Array, shape: tuple[int, ...]) -> Array:
    """Return a parameter as it is repeated along a row, or `_OTHER`."""
    if parameter.shape == shape:
        return parameter
    extra = parameter.ndim - len(shape)
    if extra > 0 and parameter.shape[:extra] == (1,) * extra:
        parameter = parameter.reshape(parameter.shape[extra:])
    try:
        fits = np.broadcast_shapes(parameter.shape, shape) == shape
    except ValueError:
        fits = False
    return np.broadcast_to(parameter, shape) if fits else _OTHER


@dataclass
class Affine(Fused):
    """``x * scale + shift``."""

    def build(self) -> Callable[..., Any]:
        def run(x: Array, scale: Array, shift: Array) -> Array:
            y = x * scale
            return np.add(y, shift, out=y)

        return run


@dataclass
class Indexed(Fused):
    """A view: ``x[index]``."""

    index: tuple[Any, ...] = ()
    rank: int = 0

    def build(self) -> Callable[..., Any]:
        index, rank = self.index, self.rank

        def run(x: Array) -> Array:
            if x.ndim != rank:
                raise ValueError(f"expected {rank} dimensions, got {list(x.shape)}")
            return x[index]

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
            steps = np.empty(x.shape, np.int32 if max(-low, high) >= 1 << 15 else np.int16)
            if steps.itemsize == 2:
                network.quantize(np.ascontiguousarray(x), steps, scale, 0, low, high)
            else:
                np.copyto(steps, np.clip(np.rint(x / np.float32(scale)), low, high), "unsafe")
            return np.multiply(steps, np.float32(scale), dtype=np.float32)

        return run
