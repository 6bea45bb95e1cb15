"""Layers whose calls are computed by transforms, or by whichever engine is the fastest for them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import config
from . import fft, spectral_tiles
from .fast import direct_time, fft_time, tiles_time
from .forward import convolve

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from .activations import Steps
    from .spec import Spec

# Lengths whose engine a layer remembers.
_LENGTHS = 64
# A length at which transforms win if they do at any.
_LONG = 1 << 24


def taken(spec: Spec, weight: NDArray[Any]) -> str:
    """Return who computes long inputs of a layer: 'fft', 'winograd' or 'direct', its own engine."""
    if spec.rank == 1 and spec.algorithm == "fft" and _suited(spec, weight):
        return "fft"
    if spec.rank == 1 and spec.algorithm in ("fast", "winograd"):
        return fastest(spec, weight, _LONG)
    return "direct"


def _suited(spec: Spec, weight: NDArray[Any]) -> bool:
    window = spec.dilation, *spec.pads()
    layer = weight.dtype.char, weight.shape, spec.stride, *window, spec.transposed
    return not spec.same and fft.unsuited(*layer) is None


def prepare(
    weight: NDArray[Any], bias: NDArray[Any] | None, spec: Spec, direct: Any
) -> ChosenLayer | None:
    """Return who computes a layer with fewer multiplications, or None where the engines do.

    Parameters
    ----------
    weight, bias, spec
        As of a layer.
    direct : object whose `layer` is the packed one of the direct engine, or None
    """
    if taken(spec, weight) == "direct":
        return None
    return ChosenLayer(weight, bias, spec, direct)


def _filtered_points(spec: Spec, weight: NDArray[Any]) -> int | None:
    """Return the points of the tiles by which 'winograd' computes a layer, or None."""
    if spec.rank != 1 or spec.same or spec.algorithm not in ("fast", "winograd"):
        return None
    window = spec.stride, spec.dilation, *spec.pads(), spec.transposed
    if spectral_tiles.unsuited(weight.dtype.char, weight.shape, *window) is not None:
        return None
    size = spectral_tiles.sizes(weight.shape, spec.groups, spec.transposed, spec.stride)
    if size.taps in spectral_tiles.FILTERED_TAPS:
        return spectral_tiles.FILTERED
    minimal = spec.algorithm == "winograd" and size.taps in spectral_tiles.MINIMAL_TAPS
    return spectral_tiles.points_of(size) if minimal else None  # which is 'fft' otherwise


def expected(spec: Spec, weight: NDArray[Any], l_in: int) -> dict[str, float]:
    """Return about how many ns each engine takes for an item of a length, on one core.

    Only their ratios are meant. Empty where the layer does not take inputs of this length.

    Examples
    --------
    >>> from fastconv1d import Conv1d
    >>> from fastconv1d.core.chosen import expected
    >>> layer = Conv1d(1, 1, 5_000)
    >>> sorted(expected(layer._spec, layer.weight, 10_000))
    ['direct', 'fft']
    """
    channels = weight.shape[0] if spec.transposed else weight.shape[1] * spec.groups
    try:
        geometry = spec.geometry((1, channels, l_in), weight.shape, None)
    except ValueError:  # which the direct engine explains
        return {}
    l_out = geometry.l_out
    if l_in == 0 or l_out == 0:
        return {}
    operands = weight.shape, weight.dtype, geometry, spec.transposed, l_in, l_out
    times = {"direct": direct_time(*operands)}
    if spec.algorithm != "winograd" and _suited(spec, weight):
        times["fft"] = fft_time(*operands, kept=True)
    points = _filtered_points(spec, weight)
    if points is not None:
        times["winograd"] = tiles_time(*operands, kept=True, points=points)
    return times


def fastest(spec: Spec, weight: NDArray[Any], l_in: int) -> str:
    """Return who is expected to be the fastest for inputs of a length.

    Examples
    --------
    >>> from fastconv1d import Conv1d
    >>> from fastconv1d.core.chosen import fastest
    >>> [fastest(c._spec, c.weight, 10_000) for c in (Conv1d(1, 1, 5), Conv1d(1, 1, 5_000))]
    ['direct', 'fft']
    """
    times = expected(spec, weight, l_in)
    return min(times, key=lambda name: times[name]) if times else "direct"


def engine_of(run: Any, l_in: int) -> str:
    """Return who computes inputs of a length: 'fft', 'winograd' or 'direct', its own engine.

    `run` is that of a layer's pack.
    """
    if config.are_deterministic_algorithms_enabled():
        return "direct"
    return run.engine(l_in) if isinstance(run, ChosenLayer) else "direct"


class ChosenLayer:
    """A layer of 'fft', 'fast' or 'winograd', prepared for any number of calls.

    Parameters
    ----------
    weight, bias, spec, direct
        As `prepare`.
    """

    def __init__(
        self, weight: NDArray[Any], bias: NDArray[Any] | None, spec: Spec, direct: Any
    ) -> None:
        self._weight, self._bias, self._spec, self._direct = weight, bias, spec, direct
        self._spectra = fft.Spectra(weight, spec.groups, spec.dilation, spec.stride)
        layout = spec.groups, spec.dilation, spec.stride
        self._filter = spectral_tiles.Tiles(weight, *layout, _filtered_points(spec, weight))
        self._by_length: dict[int, str] = {}

    def with_steps(self, steps: Steps) -> ChosenLayer:
        """Return the same layer with other steps, over the same packed weight."""
        other = copy.copy(self)
        other._spec = self._spec._replace(steps=steps)
        return other

    def engine(self, l_in: int) -> str:
        """Return who computes inputs of a length: 'fft', 'winograd' or 'direct'."""
        if self._spec.algorithm in ("fft", "winograd"):
            return self._spec.algorithm
        known = self._by_length.get(l_in)
        if known is None:
            known = fastest(self._spec, self._weight, l_in)
            if len(self._by_length) >= _LENGTHS:
                self._by_length = {}
            self._by_length[l_in] = known
        return known

    def __call__(
        self,
        x: ArrayLike,
        threads: Callable[[], int],
        residual: Any = None,
        out: Any = None,
    ) -> NDArray[Any] | None:
        """Return the output, or None where the general path should compute or explain it."""
        shape = np.shape(x)
        if len(shape) not in (2, 3):
            return None
        engine = "direct"
        if not config.are_deterministic_algorithms_enabled():
            engine = self.engine(shape[-2 if self._spec.layout == "NLC" else -1])
        if engine == "direct":
            direct = None if self._direct is None else self._direct.layer
            if direct is None:
                return None
            y: NDArray[Any] | None = direct.with_steps(self._spec.steps)(x, threads, residual, out)
            return y
        n = threads()
        by = self._filter if engine == "winograd" else self._spectra
        operands = self._spec, x, self._weight, self._bias, residual, out, by
        if n == config.get_num_threads():
            return convolve(*operands)
        with config.num_threads(n):
            return convolve(*operands)
