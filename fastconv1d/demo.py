"""``python -m fastconv1d demo``: example layers and a WaveNet-style stack on a real signal.

Every layer is checked against :mod:`fastconv1d.reference`.  The error printed is
``max |y - y64| / (u * S)`` with u the unit roundoff and ``S = sum |w||x| + |b|``, the smallest
scale a floating-point sum can promise anything about; 8 is the most that passes.
"""

import os
import sys
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TypeAlias

import numpy as np

from . import reference
from .bench.measure import load_meter
from .bench.timing import LoadMeter
from .core.files import what_special
from .modules import Conv1d, ConvTranspose1d

ERROR_LIMIT = 8.0
MAX_SAMPLES = 1_000_000  # the stack keeps 16 channels: 64 MB an activation at this length
CHECKED_SAMPLES = 65_536  # the stack is causal, so a prefix can be checked by itself
STACK_CHANNELS = 16
DILATIONS = (1, 2, 4, 8, 16, 32, 64, 128)


PathLike: TypeAlias = str | os.PathLike[str]
Layer: TypeAlias = Conv1d | ConvTranspose1d


class SignalError(Exception):
    """A file that holds no usable signal; the text is the reason."""


def _read_wav(path: PathLike) -> tuple[int | None, np.ndarray]:
    import warnings

    from scipy.io import wavfile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # unknown chunks are harmless
        rate, samples = wavfile.read(path)
    if rate <= 0:
        raise SignalError(f"expected a positive number of samples a second, got {rate}")
    if samples.dtype.kind == "u":
        half = 1 << (8 * samples.dtype.itemsize - 1)
        return rate, samples.astype(np.float64) / half - 1.0
    if samples.dtype.kind == "i":
        return rate, samples / float(1 << (8 * samples.dtype.itemsize - 1))
    return rate, samples


def _read_npy(path: PathLike) -> tuple[int | None, np.ndarray]:
    samples = np.load(path, allow_pickle=False)
    if not isinstance(samples, np.ndarray):
        samples.close()
        raise SignalError("expected one array, got an archive")
    if samples.dtype.kind not in "iuf":
        raise SignalError(f"expected real numbers, got dtype {samples.dtype}")
    return None, samples


def read_signal(path: PathLike) -> tuple[int | None, np.ndarray]:
    """Read a .wav or .npy file as one channel of float32 samples.

    Parameters
    ----------
    path : str or os.PathLike
        A .wav file of 8, 16, 24 or 32-bit integers or of floats (scaled to [-1, 1]), or a .npy
        file of real numbers.  Two-dimensional data are mixed down along the shorter axis.

    Returns
    -------
    rate : int or None
        Samples a second; None for .npy.
    signal : ndarray of shape (L,)

    Raises
    ------
    SignalError
        When the file cannot be read, or holds no samples, or one that is not finite.
    """
    readers = {".wav": _read_wav, ".npy": _read_npy}
    reader = readers.get(Path(path).suffix.lower())
    if reader is None:
        raise SignalError("expected a .wav or .npy file")
    try:
        special = what_special(path)
        if special:
            raise SignalError(f"is {special}: expected a regular file")
        rate, samples = reader(path)
    except SignalError:
        raise
    except OSError as error:
        raise SignalError(error.strerror or str(error)) from error
    except Exception as error:  # a damaged file fails in many ways inside the parsers
        reason = " ".join(str(error).split())
        raise SignalError(f"not a readable {reader.__name__[6:]} file: {reason}") from error
    if samples.ndim not in (1, 2):
        raise SignalError(f"expected 1 or 2 dimensions, got {samples.ndim}")
    if samples.size == 0:
        raise SignalError("holds no samples")
    if samples.ndim == 2:
        samples = samples.mean(axis=int(np.argmin(samples.shape)))
    with np.errstate(over="ignore"):
        signal = np.ascontiguousarray(samples, dtype=np.float32)
    if not np.isfinite(signal).all():
        raise SignalError("holds samples that are not finite in float32")
    return rate, signal


def _shipped_signal() -> tuple[int | None, np.ndarray]:
    with resources.as_file(resources.files(__package__) / "data" / "signal.wav") as path:
        return read_signal(path)


def _median_ms(meter: LoadMeter, call: Callable[[], object], rounds: int = 5) -> float:
    return float(np.median([_milliseconds(meter, call) for _ in range(rounds)]))


def _milliseconds(meter: LoadMeter, call: Callable[[], object]) -> float:
    meter.wait()
    start = time.perf_counter()
    call()
    spent = time.perf_counter() - start
    meter.is_quiet()  # noted: other work may have come meanwhile
    return 1e3 * spent


def _reference(
    layer: Layer, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None
) -> np.ndarray:
    if isinstance(layer, ConvTranspose1d):
        return reference.conv_transpose1d(
            x,
            weight,
            bias,
            layer.stride,
            layer.padding,
            layer.output_padding,
            layer.groups,
            layer.dilation,
        )
    return reference.conv1d(
        x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups
    )


def layer_error(layer: Layer, x: np.ndarray, y: np.ndarray) -> float:
    """Return ``max |y - y64| / (u * S)`` of a layer's output, with y64 from the reference."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    weight = np.asarray(layer.weight, dtype=np.float64)
    bias = None if layer.bias is None else np.asarray(layer.bias, dtype=np.float64)
    exact = _reference(layer, x, weight, bias)
    scale = _reference(layer, abs(x), abs(weight), None if bias is None else abs(bias))
    unit = np.finfo(np.float32).eps / 2
    bound = np.maximum(unit * scale, np.finfo(np.float32).tiny)
    return float(np.max(abs(y - exact) / bound, initial=0.0))


def _report(name: str, x: np.ndarray, y: np.ndarray, error: float, milliseconds: float) -> bool:
    shapes = f"{tuple(x.shape)} -> {tuple(y.shape)}"
    verdict = "ok" if error <= ERROR_LIMIT else "WRONG"
    print(f"{name:<38} {shapes:<32} {milliseconds:9.3f} ms {error:7.2f}  {verdict}")
    return error <= ERROR_LIMIT


def _run_layer(meter: LoadMeter, name: str, layer: Layer, x: np.ndarray) -> tuple[np.ndarray, bool]:
    y = layer(x)
    milliseconds = _median_ms(meter, lambda: layer(x))
    return y, _report(name, x, y, layer_error(layer, x, y), milliseconds)


def _run_examples(rng: np.random.Generator, meter: LoadMeter) -> bool:
    layer = Conv1d(16, 33, 3, stride=2, rng=rng)
    x = rng.standard_normal((20, 16, 50), dtype=np.float32)
    good = [_run_layer(meter, "Conv1d(16, 33, 3, stride=2)", layer, x)[1]]

    layer = Conv1d(256, 100, 2, rng=rng)
    text = rng.standard_normal((32, 35, 256), dtype=np.float32).transpose(0, 2, 1)
    good.append(_run_layer(meter, "Conv1d(256, 100, 2), permuted input", layer, text)[1])

    encoder = Conv1d(16, 16, 3, stride=2, padding=1, rng=rng)
    decoder = ConvTranspose1d(16, 16, 3, stride=2, padding=1, output_padding=1, rng=rng)
    x = rng.standard_normal((20, 16, 12), dtype=np.float32)
    code, ok = _run_layer(meter, "encoder: Conv1d, stride=2", encoder, x)
    good.append(ok)
    decoded, ok = _run_layer(meter, "decoder: ConvTranspose1d, stride=2", decoder, code)
    good.append(ok and decoded.shape == x.shape)
    return all(good)


def _run_checked_prefix(
    meter: LoadMeter, name: str, layer: Layer, x: np.ndarray
) -> tuple[np.ndarray, float, bool]:
    """Run a causal layer on all of x, check the first CHECKED_SAMPLES of it."""
    outputs = []
    milliseconds = _milliseconds(meter, lambda: outputs.append(layer(x)))
    (y,) = outputs
    error = layer_error(layer, x[..., :CHECKED_SAMPLES], y[..., :CHECKED_SAMPLES])
    return y, milliseconds, _report(name, x, y, error, milliseconds)


def _run_stack(
    signal: np.ndarray, rng: np.random.Generator, meter: LoadMeter
) -> tuple[float, bool]:
    """Run dilated causal layers with gated activations and residuals over the signal."""
    n = STACK_CHANNELS
    x, total, good = signal[None, :], 0.0, True
    layers = [("stack in: Conv1d(1, 16, 1)", Conv1d(1, n, 1, rng=rng))]
    for dilation in DILATIONS:
        layer = Conv1d(n, 2 * n, 2, padding=(dilation, 0), dilation=dilation, rng=rng)
        layers.append((f"stack: Conv1d(16, 32, 2), dilation {dilation}", layer))
    layers.append(("stack out: Conv1d(16, 1, 1)", Conv1d(n, 1, 1, rng=rng)))
    for name, layer in layers:
        y, milliseconds, ok = _run_checked_prefix(meter, name, layer, x)
        total, good = total + milliseconds, good and ok
        if layer.out_channels == 2 * n:
            gate = 0.5 + 0.5 * np.tanh(0.5 * y[n:])
            y = x + np.tanh(y[:n]) * gate
        x = y
    return total, good


def run_demo(path: str | None = None) -> int:
    """Run the demo on a file, or on the shipped signal.

    Parameters
    ----------
    path : str, optional
        A .wav or .npy file.

    Returns
    -------
    int
        The exit status: 0 when every check passed, 1 when one failed, 2 for a bad file (whose
        one-line reason goes to stderr).
    """
    try:
        rate, signal = _shipped_signal() if path is None else read_signal(path)
    except SignalError as error:
        print(f"fastconv1d demo: {path}: {error}", file=sys.stderr)
        return 2
    seconds = "" if rate is None else f", {signal.size / rate:.2f} s at {rate} Hz"
    print(f"signal: {path or 'the shipped one'}, {signal.size} samples{seconds}")
    if signal.size > MAX_SAMPLES:
        print(f"        only its first {MAX_SAMPLES} samples are used")
        signal = signal[:MAX_SAMPLES]
    print(f"{'layer':<38} {'shapes':<32} {'median':>12} {'error':>7}  (at most {ERROR_LIMIT:g})")
    rng, meter = np.random.default_rng(0), load_meter()
    good = _run_examples(rng, meter)
    total, stack_good = _run_stack(signal, rng, meter)
    speed = signal.size / max(total, 1e-9) / 1e3
    print(f"stack: {total:.1f} ms in its layers, {speed:.2f} million samples a second")
    warning = meter.warning()
    if warning:
        print(warning)
    print("every layer agrees with the reference" if good and stack_good else "A LAYER IS WRONG")
    return 0 if good and stack_good else 1
