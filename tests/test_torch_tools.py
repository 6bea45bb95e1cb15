"""torch's own tools around an accelerated model."""

import io
import json
import re

import pytest

torch = pytest.importorskip("torch")
from torch.nn import functional as F  # noqa: E402

from fastconv1d.torch import FastConv1d, Report, accelerate, disabled, restore  # noqa: E402

nn = torch.nn
pytestmark = [
    pytest.mark.usefixtures("small_gradients"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.ao.quantization.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*quantize_per_tensor.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*reduce_range.*:UserWarning"),
]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


def model_of(norm=False):
    layers = [nn.Conv1d(4, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose1d(8, 6, 4, stride=2)]
    if norm:
        layers.insert(1, nn.BatchNorm1d(8))
    return nn.Sequential(*layers).eval()


def pair(**kwargs):
    model = model_of(**kwargs)
    return model, accelerate(model)[0], torch.randn(2, 4, 20)


def close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


# ---- tools that look at classes -----------------------------------------------------------------


def test_the_class_is_looked_up_as_torchs():
    model, fast, _ = pair()
    for ours, torchs in zip(fast, model, strict=True):
        assert type(ours) == type(torchs) and type(torchs) == type(ours)  # noqa: E721
        assert {type(torchs): 1}[type(ours)] == 1 and type(ours) in [type(torchs)]
    assert type(fast[0]) not in (nn.ConvTranspose1d, nn.Conv2d)
    assert type(fast[0]) is FastConv1d

    class Own(FastConv1d):
        pass

    assert Own not in (nn.Conv1d, FastConv1d) and Own in (Own,)
    found = []
    fast.apply(lambda m: found.append(m) if type(m) == nn.Conv1d else None)  # noqa: E721
    assert found == [fast[0]]


def test_fuse_modules():
    from torch.ao.quantization import fuse_modules

    model, fast, x = pair(norm=True)
    fused = fuse_modules(fast, [["0", "1", "2"]])
    close(fused(x), model(x))
    assert type(fused[1]) is nn.Identity


def test_static_quantisation():
    from torch.ao import quantization as q

    outputs = []
    for m in pair()[:2]:
        torch.manual_seed(1)
        wrapped = q.QuantWrapper(m[0]).eval()
        wrapped.qconfig = q.get_default_qconfig("x86")
        prepared = q.prepare(wrapped)
        x = torch.randn(2, 4, 20)
        prepared(x)
        converted = q.convert(prepared)
        assert type(converted.module).__module__.startswith("torch.ao.nn.quantized")
        outputs.append(converted(x))
    assert torch.equal(*outputs)


@pytest.mark.filterwarnings("ignore")
def test_quantisation_of_graphs():
    from torch.ao import quantization as q
    from torch.ao.quantization import quantize_fx

    outputs = []
    x = torch.randn(2, 4, 20)
    for m in pair(norm=True)[:2]:
        prepared = quantize_fx.prepare_fx(m[:3], q.get_default_qconfig_mapping("x86"), (x,))
        prepared(x)
        converted = quantize_fx.convert_fx(prepared)
        assert "quantize" in str(converted.graph)
        outputs.append(converted(x))
    assert torch.equal(*outputs)


# ---- graphs -------------------------------------------------------------------------------------


def test_fx():
    model, fast, x = pair()
    graph = torch.fx.symbolic_trace(fast)
    assert [node.op for node in graph.graph.nodes].count("call_module") == 3
    close(graph(x), model(x))
    assert type(graph.get_submodule("0")) is FastConv1d
    made = torch.fx.symbolic_trace(nn.Sequential(FastConv1d(4, 8, 3)))  # never exchanged
    assert any(node.target is F.conv1d for node in made.graph.nodes)


@pytest.mark.parametrize("norm", [False, True])
def test_script_and_trace(norm):
    model, fast, x = pair(norm=norm)
    for made in (torch.jit.script(fast), torch.jit.trace(fast, x)):
        assert re.search(r"aten::(conv1d|_convolution)", str(made.inlined_graph))
        buffer = io.BytesIO()
        torch.jit.save(made, buffer)
        assert b"fastconv1d::" not in buffer.getvalue()
        buffer.seek(0)
        close(torch.jit.load(buffer)(x), model(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [False, True])
def test_onnx_export(dynamo, tmp_path):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    if dynamo:
        pytest.importorskip("onnxscript")
    model, fast, x = pair()
    path = str(tmp_path / "model.onnx")
    torch.onnx.export(fast, (x,), path, dynamo=dynamo)
    session = runtime.InferenceSession(path)
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    close(torch.from_numpy(y), model(x))


def test_an_exported_program_needs_nothing_of_fastconv1d(tmp_path):
    model, fast, x = pair()
    exported = torch.export.export(fast, (x,))
    assert not any("fastconv1d" in str(node.target) for node in exported.graph.nodes)
    torch.export.save(exported, tmp_path / "model.pt2")
    close(torch.export.load(tmp_path / "model.pt2").module()(x), model(x))


@pytest.mark.filterwarnings("ignore")
def test_openvino():
    openvino = pytest.importorskip("openvino")
    model, fast, x = pair()
    for made in (fast, torch.export.export(fast, (x,))):
        converted = openvino.convert_model(made, example_input=x)
        compiled = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        close(torch.from_numpy(compiled(x.numpy())[0]), model(x), 1e-4)


def test_compile_and_disabled():
    model, fast, x = pair()
    seen = []

    def backend(graph, inputs):
        seen.append(str(graph.graph))
        return graph.forward

    compiled = torch.compile(fast, fullgraph=True, backend=backend)
    with torch.no_grad():
        close(compiled(x), model(x))
        assert "fastconv1d" in seen[-1]
        with disabled():
            close(compiled(x), model(x))
        assert len(seen) == 2 and "fastconv1d" not in seen[-1]
        close(compiled(x), model(x))
    assert len(seen) == 2


def test_compile_leaves_what_does_not_fit():
    model, fast, x = pair()
    for m in (model, fast):
        m[0].padding = (-1,)
    torch._dynamo.reset()
    errors = []
    for m in (model, fast):
        with pytest.raises(Exception, match="negative padding") as raised:
            torch.compile(m, backend="eager")(x)
        errors.append(raised.type)
    assert errors[0] == errors[1]


# ---- derivatives, layouts, counters -------------------------------------------------------------


@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.parametrize("which", [0, 2])
def test_jacobians(vectorize, which):
    model, fast, _ = pair()
    shape = (1, 4, 5) if which == 0 else (1, 8, 5)
    layer, torchs = fast[which].double(), model[which].double()
    x = torch.randn(shape, dtype=torch.float64)
    jacobian, hessian = torch.autograd.functional.jacobian, torch.autograd.functional.hessian
    close(jacobian(layer, x, vectorize=vectorize), jacobian(torchs, x, vectorize=vectorize))

    def of_weight(m):
        return lambda w: torch.func.functional_call(m, {"weight": w}, (x,)).pow(3).sum()

    w = torchs.weight.detach()
    expected = hessian(of_weight(torchs), w, vectorize=vectorize)
    close(hessian(of_weight(layer), w, vectorize=vectorize), expected, 1e-9)
    tangents = torch.randn_like(x)
    close(torch.func.jvp(layer, (x,), (tangents,))[1], torch.func.jvp(torchs, (x,), (tangents,))[1])


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_same_padding_in_vectorised_jacobians():
    layer = nn.Conv1d(2, 3, 4, padding="same", stride=1, dtype=torch.float64)
    fast, _ = accelerate(layer)
    x = torch.randn(1, 2, 7, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian
    close(jacobian(fast, x, vectorize=True), jacobian(layer, x))


@pytest.mark.filterwarnings("ignore:.*beta state")
def test_mkldnn():
    from torch.utils import mkldnn

    model, fast, x = pair()
    with torch.no_grad():
        close(mkldnn.to_mkldnn(fast[0])(x.to_mkldnn()).to_dense(), model[0](x))


def test_counters_of_operations():
    from torch.utils.flop_counter import FlopCounterMode

    model, fast, x = pair()
    counted = []
    for m in (model, fast):
        leaf = x.clone().requires_grad_()
        with FlopCounterMode(display=False) as counter:
            m(leaf).sum().backward()
        counted.append(counter.get_total_flops())
    assert counted[0] == counted[1] > 0


@pytest.mark.parametrize("package", ["thop", "ptflops"])
@pytest.mark.filterwarnings("ignore")
def test_counters_that_look_layers_up(package, capsys):
    counter = pytest.importorskip(package)
    counted = []
    for m in pair()[:2]:
        if package == "thop":
            counted.append(counter.profile(m, (torch.randn(1, 4, 20),), verbose=False))
        else:
            counted.append(
                counter.get_model_complexity_info(
                    m, (4, 20), as_strings=False, print_per_layer_stat=False, backend="pytorch"
                )
            )
    assert counted[0] == counted[1] and counted[0][0] > 0


@pytest.mark.filterwarnings("ignore:.*clears events:UserWarning")
def test_profiler_rows():
    _, fast, x = pair()
    with torch.profiler.profile() as profiled, torch.no_grad():
        fast(x)
    names = {row.key for row in profiled.key_averages()}
    assert {"fastconv1d::correlate", "fastconv1d::scatter"} <= names


def test_default_devices_change_nothing():
    layer, _ = accelerate(nn.Conv1d(4, 8, 3).eval())
    with torch.device("cpu"), torch.no_grad():
        layer(torch.randn(1, 4, 9))
    assert "_pack" in vars(layer)

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            return "seen" if function is F.conv1d else function(*args, **(kwargs or {}))

    with Mode():
        assert layer(torch.ones(1, 4, 9)) == "seen"


# ---- what is reported ---------------------------------------------------------------------------


def test_nothing_is_left_without_a_word():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4, 3))
            self.conv1d = nn.Identity()

        def forward(self, x):
            return self.conv1d(torch.nn.functional.conv1d(x, self.weight))

    class Indirect(Functional):
        def forward(self, x):
            return self.up(x)

        def up(self, x):
            return [F.conv_transpose1d(x, w) for w in self.weight]

    class OfPlanes(nn.Module):
        def forward(self, x):
            return F.conv2d(x, x)

    class Innocent(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1d = nn.Linear(4, 4)

        def forward(self, x):
            return self.conv1d(x)

    traced = torch.jit.trace(nn.Conv1d(4, 3, 3), torch.randn(1, 4, 9))
    class_of = nn.ModuleDict(
        {
            "functional": Functional(),
            "indirect": Indirect(),
            "innocent": Innocent(),
            "scripted": torch.jit.script(nn.Sequential(nn.Conv1d(4, 3, 3))),
            "traced": traced,
            "thin": nn.Conv2d(4, 3, (1, 3)),
            "square": nn.Conv2d(4, 3, 3),
            "thicker": nn.Conv3d(4, 3, 3),
            "functional of planes": OfPlanes(),
            "graph": torch.fx.symbolic_trace(Functional()),
            "quantised": torch.ao.nn.quantized.Conv1d(4, 3, 3),
        }
    )
    fast, report = accelerate(class_of, inplace=True)
    assert fast is class_of and report.replaced == ["functional", "indirect", "thin"]
    asked = "torch.nn.functional.conv1d", "torch.nn.functional.conv_transpose1d"
    assert report.layers["indirect"]["calls"] == ", ".join(asked)
    assert report.layers["functional"]["calls"] == asked[0]
    assert "other" in report.layers["thin"]["inputs"]
    expected = {
        "scripted.0": "Conv1d is compiled by torch.jit",
        "traced": "Conv1d is compiled by torch.jit",
        "thicker": "a Conv3d is not one-dimensional",
        "functional of planes": "its code calls torch.nn.functional.conv2d, not one-dimensional: "
        "accelerate(model, conv2d=True) takes it",
        "square": "a Conv2d is not one-dimensional: accelerate(model, conv2d=True) takes it",
        "graph": "its graph calls convolutions itself (conv1d)",
        "quantised": "computes in another way than torch.nn.Conv1d",
    }
    assert report.left.keys() == expected.keys()
    for name, text in expected.items():
        assert text in report.left[name]
    assert str(report).startswith("3 replaced, 7 left\n")


def test_reports():
    model = nn.Sequential(nn.Conv1d(64, 64, 3), nn.Conv1d(4, 8, 3, stride=2), nn.Linear(2, 2))
    _, report = accelerate(model, algorithm="winograd")
    assert report == (["0", "1"], {})
    told = json.loads(json.dumps(report.to_dict()))
    assert told["left"] == {} and list(told["replaced"]) == ["0", "1"]
    first, second = told["replaced"].values()
    assert first["class"] == "FastConv1d" and first["algorithm"] == "winograd"
    assert (first["engine"], second["engine"]) == ("winograd", "direct")
    assert "call eval() after it" in first["unseen"] and second["unseen"] is None
    _, nothing = accelerate(nn.Linear(2, 2))
    assert nothing == Report([], {}) == ([], {})
    assert "no 1-D convolution was found" in str(nothing)
    assert type(restore(model)[0]) is nn.Conv1d
