"""What all streams share: who may call, batches, items that start anew, saved states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import arrays, geometry

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from fractions import Fraction
    from typing import SupportsIndex

    from numpy.typing import ArrayLike, NDArray

    from ..kernels.direct_engine import Guard


# A history has room for this many positions more than it needs, or as many: how often it is moved.
SMALL = 64


class Pool:
    """The arrays of a history, which is moved from one to another: never over one in use.

    Two serve most calls, a third those that move it several times.
    """

    def __init__(self, n_batch: int, side_by_side: bool) -> None:
        self._n_batch, self._side_by_side = n_batch, side_by_side
        self._kind: Any = None
        self.arrays: list[NDArray[Any]] = []

    def take(
        self, channels: int, dtype: np.dtype[Any], room: int, keep: int, used: Any, used_too: Any
    ) -> NDArray[Any]:
        """Return an array (N, C, any) with room for so many positions, of which some are kept."""
        if self._kind != (channels, dtype):
            self._kind, self.arrays = (channels, dtype), []
        for array in self.arrays:
            if array is not used and array is not used_too and array.shape[2] >= room:
                return array
        length = room + max(keep, SMALL)
        # what is too short from now on goes when the state that it belongs to goes
        others = [array for array in self.arrays if array.shape[2] >= length]
        missing = max(1, 2 - len(others))
        self.arrays = others + [self._new(channels, dtype, length) for _ in range(missing)]
        return self.arrays[-1]

    def _new(self, channels: int, dtype: np.dtype[Any], length: int) -> NDArray[Any]:
        if self._side_by_side:
            return arrays.new((self._n_batch, length, channels), dtype).swapaxes(1, 2)
        return arrays.new((self._n_batch, channels, length), dtype)


class Stream:
    """A layer or network over sequences that arrive in chunks.

    A subclass takes the chunks. Outputs depend on how many inputs there have been alone.
    """

    _module: Any
    _n_batch: int
    _guard: Guard

    @staticmethod
    def _checked_batch(n_batch: SupportsIndex) -> int:
        checked = geometry.as_index("n_batch", n_batch)
        if checked < 1:
            raise ValueError(f"n_batch should be positive, got n_batch={checked}")
        return checked

    def _inputs(self) -> int:
        """Return how many inputs of the sequences there have been."""
        raise NotImplementedError

    def _produced(self, inputs: int) -> int:
        """Return how many outputs are final after so many inputs."""
        raise NotImplementedError

    def _start_all(self) -> None:
        """Begin new sequences."""
        raise NotImplementedError

    def _start_some(self, chosen: list[int]) -> None:
        """Begin new sequences of some items, after the first input."""
        raise NotImplementedError

    @property
    def module(self) -> Any:
        """What the stream applies: as it was when the stream was made."""
        return self._module

    @property
    def n_batch(self) -> int:
        """How many sequences run side by side."""
        return self._n_batch

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
            inputs = self._inputs()
            return self._produced(inputs + n) - self._produced(inputs)

    def _latency(self, rate: Fraction, period: int) -> int:
        """Return by how many inputs an output comes later than the one at its place, at the most.

        There are `rate` outputs for an input, and what happens repeats after `period` inputs from
        the first output on.
        """
        first = 1
        while not self._produced(first):
            first *= 2
        first = next(n for n in range(first // 2, first + 1) if self._produced(n))
        latest, produced = 0, 0
        for inputs in range(first, first + period + 1):
            now = self._produced(inputs)
            if now > produced:
                latest = max(latest, inputs - 1 - produced * rate.denominator // rate.numerator)
            produced = now
        return latest

    def reset(self, items: SupportsIndex | Iterable[SupportsIndex] | None = None) -> None:
        """Start new sequences, dropping what the old ones still had to give.

        Parameters
        ----------
        items : int or iterable of int, optional
            Which of the batch; all by default. The others go on, which needs a layer or network
            whose new sequence is in step with them.

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
                self._start_all()
            elif chosen and self._inputs():
                self._start_some(chosen)

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

    def _refuse_restart(self, chosen: list[int], where: str) -> None:
        raise ValueError(
            "some items of a batch can start anew only where their outputs stay in step "
            "with the others': the layer should be causal (without a look-ahead) and "
            "between two windows; use a stream for each sequence otherwise, got "
            f"items={geometry.shown(chosen)} of n_batch={self._n_batch} at position "
            f"{self._inputs()} of {where}"
        )

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return copies of what the stream remembers, as arrays that ``np.savez`` can store."""
        raise NotImplementedError

    def load_state_dict(self, state_dict: Mapping[str, ArrayLike]) -> None:
        """Go on where `state_dict` was taken."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {"module": self._module, "n_batch": self._n_batch, "state": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["module"], state["n_batch"])  # type: ignore[misc]
        self.load_state_dict(state["state"])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._module!r}, n_batch={self._n_batch})"


def checked_state(
    state_dict: Mapping[str, ArrayLike], names: Sequence[str], layer: str
) -> dict[str, NDArray[Any]]:
    """Return the arrays of a state dict that is one of a layer's, with `names` among its keys.

    Examples
    --------
    >>> from fastconv1d.streaming.base import checked_state
    >>> checked_state({"layer": "Tanh()", "position": 3}, ["layer", "position"], "Tanh()")
    {'layer': array('Tanh()', dtype='<U6'), 'position': array(3)}
    """
    if not (hasattr(state_dict, "keys") and hasattr(state_dict, "__getitem__")):
        raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
    keys = list(state_dict.keys())
    if not set(names) <= set(keys):
        raise ValueError(
            f"a stream's state should have the keys {list(names)}, got {geometry.shown(keys)}"
        )
    given = {name: np.asarray(state_dict[name]) for name in keys}
    name = name_in(given["layer"])
    if name != layer:
        raise ValueError(
            f"the state should be that of the layer {layer}, got that of {geometry.shown(name)}"
        )
    position = given["position"]
    if position.shape != () or position.dtype.kind not in "iu" or position < 0:
        raise ValueError(
            f"the position should be a non-negative integer, got {geometry.shown(position)}"
        )
    return given


def name_in(array: NDArray[Any]) -> Any:
    """Return the string of an array, or the array if it holds anything else.

    Not by str(), which NumPy leaves broken for the thread where a signal interrupts it.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d.streaming.base import name_in
    >>> name_in(np.array("float32"))
    'float32'
    """
    value = array.item() if array.shape == () else array
    return value if isinstance(value, str) else array


def dtype_of(name: str) -> np.dtype[Any]:
    """Return the dtype of a name, that of ml_dtypes' bfloat16 too.

    Examples
    --------
    >>> from fastconv1d.streaming.base import dtype_of
    >>> dtype_of("float16")
    dtype('float16')
    """
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)
