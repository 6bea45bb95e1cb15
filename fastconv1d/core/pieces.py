"""Networks over pieces of their input: any range of the outputs, with the bits of the whole call.

A `Pipeline` knows the lengths of a whole call. It says which inputs a range of its outputs needs,
and computes the range from them, layer by layer and each layer no further than the next one reads.
Padding is made where the whole call has it, nowhere else.
"""

from __future__ import annotations

import copy
import threading
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import config
from . import adjoint, arrays
from .activations import Steps
from .chosen import taken
from .convolution import Pack, Parameters
from .engines import ENGINES, choose_engine, engine_of_scatter
from .fast import in_force
from .forward import after_sums, before_sums, convolve
from .geometry import CIRCULAR, REFLECT, REPLICATE, ZEROS, Geometry
from .program import Combine, Convolve, combine, infer_shapes, naming
from .ranges import Ranges
from .reach import Reach, reach_of
from .spec import Spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import ModuleType

    from numpy.typing import NDArray

    from .program import Operation

# First position and the one after the last.
Interval = tuple[int, int]

_packing = threading.Lock()


class Piece(NamedTuple):
    """A part of an array (N, C, L) and the position of its first element."""

    first: int
    values: NDArray[Any]


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the same positions as intervals in order that neither meet nor overlap.

    Examples
    --------
    >>> from fastconv1d.core.pieces import merged
    >>> merged([(8, 9), (0, 3), (2, 5), (5, 6)])
    [(0, 6), (8, 9)]
    """
    result: list[Interval] = []
    for first, last in sorted(intervals):
        if result and first <= result[-1][1]:
            result[-1] = result[-1][0], max(result[-1][1], last)
        else:
            result.append((first, last))
    return result


def cut(pieces: Sequence[Piece], first: int, last: int) -> NDArray[Any]:
    """Return the positions of one piece, which has them all, as a view."""
    for piece in pieces:
        end = piece.first + piece.values.shape[2]
        if piece.first <= first and last <= end:
            return piece.values[:, :, first - piece.first : last - piece.first]
    raise IndexError(f"no piece has the positions {first} to {last}")


def follow(bounds: Sequence[int], step: Fraction, length: int) -> list[int]:
    """Return where parts of an output begin that follow those of the input, and its length.

    `bounds` are where the input's parts begin, and its length; `step` is that along the input from
    one output to the next.

    Examples
    --------
    >>> from fractions import Fraction
    >>> from fastconv1d.core.pieces import follow
    >>> follow([0, 10, 20, 25], Fraction(3), 8)
    [0, 4, 7, 8]
    """
    along = {-(-bound * step.denominator // step.numerator) for bound in bounds[:-1]}
    starts = sorted(bound for bound in along if bound < length)
    widest = max((b - a for a, b in pairwise(starts)), default=length)
    while length - starts[-1] > 2 * widest:  # more padding than parts are long
        starts.append(starts[-1] + widest)
    return [*starts, length]


class Pointwise:
    """Whatever reads its sources at the position of its output only: ``run(sources, out)``."""

    def __init__(
        self, run: Callable[[Sequence[NDArray[Any]], NDArray[Any]], None], channels: int
    ) -> None:
        self._run, self._channels = run, channels

    reach = Reach()

    def needs(self, first: int, last: int) -> list[Interval]:
        return [(first, last)]

    def compute(
        self, given: Sequence[Sequence[Piece]], first: int, last: int, out: NDArray[Any] | None
    ) -> NDArray[Any]:
        sources = [np.ascontiguousarray(cut(pieces, first, last)) for pieces in given]
        direct = out is not None and out.flags.c_contiguous
        shape = sources[0].shape[0], self._channels, last - first
        y = out if direct else arrays.new(shape, sources[0].dtype)
        assert y is not None
        self._run(sources, y)
        if out is None or direct:
            return y
        np.copyto(out, y)
        return out


class Cropped:
    """An operation with a window of its own and padding of its own, as pooling has.

    It computes parts of the input with the outputs that its padding changes, which are left out
    unless the whole call has the padding there.
    """

    def __init__(self, operation: Any, reach: Reach, l_in: int) -> None:
        self._operation, self.reach, self._l_in = operation, reach, l_in
        self._changed = -(-max(reach.before, 0) // reach.down)  # outputs, by padding on the left

    def _begin(self, first: int) -> int:
        """Return the first output that is computed: a call takes a whole window at least."""
        down, begin = self.reach.down, max(first - self._changed, 0)
        missing = self.reach.before + self.reach.after + 1 - (self._l_in - begin * down)
        return max(begin - max(-(-missing // down), 0), 0)

    def needs(self, first: int, last: int) -> list[Interval]:
        begin = self._begin(first) * self.reach.down
        end = min(self.reach.last(last - 1) + 1, self._l_in)
        return [(begin, max(end, begin + 1))]

    def compute(
        self, given: Sequence[Sequence[Piece]], first: int, last: int, out: NDArray[Any] | None
    ) -> NDArray[Any]:
        x = np.ascontiguousarray(cut(given[0], *self.needs(first, last)[0]))
        y = arrays.new(self._operation.shape([x.shape], x.dtype), x.dtype)
        self._operation.run([x], y)
        at = first - self._begin(first)
        y = y[:, :, at : at + last - first]
        if out is None:
            return y
        np.copyto(out, y)
        return out


class Convolved:
    """A convolution, or a transposed one, of an input of known length.

    Parameters
    ----------
    spec : Spec
        With steps. Its padding is read from the geometry.
    parameters : Parameters
    geometry : Geometry
        Of the whole call.
    l_in, l_out : int
        The lengths of the whole call.
    engine : module, optional
        Whose bits the whole call has, where another rule than the layer's own chose it.

    Notes
    -----
    The weight is packed by the first computation. Pickles hold it as it is.
    """

    def __init__(
        self,
        spec: Spec,
        parameters: Parameters,
        geometry: Geometry,
        l_in: int,
        l_out: int,
        engine: ModuleType | None = None,
    ) -> None:
        _, _, stride, dilation, left, right, groups, _ = geometry
        self._spec = spec._replace(
            kernel_size=parameters.weight.shape[2],
            stride=stride,
            dilation=dilation,
            groups=groups,
            output_padding=0,
            padding=(left, right),
            padding_mode="zeros",  # padding of other modes is made here
            layout="NCL",
        )
        self._parameters, self._geometry = parameters, geometry
        self._transforms = engine is None and self._takes_transforms(parameters)
        if engine is None:
            weight = parameters.weight
            pads = left, right
            engine = choose_engine(
                spec.algorithm,
                weight.dtype.char,
                weight.shape,
                stride,
                dilation,
                pads,
                spec.transposed,
            )
        self._engine = next(name for name, known in ENGINES.items() if known is engine)
        self._l_in, self._l_out = l_in, l_out
        self._folds = spec.transposed and geometry.mode != ZEROS and bool(left or right)
        self._made: Ranges | None = None
        self._pack: Pack | None = None

    def _takes_transforms(self, parameters: Parameters) -> bool:
        """Whether a piece is computed by transforms of its own, which its spec has to ask for."""
        spec, asked = self._spec, in_force(self._spec.algorithm)
        if spec.transposed or spec.algorithm not in ("fast", "fft") or asked != spec.algorithm:
            return False
        return taken(spec, parameters.weight) == "fft"

    @classmethod
    def gradient(
        cls,
        spec: Spec,
        weight: NDArray[Any],
        geometry: Geometry,
        engine: ModuleType,
        g_shape: tuple[int, ...],
        x_shape: tuple[int, ...],
    ) -> Convolved:
        """Return what computes the gradient by the input of a convolution of this spec."""
        conjugate = weight.conj() if weight.dtype.kind == "c" else weight
        if not spec.transposed:
            engine = engine_of_scatter(engine, weight.dtype.char, weight.shape, geometry)
        adjoined = Spec(not spec.transposed, weight.shape[2])
        geometry = geometry._replace(c_out=x_shape[1], l_out=x_shape[2])
        parameters = Parameters(conjugate, None)
        return cls(adjoined, parameters, geometry, g_shape[2], x_shape[2], engine)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None, "_pack": None}

    @property
    def reach(self) -> Reach:
        return self._spec.reach(self._l_in)

    def _ranges(self) -> Ranges:
        with _packing:  # once, whichever thread is first
            if self._made is None:
                spec, (weight, bias) = self._spec, self._parameters
                if self._folds:  # the steps come after what is added at the ends
                    spec = spec._replace(steps=Steps())
                prepared = self.engine.prepare(weight, bias, spec)
                self._made = Ranges(spec, weight, bias, prepared)
            return self._made

    # ---- which inputs

    def needs(self, first: int, last: int) -> list[Interval]:
        """Return the inputs that outputs `first` to `last` read, the latter excluded."""
        if self._folds:
            parts = [self._clipped(*self._window(first, last))]
            parts += [needed for _, needed in self._margins(first, last)]
            parts += [needed for _, needed in self._edges(first, last)]
            return merged(parts)
        begin, end = self._window(first, last)
        mode, length = self._geometry.mode, self._l_in
        if self._spec.transposed or mode in (ZEROS, REPLICATE):
            return [self._clipped(begin, end)]
        before, after = (begin, min(end, 0)), (max(begin, length), end)
        parts = [self._stands_for(*part) for part in (before, after) if part[0] < part[1]]
        inside = max(begin, 0), min(end, length)
        return merged([*parts, inside] if inside[0] < inside[1] else parts)

    def _window(self, first: int, last: int) -> Interval:
        """Return the positions that outputs read, beyond the ends, too."""
        reach = self.reach
        return reach.first(first), reach.last(last - 1) + 1

    def _clipped(self, begin: int, end: int) -> Interval:
        """Return the inputs among positions, one input at least."""
        begin = min(max(begin, 0), self._l_in - 1)
        return begin, max(min(end, self._l_in), begin + 1)

    def _stands_for(self, begin: int, end: int) -> Interval:
        """Return the inputs that stand for positions before the input or after it."""
        if self._geometry.mode == REFLECT:
            pivot = 0 if begin < 0 else self._l_in - 1
            return 2 * pivot - end + 1, 2 * pivot - begin + 1
        shift = self._l_in if begin < 0 else -self._l_in
        return begin + shift, end + shift

    def _margins(self, first: int, last: int) -> list[tuple[adjoint.Margin, Interval]]:
        """Return what is folded into outputs, and the inputs that it reads."""
        if self._geometry.mode not in (REFLECT, CIRCULAR):
            return []
        return [
            (margin, self._clipped(*self._window(margin.begin, margin.begin + margin.width)))
            for margin in adjoint.margins(self._geometry, self._l_out)
            if margin.target < last and first < margin.target + margin.width
        ]

    def _edges(self, first: int, last: int) -> list[tuple[adjoint.Edge, Interval]]:
        if self._geometry.mode != REPLICATE:
            return []
        kernel_size = self._parameters.weight.shape[2]
        return [
            (edge, windows)
            for edge in adjoint.edges(self._geometry, self._l_out)
            if (last == self._l_out if edge.right else first == 0)
            for windows in [edge.windows(self._geometry, kernel_size, self._l_in)]
            if windows[0] < windows[1]
        ]

    # ---- the outputs

    def compute(
        self, given: Sequence[Sequence[Piece]], first: int, last: int, out: NDArray[Any] | None
    ) -> NDArray[Any]:
        """Return outputs `first` to `last` (N, C_out, n), the latter excluded.

        `given` has pieces of the input, and of the residual if there is one.
        """
        pieces = given[0]
        residual = cut(given[1], first, last) if len(given) > 1 else None
        x = pieces[0].values
        y = out
        if y is None:
            y = arrays.new((x.shape[0], self._geometry.c_out, last - first), x.dtype)
        if self._transforms:
            self._compute_by_transforms(pieces, first, last, y, residual)
            return y
        if self._folds:
            self._compute_folded(pieces, first, last, y, residual)
            return y
        x, origin = self._read(pieces, *self._window(first, last))
        left = self._geometry.left
        ranges = self._ranges()
        place = (origin, first + left) if self._spec.transposed else (origin + left, first)
        ranges.compute(ranges.inputs(x), *place, y, residual)
        return y

    def _compute_by_transforms(
        self, pieces: Sequence[Piece], first: int, last: int, y: NDArray[Any], residual: Any
    ) -> None:
        """The same by a call on what the outputs read: its last bits are of this piece."""
        x, left = self.padded(pieces, first, last)
        begin, end = self._window(first, last)
        right = end - begin - left - x.shape[2]
        if left or right:
            x = np.pad(x, [(0, 0), (0, 0), (left, right)])
        spec = self._spec._replace(padding=(0, 0))
        with _packing:
            if self._pack is None:
                self._pack = Pack(self._parameters, spec)
        result = self._pack.run(x, config.get_num_threads, residual)
        if result is None:  # 16 bits, for example
            result = convolve(spec, x, *self._parameters, residual)
        np.copyto(y, result)

    def _read(self, pieces: Sequence[Piece], begin: int, end: int) -> tuple[NDArray[Any], int]:
        """Return inputs with padding that is none of zeros, and the position of the first."""
        mode, length = self._geometry.mode, self._l_in
        if self._spec.transposed or mode == ZEROS or (begin >= 0 and end <= length):
            begin, end = self._clipped(begin, end)
            return cut(pieces, begin, end), begin
        parts = [self._padding(pieces, begin, min(end, 0))] if begin < 0 else []
        if max(begin, 0) < min(end, length):
            parts.append(cut(pieces, max(begin, 0), min(end, length)))
        if end > length:
            parts.append(self._padding(pieces, max(begin, length), end))
        return np.concatenate(parts, axis=2) if len(parts) > 1 else parts[0], begin

    def padded(self, pieces: Sequence[Piece], first: int, last: int) -> tuple[NDArray[Any], int]:
        """Return what outputs read, and how many zeros lie before it."""
        begin, end = self._window(first, last)
        if end <= 0 or begin >= self._l_in:
            if self._geometry.mode == ZEROS:
                x = pieces[0].values
                return np.zeros((*x.shape[:2], end - begin), x.dtype), 0
        x, origin = self._read(pieces, begin, end)
        return x, origin - begin

    @property
    def engine(self) -> ModuleType:
        return ENGINES[self._engine]

    def _padding(self, pieces: Sequence[Piece], begin: int, end: int) -> NDArray[Any]:
        if self._geometry.mode == REPLICATE:
            edge = 0 if begin < 0 else self._l_in - 1
            values = cut(pieces, edge, edge + 1)
            return np.broadcast_to(values, (*values.shape[:2], end - begin))
        values = cut(pieces, *self._stands_for(begin, end))
        return values[:, :, ::-1] if self._geometry.mode == REFLECT else values

    def _compute_folded(
        self, pieces: Sequence[Piece], first: int, last: int, y: NDArray[Any], residual: Any
    ) -> None:
        """The same where cropped positions are added to others: `adjoint.scatter` for a range."""
        weight, geometry = self._parameters.weight, self._geometry
        steps, engine = self._spec.steps, self.engine
        z = arrays.new(y.shape, weight.dtype)
        begin, end = self._clipped(*self._window(first, last))
        x = before_sums(steps, cut(pieces, begin, end), weight)
        ranges = self._ranges()
        ranges.compute(x, begin, first + geometry.left, z)
        run = config.get_num_threads(), True
        with np.errstate(over="ignore", invalid="ignore"):
            for margin, (begin, end) in self._margins(first, last):
                x = before_sums(steps, cut(pieces, begin, end), weight)
                sums = adjoint.margin_sums(margin, engine, x, weight, geometry, begin, run)
                low, high = max(first, margin.target), min(last, margin.target + margin.width)
                part = sums[:, :, low - margin.target : high - margin.target]
                z[:, :, low - first : high - first] += part
            for edge, (begin, end) in self._edges(first, last):
                x = before_sums(steps, cut(pieces, begin, end), weight)
                moved = edge._replace(bound=edge.bound - begin * geometry.stride)
                adjoint.add_edge(moved, x, weight, z, geometry)
        after_sums(steps, z, residual, y)


class Pipeline:
    """Operations in order with the lengths of a whole call.

    Parameters
    ----------
    operations : sequence of Operation
        With numbered values as a `Program` has them; the last one makes the result.
    stages : sequence of Convolved, Pointwise or Cropped
        What computes each.
    """

    def __init__(self, links: Sequence[tuple[tuple[int, ...], int]], stages: Sequence[Any]) -> None:
        self._links, self._stages = list(links), list(stages)
        self._result = self._links[-1][1] if self._links else 0

    @classmethod
    def of(cls, stage: Convolved, n_inputs: int = 1) -> Pipeline:
        """Return the pipeline of one convolution, with a residual if there is a second input."""
        return cls([((0, -1)[:n_inputs], 1)], [stage])

    @property
    def step(self) -> Fraction:
        """The step along the input from one output to the next."""
        steps = {0: Fraction(1)}
        for (sources, target), stage in zip(self._links, self._stages, strict=True):
            steps[target] = steps[sources[0]] * stage.reach.down / stage.reach.up
        return steps[self._result]

    def needs(self, first: int, last: int) -> list[Interval]:
        """Return the inputs that outputs `first` to `last` need, the latter excluded."""
        return self._demands(first, last)[0]

    def _demands(self, first: int, last: int) -> dict[int, list[Interval]]:
        """Return the positions of each value that the outputs need."""
        wanted: dict[int, list[Interval]] = {self._result: [(first, last)]}
        for (sources, target), stage in zip(
            reversed(self._links), reversed(self._stages), strict=True
        ):
            demanded = wanted[target] = merged(wanted.get(target, []))
            needed = [part for begin, end in demanded for part in stage.needs(begin, end)]
            wanted.setdefault(sources[0], []).extend(needed)
            for source in sources[1:]:
                wanted.setdefault(source, []).extend(demanded)
        wanted[0] = merged(wanted.get(0, []))
        return wanted

    def compute(
        self, given: Sequence[Sequence[Piece]], first: int, last: int, out: NDArray[Any]
    ) -> None:
        """Write outputs `first` to `last` to `out` (N, C, n), of any strides.

        `given` has pieces of each value that no operation makes, the input's first.
        """
        values: dict[int, Sequence[Piece]] = {-i: pieces for i, pieces in enumerate(given)}
        demands = self._demands(first, last)
        left = [source for sources, _ in self._links for source in sources]
        for (sources, target), stage in zip(self._links, self._stages, strict=True):
            read = [values[source] for source in sources]
            if target == self._result:
                stage.compute(read, first, last, out)
                return
            values[target] = [
                Piece(begin, stage.compute(read, begin, end, None))
                for begin, end in demands[target]
            ]
            del left[: len(sources)]
            for source in set(sources).difference(left):
                del values[source]
        np.copyto(out, cut(values[0], first, last))


class WeightGradient:
    """The gradient by a weight that pieces of both operands of a convolution make.

    Parameters
    ----------
    transposed : bool
        Whether the convolution is. The windows over one operand, which have a position of the other
        each, are then those of its output.
    w_shape, dtype
        Of the weight.
    geometry : Geometry
    engine : module
    l_in : int
        Length of the operand with the windows.
    """

    def __init__(
        self,
        transposed: bool,
        w_shape: tuple[int, ...],
        dtype: np.dtype[Any],
        geometry: Geometry,
        engine: ModuleType,
        l_in: int,
    ) -> None:
        self._transposed, self._shape, self._dtype = transposed, w_shape, dtype
        self._geometry = geometry
        stand_in = np.broadcast_to(np.zeros((), dtype), w_shape)
        spec = Spec(False, w_shape[2])
        self._windows = Convolved(spec, Parameters(stand_in, None), geometry, l_in, 0, engine)

    def needs(self, first: int, last: int) -> list[Interval]:
        """Return what windows `first` to `last` read, the latter excluded."""
        return self._windows.needs(first, last)

    def compute(self, given: Sequence[Sequence[Piece]], first: int, last: int) -> NDArray[Any]:
        """Return what windows `first` to `last` add to the gradient.

        `given` has pieces of the operand with a position for each window, and of the other.
        """
        g = cut(given[0], first, last).astype(self._dtype, copy=False)
        x, left = self._windows.padded(given[1], first, last)
        x = x.astype(self._dtype, copy=False)
        gradient = arrays.new(self._shape, self._dtype)
        place = self._geometry._replace(left=left, mode=ZEROS)
        run = config.get_num_threads(), True
        self._windows.engine.weight_gradient(
            g, x, gradient, place, run, None, False, None, self._transposed
        )
        return gradient


class BiasGradient:
    """The gradient by a bias that pieces of the gradient by an output make."""

    def __init__(self, algorithm: str, channels: int, dtype: np.dtype[Any]) -> None:
        self._algorithm, self._channels, self._dtype = algorithm, channels, dtype

    def compute(self, given: Sequence[Sequence[Piece]], first: int, last: int) -> NDArray[Any]:
        """Return what positions `first` to `last` add to the gradient."""
        g = cut(given[0], first, last).astype(self._dtype, copy=False)
        gradient = arrays.new((self._channels,), self._dtype)
        adjoint.bias_gradient(self._algorithm, g, gradient)
        return gradient


def of_operations(
    operations: Sequence[Operation],
    lowered: Sequence[Operation],
    x: NDArray[Any],
) -> tuple[Pipeline, tuple[int, ...]]:
    """Return what computes a network on pieces of an input (N, C, L), and the output's shape.

    `operations` are those of `lowered`, fused.

    Raises
    ------
    ValueError, TypeError, OverflowError
        If the network does not take such an input, or a layer needs all of it; the text names it.
    """
    shapes = infer_shapes(lowered, x.shape, x.dtype)
    stages: list[Any] = []
    for operation in operations:
        with naming(operation):
            stages.append(_stage(operation, shapes))
    links = [(tuple(operation.sources), operation.target) for operation in operations]
    return Pipeline(links, stages), shapes[operations[-1].target if operations else 0]


def _stage(
    operation: Operation, shapes: Sequence[tuple[int, ...]]
) -> Convolved | Pointwise | Cropped:
    """Return what computes an operation as its layer is now, whatever becomes of the layer."""
    source = shapes[operation.sources[0]]
    if isinstance(operation, Convolve):
        spec, parameters = operation.as_now()
        weight, bias = parameters
        geometry = spec.geometry(source, weight.shape, None if bias is None else bias.shape)
        return Convolved(spec, parameters, geometry, source[2], geometry.l_out)
    if isinstance(operation, Combine):
        run = partial(combine, last=operation.last, total=operation.total)
        return Pointwise(run, shapes[operation.target][1])
    reach = reach_of(operation, source[2])
    snapshot = copy.copy(operation)
    snapshot.layer = copy.copy(operation.layer)
    if reach == Reach():
        return Pointwise(snapshot.run, shapes[operation.target][1])
    if reach.up == 1 and len(operation.sources) == 1:
        return Cropped(snapshot, reach, source[2])
    raise ValueError("it cannot be computed from pieces of its input")
