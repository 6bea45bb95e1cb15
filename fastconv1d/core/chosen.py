"""Layers whose calls are computed by transforms, or by whichever engine is the fastest for them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import config
from . import fft, minimal, spectral_tiles
from .fast import transforms, transforms_win
from .forward import convolve
from .minimal import MinimalLayer

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from .activations import Steps
    from .geometry import Geometry
    from .spec import Spec

# Lengths whose engine a layer remembers.
_LENGTHS = 64
# A length at which transforms win if they do at any.
_LONG = 1 << 24


def computes(spec: Spec, weight: NDArray[Any]) -> bool:
    """Whether a layer that asks for 'fft' or 'fast' is computed by transforms at some length."""
    if spec.rank != 1 or spec.algorithm not in ("fft", "fast") or spec.same:
        return False
    if transforms(weight.shape, weight.dtype, spec.window, spec.transposed) is None:
        return False
    return spec.algorithm == "fft" or _wins(spec, weight, _LONG)


def prepare(
    weight: NDArray[Any], bias: NDArray[Any] | None, spec: Spec, direct: Any
) -> ChosenLayer | MinimalLayer | None:
    """Return who computes a layer with fewer multiplications, or None where the engines do.

    Parameters
    ----------
    weight, bias, spec
        As of a layer.
    direct : object whose `layer` is the packed one of the direct engine, or None
    """
    if spec.rank != 1:
        return None
    if computes(spec, weight):
        return ChosenLayer(weight, bias, spec, direct)
    if spec.algorithm in ("winograd", "fast") and minimal.computes(spec, weight):
        return MinimalLayer(weight, bias, spec, direct)
    return None


def _wins(spec: Spec, weight: NDArray[Any], l_in: int) -> bool:
    geometry = _geometry(spec, weight, l_in)
    if geometry is None:
        return False
    operands = weight.shape, weight.dtype, geometry, spec.transposed
    return transforms_win(*operands, l_in, geometry.l_out, kept=True)


def _geometry(spec: Spec, weight: NDArray[Any], l_in: int) -> Geometry | None:
    """Return the geometry for inputs of a length, None where the layer does not take them."""
    channels = weight.shape[0] if spec.transposed else weight.shape[1] * spec.groups
    try:
        return spec.geometry((1, channels, l_in), weight.shape, None)
    except ValueError:
        return None


def spectra(spec: Spec, weight: NDArray[Any]) -> fft.Spectra | spectral_tiles.Tiles:
    """Return who computes a layer by transforms: an engine that keeps the spectra of the weight."""
    if transforms(weight.shape, weight.dtype, spec.window, spec.transposed) is spectral_tiles:
        return spectral_tiles.Tiles(weight, spec.groups, spec.dilation)
    return fft.Spectra(weight)


def engine_of(run: Any, l_in: int) -> str:
    """Return who computes inputs of a length: 'fft', 'winograd' or 'direct', the layer's own engine.

    `run` is that of a layer's pack.
    """
    if config.are_deterministic_algorithms_enabled():
        return "direct"
    if isinstance(run, MinimalLayer):
        return "winograd"
    return run.engine(l_in) if isinstance(run, ChosenLayer) else "direct"


class ChosenLayer:
    """A layer of 'fft' or 'fast', prepared for any number of calls.

    Parameters
    ----------
    weight, bias, spec, direct
        As `prepare`.
    """

    def __init__(
        self, weight: NDArray[Any], bias: NDArray[Any] | None, spec: Spec, direct: Any
    ) -> None:
        self._weight, self._bias, self._spec, self._direct = weight, bias, spec, direct
        self._spectra = spectra(spec, weight)
        self._minimal: MinimalLayer | None = None
        if spec.algorithm == "fast" and minimal.computes(spec, weight):
            self._minimal = MinimalLayer(weight, bias, spec, direct)
        self._by_length: dict[int, bool] = {}

    def with_steps(self, steps: Steps) -> ChosenLayer:
        """Return the same layer with other steps, over the same packed weight."""
        other = copy.copy(self)
        other._spec = self._spec._replace(steps=steps)
        if self._minimal is not None:
            other._minimal = self._minimal.with_steps(steps)
        return other

    def engine(self, l_in: int) -> str:
        """Return who computes inputs of a length: 'fft', 'winograd' or 'direct'."""
        if self._spec.algorithm == "fft" or self._transforms(l_in):
            return "fft"
        return "direct" if self._minimal is None else "winograd"

    def _transforms(self, l_in: int) -> bool:
        known = self._by_length.get(l_in)
        if known is None:
            known = _wins(self._spec, self._weight, l_in)
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
        if engine == "winograd":
            assert self._minimal is not None
            return self._minimal(x, threads, residual, out)
        if engine == "direct":
            direct = None if self._direct is None else self._direct.layer
            if direct is None:
                return None
            y: NDArray[Any] | None = direct.with_steps(self._spec.steps)(x, threads, residual, out)
            return y
        n = threads()
        operands = self._spec, x, self._weight, self._bias, residual, out, self._spectra
        if n == config.get_num_threads():
            return convolve(*operands)
        with config.num_threads(n):
            return convolve(*operands)
