"""The slow oracle: every operation of the package written straight from its formula in NumPy.

The functions have the signatures of the public ones (without ``out=``) and loop over the taps of
the kernel. They use none of the compiled kernels. Sums are accumulated in float64 or complex128
(in a longer dtype if the inputs have one), integers exactly in int64, and the result is cast to the
inputs' dtype.

To get the sum before that last rounding use `accumulate`, and for the scale of its rounding
errors use `magnitude`.
"""

import math
import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .core.activations import parse_steps
from .core.arrays import half_of

Array: TypeAlias = npt.NDArray[Any]
Gradients: TypeAlias = tuple[Array | None, Array | None, Array | None]

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
PADDINGS = ("valid", "same", "causal", "same_upper", "same_lower")


def accumulate(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call `function` on its arrays widened to the accumulator's dtype, so nothing is rounded back.

    Examples
    --------
    >>> import numpy as np
    >>> third = np.full((1, 1, 1), 1 / 3, np.float32)
    >>> accumulate(conv1d, third, third).dtype
    dtype('float64')
    """
    return function(*(_wide(a) if isinstance(a, np.ndarray) else a for a in args), **kwargs)


def magnitude(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call `function` on the absolute values of its arrays: S = sum(abs(w) * abs(x)) + abs(b).

    A sum computed in the unit roundoff u may differ from the exact one by a small multiple of u*S.

    Examples
    --------
    >>> import numpy as np
    >>> x, w = np.array([[[1.0, -2.0]]]), np.array([[[3.0, 3.0]]])
    >>> conv1d(x, w), magnitude(conv1d, x, w)
    (array([[[-3.]]]), array([[[9.]]]))
    """
    return function(*(np.abs(_wide(a)) if isinstance(a, np.ndarray) else a for a in args), **kwargs)


def conv1d(
    input: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    *,
    padding_mode: str = "zeros",
    **options: Any,
) -> Array:
    """Compute ``y[n,co,l] = b[co] + sum_{ci,k} w[co,ci,k] * x[n,ci,l*stride + k*dilation - left]``.

    `options` are activation, pre_activation, residual, residual_scale, residual_position, layout.

    Examples
    --------
    >>> import numpy as np
    >>> conv1d(np.arange(5.0)[None, None], np.array([[[1.0, 0.0, -1.0]]]))
    array([[[-2., -2., -2.]]])
    """
    around = _Around(**options)
    x, w, b, batched = _operands("conv1d", around.channels_first(input), weight, bias)
    s, d, groups = _positive(stride=stride, dilation=dilation, groups=groups)
    _check_channels(x.shape, w.shape, groups, w.shape[0], w.shape[1] * groups, b)
    left, right = _pads(padding, w.shape[2], s, d, x.shape[2])
    l_out = _conv_length(x.shape[2], w.shape[2], s, left, right, d)
    _check_mode(padding_mode, x.shape, left, right)
    y = _correlate(around.before(_wide(x)), _wide(w), l_out, s, left, d, groups, padding_mode)
    if x.shape[1] == 0:  # as torch: without input channels there are no output channels
        y, b = y[:, :0], None
    return around.finish(y, b, x, batched)


def conv2d(
    input: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
) -> Array:
    """Compute a convolution of two dimensions as a sum over the kernel's rows and columns.

    The input is (N, C_in, H_in, W_in); stride, dilation and padding are ints or pairs, those of
    padding perhaps of pairs.

    Examples
    --------
    >>> import numpy as np
    >>> conv2d(np.arange(4.0).reshape(1, 1, 2, 2), np.ones((1, 1, 2, 1)))
    array([[[[2., 4.]]]])
    """
    x, w = np.asarray(input), np.asarray(weight)
    (sh, sw), (dh, dw), pads = (
        value if isinstance(value, (tuple, list)) else (value, value)
        for value in (stride, dilation, padding)
    )
    ends = [tuple(p) if isinstance(p, (tuple, list)) else (p, p) for p in pads]
    modes = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    mode: Any = modes[padding_mode]
    padded = np.pad(_wide(x), [(0, 0), (0, 0), *ends], mode)
    c_out, c_in, rows, columns = w.shape
    high = (padded.shape[2] - dh * (rows - 1) - 1) // sh + 1
    wide = (padded.shape[3] - dw * (columns - 1) - 1) // sw + 1
    by_group = _wide(w).reshape(groups, c_out // groups, c_in, rows, columns)
    y = np.zeros((len(x), groups, c_out // groups, high, wide), padded.dtype)
    for i in range(rows):
        for k in range(columns):
            part = padded[:, :, i * dh :, k * dw :][:, :, ::sh, ::sw][:, :, :high, :wide]
            part = part.reshape(len(x), groups, c_in, high, wide)
            y += np.einsum("goc,ngchw->ngohw", by_group[..., i, k], part)
    y = y.reshape(len(x), c_out, high, wide)
    if bias is not None:
        y = y + np.asarray(bias).reshape(-1, 1, 1)
    return y.astype(x.dtype)


def conv_transpose1d(
    input: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: Any = 1,
    dilation: Any = 1,
    *,
    padding_mode: str = "zeros",
    **options: Any,
) -> Array:
    """Compute ``y[n,co,l*stride + k*dilation - left] += w[ci,co,k] * x[n,ci,l]`` from ``y = b``.

    What falls outside of y is added to the position that `padding_mode` reads there in `conv1d`.

    Examples
    --------
    >>> import numpy as np
    >>> conv_transpose1d(np.array([[[1.0, 2.0]]]), np.array([[[1.0, 1.0]]]), stride=2)
    array([[[1., 1., 2., 2.]]])
    """
    around = _Around(**options)
    x, w, b, batched = _operands("conv_transpose1d", around.channels_first(input), weight, bias)
    s, d, groups = _positive(stride=stride, dilation=dilation, groups=groups)
    _check_channels(x.shape, w.shape, groups, w.shape[1] * groups, w.shape[0], b)
    left, right = _crops(padding, w.shape[2], s, d)
    l_out = _conv_transpose_length(x.shape[2], w.shape[2], s, left, right, output_padding, d)
    _check_mode(padding_mode, (*x.shape[:1], w.shape[1] * groups, l_out), left, right)
    y = _scatter(around.before(_wide(x)), _wide(w), l_out, s, left, d, groups, padding_mode)
    return around.finish(y, b, x, batched)


def conv1d_backward(
    grad_output: npt.ArrayLike,
    input: npt.ArrayLike,
    weight: npt.ArrayLike,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    *,
    padding_mode: str = "zeros",
    output_mask: tuple[bool, bool, bool] = (True, True, True),
) -> Gradients:
    """Compute the gradients of `conv1d` by input, weight and bias; those masked out are None.

    Examples
    --------
    >>> import numpy as np
    >>> x, w = np.array([[[1.0, 2.0, 3.0]]]), np.array([[[10.0, 20.0]]])
    >>> conv1d_backward(np.ones((1, 1, 2)), x, w)
    (array([[[10., 30., 20.]]]), array([[[3., 5.]]]), array([2.]))
    """
    x, w, _, batched = _operands("conv1d", input, weight, None)
    s, d, groups = _positive(stride=stride, dilation=dilation, groups=groups)
    _check_channels(x.shape, w.shape, groups, w.shape[0], w.shape[1] * groups, None)
    left, right = _pads(padding, w.shape[2], s, d, x.shape[2])
    l_out = _conv_length(x.shape[2], w.shape[2], s, left, right, d)
    _check_mode(padding_mode, x.shape, left, right)
    g = _grad_operand(grad_output, x, w.shape[0] if x.shape[1] else 0, l_out, batched)
    if x.shape[1] == 0:  # as torch: without input channels there are no output channels
        g = np.zeros((x.shape[0], w.shape[0], l_out), x.dtype)
    dx = dw = db = None
    if output_mask[0]:
        dx = _scatter(_wide(g), _wide(w).conj(), x.shape[2], s, left, d, groups, padding_mode)
        dx = _delivered(dx, x, batched)
    if output_mask[1]:
        dw = _weight_gradient(_wide(g), _wide(x), w.shape, s, left, d, groups, padding_mode)
        dw = dw.astype(_native(w))
    if output_mask[2]:
        db = _wide(g).sum(axis=(0, 2)).astype(_native(w))
    return dx, dw, db


def conv_transpose1d_backward(
    grad_output: npt.ArrayLike,
    input: npt.ArrayLike,
    weight: npt.ArrayLike,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: Any = 1,
    dilation: Any = 1,
    *,
    padding_mode: str = "zeros",
    output_mask: tuple[bool, bool, bool] = (True, True, True),
) -> Gradients:
    """Compute the gradients of `conv_transpose1d` by input, weight and bias; masked ones are None.

    Examples
    --------
    >>> import numpy as np
    >>> x, w = np.array([[[1.0, 2.0]]]), np.array([[[10.0, 20.0]]])
    >>> conv_transpose1d_backward(np.ones((1, 1, 3)), x, w)
    (array([[[30., 30.]]]), array([[[3., 3.]]]), array([3.]))
    """
    x, w, _, batched = _operands("conv_transpose1d", input, weight, None)
    s, d, groups = _positive(stride=stride, dilation=dilation, groups=groups)
    c_out = w.shape[1] * groups
    _check_channels(x.shape, w.shape, groups, c_out, w.shape[0], None)
    left, right = _crops(padding, w.shape[2], s, d)
    l_out = _conv_transpose_length(x.shape[2], w.shape[2], s, left, right, output_padding, d)
    _check_mode(padding_mode, (*x.shape[:1], c_out, l_out), left, right)
    g = _grad_operand(grad_output, x, c_out, l_out, batched)
    dx = dw = db = None
    if output_mask[0]:
        dx = _correlate(_wide(g), _wide(w).conj(), x.shape[2], s, left, d, groups, padding_mode)
        dx = _delivered(dx, x, batched)
    if output_mask[1]:
        # dw[ci,co,k] = sum conj(x[n,ci,l]) * g[n,co,l*s + k*d - left]: g and x exchanged.
        dw = _weight_gradient(_wide(x), _wide(g), w.shape, s, left, d, groups, padding_mode)
        dw = dw.conj().astype(_native(w))
    if output_mask[2]:
        db = _wide(g).sum(axis=(0, 2)).astype(_native(w))
    return dx, dw, db


def unfold1d(
    input: npt.ArrayLike,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Array:
    """Compute ``cols[n, c*K + k, l] = x[n, c, l*stride + k*dilation - left]``, zero outside.

    Examples
    --------
    >>> import numpy as np
    >>> unfold1d(np.array([[[1.0, 2.0, 3.0]]]), 2)
    array([[[1., 2.],
            [2., 3.]]])
    """
    x, batched = _batched("unfold1d", input)
    _check_not_empty(x.shape)
    kernel, s, d = _positive(kernel_size=kernel_size, stride=stride, dilation=dilation)
    n_batch, c, l_in = x.shape
    left, right = _pads(padding, kernel, s, d, l_in)
    l_out = _conv_length(l_in, kernel, s, left, right, d)
    cols = np.zeros((n_batch, c, kernel, l_out), x.dtype)
    for k in range(kernel):
        cols[:, :, k] = _tap(x, k * d - left, s, l_out, "zeros")
    return _delivered(cols.reshape(n_batch, c * kernel, l_out), x, batched)


def fold1d(
    input: npt.ArrayLike,
    output_size: Any,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Array:
    """Compute the adjoint of `unfold1d`: overlapping columns are summed.

    Examples
    --------
    >>> import numpy as np
    >>> fold1d(np.array([[[1.0, 2.0], [2.0, 3.0]]]), 3, 2)
    array([[[1., 4., 3.]]])
    """
    cols, batched = _batched("fold1d", input)
    _check_not_empty(cols.shape)
    kernel, s, d = _positive(kernel_size=kernel_size, stride=stride, dilation=dilation)
    l_out = _integer("output_size", output_size)
    if l_out < 1:
        raise ValueError(f"Expected output spatial size to be positive, got {l_out}")
    left, right = _pads(padding, kernel, s, d, l_out)
    n_batch, rows, l_cols = cols.shape
    if rows % kernel:
        raise ValueError(
            "Expected size of input's dimension 1 to be divisible by the product of kernel_size, "
            f"got {rows} rows and kernel_size={kernel}"
        )
    expected = _conv_length(l_out, kernel, s, left, right, d)
    if l_cols != expected:
        raise ValueError(
            f"expected input's last dimension to match the calculated number of sliding blocks "
            f"{expected}, got {l_cols}"
        )
    taps = _wide(cols).reshape(n_batch, rows // kernel, kernel, l_cols)
    y = np.zeros((n_batch, rows // kernel, l_out), taps.dtype)
    for k in range(kernel):
        _add_tap(y, taps[:, :, k], k * d - left, s, "zeros")
    return _delivered(y, cols, batched)


def _correlate(
    x: Array, w: Array, l_out: int, stride: int, left: int, dilation: int, groups: int, mode: str
) -> Array:
    n_batch = x.shape[0]
    c_out, _, kernel = w.shape
    y = np.zeros((n_batch, groups, c_out // groups, l_out), x.dtype)
    for k in range(kernel):
        window = _tap(x, k * dilation - left, stride, l_out, mode)
        w_tap = w[:, :, k].reshape(groups, c_out // groups, -1)
        y += w_tap @ window.reshape(n_batch, groups, w.shape[1], l_out)
    return y.reshape(n_batch, c_out, l_out)


def _scatter(
    x: Array, w: Array, l_out: int, stride: int, left: int, dilation: int, groups: int, mode: str
) -> Array:
    n_batch, c_in, l_in = x.shape
    c_per_group, kernel = w.shape[1:]
    y = np.zeros((n_batch, groups * c_per_group, l_out), x.dtype)
    x_groups = x.reshape(n_batch, groups, c_in // groups, l_in)
    for k in range(kernel):
        w_tap = w[:, :, k].reshape(groups, c_in // groups, c_per_group).swapaxes(1, 2)
        column = (w_tap @ x_groups).reshape(n_batch, groups * c_per_group, l_in)
        _add_tap(y, column, k * dilation - left, stride, mode)
    return y


def _weight_gradient(
    g: Array,
    x: Array,
    w_shape: tuple[int, ...],
    stride: int,
    left: int,
    dilation: int,
    groups: int,
    mode: str,
) -> Array:
    n_batch, c_g, l_g = g.shape
    dw = np.zeros(w_shape, g.dtype)
    g_groups = g.reshape(n_batch, groups, c_g // groups, l_g)
    for k in range(w_shape[2]):
        window = _tap(x, k * dilation - left, stride, l_g, mode).conj()
        window = window.reshape(n_batch, groups, w_shape[1], l_g)
        dw_tap = (g_groups @ window.swapaxes(2, 3)).sum(axis=0)
        dw[:, :, k] = dw_tap.reshape(w_shape[:2])
    return dw


def _tap(x: Array, start: int, stride: int, count: int, mode: str) -> Array:
    """Return x[:, :, start + l*stride] for l in range(count), padded by `mode` outside."""
    if mode != "zeros":
        return x[:, :, _source(start + stride * np.arange(count), x.shape[2], mode)]
    window = np.zeros((*x.shape[:2], count), x.dtype)
    columns, positions = _inside(start, stride, count, x.shape[2])
    window[:, :, columns] = x[:, :, positions]
    return window


def _add_tap(y: Array, values: Array, start: int, stride: int, mode: str) -> None:
    """Add values[:, :, l] to y[:, :, start + l*stride], the adjoint of `_tap`."""
    count, length = values.shape[2], y.shape[2]
    if mode == "zeros":
        columns, positions = _inside(start, stride, count, length)
        y[:, :, positions] += values[:, :, columns]
    else:  # several columns may be of one position
        position = _source(start + stride * np.arange(count), length, mode)
        everywhere: Any = (slice(None), slice(None), position)
        np.add.at(y, everywhere, values)


def _inside(start: int, stride: int, count: int, length: int) -> tuple[slice, slice]:
    """Return the l in range(count) with start + l*stride in [0, length), and these positions."""
    first, end = max(0, -(start // stride)), min(count, -((start - length) // stride))
    if first >= end:
        return slice(0), slice(0)
    return slice(first, end), slice(start + first * stride, start + end * stride, stride)


def _source(position: Array, length: int, mode: str) -> Array:
    """Return where in [0, length) each position padded by `mode` reads."""
    if mode == "reflect":
        position = np.abs(position)
        return np.where(position < length, position, 2 * (length - 1) - position)
    return np.clip(position, 0, max(length - 1, 0)) if mode == "replicate" else position % length


def _wide(array: Array) -> Array:
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    if half_of(array.dtype):
        return array.astype(np.float64)
    return array.astype(np.result_type(array.dtype, np.float64))


def _native(array: Array) -> np.dtype[Any]:
    return array.dtype.newbyteorder("=")


def _delivered(y: Array, like: Array, batched: bool) -> Array:
    with np.errstate(over="ignore"):
        y = y.astype(_native(like))
    return y if batched else y[0]


class _Around:
    """What happens before and after the sums, in the accumulator's dtype."""

    def __init__(
        self,
        activation: Any = None,
        pre_activation: Any = None,
        residual: npt.ArrayLike | None = None,
        residual_scale: float = 1.0,
        residual_position: str = "before",
        layout: str = "NCL",
    ) -> None:
        steps = parse_steps(pre_activation, activation, residual_scale, residual_position)
        self._steps, self._layout = steps, layout
        self._residual = None if residual is None else _wide(self.channels_first(residual))

    def channels_first(self, array: npt.ArrayLike) -> Array:
        array = np.asarray(array)
        return array.swapaxes(-1, -2) if self._layout == "NLC" else array

    def before(self, x: Array) -> Array:
        return x if self._steps.before is None else self._steps.before.apply(x)

    def finish(self, y: Array, bias: Array | None, like: Array, batched: bool) -> Array:
        if bias is not None:
            y = y + _wide(bias)[:, None]
        more = 0 if self._residual is None else self._steps.residual_scale * self._residual
        y = y + (0 if self._steps.residual_last else more)
        if self._steps.after is not None:
            y = self._steps.after.apply(y)
        y = y + (more if self._steps.residual_last else 0)
        return self.channels_first(_delivered(y, like, batched))


def _operands(
    name: str, input: npt.ArrayLike, weight: npt.ArrayLike, bias: npt.ArrayLike | None
) -> tuple[Array, Array, Array | None, bool]:
    x, batched = _batched(name, input)
    w = np.asarray(weight)
    if w.ndim < 3:
        raise ValueError(f"weight should have at least three dimensions, got {w.ndim}")
    if w.ndim > 3:
        raise ValueError(f"expected a 3D weight for {name}, got {w.ndim} dimensions")
    b = None if bias is None else np.asarray(bias)
    for other, array in (("weight", w), ("bias", b)):
        if array is not None and _native(array) != _native(x) and not half_of(x.dtype):
            raise TypeError(
                f"Input type ({x.dtype}) and {other} type ({array.dtype}) should be the same"
            )
    return x, w, b, batched


def _batched(name: str, input: npt.ArrayLike) -> tuple[Array, bool]:
    x = np.asarray(input)
    if x.dtype.kind not in "iufc" and not half_of(x.dtype):
        raise TypeError(f"{name} takes numbers, got dtype {x.dtype}")
    if x.ndim not in (2, 3):
        raise ValueError(
            f"Expected 2D (unbatched) or 3D (batched) input to {name}, got {x.ndim} dimensions"
        )
    return (x, True) if x.ndim == 3 else (x[None], False)


def _grad_operand(
    grad_output: npt.ArrayLike, x: Array, c_out: int, l_out: int, batched: bool
) -> Array:
    g = np.asarray(grad_output)
    if _native(g) != _native(x):
        raise TypeError(f"Input type ({x.dtype}) and grad type ({g.dtype}) should be the same")
    expected = (x.shape[0], c_out, l_out) if batched else (c_out, l_out)
    if g.shape != expected:
        raise ValueError(f"Expected grad_output of shape {expected}, got {g.shape}")
    return g if batched else g[None]


def _integer(name: str, value: Any) -> int:
    if isinstance(value, (tuple, list)) and len(value) == 1:
        value = value[0]
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {value!r}") from None
    if not -(2**63) <= value < 2**63:
        raise OverflowError(f"{name} does not fit in 64 bits, got {value}")
    return value


def _positive(**values: Any) -> tuple[int, ...]:
    texts = {
        "stride": "non-positive stride is not supported",
        "dilation": "dilation should be greater than zero",
        "groups": "non-positive groups is not supported",
        "kernel_size": "kernel size should be greater than zero",
    }
    integers = {name: _integer(name, value) for name, value in values.items()}
    for name, value in integers.items():
        if value <= 0:
            raise ValueError(f"{texts[name]}, got {name}={value}")
    return tuple(integers.values())


def _pads(padding: Any, kernel: int, stride: int, dilation: int, l_in: int) -> tuple[int, int]:
    if isinstance(padding, str):
        span = dilation * (kernel - 1) + 1
        if padding == "valid":
            return 0, 0
        if padding == "causal":
            return span - 1, 0
        if padding not in ("same", "same_upper", "same_lower"):
            raise ValueError(f"Invalid padding string {padding!r}, should be one of {PADDINGS}")
        if padding == "same" and stride != 1:
            raise ValueError(
                f"padding='same' is not supported for strided convolutions, got stride={stride}"
            )
        total = max((math.ceil(l_in / stride) - 1) * stride + span - l_in, 0)
        smaller, larger = total // 2, total - total // 2
        return (larger, smaller) if padding == "same_lower" else (smaller, larger)
    pair = padding if isinstance(padding, (tuple, list)) and len(padding) == 2 else (padding,) * 2
    left, right = (_integer("padding", value) for value in pair)
    if left < 0 or right < 0:
        raise ValueError(f"negative padding is not supported, got padding={padding}")
    return left, right


def _crops(padding: Any, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Return what a transposed convolution crops; a string makes its output stride times longer."""
    if not isinstance(padding, str):
        return _pads(padding, kernel, stride, dilation, 1)
    if padding not in PADDINGS[2:]:
        raise TypeError(f"padding must be tuple of ints, not str, or {PADDINGS[2:]}, got {padding}")
    total = max(dilation * (kernel - 1) + 1 - stride, 0)
    if padding == "causal":
        return 0, total
    smaller, larger = total // 2, total - total // 2
    return (smaller, larger) if padding == "same_upper" else (larger, smaller)


def _check_channels(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    groups: int,
    c_out: int,
    c_in: int,
    bias: Array | None,
) -> None:
    if w_shape[0] < groups:
        raise ValueError(
            f"Given groups={groups}, expected weight to be at least {groups} at dimension 0, "
            f"but got weight of size {list(w_shape)} instead"
        )
    if w_shape[0] % groups:
        raise ValueError(
            f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, "
            f"but got weight of size {list(w_shape)} instead"
        )
    if 0 in w_shape[::2] or c_out == 0:
        raise ValueError(
            "kernel size should be greater than zero and the weight not empty, "
            f"got weight of size {list(w_shape)}"
        )
    if x_shape[1] != c_in:
        raise ValueError(
            f"Given groups={groups}, weight of size {list(w_shape)}, expected input"
            f"{list(x_shape)} to have {c_in} channels, but got {x_shape[1]} channels instead"
        )
    if x_shape[2] == 0 and x_shape[0] and x_shape[1]:
        raise ValueError(
            f"Only zero batch or zero channel inputs are supported, but got input shape: {x_shape}"
        )
    if bias is not None and bias.shape != (c_out,):
        raise ValueError(
            f"expected bias to be 1-dimensional with {c_out} elements, got shape {bias.shape}"
        )


def _check_not_empty(shape: tuple[int, ...]) -> None:
    if 0 in shape[1:]:
        raise ValueError(
            "Expected 2D (unbatched) or 3D (batched) input with possibly 0 batch size and other "
            f"non-zero dimensions, but got: {list(shape)}"
        )


def _check_mode(mode: str, x_shape: tuple[int, ...], left: int, right: int) -> None:
    l_in = x_shape[2]
    if mode not in PADDING_MODES:
        raise ValueError(f"padding_mode must be one of {PADDING_MODES}, got {mode!r}")
    widest = max(left, right)
    if mode == "reflect" and widest and widest >= l_in:
        raise ValueError(f"reflect padding should be less than the input length {l_in}: {widest}")
    if mode == "circular" and widest > l_in:
        raise ValueError(f"circular padding would wrap more than once: {widest} > {l_in}")
    if mode in ("reflect", "replicate"):
        _check_not_empty(x_shape)


def _conv_length(l_in: int, kernel: int, stride: int, left: int, right: int, dilation: int) -> int:
    padded, span = l_in + left + right, dilation * (kernel - 1) + 1
    if max(padded, span) >= 2**63:
        raise OverflowError(f"padded length {padded} or kernel span {span} exceeds 64 bits")
    if span > padded:
        raise ValueError(
            f"Calculated padded input size per channel: ({padded}). Kernel size: ({span}). "
            "Kernel size can't be greater than actual input size"
        )
    return (padded - span) // stride + 1


def _conv_transpose_length(
    l_in: int, kernel: int, stride: int, left: int, right: int, output_padding: Any, dilation: int
) -> int:
    extra = _integer("output_padding", output_padding)
    if extra < 0:
        raise ValueError(f"negative output_padding is not supported, got {extra}")
    if extra >= max(stride, dilation):
        raise ValueError(
            "output padding must be smaller than either stride or dilation, "
            f"got output_padding={extra}, stride={stride}, dilation={dilation}"
        )
    length = (l_in - 1) * stride - left - right + dilation * (kernel - 1) + extra + 1
    if length >= 2**63:
        raise OverflowError(f"output length {length} exceeds 64 bits")
    if length < 0:
        raise ValueError(
            f"Given input length {l_in}, the calculated output length {length} is too small"
        )
    return length
