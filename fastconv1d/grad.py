"""Single gradients, named and ordered as in ``torch.nn.grad``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .core import adjoint, arrays, geometry, geometry2d, planes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "conv1d_input",
    "conv1d_weight",
    "conv2d_input",
    "conv2d_weight",
    "conv_transpose1d_input",
    "conv_transpose1d_weight",
]


def conv1d_input(
    input_size: Sequence[int],
    weight: ArrayLike,
    grad_output: ArrayLike,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> NDArray[Any]:
    """Return the gradient of `fastconv1d.conv1d` by its input.

    Parameters
    ----------
    input_size : sequence of int, (N, C_in, L_in) or (C_in, L_in)
        The shape of the input.
    weight : ndarray of shape (C_out, C_in / groups, K)
        As given to `fastconv1d.conv1d`.
    grad_output : ndarray of shape (N, C_out, L_out) or (C_out, L_out)
        The gradient by the output, of the weight's dtype.
    stride, padding, dilation, groups
        As given to `fastconv1d.conv1d`, which has the formula of L_out.

    Returns
    -------
    ndarray of shape `input_size`
        Of the weight's dtype.

    Raises
    ------
    ValueError, TypeError, OverflowError, MemoryError
        As `fastconv1d.conv1d_backward`.

    Notes
    -----
    Memory and threads as in `fastconv1d.conv1d_backward`.

    References
    ----------
    ``torch.nn.grad.conv1d_input``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import grad
    >>> grad.conv1d_input((1, 1, 3), np.array([[[-1.0, 1.0]]]), np.ones((1, 1, 2)))
    array([[[-1.,  0.,  1.]]])
    """
    shape, batched = _input_size("conv1d", input_size)
    w = _weight("conv1d", weight)
    window = geometry.conv_geometry(
        shape, w.shape, None, stride, padding, dilation, groups, "zeros"
    )
    return _input_gradient(False, grad_output, w, shape, window, batched)


def conv1d_weight(
    input: ArrayLike,
    weight_size: Sequence[int],
    grad_output: ArrayLike,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> NDArray[Any]:
    """Return the gradient of `fastconv1d.conv1d` by its weight.

    Parameters
    ----------
    input : ndarray of shape (N, C_in, L_in) or (C_in, L_in)
        As given to `fastconv1d.conv1d`.
    weight_size : sequence of int, (C_out, C_in / groups, K)
        The shape of the weight.
    grad_output : ndarray of shape (N, C_out, L_out) or (C_out, L_out)
        The gradient by the output, of the input's dtype.
    stride, padding, dilation, groups
        As given to `fastconv1d.conv1d`, which has the formula of L_out.

    Returns
    -------
    ndarray of shape `weight_size`
        Of the input's dtype.

    Raises
    ------
    ValueError, TypeError, OverflowError, MemoryError
        As `fastconv1d.conv1d_backward`.

    Notes
    -----
    Memory and threads as in `fastconv1d.conv1d_backward`.

    References
    ----------
    ``torch.nn.grad.conv1d_weight``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import grad
    >>> grad.conv1d_weight(np.array([[[1.0, 2.0, 4.0]]]), (1, 1, 2), np.ones((1, 1, 2)))
    array([[[3., 6.]]])
    """
    x, batched = _input("conv1d", input)
    w_shape = _size("weight_size", weight_size)
    window = geometry.conv_geometry(
        x.shape, w_shape, None, stride, padding, dilation, groups, "zeros"
    )
    return _weight_gradient(False, grad_output, x, w_shape, window, batched)


def conv2d_input(
    input_size: Sequence[int],
    weight: ArrayLike,
    grad_output: ArrayLike,
    stride: int | Sequence[int] = 1,
    padding: Any = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> NDArray[Any]:
    """Return the gradient of `fastconv1d.conv2d` by its input.

    Parameters
    ----------
    input_size : sequence of int, (N, C_in, H_in, W_in) or (C_in, H_in, W_in)
        The shape of the input.
    weight : ndarray of shape (C_out, C_in / groups, KH, KW)
        As given to `fastconv1d.conv2d`.
    grad_output : ndarray of shape (N, C_out, H_out, W_out) or (C_out, H_out, W_out)
        The gradient by the output, of the weight's dtype.
    stride, padding, dilation, groups
        As given to `fastconv1d.conv2d`.

    Returns
    -------
    ndarray of shape `input_size`
        Of the weight's dtype.

    Raises
    ------
    ValueError, TypeError, OverflowError, MemoryError
        As `fastconv1d.conv2d_backward`.

    References
    ----------
    ``torch.nn.grad.conv2d_input``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import grad
    >>> grad.conv2d_input((1, 1, 3), np.array([[[[-1.0, 1.0]]]]), np.ones((1, 1, 2)))
    array([[[-1.,  0.,  1.]]])
    """
    shape, batched = _input_size("conv2d", input_size, rank=2)
    w = _weight("conv2d", weight)
    window = geometry2d.conv2d_geometry(
        shape, w.shape, None, stride, padding, dilation, groups, "zeros"
    )
    g = arrays.gradient_operand(grad_output, w.dtype, (shape[0], *window[:3]), batched)
    engine = planes.engine_of("auto", w.dtype.char, w.shape, window)
    grad_input = planes.input_gradient(engine, g, w, shape, window)
    return grad_input if batched else grad_input[0]


def conv2d_weight(
    input: ArrayLike,
    weight_size: Sequence[int],
    grad_output: ArrayLike,
    stride: int | Sequence[int] = 1,
    padding: Any = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> NDArray[Any]:
    """Return the gradient of `fastconv1d.conv2d` by its weight.

    Parameters
    ----------
    input : ndarray of shape (N, C_in, H_in, W_in) or (C_in, H_in, W_in)
        As given to `fastconv1d.conv2d`.
    weight_size : sequence of int, (C_out, C_in / groups, KH, KW)
        The shape of the weight.
    grad_output : ndarray of shape (N, C_out, H_out, W_out) or (C_out, H_out, W_out)
        The gradient by the output, of the input's dtype.
    stride, padding, dilation, groups
        As given to `fastconv1d.conv2d`.

    Returns
    -------
    ndarray of shape `weight_size`
        Of the input's dtype.

    Raises
    ------
    ValueError, TypeError, OverflowError, MemoryError
        As `fastconv1d.conv2d_backward`.

    References
    ----------
    ``torch.nn.grad.conv2d_weight``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import grad
    >>> grad.conv2d_weight(np.array([[[1.0, 2.0, 4.0]]]), (1, 1, 1, 2), np.ones((1, 1, 2)))
    array([[[[3., 6.]]]])
    """
    x, batched = _input("conv2d", input, rank=2)
    w_shape = _size("weight_size", weight_size)
    window = geometry2d.conv2d_geometry(
        x.shape, w_shape, None, stride, padding, dilation, groups, "zeros"
    )
    g = arrays.gradient_operand(grad_output, x.dtype, (x.shape[0], *window[:3]), batched)
    engine = planes.engine_of("auto", x.dtype.char, w_shape, window)
    return planes.weight_gradient(engine, g, x, w_shape, window)


def conv_transpose1d_input(
    input_size: Sequence[int],
    weight: ArrayLike,
    grad_output: ArrayLike,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> NDArray[Any]:
    """Return the gradient of `fastconv1d.conv_transpose1d` by its input.

    Parameters
    ----------
    input_size : sequence of int, (N, C_in, L_in) or (C_in, L_in)
        The shape of the input.
    weight : ndarray of shape (C_in, C_out / groups, K)
        As given to `fastconv1d.conv_transpose1d`.
    grad_output : ndarray of shape (N, C_out, L_out) or (C_out, L_out)
        The gradient by the output, of the weight's dtype.
    stride, padding, output_padding, groups, dilation
        As given to `fastconv1d.conv_transpose1d`, which has the formula of L_out.

    Returns
    -------
    ndarray of shape `input_size`
        Of the weight's dtype.

    Raises
    ------
    ValueError, TypeError, OverflowError, MemoryError
        As `fastconv1d.conv_transpose1d_backward`.

    Notes
    -----
    Memory and threads as in `fastconv1d.conv_transpose1d_backward`.

    References
    ----------
    ``torch.ops.aten.convolution_backward`` with ``transposed=True``; ``torch.nn.grad`` has no
    transposed form.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import grad
    >>> w = np.array([[[1.0, 10.0, 100.0]]])
    >>> grad.conv_transpose1d_input((1, 1, 2), w, np.ones((1, 1, 5)), stride=2)
    array([[[111., 111.]]])
    """
    shape, batched = _input_size("conv_transpose1d", input_size)
    w = _weight("conv_transpose1d", weight)
    window = geometry.conv_transpose_geometry(
        shape, w.shape, None, stride, padding, output_padding, groups, dilation
    )
    return _input_gradient(True, grad_output, w, shape, window, batched)


def conv_transpose1d_weight(
    input: ArrayLike,
    weight_size: Sequence[int],
    grad_output: ArrayLike,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> NDArray[Any]:
    """Return the gradient of `fastconv1d.conv_transpose1d` by its weight.

    Parameters
    ----------
    input : ndarray of shape (N, C_in, L_in) or (C_in, L_in)
        As given to `fastconv1d.conv_transpose1d`.
    weight_size : sequence of int, (C_in, C_out / groups, K)
        The shape of the weight.
    grad_output : ndarray of shape (N, C_out, L_out) or (C_out, L_out)
        The gradient by the output, of the input's dtype.
    stride, padding, output_padding, groups, dilation
        As given to `fastconv1d.conv_transpose1d`, which has the formula of L_out.

    Returns
    -------
    ndarray of shape `weight_size`
        Of the input's dtype.

    Raises
    ------
    ValueError, TypeError, OverflowError, MemoryError
        As `fastconv1d.conv_transpose1d_backward`.

    Notes
    -----
    Memory and threads as in `fastconv1d.conv_transpose1d_backward`.

    References
    ----------
    ``torch.ops.aten.convolution_backward`` with ``transposed=True``; ``torch.nn.grad`` has no
    transposed form.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import grad
    >>> x = np.array([[[1.0, 2.0]]])
    >>> grad.conv_transpose1d_weight(x, (1, 1, 3), np.ones((1, 1, 5)), stride=2)
    array([[[3., 3., 3.]]])
    """
    x, batched = _input("conv_transpose1d", input)
    w_shape = _size("weight_size", weight_size)
    window = geometry.conv_transpose_geometry(
        x.shape, w_shape, None, stride, padding, output_padding, groups, dilation
    )
    return _weight_gradient(True, grad_output, x, w_shape, window, batched)


def _input_gradient(
    transposed: bool,
    grad_output: ArrayLike,
    w: NDArray[Any],
    x_shape: tuple[int, ...],
    window: geometry.Geometry,
    batched: bool,
) -> NDArray[Any]:
    shape = (x_shape[0], *window[:2])
    g = arrays.gradient_operand(grad_output, w.dtype, shape, batched)
    engine = adjoint.engine_of("auto", w.dtype, w.shape, window)
    grad_input = adjoint.input_gradient(engine, transposed, g, w, x_shape, window)
    return grad_input if batched else grad_input[0]


def _weight_gradient(
    transposed: bool,
    grad_output: ArrayLike,
    x: NDArray[Any],
    w_shape: tuple[int, ...],
    window: geometry.Geometry,
    batched: bool,
) -> NDArray[Any]:
    g = arrays.gradient_operand(grad_output, x.dtype, (x.shape[0], *window[:2]), batched)
    engine = adjoint.engine_of("auto", x.dtype, w_shape, window)
    return adjoint.weight_gradient(engine, transposed, g, x, w_shape, window)[0]


def _input(function: str, input: ArrayLike, rank: int = 1) -> tuple[NDArray[Any], bool]:
    x = arrays.operand(input)
    arrays.check_dtypes(function, x)
    return arrays.batched(function, x, rank)


def _weight(function: str, weight: ArrayLike) -> NDArray[Any]:
    w = arrays.operand(weight)
    arrays.check_dtypes(function, w)
    return w


def _size(name: str, size: Sequence[int]) -> tuple[int, ...]:
    try:
        shape = tuple(geometry.as_index(name, length) for length in size)
    except TypeError:
        raise TypeError(f"{name} should be a tuple of ints, got {geometry.shown(size)}") from None
    if any(length < 0 for length in shape):
        raise ValueError(f"negative dimensions are not supported, got {name}={list(shape)}")
    return shape


def _input_size(
    function: str, input_size: Sequence[int], rank: int = 1
) -> tuple[tuple[int, ...], bool]:
    shape = _size("input_size", input_size)
    if len(shape) not in (1 + rank, 2 + rank):
        raise ValueError(
            f"Expected {1 + rank}D (unbatched) or {2 + rank}D (batched) input to {function}, "
            f"but got input of size: {list(shape)}"
        )
    return (shape, True) if len(shape) == 2 + rank else ((1, *shape), False)
