"""Which engine computes a layer: one pure function of the layer, never of lengths or threads.

A choice by length or batch would change the bits of a prefix or of a batch-mate. `explain` tells
what the chosen one does with an input of a certain size.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import geometry
from .config import get_num_threads
from .kernels import blas_engine, direct_engine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .modules import Conv1d, ConvTranspose1d

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


def explain(
    layer: Conv1d | ConvTranspose1d, shape: Sequence[int], threads: int | None = None
) -> dict[str, Any]:
    """Return how a layer computes inputs of a shape: who does it, and in which pieces.

    Parameters
    ----------
    layer : Conv1d or ConvTranspose1d
        In eval mode.
    shape : sequence of three ints
        (N, C_in, L_in) of the input, (N, L_in, C_in) for a layer of layout 'NLC'.
    threads : int, optional
        As many as a call may use; by default `fastconv1d.get_num_threads`.

    Returns
    -------
    dict
        ``engine`` is 'blas', 'direct' or 'winograd'. Of the direct engine there is also ``isa``;
        ``kernel``: 'run_unit', or 'run_positions' for depthwise layers with channels last;
        ``register_tile``: rows (output channels) and columns that are summed in registers at once
        (tiles of up to 8 columns have vectors of channels instead);
        ``phases`` and ``fused_phases`` of a transposed convolution: those computed one after the
        other, and those that are rows of one tile; ``ci_chain`` and ``k_block``: input channels and
        taps of one chain of sums; ``ci_block``: input channels of a window, whole chains;
        ``tile_cols`` and ``tiles``: columns that share a window, and how many such tiles an item
        has; ``items_per_unit``: items side by side in a tile; ``co_unit`` and ``groups_per_unit``:
        output channels and groups of a unit; ``units``: pieces of work that threads take;
        ``window_runs`` and ``window_bytes``: contiguous stretches of a window's row, and its size;
        ``by_rows``: whether outputs are written row by row; ``staged``: whether they pass through
        scratch; ``threads``; ``scratch_bytes`` of each.

    Raises
    ------
    ValueError
        If the layer is in train mode, or does not take inputs of this shape.

    Notes
    -----
    For reading, when a layer is slower than expected: names and values may change with any version.
    Blocks depend on the layer alone, as the bits of sums do, the rest on the shape and the threads.

    Examples
    --------
    >>> from fastconv1d import Conv1d
    >>> from fastconv1d.planner import explain
    >>> plan = explain(Conv1d(64, 128, 3), (1, 64, 1000), threads=1)
    >>> plan["engine"], plan["units"] >= 1
    ('direct', True)
    """
    if layer.training:
        raise ValueError("explain needs a layer in eval mode, got one in train mode: call eval()")
    n_batch, c_in, l_in = shape
    if layer.layout == "NLC":
        c_in, l_in = l_in, c_in
    x, w, stride, padding = (n_batch, c_in, l_in), layer.weight.shape, layer.stride, layer.padding
    dilation, groups = layer.dilation, layer.groups
    if layer.transposed:
        plan = geometry.conv_transpose_geometry(
            x, w, None, stride, padding, layer.output_padding, groups, dilation
        )
    else:
        mode = layer.padding_mode
        plan = geometry.conv_geometry(x, w, None, stride, padding, dilation, groups, mode)
    packed = layer._packed_now().layer
    if packed is None:
        return {"engine": "blas"}
    if not isinstance(packed, direct_engine.PreparedLayer):
        return {"engine": "winograd"}
    return packed.plan(n_batch, l_in, plan[1], plan[4], threads or get_num_threads())
