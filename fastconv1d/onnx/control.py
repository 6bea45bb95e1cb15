"""If, Loop and Scan: nodes whose bodies are programs of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from .read import Graph, read_graph
from .registry import Node

Array = NDArray[Any]
_Lower = Callable[[Graph], Any]  # to a Program

# A loop without a condition and a trip count of 2**63 - 1 ends with memory, otherwise after these.
_MOST_TRIPS = (1 << 63) - 1


class _Body:
    """A body as a function of its inputs and of what it captures."""

    def __init__(self, node: Node, attribute: str, graph: Graph, lower: _Lower) -> None:
        proto = node.attributes.get(attribute)
        if not isinstance(proto, onnx.GraphProto):
            raise node.error(f"it should have a graph as its {attribute}")
        body = read_graph(proto, node.attributes["opsets"])
        captured = node.attributes["captured"]
        sources = node.inputs[len(node.inputs) - len(captured) :]
        self.n_formal = len(body.inputs)
        self.wanted = [(i, name) for i, name in enumerate(captured) if name in body.captured]
        for (_, name), source in ((entry, sources[entry[0]]) for entry in self.wanted):
            if source in graph.constants:
                body.constants[name] = graph.constants[source]
            elif source in graph.types:
                body.types.setdefault(name, graph.types[source])
        self.wanted = [(i, name) for i, name in self.wanted if name not in body.constants]
        body.inputs = [*body.inputs, *(name for _, name in self.wanted)]
        self.types = body.types
        self.program = lower(body)

    def __call__(self, formal: list[Any], captured: tuple[Any, ...]) -> list[Any]:
        return self.program.run([*formal, *[captured[i] for i, _ in self.wanted]])


def _if(node: Node, graph: Graph, lower: _Lower) -> Callable[..., Any]:
    then, other = (_Body(node, f"{which}_branch", graph, lower) for which in ("then", "else"))

    def run(condition: Array, *captured: Any) -> tuple[Any, ...]:
        if condition.size != 1:
            raise ValueError(f"the condition should be one value, got size {list(condition.shape)}")
        return tuple((then if condition.reshape(-1)[0] else other)([], captured))

    def chosen(condition: Array) -> tuple[Any, list[int]]:
        """Return the program of a branch, and which inputs of the node its inputs are."""
        body = then if condition.reshape(-1)[0] else other
        return body.program, [1 + place for place, _ in body.wanted]

    run.branches = then.program, other.program  # type: ignore[attr-defined]
    run.chosen = chosen  # type: ignore[attr-defined]
    return run


def _loop(node: Node, graph: Graph, lower: _Lower) -> Callable[..., Any]:
    body = _Body(node, "body", graph, lower)
    n_captured = len(node.attributes["captured"])
    n_state = body.n_formal - 2
    if n_state < 0 or len(body.program.outputs) < 1 + n_state:
        raise node.error("its body should have the inputs and outputs of a loop")

    def run(trips: Array | None, condition: Array | None, *rest: Any) -> tuple[Any, ...]:
        state, captured = [*rest[:n_state]], rest[len(rest) - n_captured :]
        most = _MOST_TRIPS if trips is None else int(trips.reshape(-1)[0])
        go_on = condition is None or bool(condition.reshape(-1)[0])
        scans: list[list[Array]] = [[] for _ in body.program.outputs[1 + n_state :]]
        trip = 0
        while go_on and trip < most:
            formal = [np.array(trip, np.int64), np.array(go_on), *state]
            kept, *found = body(formal, captured)
            state = found[:n_state]
            for scan, value in zip(scans, found[n_state:], strict=True):
                scan.append(value)
            go_on = bool(np.reshape(kept, -1)[0])
            trip += 1
        return (*state, *(_stacked(body, i, scan) for i, scan in enumerate(scans, 1 + n_state)))

    return run


def _stacked(body: _Body, output: int, scan: list[Array], axis: int = 0) -> Array:
    if scan:
        return np.stack(scan, axis)
    kind = body.types.get(body.program.outputs[output])
    shape = () if kind is None or kind.shape is None else kind.shape
    dims = [size if isinstance(size, int) else 0 for size in shape]
    return np.empty((0, *dims), np.float32 if kind is None else kind.dtype)


def _scan(node: Node, graph: Graph, lower: _Lower) -> Callable[..., Any]:
    if node.opset < 9:
        raise node.error(f"Scan of operator set {node.opset} is not supported; from 9 on it is")
    body = _Body(node, "body", graph, lower)
    get = node.attributes.get
    n_scans = get("num_scan_inputs", 0)
    n_captured = len(node.attributes["captured"])
    n_state = body.n_formal - n_scans
    n_outputs = len(body.program.outputs) - n_state
    if n_scans < 1 or n_state < 0 or n_outputs < 0:
        raise node.error("its body should have the inputs and outputs of a scan")
    axes = get("scan_input_axes") or [0] * n_scans
    back = get("scan_input_directions") or [0] * n_scans
    out_axes = get("scan_output_axes") or [0] * n_outputs
    out_back = get("scan_output_directions") or [0] * n_outputs

    def run(*arrays: Any) -> tuple[Any, ...]:
        own, captured = arrays[: len(arrays) - n_captured], arrays[len(arrays) - n_captured :]
        state = [*own[:n_state]]
        lines = [np.moveaxis(a, axis, 0) for a, axis in zip(own[n_state:], axes, strict=True)]
        length = len(lines[0])
        if any(len(line) != length for line in lines):
            raise ValueError(f"scanned inputs should have one length, got {[*map(len, lines)]}")
        scans: list[list[Array]] = [[] for _ in range(n_outputs)]
        for trip in range(length):
            now = [line[-1 - trip if b else trip] for line, b in zip(lines, back, strict=True)]
            found = body([*state, *now], captured)
            state = found[:n_state]
            for scan, value in zip(scans, found[n_state:], strict=True):
                scan.append(value)
        turned = [scan[::-1] if b else scan for scan, b in zip(scans, out_back, strict=True)]
        ends = [
            _stacked(body, i, scan, axis if length else 0)
            for i, (scan, axis) in enumerate(zip(turned, out_axes, strict=True), n_state)
        ]
        return (*state, *ends)

    return run


CONTROL = {"If": _if, "Loop": _loop, "Scan": _scan}
