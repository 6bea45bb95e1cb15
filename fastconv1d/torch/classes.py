"""Classes in the place of others: a module keeps everything but its class, and gets it back.

The class that a module gets names its own as ``_torchs``. For torch's layers they are written down
(`layers`, `planes`), and equal to torch's, so that tools which look modules up by ``type(module)``
find them. For subclasses and other modules they are made when needed: in
``class Own(CausalConv1d, FastConv1d)`` it is `FastConv1d` that ``super().forward`` means in
CausalConv1d's code.
"""

from __future__ import annotations

import dis
import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.utils import parametrize


class EqualToTorchs(type):
    """The class of the layers' classes, which are equal to torch's, though not the same.

    Tools look layers up by ``type(module)``: torch.ao.quantization and its fuse_modules, counters
    of operations, functions for `torch.nn.Module.apply`.
    """

    def __eq__(cls, other: object) -> bool:
        return _looked_up(cls) is _looked_up(other)

    def __hash__(cls) -> int:
        return type.__hash__(_looked_up(cls))


def _looked_up(cls: Any) -> Any:
    if not isinstance(cls, EqualToTorchs) or "_made_of" in cls.__dict__:
        return cls  # torch.compile looks for a class in the order of resolution by equality
    return cls.__dict__.get("_torchs", cls)


def own_class(module: nn.Module) -> Any:
    """The class of a module, or what it was before a parametrisation made its own."""
    if parametrize.is_parametrized(module):
        return type(module).__bases__[0]
    return type(module)


def class_of(module: nn.Module, own: type) -> type:
    """The class that a module gets in the place of its own, or of what that was parametrised."""
    made = type(module)
    if made is own_class(module):
        return own
    body = {k: v for k, v in vars(made).items() if k not in ("__dict__", "__weakref__")}
    return type(own)(f"Parametrized{own.__name__}", (own,), body)


def give_back(module: nn.Module) -> None:
    """Make a module what it was, if its class was exchanged."""
    own = own_class(module)
    torchs = own.__dict__.get("_torchs") if isinstance(own, EqualToTorchs) else None
    if torchs is not None:
        for name in ("algorithm", "_takes_lines", "_pack", "_program", "__module__"):
            module.__dict__.pop(name, None)
        module.__class__ = class_of(module, torchs)


# ---- classes made for others ---------------------------------------------------------------------


# What is put around a forward: called as ``around(forward, module, *args, **kwargs)``.
AROUND: dict[str, Callable[..., Any]] = {}


def derived(own: type, bases: tuple[type, ...], kinds: tuple[str, ...] = ()) -> Any:
    """A class after `own` whose ``super()`` finds `bases`; the same one for the same arguments.

    Parameters
    ----------
    own : type
        A subclass of torch.nn.Module.
    bases : tuple of type
        Of classes of `EqualToTorchs`, in the order of resolution.
    kinds : tuple of str
        Keys of `AROUND`: what is put around own's forward, the innermost first.

    Raises
    ------
    TypeError
        If Python has no such class.
    """
    made: Any
    for made in own.__subclasses__():
        if made.__dict__.get("_made_of") == (own, bases, kinds):
            return made
    body: dict[str, Any] = {
        "_torchs": own,
        "_made_of": (own, bases, kinds),
        "__module__": own.__module__,
        "__qualname__": own.__qualname__,
        "__doc__": own.__doc__,
        "__reduce_ex__": _reduced,
    }
    made = EqualToTorchs(own.__name__, (own, *bases), body)
    if kinds:
        made.forward = _surrounded(made, own, kinds)
    return made


def _surrounded(made: Any, own: Any, kinds: tuple[str, ...]) -> Any:
    arounds, partial = [AROUND[kind] for kind in kinds], functools.partial

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(self, made):  # it was given back, and kept this method
            return own.forward(self, *args, **kwargs)
        call = super(made, self).forward
        for around in arounds:
            call = partial(around, call, self)
        return call(*args, **kwargs)

    # torch.jit.script finds own's source by the wrapping, and the names in it by the globals
    theirs = inspect.unwrap(own.forward).__globals__
    moved = types.FunctionType(
        forward.__code__, theirs, "forward", forward.__defaults__, forward.__closure__
    )
    moved.__kwdefaults__ = forward.__kwdefaults__
    return functools.wraps(own.forward)(moved)


def _reduced(self: Any, protocol: Any) -> tuple[Any, ...]:
    """As pickles have it: the class is made again where the pickle is read."""
    made_of = next(vars(cls)["_made_of"] for cls in type(self).__mro__ if "_made_of" in vars(cls))
    return _made_again, made_of, object.__reduce_ex__(self, 2)[2]


def _made_again(own: type, bases: tuple[type, ...], kinds: tuple[str, ...]) -> Any:
    made = derived(own, bases, kinds)
    return made.__new__(made)


def reason_against(own: Any) -> str | None:
    """Why no class should be made after this one, or None."""
    name = f"{own.__module__}.{own.__qualname__}"
    if type(own) is not type:
        return f"{name} has a metaclass of its own"
    for method in ("__reduce__", "__reduce_ex__", "__getattribute__"):
        if getattr(own, method) is not getattr(object, method):
            return f"{name} has a {method} of its own"
    if any("__init_subclass__" in vars(base) for base in own.__mro__[:-1]):
        return f"{name} looks at its subclasses"
    for function in functions_of(own):
        if _asks_for_the_class(function.__code__):
            return f"{name} asks for its class in {function.__name__}"
    return None


def functions_of(own: type) -> list[types.FunctionType]:
    """The functions of a class that torch did not write, and what decorators put around them."""
    return [
        function
        for base in own.__mro__
        if not base.__module__.startswith(("torch.nn.", "torch.ao.", "fastconv1d."))
        for value in vars(base).values()
        if isinstance(value, types.FunctionType)
        for function in with_decorated(value)
    ]


def with_decorated(function: types.FunctionType) -> list[types.FunctionType]:
    """A function, and the one that it was put around."""
    try:
        inner = inspect.unwrap(function)
    except ValueError:  # it is around itself
        return [function]
    if inner is function or not isinstance(inner, types.FunctionType):
        return [function]
    return [function, inner]


def _asks_for_the_class(code: types.CodeType) -> bool:
    """Whether ``self.__class__`` or ``type(...)`` may be handed to super, which then never ends."""
    asks = "__class__" in code.co_names or (
        "super" in code.co_names
        and any(s.opname.startswith("LOAD_GLOBAL") and s.argval == "type" for s in
                dis.get_instructions(code))
    )  # fmt: skip
    nested = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return asks or any(map(_asks_for_the_class, nested))
