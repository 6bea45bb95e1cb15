"""HiFi-GAN V1's generator on one thread: this library, torch, ONNX Runtime and OpenVINO.

    python benchmarks/hifigan.py [--frames 200] [--rounds 7] [--no-compile]

All compute the network of examples/hifigan.py with the same random weights: this library as it is
and with algorithm="winograd" in the residual blocks, torch eagerly and compiled. Every output is
compared with ours before anything is timed; then the contestants take turns, and medians of wall
time and of CPU time are printed. Peers that are not installed are left out.
"""

import argparse
import importlib.util
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

import fastconv1d

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "hifigan.py"
LIMIT = 1e-4
THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
Contestants = dict[str, Callable[[], np.ndarray]]


def load_example():
    spec = importlib.util.spec_from_file_location("hifigan", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hifigan = load_example()


def torch_generator(state: dict[str, np.ndarray]):
    """The same network as a torch module with the authors' names."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class ResBlock(nn.Module):
        def __init__(self, channels: int, size: int) -> None:
            super().__init__()
            self.convs1, self.convs2 = (
                nn.ModuleList(
                    nn.Conv1d(channels, channels, size, padding=d * (size - 1) // 2, dilation=d)
                    for d in dilations
                )
                for dilations in (hifigan.DILATIONS, (1, 1, 1))
            )

        def forward(self, x):
            for first, second in zip(self.convs1, self.convs2, strict=True):
                inner = first(F.leaky_relu(x, hifigan.SLOPE))
                x = second(F.leaky_relu(inner, hifigan.SLOPE)) + x
            return x

    class Generator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            channels = hifigan.CHANNELS
            self.conv_pre = nn.Conv1d(hifigan.MEL_BINS, channels, 7, padding=3)
            self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
            for rate, size in hifigan.UPSAMPLING:
                padding = (size - rate) // 2
                self.ups.append(nn.ConvTranspose1d(channels, channels // 2, size, rate, padding))
                channels //= 2
                self.resblocks.extend(ResBlock(channels, k) for k in hifigan.KERNEL_SIZES)
            self.conv_post = nn.Conv1d(channels, 1, 7, padding=3)

        def forward(self, x):
            x = self.conv_pre(x)
            count = len(hifigan.KERNEL_SIZES)
            for i, up in enumerate(self.ups):
                x = up(F.leaky_relu(x, hifigan.SLOPE))
                branches = [block(x) for block in self.resblocks[i * count : (i + 1) * count]]
                x = sum(branches[1:], branches[0]) / count
            return torch.tanh(self.conv_post(F.leaky_relu(x, hifigan.LAST_SLOPE)))

    module = Generator().eval()
    module.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    return module


def add_torch(contestants: Contestants, state: dict, x: np.ndarray, compiled: bool, onnx: Path):
    import torch

    torch.set_num_threads(1)
    module, tensor = torch_generator(state), torch.from_numpy(x)

    def runner(function) -> Callable[[], np.ndarray]:
        def run() -> np.ndarray:
            with torch.inference_mode():
                return function(tensor).numpy()

        return run

    contestants["torch"] = runner(module)
    if compiled:
        contestants["torch.compile"] = runner(torch.compile(module))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (tensor,), str(onnx), dynamo=False, input_names=["mel"])


def add_onnxruntime(contestants: Contestants, x: np.ndarray, onnx: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(onnx), options)
    contestants["onnxruntime"] = lambda: session.run(None, {"mel": x})[0]


def add_openvino(contestants: Contestants, x: np.ndarray, onnx: Path) -> None:
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32",
    }  # fmt: skip
    model = openvino.Core().compile_model(str(onnx), "CPU", settings)
    request = model.create_infer_request()
    contestants["openvino"] = lambda: request.infer({0: x})[0]


def gather(frames: int, compiled: bool, folder: Path) -> Contestants:
    nets = {
        name: hifigan.generator(np.random.default_rng(0), algorithm=name)
        for name in ("auto", "winograd", "fast")
    }
    net = nets["auto"]
    shape = (1, hifigan.MEL_BINS, frames)
    x = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    outs = {name: each(x) for name, each in nets.items()}
    contestants: Contestants = {
        "fastconv1d": lambda: net(x, out=outs["auto"]),
        "winograd": lambda: nets["winograd"](x, out=outs["winograd"]),
        "fast": lambda: nets["fast"](x, out=outs["fast"]),
    }
    onnx = folder / "hifigan.onnx"
    for name, add in {
        "torch": lambda: add_torch(contestants, hifigan.to_official(net), x, compiled, onnx),
        "onnxruntime": lambda: add_onnxruntime(contestants, x, onnx),
        "openvino": lambda: add_openvino(contestants, x, onnx),
    }.items():
        try:
            add()
        except ImportError as error:
            print(f"{name} is left out: {error}")
    return contestants


def check(contestants: Contestants) -> None:
    """Compare every output with ours; torch.compile compiles here, or is left out."""
    expected = contestants["fastconv1d"]().copy()
    print(f"standard deviation of the output: {expected.std():.3f}")
    for name in [*contestants][1:]:
        try:
            actual = contestants[name]()
        except Exception as error:
            if name != "torch.compile":
                raise
            print(f"{name} is left out: {type(error).__name__}: {str(error)[:200]}")
            del contestants[name]
            continue
        difference = float(np.abs(actual - expected).max())
        verdict = "agrees" if difference <= LIMIT else "DIFFERS"
        print(f"{name:14} {verdict}: max |difference| {difference:.1e}")


def measure(contestants: Contestants, rounds: int) -> dict[str, tuple[float, float]]:
    """Return the median wall and CPU seconds of each; they take turns."""
    wall: dict[str, list[float]] = {name: [] for name in contestants}
    cpu: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            run()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - start_cpu)
    return {n: (statistics.median(wall[n]), statistics.median(cpu[n])) for n in contestants}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    options = parser.parse_args()
    os.environ.update(dict.fromkeys(THREAD_SETTINGS, "1"))  # before the peers are imported
    fastconv1d.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        contestants = gather(options.frames, options.compile, Path(folder))
        check(contestants)
        times = measure(contestants, options.rounds)
    ours = times["fastconv1d"]
    print(f"{'':14} {'wall s':>8} {'CPU s':>8}  ours is faster by (wall, CPU)")
    for name, (wall, cpu) in times.items():
        print(f"{name:14} {wall:8.3f} {cpu:8.3f}  {wall / ours[0]:.2f} {cpu / ours[1]:.2f}")


if __name__ == "__main__":
    main()
