"""A convolution without weights and lengths: all that an engine, and so a bit, may depend on."""

from __future__ import annotations

from typing import Any, NamedTuple

from . import geometry
from .activations import Steps, parse_steps
from .engines import checked_algorithm
from .geometry import Geometry, as_index
from .reach import Reach

Shape = tuple[int, ...]

LAYOUTS = ("NCL", "NLC")


class Around(NamedTuple):
    """The keywords of what happens around the sums, in the order of `parse_steps`."""

    pre_activation: Any = None
    activation: Any = None
    residual_scale: Any = 1.0
    residual_position: Any = "before"


class Spec(NamedTuple):
    """The parameters of a convolution.

    A layer's are checked when they are set (`checked_spec`). Those of a function call are as the
    user gave them, and checked when they are used: the order of errors is that of a plain call.

    Attributes
    ----------
    transposed : bool
    kernel_size, stride, dilation, groups, output_padding : int
    padding : int, tuple of one or two ints, or str
    padding_mode : str
    around : Around
        What happens around the sums, as given.
    steps : Steps or None
        What that means; not yet known of a function call.
    layout : str
    algorithm : str
    """

    transposed: bool
    kernel_size: int
    stride: Any = 1
    dilation: Any = 1
    groups: Any = 1
    output_padding: Any = 0
    padding: Any = 0
    padding_mode: Any = "zeros"
    around: Around = Around()
    steps: Any = Steps()
    layout: Any = "NCL"
    algorithm: Any = "auto"

    @property
    def rank(self) -> int:
        """How many dimensions a kernel has."""
        return 1

    @property
    def name(self) -> str:
        """The function that computes it."""
        return "conv_transpose1d" if self.transposed else "conv1d"

    @property
    def channels_last(self) -> bool:
        """Whether arrays are (N, L, C); raises what is wrong with the layout."""
        return checked_layout(self.layout) == "NLC"

    @property
    def span(self) -> int:
        """From the first tap to the last, both included."""
        return self.dilation * (self.kernel_size - 1) + 1

    @property
    def same(self) -> int:
        """1 for 'same_upper' and 2 for 'same_lower' where they depend on the input's length."""
        if self.transposed or not geometry.pads_follow_length(self.padding, self.stride):
            return 0
        return 1 if self.padding == "same_upper" else 2

    def pads(self, l_in: int = 1) -> tuple[int, int]:
        """Return the padding, or the cropping of a transposed convolution."""
        window = self.padding, self.kernel_size, self.stride, self.dilation
        if self.transposed:
            return geometry.resolve_cropping(*window)
        return geometry.resolve_padding(*window, l_in)

    @property
    def window(self) -> Geometry:
        """The geometry of a layer, without lengths."""
        mode = geometry.PADDING_MODES[self.padding_mode]
        return Geometry(0, 0, self.stride, self.dilation, *self.pads(), self.groups, mode)

    def geometry(self, x: Shape, weight: Shape, bias: Shape | None) -> Geometry:
        """Return the geometry for operands of these shapes; raises whatever does not fit."""
        if self.transposed:
            return geometry.conv_transpose_geometry(
                x,
                weight,
                bias,
                self.stride,
                self.padding,
                self.output_padding,
                self.groups,
                self.dilation,
                self.padding_mode,
            )
        return geometry.conv_geometry(
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
            return self.steps
        return parse_steps(*self.around, (c_in, c_out))

    def reach(self, l_in: int) -> Reach:
        """Return which inputs an output reads, both counted from the first of the call."""
        left = self.pads(l_in)[0]
        if self.transposed:
            return Reach(1, self.stride, self.span - 1 - left, left)
        return Reach(self.stride, 1, left, self.span - 1 - left)

    # ---- which positions outputs read: those of the padded input, of a transposed convolution
    # those of its input; outputs are counted from before any cropping

    def first_read(self, output: int) -> int:
        """Return the first position that an output reads."""
        if self.transposed:
            return max(0, -(-(output - self.span + 1) // self.stride))
        return output * self.stride

    def read_by(self, outputs: int) -> int:
        """Return how many positions the first so many outputs read."""
        if self.transposed:
            return (outputs - 1) // self.stride + 1
        return (outputs - 1) * self.stride + self.span

    def first_from(self, position: int) -> int:
        """Return the first output that reads no position before this one."""
        if self.transposed:
            return position * self.stride + self.span - 1
        return -(-position // self.stride)

    def shift(self, origin: int, output: int) -> int:
        """Return the padding or cropping with which `output` is the first, `origin` the input's."""
        if self.transposed:
            return output - origin * self.stride
        return origin - output * self.stride


def checked_layout(layout: Any) -> str:
    """Return `layout` if it is 'NCL' or 'NLC', otherwise raise ValueError.

    Examples
    --------
    >>> from fastconv1d.core.spec import checked_layout
    >>> checked_layout("NLC")
    'NLC'
    """
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise ValueError(f"layout should be 'NCL' or 'NLC', got {geometry.shown(layout)}")
    return layout


def checked_spec(
    transposed: bool,
    kernel_size: int,
    channels: tuple[int, int],
    stride: Any,
    padding: Any,
    output_padding: Any,
    dilation: Any,
    groups: Any,
    padding_mode: Any,
    algorithm: Any,
    around: Around,
    layout: Any,
) -> Spec:
    """Return the spec of a layer with so many channels in and out, or raise what is wrong.

    Examples
    --------
    >>> from fastconv1d.core.spec import Around, checked_spec
    >>> spec = checked_spec(
    ...     False, 3, (4, 8), (2,), "causal", 0, 1, 2, "zeros", "auto", Around(), "NCL"
    ... )
    >>> spec.stride, spec.pads(), spec.span
    (2, (2, 0), 3)
    """
    stride, dilation = as_index("stride", stride), as_index("dilation", dilation)
    output_padding, groups = as_index("output_padding", output_padding), as_index("groups", groups)
    geometry.check_positive(stride, dilation, groups)
    for name, count in zip(("in_channels", "out_channels"), channels, strict=True):
        if count % groups:
            raise ValueError(
                f"{name} must be divisible by groups, got {name}={count} and groups={groups}"
            )
    geometry.resolve_mode(padding_mode)
    spec = Spec(transposed, kernel_size, stride, dilation, groups, output_padding)
    spec = spec._replace(padding=_checked_padding(spec, padding), padding_mode=padding_mode)
    spec = spec._replace(algorithm=checked_algorithm(algorithm), layout=checked_layout(layout))
    return spec._replace(around=around, steps=parse_steps(*around, channels))


def _checked_padding(spec: Spec, padding: Any) -> tuple[int, ...] | str:
    """Return the padding as layers show it: a string, or a tuple of one int or two."""
    strings = geometry.PADDING_STRINGS
    if isinstance(padding, str) and not spec.transposed and padding not in strings:
        raise ValueError(
            f"Invalid padding string {geometry.shown(padding)}, "
            f"should be one of {{{', '.join(map(repr, strings))}}}"
        )
    left, right = spec._replace(padding=padding).pads()
    if isinstance(padding, str):
        return padding
    return (left, right) if isinstance(padding, (tuple, list)) and len(padding) == 2 else (left,)
