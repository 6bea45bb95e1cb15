"""``python -m fastconv1d run``: a model over files of any length, piece by piece.

Files are read and written in parts, so that memory is bounded by the chunk. An output has its name
only when it is complete.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import config
from .core import pieces
from .core.files import what_special
from .core.pieces import Interval, Piece, Pipeline
from .core.program import Convolve, Operation, fuse, infer_shapes
from .core.spec import LAYOUTS
from .modules import Conv1d, ConvTranspose1d
from .weights import load_file

Array = NDArray[Any]

SUFFIXES = (".wav", ".npy", ".npz", ".zarr")
# Bytes that the largest array between two layers takes for one piece.
_PIECE_BYTES = 1 << 26
# Pieces that are with the workers at a time, for each thread of theirs.
_AHEAD = 3
# Bytes of samples that the 32-bit sizes of a wav file allow.
_LONGEST_WAV = (1 << 32) - 128
# Options that say what a weight file does not, and how they are parsed.
_LAYER_OPTIONS = ("stride", "padding", "dilation", "groups", "output_padding", "padding_mode")


class RunError(Exception):
    """What a file or a model is refused for; the text is the reason."""


# ---- files


class Source(NamedTuple):
    """An array of a file, which is opened anew for each part.

    A mapping that stays would keep every page that was read in the memory of the process.

    Attributes
    ----------
    path : str
    shape : tuple of int
        (N, C, L).
    ndim : int
        Dimensions in the file: positions alone, with channels, with a batch.
    channels_last : bool
    rate : int or None
        Samples a second.
    content : ndarray or None
        The array itself where a file cannot be read by parts.
    """

    path: str
    shape: tuple[int, int, int]
    ndim: int
    channels_last: bool
    rate: int | None = None
    content: Array | None = None

    def read(self, n: int, first: int, last: int, dtype: np.dtype[Any]) -> Array:
        """Return positions of an item, (1, C, last - first)."""
        stored = _opened(self.path)[0] if self.content is None else self.content
        part = np.asarray(stored[_place(self.ndim, self.channels_last, n, first, last)])
        part = part.reshape(1, -1) if self.ndim == 1 else part.T if self.channels_last else part
        if self.path.lower().endswith(".wav") and part.dtype.kind in "iu":
            half = float(1 << (8 * part.dtype.itemsize - 1))
            part = part.astype(np.float64) / half - (part.dtype.kind == "u")
        return np.array(part, dtype, order="C")[np.newaxis]


def _place(ndim: int, channels_last: bool, n: int, first: int, last: int) -> tuple[Any, ...]:
    """Return the index of positions of an item, in a file of so many dimensions."""
    place: tuple[Any, ...] = (slice(first, last),)
    if ndim > 1:
        place = (*place, slice(None)) if channels_last else (slice(None), *place)
    return (n, *place) if ndim == 3 else place


def _opened(path: str) -> tuple[Any, int | None]:
    """Return what a file holds as something that is sliced, and samples a second."""
    suffix = Path(path).suffix.lower()
    if suffix == ".zarr":
        import zarr

        return zarr.open_array(path, mode="r"), None
    if suffix == ".npy":
        return np.load(path, mmap_mode="r", allow_pickle=False), None
    from scipy.io import wavfile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # unknown chunks are harmless
        try:
            rate, samples = wavfile.read(path, mmap=True)
        except ValueError:  # 24 bits, which no dtype has
            rate, samples = wavfile.read(path)
    return samples, rate


def _source(path: Path, layout: str, stored: Any, rate: int | None, in_memory: bool) -> Source:
    if stored.dtype.kind not in "iufc":
        raise RunError(f"expected numbers, got dtype {stored.dtype}")
    if stored.ndim not in (1, 2, 3):
        raise RunError(f"expected 1 to 3 dimensions, got {stored.ndim}")
    channels_last = layout == "NLC" or rate is not None
    shape = (1,) * (3 - stored.ndim) + tuple(stored.shape)
    if channels_last:
        shape = (shape[0], 1, shape[2]) if stored.ndim == 1 else (shape[0], shape[2], shape[1])
    content = np.asarray(stored) if in_memory else None
    return Source(str(path), shape, stored.ndim, channels_last, rate, content)


class Target(NamedTuple):
    """An array in a file that is written by parts, in any order and by any process."""

    path: str
    suffix: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    channels_last: bool
    offset: int = 0

    def write(self, n: int, first: int, part: Array) -> None:
        """Write positions of an item, (C, L)."""
        place = _place(len(self.shape), self.channels_last, n, first, first + part.shape[1])
        values = part[0] if len(self.shape) == 1 else part.T if self.channels_last else part
        if self.suffix == ".zarr":
            import zarr

            zarr.open_array(self.path, mode="r+")[place] = values
            return
        order = {"mode": "r+", "dtype": self.dtype, "shape": self.shape, "offset": self.offset}
        stored = np.memmap(self.path, **order)  # type: ignore[call-overload]
        stored[place] = values


def _target(
    path: Path, suffix: str, source: Source, layout: str, shape: Any, dtype: Any, widest: int
) -> Target:
    """Make the file of an output (N, C, L), with nothing in it yet."""
    _, channels, length = shape
    # A wav file has its channels last in any case, an array made of it as --layout says.
    channels_last = layout == "NLC" if source.rate is not None else source.channels_last
    dims = [shape[0], length, channels] if channels_last else [*shape]
    stored = tuple(dims[3 - max(source.ndim, 2) :])
    if source.ndim == 1 and channels == 1:
        stored = (length,)
    target = Target(str(path), suffix, stored, np.dtype(dtype), channels_last)
    if suffix == ".zarr":
        import zarr

        axis = len(stored) - 1 - (channels_last and len(stored) > 1)
        chunks = tuple(min(n, widest) if i == axis else n for i, n in enumerate(stored))
        chunks = (1, *chunks[1:]) if len(stored) == 3 else chunks
        zarr.create_array(str(path), shape=stored, chunks=chunks, dtype=target.dtype)
        return target
    if suffix == ".npy":
        made = np.lib.format.open_memmap(path, "w+", target.dtype, stored)
        return target._replace(offset=made.offset)
    frames = target._replace(shape=(length, channels), channels_last=True)
    return _wav_target(frames, source)


def _wav_target(target: Target, source: Source) -> Target:
    length, channels = target.shape
    dtype = target.dtype.newbyteorder("<")
    if source.rate is None or source.shape[0] != 1:
        raise RunError("a wav file is made of a wav file: use -o FILE.npy")
    if dtype.kind != "f" or dtype.itemsize < 4:
        raise RunError(f"a wav file takes float32 or float64, got {dtype}: use -o FILE.npy")
    size = length * channels * dtype.itemsize
    if size > _LONGEST_WAV:
        raise RunError(f"a wav file holds at most 4 GiB, got {size} bytes: use -o FILE.npy")
    rate, frame = source.rate, channels * dtype.itemsize
    fields = (3, channels, rate, rate * frame, frame, 8 * dtype.itemsize, 0)
    layouts = ("<u2", "<u2", "<u4", "<u4", "<u2", "<u2", "<u2")
    form = b"".join(np.array(v, t).tobytes() for v, t in zip(fields, layouts, strict=True))
    chunks = [(b"fmt ", form), (b"fact", np.array(length, "<u4").tobytes())]
    body = b"WAVE" + b"".join(name + np.array(len(c), "<u4").tobytes() + c for name, c in chunks)
    header = b"RIFF" + np.array(len(body) + 8 + size, "<u4").tobytes() + body
    header += b"data" + np.array(size, "<u4").tobytes()
    with open(target.path, "wb") as file:
        file.write(header)
        file.truncate(len(header) + size)
    return target._replace(dtype=dtype, offset=len(header))


@contextlib.contextmanager
def _unfinished(target: Path) -> Iterator[Path]:
    """Give a path beside `target` that takes its place unless the block raises."""
    path = target.with_name(f".{target.name}.unfinished")
    _remove(path)  # of a run that was killed
    try:
        yield path
        if path.is_dir():
            _remove(target)
        os.replace(path, target)
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# ---- the model


class Model(NamedTuple):
    """What runs: operations, or where all positions are needed at once a function of them."""

    operations: Callable[[], list[Operation]] | None
    whole: Callable[[Array], Array]
    dtype: np.dtype[Any]

    def pipeline(self, shape: tuple[int, int, int]) -> tuple[Pipeline, tuple[int, ...], int]:
        """Return what computes pieces, the output's shape, and bytes a position of the input."""
        assert self.operations is not None
        operations = self.operations()
        shapes = infer_shapes(operations, shape, self.dtype)
        stand_in = np.broadcast_to(np.zeros((), self.dtype), shape)
        pipeline, output = pieces.of_operations(fuse(self.operations()), operations, stand_in)
        largest = max(channels * length for _, channels, length in shapes)
        return pipeline, output, -(-largest * self.dtype.itemsize // max(1, shape[2]))


def _model(args: argparse.Namespace) -> Model:
    path = Path(args.model)
    given = [name for name in (*_LAYER_OPTIONS, "prefix", "transposed", "activation")
             if getattr(args, name) is not None]  # fmt: skip
    if path.suffix.lower() == ".onnx":
        if given:
            raise RunError(f"an ONNX model has its own arguments, got --{given[0]}")
        return _onnx_model(path, args.algorithm)
    if path.suffix.lower() not in (".safetensors", ".npz"):
        raise RunError("expected a model in a .onnx, .safetensors or .npz file")
    options = {name: getattr(args, name) for name in _LAYER_OPTIONS if name in given}
    options["algorithm"] = args.algorithm
    if args.activation is not None:
        options["activation"] = args.activation
    kind = ConvTranspose1d if args.transposed else Conv1d
    layer = kind.from_state_dict(load_file(path), args.prefix or "", **options)
    return Model(lambda: [Convolve("", layer, 0, 1)], layer, layer.dtype)


def _onnx_model(path: Path, algorithm: str) -> Model:
    try:
        from .onnx import from_onnx
        from .onnx.pieces import operations_of
    except ImportError as error:
        raise RunError(f"an ONNX model needs onnx: {error}") from error
    model = from_onnx(path, algorithm=algorithm)
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise RunError(
            f"expected a model of one input and one output, got {len(model.inputs)} and "
            f"{len(model.outputs)}"
        )
    operations = operations_of(model)
    layers = [op.layer.dtype for op in operations or [] if isinstance(op, Convolve)]
    dtype = layers[0] if layers else np.dtype(np.float32)
    if operations is None:
        return Model(None, model, dtype)

    def asking() -> list[Operation]:
        made = operations_of(model) or []
        for op in made:
            if isinstance(op, Convolve):
                op.layer.algorithm = algorithm
        return made

    return Model(asking, model, dtype)


# ---- pieces


def compute_piece(
    pipeline: Pipeline,
    source: Source,
    target: Target,
    dtype: np.dtype[Any],
    n: int,
    interval: Interval,
) -> int:
    """Read what a part of an output needs, compute and write it; return its length."""
    first, last = interval
    given = [Piece(a, source.read(n, a, b, dtype)) for a, b in pipeline.needs(first, last)]
    channels = 1 if len(target.shape) == 1 else target.shape[-1 if target.channels_last else -2]
    out = np.empty((1, channels, last - first), dtype)
    pipeline.compute([given], first, last, out)
    target.write(n, first, out[0])
    return last - first


Work = Callable[..., Iterator[int]]


def _here(pipeline: Pipeline, tasks: list[tuple[Any, ...]]) -> Iterator[int]:
    for task in tasks:
        yield compute_piece(pipeline, *task)


def _on_workers(client: Any, pipeline: Pipeline, tasks: list[tuple[Any, ...]]) -> Iterator[int]:
    """The same on a cluster, whose workers see the same files; each packs the weights once."""
    from distributed import as_completed

    shared = client.scatter(pipeline, broadcast=True, hash=False)
    left = iter(tasks)
    ahead = _AHEAD * max(1, sum(client.nthreads().values()))
    first = [
        client.submit(compute_piece, shared, *task, pure=False)
        for task in itertools.islice(left, ahead)
    ]
    running = as_completed(first, loop=client.loop)
    del first  # or every result would stay
    for done in running:
        yield done.result()
        for task in itertools.islice(left, 1):
            running.add(client.submit(compute_piece, shared, *task, pure=False))


class _Runner:
    """What is the same for all files of a command."""

    def __init__(self, model: Model, args: argparse.Namespace, work: Work, bar: Any) -> None:
        self._model, self._args, self._work, self._bar = model, args, work, bar

    def run(self, path: Path, target: Path) -> None:
        """Compute one output."""
        # Workers have folders of their own; what a link leads to is written, and the link stays.
        path, target = path.absolute(), Path(os.path.realpath(target))
        if not path.is_dir() and (special := what_special(path)):
            raise RunError(f"is {special}: expected a regular file")
        target.parent.mkdir(parents=True, exist_ok=True)
        with _unfinished(target) as unfinished:
            if path.suffix.lower() == ".npz":
                self._run_archive(path, unfinished, target.suffix.lower())
                return
            source = _source(path, self._args.layout, *_opened(str(path)), False)
            self._run(source, unfinished, target.suffix.lower())

    def _run_archive(self, path: Path, unfinished: Path, suffix: str) -> None:
        if suffix != ".npz":
            raise RunError(f"the output of a .npz file should be one, got {suffix}")
        results = {}
        for key, content in load_file(path).items():
            source = _source(path, self._args.layout, content, None, True)
            part = unfinished.with_name(f"{unfinished.name}.npy")
            try:
                self._run(source, part, ".npy")
                results[key] = np.load(part)
            finally:
                _remove(part)
        with unfinished.open("wb") as file:
            np.savez(file, **results)

    def _run(self, source: Source, unfinished: Path, suffix: str) -> None:
        if self._model.operations is None:
            self._run_whole(source, unfinished, suffix)
            return
        pipeline, shape, position_bytes = self._model.pipeline(source.shape)
        step = pipeline.step
        if source.rate is not None:
            source = source._replace(rate=_new_rate(source.rate, step))
        length = source.shape[2]
        chunk = self._positions(source, pipeline, shape[2], position_bytes)
        chunk = -(-chunk // step.numerator) * step.numerator  # chunks of a zarr array fit pieces
        if shape[2] == 0:
            raise RunError(f"the output has no positions, from {length} of the input")
        bounds = pieces.follow([*range(0, length, chunk), length], step, shape[2])
        intervals = [*itertools.pairwise(bounds)]
        given = source, self._args.layout, shape
        target = _target(unfinished, suffix, *given, self._model.dtype, bounds[1])
        tasks = [
            (source, target, self._model.dtype, n, interval)
            for n in range(shape[0])
            for interval in intervals
        ]
        self._bar.reset(shape[0] * shape[2])
        for done in self._work(pipeline, tasks):
            self._bar.update(done)

    def _run_whole(self, source: Source, unfinished: Path, suffix: str) -> None:
        n_batch, _, length = source.shape
        items = [source.read(n, 0, length, self._model.dtype) for n in range(n_batch)]
        y = np.asarray(self._model.whole(np.concatenate(items)))
        if y.ndim != 3:
            raise RunError(f"expected an output of 3 dimensions, got size {list(y.shape)}")
        self._bar.reset(y.shape[0] * y.shape[2])
        given = source, self._args.layout, y.shape
        target = _target(unfinished, suffix, *given, y.dtype, y.shape[2])
        for n, item in enumerate(y):
            target.write(n, 0, item)
            self._bar.update(y.shape[2])

    def _positions(
        self, source: Source, pipeline: Pipeline, l_out: int, position_bytes: int
    ) -> int:
        """Return how many positions of the input a piece has."""
        number, seconds = self._args.chunk
        if seconds:
            if source.rate is None:
                raise RunError("has no samples a second: give --chunk in positions")
            return max(1, round(number * source.rate))
        if number:
            return int(number)
        middle = l_out // 2
        reach = sum(b - a for a, b in pipeline.needs(middle, middle + 1)) if l_out else 1
        return max(_PIECE_BYTES // position_bytes, 4 * reach)


def _new_rate(rate: int, step: Any) -> int:
    new = rate / step
    if new.denominator != 1:
        raise RunError(f"samples a second should stay whole, got {rate} with a step of {step}")
    return int(new)


# ---- the command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("model", metavar="MODEL", help=".onnx, or a layer's .safetensors or .npz")
    parser.add_argument("input", nargs="+", metavar="INPUT", help="files, or folders of them")
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUTPUT", help="a folder, or a file for one input"
    )
    parser.add_argument("--scheduler", metavar="ADDRESS", help="compute on a Dask cluster")
    parser.add_argument(
        "--chunk",
        type=_chunk,
        default=(0, False),
        metavar="SECONDS|POSITIONS",
        help="how much of a file is computed at a time: 30s, or 100000 positions "
        "(default: what takes 64 MiB in the largest layer)",
    )
    parser.add_argument("--overwrite", action="store_true", help="compute finished outputs again")
    parser.add_argument(
        "--layout", choices=LAYOUTS, default="NCL", help="of arrays: channels before or after"
    )
    parser.add_argument(
        "--algorithm", choices=("auto", "fast"), default="auto",
        help="fast: long kernels by transforms, for other rounding errors",
    )  # fmt: skip
    layer = parser.add_argument_group("a layer's arguments, for .safetensors and .npz")
    layer.add_argument("--transposed", action="store_const", const=True, help="ConvTranspose1d")
    layer.add_argument("--prefix", metavar="KEY", help="what comes before 'weight' in the file")
    for name in ("stride", "dilation", "groups", "output_padding"):
        layer.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N")
    layer.add_argument("--padding", type=_padding, metavar="N|LEFT,RIGHT|same|causal|...")
    layer.add_argument("--padding-mode", choices=("zeros", "reflect", "replicate", "circular"))
    layer.add_argument("--activation", metavar="NAME", help="relu, silu, tanh, ...")


def _chunk(text: str) -> tuple[float, bool]:
    number, seconds = (text[:-1], True) if text.endswith("s") else (text, False)
    try:
        value = float(number) if seconds else int(number)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(
            f"expected seconds as 30s, or a number of positions, got {text[:40]!r}"
        )
    return value, seconds


def _padding(text: str) -> Any:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        return text
    return numbers[0] if len(numbers) == 1 else numbers


def _pairs(inputs: Sequence[str], output: str) -> list[tuple[Path, Path]]:
    """Return each input file with its output."""
    paths: list[Path] = []
    for name in inputs:
        path = Path(name)
        if path.is_dir() and path.suffix.lower() != ".zarr":
            known = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES]
            found = sorted(p for p in known if not p.name.startswith("."))
            if not found:
                raise RunError(f"{name}: no {', '.join(SUFFIXES)} in it")
            paths += found
        else:
            paths.append(path)
    target = Path(output)
    is_file = target.suffix.lower() in SUFFIXES and (
        target.suffix.lower() == ".zarr" or not target.is_dir()
    )
    if is_file and (len(paths) > 1 or Path(inputs[0]) != paths[0]):
        raise RunError(f"-o should be a folder for several inputs, got {output}")
    pairs = [(path, target if is_file else target / path.name) for path in paths]
    seen: dict[Path, Path] = {}
    for path, result in pairs:
        if result in seen:
            raise RunError(f"two inputs would have the output {result}: {seen[result]} and {path}")
        seen[result] = path
        if result.resolve() == path.resolve():
            raise RunError(f"an output should not be its own input, got {path}")
    return pairs


class _NoBar:
    """Where tqdm is not installed."""

    def reset(self, total: int) -> None: ...
    def update(self, done: int) -> None: ...
    def set_description(self, text: str) -> None: ...


@contextlib.contextmanager
def _progress() -> Iterator[Any]:
    try:
        from tqdm import tqdm
    except ImportError:
        yield _NoBar()
        return
    with tqdm(total=1, unit=" positions", unit_scale=True, disable=None, leave=False) as bar:
        yield bar


@contextlib.contextmanager
def _workers(address: str | None) -> Iterator[Work]:
    if address is None:
        yield _here
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise RunError(f"--scheduler needs distributed: {error}") from error
    with Client(address, set_as_default=False) as client:
        yield lambda pipeline, tasks: _on_workers(client, pipeline, tasks)


def run_files(args: argparse.Namespace) -> int:
    """Run the command and return its exit status: 1 if a file failed, 2 if nothing could be run."""
    if args.threads is not None:
        config.set_num_threads(args.threads)
    try:
        pairs = _pairs(args.input, args.output)
        model = _model(args)
    except RunError as error:
        print(f"fastconv1d run: {error}", file=sys.stderr)
        return 2
    except (ValueError, TypeError, OSError) as error:
        print(f"{args.model}: {error}", file=sys.stderr)
        return 2
    if model.operations is None:
        print(f"{args.model}: has nodes that may need all positions: files are computed whole",
              file=sys.stderr)  # fmt: skip
    failed = 0
    try:
        with _workers(args.scheduler) as work, _progress() as bar:
            runner = _Runner(model, args, work, bar)
            for path, target in pairs:
                if target.exists() and not args.overwrite:
                    print(f"{target}: exists, not computed again (--overwrite does)")
                    continue
                bar.set_description(path.name)
                try:
                    runner.run(path, target)
                except Exception as error:  # whatever a damaged file makes its parser raise
                    failed += 1
                    reason = " ".join(str(error).split()) or type(error).__name__
                    print(f"{path}: {reason}", file=sys.stderr)
                else:
                    print(f"{target}: done")
    except (RunError, OSError) as error:  # of the cluster
        print(error, file=sys.stderr)
        return 2
    return 1 if failed else 0
