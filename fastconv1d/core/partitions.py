"""A long kernel in parts of one length, for streams: the spectra of past inputs are kept.

Outputs of a block of B positions are a sum over parts of the kernel, B taps each; part p reads the
2B inputs that end p blocks before. So a chunk costs one transform of 2B inputs forth and back, and
each block a product for each part. What is kept follows from the inputs alone, and the inputs that
it is of are compared before it is used: a stream that starts anew or goes back costs time only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import config
from ..kernels.fourier import finish_parts, sum_parts, transform_window, weight_spectra
from . import arrays, fft

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .spec import Spec

# Positions of a part: those of the first chunk, between these.
_LEAST, _MOST = 1 << 8, 1 << 15
# Parts from which it is worth it: fewer are one transform.
_PARTS = 4


def suited(spec: Spec, weight: NDArray[Any]) -> bool:
    """Whether a stream of a layer can be computed in parts.

    Examples
    --------
    >>> from fastconv1d import Conv1d
    >>> from fastconv1d.core.partitions import suited
    >>> layer = Conv1d(1, 1, 4096, padding="causal")
    >>> suited(layer._spec, layer.weight)
    True
    """
    plain = not spec.transposed and spec.stride == spec.dilation == 1
    zeros = spec.padding_mode == "zeros" or not any(spec.pads())
    return plain and zeros and weight.dtype.kind == "f" and spec.kernel_size >= _PARTS * _LEAST


class Partitions:
    """The kernel of a stream in parts, and what is kept of its past.

    Parameters
    ----------
    spec : Spec
        One that is `suited`, with steps.
    weight, bias : ndarray, ndarray or None
    """

    def __init__(self, spec: Spec, weight: NDArray[Any], bias: NDArray[Any] | None) -> None:
        self._spec, self._weight, self._bias = spec, weight, bias
        self._size = 0
        self._block: int | None = None  # before which the past is known
        self._past: NDArray[Any] = weight[:0]

    def suits(self, n: int) -> bool:
        """Whether a chunk of n outputs is short enough to gain."""
        return _PARTS * self._block_for(n) <= self._spec.kernel_size

    def _block_for(self, n: int) -> int:
        return self._size or min(max(_LEAST, 1 << (n - 1).bit_length()), _MOST)

    def _begin(self, n: int) -> None:
        """Choose the length of a part, and make the spectra of all."""
        size, (c_out, c_in, kernel) = self._block_for(n), self._weight.shape
        parts = -(-kernel // size)
        padded = np.zeros((c_out, c_in, parts * size), self._weight.dtype)
        padded[:, :, parts * size - kernel :] = self._weight
        newest_first = padded.reshape(c_out, c_in, parts, size)[:, :, ::-1]
        rows = np.ascontiguousarray(newest_first.reshape(c_out, c_in * parts, size))
        groups = self._spec.groups
        self._plan = fft.Plan(
            size, size, size, size, c_out // groups, c_in * parts, 0, 1, 1, 0, 1, 1, 1, 1, 1,
            False, 0, False,
        )  # fmt: skip
        self._spectra = arrays.new((c_out * c_in * parts, 2 * size), rows.dtype)
        weight_spectra(rows, self._plan, 0, self._spectra, config.get_num_threads())
        self._parts = parts
        self._size = size

    def compute(
        self,
        x: NDArray[Any],
        y: NDArray[Any],
        shift: int,
        residual: NDArray[Any] | None,
        origin: int,
    ) -> None:
        """Write outputs to y (N, C_out, n), of any strides.

        x (N, C_in, L) has the inputs from position `origin` on; output l has its first tap on
        element ``l - shift`` of it, and zeros beyond.
        """
        n = y.shape[2]
        if not self._size:
            self._begin(n)
        size, steps, threads = self._size, self._spec.steps, config.get_num_threads()
        newest = origin - shift + self._weight.shape[2] - 1  # the input of the last tap
        done = 0
        while done < n:
            block, element = divmod(newest + done, size)
            count = min(size - element, n - done)
            self._come_to(block, x, origin)
            begin, slot = (block - 1) * size - origin, block % self._parts
            transform_window(x, self._ring, slot, begin, self._plan, steps, threads)
            part = slice(done, done + count)
            more = None if residual is None else residual[:, :, part]
            finish_parts(
                self._ring, self._spectra, self._sums, slot, self._plan, self._spec.groups,
                self._bias, y[:, :, part], element + 1, steps, more, threads,
            )  # fmt: skip
            done += count

    def _come_to(self, block: int, x: NDArray[Any], origin: int) -> None:
        """Have the spectra of the windows before a block, and the sums over the parts on them."""
        size, parts = self._size, self._parts
        if self._block == block and self._remembers(x, origin, block):
            return
        first = block - parts + 1
        if (
            self._block is not None
            and self._block == block - 1
            and self._remembers(x, origin, block - 1)
        ):
            first = block - 1
            self._block = None
            self._past[:, :, :-size] = self._past[:, :, size:].copy()
            self._past[:, :, -size:] = _inputs(x, (block - 1) * size - origin, size)
        else:
            self._block = None
            shape = x.shape[:2]
            self._ring = arrays.new((*shape, parts, 2 * size), x.dtype)
            channels = self._weight.shape[0]
            self._sums = arrays.new((shape[0], channels, 2 * size), x.dtype)
            self._past = _inputs(x, (block - parts) * size - origin, parts * size)
        threads, steps = config.get_num_threads(), self._spec.steps
        for window in range(first, block):
            begin, slot = (window - 1) * size - origin, window % parts
            transform_window(x, self._ring, slot, begin, self._plan, steps, threads)
        groups = self._spec.groups
        sum_parts(self._ring, self._spectra, self._sums, block % parts, self._plan, groups, threads)
        self._block = block

    def _remembers(self, x: NDArray[Any], origin: int, block: int) -> bool:
        """Whether the inputs before a block are those whose spectra are kept.

        Those before the first that is there are no longer read.
        """
        past = self._past
        if past.shape[:2] != x.shape[:2]:
            return False
        begin = (block - self._parts) * self._size
        low, high = max(begin, origin), block * self._size
        if low >= high:
            return True
        there = x[:, :, low - origin : high - origin]
        return np.array_equal(there, past[:, :, low - begin :])


def _inputs(x: NDArray[Any], first: int, n: int) -> NDArray[Any]:
    """Return elements `first` to ``first + n`` of x, zeros beyond its ends."""
    block = np.zeros((*x.shape[:2], n), x.dtype)
    low, high = max(first, 0), min(first + n, x.shape[2])
    if low < high:
        block[:, :, low - first : high - first] = x[:, :, low:high]
    return block
