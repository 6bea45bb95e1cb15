"""What a program knows once it has seen a set of input shapes.

Exporters compute sizes with dozens of small nodes. Those depend on nothing but the inputs' shapes,
so that a second call of the same shapes need not compute them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .blocks import ELEMENTWISE
from .layers import Fused
from .registry import Node
from .rest import Foreign

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


class Sizes:
    """Which values depend on the inputs' shapes alone, and which have shapes that do."""

    def __init__(self, inputs: Iterable[str], constants: Iterable[str]) -> None:
        self.known = {"", *constants}
        self.settled = {*inputs, *self.known}

    def add(self, node: Node, branches: Sequence[Any] = ()) -> None:
        """Enter the outputs of a node, after those that make its inputs.

        `branches` are the programs of an If, of which shapes alone may choose one.
        """
        if isinstance(node, Foreign):  # a session's shapes follow where those of its nodes do
            for part in node.parts:
                self.add(part)
            return
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
            or (branches and self._knows(node.inputs[:1]) and all(b.settles for b in branches))
        ):
            return
        self.settled.update(outputs)

    def _knows(self, names: Iterable[str]) -> bool:
        return all(name in self.known for name in names)


class Call(NamedTuple):
    """A step with the places of what it reads and writes in a list of all values."""

    run: Callable[..., Any]
    single: int  # the place of the only input
    several: Callable[[list[Any]], Any] | None  # or what picks the inputs from the list
    output: int
    others: list[int]  # further outputs
    done: list[int]
    node: Node
    inputs: list[int]


def call_of(
    run: Callable[..., Any],
    inputs: list[int],
    output: int,
    others: list[int],
    done: list[int],
    node: Node,
) -> Call:
    """Return a step's call; what picks its inputs follows from their places."""
    if len(inputs) == 1:
        return Call(run, inputs[0], None, output, others, done, node, inputs)
    return Call(run, 0, _picker(inputs), output, others, done, node, inputs)


def _picker(places: list[int]) -> Callable[[list[Any]], Any]:
    """Return a function of a list that returns what is at some places."""
    return itemgetter(*places) if places else lambda values: ()


class Binding(NamedTuple):
    """What calls of the same input shapes share."""

    values: list[Any]
    calls: list[Call]
    macs: float  # of the convolutions
    n_own: int  # calls that are no sessions of ONNX Runtime


class Inner(NamedTuple):
    """The branch that an If takes."""

    binding: Binding
    sources: list[int]  # which inputs of the If its inputs are
    inputs: list[int]  # their places among its own values
    outputs: list[int]


def spliced(inner: Inner, call: Call, template: list[Any]) -> list[Call]:
    """Return the calls of a branch, in place of the If's, on the values of the graph around it.

    What the branch has of its own is added to the template.
    """
    places = {0: 0}
    for slot, source in zip(inner.inputs, inner.sources, strict=True):
        places[slot] = call.inputs[source]
    outer = {*places.values()}
    made = {slot for c in inner.binding.calls for slot in (c.output, *c.others)}
    passed = []  # what the branch returns as it got it, or for a second time
    for slot, target in zip(inner.outputs, [call.output, *call.others], strict=True):
        if target == 0:
            continue
        if slot in places:
            passed.append((slot, target))
            continue
        places[slot] = target
        if slot not in made:
            template[target] = inner.binding.values[slot]
    for slot, value in enumerate(inner.binding.values):
        if slot not in places:
            places[slot] = len(template)
            template.append(value)

    def moved(slots: Iterable[int]) -> list[int]:
        return [places[slot] for slot in slots]

    calls = []
    for c in inner.binding.calls:
        (output, *others), inputs = moved((c.output, *c.others)), moved(c.inputs)
        done = [slot for slot in moved(c.done) if slot not in outer]
        calls.append(call_of(c.run, inputs, output, others, done, c.node))
    for slot, target in passed:
        calls.append(call_of(_as_it_is, moved([slot]), target, [], [], call.node))
    if calls:
        last = calls[-1]
        calls[-1] = last._replace(done=[*last.done, *call.done])
    return calls


def _as_it_is(value: Any) -> Any:
    return value


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
