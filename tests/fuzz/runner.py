"""Batches of cases in child processes, and a watch for those that hang, crash or fail."""

import dataclasses
import json
import mmap
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

# Without a new case for this long, the process is killed: it hangs (or the machine is very busy).
PATIENCE = 20.0
BATCH = 25_000
CHILD = "import sys; from fuzz import runner; runner.main(*sys.argv[1:])"
# So many findings are enough to look at.
MOST_FINDINGS = 50


@dataclasses.dataclass
class Options:
    kinds: list
    seed: int
    memory: int = 512  # MiB of address space beyond what a child starts with; 0 for no limit
    slow: float = 1.0  # times as much time for a case


class Progress:
    """The number of the case that a child is at, in memory that its parent sees."""

    def __init__(self, file):
        self.memory = mmap.mmap(file.fileno(), 8)

    def set(self, number):
        struct.pack_into("q", self.memory, 0, number)

    def get(self):
        return struct.unpack_from("q", self.memory, 0)[0]


def child(options, first, last, path):
    """Run cases first to last, and print a line of JSON for each that fails."""
    from . import cases, hostile

    hostile.SECONDS *= options.slow
    warnings.simplefilter("error")
    for number in range(3):  # warm, before memory is limited
        try:
            cases.run(options.kinds, "warm", number)
        except Exception:  # a case like it is found in the loop below
            pass
    if options.memory:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + options.memory * 2**20,) * 2)
    with open(path, "r+b") as file:
        progress = Progress(file)
    for number in range(first, last):
        progress.set(number)
        try:
            cases.run(options.kinds, options.seed, number)
        except BaseException:  # any exception is a finding
            report(number, traceback.format_exc())
    progress.set(last)


def main(options, first, last, path):
    """What a child process runs."""
    child(Options(**json.loads(options)), int(first), int(last), path)


def report(number, text):
    print(json.dumps({"case": number, "text": text}), flush=True)


def run(options, first, count, say=print):
    """Run `count` cases from `first` on; return the list of findings, dicts of case and text."""
    findings = []
    number, last = first, first + count
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "progress")
        path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            progress = Progress(file)
        while number < last and len(findings) < MOST_FINDINGS:
            stop = min(last, number + BATCH)
            found, number = run_batch(options, number, stop, path, progress)
            for finding in found:
                say(f"case {finding['case']}: {finding['text']}")
            findings += found
    return findings


def run_batch(options, first, last, path, progress):
    """Run one child; return its findings and the number of the next case."""
    progress.set(-1)
    arguments = [json.dumps(dataclasses.asdict(options)), str(first), str(last), str(path)]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", CHILD, *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=path.parent,
            env={**os.environ, "PYTHONPATH": search_path()},
        )
        hung = watch(process, progress, PATIENCE * options.slow)
        output.seek(0)
        lines = output.read().splitlines()
    findings = [json.loads(line) for line in lines if line.startswith('{"case"')]
    if process.returncode == 0:
        return findings, last
    number = progress.get()
    if number < 0:
        raise RuntimeError("a child could not start:\n" + "\n".join(lines))
    what = "hangs" if hung else f"ends its process: {exit_text(process.returncode)}"
    rest = "\n".join(line for line in lines if not line.startswith('{"case"'))[-4000:]
    return [*findings, {"case": number, "text": f"{what}\n{rest}"}], number + 1


def search_path():
    here = Path(__file__).resolve()
    return os.pathsep.join([str(here.parents[1]), str(here.parents[2])])


def exit_text(status):
    return f"exit status {status}" if status >= 0 else signal.Signals(-status).name


def watch(process, progress, patience):
    """Wait for a child to end; kill it and return True if it stays at one case."""
    seen, since = progress.get(), time.monotonic()
    while process.poll() is None:
        time.sleep(0.05)
        if progress.get() != seen:
            seen, since = progress.get(), time.monotonic()
        elif time.monotonic() - since > patience:
            process.kill()
            process.wait()
            return True
    return False
