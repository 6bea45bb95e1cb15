"""accelerate: subclasses of torch's layers, functions called in forwards, thin planes."""

import copy
import functools
import io
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch.nn import functional as F  # noqa: E402
from torch.nn.functional import conv1d, conv_transpose1d  # noqa: E402

from fastconv1d.torch import FastConv1d, FastConv2d, accelerate, calls, disabled, restore  # noqa: E402
from fastconv1d.torch.operators import KERNELS  # noqa: E402

nn = torch.nn
pytestmark = [
    pytest.mark.usefixtures("small_gradients"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


class Causal(nn.Conv1d):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.left = (self.kernel_size[0] - 1) * self.dilation[0]

    def forward(self, x):
        return super().forward(F.pad(x, (self.left, 0)))


class Chomping(nn.Conv1d):
    def __init__(self, c_in, c_out, kernel):
        super().__init__(c_in, c_out, kernel, padding=kernel - 1)

    def forward(self, x):
        return super().forward(x)[..., : -self.padding[0]].contiguous()


class Toeplitz(nn.Conv1d):
    """As PESTO's ToeplitzLinear."""

    def __init__(self, c_in, c_out):
        super().__init__(1, 1, c_in + c_out - 1, padding=c_out - 1, bias=False)

    def forward(self, x):
        return super().forward(x.unsqueeze(-2)).squeeze(-2)


class Whisper(nn.Conv1d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(
            x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
        )


class Standardised(nn.Conv1d):
    def forward(self, x):
        mean, std = self.weight.mean((1, 2), True), self.weight.std((1, 2), keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / (std + 1e-5), self.bias)


class Functional(nn.Conv1d):
    def forward(self, x):
        return F.conv1d(x, self.weight, self.bias, self.stride, 1, self.dilation, self.groups)


class Untouched(nn.Conv1d):
    pass


class Trimmed(nn.ConvTranspose1d):
    def forward(self, x, output_size=None):
        return super().forward(x, output_size)[..., : -self.stride[0]]


class Mixed:
    extra = 2


class WithMixin(Mixed, nn.Conv1d):
    def forward(self, x):
        return self.extra * nn.Conv1d.forward(self, x)


class Filters(nn.Module):
    """As SincNet: a bank of filters that is computed in each call."""

    def __init__(self):
        super().__init__()
        self.low = nn.Parameter(torch.linspace(0.1, 1, 8))
        self.after = nn.Conv1d(8, 4, 3)

    def filters(self):
        return torch.sin(self.low[:, None, None] * torch.arange(1.0, 12.0))

    def forward(self, x):
        return self.after(convolved(x, self.filters()))


def convolved(x, filters):
    return conv1d(x, filters, stride=2, padding=5)


def put_around(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


@put_around
def decorated(x, filters):
    """As the scripted function of asteroid's filter banks."""
    return conv1d(x, filters, padding=5)


class Decorated(Filters):
    """Functions behind decorators, which a call's code does not name."""

    @put_around
    def forward(self, x):
        y = decorated(x, self.filters())
        return self.after(F.conv1d(y, torch.eye(8, dtype=y.dtype)[:, :, None]))


class Overlapping(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.eye(4)[:, None])

    def forward(self, x):
        return conv_transpose1d(x, self.window, stride=2, padding=1)


class PaddedPlanes(nn.Conv2d):
    def forward(self, x):
        return super().forward(F.pad(x, (1, 0, 2, 1)))


class StandardisedPlanes(nn.Conv2d):
    """As ResNet-v2's."""

    def forward(self, x):
        mean, std = self.weight.mean((1, 2, 3), True), self.weight.std((1, 2, 3), keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / (std + 1e-5), self.bias)


class FunctionalPlanes(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight, self.bias, self.stride, 1, self.dilation, self.groups)


class Blur(nn.Module):
    """Functions of one and of two dimensions."""

    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.full((4, 1, 3, 3), 1 / 9))
        self.taps = nn.Parameter(torch.ones(4, 4, 2))

    def forward(self, x):
        y = F.conv2d(x, self.window, stride=(2, 1), padding=1, groups=4)
        return conv1d(y.flatten(2), self.taps)


SUBCLASSES = {
    "causal": (lambda: Causal(4, 6, 3, dilation=2), (2, 4, 20)),
    "chomping": (lambda: Chomping(4, 6, 3), (2, 4, 20)),
    "toeplitz": (lambda: Toeplitz(9, 5), (2, 9)),
    "whisper": (lambda: Whisper(4, 6, 3), (2, 4, 20)),
    "standardised": (lambda: Standardised(4, 6, 3, padding=1), (2, 4, 20)),
    "functional": (lambda: Functional(4, 6, 3, stride=2), (2, 4, 20)),
    "untouched": (lambda: Untouched(4, 6, 3), (4, 20)),
    "trimmed": (lambda: Trimmed(4, 6, 4, stride=2), (2, 4, 20)),
    "mixin": (lambda: WithMixin(4, 6, 3), (2, 4, 20)),
    "filters": (Filters, (2, 1, 40)),
    "decorated": (Decorated, (2, 1, 40)),
    "overlapping": (Overlapping, (2, 4, 20)),
    "padded planes": (lambda: PaddedPlanes(4, 6, 3), (2, 4, 9, 8)),
    "standardised planes": (lambda: StandardisedPlanes(4, 6, 3, padding=1), (2, 4, 9, 8)),
    "functional planes": (lambda: FunctionalPlanes(4, 6, 3, stride=2), (4, 9, 8)),
    "blur": (Blur, (2, 4, 9, 8)),
}


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def rows_of(module, x):
    """Names of torch's own convolutions that a call runs."""
    with torch.profiler.profile() as profiled:
        module(x)
    return {row.key for row in profiled.key_averages() if "conv" in row.key}


@pytest.mark.filterwarnings("ignore:.*clears events:UserWarning")
@pytest.mark.parametrize("name", SUBCLASSES)
def test_subclasses_are_computed_here(name):
    make, shape = SUBCLASSES[name]
    model = make().eval()
    fast, report = accelerate(model, conv2d=True)
    assert "" in report.replaced and report.left == {}
    assert isinstance(fast, type(model))
    x = torch.randn(shape)
    expected = model(x)
    with torch.no_grad():
        close(fast(x), expected.detach())
        assert not any(row.startswith("aten::") for row in rows_of(fast, x))
        with disabled():
            assert torch.equal(fast(x), model(x))
    results = []
    for m in (model, fast):
        leaf = x.clone().requires_grad_()
        y = m(leaf)
        results.append(torch.autograd.grad(y.square().sum(), [leaf, *m.parameters()]))
    for a, b in zip(*results, strict=True):
        close(b, a)
    double = copy.deepcopy(fast).double()
    close(double(x.double()).float(), expected)


@pytest.mark.parametrize("name", SUBCLASSES)
def test_subclasses_are_restored(name):
    make, shape = SUBCLASSES[name]
    model = make().eval()
    fast, _ = accelerate(model, conv2d=True)
    x = torch.randn(shape)
    with torch.no_grad():
        fast(x)
    copies = [copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))]
    for each in copies:
        assert type(each) is type(fast)
        close(each(x), model(x))
    back = restore(fast)
    assert type(back) is type(model) and vars(back).keys() == vars(model).keys()
    assert all(
        torch.equal(*pair)
        for pair in zip(back.state_dict().values(), model.state_dict().values(), strict=True)
    )
    assert b"fastconv1d" not in pickle.dumps(back)
    assert torch.equal(back(x), model(x))


@pytest.mark.parametrize("name", SUBCLASSES)
def test_compiled_and_scripted_subclasses(name):
    make, shape = SUBCLASSES[name]
    model = make().eval()
    fast, _ = accelerate(model, conv2d=True)
    x = torch.randn(shape)
    torch._dynamo.reset()
    with torch.no_grad():
        close(torch.compile(fast, backend="eager", fullgraph=True)(x), model(x))
    exported = torch.export.export(fast, (x,))
    assert not any("fastconv1d" in str(node.target) for node in exported.graph.nodes)
    outcomes = []
    for m in (model, fast):
        try:
            outcomes.append(torch.jit.script(m)(x))
        except RuntimeError as error:  # torch.jit knows no super()
            outcomes.append(str(error).splitlines()[1])
    assert type(outcomes[0]) is type(outcomes[1])
    close(torch.jit.trace(fast, x)(x), model(x))


@pytest.mark.parametrize("name", SUBCLASSES)
def test_bound_methods_outlive_restore(name):
    make, shape = SUBCLASSES[name]
    model = make().eval()
    fast, _ = accelerate(model, conv2d=True)
    method, x = fast.forward, torch.randn(shape)
    restore(fast, inplace=True)
    assert torch.equal(method(x), model(x))


def test_pickles_hold_the_users_class():
    fast, _ = accelerate(nn.Sequential(Causal(4, 6, 3), nn.ReLU()))
    buffer = io.BytesIO()
    torch.save(fast, buffer)
    buffer.seek(0)
    again = torch.load(buffer, weights_only=False)
    assert isinstance(again[0], Causal) and isinstance(again[0], FastConv1d)
    assert type(again[0]) is type(fast[0])  # one class of a kind


def test_parametrised_subclasses():
    model = torch.nn.utils.parametrizations.weight_norm(Causal(4, 6, 3)).eval()
    fast, report = accelerate(model)
    assert report.replaced == [""]
    x = torch.randn(2, 4, 20)
    with torch.no_grad():
        close(fast(x), model(x))
    assert type(restore(fast)).__bases__ == (Causal,)
    assert type(restore(fast)).__name__ == "ParametrizedCausal"


def test_subclasses_that_stay_are_named():
    class Meta(type):
        pass

    class WithMeta(nn.Conv1d, metaclass=Meta):
        pass

    class Endless(nn.Conv1d):
        def forward(self, x):
            return super(self.__class__, self).forward(x)

    class Typed(nn.Conv1d):
        def forward(self, x):
            return super(type(self), self).forward(x)

    class Registering(nn.Conv1d):
        def __init_subclass__(cls):
            raise AssertionError("a subclass")

    class Reducing(nn.Conv1d):
        def __reduce__(self):
            return Reducing, (4, 6, 3)

    class Elsewhere(nn.Conv1d):
        def forward(self, x):
            return x * self.weight.sum()

    expected = {
        WithMeta: "has a metaclass of its own",
        Endless: "asks for its class in forward",
        Typed: "asks for its class in forward",
        Registering: "looks at its subclasses",
        Reducing: "has a __reduce__ of its own",
        Elsewhere: "does not ask torch's forward or functions",
    }
    for cls, text in expected.items():
        layer = cls(4, 6, 3)
        x = torch.randn(1, 4, 9)
        before = layer(x)
        fast, report = accelerate(layer, inplace=True)
        assert report.replaced == [] and text in report.left[""]
        assert type(fast) is cls and torch.equal(fast(x), before)


def test_functions_are_only_taken_inside(monkeypatch):
    seen = []
    monkeypatch.setattr(
        calls,
        "KERNELS",
        KERNELS._replace(correlate=lambda *a: seen.append(a) or KERNELS.correlate(*a)),
    )
    model = Filters().eval()
    fast, _ = accelerate(model)
    x = torch.randn(1, 1, 40)
    with torch.no_grad():
        model(x), F.conv1d(x, model.filters())
        assert seen == []
        fast(x)
        assert len(seen) == 1
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert fast(x).dtype == torch.bfloat16
        assert len(seen) == 1
        close(torch.func.vmap(fast)(x[None]), model(x)[None])
        assert len(seen) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"stride": 0}, {"padding": -1}, {"padding": "same"}, {"padding": "same", "stride": 2},
        {"padding": "valid"}, {"padding": "x"}, {"dilation": 30}, {"groups": 2}, {"groups": 3},
        {"stride": (1, 1)}, {"stride": (2,)}, {"padding": (1, 2)}, {"dilation": (2, 1)},
        {"padding": "valid", "stride": (2, 3)}, {"padding": ("same", "same")},
        {"bias": torch.zeros(3)}, {"bias": torch.zeros(6)},
        {"stride": np.int64(2)}, {"stride": 2**40}, {"padding": 2.0}, {"oops": 1},
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("function", ["conv1d", "conv_transpose1d", "conv2d"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_functions_as_torch(arguments, function, dtype):
    class Calls(nn.Module):
        def forward(self, x, w):
            if function == "conv2d":
                return F.conv2d(x, w, **arguments)
            call = conv1d if function == "conv1d" else conv_transpose1d
            return call(x, w, **arguments)

    model = Calls()
    fast, report = accelerate(model, conv2d=function == "conv2d")
    assert report.replaced == [""]
    assert f"torch.nn.functional.{function}" in report.layers[""]["calls"]
    shape = (4, 6, 3) if function == "conv_transpose1d" else (6, 4, 3)
    more = (7,) if function == "conv2d" else ()
    w = torch.randint(-3, 4, (*shape, 2) if more else shape).to(dtype)
    for x in (
        torch.randint(-3, 4, (2, 4, 9, *more)).to(dtype),
        torch.ones(4, 9, *more).to(dtype),
        torch.ones(2, 4, 0, *more).to(dtype),
    ):
        outcomes = []
        for m in (model, fast):
            try:
                outcomes.append(m(x, w))
            except (RuntimeError, TypeError, ValueError) as error:
                outcomes.append((type(error), str(error)))
        if isinstance(outcomes[0], tuple):
            assert outcomes[0] == outcomes[1]
        else:
            assert torch.equal(*outcomes)


# ---- planes --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize(
    "given",
    [
        {}, {"stride": (2, 1)}, {"padding": (2, 0)}, {"dilation": (3, 1)}, {"padding": "same"},
        {"stride": (3, 2), "padding": "valid"}, {"groups": 2}, {"padding": (1, 1)},
        {"padding": (1, 0), "padding_mode": "circular"}, {"bias": False},
    ],
)  # fmt: skip
def test_thin_planes(axis, given):
    kernel = (4, 1)
    given = {k: v[::-1] if axis == 3 and isinstance(v, tuple) else v for k, v in given.items()}
    model = nn.Conv2d(4, 6, kernel[::-1] if axis == 3 else kernel, **given).eval()
    fast, report = accelerate(model)
    assert report.replaced == [""] and type(fast) is FastConv2d
    for other in (1, 3):
        shape = (2, 4, 20, other) if axis == 2 else (2, 4, other, 20)
        x = torch.randn(shape)
        with torch.no_grad():
            y, expected = fast(x), model(x)
        close(y, expected)
        assert y.stride() == expected.stride()
        close(fast(x), model(x))
    assert type(restore(fast)) is nn.Conv2d


def test_planes_know_their_weight():
    fast, _ = accelerate(nn.Conv2d(3, 3, (3, 1)).eval())
    x = torch.randn(1, 3, 9, 1)
    with torch.no_grad():
        before = fast(x)
        assert "_pack" in vars(fast)
        fast.weight.mul_(2)
        close(fast(x) - fast.bias[:, None, None], 2 * (before - fast.bias[:, None, None]))
        fast.weight.data = fast.weight.data.transpose(2, 3).contiguous()
        with pytest.raises(RuntimeError, match="Kernel size"):
            fast(x[:, :, :1, :0])
        close(fast(x.transpose(2, 3)), F.conv2d(x.transpose(2, 3), fast.weight, fast.bias))
        close(
            fast(x.new_ones(1, 3, 4, 5)), F.conv2d(x.new_ones(1, 3, 4, 5), fast.weight, fast.bias)
        )
