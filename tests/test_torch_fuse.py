"""accelerate(fuse=True): a model's chains as one step, and torch's forward wherever it matters."""

import copy
import io
import json
import pickle

import pytest

torch = pytest.importorskip("torch")
from torch.nn import functional as F  # noqa: E402
from torch.nn.utils import parametrizations  # noqa: E402

from fastconv1d.torch import accelerate, disabled, restore  # noqa: E402

nn = torch.nn
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*clears events:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def settled(model):
    """In eval mode, with batch norms that have seen something."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)
    return model.eval()


class Block(nn.Module):
    def __init__(self, c=6, stride=1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(c, c, 3, padding=1, bias=False), nn.BatchNorm1d(c)
        self.conv2, self.bn2 = nn.Conv1d(c, c, 3, padding=1), nn.BatchNorm1d(c)
        self.act, self.scale = nn.ReLU(inplace=True), 1.0
        self.drop = nn.Dropout(0.5)

    def forward(self, x, early=False):
        y = self.act(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(self.drop(y)))
        y += x
        return self.act(y) * self.scale


class Causal(nn.Conv1d):
    def forward(self, x):
        return super().forward(F.pad(x, (self.kernel_size[0] - 1, 0)))


class Chomped(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv1d(6, 6, 3, padding=4, dilation=2), nn.PReLU()

    def forward(self, x):
        return x + self.act(self.conv(x)[:, :, :-4].contiguous())


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = Causal(6, 6, 3), Causal(6, 6, 2)
        self.up = nn.utils.weight_norm(nn.ConvTranspose1d(6, 4, 4, stride=2, groups=2))
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        y = torch.tanh(self.a(x)) * self.b(x).sigmoid()
        return F.elu(self.norm(self.up(F.leaky_relu(y, 0.2))))


class Before(nn.Module):
    """An activation before several convolutions, one of them padded; functions called."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(6, 6, 1), parametrizations.weight_norm(nn.Conv1d(6, 6, 3))
        self.weight = nn.Parameter(torch.randn(6, 6, 1))
        self.pad = nn.ConstantPad1d((1, 1), 0.0)

    def forward(self, x):
        y = F.relu(x)
        y = self.a(y) + self.b(self.pad(y))
        return F.gelu(F.conv1d(y, self.weight), approximate="tanh")


class Planes(nn.Module):
    """A block of a ResNet over planes, with a subclass and a function."""

    def __init__(self, c=6):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c)
        self.conv2, self.bn2 = CausalPlanes(c, c, (3, 2), groups=2), nn.BatchNorm2d(c)
        self.conv3, self.act = nn.Conv2d(c, c, (3, 1), padding=(1, 0)), nn.LeakyReLU(0.2)
        self.drop = nn.Dropout2d(0.5)
        self.weight = nn.Parameter(torch.randn(c, c, 1, 1))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(self.drop(x))))
        y = self.act(x + self.bn2(self.conv2(y)))
        return F.conv2d(self.conv3(F.relu(y)), self.weight)


class CausalPlanes(nn.Conv2d):
    def forward(self, x):
        return super().forward(F.pad(x, (1, 0, 2, 0)))


class Joined(nn.Module):
    """Branches that are joined before a norm and an activation."""

    def __init__(self, c=6):
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv1d(c, n, n, padding="same") for n in (3, 5, 1))
        self.up = nn.ConvTranspose1d(c, 3, 3, padding=1)
        self.norm, self.act = nn.BatchNorm1d(12), nn.LeakyReLU(0.1, inplace=True)
        self.a, self.b = nn.Conv1d(c, 4, 1), Causal(c, 2, 2)

    def forward(self, x):
        y = torch.cat([*(branch(x) for branch in self.branches), self.up(x)], 1)
        z = F.relu(torch.cat((self.a(x), self.b(x)), dim=1))
        return torch.cat((self.act(self.norm(y)), z), 1)


class Pooled(nn.Module):
    """Pooling between convolutions of planes, as a module and as a function."""

    def __init__(self, c=6):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(c, c, 3, padding=1), nn.Conv2d(c, c, 1)
        self.pool = nn.MaxPool2d((3, 2), (2, 1), (1, 0), ceil_mode=True)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2, padding=1)
        return self.pool(self.conv2(x))


MODELS = {
    "planes": (Planes, {"conv1": ["convolution", "batch norm", "relu"],
                        "conv2": ["convolution", "batch norm", "addition", "leaky_relu"],
                        "conv3": ["relu", "convolution"]}),
    "joined": (Joined, {f"branches.{i}": ["convolution", "batch norm", "leaky_relu"]
                        for i in range(3)}
               | {"up": ["convolution", "batch norm", "leaky_relu"],
                  "a": ["convolution", "relu"], "b": ["padding", "convolution", "relu"]}),
    "pooled": (Pooled, {"conv1": ["convolution", "relu"]}),
    "block": (Block, {"conv1": ["convolution", "batch norm", "relu"],
                      "conv2": ["convolution", "batch norm", "addition", "relu"]}),
    "chomped": (Chomped, {"conv": ["convolution", "cut", "leaky_relu", "addition"]}),
    "gated": (Gated, {"a": ["padding", "convolution"],
                      "b": ["padding", "convolution"],
                      "up": ["leaky_relu", "convolution", "batch norm", "elu"]}),
    "before": (Before, {"a": ["relu", "convolution", "addition"],
                        "b": ["relu", "padding", "convolution"]}),
    "sequential": (lambda: nn.Sequential(nn.Conv1d(6, 4, 1), nn.ELU(), nn.Tanh(),
                                         nn.Conv1d(4, 4, 3, padding=1), nn.LeakyReLU(0.3),
                                         nn.ReLU(),
                                         nn.Conv1d(4, 4, 1), nn.GELU("tanh"), nn.GELU()),
                   {"0": ["convolution", "elu"], "3": ["convolution", "leaky_relu"],
                    "6": ["relu", "convolution", "gelu"]}),
}  # fmt: skip


def made(name):
    make, expected = MODELS[name]
    model = settled(make())
    sizes = {"planes": (8, 9), "pooled": (40, 33)}
    x = torch.randn(2, 6, *sizes.get(name, (20,)))
    fast, report = accelerate(model, fuse=True, example_inputs=(x,), conv2d=True)
    return model, fast, report, x, expected


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def is_fused(fast, x):
    with torch.profiler.profile() as profiled, torch.no_grad():
        fast(x)
    return any(row.key == "fastconv1d::chain" for row in profiled.key_averages())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODELS)
def test_models(name, dtype):
    model, fast, report, x, expected = made(name)
    steps = {k: sorted(v) for k, v in report.fused[""].items()}
    assert steps == {k: sorted(v) for k, v in expected.items()}
    assert report.checked and report.unfused == {}
    assert json.loads(json.dumps(report.to_dict()))["fused"] == report.fused
    assert "checked on the example inputs" in str(report)
    model, fast, x = model.to(dtype), fast.to(dtype), x.to(dtype)
    for _ in range(2):
        with torch.no_grad():
            close(fast(x), model(x))
    with torch.inference_mode():
        close(fast(x[:1, :, :7].contiguous()), model(x[:1, :, :7]))
        close(fast(x.flip(0).transpose(0, 1).contiguous().transpose(0, 1)), model(x.flip(0)))
    assert is_fused(fast, x)
    close(fast(x), model(x))  # with gradients
    assert not any(row.key == "fastconv1d::chain" for row in _rows(fast, x))


def _rows(fast, x):
    with torch.profiler.profile() as profiled:
        fast(x)
    return profiled.key_averages()


@pytest.mark.parametrize("name", MODELS)
def test_restored(name):
    model, fast, _, x, _ = made(name)
    assert isinstance(fast, type(model))
    assert list(fast.state_dict()) == list(model.state_dict())
    with torch.no_grad():
        fast(x)
        for back in (restore(fast), restore(copy.deepcopy(fast))):
            for ours, torchs in zip(back.modules(), model.modules(), strict=True):
                assert vars(ours).keys() == vars(torchs).keys()
                assert type(ours).__name__ == type(torchs).__name__
                if not hasattr(torchs, "parametrizations"):
                    assert type(ours) is type(torchs)
            assert torch.equal(back(x), model(x))
            if name not in ("before", "sequential"):
                assert b"fastconv1d" not in pickle.dumps(back)
        assert is_fused(copy.deepcopy(fast), x)


@pytest.mark.parametrize("name", ["block", "chomped", "gated"])
def test_pickles(name):
    model, fast, _, x, _ = made(name)
    buffer = io.BytesIO()
    torch.save(fast, buffer)
    buffer.seek(0)
    again = torch.load(buffer, weights_only=False)
    with torch.no_grad():
        close(again(x), model(x))
    assert is_fused(again, x)


@pytest.mark.parametrize("name", MODELS)
def test_compiled(name):
    model, fast, _, x, _ = made(name)
    torch._dynamo.reset()
    with torch.no_grad():
        close(torch.compile(fast, backend="eager", fullgraph=True)(x), model(x))
    close(torch.fx.symbolic_trace(fast)(x), model(x))


OBSERVERS = {
    "hook": lambda m: m.bn1.register_forward_hook(lambda m, a, y: y + 1),
    "pre hook": lambda m: m.conv2.register_forward_pre_hook(lambda m, a: (a[0] * 2,)),
    "train": lambda m: m.bn1.train(),
    "attribute": lambda m: setattr(m, "scale", 3.0),
    "child": lambda m: setattr(m, "act", nn.Tanh()),
    "forward of a child": lambda m: setattr(m.bn2, "forward", lambda x: x * 2),
    "forward": lambda m: setattr(m, "forward", m.conv1.forward),
    "slope": lambda m: setattr(m.act, "inplace", False),
}
WRITES = {
    "weight": lambda m: m.conv1.weight.mul_(2),
    "data": lambda m: m.conv1.weight.data[0].fill_(3),
    "statistics": lambda m: m.bn2.running_var.mul_(3),
    "norm": lambda m: setattr(m.bn1, "weight", nn.Parameter(m.bn1.weight.detach() * 2)),
    "eps": lambda m: setattr(m.bn1, "eps", 1.0),
    "bias": lambda m: setattr(m.conv2, "bias", None),
    "state": lambda m: m.load_state_dict({k: v * 2 for k, v in m.state_dict().items()}),
}


@pytest.mark.parametrize("change", [*OBSERVERS, *WRITES])
def test_changes_are_seen(change):
    model, fast, _, x, _ = made("block")
    with torch.no_grad():
        before = model(x)
        fast(x)
        for m in (model, fast):
            torch.manual_seed(1)
            (OBSERVERS | WRITES)[change](m)
        expected = model(x)
        assert change in ("slope", "train") or not torch.equal(before, expected)
        close(fast(x), expected)
        close(fast(x), model(x))
    if change in WRITES:
        assert is_fused(fast, x)
    elif change != "slope":
        assert not is_fused(fast, x)


def test_slopes_are_seen():
    model, fast, _, x, _ = made("chomped")
    with torch.no_grad():
        fast(x)
        for slopes in (torch.tensor([3.0]), torch.linspace(0, 1, 6)):
            for m in (model, fast):
                m.act.weight = nn.Parameter(slopes.clone())
            close(fast(x), model(x))
        for m in (model, fast):
            m.act.weight = nn.Parameter(torch.ones(1, 1, 1))
        errors = []
        for m in (model, fast):
            with pytest.raises(RuntimeError) as raised:
                m(x)
            errors.append(str(raised.value))
        assert errors[0] == errors[1]


@pytest.mark.parametrize("change", ["eval", "norm", "hook", "wider", "statistics", "activation"])
def test_changes_of_a_norm_behind_joined_branches_are_seen(change):
    model, fast, _, x, _ = made("joined")
    with torch.no_grad():
        before = fast(x)
        for m in (model, fast):
            torch.manual_seed(1)
            if change == "norm":
                m.norm = settled(nn.BatchNorm1d(12, eps=2.0))
            elif change == "hook":
                m.norm.register_forward_hook(lambda m, a, y: y + 1)
            elif change == "wider":
                m.norm.running_mean = torch.zeros(13)
            elif change == "statistics":
                m.norm.running_var.mul_(3)
            elif change == "activation":
                m.act.negative_slope = 0.9
        if change == "wider":
            for m in (model, fast):
                with pytest.raises(RuntimeError, match="13"):
                    m(x)
            return
        assert (change == "eval") == torch.equal(fast(x), before)
        close(fast(x), model(x))
    assert is_fused(fast, x) == (change not in ("norm", "hook"))


def test_joined_along_other_axes():
    """Inputs without a batch are joined along the length, which no norm of channels follows."""
    model = settled(nn.Sequential(Joined()))[0]
    model.norm = settled(nn.BatchNorm1d(80))
    fast, report = accelerate(model, fuse=True)
    assert report.fused
    x = torch.randn(6, 20)
    with torch.no_grad():
        results = []
        for m in (model, fast):
            try:
                results.append(m(x))
            except RuntimeError as error:
                results.append(str(error))
    assert type(results[0]) is type(results[1])
    assert isinstance(results[0], str) or torch.equal(*results)


WINDOWS = [
    ((2, 2),), ((2, 1), (2, 1)), (3, 2, 1), ((3, 2), (1, 3), (1, 0), 1, False, True),
    (2, None, 0, 2), ((1, 5), 2, (0, 2), (1, 3), False, True), (3, 1, 1), (4, 4, 2, 1, False, True),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("shape", [(2, 3, 17, 23), (3, 33, 1), (1, 2, 1, 40)])
def test_pools_are_torchs(window, shape, dtype, monkeypatch):
    from fastconv1d.torch import pools

    monkeypatch.setattr(pools, "LEAST", 0)
    monkeypatch.setattr(pools, "NARROW", 0)
    x = torch.randint(-50, 50, shape).to(dtype)
    x.view(-1)[7], x.view(-1)[31] = float("nan"), -float("inf")
    module = nn.MaxPool2d(*window)
    try:
        expected = module(x)
    except RuntimeError:
        pool = pools.Pool(module, lambda: pools._settings_of(module))
        assert pool._computed(x) is None
        with pytest.raises(RuntimeError):
            pool(x)
        return
    pool = pools.Pool(module, lambda: pools._settings_of(module))
    actual = pool._computed(x)
    assert actual.dtype == dtype and actual.stride() == expected.stride()
    assert torch.equal(actual.nan_to_num(1e9), expected.nan_to_num(1e9))
    assert torch.equal(actual.isnan(), expected.isnan())


def test_pools_that_torch_computes(monkeypatch):
    from fastconv1d.torch import pools

    monkeypatch.setattr(pools, "LEAST", 0)
    module = nn.MaxPool2d(2, return_indices=True)
    pool = pools.Pool(module, lambda: pools._settings_of(module))
    x = torch.randn(2, 3, 8, 8)
    assert len(pool(x)) == 2
    module.return_indices = False
    last = x.to(memory_format=torch.channels_last)
    for each in (last, x[:, :, ::2], x.half(), torch.randint(9, (1, 2, 4, 4))):
        assert pool._computed(each) is None
        assert torch.equal(pool(each), module(each))
    assert pool(last).stride() == module(last).stride()
    assert pool._computed(x) is None and torch.equal(pool(x), module(x))  # rows of few columns
    module.padding = 2
    for m in (module, pool):
        with pytest.raises(RuntimeError, match="pad should be at most half"):
            m(x)


def test_pools_run_here(monkeypatch):
    from fastconv1d.torch import pools

    monkeypatch.setattr(pools, "LEAST", 0)
    monkeypatch.setattr(pools, "NARROW", 0)
    _, fast, _, x, _ = made("pooled")
    with torch.profiler.profile() as profiled, torch.no_grad():
        fast(x)
    assert not any("max_pool" in row.key for row in profiled.key_averages())


def test_old_weight_norms_are_computed_once():
    model, fast, _, x, _ = made("gated")
    calls = []
    (hook,) = fast.up._forward_pre_hooks.values()
    cls = type(hook)
    original = cls.compute_weight
    cls.compute_weight = lambda self, module: calls.append(module) or original(self, module)
    try:
        with torch.no_grad():
            for _ in range(3):
                fast(x)
            assert len(calls) == 0  # it was for the example inputs
            for m in (model, fast):
                m.up.weight_g.mul_(2)
            close(fast(x), model(x))
            assert len([m for m in calls if m is fast.up]) == 1
            close(fast.up.weight, model.up.weight)
    finally:
        cls.compute_weight = original


def test_what_torch_watches():
    model, fast, _, x, _ = made("block")
    with torch.no_grad():
        with disabled():
            assert torch.equal(fast(x), model(x))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(fast(x), model(x))
        close(torch.func.vmap(fast)(x[None]), model(x)[None])
        close(fast(x, early=True), model(x))
        close(torch.jit.trace(fast, x)(x), model(x))
        exported = torch.export.export(fast, (x,))
        assert not any("fastconv1d" in str(node.target) for node in exported.graph.nodes)
        errors = []
        for m in (model, fast):
            with pytest.raises(RuntimeError) as raised:
                m(x[:, :3])
            errors.append(str(raised.value))
        assert errors[0] == errors[1]


class Choosing(nn.Module):
    def __init__(self):
        super().__init__()
        self.stack = nn.Sequential(nn.Conv1d(6, 6, 3, padding=1), nn.ReLU())

    def forward(self, x):
        return self.stack(x) if x.sum() > 0 else -self.stack(x)


class Counting(Choosing):
    calls = 0

    def forward(self, x):
        self.calls = self.calls + 1
        return self.stack(x)


class Noisy(Choosing):
    def forward(self, x):
        return self.stack(x) + torch.rand(1)


class InPlace(Choosing):
    def forward(self, x):
        y = x.relu_()
        return self.stack(y) + x


class Listed(Choosing):
    def __init__(self):
        super().__init__()
        self.factors = [1.0, 2.0]

    def forward(self, x):
        return self.stack(x) * self.factors[0]


@pytest.mark.parametrize("make", [Choosing, Counting, Noisy, InPlace])
def test_what_cannot_be_traced_is_named_and_its_children_fused(make):
    model = make().eval()
    fast, report = accelerate(model, fuse=True)
    assert list(report.fused) == ["stack"] and list(report.unfused) == [""]
    assert "the model not fused: " in str(report) and "not checked" in str(report)
    for sign in (1, -1):
        x = sign * torch.rand(2, 6, 20)
        with torch.no_grad():
            torch.manual_seed(0)
            expected = model(x.clone())
            torch.manual_seed(0)
            close(fast(x.clone()), expected)
    assert make is not Counting or fast.calls == 2


def test_lists_are_compared():
    model = Listed().eval()
    fast, report = accelerate(model, fuse=True)
    assert list(report.fused) == [""]
    x = torch.randn(1, 6, 9)
    with torch.no_grad():
        close(fast(x), model(x))
        model.factors[0] = fast.factors[0] = 5.0
        close(fast(x), model(x))


def test_a_difference_on_the_example_inputs_undoes_it(monkeypatch):
    from fastconv1d.torch import fusing

    monkeypatch.setattr(fusing, "folded", lambda norm, part, w, b, groups, scatter: (w * 2, b))
    x = torch.randn(2, 6, 20)
    model = settled(nn.Sequential(nn.Conv1d(6, 6, 3), nn.BatchNorm1d(6)))
    fast, report = accelerate(model, fuse=True, example_inputs=x)
    assert report.fused == {} and not report.checked
    assert "differs from torch's" in report.unfused["example_inputs"]
    assert type(fast) is nn.Sequential
    with torch.no_grad():
        close(fast(x), model(x))


def test_models_in_training_are_fused_for_later():
    model = Block().train()
    fast, report = accelerate(model, fuse=True)
    assert report.fused and fast.training and fast.bn1.training
    x = torch.randn(2, 6, 20)
    with torch.no_grad():
        assert not is_fused(fast, x)
        model.load_state_dict(fast.state_dict())
        close(fast.eval()(x), model.eval()(x))
        assert is_fused(fast, x)


def test_again_and_without():
    model, fast, report, x, _ = made("block")
    again, second = accelerate(fast, fuse=True, example_inputs=(x,))
    assert second.fused == report.fused and second.replaced == report.replaced
    plain, third = accelerate(again)
    assert third.fused == {} and not is_fused(plain, x)
    assert third.replaced == report.replaced
    with torch.no_grad():
        close(plain(x), model(x))


def test_other_threads_run_while_a_model_is_traced():
    import threading

    model = Block().eval()
    x, go, errors = torch.randn(1, 6, 20), threading.Event(), []

    def calls():
        with torch.no_grad():
            expected = model(x)
            while not go.is_set():
                try:
                    assert torch.equal(model(x), expected)
                except Exception as error:
                    errors.append(error)
                    return

    threads = [threading.Thread(target=calls) for _ in range(2)]
    for thread in threads:
        thread.start()
    reports = [accelerate(model, fuse=True)[1] for _ in range(10)]
    go.set()
    for thread in threads:
        thread.join()
    assert errors == [] and all(report.fused for report in reports)
