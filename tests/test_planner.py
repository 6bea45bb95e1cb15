"""Which engine computes a layer, what a forced one refuses, and the direct engine's scratch."""

import ctypes
import itertools
import re
import sys

import numpy as np
import pytest
from primitives import in_subprocess, window

import fastconv1d
from fastconv1d.core.engines import ALGORITHMS, checked_algorithm, choose_engine
from fastconv1d.kernels import blas_engine, direct_engine
from fastconv1d.planner import explain

FAR = 1 << 40

# (dtype, weight shape, stride, dilation, pads, transposed): who computes it under 'auto'
DIRECT = [
    ("F", (8, 8, 3), 1, 1, (0, 0), False),
    ("D", (8, 8, 3), 1, 1, (0, 0), True),
    ("f", (8, 8, 3), 1, 1, (0, 0), False),
    ("d", (8, 8, 3), 1, 1, (0, 0), False),
    ("f", (1, 1, 1), 1, 1, (0, 0), True),
    ("f", (64, 1, 31), 1, 1, (15, 15), False),
    ("f", (512, 512, 1), 1, 1, (0, 0), False),
    ("d", (1, 1, 4097), 1, 1, (2048, 2048), False),
    ("f", (1, 1, 4097), 9, 9, (0, 0), False),
    ("f", (8, 8, 2), 1, FAR // 2 - 1, (0, 0), False),
    ("f", (8, 8, 3), FAR - 1, 1, (0, 0), False),
    ("f", (8, 8, 3), 1, 1, (FAR - 1, FAR - 1), False),
    ("f", (8, 8, 3), 1024, 1, (0, 0), True),
]
BLAS = [
    ("F", (8, 8, 3), FAR, 1, (0, 0), False),
    ("f", (0, 8, 3), 1, 1, (0, 0), False),
    ("f", (8, 0, 3), 1, 1, (0, 0), False),
    ("f", (8, 8, 3), FAR, 1, (0, 0), False),
    ("f", (8, 8, 2), 1, FAR, (0, 0), False),
    ("f", (8, 8, 4), 1, FAR // 4, (0, 0), False),
    ("f", (8, 8, 3), 1, 1, (FAR, 0), False),
    ("f", (8, 8, 3), 1, 1, (0, FAR), False),
    ("f", (8, 8, 3), 1, 1, (-FAR, 0), True),
    ("f", (8, 8, 3), 1025, 1, (0, 0), True),
    ("f", (1, 1, 1_000_000), 1, 1, (0, 0), False),
    ("f", (1, 1, 2000), 1, 1000, (0, 0), False),
]


@pytest.mark.parametrize("layer", DIRECT)
def test_direct_wherever_it_can(layer):
    assert choose_engine("auto", *layer) is direct_engine
    assert choose_engine("direct", *layer) is direct_engine
    assert choose_engine("blas", *layer) is blas_engine


@pytest.mark.parametrize("layer", BLAS)
def test_blas_for_the_rest(layer):
    assert choose_engine("auto", *layer) is blas_engine
    assert choose_engine("blas", *layer) is blas_engine
    with pytest.raises(ValueError, match="algorithm='direct' cannot compute this layer") as error:
        choose_engine("direct", *layer)
    for value in (
        repr(layer[0]),
        str(list(layer[1])),
        f"stride={layer[2]}",
        f"dilation={layer[3]}",
    ):
        assert value in str(error.value)


def calls(algorithm, dtype=np.float32, **geometry):
    """Every public call that takes an algorithm, by name."""
    x, w, g = (np.ones(shape, dtype) for shape in ((1, 2, 9), (2, 2, 3), (1, 2, 7)))
    more = {"algorithm": algorithm, **geometry}
    yield "conv1d", lambda: fastconv1d.conv1d(x, w, **more)
    yield "conv_transpose1d", lambda: fastconv1d.conv_transpose1d(x, w, **more)
    yield "conv1d_backward", lambda: fastconv1d.conv1d_backward(g, x, w, **more)
    yield (
        "conv_transpose1d_backward",
        lambda: fastconv1d.conv_transpose1d_backward(np.ones((1, 2, 11), dtype), x, w, **more),
    )
    for layer in (fastconv1d.Conv1d, fastconv1d.ConvTranspose1d):
        yield layer.__name__, lambda layer=layer: layer(2, 2, 3, dtype=dtype, **more)(x)


@pytest.mark.parametrize("algorithm", ["", "Direct", "mkl", None, 1, b"blas", ["auto"]])
def test_unknown_algorithms(algorithm):
    rule = r"algorithm should be one of 'auto', 'blas', 'direct', 'fast', 'fft', 'winograd', got "
    with pytest.raises(ValueError, match=rule):
        checked_algorithm(algorithm)
    for name, call in calls(algorithm):
        with pytest.raises(ValueError, match=rule):
            pytest.fail(f"{name} accepted it: {call()}")


def test_known_algorithms():
    for algorithm in ALGORITHMS:
        assert checked_algorithm(algorithm) == algorithm
        for _, call in calls(algorithm):
            call()


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_direct_takes_complex(dtype):
    for _, call in calls("direct", dtype):
        call()


def test_direct_refuses_far_dilations():
    x, w = np.ones((1, 2, 9), np.float32), np.ones((2, 2, 3), np.float32)
    for dilation in (FAR, 1 << 60):
        where = {"dilation": dilation, "padding": dilation}
        assert fastconv1d.conv1d(x, w, **where).shape == (1, 2, 9)
        for call in (
            lambda where=where: fastconv1d.conv1d(x, w, algorithm="direct", **where),
            lambda where=where: fastconv1d.Conv1d(2, 2, 3, algorithm="direct", **where)(x),
        ):
            with pytest.raises(ValueError, match=f"below 2\\*\\*40, .* dilation={dilation}"):
                call()


# ---- scratch -----------------------------------------------------------------------------------

# (n_batch, c_in, c_out, l_in, kernel_size, stride, dilation, groups, transposed)
SCRATCH_LAYERS = [
    (1, 1, 16, 1_000_000, 31, 1, 1, 1, False),
    (1, 512, 512, 1500, 3, 1, 1, 1, False),
    (1, 3, 8, 300_000, 300, 1, 1, 1, False),
    (1, 1, 1, 1_000_000, 341, 4, 3, 1, False),
    (1, 2, 5, 1_200_000, 5, 3, 50_000, 1, False),
    (1, 1, 2, 1_000_000, 256, 1, 1000, 1, False),
    (500, 64, 64, 64, 3, 1, 1, 1, False),
    (20_000, 2, 3, 5, 3, 1, 1, 1, False),
    (1, 256, 256, 5000, 16, 8, 1, 1, True),
    (1, 4, 1, 3000, 3, 1024, 1, 1, True),
    (1, 4, 40, 300, 3, 1024, 1, 1, True),
    (60, 4, 4, 20, 300, 100, 1, 1, True),
    (3, 512, 512, 6000, 31, 1, 1, 512, False),
]


def status(field):
    with open("/proc/self/status", encoding="ascii") as file:
        return int(re.search(field + r":\s+(\d+) kB", file.read())[1]) * 1024


def added(call):
    """MiB that a call touches at most beyond what is in memory now."""
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak starts again
    before = status("VmRSS")
    call()
    return (status("VmHWM") - before) / 2**20


def scratch_of(
    dtype, n_batch, c_in, c_out, l_in, kernel_size, stride, dilation, groups, transposed
):
    """MiB that forward and weight gradient touch beyond operands, results and packed weights."""
    span = dilation * (kernel_size - 1) + 1
    l_out = (l_in - 1) * stride + span if transposed else (l_in - span) // stride + 1
    first, second = (c_in, c_out) if transposed else (c_out, c_in)
    x, y = np.ones((n_batch, c_in, l_in), dtype), np.ones((n_batch, c_out, l_out), dtype)
    w = np.ones((first, second // groups, kernel_size), dtype)
    dw = np.ones_like(w)
    layer = (w.shape, stride, dilation, (0, 0), transposed)
    assert choose_engine("direct", dtype, *layer) is direct_engine
    where = window(stride, dilation, groups=groups)

    def forward():
        if transposed:
            direct_engine.scatter(x, w, None, y, where, (1, False))
        else:
            direct_engine.correlate(x, w, None, y, where, (1, False))

    def gradient():
        short, long = (x, y) if transposed else (y, x)
        direct_engine.weight_gradient(short, long, dw, where, (1, False))

    return added(forward) - w.nbytes / 2**20, added(gradient)


def print_scratch():
    for isa, dtype in itertools.product(direct_engine.supported_isas(), ("f", "d")):
        direct_engine.set_isa(isa)
        for sizes in SCRATCH_LAYERS:
            print(isa, dtype, *sizes, *scratch_of(dtype, *sizes))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_scratch_is_bounded_whatever_the_layer():
    lines = in_subprocess("test_planner", "print_scratch").splitlines()
    assert len(lines) == 2 * len(direct_engine.supported_isas()) * len(SCRATCH_LAYERS)
    for line in lines:
        forward, gradient = map(float, line.split()[-2:])
        assert forward <= 4.5, line  # 4 MiB and what else the process touches
        assert gradient <= 8.5, line


def print_peak_of_a_long_layer():
    layer = fastconv1d.Conv1d(1, 16, 31, algorithm="direct")
    layer(np.ones((1, 1, 5000), np.float32))
    x = np.ones((1, 1, 10_000_000), np.float32)
    before = status("VmRSS")
    y = layer(x)
    print((status("VmHWM") - before - y.nbytes) / 2**20)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_peak_of_a_long_layer():
    assert float(in_subprocess("test_planner", "print_peak_of_a_long_layer")) < 8


# ---- explain -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (fastconv1d.Conv1d(64, 128, 3), (2, 64, 1000)),
        (fastconv1d.Conv1d(1, 40, 10, stride=5), (1, 1, 3000)),
        (fastconv1d.Conv1d(16, 16, 5, padding="same_lower", stride=2), (64, 16, 12)),
        (fastconv1d.Conv1d(6, 8, 7, layout="NLC"), (3, 50, 6)),
        (fastconv1d.Conv1d(96, 96, 7, groups=96, layout="NLC"), (3, 50, 96)),
        (fastconv1d.Conv1d(200, 200, 3, groups=200), (2, 200, 9)),
        (fastconv1d.ConvTranspose1d(32, 16, 8, stride=4, padding="causal"), (1, 32, 100)),
        (fastconv1d.ConvTranspose1d(8, 8, 3, stride=2, dilation=2, groups=4), (1, 8, 100)),
    ],
    ids=repr,
)
def test_explain_tells_the_scratch_that_a_call_takes(layer, shape):
    plan = explain(layer, shape, threads=1)
    direct_engine.largest_scratch(reset=True)
    with fastconv1d.num_threads(1):
        layer(np.ones(shape, np.float32))
    spare = direct_engine.largest_scratch() - plan["scratch_bytes"]
    assert 4096 <= spare < 4096 + 64  # a page apart, whole cache lines
    assert (plan["engine"], plan["isa"], plan["threads"]) == ("direct", direct_engine.isa(), 1)


def test_explain_gives_blocks_by_the_layer_and_units_by_the_threads():
    layer = fastconv1d.Conv1d(300, 128, 3)
    one, many = (explain(layer, (n, 300, 4000), threads=n) for n in (1, 8))
    assert one["ci_chain"] == many["ci_chain"] < 300 and one["k_block"] == many["k_block"] == 3
    assert many["units"] >= 4 * 8
    assert one["tiles"] * one["tile_cols"] >= 3998 > (one["tiles"] - 1) * one["tile_cols"]


@pytest.mark.parametrize(
    ("c_in", "kernel_size"), [(80, 7), (78, 7), (256, 11), (48, 128), (5, 300), (300, 1)]
)
def test_a_window_holds_whole_chains_of_at_most_128_terms(c_in, kernel_size):
    layer = fastconv1d.Conv1d(c_in, 16, kernel_size, padding=kernel_size // 2)
    plan = explain(layer, (1, c_in, 500), threads=1)
    assert 1 <= plan["ci_chain"] * plan["k_block"] <= 128
    assert plan["ci_block"] % plan["ci_chain"] == 0 or plan["ci_block"] == c_in
    assert plan["k_block"] == kernel_size or plan["ci_block"] == 1
    assert (plan["ci_block"] > plan["ci_chain"]) == (kernel_size in {7, 11, 128})


def test_explain_names_the_other_ways():
    conv = fastconv1d.Conv1d
    told = explain(conv(4, 4, 3, dtype=np.complex64), (1, 4, 9))
    assert (told["engine"], told["flops"]) == ("direct", 8 * 7 * 4 * 4 * 3)
    assert told["bytes"] == 8 * (4 * 9 + 4 * 7 + 4 * 4 * 3 + 4)
    told = explain(conv(4, 4, 3, dtype=np.complex64, algorithm="blas"), (1, 4, 9))
    assert (told["engine"], told["flops"]) == ("blas", 8 * 7 * 4 * 4 * 3)
    assert told["bytes"] == 8 * (4 * 9 + 4 * 7 + 4 * 4 * 3 + 4)
    told = explain(conv(64, 64, 5, algorithm="winograd"), (1, 64, 90))
    assert (told["engine"], told["flops"]) == ("winograd", 2 * 86 * 64 * 64 * 5)
    depthwise = explain(conv(8, 8, 3, groups=8, layout="NLC"), (1, 9, 8))
    assert depthwise["kernel"] == "run_positions"
    assert explain(conv(4, 4, 3), (1, 4, 90))["threads"] == 1  # below the work worth sharing


def test_explain_takes_one_item():
    layer = fastconv1d.Conv1d(64, 128, 3)
    assert explain(layer, (64, 1000)) == explain(layer, (1, 64, 1000))
    with pytest.raises(ValueError, match=r"a shape \(N, C, L\), or \(C, L\).*got \(64,\)"):
        explain(layer, (64,))


def test_explain_counts_as_summary_does():
    for layer in (fastconv1d.Conv1d(6, 8, 5, 2, groups=2), fastconv1d.ConvTranspose1d(6, 8, 4, 2)):
        assert explain(layer, (3, 6, 50))["flops"] == fastconv1d.flops(layer, (3, 6, 50))


@pytest.mark.parametrize("algorithm", ["auto", "winograd", "blas"])
def test_explain_measures(algorithm):
    layer = fastconv1d.Conv1d(64, 64, 3, padding=1, algorithm=algorithm)
    told = explain(layer, (1, 64, 500), threads=1, measure=True)
    assert told["engine"] == {"auto": "direct"}.get(algorithm, algorithm)
    assert told["gflops"] == pytest.approx(told["flops"] / told["seconds"] / 1e9)
    assert told["gbytes"] == pytest.approx(told["bytes"] / told["seconds"] / 1e9)
    assert 0 < told["share_of_fma_loop"] < 10


def test_explain_of_a_network():
    conv = fastconv1d.Conv1d
    net = fastconv1d.Sequential(
        fastconv1d.Tanh(),
        fastconv1d.Residual(conv(256, 256, 3, padding=1), fastconv1d.ReLU()),
        conv(256, 4, 1),
    )
    told = explain(net, (256, 1000), threads=1, measure=True)
    assert told["engine"] == "network"
    layers = told["layers"]
    engines = [(each["name"], each["engine"]) for each in layers]
    assert engines == [("0", "elementwise"), ("1.0", "direct"), ("2", "direct")]
    assert layers[1]["layer"] == repr(net[1][0])  # with the activation and the addition
    assert told["flops"] == fastconv1d.flops(net, (256, 1000))
    assert told["advice"].startswith("layer 1.0 (99% of the operations): algorithm='winograd'")
    assert all(each["seconds"] > 0 for each in (*layers[-2:], told))
    alone = explain(fastconv1d.Sequential(fastconv1d.ReLU()), (2, 3, 5))
    assert alone["layers"][0]["bytes"] == 2 * 4 * 2 * 3 * 5
    assert (alone["flops"], alone["advice"]) == (0, "")


CONV = fastconv1d.Conv1d


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (CONV(1, 1, 2001), (1, 100_000), "K = 2001: algorithm='fft' would take about 1/"),
        (CONV(64, 64, 301, groups=64), (64, 2000), "K = 301: algorithm='fft' would"),
        (CONV(4, 4, 3), (4, 30), "small: most of the time is the call itself"),
        (CONV(4, 320, 8), (64, 4, 1000), "bound by writing 77 MiB of output: give out="),
        (CONV(256, 256, 3), (256, 1000), "algorithm='winograd' takes less"),
        (CONV(256, 256, 3), (256, 32), ""),
        (CONV(256, 256, 3, stride=2), (256, 1000), ""),
        (CONV(64, 64, 3), (64, 40_000), "out= saves the new pages of 9 MiB of output"),
        (CONV(8, 8, 3, dtype=np.complex64), (8, 4), "small: most of the time is the call itself"),
        (CONV(8, 8, 3, algorithm="blas"), (8, 300), "algorithm='blas' was asked for"),
        (CONV(8, 8, 3, stride=1 << 41, dtype=np.float64), (8, 300), "beyond what the direct"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_advice(layer, shape, words):
    told = explain(layer, shape, threads=1)["advice"]
    assert words in told if words else told == ""


def test_explain_refuses():
    layer = fastconv1d.Conv1d(4, 4, 3)
    with pytest.raises(ValueError, match="Kernel size can't be greater"):
        explain(layer, (1, 4, 2))
    with pytest.raises(ValueError, match="got one in train mode"):
        explain(layer.train(), (1, 4, 9))
