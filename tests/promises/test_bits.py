"""The same bits whatever the threads, the batch and what follows, and again and again.

With the direct engine always, with the BLAS engine in deterministic mode.
"""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from layers import (
    DTYPES,
    REALISTIC,
    REALISTIC_PLANES,
    Layer,
    Library,
    Planes,
    assert_same_bits,
    random_layers,
    random_planes,
)

import fastconv1d

THREADS = (1, 2, 3, 4, 8, 16, 64)
# Every length up to what a tile may be wide, then some around and beyond several tiles.
LENGTHS = (*range(1, 50), *range(61, 300, 17), *range(511, 1300, 95))

# Enough work that a call is worth its threads, at sizes that leave ragged tiles.
WIDE = {
    "n_batch": 5,
    "l_out": 1001,
    "kernel_size": 5,
    "c_in_per_group": 13,
    "c_out_per_group": 17,
}


@pytest.fixture(params=["direct", "auto, deterministic", "blas, deterministic"])
def promised(request):
    """A library that promises its bits, and the dtypes for which it does."""
    algorithm, _, mode = request.param.partition(", ")
    before = fastconv1d.are_deterministic_algorithms_enabled()
    fastconv1d.use_deterministic_algorithms(mode == "deterministic")
    # The direct engine without the mode, as 'auto' takes it.
    yield Library("auto" if algorithm == "direct" else algorithm), DTYPES
    fastconv1d.use_deterministic_algorithms(before)


def with_dtypes(layers, dtypes):
    """Give layers the dtypes in turn.

    Complex planes, of BLAS, promise bits in deterministic mode only; those of many channels take
    it minutes there.
    """
    promises = fastconv1d.are_deterministic_algorithms_enabled()
    found = []
    for i, layer in enumerate(layers):
        name = dtypes[i % len(dtypes)]
        if isinstance(layer, Planes) and (not promises or layer.c_in > 16):
            name = name.replace("complex64", "float32").replace("complex128", "float64")
        found.append(dataclasses.replace(layer, dtype=name))
    return found


def mixed_layers(count, seed, **fixed):
    """Return `count` layers, half of them small and half of them with work for several threads."""
    wide = random_layers(count // 2, seed, **{**WIDE, **fixed})
    return random_layers(count - count // 2, seed + 1, **fixed) + wide


def all_results(lib, layer, arrays):
    x, w, b, g = arrays
    return [layer.forward(lib)(x, w, b), *layer.backward(lib)(g, x, w)]


def test_threads(promised, share):
    lib, dtypes = promised
    layers = [*mixed_layers(int(500 * share), seed=20), *REALISTIC]
    layers += [*random_planes(int(100 * share), seed=21), *REALISTIC_PLANES]
    for layer in with_dtypes(layers, dtypes):
        arrays = layer.normal_arrays()
        with fastconv1d.num_threads(1):
            expected = all_results(lib, layer, arrays)
        for n_threads in THREADS[1:]:
            with fastconv1d.num_threads(n_threads):
                for name, result, bits in zip(
                    "y dx dw db".split(), all_results(lib, layer, arrays), expected, strict=True
                ):
                    assert_same_bits(result, bits, f"{layer} {name} at {n_threads} threads")


@pytest.mark.parametrize(
    ("count", "repeats"), [(12, 20), pytest.param(50, 1000, marks=pytest.mark.soak)]
)
def test_run_to_run(lib, count, repeats):
    for layer in [*mixed_layers(count, seed=22), *REALISTIC_PLANES]:
        arrays = layer.normal_arrays()
        with fastconv1d.num_threads(3):
            expected = all_results(lib, layer, arrays)
            for _ in range(repeats):
                # A fresh allocation moves the arrays to other addresses and alignments.
                moved = [a if a is None else a.copy() for a in arrays]
                for result, bits in zip(all_results(lib, layer, moved), expected, strict=True):
                    assert_same_bits(result, bits, layer)


def test_batch_mates(promised, share):
    lib, dtypes = promised
    layers = mixed_layers(int(200 * share), seed=24, n_batch=33, l_out=131)
    layers += random_planes(int(60 * share), seed=25, n_batch=33)
    planes = REALISTIC_PLANES[3 : 4 if lib.algorithm == "blas" else 5]  # BLAS takes a minute
    layers += [dataclasses.replace(layer, n_batch=33) for layer in planes]
    for layer in with_dtypes(layers, dtypes):
        x, w, b, g = layer.normal_arrays()
        forward, backward = layer.forward(lib), layer.backward(lib)
        y = forward(x, w, b)
        dx = backward(g, x, w, output_mask=(True, False, False))[0]
        for n in range(1, 33):
            some = slice(0, n) if n % 2 else slice(33 - n, 33)
            assert_same_bits(forward(x[some].copy(), w, b), y[some], f"{layer} y, {n} items")
            grads = backward(g[some].copy(), x[some].copy(), w, output_mask=(True, False, False))
            assert_same_bits(grads[0], dx[some], f"{layer} dx, {n} items")


def test_position_in_the_batch(promised):
    lib, dtypes = promised
    layers = [*mixed_layers(20, seed=26, n_batch=9), *random_planes(10, seed=27, n_batch=9)]
    for layer in with_dtypes(layers, dtypes):
        x, w, b, g = layer.normal_arrays()
        order = np.random.default_rng(0).permutation(9)
        y, dx = all_results(lib, layer, (x, w, b, g))[:2]
        y_moved, dx_moved = all_results(lib, layer, (x[order], w, b, g[order]))[:2]
        assert_same_bits(y_moved, y[order], layer)
        assert_same_bits(dx_moved, dx[order], layer)


def settled(layer, l_in):
    """Return how many outputs depend on nothing beyond the first `l_in` inputs."""
    left = layer.pads[0]
    if layer.op == "conv1d":
        return max(0, (l_in + left - layer.span) // layer.stride + 1)
    return max(0, l_in * layer.stride - left)


def prefixes(layer):
    """Return the layer at each of LENGTHS, with how many outputs stay as they are when it grows."""
    found = []
    for l_in in LENGTHS:
        short = dataclasses.replace(layer, l_in=l_in, output_padding=0)
        count = min(settled(layer, l_in), short.l_out, layer.l_out)
        if l_in <= layer.l_in and count > 0:
            found.append((short, count))
    return found


@pytest.mark.parametrize("op", ["conv1d", "conv_transpose1d"])
def test_prefix(promised, share, op):
    lib, dtypes = promised
    fixed = {"op": op, "padding_mode": "zeros", "l_out": 1201}
    layers = random_layers(int(50 * share), seed=28, padding=(3, 0), **fixed)
    layers += random_layers(int(50 * share), seed=29, padding=0, stride=1, **fixed)
    compared = 0
    for layer in with_dtypes(layers, dtypes):
        x, w, b, _ = layer.normal_arrays()
        y = layer.forward(lib)(x, w, b)
        for short, count in prefixes(layer):
            prefix = short.forward(lib)(x[:, :, : short.l_in].copy(), w, b)
            bits = np.ascontiguousarray(y[:, :, :count])
            assert_same_bits(np.ascontiguousarray(prefix[:, :, :count]), bits, f"{short}")
            compared += 1
    assert compared > 40 * len(layers)


def test_chunks_of_a_stream(promised):
    lib, _ = promised
    # A causal layer fed in chunks with its history gives the bits of the whole.
    layer = Layer("conv1d", "float32", 1, 13, 9, 2003, 5, dilation=3)
    x, w, b, _ = layer.normal_arrays()
    whole = lib.conv1d(x, w, b, dilation=3)
    history, pieces, start = layer.span - 1, [], 0
    for size in (1, 7, 64, 2, 333, 16, 1000, 568):
        chunk = x[:, :, start : start + history + size].copy()
        pieces.append(lib.conv1d(chunk, w, b, dilation=3))
        start += size
    assert start + history == layer.l_in
    assert_same_bits(np.concatenate(pieces, axis=2), whole)


def test_host_threads_do_not_disturb_each_other(promised):
    lib, dtypes = promised
    layers = with_dtypes([*mixed_layers(20, seed=30), *REALISTIC_PLANES[:4]], dtypes)
    cases = [(layer, layer.normal_arrays()) for layer in layers]
    expected = [all_results(lib, layer, arrays) for layer, arrays in cases]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            results = pool.map(lambda case: all_results(lib, *case), cases)
            for (layer, _), result, bits in zip(cases, results, expected, strict=True):
                for one, other in zip(result, bits, strict=True):
                    assert_same_bits(one, other, layer)
