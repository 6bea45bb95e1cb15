"""Which inputs an output of an operation reads, in whole numbers that hold at any place."""

from __future__ import annotations

from typing import Any, NamedTuple


class Reach(NamedTuple):
    """Output o reads inputs from ``(o*down - before)/up`` to ``(o*down + after)/up`` at the most.

    Without arguments that of an element-wise operation: output o reads input o. Inputs are counted
    beyond the ends, too, as if padding were made of inputs.

    Attributes
    ----------
    down, up : int
        The step along the input from one output to the next is ``down/up``.
    before, after : int
        What is read to both sides, in steps of 1/up.
    """

    down: int = 1
    up: int = 1
    before: int = 0
    after: int = 0

    def first(self, output: int) -> int:
        """Return the first input that this output, or one after it, reads.

        Examples
        --------
        >>> from fastconv1d.core.reach import Reach
        >>> Reach(before=2).first(10)
        8
        """
        return -((self.before - output * self.down) // self.up)

    def last(self, output: int) -> int:
        """Return the last input that this output, or one before it, reads.

        Examples
        --------
        >>> from fastconv1d.core.reach import Reach
        >>> Reach(down=3, after=2).last(10)
        32
        """
        return (output * self.down + self.after) // self.up


def reach_of(operation: Any, l_in: int | None) -> Reach:
    """Return the reach of an operation of a network, for an input of so many positions.

    An operation or its layer joins by a method ``reach(l_in)``, with `l_in` None where the length
    is not known, or by its flow.

    Raises
    ------
    ValueError
        If it has none: its outputs may read all positions.

    Examples
    --------
    >>> from fastconv1d import ReLU
    >>> from fastconv1d.core.reach import reach_of
    >>> from fastconv1d.sequential import lowered
    >>> reach_of(lowered(ReLU())[0], None)
    Reach(down=1, up=1, before=0, after=0)
    """
    for owner in (operation, operation.layer):
        if hasattr(owner, "reach"):
            reach: Reach = owner.reach(l_in)
            return reach
    try:
        of_flow: Reach = operation.flow().reach()
    except ValueError:
        raise ValueError(
            "its outputs may read all positions of the input, not a window that moves along with "
            "them"
        ) from None
    return of_flow
