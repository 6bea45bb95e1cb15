"""Sequences of tensors, which exporters write for unbind and for lists: Python lists here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .registry import Node, operator

Array = NDArray[Any]
_Run = Callable[..., Any]


def _index(position: Array) -> int:
    return int(position.reshape(-1)[0])


def _checked(sequence: list[Array], position: Array) -> int:
    place = _index(position)
    if not -len(sequence) <= place < len(sequence):
        raise ValueError(f"position {place} is not in a sequence of {len(sequence)}")
    return place


@operator("SplitToSequence", since=11)
def _split(node: Node) -> _Run:
    axis, keeps = node.attributes.get("axis", 0), node.attributes.get("keepdims", 1)

    def run(x: Array, sizes: Array | None = None) -> list[Array]:
        if not -x.ndim <= axis < x.ndim:
            raise ValueError(f"axis {axis} is none of an input of size {list(x.shape)}")
        length = x.shape[axis]
        if sizes is None:
            parts = np.split(x, range(1, length), axis)
            return parts if keeps else [part.squeeze(axis) for part in parts]
        if sizes.ndim == 0:
            return np.split(x, range(max(int(sizes), 1), length, max(int(sizes), 1)), axis)
        if sizes.min(initial=0) < 0 or sizes.sum() != length:
            raise ValueError(f"the sizes should sum to {length}, got {sizes.tolist()}")
        return np.split(x, np.cumsum(sizes)[:-1], axis)

    return run


@operator("SequenceAt", since=11)
def _at(node: Node) -> _Run:
    def run(sequence: list[Array], position: Array) -> Array:
        return sequence[_checked(sequence, position)]

    return run


@operator("SequenceConstruct", since=11)
def _construct(node: Node) -> _Run:
    return lambda *arrays: [*arrays]


@operator("SequenceEmpty", since=11)
def _empty(node: Node) -> _Run:
    return lambda: []


@operator("SequenceLength", since=11)
def _length(node: Node) -> _Run:
    return lambda sequence: np.array(len(sequence), np.int64)


@operator("SequenceInsert", since=11)
def _insert(node: Node) -> _Run:
    def run(sequence: list[Array], tensor: Array, position: Array | None = None) -> list[Array]:
        place = len(sequence) if position is None else _index(position)
        if not -len(sequence) <= place <= len(sequence):
            raise ValueError(f"position {place} is not in a sequence of {len(sequence)}")
        found = [*sequence]
        found.insert(place, tensor)
        return found

    return run


@operator("SequenceErase", since=11)
def _erase(node: Node) -> _Run:
    def run(sequence: list[Array], position: Array | None = None) -> list[Array]:
        found = [*sequence]
        del found[-1 if position is None else _checked(sequence, position)]
        return found

    return run


@operator("ConcatFromSequence", since=11)
def _concat(node: Node) -> _Run:
    axis, stacks = node.attributes.get("axis"), node.attributes.get("new_axis", 0)
    if axis is None:
        raise node.error("it should have an axis")
    join = np.stack if stacks else np.concatenate
    return lambda sequence: join(sequence, axis)
