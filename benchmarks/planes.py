"""Time layers of two dimensions beside torch, ONNX Runtime and OpenVINO, in turns.

    pip install -e '.[bench]'
    python benchmarks/planes.py [--seconds 1] [NAME ...]

Prints, for each layer of `layers2d.csv`, the time of one call on one thread and the time of the
others divided by it: lower quartiles of calls made in turns. float32, batch of one.
"""

import argparse
import csv
import io
import math
import time
from pathlib import Path

import numpy as np

import fastconv1d

LAYERS = Path(__file__).with_name("layers2d.csv")
DEPTHWISE_OR_LINES = "depthwise, (K, 1) and (1, K)"


def load_layers():
    """The rows of the file, sizes as ints."""
    with open(LAYERS, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield {k: v if k in ("name", "network") else int(v) for k, v in row.items()}


def contestants(layer, x, weight, bias):
    """Functions without arguments that compute the layer, by name; those that are installed."""
    kernel, stride, padding = (
        (layer[f"{name}_h"], layer[f"{name}_w"]) for name in ("kernel", "stride", "pad")
    )
    shape = layer["c_in"], layer["c_out"], kernel, stride, padding
    own = fastconv1d.Conv2d(*shape, groups=layer["groups"])
    own.load_state_dict({"weight": weight, "bias": bias})
    found = {"fastconv1d": lambda: own(x)}
    try:
        import torch
    except ImportError:
        pass
    else:
        torch.set_num_threads(1)
        module = torch.nn.Conv2d(*shape, groups=layer["groups"])
        module.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
        given = torch.from_numpy(x)

        def run_torch():
            with torch.inference_mode():
                return module(given).numpy()

        found["torch"] = run_torch
    try:
        import onnx
        import onnxruntime
    except ImportError:
        return found
    model = onnx_model(onnx, layer, kernel, stride, padding, weight, bias)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found["onnxruntime"] = lambda: session.run(None, {"x": x})[0]
    try:
        import openvino
    except ImportError:
        return found
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model=io.BytesIO(model)), "CPU", settings)
    request = compiled.create_infer_request()
    found["openvino"] = lambda: request.infer([x])[0]
    return found


def onnx_model(onnx, layer, kernel, stride, padding, weight, bias):
    """A model of one Conv, as bytes."""
    helper, shape = onnx.helper, (layer["n"], layer["c_in"], layer["height"], layer["width"])
    node = helper.make_node(
        "Conv",
        ["x", "w", "b"],
        ["y"],
        kernel_shape=kernel,
        strides=stride,
        pads=[*padding, *padding],
        group=layer["groups"],
    )
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", float32, shape)],
        [helper.make_tensor_value_info("y", float32, None)],
        [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(bias, "b")],
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def measure(layer, seconds):
    """Lower quartile of the time of a call of each contestant."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(
        (layer["n"], layer["c_in"], layer["height"], layer["width"]), dtype=np.float32
    )
    size = layer["c_out"], layer["c_in"] // layer["groups"], layer["kernel_h"], layer["kernel_w"]
    weight = rng.standard_normal(size, dtype=np.float32)
    bias = rng.standard_normal(layer["c_out"], dtype=np.float32)
    runs = contestants(layer, x, weight, bias)
    results = [run() for run in runs.values()]
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-3, atol=1e-2)
    times = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["fastconv1d"]) < 5:
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begin)
    return {name: sorted(spent)[len(spent) // 4] for name, spent in times.items()}


def is_special(layer):
    """Whether it is depthwise, or has a kernel of one row or one column of several taps."""
    lines = (layer["kernel_h"] == 1) != (layer["kernel_w"] == 1)
    return layer["groups"] > 1 or lines


def main():
    """Print the table and geometric means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each layer")
    options = parser.parse_args()
    fastconv1d.set_num_threads(1)
    ratios = {}
    for layer in load_layers():
        if options.names and layer["name"] not in options.names:
            continue
        spent = measure(layer, options.seconds)
        own = spent.pop("fastconv1d")
        line = f"{layer['name']:20s} {own * 1e6:9.0f} us"
        for name, other in spent.items():
            ratios.setdefault(name, []).append((is_special(layer), other / own))
            line += f"  {name} {other / own:5.2f}"
        print(line, flush=True)
    for name, pairs in ratios.items():
        for title, chosen in (
            ("all", [r for _, r in pairs]),
            (DEPTHWISE_OR_LINES, [r for special, r in pairs if special]),
        ):
            if chosen:
                mean = math.exp(sum(map(math.log, chosen)) / len(chosen))
                print(f"{name}, {title}: {mean:.2f}, least {min(chosen):.2f}")


if __name__ == "__main__":
    main()
