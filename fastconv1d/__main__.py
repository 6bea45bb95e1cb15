"""``fastconv1d run | demo | bench | check | info``, or ``python -m fastconv1d ...``."""

import argparse
import io
import os
import sys
from collections.abc import Sequence

from . import __version__
from .config import MAX_THREADS
from .core.engines import ALGORITHMS
from .run import add_arguments, run_files

# Exit statuses as a shell has them for a process that a signal ended: 128 and its number.
_INTERRUPTED, _NO_READER = 130, 141


def _threads(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_THREADS):
        raise argparse.ArgumentTypeError(
            f"expected an integer from 1 to {MAX_THREADS}, got {text[:40]!r}"
        )
    return int(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise argparse.ArgumentTypeError(f"expected an integer below 10^9, got {text[:40]!r}")
    return int(text)


def _path(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got ''")
    return text


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser of the commands."""
    parser = argparse.ArgumentParser(
        prog="fastconv1d", description="1-D convolutions of NumPy arrays on the CPU."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="apply a model to files of any length")
    add_arguments(run)
    run.add_argument("--threads", type=_threads, help="threads of the library in this process")

    demo = commands.add_parser("demo", help="run example layers on a real signal and check them")
    demo.add_argument("file", nargs="?", help="a .wav or .npy file (default: a shipped signal)")

    bench = commands.add_parser("bench", help="time the benchmark layers against other libraries")
    bench.add_argument(
        "model",
        nargs="*",
        metavar="MODEL",
        help="MODEL.onnx, MODEL.pt2 (of torch.export.save), or one of each: time the whole model "
        "and each of its convolutions",
    )
    _add_inputs(bench, "16000 samples, 400 frames or 128 tokens where that is open")
    bench.add_argument("--threads", type=_threads, default=1, help="threads a library may use")
    bench.add_argument(
        "--layers",
        default="*",
        metavar="PATTERN",
        help="names, with * and ?, separated by commas; or a file .csv of layers",
    )
    bench.add_argument(
        "--sweep", type=_count, metavar="SEED", help="time layers drawn at random, and name losers"
    )
    bench.add_argument(
        "--count", type=_count, default=100, metavar="N", help="layers of the sweep (default: 100)"
    )
    bench.add_argument("--backward", action="store_true", help="time the gradients, not forward")
    bench.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "float64", "complex64", "complex128"),
    )
    bench.add_argument(
        "--json", type=_path, metavar="F", help="also write every figure to this file"
    )
    bench.add_argument(
        "--isa",
        choices=("base", "avx2", "avx512"),
        help="hold fastconv1d, torch and the BLAS to this instruction set",
    )
    bench.add_argument(
        "--algorithm", default="auto", choices=ALGORITHMS, help="what fastconv1d computes by"
    )
    bench.add_argument(
        "--peers", metavar="A,B", help="torch,onnxruntime,openvino,jax (default: those importable)"
    )
    bench.add_argument(
        "--subject",
        default="layers",
        choices=("layers", "length", "kernel", "threads", "costs"),
        help="one layer over its length or kernel size, a few layers for --threads, or what a "
        "library costs beside its calls (default: the layers of layers.csv)",
    )
    bench.add_argument("--quick", action="store_true", help="few, short samples: a trial run")
    bench.add_argument(
        "--report",
        type=_path,
        metavar="DIR",
        help="measure all of it and write report.md, .html and .json",
    )
    bench.add_argument(
        "--from-json",
        action="store_true",
        help="with --report: make its pages again from DIR/report.json without measuring",
    )

    check = commands.add_parser("check", help="does an ONNX model run here, and is it right?")
    check.add_argument("model", metavar="MODEL.onnx")
    _add_inputs(check, "1 and 64 where that is open")

    commands.add_parser("info", help="print versions, CPU, instruction set, BLAS and threads")
    return parser


def _add_inputs(command: argparse.ArgumentParser, default: str) -> None:
    """Add the arguments that say what goes into a model, and what computes it."""
    command.add_argument(
        "--input", action="append", default=[], metavar="NAME=FILE.npy", help="an input's values"
    )
    command.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="NAME=1,80,400",
        help=f"the size of a random input (default: the model's, {default})",
    )
    command.add_argument(
        "--rest",
        nargs="?",
        const="onnxruntime",
        choices=("onnxruntime",),
        help="what computes the rest beside convolutions",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    int
        0; 1 if a result is wrong; 2 for bad input, or output that cannot be written; 130 after
        Ctrl-C; 141 where the reader of a pipe has gone, as it is for others that write to one.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path may hold what the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(argv)
        finally:
            if sys.stdout is not None:  # None: closed before the start
                sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return _NO_READER
    except OSError as error:
        _drop_output()
        print(f"fastconv1d: {error}", file=sys.stderr)
        return 2


def _drop_output() -> None:
    """Let what is still to be written go nowhere, or the interpreter's end would fail on it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(argv: list[str]) -> int:
    args = build_parser().parse_args(argv)
    if args.command == "run":
        return run_files(args)
    if args.command == "demo":
        from .demo import run_demo

        return run_demo(args.file)
    if args.command == "bench":
        from .bench import run_bench

        return run_bench(args, argv)
    if args.command == "check":
        try:
            from .onnx.check import run_check
        except ImportError as error:
            print(f"fastconv1d check: {error}", file=sys.stderr)
            return 2
        return run_check(args.model, args.input, args.shape, args.rest)
    from .config import show_config

    show_config()
    return 0


if __name__ == "__main__":
    sys.exit(main())
