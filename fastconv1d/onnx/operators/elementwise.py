"""Arithmetic, comparisons, logic, bits and functions of single elements."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...core.arrays import half_of
from ...kernels.network import erf
from ..registry import Node, operator
from .attributes import flag, number, required_integer, text
from .sizes import scalar_of
from .types import Array, check_same, computed_wide, converted, element_dtype, widened

_Run = Callable[..., Any]

_ANY = "biufcV"
_NUMBERS = "iufV"  # V: bfloat16, which NumPy knows as bytes
_INTEGERS = "iu"


def _is_of(x: Array, kinds: str) -> bool:
    return x.dtype.kind in kinds and (x.dtype.kind != "V" or half_of(x.dtype) != 0)


def _check_kind(x: Array, kinds: str) -> None:
    if not _is_of(x, kinds):
        raise TypeError(f"an input of dtype {x.dtype} is not supported")


# ---- two inputs -------------------------------------------------------------------------------


def _binary(function: _Run, kinds: str) -> Callable[[Node], _Run]:
    def run(a: Array, b: Array) -> Any:
        if a.dtype != b.dtype:
            check_same(a, b)
        if a.dtype.kind not in kinds:
            _check_kind(a, kinds)
        return np.asarray(function(a, b))

    return lambda node: run


def divided(a: Array, b: Array) -> Any:
    """Return the quotient; of integers, rounded toward zero."""
    if a.dtype.kind not in "iu":
        return np.divide(a, b)
    if a.dtype.kind == "u":
        return np.floor_divide(a, b)
    quotient, rest = np.divmod(a, b)
    return quotient + ((rest != 0) & ((a < 0) != (b < 0))).astype(a.dtype)


def _mod(node: Node) -> _Run:
    as_in_c = flag(node, "fmod")

    def run(a: Array, b: Array) -> Any:
        check_same(a, b)
        _check_kind(a, _NUMBERS)
        if as_in_c:
            return np.asarray(
                np.fmod(a, b) if a.dtype.kind != "V" else computed_wide(np.fmod)(a, b)
            )
        return np.asarray(computed_wide(np.mod)(a, b))

    return run


def _power(a: Array, b: Array) -> Array:
    """Return a**b in the dtype of a, whatever that of b."""
    _check_kind(a, _NUMBERS)
    _check_kind(b, _NUMBERS)
    if b.size == 1 and b.ndim <= a.ndim:  # squares are products, twice as fast
        exponent = b.item()
        if exponent == 2:
            return np.asarray(a * a)
        if exponent == 3:
            return np.asarray(a * a * a)
    if a.dtype.kind in _INTEGERS:
        if b.dtype.kind in _INTEGERS and (b.dtype.kind == "u" or not (b < 0).any()):
            return np.asarray(np.power(a, b.astype(a.dtype)))
        return np.asarray(np.power(a.astype(np.float64), b.astype(np.float64))).astype(a.dtype)
    base = widened(a)
    return np.asarray(np.power(base, b.astype(base.dtype))).astype(a.dtype, copy=False)


def _shift(node: Node) -> _Run:
    left = text(node, "direction", "", ("LEFT", "RIGHT")) == "LEFT"

    def run(a: Array, b: Array) -> Array:
        check_same(a, b)
        _check_kind(a, _INTEGERS)
        bits = 8 * a.dtype.itemsize
        beyond = (b < 0) | (b >= bits)
        by = np.where(beyond, 0 if left else bits - 1, b).astype(b.dtype)
        if left:
            return np.where(beyond, a.dtype.type(0), np.left_shift(a, by))
        # Of a negative number all bits are the sign's, of another one none is left.
        shifted = np.right_shift(a, by)
        return np.where(beyond & (a >= 0), a.dtype.type(0), shifted)

    return run


def _prelu(x: Array, slope: Array) -> Array:
    check_same(x, slope)
    zero = x.dtype.type(0)
    if np.broadcast_shapes(x.shape, slope.shape) != x.shape:
        raise ValueError(
            f"slope should broadcast to the input of shape {list(x.shape)}, got {list(slope.shape)}"
        )
    y = np.asarray(np.minimum(x, zero))
    y *= slope
    y += np.maximum(x, zero)
    return y


_OF_TWO: list[tuple[str, _Run, str]] = [
    ("Add", np.add, _NUMBERS),
    ("Sub", np.subtract, _NUMBERS),
    ("Mul", np.multiply, _NUMBERS),
    ("Div", divided, _NUMBERS),
    ("Equal", np.equal, _ANY),
    ("Greater", np.greater, _NUMBERS),
    ("GreaterOrEqual", np.greater_equal, _NUMBERS),
    ("Less", np.less, _NUMBERS),
    ("LessOrEqual", np.less_equal, _NUMBERS),
    ("And", np.logical_and, "b"),
    ("Or", np.logical_or, "b"),
    ("Xor", np.logical_xor, "b"),
    ("BitwiseAnd", np.bitwise_and, _INTEGERS),
    ("BitwiseOr", np.bitwise_or, _INTEGERS),
    ("BitwiseXor", np.bitwise_xor, _INTEGERS),
]
for _name, _function, _kinds in _OF_TWO:
    operator(_name, since=7)(_binary(_function, _kinds))
operator("Mod")(_mod)
operator("Pow", since=7)(lambda node: _power)
operator("BitShift")(_shift)
operator("PRelu", since=7)(lambda node: computed_wide(_prelu))


# ---- any number of inputs ---------------------------------------------------------------------


def _of_all(function: _Run) -> Callable[[Node], _Run]:
    def run(*arrays: Array) -> Any:
        if not arrays:
            raise ValueError("it should have an input")
        check_same(*arrays)
        _check_kind(arrays[0], _NUMBERS)
        total = arrays[0]
        for array in arrays[1:]:
            total = function(total, array)
        return np.asarray(total)

    return lambda node: run


def _mean(*arrays: Array) -> Array:
    check_same(*arrays)
    total = arrays[0]
    for array in arrays[1:]:
        total = total + array
    return np.asarray(total / arrays[0].dtype.type(len(arrays)))


operator("Max")(_of_all(np.maximum))
operator("Min")(_of_all(np.minimum))
operator("Sum")(_of_all(np.add))
operator("Mean")(lambda node: computed_wide(_mean))


# ---- one input --------------------------------------------------------------------------------


def _unary(function: _Run, kinds: str = "fV") -> Callable[[Node], _Run]:
    wide = computed_wide(function)

    def run(x: Array) -> Any:
        if x.dtype.kind not in kinds or x.dtype.kind == "V":
            _check_kind(x, kinds)
            return np.asarray(wide(x))
        return np.asarray(function(x))

    return lambda node: run


_OF_ONE: list[tuple[str, _Run, str]] = [
    ("Abs", np.abs, _NUMBERS),
    ("Neg", np.negative, "ifV"),
    ("Sign", np.sign, _NUMBERS),
    ("Ceil", np.ceil, "fV"),
    ("Floor", np.floor, "fV"),
    ("Round", np.rint, "fV"),
    ("Sqrt", np.sqrt, "fV"),
    ("Reciprocal", np.reciprocal, "fV"),
    ("Exp", np.exp, "fV"),
    ("Log", np.log, "fV"),
    ("Sin", np.sin, "fV"),
    ("Cos", np.cos, "fV"),
    ("Tan", np.tan, "fV"),
    ("Asin", np.arcsin, "fV"),
    ("Acos", np.arccos, "fV"),
    ("Atan", np.arctan, "fV"),
    ("Sinh", np.sinh, "fV"),
    ("Cosh", np.cosh, "fV"),
    ("Tanh", np.tanh, "fV"),
    ("Asinh", np.arcsinh, "fV"),
    ("Acosh", np.arccosh, "fV"),
    ("Atanh", np.arctanh, "fV"),
    ("Not", np.logical_not, "b"),
    ("BitwiseNot", np.invert, _INTEGERS),
    ("IsNaN", np.isnan, "fV"),
]
for _name, _function, _kinds in _OF_ONE:
    operator(_name)(_unary(_function, _kinds))


def _erf(x: Array) -> Array:
    if x.dtype.char not in "fd":
        return _erf(x.astype(np.float64)).astype(x.dtype)
    y = np.empty(x.shape, x.dtype)
    erf(np.ascontiguousarray(x), y)
    return y


operator("Erf")(_unary(computed_wide(_erf), _NUMBERS))


@operator("IsInf")
def _is_inf(node: Node) -> _Run:
    below, above = flag(node, "detect_negative", True), flag(node, "detect_positive", True)
    if below and above:
        return _unary(np.isinf)(node)
    if below or above:
        infinity = math.inf if above else -math.inf
        return lambda x: np.asarray(widened(x) == infinity)
    return lambda x: np.zeros(x.shape, bool)


# ---- bounds and choices -----------------------------------------------------------------------


def _clipped(x: Array, low: Any, high: Any) -> Array:
    if low is not None and high is not None:  # one pass, where the two functions are two
        return np.asarray(computed_wide(np.clip)(x, low, high))
    if low is None and high is None:
        return x
    return np.asarray(np.maximum(x, low) if high is None else np.minimum(x, high))


@operator("Clip", since=6, until=10)
def _clip_by_attributes(node: Node) -> _Run:
    low, high = number(node, "min", None), number(node, "max", None)

    def run(x: Array) -> Array:
        bounds = [None if v is None else np.array(v).astype(x.dtype) for v in (low, high)]
        return _clipped(x, *bounds)

    return run


@operator("Clip", since=11)
def _clip(node: Node) -> _Run:
    def run(x: Array, low: Array | None = None, high: Array | None = None) -> Array:
        check_same(x, low, high)
        _check_kind(x, _NUMBERS)
        for name, bound in (("min", low), ("max", high)):
            if bound is not None and bound.size != 1:
                raise ValueError(f"{name} should be one value, got shape {list(bound.shape)}")
        bounds = [None if b is None else b.reshape(()) for b in (low, high)]
        return _clipped(x, *bounds)

    return run


@operator("Where")
def _where(node: Node) -> _Run:
    def run(condition: Array, x: Array, y: Array) -> Array:
        if condition.dtype != bool:
            raise TypeError(f"condition should be bool, got dtype {condition.dtype}")
        check_same(x, y)
        return np.where(condition, x, y)

    return run


@operator("Identity")
@operator("Dropout", since=7, until=11)
def _identity(node: Node) -> _Run:
    """Return the input, and for a Dropout of inference that nothing was dropped."""
    if len(node.outputs) == 1:
        return lambda x, *_: x
    if node.opset < 10:  # the mask has the input's type
        return lambda x: (x, np.ones_like(x))
    return lambda x: (x, np.ones(x.shape, bool))


@operator("Dropout", since=12)
def _dropout(node: Node) -> _Run:
    def run(x: Array, ratio: Array | None = None, training: Array | None = None) -> Any:
        if training is not None and scalar_of(training, "training_mode"):
            if ratio is None or scalar_of(ratio, "ratio") != 0:
                raise node.error("training_mode=True is not supported")
        return x if len(node.outputs) == 1 else (x, np.ones(x.shape, bool))

    return run


# ---- conversions ------------------------------------------------------------------------------


@operator("Cast", since=6)
def _cast(node: Node) -> _Run:
    dtype = element_dtype(node, required_integer(node, "to"))

    return lambda x: converted(x, dtype)


@operator("CastLike", since=15)
def _cast_like(node: Node) -> _Run:
    return lambda x, target: converted(x, target.dtype)


@operator("BitCast", since=26)
def _bit_cast(node: Node) -> _Run:
    dtype = element_dtype(node, required_integer(node, "to"))

    def run(x: Array) -> Array:
        if x.dtype.itemsize != dtype.itemsize:
            raise TypeError(f"dtype {x.dtype} does not have the size of {dtype}")
        return np.ascontiguousarray(x).reshape(x.shape).view(dtype)

    return run
