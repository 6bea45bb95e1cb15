"""Convolutions with the padding before them and the norms, factors and additions after them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..layers import LARGEST_PAD, Activate, Convolution, Refused, convolution_of
from ..matching import Constant, Made, Match, Op, Value, View
from ..registry import Node, OnnxError
from .rules import RULES, matched, pass_on, x

Array = NDArray[Any]

_PAD_MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


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
        return pass_on(node, refused, [node])
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
    return pass_on(node, conv, matched(view, found))


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


BARE = Made("conv", Convolution, _is_bare)


@RULES.rule(Op("BatchNormalization", BARE, *map(Constant, ("scale", "shift", "mean", "variance"))))
def _batch_norm(view: View, node: Node, found: Match) -> Node | None:
    if node.attributes.get("training_mode") or any(node.outputs[1:]):
        return None
    conv = found.nodes["conv"]
    assert isinstance(conv, Convolution)
    if conv.channels_last and not (conv.flat and view.rank(conv.inputs[0]) == 2):
        return None  # axis 1 has no channels then
    names = ("scale", "shift", "mean", "variance")
    scale, shift, mean, variance = (found.constants[n].astype(np.float64) for n in names)
    with np.errstate(all="ignore"):
        scale = scale / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
        return _scaled(view, node, found, scale, shift - mean * scale)


@RULES.rule(
    *(Op(op, BARE, Constant("factor")) for op in ("Mul", "Div", "Add", "Sub")),
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
    return pass_on(node, made, matched(view, found))


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
    return pass_on(node, made, [conv, node])


@RULES.rule(
    Op("Slice", BARE, Constant("starts"), Constant("ends"), Constant("axes")),
    Op("Slice", BARE, Constant("starts"), Constant("ends"), Constant("axes"), 1),
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
    return pass_on(node, replace(conv, pads=pads), matched(view, found)) if min(pads) >= 0 else None
