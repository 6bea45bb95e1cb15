"""Limits of the direct engine: scratch, hostile parameters, signals, changed attributes."""

import ctypes
import itertools
import os
import platform
import signal
import sys
import threading
import time

import numpy as np
import pytest
from primitives import in_subprocess, window

import fastconv1d
from fastconv1d.core import convolution
from fastconv1d.kernels import direct_engine

MIB = 1 << 20


def random_parameters(rng):
    def log(top):
        return int(np.exp(rng.uniform(0, np.log(top))))

    kernel, stride, dilation = log(2000), log(800), log(2000)
    return log(400), log(100), kernel, stride, dilation


@pytest.mark.parametrize("isa", direct_engine.supported_isas())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scratch_is_bounded_for_any_layer_length_and_batch(isa, dtype):
    before = direct_engine.isa()
    direct_engine.set_isa(isa)
    rng = np.random.default_rng(0)
    direct_engine.largest_scratch(reset=True)
    ran = 0
    try:
        for transposed in (False, True) * 100:
            c_in, c_out, kernel, stride, dilation = random_parameters(rng)
            n_batch, extra = int(rng.integers(1, 200)), int(rng.integers(1, 60))
            if direct_engine.unsuited(
                "f", (c_out, c_in, kernel), stride, dilation, 0, 0, transposed
            ):
                continue
            length = extra if transposed else dilation * (kernel - 1) + extra * stride
            outputs = (length - 1) * stride + dilation * (kernel - 1) + 1 if transposed else extra
            macs = n_batch * c_in * c_out * kernel * extra
            if max(macs, 30 * n_batch * (c_in * length + c_out * outputs)) > 5e7:
                continue
            weight = np.zeros((c_in, c_out, kernel) if transposed else (c_out, c_in, kernel), dtype)
            x = np.zeros((n_batch, c_in, length), dtype)
            args = (None, window(stride, dilation), transposed)
            layer = direct_engine.PreparedLayer(weight, *args)
            assert layer(x) is not None
            assert direct_engine.largest_scratch() <= 4 * MIB, (weight.shape, x.shape, args)
            ran += 1
    finally:
        direct_engine.set_isa(before)
    assert ran > 30


def test_hostile_reaches_are_refused():
    x = np.ones((1, 1, 40), np.float32)
    layer = fastconv1d.Conv1d(1, 1, 2**20 + 5, dilation=2**50, stride=2**40 - 1)
    with pytest.raises((ValueError, OverflowError)):
        layer(x)
    assert direct_engine.unsuited("f", (1, 1, 2**23), 1, 2**41 - 1, 0, 0, False) is not None
    assert direct_engine.unsuited("f", (1, 1, 2**62), 1, 2**39, 0, 0, False) is not None


@pytest.mark.parametrize("backward", [False, True])
def test_a_long_call_is_interrupted(backward):
    x, w = np.ones((1, 256, 40000), np.float32), np.ones((256, 256, 31), np.float32)
    g = np.ones((1, 256, 39970), np.float32)
    sent = []

    def interrupt():
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.2, interrupt)
    try:
        with fastconv1d.num_threads(1), pytest.raises(KeyboardInterrupt):
            timer.start()
            while True:
                if backward:
                    fastconv1d.conv1d_backward(g, x, w, output_mask=(False, True, False))
                else:
                    fastconv1d.conv1d(x, w)
    finally:
        timer.cancel()  # after another error it would interrupt the tests that follow
    assert len(sent) == 1
    np.testing.assert_array_equal(fastconv1d.conv1d(x[:, :, :31], w), 256 * 31)


@pytest.mark.parametrize(
    ("name", "value"), [("stride", (0,)), ("dilation", (0,)), ("groups", 0), ("groups", 3)]
)
def test_a_layer_with_a_broken_attribute_says_so(name, value):
    layer = fastconv1d.Conv1d(4, 4, 3)
    x = np.ones((1, 4, 20), np.float32)
    y = layer(x)
    with pytest.raises(ValueError, match=name):
        setattr(layer, name, value)
    np.testing.assert_array_equal(layer(x), y)


def test_changed_attributes_are_used():
    layer = fastconv1d.Conv1d(1, 1, 1)
    x = np.ones((1, 1, 40), np.float32)
    assert layer(x).shape == (1, 1, 40)
    layer.padding, layer.stride = (3,), (5,)
    assert layer(x).shape == (1, 1, 10)


def test_a_pack_made_of_replaced_parameters_is_not_used(monkeypatch):
    layer = fastconv1d.Conv1d(1, 1, 1, bias=False)
    x = np.ones((1, 1, 4), np.float32)
    layer.weight = np.ones((1, 1, 1), np.float32)
    slow = convolution.Pack

    def replace_meanwhile(*args):
        monkeypatch.undo()
        layer.weight = np.full((1, 1, 1), 5, np.float32)
        return slow(*args)

    monkeypatch.setattr(convolution, "Pack", replace_meanwhile)
    layer(x)
    np.testing.assert_array_equal(layer(x), 5)


def test_bias_gradient_of_a_long_constant():
    g = np.full((1, 2, 3_000_000), 0.1, np.float32)
    _, _, db = fastconv1d.conv1d_backward(
        g, g[:, :1], np.ones((2, 1, 1), np.float32), output_mask=(False, False, True)
    )
    exact = 3e6 * float(np.float32(0.1))
    assert np.all(abs(db - exact) <= 8 * 2.0**-24 * exact)


def test_sizes_beyond_64_bits_are_overflows():
    big = np.broadcast_to(np.float32(1), (2**22, 1, 2**35))
    with pytest.raises(OverflowError, match="2\\*\\*63"):
        fastconv1d.ConvTranspose1d(1, 1, 64, stride=64)(big)


# ---- what a window does not hold -----------------------------------------------------------------

# Layers whose short items share a tile, or whose rows end within a vector.
GAPS = [
    (32, 200, 200, 26, {"kernel_size": 5, "padding": 16, "dilation": 8}),
    (4, 513, 64, 3, {"kernel_size": 11, "padding": 5}),
    (16, 24, 12, 7, {"kernel_size": 3, "padding": 1}),
    (9, 6, 8, 5, {"kernel_size": 4, "stride": 2, "padding": 2}),
    (1, 16, 16, 33, {"kernel_size": 3}),
    (7, 16, 16, 13, {"kernel_size": 1}),
]


def print_overflows():
    """Say of each layer whether it overflows where fresh memory holds numbers near the largest."""
    libm = ctypes.CDLL("libm.so.6")
    for isa, dtype in itertools.product(direct_engine.supported_isas(), ("float32", "float64")):
        direct_engine.set_isa(isa)
        for n, c_in, c_out, length, options in GAPS:
            layers = [
                (fastconv1d.Conv1d(c_in, c_out, dtype=dtype, **options), (n, c_in, length)),
                (fastconv1d.Conv1d(c_in, c_out, dtype=dtype, layout="NLC", **options),
                 (n, length, c_in)),
                (fastconv1d.ConvTranspose1d(c_in, c_out, dtype=dtype, **options),
                 (n, c_in, 20 + length)),
            ]  # fmt: skip
            for layer, shape in layers:
                x = np.ones(shape, dtype)
                with fastconv1d.num_threads(1):
                    libm.feclearexcept(8)
                    layer(x)
                    print(isa, dtype, layer, shape, bool(libm.fetestexcept(8)))


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="glibc's switch, x86's flag"
)
def test_nothing_is_computed_of_fresh_memory(monkeypatch):
    """Subnormal numbers in it made layers 30 times as slow."""
    monkeypatch.setenv("MALLOC_PERTURB_", "128")  # bytes of 0x7f: 3.4e38 or 1.4e306
    lines = in_subprocess("test_direct_limits", "print_overflows").splitlines()
    assert len(lines) == 6 * len(direct_engine.supported_isas()) * len(GAPS)
    assert [line for line in lines if line.endswith("True")] == []
