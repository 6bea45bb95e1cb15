"""Convolutions of two dimensions whose kernel and input have one, computed as what they are."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .layers import Fast, _Geometry, _geometry_of, _integer


class FastConv2d(Fast, nn.Conv2d):
    """`torch.nn.Conv2d` with a kernel of (K, 1) or (1, K), computed by fastconv1d over a line.

    That is where the input's other axis has one element, as in models that were written for
    libraries without convolutions of one dimension. Other inputs and gradients are torch's.

    Parameters
    ----------
    *args, **kwargs
        As for `torch.nn.Conv2d`.

    Examples
    --------
    >>> import torch
    >>> from fastconv1d.torch import FastConv2d
    >>> FastConv2d(4, 8, (3, 1))(torch.zeros(2, 4, 20, 1)).shape
    torch.Size([2, 8, 18, 1])
    """

    _torchs = nn.Conv2d
    _asked = "_conv_forward"
    _asked_function: Any = nn.Conv2d._conv_forward
    _is_scatter = False

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

    def _without_gradients(
        self: Any,
        input: Tensor,
        parts: tuple[Tensor, ...],
        weight: Tensor | None,
        norm: Any,
        bias: Tensor | None,
    ) -> Tensor | None:
        weight = self.weight if weight is None else weight
        axis = self._other_axis(weight)
        if input.dim() != 4 or axis is None or input.shape[axis] != 1:
            return None
        if not (input.is_contiguous() and weight.is_contiguous()):  # torch has layouts for these
            return None
        line = input.squeeze(axis)
        output: Tensor | None = super()._without_gradients(line, parts, weight, norm, bias)
        return None if output is None else output.unsqueeze(axis)

    def _kernel(self: Any, weight: Tensor) -> Tensor:
        axis = self._other_axis(weight)
        return weight if axis is None else weight.squeeze(axis)

    def _differentiable(self: Any, *_: Any) -> None:
        return None

    def _other_axis(self: Any, weight: Tensor) -> int | None:
        """The axis along which kernel and padding do nothing."""
        if weight.dim() != 4:
            return None
        for axis in (3, 2):
            if weight.shape[axis] == 1 and weight.shape[5 - axis] > 1:
                return axis
        return None

    def _geometry(self: Any, kernel_size: int) -> _Geometry | None:
        """That of the line, if the other axis is left as it is."""
        axis = self._other_axis(self.weight)
        if axis is None or self.padding_mode != "zeros":
            return None
        stride, padding, dilation = self.stride, self.padding, self.dilation
        if isinstance(padding, str):
            padding = padding, padding
        for value in (stride, padding, dilation):
            if type(value) is not tuple or len(value) != 2:
                return None
        line, other = 3 - axis, axis - 2
        if _integer(stride[other]) < 1 or padding[other] not in (0, "valid", "same"):
            return None
        if type(padding[other]) not in (int, str) or _integer(dilation[other]) < 1:
            return None
        step, spread = _integer(stride[line]), _integer(dilation[line])
        if padding[line] == "same":
            if stride != (1, 1):
                return None
            left = spread * (kernel_size - 1) // 2
            right = spread * (kernel_size - 1) - left
        else:
            left = right = 0 if padding[line] == "valid" else _integer(padding[line])
        return _geometry_of(step, left, spread, _integer(self.groups), right, "zeros", 0)
