"""Layers over a signal that arrives in chunks: outputs as they become final, the same bits.

A stream keeps the positions of its input that later outputs read and runs the layer's packed
weights over them and each new chunk. The bits of an output depend on neither its place nor what
follows it (see docs/design.md), so the outputs of all chunks, one after another, are those of one
call on the whole signal.
"""

from __future__ import annotations

import zlib
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .core import arrays, geometry
from .core.base import assign, setting
from .core.convolution import Convolution
from .core.forward import activate
from .core.ranges import Ranges
from .kernels.direct_engine import DepthwiseRing, Guard, finish, most_positions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import SupportsIndex

    from numpy.typing import ArrayLike, NDArray

# Chunks up to this length are appended to the history and computed there; longer ones are read
# where they are, after the few outputs that need both.
_SMALL = 64


class _State:
    """Where a stream is. A call makes a new one beside it, which takes its place in one piece.

    No tuple: CPython 3.11 keeps two thousand of those that a constructor has made and dropped.

    Attributes
    ----------
    data : ndarray
        The history is ``data[:, :, :end]``; `origin` is the position of its first element.
    first : ndarray
        The inputs that wait for their reflection.
    inputs, positions : int
        Of the sequence, so far.
    next : int
        The next output.
    """

    __slots__ = ("data", "end", "first", "inputs", "next", "origin", "positions")

    def __init__(
        self,
        data: NDArray[Any],
        first: NDArray[Any],
        end: int = 0,
        origin: int = 0,
        inputs: int = 0,
        positions: int = 0,
        next: int = 0,
    ) -> None:
        self.data, self.first, self.end, self.origin = data, first, end, origin
        self.inputs, self.positions, self.next = inputs, positions, next


class _Stream:
    """What both streams share: positions come in, outputs that no later one changes go out.

    A subclass says which positions outputs read. Positions are those of the padded input of a
    `Conv1d`, and of the input of a `ConvTranspose1d`; outputs are counted from the first that the
    whole-sequence call has, and those of a `ConvTranspose1d` from before its cropping.
    """

    _reach: int  # positions that an output and those not yet final need before the newest one
    _tail: int  # newest positions that are kept in any case

    def __init__(self, module: Convolution, n_batch: int = 1) -> None:
        self._n_batch = geometry.as_index("n_batch", n_batch)
        if self._n_batch < 1:
            raise ValueError(f"n_batch should be positive, got n_batch={self._n_batch}")
        self._module = _snapshot(module)
        pack = self._module._pack()
        self._spec, (self._weight, self._bias) = pack.spec, pack.parameters
        self._layer = pack.prepared
        self._ranges = Ranges(self._spec, self._weight, self._bias, self._layer)
        self._stride, self._span = self._spec.stride, self._spec.span
        self._left, self._right = self._spec.pads()
        self._before, self._after = self._spec.steps.before, self._spec.steps.after
        self._channels_last = self._spec.channels_last
        self._width, self._dtype = (self._n_batch, module.in_channels), module.dtype
        self._guard = Guard("stream")
        self._ring: DepthwiseRing | None = None
        self._first = arrays.new((*self._width, 0), self._dtype)
        self._set_up()
        self._small = max(self._reach, _SMALL)
        # Two: the history that a call leaves behind is never written over the one before it.
        shape = (*self._width, self._reach + self._small)
        self._buffers = arrays.new(shape, self._dtype), arrays.new(shape, self._dtype)
        self._state = self._initial()

    def _set_up(self) -> None:
        raise NotImplementedError

    def _final(self, positions: int) -> int:
        """Return how many outputs are final after so many positions."""
        raise NotImplementedError

    def _initial(self) -> _State:
        return _State(self._buffers[0], self._first, next=self._final(0))

    def _other(self, data: NDArray[Any]) -> NDArray[Any]:
        """Return the buffer that does not hold a state's history."""
        return self._buffers[data is self._buffers[0]]

    def _now(self) -> _State:
        """Return where the stream is; what the ring has taken is copied, and goes on in it."""
        state, ring = self._state, self._ring
        if ring is None or not ring.active:
            return state
        data = self._other(state.data)  # the ring does not need the other
        taken = ring.copy_to(data)
        positions = state.positions + taken
        return _State(
            data,
            state.first,
            self._reach,
            positions - self._reach,
            state.inputs + taken,
            positions,
            state.next + taken,
        )

    def _become(self, state: _State) -> None:
        """Be in another state from here on."""
        if self._ring is None:
            self._state = state
        else:
            assign((setting(self, "_state", state), partial(self._ring.stop)))

    @property
    def module(self) -> Convolution:
        """The layer that the stream applies: as it was when the stream was made."""
        return self._module

    @property
    def n_batch(self) -> int:
        """How many sequences run side by side."""
        return self._n_batch

    def __call__(self, chunk: ArrayLike, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Take the next inputs of every sequence and return the outputs that became final.

        Parameters
        ----------
        chunk : ndarray of shape (N, C_in, n) or, for one sequence, (C_in, n)
            Of the layer's dtype; n may be 0 and differ from call to call. A layer of layout 'NLC'
            takes (N, n, C_in) or (n, C_in).
        out : ndarray of the result's shape and dtype, optional
            Where to write the result; `output_length` says how long it is.

        Returns
        -------
        ndarray of shape (N, C_out, m) or (C_out, m)
            In the layer's layout; `out` if it was given.

        Raises
        ------
        ValueError
            If the chunk has another batch or number of channels, or `out` does not fit.
        TypeError
            If the chunk has another dtype.
        MemoryError
            If the result cannot be allocated.

        Notes
        -----
        What is refused leaves the stream as it was.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import Conv1d
        >>> stream = Conv1d(2, 3, 5, stride=2, padding="causal").stream()
        >>> [stream(np.ones((2, n), np.float32)).shape for n in (1, 0, 4)]
        [(3, 1), (3, 0), (3, 2)]
        """
        ring = self._ring
        if ring is not None and out is None:
            y = self._advanced(ring, chunk)
            if y is not None:
                return y
        with self._guard:
            x, batched = self._checked(chunk)
            state = self._now()
            length = self._final(self._positions_of(state.inputs + x.shape[2])) - state.next
            y = self._result(length, batched, x, out)
            self._become(self._taking(state, x, y.swapaxes(1, 2) if self._channels_last else y))
            if ring is not None and 1 <= x.shape[2] <= most_positions():
                self._enter_ring(ring)
            return arrays.delivered(y, batched, out)

    def output_length(self, n_inputs: int) -> int:
        """Return how many outputs the next chunk gives.

        Parameters
        ----------
        n_inputs : int
            How many positions the chunk has.

        Returns
        -------
        int

        Raises
        ------
        ValueError, TypeError
            If `n_inputs` is negative or not an integer.

        Examples
        --------
        >>> from fastconv1d import Conv1d
        >>> Conv1d(1, 1, 3).stream().output_length(10)
        8
        """
        n = geometry.as_index("n_inputs", n_inputs)
        if n < 0:
            raise ValueError(f"n_inputs should not be negative, got n_inputs={n}")
        with self._guard:
            state = self._now()
            return self._final(self._positions_of(state.inputs + n)) - state.next

    def flush(self, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """End the sequences: return the outputs that waited for more, and start anew.

        Parameters
        ----------
        out : ndarray of the result's shape and dtype, optional
            Where to write the result.

        Returns
        -------
        ndarray of shape (N, C_out, m)

        Raises
        ------
        ValueError
            If `out` does not fit, or the sequences are too short for reflection, as in
            `fastconv1d.conv1d`. The stream is as before then.
        MemoryError
            If the result cannot be allocated.

        Notes
        -----
        Sequences too short for a single output give none, where the whole-sequence call raises.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import Conv1d
        >>> stream = Conv1d(1, 1, 3, padding="same").stream()
        >>> stream(np.ones((1, 1, 4), np.float32)).shape, stream.flush().shape
        ((1, 1, 3), (1, 1, 1))
        """
        with self._guard:
            state = self._now()
            last = self._last(state)
            y = self._result(last - state.next, True, state.data, out)
            self._end_with(state, y.swapaxes(1, 2) if self._channels_last else y, last)
            self._become(self._initial())
            return arrays.delivered(y, True, out)

    def reset(self, items: SupportsIndex | Iterable[SupportsIndex] | None = None) -> None:
        """Start new sequences, dropping what the old ones still had to give.

        Parameters
        ----------
        items : int or iterable of int, optional
            Which of the batch; all by default. The others go on, which needs a layer whose new
            sequence is in step with them.

        Raises
        ------
        ValueError
            If some but not all items start anew and would give their outputs at other times than
            the rest: a look-ahead, or a position between two windows of a stride. Also if there is
            no such item.
        TypeError
            If an item is not an integer.

        Examples
        --------
        >>> from fastconv1d import Conv1d
        >>> stream = Conv1d(1, 1, 3, padding="causal").stream(n_batch=8)
        >>> stream.reset([2, 5])
        """
        chosen = self._chosen(items)
        with self._guard:
            if len(chosen) == self._n_batch:
                self._become(self._initial())
                return
            state = self._now()
            if not chosen or not state.inputs:
                return
            if not self._in_step(state):
                raise ValueError(
                    "some items of a batch can start anew only where their outputs stay in step "
                    "with the others': the layer should be causal (without a look-ahead) and "
                    "between two windows; use a stream for each sequence otherwise, got "
                    f"items={geometry.shown(chosen)} of n_batch={self._n_batch} at position "
                    f"{state.inputs} of {self._module!r}"
                )
            history = self._history(state)
            history[chosen] = 0
            self._become(self._at(state.inputs, history, self._other(state.data)))

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return copies of what the stream remembers, as arrays that ``np.savez`` can store.

        Returns
        -------
        dict of str to ndarray
            'layer', which names the layer and its parameters, 'position', the number of inputs so
            far, and 'history', the inputs that later outputs need.

        Examples
        --------
        >>> from fastconv1d import Conv1d
        >>> list(Conv1d(1, 1, 3).stream().state_dict())
        ['layer', 'position', 'history']
        """
        with self._guard:
            state = self._now()
            return {
                "layer": np.array(self._fingerprint()),
                "position": np.array(state.inputs),
                "history": self._history(state),
            }

    def load_state_dict(self, state_dict: Mapping[str, ArrayLike]) -> None:
        """Go on where `state_dict` was taken.

        Parameters
        ----------
        state_dict : mapping of str to array-like
            From `state_dict` of a stream of the same layer, parameters and batch.

        Raises
        ------
        ValueError
            If it is the state of another layer or not a state. The stream is as before then.
        TypeError
            If `state_dict` is not a mapping.

        Examples
        --------
        >>> from fastconv1d import Conv1d
        >>> stream = Conv1d(1, 1, 3).stream()
        >>> stream.load_state_dict(stream.state_dict())
        """
        if not (hasattr(state_dict, "keys") and hasattr(state_dict, "__getitem__")):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
        names = ["layer", "position", "history"]
        if sorted(state_dict.keys()) != sorted(names):
            raise ValueError(
                f"a stream's state should have the keys {names}, "
                f"got {geometry.shown(list(state_dict.keys()))}"
            )
        layer, position, history = (np.asarray(state_dict[name]) for name in names)
        # not by str(), which NumPy leaves broken for the thread where a signal interrupts it
        name = layer.item() if layer.shape == () else layer
        if not isinstance(name, str) or name != self._fingerprint():
            raise ValueError(
                f"the state should be that of the layer {self._fingerprint()}, "
                f"got that of {geometry.shown(name)}"
            )
        if position.shape != () or position.dtype.kind not in "iu" or position < 0:
            raise ValueError(
                f"the position should be a non-negative integer, got {geometry.shown(position)}"
            )
        expected = (*self._width, self._held(int(position)))
        if history.shape != expected or history.dtype != self._dtype:
            raise ValueError(
                f"the history should have the shape {list(expected)} and dtype {self._dtype}, "
                f"got {list(history.shape)} and {history.dtype}"
            )
        with self._guard:
            self._become(self._at(int(position), history, self._other(self._now().data)))

    def __getstate__(self) -> dict[str, Any]:
        return {"module": self._module, "n_batch": self._n_batch, "state": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["module"], state["n_batch"])  # type: ignore[misc]
        self.load_state_dict(state["state"])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._module!r}, n_batch={self._n_batch})"

    # ---- taking chunks

    def _checked(self, chunk: ArrayLike) -> tuple[NDArray[Any], bool]:
        x = arrays.operand(chunk)
        batched = x.ndim == 3
        if x.ndim == 2 and self._n_batch == 1:
            x = x[np.newaxis]
        if self._channels_last and x.ndim == 3:
            x = x.swapaxes(1, 2)
        if x.ndim != 3 or x.shape[:2] != self._width:
            sizes = [str(self._n_batch), str(self._width[1]), "any"]
            if self._channels_last:
                sizes[1:] = sizes[:0:-1]
            raise ValueError(
                f"a chunk should have the size [{', '.join(sizes)}], the stream's batch and "
                f"channels, got {list(np.shape(chunk))}"
            )
        if x.dtype != self._dtype:
            raise TypeError(
                f"Input type ({x.dtype}) and weight type ({self._dtype}) should be the same"
            )
        return self._ranges.inputs(x), batched

    def _result(
        self, length: int, batched: bool, x: NDArray[Any], out: NDArray[Any] | None
    ) -> NDArray[Any]:
        channels = self._module.out_channels
        shape = (self._n_batch, channels, length)
        if self._channels_last:
            shape = (self._n_batch, length, channels)
        if out is None:
            return arrays.new(shape, self._dtype)
        return arrays.target(out, shape, batched, x, *self._buffers)

    def _positions_of(self, inputs: int) -> int:
        """Return how many positions there are after so many inputs of a sequence."""
        return inputs

    def _taking(self, state: _State, x: NDArray[Any], y: NDArray[Any]) -> _State:
        """Write the outputs that a chunk makes final; return the state after it."""
        return self._feed(state, x, y, 0)[0]

    def _feed(self, state: _State, x: NDArray[Any], y: NDArray[Any], at: int) -> tuple[_State, int]:
        """Return the state after more positions and inputs, and where y[:, :, at:] is full up to.

        The outputs that become final are written to y; the state's own history stays what it is.
        """
        n, first = x.shape[2], state.next
        positions = state.positions + n
        last = self._final(positions)
        if n <= self._small:
            data, end, origin = self._joined(state, x)
            if last > first:
                self._compute(data[:, :, :end], origin, first, last, y, at)
        else:
            begin = state.positions
            alone = min(max(self._spec.first_from(begin), first), last)
            if alone > first:
                head = x[:, :, : self._spec.read_by(alone) - begin]
                data, end, origin = self._moved(state, head)
                self._compute(data[:, :, :end], origin, first, alone, y, at)
            if last > alone:
                self._compute(x, begin, alone, last, y, at + alone - first)
            data, end = self._other(state.data), self._kept(positions, last)
            data[:, :, :end] = x[:, :, n - end :]
            origin = positions - end
        after = _State(data, state.first, end, origin, state.inputs + n, positions, last)
        return after, at + last - first

    def _joined(self, state: _State, x: NDArray[Any]) -> tuple[NDArray[Any], int, int]:
        """Write positions behind the history, in the other buffer where there is no room.

        Returns the buffer, where both end, and the position of its first element.
        """
        end = state.end + x.shape[2]
        if end > state.data.shape[2]:
            return self._moved(state, x)
        state.data[:, :, state.end : end] = x
        return state.data, end, state.origin

    def _moved(self, state: _State, x: NDArray[Any]) -> tuple[NDArray[Any], int, int]:
        """Write what is needed of the history, and positions behind it, to the other buffer."""
        data, keep = self._other(state.data), self._kept(state.positions, state.next)
        end = keep + x.shape[2]
        data[:, :, :keep] = state.data[:, :, state.end - keep : state.end]
        data[:, :, keep:end] = x
        return data, end, state.origin + state.end - keep

    def _kept(self, positions: int, output: int) -> int:
        """Return how many of the newest positions outputs from `output` on need."""
        return min(positions, max(positions - self._spec.first_read(output), self._tail))

    def _compute(
        self, x: NDArray[Any], origin: int, first: int, last: int, y: NDArray[Any], at: int
    ) -> None:
        """Write outputs first..last to y[:, :, at:]; x has every position they need."""
        whole = at == 0 and last - first == y.shape[2]
        target = y if whole else y[:, :, at : at + last - first]
        self._ranges.compute(x, origin, first, target)

    # ---- the end, and the state

    def _last(self, state: _State) -> int:
        """Return how many outputs the sequences have if they end here."""
        raise NotImplementedError

    def _end_with(self, state: _State, y: NDArray[Any], last: int) -> None:
        """Write the outputs up to `last`."""
        raise NotImplementedError

    def _in_step(self, state: _State) -> bool:
        """Return whether a new sequence's outputs would come with those of the running ones."""
        raise NotImplementedError

    def _chosen(self, items: Any) -> list[int]:
        if items is None:
            return list(range(self._n_batch))
        try:
            listed = list(items)
        except TypeError:
            listed = [items]
        chosen = sorted({geometry.as_index("items", item) for item in listed})
        if chosen and not 0 <= chosen[0] <= chosen[-1] < self._n_batch:
            raise ValueError(
                f"items should be from 0 to {self._n_batch - 1}, got {geometry.shown(chosen)}"
            )
        return chosen

    def _fingerprint(self) -> str:
        checksum = zlib.crc32(self._weight)
        if self._bias is not None:
            checksum = zlib.crc32(self._bias, checksum)
        return f"{self._module!r} of {self._dtype}, parameters {checksum:08x}"

    def _history(self, state: _State) -> NDArray[Any]:
        keep = self._kept(state.positions, state.next)
        return state.data[:, :, state.end - keep : state.end].copy()

    def _held(self, inputs: int) -> int:
        positions = self._positions_of(inputs)
        return self._kept(positions, self._final(positions))

    def _at(self, inputs: int, history: NDArray[Any], data: NDArray[Any]) -> _State:
        """Return the state after so many inputs, with a history that is written to a buffer."""
        positions, end = self._positions_of(inputs), history.shape[2]
        data[:, :, :end] = history
        final = self._final(positions)
        return _State(data, self._first, end, positions - end, inputs, positions, final)

    # ---- short chunks of a depthwise layer

    def _advanced(self, ring: DepthwiseRing, chunk: Any) -> NDArray[Any] | None:
        """Return the outputs of a short plain chunk, by compiled code alone; otherwise None."""
        if self._channels_last:
            if type(chunk) is not np.ndarray or chunk.ndim < 2:
                return None
            chunk = chunk.swapaxes(-1, -2)
        y: NDArray[Any] | None = ring.advance(chunk)
        if y is None:
            return None
        if self._after is not None:
            # One row where no channel has a parameter of its own: 1,536 rows of one took 150 us.
            alike = self._after.alpha is None
            rows = y.reshape(1, 1, -1) if alike else y.reshape(self._n_batch, -1, y.shape[-1])
            finish(self._after, rows, None, 1.0, True)
        return np.ascontiguousarray(y.swapaxes(-1, -2)) if self._channels_last else y

    def _enter_ring(self, ring: DepthwiseRing) -> None:
        """Hand the history to the compiled path for short chunks."""
        state = self._state
        if state.end >= self._reach:
            ring.enter(state.data[:, :, state.end - self._reach : state.end])


class StreamingConv1d(_Stream):
    """A `Conv1d` over sequences that arrive in chunks of any length.

    Parameters
    ----------
    module : Conv1d
        The layer. The stream keeps the parameters that it has now.
    n_batch : int, default 1
        How many sequences run side by side.

    Raises
    ------
    ValueError
        If the padding cannot be known before the end: ``padding_mode='circular'``, or
        'same_upper' and 'same_lower' with a stride. Also for zeros that a `pre_activation` changes.
    TypeError
        If `module` is not a `Conv1d`.
    MemoryError
        If the history cannot be allocated.

    See Also
    --------
    Conv1d.stream : Makes one.

    Notes
    -----
    The outputs of all chunks and of `flush`, one after another, are bit for bit those of one call
    on the whole sequence; for layers of the BLAS engine, such as complex ones, those of a call in
    deterministic mode (`use_deterministic_algorithms`). An output is returned with the input that
    completes its window, so padding on the right is a look-ahead, resolved by `flush`; reflection
    on the left waits for the inputs that it mirrors.

    The memory is that of ``2*dilation*(K - 1) + 128`` positions or four times the reach of a longer
    kernel, whatever the chunks, and allocated once. A call that fails or is interrupted leaves the
    stream as before or as after it. A stream belongs to one
    thread at a time; a call beside another is a RuntimeError.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import Conv1d, StreamingConv1d
    >>> layer = Conv1d(2, 3, 5, padding=2)
    >>> x = np.random.default_rng(0).standard_normal((1, 2, 20), dtype=np.float32)
    >>> stream = StreamingConv1d(layer)
    >>> parts = [stream(x[:, :, :7]), stream(x[:, :, 7:]), stream.flush()]
    >>> [part.shape[2] for part in parts]
    [5, 13, 2]
    >>> bool((np.concatenate(parts, axis=2) == layer(x)).all())
    True
    """

    def __init__(self, module: Convolution, n_batch: int = 1) -> None:
        if not isinstance(module, Convolution) or module.transposed:
            raise TypeError(f"module should be a Conv1d, got {type(module).__name__}")
        super().__init__(module, n_batch)

    def _set_up(self) -> None:
        module = self._module
        if geometry.pads_follow_length(module.padding, self._stride):
            raise ValueError(
                "a stream cannot know its padding before the end: padding should not be "
                f"'same_upper' or 'same_lower' with a stride, got padding={module.padding!r} and "
                f"stride={self._stride}"
            )
        self._mode = module.padding_mode if self._left or self._right else "zeros"
        if self._mode == "circular":
            raise ValueError(
                "a stream cannot wrap around: padding_mode should be 'zeros', 'reflect' or "
                f"'replicate', got padding_mode={module.padding_mode!r}"
            )
        self._tail = 0
        if self._mode == "replicate":
            self._tail = 1
        elif self._mode == "reflect":
            self._tail = self._right + 1
        # Reflection reads the inputs that it mirrors before there is an output.
        self._waits = self._left if self._mode == "reflect" else 0
        self._reach = max(self._span - 1, self._tail)
        if self._waits:
            self._first = arrays.new((*self._width, self._waits + 1), self._dtype)
        depthwise = module.groups == module.in_channels == module.out_channels
        if self._mode == "zeros" and (self._left or self._right) and self._layer is not None:
            self._check_zeros()
        depthwise = depthwise and self._before is None
        if self._layer is not None and depthwise and self._stride == 1:
            self._ring = DepthwiseRing(
                self._layer,
                self._weight,
                self._bias,
                self._n_batch,
                module.dilation[0],
                self._reach,
                self._guard,
            )

    def _check_zeros(self) -> None:
        """Refuse a pre_activation of the positions that the stream pads with, if it changes 0."""
        if self._before is None:
            return
        zeros = np.zeros((1, self._module.in_channels, 1), self._module.dtype)
        if activate(self._before, zeros, "NCL").any():
            raise ValueError(
                "a stream pads its input before the pre_activation, which should keep 0, "
                f"got pre_activation={geometry.shown(self._module.pre_activation)} with padding"
            )

    def _final(self, positions: int) -> int:
        return max(0, (positions - self._span) // self._stride + 1)

    def _positions_of(self, inputs: int) -> int:
        return inputs + self._left if inputs > self._waits else 0

    def _taking(self, state: _State, x: NDArray[Any], y: NDArray[Any]) -> _State:
        inputs = state.inputs + x.shape[2]
        if inputs <= self._waits:
            state.first[:, :, state.inputs : inputs] = x
            return _State(state.data, state.first, inputs=inputs, next=state.next)
        if state.inputs > self._waits or self._left == 0:
            return super()._taking(state, x, y)
        after = self._beginning(state, x, y)
        after.inputs = inputs
        return after

    def _beginning(self, state: _State, x: NDArray[Any], y: NDArray[Any]) -> _State:
        """Feed the padding on the left, the inputs that waited for it, and the chunk."""
        shape = (*x.shape[:2], self._left)
        at = 0
        if self._mode == "zeros":
            state, at = self._feed(state, np.broadcast_to(np.zeros((), x.dtype), shape), y, at)
        elif self._mode == "replicate":
            state, at = self._feed(state, np.broadcast_to(x[:, :, :1], shape), y, at)
        else:
            missing = self._waits + 1 - state.inputs
            first = state.first
            first[:, :, state.inputs :] = x[:, :, :missing]
            state, at = self._feed(state, first[:, :, :0:-1], y, at)
            state, at = self._feed(state, first, y, at)
            x = x[:, :, missing:]
        return self._feed(state, x, y, at)[0]

    def _last(self, state: _State) -> int:
        if self._mode == "reflect" and state.inputs:
            shape = (*self._width, state.inputs)
            geometry.check_padding_mode("reflect", shape, self._left, self._right)
        positions = self._positions_of(state.inputs)
        return self._final(positions + self._right) if positions else 0

    def _end_with(self, state: _State, y: NDArray[Any], last: int) -> None:
        if last == state.next:
            return
        shape = (*self._width, self._right)
        newest = state.data[:, :, : state.end]
        if self._mode == "zeros":
            padding = np.broadcast_to(np.zeros((), self._dtype), shape)
        elif self._mode == "replicate":
            padding = np.broadcast_to(newest[:, :, -1:].copy(), shape)
        else:
            padding = newest[:, :, state.end - 1 - self._right : state.end - 1][:, :, ::-1].copy()
        self._feed(state, padding, y, 0)

    def _in_step(self, state: _State) -> bool:
        window = state.positions - self._spec.first_read(state.next)
        zeros = self._mode == "zeros" or self._left == 0
        return zeros and self._tail <= self._left < self._span and window == self._left

    def _held(self, inputs: int) -> int:
        return inputs if inputs <= self._waits else super()._held(inputs)

    def _history(self, state: _State) -> NDArray[Any]:
        if state.inputs <= self._waits:
            return state.first[:, :, : state.inputs].copy()
        return super()._history(state)

    def _at(self, inputs: int, history: NDArray[Any], data: NDArray[Any]) -> _State:
        if inputs > self._waits:
            return super()._at(inputs, history, data)
        # not over the inputs that the state now has
        first = np.concatenate([history, self._first[:, :, inputs:]], axis=2)
        return _State(data, first, inputs=inputs, next=self._final(0))


class StreamingConvTranspose1d(_Stream):
    """A `ConvTranspose1d` over sequences that arrive in chunks of any length.

    Parameters
    ----------
    module : ConvTranspose1d
        The layer. The stream keeps the parameters that it has now.
    n_batch : int, default 1
        How many sequences run side by side.

    Raises
    ------
    ValueError
        If the padding mode is not 'zeros'.
    TypeError
        If `module` is not a `ConvTranspose1d`.
    MemoryError
        If the history cannot be allocated.

    See Also
    --------
    ConvTranspose1d.stream : Makes one.

    Notes
    -----
    The outputs of all chunks and of `flush`, one after another, are bit for bit those of one call
    on the whole sequence; for layers of the BLAS engine, such as complex ones, those of a call in
    deterministic mode (`use_deterministic_algorithms`). An output is returned when no later input
    can add to it, ``stride`` of them with each input once those cropped on the left are past, and
    never one that may be cropped at the end. `flush` returns the rest of the last windows.

    Inputs that later outputs need are kept, not outputs that are half done. The memory is that of
    ``2*(K - 1)*dilation/stride + 128`` positions or four times the reach of a longer kernel,
    whatever the chunks, and allocated once. A call that fails or is interrupted leaves the stream
    as before or as after it. A stream belongs to one
    thread at a time; a call beside another is a RuntimeError.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import ConvTranspose1d, StreamingConvTranspose1d
    >>> layer = ConvTranspose1d(3, 2, 8, stride=4, padding=2)
    >>> x = np.random.default_rng(0).standard_normal((1, 3, 10), dtype=np.float32)
    >>> stream = StreamingConvTranspose1d(layer)
    >>> parts = [stream(x[:, :, :1]), stream(x[:, :, 1:]), stream.flush()]
    >>> [part.shape[2] for part in parts]
    [2, 36, 2]
    >>> bool((np.concatenate(parts, axis=2) == layer(x)).all())
    True
    """

    def __init__(self, module: Convolution, n_batch: int = 1) -> None:
        if not isinstance(module, Convolution) or not module.transposed:
            raise TypeError(f"module should be a ConvTranspose1d, got {type(module).__name__}")
        super().__init__(module, n_batch)

    def _set_up(self) -> None:
        module = self._module
        if module.padding_mode != "zeros" and (self._left or self._right):
            raise ValueError(
                "a stream of a transposed convolution cannot add cropped positions back: "
                f"padding_mode should be 'zeros', got padding_mode={module.padding_mode!r}"
            )
        self._tail = 0
        # The end of the sequence, which only flush knows, crops this many outputs that are final.
        self._excess = self._span + module.output_padding[0] - self._right - self._stride
        held_back = max(0, -self._excess)
        self._reach = -(-(self._span - 1 + held_back) // self._stride) + 1

    def _final(self, positions: int) -> int:
        if positions == 0:
            return self._left
        return max(self._left, positions * self._stride + min(0, self._excess))

    def _last(self, state: _State) -> int:
        if state.inputs == 0:
            return state.next
        return max(self._left, state.inputs * self._stride + self._excess)

    def _end_with(self, state: _State, y: NDArray[Any], last: int) -> None:
        if last > state.next:
            history = state.data[:, :, : state.end]
            self._compute(history, state.origin, state.next, last, y, 0)

    def _in_step(self, state: _State) -> bool:
        return self._left == 0 and self._excess >= 0


def _snapshot(module: Any) -> Any:
    """Return a layer in eval mode that shares the parameters as they are now, and their pack."""
    if not module.training:
        module._pack()  # if it has none yet: one for the layer and all its streams
    copy = module._sharing_parameters()
    return copy.eval() if copy.training else copy
