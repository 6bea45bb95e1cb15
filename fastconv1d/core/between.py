"""What the layers between convolutions are: shapes in and out, parameters, calls, gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import arrays, training
from .base import Layer, Option, assign, setting, writing
from .flow import PerPosition
from .parameters import checked_parameter, frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from .base import Assignment
    from .flow import Flow, Run

Shape = tuple[int, ...]


class Shaping(Option):
    """An option that what was derived of a layer, such as buffers, depends on."""

    def __set__(self, layer: Any, value: Any) -> None:
        super().__set__(layer, value)
        layer.__dict__["_spec"] = object()


class Between(Layer):
    """A layer that is no convolution, of arrays of any number of dimensions.

    A subclass has `output_shape`, which says what is wrong with an input, and `compute`; for
    training `_keeping` or just `_backward`.

    Attributes
    ----------
    training : bool
        Whether calls keep what `backward` needs.
    """

    in_place: ClassVar[bool] = False  # whether the output may lie where an input does
    copies: ClassVar[bool] = False  # whether eval mode changes nothing: a network leaves it out

    @property
    def swaps_last(self) -> bool:
        """Whether the layer exchanges the last two axes, and does nothing else."""
        return False

    @property
    def folds(self) -> bool:
        """Whether the layer is, as it is now, a multiplication and an addition a channel."""
        return False

    def __init__(self) -> None:
        self.training = False
        self._spec = object()
        self._calls = training.Calls()

    def output_shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        """Return the shape of the output, or raise what is wrong with the inputs.

        Parameters
        ----------
        shapes : sequence of tuple of int
            The shapes of the inputs, one for most layers.
        dtype : numpy.dtype
            Their dtype.

        Returns
        -------
        tuple of int

        Raises
        ------
        ValueError, TypeError
            If the layer does not take such inputs.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import MaxPool1d
        >>> MaxPool1d(2).output_shape([(1, 4, 10)], np.dtype(np.float32))
        (1, 4, 5)
        """
        raise NotImplementedError

    def compute(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        """Write the output for inputs that `output_shape` took, in eval mode.

        Parameters
        ----------
        given : sequence of ndarray
            The inputs, one for most layers.
        out : ndarray
            Of the output's shape, C-contiguous.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import MaxPool1d
        >>> y = np.empty((1, 2))
        >>> MaxPool1d(2).compute([np.array([[1.0, 3.0, 2.0, 0.0]])], y)
        >>> y
        array([[3., 2.]])
        """
        raise NotImplementedError

    def _flow(self, run: Run) -> Flow:
        return PerPosition(run) if self.copies else super()._flow(run)

    def _keeping(self, x: NDArray[Any]) -> tuple[NDArray[Any], Any]:
        return self._computed([x]), x

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        raise RuntimeError(
            f"{type(self).__name__} is for inference: it has no backward; train it in torch and "
            "load its state dict"
        )

    def _computed(
        self, given: Sequence[NDArray[Any]], out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Return the output in a new array or, checked, in `out`."""
        x = given[0]
        shape = self.output_shape([each.shape for each in given], x.dtype)
        if out is None:
            y = arrays.new(shape, x.dtype)
        else:
            y = arrays.target(out, shape, True, *given)
        self.compute(given, y)
        return arrays.delivered(y, True, out)

    def forward(self, input: ArrayLike, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Apply the layer; in train mode, keep what `backward` needs.

        Parameters
        ----------
        input : ndarray
            Of dtype float32 or float64, the layer's where it has parameters.
        out : ndarray of the output's shape and dtype, optional
            Where to write the output.

        Returns
        -------
        ndarray
            A new array, or `out` if it was given.

        Raises
        ------
        ValueError
            If the layer does not take an input of this size.
        TypeError
            If the dtype is another one.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import MaxPool1d
        >>> MaxPool1d(2).forward(np.array([[1.0, 3.0, 2.0, 0.0]]))
        array([[3., 2.]])
        """
        x = arrays.operand(input)
        if not self.training:
            return self._computed([x], out)
        self.output_shape([x.shape], x.dtype)
        y, kept = self._keeping(x)
        if out is not None:
            target = arrays.target(out, y.shape, True, x)
            np.copyto(target, y)
            y = arrays.delivered(target, True, out)
        self._calls.keep(x, y, kept)
        return y

    def __call__(self, input: ArrayLike, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return ``forward(input, out=out)``."""
        # a forward of a subclass may know of no `out`
        return self.forward(input) if out is None else self.forward(input, out=out)

    def backward(self, grad_output: ArrayLike, output: NDArray[Any] | None = None) -> NDArray[Any]:
        """Add to the gradients by the parameters and return the gradient by the input.

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
            If no input was kept, because the layer was not called in train mode, if several calls
            may be meant, or if the layer is for inference.
        ValueError, TypeError
            If the shape or the dtype is not that of the output.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import MaxPool1d
        >>> layer = MaxPool1d(2).train()
        >>> y = layer(np.array([[1.0, 3.0, 2.0, 0.0]]))
        >>> layer.backward(np.array([[5.0, 6.0]]))
        array([[0., 5., 6., 0.]])
        """
        return self._backward(
            arrays.operand(grad_output), self._calls.recall(self.training, output)
        )

    def _switching(self, mode: bool) -> Iterable[Assignment]:
        return [setting(self, "training", mode), setting(self, "_calls", training.Calls())]


def check_gradient(g: NDArray[Any], shape: Shape, dtype: np.dtype[Any]) -> None:
    """Raise unless a gradient is of the output's shape and dtype."""
    if g.dtype != dtype:
        raise TypeError(f"Input type ({dtype}) and grad_output type ({g.dtype}) should be the same")
    if g.shape != shape:
        raise ValueError(
            f"grad_output should have the size of the output, {list(shape)}, "
            f"but got {list(g.shape)}"
        )


def check_real(layer: Any, dtype: np.dtype[Any]) -> None:
    """Raise TypeError unless the dtype is float32 or float64."""
    if dtype.char not in "fd":
        raise TypeError(
            f"\"{type(layer).__name__}\" not implemented for '{arrays.torch_name(dtype)}': the "
            f"dtype should be float32 or float64, got an input of dtype {dtype}: convert it with "
            "x.astype(np.float32)"
        )


# ---- parameters ----------------------------------------------------------------------------------


class Held:
    """A parameter or buffer of a layer: a read-only view in eval mode, None where it has none."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, layer: Any, owner: type | None = None) -> Any:
        if layer is None:
            return self
        array = layer._held[self._name]
        return array if array is None or layer.training else array.view()

    def __set__(self, layer: Any, value: Any) -> None:
        array = layer._held[self._name]
        if (value is None) != (array is None):
            raise ValueError(
                f"{self._name} should stay {'None' if array is None else 'an array'}, as the layer "
                f"was made, got {type(value).__name__}"
            )
        if array is not None:
            new = checked_parameter(self._name, value, array)
            assign(layer._replacing({self._name: new}))


class Gradient:
    """The sum of the gradients by a parameter of every backward since `zero_grad`, or None."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name.removesuffix("_grad")

    def __get__(self, layer: Any, owner: type | None = None) -> Any:
        return self if layer is None else layer._gradients.get(self._name)

    def __set__(self, layer: Any, value: Any) -> None:
        layer._gradients = {**layer._gradients, self._name: value}


class Parametric(Between):
    """A layer between convolutions that has parameters, buffers or both.

    `_held` has all of them by name, in torch's order; None stands for what a layer is made
    without. Whatever changes them outside of training makes a new dict of read-only arrays, so
    that what `_derived` made of one stays right.
    """

    _buffers: ClassVar[tuple[str, ...]] = ()
    _held: dict[str, Any]

    def __init__(self, held: Mapping[str, NDArray[Any] | None]) -> None:
        super().__init__()
        self._held = {name: None if a is None else frozen(a) for name, a in held.items()}
        self._gradients: dict[str, NDArray[Any]] = {}
        self._made: Any = None

    def _derived(self, make: Callable[[], Any]) -> Any:
        """Return what `make` makes of parameters and options, in eval mode made once."""
        if self.training:
            return make()
        made, held, spec = self._made, self._held, self._spec
        if made is None or made[0] is not held or made[1] is not spec:
            made = self._made = (held, spec, make())
        return made[2]

    def _parameters(self) -> dict[str, NDArray[Any]]:
        return {name: array for name, array in self._held.items() if array is not None}

    def _replacing(self, parameters: Mapping[str, NDArray[Any]]) -> Iterable[Assignment]:
        if self.training:
            return [writing(self._held[name], value) for name, value in parameters.items()]
        new = {name: frozen(value) for name, value in parameters.items()}
        return [setting(self, "_held", {**self._held, **new}), setting(self, "_made", None)]

    def _switching(self, mode: bool) -> Iterable[Assignment]:
        if mode == self.training:
            return []
        copied = np.array if mode else frozen
        held = {name: None if a is None else copied(a) for name, a in self._held.items()}
        new = [setting(self, "_held", held), setting(self, "_made", None)]
        return [*new, *super()._switching(mode)]

    def _add_gradients(self, **gradients: NDArray[Any]) -> None:
        with training.lock:
            now = self._gradients
            new = {name: training.added(now.get(name), g) for name, g in gradients.items()}
            self._gradients = {**now, **new}

    def _drop_gradients(self) -> None:
        self._gradients = {}

    def _check_dtype(self, dtype: np.dtype[Any]) -> None:
        own = self.dtype
        if own is None:
            check_real(self, dtype)
        elif dtype != own:
            raise TypeError(
                f"Input type ({dtype}) and weight type ({own}) should be the same: make the layer "
                f"with dtype={dtype} or convert the input with x.astype(np.{own})"
            )

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The dtype of the parameters, None where there are none."""
        for array in self._held.values():
            if array is not None and array.dtype.kind == "f":
                return np.dtype(array.dtype)
        return None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _spec=object())
        own = arrays.aligned if self.training else frozen  # arrays come back writable
        self._held = {k: None if a is None else own(a) for k, a in self._held.items()}
