"""Operators that move elements without changing them: shapes, axes, parts, copies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..registry import Node, operator
from .attributes import flag, integer, integers, number, required_integer, text
from .sizes import allowed, axes_of, axis_of, integers_of, scalar_of, whole_of
from .types import Array, check_same, element_dtype

_Run = Callable[..., Any]


@operator("Shape")
def _shape(node: Node) -> _Run:
    start, end = integer(node, "start", 0), integer(node, "end", None)
    return lambda x: np.array(x.shape[start:end], np.int64)


@operator("Size")
def _size(node: Node) -> _Run:
    return lambda x: np.array(x.size, np.int64)


@operator("Reshape", since=5)
def _reshape(node: Node) -> _Run:
    keep_zeros = flag(node, "allowzero")

    def run(x: Array, shape: Array) -> Array:
        sizes = integers_of(shape, "shape")
        if not keep_zeros:
            if 0 in sizes[x.ndim :]:
                raise ValueError(f"shape {sizes} copies a size that {list(x.shape)} does not have")
            sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
        elif 0 in sizes and -1 in sizes:
            raise ValueError(f"shape should not have both 0 and -1, got {sizes}")
        if any(size < -1 for size in sizes):
            raise ValueError(f"shape should have no size below -1, got {sizes}")
        if -1 in sizes and x.size == 0:  # NumPy takes no -1 beside a 0
            sizes = _completed(sizes, x.shape)
        return x.reshape(sizes)

    return run


def _completed(sizes: list[int], given: tuple[int, ...]) -> list[int]:
    known = math.prod(size for size in sizes if size != -1)
    if known:
        return [0 if size == -1 else size for size in sizes]
    if sizes.count(-1) > 1:
        raise ValueError(f"shape should have one -1 at most, got {sizes}")
    rest = math.prod(size for size in given if size)
    other = math.prod(size for size in sizes if size > 0)
    return [max(rest // max(other, 1), 1) if size == -1 else size for size in sizes]


@operator("Flatten")
def _flatten(node: Node) -> _Run:
    axis = integer(node, "axis", 1)

    def run(x: Array) -> Array:
        if not -x.ndim <= axis <= x.ndim:
            raise ValueError(f"axis should be in [{-x.ndim}, {x.ndim}], got {axis}")
        first = axis + x.ndim if axis < 0 else axis
        return x.reshape(math.prod(x.shape[:first]), math.prod(x.shape[first:]))

    return run


@operator("Transpose")
def _transpose(node: Node) -> _Run:
    order = integers(node, "perm", least=0)
    return lambda x: x.transpose(order)


def _axes(node: Node, axes: Array | None) -> list[int] | None:
    """Return the axes, which are an attribute first and an input later."""
    return integers(node, "axes") if axes is None else integers_of(axes, "axes")


@operator("Squeeze")
def _squeeze(node: Node) -> _Run:
    def run(x: Array, axes: Array | None = None) -> Array:
        chosen = _axes(node, axes)
        return x.squeeze(None if chosen is None else axes_of(chosen, x.ndim))

    return run


@operator("Unsqueeze")
def _unsqueeze(node: Node) -> _Run:
    def run(x: Array, axes: Array | None = None) -> Array:
        chosen = _axes(node, axes)
        if chosen is None:
            raise ValueError("it should have axes")
        return np.expand_dims(x, axes_of(chosen, x.ndim + len(chosen)))

    return run


@operator("Concat", since=4)
def _concat(node: Node) -> _Run:
    axis = required_integer(node, "axis")

    def run(*arrays: Array) -> Array:
        if not arrays:
            raise ValueError("it should have an input")
        check_same(*arrays)
        return np.concatenate(arrays, axis=axis_of(axis, arrays[0].ndim))

    return run


@operator("Split", since=2)
def _split(node: Node) -> _Run:
    axis, n_parts = integer(node, "axis", 0), integer(node, "num_outputs", None, least=1)
    given = integers(node, "split", least=0)
    count = len(node.outputs)

    def run(x: Array, split: Array | None = None) -> Any:
        where = axis_of(axis, x.ndim)
        length = x.shape[where]
        sizes = given if split is None else integers_of(split, "split")
        if sizes is None:
            size = -(-length // (n_parts or count))
            if n_parts is None and size * count != length:
                raise ValueError(f"{length} positions do not split into {count} parts of a size")
            sizes = [max(min(size, length - i * size), 0) for i in range(count)]
        if len(sizes) != count or sum(sizes) != length or min(sizes) < 0:
            raise ValueError(f"split should have {count} sizes, of the sum {length}, got {sizes}")
        ends = np.cumsum(sizes).tolist()
        moved = x.swapaxes(0, where)
        parts = [
            moved[end - size : end].swapaxes(0, where)
            for size, end in zip(sizes, ends, strict=True)
        ]
        return parts[0] if count == 1 else tuple(parts)

    return run


def slices_of(
    shape: tuple[int, ...],
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
) -> tuple[slice, ...]:
    """Return the index that a Slice is."""
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise ValueError("starts, ends, axes and steps should be as many")
    if 0 in steps:
        raise ValueError(f"steps should not be 0, got {list(steps)}")
    chosen = [slice(None)] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes_of(axes, len(shape)), steps, strict=True):
        size = shape[axis]
        first = start + size if start < 0 else start
        last = end + size if end < 0 else end
        if step > 0:
            chosen[axis] = slice(max(first, 0), max(last, 0), step)
        else:  # before the first position is None in NumPy
            chosen[axis] = slice(min(max(first, 0), size - 1), last if last >= 0 else None, step)
    return tuple(chosen)


@operator("Slice", until=9)
def _slice_by_attributes(node: Node) -> _Run:
    starts, ends, axes = (integers(node, name) for name in ("starts", "ends", "axes"))
    if starts is None or ends is None:
        raise node.error("it should have starts and ends")
    return lambda x: x[slices_of(x.shape, starts, ends, axes)]


@operator("Slice", since=10)
def _slice(node: Node) -> _Run:
    def run(
        x: Array,
        starts: Array,
        ends: Array,
        axes: Array | None = None,
        steps: Array | None = None,
    ) -> Array:
        return x[
            slices_of(
                x.shape,
                integers_of(starts, "starts"),
                integers_of(ends, "ends"),
                None if axes is None else integers_of(axes, "axes"),
                None if steps is None else integers_of(steps, "steps"),
            )
        ]

    return run


@operator("Expand", since=8)
def _expand(node: Node) -> _Run:
    def run(x: Array, shape: Array) -> Array:
        sizes = integers_of(shape, "shape")
        return np.broadcast_to(x, allowed(np.broadcast_shapes(x.shape, tuple(sizes)), x.dtype))

    return run


@operator("Tile", since=6)
def _tile(node: Node) -> _Run:
    def run(x: Array, repeats: Array) -> Array:
        counts = integers_of(repeats, "repeats")
        if len(counts) != x.ndim or any(count < 0 for count in counts):
            raise ValueError(f"repeats should have {x.ndim} counts of 0 or more, got {counts}")
        allowed((size * count for size, count in zip(x.shape, counts, strict=True)), x.dtype)
        return np.tile(x, counts)

    return run


@operator("ConstantOfShape", since=9)
def _constant_of_shape(node: Node) -> _Run:
    value = np.asarray(node.attributes.get("value", np.zeros(1, np.float32)))
    if value.size != 1:
        raise node.error(f"value should be one value, got shape {list(value.shape)}")
    value = value.reshape(())
    return lambda shape: np.full(
        allowed(integers_of(shape, "the shape"), value.dtype), value, value.dtype
    )


@operator("Range", since=11)
def _range(node: Node) -> _Run:
    def run(start: Array, limit: Array, delta: Array) -> Array:
        check_same(start, limit, delta)
        first, end, step = (
            scalar_of(v, name)
            for v, name in zip((start, limit, delta), ("start", "limit", "delta"), strict=True)
        )
        if step == 0 or not math.isfinite((end - first) / step):
            raise ValueError(f"(limit - start)/delta should be finite, got delta {step}")
        (count,) = allowed([max(math.ceil((end - first) / step), 0)], start.dtype)
        dtype = start.dtype
        if dtype.kind in "iu":
            return (first + step * np.arange(count)).astype(dtype)
        return np.asarray(first + step * np.arange(count, dtype=np.float64)).astype(dtype)

    return run


@operator("EyeLike", since=9)
def _eye_like(node: Node) -> _Run:
    number_of = node.attributes.get("dtype")
    dtype = None if number_of is None else element_dtype(node, number_of)
    k = integer(node, "k", 0)

    def run(x: Array) -> Array:
        if x.ndim != 2:
            raise ValueError(f"the input should have two dimensions, got shape {list(x.shape)}")
        rows, columns = x.shape
        result = np.zeros(x.shape, dtype or x.dtype)
        if -rows < k < columns:
            np.fill_diagonal(result[max(-k, 0) :, max(k, 0) :], 1)
        return result

    return run


@operator("Trilu", since=14)
def _trilu(node: Node) -> _Run:
    upper = flag(node, "upper", True)

    def run(x: Array, k: Array | None = None) -> Array:
        diagonal = 0 if k is None else whole_of(k, "k")
        if x.ndim < 2:
            raise ValueError(f"the input should have two dimensions, got shape {list(x.shape)}")
        diagonal = max(min(diagonal, x.shape[-1] + 1), -x.shape[-2] - 1)
        offset = np.arange(x.shape[-1]) - np.arange(x.shape[-2])[:, None]
        kept = offset >= diagonal if upper else offset <= diagonal
        return np.where(kept, x, x.dtype.type(0))

    return run


# ---- padding ----------------------------------------------------------------------------------

_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}


def padded(
    x: Array, pads: Sequence[int], axes: Sequence[int] | None, mode: str, value: Any
) -> Array:
    where = range(x.ndim) if axes is None else axes_of(axes, x.ndim)
    if len(pads) != 2 * len(where):
        raise ValueError(f"pads should have {2 * len(where)} values, got {list(pads)}")
    widths, crop = [(0, 0)] * x.ndim, [slice(None)] * x.ndim
    for axis, before, after in zip(where, pads[: len(where)], pads[len(where) :], strict=True):
        widths[axis] = (max(before, 0), max(after, 0))
        crop[axis] = slice(max(-before, 0), max(x.shape[axis] + min(after, 0), 0))
        if mode == "wrap" and min(before, after) < 0:
            raise ValueError(f"pads of mode 'wrap' should not be negative, got {list(pads)}")
    x = x[tuple(crop)]
    shape = allowed((n + sum(w) for n, w in zip(x.shape, widths, strict=True)), x.dtype)
    if mode == "constant":
        result = np.full(shape, value, x.dtype)
        result[tuple(slice(w[0], w[0] + n) for n, w in zip(x.shape, widths, strict=True))] = x
        return result
    for axis, width in enumerate(widths):
        if any(width):
            x = _extended(x, axis, *width, mode)
    return x


def _extended(x: Array, axis: int, before: int, after: int, mode: str) -> Array:
    """Return the array longer along an axis by elements of its own."""
    length = x.shape[axis]
    if length == 0:
        raise ValueError(f"mode {mode!r} should have an element to repeat, got shape {x.shape}")
    around = np.concatenate([np.arange(-before, 0), np.arange(length, length + after)])
    if mode == "edge":
        where = around.clip(0, length - 1)
    elif mode == "wrap":
        where = around % length
    elif length == 1:
        where = around * 0
    else:
        where = np.abs((around + length - 1) % (2 * (length - 1)) - (length - 1))
    ahead = x.swapaxes(0, axis)
    parts = [ahead[where[:before]], ahead, ahead[where[before:]]]
    return np.concatenate([part.swapaxes(0, axis) for part in parts], axis)


@operator("Pad", since=2, until=10)
def _pad_by_attributes(node: Node) -> _Run:
    mode, value = text(node, "mode", "constant", tuple(_PAD_MODES)), number(node, "value", 0.0)
    pads = integers(node, "pads")
    if pads is None:
        raise node.error("it should have pads")
    return lambda x: padded(x, pads, None, mode, value)


@operator("Pad", since=11)
def _pad(node: Node) -> _Run:
    mode = text(node, "mode", "constant", tuple(_PAD_MODES))

    def run(x: Array, pads: Array, value: Array | None = None, axes: Array | None = None) -> Array:
        chosen = None if axes is None else integers_of(axes, "axes")
        constant = x.dtype.type(0)
        if value is not None and value.size:
            check_same(x, value)
            constant = value.reshape(-1)[0]
        return padded(x, integers_of(pads, "pads"), chosen, mode, constant)

    return run


@operator("CenterCropPad", since=18)
def _center_crop_pad(node: Node) -> _Run:
    axes = integers(node, "axes")

    def run(x: Array, shape: Array) -> Array:
        where = range(x.ndim) if axes is None else axes_of(axes, x.ndim)
        sizes = integers_of(shape, "shape")
        if len(sizes) != len(where) or min(sizes, default=0) < 0:
            raise ValueError(f"shape should have {len(where)} sizes of 0 or more, got {sizes}")
        surplus = [size - x.shape[axis] for size, axis in zip(sizes, where, strict=True)]
        before = [s // 2 if s >= 0 else -(-s // 2) for s in surplus]
        after = [s - b for s, b in zip(surplus, before, strict=True)]
        return padded(x, [*before, *after], list(where), "constant", x.dtype.type(0))

    return run


# ---- depth, space, time -----------------------------------------------------------------------


@operator("DepthToSpace")
def _depth_to_space(node: Node) -> _Run:
    block = required_integer(node, "blocksize", least=1)
    order = text(node, "mode", "DCR", ("DCR", "CRD"))

    def run(x: Array) -> Array:
        n, c, h, w = x.shape
        if order == "DCR":
            parts = x.reshape(n, block, block, c // block**2, h, w).transpose(0, 3, 4, 1, 5, 2)
        else:
            parts = x.reshape(n, c // block**2, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
        return parts.reshape(n, c // block**2, h * block, w * block)

    return run


@operator("SpaceToDepth")
def _space_to_depth(node: Node) -> _Run:
    block = required_integer(node, "blocksize", least=1)
    order = text(node, "mode", "DCR", ("DCR", "CRD"))
    axes = (0, 3, 5, 1, 2, 4) if order == "DCR" else (0, 1, 3, 5, 2, 4)

    def run(x: Array) -> Array:
        n, c, h, w = x.shape
        parts = x.reshape(n, c, h // block, block, w // block, block).transpose(axes)
        return parts.reshape(n, c * block**2, h // block, w // block)

    return run


@operator("ReverseSequence", since=10)
def _reverse_sequence(node: Node) -> _Run:
    time, batch = integer(node, "time_axis", 0), integer(node, "batch_axis", 1)
    if {time, batch} != {0, 1}:
        raise node.error(f"time_axis and batch_axis should be 0 and 1, got {time} and {batch}")

    def run(x: Array, lengths: Array) -> Array:
        counts = integers_of(lengths, "sequence_lens")
        if x.ndim < 2 or len(counts) != x.shape[batch]:
            raise ValueError(f"sequence_lens should have one value a batch, got {counts}")
        result = x.copy()
        ahead, there = x.swapaxes(0, batch), result.swapaxes(0, batch)
        for row, count in enumerate(counts):
            if not 0 <= count <= x.shape[time]:
                raise ValueError(f"sequence_lens should be in [0, {x.shape[time]}], got {count}")
            there[row, :count] = ahead[row, :count][::-1]
        return result

    return run
