"""`receptive_field` against what networks do: which inputs change an output."""

from fractions import Fraction

import numpy as np
import pytest

import fastconv1d
from fastconv1d import (
    Conv1d,
    ConvTranspose1d,
    Mean,
    ReLU,
    Residual,
    Sequential,
    Snake,
    receptive_field,
)

LENGTH = 96


def positive(network):
    """The same network with parameters that no sum cancels."""
    state = network.state_dict()
    network.load_state_dict({name: np.abs(value) + 0.1 for name, value in state.items()})
    return network


def read_by_output(network, channels=1):
    """For each output the inputs that make it NaN."""
    x = np.ones((LENGTH, channels, LENGTH), np.float32)
    x[np.arange(LENGTH), :, np.arange(LENGTH)] = np.nan
    return np.isnan(positive(network)(x)).any(axis=1).T


def random_layer(rng):
    size, dilation = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    span = dilation * (size - 1) + 1
    stride = int(rng.integers(1, 4))
    if rng.random() < 0.4:
        crop = tuple(int(c) for c in rng.integers(0, 3, 2))
        return ConvTranspose1d(1, 1, size, stride=stride, dilation=dilation, padding=crop)
    if rng.random() < 0.5:
        padding = (int(rng.integers(0, span + 2)), int(rng.integers(0, 4)))
    else:
        padding = "causal"
    return Conv1d(1, 1, size, stride=stride, dilation=dilation, padding=padding)


def leaves_gaps(layer):
    return layer.transposed and (layer.dilation[0] > 1 or layer.stride > layer.kernel_size)


@pytest.mark.parametrize("seed", range(120))
def test_every_output_reads_what_is_said_and_some_output_all_of_it(seed):
    rng = np.random.default_rng(seed)
    network = Sequential(*(random_layer(rng) for _ in range(rng.integers(1, 4))))
    field = receptive_field(network)
    read = read_by_output(network)
    lengths, lefts, rights = [], [], []
    for o in range(read.shape[0]):
        first, last = o * field.stride - field.left, o * field.stride + field.right
        inputs = np.flatnonzero(read[o])
        if inputs.size == 0:
            continue
        assert first <= inputs[0] and inputs[-1] <= last
        if first >= 0 and last < LENGTH:
            lengths.append(inputs[-1] - inputs[0] + 1)
            lefts.append(o * field.stride - int(inputs[0]))
            rights.append(int(inputs[-1]) - o * field.stride)
    exact = not any(leaves_gaps(layer) for layer in network)
    if exact and len(lengths) > 30:  # enough outputs far from the ends for every phase
        assert (max(lengths), max(lefts), max(rights)) == (field.length, field.left, field.right)


def test_plain_layers():
    assert receptive_field(Conv1d(2, 3, 5, padding=2)) == (5, 1, 2, 2)
    assert receptive_field(Conv1d(2, 3, 5, stride=3, dilation=2, padding=(8, 1))) == (9, 3, 8, 0)
    assert receptive_field(Conv1d(2, 3, 4, padding="same")) == (4, 1, 1, 2)
    assert receptive_field(ConvTranspose1d(2, 3, 4, stride=4)) == (
        1,
        Fraction(1, 4),
        Fraction(3, 4),
        0,
    )
    assert receptive_field(ReLU()) == (1, 1, 0, 0)
    assert receptive_field(Sequential()) == (1, 1, 0, 0)


def test_branches_are_joined():
    blocks = Mean(*(Conv1d(4, 4, k, padding="same") for k in (3, 7, 11)), Snake(np.ones(4)))
    assert receptive_field(blocks) == (11, 1, 5, 5)
    block = Residual(Conv1d(4, 4, 3, padding="causal"), shortcut=Conv1d(4, 4, 5, padding=(0, 4)))
    assert receptive_field(block) == (7, 1, 2, 4)


def test_up_and_down_again():
    network = Sequential(ConvTranspose1d(1, 1, 3, stride=3), Conv1d(1, 1, 2, stride=2))
    assert receptive_field(network) == (2, Fraction(2, 3), Fraction(2, 3), Fraction(1, 3))


def test_padding_that_follows_the_length():
    network = Sequential(ReLU(), Conv1d(1, 1, 4, stride=2, padding="same_upper"))
    with pytest.raises(ValueError, match=r"^layer 1, Conv1d: the padding depends on the length"):
        receptive_field(network)
    assert receptive_field(network, length=10) == (4, 2, 1, 2)
    assert receptive_field(network, 9) == (4, 2, 1, 2)
    assert receptive_field(network, 8) == (4, 2, 1, 2)
    wide = Conv1d(1, 1, 6, stride=3, padding="same_lower")
    assert [receptive_field(wide, n).left for n in (9, 10, 11)] == [2, 3, 2]


def test_strides_that_differ():
    with pytest.raises(ValueError, match=r"^layer 0, Residual: .* one stride, got 1 and 2"):
        receptive_field(Sequential(Residual(Conv1d(1, 1, 2, stride=2))))


def test_what_moves_along_with_no_output():
    with pytest.raises(TypeError, match="should be a Conv1d"):
        receptive_field([Conv1d(1, 1, 1)])

    class Reversed(Conv1d):
        def forward(self, input, **rest):
            return super().forward(input[..., ::-1].copy())

    with pytest.raises(TypeError, match=r"layer 0 .* forward of its own"):
        receptive_field(Sequential(Reversed(1, 1, 3)))
    with pytest.raises(ValueError, match="repeat how they read"):
        receptive_field(Sequential(*(ConvTranspose1d(1, 1, 1, stride=64) for _ in range(3))))


def test_is_exported():
    assert fastconv1d.ReceptiveField._fields == ("length", "stride", "left", "right")


def test_norms_over_channels_read_their_position():
    """LayerNorm between two exchanges of the axes, as torch's TCNs have it."""
    block = fastconv1d.Residual(
        fastconv1d.Conv1d(8, 8, 3, padding="causal", dilation=4),
        fastconv1d.Sequential(
            fastconv1d.Transpose(1, 2), fastconv1d.LayerNorm(8), fastconv1d.Transpose(1, 2)
        ),
        fastconv1d.ReLU(),
    )
    network = fastconv1d.Sequential(block, fastconv1d.MaxPool1d(2), block)
    assert fastconv1d.receptive_field(network) == (2 + 8 + 16, 2, 8 + 16, 1)
