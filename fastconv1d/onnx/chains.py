"""Element-wise nodes as operations of one compiled pass over pieces of their operands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from numpy.typing import NDArray

from ..core.activations import Activation
from ..kernels.chain import Chain
from .layers import Activate
from .norms import Affine, Rounded
from .registry import Node

Array = NDArray[Any]

_TWO = {"Add": "add", "Sub": "subtract", "Mul": "multiply", "Div": "divide"}
_MANY = {"Max": "larger", "Min": "smaller", "Sum": "add"}
_ONE = {
    "Abs": "absolute",
    "Neg": "negate",
    "Sqrt": "root",
    "Reciprocal": "reciprocal",
    "Exp": "exponential",
    "Log": "logarithm",
    "Erf": "error_function",
    "Round": "round",
    "Floor": "floor",
    "Ceil": "ceiling",
    "Sin": "sine",
    "Cos": "cosine",
    "Sign": "sign",
}
_POWERS = {2.0: "square", 3.0: "cube", 0.5: "root"}


class _Unsuited(Exception):
    """A node that is no operation of a chain."""


def chain_of(
    nodes: Iterable[Node], inputs: list[str], constants: Mapping[str, Array]
) -> Callable[..., Array | None] | None:
    """Return the nodes as one function of the inputs, or None where a chain has not all of them.

    The function takes a list of arrays, where to write and a number of threads; it returns None for
    arrays that it does not take.
    """
    writer = _Writer(constants)
    try:
        for node in nodes:
            writer.write(node)
        places = {name: i for i, name in enumerate(writer.operands)}
        chain = Chain(len(places), [*writer.numbered(places)])
    except (_Unsuited, ValueError):
        return None
    if writer.operands == inputs:
        return chain
    order = [inputs.index(name) for name in writer.operands]
    return lambda arrays, out, n_threads: chain([arrays[i] for i in order], out, n_threads)


class _Writer:
    """Operations on values with names; those that no node makes are operands."""

    def __init__(self, constants: Mapping[str, Array]) -> None:
        self.constants = constants
        self.operands: list[str] = []
        self.values: dict[str, int] = {}  # names to places among the results
        self.operations: list[tuple[str, list[str | int], tuple[Any, ...]]] = []

    def write(self, node: Node) -> None:
        result = self._result(node)
        if isinstance(result, str):  # the node only passes on what it reads
            raise _Unsuited
        self.values[node.outputs[0]] = result

    def numbered(self, places: dict[str, int]) -> list[tuple[str, list[int], tuple[Any, ...]]]:
        return [
            (kind, [places[s] if isinstance(s, str) else len(places) + s for s in sources], more)
            for kind, sources, more in self.operations
        ]

    def _read(self, name: str) -> str | int:
        if name in self.values:
            return self.values[name]
        if not name:
            raise _Unsuited
        if name not in self.operands:
            self.operands.append(name)
        return name

    def _add(self, kind: str, *sources: str | int, more: tuple[Any, ...] = ()) -> int:
        self.operations.append((kind, [*sources], more))
        return len(self.operations) - 1

    def _result(self, node: Node) -> str | int:
        if isinstance(node, Activate):
            if node.activation.alpha is not None:
                raise _Unsuited
            return self._add("step", self._read(node.inputs[0]), more=(node.activation,))
        if isinstance(node, Rounded):
            more = (node.scale, *node.limits)
            return self._add("steps", self._read(node.inputs[0]), more=more)
        if isinstance(node, Affine):
            x, scale, shift = map(self._read, node.inputs)
            return self._add("add", self._add("multiply", x, scale), shift)
        if node.op in _TWO:
            return self._add(_TWO[node.op], *map(self._read, node.inputs))
        if node.op in _ONE:
            return self._add(_ONE[node.op], self._read(node.inputs[0]))
        if node.op in _MANY:
            total, *rest = map(self._read, node.inputs)
            for other in rest:
                total = self._add(_MANY[node.op], total, other)
            return total
        if node.op in _OWN:
            return _OWN[node.op](self, node)
        raise _Unsuited

    def number(self, name: str) -> float:
        """Return a constant of one element and no more dimensions than it takes part in."""
        array = self.constants.get(name)
        if array is None or array.size != 1 or array.ndim:
            raise _Unsuited
        return float(array)

    # ---- nodes that are several operations, or have attributes

    def power(self, node: Node) -> str | int:
        x, kind = self._read(node.inputs[0]), _POWERS.get(self.number(node.inputs[1]))
        if kind is None:
            raise _Unsuited
        return self._add(kind, x)

    def clip(self, node: Node) -> str | int:
        x = self._read(node.inputs[0])
        for place, (name, kind) in enumerate((("min", "larger"), ("max", "smaller")), 1):
            if name in node.attributes:
                kind = {"min": "at_least", "max": "at_most"}[name]
                x = self._add(kind, x, more=(float(node.attributes[name]),))
            elif len(node.inputs) > place and node.inputs[place]:
                x = self._add(kind, x, self._read(node.inputs[place]))
        return x

    def hard_sigmoid(self, node: Node) -> int:
        alpha, beta = (node.attributes.get(k, v) for k, v in (("alpha", 0.2), ("beta", 0.5)))
        return self._share(self._read(node.inputs[0]), alpha, beta)

    def hard_swish(self, node: Node) -> int:
        x = self._read(node.inputs[0])
        return self._add("multiply", x, self._share(x, 1 / 6, 0.5))

    def _share(self, x: str | int, alpha: float, beta: float) -> int:
        y = self._add("shift", self._add("scale", x, more=(alpha,)), more=(beta,))
        return self._add("at_most", self._add("at_least", y, more=(0.0,)), more=(1.0,))

    def softsign(self, node: Node) -> int:
        x = self._read(node.inputs[0])
        below = self._add("shift", self._add("absolute", x), more=(1.0,))
        return self._add("divide", x, below)

    def selu(self, node: Node) -> int:
        get, x = node.attributes.get, self._read(node.inputs[0])
        step = Activation("elu", float(get("alpha", 1.67326319217681884765625)))
        gamma = get("gamma", 1.05070102214813232421875)
        return self._add("scale", self._add("step", x, more=(step,)), more=(gamma,))

    def prelu(self, node: Node) -> int:
        x, slope = map(self._read, node.inputs)
        below = self._add("multiply", self._add("at_most", x, more=(0.0,)), slope)
        return self._add("add", below, self._add("at_least", x, more=(0.0,)))


_OWN: dict[str, Callable[[_Writer, Node], str | int]] = {
    "Pow": _Writer.power,
    "Clip": _Writer.clip,
    "HardSigmoid": _Writer.hard_sigmoid,
    "HardSwish": _Writer.hard_swish,
    "Softsign": _Writer.softsign,
    "Selu": _Writer.selu,
    "PRelu": _Writer.prelu,
}
