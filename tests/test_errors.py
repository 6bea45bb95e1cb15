"""Every refused call: the type, the rule with the value received, and torch's own words."""

# The table below has one call a line.
# ruff: noqa: E501

import re
from typing import NamedTuple

import numpy as np
import pytest

import fastconv1d

NAN = float("nan")
BIG = 2**63


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


class Case(NamedTuple):
    """One bad call: shapes or arrays, arguments, the error, torch's words, what else is said."""

    name: str
    args: tuple
    kwargs: dict
    error: type
    words: str
    also: str = ""
    torch: bool = True  # whether torch says these words, too


X, W, B = (2, 4, 10), (6, 4, 3), (6,)
VALUE, TYPE, OVER = ValueError, TypeError, OverflowError
TOO_LONG = "Calculated padded input size per channel: ({}). Kernel size: ({}). Kernel size can't be greater than actual input size"
CONV = [
    Case("stride 0", (X, W, B), {"stride": 0}, VALUE, "non-positive stride is not supported", "stride=0"),
    Case("stride -1", (X, W, B), {"stride": -1}, VALUE, "non-positive stride is not supported", "stride=-1"),
    Case("padding -1", (X, W), {"padding": -1}, VALUE, "negative padding is not supported", "padding=-1"),
    Case("pair -1", (X, W), {"padding": (1, -2)}, VALUE, "negative padding is not supported", "(1, -2)", False),
    Case("dilation 0", (X, W), {"dilation": 0}, VALUE, "non-positive dilation is not supported", "dilation=0"),
    Case("dilation -3", (X, W), {"dilation": -3}, VALUE, "dilation should be greater than zero", "dilation=-3", False),
    Case("groups 0", (X, W), {"groups": 0}, VALUE, "non-positive groups is not supported", "groups=0"),
    Case("weight 2-D", (X, (6, 4)), {}, VALUE, "weight should have at least three dimensions", "[6, 4]"),
    Case("weight 1-D", (X, (6,)), {}, VALUE, "weight should have at least three dimensions", "[6]"),
    Case("weight 4-D", (X, (6, 4, 3, 3)), {}, VALUE, "Expected 4-dimensional input for 4-dimensional weight [6, 4, 3, 3], but got 3-dimensional input of size [2, 4, 10] instead"),
    Case("groups 7", (X, W), {"groups": 7}, VALUE, "Given groups=7, expected weight to be at least 7 at dimension 0, but got weight of size [6, 4, 3] instead"),
    Case("groups 4", (X, (6, 1, 3)), {"groups": 4}, VALUE, "Given groups=4, expected weight to be divisible by 4 at dimension 0, but got weight of size [[6, 1, 3]] instead"),
    Case("channels", ((2, 5, 10), W), {}, VALUE, "Given groups=1, weight of size [6, 4, 3], expected input[2, 5, 10] to have 4 channels, but got 5 channels instead"),
    Case("channels unbatched", ((5, 10), W), {}, VALUE, "Given groups=1, weight of size [6, 4, 3], expected input[1, 5, 10] to have 4 channels, but got 5 channels instead"),
    Case("channels groups", (X, W), {"groups": 2}, VALUE, "Given groups=2, weight of size [6, 4, 3], expected input[2, 4, 10] to have 8 channels, but got 4 channels instead"),
    Case("bias length", (X, W, (5,)), {}, VALUE, "Given weight of size [6, 4, 3], expected bias to be 1-dimensional with 6 elements, but got bias of size [5] instead"),
    Case("bias 2-D", (X, W, (6, 1)), {}, VALUE, "expected bias to be 1-dimensional with 6 elements, but got bias of size [6, 1] instead"),
    Case("long kernel", ((2, 4, 2), W), {}, VALUE, TOO_LONG.format(2, 3)),
    Case("long dilated", (X, W), {"dilation": 9, "padding": 4}, VALUE, TOO_LONG.format(18, 19)),
    Case("empty length", ((2, 4, 0), W), {"padding": 1}, VALUE, TOO_LONG.format(2, 3)),
    Case("empty batch", ((0, 4, 2), W), {}, VALUE, TOO_LONG.format(2, 3)),
    Case("empty padded", ((2, 4, 0), W), {"padding": 2}, VALUE, "Only zero batch or zero channel inputs are supported, but got input shape: [2, 4,"),
    Case("no outputs", (X, (0, 4, 3)), {}, VALUE, "Given groups=1, expected weight to be at least 1 at dimension 0, but got weight of size [0, 4, 3] instead"),
    Case("kernel 0", (X, (6, 4, 0)), {}, VALUE, "kernel size should be greater than zero", "[6, 4, 0]", False),
    Case("input 1-D", ((4,), W), {}, VALUE, "Expected 2D (unbatched) or 3D (batched) input to conv1d, but got input of size: [4]"),
    Case("input 4-D", ((1, 2, 4, 10), W), {}, VALUE, "Expected 2D (unbatched) or 3D (batched) input to conv1d, but got input of size: [1, 2, 4, 10]"),
    Case("input 0-D", ((), W), {}, VALUE, "Expected 2D (unbatched) or 3D (batched) input to conv1d, but got input of size: []"),
    Case("same stride", (X, W), {"stride": 2, "padding": "same"}, VALUE, "padding='same' is not supported for strided convolutions", "stride=2"),
    Case("string", (X, W), {"padding": "foo"}, VALUE, "Invalid padding string: 'foo'"),
    Case("stride pair", (X, W), {"stride": (1, 1)}, VALUE, "expected stride to be a single integer value or a list of 1 values to match the convolution dimensions, but got stride=[1, 1]"),
    Case("padding triple", (X, W), {"padding": (1, 1, 1)}, VALUE, "expected padding to be a single integer value or a list of 1 values to match the convolution dimensions, but got padding=[1, 1, 1]"),
    Case("stride ()", (X, W), {"stride": ()}, VALUE, "expected stride to be a single integer value", "stride=[]"),
    Case("stride nan", (X, W), {"stride": NAN}, TYPE, "received an invalid combination of arguments", "stride=nan"),
    Case("stride 1.0", (X, W), {"stride": 1.0}, TYPE, "received an invalid combination of arguments", "stride=1.0"),
    Case("stride None", (X, W), {"stride": None}, TYPE, "received an invalid combination of arguments", "stride=None"),
    Case("padding None", (X, W), {"padding": None}, TYPE, "received an invalid combination of arguments", "padding=None"),
    Case("dilation str", (X, W), {"dilation": "x"}, TYPE, "received an invalid combination of arguments", "dilation='x'"),
    Case("groups str", (X, W), {"groups": "x"}, TYPE, "received an invalid combination of arguments", "groups='x'"),
    Case("groups True", (X, W), {"groups": True}, TYPE, "received an invalid combination of arguments", "groups=True"),
    Case("stride (True,)", (X, W), {"stride": (True,)}, TYPE, "received an invalid combination of arguments", "(True,)"),
    Case("stride 2^63", (X, W), {"stride": BIG}, OVER, "Overflow when unpacking long long", "stride=9223372036854775808"),
    Case("padding 2^63-5", (X, W), {"padding": BIG - 5}, OVER, "Given padding=9223372036854775803 at dimension 0 , expected padding to be at most 4611686018427387903"),
    Case("padding 2^62-1", (X, W), {"padding": 2**62 - 1}, OVER, "9223372036854775816", torch=False),
    Case("dilation 2^31", (X, W), {"dilation": 2**31}, VALUE, TOO_LONG.format(10, 2**32 + 1)),
    Case("dilation 2^62", (X, W), {"dilation": 2**62}, OVER, "got 9223372036854775809", torch=False),
    Case("same 2^62", (X, W), {"dilation": 2**62, "padding": "same"}, OVER, "9223372036854775818", torch=False),
]  # fmt: skip

WT = (4, 6, 3)
TRANSPOSED = [
    Case("stride 0", (X, WT, B), {"stride": 0}, VALUE, "non-positive stride is not supported", "stride=0"),
    Case("padding -1", (X, WT), {"padding": -1}, VALUE, "negative padding is not supported", "padding=-1"),
    Case("output_padding -1", (X, WT), {"output_padding": -1}, VALUE, "negative output_padding is not supported", "output_padding=-1"),
    Case("output_padding 2", (X, WT), {"stride": 2, "output_padding": 2}, VALUE, "output padding must be smaller than either stride or dilation, but got output_padding", "output_padding=2 stride=2 dilation=1"),
    Case("dilation -1", (X, WT), {"dilation": -1}, VALUE, "dilation should be greater than zero", "dilation=-1"),
    Case("groups 0", (X, WT), {"groups": 0}, VALUE, "non-positive groups is not supported", "groups=0"),
    Case("groups 3", (X, WT), {"groups": 3}, VALUE, "Given groups=3, expected weight to be divisible by 3 at dimension 0, but got weight of size [[4, 6, 3]] instead"),
    Case("groups 5", (X, WT), {"groups": 5}, VALUE, "Given groups=5, expected weight to be at least 5 at dimension 0, but got weight of size [4, 6, 3] instead"),
    Case("channels", ((2, 5, 10), WT), {}, VALUE, "Given transposed=1, weight of size [4, 6, 3], expected input[2, 5, 10] to have 4 channels, but got 5 channels instead"),
    Case("bias", (X, WT, (5,)), {}, VALUE, "Given transposed=1, weight of size [4, 6, 3], expected bias to be 1-dimensional with 6 elements, but got bias of size [5] instead"),
    Case("bias groups", (X, WT, (6,)), {"groups": 2}, VALUE, "expected bias to be 1-dimensional with 12 elements, but got bias of size [6] instead"),
    Case("cropped", ((2, 4, 1), WT), {"padding": 2}, VALUE, "Output size is too small", "(-1)", False),
    Case("input 1-D", ((4,), WT), {}, VALUE, "Expected 2D (unbatched) or 3D (batched) input to conv_transpose1d, but got input of size: [4]"),
    Case("weight 2-D", (X, (4, 6)), {}, VALUE, "weight should have at least three dimensions", "[4, 6]"),
    Case("weight 4-D", (X, (4, 6, 3, 3)), {}, VALUE, "Expected 4-dimensional input for 4-dimensional weight [4, 6, 3, 3]"),
    Case("padding str", (X, WT), {"padding": "same"}, TYPE, "must be tuple of ints, not str", "padding='same'"),
    Case("no inputs", ((2, 0, 10), (0, 6, 3)), {}, VALUE, "Given groups=1, expected weight to be at least 1 at dimension 0, but got weight of size [0, 6, 3] instead"),
    Case("no outputs", (X, (4, 0, 3)), {}, VALUE, "weight tensor expected, but got: [4, 0, 3]", torch=False),
    Case("empty length", ((2, 4, 0), WT), {}, VALUE, "Only zero batch or zero channel inputs are supported, but got input shape: [2, 4,"),
    Case("stride 2^62", (X, WT), {"stride": 2**62}, OVER, "the size of the output should be at most", torch=False),
    Case("output_padding nan", (X, WT), {"output_padding": NAN}, TYPE, "received an invalid combination of arguments", "output_padding=nan", False),
]  # fmt: skip


def _ours(function, case):
    arrays = [zeros(*shape) for shape in case.args]
    with pytest.raises(case.error) as caught:
        function(*arrays, **case.kwargs)
    return str(caught.value)


@pytest.mark.parametrize("case", CONV, ids=lambda case: case.name)
def test_conv1d(case):
    message = _ours(fastconv1d.conv1d, case)
    assert case.words in message
    assert case.also in message


@pytest.mark.parametrize("case", TRANSPOSED, ids=lambda case: case.name)
def test_conv_transpose1d(case):
    message = _ours(fastconv1d.conv_transpose1d, case)
    assert case.words in message
    assert case.also in message


@pytest.mark.parametrize(
    ("name", "case"),
    [("conv1d", case) for case in CONV if case.torch]
    + [("conv_transpose1d", case) for case in TRANSPOSED if case.torch],
    ids=lambda value: getattr(value, "name", value),
)
def test_torch_says_these_words(name, case):
    torch = pytest.importorskip("torch")
    function = getattr(torch.nn.functional, name)
    tensors = [torch.from_numpy(zeros(*shape)) for shape in case.args]
    with pytest.raises((RuntimeError, ValueError, TypeError), match=re.escape(case.words)):
        function(*tensors, **case.kwargs)


@pytest.mark.parametrize("case", CONV + TRANSPOSED, ids=lambda case: case.name)
def test_gradients_refuse_the_same(case):
    name = "conv1d_backward" if case in CONV else "conv_transpose1d_backward"
    if len(case.args) == 2:
        with pytest.raises(case.error, match=re.escape(case.words)):
            arrays = [zeros(*shape) for shape in case.args]
            getattr(fastconv1d, name)(zeros(2, 6, 8), *arrays, **case.kwargs)


MODES = [
    ("reflect", 10, X, "Padding size should be less than the corresponding input dimension, but got: padding (10, 10) at dimension 2 of input [2, 4, 10]"),
    ("circular", 11, X, "Padding value causes wrapping around more than once."),
    ("replicate", 9, (2, 4, 0), "Expected 2D or 3D (batch mode) tensor with possibly 0 batch size and other non-zero dimensions for input, but got: [2, 4, 0]"),
    ("reflect", 1, (2, 0, 10), "Expected 2D or 3D (batch mode) tensor with possibly 0 batch size and other non-zero dimensions for input, but got: [2, 0, 10]"),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "padding", "shape", "words"), MODES)
def test_limits_of_padding_modes(mode, padding, shape, words):
    w = zeros(6, shape[1], 3)
    with pytest.raises(ValueError, match=re.escape(words)):
        fastconv1d.conv1d(zeros(*shape), w, padding=padding, padding_mode=mode)
    torch = pytest.importorskip("torch")
    with pytest.raises(RuntimeError, match=re.escape(words)):
        torch.nn.functional.pad(torch.zeros(shape), (padding, padding), mode=mode)


def test_paddings_at_their_limits_are_accepted():
    x, w = zeros(1, 4, 10), zeros(6, 4, 3)
    for mode, padding in (("reflect", 9), ("circular", 10), ("replicate", 33)):
        y = fastconv1d.conv1d(x, w, padding=padding, padding_mode=mode)
        assert y.shape == (1, 6, 10 + 2 * padding - 2)


def test_unknown_padding_mode():
    with pytest.raises(ValueError, match=r"padding_mode must be one of .* but got .*'foo'"):
        fastconv1d.conv1d(zeros(*X), zeros(*W), padding_mode="foo")
    with pytest.raises(TypeError, match=r"padding_mode should be a string, not list.*\[\]"):
        fastconv1d.conv1d(zeros(*X), zeros(*W), padding_mode=[])


DTYPES = ("float32", "float64", "complex64", "complex128")


@pytest.mark.parametrize("function", [fastconv1d.conv1d, fastconv1d.conv_transpose1d])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("other", [*DTYPES, "int64", "float16"])
def test_mixed_dtypes(function, dtype, other):
    if dtype == other:
        return
    x, w, b = zeros(1, 4, 5, dtype=dtype), zeros(4, 4, 3, dtype=dtype), zeros(4, dtype=dtype)
    match = rf"Input type \({dtype}\) and weight type \({other}\) should be the same"
    with pytest.raises(TypeError, match=match):
        function(x, zeros(4, 4, 3, dtype=other), b)
    with pytest.raises(TypeError, match=match.replace("weight", "bias")):
        function(x, w, zeros(4, dtype=other))
    backward = getattr(fastconv1d, function.__name__ + "_backward")
    as_other = np.zeros(function(x, w).shape, other)
    with pytest.raises(TypeError, match=match.replace("weight", "grad_output")):
        backward(as_other, x, w)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [("int64", "Long"), ("int32", "Int"), ("uint8", "Byte"), ("bool", "Bool")],
)
def test_unsupported_dtypes(dtype, name):
    x, w = zeros(1, 4, 5, dtype=dtype), zeros(4, 4, 3, dtype=dtype)
    for function in (fastconv1d.conv1d, fastconv1d.conv_transpose1d):
        with pytest.raises(TypeError, match=f"not implemented for '{name}'.*got .* {dtype}"):
            function(x, w)
    for function in (fastconv1d.unfold1d, lambda x, k: fastconv1d.fold1d(x, 6, k)):
        with pytest.raises(TypeError, match=f"not implemented for '{name}'"):
            function(x, 2)


def test_array_likes():
    expected = fastconv1d.conv1d(np.arange(5.0)[None], np.ones((1, 1, 2)))
    np.testing.assert_array_equal(
        fastconv1d.conv1d([[0.0, 1.0, 2.0, 3.0, 4.0]], [[[1.0, 1.0]]]), expected
    )
    with pytest.raises(TypeError, match="'Long'"):
        fastconv1d.conv1d([[0, 1, 2]], [[[1, 1]]])
    for hopeless in (None, "x", object(), [[None]]):
        with pytest.raises(TypeError):
            fastconv1d.conv1d(hopeless, np.ones((1, 1, 2)))


def test_grad_output_shape():
    x, w = zeros(*X), zeros(*W)
    with pytest.raises(ValueError, match=r"\[2, 6, 8\], but got \[2, 6, 7\]"):
        fastconv1d.conv1d_backward(zeros(2, 6, 7), x, w)
    with pytest.raises(ValueError, match=r"\[6, 8\], but got \[5, 8\]"):
        fastconv1d.conv1d_backward(zeros(5, 8), x[0], w)
    with pytest.raises(ValueError, match="same number of dimensions, but got: 3 and 2"):
        fastconv1d.conv1d_backward(zeros(6, 8), x, w)
    with pytest.raises(ValueError, match=r"\[2, 6, 12\], but got \[2, 6, 8\]"):
        fastconv1d.conv_transpose1d_backward(zeros(2, 6, 8), x, zeros(*WT))


def test_output_mask():
    x, w, g = zeros(*X), zeros(*W), zeros(2, 6, 8)
    for mask in ((True, False), (True,) * 4):
        with pytest.raises(ValueError, match="three bools"):
            fastconv1d.conv1d_backward(g, x, w, output_mask=mask)
    with pytest.raises(TypeError, match="three bools, got 3"):
        fastconv1d.conv1d_backward(g, x, w, output_mask=3)


def test_sizes_of_single_gradients():
    w, g = zeros(*W), zeros(2, 6, 8)
    for size, error, words in (
        ((2, 4, 9), ValueError, r"\[2, 6, 7\], but got \[2, 6, 8\]"),
        ((4,), ValueError, r"Expected 2D .*: \[4\]"),
        ((2, 4, -1), ValueError, "negative dimensions"),
        ((2, 4, 1.5), TypeError, "tuple of ints"),
        (7, TypeError, "tuple of ints, got 7"),
        ((2, 4, 2**63), OverflowError, "64 bits"),
    ):
        with pytest.raises(error, match=words):
            fastconv1d.grad.conv1d_input(size, w, g)
    with pytest.raises(ValueError, match="at least three dimensions"):
        fastconv1d.grad.conv1d_weight(zeros(*X), (6, 4), g)


def test_out_is_filled_and_returned():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(X).astype(np.float32)
    w = rng.standard_normal(W).astype(np.float32)
    b = rng.standard_normal(B).astype(np.float32)
    expected = fastconv1d.conv1d(x, w, b)
    outs = [
        np.full((2, 6, 8), np.nan, np.float32),
        np.full((2, 8, 6), np.nan, np.float32).swapaxes(1, 2),
        np.full((2, 6, 16), np.nan, np.float32)[:, :, ::-2],
        np.frombuffer(bytearray(2 * 6 * 8 * 4 + 1), np.uint8)[1:].view(np.float32).reshape(2, 6, 8),
    ]
    for out in outs:
        assert fastconv1d.conv1d(x, w, b, out=out) is out
        assert out.tobytes() == expected.tobytes()
    out = np.empty((6, 8), np.float32)
    assert fastconv1d.conv1d(x[0], w, b, out=out) is out
    np.testing.assert_array_equal(out, fastconv1d.conv1d(x[0], w, b))
    wt = rng.standard_normal(WT).astype(np.float32)
    out = np.empty((2, 12, 6), np.float32).swapaxes(1, 2)
    assert fastconv1d.conv_transpose1d(x, wt, out=out) is out
    np.testing.assert_array_equal(out, fastconv1d.conv_transpose1d(x, wt))


def test_out_is_checked():
    x, w = zeros(*X), zeros(*W)
    frozen = zeros(2, 6, 8)
    frozen.flags.writeable = False
    for out, words in (
        (zeros(2, 6, 7), r"shape \[2, 6, 8\], got \[2, 6, 7\]"),
        (zeros(6, 8), r"shape \[2, 6, 8\], got \[6, 8\]"),
        (zeros(2, 6, 8, dtype=np.float64), "dtype float32, got float64"),
        (zeros(2, 6, 8, dtype=np.dtype(np.float32).newbyteorder()), "dtype float32, got"),
        (frozen, "writeable"),
        (np.lib.stride_tricks.as_strided(zeros(99), (2, 6, 8), (32, 4, 4)), "overlap itself"),
    ):
        with pytest.raises(ValueError, match=words):
            fastconv1d.conv1d(x, w, out=out)
    with pytest.raises(TypeError, match="out should be an ndarray, got list"):
        fastconv1d.conv1d(x, w, out=[])


def test_out_overlapping_an_input():
    memory = zeros(1000)
    x, w, b = memory[:80].reshape(X), memory[80:152].reshape(W), memory[152:158]
    for start in (0, 40, 79, 100, 155, 157):
        out = memory[start : start + 96].reshape(2, 6, 8)
        with pytest.raises(ValueError, match="share no memory with an input"):
            fastconv1d.conv1d(x, w, b, out=out)
    out = memory[158 : 158 + 96].reshape(2, 6, 8)
    assert fastconv1d.conv1d(x, w, b, out=out) is out
    interleaved = zeros(2, 6, 16)
    x = interleaved[:, :4, ::2]
    out = interleaved[:, :, 1::2]
    w = np.ones((6, 4, 1), np.float32)
    assert fastconv1d.conv1d(x, w, out=out) is out


def test_results_too_large():
    x, w = zeros(1, 1, 1), zeros(1, 1, 1)
    with pytest.raises(OverflowError, match="2\\*\\*63 bytes"):
        fastconv1d.conv1d(x, w, padding=2**61)
    with pytest.raises(MemoryError):
        fastconv1d.conv1d(x, w, padding=2**55)
    with pytest.raises(MemoryError):
        fastconv1d.conv_transpose1d(np.zeros((1, 1, 2)), np.zeros((1, 1, 1)), stride=2**55)


def test_huge_parameters_that_are_fine():
    x, w = np.arange(1.0, 11)[None], np.ones((1, 1, 3))
    y = fastconv1d.conv1d(x, w, dilation=2**31, padding="same")
    np.testing.assert_array_equal(y, x)
    y = fastconv1d.conv1d(x, w, stride=2**63 - 1)
    np.testing.assert_array_equal(y, [[6.0]])
    y = fastconv1d.conv1d(x, w[:, :, :1], dilation=2**63 - 1)
    np.testing.assert_array_equal(y, x)
    y = fastconv1d.conv1d(x, w, stride=2**60, padding=2**60)
    np.testing.assert_array_equal(y, [[0.0, 6.0, 0.0]])
    g = np.ones((1, 3))
    dx, dw, _ = fastconv1d.conv1d_backward(
        g, x, w, stride=2**60, padding=2**60, padding_mode="replicate"
    )
    np.testing.assert_array_equal(dx, [[4.0, 1, 1, 0, 0, 0, 0, 0, 0, 3]])
    np.testing.assert_array_equal(dw, [[[12.0, 13.0, 14.0]]])


FOLDS = [
    ("unfold1d", (X, 0), {}, "kernel size should be greater than zero"),
    ("unfold1d", (X, 3), {"stride": 0}, "stride should be greater than zero"),
    ("unfold1d", (X, 3), {"dilation": 0}, "dilation should be greater than zero"),
    ("unfold1d", (X, 3), {"padding": -1}, "padding should be non-negative"),
    ("unfold1d", (X, 30), {}, "but its components must be at least one."),
    ("unfold1d", ((2, 0, 10), 3), {}, "other non-zero dimensions for input, but got: [2, 0, 10]"),
    ("fold1d", ((2, 12, 8), 11, 3), {}, "expected size of input's dimension 2 to match the calculated number of sliding blocks"),
    ("fold1d", ((2, 11, 8), 10, 3), {}, "Expected size of input's dimension 1 to be divisible by the product of kernel_size, but got input.size(1)=11"),
    ("fold1d", ((2, 0, 8), 10, 3), {}, "non-zero dimensions for input, but got: [2, 0, 8]"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args", "kwargs", "words"), FOLDS)
def test_unfold1d_and_fold1d(name, args, kwargs, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        getattr(fastconv1d, name)(zeros(*args[0]), *args[1:], **kwargs)
    for function in (fastconv1d.unfold1d, lambda x, k: fastconv1d.fold1d(x, 4, k)):
        with pytest.raises(ValueError, match="Expected 2D"):
            function(zeros(3), 2)
        with pytest.raises(TypeError, match="kernel_size should be an int"):
            function(zeros(*X), 1.5)
