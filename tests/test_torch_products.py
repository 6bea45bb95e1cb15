"""accelerate: what torch multiplies as fast is left to it, call by call."""

import pytest

torch = pytest.importorskip("torch")
from torch.nn import functional as F  # noqa: E402

from fastconv1d.torch import accelerate, products  # noqa: E402

nn = torch.nn
pytestmark = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="torch has no MKL")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


LAYERS = {  # what is left of inputs (1, C, 8), (1, C, 1000) and (20, C, 8), on one thread
    "few channels": (nn.Conv1d(64, 64, 3), (False, False, False)),
    "short": (nn.Conv1d(128, 128, 3), (True, False, False)),
    "short and strided": (nn.Conv1d(128, 160, 3, stride=2), (True, False, False)),
    "dilated": (nn.Conv1d(128, 128, 3, dilation=2), (False, False, False)),
    "groups": (nn.Conv1d(256, 256, 3, groups=2), (False, False, False)),
    "transposed": (nn.ConvTranspose1d(128, 128, 3), (False, False, False)),
    "one tap": (nn.Conv1d(64, 64, 1), (True, True, False)),
    "one tap to few": (nn.Conv1d(32, 3, 1), (True, True, False)),
    "one tap to more": (nn.Conv1d(32, 256, 1), (False, False, False)),
    "one tap to many": (nn.Conv1d(256, 300, 1), (True, True, False)),
    "one tap, strided": (nn.Conv1d(128, 128, 1, stride=2), (True, False, False)),
    "wide": (nn.Conv1d(1024, 1024, 1), (True, True, True)),
    "wide and strided": (nn.Conv1d(512, 512, 3, stride=2), (True, True, True)),
}


def is_left(fast, x):
    with torch.profiler.profile() as profiled:
        fast(x)
    return not any(row.key.startswith("fastconv1d::") for row in profiled.key_averages())


@pytest.mark.filterwarnings("ignore:.*clears events:UserWarning")
@pytest.mark.parametrize("name", LAYERS)
def test_what_is_left(name):
    torchs, expected = LAYERS[name]
    fast, report = accelerate(torchs.eval())
    assert ("left" in report.layers[""]) == any(expected)
    inputs = [
        torch.randn(n, torchs.in_channels, length) for n, length in ((1, 8), (1, 1000), (20, 8))
    ]
    with torch.no_grad():
        fast(inputs[0])  # packs
        assert tuple(is_left(fast, x) for x in inputs) == expected
        for x, left in zip(inputs, expected, strict=True):
            assert not left or torch.equal(fast(x), torchs(x))
            torch.testing.assert_close(fast(x), torchs(x), rtol=1e-4, atol=1e-4)


def test_threads_and_weights_are_those_of_the_call():
    torchs = nn.Conv1d(64, 64, 1).eval()
    fast, _ = accelerate(torchs)
    x = torch.randn(1, 64, 1000)
    with torch.no_grad():
        fast(x), fast(x)
        assert fast._pack.products.leaves(x, 1, False)
        assert not fast._pack.products.leaves(x, 1, True)
        torch.set_num_threads(2)
        assert not fast._pack.products.leaves(x, 1, False)
        torch.set_num_threads(1)
        for module in (torchs, fast):  # whatever was known of the old one, torch sees the new
            module.weight = nn.Parameter(torch.ones(5, 64, 3))
            module.bias = None
        assert torch.equal(fast(x), torchs(x)) and fast(x).shape == (1, 5, 998)


@pytest.mark.filterwarnings("ignore:.*clears events:UserWarning")
def test_chains_and_functions():
    model = nn.Sequential(nn.Conv1d(128, 32, 1), nn.ReLU(), nn.Conv1d(32, 128, 3), nn.ReLU()).eval()
    fast, report = accelerate(model, fuse=True)
    assert len(report.fused[""]) == 2
    with torch.no_grad():
        for length in (8, 500):
            x = torch.randn(1, 128, length)
            for _ in range(2):
                torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)

    class Calls(nn.Module):
        def forward(self, x, w):
            return F.conv2d(x, w) if x.dim() == 4 else F.conv1d(x, w)

    torchs = Calls()
    fast, _ = accelerate(torchs, conv2d=True)
    with torch.no_grad():
        for shapes in (((1, 128, 8), (128, 128, 3)), ((1, 128, 4, 4), (128, 128, 3, 3))):
            x, w = map(torch.randn, shapes)
            assert torch.equal(fast(x, w), torchs(x, w))


def test_planes_have_the_same_rule():
    for groups, expected in ((1, True), (2, False)):
        found = products.products_of((128, 128, 3, 3), 1, (1, 1), groups)
        assert found.short == expected
    assert products.products_of((128, 128, 3, 3), 1, (2, 1), 1) is None
    assert products.products_of((64, 64, 5, 5), 1, (1, 1), 1) is None
    for shape, groups, large in (((256, 256, 3, 3), 1, True), ((256, 1, 3, 3), 256, False)):
        found = products.products_of(shape, 1, (1, 1), groups)
        for size, items, expected in ((7, 1, True), (7, 8, True), (14, 8, large), (14, 1, False)):
            assert found.leaves(torch.empty(items, 256, size, size), 2, True) == expected
        assert "planes of at most 64 positions" in found.described()
    found = products.products_of((64, 64, 1, 1), 1, (1, 1), 1)
    for shape in ((1, 64, 56, 56), (64, 56, 56)):
        assert found.leaves(torch.empty(shape), 2, False)


@pytest.mark.filterwarnings("ignore:.*clears events:UserWarning")
@pytest.mark.parametrize("name", LAYERS)
def test_inputs_that_do_not_lie_in_order_are_not_left(name):
    torchs, expected = LAYERS[name]
    fast, _ = accelerate(torchs.eval())
    x = torch.randn(1, 8, torchs.in_channels).transpose(1, 2)
    with torch.no_grad():
        fast(x)
        assert is_left(fast, x) == expected[2]
        torch.testing.assert_close(fast(x), torchs(x), rtol=1e-4, atol=1e-4)
