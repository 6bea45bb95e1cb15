"""The three operators that do the work, their checks, and their gradients.

They are closed under differentiation: the gradients of each are made of the other two, so that any
order of derivative runs here. With ``g`` a gradient, and ``correlate`` the forward of Conv1d::

    correlate(x, w):        by x scatter(g, w)      by w weight_gradient(g, x)
    scatter(x, w):          by x correlate(g, w)    by w weight_gradient(x, g)
    weight_gradient(h, x):  by h correlate(x, g)    by x scatter(h, g)

`KERNELS` check the operands of each call, `check_layer` and `check_gradient`, before the engines
get a pointer, and raise TypeError or ValueError. In eager mode `FUNCTIONS` differentiate them; the
gradients are `_GRADIENTS`, which leave to torch's operations what torch watches or what is not for
the kernels (hooks may exchange saved tensors). Compiled graphs hold `OPERATORS`,
``torch.ops.fastconv1d.correlate``, ``scatter`` and ``weight_gradient``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from .. import config
from ..core import arrays
from ..core.adjoint import engine_of
from ..core.engines import ENGINES, engine_of_scatter
from ..core.geometry import ZEROS, Geometry
from ..kernels.operands import are_real
from .watch import is_plain, torch_watches_gradients

DTYPES = (torch.float32, torch.float64)
_DTYPES = frozenset((*DTYPES, np.dtype(np.float32), np.dtype(np.float64)))
_FAR = 1 << 40  # as the direct engine: sums and products of positions stay within 64 bits


# Multiply-adds from which on a call with gradients is made here, for groups = 1. The Python of a
# forward and a backward takes 100 to 300 us, torch's 30: with 64 channels and 3 taps 1.2e6 of them
# took 1.3 to 2.2 times as long as torch's, 4.9e6 0.65 times. torch's depthwise layers are slow from
# the first (2e4: 0.5 times), other groups are its loops.
LEAST_WORK = 4_000_000


def is_worth(x: Tensor, weight: Tensor, groups: Any, stride: Any) -> bool:
    """Whether a call with gradients is made here; True for operands that do not fit anyway."""
    if groups != 1 or x.dim() < 2 or x.shape[-2] == 0:
        return True
    work = x.numel() // x.shape[-2] * weight.numel()
    return work >= LEAST_WORK * (stride if type(stride) is int and stride > 1 else 1)


# Taps from which on a compiled graph holds our operators for groups = 1. A graph packs the weight
# in each call and calls Python, for 17 us: 256 channels, 3 taps, 50 columns took 320 us, torch 114.
# Long kernels are 1.7 to 3 times as fast here, depthwise ones, too. The rule does not ask lengths:
# a graph would be compiled again for others.
LONG_KERNEL = 16


def is_worth_compiled(weight: Tensor, groups: Any) -> bool:
    """Whether a compiled graph holds the operator."""
    return bool(groups != 1 or weight.dim() != 3 or weight.shape[2] >= LONG_KERNEL)


class Operators(NamedTuple):
    """The three, as one way of calling them has them."""

    correlate: Callable[..., Tensor]
    scatter: Callable[..., Tensor]
    weight_gradient: Callable[..., Tensor]


# ---- what the kernels take ----------------------------------------------------------------------


Shape = tuple[int, ...]


def check_layer(
    transposed: bool,
    input: Shape,
    weight: Shape,
    bias: Shape | None,
    stride: int,
    pad_left: int,
    dilation: int,
    groups: int,
    length: int,
) -> None:
    """Raise ValueError for shapes and numbers that correlate, or scatter, does not take."""
    if len(input) != 3 or len(weight) != 3:
        raise ValueError(
            "input and weight should have 3 dimensions, got input of size "
            f"{list(input)} and weight of size {list(weight)}"
        )
    _check_numbers(stride, pad_left, dilation, groups, weight[2])
    first, second, _ = weight
    c_in, c_out = (first, second * groups) if transposed else (second * groups, first)
    if first % groups or input[1] != c_in:
        raise ValueError(
            f"given groups={groups} and weight of size {list(weight)}, expected groups to divide "
            f"{first} and input{list(input)} to have {c_in} channels"
        )
    if bias is not None and bias != (c_out,):
        raise ValueError(
            f"expected bias to be 1-dimensional with {c_out} elements, got bias of size "
            f"{list(bias)}"
        )
    if isinstance(length, int) and not 0 <= length < _FAR // stride:
        raise ValueError(f"length should be from 0 to 2**40 // stride, got length={length}")


def check_gradient(
    grad_output: Shape,
    input: Shape,
    kernel_size: int,
    stride: int,
    pad_left: int,
    dilation: int,
    groups: int,
) -> None:
    """Raise ValueError for shapes and numbers that weight_gradient does not take."""
    if len(grad_output) != 3 or len(input) != 3 or grad_output[0] != input[0]:
        raise ValueError(
            "grad_output and input should have 3 dimensions, of which the first agree, got "
            f"grad_output of size {list(grad_output)} and input of size {list(input)}"
        )
    _check_numbers(stride, pad_left, dilation, groups, kernel_size)
    if grad_output[1] % groups or input[1] % groups:
        raise ValueError(
            f"groups={groups} should divide the channels, got grad_output of size "
            f"{list(grad_output)} and input of size {list(input)}"
        )


def _check_numbers(
    stride: int, pad_left: int, dilation: int, groups: int, kernel_size: int
) -> None:
    if not (
        0 < stride < _FAR
        and 0 < dilation < _FAR
        and 0 <= pad_left < _FAR
        and 0 < groups < _FAR
        and 0 < kernel_size <= _FAR // dilation
    ):
        raise ValueError(
            "stride, dilation, groups and kernel_size should be positive, pad_left not negative, "
            f"and dilation * kernel_size at most 2**40, got stride={stride}, pad_left={pad_left}, "
            f"dilation={dilation}, groups={groups}, kernel_size={kernel_size}"
        )


def check_dtypes(first: Any, second: Any, third: Any) -> None:
    """Raise TypeError unless tensors, or arrays, are of one of the two dtypes; None is none."""
    if first.dtype not in _DTYPES or (
        second.dtype != first.dtype or (third is not None and third.dtype != first.dtype)
    ):
        got = ", ".join(str(each.dtype) for each in (first, second, third) if each is not None)
        raise TypeError(f"all operands should be float32, or all float64, got {got}")


# ---- computed here ------------------------------------------------------------------------------


def num_threads() -> int:
    """Return the threads of a call: the smaller of torch's number and the library's."""
    return min(torch.get_num_threads(), config.get_num_threads())


def operands(
    first: Tensor, second: Tensor, third: Tensor | None
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    """The arrays of tensors, of one dtype that the kernels have; TypeError for others."""
    if not (first.is_cpu and second.is_cpu and (third is None or third.is_cpu)):
        raise TypeError("all operands should be on the CPU")
    x, w = first.numpy(force=True), second.numpy(force=True)
    b = None if third is None else third.numpy(force=True)
    if are_real(x, w, b):
        return x, w, b
    check_dtypes(x, w, b)
    return x.copy(), w.copy(), None if b is None else b.copy()  # aligned


def _run() -> tuple[int, bool]:
    return num_threads(), config.are_deterministic_algorithms_enabled()


def _correlate(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    pad_left: int,
    dilation: int,
    groups: int,
    length: int,
) -> Tensor:
    x, w, b = operands(input, weight, bias)
    x_shape, w_shape, b_shape = x.shape, w.shape, None if b is None else b.shape
    check_layer(False, x_shape, w_shape, b_shape, stride, pad_left, dilation, groups, length)
    y = arrays.new((x_shape[0], w_shape[0], length), x.dtype)
    if not (x.size and w.size):
        y[...] = 0 if b is None else b[:, np.newaxis]
    elif y.size:
        place = Geometry(w_shape[0], length, stride, dilation, pad_left, 0, groups, ZEROS)
        engine_of("auto", x.dtype, w_shape, place).correlate(x, w, b, y, place, _run())
    return torch.from_numpy(y)


def _scatter(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    pad_left: int,
    dilation: int,
    groups: int,
    length: int,
) -> Tensor:
    x, w, b = operands(input, weight, bias)
    x_shape, w_shape, b_shape = x.shape, w.shape, None if b is None else b.shape
    check_layer(True, x_shape, w_shape, b_shape, stride, pad_left, dilation, groups, length)
    y = arrays.new((x_shape[0], w_shape[1] * groups, length), x.dtype)
    if not (x.size and w.size):
        y[...] = 0 if b is None else b[:, np.newaxis]
    elif y.size:
        place = Geometry(y.shape[1], length, stride, dilation, pad_left, 0, groups, ZEROS)
        engine = engine_of("auto", x.dtype, w_shape, place)
        engine = engine_of_scatter(engine, x.dtype.char, w_shape, place)
        if not engine.scatter(x, w, b, y, place, _run()):  # for a weight that is not finite
            ENGINES["blas"].scatter(x, w, b, y, place, _run())
    return torch.from_numpy(y)


def _weight_gradient(
    grad_output: Tensor,
    input: Tensor,
    kernel_size: int,
    stride: int,
    pad_left: int,
    dilation: int,
    groups: int,
) -> Tensor:
    g, x, _ = operands(grad_output, input, None)
    check_gradient(g.shape, x.shape, kernel_size, stride, pad_left, dilation, groups)
    dw = arrays.new((g.shape[1], x.shape[1] // groups, kernel_size), x.dtype)
    if not (g.size and x.size):
        dw[...] = 0
    elif dw.size:
        place = Geometry(dw.shape[0], g.shape[2], stride, dilation, pad_left, 0, groups, ZEROS)
        engine_of("auto", x.dtype, dw.shape, place).weight_gradient(g, x, dw, place, _run())
    return torch.from_numpy(dw)


KERNELS = Operators(_correlate, _scatter, _weight_gradient)


# ---- the same of torch's operations, which every mode and transform of torch understands ---------


def _torch_correlate(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    pad_left: int,
    dilation: int,
    groups: int,
    length: int,
) -> Tensor:
    x = _padded(input, weight.shape[2], stride, pad_left, dilation, length)
    return F.conv1d(x, weight, bias, stride, 0, dilation, groups)


def _torch_scatter(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    pad_left: int,
    dilation: int,
    groups: int,
    length: int,
) -> Tensor:
    y = F.conv_transpose1d(input, weight, None, stride, 0, 0, groups, dilation)
    y = F.pad(y, (-pad_left, length + pad_left - y.shape[2]))
    return y if bias is None else y + bias[:, None]


def _torch_weight_gradient(
    grad_output: Tensor,
    input: Tensor,
    kernel_size: int,
    stride: int,
    pad_left: int,
    dilation: int,
    groups: int,
) -> Tensor:
    x = _padded(input, kernel_size, stride, pad_left, dilation, grad_output.shape[2])
    w = x.new_empty((grad_output.shape[1], x.shape[1] // groups, kernel_size))
    geometry = [stride], [0], [dilation], False, [0], groups
    mask = [False, True, False]
    gradient: Tensor = torch.ops.aten.convolution_backward(
        grad_output, x, w, None, *geometry, mask
    )[1]
    return gradient


def _padded(
    x: Tensor, kernel_size: int, stride: int, pad_left: int, dilation: int, length: int
) -> Tensor:
    """Padded, or cut, to what windows at `length` positions read."""
    reach = (length - 1) * stride + dilation * (kernel_size - 1) + 1
    return F.pad(x, (pad_left, reach - pad_left - x.shape[2]))


_TORCHS = Operators(_torch_correlate, _torch_scatter, _torch_weight_gradient)


# ---- gradients ----------------------------------------------------------------------------------


def _save_layer(ctx: Any, inputs: tuple[Any, ...], output: Any = None) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])
    ctx.geometry = inputs[3:7]


def _save_gradient(ctx: Any, inputs: tuple[Any, ...], output: Any = None) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])
    ctx.geometry = inputs[3:]


def _correlate_backward(ops: Operators, ctx: Any, g: Tensor) -> tuple[Any, ...]:
    (x, w), needs = ctx.saved_tensors, ctx.needs_input_grad
    return (
        ops.scatter(g, w, None, *ctx.geometry, x.shape[2]) if needs[0] else None,
        ops.weight_gradient(g, x, w.shape[2], *ctx.geometry) if needs[1] else None,
        g.sum((0, 2)) if needs[2] else None,
        *(None,) * 5,
    )


def _scatter_backward(ops: Operators, ctx: Any, g: Tensor) -> tuple[Any, ...]:
    (x, w), needs = ctx.saved_tensors, ctx.needs_input_grad
    return (
        ops.correlate(g, w, None, *ctx.geometry, x.shape[2]) if needs[0] else None,
        ops.weight_gradient(x, g, w.shape[2], *ctx.geometry) if needs[1] else None,
        g.sum((0, 2)) if needs[2] else None,
        *(None,) * 5,
    )


def _weight_gradient_backward(ops: Operators, ctx: Any, v: Tensor) -> tuple[Any, ...]:
    (g, x), needs = ctx.saved_tensors, ctx.needs_input_grad
    return (
        ops.correlate(x, v, None, *ctx.geometry, g.shape[2]) if needs[0] else None,
        ops.scatter(g, v, None, *ctx.geometry, x.shape[2]) if needs[1] else None,
        *(None,) * 5,
    )


def _function(
    kernel: Callable[..., Tensor], save: Callable[..., None], backward: Callable[..., Any]
) -> Callable[..., Tensor]:
    """The operator for eager mode: a quarter of a custom operator's overhead (21 us to 83 us)."""

    def forward(ctx: Any, *inputs: Any) -> Tensor:
        save(ctx, inputs)
        return kernel(*inputs)

    def backwards(ctx: Any, *gradients: Any) -> Any:
        return backward(_GRADIENTS, ctx, *gradients)

    # profilers and graphs show the name of the class
    body = {"forward": staticmethod(forward), "backward": staticmethod(backwards)}
    operator: Any = type(f"Fast{kernel.__name__}", (Function,), body)
    return operator.apply


FUNCTIONS = Operators(
    _function(_correlate, _save_layer, _correlate_backward),
    _function(_scatter, _save_layer, _scatter_backward),
    _function(_weight_gradient, _save_gradient, _weight_gradient_backward),
)


def _checked(
    function: Callable[..., Tensor], kernel: Callable[..., Tensor], torchs: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    def operator(*operands: Any) -> Tensor:
        if not torch_watches_gradients() and is_plain(operands[0]) and is_plain(operands[1]):
            try:  # a Function takes 5 us
                return function(*operands) if torch.is_grad_enabled() else kernel(*operands)
            except (TypeError, ValueError, RuntimeError):  # not what the kernels take
                pass
        with torch.autocast("cpu", enabled=False):  # as torch's own backward passes
            return torchs(*operands)

    return operator


_GRADIENTS = Operators(*map(_checked, FUNCTIONS, KERNELS, _TORCHS))


# ---- what compiled graphs hold ------------------------------------------------------------------

_LIBRARY = torch.library.Library("fastconv1d", "DEF")
_LAYER_SCHEMA = (
    "(Tensor input, Tensor weight, Tensor? bias, int stride, int pad_left, int dilation, "
    "int groups, SymInt length) -> Tensor"
)
_GRADIENT_SCHEMA = (
    "(Tensor grad_output, Tensor input, int kernel_size, int stride, int pad_left, int dilation, "
    "int groups) -> Tensor"
)


def _fake_layer(transposed: bool) -> Callable[..., Tensor]:
    def fake(x: Tensor, w: Tensor, b: Tensor | None, *numbers: Any) -> Tensor:
        _check_fakes(x, w, b)
        check_layer(transposed, x.shape, w.shape, None if b is None else b.shape, *numbers)
        *_, groups, length = numbers
        return x.new_empty((x.shape[0], w.shape[1] * groups if transposed else w.shape[0], length))

    return fake


def _fake_gradient(g: Tensor, x: Tensor, kernel_size: int, *numbers: Any) -> Tensor:
    _check_fakes(g, x, None)
    check_gradient(g.shape, x.shape, kernel_size, *numbers)
    return x.new_empty((g.shape[1], x.shape[1] // numbers[-1], kernel_size))


def _check_fakes(first: Tensor, second: Tensor, third: Tensor | None) -> None:
    check_dtypes(first, second, third)
    for tensor in (first, second, third):
        if tensor is not None and tensor.device != first.device:
            raise TypeError(f"tensors should be on {first.device}, got one on {tensor.device}")


def _operator(
    kernel: Callable[..., Tensor],
    schema: str,
    fake: Callable[..., Tensor],
    save: Callable[..., None],
    backward: Callable[..., Any],
) -> Any:
    """The operator that compiled graphs hold, without the checks that a custom_op adds to calls."""
    name = kernel.__name__.lstrip("_")
    _LIBRARY.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, kernel, "CPU")
    torch.library.register_fake(f"fastconv1d::{name}", fake, lib=_LIBRARY)
    torch.library.register_autograd(
        f"fastconv1d::{name}",
        lambda ctx, *gradients: backward(OPERATORS, ctx, *gradients),
        setup_context=save,
        lib=_LIBRARY,
    )
    return getattr(torch.ops.fastconv1d, name).default


OPERATORS = Operators(
    _operator(_correlate, _LAYER_SCHEMA, _fake_layer(False), _save_layer, _correlate_backward),
    _operator(_scatter, _LAYER_SCHEMA, _fake_layer(True), _save_layer, _scatter_backward),
    _operator(
        _weight_gradient,
        _GRADIENT_SCHEMA,
        _fake_gradient,
        _save_gradient,
        _weight_gradient_backward,
    ),
)
