"""What does not surround a convolution, in sessions of ONNX Runtime cut out of the graph.

Convolutions are computed here. So is what lies between convolutions alone (activations, sums,
paddings, views); everything else goes to ONNX Runtime, in as few sessions as the order allows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from .. import config
from ..core.extras import how_to_install
from .blocks import ELEMENTWISE, Blockwise
from .control import CONTROL
from .layers import Activate, Convolution, Fused
from .norms import Affine, Indexed, Rounded
from .read import Graph, Type
from .registry import Node, OnnxError

Array = NDArray[Any]

# What goes with a convolution if it lies between convolutions.
_GLUE = ELEMENTWISE | {
    *("Concat", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Shape", "Slice"),
    *("Split", "Squeeze", "Transpose", "Unsqueeze"),
}


def new_session(data: bytes) -> Any:
    """Return a session of a model with the number of threads that is set now."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = config.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


@dataclass
class Foreign(Fused):
    """Nodes that a session of ONNX Runtime computes."""

    model: Any = None
    parts: list[Node] = field(default_factory=list)

    def build(self) -> Callable[..., Any]:
        data = self.model.SerializeToString()
        self.model = None
        try:
            session = new_session(data)
        except Exception as error:
            raise self.error(f"ONNX Runtime refuses it: {str(error)[:300]}") from error
        names = self.inputs
        single = len(self.outputs) == 1

        def run(*arrays: Array) -> Any:
            try:
                found = session.run(None, dict(zip(names, arrays, strict=True)))
            except Exception as error:
                raise ValueError(f"ONNX Runtime: {str(error)[:300]}") from error
            return found[0] if single else tuple(found)

        return run


def gains(node: Node) -> bool:
    """Whether a step may be worth a cut: it is a convolution, or what is computed here has some."""
    return isinstance(node, Convolution) or (node.op in CONTROL and not node.domain)


def handed_over(graph: Graph) -> Graph:
    """Return the graph with sessions in place of what does not surround a convolution."""
    ours = _ours(graph)
    phase_of: dict[str, tuple[int, bool]] = {}
    phases: dict[int, list[Node]] = {}
    order: list[tuple[int, int, Node]] = []
    for place, (node, own) in enumerate(zip(graph.nodes, ours, strict=True)):
        before = [phase_of[name] for name in node.inputs if name in phase_of]
        phase = max((p + (o != own) for p, o in before), default=0 if own else 1)
        if (phase % 2 == 0) != own:
            phase += 1
        phase_of.update((name, (phase, own)) for name in node.outputs if name)
        if own:
            order.append((phase, place, node))
        else:
            phases.setdefault(phase, []).append(node)
    for phase, nodes in phases.items():
        order.append((phase, 0, _session(graph, nodes)))
    graph.nodes = [node for *_, node in sorted(order, key=lambda entry: entry[:2])]
    return graph


def _ours(graph: Graph) -> list[bool]:
    """Say of each node whether it is computed here: convolutions, and what lies between them."""
    parent = [*range(len(graph.nodes))]

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    makers = {name: i for i, node in enumerate(graph.nodes) for name in node.outputs if name}
    ours = [_is_convolution(node) for node in graph.nodes]
    glue = [_is_glue(node) for node in graph.nodes]
    tied, edges = [False] * len(ours), []  # to a convolution; between glue and what is foreign
    for place, node in enumerate(graph.nodes):
        for source in {makers[name] for name in node.inputs if name in makers}:
            if glue[place] and glue[source]:
                parent[root(place)] = root(source)
            else:
                edges.append((source, place))
    foreign = set()
    for source, place in edges:
        for this, other in ((source, place), (place, source)):
            if glue[this]:
                tied[root(this)] |= ours[other]
                if not ours[other] and not glue[other]:
                    foreign.add(root(this))
    known = {name: kind.dtype for name, kind in graph.types.items()}
    for place, node in enumerate(graph.nodes):
        if glue[place]:
            ours[place] = tied[root(place)] and root(place) not in foreign
        if not ours[place] and any(_unknown(name, graph, known) for name in node.inputs):
            ours[place] = True
    return ours


def _unknown(name: str, graph: Graph, known: dict[str, Any]) -> bool:
    return bool(name) and name not in graph.constants and known.get(name) is None


def _is_convolution(node: Node) -> bool:
    if isinstance(node, Convolution):
        return not node.flat
    if node.op in CONTROL and not node.domain:
        bodies = [a for a in node.attributes.values() if isinstance(a, onnx.GraphProto)]
        return any(_has_convolution(body) for body in bodies)
    return node.op in ("Conv", "ConvTranspose") and not node.domain


def _has_convolution(body: Any) -> bool:
    for node in body.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            return True
        bodies = (a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH)
        if any(map(_has_convolution, bodies)):
            return True
    return False


def _is_glue(node: Node) -> bool:
    if isinstance(node, Fused):
        return isinstance(node, (Activate, Affine, Blockwise, Indexed, Rounded))
    return not node.domain and node.op in _GLUE


def _session(graph: Graph, nodes: list[Node]) -> Foreign:
    """Return one node for nodes that nothing else lies between."""
    inside = {id(node) for node in nodes}
    others = {name for n in graph.nodes if id(n) not in inside for name in n.inputs}
    return _Cut(graph, nodes).foreign(others | {*graph.outputs})


@dataclass
class _Cut:
    graph: Graph
    nodes: list[Node]
    protos: list[Any] = field(default_factory=list)

    def foreign(self, read: set[str]) -> Foreign:
        originals = [n for node in self.nodes for n in _originals(node)]
        made = {name for node in originals for name in node.outputs if name}
        reads = dict.fromkeys(n for node in originals for n in node.inputs if n and n not in made)
        inputs = [name for name in reads if name not in self.graph.constants]
        outputs = [name for node in self.nodes for name in node.outputs if name in read]
        constants: dict[str, None] = {}
        for name in reads:
            if name in self.graph.recipes:  # integers as the file has them: its kernels take those
                self._append(self.graph.recipes[name])
                constants.update(dict.fromkeys(filter(None, self.graph.recipes[name].inputs)))
            elif name in self.graph.constants:
                constants[name] = None
        for node in originals:
            self._append(node)
        model = self._model(inputs, outputs, [*constants])
        last = self.nodes[-1]
        return Foreign(
            last.op, "fastconv1d", last.name, inputs, outputs, model=model, parts=self.nodes
        )

    def _append(self, node: Node) -> None:
        attributes = {k: v for k, v in node.attributes.items() if k not in ("opsets", "captured")}
        inputs = node.inputs
        if "captured" in node.attributes:  # under the names that its bodies use
            names = node.attributes["captured"]
            sources = inputs[len(inputs) - len(names) :]
            inputs = inputs[: len(inputs) - len(names)]
            for name, source in zip(names, sources, strict=True):
                if name != source:
                    self.protos.append(helper.make_node("Identity", [source], [name]))
        proto = helper.make_node(node.op, inputs, node.outputs, node.name, domain=node.domain)
        for name, value in attributes.items():
            own = numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
            proto.attribute.append(helper.make_attribute(name, own))
        self.protos.append(proto)

    def _model(self, inputs: list[str], outputs: list[str], constants: list[str]) -> Any:
        def value(name: str) -> Any:
            kind = self.graph.types.get(name, Type())
            if kind.dtype is None:
                return onnx.ValueInfoProto(name=name)
            # ranks alone: sizes that a file only claims are no reason to fail
            shape = None if kind.shape is None else [None] * len(kind.shape)
            element = helper.np_dtype_to_tensor_dtype(kind.dtype)
            return helper.make_tensor_value_info(name, element, shape)

        tensors = [numpy_helper.from_array(self.graph.constants[n], n) for n in constants]
        graph = helper.make_graph(
            self.protos, "rest", [value(n) for n in inputs], [value(n) for n in outputs], tensors
        )
        opsets = [helper.make_opsetid(k, v) for k, v in self.graph.opsets.items()]
        return helper.make_model(graph, ir_version=10, opset_imports=opsets)


def _originals(node: Node) -> list[Node]:
    return node.replaced if isinstance(node, Fused) else [node]


def checked(rest: Any) -> str | None:
    """Return what `rest` says, None or 'onnxruntime'."""
    if rest not in (None, "onnxruntime"):
        raise ValueError(f"rest should be None or 'onnxruntime', got {rest!r}")
    if rest is not None:
        try:
            import onnxruntime  # noqa: F401
        except ImportError as error:
            how = how_to_install("onnxruntime")
            raise OnnxError(f"rest='onnxruntime' needs onnxruntime: {how}") from error
    return rest
