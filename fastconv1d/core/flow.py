"""How an operation takes sequences piece by piece: what outputs read, and which ones are final.

A `Flow` is that of one operation of a network. Its sources arrive from the front; it says how many
outputs no later position changes, which positions those to come still read, and computes them. The
bits of an output depend on neither its place nor what follows it, so that they are those of a call
on the whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import arrays
from .reach import Reach

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Run = Callable[[Sequence[NDArray[Any]], NDArray[Any]], None]  # what computes whole arrays


class Flow:
    """What every operation of a stream says of itself.

    Positions of a source and outputs are counted from the begin of the sequences. `counts` has how
    many positions there are of each source.

    Attributes
    ----------
    rate : (int, int)
        Outputs for so many positions of the first source.
    side_by_side : bool
        Whether it is fast where the channels of a position lie side by side.
    """

    rate = (1, 1)
    side_by_side = False

    def reach(self) -> Reach:
        """Return which positions of its sources an output reads."""
        raise NotImplementedError

    def final(self, counts: Sequence[int]) -> int:
        """Return how many outputs no later position changes."""
        raise NotImplementedError

    def total(self, counts: Sequence[int]) -> int:
        """Return how many outputs there are if the sequences end here; 0 where they are too short.

        Raises
        ------
        ValueError
            If the operation does not take such lengths.
        """
        raise NotImplementedError

    def first_read(self, source: int, output: int, counts: Sequence[int]) -> int:
        """Return the first position of a source that outputs from `output` on may read."""
        raise NotImplementedError

    def restarts(self, output: int, counts: Sequence[int]) -> bool:
        """Whether a new sequence, after zeros, gives its outputs at the times of one from `output`.

        That is what starting single sequences of a batch anew takes.
        """
        raise NotImplementedError

    def compute(
        self,
        given: Sequence[NDArray[Any]],
        origins: Sequence[int],
        first: int,
        out: NDArray[Any],
    ) -> None:
        """Write the outputs from `first` on to `out` (N, C, n), of any strides.

        Of each source, what there is from position `origins[i]` on is `given[i]` (N, C, n).
        """
        raise NotImplementedError


class PerPosition(Flow):
    """An output reads what is at its position, of one source or of several of one length.

    Parameters
    ----------
    run : callable
        ``run(given, out)`` computes contiguous arrays (N, C, L) of any length.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d.core.flow import PerPosition
    >>> flow = PerPosition(lambda given, out: np.negative(given[0], out=out))
    >>> out = np.empty((1, 1, 2))
    >>> flow.compute([np.arange(5.0).reshape(1, 1, 5)], [10], 12, out)
    >>> out
    array([[[-2., -3.]]])
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def reach(self) -> Reach:
        return Reach()

    def final(self, counts: Sequence[int]) -> int:
        return min(counts)

    def total(self, counts: Sequence[int]) -> int:
        check_one_length(counts)
        return counts[0]

    def first_read(self, source: int, output: int, counts: Sequence[int]) -> int:
        return output

    def restarts(self, output: int, counts: Sequence[int]) -> bool:
        return all(count == output for count in counts)

    def compute(
        self,
        given: Sequence[NDArray[Any]],
        origins: Sequence[int],
        first: int,
        out: NDArray[Any],
    ) -> None:
        n = out.shape[2]
        parts = [
            np.ascontiguousarray(x[:, :, first - origin : first - origin + n])
            for x, origin in zip(given, origins, strict=True)
        ]
        y = out if out.flags.c_contiguous else arrays.new(out.shape, out.dtype)
        self._run(parts, y)
        if y is not out:
            out[...] = y


class Windows(Flow):
    """Output ``l`` reads positions from ``l*stride - left`` on, so many as `span` says.

    Parameters
    ----------
    span, stride, left, right : int
    apply : callable, optional
        ``apply(x)`` is the whole operation, its padding included, on a contiguous array (N, C, L).
        A subclass has a `compute` of its own instead.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d.core.flow import Windows
    >>> flow = Windows(2, 2, 0, 0, lambda x: np.maximum(x[:, :, :-1:2], x[:, :, 1::2]))
    >>> flow.final([5]), flow.first_read(0, 2, [5])
    (2, 4)
    """

    _waits = 0  # there is no output before there are more positions than these
    _tail = 0  # newest positions that the end may read again

    def __init__(
        self,
        span: int,
        stride: int,
        left: int,
        right: int,
        apply: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
    ) -> None:
        self._span, self._stride, self._left, self._right = span, stride, left, right
        self._apply = apply
        self.rate = 1, stride

    def reach(self) -> Reach:
        return Reach(self._stride, 1, self._left, self._span - 1 - self._left)

    def final(self, counts: Sequence[int]) -> int:
        if counts[0] <= self._waits:
            return 0
        return max(0, (counts[0] + self._left - self._span) // self._stride + 1)

    def total(self, counts: Sequence[int]) -> int:
        if counts[0] == 0:
            return 0
        whole = counts[0] + self._left + self._right - self._span
        return max(0, whole // self._stride + 1)

    def first_read(self, source: int, output: int, counts: Sequence[int]) -> int:
        return max(0, min(output * self._stride - self._left, counts[0] - self._tail))

    def restarts(self, output: int, counts: Sequence[int]) -> bool:
        in_step = counts[0] == output * self._stride
        return in_step and self._left == self._tail == 0

    def compute(
        self,
        given: Sequence[NDArray[Any]],
        origins: Sequence[int],
        first: int,
        out: NDArray[Any],
    ) -> None:
        # The first few outputs of a call see its padding, and a call needs a whole window: from
        # positions before those that are needed.
        skipped = -(-self._left // self._stride)
        length = origins[0] + given[0].shape[2] - (first - skipped) * self._stride
        skipped = min(first, skipped + max(0, -(-(self._span - length) // self._stride)))
        begin = (first - skipped) * self._stride - origins[0]
        x = given[0]
        if begin < 0:  # they are no longer there, and nobody looks at what is made of these zeros
            room = arrays.new((*x.shape[:2], x.shape[2] - begin), x.dtype)
            room[:, :, :-begin], room[:, :, -begin:] = 0, x
            x, begin = room, 0
        assert self._apply is not None
        y = self._apply(np.ascontiguousarray(x[:, :, begin:]))
        out[...] = y[:, :, skipped : skipped + out.shape[2]]


def check_one_length(counts: Sequence[int]) -> None:
    """Raise ValueError unless what an operation reads side by side has one length.

    Examples
    --------
    >>> from fastconv1d.core.flow import check_one_length
    >>> check_one_length([3, 3])
    """
    for other in counts[1:]:
        if other != counts[0]:
            raise ValueError(f"what is added should have one length, got {counts[0]} and {other}")
