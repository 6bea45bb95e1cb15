"""The public functions: check, allocate, hand over to an engine."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from . import fused, geometry
from .config import execution
from .kernels import direct_engine
from .kernels.blas_engine import correlate as correlate_blas
from .kernels.unfold import fold, unfold
from .planner import choose_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    from numpy.typing import ArrayLike, NDArray

_DTYPES = frozenset(map(np.dtype, ("float32", "float64", "complex64", "complex128")))

# torch's names of the dtypes that are not implemented here.
_TORCH_NAMES = {
    "bool": "Bool",
    "uint8": "Byte",
    "int8": "Char",
    "int16": "Short",
    "int32": "Int",
    "int64": "Long",
    "uint16": "UInt16",
    "uint32": "UInt32",
    "uint64": "UInt64",
    "float16": "Half",
}

# Steps the exact test for overlapping memory may take before an overlap is assumed.
_OVERLAP_WORK: Any = 10_000

_is_half = fused.is_stored_half

# Elements of a temporary block: 2 MiB of float64.
_BLOCK = 1 << 18
# Padded positions whose gradient is computed at once: the margins need no array of their own size.
_MARGIN = 1024


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
        'sigmoid', or ('snake', alpha) with alpha of shape (C_out,):
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
    algorithm : {'auto', 'blas', 'direct', 'winograd'}, default 'auto'
        Which engine computes: 'direct' has the register-tile kernels for float32 and float64,
        'blas' unfolds tiles for SciPy's BLAS, 'auto' takes the direct engine wherever it can.
        'winograd' is for layers, see `fastconv1d.Conv1d`, and the same as 'auto' here.
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
    options = fused.Options(
        activation, pre_activation, residual, residual_scale, residual_position, layout
    )
    if not fused.is_plain(options) or _is_half(input):
        plan_of = partial(
            _conv_plan, (stride, padding, dilation, groups, padding_mode), geometry.conv_geometry
        )
        return fused.convolve(False, input, weight, bias, plan_of, options, algorithm, out)
    x, w, b, batched = _operands("conv1d", input, weight, bias)
    c_out, l_out, stride, dilation, left, right, groups, mode = geometry.conv_geometry(
        x.shape,
        w.shape,
        None if b is None else b.shape,
        stride,
        padding,
        dilation,
        groups,
        padding_mode,
    )
    engine = choose_engine(algorithm, x.dtype.char, w.shape, stride, dilation, (left, right), False)
    shape = (x.shape[0], c_out, l_out)
    y = _new(shape, x.dtype) if out is None else _target(out, shape, batched, x, w, b)
    if y.size:
        engine.correlate(x, w, b, y, stride, dilation, left, mode, groups, *execution())
    return _delivered(y, batched, out)


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
        Of dtype float32, float64, complex64 or complex128; or of 16 bits, float16 or ml_dtypes'
        bfloat16, which is converted on the way in and out and computed in float32, with parameters
        of float32 or 16 bits. complex32, a structured dtype of two float16 or float16 with a last
        axis of two (in all operands), is computed in complex64. Any strides are read as they are;
        array-likes, byte-swapped and unaligned arrays are converted once.
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
    activation : str or tuple, optional
        A function of each output, applied while it is in cache: 'relu', 'leaky_relu' or
        ('leaky_relu', slope), 'elu' or ('elu', alpha), 'gelu' or ('gelu', 'tanh'), 'silu', 'tanh',
        'sigmoid', or ('snake', alpha) with alpha of shape (C_out,):
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
    algorithm : {'auto', 'blas', 'direct', 'winograd'}, default 'auto'
        Which engine computes: 'direct' has the register-tile kernels for float32 and float64,
        'blas' unfolds tiles for SciPy's BLAS, 'auto' takes the direct engine wherever it can.
        'winograd' is for layers, see `fastconv1d.Conv1d`, and the same as 'auto' here.
    out : ndarray of the result's shape and dtype, optional
        Where to write the result. It should be writeable and share no memory with an input.

    Returns
    -------
    ndarray of shape (N, C_out, L_out) or (C_out, L_out)
        Of the input's dtype; `out` if it was given. ``L_out = (L_in - 1)*stride - pad_left
        - pad_right + dilation*(K - 1) + output_padding + 1``.

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
    weight (a layer packs once), whatever the lengths. It runs
    on up to `get_num_threads` threads, without the GIL.

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
    options = fused.Options(
        activation, pre_activation, residual, residual_scale, residual_position, layout
    )
    if not fused.is_plain(options) or _is_half(input):
        plan_of = partial(
            _conv_plan,
            (stride, padding, output_padding, groups, dilation, padding_mode),
            geometry.conv_transpose_geometry,
        )
        return fused.convolve(True, input, weight, bias, plan_of, options, algorithm, out)
    x, w, b, batched = _operands("conv_transpose1d", input, weight, bias)
    plan = geometry.conv_transpose_geometry(
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
    shape = (x.shape[0], *plan[:2])
    y = _new(shape, x.dtype) if out is None else _target(out, shape, batched, x, w, b)
    _scatter(x, w, b, y, plan, algorithm)
    return _delivered(y, batched, out)


def _conv_plan(
    parameters: tuple[Any, ...],
    geometry_of: Callable[..., tuple[int, ...]],
    *shapes: tuple[int, ...] | None,
) -> tuple[int, ...]:
    return geometry_of(*shapes, *parameters)


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
    algorithm : {'auto', 'blas', 'direct', 'winograd'}, default 'auto'
        Which engine computes: 'direct' has the register-tile kernels for float32 and float64,
        'blas' unfolds tiles for SciPy's BLAS, 'auto' takes the direct engine wherever it can.
        'winograd' is for layers, see `fastconv1d.Conv1d`, and the same as 'auto' here.
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
    if _is_half(input):
        arguments = stride, padding, dilation, groups
        options = {
            "padding_mode": padding_mode,
            "algorithm": algorithm,
            "output_mask": output_mask,
        }
        return fused.backward_in_float32(
            conv1d_backward, grad_output, input, weight, arguments, options
        )
    by_input, by_weight, by_bias = _mask(output_mask)
    x, w, _, batched = _operands("conv1d", input, weight, None)
    plan = geometry.conv_geometry(
        x.shape, w.shape, None, stride, padding, dilation, groups, padding_mode
    )
    g = _gradient_operand(grad_output, x.dtype, (x.shape[0], *plan[:2]), batched)
    grad_input = grad_weight = grad_bias = None
    if by_weight:
        grad_weight, grad_bias, grad_input = _conv_grad_weight(
            g, x, w.shape, plan, algorithm, by_bias, w if by_input else None
        )
    elif by_bias:
        grad_bias = _conv_grad_bias(g, x, w.shape, plan, algorithm)
    if by_input and grad_input is None:
        grad_input = _conv_grad_input(g, w, x.shape, plan, algorithm)
    if grad_input is not None and not batched:
        grad_input = grad_input[0]
    return grad_input, grad_weight, grad_bias


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
    algorithm : {'auto', 'blas', 'direct', 'winograd'}, default 'auto'
        Which engine computes: 'direct' has the register-tile kernels for float32 and float64,
        'blas' unfolds tiles for SciPy's BLAS, 'auto' takes the direct engine wherever it can.
        'winograd' is for layers, see `fastconv1d.Conv1d`, and the same as 'auto' here.
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
    if _is_half(input):
        arguments = stride, padding, output_padding, groups, dilation
        options = {
            "padding_mode": padding_mode,
            "algorithm": algorithm,
            "output_mask": output_mask,
        }
        return fused.backward_in_float32(
            conv_transpose1d_backward, grad_output, input, weight, arguments, options
        )
    by_input, by_weight, by_bias = _mask(output_mask)
    x, w, _, batched = _operands("conv_transpose1d", input, weight, None)
    plan = geometry.conv_transpose_geometry(
        x.shape, w.shape, None, stride, padding, output_padding, groups, dilation, padding_mode
    )
    g = _gradient_operand(grad_output, x.dtype, (x.shape[0], *plan[:2]), batched)
    grad_input = grad_weight = None
    if by_weight:
        grad_weight, grad_input = _conv_transpose_grad_weight(
            g, x, w.shape, plan, algorithm, w if by_input else None
        )
    if by_input and grad_input is None:
        grad_input = _conv_transpose_grad_input(g, w, x.shape, plan, algorithm)
    if grad_input is not None and not batched:
        grad_input = grad_input[0]
    grad_bias = _conv_transpose_grad_bias(g, plan[0], algorithm) if by_bias else None
    return grad_input, grad_weight, grad_bias


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
    x, batched = _batched("unfold1d", _operand(input))
    _check_dtypes("unfold1d", x)
    kernel, l_out, stride, dilation, left = geometry.unfold_geometry(
        x.shape, kernel_size, dilation, padding, stride
    )
    columns = _new((x.shape[0], x.shape[1] * kernel, l_out), x.dtype)
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
    columns, batched = _batched("fold1d", _operand(input))
    _check_dtypes("fold1d", columns)
    channels, length, stride, dilation, left = geometry.fold_geometry(
        columns.shape, output_size, kernel_size, dilation, padding, stride
    )
    y = _new((columns.shape[0], channels, length), columns.dtype)
    if y.size:
        fold(columns, y, stride, dilation, left)
    return y if batched else y[0]


def _operands(
    function: str, input: ArrayLike, weight: ArrayLike, bias: ArrayLike | None
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None, bool]:
    """Return arrays that the kernels can read, the input batched, and whether it was."""
    x, w = _operand(input), _operand(weight)
    b = None if bias is None else _operand(bias)
    dtype = x.dtype
    if dtype is not w.dtype or dtype not in _DTYPES or (b is not None and b.dtype is not dtype):
        _check_dtypes(function, x, weight=w, bias=b)
    if x.ndim == 3:
        return x, w, b, True
    x, batched = _batched(function, x)
    return x, w, b, batched


def _operand(value: ArrayLike) -> NDArray[Any]:
    """Return `value` itself if it is a plain array in native order, otherwise one made of it."""
    if type(value) is np.ndarray:
        flags = value.flags
        if flags.c_contiguous and flags.aligned and value.dtype in _DTYPES:
            return value
    array = np.asarray(value)
    itemsize = array.dtype.itemsize
    readable = array.flags.aligned and array.dtype.isnative
    if readable and not any(step % itemsize for step in array.strides):
        return array
    return array.astype(array.dtype.newbyteorder("="), order="C")


def _check_dtypes(function: str, x: NDArray[Any], **others: NDArray[Any] | None) -> None:
    dtype = x.dtype
    for name, other in others.items():
        if other is not None and other.dtype is not dtype and other.dtype != dtype:
            raise TypeError(
                f"Input type ({dtype}) and {name} type ({other.dtype}) should be the same"
            )
    if dtype not in _DTYPES:
        raise TypeError(
            f"\"{function}\" not implemented for '{_TORCH_NAMES.get(dtype.name, dtype.name)}': the "
            "dtype should be float32, float64, complex64 or complex128, "
            f"got an input of dtype {dtype}"
        )


def _batched(function: str, x: NDArray[Any]) -> tuple[NDArray[Any], bool]:
    if x.ndim == 3:
        return x, True
    if x.ndim == 2:
        return x[np.newaxis], False
    raise ValueError(
        f"Expected 2D (unbatched) or 3D (batched) input to {function}, "
        f"but got input of size: {list(x.shape)}"
    )


def _gradient_operand(
    grad_output: ArrayLike, dtype: np.dtype[Any], shape: tuple[int, int, int], batched: bool
) -> NDArray[Any]:
    g = _operand(grad_output)
    if g.dtype != dtype:
        raise TypeError(f"Input type ({dtype}) and grad_output type ({g.dtype}) should be the same")
    if g.ndim != 2 + batched:
        raise ValueError(
            "Expected input and grad_output to have the same number of dimensions, "
            f"but got: {2 + batched} and {g.ndim}"
        )
    if not batched:
        g = g[np.newaxis]
    if g.shape != shape:
        raise ValueError(
            "grad_output should have the size of the output, "
            f"{list(shape[not batched :])}, but got {list(g.shape[not batched :])}"
        )
    return g


def _mask(output_mask: Sequence[bool]) -> tuple[bool, bool, bool]:
    try:
        by_input, by_weight, by_bias = map(bool, output_mask)
    except TypeError:
        raise TypeError(
            f"output_mask should be three bools, got {geometry.shown(output_mask)}"
        ) from None
    except ValueError:
        raise ValueError(
            f"output_mask should be three bools, got {geometry.shown(output_mask)}"
        ) from None
    return by_input, by_weight, by_bias


def _new(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        return np.empty(shape, dtype)
    except ValueError:  # how NumPy says that the number of bytes exceeds 64 bits
        _explain_size(shape, dtype)


def _explain_size(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NoReturn:
    raise OverflowError(
        f"the size of a result should be below 2**63 bytes, got {list(shape)} of dtype {dtype}"
    ) from None


def _target(
    out: NDArray[Any],
    shape: tuple[int, int, int],
    batched: bool,
    x: NDArray[Any],
    *others: NDArray[Any] | None,
) -> NDArray[Any]:
    """Check `out` and return a batched, C-contiguous array for the kernels to write to."""
    expected = shape if batched else shape[1:]
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out should be an ndarray, got {type(out).__name__}")
    if out.shape != expected:
        raise ValueError(f"out should have the shape {list(expected)}, got {list(out.shape)}")
    if out.dtype != x.dtype:
        raise ValueError(f"out should have the dtype {x.dtype}, got {out.dtype}")
    if not out.flags.writeable:
        raise ValueError("out should be writeable, got a read-only array")
    for array in (x, *others):
        if array is not None and np.may_share_memory(out, array, max_work=_OVERLAP_WORK):
            raise ValueError(
                "out should share no memory with an input, "
                f"got one that overlaps an array of size {list(array.shape)}"
            )
    if not _writable_in_place(out):
        if _overlaps_itself(out):
            raise ValueError(
                "out should not overlap itself, "
                f"got size {list(out.shape)} with strides {list(out.strides)}"
            )
        return _new(shape, x.dtype)
    return np.asarray(out).reshape(shape)


def _writable_in_place(out: NDArray[Any]) -> bool:
    return out.flags.c_contiguous and out.flags.aligned


def _overlaps_itself(array: NDArray[Any]) -> bool:
    # Enough for every view made by slicing and transposing: each step passes all smaller ones.
    reach = array.itemsize
    for step, count in sorted(zip(map(abs, array.strides), array.shape, strict=True)):
        if count > 1:
            if step < reach:
                return True
            reach += step * (count - 1)
    return False


def _delivered(y: NDArray[Any], batched: bool, out: NDArray[Any] | None) -> NDArray[Any]:
    if out is None:
        return y if batched else y[0]
    if not _writable_in_place(out):
        np.copyto(out, y if batched else y[0])
    return out


def _scatter(
    x: NDArray[Any],
    w: NDArray[Any],
    bias: NDArray[Any] | None,
    y: NDArray[Any],
    plan: tuple[int, ...],
    algorithm: str,
) -> None:
    """Write to y the adjoint of a convolution with any padding mode: y has the place of its input.

    The forward of a transposed convolution and the input gradient of a convolution.
    """
    _, _, stride, dilation, left, right, groups, mode = plan
    engine = choose_engine(algorithm, x.dtype.char, w.shape, stride, dilation, (left, right), True)
    if y.size == 0:
        return
    engine.scatter(x, w, bias, y, stride, dilation, left, groups, *execution())
    with np.errstate(over="ignore", invalid="ignore"):
        if mode == geometry.PADDING_MODES["replicate"]:
            _add_replicated_margins(x, w, y, plan)
        elif mode:
            _add_folded_margins(engine, x, w, y, plan)


def _add_folded_margins(
    engine: ModuleType, x: NDArray[Any], w: NDArray[Any], y: NDArray[Any], plan: tuple[int, ...]
) -> None:
    """Add what falls on reflected or wrapped positions to those that they stand for."""
    _, _, stride, dilation, left, right, groups, mode = plan
    n_batch, channels, length = y.shape
    for first, last in ((-left, 0), (length, length + right)):
        for begin in range(first, last, _MARGIN):
            width = min(_MARGIN, last - begin)
            margin = _new((n_batch, channels, width), y.dtype)
            engine.scatter(x, w, None, margin, stride, dilation, left + begin, groups, *execution())
            if mode == geometry.PADDING_MODES["reflect"]:
                pivot = 0 if begin < 0 else length - 1
                target = 2 * pivot - (begin + width - 1)
                margin = margin[:, :, ::-1]
            else:
                target = begin + length if begin < 0 else begin - length
            y[:, :, target : target + width] += margin


def _add_replicated_margins(
    x: NDArray[Any], w: NDArray[Any], y: NDArray[Any], plan: tuple[int, ...]
) -> None:
    """Add what falls on repeated positions to the first and the last.

    All positions to the left of y stand for its first element, so a tap needs only the sum of x
    over the windows in which it lies there. The padding may be far longer than y.
    """
    _, _, stride, dilation, left, right, groups, _ = plan
    n_batch, channels, length = y.shape
    c_in, c_out_group, kernel_size = w.shape
    n_windows = x.shape[2]
    by_output = w.reshape(groups, c_in // groups, c_out_group, kernel_size).swapaxes(1, 2)
    by_output = by_output.reshape(channels, c_in // groups, kernel_size)
    for edge, padding, bound in ((0, left, left), (-1, right, length + left)):
        if padding == 0:
            continue
        # Windows l < crossing[k] have tap k before `bound`, counted in padded positions.
        crossing = [
            min(max(-((k * dilation - bound) // stride), 0), n_windows) for k in range(kernel_size)
        ]
        outside = 0 if edge == 0 else n_windows  # windows of a tap that is never in this margin
        taps = [k for k in range(kernel_size) if crossing[k] != outside]
        if not taps:
            continue
        crossing = [crossing[k] for k in taps]
        sums = _sums_before(x, crossing) if edge == 0 else _sums_from(x, crossing)
        total = _new((n_batch, channels, 1), y.dtype)
        by_tap = by_output[:, :, taps]
        # Always deterministic, so that the bits of the direct engine do not depend on the batch.
        correlate_blas(sums, by_tap, None, total, 1, 1, 0, 0, groups, execution()[0], True)
        y[:, :, edge] += total[:, :, 0]


def _sums_before(g: NDArray[Any], stops: Sequence[int]) -> NDArray[Any]:
    """Return ``g[:, :, :stops[k]].sum(axis=2)`` for each k; the stops do not increase."""
    sums = np.zeros((*g.shape[:2], len(stops)), _wide(g.dtype))
    running = np.zeros(g.shape[:2], sums.dtype)
    done = 0
    for k in reversed(range(len(stops))):
        for begin in range(done, stops[k], _MARGIN):
            block = g[:, :, begin : min(begin + _MARGIN, stops[k])]
            running += block.astype(sums.dtype, order="C").sum(axis=2)
        done = max(done, stops[k])
        sums[:, :, k] = running
    return sums.astype(g.dtype)


def _sums_from(g: NDArray[Any], starts: Sequence[int]) -> NDArray[Any]:
    """Return ``g[:, :, starts[k]:].sum(axis=2)`` for each k; the starts do not increase."""
    length = g.shape[2]
    stops = [length - start for start in reversed(starts)]
    return _sums_before(g[:, :, ::-1], stops)[:, :, ::-1]


def _conv_grad_input(
    g: NDArray[Any],
    w: NDArray[Any],
    x_shape: tuple[int, ...],
    plan: tuple[int, ...],
    algorithm: str = "auto",
) -> NDArray[Any]:
    conjugate = w.conj() if w.dtype.kind == "c" else w
    grad_input = _new(x_shape, g.dtype)
    _, _, stride, dilation, left, right, _, _ = plan
    if algorithm == "direct":
        choose_engine(algorithm, g.dtype.char, w.shape, stride, dilation, (left, right), False)
        algorithm = "auto"  # the direct engine's scatter takes smaller strides than its forward
    _scatter(g, conjugate, None, grad_input, plan, algorithm)
    return grad_input


def _conv_grad_weight(
    g: NDArray[Any],
    x: NDArray[Any],
    w_shape: tuple[int, ...],
    plan: tuple[int, ...],
    algorithm: str = "auto",
    by_bias: bool = False,
    w: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any] | None]:
    """Return the gradient by the weight, and what one pass can make besides.

    That by the bias, if asked for, and that by the input for a weight `w`, or None.
    """
    _, _, stride, dilation, left, right, groups, mode = plan
    grad_weight = _new(w_shape, g.dtype)
    engine = choose_engine(algorithm, g.dtype.char, w_shape, stride, dilation, (left, right), False)
    geometry_of = (stride, dilation, left, mode, groups, *execution())
    if engine is direct_engine:
        grad_bias = _new((w_shape[0],), g.dtype) if by_bias else None
        grad_input = engine.weight_gradient(g, x, grad_weight, *geometry_of, db=grad_bias, weight=w)
        return grad_weight, grad_bias, grad_input
    if grad_weight.size:
        engine.weight_gradient(g, x, grad_weight, *geometry_of)
    return grad_weight, _grad_bias(g, w_shape[0]) if by_bias else None, None


def _conv_transpose_grad_input(
    g: NDArray[Any],
    w: NDArray[Any],
    x_shape: tuple[int, ...],
    plan: tuple[int, ...],
    algorithm: str = "auto",
) -> NDArray[Any]:
    _, _, stride, dilation, left, right, groups, mode = plan
    conjugate = w.conj() if w.dtype.kind == "c" else w
    grad_input = _new(x_shape, g.dtype)
    if grad_input.size:
        engine = choose_engine(
            algorithm, g.dtype.char, w.shape, stride, dilation, (left, right), False
        )
        engine.correlate(
            g, conjugate, None, grad_input, stride, dilation, left, mode, groups, *execution()
        )
    return grad_input


def _conv_transpose_grad_weight(
    g: NDArray[Any],
    x: NDArray[Any],
    w_shape: tuple[int, ...],
    plan: tuple[int, ...],
    algorithm: str = "auto",
    w: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the gradient by the weight, and that by the input for `w` if one pass makes both."""
    _, _, stride, dilation, left, right, groups, mode = plan
    grad_weight = _new(w_shape, g.dtype)
    engine = choose_engine(algorithm, g.dtype.char, w_shape, stride, dilation, (left, right), False)
    geometry_of = (stride, dilation, left, mode, groups, *execution())
    if engine is direct_engine:
        grad_input = engine.weight_gradient(
            x, g, grad_weight, *geometry_of, weight=w, transposed=True
        )
        return grad_weight, grad_input
    engine.weight_gradient(x, g, grad_weight, *geometry_of)
    if grad_weight.dtype.kind == "c":  # the primitive conjugates g instead of x
        np.conjugate(grad_weight, out=grad_weight)
    return grad_weight, None


def _conv_grad_bias(
    g: NDArray[Any],
    x: NDArray[Any],
    w_shape: tuple[int, ...],
    plan: tuple[int, ...],
    algorithm: str,
) -> NDArray[Any]:
    """Return the gradient by the bias alone, bit for bit as beside that by the weight."""
    _, _, stride, dilation, left, right, groups, mode = plan
    engine = choose_engine(algorithm, g.dtype.char, w_shape, stride, dilation, (left, right), False)
    if engine is not direct_engine:
        return _grad_bias(g, w_shape[0])
    grad_bias = _new((w_shape[0],), g.dtype)
    shape_only = np.broadcast_to(grad_bias[:1, np.newaxis, np.newaxis], w_shape)
    engine.weight_gradient(
        g, x, shape_only, stride, dilation, left, mode, groups, *execution(), grad_bias, True
    )
    return grad_bias


def _conv_transpose_grad_bias(g: NDArray[Any], c_out: int, algorithm: str) -> NDArray[Any]:
    w_shape = (c_out, 1, 1)
    if c_out == 0 or choose_engine(algorithm, g.dtype.char, w_shape, 1, 1, (0, 0), False) is not (
        direct_engine
    ):
        return _grad_bias(g, c_out)
    return _conv_grad_bias(g, g[:, :1], w_shape, (c_out, 0, 1, 1, 0, 0, 1, 0), algorithm)


def _grad_bias(g: NDArray[Any], c_out: int) -> NDArray[Any]:
    """Sum over batch and length in double precision, in an order given by the shape alone."""
    n_batch, channels, length = g.shape
    total = np.zeros(c_out, _wide(g.dtype))
    if g.size == 0:
        return total.astype(g.dtype)
    columns = min(length, max(1, _BLOCK // channels))
    items = max(1, _BLOCK // (channels * columns))
    with np.errstate(over="ignore", invalid="ignore"):
        for n in range(0, n_batch, items):
            for begin in range(0, length, columns):
                block = g[n : n + items, :, begin : begin + columns]
                total += block.astype(total.dtype, order="C").sum(axis=2).sum(axis=0)
        return total.astype(g.dtype)


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.result_type(dtype, np.float64)
