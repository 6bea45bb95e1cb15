"""The matrices of minimal filtering, after Toom, Cook and Winograd.

Four neighbouring outputs of three taps take six products of transformed inputs and weights instead
of twelve; three of four taps, or five of two, the same six.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Where polynomials are evaluated, besides at infinity: of those with small powers of two the set
# with the smallest error. Eight products, six outputs of three taps, had 2 to 3 times the error.
_POINTS = (Fraction(0), Fraction(1), Fraction(-1), Fraction(2), Fraction(-1, 2))


@cache
def matrices(taps: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the matrices of inputs (6, 6), of outputs (7 - taps, 6) and of weights (6, taps).

    Multiplying two polynomials by their values at n points and interpolating is a convolution; its
    transpose is the correlation of a kernel with n inputs at some positions.
    """
    n = len(_POINTS) + 1

    def values(size: int) -> list[list[Fraction]]:
        finite = [[point**power for power in range(size)] for point in _POINTS]
        return [*finite, [Fraction(power == size - 1) for power in range(size)]]

    interpolation = _inverse(values(n))
    by_input = [list(column) for column in zip(*interpolation, strict=True)]
    by_weight = values(taps)
    for i in range(n):  # the inputs' rows take no fractions that the weights' can have
        scale = Fraction(np.lcm.reduce([value.denominator for value in by_input[i]]))
        by_input[i] = [value * scale for value in by_input[i]]
        by_weight[i] = [value / scale for value in by_weight[i]]
    by_output = np.array(values(n + 1 - taps), float).T.copy()
    return np.array(by_input, float), by_output, np.array(by_weight, float)


def _inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    n = len(matrix)
    rows = [[*row, *(Fraction(i == j) for j in range(n))] for i, row in enumerate(matrix)]
    for i in range(n):
        pivot = next(r for r in range(i, n) if rows[r][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for r in range(n):
            if r != i:
                rows[r] = [a - rows[r][i] * b for a, b in zip(rows[r], rows[i], strict=True)]
    return [row[n:] for row in rows]
