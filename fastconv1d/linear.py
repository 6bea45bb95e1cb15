"""The layer Linear: products of the last axis by a matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .core import arrays
from .core.base import assign
from .core.between import Gradient, Held, Parametric, check_gradient
from .core.dense import dense_pack, multiplied
from .core.parameters import as_size, check_device, generator, parameter_dtype, uniform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray

    from .core.between import Shape
    from .core.convolution import Pack


class Linear(Parametric):
    """``y = x @ weight.T + bias`` over the last axis, as ``torch.nn.Linear``.

    Parameters
    ----------
    in_features : int
        Size of the last axis of the input.
    out_features : int
        Size of the last axis of the output.
    bias : bool, default True
        Whether there is a bias.
    device : None or 'cpu'
        For torch's argument order.
    dtype : dtype, default float32
        float32 or float64.
    rng : numpy.random.Generator, optional
        Where the initial parameters come from, see `reset_parameters`.

    Attributes
    ----------
    weight : ndarray of shape (out_features, in_features)
        Read-only in eval mode; assigning copies.
    bias : ndarray of shape (out_features,) or None
        As `weight`.
    weight_grad, bias_grad : ndarray or None
        Sums of the gradients of every `backward` since `zero_grad`.

    Notes
    -----
    Input (..., in_features). The direct engine computes it: the bits of a row do not depend on the
    others. In a `Sequential` activations beside it become part of it.

    References
    ----------
    ``torch.nn.Linear``: https://docs.pytorch.org/docs/stable/generated/torch.nn.Linear.html

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import Linear
    >>> layer = Linear(3, 2)
    >>> layer
    Linear(in_features=3, out_features=2, bias=True)
    >>> layer(np.zeros((4, 5, 3), np.float32)).shape
    (4, 5, 2)
    """

    weight = Held()
    bias = Held()
    weight_grad = Gradient()
    bias_grad = Gradient()
    activation = pre_activation = None  # a network asks what a layer does around its sums
    transposed = False

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: str | None = None,
        dtype: DTypeLike | None = None,
        *,
        rng: np.random.Generator | None = None,
    ) -> None:
        inputs, outputs = as_size("in_features", in_features), as_size("out_features", out_features)
        check_device(device)
        checked = parameter_dtype(dtype, real=True)
        made = np.zeros(outputs, checked) if bias else None
        super().__init__({"weight": np.zeros((outputs, inputs), checked), "bias": made})
        self.reset_parameters(rng)

    @property
    def in_features(self) -> int:
        """The size of the last axis of the input."""
        return int(self._held["weight"].shape[1])

    @property
    def out_features(self) -> int:
        """The size of the last axis of the output."""
        return int(self._held["weight"].shape[0])

    in_channels, out_channels = in_features, out_features

    def reset_parameters(self, rng: np.random.Generator | None = None) -> None:
        """Draw weight and bias from U(-sqrt(k), sqrt(k)), ``k = 1/in_features``, as torch.

        Parameters
        ----------
        rng : numpy.random.Generator, optional
            Where the numbers come from; by default a new, unseeded generator.

        Raises
        ------
        TypeError
            If `rng` is not a generator.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import Linear
        >>> layer = Linear(4, 6, rng=np.random.default_rng(0))
        >>> bool(abs(layer.weight).max() <= 0.5)
        True
        """
        rng = generator(rng)
        bound = self.in_features**-0.5 if self.in_features else 0.0
        new = {name: uniform(rng, bound, like) for name, like in self._parameters().items()}
        assign(self._replacing(new))

    def output_shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        (shape,) = shapes
        self._check_dtype(dtype)
        if not shape or shape[-1] != self.in_features:
            raise ValueError(
                f"the last axis of the input should have in_features={self.in_features} numbers, "
                f"got an input of size {list(shape)}"
            )
        return (*shape[:-1], self.out_features)

    def _pack(self) -> Pack:
        """Return the pack of the layer as it is, made by whoever needs it first."""
        made: Pack = self._derived(lambda: dense_pack(*self._held.values()))
        return made

    def compute(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        multiplied(self._pack(), given[0], out)

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        x, weight = kept, self._held["weight"]
        check_gradient(g, (*x.shape[:-1], self.out_features), x.dtype)
        rows, by_rows = x.reshape(-1, self.in_features), g.reshape(-1, self.out_features)
        gradients = {"weight": by_rows.T @ rows}
        if self._held["bias"] is not None:
            gradients["bias"] = by_rows.sum(axis=0)
        self._add_gradients(**gradients)
        grad_input: NDArray[Any] = arrays.operand(by_rows @ weight).reshape(x.shape)
        return grad_input

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self._held['bias'] is not None}"
        )
