"""Convolutions with fewer multiplications: minimal filtering after Toom, Cook and Winograd.

Four neighbouring outputs of four taps take 7 products of transformed inputs and weights instead of
16, of three taps 6 instead of 12. A longer kernel is a sum of such pieces, and a layer becomes a
convolution in groups: one for each of the products, with K/4 taps, a quarter of the length and all
channels.
"""

from __future__ import annotations

import copy
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import config
from ..kernels.direct_engine import PreparedLayer, filter_join, filter_split
from . import arrays
from .geometry import ZEROS, Geometry

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .activations import Steps
    from .spec import Spec

# Outputs of a block, as in kernels/simd/fc1d.h.
STEP = 4
# Where polynomials are evaluated, besides at infinity: of those with small powers of two the sets
# with the smallest error, for six and for seven products.
_POINTS = {
    6: (Fraction(0), Fraction(1), Fraction(-1), Fraction(2), Fraction(-1, 2)),
    7: (Fraction(0), Fraction(1), Fraction(-1), Fraction(2), Fraction(-2), Fraction(1, 2)),
}
# Largest dilation, as in kernels/simd/fc1d.h, and longest kernel.
_REACH = 64
_TAPS = 32
# Bytes of a tile's transformed input, and of its output: of 1 to 3 MiB the fastest.
_TILE_BYTES = 3 << 19
# Channels times taps below which the transforms cost more than they save: 32 channels took 1.1
# times as long with 3 taps, and 0.9 times with 7.
_LEAST_TERMS = 192
# Blocks that fill the columns of a register tile on every instruction set.
_WHOLE_TILES = 48


def suited(
    weight_shape: tuple[int, ...], dtype: np.dtype[Any], stride: int, dilation: int, groups: int
) -> bool:
    """Whether a convolution with zero padding can be computed this way, and faster so.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d.core.minimal import suited
    >>> suited((64, 64, 3), np.dtype(np.float32), 1, 1, 1)
    True
    """
    c_out, c_in, kernel_size = weight_shape
    columns = dilation * (1 + -(-kernel_size // STEP))
    tile = (2 * STEP - 1) * dtype.itemsize * max(c_in, c_out) * columns
    return (
        stride == groups == 1
        and 3 <= kernel_size <= _TAPS
        and dilation <= _REACH
        and dtype.kind == "f"
        and min(c_in, c_out) * kernel_size >= _LEAST_TERMS
        and tile <= 1 << 21
    )


def computes(spec: Spec, weight: NDArray[Any]) -> bool:
    """Whether minimal filtering computes a layer that asks for it."""
    return (
        not spec.transposed
        and not spec.same
        and (spec.padding_mode, spec.layout) == ("zeros", "NCL")
        and suited(weight.shape, weight.dtype, spec.stride, spec.dilation, spec.groups)
    )


class MinimalLayer:
    """A stride-1 convolution with zero padding, prepared for any number of calls.

    Parameters
    ----------
    weight : ndarray of shape (C_out, C_in, K), K >= 3, float32 or float64
    bias : ndarray of shape (C_out,) or None
    spec : Spec
        One that `computes` says this computes.
    direct : object whose `layer` is the packed one of the direct engine, optional
        For deterministic mode, which promises that a prefix keeps its bits; without it, calls in
        that mode return None.
    """

    def __init__(
        self, weight: NDArray[Any], bias: NDArray[Any] | None, spec: Spec, direct: Any = None
    ) -> None:
        c_out, c_in, kernel_size = weight.shape
        taps = 3 if kernel_size == 3 else STEP
        split, join, by_weight = matrices(taps, STEP)
        self._n, self._pieces = len(split), -(-kernel_size // taps)
        dtype, dilation = weight.dtype, spec.dilation
        self._split, self._join = split.astype(dtype), join.astype(dtype)
        self._bias, self._dilation, self._steps, self._direct = bias, dilation, spec.steps, direct
        padded = np.zeros((c_out, c_in, self._pieces * taps))
        padded[:, :, :kernel_size] = weight
        pieces = padded.reshape(c_out, c_in, self._pieces, taps)
        products = np.einsum("nt,oipt->noip", by_weight, pieces).astype(dtype)
        products = products.reshape(self._n * c_out, c_in, self._pieces)
        grouped = Geometry(0, 0, 1, dilation, 0, 0, self._n, ZEROS)
        self._products = PreparedLayer(products, None, grouped)
        self._channels = c_in, c_out
        self._pad_left, pad_right = spec.pads()
        self._padding, self._extent = self._pad_left + pad_right, dilation * (kernel_size - 1)

    def with_steps(self, steps: Steps) -> MinimalLayer:
        """Return the same layer with other steps, over the same packed weight."""
        other = copy.copy(self)
        other._steps = steps
        return other

    def __call__(
        self,
        x: Any,
        threads: Callable[[], int],
        residual: Any = None,
        out: Any = None,
    ) -> NDArray[Any] | None:
        """Return the output for arrays of the layer's dtype, otherwise None.

        None is also the answer where the sizes do not fit, so that the general path explains it.
        """
        if config.are_deterministic_algorithms_enabled():
            return self._exactly(x, threads, residual, out)
        dtype, (c_in, c_out) = self._split.dtype, self._channels
        array = arrays.operand(x)
        if array.dtype != dtype or array.ndim not in (2, 3) or array.size == 0:
            return None
        batched = array.ndim == 3
        array = _rows(array if batched else array[np.newaxis])
        length = array.shape[2] + self._padding - self._extent
        if array.shape[1] != c_in or length < 1:
            return None
        shape = (array.shape[0], c_out, length)
        if residual is not None:
            residual = arrays.operand(residual)
            residual = residual if batched else residual[np.newaxis]
            if residual.dtype != dtype or residual.shape != shape:
                return None
            residual = _rows(residual)
        if out is None:
            y = arrays.new(shape, dtype)
        else:
            y = arrays.target(out, shape, batched, array, residual)
        self._run(array, y, residual, threads())
        return arrays.delivered(y, batched, out)

    def _exactly(
        self, x: Any, threads: Callable[[], int], residual: Any, out: Any
    ) -> NDArray[Any] | None:
        direct = None if self._direct is None else self._direct.layer
        if direct is None:
            return None
        y: NDArray[Any] | None = direct.with_steps(self._steps)(x, threads, residual, out)
        return y

    def _run(
        self, x: NDArray[Any], y: NDArray[Any], residual: NDArray[Any] | None, threads: int
    ) -> None:
        """Write the output for x (N, C_in, L_in) to y (N, C_out, L_out), tile after tile."""
        c_in, c_out = self._channels
        total = -(-y.shape[2] // (STEP * self._dilation))
        column = self._n * x.itemsize * max(c_in, c_out) * self._dilation
        blocks = min(max(1, _TILE_BYTES // column), total)
        if blocks > _WHOLE_TILES:
            blocks -= blocks % _WHOLE_TILES
        reach = self._pieces - 1
        split = arrays.new((self._n * c_in * (blocks + reach) * self._dilation,), x.dtype)
        joined = arrays.new((self._n * c_out * blocks * self._dilation,), x.dtype)
        for n in range(x.shape[0]):
            item = (x[n], y[n], None if residual is None else residual[n])
            for first in range(0, total, blocks):
                self._tile(*item, first, min(blocks, total - first), split, joined, threads)

    def _tile(
        self,
        x: NDArray[Any],
        y: NDArray[Any],
        residual: NDArray[Any] | None,
        first: int,
        blocks: int,
        split: NDArray[Any],
        joined: NDArray[Any],
        threads: int,
    ) -> None:
        c_in, c_out = self._channels
        n, dilation, steps = self._n, self._dilation, self._steps
        begin = first * STEP * dilation
        part = slice(begin, begin + blocks * STEP * dilation)
        columns = blocks * dilation
        d = _shaped(split, (n, c_in, columns + (self._pieces - 1) * dilation))
        m = _shaped(joined, (n, c_out, columns))
        before, start = steps.before, begin - self._pad_left
        filter_split(x, d, self._split, start, dilation, before, threads)
        grouped = d.reshape(1, n * c_in, -1)
        self._products(grouped, threads, None, m.reshape(1, n * c_out, columns))
        more = None if residual is None else residual[:, part]
        scale, last = steps.residual_scale, steps.residual_last
        join = self._join, self._bias, dilation, steps.after, more, scale, last, threads
        filter_join(m, y[:, part], *join)


def _shaped(memory: NDArray[Any], shape: tuple[int, int, int]) -> NDArray[Any]:
    return memory[: shape[0] * shape[1] * shape[2]].reshape(shape)


def _rows(array: NDArray[Any]) -> NDArray[Any]:
    """Return `array`, or a copy if its rows are not contiguous."""
    return array if array.strides[2] == array.itemsize else np.ascontiguousarray(array)


@cache
def matrices(taps: int, outputs: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the matrices of inputs (n, n), of outputs (outputs, n) and of weights (n, taps).

    Multiplying two polynomials by their values at n points and interpolating is a convolution; its
    transpose is the correlation of a kernel with n inputs at some positions.
    """
    points = _POINTS[taps + outputs - 1]
    n = len(points) + 1

    def values(size: int) -> list[list[Fraction]]:
        finite = [[point**power for power in range(size)] for point in points]
        return [*finite, [Fraction(power == size - 1) for power in range(size)]]

    interpolation = _inverse(values(n))
    by_input = [list(column) for column in zip(*interpolation, strict=True)]
    by_weight = values(taps)
    for i in range(n):  # the inputs' rows take no fractions that the weights' can have
        scale = Fraction(np.lcm.reduce([value.denominator for value in by_input[i]]))
        by_input[i] = [value * scale for value in by_input[i]]
        by_weight[i] = [value / scale for value in by_weight[i]]
    by_output = np.array(values(outputs), float).T.copy()
    return np.array(by_input, float), by_output, np.array(by_weight, float)


def _inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    n = len(matrix)
    rows = [[*row, *(Fraction(i == j) for j in range(n))] for i, row in enumerate(matrix)]
    for i in range(n):
        pivot = next(r for r in range(i, n) if rows[r][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for r in range(n):
            if r != i:
                rows[r] = [a - rows[r][i] * b for a, b in zip(rows[r], rows[i], strict=True)]
    return [row[n:] for row in rows]
