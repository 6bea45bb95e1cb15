"""Products of quantised values with constant matrices, in whole numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import config
from ..kernels.product import ByteProduct
from .layers import Fused

Array = NDArray[Any]


@dataclass
class QuantisedProduct(Fused):
    """``rounded((x - zero) @ weight.T * scale) + bias`` of bytes x, int8 if `signed`."""

    weight: Array = field(default_factory=lambda: np.zeros((1, 1), np.int8))
    scale: Array = field(default_factory=lambda: np.ones(1, np.float32))  # of x times each column's
    zero: int = 0
    signed: bool = False
    step: float = 0.0  # results are multiples of it, within the limits
    limits: tuple[int, int] = (0, 0)
    bias: Array | None = None

    def build(self) -> Callable[..., Any]:
        zero = self.zero + 128 * self.signed  # signed bytes are taken as unsigned ones, 128 larger
        limits = map(float, self.limits)
        product = ByteProduct(self.weight, self.scale, zero, self.bias, self.step, *limits)
        terms, signed = self.weight.shape[1], self.signed

        def run(x: Array) -> Array:
            if x.ndim == 0 or x.shape[-1] != terms:
                raise ValueError(f"expected an input of size [..., {terms}], got {list(x.shape)}")
            if signed:
                x = np.bitwise_xor(np.ascontiguousarray(x).view(np.uint8), 128)
            return product(x, config.get_num_threads())

        return run
