"""What a `Sequential` runs: operations in order, and the buffers that they write to.

A container is lowered to operations on numbered values: value 0 is the input, and each operation
makes one more. Binding a program to a shape gives every value but the input and the result a place
in a buffer; a buffer is free again after the last operation that reads it, so that a chain of
layers needs two, and a chain of residual blocks three.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from . import functional, geometry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Shape = tuple[int, ...]

# Elements that an addition of several arrays takes at once, so that partial sums stay in L2.
_CHUNK = 1 << 15


class Convolve:
    """``target = layer(source)``."""

    in_place = False

    def __init__(self, name: str, layer: Any, source: int, target: int) -> None:
        self.name, self.layer = name, layer
        self.sources, self.target = (source,), target

    def shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        return output_shape(self.layer, shapes[0], dtype)

    def run(self, arrays: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        _convolve(self.layer, arrays[0], out)


class Activate:
    """``target = layer(source)`` for an element-wise layer."""

    in_place = True

    def __init__(self, name: str, layer: Any, source: int, target: int) -> None:
        self.name, self.layer = name, layer
        self.sources, self.target = (source,), target

    def shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        self.layer.check(shapes[0], dtype)
        return shapes[0]

    def run(self, arrays: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        self.layer.apply(arrays[0], out)


class Combine:
    """``target = sum of factor * source``, where only the last source has a factor of its own.

    Or, with `total`, the sum of all sources times that.
    """

    def __init__(
        self,
        name: str,
        layer: Any,
        sources: tuple[int, ...],
        target: int,
        last: float = 1.0,
        total: float = 1.0,
    ) -> None:
        self.name, self.layer = name, layer
        self.sources, self.target = sources, target
        self.last, self.total = last, total
        self.in_place = len(sources) <= 2  # the sum of two would overwrite a third source

    def shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        for other in shapes[1:]:
            if other != shapes[0]:
                raise ValueError(
                    f"what is added should have one size, got {list(shapes[0])} and {list(other)}"
                )
        return shapes[0]

    def run(self, arrays: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        flat = [array.reshape(-1) for array in arrays]
        target = out.reshape(-1)
        with np.errstate(all="ignore"):
            for begin in range(0, target.size, _CHUNK):
                part = slice(begin, begin + _CHUNK)
                self._combine([array[part] for array in flat], target[part])

    def _combine(self, parts: list[NDArray[Any]], out: NDArray[Any]) -> None:
        *first, last = parts
        if self.last != 1:
            last = last * last.dtype.type(self.last)
        total = first[0] if first else last
        for part in [*first[1:], last] if first else []:
            total = np.add(total, part, out=out)
        np.multiply(total, out.dtype.type(self.total), out=out)


Operation = Convolve | Activate | Combine


class Program:
    """Operations in order; the last one makes the result.

    Its key changes with the attributes of a layer, on which the shapes depend.
    """

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.operations = tuple(operations)
        self.result = self.operations[-1].target if self.operations else 0
        self._convolutions = [op.layer for op in self.operations if isinstance(op, Convolve)]

    def key(self, x: NDArray[Any]) -> tuple[Any, ...]:
        """Return what the buffers for an input depend on."""
        return x.shape, x.dtype, [layer._revision for layer in self._convolutions]

    def run(self, x: NDArray[Any], buffers: Buffers, out: NDArray[Any]) -> None:
        """Compute the result for `x` (N, C, L) into `out`, a C-contiguous array."""
        if not self.operations:
            np.copyto(out, x)
        values = list(buffers.values)
        values[0], values[self.result] = x, out
        for operation in self.operations:
            operation.run([values[v] for v in operation.sources], values[operation.target])


class Buffers:
    """The arrays between the operations of a program, for one shape and dtype of the input."""

    def __init__(self, program: Program, key: tuple[Any, ...]) -> None:
        self.key = key
        shape, dtype, _ = key
        self.shapes = infer_shapes(program.operations, shape, dtype)
        self.values: list[Any] = [None] * len(self.shapes)
        places, sizes = self._place(program)
        slabs = [functional._new((size,), dtype) for size in sizes]
        for value, place in places.items():
            size = math.prod(self.shapes[value])
            self.values[value] = slabs[place][:size].reshape(self.shapes[value])
        self.nbytes = sum(slab.nbytes for slab in slabs)

    def _place(self, program: Program) -> tuple[dict[int, int], list[int]]:
        """Give each value between operations a buffer, and each buffer its number of elements."""
        last_use = {v: i for i, op in enumerate(program.operations) for v in op.sources}
        places: dict[int, int] = {}
        sizes: list[int] = []
        free: list[int] = []
        for i, operation in enumerate(program.operations):
            done = [places[v] for v in set(operation.sources) if last_use[v] == i and v in places]
            if operation.in_place:
                free += done
            if operation.target != program.result:
                size = math.prod(self.shapes[operation.target])
                if not free:
                    free.append(len(sizes))
                    sizes.append(0)
                # the smallest that is large enough, or the one that has to grow least
                place = min(free, key=lambda p: (sizes[p] < size, abs(sizes[p] - size)))
                free.remove(place)
                sizes[place] = max(sizes[place], size)
                places[operation.target] = place
            if not operation.in_place:
                free += done
        return places, sizes


def infer_shapes(
    operations: Sequence[Operation], shape: Shape, dtype: np.dtype[Any]
) -> list[Shape]:
    """Return the shapes of all values, or raise an error that names the layer."""
    shapes = [shape]
    for operation in operations:
        try:
            shapes.append(operation.shape([shapes[v] for v in operation.sources], dtype))
        except (ValueError, TypeError, OverflowError) as error:
            where = f"layer {operation.name}, " if operation.name else ""
            where += f"{type(operation.layer).__name__}: "
            raise type(error)(where + str(error)) from None
    return shapes


def output_shape(layer: Any, shape: Shape, dtype: np.dtype[Any] | None = None) -> Shape:
    """Return the shape (N, C_out, L_out) of a convolution's output for an input (N, C_in, L_in).

    Raises
    ------
    ValueError, TypeError, OverflowError
        If the layer does not take such an input.

    Examples
    --------
    >>> from fastconv1d import ConvTranspose1d
    >>> from fastconv1d.program import output_shape
    >>> output_shape(ConvTranspose1d(4, 6, 3, stride=2), (1, 4, 10))
    (1, 6, 21)
    """
    if dtype is not None and dtype != layer.dtype:
        raise TypeError(f"Input type ({dtype}) and weight type ({layer.dtype}) should be the same")
    parameters = layer._parameters()
    shapes = shape, parameters["weight"].shape, layer.bias.shape if "bias" in parameters else None
    stride, dilation = layer.stride[0], layer.dilation[0]
    if layer.transposed:
        steps = (layer.output_padding[0], layer.groups, dilation, layer.padding_mode)
        plan = geometry.conv_transpose_geometry(*shapes, stride, layer.padding, *steps)
    else:
        last = (dilation, layer.groups, layer.padding_mode)
        plan = geometry.conv_geometry(*shapes, stride, layer.padding, *last)
    return shape[0], plan[0], plan[1]


def _convolve(layer: Any, x: NDArray[Any], out: NDArray[Any]) -> None:
    operands = x, layer._weight, layer._bias, layer.stride[0], layer.padding
    common = {
        "dilation": layer.dilation[0],
        "groups": layer.groups,
        "padding_mode": layer.padding_mode,
        "algorithm": layer.algorithm,
        "out": out,
    }
    if layer.transposed:
        functional.conv_transpose1d(*operands, layer.output_padding[0], **common)
    else:
        functional.conv1d(*operands, **common)
