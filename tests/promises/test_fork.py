"""Row 8: children of a fork answer with equal bits within 5 s, however the parent was busy."""

import concurrent.futures
import http.client
import os
import socket
import subprocess
import sys
import time

import pytest

from promises.children import ENVIRONMENT, LAYERS, run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

FORKS = """
expected, over, errors = bits(), threading.Event(), []

def busy():
    while not over.is_set():
        if bits() != expected:
            errors.append("bits of a busy thread")

hosts = [threading.Thread(target=busy) for _ in range(int(sys.argv[2]))]
for host in hosts:
    host.start()
for i in range(int(sys.argv[1])):
    child = os.fork()
    if child == 0:
        signal.alarm(5)  # ends a child that hangs
        status = 0 if workers.counts() == (8, 0, 0) and bits() == expected else 3
        if status == 0 and not 1 <= threads.n_started() <= 3:
            status = 4
        if status == 0 and i % 10 == 0:  # a child's child, and the child's own pool after it
            grandchild = os.fork()
            status = 0 if bits() == expected else 5
            if grandchild:
                status = status or os.waitpid(grandchild, 0)[1]
        os._exit(min(status, 255))
    status = os.waitpid(child, 0)[1]
    if status:
        errors.append(f"child {i} ended with status {status}")
        break
over.set()
for host in hosts:
    host.join()
assert bits() == expected
assert not errors, errors
"""


@pytest.mark.parametrize("n_hosts", [0, 3])
def test_forks(n_hosts, share):
    run(FORKS, int(500 * share), n_hosts, timeout=60 + 3000 * share)


def test_fork_in_a_signal_handler_between_rounds_of_a_call():
    run("""
expected = bits()
long = np.ones((8, 128, 8192), np.float32), np.ones((128, 128, 9), np.float32)
total = fastconv1d.conv1d(*long)
children, inside = [], []

def again():
    # Once, from the end of the handler: on a busy machine a fork may take longer than any interval,
    # and a timer that goes on would call the handler within itself without end.
    signal.setitimer(signal.ITIMER_REAL, 0.05)

def fork(signum, frame):
    assert not inside
    inside.append(signum)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a child forks no more, and does end
        signal.alarm(5)
        os._exit(0 if bits() == expected else 3)
    children.append(child)
    if len(children) == 1:
        time.sleep(0.2)  # as a slow fork
    inside.clear()
    if len(children) < 6:
        again()

signal.signal(signal.SIGALRM, fork)
again()
while len(children) < 6:
    assert (fastconv1d.conv1d(*long) == total).all()
assert not any(os.waitpid(child, 0)[1] for child in children)
""")


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(tmp_path, method):
    script = tmp_path / "script.py"
    script.write_text(f"""{LAYERS}
import multiprocessing

def answer(i):
    return bits()

if __name__ == "__main__":
    expected = bits()
    with multiprocessing.get_context({method!r}).Pool(2) as processes:
        assert all(b == expected for b in processes.map(answer, range(8), 1))
    assert bits() == expected
""")
    done = subprocess.run(
        [sys.executable, script],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr


APP = f"""{LAYERS}
import hashlib

def answer():
    return hashlib.sha256(b"".join(bits())).hexdigest()

expected = answer()  # in the master, on threads, before it forks

def app(environ, start_response):
    right = b"right" if answer() == expected else b"wrong"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [right + b" %d" % os.getpid()]
"""


def ask(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode().split()
    finally:
        connection.close()


def first_answer(port, server):
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert server.poll() is None, "gunicorn ended"
        try:
            return ask(port)
        except OSError:
            time.sleep(0.1)
    raise AssertionError("gunicorn does not answer")


def test_gunicorn_with_preload(tmp_path, share):
    pytest.importorskip("gunicorn")
    (tmp_path / "app.py").write_text(APP)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "4"]
    server = subprocess.Popen(
        [*command, "--log-level", "error", "--bind", f"127.0.0.1:{port}", "app:app"],
        cwd=tmp_path,
        env=ENVIRONMENT,
    )
    try:
        first_answer(port, server)
        with concurrent.futures.ThreadPoolExecutor(8) as clients:
            answers = list(clients.map(lambda _: ask(port), range(int(800 * share))))
        end = time.monotonic() + 60  # the others may be late on a busy machine
        while len({answer[1] for answer in answers}) < 2 and time.monotonic() < end:
            answers.append(ask(port))
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait(20)
    assert {answer[0] for answer in answers} == {"right"}
    assert 2 <= len({answer[1] for answer in answers}) <= 4
