"""LSTM of constant parameters: its matrices are packed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from .. import config
from ..kernels.product import Lstm
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
        sums: list[Any] = (
            [b[: 4 * hidden] + b[4 * hidden :] for b in bias[0]] if bias else [None] * count
        )
        quick = Lstm(weight, back, sums, self.backward)
        wanted = len(self.outputs)

        def run(x: Array, state: Array | None = None, cell: Array | None = None) -> Any:
            made = quick(x, state, cell, config.get_num_threads())
            if made is None:
                return whole(x, weight, back, bias[0] if bias else None, None, state, cell)
            return made[:wanted] if wanted > 1 else made[0]

        return run
