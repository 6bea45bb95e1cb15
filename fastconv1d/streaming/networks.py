"""Networks over a signal that arrives in chunks.

Each value between two operations has a history: the positions that its readers still need. A chunk
is written behind that of the input, in pieces, and each operation computes what of its output has
become final behind that of its target; what the last one computes goes to the result. An addition
waits for the slower of its branches, and the history of the faster one is what delays it.
"""

from __future__ import annotations

import math
import operator
import zlib
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..core import arrays, geometry
from ..core.base import Layer, has_own
from ..core.flow import check_one_length
from ..core.program import Activate, Combine, Convolve, Program, infer_shapes, place_of
from ..kernels.direct_engine import Guard
from .base import Pool, Stream, checked_state, dtype_of, name_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from ..core.flow import Flow
    from ..core.program import Operation

# What one piece of a chunk makes of the largest value, in bytes: it stays in a core's cache.
_PIECE_BYTES = 1 << 18
# The longest period of a network's strides that a latency is looked for in.
_LONG = 1 << 14


class _Kind(NamedTuple):
    """What arrays of a sequence are: the dtype of its chunks, and the channels of every value."""

    dtype: np.dtype[Any]
    channels: tuple[int, ...]
    piece: int  # inputs that are taken at once


class _State:
    """Where a stream is. A call changes a copy, which takes its place in one piece.

    Attributes
    ----------
    data : list of ndarray or None
        The history of a value is ``data[v][:, :, :counts[v] - origins[v]]``.
    origins, counts : list of int
        The position that the history begins with, and how many there have been.
    kind : _Kind or None
        None before the first chunk.
    """

    __slots__ = ("counts", "data", "kind", "origins")

    def __init__(
        self, data: list[Any], origins: list[int], counts: list[int], kind: _Kind | None
    ) -> None:
        self.data, self.origins, self.counts, self.kind = data, origins, counts, kind

    def copy(self) -> _State:
        return _State(self.data.copy(), self.origins.copy(), self.counts.copy(), self.kind)


class _Step:
    """An operation, as a call goes through it."""

    __slots__ = ("compute", "final", "of_sources", "sources", "target")

    def __init__(self, operation: Operation, flow: Flow) -> None:
        self.final, self.compute, self.target = flow.final, flow.compute, operation.target
        first, *others = self.sources = operation.sources
        # of a list of all values: quicker than a comprehension
        several = (first, *others) if others else (slice(first, first + 1),)
        self.of_sources: Callable[[list[Any]], Sequence[Any]] = operator.itemgetter(*several)


class StreamingNetwork(Stream):
    """A network over sequences that arrive in chunks of any length.

    Parameters
    ----------
    module : Sequential, Residual or Mean
        The network. The stream keeps the parameters and attributes that it has now.
    n_batch : int, default 1
        How many sequences run side by side.

    Raises
    ------
    ValueError
        If a layer needs what is not there before the end of the sequences, such as circular
        padding, or sizes do not fit; the text names the layer.
    TypeError
        If `module` is no network, or a layer computes something of its own.

    See Also
    --------
    Sequential.stream : Makes one.

    Notes
    -----
    The outputs of all chunks and of `flush`, one after another, are bit for bit those of one call
    on the whole sequence, in deterministic mode (`use_deterministic_algorithms`) where layers are
    of the BLAS engine or of ``algorithm="winograd"`` or "fast"; layers of "fft" are within their
    error. An output is returned with the input that completes what it depends on; where branches
    of different delay meet, the faster one waits in a buffer.

    Chunks of 16 bits are taken by float32 networks, as by a call; all chunks of a sequence have one
    dtype. Long chunks are computed in pieces, so that the memory is that of a few of them and of
    what the layers look back to, whatever the chunks; it is allocated when it is first needed. A
    call that fails or is interrupted leaves the stream as before or as after it. A stream belongs
    to one thread at a time; a call beside another is a RuntimeError.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import Conv1d, ReLU, Residual, Sequential
    >>> net = Sequential(
    ...     Conv1d(2, 4, 4, stride=2, padding=1),
    ...     Residual(Conv1d(4, 4, 5, padding=2), ReLU()),
    ... )
    >>> x = np.random.default_rng(0).standard_normal((1, 2, 40), dtype=np.float32)
    >>> stream = net.stream()
    >>> parts = [stream(x[:, :, :9]), stream(x[:, :, 9:]), stream.flush()]
    >>> [part.shape[2] for part in parts]
    [2, 15, 3]
    >>> bool((np.concatenate(parts, axis=2) == net(x)).all())
    True
    """

    def __init__(self, module: Any, n_batch: int = 1) -> None:
        if not (isinstance(module, Layer) and hasattr(module, "_lower")):
            raise TypeError(
                "module should be a Sequential, Residual or Mean, "
                f"got {geometry.shown(module)} of type {type(module).__name__}"
            )
        if has_own(module, "forward", "__call__"):
            raise TypeError(
                f"a stream needs a network's layers, got {type(module).__name__} with a forward of "
                "its own, whose operations are not known"
            )
        self._n_batch = self._checked_batch(n_batch)
        self._module = module._as_it_is({})
        program = self._program = Program(partial(_lowered, self._module))
        self._result = program.result
        self._flows = [_flow_of(operation) for operation in program.operations]
        self._n_values = 1 + max((op.target for op in program.lowered), default=0)
        self._readers: list[list[tuple[Operation, Flow, int]]] = [[] for _ in range(self._n_values)]
        for operation, flow in self._steps():
            for source, value in enumerate(operation.sources):
                self._readers[value].append((operation, flow, source))
        self._plan = [_Step(*step) for step in self._steps()]
        self._rates = self._rates_of_values()
        self._side_by_side = self._values_side_by_side()
        self._kinds: dict[tuple[int, np.dtype[Any]], _Kind] = {}
        self._check_sizes()
        self._guard = Guard("stream")
        self._pools = [Pool(self._n_batch, beside) for beside in self._side_by_side]
        self._state = self._initial()

    # ---- what the network is

    def _rates_of_values(self) -> list[Fraction]:
        """Positions of each value for one of the input."""
        rates = [Fraction(1)] * self._n_values
        for operation, flow in self._steps():
            rates[operation.target] = rates[operation.sources[0]] * Fraction(*flow.rate)
        return rates

    def _values_side_by_side(self) -> list[bool]:
        """Which values have the channels of a position side by side.

        A step of a depthwise layer of 512 channels and 4 taps takes 0.3 us then and 25 otherwise,
        16 positions 2.2 and 19; dense layers take 1 to 1.4 times as long.
        """
        values = [False] * self._n_values
        for operation, flow in self._steps():
            if flow.side_by_side:
                for value in (*operation.sources, operation.target):
                    values[value] = True
        return values

    def _steps(self) -> Iterator[tuple[Operation, Flow]]:
        return zip(self._program.operations, self._flows, strict=True)

    def _check_sizes(self) -> None:
        """Raise what keeps the layers from fitting together, if what the input is can be told."""
        for operation in self._program.lowered:
            if isinstance(operation, Convolve):
                self._kind_of(operation.layer.in_channels, operation.layer.dtype)
            if not isinstance(operation, (Activate, Combine)):
                return

    def _kind_of(self, channels: int, dtype: np.dtype[Any]) -> _Kind:
        """Return what the values are for such chunks, or raise what is wrong with those."""
        known = self._kinds.get((channels, dtype))
        if known is not None:
            return known
        period = math.lcm(*(rate.denominator for rate in self._rates))
        longer = period * -(-(1 << 30) // period)  # than what any layer reads
        errors = []
        for more in range(min(period, 64)):  # some networks take even lengths only
            shape = self._n_batch, channels, longer + more
            try:
                shapes = infer_shapes(self._program.lowered, shape, dtype)
            except ValueError as error:
                errors.append(error)
                continue
            widths = tuple(shape[1] for shape in shapes)
            kind = self._kinds[channels, dtype] = _Kind(dtype, widths, self._piece(dtype, widths))
            return kind
        raise errors[0]

    @property
    def latency(self) -> int:
        """How many inputs later than its own an output comes, at the most.

        The input of an output is the one at its place: that of output `j` of a network with a
        stride of 2 is input ``2*j``. 0 for a causal network; what pads on the right, or does not
        pad, adds to it.

        Examples
        --------
        >>> from fastconv1d import Conv1d, Sequential
        >>> net = Sequential(Conv1d(1, 1, 3, padding="causal"), Conv1d(1, 1, 5, padding=2))
        >>> net.stream().latency
        2
        """
        period = math.lcm(*(rate.denominator for rate in self._rates))
        return self._latency(self._rates[self._result], min(period, _LONG))

    # ---- taking chunks

    def __call__(self, chunk: ArrayLike, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Take the next inputs of every sequence and return the outputs that became final.

        Parameters
        ----------
        chunk : ndarray of shape (N, C_in, n) or, for one sequence, (C_in, n)
            Of the layers' dtype, or of 16 bits for float32 layers; n may be 0 and differ from call
            to call.
        out : ndarray of the result's shape and dtype, optional
            Where to write the result; `output_length` says how long it is.

        Returns
        -------
        ndarray of shape (N, C_out, m) or (C_out, m)
            `out` if it was given.

        Raises
        ------
        ValueError
            If the chunk has another batch or number of channels, or `out` does not fit.
        TypeError
            If the chunk has another dtype.
        MemoryError
            If the result or a history cannot be allocated.

        Notes
        -----
        What is refused leaves the stream as it was.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import Conv1d, Sequential, Tanh
        >>> stream = Sequential(Conv1d(2, 3, 5, stride=2, padding="causal"), Tanh()).stream()
        >>> [stream(np.ones((2, n), np.float32)).shape for n in (1, 0, 4)]
        [(3, 1), (3, 0), (3, 2)]
        """
        with self._guard:
            x, batched = self._checked(chunk)
            after = self._state.copy()
            after.kind = self._kind_for(x)
            ends = self._counts(after.counts[0] + x.shape[2])
            begin = after.counts[self._result]
            y = self._new_result(after.kind, ends[self._result] - begin, batched, x, out)
            self._take(after, x, ends, y)
            self._state = after
            return arrays.delivered(y, batched, out)

    def _checked(self, chunk: ArrayLike) -> tuple[NDArray[Any], bool]:
        x = arrays.operand(chunk)
        batched = x.ndim == 3
        if x.ndim == 2 and self._n_batch == 1:
            x = x[np.newaxis]
        if x.ndim != 3 or x.shape[0] != self._n_batch:
            raise ValueError(
                f"a chunk should have the size [{self._n_batch}, channels, any], where the first "
                f"is the stream's batch, got {list(np.shape(chunk))}"
            )
        return x, batched

    def _kind_for(self, x: NDArray[Any]) -> _Kind:
        kind = self._state.kind
        if kind is None or self._state.counts[0] == 0:
            return self._kind_of(x.shape[1], x.dtype)
        if x.shape[1] != kind.channels[0]:
            raise ValueError(
                f"a chunk should have the size [{self._n_batch}, {kind.channels[0]}, any], the "
                f"stream's batch and channels, got {list(x.shape)}"
            )
        if x.dtype != kind.dtype:
            raise TypeError(
                f"a chunk should have the dtype of those before it, {kind.dtype}, got {x.dtype}: "
                "flush or reset the stream to begin sequences of another"
            )
        return kind

    def _new_result(
        self,
        kind: _Kind,
        length: int,
        batched: bool,
        x: NDArray[Any],
        out: NDArray[Any] | None,
    ) -> NDArray[Any]:
        shape = self._n_batch, kind.channels[self._result], length
        return arrays.new(shape, x.dtype) if out is None else arrays.target(out, shape, batched, x)

    def _take(self, state: _State, x: NDArray[Any], ends: list[int], y: NDArray[Any]) -> None:
        """Take a chunk, in pieces; y has the outputs that become final."""
        assert state.kind is not None
        counts, piece = state.counts, state.kind.piece
        n, begin, inputs = x.shape[2], counts[self._result], counts[0]
        for at in range(0, n, piece):
            to = min(n, at + piece)
            if self._readers[0]:
                self._room(state, 0, to - at)[...] = x[:, :, at:to]
            else:  # a network without layers
                y[:, :, at:to] = x[:, :, at:to]
            counts[0] = inputs + to
            self._compute(state, ends if to == n else self._counts(inputs + to), y, begin)

    def _piece(self, dtype: np.dtype[Any], channels: Sequence[int]) -> int:
        widest = max(map(operator.mul, self._rates, channels))
        width = self._n_batch * dtype.itemsize * widest
        return max(1, int(_PIECE_BYTES / width)) if width else 1 << 30

    def _compute(self, state: _State, ends: list[int], y: NDArray[Any], begin: int) -> None:
        """Compute all values up to `ends`; y has those of the result from `begin` on."""
        data, origins, counts = state.data, state.origins, state.counts
        for step in self._plan:
            target = step.target
            first, last = counts[target], ends[target]
            if last <= first:
                continue
            if target == self._result:
                out = y[:, :, first - begin : last - begin]
            else:
                out = self._room(state, target, last - first)
            given, froms = [], []
            for value in step.sources:
                origin = origins[value]
                given.append(data[value][:, :, : counts[value] - origin])
                froms.append(origin)
            step.compute(given, froms, first, out)
            counts[target] = last

    def _room(self, state: _State, value: int, n: int) -> NDArray[Any]:
        """Return where to write the next n positions of a value, its history moved if need be."""
        data = state.data[value]
        end = state.counts[value] - state.origins[value]
        if data is None or end + n > data.shape[2]:
            data, end = self._moved(state, value, n)
        room: NDArray[Any] = data[:, :, end : end + n]
        return room

    def _moved(self, state: _State, value: int, n: int) -> tuple[NDArray[Any], int]:
        """Move what is needed of a history to an array with room for n positions more.

        Returns the array and where the history ends there. It is neither the one that the stream
        goes back to if this call fails, nor the one that holds the history now.
        """
        origin = self._needed_from(value, state.counts)
        keep = state.counts[value] - origin
        data = self._spare(state, value, keep, n)
        if keep:
            begin = origin - state.origins[value]
            data[:, :, :keep] = state.data[value][:, :, begin : begin + keep]
        state.data[value], state.origins[value] = data, origin
        return data, keep

    def _spare(self, state: _State, value: int, keep: int, n: int) -> NDArray[Any]:
        kind = state.kind
        assert kind is not None
        used, used_too = self._state.data[value], state.data[value]
        channels, dtype = kind.channels[value], kind.dtype
        return self._pools[value].take(channels, dtype, keep + n, keep, used, used_too)

    def _needed_from(self, value: int, counts: Sequence[int]) -> int:
        """Return the first position of a value that outputs to come read."""
        needed = counts[value]
        for operation, flow, source in self._readers[value]:
            output, sources = counts[operation.target], [counts[v] for v in operation.sources]
            needed = min(needed, flow.first_read(source, output, sources))
        return needed

    # ---- counts

    def _initial(self) -> _State:
        n = self._n_values
        return _State([None] * n, [0] * n, [0] * n, None)

    def _counts(self, inputs: int) -> list[int]:
        """Return how many positions of each value are final after so many inputs."""
        counts = [0] * self._n_values
        counts[0] = inputs
        for step in self._plan:
            counts[step.target] = step.final(step.of_sources(counts))
        return counts

    def _produced(self, inputs: int) -> int:
        return self._counts(inputs)[self._result]

    def _inputs(self) -> int:
        return self._state.counts[0]

    def _start_all(self) -> None:
        self._state = self._initial()

    def _totals(self, inputs: int) -> list[int]:
        """Return how many positions of each value there are if the sequences end here."""
        totals = [0] * self._n_values
        totals[0] = inputs
        for operation, flow in self._steps():
            sources = [totals[value] for value in operation.sources]
            try:
                total = totals[operation.target] = flow.total(sources)
            except ValueError as error:
                raise ValueError(f"{place_of(operation)}: {error}") from None
            if isinstance(operation, Convolve) and operation.addition is not None:
                _check_addition(operation.addition, [total, *sources[1:]])
        return totals

    # ---- the end, and the state

    def flush(self, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """End the sequences: return the outputs that waited for more, and start anew.

        Parameters
        ----------
        out : ndarray of the result's shape and dtype, optional
            Where to write the result.

        Returns
        -------
        ndarray of shape (N, C_out, m)
            Of the dtype of the chunks.

        Raises
        ------
        ValueError
            If `out` does not fit, or a layer does not take sequences of this length: too short for
            reflection, or branches of different lengths. The stream is as before then.
        MemoryError
            If the result or a history cannot be allocated.

        Notes
        -----
        Sequences too short for a single output give none, where the whole-sequence call raises.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import Conv1d, ReLU, Sequential
        >>> stream = Sequential(Conv1d(1, 1, 3, padding="same"), ReLU()).stream()
        >>> stream(np.ones((1, 1, 4), np.float32)).shape, stream.flush().shape
        ((1, 1, 3), (1, 1, 1))
        """
        with self._guard:
            after = self._state.copy()
            totals = self._totals(after.counts[0])
            begin = after.counts[self._result]
            kind = self._kind_now()
            x = np.empty(0, kind.dtype)
            y = self._new_result(kind, totals[self._result] - begin, True, x, out)
            self._compute(after, totals, y, begin)
            self._state = self._initial()
            return arrays.delivered(y, True, out)

    def _kind_now(self) -> _Kind:
        """Return the kind of the sequences; of new ones, that of the last or of the layers'."""
        if self._state.kind is not None:
            return self._state.kind
        if self._kinds:
            return next(iter(self._kinds.values()))
        return _Kind(np.dtype(np.float32), (0,) * self._n_values, 1)

    def _start_some(self, chosen: list[int]) -> None:
        state = self._state
        counts = state.counts
        for operation, flow in self._steps():
            sources = [counts[v] for v in operation.sources]
            if not flow.restarts(counts[operation.target], sources):
                self._refuse_restart(chosen, place_of(operation))
        after = state.copy()
        for value, data in enumerate(state.data):
            if data is not None:
                moved, end = self._moved(after, value, 0)
                moved[chosen, :, :end] = 0
        self._state = after

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return copies of what the stream remembers, as arrays that ``np.savez`` can store.

        Returns
        -------
        dict of str to ndarray
            'layer', which names the network and its parameters, 'position', the number of inputs so
            far, 'dtype', that of the chunks, and 'history.V', the positions of value V that later
            outputs need: value 0 is the input, and every layer makes one more.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import Conv1d, Sequential
        >>> stream = Sequential(Conv1d(1, 1, 3), Conv1d(1, 1, 1)).stream()
        >>> y = stream(np.ones((1, 9), np.float32))
        >>> list(stream.state_dict())
        ['layer', 'position', 'dtype', 'history.0', 'history.1']
        """
        with self._guard:
            state = self._state
            own = {
                "layer": np.array(self._fingerprint()),
                "position": np.array(state.counts[0]),
                "dtype": np.array("" if state.counts[0] == 0 else str(self._kind_now().dtype)),
            }
            return own | {
                f"history.{value}": self._history(state, value)
                for value in self._kept(state.counts)
            }

    def _kept(self, counts: Sequence[int]) -> list[int]:
        """Return the values that have a history."""
        return [v for v in range(self._n_values) if self._readers[v]] if counts[0] else []

    def _history(self, state: _State, value: int) -> NDArray[Any]:
        kind = state.kind
        assert kind is not None
        needed, origin = self._needed_from(value, state.counts), state.origins[value]
        data, n = state.data[value], state.counts[value] - needed
        if data is None:
            shape = self._n_batch, kind.channels[value], 0
            return np.empty(shape, arrays.widened(np.empty(0, kind.dtype)).dtype)
        part: NDArray[Any] = data[:, :, needed - origin : needed - origin + n]
        return np.array(arrays.widened(part), order="C")

    def load_state_dict(self, state_dict: Mapping[str, ArrayLike]) -> None:
        """Go on where `state_dict` was taken.

        Parameters
        ----------
        state_dict : mapping of str to array-like
            From `state_dict` of a stream of the same network, parameters and batch.

        Raises
        ------
        ValueError
            If it is the state of another network or not a state. The stream is as before then.
        TypeError
            If `state_dict` is not a mapping.
        MemoryError
            If a history cannot be allocated.

        Examples
        --------
        >>> from fastconv1d import Conv1d, Sequential
        >>> stream = Sequential(Conv1d(1, 1, 3)).stream()
        >>> stream.load_state_dict(stream.state_dict())
        """
        with self._guard:
            self._state = self._loaded(state_dict)

    def _loaded(self, state_dict: Mapping[str, ArrayLike]) -> _State:
        given = checked_state(state_dict, ("layer", "position", "dtype"), self._fingerprint())
        position = int(given["position"])
        after = self._initial()
        after.counts = self._counts(position)
        histories = [f"history.{value}" for value in self._kept(after.counts)]
        own = [name for name in given if name not in ("layer", "position", "dtype")]
        if sorted(own) != sorted(histories):
            raise ValueError(
                f"the state at position {position} should have the histories {histories}, "
                f"got {geometry.shown(own)}"
            )
        if position:
            after.kind = self._saved_kind(given)
            for value in self._kept(after.counts):
                self._load_history(after, value, given[f"history.{value}"])
        return after

    def _saved_kind(self, given: Mapping[str, NDArray[Any]]) -> _Kind:
        name = name_in(given["dtype"])
        first = given["history.0"] if "history.0" in given else np.empty((0, 0, 0))
        try:
            return self._kind_of(first.shape[1], dtype_of(name))
        except (TypeError, IndexError, ValueError):
            raise ValueError(
                "the state should be of chunks that the network takes, got dtype "
                f"{geometry.shown(name)} and a history of size {list(first.shape)}"
            ) from None

    def _load_history(self, state: _State, value: int, history: NDArray[Any]) -> None:
        kind = state.kind
        assert kind is not None
        needed = self._needed_from(value, state.counts)
        shape = (self._n_batch, kind.channels[value], state.counts[value] - needed)
        stored = arrays.widened(np.empty(0, kind.dtype)).dtype
        if history.shape != shape or history.dtype != stored:
            raise ValueError(
                f"history.{value} should have the shape {list(shape)} and dtype {stored}, "
                f"got {list(history.shape)} and {history.dtype}"
            )
        state.data[value] = data = self._spare(state, value, shape[2], 0)
        state.origins[value] = needed
        data[:, :, : shape[2]] = history

    def _fingerprint(self) -> str:
        checksum = 0
        for leaf in self._module._leaves().values():
            for array in leaf._parameters().values():
                checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
        return f"{self._module!r}, parameters {checksum:08x}"


def _lowered(network: Any) -> list[Operation]:
    operations: list[Operation] = []
    network._lower(operations, 0, "")
    return operations


def _flow_of(operation: Operation) -> Flow:
    try:
        return operation.flow()
    except ValueError as error:
        raise ValueError(f"{place_of(operation)}: {error}") from None


def _check_addition(addition: Combine, lengths: Sequence[int]) -> None:
    try:
        check_one_length(lengths)
    except ValueError as error:
        raise ValueError(f"{place_of(addition)}: {error}") from None
