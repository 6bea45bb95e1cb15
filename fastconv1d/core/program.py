"""What a `Sequential` runs: operations in order, and the buffers that they write to.

A container is lowered to operations on numbered values: value 0 is the input, and each operation
makes one more. Binding a program to a shape gives every value but the input and the result a place
in a buffer; a buffer is free again after the last operation that reads it, so that a chain of
layers needs two, and a chain of residual blocks three.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import config
from . import arrays, sliding
from .activations import parse_steps
from .flow import PerPosition
from .planes import convolve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from .activations import Steps
    from .convolution import Pack
    from .flow import Flow
    from .spec import Around, Spec

Shape = tuple[int, ...]

# Elements that an addition of several arrays takes at once, so that partial sums stay in L2.
_CHUNK = 1 << 15


class Joined(NamedTuple):
    """A convolution with steps of its neighbours, over the pack of the layer."""

    pack: Pack
    neighbours: tuple[Any, ...]  # the activations beside it, and the factor of the residual
    spec: Spec
    run: Any


class Convolve:
    """``target = layer(source)``, with steps of its neighbours and a residual where `fuse` says."""

    in_place = False

    def __init__(self, name: str, layer: Any, source: int, target: int) -> None:
        self.name, self.layer = name, layer
        self.sources: tuple[int, ...] = (source,)
        self.target = target
        self.before: Any = None  # activation layers
        self.after: Any = None
        self.addition: Combine | None = None  # whose last source is the residual
        self.residual_position = "before"
        self._joined: Joined | None = None

    def shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        return output_shape(self.layer, shapes[0], dtype)

    def run(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        residual = given[1] if len(given) > 1 else None
        if len(self.sources) == 1 and self.before is None and self.after is None:
            self.layer(given[0], out=out)
            return
        joined = self._with_neighbours()
        y = None
        if joined.run is not None:
            y = joined.run(given[0], config.get_num_threads, residual, out)
        if y is None:
            convolve(joined.spec, given[0], *joined.pack.parameters, residual, out)

    def flow(self) -> Flow:
        joined = self._with_neighbours()
        return sliding.convolution(joined.pack, joined.spec, len(self.sources) > 1)

    def _with_neighbours(self) -> Joined:
        """Return the layer as it is now with the neighbours' steps: made again if one changed."""
        pack, joined = self.layer._pack(), self._joined
        factor = None if self.addition is None else self.addition.last
        neighbours = (_activation_of(self.before), _activation_of(self.after), factor)
        if (
            joined is None
            or joined.pack is not pack
            or not all(map(_alike, joined.neighbours, neighbours))
        ):
            spec = self._spec(pack.spec, *neighbours)
            run = None if pack.run is None else pack.run.with_steps(spec.steps)
            joined = self._joined = Joined(pack, neighbours, spec, run)
        return joined

    def _spec(self, spec: Spec, before: Any, after: Any, factor: float | None) -> Spec:
        around: Around = spec.around
        if factor is not None:
            around = around._replace(
                residual_scale=factor, residual_position=self.residual_position
            )
        if before is not None:
            around = around._replace(pre_activation=before)
        if after is not None:
            around = around._replace(activation=after)
        channels = self.layer.in_channels, self.layer.out_channels
        steps: Steps = parse_steps(*around, channels)
        return spec._replace(around=around, steps=steps)


def _activation_of(layer: Any) -> Any:
    return None if layer is None else layer.activation


def _alike(a: Any, b: Any) -> bool:
    """Whether two activations are the same: arrays are if they are one array."""
    if a is b:
        return True
    if type(a) is not type(b) or isinstance(a, np.ndarray):
        return False
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(_alike, a, b))
    return bool(a == b)


class Activate:
    """``target = layer(source)`` for an element-wise layer."""

    in_place = True

    def __init__(self, name: str, layer: Any, source: int, target: int) -> None:
        self.name, self.layer = name, layer
        self.sources, self.target = (source,), target

    def shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        self.layer.check(shapes[0], dtype)
        return shapes[0]

    def run(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        self.layer.apply(given[0], out)

    def flow(self) -> Flow:
        flow: Flow = self.layer._flow(self.run)
        return flow


class Combine:
    """``target = total * sum of sources``, the last of them times the layer's `residual_scale`."""

    def __init__(
        self, name: str, layer: Any, sources: tuple[int, ...], target: int, total: float = 1.0
    ) -> None:
        self.name, self.layer = name, layer
        self.sources, self.target, self.total = sources, target, total
        self.in_place = len(sources) <= 2  # the sum of two would overwrite a third source

    @property
    def last(self) -> float:
        """The factor of the last source."""
        scale: float = getattr(self.layer, "residual_scale", 1.0)
        return scale

    def shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        for other in shapes[1:]:
            if other != shapes[0]:
                raise ValueError(
                    f"what is added should have one size, got {list(shapes[0])} and {list(other)}"
                )
        return shapes[0]

    def run(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        flat = [array.reshape(-1) for array in given]
        target = out.reshape(-1)
        with np.errstate(all="ignore"):
            for begin in range(0, target.size, _CHUNK):
                part = slice(begin, begin + _CHUNK)
                self._combine([array[part] for array in flat], target[part])

    def _combine(self, parts: list[NDArray[Any]], out: NDArray[Any]) -> None:
        *first, last = parts
        scale = self.last
        if scale != 1:
            last = last * last.dtype.type(scale)
        total = first[0] if first else last
        for part in [*first[1:], last] if first else []:
            total = np.add(total, part, out=out)
        np.multiply(total, out.dtype.type(self.total), out=out)

    def flow(self) -> Flow:
        return PerPosition(self.run)


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
    maker.addition = operation
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


class Key(NamedTuple):
    """What buffers depend on."""

    shape: Shape
    dtype: np.dtype[Any]
    specs: list[Spec]

    def is_that_of(self, other: Key) -> bool:
        """Whether buffers of the one serve the other."""
        return (
            self.shape == other.shape
            and self.dtype == other.dtype
            and all(map(operator.is_, self.specs, other.specs))
        )


class Program:
    """Operations in order; the last one makes the result.

    `lowered` is what `operations` were before they were fused: one for each layer. Without anything
    to lower, where a layer has a forward of its own, a network is computed `by_layer`.
    """

    def __init__(self, lower: Callable[[], list[Operation]] | None, overrides: int = 0) -> None:
        self.by_layer, self.overrides = lower is None, overrides
        self.lowered = lower() if lower is not None else []
        self.operations = fuse(lower()) if lower is not None else []
        self.result = self.lowered[-1].target if self.lowered else 0
        self._convolutions = [op.layer for op in self.lowered if isinstance(op, Convolve)]

    def key(self, x: NDArray[Any]) -> Key:
        """Return what the buffers for an input depend on: attributes of the layers, too."""
        return Key(x.shape, x.dtype, [layer._spec for layer in self._convolutions])

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

    def __init__(self, program: Program, key: Key) -> None:
        self.key = key
        shape, dtype, _ = key
        self.shapes = infer_shapes(program.lowered, shape, dtype)
        self.values: list[Any] = [None] * len(self.shapes)
        places, sizes = self._place(program)
        slabs = [arrays.new((size,), dtype) for size in sizes]
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
            raise type(error)(f"{place_of(operation)}: {error}") from None
    return shapes


def place_of(operation: Operation) -> str:
    """Return which layer of a network an operation computes, for errors.

    Examples
    --------
    >>> from fastconv1d import ReLU
    >>> from fastconv1d.core.program import Activate, place_of
    >>> place_of(Activate("0.1", ReLU(), 0, 1))
    'layer 0.1, ReLU'
    """
    where = f"layer {operation.name}, " if operation.name else ""
    return where + type(operation.layer).__name__


def output_shape(layer: Any, shape: Shape, dtype: np.dtype[Any] | None = None) -> Shape:
    """Return the shape (N, C_out, L_out) of a convolution's output for an input (N, C_in, L_in).

    Of two dimensions, as Conv2d's, both have two sizes in the place of a length.

    Raises
    ------
    ValueError, TypeError, OverflowError
        If the layer does not take such an input.

    Examples
    --------
    >>> from fastconv1d import ConvTranspose1d
    >>> from fastconv1d.core.program import output_shape
    >>> output_shape(ConvTranspose1d(4, 6, 3, stride=2), (1, 4, 10))
    (1, 6, 21)
    """
    spec = layer._spec
    if spec.channels_last:
        first = "NCHW" if spec.rank == 2 else "NCL"
        raise ValueError(f"layout should be {first!r} inside of networks, got {spec.layout!r}")
    if len(shape) != 2 + spec.rank:
        raise ValueError(
            f"Expected {1 + spec.rank}D (unbatched) or {2 + spec.rank}D (batched) input to "
            f"{spec.name}, but got input of size: {list(shape)}"
        )
    half = dtype is not None and arrays.half_of(dtype) and layer.dtype == np.float32
    if dtype is not None and dtype != layer.dtype and not half:
        raise arrays.other_dtype(dtype, "weight", layer.dtype)
    weight, bias = layer._held
    geometry = spec.geometry(shape, weight.shape, None if bias is None else bias.shape)
    return (shape[0], *geometry[: 1 + spec.rank])
