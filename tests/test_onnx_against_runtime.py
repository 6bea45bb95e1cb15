"""ONNX's operators against ONNX Runtime, with random shapes and attributes."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import helper  # noqa: E402
from test_onnx_operators import apply, node_of  # noqa: E402

onnxruntime.set_default_logger_severity(4)

_COUNT = 25  # cases of an operator


class Draw:
    """Random numbers of one case."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def whole(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def wholes(self, count, low, high):
        return [self.whole(low, high) for _ in range(count)]

    def one_of(self, *values):
        return values[self.whole(0, len(values) - 1)]

    def floats(self, *shape):
        return self.rng.standard_normal(shape).astype(np.float32)

    def stored(self, dtype, *shape):
        bounds = np.iinfo(dtype)
        return self.rng.integers(bounds.min, bounds.max + 1, shape).astype(dtype)

    def maybe(self, *shape):
        return self.floats(*shape) if self.whole(0, 1) else None


# Each returns the operator, its inputs, attributes, operator set and number of outputs.


def windows(d, ndim):
    kernel = d.wholes(ndim, 1, 4)
    return {
        "kernel_shape": kernel,
        "strides": d.wholes(ndim, 1, 3),
        "dilations": d.wholes(ndim, 1, 2),
    }


def convolution(d):
    ndim, groups = d.whole(1, 3), d.whole(1, 3)
    attributes = windows(d, ndim) | {"group": groups, "pads": d.wholes(2 * ndim, 0, 3)}
    if d.whole(0, 3) == 0:
        del attributes["pads"]
        attributes |= {"auto_pad": d.one_of("SAME_UPPER", "VALID"), "dilations": [1] * ndim}
    c_in, c_out = groups * d.whole(1, 3), groups * d.whole(1, 3)
    x = d.floats(d.whole(1, 2), c_in, *d.wholes(ndim, 7, 12))
    w = d.floats(c_out, c_in // groups, *attributes["kernel_shape"])
    return "Conv", [x, w, d.maybe(c_out)], attributes, 17, 1


def transposed(d):
    ndim, groups = d.whole(1, 3), d.whole(1, 3)
    attributes = windows(d, ndim) | {"group": groups, "pads": d.wholes(2 * ndim, 0, 1)}
    attributes["output_padding"] = [d.whole(0, s - 1) for s in attributes["strides"]]
    c_in, c_out = groups * d.whole(1, 3), groups * d.whole(1, 3)
    x = d.floats(d.whole(1, 2), c_in, *d.wholes(ndim, 4, 7))
    w = d.floats(c_in, c_out // groups, *attributes["kernel_shape"])
    return "ConvTranspose", [x, w, d.maybe(c_out)], attributes, 17, 1


def pooling(d):
    ndim, name = d.whole(1, 3), d.one_of("MaxPool", "AveragePool", "LpPool")
    attributes = windows(d, ndim) | {"ceil_mode": d.whole(0, 1)}
    attributes["pads"] = [d.whole(0, k - 1) for k in attributes["kernel_shape"] * 2]
    n_outputs = 1
    if name == "AveragePool":
        attributes["count_include_pad"] = d.whole(0, 1)
    elif name == "LpPool":
        attributes["p"] = d.whole(1, 3)
    elif d.whole(0, 1):
        n_outputs, attributes["storage_order"] = 2, d.whole(0, 1)
    x = d.floats(2, 3, *d.wholes(ndim, 7, 11))
    return name, [x], attributes, 18 if name == "LpPool" else 19, n_outputs


def resampling(d):
    mode = d.one_of("nearest", "linear", "cubic")
    ndim = 2 if mode == "cubic" else d.whole(1, 2)
    transformation = d.one_of("half_pixel", "asymmetric", "pytorch_half_pixel")
    attributes = {"mode": mode, "coordinate_transformation_mode": transformation}
    if mode == "nearest":
        attributes["nearest_mode"] = d.one_of("round_prefer_floor", "floor", "ceil")
    x = d.floats(1, 2, *d.wholes(ndim, 2, 8))
    if d.whole(0, 1):
        scales = [d.one_of(0.5, 2, 3, 0.75, 1.5) for _ in range(ndim)]
        return "Resize", [x, None, np.float32([1, 1, *scales])], attributes, 19, 1
    sizes = np.array([1, 2, *d.wholes(ndim, 1, 14)])
    return "Resize", [x, None, None, sizes], attributes, 19, 1


def recurrent(d):
    name, count = d.one_of("LSTM", "GRU", "RNN"), d.whole(1, 2)
    n_gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[name]
    steps, batch, width, hidden = d.wholes(4, 1, 6)
    direction = "bidirectional" if count == 2 else d.one_of("forward", "reverse")
    attributes = {"hidden_size": hidden, "direction": direction}
    lengths = d.rng.integers(1, steps + 1, batch).astype(np.int32) if d.whole(0, 2) == 0 else None
    inputs = [
        d.floats(steps, batch, width),
        d.floats(count, n_gates * hidden, width),
        d.floats(count, n_gates * hidden, hidden),
        d.maybe(count, 2 * n_gates * hidden),
        lengths,
        d.maybe(count, batch, hidden),
    ]
    if name == "LSTM":
        extra = d.whole(0, 2) == 0
        inputs += [d.maybe(count, batch, hidden), d.floats(count, 3 * hidden) if extra else None]
        attributes["input_forget"] = int(extra)
    elif name == "GRU":
        attributes["linear_before_reset"] = d.whole(0, 1)
    if d.whole(0, 3) == 0:
        attributes["clip"] = 0.7
    if d.whole(0, 3) == 0:
        other = {"LSTM": ["HardSigmoid", "Relu", "Softsign"], "GRU": ["HardSigmoid", "Elu"]}
        attributes["activations"] = other.get(name, ["LeakyRelu"]) * count
    return name, inputs, attributes, 14, 3 if name == "LSTM" else 2


def norm(d):
    shape = d.wholes(3, 1, 6)
    groups = d.whole(1, 3)
    name = d.one_of("Layer", "Instance", "Group", "Batch") + "Normalization"
    if name == "LayerNormalization":
        axis = d.whole(-3, 2)
        parameters = [d.floats(*shape[axis:]), d.floats(*shape[axis:])]
        return name, [d.floats(*shape), *parameters], {"axis": axis}, 17, d.one_of(1, 3)
    shape[1] *= groups
    parameters = [d.floats(shape[1]), d.floats(shape[1])]
    attributes, opset = ({"num_groups": groups}, 21) if name[0] == "G" else ({}, 17)
    if name == "BatchNormalization":
        parameters += [d.floats(shape[1]), np.abs(d.floats(shape[1])) + 0.1]
    return name, [d.floats(*shape), *parameters], attributes, opset, 1


def reduction(d):
    kinds = "Sum Mean Max Min Prod L1 L2 SumSquare LogSumExp".split()
    name, shape = "Reduce" + d.one_of(*kinds), d.wholes(d.whole(1, 4), 1, 4)
    x = 4 * d.floats(*shape)
    if name in ("ReduceSum", "ReduceMean", "ReduceMax") and d.whole(0, 1):
        x = x.astype(np.int32)
    axes = sorted({d.whole(0, len(shape) - 1) for _ in range(d.whole(0, 2))})
    attributes = {"keepdims": d.whole(0, 1), "noop_with_empty_axes": d.whole(0, 1)}
    return name, [x, np.array(axes, np.int64)], attributes, 18, 1


def softmax(d):
    shape, opset = d.wholes(d.whole(1, 4), 1, 20), d.one_of(11, 13)
    axis = d.whole(0 if opset == 11 else -len(shape), len(shape) - 1)
    name = d.one_of("Softmax", "LogSoftmax", "Hardmax")
    return name, [d.floats(*shape)], {"axis": axis}, opset, 1


def arithmetic(d):
    name = d.one_of("Add", "Sub", "Mul", "Div", "Pow", "Mod", "Max", "Less", "Equal")
    dtype = d.one_of(np.int32, np.int64) if name == "Mod" else d.one_of(np.float32, np.int32)
    a, b = ((9 * d.floats(d.one_of(1, 3), d.one_of(1, 4))).astype(dtype) for _ in range(2))
    if name in ("Div", "Mod"):
        b = np.where(b == 0, dtype(3), b)
    if name == "Pow":
        a, b = np.abs(a) % 5 + 1, np.abs(b) % 4
    attributes = {"fmod": d.whole(0, 1)} if name == "Mod" else {}
    return name, [a.astype(dtype), b.astype(dtype)], attributes, 13, 1


def function(d):
    names = (
        "Abs Neg Sign Ceil Floor Round Exp Sin Cos Tanh Erf Relu Sigmoid Elu Selu Celu LeakyRelu "
        "ThresholdedRelu HardSigmoid HardSwish Softplus Softsign Shrink Sqrt Log Asinh IsNaN IsInf"
    )
    ends = np.float32([0, -0.0, np.inf, -np.inf, np.nan, 100, -100, 0.5, 1.5, 2.5, -0.5])
    return d.one_of(*names.split()), [np.concatenate([3 * d.floats(20), ends])], {}, 20, 1


def moved(d):
    ndim = d.whole(1, 3)
    shape = d.wholes(ndim, 2, 6)
    x = d.floats(*shape)
    if d.whole(0, 1):
        mode = d.one_of("constant", "reflect", "edge", "wrap")
        pads = d.wholes(2 * ndim, -1 if mode == "constant" else 0, 4 if mode == "edge" else 1)
        return "Pad", [x, np.array(pads), np.float32(1.5)], {"mode": mode}, 19, 1
    ranges = [d.wholes(ndim, -8, 8), d.wholes(ndim, -8, 8), list(range(ndim))]
    steps = [d.one_of(-2, -1, 1, 2) for _ in range(ndim)]
    return "Slice", [x, *map(np.array, ranges), np.array(steps)], {}, 13, 1


def stored_product(d):
    a, b = d.stored(np.uint8, 2, 3, 300), d.stored(np.int8, 300, 5)
    zero = d.stored(np.uint8)
    if d.whole(0, 1):
        return "MatMulInteger", [a, b, zero, d.stored(np.int8)], {}, 10, 1
    scales = [np.float32(v) for v in (0.02, 0.01, 9.0)]
    inputs = [a, scales[0], zero, b, scales[1], np.int8(3), scales[2], np.uint8(100)]
    return "QLinearMatMul", inputs, {}, 10, 1


def stored_convolution(d):
    ndim, groups = d.whole(1, 2), d.whole(1, 2)
    attributes = windows(d, ndim) | {"group": groups, "pads": d.wholes(2 * ndim, 0, 1)}
    x = d.stored(np.uint8, 1, 2 * groups, *d.wholes(ndim, 8, 12))
    c_out, zero = 3 * groups, d.stored(np.uint8)
    kernel = attributes["kernel_shape"]
    if d.whole(0, 1):
        w = d.stored(np.uint8, c_out, 2, *kernel)
        return "ConvInteger", [x, w, zero, d.stored(np.uint8)], attributes, 10, 1
    w = d.stored(np.int8, c_out, 2, *kernel)
    scales = np.abs(d.floats(c_out)) / 100 + np.float32(0.001)
    ends = [np.float32(0.05), np.uint8(100), d.rng.integers(-999, 999, c_out).astype(np.int32)]
    inputs = [x, np.float32(0.02), zero, w, scales, np.zeros(c_out, np.int8), *ends]
    return "QLinearConv", inputs, attributes, 10, 1


def stored(d):
    scale, zero = np.abs(d.floats(3)) + np.float32(0.1), d.stored(np.int8, 3)
    if d.whole(0, 2) == 0:
        return "DynamicQuantizeLinear", [d.one_of(0, 9) * d.floats(3, 40)], {}, 13, 3
    if d.whole(0, 1):
        return "QuantizeLinear", [100 * d.floats(2, 3, 4), scale, zero], {"axis": 1}, 13, 1
    return "DequantizeLinear", [d.stored(np.int8, 2, 3, 4), scale, zero], {"axis": 1}, 13, 1


def chosen(d):
    x = d.rng.integers(0, 5, (2, 200)).astype(np.float32)[: d.whole(1, 2)]
    k = np.array([d.whole(0, 20)])
    return "TopK", [x, k], {"largest": d.whole(0, 1)}, 11, 2


def session(op, inputs, attributes, opset, n_outputs):
    names = [f"x{i}" if a is not None else "" for i, a in enumerate(inputs)]
    outputs = [f"y{i}" for i in range(n_outputs)]
    node = helper.make_node(op, names, outputs, name="layer", **attributes)
    values = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in zip(names, inputs, strict=True)
        if a is not None
    ]
    ends = [helper.make_empty_tensor_value_info(n) for n in outputs]
    graph = helper.make_graph([node], "one", values, ends)
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    feeds = {n: a for n, a in zip(names, inputs, strict=True) if a is not None}
    run = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return node, run.run(None, feeds)


@pytest.mark.parametrize("seed", range(_COUNT))
@pytest.mark.parametrize(
    "draw",
    [
        convolution,
        transposed,
        pooling,
        resampling,
        recurrent,
        norm,
        reduction,
        softmax,
        arithmetic,
        function,
        moved,
        stored_product,
        stored_convolution,
        stored,
        chosen,
    ],
)
def test_as_the_runtime(draw, seed):
    op, inputs, attributes, opset, n_outputs = draw(Draw(seed))
    inputs = [None if a is None else np.asarray(a) for a in inputs]
    node, expected = session(op, inputs, attributes, opset, n_outputs)
    found = apply(node_of(node, {"": opset}), *inputs)
    for y, wanted in zip(found, expected, strict=True):
        assert y.dtype == wanted.dtype
        assert y.shape == wanted.shape
        if wanted.dtype.name in ("int8", "uint8"):  # ties of quantized results differ by a step
            assert np.abs(y.astype(int) - wanted).max(initial=0) <= 1
        else:
            np.testing.assert_allclose(y, wanted, rtol=2e-4, atol=2e-5)


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "n_outputs"),
    [
        ("Conv", [zeros(0, 3, 8), zeros(4, 3, 3)], {}, 1),
        ("Conv", [zeros(0, 3, 8, 8), zeros(4, 3, 3, 3)], {}, 1),
        ("Conv", [zeros(0, 3, 8, 8), zeros(4, 3, 1, 1)], {}, 1),
        ("ConvTranspose", [zeros(0, 3, 8, 8), zeros(3, 4, 3, 3)], {}, 1),
        ("MaxPool", [zeros(0, 3, 8)], {"kernel_shape": [2]}, 1),
        ("AveragePool", [zeros(0, 3, 8)], {"kernel_shape": [2]}, 1),
        ("GlobalAveragePool", [zeros(0, 3, 8)], {}, 1),
        ("Softmax", [zeros(0, 3)], {}, 1),
        ("Softmax", [zeros(3, 0)], {}, 1),
        ("BatchNormalization", [zeros(0, 3, 8), *[zeros(3)] * 4], {}, 1),
        ("LayerNormalization", [zeros(0, 8), zeros(8), zeros(8)], {}, 1),
        ("MatMul", [zeros(0, 2, 3), zeros(3, 4)], {}, 1),
        ("MatMul", [zeros(2, 0), zeros(0, 4)], {}, 1),
        ("Gemm", [zeros(0, 3), zeros(3, 4), zeros(4)], {}, 1),
        ("Concat", [zeros(0, 3), zeros(2, 3)], {"axis": 0}, 1),
        ("Split", [zeros(0, 4)], {"axis": 1}, 2),
        ("Pad", [zeros(0, 4), np.array([0, 1, 0, 1])], {}, 1),
        ("Gather", [zeros(2, 4), zeros(0, dtype=np.int64)], {}, 1),
        ("ScatterND", [zeros(2, 4), zeros(0, 2, dtype=np.int64), zeros(0)], {}, 1),
        ("TopK", [zeros(0, 4), np.array([2])], {}, 2),
        ("NonZero", [zeros(0, 3)], {}, 1),
        ("CumSum", [zeros(3, 0), np.array(1)], {"exclusive": 1}, 1),
        ("ReduceSum", [zeros(0, 3), np.array([0])], {}, 1),
        ("ReduceMean", [zeros(0, 3)], {"axes": [1]}, 1),
        ("Expand", [zeros(1, 3), np.array([0, 3])], {}, 1),
        ("Tile", [zeros(2, 3), np.array([0, 1])], {}, 1),
        ("Flatten", [zeros(0, 3, 4)], {}, 1),
        ("Reshape", [zeros(0, 3, 4), np.array([-1, 12])], {}, 1),
        ("PRelu", [zeros(0, 3), zeros(3)], {}, 1),
    ],
)
def test_arrays_without_elements(op, inputs, attributes, n_outputs):
    node, expected = session(op, inputs, attributes, 17, n_outputs)
    found = apply(node_of(node, {"": 17}), *inputs)
    for y, wanted in zip(found, expected, strict=True):
        assert (y.dtype, y.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_array_equal(y, wanted)
