"""Element-wise nodes that follow each other, computed together, block by block.

A block's intermediate results stay in the caches: a chain of ten operators reads and writes main
memory once, not ten times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import config
from .bound import in_place
from .chains import chain_of
from .layers import Activate, Fused
from .norms import Affine, Rounded
from .patterns import OURS
from .read import Graph
from .registry import Node, find

Array = NDArray[Any]

# Elements of a block: its float32 are 64 KiB, a handful of them fit L2.
BLOCK = 1 << 14
# A group of more nodes has too many operands alive at once.
_LARGEST_GROUP = 64

ELEMENTWISE = {
    *("Abs", "Add", "And", "Cast", "Ceil", "Celu", "Clip", "Cos", "Div", "Elu", "Equal", "Erf"),
    *("Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "LeakyRelu"),
    *(
        "Less",
        "LessOrEqual",
        "Log",
        "Max",
        "Min",
        "Mish",
        "Mul",
        "Neg",
        "Not",
        "Or",
        "Pow",
        "PRelu",
    ),
    *("Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign"),
    *("Sqrt", "Sub", "Sum", "Swish", "Tanh", "ThresholdedRelu", "Where", "Xor"),
}


@dataclass
class Blockwise(Fused):
    """Element-wise nodes; the last one makes the result."""

    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)  # among the inputs

    def build(self) -> Callable[..., Any]:
        by_blocks = self._by_blocks()
        chain = chain_of(self.nodes, self.inputs, self.constants)
        if chain is None:
            return by_blocks

        def run(*arrays: Array) -> Array:
            y = chain(arrays, None, config.get_num_threads())
            return by_blocks(*arrays) if y is None else y

        run.shorter = partial(in_place, chain, run)  # type: ignore[attr-defined]
        return run

    def _by_blocks(self) -> Callable[..., Any]:
        """Return the nodes one by one, for each block of the result."""
        steps = [(builder_of(n)(n), n.inputs, n.outputs[0]) for n in self.nodes]
        names = self.inputs

        def compute(arrays: list[Array]) -> Array:
            values = dict(zip(names, arrays, strict=True))
            values[""] = None  # type: ignore[assignment]
            for run, inputs, output in steps:
                result = run(*[values[name] for name in inputs])
                values[output] = result[0] if isinstance(result, tuple) else result
            return result

        def run(*arrays: Array) -> Array:
            largest = max(arrays, key=_size_of)
            if largest.size <= BLOCK and all(
                array.shape == largest.shape or array.ndim == 0 for array in arrays
            ):
                return compute([*arrays])
            shape = np.broadcast_shapes(*(array.shape for array in arrays))
            if math.prod(shape) <= BLOCK:
                return compute([*arrays])
            out = None
            for where in blocks(shape):
                part = compute([_part(array, where, len(shape)) for array in arrays])
                if out is None:
                    out = np.empty(shape, part.dtype)
                out[where] = part
            assert out is not None
            return out

        return run


def _size_of(array: Array) -> int:
    return array.size


def builder_of(node: Node) -> Callable[[Any], Callable[..., Any]]:
    """Return what builds a node of ours or of the table; it should be there."""
    if isinstance(node, Fused):
        return type(node).build
    build = find(node)
    assert build is not None
    return build


def blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Cut an array into boxes of about `BLOCK` elements, in memory order."""
    axis = 0
    while axis < len(shape) - 1 and math.prod(shape[axis + 1 :]) > BLOCK:
        axis += 1
    step = max(BLOCK // max(math.prod(shape[axis + 1 :]), 1), 1)
    for index in np.ndindex(*shape[:axis]):
        outer = tuple(slice(i, i + 1) for i in index)
        for begin in range(0, shape[axis], step):
            yield (*outer, slice(begin, begin + step))


def _part(array: Array, where: tuple[slice, ...], rank: int) -> Array:
    """Return what a broadcast operand has at a box of the result."""
    offset = rank - array.ndim
    if len(where) <= offset:
        return array
    pairs = zip(array.shape, where[offset:], strict=False)
    return array[tuple(slice(None) if size == 1 else part for size, part in pairs)]


def grouped(graph: Graph) -> Graph:
    """Return the graph with groups of element-wise nodes in place of them."""
    readers: dict[str, set[int]] = {}
    for place, node in enumerate(graph.nodes):
        for name in node.inputs:
            readers.setdefault(name, set()).add(place)
    for name in graph.outputs:
        readers.setdefault(name, set()).add(-1)
    group_of: dict[int, int] = {}  # from the place of a node to that of its group's last one
    sizes: dict[int, int] = {}
    for place in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[place]
        if not _is_elementwise(node):
            continue
        groups = {group_of.get(reader) for reader in readers.get(node.outputs[0], ())}
        group = groups.pop() if len(groups) == 1 else None
        if group is None or sizes[group] == _LARGEST_GROUP:
            group = place
        group_of[place] = group
        sizes[group] = sizes.get(group, 0) + 1
    members: dict[int, list[Node]] = {}
    for place in sorted(group_of):
        members.setdefault(group_of[place], []).append(graph.nodes[place])
    nodes = []
    for place, node in enumerate(graph.nodes):
        group = group_of.get(place)
        if group is None or (len(members[group]) == 1 and not _gains_alone(node)):
            nodes.append(node)
        elif group == place:
            nodes.append(_group(members[group], graph.constants))
    graph.nodes = nodes
    return graph


def _is_elementwise(node: Node) -> bool:
    if isinstance(node, (Activate, Affine, Rounded)):
        return not isinstance(node, Activate) or node.activation.alpha is None
    if node.domain or node.op not in ELEMENTWISE or any(node.outputs[1:]):
        return False
    return find(node) is not None


def _gains_alone(node: Node) -> bool:
    """Whether a node is several passes of NumPy, or one that is slow."""
    return isinstance(node, (Affine, Rounded)) or node.op in ("Erf", "Max", "Min", "Sum")


def _group(nodes: list[Node], constants: dict[str, Array]) -> Blockwise:
    own = {node.outputs[0] for node in nodes}
    inputs = [*dict.fromkeys(n for node in nodes for n in node.inputs if n and n not in own)]
    replaced = [r for node in nodes for r in (getattr(node, "replaced", None) or [node])]
    last = nodes[-1]
    return Blockwise(
        *(last.op, OURS, last.name, inputs, last.outputs),
        replaced=replaced,
        nodes=nodes,
        constants={name: constants[name] for name in inputs if name in constants},
    )
