"""ONNX's operators: the node tests of the onnx wheel, and rules that these leave out."""

import collections
import itertools

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import fastconv1d.onnx.operators  # noqa: E402, F401  (enters the operators in the table)
from fastconv1d.onnx.operators.types import element_dtype  # noqa: E402
from fastconv1d.onnx.registry import OPERATORS, Node, OnnxError, find  # noqa: E402

# Counted with onnx 1.23: of 1,884 cases 1,557 right, and those refused that need training,
# sequences, optional values, strings, types of 8 bits and less, subgraphs, or a rare operator.
LEAST_RIGHT = {"1.23": 1550}


def plain(value):
    """Return an attribute's value as a Node holds it."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    return [plain(v) for v in value] if isinstance(value, list) else value


def node_of(proto, opsets):
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    attributes = {a.name: plain(helper.get_attribute_value(a)) for a in proto.attribute}
    inputs, outputs = list(proto.input), list(proto.output)
    return Node(proto.op_type, domain, proto.name, inputs, outputs, attributes, opsets[domain])


def apply(node, *arrays):
    """Run a node as a program does: warnings off, results a tuple, inputs as they were."""
    build = find(node)
    if build is None:
        raise node.error("the operator is not supported")
    before = [None if a is None else a.copy() for a in arrays]
    with np.errstate(all="ignore"):
        results = build(node)(*arrays)
    for array, copy in zip(arrays, before, strict=True):
        assert array is None or array.tobytes() == copy.tobytes(), f"{node} changed an input"
    results = (results,) if len(node.outputs) == 1 else results
    assert all(isinstance(r, (np.ndarray, list)) for r in results), node
    return results


def constant(node):
    ((kind, value),) = node.attributes.items()
    if kind == "value":
        return value
    return np.asarray(value, np.float32 if "float" in kind else np.int64)


def run_model(model, inputs):
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.WhichOneof("value") != "tensor_type":
            raise OnnxError(f"{value.name} is no tensor")
        element_dtype(Node(value.name), value.type.tensor_type.elem_type)
    opsets = {o.domain if o.domain != "ai.onnx" else "": o.version for o in model.opset_import}
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    names = [v.name for v in graph.input if v.name not in values]
    values.update(zip(names, map(array_of, inputs), strict=True))
    for proto in graph.node:
        node = node_of(proto, opsets)
        if node.op == "Constant":
            results = (constant(node),)
        else:
            results = apply(node, *(values[name] if name else None for name in node.inputs))
        values.update(zip(node.outputs, results, strict=False))
    return [values[v.name] for v in graph.output]


def array_of(value):
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def assert_near(found, expected, rtol, atol):
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if expected.dtype.itemsize == 2 and expected.dtype.kind in "fV":
        # A result rounded once, where the reference rounds after each operation: two steps.
        rtol = max(rtol, 2.0 ** (-7 if expected.dtype.kind == "V" else -10))
        atol = max(atol, 2e-3)
        found, expected = found.astype(np.float32), expected.astype(np.float32)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=max(atol, 1e-7))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the cases themselves
def test_node_cases_are_right_or_refused():
    cases = pytest.importorskip("onnx.backend.test.case.node").collect_testcases(None)
    counts, faults = collections.Counter(), []
    for case in cases:
        if "bernoulli" in case.name:  # expected are the draws of one generator
            continue
        try:
            for inputs, outputs in case.data_sets:
                found = run_model(case.model, inputs)
                for result, expected in zip(found, outputs, strict=True):
                    assert_near(result, array_of(expected), case.rtol, case.atol)
        except OnnxError:
            counts["refused"] += 1
        except Exception as error:
            faults.append((case.name, type(error).__name__, str(error)[:200]))
        else:
            counts["right"] += 1
    assert faults == []
    version = ".".join(onnx.__version__.split(".")[:2])
    assert counts["right"] >= LEAST_RIGHT.get(version, 1000), counts


# ---- rules of types --------------------------------------------------------------------------


def compute(op, *arrays, n_outputs=1, opset=17, **attributes):
    inputs = [f"x{i}" if a is not None else "" for i, a in enumerate(arrays)]
    outputs = [f"y{i}" for i in range(n_outputs)]
    results = apply(Node(op, "", "", inputs, outputs, attributes, opset), *arrays)
    return results[0] if n_outputs == 1 else results


def i8(*values):
    return np.array(values, np.int8)


def test_integers_divide_towards_zero():
    a = np.array([7, -7, 7, -7, 6, -6, 0], np.int32)
    b = np.array([2, 2, -2, -2, 3, 3, -5], np.int32)
    assert compute("Div", a, b).tolist() == [3, -3, -3, 3, 2, -2, 0]
    big = np.array([2**62 + 1], np.int64)  # beyond what a float64 holds
    assert compute("Div", big, np.array([1], np.int64)).tolist() == [2**62 + 1]
    assert compute("Div", np.uint8([250]), np.uint8([7])).tolist() == [35]
    assert compute("ReduceMean", i8(-7, 2), keepdims=0).tolist() == -2


def test_remainders_follow_the_divisor_or_the_dividend():
    a, b = i8(-7, 7, -7), i8(3, -3, -3)
    assert compute("Mod", a, b).tolist() == [2, -2, -1]
    assert compute("Mod", a, b, fmod=1).tolist() == [-1, 1, -1]
    assert compute("Mod", np.float16([-7.5]), np.float16([2]), fmod=1).tolist() == [-1.5]


def test_a_power_has_the_dtype_of_its_base():
    assert compute("Pow", np.int32([2, 3]), np.float32([0.5, 2])).tolist() == [1, 9]
    assert compute("Pow", np.int32([2, 3]), np.float32([0.5, 2])).dtype == np.int32
    assert compute("Pow", np.float32([2, 3]), np.int64(2).reshape(())).dtype == np.float32
    assert compute("Pow", np.int64([2, 1]), np.int64([-1, -1])).tolist() == [0, 1]
    assert compute("Pow", np.float32(3).reshape(()), np.float32([2.0])).shape == (1,)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("op", "attributes", "opset"),
    [
        ("Softmax", {}, 17),
        ("Softmax", {}, 11),
        ("Gelu", {}, 20),
        ("Sigmoid", {}, 17),
        ("Elu", {}, 17),
        ("Erf", {}, 17),
        ("Exp", {}, 17),
        ("ReduceMean", {"axes": [1]}, 17),
        ("ReduceLogSumExp", {"axes": [1]}, 17),
        ("LpNormalization", {}, 17),
        ("GlobalAveragePool", {}, 17),
        ("AveragePool", {"kernel_shape": [3]}, 17),
        ("MaxPool", {"kernel_shape": [3], "pads": [1, 1]}, 17),
        ("LRN", {"size": 3}, 17),
        ("Round", {}, 17),
        ("Mish", {}, 18),
        ("CumSum", {}, 17),
    ],
)
def test_16_bits_are_computed_in_float32_and_rounded_once(dtype, op, attributes, opset):
    dtype = np.dtype(getattr(pytest.importorskip("ml_dtypes"), dtype, dtype))
    x = np.random.default_rng(0).standard_normal((2, 4, 50)).astype(dtype)
    more = (np.array(2),) if op == "CumSum" else ()
    found = compute(op, x, *more, opset=opset, **attributes)
    exact = compute(op, x.astype(np.float32), *more, opset=opset, **attributes)
    assert found.dtype == dtype
    assert (found == exact.astype(dtype)).all()


@pytest.mark.parametrize("op", ["Add", "Mul", "Pow", "Equal", "Less", "Max", "MatMul", "Where"])
def test_dtypes_are_not_promoted(op):
    a, b = np.ones((2, 2), np.float32), np.ones((2, 2), np.float64)
    arrays = (np.ones((2, 2), bool), a, b) if op == "Where" else (a, b)
    if op == "Pow":
        assert compute(op, a, b).dtype == np.float32
    else:
        with pytest.raises(TypeError, match="one dtype"):
            compute(op, *arrays)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (0, 3), (2, 0)])
@pytest.mark.parametrize(
    ("op", "count"),
    [("Add", 2), ("Relu", 1), ("Sigmoid", 1), ("Erf", 1), ("Cast", 1), ("Clip", 1), ("Not", 1)],
)
def test_arrays_without_elements_or_dimensions(op, count, shape):
    x = np.ones(shape, bool if op == "Not" else np.float32)
    attributes = {"to": int(TensorProto.FLOAT)} if op == "Cast" else {}
    found = compute(op, *[x] * count, **attributes)
    assert found.shape == shape
    assert found.dtype == x.dtype


def test_halves_round_to_even():
    x = np.float32([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    assert compute("Round", x).tolist() == [-2, -2, 0, 0, 2, 2]
    stored = compute("QuantizeLinear", x, np.float32(1).reshape(()), np.int8(0).reshape(()))
    assert stored.tolist() == [-2, -2, 0, 0, 2, 2]


def test_quantized_values_stay_in_range():
    x = np.float32([-1e9, -np.inf, 1e9, np.inf, 300])
    one = np.float32(1).reshape(())
    assert compute("QuantizeLinear", x, one).tolist() == [0, 0, 255, 255, 255]
    zero = np.int8(-3).reshape(())
    assert compute("QuantizeLinear", x, one, zero).tolist() == [-128, -128, 127, 127, 127]


def test_softmax_of_early_operator_sets_is_over_all_that_follows():
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    early = compute("Softmax", x, opset=11, axis=1)
    np.testing.assert_allclose(early.sum((1, 2)), 1, rtol=1e-6)
    late = compute("Softmax", x, opset=13, axis=1)
    np.testing.assert_allclose(late.sum(1), 1, rtol=1e-6)


def test_of_equal_values_the_first_is_chosen():
    x = np.float32([[1, 3, 3, 2]])
    assert compute("ArgMax", x, axis=1, keepdims=0).tolist() == [1]
    assert compute("ArgMax", x, axis=1, keepdims=0, select_last_index=1).tolist() == [2]
    values, places = compute("TopK", x, np.array([3]), n_outputs=2)
    assert (values.tolist(), places.tolist()) == ([[3, 3, 2]], [[1, 2, 3]])
    _, places = compute("TopK", x, np.array([2]), n_outputs=2, largest=0)
    assert places.tolist() == [[0, 3]]


@pytest.mark.parametrize(
    ("start", "end", "step"), [(-1, -100, -1), (3, -6, -2), (0, 100, 3), (9, 0, -1), (5, 2, 1)]
)
def test_slices_end_where_the_array_does(start, end, step):
    x = np.arange(5)
    arguments = [np.array([v]) for v in (start, end, 0, step)]
    expected = {
        (-1, -100, -1): [4, 3, 2, 1, 0],
        (3, -6, -2): [3, 1],
        (0, 100, 3): [0, 3],
        (9, 0, -1): [4, 3, 2, 1],
        (5, 2, 1): [],
    }[start, end, step]
    assert compute("Slice", x, *arguments).tolist() == expected


def test_indices_out_of_range_are_errors():
    x = np.arange(4.0)
    assert compute("Gather", x, np.array([-1, 0])).tolist() == [3, 0]
    for indices in ([4], [-5]):
        with pytest.raises(ValueError, match="indices should be in"):
            compute("Gather", x, np.array(indices))
        with pytest.raises(ValueError, match="indices should be in"):
            compute("ScatterElements", x, np.array(indices), np.ones(1))
        with pytest.raises(ValueError, match="indices should be in"):
            compute("GatherND", x, np.array([indices]))


def test_scatter_adds_several_updates_of_one_position():
    x, where = np.zeros(3, np.float32), np.array([1, 1, 2])
    found = compute("ScatterElements", x, where, np.float32([1, 2, 4]), opset=18, reduction="add")
    assert found.tolist() == [0, 3, 4]


# ---- what a file may ask for ------------------------------------------------------------------

HUGE = np.array([2**62], np.int64)


@pytest.mark.parametrize(
    ("op", "arrays", "attributes"),
    [
        ("Expand", (np.ones(1, np.float32), HUGE), {}),
        ("Tile", (np.ones(2, np.float32), HUGE), {}),
        ("ConstantOfShape", (HUGE,), {}),
        ("ConstantOfShape", (np.array([-1]),), {}),
        ("Range", (np.array(0), HUGE.reshape(()), np.array(1)), {}),
        ("Range", (np.array(0), np.array(5), np.array(0)), {}),
        ("OneHot", (np.array([1]), HUGE, np.float32([0, 1])), {}),
        ("Pad", (np.ones(2, np.float32), np.array([2**62, 0])), {}),
        ("Pad", (np.ones(2, np.float32), np.array([0, 2**62])), {"mode": "reflect"}),
        ("Reshape", (np.ones(4, np.float32), HUGE), {}),
        ("HannWindow", (HUGE.reshape(()),), {}),
        ("Resize", (np.ones((1, 1, 4), np.float32), None, np.float32([1, 1, 1e18])), {}),
        ("Resize", (np.ones((1, 1, 4), np.float32), None, np.float32([1, 1, -1])), {}),
        ("MaxPool", (np.ones((1, 1, 4), np.float32),), {"kernel_shape": [2], "pads": [2**62, 0]}),
        ("MaxPool", (np.ones((1, 1, 4), np.float32),), {"kernel_shape": [2**62]}),
        ("AveragePool", (np.ones((1, 1, 4), np.float32),), {"kernel_shape": [2], "pads": [1]}),
        ("DFT", (np.ones((1, 4, 1), np.float32), HUGE.reshape(())), {}),
        ("STFT", (np.ones((1, 9, 1), np.float32), np.array(0), np.ones(3, np.float32)), {}),
        ("Unsqueeze", (np.ones(2, np.float32), np.array([5])), {}),
        ("Transpose", (np.ones(2, np.float32),), {"perm": [1, 0]}),
        ("Conv", (np.ones((1, 2, 9), np.float32), np.ones((2, 2, 3), np.float32)), {"group": 2}),
    ],
)
def test_what_cannot_be_had_is_an_error_at_once(op, arrays, attributes):
    with pytest.raises(ValueError):
        compute(op, *arrays, **attributes)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("Cast", {"to": int(TensorProto.FLOAT8E4M3FN)}),
        ("Cast", {"to": int(TensorProto.STRING)}),
        ("Cast", {"to": 99}),
        ("Cast", {}),
        ("BatchNormalization", {"training_mode": 1}),
        ("Conv", {"strides": [0]}),
        ("Conv", {"auto_pad": "SOMEHOW"}),
        ("LSTM", {"hidden_size": 0}),
        ("LSTM", {"hidden_size": 2, "activations": ["Sigmoid", "Nothing", "Tanh"]}),
        ("Resize", {"mode": "sharp"}),
        ("Gelu", {"approximate": "some"}),
        ("StringNormalizer", {}),
    ],
)
def test_bad_attributes_are_refused_by_name(op, attributes):
    node = Node(op, "", "layer7", ["x"], ["y"], attributes, 20)
    with pytest.raises(OnnxError, match="layer7"):
        build = find(node)
        if build is None:
            raise node.error("the operator is not supported")
        build(node)


def test_versions_of_an_operator_do_not_overlap():
    for key, versions in OPERATORS.items():
        ranges = sorted((v.since, v.until) for v in versions)
        for (_, until), (since, _) in itertools.pairwise(ranges):
            assert until is not None, key
            assert until < since, key


def test_every_operator_is_known_to_onnx():
    for domain, name in OPERATORS:
        if domain != "com.microsoft":
            assert onnx.defs.get_schema(name, domain=domain) is not None


# ---- damaged nodes ----------------------------------------------------------------------------

EXTREME = [-(2**62), -(2**31), -7, -1, 0, 1, 2, 3, 2**31, 2**62]


def damaged_attribute(value, rng):
    if isinstance(value, int):
        return EXTREME[rng.integers(len(EXTREME))]
    if isinstance(value, float):
        return [np.nan, np.inf, -1e38, 0.0, 1e38, -1.0][rng.integers(6)]
    if isinstance(value, str):
        return ["", "other", "SAME_UPPER"][rng.integers(3)]
    if isinstance(value, list) and value:
        i = rng.integers(len(value))
        changed = [*value[:i], damaged_attribute(value[i], rng), *value[i + 1 :]]
        return [value[:-1], [*value, value[-1]], changed][rng.integers(3)]
    return value


def damaged_array(array, rng):
    """Return the array with another shape or dtype, or one element out of the ordinary."""
    kind = rng.integers(7)
    if kind < 3 and array.size and array.dtype.kind in "iuf":
        damaged = array.copy()
        if array.dtype.kind == "f":
            value = [np.nan, np.inf, -np.inf][rng.integers(3)]
        else:
            bounds = np.iinfo(array.dtype)
            value = min(max(EXTREME[rng.integers(len(EXTREME))], bounds.min), bounds.max)
        damaged.reshape(-1)[rng.integers(array.size)] = value
        return damaged
    other = np.float64 if array.dtype != np.float64 else np.int32
    shapes = [array.reshape(-1), array[..., None], array[:0] if array.ndim else array]
    return [*shapes, array.astype(other)][kind % 4]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the cases themselves, and of casts
def test_damaged_nodes_raise_errors_of_values_and_types_only():
    cases = pytest.importorskip("onnx.backend.test.case.node").collect_testcases(None)
    rng, count = np.random.default_rng(0), 0
    for case in cases:
        inputs = case.data_sets[0][0]
        proto = case.model.graph.node[0]
        numeric = all(isinstance(v, np.ndarray) and v.dtype.kind in "biufV" for v in inputs)
        if len(case.model.graph.node) > 1 or not numeric:
            continue
        opsets = {
            o.domain if o.domain != "ai.onnx" else "": o.version for o in case.model.opset_import
        }
        node = node_of(proto, opsets)
        if find(node) is None or sum(map(bool, node.inputs)) != len(inputs):
            continue
        given = iter(inputs)
        arrays = [next(given) if name else None for name in node.inputs]
        if node.attributes and rng.integers(2):
            name = list(node.attributes)[rng.integers(len(node.attributes))]
            node.attributes[name] = damaged_attribute(node.attributes[name], rng)
        elif inputs:
            i = rng.choice([i for i, array in enumerate(arrays) if array is not None])
            arrays[i] = damaged_array(arrays[i], rng)
        try:
            apply(node, *arrays)
        except (ValueError, TypeError):
            count += 1
    assert count >= 200
