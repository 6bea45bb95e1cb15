"""Operators of com.microsoft that ONNX Runtime's optimizer writes and that others here compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.activations import Activation
from .layers import activated
from .registry import Node, find, operator

Array = NDArray[Any]

_DOMAIN = "com.microsoft"


def _biased(step: Activation) -> Callable[..., Any]:
    def run(x: Array, bias: Array | None = None) -> Array:
        return activated(step, x if bias is None else x + bias)

    return run


@operator("Gelu", domain=_DOMAIN)
@operator("BiasGelu", domain=_DOMAIN)
def _gelu(node: Node) -> Callable[..., Any]:
    return _biased(Activation("gelu"))


@operator("FastGelu", domain=_DOMAIN)
def _fast_gelu(node: Node) -> Callable[..., Any]:
    return _biased(Activation("gelu_tanh"))


@operator("QuickGelu", domain=_DOMAIN)
def _quick_gelu(node: Node) -> Callable[..., Any]:
    alpha, step = node.attributes.get("alpha", 1.702), Activation("sigmoid")

    def run(x: Array) -> Array:
        share = activated(step, x * x.dtype.type(alpha))
        return np.multiply(share, x, out=share)

    return run


@operator("SkipLayerNormalization", domain=_DOMAIN)
def _skip_layer_normalization(node: Node) -> Callable[..., Any]:
    if any(node.outputs[1:3]):
        raise node.error("mean and inverse deviation are not supported as outputs")
    inner = Node("LayerNormalization", "", node.name, [], ["y"], {}, 17)
    inner.attributes = {"epsilon": node.attributes.get("epsilon", 1e-12), "axis": -1}
    build = find(inner)
    assert build is not None
    norm = build(inner)

    def run(
        x: Array, skip: Array, scale: Array, shift: Array | None = None, bias: Array | None = None
    ) -> tuple[Any, ...]:
        total = x + skip if bias is None else x + skip + bias
        y = norm(total, scale, shift)
        return (y[0] if isinstance(y, tuple) else y), None, None, total

    return run
