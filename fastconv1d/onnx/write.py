"""A network of this library as an ONNX model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import helper, numpy_helper

from ..core import geometry
from ..core.activations import SNAKE_EPSILON, Activation, parse_activation
from ..core.program import Activate, Combine, Convolve
from ..sequential import lowered
from .registry import OnnxError

_OPSET, _IR_VERSION = 20, 9  # the first with Gelu, and what runtimes of that time read

_MODE_NAMES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def to_onnx(network: Any) -> onnx.ModelProto:
    """Write a network of layers as an ONNX model.

    Parameters
    ----------
    network : Sequential, Residual, Mean, Conv1d, ConvTranspose1d or activation
        With one convolution at least, whose dtype is the model's.

    Returns
    -------
    onnx.ModelProto
        With the input 'input' of size (N, C_in, L), N and L of any size, and the output 'output'.
        ``onnx.save(model, path)`` writes a file, ``model.SerializeToString()`` gives bytes.

    Raises
    ------
    TypeError
        If `network` is none of these.
    OnnxError
        If a layer has no counterpart in ONNX: complex dtypes, padding modes of transposed layers,
        and a padding mode with padding that follows the length.

    Examples
    --------
    >>> from fastconv1d import Conv1d, ReLU, Sequential
    >>> from fastconv1d.onnx import to_onnx
    >>> model = to_onnx(Sequential(Conv1d(2, 3, 5), ReLU()))
    >>> [node.op_type for node in model.graph.node]
    ['Conv', 'Relu']
    """
    return _Writer(lowered(network)).model()


class _Writer:
    """Nodes and constants of a graph; values have the numbers of the lowered operations."""

    def __init__(self, operations: Sequence[Any]) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.layers = [op.layer for op in operations if isinstance(op, Convolve)]
        if not self.layers:
            raise OnnxError("a network without a convolution has no dtype")
        self.dtype = self.layers[0].dtype
        self.channels = self.layers[0].in_channels
        self.result = len(operations)
        for operation in operations:
            self._write(operation)

    def _value(self, number: int) -> str:
        return {0: "input", self.result: "output"}.get(number, f"value_{number}")

    def _write(self, operation: Any) -> None:
        sources = [self._value(source) for source in operation.sources]
        target = self._value(operation.target)
        name = operation.name or type(operation.layer).__name__
        if isinstance(operation, Convolve):
            self._convolution(name, operation.layer, sources[0], target)
        elif isinstance(operation, Activate):
            activation = parse_activation(operation.layer.activation)
            assert activation is not None
            self._activation(name, activation, sources[0], target)
        elif isinstance(operation, Combine):
            self._sum(name, operation, sources, target)

    def _node(self, op: str, name: str, inputs: list[str], output: str, **attributes: Any) -> str:
        node = helper.make_node(op, inputs, [output], name=f"{name}/{op}/{output}", **attributes)
        self.nodes.append(node)
        return output

    def _constant(self, name: str, value: ArrayLike, dtype: Any = None) -> str:
        self.constants[name] = np.asarray(value, self.dtype if dtype is None else dtype)
        return name

    def _convolution(self, name: str, layer: Any, source: str, target: str) -> None:
        if layer.dtype.kind != "f":
            raise OnnxError(f"layer {name}: ONNX has no convolution of dtype {layer.dtype}")
        if layer.layout != "NCL":
            raise OnnxError(f"layer {name}: ONNX has no layout {layer.layout}")
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
        inputs = [source, self._constant(f"{name}.weight", layer.weight)]
        if layer.bias is not None:
            inputs.append(self._constant(f"{name}.bias", layer.bias))
        op = "ConvTranspose" if layer.transposed else "Conv"
        convolved = self._node(
            op, name, inputs, target if after is None else f"{target}.sum", **attributes
        )
        if after is not None:
            self._activation(name, after, convolved, target)

    def _padded(self, name: str, mode: str, pads: list[int], source: str) -> str:
        if mode not in _MODE_NAMES or min(pads) < 0:
            raise OnnxError(f"layer {name}: no padding_mode={mode!r} in ONNX")
        widths = self._constant(f"{name}.pads", [0, 0, pads[0], 0, 0, pads[1]], np.int64)
        return self._node("Pad", name, [source, widths], f"{name}.padded", mode=_MODE_NAMES[mode])

    def _activation(self, name: str, activation: Activation, source: str, target: str) -> str:
        kind = activation.name
        if kind in ("relu", "tanh", "sigmoid"):
            return self._node(kind.capitalize(), name, [source], target)
        if kind in ("leaky_relu", "elu"):
            op = {"leaky_relu": "LeakyRelu", "elu": "Elu"}[kind]
            return self._node(op, name, [source], target, alpha=activation.parameter)
        if kind in ("gelu", "gelu_tanh"):
            approximate = "tanh" if kind == "gelu_tanh" else "none"
            return self._node("Gelu", name, [source], target, approximate=approximate)
        if kind == "silu":
            share = self._node("Sigmoid", name, [source], f"{target}.sigmoid")
            return self._node("Mul", name, [source, share], target)
        if kind == "snake" and activation.alpha is not None:
            alpha = activation.alpha.reshape(-1, 1)
            factor = self._constant(f"{name}.alpha", alpha)
            inverse = self._constant(f"{name}.inverse", 1 / (alpha + SNAKE_EPSILON))
            scaled = self._node("Mul", name, [source, factor], f"{target}.scaled")
            sine = self._node("Sin", name, [scaled], f"{target}.sine")
            square = self._node("Mul", name, [sine, sine], f"{target}.square")
            wave = self._node("Mul", name, [square, inverse], f"{target}.wave")
            return self._node("Add", name, [source, wave], target)
        raise OnnxError(f"layer {name}: no counterpart of {kind} in ONNX")

    def _sum(self, name: str, operation: Any, sources: list[str], target: str) -> None:
        *first, last = sources
        if operation.last != 1:
            factor = self._constant(f"{target}.last", operation.last)
            last = self._node("Mul", name, [last, factor], f"{target}.scaled")
        total = first[0] if first else last
        rest = [*first[1:], last] if first else []
        for i, term in enumerate(rest):
            final = i + 1 == len(rest) and operation.total == 1
            output = target if final else f"{target}.sum_{i}"
            total = self._node("Add", name, [total, term], output)
        if operation.total != 1:
            factor = self._constant(f"{target}.total", operation.total)
            self._node("Mul", name, [total, factor], target)
        elif not rest:
            self._node("Identity", name, [total], target)

    def model(self) -> onnx.ModelProto:
        """Return the checked model."""
        element = helper.np_dtype_to_tensor_dtype(self.dtype)
        ends = [
            helper.make_tensor_value_info("input", element, ["N", self.channels, "L"]),
            helper.make_tensor_value_info("output", element, ["N", None, "L_out"]),
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
