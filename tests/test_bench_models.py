"""``bench MODEL``: whole models and their convolutions, in processes of their own."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from fastconv1d import Conv1d, ConvTranspose1d, ReLU, Sequential
from fastconv1d.bench import verdict

onnx = pytest.importorskip("onnx")

from fastconv1d.bench import models  # noqa: E402
from fastconv1d.bench.cuts import cut_out  # noqa: E402
from fastconv1d.onnx import from_onnx, to_onnx  # noqa: E402
from fastconv1d.onnx.read import Type  # noqa: E402


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def bench(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "fastconv1d", "bench", "--quick", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.fixture
def model(tmp_path):
    """A file of two equal convolutions, a transposed one and activations."""
    rng = np.random.default_rng(0)
    same = Conv1d(8, 8, 5, padding="same", rng=rng)
    other = Conv1d(8, 8, 5, padding="same", rng=rng)
    net = Sequential(same, ReLU(), other, ReLU(), ConvTranspose1d(8, 2, 4, stride=2, rng=rng))
    path = tmp_path / "model.onnx"
    onnx.save(to_onnx(net), path)
    return path


def test_a_model(model, tmp_path):
    target = tmp_path / "f.json"
    done = bench(model, "--peers=", "--json", target)
    assert done.returncode == 0, done.stderr
    assert "chosen here: --shape input=1,8,400" in done.stdout
    written = json.loads(target.read_text())
    assert written["inputs"] == {"input": {"dtype": "float32", "shape": [1, 8, 400]}}
    assert [(row["layer"], row["count"]) for row in written["layers"]] == [
        ("Conv 8 -> 8 K5, (1, 8, 400)", 2),
        ("ConvTranspose 8 -> 2 K4 s2, (1, 8, 400)", 1),
    ]
    assert [row["flops"] for row in written["layers"]] == [2 * 8 * 8 * 5 * 400, 2 * 8 * 2 * 4 * 400]
    assert all(row["seconds"]["fastconv1d"] > 0 for row in written["layers"])
    assert set(written["seconds"]) == {"fastconv1d"}


def test_a_model_against_others(model, tmp_path):
    pytest.importorskip("onnxruntime")
    target = tmp_path / "f.json"
    done = bench(
        model, "--rest", "--peers", "onnxruntime", "--shape", "input=2,8,90", "--json", target
    )
    assert done.returncode == 0, done.stderr
    assert "sizes    chosen" not in done.stdout
    assert "fastconv1d: right, largest difference" in done.stdout
    written = json.loads(target.read_text())
    assert set(written["seconds"]) == {"fastconv1d", "fastconv1d+rest", "onnxruntime"}
    assert max(written["errors"]["fastconv1d"]) < 1e-5
    assert [set(row["seconds"]) for row in written["layers"]] == [{"fastconv1d", "onnxruntime"}] * 2


def test_inputs_from_a_file(model, tmp_path):
    np.save(tmp_path / "x.npy", np.ones((3, 8, 33), np.float32))
    done = bench(model, "--peers=", "--input", f"input={tmp_path / 'x.npy'}")
    assert done.returncode == 0, done.stderr
    assert "input    input: float32 [3, 8, 33]" in done.stdout


def test_a_program_of_torch(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    net = torch.nn.Sequential(torch.nn.Conv1d(4, 6, 3), torch.nn.ReLU()).eval()
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(net, (torch.randn(2, 4, 50),)), path)
    done = bench(path, "--peers", "torch")
    assert done.returncode == 0, done.stderr
    assert "float32 [2, 4, 50]" in done.stdout
    assert "fastconv1d: right, largest difference" in done.stdout  # from torch's
    onnx.save(to_onnx(Conv1d(4, 6, 3)), tmp_path / "model.onnx")
    done = bench(path, tmp_path / "model.onnx", "--peers", "torch")
    assert done.returncode == 1  # other weights
    assert "fastconv1d: WRONG, not timed" in done.stdout


def test_cuts_are_what_the_model_computes(tmp_path):
    """With asymmetric pads and two axes, against torch's functions, on the arrays in the model."""
    rng = np.random.default_rng(1)
    weights = {
        "a": rng.standard_normal((4, 3, 3, 2)),
        "b": rng.standard_normal((4, 1, 3, 1)),
        "c": rng.standard_normal((4, 2, 2, 2)),
    }
    helper = onnx.helper
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["y"], "first", pads=[1, 0, 2, 1]),
        helper.make_node("Relu", ["y"], ["z"]),
        helper.make_node("Conv", ["z", "b"], ["u"], "", auto_pad="SAME_LOWER", group=4,
                         strides=[2, 1], dilations=[1, 1]),
        helper.make_node("ConvTranspose", ["u", "c"], ["v"], "last", strides=[2, 2], group=2,
                         pads=[1, 1, 1, 1], output_padding=[1, 0]),
    ]  # fmt: skip
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", floats, [2, 3, 8, 6])],
        [helper.make_tensor_value_info("v", floats, None)],
        [onnx.numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = str(tmp_path / "m.onnx")
    onnx.save(proto, path)
    x = rng.standard_normal((2, 3, 8, 6)).astype(np.float32)
    cuts, inside = cut_out(path, {"x": x})
    assert inside == 0
    assert [cut.nodes for cut in cuts] == [["first"], ["u"], ["last"]]
    assert cuts[0].name == "Conv 3 -> 4 K3x2, (2, 3, 8, 6)"
    values = [from_onnx(cut.model)(*cut.feeds.values()) for cut in cuts]
    close(np.maximum(values[0], 0), cuts[1].feeds["x"])
    close(values[1], cuts[2].feeds["x"])
    close(values[2], from_onnx(path)(x))
    assert cuts[0].flops == 2 * values[0].size * 3 * 6
    assert cuts[2].flops == 2 * cuts[2].feeds["x"].size * 2 * 4
    torch = pytest.importorskip("torch")
    for cut, value in zip(cuts, values, strict=True):
        found = cut.torch_function()(torch.from_numpy(cut.feeds["x"])).numpy()
        close(found, value)


@pytest.mark.parametrize(
    ("shape", "dtype", "sizes"),
    [
        (("N", 80, "L"), "f", (1, 80, 400)),
        (("N", 1, "L"), "f", (1, 1, 16000)),
        ((1, "L"), "f", (1, 16000)),
        (("L",), "f", (16000,)),
        ((2, None, 128), "f", (2, 1, 128)),
        (("N", "T", 80), "f", (1, 400, 80)),
        ((None, None), "i", (1, 128)),
        ((4, "batch_size"), "f", (4, 1)),
    ],
)
def test_sizes_that_are_open(shape, dtype, sizes):
    types = {"x": Type(np.dtype(dtype), shape), "fixed": Type(np.dtype("f"), (1, 2))}
    assert models.open_sizes(types, set(), 0) == {"x": [*sizes]}
    assert models.open_sizes(types, {"x"}, 0) == {}


def test_equal_names_have_one_size():
    types = {n: Type(np.dtype("f"), s) for n, s in {"a": ("N", 80, "T"), "b": ("N", "T")}.items()}
    assert models.open_sizes(types, set(), 0) == {"a": [1, 80, 400], "b": [1, 400]}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["none.onnx"], "there is no file none.onnx"),
        (["model.h5"], "should be a file .onnx, or .pt2 as torch.export.save writes it"),
        (["a.onnx", "b.onnx"], "one MODEL.onnx and one MODEL.pt2 at most, got a.onnx b.onnx"),
        (["{model}", "--backward"], "go without MODEL"),
        (["{model}", "--json", "no/f"], "--json no/f cannot be written: No such file"),
        (["{model}", "--peers", "cupy"], "unknown peers ['cupy']"),
        (["--rest"], "--input, --shape and --rest need MODEL"),
        (["{model}", "--shape", "x=1,2"], "the model has the inputs ['input'], got ['x']"),
        (["{model}", "--shape", "input=1,3,9"], "give them by --shape input=1,80,400"),
        (["{broken}"], "is refused:\nno valid ONNX model"),
    ],
)
def test_what_cannot_be_measured(arguments, reason, model, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_text("hello")
    done = bench("--peers=", *(each.format(model=model, broken=broken) for each in arguments))
    assert done.returncode == 2, done.stdout
    assert done.stderr.startswith("fastconv1d bench: ")
    assert reason in done.stderr


def test_who_is_wrong():
    def library(*values):
        return lambda: values, lambda result: result

    subject = SimpleNamespace(path="", program=None)
    true = np.arange(4, dtype=np.float32)
    calls = {
        "fastconv1d": library(true, true),
        "openvino": library(true, true[:3]),
        "torch": library(true + np.float32(0.01), true),
        "onnxruntime": library(true, true),
    }
    quantized, models._is_quantized = models._is_quantized, lambda path: False
    try:
        errors, wrong = models.compared(calls, subject)
    finally:
        models._is_quantized = quantized
    assert wrong == {"openvino", "torch"}
    assert errors["fastconv1d"] == [0.0, 0.0]
    assert errors["openvino"] == [0.0, None]
    np.testing.assert_allclose(errors["torch"], [0.01 / 3, 0.0], rtol=1e-4)
    text = verdict.correctness(errors, wrong, {"jax": "why"})
    assert text.splitlines() == [
        "fastconv1d: right, largest difference 0.0e+00 of the largest value",
        "openvino: WRONG, not timed, outputs of another size, or not finite",
        "torch: WRONG, not timed, largest difference 3.3e-03 of the largest value",
        "jax is left out: why",
    ]


def figures(**seconds):
    row = {"layer": "a", "count": 2, "flops": 1e6, "excluded": {}}
    return {
        "seconds": seconds,
        "versions": dict.fromkeys(seconds),
        "inside": 0,
        "layers": [row | {"seconds": {"fastconv1d": 2e-3, "onnxruntime": 3e-3}}],
    }


def test_what_follows_from_the_figures():
    slow = figures(fastconv1d=10e-3, onnxruntime=5e-3)
    assert verdict.together(slow["layers"], "fastconv1d") == 4e-3
    assert verdict.rest(slow, "fastconv1d") == 6e-3
    assert verdict.rest(slow, "torch") is None
    assert verdict.conclusion(slow)[:3] == [
        "fastconv1d is 2.00 times as slow as onnxruntime, the fastest other.",
        "What is no convolution takes 60% of the time here, 0% in onnxruntime.",
        "--rest times it with ONNX Runtime for the rest as well.",
    ]
    assert "A rest below zero" in verdict.conclusion(slow)[3]
    fast = figures(fastconv1d=5e-3, onnxruntime=10e-3)
    assert verdict.conclusion(fast) == [
        "fastconv1d is 2.00 times as fast as onnxruntime, the fastest other."
    ]
    lines = verdict.layers(fast).splitlines()
    assert lines[1].split() == ["a", "2", "1.0", "2000.0", "3000.0"]
    assert lines[2].split() == ["together", "2", "2.0", "4000.0", "6000.0"]
    assert lines[3].split() == ["the", "rest", "of", "the", "model", "1000.0", "4000.0"]
