"""fastconv1d.torch: models of torch computed by fastconv1d."""

import copy
import doctest
import io
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import fastconv1d  # noqa: E402
import fastconv1d.torch as bridge  # noqa: E402
from fastconv1d.torch import FastConv1d, FastConvTranspose1d, accelerate  # noqa: E402

nn = torch.nn
pytestmark = pytest.mark.usefixtures("small_gradients")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


@pytest.fixture
def calls(monkeypatch):
    """The number of calls that torch computed itself."""
    counted = []
    for base in (nn.Conv1d, nn.ConvTranspose1d):
        forward = base.forward
        monkeypatch.setattr(
            base,
            "forward",
            lambda *args, _forward=forward, **kwargs: (
                counted.append(args) or _forward(*args, **kwargs)
            ),
        )
    return counted


def close(actual, expected, tolerance=1e-5):
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def small_model():
    return nn.Sequential(
        nn.Conv1d(4, 8, 3, padding="same"), nn.ReLU(), nn.ConvTranspose1d(8, 6, 4, stride=2)
    )


def random_layer(seed, dtype=torch.float64):
    """A layer of either op with any of its arguments, and an input that it takes."""
    rng = np.random.default_rng(seed)
    groups = int(rng.integers(1, 4))
    c_in, c_out = (groups * int(rng.integers(1, 3)) for _ in range(2))
    kernel, stride, dilation = (int(rng.integers(1, 4)) for _ in range(3))
    kwargs = {"stride": stride, "dilation": dilation, "groups": groups, "dtype": dtype}
    kwargs["bias"] = bool(rng.integers(2))
    if seed % 2:
        kwargs["output_padding"] = int(rng.integers(max(stride, dilation)))
        kwargs["padding"] = int(rng.integers(0, 2))
        layer = nn.ConvTranspose1d(c_in, c_out, kernel, **kwargs)
        length = 3 + int(rng.integers(4))
    else:
        kwargs["padding"] = "same" if stride == 1 and rng.integers(2) else int(rng.integers(4))
        kwargs["padding_mode"] = str(rng.choice(["zeros", "reflect", "replicate", "circular"]))
        layer = nn.Conv1d(c_in, c_out, kernel, **kwargs)
        length = dilation * (kernel - 1) + 4 + int(rng.integers(4))
    shape = (c_in, length) if rng.integers(3) == 0 else (int(rng.integers(1, 3)), c_in, length)
    x = torch.from_numpy(rng.standard_normal(shape)).to(dtype)
    return layer, x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random_layers(dtype, calls):
    for seed in range(60):
        layer, x = random_layer(seed, dtype)
        fast, report = accelerate(layer)
        assert report == ([""], {})
        for mode in (True, False):
            layer.train(mode)
            fast.train(mode)
            expected = layer(x)
            del calls[:]
            close(fast(x), expected)
            with torch.no_grad():
                close(fast(x), expected)
                close(fast(x), expected)
            assert not calls


@pytest.mark.parametrize("seed", range(40))
def test_gradcheck(seed, calls):
    layer, x = random_layer(seed)
    fast, _ = accelerate(layer)
    names = [name for name, _ in fast.named_parameters()]

    def call(x, *values):
        return torch.func.functional_call(fast, dict(zip(names, values, strict=True)), (x,))

    operands = (x.requires_grad_(), *fast.parameters())
    assert torch.autograd.gradcheck(call, operands)
    assert torch.autograd.gradgradcheck(
        call, operands, gen_non_contig_grad_outputs=bool(seed % 3), fast_mode=True
    )
    assert not calls


@pytest.mark.parametrize("subset", range(8))
def test_gradients_of_any_subset(subset):
    for seed in range(10):
        layer, x = random_layer(seed)
        if layer.bias is None:
            continue
        gradients = []
        for model in (layer, accelerate(layer)[0]):
            inputs = (x.clone(), model.weight, model.bias)
            for position, tensor in enumerate(inputs):
                tensor.requires_grad_(bool(subset >> position & 1))
            y = model(inputs[0])
            assert y.requires_grad == (subset > 0)
            if subset:
                y.square().sum().backward()
            gradients.append([tensor.grad for tensor in inputs])
        for expected, actual in zip(*gradients, strict=True):
            assert (actual is None) == (expected is None)
            if actual is not None:
                close(actual, expected, 1e-10)


def test_inputs_of_any_strides(calls):
    model = small_model().eval()
    fast, _ = accelerate(model)
    wide = torch.randn(6, 50, 8)
    views = {
        "channels last": wide[:, :, :4].transpose(1, 2),
        "steps": wide.transpose(1, 2)[::2, ::2, 3::3],
        "offset": wide[1:, 2:6, 3:],
        "expanded": torch.randn(1, 4, 1).expand(3, 4, 20),
        "permuted": torch.randn(30, 2, 4).permute(1, 2, 0),
        "conjugated": torch.randn(2, 4, 20, dtype=torch.complex64).conj().imag,
    }
    for view in views.values():
        x = view.detach()
        expected = model(x)
        with torch.no_grad():
            close(fast(x), expected)
        x.requires_grad_()
        close(fast(x), expected)
        actual, expected = (torch.autograd.grad(m(x).square().sum(), x)[0] for m in (fast, model))
        close(actual, expected, 1e-4)


def test_no_tensor_is_copied(monkeypatch):
    layer, _ = accelerate(nn.Conv1d(4, 6, 3).eval())
    seen = []

    prepare = bridge.layers.ENGINES["direct"].prepare

    class Spy:
        def __init__(self, *args):
            self.layer = prepare(*args)

        def __call__(self, x, *args):
            y = self.layer(x, *args)
            seen.extend([x, y])
            return y

    monkeypatch.setattr(bridge.layers.ENGINES["direct"], "prepare", Spy)
    x = torch.randn(2, 4, 20)
    with torch.no_grad():
        y = layer(x)
    assert seen[0].ctypes.data == x.data_ptr() and seen[1].ctypes.data == y.data_ptr()


def test_what_is_replaced_and_what_left():
    class Own(nn.Conv1d):
        def forward(self, x):
            return 2 * super().forward(x)

    shared = nn.Conv1d(3, 3, 1)
    patched = nn.Conv1d(3, 3, 1)
    patched.forward = lambda x: x
    model = nn.ModuleDict(
        {
            "plain": nn.Conv1d(3, 3, 1),
            "transposed": nn.ConvTranspose1d(3, 3, 2),
            "shared": nn.Sequential(shared, nn.ReLU(), shared),
            "own": Own(3, 3, 1),
            "lazy": nn.LazyConv1d(3, 1),
            "halves": nn.Conv1d(3, 3, 1).half(),
            "complexes": nn.Conv1d(3, 3, 1, dtype=torch.complex64),
            "elsewhere": nn.Conv1d(3, 3, 1, device="meta"),
            "patched": patched,
            "planes": nn.Conv2d(3, 3, 1),
        }
    )
    fast, report = accelerate(model, inplace=True)
    assert fast is model
    assert report.replaced == ["plain", "transposed", "shared.0", "own"]
    assert fast["shared"][0] is fast["shared"][2] is shared
    assert {name: report.left[name].split(",")[0] for name in report.left} == {
        "lazy": "torch.nn.modules.conv.LazyConv1d is a subclass",
        "halves": "its parameters are torch.float16",
        "complexes": "its parameters are torch.complex64",
        "elsewhere": "its parameters are on meta",
        "patched": "its forward is an attribute of the instance",
        "planes": "a Conv2d is not one-dimensional: accelerate(model",
    }
    assert str(report).splitlines()[:2] == [
        "4 replaced, 6 left",
        f"lazy: {report.left['lazy']}",
    ]
    assert isinstance(fast["own"], Own)
    assert accelerate(fast)[1].replaced == report.replaced


def test_a_copy_leaves_the_model():
    model = small_model()
    fast, _ = accelerate(model)
    assert [type(m) for m in model] == [nn.Conv1d, nn.ReLU, nn.ConvTranspose1d]
    assert [type(m) for m in fast] == [FastConv1d, nn.ReLU, FastConvTranspose1d]
    assert isinstance(fast[0], nn.Conv1d)
    assert fast[0].weight is not model[0].weight
    with pytest.raises(TypeError, match=r"model should be a torch\.nn\.Module, got list"):
        accelerate([])


def test_state_copies_and_files(tmp_path):
    model = small_model().eval()
    fast, _ = accelerate(model)
    x = torch.randn(1, 4, 20)
    with torch.no_grad():
        expected = fast(x)
    assert list(fast.state_dict()) == list(model.state_dict())
    model.load_state_dict(fast.state_dict())
    fast.load_state_dict(model.state_dict())
    torch.save(fast, tmp_path / "model.pt")
    buffer = io.BytesIO()
    torch.save(fast.state_dict(), buffer)
    buffer.seek(0)
    fresh, _ = accelerate(small_model().eval())
    fresh.load_state_dict(torch.load(buffer))
    copies = (
        copy.deepcopy(fast),
        copy.copy(fast),
        pickle.loads(pickle.dumps(fast)),
        torch.load(tmp_path / "model.pt", weights_only=False),
        fresh,
    )
    for other in copies:
        assert type(other[0]) is FastConv1d
        with torch.no_grad():
            assert torch.equal(other(x), expected)


def test_hooks_fire():
    model, _ = accelerate(small_model())
    fired = []
    model[0].register_forward_pre_hook(lambda m, args: fired.append("pre"))
    model[0].register_forward_hook(lambda m, args, y: fired.append("hook") or y + 1)
    model[0].register_full_backward_hook(lambda m, gx, gy: fired.append("backward"))
    x = torch.randn(1, 4, 9, requires_grad=True)
    y = model[0](x)
    close(y, nn.functional.conv1d(x, model[0].weight, model[0].bias, padding="same") + 1)
    y.sum().backward()
    assert fired == ["pre", "hook", "backward"]


@pytest.mark.parametrize("dim", [0, 2])
@pytest.mark.parametrize("make", [nn.Conv1d, nn.ConvTranspose1d])
def test_weight_norm(make, dim, calls):
    from torch.nn.utils import parametrizations, parametrize

    model = parametrizations.weight_norm(make(4, 6, 3, stride=2), dim=dim)
    fast, report = accelerate(model)
    assert report == ([""], {}) and list(fast.state_dict()) == list(model.state_dict())
    x = torch.randn(2, 4, 12)
    expected = model(x)
    del calls[:]
    for m in (fast, copy.deepcopy(fast)):
        close(m(x), expected)
        m(x).sum().backward()
        assert m.parametrizations.weight.original0.grad is not None
        with torch.no_grad():
            close(m(x), expected)
            m.parametrizations.weight.original0.mul_(2)
            assert not torch.allclose(m(x), expected)
            m.parametrizations.weight.original0.div_(2)
    parametrize.remove_parametrizations(fast, "weight")
    assert type(fast) in (FastConv1d, FastConvTranspose1d)
    with torch.no_grad():
        close(fast(x), expected)
    assert not calls


def test_a_weight_norm_is_computed_once():
    fast, _ = accelerate(nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 3)).eval())
    parts = fast.parametrizations.weight
    x = torch.randn(1, 4, 9)
    with torch.no_grad():
        fast(x)
        pack = fast._pack
        fast(x)
        assert fast._pack is pack
        for part in (parts.original0, parts.original1):
            part[1, 0, 0] += 1
            expected = nn.functional.conv1d(x, fast.weight, fast.bias)
            close(fast(x), expected)


@pytest.mark.parametrize("training", [False, True])
def test_other_parametrisations_are_computed_each_time(training):
    class Scaled(nn.Module):
        factor = 1.0

        def forward(self, weight):
            return weight * torch.where(torch.arange(6) == 1, self.factor, 1.0)[:, None, None]

    layer = nn.Conv1d(4, 6, 3)
    scaled = Scaled()
    nn.utils.parametrize.register_parametrization(layer, "weight", scaled)
    fast, _ = accelerate(layer.train(training), inplace=True)
    x = torch.randn(1, 4, 9)
    with torch.no_grad():
        for factor in (1.0, 2.0, 3.0, 4.0):
            scaled.factor = factor
            close(fast(x), nn.functional.conv1d(x, layer.weight, layer.bias))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("dim", [0, 2])
def test_old_weight_norm(dim, calls):
    model = nn.utils.weight_norm(nn.Conv1d(4, 6, 3), dim=dim).eval()
    fast, report = accelerate(model)
    assert report.replaced == [""] and list(fast.state_dict()) == list(model.state_dict())
    x = torch.randn(2, 4, 12)
    with torch.no_grad():
        for _ in range(2):
            expected = model(x)
            del calls[:]
            close(fast(x), expected)
            assert not calls
            for m in (model, fast):
                m.weight_g.mul_(3)
    nn.utils.remove_weight_norm(fast)
    with torch.no_grad():
        close(fast(x), model(x))


@pytest.mark.parametrize("write", range(8))
def test_a_changed_layer_is_packed_again(write):
    layer = nn.Conv1d(4, 4, 3, padding=1).eval()
    fast, _ = accelerate(layer)
    x = torch.randn(1, 4, 20)
    with torch.no_grad():
        fast(x)
        pack = fast._pack
        fast(x)
        assert fast._pack is pack
    for model in (layer, fast):
        if write == 0:
            model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()})
        elif write == 1:
            with torch.no_grad():
                model.weight[0, 0, 0] += 1
        elif write == 2:
            model.weight.data.mul_(2)
        elif write == 3:
            model.weight.data = torch.ones_like(model.weight)
        elif write == 4:
            model.bias = nn.Parameter(torch.ones(4))
        elif write == 5:
            model.padding = (0,)
        elif write == 6:
            model.double().float().weight.data[1, 1, 1] += 1
        elif write == 7:
            model.weight.data[1, 1, 1] += 1  # unseen, but for this
            model.eval()
    with torch.no_grad():
        close(fast(x), layer(x))


def test_a_layer_in_train_mode_keeps_nothing():
    layer = nn.Conv1d(4, 4, 3).train()
    fast, _ = accelerate(layer)
    x = torch.randn(1, 4, 20)
    with torch.no_grad():
        fast(x)
        for model in (layer, fast):
            model.weight.data[1, 1, 1] += 1
        close(fast(x), layer(x))
    assert "_pack" not in fast.__dict__


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_what_torch_computes(calls):
    model = nn.Conv1d(4, 4, 3)
    fast, _ = accelerate(model)
    x = torch.randn(2, 4, 20)
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            close(fast(x), model(x))
        close(
            copy.deepcopy(fast).bfloat16()(x.bfloat16()),
            copy.deepcopy(model).bfloat16()(x.bfloat16()),
        )
        close(torch.func.vmap(fast)(x[:, None]), torch.func.vmap(model)(x[:, None]))
        infinite = copy.deepcopy(fast)
        infinite.weight[0, 0, 0] = torch.inf
        assert infinite(x).isfinite()[:, 1:].all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fast(x).dtype == torch.bfloat16
    y, tangent = torch.func.jvp(fast, (x,), (x,))
    close(y - tangent, model.bias[:, None].expand_as(y))
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        fast(x)
    assert counter.get_total_flops() == 2 * 2 * 4 * 4 * 3 * 18
    assert len([c for c in calls if c[0] is not model]) >= 6


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_trace_holds_torchs_convolution():
    fast, _ = accelerate(small_model().eval())
    traced = torch.jit.trace(fast, torch.randn(1, 4, 10))
    assert "aten::_convolution" in str(traced.inlined_graph)
    assert "fastconv1d::" not in str(traced.inlined_graph)
    x = torch.randn(2, 4, 31)
    close(traced(x), fast(x))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 5, 10), torch.float32),
        ((1, 4, 1), torch.float32),
        ((4,), torch.float32),
        ((1, 4, 10), torch.float64),
        ((1, 4, 10), torch.int64),
    ],
)
@pytest.mark.parametrize("grad", [False, True])
def test_errors_are_torchs(shape, dtype, grad):
    model = nn.Conv1d(4, 4, 3)
    fast, _ = accelerate(model)
    x = torch.ones(shape, dtype=dtype)
    with torch.set_grad_enabled(grad):
        with pytest.raises(RuntimeError) as expected:
            model(x)
        with pytest.raises(RuntimeError) as actual:
            fast(x)
    assert str(actual.value) == str(expected.value)


def test_output_size(calls):
    layer = nn.ConvTranspose1d(4, 6, 3, stride=3, padding=1)
    fast, _ = accelerate(layer)
    x = torch.randn(2, 4, 7)
    for size in (19, 20, 21):
        expected = layer(x, output_size=[size])
        del calls[:]
        close(fast(x, output_size=[size]), expected)
        with torch.no_grad():
            close(fast(x, [size]), expected)
        assert not calls
    with pytest.raises(ValueError, match="requested an output size of"):
        fast(x, output_size=[30])


def test_empty_batches():
    for model in small_model():
        fast, _ = accelerate(model)
        x = torch.randn(0, getattr(model, "in_channels", 4), 9, requires_grad=True)
        close(fast(x), model(x))
        fast(x).sum().backward()
        assert x.grad.shape == x.shape


def test_operators():
    x, w, b = (torch.randn(*s, requires_grad=True) for s in ((2, 4, 12), (6, 2, 3), (6,)))
    for operands in ((x, w, b, 2, 1, 1, 2, 6), (x, w, None, 1, 0, 2, 2, 8)):
        torch.library.opcheck(torch.ops.fastconv1d.correlate, operands)
    w, b = torch.randn(4, 3, 3, requires_grad=True), torch.randn(6, requires_grad=True)
    for operands in ((x, w, b, 2, 1, 1, 2, 25), (x, w, None, 1, 0, 2, 2, 16)):
        torch.library.opcheck(torch.ops.fastconv1d.scatter, operands)
    g = torch.randn(2, 6, 8, requires_grad=True)
    torch.library.opcheck(torch.ops.fastconv1d.weight_gradient, (g, x, 3, 1, 0, 2, 2))


def test_compile():
    model = small_model()
    fast, _ = accelerate(model)
    compiled = torch.compile(fast, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (20, 31):
        x = torch.randn(2, 4, length)
        close(compiled(x), model(x))
        for m in (model, compiled):
            m.zero_grad()
            m(x).square().sum().backward()
        for actual, expected in zip(fast.parameters(), model.parameters(), strict=True):
            close(actual.grad, expected.grad, 1e-3)
    with torch.no_grad():
        close(compiled(x), model(x))


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict):
    model = small_model().eval()
    fast, _ = accelerate(model)
    length = torch.export.Dim("length", min=4, max=1000)
    exported = torch.export.export(
        fast, (torch.randn(2, 4, 20),), dynamic_shapes=({2: length},), strict=strict
    )
    assert not any("fastconv1d" in str(node.target) for node in exported.graph.nodes)
    x = torch.randn(2, 4, 33)
    assert torch.equal(exported.module()(x), model(x))


@pytest.mark.parametrize(
    "method",
    [FastConv1d.forward, FastConvTranspose1d.forward, FastConv1d.train, bridge.Report.to_dict],
)
def test_examples_of_methods(method):
    test = doctest.DocTestParser().get_doctest(method.__doc__, {}, method.__name__, None, 0)
    assert test.examples and doctest.DocTestRunner().run(test).failed == 0


def test_threads_are_the_smaller_number():
    before = torch.get_num_threads()
    try:
        for torch_threads, own, expected in ((1, 4, 1), (3, 2, 2), (2, 2, 2)):
            torch.set_num_threads(torch_threads)
            with fastconv1d.num_threads(own):
                assert bridge.operators.num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_calls_from_several_threads():
    fast, _ = accelerate(small_model().eval())
    inputs = [torch.randn(1, 4, length) for length in range(5, 25)]
    with torch.no_grad():
        expected = [fast(x) for x in inputs]
    outputs = {}

    def work(number):
        with torch.inference_mode():
            outputs[number] = [fast(x) for x in inputs for _ in range(5)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    fast.eval()  # drops the packs: the threads make them
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results in outputs.values():
        for position, y in enumerate(results):
            assert torch.equal(y, expected[position // 5])
    assert len(outputs) == 4


def test_winograd(calls):
    model = nn.Sequential(
        nn.Conv1d(64, 64, 3, padding=1),
        nn.Conv1d(64, 64, 7, padding="same", dilation=3),
        nn.Conv1d(64, 64, 3, stride=2),
        nn.Conv1d(64, 64, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose1d(64, 64, 4, stride=2),
    ).eval()
    fast, report = accelerate(model, algorithm="winograd")
    assert len(report.replaced) == 5
    x = torch.randn(2, 64, 100)
    expected = model(x)
    del calls[:]
    with torch.no_grad():
        for _ in range(2):
            close(fast(x), expected)
        kinds = [type(layer._pack.layer).__name__ for layer in fast]
        assert kinds == ["ChosenLayer"] * 2 + ["PreparedLayer", "ChosenLayer", "PreparedLayer"]
        large = torch.randn(1, 64, 20000)
        close(fast[0](large), model[0](large))
        fast[0].bias += 1
        close(fast[0](x), model[0](x) + 1)
        fast.train()
        close(fast[0](x), model[0](x) + 1)
        assert copy.deepcopy(fast)[0].algorithm == "winograd"
    with pytest.raises(ValueError, match="one of 'auto', 'fast', 'fft', 'winograd', got 'x'"):
        accelerate(model, algorithm="x")


def test_the_memory_of_large_outputs_is_used_again():
    model = nn.Conv1d(2, 64, 1).eval()
    fast, _ = accelerate(model)
    x = torch.randn(1, 2, 20000)
    with torch.no_grad():
        first, second = fast(x), fast(2 * x)
        assert first.data_ptr() != second.data_ptr()
        kept = first.numpy()
        close(first, model(x))
        close(second, model(2 * x))
        address = second.data_ptr()
        del second
        part = first[:, 3:4]
        del first
        third = fast(3 * x)  # in the memory of the second
        assert third.data_ptr() == address
        close(third, model(3 * x))
        close(part, model(x)[:, 3:4])
        for scale in range(4, 7):
            close(fast(scale * x), model(scale * x))
        np.testing.assert_array_equal(kept[:, 3:4], part.numpy())
        del third
        close(fast(x[:, :, :17000]), model(x[:, :, :17000]))
    transposed = nn.ConvTranspose1d(2, 16, 4, stride=2, padding=1, output_padding=1).eval()
    fast, _ = accelerate(transposed)
    with torch.no_grad():
        for _ in range(2):
            wide = torch.randn(2, 2, 20000)
            close(fast(wide), transposed(wide))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_new_lengths_leave_no_memory_behind():
    script = Path(__file__).parent.parent / "benchmarks" / "torch_memory.py"
    command = [sys.executable, str(script), "--only", "fastconv1d", "--calls", "300"]
    environment = {**os.environ, "PYTHONPATH": str(script.parent.parent)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert float(done.stdout) < 5
