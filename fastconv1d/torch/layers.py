"""torch's two layers, computed here where torch need not see what happens."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrizations, parametrize

from .. import minimal, planner
from ..activations import Steps
from ..kernels import direct_engine
from ..kernels.direct_engine import PreparedLayer
from ..minimal import MinimalLayer
from .memory import large_output
from .operators import DTYPES, FUNCTIONS, KERNELS, OPERATORS, Operators, num_threads

_WeightNorm = getattr(parametrizations, "_WeightNorm", None)  # a pure function of its two originals
_MODES = {"zeros": 0, "reflect": 1, "replicate": 2, "circular": 3}


class _Pack:
    """A packed layer and what it was packed from. Copies and pickles of it are empty."""

    key: tuple[Any, ...] | None = None
    layer: PreparedLayer | MinimalLayer | None
    views: tuple[NDArray[Any], ...]  # which also keep the addresses in the key from being reused
    samples: list[float]

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Pack, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Pack:
        return _Pack()


def _samples(views: tuple[NDArray[Any], ...]) -> list[float]:
    """Three values of each, which writes to all of a tensor through ``.data`` will change."""
    return [view.item(i) for view in views for i in (0, view.size // 2, view.size - 1)]


class _Fast(nn.Module):
    """What both layers share: who computes a call, and the pack of a layer in eval mode."""

    algorithm = "auto"
    _pack = _Pack()  # the empty one; a packed layer has its own

    def train(self: Any, mode: bool = True) -> Any:
        """Go to train mode, or to eval mode, and drop the packed weight.

        Parameters
        ----------
        mode : bool, default True
            False goes to eval mode.

        Returns
        -------
        The layer itself.

        Examples
        --------
        >>> from fastconv1d.torch import FastConv1d
        >>> FastConv1d(4, 8, 3).train(False).training
        False
        """
        self.__dict__.pop("_pack", None)
        return super().train(mode)

    def _parameter(self, name: str) -> Tensor | None:
        parameters = self._parameters
        return parameters[name] if name in parameters else getattr(self, name)

    def _sources(self: Any) -> tuple[Tensor, ...]:
        """What decides the weight: itself, or the parts of a weight norm; none if unknown."""
        if "weight" in self._parameters:
            return (self._parameters["weight"],)
        if parametrize.is_parametrized(self, "weight"):
            steps = self.parametrizations["weight"]
            if len(steps) == 1 and type(steps[0]) is _WeightNorm:
                return steps.original0, steps.original1
        return ()

    def _forward(self: Any, input: Tensor, output_size: Any = None) -> Tensor | None:
        """The output, or None where torch should compute it."""
        bias = self._parameter("bias")
        if torch.compiler.is_compiling():
            weight = self._parameter("weight")
            return self._differentiable(OPERATORS, input, weight, bias, output_size)
        if _torch_watches():
            return None
        sources = self._sources()
        if torch.is_grad_enabled() and (
            input.requires_grad
            or (bias is not None and bias.requires_grad)
            or any(source.requires_grad for source in sources or (self._parameter("weight"),))
        ):
            weight = self._parameter("weight")
            return self._differentiable(FUNCTIONS, input, weight, bias, output_size)
        if output_size is not None:
            weight = self._parameter("weight")
            return self._differentiable(KERNELS, input, weight, bias, output_size)
        try:
            array = input.detach().numpy()
            layer = self._prepared(sources, bias)
        except (TypeError, RuntimeError):  # a device, dtype or layout that NumPy does not have
            return None
        if layer is None:
            return None
        large = None
        if array.ndim == 3:
            shape = (array.shape[0], self.out_channels, self._length(array.shape[2]))
            large = large_output(shape, array.dtype)
        output = layer(array, num_threads, None, large)
        if output is None:
            return None
        return torch.from_numpy(output if large is None else large)

    def _prepared(
        self: Any, sources: tuple[Tensor, ...], bias: Tensor | None
    ) -> PreparedLayer | MinimalLayer | None:
        key = None
        if sources and not self.training and not any(s.is_inference() for s in sources):
            key = (
                *((source.data_ptr(), source._version) for source in sources),
                None if bias is None else (bias.data_ptr(), bias._version),
                self.stride,
                self.padding,
                self.dilation,
                self.groups,
                self.padding_mode,
                self.output_padding,
                self.algorithm,
            )
            pack = self._pack
            if pack.key == key and pack.samples == _samples(pack.views):
                return pack.layer
        weight = self._parameter("weight").detach().numpy()
        biases = None if bias is None else bias.detach().numpy()
        layer = self._packed(weight, biases, self.algorithm if key is not None else "auto")
        if key is not None and weight.size:
            pack = _Pack()
            parts = (*sources, bias) if bias is not None else sources
            pack.views = tuple(part.detach().numpy() for part in parts)
            pack.key, pack.layer, pack.samples = key, layer, _samples(pack.views)
            self.__dict__["_pack"] = pack
        return layer

    def _packed(
        self: Any, weight: Any, bias: Any, algorithm: str
    ) -> PreparedLayer | MinimalLayer | None:
        stride, dilation, pads = self.stride[0], self.dilation[0], self._pads()
        if weight.dtype.char not in "fd" or (bias is not None and bias.dtype != weight.dtype):
            return None
        engine = planner.choose_engine(
            "auto", weight.dtype.char, weight.shape, stride, dilation, pads, self.transposed
        )
        if engine is not direct_engine:
            return None
        if (
            algorithm == "winograd"
            and not self.transposed
            and self.padding_mode == "zeros"
            and minimal.suited(weight.shape, weight.dtype, stride, dilation, self.groups)
        ):
            return MinimalLayer(weight, bias, dilation, pads[0], pads[1], Steps())
        return PreparedLayer(
            weight,
            bias,
            stride,
            dilation,
            self.groups,
            _MODES[self.padding_mode],
            *pads,
            self.output_padding[0],
            self.transposed,
        )

    def _pads(self: Any) -> tuple[int, int]:
        if isinstance(self.padding, str):
            total = self.dilation[0] * (self.kernel_size[0] - 1) if self.padding == "same" else 0
            return total // 2, total - total // 2
        return self.padding[0], self.padding[0]

    def _differentiable(
        self: Any, ops: Operators, x: Tensor, weight: Tensor, bias: Tensor | None, output_size: Any
    ) -> Tensor | None:
        """The output through operators, or None where torch should compute it or raise."""
        parameters = (weight,) if bias is None else (weight, bias)
        batched = x.dim() == 3
        if (
            (not batched and x.dim() != 2)
            or x.shape[-2] != self.in_channels
            or torch.is_autocast_enabled("cpu")
            or any(
                t.dtype not in DTYPES or t.dtype != x.dtype or t.device.type != "cpu"
                for t in (x, *parameters)
            )
        ):
            return None
        y = self._operate(ops, x if batched else x.unsqueeze(0), weight, bias, output_size)
        return y if batched or y is None else y.squeeze(0)


def _torch_watches() -> bool:
    """Whether torch has to see a convolution of its own, or should compute in another dtype."""
    return (
        torch.is_autocast_enabled("cpu")
        or torch._C._get_tracing_state() is not None
        or forward_ad._current_level >= 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._len_torch_dispatch_stack() > 0
    )


class FastConv1d(_Fast, nn.Conv1d):
    """`torch.nn.Conv1d` computed by fastconv1d; see `accelerate`.

    Parameters
    ----------
    *args, **kwargs
        As for `torch.nn.Conv1d`.

    Examples
    --------
    >>> import torch
    >>> from fastconv1d.torch import FastConv1d
    >>> layer = FastConv1d(4, 8, 3, padding="same")
    >>> layer(torch.zeros(2, 4, 20)).shape
    torch.Size([2, 8, 20])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer, as `torch.nn.Conv1d` does.

        Parameters
        ----------
        input : Tensor of shape (N, C_in, L_in) or (C_in, L_in)
            Of any device and dtype: torch computes what is not float32 or float64 on the CPU.

        Returns
        -------
        Tensor of shape (N, C_out, L_out) or (C_out, L_out)

        Raises
        ------
        RuntimeError
            As torch does.

        Examples
        --------
        >>> import torch
        >>> from fastconv1d.torch import FastConv1d
        >>> FastConv1d(4, 8, 3).forward(torch.zeros(4, 20)).shape
        torch.Size([8, 18])
        """
        output = self._forward(input)
        return super().forward(input) if output is None else output

    def _operate(
        self: Any, ops: Operators, x: Tensor, weight: Tensor, bias: Tensor | None, output_size: Any
    ) -> Tensor | None:
        left, right = self._pads()
        if self.padding_mode != "zeros":
            if x.shape[2] <= max(left, right):  # torch has the rule and the error
                return None
            x = nn.functional.pad(x, (left, right), mode=self.padding_mode)
            left = right = 0
        stride, dilation = self.stride[0], self.dilation[0]
        spare = x.shape[2] + left + right - dilation * (self.kernel_size[0] - 1) - 1
        if spare < 0:
            return None
        length = spare // stride + 1
        return ops.correlate(x, weight, bias, stride, left, dilation, self.groups, length)

    def _length(self: Any, length: int) -> int:
        span = self.dilation[0] * (self.kernel_size[0] - 1) + 1
        return (length + sum(self._pads()) - span) // self.stride[0] + 1


class FastConvTranspose1d(_Fast, nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d` computed by fastconv1d; see `accelerate`.

    Parameters
    ----------
    *args, **kwargs
        As for `torch.nn.ConvTranspose1d`.

    Examples
    --------
    >>> import torch
    >>> from fastconv1d.torch import FastConvTranspose1d
    >>> layer = FastConvTranspose1d(4, 8, 4, stride=2)
    >>> layer(torch.zeros(2, 4, 20)).shape
    torch.Size([2, 8, 42])
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Apply the layer, as `torch.nn.ConvTranspose1d` does.

        Parameters
        ----------
        input : Tensor of shape (N, C_in, L_in) or (C_in, L_in)
            Of any device and dtype: torch computes what is not float32 or float64 on the CPU.
        output_size : list of int, optional
            The output's length, in the place of `output_padding`.

        Returns
        -------
        Tensor of shape (N, C_out, L_out) or (C_out, L_out)

        Raises
        ------
        RuntimeError, ValueError
            As torch does.

        Examples
        --------
        >>> import torch
        >>> from fastconv1d.torch import FastConvTranspose1d
        >>> FastConvTranspose1d(4, 8, 3, stride=2).forward(torch.zeros(4, 20), [42]).shape
        torch.Size([8, 42])
        """
        output = self._forward(input, output_size)
        return super().forward(input, output_size) if output is None else output

    def _operate(
        self: Any, ops: Operators, x: Tensor, weight: Tensor, bias: Tensor | None, output_size: Any
    ) -> Tensor | None:
        stride, dilation, pad = self.stride[0], self.dilation[0], self.padding[0]
        output_padding = self.output_padding[0]
        if output_size is not None:
            output_padding = self._output_padding(
                x, output_size, self.stride, self.padding, self.kernel_size, 1, self.dilation
            )[0]
        length = self._length(x.shape[2]) - self.output_padding[0] + output_padding
        if length < 1 or output_padding >= max(stride, dilation):
            return None
        return ops.scatter(x, weight, bias, stride, pad, dilation, self.groups, length)

    def _length(self: Any, length: int) -> int:
        span = self.dilation[0] * (self.kernel_size[0] - 1) + 1
        shortest = (length - 1) * self.stride[0] - 2 * self.padding[0] + span
        return shortest + self.output_padding[0]
