"""Values that are quantised and back, and products of them with constants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..matching import Constant, Made, Match, Op, View, new_name
from ..norms import Rounded
from ..quantised import QuantisedProduct
from ..registry import Node
from .rules import OURS, RULES, pass_on, renamed

Array = NDArray[Any]

# Products of two bytes whose sum 32 bits hold.
_MOST_TERMS = 65_000


@RULES.rule(
    Op("DequantizeLinear", Op("QuantizeLinear", more=True, label="first"), Constant("scale")),
    Op(
        *("DequantizeLinear", Op("QuantizeLinear", more=True, label="first")),
        *(Constant("scale"), Constant("zero")),
    ),
)
def _rounded(view: View, node: Node, found: Match) -> Node | None:
    """Quantised and back by one scale: rounded and limited values of the same dtype."""
    first = found.nodes["first"]
    scale, zero = found.constants["scale"], found.constants.get("zero")
    own = [view.constants.get(name) for name in first.inputs[1:] if name]
    wanted = [scale] if zero is None else [scale, zero]
    if scale.size != 1 or scale.dtype != np.float32 or len(own) != len(wanted):
        return None
    if any(a is None or not np.array_equal(a, b) for a, b in zip(own, wanted, strict=True)):
        return None
    if first.attributes.get("output_dtype") or node.attributes.get("output_dtype"):
        return None
    kind = np.dtype(np.uint8) if zero is None else zero.dtype
    if kind.name not in ("int8", "uint8", "int16", "uint16"):
        return None
    offset = 0 if zero is None else int(zero.reshape(-1)[0])
    limits = np.iinfo(kind).min - offset, np.iinfo(kind).max - offset
    product = view.maker(first.inputs[0])
    if (
        isinstance(product, QuantisedProduct)
        and not product.step
        and product.bias is None
        and view.uses[first.inputs[0]] == view.uses[first.outputs[0]] == 1
    ):
        found.places.append(view.makers[first.inputs[0]])
        step = float(scale.reshape(-1)[0])
        return pass_on(node, replace(product, step=step, limits=limits), [product, first, node])
    # The first node stays where others read it too.
    found.places.remove(view.makers[first.outputs[0]])
    made = Rounded(node.op, name=node.name, inputs=first.inputs[:1], limits=limits)
    made.scale, made.steps = float(scale.reshape(-1)[0]), first.outputs[0]
    names = {first.outputs[0]: new_name(view, f"{node.outputs[0]}.steps")}
    return pass_on(node, made, [renamed(first, names), renamed(node, names)])


def quantised_product(view: View, node: Node, found: Match) -> Node | None:
    """A product of values that were bytes with a constant matrix that was: one of whole numbers."""
    rounded, matrix = view.maker(node.inputs[0]), _whole_matrix(view, node)
    if matrix is None or not isinstance(rounded, Rounded) or not rounded.steps:
        return None
    weight, scale = matrix
    low, high = rounded.limits
    kind = view.types[rounded.steps].dtype if rounded.steps in view.types else None
    if high - low != 255 or kind not in (np.int8, np.uint8) or weight.shape[1] > _MOST_TERMS:
        return None
    bias = found.constants.get("bias")
    if bias is not None and (bias.shape != scale.shape or bias.dtype != np.float32):
        return None
    back = rounded.replaced[-1]
    values = new_name(view, f"{node.outputs[0]}.values")
    names = {back.inputs[0]: rounded.steps, back.outputs[0]: values, node.inputs[0]: values}
    signed = kind == np.int8
    made = QuantisedProduct(
        *(node.op, OURS, node.name, [rounded.steps]),
        weight=weight,
        scale=scale * np.float32(rounded.scale),
        zero=(-128 if signed else 0) - low,
        signed=signed,
        bias=bias,
    )
    return pass_on(node, made, [renamed(back, names), renamed(node, names)])


def _whole_matrix(view: View, node: Node) -> tuple[Array, Array] | None:
    """Return a constant matrix (n, k) less its zeros as signed bytes, and the scale of each row."""
    recipe = view.graph.recipes.get(node.inputs[1])
    if recipe is None or recipe.op != "DequantizeLinear" or recipe.attributes.get("block_size"):
        return None
    stored, scale, *zero = [view.constants.get(name) for name in recipe.inputs if name]
    if stored is None or scale is None or stored.ndim != 2 or stored.size == 0:
        return None
    if stored.dtype not in (np.int8, np.uint8) or scale.dtype != np.float32 or scale.ndim > 1:
        return None
    turned = bool(node.attributes.get("transB"))
    count = stored.shape[0 if turned else 1]
    if scale.size != 1 and (recipe.attributes.get("axis", 1) % 2 == turned or scale.size != count):
        return None
    wide = stored.astype(np.int16)
    if zero:
        if zero[0] is None:
            return None
        wide = wide - (zero[0][:, np.newaxis] if turned and zero[0].size > 1 else zero[0])
    if wide.min() < -128 or wide.max() > 127:
        return None
    matrix = np.ascontiguousarray(wide if turned else wide.T, np.int8)
    return matrix, np.broadcast_to(scale.reshape(-1), count)


@RULES.rule(
    Op(
        "Add",
        Made("product", QuantisedProduct, lambda product: product.bias is None),
        Constant("bias"),
    )
)
def _quantised_bias(view: View, node: Node, found: Match) -> Node | None:
    product, bias = found.nodes["product"], found.constants["bias"]
    assert isinstance(product, QuantisedProduct)
    if bias.shape != product.scale.shape or bias.dtype != np.float32:
        return None
    return pass_on(node, replace(product, bias=bias), [product, node])
