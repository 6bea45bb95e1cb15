"""torch's layers, computed here where torch need not see what happens."""

from __future__ import annotations

import functools
import weakref
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd import profiler
from torch.nn import functional as F  # for torch.jit.script, too, as the next
from torch.nn.modules.utils import _single  # noqa: F401
from torch.nn.utils import parametrizations, parametrize

from ..core import chosen
from ..core.chosen import ChosenLayer
from ..core.engines import ENGINES, choose_engine
from ..core.geometry import PADDING_MODES
from ..core.spec import Spec
from ..kernels.direct_engine import PreparedLayer
from ..kernels.operands import fingerprint
from .classes import EqualToTorchs, give_back
from .operators import (
    DTYPES,
    FUNCTIONS,
    KERNELS,
    OPERATORS,
    Operators,
    Shape,
    check_dtypes,
    check_layer,
    is_worth,
    is_worth_compiled,
    num_threads,
    operands,
)
from .products import Products, products_of
from .watch import is_plain, profiling, torch_exports, torch_watches

_WeightNorm = getattr(parametrizations, "_WeightNorm", None)  # a pure function of its two originals
_MOST = 1 << 24  # beyond, torch's own integers of 32 bits have results of their own
# Bytes of weights whose bits are looked at in each call, 0.6 us. In a call of so many positions
# those of larger ones are, too: 0.15 ns for a float32 and then 0.7 % of the time; otherwise of so
# many elements, 0.1 us.
SMALL = 16 << 10
LONG = 1024
SAMPLES = 16
# What layers leave to torch: NumPy has no such tensor, the operators refuse it, no memory.
_UNFIT = (TypeError, ValueError, RuntimeError, MemoryError)


class _Geometry(NamedTuple):
    """What a layer's attributes say, once they are known to be what torch would accept."""

    stride: int
    left: int
    dilation: int
    groups: int  # up to here as the operators take them
    right: int
    mode: str
    output_padding: int


def _integer(value: Any) -> int:
    """The int of what torch takes for an int without further ado, otherwise -1."""
    if type(value) is int:
        return value
    return int(value) if isinstance(value, np.integer) else -1


def _only(value: Any) -> int:
    """The same for what torch takes for one dimension's."""
    if type(value) is tuple and len(value) == 1 and type(value[0]) is int:
        return value[0]
    if isinstance(value, (tuple, list)):
        return _integer(value[0]) if len(value) == 1 else -1
    return _integer(value)


class _Direct(NamedTuple):
    """What the direct engine made, for calls that are its own."""

    layer: PreparedLayer | None


class _Pack:
    """A packed layer and what it was packed from. Copies and pickles of it are empty.

    It keeps no tensor and no memory of one: when the storage of a parameter goes, the pack goes.
    """

    layer: PreparedLayer | ChosenLayer | None = None  # None: torch computes
    dtype: np.dtype[Any] | None = None
    attributes: tuple[Any, ...] = ()  # as they were read, the same objects
    settings: tuple[Any, ...] = ()  # those of a chain's other modules
    bits: int | None = None  # None: nothing is packed
    whole = True  # all bits are compared in each call
    long = 0  # or in calls of an input of so many elements
    products: Products | None = None  # calls that torch computes as fast, or faster
    sampled = 0
    storages: tuple[weakref.ref[Any], ...] = ()
    large: tuple[tuple[int, int, weakref.ref[Any]], ...] = ()  # which, versions, storages

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Pack, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Pack:
        return _Pack()

    def remember(self, parts: tuple[Tensor, ...], arrays: tuple[NDArray[Any], ...]) -> None:
        """Remember what the parameters are, to recognise them in later calls."""
        forget = functools.partial(_forget, weakref.ref(self))
        self.storages = tuple(weakref.ref(part.untyped_storage(), forget) for part in parts)
        large = [i for i, array in enumerate(arrays) if array.nbytes > SMALL]
        self.whole = (
            not large
            or any(parts[i].is_inference() for i in large)  # they have no version
            or any(storage() is None for storage in self.storages)  # a torch that keeps no such
        )
        if not self.whole:
            self.large = tuple((i, parts[i]._version, self.storages[i]) for i in large)
            self.sampled = fingerprint(arrays, SMALL, SAMPLES)
        self.bits = fingerprint(arrays)

    def forget(self) -> None:
        """Free the packed weight."""
        self.layer, self.bits, self.whole = None, None, True

    def recognises(
        self, parts: tuple[Tensor, ...], arrays: tuple[NDArray[Any], ...], x: NDArray[Any]
    ) -> bool:
        """Whether the parameters are those that were packed, as far as a call can afford to see."""
        if self.whole or x.size >= self.long or len(parts) != len(self.storages):
            return bool(self.bits == fingerprint(arrays))
        for i, version, storage in self.large:
            if parts[i]._version != version or parts[i].untyped_storage() is not storage():
                return False
        return bool(self.sampled == fingerprint(arrays, SMALL, SAMPLES))


def _forget(pack: weakref.ref[_Pack], _: Any) -> None:
    alive = pack()
    if alive is not None:
        alive.forget()


def _plain_array(tensor: Tensor) -> Any:
    """The array on the memory of a plain tensor; TypeError for any other."""
    if not is_plain(tensor) or not tensor.is_cpu:
        raise TypeError
    return tensor.numpy(force=True)


def _own(function: Any) -> Any:
    """A method of torch's, as long as nobody replaced it before it was read here."""
    return function if function.__module__ == "torch.nn.modules.conv" else None


class Fast(nn.Module, metaclass=EqualToTorchs):
    """What the layers share: who computes a call, and the pack of a layer in eval mode.

    A class of its own names torch's class (``_torchs``), the method of it that a call goes through
    (``_asked``, and what that is, ``_asked_function``), and which primitive it is; ``_base`` is
    torch's class whose ``_conv_forward`` is ``_below``, for layers that have one.
    """

    _torchs: type
    _asked: str
    _asked_function: Any
    _base: Any = None
    _below: Any = None
    _is_scatter: bool
    _rank = 1  # axes of an input beside items and channels
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

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "qconfig" and value is not None:  # torch quantises nothing but its own classes
            give_back(self)

    def _apply(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.__dict__.pop("_pack", None)
        return super()._apply(*args, **kwargs)

    def _parameter(self, name: str) -> Tensor | None:
        parameters = self._parameters
        return parameters[name] if name in parameters else getattr(self, name)

    def _parts(self: Any) -> tuple[Any, Any, tuple[Any, ...], Any]:
        """Weight (None if it is to be computed), bias, what they follow from, and by which norm."""
        parameters = self._parameters
        bias = parameters["bias"] if "bias" in parameters else self.bias
        weight, norm = None, None
        if "weight" in parameters:
            weight = parameters["weight"]
            return weight, bias, (weight,) if bias is None else (weight, bias), None
        norm = self._norm()
        if norm is None:
            weight = self.weight
            parts = (weight,)
        else:
            parts = tuple(norm._parameters.values())
        return weight, bias, parts if bias is None else (*parts, bias), norm

    def _norm(self: Any) -> Any:
        """The parametrisation of the weight if that is a weight norm alone, otherwise None."""
        steps = self._modules.get("parametrizations")
        steps = None if steps is None else steps._modules.get("weight")
        cached = getattr(parametrize, "_cache_enabled", 0)  # then the weight may be an older one
        if steps is None or cached or len(steps._modules) != 1 or len(steps._parameters) != 2:
            return None
        return steps if type(steps._modules["0"]) is _WeightNorm else None

    def _is_torchs(self: Any) -> bool:
        """Whether a call is what torch's class does: nobody replaced the method it goes through."""
        cls, asked = type(self), self._asked
        return (
            asked not in self.__dict__
            and getattr(cls, asked) is cls._asked_function is not None
            and (cls._base is None or cls._base._conv_forward is cls._below is not None)
        )

    def _forward(self: Any, input: Tensor, output_size: Any = None) -> Tensor | None:
        """The output, or None where torch should compute it or raise."""
        if torch.compiler.is_compiling():
            if torch_exports() or torch.is_autocast_enabled("cpu") or not self._is_torchs():
                return None
            weight, bias = self._parameter("weight"), self._parameter("bias")
            if weight is None or not is_worth_compiled(weight, self.groups):
                return None
            return self._differentiable(OPERATORS, input, weight, bias, output_size)
        if torch_watches() or not is_plain(input) or not self._is_torchs():
            return self._traced(input, output_size)
        products = self._pack.products
        if products is not None and products.leaves(input, self._rank, False):
            return None
        if profiling():
            name = "scatter" if self._is_scatter else "correlate"
            with profiler.record_function(f"fastconv1d::{name}"):
                return self._eager(input, output_size)
        return self._eager(input, output_size)

    def _traced(self: Any, input: Any, output_size: Any) -> Any:
        """What a graph gets that this library makes; None for whatever else is not computed."""
        trace = getattr(getattr(input, "tracer", None), "convolution", None)
        if trace is None or output_size is not None or not self._is_torchs():
            return None
        return trace(self, input)

    def _eager(self: Any, input: Tensor, output_size: Any) -> Tensor | None:
        weight, bias, parts, norm = self._parts()
        needs_gradients = torch.is_grad_enabled() and (
            input.requires_grad
            or parts[0].requires_grad
            or any(part.requires_grad for part in parts)
        )
        try:
            if not needs_gradients and output_size is None:
                return self._without_gradients(input, parts, weight, norm, bias)
            weight = self.weight if weight is None else weight
            if is_plain(weight) and (bias is None or is_plain(bias)):
                if needs_gradients and not self._is_worth(input, weight):
                    return None
                ops = FUNCTIONS if needs_gradients else KERNELS
                return self._differentiable(ops, input, weight, bias, output_size)
        except _UNFIT:
            pass
        return None

    def _is_worth(self: Any, input: Tensor, weight: Tensor) -> bool:
        return is_worth(input, weight, self.groups, 1 if self._is_scatter else _only(self.stride))

    def _handed(self: Any, layer: Any, input: Any, weight: Any, bias: Any) -> Tensor | None:
        """The output that `layer`, the class whose ``_conv_forward`` this is, computes."""
        # not for a module that was given back, and kept the bound method, and not asked again
        if not isinstance(self, Fast) or layer._base._conv_forward is not layer._below:
            return None
        if type(self).forward is layer.forward and self._is_torchs():
            return None
        return self._of_operands(input, weight, bias)

    def _of_operands(self: Any, input: Any, weight: Any, bias: Any) -> Tensor | None:
        """The same for the weight and the bias that a subclass hands to the method."""
        is_compiling = torch.compiler.is_compiling()
        if is_compiling:
            if torch_exports() or torch.is_autocast_enabled("cpu"):
                return None
            if not is_worth_compiled(weight, self.groups):
                return None
        elif torch_watches() or not all(map(is_plain, (input, weight))):
            return None
        try:
            if not is_compiling and weight is self.weight and bias is self.bias:
                return self._eager(input, None)
            if not (is_compiling or bias is None or is_plain(bias)):
                return None
            needs_gradients = torch.is_grad_enabled() and any(
                tensor is not None and tensor.requires_grad for tensor in (input, weight, bias)
            )
            if needs_gradients and not is_compiling and not self._is_worth(input, weight):
                return None
            ops = OPERATORS if is_compiling else FUNCTIONS if needs_gradients else KERNELS
            return self._differentiable(ops, input, weight, bias, None)
        except _UNFIT:
            return None

    def _without_gradients(
        self: Any,
        input: Tensor,
        parts: tuple[Tensor, ...],
        weight: Tensor | None,
        norm: Any,
        bias: Tensor | None,
    ) -> Tensor | None:
        x, arrays, pack = _plain_array(input), tuple(map(_plain_array, parts)), self._pack
        if not (
            self._attributes_are(pack.attributes, norm)
            and (
                pack.bits == fingerprint(arrays)
                if pack.whole
                else pack.recognises(parts, arrays, x)
            )
        ):
            weight = self.weight if weight is None else weight
            pack = self._packed(input, parts, arrays, weight, norm, bias)
        layer = pack.layer
        if layer is None or x.dtype is not pack.dtype:
            return None
        output = layer(x, num_threads)
        return None if output is None else torch.from_numpy(output)

    def _packed(
        self: Any,
        input: Tensor,
        parts: tuple[Tensor, ...],
        arrays: tuple[NDArray[Any], ...],
        weight: Tensor,
        norm: Any,
        bias: Tensor | None,
    ) -> _Pack:
        """A new pack, kept in eval mode; an empty one where torch should compute or raise."""
        pack = _Pack()
        _, w, b = operands(weight, weight, bias)
        geometry = self._geometry_for(weight)
        if geometry is None:
            return pack
        x = input.shape if input.dim() == w.ndim else (1, *input.shape)
        self._check(x, w.shape, None if b is None else b.shape, geometry)
        algorithm = "auto" if self.training else self.algorithm
        pack.layer = self._prepared(w, b, geometry, algorithm)
        pack.dtype = w.dtype
        pack.long = LONG * self._step(geometry) * x[1]
        pack.products = self._products(w.shape, geometry)
        attributes = self._attributes(norm)
        if not (self.training or any(isinstance(value, list) for value in attributes)):
            pack.attributes = attributes
            pack.remember(parts, arrays)
            self.__dict__["_pack"] = pack
        return pack

    def _fits(self, input: Tensor, parts: tuple[Tensor, ...]) -> bool:
        """Whether torch would make an output of the layout that is made here, too."""
        return True

    def _geometry(self, *kernel: Any) -> Any:
        """The geometry for a kernel of that size; None where torch should compute or raise."""
        raise NotImplementedError

    def _geometry_for(self: Any, weight: Tensor) -> Any:
        """The geometry for a weight; None where torch should compute or raise."""
        if weight.dim() != self._rank + 2 or 0 in weight.shape or not is_plain(weight):
            return None
        return self._geometry(*weight.shape[2:])

    def _check(self, x: Shape, w: Shape, b: Shape | None, geometry: Any) -> None:
        """Raise ValueError for operands that do not fit."""
        check_layer(self._is_scatter, x, w, b, *(*geometry[:4], 1))

    def _products(self, shape: Shape, geometry: Any) -> Products | None:
        """Which calls torch computes as fast."""
        if self._is_scatter:
            return None
        return products_of(shape, self._step(geometry), geometry.dilation, geometry.groups)

    def _step(self, geometry: Any) -> int:
        """Elements of a row of the input for each of the output."""
        return int(geometry.stride)

    def _attributes(self: Any, norm: Any) -> tuple[Any, ...]:
        return (
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.padding_mode,
            self.output_padding,
            self.algorithm,
            norm,
            None if norm is None else norm._modules["0"].dim,
            None if self.padding_mode == "zeros" else self._margins(),
        )

    def _attributes_are(self: Any, a: tuple[Any, ...], norm: Any) -> bool:
        """Whether they are the same objects: 1, 1.0 and True are equal, but not to torch."""
        return bool(
            a
            and self.stride is a[0]
            and self.padding is a[1]
            and self.dilation is a[2]
            and self.groups is a[3]
            and self.padding_mode is a[4]
            and self.output_padding is a[5]
            and self.algorithm is a[6]
            and norm is a[7]
            and (norm is None or norm._modules["0"].dim == a[8])
            and (a[9] is None or self._margins() == a[9])
        )

    def _chosen(self: Any, weight: NDArray[Any], g: Any, algorithm: str) -> str:
        """Who computes calls without gradients: 'direct', 'fft', 'winograd', or 'torch'.

        With 'fast' short inputs may be computed by another one.
        """
        pads, shape = (g.left, g.right), weight.shape
        layer = weight.dtype.char, shape, g.stride, g.dilation, pads, self._is_scatter
        if choose_engine("auto", *layer) is not ENGINES["direct"]:
            return "torch"
        spec = self._spec(shape[2], g)._replace(algorithm=algorithm)
        return chosen.taken(spec, weight)

    def _spec(self, kernel_size: int, g: _Geometry) -> Spec:
        return Spec(
            self._is_scatter,
            kernel_size,
            g.stride,
            g.dilation,
            g.groups,
            g.output_padding,
            (g.left, g.right),
            g.mode,
        )

    def _prepared(
        self: Any, weight: NDArray[Any], bias: NDArray[Any] | None, g: Any, algorithm: str
    ) -> PreparedLayer | ChosenLayer | None:
        engine = self._chosen(weight, g, algorithm)
        if engine == "torch":
            return None
        spec = self._spec(weight.shape[2], g)
        prepared: PreparedLayer | None = ENGINES["direct"].prepare(weight, bias, spec)
        if engine == "direct":
            return prepared
        parameters = weight.copy(), None if bias is None else bias.copy()
        return ChosenLayer(*parameters, spec._replace(algorithm=algorithm), _Direct(prepared))

    def _differentiable(
        self: Any, ops: Operators, x: Tensor, weight: Tensor, bias: Tensor | None, output_size: Any
    ) -> Tensor | None:
        """The output through operators, or None where torch should compute it or raise."""
        if x.dim() == 2:
            y = self._differentiable(ops, x.unsqueeze(0), weight, bias, output_size)
            return None if y is None else y.squeeze(0)
        if x.dim() != 3 or weight.dim() != 3:
            return None
        shape = weight.shape
        geometry = self._geometry(shape[2])
        if geometry is None or 0 in shape:
            return None
        operands = self._operands(x, weight, bias, geometry, output_size)
        if operands is None or (ops is OPERATORS and not _fit(self._is_scatter, *operands)):
            return None
        return ops.scatter(*operands) if self._is_scatter else ops.correlate(*operands)

    def _margins(self: Any) -> tuple[Any, ...]:
        """What torch pads with, in a padding mode, on the left and on the right."""
        right_first = self._reversed_padding_repeated_twice
        return tuple(right_first) if isinstance(right_first, (list, tuple)) else ()


def _fit(is_scatter: bool, x: Tensor, w: Tensor, b: Tensor | None, *numbers: int) -> bool:
    """Whether an operator in a graph will take its operands, which raises too late for torch."""
    if x.device.type != "cpu":
        return False
    try:
        check_dtypes(x, w, b)
        check_layer(is_scatter, x.shape, w.shape, None if b is None else b.shape, *numbers)
    except (TypeError, ValueError):
        return False
    return True


def _geometry_of(
    stride: int, left: int, dilation: int, groups: int, right: int, mode: str, output_padding: int
) -> _Geometry | None:
    """The geometry, if all is in the ranges that torch accepts; -1 never is."""
    if (
        0 < stride <= _MOST
        and 0 <= left <= _MOST
        and 0 <= right <= _MOST
        and 0 < dilation <= _MOST
        and 0 < groups <= _MOST
        and (output_padding == 0 or 0 < output_padding < max(stride, dilation))
    ):
        return _Geometry(stride, left, dilation, groups, right, mode, output_padding)
    return None


class FastConv1d(Fast, nn.Conv1d):
    """`torch.nn.Conv1d` computed by fastconv1d; see `accelerate`.

    Parameters
    ----------
    *args, **kwargs
        As for `torch.nn.Conv1d`.

    Notes
    -----
    The class is equal to `torch.nn.Conv1d` (``==``, ``in``, as a key), so that tools that look
    layers up by ``type(module)`` find it; it is not the same (``is``).

    Examples
    --------
    >>> import torch
    >>> from fastconv1d.torch import FastConv1d
    >>> layer = FastConv1d(4, 8, 3, padding="same")
    >>> layer(torch.zeros(2, 4, 20)).shape
    torch.Size([2, 8, 20])
    """

    _torchs = _base = nn.Conv1d
    _asked = "_conv_forward"
    _below = _own(nn.Conv1d._conv_forward)
    _is_scatter = False

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
        output = self._forward(input) if isinstance(self, Fast) else None  # or was given back
        return nn.Conv1d.forward(self, input) if output is None else output

    def _conv_forward(self: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What subclasses with a `_conv_forward` of their own ask for, Whisper's for one."""
        output = Fast._handed(self, FastConv1d, input, weight, bias)
        return nn.Conv1d._conv_forward(self, input, weight, bias) if output is None else output

    _asked_function = _conv_forward

    def _geometry(self: Any, *kernel: Any) -> _Geometry | None:
        (kernel_size,) = kernel
        stride, dilation = _only(self.stride), _only(self.dilation)
        groups, mode, padding = _integer(self.groups), self.padding_mode, self.padding
        if mode != "zeros":
            if not isinstance(mode, str) or mode not in PADDING_MODES:
                return None
            margins = self._margins()
            if len(margins) != 2:
                return None
            left, right = _integer(margins[0]), _integer(margins[1])
        elif padding == "same":
            if stride != 1:
                return None
            left = dilation * (kernel_size - 1) // 2
            right = dilation * (kernel_size - 1) - left
        elif padding == "valid":
            left = right = 0
        else:
            left = right = _only(padding)
        return _geometry_of(stride, left, dilation, groups, right, mode, 0)

    def _length(self: Any, length: int, geometry: _Geometry, span: int) -> int:
        return (length + geometry.left + geometry.right - span) // geometry.stride + 1

    def _operands(
        self: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: _Geometry,
        output_size: Any,
    ) -> tuple[Any, ...] | None:
        """What correlate takes, or None where torch should raise."""
        if geometry.mode != "zeros":
            left, right = geometry.left, geometry.right
            if x.dtype not in DTYPES or x.shape[2] <= max(left, right):  # torch has the rules
                return None
            x = F.pad(x, (left, right), mode=geometry.mode)
            geometry = geometry._replace(left=0, right=0)
        l_in = x.shape[2]
        length = self._length(l_in, geometry, geometry.dilation * (weight.shape[2] - 1) + 1)
        if l_in == 0 or length < 1:
            return None
        return x, weight, bias, *geometry[:4], length


class FastConvTranspose1d(Fast, nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d` computed by fastconv1d; see `accelerate`.

    Parameters
    ----------
    *args, **kwargs
        As for `torch.nn.ConvTranspose1d`.

    Notes
    -----
    The class is equal to `torch.nn.ConvTranspose1d` (``==``, ``in``, as a key), so that tools that
    look layers up by ``type(module)`` find it; it is not the same (``is``).

    Examples
    --------
    >>> import torch
    >>> from fastconv1d.torch import FastConvTranspose1d
    >>> layer = FastConvTranspose1d(4, 8, 4, stride=2)
    >>> layer(torch.zeros(2, 4, 20)).shape
    torch.Size([2, 8, 42])
    """

    _torchs = nn.ConvTranspose1d
    _asked = "_output_padding"
    _asked_function = _own(nn.ConvTranspose1d._output_padding)
    _is_scatter = True

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
        output = self._forward(input, output_size) if isinstance(self, Fast) else None
        if output is None:
            return nn.ConvTranspose1d.forward(self, input, output_size)
        return output

    def _geometry(self: Any, *kernel: Any) -> _Geometry | None:
        if self.padding_mode != "zeros" or not isinstance(self.padding, tuple):
            return None
        stride, padding, dilation, output_padding = map(
            _only, (self.stride, self.padding, self.dilation, self.output_padding)
        )
        groups = _integer(self.groups)
        return _geometry_of(stride, padding, dilation, groups, padding, "zeros", output_padding)

    def _length(self: Any, length: int, geometry: _Geometry, span: int) -> int:
        shortest = (length - 1) * geometry.stride - geometry.left - geometry.right + span
        return shortest + geometry.output_padding

    def _operands(
        self: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: _Geometry,
        output_size: Any,
    ) -> tuple[Any, ...] | None:
        """What scatter takes, or None where torch should raise."""
        if output_size is not None:
            asked = self._output_padding(
                x, output_size, self.stride, self.padding, self.kernel_size, 1, self.dilation
            )[0]
            changed = _geometry_of(*geometry[:-1], _integer(asked))
            if changed is None:
                return None
            geometry = changed
        l_in = x.shape[2]
        length = self._length(l_in, geometry, geometry.dilation * (weight.shape[2] - 1) + 1)
        if l_in == 0 or length < 1:
            return None
        return x, weight, bias, *geometry[:4], length


# torch.jit.script compiles the source that it finds here, torch's
for _ours, _torchs in (
    (FastConv1d.forward, nn.Conv1d.forward),
    (FastConv1d._conv_forward, nn.Conv1d._conv_forward),
    (FastConvTranspose1d.forward, nn.ConvTranspose1d.forward),
):
    setattr(_ours, "__wrapped__", _torchs)  # noqa: B010
