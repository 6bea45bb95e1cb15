"""Forward that keeps what its backward needs, and backward through all steps of a convolution."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import adjoint, arrays, planes
from .forward import activate
from .planes import convolve
from .spec2d import Spec2d

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from .activations import Steps
    from .spec import Spec


class Kept(NamedTuple):
    """What the backward of one call of a convolution needs."""

    spec: Spec | Spec2d
    input: Any
    weight: NDArray[Any]
    bias: NDArray[Any] | None
    before: NDArray[Any] | None  # what the activation was applied to
    has_residual: bool


def forward(
    spec: Spec | Spec2d,
    input: ArrayLike,
    weight: NDArray[Any],
    bias: NDArray[Any] | None,
    residual: ArrayLike | None,
    out: NDArray[Any] | None,
) -> tuple[NDArray[Any], Kept]:
    """Return the output, and what its backward needs."""
    steps: Steps = spec.steps
    if steps.after is None:
        output = convolve(spec, input, weight, bias, residual, out)
        return output, Kept(spec, input, weight, bias, None, residual is not None)
    if weight.dtype.kind == "c":
        raise TypeError(f"activations take real dtypes, got a layer of dtype {weight.dtype}")
    sums = spec._replace(steps=steps._replace(after=None))
    last = steps.residual_last
    before = convolve(sums, input, weight, bias, None if last else residual)
    added = residual if last else None
    output = _activated(spec, steps.after, before, added, steps.residual_scale)
    if out is not None:
        batched = output.ndim == 2 + spec.rank
        shape = output.shape if batched else (1, *output.shape)
        others = (None if a is None else np.asarray(a) for a in (input, weight, bias, residual))
        target = arrays.target(out, shape, batched, output, *others)
        np.copyto(target, output)
        output = arrays.delivered(target, batched, out)
    return output, Kept(spec, input, weight, bias, before, residual is not None)


def backward(
    kept: Kept, grad_output: ArrayLike
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None, NDArray[Any] | None]:
    """Return the gradients by input, weight, bias and residual, through all steps of a call."""
    spec, before = kept.spec, kept.before
    steps: Steps = spec.steps
    channels_last = spec.channels_last
    axis = -1 if channels_last else -1 - spec.rank
    x = arrays.operand(kept.input)
    g = arrays.operand(grad_output)
    dtype = x.dtype
    if g.dtype != dtype:
        raise arrays.other_dtype(dtype, "grad_output", g.dtype)
    if arrays.half_of(dtype):  # in float32, and rounded once
        x, g = x.astype(np.float32), g.astype(np.float32)
        before = None if before is None else before.astype(np.float32)
    by_output, grad_residual = g, None
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if before is not None:
            if g.shape != before.shape:
                raise ValueError(
                    "grad_output should have the size of the output, "
                    f"{list(before.shape)}, but got {list(g.shape)}"
                )
            assert steps.after is not None
            g = g * steps.after.derivative(before, axis)
        if kept.has_residual:
            scale = g.dtype.type(steps.residual_scale)
            grad_residual = (by_output if steps.residual_last else g) * scale
    inside = x if steps.before is None else _activated(spec, steps.before, x)
    if channels_last:
        g, inside = np.moveaxis(g, -1, -1 - spec.rank), np.moveaxis(inside, -1, -1 - spec.rank)
    mask = (True, True, kept.bias is not None)
    operands = g, inside, kept.weight
    if isinstance(spec, Spec2d):
        gradients = planes.backward(*operands, spec.geometry, spec.algorithm, mask)
    else:
        gradients = adjoint.backward(
            spec.transposed, *operands, spec.geometry, spec.algorithm, mask
        )
    grad_input, grad_weight, grad_bias = gradients
    if channels_last:
        grad_input = np.ascontiguousarray(np.moveaxis(grad_input, -1 - spec.rank, -1))
    if steps.before is not None:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            grad_input *= steps.before.derivative(x, axis)
    with np.errstate(over="ignore"):
        if grad_residual is not None:
            grad_residual = grad_residual.astype(dtype)
        return grad_input.astype(dtype, copy=False), grad_weight, grad_bias, grad_residual


def _activated(
    spec: Spec | Spec2d,
    activation: Any,
    x: NDArray[Any],
    residual: ArrayLike | None = None,
    scale: float = 1.0,
) -> NDArray[Any]:
    """As `forward.activate`, of planes as of lines."""
    if spec.rank == 1:
        return activate(activation, x, spec.layout, residual, scale)
    layout = "NLC" if spec.channels_last else "NCL"
    first = x.ndim - 3 + (not spec.channels_last)  # the axis of rows
    shape = (*x.shape[:first], -1, *x.shape[first + 2 :])
    more = None if residual is None else np.reshape(residual, shape)
    return activate(activation, x.reshape(shape), layout, more, scale).reshape(x.shape)


# ---- the calls that a backward may be of ---------------------------------------------------------


class _Call:
    """A call in train mode: what it kept, and its output without keeping that alive."""

    def __init__(self, input: Any, output: NDArray[Any], kept: Any) -> None:
        self.kept = kept
        self.source, self.memory = _memory(input), weakref.ref(_memory(output))
        self.thread = threading.get_ident()
        self.gone_back = False  # a backward was of it

    def waits(self) -> bool:
        """Whether a backward may still be of it."""
        return not self.gone_back and self.memory() is not None


class Calls:
    """The calls of a layer in train mode whose backward may still come.

    `backward` of a layer is given a gradient, and no output. It is that of the newest call, which
    is right for a layer that is applied to its own output, too; but where the outputs of several
    calls are in use on their own, it has to be told which one.
    """

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    def __reduce__(self) -> tuple[type, tuple[()]]:  # of copies and pickles
        return Calls, ()

    def keep(self, input: Any, output: NDArray[Any], kept: Any) -> None:
        """Remember a call, and forget those whose backward came or can come no more."""
        call = _Call(input, output, kept)
        with lock:
            before = [c for c in self._calls if c.waits() and c.memory() is not call.memory()]
            self._calls = [*before, call]

    def recall(self, training: bool, output: NDArray[Any] | None) -> Any:
        """Return what the newest call of this thread kept, or that of an output.

        Raises
        ------
        RuntimeError
            If there is none, or several may be meant.
        ValueError
            If none has this output.
        """
        with lock:
            calls = [c for c in self._calls if c.thread == threading.get_ident()] or self._calls
            if not calls:
                state = "train" if training else "eval"
                raise RuntimeError(
                    "backward needs the input of a forward in train mode: call train() and then "
                    f"the layer before it, got a layer in {state} mode without a kept input"
                )
            call = _newest(calls) if output is None else _with_output(calls, output)
            call.gone_back = True
            return call.kept


lock = threading.Lock()  # of all Calls, and of gradients that are added up


def _newest(calls: list[_Call]) -> _Call:
    newest = calls[-1]
    waiting = [c for c in calls[:-1] if c.waits()]
    if not newest.gone_back:
        waiting.append(newest)
    if not waiting:
        return newest  # once more
    sources = [call.source for call in calls]
    apart = [c for c in waiting[:-1] if not any(c.memory() is source for source in sources)]
    if apart:
        raise RuntimeError(
            f"backward may be that of {len(apart) + 1} calls whose outputs are in use: say which "
            "one with backward(grad_output, output=y), or go back after each call"
        )
    return waiting[-1]


def _with_output(calls: list[_Call], output: NDArray[Any]) -> _Call:
    for call in calls:
        if call.memory() is _memory(output):
            return call
    raise ValueError(
        "output should be what a call in train mode returned, or a view of it, "
        f"got another array of size {list(np.shape(output))}"
    )


def _memory(array: Any) -> Any:
    """The array that owns the memory of an array."""
    while isinstance(array, np.ndarray) and isinstance(array.base, np.ndarray):
        array = array.base
    return array


def added(total: NDArray[Any] | None, gradient: NDArray[Any]) -> NDArray[Any]:
    """Return the sum of gradients."""
    if total is None:
        return gradient
    with np.errstate(over="ignore", invalid="ignore"):
        return total + gradient
