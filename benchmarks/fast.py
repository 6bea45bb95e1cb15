"""Transforms beside what users write, and the rule of algorithm="fast" beside the best choice.

    python benchmarks/fast.py peers [NAME ...]      the three layers of docs/fast.md
    python benchmarks/fast.py memory NAME           what one of them takes beyond input and output
    python benchmarks/fast.py sweep [--part 0/6]    60 layers: every engine, and what 'fast' takes
    python benchmarks/fast.py dense [--part 0/2]    40 dense layers of 3 to 11 taps, and direct
    python benchmarks/fast.py layers [--part 0/2]   those of layers.csv, and direct
    python benchmarks/fast.py errors [--count 1000] largest errors beside the direct engine's

Times are interleaved in one process, lower quartiles, on one thread (`taskset -c 1`). Rounds in
which a loop of multiply-adds was 10 % slower than its best are left out. Peers that are not
installed are left out: torch, fft-conv-pytorch.
"""

import argparse
import csv
import math
import time
from functools import partial
from pathlib import Path

import numpy as np
import scipy.signal

import fastconv1d
from fastconv1d import Conv1d, ConvTranspose1d, conv1d
from fastconv1d.core.fast import direct_time, fft_time
from fastconv1d.kernels.direct_engine import peak_gflops
from fastconv1d.planner import explain

try:
    import torch
except ImportError:
    torch = None
try:
    from fft_conv_pytorch import fft_conv
except ImportError:
    fft_conv = None

# c_in, c_out, groups, length, kernel, padding
LAYERS = {
    "fir_4097": (1, 1, 1, 480_000, 4097, (2048, 2048)),
    "room_two_channels": (2, 2, 2, 2_880_000, 48_000, (47_999, 0)),
    "room_one_to_two": (1, 2, 1, 2_880_000, 48_000, (47_999, 0)),
    "hyena": (768, 768, 768, 8192, 8192, (8191, 0)),
}


def quartiles(runs, seconds):
    """Return the lower quartile of the times of each run, in turns, of quiet rounds."""
    for run in runs.values():
        run()
    times, peaks = {name: [] for name in runs}, []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(peaks) < 3:
        peaks.append(peak_gflops("float32", 0.002))
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    quiet = np.array(peaks) >= 0.9 * max(peaks)
    return {name: float(np.quantile(np.array(t)[quiet], 0.25)) for name, t in times.items()}


def torch_rows(x, w, length):
    """A causal or padded convolution by torch.fft as users write it: one transform of the row."""
    size = x.shape[-1] + w.shape[-1] - 1
    y = torch.fft.irfft(torch.fft.rfft(x, size) * torch.fft.rfft(w.flip(-1), size), size)
    return y[..., length]


def contestants(layer, x, y, padding):
    """Return what computes a layer, by name; all give the same outputs."""
    w, groups, kernel = layer.weight, layer.groups, layer.kernel_size[0]
    kept = slice(kernel - 1 - padding[0], kernel - 1 - padding[0] + y.shape[2])
    turned = np.ascontiguousarray(w[:, 0, ::-1])
    function = {"padding": padding, "groups": groups, "algorithm": "fft", "out": y}
    runs = {
        "fft layer": lambda: layer(x, out=y),
        "fft function": lambda: conv1d(x, w, **function),
        "scipy oaconvolve": lambda: scipy.signal.oaconvolve(x[0], turned, axes=-1)[:, kept],
    }
    if torch is not None:
        torch.set_num_threads(1)
        tx, tw = torch.from_numpy(x), torch.from_numpy(w.copy())
        runs["torch.fft"] = lambda: torch_rows(tx[0], tw[:, 0], kept)
        if fft_conv is not None:
            runs["fft-conv-pytorch"] = lambda: fft_conv(
                torch.nn.functional.pad(tx, padding), tw, groups=groups
            )
    return runs


def time_of_direct(layer, x):
    """Return the seconds of a layer, of a part of the input where the whole takes too long."""
    kernel, length = layer.kernel_size[0], x.shape[2]
    part = length if kernel * length * x.shape[1] < 1e11 else 2 * kernel
    start = time.perf_counter()
    layer(x[:, :, :part])
    return (time.perf_counter() - start) * length / part


def peers(names, seconds):
    for name in names or LAYERS:
        c_in, c_out, groups, length, kernel, padding = LAYERS[name]
        rng = np.random.default_rng(0)
        x = rng.standard_normal((1, c_in, length), np.float32)
        shape = {"padding": padding, "groups": groups, "bias": False}
        layer = Conv1d(c_in, c_out, kernel, **shape, rng=rng, algorithm="fft")
        direct = Conv1d(c_in, c_out, kernel, **shape)
        direct.load_state_dict(layer.state_dict())
        y = np.zeros((1, c_out, length + sum(padding) - kernel + 1), np.float32)
        layer(x, out=y)
        runs, exact = contestants(layer, x, y, padding), y.copy()
        for other, run in runs.items():
            got = np.asarray(run()).reshape(exact.shape)
            assert np.abs(got - exact).max() < 1e-3 * np.abs(exact).max(), other
        found = quartiles(runs, seconds)
        by_direct, ours = time_of_direct(direct, x), found["fft layer"]
        best = min(t for n, t in found.items() if not n.startswith("fft "))
        told = ", ".join(f"{n} {1e3 * t:.2f}" for n, t in found.items())
        print(f"{name}: {told}, direct {1e3 * by_direct:.0f} ms; best peer / ours "
              f"{best / ours:.2f}, direct / ours {by_direct / ours:.1f}", flush=True)  # fmt: skip


def memory(name):
    """Print the high-water mark of a layer's first call, beyond what the process had before."""
    c_in, c_out, groups, length, kernel, padding = LAYERS[name]
    x = np.ones((1, c_in, length), np.float32)
    y = np.ones((1, c_out, length + sum(padding) - kernel + 1), np.float32)
    shape = {"padding": padding, "groups": groups, "bias": False}
    layer = Conv1d(c_in, c_out, kernel, **shape, algorithm="fft")
    for call in ("first call", "second call"):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak
        before = resident("VmRSS")
        layer(x, out=y)
        told = (
            f"{resident('VmHWM') - before:.1f} MiB at most, {resident('VmRSS') - before:.1f} kept"
        )
        print(f"{name}, {call}: {told}; weight {layer.weight.nbytes / 2**20:.1f} MiB")


def resident(name):
    """Return what Linux counts for this process, in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) / 1024


def sweep_layers():
    """60 layers: (c_in, c_out, groups, kernel, dilation, length)."""
    rng = np.random.default_rng(19)
    layers = []
    while len(layers) < 60:
        kind = ("depthwise", "dense", "grouped")[len(layers) % 3]
        kernel = int(2 ** rng.uniform(3, 16))
        length = int(10 ** rng.uniform(3, 6))
        channels = (
            int(2 ** rng.uniform(0, 6)) if kind != "depthwise" else int(2 ** rng.uniform(0, 8))
        )
        groups = {"depthwise": channels, "dense": 1, "grouped": max(1, channels // 4)}[kind]
        channels = max(groups, channels // groups * groups)
        c_out = channels * int(rng.choice([1, 1, 2]))
        dilation = int(rng.choice([1, 1, 1, 2, 8])) if kernel < 1000 else 1
        macs = length * kernel * c_out * channels / groups
        size = c_out * channels / groups * kernel
        if dilation * (kernel - 1) + 1 > length + 2 * kernel or macs > 4e10 or size > 3e7:
            continue
        if max(channels, c_out) * length > 3e7:
            continue
        layers.append((channels, c_out, groups, kernel, dilation, length))
    return layers


def regret_of(c_in, c_out, groups, kernel, dilation, length, seconds):
    """Return how many times as slow as the best engine 'fast' is, and a line about it."""
    x = np.random.default_rng(0).standard_normal((1, c_in, length), np.float32)
    shape = {"padding": "same", "dilation": dilation, "groups": groups, "bias": False}
    layers = {
        name: Conv1d(c_in, c_out, kernel, **shape, algorithm=algorithm)
        for name, algorithm in (
            ("direct", "auto"), ("fft", "fft"), ("winograd", "winograd"), ("fast", "fast"),
        )
    }  # fmt: skip
    engines = {name: explain(layer, x.shape)["engine"] for name, layer in layers.items()}
    out = np.empty((1, c_out, length), np.float32)
    runs = {
        name: partial(layers[name], x, out=out)
        for name in ("direct", "fft", "winograd")
        if engines[name] == name
    }
    found = quartiles(runs, seconds)
    taken, weight = engines["fast"], layers["fft"].weight
    regret = found[taken] / min(found.values())
    geometry = layers["fft"]._spec.geometry(x.shape, weight.shape, None)
    told = weight.shape, weight.dtype, geometry, False, length, length
    times = ", ".join(f"{n} {1e6 * t:.0f}" for n, t in found.items())
    model = 1e-3 * fft_time(*told, kept=True), 1e-3 * direct_time(*told)
    return regret, (
        f"{c_in} -> {c_out} /{groups} K {kernel} d {dilation} L {length}: {times} us; fast takes "
        f"{taken}, regret {regret:.2f}; model fft {model[0]:.0f}, direct {model[1]:.0f}"
    )


def sweep(part, parts, seconds):
    regrets = []
    for sizes in sweep_layers()[part::parts]:
        regret, line = regret_of(*sizes, seconds)
        regrets.append(regret)
        print(line, flush=True)
    print(f"regret: geomean {math.exp(np.mean(np.log(regrets))):.3f}, worst {max(regrets):.2f}")


def dense_layers():
    """40 dense layers of stride 1: sizes as of `Conv1d`, items and length."""
    rng, layers = np.random.default_rng(40), []
    while len(layers) < 40:
        channels = (32, 48, 64, 64, 80, 96, 128, 128, 160, 192, 256, 384, 512)
        c_in, c_out = int(rng.choice(channels)), int(rng.choice(channels))
        c_out = c_in if rng.random() < 0.5 else c_out
        kernel, dilation = int(rng.integers(3, 12)), int(rng.choice([1, 1, 3]))
        n, length = int(rng.choice([1, 1, 4])), int(10 ** rng.uniform(1.7, 4.3))
        if n * c_in * c_out * kernel * length < 4e9:
            window = {"padding": "same", "dilation": dilation}
            layers.append((Conv1d, (c_in, c_out, kernel), window, n, length))
    return layers


def listed_layers():
    """The layers of layers.csv, as `dense_layers`."""
    layers = []
    with open(Path(__file__).with_name("layers.csv"), encoding="utf-8") as file:
        for row in csv.DictReader(file):
            names = ("stride", "padding", "dilation", "groups")
            window = {name: int(row[name]) for name in names}
            window["name"] = row["name"]
            kind = Conv1d if row["op"] == "conv" else ConvTranspose1d
            sizes = int(row["c_in"]), int(row["c_out"]), int(row["kernel"])
            layers.append((kind, sizes, window, int(row["n"]), int(row["length"])))
    return layers


def gains(layers, seconds):
    """What 'fast' gains over 'auto' where it takes another engine."""
    found = []
    for kind, sizes, options, n, length in layers:
        window = {key: value for key, value in options.items() if key != "name"}
        fast, auto = kind(*sizes, **window, algorithm="fast"), kind(*sizes, **window)
        auto.load_state_dict(fast.state_dict())
        x = np.random.default_rng(0).standard_normal((n, sizes[0], length), np.float32)
        taken = explain(fast, x.shape)["engine"]
        if taken == "direct":
            continue
        out = auto(x)
        runs = {"auto": partial(auto, x, out=out), "fast": partial(fast, x, out=out)}
        times = quartiles(runs, seconds)
        found.append(times["auto"] / times["fast"])
        print(f"{found[-1]:.2f} {taken} {sizes} {options} N {n} L {length}: auto "
              f"{1e6 * times['auto']:.0f} us", flush=True)  # fmt: skip
    print(f"{len(found)} of {len(layers)} taken: geomean {math.exp(np.mean(np.log(found))):.2f}, "
          f"least {min(found):.2f}")  # fmt: skip


def errors(count):
    """Largest errors of engines, beside the direct one's and in units of u sum |w| max |x|."""
    rng = np.random.default_rng(5)
    ratios, bounds, beside = [], [], []
    for _ in range(count):
        groups = int(rng.choice([1, 2, 4]))
        c_in, c_out = groups * int(rng.choice([1, 1, 4])), groups * int(rng.choice([1, 1, 4]))
        kernel, length = int(2 ** rng.uniform(3, 12)), int(10 ** rng.uniform(3, 4.3))
        if kernel > length:
            continue
        x = rng.standard_normal((1, c_in, length), np.float32)
        w = rng.standard_normal((c_out, c_in // groups, kernel), np.float32)
        exact = conv1d(x.astype(float), w.astype(float), groups=groups)
        norm = np.abs(w).sum((1, 2)).max() * np.abs(x).max() * np.finfo(np.float32).eps / 2
        error = {}
        for name in ("fft", "direct"):
            error[name] = np.abs(conv1d(x, w, groups=groups, algorithm=name) - exact).max()
        if torch is not None and kernel <= 256:  # which takes a second for more
            y = torch.nn.functional.conv1d(*map(torch.from_numpy, (x, w)), groups=groups)
            error["torch"] = np.abs(y.numpy() - exact).max()
            beside.append(error["torch"] / error["direct"])
        ratios.append(error["fft"] / error["direct"])
        bounds.append(error["fft"] / norm / math.log2(2 * kernel))
    print(f"{len(ratios)} layers: error of fft / direct at most {max(ratios):.2f}, median "
          f"{np.median(ratios):.2f}; of torch / direct at most {max(beside, default=0):.2f}; "
          f"fft at most {max(bounds):.3f} u log2(2K) sum |w| max |x|")  # fmt: skip


def errors_of_tiles(count):
    """Those of dense layers by tiles, of 2 to 4 taps (minimal filtering) and of more."""
    rng = np.random.default_rng(6)
    ratios = {"2 to 4 taps": [], "5 to 32 taps": []}
    while sum(map(len, ratios.values())) < count:
        c_in, c_out = (int(c) for c in rng.integers(24, 200, 2))
        kernel, length = int(rng.choice([2, 3, 4, 5, 7, 9, 11, 15, 32])), int(rng.integers(60, 900))
        w = rng.standard_normal((c_out, c_in, kernel), np.float32)
        layer = Conv1d(c_in, c_out, kernel, bias=False, rng=rng, algorithm="winograd")
        layer.weight = w
        if explain(layer, (1, c_in, length))["engine"] != "winograd":
            continue
        x = rng.standard_normal((1, c_in, length), np.float32)
        exact = conv1d(x.astype(float), w.astype(float))
        error = [np.abs(y - exact).max() for y in (layer(x), conv1d(x, w))]
        ratios["2 to 4 taps" if kernel < 5 else "5 to 32 taps"].append(error[0] / error[1])
    for name, found in ratios.items():
        print(f"{len(found)} layers of {name}: error of winograd / direct at most "
              f"{max(found):.2f}, median {np.median(found):.2f}")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("peers", "memory", "sweep", "dense", "layers", "errors"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--count", type=int, default=1000)
    given = parser.parse_args()
    with fastconv1d.num_threads(1):
        if given.what == "peers":
            peers(given.names, given.seconds)
        elif given.what == "memory":
            memory(given.names[0])
        elif given.what == "sweep":
            sweep(*map(int, given.part.split("/")), given.seconds)
        elif given.what in ("dense", "layers"):
            part, parts = map(int, given.part.split("/"))
            layers = dense_layers() if given.what == "dense" else listed_layers()
            gains(layers[part::parts], given.seconds)
        else:
            errors(given.count)
            errors_of_tiles(given.count)


if __name__ == "__main__":
    main()
