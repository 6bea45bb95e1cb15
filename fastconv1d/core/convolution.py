"""What both layers share: parameters and their pack, the spec and its attributes, forward."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from .. import config
from ..weights import layer_parameters
from . import arrays, chosen, geometry, planes, training
from .activations import own_activation
from .base import Layer, assign, setting, writing
from .engines import choose_engine
from .parameters import (
    as_size,
    check_device,
    checked_parameter,
    frozen,
    generator,
    parameter_dtype,
    uniform,
)
from .planes import convolve
from .spec import Around, Spec, checked_spec
from .spec2d import Spec2d

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from ..kernels.direct_engine import PreparedLayer
    from .activations import Steps
    from .base import Assignment

_Layer = TypeVar("_Layer", bound="Convolution")


class Parameters(NamedTuple):
    """The arrays of a layer, exchanged together."""

    weight: NDArray[Any]
    bias: NDArray[Any] | None

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, tuple(self)


def _unpickled(weight: NDArray[Any], bias: NDArray[Any] | None) -> Parameters:
    return Parameters(arrays.aligned(weight), None if bias is None else arrays.aligned(bias))


class Pack:
    """What the engines made of parameters and a spec, once, whoever uses it.

    Attributes
    ----------
    parameters : Parameters
    spec : Spec
    run : callable or None
        ``run(x, threads, residual, out)``, the output for plain arrays, otherwise None; there is
        none where no engine has a packed form.
    """

    def __init__(self, parameters: Parameters, spec: Any, own: _Prepared | None = None) -> None:
        self.parameters, self.spec = parameters, spec
        self._own = _Prepared(parameters, spec) if own is None else own
        self._fast: Pack | None = None
        self.run: Any = chosen.prepare(*parameters, spec, self._own)
        if self.run is None:
            self.run = self._own.layer

    def in_force(self) -> Pack:
        """Return the pack that the default algorithm means: this one unless that is 'fast'."""
        if self.spec.algorithm != "auto" or config.get_algorithm() == "auto":
            return self
        if self._fast is None:
            self._fast = Pack(self.parameters, self.spec._replace(algorithm="fast"), self._own)
        return self._fast

    @property
    def prepared(self) -> PreparedLayer | None:
        """The layer packed by its engine, whatever computes plain calls."""
        return self._own.layer


class _Prepared:
    """The layer packed by its engine, when it is first asked for."""

    def __init__(self, parameters: Parameters, spec: Spec) -> None:
        self._of = parameters, spec
        self._made: tuple[PreparedLayer | None] | None = None

    @property
    def layer(self) -> PreparedLayer | None:
        if self._made is None:
            self._made = (_prepare(*self._of),)
        return self._made[0]


def _prepare(parameters: Parameters, spec: Spec | Spec2d) -> PreparedLayer | None:
    weight, bias = parameters
    if isinstance(spec, Spec2d):
        return planes.prepare(weight, bias, spec)
    if spec.transposed:
        geometry.check_output_padding(spec.output_padding, spec.stride, spec.dilation)
    pads = spec.pads()
    engine = choose_engine(
        spec.algorithm,
        weight.dtype.char,
        weight.shape,
        spec.stride,
        spec.dilation,
        pads,
        spec.transposed,
    )
    # What cropped positions hold is added back in further calls of the engine.
    if spec.transposed and spec.padding_mode != "zeros" and any(pads):
        return None
    prepared: PreparedLayer | None = engine.prepare(weight, bias, spec)
    return prepared


class Option:
    """An attribute of a layer that is part of its spec: checked when it is set."""

    def __init__(self, read: Callable[[Spec], Any]) -> None:
        self._read = read

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, layer: Any, owner: type | None = None) -> Any:
        return self if layer is None else self._read(layer._spec)

    def __set__(self, layer: Any, value: Any) -> None:
        layer._set_options(**{self._name: value})


class Size:
    """An attribute of a layer that its weight says: it may be set to what it is only."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self._read = read

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, layer: Any, owner: type | None = None) -> Any:
        return self if layer is None else self._read(layer)

    def __set__(self, layer: Any, value: Any) -> None:
        now = self._read(layer)
        same = (value, value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else None)
        if not any(isinstance(v, type(now)) and v == now for v in (*same, (value,))):
            raise ValueError(
                f"{self._name} is that of the layer's weight, {now}: make a new layer for another, "
                f"got {self._name}={geometry.shown(value)}"
            )


# The options of a layer that its spec holds, besides those around the sums.
_OPTIONS = (
    "stride",
    "padding",
    "output_padding",
    "dilation",
    "groups",
    "padding_mode",
    "algorithm",
    "layout",
)
# Fields of a layer that follow from others, or are no part of its state.
_DERIVED = ("_channels", "_spec", "_held", "_packed", "_calls")


class Convolution(Layer):
    """What both layers share. A subclass has the shape of its weight, forward and backward."""

    transposed: ClassVar[bool]
    _rank: ClassVar[int] = 1  # axes of an input beside items and channels
    weight_grad: NDArray[Any] | None = None
    bias_grad: NDArray[Any] | None = None
    residual_grad: NDArray[Any] | None = None
    _spec: Spec
    _held: Parameters

    _options_of_spec: ClassVar[tuple[str, ...]] = _OPTIONS

    in_channels = Size(lambda layer: layer._channels[0])
    out_channels = Size(lambda layer: layer._channels[1])
    kernel_size = Size(lambda layer: (layer._spec.kernel_size,))
    stride = Option(lambda spec: (spec.stride,))
    padding = Option(lambda spec: spec.padding)
    output_padding = Option(lambda spec: (spec.output_padding,))
    dilation = Option(lambda spec: (spec.dilation,))
    groups = Size(lambda layer: layer._spec.groups)
    padding_mode = Option(lambda spec: spec.padding_mode)
    algorithm = Option(lambda spec: spec.algorithm)
    activation = Option(lambda spec: spec.around.activation)
    pre_activation = Option(lambda spec: spec.around.pre_activation)
    residual_scale = Option(lambda spec: spec.around.residual_scale)
    residual_position = Option(lambda spec: spec.around.residual_position)
    layout = Option(lambda spec: spec.layout)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        bias: bool,
        device: str | None,
        dtype: DTypeLike | None,
        rng: np.random.Generator | None,
        **options: Any,
    ) -> None:
        self._channels = as_size("in_channels", in_channels), as_size("out_channels", out_channels)
        self._make_spec(self._checked_kernel(kernel_size), **options)
        self.training = False
        self._packed: Pack | None = None
        self._calls = training.Calls()
        check_device(device)
        if not isinstance(bias, (bool, int, np.bool_)):
            raise TypeError(
                f"bias should be True or False, got {geometry.shown(bias)}: values are set by "
                "load_state_dict, or layer.bias = values"
            )
        checked = parameter_dtype(dtype)
        made = arrays.new((self._channels[1],), checked) if bias else None
        self._held = Parameters(arrays.new(self._weight_shape(), checked), made)
        self.reset_parameters(rng)

    def _weight_shape(self) -> tuple[int, ...]:
        raise NotImplementedError

    def _checked_kernel(self, kernel_size: Any) -> Any:
        """Return what the spec has as the size of the kernel."""
        return as_size("kernel_size", kernel_size)

    def _checked_spec(self, kernel_size: Any, **options: Any) -> Any:
        return checked_spec(self.transposed, kernel_size, self._channels, **options)

    # ---- attributes

    def _make_spec(self, kernel_size: int, **options: Any) -> None:
        around = Around(
            own_activation(options.pop("pre_activation")),
            own_activation(options.pop("activation")),
            options.pop("residual_scale"),
            options.pop("residual_position"),
        )
        self._spec = self._checked_spec(kernel_size, around=around, **options)

    def _options(self) -> dict[str, Any]:
        """Return what `_make_spec` takes."""
        spec = self._spec
        options = {name: getattr(spec, name) for name in self._options_of_spec}
        return options | spec.around._asdict()

    def _set_options(self, **changed: Any) -> None:
        self._make_spec(self._spec.kernel_size, **{**self._options(), **changed})

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the parameters."""
        return self._held.weight.dtype

    @dtype.setter
    def dtype(self, value: DTypeLike) -> None:
        if np.dtype(value) != self.dtype:
            raise ValueError(
                f"dtype is that of the layer's weight, {self.dtype}: make a new layer for another "
                f"and load_state_dict, got dtype={geometry.shown(value)}"
            )

    # ---- parameters

    @property
    def weight(self) -> NDArray[Any]:
        """The weight: a read-only view in eval mode, the writable array itself in train mode.

        Assigning copies the values of an array of the same shape, and dtype or 16 bits.
        """
        return self._held.weight if self.training else self._held.weight.view()

    @weight.setter
    def weight(self, value: ArrayLike) -> None:
        new = checked_parameter("weight", value, self._held.weight)
        assign(self._replacing({"weight": new}))

    @property
    def bias(self) -> NDArray[Any] | None:
        """The bias, as `weight`; None for a layer without one."""
        bias = self._held.bias
        return bias if bias is None or self.training else bias.view()

    @bias.setter
    def bias(self, value: ArrayLike | None) -> None:
        bias = self._held.bias
        if (value is None) != (bias is None):
            raise ValueError(
                f"bias should stay {'None' if bias is None else 'an array'}, as the layer "
                f"was made with bias={bias is not None}, got {type(value).__name__}"
            )
        if bias is not None and value is not None:
            assign(self._replacing({"bias": checked_parameter("bias", value, bias)}))

    def _parameters(self) -> dict[str, NDArray[Any]]:
        weight, bias = self._held
        return {"weight": weight} if bias is None else {"weight": weight, "bias": bias}

    def _replacing(self, parameters: Mapping[str, NDArray[Any]]) -> Iterable[Assignment]:
        """New values are written in place in train mode, otherwise they are new arrays.

        Everything that changes a parameter outside of training, and the end of training, makes
        private read-only copies: no writable alias exists, so what is derived from them stays
        right.
        """
        if self.training:
            return [writing(getattr(self._held, name), v) for name, v in parameters.items()]
        new = {name: frozen(value) for name, value in parameters.items()}
        return [setting(self, "_held", self._held._replace(**new)), setting(self, "_packed", None)]

    def _switching(self, mode: bool) -> Iterable[Assignment]:
        if mode == self.training:
            return []
        copied = np.copy if mode else frozen
        weight, bias = self._held
        held = Parameters(copied(weight), None if bias is None else copied(bias))
        new = {"training": mode, "_held": held, "_packed": None, "_calls": training.Calls()}
        return [setting(self, name, value) for name, value in new.items()]

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
        rng = generator(rng)
        weight = self._held.weight
        fan_in = math.prod(weight.shape[1:])
        bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
        new = {name: uniform(rng, bound, like) for name, like in self._parameters().items()}
        assign(self._replacing(new))

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
        weight, bias = layer_parameters(state_dict, prefix, cls._rank)
        first, second, *kernel_size = weight.shape
        if groups is None:
            groups = 1
            if cls.transposed and bias is not None and second and bias.size % second == 0:
                groups = bias.size // second
        other = second * geometry.as_index("groups", groups)
        if dtype is None and weight.dtype.newbyteorder("=") in arrays.DTYPES:
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

    # ---- forward and backward

    def _pack(self) -> Pack:
        """Return the pack of the layer as it is, made by whoever needs it first."""
        packed = self._packed
        held, spec = self._held, self._spec
        # Another thread may have replaced a parameter while the pack was being made.
        if packed is None or packed.parameters is not held or packed.spec is not spec:
            packed = self._packed = Pack(held, spec)
        return packed.in_force() if config.may_be_fast else packed

    def _fast_forward(self, input: Any, residual: Any, out: Any) -> NDArray[Any] | None:
        """The output in eval mode for plain arrays, by compiled code alone; otherwise None."""
        packed = self._packed
        # as in _pack, whose call would be a tenth of a small layer's time
        if packed is None or packed.parameters is not self._held or packed.spec is not self._spec:
            packed = self._pack()
        run = packed.in_force().run if config.may_be_fast else packed.run
        if run is None:
            return None
        output: NDArray[Any] | None = run(input, config.get_num_threads, residual, out)
        return output

    def _slow_forward(
        self, input: ArrayLike, residual: Any, out: Any, output_padding: int | None = None
    ) -> NDArray[Any]:
        """The output for whatever is left; in train mode, what `backward` needs is kept."""
        spec, (weight, bias) = self._spec, self._held
        if output_padding is not None:
            spec = spec._replace(output_padding=output_padding)
        if not self.training:
            return convolve(spec, input, weight, bias, residual, out)
        output, kept = training.forward(spec, input, weight, bias, residual, out)
        self._calls.keep(input, output, kept)
        return output

    def _keeping(self, x: NDArray[Any]) -> tuple[NDArray[Any], Any]:
        return training.forward(self._spec, x, *self._held, None, None)

    def _backward(self, g: ArrayLike, kept: Any) -> NDArray[Any]:
        grad_input, grad_weight, grad_bias, grad_residual = training.backward(kept, g)
        with training.lock:
            weight_grad = training.added(self.weight_grad, grad_weight)
            bias_grad = self.bias_grad
            if grad_bias is not None:
                bias_grad = training.added(bias_grad, grad_bias)
            new = {
                "weight_grad": weight_grad,
                "bias_grad": bias_grad,
                "residual_grad": grad_residual,
            }
            assign(setting(self, name, value) for name, value in new.items())
        return grad_input

    def backward(self, grad_output: ArrayLike, output: NDArray[Any] | None = None) -> NDArray[Any]:
        """Add to `weight_grad` and `bias_grad` and return the gradient by the input.

        Parameters
        ----------
        grad_output : ndarray of the shape and dtype of the output
        output : ndarray, optional
            The output that the gradient is by. Needed only where the outputs of several calls are
            in use; the newest otherwise, also where the layer was applied to its own output.

        Returns
        -------
        ndarray of the input's shape

        Raises
        ------
        RuntimeError
            If no input was kept, because the layer was not called in train mode, or if several
            calls may be meant.
        ValueError, TypeError, OverflowError, MemoryError
            As the function's backward.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import Conv1d
        >>> layer = Conv1d(1, 1, 2, dtype=np.float64).train()
        >>> y = layer(np.array([[1.0, 2.0, 4.0]]))
        >>> layer.backward(np.ones((1, 2))).shape, layer.weight_grad
        ((1, 3), array([[[3., 6.]]]))
        """
        return self._backward(grad_output, self._calls.recall(self.training, output))

    def _drop_gradients(self) -> None:
        self.weight_grad = self.bias_grad = None

    # ---- copies and text

    def _sharing_parameters(self: _Layer) -> _Layer:
        """Return a layer with the same arrays and pack, whose attributes may then differ."""
        copy = object.__new__(type(self))
        own = {"_calls": training.Calls(), "weight_grad": None, "bias_grad": None}
        copy.__dict__.update(self.__dict__, **own)
        return copy

    def _copy_in_eval(self: _Layer, made: dict[int, Any]) -> _Layer:
        if not self.training:
            self._pack()  # if it has none yet: one for the layer and all its streams
        layer = self._sharing_parameters()
        return layer.eval() if layer.training else layer

    def __getstate__(self) -> dict[str, Any]:
        """Pickles hold attributes, arrays and gradients: no record that another version may cut
        otherwise, no pack and nothing kept.
        """
        own = {name: value for name, value in self.__dict__.items() if name not in _DERIVED}
        sizes = {name: getattr(self, name) for name in ("in_channels", "out_channels")}
        weight, bias = self._held
        kernel_size = self.kernel_size
        return {
            **own, **sizes, "kernel_size": kernel_size, **self._options(),
            "_weight": weight, "_bias": bias,
        }  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        rest = dict(state)
        self._channels = rest.pop("in_channels"), rest.pop("out_channels")
        held = _unpickled(rest.pop("_weight"), rest.pop("_bias"))
        names = (*self._options_of_spec, *Around._fields)
        options = {name: rest.pop(name) for name in names}
        self._make_spec(self._checked_kernel(rest.pop("kernel_size")), **options)
        self.__dict__.update(rest, _held=held, _packed=None, _calls=training.Calls())
        if not self.training:  # arrays come back writable
            assign(self._replacing(self._parameters()))

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
        if isinstance(self.padding, str) or np.any(self.padding):
            text += f", padding={self.padding}"
        if max(self.dilation) != 1:
            text += f", dilation={self.dilation}"
        if self.transposed and self.output_padding != (0,):
            text += f", output_padding={self.output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self._held.bias is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        steps: Steps = self._spec.steps
        for name, step in (("activation", steps.after), ("pre_activation", steps.before)):
            if step is not None:
                text += f", {name}={step.name}"
        if self.layout not in ("NCL", "NCHW"):
            text += f", layout={self.layout}"
        return text
