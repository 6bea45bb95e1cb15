"""The activations that have operators of their own."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from ...core.activations import parse_activation
from ...kernels import direct_engine
from ..registry import Node, operator
from .attributes import number, text
from .types import Array, check_float, check_same, computed_wide

_Run = Callable[..., Any]


def _floating(function: _Run) -> _Run:
    """Return the function for arrays of floating point, those of 16 bits in float32."""
    wide = computed_wide(function)

    def run(x: Array) -> Any:
        check_float(x)
        return np.asarray(wide(x)).astype(x.dtype, copy=False)

    return run


@lru_cache
def compiled(activation: Any) -> _Run:
    """Return an activation of the convolutions' kernels as a function of any array of floats."""
    step = parse_activation(activation)

    def run(x: Array) -> Array:
        y = np.array(x, order="C")
        direct_engine.finish(step, y.reshape(1, 1, -1), None, 1.0, False)
        return y

    return run


expit, _silu = compiled("sigmoid"), compiled("silu")


def _below(x: Array) -> Any:
    return np.minimum(x, x.dtype.type(0))


def _above(x: Array) -> Any:
    return np.maximum(x, x.dtype.type(0))


def _share(x: Array, alpha: float, beta: float) -> Any:
    """Return alpha*x + beta, kept in [0, 1]."""
    y = np.asarray(x * alpha)
    y += beta
    return np.clip(y, 0, 1, out=y)


# Name: (function of x and the attributes' values, their names and defaults), as a recurrent
# operator takes them too.
FUNCTIONS: dict[str, tuple[_Run, dict[str, float]]] = {
    "Relu": (_above, {}),
    "Tanh": (np.tanh, {}),
    "Sigmoid": (expit, {}),
    "Affine": (lambda x, alpha, beta: alpha * x + beta, {"alpha": 1.0, "beta": 0.0}),
    "LeakyRelu": (lambda x, alpha: compiled(("leaky_relu", alpha))(x), {"alpha": 0.01}),
    "ThresholdedRelu": (lambda x, alpha: np.where(x > alpha, x, x.dtype.type(0)), {"alpha": 1.0}),
    "ScaledTanh": (lambda x, alpha, beta: alpha * np.tanh(beta * x), {"alpha": 1.0, "beta": 1.0}),
    "HardSigmoid": (
        _share,
        {"alpha": 0.2, "beta": 0.5},
    ),
    "Elu": (lambda x, alpha: compiled(("elu", alpha))(x), {"alpha": 1.0}),
    "Softsign": (lambda x: x / (1 + np.abs(x)), {}),
    "Softplus": (compiled("softplus"), {}),
    "Celu": (
        lambda x, alpha: _above(x) + alpha * np.expm1(_below(x) / alpha),
        {"alpha": 1.0},
    ),
    "Selu": (
        lambda x, alpha, gamma: gamma * (_above(x) + alpha * np.expm1(_below(x))),
        {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875},
    ),
    "Swish": (
        lambda x, alpha: _silu(x) if alpha == 1 else x * expit(alpha * x),
        {"alpha": 1.0},
    ),
    "Mish": (compiled("mish"), {}),
    "HardSwish": (compiled("hardswish"), {}),
    "Shrink": (
        lambda x, lambd, bias: np.where(
            x < -lambd, x + bias, np.where(x > lambd, x - bias, x.dtype.type(0))
        ),
        {"lambd": 0.5, "bias": 0.0},
    ),
}


def _builder(name: str) -> Callable[[Node], _Run]:
    function, defaults = FUNCTIONS[name]

    def build(node: Node) -> _Run:
        values = {key: number(node, key, value) for key, value in defaults.items()}
        if name == "Celu" and values["alpha"] == 0:
            raise node.error("alpha should not be 0")
        return _floating((lambda x: function(x, **values)) if values else function)

    return build


for _name in FUNCTIONS:
    if _name not in ("Affine", "ScaledTanh", "Tanh", "Relu", "Shrink"):
        operator(_name)(_builder(_name))


@operator("Relu")
def _relu(node: Node) -> _Run:
    return lambda x: np.asarray(np.maximum(x, x.dtype.type(0)))


@operator("Shrink")
def _shrink(node: Node) -> _Run:
    function, defaults = FUNCTIONS["Shrink"]
    values = {key: number(node, key, value) for key, value in defaults.items()}
    return lambda x: np.asarray(computed_wide(lambda v: function(v, **values))(x)).astype(x.dtype)


@operator("Gelu", since=20)
def _gelu(node: Node) -> _Run:
    return _floating(compiled(("gelu", text(node, "approximate", "none", ("none", "tanh")))))


@operator("SwiGLU", since=28)
def _swiglu(node: Node) -> _Run:
    alpha = number(node, "alpha", 1.0)

    def run(gate: Array, x: Array) -> Any:
        check_same(gate, x)
        if gate.shape != x.shape:
            raise ValueError(
                f"the inputs should have one shape, got {list(gate.shape)} and {list(x.shape)}"
            )
        return np.asarray(gate * expit(alpha * gate) * x)

    return computed_wide(run)
