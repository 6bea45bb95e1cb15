"""The engines and the one rule that picks one, of the layer alone: never of lengths or threads.

A choice by length or batch would change the bits of a prefix or of a batch-mate. An engine is a
module with this door:

``unsuited(dtype_char, weight_shape, stride, dilation, left, right, transposed)``
    The rule that keeps a layer from it, or None.
``prepare(weight, bias, spec)``
    The layer packed for any number of calls; None where it has no packed form.
``correlate(x, w, bias, y, geometry, run)``, ``scatter(x, w, bias, y, geometry, run)``
    The two forward primitives; scatter returns False where it declines the weight's values. `run`
    is what `fastconv1d.config.execution` returns.
``weight_gradient(g, x, dw, geometry, run, db, only_db, weight, transposed)``
    The third, and what one pass makes besides.
``FUSES``
    Whether the forward primitives also take ``steps`` and ``residual``, 16 bits and any strides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..kernels import blas_engine, direct_engine
from .geometry import shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from .geometry import Geometry

ENGINES = {"direct": direct_engine, "blas": blas_engine}
# What `algorithm=` may be: an engine; the best of those that keep every promise ('auto'); minimal
# filtering for layers in eval mode (`minimal`), transforms (`fft`), or the fastest of all, which
# are 'auto' where they do not compute a layer.
ALGORITHMS = ("auto", "blas", "direct", "fast", "fft", "winograd")


def checked_algorithm(algorithm: str) -> str:
    """Return `algorithm` if it is the name of one, otherwise raise ValueError.

    Examples
    --------
    >>> from fastconv1d.core.engines import checked_algorithm
    >>> checked_algorithm("blas")
    'blas'
    """
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise ValueError(
            f"algorithm should be one of {', '.join(map(repr, ALGORITHMS))}, got {shown(algorithm)}"
        )
    return algorithm


def choose_engine(
    algorithm: str,
    dtype_char: str,
    weight_shape: Sequence[int],
    stride: int,
    dilation: int,
    pads: tuple[int, int],
    transposed: bool,
) -> ModuleType:
    """Return the engine whose primitives compute a layer with every promise.

    Parameters
    ----------
    algorithm : {'auto', 'blas', 'direct', 'fast', 'fft', 'winograd'}
        'auto', as the last three, takes the direct engine wherever it can compute the layer: on the
        benchmark's 35 layers it was from as fast as the BLAS engine (1x1, 512 channels) to 27 times
        as fast.
    dtype_char : str
        ``dtype.char`` of the operands.
    weight_shape : sequence of three ints
        Shape of the weight as the primitive takes it.
    stride, dilation : int
    pads : tuple of two ints
        Left and right padding, or cropping.
    transposed : bool
        Whether the primitive is scatter.

    Raises
    ------
    ValueError
        If the algorithm is unknown, or is 'direct' for a layer that this engine cannot compute.

    Examples
    --------
    >>> from fastconv1d.planner import choose_engine
    >>> choose_engine("auto", "f", (8, 8, 3), 1, 1, (0, 0), False).__name__
    'fastconv1d.kernels.direct_engine'
    >>> choose_engine("auto", "F", (8, 8, 3), 1 << 41, 1, (0, 0), False).__name__
    'fastconv1d.kernels.blas_engine'
    """
    if algorithm != "auto" and checked_algorithm(algorithm) == "blas":
        return blas_engine
    rule = direct_engine.unsuited(dtype_char, weight_shape, stride, dilation, *pads, transposed)
    if rule is None:
        return direct_engine
    if algorithm == "direct":
        raise ValueError(
            f"algorithm='direct' cannot compute this layer: {rule}, got dtype {dtype_char!r}, "
            f"a weight of size {list(weight_shape)}, stride={stride}, dilation={dilation}, "
            f"padding={pads}"
        )
    return blas_engine


def engine_of_scatter(
    engine: ModuleType, dtype_char: str, weight_shape: Sequence[int], geometry: Geometry
) -> ModuleType:
    """Return who computes the adjoint of a convolution that `engine` computes."""
    _, _, stride, dilation, left, right, _, _ = geometry
    rule = engine.unsuited(dtype_char, weight_shape, stride, dilation, left, right, True)
    return engine if rule is None else blas_engine
