"""What a program knows once it has seen a set of input shapes: sizes, and arrays to write to.

Exporters compute sizes with dozens of small nodes. Those depend on nothing but the inputs' shapes,
so that a second call of the same shapes need not compute them again; and large arrays that the
first call made and forgot are there for the second one to write to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .blocks import ELEMENTWISE
from .layers import Fused
from .registry import Node

Array = NDArray[Any]

# The shape of the result follows from the shapes of the inputs.
_BY_SHAPES = ELEMENTWISE | {
    *("AveragePool", "BatchNormalization", "Concat", "Conv", "ConvTranspose", "DequantizeLinear"),
    *("Einsum", "Flatten", "GRU", "Gather", "Gemm", "GlobalAveragePool", "GlobalMaxPool"),
    *("GroupNormalization", "Identity", "InstanceNormalization", "LSTM", "LayerNormalization"),
    *("LogSoftmax", "MatMul", "MaxPool", "QuantizeLinear", "RNN", "Softmax", "Transpose"),
}
# The same, where the inputs after the first are known.
_BY_VALUES = {
    *(
        "Expand",
        "Pad",
        "ReduceL1",
        "ReduceL2",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
    ),
    *("ReduceSum", "ReduceSumSquare", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Tile"),
    *("TopK", "Unsqueeze", "Upsample"),
}
# Other nodes of known inputs have known outputs, but these.
_VARYING = {
    *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial"),
    *("Bernoulli", "If", "Loop", "Scan", "Dropout"),
}
# What is known of a set of shapes may take so many bytes.
_LARGEST_KNOWN = 1 << 26
# Arrays of less are as quickly allocated as found.
LEAST_SPARE = 1 << 16


class Sizes:
    """Which values depend on the inputs' shapes alone, and which have shapes that do."""

    def __init__(self, inputs: Iterable[str], constants: Iterable[str]) -> None:
        self.known = {"", *constants}
        self.settled = {*inputs, *self.known}

    def add(self, node: Node) -> None:
        """Enter the outputs of a node, after those that make its inputs."""
        outputs = [name for name in node.outputs if name]
        if not all(name in self.settled for name in node.inputs):
            return
        plain = not node.domain
        if plain and node.op in ("Shape", "Size"):
            self.known.update(outputs)
        elif plain and node.op not in _VARYING and self._knows(node.inputs) and node.inputs:
            self.known.update(outputs)
        elif isinstance(node, Fused) and self._knows(node.inputs):
            self.known.update(outputs)
        elif not (
            isinstance(node, Fused)
            or (plain and node.op in _BY_SHAPES)
            or (plain and node.op in _BY_VALUES and self._knows(node.inputs[1:]))
        ):
            return
        self.settled.update(outputs)

    def _knows(self, names: Iterable[str]) -> bool:
        return all(name in self.known for name in names)


class Call(NamedTuple):
    """A step with the places of what it reads and writes in a list of all values."""

    run: Callable[..., Any]
    inputs: list[int]
    output: int
    others: list[int]  # further outputs
    done: list[int]
    spare: tuple[tuple[int, ...], np.dtype[Any]] | None  # of a large array to write to
    node: Node


class Binding(NamedTuple):
    """What calls of the same input shapes share."""

    values: list[Any]
    calls: list[Call]
    pooled: bool  # whether there are large arrays to write to


def known_values(values: dict[str, Any]) -> dict[str, Array] | None:
    """Return values to keep, or None where they are too large or no arrays."""
    if not all(isinstance(value, np.ndarray) for value in values.values()):
        return None
    if sum(value.nbytes for value in values.values()) > _LARGEST_KNOWN:
        return None
    kept = {name: np.array(value) for name, value in values.items()}
    for value in kept.values():
        value.flags.writeable = False
    return kept


class Pool:
    """Arrays of one call at a time: those in use, by the values that hold them, and spare ones."""

    def __init__(self) -> None:
        self.spare: dict[tuple[tuple[int, ...], Any], list[Array]] = {}
        self.fresh: dict[tuple[tuple[int, ...], Any], list[Array]] = {}
        self.holders: dict[int, tuple[int, Array]] = {}  # of a pooled array, by its id

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an array that no value of this call holds."""
        key = shape, dtype
        for stock in (self.fresh, self.spare):
            if stock.get(key):
                array = stock[key].pop()
                break
        else:
            array = np.empty(shape, dtype)
        self.holders[id(array)] = 0, array
        return array

    def hold(self, value: Any) -> None:
        """Note that one more value lies in a pooled array, if it does."""
        for owner in self._owners(value):
            count, array = self.holders[owner]
            self.holders[owner] = count + 1, array

    def drop(self, value: Any) -> None:
        """Note that one value less does; an array that none does is spare."""
        for owner in self._owners(value):
            count, array = self.holders[owner]
            if count > 1:
                self.holders[owner] = count - 1, array
            else:
                del self.holders[owner]
                self.fresh.setdefault((array.shape, array.dtype), []).append(array)

    def _owners(self, value: Any) -> list[int]:
        if not self.holders:
            return []
        if isinstance(value, list):
            return [owner for part in value for owner in self._owners(part)]
        while value is not None:
            if id(value) in self.holders:
                return [id(value)]
            value = getattr(value, "base", None)
        return []

    def close(self) -> None:
        """End a call: keep what it used and forgot, and let go what it gives to the caller."""
        self.spare, self.fresh, self.holders = self.fresh, {}, {}
