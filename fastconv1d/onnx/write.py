"""A network of this library as an ONNX model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import helper, numpy_helper

from ..core import geometry
from ..core.activations import SNAKE_EPSILON, SOFTPLUS_THRESHOLD, Activation, parse_activation
from ..core.program import Activate, Combine, Convolve, Dense, infer_shapes
from ..elementwise import GLU, Dropout, Identity, Softmax
from ..normalization import BatchNorm1d, GroupNorm, InstanceNorm1d, LayerNorm
from ..pooling import AdaptiveAvgPool1d, AdaptiveMaxPool1d, AvgPool1d, MaxPool1d
from ..recurrent import GRU, LSTM, Recurrent
from ..sequential import Concat, Gate, lowered
from ..shaping import Flatten, Select, Transpose, Upsample
from .registry import OnnxError

_OPSET, _IR_VERSION = 20, 9  # the first with Gelu, and what runtimes of that time read

# Sizes in the place of those that are open, to find how many dimensions each value has.
_STAND_INS = {"N": 2, "L": 1 << 16}
_MODE_NAMES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def to_onnx(network: Any, input_shape: Sequence[int] | None = None) -> onnx.ModelProto:
    """Write a network of layers as an ONNX model.

    Parameters
    ----------
    network : Sequential or another network, or a layer
        With one layer at least that has parameters, whose dtype is the model's.
    input_shape : sequence of int, optional
        The size of the input, which poolings to a given length need, other than to 1, and networks
        of other inputs than (N, C, L).

    Returns
    -------
    onnx.ModelProto
        With the input 'input' of size (N, C_in, L), N and L of any size, or of `input_shape` with
        any N, and the output 'output'. ``onnx.save(model, path)`` writes a file,
        ``model.SerializeToString()`` gives bytes.

    Raises
    ------
    TypeError
        If `network` is none of these.
    OnnxError
        If a layer has no counterpart in ONNX: complex dtypes, padding modes of transposed layers,
        a padding mode with padding that follows the length, and poolings to a length that does not
        divide the input's.

    Examples
    --------
    >>> from fastconv1d import Conv1d, ReLU, Sequential
    >>> from fastconv1d.onnx import to_onnx
    >>> model = to_onnx(Sequential(Conv1d(2, 3, 5), ReLU()))
    >>> [node.op_type for node in model.graph.node]
    ['Conv', 'Relu']
    """
    shape = None if input_shape is None else tuple(input_shape)
    return _Writer(lowered(network), shape).model()


class _Writer:
    """Nodes and constants of a graph; values have the numbers of the lowered operations."""

    def __init__(self, operations: Sequence[Any], shape: tuple[int, ...] | None) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}
        dtypes = [getattr(op.layer, "dtype", None) for op in operations]
        dtype = next((d for d in dtypes if d is not None), None)
        if dtype is None:
            raise OnnxError("a network without a layer that has parameters has no dtype")
        self.dtype = dtype
        for op in operations:
            if getattr(op.layer, "layout", "NCL") != "NCL":
                raise OnnxError(f"layer {op.name}: ONNX has no layout {op.layer.layout}")
        self.length_is_known = shape is not None
        self.ends: tuple[Any, ...] = ()
        self.shapes = self._shapes_of(operations, shape)
        self.result = len(operations)
        for operation in operations:
            self._write(operation)

    def _shapes_of(
        self, operations: Sequence[Any], shape: tuple[int, ...] | None
    ) -> list[tuple[int, ...]]:
        """Return the shapes of all values, for any length where none is given."""
        if shape is not None:
            self.ends = ("N", *shape[1:])
            return infer_shapes(operations, shape, self.dtype)
        channels = [op.layer.in_channels for op in operations if isinstance(op, Convolve)]
        flat = isinstance(operations[0], Dense)
        self.ends = ("N", *channels[:1]) if flat else ("N", *channels[:1], "L")
        stand_in = [_STAND_INS.get(size, size) for size in self.ends]
        try:
            return infer_shapes(operations, tuple(stand_in), self.dtype)
        except (ValueError, TypeError) as error:
            raise OnnxError(
                f"the network takes no input of size {list(self.ends)}, say which with "
                f"to_onnx(network, input_shape=...): {error}"
            ) from None

    def _value(self, number: int) -> str:
        return {0: "input", self.result: "output"}.get(number, f"value_{number}")

    def _write(self, operation: Any) -> None:
        sources = [self._value(source) for source in operation.sources]
        target = self._value(operation.target)
        name = operation.name or type(operation.layer).__name__
        if isinstance(operation, Dense):
            self._dense(name, operation.layer, sources[0], target)
        elif isinstance(operation, Convolve):
            self._convolution(name, operation.layer, sources[0], target)
        elif isinstance(operation, Activate):
            activation = parse_activation(operation.layer.activation)
            assert activation is not None
            rank = len(self.shapes[operation.sources[0]])
            self._activation(name, activation, sources[0], target, rank)
        elif isinstance(operation, Combine):
            self._sum(name, operation, sources, target)
        else:
            write = _WRITERS.get(type(operation.layer))
            if write is None:
                kind = type(operation.layer).__name__
                raise OnnxError(f"layer {name}: no counterpart of {kind} in ONNX")
            shapes = [self.shapes[source] for source in operation.sources]
            write(self, _Place(name, sources, target, shapes), operation.layer)

    def node(
        self, op: str, name: str, inputs: Sequence[str], *outputs: str, **attributes: Any
    ) -> str:
        """Append a node; return its first output."""
        text = f"{name}/{op}/{outputs[0]}"
        self.nodes.append(helper.make_node(op, inputs, outputs, name=text, **attributes))
        return outputs[0]

    def constant(self, name: str, value: ArrayLike, dtype: Any = None) -> str:
        """Add a constant of the model's dtype, or of another; return its name."""
        self.constants[name] = np.asarray(value, self.dtype if dtype is None else dtype)
        return name

    def _convolution(self, name: str, layer: Any, source: str, target: str) -> None:
        if layer.dtype.kind != "f":
            raise OnnxError(f"layer {name}: ONNX has no convolution of dtype {layer.dtype}")
        before = parse_activation(layer.pre_activation)
        after = parse_activation(layer.activation)
        if before is not None:
            source = self._activation(f"{name}.pre", before, source, f"{target}.pre")
        stride, dilation, kernel = layer.stride[0], layer.dilation[0], layer.kernel_size[0]
        attributes: dict[str, Any] = {
            "strides": [stride],
            "dilations": [dilation],
            "group": layer.groups,
            "kernel_shape": [kernel],
        }
        if layer.transposed:
            pads = list(geometry.resolve_cropping(layer.padding, kernel, stride, dilation))
            attributes["output_padding"] = list(layer.output_padding)
            if layer.padding_mode != "zeros":
                raise OnnxError(f"layer {name}: no padding_mode={layer.padding_mode!r} in ONNX")
        elif not geometry.pads_follow_length(layer.padding, stride):
            pads = list(geometry.resolve_padding(layer.padding, kernel, stride, dilation))
            if layer.padding_mode != "zeros":
                source = self._padded(name, layer.padding_mode, pads, source)
                pads = [0, 0]
        elif layer.padding_mode == "zeros":
            attributes["auto_pad"] = layer.padding.upper()
            pads = []
        else:
            raise OnnxError(f"layer {name}: no padding_mode={layer.padding_mode!r} in ONNX here")
        if pads:
            attributes["pads"] = pads
        inputs = [source, self.constant(f"{name}.weight", layer.weight)]
        if layer.bias is not None:
            inputs.append(self.constant(f"{name}.bias", layer.bias))
        op = "ConvTranspose" if layer.transposed else "Conv"
        convolved = self.node(
            op, name, inputs, target if after is None else f"{target}.sum", **attributes
        )
        if after is not None:
            self._activation(name, after, convolved, target)

    def _dense(self, name: str, layer: Any, source: str, target: str) -> None:
        matrix = self.constant(f"{name}.weight", layer.weight.T)
        if layer.bias is None:
            self.node("MatMul", name, [source, matrix], target)
            return
        product = self.node("MatMul", name, [source, matrix], f"{target}.product")
        self.node("Add", name, [product, self.constant(f"{name}.bias", layer.bias)], target)

    def _padded(self, name: str, mode: str, pads: list[int], source: str) -> str:
        if mode not in _MODE_NAMES or min(pads) < 0:
            raise OnnxError(f"layer {name}: no padding_mode={mode!r} in ONNX")
        widths = self.constant(f"{name}.pads", [0, 0, pads[0], 0, 0, pads[1]], np.int64)
        return self.node("Pad", name, [source, widths], f"{name}.padded", mode=_MODE_NAMES[mode])

    def _activation(
        self, name: str, activation: Activation, source: str, target: str, rank: int = 3
    ) -> str:
        kind = activation.name
        if kind in ("relu", "tanh", "sigmoid"):
            return self.node(kind.capitalize(), name, [source], target)
        if kind in ("leaky_relu", "elu"):
            op = {"leaky_relu": "LeakyRelu", "elu": "Elu"}[kind]
            return self.node(op, name, [source], target, alpha=activation.parameter)
        if kind in ("gelu", "gelu_tanh"):
            approximate = "tanh" if kind == "gelu_tanh" else "none"
            return self.node("Gelu", name, [source], target, approximate=approximate)
        if kind in ("hardswish", "mish"):
            return self.node(
                {"hardswish": "HardSwish", "mish": "Mish"}[kind], name, [source], target
            )
        if kind == "relu6":
            ends = [self.constant(f"{name}.{end}", end) for end in (0, 6)]
            return self.node("Clip", name, [source, *ends], target)
        if kind == "softplus":
            return self._softplus(name, activation, source, target)
        if kind == "prelu" and activation.alpha is not None:
            slopes = activation.alpha
            if slopes.ndim:
                slopes = slopes.reshape(-1, *(1,) * (rank - 2))
            slope = self.constant(f"{name}.slope", slopes)
            return self.node("PRelu", name, [source, slope], target)
        if kind == "silu":
            share = self.node("Sigmoid", name, [source], f"{target}.sigmoid")
            return self.node("Mul", name, [source, share], target)
        if kind == "snake" and activation.alpha is not None:
            alpha = activation.alpha.reshape(-1, 1)
            factor = self.constant(f"{name}.alpha", alpha)
            inverse = self.constant(f"{name}.inverse", 1 / (alpha + SNAKE_EPSILON))
            scaled = self.node("Mul", name, [source, factor], f"{target}.scaled")
            sine = self.node("Sin", name, [scaled], f"{target}.sine")
            square = self.node("Mul", name, [sine, sine], f"{target}.square")
            wave = self.node("Mul", name, [square, inverse], f"{target}.wave")
            return self.node("Add", name, [source, wave], target)
        raise OnnxError(f"layer {name}: no counterpart of {kind} in ONNX")

    def _softplus(self, name: str, activation: Activation, source: str, target: str) -> str:
        beta, limit = activation.parameter, activation.limit
        plain = limit == SOFTPLUS_THRESHOLD  # beyond which log(1 + e^x) is x
        if beta == 1 and plain:
            return self.node("Softplus", name, [source], target)
        factor = self.constant(f"{name}.beta", beta)
        scaled = self.node("Mul", name, [source, factor], f"{target}.scaled")
        bent = self.node("Softplus", name, [scaled], f"{target}.bent")
        if plain:
            return self.node("Div", name, [bent, factor], target)
        back = self.node("Div", name, [bent, factor], f"{target}.back")
        threshold = self.constant(f"{name}.threshold", limit)
        beyond = self.node("Greater", name, [scaled, threshold], f"{target}.beyond")
        return self.node("Where", name, [beyond, source, back], target)

    def _sum(self, name: str, operation: Any, sources: list[str], target: str) -> None:
        *first, last = sources
        if operation.last != 1:
            factor = self.constant(f"{target}.last", operation.last)
            last = self.node("Mul", name, [last, factor], f"{target}.scaled")
        total = first[0] if first else last
        rest = [*first[1:], last] if first else []
        for i, term in enumerate(rest):
            final = i + 1 == len(rest) and operation.total == 1
            output = target if final else f"{target}.sum_{i}"
            total = self.node("Add", name, [total, term], output)
        if operation.total != 1:
            factor = self.constant(f"{target}.total", operation.total)
            self.node("Mul", name, [total, factor], target)
        elif not rest:
            self.node("Identity", name, [total], target)

    def model(self) -> onnx.ModelProto:
        """Return the checked model."""
        element = helper.np_dtype_to_tensor_dtype(self.dtype)
        ends = [
            helper.make_tensor_value_info("input", element, self.ends),
            helper.make_tensor_value_info(
                "output", element, [None] * len(self.shapes[self.result])
            ),
        ]
        constants = [numpy_helper.from_array(v, k) for k, v in self.constants.items()]
        graph = helper.make_graph(self.nodes, "fastconv1d", ends[:1], ends[1:], constants)
        model = helper.make_model(
            graph,
            producer_name="fastconv1d",
            ir_version=_IR_VERSION,
            opset_imports=[helper.make_opsetid("", _OPSET)],
        )
        onnx.checker.check_model(model)
        return model


# ---- layers between convolutions -----------------------------------------------------------------


class _Place(NamedTuple):
    """Where a layer is in the graph."""

    name: str
    sources: list[str]
    target: str
    shapes: list[tuple[int, ...]]  # of its inputs, whose lengths count where the network's is given


def _max_pool(writer: _Writer, at: _Place, layer: MaxPool1d) -> None:
    writer.node(
        "MaxPool",
        at.name,
        at.sources,
        at.target,
        kernel_shape=[layer.kernel_size],
        strides=[layer.stride],
        pads=[layer.padding] * 2,
        dilations=[layer.dilation],
        ceil_mode=int(layer.ceil_mode),
    )


def _average_pool(writer: _Writer, at: _Place, layer: AvgPool1d) -> None:
    writer.node(
        "AveragePool",
        at.name,
        at.sources,
        at.target,
        kernel_shape=[layer.kernel_size],
        strides=[layer.stride],
        pads=[layer.padding] * 2,
        ceil_mode=int(layer.ceil_mode),
        count_include_pad=int(layer.count_include_pad),
    )


def _adaptive_pool(writer: _Writer, at: _Place, layer: Any) -> None:
    kind = "MaxPool" if isinstance(layer, AdaptiveMaxPool1d) else "AveragePool"
    if layer.output_size == 1:
        writer.node(f"Global{kind}", at.name, at.sources, at.target)
        return
    if not writer.length_is_known:
        raise OnnxError(
            f"layer {at.name}: {type(layer).__name__}(output_size={layer.output_size}) needs "
            "to_onnx(network, input_shape=(N, C, L))"
        )
    length = at.shapes[0][-1]
    if length % layer.output_size:
        raise OnnxError(
            f"layer {at.name}: ONNX has no pooling of {length} positions to {layer.output_size}, "
            "which does not divide them"
        )
    size = [length // layer.output_size]
    writer.node(kind, at.name, at.sources, at.target, kernel_shape=size, strides=size)


def _channel_numbers(
    writer: _Writer, at: _Place, layer: Any, channels: int, dtype: Any
) -> list[str]:
    """Return the names of scale and shift of each channel, ones and zeros where there are none."""
    weight = np.ones(channels, dtype) if layer.weight is None else layer.weight
    bias = np.zeros(channels, dtype) if layer.bias is None else layer.bias
    return [writer.constant(f"{at.name}.{k}", v) for k, v in (("weight", weight), ("bias", bias))]


def _tracked(writer: _Writer, at: _Place, layer: Any) -> None:
    """A batch norm, or an instance norm, by running statistics."""
    inputs = _channel_numbers(writer, at, layer, layer.num_features, writer.dtype)
    for name in ("running_mean", "running_var"):
        inputs.append(writer.constant(f"{at.name}.{name}", getattr(layer, name)))
    inputs = [at.sources[0], *inputs]
    writer.node("BatchNormalization", at.name, inputs, at.target, epsilon=layer.eps)


def _batch_norm(writer: _Writer, at: _Place, layer: BatchNorm1d) -> None:
    if not layer.track_running_stats:
        raise OnnxError(f"layer {at.name}: a BatchNorm1d by the batch has no counterpart in ONNX")
    _tracked(writer, at, layer)


def _instance_norm(writer: _Writer, at: _Place, layer: InstanceNorm1d) -> None:
    if layer.track_running_stats:
        _tracked(writer, at, layer)
        return
    inputs = _channel_numbers(writer, at, layer, layer.num_features, writer.dtype)
    inputs = [at.sources[0], *inputs]
    writer.node("InstanceNormalization", at.name, inputs, at.target, epsilon=layer.eps)


def _group_norm(writer: _Writer, at: _Place, layer: GroupNorm) -> None:
    """As torch exports it: an instance norm of groups, then scale and shift of channels."""
    groups, name, dtype = layer.num_groups, at.name, writer.dtype
    grouped = writer.constant(f"{name}.groups", [0, groups, -1], np.int64)
    shape = writer.node("Shape", name, at.sources, f"{at.target}.shape")
    rows = writer.node("Reshape", name, [at.sources[0], grouped], f"{at.target}.rows")
    ones = writer.constant(f"{name}.ones", np.ones(groups, dtype))
    zeros = writer.constant(f"{name}.zeros", np.zeros(groups, dtype))
    normal = writer.node(
        "InstanceNormalization", name, [rows, ones, zeros], f"{at.target}.normal", epsilon=layer.eps
    )
    back = writer.node("Reshape", name, [normal, shape], f"{at.target}.back")
    scale, shift = (
        writer.constant(f"{name}.{key}", values.reshape(-1, *(1,) * (len(at.shapes[0]) - 2)))
        for key, values in (
            ("weight", np.ones(layer.num_channels) if layer.weight is None else layer.weight),
            ("bias", np.zeros(layer.num_channels) if layer.bias is None else layer.bias),
        )
    )
    scaled = writer.node("Mul", name, [back, scale], f"{at.target}.scaled")
    writer.node("Add", name, [scaled, shift], at.target)


def _layer_norm(writer: _Writer, at: _Place, layer: LayerNorm) -> None:
    shape = layer.normalized_shape
    weight = np.ones(shape) if layer.weight is None else layer.weight
    inputs = [at.sources[0], writer.constant(f"{at.name}.weight", weight)]
    if layer.bias is not None:
        inputs.append(writer.constant(f"{at.name}.bias", layer.bias))
    axis = -len(shape)
    writer.node("LayerNormalization", at.name, inputs, at.target, axis=axis, epsilon=layer.eps)


def _flatten(writer: _Writer, at: _Place, layer: Flatten) -> None:
    if (layer.start_dim, layer.end_dim) == (1, -1):
        writer.node("Flatten", at.name, at.sources, at.target)
        return
    n = len(at.shapes[0])
    start, end = layer.start_dim % n, layer.end_dim % n
    if end + 1 < n and not writer.length_is_known:
        raise OnnxError(
            f"layer {at.name}: Flatten({layer.start_dim}, {layer.end_dim}) needs "
            "to_onnx(network, input_shape=(N, C, L))"
        )
    sizes = [0] * start + [-1] + list(at.shapes[0][end + 1 :])
    shape = writer.constant(f"{at.name}.shape", sizes, np.int64)
    writer.node("Reshape", at.name, [at.sources[0], shape], at.target)


def _transpose(writer: _Writer, at: _Place, layer: Transpose) -> None:
    axes = list(range(len(at.shapes[0])))
    axes[layer.dim0], axes[layer.dim1] = axes[layer.dim1], axes[layer.dim0]
    writer.node("Transpose", at.name, at.sources, at.target, perm=axes)


def _select(writer: _Writer, at: _Place, layer: Select) -> None:
    index = writer.constant(f"{at.name}.index", np.asarray(layer.index), np.int64)
    writer.node("Gather", at.name, [at.sources[0], index], at.target, axis=layer.dim)


def _upsample(writer: _Writer, at: _Place, layer: Upsample) -> None:
    corners = "align_corners" if layer.align_corners else "pytorch_half_pixel"
    attributes: dict[str, Any] = {"mode": "linear", "coordinate_transformation_mode": corners}
    if layer.mode == "nearest":
        attributes = {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
    # Of the last axis only: N and C keep any size.
    if layer.size is None:
        given = ["", writer.constant(f"{at.name}.scales", [1, 1, layer.scale_factor], np.float32)]
    else:
        name, target = at.name, at.target
        shape = writer.node("Shape", name, at.sources, f"{target}.shape", end=2)
        length = writer.constant(f"{name}.length", [layer.size], np.int64)
        given = ["", "", writer.node("Concat", name, [shape, length], f"{target}.sizes", axis=0)]
    writer.node("Resize", at.name, [at.sources[0], *given], at.target, **attributes)


def _softmax(writer: _Writer, at: _Place, layer: Softmax) -> None:
    writer.node("Softmax", at.name, at.sources, at.target, axis=layer.dim)


def _halves(writer: _Writer, at: _Place, axis: int) -> list[str]:
    names = [f"{at.target}.a", f"{at.target}.b"]
    writer.node("Split", at.name, at.sources, *names, axis=axis, num_outputs=2)
    return names


def _glu(writer: _Writer, at: _Place, layer: GLU) -> None:
    a, b = _halves(writer, at, layer.dim)
    share = writer.node("Sigmoid", at.name, [b], f"{at.target}.share")
    writer.node("Mul", at.name, [a, share], at.target)


def _gate(writer: _Writer, at: _Place, layer: Gate) -> None:
    a, b = at.sources if len(at.sources) == 2 else _halves(writer, at, -2)
    bent = writer.node("Tanh", at.name, [a], f"{at.target}.bent")
    share = writer.node("Sigmoid", at.name, [b], f"{at.target}.share")
    writer.node("Mul", at.name, [bent, share], at.target)


def _concat(writer: _Writer, at: _Place, layer: Concat) -> None:
    writer.node("Concat", at.name, at.sources, at.target, axis=layer.dim)


def _copy(writer: _Writer, at: _Place, layer: Any) -> None:
    writer.node("Identity", at.name, at.sources, at.target)


def _recurrent(writer: _Writer, at: _Place, layer: Recurrent) -> None:
    """One node a layer, between exchanges of batch and time for batch_first."""
    if getattr(layer, "proj_size", 0):
        raise OnnxError(f"layer {at.name}: ONNX has no LSTM with projections")
    name, (value,) = at.name, at.sources
    if layer.batch_first:
        value = writer.node("Transpose", name, [value], f"{at.target}.steps", perm=[1, 0, 2])
    lstm = isinstance(layer, LSTM)
    order = [0, 3, 1, 2] if lstm else [1, 0, 2]  # of ONNX's gates among torch's
    attributes: dict[str, Any] = {} if lstm else {"linear_before_reset": 1}
    if layer.bidirectional:
        attributes["direction"] = "bidirectional"
    for i, suffixes in enumerate(layer.suffixes()):
        inputs = [value]
        for key in ("weight_ih", "weight_hh"):
            matrices = [_reordered(getattr(layer, f"{key}_{s}"), order) for s in suffixes]
            inputs.append(writer.constant(f"{name}.{key}_l{i}", np.stack(matrices)))
        if layer.bias:
            biases = [
                np.concatenate(
                    [
                        _reordered(getattr(layer, f"{key}_{s}"), order)
                        for key in ("bias_ih", "bias_hh")
                    ]
                )
                for s in suffixes
            ]
            inputs.append(writer.constant(f"{name}.bias_l{i}", np.stack(biases)))
        kind, made = type(layer).__name__, f"{at.target}.layer_{i}"
        writer.node(kind, name, inputs, made, hidden_size=layer.hidden_size, **attributes)
        # (T, directions, N, H) to (T, N, directions*H)
        turned = writer.node("Transpose", name, [made], f"{made}.turned", perm=[0, 2, 1, 3])
        joined = writer.constant(f"{name}.joined", [0, 0, -1], np.int64)
        last = i + 1 == layer.num_layers and not layer.batch_first
        output = at.target if last else f"{made}.output"
        value = writer.node("Reshape", name, [turned, joined], output)
    if layer.batch_first:
        writer.node("Transpose", name, [value], at.target, perm=[1, 0, 2])


def _reordered(array: NDArray[Any], order: list[int]) -> NDArray[Any]:
    return array.reshape(len(order), -1, *array.shape[1:])[order].reshape(array.shape)


_WRITERS: dict[type, Callable[..., None]] = {
    AdaptiveAvgPool1d: _adaptive_pool,
    AdaptiveMaxPool1d: _adaptive_pool,
    AvgPool1d: _average_pool,
    BatchNorm1d: _batch_norm,
    Concat: _concat,
    Dropout: _copy,
    Flatten: _flatten,
    GLU: _glu,
    GRU: _recurrent,
    Gate: _gate,
    GroupNorm: _group_norm,
    Identity: _copy,
    InstanceNorm1d: _instance_norm,
    LSTM: _recurrent,
    LayerNorm: _layer_norm,
    MaxPool1d: _max_pool,
    Select: _select,
    Softmax: _softmax,
    Transpose: _transpose,
    Upsample: _upsample,
}
