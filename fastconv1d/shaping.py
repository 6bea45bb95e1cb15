"""Layers that change an array's shape: Flatten, Transpose, Select, Upsample."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .core import geometry
from .core.base import number
from .core.between import Between, Shaping, check_gradient, check_real
from .core.network import weighed
from .elementwise import as_axis

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .core.between import Shape


class Flatten(Between):
    """Several axes as one, as ``torch.nn.Flatten``.

    Parameters
    ----------
    start_dim : int, default 1
        The first axis of those that are joined.
    end_dim : int, default -1
        The last.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import Flatten
    >>> Flatten()(np.zeros((2, 3, 4))).shape
    (2, 12)
    """

    in_place = True
    start_dim = Shaping(geometry.as_index)
    end_dim = Shaping(geometry.as_index)

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def output_shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        (shape,) = shapes
        start, end = (
            as_axis(name, getattr(self, name), shape) for name in ("start_dim", "end_dim")
        )
        if start > end:
            raise ValueError(
                "flatten() has invalid args: start_dim cannot come after end_dim, "
                f"got start_dim={self.start_dim} and end_dim={self.end_dim}"
            )
        return (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])

    def compute(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        x = given[0]
        if not np.may_share_memory(x, out):  # otherwise it lies there already
            np.copyto(out.reshape(x.shape), x)

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        check_gradient(g, self.output_shape([kept.shape], kept.dtype), kept.dtype)
        return np.ascontiguousarray(g).reshape(kept.shape)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Transpose(Between):
    """Two axes exchanged, as ``x.transpose(dim0, dim1)`` of torch's tensors.

    Parameters
    ----------
    dim0, dim1 : int
        The axes: ``Transpose(1, 2)`` makes (N, L, C) of (N, C, L), and back.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import Transpose
    >>> Transpose(1, 2)(np.zeros((2, 3, 4))).shape
    (2, 4, 3)
    """

    dim0 = Shaping(geometry.as_index)
    dim1 = Shaping(geometry.as_index)

    @property
    def swaps_last(self) -> bool:
        """Whether the axes are the last two of any array, or those of (N, C, L)."""
        return {self.dim0, self.dim1} in ({1, 2}, {-1, -2})

    def __init__(self, dim0: int, dim1: int) -> None:
        super().__init__()
        self.dim0, self.dim1 = dim0, dim1

    def output_shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        (shape,) = shapes
        a, b = as_axis("dim0", self.dim0, shape), as_axis("dim1", self.dim1, shape)
        sizes = list(shape)
        sizes[a], sizes[b] = sizes[b], sizes[a]
        return tuple(sizes)

    def compute(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        np.copyto(out, given[0].swapaxes(self.dim0, self.dim1))

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        check_gradient(g, self.output_shape([kept.shape], kept.dtype), kept.dtype)
        return np.ascontiguousarray(g.swapaxes(self.dim0, self.dim1))

    def extra_repr(self) -> str:
        return f"{self.dim0}, {self.dim1}"


class Select(Between):
    """One index of an axis, as ``x.select(dim, index)`` of torch's tensors.

    Parameters
    ----------
    dim : int
        The axis.
    index : int
        The index: ``Select(1, -1)`` takes the last step of (N, T, F), as ``x[:, -1]`` does.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import Select
    >>> Select(1, -1)(np.array([[[1.0], [2.0]]]))
    array([[2.]])
    """

    dim = Shaping(geometry.as_index)
    index = Shaping(geometry.as_index)

    def __init__(self, dim: int, index: int) -> None:
        super().__init__()
        self.dim, self.index = dim, index

    def output_shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        (shape,) = shapes
        axis = as_axis("dim", self.dim, shape)
        if not -shape[axis] <= self.index < shape[axis]:
            raise ValueError(
                f"select(): index {self.index} out of range for tensor of size {list(shape)} at "
                f"dimension {axis}"
            )
        return (*shape[:axis], *shape[axis + 1 :])

    def _of(self, x: NDArray[Any]) -> NDArray[Any]:
        part: NDArray[Any] = x[(slice(None),) * as_axis("dim", self.dim, x.shape) + (self.index,)]
        return part

    def compute(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        np.copyto(out, self._of(given[0]))

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        check_gradient(g, self.output_shape([kept.shape], kept.dtype), kept.dtype)
        grad_input = np.zeros(kept.shape, kept.dtype)
        self._of(grad_input)[...] = g
        return grad_input

    def extra_repr(self) -> str:
        return f"{self.dim}, {self.index}"


_MODES = ("nearest", "linear")


def _mode(name: str, value: Any) -> str:
    if value not in _MODES:
        raise ValueError(
            f"{name} should be 'nearest' or 'linear' for signals, got {geometry.shown(value)}"
        )
    return str(value)


def _one(value: Any) -> Any:
    return value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else value


def _scale(name: str, value: Any) -> float | None:
    if value is None:
        return None
    scale = number(name, _one(value))
    if not 0 < scale < math.inf:
        raise ValueError(f"{name} should be a number above 0, got {geometry.shown(value)}")
    return scale


def _size(name: str, value: Any) -> int | None:
    if value is None:
        return None
    size = geometry.as_index(name, value)
    if size < 1:
        raise ValueError(f"Input and output sizes should be greater than 0, but got {name}={size}")
    return size


def _corners(name: str, value: Any) -> bool | None:
    if value is not None and not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} should be None or a bool, got {geometry.shown(value)}")
    return None if value is None else bool(value)


class Upsample(Between):
    """Another length by the nearest positions or between two, as ``torch.nn.Upsample``.

    Parameters
    ----------
    size : int, optional
        L_out.
    scale_factor : float, optional
        Or ``L_out / L_in``.
    mode : {'nearest', 'linear'}, default 'nearest'
    align_corners : bool, optional
        For 'linear': whether the first and last positions of input and output are the same places.
    recompute_scale_factor : bool, optional
        Whether the positions follow from the lengths rather than from `scale_factor`.

    Notes
    -----
    Input (N, C, L).

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import Upsample
    >>> Upsample(scale_factor=2)(np.array([[[1.0, 3.0]]]))
    array([[[1., 1., 3., 3.]]])
    >>> Upsample(3, mode="linear", align_corners=True)(np.array([[[1.0, 3.0]]]))
    array([[[1., 2., 3.]]])
    """

    size = Shaping(_size)
    scale_factor = Shaping(_scale)
    mode = Shaping(_mode)
    align_corners = Shaping(_corners)
    recompute_scale_factor = Shaping(_corners)

    def __init__(
        self,
        size: int | None = None,
        scale_factor: float | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        super().__init__()
        self.size, self.scale_factor, self.mode = size, scale_factor, mode
        self.align_corners = align_corners
        self.recompute_scale_factor = recompute_scale_factor
        if (size is None) == (scale_factor is None):
            raise ValueError(
                "only one of size or scale_factor should be defined, "
                f"got size={size} and scale_factor={scale_factor}"
            )
        if align_corners is not None and mode == "nearest":
            raise ValueError(
                "align_corners option can only be set with the interpolating modes: linear, "
                f"got align_corners={align_corners} with mode='nearest'"
            )

    def output_shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        (shape,) = shapes
        check_real(self, dtype)
        if len(shape) != 3:
            raise ValueError(
                f"Upsample takes an input of shape (N, C, L), got one of size {list(shape)}; "
                "an item alone needs a batch axis, x[None]"
            )
        length = self.size
        if length is None:
            assert self.scale_factor is not None
            length = math.floor(shape[-1] * self.scale_factor)
        if shape[-1] < 1 or length < 1:
            raise ValueError(
                "Input and output sizes should be greater than 0, but got input "
                f"(W: {shape[-1]}) output (W: {length})"
            )
        return (*shape[:-1], length)

    def _step(self, size: int, length: int, dtype: np.dtype[Any]) -> Any:
        """Return the input positions of a step in the output, rounded as torch does."""
        real = np.float64 if dtype == np.float64 and self.mode == "linear" else np.float32
        if self.scale_factor is not None and not self.recompute_scale_factor:
            return real(1.0 / self.scale_factor)
        return real(size) / real(length)

    def _places(self, size: int, length: int, dtype: np.dtype[Any]) -> tuple[Any, Any]:
        """Return the positions that outputs read and their weights, a row for each neighbour."""
        at = np.arange(length)
        if self.mode == "nearest":
            step = self._step(size, length, dtype)
            where = np.minimum((at.astype(step.dtype) * step).astype(np.intp), size - 1)
            return where[np.newaxis], np.ones((1, length), dtype)
        if length == size:  # as torch, whatever the scale
            return at[np.newaxis], np.ones((1, length), dtype)
        if self.align_corners:
            real = dtype.type
            step = real(size - 1) / real(length - 1) if length > 1 else real(0)
            place = at.astype(dtype) * step
        else:
            step = self._step(size, length, dtype)
            place = np.maximum(step * (at.astype(dtype) + dtype.type(0.5)) - dtype.type(0.5), 0)
        left = np.minimum(place.astype(np.intp), size - 1)
        share = (place - left).astype(dtype)
        return np.stack([left, np.minimum(left + 1, size - 1)]), np.stack([1 - share, share])

    def compute(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        x = given[0]
        weighed(x, x.ndim - 1, *self._places(x.shape[-1], out.shape[-1], x.dtype), out)

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        x = kept
        shape = self.output_shape([x.shape], x.dtype)
        check_gradient(g, shape, x.dtype)
        grad_input = np.zeros(x.shape, x.dtype)
        for where, weights in zip(*self._places(x.shape[-1], shape[-1], x.dtype), strict=True):
            read, first = np.unique(where, return_index=True)
            grad_input[..., read] += np.add.reduceat(g * weights, first, axis=-1)
        return grad_input

    def extra_repr(self) -> str:
        if self.scale_factor is not None:
            return f"scale_factor={self.scale_factor}, mode={self.mode!r}"
        return f"size={self.size}, mode={self.mode!r}"
