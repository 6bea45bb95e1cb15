"""Interleaved timing: adaptive repeat counts, samples of every round."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

BUDGET_SECONDS = 0.2  # what a contestant may take on a layer, calls longer than that excepted
SAMPLE_SECONDS = 2e-3  # a sample repeats short calls until it lasts this long
MIN_ROUNDS = 5
MIN_ROUNDS_SLOW = 3  # for calls of over a second
MAX_ROUNDS = 100


@dataclass
class Plan:
    """How often to repeat one contestant."""

    n_calls: int
    n_rounds: int


@dataclass
class Spread:
    """The median of some samples, their quartiles, and how many there are."""

    median: float
    low: float
    high: float
    count: int


def spread(samples: Sequence[float]) -> Spread:
    """Summarise samples; a single one is its own quartiles."""
    if len(samples) < 2:
        return Spread(samples[0], samples[0], samples[0], 1)
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(median, low, high, len(samples))


def sample(call: Callable[[], object], n_calls: int) -> float:
    """Return the seconds one call took, averaged over n_calls of them."""
    calls = repeat(None, n_calls)
    start = time.perf_counter()
    for _ in calls:
        call()
    return (time.perf_counter() - start) / n_calls


def plan(seconds_per_call: float, budget: float) -> Plan:
    """Choose calls a sample and rounds so that a contestant takes about budget seconds."""
    n_calls = max(1, math.ceil(SAMPLE_SECONDS / max(seconds_per_call, 1e-9)))
    n_rounds = int(budget / (n_calls * max(seconds_per_call, 1e-9)))
    fewest = MIN_ROUNDS if seconds_per_call < 1.0 else MIN_ROUNDS_SLOW
    return Plan(n_calls, min(max(n_rounds, fewest), MAX_ROUNDS))


def calibrate(call: Callable[[], object], budget: float) -> Plan:
    """Warm a call up and return its plan."""
    seconds = sample(call, 1)
    if seconds < 0.5:
        seconds = min(sample(call, 1), sample(call, 1))
    if seconds < SAMPLE_SECONDS:
        seconds = sample(call, math.ceil(SAMPLE_SECONDS / max(seconds, 1e-7)))
    return plan(seconds, budget)


def takes_part(index: int, n_rounds: int, n_total: int) -> bool:
    """Return whether a contestant with n_rounds of n_total rounds runs in this one.

    The rounds of a contestant with few of them are spread evenly over the whole run.
    """
    return index * n_rounds // n_total != (index + 1) * n_rounds // n_total


def interleave(
    calls: Mapping[str, Callable[[], object]],
    budget: float = BUDGET_SECONDS,
    gauges: Mapping[str, Callable[[], float]] | None = None,
    pause: float = 0.0,
) -> tuple[dict[str, Spread], dict[str, Spread]]:
    """Time several calls in turn.

    Parameters
    ----------
    calls : dict of str to callable
        The contestants, called without arguments.
    budget : float
        About how many seconds each may take.
    gauges : dict of str to callable, optional
        Each returns a figure of the machine at that moment; read MIN_ROUNDS times in the run.
    pause : float
        Seconds to wait before each sample, for the threads of the one before to go to sleep.

    Returns
    -------
    seconds : dict of str to Spread
        The seconds a call takes, over the rounds.
    readings : dict of str to Spread
        Each gauge's readings.
    """
    plans = {name: calibrate(call, budget) for name, call in calls.items()}
    n_total = max(p.n_rounds for p in plans.values())
    gauges = gauges or {}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    readings: dict[str, list[float]] = {name: [] for name in gauges}
    names = list(calls)
    enabled = gc.isenabled()
    gc.disable()
    try:
        for index in range(n_total):
            if takes_part(index, MIN_ROUNDS, n_total):
                for name, values in readings.items():
                    values.append(gauges[name]())
            first = index % len(names)
            for name in names[first:] + names[:first]:
                if takes_part(index, plans[name].n_rounds, n_total):
                    if pause:
                        time.sleep(pause)
                        calls[name]()
                    samples[name].append(sample(calls[name], plans[name].n_calls))
    finally:
        if enabled:
            gc.enable()
    return _spreads(samples), _spreads(readings)


def _spreads(values: Mapping[str, list[float]]) -> dict[str, Spread]:
    return {name: spread(each) for name, each in values.items()}
