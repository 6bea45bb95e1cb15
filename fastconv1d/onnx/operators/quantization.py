"""Integers that stand for reals: to them, from them, and products of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...kernels.network import quantize
from ..registry import Node, operator
from .attributes import delivered, flag, integer
from .linear import added_bias, check_channels, correlated, product
from .sizes import axis_of
from .types import Array, check_same, element_dtype, is_float, widened
from .windows import Windows

_Run = Callable[..., Any]

_STORED = ("int8", "uint8", "int16", "uint16", "int32")


def _spread(values: Array, x: Array, axis: int, block: int) -> Array:
    """Return one value, or one for each slice or block along an axis, to broadcast to x."""
    if values.size == 1 and not block:
        return values.reshape(())
    where = axis_of(axis, x.ndim)
    if block:
        shape = list(x.shape)
        shape[where] = -(-shape[where] // block)
        if list(values.shape) != shape:
            raise ValueError(
                f"scales of blocks should have shape {shape}, got {list(values.shape)}"
            )
        return values.repeat(block, where).take(np.arange(x.shape[where]), where)
    if values.shape != (x.shape[where],):
        raise ValueError(
            f"scales should be one, or {x.shape[where]} along axis {where}, "
            f"got shape {list(values.shape)}"
        )
    return values.reshape(-1, *(1,) * (x.ndim - where - 1))


def _check_stored(node: Node, dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.name not in _STORED:
        raise node.error(f"the stored type {dtype} is not supported; supported are {_STORED}")
    return dtype


def quantized(x: Array, scale: Array, zero: Array | None, dtype: np.dtype[Any]) -> Array:
    """Return x/scale + zero, rounded half to even and kept in the dtype's range."""
    bounds = np.iinfo(dtype)
    if (
        x.dtype == scale.dtype
        and x.dtype.char in "fd"
        and scale.size == 1
        and (zero is None or zero.size == 1)
        and dtype.itemsize < 4
    ):
        y = np.empty(x.shape, dtype)
        offset = 0 if zero is None else int(zero.item())
        x = np.ascontiguousarray(x)
        quantize(x, y, scale.item(), offset, int(bounds.min), int(bounds.max))
        return y
    y = np.asarray(np.rint(x / scale))
    if zero is not None:
        y = y + zero.astype(y.dtype)
    return np.asarray(np.clip(y, bounds.min, bounds.max)).astype(dtype)


@operator("QuantizeLinear", since=10)
def _quantize_linear(node: Node) -> _Run:
    axis, block = integer(node, "axis", 1), integer(node, "block_size", 0, least=0)
    flag(node, "saturate", True)  # only of the float8 types
    number_of, precision = integer(node, "output_dtype", 0), integer(node, "precision", 0)
    asked = _check_stored(node, element_dtype(node, number_of)) if number_of else None
    inner = element_dtype(node, precision) if precision else None

    def run(x: Array, scale: Array, zero: Array | None = None) -> Array:
        dtype = asked or (np.dtype(np.uint8) if zero is None else zero.dtype)
        if dtype.name not in _STORED or (zero is not None and zero.dtype != dtype):
            raise TypeError(f"the stored type {dtype} is not supported")
        if not is_float(x.dtype) and x.dtype != np.int32:
            raise TypeError(f"x should be of floating point or int32, got dtype {x.dtype}")
        wide = widened(x) if is_float(x.dtype) else x.astype(np.float32)
        steps = _spread(widened(scale), x, axis, block)
        if inner is not None:
            wide, steps = widened(x.astype(inner)), widened(steps.astype(inner))
        offset = None if zero is None else _spread(zero, x, axis, block)
        if inner is not None and inner.itemsize == 2:
            wide, steps = widened((wide / steps).astype(inner)), np.array(1, np.float32)
        return quantized(wide, steps, offset, dtype)

    return run


@operator("DequantizeLinear", since=10)
def _dequantize_linear(node: Node) -> _Run:
    axis, block = integer(node, "axis", 1), integer(node, "block_size", 0, least=0)
    number_of = integer(node, "output_dtype", 0)
    asked = element_dtype(node, number_of) if number_of else None

    def run(x: Array, scale: Array, zero: Array | None = None) -> Array:
        if x.dtype.name not in _STORED:
            raise TypeError(f"the stored type {x.dtype} is not supported")
        check_same(x, zero)
        y = x.astype(np.float32)
        if zero is not None:
            y -= _spread(zero, x, axis, block).astype(np.float32)
        y *= _spread(widened(scale), x, axis, block)
        return y.astype(asked or scale.dtype, copy=False)

    return run


@operator("DynamicQuantizeLinear", since=11)
def _dynamic_quantize_linear(node: Node) -> _Run:
    def run(x: Array) -> tuple[Array, ...]:
        if x.dtype != np.float32:
            raise TypeError(f"x should be float32, got dtype {x.dtype}")
        low = np.minimum(x.min(initial=0), np.float32(0))
        high = np.maximum(x.max(initial=0), np.float32(0))
        scale = np.float32((high - low) / np.float32(255)) or np.float32(1)
        offset = np.asarray(np.rint(np.clip(-low / scale, 0, 255))).astype(np.uint8)
        y = quantized(x, np.asarray(scale), offset, np.dtype(np.uint8))
        return y, np.asarray(scale), offset

    return delivered(node, run)


# ---- products of integers ---------------------------------------------------------------------


def _less(
    x: Array, zero: Array | None, shape: tuple[int, ...] = (), dtype: Any = np.float64
) -> Array:
    """Return integers less their zero point, in float64 that holds every sum of products."""
    y = x.astype(dtype)
    if zero is not None:
        y -= zero.reshape(shape) if zero.size > 1 else zero.reshape(())
    return y


# So many products of two numbers of 9 bits add up to less than 2**24, which float32 holds.
_EXACT_TERMS = 256


def _exact_product(a: Array, b: Array) -> Array:
    """Return a @ b of differences of bytes in int32, by float32 products of parts."""
    if a.ndim == 0 or b.ndim == 0 or a.shape[-1] != b.shape[max(b.ndim - 2, 0)]:
        raise ValueError(f"shapes {list(a.shape)} and {list(b.shape)} do not fit a product")
    total: Any = 0
    for first in range(0, max(a.shape[-1], 1), _EXACT_TERMS):
        part = slice(first, first + _EXACT_TERMS)
        right = b[part] if b.ndim == 1 else b[..., part, :]
        total = total + np.asarray(product(a[..., part], right)).astype(np.int32)
    return np.asarray(total)


def _check_bytes(*arrays: Array | None) -> None:
    for array in arrays:
        if array is not None and array.dtype.name not in ("int8", "uint8"):
            raise TypeError(f"the inputs should be int8 or uint8, got dtype {array.dtype}")


def _row_points(zero: Array | None, a: Array) -> tuple[int, ...]:
    """Return the shape of a left operand's zero points, one a row where they are several."""
    return () if zero is None else (*(zero.shape if zero.ndim > 1 else (zero.size, 1)),)


@operator("MatMulInteger", since=10)
def _mat_mul_integer(node: Node) -> _Run:
    def run(a: Array, b: Array, a_zero: Array | None = None, b_zero: Array | None = None) -> Array:
        _check_bytes(a, b)
        left = _less(a, a_zero, _row_points(a_zero, a), np.float32)
        right = _less(b, b_zero, b_zero.shape if b_zero is not None else (), np.float32)
        return _exact_product(left, right)

    return run


@operator("QLinearMatMul", since=10)
def _q_linear_mat_mul(node: Node) -> _Run:
    def run(
        a: Array,
        a_scale: Array,
        a_zero: Array,
        b: Array,
        b_scale: Array,
        b_zero: Array,
        scale: Array,
        zero: Array,
    ) -> Array:
        _check_bytes(a, b, zero)
        left = _less(a, a_zero, _row_points(a_zero, a))
        right = _less(b, b_zero, b_zero.shape)
        factor = (
            widened(a_scale).reshape(_row_points(a_scale, a) if a_scale.size > 1 else ())
            * widened(b_scale)
            / widened(scale)
        )
        y = np.matmul(left, right) * factor
        return quantized(y, np.array(1.0), zero, zero.dtype)

    return run


def _integer_sums(
    node: Node,
) -> Callable[[Array, Array, Array | None, Array | None], Array]:
    """Return the convolution of integers less their zero points, in float64."""
    windows, groups = Windows(node), integer(node, "group", 1, least=1)

    def run(x: Array, w: Array, x_zero: Array | None, w_zero: Array | None) -> Array:
        _check_bytes(x, w)
        check_channels(x, w, groups)
        places = windows.over(x.shape[2:], w.shape[2:])
        left = _less(x, x_zero)
        right = _less(w, w_zero, (-1, *(1,) * (w.ndim - 1)))
        return correlated(left, right, places, groups)

    return run


@operator("ConvInteger", since=10)
def _conv_integer(node: Node) -> _Run:
    sums = _integer_sums(node)

    def run(x: Array, w: Array, x_zero: Array | None = None, w_zero: Array | None = None) -> Array:
        return sums(x, w, x_zero, w_zero).astype(np.int64).astype(np.int32)

    return run


@operator("QLinearConv", since=10)
def _q_linear_conv(node: Node) -> _Run:
    sums = _integer_sums(node)

    def run(
        x: Array,
        x_scale: Array,
        x_zero: Array,
        w: Array,
        w_scale: Array,
        w_zero: Array,
        scale: Array,
        zero: Array,
        bias: Array | None = None,
    ) -> Array:
        y = added_bias(sums(x, w, x_zero, w_zero), bias)
        factor = x_scale.reshape(()) * w_scale / scale.reshape(())
        y *= factor.reshape(-1, *(1,) * (x.ndim - 2)) if w_scale.size > 1 else factor.reshape(())
        return quantized(y, np.array(1.0), zero.reshape(()), zero.dtype)

    return run
