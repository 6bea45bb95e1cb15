"""Chains of element-wise operations against NumPy, with operands that repeat."""

import numpy as np
import pytest
from scipy import special

from fastconv1d.core.activations import Activation, parse_activation
from fastconv1d.kernels import direct_engine
from fastconv1d.kernels.chain import Chain

ONE = {
    "negate": np.negative,
    "absolute": np.abs,
    "square": np.square,
    "cube": lambda a: a * a * a,
    "root": np.sqrt,
    "reciprocal": lambda a: 1 / a,
    "exponential": np.exp,
    "logarithm": np.log,
    "error_function": special.erf,
    "round": np.rint,
    "floor": np.floor,
    "ceiling": np.ceil,
    "sine": np.sin,
    "cosine": np.cos,
    "sign": np.sign,
}
TWO = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "larger": np.maximum,
    "smaller": np.minimum,
    "power": np.power,
}
SPECIAL = [0, -0.0, np.inf, -np.inf, np.nan, 0.5, 1.5, 2.5, -0.5, -1.5, 1e-45, 88.7, 88.8, -103.9]
SPECIAL += [-87.5, -104.5, 2.0**23 + 1, 2.0**22 + 0.5, 2.0**23 - 0.5, 3e38, -4384703.5]


@pytest.fixture(params=direct_engine.supported_isas())
def isa(request):
    before = direct_engine.isa()
    direct_engine.set_isa(request.param)
    yield request.param
    direct_engine.set_isa(before)


def numbers(rng, dtype):
    scales = (1, 10, 100, 1e-3, 1e10, 1e-40)
    return np.concatenate([rng.standard_normal(700) * s for s in scales] + [SPECIAL]).astype(dtype)


def assert_within(y, wanted, ulps):
    with np.errstate(all="ignore"):
        off = np.abs(y - wanted) > ulps * np.spacing(np.abs(wanted))
    off |= np.isinf(wanted) & (y != wanted)
    assert not (off & ~np.isnan(wanted)).any()
    np.testing.assert_array_equal(np.isnan(y), np.isnan(wanted))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_operation(isa, dtype):
    rng = np.random.default_rng(0)
    a, b = numbers(rng, dtype), numbers(rng, dtype)[::-1].copy()
    with np.errstate(all="ignore"):
        for kind, function in ONE.items():
            assert_within(Chain(1, [(kind, [0], ())])([a]), function(a), 3)
        for kind, function in TWO.items():
            assert_within(Chain(2, [(kind, [0, 1], ())])([a, b]), function(a, b), 1)
        for kind, function, more in (
            ("scale", lambda x: x * dtype(0.3), (0.3,)),
            ("shift", lambda x: x + dtype(0.3), (0.3,)),
            ("at_least", lambda x: np.maximum(x, dtype(0.3)), (0.3,)),
            ("at_most", lambda x: np.minimum(x, dtype(0.3)), (0.3,)),
            ("steps", lambda x: np.clip(np.rint(x / dtype(0.3)), -8, 7) * dtype(0.3), (0.3, -8, 7)),
        ):
            assert_within(Chain(1, [(kind, [0], more)])([a]), function(a), 0)


@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh", "gelu", ("elu", 0.5)])
def test_activations_are_those_of_a_pass_of_their_own(isa, name):
    a = numbers(np.random.default_rng(1), np.float32)
    step = parse_activation(name)
    wanted = a.copy()
    direct_engine.finish(step, wanted.reshape(1, 1, -1), None, 1.0, False)
    np.testing.assert_array_equal(Chain(1, [("step", [0], (step,))])([a]), wanted)


SHAPES = [
    [(3, 5, 7), (3, 5, 7)],
    [(3, 5, 7), (7,), (5, 1), (3, 1, 1), (), (1, 1, 1)],
    [(2, 1, 600), (1, 700, 1)],
    [(1, 5, 1), (4, 1, 3)],
    [(0, 4), (4,)],
    [(), ()],
    [(1,), ()],
    [(2, 3, 2, 3, 2, 3, 2), (2, 1, 2, 1, 2, 1, 2)],
]


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_operands_that_repeat(isa, shapes, n_threads):
    rng = np.random.default_rng(2)
    arrays = [rng.integers(-4, 5, shape).astype(np.float32) for shape in shapes]
    # ((a0 + a1)*a0 + a2)*a0 + ...
    operations, total, n = [], 0, len(arrays)
    for i in range(1, n):
        operations += [("add", [total, i], ()), ("multiply", [n + len(operations), 0], ())]
        total = n + len(operations) - 1
    wanted = arrays[0]
    for array in arrays[1:]:
        wanted = (wanted + array) * arrays[0]
    chain = Chain(n, operations)
    np.testing.assert_array_equal(chain(arrays, None, n_threads), wanted)
    out = np.full(wanted.shape, np.nan, np.float32)
    assert chain(arrays, out, n_threads) is out
    np.testing.assert_array_equal(out, wanted)


def test_views(isa):
    rng = np.random.default_rng(3)
    whole = rng.integers(-4, 5, (6, 8, 40)).astype(np.float32)
    chain = Chain(2, [("subtract", [0, 1], ()), ("step", [2], (Activation("relu"),))])
    for a, b in (
        (whole[::2], whole[1::2]),
        (whole[:, ::-1, ::3], whole[..., :14]),
        (whole.transpose(2, 0, 1), whole.transpose(2, 0, 1)[::-1]),
        (np.broadcast_to(whole[0, 0], whole.shape), whole),
    ):
        np.testing.assert_array_equal(chain([a, b]), np.maximum(a - b, 0))


def test_what_is_not_taken():
    x = np.zeros((2, 3), np.float32)
    chain = Chain(2, [("add", [0, 1], ())])
    assert chain([x, x.astype(np.float64)]) is None
    assert chain([x.astype(int), x.astype(int)]) is None
    assert chain([x.astype(">f4"), x.astype(">f4")]) is None
    assert chain([x, x], np.zeros((3, 2), np.float32).T) is None
    with pytest.raises(ValueError, match="do not repeat"):
        chain([x, np.zeros((3, 2), np.float32)])
    with pytest.raises(ValueError, match="no room"):
        Chain(33, [("add", [0, 1], ())])
    with pytest.raises(ValueError, match="no room"):
        Chain(1, [("negate", [0], ())] * 129)
