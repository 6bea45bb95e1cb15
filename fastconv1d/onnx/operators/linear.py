"""Matrix products and convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ... import functional
from ...core.arrays import half_of
from ..registry import Node, operator
from .attributes import delivered, flag, integer, integers, number, text
from .shapes import padded
from .sizes import allowed
from .types import Array, check_float, check_same, computed_wide, widened
from .windows import Placed, Windows

_Run = Callable[..., Any]

# Elements of a block of unfolded windows: 4 MiB of float32.
_BLOCK = 1 << 20


def product(a: Array, b: Array) -> Array:
    """Return a @ b; of 16-bit floats summed in float32, of integers modulo their range."""
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError("a product of matrices should have no operand without dimensions")
    check_same(a, b)
    if half_of(a.dtype):
        return np.asarray(np.matmul(widened(a), widened(b))).astype(a.dtype)
    if a.ndim > 2 and b.ndim == 2 and a.flags.c_contiguous:
        # One product of all rows, where NumPy would do one for each matrix.
        return np.matmul(a.reshape(-1, a.shape[-1]), b).reshape(*a.shape[:-1], b.shape[-1])
    return np.asarray(np.matmul(a, b))


operator("MatMul")(lambda node: product)


@operator("Gemm", since=7)
def _gemm(node: Node) -> _Run:
    alpha, beta = number(node, "alpha", 1.0), number(node, "beta", 1.0)
    turn_a, turn_b = flag(node, "transA"), flag(node, "transB")

    def run(a: Array, b: Array, c: Array | None = None) -> Array:
        check_same(a, b, c)
        if a.ndim != 2 or b.ndim != 2:
            raise ValueError(
                f"A and B should be matrices, got shapes {list(a.shape)} and {list(b.shape)}"
            )
        y = np.matmul(a.T if turn_a else a, b.T if turn_b else b)
        if alpha != 1:
            y = (y * alpha).astype(y.dtype, copy=False)
        if c is None or beta == 0:
            return y
        if np.broadcast_shapes(c.shape, y.shape) != y.shape:
            raise ValueError(f"C of shape {list(c.shape)} does not broadcast to {list(y.shape)}")
        y += c if beta == 1 else (c * beta).astype(y.dtype, copy=False)
        return y

    return computed_wide(run)


@operator("Einsum", since=12)
def _einsum(node: Node) -> _Run:
    equation = text(node, "equation", "").replace(" ", "")

    def run(*arrays: Array) -> Array:
        check_same(*arrays)
        return np.asarray(np.einsum(equation, *arrays, optimize=len(arrays) > 1))

    return computed_wide(run)


@operator("Det", since=11)
def _det(node: Node) -> _Run:
    return computed_wide(lambda x: np.asarray(np.linalg.det(x)).astype(x.dtype, copy=False))


# ---- convolutions -----------------------------------------------------------------------------


def check_channels(x: Array, w: Array, groups: int) -> None:
    if x.ndim < 3 or w.ndim != x.ndim:
        raise ValueError(
            f"input and weight should have as many dimensions, 3 at least, "
            f"got shapes {list(x.shape)} and {list(w.shape)}"
        )
    if x.shape[1] != w.shape[1] * groups or w.shape[0] % groups:
        raise ValueError(
            f"a weight of shape {list(w.shape)} in {groups} groups does not fit an input of "
            f"{x.shape[1]} channels"
        )


def correlated(x: Array, w: Array, places: Placed, groups: int) -> Array:
    """Return the cross-correlation over any number of axes, by unfolding and products."""
    check_channels(x, w, groups)
    places.check_room((x.shape[0], w.shape[0]), x.dtype)
    x = places.padded(x, 0)
    if w.shape[1] == 1 and w.shape[0] <= 2 * groups:
        return _by_taps(x, w, places, groups)
    kernels = np.ascontiguousarray(w.reshape(groups, w.shape[0] // groups, -1))
    if all(axis.taps == axis.stride == 1 for axis in places):
        flat = x.reshape(x.shape[0], groups, kernels.shape[2], math.prod(places.counts))
        return np.matmul(kernels, flat).reshape(x.shape[0], w.shape[0], *places.counts)
    y = np.empty((x.shape[0], w.shape[0], *places.counts), x.dtype)
    grouped = x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    windows = places.view(grouped)
    n_axes = len(places)
    # (N, groups, C, *counts, *taps) to (N, groups, C, *taps, *counts)
    order = (0, 1, 2, *range(3 + n_axes, 3 + 2 * n_axes), *range(3, 3 + n_axes))
    windows = windows.transpose(order)
    rows = max(_BLOCK // max(math.prod(kernels.shape[::2]) * math.prod(places.counts[1:]), 1), 1)
    targets = y.reshape(x.shape[0], groups, w.shape[0] // groups, *places.counts)
    for first in range(0, places.counts[0], rows):
        part = (Ellipsis, slice(first, first + rows)) + (slice(None),) * (n_axes - 1)
        for image in range(x.shape[0]):
            unfolded = windows[image][part]
            block = np.matmul(kernels, unfolded.reshape(groups, kernels.shape[2], -1))
            target = targets[image][part]
            target[...] = block.reshape(target.shape)
    return y


def _of_tap(tap: tuple[int, ...], lead: int) -> tuple[Any, ...]:
    """Return where one tap is in an array with other axes before and behind."""
    return (*(slice(None),) * lead, *tap)


def _by_taps(x: Array, w: Array, places: Placed, groups: int) -> Array:
    """Return the correlation of one channel a group: as many passes as the kernel has taps."""
    y = np.zeros((x.shape[0], groups, w.shape[0] // groups, *places.counts), x.dtype)
    ones = (1,) * len(places)
    for tap, where in places.taps():
        factors = w[:, 0][_of_tap(tap, 1)].reshape(groups, -1, *ones)
        y += x[where][:, :, None] * factors
    return y.reshape(x.shape[0], w.shape[0], *places.counts)


def added_bias(y: Array, bias: Array | None) -> Array:
    if bias is None:
        return y
    if bias.shape != y.shape[1:2]:
        raise ValueError(f"the bias should have shape [{y.shape[1]}], got {list(bias.shape)}")
    y += bias.reshape(-1, *(1,) * (y.ndim - 2))
    return y


@operator("Conv")
def _conv(node: Node) -> _Run:
    windows, groups = Windows(node), integer(node, "group", 1, least=1)

    def run(x: Array, w: Array, bias: Array | None = None) -> Array:
        check_same(x, w, bias)
        check_float(x)
        check_channels(x, w, groups)
        places = windows.over(x.shape[2:], w.shape[2:])
        if len(places) == 1:
            (axis,) = places
            return functional.conv1d(
                x, w, bias, axis.stride, (axis.before, axis.after), axis.dilation, groups
            )
        return _in_space(x, w, bias, places, groups)

    return run


_in_space = computed_wide(
    lambda x, w, bias, places, groups: added_bias(correlated(x, w, places, groups), bias)
)


class _Transposed:
    """The attributes of a transposed convolution."""

    def __init__(self, node: Node) -> None:
        self.windows = Windows(node)
        self.groups = integer(node, "group", 1, least=1)
        self.output_padding = integers(node, "output_padding", least=0)
        self.output_shape = integers(node, "output_shape", least=0)

    def sizes(self, x: Array, w: Array) -> list[tuple[int, int, int, int, int]]:
        """Return stride, dilation, what is cropped on both sides and added behind, each axis."""
        ndim = x.ndim - 2
        if self.windows.kernel is not None and self.windows.kernel != list(w.shape[2:]):
            raise ValueError(f"kernel_shape should be {list(w.shape[2:])}")
        strides = self.windows.strides or [1] * ndim
        dilations = self.windows.dilations or [1] * ndim
        pads = self.windows.pads or [0] * 2 * ndim
        behind = self.output_padding or [0] * ndim
        given = self.output_shape
        if given is not None:
            given = given[-ndim:]  # some files have the batch and the channels too
        lists = (strides, dilations, behind, [0] * ndim if given is None else given)
        if any(len(v) != ndim for v in lists) or len(pads) != 2 * ndim:
            raise ValueError(f"its attributes should be for {ndim} axes")
        same = self.windows.auto_pad.startswith("SAME")
        if self.windows.auto_pad == "VALID":
            pads = [0] * 2 * ndim
        found = []
        for i in range(ndim):
            before, after, more = pads[i], pads[i + ndim], behind[i]
            if given is not None or same:
                length = x.shape[i + 2]
                span = dilations[i] * (w.shape[i + 2] - 1) + 1
                target = length * strides[i] if given is None else given[i]
                surplus = (length - 1) * strides[i] + span + more - target
                less, more = max(surplus, 0) // 2, more + max(-surplus, 0)
                before, after = less, max(surplus, 0) - less
                if self.windows.auto_pad != "SAME_UPPER":
                    before, after = after, before
            found.append((strides[i], dilations[i], before, after, more))
        return found

    def __call__(self, x: Array, w: Array, bias: Array | None = None) -> Array:
        check_same(x, w, bias)
        check_float(x)
        if x.ndim < 3 or w.ndim != x.ndim or x.shape[1] != w.shape[0]:
            raise ValueError(
                f"a weight of shape {list(w.shape)} does not fit an input of {list(x.shape)}"
            )
        if x.shape[1] % self.groups:
            raise ValueError(f"{x.shape[1]} channels should be divisible by {self.groups} groups")
        axes = self.sizes(x, w)
        if x.ndim == 3 and self._is_plain(*axes[0]):
            ((stride, dilation, before, after, more),) = axes
            return functional.conv_transpose1d(
                x, w, bias, stride, (before, after), more, self.groups, dilation
            )
        wide = computed_wide(lambda x, w: added_bias(self._scattered(x, w, axes), bias))
        return wide(x, w)

    @staticmethod
    def _is_plain(stride: int, dilation: int, before: int, after: int, more: int) -> bool:
        return min(before, after) >= 0 and more < max(stride, dilation)

    def _scattered(self, x: Array, w: Array, axes: list[Any]) -> Array:
        """Return the sums: products of all taps, each added to where it belongs."""
        n, groups = x.shape[0], self.groups
        full = [
            (size - 1) * stride + dilation * (taps - 1) + 1 + more
            for size, taps, (stride, dilation, _, _, more) in zip(
                x.shape[2:], w.shape[2:], axes, strict=True
            )
        ]
        full = [max(size, 0) for size in full]
        kernels = w.reshape(groups, w.shape[0] // groups, -1).swapaxes(1, 2)
        flat = x.reshape(n, groups, x.shape[1] // groups, math.prod(x.shape[2:]))
        products = np.matmul(kernels, flat)
        products = products.reshape(n, groups * w.shape[1], *w.shape[2:], *x.shape[2:])
        y = np.zeros(allowed((n, products.shape[1], *full), x.dtype), x.dtype)
        for tap in np.ndindex(*w.shape[2:]):
            steps = zip(tap, x.shape[2:], axes, strict=True)
            where: tuple[Any, ...] = (
                ...,
                *(slice(k * d, k * d + (size - 1) * s + 1, s) for k, size, (s, d, *_) in steps),
            )
            y[where] += products[_of_tap(tap, 2)]
        crop = [*(-before for _, _, before, _, _ in axes), *(-after for *_, after, _ in axes)]
        return padded(y, crop, list(range(2, x.ndim)), "constant", 0)


@operator("ConvTranspose")
def _conv_transpose(node: Node) -> _Run:
    return _Transposed(node)


@operator("CausalConvWithState", since=27)
def _causal_conv_with_state(node: Node) -> _Run:
    name = text(node, "activation", "none", ("none", "silu", "swish"))
    activation = None if name == "none" else "silu"

    def run(
        x: Array, w: Array, bias: Array | None = None, past: Array | None = None
    ) -> tuple[Array, Array]:
        check_same(x, w, bias, past)
        check_channels(x, w, x.shape[1] if x.ndim > 1 else 1)
        kept = w.shape[2] - 1
        if past is None:
            past = np.zeros((*x.shape[:2], kept), x.dtype)
        if past.shape != (*x.shape[:2], kept):
            raise ValueError(
                f"past_state should have shape {[*x.shape[:2], kept]}, got {list(past.shape)}"
            )
        joined = np.concatenate([past, x], axis=2)
        y = functional.conv1d(joined, w, bias, groups=x.shape[1], activation=activation)
        return y, joined[:, :, joined.shape[2] - kept :]

    return delivered(node, run)


@operator("Col2Im", since=18)
def _col2im(node: Node) -> _Run:
    strides, dilations = (integers(node, name, least=1) for name in ("strides", "dilations"))
    pads = integers(node, "pads", least=0)

    def run(x: Array, image_shape: Array, block_shape: Array) -> Array:
        image, block = ([int(v) for v in a] for a in (image_shape, block_shape))
        ndim = len(image)
        fields = {
            "kernel_shape": block,
            "strides": strides or [1] * ndim,
            "dilations": dilations or [1] * ndim,
            "pads": pads or [0] * 2 * ndim,
        }
        places = Windows(Node("Col2Im", attributes=fields)).over(tuple(image))
        taps = math.prod(block)
        if x.ndim != 3 or x.shape[1] % taps or x.shape[2] != math.prod(places.counts):
            raise ValueError(
                f"an input of shape {list(x.shape)} does not fit blocks of {block} at "
                f"{list(places.counts)} places"
            )
        parts = x.reshape(x.shape[0], x.shape[1] // taps, *block, *places.counts)
        sizes = [axis.size + axis.before + max(axis.after, 0) for axis in places]
        y = np.zeros(allowed((*parts.shape[:2], *sizes), x.dtype), x.dtype)
        for tap, where in places.taps():
            y[where] += parts[_of_tap(tap, 2)]
        return places.cropped(y)

    return computed_wide_first(run)


def computed_wide_first(run: _Run) -> _Run:
    """Return the function with its first array, if of 16-bit floats, computed in float32."""

    def wide(x: Array, *others: Array) -> Array:
        return run(widened(x), *others).astype(x.dtype, copy=False)

    return wide
