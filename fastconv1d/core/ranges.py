"""Any range of a convolution's outputs from the inputs that they read, bits as in the whole call.

The direct engine's bits depend on neither place nor length. Those of a GEMM depend on the place of
a column in its tile, so the BLAS engine computes tiles of deterministic mode at the places that
they have in the whole call, and the columns asked for are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import config
from ..kernels.blas_engine import correlate, fixed_columns, scatter
from . import arrays, geometry
from .forward import after_sums, before_sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..kernels.direct_engine import PreparedLayer
    from .spec import Spec


class Ranges:
    """A convolution over parts of its input.

    Parameters
    ----------
    spec : Spec
        Checked, with its steps. Its padding says where the first output of a transposed convolution
        lies, nothing else.
    weight, bias : ndarray, ndarray or None
    prepared : PreparedLayer or None
        What the direct engine made of them; otherwise the BLAS engine computes.
    """

    def __init__(
        self,
        spec: Spec,
        weight: NDArray[Any],
        bias: NDArray[Any] | None,
        prepared: PreparedLayer | None,
    ) -> None:
        self._spec, self._weight, self._bias, self._prepared = spec, weight, bias, prepared

    def inputs(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return inputs as `compute` takes them, which may be kept between calls."""
        return x if self._prepared is not None else before_sums(self._spec.steps, x, self._weight)

    def compute(
        self,
        x: NDArray[Any],
        origin: int,
        first: int,
        y: NDArray[Any],
        residual: NDArray[Any] | None = None,
    ) -> None:
        """Write outputs from the `first` on to y (N, C_out, n), of any strides.

        x (N, C_in, L) has every position that they read, of which `origin` is its first; what lies
        beyond it counts as zero. Both are counted as in `Spec`: positions with the padding, outputs
        from before any cropping.
        """
        if self._prepared is not None:
            shift = self._spec.shift(origin, first)
            self._prepared.run(x, y, shift, config.get_num_threads, residual)
        else:
            self._compute_tiles(x, origin, first, y, residual)

    def _compute_tiles(
        self, x: NDArray[Any], origin: int, first: int, y: NDArray[Any], residual: Any
    ) -> None:
        spec = self._spec
        primitive = scatter if spec.transposed else correlate
        tile = fixed_columns(self._weight.dtype.itemsize) * (spec.stride if spec.transposed else 1)
        base = spec.pads()[0] if spec.transposed else 0
        at, length = 0, y.shape[2]
        while at < length:
            skipped = (first + at - base) % tile
            end = min(length, at + tile - skipped)
            block = arrays.new((*y.shape[:2], skipped + end - at), self._weight.dtype)
            place = spec.window._replace(
                left=spec.shift(origin, first + at - skipped), mode=geometry.ZEROS
            )
            run = config.get_num_threads(), True
            primitive(x, self._weight, self._bias, block, place, run)
            part = np.ascontiguousarray(block[:, :, skipped:])
            more = None if residual is None else residual[:, :, at:end]
            after_sums(spec.steps, part, more, y[:, :, at:end])
            at = end
