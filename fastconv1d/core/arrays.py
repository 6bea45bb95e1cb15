"""What an array may be: operands in, results out, and how both lie in memory.

Dtypes that are computed, those of 16 bits that are stored only, complex32, the batch axis, new
results and `out=`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ..kernels.memory import new as new_array

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# What is computed; the direct engine has the real ones.
DTYPES = frozenset(map(np.dtype, ("float32", "float64", "complex64", "complex128")))

# torch's names of the dtypes that are not implemented here.
_TORCH_NAMES = {
    "bool": "Bool",
    "uint8": "Byte",
    "int8": "Char",
    "int16": "Short",
    "int32": "Int",
    "int64": "Long",
    "uint16": "UInt16",
    "uint32": "UInt32",
    "uint64": "UInt64",
    "float16": "Half",
}

# What the kernels call the storage types.
FLOAT16, BFLOAT16 = 1, 2

# Steps the exact test for overlapping memory may take before an overlap is assumed.
_OVERLAP_WORK: Any = 10_000


# ---- dtypes --------------------------------------------------------------------------------------


def half_of(dtype: np.dtype[Any]) -> int:
    """Return 1 for float16, 2 for ml_dtypes' bfloat16, otherwise 0.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d.core.arrays import half_of
    >>> half_of(np.dtype(np.float16)), half_of(np.dtype(np.float32))
    (1, 0)
    """
    if dtype.itemsize != 2:
        return 0
    if dtype.kind == "f":
        return FLOAT16
    return BFLOAT16 if dtype.name == "bfloat16" else 0


def widened(array: NDArray[Any]) -> NDArray[Any]:
    """Return ml_dtypes' bfloat16 as float32, which has all of its values, and others as they are.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d.core.arrays import widened
    >>> widened(np.ones(2, np.float16)).dtype
    dtype('float16')
    """
    return array.astype(np.float32) if half_of(array.dtype) == BFLOAT16 else array


def is_stored(value: Any) -> bool:
    """Whether `value` is an array of a dtype that is stored only: float16, bfloat16, complex32.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d.core.arrays import is_stored
    >>> is_stored(np.zeros(3, np.float16)), is_stored(np.zeros(3)), is_stored([0.0])
    (True, False, False)
    """
    dtype = getattr(value, "dtype", None)
    return (
        isinstance(dtype, np.dtype)
        and dtype.char not in "fdFD"
        and (half_of(dtype) != 0 or _is_complex32(dtype))
    )


def torch_name(dtype: np.dtype[Any]) -> str:
    """Return the name that torch's errors give a dtype.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d.core.arrays import torch_name
    >>> torch_name(np.dtype(np.int16))
    'Short'
    """
    return _TORCH_NAMES.get(dtype.name, dtype.name)


def check_dtypes(function: str, x: NDArray[Any], **others: NDArray[Any] | None) -> None:
    """Raise TypeError unless all operands have the dtype of x, and it is one of `DTYPES`."""
    dtype = x.dtype
    for name, other in others.items():
        if other is not None and other.dtype is not dtype and other.dtype != dtype:
            raise other_dtype(dtype, name, other.dtype)
    if dtype not in DTYPES:
        raise TypeError(
            f"\"{function}\" not implemented for '{torch_name(dtype)}': the "
            "dtype should be float32, float64, complex64 or complex128, "
            f"got an input of dtype {dtype}: {_as_numbers(dtype, np.dtype(np.float32))}"
        )


def other_dtype(dtype: np.dtype[Any], name: str, other: np.dtype[Any]) -> TypeError:
    """Return the error of an input and another operand of different dtypes, and how to mend it.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d.core.arrays import other_dtype
    >>> print(other_dtype(np.dtype("d"), "weight", np.dtype("f")))
    Input type (float64) and weight type (float32) should be the same: x.astype(np.float32), or \
dtype=np.float64 of the layer
    """
    said = f"Input type ({dtype}) and {name} type ({other}) should be the same"
    if dtype not in DTYPES and other in DTYPES:
        return TypeError(f"{said}: {_as_numbers(dtype, other)}")
    if other.kind == "O":
        return TypeError(f"{said}: {name} should be an array of numbers, not None or objects")
    if other.kind in "US":
        return TypeError(f"{said}: {name} should be an array; give others by name, as padding=")
    if name != "weight" or other not in DTYPES:
        return TypeError(f"{said}: {name}.astype(np.{dtype})")
    if dtype.kind == "c" and other.kind == "f":
        return TypeError(f"{said}: dtype=np.{dtype} of the layer, or x.real")
    return TypeError(f"{said}: x.astype(np.{other}), or dtype=np.{dtype} of the layer")


def _as_numbers(dtype: np.dtype[Any], wanted: np.dtype[Any]) -> str:
    """Return how to make an input of another kind one of `wanted`."""
    if dtype.kind == "O":
        return (
            "an array of numbers, not None or objects; of a DataFrame, "
            f"df.to_numpy(np.{wanted}).T is (channels, length)"
        )
    if dtype.kind in "US":
        return "an array of numbers, not text; np.load(path) reads one"
    if dtype == np.int16:
        return f"x.astype(np.{wanted}) / 32768 for audio of 16 bits"
    return f"x.astype(np.{wanted})"


def as_float32(name: str, parameter: ArrayLike) -> NDArray[Any]:
    """Return a parameter that goes with a 16-bit input, of float32 or 16 bits, as float32."""
    array = operand(parameter)
    if array.dtype != np.float32 and not half_of(array.dtype):
        raise TypeError(
            f"a 16-bit input takes a {name} of float32 or a 16-bit dtype, got {array.dtype}"
        )
    return array.astype(np.float32, copy=False)


# ---- operands ------------------------------------------------------------------------------------


def operand(value: ArrayLike) -> NDArray[Any]:
    """Return `value` itself if it is a plain array in native order, otherwise one made of it."""
    if type(value) is np.ndarray:
        flags = value.flags
        if flags.c_contiguous and flags.aligned and value.dtype in DTYPES:
            return value
    array = np.asarray(value)
    itemsize = array.dtype.itemsize
    readable = array.flags.aligned and array.dtype.isnative
    if readable and not any(step % itemsize for step in array.strides):
        return array
    return array.astype(array.dtype.newbyteorder("="), order="C")


def aligned(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array, or a copy: a pickle whose buffers lie elsewhere may put one at any address.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d.core.arrays import aligned
    >>> aligned(np.frombuffer(bytes(9), np.float32, 2, 1)).flags.aligned
    True
    """
    return array if array.flags.aligned else array.copy()


def operands(
    function: str, input: ArrayLike, weight: ArrayLike, bias: ArrayLike | None
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None, bool]:
    """Return arrays that the kernels can read, the input batched, and whether it was."""
    x, w = operand(input), operand(weight)
    b = None if bias is None else operand(bias)
    dtype = x.dtype
    if dtype is not w.dtype or dtype not in DTYPES or (b is not None and b.dtype is not dtype):
        check_dtypes(function, x, weight=w, bias=b)
    if x.ndim == 3:
        return x, w, b, True
    x, was_batched = batched(function, x)
    return x, w, b, was_batched


def batched(function: str, x: NDArray[Any], rank: int = 1) -> tuple[NDArray[Any], bool]:
    """Return x, of so many dimensions beside channels, with a batch axis; whether it had one."""
    if x.ndim == 2 + rank:
        return x, True
    if x.ndim == 1 + rank:
        return x[np.newaxis], False
    hints = {rank: f": x[None] for a {'plane' if rank == 2 else 'signal'} of one channel"}
    if x.ndim < rank:
        hints[x.ndim] = ""
    raise ValueError(
        f"Expected {1 + rank}D (unbatched) or {2 + rank}D (batched) input to {function}, "
        f"but got input of size: {list(x.shape)}"
        + hints.get(x.ndim, f": x.reshape(-1, *x.shape[{-1 - rank}:]) for axes of more items")
    )


def as_rows(x: NDArray[Any]) -> NDArray[Any]:
    """Return lines or planes (N, C, ...) as rows (N, C, L), a view where they are contiguous."""
    if x.ndim == 3:
        return x
    n_batch, channels, height, width = x.shape
    return x.reshape(n_batch, channels, height * width)


def gradient_operand(
    grad_output: ArrayLike, dtype: np.dtype[Any], shape: tuple[int, ...], was_batched: bool
) -> NDArray[Any]:
    """Return the gradient by an output of `shape`, batched."""
    g = operand(grad_output)
    if g.dtype != dtype:
        raise other_dtype(dtype, "grad_output", g.dtype)
    if g.ndim != len(shape) - 1 + was_batched:
        raise ValueError(
            "Expected input and grad_output to have the same number of dimensions, "
            f"but got: {len(shape) - 1 + was_batched} and {g.ndim}"
        )
    if not was_batched:
        g = g[np.newaxis]
    if g.shape != shape:
        raise ValueError(
            "grad_output should have the size of the output, "
            f"{list(shape[not was_batched :])}, but got {list(g.shape[not was_batched :])}"
        )
    return g


def residual_operand(
    residual: ArrayLike | None, dtype: np.dtype[Any], shape: tuple[int, ...], was_batched: bool
) -> NDArray[Any] | None:
    """Return what is added to an output of `shape`, batched."""
    if residual is None:
        return None
    r = operand(residual)
    if r.dtype != dtype:
        raise other_dtype(dtype, "residual", r.dtype)
    expected = shape if was_batched else shape[1:]
    if r.shape != expected:
        raise ValueError(
            f"residual should have the size of the output, {list(expected)}, got {list(r.shape)}"
        )
    return r if was_batched else r[np.newaxis]


# ---- results -------------------------------------------------------------------------------------


def new(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array that holds anything, a large one in memory that is kept for the next."""
    try:
        return new_array(shape, dtype)
    except ValueError:  # how NumPy says that the number of bytes exceeds 64 bits
        _explain_size(shape, dtype)


def _explain_size(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NoReturn:
    raise OverflowError(
        f"the size of a result should be below 2**63 bytes, got {list(shape)} of dtype {dtype}"
    ) from None


def target(
    out: NDArray[Any],
    shape: tuple[int, ...],
    was_batched: bool,
    x: NDArray[Any],
    *others: NDArray[Any] | None,
) -> NDArray[Any]:
    """Check `out` and return a batched, C-contiguous array for the kernels to write to."""
    expected = shape if was_batched else shape[1:]
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out should be an ndarray, got {type(out).__name__}")
    if out.shape != expected:
        raise ValueError(f"out should have the shape {list(expected)}, got {list(out.shape)}")
    if out.dtype != x.dtype:
        raise ValueError(f"out should have the dtype {x.dtype}, got {out.dtype}")
    if not out.flags.writeable:
        raise ValueError("out should be writeable, got a read-only array")
    for array in (x, *others):
        if array is not None and np.may_share_memory(out, array, max_work=_OVERLAP_WORK):
            raise ValueError(
                "out should share no memory with an input, "
                f"got one that overlaps an array of size {list(array.shape)}"
            )
    if not _writable_in_place(out):
        if _overlaps_itself(out):
            raise ValueError(
                "out should not overlap itself, "
                f"got size {list(out.shape)} with strides {list(out.strides)}"
            )
        return new(shape, x.dtype)
    return np.asarray(out).reshape(shape)


def _writable_in_place(out: NDArray[Any]) -> bool:
    return out.flags.c_contiguous and out.flags.aligned


def _overlaps_itself(array: NDArray[Any]) -> bool:
    # Enough for every view made by slicing and transposing: each step passes all smaller ones.
    reach = array.itemsize
    for step, count in sorted(zip(map(abs, array.strides), array.shape, strict=True)):
        if count > 1:
            if step < reach:
                return True
            reach += step * (count - 1)
    return False


def delivered(y: NDArray[Any], was_batched: bool, out: NDArray[Any] | None) -> NDArray[Any]:
    """Return the result as the caller gets it; `y` is what `target` made of `out`, or new."""
    if out is None:
        return y if was_batched else y[0]
    if not _writable_in_place(out):
        np.copyto(out, y if was_batched else y[0])
    return out


# ---- complex32: two float16, in a structured dtype or along a last axis --------------------------


def _is_complex32(dtype: np.dtype[Any]) -> bool:
    return (
        dtype.names is not None
        and len(dtype.names) == 2
        and all(dtype[name] == np.float16 for name in dtype.names)
    )


def is_complex32_call(weight: Any) -> bool:
    """Whether the weight says that all operands are complex32."""
    w = getattr(weight, "dtype", None)
    if not isinstance(w, np.dtype):
        return False
    if _is_complex32(w):
        return True
    # An axis of two: a weight of four dimensions is no other call's.
    return w == np.float16 and weight.ndim == 4 and weight.shape[-1] == 2


def to_complex64(name: str, value: Any) -> NDArray[Any]:
    """Return an operand of complex32 as complex64."""
    array = np.asarray(value)
    if _is_complex32(array.dtype):
        assert array.dtype.names is not None
        real, imag = (array[field].astype(np.float32) for field in array.dtype.names)
    elif array.dtype == np.float16 and array.ndim and array.shape[-1] == 2:
        real, imag = array[..., 0].astype(np.float32), array[..., 1].astype(np.float32)
    else:
        raise TypeError(
            f"{name} should be complex32 as the weight is: float16 with a last axis of two, or a "
            f"structured dtype of two float16, got dtype {array.dtype} of size {list(array.shape)}"
        )
    result = np.empty(real.shape, np.complex64)
    result.real, result.imag = real, imag
    return result


def to_complex32(y: NDArray[Any], like: np.dtype[Any]) -> NDArray[Any]:
    """Return a complex64 result in the spelling of complex32 that the input has."""
    with np.errstate(over="ignore"):
        if like.names is None:
            return np.stack([y.real, y.imag], axis=-1).astype(np.float16)
        result = np.empty(y.shape, like)
        for field, part in zip(like.names, (y.real, y.imag), strict=True):
            result[field] = part
        return result
