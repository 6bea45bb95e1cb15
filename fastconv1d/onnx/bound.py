"""Steps for one set of input shapes: what a general operator works out in each call is known.

A step that the program binds was computed once, for inputs of the same shapes and dtypes; where its
output's shape follows from those, a view or a copy of NumPy's own is all that is left of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import config
from .operators.shapes import slices_of
from .registry import Node

Array = NDArray[Any]

# A reflection of more elements has an index that is larger than what it saves.
_LARGEST_INDEX = 1 << 14


class Bound(NamedTuple):
    """A function of the first inputs of a node."""

    run: Callable[..., Any]
    n_inputs: int


def bound(
    node: Node,
    run: Callable[..., Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    spare: Sequence[int] = (),
) -> Bound | None:
    """Return the node for inputs of these shapes, whose outputs have these; None as it is.

    `spare` are the places of inputs that nothing else reads, whose memory may take the result.
    """
    if not all(isinstance(v, np.ndarray) for v in (*inputs[:1], *outputs)):
        return None
    shorter = getattr(run, "shorter", None)
    if shorter is not None:
        own = shorter(inputs, outputs, spare)
        return None if own is None else Bound(own, len(inputs))
    binder = None if node.domain else _BINDERS.get(node.op)
    return None if binder is None else binder(node, run, inputs, outputs)


def in_place(
    chain: Callable[..., Any],
    run: Callable[..., Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    spare: Sequence[int],
) -> Callable[..., Any] | None:
    """Return a chain that writes over an input of the result's shape; `run` where it does not."""
    threads, y = config.get_num_threads, outputs[0]
    given = ((i, inputs[i]) for i in spare)
    kind = y.shape, y.dtype, True
    places = [i for i, x in given if (x.shape, x.dtype, x.flags.c_contiguous) == kind]
    if not places:
        return None
    place = places[0]

    def run_in_place(*arrays: Array) -> Array:
        y = chain(arrays, arrays[place], threads())
        return run(*arrays) if y is None else y

    return run_in_place


def _viewed(
    node: Node, run: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any]
) -> Bound:
    shape = outputs[0].shape
    return Bound(lambda x: x.reshape(shape), 1)


def _viewed_if_whole(
    node: Node, run: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any]
) -> Bound | None:
    """An operator that returns its input where that has as many elements as the output."""
    if inputs[0].size != outputs[0].size or inputs[0].dtype != outputs[0].dtype:
        return None
    return _viewed(node, run, inputs, outputs)


def _joined(
    node: Node, run: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any]
) -> Bound:
    axis, join = node.attributes["axis"], np.concatenate
    return Bound(lambda *arrays: join(arrays, axis), len(inputs))


def _divided(
    node: Node, run: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any]
) -> Bound | None:
    if len(outputs) < 2 or outputs[0].ndim == 0:
        return None
    axis, places, begin = node.attributes.get("axis", 0) % outputs[0].ndim, [], 0
    for part in outputs:
        end = begin + part.shape[axis]
        places.append((*[slice(None)] * axis, slice(begin, end)))
        begin = end
    return Bound(lambda x: tuple([x[place] for place in places]), 1)


def _sliced(
    node: Node, run: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any]
) -> Bound | None:
    if not 3 <= len(inputs) <= 5 or any(v is None for v in inputs[:3]):
        return None
    lists: list[Any] = [None if v is None else v.tolist() for v in inputs[1:]]
    place = slices_of(inputs[0].shape, *lists)
    return Bound(lambda x: x[place], 1)


def _averaged(
    node: Node, run: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any]
) -> Bound | None:
    x, y, keep = inputs[0], outputs[0], bool(node.attributes.get("keepdims", 1))
    if x.size == y.size or x.dtype.char not in "fd" or y.size == 0 or y.ndim == 0:
        return _viewed_if_whole(node, run, inputs, outputs)
    given = node.attributes.get("axes") if len(inputs) < 2 or inputs[1] is None else inputs[1]
    axes = range(x.ndim) if given is None or not len(given) else given
    chosen, count = tuple(map(int, axes)), x.dtype.type(x.size // y.size)
    add: Callable[..., Array] = np.add.reduce

    def run_averaged(x: Array) -> Array:
        y = add(x, axis=chosen, keepdims=keep)
        y /= count
        return y

    return Bound(run_averaged, 1)


def _padded(
    node: Node, run: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any]
) -> Bound | None:
    x, y = inputs[0], outputs[0]
    if node.attributes.get("mode", "constant") != "constant":
        if y.size > _LARGEST_INDEX:
            return None
        others = [None, *inputs[3:]] if len(inputs) > 2 else []
        index = run(np.arange(x.size).reshape(x.shape), *inputs[1:2], *others)
        return Bound(lambda x: x.reshape(-1).take(index), 1)
    pads = node.attributes.get("pads")
    if pads is None and len(inputs) > 1 and isinstance(inputs[1], np.ndarray):
        pads = inputs[1].reshape(-1).tolist()
    if pads is None or len(pads) != 2 * x.ndim or min(pads, default=0) < 0 or len(inputs) > 3:
        return None
    if len(inputs) > 2 and inputs[2] is not None and inputs[2].any():
        return None
    if node.attributes.get("value", 0.0) != 0:
        return None
    box = tuple(slice(pad, pad + size) for pad, size in zip(pads, x.shape, strict=False))
    shape, dtype = y.shape, y.dtype

    def run_padded(x: Array) -> Array:
        y = np.zeros(shape, dtype)
        y[box] = x
        return y

    return Bound(run_padded, 1)


_BINDERS: dict[str, Callable[..., Bound | None]] = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _viewed),
    **dict.fromkeys(("Expand", "Identity"), _viewed_if_whole),
    **dict.fromkeys(("ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"), _viewed_if_whole),
    "Concat": _joined,
    "Split": _divided,
    "Pad": _padded,
    "ReduceMean": _averaged,
    "Slice": _sliced,
}
