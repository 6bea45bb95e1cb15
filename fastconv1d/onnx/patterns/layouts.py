"""Convolutions of dimensions that are dropped, and those whose channels lie last."""

from __future__ import annotations

from dataclasses import replace

from ..layers import Convolution
from ..matching import Made, Match, Op, View, new_name
from ..registry import Node
from .convolutions import BARE
from .rules import RULES, integers, matched, pass_on


@RULES.rule(Op("Squeeze", BARE, more=True))
def _squeezed(view: View, node: Node, found: Match) -> Node | list[Node] | None:
    """A dimension of one point that a convolution leaves, and that is dropped after it."""
    conv = found.nodes["conv"]
    assert isinstance(conv, Convolution)
    axes = integers(view, node, "axes", 1)
    if not axes or conv.squeezed or conv.follows_length or conv.flat:
        return None
    axes = sorted(axis % (2 + conv.rank) for axis in axes)
    if len(axes) >= conv.rank or not all(axis >= 2 and conv.leaves(axis - 2) for axis in axes):
        return None
    made = pass_on(node, replace(conv.without(axes), squeezed=tuple(axes)), matched(view, found))
    before = _without_dimensions(view, conv.inputs[0], axes, 2 + conv.rank)
    if before is None:
        return made
    source, perm = before
    if perm == sorted(perm):
        return replace(made, inputs=[source], squeezed=())
    turned = Node("Transpose", "", "", [source], [new_name(view, f"{node.outputs[0]}.in")])
    turned.attributes, turned.opset = {"perm": perm}, node.opset
    return [turned, replace(made, inputs=turned.outputs, squeezed=())]


def _without_dimensions(
    view: View, name: str, axes: list[int], rank: int
) -> tuple[str, list[int]] | None:
    """Return the value that has not these dimensions, and the order of its others."""
    maker = view.maker(name)
    perm = [*range(rank)]
    if maker is not None and maker.op == "Transpose" and not maker.domain:
        perm = maker.attributes.get("perm") or perm[::-1]
        name = maker.inputs[0]
        maker = view.maker(name)
    if maker is None or maker.op != "Unsqueeze" or maker.domain:
        return None
    added = integers(view, maker, "axes", 1)
    if added is None or sorted(a % rank for a in added) != sorted(perm[a] for a in axes):
        return None
    kept = [p for i, p in enumerate(perm) if i not in axes]
    return maker.inputs[0], [sorted(kept).index(p) for p in kept]


@RULES.rule(Op("Transpose", Made("conv", Convolution, lambda c: True), perm=[0, 2, 1]))
def _channels_last(view: View, node: Node, found: Match) -> Node | None:
    """Transposed before and after a convolution: that is the other layout."""
    conv = found.nodes["conv"]
    assert isinstance(conv, Convolution)
    before = view.maker(conv.inputs[0])
    if conv.rank != 1 or conv.channels_last or conv.position is not None or not conv.takes_steps:
        return None
    if before is None or before.op != "Transpose" or before.attributes.get("perm") != [0, 2, 1]:
        return None
    steps = [s for s in (conv.before, conv.after) if s is not None and s.alpha is not None]
    if conv.transposed or conv.padding_mode != "zeros" or conv.squeezed or steps:
        return None
    made = replace(conv, inputs=before.inputs, channels_last=True)
    return pass_on(node, made, matched(view, found))
