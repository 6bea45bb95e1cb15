"""torch's convolution of two dimensions, computed here without gradients.

Gradients are torch's: `fastconv1d.conv2d_backward` takes 1/4.6 to 5.8 times as long over the layers
of ``benchmarks/layers2d.csv``, dense ones of 3 by 3 taps 1.2 to 1.4 times, the worst, of 64 rows
and one column, 5.8, and a call that needs gradients would pack its weight for itself.
"""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, from_numpy, nn
from torch.nn import functional as F  # noqa: F401  for torch.jit.script, as the next
from torch.nn.modules.utils import _pair  # noqa: F401

from ..core import planes
from ..core.engines import ENGINES
from ..core.geometry import PADDING_MODES
from ..core.spec2d import Spec2d
from ..kernels.direct_engine import PreparedLayer
from .layers import Fast, Shape, _geometry_of, _integer, _only, _own
from .operators import KERNELS, num_threads, operands


def two(value: Any) -> tuple[int, int]:
    """The two ints of what torch takes for rows and columns without further ado, otherwise -1."""
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return _integer(value[0]), _integer(value[1])
    one = -1 if isinstance(value, (tuple, list)) else _only(value)
    return one, one


def spec_of(
    kernel: tuple[int, int],
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    mode: Any = "zeros",
    margins: tuple[Any, ...] = (),
) -> Spec2d | None:
    """What the arguments of torch's function, or layer, say; None for what it may refuse.

    `margins` are what a layer pads with in other modes than zeros: left, right, top, bottom.
    """
    strides, dilations = two(stride), two(dilation)
    if mode != "zeros":
        if not isinstance(mode, str) or mode not in PADDING_MODES or len(margins) != 4:
            return None
        left, right, top, bottom = map(_integer, margins)
    elif isinstance(padding, str):
        if padding not in ("same", "valid") or (padding == "same" and strides != (1, 1)):
            return None
        adds = padding == "same"
        down, across = (dilations[i] * (kernel[i] - 1) if adds else 0 for i in range(2))
        top, left = down // 2, across // 2
        bottom, right = down - top, across - left
    else:
        (top, left) = (bottom, right) = two(padding)
    one = _integer(groups)
    rows = _geometry_of(strides[0], top, dilations[0], one, bottom, mode, 0)
    columns = _geometry_of(strides[1], left, dilations[1], one, right, mode, 0)
    if rows is None or columns is None:
        return None
    return Spec2d(kernel, strides, dilations, one, ((top, bottom), (left, right)), mode)


def is_nchw(tensor: Tensor) -> bool:
    """Whether rows are what lies side by side: of other layouts torch makes outputs of those."""
    *_, channels, row, column = tensor.stride()
    return column == 1 and row >= 1 and (channels > 1 or tensor.shape[-1] * tensor.shape[-2] == 1)


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None, spec: Spec2d) -> NDArray[Any] | None:
    """The output of a call of torch's function, or None where torch should compute or raise."""
    a, w, b = operands(x, weight, bias)
    shape = a.shape if a.ndim == 4 else (1, *a.shape)
    spec.geometry(shape, w.shape, None if b is None else b.shape)
    layer = planes.prepare(w, b, spec)
    return None if layer is None else layer(a, num_threads)


class FastConv2d(Fast, nn.Conv2d):
    """`torch.nn.Conv2d` computed by fastconv1d; see `accelerate`. Gradients are torch's.

    Parameters
    ----------
    *args, **kwargs
        As for `torch.nn.Conv2d`.

    Notes
    -----
    Inputs of other layouts than (N, C, H, W), ``torch.channels_last`` for one, are torch's, which
    makes outputs of the same layout. The class is equal to `torch.nn.Conv2d`, as that of
    `FastConv1d` to `torch.nn.Conv1d`.

    Examples
    --------
    >>> import torch
    >>> from fastconv1d.torch import FastConv2d
    >>> FastConv2d(4, 8, (3, 1))(torch.zeros(2, 4, 20, 1)).shape
    torch.Size([2, 8, 18, 1])
    """

    _torchs = _base = nn.Conv2d
    _asked = "_conv_forward"
    _below = _own(nn.Conv2d._conv_forward)
    _is_scatter = False
    _rank = 2
    _takes_lines = False  # those inputs only whose axis beside a kernel of one row has one element

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer, as `torch.nn.Conv2d` does.

        Parameters
        ----------
        input : Tensor of shape (N, C_in, H, W) or (C_in, H, W)

        Returns
        -------
        Tensor of shape (N, C_out, H_out, W_out) or (C_out, H_out, W_out)

        Raises
        ------
        RuntimeError
            As torch does.

        Examples
        --------
        >>> import torch
        >>> from fastconv1d.torch import FastConv2d
        >>> FastConv2d(4, 8, (1, 3)).forward(torch.zeros(2, 4, 1, 20)).shape
        torch.Size([2, 8, 1, 18])
        """
        output = self._forward(input) if isinstance(self, Fast) else None  # or was given back
        return nn.Conv2d.forward(self, input) if output is None else output

    def _conv_forward(self: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What subclasses with a `_conv_forward` of their own ask for."""
        output = Fast._handed(self, FastConv2d, input, weight, bias)
        return nn.Conv2d._conv_forward(self, input, weight, bias) if output is None else output

    _asked_function = _conv_forward

    def _without_gradients(
        self: Any,
        input: Tensor,
        parts: tuple[Tensor, ...],
        weight: Tensor | None,
        norm: Any,
        bias: Tensor | None,
    ) -> Tensor | None:
        if not self._fits(input, parts, weight):
            return None
        output: Tensor | None = super()._without_gradients(input, parts, weight, norm, bias)
        return output

    def _fits(
        self: Any, input: Tensor, parts: tuple[Tensor, ...], weight: Tensor | None = None
    ) -> bool:
        """Whether torch would make an output of the layout that is made here, too."""
        if input.dim() not in (3, 4) or not is_nchw(input):
            return False
        if self._takes_lines:
            axis = self._other_axis(self.weight if weight is None else weight)
            if axis is None or input.shape[axis - 4] != 1:
                return False
        return all(part.dim() != 4 or is_nchw(part) for part in parts)

    def _other_axis(self: Any, weight: Tensor) -> int | None:
        """The axis along which the kernel has one element."""
        if weight.dim() != 4:
            return None
        for axis in (3, 2):
            if weight.shape[axis] == 1 and weight.shape[5 - axis] > 1:
                return axis
        return None

    def _is_worth(self, input: Tensor, weight: Tensor) -> bool:
        return False

    def _geometry(self: Any, *kernel: Any) -> Spec2d | None:
        mode = self.padding_mode
        margins = () if isinstance(mode, str) and mode == "zeros" else self._margins()
        rows, columns = kernel
        return spec_of(
            (rows, columns), self.stride, self.padding, self.dilation, self.groups, mode, margins
        )

    def _check(self, x: Shape, w: Shape, b: Shape | None, geometry: Spec2d) -> None:
        geometry.geometry(x, w, b)

    def _step(self, geometry: Spec2d) -> int:
        return math.prod(geometry.stride)

    def _chosen(self: Any, weight: NDArray[Any], g: Spec2d, algorithm: str) -> str:
        engine = planes.engine_of("auto", weight.dtype.char, weight.shape, g.window)
        return "direct" if engine is ENGINES["direct"] else "torch"

    def _prepared(
        self: Any, weight: NDArray[Any], bias: NDArray[Any] | None, g: Spec2d, algorithm: str
    ) -> PreparedLayer | None:
        return planes.prepare(weight, bias, g)

    def _differentiable(
        self: Any, ops: Any, x: Tensor, weight: Tensor, bias: Tensor | None, output_size: Any
    ) -> Tensor | None:
        if ops is not KERNELS or not self._fits(x, (weight,), weight):
            return None
        spec = self._geometry_for(weight)
        if spec is None:
            return None
        output = convolved(x, weight, bias, spec)
        return None if output is None else from_numpy(output)


# torch.jit.script compiles the source that it finds here, torch's
for _ours, _torchs in (
    (FastConv2d.forward, nn.Conv2d.forward),
    (FastConv2d._conv_forward, nn.Conv2d._conv_forward),
):
    setattr(_ours, "__wrapped__", _torchs)  # noqa: B010
