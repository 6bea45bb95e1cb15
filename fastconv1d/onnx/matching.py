"""A small language for patterns of nodes, and the pass that rewrites a graph by rules.

A pattern is written as the formula it stands for, ``x * Op("Sigmoid", x)``: a `Value` stands for
any value, the same wherever it appears, a number for a constant of that value, a `Constant` for any
constant, an `Op` for a node. Addition and multiplication match in either order of their operands.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .folding import uses_of
from .layers import Activate
from .read import Graph, frozen
from .registry import Node

_COMMUTING = {"Add", "Mul", "Max", "Min", "Sum"}


class Pattern:
    """What a value may come from."""

    def match(self, graph: View, name: str, found: Match) -> bool:
        raise NotImplementedError

    def __add__(self, other: Any) -> Pattern:
        return Op("Add", self, other)

    __radd__ = __add__

    def __mul__(self, other: Any) -> Pattern:
        return Op("Mul", self, other)

    __rmul__ = __mul__

    def __sub__(self, other: Any) -> Pattern:
        return Op("Sub", self, other)

    def __truediv__(self, other: Any) -> Pattern:
        return Op("Div", self, other)

    def __or__(self, other: Pattern) -> Pattern:
        return Either(self, other)


class Match:
    """What the parts of a pattern stand for."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.constants: dict[str, NDArray[Any]] = {}
        self.nodes: dict[str, Node] = {}
        self.places: list[int] = []
        self._trail: list[tuple[dict[str, Any], str]] = []

    def bind(self, table: dict[str, Any], label: str, what: Any) -> None:
        if label not in table:
            self._trail.append((table, label))
        table[label] = what

    def mark(self) -> tuple[int, int]:
        return len(self._trail), len(self.places)

    def undo(self, mark: tuple[int, int]) -> None:
        """Forget what was bound since `mark`."""
        while len(self._trail) > mark[0]:
            table, label = self._trail.pop()
            del table[label]
        del self.places[mark[1] :]


class View:
    """A graph while it is rewritten: who makes and who reads each value."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.constants = graph.constants
        self.types = graph.types
        self.places: list[Node | None] = []
        self.makers: dict[str, int] = {}
        self.uses: Counter[str] = uses_of(graph)

    def maker(self, name: str) -> Node | None:
        place = self.makers.get(name)
        return None if place is None else self.places[place]

    def rank(self, name: str) -> int | None:
        shape = self.graph.types[name].shape if name in self.graph.types else None
        return None if shape is None else len(shape)

    def add(self, node: Node) -> None:
        self.makers.update(dict.fromkeys(filter(None, node.outputs), len(self.places)))
        self.places.append(node)


@dataclass(eq=False)
class Value(Pattern):
    """Any value; under a label, the same one everywhere in the pattern."""

    label: str

    def match(self, graph: View, name: str, found: Match) -> bool:
        known = found.values.get(self.label)
        if known is None:
            found.bind(found.values, self.label, name)
        return known is None or known == name


@dataclass(eq=False)
class Constant(Pattern):
    """Any constant, of one element where `scalar` says so."""

    label: str
    scalar: bool = False

    def match(self, graph: View, name: str, found: Match) -> bool:
        array = graph.constants.get(name)
        if array is None or (self.scalar and array.size != 1):
            return False
        known = found.values.get(self.label)
        if known is None:
            found.bind(found.values, self.label, name)
            found.bind(found.constants, self.label, array)
        return known is None or known == name or found.constants[self.label] is array


@dataclass(eq=False)
class Number(Pattern):
    """A constant of one element, equal to a number but for the rounding of its dtype."""

    value: float

    def match(self, graph: View, name: str, found: Match) -> bool:
        array = graph.constants.get(name)
        if array is None or array.size != 1:
            return False
        precise = 1e-3 if array.dtype.itemsize == 2 else 1e-5
        return math.isclose(float(array.reshape(-1)[0]), self.value, rel_tol=precise)


class Either(Pattern):
    """One of several patterns."""

    def __init__(self, *patterns: Pattern) -> None:
        self.patterns = patterns

    def match(self, graph: View, name: str, found: Match) -> bool:
        mark = found.mark()
        for pattern in self.patterns:
            if pattern.match(graph, name, found):
                return True
            found.undo(mark)
        return False

    def __or__(self, other: Pattern) -> Pattern:
        return Either(*self.patterns, other)


class Op(Pattern):
    """The first output of a node of ONNX's domain with these inputs.

    `attributes` are values that it should have, where an absent one counts as None; `label` names
    the node in the match; with `more` it may have further inputs.
    """

    def __init__(
        self, op: str, *inputs: Any, label: str = "", more: bool = False, **attributes: Any
    ) -> None:
        self.op, self.label, self.more, self.attributes = op, label, more, attributes
        self.inputs = [p if isinstance(p, Pattern) else Number(p) for p in inputs]

    def match(self, graph: View, name: str, found: Match) -> bool:
        place = graph.makers.get(name)
        node = None if place is None else graph.places[place]
        if place is None or node is None or node.op != self.op or not _is_plain(node):
            return False
        if node.outputs[0] != name or len(node.inputs) < len(self.inputs):
            return False
        if any(node.attributes.get(key) != value for key, value in self.attributes.items()):
            return False
        if not self.more and any(node.inputs[len(self.inputs) :]):
            return False
        mark = found.mark()
        for inputs in self._orders(node):
            pairs = zip(self.inputs, inputs, strict=True)
            if all(pattern.match(graph, source, found) for pattern, source in pairs):
                found.places.append(place)
                if self.label:
                    found.bind(found.nodes, self.label, node)
                return True
            found.undo(mark)
        return False

    def _orders(self, node: Node) -> Iterator[list[str]]:
        inputs = node.inputs[: len(self.inputs)]
        yield inputs
        if self.op in _COMMUTING and len(inputs) == 2:
            yield inputs[::-1]


def _is_plain(node: Node) -> bool:
    """Whether the node is one of ONNX's, or an activation that is one of those alone."""
    return not node.domain or (isinstance(node, Activate) and len(node.replaced) == 1)


class Made(Pattern):
    """A value that a node of a class of ours makes, for which `suited` holds."""

    def __init__(self, label: str, kind: type, suited: Callable[[Any], bool]) -> None:
        self.label, self.kind, self.suited = label, kind, suited

    def match(self, graph: View, name: str, found: Match) -> bool:
        place = graph.makers.get(name)
        node = None if place is None else graph.places[place]
        if place is None or not isinstance(node, self.kind) or not self.suited(node):
            return False
        found.places.append(place)
        found.bind(found.nodes, self.label, node)
        return True


class Rule(NamedTuple):
    """A pattern and what takes its place: nodes, or None where it does not apply after all."""

    pattern: Op
    make: Callable[[View, Node, Match], Node | list[Node] | None]
    needs: frozenset[Any]  # operators, or classes of ours, that make inputs of the last node


def _needs(pattern: Op) -> frozenset[Any]:
    kinds = {part.op for part in pattern.inputs if isinstance(part, Op)}
    return frozenset(kinds | {part.kind for part in pattern.inputs if isinstance(part, Made)})


@dataclass
class Rules:
    """Rules by the operator of the last node of their pattern."""

    by_op: dict[str, list[Rule]] = field(default_factory=dict)

    def rule(self, *patterns: Pattern) -> Callable[[Any], Any]:
        """Enter the decorated function for each of the patterns."""

        def enter(make: Any) -> Any:
            for pattern in patterns:
                assert isinstance(pattern, Op)
                self.by_op.setdefault(pattern.op, []).append(Rule(pattern, make, _needs(pattern)))
            return make

        return enter

    def rewritten(self, graph: Graph) -> Graph:
        """Apply the rules to each node in turn, again to what takes its place."""
        view = View(graph)
        for node in graph.nodes:
            view.add(node)
            while self._applied(view):
                pass
        graph.nodes = [node for node in view.places if node is not None]
        return graph

    def _applied(self, view: View) -> bool:
        """Whether a rule took the last node and those before it that belong to it."""
        last = view.places[-1]
        if last is None or last.domain:
            return False
        rules = self.by_op.get(last.op)
        if not rules:
            return False
        makers = [maker for name in last.inputs if (maker := view.maker(name)) is not None]
        there = {maker.op for maker in makers} | {type(maker) for maker in makers}
        for rule in rules:
            if not rule.needs <= there:
                continue
            found = Match()
            if not rule.pattern.match(view, last.outputs[0], found) or not _is_closed(view, found):
                continue
            made = rule.make(view, last, found)
            if made is not None:
                _replace(view, found, made if isinstance(made, list) else [made])
                return True
        return False


def _is_closed(view: View, found: Match) -> bool:
    """Whether only matched nodes read what all matched nodes but the last make."""
    inner = {*found.places} - {len(view.places) - 1}
    if not inner:
        return True
    reads: Counter[str] = Counter()
    for place in {*found.places}:
        node = view.places[place]
        assert node is not None
        reads.update(node.inputs)
    return all(
        view.uses[name] == reads[name]
        for place in inner
        for name in view.places[place].outputs  # type: ignore[union-attr]
        if name
    )


def _replace(view: View, found: Match, made: list[Node]) -> None:
    """Put nodes in place of the last matched one, and drop the others."""
    for place in {*found.places, len(view.places) - 1}:
        node = view.places[place]
        assert node is not None
        view.uses.subtract(name for name in node.inputs if name)
        for name in node.outputs:
            view.makers.pop(name, None)
        view.places[place] = None
    view.places.pop()
    for node in made:
        view.uses.update(name for name in node.inputs if name)
        view.add(node)


def new_name(view: View, name: str) -> str:
    """Return a name that no value has and that begins with the given one."""
    while name in view.constants or name in view.makers or name in view.uses:
        name += "'"
    return name


def number_in(view: View, name: str, value: Any) -> str:
    """Enter a constant under a new name that begins with the given one."""
    name = new_name(view, name)
    view.constants[name] = frozen(np.asarray(value))
    return name
