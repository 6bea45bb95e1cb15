"""Layers that occur twice, that a subclass changed, and names: what networks make of them."""

import gc
import threading

import numpy as np
import pytest

from fastconv1d import (
    ELU,
    GELU,
    Conv1d,
    ConvTranspose1d,
    LeakyReLU,
    Mean,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SiLU,
    Snake,
    Tanh,
    flops,
)

ACTIVATIONS = [
    Tanh, Sigmoid, SiLU, ReLU, GELU, ELU, LeakyReLU, lambda: GELU("tanh"),
    lambda: Snake(np.array([0.7, 1.3])),
]  # fmt: skip


def rng(seed=0):
    return np.random.default_rng(seed)


def conv(seed, c_in=2, c_out=2, k=3, kind=Conv1d, **options):
    return kind(c_in, c_out, k, padding=k // 2, dtype="float64", rng=rng(seed), **options)


def numerical(f, x, g, step=1e-6):
    """The gradient by x of (f(x) * g).sum(), by central differences."""
    result = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        result[i] = ((f(up) - f(down)) * g).sum() / (2 * step)
    return result


def check(net, layers, x):
    """Compare all gradients of a network with differences of its values in eval mode."""
    net.train()
    y = net(x)
    g = rng(9).standard_normal(y.shape)
    net.zero_grad()
    grad_input = net.backward(g)
    gradients = [layer.weight_grad.copy() for layer in layers]
    net.eval()
    np.testing.assert_allclose(grad_input, numerical(net, x, g), rtol=1e-5, atol=1e-6)
    for layer, gradient in zip(layers, gradients, strict=True):
        weight = layer.weight.copy()

        def with_weight(w, layer=layer):
            layer.weight = w
            return net(x)

        np.testing.assert_allclose(
            gradient, numerical(with_weight, weight, g), rtol=1e-5, atol=1e-6
        )
        layer.weight = weight


@pytest.mark.parametrize("make", ACTIVATIONS)
def test_an_activation_used_twice(make):
    a = make()
    net = Sequential(a, a).train()
    x = rng().standard_normal((1, 2, 5))
    g = rng(1).standard_normal(x.shape)
    net(x)
    grad_input = net.backward(g)
    np.testing.assert_allclose(grad_input, numerical(net, x, g), rtol=1e-6, atol=1e-7)


def test_the_known_values():
    a = Tanh()
    net = Sequential(a, a).train()
    net(np.array([[0.3]]))
    np.testing.assert_allclose(net.backward(np.array([[1.0]])), 0.8417, atol=5e-5)
    c = Conv1d(1, 1, 1, bias=False, dtype="float64")
    c.weight = np.full((1, 1, 1), 3.0)
    net = Sequential(c, c).train()
    net(np.array([[5.0]]))
    net.backward(np.array([[1.0]]))
    np.testing.assert_array_equal(c.weight_grad, [[[30.0]]])


def test_convolutions_used_twice():
    x = rng(2).standard_normal((2, 2, 7))
    a, b = conv(1), conv(2)
    up = conv(3, kind=ConvTranspose1d)
    act = conv(4, activation="tanh", pre_activation="silu", residual_scale=0.5)
    check(Sequential(a, a), [a], x)
    check(Sequential(a, Tanh(), b, a, b), [a, b], x)
    check(Residual(a, Tanh(), a, shortcut=b, residual_scale=0.3), [a, b], x)
    check(Residual(a, shortcut=a), [a], x)
    check(Mean(a, Sequential(a, b), b), [a, b], x)
    check(Sequential(up, Residual(up, act), act), [up, act], x)
    block = Sequential(a, Tanh())
    check(Sequential(block, Residual(block), block), [a], x)


def test_one_layer_in_two_networks():
    a = conv(1)
    first, second = Sequential(a, Tanh()).train(), Sequential(a, a).train()
    x, z = rng(1).standard_normal((1, 2, 6)), rng(2).standard_normal((1, 2, 6))
    y, v = first(x), second(z)
    first.backward(np.ones_like(y))
    one = a.weight_grad.copy()
    second.backward(np.ones_like(v))
    a.zero_grad()
    second(z)
    second.backward(np.ones_like(v))
    two = a.weight_grad.copy()
    a.zero_grad()
    y, v = first(x), second(z)
    second.backward(np.ones_like(v))
    first.backward(np.ones_like(y))
    np.testing.assert_allclose(a.weight_grad, one + two, rtol=1e-12)


def test_by_hand_on_its_own_output():
    a = conv(1).train()
    x = rng(1).standard_normal((1, 2, 6))
    g = rng(2).standard_normal((1, 2, 6))
    y = a(a(x))
    grad_input = a.backward(a.backward(g))
    by_weight = a.weight_grad.copy()
    a.eval()
    np.testing.assert_allclose(grad_input, numerical(lambda v: a(a(v)), x, g), rtol=1e-6)
    weight = a.weight.copy()

    def with_weight(w):
        a.weight = w
        return a(a(x))

    np.testing.assert_allclose(by_weight, numerical(with_weight, weight, g), rtol=1e-6, atol=1e-7)
    assert y.shape == x.shape


@pytest.mark.parametrize("layer", [conv(1), Tanh(), Sequential(conv(1), Tanh())])
def test_two_calls_by_hand_have_to_be_told_apart(layer):
    layer.train()
    x1, x2 = rng(1).standard_normal((2, 1, 2, 6))
    g1, g2 = rng(2).standard_normal((2, 1, 2, 6))
    y1, y2 = layer(x1), layer(x2)
    with pytest.raises(RuntimeError, match=r"backward may be that of 2 calls.*output=y"):
        layer.backward(g1)
    d1 = layer.backward(g1, output=y1)
    d2 = layer.backward(g2, output=y2)
    with pytest.raises(ValueError, match="output should be what a call in train mode returned"):
        layer.backward(g1, output=g1)
    layer.zero_grad()
    layer.eval()
    np.testing.assert_allclose(d1, numerical(layer, x1, g1), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(d2, numerical(layer, x2, g2), rtol=1e-5, atol=1e-7)


def test_the_newest_call_is_meant_where_others_are_dropped():
    a = conv(1).train()
    x1, x2 = rng(1).standard_normal((2, 1, 2, 6))
    g = np.ones((1, 2, 6))
    a(x1)
    a(x2)
    expected = a.backward(g), a.weight_grad.copy()
    a.zero_grad()
    y = a(x2)
    np.testing.assert_array_equal(a.backward(g), expected[0])
    np.testing.assert_array_equal(a.weight_grad, expected[1])
    a.backward(g)  # once more, of the same call
    np.testing.assert_array_equal(a.weight_grad, 2 * expected[1])
    assert y.shape == g.shape


def test_inputs_of_calls_are_freed():
    import weakref

    a = conv(1).train()
    x = rng(1).standard_normal((1, 2, 6))
    kept = weakref.ref(x)
    for _ in range(3):
        a(x)
    a(rng(2).standard_normal((1, 2, 6)))
    del x
    gc.collect()
    assert kept() is None


def test_threads_train_one_layer():
    a = conv(1).train()
    x = rng(3).standard_normal((16, 1, 2, 50))
    g = rng(4).standard_normal((16, 1, 2, 50))
    alone = []
    for i in range(16):
        y = a(x[i])
        alone.append(a.backward(g[i]))
    total = a.weight_grad.copy()
    a.zero_grad()
    wrong = []

    def work(i):
        for _ in range(20):
            y = a(x[i])
            if (a.backward(g[i]) != alone[i]).any() or y.shape != g[i].shape:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    np.testing.assert_allclose(a.weight_grad, 20 * total, rtol=1e-9)
    assert y is not None


# ---- names, subclasses ---------------------------------------------------------------------------


def test_names_that_would_lose_a_layer_are_refused():
    c = conv(1)
    for name in ("a.b", "", "."):
        with pytest.raises(ValueError, match=r"can't be empty or contain '\.', got"):
            Sequential({name: c})
    for name in (3, None, ("a",)):
        with pytest.raises(TypeError, match="name of a layer should be a string, got"):
            Mean({name: c})
    with pytest.raises(ValueError, match="the shortcut should be given once"):
        Residual({"a": c, "shortcut": conv(2)}, shortcut=conv(3))
    with pytest.raises(TypeError, match=r"unpacked with \*: Sequential\(\*layers\)"):
        Sequential([c, c])


class Doubled(Conv1d):
    def forward(self, input, **more):
        return 2 * super().forward(input, **more)


class Called(ReLU):
    def __call__(self, input):
        return super().__call__(input) + 1


class Counted(Sequential):
    calls = 0

    def forward(self, input, **more):
        self.calls += 1
        return super().forward(input, **more)


def test_a_subclass_is_honoured():
    x = rng(1).standard_normal((2, 2, 9))
    double = Doubled(2, 2, 3, padding=1, dtype="float64", rng=rng(5))
    plain = Conv1d(2, 2, 3, padding=1, dtype="float64", rng=rng(5))
    counted = Counted(conv(6), ReLU())
    for net, expected in (
        (Sequential(double, Tanh()), np.tanh(2 * plain(x))),
        (Sequential(plain, Called()), np.maximum(plain(x), 0) + 1),
        (Residual(double), 2 * plain(x) + x),
        (Mean(double, plain), 1.5 * plain(x)),
        (Sequential(Sequential(double)), 2 * plain(x)),
        (Sequential(counted), np.maximum(counted[0](x), 0)),
    ):
        np.testing.assert_allclose(net(x), expected, rtol=1e-12, atol=1e-14)
        out = np.empty_like(expected)
        assert net(x, out=out) is out
        np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-14)
    assert counted.calls == 2
    with pytest.raises(TypeError, match="Doubled with a forward of its own"):
        flops(Sequential(double), (2, 9))


def test_a_forward_set_on_a_layer_is_honoured():
    x = rng(1).standard_normal((2, 2, 9))
    net = Sequential(conv(1), ReLU())
    before = net(x)
    net[1].forward = lambda input: -input
    np.testing.assert_array_equal(net(x), -net[0](x))
    del net[1].forward
    assert (before >= 0).all()


class Tripled(Conv1d):
    def forward(self, input, **more):
        return 3 * super().forward(input, **more)

    def backward(self, grad_output):
        return super().backward(3 * grad_output)


def test_a_subclass_goes_back_by_itself():
    x = rng(1).standard_normal((1, 2, 6))
    triple = Tripled(2, 2, 3, padding=1, dtype="float64", rng=rng(5))
    check(Sequential(conv(1), triple, Tanh()), [triple], x)
    net = Sequential(Doubled(2, 2, 1, dtype="float64")).train()
    y = net(x)
    with pytest.raises(RuntimeError, match="Doubled has a forward of its own, whose backward"):
        net.backward(y)
