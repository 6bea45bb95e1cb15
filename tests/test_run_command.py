"""``python -m fastconv1d run``: files in, files out, with the numbers of one call in memory."""

import os
import re
import signal
import subprocess
import sys
import time
import wave

import numpy as np
import pytest
from layers import assert_same_bits
from scipy.io import wavfile

import fastconv1d
from fastconv1d import Conv1d, ConvTranspose1d, ReLU, Residual, Sequential, Snake
from fastconv1d.__main__ import main

RNG = np.random.default_rng(0)
LAYER = Conv1d(2, 3, 9, stride=2, padding=4, padding_mode="reflect", rng=RNG)
OPTIONS = ["--stride", "2", "--padding", "4", "--padding-mode", "reflect"]


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "layer.npz"
    fastconv1d.save_file(LAYER.state_dict(), path)
    return str(path)


def run(*arguments):
    return main(["run", *map(str, arguments)])


def save(path, array):
    np.save(path, array)
    return path


@pytest.mark.parametrize("chunk", [1, 7, 1000, 10**6])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_an_array_by_pieces(weights, tmp_path, chunk, dtype):
    x = (100 * RNG.standard_normal((2, 3001 if chunk > 1 else 60))).astype(dtype)
    save(tmp_path / "x.npy", x)
    assert (
        run(weights, tmp_path / "x.npy", "-o", tmp_path / "y.npy", "--chunk", chunk, *OPTIONS) == 0
    )
    assert_same_bits(np.load(tmp_path / "y.npy"), LAYER(x.astype(np.float32)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["layer.npz", "x.npy", "y.npy"]


@pytest.mark.parametrize("shape", [(2, 2, 500), (500,)])
@pytest.mark.parametrize("layout", ["NCL", "NLC"])
def test_batches_layouts_and_single_channels(tmp_path, shape, layout):
    channels = 2 if len(shape) == 3 else 1
    layer = Conv1d(channels, 1, 5, padding=2, rng=RNG)
    fastconv1d.save_file(layer.state_dict(), tmp_path / "w.npz")
    x = RNG.standard_normal(shape, dtype=np.float32)
    expected = layer(x) if len(shape) == 3 else layer(x[np.newaxis])[0]
    turned = layout == "NLC" and len(shape) == 3
    save(tmp_path / "x.npy", np.ascontiguousarray(x.swapaxes(-1, -2)) if turned else x)
    options = ["--padding", 2, "--layout", layout, "--chunk", 33]
    assert run(tmp_path / "w.npz", tmp_path / "x.npy", "-o", tmp_path / "y.npy", *options) == 0
    y = np.load(tmp_path / "y.npy")
    assert_same_bits(np.ascontiguousarray(y.swapaxes(-1, -2)) if turned else y, expected)


def test_zarr_and_npz(weights, tmp_path):
    zarr = pytest.importorskip("zarr")
    x = RNG.standard_normal((2, 5000), dtype=np.float32)
    store = zarr.create_array(str(tmp_path / "x.zarr"), shape=x.shape, chunks=(1, 700), dtype="f4")
    store[:] = x
    np.savez(tmp_path / "x.npz", a=x, b=x[:, :77])
    given = tmp_path / "x.zarr", tmp_path / "x.npz"
    assert run(weights, *given, "-o", tmp_path / "out", "--chunk", 333, *OPTIONS) == 0
    y = zarr.open_array(str(tmp_path / "out" / "x.zarr"), mode="r")
    assert y.chunks == (3, 167)
    assert_same_bits(y[:], LAYER(x))
    with np.load(tmp_path / "out" / "x.npz") as archive:
        assert_same_bits(archive["a"], LAYER(x))
        assert_same_bits(archive["b"], LAYER(x[:, :77]))


def write_wav(path, samples, width=2, rate=8000):
    values = np.round(samples * (2 ** (8 * width - 1) - 1)).astype("<i4")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[0])
        file.setsampwidth(width)
        file.setframerate(rate)
        data = values.T.copy().view(np.uint8).reshape(-1, 4)
        file.writeframes(data[:, :width].tobytes())
    return values.astype(np.float64) / 2 ** (8 * width - 1)


@pytest.mark.parametrize("width", [2, 3])
def test_sound(weights, tmp_path, width):
    samples = write_wav(tmp_path / "x.wav", RNG.uniform(-1, 1, (2, 4001)), width)
    assert (
        run(weights, tmp_path / "x.wav", "-o", tmp_path / "y.wav", "--chunk", "0.05s", *OPTIONS)
        == 0
    )
    rate, y = wavfile.read(tmp_path / "y.wav")
    assert rate == 4000
    expected = LAYER(samples.astype(np.float32))
    assert_same_bits(np.ascontiguousarray(y.T), expected)


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
@pytest.mark.parametrize("layout", ["NCL", "NLC"])
def test_an_array_of_sound(weights, tmp_path, suffix, layout):
    zarr = pytest.importorskip("zarr") if suffix == ".zarr" else None
    samples = write_wav(tmp_path / "x.wav", RNG.uniform(-1, 1, (2, 4001)))
    target = tmp_path / f"y{suffix}"
    options = ["--layout", layout, "--chunk", "0.05s", *OPTIONS]
    assert run(weights, tmp_path / "x.wav", "-o", target, *options) == 0
    if zarr is not None:
        y = zarr.open_array(str(target), mode="r")[:]
    else:
        y = np.load(target)
    expected = LAYER(samples.astype(np.float32))
    assert_same_bits(np.ascontiguousarray(y if layout == "NCL" else y.T), expected)


def test_through_a_link(weights, tmp_path):
    x = RNG.standard_normal((2, 300), dtype=np.float32)
    (tmp_path / "y.npy").symlink_to(tmp_path / "real.npy")
    assert run(weights, save(tmp_path / "x.npy", x), "-o", tmp_path / "y.npy", *OPTIONS) == 0
    assert (tmp_path / "y.npy").is_symlink()
    assert_same_bits(np.load(tmp_path / "real.npy"), LAYER(x))


def test_upsampled_sound(tmp_path):
    layer = ConvTranspose1d(1, 1, 8, stride=4, padding=2, rng=RNG)
    fastconv1d.save_file({f"up.{k}": v for k, v in layer.state_dict().items()}, tmp_path / "w.npz")
    samples = write_wav(tmp_path / "x.wav", RNG.uniform(-1, 1, (1, 501)))
    options = ["--transposed", "--stride", 4, "--padding", 2, "--prefix", "up", "--chunk", 50]
    assert run(tmp_path / "w.npz", tmp_path / "x.wav", "-o", tmp_path / "y.wav", *options) == 0
    rate, y = wavfile.read(tmp_path / "y.wav")
    assert rate == 32000
    assert_same_bits(y, layer(samples.astype(np.float32))[0])


def test_an_onnx_model_by_pieces_and_whole(tmp_path, capsys):
    onnx = pytest.importorskip("onnx")
    from fastconv1d.onnx import to_onnx

    network = Sequential(
        Conv1d(2, 4, 5, padding=2, rng=RNG),
        Residual(ReLU(), Conv1d(4, 4, 3, padding=2, dilation=2, rng=RNG)),
        ConvTranspose1d(4, 1, 4, stride=2, padding=1, rng=RNG),
    )
    model = to_onnx(network)
    onnx.save(model, tmp_path / "net.onnx")
    x = RNG.standard_normal((2, 1001), dtype=np.float32)
    save(tmp_path / "x.npy", x)
    given = tmp_path / "net.onnx", tmp_path / "x.npy", "-o", tmp_path / "y.npy", "--chunk", 90
    assert run(*given) == 0
    assert_same_bits(np.load(tmp_path / "y.npy"), network(x))
    assert "computed whole" not in capsys.readouterr().err
    model.graph.node.add(op_type="Softmax", input=[model.graph.output[0].name], output=["s"])
    model.graph.output[0].name = "s"
    onnx.save(model, tmp_path / "net.onnx")
    assert run(*given, "--overwrite") == 0
    assert "computed whole" in capsys.readouterr().err
    assert abs(np.load(tmp_path / "y.npy").sum() - 1) < 1e-5


def test_activations_that_a_convolution_reads(tmp_path):
    onnx = pytest.importorskip("onnx")
    from fastconv1d.onnx import to_onnx

    network = Sequential(
        Snake(np.float32([0.5, 2])),
        Conv1d(2, 4, 5, padding=2, rng=RNG),
        Residual(Snake(np.full(4, 0.7, np.float32)), Conv1d(4, 4, 1, rng=RNG)),
    )
    onnx.save(to_onnx(network), tmp_path / "net.onnx")
    x = RNG.standard_normal((2, 1001), dtype=np.float32)
    save(tmp_path / "x.npy", x)
    assert (
        run(tmp_path / "net.onnx", tmp_path / "x.npy", "-o", tmp_path / "y.npy", "--chunk", 90) == 0
    )
    assert_same_bits(np.load(tmp_path / "y.npy"), network(x))


@pytest.mark.parametrize("suffix", [".npz", ".onnx"])
def test_fewer_multiplications(tmp_path, suffix):
    layer = Conv1d(1, 2, 700, padding="same", rng=RNG)
    model = tmp_path / f"layer{suffix}"
    options = ["--algorithm", "fast"]
    if suffix == ".onnx":
        onnx = pytest.importorskip("onnx")
        from fastconv1d.onnx import to_onnx

        onnx.save(to_onnx(Sequential(layer)), model)
    else:
        fastconv1d.save_file(layer.state_dict(), model)
        options += ["--padding", "same"]
    x = RNG.standard_normal((1, 1, 20_000), dtype=np.float32)
    save(tmp_path / "x.npy", x)
    assert run(model, tmp_path / "x.npy", "-o", tmp_path / "y.npy", *options) == 0
    y, direct = np.load(tmp_path / "y.npy"), layer(x)
    np.testing.assert_allclose(y, direct, rtol=0, atol=1e-5)
    assert y.tobytes() != direct.tobytes()


def test_a_file_that_fails_is_named_and_the_others_go_on(weights, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "ac":
        save(folder / f"{name}.npy", RNG.standard_normal((2, 50), dtype=np.float32))
    (folder / "b.npy").write_bytes(b"no array")
    save(folder / "d.npy", RNG.standard_normal((3, 50), dtype=np.float32))
    save(folder / "e.npy", np.array(["text"]))
    assert run(weights, folder, tmp_path / "missing.wav", "-o", tmp_path / "out", *OPTIONS) == 1
    err = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[0] for line in err] == [
        *(str(folder / f"{name}.npy") for name in "bde"),
        str(tmp_path / "missing.wav"),
    ]
    assert "expected input[1, 3, 50] to have 2 channels" in err[1]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.npy", "c.npy"]


def test_finished_outputs_are_not_done_again(weights, tmp_path, capsys):
    x = save(tmp_path / "x.npy", RNG.standard_normal((2, 50), dtype=np.float32))
    y = tmp_path / "y.npy"
    assert run(weights, x, "-o", y, *OPTIONS) == 0
    y.write_bytes(b"mine")
    assert run(weights, x, "-o", y, *OPTIONS) == 0
    assert "exists, not computed again" in capsys.readouterr().out and y.read_bytes() == b"mine"
    assert run(weights, x, "-o", y, *OPTIONS, "--overwrite") == 0
    assert_same_bits(np.load(y), LAYER(np.load(x)))


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_command_goes_on(weights, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for i in range(30):
        save(folder / f"{i:02}.npy", RNG.standard_normal((2, 20_000), dtype=np.float32))
    command = [sys.executable, "-m", "fastconv1d", "run", weights, str(folder), "-o", str(out)]
    command += ["--chunk", "50", *OPTIONS]
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300  # a busy machine is slow
    while time.monotonic() < deadline and not (out / "02.npy").exists():
        time.sleep(0.01)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    finished = sorted(p.name for p in out.glob("*.npy"))
    assert 3 <= len(finished) < 30
    times = {name: (out / name).stat().st_mtime_ns for name in finished}
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout.count("exists, not computed again") == len(finished)
    assert {name: (out / name).stat().st_mtime_ns for name in finished} == times
    for i in range(30):
        assert_same_bits(np.load(out / f"{i:02}.npy"), LAYER(np.load(folder / f"{i:02}.npy")))
    assert len([*out.iterdir()]) == 30


def test_on_a_cluster(weights, tmp_path):
    distributed = pytest.importorskip("distributed")
    x = RNG.standard_normal((2, 5000), dtype=np.float32)
    save(tmp_path / "x.npy", x)
    settings = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(**settings) as cluster:
        address = cluster.scheduler_address
        given = [weights, tmp_path / "x.npy", "-o", tmp_path / "y.npy", *OPTIONS]
        assert run(*given, "--chunk", 100, "--scheduler", address) == 0
    assert_same_bits(np.load(tmp_path / "y.npy"), LAYER(x))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--chunk", "0"], "expected seconds as 30s, or a number of positions"),
        (["--chunk", "nans"], "expected seconds"),
        (["--threads", "0"], "expected an integer from 1"),
        (["--stride", "0"], "non-positive stride"),
        (["--padding", "-3"], "negative padding|expected one argument"),
        (["--padding=wide"], "Invalid padding string"),
        (["--activation", "max"], "activation"),
        (["--prefix", "decoder"], "decoder"),
    ],
)
def test_bad_arguments(weights, tmp_path, capfd, arguments, text):
    x = save(tmp_path / "x.npy", RNG.standard_normal((2, 50), dtype=np.float32))
    try:
        status = run(weights, x, "-o", tmp_path / "y.npy", *arguments)
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert re.search(text, capfd.readouterr().err)
    assert not (tmp_path / "y.npy").exists()


def test_outputs_that_would_be_lost(weights, tmp_path, capsys):
    x = save(tmp_path / "x.npy", np.ones((2, 50), np.float32))
    (tmp_path / "other").mkdir()
    z = save(tmp_path / "other" / "x.npy", np.ones((2, 50), np.float32))
    assert run(weights, x, z, "-o", tmp_path / "out", *OPTIONS) == 2
    assert "two inputs would have the output" in capsys.readouterr().err
    assert run(weights, x, z, "-o", tmp_path / "y.npy", *OPTIONS) == 2
    assert "should be a folder" in capsys.readouterr().err
    assert run(weights, x, "-o", x, *OPTIONS) == 2
    assert "its own input" in capsys.readouterr().err
    assert run(tmp_path / "x.txt", x, "-o", tmp_path / "y.npy") == 2
    assert "expected a model" in capsys.readouterr().err
