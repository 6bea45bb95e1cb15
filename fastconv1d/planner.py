"""Which engine computes a layer: one pure function of the layer, never of lengths or threads.

A choice by length or batch would change the bits of a prefix or of a batch-mate.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from . import geometry
from .kernels import blas_engine, direct_engine

if TYPE_CHECKING:
    from collections.abc import Sequence

ALGORITHMS = ("auto", "blas", "direct", "winograd")
_REAL = frozenset("fd")


def checked_algorithm(algorithm: str) -> str:
    """Return `algorithm` if it is the name of one, otherwise raise ValueError.

    Examples
    --------
    >>> from fastconv1d.planner import checked_algorithm
    >>> checked_algorithm("blas")
    'blas'
    """
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise ValueError(
            "algorithm should be one of 'auto', 'blas', 'direct', 'winograd', "
            f"got {geometry.shown(algorithm)}"
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
    """Return the engine module whose primitives compute a layer.

    Parameters
    ----------
    algorithm : {'auto', 'blas', 'direct', 'winograd'}
        'auto' takes the direct engine wherever it can compute the layer: on the benchmark's 35
        layers it was from as fast as the BLAS engine (1x1, 512 channels) to 27 times as fast.
        'winograd' is for layers in eval mode (`minimal`), and the same as 'auto' here.
    dtype_char : str
        ``dtype.char`` of the operands; the direct engine has float32 and float64.
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
    >>> choose_engine("auto", "F", (8, 8, 3), 1, 1, (0, 0), False).__name__
    'fastconv1d.kernels.blas_engine'
    """
    if checked_algorithm(algorithm) == "blas":
        return blas_engine
    rule = (
        direct_engine.unsuited(weight_shape, stride, dilation, *pads, transposed)
        if dtype_char in _REAL
        else "the dtype should be float32 or float64"
    )
    if rule is None:
        return direct_engine
    if algorithm == "direct":
        raise ValueError(
            f"algorithm='direct' cannot compute this layer: {rule}, got dtype {dtype_char!r}, "
            f"a weight of size {list(weight_shape)}, stride={stride}, dilation={dilation}, "
            f"padding={pads}"
        )
    return blas_engine
