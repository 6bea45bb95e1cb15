"""From a model's protobuf to plain nodes: checked, functions inlined, constants as arrays."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.inliner
from numpy.typing import NDArray
from onnx import AttributeProto, helper, numpy_helper

from ..core.files import what_special
from .registry import Node, OnnxError

# A sparse constant of a file may ask for at most so many bytes when it is written out.
_LARGEST_DENSE = 1 << 31
# What check_model, infer_shapes and the inliner of onnx take: a protobuf of below 2 GiB.
_LARGEST_PROTO = (1 << 31) - 1


class Type(NamedTuple):
    """What is known of a value before it is computed: None and names where it is not known."""

    dtype: np.dtype[Any] | None = None
    shape: tuple[int | str | None, ...] | None = None


@dataclass
class Graph:
    """A graph, or the body of an If, Loop or Scan.

    Attributes
    ----------
    nodes : list of Node
        In an order in which they can be computed.
    constants : dict of str to ndarray
        Read-only arrays.
    inputs, outputs : list of str
        Inputs without a value of their own, outputs.
    types : dict of str to Type
        What is known of the values' dtypes and shapes.
    captured : list of str
        Names of outer graphs that the nodes read.
    opsets : dict of str to int
        The operator set of each domain.
    recipes : dict of str to Node
        The nodes that constants came from which are stored in fewer bits.
    """

    nodes: list[Node]
    constants: dict[str, NDArray[Any]]
    inputs: list[str]
    outputs: list[str]
    types: dict[str, Type] = field(default_factory=dict)
    captured: list[str] = field(default_factory=list)
    opsets: dict[str, int] = field(default_factory=dict)
    recipes: dict[str, Node] = field(default_factory=dict)


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn whatever protobuf and onnx raise for a broken file into an `OnnxError`."""
    try:
        yield
    except (OnnxError, MemoryError):
        raise
    except Exception as error:
        raise OnnxError(f"{what}: {' '.join(str(error).split())[:300]}") from error


def load(model: str | os.PathLike[str] | bytes | onnx.ModelProto) -> onnx.ModelProto:
    """Return a checked model without functions of its own, with all its data."""
    if isinstance(model, (str, os.PathLike)):
        special = what_special(model)
        if special:
            raise OnnxError(
                f"{os.fspath(model)} is {special}: a model should be in a regular file, or given "
                "as the bytes read from it"
            )
    try:
        with refusing("no valid ONNX model"):
            proto = _loaded(model)
            if proto.ByteSize() < _LARGEST_PROTO:
                onnx.checker.check_model(_with_shapes(proto))
                if proto.functions:
                    proto = onnx.inliner.inline_local_functions(proto)
            elif proto.functions:
                raise OnnxError("a model of more than 2 GiB should have no functions of its own")
    except OnnxError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise
    return proto


def _loaded(model: str | os.PathLike[str] | bytes | onnx.ModelProto) -> onnx.ModelProto:
    if isinstance(model, (str, os.PathLike)):
        return onnx.load(os.fspath(model))  # with external data, whose paths it checks
    proto = onnx.load_from_string(model) if isinstance(model, bytes) else model
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise OnnxError(
                f"the data of {tensor.name!r} are in another file: give the path of the model, "
                "or a proto of onnx.load(path)"
            )
    return proto


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model, or a copy whose ends all have a shape: onnx's checker insists on it."""
    if all(_has_shape(end.type) for end in (*model.graph.input, *model.graph.output)):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for end in (*copy.graph.input, *copy.graph.output):
        if not _has_shape(end.type):
            end.type.tensor_type.shape.SetInParent()
            end.type.tensor_type.elem_type = end.type.tensor_type.elem_type or 1
    return copy


def _has_shape(kind: Any) -> bool:
    which = kind.WhichOneof("value")
    return which not in (None, "tensor_type") or kind.tensor_type.HasField("shape")


def opsets_of(model: onnx.ModelProto) -> dict[str, int]:
    """Return the operator set of each domain, "" for ai.onnx."""
    opsets: dict[str, int] = {}
    for entry in model.opset_import:
        domain = _domain(entry.domain)
        if not 0 < entry.version < 1 << 31:
            raise OnnxError(
                f"the operator set of domain {domain!r} should be a positive number, "
                f"got {entry.version}"
            )
        opsets[domain] = entry.version
    return opsets


def read_model(model: onnx.ModelProto) -> Graph:
    """Return the graph of a loaded model."""
    inferred = model
    try:
        if model.ByteSize() < _LARGEST_PROTO:
            inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except MemoryError:
        raise
    except Exception:  # of a graph that it does not understand; nothing depends on its answer
        pass
    return read_graph(inferred.graph, opsets_of(model))


def read_graph(proto: Any, opsets: dict[str, int]) -> Graph:
    """Return a graph, or the body of a node."""
    constants = {}
    for tensor in proto.initializer:
        with refusing(f"initializer {tensor.name!r}"):
            constants[tensor.name] = frozen(to_array(tensor))
    for sparse in proto.sparse_initializer:
        with refusing(f"sparse initializer {sparse.values.name!r}"):
            constants[sparse.values.name] = frozen(_dense(sparse))
    inputs = [value.name for value in proto.input if value.name not in constants]
    nodes = []
    for entry in proto.node:
        node = _node(entry, opsets)
        if node.op == "Constant" and not node.domain:
            constants[node.outputs[0]] = frozen(_constant(node))
        else:
            nodes.append(node)
    outputs = [value.name for value in proto.output]
    types = _types([*proto.input, *proto.value_info, *proto.output])
    graph = Graph(nodes, constants, inputs, outputs, types, opsets=opsets)
    graph.captured = _captured(graph)
    return graph


def frozen(array: Any) -> NDArray[Any]:
    """Return the array, or a copy that no one else has, as one that cannot be written to."""
    array = np.asarray(array)
    if array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return array


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _node(proto: Any, opsets: dict[str, int]) -> Node:
    domain = _domain(proto.domain)
    node = Node(proto.op_type, domain, proto.name, list(proto.input), list(proto.output))
    node.opset = opsets.get(domain, 1)
    for attribute in proto.attribute:
        with refusing(f"{node}: its attribute {attribute.name!r}"):
            node.attributes[attribute.name] = _value(attribute)
    bodies = [a for a in node.attributes.values() if isinstance(a, onnx.GraphProto)]
    if bodies:
        # What the bodies read of this graph are further inputs, under names that may change here.
        captured = [*dict.fromkeys(name for body in bodies for name in outer_names(body))]
        node.attributes.update(opsets=opsets, captured=captured)
        node.inputs += captured
    return node


def outer_names(proto: Any) -> list[str]:
    """Return the names that a body reads of the graphs around it."""
    own = {t.name for t in proto.initializer} | {s.values.name for s in proto.sparse_initializer}
    own |= {value.name for value in proto.input}
    found: dict[str, None] = {}
    for node in proto.node:
        reads = list(node.input)
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                reads += outer_names(attribute.g)
        found.update(dict.fromkeys(name for name in reads if name and name not in own))
        own.update(node.output)
    found.update(dict.fromkeys(v.name for v in proto.output if v.name not in own))
    return list(found)


def _value(attribute: Any) -> Any:
    kind = attribute.type
    if kind == AttributeProto.STRING:
        return attribute.s.decode()
    if kind == AttributeProto.STRINGS:
        return [text.decode() for text in attribute.strings]
    if kind == AttributeProto.TENSOR:
        return frozen(to_array(attribute.t))
    if kind == AttributeProto.TENSORS:
        return [frozen(to_array(tensor)) for tensor in attribute.tensors]
    if kind == AttributeProto.SPARSE_TENSOR:
        return frozen(_dense(attribute.sparse_tensor))
    value = helper.get_attribute_value(attribute)
    return list(value) if kind in (AttributeProto.FLOATS, AttributeProto.INTS) else value


def to_array(tensor: Any) -> NDArray[Any]:
    """Return a tensor's values; dtypes that NumPy lacks are those of ml_dtypes."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise OnnxError("its data are in another file, give the path of the model")
    return numpy_helper.to_array(tensor)


def _dense(sparse: Any) -> NDArray[Any]:
    values, indices = to_array(sparse.values), to_array(sparse.indices)
    dims = [int(size) for size in sparse.dims]
    if min(dims, default=1) < 0 or math.prod(dims) * values.itemsize > _LARGEST_DENSE:
        raise OnnxError(f"a sparse tensor should have less than 2 GiB, got size {dims}")
    dense = np.zeros(dims, values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense


_CONSTANTS = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_string": np.object_,
    "value_strings": np.object_,
}


def _constant(node: Node) -> NDArray[Any]:
    if len(node.attributes) != 1:
        raise node.error(f"it should have one attribute, got {sorted(node.attributes)}")
    ((kind, value),) = node.attributes.items()
    if kind in ("value", "sparse_value"):
        return value
    if kind not in _CONSTANTS:
        raise node.error(f"its attribute {kind!r} is not supported")
    return np.array(value, _CONSTANTS[kind])


def _types(infos: Iterable[Any]) -> dict[str, Type]:
    types = {}
    for info in infos:
        if info.type.HasField("tensor_type"):
            types[info.name] = _type(info.type.tensor_type)
    return types


def _type(tensor: Any) -> Type:
    try:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except (KeyError, ValueError, TypeError):
        dtype = None
    if not tensor.HasField("shape"):
        return Type(dtype)
    return Type(dtype, tuple(map(_size, tensor.shape.dim)))


def _size(dim: Any) -> int | str | None:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None  # some files say -1 for any
    return dim.dim_param or None


def _captured(graph: Graph) -> list[str]:
    known = {*graph.constants, *graph.inputs}
    found: dict[str, None] = {}
    for node in graph.nodes:
        found.update(dict.fromkeys(name for name in node.inputs if name and name not in known))
        known.update(node.outputs)
    found.update(dict.fromkeys(name for name in graph.outputs if name not in known))
    return list(found)
