"""What a network costs: multiply-adds, parameters and the sizes of what lies between its layers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .core import geometry
from .core.program import Convolve, Dense, infer_shapes, rank_of
from .linear import Linear
from .recurrent import Recurrent
from .sequential import Container, lowered

if TYPE_CHECKING:
    from collections.abc import Sequence

Shape = tuple[int, ...]


class Row(NamedTuple):
    """A line of a summary; `nbytes` are those of the output, of `elements` numbers."""

    name: str
    layer: str
    output_shape: Shape
    parameters: int
    flops: int
    elements: int
    nbytes: int


class Summary(NamedTuple):
    """The rows of a network, their totals, and rows to compare with; `str` makes a table."""

    rows: list[Row]
    total: Row
    compared: list[Row]

    def __str__(self) -> str:
        table = [["", "layer", "output", "parameters", "flops", "elements", "bytes"]]
        for row in [*self.rows, self.total, *self.compared]:
            numbers = (row.parameters, row.flops, row.elements, row.nbytes)
            table.append([row.name, row.layer, str(row.output_shape), *map("{:,}".format, numbers)])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = []
        for cells in table:
            text = [cell.ljust(width) for cell, width in zip(cells[:3], widths[:3], strict=True)]
            text += [cell.rjust(width) for cell, width in zip(cells[3:], widths[3:], strict=True)]
            lines.append("  ".join(text).rstrip())
        return "\n".join(lines)


def flops(module: Any, input_shape: Sequence[int]) -> int:
    """Count the floating-point operations of a layer or network: two a multiply-add.

    ``2 * N * L_out * (C_in / groups) * K * C_out`` for `Conv1d`,
    ``2 * N * L_in * C_in * (C_out / groups) * K`` for `ConvTranspose1d`, where each input meets
    each tap once, ``2 * N * H_out * W_out * (C_in / groups) * KH * KW * C_out`` for `Conv2d`,
    ``2 * N * in_features * out_features`` for `Linear`, and for `LSTM` and `GRU` the size of their
    matrices at each step. Multiplications by padding are counted; biases, activations, pooling,
    norms and the additions of networks are not.

    Parameters
    ----------
    module : Conv1d, Conv2d, ConvTranspose1d, any other layer, or a network
    input_shape : sequence of int
        What the module takes: (N, C_in, L_in) or (C_in, L_in), of planes (N, C_in, H_in, W_in) or
        (C_in, H_in, W_in), for Linear (..., in_features).

    Returns
    -------
    int
        Of any size.

    Raises
    ------
    ValueError, OverflowError
        If the module does not take such an input.
    TypeError
        If `module` is none of these or a size is not an integer.

    Examples
    --------
    >>> from fastconv1d import Conv1d, ConvTranspose1d, flops
    >>> flops(Conv1d(16, 33, 3, stride=2), (20, 16, 50))  # 2 * 20 * 24 * 16 * 3 * 33
    1520640
    >>> flops(ConvTranspose1d(33, 16, 3, stride=2), (20, 33, 24))
    1520640
    """
    return summary(module, input_shape).total.flops


def summary(module: Any, input_shape: Sequence[int], *, compare: Sequence[Linear] = ()) -> Summary:
    """Count what a network costs, layer by layer, beside fully connected layers.

    Parameters
    ----------
    module : Sequential, or anything that `flops` takes
    input_shape : sequence of int
        What the module takes, for example (N, C_in, L_in) or (C_in, L_in).
    compare : sequence of Linear
        Layers to compare with, each applied to the whole input of an item,
        ``in_features = C_in * L_in``. They are no part of the total.

    Returns
    -------
    Summary
        Named tuple of `rows`, `total` and `compared`; a `Row` has name, layer, output_shape,
        parameters, flops, elements and nbytes. `elements` are those of the output, in total the
        sum over all layers, which is what training keeps; evaluation needs less. What `Residual`,
        `Mean` and others add or join are rows, too. A layer that occurs twice is counted twice.

    Raises
    ------
    ValueError, TypeError, OverflowError
        As `flops`.

    Examples
    --------
    Is a Linear from 10*E numbers to E cheaper than two convolutions over the 10 positions? It has
    more parameters, but fewer operations:

    >>> from fastconv1d import Conv1d, Linear, Sequential, summary
    >>> E = 8
    >>> net = Sequential(Conv1d(E, E, 3), Conv1d(E, E, 3))
    >>> print(summary(net, (E, 10), compare=[Linear(10 * E, E)]))
             layer                                        output  parameters  flops  elements  bytes
    0        Conv1d(8, 8, kernel_size=(3,), stride=(1,))  (8, 8)         200  3,072        64    256
    1        Conv1d(8, 8, kernel_size=(3,), stride=(1,))  (8, 6)         200  2,304        48    192
    total                                                 (8, 6)         400  5,376       112    448
    compare  Linear(80, 8)                                (8,)           648  1,280         8     32
    """
    shape = _checked_shape(input_shape)
    rows = _rows(module, shape)
    total = Row(
        "total",
        "",
        rows[-1].output_shape if rows else shape,
        sum(row.parameters for row in rows),
        sum(row.flops for row in rows),
        sum(row.elements for row in rows),
        sum(row.nbytes for row in rows),
    )
    axes = 1 + rank_of(lowered(module))
    flat = (*shape[:-axes], math.prod(shape[-axes:]))
    return Summary(rows, total, [_compared(linear, flat) for linear in compare])


def _rows(module: Any, shape: Shape) -> list[Row]:
    operations = lowered(module)
    dtypes = [getattr(op.layer, "dtype", None) for op in operations]
    dtype = next((d for d in dtypes if d is not None), np.dtype(np.float32))
    shapes = infer_shapes(operations, shape, dtype)
    return [
        _row(op, [shapes[source] for source in op.sources], shapes[op.target], dtype)
        for op in operations
    ]


def _row(operation: Any, sources: Sequence[Shape], output: Shape, dtype: np.dtype[Any]) -> Row:
    layer = operation.layer
    own: dict[str, Any] = {}
    text = type(layer).__name__
    if not isinstance(layer, Container):  # what is added or joined at the end of a container
        own, text = layer._parameters(), repr(layer)
    elements = math.prod(output)
    parameters = sum(array.size for name, array in own.items() if name not in layer._buffers)
    count = _operations(operation, sources[0], output)
    nbytes = elements * dtype.itemsize
    return Row(operation.name, text, output, parameters, count, elements, nbytes)


def _operations(operation: Any, source: Shape, output: Shape) -> int:
    """Return the floating-point operations of the products of an operation."""
    layer = operation.layer
    if isinstance(operation, Dense):
        return 2 * math.prod(output) * int(layer.in_features)
    if isinstance(operation, Convolve):
        positions = source if layer.transposed else output
        return 2 * math.prod(positions) * math.prod(layer.weight.shape[1:])
    if isinstance(layer, Recurrent):
        matrices = [a for name, a in layer._parameters().items() if name.startswith("weight")]
        return 2 * math.prod(source[:-1]) * sum(matrix.size for matrix in matrices)
    return 0


def _compared(linear: Any, shape: Shape) -> Row:
    if not isinstance(linear, Linear):
        raise TypeError(f"compare should be a sequence of Linear, got {geometry.shown(linear)}")
    (row,) = _rows(linear, shape)
    end = "" if linear.bias is not None else ", bias=False"
    text = f"Linear({linear.in_features}, {linear.out_features}{end})"
    return row._replace(name="compare", layer=text)


def _checked_shape(input_shape: Sequence[int]) -> Shape:
    try:
        shape = tuple(geometry.as_index("input_shape", size) for size in input_shape)
    except TypeError:
        raise TypeError(
            f"input_shape should be a sequence of integers, got {geometry.shown(input_shape)}"
        ) from None
    if any(size < 0 for size in shape):
        raise ValueError(f"input_shape should have no negative size, got {list(shape)}")
    return shape
