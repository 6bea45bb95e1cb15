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
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..kernels.spectral import SpectralLayer
from .activations import Steps
from .arrays import half_of

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
# Sizes beyond which positions may not fit 64 bits.
_FAR = 1 << 40
# Channels of a vector, whose lanes a transform fills.
_LANES = 16


class Sizes(NamedTuple):
    """What a tile depends on; channels are those of a group."""

    c_out: int
    c_in: int
    taps: int
    groups: int


def sizes(w_shape: tuple[int, ...], groups: int, transposed: bool) -> Sizes:
    """Return the sizes of a layer as a correlate has them."""
    if transposed:
        return Sizes(w_shape[1], w_shape[0] // groups, w_shape[2], groups)
    return Sizes(w_shape[0] // groups, w_shape[1], w_shape[2], groups)


def unsuited(
    dtype_char: str,
    weight_shape: tuple[int, ...],
    stride: int,
    dilation: int,
    left: int,
    right: int,
    groups: int,
) -> str | None:
    """Return the rule that keeps a layer from tiles, or None.

    Examples
    --------
    >>> from fastconv1d.core.spectral_tiles import unsuited
    >>> unsuited("f", (64, 64, 1000), 1, 1, 0, 0, 1)
    'K should be at most 384'
    """
    if dtype_char not in ("f", "d"):
        return "the dtype should be float32 or float64"
    if 0 in weight_shape:
        return "no dimension of the weight may be zero"
    if stride != 1:
        return "the stride should be 1"
    if weight_shape[2] > _MOST_TAPS:
        return f"K should be at most {_MOST_TAPS}"
    if max(dilation * weight_shape[2], abs(left), abs(right)) >= _FAR:
        return "padding and dilation*K should be below 2**40"
    return None


# Kernels beyond which the largest tile has too few outputs.
_MOST_TAPS = 384
# Multiply-adds of a complex product a ns, and ns of a point of a transform of a channel.
_PRODUCTS, _POINT = 55.0, 0.5


def tile_cost(points: int, size: Sizes) -> float:
    """Return about how many ns a tile of a group takes, with AVX-512 on one core."""
    wide = sum(-(-channels // _LANES) * _LANES for channels in (size.c_out, size.c_in))
    pairs = size.c_in * (-(-size.c_out // _LANES) * _LANES)
    return (2 * points - 6) * pairs / _PRODUCTS + points * wide * _POINT


@cache
def points_of(size: Sizes) -> int:
    """Return the points of a layer's tiles.

    Examples
    --------
    >>> from fastconv1d.core.spectral_tiles import Sizes, points_of
    >>> points_of(Sizes(256, 256, 16, 1))
    96
    """
    fitting = [points for points in FACTORS if points > size.taps]
    return min(fitting, key=lambda points: tile_cost(points, size) / (points - size.taps + 1))


class Tiles:
    """The spectra of a weight, made in the first call and kept; an engine's door.

    Parameters
    ----------
    weight : ndarray
        As the primitives take it. It should not change.
    groups, dilation : int
    points : int, optional
        Of a tile, by default those that `points_of` says.
    """

    FUSES = True

    def __init__(
        self, weight: NDArray[Any], groups: int, dilation: int, points: int | None = None
    ) -> None:
        self._weight, self._groups, self._dilation, self._points = weight, groups, dilation, points
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
        operands = x, bias, y, residual, geometry.left, geometry.mode
        self._run(False, *operands, steps, run[0])

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
        left = self._dilation * (w.shape[2] - 1) - geometry.left
        self._run(True, x, bias, y, residual, left, 0, steps, run[0])
        return True

    def _run(
        self,
        transposed: bool,
        x: NDArray[Any],
        bias: NDArray[Any] | None,
        y: NDArray[Any],
        residual: NDArray[Any] | None,
        left: int,
        mode: int,
        steps: Steps | None,
        threads: int,
    ) -> None:
        bias = None if bias is None else np.ascontiguousarray(bias, self._weight.dtype)
        steps = Steps() if steps is None else steps
        packed = self._of(transposed)
        packed.run(x, bias, y, residual, left, mode, steps, half_of(x.dtype), threads)

    def _of(self, transposed: bool) -> SpectralLayer:
        packed = self._packed.get(transposed)
        if packed is None:
            layout = self._weight, self._groups, self._dilation, transposed, self._points
            packed = self._packed[transposed] = _packed(*layout)
        return packed


def _packed(
    weight: NDArray[Any], groups: int, dilation: int, transposed: bool, points: int | None
) -> SpectralLayer:
    size = sizes(weight.shape, groups, transposed)
    points = points_of(size) if points is None else points
    if transposed:
        grouped = weight.reshape(groups, size.c_in, size.c_out, size.taps)
        grouped = grouped.swapaxes(1, 2)[..., ::-1]
    else:
        grouped = weight.reshape(groups, size.c_out, size.c_in, size.taps)
    spectra = np.empty((groups, points // 2, 2, size.c_out, size.c_in), weight.dtype)
    for to, kernels in zip(spectra, grouped, strict=True):  # a group at a time: in float64
        values = np.fft.rfft(kernels.astype(np.float64), points) / points
        values = np.moveaxis(values, -1, 0)
        to[0] = values[0].real, values[-1].real
        to[1:, 0], to[1:, 1] = values[1:-1].real, -values[1:-1].imag
    return SpectralLayer(spectra, size.taps, dilation, FACTORS[points])
