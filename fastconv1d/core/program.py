"""What a `Sequential` runs: operations in order, and the buffers that they write to.

A container is lowered to operations on numbered values: value 0 is the input, and each operation
makes one more. Binding a program to a shape gives every value but the input and the result a place
in a buffer; a buffer is free again after the last operation that reads it, so that a chain of
layers needs two, and a chain of residual blocks three.
"""

from __future__ import annotations

import contextlib
import math
import operator
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..folding import scaled_inputs, scaled_outputs
from . import arrays, sliding
from .activations import parse_steps
from .convolution import Pack, Parameters
from .dense import run_rows
from .flow import PerPosition
from .network import standardized_channels
from .reach import Reach

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from .activations import Steps
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

    @property
    def parameters(self) -> Parameters:
        return self.pack.parameters


def _folded(pack: Pack, before: Any, after: Any) -> Parameters:
    """Return weight and bias of a convolution between two norms, either of which may be None."""
    weight, bias = pack.parameters
    dtype = weight.dtype
    shift = np.zeros(1) if bias is None else bias.astype(np.float64)
    if before is not None:
        weight, more = scaled_inputs(weight, *before._scale_and_shift())
        shift = shift + more
    if after is not None:
        scale, offset = after._scale_and_shift()
        weight = scaled_outputs(weight, scale, pack.spec.transposed)
        shift = shift * scale + offset
    return Parameters(weight.astype(dtype), shift.astype(dtype))


class Convolve:
    """``target = layer(source)``, with steps of its neighbours and a residual where `fuse` says."""

    in_place = False

    def __init__(self, name: str, layer: Any, source: int, target: int) -> None:
        self.name, self.layer = name, layer
        self.sources: tuple[int, ...] = (source,)
        self.target = target
        self.before: Any = None  # activation layers
        self.after: Any = None
        self.norm_before: Any = None  # norms whose scale and shift go into the weight
        self.norm_after: Any = None
        self.alone = True
        self.addition: Combine | None = None  # whose last source is the residual
        self.residual_position = "before"
        self._joined: Joined | None = None
        self._folded: tuple[Any, ...] | None = None  # what it was made of, and the pack

    @property
    def rank(self) -> int:
        """How many axes an input has beside items and channels."""
        rank: int = self.layer._spec.rank
        return rank

    def shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        source, rank = shapes[0], self.rank
        if len(source) not in (1 + rank, 2 + rank):
            raise ValueError(
                f"Expected {1 + rank}D (unbatched) or {2 + rank}D (batched) input to "
                f"{type(self.layer).__name__}, but got input of size: {list(source)}"
            )
        if len(source) == 2 + rank:
            return output_shape(self.layer, source, dtype)
        return output_shape(self.layer, (1, *source), dtype)[1:]

    def reach(self, l_in: int | None) -> Reach:
        spec: Spec = self.layer._spec
        if spec.same and l_in is None:
            raise ValueError(
                "the padding depends on the length of the input: padding should not be "
                f"'same_upper' or 'same_lower' with a stride unless the length is given, got "
                f"padding={spec.padding!r} and stride={spec.stride}"
            )
        return spec.reach(l_in or 1)

    def check_lines(self) -> None:
        """Raise unless positions are along one axis."""
        if self.rank == 2:
            raise ValueError(
                "positions should be along one axis, (N, C, L): pieces of planes (N, C, H, W), "
                f"which {type(self.layer).__name__} takes, are not implemented"
            )

    def run(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        if self.alone:
            self.layer(given[0], out=out)
        else:
            residual = given[1] if len(given) > 1 else None
            run_rows(self._with_neighbours(), given[0], residual, out)

    def settle(self) -> None:
        """Note, once all is joined, whether the layer runs as it is."""
        others = (self.before, self.after, self.norm_before, self.norm_after)
        self.alone = len(self.sources) == 1 and all(other is None for other in others)

    def _pack(self) -> Pack:
        """Return the layer's pack with the norms folded into it: made again if one changed."""
        pack: Pack = self.layer._pack()
        if self.norm_before is None and self.norm_after is None:
            return pack
        norms = [n for n in (self.norm_before, self.norm_after) if n is not None]
        made_of = (pack, *(part for norm in norms for part in (norm._held, norm._spec)))
        folded = self._folded
        if folded is None or not all(map(operator.is_, folded[0], made_of)):
            parameters = _folded(pack, self.norm_before, self.norm_after)
            folded = self._folded = (made_of, Pack(parameters, pack.spec))
        made: Pack = folded[1]
        return made

    def as_now(self) -> tuple[Spec, Parameters]:
        """Return the layer with its neighbours' steps, as they are now."""
        held: Parameters = self.layer._held
        if self.norm_before is not None or self.norm_after is not None:
            held = self._pack().parameters
        elif self.layer.training:  # where it may be written to
            bias = None if held.bias is None else held.bias.copy()
            held = Parameters(held.weight.copy(), bias)
        spec: Spec = self.layer._spec
        if self.alone:
            return spec, held
        return self._spec(spec, *self._neighbours()), held

    def _neighbours(self) -> tuple[Any, Any, float | None]:
        """Return the activations beside the layer, and the factor of the residual."""
        factor = None if self.addition is None else self.addition.last
        return _activation_of(self.before), _activation_of(self.after), factor

    def flow(self) -> Flow:
        self.check_lines()
        joined = self._with_neighbours()
        return sliding.convolution(joined.pack, joined.spec, len(self.sources) > 1)

    def _with_neighbours(self) -> Joined:
        """Return the layer as it is now with the neighbours' steps: made again if one changed."""
        pack, joined = self._pack(), self._joined
        neighbours = self._neighbours()
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


class Dense(Convolve):
    """``target = source @ weight.T + bias`` over the last axis: rows of any number of axes."""

    @property
    def rank(self) -> int:
        return 1

    def shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        shape: Shape = self.layer.output_shape(shapes[:1], dtype)
        return shape

    def check_lines(self) -> None:
        raise ValueError(
            "positions should be along the last axis, whose elements this layer adds up: a Conv1d "
            "with kernel_size=1 does so for channels"
        )

    def run(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        if out.size:
            super().run([_rows(array) for array in given], _rows(out))


def _rows(array: NDArray[Any]) -> NDArray[Any]:
    rows = math.prod(array.shape[:-1])
    return np.ascontiguousarray(array).reshape(1, rows, array.shape[-1])


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

    def reach(self, l_in: int | None) -> Reach:
        return Reach()

    def run(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        self.layer.apply(given[0], out)

    def flow(self) -> Flow:
        flow: Flow = self.layer._flow(self.run)
        return flow


class Apply:
    """``target = layer(*sources)`` for a layer that knows shapes and computes arrays."""

    def __init__(self, name: str, layer: Any, sources: tuple[int, ...], target: int) -> None:
        self.name, self.layer = name, layer
        self.sources, self.target = sources, target

    @property
    def in_place(self) -> bool:
        in_place: bool = self.layer.in_place
        return in_place

    def shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        shape: Shape = self.layer.output_shape(shapes, dtype)
        return shape

    def run(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        self.layer.compute(given, out)

    def flow(self) -> Flow:
        flow: Flow = self.layer._flow(self.run)
        return flow


class ChannelNorm(Apply):
    """A norm of the last axis between two exchanges of the last axes: over the channels in place.

    `around` are the layers of the exchanges.
    """

    in_place = True

    def __init__(self, first: Apply, norm: Apply, last: Apply) -> None:
        super().__init__(norm.name, norm.layer, first.sources, last.target)
        self._around = first.layer, last.layer

    def run(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        if given[0].ndim > 3:  # where axes 1 and 2 are not the last ones
            first, last = self._around
            last.compute([self.layer._computed([first._computed(given)])], out)
            return
        standardized_channels(given[0], self.layer.weight, self.layer.bias, self.layer.eps, out)

    def flow(self) -> Flow:
        return PerPosition(self.run)


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

    def reach(self, l_in: int | None) -> Reach:
        return Reach()

    def run(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        combine(given, out, self.last, self.total)

    def flow(self) -> Flow:
        return PerPosition(self.run)


def combine(
    given: Sequence[NDArray[Any]], out: NDArray[Any], last: float = 1.0, total: float = 1.0
) -> None:
    """Write ``total * sum of given``, the last of them times `last`; all are C-contiguous."""
    flat = [array.reshape(-1) for array in given]
    target = out.reshape(-1)
    with np.errstate(all="ignore"):
        for begin in range(0, target.size, _CHUNK):
            part = slice(begin, begin + _CHUNK)
            _combine([array[part] for array in flat], target[part], last, total)


def _combine(
    parts: list[NDArray[Any]], out: NDArray[Any], factor: float, total_factor: float
) -> None:
    *first, last = parts
    if factor != 1:
        last = last * last.dtype.type(factor)
    total = first[0] if first else last
    for part in [*first[1:], last] if first else []:
        total = np.add(total, part, out=out)
    np.multiply(total, out.dtype.type(total_factor), out=out)


Operation = Convolve | Activate | Apply | Combine


def fuse(operations: Sequence[Operation]) -> list[Operation]:
    """Return the operations with element-wise ones made part of the convolutions beside them.

    An activation goes into the convolution that makes its input if nothing else reads that,
    otherwise into the convolutions that read its output; an addition into the convolution that
    makes its first term; a batch norm into the weights of the convolution before or, where that is
    exact, behind it. What only copies is left out, and norms over channels are one operation. The
    numbers of values stay. The operations are changed.
    """
    kept = _into_makers(simplified(operations))
    for operation in [*kept]:
        readers = [reader for reader in kept if operation.target in reader.sources]
        if not readers or any(operation.target in reader.sources[1:] for reader in readers):
            continue
        if isinstance(operation, Activate) and all(_takes_before(r, operation) for r in readers):
            name = "before"
        elif isinstance(operation, Apply) and all(_takes_norm(r, operation) for r in readers):
            name = "norm_before"
        else:
            continue
        for reader in readers:
            setattr(reader, name, operation.layer)
            reader.sources = (*operation.sources, *reader.sources[1:])
        kept.remove(operation)
    for operation in kept:
        if isinstance(operation, Convolve):
            operation.settle()
    return kept


def simplified(operations: Sequence[Operation]) -> list[Operation]:
    """Return the operations without copies, and with norms over channels as one operation each."""
    return _norms_over_channels(_without_copies(operations))


def _without_copies(operations: Sequence[Operation]) -> list[Operation]:
    """Leave out what copies its input, unless that is the result of all."""
    kept: list[Operation] = []
    same: dict[int, int] = {}
    for operation in operations:
        operation.sources = tuple(same.get(v, v) for v in operation.sources)
        copies = isinstance(operation, Apply) and operation.layer.copies
        if copies and operation is not operations[-1]:
            same[operation.target] = operation.sources[0]
        else:
            kept.append(operation)
    return kept


def _norms_over_channels(operations: Sequence[Operation]) -> list[Operation]:
    uses = Counter(value for operation in operations for value in operation.sources)
    kept: list[Operation] = []
    for operation in operations:
        kept.append(operation)
        parts = kept[-3:]
        if (
            len(parts) == 3
            and all(isinstance(part, Apply) for part in parts)
            and all(b.sources == (a.target,) and uses[a.target] == 1 for a, b in pairwise(parts))
            and parts[0].layer.swaps_last
            and len(getattr(parts[1].layer, "normalized_shape", ())) == 1
            and parts[2].layer.swaps_last
        ):
            kept[-3:] = [ChannelNorm(*parts)]  # type: ignore[arg-type]
    return kept


def _into_makers(operations: Sequence[Operation]) -> list[Operation]:
    """Make operations the last steps of the convolutions that make their first sources."""
    uses = Counter(value for operation in operations for value in operation.sources)
    makers = {operation.target: operation for operation in operations}
    kept: list[Operation] = []
    for operation in operations:
        given = operation.sources
        for order in (given, given[::-1])[: 1 + _may_be_turned(operation)]:
            operation.sources = order
            maker = makers.get(order[0])
            if (
                isinstance(maker, Convolve)
                and uses[maker.target] == 1
                and _absorb(maker, operation, makers, kept)
            ):
                del makers[maker.target]
                maker.target = operation.target
                makers[maker.target] = maker
                break
        else:
            operation.sources = given
            kept.append(operation)
    return kept


def _may_be_turned(operation: Operation) -> bool:
    """Whether the terms of a sum may change places: no factor belongs to the last."""
    plain = isinstance(operation, Combine) and len(operation.sources) == 2
    return plain and not hasattr(operation.layer, "residual_scale")


def _absorb(
    maker: Convolve, operation: Operation, makers: dict[int, Operation], done: list[Operation]
) -> bool:
    """Make `operation` the last step of `maker` if that has room for it."""
    has_residual = len(maker.sources) > 1
    if isinstance(operation, Activate):
        if maker.after is not None or _own(maker, "activation") or not _fits(maker, operation):
            return False
        maker.after = operation.layer
        return True
    if isinstance(operation, Apply):
        taken = maker.after is not None or maker.norm_after is not None or has_residual
        if (
            taken
            or _own(maker, "activation")
            or not _is_foldable(maker, operation, maker.layer.out_channels)
        ):
            return False
        maker.norm_after = operation.layer
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


def _fits(convolution: Convolve, operation: Activate) -> bool:
    """Whether an activation may be a step: its channels are those of the convolution."""
    if isinstance(convolution, Dense):
        activation = operation.layer.activation
        return not (isinstance(activation, tuple) and np.ndim(activation[1]) > 0)
    return bool(convolution.layer.dtype.kind != "c")


def _takes_before(reader: Operation, operation: Activate) -> bool:
    return (
        isinstance(reader, Convolve)
        and reader.before is None
        and reader.norm_before is None
        and not _own(reader, "pre_activation")
        and _fits(reader, operation)
    )


def _is_foldable(convolution: Convolve, operation: Apply, channels: int) -> bool:
    layer = convolution.layer
    real = layer.dtype.kind != "c" and not isinstance(convolution, Dense)
    return bool(real and operation.layer.folds and operation.layer.num_features == channels)


def _takes_norm(reader: Operation, operation: Apply) -> bool:
    """Whether a norm may go into the weights of a convolution that reads it: no zeros are added."""
    if not isinstance(reader, Convolve):
        return False
    if not _is_foldable(reader, operation, reader.layer.in_channels):
        return False
    spec = reader.layer._spec
    padded = spec.padding_mode == "zeros" and spec.padding not in ("valid", (0,), (0, 0))
    taken = reader.before is not None or reader.norm_before is not None
    return not (spec.transposed or padded or taken or _own(reader, "pre_activation"))


def _own(operation: Convolve, name: str) -> bool:
    return getattr(operation.layer, name) is not None


class Key(NamedTuple):
    """What buffers depend on."""

    shape: Shape
    dtype: np.dtype[Any]
    specs: list[Spec]

    def is_that_of(self, other: Key) -> bool:
        """Whether buffers of the one serve the other."""
        same = self.shape == other.shape and self.dtype == other.dtype
        return same and (
            self.specs is other.specs or all(map(operator.is_, self.specs, other.specs))
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
        # What shapes and the way that operations are joined depend on: new specs, a new program.
        self._layers = [op.layer for op in self.lowered if isinstance(op, (Convolve, Apply))]
        self._specs = [layer._spec for layer in self._layers]

    def is_current(self, overrides: int) -> bool:
        """Whether no layer's attributes changed since."""
        now = [layer._spec for layer in self._layers]
        return self.overrides == overrides and all(map(operator.is_, now, self._specs))

    def key(self, x: NDArray[Any]) -> Key:
        """Return what the buffers for an input depend on: attributes of the layers, too."""
        return Key(x.shape, x.dtype, self._specs)

    def run(self, x: NDArray[Any], buffers: Buffers, out: NDArray[Any]) -> None:
        """Compute the result for `x` into `out`, a C-contiguous array."""
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
        with naming(operation):
            shapes.append(operation.shape([shapes[v] for v in operation.sources], dtype))
    return shapes


@contextlib.contextmanager
def naming(operation: Operation) -> Iterator[None]:
    """Put the layer's name before the text of an error."""
    try:
        yield
    except (ValueError, TypeError, OverflowError) as error:
        raise type(error)(f"{place_of(operation)}: {error}") from None


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


def rank_of(operations: Iterable[Operation]) -> int:
    """Return the axes of positions in what the convolutions take: 2 for those of planes, or 1.

    Examples
    --------
    >>> from fastconv1d import Conv2d, ReLU
    >>> from fastconv1d.core.program import rank_of
    >>> from fastconv1d.sequential import lowered
    >>> rank_of(lowered(Conv2d(1, 1, 3))), rank_of(lowered(ReLU()))
    (2, 1)
    """
    return max((op.rank for op in operations if isinstance(op, Convolve)), default=1)


def check_lines(operations: Iterable[Operation]) -> None:
    """Raise unless the positions of all convolutions are along one axis; the text names the layer.

    Examples
    --------
    >>> from fastconv1d import Conv1d, ReLU, Sequential
    >>> from fastconv1d.core.program import check_lines
    >>> from fastconv1d.sequential import lowered
    >>> check_lines(lowered(Sequential(Conv1d(1, 1, 3), ReLU())))
    """
    for operation in operations:
        if isinstance(operation, Convolve):
            with naming(operation):
                operation.check_lines()


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
