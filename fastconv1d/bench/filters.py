"""SciPy as a contestant: oaconvolve, upfirdn and lfilter, for filters of single channels."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from .layers import Layer, Problem

Filter: TypeAlias = Callable[[np.ndarray], np.ndarray]


class Scipy:
    """The function of scipy.signal that is fastest for a layer, with what it needs around it."""

    name = "scipy"

    def __init__(self) -> None:
        import scipy
        import scipy.signal

        self._signal = scipy.signal
        self.version = f"scipy {scipy.__version__}"

    def prepare(self, problem: Problem, backward: bool) -> Callable[[], Any]:
        return partial(self.any_length(problem), problem.x)

    def any_length(self, problem: Problem) -> Callable[[np.ndarray], Any]:
        if problem.layer.groups != problem.layer.c_in:
            raise TypeError("scipy.signal filters single channels, not sums of channels")
        return min(self._ways(problem), key=lambda way: _seconds(way, problem.x))

    def _ways(self, problem: Problem) -> list[Filter]:
        layer, bias, taps = problem.layer, problem.bias[:, None], _impulse_responses(problem)
        if layer.transposed:
            ways = [partial(self._upsampled, layer, taps)]
        elif layer.stride > 1:
            ways = [partial(self._strided, layer, taps)]
        else:
            ways = [partial(self._transformed, layer, taps), partial(self._summed, layer, taps)]
        return [partial(_added, way, bias) for way in ways]

    def _transformed(self, layer: Layer, taps: np.ndarray, x: np.ndarray) -> Any:
        return self._signal.oaconvolve(_padded(layer, x), taps[None], mode="valid", axes=-1)

    def _summed(self, layer: Layer, taps: np.ndarray, x: np.ndarray) -> np.ndarray:
        alone = partial(self._signal.lfilter, a=np.ones(1, taps.dtype))
        y = _by_channel(alone, taps, _padded(layer, x))
        return y[:, :, taps.shape[1] - 1 :]

    def _strided(self, layer: Layer, taps: np.ndarray, x: np.ndarray) -> np.ndarray:
        # Zeros before the taps, so that the outputs that are wanted are among every stride-th.
        span = taps.shape[1]
        aligned = np.pad(taps, [(0, 0), (-(span - 1) % layer.stride, 0)])
        first = (aligned.shape[1] - 1) // layer.stride
        y = _by_channel(
            partial(self._signal.upfirdn, down=layer.stride), aligned, _padded(layer, x)
        )
        length = (x.shape[2] + 2 * layer.padding - span) // layer.stride + 1
        return y[:, :, first : first + length]

    def _upsampled(self, layer: Layer, taps: np.ndarray, x: np.ndarray) -> np.ndarray:
        y = _by_channel(partial(self._signal.upfirdn, up=layer.stride), taps, _repeated(layer, x))
        y = np.pad(y, [(0, 0), (0, 0), (0, layer.output_padding)])
        return y[:, :, layer.padding : y.shape[2] - layer.padding]

    def arrays(self, result: Any) -> tuple[np.ndarray, ...]:
        return (result,)


def _impulse_responses(problem: Problem) -> np.ndarray:
    """Return what each output channel's filter answers a single one with, (C_out, span)."""
    layer = problem.layer
    taps = problem.weight.reshape(layer.c_out, layer.kernel_size)
    spread = np.zeros((layer.c_out, layer.dilation * (layer.kernel_size - 1) + 1), taps.dtype)
    spread[:, :: layer.dilation] = taps if layer.transposed else taps[:, ::-1]
    return spread


def _added(way: Filter, bias: np.ndarray, x: np.ndarray) -> np.ndarray:
    return way(x) + bias


def _repeated(layer: Layer, x: np.ndarray) -> np.ndarray:
    """Return the input channel of each output channel."""
    times = layer.c_out // layer.c_in
    return x if times == 1 else np.repeat(x, times, axis=1)


def _padded(layer: Layer, x: np.ndarray) -> np.ndarray:
    return np.pad(_repeated(layer, x), [(0, 0), (0, 0), (layer.padding, layer.padding)])


def _by_channel(function: Callable[..., Any], taps: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return what a function of one filter makes of each channel."""
    return np.stack([function(h, x=x[:, c]) for c, h in enumerate(taps)], axis=1)


def _seconds(way: Filter, x: np.ndarray) -> float:
    way(x)  # which makes tables
    start = time.perf_counter()
    way(x)
    return time.perf_counter() - start
