"""A graph, lowered once: its steps in order, and the arrays between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from numpy.typing import NDArray

from . import contrib as _contrib  # noqa: F401
from . import operators as _operators  # noqa: F401  (which enters them in the table)
from . import sequences as _sequences  # noqa: F401
from .binding import Binding, Call, Inner, Sizes, call_of, known_values, spliced
from .blocks import Blockwise, grouped
from .bound import Bound, bound
from .control import CONTROL
from .folding import fold
from .layers import Activate, Convolution, Fused
from .norms import Normalize
from .patterns import simplified
from .quantised import QuantisedProduct
from .read import Graph
from .registry import OPERATORS, Node, OnnxError, find
from .rest import Foreign, handed_over

Array = NDArray[Any]

# After so many sets of numbers that choose branches, those are looked at in each call.
_MOST_DECISIONS = 32
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


class _Plan(NamedTuple):
    """What follows from inputs' shapes, or from those and some inputs' values."""

    known: set[str]  # values that do
    settled: set[str]  # values whose shapes do
    needed: set[str]  # known ones that other steps read
    steps: list[Step]  # all the others


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
        self._spare = _spare(self.steps, self.outputs)
        self._plain = self._plan()
        self._deciding = self._deciding_inputs(graph)
        self._decided = self._plan([self.inputs[i] for i in self._deciding])
        self._n_decisions = 0
        self._slots, self._template = _slots(self)
        self._sources = [self._slots[name] for name in self.inputs]
        self._results = [self._slots[name] for name in self.outputs]
        self._bindings: dict[tuple[Any, ...] | None, Binding] = {}

    def _plan(self, values: Sequence[str] = ()) -> _Plan:
        """Return what is known of inputs' shapes, and of these inputs' values."""
        sizes = Sizes(self.inputs, {**dict.fromkeys(values), **self.constants})
        for step in self.steps:
            sizes.add(step.node, _branches(step))
        known = sizes.known - {""}
        varying = [s for s in self.steps if not all(n in known for n in s.outputs if n)]
        dynamic = _planned(varying, {*self.constants, *self.outputs})
        read = {name for step in dynamic for name in step.inputs} | {*self.outputs}
        needed = {n for n in known & read if n not in self.constants and n not in self.inputs}
        return _Plan(known, sizes.settled, needed, dynamic)

    def _deciding_inputs(self, graph: Graph) -> tuple[int, ...]:
        """Return the places of whole numbers among the inputs that choose the branch of an If."""
        kinds = [graph.types.get(name) for name in self.inputs]
        numbers = {
            name
            for name, kind in zip(self.inputs, kinds, strict=True)
            if kind is not None and kind.dtype is not None and kind.dtype.kind in "iub"
            if kind.shape is not None and all(size == 1 for size in kind.shape)
        }
        chosen = self._plan([*numbers]).known - self._plain.known
        deciding = {s.inputs[0] for s in self.steps if _branches(s)} & chosen
        for step in reversed(self.steps):
            if any(name in deciding for name in step.outputs):
                deciding.update(step.inputs)
        return tuple(i for i, name in enumerate(self.inputs) if name in numbers & deciding)

    def key(self, arrays: Sequence[Any]) -> tuple[Any, ...] | None:
        """Return what calls of the same shapes have in common; None with a sequence among them.

        Values that choose branches come after the shapes.
        """
        try:
            key = [(array.shape, array.dtype) for array in arrays]
            if self._deciding:
                key += [arrays[place].tobytes() for place in self._deciding]
            return tuple(key)
        except AttributeError:  # a list
            return None

    def knows(self, key: tuple[Any, ...] | None) -> bool:
        """Whether there was a call of this key."""
        return key in self._bindings

    @property
    def settles(self) -> bool:
        """Whether the outputs' shapes follow from the inputs' shapes."""
        return all(name in self._plain.settled for name in self.outputs)

    def binding(self, arrays: Sequence[Any]) -> Binding | None:
        """Return what calls of the same shapes as this one share, after the first."""
        return self._bindings.get(self.key(arrays))

    def slots(self, names: Sequence[str]) -> list[int]:
        """Return the places of values in the list of a call."""
        return [self._slots[name] for name in names]

    def follows(self, settled: list[bool], known: list[bool]) -> bool:
        """Whether a call's key is the same while inputs' shapes, and some inputs, are."""
        return all(settled) and all(known[place] for place in self._deciding)

    def work(self, key: tuple[Any, ...] | None) -> tuple[float, int] | None:
        """Return the multiply-adds of the convolutions and how many steps are none of ONNX Runtime.

        None where there was no call of this key.
        """
        binding = self._bindings.get(key)
        return None if binding is None else (binding.macs, binding.n_own)

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
        else:
            self._again(binding, values)
        return [values[slot] for slot in self._results]

    def _first(self, key: tuple[Any, ...] | None, values: list[Any]) -> None:
        """Compute all steps, and note what depends on the key alone."""
        plan = self._plain if key is None or len(key) == len(self.inputs) else self._decided
        kept: dict[str, Any] = {}
        shorter: dict[int, Bound | Inner] = {}
        macs = 0.0
        for step in self.steps:
            call = _call(step, self._slots, None)
            given = [values[self._slots[name]] for name in step.inputs]
            try:
                _enter(call.output, call.others, step.run(*given), values)
            except _REPORTED as error:
                raise _reported(step.node, error) from error
            made = [values[self._slots[name]] for name in step.outputs]
            if isinstance(step.node, Convolution):
                macs += step.node.macs(given[0], made[0])
            kept.update((n, v) for n, v in zip(step.outputs, made, strict=True) if n in plan.needed)
            spare = [i for i, name in enumerate(step.inputs) if name in self._spare]
            found = _shorter(step, plan, given, made, spare)
            if found is not None:
                shorter[id(step.node)] = found
            for slot in call.done:
                values[slot] = None
        known = known_values(kept)
        if known is not None and key is not None:
            self._bind(key, plan, known, shorter, macs)

    def _bind(
        self,
        key: tuple[Any, ...],
        plan: _Plan,
        known: dict[str, Array],
        shorter: dict[int, Bound | Inner],
        macs: float,
    ) -> None:
        """Note how calls of a key are computed from now on."""
        if plan is not self._plain:
            self._n_decisions += 1
            if self._n_decisions > _MOST_DECISIONS:  # the numbers differ from call to call
                self._deciding = ()
        template = self._template.copy()
        for name, value in known.items():
            template[self._slots[name]] = value
        calls: list[Call] = []
        n_own = 0
        for step in plan.steps:
            quick = shorter.get(id(step.node))
            if isinstance(quick, Inner):
                calls += spliced(quick, _call(step, self._slots, None), template)
                macs += quick.binding.macs
                n_own += quick.binding.n_own
            else:
                calls.append(_call(step, self._slots, quick))
                n_own += not isinstance(step.node, Foreign)
        bindings = dict([*self._bindings.items()][1 - _MOST_BINDINGS :])
        bindings[key] = Binding(template, calls, macs, n_own)
        self._bindings = bindings

    def _again(self, binding: Binding, values: list[Any]) -> None:
        """Compute what depends on the inputs' values."""
        node = None
        try:
            # unpacked, and without a call for a single input: a step of a small network takes 1 us
            for run, single, several, output, others, done, node, _ in binding.calls:  # noqa: B007
                result = run(values[single]) if several is None else run(*several(values))
                if others:
                    _enter(output, others, result, values)
                else:
                    values[output] = result[0] if type(result) is tuple else result
                for slot in done:
                    values[slot] = None
        except _REPORTED as error:
            assert node is not None
            raise _reported(node, error) from error


# What makes a new array.
_NEW = (Activate, Blockwise, Convolution, Normalize, QuantisedProduct)
# What steps raise for inputs that they do not take.
_REPORTED = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError)


def _reported(node: Node, error: Exception) -> Exception:
    """Return the error with the name of the node."""
    if isinstance(error, OnnxError):  # it names its node
        return error
    for kind in (TypeError, OverflowError):
        if isinstance(error, kind):
            return kind(f"{node}: {error}")
    return ValueError(f"{node}: {error}")


def _spare(steps: Sequence[Step], outputs: Sequence[str]) -> set[str]:
    """Return the values in memory of their own that are read once."""
    reads = Counter(name for step in steps for name in step.inputs)
    reads.update(outputs)
    made = (step.outputs[0] for step in steps if isinstance(step.node, _NEW))
    return {name for name in made if reads[name] == 1}


def _branches(step: Step) -> Sequence[Any]:
    return getattr(step.run, "branches", ())


def _shorter(
    step: Step, plan: _Plan, given: list[Any], made: list[Any], spare: list[int]
) -> Bound | Inner | None:
    """Return what is left of a step for inputs with the shapes of these."""
    if _branches(step):
        if step.inputs[0] not in plan.known:
            return None
        body, places = step.run.chosen(given[0])  # type: ignore[attr-defined]
        names = [step.inputs[place] for place in places]
        same = [n in plan.settled for n in names], [n in plan.known for n in names]
        binding = body.binding([given[place] for place in places])
        if binding is None or not body.follows(*same):
            return None
        return Inner(binding, places, body.slots(body.inputs), body.slots(body.outputs))
    if not all(name in plan.settled for name in (*step.inputs, *step.outputs)):
        return None
    return bound(step.node, step.run, given, made, spare)


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


def _call(step: Step, slots: dict[str, int], quick: Bound | None) -> Call:
    output, *others = [slots[name] for name in step.outputs]
    inputs, done = ([slots[name] for name in names] for names in (step.inputs, step.done))
    run = step.run
    if quick is not None:
        run, inputs = quick.run, inputs[: quick.n_inputs]
    return call_of(run, inputs, output, others, done, step.node)


def _enter(output: int, others: list[int], result: Any, values: list[Any]) -> None:
    if isinstance(result, tuple):
        for slot, value in zip((output, *others), result, strict=False):
            values[slot] = value
        values[0] = None  # what stands for absent ones
    else:
        values[output] = result


def _steps(graph: Graph, lower: Callable[[Graph], Program]) -> list[Step]:
    steps: list[Step] = []
    errors: list[tuple[Node, OnnxError]] = []
    for node in graph.nodes:
        try:
            run = _built(node, graph, lower)
        except OnnxError as error:
            errors.append((node, error))
            continue
        steps.append(Step(node, run, node.inputs, node.outputs, []))
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
