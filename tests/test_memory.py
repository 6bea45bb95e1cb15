"""Memory: scratch is bounded whatever the length, and calls leave nothing behind."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")

# Runs in a process of its own, so that no other test's memory counts.
PREAMBLE = """
import re
import numpy as np
import fastconv1d

def status(field):
    text = open("/proc/self/status").read()
    return int(re.search(field + r":\\s+(\\d+) kB", text)[1]) * 1024

def touched(*shape):
    array = np.empty(shape, "float32")
    array[...] = 1
    return array

# The first call loads and warms whatever is set up once.
warm = touched(1, 4, 5000)
for n_threads in (1, 2):
    with fastconv1d.num_threads(n_threads):
        y = fastconv1d.conv1d(warm, touched(4, 4, 31))
        fastconv1d.conv1d_backward(y, warm, touched(4, 4, 31))
        fastconv1d.conv_transpose1d(warm, touched(4, 4, 31))
"""


def run(code):
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.parametrize("length", [1_000_001, pytest.param(10_000_000, marks=pytest.mark.soak)])
@pytest.mark.parametrize(
    "call",
    [
        "fastconv1d.conv1d(x, w, padding=15)",
        "fastconv1d.conv1d(x, w, padding=15, padding_mode='reflect')",
        "fastconv1d.conv_transpose1d(x, w.transpose(1, 0, 2).copy(), padding=15)",
        "fastconv1d.conv1d_backward(y, x, w, padding=15)[0]",
        "fastconv1d.conv_transpose1d_backward(y, x, w.transpose(1, 0, 2).copy(), padding=15)[0]",
        # complex numbers; the result is twice as large
        "fastconv1d.conv1d(xc, wc, padding=15)",
        "fastconv1d.conv_transpose1d(xc, wc.transpose(1, 0, 2).copy(), padding=15)",
        "fastconv1d.conv1d_backward(yc, xc, wc, padding=15, output_mask=(False, True, False))[1]",
    ],
)
def test_scratch_does_not_grow_with_the_length(length, call):
    added = run(f"""
x, w, y = touched(1, 1, {length}), touched(16, 1, 31), touched(1, 16, {length})
xc, wc = np.ones((1, 1, {length}), "complex64"), np.ones((4, 1, 31), "complex64")
yc = np.ones((1, 4, {length}), "complex64") if "yc" in "{call}" else None
fastconv1d.conv1d(xc[:, :, :5000], wc)
with fastconv1d.num_threads(1):
    before = status("VmRSS")
    result = {call}
print((status("VmHWM") - before - result.nbytes) / 2**20)
""")
    assert added < 16


def test_scratch_is_bounded_a_thread():
    added = run("""
x, w, y = touched(1, 1, 1_000_001), touched(16, 1, 31), touched(1, 16, 1_000_001)
with fastconv1d.num_threads(4):
    before = status("VmRSS")
    fastconv1d.conv1d(x, w, padding=15, out=y)
print((status("VmHWM") - before) / 2**20)
""")
    assert added < 4 * 4 + 8
