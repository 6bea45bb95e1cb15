"""Sizes and padding of two dimensions: the rules of `geometry` for rows and for columns."""

from __future__ import annotations

from typing import Any, NamedTuple

from . import geometry
from .geometry import as_index, shown

Shape = tuple[int, ...]
Pair = tuple[int, int]

PADDING_STRINGS = ("valid", "same", "same_upper", "same_lower")


class Axis(NamedTuple):
    """Stride, dilation and padding of rows or of columns."""

    stride: int
    dilation: int
    before: int
    after: int


class Geometry2d(NamedTuple):
    """What the kernels need to know of a convolution of two dimensions with sizes, checked."""

    c_out: int
    rows_out: int
    columns_out: int
    down: Axis
    across: Axis
    groups: int
    mode: int

    @property
    def line(self) -> geometry.Geometry:
        """The geometry of a row."""
        stride, dilation, left, right = self.across
        return geometry.Geometry(
            self.c_out, self.columns_out, stride, dilation, left, right, self.groups, self.mode
        )


def as_pair(name: str, value: Any) -> Pair:
    """Return `value`, an int or a sequence of one or two, as two ints.

    Examples
    --------
    >>> from fastconv1d.core.geometry2d import as_pair
    >>> as_pair("stride", 2), as_pair("stride", (2, 1))
    ((2, 2), (2, 1))
    """
    if isinstance(value, (tuple, list)):
        if len(value) not in (1, 2):
            raise ValueError(
                f"expected {name} to be a single integer value or a list of 2 values to match the "
                f"convolution dimensions, but got {name}={shown(list(value))}"
            )
        return as_index(name, value[0]), as_index(name, value[-1])
    one = as_index(name, value)
    return one, one


def axis_paddings(padding: Any) -> tuple[Any, Any]:
    """Return the padding of rows and of columns, as `geometry.resolve_padding` takes it.

    Examples
    --------
    >>> from fastconv1d.core.geometry2d import axis_paddings
    >>> axis_paddings((1, 2)), axis_paddings(((0, 1), (2, 3))), axis_paddings("same")
    ((1, 2), ((0, 1), (2, 3)), ('same', 'same'))
    """
    if isinstance(padding, str):
        if padding not in PADDING_STRINGS:
            raise ValueError(
                f"Invalid padding string {shown(padding)}, "
                f"should be one of {{{', '.join(map(repr, PADDING_STRINGS))}}}"
            )
        return padding, padding
    if isinstance(padding, (tuple, list)) and len(padding) == 2:
        if any(isinstance(pad, str) for pad in padding):
            raise TypeError(
                f"padding should be ints, pairs of ints or one string, got {shown(padding)}"
            )
        return padding[0], padding[1]
    return as_pair("padding", padding)


def resolve_pads(
    padding: Any, kernel: Pair, stride: Pair, dilation: Pair, size: Pair = (1, 1)
) -> tuple[Pair, Pair]:
    """Return ``(top, bottom), (left, right)``.

    Examples
    --------
    >>> from fastconv1d.core.geometry2d import resolve_pads
    >>> resolve_pads("same", (3, 4), (1, 1), (1, 1))
    ((1, 1), (1, 2))
    """
    down, across = axis_paddings(padding)
    return (
        geometry.resolve_padding(down, kernel[0], stride[0], dilation[0], size[0]),
        geometry.resolve_padding(across, kernel[1], stride[1], dilation[1], size[1]),
    )


def check_steps(stride: Pair, dilation: Pair, groups: int) -> None:
    """Raise ValueError unless all are positive."""
    for axis in range(2):
        geometry.check_positive(stride[axis], dilation[axis], groups)


def conv2d_geometry(
    x_shape: Shape,
    w_shape: Shape,
    bias_shape: Shape | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    padding_mode: Any,
) -> Geometry2d:
    """Check a convolution of a batched input (N, C_in, H_in, W_in); the rest as the user gave it.

    Raises
    ------
    ValueError, TypeError, OverflowError
        If torch would refuse the call.

    Examples
    --------
    >>> from fastconv1d.core.geometry2d import conv2d_geometry
    >>> conv2d_geometry((1, 4, 9, 8), (6, 4, 3, 3), None, (2, 1), 0, 1, 1, "zeros")[:3]
    (6, 4, 6)
    """
    stride, dilation = as_pair("stride", stride), as_pair("dilation", dilation)
    groups = as_index("groups", groups)
    if len(w_shape) != 4:
        raise ValueError(
            f"Expected {len(w_shape)}-dimensional input for {len(w_shape)}-dimensional weight "
            f"{list(w_shape)}, but got 4-dimensional input of size {list(x_shape)} instead"
        )
    check_steps(stride, dilation, groups)
    size, kernel = (x_shape[2], x_shape[3]), w_shape[2:]
    pads = resolve_pads(padding, kernel, stride, dilation, size)
    c_out, c_in = w_shape[0], x_shape[1]
    if (
        c_out < groups
        or c_out % groups
        or c_in != w_shape[1] * groups
        or 0 in kernel
        or (bias_shape is not None and bias_shape != (c_out,))
    ):
        geometry.explain_channels(x_shape, w_shape, bias_shape, groups)
    mode = geometry.resolve_mode(padding_mode)
    for axis in range(2) if mode else ():
        line = (*x_shape[:2], size[axis])
        geometry.check_padding_mode(padding_mode, line, *pads[axis])
    lengths = [(size[i] + sum(pads[i]), dilation[i] * (kernel[i] - 1) + 1) for i in range(2)]
    longest = max(max(pair) for pair in lengths)
    if longest > geometry.INT64_MAX:
        raise OverflowError(
            "the size of the padded input or dilated kernel should be at most "
            f"{geometry.INT64_MAX}, got {longest}"
        )
    if any(extent > padded for padded, extent in lengths):
        (high, rows), (wide, columns) = lengths
        raise ValueError(
            f"Calculated padded input size per channel: ({high} x {wide}). "
            f"Kernel size: ({rows} x {columns}). "
            "Kernel size can't be greater than actual input size"
        )
    out = [(lengths[i][0] - lengths[i][1]) // stride[i] + 1 for i in range(2)]
    if 0 in size and x_shape[0] and c_in:
        geometry.refuse_empty(x_shape)
    axes = [
        Axis(*geometry.tamed(stride[i], dilation[i], out[i], kernel[i]), *pads[i]) for i in range(2)
    ]
    return Geometry2d(c_out if c_in else 0, out[0], out[1], axes[0], axes[1], groups, mode)


def unfold2d_geometry(
    planes: Shape, kernel_size: Any, dilation: Any, padding: Any, stride: Any
) -> tuple[Pair, Geometry2d]:
    """Check `unfold2d` of planes (C, H, W); return the kernel's size and the geometry.

    Raises
    ------
    ValueError, TypeError, OverflowError
        If torch's Unfold would refuse the call.

    Examples
    --------
    >>> from fastconv1d.core.geometry2d import unfold2d_geometry
    >>> unfold2d_geometry((1, 4, 5), 2, 1, 0, 1)[1][1:3]
    (3, 4)
    """
    kernel, stride = as_pair("kernel_size", kernel_size), as_pair("stride", stride)
    dilation = as_pair("dilation", dilation)
    for name, pair in (("kernel size", kernel), ("stride", stride), ("dilation", dilation)):
        if min(pair) <= 0:
            raise ValueError(f"{name} should be greater than zero, but got {pair}")
    if isinstance(padding, str):
        raise TypeError(f"padding should be ints or pairs of ints, got {shown(padding)}")
    try:
        pads = resolve_pads(padding, kernel, stride, dilation)
    except ValueError as error:
        raise ValueError(f"padding should be non-negative: {error}") from None
    if 0 in planes:
        raise ValueError(
            "Expected 3D or 4D (batch mode) tensor with possibly 0 batch size and other non-zero "
            f"dimensions for input, but got: {list(planes)}"
        )
    blocks = [
        (planes[1 + i] + sum(pads[i]) - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in range(2)
    ]
    if min(blocks) < 1:
        raise ValueError(
            f"Given input with spatial size {planes[1:]}, kernel_size={kernel}, "
            f"dilation={dilation}, padding={pads}, calculated shape of the array of sliding blocks "
            f"as {tuple(blocks)}, but its components must be at least one."
        )
    axes = [Axis(stride[i], dilation[i], *pads[i]) for i in range(2)]
    return kernel, Geometry2d(planes[0], blocks[0], blocks[1], axes[0], axes[1], 1, geometry.ZEROS)


def fold2d_geometry(
    x_shape: Shape, output_size: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any
) -> tuple[Pair, int, Pair, Geometry2d]:
    """Check `fold2d` of batched columns; return the kernel's size, channels, size and geometry.

    Raises
    ------
    ValueError, TypeError, OverflowError
        If torch's Fold would refuse the call.

    Examples
    --------
    >>> from fastconv1d.core.geometry2d import fold2d_geometry
    >>> fold2d_geometry((1, 8, 12), (4, 5), 2, 1, 0, 1)[:3]
    ((2, 2), 2, (4, 5))
    """
    size, kernel = as_pair("output_size", output_size), as_pair("kernel_size", kernel_size)
    _, rows, columns = x_shape
    if min(size) < 1:
        raise ValueError(f"Expected output spatial size to be positive, but got: {size}")
    if rows == 0 or columns == 0:
        raise ValueError(
            "Expected 2D or 3D (batch mode) tensor for input with possibly 0 batch size and "
            f"non-zero dimensions for input, but got: {list(x_shape)}"
        )
    taps = kernel[0] * kernel[1]
    if min(kernel) > 0 and rows % taps:
        raise ValueError(
            "Expected size of input's dimension 1 to be divisible by the product of kernel_size, "
            f"but got input.size(1)={rows} and kernel_size={kernel}."
        )
    channels = rows // taps if min(kernel) > 0 else 1
    kernel, window = unfold2d_geometry((channels, *size), kernel, dilation, padding, stride)
    blocks = window.rows_out * window.columns_out
    if blocks != columns:
        raise ValueError(
            f"Given output_size={size}, kernel_size={kernel}, dilation={dilation}, "
            f"padding={padding}, stride={stride}, expected size of input's dimension 2 to match "
            f"the calculated number of sliding blocks {window.rows_out} * {window.columns_out} = "
            f"{blocks}, but got input.size(2)={columns}."
        )
    return kernel, channels, size, window
