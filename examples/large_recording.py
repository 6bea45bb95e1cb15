"""A night of EEG, larger than the memory it is filtered in: zarr to zarr on Dask workers.

    pip install 'fastconv1d[run]'
    python examples/large_recording.py [--hours 8] [--channels 32] [--workers 2] [--memory 1GB]

It writes a recording of its own (50 Hz hum and slow drifts around a weak 10 Hz rhythm), takes out
what is outside of 8 to 12 Hz with a filter of 2,001 taps, and keeps every fifth sample, on workers
that together have less memory than the recording. Then it checks a few seconds against one call.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import dask.array as da
import numpy as np
import zarr
from distributed import Client, LocalCluster
from scipy.signal import firwin

import fastconv1d
from fastconv1d.dask import conv1d

RATE = 500
TAPS = firwin(2001, [8, 12], fs=RATE, pass_zero=False).astype(np.float32)
STRIDE = 5


def record(path: Path, channels: int, seconds: int) -> None:
    """Write a recording a minute at a time."""
    chunk = 60 * RATE
    length = seconds * RATE
    store = zarr.create_array(
        str(path), shape=(channels, length), chunks=(channels, chunk), dtype="float32"
    )
    rng = np.random.default_rng(0)
    for begin in range(0, length, chunk):
        t = np.arange(begin, min(begin + chunk, length)) / RATE
        common = 30 * np.sin(2 * np.pi * 50 * t) + 100 * np.sin(2 * np.pi * 0.05 * t)
        rhythm = 5 * np.sin(2 * np.pi * 10 * t) * (np.sin(2 * np.pi * t / 90) > 0)
        noise = rng.standard_normal((channels, t.size), dtype=np.float32)
        store[:, begin : begin + t.size] = common + rhythm + noise


def main(argv: list[str] | None = None) -> float:
    """Filter a recording and return the share of the rhythm's power in the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", default="1GB", help="of each worker")
    args = parser.parse_args(argv)
    weight = np.broadcast_to(TAPS, (args.channels, 1, TAPS.size)).copy()
    options = {"stride": STRIDE, "padding": TAPS.size // 2, "groups": args.channels}
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(
            n_workers=args.workers,
            threads_per_worker=1,
            memory_limit=args.memory,
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster),
    ):
        raw, filtered = Path(folder, "raw.zarr"), Path(folder, "filtered.zarr")
        record(raw, args.channels, int(args.hours * 3600))
        x = da.from_zarr(str(raw))
        y = conv1d(x, weight, **options)
        print(f"{x.nbytes / 1e9:.2f} GB in {x.npartitions} chunks -> {y}")
        start = time.perf_counter()
        y.to_zarr(str(filtered))
        print(f"filtered in {time.perf_counter() - start:.1f} s")

        result = zarr.open_array(str(filtered), mode="r")
        some = zarr.open_array(str(raw), mode="r")[:, : 120 * RATE]
        whole = fastconv1d.conv1d(some, weight, **options)
        sure = whole[:, : (some.shape[1] - TAPS.size) // STRIDE]
        assert np.array_equal(result[:, : sure.shape[1]], sure)
        print("the first seconds have the bits of one call")
        power = np.abs(np.fft.rfft(result[0, : 60 * RATE // STRIDE])) ** 2
        hertz = np.fft.rfftfreq(60 * RATE // STRIDE, STRIDE / RATE)
        return float(power[(hertz > 7) & (hertz < 13)].sum() / power.sum())


if __name__ == "__main__":
    print(f"{main():.1%} of the power is between 7 and 13 Hz")
