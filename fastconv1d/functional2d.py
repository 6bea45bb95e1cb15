"""The public functions of two dimensions, beside those of `functional`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .core import arrays, geometry2d, planes
from .core.spec import Around
from .core.spec2d import Spec2d

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


def conv2d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: int | Sequence[int] = 1,
    padding: Any = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    activation: Any = None,
    pre_activation: Any = None,
    residual: ArrayLike | None = None,
    residual_scale: float = 1.0,
    residual_position: str = "before",
    layout: str = "NCHW",
    algorithm: str = "auto",
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Apply a 2-D convolution (a cross-correlation, as torch's) to an input of several channels.

    ``y[n, co, h, w] = bias[co] + sum over ci, i, k of weight[co, ci, i, k]
    * x[n, ci, h*stride_h + i*dilation_h - pad_top, w*stride_w + k*dilation_w - pad_left]``

    Parameters
    ----------
    input : ndarray of shape (N, C_in, H_in, W_in) or (C_in, H_in, W_in)
        Of dtype float32, float64, complex64 or complex128; or of 16 bits, float16 or ml_dtypes'
        bfloat16, with parameters of float32 or 16 bits, as `fastconv1d.conv1d`.
    weight : ndarray of shape (C_out, C_in / groups, KH, KW)
        Of the input's dtype.
    bias : ndarray of shape (C_out,), optional
        Of the input's dtype.
    stride, dilation : int or pair of ints, default 1
        Steps between two windows and between two taps: of rows and columns.
    padding : int, pair of ints, pair of pairs or str, default 0
        Positions added on all sides; of rows and columns; or ``((top, bottom), (left, right))``.
        'valid' adds none, 'same' keeps the size, needs ``stride=1`` and puts an odd position at
        the end; 'same_upper' and 'same_lower' as in `fastconv1d.conv1d`.
    groups : int, default 1
        Number of blocks of channels that are convolved separately.
    padding_mode : {'zeros', 'reflect', 'replicate', 'circular'}, default 'zeros'
        What the added positions hold, rows as well as columns.
    activation, pre_activation, residual, residual_scale, residual_position
        As `fastconv1d.conv1d`.
    layout : {'NCHW', 'NHWC'}, default 'NCHW'
        With 'NHWC', input, residual and output have shape (N, H, W, C) or (H, W, C), and the same
        bits.
    algorithm : {'auto', 'blas', 'direct', 'fast', 'fft', 'winograd'}, default 'auto'
        As `fastconv1d.conv1d`; 'fast', 'fft' and 'winograd' are the same as 'auto'.
    out : ndarray of the result's shape and dtype, optional
        Where to write the result. It should be writeable and share no memory with an input.

    Returns
    -------
    ndarray of shape (N, C_out, H_out, W_out) or (C_out, H_out, W_out)
        Of the input's dtype; `out` if it was given. Sizes as in `fastconv1d.conv1d`.

    Raises
    ------
    ValueError, TypeError, OverflowError, MemoryError
        As `fastconv1d.conv1d`.

    Notes
    -----
    Memory and threads as `fastconv1d.conv1d`.

    References
    ----------
    The semantics are those of ``torch.nn.functional.conv2d``:
    https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.conv2d.html

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import conv2d
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> conv2d(x, np.ones((1, 1, 2, 2)))
    array([[[[ 8., 12.],
             [20., 24.]]]])
    >>> conv2d(x, np.ones((1, 1, 3, 1)), padding=(1, 0))
    array([[[[ 3.,  5.,  7.],
             [ 9., 12., 15.],
             [ 9., 11., 13.]]]])
    """
    around = Around(pre_activation, activation, residual_scale, residual_position)
    spec = Spec2d(
        None, stride, dilation, groups, padding, padding_mode, around, None, layout, algorithm
    )
    return planes.convolve2d(spec, input, weight, bias, residual, out)


def conv2d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    stride: int | Sequence[int] = 1,
    padding: Any = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    algorithm: str = "auto",
    output_mask: Sequence[bool] = (True, True, True),
) -> tuple[NDArray[Any] | None, NDArray[Any] | None, NDArray[Any] | None]:
    """Return the gradients of `conv2d` by input, weight and bias.

    Parameters
    ----------
    grad_output : ndarray of shape (N, C_out, H_out, W_out) or (C_out, H_out, W_out)
        The gradient by the output of `conv2d`, of the input's dtype.
    input : ndarray of shape (N, C_in, H_in, W_in) or (C_in, H_in, W_in)
        As given to `conv2d`.
    weight : ndarray of shape (C_out, C_in / groups, KH, KW)
        As given to `conv2d`.
    stride, padding, dilation, groups, padding_mode
        As given to `conv2d`.
    algorithm : {'auto', 'blas', 'direct', 'fast', 'fft', 'winograd'}, default 'auto'
        As `conv2d`.
    output_mask : sequence of three bools, default (True, True, True)
        Which of the three gradients to compute.

    Returns
    -------
    grad_input : ndarray of the input's shape, or None
    grad_weight : ndarray of the weight's shape, or None
    grad_bias : ndarray of shape (C_out,), or None
        As `fastconv1d.conv1d_backward`.

    Raises
    ------
    ValueError, TypeError, OverflowError, MemoryError
        As `conv2d`.

    Notes
    -----
    Beyond the results and what `fastconv1d.conv1d_backward` takes, rows of the input are copied, in
    pieces of at most 4 MiB of float32, or of one output row where that needs more; and for other
    padding modes than 'zeros' there is a gradient of the padded input.

    References
    ----------
    ``torch.ops.aten.convolution_backward``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import conv2d_backward
    >>> x = np.arange(4.0).reshape(1, 2, 2)
    >>> conv2d_backward(np.ones((1, 1, 2)), x, np.array([[[[1.0], [10.0]]]]))
    (array([[[ 1.,  1.],
            [10., 10.]]]), array([[[[1.],
             [5.]]]]), array([2.]))
    """
    spec = Spec2d(None, stride, dilation, groups, padding, padding_mode)
    return planes.backward(grad_output, input, weight, spec.geometry, algorithm, output_mask)


def unfold2d(
    input: ArrayLike,
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    padding: Any = 0,
    stride: int | Sequence[int] = 1,
) -> NDArray[Any]:
    """Write the windows of a 2-D convolution side by side as columns (im2col).

    Parameters
    ----------
    input : ndarray of shape (N, C, H, W) or (C, H, W)
        Of dtype float32, float64, complex64 or complex128.
    kernel_size, dilation, stride : int or pair of ints
        Of rows and columns.
    padding : int, pair of ints or pair of pairs, default 0
        Zeros around the input, as `conv2d`.

    Returns
    -------
    ndarray of shape (N, C*KH*KW, H_out*W_out) or (C*KH*KW, H_out*W_out)
        Of the input's dtype.

    Raises
    ------
    ValueError, TypeError, OverflowError, MemoryError
        As `fastconv1d.unfold1d`.

    References
    ----------
    ``torch.nn.functional.unfold``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import unfold2d
    >>> unfold2d(np.arange(6.0).reshape(1, 2, 3), (2, 2))
    array([[0., 1.],
           [1., 2.],
           [3., 4.],
           [4., 5.]])
    """
    x, batched = arrays.batched("unfold2d", arrays.operand(input), rank=2)
    arrays.check_dtypes("unfold2d", x)
    kernel, window = geometry2d.unfold2d_geometry(
        x.shape[1:], kernel_size, dilation, padding, stride
    )
    n_batch, channels = x.shape[:2]
    size = window.rows_out, window.columns_out
    columns = arrays.new((n_batch, channels, *kernel, *size), x.dtype)
    planes.unfold(x, columns, kernel, window)
    columns = columns.reshape(n_batch, channels * kernel[0] * kernel[1], size[0] * size[1])
    return columns if batched else columns[0]


def fold2d(
    input: ArrayLike,
    output_size: int | Sequence[int],
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    padding: Any = 0,
    stride: int | Sequence[int] = 1,
) -> NDArray[Any]:
    """Add the columns of `unfold2d` back into planes, where they overlap (col2im).

    Parameters
    ----------
    input : ndarray of shape (N, C*KH*KW, H_out*W_out) or (C*KH*KW, H_out*W_out)
        Of dtype float32, float64, complex64 or complex128.
    output_size : int or pair of ints
        Height and width of the planes.
    kernel_size, dilation, padding, stride
        As given to `unfold2d`.

    Returns
    -------
    ndarray of shape (N, C, H, W) or (C, H, W)
        Of the input's dtype.

    Raises
    ------
    ValueError, TypeError, OverflowError, MemoryError
        As `fastconv1d.fold1d`.

    References
    ----------
    ``torch.nn.functional.fold``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import fold2d
    >>> fold2d(np.ones((4, 2)), (2, 3), (2, 2))
    array([[[1., 2., 1.],
            [1., 2., 1.]]])
    """
    given, batched = arrays.batched("fold2d", arrays.operand(input))
    arrays.check_dtypes("fold2d", given)
    kernel, channels, size, window = geometry2d.fold2d_geometry(
        given.shape, output_size, kernel_size, dilation, padding, stride
    )
    n_batch = len(given)
    y = arrays.new((n_batch, channels, *size), given.dtype)
    columns = given.reshape(n_batch, channels, *kernel, window.rows_out, window.columns_out)
    planes.fold(columns, y, kernel, window)
    return y if batched else y[0]
