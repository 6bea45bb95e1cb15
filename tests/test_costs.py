"""flops and summary: the formulas, the totals, the comparison with Linear, and errors."""

import numpy as np
import pytest

from fastconv1d import (
    Conv1d,
    ConvTranspose1d,
    Linear,
    Mean,
    ReLU,
    Residual,
    Sequential,
    Snake,
    flops,
    summary,
)


def _multiplications(layer, length):
    """Count by brute force how often a weight meets a position, padding included."""
    taps = range(layer.kernel_size[0])
    per_pair = layer.in_channels * layer.out_channels // layer.groups
    if layer.transposed:
        return per_pair * length * len(taps)
    x = np.zeros((layer.in_channels, length), np.float32)
    return per_pair * layer(x).shape[1] * len(taps)


@pytest.mark.parametrize("kind", [Conv1d, ConvTranspose1d])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_flops_of_a_layer(kind, groups, stride, dilation):
    layer = kind(8, 12, 5, stride, 1, groups=groups, dilation=dilation)
    expected = 2 * _multiplications(layer, 31)
    assert flops(layer, (8, 31)) == flops(layer, (1, 8, 31)) == expected
    assert flops(layer, [7, 8, 31]) == 7 * expected
    assert flops(Sequential(ReLU(), layer, ReLU()), (8, 31)) == expected


def test_flops_of_known_layers():
    assert flops(Conv1d(16, 33, 3, stride=2), (20, 16, 50)) == 2 * 20 * 24 * 16 * 3 * 33
    assert flops(Conv1d(512, 512, 31, groups=512, padding=15), (512, 100)) == 2 * 100 * 31 * 512
    up = ConvTranspose1d(512, 256, 16, 8, 4)
    assert flops(up, (1, 512, 200)) == 2 * 200 * 512 * 256 * 16
    assert flops(Linear(640, 64), (5, 640)) == 2 * 5 * 640 * 64
    assert flops(Linear(640, 64, bias=False), (3, 5, 640)) == 2 * 15 * 640 * 64
    assert flops(ReLU(), (4, 10)) == 0
    assert flops(Sequential(), (4, 10)) == 0
    huge = Conv1d(3, 5, 7)
    assert flops(huge, (10**9, 3, 10**9)) == 2 * 10**9 * (10**9 - 6) * 3 * 7 * 5


def test_summary_of_a_network():
    net = Sequential(
        Conv1d(4, 6, 3, dtype=np.float64),
        Residual(Snake(np.ones(6)), Conv1d(6, 6, 1, bias=False, dtype=np.float64)),
        Mean(ReLU(), ConvTranspose1d(6, 6, 3, 1, 1, dtype=np.float64)),
    )
    result = summary(net, (2, 4, 10))
    assert [row.name for row in result.rows] == ["0", "1.0", "1.1", "1", "2.0", "2.1", "2"]
    assert [row.output_shape for row in result.rows] == [(2, 6, 8)] * 7
    assert [row.parameters for row in result.rows] == [78, 6, 36, 0, 0, 114, 0]
    assert [row.flops for row in result.rows] == [
        2 * 2 * 8 * 72, 0, 2 * 2 * 8 * 36, 0, 0, 2 * 2 * 8 * 108, 0,
    ]  # fmt: skip
    assert {(row.elements, row.nbytes) for row in result.rows} == {(96, 768)}
    assert result.rows[0].layer == "Conv1d(4, 6, kernel_size=(3,), stride=(1,))"
    assert result.rows[3].layer == "Residual"
    total = result.total
    assert total[:3] == ("total", "", (2, 6, 8))
    assert total.parameters == sum(value.size for value in net.state_dict().values()) == 234
    assert total.flops == flops(net, (2, 4, 10)) == 2 * 2 * 8 * 216
    assert total.elements == 7 * 96
    assert total.nbytes == 7 * 768
    assert summary(net, (4, 10)).rows[0].output_shape == (6, 8)
    assert summary(Sequential(), (4, 10)) == ([], ("total", "", (4, 10), 0, 0, 0, 0), [])


def test_linear_beside_convolutions():
    size = 64
    net = Sequential(Conv1d(size, size, 3), ReLU(), Conv1d(size, size, 3))
    result = summary(net, (3, size, 10), compare=[Linear(10 * size, size)])
    (row,) = result.compared
    assert row == (
        "compare", "Linear(640, 64)", (3, 64), 641 * 64, 2 * 3 * 640 * 64, 3 * 64, 4 * 3 * 64,
    )  # fmt: skip
    assert result.total.parameters == 2 * (64 * 64 * 3 + 64)
    assert result.total.flops == 2 * 3 * (8 + 6) * 64 * 64 * 3
    unbatched = summary(net, (size, 10), compare=[Linear(640, 1, bias=False)])
    assert unbatched.compared[0].output_shape == (1,)
    assert unbatched.compared[0].parameters == 640
    lines = str(result).split("\n")
    assert len(lines) == 6
    assert lines[0].split() == [
        "layer", "output", "parameters", "flops", "elements", "bytes",
    ]  # fmt: skip
    assert lines[4].split()[-4:] == ["24,704", "1,032,192", "4,224", "16,896"]
    assert lines[5].startswith("compare  Linear(640, 64)")
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: flops(Conv1d(4, 6, 3), (5, 10)), ValueError, "to have 4 channels, but got 5"),
        (lambda: flops(Conv1d(4, 6, 3), (4, 2)), ValueError, "Kernel size can't be greater"),
        (
            lambda: flops(Sequential(ReLU(), Conv1d(4, 6, 3)), (4, 2)),
            ValueError,
            "^layer 1, Conv1d",
        ),
        (lambda: flops(Conv1d(4, 6, 3), (4,)), ValueError, r"Expected 2D .*of size: \[4\]"),
        (lambda: flops(Conv1d(4, 6, 3), (1, 4, -1)), ValueError, "no negative size"),
        (lambda: flops(Conv1d(4, 6, 3), (4, 2.5)), TypeError, r"integers, got \(4, 2\.5\)"),
        (lambda: flops(Conv1d(4, 6, 3), 4), TypeError, "sequence of integers, got 4"),
        (lambda: flops(3, (4, 9)), TypeError, "should be a Conv1d, .*got 3 of type int"),
        (
            lambda: flops(Linear(10, 2), (3, 9)),
            ValueError,
            r"have in_features=10 numbers, got an input of size \[3, 9\]",
        ),
        (
            lambda: flops(Linear(10, 2), ()),
            ValueError,
            r"in_features=10 numbers, got an input of size \[\]",
        ),
        (lambda: flops(Linear(1.5, 2), (3, 9)), TypeError, "in_features should be an int"),
        (
            lambda: summary(ReLU(), (3, 9), compare=[Linear(9, 1)]),
            ValueError,
            r"in_features=9 numbers, got an input of size \[27\]",
        ),
        (lambda: summary(ReLU(), (3, 9), compare=[9]), TypeError, "sequence of Linear, got 9"),
    ],
)
def test_errors(call, error, text):
    with pytest.raises(error, match=text):
        call()
