"""Layers over a signal that arrives in chunks: outputs as they become final, the same bits.

A stream keeps the inputs that later outputs read and runs the layer's packed weights over them and
each new chunk. The bits of an output depend on neither its place nor what follows it (see
docs/design.md), so the outputs of all chunks, one after another, are those of one call on the whole
signal.
"""

from __future__ import annotations

import zlib
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import arrays, geometry
from ..core.base import assign, setting
from ..core.convolution import Convolution
from ..core.sliding import Correlate, convolution
from ..kernels.direct_engine import DepthwiseRing, Guard, finish, most_positions
from .base import SMALL, Pool, Stream, checked_state, dtype_of, name_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray


# Copying so much takes 6 us, as the second call of the engine and what leads to it.
_SMALL_BYTES = 1 << 17


class _State:
    """Where a stream is. A call makes a new one beside it, which takes its place in one piece.

    No tuple: CPython 3.11 keeps two thousand of those that a constructor has made and dropped.

    Attributes
    ----------
    data : ndarray or None
        The history is ``data[:, :, :inputs - origin]``, inputs from position `origin` on.
    origin, inputs, outputs : int
        Of the sequence, so far.
    dtype : numpy.dtype
        Of the chunks.
    """

    __slots__ = ("data", "dtype", "inputs", "origin", "outputs")

    def __init__(
        self, data: Any, origin: int, inputs: int, outputs: int, dtype: np.dtype[Any]
    ) -> None:
        self.data, self.origin, self.inputs, self.outputs = data, origin, inputs, outputs
        self.dtype = dtype


class _LayerStream(Stream):
    """What the streams of both layers share."""

    def __init__(self, module: Convolution, n_batch: int = 1) -> None:
        self._n_batch = self._checked_batch(n_batch)
        self._module = module._as_it_is({})
        pack = self._module._pack()
        self._spec, self._flow = pack.spec, convolution(pack, pack.spec, False)
        self._final = self._flow.final
        self._channels_last = self._spec.channels_last
        self._width, self._dtype = (self._n_batch, module.in_channels), module.dtype
        self._guard = Guard("stream")
        self._ring = self._new_ring()
        self._after = self._spec.steps.after
        self._out_channels = module.out_channels
        # Chunks up to this length are appended to the history and computed there; longer ones are
        # read where they are, after the few outputs that need both.
        position = max(1, self._n_batch * module.in_channels * module.dtype.itemsize)
        self._small = max(self._flow.reach, SMALL, _SMALL_BYTES // position)
        self._pool = Pool(self._n_batch, self._channels_last)
        self._state = self._initial()

    def _new_ring(self) -> DepthwiseRing | None:
        return None

    def _initial(self) -> _State:
        return _State(None, 0, 0, 0, self._dtype)

    def _now(self) -> _State:
        """Return where the stream is; what the ring has taken is copied, and goes on in it."""
        state, ring = self._state, self._ring
        if ring is None or not ring.active:
            return state
        reach = self._flow.reach
        data = self._taken(state, state.dtype, reach, 0)
        taken = ring.copy_to(data)  # which does not need the history
        inputs = state.inputs + taken
        return _State(data, inputs - reach, inputs, state.outputs + taken, state.dtype)

    def _become(self, state: _State) -> None:
        """Be in another state from here on."""
        if self._ring is None:
            self._state = state
        else:
            assign((setting(self, "_state", state), partial(self._ring.stop)))

    def _inputs(self) -> int:
        return self._now().inputs

    def _produced(self, inputs: int) -> int:
        return self._final((inputs,))

    def _start_all(self) -> None:
        self._become(self._initial())

    def _start_some(self, chosen: list[int]) -> None:
        state = self._now()
        if not self._flow.restarts(state.outputs, (state.inputs,)):
            self._refuse_restart(chosen, repr(self._module))
        data, origin = self._moved(state, 0)
        data[chosen] = 0
        self._become(_State(data, origin, state.inputs, state.outputs, state.dtype))

    @property
    def latency(self) -> int:
        """How many inputs later than its own an output comes, at the most.

        The input of an output is the one at its place: that of output `j` of a layer with a stride
        of 2 is input ``2*j``. 0 for a causal layer; what pads on the right, or does not pad, adds
        to it.

        Examples
        --------
        >>> from fastconv1d import Conv1d
        >>> Conv1d(1, 1, 5, padding=2).stream().latency
        2
        """
        return self._latency(Fraction(*self._flow.rate), self._flow.rate[1])

    def __call__(self, chunk: ArrayLike, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Take the next inputs of every sequence and return the outputs that became final.

        Parameters
        ----------
        chunk : ndarray of shape (N, C_in, n) or, for one sequence, (C_in, n)
            Of the layer's dtype, or of 16 bits for a float32 layer, as the others of the sequences;
            n may be 0 and differ from call to call. A layer of layout 'NLC' takes (N, n, C_in) or
            (n, C_in).
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
            If the result or the history cannot be allocated.

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
            state = self._state if ring is None else self._now()
            if x.dtype is not state.dtype:
                state = self._of_dtype(state, x.dtype)
            last = self._final((state.inputs + x.shape[2],))
            y = self._result(last - state.outputs, batched, x, out)
            after = self._taking(state, x, last, y.swapaxes(1, 2) if self._channels_last else y)
            if ring is None:
                self._state = after
            else:
                self._become(after)
                self._enter_ring(ring, x.shape[2])
            return y if batched and out is None else arrays.delivered(y, batched, out)

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
            first, last = state.outputs, self._flow.total((state.inputs,))
            x = np.empty(0, state.dtype)
            y = self._result(last - first, True, x, out)
            if last > first:
                history = state.data[:, :, : state.inputs - state.origin]
                view = y.swapaxes(1, 2) if self._channels_last else y
                self._flow.compute((history,), (state.origin,), first, view)
            self._become(self._initial())
            return arrays.delivered(y, True, out)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return copies of what the stream remembers, as arrays that ``np.savez`` can store.

        Returns
        -------
        dict of str to ndarray
            'layer', which names the layer and its parameters, 'position', the number of inputs so
            far, and 'history', the inputs that later outputs need. For sequences of 16 bits 'dtype'
            as well.

        Examples
        --------
        >>> from fastconv1d import Conv1d
        >>> list(Conv1d(1, 1, 3).stream().state_dict())
        ['layer', 'position', 'history']
        """
        with self._guard:
            state = self._now()
            own = {
                "layer": np.array(self._fingerprint()),
                "position": np.array(state.inputs),
                "history": self._history(state),
            }
            if state.inputs and state.dtype != self._dtype:
                own["dtype"] = np.array(str(state.dtype))
            return own

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
        names = ["layer", "position", "history"]
        given = checked_state(state_dict, names, self._fingerprint())
        if not set(given) <= {*names, "dtype"}:
            raise ValueError(
                f"a stream's state should have the keys {names}, got {geometry.shown([*given])}"
            )
        with self._guard:
            self._become(self._loaded(given))

    def _loaded(self, given: Mapping[str, NDArray[Any]]) -> _State:
        inputs, history = int(given["position"]), given["history"]
        dtype = self._dtype
        if "dtype" in given:
            dtype = self._saved_dtype(name_in(given["dtype"]))
        outputs = self._final((inputs,))
        origin = self._flow.first_read(0, outputs, (inputs,))
        shape, stored = (*self._width, inputs - origin), arrays.widened(np.empty(0, dtype)).dtype
        if history.shape != shape or history.dtype != stored:
            raise ValueError(
                f"the history should have the shape {list(shape)} and dtype {stored}, "
                f"got {list(history.shape)} and {history.dtype}"
            )
        keep = shape[2]
        data = self._taken(self._state, dtype, keep, 0)
        data[:, :, :keep] = history
        return _State(data, origin, inputs, outputs, dtype)

    def _saved_dtype(self, name: Any) -> np.dtype[Any]:
        if self._dtype == np.float32 and name in ("float16", "bfloat16"):
            return dtype_of(name)
        raise ValueError(
            f"the dtype should be one that a layer of {self._dtype} takes chunks of, got "
            f"{geometry.shown(name)}"
        )

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
        return x, batched

    def _of_dtype(self, state: _State, dtype: np.dtype[Any]) -> _State:
        """Return the state for chunks of another dtype than so far."""
        half = arrays.half_of(dtype) and self._dtype == np.float32
        if dtype != self._dtype and not half:
            raise arrays.other_dtype(dtype, "weight", self._dtype)
        if state.inputs == 0:
            return _State(None, 0, 0, 0, dtype)
        if dtype != state.dtype:
            raise TypeError(
                f"a chunk should have the dtype of those before it, {state.dtype}, got {dtype}: "
                "flush or reset the stream to begin sequences of another"
            )
        return state

    def _result(
        self, length: int, batched: bool, x: NDArray[Any], out: NDArray[Any] | None
    ) -> NDArray[Any]:
        shape = (self._n_batch, self._out_channels, length)
        if self._channels_last:
            shape = (self._n_batch, length, self._out_channels)
        return arrays.new(shape, x.dtype) if out is None else arrays.target(out, shape, batched, x)

    def _taking(self, state: _State, x: NDArray[Any], last: int, y: NDArray[Any]) -> _State:
        """Write the outputs that a chunk makes final; return the state after it.

        The state's own history stays what it is.
        """
        n, inputs = x.shape[2], state.inputs
        if n > self._small:
            data, origin = self._take_long(state, x, last, y)
        else:
            data, origin = state.data, state.origin
            at = inputs - origin
            if data is None or at + n > data.shape[2]:
                data, origin = self._moved(state, n)
                at = inputs - origin
            data[:, :, at : at + n] = x
            if last > state.outputs:
                self._flow.compute((data[:, :, : at + n],), (origin,), state.outputs, y)
        return _State(data, origin, inputs + n, last, x.dtype)

    def _take_long(
        self, state: _State, x: NDArray[Any], last: int, y: NDArray[Any]
    ) -> tuple[NDArray[Any], int]:
        """Take a chunk that is longer than what is kept; return the history after it."""
        inputs, first = state.inputs, state.outputs
        alone = first
        if inputs:  # outputs that read the history, too
            alone = min(max(first, self._flow.first_from(inputs)), last)
        if alone > first:
            head = x[:, :, : self._flow.read_by(alone) - inputs]
            data, origin = self._moved(state, head.shape[2])
            at = inputs - origin
            end = at + head.shape[2]
            data[:, :, at:end] = head
            self._flow.compute((data[:, :, :end],), (origin,), first, y[:, :, : alone - first])
        if last > alone:
            self._flow.compute((x,), (inputs,), alone, y[:, :, alone - first :])
        after = inputs + x.shape[2]
        origin = self._flow.first_read(0, last, (after,))
        keep = after - origin
        data = self._taken(state, x.dtype, keep, 0)
        data[:, :, :keep] = x[:, :, x.shape[2] - keep :]
        return data, origin

    def _moved(self, state: _State, n: int) -> tuple[NDArray[Any], int]:
        """Move what is needed of the history to another array with room for n inputs more."""
        origin = self._flow.first_read(0, state.outputs, (state.inputs,))
        keep = state.inputs - origin
        data = self._taken(state, state.dtype, keep, n)
        if keep:
            begin = origin - state.origin
            data[:, :, :keep] = state.data[:, :, begin : begin + keep]
        return data, origin

    def _taken(self, state: _State, dtype: np.dtype[Any], keep: int, n: int) -> NDArray[Any]:
        """Return an array for n inputs behind those that are kept, neither a state's nor ours."""
        used = self._state.data
        return self._pool.take(self._width[1], dtype, keep + n, keep, used, state.data)

    def _history(self, state: _State) -> NDArray[Any]:
        if not state.inputs:
            return np.empty((*self._width, 0), self._dtype)
        needed = self._flow.first_read(0, state.outputs, (state.inputs,))
        history = state.data[:, :, needed - state.origin : state.inputs - state.origin]
        return np.array(arrays.widened(history), order="C")

    def _fingerprint(self) -> str:
        weight, bias = self._module._pack().parameters
        checksum = zlib.crc32(weight)
        if bias is not None:
            checksum = zlib.crc32(bias, checksum)
        return f"{self._module!r} of {self._dtype}, parameters {checksum:08x}"

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

    def _enter_ring(self, ring: DepthwiseRing, n: int) -> None:
        """Hand the history to the compiled path for short chunks, after such a one."""
        state, flow = self._state, self._flow
        if not 1 <= n <= most_positions() or state.dtype != self._dtype:
            return
        if not isinstance(flow, Correlate) or not flow.is_steady(state.outputs, state.inputs):
            return
        end = state.inputs - state.origin
        begin = end - flow.reach
        if begin >= 0:
            ring.enter(state.data[:, :, begin:end])
        elif state.origin <= 0 and flow.pads_zeros:
            history = np.zeros((*self._width, flow.reach), self._dtype)
            history[:, :, -begin:] = state.data[:, :, :end]
            ring.enter(history)


class StreamingConv1d(_LayerStream):
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
        'same_upper' and 'same_lower' with a stride.
    TypeError
        If `module` is not a `Conv1d`.

    See Also
    --------
    Conv1d.stream : Makes one.

    Notes
    -----
    The outputs of all chunks and of `flush`, one after another, are bit for bit those of one call
    on the whole sequence; for layers of the BLAS engine and of algorithm
    'winograd' or 'fast', those of a call in deterministic mode (`use_deterministic_algorithms`).
    Those of ``algorithm="fft"`` are within its error, by transforms for chunks of 16 positions and
    more where that is faster. An output is returned with the input that
    completes its window, so padding on the right is a look-ahead, resolved by `flush`; reflection
    on the left waits for the inputs that it mirrors.

    Chunks have the layer's dtype or, for a float32 layer, 16 bits; all of a sequence have one. The
    memory is twice that of ``2*dilation*(K - 1) + 64`` positions and the longest chunk, of which
    128 KiB count, and allocated when it is first needed. A call that fails or is interrupted leaves
    the stream as before or as after it. A stream belongs to one thread at a time; a call beside
    another is a RuntimeError.

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
        if not isinstance(module, Convolution) or module.transposed or module._rank != 1:
            raise TypeError(f"module should be a Conv1d, got {type(module).__name__}")
        super().__init__(module, n_batch)

    def _new_ring(self) -> DepthwiseRing | None:
        module, pack = self._module, self._module._pack()
        depthwise = module.groups == module.in_channels == module.out_channels
        if not depthwise or pack.prepared is None or module.dtype.kind == "c":
            return None
        if self._spec.steps.before is not None or self._spec.stride != 1:
            return None
        return DepthwiseRing(
            pack.prepared,
            *pack.parameters,
            self._n_batch,
            self._spec.dilation,
            self._flow.reach,
            self._guard,
        )


class StreamingConvTranspose1d(_LayerStream):
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

    See Also
    --------
    ConvTranspose1d.stream : Makes one.

    Notes
    -----
    The outputs of all chunks and of `flush`, one after another, are bit for bit those of one call
    on the whole sequence; for layers of the BLAS engine and of algorithm
    'winograd' or 'fast', those of a call in deterministic mode (`use_deterministic_algorithms`).
    Those of ``algorithm="fft"`` are within its error, by transforms for chunks of 16 positions and
    more where that is faster. An output is returned when no later input
    can add to it, ``stride`` of them with each input once those cropped on the left are past, and
    never one that may be cropped at the end. `flush` returns the rest of the last windows.

    Inputs that later outputs need are kept, not outputs that are half done. Chunks have the layer's
    dtype or, for a float32 layer, 16 bits; all of a sequence have one. The memory is twice that of
    ``2*(K - 1)*dilation/stride + 64`` positions and the longest chunk, of which 128 KiB count, and
    allocated when it is first needed. A call that fails or is interrupted leaves the stream as
    before or as after it. A stream belongs to one thread at a time; a call beside another is a
    RuntimeError.

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
