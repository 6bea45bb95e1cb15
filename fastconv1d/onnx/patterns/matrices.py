"""Matrix products with constants, and loops over positions that exporters unrolled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..layers import Convolution
from ..matching import Constant, Match, Op, View, new_name
from ..registry import Node
from .quantised import quantised_product
from .rules import OURS, RULES, integers, matched, pass_on, renamed, x


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
    made = pass_on(node, replace(matrix, inputs=[source]), [node])
    turns = perm != sorted(perm)
    names = {matrix.inputs[0]: source}
    names |= {n: new_name(view, f"{n}.all") for part in matrix.replaced for n in part.outputs}
    names[matrix.outputs[0]] = between if turns else node.outputs[0]
    made.replaced = [renamed(part, names) for part in matrix.replaced]
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
    lists = [integers(view, n, "axes", 1) for n in (after, before)]
    lists += [integers(view, part, key, i) for i, key in enumerate(("starts", "ends", "axes"), 1)]
    if any(entry is None or len(entry) != 1 for entry in lists):
        return None
    (put,), (dropped,), (start,), (end,), (axis,) = lists  # type: ignore[misc]
    steps = integers(view, part, "steps", 4)
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
    stack, axes = found.nodes["stack"], integers(view, node, "axes", 1)
    if node.attributes.get("keepdims", 1) or not axes or len(axes) != 1:
        return None
    axis, names = stack.attributes.get("axis"), []
    for name in stack.inputs:
        part = view.maker(name)
        if part is None or part.op != "Unsqueeze" or view.uses[name] != 1:
            return None
        added, rank = integers(view, part, "axes", 1), view.rank(part.inputs[0])
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
    get = node.attributes.get
    if get("transA") or get("alpha", 1.0) != 1 or get("beta", 1.0) != 1:
        return None
    if quantised := quantised_product(view, node, found):
        return quantised
    if weight.ndim != 2 or weight.size == 0 or weight.dtype.char not in "fd":
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
    return pass_on(node, made, matched(view, found))
