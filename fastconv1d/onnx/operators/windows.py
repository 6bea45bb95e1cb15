"""Windows of convolutions and pooling: their attributes, their pads, and the views of an array."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..registry import Node
from .attributes import flag, integers, text
from .sizes import allowed
from .types import Array

# Shapes of which a node remembers where its windows lie: 8 us of a call.
_MOST_KNOWN = 64
_AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


class Windows:
    """The attributes that say where windows lie, with None for what follows the data."""

    def __init__(self, node: Node) -> None:
        self.kernel = integers(node, "kernel_shape", least=1)
        self.strides = integers(node, "strides", least=1)
        self.dilations = integers(node, "dilations", least=1)
        self.pads = integers(node, "pads")
        self.auto_pad = text(node, "auto_pad", "NOTSET", _AUTO_PADS)
        self.ceil_mode = flag(node, "ceil_mode")
        self._known: dict[Any, Placed] = {}

    def over(self, sizes: tuple[int, ...], kernel: tuple[int, ...] | None = None) -> Placed:
        """Return the windows over axes of these sizes; the kernel is the attribute's or given."""
        key = sizes, kernel
        if key not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[key] = self._over(sizes, kernel)
        return self._known[key]

    def _over(self, sizes: tuple[int, ...], kernel: tuple[int, ...] | None) -> Placed:
        ndim = len(sizes)
        taps = self.kernel if self.kernel is not None else kernel
        if taps is None or (kernel is not None and list(kernel) != list(taps)):
            raise ValueError(f"kernel_shape should be that of the weight, got {taps}")
        strides = [1] * ndim if self.strides is None else self.strides
        dilations = [1] * ndim if self.dilations is None else self.dilations
        pads = [0] * 2 * ndim if self.pads is None else self.pads
        if not len(taps) == len(strides) == len(dilations) == ndim or len(pads) != 2 * ndim:
            raise ValueError(
                f"kernel_shape, strides, dilations and pads should be for {ndim} axes, "
                f"got {list(taps)}, {strides}, {dilations}, {pads}"
            )
        return Placed(
            [
                self._axis(*axis)
                for axis in zip(
                    sizes, taps, strides, dilations, pads[:ndim], pads[ndim:], strict=True
                )
            ]
        )

    def _axis(
        self, size: int, taps: int, stride: int, dilation: int, before: int, after: int
    ) -> Axis:
        span = (taps - 1) * dilation + 1
        if self.auto_pad.startswith("SAME"):
            count = -(-size // stride)
            total = max((count - 1) * stride + span - size, 0)
            less = total // 2
            before, after = (
                (less, total - less) if self.auto_pad == "SAME_UPPER" else (total - less, less)
            )
            return Axis(size, taps, stride, dilation, before, after, count)
        if self.auto_pad == "VALID":
            before = after = 0
        room = size + before + after - span
        if room < 0:
            raise ValueError(
                f"a window of {span} positions does not fit into {size} and pads of "
                f"({before}, {after})"
            )
        count = room // stride + 1
        # One more that is not full, unless it would start in the pads behind the end.
        if self.ceil_mode and room % stride and count * stride < size + before:
            count += 1
        return Axis(size, taps, stride, dilation, before, after, count)


class Axis:
    """The windows over one axis; window i reads ``i*stride + k*dilation - before``."""

    def __init__(
        self, size: int, taps: int, stride: int, dilation: int, before: int, after: int, count: int
    ) -> None:
        self.size, self.taps, self.stride, self.dilation = size, taps, stride, dilation
        self.before, self.after, self.count = before, after, count

    @property
    def span(self) -> int:
        return (self.taps - 1) * self.dilation + 1

    @property
    def end(self) -> int:
        """Pads behind the last position that a window reads, negative where some are not read."""
        return (self.count - 1) * self.stride + self.span - self.before - self.size

    def tap(self, number: int) -> slice:
        """Return where the padded positions of one tap of all windows are."""
        first = number * self.dilation
        return slice(first, first + (self.count - 1) * self.stride + 1, self.stride)

    def taps_inside(self, pads_too: bool) -> Array:
        """Return how many taps of each window are no pads, or no positions behind the pads."""
        first = np.arange(self.count)[:, None] * self.stride - self.before
        positions = first + np.arange(self.taps) * self.dilation
        low, high = (-self.before, self.size + self.after) if pads_too else (0, self.size)
        return ((positions >= low) & (positions < high)).sum(axis=1)


class Placed(list[Axis]):
    """The windows over the last axes of an array, one item an axis."""

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(axis.count for axis in self)

    def padded(self, x: Array, value: Any) -> Array:
        """Return the array with pads of the value, as far as windows reach."""
        pads = [(axis.before, axis.end) for axis in self]
        if not any(before or end > 0 for before, end in pads):
            return x
        lead = x.shape[: x.ndim - len(self)]
        sizes = [a.size + max(a.before, 0) + max(end, 0) for a, (_, end) in zip(self, pads)]  # noqa: B905
        result = np.full(allowed((*lead, *sizes), x.dtype), value, x.dtype)
        inside: tuple[Any, ...] = (
            ...,
            *(slice(max(a.before, 0), max(a.before, 0) + a.size) for a in self),
        )
        result[inside] = x
        read: tuple[Any, ...] = (..., *(slice(max(-a.before, 0), None) for a in self))
        return result[read]

    def cropped(self, y: Array) -> Array:
        """Return the padded array without its pads."""
        inside: tuple[Any, ...] = (..., *(slice(a.before, a.before + a.size) for a in self))
        return y[inside]

    def taps(self) -> Iterator[tuple[tuple[int, ...], tuple[Any, ...]]]:
        """Yield each tap and where its positions are in the padded array."""
        for tap in np.ndindex(*(axis.taps for axis in self)):
            yield tap, (..., *(axis.tap(k) for axis, k in zip(self, tap, strict=True)))

    def view(self, padded: Array) -> Array:
        """Return the view (..., *counts, *taps) of a padded array."""
        lead = padded.ndim - len(self)
        steps = padded.strides[lead:]
        return as_strided(
            padded,
            (*padded.shape[:lead], *self.counts, *(axis.taps for axis in self)),
            (
                *padded.strides[:lead],
                *(s * axis.stride for s, axis in zip(steps, self, strict=True)),
                *(s * axis.dilation for s, axis in zip(steps, self, strict=True)),
            ),
            writeable=False,
        )

    def check_room(self, lead: Sequence[int], dtype: np.dtype[Any]) -> None:
        allowed((math.prod(lead), *self.counts), dtype)
