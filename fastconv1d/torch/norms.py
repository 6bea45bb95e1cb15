"""Batch norms in eval mode, as part of the convolutions before them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from .watch import is_plain


class Part(NamedTuple):
    """Some channels of a batch norm."""

    first: int
    end: int
    channels: int  # all of the norm's

    def of(self, values: Any) -> Any:
        if values is None:
            return None
        if values.shape != (self.channels,):
            raise ValueError(f"a norm of {self.channels} channels has values for others")
        return values[self.first : self.end]


class PartOfNorm:
    """A batch norm of some of its channels, of what is joined with the others afterwards."""

    def __init__(self, norm: Any, part: Part) -> None:
        self.norm, self.part = norm, part
        self.__name__ = self.__qualname__ = "part_of_norm"

    def __call__(self, x: Tensor) -> Tensor:
        norm = self.norm
        if x.dim() != (3 if isinstance(norm, nn.BatchNorm1d) else 4):
            raise ValueError("torch joins other axes than channels")
        mean, var, weight, bias = map(
            self.part.of, (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, norm.eps)


def folded(
    norm: Any, part: Part | None, w: Any, b: Any, groups: int, is_scatter: bool
) -> tuple[Any, Any]:
    """The weight and the bias of a layer and the batch norm after it, in eval mode."""
    if not all(t is None or is_plain(t) for t in (norm.weight, norm.bias)):
        raise TypeError
    values: list[Any] = [
        None if t is None else t.numpy(force=True)
        for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    ]
    mean, var, factor, offset = values if part is None else map(part.of, values)
    channels = (w.shape[1] * groups if is_scatter else w.shape[0],)
    if not all(t is None or t.shape == channels for t in (mean, var, factor, offset)):
        raise ValueError
    mean, var = mean.astype(np.float64), var.astype(np.float64)
    scale = 1 / np.sqrt(var + norm.eps)
    if factor is not None:
        scale = scale * factor
    shift = -mean * scale if b is None else (b - mean) * scale
    if offset is not None:
        shift = shift + offset
    if is_scatter:
        factors = scale.reshape(groups, 1, -1)
        w64 = w.reshape(groups, -1, *w.shape[1:]) * factors[..., None]
        return w64.reshape(w.shape).astype(w.dtype), shift.astype(w.dtype)
    return (w * scale.reshape(-1, *(1,) * (w.ndim - 1))).astype(w.dtype), shift.astype(w.dtype)
