"""The HiFi-GAN example: its sizes, weights under the authors' keys, and torch's output."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastconv1d import summary

ROOT = Path(__file__).resolve().parents[1]


def _load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hifigan = _load(ROOT / "examples" / "hifigan.py")


def test_sizes_are_those_of_v1():
    net = hifigan.generator(np.random.default_rng(0))
    result = summary(net, (1, 80, 200))
    assert result.total.output_shape == (1, 1, 51200)
    assert result.total.parameters == 13_926_017  # as the paper says, 13.92 M
    state = hifigan.to_official(net)
    assert len(state) == 2 * (1 + 4 + 4 * 3 * 6 + 1)
    assert state["ups.1.weight"].shape == (256, 128, 16)
    assert state["resblocks.5.convs1.2.weight"].shape == (128, 128, 11)
    assert state["conv_post.weight"].shape == (1, 32, 7)


def test_weights_of_the_authors():
    rng = np.random.default_rng(1)
    net = hifigan.generator(rng, channels=32)
    other = hifigan.generator(rng, channels=32)
    x = rng.standard_normal((2, 80, 3), np.float32)
    expected = net(x)
    assert 0.01 < expected.std() < 0.9
    state = hifigan.to_official(net)
    hifigan.load_official(other, state)
    assert other(x).tobytes() == expected.tobytes()
    normed = {}
    for key, value in state.items():
        if key.endswith(".weight"):
            direction = value * rng.uniform(0.5, 2, (len(value), 1, 1)).astype(np.float32)
            normed[key + "_v"] = direction
            normed[key + "_g"] = np.sqrt((value**2).sum((1, 2), keepdims=True))
        else:
            normed[key] = value
    hifigan.load_official(other, normed)
    np.testing.assert_allclose(other(x), expected, rtol=0, atol=1e-5)
    del normed["conv_post.bias"]
    with pytest.raises(KeyError, match=r"conv_post\.bias"):
        hifigan.load_official(other, normed)


def test_torch_agrees(monkeypatch):
    torch = pytest.importorskip("torch")
    benchmark = _load(ROOT / "benchmarks" / "hifigan.py")
    monkeypatch.setattr(benchmark.hifigan, "CHANNELS", 64)
    rng = np.random.default_rng(2)
    net = hifigan.generator(rng, channels=64)
    theirs = benchmark.torch_generator(hifigan.to_official(net))
    x = rng.standard_normal((1, 80, 9), np.float32)
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(x)).numpy()
    assert expected.shape == (1, 1, 9 * 256)
    np.testing.assert_allclose(net(x), expected, rtol=0, atol=1e-5)


def test_the_script_runs():
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / "hifigan.py"), "--frames", "2"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "13,926,017 parameters, 1.2 GFLOP" in done.stdout
    assert "times real time" in done.stdout
