"""Batch norm and weight norm folded into the weights of the convolution that they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .core import geometry
from .core.arrays import widened

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import ArrayLike, NDArray

_NORM_KEYS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def fold_batch_norm(
    state: Mapping[str, ArrayLike],
    eps: float = 1e-5,
    *,
    pairs: Mapping[str, str] | None = None,
    transposed: bool | Collection[str] = False,
) -> dict[str, Any]:
    """Fold batch norms, as they are in eval mode, into the convolutions right before them.

    ``scale = bn.weight / sqrt(bn.running_var + eps)``; then ``weight * scale`` along the output
    channels and ``(bias - bn.running_mean)*scale + bn.bias`` take the place of both layers.

    Parameters
    ----------
    state : mapping of str to array-like
        Parameters under torch's keys, such as 'conv.weight' and 'bn.running_mean'; tensors of
        torch on the CPU will do. It is left as it is.
    eps : float, default 1e-5
        As the batch norm was made with; 1e-5 is torch's default, TensorFlow's is 1e-3.
    pairs : mapping of str to str, optional
        From the prefix of a convolution to that of the batch norm which its output goes to
        directly, for example ``{"0": "1", "3": "4"}``; the empty prefix stands for keys without
        one. Not needed where the state has one convolution and one batch norm. More are never
        paired by their order: that of conv, activation, norm could not be told apart, and cannot
        be folded.
    transposed : bool or collection of str, default False
        Whether the weights are those of transposed convolutions, (C_in, C_out / groups, K), or
        the prefixes of those that are.

    Returns
    -------
    dict of str to array
        The state without the batch norms' keys. The convolutions' 'weight' and 'bias', which there
        is now in any case, are new arrays of the weight's dtype (float32 for bfloat16), computed in
        double precision; other entries are those of `state` themselves, in their order.

    Raises
    ------
    ValueError
        If a parameter is missing, has a shape that does not fit or a variance for which
        ``running_var + eps`` is not positive, or the layers to fold are ambiguous. A batch norm
        without affine parameters has ones and zeros, a convolution without bias zeros.
    TypeError
        If `state` or `pairs` is no mapping, or a parameter not a floating-point or complex array.

    References
    ----------
    ``torch.nn.utils.fusion.fuse_conv_bn_weights``, and Ioffe and Szegedy, "Batch Normalization:
    Accelerating Deep Network Training by Reducing Internal Covariate Shift", 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import fold_batch_norm
    >>> state = {
    ...     "conv.weight": np.ones((1, 1, 3)),
    ...     "bn.running_mean": np.array([2.0]),
    ...     "bn.running_var": np.array([4.0]),
    ... }
    >>> fold_batch_norm(state, eps=0)
    {'conv.weight': array([[[0.5, 0.5, 0.5]]]), 'conv.bias': array([-1.])}
    """
    _check_mapping("state", state)
    if not isinstance(eps, (int, float, np.number)) or not 0 <= eps < np.inf:
        raise ValueError(f"eps should be a finite number of at least 0, got {geometry.shown(eps)}")
    if pairs is None:
        pairs = _only_pair(state)
    _check_mapping("pairs", pairs)
    if len(set(pairs.values())) < len(pairs):
        raise ValueError(f"pairs should name each batch norm once, got {dict(pairs)}")
    _check_transposed(transposed, pairs)
    folds = {}
    dropped = {_key(conv, "bias") for conv in pairs}
    for conv, norm in pairs.items():
        is_transposed = transposed if isinstance(transposed, bool) else conv in transposed
        folds[_key(conv, "weight")] = _fold_one(state, conv, norm, float(eps), is_transposed)
        dropped.update(_key(norm, name) for name in _NORM_KEYS)
    folded: dict[str, Any] = {}
    for key, value in state.items():
        if key in folds:
            folded[key], folded[key[: -len("weight")] + "bias"] = folds[key]
        elif key not in dropped:
            folded[key] = value
    return folded


def _fold_one(
    state: Mapping[str, ArrayLike], conv: str, norm: str, eps: float, transposed: bool
) -> tuple[NDArray[Any], NDArray[Any]]:
    weight_key, mean_key, var_key = (
        _key(conv, "weight"),
        _key(norm, "running_mean"),
        _key(norm, "running_var"),
    )
    weight = _parameter(state, weight_key)
    if weight.ndim != 3:
        raise ValueError(
            f"{weight_key} should have three dimensions, got one of size {list(weight.shape)}"
        )
    mean = _parameter(state, mean_key)
    channels = _out_channels(weight_key, weight, mean_key, mean, transposed)
    scale = 1 / np.sqrt(_variance(state, var_key, channels, eps))
    gamma_key, beta_key = _key(norm, "weight"), _key(norm, "bias")
    if gamma_key in state:
        scale = scale * _vector(state, gamma_key, channels)
    shift = -mean * scale
    if _key(conv, "bias") in state:
        shift = shift + _vector(state, _key(conv, "bias"), channels) * scale
    if beta_key in state:
        shift = shift + _vector(state, beta_key, channels)
    dtype = weight.dtype
    wide = scaled_outputs(weight, scale, transposed)
    return wide.astype(dtype), shift.astype(dtype)


def scaled_outputs(weight: NDArray[Any], scale: NDArray[Any], transposed: bool) -> NDArray[Any]:
    """Return the weight of a convolution whose output channels are scaled, in double precision.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d.folding import scaled_outputs
    >>> scaled_outputs(np.ones((2, 1, 1), np.float32), np.array([2.0, 3.0]), False).ravel()
    array([2., 3.])
    """
    wide = weight.astype(np.result_type(weight.dtype, np.float64))
    if not transposed:
        return np.asarray(wide * scale[:, np.newaxis, np.newaxis])
    groups = scale.size // weight.shape[1] if weight.shape[1] else 1
    by_group = wide.reshape(groups, -1, *weight.shape[1:])
    return np.asarray((by_group * scale.reshape(groups, 1, -1, 1)).reshape(weight.shape))


def scaled_inputs(
    weight: NDArray[Any], scale: NDArray[Any], shift: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the weight of a convolution of ``x*scale + shift``, and what its bias gets more.

    Both in double precision, of a weight that is not transposed.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d.folding import scaled_inputs
    >>> scaled_inputs(np.ones((1, 2, 1)), np.array([2.0, 3.0]), np.array([0.5, 1.0]))
    (array([[[2.],
            [3.]]]), array([1.5]))
    """
    wide = weight.astype(np.float64)
    c_out, of_group, _ = weight.shape
    groups = scale.size // of_group if of_group else 1
    group = np.arange(c_out) // max(c_out // groups, 1)
    factors, summands = (v.reshape(groups, of_group)[group] for v in (scale, shift))
    return wide * factors[..., np.newaxis], np.einsum("oik,oi->o", wide, summands)


def _out_channels(
    weight_key: str, weight: NDArray[Any], mean_key: str, mean: NDArray[Any], transposed: bool
) -> int:
    """Return C_out; that of a transposed weight is only known together with its groups."""
    channels = mean.shape[0] if mean.ndim == 1 else -1
    if transposed:
        c_in, c_out_group = weight.shape[:2]
        groups = channels // c_out_group if c_out_group else 0
        fits = channels == groups * c_out_group and groups > 0 and c_in % groups == 0
        rule = f"a multiple of the {c_out_group} channels a group of {weight_key}"
    else:
        fits = channels == weight.shape[0]
        rule = f"the {weight.shape[0]} output channels of {weight_key}"
    if not fits:
        raise ValueError(f"{mean_key} should have {rule}, got size {list(mean.shape)}")
    return channels


def _variance(state: Mapping[str, ArrayLike], key: str, channels: int, eps: float) -> NDArray[Any]:
    variance = _vector(state, key, channels)
    if variance.dtype.kind == "c":
        raise TypeError(f"{key} should be real, got dtype {variance.dtype}")
    variance = variance + eps
    if not (variance > 0).all():
        lowest = variance.min()
        raise ValueError(f"{key} + eps should be positive, got {lowest} at {variance.argmin()}")
    return variance


def _vector(state: Mapping[str, ArrayLike], key: str, channels: int) -> NDArray[Any]:
    value = _parameter(state, key)
    if value.shape != (channels,):
        raise ValueError(f"{key} should have the shape [{channels}], got {list(value.shape)}")
    return value.astype(np.result_type(value.dtype, np.float64))


def _parameter(state: Mapping[str, ArrayLike], key: str) -> NDArray[Any]:
    if key not in state:
        hint = ""
        if key.endswith("weight"):
            hint = "; a weight-normed layer goes through fold_weight_norm first"
        elif "running" in key:
            hint = "; without running statistics a batch norm depends on the batch"
        raise ValueError(f'Missing key "{key}" in state{hint}')
    return _inexact(key, state[key])


def _only_pair(state: Mapping[str, ArrayLike]) -> dict[str, str]:
    """Pair the one convolution with the one batch norm of the state."""
    norms = [key[: -len("running_mean")] for key in state if _named(key, "running_mean")]
    convs = [
        key[: -len("weight")] for key in state if _named(key, "weight") and np.ndim(state[key]) == 3
    ]
    if len(norms) != 1 or len(convs) != 1:
        raise ValueError(
            "pairs should say which batch norm follows which convolution unless the state has one "
            f"of each, got the convolutions {[c[:-1] for c in convs]} and the batch norms "
            f"{[n[:-1] for n in norms]}"
        )
    return {convs[0][:-1]: norms[0][:-1]}


def fold_weight_norm(g: ArrayLike, v: ArrayLike, dim: int | None = 0) -> NDArray[Any]:
    """Return the weight ``g * v / ||v||`` of a weight-normed layer.

    Parameters
    ----------
    g : array-like of size v.shape[dim], or 1 for ``dim=None``
        The magnitudes, 'weight_g' or 'parametrizations.weight.original0' in torch's state dicts:
        of shape (C, 1, 1) there, but (C,) will do.
    v : array-like
        The directions, 'weight_v' or 'parametrizations.weight.original1'.
    dim : int or None, default 0
        The dimension with a norm for each index, over all others; None for a single norm. torch's
        default is 0 for transposed convolutions, too: their input channels.

    Returns
    -------
    ndarray of the shape and dtype of v
        Computed in double precision; float32 where `v` is bfloat16.

    Raises
    ------
    ValueError
        If `dim` is not a dimension of `v`, the size of `g` does not fit, or a norm is zero.
    TypeError
        If `g` or `v` is not a floating-point or complex array, or `dim` no integer.

    References
    ----------
    ``torch.nn.utils.parametrizations.weight_norm``, and Salimans and Kingma, "Weight Normalization:
    A Simple Reparameterization to Accelerate Training of Deep Neural Networks", 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import fold_weight_norm
    >>> fold_weight_norm(np.array([10.0]), np.array([[[3.0, 4.0]]]))
    array([[[6., 8.]]])
    """
    directions, magnitudes = _inexact("v", v), _inexact("g", g)
    if dim is not None:
        dim = geometry.as_index("dim", dim)
        if not 0 <= dim < directions.ndim:
            raise ValueError(
                f"dim should be None or a dimension of v, 0 to {directions.ndim - 1}, got dim={dim}"
            )
    shape = [n if axis == dim else 1 for axis, n in enumerate(directions.shape)]
    count = 1 if dim is None else directions.shape[dim]
    if magnitudes.size != count or magnitudes.squeeze().ndim > 1:
        raise ValueError(
            f"g should have a magnitude for each of {count} norms, got one of size "
            f"{list(magnitudes.shape)}"
        )
    if directions.size == 0:
        return directions.copy()
    others = tuple(axis for axis in range(directions.ndim) if axis != dim)
    peak = np.abs(directions).max(axis=others, keepdims=True)
    if not peak.all():
        index = "" if dim is None else f" at index {int(np.flatnonzero(peak == 0)[0])} of dim={dim}"
        raise ValueError(f"the norm of v should not be zero, got zeros only{index}")
    wide = directions.astype(np.result_type(directions.dtype, np.float64))
    wide /= np.ldexp(1.0, np.frexp(peak)[1] - 1)  # squares neither overflow nor vanish
    norm = np.sqrt((np.abs(wide) ** 2).sum(axis=others, keepdims=True))
    return (wide * magnitudes.reshape(shape) / norm).astype(directions.dtype)


def _inexact(name: str, value: ArrayLike) -> NDArray[Any]:
    array = widened(np.asarray(value))
    if array.dtype.kind not in "fc":
        raise TypeError(
            f"{name} should be a floating-point or complex array, "
            f"got {type(value).__name__} of dtype {array.dtype}"
        )
    return array


def _check_transposed(transposed: Any, pairs: Mapping[str, str]) -> None:
    if isinstance(transposed, bool):
        return
    if isinstance(transposed, str) or not hasattr(transposed, "__contains__"):
        raise TypeError(
            "transposed should be a bool or a collection of prefixes, "
            f"got {geometry.shown(transposed)}"
        )
    strangers = [prefix for prefix in transposed if prefix not in pairs]
    if strangers:
        raise ValueError(f"transposed should name convolutions of pairs, got {strangers}")


def _check_mapping(name: str, value: Any) -> None:
    if not (hasattr(value, "keys") and hasattr(value, "__getitem__")):
        raise TypeError(f"Expected {name} to be dict-like, got {type(value)}.")


def _key(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _named(key: str, name: str) -> bool:
    return key == name or key.endswith("." + name)
