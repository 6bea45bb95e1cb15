"""What depends on constants alone is computed once, and what nobody reads is dropped."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from .read import Graph, Type, frozen, read_graph
from .registry import Node, find

Array = NDArray[Any]

# Their result differs from call to call.
_RANDOM = {
    *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
    *("Multinomial", "Bernoulli"),
}
# Operators that move numbers and compute none.
_NO_END = (1 << 31) - 1  # how exporters write a slice to the end
_INT64 = onnx.TensorProto.INT64
_MOVING = {"Cast", "Concat", "Gather", "Reshape", "Slice", "Squeeze", "Unsqueeze"}
# What stands for sizes that are not known, in two runs: what they agree on depends on no such size.
_UNKNOWN_SIZES = (1 << 40) + 1, (1 << 40) + 3
# A constant of more elements stays a node: a file of a hundred bytes may ask for any number.
_LARGEST = 1 << 26


def fold(graph: Graph) -> Graph:
    """Return the graph without nodes that depend on constants alone, or that nobody reads."""
    return without_dead(_Folder(graph).folded())


class _Folder:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.constants = dict(graph.constants)
        self.types = dict(graph.types)
        self.names: dict[str, str] = {}  # of values that are others
        self.kept: list[Node] = []
        self.bodies = 0
        self.partial: dict[str, tuple[Array, Array]] = {}  # values of which some sizes are known
        self.results = {*graph.outputs}

    def folded(self) -> Graph:
        self._fold(self.graph.nodes)
        self._rename_results()
        return replace(self.graph, nodes=self.kept, constants=self.constants, types=self.types)

    def _fold(self, nodes: list[Node]) -> None:
        for node in nodes:
            node.inputs = [self.names.get(name, name) for name in node.inputs]
            body = self._chosen_body(node)
            if body is not None:
                self._splice(node, body)
            elif not self._is_known(node):
                self.kept.append(node)

    def _is_known(self, node: Node) -> bool:
        """Whether the node's outputs are constants, or its input, which then is noted."""
        if node.domain:
            return False
        if self._passes_on(node):
            if node.outputs[0] not in self.results:
                self.names[node.outputs[0]] = node.inputs[0]
                return True
            return self._computed(node)
        if node.op == "Shape":
            shape = self.types.get(node.inputs[0], Type()).shape
            if shape is not None and node.inputs[0] not in self.constants:
                attributes = node.attributes
                dims = shape[attributes.get("start", 0) : attributes.get("end", len(shape))]
                return self._agreed(
                    node.outputs[0],
                    *(
                        np.array([n if isinstance(n, int) else unknown for n in dims], np.int64)
                        for unknown in _UNKNOWN_SIZES
                    ),
                )
        return self._computed(node) or self._moved(node)

    def _agreed(self, name: str, first: Any, second: Any) -> bool:
        """Enter a value, if it is known, under its name; otherwise what is known of it."""
        if np.array_equal(first, second):
            self.constants[name] = frozen(first)
            return True
        self.partial[name] = np.asarray(first), np.asarray(second)
        return False

    def _moved(self, node: Node) -> bool:
        """Whether the node's output is known although its inputs are not altogether."""
        if node.op not in _MOVING or not any(name in self.partial for name in node.inputs):
            return False
        build = find(node)
        if build is None or node.attributes.get("to", _INT64) != _INT64:
            return False  # two sizes may be one float
        runs = []
        for run in (0, 1):
            arrays: list[Array | None] = []
            for name in node.inputs:
                if name in self.partial:
                    arrays.append(self.partial[name][run])
                elif name in self.constants or not name:
                    arrays.append(self.constants.get(name))
                else:
                    return False
            try:
                runs.append(build(node)(*arrays))
            except Exception:  # at run time it is the node's
                return False
        return self._agreed(node.outputs[0], *runs)

    def _passes_on(self, node: Node) -> bool:
        """Whether the node's output is its input."""
        if node.op == "Identity":
            return True
        if node.op == "Transpose":
            perm = node.attributes.get("perm")
            return perm is not None and perm == sorted(perm)
        if node.op == "Concat":
            return len(node.inputs) == 1
        kind = self.types.get(node.inputs[0], Type()) if node.inputs else Type()
        if node.op == "Cast" and kind.dtype is not None:
            made = self.types.get(node.outputs[0], Type()).dtype
            return made == kind.dtype
        if node.op == "Slice":
            return self._takes_all(node, kind)
        if node.op != "Dropout":
            return False
        training = node.inputs[2] if len(node.inputs) > 2 else ""
        known = self.constants.get(training) if training else np.array(False)
        return known is not None and not known.any() and not any(node.outputs[1:])

    def _takes_all(self, node: Node, kind: Type) -> bool:
        """Whether a Slice leaves out nothing."""
        lists = [self.constants.get(name) for name in node.inputs[1:] if name]
        if kind.shape is None or len(lists) not in (3, 4) or len(lists) != len(node.inputs) - 1:
            return False
        if any(array is None for array in lists):
            return False
        starts, ends, axes = (array.reshape(-1).tolist() for array in lists[:3])  # type: ignore[union-attr]
        if len(lists) == 4 and (lists[3] != 1).any():  # type: ignore[union-attr]
            return False
        for start, end, axis in zip(starts, ends, axes, strict=False):
            if not -len(kind.shape) <= axis < len(kind.shape):
                return False
            size = kind.shape[axis]
            whole = end >= (size if isinstance(size, int) else _NO_END)
            if start != 0 or not whole:
                return False
        return len(starts) == len(ends) == len(axes)

    def _computed(self, node: Node) -> bool:
        inputs = [name for name in node.inputs if name]
        if node.op in _RANDOM or any(name not in self.constants for name in inputs):
            return False
        build = find(node)
        if build is None or any(isinstance(a, onnx.GraphProto) for a in node.attributes.values()):
            return False
        arrays = [self.constants[name] if name else None for name in node.inputs]
        try:
            if _size(node, arrays) > _LARGEST:
                return False
            with np.errstate(all="ignore"):
                found = build(node)(*arrays)
        except MemoryError:
            raise
        except Exception:  # of a branch that is never taken, say: at run time it is the node's
            return False
        values = found if isinstance(found, tuple) else (found,)
        if not all(isinstance(value, (np.ndarray, np.generic)) for value in values):
            return False  # a sequence
        for name, value in zip(node.outputs, values, strict=False):
            if name:
                self.constants[name] = frozen(value)
        if node.op == "DequantizeLinear":
            self.graph.recipes[node.outputs[0]] = node
        return True

    def _chosen_body(self, node: Node) -> Graph | None:
        """Return the branch of an If on a constant."""
        if node.op != "If" or node.domain or node.inputs[0] not in self.constants:
            return None
        chosen = bool(np.all(self.constants[node.inputs[0]]))
        branch = node.attributes.get("then_branch" if chosen else "else_branch")
        if not isinstance(branch, onnx.GraphProto):
            return None
        return read_graph(branch, node.attributes["opsets"])

    def _splice(self, node: Node, body: Graph) -> None:
        """Put a body's nodes in place of its node, its values under names of their own."""
        self.bodies += 1
        own = {*body.constants, *(name for n in body.nodes for name in n.outputs if name)}
        fresh = {name: f"{name}@{self.bodies}" for name in own}

        def renamed(name: str) -> str:
            return fresh.get(name, self.names.get(name, name))

        self.constants.update({fresh[k]: v for k, v in body.constants.items()})
        self.types.update({fresh[k]: v for k, v in body.types.items() if k in fresh})
        for inner in body.nodes:
            inner.inputs = [renamed(name) for name in inner.inputs]
            inner.outputs = [fresh[name] if name else "" for name in inner.outputs]
        ends = [
            Node("Identity", "", "", [renamed(end)], [name], {}, 16)
            for end, name in zip(body.outputs, node.outputs, strict=False)
            if name
        ]
        self._fold([*body.nodes, *ends])

    def _rename_results(self) -> None:
        """Let a node write an output of the graph that an Identity would copy."""
        makers = {name for node in self.kept for name in node.outputs}
        renames: dict[str, str] = {}
        kept = []
        for node in self.kept:
            source = node.inputs[0] if node.inputs else ""
            if (
                node.op == "Identity"
                and not node.domain
                and source in makers
                and source not in self.results
                and source not in renames
            ):
                renames[source] = node.outputs[0]
                if source in self.types:
                    self.types.setdefault(node.outputs[0], self.types[source])
            else:
                kept.append(node)
        if renames:
            for node in kept:
                node.inputs = [renames.get(name, name) for name in node.inputs]
                node.outputs = [renames.get(name, name) for name in node.outputs]
        self.kept = kept


def _size(node: Node, arrays: list[Array | None]) -> int:
    """Return how many elements a node's result may have, where that is not of its inputs' order."""
    first = arrays[0] if arrays else None
    second = arrays[1] if len(arrays) > 1 else None
    if node.op == "ConstantOfShape" and first is not None:
        return math.prod(int(size) for size in first.reshape(-1))
    if node.op in ("Expand", "Tile") and first is not None and second is not None:
        return first.size * math.prod(max(int(size), 1) for size in second.reshape(-1))
    if node.op == "Range" and first is not None and second is not None and arrays[2] is not None:
        return int(abs((second - first) / arrays[2]).max()) + 1
    if node.op in ("Pad", "Resize", "Upsample", "OneHot", "Einsum", "EyeLike", "DFT", "STFT"):
        return _LARGEST + 1 if node.op != "EyeLike" else 0
    shapes = [array.shape for array in arrays if array is not None]
    try:
        broadcast = math.prod(np.broadcast_shapes(*shapes))
    except ValueError:
        broadcast = 0
    product = math.prod(max(array.size, 1) for array in arrays[:2] if array is not None)
    return max(broadcast, product if node.op in ("MatMul", "Gather", "Gemm") else 0)


def without_dead(graph: Graph) -> Graph:
    """Return the graph without nodes and constants that nobody reads."""
    needed, kept = {*graph.outputs}, []
    parts: set[str] = set()  # what nodes read that others took the place of
    for node in reversed(graph.nodes):
        if any(name in needed for name in node.outputs if name):
            kept.append(node)
            needed.update(name for name in node.inputs if name)
            parts.update(name for part in getattr(node, "replaced", ()) for name in part.inputs)
    graph.nodes = kept[::-1]
    read = needed | parts
    graph.recipes = {name: node for name, node in graph.recipes.items() if name in read}
    read |= {name for node in graph.recipes.values() for name in node.inputs}
    graph.constants = {k: v for k, v in graph.constants.items() if k in read}
    return graph


def uses_of(graph: Graph) -> Counter[str]:
    """Return how often each value is read; an output of the graph is."""
    uses: Counter[str] = Counter()
    for node in graph.nodes:
        uses.update(name for name in node.inputs if name)
    uses.update(graph.outputs)
    return uses
