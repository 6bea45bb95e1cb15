"""Networks of the library's layers: Sequential, Residual and Mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from . import functional, geometry
from .elementwise import ActivationLayer, number
from .modules import IncompatibleKeys, _Convolution, load_parameters
from .program import Activate, Buffers, Combine, Convolve, Operation, Program

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import ArrayLike, NDArray

_Network = TypeVar("_Network", bound="_Container")


class _Container:
    """Layers under names; a subclass says what it computes of them."""

    def __init__(self, layers: tuple[Any, ...]) -> None:
        names = {str(i): layer for i, layer in enumerate(layers)}
        if len(layers) == 1 and isinstance(layers[0], dict):
            names = layers[0]
        for name, layer in names.items():
            _check_layer(name, layer)
        self._layers = dict(names)
        self.training = False
        self._program: Program | None = None
        self._spare: list[Buffers] = []

    def _lower(self, operations: list[Operation], source: int, prefix: str) -> int:
        """Append the operations that compute the container of value `source`; return the result."""
        raise NotImplementedError

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        """Compute layer by layer, so that each keeps what its backward needs."""
        raise NotImplementedError

    def _backward(self, g: NDArray[Any]) -> NDArray[Any]:
        raise NotImplementedError

    def forward(self, input: ArrayLike, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Compute the network's output; in train mode, every layer keeps its input for `backward`.

        Parameters
        ----------
        input : ndarray of shape (N, C_in, L_in) or (C_in, L_in)
            Of the layers' dtype.
        out : ndarray of the result's shape and dtype, optional
            Where to write the result. It should be writeable and share no memory with the input.

        Returns
        -------
        ndarray of shape (N, C_out, L_out) or (C_out, L_out)
            A new array, or `out` if it was given.

        Raises
        ------
        ValueError, TypeError, OverflowError
            If a layer does not take the output of the one before it; the text names the layer.
        MemoryError
            If the result, a buffer or scratch cannot be allocated.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import Conv1d, ReLU, Sequential
        >>> net = Sequential(Conv1d(2, 3, 5, padding=2), ReLU(), Conv1d(3, 1, 1))
        >>> net.forward(np.zeros((2, 10), np.float32)).shape
        (1, 10)
        """
        x, batched = functional._batched(type(self).__name__, functional._operand(input))
        if not self._any_training():
            return functional._delivered(self._evaluate(x, batched, out), batched, out)
        y = self._forward(x)
        if out is not None:
            shape = y.shape
            np.copyto(functional._target(out, shape, batched, x), y)
        return functional._delivered(y, batched, out)

    def _evaluate(self, x: NDArray[Any], batched: bool, out: NDArray[Any] | None) -> NDArray[Any]:
        program = self._program
        if program is None:
            program = self._program = Program(lambda: lowered(self))
        buffers = self._take_buffers(program, x)
        n_batch, channels, length = buffers.shapes[program.result]
        if out is None:
            y = functional._new((n_batch, channels, length), x.dtype)
        else:
            y = functional._target(out, (n_batch, channels, length), batched, x)
        program.run(x, buffers, y)
        self._spare[:] = [buffers]
        return y

    def __call__(self, input: ArrayLike, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return ``forward(input, out=out)``."""
        return self.forward(input, out=out)

    def _take_buffers(self, program: Program, x: NDArray[Any]) -> Buffers:
        """Return buffers that no other call has: those of the last call, or new ones."""
        key = program.key(x)
        try:
            buffers = self._spare.pop()
        except IndexError:  # the first call, or another thread has them
            return Buffers(program, key)
        if buffers.key == key:
            return buffers
        del buffers  # before there are others
        return Buffers(program, key)

    def backward(self, grad_output: ArrayLike) -> NDArray[Any]:
        """Add to the gradients of every layer and return the gradient by the input.

        Parameters
        ----------
        grad_output : ndarray of the shape and dtype of the last output

        Returns
        -------
        ndarray of the input's shape

        Raises
        ------
        RuntimeError
            If a layer kept no input, because the network was not called in train mode.
        ValueError, TypeError, OverflowError, MemoryError
            As the layers' `backward`.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import Conv1d, ReLU, Sequential
        >>> net = Sequential(Conv1d(2, 3, 5, padding=2), ReLU(), Conv1d(3, 1, 1)).train()
        >>> y = net(np.zeros((2, 10), np.float32))
        >>> net.backward(y).shape
        (2, 10)
        """
        g, batched = functional._batched(type(self).__name__, functional._operand(grad_output))
        grad_input = self._backward(g)
        return grad_input if batched else grad_input[0]

    def _any_training(self) -> bool:
        return self.training or any(layer.training for layer in self._leaves().values())

    def _leaves(self, prefix: str = "") -> dict[str, Any]:
        """Return all layers that are no containers under their keys in a state dict, with a dot."""
        leaves = {}
        for name, layer in self._layers.items():
            if isinstance(layer, _Container):
                leaves.update(layer._leaves(f"{prefix}{name}."))
            else:
                leaves[f"{prefix}{name}."] = layer
        return leaves

    def train(self: _Network, mode: bool = True) -> _Network:
        """Bring all layers to train mode, see `fastconv1d.Conv1d.train`, or to eval mode.

        Parameters
        ----------
        mode : bool, default True
            False goes to eval mode.

        Returns
        -------
        The network itself.

        Raises
        ------
        ValueError
            If `mode` is not a bool.

        Examples
        --------
        >>> from fastconv1d import Conv1d, Sequential
        >>> Sequential(Conv1d(1, 1, 1)).train()[0].training
        True
        """
        if not isinstance(mode, bool):
            raise ValueError(f"training mode is expected to be boolean, got {geometry.shown(mode)}")
        self.training = mode
        for layer in self._layers.values():
            layer.train(mode)
        return self

    def eval(self: _Network) -> _Network:
        """Bring all layers to eval mode, that of new ones.

        Returns
        -------
        The network itself.

        Examples
        --------
        >>> from fastconv1d import ReLU, Sequential
        >>> Sequential(ReLU()).train().eval().training
        False
        """
        return self.train(False)

    def zero_grad(self) -> None:
        """Set the gradients of all layers to None.

        Examples
        --------
        >>> from fastconv1d import Conv1d, Sequential
        >>> Sequential(Conv1d(1, 1, 1)).zero_grad()
        """
        for layer in self._layers.values():
            layer.zero_grad()

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return copies of all parameters under torch's keys.

        Returns
        -------
        dict of str to ndarray
            Such as '0.weight', the name of the layer and that of the parameter.

        Examples
        --------
        >>> from fastconv1d import Conv1d, ReLU, Residual, Sequential
        >>> list(Sequential(ReLU(), Residual(Conv1d(1, 1, 1))).state_dict())
        ['1.0.weight', '1.0.bias']
        """
        return {
            prefix + key: value
            for prefix, layer in self._leaves().items()
            for key, value in layer.state_dict().items()
        }

    def load_state_dict(
        self, state_dict: Mapping[str, ArrayLike], strict: bool = True
    ) -> IncompatibleKeys:
        """Copy all parameters out of a dict with the keys of `state_dict`.

        Parameters
        ----------
        state_dict : mapping of str to array-like
            Values are cast to the layers' dtype, but complex ones not to real.
        strict : bool, default True
            Whether missing and unexpected keys are errors.

        Returns
        -------
        IncompatibleKeys
            Named tuple of the lists `missing_keys` and `unexpected_keys`.

        Raises
        ------
        ValueError
            If a shape differs, or with `strict` a key. No layer is changed then.
        TypeError
            If `state_dict` is not a mapping or a value cannot be cast.

        Examples
        --------
        >>> from fastconv1d import Conv1d, Sequential
        >>> net = Sequential(Conv1d(1, 1, 1))
        >>> net.load_state_dict({"0.weight": [[[2.0]]]}, strict=False)
        IncompatibleKeys(missing_keys=['0.bias'], unexpected_keys=[])
        """
        return load_parameters(type(self).__name__, self._leaves(), state_dict, strict)

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._layers.values())

    def __getitem__(self, index: int | str) -> Any:
        return self._layers[index] if isinstance(index, str) else [*self._layers.values()][index]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_program": None, "_spare": []}

    def __repr__(self) -> str:
        lines = [self.extra_repr()] if self.extra_repr() else []
        for name, layer in self._layers.items():
            lines.append(f"({name}): " + repr(layer).replace("\n", "\n  "))
        if not lines:
            return f"{type(self).__name__}()"
        return f"{type(self).__name__}(\n  " + "\n  ".join(lines) + "\n)"

    def extra_repr(self) -> str:
        """Return what `repr` shows besides the layers.

        Returns
        -------
        str

        Examples
        --------
        >>> from fastconv1d import ReLU, Residual
        >>> Residual(ReLU(), residual_scale=0.5).extra_repr()
        'residual_scale=0.5'
        """
        return ""


class Sequential(_Container):
    """Layers one after the other, computed with a few buffers that are used again.

    Parameters
    ----------
    *layers : Conv1d, ConvTranspose1d, activation, Sequential, Residual or Mean
        Or one dict of them, whose keys become the names; otherwise the names are '0', '1', ...

    Raises
    ------
    TypeError
        If a layer is none of these.

    Notes
    -----
    Activations and the additions of `Residual` become steps of the convolutions beside them.
    What lies between the layers is kept in buffers, two for a chain, three where there are
    residual blocks, each as large as the largest array that it holds. They stay for the next
    call; one of another shape replaces them. In eval mode a network may be called from several
    threads at once: a call that finds the buffers in use allocates its own. The result is a new
    array for each call unless `out` is given.

    `training`, `train`, `eval`, `state_dict`, `load_state_dict` and `repr` are torch's; a new
    network is in the mode of its layers, which is eval. The layers of a network stay the same:
    their parameters and attributes may change.

    References
    ----------
    ``torch.nn.Sequential``:
    https://docs.pytorch.org/docs/stable/generated/torch.nn.Sequential.html

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import Conv1d, ReLU, Sequential
    >>> net = Sequential(Conv1d(16, 33, 3, stride=2), ReLU(), Conv1d(33, 8, 1))
    >>> net
    Sequential(
      (0): Conv1d(16, 33, kernel_size=(3,), stride=(2,))
      (1): ReLU()
      (2): Conv1d(33, 8, kernel_size=(1,), stride=(1,))
    )
    >>> net(np.zeros((20, 16, 50), np.float32)).shape
    (20, 8, 24)
    """

    def __init__(self, *layers: Any) -> None:
        super().__init__(layers)

    def _lower(self, operations: list[Operation], source: int, prefix: str) -> int:
        for name, layer in self._layers.items():
            source = _lower(layer, operations, source, prefix + name)
        return source

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        for layer in self._layers.values():
            x = layer(x)
        return x

    def _backward(self, g: NDArray[Any]) -> NDArray[Any]:
        for layer in reversed(self._layers.values()):
            g = layer.backward(g)
        return g


class Residual(Sequential):
    """Layers one after the other, and the input added to their output.

    ``y = layers(x) + residual_scale * shortcut(x)``

    Parameters
    ----------
    *layers : Conv1d, ConvTranspose1d, activation, Sequential, Residual or Mean
        Or one dict of them, as for `Sequential`.
    shortcut : layer, optional
        What the input passes on its own way; by default nothing. Its name is 'shortcut'.
    residual_scale : float, default 1.0
        What the shortcut is multiplied by.

    Raises
    ------
    TypeError
        If a layer is none of these, or `residual_scale` is not a number.
    ValueError
        When called, if the layers change the size of their input.

    Notes
    -----
    As `Sequential`, which it may be part of.

    Examples
    --------
    The block of HiFi-GAN:

    >>> import numpy as np
    >>> from fastconv1d import Conv1d, LeakyReLU, Residual
    >>> block = Residual(
    ...     LeakyReLU(0.1),
    ...     Conv1d(8, 8, 3, padding=3, dilation=3),
    ...     LeakyReLU(0.1),
    ...     Conv1d(8, 8, 3, padding=1),
    ... )
    >>> block(np.ones((8, 100), np.float32)).shape
    (8, 100)
    """

    def __init__(self, *layers: Any, shortcut: Any = None, residual_scale: float = 1.0) -> None:
        super().__init__(*layers)
        self.residual_scale = number("residual_scale", residual_scale)
        if shortcut is not None:
            _check_layer("shortcut", shortcut)
            self._layers["shortcut"] = shortcut

    def _paths(self) -> tuple[dict[str, Any], Any]:
        layers = dict(self._layers)
        shortcut = layers.pop("shortcut", None)
        return layers, shortcut

    def _lower(self, operations: list[Operation], source: int, prefix: str) -> int:
        layers, shortcut = self._paths()
        kept = source
        if shortcut is not None:
            kept = _lower(shortcut, operations, source, prefix + "shortcut")
        for name, layer in layers.items():
            source = _lower(layer, operations, source, prefix + name)
        name = prefix.rstrip(".")
        target = len(operations) + 1
        operations.append(Combine(name, self, (source, kept), target, last=self.residual_scale))
        return target

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        layers, shortcut = self._paths()
        kept = x if shortcut is None else shortcut(x)
        for layer in layers.values():
            x = layer(x)
        y = functional._new(x.shape, x.dtype)
        combine = Combine("", self, (0, 1), 2, last=self.residual_scale)
        combine.shape((x.shape, kept.shape), x.dtype)
        combine.run((x, kept), y)
        return y

    def _backward(self, g: NDArray[Any]) -> NDArray[Any]:
        layers, shortcut = self._paths()
        kept = g if self.residual_scale == 1 else g * g.dtype.type(self.residual_scale)
        for layer in reversed(layers.values()):
            g = layer.backward(g)
        return g + (kept if shortcut is None else shortcut.backward(kept))

    def extra_repr(self) -> str:
        return "" if self.residual_scale == 1 else f"residual_scale={self.residual_scale}"


class Mean(_Container):
    """The mean of what several layers make of one input.

    Parameters
    ----------
    *branches : Conv1d, ConvTranspose1d, activation, Sequential, Residual or Mean
        One at least, or one dict of them, as for `Sequential`. Outputs of one size.

    Raises
    ------
    TypeError
        If a branch is none of these.
    ValueError
        If there is no branch or, when called, if the sizes of the outputs differ.

    Notes
    -----
    As `Sequential`, which it may be part of. Branches are added in order and the sum multiplied by
    ``1/len(branches)``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import Conv1d, Mean
    >>> blocks = Mean(*(Conv1d(4, 4, k, padding="same") for k in (3, 7, 11)))
    >>> blocks(np.ones((4, 100), np.float32)).shape
    (4, 100)
    """

    def __init__(self, *branches: Any) -> None:
        super().__init__(branches)
        if not self._layers:
            raise ValueError("a mean should be of at least one branch, got none")

    def _combine(self, sources: tuple[int, ...], target: int, name: str) -> Combine:
        return Combine(name, self, sources, target, total=1 / len(sources))

    def _lower(self, operations: list[Operation], source: int, prefix: str) -> int:
        sources = tuple(
            _lower(layer, operations, source, prefix + name) for name, layer in self._layers.items()
        )
        target = len(operations) + 1
        operations.append(self._combine(sources, target, prefix.rstrip(".")))
        return target

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        branches = [layer(x) for layer in self._layers.values()]
        y = functional._new(branches[0].shape, x.dtype)
        combine = self._combine(tuple(range(len(branches))), -1, "")
        combine.shape([branch.shape for branch in branches], x.dtype)
        combine.run(branches, y)
        return y

    def _backward(self, g: NDArray[Any]) -> NDArray[Any]:
        share = g * g.dtype.type(1 / len(self._layers))
        total, *rest = [layer.backward(share) for layer in self._layers.values()]
        for grad in rest:
            total = total + grad
        return total


def lowered(layer: Any) -> list[Operation]:
    """Return the operations that compute a layer or network of value 0.

    Raises
    ------
    TypeError
        If `layer` is neither.

    Examples
    --------
    >>> from fastconv1d import Conv1d, ReLU, Residual
    >>> from fastconv1d.sequential import lowered
    >>> [type(operation).__name__ for operation in lowered(Residual(Conv1d(1, 1, 1), ReLU()))]
    ['Convolve', 'Activate', 'Combine']
    """
    operations: list[Operation] = []
    if isinstance(layer, _Container):
        layer._lower(operations, 0, "")
    else:
        _check_layer("alone", layer)
        _lower(layer, operations, 0, "")
    return operations


def _check_layer(name: str, layer: Any) -> None:
    if not isinstance(layer, (_Convolution, ActivationLayer, _Container)):
        raise TypeError(
            f"layer {name} should be a Conv1d, ConvTranspose1d, activation, Sequential, Residual "
            f"or Mean, got {geometry.shown(layer)} of type {type(layer).__name__}"
        )


def _lower(layer: Any, operations: list[Operation], source: int, name: str) -> int:
    if isinstance(layer, _Container):
        return layer._lower(operations, source, name + ".")
    target = len(operations) + 1
    kind = Convolve if isinstance(layer, _Convolution) else Activate
    operations.append(kind(name, layer, source, target))
    return target
