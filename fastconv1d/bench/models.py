"""``bench MODEL``: a whole model against other libraries, then its convolutions one by one.

The outputs are compared before anything is timed.  The libraries take turns, and rounds beside
other work on the core do not count.
"""

import argparse
import json
import logging
import math
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..core.extras import how_to_install
from . import contestants, verdict
from .contestants import Fastconv1d, Feeds, OnnxRuntime, OpenVino, Torch
from .cuts import Cut, cut_out
from .environment import describe_machine
from .measure import PAUSE_SECONDS, load_meter
from .timing import BUDGET_SECONDS, LoadMeter, Spread, interleave

MODEL_SECONDS = 1.0  # what a library may take for the whole model, longer calls excepted
QUICK_SECONDS = 0.02
# Sizes of dimensions that a model leaves open: a batch of one; a second of audio where an item is
# one signal; four seconds of frames where it has channels; the tokens of a sentence. Not every
# model takes that much: the shorter ones are tried before giving up.
BATCH = 1
SAMPLES, FRAMES, TOKENS = (16_000, 4096, 512), (400, 128, 32), (128, 32, 8)
PROGRAMS = (".pt2",)
RIGHT, WRONG, USAGE = 0, 1, 2
OURS, WITH_REST = "fastconv1d", "fastconv1d+rest"


class ModelError(Exception):
    """What keeps a model from being measured; the text says how to mend it."""


@dataclass(frozen=True)
class Subject:
    """A model as a file of ONNX, torch's program of it if there is one, and inputs by name."""

    path: str
    feeds: Feeds
    program: Callable[..., Any] | None
    notes: Sequence[str]


def measure(args: argparse.Namespace, peers: Sequence[str]) -> tuple[int, dict[str, Any]]:
    """Measure and print a model; returns the exit status and every figure.

    Raises
    ------
    ModelError
        If the model cannot be read, or takes no input that was tried.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        fields, notes = contestants.build(
            args, [p for p in peers if p in contestants.MODEL_PEERS], stack
        )
        subject = read_subject(args, folder, fields)
        from ..config import config_info

        isa = config_info()["isa"]
        about = describe_machine(args.threads, isa, [each.version for each in fields])
        about += [*notes, *subject.notes]
        about += [f"input    {n}: {v.dtype} {list(v.shape)}" for n, v in subject.feeds.items()]
        print("\n".join(about), end="\n\n", flush=True)
        calls, excluded = _model_calls(subject, fields, args.rest)
        errors, wrong = compared(calls, subject)
        print(verdict.correctness(errors, wrong, excluded), end="\n\n", flush=True)
        measured: dict[str, Any] = {"about": about, "isa": isa, "model": args.model}
        measured["versions"] = {each.name: each.version for each in fields}
        measured["inputs"] = {
            name: {"dtype": str(value.dtype), "shape": list(value.shape)}
            for name, value in subject.feeds.items()
        }
        measured |= {"errors": errors, "wrong": sorted(wrong), "excluded": excluded}
        meter = load_meter()
        right = {name: call for name, (call, _) in calls.items() if name not in wrong}
        measured |= _timed(right, args, meter, MODEL_SECONDS)
        print(verdict.whole(measured), end="\n\n", flush=True)
        cuts, inside = cut_out(subject.path, subject.feeds)
        measured["layers"] = [_layer(cut, fields, args, meter) for cut in cuts]
        measured["inside"] = inside
    measured["busy"] = meter.n_slow / max(meter.n_readings, 1)
    print(verdict.layers(measured))
    warning = meter.warning()
    if warning:
        print(warning)
    return (WRONG if {OURS, WITH_REST} & wrong else RIGHT), measured


# ---- the model and its inputs --------------------------------------------------------------------


def read_subject(
    args: argparse.Namespace, folder: str, fields: Sequence[contestants.Contestant]
) -> Subject:
    """Read the files of the command line and choose the inputs."""
    from ..onnx import OnnxError, from_onnx

    files = {suffix: path for path in args.model for suffix in [Path(path).suffix]}
    program, examples, notes = None, None, []
    given = next((path for suffix, path in files.items() if suffix in PROGRAMS), None)
    if given is not None:
        if not any(isinstance(each, Torch) for each in fields):
            raise ModelError(f"{given} needs torch: {how_to_install('torch')}")
        exported = _load_program(given)
        program, examples = exported.module(), _examples(exported)
    path = next((path for suffix, path in files.items() if suffix not in PROGRAMS), None)
    if path is None:
        path = str(Path(folder) / "model.onnx")
        _export(exported, path)
        notes.append(f"model    {given} as torch.onnx.export(program, dynamo=True) writes it")
    try:
        model = from_onnx(path, rest=args.rest)
    except OnnxError as error:
        hint = "" if args.rest else "\n--rest leaves what is not supported to ONNX Runtime"
        raise ModelError(f"{path} is refused:\n{error}{hint}") from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    feeds, chosen = _feeds(model, args, examples)
    return Subject(path, feeds, program, [*notes, *chosen])


def _load_program(path: str) -> Any:
    import torch

    try:
        return torch.export.load(path)
    except Exception as error:
        raise ModelError(
            f"{path} is no program of torch ({' '.join(str(error).split())[:200]}): write it by "
            "torch.export.save(torch.export.export(model.eval(), (x,)), 'MODEL.pt2')"
        ) from error


def _examples(program: Any) -> list[np.ndarray] | None:
    """Return the inputs that a program was exported with, in its order."""
    import torch

    if program.example_inputs is None:
        return None
    leaves = torch.utils._pytree.tree_leaves(program.example_inputs)
    return [leaf.numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _export(program: Any, path: str) -> None:
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own code
            torch.onnx.export(program, (), path, dynamo=True, verbose=False)
    except Exception as error:
        raise ModelError(
            f"torch.onnx.export refuses the program: {' '.join(str(error).split())[:300]} "
            "(it needs onnxscript; or give MODEL.onnx beside MODEL.pt2)"
        ) from error


def _feeds(
    model: Any, args: argparse.Namespace, examples: Sequence[np.ndarray] | None
) -> tuple[Feeds, list[str]]:
    """Return the inputs, and lines that say what was chosen for dimensions that are open."""
    from ..onnx.check import input_types, input_values

    if examples is not None and len(examples) == len(model.inputs):
        if not args.input and not args.shape:
            return dict(zip(model.inputs, examples, strict=True)), []
    said = {text.rpartition("=")[0] for text in (*args.input, *args.shape)}
    for choice in range(len(SAMPLES)):
        sizes = open_sizes(input_types(model), said, choice)
        shapes = [f"{name}={','.join(map(str, shape))}" for name, shape in sizes.items()]
        try:
            feeds = input_values(model, args.input, [*args.shape, *shapes])
        except (ValueError, OSError) as error:
            raise ModelError(str(error)) from error
        try:
            model.compute(feeds, model.outputs)
        except (ValueError, TypeError, OverflowError) as error:
            problem = error
        else:
            chosen = f"sizes    chosen here: {' '.join(f'--shape {text}' for text in shapes)}"
            return feeds, [chosen] if shapes else []
        if not sizes:
            break
    raise ModelError(
        f"the model does not take inputs of {[list(v.shape) for v in feeds.values()]}: {problem}\n"
        f"give them by --shape {model.inputs[0]}=1,80,400 or --input {model.inputs[0]}=FILE.npy"
    )


def open_sizes(types: Mapping[str, Any], said: set[str], choice: int) -> dict[str, list[int]]:
    """Return sizes of the inputs with open dimensions; equal names have one size."""
    named: dict[str, int] = {}
    sizes = {}
    for name, kind in types.items():
        shape = kind.shape or ()
        if name in said or all(isinstance(size, int) for size in shape):
            continue
        for axis, size in enumerate(shape):
            if isinstance(size, str):
                named.setdefault(size, _open_size(kind, axis, choice))
        sizes[name] = [
            size if isinstance(size, int)
            else named[size] if isinstance(size, str)
            else _open_size(kind, axis, choice)
            for axis, size in enumerate(shape)
        ]  # fmt: skip
    return sizes


def _open_size(kind: Any, axis: int, choice: int) -> int:
    shape = kind.shape
    before = shape[:axis]
    # the batch is the first one that is open, and the second of a recurrent state, (2, N, 128)
    first = len(shape) > 1 and all(isinstance(size, int) and size > 1 for size in before)
    if first or "batch" in str(shape[axis]).lower():
        return BATCH
    if kind.dtype is not None and kind.dtype.kind in "iub":
        return TOKENS[choice]
    channels = math.prod(size for size in shape[1:] if isinstance(size, int))
    return (SAMPLES if channels <= 2 else FRAMES)[choice]


# ---- who runs it, and who is right ---------------------------------------------------------------


# a call, and what turns its result into arrays
Prepared = tuple[Callable[[], Any], Callable[[Any], tuple[np.ndarray, ...]]]


def _model_calls(
    subject: Subject, fields: Sequence[contestants.Contestant], rest: str | None
) -> tuple[dict[str, Prepared], dict[str, str]]:
    calls: dict[str, Prepared] = {}
    excluded: dict[str, str] = {}
    for library in fields:
        makers: dict[str, Callable[[], Any]] = {}
        if isinstance(library, Torch):
            if subject.program is None:
                continue
            makers["torch"] = partial(library.run_program, subject.program, subject.feeds)
        elif isinstance(library, (Fastconv1d, OnnxRuntime, OpenVino)):
            makers[library.name] = partial(library.run_model, subject.path, subject.feeds)
        if isinstance(library, Fastconv1d) and rest:
            makers[WITH_REST] = partial(library.run_model, subject.path, subject.feeds, rest)
        for name, make in makers.items():
            try:
                call = make()
                call()
            except Exception as error:  # whatever a library does, the others are still timed
                excluded[name] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            else:
                calls[name] = (call, library.arrays)
    return calls, excluded


def compared(
    calls: Mapping[str, Prepared], subject: Subject
) -> tuple[dict[str, list[float | None]], set[str]]:
    """Compare outputs with ONNX Runtime's, or with torch's or OpenVINO's where it has none.

    Returns
    -------
    errors : dict of str to list of float or None
        Of each library the largest difference of each output, by its largest value; None where
        the output has another size, or is not finite where the other is.
    wrong : set of str
        Libraries with an output of another size or dtype, or too far off.
    """
    from ..onnx.check import largest_error, tolerance

    judges = ("onnxruntime", "torch", "openvino")
    judge = next((name for name in judges if name in calls), None)
    if judge is None:
        return {}, set()
    truth = _outputs(calls[judge])
    quantized = _is_quantized(subject.path)
    errors: dict[str, list[float | None]] = {}
    wrong = set()
    for name in calls:
        if name == judge:
            continue
        found = _outputs(calls[name])
        if len(found) != len(truth):
            wrong.add(name)
            continue
        errors[name] = []
        for ours, theirs in zip(found, truth, strict=True):
            off = largest_error(ours, theirs) if ours.shape == theirs.shape else math.inf
            errors[name].append(off if math.isfinite(off) else None)
            if not off <= tolerance(theirs.dtype, quantized):
                wrong.add(name)
    return errors, wrong


def _outputs(prepared: Prepared) -> tuple[np.ndarray, ...]:
    call, arrays = prepared
    return tuple(np.asarray(each) for each in arrays(call()))


def _is_quantized(path: str) -> bool:
    import onnx

    nodes = onnx.load(path, load_external_data=False).graph.node
    return any("Quantize" in node.op_type or "Integer" in node.op_type for node in nodes)


# ---- times ---------------------------------------------------------------------------------------


def _timed(
    calls: Mapping[str, Callable[[], Any]],
    args: argparse.Namespace,
    meter: LoadMeter,
    budget: float,
) -> dict[str, Any]:
    seconds: dict[str, Spread] = {}
    if calls:
        pause = PAUSE_SECONDS if args.threads > 1 else 0.0
        share = QUICK_SECONDS if args.quick else budget
        seconds, _ = interleave(calls, share, pause=pause, meter=meter)
    return {
        "seconds": {name: each.median for name, each in seconds.items()},
        "quartiles": {name: [each.low, each.high] for name, each in seconds.items()},
        "rounds": {name: each.count for name, each in seconds.items()},
    }


def _layer(
    cut: Cut, fields: Sequence[contestants.Contestant], args: argparse.Namespace, meter: LoadMeter
) -> dict[str, Any]:
    """Time one convolution of the model by itself."""
    calls: dict[str, Callable[[], Any]] = {}
    excluded = {}
    for library in fields:
        try:
            if isinstance(library, Torch):
                call = library.run_program(cut.torch_function(), cut.feeds)
            elif isinstance(library, (Fastconv1d, OnnxRuntime, OpenVino)):
                call = library.run_model(cut.model, cut.feeds)
            else:
                continue
            call()
        except Exception as error:
            excluded[library.name] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        else:
            calls[library.name] = call
    row = {"layer": cut.name, "nodes": cut.nodes, "count": len(cut.nodes), "flops": cut.flops}
    return {**row, **_timed(calls, args, meter, BUDGET_SECONDS), "excluded": excluded}


def run(args: argparse.Namespace, peers: Sequence[str]) -> int:
    """Run the command and write its figures; returns the exit status."""
    try:
        status, measured = measure(args, peers)
    except ModelError as error:
        print(f"fastconv1d bench: {error}", file=sys.stderr)
        return USAGE
    if args.json:
        Path(args.json).write_text(json.dumps(measured, indent=1), encoding="utf-8")
    return status
