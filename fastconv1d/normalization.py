"""Normalization layers: BatchNorm1d, GroupNorm, LayerNorm, InstanceNorm1d."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .core import geometry
from .core.base import Option, assign, number, writing
from .core.between import Gradient, Held, Parametric, Shaping, check_gradient
from .core.flow import PerPosition
from .core.network import affine, standardized
from .core.parameters import as_size, check_device, parameter_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray

    from .core.between import Shape
    from .core.flow import Flow, Run


class _Standard(NamedTuple):
    """What the backward of a normalization needs: rows are normalized over `axes`."""

    normal: NDArray[Any]
    deviation: NDArray[Any]
    axes: tuple[int, ...]


def _standard(x: NDArray[Any], axes: tuple[int, ...], eps: float) -> _Standard:
    """Return x of mean 0 and variance 1 over the axes, and what it was divided by."""
    mean = x.mean(axis=axes, keepdims=True)
    centered = x - mean
    deviation = np.sqrt(np.square(centered).mean(axis=axes, keepdims=True) + x.dtype.type(eps))
    return _Standard(centered / deviation, deviation, axes)


def _back_through(g: NDArray[Any], kept: _Standard) -> NDArray[Any]:
    """Return the gradient by x of what `_standard` normalized."""
    normal, deviation, axes = kept
    mean = g.mean(axis=axes, keepdims=True)
    along = (g * normal).mean(axis=axes, keepdims=True)
    grad_input: NDArray[Any] = (g - mean - normal * along) / deviation
    return grad_input


def _by_channel(values: NDArray[Any], ndim: int) -> NDArray[Any]:
    return values.reshape(-1, *(1,) * (ndim - 2))


class _Norm(Parametric):
    """What all normalizations share: eps, and scale and shift that may be missing."""

    eps = Shaping(number)
    weight = Held()
    bias = Held()
    weight_grad = Gradient()
    bias_grad = Gradient()

    def __init__(
        self,
        shape: Shape,
        eps: float,
        scaled: bool,
        shifted: bool,
        device: str | None,
        dtype: DTypeLike | None,
        **buffers: NDArray[Any] | None,
    ) -> None:
        check_device(device)
        checked = parameter_dtype(dtype, real=True)
        weight = np.ones(shape, checked) if scaled else None
        bias = np.zeros(shape, checked) if shifted else None
        super().__init__({"weight": weight, "bias": bias, **buffers})
        self.eps = eps

    def reset_parameters(self) -> None:
        """Set weights to 1 and biases to 0, and what is known of the data to nothing.

        Examples
        --------
        >>> from fastconv1d import GroupNorm
        >>> GroupNorm(1, 2).reset_parameters()
        """
        one = ("weight", "running_var")
        new = {
            name: (np.ones_like if name in one else np.zeros_like)(array)
            for name, array in self._parameters().items()
        }
        assign(self._replacing(new))

    def _scaled(self, normal: NDArray[Any], by_channel: bool) -> NDArray[Any]:
        """Return normal times weight plus bias, in place."""
        for name, function in (("weight", np.multiply), ("bias", np.add)):
            values = self._held[name]
            if values is not None:
                values = _by_channel(values, normal.ndim) if by_channel else values
                function(normal, values, out=normal)
        return normal

    def _scale_back(self, g: NDArray[Any], normal: NDArray[Any], axes: Any) -> NDArray[Any]:
        """Add to the gradients by weight and bias; return that by what they were applied to."""
        weight, bias = self._held["weight"], self._held["bias"]
        if bias is not None:
            self._add_gradients(bias=g.sum(axis=axes).reshape(bias.shape))
        if weight is None:
            return g
        self._add_gradients(weight=(g * normal).sum(axis=axes).reshape(weight.shape))
        by_channel = axes != tuple(range(g.ndim - weight.ndim))
        return g * (_by_channel(weight, g.ndim) if by_channel else weight)


class _Tracking(_Norm):
    """A normalization that may keep the statistics of its data: batch and instance norm."""

    _buffers = ("running_mean", "running_var", "num_batches_tracked")
    _optional = ("num_batches_tracked",)  # torch has it since 0.4.1
    running_mean = Held()
    running_var = Held()
    num_batches_tracked = Held()
    momentum = Option(lambda name, value: None if value is None else number(name, value))

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        device: str | None,
        dtype: DTypeLike | None,
        bias: bool,
    ) -> None:
        self._num_features = as_size("num_features", num_features)
        checked = parameter_dtype(dtype, real=True)
        shape = (self._num_features,)
        buffers: dict[str, Any] = dict.fromkeys(self._buffers)
        if track_running_stats:
            buffers = {
                "running_mean": np.zeros(shape, checked),
                "running_var": np.ones(shape, checked),
                "num_batches_tracked": np.zeros((), np.int64),
            }
        super().__init__(shape, eps, affine, affine and bias, device, dtype, **buffers)
        self.momentum = momentum

    @property
    def num_features(self) -> int:
        """The number of channels."""
        return self._num_features

    @property
    def affine(self) -> bool:
        """Whether there are weight and bias."""
        return self._held["weight"] is not None

    @property
    def track_running_stats(self) -> bool:
        """Whether there are running means and variances."""
        return self._held["running_mean"] is not None

    def _scale_and_shift(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return what eval mode multiplies by and adds, in float64."""
        held = self._held
        variance = held["running_var"].astype(np.float64) + self.eps
        if not (variance > 0).all():
            raise ValueError(
                f"running_var + eps should be positive, got {variance.min()} at {variance.argmin()}"
            )
        scale = 1 / np.sqrt(variance)
        if held["weight"] is not None:
            scale = scale * held["weight"]
        shift = -held["running_mean"] * scale
        if held["bias"] is not None:
            shift = shift + held["bias"]
        return scale, shift

    def _affine(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return scale and shift of eval mode in the layer's dtype, made once."""
        scale, shift = self._derived(
            lambda: [v.astype(self.dtype) for v in self._scale_and_shift()]
        )
        return scale, shift

    def _track(self, mean: NDArray[Any], variance: NDArray[Any], share: float) -> None:
        """Take a batch's statistics into the running ones."""
        held = self._held
        new = {
            name: (1 - share) * held[name] + share * now
            for name, now in (("running_mean", mean), ("running_var", variance))
        }
        assign(writing(held[name], value) for name, value in new.items())

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, bias={self._held['bias'] is not None}, "
            f"track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(_Tracking):
    """Each channel brought to mean 0 and variance 1, as ``torch.nn.BatchNorm1d``.

    ``y = (x - mean) / sqrt(variance + eps) * weight + bias``. In train mode mean and variance are
    those of the batch; in eval mode the running ones, and a `Sequential` folds the layer into the
    convolution before or after it.

    Parameters
    ----------
    num_features : int
        Channels C.
    eps : float, default 1e-5
    momentum : float or None, default 0.1
        The share of a new batch in the running statistics; None takes the mean of all batches.
    affine : bool, default True
        Whether there are weight and bias.
    track_running_stats : bool, default True
        Whether there are running statistics; without them those of the batch are used in eval mode,
        too.
    device : None or 'cpu'
        For torch's argument order.
    dtype : dtype, default float32
        float32 or float64.
    bias : bool, default True
        Whether there is a bias where `affine` has a weight.

    Attributes
    ----------
    weight, bias : ndarray of shape (C,) or None
    weight_grad, bias_grad : ndarray or None
        Sums of the gradients of every `backward` since `zero_grad`.
    running_mean, running_var : ndarray of shape (C,) or None
    num_batches_tracked : ndarray of int64 or None

    Notes
    -----
    Input (N, C, L) or (N, C). `eval` takes no part in `backward`: call `train` before.

    References
    ----------
    Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
    Covariate Shift", 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import BatchNorm1d
    >>> layer = BatchNorm1d(1, eps=0.0).train()
    >>> layer(np.array([[[1.0, 3.0]]], np.float32))
    array([[[-1.,  1.]]], dtype=float32)
    >>> layer.running_mean, layer.running_var
    (array([0.2], dtype=float32), array([1.1], dtype=float32))
    """

    in_place = True

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: str | None = None,
        dtype: DTypeLike | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias
        )

    def _flow(self, run: Run) -> Flow:
        return PerPosition(run) if self._uses_running() else super()._flow(run)

    def output_shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        (shape,) = shapes
        self._check_dtype(dtype)
        if len(shape) not in (2, 3):
            raise ValueError(f"expected 2D or 3D input (got {len(shape)}D input)")
        if shape[1] != self.num_features:
            raise ValueError(
                f"running_mean should contain {shape[1]} elements not {self.num_features}: the "
                f"input of size {list(shape)} should have {self.num_features} channels in "
                "dimension 1, (N, C) or (N, C, L); an item alone needs a batch axis, x[None]"
            )
        if not self._uses_running() and math.prod(shape) == shape[1]:
            raise ValueError(
                "Expected more than 1 value per channel when training, "
                f"got input size {list(shape)}"
            )
        return shape

    def _uses_running(self) -> bool:
        return not self.training and self.track_running_stats

    @property
    def folds(self) -> bool:
        """Whether the layer is, as it is now, a multiplication and an addition a channel."""
        return self._uses_running()

    def compute(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        x = given[0]
        if self._uses_running():
            affine(x, *self._affine(), out)
        elif x.size:
            np.copyto(out, self._normalized(x)[0])

    def _axes(self, x: NDArray[Any]) -> tuple[int, ...]:
        return (0,) if x.ndim == 2 else (0, 2)

    def _normalized(self, x: NDArray[Any]) -> tuple[NDArray[Any], _Standard]:
        kept = _standard(x, self._axes(x), self.eps)
        return self._scaled(kept.normal.copy(), True), kept

    def _keeping(self, x: NDArray[Any]) -> tuple[NDArray[Any], Any]:
        if self._uses_running():
            return self._computed([x]), x
        self.output_shape([x.shape], x.dtype)
        y, kept = self._normalized(x)
        if self.training and self.track_running_stats:
            axes, count = self._axes(x), x.size // max(x.shape[1], 1)
            seen = np.asarray(self._held["num_batches_tracked"] + 1)
            share = 1 / float(seen) if self.momentum is None else self.momentum
            self._track(x.mean(axis=axes), x.var(axis=axes) * (count / max(count - 1, 1)), share)
            assign([writing(self._held["num_batches_tracked"], seen)])
        return y, kept

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        if not isinstance(kept, _Standard):
            x = kept
            check_gradient(g, x.shape, x.dtype)
            scale, _ = self._scale_and_shift()
            weight = self._held["weight"]
            spread = np.sqrt(self._held["running_var"] + x.dtype.type(self.eps))
            mean = _by_channel(self._held["running_mean"], x.ndim)
            normal = (x - mean) / _by_channel(spread, x.ndim)
            if weight is not None:
                self._scale_back(g, normal, self._axes(x))
            return g * _by_channel(scale.astype(x.dtype), x.ndim)
        check_gradient(g, kept.normal.shape, kept.normal.dtype)
        return _back_through(self._scale_back(g, kept.normal, kept.axes), kept)


class InstanceNorm1d(_Tracking):
    """Each channel of each item brought to mean 0 and variance 1, as ``torch.nn.InstanceNorm1d``.

    Parameters
    ----------
    num_features : int
        Channels C.
    eps : float, default 1e-5
    momentum : float, default 0.1
        The share of a new batch in the running statistics.
    affine : bool, default False
        Whether there are weight and bias.
    track_running_stats : bool, default False
        Whether there are running statistics, which eval mode then uses.
    device : None or 'cpu'
        For torch's argument order.
    dtype : dtype, default float32
        float32 or float64.
    bias : bool, default True
        Whether there is a bias where `affine` has a weight.

    Attributes
    ----------
    weight, bias, running_mean, running_var, num_batches_tracked
        As those of `BatchNorm1d`.

    Notes
    -----
    Input (N, C, L) or (C, L).

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import InstanceNorm1d
    >>> InstanceNorm1d(2, eps=0.0)(np.array([[1.0, 3.0], [0.0, 8.0]], np.float32))
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: str | None = None,
        dtype: DTypeLike | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias
        )

    def output_shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        (shape,) = shapes
        self._check_dtype(dtype)
        if len(shape) not in (2, 3):
            raise ValueError(f"expected 2D or 3D input (got {len(shape)}D input)")
        # torch only warns where no parameter has the number of channels.
        if shape[-2] != self.num_features:
            raise ValueError(
                f"expected input's size at dim={len(shape) - 2} to match num_features "
                f"({self.num_features}), but got: {shape[-2]}"
            )
        if not self._uses_running() and shape[-1] == 1:
            raise ValueError(
                f"Expected more than 1 spatial element when training, got input size {list(shape)}"
            )
        return shape

    def _uses_running(self) -> bool:
        return not self.training and self.track_running_stats

    def compute(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        x = given[0]
        if self._uses_running():
            batch = x.reshape(-1, *x.shape[-2:])
            affine(batch, *self._affine(), out.reshape(batch.shape))
        else:
            weight, bias, n = self._held["weight"], self._held["bias"], x.shape[-1]
            standardized(x, n, weight, bias, self.eps, span=n, out=out)

    def _keeping(self, x: NDArray[Any]) -> tuple[NDArray[Any], Any]:
        y = self._computed([x])
        if self.training and self.track_running_stats:
            batch = x.reshape(-1, *x.shape[-2:])
            variance = batch.var(axis=2, ddof=1).mean(axis=0)
            self._track(batch.mean(axis=2).mean(axis=0), variance, self.momentum or 0.0)
        return y, x

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        x = kept
        check_gradient(g, x.shape, x.dtype)
        if self._uses_running():
            raise RuntimeError(
                "backward of InstanceNorm1d with running statistics is that of train mode: call "
                "train() before the forward"
            )
        kept = _standard(x, (-1,), self.eps)
        axes = (-1,) if x.ndim == 2 else (0, 2)
        weight, bias = self._held["weight"], self._held["bias"]
        if bias is not None:
            self._add_gradients(bias=g.sum(axis=axes))
        if weight is not None:
            self._add_gradients(weight=(g * kept.normal).sum(axis=axes))
            g = g * weight[:, np.newaxis]
        return _back_through(g, kept)


class GroupNorm(_Norm):
    """Groups of channels brought to mean 0 and variance 1, as ``torch.nn.GroupNorm``.

    Parameters
    ----------
    num_groups : int
        Number of groups; divides `num_channels`.
    num_channels : int
        Channels C.
    eps : float, default 1e-5
    affine : bool, default True
        Whether there are weight and bias.
    device : None or 'cpu'
        For torch's argument order.
    dtype : dtype, default float32
        float32 or float64.
    bias : bool, default True
        Whether there is a bias where `affine` has a weight.

    Attributes
    ----------
    weight, bias : ndarray of shape (C,) or None
    weight_grad, bias_grad : ndarray or None
        Sums of the gradients of every `backward` since `zero_grad`.

    Notes
    -----
    Input (N, C, ...).

    References
    ----------
    Wu and He, "Group Normalization", 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import GroupNorm
    >>> GroupNorm(1, 2, eps=0.0)(np.array([[[1.0, 1.0], [3.0, 3.0]]], np.float32))
    array([[[-1., -1.],
            [ 1.,  1.]]], dtype=float32)
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: str | None = None,
        dtype: DTypeLike | None = None,
        *,
        bias: bool = True,
    ) -> None:
        self._num_groups = geometry.as_index("num_groups", num_groups)
        self._num_channels = as_size("num_channels", num_channels)
        if self._num_groups < 1 or self._num_channels % self._num_groups:
            raise ValueError(
                "num_channels must be divisible by num_groups, "
                f"got num_channels={num_channels} and num_groups={num_groups}"
            )
        super().__init__((self._num_channels,), eps, affine, affine and bias, device, dtype)

    @property
    def num_groups(self) -> int:
        """The number of groups."""
        return self._num_groups

    @property
    def num_channels(self) -> int:
        """The number of channels."""
        return self._num_channels

    @property
    def affine(self) -> bool:
        """Whether there are weight and bias."""
        return self._held["weight"] is not None

    def output_shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        (shape,) = shapes
        self._check_dtype(dtype)
        if len(shape) < 2:
            raise ValueError(f"Expected at least 2 dimensions for input, got {list(shape)}")
        if shape[1] != self.num_channels:
            raise ValueError(
                "Expected weight to be a vector of size equal to the number of channels in input, "
                f"but got weight of shape [{self.num_channels}] and input of shape {list(shape)}; "
                "an item alone needs a batch axis, x[None]"
            )
        return shape

    def compute(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        x = given[0]
        span = math.prod(x.shape[2:])
        n = self.num_channels // self.num_groups * span
        weight, bias = self._held["weight"], self._held["bias"]
        standardized(x, n, weight, bias, self.eps, span=span, out=out)

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        x = kept
        check_gradient(g, x.shape, x.dtype)
        groups = (x.shape[0], self.num_groups, -1)
        kept = _standard(x.reshape(groups), (2,), self.eps)
        axes = (0, *range(2, x.ndim))
        g = self._scale_back(g, kept.normal.reshape(x.shape), axes)
        return _back_through(g.reshape(groups), kept).reshape(x.shape)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self._held['bias'] is not None}"
        )


class LayerNorm(_Norm):
    """The last axes of each item brought to mean 0 and variance 1, as ``torch.nn.LayerNorm``.

    Parameters
    ----------
    normalized_shape : int or sequence of int
        The sizes of the last axes, which are normalized together.
    eps : float, default 1e-5
    elementwise_affine : bool, default True
        Whether there is a weight.
    bias : bool, default True
        Whether there is a bias, too.
    device : None or 'cpu'
        For torch's argument order.
    dtype : dtype, default float32
        float32 or float64.

    Attributes
    ----------
    weight, bias : ndarray of shape normalized_shape or None
    weight_grad, bias_grad : ndarray or None
        Sums of the gradients of every `backward` since `zero_grad`.

    Notes
    -----
    Over the channels of (N, C, L) it is put between two `Transpose(1, 2)`; a `Sequential` computes
    the three as one.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import LayerNorm
    >>> LayerNorm(2, eps=0.0)(np.array([[1.0, 3.0], [8.0, 0.0]], np.float32))
    array([[-1.,  1.],
           [ 1., -1.]], dtype=float32)
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: str | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        sizes = normalized_shape
        if not isinstance(sizes, (tuple, list)):
            sizes = (geometry.as_index("normalized_shape", sizes),)
        self._normalized_shape = tuple(as_size("normalized_shape", size) for size in sizes)
        if not self._normalized_shape:
            raise ValueError("normalized_shape should have a size at least, got ()")
        scaled = bool(elementwise_affine)
        super().__init__(self._normalized_shape, eps, scaled, scaled and bool(bias), device, dtype)

    @property
    def normalized_shape(self) -> tuple[int, ...]:
        """The sizes of the axes that are normalized."""
        return self._normalized_shape

    @property
    def elementwise_affine(self) -> bool:
        """Whether there is a weight."""
        return self._held["weight"] is not None

    def output_shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        (shape,) = shapes
        self._check_dtype(dtype)
        own = self._normalized_shape
        if shape[-len(own) :] != own:
            raise ValueError(
                f"Given normalized_shape={list(own)}, expected input with shape "
                f"[*, {', '.join(map(str, own))}], but got input of size{list(shape)}; over the "
                "channels of (N, C, L) it goes between two Transpose(1, 2)"
            )
        return shape

    def compute(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        n = math.prod(self._normalized_shape)
        weight, bias = self._held["weight"], self._held["bias"]
        standardized(given[0], n, weight, bias, self.eps, out=out)

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        x = kept
        check_gradient(g, x.shape, x.dtype)
        lead = x.ndim - len(self._normalized_shape)
        kept = _standard(x, tuple(range(lead, x.ndim)), self.eps)
        return _back_through(self._scale_back(g, kept.normal, tuple(range(lead))), kept)

    def extra_repr(self) -> str:
        return (
            f"{self._normalized_shape}, eps={self.eps}, "
            f"elementwise_affine={self.elementwise_affine}, bias={self._held['bias'] is not None}"
        )
