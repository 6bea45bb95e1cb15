"""Normalizations with given statistics, or with those of the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...core.network import standardized
from ..registry import Node, operator
from .attributes import delivered, flag, integer, integers, number, required_integer
from .sizes import axes_of, axis_of
from .types import Array, check_float, check_same, computed_wide, element_dtype, widened

_Run = Callable[..., Any]


def _channelwise(values: Array, x: Array) -> Array:
    """Return one value a channel in the shape that broadcasts to (N, C, ...)."""
    if x.ndim < 2 or values.shape != x.shape[1:2]:
        raise ValueError(
            f"parameters should have one value a channel of {list(x.shape)}, "
            f"got shape {list(values.shape)}"
        )
    return values.reshape(-1, *(1,) * (x.ndim - 2))


def _epsilon(node: Node) -> float:
    return number(node, "epsilon", 1e-5)


@operator("BatchNormalization", since=7)
def _batch_normalization(node: Node) -> _Run:
    epsilon = _epsilon(node)
    if flag(node, "training_mode"):
        raise node.error("training_mode=1 is not supported")
    if not flag(node, "spatial", True):
        raise node.error("spatial=0 is not supported")

    def run(x: Array, scale: Array, shift: Array, mean: Array, variance: Array) -> Array:
        check_float(x)
        wide = widened(x)
        factor = widened(scale) / np.sqrt(widened(variance) + variance.dtype.type(epsilon))
        offset = widened(shift) - widened(mean) * factor
        factor, offset = (v.astype(wide.dtype, copy=False) for v in (factor, offset))
        y = wide * _channelwise(factor, x)
        y += _channelwise(offset, x)
        return y.astype(x.dtype, copy=False)

    return run


def _mean_square(x: Array, axes: tuple[int, ...]) -> Array:
    return np.asarray(np.mean(np.square(x), axis=axes, keepdims=True))


@operator("InstanceNormalization", since=6)
def _instance_normalization(node: Node) -> _Run:
    epsilon = _epsilon(node)

    def run(x: Array, scale: Array, shift: Array) -> Array:
        check_float(x)
        check_same(x, scale, shift)
        _channelwise(scale, x), _channelwise(shift, x)
        n = math.prod(x.shape[2:])
        return standardized(x, n, scale, shift, epsilon, span=n)

    return computed_wide(run)


@operator("GroupNormalization", since=18)
def _group_normalization(node: Node) -> _Run:
    epsilon, n_groups = _epsilon(node), required_integer(node, "num_groups", least=1)
    by_group = node.opset < 21

    def run(x: Array, scale: Array, shift: Array) -> Array:
        check_float(x)
        check_same(x, scale, shift)
        if x.ndim < 2 or x.shape[1] % n_groups:
            raise ValueError(
                f"the channels of {list(x.shape)} should be divisible by num_groups={n_groups}"
            )
        size = x.shape[1] // n_groups
        if by_group:
            scale, shift = np.repeat(scale, size), np.repeat(shift, size)
        _channelwise(scale, x), _channelwise(shift, x)
        span = math.prod(x.shape[2:])
        return standardized(x, size * span, scale, shift, epsilon, span=span)

    return computed_wide(run)


def _row_shape(x: Array, axis: int) -> tuple[int, ...]:
    return x.shape[axis_of(axis, x.ndim) :]


def _of_rows(values: Array | None, shape: tuple[int, ...]) -> Array | None:
    """Return a scale or a shift of a row's shape."""
    if values is None or values.shape == shape:
        return values
    if np.broadcast_shapes(values.shape, shape) != shape:
        raise ValueError(
            f"scale and shift should broadcast to {list(shape)}, got {list(values.shape)}"
        )
    return np.broadcast_to(values, shape)


@operator("LayerNormalization", since=17)
def _layer_normalization(node: Node) -> _Run:
    epsilon, axis = _epsilon(node), integer(node, "axis", -1)
    inner = element_dtype(node, integer(node, "stash_type", 1))

    def run(x: Array, scale: Array, shift: Array | None = None) -> tuple[Array, ...]:
        check_float(x)
        wide, shape = widened(x), _row_shape(x, axis)
        factor, offset = _of_rows(widened(scale), shape), shift
        if shift is not None:
            offset = _of_rows(widened(shift), shape)
        y = standardized(wide, math.prod(shape), factor, offset, epsilon)
        y = y.astype(x.dtype, copy=False)
        if len(node.outputs) == 1:
            return (y,)
        axes = tuple(range(x.ndim - len(shape), x.ndim))
        mean = np.asarray(wide.mean(axis=axes, keepdims=True))
        spread = 1 / np.sqrt(_mean_square(wide - mean, axes) + wide.dtype.type(epsilon))
        return y, mean.astype(inner), spread.astype(inner)

    return delivered(node, run)


@operator("RMSNormalization", since=23)
def _rms_normalization(node: Node) -> _Run:
    epsilon, axis = _epsilon(node), integer(node, "axis", -1)
    element_dtype(node, integer(node, "stash_type", 1))

    def run(x: Array, scale: Array) -> Array:
        check_float(x)
        shape = _row_shape(x, axis)
        factor = _of_rows(scale, shape)
        return standardized(x, math.prod(shape), factor, None, epsilon, centered=False)

    return computed_wide(run)


@operator("MeanVarianceNormalization", since=9)
def _mean_variance_normalization(node: Node) -> _Run:
    axes = integers(node, "axes") or [0, 2, 3]

    def run(x: Array) -> Array:
        check_float(x)
        where = axes_of(axes, x.ndim)
        y = x - x.mean(axis=where, keepdims=True)
        y /= np.sqrt(_mean_square(y, where)) + x.dtype.type(1e-9)
        return y

    return computed_wide(run)


@operator("LpNormalization")
def _lp_normalization(node: Node) -> _Run:
    axis, p = integer(node, "axis", -1), integer(node, "p", 2)
    if p not in (1, 2):
        raise node.error(f"p should be 1 or 2, got {p}")

    def run(x: Array) -> Array:
        check_float(x)
        where = axis_of(axis, x.ndim)
        if p == 1:
            norm = np.abs(x).sum(axis=where, keepdims=True)
        else:
            norm = np.sqrt(np.square(x).sum(axis=where, keepdims=True))
        return np.asarray(x / np.where(norm == 0, norm.dtype.type(1), norm))

    return computed_wide(run)


@operator("LRN")
def _lrn(node: Node) -> _Run:
    size = required_integer(node, "size", least=1)
    alpha, beta, bias = (
        number(node, name, default)
        for name, default in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
    )

    def run(x: Array) -> Array:
        check_float(x)
        if x.ndim < 3:
            raise ValueError(f"the input should have shape (N, C, ...), got {list(x.shape)}")
        square, total = np.square(x), np.zeros_like(x)
        channels = x.shape[1]
        for shift in range(max(-((size - 1) // 2), 1 - channels), min(size // 2, channels - 1) + 1):
            here = slice(max(-shift, 0), channels - max(shift, 0))
            there = slice(max(shift, 0), channels - max(-shift, 0))
            total[:, here] += square[:, there]
        return np.asarray(x / (bias + alpha / size * total) ** beta)

    return computed_wide(run)
