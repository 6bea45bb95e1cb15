"""The two threading layers beside each other, as rows of a Markdown table.

Usage: python benchmarks/threading_layers.py SUBJECT [SECONDS]

alone       layers of layers.csv on one thread and on two, in a process without another OpenMP
accelerate  a torch model with its convolutions computed here, against torch
turns       layers in turns with an operation of torch, ONNX Runtime or OpenBLAS
latency     1,000 calls of a layer, 1 ms apart
hosts       OS threads while 64 host threads ask for 8 each
forks       a fork whose child answers

Times are lower quartiles; what is compared is measured in turns, in blocks of a few calls with a
pause before each in which the other layer's threads go to sleep.
"""

import os
import sys
import threading
import time
from collections.abc import Callable

import numpy as np

import fastconv1d
from fastconv1d import config
from fastconv1d.bench.contestants import onnx_model
from fastconv1d.bench.layers import load_layers, make_problem, select_layers

LAYERS = ("workers", "openmp")
ALONE = (
    "seed_doc textcnn_k3 wavenet_d1 whisper_stem1 hifi_rb_256_k11d5 hifi_rb_32_k3d1 "
    "conformer_dw31 pw_512 tcn_k7 hifi_up2_t"
).split()
TURNS = "wavenet_d1 whisper_stem1 conformer_dw31 pw_512 tcn_k7 hifi_pre".split()
PAUSE = 0.02
RNG = np.random.default_rng(0)


def seconds_of(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(ways: dict, seconds: float, between: Callable[[], object] = int) -> dict:
    """Times of {name: (prepare, call)}; `between` runs, untimed, before each call."""
    times = {name: [] for name in ways}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, (prepare, call) in ways.items():
            time.sleep(PAUSE)
            prepare()
            for i in range(8):
                between()
                took = seconds_of(call)
                if i > 1:  # the threads are awake, the data are here
                    times[name].append(took)
    return {name: float(np.quantile(t, 0.25)) for name, t in times.items()}


def use(layer: str, n_threads: int) -> Callable[[], None]:
    def prepare() -> None:
        config.set_threading_layer(layer)
        fastconv1d.set_num_threads(n_threads)

    return prepare


def call_of(name: str) -> Callable[[], object]:
    (layer,) = select_layers(load_layers(), name)
    make = fastconv1d.ConvTranspose1d if layer.transposed else fastconv1d.Conv1d
    module = make(
        layer.c_in,
        layer.c_out,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
    ).eval()
    x = RNG.standard_normal((layer.n_batch, layer.c_in, layer.l_in), np.float32)
    return lambda: module(x)


def row(*cells: object) -> None:
    print("|", " | ".join(f"{c:.2f}" if isinstance(c, float) else str(c) for c in cells), "|")


def compare_layers(call: Callable, seconds: float, between: Callable[[], object] = int) -> list:
    """One thread's milliseconds, and how many times as fast two threads of each layer are."""
    ways = {"one": (use("workers", 1), call)}
    ways |= {layer: (use(layer, 2), call) for layer in LAYERS}
    times = compare(ways, seconds, between)
    return [times["one"] * 1e3, *(times["one"] / times[layer] for layer in LAYERS)]


def alone(seconds: float) -> None:
    row("layer", "one thread, ms", *(f"{layer}, times as fast" for layer in LAYERS))
    for name in ALONE:
        row(name, *compare_layers(call_of(name), seconds))


def turns(seconds: float) -> None:
    import onnxruntime
    import torch

    torch.set_num_threads(2)
    problem = make_problem(select_layers(load_layers(), "whisper_stem1")[0], "float32")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(
        onnx_model(problem), options, providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: problem.x}
    x, w = torch.from_numpy(problem.x), torch.from_numpy(problem.weight)
    a = RNG.standard_normal((300, 300), np.float32)
    others = {
        "torch": lambda: torch.nn.functional.conv1d(x, w),
        "ONNX Runtime": lambda: session.run(None, feed),
        "OpenBLAS": lambda: a @ a,
    }
    row("in turns with", "layer", "one thread, ms", *(f"{k}, times as fast" for k in LAYERS))
    for other, between in others.items():
        for name in TURNS:
            row(other, name, *compare_layers(call_of(name), seconds, between))


def accelerate(seconds: float) -> None:
    import torch
    from torch import nn

    from fastconv1d.torch import accelerate

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps = nn.Sequential(
                nn.Conv1d(96, 96, 7, padding=3),
                nn.BatchNorm1d(96),
                nn.LeakyReLU(0.1),
                nn.Conv1d(96, 96, 1),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.steps(x)

    model = nn.Sequential(
        *(Block() for _ in range(6)), nn.ConvTranspose1d(96, 48, 4, 2, 1), nn.GELU()
    ).eval()
    fast, _ = accelerate(model)
    row("length", "threads", "torch, ms", *(f"{layer}, times as fast" for layer in LAYERS))
    for length in (400, 4000):
        x = torch.randn(1, 96, length)
        for n in (1, 2):
            torch.set_num_threads(n)
            ways = {"torch": (int, lambda x=x: model(x))}
            ways |= {layer: (use(layer, n), lambda x=x: fast(x)) for layer in LAYERS}
            with torch.inference_mode():
                times = compare(ways, seconds)
            base = times["torch"]
            row(length, n, base * 1e3, *(base / times[layer] for layer in LAYERS))


def latency(_: float) -> None:
    row("layer", "threads", "p50, us", "p99, us")
    call = call_of("pw_512")
    for layer, n in (("workers", 1), ("workers", 2), ("openmp", 2)):
        use(layer, n)()
        times = []
        for _ in range(1000):
            time.sleep(0.001)
            times.append(seconds_of(call) * 1e6)
        row(layer, n, *(round(np.quantile(times[10:], q)) for q in (0.5, 0.99)))


def hosts(_: float) -> None:
    row("layer", "OS threads at most, 64 of them the hosts'", "seconds for 64 x 100 calls")
    call = call_of("textcnn_k3")
    config.set_max_workers(8)
    for layer in LAYERS:
        use(layer, 8)()
        threads = [threading.Thread(target=lambda: [call() for _ in range(100)]) for _ in range(64)]
        most, start = 0, time.perf_counter()
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            most = max(most, len(os.listdir("/proc/self/task")))
            time.sleep(0.001)
        row(layer, most - 1, time.perf_counter() - start)


def forks(_: float) -> None:
    row("layer", "fork, call in the child and its end, ms", "the parent's next call, ms")
    call = call_of("textcnn_k3")

    def fork() -> None:
        child = os.fork()
        if child == 0:
            call()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

    for layer in LAYERS:
        use(layer, 2)()
        call()
        times = [(seconds_of(fork), seconds_of(call)) for _ in range(50)]
        row(layer, *(float(t) * 1e3 for t in np.quantile(times, 0.25, axis=0)))


if __name__ == "__main__":
    subjects = {f.__name__: f for f in (alone, accelerate, turns, latency, hosts, forks)}
    subjects[sys.argv[1]](float(sys.argv[2]) if len(sys.argv) > 2 else 2)
