"""What a `Sequential` runs: operations in order, and the buffers that they write to.

A container is lowered to operations on numbered values: value 0 is the input, and each operation
makes one more. Binding a program to a shape gives every value but the input and the result a place
in a buffer; a buffer is free again after the last operation that reads it, so that a chain of
layers needs two, and a chain of residual blocks three.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from . import functional, fused, geometry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

Shape = tuple[int, ...]

# Elements that an addition of several arrays takes at once, so that partial sums stay in L2.
_CHUNK = 1 << 15


class Convolve:
    """``target = layer(source)``, with steps of its neighbours and a residual where `fuse` says."""

    in_place = False

    def __init__(self, name: str, layer: Any, source: int, target: int) -> None:
        self.name, self.layer = name, layer
        self.sources: tuple[int, ...] = (source,)
        self.target = target
        self.before: Any = None  # activation layers
        self.after: Any = None
        self.residual_scale, self.residual_position = 1.0, "before"
        self._fused: tuple[Any, Any] = (None, None)

    def shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        return output_shape(self.layer, shapes[0], dtype)

    def run(self, arrays: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        layer = self._with_steps() if self.fused else self.layer
        layer(arrays[0], residual=arrays[1] if len(arrays) > 1 else None, out=out)

    @property
    def fused(self) -> bool:
        return len(self.sources) > 1 or self.before is not None or self.after is not None

    def _with_steps(self) -> Any:
        """Return a layer with the same parameters, and the neighbours' steps."""
        layer, steps = self.layer, (self.before, self.after)
        revisions = [step._revision for step in (layer, *steps) if step is not None]
        key = (id(layer._weight), id(layer._bias), revisions)  # `made` keeps the arrays alive
        known, made = self._fused
        if known != key:
            made = layer._sharing_parameters()
            if self.before is not None:
                made.pre_activation = self.before.activation
            if self.after is not None:
                made.activation = self.after.activation
            made.residual_scale = self.residual_scale
            made.residual_position = self.residual_position
            self._fused = (key, made)
        return made


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


def fuse(operations: Sequence[Operation]) -> list[Operation]:
    """Return the operations with element-wise ones made part of the convolutions beside them.

    An activation goes into the convolution that makes its input if nothing else reads that,
    otherwise into the convolutions that read its output; an addition into the convolution that
    makes its first term. The numbers of values stay. The operations are changed.
    """
    uses = Counter(value for operation in operations for value in operation.sources)
    makers = {operation.target: operation for operation in operations}
    kept: list[Operation] = []
    for operation in operations:
        maker = makers.get(operation.sources[0])
        if (
            isinstance(maker, Convolve)
            and uses[maker.target] == 1
            and _absorb(maker, operation, makers, kept)
        ):
            del makers[maker.target]
            maker.target = operation.target
            makers[maker.target] = maker
        else:
            kept.append(operation)
    for operation in [*kept]:
        readers = [reader for reader in kept if operation.target in reader.sources]
        if isinstance(operation, Activate) and readers and all(map(_takes_before, readers)):
            if all(operation.target not in reader.sources[1:] for reader in readers):
                for reader in readers:
                    reader.before = operation.layer  # type: ignore[union-attr]
                    reader.sources = (*operation.sources, *reader.sources[1:])
                kept.remove(operation)
    return kept


def _absorb(
    maker: Convolve, operation: Operation, makers: dict[int, Operation], done: list[Operation]
) -> bool:
    """Make `operation` the last step of `maker` if that has room for it."""
    has_residual = len(maker.sources) > 1
    if isinstance(operation, Activate):
        if maker.after is not None or _own(maker, "activation") or maker.layer.dtype.kind == "c":
            return False
        maker.after = operation.layer
        return True
    if not isinstance(operation, Combine) or has_residual or operation.total != 1:
        return False
    if len(operation.sources) != 2:
        return False
    other = makers.get(operation.sources[1])
    if other is not None and done.index(other) > done.index(maker):
        return False
    maker.sources += (operation.sources[1],)
    maker.residual_scale = operation.last
    after = maker.after is not None or _own(maker, "activation")
    maker.residual_position = "after" if after else "before"
    return True


def _takes_before(reader: Operation) -> bool:
    return (
        isinstance(reader, Convolve)
        and reader.before is None
        and not _own(reader, "pre_activation")
        and reader.layer.dtype.kind != "c"
    )


def _own(operation: Convolve, name: str) -> bool:
    return getattr(operation.layer, name) is not None


class Program:
    """Operations in order; the last one makes the result.

    `lowered` is what `operations` were before they were fused: one for each layer.
    """

    def __init__(self, lower: Callable[[], list[Operation]]) -> None:
        self.lowered = lower()
        self.operations = fuse(lower())
        self.result = self.lowered[-1].target if self.lowered else 0
        self._convolutions = [op.layer for op in self.lowered if isinstance(op, Convolve)]

    def key(self, x: NDArray[Any]) -> tuple[Any, ...]:
        """Return what the buffers for an input depend on: attributes of the layers, too."""
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
        self.shapes = infer_shapes(program.lowered, shape, dtype)
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
    if layer.layout != "NCL":
        raise ValueError(f"layout should be 'NCL' inside of networks, got {layer.layout!r}")
    half = dtype is not None and fused.half_of(dtype) and layer.dtype == np.float32
    if dtype is not None and dtype != layer.dtype and not half:
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
