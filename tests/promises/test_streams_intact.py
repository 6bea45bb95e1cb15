"""A stream is as before or as after a call: interrupted, short of memory, called by two."""

import signal
import threading
import time
import zlib

import numpy as np
import pytest

from fastconv1d import Conv1d, ConvTranspose1d, Mean, ReLU, Residual, Sequential, Tanh
from fastconv1d.core import arrays

LAYERS = {
    "depthwise": lambda: Conv1d(24, 24, 5, padding="causal", groups=24, rng=rng()),
    "dense": lambda: Conv1d(6, 8, 7, padding=3, dilation=3, rng=rng()),
    "reflect": lambda: Conv1d(4, 4, 9, padding=4, padding_mode="reflect", rng=rng()),
    "replicate": lambda: Conv1d(4, 4, 5, stride=2, padding=2, padding_mode="replicate", rng=rng()),
    "transposed": lambda: ConvTranspose1d(6, 4, 8, stride=3, padding=2, rng=rng()),
    "blas": lambda: Conv1d(4, 4, 5, padding=2, dtype="complex64", algorithm="blas", rng=rng()),
    "network": lambda: Sequential(
        Conv1d(6, 8, 4, stride=2, padding=1, rng=rng()),
        Residual(ReLU(), Conv1d(8, 8, 5, padding=2, padding_mode="replicate", rng=rng()), Tanh()),
        Mean(Conv1d(8, 8, 3, padding="causal", rng=rng(1)), Sequential()),
        ConvTranspose1d(8, 3, 8, stride=4, padding=2, rng=rng()),
    ),
    "depthwise network": lambda: Sequential(
        *(Conv1d(24, 24, 5, padding="causal", groups=24, rng=rng(i)) for i in range(3)),
        Conv1d(24, 4, 1, rng=rng()),
    ),
}


def rng(seed=0):
    return np.random.default_rng(seed)


def signal_of(layer, length, seed=1):
    first = layer[0] if isinstance(layer, Sequential) else layer
    return rng(seed).standard_normal((1, first.in_channels, length)).astype(first.dtype)


def rest_of(stream, x):
    """What a stream gives for the rest of a signal, chunk by chunk: short ones and long ones."""
    parts, at = [], 0
    for n in (1, 1, 3, 80, 2, 70, 1):
        parts.append(stream(x[:, :, at : at + n]))
        at += n
    return np.concatenate([*parts, stream.flush()], axis=2)


CALLS = {
    "step": lambda stream, x: stream(x[:, :, :1]),
    "chunk": lambda stream, x: stream(x[:, :, :90]),
    "flush": lambda stream, x: stream.flush(),
    "reset": lambda stream, x: stream.reset(),
    "state_dict": lambda stream, x: stream.state_dict(),
    "load_state_dict": lambda stream, x: stream.load_state_dict(OTHER[repr(stream.module)]),
}
OTHER = {}


def made(name, prefix):
    """A stream after a prefix of a signal."""
    layer = LAYERS[name]()
    stream = layer.stream()
    x = signal_of(layer, 400)
    for begin, n in prefix:
        stream(x[:, :, begin : begin + n])
    other = layer.stream()
    other(signal_of(layer, 33, seed=7))
    OTHER[repr(layer)] = other.state_dict()
    return stream, x[:, :, 200:]


PREFIXES = [(), ((0, 1), (1, 1), (2, 3)), ((0, 90), (90, 1), (91, 1), (92, 2))]


def outcomes(name, prefix, call):
    """What follows a call that did not begin, and one that ended."""
    before, x = made(name, prefix)
    expected = [rest_of(before, x)]
    after, x = made(name, prefix)
    CALLS[call](after, x)
    expected.append(rest_of(after, x))
    return expected


def is_one_of(y, expected):
    return any(y.shape == e.shape and y.tobytes() == e.tobytes() for e in expected)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", LAYERS)
def test_failed_allocations(name, call, monkeypatch):
    new, failing = arrays.new, [10**9]

    def allocate(*args):
        failing[0] -= 1
        if failing[0] == 0:
            raise MemoryError("none left")
        return new(*args)

    for prefix in PREFIXES:
        expected = outcomes(name, prefix, call)
        for k in range(1, 12 if "network" in name else 6):
            stream, x = made(name, prefix)
            monkeypatch.setattr(arrays, "new", allocate)
            failing[0] = k
            try:
                CALLS[call](stream, x)
            except MemoryError:
                expected_now = expected[:1]
            else:
                expected_now = expected[1:]
            failing[0] = 10**9
            monkeypatch.setattr(arrays, "new", new)
            assert is_one_of(rest_of(stream, x), expected_now), (prefix, k)


class Interrupt(BaseException):
    pass


def interrupted(call, after):
    """Make a call with a real signal so many seconds after its begin."""

    def handler(*_):
        raise Interrupt

    previous = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, after)
        call()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Interrupt:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer of the system")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", LAYERS)
def test_real_signals(name, call, share):
    moments = rng(zlib.crc32(f"{name} {call}".encode()))
    cases = [(prefix, outcomes(name, prefix, call)) for prefix in PREFIXES]
    stream, x = made(name, PREFIXES[2])
    start = time.perf_counter()
    CALLS[call](stream, x)
    spent = max(time.perf_counter() - start, 2e-5)
    for i in range(int(2000 * share**1.5)):
        prefix, expected = cases[i % len(cases)]
        stream, x = made(name, prefix)
        try:
            interrupted(
                lambda stream=stream, x=x: CALLS[call](stream, x),
                1e-6 + moments.uniform(0, 1.5 * spent),
            )
        except Interrupt:  # while the handler was being put back
            continue
        assert is_one_of(rest_of(stream, x), expected), (prefix, i)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer of the system")
def test_networks_under_signals(share):
    net = Sequential(*(Conv1d(8, 8, 3, padding=1, rng=rng(i)) for i in range(6)), Tanh())
    states = [{k: v + i for k, v in net.state_dict().items()} for i in (0.0, 1.0)]
    moments = rng(5)
    for i in range(int(2000 * share)):
        net.load_state_dict(states[0])
        try:
            interrupted(lambda: net.load_state_dict(states[1]), 1e-6 + moments.uniform(0, 4e-4))
        except Interrupt:  # while the handler was being put back
            pass
        now = net.state_dict()
        loaded = [all((now[k] == state[k]).all() for k in now) for state in states]
        assert loaded.count(True) == 1, i


def depthwise(channels, seed=0):
    return Conv1d(channels, channels, 31, padding="causal", groups=channels, rng=rng(seed))


@pytest.mark.parametrize(
    "module",
    [depthwise(256), Sequential(depthwise(256), Residual(Tanh()))],
    ids=["layer", "network"],
)
def test_two_threads_in_one_stream_is_an_error(module, share):
    stream = module.stream(8)
    x = np.ones((8, 256, 1), np.float32)
    stream(x)
    refused, done, other = [], [], []
    stop = time.monotonic() + 15 * share**1.3

    def work(call):
        while not done or time.monotonic() < stop:  # on a busy machine it may be late already
            try:
                call()
                done.append(1)
            except RuntimeError as error:
                refused.append(str(error))
            except Exception as error:
                other.append(error)
                return

    calls = [lambda: stream(x), lambda: stream(x), stream.state_dict, lambda: stream(x[:, :, :1])]
    threads = [threading.Thread(target=work, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert other == []
    assert done
    assert all("this stream is being called by another thread" in text for text in refused)
    stream.reset()
    np.testing.assert_array_equal(stream(x), stream.module(x))


@pytest.mark.parametrize("kind", [lambda layer: layer, Sequential], ids=["layer", "network"])
def test_a_call_in_a_call_is_an_error(kind):
    stream = kind(Conv1d(4, 4, 3, padding="causal", rng=rng())).stream()
    with stream._guard, pytest.raises(RuntimeError, match="is being called by another thread"):
        stream(np.ones((4, 5), np.float32))
    with stream._guard, pytest.raises(RuntimeError, match="use one for each"):
        stream.state_dict()
    assert stream(np.ones((4, 5), np.float32)).shape == (4, 5)


@pytest.mark.parametrize(
    ("n", "error"),
    [(-5, ValueError), (float("nan"), TypeError), (1.5, TypeError), ("3", TypeError)],
)
def test_output_length_of_nonsense(n, error):
    with pytest.raises(error, match="n_inputs should"):
        Conv1d(1, 1, 3).stream().output_length(n)
