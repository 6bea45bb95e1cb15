"""ONNX graphs of 1-D convolutions: read into a callable, and written from a network.

Imported on request, as ``import fastconv1d.onnx``; onnx is an optional dependency.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import helper, numpy_helper

from .. import functional, geometry
from ..activations import SNAKE_EPSILON, Activation, parse_activation
from ..elementwise import ELU, GELU, LeakyReLU, ReLU, Sigmoid, Tanh
from ..folding import fold_batch_norm
from ..modules import Conv1d, ConvTranspose1d
from ..program import Activate, Combine, Convolve, output_shape
from ..sequential import lowered
from .registry import OnnxError

__all__ = ["OnnxError", "OnnxModel", "from_onnx", "to_onnx"]

_OPSET, _IR_VERSION = 20, 9  # the first with Gelu, and what runtimes of that time read

_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}
_MODE_NAMES = {"reflect": "reflect", "replicate": "edge"}


class _Node:
    """A node of a graph: its attributes as Python values, its inputs as names."""

    def __init__(self, proto: Any, constants: dict[str, NDArray[Any]]) -> None:
        self.op, self.name = proto.op_type, proto.name
        self.domain = proto.domain
        self.inputs = list(proto.input)
        self.outputs = [name for name in proto.output if name]
        self.attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
        self.constants = constants
        # of a convolution that took on what follows it: its last steps, and what one of them adds
        self.activation: Any = None
        self.residual: str | None = None
        self.residual_position = "before"

    @property
    def reads(self) -> list[str]:
        return self.inputs if self.residual is None else [*self.inputs, self.residual]

    def __str__(self) -> str:
        return f"node {self.name or self.outputs[0]!r} ({self.op})"

    def error(self, rule: str) -> OnnxError:
        return OnnxError(f"{self}: {rule}")

    def text(self, name: str, default: str) -> str:
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def constant(self, position: int) -> NDArray[Any] | None:
        """The value of an input that is a constant; None where there is none."""
        if position >= len(self.inputs) or not self.inputs[position]:
            return None
        name = self.inputs[position]
        if name not in self.constants:
            raise self.error(f"its input {name!r} should be a constant")
        return self.constants[name]

    def integers(self, name: str, position: int) -> list[int] | None:
        """A list of integers that older operator sets have as an attribute, later as an input."""
        if name in self.attributes:
            return list(self.attributes[name])
        value = self.constant(position)
        return None if value is None else [int(v) for v in value.reshape(-1)]


class _Step(NamedTuple):
    """One call: where its arguments are found, and what may be forgotten after it."""

    node: _Node
    run: Callable[..., NDArray[Any]]
    inputs: list[str]
    output: str
    done: list[str]


class OnnxModel:
    """A graph as a function of its inputs; `from_onnx` makes it.

    Parameters
    ----------
    graph : onnx.GraphProto
        The graph of a checked model.

    Attributes
    ----------
    inputs, outputs : list of str
        Their names in the graph.

    Raises
    ------
    OnnxError
        If a node cannot be computed here.

    Examples
    --------
    >>> from fastconv1d import Conv1d
    >>> from fastconv1d.onnx import from_onnx, to_onnx
    >>> model = from_onnx(to_onnx(Conv1d(4, 8, 3)))
    >>> len(model.inputs), len(model.outputs)
    (1, 1)
    """

    def __init__(self, graph: Any) -> None:
        constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        nodes = [_Node(proto, constants) for proto in graph.node]
        self.inputs = [v.name for v in graph.input if v.name not in constants]
        self.outputs = [v.name for v in graph.output]
        nodes = [node for node in nodes if not _is_constant(node)]
        self._constants = constants
        self._steps = self._plan(_fuse(_fold_norms(nodes, self.outputs), self.outputs))

    def _plan(self, nodes: list[_Node]) -> list[_Step]:
        last_use = {name: i for i, node in enumerate(nodes) for name in node.reads}
        steps = []
        for i, node in enumerate(nodes):
            if node.domain not in ("", "ai.onnx") or node.op not in _BUILDERS:
                name = f"{node.domain}.{node.op}" if node.domain else node.op
                known = ", ".join(sorted(_BUILDERS))
                raise node.error(f"{name} is not supported; supported are {known}")
            if len(node.outputs) != 1:
                raise node.error(f"only its first output is supported, got {node.outputs}")
            run, inputs = _BUILDERS[node.op](node)
            done = [
                name
                for name in set(node.reads)
                if last_use[name] == i and name not in self._constants and name not in self.outputs
            ]
            steps.append(_Step(node, run, inputs, node.outputs[0], done))
        return steps

    def __call__(self, *inputs: ArrayLike) -> Any:
        """Compute the outputs.

        Parameters
        ----------
        *inputs : array_like
            In the order of `inputs`.

        Returns
        -------
        ndarray, or tuple of ndarray where the graph has several outputs

        Raises
        ------
        ValueError, TypeError
            If the number of inputs is wrong, or a node does not take its input; the text names it.
        """
        if len(inputs) != len(self.inputs):
            raise ValueError(f"the graph takes the inputs {self.inputs}, got {len(inputs)}")
        values = dict(self._constants)
        values.update(zip(self.inputs, map(np.asarray, inputs), strict=True))
        for step in self._steps:
            try:
                with np.errstate(all="ignore"):
                    result = step.run(*(values[name] for name in step.inputs))
            except (ValueError, TypeError) as error:
                raise type(error)(f"{step.node}: {error}") from error
            values[step.output] = result
            for name in step.done:
                del values[name]
        found = tuple(values[name] for name in self.outputs)
        return found[0] if len(found) == 1 else found


def from_onnx(model: str | os.PathLike[str] | bytes | onnx.ModelProto) -> OnnxModel:
    """Read an ONNX model made of 1-D convolutions and what lies between them.

    Parameters
    ----------
    model : str, os.PathLike, bytes or onnx.ModelProto
        A path, or what such a file holds.

    Returns
    -------
    OnnxModel
        A callable with the graph's inputs and outputs.

    Raises
    ------
    OnnxError
        A ValueError: if the model is not valid, or a node or attribute is not supported; the text
        names it.
    OSError
        If the file cannot be read.

    Notes
    -----
    Supported are Conv and ConvTranspose with all their attributes, in one dimension or in two of
    which one has a kernel of size 1; BatchNormalization, folded into a convolution before it; Pad;
    Relu, LeakyRelu, Elu, Gelu, Sigmoid, Tanh; Add, Sub, Mul, Div, Pow, Erf, Sin, Reciprocal, of
    which exporters make other activations; Squeeze, Unsqueeze, Identity and Constant. Weights that
    are constants are packed once. An activation, or an addition of another value, that reads the
    output of a convolution and nothing else does becomes its last step.

    References
    ----------
    https://onnx.ai/onnx/operators/

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import Conv1d, ReLU, Sequential
    >>> from fastconv1d.onnx import from_onnx, to_onnx
    >>> net = Sequential(Conv1d(2, 3, 5, padding=2), ReLU())
    >>> model = from_onnx(to_onnx(net))
    >>> x = np.ones((1, 2, 10), np.float32)
    >>> bool((model(x) == net(x)).all())
    True
    """
    if isinstance(model, (str, os.PathLike)) and not os.path.exists(model):
        raise FileNotFoundError(f"no such file: {os.fspath(model)}")
    try:
        if isinstance(model, bytes):
            proto = onnx.load_from_string(model)
        elif isinstance(model, onnx.ModelProto):
            proto = model
        else:
            proto = onnx.load(os.fspath(model))
        onnx.checker.check_model(proto)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise OnnxError(f"no valid ONNX model: {' '.join(str(error).split())[:300]}") from error
    return OnnxModel(proto.graph)


def _is_constant(node: _Node) -> bool:
    """Whether the node is a constant, which then is among the constants."""
    if node.op != "Constant":
        return False
    ((kind, value),) = node.attributes.items()
    if kind == "value":
        array = numpy_helper.to_array(value)
    elif kind in ("value_float", "value_floats"):
        array = np.array(value, np.float32)
    elif kind in ("value_int", "value_ints"):
        array = np.array(value, np.int64)
    else:
        raise node.error(f"{kind} is not supported")
    node.constants[node.outputs[0]] = array
    return True


def _fold_norms(nodes: list[_Node], outputs: list[str]) -> list[_Node]:
    """Fold every batch norm whose convolution's output goes nowhere else."""
    producers = {node.outputs[0]: node for node in nodes if node.outputs}
    uses = [name for node in nodes for name in node.inputs] + outputs
    kept = []
    for node in nodes:
        before = producers.get(node.inputs[0]) if node.inputs else None
        if (
            node.op != "BatchNormalization"
            or len(node.outputs) != 1
            or node.attributes.get("training_mode")
            or before is None
            or before.op not in ("Conv", "ConvTranspose")
            or uses.count(before.outputs[0]) != 1
            or any(name not in node.constants for name in (*before.inputs[1:], *node.inputs[1:]))
            or node.constants[before.inputs[1]].ndim != 3
        ):
            kept.append(node)
            continue
        names = ("conv.weight", "conv.bias")
        state = {k: node.constants[n] for k, n in zip(names, before.inputs[1:], strict=False)}
        norm = ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
        state |= {k: node.constants[n] for k, n in zip(norm, node.inputs[1:], strict=True)}
        epsilon = node.attributes.get("epsilon", 1e-5)
        folded = fold_batch_norm(state, epsilon, transposed=before.op == "ConvTranspose")
        output = node.outputs[0]
        before.inputs[1:] = [f"{output}.{name}" for name in names]
        node.constants.update({f"{output}.{name}": folded[name] for name in names})
        before.outputs = [output]
        producers[output] = before
    return kept


def _fuse(nodes: list[_Node], outputs: list[str]) -> list[_Node]:
    """Make activations and additions the last steps of the convolutions whose outputs they read."""
    uses = Counter([*(name for node in nodes for name in node.inputs), *outputs])
    kept: list[_Node] = []
    makers: dict[str, _Node] = {}
    for node in nodes:
        maker = None
        if node.domain in ("", "ai.onnx") and len(node.outputs) == 1:
            maker = _absorbing(node, makers, uses, kept)
        if maker is None:
            maker = node
            kept.append(node)
        else:
            maker.outputs = node.outputs
        makers.update(dict.fromkeys(maker.outputs, maker))
    return kept


def _absorbing(
    node: _Node, makers: dict[str, _Node], uses: Counter[str], kept: list[_Node]
) -> _Node | None:
    """Return the convolution that took on `node` as its last step, if one did."""

    def layer(name: str, n_uses: int = 1) -> _Node | None:
        maker = makers.get(name)
        ready = maker is not None and uses[name] == n_uses and _is_layer(maker)
        return maker if ready else None

    if node.op in _ACTIVATIONS:
        maker = layer(node.inputs[0])
        if maker is not None and maker.activation is None:
            maker.activation = _ACTIVATIONS[node.op](node).activation
            return maker
    elif node.op == "Mul":  # x * sigmoid(x)
        for name, gate in (node.inputs, node.inputs[::-1]):
            maker, sigmoid = layer(name, 2), makers.get(gate)
            if maker is None or sigmoid is None or maker.activation is not None:
                continue
            if sigmoid.op == "Sigmoid" and sigmoid.inputs == [name] and uses[gate] == 1:
                kept.remove(sigmoid)
                maker.activation = "silu"
                return maker
    elif node.op == "Add":
        order = [kept.index(makers[name]) if name in makers else -1 for name in node.inputs]
        name, other = node.inputs if order[0] > order[1] else node.inputs[::-1]
        maker = layer(name)
        if maker is not None and maker.residual is None and other not in node.constants:
            maker.residual = other
            maker.residual_position = "before" if maker.activation is None else "after"
            return maker
    return None


def _is_layer(node: _Node) -> bool:
    """Whether `_layer` makes a Conv1d or ConvTranspose1d of the node."""
    if node.op not in ("Conv", "ConvTranspose") or node.domain not in ("", "ai.onnx"):
        return False
    names = [name for name in node.inputs[1:] if name]
    if any(name not in node.constants for name in names) or not names:
        return False
    if node.constants[names[0]].ndim != 3:
        return False
    same = node.text("auto_pad", "NOTSET").startswith("SAME")
    return node.op == "Conv" or not (same or "output_shape" in node.attributes)


# ---- nodes -------------------------------------------------------------------------------------

_Built = tuple[Callable[..., NDArray[Any]], list[str]]


def _convolution(node: _Node) -> _Built:
    known = {"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"}
    if node.op == "ConvTranspose":
        known |= {"output_padding", "output_shape"}
    for name in node.attributes:
        if name not in known:
            raise node.error(f"its attribute {name!r} is not supported")
    inputs = [name for name in node.inputs if name]
    if all(name in node.constants for name in inputs[1:]):
        layer: Any = _layer(node, *(node.constants[name] for name in inputs[1:]))
        if node.residual is not None:
            return _adding(node, layer), [inputs[0], node.residual]
        if node.activation is not None:
            layer.activation = node.activation
        return layer, inputs[:1]
    return lambda x, *parameters: _layer(node, *parameters)(x), inputs


def _adding(node: _Node, layer: Any) -> Callable[..., NDArray[Any]]:
    """The layer and its last steps as a function of x and of what one of them adds."""
    fused = layer._sharing_parameters()
    fused.activation, fused.residual_position = node.activation, node.residual_position
    activation = parse_activation(node.activation)

    def activate(y: NDArray[Any]) -> NDArray[Any]:
        return y if activation is None else activation.apply(y).astype(y.dtype, copy=False)

    def run(x: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
        shape = output_shape(layer, x.shape, x.dtype)
        if other.shape == shape:
            return fused(x, residual=other)
        if node.residual_position == "before":  # an addition that repeats the smaller one
            return activate(layer(x) + other)
        return activate(layer(x)) + other

    return run


def _layer(
    node: _Node, weight: NDArray[Any], bias: NDArray[Any] | None = None
) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """The convolution of a weight, as a function of x; two dimensions become one."""
    rank = weight.ndim - 2
    shape = list(weight.shape[2:])
    if node.attributes.get("kernel_shape", shape) != shape:
        raise node.error(f"kernel_shape should be that of the weight, got {shape}")
    axes = [_Axis(node, rank, axis, shape[axis]) for axis in range(rank)]
    if rank == 1:
        return axes[0].layer(weight, bias)
    flat = next((axis for axis in reversed(range(rank)) if axes[axis].trivial()), None)
    if rank != 2 or flat is None:
        raise node.error(f"the convolution should be of one dimension, got a kernel of {shape}")
    apply = axes[1 - flat].layer(weight.squeeze(2 + flat), bias)

    def rows(x: NDArray[Any]) -> NDArray[Any]:
        if x.ndim != 4:
            raise ValueError(f"expected an input of 4 dimensions, got {list(x.shape)}")
        lines = np.moveaxis(x, 2 + flat, 1)
        y = apply(lines.reshape(-1, *lines.shape[2:]))
        return np.moveaxis(y.reshape(*lines.shape[:2], *y.shape[1:]), 1, 2 + flat)

    return rows


class _Axis:
    """The attributes of a convolution along one of its dimensions."""

    def __init__(self, node: _Node, rank: int, axis: int, kernel_size: int) -> None:
        def one(name: str, default: int) -> int:
            values = node.attributes.get(name, [default] * rank)
            if len(values) != rank:
                raise node.error(f"{name} should have {rank} values, got {list(values)}")
            return values[axis]

        self.transposed = node.op == "ConvTranspose"
        self.kernel_size = kernel_size
        self.groups = node.attributes.get("group", 1)
        self.stride, self.dilation = one("strides", 1), one("dilations", 1)
        self.output_padding = one("output_padding", 0)
        self.output_shape = one("output_shape", -1)
        pads = node.attributes.get("pads", [0] * (2 * rank))
        if len(pads) != 2 * rank:
            raise node.error(f"pads should have {2 * rank} values, got {list(pads)}")
        self.pads = pads[axis], pads[rank + axis]
        self.auto_pad = node.text("auto_pad", "NOTSET")
        if self.auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
            raise node.error(f"auto_pad {self.auto_pad} is not supported")
        if self.auto_pad != "NOTSET":
            self.pads = 0, 0

    def trivial(self) -> bool:
        """Whether the convolution leaves this dimension as it is."""
        return (self.kernel_size, self.stride, self.pads, self.output_padding) == (
            1,
            1,
            (0, 0),
            0,
        ) and self.output_shape == -1

    def layer(
        self, weight: NDArray[Any], bias: NDArray[Any] | None
    ) -> Callable[[NDArray[Any]], NDArray[Any]]:
        same = self.auto_pad.startswith("SAME")
        if self.transposed and (same or self.output_shape != -1):
            return lambda x: self._transposed(x, weight, bias)
        padding: Any = self.auto_pad.lower() if same else self.pads
        state = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
        arguments = {"stride": self.stride, "dilation": self.dilation, "groups": self.groups}
        if self.transposed:
            arguments["output_padding"] = self.output_padding
            return ConvTranspose1d.from_state_dict(state, padding=padding, **arguments)
        return Conv1d.from_state_dict(state, padding=padding, **arguments)

    def _transposed(
        self, x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None
    ) -> NDArray[Any]:
        """A transposed convolution of a given length, which ONNX crops or extends the result to."""
        length, span = x.shape[-1], self.dilation * (self.kernel_size - 1) + 1
        target = self.output_shape if self.output_shape != -1 else length * self.stride
        surplus = (length - 1) * self.stride + span + self.output_padding - target
        less = max(surplus, 0) // 2
        more = max(surplus, 0) - less
        return functional.conv_transpose1d(
            x,
            weight,
            bias,
            self.stride,
            (less, more) if self.auto_pad == "SAME_UPPER" else (more, less),
            self.output_padding + max(-surplus, 0),
            self.groups,
            self.dilation,
        )


def _batch_norm(node: _Node) -> _Built:
    if node.attributes.get("training_mode"):
        raise node.error("training_mode=1 is not supported")
    parameters = [node.constant(position) for position in range(1, 5)]
    scale, shift, mean, variance = (np.asarray(p, np.float64) for p in parameters)
    scale = scale / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
    shift = shift - mean * scale

    def run(x: NDArray[Any]) -> NDArray[Any]:
        channels = (-1,) + (1,) * (x.ndim - 2)
        return x * scale.reshape(channels).astype(x.dtype) + shift.reshape(channels).astype(x.dtype)

    return run, node.inputs[:1]


def _pad(node: _Node) -> _Built:
    mode = node.text("mode", "constant")
    if mode not in _PAD_MODES:
        raise node.error(f"mode {mode!r} is not supported")
    pads, axes = node.integers("pads", 1), node.integers("axes", 3)
    if pads is None:
        raise node.error("it should have pads")
    given = node.constant(2) if len(node.inputs) > 2 else None
    value = node.attributes.get("value", 0.0) if given is None else given.reshape(-1)[0]
    options = {"constant_values": value} if mode == "constant" else {}

    def run(x: NDArray[Any]) -> NDArray[Any]:
        where = range(x.ndim) if axes is None else [axis % x.ndim for axis in axes]
        if len(pads) != 2 * len(where):
            raise ValueError(f"pads should have {2 * len(where)} values, got {pads}")
        widths, crop = [(0, 0)] * x.ndim, [slice(None)] * x.ndim
        for axis, before, after in zip(where, pads[: len(where)], pads[len(where) :], strict=True):
            widths[axis] = (max(before, 0), max(after, 0))
            crop[axis] = slice(max(-before, 0), x.shape[axis] + min(after, 0))
        return np.pad(x[tuple(crop)], widths, _PAD_MODES[mode], **options)  # type: ignore[call-overload]

    return run, node.inputs[:1]


def _squeeze(node: _Node) -> _Built:
    axes = node.integers("axes", 1)
    return lambda x: x.squeeze(None if axes is None else tuple(axes)), node.inputs[:1]


def _unsqueeze(node: _Node) -> _Built:
    axes = node.integers("axes", 1)
    if axes is None:
        raise node.error("it should have axes")
    return lambda x: np.expand_dims(x, tuple(axes)), node.inputs[:1]


def _activation(make: Callable[[_Node], Any]) -> Callable[[_Node], _Built]:
    def build(node: _Node) -> _Built:
        step = parse_activation(make(node).activation)
        assert step is not None
        return lambda x: step.apply(x).astype(x.dtype, copy=False), node.inputs

    return build


def _elementwise(function: Callable[..., NDArray[Any]]) -> Callable[[_Node], _Built]:
    return lambda node: (function, node.inputs)


def _erf(x: NDArray[Any]) -> NDArray[Any]:
    from scipy.special import erf

    return erf(x)


_ACTIVATIONS: dict[str, Callable[[_Node], Any]] = {
    "Relu": lambda node: ReLU(),
    "LeakyRelu": lambda node: LeakyReLU(node.attributes.get("alpha", 0.01)),
    "Elu": lambda node: ELU(node.attributes.get("alpha", 1.0)),
    "Gelu": lambda node: GELU(node.text("approximate", "none")),
    "Sigmoid": lambda node: Sigmoid(),
    "Tanh": lambda node: Tanh(),
}
_BUILDERS: dict[str, Callable[[_Node], _Built]] = {
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "BatchNormalization": _batch_norm,
    "Pad": _pad,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Identity": _elementwise(lambda x: x),
    **{op: _activation(make) for op, make in _ACTIVATIONS.items()},
    "Add": _elementwise(np.add),
    "Sub": _elementwise(np.subtract),
    "Mul": _elementwise(np.multiply),
    "Div": _elementwise(np.divide),
    "Pow": _elementwise(lambda x, y: np.power(x, y).astype(x.dtype, copy=False)),
    "Erf": _elementwise(_erf),
    "Sin": _elementwise(np.sin),
    "Reciprocal": _elementwise(np.reciprocal),
}


# ---- writing -----------------------------------------------------------------------------------


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
        circular padding, and a padding mode with padding that follows the length.

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
