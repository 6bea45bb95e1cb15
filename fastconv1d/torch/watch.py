"""Who computes a call: torch wherever something of torch's has to see a convolution."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad, profiler
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

_disabled = ContextVar("fastconv1d_torch_disabled", default=False)
_lock = threading.Lock()
_blocks = 0  # entered anywhere
anywhere_disabled = False  # whether there are some: what compiled graphs ask, and guard


@contextmanager
def disabled() -> Iterator[None]:
    """Let torch compute accelerated layers inside a ``with`` block, as if they were its own.

    Yields
    ------
    None

    Notes
    -----
    It holds for the calls of this thread (and of this asyncio task), and may be nested, or decorate
    a function. `torch.compile` reads it anew at each call: a compiled model is compiled once more
    with torch's convolutions while a block is entered, in any thread.

    Examples
    --------
    >>> import torch
    >>> from fastconv1d.torch import FastConv1d, disabled
    >>> layer, x = FastConv1d(4, 8, 3), torch.randn(1, 4, 20)
    >>> with disabled():
    ...     y = layer(x)
    >>> bool(torch.equal(y, torch.nn.functional.conv1d(x, layer.weight, layer.bias)))
    True
    """
    token = _disabled.set(True)
    _count(1)
    try:
        yield
    finally:
        _count(-1)
        _disabled.reset(token)


def _count(step: int) -> None:
    global _blocks, anywhere_disabled  # noqa: PLW0603
    with _lock:
        _blocks += step
        anywhere_disabled = _blocks > 0


def _nothing() -> Any:
    return None


# Private names of torch: what a version does not have is not asked.
_is_autocast_enabled = torch.is_autocast_enabled
_tracing_state = getattr(torch._C, "_get_tracing_state", _nothing)
_dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", _nothing)
_function_modes = getattr(torch._C, "_len_torch_function_stack", _nothing)
_transforms = getattr(getattr(torch._C, "_functorch", None), "peek_interpreter_stack", _nothing)
_is_exporting = getattr(torch.compiler, "is_exporting", _nothing)


def torch_watches() -> Any:
    """Whether torch has to see an eager call of its own, or computes it in another dtype."""
    return (
        _is_autocast_enabled("cpu")
        or _tracing_state() is not None
        or getattr(forward_ad, "_current_level", -1) >= 0
        or _transforms() is not None
        or _dispatch_modes()
        or F.conv1d is not torch.conv1d  # somebody counts or replaces the functions
        or F.conv_transpose1d is not torch.conv_transpose1d
        or F.conv2d is not torch.conv2d
        or (_function_modes() and _modes_see_convolutions())
        or (anywhere_disabled and _disabled.get())
    )


def torch_watches_gradients() -> Any:
    """Whether what runs inside of a backward pass has to be torch's."""
    return (
        _tracing_state() is not None
        or getattr(forward_ad, "_current_level", -1) >= 0
        or _transforms() is not None
        or _dispatch_modes()
        or (anywhere_disabled and _disabled.get())
    )


def torch_exports() -> bool:
    """Whether a graph in the making should have torch's convolution: others are to read it."""
    return bool(anywhere_disabled or _is_exporting())


# Function modes that change no convolution: that of `torch.set_default_device`, and our own.
TRANSPARENT: set[type] = {DeviceContext}


def _modes_see_convolutions() -> bool:
    return any(type(mode) not in TRANSPARENT for mode in _get_current_function_mode_stack())


def profiling() -> bool:
    """Whether a profiler should get a row for a call."""
    return bool(getattr(profiler, "_is_profiler_enabled", False))


def is_plain(tensor: Any) -> bool:
    """Whether this is a tensor of one of torch's own two classes, which have no methods to ask."""
    kind = type(tensor)
    return kind is torch.Tensor or kind is nn.Parameter
