"""Max pooling of planes in fused programs: torch's looks at one element after the other.

Torch's time over ours, float32 on one thread with vectors of 16 lanes: 9 to 32 for planes of 112 by
112 and more, with windows of 2 by 2 and 3 by 3, 3.7 to 5.3 from 7 by 7 (3 by 3) and 28 by 28 (2 by
2) on, 0.5 to 1.1 for windows of 2 by 2 in planes of 4 to 16 columns; of one column, (K, 1) windows
of what `torch.nn.Conv2d` with kernels of (K, 1) makes, 1.6 to 2.5 for 4 to 64 rows and 12 to 20 for
more or many items. Pooling of lines is fast there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ..core import arrays
from ..core.network import Window, pooled
from .operators import num_threads
from .planes import is_nchw, two
from .watch import is_plain

_UNFIT = (TypeError, ValueError, RuntimeError, MemoryError)
LEAST = 8192  # elements of an input: 0.91 at 4,608
NARROW = 20  # columns of planes whose windows should have more elements than 4
_Settings = tuple[Any, Any, Any, Any, Any, Any]


class Pool:
    """A max pooling of planes: ``pool(x)``."""

    def __init__(self, run: Callable[..., Any], read: Callable[[], _Settings]) -> None:
        self.run, self.read = run, read
        self.__name__ = self.__qualname__ = "pool"

    def __call__(self, x: Any) -> Any:
        try:
            y = self._computed(x)
        except _UNFIT:
            y = None
        return self.run(x) if y is None else y

    def _computed(self, x: Any) -> Tensor | None:
        if not is_plain(x) or x.dim() not in (3, 4) or x.numel() < LEAST:
            return None
        if not (x.is_cpu and x.dtype in (torch.float32, torch.float64)):
            return None
        if not (x.is_contiguous() and is_nchw(x)):
            return None
        found = windows_of(self.read(), (x.shape[-2], x.shape[-1]))
        if found is None:
            return None
        windows, sizes = found
        a = x.numpy(force=True)
        y = arrays.new((*a.shape[:-2], *sizes), a.dtype)
        threads = num_threads()
        if a.shape[-1] == 1 and sizes[1] == 1:  # one column is a row
            pooled(a[..., 0], windows[:1], y[..., 0], largest=True, threads=threads)
        elif a.shape[-1] < NARROW and windows[0][0] * windows[1][0] <= 4:
            return None
        else:
            pooled(a, windows, y, largest=True, threads=threads)
        return torch.from_numpy(y)


def windows_of(
    settings: _Settings, sizes: tuple[int, int]
) -> tuple[list[Window], tuple[int, int]] | None:
    """The windows along both axes and how many there are; None for what torch may refuse."""
    size, stride, padding, dilation, ceil, indices = settings
    if type(ceil) is not bool or indices is not False:
        return None
    kernel = two(size)
    steps = kernel if stride is None or stride in ((), []) else two(stride)
    windows, counts = [], []
    for taps, step, pad, apart, length in zip(
        kernel, steps, two(padding), two(dilation), sizes, strict=True
    ):
        span = apart * (taps - 1) + 1
        if min(taps, step, apart) < 1 or not 0 <= pad <= taps // 2:
            return None
        count = (length + 2 * pad - span + (step - 1 if ceil else 0)) // step + 1
        if ceil and (count - 1) * step >= length + pad:  # it would start in the padding behind
            count -= 1
        if count < 1:
            return None
        windows.append((taps, step, apart, pad))
        counts.append(count)
    return windows, (counts[0], counts[1])


def pool_of(node: fx.Node, root: nn.Module) -> tuple[Pool, Any] | None:
    """The max pooling of planes that a node is, and its module, if there is one; otherwise None."""
    if not node.args or not isinstance(node.args[0], fx.Node):
        return None
    if node.op == "call_module":
        module: Any = root.get_submodule(str(node.target))
        if type(module) is not nn.MaxPool2d or len(node.args) != 1 or node.kwargs:
            return None
        return Pool(module, lambda: _settings_of(module)), module
    if node.target is not F.max_pool2d or node.all_input_nodes != [node.args[0]]:
        return None
    given: Any = node.args[1:]
    kwargs: Any = dict(node.kwargs)
    try:
        settings = _arguments(*given, **kwargs)
    except TypeError:
        return None
    return Pool(lambda x: F.max_pool2d(x, *given, **kwargs), lambda: settings), None


def _settings_of(module: nn.MaxPool2d) -> _Settings:
    m = module
    return m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices


def _arguments(
    kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: Any = False, return_indices: Any = False,
) -> _Settings:  # fmt: skip
    return kernel_size, stride, padding, dilation, ceil_mode, return_indices
