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
        axes, n_axes = self.axes, len(self.axes)
        trailing = sorted(axes) == [*range(-n_axes, 0)]
        known: dict[Any, Any] = {}  # parameters as rows of a shape have them

        def run(x: Array) -> Array:
            wide = x.astype(np.float32) if half_of(x.dtype) else x
            if trailing and wide.dtype.char in "fd" and x.ndim >= n_axes:
                key = wide.dtype.char, x.shape[x.ndim - n_axes :]
                own = known.get(key, known)
                if own is known:
                    own = self._parameters(wide.dtype, key[1])
                    known.clear()
                    known[key] = own
                if own is not None:
                    return self._rows(wide, key[1], *own).astype(x.dtype, copy=False)
            return self._any(wide).astype(x.dtype, copy=False)

        return run

    def _parameters(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
        """Return scale and shift as each row has them, None where they differ from row to row."""
        own = [None if p is None else _of_shape(p, shape) for p in (self.scale, self.shift)]
        if any(p is _OTHER for p in own):
            return None
        return [None if p is None else np.ascontiguousarray(p, dtype).reshape(-1) for p in own]

    def _rows(
        self, x: Array, shape: tuple[int, ...], scale: Array | None, shift: Array | None
    ) -> Array:
        """The norm over the last dimensions, of the given shape."""
        y = np.empty(x.shape, x.dtype)
        if x.size:
            x = np.ascontiguousarray(x)
            network.standardize(x, y, math.prod(shape), scale, shift, 0, self.epsilon, True)
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
    steps: str = ""  # the name of the quantised values

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
