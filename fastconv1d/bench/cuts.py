"""The convolutions of an ONNX model, each cut out as a model of its own with its real input."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .contestants import Feeds

KINDS = ("Conv", "ConvTranspose")
_LARGEST_PROTO = (1 << 31) - 1  # bytes of a protobuf


@dataclass(frozen=True)
class Cut:
    """One convolution, and the names of all nodes that do the same on inputs of that size."""

    name: str
    model: bytes
    feeds: Feeds
    flops: int
    arrays: Sequence[np.ndarray]
    attributes: Mapping[str, Any]
    transposed: bool
    nodes: list[str] = field(default_factory=list)

    def torch_function(self) -> Callable[[Any], Any]:
        """Return torch's function of the input that does what the node does."""
        import torch

        functional = torch.nn.functional
        n_axes = self.arrays[0].ndim - 2
        kind = "conv_transpose" if self.transposed else "conv"
        function = getattr(functional, f"{kind}{n_axes}d")
        weight, *bias = (torch.from_numpy(np.array(each)) for each in self.arrays[1:])
        window, pads = _window(self.attributes, self.arrays, self.transposed)
        begin, end = pads[:n_axes], pads[n_axes:]
        if self.transposed:
            if begin != end or any(each < 0 for each in begin):
                raise ValueError(f"torch has no transposed convolution of pads {pads}")
            window["output_padding"] = self.attributes.get("output_padding", [0] * n_axes)
        padded = begin != end
        call = partial(
            function,
            weight=weight,
            bias=bias[0] if bias else None,
            padding=[0] * n_axes if padded else begin,
            groups=self.attributes.get("group", 1),
            **window,
        )
        if not padded:
            return call
        sides = [size for pair in zip(begin[::-1], end[::-1], strict=True) for size in pair]
        return lambda x: call(functional.pad(x, sides))


def _window(
    attributes: Mapping[str, Any], arrays: Sequence[np.ndarray], transposed: bool
) -> tuple[dict[str, Any], list[int]]:
    """Return stride and dilation, and the pads: of all beginnings, then of all ends."""
    sizes, kernel = arrays[0].shape[2:], arrays[1].shape[2:]
    stride = list(attributes.get("strides", [1] * len(kernel)))
    dilation = list(attributes.get("dilations", [1] * len(kernel)))
    pads = list(attributes.get("pads", [0] * (2 * len(kernel))))
    auto = attributes.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER") and not transposed:
        begin, end = [], []
        for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
            total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
            small, large = total // 2, total - total // 2
            begin.append(small if auto == "SAME_UPPER" else large)
            end.append(total - begin[-1])
        pads = begin + end
    elif auto not in ("NOTSET", "VALID"):
        raise ValueError(f"torch has no auto_pad {auto} of a transposed convolution")
    return {"stride": stride, "dilation": dilation}, pads


def cut_out(path: str, feeds: Feeds) -> tuple[list[Cut], int]:
    """Return the distinct convolutions of a model, and how many more lie inside its nodes.

    Convolutions with the same attributes on arrays of the same sizes are one.
    """
    from ..onnx.read import load

    proto = load(path)
    nodes = [node for node in proto.graph.node if node.op_type in KINDS and not node.domain]
    inside = sum(map(_n_inside, proto.graph.node))
    if not nodes or proto.ByteSize() >= _LARGEST_PROTO:
        return [], inside + len(nodes)
    values = _values(proto, feeds, nodes)
    cuts: dict[Any, Cut] = {}
    for node in nodes:
        arrays = [values[name] for name in node.input if name]
        attributes = {a.name: _plain(helper.get_attribute_value(a)) for a in node.attribute}
        key = (node.op_type, repr(sorted(attributes.items())), *(a.shape for a in arrays))
        if key not in cuts:
            cuts[key] = _cut(node, arrays, attributes, proto)
        cuts[key].nodes.append(node.name or node.output[0])
    return list(cuts.values()), inside


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _n_inside(node: onnx.NodeProto) -> int:
    """Count the convolutions in the bodies of a node."""
    bodies = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    found = [n for body in bodies for n in body.node]
    return sum(node.op_type in KINDS for node in found) + sum(map(_n_inside, found))


def _values(
    proto: onnx.ModelProto, feeds: Feeds, nodes: Sequence[onnx.NodeProto]
) -> dict[str, np.ndarray]:
    """Return what the nodes read: constants, inputs, and what the model computes of them."""
    values = {each.name: numpy_helper.to_array(each) for each in proto.graph.initializer}
    values |= feeds
    needed = dict.fromkeys(name for node in nodes for name in node.input if name not in values)
    wanted = [name for name in needed if name]
    if wanted:
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        del copy.graph.output[:]
        copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
        values |= zip(wanted, _computed(copy, feeds, wanted), strict=True)
    return values


def _computed(proto: onnx.ModelProto, feeds: Feeds, wanted: list[str]) -> list[np.ndarray]:
    try:
        import onnxruntime
    except ImportError:
        from ..onnx import from_onnx

        return from_onnx(proto).compute(dict(feeds), wanted)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=providers)
    return list(session.run(wanted, dict(feeds)))


def _cut(
    node: onnx.NodeProto,
    arrays: Sequence[np.ndarray],
    attributes: Mapping[str, Any],
    proto: onnx.ModelProto,
) -> Cut:
    names = ["x", "weight", "bias"][: len(arrays)]
    own = helper.make_node(node.op_type, names, ["y"], "convolution", **attributes)
    x, weight = arrays[:2]
    dtype = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph(
        [own],
        "convolution",
        [helper.make_tensor_value_info("x", dtype, x.shape)],
        [helper.make_tensor_value_info("y", dtype, [None] * x.ndim)],
        [numpy_helper.from_array(a, n) for a, n in zip(arrays[1:], names[1:], strict=True)],
    )
    opsets = [each for each in proto.opset_import if each.domain in ("", "ai.onnx")]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=min(proto.ir_version, 10))
    transposed = node.op_type == "ConvTranspose"
    feeds = {"x": np.ascontiguousarray(x)}
    data = model.SerializeToString()
    flops = 2 * weight.size * x.shape[0] * _positions(data, feeds, transposed)
    name = _described(node.op_type, x, weight, attributes)
    return Cut(name, data, feeds, flops, list(arrays), attributes, transposed)


def _positions(model: bytes, feeds: Feeds, transposed: bool) -> int:
    """Return how often each item meets the kernel: once an output, or an input if transposed."""
    if transposed:
        return int(np.prod(feeds["x"].shape[2:]))
    inferred = onnx.shape_inference.infer_shapes(onnx.load_from_string(model), data_prop=True)
    sizes = inferred.graph.output[0].type.tensor_type.shape.dim[2:]
    return int(np.prod([size.dim_value for size in sizes]))


def _described(kind: str, x: np.ndarray, weight: np.ndarray, attributes: Mapping[str, Any]) -> str:
    """Return a line such as 'Conv 80 -> 512 K7 s1, (1, 80, 200)'."""
    groups = attributes.get("group", 1)
    outputs = weight.shape[1] * groups if kind == "ConvTranspose" else weight.shape[0]
    parts = [f"{kind} {x.shape[1]} -> {outputs} K{'x'.join(map(str, weight.shape[2:]))}"]
    for letter, name in (("s", "strides"), ("d", "dilations")):
        if any(each != 1 for each in attributes.get(name, [])):
            parts.append(letter + "x".join(map(str, dict.fromkeys(attributes[name]))))
    parts += [f"g{groups}"] if groups > 1 else []
    return f"{' '.join(parts)}, {tuple(x.shape)}"
