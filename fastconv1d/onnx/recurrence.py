"""LSTM of constant parameters: its matrices are packed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import config
from ..kernels.product import Product, lstm
from .layers import Fused
from .registry import find

Array = NDArray[Any]


@dataclass
class Recurrent(Fused):
    """An LSTM without limits, peepholes and lengths, of the usual activations.

    The inputs are x, the first states and the first cells, "" for zeros.
    """

    backward: tuple[bool, ...] = (False,)
    parameters: list[Array] = field(default_factory=list)  # W, R and B; B may be missing

    def build(self) -> Callable[..., Any]:
        inner = self.replaced[0]
        build = find(inner)
        assert build is not None
        whole = build(inner)  # for what the kernel does not take, and its errors
        weight, back, *bias = self.parameters
        count, hidden = len(self.backward), back.shape[2]
        sums = [b[: 4 * hidden] + b[4 * hidden :] for b in bias[0]] if bias else [None] * count
        into = [Product(np.ascontiguousarray(w), b) for w, b in zip(weight, sums, strict=True)]
        again = [Product(np.ascontiguousarray(r)) for r in back]
        wanted = len(self.outputs)

        def run(x: Array, state: Array | None = None, cell: Array | None = None) -> Any:
            given = [v for v in (state, cell) if v is not None]
            fits = x.ndim == 3 and x.shape[2] == weight.shape[2] and x.dtype == back.dtype
            shape = (count, x.shape[1], hidden) if fits else ()
            if not fits or any(v.shape != shape or v.dtype != x.dtype for v in given):
                return whole(x, weight, back, *(bias or [None]), None, state, cell)
            y = np.empty((x.shape[0], *shape), x.dtype)
            cells = np.zeros(shape, x.dtype) if cell is None else np.array(cell, order="C")
            first = np.zeros(shape, x.dtype) if state is None else np.ascontiguousarray(state)
            x = np.ascontiguousarray(x)
            last = np.array(first)
            for i, backward in enumerate(self.backward):
                gates = into[i](x, None, None, config.get_num_threads())
                lstm(again[i], gates, first[i], cells[i], y, i, backward)
                if len(y):
                    last[i] = y[0 if backward else -1, i]
            return (y, last, cells)[:wanted] if wanted > 1 else y

        return run
