"""Normalizations with given statistics, or with those of the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..registry import Node, operator
from .attributes import delivered, flag, integer, integers, number, required_integer
from .sizes import axes_of, axis_of
from .types import Array, check_float, computed_wide, element_dtype, widened

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
        y = wide * _channelwise(factor, x).astype(wide.dtype, copy=False)
        y += _channelwise(offset, x).astype(wide.dtype, copy=False)
        return y.astype(x.dtype, copy=False)

    return run


def _mean_square(x: Array, axes: tuple[int, ...]) -> Array:
    return np.asarray(np.mean(np.square(x), axis=axes, keepdims=True))


def standardized(x: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array, Array]:
    """Return x less its mean over its deviation, the mean, and one over the deviation."""
    mean = np.asarray(x.mean(axis=axes, keepdims=True))
    y = np.asarray(x - mean)
    factor = 1 / np.sqrt(_mean_square(y, axes) + x.dtype.type(epsilon))
    y *= factor
    return y, mean, factor


@operator("InstanceNormalization", since=6)
def _instance_normalization(node: Node) -> _Run:
    epsilon = _epsilon(node)

    def run(x: Array, scale: Array, shift: Array) -> Array:
        check_float(x)
        y, _, _ = standardized(x, tuple(range(2, x.ndim)), epsilon)
        y *= _channelwise(scale, x)
        y += _channelwise(shift, x)
        return y

    return computed_wide(run)


@operator("GroupNormalization", since=18)
def _group_normalization(node: Node) -> _Run:
    epsilon, n_groups = _epsilon(node), required_integer(node, "num_groups", least=1)
    by_group = node.opset < 21

    def run(x: Array, scale: Array, shift: Array) -> Array:
        check_float(x)
        if x.ndim < 2 or x.shape[1] % n_groups:
            raise ValueError(
                f"the channels of {list(x.shape)} should be divisible by num_groups={n_groups}"
            )
        grouped = x.reshape(x.shape[0], n_groups, x.shape[1] // n_groups, *x.shape[2:])
        y = standardized(grouped, tuple(range(2, grouped.ndim)), epsilon)[0].reshape(x.shape)
        if by_group:
            size = x.shape[1] // n_groups
            scale, shift = np.repeat(scale, size), np.repeat(shift, size)
        y *= _channelwise(scale, x)
        y += _channelwise(shift, x)
        return y

    return computed_wide(run)


def _last_axes(x: Array, axis: int) -> tuple[int, ...]:
    return tuple(range(axis_of(axis, x.ndim), x.ndim))


@operator("LayerNormalization", since=17)
def _layer_normalization(node: Node) -> _Run:
    epsilon, axis = _epsilon(node), integer(node, "axis", -1)
    inner = element_dtype(node, integer(node, "stash_type", 1))

    def run(x: Array, scale: Array, shift: Array | None = None) -> tuple[Array, ...]:
        check_float(x)
        wide = x.astype(np.promote_types(inner, x.dtype) if x.dtype.kind == "f" else inner)
        y, mean, factor = standardized(wide, _last_axes(x, axis), epsilon)
        y *= scale.astype(y.dtype, copy=False)
        if shift is not None:
            y += shift.astype(y.dtype, copy=False)
        return y.astype(x.dtype, copy=False), mean.astype(inner), factor.astype(inner)

    return delivered(node, run)


@operator("RMSNormalization", since=23)
def _rms_normalization(node: Node) -> _Run:
    epsilon, axis = _epsilon(node), integer(node, "axis", -1)

    def run(x: Array, scale: Array) -> Array:
        check_float(x)
        square = _mean_square(x, _last_axes(x, axis))
        y = x * (1 / np.sqrt(square + x.dtype.type(epsilon)))
        y *= scale
        return y

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
