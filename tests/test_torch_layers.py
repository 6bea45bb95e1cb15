"""torch's layers and whole networks of them: values, gradients, state dicts and text."""

import copy
import warnings

import numpy as np
import pytest

import fastconv1d

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

TOLERANCE = {"float32": 2e-6, "float64": 1e-12}


def close(found, expected, dtype="float32", factor=1):
    expected = np.asarray(expected)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    scale = max(1.0, float(np.abs(expected[np.isfinite(expected)]).max(initial=0)))
    tolerance = TOLERANCE[dtype] * factor * scale
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def signal(shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def copied(theirs, ours):
    """Load the state of a torch module, and return what the keys' report says."""
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    report = ours.load_state_dict(state)
    assert list(ours.state_dict()) == list(state)
    for key, value in ours.state_dict().items():
        assert value.dtype == state[key].dtype
        np.testing.assert_array_equal(value, state[key])
    return report


def pair(name, arguments, options, dtype="float32", scramble=True):
    """The layer in torch and here, with the same parameters."""
    torch.manual_seed(0)
    kind = getattr(nn, name)
    parametric = name in PARAMETRIC
    theirs = kind(*arguments, **options, **({"dtype": getattr(torch, dtype)} if parametric else {}))
    ours = getattr(fastconv1d, name)(
        *arguments, **options, **({"dtype": dtype} if parametric else {})
    )
    if scramble:
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            for buffer in theirs.buffers():
                if buffer.dtype.is_floating_point:
                    buffer.add_(torch.rand_like(buffer))
    copied(theirs, ours)
    return theirs.eval(), ours


PARAMETRIC = ("BatchNorm1d", "GroupNorm", "LayerNorm", "InstanceNorm1d", "Linear", "PReLU",
              "LSTM", "GRU")  # fmt: skip

POOLS = [
    ("MaxPool1d", (2,), {}), ("MaxPool1d", (3,), {"stride": 1, "padding": 1}),
    ("MaxPool1d", (3, 2), {"padding": 1, "ceil_mode": True}),
    ("MaxPool1d", (2, 3), {"dilation": 3}), ("MaxPool1d", (3, 2, 1, 2), {"ceil_mode": True}),
    ("MaxPool1d", (11, 4), {"padding": 5, "ceil_mode": True}), ("MaxPool1d", (1,), {}),
    ("AvgPool1d", (2,), {}), ("AvgPool1d", (3, 1), {"padding": 1}),
    ("AvgPool1d", (3, 2), {"padding": 1, "ceil_mode": True}),
    ("AvgPool1d", (3, 2), {"padding": 1, "ceil_mode": True, "count_include_pad": False}),
    ("AvgPool1d", (4, 3), {"padding": 2, "count_include_pad": False}),
    ("AvgPool1d", (9, 5), {"padding": 4, "ceil_mode": True}),
    ("AvgPool1d", (9, 5), {"padding": 4, "count_include_pad": False}),
    ("AvgPool1d", (12, 7), {"ceil_mode": True}),
    ("AdaptiveAvgPool1d", (1,), {}), ("AdaptiveAvgPool1d", (5,), {}),
    ("AdaptiveAvgPool1d", (40,), {}),
    ("AdaptiveMaxPool1d", (1,), {}), ("AdaptiveMaxPool1d", (5,), {}),
    ("AdaptiveMaxPool1d", (40,), {}),
]  # fmt: skip
NORMS = [
    ("BatchNorm1d", (6,), {}), ("BatchNorm1d", (6, 1e-3, 0.3), {"affine": False}),
    ("BatchNorm1d", (6,), {"track_running_stats": False}),
    ("BatchNorm1d", (6,), {"momentum": None}),
    ("GroupNorm", (2, 6), {}), ("GroupNorm", (6, 6), {"affine": False}),
    ("GroupNorm", (1, 6, 1e-2), {}), ("GroupNorm", (3, 6), {"bias": False}),
    ("BatchNorm1d", (6,), {"bias": False}),
    ("InstanceNorm1d", (6,), {"affine": True, "bias": False}),
    ("InstanceNorm1d", (6,), {}), ("InstanceNorm1d", (6,), {"affine": True}),
    ("InstanceNorm1d", (6,), {"affine": True, "track_running_stats": True}),
    ("LayerNorm", (25,), {}), ("LayerNorm", ((6, 25),), {}),
    ("LayerNorm", (25,), {"elementwise_affine": False}), ("LayerNorm", (25,), {"bias": False}),
]  # fmt: skip
OTHERS = [
    ("Linear", (25, 7), {}), ("Linear", (25, 1), {"bias": False}),
    ("Flatten", (), {}), ("Flatten", (0, 1), {}), ("Flatten", (-2,), {}),
    ("Upsample", (), {"scale_factor": 2}), ("Upsample", (50,), {}), ("Upsample", (11,), {}),
    ("Upsample", (), {"scale_factor": 1.7}), ("Upsample", (), {"scale_factor": 3.0}),
    ("Upsample", (), {"scale_factor": 2, "mode": "linear"}),
    ("Upsample", (61,), {"mode": "linear"}), ("Upsample", (13,), {"mode": "linear"}),
    ("Upsample", (61,), {"mode": "linear", "align_corners": True}),
    ("Upsample", (1,), {"mode": "linear", "align_corners": True}),
    ("Upsample", (), {"scale_factor": 1.7, "mode": "linear"}),
    ("Upsample", (), {"scale_factor": 1.7, "mode": "linear", "recompute_scale_factor": True}),
    ("Softmax", (), {"dim": 1}), ("Softmax", (), {"dim": -1}), ("Softmax", (), {"dim": 0}),
    ("PReLU", (), {}), ("PReLU", (6,), {"init": 0.1}),
    ("ReLU6", (), {}), ("Hardswish", (), {}), ("Mish", (), {}), ("Softplus", (), {}),
    ("Softplus", (2.0, 1.5), {}), ("GLU", (), {"dim": 1}), ("Dropout", (0.2,), {}),
    ("Identity", (), {}), ("ReLU", (), {}), ("GELU", ("tanh",), {}), ("ELU", (0.5,), {}),
]  # fmt: skip
LAYERS = POOLS + NORMS + OTHERS


def ids(layers):
    return [f"{n}{a}{o}".replace("'", "") for n, a, o in layers]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "arguments", "options"), LAYERS, ids=ids(LAYERS))
def test_values(name, arguments, options, dtype):
    theirs, ours = pair(name, arguments, options, dtype)
    assert repr(ours) == repr(theirs)
    for x in (signal((3, 6, 25), dtype), signal((3, 6, 50), dtype, 2)[:, :, ::-2]):
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = theirs(torch.from_numpy(np.ascontiguousarray(x))).numpy()
        found = ours(x)
        close(found, expected, dtype, 4)
        out = np.full_like(found, np.nan)
        if "out" in (type(ours).forward.__kwdefaults__ or {}):
            assert ours(x, out=out) is out
            np.testing.assert_array_equal(out, found)
        in_network = fastconv1d.Sequential(ours)(x)
        np.testing.assert_array_equal(in_network, found)


REPEATABLE = [layer for layer in LAYERS if layer[0] != "Dropout"]


@pytest.mark.parametrize(("name", "arguments", "options"), REPEATABLE, ids=ids(REPEATABLE))
def test_gradients(name, arguments, options):
    theirs, ours = pair(name, arguments, options, "float64")
    theirs.train(), ours.train()
    x = signal((3, 6, 25), "float64")
    tracked = torch.from_numpy(x.copy()).requires_grad_()
    expected = theirs(tracked)
    found = ours(x)
    close(found, expected.detach().numpy(), "float64", 4)
    g = signal(tuple(expected.shape), "float64", 5)
    if expected.grad_fn is not None:
        expected.backward(torch.from_numpy(g))
        close(ours.backward(g), tracked.grad.numpy(), "float64", 20)
        gradients = dict(ours.named_gradients())
        assert list(gradients) == [key for key, _ in theirs.named_parameters()]
        for key, parameter in theirs.named_parameters():
            close(gradients[key], parameter.grad.numpy(), "float64", 50)
    for key, buffer in theirs.named_buffers():
        close(ours.state_dict()[key], buffer.numpy(), "float64")
    alone = copy.deepcopy(ours).eval()
    close(alone(x), theirs.eval()(torch.from_numpy(x)).detach().numpy(), "float64", 4)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics(momentum):
    theirs = nn.BatchNorm1d(4, momentum=momentum, dtype=torch.float64)
    ours = fastconv1d.BatchNorm1d(4, momentum=momentum, dtype=np.float64).train()
    for seed, shape in enumerate([(3, 4, 7), (2, 4), (1, 4, 2), (5, 4, 1)]):
        x = signal(shape, "float64", seed)
        close(ours(x), theirs(torch.from_numpy(x)).detach().numpy(), "float64")
    for key, buffer in theirs.named_buffers():
        close(ours.state_dict()[key], buffer.numpy(), "float64")
    assert ours.eval().num_batches_tracked == 4
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        ours.train()(signal((1, 4), "float64"))


def test_indices_of_the_largest():
    for arguments in [(3, 2, 1), (2, 2, 0, 3), (5, 1, 2), (2,)]:
        theirs = nn.MaxPool1d(*arguments, return_indices=True)
        ours = fastconv1d.MaxPool1d(*arguments, return_indices=True)
        x = signal((2, 3, 24))
        x[0, 0, 5] = np.nan
        x[1, 1] = -np.inf
        x[1, 2] = 1
        parts = nn.AdaptiveMaxPool1d(5, return_indices=True)(torch.from_numpy(x))
        same = fastconv1d.AdaptiveMaxPool1d(5, return_indices=True)(x)
        for part, expected in zip(same, parts, strict=True):
            np.testing.assert_array_equal(part, expected.numpy())
        found, indices = ours(x)
        expected, places = theirs(torch.from_numpy(x))
        np.testing.assert_array_equal(found, expected.numpy())
        np.testing.assert_array_equal(indices, places.numpy())
        assert indices.dtype == np.int64


RECURRENT = [
    {}, {"num_layers": 2}, {"bidirectional": True}, {"bias": False},
    {"batch_first": True, "num_layers": 3, "bidirectional": True, "dropout": 0.2},
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("hidden", [1, 7, 40])
@pytest.mark.parametrize("options", [*RECURRENT, {"proj_size": 3, "num_layers": 2}], ids=str)
@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_recurrent(name, options, hidden, dtype):
    if "proj_size" in options and (name == "GRU" or hidden <= 3):
        return
    theirs, ours = pair(name, (5, hidden), options, dtype)
    assert repr(ours) == repr(theirs)
    for shape in ((9, 4, 5), (1, 1, 5), (6, 5)):
        x = signal(shape, dtype)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of projections, from oneDNN
            expected, last = theirs(torch.from_numpy(x))
        found, ends = ours(x)
        close(found, expected.numpy(), dtype, 4)
        last, ends = (last, ends) if name == "LSTM" else ((last,), (ends,))
        for state, end in zip(last, ends, strict=True):
            close(end, state.numpy(), dtype, 4)
        # go on from there
        with torch.no_grad():
            given = tuple(last) if name == "LSTM" else last[0]
            more, _ = theirs(torch.from_numpy(x), given)
        again, _ = ours(x, tuple(ends) if name == "LSTM" else ends[0])
        close(again, more.numpy(), dtype, 4)
        np.testing.assert_array_equal(fastconv1d.Sequential(ours)(x), found)


# ---- whole networks ------------------------------------------------------------------------------


def classifier(m):
    return m.Sequential(
        m.Conv1d(12, 16, 7, padding=3, bias=False),
        m.BatchNorm1d(16),
        m.ReLU(inplace=True),
        m.MaxPool1d(2),
        m.Conv1d(16, 24, 5, stride=2),
        m.BatchNorm1d(24),
        m.ReLU(inplace=True),
        m.Dropout(0.3),
        m.AdaptiveAvgPool1d(1),
        m.Flatten(),
        m.Linear(24, 16),
        m.PReLU(16),
        m.Linear(16, 5),
        m.Softmax(dim=1),
    )


class Exchange(nn.Module):
    """torch has no module for x.transpose."""

    def forward(self, x):
        return x.transpose(1, 2)


class Skip(nn.Module):
    """The input added to what a branch makes of it."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


class Joined(nn.Module):
    """The input beside what a branch makes of it."""

    def __init__(self, *branches):
        super().__init__()
        for i, branch in enumerate(branches):
            self.add_module(str(i), branch)

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.children()], dim=1)


class Gated(nn.Module):
    """WaveNet's activation of the halves."""

    def forward(self, x):
        a, b = x.chunk(2, dim=1)
        return torch.tanh(a) * torch.sigmoid(b)


class Last(nn.Module):
    """The last step of the output of a recurrent layer."""

    def forward(self, x):
        return x[0][:, -1]


def tcn_block(channels, dilation, theirs):
    m = nn if theirs else fastconv1d
    layers = [
        m.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation),
        Exchange() if theirs else fastconv1d.Transpose(1, 2),
        m.LayerNorm(channels),
        Exchange() if theirs else fastconv1d.Transpose(1, 2),
        m.GELU(),
        m.Conv1d(channels, channels, 1),
    ]
    if theirs:
        return Skip(nn.Sequential(*layers))
    return fastconv1d.Residual({"inner": fastconv1d.Sequential(*layers)})


def tcn(theirs):
    m = nn if theirs else fastconv1d
    blocks = [tcn_block(12, 2**i, theirs) for i in range(3)]
    return m.Sequential(m.Conv1d(12, 12, 1), *blocks, m.Conv1d(12, 3, 1))


def unet(theirs):
    m = nn if theirs else fastconv1d
    join = Joined if theirs else fastconv1d.Concat

    def double(c_in, c_out):
        return m.Sequential(
            m.Conv1d(c_in, c_out, 3, padding=1), m.BatchNorm1d(c_out), m.Mish(),
            m.Conv1d(c_out, c_out, 3, padding=1), m.GroupNorm(2, c_out), m.Hardswish(),
        )  # fmt: skip

    inner = m.Sequential(m.MaxPool1d(2), double(16, 32), m.Upsample(scale_factor=2, mode="linear"))
    middle = m.Sequential(
        m.AvgPool1d(2), double(8, 16), join(m.Identity(), inner), double(48, 16),
        m.ConvTranspose1d(16, 8, 2, 2),
    )  # fmt: skip
    return m.Sequential(double(12, 8), join(m.Identity(), middle), double(16, 8), m.Conv1d(8, 1, 1))


class WaveNet(nn.Module):
    """Gated, dilated layers with residual and skip connections, as one writes it in torch."""

    def __init__(self):
        super().__init__()
        self.start = nn.Conv1d(12, 8, 1)
        self.dilated = nn.ModuleList(nn.Conv1d(8, 16, 2, dilation=2**i) for i in range(4))
        self.residual = nn.ModuleList(nn.Conv1d(8, 8, 1) for _ in range(3))
        self.skip = nn.ModuleList(nn.Conv1d(8, 6, 1) for _ in range(4))
        self.end = nn.Conv1d(6, 4, 1)

    def forward(self, x):
        x, skips = self.start(x), 0
        for i, dilated in enumerate(self.dilated):
            a, b = dilated(nn.functional.pad(x, (2**i, 0))).chunk(2, dim=1)
            z = torch.tanh(a) * torch.sigmoid(b)
            skips = skips + self.skip[i](z)
            if i < 3:
                x = x + self.residual[i](z)
        return self.end(torch.relu(skips))


def wavenet(theirs):
    if theirs:
        return WaveNet()
    m = fastconv1d
    nodes = {"start": m.Conv1d(12, 8, 1)}
    source = "start"
    for i in range(4):
        causal = m.Conv1d(8, 16, 2, padding="causal", dilation=2**i)
        nodes[f"dilated.{i}"] = causal, source
        nodes[f"z{i}"] = m.Gate()
        nodes[f"skip.{i}"] = m.Conv1d(8, 6, 1), f"z{i}"
        if i < 3:
            nodes[f"residual.{i}"] = m.Conv1d(8, 8, 1), f"z{i}"
            nodes[f"x{i}"] = m.Sum(), source, f"residual.{i}"
            source = f"x{i}"
    nodes["skips"] = m.Sum(), *(f"skip.{i}" for i in range(4))
    return m.Graph({**nodes, "relu": m.ReLU(), "end": m.Conv1d(6, 4, 1)})


def gated(theirs):
    m = nn if theirs else fastconv1d
    layers = [m.Conv1d(12, 24, 3, padding=1), Gated() if theirs else m.Gate(),
              m.InstanceNorm1d(12, affine=True), m.Conv1d(12, 12, 3, padding=1), m.GLU(1),
              m.Conv1d(6, 12, 1)]  # fmt: skip
    inner = m.Sequential(*layers)
    return m.Sequential(Skip(inner) if theirs else m.Residual({"inner": inner}), m.Softplus())


def crnn(theirs, kind="GRU"):
    m = nn if theirs else fastconv1d
    return m.Sequential(
        m.Conv1d(12, 16, 5, padding=2), m.BatchNorm1d(16), m.ReLU6(), m.MaxPool1d(4),
        Exchange() if theirs else m.Transpose(1, 2),
        getattr(m, kind)(16, 10, 2, batch_first=True, bidirectional=True),
        Last() if theirs else m.Select(1, -1),
        m.Linear(20, 3),
    )  # fmt: skip


NETWORKS = {
    "classifier": lambda theirs: classifier(nn if theirs else fastconv1d),
    "tcn": tcn,
    "unet": unet,
    "wavenet": wavenet,
    "gated": gated,
    "gru": crnn,
    "lstm": lambda theirs: crnn(theirs, "LSTM"),
}


def networks(name):
    torch.manual_seed(1)
    theirs, ours = NETWORKS[name](True), NETWORKS[name](False)
    with torch.no_grad():
        for _ in range(3):  # running statistics
            theirs(torch.randn(4, 12, 96))
    if name == "wavenet":
        state = {key: value.numpy() for key, value in theirs.state_dict().items()}
        ours.load_state_dict(state)
    else:
        copied(theirs, ours)
    return theirs.eval(), ours


@pytest.mark.parametrize("length", [96, 64, 200])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, length):
    theirs, ours = networks(name)
    x = signal((3, 12, length))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x)).numpy()
    found = ours(x)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)
    out = np.empty_like(found)
    assert ours(x, out=out) is out
    np.testing.assert_array_equal(out, found)
    with fastconv1d.num_threads(2):
        np.testing.assert_array_equal(ours(x), found)
    np.testing.assert_array_equal(ours(x[1:2])[0], found[1])  # bits do not depend on the batch


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in ("gru", "lstm")])
def test_training_of_networks(name):
    theirs, ours = networks(name)
    theirs, ours = theirs.double(), NETWORKS[name](False)
    ours = _doubled(theirs, name)
    theirs.train(), ours.train()
    for layer in theirs.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    x = signal((3, 12, 64), "float64")
    tracked = torch.from_numpy(x.copy()).requires_grad_()
    expected = theirs(tracked)
    found = ours(x)
    close(found, expected.detach().numpy(), "float64", 100)
    g = signal(found.shape, "float64", 3)
    expected.backward(torch.from_numpy(g))
    close(ours.backward(g), tracked.grad.numpy(), "float64", 1000)
    gradients = dict(ours.named_gradients())
    theirs_by_key = dict(theirs.named_parameters())
    assert set(gradients) == set(theirs_by_key)
    for key, gradient in gradients.items():
        close(gradient, theirs_by_key[key].grad.numpy(), "float64", 1000)


def _doubled(theirs, name):
    """The network here in float64: its layers made again with dtype=float64."""
    kinds = (*PARAMETRIC, "Conv1d", "ConvTranspose1d")
    originals = {kind: getattr(fastconv1d, kind) for kind in kinds}
    try:
        for kind, original in originals.items():
            setattr(fastconv1d, kind, _with_dtype(original))
        fastconv1d.Dropout, dropout = _without_effect, fastconv1d.Dropout
        ours = NETWORKS[name](False)
    finally:
        for kind, original in originals.items():
            setattr(fastconv1d, kind, original)
        fastconv1d.Dropout = dropout
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    return ours


def _with_dtype(kind):
    return lambda *arguments, **options: kind(*arguments, **options, dtype=np.float64)


def _without_effect(p):
    return fastconv1d.Identity()


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"scale_factor": 2.1, "mode": "nearest"}, 4),
        ({"scale_factor": 2.0, "mode": "nearest"}, 5),
        ({"scale_factor": 1.1, "mode": "linear"}, 4),
        ({"scale_factor": 1.1, "mode": "linear", "align_corners": True}, 4),
        ({"size": 8, "mode": "nearest"}, 4),
        ({"size": 5, "mode": "linear"}, 5),
    ],
)
def test_upsampling_by_factors_that_are_no_whole_numbers(options, size):
    x = signal((2, 3, size))
    expected = nn.Upsample(**options)(torch.from_numpy(x)).numpy()
    close(fastconv1d.Upsample(**options)(x), expected)


@pytest.mark.parametrize("options", [(20, 18, 3), (7, 3, 3), (5, 4, 0), (9, 9, 4)])
@pytest.mark.parametrize("length", [5, 6, 9, 20])
def test_last_windows_of_ceil_mode(options, length):
    x = signal((2, 3, length))
    for name in ("AvgPool1d", "MaxPool1d"):
        expected = getattr(nn, name)(*options, ceil_mode=True)(torch.from_numpy(x)).numpy()
        close(getattr(fastconv1d, name)(*options, ceil_mode=True)(x), expected)
