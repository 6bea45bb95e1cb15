"""What `accelerate` reports: who computes each convolution of a model, and why."""

from __future__ import annotations

import dis
import re
import types
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.lazy import LazyModuleMixin

from .layers import LONG, SMALL, Fast
from .operators import DTYPES

_FUNCTIONS = {
    "torch.nn.functional.conv1d": F.conv1d,
    "torch.nn.functional.conv_transpose1d": F.conv_transpose1d,
}
_NAMES = re.compile(r"conv(olution|1d|_transpose1d)")
_PLANES = (nn.Conv2d, nn.ConvTranspose2d, nn.Conv3d, nn.ConvTranspose3d)


class _Names(NamedTuple):
    replaced: list[str]
    left: dict[str, str]


class Report(_Names):
    """What `accelerate` did.

    Attributes
    ----------
    replaced : list of str
        The names of the modules replaced.
    left : dict of str to str
        The names of the modules with convolutions left to torch, with the reason and what helps.
    layers : dict of str to dict
        Of each module replaced: ``'class'``, ``'engine'`` of its calls without gradients
        (``'direct'``, ``'winograd'``, or ``'torch'``), ``'algorithm'``, and ``'unseen'``: which
        writes to its weight go unseen in eval mode, or None.

    Examples
    --------
    >>> from fastconv1d.torch import Report
    >>> print(Report(["encoder"], {"head": "its parameters are on cuda:0"}))
    1 replaced, 1 left
    head: its parameters are on cuda:0
    """

    layers: dict[str, dict[str, str | None]]

    def __new__(cls, replaced: list[str], left: dict[str, str]) -> Report:
        report = super().__new__(cls, replaced, left)
        report.layers = {}
        return report

    def __str__(self) -> str:
        lines = [f"{len(self.replaced)} replaced, {len(self.left)} left"]
        if not self.replaced and not self.left:
            lines.append(
                "no 1-D convolution was found, as a module or as a call in the code of one"
            )
        return "\n".join(lines + [f"{name}: {reason}" for name, reason in self.left.items()])

    def to_dict(self) -> dict[str, Any]:
        """Return the report as what JSON has.

        Returns
        -------
        dict
            ``'replaced'`` maps names of modules to what `layers` has of them, ``'left'`` to
            reasons.

        Examples
        --------
        >>> from fastconv1d.torch import Report
        >>> Report(["encoder"], {}).to_dict()
        {'replaced': {'encoder': {}}, 'left': {}}
        """
        return {
            "replaced": {name: dict(self.layers.get(name, {})) for name in self.replaced},
            "left": dict(self.left),
        }


def described(layer: Any) -> dict[str, str | None]:
    """What a report says of a layer that is exchanged."""
    with torch.no_grad():
        weight = layer.weight.numpy(force=True)
    geometry = layer._geometry(weight.shape[2]) if weight.ndim == 3 else None
    fits = geometry is not None and weight.dtype.char in "fd"
    return {
        "class": type(layer).__name__,
        "engine": layer._chosen(weight, geometry, layer.algorithm) if fits else "torch",
        "algorithm": layer.algorithm,
        "unseen": None
        if weight.nbytes <= SMALL
        else "a write through .data, a NumPy view or another process to few of its values, by "
        f"calls of fewer than {LONG} output positions: call eval() after it",
    }


def reason_to_leave(module: nn.Module, own: type) -> str | None:
    """Why a convolution of torch's stays torch's, or None."""
    name = f"{own.__module__}.{own.__qualname__}"
    if isinstance(module, LazyModuleMixin):
        return f"{name} is a subclass, without parameters yet: call the model once before"
    if own not in (nn.Conv1d, nn.ConvTranspose1d) and not issubclass(own, Fast):
        base = "FastConvTranspose1d" if issubclass(own, nn.ConvTranspose1d) else "FastConv1d"
        return (
            f"{name} is a subclass, whose forward may be another: derive it from "
            f"fastconv1d.torch.{base}, and what it asks super().forward is computed here"
        )
    for method in ("forward", "_conv_forward", "_output_padding"):
        if method in module.__dict__:
            return f"its {method} is an attribute of the instance, which is called as it is"
    for parameter in (*module.parameters(), *module.buffers()):
        if parameter.device.type != "cpu":
            return (
                f"its parameters are on {parameter.device}, not on the CPU: call model.cpu() before"
            )
        if parameter.dtype not in DTYPES:
            return (
                f"its parameters are {parameter.dtype}, not float32 or float64: call model.float() "
                "before"
            )
    return None


def reason_elsewhere(module: nn.Module) -> str | None:
    """Where else a module has convolutions that stay torch's, or None if it seems to have none."""
    if isinstance(module, torch.jit.ScriptModule):
        return _reason_in_script(module)
    if isinstance(module, _PLANES):
        kernel = tuple(getattr(module, "kernel_size", ()))
        if len(kernel) == 2 and 1 in kernel:
            return (
                f"a {type(module).__name__} with a kernel of {kernel}, which is one-dimensional: "
                "write it as a Conv1d over the other axis"
            )
        return f"a {type(module).__name__} is not one-dimensional"
    if isinstance(module, torch.fx.GraphModule):
        calls = [
            node.name
            for node in module.graph.nodes
            if node.op == "call_function" and _NAMES.search(str(node.target))
        ]
        if calls:
            return (
                f"its graph calls convolutions itself ({', '.join(calls[:3])}): accelerate the "
                "model that it was made of"
            )
        return None
    cls = type(module)
    if re.search(r"Conv(Transpose)?1d", cls.__name__) and cls.__module__.startswith("torch."):
        return f"a {cls.__module__}.{cls.__name__} computes in another way than torch.nn.Conv1d"
    functions = sorted(set(_called(cls)))
    if functions:
        return (
            f"its code calls {' and '.join(functions)}, which are not exchanged: use modules, "
            "torch.nn.Conv1d and ConvTranspose1d"
        )
    return None


def _reason_in_script(module: Any) -> str | None:
    try:
        text = str(module.graph)
    except (AttributeError, RuntimeError):  # it has no forward
        text = ""
    name = str(module.original_name)
    if re.search(r"Conv(Transpose)?1d$", name) or re.search(r"aten::_?conv", text):
        return (
            f"{name or 'it'} is compiled by torch.jit: accelerate the model that it was compiled of"
            ", and call that"
        )
    return None


def _called(cls: type) -> list[str]:
    """The functions of torch that convolve and that a class's own methods call by name."""
    found = []
    for base in cls.__mro__:
        if not base.__module__.startswith("torch."):
            for value in vars(base).values():
                if isinstance(value, types.FunctionType):
                    found += _called_in(value.__code__, value.__globals__)
    return found


def _called_in(code: types.CodeType, names: dict[str, Any]) -> list[str]:
    """The same of code: names and attributes of modules are followed, nothing is called."""
    found: list[str] = []
    value: Any = None
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            value = names.get(step.argval)
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            module = isinstance(value, types.ModuleType)
            value = getattr(value, step.argval, None) if module else None
        elif step.opname not in ("PRECALL", "PUSH_NULL"):
            value = None
        found += [name for name, function in _FUNCTIONS.items() if value is function]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found += _called_in(constant, names)
    return found
