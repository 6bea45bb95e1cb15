"""State dicts in files (safetensors and npz, never pickle), and layers from state dicts."""

from __future__ import annotations

import os
import shutil
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .core import geometry
from .folding import fold_weight_norm

# The dtypes of a safetensors file; BF16 comes apart, F8 and smaller have no NumPy dtype.
_SAFETENSORS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "U64": "<u8",
    "I32": "<i4",
    "U32": "<u4",
    "I16": "<i2",
    "U16": "<u2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
    "C64": "<c8",
}
_SAVED = frozenset(np.dtype(name).name for name in _SAFETENSORS.values())
# An npz may unpack to this many bytes, and this many times its own size (np.savez: once its size).
_UNPACKED_FREE = 1 << 26
_UNPACKED_RATIO = 16
# Spellings of weight norm: magnitude and direction.
_WEIGHT_NORMS = (
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)


class WeightFileError(ValueError):
    """A file that does not hold a state dict: damaged, truncated, hostile or of another kind.

    Examples
    --------
    >>> import os, tempfile
    >>> from fastconv1d import WeightFileError, load_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "weights.npz")
    ...     _ = open(path, "wb").close()
    ...     try:
    ...         load_file(path)
    ...     except WeightFileError as error:
    ...         print("refused")
    refused
    """


def save_file(state_dict: Mapping[str, ArrayLike], path: str | os.PathLike[str]) -> None:
    """Write a state dict to a file.

    Parameters
    ----------
    state_dict : mapping of str to array-like
        Of boolean, integer, floating point or complex64 values; npz takes complex128, too.
    path : str or os.PathLike
        Ends in '.safetensors', for which the package safetensors is needed
        (``pip install 'fastconv1d[safetensors]'``), or in '.npz'.

    Raises
    ------
    ValueError
        If the path ends in something else.
    TypeError
        If a key is not a string, or a dtype has no place in the file.
    ImportError
        If safetensors is not installed and needed.
    OSError
        If the file cannot be written; a file that was there is then as it was.

    Examples
    --------
    >>> import os, tempfile
    >>> import fastconv1d
    >>> path = os.path.join(tempfile.mkdtemp(), "layer.npz")
    >>> fastconv1d.save_file(fastconv1d.Conv1d(4, 6, 3).state_dict(), path)
    >>> sorted(fastconv1d.load_file(path))
    ['bias', 'weight']
    """
    target = Path(path)
    if target.suffix not in (".safetensors", ".npz"):
        raise ValueError(f"path should end in '.safetensors' or '.npz', got {str(target)!r}")
    arrays = {key: _saved(key, value, target.suffix == ".npz") for key, value in state_dict.items()}
    write = _write_npz if target.suffix == ".npz" else _write_safetensors
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        write(arrays, unfinished)
        if target.exists():
            shutil.copymode(target, unfinished)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def load_file(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Read the state dict of a safetensors or npz file.

    Parameters
    ----------
    path : str or os.PathLike
        A file that `save_file`, safetensors or ``np.savez`` wrote; its content says which. A
        safetensors file needs the package (``pip install 'fastconv1d[safetensors]'``).

    Returns
    -------
    dict of str to ndarray
        New, writable arrays. bfloat16 becomes float32, which has all of its values.

    Raises
    ------
    WeightFileError
        A ValueError: if the file is damaged, has dtypes of another kind (objects: pickles are never
        read), or would unpack to more than 64 MiB plus 16 times its size.
    ImportError
        If safetensors is not installed and needed.
    OSError
        If the file cannot be read.
    MemoryError
        If the arrays cannot be allocated.

    Notes
    -----
    Nothing in a file is executed. Memory is at most a few times the size of the file, or the bound
    above for a compressed npz.

    Examples
    --------
    >>> import os, tempfile
    >>> import fastconv1d
    >>> path = os.path.join(tempfile.mkdtemp(), "broken.npz")
    >>> with open(path, "wb") as file:
    ...     _ = file.write(b"PK\\3\\4")
    >>> fastconv1d.load_file(path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    fastconv1d.weights.WeightFileError: ...broken.npz is not an npz file of numbers: ...
    """
    path = os.fspath(path)  # an int would be a file descriptor, and closed
    if not os.path.isfile(path):  # a pipe or a device has no size to bound memory by
        with open(path, "rb"):
            raise WeightFileError(f"{path!s} is not a regular file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(4)
        file.seek(0)
        if start in (b"PK\x03\x04", b"PK\x05\x06"):
            kind, read = "an npz file of numbers", _read_npz
        else:
            kind, read = "a safetensors file", _read_safetensors
            import safetensors  # noqa: F401  (its absence is no fault of the file)
        try:
            return read(file, size)
        except MemoryError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise WeightFileError(f"{path!s} is not {kind}: {reason[:300]}") from error


def _saved(key: object, value: ArrayLike, any_complex: bool) -> NDArray[Any]:
    if not isinstance(key, str):
        raise TypeError(f"the keys of a state dict should be str, got {geometry.shown(key)}")
    array = np.asarray(value, order="C")
    if array.dtype.name not in _SAVED and not (any_complex and array.dtype.name == "complex128"):
        raise TypeError(f"the dtype of {key!r} cannot be saved, got {array.dtype}")
    return array


def _write_safetensors(arrays: dict[str, NDArray[Any]], path: Path) -> None:
    from safetensors.numpy import save_file as write

    write(arrays, path)


def _write_npz(arrays: dict[str, NDArray[Any]], path: Path) -> None:
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for key, array in arrays.items():
            with archive.open(key + ".npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _read_safetensors(file: IO[bytes], size: int) -> dict[str, NDArray[Any]]:
    from safetensors import deserialize

    state = {}
    for key, tensor in deserialize(file.read(size)):
        state[key] = _from_bytes(tensor["dtype"], tuple(tensor["shape"]), tensor["data"])
    return state


def _from_bytes(dtype: str, shape: tuple[int, ...], data: bytes | bytearray) -> NDArray[Any]:
    if dtype == "BF16":
        upper = np.ndarray(shape, "<u2", data)
        return np.left_shift(upper, np.uint32(16), dtype=np.uint32).view(np.float32)
    if dtype not in _SAFETENSORS:
        raise ValueError(f"a tensor of dtype {dtype}")
    return np.array(np.ndarray(shape, _SAFETENSORS[dtype], data))


def _read_npz(file: IO[bytes], size: int) -> dict[str, NDArray[Any]]:
    state: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if unpacked > _UNPACKED_FREE + _UNPACKED_RATIO * size:
            raise ValueError(f"{size} bytes that unpack to {unpacked}")
        for member in members:
            key = member.filename.removesuffix(".npy")
            if key in state:
                raise ValueError(f"two arrays {key!r}")
            state[key] = _read_member(archive, member)
    return state


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"a member with compression {member.compress_type}")
    with archive.open(member) as data:
        shape, fortran, dtype = _npy_header(data)
        if dtype.kind not in "biufc":
            raise ValueError(f"an array of dtype {dtype}")
        elements = 1
        for length in shape:
            elements *= length
        if min(shape, default=0) < 0 or elements * dtype.itemsize != member.file_size - data.tell():
            raise ValueError(f"an array of size {list(shape)} in {member.file_size} bytes")
        content = bytearray(data.read())  # its length and checksum are the archive's to check
        flat = np.frombuffer(content, dtype, elements) if elements else np.empty(0, dtype)
        return flat.reshape(shape, order="F" if fortran else "C")


def _npy_header(data: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(data)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array of format version {version}")
    try:
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(data)
        return np.lib.format.read_array_header_2_0(data)
    except MemoryError as error:  # the parser's stack, not the machine's memory
        raise ValueError("a header nested too deep") from error


def layer_parameters(
    state_dict: Mapping[str, ArrayLike], prefix: str
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return weight and bias of the layer under `prefix`, weight norm in any spelling folded.

    Examples
    --------
    >>> from fastconv1d.weights import layer_parameters
    >>> layer_parameters({"a.weight_g": [[[10.0]]], "a.weight_v": [[[3.0, 4.0]]]}, "a")
    (array([[[6., 8.]]]), None)
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
    if prefix and not prefix.endswith("."):
        prefix += "."
    bias = state_dict.get(prefix + "bias")
    if prefix + "weight" in state_dict:
        weight = np.asarray(state_dict[prefix + "weight"])
    else:
        weight = _normed_weight(state_dict, prefix)
    if weight.ndim != 3:
        raise ValueError(
            f"the weight of a 1-D convolution should have 3 dimensions, got {prefix}weight of "
            f"size {list(weight.shape)}"
        )
    return weight, None if bias is None else np.asarray(bias)


def _normed_weight(state_dict: Mapping[str, ArrayLike], prefix: str) -> NDArray[Any]:
    for magnitude, direction in _WEIGHT_NORMS:
        if prefix + magnitude in state_dict and prefix + direction in state_dict:
            g, v = (np.asarray(state_dict[prefix + name]) for name in (magnitude, direction))
            return fold_weight_norm(g, v, _norm_dim(g.shape, v.shape))
    known = ", ".join(f"'{prefix}{name}'" for name in ("weight", *_WEIGHT_NORMS[0]))
    raise ValueError(
        f"Missing key(s) in state_dict: none of {known}, or "
        f"'{prefix}{_WEIGHT_NORMS[1][0]}', got {geometry.shown(sorted(state_dict))}"
    )


def _norm_dim(g: tuple[int, ...], v: tuple[int, ...]) -> int | None:
    """The dimension that kept its norms: where all of `g` is 1, one of size 1 or none."""
    kept = [dim for dim, size in enumerate(g) if size != 1] or [
        dim for dim, size in enumerate(v) if size == 1
    ]
    return kept[0] if kept and len(g) == len(v) else None
