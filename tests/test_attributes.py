"""Attributes of layers: what may be set is checked when it is set, and used by the next call."""

import copy
import pickle

import numpy as np
import pytest

import fastconv1d
from fastconv1d import ELU, GELU, Conv1d, ConvTranspose1d, LeakyReLU, Residual, Sequential, Snake


def rng():
    return np.random.default_rng(0)


X = np.random.default_rng(1).standard_normal((2, 4, 40)).astype(np.float32)


@pytest.mark.parametrize("kind", [Conv1d, ConvTranspose1d])
@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("stride", 2, (2,)),
        ("stride", np.int64(3), (3,)),
        ("stride", [2], (2,)),
        ("dilation", 3, (3,)),
        ("padding", 2, (2,)),
        ("padding", (1, 2), (1, 2)),
        ("padding", "causal", "causal"),
        ("padding_mode", "circular", "circular"),
        ("activation", "relu", "relu"),
        ("pre_activation", ("leaky_relu", 0.5), ("leaky_relu", 0.5)),
        ("algorithm", "blas", "blas"),
    ],
)
def test_what_is_set_is_that_of_a_new_layer(kind, name, value, shown):
    layer = kind(4, 6, 3, rng=rng())
    layer(X)
    setattr(layer, name, value)
    assert getattr(layer, name) == shown
    made = kind(4, 6, 3, rng=rng(), **{name: value})
    np.testing.assert_array_equal(layer(X), made(X))
    assert repr(layer) == repr(made)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert getattr(copied, name) == shown
        np.testing.assert_array_equal(copied(X), made(X))


@pytest.mark.parametrize("kind", [Conv1d, ConvTranspose1d])
@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [
        ("stride", 0, ValueError, "non-positive stride is not supported, got stride=0"),
        ("stride", "2", TypeError, "stride should be an int"),
        ("stride", (2, 2), ValueError, r"stride to be a single integer .*got stride=\[2, 2\]"),
        ("dilation", 1.5, TypeError, "dilation should be an int"),
        ("padding", -1, ValueError, "negative padding is not supported, got padding=-1"),
        ("padding", "sam", (ValueError, TypeError), "padding"),
        ("padding_mode", "zero", ValueError, "padding_mode must be one of"),
        ("activation", "rellu", ValueError, "activation should be None or one of"),
        ("residual_position", "behind", ValueError, "residual_position should be"),
        ("residual_scale", "x", (ValueError, TypeError), "residual_scale should be a"),
        ("layout", "LNC", ValueError, "layout should be 'NCL' or 'NLC', got 'LNC'"),
        ("algorithm", "faster", ValueError, "algorithm should be one of"),
        ("kernel_size", (5,), ValueError, r"kernel_size is that of .*weight, \(3,\)"),
        ("groups", 2, ValueError, "groups is that of the layer's weight, 1"),
        ("in_channels", 8, ValueError, "in_channels is that of the layer's weight, 4"),
        ("out_channels", 8, ValueError, "out_channels is that of the layer's weight, 6"),
        ("dtype", np.float64, ValueError, "dtype is that of the layer's weight, float32"),
        ("wieght", 3, AttributeError, "no attribute 'wieght'.*did you mean 'weight'"),
        ("banana", 3, AttributeError, "no attribute 'banana'"),
    ],
)
def test_what_is_refused_changes_nothing(kind, name, value, error, words):
    layer = kind(4, 6, 3, rng=rng())
    y, text = layer(X), repr(layer)
    with pytest.raises(error, match=words):
        setattr(layer, name, value)
    assert repr(layer) == text
    np.testing.assert_array_equal(layer(X), y)


def test_what_is_said_again_is_no_error():
    layer = Conv1d(4, 6, 3)
    layer.kernel_size = layer.kernel_size
    layer.kernel_size, layer.groups, layer.in_channels = 3, 1, 4
    layer.dtype = "float32"
    assert (layer.kernel_size, layer.groups, layer.in_channels) == ((3,), 1, 4)


def test_subclasses_have_attributes_of_their_own():
    class Named(Conv1d):
        def __init__(self, *args):
            super().__init__(*args)
            self.label = "first"

    layer = Named(4, 6, 3)
    layer.label = "second"
    assert copy.deepcopy(layer).label == "second"


def test_attributes_of_activations():
    for layer, name, bad in (
        (LeakyReLU(), "negative_slope", "x"),
        (ELU(), "alpha", None),
        (GELU(), "approximate", "x"),
        (Snake(np.ones(4)), "alpha", np.ones((2, 2))),
    ):
        before = getattr(layer, name)
        with pytest.raises((TypeError, ValueError), match=name):
            setattr(layer, name, bad)
        assert getattr(layer, name) is before
        with pytest.raises(AttributeError, match="no attribute 'slop'"):
            layer.slop = 1


def test_networks_see_what_is_set():
    leaky, snake = LeakyReLU(0.1), Snake(np.full(4, 2.0))
    net = Sequential(
        Conv1d(4, 4, 3, padding=1, rng=rng()),
        leaky,
        Residual(snake, Conv1d(4, 4, 1, rng=rng()), residual_scale=0.5),
    )
    net(X)

    def by_hand():
        block = net[2]
        h = leaky(net[0](X))
        return block[1](snake(h)) + np.float32(block.residual_scale) * h

    for change in (
        lambda: setattr(leaky, "negative_slope", 0.5),
        lambda: setattr(snake, "alpha", np.arange(1.0, 5)),
        lambda: setattr(net[2], "residual_scale", 3),
        lambda: setattr(net[0], "weight", 2 * net[0].weight),
        lambda: setattr(net[0], "dilation", 2) or setattr(net[0], "padding", 2),
        lambda: net.load_state_dict({"2.0.alpha": np.ones(4)}, strict=False),
    ):
        change()
        np.testing.assert_allclose(net(X), by_hand(), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="read-only"):
        snake.alpha[:] = 3  # which no network would see
    with pytest.raises(ValueError, match="read-only"):
        copy.deepcopy(snake).alpha[:] = 3


def test_one_pack_for_a_layer_its_streams_and_networks(monkeypatch):
    packs = []
    prepare = fastconv1d.kernels.direct_engine.prepare

    def counting(*args):
        packs.append(args)
        return prepare(*args)

    monkeypatch.setattr(fastconv1d.kernels.direct_engine, "prepare", counting)
    for algorithm in ("auto", "winograd"):
        packs.clear()
        layer = Conv1d(64, 64, 3, padding="causal", algorithm=algorithm, rng=rng())
        x = np.random.default_rng(2).standard_normal((1, 64, 40)).astype(np.float32)
        streams = [layer.stream() for _ in range(3)]
        nets = [Sequential(layer, LeakyReLU(slope)) for slope in (0.1, 0.2)]
        y = layer(x)
        for net, slope in zip(nets, (0.1, 0.2), strict=True):
            np.testing.assert_allclose(net(x), np.where(y < 0, slope * y, y), rtol=1e-6, atol=1e-6)
        for stream in streams:
            np.testing.assert_allclose(stream(x), y, rtol=1e-4, atol=1e-4)
        assert len(packs) == 1


def test_a_winograd_layer_in_deterministic_mode_packs_once(monkeypatch):
    packs = []
    made = fastconv1d.kernels.direct_engine.PreparedLayer
    layer = Conv1d(64, 64, 3, algorithm="winograd", rng=rng())
    plain = Conv1d(64, 64, 3, rng=rng())
    x = np.random.default_rng(2).standard_normal((1, 64, 40)).astype(np.float32)
    prepare = fastconv1d.kernels.direct_engine.prepare
    monkeypatch.setattr(
        fastconv1d.kernels.direct_engine, "prepare", lambda *a: packs.append(a) or prepare(*a)
    )
    layer(x)
    assert packs == []  # nothing but its transformed weight
    fastconv1d.use_deterministic_algorithms(True)
    try:
        for _ in range(3):
            np.testing.assert_array_equal(layer(x), plain(x))
    finally:
        fastconv1d.use_deterministic_algorithms(False)
    assert isinstance(layer._pack().prepared, made)
    assert len(packs) == 2  # of the layer and of the plain one
