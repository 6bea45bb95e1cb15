"""Transforms beside what users write, and the rule of algorithm="fast" beside the best choice.

    python benchmarks/fast.py peers [NAME ...]      the three layers of docs/fast.md
    python benchmarks/fast.py sweep [--part 0/6]    60 layers: every engine, and what 'fast' takes
    python benchmarks/fast.py errors [--count 1000] largest errors of fft, direct and torch

Times are interleaved in one process, lower quartiles, on one thread (`taskset -c 1`). Rounds in
which a loop of multiply-adds was 10 % slower than its best are left out. Peers that are not
installed are left out: torch, fft-conv-pytorch.
"""

import argparse
import math
import resource
import time

import numpy as np
import scipy.signal

import fastconv1d
from fastconv1d import Conv1d, conv1d
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


def peers(names, seconds):
    for name in names or LAYERS:
        c_in, c_out, groups, length, kernel, padding = LAYERS[name]
        rng = np.random.default_rng(0)
        x = rng.standard_normal((1, c_in, length), np.float32)
        layer = Conv1d(c_in, c_out, kernel, padding=padding, groups=groups, bias=False, rng=rng,
                       algorithm="fft")  # fmt: skip
        direct = Conv1d(c_in, c_out, kernel, padding=padding, groups=groups, bias=False)
        direct.load_state_dict(layer.state_dict())
        w = layer.weight
        y, exact = np.empty_like(layer(x)), None
        kept = slice(kernel - 1 - padding[0], kernel - 1 - padding[0] + y.shape[2])
        tapped = np.ascontiguousarray(w[:, 0, ::-1])
        runs = {
            "fft layer": lambda: layer(x, out=y),
            "fft function": lambda: conv1d(
                x, w, padding=padding, groups=groups, algorithm="fft", out=y
            ),
            "scipy oaconvolve": lambda: scipy.signal.oaconvolve(x[0], tapped, axes=-1)[:, kept],
        }
        if torch is not None:
            torch.set_num_threads(1)
            tx, tw = torch.from_numpy(x), torch.from_numpy(w.copy())
            runs["torch.fft"] = lambda: torch_rows(tx[0], tw[:, 0], kept)
            if fft_conv is not None and padding[0] == padding[1]:
                runs["fft-conv-pytorch"] = lambda: fft_conv(
                    tx, tw, padding=padding[0], groups=groups
                )
            elif fft_conv is not None:
                padded = lambda: torch.nn.functional.pad(tx, padding)  # noqa: E731
                runs["fft-conv-pytorch"] = lambda: fft_conv(padded(), tw, groups=groups)
        exact = runs["fft layer"]().copy()
        for other, run in runs.items():
            got = np.asarray(run()).reshape(exact.shape)
            assert np.abs(got - exact).max() < 1e-3 * np.abs(exact).max(), other
        found = quartiles(runs, seconds)
        once = time.perf_counter()
        direct(x[..., : length // 8], out=None)
        part = time.perf_counter() - once
        columns = explain(direct, (1, c_in, length // 8))["flops"]
        by_direct = part * explain(direct, x.shape)["flops"] / columns
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        layer(x, out=y)
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        ours = found["fft layer"]
        best = min(t for n, t in found.items() if not n.startswith("fft "))
        told = ", ".join(f"{n} {1e3 * t:.2f}" for n, t in found.items())
        print(f"{name}: {told}, direct {1e3 * by_direct:.0f} ms; best peer / ours "
              f"{best / ours:.2f}, direct / ours {by_direct / ours:.1f}; {more:.0f} MiB more",
              flush=True)  # fmt: skip


def sweep_layers():
    """60 layers: (c_in, c_out, groups, kernel, dilation, length)."""
    rng = np.random.default_rng(19)
    layers = []
    while len(layers) < 60:
        kind = ("depthwise", "dense", "grouped")[len(layers) % 3]
        kernel = int(2 ** rng.uniform(3, 16))
        length = int(10 ** rng.uniform(3, 6))
        channels = int(2 ** rng.uniform(0, 6)) if kind != "depthwise" else int(2 ** rng.uniform(0, 8))
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


def sweep(part, parts, seconds):
    regrets = []
    for c_in, c_out, groups, kernel, dilation, length in sweep_layers()[part::parts]:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((1, c_in, length), np.float32)
        shape = {"padding": "same", "dilation": dilation, "groups": groups, "bias": False}
        layers = {}
        for name in ("direct", "fft", "winograd", "fast"):
            layers[name] = Conv1d(c_in, c_out, kernel, **shape, rng=np.random.default_rng(1),
                                  algorithm="auto" if name == "direct" else name)  # fmt: skip
        taken = explain(layers["fast"], x.shape)["engine"]
        has = ["direct", "fft"]
        if explain(layers["winograd"], x.shape)["engine"] == "winograd":
            has.append("winograd")
        out = np.empty((1, c_out, length), np.float32)
        runs = {name: (lambda layer=layers[name]: layer(x, out=out)) for name in has}
        found = quartiles(runs, seconds)
        regret = found[taken] / min(found.values())
        regrets.append(regret)
        weight = layers["fft"].weight
        geometry = layers["fft"]._spec.geometry(x.shape, weight.shape, None)
        told = weight.shape, weight.dtype, geometry, False
        model = fft_time(*told, length, kept=True), direct_time(*told, length, length)
        times = ", ".join(f"{n} {1e6 * t:.0f}" for n, t in found.items())
        print(f"{c_in} -> {c_out} /{groups} K {kernel} d {dilation} L {length}: {times} us; "
              f"fast takes {taken}, regret {regret:.2f}; model fft {model[0] / 1e3:.0f}, direct "
              f"{model[1] / 1e3:.0f}", flush=True)  # fmt: skip
    print(f"regret: geomean {math.exp(np.mean(np.log(regrets))):.3f}, worst {max(regrets):.2f}")


def errors(count):
    """Largest error of each engine in units of u sum |w| max |x|, and ratios to the direct one's."""
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
        if torch is not None:
            y = torch.nn.functional.conv1d(*map(torch.from_numpy, (x, w)), groups=groups)
            error["torch"] = np.abs(y.numpy() - exact).max()
            beside.append(error["torch"] / error["direct"])
        ratios.append(error["fft"] / error["direct"])
        bounds.append(error["fft"] / norm / math.log2(2 * kernel))
    print(f"{len(ratios)} layers: error of fft / direct at most {max(ratios):.2f}, median "
          f"{np.median(ratios):.2f}; of torch / direct at most {max(beside, default=0):.2f}; fft at "
          f"most {max(bounds):.3f} u log2(2K) sum |w| max |x|")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("peers", "sweep", "errors"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--count", type=int, default=1000)
    given = parser.parse_args()
    with fastconv1d.num_threads(1):
        if given.what == "peers":
            peers(given.names, given.seconds)
        elif given.what == "sweep":
            sweep(*map(int, given.part.split("/")), given.seconds)
        else:
            errors(given.count)


if __name__ == "__main__":
    main()
