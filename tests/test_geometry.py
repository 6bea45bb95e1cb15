"""Lengths, paddings and integers against their definitions in unlimited integers."""

import random

import numpy as np
import pytest

from fastconv1d.core import geometry

HUGE = (0, 1, 2, 3, 2**31 - 1, 2**31, 2**61, 2**62 - 1, 2**63 - 1)


def _windows(padded, extent, stride):
    return len(range(0, padded - extent + 1, stride))


def test_conv_length_counts_the_windows():
    draw = random.Random(0)
    for _ in range(5_000):
        l_in, left, right = draw.randint(0, 30), draw.randint(0, 9), draw.randint(0, 9)
        kernel_size, stride, dilation = (draw.randint(1, 6) for _ in range(3))
        padded, extent = l_in + left + right, dilation * (kernel_size - 1) + 1
        if extent > padded:
            with pytest.raises(ValueError, match=rf"Kernel size: \({extent}\)"):
                geometry.conv_length(l_in, kernel_size, stride, left, right, dilation)
        else:
            length = geometry.conv_length(l_in, kernel_size, stride, left, right, dilation)
            assert length == _windows(padded, extent, stride)


def test_conv_length_is_exact_or_overflows():
    draw = random.Random(1)
    for _ in range(20_000):
        l_in, left, right, kernel_size, stride, dilation = (draw.choice(HUGE) for _ in range(6))
        kernel_size, stride, dilation = (max(1, v) for v in (kernel_size, stride, dilation))
        padded, extent = l_in + left + right, dilation * (kernel_size - 1) + 1
        try:
            length = geometry.conv_length(l_in, kernel_size, stride, left, right, dilation)
        except OverflowError:
            assert max(padded, extent) >= 2**63
        except ValueError:
            assert extent > padded
        else:
            assert max(padded, extent) < 2**63
            assert (length - 1) * stride + extent <= padded < length * stride + extent


def test_conv_transpose_length_inverts_conv_length():
    draw = random.Random(2)
    for _ in range(5_000):
        l_in, left, right = draw.randint(1, 40), draw.randint(0, 4), draw.randint(0, 4)
        kernel_size, stride, dilation = (draw.randint(1, 5) for _ in range(3))
        extent = dilation * (kernel_size - 1) + 1
        if extent > l_in + left + right:
            continue
        length = geometry.conv_length(l_in, kernel_size, stride, left, right, dilation)
        rest = (l_in + left + right - extent) % stride
        back = geometry.conv_transpose_length(
            length, kernel_size, stride, left, right, dilation, rest
        )
        assert back == l_in


def test_conv_transpose_length_limits():
    assert geometry.conv_transpose_length(2, 3, 1, 2, 2, 1) == 0
    with pytest.raises(ValueError, match=r"size per channel: \(-1\)\. Output size is too small"):
        geometry.conv_transpose_length(1, 3, 1, 2, 2, 1)
    with pytest.raises(OverflowError, match=str(2**63)):
        geometry.conv_transpose_length(3, 2**62, 2**61, 0, 0, 1)


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        (0, (0, 0)),
        (3, (3, 3)),
        ((3,), (3, 3)),
        ([3], (3, 3)),
        ((1, 2), (1, 2)),
        ([0, 5], (0, 5)),
        (np.int8(2), (2, 2)),
        ((np.int64(1), np.uint8(4)), (1, 4)),
        ("valid", (0, 0)),
        (geometry.PADDING_MAX, (geometry.PADDING_MAX,) * 2),
    ],
)
def test_resolve_padding(padding, expected):
    assert geometry.resolve_padding(padding, 3, 1, 1) == expected


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("dilation", [1, 2, 3, 2**31])
def test_same_keeps_the_length_and_pads_more_on_the_right(kernel_size, dilation):
    left, right = geometry.resolve_padding("same", kernel_size, 1, dilation)
    assert 0 <= right - left <= 1
    assert geometry.conv_length(50, kernel_size, 1, left, right, dilation) == 50


@pytest.mark.parametrize(
    "value", [2, (2,), [2], np.int8(2), np.uint64(2), np.array(2), (np.int32(2),)]
)
def test_as_index_accepts_integers(value):
    result = geometry.as_index("stride", value)
    assert result == 2
    assert type(result) is int


@pytest.mark.parametrize(
    "value", [True, np.True_, 1.0, float("nan"), None, "x", "1", (1.0,), ((1,),)]
)
def test_as_index_refuses_other_types(value):
    with pytest.raises(TypeError, match="stride should be an int"):
        geometry.as_index("stride", value)


@pytest.mark.parametrize("value", [(), (1, 1), [1, 2, 3]])
def test_as_index_refuses_other_lengths(value):
    with pytest.raises(ValueError, match="expected stride to be a single integer value"):
        geometry.as_index("stride", value)


@pytest.mark.parametrize(
    "value", [2**63, -(2**63), 2**64, 10**5000, np.uint64(2**63)], ids=geometry.shown
)
def test_as_index_refuses_more_than_64_bits(value):
    with pytest.raises(OverflowError, match="stride should fit in 64 bits"):
        geometry.as_index("stride", value)


def test_shown_is_short():
    assert geometry.shown(3.5) == "3.5"
    assert len(geometry.shown("x" * 10**6)) == 200
    assert geometry.shown([10**5000]) == "a list"


@pytest.mark.parametrize(("steps", "kernel_size"), [(1, 1), (1, 3), (5, 1)])
def test_steps_that_are_never_taken_are_cut(steps, kernel_size):
    stride, dilation = geometry.tamed(2**62, 2**62, steps, kernel_size)
    assert stride == (2**31 if steps == 1 else 2**62)
    assert dilation == (2**31 if kernel_size == 1 else 2**62)
