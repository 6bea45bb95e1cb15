"""Memory that 2,000 inputs of random lengths leave behind: torch alone, and accelerated.

    pip install 'fastconv1d[torch]'
    python benchmarks/torch_memory.py [--calls 2000]

Each in a process of its own, one thread. torch keeps a plan for each new length.
"""

import argparse
import ctypes
import random
import subprocess
import sys
from pathlib import Path

WARM = 50


def resident():
    """Return the resident memory in MB, what the allocator keeps free given back before."""
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def growth(accelerated, calls):
    """Return the MB that `calls` new lengths add after the first ones and the longest."""
    import torch

    from fastconv1d.torch import accelerate

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = torch.nn.Sequential(
        torch.nn.Conv1d(64, 128, 7, padding=3),
        torch.nn.ReLU(),
        torch.nn.Conv1d(128, 128, 3, dilation=2, padding=2),
        torch.nn.ReLU(),
        torch.nn.ConvTranspose1d(128, 64, 4, stride=2),
    ).eval()
    if accelerated:
        model, _ = accelerate(model)
    lengths = random.Random(0).sample(range(100, 5000), calls + WARM)
    with torch.inference_mode():
        for length in (5000, *lengths[:WARM]):
            model(torch.zeros(1, 64, length))
        before = resident()
        for length in lengths[WARM:]:
            model(torch.zeros(1, 64, length))
    return resident() - before


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--only", choices=["torch", "fastconv1d"], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.only:
        print(f"{growth(options.only == 'fastconv1d', options.calls):.1f}")
        return
    for name in ("torch", "fastconv1d"):
        command = [sys.executable, __file__, "--only", name, "--calls", str(options.calls)]
        added = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        print(f"{name}: {options.calls} random lengths add {added} MB")


if __name__ == "__main__":
    main()
