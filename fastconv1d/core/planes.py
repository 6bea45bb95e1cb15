"""Convolutions of two dimensions, forward and backward, by the engines of one.

The direct engine has windows of several rows. What it does not take, and the gradient by the
weight, goes row by row of the output: item (n, h) is a convolution along the columns whose channels
are the rows (ci, i) that output row h reads. Such rows are copied a piece at a time. The gradient
by the input is a correlate of stride 1 for each phase of the strides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import execution
from ..kernels import direct_engine
from ..kernels.totals import add_to
from . import adjoint, arrays, forward
from .engines import ENGINES, checked_algorithm, choose_engine
from .geometry import CIRCULAR, REFLECT, ZEROS
from .geometry2d import Axis, Geometry2d
from .spec2d import Spec2d

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import ModuleType

    from numpy.typing import ArrayLike, NDArray

    from ..kernels.direct_engine import PreparedLayer
    from .activations import Steps
    from .spec import Spec

Gradients = tuple[Any, Any, Any]

# Elements of rows that are copied at once: 4 MiB of float32.
_PIECE = 1 << 20
# Phases of the strides in a gradient by the input, each a call; more go row by row.
_MOST_PHASES = 64


def engine_of(
    algorithm: str, dtype_char: str, w_shape: tuple[int, ...], geometry: Geometry2d
) -> ModuleType:
    """Return who computes a convolution, of the layer alone.

    Raises
    ------
    ValueError
        If the algorithm is unknown, or is 'direct' for a layer that this engine cannot compute.
    """
    c_out, c_in, _, columns = w_shape
    stride, dilation, left, right = geometry.across
    line = (c_out, c_in, columns)
    chosen = choose_engine(algorithm, dtype_char, line, stride, dilation, (left, right), False)
    if chosen is not direct_engine:
        return chosen
    rule = direct_engine.unsuited_planes(dtype_char, w_shape, *geometry.down[:2])
    if rule is None:
        return chosen
    if checked_algorithm(algorithm) == "direct":
        raise ValueError(
            f"algorithm='direct' cannot compute this layer: {rule}, "
            f"got a weight of size {list(w_shape)}, stride and dilation of rows {geometry.down[:2]}"
        )
    return ENGINES["blas"]


def prepare(weight: NDArray[Any], bias: NDArray[Any] | None, spec: Spec2d) -> PreparedLayer | None:
    """Return the layer packed for any number of calls, or None where no engine has such a form."""
    geometry = spec.window
    engine = engine_of(spec.algorithm, weight.dtype.char, weight.shape, geometry)
    if engine is not direct_engine:
        return None
    return direct_engine.PreparedLayer(
        weight,
        bias,
        geometry.line,
        False,
        spec.steps,
        same=spec.same,
        channels_last=spec.channels_last,
        down=geometry.down,
    )


# ---- forward -------------------------------------------------------------------------------------


def convolve(
    spec: Spec | Spec2d,
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    residual: ArrayLike | None = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Return a convolution of either rank with all that a spec may ask for."""
    if isinstance(spec, Spec2d):
        return convolve2d(spec, input, weight, bias, residual, out)
    return forward.convolve(spec, input, weight, bias, residual, out)


def convolve2d(
    spec: Spec2d,
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    residual: ArrayLike | None = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Return a convolution of two dimensions with all that a spec may ask for."""
    channels_last = spec.channels_last
    x, w, b, batched = _operands(input, weight, bias, channels_last)
    geometry = spec.geometry(x.shape, w.shape, None if b is None else b.shape)
    c_out, *size = geometry[:3]
    steps = spec.steps_for(x.shape[1], c_out)
    if w.dtype.kind == "c" and (steps.before or steps.after):
        raise TypeError(f"activations take real dtypes, got an input of dtype {x.dtype}")
    shape = (x.shape[0], *size, c_out) if channels_last else (x.shape[0], c_out, *size)
    more = arrays.residual_operand(residual, x.dtype, shape, batched)
    if out is None:
        y = arrays.new(shape, x.dtype)
    else:
        y = arrays.target(out, shape, batched, x, w, b, more)
    view = y
    if channels_last:
        view = np.moveaxis(y, -1, 1)
        more = None if more is None else np.moveaxis(more, -1, 1)
    engine = engine_of(spec.algorithm, w.dtype.char, w.shape, geometry)
    if y.size == 0:
        pass
    elif engine is direct_engine:
        engine.correlate_planes(
            x, w, b, view, geometry.line, geometry.down, execution(), steps, more
        )
    else:
        _by_rows_with_steps(engine, x, w, b, view, geometry, steps, more)
    return arrays.delivered(y, batched, out)


def _operands(
    input: ArrayLike, weight: ArrayLike, bias: ArrayLike | None, channels_last: bool
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None, bool]:
    x, w = arrays.operand(input), arrays.operand(weight)
    b = None if bias is None else arrays.operand(bias)
    if arrays.half_of(x.dtype):
        w = arrays.as_float32("weight", w)
        b = None if b is None else arrays.as_float32("bias", b)
    else:
        arrays.check_dtypes("conv2d", x, weight=w, bias=b)
    if channels_last and x.ndim in (3, 4):
        x = np.moveaxis(x, -1, -3)
    x, batched = arrays.batched("conv2d", x, rank=2)
    return x, w, b, batched


def _by_rows_with_steps(
    engine: ModuleType,
    x: NDArray[Any],
    w: NDArray[Any],
    b: NDArray[Any] | None,
    y: NDArray[Any],
    geometry: Geometry2d,
    steps: Steps,
    residual: NDArray[Any] | None,
) -> None:
    """Write the output to y of any strides, with the steps around the sums as passes apart."""
    if x.dtype != w.dtype or steps.before is not None:
        x = np.array(x, w.dtype, order="C")
    if steps.before is not None:
        direct_engine.finish(steps.before, arrays.as_rows(x), None, 1.0, False)
    z = arrays.new(y.shape, w.dtype)
    run = execution()
    weight = w.reshape(w.shape[0], -1, w.shape[3])
    for items, rows, columns in _row_pieces(x, w.shape[2], geometry, y.shape[2]):
        part = arrays.new((len(columns), w.shape[0], y.shape[3]), w.dtype)
        engine.correlate(columns, weight, b, part, geometry.line, run)
        n_items = items.stop - items.start
        z[items, :, rows] = part.reshape(n_items, -1, *part.shape[1:]).swapaxes(1, 2)
    if residual is not None:
        residual = np.ascontiguousarray(residual, w.dtype)
    if w.dtype.kind == "c":
        if residual is not None:
            with np.errstate(all="ignore"):
                z += residual * w.dtype.type(steps.residual_scale)
    elif steps.after is not None or residual is not None:
        more = None if residual is None else arrays.as_rows(residual)
        direct_engine.finish(
            steps.after, arrays.as_rows(z), more, steps.residual_scale, steps.residual_last
        )
    with np.errstate(over="ignore"):
        np.copyto(y, z, casting="same_kind")


def _row_pieces(
    x: NDArray[Any], kernel_rows: int, geometry: Geometry2d, rows_out: int
) -> Iterator[tuple[slice, slice, NDArray[Any]]]:
    """Yield slices of items and output rows with the input's rows that they read.

    Those are (items * output rows, C * kernel rows, W); padding of rows is as the mode says.
    """
    n_batch, channels, height, width = x.shape
    stride, dilation, top, _ = geometry.down
    first = np.arange(rows_out)[:, np.newaxis] * stride - top
    places = first + np.arange(kernel_rows) * dilation
    outside = (places < 0) | (places >= height)
    places = _resolved(places, height, geometry.mode)
    size = max(channels * kernel_rows * width, 1)
    rows = max(1, min(rows_out, _PIECE // size))
    items = max(1, _PIECE // (size * rows_out)) if rows == rows_out else 1
    for n in range(0, n_batch, items):
        some = x[n : n + items]
        for h in range(0, rows_out, rows):
            part = slice(h, min(h + rows, rows_out))
            columns = np.empty((len(some), part.stop - h, channels, kernel_rows, width), x.dtype)
            for i in range(kernel_rows):
                columns[:, :, :, i] = some[:, :, places[part, i]].swapaxes(1, 2)
                if geometry.mode == ZEROS:
                    columns[:, outside[part, i], :, i] = 0
            yield (
                slice(n, n + len(some)),
                part,
                columns.reshape(-1, channels * kernel_rows, width),
            )


def _resolved(places: NDArray[Any], size: int, mode: int) -> NDArray[Any]:
    """Return the positions inside that padded ones stand for; any for zeros."""
    if mode == REFLECT:
        places = np.where(places < 0, -places, places)
        places = np.where(places >= size, 2 * (size - 1) - places, places)
    elif mode == CIRCULAR:
        places = places % size
    return np.clip(places, 0, size - 1)


# ---- gradients -----------------------------------------------------------------------------------


def backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    geometry_of: Callable[..., Geometry2d],
    algorithm: str,
    output_mask: Sequence[bool],
) -> Gradients:
    """Check the operands of a call and return its gradients; 16 bits are computed in float32."""
    x, w, g = map(arrays.operand, (input, weight, grad_output))
    stored, weight_dtype = x.dtype, w.dtype
    if arrays.half_of(stored):
        adjoint.check_stored(g, x)
        x, g, w = x.astype(np.float32), g.astype(np.float32), arrays.as_float32("weight", w)
    by_input, by_weight, by_bias = adjoint.checked_mask(output_mask)
    arrays.check_dtypes("conv2d", x, weight=w)
    x, batched = arrays.batched("conv2d", x, rank=2)
    geometry = geometry_of(x.shape, w.shape, None)
    shape = (x.shape[0], *geometry[:3])
    g = arrays.gradient_operand(g, x.dtype, shape, batched)
    engine = engine_of(algorithm, x.dtype.char, w.shape, geometry)
    grad_input = input_gradient(engine, g, w, x.shape, geometry) if by_input else None
    grad_weight = weight_gradient(engine, g, x, w.shape, geometry) if by_weight else None
    grad_bias = arrays.new((w.shape[0],), g.dtype) if by_bias else None
    if grad_bias is not None:
        adjoint.bias_gradient(algorithm, arrays.as_rows(g), grad_bias)
    if grad_input is not None and not batched:
        grad_input = grad_input[0]
    with np.errstate(over="ignore"):
        made = (grad_input, stored), (grad_weight, weight_dtype), (grad_bias, weight_dtype)
        grad_input, grad_weight, grad_bias = (
            None if gradient is None else gradient.astype(dtype, copy=False)
            for gradient, dtype in made
        )
    return grad_input, grad_weight, grad_bias


def weight_gradient(
    engine: ModuleType,
    g: NDArray[Any],
    x: NDArray[Any],
    w_shape: tuple[int, ...],
    geometry: Geometry2d,
) -> NDArray[Any]:
    """Return the gradient by the weight."""
    grad_weight = np.zeros(w_shape, g.dtype)
    if g.size == 0 or x.size == 0 or grad_weight.size == 0:
        return grad_weight
    line_shape = (w_shape[0], w_shape[1] * w_shape[2], w_shape[3])
    totals: list[NDArray[Any]] = []
    pieces = _row_pieces(x, w_shape[2], geometry, g.shape[2])
    for number, (items, rows, columns) in enumerate(pieces):
        part = arrays.new(line_shape, g.dtype)
        lines = g[items, :, rows].swapaxes(1, 2).reshape(-1, g.shape[1], g.shape[3])
        engine.weight_gradient(lines, columns, part, geometry.line, execution())
        add_to(totals, part, number)
    with np.errstate(all="ignore"):
        for total in totals[1:]:
            totals[0] = totals[0] + total
    return totals[0].reshape(w_shape)


def input_gradient(
    engine: ModuleType,
    g: NDArray[Any],
    w: NDArray[Any],
    x_shape: tuple[int, ...],
    geometry: Geometry2d,
) -> NDArray[Any]:
    """Return the gradient by the input."""
    if geometry.mode != ZEROS:
        return _folded(engine, g, w, x_shape, geometry)
    grad_input = arrays.new(x_shape, g.dtype)
    if g.size == 0 or grad_input.size == 0:
        grad_input[...] = 0
        return grad_input
    phases = geometry.down.stride * geometry.across.stride
    if engine is direct_engine and phases <= _MOST_PHASES and np.isfinite(w).all():
        _by_phases(g, w, grad_input, geometry)
    else:
        _scatter_rows(g, w, grad_input, geometry)
    return grad_input


def _by_phases(
    g: NDArray[Any], w: NDArray[Any], grad_input: NDArray[Any], geometry: Geometry2d
) -> None:
    """Write the gradient by the input: positions of one residue of the strides have their taps."""
    c_out, c_in, rows, columns = w.shape
    groups = geometry.groups
    turned = w.reshape(groups, c_out // groups, c_in, rows, columns).swapaxes(1, 2)
    turned = turned.reshape(groups * c_in, c_out // groups, rows, columns)[:, :, ::-1, ::-1]
    run = execution()
    for taps_down, place_down, down in _phases(geometry.down, rows, grad_input.shape[2]):
        for taps, place, across in _phases(geometry.across, columns, grad_input.shape[3]):
            part = grad_input[:, :, place_down, place]
            kernel = turned[:, :, taps_down, taps]
            if kernel.size == 0:
                part[...] = 0
            elif part.size:
                one = Geometry2d(
                    len(turned), part.shape[2], part.shape[3], down, across, groups, ZEROS
                )
                direct_engine.correlate_planes(
                    g, np.ascontiguousarray(kernel), None, part, one.line, one.down, run
                )


def _phases(axis: Axis, taps: int, size: int) -> Iterator[tuple[slice, slice, Axis]]:
    """Yield for each residue of the stride taps of the turned kernel, positions, and a correlate.

    Padded position u = q*stride + r reads output q - (k*dilation - r) / stride for its taps k.
    """
    stride, dilation, before, _ = axis
    common = int(np.gcd(stride, dilation))
    step, spread = stride // common, dilation // common
    for r in range(stride):
        chosen = [k for k in range(min(step, taps)) if k * dilation % stride == r]
        q = -((r - before) // stride)  # the first whose position is inside
        first = q * stride + r - before
        place = slice(first, size, stride)
        if not chosen:
            yield slice(0, 0), place, Axis(1, 1, 0, 0)
            continue
        k = chosen[0]
        count = (taps - 1 - k) // step + 1
        last = k + (count - 1) * step
        behind = (k * dilation - r) // stride + (count - 1) * spread - q
        yield slice(taps - 1 - last, taps - k, step), place, Axis(1, spread, behind, 0)


def _scatter_rows(
    g: NDArray[Any], w: NDArray[Any], grad_input: NDArray[Any], geometry: Geometry2d
) -> None:
    """Write the gradient by the input: scatters along columns, summed over the kernel's rows."""
    grad_input[...] = 0
    stride, dilation, top, _ = geometry.down
    n_batch, channels, height, width = grad_input.shape
    blas, run = ENGINES["blas"], execution()
    conjugate = w.conj() if w.dtype.kind == "c" else w
    for i in range(w.shape[2]):
        low = max(0, -((i * dilation - top) // stride))
        high = min(g.shape[2], (height - 1 + top - i * dilation) // stride + 1)
        for n in range(n_batch) if high > low else ():
            lines = np.ascontiguousarray(g[n, :, low:high].swapaxes(0, 1))
            part = arrays.new((high - low, channels, width), g.dtype)
            kernel = np.ascontiguousarray(conjugate[:, :, i])
            blas.scatter(lines, kernel, None, part, geometry.line, run)
            begin = low * stride + i * dilation - top
            with np.errstate(all="ignore"):
                grad_input[n, :, begin : begin + (high - low - 1) * stride + 1 : stride] += (
                    part.swapaxes(0, 1)
                )


def _folded(
    engine: ModuleType,
    g: NDArray[Any],
    w: NDArray[Any],
    x_shape: tuple[int, ...],
    geometry: Geometry2d,
) -> NDArray[Any]:
    """Return the gradient by the input for a mode: padded positions add to those they stand for."""
    down, across = geometry.down, geometry.across
    size = [x_shape[2 + i] + axis.before + axis.after for i, axis in enumerate((down, across))]
    inner = geometry._replace(
        down=down._replace(before=0, after=0),
        across=across._replace(before=0, after=0),
        mode=ZEROS,
    )
    whole = input_gradient(engine, g, w, (*x_shape[:2], *size), inner)
    for axis, (before, length) in enumerate(
        ((down.before, x_shape[2]), (across.before, x_shape[3]))
    ):
        lines = np.moveaxis(whole, 2 + axis, 0)
        middle = lines[before : before + length]
        places = _resolved(np.arange(len(lines)) - before, length, geometry.mode)
        for position in range(len(lines)):
            if not before <= position < before + length:
                with np.errstate(all="ignore"):
                    middle[places[position]] += lines[position]
        whole = np.moveaxis(middle, 0, 2 + axis)
    return np.ascontiguousarray(whole)


# ---- unfold and fold -----------------------------------------------------------------------------


def unfold(
    x: NDArray[Any], columns: NDArray[Any], kernel: tuple[int, int], geometry: Geometry2d
) -> None:
    """Write windows to columns (N, C, KH, KW, H_out, W_out)."""
    columns[...] = 0
    for i, down in _taps_inside(geometry.down, kernel[0], x.shape[2], geometry.rows_out):
        for k, across in _taps_inside(geometry.across, kernel[1], x.shape[3], geometry.columns_out):
            columns[:, :, i, k, down[0], across[0]] = x[:, :, down[1], across[1]]


def fold(
    columns: NDArray[Any], y: NDArray[Any], kernel: tuple[int, int], geometry: Geometry2d
) -> None:
    """Add windows back: the adjoint of `unfold`."""
    y[...] = 0
    with np.errstate(all="ignore"):
        for i, down in _taps_inside(geometry.down, kernel[0], y.shape[2], geometry.rows_out):
            for k, across in _taps_inside(
                geometry.across, kernel[1], y.shape[3], geometry.columns_out
            ):
                y[:, :, down[1], across[1]] += columns[:, :, i, k, down[0], across[0]]


def _taps_inside(
    axis: Axis, taps: int, size: int, outputs: int
) -> Iterator[tuple[int, tuple[slice, slice]]]:
    """Yield each tap with the outputs that it reads an input for, and those inputs."""
    stride, dilation, before, _ = axis
    for k in range(taps):
        shift = k * dilation - before
        low = max(0, -(shift // stride))
        high = min(outputs, (size - 1 - shift) // stride + 1)
        if high > low:
            begin = low * stride + shift
            yield (
                k,
                (
                    slice(low, high),
                    slice(begin, begin + (high - low - 1) * stride + 1, stride),
                ),
            )
