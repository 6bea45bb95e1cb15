"""What exporters write, as the few operations that it is: one rule for each.

The rules run over the nodes in order, so that what one of them makes is what the next one finds: a
Conv becomes a `Convolution`, which takes on the Pad before it and the norm, the activation and the
addition after it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.activations import SNAKE_EPSILON, Activation, parse_activation
from .folding import without_dead
from .layers import LARGEST_PAD, Activate, Convolution, Refused, convolution_of
from .matching import (
    Constant,
    Made,
    Match,
    Op,
    Pattern,
    Rules,
    Value,
    View,
    new_name,
    number_in,
)
from .norms import Affine, Indexed, Normalize, Rounded
from .read import Graph
from .recurrence import Recurrent
from .registry import Node, OnnxError

Array = NDArray[Any]

RULES, VIEWS = Rules(), Rules()
OURS = "fastconv1d"  # the domain of nodes that rules made

_PAD_MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}

x = Value("x")


def simplified(graph: Graph) -> Graph:
    """Return the graph with nodes of this library in place of patterns."""
    return without_dead(VIEWS.rewritten(RULES.rewritten(graph)))


def _pass_on(node: Node, made: Any, found: list[Node]) -> Any:
    """Return a made node under the outputs of the last one that it replaces."""
    replaced = [n for one in found for n in (getattr(one, "replaced", None) or [one])]
    made.domain, made.outputs, made.replaced = OURS, node.outputs, replaced
    return made


def _renamed(node: Node, names: dict[str, str]) -> Node:
    """Return a copy of a node that reads and writes other values."""
    inputs, outputs = ([names.get(n, n) for n in values] for values in (node.inputs, node.outputs))
    return replace(node, inputs=inputs, outputs=outputs)


def _matched(view: View, found: Match) -> list[Node]:
    return [n for p in sorted({*found.places}) if (n := view.places[p]) is not None]


# ---- activations -------------------------------------------------------------------------------

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
        return _activation(view, node, found, step)


def _activation(view: View, node: Node, found: Match, step: Activation) -> Node | None:
    """Return the convolution that makes `x` with the activation, or the activation alone."""
    source, nodes = found.values["x"], _matched(view, found)
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
        return _pass_on(node, replace(maker, after=step), [maker, *nodes])
    if step.alpha is not None and view.rank(source) != 3:
        return None
    return _pass_on(
        node, Activate(node.op, name=node.name, inputs=[source], activation=step), nodes
    )


_spelled("gelu", *_halves(_erf))
_spelled("gelu_tanh", *_halves(_tanh_u))
_spelled("silu", x * Op("Sigmoid", x))


def _named(op: str, of: Any) -> None:
    @RULES.rule(Op(op, x))
    def make(view: View, node: Node, found: Match) -> Node | None:
        step = of(node)
        return None if step is None else _activation(view, node, found, step)


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
    return _activation(view, node, found, Activation("leaky_relu", float(slope.reshape(-1)[0])))


@RULES.rule(Op("Clip", x, Constant("low", scalar=True)), Op("Max", x, Constant("low", scalar=True)))
def _relu_by_bound(view: View, node: Node, found: Match) -> Node | None:
    low = found.constants["low"]
    if low.dtype.kind != "f" or low.reshape(-1)[0] != 0 or low.ndim > 1:
        return None
    return _activation(view, node, found, Activation("relu"))


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
    return _activation(view, node, found, Activation("leaky_relu", slope))


_sine = Op("Sin", x * Constant("alpha"))


@RULES.rule(
    x + (_sine * _sine) * Constant("inverse"),
    x + (_sine * _sine) / Constant("inverse"),
    x + Op("Pow", _sine, 2.0) * Constant("inverse"),
    x + Op("Pow", _sine, 2.0) / Constant("inverse"),
)
def _snake(view: View, node: Node, found: Match) -> Node | None:
    alpha, inverse = found.constants["alpha"], found.constants["inverse"]
    if any(n.op == "Div" for n in _matched(view, found)):
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
    return _activation(view, node, found, Activation("snake", 0.0, wide))


# ---- convolutions ------------------------------------------------------------------------------


@RULES.rule(
    Op("Conv", x, Constant("weight")),
    Op("Conv", x, Constant("weight"), Constant("bias")),
    Op("ConvTranspose", x, Constant("weight")),
    Op("ConvTranspose", x, Constant("weight"), Constant("bias")),
)
def _convolution(view: View, node: Node, found: Match) -> Node | None:
    weight, bias = found.constants["weight"], found.constants.get("bias")
    try:
        conv = convolution_of(node, weight, bias)
        conv.check()
    except OnnxError as error:
        refused = Refused(node.op, name=node.name, inputs=node.inputs[:1], reason=error)
        return _pass_on(node, refused, [node])
    conv = _with_pad(view, conv, found)
    before = view.maker(conv.inputs[0])
    if (
        isinstance(before, Activate)
        and view.uses[conv.inputs[0]] == 1
        and conv.rank == 1
        and conv.takes_steps
        and (before.activation.alpha is None)
    ):
        found.places.append(view.makers[conv.inputs[0]])
        conv = replace(conv, before=before.activation, inputs=before.inputs)
    return _pass_on(node, conv, _matched(view, found))


def _with_pad(view: View, conv: Convolution, found: Match) -> Convolution:
    """Take on the Pad that alone makes the input."""
    name = conv.inputs[0]
    pad = view.maker(name)
    if pad is None or pad.op != "Pad" or pad.domain or view.uses[name] != 1:
        return conv
    if conv.transposed or conv.auto_pad not in ("NOTSET", "VALID"):
        return conv
    widths = _pads(view, pad, conv.rank)
    if widths is None or min(widths) < 0 or max(widths) > LARGEST_PAD:
        return conv
    mode = pad.attributes.get("mode", "constant")
    if mode == "constant":
        if _pad_value(view, pad) != 0:
            return conv
        pads = [a + b for a, b in zip(conv.pads, widths, strict=True)]
        made = replace(conv, pads=pads)
    elif mode in _PAD_MODES and conv.rank == 1 and not any(conv.pads):
        made = replace(conv, pads=widths, padding_mode=_PAD_MODES[mode])
    else:
        return conv
    found.places.append(view.makers[name])
    return replace(made, inputs=pad.inputs[:1], auto_pad="NOTSET")


def _pads(view: View, pad: Node, rank: int) -> list[int] | None:
    """Return the pads of the last `rank` dimensions of 2 + rank, if no others are padded."""
    given = pad.attributes.get("pads") or pad.attributes.get("paddings")
    if given is None:
        array = view.constants.get(pad.inputs[1]) if len(pad.inputs) > 1 else None
        if array is None:
            return None
        given = [int(v) for v in array.reshape(-1)]
    axes = list(range(2 + rank))
    if len(pad.inputs) > 3 and pad.inputs[3]:
        array = view.constants.get(pad.inputs[3])
        if array is None:
            return None
        axes = [int(axis) % (2 + rank) for axis in array.reshape(-1)]
    if len(given) != 2 * len(axes):
        return None
    pads = [0] * (2 * (2 + rank))
    for axis, begin, end in zip(axes, given[: len(axes)], given[len(axes) :], strict=True):
        pads[axis], pads[2 + rank + axis] = begin, end
    first, last = pads[: 2 + rank], pads[2 + rank :]
    return None if any(first[:2] + last[:2]) else first[2:] + last[2:]


def _pad_value(view: View, pad: Node) -> float | None:
    if len(pad.inputs) > 2 and pad.inputs[2]:
        value = view.constants.get(pad.inputs[2])
        return None if value is None else float(value.reshape(-1)[0])
    return pad.attributes.get("value", 0.0)


def _is_bare(conv: Convolution) -> bool:
    return conv.after is None and conv.position is None and conv.takes_steps


_bare = Made("conv", Convolution, _is_bare)


@RULES.rule(Op("BatchNormalization", _bare, *map(Constant, ("scale", "shift", "mean", "variance"))))
def _batch_norm(view: View, node: Node, found: Match) -> Node | None:
    if node.attributes.get("training_mode") or any(node.outputs[1:]):
        return None
    names = ("scale", "shift", "mean", "variance")
    scale, shift, mean, variance = (found.constants[n].astype(np.float64) for n in names)
    with np.errstate(all="ignore"):
        scale = scale / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
        return _scaled(view, node, found, scale, shift - mean * scale)


@RULES.rule(
    *(Op(op, _bare, Constant("factor")) for op in ("Mul", "Div", "Add", "Sub")),
)
def _affine(view: View, node: Node, found: Match) -> Node | None:
    factor, conv = found.constants["factor"], found.nodes["conv"]
    assert isinstance(conv, Convolution)
    if node.op in ("Div", "Sub") and node.inputs[0] != conv.outputs[0]:
        return None
    wide = _per_channel(view, conv, factor)
    if wide is None or factor.dtype != conv.weight.dtype:
        return None
    one, zero = np.ones(conv.out_channels), np.zeros(conv.out_channels)
    with np.errstate(all="ignore"):
        scale = {"Mul": wide, "Div": 1 / wide}.get(node.op, one)
        shift = {"Add": wide, "Sub": -wide}.get(node.op, zero)
    return _scaled(view, node, found, scale, shift)


def _per_channel(view: View, conv: Convolution, factor: Array) -> Array | None:
    """Return a constant as one number a channel, if that is how it is repeated."""
    n = conv.out_channels
    rank = (view.rank(conv.inputs[0]) or 1) if conv.flat else 2 + conv.rank
    if factor.ndim > rank:
        return None
    if factor.size == 1:
        return np.full(n, float(factor.reshape(-1)[0]))
    wanted = (n,) if conv.channels_last else (n, *(1,) * conv.rank)
    if (1,) * (len(wanted) - factor.ndim) + factor.shape[-len(wanted) :] != wanted:
        return None
    return factor.reshape(-1).astype(np.float64) if factor.size == n else None


def _scaled(view: View, node: Node, found: Match, scale: Array, shift: Array) -> Node | None:
    """Return the convolution with a scale and a shift for each channel of its output."""
    conv = found.nodes["conv"]
    assert isinstance(conv, Convolution)
    if scale.shape != (conv.out_channels,) or not np.isfinite([scale, shift]).all():
        return None
    dtype = conv.weight.dtype
    weight = conv.weight.astype(np.float64)
    if conv.transposed:
        by_group = weight.reshape(conv.group, -1, *weight.shape[1:])
        each = scale.reshape(conv.group, 1, -1, *(1,) * conv.rank)
        weight = (by_group * each).reshape(weight.shape)
    else:
        weight = weight * scale.reshape(-1, 1, *(1,) * conv.rank)
    if conv.bias is not None:
        if conv.bias.shape != scale.shape:
            return None
        shift = shift + conv.bias.astype(np.float64) * scale
    made = replace(conv, weight=weight.astype(dtype), bias=shift.astype(dtype))
    return _pass_on(node, made, _matched(view, found))


@RULES.rule(Op("Add", Value("a"), Value("b")))
def _residual(view: View, node: Node, found: Match) -> Node | None:
    """An addition goes into the later of the convolutions that make its terms."""
    names = sorted(node.inputs, key=lambda name: view.makers.get(name, -1))
    name, other = names[1], names[0]
    conv = view.maker(name)
    if not isinstance(conv, Convolution) or conv.position is not None or not conv.takes_steps:
        return None
    if other in view.constants or view.uses[name] != 1:
        return None
    found.places.append(view.makers[name])
    position = "before" if conv.after is None else "after"
    made = replace(conv, position=position, inputs=[*conv.inputs, other])
    return _pass_on(node, made, [conv, node])


@RULES.rule(
    Op("Slice", _bare, Constant("starts"), Constant("ends"), Constant("axes")),
    Op("Slice", _bare, Constant("starts"), Constant("ends"), Constant("axes"), 1),
)
def _chomped(view: View, node: Node, found: Match) -> Node | None:
    """A Slice that drops a convolution's last positions is padding that is not there."""
    conv = found.nodes["conv"]
    assert isinstance(conv, Convolution)
    starts, ends, axes = (found.constants[n].reshape(-1) for n in ("starts", "ends", "axes"))
    if [starts.size, ends.size, axes.size] != [1, 1, 1] or int(axes[0]) not in (2, -1):
        return None
    start, end = int(starts[0]), int(ends[0])
    if conv.rank != 1 or conv.follows_length or conv.channels_last or start < 0:
        return None
    if not (end < 0 or end >= 1 << 31) or conv.padding_mode != "zeros":
        return None
    less = (start, max(-end, 0))
    if max(less) > LARGEST_PAD:
        return None
    if conv.transposed:
        pads = [p + cut for p, cut in zip(conv.pads, less, strict=True)]
    elif conv.strides == [1]:
        pads = [p - cut for p, cut in zip(conv.pads, less, strict=True)]
    else:
        return None
    return (
        _pass_on(node, replace(conv, pads=pads), _matched(view, found)) if min(pads) >= 0 else None
    )


def _integers(view: View, node: Node, name: str, position: int) -> list[int] | None:
    """Return what is an attribute in older operator sets, later a constant input."""
    if name in node.attributes:
        return [*node.attributes[name]]
    array = view.constants.get(node.inputs[position]) if len(node.inputs) > position else None
    return None if array is None else [int(v) for v in array.reshape(-1)]


@RULES.rule(Op("Squeeze", _bare, more=True))
def _squeezed(view: View, node: Node, found: Match) -> Node | list[Node] | None:
    """A dimension of one point that a convolution leaves, and that is dropped after it."""
    conv = found.nodes["conv"]
    assert isinstance(conv, Convolution)
    axes = _integers(view, node, "axes", 1)
    if not axes or conv.squeezed or conv.follows_length or conv.flat:
        return None
    axes = sorted(axis % (2 + conv.rank) for axis in axes)
    if len(axes) >= conv.rank or not all(axis >= 2 and conv.leaves(axis - 2) for axis in axes):
        return None
    made = _pass_on(node, replace(conv.without(axes), squeezed=tuple(axes)), _matched(view, found))
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
    added = _integers(view, maker, "axes", 1)
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
    return _pass_on(node, made, _matched(view, found))


@RULES.rule(Op("Concat", more=True))
def _unrolled(view: View, node: Node, found: Match) -> list[Node] | None:
    """One matrix for each position, unrolled: ``concat(unsqueeze(x[t] @ w) for t in range(n))``."""
    parts = [_matrix_of_position(view, name) for name in node.inputs]
    if len(parts) < 2 or any(part is None for part in parts):
        return None
    source, axis, after, matrix, _ = parts[0]  # type: ignore[misc]
    shape = view.types[source].shape if source in view.types else None
    if shape is None or len(shape) < 3 or shape[axis % len(shape)] != len(parts):
        return None
    axis, place = axis % len(shape), node.attributes.get("axis", 0) % len(shape)
    if after % len(shape) != place or axis == len(shape) - 1 or place == len(shape) - 1:
        return None
    for t, part in enumerate(parts):
        other, its_axis, its_after, its_matrix, index = part  # type: ignore[misc]
        same = (other, its_axis % len(shape), its_after, index) == (source, axis, after, t)
        if not same or not _same_matrix(its_matrix, matrix):
            return None
    perm = [i for i in range(len(shape)) if i != axis]
    perm.insert(place, axis)
    between = new_name(view, f"{node.outputs[0]}.all")
    made = _pass_on(node, replace(matrix, inputs=[source]), [node])
    turns = perm != sorted(perm)
    names = {matrix.inputs[0]: source}
    names |= {n: new_name(view, f"{n}.all") for part in matrix.replaced for n in part.outputs}
    names[matrix.outputs[0]] = between if turns else node.outputs[0]
    made.replaced = [_renamed(part, names) for part in matrix.replaced]
    if not turns:
        return [made]
    made.outputs = [between]
    turned = Node("Transpose", "", node.name, [between], node.outputs, {"perm": perm}, node.opset)
    return [made, turned]


def _matrix_of_position(view: View, name: str) -> tuple[str, int, int, Convolution, int] | None:
    """Return x, its axis, that of the result, the matrix and t of ``unsqueeze(x[t] @ w)``."""
    after = view.maker(name)
    matrix = view.maker(after.inputs[0]) if after is not None and after.op == "Unsqueeze" else None
    if after is None or not isinstance(matrix, Convolution) or not matrix.flat:
        return None
    before = view.maker(matrix.inputs[0])
    part = view.maker(before.inputs[0]) if before is not None and before.op == "Squeeze" else None
    if before is None or part is None or part.op != "Slice" or matrix.position is not None:
        return None
    lists = [_integers(view, n, "axes", 1) for n in (after, before)]
    lists += [_integers(view, part, key, i) for i, key in enumerate(("starts", "ends", "axes"), 1)]
    if any(entry is None or len(entry) != 1 for entry in lists):
        return None
    (put,), (dropped,), (start,), (end,), (axis,) = lists  # type: ignore[misc]
    steps = _integers(view, part, "steps", 4)
    if end != start + 1 or steps not in (None, [1]) or dropped != axis or start < 0:
        return None
    return part.inputs[0], axis, put, matrix, start


def _same_matrix(a: Convolution, b: Convolution) -> bool:
    if a.after != b.after or (a.bias is None) != (b.bias is None):
        return False
    same_bias = a.bias is None or b.bias is None or np.array_equal(a.bias, b.bias)
    return same_bias and (a.weight.base is b.weight.base or np.array_equal(a.weight, b.weight))


@RULES.rule(
    *(
        Op(op, Op("Concat", more=True, label="stack"), more=True)
        for op in ("ReduceMax", "ReduceMin")
    )
)
def _stacked(view: View, node: Node, found: Match) -> Node | None:
    """The largest of stacked values: the larger of two, and so on."""
    stack, axes = found.nodes["stack"], _integers(view, node, "axes", 1)
    if node.attributes.get("keepdims", 1) or not axes or len(axes) != 1:
        return None
    axis, names = stack.attributes.get("axis"), []
    for name in stack.inputs:
        part = view.maker(name)
        if part is None or part.op != "Unsqueeze" or view.uses[name] != 1:
            return None
        added, rank = _integers(view, part, "axes", 1), view.rank(part.inputs[0])
        if added is None or len(added) != 1 or rank is None or axis is None:
            return None
        if len({a % (rank + 1) for a in (added[0], axis, axes[0])}) != 1:
            return None
        names.append(part.inputs[0])
        found.places.append(view.makers[name])
    op = node.op.removeprefix("Reduce")
    return Node(op, "", node.name, names, node.outputs, {}, max(node.opset, 13))


@RULES.rule(
    Op("MatMul", x, Constant("weight")),
    Op("Gemm", x, Constant("weight")),
    Op("Gemm", x, Constant("weight"), Constant("bias")),
)
def _linear(view: View, node: Node, found: Match) -> Node | None:
    """A matrix times a constant one: a convolution with a kernel of one point."""
    weight, bias = found.constants["weight"], found.constants.get("bias")
    if weight.ndim != 2 or weight.size == 0 or weight.dtype.char not in "fd":
        return None
    get = node.attributes.get
    if get("transA") or get("alpha", 1.0) != 1 or get("beta", 1.0) != 1:
        return None
    matrix = weight if get("transB") else weight.T
    if bias is not None:
        if bias.shape not in ((len(matrix),), (1, len(matrix))) or bias.dtype != weight.dtype:
            return None
        bias = bias.reshape(-1)
    made = Convolution(
        *(node.op, OURS, node.name, node.inputs[:1]),
        weight=np.ascontiguousarray(matrix)[:, :, np.newaxis],
        bias=bias,
        strides=[1],
        dilations=[1],
        pads=[0, 0],
        output_padding=[0],
        channels_last=True,
        flat=True,
    )
    return _pass_on(node, made, _matched(view, found))


# ---- quantised values --------------------------------------------------------------------------


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
    return _pass_on(node, made, [_renamed(first, names), _renamed(node, names)])


# ---- recurrent layers --------------------------------------------------------------------------

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
    if any(p.shape != s or p.dtype != parameters[0].dtype for p, s in zip(parameters, shapes)):
        return None
    if not all(node.outputs[: len([*filter(None, node.outputs)])]):
        return None
    made = Recurrent(
        *(node.op, OURS, node.name, [node.inputs[0], state, cell]),
        backward=backward,
        parameters=parameters,
    )
    return _pass_on(node, made, [node])


# ---- norms -------------------------------------------------------------------------------------


def _mean(of: Pattern) -> Pattern:
    return Op("ReduceMean", of, label="mean") | Op("ReduceMean", of, Constant("axes"), label="mean")


_centred = x - _mean(x)
_variance = _mean(_centred * _centred) | _mean(Op("Pow", _centred, 2.0))


@RULES.rule(_centred / Op("Sqrt", _variance + Constant("epsilon", scalar=True)))
def _normalized(view: View, node: Node, found: Match) -> Node | None:
    means = [n for n in _matched(view, found) if n.op == "ReduceMean"]
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
    return _pass_on(node, made, _matched(view, found))


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
    return _pass_on(node, made, _matched(view, found))


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
    return _pass_on(node, made, _matched(view, found))


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
    return _pass_on(
        node, Affine(node.op, name=node.name, inputs=[node.inputs[0], factor, term]), [node]
    )


# ---- views that no other rule took --------------------------------------------------------------


def _indexed(view: View, node: Node, found: Match, index: list[Any], rank: int) -> Node:
    made = Indexed(node.op, name=node.name, inputs=node.inputs[:1], index=tuple(index), rank=rank)
    return _pass_on(node, made, [node])


@VIEWS.rule(Op("Unsqueeze", x), Op("Unsqueeze", x, Constant("axes")))
def _unsqueezed(view: View, node: Node, found: Match) -> Node | None:
    rank, axes = view.rank(node.inputs[0]), _integers(view, node, "axes", 1)
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
        _integers(view, node, name, i)
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
