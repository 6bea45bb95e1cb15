"""Computations between convolutions, which layers and ONNX graphs share.

Arrays are of float32 or float64. Rows are computed by compiled code, the same way whatever lies
beside them: bits depend on neither the batch nor the number of threads.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import config
from ..kernels import network as kernels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Taps, step, dilation and pads before of the windows along an axis.
Window = tuple[int, int, int, int]


# ---- rows ----------------------------------------------------------------------------------------


def softmax(
    x: NDArray[Any], axis: int, *, logarithm: bool = False, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Return exp(x) as parts of its sum along an axis, or the logarithms of these.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d.core.network import softmax
    >>> softmax(np.zeros((2, 4)), 1)
    array([[0.25, 0.25, 0.25, 0.25],
           [0.25, 0.25, 0.25, 0.25]])
    """
    y = np.empty(x.shape, x.dtype) if out is None else out
    if not x.size:
        return y
    if axis in (-1, x.ndim - 1):
        kernels.softmax(np.ascontiguousarray(x), y, logarithm, config.get_num_threads())
        return y
    if logarithm:
        rows = np.ascontiguousarray(np.moveaxis(x, axis, -1))
        parts = np.empty_like(rows)
        kernels.softmax(rows, parts, logarithm, config.get_num_threads())
        np.copyto(np.moveaxis(y, axis, -1), parts)
        return y
    planes = (math.prod(x.shape[:axis]), x.shape[axis], -1)
    source = np.ascontiguousarray(x).reshape(planes)
    kernels.softmax_columns(source, y.reshape(planes), config.get_num_threads())
    return y


def standardized(
    x: NDArray[Any],
    n: int,
    scale: NDArray[Any] | None,
    shift: NDArray[Any] | None,
    epsilon: float,
    span: int = 0,
    centered: bool = True,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Return each n elements less their mean, over their deviation, scaled and shifted.

    Scale and shift have n elements, or one for each `span` elements, in turn.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d.core.network import standardized
    >>> standardized(np.array([[1.0, 3.0], [2.0, 8.0]]), 2, None, None, 0.0)
    array([[-1.,  1.],
           [-1.,  1.]])
    """
    y = np.empty(x.shape, x.dtype) if out is None else out
    if x.size:
        factors = [
            None if v is None else np.ascontiguousarray(v, x.dtype).reshape(-1)
            for v in (scale, shift)
        ]
        threads = config.get_num_threads()
        kernels.standardize(
            np.ascontiguousarray(x), y, n, *factors, span, epsilon, centered, threads
        )
    return y


def standardized_channels(
    x: NDArray[Any],
    scale: NDArray[Any] | None,
    shift: NDArray[Any] | None,
    epsilon: float,
    out: NDArray[Any],
) -> None:
    """Write ``(x - mean)/sqrt(variance + epsilon)*scale + shift`` over the channels of (N, C, L).

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d.core.network import standardized_channels
    >>> y = np.empty((1, 2, 2))
    >>> standardized_channels(np.array([[[1.0, 8.0], [3.0, 0.0]]]), None, None, 0.0, y)
    >>> y
    array([[[-1.,  1.],
            [ 1., -1.]]])
    """
    if x.size:
        planes = np.ascontiguousarray(x).reshape(-1, *x.shape[-2:])
        threads = config.get_num_threads()
        kernels.standardize_channels(planes, out, scale, shift, epsilon, threads)


def affine(x: NDArray[Any], scale: NDArray[Any], shift: NDArray[Any], out: NDArray[Any]) -> None:
    """Write ``x*scale + shift`` of (N, C, L) or (N, C), with numbers for each channel."""
    if x.size:
        kernels.affine(np.ascontiguousarray(x), out, scale, shift, config.get_num_threads())


def gate(a: NDArray[Any], b: NDArray[Any], out: NDArray[Any], *, squashed: bool) -> None:
    """Write ``tanh(a)*sigmoid(b)``, or ``a*sigmoid(b)`` where `squashed` is False.

    All have one shape; a and b may be halves of one array, along any axis.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d.core.network import gate
    >>> y = np.empty((1, 2))
    >>> gate(np.array([[2.0, 4.0]]), np.zeros((1, 2)), y, squashed=False)
    >>> y
    array([[1., 2.]])
    """
    if not out.size:
        return
    rows = [_as_rows(each) for each in (a, b)]
    if rows[0].strides != rows[1].strides:
        rows = [np.ascontiguousarray(each).reshape(1, -1) for each in (a, b)]
    kernels.gate(*rows, out.reshape(rows[0].shape), squashed, config.get_num_threads())


def _as_rows(x: NDArray[Any]) -> NDArray[Any]:
    """Return the array as rows that are contiguous, without a copy where it has any."""
    inner = next(i for i in range(x.ndim + 1) if x[(0,) * i].flags.c_contiguous)
    if inner == x.ndim:
        return np.ascontiguousarray(x).reshape(1, -1)
    return x.reshape(-1, math.prod(x.shape[inner:]))


# ---- pooling -------------------------------------------------------------------------------------


def pooled(
    x: NDArray[Any],
    windows: Sequence[Window],
    out: NDArray[Any],
    *,
    largest: bool,
    divisors: NDArray[Any] | None = None,
    threads: int | None = None,
) -> None:
    """Write the largest or the sum of the windows over the last one or two axes.

    Sums are divided by `divisors`, one for each place along the last axis. `threads` are by default
    as many as are configured.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d.core.network import pooled
    >>> y = np.empty((1, 2))
    >>> pooled(np.array([[1.0, 5.0, 2.0, 4.0]]), [(2, 2, 1, 0)], y, largest=True)
    >>> y
    array([[5., 4.]])
    """
    if not x.size or not out.size:
        out[...] = -np.inf if largest else 0
        return
    alone = [(1, 1, 1, 0)] if len(windows) == 1 else []
    sizes = [1] * len(alone) + list(x.shape[x.ndim - len(windows) :])
    planes = np.ascontiguousarray(x).reshape(-1, *sizes)
    target = out.reshape(len(planes), -1, out.shape[-1])
    n_threads = config.get_num_threads() if threads is None else threads
    kernels.pool(planes, target, *alone, *windows, largest, divisors, n_threads)


def reduced_parts(
    x: NDArray[Any],
    begin: NDArray[Any],
    end: NDArray[Any],
    out: NDArray[Any],
    *,
    largest: bool,
) -> None:
    """Write the largest or the mean of the parts of the last axis, none of which is empty.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d.core.network import reduced_parts
    >>> y = np.empty((1, 2))
    >>> parts = np.array([0, 1]), np.array([2, 3])
    >>> reduced_parts(np.array([[1.0, 5.0, 2.0]]), *parts, y, largest=False)
    >>> y
    array([[3. , 3.5]])
    """
    if out.size:
        rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
        places = (np.ascontiguousarray(each, np.intp) for each in (begin, end))
        target = out.reshape(len(rows), -1)
        kernels.reduce_parts(rows, target, *places, largest, config.get_num_threads())


# ---- recurrent layers ----------------------------------------------------------------------------


def in_panels(matrix: NDArray[Any]) -> NDArray[Any]:
    """Return a matrix (rows, k) as panels of its transpose, which the kernels multiply by.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d.core.network import in_panels
    >>> in_panels(np.ones((3, 2), np.float32)).shape
    (1, 2, 64)
    """
    rows, k = matrix.shape
    columns = kernels.panel_bytes() // matrix.itemsize
    panels = -(-rows // columns)
    wide = np.zeros((k, panels * columns), matrix.dtype)
    wide[:, :rows] = matrix.T
    return np.ascontiguousarray(wide.reshape(k, panels, columns).swapaxes(0, 1))


def lstm_states(
    gates: NDArray[Any], back: NDArray[Any], state: NDArray[Any], cell: NDArray[Any]
) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    """Return all states of an LSTM without extras, and the last state and cell.

    The gates (T, N, 4H) from the inputs lie in the order input, output, forget, new, and are
    written to; `back` is (4H, H), multiplied by BLAS, or in panels.
    """
    y = np.empty((*gates.shape[:2], state.shape[1]), gates.dtype)
    start, cell = np.ascontiguousarray(state), np.array(cell, order="C")
    kernels.lstm(gates, np.ascontiguousarray(back), start, cell, y, config.get_num_threads())
    return y, [y[-1] if len(y) else start, cell]


def gru_states(
    gates: NDArray[Any], back: NDArray[Any], late: NDArray[Any], state: NDArray[Any]
) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    """Return all states of a GRU with the reset after the product, and the last one.

    The gates (T, N, 3H) lie in the order update, reset, new; `back` as for `lstm_states`; `late`
    is the bias (H,) that the reset multiplies, too.
    """
    n_steps, batch, rows = gates.shape
    bias = np.zeros((batch, rows), gates.dtype)
    bias[:, rows - len(late) :] = late
    y = np.empty((n_steps, batch, len(late)), gates.dtype)
    start = np.ascontiguousarray(state)
    pushes, threads = np.empty_like(bias), config.get_num_threads()
    kernels.gru(gates, np.ascontiguousarray(back), bias, start, pushes, y, threads)
    return y, [y[-1] if n_steps else start]


# ---- resampling ----------------------------------------------------------------------------------


def weighed(
    x: NDArray[Any],
    axis: int,
    where: NDArray[Any],
    weights: NDArray[Any],
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Return the sums of a few neighbours of each place along an axis, times their weights.

    `where` and `weights` have a row for each neighbour; a single one has weight 1.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d.core.network import weighed
    >>> weighed(np.array([1.0, 3.0]), 0, np.array([[0], [1]]), np.array([[0.5], [0.5]]))
    array([2.])
    """
    shape = (*x.shape[:axis], where.shape[1], *x.shape[axis + 1 :])
    y = np.empty(shape, x.dtype) if out is None else out
    if axis == x.ndim - 1 and len(where) <= 2 and x.size and y.size:
        rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
        target, threads = y.reshape(len(rows), -1), config.get_num_threads()
        places = np.ascontiguousarray(where, np.intp)
        kernels.resample(rows, target, places, np.ascontiguousarray(weights, x.dtype), threads)
        return y
    ones = (1,) * (x.ndim - axis - 1)
    y[...] = 0
    for index, weight in zip(where, weights.astype(x.dtype), strict=True):
        y += x.take(index, axis) * weight.reshape(-1, *ones)
    return y
