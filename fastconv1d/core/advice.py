"""A line of advice on a layer, for `explain`; every number has its measurement in docs/speed.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from . import fft
from .chosen import expected
from .fast import direct_time, fft_time
from .geometry import Geometry

# What transforms, and minimal filtering, are expected to gain before they are advised: the estimate
# of the first may be half of it off.
_GAIN, _GAIN_OF_MINIMAL = 1.5, 1.25
# Fewer operations than these take less than the call around them, 1 to 2 us at 80 GFLOP/s.
_SMALL = 100_000
# From here on results lie beyond the caches: their fresh pages are up to half of the time.
_LARGE_OUTPUT = 4 << 20
# Operations a byte below which fresh pages cost as much as the sums: 4 -> 320 channels of 8 taps,
# 16 operations a byte, took 56 ms, and 39 with out=; at 30 it was 193 and 178.
_INTENSITY = 20


def of_layer(layer: Any, told: Mapping[str, Any], n_batch: int, l_in: int, window: Geometry) -> str:
    """Return what would make a layer faster for inputs of a size; '' where nothing would."""
    weight, _ = layer._held
    if told["engine"] == "blas":
        return _of_blas(layer)
    gain = _gain_of_transforms(layer, weight, window, l_in)
    if told["engine"] == "direct" and gain >= _GAIN:
        return (
            f"K = {layer.kernel_size[0]}: algorithm='fft' would take about 1/{gain:.2g}, with "
            "other promises; algorithm='fast' takes it"
        )
    if told["flops"] < _SMALL:
        return "small: most of the time is the call itself; give many items in one call"
    output = n_batch * window.c_out * window.l_out * layer.dtype.itemsize
    if output >= _LARGE_OUTPUT and told["flops"] < _INTENSITY * told["bytes"]:
        return f"bound by writing {output >> 20} MiB of output: give out= to take no new pages"
    if told["engine"] == "direct" and _gains_by_winograd(layer, weight, l_in):
        return "algorithm='winograd' takes less, for a few times the rounding error"
    if output >= _LARGE_OUTPUT:
        return f"out= saves the new pages of {output >> 20} MiB of output"
    return ""


def _of_blas(layer: Any) -> str:
    if layer.algorithm == "blas":
        return "algorithm='blas' was asked for; 'auto' takes the direct engine where it can"
    return "its sizes are beyond what the direct engine computes, so the BLAS does"


def _gain_of_transforms(layer: Any, weight: Any, window: Geometry, l_in: int) -> float:
    """Return how many times as fast transforms would be; 0 where they do not compute the layer."""
    spec = layer._spec
    sizes = spec.stride, spec.dilation, window.left, window.right, spec.transposed
    if fft.unsuited(weight.dtype.char, weight.shape, *sizes):
        return 0.0
    operands = weight.shape, weight.dtype, window, spec.transposed, l_in, window.l_out
    return direct_time(*operands) / fft_time(*operands, kept=True)


def _gains_by_winograd(layer: Any, weight: Any, l_in: int) -> bool:
    if layer.algorithm != "auto":
        return False
    times = expected(layer._spec._replace(algorithm="winograd"), weight, l_in)
    return "winograd" in times and times["direct"] >= _GAIN_OF_MINIMAL * times["winograd"]


def of_network(layers: Sequence[Mapping[str, Any]]) -> str:
    """Return the advice on the layer of a network that has most operations among those with one."""
    advised = [told for told in layers if told["advice"]]
    if not advised:
        return ""
    most = max(advised, key=lambda told: told["flops"])
    share = most["flops"] / max(math.fsum(told["flops"] for told in layers), 1)
    return f"layer {most['name']} ({share:.0%} of the operations): {most['advice']}"
