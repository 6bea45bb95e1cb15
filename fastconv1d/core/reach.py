"""Which inputs an output of an operation reads, in whole numbers that hold at any place."""

from __future__ import annotations

from typing import NamedTuple


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
