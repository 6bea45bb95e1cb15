"""A graph, lowered once: its steps in order, and the arrays between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..modules import Conv1d, Conv2d, ConvTranspose1d
from . import contrib as _contrib  # noqa: F401
from . import operators as _operators  # noqa: F401  (which enters them in the table)
from . import sequences as _sequences  # noqa: F401
from .binding import LEAST_SPARE, Binding, Call, Pool, Sizes, known_values
from .blocks import grouped
from .bound import Bound, bound
from .control import CONTROL
from .folding import fold
from .layers import Fused
from .patterns import simplified
from .read import Graph
from .registry import OPERATORS, Node, OnnxError, find
from .rest import handed_over

Array = NDArray[Any]

_LAYERS = Conv1d, Conv2d, ConvTranspose1d
# So many sets of input shapes are remembered: a stream has two or three.
_MOST_BINDINGS = 8
# A refusal of many nodes gives so many reasons, and so many nodes for each.
_MOST_REASONS, _MOST_NAMES = 40, 5


class Step(NamedTuple):
    """One call: what it reads and writes, and what may be forgotten after it."""

    node: Node
    run: Callable[..., Any]
    inputs: list[str]
    outputs: list[str]
    done: list[str]
    takes_out: bool  # whether `run` has an argument for where to write


class Program:
    """The steps of a graph, for any number of calls at a time.

    Parameters
    ----------
    graph : Graph
        As it was read. Its nodes are used up.
    rest : 'onnxruntime' or None
        What computes nodes that do not surround a convolution; None for this library.

    Raises
    ------
    OnnxError
        If nodes cannot be computed; the text names all of them.
    """

    def __init__(self, graph: Graph, rest: str | None = None) -> None:
        graph = grouped(simplified(fold(graph)))
        if rest is not None:
            graph = handed_over(graph)
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self.constants = graph.constants
        self.steps = _steps(graph, partial(Program, rest=rest))
        used = {name for step in self.steps for name in step.inputs} | {*self.outputs}
        self.constants = {k: v for k, v in graph.constants.items() if k in used}
        sizes = Sizes(self.inputs, self.constants)
        for step in self.steps:
            sizes.add(step.node)
        self._settled = sizes.settled
        known = sizes.known - {""}
        varying = [s for s in self.steps if not all(n in known for n in s.outputs if n)]
        self._dynamic = _planned(varying, {*self.constants, *self.outputs})
        read = {name for step in self._dynamic for name in step.inputs} | {*self.outputs}
        self._needed = {name for name in known & read if name not in self.constants}
        self._slots, self._template = _slots(self)
        self._sources = [self._slots[name] for name in self.inputs]
        self._results = [self._slots[name] for name in self.outputs]
        self._bindings: dict[tuple[Any, ...] | None, Binding] = {}
        self._pools: list[Pool] = []

    def key(self, arrays: Sequence[Any]) -> tuple[Any, ...] | None:
        """Return what calls of the same shapes have in common; None with a sequence among them."""
        try:
            return tuple([(array.shape, array.dtype) for array in arrays])
        except AttributeError:  # a list
            return None

    def knows(self, key: tuple[Any, ...] | None) -> bool:
        """Whether there was a call of this key."""
        return key in self._bindings

    def run(self, arrays: Sequence[Any], key: tuple[Any, ...] | None = None) -> list[Any]:
        """Return the outputs for the inputs; to be called with NumPy's warnings off."""
        if key is None:
            key = self.key(arrays)
        binding = self._bindings.get(key)
        values = self._template.copy() if binding is None else binding.values.copy()
        for slot, array in zip(self._sources, arrays, strict=True):
            values[slot] = array
        if binding is None:
            self._first(key, values)
        elif binding.pooled:
            self._again(binding, values)
        else:
            self._quickly(binding, values)
        return [values[slot] for slot in self._results]

    def _first(self, key: tuple[Any, ...] | None, values: list[Any]) -> None:
        """Compute all steps, and note what depends on the inputs' shapes alone."""
        known: dict[str, Any] = {}
        shapes: dict[str, Any] = {}
        slots = self._slots
        quick: dict[int, Bound] = {}
        for step in self.steps:
            call = _call(step, slots, None, None)
            given = [values[slot] for slot in call.inputs]
            try:
                _enter(call, call.run(*given), values)
            except _REPORTED as error:
                raise _reported(step.node, error) from error
            for name in step.outputs:
                if name in self._needed:
                    known[name] = values[slots[name]]
            if all(name in self._settled for name in step.outputs):
                made = [values[slots[name]] for name in step.outputs]
                shorter = bound(step.node, step.run, given, made)
                if shorter is not None:
                    quick[id(step.node)] = shorter
            name, value = step.outputs[0], values[call.output]
            if step.takes_out and name in self._settled and isinstance(value, np.ndarray):
                if value.nbytes >= LEAST_SPARE:
                    shapes[name] = value.shape, value.dtype
            for slot in call.done:
                values[slot] = None
        kept = known_values(known)
        if kept is not None and key is not None:
            template = self._template.copy()
            for name, value in kept.items():
                template[slots[name]] = value
            calls = [
                _call(step, slots, shapes.get(step.outputs[0]), quick.get(id(step.node)))
                for step in self._dynamic
            ]
            bindings = dict([*self._bindings.items()][1 - _MOST_BINDINGS :])
            bindings[key] = Binding(template, calls, bool(shapes))
            self._bindings = bindings

    def _quickly(self, binding: Binding, values: list[Any]) -> None:
        """Compute what depends on the inputs' values."""
        call = None
        try:
            for call in binding.calls:
                result = call.run(*[values[slot] for slot in call.inputs])
                if call.others:
                    _enter(call, result, values)
                else:
                    values[call.output] = result[0] if isinstance(result, tuple) else result
                for slot in call.done:
                    values[slot] = None
        except _REPORTED as error:
            assert call is not None
            raise _reported(call.node, error) from error

    def _again(self, binding: Binding, values: list[Any]) -> None:
        """The same, with large arrays of the call before."""
        try:
            pool = self._pools.pop()
        except IndexError:  # another thread has it
            pool = Pool()
        call = None
        try:
            for call in binding.calls:
                given = [values[slot] for slot in call.inputs]
                if call.spare is None:
                    _enter(call, call.run(*given), values)
                else:
                    _enter(call, call.run(*given, out=pool.take(*call.spare)), values)
                if pool.holders:
                    del given
                    for slot in (call.output, *call.others):
                        pool.hold(values[slot])
                for slot in call.done:
                    pool.drop(values[slot])
                    values[slot] = None
        except _REPORTED as error:
            assert call is not None
            raise _reported(call.node, error) from error
        pool.close()
        self._pools[:] = [pool]


# What steps raise for inputs that they do not take.
_REPORTED = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError)


def _reported(node: Node, error: Exception) -> Exception:
    """Return the error with the name of the node."""
    if isinstance(error, OnnxError):  # it names its node
        return error
    kinds = [kind for kind in (TypeError, OverflowError) if isinstance(error, kind)]
    return (kinds or [ValueError])[0](f"{node}: {error}")


def _slots(program: Program) -> tuple[dict[str, int], list[Any]]:
    """Return the place of each value in the list of a call, and the list with the constants."""
    slots = {"": 0}
    template: list[Any] = [None]
    made = [name for step in program.steps for name in step.outputs]
    for name in [*program.constants, *program.inputs, *made]:
        if name not in slots:
            slots[name] = len(slots)
            template.append(program.constants.get(name))
    return slots, template


def _call(step: Step, slots: dict[str, int], spare: Any, quick: Bound | None) -> Call:
    output, *others = [slots[name] for name in step.outputs]
    inputs, done = ([slots[name] for name in names] for names in (step.inputs, step.done))
    run = step.run
    if quick is not None:
        run, inputs = quick.run, inputs[: quick.n_inputs]
    return Call(run, inputs, output, others, done, spare, step.node)


def _enter(call: Call, result: Any, values: list[Any]) -> None:
    if isinstance(result, tuple):
        for slot, value in zip((call.output, *call.others), result, strict=False):
            values[slot] = value
        values[0] = None  # what stands for absent ones
    else:
        values[call.output] = result


def _steps(graph: Graph, lower: Callable[[Graph], Program]) -> list[Step]:
    steps: list[Step] = []
    errors: list[tuple[Node, OnnxError]] = []
    for node in graph.nodes:
        try:
            run = _built(node, graph, lower)
        except OnnxError as error:
            errors.append((node, error))
            continue
        takes_out = isinstance(run, _LAYERS) or getattr(run, "takes_out", False)
        steps.append(Step(node, run, node.inputs, node.outputs, [], takes_out))
    if errors:
        raise _refusal(errors)
    return _planned(steps, {*graph.constants, *graph.outputs})


def _planned(steps: list[Step], kept: set[str]) -> list[Step]:
    """Return the steps with the values that each of them reads last, or that nobody reads."""
    last_use = {name: i for i, step in enumerate(steps) for name in step.inputs if name}
    planned = []
    for i, step in enumerate(steps):
        reads = dict.fromkeys(name for name in step.inputs if name)
        done = [name for name in reads if last_use[name] == i and name not in kept]
        done += [n for n in step.outputs[1:] if n and n not in last_use and n not in kept]
        planned.append(step._replace(done=done))
    return planned


def _built(node: Node, graph: Graph, lower: Callable[[Graph], Program]) -> Callable[..., Any]:
    if isinstance(node, Fused):
        return node.build()
    if not node.domain and node.op in CONTROL:
        return CONTROL[node.op](node, graph, lower)
    build = find(node)
    if build is None:
        raise node.error(_unsupported(node))
    try:
        return build(node)
    except (OnnxError, MemoryError):
        raise
    except Exception as error:  # an attribute of another type than its operator has
        raise node.error(f"its attributes are not valid: {error}") from error


def _unsupported(node: Node) -> str:
    name = f"{node.domain}.{node.op}" if node.domain else node.op
    versions = OPERATORS.get((node.domain, node.op))
    if versions:
        since = min(version.since for version in versions)
        return f"{name} of operator set {node.opset} is not supported; supported from {since} on"
    if node.domain == "com.microsoft":
        help = "export the model again without ONNX Runtime's optimizations"
    elif node.domain:
        help = 'compute it outside of the model, or use rest="onnxruntime"'
    elif "String" in node.op or "Optional" in node.op:
        help = "values should be tensors of numbers: compute it outside of the model"
    else:
        help = 'try onnxsim or a newer exporter, or rest="onnxruntime"'
    known = len({op for domain, op in OPERATORS if not domain}) + len(CONTROL)
    return f"{name} is not supported; supported are {known} operators of ONNX: {help}"


def _refusal(errors: list[tuple[Node, OnnxError]]) -> OnnxError:
    """Return one error for all: nodes for the same reason in one line."""
    if len(errors) == 1:
        return errors[0][1]
    nodes: dict[str, list[str]] = {}
    for node, error in errors:
        text = str(error)
        rule = text.removeprefix(f"{node}: ")
        nodes.setdefault(f"{node.op}: {rule}", []).append(str(node))
    lines = [f"{len(errors)} nodes cannot be computed here:"]
    for reason, names in [*nodes.items()][:_MOST_REASONS]:
        shown = ", ".join(name.rsplit(" (", 1)[0] for name in names[:_MOST_NAMES])
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        lines.append(f"{reason} ({shown}{more})")
    if len(nodes) > _MOST_REASONS:
        lines.append(f"and {len(nodes) - _MOST_REASONS} other reasons")
    return OnnxError("\n  ".join(lines))
