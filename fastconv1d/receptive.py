"""Which inputs an output of a network reads."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .core.geometry import as_index
from .core.program import Convolve, check_lines, infer_shapes, naming, simplified
from .core.reach import reach_of
from .sequential import lowered

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .core.program import Operation
    from .core.reach import Reach

# Outputs after which upsampling layers repeat how they read; HiFi-GAN has 256.
_LONGEST_PERIOD = 1 << 16


class ReceptiveField(NamedTuple):
    """What output o reads: inputs from ``o*stride - left`` to ``o*stride + right``, ends included.

    Attributes
    ----------
    length : int
        How many inputs lie between the first and the last that an output reads, both included; the
        most of all outputs.
    stride : int or Fraction
        The step along the input from one output to the next, below 1 where a network upsamples.
    left, right : int or Fraction
        How far an output reads to both sides; negative where it reads on the other side only.

    Examples
    --------
    >>> from fastconv1d import Conv1d, receptive_field
    >>> field = receptive_field(Conv1d(1, 1, 5, padding="causal"))
    >>> field.length, field.right
    (5, 0)
    """

    length: int
    stride: int | Fraction
    left: int | Fraction
    right: int | Fraction


def receptive_field(network: Any, length: int | None = None) -> ReceptiveField:
    """Return how many inputs an output of a network reads, and where they lie.

    Parameters
    ----------
    network : Layer
        A layer, or a network of layers.
    length : int, optional
        Of the input. Needed only where 'same_upper' or 'same_lower' meets a stride, whose padding
        depends on it.

    Returns
    -------
    ReceptiveField
        Named tuple of `length`, `stride`, `left` and `right`.

    Raises
    ------
    ValueError
        If a layer's outputs read no window of the input that moves along with them, or branches
        have different strides; the text names the layer.
    TypeError
        If `network` is none of these, or a layer has a forward of its own.

    Notes
    -----
    It is what tiling, streaming and latency are made of: an input at ``o*stride + right`` has to be
    there for output o. Padding counts as inputs. `padding_mode` 'reflect' and 'circular' read
    elsewhere near the ends of the input, which is no part of this. Where a transposed layer leaves
    gaps, by a dilation or a stride above its kernel size, the field is what all of its windows
    span: single outputs may read less.

    Examples
    --------
    >>> from fastconv1d import Conv1d, ConvTranspose1d, ReLU, Residual, Sequential, receptive_field
    >>> receptive_field(Sequential(Conv1d(1, 8, 7, stride=2, padding=3), ReLU(), Conv1d(8, 8, 3)))
    ReceptiveField(length=11, stride=2, left=3, right=7)

    A stack of dilated causal layers reads no input after its output:

    >>> layers = [Residual(Conv1d(4, 4, 2, dilation=2**i, padding="causal")) for i in range(10)]
    >>> receptive_field(Sequential(*layers))
    ReceptiveField(length=1024, stride=1, left=1023, right=0)

    >>> receptive_field(ConvTranspose1d(4, 4, 8, stride=4, padding=2))
    ReceptiveField(length=2, stride=Fraction(1, 4), left=Fraction(5, 4), right=Fraction(1, 2))
    """
    operations = lowered(network)
    check_lines(operations)
    lengths = _lengths(operations, length)
    operations = simplified(operations)
    reaches = _reaches(operations, lengths)
    strides = _strides(operations, reaches)
    stride = strides[operations[-1].target if operations else 0]
    period = math.lcm(*((stride / other).denominator for other in strides.values()))
    if period > _LONGEST_PERIOD:
        raise ValueError(
            f"the outputs of a network should repeat how they read after at most {_LONGEST_PERIOD} "
            f"of them, got {period}: the product of the strides that upsample is too large"
        )
    read = [(o * stride, *_hull(operations, reaches, o)) for o in range(period)]
    read = [(at, first, last) for at, first, last in read if first <= last]
    return ReceptiveField(
        max((last - first + 1 for _, first, last in read), default=0),
        _plain(stride),
        _plain(max((at - first for at, first, _ in read), default=Fraction(0))),
        _plain(max((last - at for at, _, last in read), default=Fraction(0))),
    )


def _lengths(operations: Sequence[Operation], length: int | None) -> list[int | None]:
    """Return the length of each value, None where it is not known."""
    lengths: list[int | None] = [None] * (len(operations) + 1)
    if length is not None:
        convolutions = [op.layer for op in operations if isinstance(op, Convolve)]
        channels = convolutions[0].in_channels if convolutions else 1
        dtype = convolutions[0].dtype if convolutions else np.dtype(np.float32)
        shape = (1, channels, as_index("length", length))
        lengths = [n for _, _, n in infer_shapes(operations, shape, dtype)]
    return lengths


def _reaches(operations: Sequence[Operation], lengths: Sequence[int | None]) -> list[Reach]:
    reaches = []
    for operation in operations:
        with naming(operation):
            reaches.append(reach_of(operation, lengths[operation.sources[0]]))
    return reaches


def _strides(operations: Sequence[Operation], reaches: Iterable[Reach]) -> dict[int, Fraction]:
    """Return the step along the input from one element of each value to the next."""
    strides = {0: Fraction(1)}
    for operation, reach in zip(operations, reaches, strict=True):
        given = {strides[source] for source in operation.sources}
        if len(given) > 1:
            with naming(operation):
                raise ValueError(
                    "what is joined should have one stride, got "
                    + " and ".join(map(str, sorted(given)))
                )
        strides[operation.target] = strides[operation.sources[0]] * reach.down / reach.up
    return strides


def _hull(
    operations: Sequence[Operation], reaches: Sequence[Reach], output: int
) -> tuple[int, int]:
    """Return the first and the last input that an output reads; the other way round if none."""
    nothing = math.inf, -math.inf
    hulls: dict[int, tuple[float, float]] = {
        operations[-1].target if operations else 0: (output, output)
    }
    for operation, reach in zip(reversed(operations), reversed(reaches), strict=True):
        first, last = hulls.get(operation.target, nothing)
        if first > last:
            continue
        first, last = reach.first(int(first)), reach.last(int(last))
        if first > last:
            continue
        for source in operation.sources:
            others = hulls.get(source, nothing)
            hulls[source] = min(others[0], first), max(others[1], last)
    first, last = hulls.get(0, nothing)
    return (int(first), int(last)) if first <= last else (1, 0)


def _plain(value: Fraction) -> int | Fraction:
    return value.numerator if value.denominator == 1 else value
