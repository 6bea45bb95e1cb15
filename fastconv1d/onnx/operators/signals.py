"""Fourier transforms, windows and mel filters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..registry import Node, operator
from .attributes import flag, integer
from .sizes import allowed, axis_of, scalar_of, whole_of
from .types import Array, check_float, computed_wide, element_dtype

_Run = Callable[..., Any]


def _parts(x: Array) -> Array:
    """Return complex numbers as reals with a last axis of two."""
    x = np.ascontiguousarray(x)
    return x.view(x.real.dtype).reshape(*x.shape, 2)


def _complex(x: Array) -> Array:
    """Return the real or complex numbers that a last axis of one or two holds."""
    if x.ndim < 2 or x.shape[-1] not in (1, 2):
        raise ValueError(f"the last size should be 1 or 2, got shape {list(x.shape)}")
    if x.shape[-1] == 1:
        return x[..., 0]
    dtype = np.result_type(x.dtype, np.complex64)
    return np.ascontiguousarray(x).view(dtype)[..., 0]


def _transformed(x: Array, length: Any, axis: int, inverse: bool, one_sided: bool) -> Array:
    from scipy import fft

    if length is not None and length < 1:
        raise ValueError(f"dft_length should be at least 1, got {length}")
    values = _complex(x)
    if inverse and one_sided:
        size = 2 * (values.shape[axis] - 1) if length is None else length
        allowed((*values.shape[:axis], size, *values.shape[axis + 1 :]), values.dtype)
        return np.asarray(fft.irfft(values, size, axis))[..., None]
    size = values.shape[axis] if length is None else length
    allowed((*values.shape[:axis], size, *values.shape[axis + 1 :]), values.dtype)
    if inverse:
        return _parts(fft.ifft(values, size, axis))
    if one_sided and values.dtype.kind != "c":
        return _parts(fft.rfft(values, size, axis))
    spectrum = fft.fft(values, size, axis)
    if one_sided:
        spectrum = spectrum.take(np.arange(size // 2 + 1), axis)
    return _parts(spectrum)


def _signal_axis(axis: int, ndim: int) -> int:
    """Return the axis, which should not be the last one, of the real and the imaginary part."""
    found = axis_of(axis, ndim)
    if found == ndim - 1:
        raise ValueError(f"axis should not be the last one, got {axis}")
    return found


@operator("DFT", since=17, until=19)
def _dft_of_axis(node: Node) -> _Run:
    axis = integer(node, "axis", 1)
    inverse, one_sided = flag(node, "inverse"), flag(node, "onesided")

    def run(x: Array, length: Array | None = None) -> Array:
        check_float(x)
        size = None if length is None else whole_of(length, "dft_length")
        return _transformed(x, size, _signal_axis(axis, x.ndim), inverse, one_sided)

    return computed_wide(run)


@operator("DFT", since=20)
def _dft(node: Node) -> _Run:
    inverse, one_sided = flag(node, "inverse"), flag(node, "onesided")

    def run(x: Array, length: Array | None = None, axis: Array | None = None) -> Array:
        check_float(x)
        size = None if length is None else whole_of(length, "dft_length")
        where = -2 if axis is None else whole_of(axis, "axis")
        return _transformed(x, size, _signal_axis(where, x.ndim), inverse, one_sided)

    return computed_wide(run)


@operator("STFT", since=17)
def _stft(node: Node) -> _Run:
    one_sided = flag(node, "onesided", True)

    def run(
        x: Array, step: Array, window: Array | None = None, length: Array | None = None
    ) -> Array:
        check_float(x)
        hop = whole_of(step, "frame_step")
        if x.ndim == 2:
            x = x[..., None]
        if x.ndim != 3:
            raise ValueError(f"signal should have shape (N, L, 1 or 2), got {list(x.shape)}")
        if length is not None:
            size = whole_of(length, "frame_length")
        else:
            size = x.shape[1] if window is None else len(window)
        if hop < 1 or not 1 <= size <= x.shape[1]:
            raise ValueError(
                f"frame_step should be at least 1 and frame_length in [1, {x.shape[1]}], "
                f"got {hop} and {size}"
            )
        if window is not None and window.shape != (size,):
            raise ValueError(f"window should have shape [{size}], got {list(window.shape)}")
        values = _complex(x)
        count = (x.shape[1] - size) // hop + 1
        allowed((x.shape[0], count, size), values.dtype)
        frames = np.lib.stride_tricks.sliding_window_view(values, size, axis=1)[:, ::hop]
        return _spectra(frames if window is None else frames * window, one_sided)

    return computed_wide(run)


def _spectra(frames: Array, one_sided: bool) -> Array:
    from scipy import fft

    if frames.dtype.kind == "c":
        if one_sided:
            raise ValueError("onesided=1 should have a real signal")
        return _parts(fft.fft(frames, axis=-1))
    return _parts(fft.rfft(frames, axis=-1) if one_sided else fft.fft(frames, axis=-1))


# ---- windows ----------------------------------------------------------------------------------


_LONGEST_WINDOW = 1 << 24  # six minutes of 48 kHz


def _window(coefficients: tuple[float, ...]) -> Callable[[Node], _Run]:
    """Return the builder of a window that is a sum of cosines."""

    def build(node: Node) -> _Run:
        dtype = element_dtype(node, integer(node, "output_datatype", 1))
        periodic = flag(node, "periodic", True)

        def run(size: Array) -> Array:
            length = whole_of(size, "size")
            if not 0 <= length <= _LONGEST_WINDOW:
                raise ValueError(f"size should be in [0, {_LONGEST_WINDOW}], got {length}")
            period = length if periodic else length - 1
            phase = np.arange(length) * (2 * math.pi / max(period, 1))
            terms = ((-1) ** k * a * np.cos(k * phase) for k, a in enumerate(coefficients))
            return np.asarray(sum(terms)).astype(dtype)

        return run

    return build


operator("HannWindow", since=17)(_window((0.5, 0.5)))
operator("HammingWindow", since=17)(_window((25 / 46, 21 / 46)))
operator("BlackmanWindow", since=17)(_window((0.42, 0.5, 0.08)))


@operator("MelWeightMatrix", since=17)
def _mel_weight_matrix(node: Node) -> _Run:
    dtype = element_dtype(node, integer(node, "output_datatype", 1))

    def run(bins: Array, length: Array, rate: Array, lower: Array, upper: Array) -> Array:
        n_bins, size, sample_rate = (whole_of(v, "each input") for v in (bins, length, rate))
        low, high = (float(scalar_of(v, "each edge")) for v in (lower, upper))
        if min(n_bins, size, sample_rate) < 1 or not -700 < low <= high < math.inf:
            raise ValueError("the numbers should be positive, lower_edge_hertz below the upper")
        rows, columns = allowed([size // 2 + 1, n_bins], np.dtype(np.float64))
        low, high = (2595 * math.log10(1 + edge / 700) for edge in (low, high))
        mels = np.arange(columns + 2) * ((high - low) / (columns + 2)) + low
        edges = (((size + 1) * 700 * (10 ** (mels / 2595) - 1)) // sample_rate).astype(np.int64)
        if edges[-1] > rows:
            raise ValueError(f"upper_edge_hertz should be at most {sample_rate / 2}, got {high}")
        left, center, right = edges[:-2], edges[1:-1], edges[2:]
        bin_of = np.arange(rows)[:, None]
        rising = (bin_of - left) / np.maximum(center - left, 1)
        falling = (right - bin_of) / np.maximum(right - center, 1)
        weights = np.where(bin_of < center, rising, falling)
        weights = np.where((bin_of >= left) & (bin_of < right), weights, 0.0)
        return np.where(bin_of == center, 1.0, weights).astype(dtype)

    return run
