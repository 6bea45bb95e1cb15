"""The layers Conv1d and ConvTranspose1d: parameters, state, train and eval."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from . import config, functional, fused, geometry, minimal, planner, weights
from .activations import half_of, own_activation, parse_steps, widened
from .kernels import direct_engine
from .kernels.direct_engine import PreparedLayer
from .minimal import MinimalLayer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from .activations import Steps
    from .streaming import StreamingConv1d, StreamingConvTranspose1d

_Layer = TypeVar("_Layer", bound="_Convolution")


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict` did not find in the state, and what it found too much."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class _Packed(NamedTuple):
    """What was packed from which parameters; no layer where the direct engine has none."""

    weight: NDArray[Any]
    bias: NDArray[Any] | None
    layer: Callable[..., NDArray[Any] | None] | None


# Attributes that a packed layer has taken over.
_PACKED_FROM = frozenset(
    (
        "stride",
        "padding",
        "dilation",
        "groups",
        "output_padding",
        "padding_mode",
        "algorithm",
        "activation",
        "pre_activation",
        "residual_scale",
        "residual_position",
        "layout",
    )
)


class _Convolution:
    """What both layers share. A subclass has the shape of its weight, forward and backward."""

    transposed: ClassVar[bool]
    _revision = 0  # how often an attribute of the geometry was set

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
        padding: int | Sequence[int] | str,
        output_padding: int | Sequence[int],
        dilation: int | Sequence[int],
        groups: int,
        bias: bool,
        padding_mode: str,
        device: str | None,
        dtype: DTypeLike | None,
        rng: np.random.Generator | None,
        algorithm: str,
        activation: Any,
        pre_activation: Any,
        residual_scale: float,
        residual_position: str,
        layout: str,
    ) -> None:
        self.in_channels = _size("in_channels", in_channels)
        self.out_channels = _size("out_channels", out_channels)
        self.kernel_size = (_size("kernel_size", kernel_size),)
        self.stride = (geometry.as_index("stride", stride),)
        self.dilation = (geometry.as_index("dilation", dilation),)
        self.output_padding = (geometry.as_index("output_padding", output_padding),)
        self.groups = geometry.as_index("groups", groups)
        self._check_parameters()
        geometry.resolve_mode(padding_mode)
        self.padding = self._checked_padding(padding)
        self.padding_mode = padding_mode
        self.algorithm = planner.checked_algorithm(algorithm)
        self.activation, self.pre_activation = activation, pre_activation
        self.residual_scale, self.residual_position = residual_scale, residual_position
        self.layout = layout
        self._steps()
        self.training = False
        self._packed: _Packed | None = None
        self.weight_grad: NDArray[Any] | None = None
        self.bias_grad: NDArray[Any] | None = None
        self.residual_grad: NDArray[Any] | None = None
        self._kept: tuple[Any, ...] | None = None
        _check_device(device)
        self.dtype = _parameter_dtype(dtype)
        self._bias: NDArray[Any] | None = (
            functional._new((self.out_channels,), self.dtype) if bias else None
        )
        self._weight = functional._new(self._weight_shape(), self.dtype)
        self.reset_parameters(rng)

    def _check_parameters(self) -> None:
        if self.groups <= 0:
            raise ValueError(
                "groups must be a positive integer: non-positive groups is not supported, "
                f"got groups={self.groups}"
            )
        for name in ("in_channels", "out_channels"):
            channels = getattr(self, name)
            if channels % self.groups:
                raise ValueError(
                    f"{name} must be divisible by groups, "
                    f"got {name}={channels} and groups={self.groups}"
                )
        if self.stride[0] <= 0:
            raise ValueError(f"non-positive stride is not supported, got stride={self.stride[0]}")
        if self.dilation[0] <= 0:
            raise ValueError(
                "non-positive dilation is not supported: dilation should be greater than zero, "
                f"got dilation={self.dilation[0]}"
            )

    def _checked_padding(self, padding: Any) -> tuple[int, ...] | str:
        strings = geometry.PADDING_STRINGS
        if isinstance(padding, str) and not self.transposed and padding not in strings:
            raise ValueError(
                f"Invalid padding string {geometry.shown(padding)}, "
                f"should be one of {{{', '.join(map(repr, strings))}}}"
            )
        left, right = self._pads(padding)
        if isinstance(padding, str):
            return padding
        return (
            (left, right) if isinstance(padding, (tuple, list)) and len(padding) == 2 else (left,)
        )

    def _pads(self, padding: Any) -> tuple[int, int]:
        """Return the padding or cropping, where it follows the input's length that for length 1."""
        resolve = geometry.resolve_cropping if self.transposed else geometry.resolve_padding
        return resolve(padding, self.kernel_size[0], self.stride[0], self.dilation[0])

    def _weight_shape(self) -> tuple[int, int, int]:
        raise NotImplementedError

    def _steps(self) -> Steps:
        """Return what happens around the sums; raises ValueError or TypeError for bad options."""
        fused.checked_layout(self.layout)
        return parse_steps(
            self.pre_activation,
            self.activation,
            self.residual_scale,
            self.residual_position,
            (self.in_channels, self.out_channels),
        )

    def _options(self, residual: Any) -> dict[str, Any]:
        """Return the keywords of the functional forward."""
        return {
            "padding_mode": self.padding_mode,
            "algorithm": self.algorithm,
            "activation": self.activation,
            "pre_activation": self.pre_activation,
            "residual": residual,
            "residual_scale": self.residual_scale,
            "residual_position": self.residual_position,
            "layout": self.layout,
        }

    @property
    def weight(self) -> NDArray[Any]:
        """The weight: a read-only view in eval mode, the writable array itself in train mode.

        Assigning copies the values of an array of the same shape, and dtype or 16 bits.
        """
        return self._weight if self.training else self._weight.view()

    @weight.setter
    def weight(self, value: ArrayLike) -> None:
        self._replace({"weight": _checked_parameter("weight", value, self._weight)})

    @property
    def bias(self) -> NDArray[Any] | None:
        """The bias, as `weight`; None for a layer without one."""
        if self._bias is None or self.training:
            return self._bias
        return self._bias.view()

    @bias.setter
    def bias(self, value: ArrayLike | None) -> None:
        if (value is None) != (self._bias is None):
            raise ValueError(
                f"bias should stay {'None' if self._bias is None else 'an array'}, as the layer "
                f"was made with bias={self._bias is not None}, got {type(value).__name__}"
            )
        if self._bias is not None and value is not None:
            self._replace({"bias": _checked_parameter("bias", value, self._bias)})

    def _replace(self, parameters: Mapping[str, NDArray[Any]]) -> None:
        """Take over new values: written in place when training, otherwise into new arrays."""
        if self.training:
            for name, value in parameters.items():
                np.copyto(getattr(self, "_" + name), value)
        else:
            self._prepare(**parameters)

    def _prepare(
        self, weight: NDArray[Any] | None = None, bias: NDArray[Any] | None = None
    ) -> None:
        """Take private read-only copies of the parameters, for eval.

        Everything that changes a parameter outside of training, and the end of training, passes
        here. No writable alias of the new arrays exists, so what is derived from them stays right.
        """
        self._weight = _frozen(self._weight if weight is None else weight)
        if self._bias is not None:
            self._bias = _frozen(self._bias if bias is None else bias)
        self._packed = None

    def _pack(self) -> _Packed:
        """Pack the parameters for the direct engine, or note that another computes the layer."""
        self._check_parameters()
        weight, bias = self._weight, self._bias
        stride, dilation = self.stride[0], self.dilation[0]
        pads = self._pads(self.padding)
        same = 0
        if not self.transposed and geometry.pads_follow_length(self.padding, stride):
            same = 1 if self.padding == "same_upper" else 2
        if self.transposed:
            geometry.check_output_padding(self.output_padding[0], stride, dilation)
        engine = planner.choose_engine(
            self.algorithm,
            self.dtype.char,
            weight.shape,
            stride,
            dilation,
            pads,
            self.transposed,
        )
        layer: Any = None
        # What cropped positions hold is added back in further calls of the engine.
        folded = self.transposed and self.padding_mode != "zeros" and any(pads)
        if engine is direct_engine and not folded:
            layer = PreparedLayer(
                weight,
                bias,
                stride,
                dilation,
                self.groups,
                0 if self.transposed else geometry.PADDING_MODES[self.padding_mode],
                *pads,
                self.output_padding[0],
                self.transposed,
                same,
                self._steps(),
                self.layout == "NLC",
            )
            if self.transposed and not layer.finite:
                layer = None
            elif not same and self._is_minimal():
                layer = MinimalLayer(weight, bias, dilation, *pads, self._steps())
        packed = _Packed(weight, bias, layer)
        self._packed = packed
        return packed

    def _is_minimal(self) -> bool:
        """Whether minimal filtering computes the layer."""
        return (
            self.algorithm == "winograd"
            and not self.transposed
            and (self.padding_mode, self.layout) == ("zeros", "NCL")
            and minimal.suited(
                self._weight.shape, self.dtype, self.stride[0], self.dilation[0], self.groups
            )
        )

    def _packed_now(self) -> _Packed:
        packed = self._packed
        # Another thread may have replaced a parameter while this pack was being made.
        if packed is None or packed.weight is not self._weight or packed.bias is not self._bias:
            packed = self._pack()
        return packed

    def _fast_forward(self, input: Any, residual: Any, out: Any) -> NDArray[Any] | None:
        """The output in eval mode for plain arrays, by compiled code alone; otherwise None."""
        packed = self._packed
        # as in _packed_now, whose call would be a tenth of a small layer's time
        if packed is None or packed.weight is not self._weight or packed.bias is not self._bias:
            packed = self._pack()
        layer = packed.layer
        if layer is None:
            return None
        output = layer(input, config.get_num_threads, residual, out)
        if output is None and all(
            a is None or fused.is_bfloat16(a) for a in (input, residual, out)
        ):
            arrays = [fused.as_bits(a) for a in (input, residual, out)]
            output = layer(arrays[0], config.get_num_threads, *arrays[1:], True)
            if output is not None:
                return output.view(input.dtype) if out is None else out
        return output

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("activation", "pre_activation"):
            value = own_activation(value)
        super().__setattr__(name, value)
        if name in _PACKED_FROM:
            super().__setattr__("_packed", None)
            super().__setattr__("_revision", self._revision + 1)

    def reset_parameters(self, rng: np.random.Generator | None = None) -> None:
        """Draw weight and bias from U(-sqrt(k), sqrt(k)), ``k = 1/(weight.shape[1]*K)``.

        Parameters
        ----------
        rng : numpy.random.Generator, optional
            Where the numbers come from; by default a new, unseeded generator. The weight is drawn
            first. The parts of complex parameters are drawn one after the other.

        Raises
        ------
        TypeError
            If `rng` is not a generator.

        Notes
        -----
        These are the distributions of torch, whose `ConvTranspose1d` has ``C_out/groups`` as
        ``weight.shape[1]``, too.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import Conv1d
        >>> layer = Conv1d(4, 6, 3, rng=np.random.default_rng(0))
        >>> bool(abs(layer.weight).max() <= 12**-0.5)
        True
        """
        if rng is None:
            rng = np.random.default_rng()
        elif not isinstance(rng, np.random.Generator):
            raise TypeError(
                "rng should be a numpy.random.Generator, "
                f"got {geometry.shown(rng)} of type {type(rng).__name__}"
            )
        fan_in = self._weight.shape[1] * self._weight.shape[2]
        bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
        new = {"weight": _uniform(rng, bound, self._weight)}
        if self._bias is not None:
            new["bias"] = _uniform(rng, bound, self._bias)
        self._replace(new)

    def train(self: _Layer, mode: bool = True) -> _Layer:
        """Go to train mode: parameters become writable, and forward keeps its input.

        Parameters
        ----------
        mode : bool, default True
            False goes to eval mode.

        Returns
        -------
        The layer itself.

        Raises
        ------
        ValueError
            If `mode` is not a bool.

        Notes
        -----
        The input is kept as it is, not copied: it should not be changed before `backward`.

        Examples
        --------
        >>> from fastconv1d import Conv1d
        >>> layer = Conv1d(1, 1, 1).train()
        >>> layer.weight[:] = 2.0
        """
        if not isinstance(mode, bool):
            raise ValueError(f"training mode is expected to be boolean, got {geometry.shown(mode)}")
        if mode and not self.training:
            self._weight = self._weight.copy()
            self._bias = None if self._bias is None else self._bias.copy()
            self._packed = None
            self.training = True
        elif self.training and not mode:
            self.training = False
            self._kept = None
            self._prepare()
        return self

    def eval(self: _Layer) -> _Layer:
        """Go to eval mode, that of a new layer: no input is kept, parameters are read-only.

        Returns
        -------
        The layer itself.

        Notes
        -----
        The layer takes a copy of its parameters, so that arrays obtained in train mode no longer
        change it. In eval mode one layer may be called from several threads at once.

        Examples
        --------
        >>> from fastconv1d import Conv1d
        >>> layer = Conv1d(1, 1, 1).train().eval()
        >>> layer.weight.flags.writeable
        False
        """
        return self.train(False)

    def zero_grad(self) -> None:
        """Set `weight_grad` and `bias_grad` to None, as before the first `backward`.

        Examples
        --------
        >>> from fastconv1d import Conv1d
        >>> Conv1d(1, 1, 1).zero_grad()
        """
        self.weight_grad = self.bias_grad = None

    def _kept_input(self) -> tuple[Any, ...]:
        if self._kept is None:
            state = "train" if self.training else "eval"
            raise RuntimeError(
                "backward needs the input of a forward in train mode: call train() and then the "
                f"layer before it, got a layer in {state} mode without a kept input"
            )
        return self._kept

    def _training_forward(
        self, function: Any, arguments: tuple[Any, ...], residual: Any, out: Any
    ) -> NDArray[Any]:
        """Return the output, and keep the input and what the activation was applied to."""
        steps = self._steps()
        options = self._options(residual)
        if steps.after is None:
            output = function(*arguments, **options, out=out)
            self._kept = (arguments, None, residual is not None)
            return output
        if self.dtype.kind == "c":
            raise TypeError(f"activations take real dtypes, got a layer of dtype {self.dtype}")
        options["activation"] = None
        if steps.residual_last:
            options["residual"] = None
        before = function(*arguments, **options)
        output = fused.activate(
            steps.after,
            before,
            self.layout,
            residual if steps.residual_last else None,
            steps.residual_scale,
        )
        if out is not None:
            batched = output.ndim == 3
            shape = output.shape if batched else (1, *output.shape)
            others = (None if a is None else np.asarray(a) for a in (*arguments[:3], residual))
            target = functional._target(out, shape, batched, output, *others)
            np.copyto(target, output)
            output = functional._delivered(target, batched, out)
        self._kept = (arguments, before, residual is not None)
        return output

    def _training_backward(self, function: Any, grad_output: ArrayLike) -> NDArray[Any]:
        """Go backward through activation, sums and pre_activation."""
        arguments, before, has_residual = self._kept_input()
        steps = self._steps()
        channels_last = self.layout == "NLC"
        axis = -1 if channels_last else -2
        x = functional._operand(arguments[0])
        g = functional._operand(grad_output)
        dtype = x.dtype
        if g.dtype != dtype:
            raise TypeError(
                f"Input type ({dtype}) and grad_output type ({g.dtype}) should be the same"
            )
        if fused.half_of(dtype):  # in float32, and rounded once
            x, g = x.astype(np.float32), g.astype(np.float32)
            before = None if before is None else before.astype(np.float32)
        by_output, residual_grad = g, None
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            if before is not None:
                if g.shape != before.shape:
                    raise ValueError(
                        "grad_output should have the size of the output, "
                        f"{list(before.shape)}, but got {list(g.shape)}"
                    )
                assert steps.after is not None
                g = g * steps.after.derivative(before, axis)
            if has_residual:
                scale = g.dtype.type(steps.residual_scale)
                residual_grad = (by_output if steps.residual_last else g) * scale
        inside = x if steps.before is None else fused.activate(steps.before, x, self.layout)
        if channels_last:
            g, inside = g.swapaxes(-1, -2), inside.swapaxes(-1, -2)
        grad_input = self._accumulate(
            function(
                g,
                inside,
                arguments[1],
                *arguments[3:],
                padding_mode=self.padding_mode,
                algorithm=self.algorithm,
                output_mask=(True, True, self._bias is not None),
            )
        )
        if channels_last:
            grad_input = np.ascontiguousarray(grad_input.swapaxes(-1, -2))
        if steps.before is not None:
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                grad_input *= steps.before.derivative(x, axis)
        with np.errstate(over="ignore"):
            self.residual_grad = None if residual_grad is None else residual_grad.astype(dtype)
            return grad_input.astype(dtype, copy=False)

    def _accumulate(
        self, gradients: tuple[NDArray[Any] | None, NDArray[Any] | None, NDArray[Any] | None]
    ) -> NDArray[Any]:
        grad_input, grad_weight, grad_bias = gradients
        assert grad_input is not None and grad_weight is not None
        with np.errstate(over="ignore", invalid="ignore"):
            if self.weight_grad is not None:
                grad_weight += self.weight_grad
            if self.bias_grad is not None and grad_bias is not None:
                grad_bias += self.bias_grad
        self.weight_grad, self.bias_grad = grad_weight, grad_bias
        return grad_input

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return copies of the parameters under torch's keys.

        Returns
        -------
        dict of str to ndarray
            'weight', and 'bias' if there is one.

        Examples
        --------
        >>> from fastconv1d import Conv1d
        >>> list(Conv1d(1, 1, 1).state_dict())
        ['weight', 'bias']
        """
        return {name: parameter.copy() for name, parameter in self._parameters().items()}

    def load_state_dict(
        self, state_dict: Mapping[str, ArrayLike], strict: bool = True
    ) -> IncompatibleKeys:
        """Copy the parameters out of a dict with torch's keys.

        Parameters
        ----------
        state_dict : mapping of str to array-like
            Values are cast to the layer's dtype, bfloat16 too, but complex ones not to real.
        strict : bool, default True
            Whether missing and unexpected keys are errors.

        Returns
        -------
        IncompatibleKeys
            Named tuple of the lists `missing_keys` and `unexpected_keys`.

        Raises
        ------
        ValueError
            If a shape differs, or with `strict` a key. The layer is unchanged then.
        TypeError
            If `state_dict` is not a mapping or a value cannot be cast.

        Examples
        --------
        >>> from fastconv1d import Conv1d
        >>> layer = Conv1d(1, 1, 1)
        >>> layer.load_state_dict({"weight": [[[2.0]]]}, strict=False)
        IncompatibleKeys(missing_keys=['bias'], unexpected_keys=[])
        """
        return load_parameters(type(self).__name__, {"": self}, state_dict, strict)

    def _parameters(self) -> dict[str, NDArray[Any]]:
        own = {"weight": self._weight}
        if self._bias is not None:
            own["bias"] = self._bias
        return own

    @classmethod
    def from_state_dict(
        cls: type[_Layer],
        state_dict: Mapping[str, ArrayLike],
        prefix: str = "",
        *,
        groups: int | None = None,
        dtype: DTypeLike | None = None,
        **arguments: Any,
    ) -> _Layer:
        """Make a layer of the parameters under a prefix of a state dict.

        Parameters
        ----------
        state_dict : mapping of str to array-like
            Torch's keys: 'weight' or one of the spellings of weight norm, 'weight_g' and 'weight_v'
            or 'parametrizations.weight.original0' and '...original1', which is folded; and 'bias',
            or none.
        prefix : str, default ''
            What comes before these keys; a dot between may be left out.
        groups : int, optional
            By default as many as the bias of a transposed convolution implies, otherwise 1: the
            weight does not show it.
        dtype : dtype, optional
            By default the weight's, or float32 where that is none of a layer.
        **arguments
            What a state dict does not tell, `stride` and `padding` for instance, as the constructor
            takes it.

        Returns
        -------
        The layer, in eval mode.

        Raises
        ------
        ValueError
            If a key is missing, or shapes and arguments do not fit together.
        TypeError
            If `state_dict` is not a mapping or a value cannot be cast.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import Conv1d
        >>> state = {"encoder.0.weight": np.ones((6, 2, 3)), "encoder.0.bias": np.ones(6)}
        >>> Conv1d.from_state_dict(state, "encoder.0", stride=2, groups=2)
        Conv1d(4, 6, kernel_size=(3,), stride=(2,), groups=2)
        """
        weight, bias = weights.layer_parameters(state_dict, prefix)
        first, second, kernel_size = weight.shape
        if groups is None:
            groups = 1
            if cls.transposed and bias is not None and second and bias.size % second == 0:
                groups = bias.size // second
        other = second * geometry.as_index("groups", groups)
        if dtype is None and weight.dtype.newbyteorder("=") in functional._DTYPES:
            dtype = weight.dtype
        layer = cls(
            *((first, other) if cls.transposed else (other, first)),
            kernel_size,
            groups=groups,
            bias=bias is not None,
            dtype=dtype,
            **arguments,
        )
        layer.load_state_dict(
            {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
        )
        return layer

    def _sharing_parameters(self: _Layer) -> _Layer:
        """Return a layer with the same arrays, whose attributes may then differ."""
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, _kept=None, weight_grad=None, bias_grad=None)
        return copy

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None, "_packed": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not self.training:  # arrays come back writable
            self._prepare()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        """Return the arguments that `repr` shows, as torch's layers do.

        Returns
        -------
        str

        Examples
        --------
        >>> from fastconv1d import Conv1d
        >>> Conv1d(16, 33, 3, stride=2).extra_repr()
        '16, 33, kernel_size=(3,), stride=(2,)'
        """
        text = (
            f"{self.in_channels}, {self.out_channels}, "
            f"kernel_size={self.kernel_size}, stride={self.stride}"
        )
        if isinstance(self.padding, str) or any(self.padding):
            text += f", padding={self.padding}"
        if self.dilation != (1,):
            text += f", dilation={self.dilation}"
        if self.output_padding != (0,):
            text += f", output_padding={self.output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self._bias is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        steps = self._steps()
        for name, step in (("activation", steps.after), ("pre_activation", steps.before)):
            if step is not None:
                text += f", {name}={step.name}"
        if self.layout != "NCL":
            text += f", layout={self.layout}"
        return text


class Conv1d(_Convolution):
    """A layer that applies a 1-D convolution; see `fastconv1d.conv1d` for the formula.

    A new layer is in eval mode, because this is a library for inference: call `train` before a
    forward that `backward` is to follow.

    Parameters
    ----------
    in_channels : int
        Channels C_in of the input.
    out_channels : int
        Channels C_out of the output.
    kernel_size : int
        Length K of the kernel, in taps.
    stride : int, default 1
        Step between two windows.
    padding : int, tuple of one or two ints, or str, default 0
        Positions added on both sides, or ``(left, right)``; 'valid', 'same', 'causal', 'same_upper'
        or 'same_lower' as in `fastconv1d.conv1d`.
    dilation : int, default 1
        Step between two taps of the kernel.
    groups : int, default 1
        Number of blocks of channels that are convolved separately; divides C_in and C_out.
    bias : bool, default True
        Whether there is a bias.
    padding_mode : {'zeros', 'reflect', 'replicate', 'circular'}, default 'zeros'
        What the added positions hold.
    device : None or 'cpu'
        For torch's argument order; there is only the CPU.
    dtype : dtype, default float32
        float32, float64, complex64 or complex128.
    rng : numpy.random.Generator, optional
        Where the initial parameters come from, see `reset_parameters`.
    algorithm : {'auto', 'blas', 'direct', 'winograd'}, default 'auto'
        Which engine computes, see `fastconv1d.conv1d`. With 'winograd' a layer in eval mode takes
        about half the multiplications where that is faster: stride 1, one group, zero padding,
        3 to 32 taps, dilation up to 64, a real dtype, and ``min(C_in, C_out) * K >= 192``. It is
        'auto' elsewhere, and in deterministic mode. The error is a few times as large, and relative
        to the largest output rather than to each; an output's bits, and whether it is finite, may
        depend on up to ``4*dilation`` inputs beside its own window.
    activation, pre_activation, residual_scale, residual_position, layout
        What happens around the sums and the layout of inputs and outputs, as in
        `fastconv1d.conv1d`; `forward` takes the residual.

    Attributes
    ----------
    weight : ndarray of shape (C_out, C_in / groups, K)
        Read-only in eval mode; assigning copies.
    bias : ndarray of shape (C_out,) or None
        As `weight`.
    weight_grad, bias_grad : ndarray or None
        Sums of the gradients of every `backward` since `zero_grad`.
    residual_grad : ndarray or None
        The gradient of the last `backward` by the residual, None where the forward had none.
    training : bool
        Whether the layer is in train mode.

    Raises
    ------
    ValueError
        If the parameters do not fit together.
    TypeError
        If a parameter has the wrong type or the dtype is not among the four.
    OverflowError
        If a size exceeds 64 bits.
    MemoryError
        If the parameters cannot be allocated.

    Notes
    -----
    Input (N, C_in, L_in) or (C_in, L_in), output (N, C_out, L_out) or (C_out, L_out), of the
    layer's dtype, ``L_out = floor((L_in + pad_left + pad_right - dilation*(K - 1) - 1) / stride)
    + 1``. Memory and threads as in `fastconv1d.conv1d`. In eval mode a layer may be called from
    several threads at once.

    References
    ----------
    ``torch.nn.Conv1d``: https://docs.pytorch.org/docs/stable/generated/torch.nn.Conv1d.html

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import Conv1d
    >>> layer = Conv1d(16, 33, 3, stride=2)
    >>> layer
    Conv1d(16, 33, kernel_size=(3,), stride=(2,))
    >>> layer(np.zeros((20, 16, 50), np.float32)).shape
    (20, 33, 24)
    """

    transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: str | None = None,
        dtype: DTypeLike | None = None,
        *,
        rng: np.random.Generator | None = None,
        algorithm: str = "auto",
        activation: Any = None,
        pre_activation: Any = None,
        residual_scale: float = 1.0,
        residual_position: str = "before",
        layout: str = "NCL",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            0,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
            rng,
            algorithm,
            activation,
            pre_activation,
            residual_scale,
            residual_position,
            layout,
        )

    def _weight_shape(self) -> tuple[int, int, int]:
        return self.out_channels, self.in_channels // self.groups, self.kernel_size[0]

    def forward(
        self,
        input: ArrayLike,
        *,
        residual: ArrayLike | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Apply the layer; in train mode, keep the input for `backward`.

        Parameters
        ----------
        input : ndarray of shape (N, C_in, L_in) or (C_in, L_in)
            Of the layer's dtype, or of 16 bits for a float32 layer.
        residual : ndarray of the output's shape and dtype, optional
            Added to the output, before or after the activation.
        out : ndarray of the output's shape and dtype, optional
            Where to write the output.

        Returns
        -------
        ndarray of shape (N, C_out, L_out) or (C_out, L_out)

        Raises
        ------
        ValueError, TypeError, OverflowError, MemoryError
            As `fastconv1d.conv1d`.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import Conv1d
        >>> Conv1d(2, 3, 5, padding="same").forward(np.zeros((2, 10), np.float32)).shape
        (3, 10)
        """
        if not self.training:
            fast = self._fast_forward(input, residual, out)
            if fast is not None:
                return fast
        arguments = (
            input,
            self._weight,
            self._bias,
            self.stride[0],
            self.padding,
            self.dilation[0],
            self.groups,
        )
        if self.training:
            return self._training_forward(functional.conv1d, arguments, residual, out)
        return functional.conv1d(*arguments, **self._options(residual), out=out)

    def __call__(
        self,
        input: ArrayLike,
        *,
        residual: ArrayLike | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return ``forward(input, residual=residual, out=out)``."""
        return self.forward(input, residual=residual, out=out)

    def stream(self, n_batch: int = 1) -> StreamingConv1d:
        """Return the layer over sequences that arrive in chunks.

        Parameters
        ----------
        n_batch : int, default 1
            How many sequences run side by side.

        Returns
        -------
        StreamingConv1d

        Raises
        ------
        ValueError
            If the padding depends on what is not there yet, see `StreamingConv1d`.
        MemoryError
            If the history cannot be allocated.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import Conv1d
        >>> stream = Conv1d(2, 3, 5, padding="causal").stream()
        >>> stream(np.ones((2, 1), np.float32)).shape
        (3, 1)
        """
        from .streaming import StreamingConv1d

        return StreamingConv1d(self, n_batch)

    def backward(self, grad_output: ArrayLike) -> NDArray[Any]:
        """Add to `weight_grad` and `bias_grad` and return the gradient by the input.

        Parameters
        ----------
        grad_output : ndarray of the shape and dtype of the last output

        Returns
        -------
        ndarray of the input's shape

        Raises
        ------
        RuntimeError
            If no input was kept, because the layer was not called in train mode.
        ValueError, TypeError, OverflowError, MemoryError
            As `fastconv1d.conv1d_backward`.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import Conv1d
        >>> layer = Conv1d(1, 1, 2, dtype=np.float64).train()
        >>> _ = layer(np.array([[1.0, 2.0, 4.0]]))
        >>> layer.backward(np.ones((1, 2))).shape, layer.weight_grad
        ((1, 3), array([[[3., 6.]]]))
        """
        return self._training_backward(functional.conv1d_backward, grad_output)


class ConvTranspose1d(_Convolution):
    """A layer that applies a transposed convolution; see `fastconv1d.conv_transpose1d`.

    A new layer is in eval mode, because this is a library for inference: call `train` before a
    forward that `backward` is to follow.

    Parameters
    ----------
    in_channels : int
        Channels C_in of the input.
    out_channels : int
        Channels C_out of the output.
    kernel_size : int
        Length K of the kernel, in taps.
    stride : int, default 1
        Step between the windows of two input positions.
    padding : int, tuple of one or two ints, or str, default 0
        Positions cropped from both ends of the output, or ``(left, right)``; 'causal', 'same_upper'
        or 'same_lower' as in `fastconv1d.conv_transpose1d`.
    output_padding : int, default 0
        Positions added to the right end, below `stride` or `dilation`.
    groups : int, default 1
        Number of blocks of channels that are convolved separately; divides C_in and C_out.
    bias : bool, default True
        Whether there is a bias.
    dilation : int, default 1
        Step between two taps of the kernel.
    padding_mode : {'zeros', 'reflect', 'replicate', 'circular'}, default 'zeros'
        What becomes of the cropped positions, see `fastconv1d.conv_transpose1d`; torch has 'zeros'
        only.
    device : None or 'cpu'
        For torch's argument order; there is only the CPU.
    dtype : dtype, default float32
        float32, float64, complex64 or complex128.
    rng : numpy.random.Generator, optional
        Where the initial parameters come from, see `reset_parameters`.
    algorithm : {'auto', 'blas', 'direct'}, default 'auto'
        Which engine computes, see `fastconv1d.conv1d`.
    activation, pre_activation, residual_scale, residual_position, layout
        What happens around the sums and the layout of inputs and outputs, as in
        `fastconv1d.conv_transpose1d`; `forward` takes the residual.

    Attributes
    ----------
    weight : ndarray of shape (C_in, C_out / groups, K)
        Read-only in eval mode; assigning copies.
    bias : ndarray of shape (C_out,) or None
        As `weight`.
    weight_grad, bias_grad : ndarray or None
        Sums of the gradients of every `backward` since `zero_grad`.
    residual_grad : ndarray or None
        The gradient of the last `backward` by the residual, None where the forward had none.
    training : bool
        Whether the layer is in train mode.

    Raises
    ------
    ValueError
        If the parameters do not fit together.
    TypeError
        If a parameter has the wrong type or the dtype is not among the four.
    OverflowError
        If a size exceeds 64 bits.
    MemoryError
        If the parameters cannot be allocated.

    Notes
    -----
    Input (N, C_in, L_in) or (C_in, L_in), output (N, C_out, L_out) or (C_out, L_out), of the
    layer's dtype, ``L_out = (L_in - 1)*stride - pad_left - pad_right + dilation*(K - 1)
    + output_padding + 1``. Memory and threads as in `fastconv1d.conv_transpose1d`. In eval mode
    a layer may be called from several threads at once.

    References
    ----------
    ``torch.nn.ConvTranspose1d``:
    https://docs.pytorch.org/docs/stable/generated/torch.nn.ConvTranspose1d.html

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import ConvTranspose1d
    >>> layer = ConvTranspose1d(33, 16, 3, stride=2)
    >>> layer
    ConvTranspose1d(33, 16, kernel_size=(3,), stride=(2,))
    >>> layer(np.zeros((20, 33, 24), np.float32), output_size=[50]).shape
    (20, 16, 50)
    """

    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | Sequence[int] = 1,
        padding_mode: str = "zeros",
        device: str | None = None,
        dtype: DTypeLike | None = None,
        *,
        rng: np.random.Generator | None = None,
        algorithm: str = "auto",
        activation: Any = None,
        pre_activation: Any = None,
        residual_scale: float = 1.0,
        residual_position: str = "before",
        layout: str = "NCL",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
            rng,
            algorithm,
            activation,
            pre_activation,
            residual_scale,
            residual_position,
            layout,
        )

    def _weight_shape(self) -> tuple[int, int, int]:
        return self.in_channels, self.out_channels // self.groups, self.kernel_size[0]

    def forward(
        self,
        input: ArrayLike,
        output_size: int | Sequence[int] | None = None,
        *,
        residual: ArrayLike | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Apply the layer; in train mode, keep the input for `backward`.

        Parameters
        ----------
        input : ndarray of shape (N, C_in, L_in) or (C_in, L_in)
            Of the layer's dtype, or of 16 bits for a float32 layer.
        output_size : int or sequence of int, optional
            The length of the output, alone or as the last of its whole shape. It takes the place
            of `output_padding`, and may exceed the shortest output by less than `stride`.
        residual : ndarray of the output's shape and dtype, optional
            Added to the output, before or after the activation.
        out : ndarray of the output's shape and dtype, optional
            Where to write the output.

        Returns
        -------
        ndarray of shape (N, C_out, L_out) or (C_out, L_out)

        Raises
        ------
        ValueError
            If `output_size` is out of range, and as `fastconv1d.conv_transpose1d`.
        TypeError, OverflowError, MemoryError
            As `fastconv1d.conv_transpose1d`.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import ConvTranspose1d
        >>> layer = ConvTranspose1d(2, 3, 3, stride=4)
        >>> layer.forward(np.zeros((2, 5), np.float32), output_size=20).shape
        (3, 20)
        """
        if output_size is None and not self.training:
            fast = self._fast_forward(input, residual, out)
            if fast is not None:
                return fast
        output_padding = self.output_padding[0]
        if output_size is not None:
            output_padding = self._output_padding(np.shape(input), output_size)
        arguments = (
            input,
            self._weight,
            self._bias,
            self.stride[0],
            self.padding,
            output_padding,
            self.groups,
            self.dilation[0],
        )
        if self.training:
            return self._training_forward(functional.conv_transpose1d, arguments, residual, out)
        return functional.conv_transpose1d(*arguments, **self._options(residual), out=out)

    def __call__(
        self,
        input: ArrayLike,
        output_size: int | Sequence[int] | None = None,
        *,
        residual: ArrayLike | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return ``forward(input, output_size, residual=residual, out=out)``."""
        return self.forward(input, output_size, residual=residual, out=out)

    def stream(self, n_batch: int = 1) -> StreamingConvTranspose1d:
        """Return the layer over sequences that arrive in chunks.

        Parameters
        ----------
        n_batch : int, default 1
            How many sequences run side by side.

        Returns
        -------
        StreamingConvTranspose1d

        Raises
        ------
        ValueError
            If the padding mode is not 'zeros'.
        MemoryError
            If the history cannot be allocated.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import ConvTranspose1d
        >>> stream = ConvTranspose1d(2, 3, 8, stride=4, padding="causal").stream()
        >>> stream(np.ones((2, 1), np.float32)).shape
        (3, 4)
        """
        from .streaming import StreamingConvTranspose1d

        return StreamingConvTranspose1d(self, n_batch)

    def _output_padding(
        self, input_shape: tuple[int, ...], output_size: int | Sequence[int]
    ) -> int:
        ndim = len(input_shape)
        if ndim not in (2, 3):
            return 0  # the convolution explains it
        sizes = list(output_size) if hasattr(output_size, "__len__") else [output_size]  # type: ignore[arg-type]
        if len(sizes) not in (1, ndim):
            raise ValueError(
                f"ConvTranspose1D: for {ndim}D input, output_size must have 1 or {ndim} elements "
                f"(got {len(sizes)})"
            )
        size = geometry.as_index("output_size", sizes[-1])
        left, right = self._pads(self.padding)
        shortest = (
            (input_shape[-1] - 1) * self.stride[0]
            - left
            - right
            + self.dilation[0] * (self.kernel_size[0] - 1)
            + 1
        )
        longest = shortest + self.stride[0] - 1
        if not shortest <= size <= longest:
            raise ValueError(
                f"requested an output size of [{size}], but valid sizes range from [{shortest}] "
                f"to [{longest}] (for an input of [{input_shape[-1]}])"
            )
        return size - shortest

    def backward(self, grad_output: ArrayLike) -> NDArray[Any]:
        """Add to `weight_grad` and `bias_grad` and return the gradient by the input.

        Parameters
        ----------
        grad_output : ndarray of the shape and dtype of the last output

        Returns
        -------
        ndarray of the input's shape

        Raises
        ------
        RuntimeError
            If no input was kept, because the layer was not called in train mode.
        ValueError, TypeError, OverflowError, MemoryError
            As `fastconv1d.conv_transpose1d_backward`.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import ConvTranspose1d
        >>> layer = ConvTranspose1d(1, 1, 3, stride=2, dtype=np.float64).train()
        >>> _ = layer(np.array([[1.0, 2.0]]))
        >>> layer.backward(np.ones((1, 5))).shape, layer.weight_grad
        ((1, 2), array([[[3., 3., 3.]]]))
        """
        return self._training_backward(functional.conv_transpose1d_backward, grad_output)


def load_parameters(
    name: str, layers: Mapping[str, Any], state_dict: Mapping[str, ArrayLike], strict: bool
) -> IncompatibleKeys:
    """Load the parameters of all `layers`, whose keys start with their prefixes, or of none."""
    if not (hasattr(state_dict, "keys") and hasattr(state_dict, "__getitem__")):
        raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
    own = {
        prefix + key: (prefix, key, parameter)
        for prefix, layer in layers.items()
        for key, parameter in layer._parameters().items()
    }
    missing = [key for key in own if key not in state_dict]
    unexpected = [key for key in state_dict if key not in own]
    problems = []
    if strict and missing:
        problems.append(f"Missing key(s) in state_dict: {_quoted(missing)}. ")
    if strict and unexpected:
        problems.append(f"Unexpected key(s) in state_dict: {_quoted(unexpected)}. ")
    new: dict[str, dict[str, NDArray[Any]]] = {prefix: {} for prefix in layers}
    for full, (prefix, key, parameter) in own.items():
        if full in state_dict:
            value = _castable(full, state_dict[full], parameter)
            new[prefix][key] = value
            if value.shape != parameter.shape:
                problems.append(
                    f"size mismatch for {full}: copying a param with shape "
                    f"{list(value.shape)} from checkpoint, the shape in current model is "
                    f"{list(parameter.shape)}."
                )
    if problems:
        raise ValueError(f"Error(s) in loading state_dict for {name}:\n\t" + "\n\t".join(problems))
    for prefix, layer in layers.items():
        layer._replace(new[prefix])
    return IncompatibleKeys(missing, unexpected)


def _size(name: str, value: Any) -> int:
    size = geometry.as_index(name, value)
    if size < 0:
        raise ValueError(
            f"Trying to create tensor with negative dimension {size}: {name} should not be "
            f"negative, got {name}={size}"
        )
    return size


def _check_device(device: str | None) -> None:
    if device is None or device == "cpu":
        return
    if not isinstance(device, str):
        raise TypeError(f"device should be None or 'cpu', got {geometry.shown(device)}")
    raise ValueError(f"Expected one of cpu device type, got device={geometry.shown(device)}")


def _parameter_dtype(dtype: DTypeLike | None) -> np.dtype[Any]:
    checked = np.dtype(np.float32 if dtype is None else dtype).newbyteorder("=")
    if checked not in functional._DTYPES:
        raise TypeError(
            "Only Tensors of floating point and complex dtype can require gradients: the dtype "
            f"should be float32, float64, complex64 or complex128, got {checked}"
        )
    return checked


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    copy = np.array(array, order="C")
    copy.flags.writeable = False
    return copy


def _uniform(rng: np.random.Generator, bound: float, like: NDArray[Any]) -> NDArray[Any]:
    new = np.empty_like(like)
    parts = (new.real, new.imag) if new.dtype.kind == "c" else (new,)
    for part in parts:
        part[...] = 2 * bound * rng.random(part.shape, dtype=part.dtype.type) - bound
    return new


def _checked_parameter(name: str, value: ArrayLike, current: NDArray[Any]) -> NDArray[Any]:
    new = np.asarray(value)
    if half_of(new.dtype):  # exact in every dtype of a layer
        new = new.astype(current.dtype)
    if new.dtype.newbyteorder("=") != current.dtype:
        raise TypeError(f"{name} should have the dtype {current.dtype}, got {new.dtype}")
    if new.shape != current.shape:
        raise ValueError(
            f"{name} should have the shape {list(current.shape)}, got {list(new.shape)}"
        )
    return new.astype(current.dtype)


def _castable(name: str, value: ArrayLike, current: NDArray[Any]) -> NDArray[Any]:
    new = widened(np.asarray(value))
    if new.dtype.kind not in "iufcb" or not np.can_cast(new.dtype, current.dtype, "same_kind"):
        raise TypeError(
            f"the value of {name} in state_dict should be an array that can be cast to "
            f"{current.dtype}, got {type(value).__name__} of dtype {new.dtype}"
        )
    return new.astype(current.dtype)


def _quoted(keys: Sequence[object]) -> str:
    return ", ".join(f'"{key}"' for key in keys)
