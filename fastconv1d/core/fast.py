"""Which engine computes a call: where fewer multiplications take less time, or are asked for.

'fft' takes transforms wherever they can compute the layer, 'fast' where they are expected to be the
fastest. Nothing here is taken in deterministic mode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import config
from . import fft, spectral_tiles
from .engines import choose_engine

if TYPE_CHECKING:
    from types import ModuleType

    import numpy as np

    from .geometry import Geometry

# What follows is of one core with AVX-512, float32: the 60 layers of `benchmarks/fast.py sweep`.
# Multiply-adds a ns of the direct engine: one input channel a group; for each output channel of a
# group; at the most. And ns of an output, of a number of the weight, and of a call.
_ONE_RATE, _CHANNEL_RATE, _DENSE_RATE = 48.0, 21.0, 78.0
_OUTPUT, _WEIGHT, _DIRECT_CALL = 0.25, 0.19, 2_000.0
# Times the input's length that a kernel has taps which are not left out, where it is longer.
_READ = 2
# ns of a call of transforms, and of an element of a row that is not contiguous, in tiles also less.
_CALL, _STRIDED, _QUICKLY_STRIDED = 25_000.0, 1.0, 0.3
# ns of a call of tiles, and how much longer than estimated their time is taken to be: without it 2
# of the 139 layers they were taken for lost, down to 0.88 of the direct engine, with it 1 (0.97).
_TILES_CALL, _TILES_LATE = 12_000.0, 1.08
# Columns below which they take twice as long: 256 channels of 3 taps took 1.3 times as long as the
# direct engine for 32 columns, and 0.9 times for 50.
_SHORT = 48


def in_force(algorithm: str) -> str:
    """Return what an algorithm means here: by default, and in deterministic mode.

    Examples
    --------
    >>> from fastconv1d import config
    >>> from fastconv1d.core.fast import in_force
    >>> with config.algorithm("fast"):
    ...     in_force("auto"), in_force("direct")
    ('fast', 'direct')
    """
    if algorithm == "auto":
        algorithm = config.get_algorithm()
    if algorithm in ("fast", "fft", "winograd") and config.are_deterministic_algorithms_enabled():
        return "auto"
    return algorithm


def engine_of_call(
    algorithm: str,
    w_shape: tuple[int, ...],
    dtype: np.dtype[Any],
    geometry: Geometry,
    transposed: bool,
    l_in: int,
    l_out: int,
) -> ModuleType:
    """Return the engine of a call of a function, or of the gradients of one."""
    _, _, stride, dilation, left, right, _, _ = geometry
    algorithm = in_force(algorithm)
    if algorithm in ("fast", "fft"):
        layer = dtype.char, w_shape, stride, dilation, left, right, transposed
        suited = fft.unsuited(*layer) is None
        if suited and (
            algorithm == "fft" or transforms_win(w_shape, dtype, geometry, transposed, l_in, l_out)
        ):
            return fft
    pads = left, right
    return choose_engine(algorithm, dtype.char, w_shape, stride, dilation, pads, transposed)


def transforms_win(
    w_shape: tuple[int, ...],
    dtype: np.dtype[Any],
    geometry: Geometry,
    transposed: bool,
    l_in: int,
    l_out: int,
    kept: bool = False,
) -> bool:
    """Whether transforms are expected to take less time than the direct engine.

    `kept` says whether there are spectra of the weight already.
    """
    if l_out == 0 or l_in == 0:
        return False
    by_transforms = fft_time(w_shape, dtype, geometry, transposed, l_in, l_out, kept)
    return by_transforms < direct_time(w_shape, dtype, geometry, transposed, l_in, l_out)


def direct_time(
    w_shape: tuple[int, ...],
    dtype: np.dtype[Any],
    geometry: Geometry,
    transposed: bool,
    l_in: int,
    l_out: int,
) -> float:
    """Return about how many ns the direct engine takes for an item."""
    first, second, kernel = w_shape
    columns, per_group = (l_in, second) if transposed else (l_out, first // geometry.groups)
    if not geometry.mode:  # taps that read only zeros are left out
        kernel = min(kernel, _READ * -(-(l_out if transposed else l_in) // geometry.dilation))
    rate = _ONE_RATE
    if second > 1 or (transposed and first > geometry.groups):
        rate = min(_DENSE_RATE, _CHANNEL_RATE * max(2, per_group))
    time = float(columns) * first * second * kernel / rate
    time += _OUTPUT * geometry.c_out * l_out + _WEIGHT * first * second * kernel
    products = 2 if dtype.kind == "c" else 1  # four real ones, of half the size
    return _DIRECT_CALL + time * products * _slower(dtype)


def fft_time(
    w_shape: tuple[int, ...],
    dtype: np.dtype[Any],
    geometry: Geometry,
    transposed: bool,
    l_in: int,
    l_out: int,
    kept: bool = False,
) -> float:
    """Return about how many ns transforms take for an item."""
    if fft.takes_tiles(w_shape, dtype, geometry, transposed):
        return tiles_time(w_shape, dtype, geometry, transposed, l_in, l_out, kept)
    made = fft.plan(w_shape, dtype, geometry, transposed, l_out)
    each = fft.block_cost(made.n, made.co, made.ci) * made.blocks * made.phases
    if not kept:
        each += fft.transform_cost(made.n) * made.co * made.ci
    time = each * geometry.groups
    if made.in_step > 1 or made.out_step > 1:
        channels = w_shape[0] if transposed else w_shape[1] * geometry.groups
        time += _STRIDED * (channels * l_in + geometry.c_out * l_out)
    return _CALL + time * _slower(dtype)


def tiles_time(
    w_shape: tuple[int, ...],
    dtype: np.dtype[Any],
    geometry: Geometry,
    transposed: bool,
    l_in: int,
    l_out: int,
    kept: bool,
    points: int | None = None,
) -> float:
    """Return about how many ns tiles take for an item, of so many points or those of a layer."""
    size = spectral_tiles.sizes(w_shape, geometry.groups, transposed, geometry.stride)
    columns = -(-l_out // geometry.stride) if transposed else l_out
    time = spectral_tiles.call_cost(size, geometry.dilation, columns, kept, points)
    if geometry.stride > 1:  # of phases: read in vectors for some strides, written one by one
        quick = transposed or geometry.stride in (2, 4, 8)
        split = geometry.groups * (size.c_out if transposed else size.c_in)
        time += columns * split * (_QUICKLY_STRIDED if quick else _STRIDED)
    late = _TILES_LATE if columns >= _SHORT else 2
    return (_TILES_CALL + time * _slower(dtype)) * late


def _slower(dtype: np.dtype[Any]) -> float:
    """Return how many times as long as float32 a dtype takes."""
    return dtype.itemsize / 4
