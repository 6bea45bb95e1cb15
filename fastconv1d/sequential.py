"""Networks of the library's layers: Sequential, Residual and Mean."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .core import arrays, training
from .core.base import Layer, Option, has_own, number, setting
from .core.convolution import Convolution
from .core.geometry import shown
from .core.program import Activate, Buffers, Combine, Convolve, Operation, Program
from .elementwise import ActivationLayer
from .streaming import StreamingNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import ArrayLike, NDArray

    from .core.base import Assignment

_Network = TypeVar("_Network", bound="_Container")


class _Container(Layer):
    """Layers under names; a subclass says what it computes of them."""

    def __init__(self, layers: tuple[Any, ...]) -> None:
        names: dict[Any, Any] = {str(i): layer for i, layer in enumerate(layers)}
        if len(layers) == 1 and isinstance(layers[0], dict):
            names = layers[0]
        for name, layer in names.items():
            _check_name(name)
            _check_layer(name, layer)
        self._layers = dict(names)
        self._rank = max((layer._rank for layer in names.values()), default=1)
        self.training = False
        self._program: Program | None = None
        self._spare: list[Buffers] = []
        self._calls = training.Calls()

    def _lower(self, operations: list[Operation], source: int, prefix: str) -> int:
        """Append the operations that compute the container of value `source`; return the result."""
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
        x, batched = arrays.batched(type(self).__name__, arrays.operand(input), self._rank)
        if not self._any_training():
            return arrays.delivered(self._evaluate(x, batched, out), batched, out)
        y, kept = self._keeping(x)
        output = arrays.delivered(y if out is None else _into(out, y, batched, x), batched, out)
        self._calls.keep(x, output, kept)
        return output

    def _evaluate(self, x: NDArray[Any], batched: bool, out: NDArray[Any] | None) -> NDArray[Any]:
        program = self._program
        if program is None or program.overrides != Layer._overrides:
            program = self._program = Program(_lowering(self), Layer._overrides)
        if program.by_layer:
            y = self._keeping(x)[0]
            return y if out is None else _into(out, y, batched, x)
        buffers = self._take_buffers(program, x)
        shape = buffers.shapes[program.result]
        y = arrays.new(shape, x.dtype) if out is None else arrays.target(out, shape, batched, x)
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
        if buffers.key.is_that_of(key):
            return buffers
        del buffers  # before there are others
        return Buffers(program, key)

    def backward(self, grad_output: ArrayLike, output: NDArray[Any] | None = None) -> NDArray[Any]:
        """Add to the gradients of every layer and return the gradient by the input.

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
            If a layer kept no input, because the network was not called in train mode, or if
            several calls may be meant.
        ValueError, TypeError, OverflowError, MemoryError
            As the layers' `backward`.

        Notes
        -----
        A layer that occurs several times, in one network or in several, adds up the gradients of
        all its places.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import Conv1d, ReLU, Sequential
        >>> net = Sequential(Conv1d(2, 3, 5, padding=2), ReLU(), Conv1d(3, 1, 1)).train()
        >>> y = net(np.zeros((2, 10), np.float32))
        >>> net.backward(y).shape
        (2, 10)
        """
        g, batched = arrays.batched(type(self).__name__, arrays.operand(grad_output), self._rank)
        grad_input = self._backward(g, self._calls.recall(self.training, output))
        return grad_input if batched else grad_input[0]

    def stream(self, n_batch: int = 1) -> StreamingNetwork:
        """Return the network over sequences that arrive in chunks.

        Parameters
        ----------
        n_batch : int, default 1
            How many sequences run side by side.

        Returns
        -------
        StreamingNetwork

        Raises
        ------
        ValueError
            If a layer needs what is not there yet, see `StreamingNetwork`; the text names it.
        TypeError
            If a layer has a forward of its own.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import Conv1d, ReLU, Residual, Sequential
        >>> net = Sequential(Residual(Conv1d(2, 2, 3, padding="causal"), ReLU()), Conv1d(2, 1, 1))
        >>> stream = net.stream()
        >>> stream(np.ones((2, 5), np.float32)).shape
        (1, 5)
        """
        return StreamingNetwork(self, n_batch)

    def _copy_in_eval(self: _Network, made: dict[int, Any]) -> _Network:
        network = copy.copy(self)
        network.__dict__.update(
            _layers={name: layer._as_it_is(made) for name, layer in self._layers.items()},
            training=False,
            _calls=training.Calls(),
        )
        return network

    def _all_layers(self) -> Iterator[Any]:
        """Yield all layers inside, networks included."""
        for layer in self._layers.values():
            yield layer
            if isinstance(layer, _Container):
                yield from layer._all_layers()

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

    def _switching(self, mode: bool) -> Iterable[Assignment]:
        own = [setting(self, "training", mode), setting(self, "_calls", training.Calls())]
        return own + [each for layer in self._layers.values() for each in layer._switching(mode)]

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

    def _keeping(self, x: NDArray[Any]) -> tuple[NDArray[Any], Any]:
        return _keeping_all(self._layers.values(), x)

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        return _back_through_all(g, kept)


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

    residual_scale = Option(number)

    def __init__(self, *layers: Any, shortcut: Any = None, residual_scale: float = 1.0) -> None:
        super().__init__(*layers)
        self.residual_scale = residual_scale
        if shortcut is not None:
            if "shortcut" in self._layers:
                raise ValueError(
                    "the shortcut should be given once, as a layer of the name 'shortcut' or as "
                    f"shortcut=, got {shown(self._layers['shortcut'])} and {shown(shortcut)}"
                )
            _check_layer("shortcut", shortcut)
            self._layers["shortcut"] = shortcut
            self._rank = max(self._rank, shortcut._rank)

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
        operations.append(Combine(name, self, (source, kept), target))
        return target

    def _keeping(self, x: NDArray[Any]) -> tuple[NDArray[Any], Any]:
        layers, shortcut = self._paths()
        beside, kept_beside = (x, None) if shortcut is None else _keeping(shortcut, x)
        x, kept = _keeping_all(layers.values(), x)
        y = arrays.new(x.shape, x.dtype)
        combine = Combine("", self, (0, 1), 2)
        combine.shape((x.shape, beside.shape), x.dtype)
        combine.run((x, beside), y)
        return y, (self.residual_scale, kept, kept_beside)

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        residual_scale, inside, beside = kept
        by_shortcut = g if residual_scale == 1 else g * g.dtype.type(residual_scale)
        g = _back_through_all(g, inside)
        return g + (by_shortcut if beside is None else _back(by_shortcut, beside))

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

    def _keeping(self, x: NDArray[Any]) -> tuple[NDArray[Any], Any]:
        branches, kept = zip(*(_keeping(layer, x) for layer in self._layers.values()), strict=True)
        y = arrays.new(branches[0].shape, x.dtype)
        combine = self._combine(tuple(range(len(branches))), -1, "")
        combine.shape([branch.shape for branch in branches], x.dtype)
        combine.run(branches, y)
        return y, kept

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        share = g * g.dtype.type(1 / len(kept))
        total, *rest = [_back(share, of_branch) for of_branch in kept]
        for grad in rest:
            total = total + grad
        return total


# ---- layer by layer, in train mode: what a call of a layer kept is a pair of the layer and that


def _keeping(layer: Any, x: NDArray[Any]) -> tuple[NDArray[Any], Any]:
    if has_own(layer, "forward", "__call__", "backward"):
        return layer(x), (layer, _OF_ITS_OWN)
    if not layer.training and not isinstance(layer, _Container):
        return layer(x), (layer, None)
    y, kept = layer._keeping(x)
    return y, (layer, kept)


_OF_ITS_OWN = object()  # instead of what was kept: the layer's own methods know


def _back(g: NDArray[Any], of_layer: Any) -> NDArray[Any]:
    layer, kept = of_layer
    if kept is not None and kept is not _OF_ITS_OWN:
        grad_input: NDArray[Any] = layer._backward(g, kept)
        return grad_input
    if kept is _OF_ITS_OWN and not has_own(layer, "backward"):
        raise RuntimeError(
            f"{type(layer).__name__} has a forward of its own, whose backward is not known: define "
            "backward(grad_output) beside it"
        )
    by_hand: NDArray[Any] = layer.backward(g)  # which says so if the layer is in eval mode
    return by_hand


def _keeping_all(layers: Iterable[Any], x: NDArray[Any]) -> tuple[NDArray[Any], Any]:
    kept = []
    for layer in layers:
        x, of_layer = _keeping(layer, x)
        kept.append(of_layer)
    return x, kept


def _back_through_all(g: NDArray[Any], kept: Any) -> NDArray[Any]:
    for of_layer in reversed(kept):
        g = _back(g, of_layer)
    return g


def _into(out: NDArray[Any], y: NDArray[Any], batched: bool, x: NDArray[Any]) -> NDArray[Any]:
    """Copy a result to what `arrays.target` makes of `out`."""
    copy = arrays.target(out, y.shape, batched, x)
    np.copyto(copy, y)
    return copy


# ---- in eval mode


def _lowering(network: _Container) -> Callable[[], list[Operation]] | None:
    """Return what lowers a network; None where a layer has a forward of its own."""
    if any(has_own(layer, "forward", "__call__") for layer in network._all_layers()):
        return None
    return lambda: lowered(network)


def lowered(layer: Any) -> list[Operation]:
    """Return the operations that compute a layer or network of value 0.

    Raises
    ------
    TypeError
        If `layer` is neither, or computes something of its own.

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


def _check_name(name: Any) -> None:
    """Refuse names that would give two layers one key in a state dict, as torch does."""
    if not isinstance(name, str):
        raise TypeError(
            "the name of a layer should be a string, "
            f"got {shown(name)} of type {type(name).__name__}"
        )
    if not name or "." in name:
        raise ValueError(
            f"the name of a layer can't be empty or contain '.', got {shown(name)}: nest networks "
            "for keys with dots"
        )


def _hint(layer: Any) -> str:
    if isinstance(layer, type):
        return f"; a class makes a layer: {layer.__name__}()"
    if type(layer).__module__.partition(".")[0] == "torch":
        return "; of torch's layers load_state_dict takes the weights, fastconv1d.torch the model"
    return ""


def _check_layer(name: str, layer: Any) -> None:
    if not isinstance(layer, (Convolution, ActivationLayer, _Container)):
        is_list = isinstance(layer, (list, tuple))
        hint = "; a list is unpacked with *: Sequential(*layers)" if is_list else _hint(layer)
        raise TypeError(
            f"layer {name} should be a Conv1d, Conv2d, ConvTranspose1d, activation, Sequential, "
            f"Residual or Mean, got {shown(layer)} of type {type(layer).__name__}{hint}"
        )


def _lower(layer: Any, operations: list[Operation], source: int, name: str) -> int:
    if has_own(layer, "forward", "__call__"):
        raise TypeError(
            f"layer {name or 'alone'} should compute what its class does here, got "
            f"{type(layer).__name__} with a forward of its own, whose operations are not known"
        )
    if isinstance(layer, _Container):
        return layer._lower(operations, source, name + ".")
    target = len(operations) + 1
    kind = Convolve if isinstance(layer, Convolution) else Activate
    operations.append(kind(name, layer, source, target))
    return target
