"""Pooling layers: the largest or the mean of windows, or of parts of the length."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .core import arrays, geometry
from .core.between import Between, Shaping, check_gradient, check_real
from .core.flow import Windows
from .core.network import pooled, reduced_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from .core.between import Shape
    from .core.flow import Flow, Run

# Up to so many taps, and steps, windows are computed for every position: 10 taps every 10 in 0.2 of
# the time that tap by tap takes, on one core with AVX-512.
_FEW = 16


def _positive(name: str, value: Any) -> int:
    size = geometry.as_index(name, value)
    if size < 1:
        raise ValueError(f"{name} should be at least 1, got {name}={size}")
    return size


def _stride(name: str, value: Any) -> int | None:
    return None if value is None else _positive(name, value)


def _padding(name: str, value: Any) -> int:
    size = geometry.as_index(name, value)
    if size < 0:
        raise ValueError(f"negative padding is not supported, got {name}={size}")
    return size


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} should be a bool, got {geometry.shown(value)}")
    return bool(value)


class _Pooled(Windows):
    """A pooling piece by piece."""

    def __init__(self, layer: Any, run: Run) -> None:
        size, stride, dilation, padding = layer._window
        super().__init__(dilation * (size - 1) + 1, stride, padding, padding, self._whole)
        self._layer, self._all = layer, run

    def _whole(self, x: NDArray[Any]) -> NDArray[Any]:
        y = arrays.new(self._layer.output_shape([x.shape], x.dtype), x.dtype)
        self._all([x], y)
        return y

    def total(self, counts: Sequence[int]) -> int:
        try:
            shape: Shape = self._layer.output_shape([(1, 1, counts[0])], np.dtype(np.float32))
        except ValueError:  # too short
            return 0
        return shape[-1] if counts[0] else 0


class _Pool(Between):
    """What both poolings of windows share."""

    kernel_size = Shaping(_positive)
    padding = Shaping(_padding)
    ceil_mode = Shaping(_flag)
    dilation: Any = 1

    @property
    def stride(self) -> int:
        """The step between two windows, by default their size."""
        stride: int | None = self.__dict__["stride"]
        return self.kernel_size if stride is None else stride

    @stride.setter
    def stride(self, value: Any) -> None:
        self.__dict__["stride"] = _stride("stride", value)
        self.__dict__["_spec"] = object()

    def _check_padding(self) -> None:
        raise NotImplementedError

    def output_shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        (shape,) = shapes
        check_real(self, dtype)
        _check_dimensions(self, shape)
        self._check_padding()
        span = self.dilation * (self.kernel_size - 1) + 1
        room = shape[-1] + 2 * self.padding - span
        count = room // self.stride + 1
        # One more that is not full, unless it would start in the padding behind the end.
        if self.ceil_mode and room % self.stride and count * self.stride < shape[-1] + self.padding:
            count += 1
        if count < 1:
            raise ValueError(
                f"Output size is too small: a window of {span} positions should fit into "
                f"{shape[-1]} and a padding of {self.padding} on both sides; pad the input or take "
                "a smaller kernel_size"
            )
        return (*shape[:-1], count)

    def _flow(self, run: Run) -> Flow:
        return _Pooled(self, run)

    @property
    def _window(self) -> tuple[int, int, int, int]:
        return self.kernel_size, self.stride, self.dilation, self.padding

    def _spans(self, length: int, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return where windows of dilation 1 begin and end, as far as they lie in the input."""
        first = np.arange(count) * self.stride - self.padding
        return np.maximum(first, 0), np.minimum(first + self.kernel_size, length)

    def _by_parts(self, length: int) -> bool:
        return (
            length > 0
            and self.dilation == 1
            and max(self.kernel_size, self.stride) > _FEW
            and self.stride > 2
        )


class MaxPool1d(_Pool):
    """The largest of each window, as ``torch.nn.MaxPool1d``.

    Parameters
    ----------
    kernel_size : int
        Positions of a window.
    stride : int, optional
        Step between two windows, by default `kernel_size`.
    padding : int, default 0
        Positions of -inf added on both sides, at most half a window.
    dilation : int, default 1
        Step between two positions of a window.
    return_indices : bool, default False
        Whether a call returns where the largest are, too; a network cannot take two outputs.
    ceil_mode : bool, default False
        Whether a last window that is not full counts.

    Notes
    -----
    Input (N, C, L_in) or (C, L_in), ``L_out = floor((L_in + 2*padding - dilation*(kernel_size - 1)
    - 1) / stride) + 1``. NaN is the largest of a window that has one.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import MaxPool1d
    >>> MaxPool1d(2)(np.array([[1.0, 3.0, 2.0, 0.0, 5.0]]))
    array([[3., 2.]])
    """

    dilation = Shaping(_positive)
    return_indices = Shaping(_flag)

    def __init__(
        self,
        kernel_size: int,
        stride: int | None = None,
        padding: int = 0,
        dilation: int = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding, self.dilation = padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode
        self._check_padding()

    def _check_padding(self) -> None:
        span = self.dilation * (self.kernel_size - 1) + 1
        if self.padding > span // 2:
            raise ValueError(
                "pad should be at most half of effective kernel size, but got "
                f"pad={self.padding}, kernel_size={self.kernel_size} and dilation={self.dilation}"
            )

    def compute(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        if self._by_parts(given[0].shape[-1]):
            spans = self._spans(given[0].shape[-1], out.shape[-1])
            reduced_parts(given[0], *spans, out, largest=True)
        else:
            pooled(given[0], [self._window], out, largest=True)

    def forward(self, input: ArrayLike, *, out: NDArray[Any] | None = None) -> Any:
        """Return the largest of each window, and with `return_indices` where they are.

        Parameters
        ----------
        input : ndarray of shape (N, C, L_in) or (C, L_in)
        out : ndarray of the output's shape and dtype, optional
            Where to write the output.

        Returns
        -------
        ndarray, or a tuple of it and an ndarray of int64

        Raises
        ------
        ValueError, TypeError
            If the layer does not take such an input.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import MaxPool1d
        >>> MaxPool1d(2, return_indices=True)(np.array([[1.0, 3.0, 2.0, 0.0]]))
        (array([[3., 2.]]), array([[1, 2]]))
        """
        y = super().forward(input, out=out)
        return (y, self._indices(np.asarray(input))) if self.return_indices else y

    def _indices(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the position of the first largest, or NaN, of each window."""
        count = self.output_shape([x.shape], x.dtype)[-1]
        first = np.arange(count)[:, np.newaxis] * self.stride - self.padding
        positions = first + np.arange(self.kernel_size) * self.dilation
        inside = (positions >= 0) & (positions < x.shape[-1])
        if x.shape[-1] == 0:
            return np.zeros((*x.shape[:-1], count), np.int64)
        windows = np.where(inside, x[..., positions.clip(0, x.shape[-1] - 1)], -np.inf)
        best = windows.argmax(-1)  # that of -inf only may be a position of the padding
        best = np.maximum(best, inside.argmax(-1))
        return best * self.dilation + first[:, 0]

    def _keeping(self, x: NDArray[Any]) -> tuple[NDArray[Any], Any]:
        return self._computed([x]), (x.shape, x.dtype, self._indices(x))

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        return _to_the_largest(g, *kept)

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class AvgPool1d(_Pool):
    """The mean of each window, as ``torch.nn.AvgPool1d``.

    Parameters
    ----------
    kernel_size : int
        Positions of a window.
    stride : int, optional
        Step between two windows, by default `kernel_size`.
    padding : int, default 0
        Zeros added on both sides, at most half a window.
    ceil_mode : bool, default False
        Whether a last window that is not full counts.
    count_include_pad : bool, default True
        Whether zeros of the padding count in a mean.

    Notes
    -----
    Input (N, C, L_in) or (C, L_in), ``L_out = floor((L_in + 2*padding - kernel_size) / stride)
    + 1``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import AvgPool1d
    >>> AvgPool1d(2)(np.array([[1.0, 3.0, 2.0, 0.0, 5.0]]))
    array([[2., 1.]])
    """

    count_include_pad = Shaping(_flag)

    def __init__(
        self,
        kernel_size: int,
        stride: int | None = None,
        padding: int = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad
        self._check_padding()

    def _check_padding(self) -> None:
        if self.padding > self.kernel_size // 2:
            raise ValueError(
                "pad should be at most half of kernel size, but got "
                f"pad={self.padding}, kernel_size={self.kernel_size}"
            )

    def _divisors(self, length: int, count: int) -> NDArray[Any]:
        begin, end = self._spans(length, count)
        if self.count_include_pad:  # positions behind the padding never count
            begin = np.arange(count) * self.stride - self.padding
            end = np.minimum(begin + self.kernel_size, length + self.padding)
        return end - begin

    def compute(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        x, length, count = given[0], given[0].shape[-1], out.shape[-1]
        divisors = self._divisors(length, count)
        begin, end = self._spans(length, count)
        if self._by_parts(length) and np.array_equal(divisors, end - begin):
            reduced_parts(x, begin, end, out, largest=False)
        else:
            pooled(x, [self._window], out, largest=False, divisors=divisors.astype(x.dtype))

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        x = kept
        shape = self.output_shape([x.shape], x.dtype)
        check_gradient(g, shape, x.dtype)
        share = g / self._divisors(x.shape[-1], shape[-1]).astype(x.dtype)
        return _spread(share, *self._spans(x.shape[-1], shape[-1]), x.shape[-1])

    def extra_repr(self) -> str:
        return (
            f"kernel_size=({self.kernel_size},), stride=({self.stride},), padding=({self.padding},)"
        )


class _Adaptive(Between):
    """What the poolings to a given length share."""

    output_size = Shaping(_positive)

    def __init__(self, output_size: int) -> None:
        super().__init__()
        self.output_size = output_size

    def output_shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        (shape,) = shapes
        check_real(self, dtype)
        _check_dimensions(self, shape)
        if shape[-1] == 0:
            raise ValueError(
                f"{type(self).__name__} should have an input of at least one position, "
                f"got one of size {list(shape)}"
            )
        return (*shape[:-1], self.output_size)

    def _spans(self, length: int, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
        i = np.arange(count)
        return i * length // count, -(-(i + 1) * length // count)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_Adaptive):
    """The means of a given number of parts of the length, as ``torch.nn.AdaptiveAvgPool1d``.

    Parameters
    ----------
    output_size : int
        L_out.

    Notes
    -----
    Output i is the mean of the positions from ``floor(i*L_in/L_out)`` to
    ``ceil((i + 1)*L_in/L_out) - 1``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import AdaptiveAvgPool1d
    >>> AdaptiveAvgPool1d(1)(np.array([[1.0, 3.0, 2.0]]))
    array([[2.]])
    """

    def compute(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        spans = self._spans(given[0].shape[-1], out.shape[-1])
        reduced_parts(given[0], *spans, out, largest=False)

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        x = kept
        shape = self.output_shape([x.shape], x.dtype)
        check_gradient(g, shape, x.dtype)
        begin, end = self._spans(x.shape[-1], shape[-1])
        return _spread(g / (end - begin).astype(x.dtype), begin, end, x.shape[-1])


class AdaptiveMaxPool1d(_Adaptive):
    """The largest of a given number of parts of the length, as ``torch.nn.AdaptiveMaxPool1d``.

    Parameters
    ----------
    output_size : int
        L_out.
    return_indices : bool, default False
        Whether a call returns where the largest are, too; a network cannot take two outputs.

    Notes
    -----
    The parts are those of `AdaptiveAvgPool1d`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import AdaptiveMaxPool1d
    >>> AdaptiveMaxPool1d(2)(np.array([[1.0, 3.0, 2.0]]))
    array([[3., 3.]])
    """

    return_indices = Shaping(_flag)

    def __init__(self, output_size: int, return_indices: bool = False) -> None:
        super().__init__(output_size)
        self.return_indices = return_indices

    def compute(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        spans = self._spans(given[0].shape[-1], out.shape[-1])
        reduced_parts(given[0], *spans, out, largest=True)

    def forward(self, input: ArrayLike, *, out: NDArray[Any] | None = None) -> Any:
        """Return the largest of each part, and with `return_indices` where they are.

        Parameters
        ----------
        input : ndarray of shape (N, C, L_in) or (C, L_in)
        out : ndarray of the output's shape and dtype, optional
            Where to write the output.

        Returns
        -------
        ndarray, or a tuple of it and an ndarray of int64

        Raises
        ------
        ValueError, TypeError
            If the layer does not take such an input.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import AdaptiveMaxPool1d
        >>> AdaptiveMaxPool1d(1, return_indices=True)(np.array([[1.0, 3.0, 2.0, 0.0]]))
        (array([[3.]]), array([[1]]))
        """
        y = super().forward(input, out=out)
        return (y, self._indices(np.asarray(input))) if self.return_indices else y

    def _indices(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the position of the first largest, or NaN, of each part."""
        spans = zip(*self._spans(x.shape[-1], self.output_size), strict=True)
        best = [x[..., begin:end].argmax(-1) + begin for begin, end in spans]
        return np.stack(best, axis=-1).astype(np.int64)

    def _keeping(self, x: NDArray[Any]) -> tuple[NDArray[Any], Any]:
        return self._computed([x]), (x.shape, x.dtype, self._indices(x))

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        return _to_the_largest(g, *kept)


def _check_dimensions(layer: Any, shape: Shape) -> None:
    if len(shape) not in (2, 3):
        raise ValueError(
            f"Expected 2D (unbatched) or 3D (batched) input to {type(layer).__name__}, "
            f"but got input of size: {list(shape)}"
        )


def _to_the_largest(
    g: NDArray[Any], shape: Shape, dtype: np.dtype[Any], indices: NDArray[Any]
) -> NDArray[Any]:
    """Return for each position the sum of g over the outputs whose largest it is."""
    check_gradient(g, indices.shape, dtype)
    rows = np.arange(indices[..., 0].size)[:, np.newaxis] * shape[-1]
    flat = (rows + indices.reshape(len(rows), -1)).reshape(-1)
    sums = np.bincount(flat, g.reshape(-1), minlength=math.prod(shape))
    return sums.astype(dtype).reshape(shape)


def _spread(g: NDArray[Any], begin: NDArray[Any], end: NDArray[Any], length: int) -> NDArray[Any]:
    """Return for each position the sum of g over the parts that hold it."""
    y = np.zeros((*g.shape[:-1], length), g.dtype)
    for k in range(int((end - begin).max(initial=0))):
        # Tap k of all parts that have one; those of one position are added one after the other.
        has = np.flatnonzero(begin + k < end)
        at = begin[has] + k
        while at.size:
            unique, first = np.unique(at, return_index=True)
            y[..., unique] += g[..., has[first]]
            rest = np.ones(at.size, bool)
            rest[first] = False
            at, has = at[rest], has[rest]
    return y
