"""Values that are quantised and back."""

from __future__ import annotations

import numpy as np

from ..matching import Constant, Match, Op, View, new_name
from ..norms import Rounded
from ..registry import Node
from .rules import RULES, pass_on, renamed


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
    # The first node stays where others read it too.
    found.places.remove(view.makers[first.outputs[0]])
    made = Rounded(node.op, name=node.name, inputs=first.inputs[:1], limits=limits)
    made.scale = float(scale.reshape(-1)[0])
    names = {first.outputs[0]: new_name(view, f"{node.outputs[0]}.steps")}
    return pass_on(node, made, [renamed(first, names), renamed(node, names)])
