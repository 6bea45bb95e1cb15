"""Activations as exporters write them, on their own or as the last step of a convolution."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from ...core.activations import SNAKE_EPSILON, Activation, parse_activation
from ..layers import Activate, Convolution
from ..matching import Constant, Match, Op, Pattern, View
from ..registry import Node
from .rules import RULES, matched, pass_on, x

_erf = Op("Erf", x / math.sqrt(2)) | Op("Erf", x * math.sqrt(0.5))
_cubic = (Op("Pow", x, 3.0) | x * (x * x)) * 0.044715 | x * (x * (x * 0.044715))
_u = (x + _cubic) * math.sqrt(2 / math.pi)
_u2 = x * ((x * x) * 0.044715 + 1.0) * math.sqrt(2 / math.pi)
_tanh_u = (
    Op("Tanh", _u)
    | Op("Tanh", _u2)
    | Op("Tanh", (x * math.sqrt(2 / math.pi)) * ((x * x) * 0.044715 + 1.0))
)


def _halves(share: Pattern) -> list[Pattern]:
    """Return the ways to write ``x * (1 + share) / 2``."""
    more = share + 1.0
    return [
        (x * more) * 0.5,
        (x * more) / 2.0,
        x * (more * 0.5),
        (x * 0.5) * more,
        x * (share * 0.5 + 0.5),
    ]


def _spelled(name: str, *patterns: Pattern) -> None:
    @RULES.rule(*patterns)
    def make(view: View, node: Node, found: Match) -> Node | None:
        step = parse_activation(name)
        assert step is not None
        return with_activation(view, node, found, step)


def with_activation(view: View, node: Node, found: Match, step: Activation) -> Node | None:
    """Return the convolution that makes `x` with the activation, or the activation alone."""
    source, nodes = found.values["x"], matched(view, found)
    maker = view.maker(source)
    inside = sum(n.inputs.count(source) for n in nodes)
    if (
        isinstance(maker, Convolution)
        and maker.after is None
        and maker.position != "after"
        and maker.takes_steps
        and view.uses[source] == inside
        and (step.alpha is None or step.alpha.size == maker.out_channels)
        and not (step.alpha is not None and maker.channels_last)
    ):
        found.places.append(view.makers[source])
        return pass_on(node, replace(maker, after=step), [maker, *nodes])
    if step.alpha is not None and view.rank(source) != 3:
        return None
    return pass_on(node, Activate(node.op, name=node.name, inputs=[source], activation=step), nodes)


_spelled("gelu", *_halves(_erf))
_spelled("gelu_tanh", *_halves(_tanh_u))
_spelled("silu", x * Op("Sigmoid", x))


def _named(op: str, of: Any) -> None:
    @RULES.rule(Op(op, x))
    def make(view: View, node: Node, found: Match) -> Node | None:
        step = of(node)
        return None if step is None else with_activation(view, node, found, step)


def _gelu(node: Node) -> Activation | None:
    kinds = {"none": "gelu", "tanh": "gelu_tanh"}
    kind = kinds.get(node.attributes.get("approximate", "none"))
    return None if kind is None else Activation(kind)


_named("Relu", lambda node: Activation("relu"))
_named("Sigmoid", lambda node: Activation("sigmoid"))
_named("Tanh", lambda node: Activation("tanh"))
_named("LeakyRelu", lambda node: Activation("leaky_relu", node.attributes.get("alpha", 0.01)))
_named("Elu", lambda node: Activation("elu", node.attributes.get("alpha", 1.0)))
_named("Gelu", _gelu)
_named("Swish", lambda n: Activation("silu") if n.attributes.get("alpha", 1.0) == 1 else None)


@RULES.rule(Op("PRelu", x, Constant("slope")))
def _prelu(view: View, node: Node, found: Match) -> Node | None:
    slope = found.constants["slope"]
    if slope.dtype.kind != "f" or slope.size == 0 or (slope != slope.reshape(-1)[0]).any():
        return None
    return with_activation(view, node, found, Activation("leaky_relu", float(slope.reshape(-1)[0])))


@RULES.rule(Op("Clip", x, Constant("low", scalar=True)), Op("Max", x, Constant("low", scalar=True)))
def _relu_by_bound(view: View, node: Node, found: Match) -> Node | None:
    low = found.constants["low"]
    if low.dtype.kind != "f" or low.reshape(-1)[0] != 0 or low.ndim > 1:
        return None
    return with_activation(view, node, found, Activation("relu"))


@RULES.rule(
    Op("Max", x, Op("LeakyRelu", x, label="leaky")),
    Op("Max", x, x * Constant("slope", scalar=True)),
)
def _leaky_by_max(view: View, node: Node, found: Match) -> Node | None:
    if "leaky" in found.nodes:
        slope = found.nodes["leaky"].attributes.get("alpha", 0.01)
    else:
        slope = float(found.constants["slope"].reshape(-1)[0])
        if found.constants["slope"].dtype.kind != "f" or found.constants["slope"].ndim > 1:
            return None
    if not 0 <= slope <= 1:
        return None
    return with_activation(view, node, found, Activation("leaky_relu", slope))


_sine = Op("Sin", x * Constant("alpha"))


@RULES.rule(
    x + (_sine * _sine) * Constant("inverse"),
    x + (_sine * _sine) / Constant("inverse"),
    x + Op("Pow", _sine, 2.0) * Constant("inverse"),
    x + Op("Pow", _sine, 2.0) / Constant("inverse"),
)
def _snake(view: View, node: Node, found: Match) -> Node | None:
    alpha, inverse = found.constants["alpha"], found.constants["inverse"]
    if any(n.op == "Div" for n in matched(view, found)):
        inverse = 1 / inverse
    channels = max(alpha.size, 1)
    per_channel = alpha.size == 1 or alpha.shape in ((channels, 1), (1, channels, 1))
    if alpha.dtype.kind != "f" or not per_channel or alpha.size != inverse.size:
        return None
    if not np.allclose(inverse.reshape(-1) * (alpha.reshape(-1) + SNAKE_EPSILON), 1, 1e-5):
        return None
    wide = alpha.reshape(-1)
    if alpha.size == 1:
        maker = view.maker(found.values["x"])
        if not isinstance(maker, Convolution):
            return None
        wide = np.repeat(wide, maker.out_channels)
    return with_activation(view, node, found, Activation("snake", 0.0, wide))
