"""Norms, written out or as operators."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..matching import Constant, Made, Match, Op, Pattern, View, number_in
from ..norms import Affine, Normalize
from ..registry import Node
from .rules import OURS, RULES, matched, pass_on, x


def _mean(of: Pattern) -> Pattern:
    return Op("ReduceMean", of, label="mean") | Op("ReduceMean", of, Constant("axes"), label="mean")


_centred = x - _mean(x)
_variance = _mean(_centred * _centred) | _mean(Op("Pow", _centred, 2.0))


@RULES.rule(_centred / Op("Sqrt", _variance + Constant("epsilon", scalar=True)))
def _normalized(view: View, node: Node, found: Match) -> Node | None:
    means = [n for n in matched(view, found) if n.op == "ReduceMean"]
    axes = [_axes(view, n) for n in means]
    if (
        axes[0] is None
        or axes[0] != axes[1]
        or any(not n.attributes.get("keepdims", 1) for n in means)
    ):
        return None
    epsilon = float(found.constants["epsilon"].reshape(-1)[0])
    made = Normalize(
        node.op, name=node.name, inputs=[found.values["x"]], axes=axes[0], epsilon=epsilon
    )
    return pass_on(node, made, matched(view, found))


def _axes(view: View, mean: Node) -> tuple[int, ...] | None:
    given = mean.attributes.get("axes")
    if given is None and len(mean.inputs) > 1:
        given = view.constants[mean.inputs[1]].reshape(-1)
    return None if given is None or not len(given) else tuple(int(axis) for axis in given)


_norm = Made("norm", Normalize, lambda norm: norm.shift is None)


@RULES.rule(Op("Mul", _norm, Constant("factor")), Op("Add", _norm, Constant("factor")))
def _norm_affine(view: View, node: Node, found: Match) -> Node | None:
    norm, factor = found.nodes["norm"], found.constants["factor"]
    assert isinstance(norm, Normalize)
    rank = view.rank(norm.inputs[0])
    if rank is None or factor.ndim > rank or (node.op == "Mul" and norm.scale is not None):
        return None
    made = replace(norm, scale=factor) if node.op == "Mul" else replace(norm, shift=factor)
    return pass_on(node, made, matched(view, found))


@RULES.rule(
    Op("LayerNormalization", x, Constant("scale")),
    Op("LayerNormalization", x, Constant("scale"), Constant("shift")),
)
def _layer_norm(view: View, node: Node, found: Match) -> Node | None:
    if any(node.outputs[1:]) or node.attributes.get("stash_type", 1) != 1:
        return None
    rank, axis = view.rank(node.inputs[0]), node.attributes.get("axis", -1)
    if rank is None or not -rank <= axis < rank or found.constants["scale"].ndim > rank:
        return None
    made = Normalize(
        *(node.op, OURS, node.name, node.inputs[:1]),
        axes=tuple(range(axis % rank - rank, 0)),
        epsilon=node.attributes.get("epsilon", 1e-5),
        scale=found.constants["scale"],
        shift=found.constants.get("shift"),
    )
    return pass_on(node, made, matched(view, found))


@RULES.rule(
    Op("BatchNormalization", x, *map(Constant, ("scale", "shift", "mean", "variance"))),
)
def _lone_batch_norm(view: View, node: Node, found: Match) -> Node | None:
    """A batch norm that no convolution takes: a multiplication, and an addition that follows."""
    rank = view.rank(node.inputs[0])
    if rank is None or rank < 2 or any(node.outputs[1:]) or node.attributes.get("training_mode"):
        return None
    names = ("scale", "shift", "mean", "variance")
    dtype = found.constants["scale"].dtype
    scale, shift, mean, variance = (found.constants[n].astype(np.float64) for n in names)
    if dtype.char not in "fd" or any(found.constants[n].dtype != dtype for n in names):
        return None
    with np.errstate(all="ignore"):
        scale = scale / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
        shift = shift - mean * scale
    shape = (-1, *(1,) * (rank - 2))
    factor = number_in(view, f"{node.outputs[0]}.scale", scale.astype(dtype).reshape(shape))
    term = number_in(view, f"{node.outputs[0]}.shift", shift.astype(dtype).reshape(shape))
    return pass_on(
        node, Affine(node.op, name=node.name, inputs=[node.inputs[0], factor, term]), [node]
    )
