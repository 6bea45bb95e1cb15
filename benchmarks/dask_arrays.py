"""What `fastconv1d.dask` costs, beside map_overlap around SciPy or torch as written by hand.

    pip install 'fastconv1d[dask]' torch
    python benchmarks/dask_arrays.py [--rounds 5] [overhead | chunks | peers | workers | store ...]

overhead: building a graph, and scheduling a chunk, beside an empty map_blocks. chunks: lengths of
chunks. peers: depthwise filters over 16 channels, ratios of times taken in turns in one process on
one thread. workers: one and two worker processes on a layer bound by its sums, beside the same
layer in plain processes. store: a zarr array of 20 GB (--gigabytes), asked for by its name only.
"""

from __future__ import annotations

import argparse
import pickle
import re
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import dask
import dask.array as da
import numpy as np

import fastconv1d
import fastconv1d.dask


def timed(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def lower_quartile(values) -> float:
    return sorted(values)[len(values) // 4]


def in_turns(calls, rounds) -> dict[str, float]:
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(timed(call))
    return {name: lower_quartile(taken) for name, taken in times.items()}


def overhead(rounds: int) -> None:
    weight = np.ones((1, 1, 31), np.float32)

    def arrays(n):
        x = da.zeros((1, n * 100), chunks=(1, 100), dtype=np.float32)
        return {
            "map_blocks": lambda: x.map_blocks(np.copy, dtype=x.dtype),
            "conv1d": lambda: fastconv1d.dask.conv1d(x, weight, padding="same"),
        }

    n = 10_000
    made = arrays(n)
    built = in_turns(made, rounds)["conv1d"]
    array = made["conv1d"]()
    graph = pickle.dumps(dict(array.dask.layers[array.name]))
    print(f"graph of {n} chunks: {built:.2f} s, {len(graph) / n:.0f} bytes a chunk")
    n = 1_000
    for scheduler in ("synchronous", "threads"):
        with dask.config.set(scheduler=scheduler, num_workers=2):
            ran = in_turns({name: make().compute for name, make in arrays(n).items()}, rounds)
        for name, seconds in ran.items():
            print(f"{name}: {seconds / n * 1e3:.2f} ms a chunk, {scheduler}")


def chunks(rounds: int) -> None:
    channels, length = 16, 1 << 20
    signal = np.random.default_rng(0).standard_normal((channels, length), dtype=np.float32)
    for taps in (31, 2001):
        weight = np.ones((channels, 1, taps), np.float32)
        calls = {"whole": lambda w=weight: fastconv1d.conv1d(signal, w, groups=channels)}
        for size in (1 << 12, 1 << 14, 1 << 16, 1 << 18):
            y = fastconv1d.dask.conv1d(
                da.from_array(signal, chunks=(channels, size)), weight, groups=channels
            )
            calls[f"{size}"] = y.compute
        with dask.config.set(scheduler="synchronous"):
            ran = in_turns(calls, rounds)
        ratios = ", ".join(f"{k}: {v / ran['whole']:.2f}" for k, v in ran.items())
        print(f"K = {taps}: time by the whole call's, for chunks of {ratios}")


def peers(rounds: int) -> None:
    import torch
    from scipy.signal import oaconvolve

    torch.set_num_threads(1)
    channels, length = 16, 1 << 18
    signal = np.random.default_rng(0).standard_normal((channels, length), dtype=np.float32)
    x = da.from_array(signal, chunks=(channels, 1 << 16))
    for taps in (31, 251, 2001):
        weight = np.random.default_rng(1).standard_normal((channels, 1, taps), dtype=np.float32)
        tensor, depth, flipped = torch.from_numpy(weight), taps // 2, weight[:, 0, ::-1].copy()

        def by_scipy(block, taps=flipped):
            return oaconvolve(block, taps, mode="same", axes=-1)

        def by_torch(block, w=tensor):
            given = torch.from_numpy(np.ascontiguousarray(block))[None]
            y = torch.nn.functional.conv1d(given, w, padding="same", groups=channels)
            return y[0].numpy()

        around = {"depth": {1: depth}, "boundary": {1: 0}, "dtype": np.float32}
        results = {
            "fastconv1d": fastconv1d.dask.conv1d(x, weight, padding="same", groups=channels),
            "fft": fastconv1d.dask.conv1d(
                x, weight, padding="same", groups=channels, algorithm="fft"
            ),
            "oaconvolve": da.map_overlap(by_scipy, x, **around),
            "torch": da.map_overlap(by_torch, x, **around),
        }
        with dask.config.set(scheduler="synchronous"):
            exact = results["fastconv1d"].compute()
            for name, array in results.items():
                error = np.abs(array.compute() - exact).max() / np.abs(exact).max()
                assert error < 1e-4, (name, error)
            ran = in_turns({name: array.compute for name, array in results.items()}, rounds)
        ratios = [f"{name} {ran[name] / ran['fastconv1d']:.2f}" for name in results]
        print(f"K = {taps}: time by fastconv1d's: {', '.join(ratios)}")


# Chunks of `workers`: of 33 GFLOP, beside which the scheduler's share of a core is a few percent.
CHUNKS, CHANNELS, POSITIONS, TAPS = 16, 128, 32_768, 31


def call_of_a_process(kind: str) -> Callable[[], object]:
    """Return a call of a layer on arrays of this process's own."""
    rng = np.random.default_rng(0)
    if kind == "chunk":
        layer = fastconv1d.Conv1d(CHANNELS, CHANNELS, TAPS, padding="same", rng=rng)
        x = rng.standard_normal((CHANNELS, POSITIONS), dtype=np.float32)
        return lambda: layer(x)
    layer = fastconv1d.Conv1d(16, 16, 3, padding="same", rng=rng)  # stays in L1
    x = rng.standard_normal((1, 16, 512), dtype=np.float32)
    out = layer(x)
    return lambda: [layer(x, out=out) for _ in range(3000)]


made: dict[str, Callable[[], object]] = {}


def work(kind: str, count: int) -> float:
    """Make calls, and return the part of the time for which the core was this process's."""
    if kind not in made:
        fastconv1d.set_num_threads(1)
        made[kind] = call_of_a_process(kind)
    began, ran = time.perf_counter(), time.process_time()
    for _ in range(count):
        made[kind]()
    return (time.process_time() - ran) / (time.perf_counter() - began)


def workers(rounds: int) -> None:
    from distributed import Client, LocalCluster

    rng = np.random.default_rng(0)
    weight = rng.standard_normal((CHANNELS, CHANNELS, TAPS), dtype=np.float32)
    shape, chunks = (CHANNELS, CHUNKS * POSITIONS), (CHANNELS, POSITIONS)
    x = da.random.default_rng(0).standard_normal(shape, chunks=chunks, dtype=np.float32)
    y = fastconv1d.dask.conv1d(x, weight, padding="same")
    ends = y.map_blocks(lambda block: block[:1, :1], chunks=(1, 1), dtype=y.dtype)
    with ExitStack() as stack:
        clients, pools = {}, {}
        for count in (1, 2):
            cluster = LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None)
            clients[count] = stack.enter_context(Client(stack.enter_context(cluster)))
            pools[count] = [stack.enter_context(get_context("spawn").Pool(1)) for _ in range(count)]
        shares: list[float] = []

        def plain(kind: str, count: int) -> None:
            asked = (kind, CHUNKS // count)
            shares.extend([r.get() for r in [p.apply_async(work, asked) for p in pools[count]]])

        def by_dask(_: str, count: int) -> None:
            clients[count].compute(ends).result()

        contests = {"L1": plain, "chunk": plain, "dask": by_dask}
        calls = {
            (kind, count): partial(run, kind, count)
            for kind, run in contests.items()
            for count in (1, 2)
        }
        for call in calls.values():
            call()
        taken: dict[tuple[str, int], list[float]] = {name: [] for name in calls}
        for _ in range(5 * rounds):
            shares.clear()
            times = {name: timed(call) for name, call in calls.items()}
            if min(shares) < 0.95:  # others use these cores, too: the round does not count
                continue
            for name, seconds in times.items():
                taken[name].append(seconds)
            if len(taken["dask", 1]) == rounds:
                break
    if not taken["dask", 1]:
        raise SystemExit("others use these cores: no round of one and two workers was left alone")
    titles = {
        "L1": "a layer of 16 channels that stays in L1, one and two processes",
        "chunk": "the layer on a chunk, one and two processes",
        "dask": "chunks by dask, one and two workers",
    }
    for kind, title in titles.items():
        one, two = (lower_quartile(taken[kind, count]) for count in (1, 2))
        print(f"{title}: {one:.2f} s and {two:.2f} s, {one / two / 2:.2f} of linear")
    print(f"{len(taken['dask', 1])} rounds")


def store(gigabytes: float, algorithm: str) -> None:
    """Filter a zarr array on two workers, whose memory is limited to 1.5 GB each."""
    import zarr
    from distributed import Client, LocalCluster

    channels, chunk, taps = 64, 65_536, 2001
    length = round(gigabytes * 1e9 / 4 / channels / chunk) * chunk
    weight = np.random.default_rng(0).standard_normal((channels, 1, taps), dtype=np.float32)
    options = {"groups": channels, "padding": "same", "algorithm": algorithm}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        made = {"chunks": (channels, chunk), "shape": (channels, length), "dtype": "float32"}
        raw = zarr.create_array(f"{folder}/raw.zarr", **made)
        rng = np.random.default_rng(1)
        for begin in range(
            0, length, chunk
        ):  # bursts of noise of a third of a chunk: they compress
            burst = rng.integers(-99, 99, (channels, chunk // 3)).astype(np.float32)
            raw[:, begin : begin + burst.shape[1]] = burst
        cluster = LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit="1.5GB", dashboard_address=None
        )
        client = stack.enter_context(Client(stack.enter_context(cluster)))
        x = da.from_zarr(f"{folder}/raw.zarr")
        filtered = fastconv1d.dask.conv1d(x, weight, **options)
        seconds = timed(lambda: filtered.to_zarr(f"{folder}/filtered.zarr"))
        peaks, cpu = client.run(peak_memory), client.run(time.process_time)
        print(f"{x.nbytes / 1e9:.1f} GB in {x.npartitions} chunks, {taps} taps: {seconds:.0f} s")
        for address, peak in peaks.items():
            print(f"a worker: {peak / 1e6:.0f} MB at most, {cpu[address]:.0f} s of CPU")
        result = zarr.open_array(f"{folder}/filtered.zarr", mode="r")
        ends = [0, length - 3 * chunk, *rng.integers(taps, length - 3 * chunk, 14).tolist()]
        for begin in ends:
            read = raw[:, max(begin - taps, 0) : begin + 2 * chunk + taps]
            expected = fastconv1d.conv1d(read, weight, **options)
            skipped = min(begin, taps)
            end = min(begin + 2 * chunk, length)
            of_them = expected[:, skipped : skipped + end - begin]
            assert np.array_equal(result[:, begin:end], of_them), begin
        print(f"{len(ends)} regions of {2 * chunk} positions have the bits of one call")


def peak_memory() -> int:
    """Return the largest resident memory of this process, on Linux."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s*(\d+)", status)[1])


def main() -> None:
    known = {"overhead": overhead, "chunks": chunks, "peers": peers, "workers": workers}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subject", nargs="*", default=[*known], choices=[*known, "store"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=20, help="of the array for store")
    parser.add_argument("--algorithm", default="auto", help="of the layer for store")
    args = parser.parse_args()
    fastconv1d.set_num_threads(1)
    for subject in args.subject:
        if subject == "store":
            store(args.gigabytes, args.algorithm)
        else:
            known[subject](args.rounds)


if __name__ == "__main__":
    main()
