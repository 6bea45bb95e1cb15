"""What the rules have in common."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from ..matching import Match, Rules, Value, View
from ..registry import Node

Array = NDArray[Any]

# VIEWS are applied when RULES have been applied to the whole graph.
RULES, VIEWS = Rules(), Rules()
OURS = "fastconv1d"  # the domain of nodes that rules made

x = Value("x")


def pass_on(node: Node, made: Any, found: list[Node]) -> Any:
    """Return a made node under the outputs of the last one that it replaces."""
    replaced = [n for one in found for n in (getattr(one, "replaced", None) or [one])]
    made.domain, made.outputs, made.replaced = OURS, node.outputs, replaced
    return made


def renamed(node: Node, names: dict[str, str]) -> Node:
    """Return a copy of a node that reads and writes other values.

    One that writes others has another name: names are unique in ONNX Runtime.
    """
    inputs, outputs = ([names.get(n, n) for n in values] for values in (node.inputs, node.outputs))
    name = node.name if outputs == node.outputs else outputs[0]
    return replace(node, inputs=inputs, outputs=outputs, name=name)


def matched(view: View, found: Match) -> list[Node]:
    return [n for p in sorted({*found.places}) if (n := view.places[p]) is not None]


def integers(view: View, node: Node, name: str, position: int) -> list[int] | None:
    """Return what is an attribute in older operator sets, later a constant input."""
    if name in node.attributes:
        return [*node.attributes[name]]
    array = view.constants.get(node.inputs[position]) if len(node.inputs) > position else None
    return None if array is None else [int(v) for v in array.reshape(-1)]
