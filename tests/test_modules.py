"""The layers: their parameters, state, modes and gradients, and torch's where it is importable."""

# ruff: noqa: E501

import copy
import inspect
import pickle
import re
import sys
import threading

import numpy as np
import pytest

import fastconv1d
from fastconv1d import Conv1d, ConvTranspose1d

LAYERS = [Conv1d, ConvTranspose1d]
DTYPES = ["float32", "float64", "complex64", "complex128"]

REPRS = [
    (Conv1d, (4, 6, 3), {}, "Conv1d(4, 6, kernel_size=(3,), stride=(1,))"),
    (Conv1d, (4, 6, 3, 2, 1, 2, 2, False, "reflect"), {}, "Conv1d(4, 6, kernel_size=(3,), stride=(2,), padding=(1,), dilation=(2,), groups=2, bias=False, padding_mode=reflect)"),
    (Conv1d, (4, 6, (3,)), {"padding": "same"}, "Conv1d(4, 6, kernel_size=(3,), stride=(1,), padding=same)"),
    (Conv1d, (4, 6, 3), {"padding": "valid"}, "Conv1d(4, 6, kernel_size=(3,), stride=(1,), padding=valid)"),
    (Conv1d, (0, 6, 3), {}, "Conv1d(0, 6, kernel_size=(3,), stride=(1,))"),
    (Conv1d, (4, 0, 0), {}, "Conv1d(4, 0, kernel_size=(0,), stride=(1,))"),
    (ConvTranspose1d, (4, 6, 3), {}, "ConvTranspose1d(4, 6, kernel_size=(3,), stride=(1,))"),
    (ConvTranspose1d, (4, 6, 3, 2, 1, 1, 2, False, 2), {}, "ConvTranspose1d(4, 6, kernel_size=(3,), stride=(2,), padding=(1,), dilation=(2,), output_padding=(1,), groups=2, bias=False)"),
]  # fmt: skip


def _same_bits(a, b):
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert a.tobytes() == b.tobytes()


def _random(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.integers(-4, 5, shape).astype(dtype)
    if values.dtype.kind == "c":
        values += np.array(1j, dtype) * rng.integers(-4, 5, shape).astype(dtype)
    return values


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(("layer", "args", "kwargs", "text"), REPRS)
def test_repr(layer, args, kwargs, text):
    assert repr(layer(*args, **kwargs)) == text
    torch = pytest.importorskip("torch")
    assert repr(getattr(torch.nn, layer.__name__)(*args, **kwargs)) == text


@pytest.mark.parametrize("layer", LAYERS)
def test_signature_is_torchs(layer):
    torch = pytest.importorskip("torch")
    parameters = list(inspect.signature(layer).parameters.values())
    ours = [(p.name, p.default) for p in parameters]
    theirs = inspect.signature(getattr(torch.nn, layer.__name__)).parameters.values()
    assert ours[: len(theirs) + 1] == [*((p.name, p.default) for p in theirs), ("rng", None)]
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[len(theirs) :])


@pytest.mark.parametrize(
    ("layer", "kwargs", "shape"),
    [
        (Conv1d, {}, (6, 4, 3)),
        (Conv1d, {"groups": 2}, (6, 2, 3)),
        (ConvTranspose1d, {}, (4, 6, 3)),
        (ConvTranspose1d, {"groups": 2}, (4, 3, 3)),
    ],
)
def test_parameters(layer, kwargs, shape):
    made = layer(4, 6, 3, **kwargs)
    assert made.weight.shape == shape
    assert made.bias.shape == (6,)
    assert made.weight.dtype == made.bias.dtype == np.float32
    assert not made.training
    assert layer(4, 6, 3, bias=False).bias is None
    assert layer(4, 6, np.int64(3), (2,), dilation=[2]).stride == (2,)
    for dtype in DTYPES:
        assert layer(4, 6, 3, dtype=dtype, device="cpu").weight.dtype == dtype


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_initial_distribution(layer, dtype):
    made = layer(16, 32, 5, groups=2, dtype=dtype, rng=np.random.default_rng(3))
    fan_in = (8 if layer is Conv1d else 16) * 5
    bound = fan_in**-0.5
    parts = [made.weight.real, made.bias.real]
    if made.weight.dtype.kind == "c":
        parts += [made.weight.imag, made.bias.imag]
    for part in parts:
        assert np.abs(part).max() <= bound * (1 + 1e-6)
        assert np.abs(part).max() > 0.8 * bound
    assert abs(parts[0].mean()) < 0.1 * bound
    assert parts[0].std() == pytest.approx(bound / 3**0.5, rel=0.1)
    again = layer(16, 32, 5, groups=2, dtype=dtype, rng=np.random.default_rng(3))
    _same_bits(again.weight, made.weight)
    _same_bits(again.bias, made.bias)
    again.reset_parameters(np.random.default_rng(4))
    assert (again.weight != made.weight).any()
    with pytest.raises(TypeError, match=r"numpy\.random\.Generator, got 3"):
        layer(1, 1, 1, rng=3)


@pytest.mark.parametrize("layer", LAYERS)
def test_initial_bound_is_torchs(layer):
    torch = pytest.importorskip("torch")
    made = getattr(torch.nn, layer.__name__)(64, 64, 7, groups=4)
    ours = layer(64, 64, 7, groups=4, rng=np.random.default_rng(0))
    for name in ("weight", "bias"):
        theirs = getattr(made, name).detach().numpy()
        assert np.abs(getattr(ours, name)).max() == pytest.approx(np.abs(theirs).max(), rel=0.1)


BAD = [
    (LAYERS, (4, 6, 3), {"groups": 0}, ValueError, "groups must be a positive integer"),
    (LAYERS, (4, 6, 3), {"groups": 3}, ValueError, "in_channels must be divisible by groups"),
    (LAYERS, (4, 6, 3), {"groups": 4}, ValueError, "out_channels must be divisible by groups"),
    (LAYERS, (-4, 6, 3), {}, (ValueError, RuntimeError), "negative dimension -4"),
    (LAYERS, (4, 6, -1), {}, (ValueError, RuntimeError), "negative dimension -1"),
    (LAYERS, (4, 6, 3), {"dtype": "int32"}, (TypeError, RuntimeError), "Only Tensors of floating point and complex dtype can require gradients"),
    ([Conv1d], (4, 6, 3), {"padding": "foo"}, ValueError, "Invalid padding string 'foo', should be one of"),
    ([Conv1d], (4, 6, 3), {"padding": "same", "stride": 2}, ValueError, "padding='same' is not supported for strided convolutions"),
    ([Conv1d], (4, 6, 3), {"padding_mode": "foo"}, ValueError, "padding_mode must be one of"),
]  # fmt: skip


@pytest.mark.parametrize(("layers", "args", "kwargs", "error", "words"), BAD)
def test_bad_arguments(layers, args, kwargs, error, words):
    for layer in layers:
        with pytest.raises(error, match=re.escape(words)) as caught:
            layer(*args, **kwargs)
        assert not isinstance(caught.value, RuntimeError)
        torch = pytest.importorskip("torch")
        theirs = {"dtype": torch.int32} if "dtype" in kwargs else kwargs
        with pytest.raises(error, match=re.escape(words)):
            getattr(torch.nn, layer.__name__)(*args, **theirs)


@pytest.mark.parametrize("layer", LAYERS)
def test_bad_arguments_that_torch_finds_later(layer):
    for kwargs, error, words in (
        ({"stride": 0}, ValueError, "non-positive stride is not supported"),
        ({"dilation": 0}, ValueError, "dilation should be greater than zero"),
        ({"padding": -1}, ValueError, "negative padding is not supported"),
        ({"stride": (1, 1)}, ValueError, "expected stride to be a single integer"),
        ({"stride": "x"}, TypeError, "stride should be an int"),
        ({"groups": 1.0}, TypeError, "groups should be an int"),
        ({"stride": 2**63}, OverflowError, "64 bits"),
        ({"padding_mode": "foo"}, ValueError, "padding_mode must be one of"),
        ({"device": "cuda"}, ValueError, "got device='cuda'"),
        ({"device": 0}, TypeError, "device should be None or 'cpu', got 0"),
    ):
        with pytest.raises(error, match=words):
            layer(4, 6, 3, **kwargs)
    with pytest.raises(OverflowError):
        layer(2**40, 2**40, 1, bias=False)
    with pytest.raises(TypeError, match="in_channels should be an int"):
        layer(4.0, 6, 3)
    with pytest.raises(TypeError, match="not str"):
        ConvTranspose1d(4, 6, 3, padding="same")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("layer", "kwargs"),
    [
        (Conv1d, {}),
        (Conv1d, {"stride": 2, "padding": 2, "dilation": 2, "groups": 2}),
        (Conv1d, {"padding": "same", "bias": False}),
        (Conv1d, {"padding": 3, "padding_mode": "reflect"}),
        (Conv1d, {"padding": 3, "padding_mode": "replicate", "stride": 2}),
        (Conv1d, {"padding": 3, "padding_mode": "circular", "groups": 2}),
        (ConvTranspose1d, {}),
        (ConvTranspose1d, {"stride": 3, "padding": 1, "output_padding": 2, "groups": 2}),
        (ConvTranspose1d, {"dilation": 2, "bias": False}),
    ],
)
@pytest.mark.parametrize("batched", [True, False])
def test_training_step_is_torchs(layer, kwargs, dtype, batched):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn, layer.__name__)(4, 6, 3, dtype=getattr(torch, dtype), **kwargs)
    ours = layer(4, 6, 3, dtype=dtype, **kwargs)
    state = {name: _random(value.shape, dtype) for name, value in ours.state_dict().items()}
    assert list(state) == list(theirs.state_dict())
    assert ours.load_state_dict(state) == ([], [])
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    x = _random((2, 4, 11) if batched else (4, 11), dtype, 1)
    tensor = torch.from_numpy(x).requires_grad_()
    expected = theirs(tensor)
    y = ours.train()(x)
    np.testing.assert_array_equal(y, expected.detach().numpy())
    g = _random(y.shape, dtype, 2)
    expected.backward(torch.from_numpy(g))
    np.testing.assert_array_equal(ours.backward(g), tensor.grad.numpy())
    np.testing.assert_array_equal(ours.weight_grad, theirs.weight.grad.numpy())
    if ours.bias is None:
        assert ours.bias_grad is None
    else:
        np.testing.assert_array_equal(ours.bias_grad, theirs.bias.grad.numpy())


@pytest.mark.parametrize("layer", LAYERS)
def test_gradients_accumulate_until_zero_grad(layer):
    made = layer(2, 2, 3, dtype=np.float64).train()
    assert made.weight_grad is None and made.bias_grad is None
    x = _random((2, 2, 7), np.float64)
    g = np.ones_like(made(x))
    made.backward(g)
    weight, bias = made.weight_grad.copy(), made.bias_grad.copy()
    made(x)
    made.backward(2 * g)
    np.testing.assert_array_equal(made.weight_grad, 3 * weight)
    np.testing.assert_array_equal(made.bias_grad, 3 * bias)
    made.zero_grad()
    assert made.weight_grad is None and made.bias_grad is None


@pytest.mark.parametrize("layer", LAYERS)
def test_backward_needs_a_forward_in_train_mode(layer):
    made = layer(2, 2, 3)
    x = np.ones((1, 2, 7), np.float32)
    g = made(x)
    with pytest.raises(
        RuntimeError, match=r"forward in train mode.*eval mode without a kept input"
    ):
        made.backward(g)
    made.train()
    with pytest.raises(RuntimeError, match="got a layer in train mode without a kept input"):
        made.backward(g)
    made(x)
    made.backward(g)
    made.eval()
    with pytest.raises(RuntimeError, match="eval mode"):
        made.backward(g)
    with pytest.raises(ValueError, match="expected to be boolean, got 1"):
        made.train(1)


def test_backward_uses_the_output_padding_of_forward():
    made = ConvTranspose1d(1, 1, 1, stride=3, dtype=np.float64, bias=False).train()
    made.weight = np.full((1, 1, 1), 2.0)
    y = made(np.ones((1, 2)), output_size=[6])
    np.testing.assert_array_equal(y, [[2.0, 0, 0, 2.0, 0, 0]])
    np.testing.assert_array_equal(made.backward(np.arange(6.0)[None]), [[0.0, 6.0]])


@pytest.mark.parametrize("layer", LAYERS)
def test_parameters_are_read_only_in_eval(layer):
    made = layer(2, 2, 3)
    for array in (made.weight, made.bias):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
    with pytest.raises(ValueError, match="read-only"):
        made.weight += 1


@pytest.mark.parametrize("layer", LAYERS)
def test_aliases_of_training_do_not_reach_eval(layer):
    made = layer(2, 2, 3).train()
    x = np.ones((1, 2, 7), np.float32)
    alias, bias = made.weight, made.bias
    alias[...] = 1
    bias[...] = 0
    assert (made.weight == 1).all()
    made.eval()
    expected = made(x)
    alias[...] = 99
    bias[...] = 99
    _same_bits(made(x), expected)
    assert (made.weight == 1).all() and (made.bias == 0).all()
    fixed = made.weight
    made.train().weight[...] = 5
    assert (fixed == 1).all()
    made.weight -= 2
    assert (made.eval().weight == 3).all()


@pytest.mark.parametrize("training", [False, True])
def test_assignment_copies_and_checks(training):
    made = Conv1d(2, 4, 3).train(training)
    new = np.ones((4, 2, 3), np.float32)
    made.weight = new
    new[...] = 7
    assert (made.weight == 1).all()
    made.weight = np.full((4, 2, 3), 2, np.dtype(np.float32).newbyteorder())
    assert (made.weight == 2).all() and made.weight.dtype.isnative
    made.bias = np.arange(4, dtype=np.float32)
    assert made.bias.tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"weight should have the shape \[4, 2, 3\], got \[1\]"):
        made.weight = np.ones(1, np.float32)
    with pytest.raises(TypeError, match="weight should have the dtype float32, got float64"):
        made.weight = np.ones((4, 2, 3))
    with pytest.raises(ValueError, match="bias should stay an array"):
        made.bias = None
    without = Conv1d(2, 4, 3, bias=False)
    without.bias = None
    with pytest.raises(ValueError, match="bias should stay None"):
        without.bias = np.ones(4, np.float32)
    assert (made.weight == 2).all()


@pytest.mark.parametrize("training", [False, True])
def test_load_state_dict(training):
    made, other = Conv1d(2, 4, 3).train(training), Conv1d(2, 4, 3)
    state = other.state_dict()
    assert made.load_state_dict(state) == ([], [])
    state["weight"][...] = 9
    _same_bits(np.array(made.weight), np.array(other.weight))
    result = made.load_state_dict({"weight": np.zeros((4, 2, 3)), "x": 1}, strict=False)
    assert result.missing_keys == ["bias"] and result.unexpected_keys == ["x"]
    assert (made.weight == 0).all() and made.weight.dtype == np.float32


def test_load_state_dict_errors_are_torchs():
    torch = pytest.importorskip("torch")
    ours, theirs = Conv1d(4, 6, 3), torch.nn.Conv1d(4, 6, 3)
    before = ours.state_dict()
    for state in (
        {},
        {"weight": np.zeros((6, 4, 3)), "bias": np.zeros(6), "extra": np.zeros(1)},
        {"weight": np.zeros((6, 4, 4)), "bia": np.zeros(6), "x": np.zeros(6)},
        {"weight": np.zeros((6, 4, 3)), "bias": np.zeros(5)},
    ):
        with pytest.raises(RuntimeError) as expected:
            theirs.load_state_dict({name: torch.from_numpy(v) for name, v in state.items()})
        words = re.sub(r"torch\.Size\((\[.*?\])\)", r"\1", str(expected.value))
        with pytest.raises(ValueError) as caught:
            ours.load_state_dict(state)
        assert str(caught.value) == words
    for name, value in before.items():
        _same_bits(ours.state_dict()[name], value)


def test_load_state_dict_types():
    made = Conv1d(1, 1, 1)
    with pytest.raises(
        TypeError, match=r"Expected state_dict to be dict-like, got <class 'int'>\."
    ):
        made.load_state_dict(5)
    for bad in (np.ones((1, 1, 1), complex), "x", None):
        with pytest.raises(TypeError, match="weight in state_dict"):
            made.load_state_dict({"weight": bad}, strict=False)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "through",
    [copy.deepcopy, copy.copy]
    + [lambda made, p=p: pickle.loads(pickle.dumps(made, p)) for p in range(2, 6)],
)
def test_pickle_and_copy(layer, training, through):
    made = layer(2, 4, 3, stride=2, dtype=np.float64).train(training)
    x = _random((1, 2, 9), np.float64)
    expected = made(x)
    again = through(made)
    assert type(again) is layer
    assert repr(again) == repr(made)
    assert again.training is training
    _same_bits(again(x), expected)
    assert again.weight.flags.writeable is training
    if not training:
        with pytest.raises(ValueError, match="WRITEABLE"):
            again.weight.flags.writeable = True


@pytest.mark.parametrize(
    ("output_size", "length"), [(28, 28), ([30], 30), ((2, 6, 29), 29), ([np.int64(28)], 28)]
)
def test_output_size(output_size, length):
    made = ConvTranspose1d(4, 6, 3, stride=3, padding=1)
    assert made(np.zeros((2, 4, 10), np.float32), output_size=output_size).shape == (2, 6, length)


def test_output_size_errors():
    made = ConvTranspose1d(4, 6, 3, stride=3, padding=1)
    x = np.zeros((2, 4, 10), np.float32)
    for size in (27, 31, 50, -1):
        words = (
            rf"requested an output size of \[{size}\], but valid sizes range from \[28\] to \[30\]"
        )
        with pytest.raises(ValueError, match=words):
            made(x, output_size=[size])
    with pytest.raises(ValueError, match="for 3D input, output_size must have 1 or 3 elements"):
        made(x, output_size=[6, 28])
    for size in ("x", [None], 28.0):
        with pytest.raises(TypeError, match="output_size should be an int"):
            made(x, output_size=size)
    assert made(x[0], output_size=(6, 28)).shape == (6, 28)
    torch = pytest.importorskip("torch")
    theirs = torch.nn.ConvTranspose1d(4, 6, 3, stride=3, padding=1)
    with pytest.raises(ValueError, match=r"requested an output size of \[50\], but valid sizes"):
        theirs(torch.from_numpy(x), output_size=[50])


def test_pair_padding():
    made = Conv1d(1, 1, 3, padding=(2, 0), rng=np.random.default_rng(0))
    assert repr(made).endswith("padding=(2, 0))")
    x = _random((1, 1, 9), np.float32)
    padded = np.pad(x, ((0, 0), (0, 0), (2, 0)))
    np.testing.assert_array_equal(made(x), fastconv1d.conv1d(padded, made.weight, made.bias))
    made = ConvTranspose1d(1, 1, 3, padding=(2, 0), rng=np.random.default_rng(0))
    full = fastconv1d.conv_transpose1d(x, made.weight, made.bias)
    np.testing.assert_array_equal(made(x), full[:, :, 2:])


@pytest.mark.parametrize("layer", LAYERS)
def test_one_layer_in_many_threads(layer):
    made = layer(8, 8, 3, padding=1)
    inputs = [_random((1, 8, 20 + 7 * i), np.float32, i) for i in range(8)]
    expected = [made(x) for x in inputs]
    wrong = []

    def call(x, y):
        wrong.extend(1 for _ in range(100) if made(x).tobytes() != y.tobytes())

    threads = [
        threading.Thread(target=call, args=pair) for pair in zip(inputs, expected, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_eval_keeps_no_input():
    made = Conv1d(1, 1, 1).train()
    x = np.ones((1, 1, 5), np.float32)
    references = sys.getrefcount(x)
    made(x)
    assert sys.getrefcount(x) > references
    made.eval()(x)
    assert sys.getrefcount(x) == references
