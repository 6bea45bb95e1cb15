"""Which way computes inputs of a set of shapes where ONNX Runtime may help.

A model can run cut into sessions and what is computed here, as one session, or here alone. Which
is fastest follows from sizes, caches and threads; the first calls for a set of shapes are made in
turns and timed, and from then on the fastest way is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

from .. import config
from .program import Program
from .registry import OnnxError
from .rest import Foreign, gains, new_session

# Calls of each way that are timed, after one that is not; of longer ones than `_LONG` seconds, two.
_ROUNDS, _LONG_ROUNDS, _LONG = 5, 2, 5e-3
# A way that took so many times as long as another one is tried no more.
_HOPELESS = 2.0
_MOST_CHOICES = 64
# Without trials: a step here costs about 3 us, a session 30 us with what its arrays take to come
# from other caches; on a multiply-add of a convolution 1 to 2 ps are gained, a fifth of what it
# takes. (One core of a Xeon with AVX-512.)
_MACS_OF_STEP, _MACS_OF_SESSION = 3e6, 3e7
# A model of more bytes is not held several times: the rule decides.
_LARGEST = 1 << 28

CUT, WHOLE, ALONE = "cut", "whole", "alone"


class Trial(NamedTuple):
    """What the calls of a set of shapes took, by way; those that were not timed count, too."""

    times: dict[str, list[float]]

    def next(self) -> str | None:
        """Return the way of the next call, or None where all had theirs."""
        way = min(self.times, key=lambda way: len(self.times[way]))
        least = min((t for times in self.times.values() for t in times[1:]), default=0.0)
        rounds = _LONG_ROUNDS if least > _LONG else _ROUNDS
        return None if len(self.times[way]) > rounds else way

    def note(self, way: str, seconds: float) -> None:
        self.times[way].append(seconds)
        timed = {way: sorted(times[1:]) for way, times in self.times.items()}
        if all(timed.values()):
            least = min(times[0] for times in timed.values())
            for other, times in timed.items():
                if times[0] > _HOPELESS * least:
                    del self.times[other]

    def best(self) -> str:
        return min(self.times, key=lambda way: sorted(self.times[way][1:])[:2][-1])


class Ways:
    """The ways of a model.

    Parameters
    ----------
    model : onnx.ModelProto
        As the file has it.
    cut : Program
        The same, cut into sessions and what is computed here.
    lower : callable
        Makes the program that computes it here alone.
    """

    def __init__(self, model: Any, cut: Program, lower: Callable[[], Program]) -> None:
        self._cut, self._lower = cut, lower
        self._data = model.SerializeToString() if model.ByteSize() < 1 << 31 else None
        self._tried = model.ByteSize() < _LARGEST
        self._session: Any = None
        self._alone: Program | None = None
        self._trials: dict[Any, Trial] = {}
        self._choices: dict[Any, str] = {}
        nodes = [step.node for step in cut.steps]
        self.gains = any(map(gains, nodes))
        self._ways = [CUT] if self.gains else []
        if any(isinstance(node, Foreign) for node in nodes) and self._tried:
            self._ways.append(ALONE)

    def session(self) -> Any:
        """Return the model as one session, or None where ONNX Runtime does not take it."""
        if self._session is None and self._data is not None:
            try:
                self._session = new_session(self._data)
            except Exception:  # of an operator that it lacks and that is computed here
                pass
            self._data = None
        return self._session

    def alone(self) -> Program | None:
        """Return the program without ONNX Runtime, or None where there is none."""
        if self._alone is None and ALONE in self._ways:
            try:
                self._alone = self._lower()
            except (OnnxError, RecursionError):
                self._ways.remove(ALONE)
        return self._alone

    def chosen(self, key: Any) -> str | None:
        """Return the way of inputs with this key once it is known, or None."""
        return self._choices.get(key)

    def way(self, key: Any) -> str:
        """Return the way of the next call of inputs with this key, which were seen before."""
        found = self._choices.get(key)
        if found is not None:
            return found
        if config.are_deterministic_algorithms_enabled() or not self._tried or key is None:
            return self._by_rule(key)
        trial = self._trials.get(key)
        if trial is None:
            ways = [CUT] if self.gains or self.session() is None else []
            ways += [WHOLE] if self.session() is not None else []
            ways += [ALONE] if self.alone() is not None else []
            trial = self._trials[key] = Trial({way: [] for way in ways})
            if len(self._trials) > _MOST_CHOICES:
                del self._trials[next(iter(self._trials))]
        return trial.next() or self._decided(key, trial)

    def timed(self, key: Any, way: str, begin: float) -> None:
        """Note that a call by a way began then and is done."""
        trial = self._trials.get(key)
        if trial is not None and way in trial.times:
            trial.note(way, perf_counter() - begin)

    def _decided(self, key: Any, trial: Trial) -> str:
        choices = dict([*self._choices.items()][1 - _MOST_CHOICES :])
        choices[key] = trial.best()
        self._choices = choices
        self._trials.pop(key, None)
        return choices[key]

    def _by_rule(self, key: Any) -> str:
        work = self._cut.work(key)
        if self.session() is None or work is None:
            return CUT
        macs, own = work
        sessions = sum(isinstance(step.node, Foreign) for step in self._cut.steps)
        worth = self.gains and macs > _MACS_OF_STEP * own + _MACS_OF_SESSION * sessions
        return CUT if worth else WHOLE
