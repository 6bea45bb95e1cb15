"""The adjoint of a convolution with any padding mode, and the gradients by input, weight and bias.

The forward of a transposed convolution is the adjoint of a convolution's, and so is the gradient by
a convolution's input; the gradient by a transposed convolution's input is a convolution again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..config import execution
from . import arrays
from .engines import ENGINES, engine_of_scatter
from .fast import engine_of_call
from .geometry import REFLECT, REPLICATE, ZEROS, Geometry, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import ModuleType

    from numpy.typing import ArrayLike, NDArray

# Padded positions whose gradient is computed at once: the margins need no array of their own size.
_MARGIN = 1024

Gradients = tuple[Any, Any, Any]


# ---- scatter -------------------------------------------------------------------------------------


def scatter(
    engine: ModuleType,
    x: NDArray[Any],
    w: NDArray[Any],
    bias: NDArray[Any] | None,
    y: NDArray[Any],
    geometry: Geometry,
) -> None:
    """Write the adjoint of a convolution to y, which has the place of its input."""
    if y.size == 0:
        return
    _scatter(engine, x, w, bias, y, geometry)
    if geometry.mode == ZEROS:
        return
    with np.errstate(over="ignore", invalid="ignore"):
        if geometry.mode == REPLICATE:
            for edge in edges(geometry, y.shape[2]):
                add_edge(edge, x, w, y, geometry)
        else:
            for margin in margins(geometry, y.shape[2]):
                width = margin.width
                folded = y[:, :, margin.target : margin.target + width]
                folded += margin_sums(margin, engine, x, w, geometry)


def _scatter(
    engine: ModuleType,
    x: NDArray[Any],
    w: NDArray[Any],
    bias: NDArray[Any] | None,
    y: NDArray[Any],
    geometry: Geometry,
    run: tuple[int, bool] | None = None,
) -> None:
    run = execution() if run is None else run
    if not engine.scatter(x, w, bias, y, geometry, run):
        ENGINES["blas"].scatter(x, w, bias, y, geometry, run)


class Margin(NamedTuple):
    """Positions beyond an end of y, ``begin`` to ``begin + width``, and what they stand for."""

    begin: int
    width: int
    target: int
    mirrored: bool


def margins(geometry: Geometry, length: int) -> Iterator[Margin]:
    """Yield what falls on reflected or wrapped positions of y, in the order of the additions."""
    for first, last in ((-geometry.left, 0), (length, length + geometry.right)):
        for begin in range(first, last, _MARGIN):
            width = min(_MARGIN, last - begin)
            if geometry.mode == REFLECT:
                pivot = 0 if begin < 0 else length - 1
                target = 2 * pivot - (begin + width - 1)
            else:
                target = begin + length if begin < 0 else begin - length
            yield Margin(begin, width, target, geometry.mode == REFLECT)


def margin_sums(
    margin: Margin,
    engine: ModuleType,
    x: NDArray[Any],
    w: NDArray[Any],
    geometry: Geometry,
    origin: int = 0,
    run: tuple[int, bool] | None = None,
) -> NDArray[Any]:
    """Return what is added to y from the margin's target on.

    x has what the margin reads, of which `origin` is the first.
    """
    channels = w.shape[1] * geometry.groups
    sums = arrays.new((x.shape[0], channels, margin.width), w.dtype)
    left = geometry.left + margin.begin - origin * geometry.stride
    _scatter(engine, x, w, None, sums, geometry._replace(left=left), run)
    return sums[:, :, ::-1] if margin.mirrored else sums


class Edge(NamedTuple):
    """All positions beyond one end of y, which stand for its first or its last element.

    Windows before the one of `crossing` have tap k before the `bound`, in padded positions; those
    that have it beyond the end are the first or, on the right, the last.
    """

    right: bool
    bound: int

    def crossing(self, geometry: Geometry, tap: int, n_windows: int) -> int:
        """Return the first window of which a tap lies at the bound or after it."""
        reached = -((tap * geometry.dilation - self.bound) // geometry.stride)
        return min(max(reached, 0), n_windows)

    def windows(self, geometry: Geometry, kernel_size: int, n_windows: int) -> tuple[int, int]:
        """Return which windows have a tap beyond the end."""
        if self.right:
            return self.crossing(geometry, kernel_size - 1, n_windows), n_windows
        return 0, self.crossing(geometry, 0, n_windows)


def edges(geometry: Geometry, length: int) -> Iterator[Edge]:
    """Yield the ends of y that repeated positions stand for, in the order of the additions."""
    if geometry.left:
        yield Edge(False, geometry.left)
    if geometry.right:
        yield Edge(True, geometry.left + length)


def add_edge(
    edge: Edge, x: NDArray[Any], w: NDArray[Any], y: NDArray[Any], geometry: Geometry
) -> None:
    """Add what falls on repeated positions to the first or the last of y.

    A tap needs only the sum of x over the windows in which it lies there. The padding may be far
    longer than y.
    """
    groups, channels, n_windows = geometry.groups, y.shape[1], x.shape[2]
    c_in, c_out_group, kernel_size = w.shape
    crossing = [edge.crossing(geometry, k, n_windows) for k in range(kernel_size)]
    outside = n_windows if edge.right else 0  # windows of a tap that is never beyond this end
    taps = [k for k in range(kernel_size) if crossing[k] != outside]
    if not taps:
        return
    crossing = [crossing[k] for k in taps]
    sums = _sums_from(x, crossing) if edge.right else _sums_before(x, crossing)
    by_output = w.reshape(groups, c_in // groups, c_out_group, kernel_size).swapaxes(1, 2)
    by_output = by_output.reshape(channels, c_in // groups, kernel_size)
    pointwise = Geometry(channels, 1, 1, 1, 0, 0, groups, ZEROS)
    total = arrays.new((y.shape[0], channels, 1), y.dtype)
    # Always deterministic, so that the bits of the direct engine do not depend on the batch.
    run = execution()[0], True
    ENGINES["blas"].correlate(sums, by_output[:, :, taps], None, total, pointwise, run)
    y[:, :, -1 if edge.right else 0] += total[:, :, 0]


def _sums_before(g: NDArray[Any], stops: Sequence[int]) -> NDArray[Any]:
    """Return ``g[:, :, :stops[k]].sum(axis=2)`` for each k; the stops do not increase."""
    sums = np.zeros((*g.shape[:2], len(stops)), np.result_type(g.dtype, np.float64))
    running = np.zeros(g.shape[:2], sums.dtype)
    done = 0
    for k in reversed(range(len(stops))):
        for begin in range(done, stops[k], _MARGIN):
            block = g[:, :, begin : min(begin + _MARGIN, stops[k])]
            running += block.astype(sums.dtype, order="C").sum(axis=2)
        done = max(done, stops[k])
        sums[:, :, k] = running
    return sums.astype(g.dtype)


def _sums_from(g: NDArray[Any], starts: Sequence[int]) -> NDArray[Any]:
    """Return ``g[:, :, starts[k]:].sum(axis=2)`` for each k; the starts do not increase."""
    length = g.shape[2]
    stops = [length - start for start in reversed(starts)]
    return _sums_before(g[:, :, ::-1], stops)[:, :, ::-1]


# ---- gradients -----------------------------------------------------------------------------------


def engine_of(
    algorithm: str,
    dtype: np.dtype[Any],
    w_shape: tuple[int, ...],
    geometry: Geometry,
    l_in: int = 1,
) -> ModuleType:
    """Return who computes the gradients of a layer; those by inputs as `input_gradient` does."""
    return engine_of_call(algorithm, w_shape, dtype, geometry, False, l_in, geometry.l_out)


def gradients(
    transposed: bool,
    g: NDArray[Any],
    x: NDArray[Any],
    w: NDArray[Any],
    geometry: Geometry,
    algorithm: str,
    mask: tuple[bool, bool, bool],
) -> Gradients:
    """Return the gradients by input, weight and bias that the mask asks for, None for the rest."""
    by_input, by_weight, by_bias = mask
    engine = engine_of(algorithm, g.dtype, w.shape, geometry, x.shape[2])
    grad_input = grad_weight = grad_bias = None
    if by_bias:
        grad_bias = arrays.new((geometry.c_out if transposed else w.shape[0],), g.dtype)
    if by_weight:
        grad_weight, grad_input = weight_gradient(
            engine,
            transposed,
            g,
            x,
            w.shape,
            geometry,
            None if transposed else grad_bias,
            w if by_input else None,
        )
    elif grad_bias is not None and not transposed:
        _bias_gradient(engine, g, x, w.shape, geometry, grad_bias)
    if grad_bias is not None and transposed:
        bias_gradient(algorithm, g, grad_bias)
    if by_input and grad_input is None:
        grad_input = input_gradient(engine, transposed, g, w, x.shape, geometry)
    return grad_input, grad_weight, grad_bias


def weight_gradient(
    engine: ModuleType,
    transposed: bool,
    g: NDArray[Any],
    x: NDArray[Any],
    w_shape: tuple[int, ...],
    geometry: Geometry,
    grad_bias: NDArray[Any] | None = None,
    w: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the gradient by the weight, and that by the input for `w` if one pass makes both.

    That by the bias of a convolution is written to `grad_bias` in the same pass.
    """
    grad_weight = arrays.new(w_shape, g.dtype)
    pair = (x, g) if transposed else (g, x)
    grad_input = engine.weight_gradient(
        *pair, grad_weight, geometry, execution(), grad_bias, False, w, transposed
    )
    return grad_weight, grad_input


def input_gradient(
    engine: ModuleType,
    transposed: bool,
    g: NDArray[Any],
    w: NDArray[Any],
    x_shape: tuple[int, ...],
    geometry: Geometry,
) -> NDArray[Any]:
    """Return the gradient by the input alone."""
    conjugate = w.conj() if w.dtype.kind == "c" else w
    grad_input = arrays.new(x_shape, g.dtype)
    if not transposed:
        engine = engine_of_scatter(engine, g.dtype.char, w.shape, geometry)
        scatter(engine, g, conjugate, None, grad_input, geometry)
    elif grad_input.size:
        engine.correlate(g, conjugate, None, grad_input, geometry, execution())
    return grad_input


def _bias_gradient(
    engine: ModuleType,
    g: NDArray[Any],
    x: NDArray[Any],
    w_shape: tuple[int, ...],
    geometry: Geometry,
    grad_bias: NDArray[Any],
) -> None:
    """Write the gradient by the bias alone, bit for bit as beside that by the weight."""
    shape_only = np.broadcast_to(grad_bias[:1, np.newaxis, np.newaxis], w_shape)
    engine.weight_gradient(g, x, shape_only, geometry, execution(), grad_bias, True)


def bias_gradient(algorithm: str, g: NDArray[Any], grad_bias: NDArray[Any]) -> None:
    """Write the gradient by the bias alone: that of a layer of one tap."""
    w_shape = (grad_bias.size, 1, 1)
    geometry = Geometry(grad_bias.size, g.shape[2], 1, 1, 0, 0, 1, ZEROS)
    algorithm = "auto" if grad_bias.size == 0 else algorithm
    engine = engine_of(algorithm, g.dtype, w_shape, geometry)
    _bias_gradient(engine, g, g[:, :1], w_shape, geometry, grad_bias)


def backward(
    transposed: bool,
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    geometry_of: Callable[..., Geometry],
    algorithm: str,
    output_mask: Sequence[bool],
) -> Gradients:
    """Check the operands of a call and return its gradients.

    `geometry_of` takes the shapes of input, weight and bias. Operands of 16 bits are computed in
    float32, each gradient rounded once.
    """
    if arrays.is_stored(input):
        return _backward_in_float32(
            transposed, grad_output, input, weight, geometry_of, algorithm, output_mask
        )
    mask = checked_mask(output_mask)
    g, x, w, geometry, batched = checked(transposed, grad_output, input, weight, geometry_of)
    grad_input, grad_weight, grad_bias = gradients(transposed, g, x, w, geometry, algorithm, mask)
    if grad_input is not None and not batched:
        grad_input = grad_input[0]
    return grad_input, grad_weight, grad_bias


def checked(
    transposed: bool,
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    geometry_of: Callable[..., Geometry],
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], Geometry, bool]:
    """Return the operands of a backward, batched, the geometry and whether they were batched."""
    name = "conv_transpose1d" if transposed else "conv1d"
    x, w, _, batched = arrays.operands(name, input, weight, None)
    geometry = geometry_of(x.shape, w.shape, None)
    shape = (x.shape[0], *geometry[:2])
    return arrays.gradient_operand(grad_output, x.dtype, shape, batched), x, w, geometry, batched


def _backward_in_float32(
    transposed: bool,
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    geometry_of: Callable[..., Geometry],
    algorithm: str,
    output_mask: Sequence[bool],
) -> Gradients:
    g, x, w = map(arrays.operand, (grad_output, input, weight))
    check_stored(g, x)
    stored = x.dtype
    g, x = g.astype(np.float32), x.astype(np.float32)
    wide = arrays.as_float32("weight", w)
    by_operand = backward(transposed, g, x, wide, geometry_of, algorithm, output_mask)
    with np.errstate(over="ignore"):
        by_input, by_weight, by_bias = (
            None if gradient is None else gradient.astype(dtype)
            for gradient, dtype in zip(by_operand, (stored, w.dtype, w.dtype), strict=True)
        )
    return by_input, by_weight, by_bias


def check_stored(g: NDArray[Any], x: NDArray[Any]) -> None:
    """Raise TypeError unless both operands have one dtype of 16 bits."""
    if g.dtype != x.dtype:
        raise arrays.other_dtype(x.dtype, "grad_output", g.dtype)
    if not arrays.half_of(x.dtype):
        raise TypeError(f"gradients of complex32 are not implemented, got dtype {x.dtype}")


def checked_mask(output_mask: Sequence[bool]) -> tuple[bool, bool, bool]:
    """Return which gradients to compute."""
    try:
        by_input, by_weight, by_bias = map(bool, output_mask)
    except TypeError:
        raise TypeError(f"output_mask should be three bools, got {shown(output_mask)}") from None
    except ValueError:
        raise ValueError(f"output_mask should be three bools, got {shown(output_mask)}") from None
    return by_input, by_weight, by_bias
