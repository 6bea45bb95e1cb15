"""The 1-D Conv and ConvTranspose cases of the ONNX backend tests, from the onnx wheel."""

from pathlib import Path

import numpy as np
import pytest

import fastconv1d

onnx = pytest.importorskip("onnx")


def node_cases():
    """Return (name, node, inputs, output) of the cases that the wheel defines in Python."""
    node = pytest.importorskip("onnx.backend.test.case.node")
    from onnx.backend.test.case.node import conv, convtranspose  # noqa: F401  (registers cases)

    return [
        (case.name, case.model.graph.node[0], inputs, outputs[0])
        for case in node._NodeTestCases
        for inputs, outputs in case.data_sets
    ]


def stored_cases():
    """Return the same of the cases that the wheel stores as files, with weights in the model."""
    import onnx.backend.test

    root = Path(onnx.backend.test.__file__).parent / "data"
    found = []
    for path in sorted(root.glob("*/*[Cc]onv*/model.onnx")):
        model = onnx.load(path)
        for data in sorted(path.parent.glob("test_data_set_*")):
            inputs = [read_tensor(p) for p in sorted(data.glob("input_*.pb"))]
            inputs += [onnx.numpy_helper.to_array(t) for t in model.graph.initializer]
            found.append(
                (path.parent.name, model.graph.node[0], inputs, read_tensor(data / "output_0.pb"))
            )
    return found


def read_tensor(path):
    return onnx.numpy_helper.to_array(onnx.load_tensor(path))


CASES = [
    case
    for case in (*node_cases(), *stored_cases())
    if case[1].op_type in ("Conv", "ConvTranspose") and np.ndim(case[2][0]) == 3
]


def run_node(node, inputs):
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    known = {"dilations", "group", "kernel_shape", "pads", "strides", "output_padding"}
    assert set(attributes) <= known
    kwargs = {
        "stride": attributes.get("strides", [1])[0],
        "padding": tuple(attributes.get("pads", [0, 0])),
        "dilation": attributes.get("dilations", [1])[0],
        "groups": attributes.get("group", 1),
    }
    if node.op_type == "Conv":
        return fastconv1d.conv1d(*inputs, **kwargs)
    kwargs["output_padding"] = attributes.get("output_padding", [0])[0]
    return fastconv1d.conv_transpose1d(*inputs, **kwargs)


@pytest.mark.parametrize(
    ("node", "inputs", "output"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_case(node, inputs, output):
    result = run_node(node, inputs)
    assert result.dtype == output.dtype
    assert result.shape == output.shape
    np.testing.assert_allclose(result, output, rtol=1e-5, atol=1e-6)


def test_the_wheel_has_cases_of_both():
    assert {case[1].op_type for case in CASES} == {"Conv", "ConvTranspose"}
    assert len(CASES) >= 9
