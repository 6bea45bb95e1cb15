"""Processes of their own for what may hang, crash or exit."""

import os
import subprocess
import sys
from pathlib import Path

import fastconv1d

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(
        [str(Path(fastconv1d.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    ),
}
LAYERS = """
import os, signal, sys, threading, time
import numpy as np
import fastconv1d
from fastconv1d import config
from fastconv1d.core import threads
from fastconv1d.kernels import workers

rng = np.random.default_rng(0)
config.set_max_workers(8)
fastconv1d.set_num_threads(4)
x = rng.standard_normal((4, 32, 512)).astype(np.float32)
w = rng.standard_normal((32, 32, 5)).astype(np.float32)
xc = rng.standard_normal((4, 32, 256)).astype(np.complex64)
wc = rng.standard_normal((32, 32, 4)).astype(np.complex64)

planes = x[:, :, :500].reshape(4, 32, 20, 25)
wp = w[:, :, :4].reshape(32, 32, 2, 2)

def bits():
    y = fastconv1d.conv1d(x, w)
    direct = y.tobytes(), *(g.tobytes() for g in fastconv1d.conv1d_backward(y, x, w))
    z = fastconv1d.conv2d(planes, wp)
    direct += z.tobytes(), *(g.tobytes() for g in fastconv1d.conv2d_backward(z, planes, wp))
    return *direct, *(fastconv1d.conv1d(xc, wc, algorithm=a).tobytes() for a in ('auto', 'blas'))
"""
# What the promises of times are measured with on a machine that others use.
WAITING = """
waits = {}  # of each thread, those that have ended included

def waited():
    '''Seconds that this process's threads have waited for a CPU; 0 where no kernel says so.'''
    for task in os.listdir("/proc/self/task") if os.path.isdir("/proc/self/task") else ():
        try:
            with open(f"/proc/self/task/{task}/schedstat") as stat:
                waits[task] = int(stat.read().split()[1])
        except OSError:  # it has just ended, or no such file
            pass
    return sum(waits.values()) * 1e-9

def clock():
    for _ in range(50):
        before, now = waited(), time.monotonic()
        if waited() - before < 1e-4:  # otherwise a thread has waited meanwhile
            break
    return now - before

"""


def run(code, *arguments, timeout=300, **environment):
    """The output of a Python process that runs LAYERS and `code`, and has to succeed."""
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning"]  # of fork, 3.12
    done = subprocess.run(
        [*command, "-c", LAYERS + code, *map(str, arguments)],
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout
