"""Operators that read or write at positions given by data, sort, and count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..registry import Node, operator
from .attributes import delivered, flag, integer, text
from .sizes import allowed, axis_of, scalar_of, whole_of
from .types import Array, check_same, widened

_Run = Callable[..., Any]


def _positions(indices: Array, size: int) -> Array:
    """Return indices, of which the negative ones count from the end, in [0, size)."""
    if indices.dtype.kind not in "iu":
        raise TypeError(f"indices should be integers, got dtype {indices.dtype}")
    if indices.size and (indices.min() < -size or indices.max() >= size):
        raise ValueError(
            f"indices should be in [{-size}, {size - 1}], got {indices.min()} to {indices.max()}"
        )
    return np.where(indices < 0, indices + size, indices)


@operator("Gather")
def _gather(node: Node) -> _Run:
    axis = integer(node, "axis", 0)

    def run(x: Array, indices: Array) -> Array:
        where = axis_of(axis, x.ndim)
        allowed((*x.shape[:where], *indices.shape, *x.shape[where + 1 :]), x.dtype)
        return np.asarray(x.take(_positions(indices, x.shape[where]), where))

    return run


def _check_within(x: Array, indices: Array, axis: int) -> None:
    fits = indices.ndim == x.ndim and all(
        i == axis or size <= x.shape[i] for i, size in enumerate(indices.shape)
    )
    if not fits:
        raise ValueError(
            f"indices of shape {list(indices.shape)} do not fit into {list(x.shape)} "
            f"beside axis {axis}"
        )


def _grid(indices: Array, axis: int, size: int) -> tuple[Array, ...]:
    """Return the position of each element of `indices`, which has that of one axis."""
    grid: list[Any] = list(np.ogrid[tuple(map(slice, indices.shape))])
    grid[axis] = _positions(indices, size)
    return tuple(grid)


@operator("GatherElements", since=11)
def _gather_elements(node: Node) -> _Run:
    axis = integer(node, "axis", 0)

    def run(x: Array, indices: Array) -> Array:
        where = axis_of(axis, x.ndim)
        _check_within(x, indices, where)
        return x[_grid(indices, where, x.shape[where])]

    return run


def _points(indices: Array, shape: tuple[int, ...]) -> tuple[Array, ...]:
    """Return the last axis of `indices`, of positions along the first axes, as a tuple."""
    depth = indices.shape[-1] if indices.ndim else 0
    if not 0 < depth <= len(shape):
        raise ValueError(
            f"the last size of indices should be in [1, {len(shape)}], "
            f"got shape {list(indices.shape)}"
        )
    return tuple(_positions(indices[..., i], shape[i]) for i in range(depth))


@operator("GatherND", since=11)
def _gather_nd(node: Node) -> _Run:
    n_batch = integer(node, "batch_dims", 0, least=0)

    def run(x: Array, indices: Array) -> Array:
        if n_batch >= min(x.ndim, indices.ndim) or x.shape[:n_batch] != indices.shape[:n_batch]:
            raise ValueError(
                f"batch_dims={n_batch} does not fit the shapes {list(x.shape)} and "
                f"{list(indices.shape)}"
            )
        points = _points(indices, x.shape[n_batch:])
        batch = np.ogrid[tuple(map(slice, x.shape[:n_batch]))] if n_batch else ()
        between = points[0].ndim - n_batch
        rows = tuple(b.reshape(b.shape + (1,) * between) for b in batch)
        return np.asarray(x[rows + points])

    return run


_REDUCTIONS: dict[str, Any] = {
    "add": np.add,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
}


def _reduction(node: Node) -> str:
    return text(node, "reduction", "none", ("none", *_REDUCTIONS))


def _written(x: Array, where: tuple[Array, ...], updates: Array, reduction: str) -> Array:
    """Return the array with updates written, or combined one after another, at positions."""
    check_same(x, updates)
    result = x.copy()
    if reduction == "none":
        result[where] = updates
    elif x.dtype.kind == "V":
        wide = widened(x)
        _REDUCTIONS[reduction].at(wide, where, widened(updates))
        result = wide.astype(x.dtype)
    else:
        _REDUCTIONS[reduction].at(result, where, updates)
    return result


@operator("Scatter", since=9)
@operator("ScatterElements", since=11)
def _scatter_elements(node: Node) -> _Run:
    axis, reduction = integer(node, "axis", 0), _reduction(node)

    def run(x: Array, indices: Array, updates: Array) -> Array:
        where = axis_of(axis, x.ndim)
        _check_within(x, indices, where)
        if indices.shape != updates.shape:
            raise ValueError(
                f"indices and updates should have one shape, got {list(indices.shape)} and "
                f"{list(updates.shape)}"
            )
        return _written(x, _grid(indices, where, x.shape[where]), updates, reduction)

    return run


@operator("ScatterND", since=11)
def _scatter_nd(node: Node) -> _Run:
    reduction = _reduction(node)

    def run(x: Array, indices: Array, updates: Array) -> Array:
        points = _points(indices, x.shape)
        expected = indices.shape[:-1] + x.shape[len(points) :]
        if updates.shape != expected:
            raise ValueError(
                f"updates should have shape {list(expected)}, got {list(updates.shape)}"
            )
        return _written(x, points, updates, reduction)

    return run


@operator("TensorScatter", since=24)
def _tensor_scatter(node: Node) -> _Run:
    axis, circular = (
        integer(node, "axis", -2),
        text(node, "mode", "linear", ("linear", "circular")) == "circular",
    )

    def run(past: Array, update: Array, starts: Array | None = None) -> Array:
        check_same(past, update)
        where = axis_of(axis, past.ndim)
        if where == 0:
            raise ValueError("axis should not be that of the batch")
        size, count = past.shape[where], update.shape[where] if update.ndim == past.ndim else -1
        if (*past.shape[:where], count, *past.shape[where + 1 :]) != update.shape or count > size:
            raise ValueError(
                f"update of shape {list(update.shape)} does not fit into {list(past.shape)}"
            )
        first = np.zeros(past.shape[0], np.int64) if starts is None else starts
        if first.dtype.kind not in "iu":
            raise TypeError(f"write_indices should be integers, got dtype {first.dtype}")
        if first.shape != past.shape[:1]:
            raise ValueError(f"write_indices should have one value a batch, got {first.shape}")
        positions = first[:, None] + np.arange(count)
        if circular:
            positions = positions % max(size, 1)
        elif positions.size and (positions.min() < 0 or positions.max() >= size):
            raise ValueError(f"write_indices should leave {count} of {size} positions")
        result = past.copy()
        # The batch and the written axis come first, whatever lies between them.
        rows = np.arange(past.shape[0])[:, None]
        np.moveaxis(result, where, 1)[rows, positions] = np.moveaxis(update, where, 1)
        return result

    return run


@operator("OneHot", since=9)
def _one_hot(node: Node) -> _Run:
    axis = integer(node, "axis", -1)

    def run(indices: Array, depth: Array, values: Array) -> Array:
        size = whole_of(depth, "depth")
        if values.shape != (2,):
            raise ValueError(f"values should be two, got shape {list(values.shape)}")
        where = axis_of(axis, indices.ndim + 1)
        off, on = values
        shape = (*indices.shape[:where], size, *indices.shape[where:])
        allowed(shape, values.dtype)
        wanted = np.expand_dims(np.where(indices < 0, indices + size, indices), where)
        classes = np.arange(size).reshape((size,) + (1,) * (indices.ndim - where))
        return np.where(wanted == classes, on, off)

    return run


@operator("Compress", since=9)
def _compress(node: Node) -> _Run:
    axis = integer(node, "axis", None)

    def run(x: Array, condition: Array) -> Array:
        if condition.ndim != 1 or condition.dtype != bool:
            raise ValueError(f"condition should be bools of one dimension, got {condition.shape}")
        where = None if axis is None else axis_of(axis, x.ndim)
        length = x.size if where is None else x.shape[where]
        return x.compress(condition[:length], where)

    return run


@operator("NonZero", since=9)
def _non_zero(node: Node) -> _Run:
    def run(x: Array) -> Array:
        if x.ndim == 0:  # one row, and one column if it is not zero
            return np.zeros((1, int(bool(x != 0))), np.int64)
        return np.stack(np.nonzero(x)).astype(np.int64)

    return run


# ---- order ------------------------------------------------------------------------------------


def _arg_extreme(largest: bool) -> Callable[[Node], _Run]:
    def build(node: Node) -> _Run:
        axis, keep = integer(node, "axis", 0), flag(node, "keepdims", True)
        last = flag(node, "select_last_index")
        search = np.argmax if largest else np.argmin

        def run(x: Array) -> Array:
            where = axis_of(axis, x.ndim)
            x = widened(x)
            if last:
                found = x.shape[where] - 1 - search(np.flip(x, where), axis=where)
            else:
                found = search(x, axis=where)
            return np.expand_dims(found, where) if keep else np.asarray(found)

        return run

    return build


operator("ArgMax")(_arg_extreme(largest=True))
operator("ArgMin")(_arg_extreme(largest=False))


def _top(x: Array, count: int, axis: int, largest: bool) -> tuple[Array, Array]:
    """Return the first values in order and their places; of equal ones the lower place first."""
    if not 0 <= count <= x.shape[axis]:
        raise ValueError(f"k should be in [0, {x.shape[axis]}], got {count}")
    keys = np.moveaxis(widened(x), axis, -1)
    if 0 < _SELECT_FROM * count < keys.shape[-1] and keys.size == keys.shape[-1]:
        row = keys.reshape(-1)
        last = np.partition(row, -count if largest else count - 1)[-count if largest else count - 1]
        (within,) = np.nonzero(~(row < last) if largest else ~(row > last))
        order = within[_order(row[within], largest)][:count].reshape(*keys.shape[:-1], count)
    else:
        order = _order(keys, largest)[..., :count]
    order = np.moveaxis(order, -1, axis)
    return np.take_along_axis(x, order, axis), order.astype(np.int64)


# A row this many times longer than k is searched for the k first before these are sorted.
_SELECT_FROM = 8


def _order(keys: Array, largest: bool) -> Array:
    """Return the order of the last axis; of equal keys the lower place comes first."""
    if not largest:
        return np.argsort(keys, axis=-1, kind="stable")
    # A stable order downwards is one upwards of the reversed array, reversed.
    order = np.argsort(np.flip(keys, -1), axis=-1, kind="stable")
    return keys.shape[-1] - 1 - np.flip(order, -1)


@operator("TopK", since=10)
def _top_k(node: Node) -> _Run:
    axis, largest = integer(node, "axis", -1), flag(node, "largest", True)
    flag(node, "sorted", True)  # any order is right where none is asked for

    def run(x: Array, k: Array) -> tuple[Array, Array]:
        return _top(x, whole_of(k, "k"), axis_of(axis, x.ndim), largest)

    return delivered(node, run)


@operator("TopK", until=9)
def _top_k_by_attribute(node: Node) -> _Run:
    axis, count = integer(node, "axis", -1), integer(node, "k", 0)
    return delivered(node, lambda x: _top(x, count, axis_of(axis, x.ndim), True))


@operator("Unique", since=11)
def _unique(node: Node) -> _Run:
    axis, in_order = integer(node, "axis", None), flag(node, "sorted", True)

    def run(x: Array) -> tuple[Array, ...]:
        where = None if axis is None else axis_of(axis, x.ndim)
        found = np.unique(widened(x), True, True, True, axis=where)
        values, first, inverse, counts = found
        inverse = inverse.reshape(-1)
        if not in_order:
            order = np.argsort(first, kind="stable")
            first, counts = first[order], counts[order]
            rank = np.empty_like(order)
            rank[order] = np.arange(len(order))
            inverse = rank[inverse]
        values = x.reshape(-1)[first] if where is None else x.take(first, where)
        return values, *(v.astype(np.int64) for v in (first, inverse, counts))

    return delivered(node, run)


@operator("NonMaxSuppression", since=10)
def _non_max_suppression(node: Node) -> _Run:
    centered = flag(node, "center_point_box")

    def run(
        boxes: Array,
        scores: Array,
        most: Array | None = None,
        overlap: Array | None = None,
        least: Array | None = None,
    ) -> Array:
        count = 0 if most is None else whole_of(most, "max_output_boxes_per_class")
        limit = 0.0 if overlap is None else scalar_of(overlap, "iou_threshold")
        threshold = None if least is None else scalar_of(least, "score_threshold")
        if boxes.ndim != 3 or scores.ndim != 3 or boxes.shape != (len(scores), scores.shape[2], 4):
            raise ValueError(
                "boxes should have shape (N, B, 4) and scores (N, classes, B), "
                f"got {list(boxes.shape)} and {list(scores.shape)}"
            )
        kept = []
        for batch, corners in enumerate(_corners(boxes, centered)):
            for label, row in enumerate(scores[batch]):
                chosen = _suppressed(corners, row, count, limit, threshold)
                kept += [(batch, label, box) for box in chosen]
        return np.array(kept, np.int64).reshape(-1, 3)

    return run


def _corners(boxes: Array, centered: bool) -> Array:
    """Return boxes as (low, low, high, high)."""
    if centered:
        x, y, width, height = np.moveaxis(boxes, -1, 0)
        return np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=-1)
    first, second = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=-1)


def _suppressed(
    boxes: Array, scores: Array, count: int, limit: float, threshold: float | None
) -> list[int]:
    """Return the boxes of the highest scores that overlap none of a higher one too much."""
    left = np.argsort(-scores, kind="stable")
    if threshold is not None:
        left = left[scores[left] > threshold]
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1)
    chosen: list[int] = []
    while left.size and len(chosen) < count:
        best, left = int(left[0]), left[1:]
        chosen.append(best)
        low = np.maximum(boxes[best, :2], boxes[left, :2])
        high = np.minimum(boxes[best, 2:], boxes[left, 2:])
        common = np.prod(np.maximum(high - low, 0), axis=-1)
        union = area[best] + area[left] - common
        left = left[~((union > 0) & (common > limit * union))]
    return chosen
