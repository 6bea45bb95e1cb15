"""State dicts in files (safetensors and npz, never pickle), and layers from state dicts."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .core import geometry
from .core.arrays import BFLOAT16, half_of, widened
from .core.extras import require
from .core.files import replacing, what_special
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
# A file may take this many bytes of memory, and this many times its own size.
_MEMORY_FREE = 1 << 26
_MEMORY_RATIO = 16
# What a byte of a safetensors file takes: of its header, for the objects made of the shortest
# entries (25 measured for empty tensors of one dimension, 33 for those of 129), and of the rest,
# in the file, in what safetensors makes of it and in arrays of twice the size (bfloat16).
_HEADER_COST = 36
_CONTENT_COST = 4
_LONGEST_HEADER = 100_000_000  # that safetensors reads
# More members than a state dict has: 10 times their size, and 5 us each, before the first is read.
_MOST_MEMBERS = 1 << 17
_MEMBER_COST = 1 << 10  # of its entry, its key and its array, beside what the array holds
_UNPACKING = 1 << 23  # parts and buffers: 3.2 MB measured beside an array of 62 MiB
_LONGEST_NAME = 65535  # of a zip's member
_LONGEST_NPY_HEADER = 1 << 16
_CHUNK = 1 << 18
# Spellings of weight norm: magnitude and direction.
_WEIGHT_NORMS = (
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)


# What reads files of other kinds, by their names.
_TORCH_READER = (
    "state = torch.load(path, weights_only=True) reads a file of torch, and "
    "save_file({key: value.numpy() for key, value in state.items()}, 'weights.npz') makes one for "
    "load_file"
)
_OTHER_READERS = {
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".bin"), _TORCH_READER),
    ".onnx": "fastconv1d.onnx.from_onnx reads an ONNX file",
    ".npy": "numpy.load reads an array alone, and np.savez(path, weight=...) names it",
}


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
        bfloat16 stays so in a safetensors file and becomes float32 in an npz, which cannot name it.
    path : str or os.PathLike
        Ends in '.safetensors', for which the package safetensors is needed
        (``pip install 'fastconv1d[safetensors]'``), or in '.npz'.

    Raises
    ------
    ValueError
        If the path ends in something else, or a key cannot be kept: one that is not Unicode, in an
        npz one with a NUL or of more than 65,531 bytes, in a safetensors file '__metadata__'.
    TypeError
        If `state_dict` is no mapping, a key is not a string, or a dtype has no place in the file.
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
        raise ValueError(
            f"path should end in '.safetensors' or '.npz', got {str(target)!r}: torch.load and "
            "torch.save are for files of torch"
        )
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
    is_npz = target.suffix == ".npz"
    arrays = {
        _saved_key(key, is_npz): _saved(key, value, is_npz) for key, value in state_dict.items()
    }
    with replacing(target) as unfinished:
        (_write_npz if is_npz else _write_safetensors)(arrays, unfinished)


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
        A ValueError: if the file is damaged, no regular file, has dtypes of another kind (objects:
        pickles are never read), would take more than 64 MiB plus 16 times its size, or is an npz of
        more than 131,072 members.
    ImportError
        If safetensors is not installed and needed.
    OSError
        If the file cannot be read.
    MemoryError
        If the arrays cannot be allocated.

    Notes
    -----
    Nothing in a file is executed. Memory is a few times the size of the file, the arrays included,
    and in no case more than the bound above.

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
    special = what_special(path)
    if special:
        raise WeightFileError(f"{path!s} is {special}: weights should be in a regular file")
    advice = _OTHER_READERS.get(Path(os.fsdecode(path)).suffix.lower())
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(4)
        file.seek(0)
        if start in (b"PK\x03\x04", b"PK\x05\x06"):
            kind, read = "an npz file of numbers", _read_npz
        else:
            kind, read = "a safetensors file", _read_safetensors
            if advice:
                raise WeightFileError(f"{path!s} is no file of weights: {advice}")
            require("load_file of a safetensors file", "safetensors")
        try:
            return read(file, size)
        except MemoryError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            text = f"{path!s} is not {kind}: {advice or reason[:300]}"
            raise WeightFileError(text) from error


def _saved_key(key: object, is_npz: bool) -> str:
    """Return a key that a file gives back as it is."""
    if not isinstance(key, str):
        raise TypeError(f"the keys of a state dict should be str, got {geometry.shown(key)}")
    try:
        encoded = key.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a key should be Unicode text, got {geometry.shown(key)}") from error
    if not is_npz:
        if key == "__metadata__":
            raise ValueError(
                "a safetensors file has its metadata under '__metadata__': rename the key, or "
                "save to a path that ends in '.npz'"
            )
        return key
    member = key + ".npy"
    if len(encoded) + 4 > _LONGEST_NAME:
        raise ValueError(
            f"a key in an npz file should have at most {_LONGEST_NAME - 4} bytes, got "
            f"{len(encoded)}: {geometry.shown(key[:40])}..."
        )
    if zipfile.ZipInfo(member).filename != member:  # ends at a NUL; \\ becomes / on Windows
        raise ValueError(f"the key {geometry.shown(key)} cannot be a name in an npz file")
    return key


def _saved(key: str, value: ArrayLike, is_npz: bool) -> NDArray[Any]:
    array = np.asarray(value, order="C")
    if is_npz:
        array = widened(array)
    elif half_of(array.dtype) == BFLOAT16:
        return array
    if array.dtype.name not in _SAVED and not (is_npz and array.dtype.name == "complex128"):
        raise TypeError(f"the dtype of {key!r} cannot be saved, got {array.dtype}")
    return array


def _write_safetensors(arrays: dict[str, NDArray[Any]], path: Path) -> None:
    require("save_file to a safetensors file", "safetensors")
    from safetensors.numpy import save_file as write

    write(arrays, path)
    with path.open("rb") as file:
        length = _header_length(file)
    if length > _LONGEST_HEADER:
        raise ValueError(
            "the keys and shapes in a safetensors file should take at most "
            f"{_LONGEST_HEADER} bytes, got {length}"
        )


def _write_npz(arrays: dict[str, NDArray[Any]], path: Path) -> None:
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for key, array in arrays.items():
            with archive.open(key + ".npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _header_length(file: IO[bytes]) -> int:
    return int.from_bytes(file.read(8), "little")


def _read_safetensors(file: IO[bytes], size: int) -> dict[str, NDArray[Any]]:
    from safetensors import deserialize

    header = min(_header_length(file), size)
    if _HEADER_COST * header + _CONTENT_COST * (size - header) > _allowed(size):
        raise ValueError(
            f"a header of {header} bytes in a file of {size} would take more than "
            f"{_allowed(size)} bytes of memory"
        )
    file.seek(0)
    tensors = deserialize(file.read(size))
    tensors.reverse()
    state = {}
    while tensors:  # each is freed when its array is made
        key, tensor = tensors.pop()
        state[key] = _from_bytes(tensor["dtype"], tuple(tensor["shape"]), tensor["data"])
    return state


def _from_bytes(dtype: str, shape: tuple[int, ...], data: bytes | bytearray) -> NDArray[Any]:
    if dtype == "BF16":
        upper = np.ndarray(shape, "<u2", data)
        return np.left_shift(upper, np.uint32(16), dtype=np.uint32).view(np.float32)
    if dtype not in _SAFETENSORS:
        raise ValueError(f"a tensor of dtype {dtype}")
    return np.array(np.ndarray(shape, _SAFETENSORS[dtype], data))


def _allowed(size: int) -> int:
    """How many bytes of memory a file of `size` bytes may take."""
    return _MEMORY_FREE + _MEMORY_RATIO * size


class _ZipReader:
    """A file that hands at most _MOST_MEMBERS entries of a zip's directory out.

    zipfile reads the directory at once when it opens an archive, and makes an object of each entry.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._file = file
        self.opening = True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        entries = data.count(b"PK\1\2") if self.opening else 0
        if entries > _MOST_MEMBERS:
            raise ValueError(f"{entries} members, more than {_MOST_MEMBERS}")
        return data


def _read_npz(file: IO[bytes], size: int) -> dict[str, NDArray[Any]]:
    state: dict[str, NDArray[Any]] = {}
    reader: Any = _ZipReader(file)
    with zipfile.ZipFile(reader) as archive:
        reader.opening = False
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if unpacked + len(members) * _MEMBER_COST + _UNPACKING > _allowed(size):
            raise ValueError(f"{size} bytes that unpack to {unpacked}")
        for member in members:
            if "\0" in member.orig_filename:  # what zipfile cuts names at
                raise ValueError(f"a name with a NUL, {geometry.shown(member.orig_filename)}")
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
        flat = np.empty(elements, dtype)
        _fill(flat.view(np.uint8), data)
        return flat.reshape(shape, order="F" if fortran else "C")


def _fill(content: NDArray[np.uint8], data: IO[bytes]) -> None:
    """Read all of `data` into `content`, in parts: the whole would be in memory twice."""
    at = 0
    while part := data.read(_CHUNK):  # to the end, where the archive checks the sum
        content[at : at + len(part)] = np.frombuffer(part, np.uint8)
        at += len(part)
    if at != len(content):
        raise ValueError(f"{at} bytes of {len(content)}")


def _npy_header(data: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(data)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array of format version {version}")
    length = data.read(2 if version == (1, 0) else 4)
    n_bytes = int.from_bytes(length, "little")
    if n_bytes > _LONGEST_NPY_HEADER:  # NumPy would read and decode it before it says so
        raise ValueError(f"an array's header of {n_bytes} bytes")
    header = io.BytesIO(length + data.read(n_bytes))
    try:
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(header)
        return np.lib.format.read_array_header_2_0(header)
    except MemoryError as error:  # the parser's stack, not the machine's memory
        raise ValueError("a header nested too deep") from error


def layer_parameters(
    state_dict: Mapping[str, ArrayLike], prefix: str, rank: int = 1
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
    if weight.ndim != 2 + rank:
        raise ValueError(
            f"the weight of a {rank}-D convolution should have {2 + rank} dimensions, "
            f"got {prefix}weight of size {list(weight.shape)}"
        )
    return weight, None if bias is None else np.asarray(bias)


def _normed_weight(state_dict: Mapping[str, ArrayLike], prefix: str) -> NDArray[Any]:
    for magnitude, direction in _WEIGHT_NORMS:
        if prefix + magnitude in state_dict and prefix + direction in state_dict:
            g, v = (np.asarray(state_dict[prefix + name]) for name in (magnitude, direction))
            return fold_weight_norm(g, v, _norm_dim(g.shape, v.shape))
    known = ", ".join(f"'{prefix}{name}'" for name in ("weight", *_WEIGHT_NORMS[0]))
    layers = [str(key).removesuffix("weight") for key in state_dict if str(key).endswith(".weight")]
    hint = f": prefix={layers[0]!r} names a layer of them" if layers else ""
    raise ValueError(
        f"Missing key(s) in state_dict: none of {known}, or "
        f"'{prefix}{_WEIGHT_NORMS[1][0]}', got {geometry.shown(sorted(state_dict))}{hint}"
    )


def _norm_dim(g: tuple[int, ...], v: tuple[int, ...]) -> int | None:
    """The dimension that kept its norms: where all of `g` is 1, one of size 1 or none."""
    kept = [dim for dim, size in enumerate(g) if size != 1] or [
        dim for dim, size in enumerate(v) if size == 1
    ]
    return kept[0] if kept and len(g) == len(v) else None
