"""What computes a layer, and how: `explain` tells it for inputs of a certain size."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from .config import get_num_threads, num_threads
from .core import advice, chosen
from .core.convolution import Convolution
from .core.engines import choose_engine
from .core.program import Convolve, fuse, infer_shapes, rank_of
from .core.spec2d import Spec2d
from .kernels.direct_engine import peak_gflops
from .sequential import Sequential, lowered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .modules import Conv1d, Conv2d, ConvTranspose1d

__all__ = ["choose_engine", "explain"]

# A measurement takes so long, and at least so many calls; the least of them counts.
_SECONDS, _CALLS = 0.1, 3


def explain(
    layer: Conv1d | Conv2d | ConvTranspose1d | Sequential,
    shape: Sequence[int],
    threads: int | None = None,
    *,
    measure: bool = False,
) -> dict[str, Any]:
    """Return how a layer or network computes inputs of a shape: who does it, in which pieces.

    Parameters
    ----------
    layer : Conv1d, Conv2d, ConvTranspose1d, Sequential or Residual
        In eval mode.
    shape : sequence of ints
        (N, C_in, L_in) of the input, (N, L_in, C_in) for a layer of layout 'NLC'; planes likewise;
        without N for one item.
    threads : int, optional
        As many as a call may use; by default `fastconv1d.get_num_threads`.
    measure : bool
        Whether to compute random inputs and time it.

    Returns
    -------
    dict
        ``engine`` is 'blas', 'direct', 'fft' or 'winograd'; ``flops`` of a call (two a
        multiply-add, as the direct engine needs them), ``bytes`` of input, weight, bias and output,
        which a call moves at least; ``advice``, a line, '' where there is none. With
        ``algorithm="fast"`` also ``expected``: the seconds of one core that its cost model gives
        each engine, of which the least is taken.

        Of the direct engine there is also ``isa``;
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
        scratch; ``threads``; ``scratch_bytes`` of each. Of the other kernels than 'run_unit' there
        are ``units``, ``threads`` and ``scratch_bytes``.

        With `measure`: ``seconds`` of a call, ``gflops``, ``gbytes`` (of ``bytes``) a second, and
        ``share_of_fma_loop``: of what multiply-adds in registers reach on as many threads.

        Of a network ``engine`` is 'network' and ``layers`` a list of such dicts, with ``name`` and
        ``layer``, of what is computed one after the other: activations and additions that a
        convolution does are not among them; the others have the ``engine`` 'elementwise'.

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
    >>> plan["engine"], plan["units"] >= 1, plan["flops"]
    ('direct', True, 49053696)
    >>> explain(Conv1d(1, 1, 2001), (1, 1, 100_000))["advice"][:40]
    "K = 2001: algorithm='fft' would take abo"
    """
    if layer.training:
        raise ValueError("explain needs a layer in eval mode, got one in train mode: call eval()")
    rank = layer._spec.rank if isinstance(layer, Convolution) else rank_of(lowered(layer))
    if len(shape) not in (1 + rank, 2 + rank):
        sizes = "H, W" if rank == 2 else "L"
        raise ValueError(
            f"explain needs a shape (N, C, {sizes}), or (C, {sizes}) for one item, "
            f"got {tuple(shape)}"
        )
    whole = tuple(shape) if len(shape) == 2 + rank else (1, *shape)
    n_threads = threads or get_num_threads()
    if hasattr(layer, "_spec"):
        told = _explain_layer(layer, whole, n_threads)
    else:
        told = _explain_network(layer, whole, n_threads, measure)
    if measure:
        told |= _measured(layer, whole, told, n_threads)
    return told


def _explain_layer(layer: Any, shape: tuple[int, ...], n_threads: int) -> dict[str, Any]:
    if isinstance(layer._spec, Spec2d):
        return _explain_planes(layer, shape, n_threads)
    n_batch, c_in, l_in = shape
    if layer.layout == "NLC":
        c_in, l_in = l_in, c_in
    weight, bias = layer._held
    window = layer._spec.geometry((n_batch, c_in, l_in), weight.shape, None)
    pack = layer._pack()
    engine = chosen.engine_of(pack.run, l_in)
    if engine != "direct":
        told: dict[str, Any] = {"engine": engine}
    elif pack.prepared is None:
        told = {"engine": "blas"}
    else:
        told = pack.prepared.plan(n_batch, l_in, window.l_out, window.left, n_threads)
    if pack.spec.algorithm == "fast":
        told["expected"] = {
            name: 1e-9 * n_batch * ns
            for name, ns in chosen.expected(pack.spec, weight, l_in).items()
        }
    columns = l_in if layer.transposed else window.l_out
    size = 0 if bias is None else bias.size
    elements = n_batch * (c_in * l_in + window.c_out * window.l_out) + weight.size + size
    told["flops"] = 2 * n_batch * columns * weight.size * (4 if layer.dtype.kind == "c" else 1)
    told["bytes"] = elements * layer.dtype.itemsize
    told["advice"] = advice.of_layer(layer, told, n_batch, l_in, window)
    return told


def _explain_planes(layer: Any, shape: tuple[int, ...], n_threads: int) -> dict[str, Any]:
    spec, (weight, bias) = layer._spec, layer._held
    n_batch, *rest = shape
    if spec.channels_last:
        rest = [rest[-1], *rest[:-1]]
    window = spec.geometry((n_batch, *rest), weight.shape, None)
    prepared = layer._pack().prepared
    told: dict[str, Any] = {"engine": "blas"}
    outputs = n_batch, *window[:3]
    if prepared is not None:
        starts = window.down.before, window.across.before
        told = prepared.plan_planes((n_batch, *rest), outputs, *starts, n_threads)
    positions = n_batch * window.rows_out * window.columns_out
    elements = n_batch * math.prod(rest) + math.prod(outputs) + weight.size
    elements += 0 if bias is None else bias.size
    told["flops"] = 2 * positions * weight.size * (4 if layer.dtype.kind == "c" else 1)
    told["bytes"] = elements * layer.dtype.itemsize
    told["advice"] = ""
    return told


def _explain_network(
    network: Any, shape: tuple[int, ...], n_threads: int, measure: bool
) -> dict[str, Any]:
    operations = lowered(network)
    dtype = _dtype(operations)
    shapes = infer_shapes(operations, shape, dtype)
    layers = []
    for operation in fuse(operations):
        told: dict[str, Any] = {"name": operation.name, "layer": repr(operation.layer)}
        if isinstance(operation, Convolve):
            given = shapes[operation.sources[0]]
            told |= _explain_layer(operation.layer, given, n_threads)
            if measure:
                told |= _measured(operation.layer, given, told, n_threads)
        else:
            told |= {"layer": type(operation.layer).__name__, "engine": "elementwise", "flops": 0}
            moved = [shapes[value] for value in (*operation.sources, operation.target)]
            told |= {"bytes": sum(map(math.prod, moved)) * dtype.itemsize, "advice": ""}
        layers.append(told)
    sums = {key: sum(told[key] for told in layers) for key in ("flops", "bytes")}
    return {"engine": "network", "layers": layers, **sums, "advice": advice.of_network(layers)}


def _dtype(operations: Sequence[Any]) -> np.dtype[Any]:
    dtypes = [each.layer.dtype for each in operations if isinstance(each, Convolve)]
    return dtypes[0] if dtypes else np.dtype(np.float32)


def _measured(
    layer: Any, shape: tuple[int, ...], told: dict[str, Any], n_threads: int
) -> dict[str, Any]:
    """Return what a call takes: the least of some, which other work on the CPU disturbs least."""
    dtype = layer.dtype if hasattr(layer, "_spec") else _dtype(lowered(layer))
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    times: list[float] = []
    with num_threads(n_threads):
        layer(x)
        end = time.perf_counter() + _SECONDS
        while len(times) < _CALLS or time.perf_counter() < end:
            start = time.perf_counter()
            layer(x)
            times.append(time.perf_counter() - start)
    seconds = min(times)
    real = np.dtype(np.float32 if dtype.char in "fF" else np.float64)
    rate = told["flops"] / seconds / 1e9
    return {
        "seconds": seconds,
        "gflops": rate,
        "gbytes": told["bytes"] / seconds / 1e9,
        "share_of_fma_loop": rate / (peak_gflops(real, 0.02) * n_threads),
    }
