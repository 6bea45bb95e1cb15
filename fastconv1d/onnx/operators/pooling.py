"""Pooling: the greatest, the mean or a norm of windows, or of all positions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...core.network import pooled
from ..registry import Node, operator
from .attributes import flag, integer
from .sizes import allowed, integers_of
from .types import Array, check_float, computed_wide
from .windows import Axis, Placed, Windows

_Run = Callable[..., Any]

# Up to as many taps one pass a tap is faster than a reduction of windows.
_FEW_TAPS = 32


def _checked(x: Array) -> None:
    if x.ndim < 3:
        raise ValueError(f"the input should have shape (N, C, ...), got {list(x.shape)}")


def _placed(windows: Windows, x: Array) -> Placed:
    _checked(x)
    places = windows.over(x.shape[2:])
    for axis in places:
        if not 0 <= min(axis.before, axis.after) <= max(axis.before, axis.after) < axis.span:
            raise ValueError(
                f"pads should be at least 0 and below the window's {axis.span} positions, "
                f"got ({axis.before}, {axis.after})"
            )
    places.check_room(x.shape[:2], x.dtype)
    return places


def _over_axis(x: Array, axis: int, windows: Axis, function: Any) -> Array:
    """Return the reduction of the windows along one axis of a padded array."""
    if windows.taps <= _FEW_TAPS:
        lead = (slice(None),) * axis
        taps = [x[lead + (windows.tap(k),)] for k in range(windows.taps)]  # noqa: RUF005
        y = taps[0].copy() if len(taps) == 1 else function(taps[0], taps[1])
        for tap in taps[2:]:
            function(y, tap, out=y)
        return np.asarray(y)
    view = Placed([windows]).view(np.moveaxis(x, axis, -1))
    return np.moveaxis(function.reduce(view, axis=-1), -1, axis)


def _reduced(x: Array, places: Placed, function: Any, fill: Any) -> Array:
    """Return the reduction of all windows: along one axis after the other."""
    if x.dtype.char in "fd" and len(places) <= 2 and max(axis.taps for axis in places) <= _FEW_TAPS:
        return _compiled(x, places, function is np.maximum)
    y = places.padded(x, fill)
    lead = x.ndim - len(places)
    for i, windows in enumerate(places):
        y = _over_axis(y, lead + i, windows, function)
    return y


def _compiled(x: Array, places: Placed, largest: bool) -> Array:
    """Return the same over one or two axes of floats."""
    y = np.empty((*x.shape[: x.ndim - len(places)], *places.counts), x.dtype)
    windows = [(axis.taps, axis.stride, axis.dilation, axis.before) for axis in places]
    pooled(x, windows, y, largest=largest)
    return y


def _least(dtype: np.dtype[Any]) -> Any:
    return -math.inf if dtype.kind == "f" else np.iinfo(dtype).min


@operator("MaxPool")
def _max_pool(node: Node) -> _Run:
    windows = Windows(node)
    if windows.kernel is None:
        raise node.error("it should have kernel_shape")
    by_columns = flag(node, "storage_order")

    def run(x: Array) -> Array:
        places = _placed(windows, x)
        return _reduced(x, places, np.maximum, _least(x.dtype))

    def with_indices(x: Array) -> tuple[Array, Array]:
        places = _placed(windows, x)
        allowed((*x.shape[:2], *places.counts, *(axis.taps for axis in places)), x.dtype)
        padded = places.padded(x, _least(x.dtype))
        flat = places.view(padded).reshape(*x.shape[:2], *places.counts, -1)
        best = flat.argmax(-1)
        values = np.take_along_axis(flat, best[..., None], -1)[..., 0]
        taps = np.unravel_index(best, [axis.taps for axis in places])
        grid = np.ogrid[tuple(map(slice, best.shape))]
        where = [
            grid[i + 2] * axis.stride + taps[i] * axis.dilation - axis.before
            for i, axis in enumerate(places)
        ]
        sizes = x.shape[2:]
        if by_columns:
            where, sizes = where[::-1], sizes[::-1]
        place = grid[0] * x.shape[1] + grid[1]
        for positions, size in zip(where, sizes, strict=True):
            place = place * size + positions
        return values, place.astype(np.int64)

    if len(node.outputs) > 1:
        return computed_wide(with_indices)
    return computed_wide(run)


@operator("AveragePool")
def _average_pool(node: Node) -> _Run:
    windows = Windows(node)
    if windows.kernel is None:
        raise node.error("it should have kernel_shape")
    count_pads = flag(node, "count_include_pad")

    def run(x: Array) -> Array:
        check_float(x)
        places = _placed(windows, x)
        y = _reduced(x, places, np.add, 0)
        for i, axis in enumerate(places):
            counts = axis.taps_inside(count_pads).astype(x.dtype)
            y /= counts.reshape(-1, *(1,) * (len(places) - 1 - i))
        return y

    return computed_wide(run)


@operator("LpPool", since=2)
def _lp_pool(node: Node) -> _Run:
    windows, p = Windows(node), integer(node, "p", 2, least=1)
    if windows.kernel is None:
        raise node.error("it should have kernel_shape")

    def run(x: Array) -> Array:
        check_float(x)
        places = _placed(windows, x)
        return _reduced(np.abs(x) ** p, places, np.add, 0) ** x.dtype.type(1 / p)

    return computed_wide(run)


def _of_all(function: _Run) -> Callable[[Node], _Run]:
    def build(node: Node) -> _Run:
        def run(x: Array) -> Array:
            _checked(x)
            check_float(x)
            return np.asarray(function(x, tuple(range(2, x.ndim))))

        return computed_wide(run)

    return build


operator("GlobalMaxPool")(_of_all(lambda x, axes: x.max(axis=axes, keepdims=True)))
operator("GlobalAveragePool")(_of_all(lambda x, axes: x.mean(axis=axes, keepdims=True)))


@operator("GlobalLpPool", since=2)
def _global_lp_pool(node: Node) -> _Run:
    p = integer(node, "p", 2, least=1)

    def norm(x: Array, axes: tuple[int, ...]) -> Any:
        return (np.abs(x) ** p).sum(axis=axes, keepdims=True) ** x.dtype.type(1 / p)

    return _of_all(norm)(node)


@operator("MaxUnpool", since=9)
def _max_unpool(node: Node) -> _Run:
    windows = Windows(node)
    if windows.kernel is None:
        raise node.error("it should have kernel_shape")
    kernel = windows.kernel

    def run(x: Array, indices: Array, output_shape: Array | None = None) -> Array:
        _checked(x)
        if indices.shape != x.shape:
            raise ValueError(f"indices should have shape {list(x.shape)}")
        ndim = x.ndim - 2
        strides, pads = windows.strides or [1] * ndim, windows.pads or [0] * 2 * ndim
        if not len(kernel) == len(strides) == ndim or len(pads) != 2 * ndim:
            raise ValueError(f"kernel_shape, strides and pads should be for {ndim} axes")
        sizes = tuple(
            (size - 1) * strides[i] + kernel[i] - pads[i] - pads[i + ndim]
            for i, size in enumerate(x.shape[2:])
        )
        inner = (*x.shape[:2], *sizes)
        shape = inner if output_shape is None else tuple(integers_of(output_shape, "output_shape"))
        if len(shape) != x.ndim:
            raise ValueError(f"output_shape should have {x.ndim} sizes, got {list(shape)}")
        y = np.zeros(allowed(shape, x.dtype), x.dtype)
        # Indices are those of the smaller result, whose rows then lie in a larger one.
        limit = math.prod(inner)
        if indices.size and (indices.min() < 0 or indices.max() >= limit):
            raise ValueError(f"indices should be in [0, {limit - 1}]")
        if any(a > b for a, b in zip(inner, shape, strict=True)):
            raise ValueError(f"output_shape should be at least {list(inner)}, got {list(shape)}")
        y[np.unravel_index(indices, inner)] = x
        return y

    return run
