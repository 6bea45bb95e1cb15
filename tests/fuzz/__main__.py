"""Command line of the fuzz program."""

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz import cases, runner

parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
parser.add_argument("--seed", type=int, help="of the cases; drawn and printed if not given")
parser.add_argument("--cases", type=int, help="how many; without it, until the time is over")
parser.add_argument("--minutes", type=float, help="how long; without it, until all cases are done")
parser.add_argument("--kinds", default=",".join(cases.KINDS), help="of %(default)s")
parser.add_argument(
    "--memory", type=int, default=512, help="MiB a child may take, 0 for no limit (sanitizers)"
)
parser.add_argument("--slow", type=float, default=1.0, help="times as much time for a case")
parser.add_argument("--case", type=int, help="run this one here and show what it raises")


def main():
    given = parser.parse_args()
    kinds = given.kinds.split(",")
    unknown = set(kinds) - set(cases.KINDS)
    if unknown:
        parser.error(f"unknown kinds {sorted(unknown)}")
    seed = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    if given.case is not None:
        cases.run(kinds, seed, given.case)
        print("passed")
        return 0
    options = runner.Options(kinds, seed, given.memory, given.slow)
    if given.cases is None and given.minutes is None:
        given.minutes = 1.0
    end = float("inf") if given.minutes is None else time.monotonic() + 60 * given.minutes
    done, findings, started = 0, 0, time.monotonic()
    while time.monotonic() < end and (given.cases is None or done < given.cases):
        count = 2_000 if given.cases is None else given.cases - done
        if given.minutes is not None:
            count = min(count, 2_000)
        findings += len(runner.run(options, done, count, lambda text: print(text, flush=True)))
        done += count
        print(f"{done} cases, {findings} findings, {time.monotonic() - started:.0f} s", flush=True)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
