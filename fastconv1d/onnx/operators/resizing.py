"""Resampling: each axis by weights of a few neighbours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...core.network import weighed
from ..registry import Node, operator
from .attributes import flag, integers, number, text
from .sizes import allowed, axes_of, integers_of
from .types import Array, check_float, computed_wide, is_float

_Run = Callable[..., Any]

_TRANSFORMATIONS = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)
_ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


class _Axis(NamedTuple):
    """What happens along one axis: from `size` to `length` positions of the part of `region`.

    `full` is the length before it was rounded to a whole number.
    """

    size: int
    length: int
    scale: float
    full: float
    region: tuple[float, float] = (0.0, 1.0)

    @property
    def unchanged(self) -> bool:
        return (
            self.size == self.length and math.isclose(self.scale, 1) and self.region == (0.0, 1.0)
        )

    def coordinates(self, transformation: str) -> Array:
        """Return where the outputs lie in the input, in float32: it decides ties as others do."""
        at = np.arange(self.length, dtype=np.float32)
        scale = np.float32(self.scale)
        full = self.full
        if transformation == "asymmetric":
            return at / scale
        if transformation == "tf_half_pixel_for_nn":
            return (at + np.float32(0.5)) / scale
        if transformation == "align_corners":
            return at * 0 if full == 1 else at * (self.size - 1) / (full - 1)
        if transformation == "tf_crop_and_resize":
            start, end = self.region
            span = (end - start) * (self.size - 1)
            offset = start * (self.size - 1)
            return at * 0 + span / 2 + offset if full == 1 else at * span / (full - 1) + offset
        if transformation == "pytorch_half_pixel" and self.length <= 1:
            return at * 0
        found = (at + np.float32(0.5)) / scale - np.float32(0.5)
        if transformation == "half_pixel_symmetric":
            size, length = np.float32(self.size), np.float32(self.length)
            found += size / np.float32(2) * (np.float32(1) - length / (scale * size))
        return found


def _triangle(distance: Array) -> Array:
    return np.maximum(1 - np.abs(distance), 0)


def _cubic(a: float) -> Callable[[Array], Array]:
    def kernel(distance: Array) -> Array:
        d = np.abs(distance)
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        return np.where(d <= 1, near, np.where(d < 2, far, 0))

    return kernel


class _Resampler:
    """The attributes of Resize that say how an axis is resampled."""

    def __init__(self, node: Node, transformation: str, rounding: str) -> None:
        self.mode = text(node, "mode", "nearest", ("nearest", "linear", "cubic"))
        self.transformation, self.rounding = transformation, rounding
        self.antialias = flag(node, "antialias")
        if self.antialias and self.mode == "nearest":
            raise node.error("antialias=1 should have mode 'linear' or 'cubic'")
        self.excludes = flag(node, "exclude_outside")
        self.outside = number(node, "extrapolation_value", 0.0)
        a = number(node, "cubic_coeff_a", -0.75)
        self.kernel = _triangle if self.mode == "linear" else _cubic(a)
        self.support = 1 if self.mode == "linear" else 2

    def along(self, x: Array, axis: int, change: _Axis) -> Array:
        if change.size == 0:
            raise ValueError(f"axis {axis} should have a position to read")
        at = change.coordinates(self.transformation)
        if self.mode == "nearest":
            nearest = self._rounded(at, change).clip(0, change.size - 1).astype(np.intp)
            return self._outside(x.take(nearest, axis), at, axis, change)
        where, weights = self._neighbours(at, change)
        return self._outside(weighed(x, axis, where, weights), at, axis, change)

    def _rounded(self, at: Array, change: _Axis) -> Array:
        if self.rounding == "simple":  # operator set 10, as ONNX Runtime has it
            return np.ceil(at) if change.scale < 1 else np.floor(at)
        return _ROUNDINGS[self.rounding](at)

    def _neighbours(self, at: Array, change: _Axis) -> tuple[Array, Array]:
        """Return the read positions and their weights, a row for each neighbour."""
        scale = min(change.scale, 1.0) if self.antialias else 1.0
        start = math.floor(-self.support / scale) + 1
        left = np.ceil(at) - 1
        offsets = np.arange(start, 2 - start)[:, None]
        weights = self.kernel((offsets - (at - left)) * scale)
        where = (left + offsets).astype(np.intp)
        if self.excludes:
            weights = np.where((where >= 0) & (where < change.size), weights, 0)
        if self.excludes or self.antialias:
            total = weights.sum(axis=0)
            weights = weights / np.where(total == 0, 1, total)
        return where.clip(0, change.size - 1), weights

    def _outside(self, y: Array, at: Array, axis: int, change: _Axis) -> Array:
        if self.transformation != "tf_crop_and_resize":
            return y
        beyond = (at < 0) | (at > change.size - 1)
        return np.where(
            beyond.reshape(-1, *(1,) * (y.ndim - axis - 1)), y.dtype.type(self.outside), y
        )

    def __call__(self, x: Array, changes: dict[int, _Axis]) -> Array:
        shape = list(x.shape)
        for axis, change in changes.items():
            shape[axis] = change.length
        shape = list(allowed(shape, np.dtype(np.float64)))
        if math.prod(shape) == 0:
            return np.zeros(shape, x.dtype)
        y = x if self.mode == "nearest" or x.dtype.kind == "f" else x.astype(np.float64)
        for axis, change in changes.items():
            if not change.unchanged:
                y = self.along(y, axis, change)
        if y.dtype != x.dtype:
            bounds = np.iinfo(x.dtype)
            y = np.clip(np.rint(y), bounds.min, bounds.max).astype(x.dtype)
        return y


def _from_scales(x: Array, axes: Sequence[int], scales: Sequence[float]) -> dict[int, _Axis]:
    if len(scales) != len(axes) or not all(0 < s < math.inf for s in scales):
        raise ValueError(f"scales should be {len(axes)} numbers above 0, got {list(scales)}")
    return {
        axis: _Axis(x.shape[axis], math.floor(x.shape[axis] * scale), scale, x.shape[axis] * scale)
        for axis, scale in zip(axes, scales, strict=True)
    }


def _from_sizes(x: Array, axes: Sequence[int], sizes: list[int], policy: str) -> dict[int, _Axis]:
    if len(sizes) != len(axes) or min(sizes, default=0) < 0:
        raise ValueError(f"sizes should be {len(axes)} of 0 or more, got {sizes}")
    if any(x.shape[axis] == 0 != size for size, axis in zip(sizes, axes, strict=True)):
        raise ValueError(f"the resized axes should have a position, got shape {list(x.shape)}")
    scales = [size / max(x.shape[axis], 1) for size, axis in zip(sizes, axes, strict=True)]
    if policy != "stretch":
        scale = min(scales) if policy == "not_larger" else max(scales)
        scales = [scale] * len(axes)
        sizes = [int(scale * x.shape[axis] + 0.5) for axis in axes]
    return {
        axis: _Axis(x.shape[axis], size, scale, size)
        for axis, size, scale in zip(axes, sizes, scales, strict=True)
    }


def _floats(values: Array) -> list[float]:
    return [float(v) for v in values.reshape(-1)]


@operator("Resize", since=11)
def _resize(node: Node) -> _Run:
    transformation = text(node, "coordinate_transformation_mode", "half_pixel", _TRANSFORMATIONS)
    rounding = text(node, "nearest_mode", "round_prefer_floor", tuple(_ROUNDINGS))
    policy = text(
        node, "keep_aspect_ratio_policy", "stretch", ("stretch", "not_larger", "not_smaller")
    )
    resample, given = _Resampler(node, transformation, rounding), integers(node, "axes")

    def run(
        x: Array, roi: Array | None = None, scales: Array | None = None, sizes: Array | None = None
    ) -> Array:
        axes = tuple(range(x.ndim)) if given is None else axes_of(given, x.ndim)
        if sizes is not None and sizes.size:
            changes = _from_sizes(x, axes, integers_of(sizes, "sizes"), policy)
        elif scales is not None and scales.size:
            changes = _from_scales(x, axes, _floats(scales))
        else:
            raise ValueError("it should have scales or sizes")
        if transformation == "tf_crop_and_resize":
            if roi is None or roi.size != 2 * len(axes):
                raise ValueError(f"roi should have {2 * len(axes)} numbers")
            ends = _floats(roi)
            for i, axis in enumerate(axes):
                region = (ends[i], ends[i + len(axes)])
                changes[axis] = changes[axis]._replace(region=region)
        return resample(x, changes)

    return _first_wide(run)


def _first_wide(run: _Run) -> _Run:
    """Return the function with an x of 16-bit floats computed in float32."""

    def wide(x: Array, *others: Array | None) -> Array:
        if x.dtype.kind not in "iuf" and not is_float(x.dtype):
            raise TypeError(f"an input of dtype {x.dtype} is not supported")
        return computed_wide(lambda v: run(v, *others))(x)

    return wide


@operator("Resize", since=10, until=10)
@operator("Upsample", since=9)
def _resize_by_scales(node: Node) -> _Run:
    resample = _Resampler(node, "asymmetric", "simple")
    return _first_wide(
        lambda x, scales: resample(x, _from_scales(x, range(x.ndim), _floats(scales)))
    )


@operator("Upsample", since=7, until=8)
def _upsample_by_attribute(node: Node) -> _Run:
    resample = _Resampler(node, "asymmetric", "simple")
    scales = node.attributes.get("scales")
    if scales is None:
        raise node.error("it should have scales")
    return _first_wide(lambda x: resample(x, _from_scales(x, range(x.ndim), list(scales))))


_SAMPLE_MODES = {"bilinear": "linear", "bicubic": "cubic"}
_SAMPLE_PADS = ("zeros", "border", "reflection")


@operator("GridSample", since=16)
def _grid_sample(node: Node) -> _Run:
    known = ("linear", "nearest", "cubic", *_SAMPLE_MODES)
    mode = text(node, "mode", "linear", known)
    mode = _SAMPLE_MODES.get(mode, mode)
    # The taps of a cubic stay where they are and read the border, as torch has it.
    clamped = mode != "cubic"
    pads, corners = text(node, "padding_mode", "zeros", _SAMPLE_PADS), flag(node, "align_corners")

    def run(x: Array, grid: Array) -> Array:
        ndim = x.ndim - 2
        if ndim < 1 or grid.ndim != x.ndim or grid.shape[-1] != ndim or len(grid) != len(x):
            raise ValueError(
                f"a grid of shape {list(grid.shape)} does not fit an input of {list(x.shape)}"
            )
        places = [
            _denormalized(at.reshape(len(x), math.prod(at.shape[1:])), size, corners, pads, clamped)
            for at, size in zip(np.moveaxis(grid, -1, 0)[::-1], x.shape[2:], strict=True)
        ]
        taps = [_sample_taps(at, mode) for at in places]
        flat = x.reshape(*x.shape[:2], math.prod(x.shape[2:]))
        total = np.zeros((*x.shape[:2], places[0].shape[1]), x.dtype)
        if x.size == 0:
            return total.reshape(*x.shape[:2], *grid.shape[1:-1])
        for chosen in itertools.product(*taps):
            index, weight = np.zeros(places[0].shape, np.intp), np.ones(places[0].shape, x.dtype)
            for (position, factor), size in zip(chosen, x.shape[2:], strict=True):
                inside, within = _within(position, size, corners, pads)
                index = index * size + inside
                weight = weight * factor * within
            total += np.take_along_axis(flat, index[:, None], 2) * weight[:, None]
        return total.reshape(*x.shape[:2], *grid.shape[1:-1])

    return computed_wide(run)


def _limits(size: int, corners: bool) -> tuple[float, float]:
    return (0.0, size - 1.0) if corners else (-0.5, size - 0.5)


def _reflected(at: Array, low: float, high: float) -> Array:
    width = max(high - low, 1e-30)
    folded = np.mod(at - low, 2 * width)
    return np.minimum(folded, 2 * width - folded) + low


def _denormalized(at: Array, size: int, corners: bool, pads: str, clamped: bool) -> Array:
    """Return positions in [-1, 1] as those of an axis, brought inside as the pads ask."""
    if corners:
        at = (at + 1) / 2 * (size - 1)
    else:
        at = ((at + 1) * size - 1) / 2
    low, high = _limits(size, corners)
    if pads == "border":
        return at.clip(0, size - 1) if clamped else at
    return _reflected(at, low, high) if pads == "reflection" else at


def _sample_taps(at: Array, mode: str) -> list[tuple[Array, Any]]:
    """Return the positions that are read along an axis, and their weights."""
    if mode == "nearest":
        return [(np.rint(at), 1)]
    kernel, reach = (_triangle, 0) if mode == "linear" else (_cubic(-0.75), 1)
    left = np.floor(at)
    offsets = range(-reach, reach + 2)
    return [(left + k, kernel(at - (left + k))) for k in offsets]


def _within(at: Array, size: int, corners: bool, pads: str) -> tuple[Array, Any]:
    """Return positions inside the axis, and what a value there counts."""
    if pads == "reflection":
        at = _reflected(at, *_limits(size, corners))
    inside = np.nan_to_num(at).clip(0, size - 1).astype(np.intp)
    if pads == "zeros":
        return inside, (at >= 0) & (at <= size - 1)
    return inside, 1


@operator("AffineGrid", since=20)
def _affine_grid(node: Node) -> _Run:
    corners = flag(node, "align_corners")

    def run(theta: Array, size: Array) -> Array:
        check_float(theta)
        sizes = integers_of(size, "size")
        ndim = len(sizes) - 2
        if ndim not in (2, 3) or theta.shape != (sizes[0], ndim, ndim + 1):
            raise ValueError(f"theta of shape {list(theta.shape)} does not fit the size {sizes}")
        allowed((sizes[0], *sizes[2:], ndim), np.dtype(np.float64))
        places = [
            np.linspace(-1, 1, n) if corners else (2 * np.arange(n) + 1) / n - 1 for n in sizes[2:]
        ]
        grid = np.stack([*np.meshgrid(*places, indexing="ij")[::-1], np.ones(sizes[2:])], -1)
        # (N, 1..., d, d + 1) with (..., d + 1, 1)
        maps = theta.reshape(sizes[0], *(1,) * ndim, ndim, ndim + 1)
        return np.matmul(maps, grid[..., None])[..., 0].astype(theta.dtype)

    return computed_wide(run)
