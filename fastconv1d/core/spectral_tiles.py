"""Layers of several channels by tiles of short Fourier transforms (overlap and save).

A tile of `points` inputs gives points - K + 1 outputs of a correlate of stride 1. Its transform is
16 to 256 numbers of every channel, compiled with vectors along the channels; between the transforms
each frequency is a small matrix product. So an output takes some 2 to 4 multiplications for each
pair of channels where the direct engine takes K, with about its rounding error.

Size and grid of the tiles follow from the layer alone, so an output keeps its bits for any batch
and threads, and where the input grows all but those of the last tile do. A value that is not finite
reaches the outputs of its tiles.
"""

from __future__ import annotations

from functools import cache
from math import log2
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..kernels.spectral import SpectralLayer
from .activations import Steps
from .arrays import half_of
from .minimal import matrices

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .geometry import Geometry

# Points of a tile, and the factors of its transform: 4, after at most one 2 and before one 3.
FACTORS = {
    16: (4, 4),
    24: (2, 4, 3),
    32: (2, 4, 4),
    48: (4, 4, 3),
    64: (4, 4, 4),
    96: (2, 4, 4, 3),
    128: (2, 4, 4, 4),
    192: (4, 4, 4, 3),
    256: (4, 4, 4, 4),
    384: (2, 4, 4, 4, 3),
    512: (2, 4, 4, 4, 4),
}
# Products of minimal filtering: 4 outputs of 3 taps, 3 of 4, or 5 of 2.
FILTERED, FILTERED_TAPS = 6, range(2, 5)
# Taps of the layers that algorithm='winograd' computes: those of more than four by transforms.
MINIMAL_TAPS = range(2, 33)
# Sizes beyond which positions may not fit 64 bits.
_FAR = 1 << 40
# Channels of a vector, whose lanes a transform fills.
_LANES = 16
# Kernels beyond which the largest tile has too few outputs.
_MOST_TAPS = 384
# What follows is of 207 layers of 4 to 512 channels and 3 to 17 taps, float32, one core with
# AVX-512, in the ns of `core.fast`, whose direct engine makes 78 multiply-adds in one; 14 % off.
# Multiply-adds a ns of products, and tiles in whose time a unit begins and ends.
_PRODUCTS, _BEGUN = 67.0, 7.6
# ns of a point of an input channel's transform of 16 points, how much of it is more for each
# doubling of them, of a point of minimal filtering; and times it for an output channel.
_POINT, _LEVEL, _FILTER_POINT, _OUTPUT = 0.2, 0.27, 0.122, 2.6
# Numbers of the weights that each unit reads in passing, and ns of one beyond; ns to make one.
_NEAR, _FAR_READ, _PACKED = 3_000_000, 0.3, 1.0
# ns of transforms for a number of inputs and outputs that do not fit a cache, and how many do.
_MEMORY, _CACHE = 0.118, 1 << 19
# Times the time of one tile that few tiles take longer than estimated, for their sums wait for each
# other: two of 48 points, 192 channels and 11 taps took 1.12 of the direct engine's time instead of
# 0.98, and 7 of 32 points, 256 -> 32 channels and 8 taps 1.18 instead of 0.9.
_FEW = 2
# Positions of a call for which the size of tiles is chosen: a longer one has tiles as good for it.
_TYPICAL = 512
# Tiles and bytes of a unit, as in kernels/spectral.pyx.
_LEAST_TILES, _UNIT_BYTES = 96, 1 << 20


class Sizes(NamedTuple):
    """What a tile depends on; channels are those of a group."""

    c_out: int
    c_in: int
    taps: int
    groups: int


def sizes(w_shape: tuple[int, ...], groups: int, transposed: bool, stride: int = 1) -> Sizes:
    """Return the sizes of a layer as a correlate of stride 1 has them: phases are channels."""
    taps = -(-w_shape[2] // stride)
    if transposed:
        return Sizes(w_shape[1] * stride, w_shape[0] // groups, taps, groups)
    return Sizes(w_shape[0] // groups, w_shape[1] * stride, taps, groups)


def unsuited(
    dtype_char: str,
    weight_shape: tuple[int, ...],
    stride: int,
    dilation: int,
    left: int,
    right: int,
    transposed: bool,
) -> str | None:
    """Return the rule that keeps a layer from tiles, or None.

    Examples
    --------
    >>> from fastconv1d.core.spectral_tiles import unsuited
    >>> unsuited("f", (64, 64, 1000), 1, 1, 0, 0, False)
    'K should be at most 384 times the stride'
    """
    if dtype_char not in ("f", "d"):
        return "the dtype should be float32 or float64"
    if weight_shape[2] > _MOST_TAPS * stride:
        return f"K should be at most {_MOST_TAPS} times the stride"
    return unsuited_sizes(weight_shape, stride, dilation, left, right)


def unsuited_sizes(
    weight_shape: tuple[int, ...], stride: int, dilation: int, left: int, right: int
) -> str | None:
    """Return the rule of sizes that keeps a layer from all transforms, or None."""
    if 0 in weight_shape:
        return "no dimension of the weight may be zero"
    if stride != 1 and dilation != 1:
        return "stride or dilation should be 1"
    if max(stride, dilation * weight_shape[2], abs(left), abs(right)) >= _FAR:
        return "stride, padding and dilation*K should be below 2**40"
    return None


def components(points: int) -> int:
    """Return the real products of a tile's input channel and output channel.

    Examples
    --------
    >>> from fastconv1d.core.spectral_tiles import FILTERED, components
    >>> components(16), components(FILTERED)
    (23, 6)
    """
    return points if points == FILTERED else 3 * points // 2 - 1


def call_cost(
    size: Sizes, dilation: int, l_out: int, kept: bool, points: int | None = None
) -> float:
    """Return about how many ns an item takes; without kept spectra, they are made as well."""
    points = points_of(size) if points is None else points
    row = -(-l_out // dilation)
    tiles = -(-row // (points - size.taps + 1)) * min(dilation, l_out)
    made = 0.0 if kept else components(points) * size.c_in * _wide(size.c_out) * _PACKED
    numbers = l_out * (size.c_in + size.c_out)
    memory = numbers * _MEMORY if numbers > _CACHE and points != FILTERED else 0.0
    few = 1 + _FEW / tiles if tiles else 1.0
    return size.groups * (_group_cost(size, points, tiles) * few + made + memory)


def _group_cost(size: Sizes, points: int, tiles: float) -> float:
    """Return about how many ns the tiles of a group take."""
    numbers = components(points) * size.c_in * _wide(size.c_out)
    bytes_of_tile = 4 * components(points) * (_wide(size.c_in) + 2 * _LANES)
    units = max(1.0, tiles / max(_LEAST_TILES, _UNIT_BYTES // bytes_of_tile))
    products = numbers * (tiles + units * _BEGUN) / _PRODUCTS
    reads = units * max(0, numbers - _NEAR) * _FAR_READ
    point = _FILTER_POINT if points == FILTERED else _POINT * (1 + _LEVEL * log2(points / 16))
    transforms = points * (_wide(size.c_in) + _OUTPUT * _wide(size.c_out)) * point
    return products + reads + tiles * transforms


def output_cost(size: Sizes) -> float:
    """Return about how many ns an output position of a group takes in a long call."""
    points, length = points_of(size), 1 << 16
    return _group_cost(size, points, length / (points - size.taps + 1)) / length


def _wide(channels: int) -> int:
    return -(-channels // _LANES) * _LANES


@cache
def points_of(size: Sizes) -> int:
    """Return the points of a layer's tiles: of the longest kernels those of the largest.

    Examples
    --------
    >>> from fastconv1d.core.spectral_tiles import Sizes, points_of
    >>> points_of(Sizes(256, 256, 16, 1))
    32
    """
    taps = size.taps
    # Of 5 to 128 taps the largest size that was among the fastest in inputs of some thousand
    # positions; beyond it tiles reach too far over the end, and transforms leave L1.
    most = min(5 * taps + 21, 3 * taps + 52, max(256, 2 * taps))
    fitting = [points for points in FACTORS if taps < points <= most]

    def cost(points: int) -> float:  # half a tile is lost at the end
        return _group_cost(size, points, _TYPICAL / (points - size.taps + 1) + 0.5)

    return min(fitting, key=cost)


class Tiles:
    """The spectra of a weight, made in the first call and kept; an engine's door.

    Parameters
    ----------
    weight : ndarray
        As the primitives take it. It should not change.
    groups, dilation, stride : int
    points : int, optional
        Of a tile, by default those that `points_of` says; `FILTERED` for minimal filtering.
    """

    FUSES = True

    def __init__(
        self,
        weight: NDArray[Any],
        groups: int,
        dilation: int,
        stride: int = 1,
        points: int | None = None,
    ) -> None:
        self._weight, self._groups, self._dilation, self._stride = weight, groups, dilation, stride
        self._points = points
        self._packed: dict[bool, SpectralLayer] = {}

    def correlate(
        self,
        x: NDArray[Any],
        w: NDArray[Any],
        bias: NDArray[Any] | None,
        y: NDArray[Any],
        geometry: Geometry,
        run: tuple[int, bool],
        steps: Steps | None = None,
        residual: NDArray[Any] | None = None,
    ) -> None:
        """Write the convolution of x to y, of any strides; `w` is the weight given before."""
        place = geometry.left, 0, y.shape[2], geometry.mode
        self._run(False, x, bias, y, residual, place, steps, run[0])

    def scatter(
        self,
        x: NDArray[Any],
        w: NDArray[Any],
        bias: NDArray[Any] | None,
        y: NDArray[Any],
        geometry: Geometry,
        run: tuple[int, bool],
        steps: Steps | None = None,
        residual: NDArray[Any] | None = None,
    ) -> bool:
        """Write the adjoint of a convolution to y.

        Returns False, without having written anything, for a weight that is not finite: it would
        meet zeros beyond the input's ends, which are no part of the sums.
        """
        if not np.isfinite(w).all():
            return False
        stride, left, taps = self._stride, geometry.left, -(-w.shape[2] // self._stride)
        first = left // stride  # the first input whose outputs are not all cropped
        columns = (y.shape[2] + left - 1) // stride + 1 - first
        place = self._dilation * (taps - 1) - first, left - first * stride, columns, 0
        self._run(True, x, bias, y, residual, place, steps, run[0])
        return True

    def _run(
        self,
        transposed: bool,
        x: NDArray[Any],
        bias: NDArray[Any] | None,
        y: NDArray[Any],
        residual: NDArray[Any] | None,
        place: tuple[int, int, int, int],
        steps: Steps | None,
        threads: int,
    ) -> None:
        bias = None if bias is None else np.ascontiguousarray(bias, self._weight.dtype)
        steps = Steps() if steps is None else steps
        packed = self._of(transposed, threads)
        packed.run(x, bias, y, residual, *place, steps, half_of(x.dtype), threads)

    def _of(self, transposed: bool, threads: int) -> SpectralLayer:
        packed = self._packed.get(transposed)
        if packed is None:
            stride = self._stride
            size = sizes(self._weight.shape, self._groups, transposed, stride)
            points = points_of(size) if self._points is None else self._points
            by = None if points != FILTERED else matrices(size.taps)
            split = (1, stride) if transposed else (stride, 1)
            weight = _grouped(self._weight, self._groups, transposed, stride)
            factors = FACTORS.get(points, ())
            packed = SpectralLayer(weight, self._dilation, *split, factors, by, threads)
            self._packed[transposed] = packed
        return packed


def _grouped(weight: NDArray[Any], groups: int, transposed: bool, stride: int) -> NDArray[Any]:
    """Return a view (groups, C_out/groups, C_in/groups, K), of stride 1 as a correlate has it."""
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    if not transposed:
        return grouped
    swapped = grouped.swapaxes(1, 2)
    return swapped[..., ::-1] if stride == 1 else swapped
