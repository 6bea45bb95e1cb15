"""Dask arrays on real workers: processes with a nanny on loopback, zarr stores, lost workers."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from layers import assert_same_bits, assert_within

import fastconv1d
from fastconv1d import Conv1d, ConvTranspose1d, ReLU, Residual, Sequential, reference

pytest.importorskip("distributed")
import dask
import dask.array as da
from distributed import Client, LocalCluster

import fastconv1d.dask as fd

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="signals"),
    # of asyncio and sockets while a cluster closes, and of psutil
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

RNG = np.random.default_rng(0)
SIGNAL = RNG.standard_normal((2, 8, 20_000), dtype=np.float32)
WEIGHT = RNG.standard_normal((8, 8, 31), dtype=np.float32)
BIAS = RNG.standard_normal(8, dtype=np.float32)


def workers(count):
    return LocalCluster(
        n_workers=count, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1"
    )


@pytest.fixture(scope="module")
def client():
    with workers(2) as cluster, Client(cluster) as connected:
        yield connected


def test_forward_and_network(client):
    x = da.from_array(SIGNAL, chunks=(1, 3, 1700))
    options = {"stride": 2, "padding": 15, "padding_mode": "circular", "activation": "silu"}
    y = fd.conv1d(x, WEIGHT, BIAS, **options)
    assert_same_bits(y.compute(), fastconv1d.conv1d(SIGNAL, WEIGHT, BIAS, **options))
    z = fd.conv_transpose1d(x, WEIGHT, stride=4, padding=3)
    assert_same_bits(z.compute(), fastconv1d.conv_transpose1d(SIGNAL, WEIGHT, stride=4, padding=3))
    network = Sequential(
        Conv1d(8, 16, 9, stride=2, padding=4, rng=RNG),
        Residual(ReLU(), Conv1d(16, 16, 3, padding="same", dilation=9, rng=RNG)),
        ConvTranspose1d(16, 4, 4, stride=2, padding=1, rng=RNG),
    )
    assert_same_bits(fd.apply(network, x).compute(), network(SIGNAL))


def test_a_weight_is_packed_once_a_worker(client):
    x = da.from_array(SIGNAL, chunks=(1, 8, 500))
    client.run(count_packs)
    fd.conv1d(x, WEIGHT, padding="same").compute()
    assert all(count <= 1 for count in client.run(packs).values())
    assert sum(client.run(packs).values()) >= 1


def count_packs():
    from fastconv1d.kernels import direct_engine

    prepare = direct_engine.prepare
    direct_engine.counted = 0

    def counting(*args):
        direct_engine.counted += 1
        return prepare(*args)

    direct_engine.prepare = counting


def packs():
    from fastconv1d.kernels import direct_engine

    return direct_engine.counted


def gradients():
    x = da.from_array(SIGNAL, chunks=(1, 8, 1500))
    g = da.from_array(np.roll(SIGNAL, 7, axis=2), chunks=(2, 8, 1100))
    return dask.compute(*fd.conv1d_backward(g, x, WEIGHT, padding=15))


def test_gradients_are_the_same_for_any_number_of_workers(client):
    by_input, by_weight, by_bias = gradients()
    g = np.roll(SIGNAL, 7, axis=2)
    whole = fastconv1d.conv1d_backward(g, SIGNAL, WEIGHT, padding=15)
    assert_same_bits(by_input, whole[0])
    wide = [a.astype(np.float64) for a in (g, SIGNAL, WEIGHT)]
    exact = reference.conv1d_backward(*wide, padding=15)
    scale = reference.conv1d_backward(*map(np.abs, wide), padding=15)
    assert_within(by_weight, exact[1], scale[1])
    assert_within(by_bias, exact[2], scale[2])
    for scheduler in ("synchronous", "threads"):
        with dask.config.set(scheduler=scheduler):
            assert all(map(np.array_equal, gradients(), (by_input, by_weight, by_bias)))
    for count in (1, 3):
        with workers(count) as cluster, Client(cluster, set_as_default=False) as other:
            with other.as_current():
                assert all(map(np.array_equal, gradients(), (by_input, by_weight, by_bias)))


def test_from_zarr_to_zarr(client, tmp_path):
    zarr = pytest.importorskip("zarr")
    source = str(tmp_path / "in.zarr")
    store = zarr.create_array(source, shape=SIGNAL.shape, chunks=(2, 4, 3000), dtype="float32")
    store[:] = SIGNAL
    y = fd.conv1d(da.from_zarr(source), WEIGHT, padding="causal", dilation=5)
    y.to_zarr(str(tmp_path / "out.zarr"))
    expected = fastconv1d.conv1d(SIGNAL, WEIGHT, padding="causal", dilation=5)
    assert_same_bits(zarr.open_array(str(tmp_path / "out.zarr"), mode="r")[:], expected)


def test_coordinates_after_a_stride(client):
    xr = pytest.importorskip("xarray")
    samples = xr.DataArray(
        da.from_array(SIGNAL, chunks=(2, 8, 3000)),
        dims=("night", "channel", "time"),
        coords={"time": np.arange(SIGNAL.shape[2]) / 250},
    )
    filtered = xr.apply_ufunc(
        fd.conv1d,
        samples,
        kwargs={"weight": WEIGHT, "stride": 5, "padding": 15},
        input_core_dims=[["channel", "time"]],
        output_core_dims=[["channel", "time"]],
        exclude_dims={"channel", "time"},
        dask="allowed",
    ).assign_coords(time=samples.time.values[::5])
    assert filtered.dims == samples.dims and filtered.chunks is not None
    expected = fastconv1d.conv1d(SIGNAL, WEIGHT, stride=5, padding=15)
    assert_same_bits(filtered.compute().values, expected)
    assert filtered.time[3] == 15 / 250


SETTINGS = {
    "distributed.scheduler.allowed-failures": 10,
    "distributed.comm.timeouts.connect": "5s",  # to a worker that is lost: half a minute otherwise
}


def test_a_lost_worker_changes_nothing(share):
    expected = fastconv1d.conv1d(SIGNAL, WEIGHT, padding="same")
    rng = np.random.default_rng(1)
    for kill in range(3 if share < 1 else 100):
        with dask.config.set(SETTINGS), workers(2) as cluster, Client(cluster) as client:
            x = da.from_array(SIGNAL, chunks=(1, 8, 500)).map_blocks(slowly, dtype="f4")
            pids = [*client.run(os.getpid).values()]
            future = client.compute(fd.conv1d(x, WEIGHT, padding="same"))
            time.sleep(rng.random())
            os.kill(int(rng.choice(pids)), signal.SIGKILL)
            assert_same_bits(future.result(timeout=600), expected, f"kill {kill}")


def slowly(block):
    time.sleep(0.01)
    return block


def test_processes_started_by_hand(tmp_path):
    address = tmp_path / "scheduler.json"
    python = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    root = str(Path(fastconv1d.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": root}
    started = []
    try:
        for command in (
            ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"],
            [
                "worker",
                "--host",
                "127.0.0.1",
                "--no-dashboard",
                "--nworkers",
                "2",
                "--nthreads",
                "1",
            ],
        ):
            arguments = [*command, "--scheduler-file", str(address)]
            started.append(subprocess.Popen([*python, *arguments], env=environment, **quiet))
        deadline = time.monotonic() + 300
        while not address.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        with Client(scheduler_file=str(address), set_as_default=False, timeout=300) as client:
            client.wait_for_workers(2, timeout=300)
            y = fd.conv1d(da.from_array(SIGNAL, chunks=(2, 8, 3000)), WEIGHT, padding="same")
            result = client.compute(y).result(timeout=300)
        assert_same_bits(result, fastconv1d.conv1d(SIGNAL, WEIGHT, padding="same"))
    finally:
        for process in reversed(started):
            process.terminate()
        for process in reversed(started):
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
