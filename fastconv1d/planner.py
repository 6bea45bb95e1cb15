"""What computes a layer, and how: `explain` tells it for inputs of a certain size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .config import get_num_threads
from .core.engines import choose_engine
from .core.geometry2d import Geometry2d
from .core.minimal import MinimalLayer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .modules import Conv1d, Conv2d, ConvTranspose1d

__all__ = ["choose_engine", "explain"]


def explain(
    layer: Conv1d | Conv2d | ConvTranspose1d, shape: Sequence[int], threads: int | None = None
) -> dict[str, Any]:
    """Return how a layer computes inputs of a shape: who does it, and in which pieces.

    Parameters
    ----------
    layer : Conv1d, Conv2d or ConvTranspose1d
        In eval mode.
    shape : sequence of three or four ints
        (N, C_in, L_in) of the input, (N, L_in, C_in) for a layer of layout 'NLC'; planes likewise.
    threads : int, optional
        As many as a call may use; by default `fastconv1d.get_num_threads`.

    Returns
    -------
    dict
        ``engine`` is 'blas', 'direct' or 'winograd'. Of the direct engine there is also ``isa``;
        ``kernel``: 'run_unit', 'run_positions' for depthwise layers with channels last,
        'run_channels' for them on short inputs, 'run_items' for many short items;
        ``register_tile``: rows (output channels) and columns that are summed in registers at once
        (tiles of up to 8 columns have vectors of channels instead);
        ``phases`` and ``fused_phases`` of a transposed convolution: those computed one after the
        other, and those that are rows of one tile; ``ci_chain`` and ``k_block``: input channels and
        taps of one chain of sums; ``ci_block``: input channels of a window, whole chains;
        ``tile_cols`` and ``tiles``: columns that share a window, and how many such tiles an item
        has; ``items_per_unit``: items side by side in a tile, of `Conv2d` rows of the output;
        ``co_unit`` and ``groups_per_unit``: output channels and groups of a unit; ``units``: pieces
        of work that threads take;
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
    spec, weight = layer._spec, layer._held.weight
    n_batch, *rest = shape
    if spec.channels_last:
        rest = [rest[-1], *rest[:-1]]
    window = spec.geometry((n_batch, *rest), weight.shape, None)
    pack = layer._pack()
    if isinstance(pack.run, MinimalLayer):
        return {"engine": "winograd"}
    if pack.prepared is None:
        return {"engine": "blas"}
    n_threads = threads or get_num_threads()
    if isinstance(window, Geometry2d):
        sizes = (n_batch, *rest), (n_batch, *window[:3])
        starts = window.down.before, window.across.before
        planes: dict[str, Any] = pack.prepared.plan_planes(*sizes, *starts, n_threads)
        return planes
    _, l_in = rest
    told: dict[str, Any] = pack.prepared.plan(n_batch, l_in, window.l_out, window.left, n_threads)
    return told
