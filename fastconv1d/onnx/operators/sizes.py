"""Shapes and axes that come with the data: checked before anything is allocated for them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def _memory() -> int:
    """Return the bytes of this machine's memory, 2**40 where they cannot be asked for."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 40


_MOST_BYTES = _memory()


def allowed(shape: Iterable[int], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Return the shape if an array of it can be had, which a file may ask for by a few numbers."""
    sizes = tuple(int(size) for size in shape)
    if any(size < 0 for size in sizes):
        raise ValueError(f"no size of the result should be negative, got {list(sizes)}")
    n_bytes = math.prod(sizes) * dtype.itemsize
    if n_bytes > _MOST_BYTES or any(size > _MOST_BYTES for size in sizes):
        raise ValueError(
            f"a result of shape {list(sizes)} and dtype {dtype} does not fit into the "
            f"{_MOST_BYTES} bytes of memory"
        )
    return sizes


def axis_of(axis: int, ndim: int) -> int:
    """Return the axis, a negative one counted from the end."""
    if not -ndim <= axis < ndim:
        raise ValueError(f"axis should be in [{-ndim}, {ndim - 1}], got {axis}")
    return int(axis) % ndim


def axes_of(axes: Sequence[int], ndim: int) -> tuple[int, ...]:
    found = tuple(axis_of(axis, ndim) for axis in axes)
    if len(set(found)) != len(found):
        raise ValueError(f"axes should differ, got {list(axes)}")
    return found


def integers_of(values: NDArray[Any], what: str) -> list[int]:
    """Return an input of sizes, axes or positions as a list."""
    if values.dtype.kind not in "iu":
        raise TypeError(f"{what} should be integers, got dtype {values.dtype}")
    if values.ndim > 1:
        raise ValueError(f"{what} should have one dimension, got shape {list(values.shape)}")
    return [int(v) for v in values.reshape(-1)]


def scalar_of(values: NDArray[Any], what: str) -> Any:
    """Return the only element of an input as a Python number."""
    if values.size != 1:
        raise ValueError(f"{what} should be one value, got shape {list(values.shape)}")
    return values.item()


def whole_of(values: NDArray[Any], what: str) -> int:
    """Return the only element of an input as an integer."""
    value = scalar_of(values, what)
    if not math.isfinite(value):
        raise ValueError(f"{what} should be finite, got {value}")
    return int(value)
