"""What is assigned to a layer is seen by every later call of whatever uses it."""

import sys
import threading

import numpy as np
import pytest

from fastconv1d import Conv1d, ConvTranspose1d, LeakyReLU, ReLU, Residual, Sequential

SHAPE = (1, 2, 9)


def layer(kind=Conv1d):
    made = kind(2, 2, 1, bias=True)
    made.weight, made.bias = np.zeros((2, 2, 1), np.float32), np.zeros(2, np.float32)
    return made


NETWORKS = {
    "sequential": lambda a: Sequential(a, ReLU()),
    "residual": lambda a: Sequential(Residual(ReLU(), a), ReLU()),
    "nested": lambda a: Sequential(Sequential(LeakyReLU(0.5), a), LeakyReLU(0.5)),
    "twice": lambda a: Sequential(Residual(a), ReLU()),
}


@pytest.fixture
def busy_switching():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("busy_switching")
@pytest.mark.parametrize("kind", [Conv1d, ConvTranspose1d])
@pytest.mark.parametrize("name", NETWORKS)
def test_assignments_beside_calls(name, kind, share):
    a = layer(kind)
    net = NETWORKS[name](a)
    x = np.ones(SHAPE, np.float32)
    stop, seen = threading.Event(), []

    def call():
        while not stop.is_set():
            y = net(x)
            if len(np.unique(y)) != 1:  # of two weights at once
                seen.append(y)

    callers = [threading.Thread(target=call) for _ in range(2)]
    for thread in callers:
        thread.start()
    stale = 0
    extra = 1 if name in ("residual", "twice") else 0
    for i in range(int(5000 * share)):
        value = i % 97
        if i % 2:
            a.weight = np.full((2, 2, 1), value, np.float32)
        else:
            a.load_state_dict({"weight": np.full((2, 2, 1), value), "bias": np.zeros(2)})
        stale += not (net(x) == 2 * value + extra).all()
    stop.set()
    for thread in callers:
        thread.join()
    assert stale == 0
    assert seen == []


@pytest.mark.usefixtures("busy_switching")
def test_weight_and_bias_are_exchanged_together(share):
    a = layer()
    net = Sequential(a, ReLU())
    x = np.ones(SHAPE, np.float32)
    stop, torn = threading.Event(), []

    def call():
        while not stop.is_set():
            for y in (net(x), a(x)):  # weight i and bias 100 - 2*i
                if not (y == 100).all():
                    torn.append(float(y.flat[0]))

    threads = [threading.Thread(target=call) for _ in range(2)]
    a.load_state_dict({"weight": np.zeros((2, 2, 1)), "bias": np.full(2, 100)})
    for thread in threads:
        thread.start()
    for i in range(int(5000 * share)):
        k = i % 50
        a.load_state_dict({"weight": np.full((2, 2, 1), k), "bias": np.full(2, 100 - 2 * k)})
    stop.set()
    for thread in threads:
        thread.join()
    assert torn == []
