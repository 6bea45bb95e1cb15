"""The tree of partial sums that are arrays; simd/totals.h has that of sums inside of a kernel."""

import numpy as np

FAN = 32  # as FC1D_FAN


def add_to(totals: list, value: np.ndarray, i: int, level: int = 0) -> None:
    """Add partial sum i, counted from 0, to the totals: each takes FAN, then goes on to the next.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d.kernels.totals import add_to
    >>> totals = []
    >>> for i in range(40):
    ...     add_to(totals, np.array([1.0]), i)
    >>> totals
    [array([8.]), array([32.])]
    """
    if level == len(totals):
        totals.append(value.copy())
    elif i % FAN:
        np.add(totals[level], value, out=totals[level])
    else:
        if i:
            add_to(totals, totals[level], i // FAN - 1, level + 1)
        totals[level][...] = value
