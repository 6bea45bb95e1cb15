"""A convolution of two dimensions without weights and sizes, as `Spec` is one of a single one."""

from __future__ import annotations

from typing import Any, NamedTuple

from . import geometry, geometry2d
from .activations import Steps, parse_steps
from .engines import checked_algorithm
from .geometry import as_index, shown
from .geometry2d import (
    Axis,
    Geometry2d,
    Pair,
    as_pair,
    axis_paddings,
    conv2d_geometry,
    resolve_pads,
)
from .spec import Around, Shape

LAYOUTS = ("NCHW", "NHWC")


class Spec2d(NamedTuple):
    """The parameters of a convolution of two dimensions; the attributes as those of `Spec`."""

    kernel_size: Any = (1, 1)
    stride: Any = 1
    dilation: Any = 1
    groups: Any = 1
    padding: Any = 0
    padding_mode: Any = "zeros"
    around: Around = Around()
    steps: Any = Steps()
    layout: Any = "NCHW"
    algorithm: Any = "auto"

    @property
    def rank(self) -> int:
        """As that of `Spec`."""
        return 2

    @property
    def name(self) -> str:
        """The function that computes it."""
        return "conv2d"

    @property
    def transposed(self) -> bool:
        """As that of `Spec`."""
        return False

    @property
    def channels_last(self) -> bool:
        """Whether arrays are (N, H, W, C); raises what is wrong with the layout."""
        return checked_layout2d(self.layout) == "NHWC"

    @property
    def same(self) -> int:
        """As that of `Spec`."""
        if not geometry.pads_follow_length(self.padding, max(self.stride)):
            return 0
        return 1 if self.padding == "same_upper" else 2

    @property
    def mode(self) -> int:
        """The kernels' number of the padding mode."""
        return geometry.PADDING_MODES[self.padding_mode]

    def pads(self) -> tuple[Pair, Pair]:
        """Return ``(top, bottom), (left, right)``."""
        return resolve_pads(self.padding, self.kernel_size, self.stride, self.dilation)

    @property
    def window(self) -> Geometry2d:
        """The geometry without what follows from sizes."""
        pads = self.pads()
        rows, columns = (Axis(self.stride[i], self.dilation[i], *pads[i]) for i in range(2))
        return Geometry2d(0, 0, 0, rows, columns, self.groups, self.mode)

    def geometry(self, x: Shape, weight: Shape, bias: Shape | None) -> Geometry2d:
        """Return the geometry for operands of these shapes; raises whatever does not fit."""
        return conv2d_geometry(
            x,
            weight,
            bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.padding_mode,
        )

    def steps_for(self, c_in: int, c_out: int) -> Steps:
        """Return the steps; raises what does not fit the channels."""
        if self.steps is not None:
            steps: Steps = self.steps
            return steps
        return parse_steps(*self.around, (c_in, c_out))


def checked_layout2d(layout: Any) -> str:
    """Return `layout` if it is 'NCHW' or 'NHWC', otherwise raise ValueError.

    Examples
    --------
    >>> from fastconv1d.core.spec2d import checked_layout2d
    >>> checked_layout2d("NHWC")
    'NHWC'
    """
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise ValueError(f"layout should be 'NCHW' or 'NHWC', got {shown(layout)}")
    return layout


def checked_spec2d(
    kernel_size: Pair,
    channels: tuple[int, int],
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    padding_mode: Any,
    algorithm: Any,
    around: Around,
    layout: Any,
) -> Spec2d:
    """Return the spec of a layer with so many channels in and out, or raise what is wrong.

    Examples
    --------
    >>> from fastconv1d.core.spec import Around
    >>> from fastconv1d.core.spec2d import checked_spec2d
    >>> spec = checked_spec2d((3, 5), (4, 8), 2, "valid", 1, 2, "zeros", "auto", Around(), "NCHW")
    >>> spec.stride, spec.pads()
    ((2, 2), ((0, 0), (0, 0)))
    """
    stride, dilation = as_pair("stride", stride), as_pair("dilation", dilation)
    groups = as_index("groups", groups)
    geometry2d.check_steps(stride, dilation, groups)
    for name, count in zip(("in_channels", "out_channels"), channels, strict=True):
        if count % groups:
            raise ValueError(
                f"{name} must be divisible by groups, got {name}={count} and groups={groups}"
            )
    geometry.resolve_mode(padding_mode)
    spec = Spec2d(kernel_size, stride, dilation, groups, padding, padding_mode)
    spec = spec._replace(padding=_checked_padding(spec, padding))
    spec = spec._replace(algorithm=checked_algorithm(algorithm), layout=checked_layout2d(layout))
    return spec._replace(around=around, steps=parse_steps(*around, channels))


def _checked_padding(spec: Spec2d, padding: Any) -> Any:
    """Return the padding as layers show it: a string, two ints, or two pairs."""
    pads = spec.pads()
    if isinstance(padding, str):
        return padding
    if any(isinstance(pad, (tuple, list)) for pad in axis_paddings(padding)):
        return pads
    return pads[0][0], pads[1][0]


def checked_kernel2d(kernel_size: Any) -> Pair:
    """Return the size of a kernel as a pair.

    Examples
    --------
    >>> from fastconv1d.core.spec2d import checked_kernel2d
    >>> checked_kernel2d(3)
    (3, 3)
    """
    pair = as_pair("kernel_size", kernel_size)
    if min(pair) < 0:
        raise ValueError(
            f"Trying to create tensor with negative dimension {min(pair)}: kernel_size should not "
            f"be negative, got kernel_size={kernel_size}"
        )
    return pair
