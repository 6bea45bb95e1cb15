"""Activations as layers, for `fastconv1d.Sequential`: ReLU, LeakyReLU, GELU, Snake and others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from . import functional, fused, geometry
from .activations import parse_activation
from .kernels import direct_engine
from .modules import IncompatibleKeys, load_parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

_Layer = TypeVar("_Layer", bound="ActivationLayer")


class ActivationLayer:
    """What all activations share: a layer without parameters, equal in train and eval mode.

    Attributes
    ----------
    training : bool
        Whether the layer keeps its input for `backward`.
    """

    _revision = 0  # how often an attribute was set

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name not in ("training", "_kept"):
            super().__setattr__("_revision", self._revision + 1)

    def __init__(self) -> None:
        self.training = False
        self._kept: NDArray[Any] | None = None

    @property
    def activation(self) -> str | tuple[str, Any]:
        """The activation as the convolutions' ``activation=`` takes it."""
        raise NotImplementedError

    def apply(self, x: NDArray[Any], out: NDArray[Any]) -> None:
        """Write the activation of an array to another.

        Parameters
        ----------
        x : ndarray of shape (N, C, L)
            Of dtype float32 or float64, or of 16 bits.
        out : ndarray of the shape and dtype of `x`
            Contiguous; may be `x` itself.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import ReLU
        >>> x = np.array([[[-1.0, 2.0]]])
        >>> ReLU().apply(x, out=x)
        >>> x
        array([[[0., 2.]]])
        """
        step = parse_activation(self.activation)
        assert step is not None
        if x.dtype.char in "fd":
            if out is not x:
                np.copyto(out, x)
            direct_engine.finish(step, out, None, 1.0, False)
        else:
            np.copyto(out, fused.activate(step, x, "NCL"))

    def forward(self, input: ArrayLike) -> NDArray[Any]:
        """Return the activation of every element; in train mode, keep the input for `backward`.

        Parameters
        ----------
        input : ndarray of shape (N, C, L) or (C, L)
            Of dtype float32 or float64, or of 16 bits.

        Returns
        -------
        ndarray of the input's shape and dtype

        Raises
        ------
        ValueError
            If the input has another number of dimensions or, for `Snake`, of channels.
        TypeError
            If the dtype is not real.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import ReLU
        >>> ReLU().forward(np.array([[-1.0, 2.0]]))
        array([[0., 2.]])
        """
        x, batched = functional._batched(type(self).__name__, functional._operand(input))
        self.check(x.shape, x.dtype)
        y = functional._new(x.shape, x.dtype)
        self.apply(x, y)
        if self.training:
            self._kept = x
        return y if batched else y[0]

    def __call__(self, input: ArrayLike) -> NDArray[Any]:
        """Return ``forward(input)``."""
        return self.forward(input)

    def check(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Raise what is wrong with an input.

        Parameters
        ----------
        shape : tuple of three ints
            Its (N, C, L).
        dtype : numpy.dtype
            Its dtype.

        Raises
        ------
        ValueError
            If the number of channels is not that of a `Snake`.
        TypeError
            If the dtype is not real.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import ReLU
        >>> ReLU().check((1, 4, 10), np.dtype(np.float32))
        """
        if dtype.kind != "f" and not fused.half_of(dtype):
            name = functional._TORCH_NAMES.get(dtype.name, dtype.name)
            raise TypeError(
                f"\"{type(self).__name__}\" not implemented for '{name}': the dtype should be "
                f"float32, float64 or of 16 bits, got an input of dtype {dtype}"
            )

    def backward(self, grad_output: ArrayLike) -> NDArray[Any]:
        """Return the gradient by the input.

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
        ValueError, TypeError
            If the shape or the dtype is not that of the output.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import LeakyReLU
        >>> layer = LeakyReLU(0.5).train()
        >>> _ = layer(np.array([[-1.0, 2.0]]))
        >>> layer.backward(np.array([[4.0, 4.0]]))
        array([[2., 4.]])
        """
        if self._kept is None:
            state = "train" if self.training else "eval"
            raise RuntimeError(
                "backward needs the input of a forward in train mode: call train() and then the "
                f"layer before it, got a layer in {state} mode without a kept input"
            )
        batched = np.ndim(grad_output) == 3
        g = functional._gradient_operand(
            grad_output,
            self._kept.dtype,
            self._kept.shape,
            batched,
        )
        with np.errstate(all="ignore"):
            step = parse_activation(self.activation)
            assert step is not None
            grad_input = g * step.derivative(self._kept)
        return grad_input if batched else grad_input[0]

    def train(self: _Layer, mode: bool = True) -> _Layer:
        """Go to train mode, or to eval mode.

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

        Examples
        --------
        >>> from fastconv1d import ReLU
        >>> ReLU().train().training
        True
        """
        if not isinstance(mode, bool):
            raise ValueError(f"training mode is expected to be boolean, got {geometry.shown(mode)}")
        self.training = mode
        if not mode:
            self._kept = None
        return self

    def eval(self: _Layer) -> _Layer:
        """Go to eval mode, that of a new layer.

        Returns
        -------
        The layer itself.

        Examples
        --------
        >>> from fastconv1d import ReLU
        >>> ReLU().train().eval().training
        False
        """
        return self.train(False)

    def zero_grad(self) -> None:
        """Do nothing: there are no gradients by parameters.

        Examples
        --------
        >>> from fastconv1d import ReLU
        >>> ReLU().zero_grad()
        """

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return the parameters under torch's keys: none but the alpha of `Snake`.

        Returns
        -------
        dict of str to ndarray

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import ReLU, Snake
        >>> ReLU().state_dict(), Snake(np.ones(2)).state_dict()
        ({}, {'alpha': array([1., 1.])})
        """
        return {name: value.copy() for name, value in self._parameters().items()}

    def load_state_dict(
        self, state_dict: Mapping[str, ArrayLike], strict: bool = True
    ) -> IncompatibleKeys:
        """Copy the parameters out of a dict, as `fastconv1d.Conv1d.load_state_dict` does.

        Parameters
        ----------
        state_dict : mapping of str to array-like
            The parameters under their keys.
        strict : bool, default True
            Whether missing and unexpected keys are errors.

        Returns
        -------
        IncompatibleKeys
            ``missing_keys`` and ``unexpected_keys``.

        Raises
        ------
        ValueError
            If a shape does not fit or, with `strict`, keys do not.
        TypeError
            If `state_dict` is not a mapping.

        Examples
        --------
        >>> from fastconv1d import ReLU
        >>> ReLU().load_state_dict({})
        IncompatibleKeys(missing_keys=[], unexpected_keys=[])
        """
        return load_parameters(type(self).__name__, {"": self}, state_dict, strict)

    def _parameters(self) -> dict[str, NDArray[Any]]:
        return {}

    def _replace(self, parameters: Mapping[str, NDArray[Any]]) -> None:
        for name, value in parameters.items():
            setattr(self, name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        """Return the arguments that `repr` shows, as torch's layers do.

        Returns
        -------
        str

        Examples
        --------
        >>> from fastconv1d import LeakyReLU
        >>> LeakyReLU(0.5).extra_repr()
        'negative_slope=0.5'
        """
        return ""


class ReLU(ActivationLayer):
    """``max(x, 0)``, as ``torch.nn.ReLU``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import ReLU
    >>> ReLU()(np.array([[-1.0, 2.0]]))
    array([[0., 2.]])
    """

    @property
    def activation(self) -> str:
        return "relu"


class LeakyReLU(ActivationLayer):
    """``x`` where it is positive, otherwise ``negative_slope * x``, as ``torch.nn.LeakyReLU``.

    Parameters
    ----------
    negative_slope : float, default 0.01

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import LeakyReLU
    >>> LeakyReLU(0.5)(np.array([[-1.0, 2.0]]))
    array([[-0.5,  2. ]])
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.negative_slope = number("negative_slope", negative_slope)

    @property
    def activation(self) -> tuple[str, float]:
        return "leaky_relu", self.negative_slope

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class ELU(ActivationLayer):
    """``x`` where it is positive, otherwise ``alpha * (exp(x) - 1)``, as ``torch.nn.ELU``.

    Parameters
    ----------
    alpha : float, default 1.0

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import ELU
    >>> ELU()(np.array([[-np.inf, 2.0]]))
    array([[-1.,  2.]])
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = number("alpha", alpha)

    @property
    def activation(self) -> tuple[str, float]:
        return "elu", self.alpha

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class GELU(ActivationLayer):
    """``x`` times the normal distribution function of ``x``, as ``torch.nn.GELU``.

    Parameters
    ----------
    approximate : {'none', 'tanh'}, default 'none'
        'tanh' computes ``x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715*x**3)))`` instead.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import GELU
    >>> GELU()(np.array([[0.0, 1.0]])).round(4)
    array([[0.    , 0.8413]])
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        if approximate not in ("none", "tanh"):
            raise ValueError(
                "approximate argument must be either 'none' or 'tanh', "
                f"got {geometry.shown(approximate)}"
            )
        self.approximate = approximate

    @property
    def activation(self) -> str | tuple[str, str]:
        return "gelu" if self.approximate == "none" else ("gelu", "tanh")

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class SiLU(ActivationLayer):
    """``x / (1 + exp(-x))``, as ``torch.nn.SiLU``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import SiLU
    >>> SiLU()(np.array([[0.0, 2.0]])).round(4)
    array([[0.    , 1.7616]])
    """

    @property
    def activation(self) -> str:
        return "silu"


class Tanh(ActivationLayer):
    """The hyperbolic tangent, as ``torch.nn.Tanh``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import Tanh
    >>> Tanh()(np.array([[0.0, np.inf]]))
    array([[0., 1.]])
    """

    @property
    def activation(self) -> str:
        return "tanh"


class Sigmoid(ActivationLayer):
    """``1 / (1 + exp(-x))``, as ``torch.nn.Sigmoid``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import Sigmoid
    >>> Sigmoid()(np.array([[-np.inf, 0.0]]))
    array([[0. , 0.5]])
    """

    @property
    def activation(self) -> str:
        return "sigmoid"


class Snake(ActivationLayer):
    """``x + sin(alpha*x)**2 / (alpha + 1e-9)``, with an alpha for each channel.

    Parameters
    ----------
    alpha : array-like of shape (C,) or (1, C, 1)
        `backward` computes no gradient by it.

    References
    ----------
    Ziyin, Hartwig and Ueda, "Neural Networks Fail to Learn Periodic Functions and How to Fix It",
    2020.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import Snake
    >>> Snake(np.array([np.pi, 2.0]))(np.array([[0.5], [0.0]])).round(4)
    array([[0.8183],
           [0.    ]])
    """

    def __init__(self, alpha: ArrayLike) -> None:
        super().__init__()
        values = np.array(alpha)
        if values.dtype.kind not in "iuf":
            raise TypeError(f"alpha should be real numbers, got dtype {values.dtype}")
        if values.ndim != 1 and (values.ndim != 3 or values.shape != (1, values.size, 1)):
            raise ValueError(
                "alpha should have the shape [channels] or [1, channels, 1], "
                f"got {list(values.shape)}"
            )
        self.alpha = values.astype(values.dtype if values.dtype.kind == "f" else np.float32)

    @property
    def activation(self) -> tuple[str, NDArray[Any]]:
        return "snake", self.alpha.reshape(-1)

    def _parameters(self) -> dict[str, NDArray[Any]]:
        return {"alpha": self.alpha}

    def check(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        super().check(shape, dtype)
        if shape[1] != self.alpha.size:
            raise ValueError(
                f"Snake should have an alpha for each of {shape[1]} channels, "
                f"got alpha of size {list(self.alpha.shape)}"
            )

    def extra_repr(self) -> str:
        return str(self.alpha.size)


def number(name: str, value: Any) -> float:
    """Return `value` as a float, or raise TypeError."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name} should be a number, got {geometry.shown(value)}")
    return float(value)
