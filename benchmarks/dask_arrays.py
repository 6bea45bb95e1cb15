"""What `fastconv1d.dask` costs, beside map_overlap around SciPy or torch as written by hand.

    pip install 'fastconv1d[dask]' torch
    python benchmarks/dask_arrays.py [--rounds 5] [overhead | chunks | peers | workers ...]

overhead: building a graph, and scheduling a chunk, beside an empty map_blocks. chunks: lengths of
chunks. peers: depthwise filters over 16 channels, ratios of times taken in turns in one process on
one thread. workers: one and two worker processes on a layer bound by its sums.
"""

from __future__ import annotations

import argparse
import pickle
import statistics
import time

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


def workers(rounds: int) -> None:
    from distributed import Client, LocalCluster

    rng = np.random.default_rng(0)
    x = da.random.default_rng(0).standard_normal((64, 24 * 8192), chunks=(64, 8192)).astype("f4")
    y = fastconv1d.dask.conv1d(
        x, rng.standard_normal((64, 64, 31), dtype=np.float32), padding="same"
    )
    times: dict[int, list[float]] = {1: [], 2: []}
    for count, taken in times.items():
        with (
            LocalCluster(
                n_workers=count, threads_per_worker=1, dashboard_address="127.0.0.1:0"
            ) as cluster,
            Client(cluster),
        ):
            for _ in range(rounds):
                taken.append(timed(lambda: y.sum().compute()))
    best = {count: min(taken) for count, taken in times.items()}
    print(f"one worker {best[1]:.2f} s, two {best[2]:.2f} s: {best[1] / best[2] / 2:.2f} of linear")
    print(f"medians {statistics.median(times[1]):.2f} and {statistics.median(times[2]):.2f} s")


def main() -> None:
    known = {"overhead": overhead, "chunks": chunks, "peers": peers, "workers": workers}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subject", nargs="*", default=[*known], help=", ".join(known))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    fastconv1d.set_num_threads(1)
    for subject in args.subject:
        known[subject](args.rounds)


if __name__ == "__main__":
    main()
