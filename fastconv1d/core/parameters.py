"""The arrays of a layer: checked, drawn, copied, and exchanged in one piece."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import arrays, geometry

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray


def as_size(name: str, value: Any) -> int:
    """Return a size of a parameter, or raise what torch's allocation would.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d.core.parameters import as_size
    >>> as_size("out_channels", np.int64(4))
    4
    """
    size = geometry.as_index(name, value)
    if size < 0:
        raise ValueError(
            f"Trying to create tensor with negative dimension {size}: {name} should not be "
            f"negative, got {name}={size}"
        )
    return size


def check_device(device: str | None) -> None:
    """Raise unless the device is the CPU."""
    if device is None or device == "cpu":
        return
    if not isinstance(device, str):
        raise TypeError(f"device should be None or 'cpu', got {geometry.shown(device)}")
    raise ValueError(
        f"Expected one of cpu device type, got device={geometry.shown(device)}: layers compute "
        "NumPy arrays on the CPU, leave device= out"
    )


def parameter_dtype(dtype: DTypeLike | None, *, real: bool = False) -> np.dtype[Any]:
    """Return the dtype of parameters, float32 by default.

    Examples
    --------
    >>> from fastconv1d.core.parameters import parameter_dtype
    >>> parameter_dtype(None)
    dtype('float32')
    """
    rule = "the dtype should be float32 or float64, got "
    if not real:
        rule = (
            "Only Tensors of floating point and complex dtype can require gradients: the dtype "
            "should be float32, float64, complex64 or complex128, got "
        )
    try:
        checked = np.dtype(np.float32 if dtype is None else dtype).newbyteorder("=")
    except TypeError:
        hint = f": np.{str(dtype).removeprefix('torch.')} of a torch dtype"
        hint = hint if str(dtype).startswith("torch.") else ""
        raise TypeError(f"{rule}{geometry.shown(dtype)}{hint}") from None
    if checked.char not in ("fd" if real else "fdFD"):
        half = "; layers of float32 take 16-bit inputs and return the same dtype"
        raise TypeError(f"{rule}{checked}{half if arrays.half_of(checked) else ''}")
    return checked


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Return a read-only copy."""
    copy = np.array(array, order="C")
    copy.flags.writeable = False
    return copy


def generator(rng: np.random.Generator | None) -> np.random.Generator:
    """Return the generator, or a new one.

    Examples
    --------
    >>> from fastconv1d.core.parameters import generator
    >>> type(generator(None)).__name__
    'Generator'
    """
    if rng is None:
        return np.random.default_rng()
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            "rng should be a numpy.random.Generator, "
            f"got {geometry.shown(rng)} of type {type(rng).__name__}"
        )
    return rng


def uniform(rng: np.random.Generator, bound: float, like: NDArray[Any]) -> NDArray[Any]:
    """Return an array like another, drawn from U(-bound, bound)."""
    new = np.empty_like(like)
    parts = (new.real, new.imag) if new.dtype.kind == "c" else (new,)
    for part in parts:
        part[...] = 2 * bound * rng.random(part.shape, dtype=part.dtype.type) - bound
    return new


def checked_parameter(name: str, value: ArrayLike, current: NDArray[Any]) -> NDArray[Any]:
    """Return a copy of new values for an array, of its shape and dtype."""
    new = np.asarray(value)
    if arrays.half_of(new.dtype):  # exact in every dtype of a layer
        new = new.astype(current.dtype)
    if new.dtype.newbyteorder("=") != current.dtype:
        raise TypeError(f"{name} should have the dtype {current.dtype}, got {new.dtype}")
    if new.shape != current.shape:
        raise ValueError(
            f"{name} should have the shape {list(current.shape)}, got {list(new.shape)}"
        )
    return new.astype(current.dtype)
