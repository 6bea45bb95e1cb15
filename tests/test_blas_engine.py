"""The three primitives against loops that do what their formulas say."""

import itertools
import subprocess
import sys
import threading

import numpy as np
import pytest
from primitives import window as place

from fastconv1d.kernels import blas_engine, gemm
from fastconv1d.kernels.blas_engine import correlate, scatter, weight_gradient

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]
ZEROS, REFLECT, REPLICATE, CIRCULAR = range(4)
PAD = {ZEROS: "constant", REFLECT: "reflect", REPLICATE: "edge", CIRCULAR: "wrap"}


def integers(rng, shape, dtype):
    values = rng.integers(-4, 5, shape).astype(dtype)
    if values.dtype.kind == "c":
        values += 1j * rng.integers(-4, 5, shape)
    return values


def window(x, length, kernel_size, stride, dilation, pad_left, mode):
    """x's unfolded windows, (N, C, K, length)."""
    last = (length - 1) * stride + (kernel_size - 1) * dilation - pad_left
    pad_right = max(0, last + 1 - x.shape[2])
    padded = np.pad(x, [(0, 0), (0, 0), (max(0, pad_left), pad_right)], PAD[mode])
    out = np.zeros((*x.shape[:2], kernel_size, length), x.dtype)
    for k, j in itertools.product(range(kernel_size), range(length)):
        out[:, :, k, j] = padded[:, :, j * stride + k * dilation - min(0, pad_left)]
    return out


def slow_correlate(x, w, bias, length, stride, dilation, pad_left, mode, groups):
    n_batch, c_out = x.shape[0], w.shape[0]
    cols = window(x, length, w.shape[2], stride, dilation, pad_left, mode)
    cols = cols.reshape(n_batch, groups, w.shape[1], *cols.shape[2:])
    y = np.einsum("goik,ngikl->ngol", w.reshape(groups, c_out // groups, *w.shape[1:]), cols)
    return y.reshape(n_batch, c_out, length) + (0 if bias is None else bias[:, None])


def slow_scatter(x, w, bias, length, stride, dilation, pad_left, groups):
    (n_batch, c_in, l_in), (_, c_out, kernel_size) = x.shape, w.shape
    y = np.zeros((n_batch, groups, c_out, length), x.dtype)
    parts = np.einsum(
        "giok,ngil->ngokl",
        w.reshape(groups, c_in // groups, c_out, kernel_size),
        x.reshape(n_batch, groups, c_in // groups, l_in),
    )
    for k, j in itertools.product(range(kernel_size), range(l_in)):
        o = j * stride + k * dilation - pad_left
        if 0 <= o < length:
            y[..., o] += parts[..., k, j]
    return y.reshape(n_batch, groups * c_out, length) + (0 if bias is None else bias[:, None])


def slow_weight_gradient(g, x, kernel_size, stride, dilation, pad_left, mode, groups):
    cols = window(x, g.shape[2], kernel_size, stride, dilation, pad_left, mode)
    n_batch, c_out, length = g.shape
    c_in = x.shape[1] // groups
    cols = cols.reshape(n_batch, groups, c_in, *cols.shape[2:])
    split = g.reshape(n_batch, groups, c_out // groups, length)
    dw = np.einsum("ngol,ngikl->goik", split, cols.conj())
    return dw.reshape(c_out, c_in, kernel_size)


def random_case(rng, dtype, mode):
    """A random layer as (x, w of correlate, g, stride, dilation, pad_left, groups)."""
    groups, c_in, c_out = rng.choice([1, 1, 2, 3]), rng.integers(1, 5), rng.integers(1, 5)
    n_batch, l_in, kernel_size = rng.integers(1, 4), rng.integers(3, 700), rng.integers(1, 8)
    stride, dilation = rng.integers(1, 6), rng.integers(1, 5)
    largest = 9 if mode == ZEROS else min(9, l_in - 1)
    pad_left, pad_right = rng.integers(-2, largest + 1, 2)
    reach = l_in + pad_left + pad_right - (kernel_size - 1) * dilation - 1
    l_out = reach // stride + 1 if reach >= 0 else 0
    x = integers(rng, (n_batch, groups * c_in, l_in), dtype)
    w = integers(rng, (groups * c_out, c_in, kernel_size), dtype)
    g = integers(rng, (n_batch, groups * c_out, l_out), dtype)
    return x, w, g, *map(int, (stride, dilation, pad_left, groups))


def garbage(shape, dtype):
    return np.full(shape, np.nan, dtype)


def check_case(x, w, g, stride, dilation, pad_left, groups, mode, bias, n_threads, fixed):
    y = garbage(g.shape, g.dtype)
    correlate(x, w, bias, y, place(stride, dilation, pad_left, mode, groups), (n_threads, fixed))
    expected = slow_correlate(x, w, bias, g.shape[2], stride, dilation, pad_left, mode, groups)
    np.testing.assert_array_equal(y, expected)
    dw = garbage(w.shape, w.dtype)
    weight_gradient(g, x, dw, place(stride, dilation, pad_left, mode, groups), (n_threads, fixed))
    expected = slow_weight_gradient(g, x, w.shape[2], stride, dilation, pad_left, mode, groups)
    np.testing.assert_array_equal(dw, expected)
    for length in (x.shape[2], x.shape[2] + 7):
        dx = garbage((*x.shape[:2], length), x.dtype)
        scatter(
            g, w, None, dx, place(stride, dilation, pad_left, groups=groups), (n_threads, fixed)
        )
        expected = slow_scatter(g, w, None, length, stride, dilation, pad_left, groups)
        np.testing.assert_array_equal(dx, expected)


@pytest.mark.parametrize("mode", PAD)
@pytest.mark.parametrize("dtype", DTYPES)
def test_random_layers_are_exact(dtype, mode):
    rng = np.random.default_rng([7, mode])
    for case in range(40):
        x, w, g, *geometry = random_case(rng, dtype, mode)
        bias = integers(rng, (len(w),), dtype) if case % 2 else None
        check_case(x, w, g, *geometry, mode, bias, 1 + case % 3, case % 5 == 0)


@pytest.fixture(params=[1, 1e5])
def most_work(request):
    """As for so many multiply-adds that a job would keep a signal waiting."""
    before = blas_engine.set_most_work(request.param)
    yield
    blas_engine.set_most_work(before)


@pytest.mark.usefixtures("most_work")
@pytest.mark.parametrize("dtype", DTYPES)
def test_jobs_cut_short_are_exact(dtype):
    rng = np.random.default_rng(8)
    for case in range(12):
        x, w, g, *geometry = random_case(rng, dtype, ZEROS)
        check_case(x, w, g, *geometry, ZEROS, None, 1 + case % 3, case % 2 == 0)
    x, w = integers(rng, (2, 30, 620), dtype), integers(rng, (20, 30, 20), dtype)
    check_case(x, w, integers(rng, (2, 20, 601), dtype), 1, 1, 0, 1, ZEROS, None, 2, False)


@pytest.mark.parametrize("n_batch", [2, 5, 37])
@pytest.mark.parametrize("stride", [1, 3])
def test_short_sequences_share_tiles_exactly(n_batch, stride):
    rng = np.random.default_rng(n_batch)
    x = integers(rng, (n_batch, 6, 20), np.float32)
    w = integers(rng, (4, 3, 3), np.float32)
    g = integers(rng, (n_batch, 4, 19 // stride + 1), np.float32)
    bias = integers(rng, (4,), np.float32)
    check_case(x, w, g, stride, 1, 1, 2, ZEROS, bias, 2, False)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_large_layers_span_several_blocks(dtype, deterministic):
    rng = np.random.default_rng(3)
    x = integers(rng, (2, 130, 620), dtype)
    w = integers(rng, (300, 130, 4), dtype)
    g = integers(rng, (2, 300, 309), dtype)
    check_case(x, w, g, 2, 1, 0, 1, ZEROS, None, 2, deterministic)


def layer_bits(n_threads, deterministic=True, batch=slice(None), length=None):
    """Results of one float32 layer as bytes: forward, input gradient, weight gradient."""
    rng = np.random.default_rng(11)
    x = rng.standard_normal((5, 24, 1500), np.float32)[batch, :, :length]
    w = rng.standard_normal((40, 12, 5), np.float32)
    bias = rng.standard_normal(40, np.float32)
    y = garbage((len(x), 40, x.shape[2]), np.float32)
    correlate(x, w, bias, y, place(1, 2, 4, ZEROS, 2), (n_threads, deterministic))
    up = garbage((len(x), 10, 3 * x.shape[2]), np.float32)
    scatter(x, w[:24, :5], None, up, place(3, 1, 2, groups=2), (n_threads, deterministic))
    dw = garbage(w.shape, np.float32)
    weight_gradient(y, x, dw, place(1, 2, 4, ZEROS, 2), (n_threads, deterministic))
    return y, up, dw


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("n_threads", [2, 3, 16])
def test_bits_do_not_depend_on_the_threads(n_threads, deterministic):
    for one, several in zip(
        layer_bits(1, deterministic), layer_bits(n_threads, deterministic), strict=True
    ):
        assert one.tobytes() == several.tobytes()


def test_deterministic_bits_do_not_depend_on_batch_mates():
    y, up, _ = layer_bits(2)
    for item in range(5):
        y_one, up_one, _ = layer_bits(1, batch=slice(item, item + 1))
        assert y_one.tobytes() == y[item].tobytes()
        assert up_one.tobytes() == up[item].tobytes()


@pytest.mark.parametrize("length", [1, 7, 63, 255, 256, 257, 300, 1023, 1499])
def test_deterministic_prefixes_keep_their_bits(length):
    y, up, _ = layer_bits(2)
    y_short, up_short, _ = layer_bits(1, length=length)
    settled = max(0, length - 4)
    assert y_short[..., :settled].tobytes() == y[..., :settled].tobytes()
    settled = max(0, 3 * length - 5)
    assert up_short[..., :settled].tobytes() == up[..., :settled].tobytes()


@pytest.mark.parametrize("limit", [1, 2, 5, 31])
def test_sizes_beyond_the_blas_integer_are_cut(limit):
    rng = np.random.default_rng(limit)
    previous = gemm.set_blas_limit(limit)
    try:
        for mode in (ZEROS, REFLECT):
            x, w, g, *geometry = random_case(rng, np.complex128, mode)
            check_case(x, w, g, *geometry, mode, None, 2, limit % 2 == 0)
        x, w = integers(rng, (1, 9, 40), np.float32), integers(rng, (7, 9, 1), np.float32)
        check_case(x, w, integers(rng, (1, 7, 40), np.float32), 1, 1, 0, 1, ZEROS, None, 1, False)
    finally:
        gemm.set_blas_limit(previous)


def test_the_blas_limit_is_checked():
    with pytest.raises(ValueError, match="got 0"):
        gemm.set_blas_limit(0)


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a,
        np.asfortranarray,
        lambda a: a[:, ::-1].copy()[:, ::-1],
        lambda a: a[..., ::-1].copy()[..., ::-1],
        lambda a: np.repeat(a, 3, axis=2)[..., ::3],
        lambda a: np.pad(a, [(0, 0), (1, 1), (2, 3)])[:, 1:-1, 2:-3],
    ],
)
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_strides_do_not_matter(view, kernel_size):
    rng = np.random.default_rng(5)
    x = view(integers(rng, (3, 4, 50), np.float32))
    w = view(integers(rng, (6, 2, kernel_size), np.float32))
    g = view(integers(rng, (3, 6, 50 - kernel_size + 1), np.float32))
    for array in (x, w, g):
        array.flags.writeable = False
    check_case(x, w, g, 1, 1, 0, 2, ZEROS, None, 2, False)


def test_broadcast_inputs_are_read_as_they_are():
    rng = np.random.default_rng(6)
    x = np.broadcast_to(integers(rng, (1, 1, 30), np.float64), (3, 4, 30))
    w = np.broadcast_to(integers(rng, (6, 1, 1), np.float64), (6, 4, 3))
    g = np.broadcast_to(integers(rng, (3, 6, 1), np.float64), (3, 6, 28))
    check_case(x, w, g, 1, 1, 0, 1, ZEROS, np.arange(12.0)[::2], 1, False)


@pytest.mark.parametrize(("n_batch", "c_in", "l_in"), [(0, 2, 5), (2, 0, 5), (2, 2, 0)])
def test_sums_over_nothing_are_the_bias(n_batch, c_in, l_in):
    bias = np.array([3.0, -1.0])
    x, w = np.ones((n_batch, c_in, l_in)), np.ones((2, c_in, 3))
    y = garbage((n_batch, 2, 4), np.float64)
    correlate(x, w, bias, y, place(1, 1, 100, ZEROS, 1), (2, True))
    np.testing.assert_array_equal(y, np.broadcast_to(bias[:, None], y.shape))
    y = garbage((n_batch, 2, 4), np.float64)
    scatter(x, np.ones((c_in, 2, 3)), bias, y, place(1, 1, 100, groups=1), (2, True))
    np.testing.assert_array_equal(y, np.broadcast_to(bias[:, None], y.shape))
    g = np.ones((n_batch, 2, 0))
    dw = garbage(w.shape, np.float64)
    weight_gradient(g, x, dw, place(1, 1, 0, ZEROS, 1), (2, True))
    np.testing.assert_array_equal(dw, np.zeros(w.shape))


@pytest.mark.parametrize(("stride", "dilation", "pad_left"), [(2**61, 1, 0), (5, 2**60, 2**60)])
def test_huge_parameters_do_not_overflow(stride, dilation, pad_left):
    rng = np.random.default_rng(8)
    x, w = integers(rng, (1, 2, 9), np.float64), integers(rng, (2, 2, 2), np.float64)
    y, expected = garbage((1, 2, 1), np.float64), np.zeros((1, 2, 1))
    correlate(x, w, None, y, place(stride, dilation, pad_left, ZEROS, 1), (1, False))
    for k in range(2):
        if 0 <= k * dilation - pad_left < 9:
            expected[:, :, 0] += x[:, :, k * dilation - pad_left] @ w[:, :, k].T
    np.testing.assert_array_equal(y, expected)


def test_infinite_weights_meet_no_padding_in_scatter():
    x, w = np.ones((2, 1, 4), np.float32), np.ones((1, 2, 3), np.float32)
    w[0, 1, 0] = np.inf
    y = garbage((2, 2, 14), np.float32)
    scatter(x, w, np.zeros(2, np.float32), y, place(2, 2, 1, groups=1), (1, True))
    expected = slow_scatter(x, w, None, 14, 2, 2, 1, 1)
    assert not np.isnan(expected).any()
    np.testing.assert_array_equal(y, expected)


def test_nan_stays_in_the_outputs_that_read_it():
    x = np.ones((1, 2, 900), np.float32)
    x[0, 1, 511] = np.nan
    y = garbage((1, 3, 898), np.float32)
    for deterministic in (False, True):
        correlate(
            x, np.ones((3, 2, 3), np.float32), None, y, place(1, 1, 0, ZEROS, 1), (1, deterministic)
        )
        assert sorted(set(np.nonzero(np.isnan(y))[2])) == [509, 510, 511]


def test_concurrent_calls_leave_blas_as_it_was():
    from threadpoolctl import threadpool_info

    def blas_threads():
        return [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]

    before, expected = blas_threads(), layer_bits(2)[0].tobytes()
    results = []
    callers = [
        threading.Thread(target=lambda: results.append(layer_bits(2)[0].tobytes()))
        for _ in range(6)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert results == [expected] * 6
    assert blas_threads() == before


def complex_bits(n_threads=1):
    """Results of a complex64 layer; OpenBLAS threads complex products from 2**16 terms on."""
    rng = np.random.default_rng(12)
    parts = rng.standard_normal((2, 2, 14, 900)).astype(np.complex64)
    x, w = parts[0] + 1j * parts[1], np.ascontiguousarray(parts[0, 0, :, :72].reshape(24, 14, 3))
    y, dw = garbage((2, 24, 898), np.complex64), garbage(w.shape, np.complex64)
    correlate(x, w, None, y, place(1, 1, 0, ZEROS, 1), (n_threads, True))
    weight_gradient(y, x, dw, place(1, 1, 0, ZEROS, 1), (n_threads, True))
    return y.tobytes(), dw.tobytes()


@pytest.mark.parametrize("bits", [layer_bits, complex_bits])
def test_bits_do_not_depend_on_the_threads_of_blas(bits):
    from threadpoolctl import threadpool_limits

    def as_bytes():
        return [np.asarray(result).tobytes() for result in bits(1)]

    def in_another_thread():
        results = []
        caller = threading.Thread(target=lambda: results.append(as_bytes()))
        caller.start()
        caller.join()
        return results[0]

    with threadpool_limits(1, user_api="blas"):
        expected = as_bytes()
    with threadpool_limits(2, user_api="blas"):  # this thread has the say over OpenBLAS now
        assert as_bytes() == expected
        assert in_another_thread() == expected


SHORT_OF_MEMORY = """
import re, resource, sys, threading
import numpy as np
import threadpoolctl
from concurrent.futures import ThreadPoolExecutor
from fastconv1d.kernels.blas_engine import correlate

n_hosts, n_threads, spare = map(int, sys.argv[1:])
x, w = np.ones((8, 64, 500), "F"), np.ones((64, 64, 5), "F")
outputs = [np.empty((8, 64, 496), "F") for _ in range(n_hosts)]
hosts = ThreadPoolExecutor(n_hosts)
gate = threading.Barrier(n_hosts)
list(hosts.map(lambda _: gate.wait(), outputs))  # all host threads exist from here on
threadpoolctl.threadpool_info()
used = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (used + (spare << 20),) * 2)

def call(y):
    try:
        correlate(x, w, None, y, (0, 0, 1, 1, 0, 0, 1, 0), (n_threads, True))
    except MemoryError:
        return "refused"
    assert (y == 320).all()
    return "done"

print(*[call(y) for y in outputs] if n_hosts == 1 else hosts.map(call, outputs))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize(("n_hosts", "n_threads"), [(1, 1), (1, 4), (4, 1), (3, 2)])
@pytest.mark.parametrize("spare", [0, 20, 60, 110, 250, 2000])
def test_too_little_memory_for_blas_is_refused(n_hosts, n_threads, spare):
    arguments = map(str, (n_hosts, n_threads, spare))
    run = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    outcomes = run.stdout.split()
    assert len(outcomes) == n_hosts
    assert set(outcomes) <= {"done", "refused"}
    if spare == 0:
        assert set(outcomes) == {"refused"}
    if spare == 2000:
        assert set(outcomes) == {"done"}
