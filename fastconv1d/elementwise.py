"""Activations as layers, for `fastconv1d.Sequential`: ReLU, LeakyReLU, GELU, Snake and others."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .core import arrays, geometry, training
from .core.activations import parse_activation
from .core.base import Layer, Option, number, setting
from .core.flow import PerPosition
from .core.forward import activate
from .kernels import direct_engine

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import ArrayLike, NDArray

    from .core.activations import Activation
    from .core.base import Assignment
    from .core.flow import Flow, Run


class ActivationLayer(Layer):
    """What all activations share: a layer without parameters, equal in train and eval mode.

    Attributes
    ----------
    training : bool
        Whether the layer keeps its input for `backward`.
    """

    def __init__(self) -> None:
        self.training = False
        self._calls = training.Calls()

    @property
    def activation(self) -> str | tuple[str, Any]:
        """The activation as the convolutions' ``activation=`` takes it."""
        raise NotImplementedError

    def apply(self, x: NDArray[Any], out: NDArray[Any]) -> None:
        """Write the activation of an array to another.

        Parameters
        ----------
        x : ndarray of shape (N, C, L) or (N, C, H, W)
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
        step = self._step()
        if x.dtype.char in "fd":
            if out is not x:
                np.copyto(out, x)
            direct_engine.finish(step, arrays.as_rows(out), None, 1.0, False)
        else:
            np.copyto(arrays.as_rows(out), activate(step, arrays.as_rows(x), "NCL"))

    def _flow(self, run: Run) -> Flow:
        return PerPosition(run)

    def _step(self) -> Activation:
        step = parse_activation(self.activation)
        assert step is not None
        return step

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
        x, batched = arrays.batched(type(self).__name__, arrays.operand(input))
        y, kept = self._keeping(x)
        if self.training:
            self._calls.keep(x, y, kept)
        return y if batched else y[0]

    def _keeping(self, x: NDArray[Any]) -> tuple[NDArray[Any], Any]:
        self.check(x.shape, x.dtype)
        y = arrays.new(x.shape, x.dtype)
        self.apply(x, y)
        return y, (x, self._step())

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
        if dtype.kind != "f" and not arrays.half_of(dtype):
            raise TypeError(
                f"\"{type(self).__name__}\" not implemented for '{arrays.torch_name(dtype)}': the "
                "dtype should be "
                f"float32, float64 or of 16 bits, got an input of dtype {dtype}"
            )

    def backward(self, grad_output: ArrayLike, output: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the gradient by the input.

        Parameters
        ----------
        grad_output : ndarray of the shape and dtype of the output
        output : ndarray, optional
            The output that the gradient is by, as for `fastconv1d.Conv1d.backward`.

        Returns
        -------
        ndarray of the input's shape

        Raises
        ------
        RuntimeError
            If no input was kept, because the layer was not called in train mode, or if several
            calls may be meant.
        ValueError, TypeError
            If the shape or the dtype is not that of the output.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import LeakyReLU
        >>> layer = LeakyReLU(0.5).train()
        >>> y = layer(np.array([[-1.0, 2.0]]))
        >>> layer.backward(np.array([[4.0, 4.0]]))
        array([[2., 4.]])
        """
        x, step = self._calls.recall(self.training, output)
        batched = np.ndim(grad_output) == 3
        g = arrays.gradient_operand(grad_output, x.dtype, x.shape, batched)
        grad_input = self._backward(g, (x, step))
        return grad_input if batched else grad_input[0]

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        x, step = kept
        with np.errstate(all="ignore"):
            grad_input: NDArray[Any] = g * step.derivative(x)
        return grad_input

    def _switching(self, mode: bool) -> Iterable[Assignment]:
        return [setting(self, "training", mode), setting(self, "_calls", training.Calls())]


def _approximation(name: str, value: Any) -> str:
    if value not in ("none", "tanh"):
        raise ValueError(
            f"{name} argument must be either 'none' or 'tanh', got {geometry.shown(value)}"
        )
    return str(value)


def _alphas(name: str, value: ArrayLike) -> NDArray[Any]:
    """Return a read-only copy, from which networks may keep what they derive."""
    values = np.array(value)
    if values.dtype.kind not in "iuf":
        raise TypeError(f"{name} should be real numbers, got dtype {values.dtype}")
    if values.ndim != 1 and (values.ndim != 3 or values.shape != (1, values.size, 1)):
        raise ValueError(
            f"{name} should have the shape [channels] or [1, channels, 1], got {list(values.shape)}"
        )
    alphas = values.astype(values.dtype if values.dtype.kind == "f" else np.float32)
    alphas.flags.writeable = False
    return alphas


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

    negative_slope = Option(number)

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.negative_slope = negative_slope

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

    alpha = Option(number)

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = alpha

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

    approximate = Option(_approximation)

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
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

    alpha = Option(_alphas)

    def __init__(self, alpha: ArrayLike) -> None:
        super().__init__()
        self.alpha = alpha

    @property
    def activation(self) -> tuple[str, NDArray[Any]]:
        return "snake", self.alpha.reshape(-1)

    def _parameters(self) -> dict[str, NDArray[Any]]:
        return {"alpha": self.alpha}

    def _replacing(self, parameters: Mapping[str, NDArray[Any]]) -> Iterable[Assignment]:
        own = self.__dict__.__setitem__
        return [partial(own, name, _alphas(name, value)) for name, value in parameters.items()]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.alpha = self.alpha  # arrays come back writable

    def check(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        super().check(shape, dtype)
        if shape[1] != self.alpha.size:
            raise ValueError(
                f"Snake should have an alpha for each of {shape[1]} channels, "
                f"got alpha of size {list(self.alpha.shape)}"
            )

    def extra_repr(self) -> str:
        return str(self.alpha.size)
