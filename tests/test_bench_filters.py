"""SciPy's filters in the benchmark compute the layers that they are timed on."""

import numpy as np
import pytest

import fastconv1d
from fastconv1d.bench.filters import Scipy
from fastconv1d.bench.layers import Layer, make_problem

RNG = np.random.default_rng(0)


def drawn(number, transposed):
    channels, times, kernel, stride, dilation, longer, padding = RNG.integers(
        1, [5, 3, 9, 5, 4, 5, 5]
    ).tolist()
    longer = (longer - 1) % max(stride, dilation) if transposed else 0
    length = int(RNG.integers(30, 60))
    window = stride, padding - 1, dilation, channels, longer
    sizes = 2, channels, channels * times, length, kernel, *window
    return Layer(f"layer{number}", transposed, "drawn", *sizes)


@pytest.mark.parametrize("transposed", [False, True])
def test_every_way_computes_the_layer(transposed):
    function = fastconv1d.conv_transpose1d if transposed else fastconv1d.conv1d
    for number in range(60):
        layer = drawn(number, transposed)
        if layer.l_out < 1:
            continue
        problem = make_problem(layer, np.float64)
        arrays = problem.x, problem.weight, problem.bias
        expected = function(*arrays, groups=layer.groups, **layer.window)
        for way in Scipy()._ways(problem):
            np.testing.assert_allclose(way(problem.x), expected, atol=1e-9, err_msg=layer.name)


def test_float32_stays_and_sums_of_channels_are_refused():
    layer = Layer("filter", False, "", 1, 2, 2, 500, 101, 1, 50, 1, 2, 0)
    call = Scipy().prepare(make_problem(layer, np.float32), backward=False)
    [y] = Scipy().arrays(call())
    assert y.shape == (1, 2, 500) and y.dtype == np.float32
    dense = Layer("dense", False, "", 1, 2, 2, 500, 3, 1, 1, 1, 1, 0)
    with pytest.raises(TypeError, match="not sums of channels"):
        Scipy().prepare(make_problem(dense, np.float32), backward=False)
