"""Networks as both of torch's exporters write them, run at other lengths and batches."""

import io
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.nn.utils import parametrizations  # noqa: E402

from fastconv1d.onnx import from_onnx  # noqa: E402

C, LENGTH = 4, 48


class Fn(nn.Module):
    """A function of x and of layers, as a module."""

    def __init__(self, function, *layers):
        super().__init__()
        self.layers, self.function = nn.ModuleList(layers), function

    def forward(self, x):
        return self.function(x, *self.layers)


def conv(c_in=C, c_out=C, k=3, **kwargs):
    kwargs.setdefault("padding", (k - 1) * kwargs.get("dilation", 1) // 2)
    return nn.Conv1d(c_in, c_out, k, **kwargs)


def after_conv(*layers):
    return nn.Sequential(conv(), *layers)


def norm(module):
    """Give batch norms statistics of their own."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
        if getattr(layer, "affine", False) or isinstance(layer, (nn.LayerNorm, nn.GroupNorm)):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return module


def swapped(layer):
    return Fn(lambda x, layer: layer(x.transpose(1, 2)).transpose(1, 2), layer)


def residual(*layers):
    return Fn(lambda x, body: x + body(x), nn.Sequential(*layers))


class Chomp(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.n = n

    def forward(self, x):
        return x[:, :, : -self.n]


def tcn(dilation):
    body = [
        parametrizations.weight_norm(conv(k=3, padding=2 * dilation, dilation=dilation)),
        Chomp(2 * dilation),
        nn.ReLU(),
        nn.Dropout(0.2),
    ]
    return Fn(lambda x, body: F.relu(x + body(x)), nn.Sequential(*body))


class WaveNet(nn.Module):
    def __init__(self, chunked):
        super().__init__()
        self.chunked = chunked
        self.gates = nn.ModuleList(conv(C, 2 * C, 2, padding=0, dilation=d) for d in (1, 2, 4))
        self.outs = nn.ModuleList(conv(C, C, 1) for _ in range(3))
        self.skips = nn.ModuleList(conv(C, C, 1) for _ in range(3))

    def forward(self, x):
        total = 0
        for gate, out, skip in zip(self.gates, self.outs, self.skips, strict=True):
            z = gate(F.pad(x, (gate.dilation[0], 0)))
            a, b = z.chunk(2, 1) if self.chunked else (z[:, :C], z[:, C:])
            h = torch.tanh(a) * torch.sigmoid(b)
            x, total = x + out(h), total + skip(h)
        return F.relu(total)


class Snake(nn.Module):
    def __init__(self):
        super().__init__()
        self.alpha = nn.Parameter(torch.rand(1, C, 1) + 0.5)

    def forward(self, x):
        return x + (self.alpha + 1e-9).reciprocal() * torch.sin(self.alpha * x).pow(2)


class HiFiGan(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = parametrizations.weight_norm(nn.ConvTranspose1d(C, C, 4, 2, 1))
        self.blocks = nn.ModuleList(
            parametrizations.weight_norm(conv(k=3, dilation=d)) for d in (1, 3)
        )
        self.out = conv(C, 1, 7)

    def forward(self, x):
        x = self.up(F.leaky_relu(x, 0.1))
        for block in self.blocks:
            x = x + block(F.leaky_relu(x, 0.1))
        return torch.tanh(self.out(F.leaky_relu(x)))


class ConvTasNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Conv1d(C, 8, 4, 2, bias=False)
        self.norm = nn.GroupNorm(1, 8)
        self.body = nn.Sequential(
            conv(8, 16, 1), nn.PReLU(), nn.GroupNorm(1, 16), conv(16, 16, 3, groups=16), nn.PReLU()
        )
        self.mask = conv(16, 8, 1)
        self.decoder = nn.ConvTranspose1d(8, C, 4, 2, bias=False)

    def forward(self, x):
        w = F.relu(self.encoder(x))
        return self.decoder(w * torch.sigmoid(self.mask(self.body(self.norm(w)))))


class Demucs(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv1d(C, 8, 8, 4), nn.ReLU(), conv(8, 16, 1), nn.GLU(1))
        self.lstm = nn.LSTM(8, 4, bidirectional=True)
        self.up = nn.Sequential(conv(8, 16, 3), nn.GLU(1), nn.ConvTranspose1d(8, C, 8, 4))

    def forward(self, x):
        x = self.down(x)
        return self.up(x + self.lstm(x.permute(2, 0, 1))[0].permute(1, 2, 0))


class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.neck = conv(C, 2, 1, bias=False)
        self.convs = nn.ModuleList(conv(2, 2, k, bias=False) for k in (3, 7, 11))
        self.pool = nn.Sequential(nn.MaxPool1d(3, 1, 1), conv(C, 2, 1, bias=False))
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        z = self.neck(x)
        return F.relu(self.norm(torch.cat([*(c(z) for c in self.convs), self.pool(x)], 1)))


class SqueezeExcite(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.net = nn.Sequential(
            nn.AdaptiveAvgPool1d(1), nn.Conv1d(c, 2, 1), nn.ReLU(), nn.Conv1d(2, c, 1), nn.Sigmoid()
        )

    def forward(self, x):
        return x * self.net(x)


class Ecapa(nn.Module):
    def __init__(self):
        super().__init__()
        self.start = nn.Sequential(conv(C, 8, 5), nn.ReLU(), nn.BatchNorm1d(8))
        self.parts = nn.ModuleList(conv(2, 2, 3) for _ in range(3))
        self.se = SqueezeExcite(8)
        self.attention = nn.Sequential(conv(24, 4, 1), nn.Tanh(), conv(4, 8, 1))
        self.norm, self.end = nn.BatchNorm1d(16), nn.Linear(16, 5)

    def forward(self, x):
        x = self.start(x)
        parts = list(x.chunk(4, 1))
        for i, part in enumerate(self.parts, 1):
            parts[i] = F.relu(part(parts[i] + (parts[i - 1] if i > 1 else 0)))
        x = x + self.se(torch.cat(parts, 1))
        mean, deviation = x.mean(2, keepdim=True), x.var(2, keepdim=True).clamp(1e-6).sqrt()
        both = torch.cat([x, mean.expand_as(x), deviation.expand_as(x)], 1)
        w = self.attention(both).softmax(2)
        mean = (x * w).sum(2)
        deviation = ((x * x * w).sum(2) - mean**2).clamp(1e-6).sqrt()
        return self.end(self.norm(torch.cat([mean, deviation], 1)))


def separable(c_in, c_out, k, **kwargs):
    return nn.Sequential(
        conv(c_in, c_in, k, groups=c_in, bias=False, **kwargs),
        conv(c_in, c_out, 1, bias=False),
        nn.BatchNorm1d(c_out),
    )


class UNet(nn.Module):
    def __init__(self, mode):
        super().__init__()
        self.mode = mode
        self.a, self.b = after_conv(nn.ReLU()), nn.Sequential(conv(C, 8), nn.ReLU())
        self.c = nn.Sequential(conv(8, 8), nn.ReLU())
        self.up = nn.ConvTranspose1d(8, 8, 2, 2)
        self.d = nn.Sequential(conv(8 + C, C), nn.BatchNorm1d(C), nn.ReLU(), conv(C, 1, 1))

    def forward(self, x):
        a = self.a(x)
        b = self.c(self.b(F.max_pool1d(a, 2)))
        up = self.up(b) if self.mode is None else F.interpolate(b, scale_factor=2, mode=self.mode)
        return self.d(torch.cat([a, up], 1))


class Conformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.n1, self.n2, self.n3 = nn.LayerNorm(8), nn.LayerNorm(8), nn.LayerNorm(8)
        self.start = conv(C, 8, 1)
        self.ff = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.point, self.depth = conv(8, 16, 1), conv(8, 8, 7, groups=8)
        self.bn, self.end = nn.BatchNorm1d(8), conv(8, 8, 1)

    def forward(self, x):
        x = self.start(x).transpose(1, 2)
        x = x + 0.5 * self.ff(self.n1(x))
        y = self.n2(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        y = F.glu(self.point(self.n3(x).transpose(1, 2)), 1)
        return x + self.end(F.silu(self.bn(self.depth(y)))).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(C, 3 * C), nn.Linear(C, C)

    def forward(self, x):
        x = x.transpose(1, 2)
        n, length, c = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        w = (q @ k.transpose(-1, -2) * (c // 2) ** -0.5).softmax(-1)
        return self.out((w @ v).transpose(1, 2).reshape(n, length, c))


class Mamba(nn.Module):
    """The block without its scan: causal depthwise convolution, gates, and a norm."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(C, 16)
        self.conv = nn.Conv1d(8, 8, 4, padding=3, groups=8)
        self.outer, self.weight = nn.Linear(8, C), nn.Parameter(torch.rand(C))

    def forward(self, x):
        x = x.transpose(1, 2)
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight
        a, z = self.inner(y).chunk(2, -1)
        a = F.silu(self.conv(a.transpose(1, 2))[..., : a.shape[1]]).transpose(1, 2)
        return x + self.outer(a * F.silu(z))


class Wav2Vec(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv1d(C, 8, 5, 2, bias=False), nn.Conv1d(8, 8, 3, 2)])
        self.group, self.norm = nn.GroupNorm(8, 8), nn.LayerNorm(8)
        self.position = parametrizations.weight_norm(conv(8, 8, 4, padding=2, groups=2), dim=2)

    def forward(self, x):
        x = F.gelu(self.group(self.convs[0](x)))
        x = F.gelu(self.convs[1](x)).transpose(1, 2)
        x = self.norm(x)
        return x + F.gelu(self.position(x.transpose(1, 2))[:, :, :-1]).transpose(1, 2)


class Silero(nn.Module):
    def __init__(self):
        super().__init__()
        self.basis = nn.Conv1d(1, 10, 8, 4, bias=False)
        self.encoder = nn.Sequential(conv(5, 8), nn.ReLU(), conv(8, 8, 3, stride=2), nn.ReLU())
        self.gru, self.end = nn.GRU(8, 6, batch_first=True), conv(6, 1, 1)

    def forward(self, x):
        z = self.basis(F.pad(x[:, :1], (0, 4), mode="reflect"))
        z = torch.sqrt(z[:, :5] ** 2 + z[:, 5:] ** 2)
        y = self.gru(self.encoder(z).permute(0, 2, 1))[0].permute(0, 2, 1)
        return torch.sigmoid(self.end(F.relu(y))).mean(2)


class Stft(nn.Module):
    """Spectra by a convolution of two dimensions, and a CNN of a kernel of 3 x 3."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, (3, 3), (2, 1), (1, 0))
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return self.b(F.elu(self.norm(self.a(x[:, None])))).flatten(1, 2)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            conv(C, 8, 3, stride=2, bias=False),
            nn.BatchNorm1d(8),
            nn.ReLU(inplace=True),
            conv(8, 8, 3, bias=False),
            nn.BatchNorm1d(8),
        )
        self.short = nn.Sequential(nn.Conv1d(C, 8, 1, 2, bias=False), nn.BatchNorm1d(8))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.body(x) + self.short(x))
        return self.head(F.adaptive_avg_pool1d(x, 1).squeeze(-1))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.start, self.rnn = conv(), kind(C, 6, 2, batch_first=True)

    def forward(self, x):
        return self.rnn(self.start(x).transpose(1, 2))[0]


ACTIVATIONS = [
    nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.2), nn.PReLU(), nn.PReLU(C), nn.ELU(0.7), nn.CELU(0.8),
    nn.SELU(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Mish(), nn.Hardswish(), nn.Hardsigmoid(),
    nn.Hardtanh(), nn.Softplus(), nn.Softsign(), nn.Sigmoid(), nn.Tanh(), nn.LogSigmoid(),
    nn.Softmax(1), nn.LogSoftmax(1), nn.GLU(1), Snake(), nn.Threshold(0.1, 0.2),
]  # fmt: skip
NORMS = [
    nn.BatchNorm1d(C), nn.BatchNorm1d(C, affine=False), nn.InstanceNorm1d(C),
    nn.InstanceNorm1d(C, affine=True), nn.GroupNorm(2, C), nn.GroupNorm(1, C),
    swapped(nn.LayerNorm(C)), swapped(nn.RMSNorm(C)),
]  # fmt: skip
PADS = [
    conv(k=5, padding_mode="reflect"), conv(k=5, padding_mode="replicate"),
    conv(k=5, padding_mode="circular"), conv(k=4, padding="same"),
    Fn(lambda x, layer: layer(F.pad(x, (2, 0))), nn.Conv1d(C, C, 3)),
    Fn(lambda x, layer: layer(F.pad(x, (1, 3), value=0.5)), nn.Conv1d(C, C, 3)),
    Fn(lambda x, layer: layer(x)[..., :-3], nn.Conv1d(C, C, 4, padding=3)),
    Fn(lambda x, layer: layer(x)[..., 1:-2], nn.ConvTranspose1d(C, C, 4, 2)),
]  # fmt: skip
POOLS = [
    nn.MaxPool1d(3, 2, 1), nn.AvgPool1d(4), nn.AvgPool1d(3, 2, 1), nn.AdaptiveAvgPool1d(1),
    nn.AdaptiveMaxPool1d(1), nn.Upsample(scale_factor=2),
    nn.Upsample(scale_factor=2, mode="linear"), nn.LPPool1d(2, 3),
]  # fmt: skip

NETWORKS = {
    **{f"activation-{i}-{type(a).__name__}": after_conv(a) for i, a in enumerate(ACTIVATIONS)},
    **{f"norm-{i}-{type(n).__name__}": after_conv(n) for i, n in enumerate(NORMS)},
    **{f"pad-{i}": p for i, p in enumerate(PADS)},
    **{f"pool-{i}-{type(p).__name__}": after_conv(p, conv()) if i not in (3, 4) else after_conv(p)
       for i, p in enumerate(POOLS)},
    "weight-norm": nn.Sequential(
        parametrizations.weight_norm(conv()),
        parametrizations.weight_norm(nn.ConvTranspose1d(C, C, 4, 2)),
    ),
    "tcn": nn.Sequential(*(tcn(d) for d in (1, 2, 4)), conv(C, 2, 1)),
    "wavenet": WaveNet(True),
    "wavenet-sliced": WaveNet(False),
    "hifigan": HiFiGan(),
    "conv-tasnet": ConvTasNet(),
    "demucs": Demucs(),
    "resnet": ResNet(),
    "inception-time": Inception(),
    "ecapa": Ecapa(),
    "quartznet": residual(separable(C, 8, 5), nn.ReLU(), separable(8, C, 7, dilation=2)),
    "matchboxnet": nn.Sequential(
        separable(C, 8, 5), nn.ReLU(), separable(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3), nn.LogSoftmax(-1),
    ),
    "conformer": Conformer(),
    "attention": nn.Sequential(conv(), Attention()),
    "unet": UNet(None),
    "unet-nearest": UNet("nearest"),
    "unet-linear": UNet("linear"),
    "wav2vec": Wav2Vec(),
    "silero": Silero(),
    "mamba": Mamba(),
    "stft-cnn": Stft(),
    "squeeze-excite": nn.Sequential(conv(C, 8), SqueezeExcite(8)),
    "snake": nn.Sequential(conv(), Snake(), conv(k=7), Snake()),
    "lstm": Recurrent(nn.LSTM),
    "gru": Recurrent(nn.GRU),
    "rnn": Recurrent(nn.RNN),
    "pixel-shuffle": Fn(
        lambda x, layer: layer(x).unflatten(1, (C, 2)).permute(0, 1, 3, 2).flatten(2),
        conv(C, 2 * C),
    ),
    "classifier": nn.Sequential(
        conv(C, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2), nn.Dropout(), conv(8, 8),
        nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(32, 5), nn.Softmax(-1),
    ),
    "linear-chain": swapped(nn.Sequential(nn.Linear(C, 8), nn.GELU(), nn.Linear(8, C))),
}  # fmt: skip
# What torch's exporters cannot write, or not for any length or batch.
FIXED_LENGTH = {"classifier", "rnn"}
FIXED_SIZES = {("conformer", "classic")}
NOT_EXPORTED = {
    ("norm-7-Fn", "classic"),  # RMSNorm
    ("activation-24-Threshold", "classic"),
    ("silero", "dynamo"),  # its GRU of any length
}


def exported(network, x, dynamo, fixed):
    network = norm(network).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            auto = torch.export.Dim.AUTO
            dims = {0: auto} if fixed else {0: auto, 2: auto}
            program = torch.onnx.export(
                network, (x,), dynamo=True, dynamic_shapes=(dims,), verbose=False, input_names=["x"]
            )
            return program.model_proto.SerializeToString()
        stream = io.BytesIO()
        axes = {0: "n"} | ({} if fixed else {2: "length"})
        torch.onnx.export(
            network, (x,), stream, dynamo=False, input_names=["x"], dynamic_axes={"x": axes}
        )
        return stream.getvalue()


CASES = [
    (name, exporter)
    for name in NETWORKS
    for exporter in ("classic", "dynamo")
    if (name, exporter) not in NOT_EXPORTED
]


@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_network(name, exporter):
    torch.manual_seed(0)
    network = NETWORKS[name]
    fixed = name in FIXED_LENGTH or (name, exporter) in FIXED_SIZES
    data = exported(network, torch.randn(2, C, LENGTH), exporter == "dynamo", fixed)
    model = from_onnx(data)
    batches = (2, 2, 2) if (name, exporter) in FIXED_SIZES else (2, 1, 3)
    for n, length in zip(batches, (LENGTH, LENGTH, LENGTH if fixed else 64), strict=True):
        x = torch.randn(n, C, length)
        with torch.no_grad():
            wanted = network(x).numpy()
        found = model(x.numpy())
        assert found.shape == wanted.shape and found.dtype == wanted.dtype
        np.testing.assert_array_equal(model(x.numpy()), found)  # with what the first call left
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_there_are_enough():
    assert len(NETWORKS) >= 60
