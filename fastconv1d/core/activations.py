"""Element-wise functions that the kernels apply before and after the sums, and their reference.

Each has a name, at most one parameter, a formula in NumPy (`Activation.apply`, the oracle of the
compiled one) and a derivative, which a layer's backward needs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import geometry
from .arrays import widened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# The numbers are those of the enumeration in kernels/simd/fc1d.h.
_FUNCTIONS = {
    "identity": 0,
    "relu": 1,
    "leaky_relu": 2,
    "elu": 3,
    "gelu": 4,
    "gelu_tanh": 5,
    "silu": 6,
    "tanh": 7,
    "sigmoid": 8,
    "snake": 9,
    "relu6": 10,
    "hardswish": 11,
    "mish": 12,
    "softplus": 13,
    "prelu": 14,
}
NAMES = tuple(name for name in _FUNCTIONS if name != "identity")
_DEFAULTS = {"leaky_relu": 0.01, "elu": 1.0, "softplus": 1.0}
# What beta*x of softplus is beyond which it is x itself: torch's default.
SOFTPLUS_THRESHOLD = 20.0
RESIDUAL_POSITIONS = ("before", "after")
# What implementations of snake add to alpha before they divide by it.
SNAKE_EPSILON = 1e-9


class Activation(NamedTuple):
    """An element-wise function with its parameter.

    Attributes
    ----------
    name : str
        One of `NAMES`.
    parameter : float
        The slope of 'leaky_relu', the alpha of 'elu' or the beta of 'softplus'; 0 for the others.
    alpha : ndarray of shape (C,) or None
        The alpha of 'snake' or the slope of 'prelu' for each channel.
    limit : float
        The threshold of 'softplus'.
    """

    name: str
    parameter: float = 0.0
    alpha: NDArray[Any] | None = None
    limit: float = SOFTPLUS_THRESHOLD

    @property
    def function(self) -> int:
        """The number of the function in the kernels."""
        return _FUNCTIONS[self.name]

    def apply(self, x: NDArray[Any], channel_axis: int = 1) -> NDArray[Any]:
        """Return the function of every element, computed by NumPy in the dtype of `x`.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d.core.activations import parse_activation
        >>> parse_activation(("leaky_relu", 0.5)).apply(np.array([-2.0, 3.0]))
        array([-1.,  3.])
        """
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return _apply(self, x, channel_axis)

    def derivative(self, x: NDArray[Any], channel_axis: int = 1) -> NDArray[Any]:
        """Return the derivative of the function at every element; 0 or the slope at a corner.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d.core.activations import parse_activation
        >>> parse_activation("relu").derivative(np.array([-2.0, 0.0, 3.0]))
        array([0., 0., 1.])
        """
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return _derivative(self, x, channel_axis)


class Steps(NamedTuple):
    """What a kernel does to each input and to each sum.

    ``y = after(sum(before(x)) + bias + residual_scale*residual)``, or with `residual_last`
    ``y = after(sum(before(x)) + bias) + residual_scale*residual``.
    """

    before: Activation | None = None
    after: Activation | None = None
    residual_scale: float = 1.0
    residual_last: bool = False


def _layer_hint(value: Any) -> str:
    """Return the name of an activation that was given as a layer, a class or a function."""
    kind = value if isinstance(value, type) else type(value)
    names = {name.replace("_", ""): name for name in NAMES}
    name = getattr(value, "__name__", kind.__name__).lower()
    known = names.get(name) or names.get(kind.__name__.lower())
    return f": activation={known!r}" if known else f": one of {', '.join(map(repr, NAMES))}"


def parse_activation(
    activation: str | tuple[Any, ...] | Activation | None,
    channels: int | None = None,
    argument: str = "activation",
) -> Activation | None:
    """Return what an `activation` argument means.

    Parameters
    ----------
    activation : str, tuple of a str and a parameter, Activation, or None
        'relu', 'leaky_relu' or ('leaky_relu', slope) with slope 0.01, 'elu' or ('elu', alpha) with
        alpha 1, 'gelu' or ('gelu', 'none') or ('gelu', 'tanh'), 'silu', 'tanh', 'sigmoid', 'relu6',
        'hardswish', 'mish', 'softplus' or ('softplus', beta) with beta 1, and ('snake', alpha) or
        ('prelu', slope) with a number or an array of shape (C,).
    channels : int, optional
        The number of channels that `alpha` of snake should have.
    argument : str
        The name of the argument for errors.

    Returns
    -------
    Activation or None

    Raises
    ------
    ValueError
        If the name is unknown, or the parameter does not belong to it.
    TypeError
        If it is neither a name nor a tuple.

    Examples
    --------
    >>> from fastconv1d.core.activations import parse_activation
    >>> parse_activation("leaky_relu")[:2]
    ('leaky_relu', 0.01)
    >>> parse_activation(("gelu", "tanh")).name
    'gelu_tanh'
    """
    if activation is None or (isinstance(activation, str) and activation == "identity"):
        return None
    limit = SOFTPLUS_THRESHOLD
    if isinstance(activation, Activation):
        name: Any = activation.name
        limit = activation.limit
        given: tuple[Any, ...] = ()
        if activation.alpha is not None:
            given = (activation.alpha,)
        elif name in _DEFAULTS:
            given = (activation.parameter,)
    elif isinstance(activation, str):
        name, given = activation, ()
    elif isinstance(activation, (tuple, list)) and activation:
        name, given = activation[0], tuple(activation[1:])
    else:
        raise TypeError(
            f"{argument} should be None, a name or a tuple of a name and its parameter, "
            f"got {geometry.shown(activation)}{_layer_hint(activation)}"
        )
    if not isinstance(name, str) or name not in NAMES or len(given) > 1:
        raise ValueError(
            f"{argument} should be None or one of {', '.join(map(repr, NAMES))}, alone or in a "
            f"tuple with its parameter, got {geometry.shown(activation)}"
        )
    if name == "gelu" and given:
        if not isinstance(given[0], str) or given[0] not in ("none", "tanh"):
            raise ValueError(
                "the parameter of 'gelu' should be 'none' or 'tanh', "
                f"got {geometry.shown(given[0])}"
            )
        return Activation("gelu_tanh" if given[0] == "tanh" else "gelu")
    if name in ("snake", "prelu"):
        return Activation(name, 0.0, _channel_numbers(name, given, channels, argument))
    if not given:
        return Activation(name, _DEFAULTS.get(name, 0.0))
    if name not in _DEFAULTS:
        raise ValueError(f"{name!r} has no parameter, got {argument}={geometry.shown(activation)}")
    return Activation(name, _number(f"the parameter of {name!r}", given[0]), None, limit)


def own_activation(activation: Any) -> Any:
    """Return the argument with a read-only copy of its array, so that no alias changes a layer.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d.core.activations import own_activation
    >>> own_activation(("snake", np.ones(2)))[1].flags.writeable
    False
    >>> own_activation("relu")
    'relu'
    """
    if not isinstance(activation, (tuple, list)):
        return activation
    parts: list[Any] = [np.array(p) if isinstance(p, np.ndarray) else p for p in activation]
    for part in parts:
        if isinstance(part, np.ndarray):
            part.flags.writeable = False
    return Activation(*parts) if isinstance(activation, Activation) else tuple(parts)


def parse_steps(
    pre_activation: Any,
    activation: Any,
    residual_scale: Any,
    residual_position: Any,
    channels: tuple[int | None, int | None] = (None, None),
) -> Steps:
    """Return the steps around the sums.

    Examples
    --------
    >>> from fastconv1d.core.activations import parse_steps
    >>> parse_steps(None, "relu", 1.0, "after").residual_last
    True
    """
    if not isinstance(residual_position, str) or residual_position not in RESIDUAL_POSITIONS:
        raise ValueError(
            "residual_position should be 'before' or 'after' (the activation), "
            f"got {geometry.shown(residual_position)}"
        )
    return Steps(
        parse_activation(pre_activation, channels[0], "pre_activation"),
        parse_activation(activation, channels[1]),
        _number("residual_scale", residual_scale),
        residual_position == "after",
    )


def _number(what: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{what} should be a number, got {geometry.shown(value)}") from None
    if isinstance(value, (str, bytes)) or not math.isfinite(number):
        raise ValueError(f"{what} should be a finite number, got {geometry.shown(value)}")
    return number


def _channel_numbers(
    name: str, given: Sequence[Any], channels: int | None, argument: str
) -> NDArray[Any]:
    what = {"snake": "alpha", "prelu": "slope"}[name]
    if not given:
        raise ValueError(f"{name!r} needs its {what}: {argument}=({name!r}, {what}), got no {what}")
    numbers = widened(np.asarray(given[0]))
    if numbers.dtype.kind not in "fiu":
        raise TypeError(f"the {what} of {name!r} should be real numbers, got dtype {numbers.dtype}")
    if numbers.ndim > 1:  # (1, C, 1) and (C, 1), as state dicts have it
        if numbers.size != max(numbers.shape):
            raise ValueError(
                f"the {what} of {name!r} should have one number a channel, "
                f"got size {list(numbers.shape)}"
            )
        numbers = numbers.reshape(-1)
    if channels is not None:
        if numbers.ndim == 0:
            numbers = np.broadcast_to(numbers, (channels,))
        if numbers.shape != (channels,):
            raise ValueError(
                f"the {what} of {name!r} should have one number for each of {channels} channels, "
                f"got size {list(numbers.shape)}"
            )
    return numbers


def _channelwise(alpha: NDArray[Any], x: NDArray[Any], channel_axis: int) -> NDArray[Any]:
    shape = [1] * x.ndim
    if alpha.ndim:
        shape[channel_axis] = -1
    return alpha.astype(x.dtype).reshape(shape)


def _apply(f: Activation, x: NDArray[Any], channel_axis: int) -> Any:
    from scipy import special

    dtype = x.dtype.type
    if f.name == "relu":
        return np.where(x < 0, dtype(0), x)
    if f.name == "leaky_relu":
        return np.where(x < 0, x * dtype(f.parameter), x)
    if f.name == "elu":
        return np.where(x < 0, np.expm1(np.minimum(x, 0)) * dtype(f.parameter), x)
    if f.name == "prelu":
        assert f.alpha is not None
        return np.where(x < 0, x * _channelwise(f.alpha, x, channel_axis), x)
    if f.name == "relu6":
        return np.clip(x, dtype(0), dtype(6))
    if f.name == "hardswish":
        inner = np.clip(x, dtype(-3), dtype(3))
        return np.where(x > 3, x, inner * (inner + 3) / 6)
    if f.name == "tanh":
        return np.tanh(x)
    if f.name == "sigmoid":
        return special.expit(x)
    if f.name == "softplus":
        scaled = x * dtype(f.parameter)
        bent = np.maximum(scaled, 0) + np.log1p(np.exp(-np.abs(scaled)))
        return np.where(scaled > f.limit, x, bent / dtype(f.parameter))
    # The limit at -inf is 0, where the formulas have inf*0.
    below = np.maximum(x, dtype(-1e4))
    if f.name == "silu":
        return below * special.expit(x)
    if f.name == "mish":
        return below * np.tanh(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))
    if f.name == "gelu":
        return below * special.ndtr(x)
    if f.name == "gelu_tanh":
        return below * special.expit(2 * _gelu_u(below))
    assert f.alpha is not None
    alpha = _channelwise(f.alpha, x, channel_axis)
    sine = np.sin(alpha * np.where(np.isinf(x), dtype(0), x))  # the limit at an infinity is itself
    return x + sine**2 / (alpha + dtype(SNAKE_EPSILON))


def _gelu_u(x: NDArray[Any]) -> Any:
    return math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)


def _derivative(f: Activation, x: NDArray[Any], channel_axis: int) -> Any:
    from scipy import special

    dtype = x.dtype.type
    if f.name in ("relu", "leaky_relu"):
        return np.where(x > 0, dtype(1), dtype(f.parameter))
    if f.name == "elu":
        return np.where(x > 0, dtype(1), np.exp(np.minimum(x, 0)) * dtype(f.parameter))
    if f.name == "prelu":
        assert f.alpha is not None
        return np.where(x > 0, dtype(1), _channelwise(f.alpha, x, channel_axis))
    if f.name == "relu6":
        return ((x > 0) & (x < 6)).astype(x.dtype)
    if f.name == "hardswish":
        return np.where(x > 3, dtype(1), np.where(x < -3, dtype(0), x / 3 + dtype(0.5)))
    if f.name == "softplus":
        scaled = x * dtype(f.parameter)
        return np.where(scaled > f.limit, dtype(1), special.expit(scaled))
    if f.name == "tanh":
        return 1 - np.tanh(x) ** 2
    s = special.expit(x)
    if f.name == "sigmoid":
        return s * (1 - s)
    if f.name == "silu":
        return s * (1 + x * (1 - s))
    if f.name == "mish":
        bent = np.tanh(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))
        return bent + x * s * (1 - bent**2)
    if f.name == "gelu":
        return special.ndtr(x) + x * np.exp(-0.5 * x * x) * dtype(1 / math.sqrt(2 * math.pi))
    if f.name == "gelu_tanh":
        p = special.expit(2 * _gelu_u(x))
        slope = 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
        return p + x * p * (1 - p) * slope
    assert f.alpha is not None
    alpha = _channelwise(f.alpha, x, channel_axis)
    return 1 + alpha / (alpha + SNAKE_EPSILON) * np.sin(2 * alpha * x)
