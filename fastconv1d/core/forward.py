"""Convolutions with what happens around the sums, other layouts and 16-bit storage.

The direct engine does all of it inside its windows and tiles. Where the BLAS engine computes
(extreme geometry, `algorithm='blas'`), and where a padding mode folds a transposed convolution's
ends, the same compiled steps run before and after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..config import execution
from ..kernels import direct_engine
from . import adjoint, arrays
from .arrays import half_of
from .fast import engine_of_call
from .geometry import shown

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import ArrayLike, NDArray

    from .activations import Activation, Steps
    from .geometry import Geometry
    from .spec import Spec


def convolve(
    spec: Spec,
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    residual: ArrayLike | None = None,
    out: NDArray[Any] | None = None,
    engine: Any = None,
) -> NDArray[Any]:
    """Return a convolution or a transposed one with all that a spec may ask for.

    `engine` is who computes it, by default whoever the spec's algorithm means.
    """
    channels_last = spec.channels_last
    if arrays.is_complex32_call(weight):
        return _complex32(spec, input, weight, bias, residual, out)
    x, w, b, batched, geometry, steps, shape, more = checked(spec, input, weight, bias, residual)
    if out is None:
        y = arrays.new(shape, x.dtype)
    else:
        y = arrays.target(out, shape, batched, x, w, b, more)
    view = y.swapaxes(1, 2) if channels_last else y
    if more is not None and channels_last:
        more = more.swapaxes(1, 2)
    if engine is None:
        engine = engine_of_call(
            spec.algorithm, w.shape, w.dtype, geometry, spec.transposed, x.shape[2], geometry.l_out
        )
    compute(engine, spec.transposed, x, w, b, view, geometry, steps, more)
    return arrays.delivered(y, batched, out)


class Call(NamedTuple):
    """The operands of a call as kernels take them, and what follows from them.

    Attributes
    ----------
    x, weight, bias : ndarray
        x is (N, C, L) in any layout.
    batched : bool
        Whether the input was.
    geometry : Geometry
    steps : Steps
    shape : tuple of int
        The result's, batched and in the layout of the spec.
    residual : ndarray or None
        Of this shape.
    """

    x: NDArray[Any]
    weight: NDArray[Any]
    bias: NDArray[Any] | None
    batched: bool
    geometry: Geometry
    steps: Steps
    shape: tuple[int, int, int]
    residual: NDArray[Any] | None


def checked(
    spec: Spec,
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    residual: ArrayLike | None = None,
) -> Call:
    """Return a call's operands; raises whatever does not fit together."""
    channels_last = spec.channels_last
    x, w, b, batched = _operands(spec.name, input, weight, bias, channels_last)
    try:
        geometry = spec.geometry(x.shape, w.shape, None if b is None else b.shape)
    except ValueError as error:
        if not channels_last:
            raise
        sizes = str([x.shape[0], x.shape[2], x.shape[1]])  # as they were given
        raise ValueError(str(error).replace(str([*x.shape]), sizes)) from None
    c_out, l_out = geometry[:2]
    steps = spec.steps_for(x.shape[1], c_out)
    if w.dtype.kind == "c" and (steps.before or steps.after):
        raise TypeError(f"activations take real dtypes, got an input of dtype {x.dtype}")
    shape = (x.shape[0], l_out, c_out) if channels_last else (x.shape[0], c_out, l_out)
    more = arrays.residual_operand(residual, x.dtype, shape, batched)
    return Call(x, w, b, batched, geometry, steps, shape, more)


def compute(
    engine: ModuleType,
    transposed: bool,
    x: NDArray[Any],
    w: NDArray[Any],
    b: NDArray[Any] | None,
    y: NDArray[Any],
    geometry: Geometry,
    steps: Steps,
    residual: NDArray[Any] | None,
) -> None:
    """Write the layer's output for x (N, C_in, L_in) to y (N, C_out, L_out), of any strides."""
    if y.size == 0:
        return
    if engine.FUSES and not (transposed and geometry.mode):
        operands = (x, w, b, y, geometry, execution(), steps, residual)
        if not transposed:
            engine.correlate(*operands)
            return
        if engine.scatter(*operands):
            return
    _compute_apart(engine, transposed, x, w, b, y, geometry, steps, residual)


def _compute_apart(
    engine: ModuleType,
    transposed: bool,
    x: NDArray[Any],
    w: NDArray[Any],
    b: NDArray[Any] | None,
    y: NDArray[Any],
    geometry: Geometry,
    steps: Steps,
    residual: NDArray[Any] | None,
) -> None:
    """The same, with the steps before and after the sums as passes of their own."""
    x = before_sums(steps, x, w)
    direct = y.dtype == w.dtype and y.flags.c_contiguous
    z = y if direct else arrays.new(y.shape, w.dtype)
    if transposed:
        adjoint.scatter(engine, x, w, b, z, geometry)
    else:
        engine.correlate(x, w, b, z, geometry, execution())
    after_sums(steps, z, residual, y)


def before_sums(steps: Steps, x: NDArray[Any], w: NDArray[Any]) -> NDArray[Any]:
    """Return inputs of the weight's dtype, with what a spec asks for before the sums."""
    if x.dtype != w.dtype or steps.before is not None:
        x = np.array(x, w.dtype, order="C")
    if steps.before is not None:
        direct_engine.finish(steps.before, x, None, 1.0, False)
    return x


def after_sums(
    steps: Steps, z: NDArray[Any], residual: NDArray[Any] | None, y: NDArray[Any]
) -> None:
    """Write sums z, of the weight's dtype, to y, with what a spec asks for after them.

    z is C-contiguous, changes, and may be y itself.
    """
    if residual is not None:
        residual = np.ascontiguousarray(residual, z.dtype)
    if z.dtype.kind == "c":
        if residual is not None:
            with np.errstate(all="ignore"):
                z += residual * z.dtype.type(steps.residual_scale)
    elif steps.after is not None or residual is not None:
        scale, last = steps.residual_scale, steps.residual_last
        direct_engine.finish(steps.after, z, residual, scale, last)
    if z is not y:
        with np.errstate(over="ignore"):
            np.copyto(y, z, casting="same_kind")


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
    >>> from fastconv1d.core.activations import parse_activation
    >>> from fastconv1d.core.forward import activate
    >>> activate(parse_activation("relu"), np.array([[-1.0, 2.0]]), "NCL")
    array([[0., 2.]])
    """
    wide = x.dtype if x.dtype.char in "fd" else np.dtype(np.float32)
    more = None
    if residual is not None:
        shape = x.shape if x.ndim == 3 else (1, *x.shape)
        more = arrays.residual_operand(residual, x.dtype, shape, x.ndim == 3)
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


def _operands(
    name: str, input: ArrayLike, weight: ArrayLike, bias: ArrayLike | None, channels_last: bool
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None, bool]:
    """As `arrays.operands`; a 16-bit input goes with float32 parameters made of any."""
    x = arrays.operand(input)
    if channels_last and x.ndim in (2, 3):
        x = x.swapaxes(-1, -2)
    if not half_of(x.dtype):
        return arrays.operands(name, x, weight, bias)
    x, batched = arrays.batched(name, x)
    b = None if bias is None else arrays.as_float32("bias", bias)
    return x, arrays.as_float32("weight", weight), b, batched


def _complex32(
    spec: Spec, input: Any, weight: Any, bias: Any, residual: Any, out: NDArray[Any] | None
) -> NDArray[Any]:
    x, w = arrays.to_complex64("input", input), arrays.to_complex64("weight", weight)
    b = None if bias is None else arrays.to_complex64("bias", bias)
    more = None if residual is None else arrays.to_complex64("residual", residual)
    result = arrays.to_complex32(convolve(spec, x, w, b, more), np.asarray(input).dtype)
    if out is None:
        return result
    if not isinstance(out, np.ndarray) or out.shape != result.shape or out.dtype != result.dtype:
        raise ValueError(
            f"out should be an array of shape {list(result.shape)} and dtype {result.dtype}, got "
            f"{shown(out)}"
        )
    np.copyto(out, result)
    return out
