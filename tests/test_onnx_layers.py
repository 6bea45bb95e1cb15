"""to_onnx of all layers that a network can hold, against ONNX Runtime, and from_onnx of that."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

import fastconv1d as f  # noqa: E402
from fastconv1d.onnx import OnnxError, from_onnx, to_onnx  # noqa: E402


def rng():
    return np.random.default_rng(0)


def trained(layer):
    """The layer with other parameters and buffers than a new one's."""
    drawn = rng()
    state = {
        key: drawn.random(value.shape) + 0.5 if value.dtype.kind == "f" else value
        for key, value in layer.state_dict().items()
    }
    layer.load_state_dict(state)
    return layer


def conv(*arguments, **options):
    return f.Conv1d(*arguments, rng=rng(), **options)


INNER = {  # of (N, 6, L)
    "max pool": f.MaxPool1d(3, 2, 1, ceil_mode=True),
    "dilated max pool": f.MaxPool1d(2, 1, dilation=3),
    "average pool": f.AvgPool1d(3, 2, 1),
    "average pool, pads left out": f.AvgPool1d(4, 3, 2, ceil_mode=True, count_include_pad=False),
    "to one": f.AdaptiveAvgPool1d(1),
    "to the largest": f.AdaptiveMaxPool1d(1),
    "batch norm": trained(f.BatchNorm1d(6)),
    "plain batch norm": trained(f.BatchNorm1d(6, affine=False)),
    "group norm": trained(f.GroupNorm(2, 6)),
    "instance norm": trained(f.InstanceNorm1d(6, affine=True)),
    "plain instance norm": f.InstanceNorm1d(6),
    "tracking instance norm": trained(f.InstanceNorm1d(6, track_running_stats=True)),
    "layer norm": f.Sequential(f.Transpose(1, 2), trained(f.LayerNorm(6)), f.Transpose(1, 2)),
    "plain layer norm": f.Sequential(
        f.Transpose(1, 2), f.LayerNorm(6, elementwise_affine=False), f.Transpose(1, 2)
    ),
    "linear": f.Sequential(f.Transpose(1, 2), f.Linear(6, 3, rng=rng()), f.ReLU()),
    "linear without bias": f.Sequential(f.Transpose(1, 2), f.Linear(6, 3, False, rng=rng())),
    "head": f.Sequential(
        f.AdaptiveAvgPool1d(1), f.Flatten(), f.Linear(6, 4, rng=rng()),
        trained(f.PReLU(4)), trained(f.BatchNorm1d(4)), trained(f.GroupNorm(2, 4)),
        f.Softmax(1),
    ),
    "nearest": f.Upsample(scale_factor=3),
    "linear up": f.Upsample(scale_factor=2, mode="linear"),
    "corners": f.Upsample(scale_factor=2, mode="linear", align_corners=True),
    "to a size": f.Upsample(31, mode="linear"),
    "softmax": f.Softmax(1),
    "prelu": trained(f.PReLU(6)),
    "one prelu": f.PReLU(),
    "relu6": f.ReLU6(),
    "hardswish": f.Hardswish(),
    "mish": f.Mish(),
    "softplus": f.Softplus(),
    "bent softplus": f.Softplus(2.0),
    "softplus with a threshold": f.Softplus(2.0, 0.5),
    "glu": f.GLU(1),
    "gate": f.Gate(),
    "two gates": f.Gate(conv(6, 4, 3), conv(6, 4, 3)),
    "dropout": f.Sequential(f.Dropout(), f.Identity()),
    "flat": f.Sequential(f.AdaptiveMaxPool1d(1), f.Flatten(1, 2)),
    "concat": f.Concat(f.Identity(), conv(6, 2, 3, padding=1), f.ReLU6()),
    "sum": f.Sum(f.Identity(), conv(6, 6, 3, padding=1), f.Mish()),
    "select": f.Sequential(f.Transpose(1, 2), f.Select(1, -1)),
    "circular": conv(6, 4, 5, padding=2, padding_mode="circular"),
    "steps": conv(6, 4, 3, activation="mish", pre_activation=("softplus", 2.0)),
    "gru": f.Sequential(f.Transpose(1, 2), f.GRU(6, 5, 2, batch_first=True, rng=rng())),
    "lstm": f.Sequential(
        f.Transpose(1, 2), f.LSTM(6, 5, 2, batch_first=True, bidirectional=True, rng=rng())
    ),
    "gru without bias, time first": f.Sequential(
        f.Transpose(1, 2), f.Transpose(0, 1), f.GRU(6, 5, bias=False, bidirectional=True, rng=rng())
    ),
    "graph": f.Graph(
        {
            "a": conv(6, 8, 3, padding=1),
            "z": f.Gate(),
            "skip": (conv(4, 6, 1), "z"),
            "total": (f.Sum(), "skip", "input"),
            "end": conv(6, 2, 1),
        }
    ),
}  # fmt: skip


def run(model, x):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"input": x})[0]


@pytest.mark.parametrize("name", INNER)
def test_written_layers(name):
    network = f.Sequential(conv(3, 6, 3), INNER[name])
    model = to_onnx(network)
    onnx.checker.check_model(model, full_check=True)
    again = from_onnx(model)
    for shape in ((2, 3, 19), (1, 3, 32)):
        x = rng().standard_normal(shape).astype(np.float32)
        y = network(x)
        wanted = run(model, x)
        assert wanted.shape == y.shape
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(again(x), y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (f.Sequential(conv(3, 6, 3, padding=1), f.AdaptiveAvgPool1d(5)), (2, 3, 20)),
        (f.Sequential(conv(3, 6, 3, padding=1), f.AdaptiveMaxPool1d(4)), (2, 3, 20)),
        (f.Sequential(conv(3, 6, 3, padding=1), f.Flatten(0, 1)), (2, 3, 20)),
        (f.Sequential(conv(3, 6, 3, padding=1), f.Flatten(), f.Linear(120, 2)), (2, 3, 20)),
        (f.Sequential(f.Linear(5, 4), f.Tanh(), f.Linear(4, 2)), (7, 5)),
        (f.Sequential(f.LayerNorm(5), f.Linear(5, 4)), (7, 3, 5)),
        (trained(f.BatchNorm1d(3)), (2, 3, 20)),
        (f.LSTM(5, 4, rng=rng()), (6, 2, 5)),
    ],
    ids=lambda value: str(value)[:30].replace("\n", ""),
)
def test_of_a_size(network, shape):
    model = to_onnx(network, shape)
    onnx.checker.check_model(model, full_check=True)
    x = rng().standard_normal(shape).astype(np.float32)
    y = f.Sequential(network)(x)
    np.testing.assert_allclose(y, run(model, x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(from_onnx(model)(x), y, rtol=1e-5, atol=1e-6)


def test_a_linear_network_needs_no_size():
    network = f.Sequential(f.Linear(5, 4), f.ReLU())
    x = np.ones((3, 5), np.float32)
    np.testing.assert_allclose(run(to_onnx(network), x), network(x), rtol=1e-6)


@pytest.mark.parametrize(
    ("network", "shape", "text"),
    [
        (f.Sequential(conv(3, 6, 3), f.AdaptiveAvgPool1d(5)), None, "input_shape="),
        (f.Sequential(conv(3, 6, 3), f.AdaptiveAvgPool1d(5)), (1, 3, 20), "does not divide"),
        (f.Sequential(conv(3, 6, 3), f.Flatten(0, 1)), None, r"Flatten\(0, 1\) needs"),
        (f.Sequential(conv(3, 6, 3), f.Linear(9, 2)), None, "say which with to_onnx"),
        (f.LSTM(6, 5, proj_size=2), (3, 2, 6), "no LSTM with projections"),
        (f.BatchNorm1d(3, track_running_stats=False), (2, 3, 4), "by the batch"),
    ],
)
def test_what_cannot_be_written(network, shape, text):
    with pytest.raises(OnnxError, match=text):
        to_onnx(network, shape)
