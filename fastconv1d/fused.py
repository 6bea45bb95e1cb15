"""Convolutions with element-wise steps, other layouts and 16-bit storage.

`functional` hands over here what is more than a plain convolution. The direct engine does all of it
inside its windows and tiles. Where the BLAS engine computes (complex dtypes, extreme geometry), and
where a padding mode folds a transposed convolution's ends, the same compiled steps run before and
after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import functional, geometry, planner
from .activations import BFLOAT16, Activation, Steps, half_of, parse_steps
from .config import execution
from .kernels import direct_engine

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

LAYOUTS = ("NCL", "NLC")


class Options(NamedTuple):
    """The keywords of a fused convolution, as given."""

    activation: Any = None
    pre_activation: Any = None
    residual: Any = None
    residual_scale: Any = 1.0
    residual_position: Any = "before"
    layout: Any = "NCL"


def is_plain(options: Options) -> bool:
    """Whether a convolution with these options is nothing but sums.

    Examples
    --------
    >>> from fastconv1d.fused import Options, is_plain
    >>> is_plain(Options()), is_plain(Options(activation="relu"))
    (True, False)
    """
    activation, before, residual, *others = options
    # Of their types first: the comparison of an array is no bool, and its error another.
    return (
        (activation is before is residual is None)
        and list(map(type, others)) == [float, str, str]
        and others == [1.0, "before", "NCL"]
    )


def is_stored_half(value: Any) -> bool:
    """Whether `value` is an array of float16, bfloat16 or complex32."""
    dtype = getattr(value, "dtype", None)
    return (
        isinstance(dtype, np.dtype)
        and dtype.char not in "fdFD"
        and (half_of(dtype) != 0 or _is_complex32(dtype))
    )


def is_bfloat16(value: Any) -> bool:
    """Whether `value` is an array of ml_dtypes' bfloat16."""
    dtype = getattr(value, "dtype", None)
    return isinstance(dtype, np.dtype) and half_of(dtype) == BFLOAT16


def as_bits(array: NDArray[Any] | None) -> NDArray[Any] | None:
    """Return a view of 16-bit elements as uint16, or None for None."""
    return None if array is None else array.view(np.uint16)


def activate(
    activation: Activation,
    x: NDArray[Any],
    layout: str,
    residual: Any = None,
    residual_scale: float = 1.0,
) -> NDArray[Any]:
    """Return ``activation(x) + residual_scale*residual``, bit for bit as inside a layer.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d.activations import parse_activation
    >>> from fastconv1d.fused import activate
    >>> activate(parse_activation("relu"), np.array([[-1.0, 2.0]]), "NCL")
    array([[0., 2.]])
    """
    wide = x.dtype if x.dtype.char in "fd" else np.dtype(np.float32)
    more = None
    if residual is not None:
        shape = x.shape if x.ndim == 3 else (1, *x.shape)
        more = _residual(residual, x.dtype, shape, x.ndim == 3)
    rows = [None if a is None else _rows(a, wide, layout) for a in (x, more)]
    direct_engine.finish(activation, rows[0], rows[1], residual_scale, True)
    assert rows[0] is not None
    y = rows[0].swapaxes(1, 2) if layout == "NLC" else rows[0]
    with np.errstate(over="ignore"):
        return np.array(y if x.ndim == 3 else y[0], x.dtype, order="C")


def _rows(a: NDArray[Any], dtype: np.dtype[Any], layout: str) -> NDArray[Any]:
    """Return a new contiguous array of shape (N, C, L)."""
    batch = a if a.ndim == 3 else a[np.newaxis]
    return np.array(batch.swapaxes(1, 2) if layout == "NLC" else batch, dtype, order="C")


def checked_layout(layout: Any) -> str:
    """Return `layout` if it is 'NCL' or 'NLC', otherwise raise ValueError.

    Examples
    --------
    >>> from fastconv1d.fused import checked_layout
    >>> checked_layout("NLC")
    'NLC'
    """
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise ValueError(f"layout should be 'NCL' or 'NLC', got {geometry.shown(layout)}")
    return layout


def convolve(
    transposed: bool,
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    plan_of: Callable[..., tuple[int, ...]],
    options: Options,
    algorithm: str,
    out: NDArray[Any] | None,
) -> NDArray[Any]:
    """Return a convolution or a transposed one with all options.

    `plan_of` takes the shapes of input, weight and bias and returns the geometry.
    """
    name = "conv_transpose1d" if transposed else "conv1d"
    channels_last = checked_layout(options.layout) == "NLC"
    if _is_complex32_call(input, weight):
        return _complex32(name, transposed, input, weight, bias, plan_of, options, algorithm, out)
    x, w, b, batched = _operands(name, input, weight, bias, channels_last)
    plan = plan_of(x.shape, w.shape, None if b is None else b.shape)
    c_out, l_out = plan[:2]
    steps = parse_steps(
        options.pre_activation,
        options.activation,
        options.residual_scale,
        options.residual_position,
        (x.shape[1], c_out),
    )
    if w.dtype.kind == "c" and (steps.before or steps.after):
        raise TypeError(f"activations take real dtypes, got an input of dtype {x.dtype}")
    shape = (x.shape[0], l_out, c_out) if channels_last else (x.shape[0], c_out, l_out)
    residual = _residual(options.residual, x.dtype, shape, batched)
    if out is None:
        y = functional._new(shape, x.dtype)
    else:
        y = functional._target(out, shape, batched, x, w, b, residual)
    view = y.swapaxes(1, 2) if channels_last else y
    if residual is not None and channels_last:
        residual = residual.swapaxes(1, 2)
    compute(transposed, x, w, b, view, plan, steps, residual, algorithm)
    return functional._delivered(y, batched, out)


def compute(
    transposed: bool,
    x: NDArray[Any],
    w: NDArray[Any],
    b: NDArray[Any] | None,
    y: NDArray[Any],
    plan: tuple[int, ...],
    steps: Steps,
    residual: NDArray[Any] | None,
    algorithm: str,
) -> None:
    """Write the layer's output for x (N, C_in, L_in) to y (N, C_out, L_out), of any strides."""
    _, _, stride, dilation, left, right, groups, mode = plan
    pads = left, right
    engine = planner.choose_engine(
        algorithm, w.dtype.char, w.shape, stride, dilation, pads, transposed
    )
    if y.size == 0:
        return
    if engine is direct_engine and not (transposed and mode):
        half = half_of(x.dtype)
        stored = [as_bits(a) for a in (x, y, residual)] if half else [x, y, residual]
        last = (*execution(), steps, stored[2], half)
        if not transposed:
            args = stride, dilation, left, mode, groups
            direct_engine.correlate(stored[0], w, b, stored[1], *args, *last)
            return
        if direct_engine.scatter(stored[0], w, b, stored[1], stride, dilation, left, groups, *last):
            return
    _compute_apart(engine, transposed, x, w, b, y, plan, steps, residual, algorithm)


def _compute_apart(
    engine: Any,
    transposed: bool,
    x: NDArray[Any],
    w: NDArray[Any],
    b: NDArray[Any] | None,
    y: NDArray[Any],
    plan: tuple[int, ...],
    steps: Steps,
    residual: NDArray[Any] | None,
    algorithm: str,
) -> None:
    """The same, with the steps before and after the sums as passes of their own."""
    _, _, stride, dilation, left, _, groups, mode = plan
    if x.dtype != w.dtype or steps.before is not None:
        x = np.array(x, w.dtype, order="C")
    if steps.before is not None:
        direct_engine.finish(steps.before, x, None, 1.0, False)
    direct = y.dtype == w.dtype and y.flags.c_contiguous
    z = y if direct else functional._new(y.shape, w.dtype)
    if transposed:
        functional._scatter(x, w, b, z, plan, algorithm)
    else:
        engine.correlate(x, w, b, z, stride, dilation, left, mode, groups, *execution())
    if residual is not None:
        residual = np.ascontiguousarray(residual, w.dtype)
    if w.dtype.kind == "c":
        if residual is not None:
            with np.errstate(all="ignore"):
                z += residual * w.dtype.type(steps.residual_scale)
    elif steps.after is not None or residual is not None:
        scale, last = steps.residual_scale, steps.residual_last
        direct_engine.finish(steps.after, z, residual, scale, last)
    if not direct:
        with np.errstate(over="ignore"):
            np.copyto(y, z, casting="same_kind")


def _operands(
    name: str, input: ArrayLike, weight: ArrayLike, bias: ArrayLike | None, channels_last: bool
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None, bool]:
    """As `functional._operands`; a 16-bit input goes with float32 parameters made of any."""
    x = functional._operand(input)
    if channels_last and x.ndim in (2, 3):
        x = x.swapaxes(-1, -2)
    if not half_of(x.dtype):
        return functional._operands(name, x, weight, bias)
    x, batched = functional._batched(name, x)
    b = None if bias is None else _as_float32("bias", bias)
    return x, _as_float32("weight", weight), b, batched


def _as_float32(name: str, parameter: Any) -> NDArray[Any]:
    array = functional._operand(parameter)
    if array.dtype != np.float32 and not half_of(array.dtype):
        raise TypeError(
            f"a 16-bit input takes a {name} of float32 or a 16-bit dtype, got {array.dtype}"
        )
    return array.astype(np.float32, copy=False)


def backward_in_float32(
    backward: Callable[..., tuple[Any, Any, Any]],
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> tuple[Any, Any, Any]:
    """Return the gradients for operands of 16 bits: computed in float32, each rounded once."""
    g, x, w = map(functional._operand, (grad_output, input, weight))
    if g.dtype != x.dtype:
        raise TypeError(
            f"Input type ({x.dtype}) and grad_output type ({g.dtype}) should be the same"
        )
    if not half_of(x.dtype):
        raise TypeError(f"gradients of complex32 are not implemented, got dtype {x.dtype}")
    wide = (a.astype(np.float32) for a in (g, x, _as_float32("weight", w)))
    gradients = backward(*wide, *arguments, **options)
    with np.errstate(over="ignore"):
        by_input, by_weight, by_bias = (
            None if gradient is None else gradient.astype(dtype)
            for gradient, dtype in zip(gradients, (x.dtype, w.dtype, w.dtype), strict=True)
        )
    return by_input, by_weight, by_bias


def _residual(
    residual: Any, dtype: np.dtype[Any], shape: tuple[int, int, int], batched: bool
) -> NDArray[Any] | None:
    if residual is None:
        return None
    r = functional._operand(residual)
    if r.dtype != dtype:
        raise TypeError(f"Input type ({dtype}) and residual type ({r.dtype}) should be the same")
    expected = shape if batched else shape[1:]
    if r.shape != expected:
        raise ValueError(
            f"residual should have the size of the output, {list(expected)}, got {list(r.shape)}"
        )
    return r if batched else r[np.newaxis]


# complex32: two float16, in a structured dtype or along a last axis.


def _is_complex32(dtype: np.dtype[Any]) -> bool:
    return (
        dtype.names is not None
        and len(dtype.names) == 2
        and all(dtype[name] == np.float16 for name in dtype.names)
    )


def _is_complex32_call(input: Any, weight: Any) -> bool:
    w = getattr(weight, "dtype", None)
    if not isinstance(w, np.dtype):
        return False
    if _is_complex32(w):
        return True
    # An axis of two: a weight of four dimensions is no other call's.
    return w == np.float16 and weight.ndim == 4 and weight.shape[-1] == 2


def _to_complex64(name: str, value: Any) -> NDArray[Any]:
    array = np.asarray(value)
    if _is_complex32(array.dtype):
        assert array.dtype.names is not None
        real, imag = (array[field].astype(np.float32) for field in array.dtype.names)
    elif array.dtype == np.float16 and array.ndim and array.shape[-1] == 2:
        real, imag = array[..., 0].astype(np.float32), array[..., 1].astype(np.float32)
    else:
        raise TypeError(
            f"{name} should be complex32 as the weight is: float16 with a last axis of two, or a "
            f"structured dtype of two float16, got dtype {array.dtype} of size {list(array.shape)}"
        )
    result = np.empty(real.shape, np.complex64)
    result.real, result.imag = real, imag
    return result


def _complex32(
    name: str,
    transposed: bool,
    input: Any,
    weight: Any,
    bias: Any,
    plan_of: Callable[..., tuple[int, ...]],
    options: Options,
    algorithm: str,
    out: Any,
) -> Any:
    x, w = _to_complex64("input", input), _to_complex64("weight", weight)
    b = None if bias is None else _to_complex64("bias", bias)
    if options.residual is not None:
        options = options._replace(residual=_to_complex64("residual", options.residual))
    y = convolve(transposed, x, w, b, plan_of, options, algorithm, None)
    dtype = np.asarray(input).dtype
    with np.errstate(over="ignore"):
        if dtype.names is not None:
            result = np.empty(y.shape, dtype)
            for field, part in zip(dtype.names, (y.real, y.imag), strict=True):
                result[field] = part
        else:
            result = np.stack([y.real, y.imag], axis=-1).astype(np.float16)
    if out is None:
        return result
    if not isinstance(out, np.ndarray) or out.shape != result.shape or out.dtype != result.dtype:
        raise ValueError(
            f"out should be an array of shape {list(result.shape)} and dtype {result.dtype}, got "
            f"{geometry.shown(out)}"
        )
    np.copyto(out, result)
    return out
