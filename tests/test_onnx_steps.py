"""Steps that are bound to shapes, packed, or left to ONNX Runtime: first and later calls."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from fastconv1d import Conv1d  # noqa: E402
from fastconv1d.onnx import (  # noqa: E402
    InferenceSession,
    from_onnx,
    to_onnx,
    ways,
)
from fastconv1d.onnx import model as models  # noqa: E402
from fastconv1d.onnx.recurrence import Recurrent  # noqa: E402
from fastconv1d.onnx.ways import ALONE, CUT, WHOLE  # noqa: E402

onnxruntime = pytest.importorskip("onnxruntime")


def random(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def model_of(nodes, constants, inputs, outputs=("y",), opset=18):
    kinds = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float64): TensorProto.DOUBLE}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(k, kinds[v.dtype], [None] * v.ndim) for k, v in inputs],
        [helper.make_tensor_value_info(n, kinds[inputs[0][1].dtype], None) for n in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", opset)])


def check(nodes, constants, *shapes, dtype=np.float32, outputs=("y",), opset=18, tolerance=1e-5):
    """Compare values with ONNX Runtime's for inputs of each set of shapes, thrice in turns."""
    named = [(f"x{i}", random(*shape, dtype=dtype)) for i, shape in enumerate(shapes[0])]
    model = model_of(nodes, constants, named, outputs, opset)
    found = from_onnx(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for call in range(3):
        for sizes in shapes:
            values = [random(*s, seed=10 * call + i, dtype=dtype) for i, s in enumerate(sizes)]
            wanted = session.run(None, {f"x{i}": v for i, v in enumerate(values)})
            ours = found(*values)
            for a, b in zip(ours if len(outputs) > 1 else (ours,), wanted, strict=True):
                assert a.shape == b.shape and a.dtype == b.dtype
                np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    return found


def node(op, inputs, outputs=("y",), **attributes):
    return helper.make_node(op, inputs, outputs, **attributes)


I = np.int64  # noqa: E741
BOUND = {
    "reshape": ([node("Reshape", ["x0", "s"])], {"s": np.array([0, -1], I)}),
    "flatten": ([node("Flatten", ["x0"], axis=2)], {}),
    "slice": (
        [node("Slice", ["x0", "b", "e", "a", "s"])],
        {
            "b": np.array([-1, 1], I),
            "e": np.array([-100, 90], I),
            "a": np.array([-1, 1], I),
            "s": np.array([-2, 2], I),
        },
    ),
    "mean-of-two": ([node("ReduceMean", ["x0", "a"])], {"a": np.array([-1, 0], I)}),
    "mean-middle-dropped": (
        [node("ReduceMean", ["x0", "a"], keepdims=0)],
        {"a": np.array([1], I)},
    ),
    "mean-of-all": ([node("ReduceMean", ["x0"], keepdims=0)], {}),
    "mean-of-all-and-on": (
        [node("ReduceMean", ["x0"], ["m"], keepdims=0), node("Relu", ["m"])],
        {},
    ),
    "unsqueeze": ([node("Unsqueeze", ["x0", "a"])], {"a": np.array([0, -1], I)}),
    "expand": ([node("Expand", ["x0", "s"])], {"s": np.array([1, 1, 1], I)}),
    "expand-more": ([node("Expand", ["x0", "s"])], {"s": np.array([2, 1, 1, 1], I)}),
    "concat": ([node("Concat", ["x0", "c", "x0"], axis=-3)], {"c": random(1, 4, 5)}),
    "mean": ([node("ReduceMean", ["x0", "a"])], {"a": np.array([0], I)}),
    "mean-dropped": ([node("ReduceMean", ["x0", "a"], keepdims=0)], {"a": np.array([0], I)}),
    "max": ([node("ReduceMax", ["x0", "a"], keepdims=0)], {"a": np.array([-1], I)}),
    "split": (
        [
            node("Split", ["x0", "s"], ["a", "b", "c"], axis=-1),
            node("Concat", ["c", "a", "b", "a"], axis=2),
        ],
        {"s": np.array([1, 0, 4], I)},
    ),
    **{
        f"pad-{mode}": (
            [node("Pad", ["x0", "p"], mode=mode)],
            {"p": np.array([0, 2, 3, 0, 0, 1], I)},
        )
        for mode in ("constant", "reflect", "edge")
    },
    "pad-value": (
        [node("Pad", ["x0", "p", "v"])],
        {"p": np.array([0, 2, 3, 1, 0, 1], I), "v": np.float32(3)},
    ),
    "pad-cut": ([node("Pad", ["x0", "p"])], {"p": np.array([0, -1, 3, 0, 0, -1], I)}),
    "pad-axes": (
        [node("Pad", ["x0", "p", "", "a"])],
        {"p": np.array([2, 1], I), "a": np.array([-1], I)},
    ),
}


@pytest.mark.parametrize("name", BOUND)
def test_bound_to_shapes(name):
    nodes, constants = BOUND[name]
    check(nodes, constants, [(1, 4, 5)], *([[(3, 4, 5)]] if "concat" not in name else []))


def test_an_if_on_sizes():
    def branch(op, name, *more):
        out = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
        return helper.make_graph([node(op, ["x0", *more], [name])], name, [], out)

    nodes = [
        node("Shape", ["x0"], ["shape"]),
        node("Gather", ["shape", "zero"], ["n"]),
        node("Equal", ["n", "one"], ["single"]),
        node(
            *("If", ["single"], ["z"]),
            then_branch=branch("Squeeze", "t", "axes"),
            else_branch=branch("Identity", "e"),
        ),
        node("Shape", ["z"], ["sizes"]),
        node("ConstantOfShape", ["sizes"], ["zeros"]),
        node("Add", ["z", "zeros"]),
    ]
    constants = {"zero": np.array(0, I), "one": np.array(1, I), "axes": np.array([0], I)}
    found = check(nodes, constants, [(1, 4, 5)], [(3, 4, 5)])
    kinds = [[c.node.op for c in b.calls] for b in found._program._bindings.values()]
    assert kinds == [["Squeeze", "Add"], ["Identity", "Add"]]


def chosen_by_number(then, other, then_outputs=("t", "u"), other_outputs=("v", "w")):
    """Return a model of x (float) and n (int64), whose If takes the first branch where n is 1."""

    def branch(nodes, outputs):
        made = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
        return helper.make_graph(nodes, "branch", [], made)

    nodes = [
        node("Neg", ["x"], ["m"]),
        node("Equal", ["n", "one"], ["first"]),
        node(
            *("If", ["first"], ["y", "z"]),
            then_branch=branch(then, then_outputs),
            else_branch=branch(other, other_outputs),
        ),
    ]
    graph = helper.make_graph(
        [*nodes, node("Add", ["m", "x"], ["zeros"])],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4]),
            helper.make_tensor_value_info("n", TensorProto.INT64, []),
        ],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("y", "z", "zeros")],
        [numpy_helper.from_array(np.array(1, I), "one")],
    )
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)])


def inner_if():
    size = helper.make_tensor_value_info("deep", TensorProto.FLOAT, None)
    branches = [
        helper.make_graph([node(op, ["m"], ["deep"])], op, [], [size]) for op in ("Abs", "Neg")
    ]
    return [
        node("Equal", ["n", "n"], ["same"]),
        node("If", ["same"], ["t"], then_branch=branches[0], else_branch=branches[1]),
        node("Add", ["t", "m"], ["u"]),
    ]


BRANCHES = {
    "computed": [node("Abs", ["m"], ["t"]), node("Add", ["t", "x"], ["u"])],
    "passed": [node("Identity", ["x"], ["t"]), node("Identity", ["m"], ["u"])],
    "shared": [node("Abs", ["m"], ["t"]), node("Identity", ["t"], ["u"])],
    "known": [
        node("Shape", ["x"], ["s"]),
        node("Cast", ["s"], ["t"], to=1),
        node("ConstantOfShape", ["s"], ["u"]),
    ],
    "nested": inner_if(),
}


@pytest.mark.parametrize("then", BRANCHES)
def test_an_if_on_a_number_of_the_inputs(then):
    other = [node("Sqrt", ["t0"], ["v"]), node("Exp", ["m"], ["w"])]
    model = chosen_by_number(BRANCHES[then], [node("Abs", ["x"], ["t0"]), *other])
    found = from_onnx(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for call, (rows, n) in enumerate([(2, 1), (2, 0), (2, 1), (3, 1), (2, 0), (3, 1), (2, 1)]):
        feed = {"x": random(rows, 4, seed=call), "n": np.array(n, I)}
        for a, b in zip(found(*feed.values()), session.run(None, feed), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    kinds = {c.node.op for b in found._program._bindings.values() for c in b.calls}
    assert "If" not in kinds and len(found._program._bindings) == 3


def test_a_number_that_differs_in_each_call():
    model = chosen_by_number(BRANCHES["computed"], [node("Exp", [n], [o]) for n, o in ("xv", "mw")])
    found = from_onnx(model)
    x = random(2, 4)
    for n in [*range(40), 1, 50, 1]:
        y, z, zeros = found(x, np.array(n, I))
        np.testing.assert_allclose(y, abs(x) if n == 1 else np.exp(x), rtol=1e-6)
        np.testing.assert_allclose(z, abs(x) + x if n == 1 else np.exp(-x), rtol=1e-6)
        assert not zeros.any()
    kinds = [c.node.op for b in found._program._bindings.values() for c in b.calls]
    assert "If" in kinds  # no longer by number


def lstm_constants(count, scale=1.0, dtype=np.float32):
    return {
        "W": random(count, 24, 5, seed=1, dtype=dtype) * dtype(scale),
        "R": random(count, 24, 6, seed=2, dtype=dtype) * dtype(scale),
        "B": random(count, 48, seed=3, dtype=dtype) * dtype(scale),
        "h": random(count, 3, 6, seed=4, dtype=dtype),
        "c": random(count, 3, 6, seed=5, dtype=dtype),
    }


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("inputs", [[], ["B"], ["B", "", "h", "c"], ["", "", "h"]])
@pytest.mark.parametrize("outputs", [["y"], ["y", "h1", "c1"], ["", "h1"], ["", "", "c1"]])
def test_lstm_of_constant_parameters(direction, inputs, outputs):
    constants = lstm_constants(1 + (direction == "bidirectional"))
    kept = {k: v for k, v in constants.items() if k in ("W", "R", *inputs)}
    nodes = [
        node("LSTM", ["x0", "W", "R", *inputs], outputs, hidden_size=6, direction=direction),
    ]
    wanted = [name for name in outputs if name]
    found = check(nodes, kept, [(4, 3, 5)], [(1, 3, 5)], outputs=wanted)
    kinds = [type(step.node) for step in found._steps]
    assert kinds == [Recurrent] or not outputs[0]


def test_lstm_of_float64_and_of_saturated_gates():
    nodes = [node("LSTM", ["x0", "W", "R", "B"], ["y"], hidden_size=6)]
    constants = lstm_constants(1, 100.0)
    kept = {k: constants[k] for k in "WRB"}
    check(nodes, kept, [(40, 3, 5)], tolerance=1e-4)
    ours = from_onnx(model_of(nodes, kept, [("x0", random(1, 1, 1))]))
    wide = {k: v.astype(np.float64) for k, v in kept.items()}
    theirs = from_onnx(model_of(nodes, wide, [("x0", random(1, 1, 1, dtype=np.float64))]))
    x = random(7, 2, 5)
    np.testing.assert_allclose(ours(x), theirs(x.astype(np.float64)), atol=1e-4)


@pytest.mark.parametrize("attributes", [{"clip": 1.0}, {"input_forget": 1}, {"layout": 1}])
def test_other_lstms_stay(attributes):
    nodes = [node("LSTM", ["x0", "W", "R"], ["y"], hidden_size=6, **attributes)]
    kept = {k: v for k, v in lstm_constants(1).items() if k in "WR"}
    found = from_onnx(model_of(nodes, kept, [("x0", random(1, 1, 1))]))
    assert [type(step.node) for step in found._steps] != [Recurrent]
    assert found(random(4, 3, 5)).shape[-1] == 6


def test_lstm_of_no_steps_and_of_no_rows():
    nodes = [node("LSTM", ["x0", "W", "R"], ["y", "h1"], hidden_size=6)]
    kept = {k: v for k, v in lstm_constants(1).items() if k in "WR"}
    found = from_onnx(model_of(nodes, kept, [("x0", random(1, 1, 1))], ["y", "h1"]))
    for shape in ((0, 3, 5), (4, 0, 5)):
        y, last = found(random(*shape))
        assert y.shape == (shape[0], 1, shape[1], 6)
        np.testing.assert_array_equal(last, np.zeros((1, shape[1], 6)))
    with pytest.raises(ValueError, match="W should have shape"):
        found(random(4, 3, 6))


@pytest.mark.parametrize("stride,dilation,pads", [(1, 1, [0, 0]), (2, 1, [1, 2]), (1, 3, [3, 3])])
@pytest.mark.parametrize("channels", [1, 6])
def test_short_and_long_sequences(stride, dilation, pads, channels):
    constants = {"w": random(7, channels, 3), "b": random(7)}
    more = {"strides": [stride], "dilations": [dilation], "pads": pads}
    nodes = [node("Conv", ["x0", "w", "b"], ["z"], **more), node("Tanh", ["z"])]
    lengths = [[(n, channels, length)] for n, length in ((1, 7), (3, 9), (2, 40), (1, 200))]
    found = check(nodes, constants, *lengths)
    wide = {k: v.astype(np.float64) for k, v in constants.items()}
    x = random(2, channels, 9, dtype=np.float64)
    y = from_onnx(model_of(nodes, wide, [("x0", x)]))(x)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, found(x.astype(np.float32)), atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 7, 12), (1, 7, 12), (7, 1), (1,), (3, 1, 1)])
@pytest.mark.parametrize("order", [["Add", "Relu"], ["Relu", "Add"]])
def test_short_sequences_with_what_is_added(shape, order):
    names = ["z", "u", "y"]
    nodes = [node("Conv", ["x0", "w"], ["z"], pads=[1, 1])]
    for op, source, target in zip(order, names, names[1:], strict=False):
        nodes.append(node(op, [source, "x1"] if op == "Add" else [source], [target]))
    check(nodes, {"w": random(7, 4, 3)}, [(3, 4, 12), shape])


@pytest.mark.parametrize("shape", [(3, 5, 7), (3, 1, 7), (7,), (1, 5, 1)])
def test_a_matrix_with_what_is_added(shape):
    nodes = [node("MatMul", ["x0", "w"], ["z"]), node("Add", ["z", "x1"], ["u"])]
    nodes.append(node("Sigmoid", ["u"]))
    check(nodes, {"w": random(4, 7)}, [(3, 5, 4), shape])


# ---- the rest in ONNX Runtime --------------------------------------------------------------------


def with_rest(nodes, constants, x):
    model = model_of(nodes, constants, [("x0", x)])
    return InferenceSession(model.SerializeToString(), rest="onnxruntime")


def test_a_model_without_convolutions():
    x = random(2, 3, 4)
    session = with_rest([node("Softmax", ["x0"])], {}, x)
    for _ in range(20):  # one session, or here alone
        np.testing.assert_allclose(session.run(["y"], {"x0": x})[0].sum(-1), 1, rtol=1e-5)
    assert {*session._model._ways._choices.values()} <= {WHOLE, ALONE}
    np.testing.assert_allclose(session.run(None, {"x0": x.tolist()})[0].sum(-1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match=r"missing are \['x0'\], unknown \['x'\]"):
        session.run(None, {"x": x})
    with pytest.raises(ValueError, match=r"size|dimensions|Invalid"):
        session.run(None, {"x0": x[0]})


@pytest.mark.parametrize("slow", [(CUT, ALONE), (WHOLE, ALONE), (CUT, WHOLE)])
def test_the_fastest_way_is_kept(slow, monkeypatch):
    nodes = [node("Softmax", ["x0"], ["z"]), node("Conv", ["z", "w"], pads=[1, 1])]
    x, clock = random(1, 4, 9), [0.0]
    monkeypatch.setattr(ways, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(models, "perf_counter", lambda: clock[0])
    session = with_rest(nodes, {"w": random(4, 4, 3)}, x)
    own, calls = session._model._ways, []
    way_of = own.way

    def way(key):
        calls.append(way_of(key))
        return calls[-1]

    def timed(key, way, begin, timed=own.timed):
        clock[0] += 1.5 if way in slow else 1.0
        timed(key, way, begin)

    monkeypatch.setattr(own, "way", way)
    monkeypatch.setattr(own, "timed", timed)
    first, *later = (session.run(None, {"x0": x})[0] for _ in range(30))
    for y in later:
        np.testing.assert_allclose(y, first, atol=1e-6)
    (best,) = {CUT, WHOLE, ALONE} - {*slow}
    assert {*calls} == {CUT, WHOLE, ALONE} and {*calls[9:]} == {best}
    assert [*own._choices.values()] == [best]
    if best == WHOLE:  # no longer asked
        assert len(calls) < 15


def test_a_hopeless_way_is_tried_twice():
    trial = ways.Trial({CUT: [], WHOLE: []})
    order = []
    while (way := trial.next()) is not None:
        order.append(way)
        trial.note(way, 1e-3 if way == WHOLE else 3e-3)
    assert order.count(CUT) == 2 and order.count(WHOLE) == 6 and trial.best() == WHOLE


def test_small_convolutions_are_left_to_onnx_runtime_by_rule(deterministic):
    nodes = [node("Softmax", ["x0"], ["z"]), node("Conv", ["z", "w"], pads=[1, 1])]
    x = random(1, 4, 9)
    session = with_rest(nodes, {"w": random(4, 4, 3)}, x)
    found = []
    for values in (x, random(2, 4, 500000)):
        first, second = (session.run(None, {"x0": values})[0] for _ in range(2))
        np.testing.assert_allclose(first, second, atol=1e-6)
        found.append(session._model._ways.way(session._model._program.key([values])))
    assert found == [WHOLE, CUT]


def test_a_session_of_sizes_that_follow_values():
    nodes = [
        node("NonZero", ["x0"], ["found"]),
        node("Cast", ["found"], ["numbers"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["numbers", "zero"], ["batch"]),
        node("Conv", ["batch", "w"], ["z"], pads=[1, 1]),
        node("Shape", ["z"], ["sizes"]),
        node("ConstantOfShape", ["sizes"], ["zeros"]),
        node("Concat", ["z", "zeros"], axis=1),
    ]
    constants = {"zero": np.array([0], I), "w": random(4, 3, 3)}
    x = random(2, 4, 5)
    model = model_of(nodes, constants, [("x0", x)])
    theirs = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found = from_onnx(model, rest="onnxruntime")
    found._ways = None
    for least in (-9, 0, 1, 0):
        values = np.where(x > least, x, 0).astype(np.float32)
        (wanted,) = theirs.run(None, {"x0": values})
        np.testing.assert_allclose(found(values), wanted, atol=1e-4)


def test_bits_do_not_depend_on_the_length_in_deterministic_mode(deterministic):
    rng = np.random.default_rng(5)
    model = from_onnx(to_onnx(Conv1d(24, 16, 5, rng=rng)))
    x = rng.standard_normal((3, 24, 60), dtype=np.float32)
    np.testing.assert_array_equal(model(x)[:, :, :16], model(x[:, :, :20]))
