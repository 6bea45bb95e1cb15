"""from_onnx and to_onnx against ONNX Runtime, and onnx's reference for float64."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import fastconv1d  # noqa: E402
from fastconv1d import Conv1d, ConvTranspose1d, Mean, Residual, Sequential  # noqa: E402
from fastconv1d.onnx import OnnxError, from_onnx, to_onnx  # noqa: E402

try:
    import onnxruntime
except ImportError:
    onnxruntime = None


def expected(model, *inputs):
    names = [v.name for v in model.graph.input if v.name not in initial(model)]
    feed = dict(zip(names, inputs, strict=True))
    if onnxruntime is None:
        pytest.skip("needs onnxruntime: onnx's own reference is wrong for some attributes")
    if inputs[0].dtype == np.float32:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        return session.run(None, feed)
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(model).run(None, feed)


def initial(model):
    return {tensor.name for tensor in model.graph.initializer}


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def model_of(nodes, constants=(), inputs=("x",), outputs=("y",), opset=18, ranks=None):
    """A model of nodes (op, inputs, outputs, attributes)."""
    ranks = ranks or {}

    def value(name):
        shape = [None] * ranks.get(name, 3)
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [
            helper.make_node(op, ins, outs, name=f"n{i}", **attributes)
            for i, (op, ins, outs, attributes) in enumerate(nodes)
        ],
        "g",
        [value(name) for name in inputs],
        [value(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in dict(constants).items()],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])


def check(model, *inputs, tolerance=1e-5):
    wanted = expected(model, *inputs)
    for given in (model, model.SerializeToString()):
        found = from_onnx(given)(*inputs)
        found = found if isinstance(found, tuple) else (found,)
        assert len(found) == len(wanted)
        for actual, value in zip(found, wanted, strict=True):
            assert actual.dtype == value.dtype and actual.shape == value.shape
            np.testing.assert_allclose(actual, value, rtol=tolerance, atol=tolerance)


# ---- the cases of the wheel --------------------------------------------------------------------


def cases():
    """Return (name, model, inputs, output) of every 1-D case of the wheel."""
    import onnx.backend.test
    from onnx.backend.test.case import node
    from onnx.backend.test.case.node import conv, convtranspose  # noqa: F401  (registers cases)

    found = [
        (case.name, case.model, inputs, outputs[0])
        for case in node._NodeTestCases
        for inputs, outputs in case.data_sets
    ]
    root = Path(onnx.backend.test.__file__).parent / "data"
    for path in sorted(root.glob("*/*[Cc]onv*/model.onnx")):
        for data in sorted(path.parent.glob("test_data_set_*")):
            inputs = [read_tensor(p) for p in sorted(data.glob("input_*.pb"))]
            found.append((path.parent.name, str(path), inputs, read_tensor(data / "output_0.pb")))
    return [case for case in found if is_convolution(case[1]) and np.ndim(case[2][0]) == 3]


def read_tensor(path):
    return numpy_helper.to_array(onnx.load_tensor(path))


def is_convolution(model):
    model = onnx.load(model) if isinstance(model, str) else model
    return model.graph.node[0].op_type in ("Conv", "ConvTranspose")


@pytest.mark.parametrize(("name", "model", "inputs", "output"), cases(), ids=lambda v: str(v)[-30:])
def test_case_of_the_wheel(name, model, inputs, output):
    result = from_onnx(model)(*inputs)
    assert result.dtype == output.dtype and result.shape == output.shape
    np.testing.assert_allclose(result, output, rtol=1e-5, atol=1e-6)


def test_the_wheel_has_cases_of_both():
    models = [onnx.load(c[1]) if isinstance(c[1], str) else c[1] for c in cases()]
    operators = {model.graph.node[0].op_type for model in models}
    assert operators == {"Conv", "ConvTranspose"} and len(models) >= 9


# ---- attributes --------------------------------------------------------------------------------


@pytest.mark.parametrize("pads", [[0, 0], [2, 1], [0, 3], "SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(
    ("dilation", "group", "constant"), [(1, 1, True), (2, 2, True), (1, 2, False)]
)
def test_conv(pads, stride, dilation, group, constant):
    attributes = {"strides": [stride], "group": group}
    attributes["auto_pad" if isinstance(pads, str) else "pads"] = pads
    if not str(pads).startswith(
        "SAME"
    ):  # whose dilation ONNX Runtime and the text read differently
        attributes["dilations"] = [dilation]
    w, b = random(6, 4 // group, 4, seed=1), random(6, seed=2)
    nodes = [("Conv", ["x", "w", "b"], ["y"], attributes)]
    for length in (9, 10, 11):
        x = random(2, 4, length)
        if constant:
            check(model_of(nodes, {"w": w, "b": b}), x)
        else:
            ranks = {"b": 1}
            check(model_of(nodes, inputs=("x", "w", "b"), ranks=ranks), x, w, b)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": [1, 2]},
        {"pads": [0, 3], "strides": [3], "output_padding": [2]},
        {"strides": [2], "dilations": [3], "group": 2},
        {"auto_pad": "VALID", "strides": [2]},
        {"auto_pad": "SAME_UPPER", "strides": [3]},
        {"auto_pad": "SAME_LOWER", "strides": [3]},
        {"auto_pad": "SAME_UPPER", "strides": [2], "output_padding": [1]},
        {"strides": [3], "output_shape": [19]},
        {"strides": [3], "output_shape": [20]},
        {"strides": [3], "output_shape": [21]},
        {"strides": [3], "output_shape": [20], "auto_pad": "SAME_UPPER"},
        {"strides": [3], "output_shape": [20], "auto_pad": "SAME_LOWER"},
        {"strides": [3], "output_shape": [23], "output_padding": [1]},
        {"kernel_shape": [4]},
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_conv_transpose(attributes, bias):
    group = attributes.get("group", 1)
    constants = {"w": random(4, 6 // group, 4, seed=1)} | ({"b": random(6)} if bias else {})
    check(
        model_of([("ConvTranspose", ["x", *constants], ["y"], attributes)], constants),
        random(2, 4, 7),
    )


@pytest.mark.parametrize("flat", [0, 1])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_two_dimensions_of_which_one_is_flat(op, flat):
    """As exporters write it that know no 1-D convolution."""

    def at(value, other):
        return [value, other] if flat else [other, value]

    attributes = {
        "kernel_shape": at(3, 1),
        "strides": at(2, 1),
        "pads": at(1, 0) + at(2, 0),
        "dilations": at(2, 1),
    }
    constants = {"w": random(4, 4, *at(3, 1)), "b": random(4), "axes": np.array([3 if flat else 2])}
    nodes = [
        ("Unsqueeze", ["x", "axes"], ["wide"], {}),
        (op, ["wide", "w", "b"], ["convolved"], attributes),
        ("Squeeze", ["convolved", "axes"], ["y"], {}),
    ]
    check(model_of(nodes, constants), random(2, 4, 15))
    # several rows: each is convolved on its own
    nodes = [(op, ["x", "w", "b"], ["y"], attributes)]
    check(model_of(nodes, constants, ranks={"x": 4, "y": 4}), random(2, 4, 7, 9))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pad(mode):
    for pads in ([0, 0, 3, 0, 0, 2], [0, 0, 0, 0, 0, 4]):
        nodes = [("Pad", ["x", "p"], ["y"], {"mode": mode})]
        check(model_of(nodes, {"p": np.array(pads)}, opset=19), random(2, 3, 9))
    nodes = [("Pad", ["x", "p", "v", "a"], ["y"], {})]
    constants = {"p": np.array([2, -1]), "v": np.float32(1.5), "a": np.array([-1])}
    check(model_of(nodes, constants), random(2, 3, 9))
    check(
        model_of([("Pad", ["x"], ["y"], {"pads": [0, 0, 1, 0, 0, 2], "value": 2.0})], opset=10),
        random(2, 3, 9),
    )


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("Relu", {}),
        ("LeakyRelu", {"alpha": 0.2}),
        ("LeakyRelu", {}),
        ("Elu", {"alpha": 0.7}),
        ("Gelu", {}),
        ("Gelu", {"approximate": "tanh"}),
        ("Sigmoid", {}),
        ("Tanh", {}),
        ("Erf", {}),
        ("Sin", {}),
        ("Reciprocal", {}),
        ("Identity", {}),
    ],
)
def test_activations(op, attributes):
    check(model_of([(op, ["x"], ["y"], attributes)], opset=20), random(2, 3, 50))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Pow"])
def test_arithmetic(op):
    x, y = np.abs(random(2, 3, 5)) + 1, random(2, 3, 5, seed=1)
    check(model_of([(op, ["x", "z"], ["y"], {})], inputs=("x", "z")), x, y)
    check(model_of([(op, ["x", "c"], ["y"], {})], {"c": np.float32(2)}), x)


# ---- graphs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [1, 2])
def test_batch_norm_is_folded(op, bias, group):
    shape = (6, 4 // group, 3) if op == "Conv" else (4, 6 // group, 3)
    constants = {"w": random(*shape), "b": random(6, seed=1), "s": random(6, seed=2)}
    constants |= {"t": random(6, seed=3), "m": random(6, seed=4), "v": random(6, seed=5) ** 2}
    inputs = ["x", "w", "b"] if bias else ["x", "w"]
    nodes = [
        (op, inputs, ["h"], {"group": group}),
        ("BatchNormalization", ["h", "s", "t", "m", "v"], ["y"], {"epsilon": 1e-3}),
    ]
    model = model_of(nodes, constants)
    check(model, random(2, 4, 9), tolerance=1e-4)
    assert [step.node.op for step in from_onnx(model)._steps] == [op]
    # not where the convolution's output is used again
    model = model_of(nodes, constants, outputs=("y", "h"))
    check(model, random(2, 4, 9), tolerance=1e-4)
    assert len(from_onnx(model)._steps) == 2


def test_a_residual_graph_with_constants_of_its_own():
    value = numpy_helper.from_array(np.float32(0.5))
    nodes = [
        ("Constant", [], ["half"], {"value": value}),
        ("Constant", [], ["two"], {"value_float": 2.0}),
        ("Conv", ["x", "w"], ["h"], {"pads": [1, 1]}),
        ("Sigmoid", ["h"], ["s"], {}),
        ("Mul", ["h", "s"], ["silu"], {}),
        ("Add", ["silu", "x"], ["r"], {}),
        ("Mul", ["r", "half"], ["y"], {}),
        ("Mul", ["r", "two"], ["z"], {}),
    ]
    model = model_of(nodes, {"w": random(4, 4, 3)}, outputs=("y", "z"))
    check(model, random(2, 4, 9))
    assert from_onnx(model).inputs == ["x"] and from_onnx(model).outputs == ["y", "z"]


def steps_of(model):
    return [step.node.op for step in from_onnx(model)._steps]


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "Elu", "Sigmoid", "Tanh", "Gelu"])
@pytest.mark.parametrize("order", ["activation", "add", "activation, add", "add, activation"])
@pytest.mark.parametrize("swapped", [False, True])
def test_last_steps_of_a_convolution(op, activation, order, swapped):
    nodes, name = [(op, ["x", "w", "b"], ["h"], {})], "h"
    for step in order.split(", "):
        reads = [name, "r"] if step == "add" else [name]
        name += "'"
        nodes.append(
            ("Add" if step == "add" else activation, reads[:: -1 if swapped else 1], [name], {})
        )
    nodes[-1] = (*nodes[-1][:2], ["y"], {})
    x, w, b = random(2, 4, 9), random(4, 4, 3), random(4, seed=1)
    inputs = ("x", "r") if "add" in order else ("x",)
    model = model_of(nodes, {"w": w, "b": b}, inputs, opset=20)
    assert steps_of(model) == [op]
    rest = [random(2, 4, 7 if op == "Conv" else 11, seed=2)] if "add" in order else []
    check(model, x, *rest)
    for shape in [(2, 4, 1), (1, 4, 1), (1,), (3, 2, 4, 1)]:  # which the sum repeats
        if rest and (len(shape) < 4 or op == "Conv"):
            ranks = {"r": len(shape), "y": max(3, len(shape))}
            check(
                model_of(nodes, {"w": w, "b": b}, inputs, opset=20, ranks=ranks), x, random(*shape)
            )


def test_silu_is_a_last_step():
    nodes = [
        ("Conv", ["x", "w"], ["h"], {}),
        ("Sigmoid", ["h"], ["s"], {}),
        ("Mul", ["s", "h"], ["y"], {}),
    ]
    model = model_of(nodes, {"w": random(4, 4, 3)})
    assert steps_of(model) == ["Conv"]
    check(model, random(2, 4, 9))
    model = model_of(nodes, {"w": random(4, 4, 3)}, outputs=("y", "s"))
    assert steps_of(model) == ["Conv", "Sigmoid", "Mul"]  # s is an output: it is no inner value
    check(model, random(2, 4, 9))


def test_steps_that_stay_apart():
    w = {
        "w": random(4, 4, 1),
        "v": random(4, 4, 1, seed=1),
        "c": random(4, 1, seed=2),
        "u": random(4, 4, 3),
    }
    conv, other = ("Conv", ["x", "w"], ["h"], {}), ("Conv", ["x", "v"], ["k"], {})
    relu, add = ("Relu", ["h"], ["y"], {}), ("Add", ["h", "k"], ["y"], {})
    same = {"auto_pad": "SAME_UPPER", "strides": [2]}
    for nodes, outputs, kept in [
        ([conv, relu], ("y", "h"), ["Conv", "Relu"]),  # h is needed as it is
        ([conv, other, add], ("y",), ["Conv", "Conv"]),  # into the later one
        ([conv, other, add], ("y", "k"), ["Conv", "Conv", "Add"]),
        ([conv, ("Relu", ["h"], ["k"], {}), add], ("y",), ["Conv", "Add"]),  # Relu and Add in one
        ([conv, ("Add", ["h", "h"], ["y"], {})], ("y",), ["Conv", "Add"]),
        ([conv, ("Add", ["h", "c"], ["y"], {})], ("y",), ["Conv"]),  # a bias
        ([conv, ("Add", ["h", "c"], ["y"], {})], ("y", "h"), ["Conv", "Add"]),
        ([conv, ("Relu", ["h"], ["k"], {}), ("Tanh", ["k"], ["y"], {})], ("y",), ["Conv", "Tanh"]),
        ([("ConvTranspose", ["x", "u"], ["h"], same), relu], ("y",), ["ConvTranspose", "Relu"]),
    ]:
        model = model_of(nodes, w, outputs=outputs)
        assert steps_of(model) == kept
        check(model, random(2, 4, 9))


def test_values_are_forgotten_after_their_last_use():
    nodes = [("Softmax", [f"v{i}"], [f"v{i + 1}"], {"axis": 1}) for i in range(5)]
    model = from_onnx(model_of(nodes, inputs=("v0",), outputs=("v5",)))
    assert [step.done for step in model._steps] == [[f"v{i}"] for i in range(5)]


# ---- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (
            ("StringNormalizer", ["x"], ["y"], {}),
            r"node 'n0' \(StringNormalizer\): StringNormalizer is not supported; supported",
        ),
        (
            ("Conv", ["x", "w"], ["y"], {"kernel_shape": [5]}),
            "kernel_shape should be that of the w",
        ),
        (
            ("Conv", ["x", "w"], ["y"], {"strides": [2, 2]}),
            r"strides should have 1 values, got \[2",
        ),
        (("Conv", ["x", "w"], ["y"], {"pads": [2]}), r"pads should have 2 values, got \[2\]"),
        (("Conv", ["x", "w"], ["y"], {"pads": [2**62, 0]}), "pads, strides and .* not supported"),
        (("Conv", ["x", "w"], ["y"], {"auto_pad": "SAME"}), "auto_pad 'SAME' is not supported"),
    ],
)
def test_what_is_not_supported(node, text):
    model = model_of([node], {"w": random(4, 4, 3), "w2": random(4, 4, 3, 3)})
    with pytest.raises(OnnxError, match=text):
        from_onnx(model)


def test_a_node_of_another_domain():
    model = model_of([("Relu", ["x"], ["y"], {})])
    model.graph.node[0].domain = "com.acme"
    model.opset_import.append(helper.make_opsetid("com.acme", 1))
    with pytest.raises(OnnxError, match=r"node 'n0' \(Relu\): com\.acme\.Relu is not supported"):
        from_onnx(model)


def test_models_that_are_none(tmp_path):
    with pytest.raises(OnnxError, match="no valid ONNX model: "):
        from_onnx(b"hello")
    (tmp_path / "x.onnx").write_bytes(b"\x00" * 99)
    with pytest.raises(OnnxError, match="no valid ONNX model: "):
        from_onnx(tmp_path / "x.onnx")
    with pytest.raises(FileNotFoundError):
        from_onnx(tmp_path / "missing.onnx")


def test_inputs_that_do_not_fit():
    model = from_onnx(model_of([("Conv", ["x", "w"], ["y"], {})], {"w": random(4, 4, 3)}))
    with pytest.raises(
        ValueError, match=r"node 'n0' \(Conv\): Given groups=1, .* to have 4 channels"
    ):
        model(random(1, 5, 9))
    with pytest.raises(TypeError, match=r"node 'n0' \(Conv\): Input type \(float64\)"):
        model(random(1, 4, 9).astype(np.float64))
    with pytest.raises(ValueError, match=r"the graph takes the inputs \['x'\], got 2"):
        model(1, 2)


# ---- writing -----------------------------------------------------------------------------------


def networks():
    rng = np.random.default_rng(0)

    def conv(*args, **kwargs):
        return Conv1d(*args, rng=rng, **kwargs)

    return {
        "chain": Sequential(
            conv(4, 6, 3, stride=2, padding=(2, 1)),
            fastconv1d.ReLU(),
            ConvTranspose1d(6, 4, 4, stride=2, padding=1, output_padding=1, groups=2, rng=rng),
            fastconv1d.LeakyReLU(0.1),
            conv(4, 8, 5, padding="same", dilation=2, groups=4, bias=False),
            fastconv1d.ELU(0.5),
            conv(8, 4, 3, padding="causal"),
            fastconv1d.GELU(),
            fastconv1d.GELU("tanh"),
            fastconv1d.SiLU(),
            fastconv1d.Tanh(),
            fastconv1d.Sigmoid(),
        ),
        "fused": Sequential(
            conv(4, 6, 3, padding=1, activation=("leaky_relu", 0.2), pre_activation="silu"),
            conv(
                6,
                4,
                3,
                padding=1,
                padding_mode="reflect",
                pre_activation=("elu", 0.5),
                activation=("snake", np.linspace(0.5, 2, 4)),
            ),
            ConvTranspose1d(
                4, 4, 4, stride=2, pre_activation=("gelu", "tanh"), activation="gelu", rng=rng
            ),
        ),
        "snake": Sequential(conv(4, 3, 1), fastconv1d.Snake([0.5, 1.0, -2.0])),
        "residual": Residual(
            conv(4, 4, 3, padding=1), fastconv1d.ReLU(), shortcut=conv(4, 4, 1), residual_scale=0.5
        ),
        "mean": Sequential(
            Mean(*(conv(4, 5, k, padding="same") for k in (3, 5, 7))), Mean(conv(5, 5, 1))
        ),
        "nested": Sequential({"a": Residual(fastconv1d.ReLU(), conv(4, 4, 1)), "b": conv(4, 2, 1)}),
        "same": conv(4, 4, 4, stride=3, padding="same_upper"),
        "lower": conv(4, 4, 4, stride=3, padding="same_lower"),
        "reflect": conv(4, 4, 3, padding=(2, 1), padding_mode="reflect"),
        "replicate": conv(4, 4, 3, padding="same", padding_mode="replicate"),
        "circular": conv(4, 4, 3, padding=(2, 1), padding_mode="circular"),
        "cropped": ConvTranspose1d(4, 4, 5, stride=2, padding="causal", rng=rng),
    }


@pytest.mark.parametrize("name", networks())
def test_to_onnx(name):
    network = networks()[name]
    model = to_onnx(network)
    onnx.checker.check_model(model, full_check=True)
    for length in (13, 20):
        x = y = random(2, 4, length)
        for layer in network if type(network) is Sequential else [network]:
            y = layer(y)
        (wanted,) = expected(model, x)
        assert wanted.shape == y.shape
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(from_onnx(model)(x), y, rtol=1e-6, atol=1e-6)


def test_to_onnx_in_double_precision():
    network = Sequential(Conv1d(2, 3, 3, dtype=np.float64), fastconv1d.Tanh())
    x = np.random.default_rng(0).standard_normal((1, 2, 9))
    (wanted,) = expected(to_onnx(network), x)
    np.testing.assert_allclose(network(x), wanted, rtol=1e-12)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (Conv1d(1, 1, 3, dtype=np.complex64), "no convolution of dtype complex64"),
        (
            Conv1d(1, 1, 3, stride=2, padding="same_upper", padding_mode="reflect"),
            "no padding_mode='reflect' in ONNX here",
        ),
        (
            ConvTranspose1d(1, 1, 3, padding=1, padding_mode="reflect"),
            "no padding_mode='reflect'",
        ),
        (Conv1d(1, 1, 3, layout="NLC"), "ONNX has no layout NLC"),
        (fastconv1d.ReLU(), "a network without a layer that has parameters has no dtype"),
    ],
)
def test_what_cannot_be_written(layer, text):
    with pytest.raises(OnnxError, match=text):
        to_onnx(layer)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names on this system")
def test_what_is_no_regular_file_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "model.onnx")
    code = "import sys; from fastconv1d.onnx import from_onnx; from_onnx(sys.argv[1])"
    for path, kind in ((tmp_path / "model.onnx", "a pipe"), ("/dev/zero", "a device")):
        done = subprocess.run(
            [sys.executable, "-c", code, path],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert f"OnnxError: {path} is {kind}: a model should be in a regular file" in done.stderr
    with pytest.raises(FileNotFoundError):
        from_onnx(tmp_path / "missing.onnx")


def test_only_networks_are_written():
    with pytest.raises(TypeError, match="should be a Conv1d"):
        to_onnx([1])
