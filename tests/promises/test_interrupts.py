"""Row 24: Ctrl-C ends a long call within 0.5 s, and leaves everything as it was.

The time is the clock's, less what the kernel counts as waiting for a CPU: others use it too.
"""

import signal
import sys

import pytest

from promises.children import WAITING, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals")

# Each call takes several seconds on one core.
CALLS = {
    "forward": "fastconv1d.conv1d(X, W, out=Y)",
    "transposed": "fastconv1d.conv_transpose1d(X, W)",
    "backward": "fastconv1d.conv1d_backward(X, X, W, padding=15)",
    "transposed backward": "fastconv1d.conv_transpose1d_backward(X, X, W, padding=15)",
    "reflect": "fastconv1d.conv1d_backward(X, X, W, padding=15, padding_mode='reflect')",
    "module": "module(X)",
    "depthwise": "fastconv1d.conv1d(D, V, groups=256)",
    "depthwise gradient": "fastconv1d.grad.conv1d_weight(D, V.shape, D, padding=255, groups=256,"
    " dilation=2)",
    "long kernel": "fastconv1d.conv1d(L, LW)",
    "blas": "fastconv1d.conv1d(X, W, algorithm='blas')",
    "blas backward": "fastconv1d.conv1d_backward(X, X, W, padding=15, algorithm='blas')",
    "blas transposed": "fastconv1d.conv_transpose1d(X, W, algorithm='blas')",
    "complex": "fastconv1d.conv1d(XC, WC)",
    "new pages": "fastconv1d.conv1d(LONG, W[:, :, :9])",
    "new pages, blas": "fastconv1d.conv1d(LONG, W[:, :, :9], algorithm='blas')",
    "new pages, transposed": "fastconv1d.conv_transpose1d(LONG, W[:, :, :9])",
    "complex, blas": "fastconv1d.conv1d(XC, WC, algorithm='blas')",
    "complex backward": "fastconv1d.conv1d_backward(XC, XC, WC, padding=15)",
    "planes": "fastconv1d.conv2d(P, WP)",
    "planes, backward": "fastconv1d.conv2d_backward(P, P, WP, padding=2)",
    "planes, depthwise": "fastconv1d.conv2d(DP, VP, groups=256)",
    "planes, channels last": "fastconv1d.conv2d(DL, VP, groups=256, layout='NHWC')",
    "unfold": "fastconv1d.unfold1d(X, 31)",
    "fold": "fastconv1d.fold1d(C, 40000, 31)",
}
SETUP = """
X, W = np.ones((4, 256, 40000), np.float32), np.ones((256, 256, 31), np.float32)
Y = np.ones((4, 256, 39970), np.float32)  # its pages are there before the first call
D, V = np.ones((2, 256, 400000), np.float32), np.ones((256, 1, 256), np.float32)
P, WP = np.ones((4, 256, 200, 200), np.float32), np.ones((256, 256, 5, 5), np.float32)
DP = np.broadcast_to(np.ones((1, 1, 400, 500), np.float32), (8, 256, 400, 500))
VP = np.ones((256, 1, 11, 11), np.float32)
DL = np.ones((2, 400, 500, 256), np.float32) if "NHWC" in "CALL" else None
L, LW = np.ones((1, 16, 300000), np.float32), np.ones((64, 16, 2000), np.float32)
XC, WC = X[:1].astype(np.complex64), W.astype(np.complex64)
C = np.zeros((4, 256 * 31, 39970), np.float32) if "fold1d" in "CALL" else None
LONG = np.broadcast_to(np.ones((1, 1, 2_000_000), np.float32), (1, 256, 2_000_000))
module = fastconv1d.Conv1d(256, 256, 31).eval()

def call():
    return CALL

def rss():
    config.release_memory()  # a kept result has as many pages as were written before the signal
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")
"""

INTERRUPT = (
    WAITING
    + """
import random
fastconv1d.set_num_threads(int(sys.argv[2]))
expected, sent, late = bits(), [], []
random.seed(24)

def lateness(delay):
    timer = threading.Timer(delay, lambda: (
        sent.append(clock()), os.kill(os.getpid(), signal.SIGINT)))
    try:
        timer.start()
        call()
        timer.join()
        time.sleep(1)  # the call was shorter than the timer
        raise AssertionError("no KeyboardInterrupt")
    except KeyboardInterrupt:
        return clock() - sent[-1]
    finally:
        timer.join()

def interrupt():
    delay = random.uniform(0.02, 0.6)
    for _ in range(3):  # what holds a signal up does so each time, other processes do not
        seconds = lateness(delay)
        assert bits() == expected
        if seconds < 0.5:
            break
    late.append(seconds)

interrupt()
for _ in range(3):  # each call leaves what leaks; what is kept, as BLAS's buffers, is new once
    before = rss()
    for _ in range(int(sys.argv[1]) - 1):
        interrupt()
    grown = (rss() - before) / 2**20
    if grown < 4:
        break
started = workers.counts()[1]
assert workers.counts()[2] == started  # every worker is back
print(max(late), grown)
"""
)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("name", CALLS)
def test_ctrl_c_at_random_times(name, n_threads, share):
    code = SETUP.replace("CALL", CALLS[name]) + INTERRUPT
    latest, grown = map(float, run(code, int(20 * share), n_threads, timeout=600).split())
    assert latest < 0.5
    # Results are of 80 MiB and more, and scratch is freed. Measured: 0 to 0.5.
    assert grown < 4


def test_handlers_that_do_not_raise_run_during_the_call():
    times = run(f"""{SETUP.replace("CALL", "fastconv1d.conv1d(X, W)")}
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append(time.process_time()))
signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), {int(signal.SIGUSR1)}))
signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
start = time.process_time()
y = call()
signal.setitimer(signal.ITIMER_REAL, 0)
print(time.process_time() - start, len([t for t in seen if t > start]), y.min(), y.max())
""").split()
    assert int(times[1]) >= float(times[0]) / 4 / 0.5 - 1  # at least every 0.5 s, on 4 threads
    assert float(times[2]) == float(times[3]) == 256 * 31
