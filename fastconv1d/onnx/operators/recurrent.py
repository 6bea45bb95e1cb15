"""RNN, GRU and LSTM: one product for all inputs, and one small product a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...core.network import gru_states, lstm_states
from ..registry import Node, operator
from .activations import FUNCTIONS
from .attributes import delivered, flag, number, required_integer, text
from .types import Array, check_float, check_same, computed_wide

_Run = Callable[..., Any]

_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


class _Direction(NamedTuple):
    """One direction: its activations, and whether it runs from the last step to the first."""

    backward: bool
    activations: list[_Run]


class _Attributes:
    """What the three operators have in common."""

    def __init__(self, node: Node, n_gates: int, defaults: list[str]) -> None:
        self.n_gates = n_gates
        self.hidden = required_integer(node, "hidden_size", least=1)
        self.clip = number(node, "clip", None)
        if self.clip is not None and self.clip <= 0:
            raise node.error(f"clip should be above 0, got {self.clip}")
        self.batch_first = flag(node, "layout")
        backward = _DIRECTIONS[text(node, "direction", "forward", tuple(_DIRECTIONS))]
        functions = _activations(node, len(backward), defaults)
        # What the kernels compute: the usual activations and no limit to their inputs.
        named = node.attributes.get("activations") or defaults * len(backward)
        self.plain = named == defaults * len(backward) and self.clip is None
        each = len(defaults)
        self.directions = [
            _Direction(back, functions[i * each : (i + 1) * each])
            for i, back in enumerate(backward)
        ]

    def clipped(self, x: Array) -> Array:
        return x if self.clip is None else np.clip(x, -self.clip, self.clip, out=x)


def _activations(node: Node, n_directions: int, defaults: list[str]) -> list[_Run]:
    names = node.attributes.get("activations") or defaults * n_directions
    if len(names) != len(defaults) * n_directions:
        raise node.error(f"activations should be {len(defaults) * n_directions}, got {names}")
    alphas = list(node.attributes.get("activation_alpha", ()))
    betas = list(node.attributes.get("activation_beta", ()))
    known = {name.lower(): entry for name, entry in FUNCTIONS.items()}
    found = []
    for name in names:
        if name.lower() not in known:
            raise node.error(f"the activation {name!r} is not supported")
        function, values = known[name.lower()]
        values = dict(values)
        for key, given in (("alpha", alphas), ("beta", betas)):
            if key in values and given:
                values[key] = float(given.pop(0))
        found.append(_bound(function, values))
    return found


def _bound(function: _Run, values: dict[str, float]) -> _Run:
    return (lambda x: function(x, **values)) if values else function


class _Call(NamedTuple):
    """The arrays of a call with the time first, and what they were checked for."""

    x: Array
    w: Array
    r: Array
    bias: Array
    lengths: Array | None
    states: list[Array]


def _prepared(
    attributes: _Attributes,
    x: Array,
    w: Array,
    r: Array,
    bias: Array | None,
    lengths: Array | None,
    states: list[Array | None],
) -> _Call:
    check_same(x, w, r, bias, *states)
    check_float(x)
    if x.ndim != 3:
        raise ValueError(f"X should have three dimensions, got shape {list(x.shape)}")
    if attributes.batch_first:
        x = x.swapaxes(0, 1)
        states = [None if s is None or s.ndim != 3 else s.swapaxes(0, 1) for s in states]
    n_steps, batch, width = x.shape
    count, hidden, rows = len(attributes.directions), attributes.hidden, attributes.n_gates
    rows *= hidden
    for name, array, shape in (
        ("W", w, (count, rows, width)),
        ("R", r, (count, rows, hidden)),
        ("B", bias, (count, 2 * rows)),
        *(("an initial state", s, (count, batch, hidden)) for s in states),
        ("sequence_lens", lengths, (batch,)),
    ):
        if array is not None and array.shape != shape:
            raise ValueError(f"{name} should have shape {list(shape)}, got {list(array.shape)}")
    if bias is None:
        bias = np.zeros((count, 2 * rows), x.dtype)
    if lengths is not None:
        if lengths.size and (lengths.min() < 0 or lengths.max() > n_steps):
            raise ValueError(f"sequence_lens should be in [0, {n_steps}], got {lengths}")
        if (lengths == n_steps).all():
            lengths = None
    zeros = np.zeros((count, batch, hidden), x.dtype)
    return _Call(x, w, r, bias, lengths, [zeros if s is None else s for s in states])


def _reversed(x: Array, lengths: Array | None) -> Array:
    """Return the steps in the other order, each row's within its length."""
    if lengths is None:
        return x[::-1]
    y = x.copy()
    for row, length in enumerate(lengths):
        y[:length, row] = x[:length, row][::-1]
    return y


def _inputs(x: Array, w: Array, bias: Array) -> Array:
    """Return what the gates get from the inputs, of all steps in one product."""
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[2])
    y = rows @ w.T
    y += bias
    return y.reshape(x.shape[0], x.shape[1], len(w))


_Step = Callable[[Array, list[Array]], list[Array]]


def _walked(
    gates: Array, states: list[Array], lengths: Array | None, step: _Step
) -> tuple[Array, list[Array]]:
    """Return the first state after each step, 0 behind a row's length, and the last states."""
    outputs = np.empty((*gates.shape[:2], states[0].shape[1]), gates.dtype)
    for t, gate in enumerate(gates):
        new = step(gate, states)
        if lengths is not None:
            goes_on = (t < lengths)[:, None]
            outputs[t] = np.where(goes_on, new[0], new[0].dtype.type(0))
            new = [np.where(goes_on, n, s) for n, s in zip(new, states, strict=True)]
        else:
            outputs[t] = new[0]
        states = new
    return outputs, states


def _all_directions(
    attributes: _Attributes, call: _Call, one: Callable[[int, _Direction, Array], Any]
) -> tuple[Array, ...]:
    """Return Y and the last states, of which `one` computes a direction."""
    outputs, lasts = [], []
    for i, direction in enumerate(attributes.directions):
        x = _reversed(call.x, call.lengths) if direction.backward else call.x
        y, last = one(i, direction, x)
        outputs.append(_reversed(y, call.lengths) if direction.backward else y)
        lasts.append(last)
    y = np.stack(outputs, axis=1)
    ends = [np.stack(states) for states in zip(*lasts, strict=True)]
    if attributes.batch_first:  # (N, T, directions, H) and (N, directions, H)
        y = y.transpose(2, 0, 1, 3)
        ends = [end.swapaxes(0, 1) for end in ends]
    return y, *ends


@operator("RNN", since=7)
def _rnn(node: Node) -> _Run:
    attributes = _Attributes(node, 1, ["Tanh"])

    def run(
        x: Array,
        w: Array,
        r: Array,
        bias: Array | None = None,
        lengths: Array | None = None,
        initial: Array | None = None,
    ) -> tuple[Array, ...]:
        call = _prepared(attributes, x, w, r, bias, lengths, [initial])

        def one(i: int, direction: _Direction, x: Array) -> Any:
            (activation,) = direction.activations
            w_bias, r_bias = np.split(call.bias[i], 2)
            back = call.r[i].T

            def step(gate: Array, states: list[Array]) -> list[Array]:
                return [activation(attributes.clipped(states[0] @ back + gate))]

            gates = _inputs(x, call.w[i], w_bias + r_bias)
            return _walked(gates, [call.states[0][i]], call.lengths, step)

        return _all_directions(attributes, call, one)

    return delivered(node, computed_wide(run))


@operator("GRU", since=7)
def _gru(node: Node) -> _Run:
    attributes = _Attributes(node, 3, ["Sigmoid", "Tanh"])
    after = flag(node, "linear_before_reset")
    h = attributes.hidden

    def run(
        x: Array,
        w: Array,
        r: Array,
        bias: Array | None = None,
        lengths: Array | None = None,
        initial: Array | None = None,
    ) -> tuple[Array, ...]:
        call = _prepared(attributes, x, w, r, bias, lengths, [initial])

        def one(i: int, direction: _Direction, x: Array) -> Any:
            f, g = direction.activations
            w_bias, r_bias = np.split(call.bias[i].copy(), 2)
            back = call.r[i].T
            back_zr, back_h = back[:, : 2 * h], back[:, 2 * h :]
            late = r_bias[2 * h :].copy() if after else None
            if after:
                r_bias[2 * h :] = 0

            def step(gate: Array, states: list[Array]) -> list[Array]:
                (state,) = states
                if late is not None:
                    pushed = state @ back
                    zr = f(attributes.clipped(gate[:, : 2 * h] + pushed[:, : 2 * h]))
                    new = (pushed[:, 2 * h :] + late) * zr[:, h:]
                else:
                    zr = f(attributes.clipped(gate[:, : 2 * h] + state @ back_zr))
                    new = (state * zr[:, h:]) @ back_h
                new = g(attributes.clipped(new + gate[:, 2 * h :]))
                return [new + zr[:, :h] * (state - new)]

            gates = _inputs(x, call.w[i], w_bias + r_bias)
            if late is not None and attributes.plain and call.lengths is None:
                return gru_states(gates, call.r[i], late, call.states[0][i])
            return _walked(gates, [call.states[0][i]], call.lengths, step)

        return _all_directions(attributes, call, one)

    return delivered(node, computed_wide(run))


@operator("LSTM", since=7)
def _lstm(node: Node) -> _Run:
    attributes = _Attributes(node, 4, ["Sigmoid", "Tanh", "Tanh"])
    coupled = flag(node, "input_forget")
    h = attributes.hidden

    def run(
        x: Array,
        w: Array,
        r: Array,
        bias: Array | None = None,
        lengths: Array | None = None,
        initial: Array | None = None,
        cell: Array | None = None,
        peepholes: Array | None = None,
    ) -> tuple[Array, ...]:
        call = _prepared(attributes, x, w, r, bias, lengths, [initial, cell])
        count = len(attributes.directions)
        if peepholes is not None and peepholes.shape != (count, 3 * h):
            raise ValueError(f"P should have shape {[count, 3 * h]}, got {list(peepholes.shape)}")

        def one(i: int, direction: _Direction, x: Array) -> Any:
            w_bias, r_bias = np.split(call.bias[i], 2)
            peep = None if peepholes is None else np.split(peepholes[i], 3)
            gates = _inputs(x, call.w[i], w_bias + r_bias)
            if attributes.plain and call.lengths is None and peep is None and not coupled:
                return lstm_states(gates, call.r[i], *(state[i] for state in call.states))
            step = _lstm_step(attributes, direction.activations, call.r[i].T, peep, coupled)
            return _walked(gates, [state[i] for state in call.states], call.lengths, step)

        return _all_directions(attributes, call, one)

    return delivered(node, computed_wide(run))


def _lstm_step(
    attributes: _Attributes,
    activations: list[_Run],
    back: Array,
    peep: list[Array] | None,
    coupled: bool,
) -> _Step:
    """Return one step of a cell: gates in the order input, output, forget, new."""
    f, g, last = activations
    h = attributes.hidden

    def step(gate: Array, states: list[Array]) -> list[Array]:
        state, cell = states
        total = state @ back
        total += gate
        if peep is not None:
            total[:, :h] += peep[0] * cell
            total[:, 2 * h : 3 * h] += peep[2] * cell
        if peep is None:
            opened = f(attributes.clipped(total[:, : 3 * h]))
            enter, leave, keep = opened[:, :h], opened[:, h : 2 * h], opened[:, 2 * h :]
        else:
            enter = f(attributes.clipped(total[:, :h]))
            keep = f(attributes.clipped(total[:, 2 * h : 3 * h]))
        new = g(attributes.clipped(total[:, 3 * h :]))
        if coupled:
            keep = 1 - enter
        cell = keep * cell
        cell += enter * new
        if peep is not None:
            leave = f(attributes.clipped(total[:, h : 2 * h] + peep[1] * cell))
        return [leave * last(cell), cell]

    return step
