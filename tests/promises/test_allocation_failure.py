"""Row 23: without memory a call raises MemoryError or is right, and the process goes on."""

import sys

import pytest

from promises.children import run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")

# One headroom in a child: calls under the limit, then the limit is lifted and everything is right.
SWEEP = """
import resource

def address_space():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()

warm, headroom = sys.argv[1] == "warm", int(sys.argv[2]) * 2**20
big = rng.standard_normal((8, 64, 4096)).astype(np.float32)
bw = rng.standard_normal((64, 64, 7)).astype(np.float32)
bigc, bwc = big[:, :8].astype(np.complex64), bw[:8, :8].astype(np.complex64)
layer = fastconv1d.Conv1d(64, 64, 7).eval()
planes, wp = big.reshape(8, 64, 64, 64), rng.standard_normal((64, 64, 3, 3)).astype(np.float32)
calls = {
    "small": lambda: fastconv1d.conv1d(x, w),
    "small complex": lambda: fastconv1d.conv1d(xc, wc),
    "small complex blas": lambda: fastconv1d.conv1d(xc, wc, algorithm="blas"),
    "big": lambda: fastconv1d.conv1d(big, bw),
    "big transposed": lambda: fastconv1d.conv_transpose1d(big, bw, stride=2),
    "big backward": lambda: fastconv1d.conv1d_backward(big, big, bw, padding=3)[1],
    "big blas": lambda: fastconv1d.conv1d(big, bw, algorithm="blas"),
    "big complex": lambda: fastconv1d.conv1d(bigc, bwc),
    "big complex blas": lambda: fastconv1d.conv1d(bigc, bwc, algorithm="blas"),
    "module": lambda: layer(big),
    "planes": lambda: fastconv1d.conv2d(planes, wp),
    "planes backward": lambda: fastconv1d.conv2d_backward(planes, planes, wp, padding=1)[1],
}
fastconv1d.set_num_threads(8)
expected = {}
if warm:
    for name, call in calls.items():
        expected[name] = call()
signal.alarm(50)  # a hang ends the child, and fails the test
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (address_space() + headroom, hard))
under, failures = {}, 0
for name, call in calls.items():
    for _ in range(2):
        try:
            under[name] = call()
        except MemoryError:
            failures += 1
resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
for name, call in calls.items():
    right = call()
    assert (right == expected.get(name, right)).all(), name
    assert (right == under.get(name, right)).all(), name
assert workers.counts()[1] == workers.counts()[2]
print(failures, len(under))
"""


@pytest.mark.parametrize("state", ["fresh", "warm"])
@pytest.mark.parametrize("headroom", [0, 1, 5, 12, 30, 60, 128])
def test_headroom(state, headroom):
    check(state, headroom)


@pytest.mark.soak
@pytest.mark.parametrize("state", ["fresh", "warm"])
def test_every_headroom(state):
    for headroom in range(129):
        check(state, headroom)


def check(state, headroom):
    failures, successes = map(int, run(SWEEP, state, headroom).split())
    assert failures + successes >= 8
    if headroom == 0:
        assert failures >= 8  # no result of the big calls fits


def test_no_more_threads_to_be_had():
    # What a container's limit on processes does; as root the limit does not hold.
    out = run("""
import resource
fastconv1d.set_num_threads(1)
expected = bits()  # with all that is imported, which another user may not be able to read
if os.getuid() == 0:
    try:
        os.setresuid(65534, 65534, 65534)
    except OSError:
        print("skip")
        sys.exit()
fastconv1d.set_num_threads(8)
soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
try:
    threading.Thread(target=int).start()
    print("skip")
except RuntimeError:
    assert bits() == expected
    assert threads.n_started() == 0
    resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
    assert bits() == expected
    assert threads.n_started() > 0
    print("done")
""")
    if out == "skip\n":
        pytest.skip("the limit on processes does not hold here")
    assert out == "done\n"
