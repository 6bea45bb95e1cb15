"""Convolutions that code asks of torch's functions, ``F.conv1d(x, weight)``, computed here.

A module whose code calls such a function gets a class (`classes`) that puts a function mode of
torch around its forward: what is called there, and only there, in this thread, passes through
`_Convolutions`, or `_Planes`. Other functions cost 1 us each more inside of it
(`benchmarks/torch_models.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .classes import AROUND, own_class
from .layers import _geometry_of, _integer, _only
from .operators import DTYPES, FUNCTIONS, KERNELS, is_worth
from .planes import convolved, is_nchw, spec_of
from .products import products_of
from .watch import TRANSPARENT, is_plain, torch_watches

_UNFIT = (TypeError, ValueError, RuntimeError, MemoryError)


class _Convolutions(TorchFunctionMode):
    functions: tuple[Any, ...] = (torch.conv1d, torch.conv_transpose1d)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.functions:
            output = computed(func, args, kwargs)
            if output is not None:
                return output
        return func(*args, **kwargs)


class _Planes(_Convolutions):
    functions = (*_Convolutions.functions, torch.conv2d)


TRANSPARENT.update((_Convolutions, _Planes))


def _around(mode: type[_Convolutions]) -> Callable[..., Any]:
    """What calls a module's own forward with what it asks of the functions computed here."""

    def with_calls(forward: Callable[..., Any], module: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or torch_watches():
            return forward(*args, **kwargs)
        with mode():
            return forward(*args, **kwargs)

    return with_calls


def functions_in(model: nn.Module) -> tuple[Any, ...]:
    """The functions that are computed here somewhere in a model."""
    kinds = (vars(own_class(m)).get("_made_of", ((),))[-1] for m in model.modules())
    return (
        _Planes if any("calls of planes" in each for each in kinds) else _Convolutions
    ).functions


AROUND["calls"] = _around(_Convolutions)
AROUND["calls of planes"] = _around(_Planes)


def _conv(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: Any = 1,
) -> tuple[Any, ...]:  # fmt: skip
    return input, weight, bias, stride, padding, dilation, groups, 0


def _conv_transpose1d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: Any = 1, dilation: Any = 1,
) -> tuple[Any, ...]:  # fmt: skip
    return input, weight, bias, stride, padding, dilation, groups, output_padding


def computed(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The output, or None where torch should compute or raise."""
    is_scatter = function is torch.conv_transpose1d
    try:
        arguments = (_conv_transpose1d if is_scatter else _conv)(*args, **kwargs)
        x, weight, bias = arguments[:3]
        if torch_watches() or not (
            is_plain(x) and is_plain(weight) and (bias is None or is_plain(bias))
        ):
            return None
        needs_gradients = torch.is_grad_enabled() and any(
            tensor is not None and tensor.requires_grad for tensor in (x, weight, bias)
        )
        if function is torch.conv2d:
            return None if needs_gradients else _of_planes(*arguments[:-1])
        operands = operands_of(is_scatter, *arguments)
        if operands is None:
            return None
        stride, dilation, groups = operands[3], operands[5], operands[6]
        if not is_scatter and _is_left(x, weight, stride, dilation, groups):
            return None
        if needs_gradients and not is_worth(x, weight, groups, 1 if is_scatter else stride):
            return None
        ops = FUNCTIONS if needs_gradients else KERNELS
        y = ops.scatter(*operands) if is_scatter else ops.correlate(*operands)
        return y.squeeze(0) if x.dim() == 2 else y
    except _UNFIT:
        return None


def _of_planes(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any,
    groups: Any,
) -> Tensor | None:  # fmt: skip
    if weight.dim() != 4 or x.dim() not in (3, 4) or 0 in weight.shape:
        return None
    if not (is_nchw(x) and is_nchw(weight)):
        return None
    spec = spec_of((weight.shape[2], weight.shape[3]), stride, padding, dilation, groups)
    if spec is None or _is_left(x, weight, math.prod(spec.stride), spec.dilation, spec.groups):
        return None
    output = convolved(x, weight, bias, spec)
    return None if output is None else torch.from_numpy(output)


def _is_left(x: Tensor, weight: Tensor, step: int, dilation: Any, groups: int) -> bool:
    """Whether torch computes a call as fast."""
    products = products_of(weight.shape, step, dilation, groups)
    return products is not None and products.leaves(x, weight.dim() - 2, False)


def operands_of(
    is_scatter: bool,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    output_padding: Any,
) -> tuple[Any, ...] | None:
    """What correlate, or scatter, takes for a call of torch's function; None for what it refuses.

    Raises TypeError for tensors that have no array.
    """
    if weight.dim() != 3 or x.dim() not in (2, 3) or 0 in weight.shape:
        return None
    if not (x.is_cpu and weight.is_cpu and x.dtype in DTYPES):
        return None
    x = x.unsqueeze(0) if x.dim() == 2 else x
    kernel_size, l_in = weight.shape[2], x.shape[2]
    stride, dilation = _only(stride), _only(dilation)
    span = dilation * (kernel_size - 1) + 1
    if padding == "same" and not is_scatter:
        left, right = (span - 1) // 2, span - 1 - (span - 1) // 2
        if stride != 1:
            return None
    else:
        left = right = 0 if padding == "valid" and not is_scatter else _only(padding)
    more = _only(output_padding)
    geometry = _geometry_of(stride, left, dilation, _integer(groups), right, "zeros", more)
    if geometry is None or l_in == 0:
        return None
    if is_scatter:
        length = (l_in - 1) * stride - left - right + span + more
    else:
        length = (l_in + left + right - span) // stride + 1
    return (x, weight, bias, *geometry[:4], length) if length >= 1 else None
