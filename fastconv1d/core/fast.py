"""Which of the engines computes a call: where fewer multiplications take less time, or are asked for.

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

# Multiply-adds a ns of the direct engine, float32, one core with AVX-512: dense layers, and those
# of one input channel a group.
_DENSE_RATE, _DEPTHWISE_RATE = 60.0, 25.0


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
        engine = transforms(w_shape, dtype, geometry, transposed)
        if engine is not None and (
            algorithm == "fft" or transforms_win(w_shape, dtype, geometry, transposed, l_in, l_out)
        ):
            return engine
    pads = left, right
    return choose_engine(algorithm, dtype.char, w_shape, stride, dilation, pads, transposed)


def transforms(
    w_shape: tuple[int, ...], dtype: np.dtype[Any], geometry: Geometry, transposed: bool
) -> ModuleType | None:
    """Return who computes a layer by transforms: in tiles, or in blocks of rows; None if nobody.

    That follows from the layer alone, so that bits do not depend on the length.
    """
    _, _, stride, dilation, left, right, groups, _ = geometry
    layer = dtype.char, w_shape, stride, dilation, left, right, transposed
    by_tiles = spectral_tiles.unsuited(*layer) is None
    if fft.unsuited(*layer) is not None:
        return spectral_tiles if by_tiles else None  # type: ignore[return-value]
    if by_tiles:
        size = spectral_tiles.sizes(w_shape, groups, transposed)
        n = fft.block_size(size.taps, size.c_out, size.c_in, dtype.itemsize)
        block = fft.block_cost(n, size.c_out, size.c_in) / (2 * n - size.taps + 1)
        if spectral_tiles.output_cost(size) < block:
            return spectral_tiles  # type: ignore[return-value]
    return fft  # type: ignore[return-value]


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
    by_transforms = fft_time(w_shape, dtype, geometry, transposed, l_out, kept)
    return by_transforms < direct_time(w_shape, dtype, geometry, transposed, l_in, l_out)


def direct_time(
    w_shape: tuple[int, ...],
    dtype: np.dtype[Any],
    geometry: Geometry,
    transposed: bool,
    l_in: int,
    l_out: int,
) -> float:
    """Return about how many ns the direct engine takes for an item, relative to `fft_time`."""
    columns = l_in if transposed else l_out
    macs = float(columns) * w_shape[0] * w_shape[1] * w_shape[2]
    rate = _DEPTHWISE_RATE if w_shape[1] == 1 else _DENSE_RATE
    return macs / rate * (dtype.itemsize / 4)


def fft_time(
    w_shape: tuple[int, ...],
    dtype: np.dtype[Any],
    geometry: Geometry,
    transposed: bool,
    l_out: int,
    kept: bool = False,
) -> float:
    """Return about how many ns transforms take for an item."""
    if transforms(w_shape, dtype, geometry, transposed) is spectral_tiles:
        size = spectral_tiles.sizes(w_shape, geometry.groups, transposed)
        dilation = geometry.dilation
        return spectral_tiles.call_cost(size, dilation, l_out, kept) * (dtype.itemsize / 4)
    made = fft.plan(w_shape, dtype, geometry, transposed, l_out)
    each = fft.block_cost(made.n, made.co, made.ci) * made.blocks * made.phases
    if not kept:
        each += fft.transform_cost(made.n) * made.co * made.ci
    return each * geometry.groups * (dtype.itemsize / 4)
