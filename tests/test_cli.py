"""The command line: demo, info and bench in child processes, and how signals are read."""

import os
import subprocess
import sys
import wave

import numpy as np
import pytest
from scipy.io import wavfile

from fastconv1d.demo import SignalError, layer_error, read_signal
from fastconv1d.modules import Conv1d

RATE = 8000
TONE = 0.5 * np.sin(2 * np.pi * 440 / RATE * np.arange(2000))


def run_cli(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "fastconv1d", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
        check=False,
    )


def write_pcm24(path, samples):
    values = np.round(samples * (2**23 - 1)).astype("<i4")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(3)
        file.setframerate(RATE)
        file.writeframes(values.view(np.uint8).reshape(-1, 4)[:, :3].tobytes())


def test_demo_on_the_shipped_signal():
    done = run_cli("demo")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "28800 samples, 1.80 s at 16000 Hz" in done.stdout
    assert done.stdout.count(" ok\n") == 14
    for shapes in (
        "(20, 16, 50) -> (20, 33, 24)",
        "(32, 256, 35) -> (32, 100, 34)",
        "(20, 16, 12) -> (20, 16, 6)",
        "(20, 16, 6) -> (20, 16, 12)",
        "(16, 28800) -> (32, 28800)",
    ):
        assert shapes in done.stdout
    assert "every layer agrees with the reference" in done.stdout


def test_demo_on_a_file(tmp_path):
    wavfile.write(tmp_path / "tone.wav", RATE, (TONE * 32767).astype(np.int16))
    done = run_cli("demo", tmp_path / "tone.wav")
    assert done.returncode == 0, done.stderr
    assert "2000 samples, 0.25 s at 8000 Hz" in done.stdout


def test_info():
    done = run_cli("info")
    assert done.returncode == 0, done.stderr
    assert np.__version__ in done.stdout


@pytest.mark.parametrize("arguments", [(), ("dance",), ("bench", "--threads", "0")])
def test_bad_arguments(arguments):
    done = run_cli(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("bench", "--layers", "no_such*"), "no layer matches 'no_such*'"),
        (("bench", "--peers", "torch,cupy"), "unknown peers ['cupy']"),
        (("bench", "--from-json"), "--from-json needs --report"),
    ],
)
def test_bench_of_nothing(arguments, reason):
    done = run_cli(*arguments)
    assert done.returncode == 2
    assert done.stderr == f"fastconv1d bench: {reason}\n"


def bad_files(folder):
    np.save(folder / "complex.npy", np.ones(4, complex))
    np.save(folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(folder / "nan.npy", np.array([0.0, np.nan]))
    np.save(folder / "huge.npy", np.array([1e300]))
    np.save(folder / "cube.npy", np.ones((2, 2, 2)))
    np.save(folder / "empty.npy", np.ones(0))
    (folder / "text.npy").write_text("hello")
    (folder / "text.wav").write_text("hello, this is not audio\n")
    (folder / "zero.wav").write_bytes(b"")
    wavfile.write(folder / "whole.wav", RATE, TONE.astype(np.float32))
    (folder / "cut.wav").write_bytes((folder / "whole.wav").read_bytes()[:30])
    (folder / "notes.txt").write_text("hello")
    (folder / "folder.wav").mkdir()
    names = "complex.npy objects.npy nan.npy huge.npy cube.npy empty.npy text.npy text.wav zero.wav"
    return [*names.split(), "cut.wav", "notes.txt", "folder.wav", "missing.wav", "missing.npy"]


def test_bad_files_have_a_reason_of_one_line(tmp_path):
    for name in bad_files(tmp_path):
        with pytest.raises(SignalError) as caught:
            read_signal(tmp_path / name)
        assert str(caught.value), name
        assert "\n" not in str(caught.value), name


@pytest.mark.parametrize("name", ["text.wav", "nan.npy", "missing.wav"])
def test_a_bad_file_exits_2_with_one_line(tmp_path, name):
    bad_files(tmp_path)
    done = run_cli("demo", tmp_path / name)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"fastconv1d demo: {tmp_path / name}: ")


@pytest.mark.parametrize(
    ("encode", "step"),
    [
        (lambda s: np.round(s * 127 + 128).astype(np.uint8), 1 / 127),
        (lambda s: np.round(s * (2**15 - 1)).astype(np.int16), 2**-15),
        (lambda s: np.round(s * (2**31 - 1)).astype(np.int32), 1e-7),
        (lambda s: s.astype(np.float32), 1e-7),
        (lambda s: s.astype(np.float64), 1e-7),
    ],
)
@pytest.mark.parametrize("n_channels", [1, 2])
def test_wav_formats(tmp_path, encode, step, n_channels):
    samples = TONE if n_channels == 1 else np.stack([TONE, 0.5 * TONE], axis=1)
    wavfile.write(tmp_path / "tone.wav", RATE, encode(samples))
    rate, signal = read_signal(tmp_path / "tone.wav")
    assert rate == RATE
    assert signal.dtype == np.float32
    expected = TONE if n_channels == 1 else 0.75 * TONE
    np.testing.assert_allclose(signal, expected, rtol=0, atol=step)


def test_wav_of_24_bits(tmp_path):
    write_pcm24(tmp_path / "tone.wav", TONE)
    rate, signal = read_signal(tmp_path / "tone.wav")
    assert rate == RATE
    np.testing.assert_allclose(signal, TONE, rtol=0, atol=3e-7)


def test_npy_signals(tmp_path):
    np.save(tmp_path / "one.npy", np.arange(5, dtype=">i2"))
    rate, signal = read_signal(tmp_path / "one.npy")
    assert rate is None
    assert signal.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    np.save(tmp_path / "two.npy", np.array([[0.0, 2.0, 4.0], [2.0, 2.0, 2.0]]))
    assert read_signal(tmp_path / "two.npy")[1].tolist() == [1.0, 2.0, 3.0]


def test_layer_error_sees_a_wrong_element():
    layer = Conv1d(2, 3, 3, rng=np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((1, 2, 9), dtype=np.float32)
    y = layer(x)
    assert layer_error(layer, x, y) <= 8
    y[0, 1, 4] += 1e-3
    assert layer_error(layer, x, y) > 100
