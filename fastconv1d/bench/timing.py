"""Interleaved timing: adaptive repeat counts, samples of every round."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import repeat
from types import ModuleType

resource: ModuleType | None
try:
    import resource
except ImportError:  # of POSIX
    resource = None

BUDGET_SECONDS = 0.2  # what a contestant may take on a layer, calls longer than that excepted
SAMPLE_SECONDS = 2e-3  # a sample repeats short calls until it lasts this long
MIN_ROUNDS = 5
MIN_ROUNDS_SLOW = 3  # for calls of over a second
MAX_ROUNDS = 100
# A reading of the FMA loop below this share of the best tells of other work on the core: 0.1 % of
# readings of 2 ms on a quiet machine, 41 % beside one process that is always busy.
SLOWED = 0.8
READING_SECONDS = 2e-3
BUSY_SHARE = 0.05  # of slow readings, from which on the figures should not be believed
PATIENCE = 5  # readings before a round that is timed in any case


@dataclass
class Plan:
    """How often to repeat one contestant."""

    n_calls: int
    n_rounds: int


def interruptions() -> int:
    """Return how often another process has taken a core from this one; 0 where nobody counts."""
    if resource is None:
        return 0
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw)


@dataclass
class LoadMeter:
    """Tells quiet moments of the machine from those in which others use the core, too.

    ``read`` returns a rate that only other work lowers, ``interrupted`` a count that grows where
    other work came in between.
    """

    read: Callable[[], float]
    interrupted: Callable[[], int] = interruptions
    best: float = 0.0
    n_readings: int = 0
    n_slow: int = 0

    def is_quiet(self) -> bool:
        """Read the rate once, and compare it with the best so far."""
        rate = self.read()
        self.best = max(self.best, rate)
        slow = rate < SLOWED * self.best
        self.n_readings += 1
        self.n_slow += slow
        return not slow

    def wait(self) -> bool:
        """Wait for a quiet moment, but not for long; returns whether there was one."""
        return any(self.is_quiet() for _ in range(PATIENCE))

    def warning(self) -> str | None:
        """Return what to say of figures that were taken meanwhile; None on a quiet machine."""
        if self.n_slow <= BUSY_SHARE * self.n_readings:
            return None
        return (
            f"BUSY: in {self.n_slow} of {self.n_readings} readings an FMA loop fell below "
            f"{SLOWED:.0%} of its best. Others use this machine: do not believe these times."
        )


@dataclass
class Round:
    """What was measured in one round: whether others were quiet, and whose samples nobody cut."""

    quiet: bool
    values: Mapping[str, float]
    undisturbed: Set[str]

    def quality(self, name: str) -> int:
        """Return 2 for a sample on a quiet machine, 1 if it was only not interrupted, else 0."""
        return (name in self.undisturbed) * (1 + self.quiet)


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
    meter: LoadMeter | None = None,
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
    meter : LoadMeter, optional
        Asked around each round: rounds beside other work, and samples that it interrupted, count
        only where there are no others.

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
    rounds: list[Round] = []
    interrupted = meter.interrupted if meter else lambda: 0
    names = list(calls)
    enabled = gc.isenabled()
    gc.disable()
    try:
        for index in range(n_total):
            quiet = meter is None or meter.wait()
            values, undisturbed = {}, set(gauges)
            if takes_part(index, MIN_ROUNDS, n_total):
                values = {name: read() for name, read in gauges.items()}
            first = index % len(names)
            for name in names[first:] + names[:first]:
                if takes_part(index, plans[name].n_rounds, n_total):
                    if pause:
                        time.sleep(pause)
                        calls[name]()
                    before = interrupted()
                    values[name] = sample(calls[name], plans[name].n_calls)
                    if interrupted() == before:
                        undisturbed.add(name)
            quiet = quiet and (meter is None or meter.is_quiet())
            rounds.append(Round(quiet, values, undisturbed))
    finally:
        if enabled:
            gc.enable()
    return _spreads(names, rounds), _spreads(gauges, rounds)


def _spreads(names: Iterable[str], rounds: Sequence[Round]) -> dict[str, Spread]:
    """Summarise each name's samples: the best of which there are enough, see `Round.quality`."""
    spreads = {}
    for name in names:
        values = [(each.quality(name), each.values[name]) for each in rounds if name in each.values]
        for least in (2, 1, 0):
            chosen = [value for quality, value in values if quality >= least]
            if len(chosen) >= MIN_ROUNDS_SLOW:
                break
        spreads[name] = spread(chosen)
    return spreads
