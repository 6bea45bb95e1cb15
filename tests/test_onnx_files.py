"""Whatever a file holds: a model, or an OnnxError and nothing else."""

import os
import threading

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from fastconv1d import Conv1d, ReLU, Residual, Sequential  # noqa: E402
from fastconv1d.__main__ import main  # noqa: E402
from fastconv1d.kernels import memory  # noqa: E402
from fastconv1d.onnx import InferenceSession, OnnxError, from_onnx, to_onnx  # noqa: E402


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


W = random(4, 4, 3)
X = random(2, 4, 9)


def model_of(nodes, constants, inputs=("x",), outputs=("y",)):
    def value(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 3)

    tensors = [v if isinstance(v, TensorProto) else numpy_helper.from_array(v, k)
               for k, v in constants.items()]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [value(n) for n in inputs], [value(n) for n in outputs], tensors
    )
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 20)])


def conv(**attributes):
    return helper.make_node("Conv", ["x", "w"], ["y"], **attributes)


def plain():
    return model_of([conv(pads=[1, 1])], {"w": W})


def test_data_beside_the_file(tmp_path):
    path = tmp_path / "sub" / "model.onnx"
    path.parent.mkdir()
    onnx.save(plain(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    np.testing.assert_array_equal(from_onnx(path)(X), from_onnx(plain())(X))
    with pytest.raises(OnnxError, match="the data of 'w' are in another file: give the path"):
        from_onnx(path.read_bytes())
    outside = onnx.load(path, load_external_data=False)
    outside.graph.initializer[0].external_data[0].value = "../weights.bin"
    os.rename(path.parent / "weights.bin", tmp_path / "weights.bin")
    path.write_bytes(outside.SerializeToString())
    with pytest.raises(OnnxError, match="no valid ONNX model"):
        from_onnx(path)


def test_an_initializer_that_is_an_input_too():
    model = model_of([conv(pads=[1, 1])], {"w": W}, inputs=("x", "w"))
    assert from_onnx(model).inputs == ["x"]
    np.testing.assert_array_equal(from_onnx(model)(X), from_onnx(plain())(X))


def test_sparse_constants():
    dense = np.zeros((4, 4, 3), np.float32)
    dense[1, 2, 0], dense[3, 3, 2] = 2, -1
    values = numpy_helper.from_array(dense[dense != 0], "w")
    indices = numpy_helper.from_array(np.flatnonzero(dense), "i")
    model = model_of([conv(pads=[1, 1])], {})
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 4, 3]))
    expected = from_onnx(model_of([conv(pads=[1, 1])], {"w": dense}))(X)
    np.testing.assert_array_equal(from_onnx(model)(X), expected)
    huge = helper.make_sparse_tensor(values, indices, [1 << 20, 1 << 20, 3])
    del model.graph.sparse_initializer[:]
    model.graph.sparse_initializer.append(huge)
    with pytest.raises(OnnxError):
        from_onnx(model)


def test_weights_of_16_bits():
    for element in (TensorProto.BFLOAT16, TensorProto.FLOAT16):
        dtype = helper.tensor_dtype_to_np_dtype(element)
        tensor = helper.make_tensor("w", element, W.shape, W.reshape(-1).tolist())
        found = from_onnx(model_of([conv(pads=[1, 1])], {"w": tensor}))
        y = found(X.astype(dtype))
        assert y.dtype == dtype
        np.testing.assert_allclose(y.astype(np.float32), from_onnx(plain())(X), atol=0.1)


def broken():
    unknown = numpy_helper.from_array(W, "w")
    unknown.data_type = 54
    text = plain()
    attribute = text.graph.node[0].attribute.add()
    attribute.name, attribute.type, attribute.s = "auto_pad", 3, b"\xff"
    short = numpy_helper.from_array(W, "w")
    short.raw_data = short.raw_data[:5]
    unnamed = plain()
    unnamed.graph.node[0].input[0] = ""
    opset = plain()
    opset.opset_import[0].version = 0
    return {
        "type": model_of([conv()], {"w": unknown}),
        "text": text,
        "data": model_of([conv()], {"w": short}),
        "input": unnamed,
        "opset": opset,
        "pads": model_of([conv(pads=[2**62, 2**62])], {"w": W}),
        "pad": model_of([conv(pads=[1 << 30, 0])], {"w": W}),
        "strides": model_of([conv(strides=[0])], {"w": W}),
        "dilations": model_of([conv(dilations=[2**40])], {"w": W}),
        "group": model_of([conv(group=3)], {"w": W}),
        "no group": model_of([conv(group=0)], {"w": W}),
        "kinds": model_of([conv(pads=3.0)], {"w": W}),
        "axes": model_of(
            [helper.make_node("Softmax", ["x"], ["y"], axis="z")], {}
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", broken())
def test_broken_models(name):
    model = broken()[name]
    for given in (model, model.SerializeToString()):
        with pytest.raises(OnnxError):
            from_onnx(given)


def test_no_regular_file(tmp_path):
    with pytest.raises(OnnxError, match="is a directory: a model should be in a regular file"):
        from_onnx(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(OnnxError, match="is a pipe: a model should be in a regular file"):
            from_onnx(tmp_path / "fifo")


def test_constants_that_would_be_huge_stay_nodes():
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["ones"]),
        helper.make_node("Add", ["x", "ones"], ["y"]),
    ]
    from_onnx(model_of(nodes, {"shape": np.array([1 << 30, 1 << 30])}))
    nodes[0] = helper.make_node("Expand", ["one", "shape"], ["ones"])
    one = np.ones((1, 1), np.float32)
    from_onnx(model_of(nodes, {"shape": np.array([1 << 20, 1 << 20]), "one": one}))


def test_mutated_files():
    """Bytes changed, dropped, doubled: an OnnxError or a model that raises no other kind."""
    network = Sequential(Residual(Conv1d(4, 4, 3, padding=1), ReLU()), Conv1d(4, 2, 1))
    good = bytearray(to_onnx(network).SerializeToString())
    rng = np.random.default_rng(0)
    loaded = 0
    for _ in range(600):
        data = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(len(data)))
            kind = rng.integers(3)
            if kind == 0:
                data[place] = int(rng.integers(256))
            elif kind == 1:
                del data[place : place + int(rng.integers(1, 5))]
            else:
                data[place:place] = data[place : place + 3]
        try:
            model = from_onnx(bytes(data))
        except OnnxError:
            continue
        try:
            model(*[X] * len(model.inputs))
            loaded += 1
        except (ValueError, TypeError, OverflowError):
            pass
    assert loaded > 0


def test_many_nodes():
    nodes = [helper.make_node("Conv", ["x" if i == 0 else f"b{i}", "w"], [f"c{i}"], pads=[1, 1])
             for i in range(300)]  # fmt: skip
    norms = [
        helper.make_node("BatchNormalization", [f"c{i}", "s", "t", "t", "s"], [f"b{i + 1}"])
        for i in range(300)
    ]
    both = [node for pair in zip(nodes, norms, strict=True) for node in pair]
    s, t = np.ones(4, np.float32), np.zeros(4, np.float32)
    w = np.zeros((4, 4, 3), np.float32)
    w[range(4), range(4), 1] = 1
    model = from_onnx(model_of(both, {"w": w, "s": s, "t": t}, outputs=("b300",)))
    assert [step.node.op for step in model._steps] == ["Conv"] * 300
    np.testing.assert_allclose(model(X), X / np.sqrt(np.float32(1 + 1e-5)) ** 300, rtol=1e-3)


def test_calls_by_several_threads():
    nodes = [
        conv(pads=[1, 1]),
        helper.make_node("Exp", ["y"], ["e"]),
        helper.make_node("Conv", ["e", "w"], ["z"]),
        helper.make_node("Reshape", ["z", "flat"], ["r"]),
        helper.make_node("Softmax", ["r"], ["s"]),
    ]
    model = from_onnx(model_of(nodes, {"w": W, "flat": np.array([0, -1])}, outputs=("s",)))
    inputs = [random(n, 4, length, seed=n) for n in (1, 2, 3) for length in (9, 6000)]
    wanted = [model(x).copy() for x in inputs]
    wrong = []

    def work(shift):
        for i in range(40):
            k = (i + shift) % len(inputs)
            if not np.array_equal(model(inputs[k]), wanted[k]):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_large_arrays_are_used_again():
    nodes = [
        conv(pads=[1, 1]),
        helper.make_node("Conv", ["y", "w"], ["z"], pads=[1, 1]),
        helper.make_node("Conv", ["z", "w"], ["a"], pads=[1, 1]),
    ]
    model = from_onnx(model_of(nodes, {"w": W}, outputs=("a",)))
    x = random(1, 4, 20000)
    size = x.nbytes // 4 * W.shape[0]
    memory.release()
    first = model(x)
    kept = memory.kept()
    assert kept >= size
    results = [model(x) for _ in range(3)]
    # y and z lie in turns in one block; the other one the caller has, and then a new one
    assert memory.kept() <= kept
    assert all(np.array_equal(first, r) for r in results)
    arrays = [first, *results]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])


# ---- session and command -----------------------------------------------------------------------


def test_a_session_has_onnx_runtimes_interface(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(to_onnx(Conv1d(4, 2, 3)), path)
    session = InferenceSession(str(path), None, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    assert (entry.name, entry.shape, entry.type) == ("input", ["N", 4, "L"], "tensor(float)")
    assert [v.name for v in session.get_outputs()] == ["output"]
    (y,) = session.run(None, {"input": X})
    np.testing.assert_array_equal(session.run(["output"], {"input": X})[0], y)
    with pytest.raises(ValueError, match=r"missing are \['input'\], unknown \['inputs'\]"):
        session.run(None, {"inputs": X})
    with pytest.raises(ValueError, match=r"unknown \['y'\]"):
        session.run(["y"], {"input": X})


def test_check(tmp_path, capsys):
    path = str(tmp_path / "model.onnx")
    onnx.save(plain(), path)
    np.save(tmp_path / "x.npy", X)
    assert main(["check", path, "--shape", "x=2,4,30"]) == 0
    assert "input x: float32 [2, 4, 30]" in capsys.readouterr().out
    assert main(["check", path, "--input", f"x={tmp_path / 'x.npy'}"]) == 0
    assert main(["check", path, "--shape", "x=2,5,30"]) == 1
    assert "does not take these inputs: node 'y' (Conv)" in capsys.readouterr().out
    for bad in (["--shape", "z=1"], ["--shape", "x"], ["--input", "x=none.npy"]):
        assert main(["check", path, *bad]) == 2
    assert main(["check", str(tmp_path / "none.onnx")]) == 2
    onnx.save(model_of([helper.make_node("StringNormalizer", ["x"], ["y"])], {}), path)
    assert main(["check", path]) == 1
    assert "StringNormalizer is not supported" in capsys.readouterr().out


def test_check_tells_what_is_wrong(tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnxruntime")
    from fastconv1d.onnx import model as module

    path = str(tmp_path / "model.onnx")
    onnx.save(plain(), path)
    assert main(["check", path, "--shape", "x=2,4,30"]) == 0
    assert "output y: right, largest error" in capsys.readouterr().out
    compute = module.OnnxModel.compute
    monkeypatch.setattr(
        module.OnnxModel, "compute", lambda *a: [y * np.float32(1.01) for y in compute(*a)]
    )
    assert main(["check", path, "--shape", "x=2,4,30"]) == 1
    assert "output y: WRONG" in capsys.readouterr().out
