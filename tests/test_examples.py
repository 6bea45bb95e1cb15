"""The examples, on small inputs."""

import importlib.metadata
import importlib.util
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

import fastconv1d
from fastconv1d import reference

EXAMPLES = Path(__file__).parent.parent / "examples"
SIGNAL = Path(fastconv1d.__file__).parent / "data" / "signal.wav"


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# ---- torch_models.py ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch_models():
    pytest.importorskip("torch")
    return example("torch_models")


@pytest.mark.parametrize("name", ["conv_tasnet", "wavenet", "hifi_gan", "wav2vec2"])
def test_accelerated_models(torch_models, name):
    import torch

    torch.manual_seed(0)
    model, x = torch_models.MODELS[name](0.05)
    fast, report = torch_models.accelerate(model.eval())
    assert len(report.replaced) >= 7 and not report.left
    with torch.inference_mode():
        y = model(x)
        np.testing.assert_allclose(fast(x), y, rtol=0, atol=1e-4 * float(y.abs().max()))


def test_torch_models_command(torch_models, capsys):
    torch_models.main(["wav2vec2", "--seconds", "0.05", "--rounds", "1"])
    header, line, mean = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["model", "torch", "ms"]
    assert line.split()[0] == "wav2vec2" and float(line.split()[-1]) < 1e-4
    assert mean.startswith("geometric mean ")
    with pytest.raises(SystemExit):
        torch_models.main(["alexnet"])
    assert "no model alexnet: there are conv_tasnet, " in capsys.readouterr().err


# ---- silero_vad.py -----------------------------------------------------------------------------

SHAPES = {
    "stft_conv.weight": (258, 1, 256),
    "conv1.weight": (128, 129, 3),
    "conv2.weight": (64, 128, 3),
    "conv3.weight": (64, 64, 3),
    "conv4.weight": (128, 64, 3),
    "lstm_cell.weight_ih": (512, 128),
    "lstm_cell.weight_hh": (512, 128),
    "final_conv.weight": (1, 128, 1),
    **{f"conv{i}.bias": (n,) for i, n in ((1, 128), (2, 64), (3, 64), (4, 128))},
    "lstm_cell.bias_ih": (512,),
    "lstm_cell.bias_hh": (512,),
    "final_conv.bias": (1,),
}


@pytest.fixture(scope="module")
def vad():
    return example("silero_vad")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    rng = np.random.default_rng(0)
    state = {
        name: (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)
        for name, shape in SHAPES.items()
    }
    path = tmp_path_factory.mktemp("vad") / "weights.npz"
    fastconv1d.save_file(state, path)
    return path


def slow_probabilities(state, audio):
    """The network by its definition, in double precision."""
    s = {name: value.astype(np.float64) for name, value in state.items()}
    stream = np.concatenate([np.zeros(64), audio])
    h, c, found = np.zeros(128), np.zeros(128), []
    for begin in range(0, len(audio), 512):
        x = np.pad(stream[begin : begin + 576], (0, 64), "reflect")[None]
        y = reference.conv1d(x, s["stft_conv.weight"], stride=128)
        x = np.hypot(y[:129], y[129:])
        for i, stride in ((1, 1), (2, 2), (3, 2), (4, 1)):
            weight, bias = s[f"conv{i}.weight"], s[f"conv{i}.bias"]
            x = np.maximum(reference.conv1d(x, weight, bias, stride=stride, padding=1), 0)
        gates = s["lstm_cell.weight_ih"] @ x[:, 0] + s["lstm_cell.weight_hh"] @ h
        gates += s["lstm_cell.bias_ih"] + s["lstm_cell.bias_hh"]
        i, f, g, o = gates.reshape(4, 128)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
        logit = s["final_conv.weight"][0, :, 0] @ np.maximum(h, 0) + s["final_conv.bias"][0]
        found.append(1 / (1 + np.exp(-logit)))
    return np.array(found)


@pytest.mark.parametrize("block", [1, 3, 32])
def test_vad_is_its_definition(vad, weights, block):
    audio = np.random.default_rng(1).standard_normal(7 * 512 - 100).astype(np.float32)
    expected = slow_probabilities(fastconv1d.load_file(weights), vad.whole_chunks(audio))
    actual = vad.probabilities(vad.SileroVad(weights), audio, block)
    assert actual.dtype == np.float32 and expected.std() > 1e-3
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def test_vad_equals_onnx_runtime(vad, capsys):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    try:
        importlib.metadata.distribution("silero-vad")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs the package silero-vad")
    assert vad.check(vad.read_audio(SIGNAL)) < 1e-4
    assert vad.main([str(SIGNAL)]) == 0
    assert "seconds are speech" in capsys.readouterr().out


def test_vad_command(vad, weights, tmp_path, capsys):
    audio = np.random.default_rng(2).standard_normal(9000).astype(np.float32)
    path = tmp_path / "x.wav"
    wavfile.write(path, 16000, audio)
    assert vad.main([str(path), "--weights", str(weights)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["begin", "s", "end", "s", "mean", "probability"]
    assert lines[-1].endswith(" of 0.56 seconds are speech")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")
def test_vad_plot(vad, tmp_path):
    pytest.importorskip("matplotlib")
    vad.plot(tmp_path / "x.png", np.zeros(1024), np.array([0.1, 0.9]), [(0.0, 0.03)])
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
@pytest.mark.parametrize("rate", [16000, 48000, 22050])
def test_vad_reads_audio(vad, tmp_path, dtype, rate):
    t = np.arange(rate // 4) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * t)
    if dtype == np.uint8:
        samples = 128 + 128 * tone
    else:
        samples = tone if dtype == np.float32 else tone * -float(np.iinfo(dtype).min)
    stereo = np.stack([samples, samples], axis=1).astype(dtype)
    wavfile.write(tmp_path / "x.wav", rate, stereo)
    audio = vad.read_audio(tmp_path / "x.wav")
    assert audio.dtype == np.float32 and abs(len(audio) - 4000) <= 1
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(audio)) / 16000)
    inner = slice(200, -200)
    np.testing.assert_allclose(audio[inner], expected[inner], atol=0.01)


def wav(samples, rate=16000):
    body = samples.tobytes()
    form = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16)
    data = struct.pack("<I", len(body)) + body
    return (
        b"RIFF"
        + struct.pack("<I", 36 + len(body))
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + (form + b"data" + data)
    )


BAD = {
    "truncated": (wav(np.zeros(1000, "<i2"))[:1000], "no complete WAV file"),
    "text": (b"hello", "no complete WAV file"),
    "empty file": (b"", "no complete WAV file"),
    "header": (wav(np.zeros(0, "<i2"))[:30], "no complete WAV file"),
    "no samples": (wav(np.zeros(0, "<i2")), "no samples"),
    "no rate": (wav(np.zeros(9, "<i2"), rate=0), "sampling rate"),
}


@pytest.mark.parametrize(("content", "reason"), BAD.values(), ids=BAD)
def test_vad_of_bad_files(vad, weights, tmp_path, capsys, content, reason):
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    assert vad.main([str(path), "--weights", str(weights)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"{path}: ") and reason in error and error.count("\n") == 1


def test_vad_without_files(vad, weights, tmp_path, capsys, monkeypatch):
    missing = str(tmp_path / "missing.wav")
    assert vad.main([missing, "--weights", str(weights)]) == 1
    assert capsys.readouterr().err == f"{missing}: No such file or directory\n"
    (tmp_path / "bad.npz").write_bytes(b"PK\3\4")
    assert vad.main([str(SIGNAL), "--weights", str(tmp_path / "bad.npz")]) == 1
    assert "is not an npz file" in capsys.readouterr().err

    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    assert vad.main([str(SIGNAL)]) == 1
    assert capsys.readouterr().err.startswith("no package silero-vad: pip install")


def test_vad_segments(vad):
    p = np.zeros(100)
    p[10:30] = 0.9
    p[31:40] = 0.9  # a gap of 32 ms does not end it
    p[60:63] = 0.9  # too short
    p[80:] = 0.6
    p[85:90] = 0.4  # not below the release
    spoken = vad.segments(p, 3.2)
    expected = [(0.32 - 0.03, 1.28 + 0.03), (2.56 - 0.03, 3.2)]
    np.testing.assert_allclose(spoken, expected)
    assert vad.segments(np.zeros(4), 0.128) == []


# ---- large_recording.py ------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_large_recording(capsys):
    pytest.importorskip("zarr")
    pytest.importorskip("distributed")
    arguments = ["--hours", "0.06", "--channels", "3", "--memory", "1GB"]
    assert example("large_recording").main(arguments) > 0.95
    assert "the first seconds have the bits of one call" in capsys.readouterr().out
