"""Activations as layers, for `fastconv1d.Sequential`; Softmax, GLU, Dropout and Identity."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .core import arrays, geometry, training
from .core.activations import SOFTPLUS_THRESHOLD, Activation, parse_activation
from .core.base import Layer, Option, number, setting
from .core.between import (
    Between,
    Gradient,
    Held,
    Parametric,
    Shaping,
    check_gradient,
    check_real,
)
from .core.flow import PerPosition
from .core.forward import activate
from .core.network import gate, softmax
from .core.parameters import as_size, check_device, generator, parameter_dtype
from .kernels import direct_engine

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from .core.base import Assignment
    from .core.between import Shape
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
    def activation(self) -> str | tuple[str, Any] | Activation:
        """The activation as the convolutions' ``activation=`` takes it."""
        raise NotImplementedError

    def apply(self, x: NDArray[Any], out: NDArray[Any]) -> None:
        """Write the activation of an array to another.

        Parameters
        ----------
        x : ndarray
            Of dtype float32 or float64, or of 16 bits.
        out : ndarray of the shape and dtype of `x`
            C-contiguous; may be `x` itself.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import ReLU
        >>> x = np.array([[[-1.0, 2.0]]])
        >>> ReLU().apply(x, out=x)
        >>> x
        array([[[0., 2.]]])
        """
        step, planes = self._step(), self._planes(x.shape)
        if x.dtype.char in "fd":
            if out is not x:
                np.copyto(out, x)
            direct_engine.finish(step, out.reshape(planes), None, 1.0, False)
        else:
            np.copyto(out, activate(step, x.reshape(planes), "NCL").reshape(x.shape))

    def _planes(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Return the shape as (N, C, L), where C matters only to parameters of channels."""
        return 1, 1, math.prod(shape)

    def _flow(self, run: Run) -> Flow:
        return PerPosition(run)

    def _step(self) -> Activation:
        step = parse_activation(self.activation)
        assert step is not None
        return step

    def forward(self, input: ArrayLike, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the activation of every element; in train mode, keep the input for `backward`.

        Parameters
        ----------
        input : ndarray
            Of dtype float32 or float64, or of 16 bits; for `Snake` of shape (N, C, L), (C, L) or
            (N, C, H, W).
        out : ndarray of the input's shape and dtype, optional
            Where to write the result.

        Returns
        -------
        ndarray of the input's shape and dtype
            A new array, or `out` if it was given.

        Raises
        ------
        ValueError
            If, for `Snake` and `PReLU`, the channels are not those of the parameter.
        TypeError
            If the dtype is not real.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import ReLU
        >>> ReLU().forward(np.array([[-1.0, 2.0]]))
        array([[0., 2.]])
        """
        x = arrays.operand(input)
        self.check(x.shape, x.dtype)
        y = arrays.new(x.shape, x.dtype) if out is None else arrays.target(out, x.shape, True, x)
        self.apply(x, y)
        y = arrays.delivered(y, True, out)
        if self.training:
            self._calls.keep(x, y, (x, self._step()))
        return y

    def _keeping(self, x: NDArray[Any]) -> tuple[NDArray[Any], Any]:
        self.check(x.shape, x.dtype)
        y = arrays.new(x.shape, x.dtype)
        self.apply(x, y)
        return y, (x, self._step())

    def __call__(self, input: ArrayLike, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return ``forward(input, out=out)``."""
        # a forward of a subclass may know of no `out`
        return self.forward(input) if out is None else self.forward(input, out=out)

    def check(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Raise what is wrong with an input.

        Parameters
        ----------
        shape : tuple of int
            Its size.
        dtype : numpy.dtype
            Its dtype.

        Raises
        ------
        ValueError
            If the number of channels is not that of a `Snake` or `PReLU`.
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
        return self._backward(
            arrays.operand(grad_output), self._calls.recall(self.training, output)
        )

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        x, step = kept
        check_gradient(g, x.shape, x.dtype)
        slope = step.derivative(x.reshape(self._planes(x.shape))).reshape(x.shape)
        with np.errstate(all="ignore"):
            grad_input: NDArray[Any] = g * slope
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


class _InPlace(ActivationLayer):
    """An activation whose torch counterpart takes `inplace`, which changes no result."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()


class ReLU(_InPlace):
    """``max(x, 0)``, as ``torch.nn.ReLU``.

    Parameters
    ----------
    inplace : bool, default False
        For torch's arguments: no layer changes its input.

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
    inplace : bool, default False
        For torch's arguments: no layer changes its input.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import LeakyReLU
    >>> LeakyReLU(0.5)(np.array([[-1.0, 2.0]]))
    array([[-0.5,  2. ]])
    """

    negative_slope = Option(number)

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
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
    inplace : bool, default False
        For torch's arguments: no layer changes its input.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import ELU
    >>> ELU()(np.array([[-np.inf, 2.0]]))
    array([[-1.,  2.]])
    """

    alpha = Option(number)

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
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


class SiLU(_InPlace):
    """``x / (1 + exp(-x))``, as ``torch.nn.SiLU``.

    Parameters
    ----------
    inplace : bool, default False
        For torch's arguments: no layer changes its input.

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
        if len(shape) not in (2, 3, 4):
            raise ValueError(
                "Expected 2D (unbatched) or 3D (batched) input to Snake, or 4D of planes, "
                f"but got input of size: {list(shape)}"
            )
        channels = self._planes(shape)[1]
        if channels != self.alpha.size:
            raise ValueError(
                f"Snake should have an alpha for each of {channels} channels, "
                f"got alpha of size {list(self.alpha.shape)}"
            )

    def _planes(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        n_batch, channels, *positions = shape if len(shape) > 2 else (1, *shape)
        return n_batch, channels, math.prod(positions)

    def extra_repr(self) -> str:
        return str(self.alpha.size)


class ReLU6(_InPlace):
    """``min(max(x, 0), 6)``, as ``torch.nn.ReLU6``.

    Parameters
    ----------
    inplace : bool, default False
        For torch's arguments: no layer changes its input.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import ReLU6
    >>> ReLU6()(np.array([-1.0, 2.0, 8.0]))
    array([0., 2., 6.])
    """

    @property
    def activation(self) -> str:
        return "relu6"


class Hardswish(_InPlace):
    """``x * min(max(x + 3, 0), 6) / 6``, as ``torch.nn.Hardswish``.

    Parameters
    ----------
    inplace : bool, default False
        For torch's arguments: no layer changes its input.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import Hardswish
    >>> Hardswish()(np.array([-4.0, 0.0, 1.5, 4.0]))
    array([0.   , 0.   , 1.125, 4.   ])
    """

    @property
    def activation(self) -> str:
        return "hardswish"


class Mish(_InPlace):
    """``x * tanh(log(1 + exp(x)))``, as ``torch.nn.Mish``.

    Parameters
    ----------
    inplace : bool, default False
        For torch's arguments: no layer changes its input.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import Mish
    >>> Mish()(np.array([0.0, 1.0])).round(4)
    array([0.    , 0.8651])
    """

    @property
    def activation(self) -> str:
        return "mish"


class Softplus(ActivationLayer):
    """``log(1 + exp(beta*x)) / beta``, as ``torch.nn.Softplus``.

    Parameters
    ----------
    beta : float, default 1.0
    threshold : float, default 20.0
        What ``beta*x`` is beyond which the result is x itself.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import Softplus
    >>> Softplus()(np.array([0.0, 30.0])).round(4)
    array([ 0.6931, 30.    ])
    """

    beta = Option(number)
    threshold = Option(number)

    def __init__(self, beta: float = 1.0, threshold: float = SOFTPLUS_THRESHOLD) -> None:
        super().__init__()
        self.beta, self.threshold = beta, threshold

    @property
    def activation(self) -> Activation:
        return Activation("softplus", self.beta, None, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class PReLU(ActivationLayer, Parametric):
    """``x`` where it is positive, otherwise ``weight * x``, as ``torch.nn.PReLU``.

    Parameters
    ----------
    num_parameters : int, default 1
        One slope for all, or one for each channel.
    init : float, default 0.25
        The slopes of a new layer.
    device : None or 'cpu'
        For torch's argument order.
    dtype : dtype, default float32
        float32 or float64.

    Attributes
    ----------
    weight : ndarray of shape (num_parameters,)
    weight_grad : ndarray or None
        The sum of the gradients of every `backward` since `zero_grad`.

    Notes
    -----
    With several slopes the input is (N, C, ...).

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import PReLU
    >>> PReLU()(np.array([[-4.0, 2.0]], np.float32))
    array([[-1.,  2.]], dtype=float32)
    """

    weight = Held()
    weight_grad = Gradient()
    _switching = Parametric._switching

    def __init__(
        self,
        num_parameters: int = 1,
        init: float = 0.25,
        device: str | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        check_device(device)
        count = as_size("num_parameters", num_parameters)
        slopes = np.full(count, number("init", init), parameter_dtype(dtype, real=True))
        Parametric.__init__(self, {"weight": slopes})

    @property
    def num_parameters(self) -> int:
        """The number of slopes."""
        return int(self._held["weight"].size)

    @property
    def activation(self) -> tuple[str, NDArray[Any]]:
        made: tuple[str, NDArray[Any]] = self._derived(self._as_activation)
        return made

    def _as_activation(self) -> tuple[str, NDArray[Any]]:
        weight = self._held["weight"]
        return "prelu", weight.reshape(()) if weight.size == 1 else weight

    def check(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._check_dtype(dtype)
        channels = shape[1] if len(shape) > 1 else 1
        if self.num_parameters not in (1, channels):
            raise ValueError(
                f"Mismatch of parameter numbers and input channel size. Found parameter numbers = "
                f"{self.num_parameters} and channel size = {channels}."
            )

    def _planes(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        if self.num_parameters == 1:
            return super()._planes(shape)
        return shape[0], shape[1], math.prod(shape[2:])

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        x, _ = kept
        check_gradient(g, x.shape, x.dtype)
        by_slope = np.where(x > 0, x.dtype.type(0), g * x)
        if self.num_parameters == 1:
            self._add_gradients(weight=by_slope.sum().reshape(1))
        else:
            self._add_gradients(weight=by_slope.reshape(self._planes(x.shape)).sum(axis=(0, 2)))
        return super()._backward(g, kept)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


# ---- not element by element ----------------------------------------------------------------------


def as_axis(name: str, dim: int, shape: Sequence[int]) -> int:
    """Return an axis of a shape counted from its front, or raise ValueError.

    Examples
    --------
    >>> from fastconv1d.elementwise import as_axis
    >>> as_axis("dim", -1, (2, 3, 4))
    2
    """
    ndim = len(shape)
    if not -ndim <= dim < ndim:
        raise ValueError(
            f"Dimension out of range (expected to be in range of [{-ndim}, {ndim - 1}], "
            f"but got {name}={dim})"
        )
    return dim % ndim


class Softmax(Between):
    """``exp(x)`` as parts of their sum along an axis, as ``torch.nn.Softmax``.

    Parameters
    ----------
    dim : int
        The axis; torch's default, None, is deprecated there.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import Softmax
    >>> Softmax(dim=1)(np.zeros((1, 4)))
    array([[0.25, 0.25, 0.25, 0.25]])
    """

    dim = Option(geometry.as_index)

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim is None:
            raise TypeError("dim should be the axis of the sum, 1 for the channels, got None")
        self.dim = dim

    def _flow(self, run: Run) -> Flow:
        return PerPosition(run) if self.dim in (1, -2) else super()._flow(run)

    def output_shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        check_real(self, dtype)
        as_axis("dim", self.dim, shapes[0])
        return shapes[0]

    def compute(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        softmax(given[0], as_axis("dim", self.dim, out.shape), out=out)

    def _keeping(self, x: NDArray[Any]) -> tuple[NDArray[Any], Any]:
        y = self._computed([x])
        return y, y.copy()  # which the caller may write to

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        y = kept
        check_gradient(g, y.shape, y.dtype)
        grad_input: NDArray[Any] = y * (g - (g * y).sum(axis=self.dim, keepdims=True))
        return grad_input

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class GLU(Between):
    """The first half of an axis times the sigmoid of the second, as ``torch.nn.GLU``.

    Parameters
    ----------
    dim : int, default -1
        The axis that is halved; 1 for the channels of (N, C, L).

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import GLU
    >>> GLU()(np.array([[4.0, 6.0, 0.0, 0.0]]))
    array([[2., 3.]])
    """

    dim = Shaping(geometry.as_index)

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def _flow(self, run: Run) -> Flow:
        return PerPosition(run) if self.dim in (1, -2) else super()._flow(run)

    def output_shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        check_real(self, dtype)
        (shape,) = shapes
        axis = as_axis("dim", self.dim, shape)
        if shape[axis] % 2:
            raise ValueError(
                f"Halving dimension must be even, but dimension {axis} is size {shape[axis]}"
            )
        return (*shape[:axis], shape[axis] // 2, *shape[axis + 1 :])

    def _halves(self, x: NDArray[Any]) -> list[NDArray[Any]]:
        return np.split(x, 2, axis=self.dim)

    def compute(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        a, b = self._halves(given[0])
        gate(a, b, out, squashed=False)

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        from scipy.special import expit

        a, b = self._halves(kept)
        check_gradient(g, a.shape, a.dtype)
        s = expit(b)
        return np.concatenate([g * s, g * a * s * (1 - s)], axis=self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Dropout(Between):
    """Zeros in the place of some elements in train mode, as ``torch.nn.Dropout``; else nothing.

    Parameters
    ----------
    p : float, default 0.5
        The share of zeros; the others are divided by ``1 - p``.
    inplace : bool, default False
        For torch's arguments: no layer changes its input.
    rng : numpy.random.Generator, optional
        Where the numbers come from; by default a new, unseeded generator.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import Dropout
    >>> Dropout(0.1)(np.array([1.0, 2.0]))
    array([1., 2.])
    """

    in_place = copies = True

    @staticmethod
    def _probability(name: str, value: Any) -> float:
        p = number(name, value)
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        return p

    p = Option(_probability)

    def __init__(
        self, p: float = 0.5, inplace: bool = False, *, rng: np.random.Generator | None = None
    ) -> None:
        super().__init__()
        self.p = p
        self._rng = generator(rng)

    def output_shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        check_real(self, dtype)
        return shapes[0]

    def compute(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        np.copyto(out, given[0])

    def _keeping(self, x: NDArray[Any]) -> tuple[NDArray[Any], Any]:
        if not self.training:
            return self._computed([x]), np.ones((), x.dtype)
        dtype = x.dtype.type
        kept = self._rng.random(x.shape, dtype) >= self.p
        factors = kept * dtype(1 / (1 - self.p) if self.p < 1 else 0)
        return x * factors, factors

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        if kept.ndim:
            check_gradient(g, kept.shape, kept.dtype)
        grad_input: NDArray[Any] = g * kept
        return grad_input

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace=False"


class Identity(Between):
    """The input itself, as ``torch.nn.Identity``: one branch of a skip connection, for instance.

    Parameters
    ----------
    *args, **kwargs
        Anything, as in torch; nothing is done with them.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import Identity
    >>> Identity()(np.array([1.0, 2.0]))
    array([1., 2.])
    """

    in_place = copies = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def output_shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        return shapes[0]

    def compute(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        np.copyto(out, given[0])

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        check_gradient(g, kept.shape, kept.dtype)
        return g
