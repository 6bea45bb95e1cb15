"""The command ``python -m fastconv1d check``: does a model run here, and is it right?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .model import OnnxModel, from_onnx
from .read import Type
from .registry import OnnxError

# Of the largest output: what float32 sums in another order differ by, and what rounding to 16 bits
# or to integers makes of that.
_TOLERANCES = {"float64": 1e-10, "float32": 1e-4}
_ROUNDED_TOLERANCE = 5e-3
# Outputs below this count as this: ONNX Runtime's own sigmoid of -14 is off by 3e-8.
_LEAST_SCALE = 1e-3
# Sizes of dimensions that a model leaves open.
_OPEN_BATCH, _OPEN_SIZE = 1, 64

RIGHT, WRONG, USAGE = 0, 1, 2


def run_check(path: str, inputs: Sequence[str], shapes: Sequence[str], rest: str | None) -> int:
    """Print what keeps a model from running here, or its largest error against ONNX Runtime.

    Parameters
    ----------
    path : str
        The model's file.
    inputs : sequence of str
        Of the form 'NAME=FILE.npy'.
    shapes : sequence of str
        Of the form 'NAME=1,80,400'; other sizes that the model leaves open are 1 and 64.
    rest : 'onnxruntime' or None
        As `from_onnx` takes it.

    Returns
    -------
    int
        The exit status: 0 if all is right, 1 if the model is refused or wrong, 2 for bad usage.
    """
    try:
        model = from_onnx(path, rest=rest)
    except OnnxError as error:
        print(f"{path} is refused:\n{error}")
        return WRONG
    except OSError as error:
        print(f"cannot read {path}: {error}", file=sys.stderr)
        return USAGE
    try:
        values = input_values(model, inputs, shapes)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return USAGE
    for name, value in values.items():
        print(f"input {name}: {value.dtype} {list(value.shape)}")
    try:
        found = model.compute(values, model.outputs)
    except (ValueError, TypeError, OverflowError) as error:
        print(f"it does not take these inputs: {error}")
        return WRONG
    return _compared(path, model, values, found)


def input_values(
    model: OnnxModel, inputs: Sequence[str], shapes: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """Return a value for each input: of a file, or random ones of a size.

    Parameters
    ----------
    model : OnnxModel
    inputs : sequence of str
        Of the form 'NAME=FILE.npy'.
    shapes : sequence of str
        Of the form 'NAME=1,80,400'.

    Returns
    -------
    dict of str to ndarray

    Raises
    ------
    ValueError
        If a text has another form, or names no input.
    OSError
        If a file cannot be read.
    """
    files = dict(_pair(text, "--input", "FILE.npy") for text in inputs)
    sizes = {
        name: [int(size) for size in text.split(",") if size]
        for name, text in (_pair(text, "--shape", "1,80,400") for text in shapes)
    }
    unknown = [name for name in (*files, *sizes) if name not in model.inputs]
    if unknown:
        raise ValueError(f"the model has the inputs {model.inputs}, got {unknown}")
    rng = np.random.default_rng(0)
    return {
        name: np.load(files[name], allow_pickle=False)
        if name in files
        else _random(rng, model._types[name], sizes.get(name))
        for name in model.inputs
    }


def input_types(model: OnnxModel) -> dict[str, Type]:
    """Return what the file says of each input."""
    return {name: model._types[name] for name in model.inputs}


def _pair(text: str, option: str, value: str) -> tuple[str, str]:
    name, found, rest = text.rpartition("=")
    if not found or not name or not (rest or option == "--shape"):  # a scalar has no sizes
        raise ValueError(f"{option} should be NAME={value}, got {text}")
    return name, rest


def _random(rng: np.random.Generator, kind: Type, shape: list[int] | None) -> NDArray[Any]:
    if shape is None:
        open_sizes = [_OPEN_BATCH] + [_OPEN_SIZE] * len(kind.shape or ())
        given = zip(kind.shape or (), open_sizes, strict=False)
        shape = [size if isinstance(size, int) else other for size, other in given]
    dtype = np.dtype(np.float32) if kind.dtype is None else kind.dtype
    if dtype.kind in "iub":
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def _compared(
    path: str, model: OnnxModel, values: dict[str, NDArray[Any]], found: list[NDArray[Any]]
) -> int:
    try:
        import onnxruntime
    except ImportError:
        print(f"it runs here ({len(model._steps)} steps); install onnxruntime to compare values")
        return RIGHT
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        wanted = session.run(None, values)
    except Exception as error:
        print(f"it runs here ({len(model._steps)} steps); ONNX Runtime does not: {error}")
        return RIGHT
    status = RIGHT
    for name, ours, theirs in zip(model.outputs, found, wanted, strict=True):
        if np.shape(ours) != np.shape(theirs) or np.asarray(ours).dtype != np.asarray(theirs).dtype:
            sizes = f"size {list(np.shape(ours))}, ONNX Runtime's {list(np.shape(theirs))}"
            print(f"output {name}: WRONG, {sizes}")
            status = WRONG
            continue
        off = largest_error(ours, theirs)
        right = off <= tolerance(ours.dtype)
        verdict = "right" if right else "WRONG"
        print(f"output {name}: {verdict}, largest error {off:.1e} of the largest value")
        status = status if right else WRONG
    return status


def tolerance(dtype: np.dtype[Any], quantized: bool = False) -> float:
    """Return what an output may differ by, of its largest value."""
    return _ROUNDED_TOLERANCE if quantized else _TOLERANCES.get(dtype.name, _ROUNDED_TOLERANCE)


def largest_error(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """Return the largest difference by the largest value; infinity where only one is finite."""
    if ours.size == 0 or ours.dtype.kind in "OSU":
        return 0.0 if (ours == theirs).all() else np.inf
    a, b = (v.astype(np.complex128 if v.dtype.kind == "c" else np.float64) for v in (ours, theirs))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    with np.errstate(all="ignore"):
        difference = np.abs(np.where(same, 0, a - b)).max()
        error = float(difference / max(np.abs(b[np.isfinite(b)]).max(initial=0), _LEAST_SCALE))
    return error if np.isfinite(error) else np.inf
