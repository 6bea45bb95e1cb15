"""Recurrent layers of constant parameters."""

from __future__ import annotations

from ..matching import Constant, Match, Op, View
from ..recurrence import Recurrent
from ..registry import Node
from .rules import OURS, RULES, pass_on, x

_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


@RULES.rule(Op("LSTM", x, Constant("weight"), Constant("back"), more=True))
def _recurrent(view: View, node: Node, found: Match) -> Node | None:
    """An LSTM of constant parameters, without anything unusual."""
    get = node.attributes.get
    backward = _DIRECTIONS.get(get("direction", "forward"))
    bias, lengths, state, cell, peep = [*node.inputs[3:], *[""] * 5][:5]
    usual = ["Sigmoid", "Tanh", "Tanh"] * len(backward or ())
    if backward is None or lengths or peep or get("activations", usual) != usual:
        return None
    if get("clip") is not None or get("layout") or get("input_forget"):
        return None
    parameters = [found.constants["weight"], found.constants["back"]]
    if bias:
        if bias not in view.constants:
            return None
        parameters.append(view.constants[bias])
    n, count = get("hidden_size", 0), len(backward)
    width = parameters[0].shape[-1] if parameters[0].ndim == 3 else 0
    shapes = [(count, 4 * n, width), (count, 4 * n, n), (count, 8 * n)]
    if n < 1 or width < 1 or parameters[0].dtype.char not in "fd":
        return None
    if [p.shape for p in parameters] != shapes[: len(parameters)]:
        return None
    if any(p.dtype != parameters[0].dtype for p in parameters):
        return None
    made = Recurrent(
        *(node.op, OURS, node.name, [node.inputs[0], state, cell]),
        backward=backward,
        parameters=parameters,
    )
    return pass_on(node, made, [node])
