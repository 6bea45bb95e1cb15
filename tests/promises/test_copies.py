"""Pickles and copies of layers give the same bits, in this process and in another."""

import concurrent.futures
import copy
import multiprocessing
import pickle

import numpy as np
import pytest
from layers import Layer, assert_same_bits, random_layers

import fastconv1d

THROUGH = (
    copy.deepcopy,
    *(lambda made, p=p: pickle.loads(pickle.dumps(made, p)) for p in (2, 3, 4, 5)),
)


def module_of(layer, seed):
    """Return the module that computes a layer, in either mode, packed or not."""
    w, b = layer.normal_arrays(seed)[1:3]
    common = {"groups": layer.groups, "bias": layer.bias, "dilation": layer.dilation}
    given = (layer.c_in, layer.c_out, layer.kernel_size, layer.stride, layer.padding)
    if layer.op == "conv1d":
        made = fastconv1d.Conv1d(
            *given, dtype=layer.dtype, padding_mode=layer.padding_mode, **common
        )
    else:
        made = fastconv1d.ConvTranspose1d(
            *given, dtype=layer.dtype, output_padding=layer.output_padding, **common
        )
    made.load_state_dict({"weight": w} if b is None else {"weight": w, "bias": b})
    return made.train(seed % 3 == 0)


def outcome(made, x):
    """Return what a module computes, and in train mode its gradients."""
    results = [made(x)]
    if made.training:
        made.zero_grad()
        results += [made.backward(results[0]), made.weight_grad]
    return results


def assert_equal_modules(again, made, results, x):
    assert type(again) is type(made)
    assert repr(again) == repr(made)
    assert again.training is made.training
    assert again.weight.flags.writeable is made.training
    assert not np.shares_memory(again.weight, made.weight)
    for one, other in zip(outcome(again, x), results, strict=True):
        assert_same_bits(one, other, made)


def test_round_trips(share):
    for seed, layer in enumerate(random_layers(int(1000 * share), seed=60)):
        made, x = module_of(layer, seed), layer.normal_arrays(seed)[0]
        packed = outcome(made, x) if seed % 2 else None
        copies = [through(made) for through in THROUGH]
        results = packed or outcome(made, x)
        for again in copies:
            assert_equal_modules(again, made, results, x)
            if made.training:  # and what is done to the copy stays with the copy
                again.weight[:] = 0
        for one, other in zip(outcome(made, x), results, strict=True):
            assert_same_bits(one, other, made)


def test_packed_weights_and_kept_inputs_do_not_travel():
    made = fastconv1d.Conv1d(64, 64, 31)
    before = len(pickle.dumps(made, 5))
    made(np.zeros((1, 64, 5000), np.float32))
    assert len(pickle.dumps(made, 5)) == before
    made.train()(np.zeros((1, 64, 5000), np.float32))
    assert len(pickle.dumps(made, 5)) < before + 100


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_of_a_pool(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    layers = [*random_layers(20, seed=61), Layer("conv1d", "float32", 2, 64, 64, 1500, 9)]
    cases = [(module_of(layer, i), layer.normal_arrays(i)[0]) for i, layer in enumerate(layers)]
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, context) as pool:
        answers = list(pool.map(outcome, *zip(*cases, strict=True)))
    for (made, x), results in zip(cases, answers, strict=True):
        for one, other in zip(results, outcome(made, x), strict=True):
            assert_same_bits(one, other, made)


def at_odd_addresses(made):
    """Return what a pickle makes whose buffers came in messages, at any address (as Dask's do)."""
    buffers = []
    data = pickle.dumps(made, 5, buffer_callback=buffers.append)
    odd = []
    for buffer in buffers:
        raw = buffer.raw()
        room = bytearray(raw.nbytes + 8)
        skip = 1 + (-np.frombuffer(room, np.uint8).ctypes.data) % 4
        room[skip : skip + raw.nbytes] = raw
        odd.append(memoryview(room)[skip : skip + raw.nbytes])
    return pickle.loads(data, buffers=odd)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "made",
    [
        fastconv1d.Conv1d(6, 9, 5),
        fastconv1d.Conv1d(6, 9, 5, dtype="complex64", algorithm="blas"),
        fastconv1d.ConvTranspose1d(6, 9, 4, 2, dtype="float64"),
        fastconv1d.Conv1d(6, 6, 33, groups=6, algorithm="fft"),
        fastconv1d.BatchNorm1d(6),
        fastconv1d.PReLU(6),
        fastconv1d.Snake(np.linspace(0.5, 2, 6, dtype=np.float32)),
        fastconv1d.LSTM(6, 5),
        fastconv1d.Sequential(fastconv1d.Conv1d(6, 4, 3), fastconv1d.GroupNorm(2, 4)),
    ],
    ids=lambda made: type(made).__name__,
)
def test_pickles_whose_buffers_lie_anywhere(made, training):
    made = copy.deepcopy(made).train(training)
    again = at_odd_addresses(made)
    assert all(array.flags.aligned for array in again.parameters())
    shape = (7, 3, 6) if isinstance(made, fastconv1d.LSTM) else (3, 6, 70)
    dtype = next(made.parameters()).dtype
    x = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    expected, result = made(x), again(x)
    if isinstance(made, fastconv1d.LSTM):
        expected, result = expected[0], result[0]
    assert_same_bits(result, expected, type(made).__name__)


def test_parameters_of_a_graph_whose_buffers_lie_anywhere():
    held = fastconv1d.Conv1d(6, 9, 5)._held
    again = at_odd_addresses(held)
    assert type(again) is type(held)
    for array, expected in zip(again, held, strict=True):
        assert array.flags.aligned
        assert_same_bits(array, expected)
