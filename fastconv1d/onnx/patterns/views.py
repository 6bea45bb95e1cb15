"""Views that no other rule took."""

from __future__ import annotations

from typing import Any

from ..matching import Constant, Match, Op, View
from ..norms import Indexed
from ..registry import Node
from .rules import VIEWS, integers, pass_on, x


def _indexed(view: View, node: Node, found: Match, index: list[Any], rank: int) -> Node:
    made = Indexed(node.op, name=node.name, inputs=node.inputs[:1], index=tuple(index), rank=rank)
    return pass_on(node, made, [node])


@VIEWS.rule(Op("Unsqueeze", x), Op("Unsqueeze", x, Constant("axes")))
def _unsqueezed(view: View, node: Node, found: Match) -> Node | None:
    rank, axes = view.rank(node.inputs[0]), integers(view, node, "axes", 1)
    if rank is None or axes is None:
        return None
    size = rank + len(axes)
    places = {axis % size for axis in axes if -size <= axis < size}
    if len(places) < len(axes):
        return None
    index = [None if place in places else slice(None) for place in range(size)]
    return _indexed(view, node, found, index, rank)


@VIEWS.rule(
    Op("Slice", x),
    Op("Slice", x, *map(Constant, ("starts", "ends"))),
    Op("Slice", x, *map(Constant, ("starts", "ends", "axes"))),
    Op("Slice", x, *map(Constant, ("starts", "ends", "axes", "steps"))),
)
def _sliced(view: View, node: Node, found: Match) -> Node | None:
    rank = view.rank(node.inputs[0])
    starts, ends, axes, steps = (
        integers(view, node, name, i)
        for i, name in enumerate(("starts", "ends", "axes", "steps"), 1)
    )
    if rank is None or starts is None or ends is None:
        return None
    axes = [*range(len(starts))] if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps) or min(steps, default=1) < 1:
        return None
    if any(not -rank <= axis < rank for axis in axes):
        return None
    index = [slice(None)] * rank
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, end, step)
    return _indexed(view, node, found, index, rank)


@VIEWS.rule(Op("Gather", x, Constant("place", scalar=True)))
def _picked(view: View, node: Node, found: Match) -> Node | None:
    rank, place = view.rank(node.inputs[0]), found.constants["place"]
    axis = node.attributes.get("axis", 0)
    if rank is None or place.ndim or not -rank <= axis < rank:
        return None
    index: list[Any] = [slice(None)] * (axis % rank) + [int(place)]
    return _indexed(view, node, found, [*index, ...], rank)
