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

from .classes import functions_of, own_class, with_decorated
from .layers import LONG, SMALL, Fast
from .operators import DTYPES

_FUNCTIONS = {
    "torch.nn.functional.conv1d": F.conv1d,
    "torch.nn.functional.conv_transpose1d": F.conv_transpose1d,
}
_PLANES_FUNCTION = {"torch.nn.functional.conv2d": F.conv2d}
_OF_MORE = _PLANES_FUNCTION | {
    f"torch.nn.functional.{function.__name__}": function
    for function in (F.conv_transpose2d, F.conv3d, F.conv_transpose3d)
}
_NAMES = re.compile(r"conv(olution|1d|_transpose1d)")
_PLANES = (nn.Conv2d, nn.ConvTranspose2d, nn.Conv3d, nn.ConvTranspose3d)


_HINT = ": accelerate(model, conv2d=True) takes it"


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
        writes to its weight go unseen in eval mode, or None; perhaps ``'left'``, which calls torch
        computes as fast, and ``'inputs'``, which are taken. Modules whose code calls functions have
        these as ``'calls'``.
    fused : dict of str to dict
        With ``fuse=True``: of each module whose forward was fused, its convolutions and what each
        takes on, in the order of computation.
    unfused : dict of str to str
        The modules whose forward could not be, with the reason; their children were tried.
    checked : bool
        Whether the fused model was compared with torch's on the example inputs.

    Examples
    --------
    >>> from fastconv1d.torch import Report
    >>> print(Report(["encoder"], {"head": "its parameters are on cuda:0"}))
    1 replaced, 1 left
    head: its parameters are on cuda:0
    """

    layers: dict[str, dict[str, str | None]]
    fused: dict[str, dict[str, list[str]]]
    unfused: dict[str, str]
    checked: bool

    def __new__(cls, replaced: list[str], left: dict[str, str]) -> Report:
        report = super().__new__(cls, replaced, left)
        report.layers, report.fused, report.unfused, report.checked = {}, {}, {}, False
        return report

    def __str__(self) -> str:
        lines = [f"{len(self.replaced)} replaced, {len(self.left)} left"]
        if not self.replaced and not self.left:
            lines.append(
                "no 1-D convolution was found, as a module or as a call in the code of one"
            )
        lines += [f"{name}: {reason}" for name, reason in self.left.items()]
        if self.fused:
            chains = sum(map(len, self.fused.values()))
            checked = "checked on the example inputs" if self.checked else "not checked"
            lines.append(f"{chains} convolutions fused with their neighbours, {checked}")
        lines += [f"{name or 'the model'} not fused: {why}" for name, why in self.unfused.items()]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as what JSON has.

        Returns
        -------
        dict
            ``'replaced'`` maps names of modules to what `layers` has of them, ``'left'`` to
            reasons; ``'fused'``, ``'unfused'`` and ``'checked'`` are the attributes.

        Examples
        --------
        >>> from fastconv1d.torch import Report
        >>> Report(["encoder"], {}).to_dict()
        {'replaced': {'encoder': {}}, 'left': {}, 'fused': {}, 'unfused': {}, 'checked': False}
        """
        return {
            "replaced": {name: dict(self.layers.get(name, {})) for name in self.replaced},
            "left": dict(self.left),
            "fused": {name: dict(chains) for name, chains in self.fused.items()},
            "unfused": dict(self.unfused),
            "checked": self.checked,
        }


def described(module: Any) -> dict[str, str | None]:
    """What a report says of a module whose class was exchanged."""
    own = own_class(module)
    *_, kinds = own.__dict__.get("_made_of", ((),))
    asked = called(own.__dict__.get("_torchs", nn.Identity), "calls of planes" in kinds)
    told: dict[str, str | None] = {"class": type(module).__name__}
    if isinstance(module, Fast):
        told.update(_described_layer(module))
    if asked:
        told["calls"] = ", ".join(asked)
    return told


def _described_layer(layer: Any) -> dict[str, str | None]:
    with torch.no_grad():
        geometry = layer._geometry_for(layer.weight)
        weight = layer.weight.numpy(force=True)
    fits = geometry is not None and weight.dtype.char in "fd"
    told = {
        "engine": layer._chosen(weight, geometry, layer.algorithm) if fits else "torch",
        "algorithm": layer.algorithm,
        "unseen": None
        if weight.nbytes <= SMALL
        else "a write through .data, a NumPy view or another process to few of its values, by "
        f"calls of fewer than {LONG} output positions: call eval() after it",
    }
    products = layer._products(weight.shape, geometry) if fits else None
    if products is not None:
        told["left"] = products.described()
    if isinstance(layer, nn.Conv2d) and layer._takes_lines:
        told["inputs"] = "those whose axis beside the kernel has one element; others are torch's"
    return told


def reason_to_leave(module: nn.Module) -> str | None:
    """Why a convolution of torch's or of a subclass stays torch's, or None."""
    if isinstance(module, LazyModuleMixin):
        name = f"{type(module).__module__}.{type(module).__qualname__}"
        return f"{name} is a subclass, without parameters yet: call the model once before"
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
    return reason_of_instance(module)


def reason_of_instance(module: nn.Module) -> str | None:
    """What of an instance keeps its class from being asked, or None."""
    for method in ("forward", "_conv_forward", "_output_padding"):
        if method in module.__dict__:
            return f"its {method} is an attribute of the instance, which is called as it is"
    return None


def is_line(module: Any) -> bool:
    """Whether the kernel of a convolution of two dimensions has one."""
    kernel = tuple(getattr(module, "kernel_size", ()))
    return len(kernel) == 2 and 1 in kernel and kernel != (1, 1)


def reason_elsewhere(module: nn.Module) -> str | None:
    """Where else a module has convolutions that stay torch's, or None if it seems to have none."""
    if isinstance(module, torch.jit.ScriptModule):
        return _reason_in_script(module)
    if isinstance(module, _PLANES):
        if is_line(module):
            return (
                f"a {type(module).__name__} with a kernel of {tuple(module.kernel_size)}, which is "
                "one-dimensional: write it as a Conv1d over the other axis"
                f"{', or' + _HINT[1:] if isinstance(module, nn.Conv2d) else ''}"
            )
        hint = _HINT if isinstance(module, nn.Conv2d) else ""
        return f"a {type(module).__name__} is not one-dimensional{hint}"
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
    more = sorted(set(_called(cls, _OF_MORE)))
    if not more:
        return None
    hint = _HINT if set(more) <= set(_PLANES_FUNCTION) else ""
    return f"its code calls {' and '.join(more)}, not one-dimensional{hint}"


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


def called(cls: type, conv2d: bool) -> list[str]:
    """The functions of torch that are computed here and that a class's code calls."""
    functions = _FUNCTIONS | _PLANES_FUNCTION if conv2d else _FUNCTIONS
    return sorted(set(_called(cls, functions)))


def asks_torchs_class(cls: type) -> bool:
    """Whether calls of a layer get to a method of torch's class, as far as code shows."""
    functions = functions_of(cls)
    if not {"forward", "_conv_forward"} & {function.__name__ for function in functions}:
        return True
    return any(
        {"super", "_conv_forward", "Conv1d", "ConvTranspose1d"} & set(function.__code__.co_names)
        for function in functions
        if function.__name__ != "__init__"
    )


def _called(cls: type, functions: dict[str, Any]) -> list[str]:
    """The functions that a class's own methods call by name."""
    return [
        name
        for function in functions_of(cls)
        for name in _called_in(function.__code__, function.__globals__, functions)
    ]


def _called_in(
    code: types.CodeType, names: dict[str, Any], functions: dict[str, Any], depth: int = 2
) -> list[str]:
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
        found += [name for name, function in functions.items() if value is function]
        if depth and isinstance(value, types.FunctionType) and _is_theirs(value):
            for function in with_decorated(value):
                found += _called_in(function.__code__, function.__globals__, functions, depth - 1)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found += _called_in(constant, names, functions, depth)
    return found


def _is_theirs(function: types.FunctionType) -> bool:
    """Whether neither torch nor this library wrote a function."""
    return not (function.__module__ or "").startswith(("torch.", "fastconv1d."))
