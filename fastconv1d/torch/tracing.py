"""What a module's forward does, as a graph, and how to see that it still does that.

`trace` runs a forward once with stand-ins for tensors (torch.fx). What such a run cannot know is
refused: choices that depend on tensors, attributes that the code sets, random numbers and clocks,
changes in place to what others may read. `Watched` compares what forward read with what it was.
"""

from __future__ import annotations

import dis
import inspect
import operator
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils.weight_norm import WeightNorm

from .classes import own_class
from .layers import Fast, FastConv1d, FastConvTranspose1d
from .planes import FastConv2d

_SETS = {"STORE_ATTR", "DELETE_ATTR", "STORE_GLOBAL", "DELETE_GLOBAL", "STORE_SUBSCR"}
_CHANGING = {"random", "time", "datetime", "uuid", "secrets", "print", "open"}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_MISSING = object()
_LAYERS = (FastConv1d, FastConvTranspose1d, FastConv2d)
_lock = threading.Lock()


class Untraceable(Exception):
    """A forward that is not a fixed sequence of operations, and why."""


class Inner:
    """What ``super().forward(x)`` is in a subclass of a layer."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.forward = next(base for base in _LAYERS if isinstance(layer, base)).forward
        self.__name__ = self.__qualname__ = "inner"

    def __call__(self, x: Any) -> Any:
        return self.forward(self.layer, x)


class Graph(NamedTuple):
    """A traced forward."""

    graph: fx.Graph
    entered: list[nn.Module]  # whose code was run, the root first
    names: dict[int, str]
    arguments: int  # how many a call has


class _Tracer(fx.Tracer):
    def __init__(self) -> None:
        super().__init__()
        self.entered: list[nn.Module] = []
        self.n_arguments = 0
        self.thread = threading.get_ident()

    def is_leaf_module(self, m: Any, module_qualified_name: str) -> bool:
        own = own_class(m)
        if own in _LAYERS or has_hooks(m) or "forward" in m.__dict__:
            return True
        return super().is_leaf_module(m, module_qualified_name)

    # torch.fx changes how all modules are called while it traces, in other threads, too

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        if threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(self, m: Any, forward: Any, args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        name = self.path_of_module(m)
        if not self.is_leaf_module(m, name):
            self.entered.append(m)
        return super().call_module(m, forward, args, kwargs)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        """Stand-ins for what has no default; the rest is the default."""
        args: list[Any] = [self.root]
        for parameter in list(inspect.signature(root_fn).parameters.values())[1:]:
            if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                if parameter.default is parameter.empty:
                    raise Untraceable(f"forward takes {parameter}")
            elif parameter.default is parameter.empty:
                args.append(self.create_proxy("placeholder", parameter.name, (), {}))
                self.n_arguments += 1
        return root_fn, args

    def convolution(self, layer: Any, x: fx.Proxy) -> Any:
        """A call that gets to a layer through the code of a subclass."""
        return self.create_proxy("call_function", Inner(layer), (x,), {})


def old_norm(module: Any) -> Any:
    """The hook of torch.nn.utils.weight_norm, if a layer has that one and no other.

    None where it cannot set the weight, as that is a parameter again: torch raises then.
    """
    hooks = module._forward_pre_hooks
    if "weight" in module._parameters:
        return None
    if len(hooks) != 1 or any(getattr(module, name) for name in _HOOKS if "pre" not in name):
        return None
    if module._backward_pre_hooks or "forward" in module.__dict__:
        return None
    (hook,) = hooks.values()
    return hook if type(hook) is WeightNorm and hook.name == "weight" else None


def has_hooks(module: nn.Module) -> bool:
    return any(getattr(module, name) for name in _HOOKS)


def trace(module: nn.Module) -> Graph:
    """The graph of a module in eval mode; Untraceable says why there is none."""
    _check_code(module)
    before = [(d, dict(d)) for m in module.modules() for d in _dicts(m)]
    tracer = _Tracer()
    try:
        with _lock, _in_eval_mode(module), torch.no_grad():
            graph = tracer.trace(module)
    except Untraceable:
        raise
    except Exception as error:  # whatever the user's code raises with stand-ins
        raise Untraceable(_first_line(error)) from None
    finally:
        changed = [_take_back(d, attributes) for d, attributes in before]
    if any(changed):
        raise Untraceable("its forward sets attributes")
    for m in (module, *tracer.entered):
        _check_code(m)
    _check_graph(graph, module)
    names = {id(m): name for name, m in module.named_modules()}
    return Graph(graph, [module, *tracer.entered], names, tracer.n_arguments)


def _dicts(module: nn.Module) -> list[dict[str, Any]]:
    return [vars(module), module._parameters, module._buffers, module._modules]


def _take_back(now: dict[str, Any], before: dict[str, Any]) -> bool:
    """Give a module the attributes of before; return whether others were there."""
    if now.keys() == before.keys() and all(now[k] is v for k, v in before.items()):
        return False
    now.clear()
    now.update(before)
    return True


@contextmanager
def _in_eval_mode(module: nn.Module) -> Iterator[None]:
    modes = [(m, m.training) for m in module.modules()]
    try:
        for m, _ in modes:
            m.__dict__["training"] = False
        yield
    finally:
        for m, mode in modes:
            m.__dict__["training"] = mode


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"


def _check_code(module: nn.Module) -> None:
    for code in codes_of(type(module)):
        for step in dis.get_instructions(code):
            if step.opname in _SETS:
                raise Untraceable(f"{code.co_name} of {type(module).__name__} sets {step.argval}")
            if step.opname == "LOAD_GLOBAL" and step.argval in _CHANGING:
                raise Untraceable(f"{code.co_name} of {type(module).__name__} asks {step.argval}")


def codes_of(cls: Any) -> list[types.CodeType]:
    """The code that a call of forward may run, of the class's own methods."""
    found: list[types.CodeType] = []
    names, seen = ["forward"], {"forward"}
    while names:
        name = names.pop()
        for base in cls.__mro__:
            function = inspect.unwrap(vars(base)[name]) if _is_function(base, name) else None
            if function is None or base.__module__.startswith(("torch.nn.modules", "fastconv1d.")):
                continue
            for code in _nested(function.__code__):
                found.append(code)
                new = set(code.co_names) - seen
                seen |= new
                names += new
    return found


def _is_function(base: type, name: str) -> bool:
    return isinstance(vars(base).get(name), types.FunctionType)


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


# ---- in place -----------------------------------------------------------------------------------

_IN_PLACE = {
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv,
    operator.imod, operator.ipow, operator.iand, operator.ior, operator.ixor,
    operator.imatmul, operator.setitem,
}  # fmt: skip
_WITH_INPLACE = {
    "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "silu", "mish", "hardswish", "hardtanh",
    "hardsigmoid", "threshold", "rrelu", "dropout", "alpha_dropout", "dropout1d",
    "feature_alpha_dropout",
}  # fmt: skip
_FRESH = (
    nn.Conv1d, nn.ConvTranspose1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.Linear,
    nn.GroupNorm, nn.LayerNorm, nn.MaxPool1d, nn.AvgPool1d, nn.MaxPool2d, nn.AvgPool2d,
)  # fmt: skip


def is_in_place(node: fx.Node, module: nn.Module) -> bool:
    """Whether an operation writes to its first argument."""
    if node.op == "call_module":
        return bool(getattr(module.get_submodule(str(node.target)), "inplace", False))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return (
        node.target in _IN_PLACE
        or (name.endswith("_") and not name.endswith("__"))
        or bool(node.kwargs.get("inplace") or node.kwargs.get("out") is not None)
        or (name in _WITH_INPLACE and any(arg is True for arg in node.args[1:]))
    )


def _check_graph(graph: fx.Graph, module: nn.Module) -> None:
    for node in graph.nodes:
        if node.op == "get_attr" and "_tensor_constant" in str(node.target):
            raise Untraceable("its forward makes a tensor without its inputs")
        if node.op in ("call_module", "call_function", "call_method") and is_in_place(node, module):
            source = node.args[0] if node.args else None
            if not isinstance(source, fx.Node) or len(source.users) > 1:
                raise Untraceable(f"{node.name} changes in place what others read")
            if not _is_fresh(source, module):
                raise Untraceable(f"{node.name} changes in place what may be another's")


def _is_fresh(node: fx.Node, module: nn.Module) -> bool:
    """Whether the value is no part of another one, whichever way it was made."""
    if node.op == "call_module":
        made = module.get_submodule(str(node.target))
        return isinstance(made, _FRESH) or (is_in_place(node, module))
    return isinstance(node.target, Inner) or node.target in (
        operator.add, operator.iadd, operator.mul, torch.add, torch.conv1d, torch.conv_transpose1d,
        torch.conv2d,
    )  # fmt: skip


# ---- whether all is as it was -------------------------------------------------------------------


class Watched:
    """The modules whose code is not run any more, and what it read."""

    def __init__(self, root: nn.Module, entered: list[nn.Module], leaves: list[Any]) -> None:
        self.root = root
        self.modules = [
            (m, m.__dict__, type(m)) for m in {id(m): m for m in (*entered[1:], *leaves)}.values()
        ]
        self.normed = [(m, m._forward_pre_hooks, old_norm(m)) for m, *_ in self.modules
                       if old_norm(m) is not None]  # fmt: skip
        self.modules = [each for each in self.modules if old_norm(each[0]) is None]
        self.read = [
            (m.__dict__, type(m), type(m).forward, tuple(m._modules.items()), _read_by(m))
            for m in {id(m): m for m in entered}.values()
        ]

    def are_as_they_were(self) -> bool:
        if self.root.training or torch_module._has_any_global_hook():
            return False
        for module, d, cls in self.modules:
            if (
                d["training"]
                or d["_forward_hooks"]
                or d["_forward_pre_hooks"]
                or d["_backward_hooks"]
                or d["_backward_pre_hooks"]
                or type(module) is not cls
                or "forward" in d
            ):
                return False
        for module, hooks, norm in self.normed:
            if module.training or old_norm(module) is not norm or len(hooks) != 1:
                return False
        for d, cls, forward, children, attributes in self.read:
            if cls.forward is not forward or len(d["_modules"]) != len(children):
                return False
            modules = d["_modules"]
            for name, child in children:
                if modules.get(name) is not child:
                    return False
            for name, value, copied in attributes:
                now = d.get(name, _MISSING)
                if now is not value or (copied is not None and not _same_items(now, copied)):
                    return False
        return True


def _read_by(module: nn.Module) -> list[tuple[str, Any, Any]]:
    """The attributes of the instance that its code names."""
    names: set[str] = set()
    for code in codes_of(type(module)):
        names.update(code.co_names)
        names.update(c for c in code.co_consts if isinstance(c, str))
    names -= {"training", "_modules", "_parameters", "_buffers"}
    found = []
    for name in sorted(names):
        value = module.__dict__.get(name, _MISSING)
        copied: Any = None
        if isinstance(value, dict):
            copied = dict(value)
        elif isinstance(value, (list, set)):
            copied = list(value)
        found.append((name, value, copied))
    return found


def _same_items(now: Any, copied: Any) -> bool:
    if len(now) != len(copied):
        return False
    if isinstance(copied, dict):
        return all(now.get(k, _MISSING) is v for k, v in copied.items())
    return all(a is b for a, b in zip(now, copied, strict=True))


def layer_of(node: Any, module: nn.Module) -> Any:
    """The convolution that a node computes, or None."""
    if not isinstance(node, fx.Node):
        return None
    if isinstance(node.target, Inner):
        return node.target.layer
    if node.op != "call_module":
        return None
    made = module.get_submodule(str(node.target))
    own = own_class(made)
    return made if own in _LAYERS and isinstance(made, Fast) else None
