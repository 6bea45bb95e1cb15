"""The engine of long kernels: overlap-save in blocks, transforms by `fastconv1d.kernels.fourier`.

Everything is a correlate of stride 1 over rows. A dilated kernel sees the phases of its input as
rows of their own; a stride makes each input channel as many channels, and that of a transposed
convolution each output channel, of kernels that are as much shorter.

The size of a transform follows from the layer alone unless the whole row is shorter, so an output
keeps its bits for any batch and threads, and all but those of the last block of a row do when it
grows.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..kernels.fourier import run_blocks, run_gradient, weight_spectra
from . import arrays, spectral_tiles
from .activations import Steps
from .engines import choose_engine

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

    from .geometry import Geometry

# The forward primitives take steps, a residual, 16 bits and any strides.
FUSES = True

# Complex elements of a transform: squares of 16 vectors of 16 lanes, and what 2**20 taps need.
_LEAST, _MOST = 1 << 8, 1 << 21
# Bytes of a thread's scratch, and of the spectra of a weight that a call makes at a time.
_SCRATCH, _AT_ONCE = 32 << 20, 8 << 20
# Bytes of the blocks that are computed together: twice as slow where they do not stay in L2.
_L2 = 1 << 20
# Bytes of spectra that a layer keeps; above, each call makes them anew, some groups at a time.
_KEPT = 64 << 20
# A row of more blocks than these has blocks of the size that is best for a long one.
_MANY_BLOCKS = 4


class Plan(NamedTuple):
    """How a call is computed; the names are those of ``fc1d_fourier`` in kernels/simd/fc1d.h."""

    n: int
    step: int
    kernel: int
    taps: int
    co: int
    ci: int
    in_first: int
    in_step: int
    in_split: int
    out_first: int
    out_step: int
    out_split: int
    phases: int
    blocks: int
    together: int
    transposed: bool
    mode: int
    sums_kept: bool

    @property
    def size(self) -> int:
        """Numbers of a spectrum."""
        return 2 * self.n


def unsuited(
    dtype_char: str,
    weight_shape: tuple[int, ...],
    stride: int,
    dilation: int,
    left: int,
    right: int,
    transposed: bool,
) -> str | None:
    """Return the rule that keeps a layer from this engine, or None.

    Examples
    --------
    >>> from fastconv1d.core.fft import unsuited
    >>> unsuited("f", (8, 8, 4000), 2, 2, 0, 0, False)
    'stride or dilation should be 1'
    """
    if dtype_char not in ("f", "d", "F", "D"):
        return "the dtype should be float32, float64, complex64 or complex128"
    rule = spectral_tiles.unsuited_sizes(weight_shape, stride, dilation, left, right)
    if rule is not None:
        return rule
    channels, taps = weight_shape[1] * stride, -(-weight_shape[2] // stride)
    if (channels + 2) * _smallest(taps) * 16 > _SCRATCH:
        return "the transforms of a group's channels should fit the scratch"
    return None


def _smallest(taps: int) -> int:
    """Return the complex elements of the smallest transform of a block that is half kernel."""
    return max(_LEAST, 1 << (taps - 1).bit_length())


# ns of a transform and of reading or writing what it is of: n = 2**8, 2**9, ...; float32, one core
# with AVX-512 and 2 MiB of L2, which the last ones do not fit. Of products a complex element: with
# everything in L1, in L2, beyond.
_TRANSFORMS = (230, 470, 1000, 2300, 4900, 10_600, 22_000, 49_000, 135_000, 650_000)
_PRODUCTS = ((1 << 12, 0.45), (1 << 14, 0.9), (_MOST, 1.8))


def transform_cost(n: int) -> float:
    """Return about how many ns a transform takes, with what it is of."""
    at = n.bit_length() - 9
    last = len(_TRANSFORMS) - 1
    return _TRANSFORMS[at] if at <= last else _TRANSFORMS[last] * 2.2 ** (at - last)


def block_cost(n: int, co: int, ci: int) -> float:
    """Return about how many ns a block of a group takes."""
    product = next(ns for most, ns in _PRODUCTS if n <= most)
    return (co + ci) * transform_cost(n) + co * ci * product * n


@cache
def block_size(taps: int, co: int, ci: int, itemsize: int, rows: int | None = None) -> int:
    """Return the size of the transforms of a layer, in complex elements; for short rows less.

    Examples
    --------
    >>> from fastconv1d.core.fft import block_size
    >>> block_size(8192, 1, 1, 4), block_size(8192, 1, 1, 4, 8192)
    (16384, 8192)
    """
    least = _smallest(taps)
    most = least << 3
    if rows is not None:
        most = block_size(taps, co, ci, itemsize)
        if rows > _MANY_BLOCKS * (2 * most - taps + 1):
            return most
    sizes = []
    n = least
    while n <= min(most, _MOST):
        if n == least or (min(co, ci) + 2) * 2 * n * itemsize <= _SCRATCH:
            sizes.append(n)
        n *= 2

    def cost(n: int) -> float:
        step = 2 * n - taps + 1
        blocks = -(-rows // step) if rows is not None else 1 / step
        return block_cost(n, co, ci) * blocks

    return min(sizes, key=cost)


def plan(
    w_shape: tuple[int, ...],
    dtype: np.dtype[Any],
    geometry: Geometry,
    transposed: bool,
    l_out: int,
) -> Plan:
    """Return how a call is computed."""
    _, _, stride, dilation, left, _, groups, mode = geometry
    kernel = w_shape[2]
    taps = -(-kernel // stride)
    other = w_shape[0] // groups
    phases = min(dilation, l_out)
    if not transposed:
        co, ci = other, w_shape[1] * stride
        row = -(-l_out // dilation)
        places = (-left, dilation * stride, stride, 0, dilation, 1)
    elif stride == 1:
        co, ci = w_shape[1], other
        row = -(-l_out // dilation)
        places = (left - (kernel - 1) * dilation, dilation, 1, 0, dilation, 1)
    else:
        co, ci = w_shape[1] * stride, other
        begin = left // stride  # the first whose outputs are not all cropped
        row = (l_out + left - 1) // stride + 1 - begin
        places = (begin - (taps - 1), 1, 1, begin * stride - left, stride, stride)
        phases = 1
    if dtype.kind == "c":  # n complex elements are a block, which in a real call are half of one
        n = max(_LEAST, 2 * block_size(taps, co, ci, dtype.itemsize, row))
        step = n - taps + 1
    else:
        n = block_size(taps, co, ci, dtype.itemsize, row)
        step = 2 * n - taps + 1
    blocks = -(-row // step)
    sums_kept = co < ci
    bytes_of_one = 2 * n * dtype.itemsize * (min(co, ci) + 2)
    together = 1 if co == ci == 1 else max(1, min(4, blocks, _L2 // bytes_of_one))
    return Plan(
        n, step, kernel, taps, co, ci, *places, phases, blocks, together, transposed,
        0 if transposed else mode, sums_kept,
    )  # fmt: skip


def takes_tiles(
    w_shape: tuple[int, ...], dtype: np.dtype[Any], geometry: Geometry, transposed: bool
) -> bool:
    """Whether a layer is computed by tiles (`core.spectral_tiles`): a rule of the layer alone."""
    _, _, stride, dilation, left, right, groups, _ = geometry
    layer = dtype.char, w_shape, stride, dilation, left, right, transposed
    if spectral_tiles.unsuited(*layer) is not None:
        return False
    return _tiles_win(spectral_tiles.sizes(w_shape, groups, transposed, stride), dtype.itemsize)


@cache
def _tiles_win(size: spectral_tiles.Sizes, itemsize: int) -> bool:
    """Whether tiles take less time than blocks of rows, in a long input."""
    n = block_size(size.taps, size.c_out, size.c_in, itemsize)
    by_blocks = block_cost(n, size.c_out, size.c_in) / (2 * n - size.taps + 1)
    return spectral_tiles.output_cost(size) < by_blocks


class Spectra:
    """The spectra of a weight, kept between calls where they are small enough; an engine's door.

    Parameters
    ----------
    weight : ndarray
        As the primitives take it. It should not change.
    groups, dilation, stride : int
        Of the layer.
    keep : bool, default True
        Whether there are more calls.
    """

    FUSES = FUSES

    def __init__(
        self, weight: NDArray[Any], groups: int, dilation: int, stride: int, keep: bool = True
    ) -> None:
        self._weight, self._groups = weight, groups
        self._most = _KEPT if keep else 0
        self._kept: dict[int, NDArray[Any]] = {}
        self._tiles = spectral_tiles.Tiles(weight, groups, dilation, stride)

    def correlate(
        self,
        x: NDArray[Any],
        w: NDArray[Any],
        bias: NDArray[Any] | None,
        y: NDArray[Any],
        geometry: Geometry,
        *rest: Any,
    ) -> None:
        """Write the convolution of x to y; `w` is the weight given before, `rest` as of a door."""
        if takes_tiles(w.shape, w.dtype, geometry, transposed=False):
            self._tiles.correlate(x, w, bias, y, geometry, *rest)
        else:
            self._compute(False, x, bias, y, geometry, *rest)

    def scatter(
        self,
        x: NDArray[Any],
        w: NDArray[Any],
        bias: NDArray[Any] | None,
        y: NDArray[Any],
        geometry: Geometry,
        *rest: Any,
    ) -> bool:
        """Write the adjoint of a convolution to y, with the operands of `correlate`.

        Returns False, without having written anything, for a weight that is not finite: it would
        meet zeros beyond the input's ends, which are no part of the sums.
        """
        if takes_tiles(w.shape, w.dtype, geometry, transposed=True):
            return self._tiles.scatter(x, w, bias, y, geometry, *rest)
        if not np.isfinite(w).all():
            return False
        self._compute(True, x, bias, y, geometry, *rest)
        return True

    def _at_once(self, made: Plan) -> int:
        """Return of how many groups the spectra are made together: all where they are kept."""
        each = made.co * made.ci * made.size * _real(self._weight.dtype).itemsize
        return self._groups if self._groups * each <= self._most else max(1, _AT_ONCE // each)

    def _of(self, made: Plan, first: int, last: int, threads: int) -> NDArray[Any]:
        """Return the spectra of the groups `first` to `last`, the latter excluded."""
        kept = self._kept.get(made.n)
        if kept is not None:
            return kept
        spectra = arrays.new(
            ((last - first) * made.co * made.ci, made.size), _real(self._weight.dtype)
        )
        weight_spectra(self._weight, made, first, spectra, threads)
        if self._most and last - first == self._groups:
            self._kept = {made.n: spectra}  # another length may need another size
        return spectra

    def _compute(
        self,
        transposed: bool,
        x: NDArray[Any],
        bias: NDArray[Any] | None,
        y: NDArray[Any],
        geometry: Geometry,
        run: tuple[int, bool],
        steps: Steps | None = None,
        residual: NDArray[Any] | None = None,
    ) -> None:
        if y.size == 0:
            return
        steps, w = Steps() if steps is None else steps, self._weight
        z = y
        if x.dtype != w.dtype:  # 16 bits
            x, z = x.astype(w.dtype), arrays.new(y.shape, w.dtype)
            residual = None if residual is None else residual.astype(w.dtype)
        bias = None if bias is None else np.ascontiguousarray(bias)
        made = plan(w.shape, w.dtype, geometry, transposed, y.shape[2])
        groups, at_once, threads = self._groups, self._at_once(made), run[0]
        for first in range(0, groups, at_once):
            spectra = self._of(made, first, min(groups, first + at_once), threads)
            run_blocks(x, spectra, bias, z, made, first, steps, residual, threads)
        if residual is not None and w.dtype.kind == "c":
            with np.errstate(all="ignore"):
                for place in np.ndindex(z.shape[:2]):
                    z[place] += residual[place] * w.dtype.type(steps.residual_scale)
        if z is not y:
            with np.errstate(over="ignore"):
                np.copyto(y, z, casting="same_kind")


def _real(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float32 if dtype.char in "fF" else np.float64)


def _once(w: NDArray[Any], geometry: Geometry) -> Spectra:
    return Spectra(w, geometry.groups, geometry.dilation, geometry.stride, keep=False)


def correlate(
    x: NDArray[Any],
    w: NDArray[Any],
    bias: NDArray[Any] | None,
    y: NDArray[Any],
    geometry: Geometry,
    *rest: Any,
) -> None:
    """Write the convolution of x to y; `rest` is the run, and maybe steps and a residual."""
    _once(w, geometry).correlate(x, w, bias, y, geometry, *rest)


def scatter(
    x: NDArray[Any],
    w: NDArray[Any],
    bias: NDArray[Any] | None,
    y: NDArray[Any],
    geometry: Geometry,
    *rest: Any,
) -> bool:
    """Write the adjoint of a convolution to y; False for a weight that is not finite."""
    return _once(w, geometry).scatter(x, w, bias, y, geometry, *rest)


# Pairs of channels of a group up to which the gradient by the weight is made here: each transforms
# its inputs anew.
_PAIRS = 4


def weight_gradient(
    g: NDArray[Any],
    x: NDArray[Any],
    dw: NDArray[Any],
    geometry: Geometry,
    run: tuple[int, bool],
    db: NDArray[Any] | None = None,
    only_db: bool = False,
    weight: NDArray[Any] | None = None,
    transposed: bool = False,
) -> NDArray[Any] | None:
    """Write the gradient by the weight to dw, and by the bias to db; see `core.engines`."""
    _, _, stride, dilation, left, right, groups, _ = geometry
    exact = _exact(g.dtype.char, dw.shape, stride, dilation, (left, right))
    pairs = dw.shape[0] // max(groups, 1) * dw.shape[1]
    here = stride == 1 and pairs <= _PAIRS and g.dtype.kind == "f" and dw.size and g.size and x.size
    if only_db or not here:
        made: NDArray[Any] | None = exact.weight_gradient(
            g, x, dw, geometry, run, db, only_db, weight, transposed
        )
        return made
    if db is not None:
        exact.weight_gradient(g, x, dw, geometry, run, db, True)
    forward = plan(dw.shape, dw.dtype, geometry, False, g.shape[2])
    run_gradient(g, x, dw, forward, run[0])
    return None


def _exact(
    dtype_char: str, w_shape: tuple[int, ...], stride: int, dilation: int, pads: tuple[int, int]
) -> ModuleType:
    return choose_engine("auto", dtype_char, w_shape, stride, dilation, pads, False)
