"""Nodes of a graph, and the table of operators that compute them.

A builder takes a `Node`, checks its attributes once and returns ``run(*arrays)``: a function of the
node's inputs, None for an optional one that is absent, that returns one ndarray, or a tuple of them
in the order of the node's outputs where it has several. It changes no input, and may return a view
of one. It is called with NumPy's floating-point warnings off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["OPERATORS", "Builder", "Node", "OnnxError", "Operator", "find", "operator"]


class OnnxError(ValueError):
    """A model that is not valid, or that holds what cannot be computed or written here.

    Examples
    --------
    >>> from fastconv1d.onnx import OnnxError, from_onnx
    >>> try:
    ...     from_onnx(b"no model")
    ... except OnnxError as error:
    ...     print("refused")
    refused
    """


@dataclass
class Node:
    """One node of a graph, checked and plain.

    Attributes
    ----------
    op, domain : str
        The operator; the domain is "" for ai.onnx.
    name : str
        The node's own, "" where it has none.
    inputs, outputs : list of str
        Names of values, "" where an optional one is absent.
    attributes : dict
        Python values: str decoded, tensors as ndarrays, graphs as protos.
    opset : int
        Of the node's domain in this model.
    """

    op: str
    domain: str = ""
    name: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 1

    def __str__(self) -> str:
        outputs = [name for name in self.outputs if name]
        return f"node {self.name or (outputs[0] if outputs else '')!r} ({self.op})"

    def error(self, rule: str) -> OnnxError:
        """Return an error that names the node and its operator."""
        return OnnxError(f"{self}: {rule}")


Builder = Callable[[Node], Callable[..., Any]]


class Operator(NamedTuple):
    """A builder and the operator sets it is right for, both ends included."""

    since: int
    until: int | None
    build: Builder


OPERATORS: dict[tuple[str, str], list[Operator]] = {}


def operator(
    name: str, since: int = 1, until: int | None = None, domain: str = ""
) -> Callable[[Builder], Builder]:
    """Enter the decorated builder in the table, for operator sets `since` to `until`."""

    def enter(build: Builder) -> Builder:
        OPERATORS.setdefault((domain, name), []).append(Operator(since, until, build))
        return build

    return enter


def find(node: Node) -> Builder | None:
    """Return the builder of the node's operator in its operator set; None where there is none."""
    for version in OPERATORS.get((node.domain, node.op), ()):
        if version.since <= node.opset and (version.until is None or node.opset <= version.until):
            return version.build
    return None
