"""The public functions: what they take and return; `core` computes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .config import execution
from .core import adjoint, arrays, geometry
from .core.fast import engine_of_call
from .core.forward import convolve
from .core.spec import Around, Spec
from .kernels.unfold import fold, unfold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


def conv1d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    activation: Any = None,
    pre_activation: Any = None,
    residual: ArrayLike | None = None,
    residual_scale: float = 1.0,
    residual_position: str = "before",
    layout: str = "NCL",
    algorithm: str = "auto",
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Apply a 1-D convolution (a cross-correlation, as torch's) to an input of several channels.

    ``y[n, co, l] = bias[co] + sum over ci, k of
    weight[co, ci, k] * x[n, ci, l*stride + k*dilation - pad_left]``

    Parameters
    ----------
    input : ndarray of shape (N, C_in, L_in) or (C_in, L_in)
        Of dtype float32, float64, complex64 or complex128; or of 16 bits, float16 or ml_dtypes'
        bfloat16, which is converted on the way in and out and computed in float32, with parameters
        of float32 or 16 bits. complex32, a structured dtype of two float16 or float16 with a last
        axis of two (in all operands), is computed in complex64. Any strides are read as they are;
        array-likes, byte-swapped and unaligned arrays are converted once.
    weight : ndarray of shape (C_out, C_in / groups, K)
        Of the input's dtype.
    bias : ndarray of shape (C_out,), optional
        Of the input's dtype.
    stride : int, default 1
        Step between two windows.
    padding : int, tuple of one or two ints, or str, default 0
        Positions added on both sides, or ``(left, right)``. 'valid' adds none. 'same' keeps the
        length, needs ``stride=1``, and puts an odd position on the right. 'causal' adds
        ``dilation*(K - 1)`` on the left, so that no output sees a later input. 'same_upper' and
        'same_lower' are ONNX's, for any stride: ``L_out = ceil(L_in / stride)``, for which
        ``max((L_out - 1)*stride + dilation*(K - 1) + 1 - L_in, 0)`` positions are added on both
        sides, an odd one on the right ('same_upper', also TensorFlow's rule) or the left.
    dilation : int, default 1
        Step between two taps of the kernel.
    groups : int, default 1
        Number of blocks of channels that are convolved separately.
    padding_mode : {'zeros', 'reflect', 'replicate', 'circular'}, default 'zeros'
        What the added positions hold. 'reflect' needs a padding below L_in, 'circular' one of at
        most L_in.
    activation : str or tuple, optional
        A function of each output, applied while it is in cache: 'relu', 'leaky_relu' or
        ('leaky_relu', slope), 'elu' or ('elu', alpha), 'gelu' or ('gelu', 'tanh'), 'silu', 'tanh',
        'sigmoid', 'relu6', 'hardswish', 'mish', 'softplus' or ('softplus', beta), ('prelu', slope)
        with a slope of shape (C_out,), or ('snake', alpha) with alpha of shape (C_out,):
        ``x + sin(alpha*x)**2 / (alpha + 1e-9)``. float32 results are within 2 ulp of the exact
        function. Real dtypes only.
    pre_activation : str or tuple, optional
        The same for each input, before the padding: padded zeros stay zero.
    residual : ndarray of the output's shape and dtype, optional
        Added to the output.
    residual_scale : float, default 1.0
        What the residual is multiplied by.
    residual_position : {'before', 'after'}, default 'before'
        Whether the residual is added before the activation or after it.
    layout : {'NCL', 'NLC'}, default 'NCL'
        With 'NLC', input, residual and output have shape (N, L, C) or (L, C), and the same bits.
    algorithm : {'auto', 'blas', 'direct', 'fast', 'fft', 'winograd'}, default 'auto'
        Which engine computes: 'direct' has the register-tile kernels for float32 and float64,
        'blas' unfolds tiles for SciPy's BLAS, 'auto' takes the direct engine wherever it can (or
        is 'fast', where `fastconv1d.config.set_algorithm` says so). 'fft' takes transforms for any
        dtype where stride or dilation is 1, 'fast' takes them where they are faster; both are
        'auto' elsewhere and in deterministic mode, and have other bits and errors, see `Conv1d`.
        'winograd' is for layers, and the same as 'auto' here.
    out : ndarray of the result's shape and dtype, optional
        Where to write the result. It should be writeable and share no memory with an input.

    Returns
    -------
    ndarray of shape (N, C_out, L_out) or (C_out, L_out)
        Of the input's dtype; `out` if it was given.
        ``L_out = floor((L_in + pad_left + pad_right - dilation*(K - 1) - 1) / stride) + 1``.
        As in torch, an input without channels has an output without channels.

    Raises
    ------
    ValueError
        If shapes or parameters do not fit together, `out` cannot take the result, or
        `algorithm` cannot compute the layer.
    TypeError
        If dtypes differ or are not among the four, or a parameter is not an integer.
    OverflowError
        If a size exceeds 64 bits.
    MemoryError
        If the result or the scratch cannot be allocated.

    Notes
    -----
    Beyond the result a call takes at most 4 MiB of scratch a thread and a packed copy of the
    weight (a layer packs once), whatever the lengths, and
    padding never copies the input. It runs on up to `get_num_threads` threads, without the GIL.

    References
    ----------
    The semantics are those of ``torch.nn.functional.conv1d``:
    https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.conv1d.html

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import conv1d
    >>> x = np.array([[[1.0, 2.0, 4.0, 7.0]]])
    >>> w = np.array([[[-1.0, 1.0]]])
    >>> conv1d(x, w)
    array([[[1., 2., 3.]]])
    >>> conv1d(x, w, padding=(1, 0), padding_mode="replicate")
    array([[[0., 1., 2., 3.]]])
    """
    # Whether this is nothing but sums, written out: a function would cost as much as a geometry. Of
    # the types first, as the comparison of an array is no bool.
    if not (
        activation is pre_activation is residual is None
        and type(layout) is type(residual_position) is str
        and layout == "NCL"
        and residual_position == "before"
        and type(residual_scale) is float
        and residual_scale == 1.0
        and not arrays.is_stored(input)
    ):
        around = Around(pre_activation, activation, residual_scale, residual_position)
        window = stride, dilation, groups, 0, padding, padding_mode
        spec = Spec(False, 0, *window, around, None, layout, algorithm)
        return convolve(spec, input, weight, bias, residual, out)
    x, w, b, batched = arrays.operands("conv1d", input, weight, bias)
    plain = geometry.conv_geometry(
        x.shape,
        w.shape,
        None if b is None else b.shape,
        stride,
        padding,
        dilation,
        groups,
        padding_mode,
    )
    c_out, l_out = plain[:2]
    engine = engine_of_call(algorithm, w.shape, x.dtype, plain, False, x.shape[2], l_out)
    shape = (x.shape[0], c_out, l_out)
    y = arrays.new(shape, x.dtype) if out is None else arrays.target(out, shape, batched, x, w, b)
    if y.size:
        engine.correlate(x, w, b, y, plain, execution())
    return arrays.delivered(y, batched, out)


def conv_transpose1d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    *,
    padding_mode: str = "zeros",
    activation: Any = None,
    pre_activation: Any = None,
    residual: ArrayLike | None = None,
    residual_scale: float = 1.0,
    residual_position: str = "before",
    layout: str = "NCL",
    algorithm: str = "auto",
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Apply a 1-D transposed convolution to an input of several channels.

    Each ``weight[ci, co, k] * x[n, ci, l]`` is added to
    ``y[n, co, l*stride + k*dilation - pad_left]``, which starts from ``bias[co]``.

    Parameters
    ----------
    input : ndarray of shape (N, C_in, L_in) or (C_in, L_in)
        Of a dtype that `conv1d` takes.
    weight : ndarray of shape (C_in, C_out / groups, K)
        Of the input's dtype.
    bias : ndarray of shape (C_out,), optional
        Of the input's dtype.
    stride : int, default 1
        Step between the windows of two input positions.
    padding : int, tuple of one or two ints, or str, default 0
        Positions cropped from both ends of the output, or ``(left, right)``. 'causal',
        'same_upper' and 'same_lower' crop ``max(dilation*(K - 1) + 1 - stride, 0)`` positions, so
        that ``L_out = L_in*stride + output_padding`` where the kernel spans the stride: 'causal' on
        the right, the others on both sides, an odd one on the right or the left.
    output_padding : int, default 0
        Positions added to the right end, below `stride` or `dilation`.
    groups : int, default 1
        Number of blocks of channels that are convolved separately.
    dilation : int, default 1
        Step between two taps of the kernel.
    padding_mode : {'zeros', 'reflect', 'replicate', 'circular'}, default 'zeros'
        What becomes of the cropped positions: this is the adjoint of `conv1d` with the same mode,
        whose input is the output here. 'zeros' drops them; 'circular' adds them to the other end
        (overlap-add that wraps around), 'reflect' to the positions that they mirror, 'replicate' to
        the first and the last. 'reflect' needs a padding below L_out, 'circular' one of at most
        L_out.
    activation, pre_activation, residual, residual_scale, residual_position, layout, algorithm, out
        As `conv1d`.

    Returns
    -------
    ndarray of shape (N, C_out, L_out) or (C_out, L_out)
        Of the input's dtype; `out` if it was given. ``L_out = (L_in - 1)*stride - pad_left
        - pad_right + dilation*(K - 1) + output_padding + 1``, which may be 0: the output is empty
        then, whatever the dtype (torch accepts that for some only).

    Raises
    ------
    ValueError, TypeError, OverflowError, MemoryError
        As `conv1d`.

    Notes
    -----
    Memory and threads as `conv1d`.

    References
    ----------
    The semantics are those of ``torch.nn.functional.conv_transpose1d``:
    https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.conv_transpose1d.html

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import conv_transpose1d
    >>> x = np.array([[[1.0, 2.0]]])
    >>> w = np.array([[[1.0, 10.0, 100.0]]])
    >>> conv_transpose1d(x, w, stride=2)
    array([[[  1.,  10., 102.,  20., 200.]]])
    """
    if not (
        activation is pre_activation is residual is None
        and type(layout) is type(residual_position) is str
        and layout == "NCL"
        and residual_position == "before"
        and type(residual_scale) is float
        and residual_scale == 1.0
        and not arrays.is_stored(input)
    ):
        around = Around(pre_activation, activation, residual_scale, residual_position)
        window = stride, dilation, groups, output_padding, padding, padding_mode
        spec = Spec(True, 0, *window, around, None, layout, algorithm)
        return convolve(spec, input, weight, bias, residual, out)
    x, w, b, batched = arrays.operands("conv_transpose1d", input, weight, bias)
    plain = geometry.conv_transpose_geometry(
        x.shape,
        w.shape,
        None if b is None else b.shape,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
        padding_mode,
    )
    c_out, l_out = plain[:2]
    engine = engine_of_call(algorithm, w.shape, x.dtype, plain, True, x.shape[2], l_out)
    shape = (x.shape[0], c_out, l_out)
    y = arrays.new(shape, x.dtype) if out is None else arrays.target(out, shape, batched, x, w, b)
    adjoint.scatter(engine, x, w, b, y, plain)
    return arrays.delivered(y, batched, out)


def conv1d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    algorithm: str = "auto",
    output_mask: Sequence[bool] = (True, True, True),
) -> tuple[NDArray[Any] | None, NDArray[Any] | None, NDArray[Any] | None]:
    """Return the gradients of `conv1d` by input, weight and bias.

    Parameters
    ----------
    grad_output : ndarray of shape (N, C_out, L_out) or (C_out, L_out)
        The gradient by the output of `conv1d`, of the input's dtype.
    input : ndarray of shape (N, C_in, L_in) or (C_in, L_in)
        As given to `conv1d`.
    weight : ndarray of shape (C_out, C_in / groups, K)
        As given to `conv1d`.
    stride, padding, dilation, groups, padding_mode
        As given to `conv1d`, which has the formula of L_out.
    algorithm : {'auto', 'blas', 'direct', 'fast', 'fft', 'winograd'}, default 'auto'
        Which engine computes: 'direct' has the register-tile kernels for float32 and float64,
        'blas' unfolds tiles for SciPy's BLAS, 'auto' takes the direct engine wherever it can (or
        is 'fast', where `fastconv1d.config.set_algorithm` says so). 'fft' takes transforms for any
        dtype where stride or dilation is 1, 'fast' takes them where they are faster; both are
        'auto' elsewhere and in deterministic mode, and have other bits and errors, see `Conv1d`.
        'winograd' is for layers, and the same as 'auto' here.
    output_mask : sequence of three bools, default (True, True, True)
        Which of the three gradients to compute.

    Returns
    -------
    grad_input : ndarray of the input's shape, or None
    grad_weight : ndarray of the weight's shape, or None
    grad_bias : ndarray of shape (C_out,), or None
        All of the input's dtype (of a 16-bit input: computed in float32 and rounded once, those by
        the parameters to the weight's dtype); None where `output_mask` is False. For complex
        dtypes they are torch's, which conjugates: ``grad_weight = sum of grad_output * conj(x)``.

    Raises
    ------
    ValueError
        If shapes or parameters do not fit together.
    TypeError
        If dtypes differ or are not among the four, or a parameter is not an integer.
    OverflowError
        If a size exceeds 64 bits.
    MemoryError
        If a result or the scratch cannot be allocated.

    Notes
    -----
    Beyond the results a call takes at most 4 MiB of scratch a thread, a packed copy of the weight,
    and 4 MiB of partial sums. The gradient by the bias is
    summed in double precision in one order, whatever the strides and the number of threads.

    References
    ----------
    ``torch.ops.aten.convolution_backward``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import conv1d_backward
    >>> x = np.array([[[1.0, 2.0, 4.0]]])
    >>> w = np.array([[[-1.0, 1.0]]])
    >>> conv1d_backward(np.ones((1, 1, 2)), x, w)
    (array([[[-1.,  0.,  1.]]]), array([[[3., 6.]]]), array([2.]))
    >>> conv1d_backward(np.ones((1, 1, 2)), x, w, output_mask=(False, True, False))
    (None, array([[[3., 6.]]]), None)
    """
    spec = Spec(False, 0, stride, dilation, groups, 0, padding, padding_mode)
    return adjoint.backward(
        False, grad_output, input, weight, spec.geometry, algorithm, output_mask
    )


def conv_transpose1d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    *,
    padding_mode: str = "zeros",
    algorithm: str = "auto",
    output_mask: Sequence[bool] = (True, True, True),
) -> tuple[NDArray[Any] | None, NDArray[Any] | None, NDArray[Any] | None]:
    """Return the gradients of `conv_transpose1d` by input, weight and bias.

    Parameters
    ----------
    grad_output : ndarray of shape (N, C_out, L_out) or (C_out, L_out)
        The gradient by the output of `conv_transpose1d`, of the input's dtype.
    input : ndarray of shape (N, C_in, L_in) or (C_in, L_in)
        As given to `conv_transpose1d`.
    weight : ndarray of shape (C_in, C_out / groups, K)
        As given to `conv_transpose1d`.
    stride, padding, output_padding, groups, dilation, padding_mode
        As given to `conv_transpose1d`, which has the formula of L_out.
    algorithm, output_mask
        As `conv1d_backward`.

    Returns
    -------
    grad_input : ndarray of the input's shape, or None
    grad_weight : ndarray of the weight's shape, or None
    grad_bias : ndarray of shape (C_out,), or None
        As `conv1d_backward`.

    Raises
    ------
    ValueError, TypeError, OverflowError, MemoryError
        As `conv1d_backward`.

    Notes
    -----
    Memory and order of the sums as `conv1d_backward`.

    References
    ----------
    ``torch.ops.aten.convolution_backward`` with ``transposed=True``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import conv_transpose1d_backward
    >>> x = np.array([[[1.0, 2.0]]])
    >>> w = np.array([[[1.0, 10.0, 100.0]]])
    >>> conv_transpose1d_backward(np.ones((1, 1, 5)), x, w, stride=2)
    (array([[[111., 111.]]]), array([[[3., 3., 3.]]]), array([5.]))
    """
    spec = Spec(True, 0, stride, dilation, groups, output_padding, padding, padding_mode)
    return adjoint.backward(True, grad_output, input, weight, spec.geometry, algorithm, output_mask)


def unfold1d(
    input: ArrayLike,
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    stride: int | Sequence[int] = 1,
) -> NDArray[Any]:
    """Write the windows of a convolution side by side as columns (im2col).

    ``columns[n, c*K + k, l] = x[n, c, l*stride + k*dilation - pad_left]``, 0 outside of x.

    Parameters
    ----------
    input : ndarray of shape (N, C, L) or (C, L)
        Of dtype float32, float64, complex64 or complex128.
    kernel_size : int
        Length K of a window, in taps.
    dilation : int, default 1
        Step between two taps.
    padding : int, tuple of one or two ints, or str, default 0
        Zeros added on both sides, or ``(left, right)``; 'causal', 'same_upper' and 'same_lower' as
        in `conv1d`.
    stride : int, default 1
        Step between two windows.

    Returns
    -------
    ndarray of shape (N, C*K, L_out) or (C*K, L_out)
        Of the input's dtype.
        ``L_out = floor((L + pad_left + pad_right - dilation*(K - 1) - 1) / stride) + 1``.

    Raises
    ------
    ValueError
        If shapes or parameters do not fit together.
    TypeError
        If the dtype is not among the four, or a parameter is not an integer.
    OverflowError
        If a size exceeds 64 bits.
    MemoryError
        If the result cannot be allocated.

    See Also
    --------
    fold1d : Its adjoint.

    Notes
    -----
    No memory beyond the result, one thread. `conv1d` does not need the columns.

    References
    ----------
    The 1-D form of ``torch.nn.functional.unfold``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import unfold1d
    >>> unfold1d(np.array([[1.0, 2.0, 3.0, 4.0]]), kernel_size=2)
    array([[1., 2., 3.],
           [2., 3., 4.]])
    """
    x, batched = arrays.batched("unfold1d", arrays.operand(input))
    arrays.check_dtypes("unfold1d", x)
    kernel, l_out, stride, dilation, left = geometry.unfold_geometry(
        x.shape, kernel_size, dilation, padding, stride
    )
    columns = arrays.new((x.shape[0], x.shape[1] * kernel, l_out), x.dtype)
    if columns.size:
        unfold(x, columns, stride, dilation, left)
    return columns if batched else columns[0]


def fold1d(
    input: ArrayLike,
    output_size: int | Sequence[int],
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    stride: int | Sequence[int] = 1,
) -> NDArray[Any]:
    """Add the columns of `unfold1d` back into a signal, where they overlap (col2im).

    Each ``columns[n, c*K + k, l]`` is added to ``y[n, c, l*stride + k*dilation - pad_left]``.

    Parameters
    ----------
    input : ndarray of shape (N, C*K, L_columns) or (C*K, L_columns)
        Of dtype float32, float64, complex64 or complex128.
    output_size : int
        Length of the signal.
    kernel_size : int
        Length K of a window, in taps.
    dilation : int, default 1
        Step between two taps.
    padding : int, tuple of one or two ints, or str, default 0
        Positions left out on both sides, or ``(left, right)``; 'causal', 'same_upper' and
        'same_lower' as in `conv1d` of a signal of `output_size`.
    stride : int, default 1
        Step between two windows.

    Returns
    -------
    ndarray of shape (N, C, output_size) or (C, output_size)
        Of the input's dtype.

    Raises
    ------
    ValueError
        If shapes or parameters do not fit together: L_columns should be ``floor((output_size
        + pad_left + pad_right - dilation*(K - 1) - 1) / stride) + 1``.
    TypeError
        If the dtype is not among the four, or a parameter is not an integer.
    OverflowError
        If a size exceeds 64 bits.
    MemoryError
        If the result cannot be allocated.

    See Also
    --------
    unfold1d : Its adjoint.

    Notes
    -----
    No memory beyond the result, one thread.

    References
    ----------
    The 1-D form of ``torch.nn.functional.fold``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import fold1d
    >>> fold1d(np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]]), output_size=4, kernel_size=2)
    array([[1., 4., 6., 4.]])
    """
    columns, batched = arrays.batched("fold1d", arrays.operand(input))
    arrays.check_dtypes("fold1d", columns)
    channels, length, stride, dilation, left = geometry.fold_geometry(
        columns.shape, output_size, kernel_size, dilation, padding, stride
    )
    y = arrays.new((columns.shape[0], channels, length), columns.dtype)
    if y.size:
        fold(columns, y, stride, dilation, left)
    return y if batched else y[0]
