"""One row of the table: check every contestant, then time them with the machine's own rates."""

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from scipy.linalg.blas import get_blas_funcs
from threadpoolctl import threadpool_limits

from .. import reference
from ..kernels.direct_engine import peak_gflops
from .contestants import Contestant
from .environment import cores
from .layers import Layer, Problem, make_problem
from .timing import BUDGET_SECONDS, READING_SECONDS, LoadMeter, Spread, interleave, sample

GEMM_SIZE = 512
PEAK_SECONDS = 0.02
REFERENCE_CHANNELS = 8  # the reference is slow: it checks so many channels of the last item
REFERENCE_FLOPS = 3e8  # gradients cannot be cropped: above this they are checked on each other
REFERENCE_COLUMNS = 1 << 17  # and the last so many columns of a convolution
QUICK_SECONDS = 0.01  # a contestant's budget under --quick
STREAM_BYTES = 1 << 26  # an array of the stream: two, beyond a core's share of the last cache
PAUSE_SECONDS = 5e-3  # between samples of threaded runs: the pools spin for a while after a call


# what is known of an output: the part it fills, and its values
Truth = tuple[tuple[slice, ...], np.ndarray]


class WrongResultError(Exception):
    """A contestant's output is not the convolution."""


def gemm_rate(dtype: DTypeLike) -> Callable[[], float]:
    """Return a function that reads SciPy's BLAS gemm rate on one thread, in GFLOP/s."""
    gemm = get_blas_funcs("gemm", dtype=dtype)
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((GEMM_SIZE, GEMM_SIZE)).astype(dtype, order="F") for _ in "ab")
    flops = GEMM_SIZE**3 * (8 if np.dtype(dtype).kind == "c" else 2)

    def read() -> float:
        times = []
        with threadpool_limits(1, user_api="blas"):
            for _ in range(3):
                start = time.perf_counter()
                gemm(1.0, a, b)
                times.append(time.perf_counter() - start)
        return flops / min(times) / 1e9

    return read


def stream_rate() -> float:
    """Read the memory's rate in GB/s on one thread: a scaled copy, what it reads and writes."""
    source = np.ones(STREAM_BYTES // 8)
    target = np.zeros_like(source)
    passes = [sample(lambda: np.multiply(source, 3.0, out=target), 1) for _ in range(5)]
    return 2 * STREAM_BYTES / min(passes) / 1e9


def load_meter() -> LoadMeter:
    """Return a meter that goes by the mean rate of an FMA loop, which touches no memory."""
    loop = partial(peak_gflops, np.float32, 1e-6)  # one pass of it
    n_calls = math.ceil(READING_SECONDS / min(sample(loop, 1) for _ in range(50)))
    meter = LoadMeter(lambda: 1 / sample(loop, n_calls))
    meter.best = max(meter.read() for _ in range(5))
    return meter


def machine_gauges(dtype: DTypeLike) -> dict[str, Callable[[], float]]:
    """Return the functions that read the machine's rates: gemm and, for reals, the FMA peak."""
    gauges = {"gemm": gemm_rate(dtype)}
    if np.dtype(dtype).kind == "f":
        gauges["peak"] = lambda: peak_gflops(dtype, PEAK_SECONDS)
    return gauges


def _forward_crop(problem: Problem) -> tuple[Problem, tuple[slice, ...]]:
    """Return the part of a problem that the reference recomputes, and where its output lies."""
    layer = problem.layer
    n_in, n_out = layer.c_in // layer.groups, layer.c_out // layer.groups
    n_kept = min(n_out, REFERENCE_CHANNELS)
    x = problem.x[-1:, layer.c_in - n_in :]
    rows = problem.weight[layer.c_in - n_in :, n_out - n_kept :]
    weight = rows if layer.transposed else problem.weight[layer.c_out - n_kept :]
    bias = problem.bias[layer.c_out - n_kept :]
    where = (slice(-1, None), slice(layer.c_out - n_kept, None))
    return replace(problem, x=x, weight=weight, bias=bias), where


def _last_columns(layer: Layer, x: np.ndarray) -> tuple[np.ndarray, tuple[int, int], int]:
    """Return the end of a convolution's input, its padding, and its first output column."""
    first = max(0, layer.l_out - REFERENCE_COLUMNS)
    start = first * layer.stride - layer.padding
    return x[:, :, max(start, 0) :], (max(-start, 0), layer.padding), first


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _reference_forward(problem: Problem) -> Truth:
    crop, where = _forward_crop(problem)
    layer = problem.layer
    weight, bias = _wide(crop.weight), _wide(crop.bias)
    if layer.transposed:
        values = reference.conv_transpose1d(_wide(crop.x), weight, bias, **layer.window)
        return where, values
    x, padding, first = _last_columns(layer, crop.x)
    window = {**layer.window, "padding": padding}
    return (*where, slice(first, None)), reference.conv1d(_wide(x), weight, bias, **window)


def _reference_backward(problem: Problem) -> Sequence[Any]:
    layer = problem.layer
    grad_output, x, weight = map(_wide, (problem.grad_output, problem.x, problem.weight))
    backward = (
        reference.conv_transpose1d_backward if layer.transposed else reference.conv1d_backward
    )
    return backward(grad_output, x, weight, groups=layer.groups, **layer.window)


def expected(problem: Problem, backward: bool) -> list[Truth]:
    """Return what the reference gives: (index, values) for each output it can afford to check."""
    if not backward:
        return [_reference_forward(problem)]
    if problem.layer.flops(problem.x.dtype, backward) > REFERENCE_FLOPS:
        return []
    return [((), values) for values in _reference_backward(problem)]


def tolerances(problem: Problem, backward: bool) -> list[float]:
    """Return the largest difference allowed to each output.

    Both sides may err by 8 u S, and S is at most about the number of N(0, 1) products.
    """
    layer = problem.layer
    unit = np.finfo(problem.x.dtype).eps / 2
    factor = 16 * unit * (4 if problem.x.dtype.kind == "c" else 1)
    if not backward:
        return [factor * (layer.reduction + 1)]
    n_columns = layer.n_batch * max(layer.l_in, layer.l_out)
    n_grad_input = layer.c_out // layer.groups * layer.kernel_size
    return [factor * n for n in (n_grad_input, n_columns, n_columns)]


def check(outputs: Sequence[np.ndarray], truths: Sequence[Truth], limits: Sequence[float]) -> None:
    """Raise WrongResultError unless outputs agree with every (index, values) known about them."""
    for output, (index, values), limit in zip(outputs, truths, limits, strict=False):
        part = output[index]
        if part.shape != values.shape:
            raise WrongResultError(f"shape {part.shape} instead of {values.shape}")
        error = float(np.max(np.abs(part - values), initial=0.0))
        if not error <= limit:
            raise WrongResultError(f"off by {error:.3g}, allowed {limit:.3g}")


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:120] if text else ''}"


def _prepared(
    problem: Problem, contestants: Sequence[Contestant], backward: bool
) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """Return the calls of the contestants whose results are right, and why others are not in."""
    truths, limits = expected(problem, backward), tolerances(problem, backward)
    calls: dict[str, Callable[[], Any]] = {}
    excluded: dict[str, str] = {}
    agreed: list[Truth] = []
    for contestant in contestants:
        try:
            call = contestant.prepare(problem, backward)
            outputs = contestant.arrays(call())
            check(outputs, truths, limits)
            check(outputs, agreed, limits)
        except Exception as error:  # whatever a library does, the others are still timed
            excluded[contestant.name] = _first_line(error)
            continue
        calls[contestant.name] = call
        agreed = agreed or [((), np.array(output)) for output in outputs]
    return calls, excluded


def measure_layer(
    layer: Layer,
    contestants: Sequence[Contestant],
    gauges: Mapping[str, Callable[[], float]],
    args: argparse.Namespace,
    meter: LoadMeter | None = None,
) -> dict[str, Any]:
    """Check and time one layer; returns a row of plain numbers and strings."""
    problem = make_problem(layer, args.dtype, args.backward)
    calls, excluded = _prepared(problem, contestants, args.backward)
    seconds: dict[str, Spread] = {}
    readings: dict[str, Spread] = {}
    if calls:
        pause = PAUSE_SECONDS if args.threads > 1 else 0.0
        budget = QUICK_SECONDS if args.quick else BUDGET_SECONDS
        seconds, readings = interleave(calls, budget, gauges, pause, meter)
    return {
        "layer": layer.name,
        "sizes": {**asdict(layer), "l_out": layer.l_out},
        "flops": layer.flops(args.dtype, args.backward),
        "bytes": layer.n_elements * np.dtype(args.dtype).itemsize,
        "seconds": {name: each.median for name, each in seconds.items()},
        "quartiles": {name: [each.low, each.high] for name, each in seconds.items()},
        "rounds": {name: each.count for name, each in seconds.items()},
        "gauges": {
            name: min(args.threads, len(cores())) * each.median for name, each in readings.items()
        },
        "excluded": excluded,
    }
