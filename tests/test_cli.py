"""The command line: demo, info and bench in child processes, and how signals are read."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import wave
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

import fastconv1d.bench
from fastconv1d.__main__ import main
from fastconv1d.core import machine
from fastconv1d.demo import SignalError, layer_error, read_signal
from fastconv1d.modules import Conv1d

RATE = 8000
TONE = 0.5 * np.sin(2 * np.pi * 440 / RATE * np.arange(2000))


def run_cli(*arguments, timeout=300, **environment):
    return subprocess.run(
        [sys.executable, "-m", "fastconv1d", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
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


def test_info_of_the_machine(tmp_path):
    done = run_cli("info")
    names = [line.partition(" ")[0] for line in done.stdout.splitlines()]
    assert names.index("build") < names.index("cpu") < names.index("caches")
    for size in ("level", "type", "size"):
        for index, value in enumerate(
            {"level": "12", "type": ("Data", "Unified"), "size": "48"}[size]
        ):
            (tmp_path / f"index{index}").mkdir(exist_ok=True)
            (tmp_path / f"index{index}" / size).write_text(value + "\n")
    assert machine.caches(str(tmp_path)) == "L1d 4, L2 8"
    assert machine.caches(str(tmp_path / "none")) == "not exposed"
    assert machine.cpu_model()


def test_info_of_the_build(tmp_path, monkeypatch):
    package = tmp_path / "fastconv1d"
    package.mkdir()
    assert machine.build(package) == "unknown"  # installed is another
    about = tmp_path / "fastconv1d-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: fastconv1d\nVersion: 0.1.0\n")
    (about / "WHEEL").write_text("Wheel-Version: 1.0\nTag: cp311-cp311-linux_x86_64\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert machine.build(package) == "wheel cp311-cp311-linux_x86_64"
    (tmp_path / ".git").mkdir()
    assert machine.build(package) == "a checkout of an unknown commit"
    monkeypatch.setenv("PATH", "")
    assert machine.build(package) == "a checkout of an unknown commit"


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_info_of_a_checkout(tmp_path):
    package = tmp_path / "fastconv1d"
    package.mkdir()
    (package / "file").write_text("1")
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "one"]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    assert re.fullmatch("commit [0-9a-f]{7,}", machine.build(package))
    (package / "file").write_text("2")
    assert re.fullmatch("commit [0-9a-f]{7,}-dirty", machine.build(package))


def test_version():
    done = run_cli("--version")
    assert (done.returncode, done.stdout) == (0, f"fastconv1d {fastconv1d.__version__}\n")


def test_the_console_command_is_main():
    with open(Path(__file__).parents[1] / "pyproject.toml", "rb") as file:
        text = file.read().decode()
    assert '[project.scripts]\nfastconv1d = "fastconv1d.__main__:main"\n' in text
    assert callable(fastconv1d.__main__.main)


BAD_THREADS = (
    "0",
    "-1",
    "1025",
    "99999999999",
    "9" * 5000,
    "1.5",
    "nan",
    "1_0",
    "two",
    "",
    "\u0663",
)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("dance",),
        ("info", "more"),
        ("demo", "one.wav", "two.wav"),
        *(("bench", "--threads", threads) for threads in BAD_THREADS),
        ("bench", "--json", ""),
        ("bench", "--report", ""),
        ("bench", "--dtype", "float16"),
        ("bench", "--isa", "mmx"),
    ],
)
def test_bad_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "error: " in printed.err


@pytest.mark.skipif(os.name == "nt", reason="pipes and devices of POSIX")
@pytest.mark.parametrize(
    "arguments", ["info", "--help", "demo", "bench --quick --layers tiny --peers="]
)
def test_readers_that_go(arguments):
    """What is written to a pipe that nobody reads, and to a full disk, ends without a traceback."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fastconv1d", *arguments.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": ""},  # argparse itself hides what fails in a write
        text=True,
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(300) == 141
    process.stderr.close()
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "fastconv1d", *arguments.split()],
                stdout=full,
                stderr=subprocess.PIPE,
                env={**os.environ, "PYTHONUNBUFFERED": ""},
                text=True,
                check=False,
            )
        assert done.returncode == 2
        assert done.stderr == "fastconv1d: [Errno 28] No space left on device\n"


@pytest.mark.skipif(os.name == "nt", reason="sends a signal")
def test_ctrl_c_ends_without_a_traceback(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "fastconv1d", "bench", "--peers="],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline().startswith("machine ")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the one that measures as well
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.skipif(os.name == "nt", reason="bytes in a path")
def test_paths_that_cannot_be_printed(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\xc3\xa4.wav"
    try:
        shutil.copy(Path(fastconv1d.__file__).parent / "data" / "signal.wav", path)
    except OSError:
        pytest.skip("names are Unicode on this file system")
    done = subprocess.run(
        [sys.executable, "-m", "fastconv1d", "demo", path],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"\\udcff\\xe4.wav, 28800 samples" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("bench", "--layers", "no_such*"), "no layer matches 'no_such*'"),
        (("bench", "--peers", "torch,cupy"), "unknown peers ['cupy']"),
        (("bench", "--from-json"), "--from-json needs --report"),
        (
            ("bench", "--json", "no/such/dir/f"),
            "--json no/such/dir/f cannot be written: No such file or directory",
        ),
        (("bench", "--json", "."), "--json . cannot be written: Is a directory"),
        (
            ("bench", "--subject", "costs", "--json", "n" * 300),
            f"--json {'n' * 300} cannot be written: File name too long",
        ),
        pytest.param(
            ("bench", "--report", "no/such/dir", "--from-json"),
            "--from-json needs no/such/dir/report.json",
            marks=pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs matplotlib"),
        ),
    ],
)
def test_bench_of_nothing(arguments, reason):
    done = run_cli(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"fastconv1d bench: {reason}\n"
    assert not os.path.exists("no")


def test_bench_for_another_cpu(monkeypatch, capsys):
    monkeypatch.setattr(fastconv1d.bench, "supported_isas", lambda: ("base",))
    assert main(["bench", "--isa", "avx2"]) == 2
    assert capsys.readouterr().err == "fastconv1d bench: --isa avx2: this CPU has base\n"


@pytest.mark.parametrize(
    "content", ["[", "7", "{}", '{"stages": 1}', '{"stages": {"forward": {"status": 0}}}', None]
)
def test_reports_of_what_is_no_report(tmp_path, content, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)
    elif hasattr(os, "mkfifo"):
        os.mkfifo(path)
    assert main(["bench", "--from-json", "--report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fastconv1d bench: ")
    assert error.count("\n") == 1


def test_reports_in_a_file(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "more"):
        assert main(["bench", "--report", str(path)]) == 2
        assert f"--report {path} cannot be written: " in capsys.readouterr().err


def test_figures_that_cannot_be_written_are_shown(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no disk that is full")
    done = run_cli("bench", "--quick", "--layers", "tiny", "--peers=", "--json", "/dev/full")
    assert done.returncode == 2
    assert done.stderr == "fastconv1d: [Errno 28] No space left on device\n"
    assert "\ntiny " in done.stdout


def test_json_of_a_stopped_reader_is_written(tmp_path):
    target = tmp_path / "f.json"
    target.write_text("what was there")
    command = f"{sys.executable} -m fastconv1d bench --quick --layers tiny --peers= --json {target}"
    process = subprocess.Popen(command.split(), stdout=subprocess.PIPE, text=True)
    while process.stdout.readline() != "\n":  # all that is printed before the measuring
        assert process.poll() is None
    process.stdout.close()
    assert process.wait(300) == 141
    assert json.loads(target.read_text())["rows"][0]["layer"] == "tiny"


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
    wavfile.write(folder / "silent.wav", 0, TONE.astype(np.float32))
    names = "complex.npy objects.npy nan.npy huge.npy cube.npy empty.npy text.npy text.wav zero.wav"
    others = ["cut.wav", "notes.txt", "folder.wav", "missing.wav", "missing.npy", "silent.wav"]
    return [*names.split(), *others]


def test_bad_files_have_a_reason_of_one_line(tmp_path):
    for name in bad_files(tmp_path):
        with pytest.raises(SignalError) as caught:
            read_signal(tmp_path / name)
        assert str(caught.value), name
        assert "\n" not in str(caught.value), name


@pytest.mark.parametrize("name", ["text.wav", "nan.npy", "missing.wav", "silent.wav"])
def test_a_bad_file_exits_2_with_one_line(tmp_path, name):
    bad_files(tmp_path)
    done = run_cli("demo", tmp_path / name)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"fastconv1d demo: {tmp_path / name}: ")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names on this system")
@pytest.mark.parametrize("name", ["pipe.wav", "pipe.npy"])
def test_pipes_do_not_block(tmp_path, name):
    os.mkfifo(tmp_path / name)
    done = run_cli("demo", tmp_path / name)
    assert done.returncode == 2
    assert (
        done.stderr == f"fastconv1d demo: {tmp_path / name}: is a pipe: expected a regular file\n"
    )


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
