"""Convolutions of a stream: windows over what is there of a sequence, by either engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import config
from ..kernels.blas_engine import correlate, fixed_columns, scatter
from . import arrays, chosen, fft, geometry, partitions
from .fast import transforms_win
from .flow import Flow, Windows
from .forward import activate, after_sums, before_sums
from .partitions import Partitions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .convolution import Pack
    from .spec import Spec


def convolution(pack: Pack, spec: Spec, has_residual: bool) -> Correlate | Scatter:
    """Return the flow of a convolution with the steps of a spec, over the pack of its layer.

    Raises
    ------
    ValueError
        If it depends on what is not there yet.

    Examples
    --------
    >>> from fastconv1d import Conv1d
    >>> from fastconv1d.core.sliding import convolution
    >>> layer = Conv1d(2, 3, 5, padding=2)
    >>> flow = convolution(layer._pack(), layer._spec, False)
    >>> flow.final([10]), flow.total([10])
    (8, 10)
    """
    check_streamable(spec)
    kernel: _Kernel
    kernel = _Packed(pack, spec) if pack.prepared is not None else _Blas(pack, spec)
    if spec.algorithm == "fft" and chosen.taken(spec, pack.parameters.weight) == "fft":
        kernel = _Transforms(pack, spec, kernel)
    return Scatter(spec, kernel, has_residual) if spec.transposed else Correlate(
        spec, kernel, has_residual
    )  # fmt: skip


def check_streamable(spec: Spec) -> None:
    """Raise what keeps a convolution from being computed before the end of its input is there.

    Examples
    --------
    >>> from fastconv1d import Conv1d
    >>> from fastconv1d.core.sliding import check_streamable
    >>> check_streamable(Conv1d(2, 3, 5, padding=2, padding_mode="reflect")._spec)
    """
    if spec.same:
        raise ValueError(
            "a stream cannot know its padding before the end: padding should not be "
            f"'same_upper' or 'same_lower' with a stride, got padding={spec.padding!r} and "
            f"stride={spec.stride}"
        )
    if not any(spec.pads()):
        return
    if spec.transposed and spec.padding_mode != "zeros":
        raise ValueError(
            "a stream of a transposed convolution cannot add cropped positions back: "
            f"padding_mode should be 'zeros', got padding_mode={spec.padding_mode!r}"
        )
    if spec.padding_mode == "circular":
        raise ValueError(
            "a stream cannot wrap around: padding_mode should be 'zeros', 'reflect' or "
            f"'replicate', got padding_mode={spec.padding_mode!r}"
        )


class _Packed:
    """A convolution by the direct engine."""

    def __init__(self, pack: Pack, spec: Spec) -> None:
        layer = pack.prepared
        assert layer is not None
        self._run = layer.run if spec is pack.spec else layer.with_steps(spec.steps).run
        out_channels, in_group = pack.parameters.weight.shape[:2]
        one_each = not spec.transposed and spec.groups == out_channels and in_group == 1
        self.depthwise = one_each and out_channels > 1
        self._taps, self._stride, self._span = spec.kernel_size, spec.stride, spec.span
        self.plain_run = None if self.depthwise else self._run

    def __call__(
        self,
        x: NDArray[Any],
        y: NDArray[Any],
        shift: int,
        residual: NDArray[Any] | None,
        origin: int,
        first: int,
    ) -> None:
        # Vectors run along the columns of both arrays or along the channels of both: mixed, 512
        # columns of 128 channels take 80 to 150 us instead of 20. Long kernels of many columns
        # are faster along those (512 channels, 31 taps, 512 columns: 0.26 and 1.5 ms), few
        # columns along the channels, even if they have to be brought there.
        size, n, target = y.itemsize, y.shape[2], y
        beside = x.strides[1] == size
        if beside:
            if self._taps > 8 and n > 32:
                x, beside = np.ascontiguousarray(x), False
        elif n <= 8 and 0 <= -shift <= x.shape[2] - (read := (n - 1) * self._stride + self._span):
            rows = x[:, :, -shift : -shift + read].swapaxes(1, 2)
            x, shift, beside = np.ascontiguousarray(rows).swapaxes(1, 2), 0, True
        if y.strides[1 if beside else 2] != size:
            if beside:
                target = arrays.new((y.shape[0], *y.shape[:0:-1]), y.dtype).swapaxes(1, 2)
            else:
                target = arrays.new(y.shape, y.dtype)
        self._run(x, target, shift, config.get_num_threads, residual)
        if target is not y:
            y[...] = target


class _Blas:
    """A convolution by the BLAS engine, in tiles at the places of a whole call's.

    The bits of a GEMM depend on the place of a column.
    """

    depthwise = False
    plain_run = None

    def __init__(self, pack: Pack, spec: Spec) -> None:
        self._spec, (self._weight, self._bias) = spec, pack.parameters
        columns = fixed_columns(self._weight.dtype.itemsize)
        self._tile = columns * spec.stride if spec.transposed else columns

    def __call__(
        self,
        x: NDArray[Any],
        y: NDArray[Any],
        shift: int,
        residual: NDArray[Any] | None,
        origin: int,
        first: int,
    ) -> None:
        steps = self._spec.steps
        x = before_sums(steps, x, self._weight)
        at, n = 0, y.shape[2]
        while at < n:
            skipped = (first + at) % self._tile
            end = min(n, at - skipped + self._tile)
            block = self._block(x, origin, first + at - skipped, end - at + skipped)
            part = np.ascontiguousarray(block[:, :, skipped:])
            more = None if residual is None else residual[:, :, at:end]
            after_sums(steps, part, more, y[:, :, at:end])
            at = end

    def _block(self, x: NDArray[Any], origin: int, first: int, n: int) -> NDArray[Any]:
        """Return n outputs; those that read positions before `origin` are of no account."""
        spec, weight = self._spec, self._weight
        left = spec.pads()[0]
        channels = weight.shape[1] * spec.groups if spec.transposed else weight.shape[0]
        y = arrays.new((x.shape[0], channels, n), weight.dtype)
        shift = first + left - origin * spec.stride if spec.transposed else 0
        if not spec.transposed:
            x = self._padded(x, origin, first * spec.stride - left, (n - 1) * spec.stride)
        place = spec.window._replace(left=shift, right=0, mode=geometry.ZEROS)
        primitive = scatter if spec.transposed else correlate
        primitive(x, weight, self._bias, y, place, (config.get_num_threads(), True))
        return y

    def _padded(self, x: NDArray[Any], origin: int, begin: int, reach: int) -> NDArray[Any]:
        """Return positions from `begin` on, what is beyond the ends of the sequences included."""
        index = np.arange(begin, begin + reach + self._spec.span)
        count = origin + x.shape[2]
        mode = self._spec.padding_mode
        absent = (index < origin) | (index >= count)
        if mode == "reflect":
            index = np.abs(index)
            index = np.where(index >= count, 2 * (count - 1) - index, index)
        elif mode == "replicate":
            index = np.clip(index, 0, count - 1)
        if mode != "zeros":
            absent = index < origin
        padded = x[:, :, np.clip(index - origin, 0, x.shape[2] - 1)]
        padded[:, :, absent] = 0
        return padded


class _Transforms:
    """A convolution by transforms where they are faster for the chunk: in parts of the kernel.

    Where that cannot be, or the chunk is long, what there is of the input is transformed anew.
    """

    plain_run = None

    def __init__(self, pack: Pack, spec: Spec, otherwise: _Packed | _Blas) -> None:
        self._spec, (self._weight, self._bias) = spec, pack.parameters
        self._otherwise, self.depthwise = otherwise, otherwise.depthwise
        self._spectra = fft.Spectra(self._weight, spec.groups, spec.dilation, spec.stride)
        self._parts: Partitions | None = None
        if partitions.suited(spec, self._weight):
            self._parts = Partitions(spec, self._weight, self._bias)

    def __call__(
        self,
        x: NDArray[Any],
        y: NDArray[Any],
        shift: int,
        residual: NDArray[Any] | None,
        origin: int,
        first: int,
    ) -> None:
        spec, n = self._spec, y.shape[2]
        deterministic = config.are_deterministic_algorithms_enabled()
        plain = x.dtype == self._weight.dtype and not deterministic
        if plain and n >= _LEAST and self._parts is not None and self._parts.suits(n):
            self._parts.compute(x, y, shift, residual, origin)
            return
        place = spec.window._replace(c_out=y.shape[1], l_out=y.shape[2], left=shift)
        operands = self._weight.shape, self._weight.dtype, place, spec.transposed
        if deterministic or not transforms_win(*operands, x.shape[2], y.shape[2], kept=True):
            self._otherwise(x, y, shift, residual, origin, first)
            return
        primitive = self._spectra.scatter if spec.transposed else self._spectra.correlate
        run, steps = config.execution(), spec.steps
        if primitive(x, self._weight, self._bias, y, place, run, steps, residual) is False:
            self._otherwise(x, y, shift, residual, origin, first)


# Columns of a chunk that parts of a kernel are for: 2,048 taps of 16 take some 1 us directly.
_LEAST = 16
_Kernel = _Packed | _Blas | _Transforms


class Correlate(Windows):
    """A `Conv1d`; the residual is its second source.

    Attributes
    ----------
    reach : int
        So many positions before the newest are what outputs to come may read.
    pads_zeros : bool
        Whether what is before the first position is zeros.
    """

    def __init__(self, spec: Spec, kernel: _Kernel, has_residual: bool) -> None:
        super().__init__(spec.span, spec.stride, *spec.pads())
        self._kernel, self._has_residual = kernel, has_residual
        self._run = kernel.plain_run
        self.side_by_side = kernel.depthwise
        mode = spec.padding_mode if self._left or self._right else "zeros"
        self._reflects = mode == "reflect"
        if mode == "reflect":  # which reads what it mirrors before there is an output
            self._waits, self._tail = self._left, self._right + 1
        elif mode == "replicate":
            self._tail = 1
        self.reach = max(self._span - 1, self._tail, self._waits)
        keeps_zeros = self._left == 0 or (mode == "zeros" and _keeps_zeros(spec))
        self._restarts = keeps_zeros and self._tail <= self._left < self._span
        self.pads_zeros = mode == "zeros"

    def first_from(self, position: int) -> int:
        return -(-(position + self._left) // self._stride)

    def read_by(self, outputs: int) -> int:
        return (outputs - 1) * self._stride - self._left + self._span

    def is_steady(self, output: int, inputs: int) -> bool:
        """Whether each input now gives one output, whose last tap is on it."""
        return self._stride == 1 and output == inputs + self._left - self._span + 1

    def final(self, counts: Sequence[int]) -> int:
        if counts[0] <= self._waits:
            return 0
        final = max(0, (counts[0] + self._left - self._span) // self._stride + 1)
        return min(final, counts[1]) if self._has_residual else final

    def total(self, counts: Sequence[int]) -> int:
        if self._reflects and counts[0]:
            shape = (1, 1, counts[0])
            geometry.check_padding_mode("reflect", shape, self._left, self._right)
        return super().total(counts)

    def first_read(self, source: int, output: int, counts: Sequence[int]) -> int:
        return output if source else super().first_read(source, output, counts)

    def restarts(self, output: int, counts: Sequence[int]) -> bool:
        in_step = counts[0] == output * self._stride and {output}.issuperset(counts[1:])
        return self._restarts and in_step

    def compute(
        self,
        given: Sequence[NDArray[Any]],
        origins: Sequence[int],
        first: int,
        out: NDArray[Any],
    ) -> None:
        residual = _residual(given, origins, first, out) if self._has_residual else None
        shift = self._left + origins[0] - first * self._stride
        if self._run is None:
            self._kernel(given[0], out, shift, residual, origins[0], first)
        else:
            self._run(given[0], out, shift, config.get_num_threads, residual)


class Scatter(Flow):
    """A `ConvTranspose1d`; the residual is its second source. See `Correlate`."""

    def __init__(self, spec: Spec, kernel: _Kernel, has_residual: bool) -> None:
        self._spec, self._kernel, self._has_residual = spec, kernel, has_residual
        self._run = kernel.plain_run
        self._left, right = spec.pads()
        # The end of the sequence crops this many outputs that are final.
        self._excess = spec.span + spec.output_padding - right - spec.stride
        held_back = max(0, -self._excess)
        self.reach = -(-(spec.span - 1 + held_back) // spec.stride) + 1
        self.rate = spec.stride, 1
        self._restarts = self._left == 0 and self._excess >= 0 and _keeps_zeros(spec)

    def first_from(self, position: int) -> int:
        return self._spec.first_from(position) - self._left

    def read_by(self, outputs: int) -> int:
        return self._spec.read_by(outputs + self._left)

    def final(self, counts: Sequence[int]) -> int:
        if counts[0] == 0:
            return 0
        raw = counts[0] * self._spec.stride + min(0, self._excess)
        final = max(0, raw - self._left)
        return min(final, counts[1]) if self._has_residual else final

    def total(self, counts: Sequence[int]) -> int:
        if counts[0] == 0:
            return 0
        return max(0, counts[0] * self._spec.stride + self._excess - self._left)

    def first_read(self, source: int, output: int, counts: Sequence[int]) -> int:
        if source:
            return output
        return min(counts[0], self._spec.first_read(output + self._left))

    def restarts(self, output: int, counts: Sequence[int]) -> bool:
        stride = self._spec.stride
        in_step = counts[0] * stride == output and {output}.issuperset(counts[1:])
        return self._restarts and in_step

    def compute(
        self,
        given: Sequence[NDArray[Any]],
        origins: Sequence[int],
        first: int,
        out: NDArray[Any],
    ) -> None:
        residual = _residual(given, origins, first, out) if self._has_residual else None
        shift = first + self._left - origins[0] * self._spec.stride
        if self._run is None:
            self._kernel(given[0], out, shift, residual, origins[0], first)
        else:
            self._run(given[0], out, shift, config.get_num_threads, residual)


def _residual(
    given: Sequence[NDArray[Any]], origins: Sequence[int], first: int, out: NDArray[Any]
) -> NDArray[Any]:
    begin = first - origins[1]
    return given[1][:, :, begin : begin + out.shape[2]]


def _keeps_zeros(spec: Spec) -> bool:
    """Whether positions of zeros are what a convolution reads beyond its input."""
    before = spec.steps.before
    return before is None or not activate(before, np.zeros((1, _channels(before), 1)), "NCL").any()


def _channels(activation: Any) -> int:
    return 1 if activation.alpha is None else int(activation.alpha.size)
