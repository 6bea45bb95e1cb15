"""accelerate: whatever programs do to a module, it gives torch's result or torch's error."""

import gc
import multiprocessing
import pickle
import threading
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from fuzz import runner  # noqa: E402

import fastconv1d  # noqa: E402
from fastconv1d.kernels.operands import fingerprint  # noqa: E402
from fastconv1d.torch import FastConv1d, accelerate, disabled, layers, restore  # noqa: E402

nn = torch.nn
pytestmark = pytest.mark.usefixtures("small_gradients")
ERRORS = (RuntimeError, TypeError, ValueError, AssertionError)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def whole(*shape, dtype=torch.float32):
    """Small integers, whose sums are exact."""
    return torch.randint(-4, 5, shape).to(dtype)


def exact(layer):
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(whole(*parameter.shape))
    return layer


def outcome(layer, x, gradients):
    try:
        with torch.set_grad_enabled(gradients):
            y = layer(x.clone().requires_grad_() if gradients and x.is_floating_point() else x)
    except ERRORS as error:
        return type(error), str(error)
    return y


def assert_as_torch(fast, torchs, x):
    """Three calls, of which the second and third may use what the ones before kept."""
    for gradients in (False, True, False):
        expected, actual = outcome(torchs, x, gradients), outcome(fast, x, gradients)
        if isinstance(expected, tuple):
            assert actual == expected
        else:
            assert type(actual) is type(expected) and torch.equal(actual, expected)


def weight_of(*shape):
    return lambda m: setattr(m, "weight", nn.Parameter(whole(*shape)))


CONV_CHANGES = {
    "longer kernel": weight_of(6, 4, 5),
    "shorter kernel": weight_of(6, 4, 1),
    "more channels": weight_of(6, 900, 3),
    "fewer channels": weight_of(6, 1, 3),
    "two dimensions": weight_of(6, 4),
    "four dimensions": weight_of(6, 4, 3, 1),
    "no outputs": weight_of(0, 4, 3),
    "no taps": weight_of(6, 4, 0),
    "short bias": lambda m: setattr(m, "bias", nn.Parameter(torch.zeros(2))),
    "scalar bias": lambda m: setattr(m, "bias", nn.Parameter(torch.tensor(1.0))),
    "plane bias": lambda m: setattr(m, "bias", nn.Parameter(torch.zeros(6, 1))),
    "double bias": lambda m: setattr(m, "bias", nn.Parameter(torch.zeros(6).double())),
    "double weight": lambda m: setattr(m.weight, "data", m.weight.data.double()),
    "groups": lambda m: setattr(m, "groups", 2),
    "groups 0": lambda m: setattr(m, "groups", 0),
    "groups True": lambda m: setattr(m, "groups", True),
    "unaligned weight": lambda m: setattr(m.weight, "data", unaligned(m.weight)),
    "transposed data": lambda m: setattr(m.weight, "data", whole(3, 4, 6).permute(2, 1, 0)),
    "mkldnn weight": lambda m: setattr(m, "weight", nn.Parameter(m.weight.data.to_mkldnn(), False)),
    **{
        f"{name}={value!r}": (lambda m, name=name, value=value: setattr(m, name, value))
        for name in ("stride", "padding", "dilation", "output_padding", "kernel_size", "groups")
        for value in (
            2, [2], (2,), (1, 1), (2, 1), [1, 2], (1, np.int64(2)), (1, True), (-1, 1), (1, "same"),
            (), -1, (-1,), 0, np.int64(2), (np.int64(2),), 1.0, (1.0,), True,
            (True,), "same", "valid", "x", None, 2**40, (2**62,),
        )
    },
    **{
        f"mode {mode}": (lambda m, mode=mode: setattr(m, "padding_mode", mode))
        for mode in ("mirror", "reflect", "circular", None, 1)
    },
}  # fmt: skip


def unaligned(values):
    memory = bytearray(values.numel() * 4 + 1)
    return torch.frombuffer(memory, dtype=torch.float32, offset=1).view(values.shape).copy_(values)


@pytest.mark.parametrize("change", CONV_CHANGES)
@pytest.mark.parametrize("make", [nn.Conv1d, nn.ConvTranspose1d, nn.Conv2d])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.filterwarnings("ignore:Using padding='same'", "ignore:.*beta state")
def test_changes(make, change, training):
    torchs = exact(make(6, 4, 3, stride=2) if make is nn.ConvTranspose1d else make(4, 6, 3))
    fast, _ = accelerate(torchs.train(training), conv2d=True)
    x = whole(2, torchs.in_channels, 9, *((7,) if make is nn.Conv2d else ()))
    assert_as_torch(fast, torchs, x)
    state = torch.get_rng_state()
    CONV_CHANGES[change](torchs)
    torch.set_rng_state(state)
    CONV_CHANGES[change](fast)
    assert_as_torch(fast, torchs, x)


def test_a_kernel_of_another_size():
    fast, _ = accelerate(nn.Conv1d(1, 1, 3, bias=False))
    fast.weight = nn.Parameter(torch.ones(1, 1, 5))
    x = torch.arange(9.0).reshape(1, 1, 9)
    assert fast(x).flatten().tolist() == [10, 15, 20, 25, 30]
    with torch.no_grad():
        assert fast.eval()(x).flatten().tolist() == [10, 15, 20, 25, 30]


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Conv1d(4, 6, 3, padding=2), torch.zeros(1, 4, 0)),
        (nn.Conv1d(4, 6, 3, padding=1), torch.zeros(1, 4, 5, dtype=torch.float16)),
        (nn.Conv1d(4, 6, 3, padding=1), torch.zeros(1, 4, 5, dtype=torch.float64)),
        (nn.Conv1d(4, 6, 3, padding=1), torch.zeros(1, 4, 5).to_mkldnn()),
        (nn.Conv1d(4, 6, 3, padding=1), torch.zeros(1, 4, 5).to_sparse()),
        (nn.Conv1d(4, 6, 3, padding=1), torch.zeros(1, 4, 5, device="meta")),
        (nn.ConvTranspose1d(4, 6, 3), torch.zeros(1, 4, 0)),
        (nn.ConvTranspose1d(4, 6, 3, output_padding=2), torch.zeros(1, 4, 5)),
        (nn.ConvTranspose1d(4, 6, 3, padding=5), torch.zeros(1, 4, 2)),
    ],
)
@pytest.mark.filterwarnings("ignore:.*beta state")
def test_inputs_that_torch_refuses(layer, x):
    fast, _ = accelerate(layer.eval())
    for gradients in (False, True):
        expected = outcome(layer, x, gradients)
        actual = outcome(fast, x, gradients)
        if isinstance(expected, tuple):
            assert actual == expected
        else:
            assert actual.shape == expected.shape and actual.layout == expected.layout


def test_subclasses_of_tensors_stay():
    class Tagged(torch.Tensor):
        pass

    fast, _ = accelerate(nn.Conv1d(4, 6, 3))
    x = torch.randn(1, 4, 9)
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            y = fast(x.as_subclass(Tagged))
            assert type(y) is Tagged
            torch.testing.assert_close(y.as_subclass(torch.Tensor), fast(x))


@pytest.mark.parametrize("gradients", [False, True])
def test_replaced_methods_are_honoured(gradients, monkeypatch):
    layer = exact(nn.Conv1d(4, 6, 3).eval())
    up = exact(nn.ConvTranspose1d(4, 6, 3, stride=2).eval())
    (fast, _), (fast_up, _) = accelerate(layer), accelerate(up)
    x = whole(1, 4, 9)
    with torch.set_grad_enabled(gradients):
        plain, plain_up = layer(x), up(x)
        fast._conv_forward = lambda x, w, b: 2 * nn.functional.conv1d(x, w, b)
        assert torch.equal(fast(x), 2 * plain)
        del fast._conv_forward
        assert torch.equal(fast(x), plain)
        fast_up._output_padding = lambda *args: [1]
        assert fast_up(x).shape[2] == plain_up.shape[2] + 1
        monkeypatch.setattr(nn.Conv1d, "_conv_forward", lambda self, x, w, b: x)
        assert torch.equal(fast(x), x)
        monkeypatch.undo()
        monkeypatch.setattr(nn.functional, "conv1d", lambda *args: "counted")
        assert fast(x) == "counted"


def test_instances_with_methods_of_their_own_are_left():
    layer = nn.Conv1d(4, 6, 3)
    layer._conv_forward = lambda x, w, b: x
    _, report = accelerate(layer, inplace=True)
    assert report.replaced == [] and "its _conv_forward is an attribute" in report.left[""]


def test_subclasses_of_the_fast_layer_keep_their_forward():
    class Causal(FastConv1d):
        def forward(self, x):
            return super().forward(nn.functional.pad(x, (2, 0)))

    model = nn.Sequential(Causal(4, 6, 3))
    fast, report = accelerate(model)
    assert report.replaced == ["0"]
    x = torch.randn(1, 4, 9)
    expected = nn.functional.conv1d(nn.functional.pad(x, (2, 0)), model[0].weight, model[0].bias)
    torch.testing.assert_close(fast(x), expected)
    assert type(restore(fast)[0]) is Causal


# ---- what was packed ----------------------------------------------------------------------------


def write_data(weight):
    weight.data[1, 1, 1] = 9


def write_array(weight):
    weight.detach().numpy()[1, 0, 2] = 7


def exchange_same_bits(weight):
    weight.data = weight.data.transpose(0, 1)


@pytest.mark.parametrize("write", [write_data, write_array, exchange_same_bits])
@pytest.mark.parametrize("norm", [False, True])
def test_small_writes_without_a_version_are_seen(write, norm):
    torchs = exact(nn.Conv1d(4, 4, 3).eval())
    if norm:
        torchs = nn.utils.parametrizations.weight_norm(torchs)
    fast, _ = accelerate(torchs)
    x = whole(1, 4, 9)
    with torch.no_grad():
        fast(x)
        for m in (torchs, fast):
            write(m.parametrizations.weight.original1 if norm else m.weight)
        torch.testing.assert_close(fast(x), torchs(x))


def test_large_weights():
    torchs = exact(nn.Conv1d(64, 96, 3).eval())
    fast, report = accelerate(torchs)
    assert 64 * 96 * 3 * 4 > layers.SMALL
    assert "call eval() after it" in report.to_dict()["replaced"][""]["unseen"]
    short, long = whole(1, 64, 20), whole(1, 64, 3 + layers.LONG)
    with torch.no_grad():
        fast(short)
        for m in (torchs, fast):
            m.weight.data[5, 5, 1] += 9
        assert torch.equal(fast(long), torchs(long))  # all bits are compared in a long call
        for change in (
            lambda w: w.data.mul_(2),
            lambda w: w.add_(1),
            lambda w: setattr(w, "data", w.data.clone().index_fill_(0, torch.tensor(3), 5)),
        ):
            for m in (torchs, fast):
                change(m.weight)
            assert torch.equal(fast(short), torchs(short))


def test_inference_parameters_are_packed_once():
    with torch.inference_mode():
        layer = nn.Conv1d(64, 96, 3).eval()
        fast, _ = accelerate(layer, inplace=True)
        x = torch.randn(1, 64, 20)
        fast(x)
        pack = fast._pack
        fast(x)
        assert fast._pack is pack
        fast.weight[5, 5, 1] += 1
        torch.testing.assert_close(
            fast(x), nn.functional.conv1d(x, fast.weight, fast.bias), rtol=1e-5, atol=1e-5
        )


def test_a_copy_made_in_inference_mode_has_versions():
    torchs = exact(nn.Conv1d(64, 96, 3).eval())
    x = whole(1, 64, 20)
    with torch.inference_mode():
        fast, _ = accelerate(torchs)
        assert not fast.weight.is_inference() and fast.weight.requires_grad
        fast(x)
        assert not fast._pack.whole
        for m in (torchs, fast):
            m.weight.add_(1)
        assert torch.equal(fast(x), torchs(x))
        made = nn.Conv1d(64, 96, 3).eval()
        again, _ = accelerate(made)
        assert made.weight.is_inference() and not again.weight.is_inference()
        torch.testing.assert_close(again(x), made(x), rtol=1e-4, atol=1e-4)


def shared_writer(weight, go, done):
    go.wait()
    weight[1, 0, 0] = 5
    done.set()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_write_of_another_process_is_seen():
    context = multiprocessing.get_context("spawn")
    layer = exact(nn.Conv1d(4, 4, 3).eval())
    layer.share_memory()
    fast, _ = accelerate(layer, inplace=True)
    go, done = context.Event(), context.Event()
    array = torch.multiprocessing.get_context("spawn")
    process = array.Process(target=shared_writer, args=(layer.weight.detach(), go, done))
    process.start()
    x = whole(1, 4, 9)
    with torch.no_grad():
        fast(x)
        go.set()
        assert done.wait(60)
        process.join()
        assert fast.weight[1, 0, 0] == 5
        assert torch.equal(fast(x), nn.functional.conv1d(x, fast.weight, fast.bias))


@pytest.mark.parametrize("way", ["empty", "meta", "half", "parameter", "train"])
def test_old_weights_and_packs_are_freed(way):
    fast, _ = accelerate(nn.Conv1d(64, 96, 3).eval())
    with torch.no_grad():
        fast(torch.randn(1, 64, 20))
    pack, storage = fast._pack, weakref.ref(fast.weight.untyped_storage())
    prepared = pack.layer
    assert prepared is not None
    if way == "empty":
        fast.weight.data = torch.empty(0)
    elif way == "meta":
        fast.to("meta")
    elif way == "half":
        fast.half()
    elif way == "parameter":
        fast.weight = nn.Parameter(torch.zeros(96, 64, 3))
    else:
        fast.train()
        assert "_pack" not in vars(fast)
        return
    gc.collect()
    assert storage() is None
    assert pack.layer is None  # nothing is left but what this test holds


def test_numpy_integers_as_sizes():
    layer = nn.Conv1d(np.int64(8), np.int64(8), np.int64(3), stride=np.int64(2), groups=np.int64(2))
    fast, _ = accelerate(exact(layer).eval(), inplace=True)
    with torch.no_grad():
        x = whole(1, 8, 300_001)  # an output of 4.8 MB: one whose memory is used again
        assert torch.equal(fast(x), nn.functional.conv1d(x, fast.weight, fast.bias, 2, groups=2))
    assert type(fast._pack.layer).__name__ == "PreparedLayer"


def test_fingerprints():
    array = np.zeros((6, 5, 4), np.float32)
    base, seen = fingerprint((array,)), set()
    for i in range(array.size):
        for bit in (0, 22, 23, 31):
            other = array.copy()
            other.view(np.uint32).reshape(-1)[i] ^= np.uint32(1 << bit)
            seen.add(fingerprint((other,)))
    assert base not in seen and len(seen) > 0.9 * 4 * array.size
    random = np.random.default_rng(0).standard_normal((16, 16, 3))
    views = (random, -random, random.transpose(1, 0, 2), random[::-1], random[:, ::2], random.T)
    assert len({fingerprint((view,)) for view in views}) == len(views)
    assert len({fingerprint((view,), 8, 5) for view in views}) == len(views)
    assert fingerprint((random[:, ::2],)) == fingerprint((random.copy()[:, ::2],))
    assert fingerprint((random, random)) != fingerprint((random,))
    assert fingerprint((np.empty((0, 3)),)) != fingerprint((np.empty((3, 0)),))


# ---- the operators, called by hand --------------------------------------------------------------

X, W, B = (2, 4, 12), (6, 2, 3), (6,)
LAYER_CALLS = [  # shapes of input, weight and bias; stride, pad_left, dilation, groups, length
    ((X, W, (2,)), (1, 0, 1, 2, 10), ValueError, "bias to be 1-dimensional with 6 elements"),
    ((X, (6, 900, 3), None), (1, 0, 1, 1, 10), ValueError, "to have 900 channels"),
    ((X, (6, 2), None), (1, 0, 1, 2, 10), ValueError, "should have 3 dimensions"),
    ((X[1:], W, None), (1, 0, 1, 2, 10), ValueError, "should have 3 dimensions"),
    ((X, (5, 2, 3), None), (1, 0, 1, 2, 10), ValueError, "groups to divide 5"),
    ((X, W, None), (0, 0, 1, 2, 10), ValueError, "should be positive"),
    ((X, W, None), (1, -1, 1, 2, 10), ValueError, "pad_left not negative"),
    ((X, W, None), (1, 0, 2**62, 2, 10), ValueError, "at most"),
    ((X, W, None), (1, 0, 1, 0, 10), ValueError, "should be positive"),
    ((X, W, None), (1, 0, 1, 2, -1), ValueError, "length should be"),
    ((X, W, None), (2**30, 0, 1, 2, 2**20), ValueError, "length should be"),
]


def tensors(shapes, **kwargs):
    return tuple(None if shape is None else torch.ones(shape, **kwargs) for shape in shapes)


@pytest.mark.parametrize(("shapes", "numbers", "error", "text"), LAYER_CALLS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_operators_check_their_operands(shapes, numbers, error, text, device):
    with pytest.raises(error, match=text):
        torch.ops.fastconv1d.correlate(*tensors(shapes, device=device), *numbers)
    if text.startswith(("should", "pad", "at most")):
        with pytest.raises(error, match=text):
            torch.ops.fastconv1d.scatter(*tensors(shapes, device=device), *numbers)


def test_operators_check_types_and_gradients():
    ops = torch.ops.fastconv1d
    x, w = torch.ones(X), torch.ones(W)
    for first, second in ((x.double(), w), (x.half(), w.half()), (x.int(), w.int())):
        with pytest.raises(TypeError, match="all operands should be float32, or all float64"):
            ops.correlate(first, second, None, 1, 0, 1, 2, 10)
    with pytest.raises((TypeError, RuntimeError)):
        ops.correlate(x, w.to("meta"), None, 1, 0, 1, 2, 10)
    with pytest.raises(ValueError, match="the first agree"):
        ops.weight_gradient(torch.ones(3, 6, 10), x, 3, 1, 0, 1, 2)
    with pytest.raises(ValueError, match="groups=4 should divide"):
        ops.weight_gradient(torch.ones(2, 6, 10), x, 3, 1, 0, 1, 4)
    with pytest.raises(ValueError, match="kernel_size should be positive"):
        ops.weight_gradient(torch.ones(2, 6, 10), x, 0, 1, 0, 1, 2)
    assert torch.equal(ops.correlate(x, w, None, 1, 0, 1, 2, 10), torch.full((2, 6, 10), 6.0))
    assert torch.equal(
        ops.correlate(x[..., :0], w, torch.ones(6), 1, 1, 1, 2, 3), torch.ones(2, 6, 3)
    )


def test_saved_tensors_that_hooks_exchange():
    layer = nn.Conv1d(4, 6, 3)
    fast, _ = accelerate(layer)
    x = torch.randn(2, 4, 9, requires_grad=True)
    for unpack in (
        lambda t: t.double(),
        lambda t: t[..., :2],
        lambda t: t[:, :1],
        torch.Tensor.long,
    ):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach(), unpack):
            y = fast(x)
        with pytest.raises(RuntimeError):
            y.sum().backward()


# ---- restore and disabled -----------------------------------------------------------------------


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
def test_restore_is_the_inverse(norm, inplace):
    model = nn.Sequential(nn.Conv1d(4, 8, 3), nn.ReLU(), nn.ConvTranspose1d(8, 4, 2)).eval()
    model[0].register_forward_hook(print_nothing)
    if norm:
        nn.utils.parametrizations.weight_norm(model[0])
    before = [dict(vars(m)) for m in model], [type(m) for m in model]
    fast, _ = accelerate(model, inplace=inplace, algorithm="winograd")
    x = torch.randn(1, 4, 9)
    with torch.no_grad():
        expected = fast(x)
    back = restore(fast, inplace=inplace)
    assert (back is model) == inplace
    for module, attributes, cls in zip(back, *before, strict=True):
        assert type(module).__name__ == cls.__name__
        assert type(module).__mro__[norm:][:2] == cls.__mro__[norm:][:2] or norm
        assert vars(module).keys() == attributes.keys()
        assert not isinstance(module, layers.Fast)
    assert list(back.state_dict()) == list(model.state_dict())
    assert [*back[0]._forward_hooks.values()] == [print_nothing]
    with torch.no_grad():
        torch.testing.assert_close(back(x), expected)
    if not norm:
        assert [type(m) for m in back] == before[1]
        assert type(back[0]) is nn.Conv1d
        pickled = pickle.dumps(back)
        assert b"fastconv1d" not in pickled
        assert len(pickled) == len(pickle.dumps(restore(model)))
    with pytest.raises(TypeError, match=r"model should be a torch\.nn\.Module, got list"):
        restore([])


def print_nothing(*args):
    """A hook that pickles."""


def test_disabled_is_of_this_thread():
    torchs = nn.Conv1d(4, 8, 3).eval()
    fast, _ = accelerate(torchs)
    x, outputs = torch.randn(1, 4, 9), []

    def call():
        with torch.no_grad():
            outputs.append(fast(x))

    with disabled():
        with disabled():
            pass
        call()
        assert torch.equal(outputs[0], torchs(x))  # torch's own bits
        assert "_pack" not in vars(fast)
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    assert "_pack" in vars(fast)  # that thread packed
    torch.testing.assert_close(outputs[1], outputs[0])
    x.requires_grad_()
    y = fast(x)
    with disabled():
        assert type(fast(x).grad_fn).__name__ == "ConvolutionBackward0"
        y.sum().backward()
    assert type(fast(x).grad_fn).__name__ == "Fast_correlateBackward"
    expected = torch.autograd.grad(torchs(x).sum(), x)[0]
    torch.testing.assert_close(x.grad, expected)


def test_pickles_from_before_the_package_load():
    for name in ("FastConv1d", "FastConvTranspose1d", "_Pack"):
        cls = getattr(fastconv1d.torch, name)
        assert cls.__module__ == "fastconv1d.torch" and pickle.loads(pickle.dumps(cls)) is cls


# ---- the fuzz -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [300, pytest.param(20_000, marks=pytest.mark.soak)])
def test_mutated_modules(count):
    options = runner.Options(["mutated"], 11, memory=0, slow=5)
    assert runner.run(options, 0, count) == []
