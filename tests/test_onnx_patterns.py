"""What a graph is lowered to: right values, and nothing joined that is read elsewhere."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from fastconv1d.onnx import OnnxError, from_onnx  # noqa: E402

onnxruntime = pytest.importorskip("onnxruntime")


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


CONSTANTS = {
    "w": random(4, 4, 3, seed=1),
    "w1": random(4, 4, 1, seed=2),
    "b": random(4, seed=3),
    "c": random(4, 1, seed=4),
    "m": random(4, 5, seed=5),
    "b5": random(5, seed=6),
    "positive": np.abs(random(4, seed=7)) + np.float32(0.5),
    **{
        str(value): np.float32(value)
        for value in (0.5, 1, 2, 3, 6, 2**0.5, 0.5**0.5, 0.044715, (2 / np.pi) ** 0.5, 0)
    },
    "epsilon": np.float32(1e-5),
    "last": np.array([-1]),
    "0:": np.array([0]),
    "1:": np.array([1]),
    "2:": np.array([2]),
    ":-2": np.array([-2]),
    "end": np.array([2**63 - 1]),
}
ROOT, HALF, U = str(2**0.5), str(0.5**0.5), str((2 / np.pi) ** 0.5)


def model_of(nodes, outputs=("y",), rank=3, out_rank=3, opset=20, constants=(), shape=None):
    constants = {**CONSTANTS, **dict(constants)}
    used = {name for _, ins, *_ in nodes for name in ins}
    graph = helper.make_graph(
        [
            helper.make_node(op, ins, outs, name=f"n{i}", **(more[0] if more else {}))
            for i, (op, ins, outs, *more) in enumerate(nodes)
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape or [None] * rank)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items() if k in used],
    )
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", opset)])


def lowered(model, *inputs, tolerance=1e-5, rest=None):
    """Check the values against ONNX Runtime's and return the operators of the steps."""
    found = from_onnx(model, rest=rest)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for x in inputs:
        wanted = session.run(None, {"x": x})
        values = found(x)
        values = values if isinstance(values, tuple) else (values,)
        for _ in range(2):  # with what the first call left
            again = found(x)
            again = again if isinstance(again, tuple) else (again,)
            if rest is None:
                assert all(map(np.array_equal, again, values))
            for a, b in zip(again, values, strict=True):  # by another way
                np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
        for a, b in zip(values, wanted, strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    return [step.node.op for step in found._steps]


X = random(2, 4, 11)
CONV = ("Conv", ["x", "w"], ["h"])


def gelu_erf(order):
    start = [("Div", ["h", ROOT], ["a"]), ("Erf", ["a"], ["e"]), ("Add", ["e", "1"], ["f"])]
    if order == "x first":
        return [*start, ("Mul", ["h", "f"], ["p"]), ("Mul", ["p", "0.5"], ["y"])]
    if order == "half first":
        return [*start, ("Mul", ["h", "0.5"], ["p"]), ("Mul", ["p", "f"], ["y"])]
    start[0] = ("Mul", ["h", HALF], ["a"])
    return [*start, ("Mul", ["0.5", "f"], ["p"]), ("Mul", ["p", "h"], ["y"])]


def gelu_tanh(cube):
    cubes = {
        "pow": [("Pow", ["h", "3"], ["c3"]), ("Mul", ["c3", "0.044715"], ["d"])],
        "products": [
            ("Mul", ["h", "h"], ["c2"]),
            ("Mul", ["h", "c2"], ["c3"]),
            ("Mul", ["0.044715", "c3"], ["d"]),
        ],
        "inner": [
            ("Mul", ["0.044715", "h"], ["c2"]),
            ("Mul", ["h", "c2"], ["c3"]),
            ("Mul", ["h", "c3"], ["d"]),
        ],
    }
    return [
        *cubes[cube],
        ("Add", ["h", "d"], ["u"]),
        ("Mul", ["u", U], ["v"]),
        ("Tanh", ["v"], ["t"]),
        ("Add", ["t", "1"], ["f"]),
        ("Mul", ["f", "0.5"], ["p"]),
        ("Mul", ["h", "p"], ["y"]),
    ]


def snake(square):
    wave = [("Mul", ["h", "alpha"], ["s"]), ("Sin", ["s"], ["t"])]
    wave += [("Pow", ["t", "2"], ["q"])] if square == "pow" else [("Mul", ["t", "t"], ["q"])]
    return [*wave, ("Mul", ["q", "inverse"], ["r"]), ("Add", ["h", "r"], ["y"])]


ALPHA = np.abs(random(4, 1, seed=9)) + np.float32(0.5)
ACTIVATIONS = {
    **{f"gelu, {order}": gelu_erf(order) for order in ("x first", "half first", "half last")},
    **{f"gelu by tanh, {cube}": gelu_tanh(cube) for cube in ("pow", "products", "inner")},
    "silu": [("Sigmoid", ["h"], ["s"]), ("Mul", ["h", "s"], ["y"])],
    "clip": [("Clip", ["h", "0"], ["y"])],
    "max": [("Max", ["h", "0"], ["y"])],
    "prelu": [("PRelu", ["h", "0.5"], ["y"])],
    "leaky": [("Mul", ["h", "0.5"], ["s"]), ("Max", ["h", "s"], ["y"])],
    "snake": snake("pow"),
    "snake by product": snake("product"),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_that_exporters_spell(name):
    nodes = [CONV, *ACTIVATIONS[name]]
    more = {"alpha": ALPHA, "inverse": 1 / (ALPHA + np.float32(1e-9))}
    assert lowered(model_of(nodes, constants=more), X, tolerance=1e-4) == ["Conv"]
    inner = nodes[-2][2][0]
    if len(nodes) > 2:  # what lies inside is read elsewhere
        steps = lowered(model_of(nodes, ("y", inner), constants=more), X, tolerance=1e-4)
        assert len(steps) > 1
        alone = [(op, ["x" if n == "h" else n for n in ins], *o) for op, ins, *o in nodes[1:]]
        assert len(lowered(model_of(alone, constants=more), X, tolerance=1e-4)) == 1


@pytest.mark.parametrize("value", [0.25, -0.5])
def test_other_numbers_are_no_activation(value):
    nodes = [CONV, *gelu_erf("x first")]
    model = model_of(nodes, constants={"0.5": np.float32(value)})
    assert lowered(model, X) == ["Conv", "Mul"]


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("factor", ["c", "0.5"])
def test_affine_maps_are_folded(op, factor):
    nodes = [("Conv", ["x", "w", "b"], ["h"]), (op, ["h", factor], ["y"])]
    assert lowered(model_of(nodes), X, tolerance=1e-4) == ["Conv"]
    assert lowered(model_of(nodes, ("y", "h")), X, tolerance=1e-4) == ["Conv", op]
    nodes[1] = (op, [factor, "h"], ["y"])
    steps = lowered(model_of(nodes), X, tolerance=1e-4)
    assert steps == (["Conv"] if op in ("Add", "Mul") else ["Conv", op])


def test_a_constant_along_the_length_is_no_bias():
    nodes = [CONV, ("Add", ["h", "along"], ["y"])]
    steps = lowered(model_of(nodes, constants={"along": random(9)}), X)
    assert steps == ["Conv", "Add"]
    nodes = [("Conv", ["x", "w"], ["h"]), ("Add", ["h", "deep"], ["y"])]
    deep = random(2, 1, 4, 1)  # makes four dimensions of three
    assert lowered(model_of(nodes, constants={"deep": deep}), X) == ["Conv", "Add"]


def test_batch_norm_of_computed_parameters():
    """Through Identity, of a transposed convolution, and without a convolution before it."""
    names = ["b", "b", "b", "positive"]
    norm = [("Identity", [n], [f"i{k}"]) for k, n in enumerate(names)]
    nodes = [*norm, CONV, ("BatchNormalization", ["h", "i0", "i1", "i2", "i3"], ["y"])]
    assert lowered(model_of(nodes), X, tolerance=1e-4) == ["Conv"]
    nodes[-2] = ("ConvTranspose", ["x", "w"], ["h"], {"group": 1})
    assert lowered(model_of(nodes), X, tolerance=1e-4) == ["ConvTranspose"]
    nodes = [("BatchNormalization", ["x", *names], ["h"]), ("Relu", ["h"], ["y"])]
    assert lowered(model_of(nodes), X, tolerance=1e-4) == ["Relu"]
    nodes = [("Identity", ["w"], ["v"]), ("Conv", ["x", "v"], ["y"])]
    assert lowered(model_of(nodes), X) == ["Conv"]


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pad_and_convolution(mode):
    nodes = [
        ("Pad", ["x", "pads"], ["p"], {"mode": mode}),
        ("Conv", ["p", "w"], ["y"], {"strides": [2]}),
    ]
    pads = {"pads": np.array([0, 0, 3, 0, 0, 1])}
    assert lowered(model_of(nodes, constants=pads), X) == ["Conv"]
    assert lowered(model_of(nodes, ("y", "p"), constants=pads), X) == ["Pad", "Conv"]
    nodes[1][3]["pads"] = [1, 1]
    steps = ["Conv"] if mode == "constant" else ["Pad", "Conv"]
    assert lowered(model_of(nodes, constants=pads), X) == steps
    pads = {"pads": np.array([0, 1, 3, 0, 0, 1])}  # of channels, too
    wide = {"w": random(4, 5, 3)}
    assert lowered(model_of(nodes, constants=pads | wide), X) == ["Pad", "Conv"]
    pads = {"pads": np.array([0, 0, -1, 0, 0, 1])}
    if mode == "constant":
        assert lowered(model_of(nodes, constants=pads), X) == ["Pad", "Conv"]
        nodes[0] = ("Pad", ["x", "pads", "0.5"], ["p"])
        pads = {"pads": np.array([0, 0, 1, 0, 0, 1])}
        assert lowered(model_of(nodes, constants=pads), X) == ["Pad", "Conv"]


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_a_slice_that_chomps(op):
    nodes = [
        (op, ["x", "w"], ["h"], {"pads": [2, 2]}),
        ("Slice", ["h", "0:", ":-2", "2:"], ["y"]),
    ]
    assert lowered(model_of(nodes), X) == [op]
    assert lowered(model_of(nodes, ("y", "h")), X) == [op, "Slice"]
    nodes[1] = ("Slice", ["h", "1:", "end", "last"], ["y"])
    assert lowered(model_of(nodes), X) == [op]
    nodes[0] = (op, ["x", "w"], ["h"], {"strides": [2]})
    assert lowered(model_of(nodes), X) == ([op] if op == "ConvTranspose" else [op, "Slice"])
    nodes[1] = ("Slice", ["h", "1:", "end", "1:"], ["y"])  # of channels
    assert lowered(model_of(nodes), X) == [op, "Slice"]


def test_activation_before_a_convolution():
    nodes = [("LeakyRelu", ["x"], ["h"]), ("Conv", ["h", "w"], ["y"])]
    assert lowered(model_of(nodes), X) == ["Conv"]
    assert lowered(model_of(nodes, ("y", "h")), X) == ["LeakyRelu", "Conv"]


def test_transposes_around_a_convolution():
    turn = {"perm": [0, 2, 1]}
    nodes = [
        ("Transpose", ["x"], ["a"], turn),
        ("Conv", ["a", "w", "b"], ["h"]),
        ("Relu", ["h"], ["r"]),
        ("Transpose", ["r"], ["y"], turn),
    ]
    x = random(2, 11, 4)
    assert lowered(model_of(nodes), x) == ["Conv"]
    assert lowered(model_of(nodes, ("y", "r")), x) == ["Transpose", "Conv", "Transpose"]
    nodes[3] = ("Transpose", ["r"], ["y"], {"perm": [2, 0, 1]})
    assert lowered(model_of(nodes), x) == ["Transpose", "Conv", "Transpose"]


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 1, 3, 4), (0, 4)])
def test_matrices(shape):
    nodes = [
        ("MatMul", ["x", "m"], ["h"]),
        ("Add", ["b5", "h"], ["s"]),
        ("Relu", ["s"], ["y"]),
    ]
    model = model_of(nodes, rank=len(shape))
    assert lowered(model, random(*shape)) == ["MatMul"]
    assert lowered(model_of(nodes, ("y", "h"), rank=len(shape)), random(*shape))[0] == "MatMul"
    if len(shape) == 2:
        nodes = [("Gemm", ["x", "m", "b5"], ["y"])]
        assert lowered(model_of(nodes, rank=2), random(*shape)) == ["Gemm"]
        nodes = [("Gemm", ["x", "m", "b5"], ["y"], {"alpha": 0.5, "beta": 2.0})]
        assert lowered(model_of(nodes, rank=2), random(*shape)) == ["Gemm"]


@pytest.mark.parametrize("square", ["Pow", "Mul"])
def test_a_norm_written_out(square):
    nodes = [
        ("ReduceMean", ["x", "last"], ["m1"]),
        ("Sub", ["x", "m1"], ["d"]),
        (square, ["d", "2"] if square == "Pow" else ["d", "d"], ["q"]),
        ("ReduceMean", ["q", "last"], ["v"]),
        ("Add", ["v", "epsilon"], ["e"]),
        ("Sqrt", ["e"], ["s"]),
        ("Div", ["d", "s"], ["n"]),
        ("Mul", ["n", "scale"], ["a"]),
        ("Add", ["a", "shift"], ["y"]),
    ]
    more = {"scale": random(11, seed=1), "shift": random(11, seed=2)}
    assert len(lowered(model_of(nodes, constants=more), X, tolerance=1e-4)) == 1
    inner = lowered(model_of(nodes, ("y", "d"), constants=more), X, tolerance=1e-4)
    assert len(inner) > 3
    nodes[3] = ("ReduceMean", ["q", "1:"], ["v"])  # over another axis
    assert len(lowered(model_of(nodes, constants=more), X, tolerance=1e-4)) > 3


def test_layer_normalization():
    more = {"scale": random(11, seed=1), "shift": random(11, seed=2)}
    nodes = [("LayerNormalization", ["x", "scale", "shift"], ["y"])]
    assert len(lowered(model_of(nodes, constants=more), X, tolerance=1e-4)) == 1


def test_squeezed_convolutions():
    """As converters of TensorFlow's layers write them, which are of two dimensions."""
    nodes = [
        ("Unsqueeze", ["x", "1:"], ["u"]),
        ("Transpose", ["u"], ["t"], {"perm": [0, 3, 1, 2]}),
        ("Conv", ["t", "wide"], ["h"], {"pads": [0, 1, 0, 1]}),
        ("Squeeze", ["h", "2:"], ["s"]),
        ("Add", ["s", "c"], ["a"]),
        ("Relu", ["a"], ["r"]),
        ("Transpose", ["r"], ["y"], {"perm": [0, 2, 1]}),
    ]
    more = {"wide": random(4, 4, 1, 3)}
    x = random(2, 11, 4)
    assert lowered(model_of(nodes, constants=more), x) == ["Conv"]
    assert len(lowered(model_of(nodes, ("y", "h"), constants=more), x)) > 3
    assert lowered(model_of(nodes[:-1], ("r",), constants=more), x)[-1] == "Conv"
    plain = [(*nodes[2][:1], ["x", "wide"], *nodes[2][2:]), ("Squeeze", ["h", "2:"], ["y"])]
    assert lowered(model_of(plain, constants=more, rank=4), random(2, 4, 1, 9)) == ["Conv"]
    with pytest.raises(ValueError, match="Conv"):
        from_onnx(model_of(plain, constants=more, rank=4))(random(2, 4, 2, 9))


def test_unrolled_matrices_are_one():
    nodes, parts = [], []
    more = {f"i{t}": np.array([t]) for t in range(4)}
    for t in range(3):
        nodes += [
            ("Slice", ["x", f"i{t}", f"i{t + 1}", "i1"], [f"s{t}"]),
            ("Squeeze", [f"s{t}", "i1"], [f"q{t}"]),
            ("MatMul", [f"q{t}", "m"], [f"p{t}"]),
            ("Add", [f"p{t}", "b5"], [f"a{t}"]),
            ("Unsqueeze", [f"a{t}", "i1"], [f"u{t}"]),
        ]
        parts.append(f"u{t}")
    nodes.append(("Concat", parts, ["y"], {"axis": 1}))
    x = random(2, 3, 4)
    shape = ["n", 3, 4]
    assert lowered(model_of(nodes, constants=more, shape=shape), x) == ["MatMul"]
    assert len(lowered(model_of(nodes, ("y", "p1"), constants=more, shape=shape), x)) > 1
    nodes[-1] = ("Concat", [parts[1], parts[0], parts[2]], ["y"], {"axis": 1})
    assert len(lowered(model_of(nodes, constants=more, shape=shape), x)) > 3
    longer = model_of(nodes, constants=more)  # of a length that is not known to be 3
    assert len(lowered(longer, random(2, 5, 4))) > 3


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
def test_the_largest_of_stacked_values(op):
    nodes = [
        ("Exp", ["x"], ["z"]),
        ("Unsqueeze", ["x", "last"], ["a"]),
        ("Unsqueeze", ["z", "last"], ["b1"]),
        ("Concat", ["a", "b1"], ["s"], {"axis": -1}),
        (op, ["s", "last"], ["y"], {"keepdims": 0}),
    ]
    assert lowered(model_of(nodes), X) == [op.removeprefix("Reduce")]
    assert op in lowered(model_of(nodes, ("y", "s")), X)
    nodes[-1] = (op, ["s", "1:"], ["y"], {"keepdims": 0})
    assert op in lowered(model_of(nodes), X)


@pytest.mark.parametrize("zero", [3, -5])
def test_quantised_and_back(zero):
    more = {"scale": np.float32(0.1), "zero": np.int8(zero)}
    nodes = [
        ("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        ("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    x = random(2, 4, 11) * 20
    assert lowered(model_of(nodes, constants=more), x) == ["DequantizeLinear"]
    nodes[1] = ("DequantizeLinear", ["q", "1", "zero"], ["y"])
    steps = lowered(model_of(nodes, constants=more), x)
    assert steps == ["QuantizeLinear", "DequantizeLinear"]


def test_elementwise_nodes_run_in_blocks():
    nodes = [
        ("Mul", ["x", "c"], ["a"]),
        ("Exp", ["a"], ["e"]),
        ("Add", ["e", "1"], ["f"]),
        ("Log", ["f"], ["y"]),
    ]
    large = random(3, 4, 30001)
    assert lowered(model_of(nodes), X, large, random(0, 4, 9), random(1, 4, 0)) == ["Log"]
    assert lowered(model_of(nodes, ("y", "e")), X, large) == ["Exp", "Log"]
    nodes = [("Add", ["x", "deep"], ["a"]), ("Relu", ["a"], ["y"])]  # more dimensions than x
    assert lowered(model_of(nodes, constants={"deep": random(5, 1, 4, 1)}), X, large) == ["Relu"]


def test_gates_split_what_a_convolution_makes():
    nodes = [
        ("Conv", ["x", "w"], ["h"]),
        ("Split", ["h"], ["a", "b2"], {"axis": 1, "num_outputs": 2}),
        ("Tanh", ["a"], ["t"]),
        ("Sigmoid", ["b2"], ["s"]),
        ("Mul", ["t", "s"], ["y"]),
    ]
    assert lowered(model_of(nodes), X) == ["Conv", "Split", "Mul"]


@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [
        ((3, 1), {}),
        ((3, 1), {"pads": [2, 0, 1, 0], "dilations": [2, 1]}),
        ((3, 1), {"strides": [2, 1]}),
        ((1, 3), {"pads": [0, 1, 0, 2], "strides": [1, 2]}),
        ((1, 1), {}),
        ((1, 1), {"strides": [2, 2]}),
        ((3, 2), {"pads": [1, 0, 1, 1]}),
        ((3, 2), {"strides": [2, 3], "dilations": [1, 2]}),
        ((3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((3, 3), {"auto_pad": "SAME_LOWER"}),
        ((2, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
        ((3, 3), {"group": 4}),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_two_dimensions(kernel, attributes, bias):
    group = attributes.get("group", 1)
    more = {"wide": random(8, 4 // group, *kernel), "b8": random(8)}
    nodes = [
        ("Conv", ["x", "wide", *(["b8"] if bias else [])], ["h"], attributes),
        ("Relu", ["h"], ["y"]),
    ]
    for shape in [(2, 4, 9, 11), (1, 4, 7, 8)]:
        model = model_of(nodes, constants=more, rank=4)
        assert lowered(model, random(*shape), random(*shape, seed=1), tolerance=1e-4) == ["Conv"]


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": [1, 0, 2, 1], "strides": [2, 3], "output_padding": [1, 2]},
        {"group": 2, "dilations": [2, 1]},
        {"output_shape": [18, 21], "strides": [2, 2]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    ],
)
def test_two_dimensions_transposed(attributes):
    more = {"wide": random(4, 6 // attributes.get("group", 1), 3, 2), "b6": random(6)}
    nodes = [("ConvTranspose", ["x", "wide", "b6"], ["y"], attributes)]
    model = model_of(nodes, constants=more, rank=4)
    assert lowered(model, random(2, 4, 9, 11), tolerance=1e-4) == ["ConvTranspose"]


# ---- the program -------------------------------------------------------------------------------


def test_what_depends_on_constants_is_computed_once():
    nodes = [
        ("Shape", ["x"], ["shape"]),
        ("Gather", ["shape", "last"], ["length"]),
        ("Cast", ["length"], ["number"], {"to": TensorProto.FLOAT}),
        ("Mul", ["number", "2"], ["twice"]),
        ("Add", ["x", "twice"], ["y"]),
    ]
    assert lowered(model_of(nodes, shape=[None, 4, 11]), X) == ["Add"]  # the length is known
    assert lowered(model_of(nodes), X) == ["Shape", "Gather", "Add"]
    with pytest.raises(ValueError, match=r"'x' should have the size \[None, 4, 11\], got"):
        from_onnx(model_of(nodes, shape=[None, 4, 11]))(random(2, 4, 12))


def test_an_if_on_a_constant_and_one_at_run_time():
    def branch(op, name):
        body = [helper.make_node(op, ["h", "k"], [name])]
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph(body, name, [], [value])

    def model(condition):
        nodes = [
            ("Conv", ["x", "w"], ["h"]),
            ("Identity", ["0.5"], ["k"]),
            ("ReduceSum", ["x"], ["sum"], {"keepdims": 0}),
            ("Greater", ["sum", "0"], ["positive?"]),
            ("If", [condition], ["y"], {"then_branch": branch("Add", "a"),
                                        "else_branch": branch("Mul", "a")}),
        ]  # fmt: skip
        return model_of(nodes, constants={"yes": np.array(True), "no": np.array([False])})

    assert lowered(model("yes"), X) == lowered(model("no"), X) == ["Conv"]
    steps = lowered(model("positive?"), np.abs(X), -np.abs(X))
    assert steps[-1] == "If" and steps[0] == "Conv"


def test_a_loop_with_a_captured_convolution():
    body = helper.make_graph(
        [
            helper.make_node("Conv", ["v", "w1"], ["h"]),
            helper.make_node("Add", ["h", "x"], ["v_out"]),
            helper.make_node("Identity", ["go"], ["go_out"]),
            helper.make_node("ReduceMax", ["v_out"], ["top"], keepdims=0),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("top", TensorProto.FLOAT, []),
        ],
    )
    nodes = [("Loop", ["trips", "", "x"], ["y", "tops"], {"body": body})]
    for trips in (3, 0):
        constants = {"trips": np.array(trips), "w1": CONSTANTS["w1"]}
        model = model_of(nodes, ("y", "tops"), constants=constants)
        model.graph.initializer.append(numpy_helper.from_array(CONSTANTS["w1"], "w1"))
        assert lowered(model, X, tolerance=1e-4) == ["Loop"]


def test_functions_of_a_model():
    function = helper.make_function(
        "mine", "F", ["a"], ["b"], [helper.make_node("Conv", ["a", "w"], ["b"])], [
            helper.make_opsetid("", 20)
        ],
    )  # fmt: skip
    function.input.append("w")
    model = model_of([("Relu", ["x"], ["y"])])
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("F", ["x", "w"], ["y"], domain="mine"))
    model.graph.initializer.append(numpy_helper.from_array(CONSTANTS["w"], "w"))
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    assert lowered(model, X) == ["Conv"]


def test_absent_optional_inputs():
    nodes = [
        ("Conv", ["x", "w", ""], ["h"]),
        ("Pad", ["h", "pads", "", "2:"], ["p"]),
        ("Clip", ["p", "", "1"], ["y"]),
    ]
    lowered(model_of(nodes, constants={"pads": np.array([1, 1])}), X)


def test_outputs_are_the_callers_own():
    model = from_onnx(
        model_of(
            [
                ("Identity", ["x"], ["y"]),
                ("Transpose", ["x"], ["z"]),
                ("Relu", ["x"], ["a"]),
                ("Identity", ["a"], ["b0"]),
                ("Identity", ["c"], ["k"]),
            ],
            ("y", "z", "a", "b0", "k"),
        )
    )
    found = model(X)
    for i, array in enumerate(found):
        others = [*found[:i], *found[i + 1 :], X]
        assert array.flags.writeable and not any(np.shares_memory(array, o) for o in others)
    before = [array.copy() for array in found]
    model(random(2, 4, 11, seed=5))
    assert all((a == b).all() for a, b in zip(found, before, strict=True))


def test_out():
    model = from_onnx(model_of([CONV, ("Relu", ["h"], ["y"])], ("y", "x2")[:1]))
    out = np.empty((2, 4, 9), np.float32)
    assert model(X, out=out) is out
    np.testing.assert_array_equal(out, model(X))
    with pytest.raises(ValueError, match="out for 'y' should be an array of size"):
        model(X, out=np.empty((2, 4, 8), np.float32))
    with pytest.raises(TypeError, match="out should be an ndarray, got str"):
        model(X, out=["y"])
    with pytest.raises(ValueError, match="out should have 1 arrays"):
        model(X, out=[out, out])


def test_refusals_name_all_nodes():
    nodes = [
        ("StringNormalizer", ["x"], ["a"]),
        ("StringNormalizer", ["a"], ["b0"]),
        ("Conv", ["x", "w"], ["h"], {"pads": [1, 1], "strides": [1, 1]}),
        ("Relu", ["h"], ["y"]),
    ]
    with pytest.raises(OnnxError) as caught:
        from_onnx(model_of(nodes, ("b0", "y")))
    text = str(caught.value)
    assert (
        "StringNormalizer: StringNormalizer is not supported" in text
        and "'n0', node 'n1'" in text
        and "strides should have 1 values" in text
    )


# ---- products of quantised values --------------------------------------------------------------


def quantised(kind, weight_kind, op, per_column, after):
    """Nodes and constants of x, quantised and back, times a constant that was quantised."""
    rng = np.random.default_rng(3)
    low = np.iinfo(weight_kind).min
    shape = (6, 5) if op == "Gemm" else (5, 6)
    axis, count = (0 if op == "Gemm" else 1), 6 if per_column else 1
    zero = np.full(count, low + 128, weight_kind)
    constants = {
        "sx": np.float32(0.05),
        "zx": np.array(np.iinfo(kind).min + 100, kind),
        "w": rng.integers(low + 1, low + 256, shape).astype(weight_kind),
        "sw": rng.uniform(0.01, 0.02, count).astype(np.float32).reshape(-1 if per_column else ()),
        "zw": zero.reshape(-1 if per_column else ()),
        "sy": np.float32(0.25),
        "zy": np.array(np.iinfo(kind).min + 128, kind),
        "b": random(6),
    }
    ends = {"alone": "y", "rounded": "r", "bias": "r", "twice": "r"}
    product = (op, ["d", "v", *(["b"] if op == "Gemm" else [])], [ends[after]])
    nodes = [
        ("QuantizeLinear", ["x", "sx", "zx"], ["q"]),
        ("DequantizeLinear", ["q", "sx", "zx"], ["d"]),
        ("DequantizeLinear", ["w", "sw", "zw"], ["v"], {"axis": axis}),
        (*product, {"transB": 1} if op == "Gemm" else {}),
    ]
    back = [("QuantizeLinear", ["r", "sy", "zy"], ["rq"])]
    back.append(("DequantizeLinear", ["rq", "sy", "zy"], ["y" if after == "rounded" else "rd"]))
    if after == "bias":
        back.append(("Add", ["rd", "b"], ["y"]))
    if after == "twice":  # what is quantised is read by two
        back.append(("Concat", ["rd", "r"], ["y"], {"axis": -1}))
    return [*nodes, *(back if after != "alone" else [])], constants


@pytest.mark.parametrize("after", ["alone", "rounded", "bias", "twice"])
@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
@pytest.mark.parametrize("per_column", [True, False])
@pytest.mark.parametrize(("kind", "weight_kind"), [(np.uint8, np.int8), (np.int8, np.int8)])
def test_products_of_quantised_values(kind, weight_kind, per_column, op, after):
    nodes, constants = quantised(kind, weight_kind, op, per_column, after)
    rank = 2 if op == "Gemm" else 3
    model = model_of(nodes, rank=rank, constants=constants)
    inputs = [random(*(1, 4, 5)[3 - rank :], seed=i) * (1 + 9 * i) for i in range(3)]
    steps = lowered(model, *inputs, tolerance=1e-4)
    assert "QuantizeLinear" in steps and op in steps
    found = [type(step.node).__name__ for step in from_onnx(model)._steps]
    assert "QuantisedProduct" in found and "Convolution" not in found
    if op == "MatMul" and after in ("rounded", "bias"):
        assert len(found) == 2
    lowered(model, *inputs, tolerance=1e-4, rest="onnxruntime")


def test_two_products_of_the_same_quantised_values():
    nodes, constants = quantised(np.uint8, np.int8, "MatMul", True, "alone")
    nodes[-1] = ("MatMul", ["d", "v"], ["one"])
    nodes += [("MatMul", ["d", "v"], ["two"]), ("ReduceMax", ["d"], ["most"])]
    nodes += [("Add", ["one", "most"], ["three"]), ("Concat", ["three", "two"], ["y"], {"axis": 0})]
    model = model_of(nodes, constants=constants)
    steps = lowered(model, random(1, 4, 5), tolerance=1e-4)
    assert steps.count("MatMul") == 2 and steps.count("QuantizeLinear") == 1
    lowered(model, random(1, 4, 5), tolerance=1e-4, rest="onnxruntime")


def test_unsigned_weights_and_others_that_are_no_signed_bytes():
    nodes, constants = quantised(np.uint8, np.uint8, "MatMul", True, "alone")
    model = model_of(nodes, constants=constants)
    wanted = [type(step.node).__name__ for step in from_onnx(model)._steps]
    assert "QuantisedProduct" in wanted
    x = random(1, 4, 5)
    steps = np.clip(np.rint(x / 0.05), -100, 155) * 0.05
    matrix = (constants["w"].astype(float) - 128) * constants["sw"]
    np.testing.assert_allclose(from_onnx(model)(x), steps @ matrix, rtol=1e-4, atol=1e-4)
    constants["zw"] = np.zeros(6, np.uint8)
    model = model_of(nodes, constants=constants)
    wanted = [type(step.node).__name__ for step in from_onnx(model)._steps]
    assert "QuantisedProduct" not in wanted
    matrix = constants["w"].astype(float) * constants["sw"]
    np.testing.assert_allclose(from_onnx(model)(x), steps @ matrix, rtol=1e-4, atol=1e-4)


# ---- the rest in ONNX Runtime ------------------------------------------------------------------


def test_rest_in_onnx_runtime():
    nodes = [
        ("Transpose", ["x"], ["t"], {"perm": [0, 2, 1]}),
        ("MatMul", ["t", "square"], ["m1"]),
        ("Softmax", ["m1"], ["s"]),
        ("Transpose", ["s"], ["u"], {"perm": [0, 2, 1]}),
        ("Conv", ["u", "w"], ["h"], {"pads": [1, 1]}),
        ("Mul", ["h", "h"], ["q"]),
        ("Conv", ["q", "w1"], ["k"]),
        ("ReduceMean", ["k", "last"], ["y"]),
    ]
    model = model_of(nodes, constants={"square": random(4, 4)})
    steps = from_onnx(model, rest="onnxruntime")._steps
    kinds = [type(step.node).__name__ for step in steps]
    assert kinds == ["Foreign", "Convolution", "Node", "Convolution", "Foreign"]
    lowered(model, X, rest="onnxruntime")
    with pytest.raises(ValueError, match="rest should be None or 'onnxruntime', got 'torch'"):
        from_onnx(model, rest="torch")


def test_rest_takes_bodies_and_what_is_unknown_here():
    def branch(op, name):
        body = [helper.make_node(op, ["h"], [name])]
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph(body, name, [], [value])

    nodes = [
        CONV,
        ("ReduceSum", ["x"], ["sum"], {"keepdims": 0}),
        ("Greater", ["sum", "0"], ["positive?"]),
        ("If", ["positive?"], ["y"], {"then_branch": branch("Abs", "a"),
                                      "else_branch": branch("Exp", "a")}),
    ]  # fmt: skip
    lowered(model_of(nodes), X, -X, rest="onnxruntime")
    model = model_of([CONV, ("FusedGelu", ["h"], ["y"])])
    node = model.graph.node[1]
    node.domain, node.op_type = "com.microsoft", "Inverse"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(OnnxError, match="without ONNX Runtime's optimizations"):
        from_onnx(model)


@pytest.mark.parametrize(
    ("op", "more", "attributes"),
    [
        ("Gelu", [], {}),
        ("FastGelu", [], {}),
        ("FastGelu", ["along"], {}),
        ("BiasGelu", ["along"], {}),
        ("QuickGelu", [], {"alpha": 1.5}),
        ("SkipLayerNormalization", ["x", "along", "shift", "along"], {"epsilon": 1e-3}),
    ],
)
def test_what_onnx_runtimes_optimizer_writes(op, more, attributes):
    constants = {"along": random(11), "shift": random(11, seed=1)}
    model = model_of([(op, ["x", *more], ["y"], attributes)], constants=constants)
    model.graph.node[0].domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert lowered(model, X, tolerance=1e-4) == [op]


def test_what_leaves_a_value_as_it_is():
    nodes = [
        ("Slice", ["x", "0:", "end", "2:"], ["a"]),
        ("Cast", ["a"], ["b0"], {"to": TensorProto.FLOAT}),
        ("Transpose", ["b0"], ["t"], {"perm": [0, 1, 2]}),
        ("Concat", ["t"], ["d"], {"axis": 1}),
        ("Conv", ["d", "w"], ["h"]),
        ("Slice", ["h", "0:", "four", "1:"], ["s"]),
        ("Relu", ["s"], ["y"]),
    ]
    four = {"four": np.array([4])}  # as many as there are channels
    assert lowered(model_of(nodes, constants=four, shape=[None, 4, None]), X) == ["Conv"]
    nodes[5] = ("Slice", ["h", "0:", "three", "1:"], ["s"])
    three = {"three": np.array([3])}
    steps = lowered(model_of(nodes, constants=three, shape=[None, 4, None]), X)
    assert steps == ["Conv", "Slice", "Relu"]


@pytest.mark.parametrize("order", ["x first", "half last"])
def test_gelu_of_16_bits(order):
    """As of the stem of a speech model in float16: one convolution, of that dtype."""
    nodes = [CONV, *gelu_erf(order)]
    half = {
        k: np.asarray(v).astype(np.float16) for k, v in CONSTANTS.items() if v.dtype.kind == "f"
    }
    model = model_of(nodes, constants=half)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    found = from_onnx(model)
    y = found(X.astype(np.float16))
    assert y.dtype == np.float16 and [step.node.op for step in found._steps] == ["Conv"]
    wide = from_onnx(model_of(nodes))(X)
    np.testing.assert_allclose(y.astype(np.float32), wide, atol=2e-2)
    x = X.astype(np.float16)
    alone = [(op, ["x" if n == "h" else n for n in ins], *o) for op, ins, *o in nodes[1:]]
    model = model_of(alone, constants=half)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    assert from_onnx(model)(x).dtype == np.float16


@pytest.mark.parametrize("transposed", [False, True])
def test_batch_norm_of_an_axis_that_is_not_the_channels(transposed):
    """As many positions as channels: axis 1 of (N, L, C) has positions."""
    kernel = random(4, 4, 1, seed=1)
    first = helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1])
    last = helper.make_node("Transpose", ["c"], ["u"], perm=[0, 2, 1])
    nodes = [first, helper.make_node("Conv", ["t", "k"], ["c"]), last]
    if not transposed:
        nodes = [helper.make_node("MatMul", ["x", "m4"], ["u"])]
    norm = helper.make_node("BatchNormalization", ["u", "b", "b", "b", "positive"], ["y"])
    constants = [
        numpy_helper.from_array(kernel, "k"), numpy_helper.from_array(kernel[:, :, 0], "m4"),
        *(numpy_helper.from_array(CONSTANTS[name], name) for name in ("b", "positive")),
    ]  # fmt: skip
    graph = helper.make_graph(
        [*nodes, norm],
        "axis",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = random(2, 4, 4, seed=9)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    np.testing.assert_allclose(from_onnx(model)(x), session.run(None, {"x": x})[0], atol=1e-5)
