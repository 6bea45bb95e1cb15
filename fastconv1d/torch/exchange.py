"""Whose convolutions of a model are computed here: exchanging classes, and the report of it."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn
from torch.nn.utils import parametrize

from .layers import FastConv1d, FastConvTranspose1d
from .operators import DTYPES

_Module = TypeVar("_Module", bound=nn.Module)
_FAST: dict[type, type] = {nn.Conv1d: FastConv1d, nn.ConvTranspose1d: FastConvTranspose1d}


class Report(NamedTuple):
    """What `accelerate` did.

    Attributes
    ----------
    replaced : list of str
        The names of the modules replaced.
    left : dict of str to str
        The names of the convolutions left to torch, with the reason.

    Examples
    --------
    >>> from fastconv1d.torch import Report
    >>> print(Report(["encoder"], {"head": "its parameters are on cuda:0"}))
    1 replaced, 1 left
    head: its parameters are on cuda:0
    """

    replaced: list[str]
    left: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{len(self.replaced)} replaced, {len(self.left)} left"]
        return "\n".join(lines + [f"{name}: {reason}" for name, reason in self.left.items()])


def accelerate(
    model: _Module, inplace: bool = False, *, algorithm: str = "auto"
) -> tuple[_Module, Report]:
    """Let fastconv1d compute the 1-D convolutions of a model.

    Every `torch.nn.Conv1d` and `torch.nn.ConvTranspose1d` with float32 or float64 parameters on the
    CPU becomes a `FastConv1d` or `FastConvTranspose1d`, weight-normed and shared ones included.
    Only its class changes: parameters, state dict, hooks and names stay. Tensors are not copied.

    Parameters
    ----------
    model : torch.nn.Module
        A module, or a convolution itself.
    inplace : bool, default False
        Change the model itself instead of a deep copy.
    algorithm : {'auto', 'winograd'}, default 'auto'
        As for `fastconv1d.Conv1d`, for calls without gradients of layers in eval mode. 'winograd'
        takes half the multiplications of many layers, at a few times the error.

    Returns
    -------
    model : torch.nn.Module
        The copy, or the model itself.
    report : Report
        ``report.replaced`` lists the names of modules, ``report.left`` maps the names of
        convolutions that stay torch's to the reason. Calls of `torch.nn.functional.conv1d` are not
        seen.

    Raises
    ------
    TypeError
        If `model` is not a module.
    ValueError
        If there is no such algorithm.

    Notes
    -----
    Threads: the smaller of `torch.get_num_threads` and `fastconv1d.get_num_threads`.

    Calls that torch should see or compute stay torch's: on other devices and dtypes, under
    autocast, in forward-mode AD, `torch.func` transforms, `torch.jit.trace` and dispatch modes.
    `torch.compile` and `torch.export` see a custom operator.

    Without gradients a layer in eval mode keeps its packed weight until the parameter's version,
    its address or one of a few sampled values changes, or ``train()`` or ``eval()`` is called. A
    write through ``.data`` or a NumPy view has no version: after one that changes few values, call
    ``eval()``.

    Examples
    --------
    >>> import torch
    >>> from fastconv1d.torch import accelerate
    >>> model = torch.nn.Sequential(torch.nn.Conv1d(4, 8, 3), torch.nn.ReLU())
    >>> fast, report = accelerate(model.eval())
    >>> report.replaced, report.left
    (['0'], {})
    >>> x = torch.randn(1, 4, 20)
    >>> bool(torch.allclose(fast(x), model(x), atol=1e-6))
    True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model should be a torch.nn.Module, got {type(model).__name__}")
    if algorithm not in ("auto", "winograd"):
        raise ValueError(f"algorithm should be one of 'auto', 'winograd', got {algorithm!r}")
    if not inplace:
        model = copy.deepcopy(model, _derived(model))
    replaced, left = [], {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
            reason = _reason_to_leave(module)
            if reason is None:
                _exchange_class(module)
                module.algorithm = algorithm  # type: ignore[assignment]
                replaced.append(name)
            else:
                left[name] = reason
    return model, Report(replaced, left)


def _derived(model: nn.Module) -> dict[int, Any]:
    """A memo for deepcopy with the weights that old weight norms computed: torch copies no such."""
    return {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }


def _own_class(module: nn.Module) -> type:
    """The class of a module, or what it was before a parametrisation made its own."""
    if parametrize.is_parametrized(module):
        return type(module).__bases__[0]
    return type(module)


def _reason_to_leave(module: nn.Module) -> str | None:
    own = _own_class(module)
    if own not in (*_FAST, *_FAST.values()):
        return f"{own.__module__}.{own.__qualname__} is a subclass, whose forward may be another"
    if "forward" in module.__dict__:
        return "its forward is an attribute of the instance"
    for parameter in (*module.parameters(), *module.buffers()):
        if parameter.device.type != "cpu":
            return f"its parameters are on {parameter.device}"
        if parameter.dtype not in DTYPES:
            return f"its parameters are {parameter.dtype}"
    return None


def _exchange_class(module: nn.Module) -> None:
    own = _own_class(module)
    fast = _FAST.get(own, own)
    if own is not type(module):  # a class that torch made for this parametrised instance
        body = {k: v for k, v in vars(type(module)).items() if k not in ("__dict__", "__weakref__")}
        fast = type(f"Parametrized{fast.__name__}", (fast,), body)
    module.__class__ = fast
