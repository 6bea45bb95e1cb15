"""Reductions over axes, running sums, and softmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...core.arrays import half_of
from ...core.network import softmax as parts_of_sum
from ..registry import Node, operator
from .attributes import flag, integer, integers
from .elementwise import divided
from .sizes import axes_of, axis_of, integers_of, whole_of
from .types import Array, computed_wide, narrowed, widened

_Run = Callable[..., Any]
_Axes = tuple[int, ...]


def _sum(x: Array, axes: _Axes) -> Any:
    return np.add.reduce(x, axis=axes, keepdims=True, dtype=x.dtype)


def _mean(x: Array, axes: _Axes) -> Any:
    total = np.asarray(_sum(x, axes))
    count = math.prod(x.shape[axis] for axis in axes)
    if x.dtype.kind in "iu":
        return divided(total, total.dtype.type(max(count, 1)))
    total /= total.dtype.type(count)
    return total


def _log_sum_exp(x: Array, axes: _Axes) -> Any:
    if x.size == 0:
        return np.log(_sum(x, axes))
    highest = np.max(x, axis=axes, keepdims=True)
    highest = np.where(np.isfinite(highest), highest, highest.dtype.type(0))
    return np.log(_sum(np.exp(x - highest), axes)) + highest


def _extreme(function: _Run, largest: bool) -> _Run:
    def run(x: Array, axes: _Axes) -> Any:
        if x.dtype == bool:
            return (np.any if largest else np.all)(x, axis=axes, keepdims=True)
        if any(x.shape[axis] == 0 for axis in axes):
            return function(x, axis=axes, keepdims=True, initial=_furthest(x, not largest))
        return function(x, axis=axes, keepdims=True)

    return run


def _furthest(x: Array, upward: bool) -> Any:
    """Return the value that a reduction of nothing has."""
    if x.dtype.kind == "f":
        return math.inf if upward else -math.inf
    return np.iinfo(x.dtype).max if upward else np.iinfo(x.dtype).min


def _in_floats(function: _Run) -> _Run:
    """Return the reduction with integers computed in float64, their results truncated."""

    def run(x: Array, axes: _Axes) -> Any:
        if x.dtype.kind in "iu":
            return function(x.astype(np.float64), axes).astype(x.dtype)
        return function(x, axes)

    return run


_REDUCTIONS: dict[str, _Run] = {
    "ReduceSum": _sum,
    "ReduceMean": _mean,
    "ReduceMax": _extreme(np.max, largest=True),
    "ReduceMin": _extreme(np.min, largest=False),
    "ReduceProd": lambda x, axes: np.prod(x, axis=axes, keepdims=True, dtype=x.dtype),
    "ReduceL1": lambda x, axes: _sum(np.abs(x), axes),
    "ReduceL2": _in_floats(lambda x, axes: np.sqrt(_sum(x * x, axes))),
    "ReduceSumSquare": lambda x, axes: _sum(x * x, axes),
    "ReduceLogSum": _in_floats(lambda x, axes: np.log(_sum(x, axes))),
    "ReduceLogSumExp": _in_floats(_log_sum_exp),
}
# Operators whose axes are an input since then; the others' are one since 18.
_AXES_INPUT_SINCE = {"ReduceSum": 13}


def _reduce(name: str) -> Callable[[Node], _Run]:
    function = _REDUCTIONS[name]

    def build(node: Node) -> _Run:
        keep = flag(node, "keepdims", True)
        leave = flag(node, "noop_with_empty_axes")
        given = integers(node, "axes")
        if given is not None and node.opset >= _AXES_INPUT_SINCE.get(name, 18):
            raise node.error("axes should be an input in this operator set")

        def run(x: Array, axes: Array | None = None) -> Array:
            chosen = given if axes is None else integers_of(axes, "axes")
            if not chosen and leave:
                # Nothing is reduced, but what is done to each element still is.
                where: _Axes = ()
            else:
                where = axes_of(chosen, x.ndim) if chosen else tuple(range(x.ndim))
            if half_of(x.dtype):
                result = narrowed(np.asarray(function(widened(x), where)), x.dtype)
            else:
                result = np.asarray(function(x, where))
            return result if keep else result.squeeze(where)

        return run

    return build


for _name in _REDUCTIONS:
    operator(_name)(_reduce(_name))


def _running(function: _Run) -> Callable[[Node], _Run]:
    def build(node: Node) -> _Run:
        exclusive, backward = flag(node, "exclusive"), flag(node, "reverse")

        def run(x: Array, axis: Array) -> Array:
            where = axis_of(whole_of(axis, "axis"), x.ndim)
            ahead = np.moveaxis(x, where, 0)
            ahead = ahead[::-1] if backward else ahead
            if exclusive:
                result = np.empty_like(ahead)
                result[:1] = function.identity  # type: ignore[attr-defined]
                function.accumulate(ahead[:-1], axis=0, out=result[1:])  # type: ignore[attr-defined]
            else:
                result = function.accumulate(ahead, axis=0, dtype=x.dtype)  # type: ignore[attr-defined]
            result = result[::-1] if backward else result
            return np.moveaxis(result, 0, where)

        return computed_wide(run)

    return build


operator("CumSum", since=11)(_running(np.add))
operator("CumProd", since=26)(_running(np.multiply))


# ---- softmax ----------------------------------------------------------------------------------


def softmax(x: Array, axis: int) -> Array:
    """Return exp(x) as parts of its sum along an axis."""
    return parts_of_sum(x, axis)


def log_softmax(x: Array, axis: int) -> Array:
    """Return the logarithm of `softmax`."""
    return parts_of_sum(x, axis, logarithm=True)


def _hardmax(x: Array, axis: int) -> Array:
    y = np.zeros_like(x)
    if x.size:
        np.put_along_axis(y, np.expand_dims(widened(x).argmax(axis), axis), 1, axis)
    return y


def _over_axis(function: _Run) -> Callable[[Node], _Run]:
    def build(node: Node) -> _Run:
        axis = integer(node, "axis", -1)
        return computed_wide(lambda x: function(x, axis_of(axis, x.ndim)))

    return build


def _over_rest(function: _Run) -> Callable[[Node], _Run]:
    """Return a builder of operator sets below 13: over all axes from one on, taken as one."""

    def build(node: Node) -> _Run:
        axis = integer(node, "axis", 1)

        def run(x: Array) -> Array:
            first = axis_of(axis, x.ndim) if axis != x.ndim else axis
            flat = x.reshape(math.prod(x.shape[:first]), math.prod(x.shape[first:]))
            return function(flat, 1).reshape(x.shape)

        return computed_wide(run)

    return build


for _name, _function in (("Softmax", softmax), ("LogSoftmax", log_softmax), ("Hardmax", _hardmax)):
    operator(_name, until=12)(_over_rest(_function))
    operator(_name, since=13)(_over_axis(_function))
