"""Networks of the library's layers: Sequential, Residual, Mean, Sum, Concat, Gate and Graph."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .core import arrays, training
from .core.base import Layer, Option, has_own, number, setting
from .core.between import Between, Shaping, check_gradient, check_real
from .core.convolution import Convolution
from .core.flow import PerPosition
from .core.geometry import as_index, shown
from .core.network import gate
from .core.program import Activate, Apply, Buffers, Combine, Convolve, Dense, Operation, Program
from .elementwise import ActivationLayer, as_axis
from .linear import Linear
from .streaming import StreamingNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from .core.base import Assignment
    from .core.between import Shape
    from .core.flow import Flow, Run

_Network = TypeVar("_Network", bound="Container")


class Container(Layer):
    """Layers under names; a subclass says what it computes of them."""

    def __init__(self, layers: tuple[Any, ...]) -> None:
        names: dict[Any, Any] = {str(i): layer for i, layer in enumerate(layers)}
        if len(layers) == 1 and isinstance(layers[0], dict):
            names = layers[0]
        for name, layer in names.items():
            _check_name(name)
            _check_layer(name, layer)
        self._layers = dict(names)
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
            Of the layers' dtype; of another shape where the first layer takes it.
        out : ndarray of the result's shape and dtype, optional
            Where to write the result. It should be writeable and share no memory with the input.

        Returns
        -------
        ndarray of the last layer's shape, for example (N, C_out, L_out) or (C_out, L_out)
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
        x = arrays.operand(input)
        if not self._any_training():
            return self._evaluate(x, out)
        y, kept = self._keeping(x)
        output = y if out is None else _into(out, y, x)
        self._calls.keep(x, output, kept)
        return output

    def _evaluate(self, x: NDArray[Any], out: NDArray[Any] | None) -> NDArray[Any]:
        program = self._program
        if program is None or not program.is_current(Layer._overrides):
            program = self._program = Program(_lowering(self), Layer._overrides)
        if program.by_layer:
            y = self._keeping(x)[0]
            return y if out is None else _into(out, y, x)
        buffers = self._take_buffers(program, x)
        shape = buffers.shapes[program.result]
        y = arrays.new(shape, x.dtype) if out is None else arrays.target(out, shape, True, x)
        program.run(x, buffers, y)
        self._spare[:] = [buffers]
        return arrays.delivered(y, True, out)

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
        return self._backward(
            arrays.operand(grad_output), self._calls.recall(self.training, output)
        )

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
            if isinstance(layer, Container):
                yield from layer._all_layers()

    def _any_training(self) -> bool:
        return self.training or any(layer.training for layer in self._leaves().values())

    def _leaves(self, prefix: str = "") -> dict[str, Any]:
        """Return all layers that are no containers under their keys in a state dict, with a dot."""
        leaves = {}
        for name, layer in self._layers.items():
            if isinstance(layer, Container):
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


class Sequential(Container):
    """Layers one after the other, computed with a few buffers that are used again.

    Parameters
    ----------
    *layers : Conv1d, ConvTranspose1d, any other layer, Sequential or another network
        Or one dict of them, whose keys become the names; otherwise the names are '0', '1', ...

    Raises
    ------
    TypeError
        If a layer is none of these.

    Notes
    -----
    Activations and the additions of `Residual` become steps of the convolutions beside them, and
    in eval mode a `BatchNorm1d` part of the weights of the convolution before it or, where that is
    exact, behind it. `Dropout` and `Identity` are left out. Of layers with several outputs, `LSTM`
    and `GRU`, the first one goes on. What lies between the layers is kept in buffers, two for a
    chain, three where there are residual blocks, each as large as the largest array that it holds.
    They stay for the next call; one of another shape replaces them. In eval mode a network may be
    called from several threads at once: a call that finds the buffers in use allocates its own. The
    result is a new array for each call unless `out` is given.

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
    *layers : Conv1d, ConvTranspose1d, any other layer, Sequential or another network
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


class Mean(Container):
    """The mean of what several layers make of one input.

    Parameters
    ----------
    *branches : Conv1d, ConvTranspose1d, any other layer, Sequential or another network
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


# ---- several values as one -----------------------------------------------------------------------


class _Joint(Container):
    """Branches of one input, whose outputs are joined; without branches, a node of a `Graph`.

    A subclass has `output_shape`, `compute` and `_back_from`, all of several values.
    """

    in_place = copies = folds = swaps_last = False

    def __init__(self, branches: tuple[Any, ...]) -> None:
        super().__init__(branches)
        self._spec = object()

    def output_shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        """Return the shape of the joined value, or raise what is wrong with the values.

        Parameters
        ----------
        shapes : sequence of tuple of int
            Their shapes.
        dtype : numpy.dtype
            Their dtype.

        Returns
        -------
        tuple of int

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import Concat
        >>> Concat().output_shape([(1, 2, 9), (1, 3, 9)], np.dtype(np.float32))
        (1, 5, 9)
        """
        raise NotImplementedError

    def compute(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        """Write the joined value of several.

        Parameters
        ----------
        given : sequence of ndarray
            The values.
        out : ndarray
            Of the result's shape, C-contiguous.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import Concat
        >>> y = np.empty((2, 1))
        >>> Concat().compute([np.array([[1.0]]), np.array([[2.0]])], y)
        >>> y.tolist()
        [[1.0], [2.0]]
        """
        raise NotImplementedError

    def _back_from(self, g: NDArray[Any], given: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        """Return the gradients by the values that were joined."""
        raise NotImplementedError

    def _joined(self, given: Sequence[NDArray[Any]]) -> NDArray[Any]:
        y = arrays.new(self.output_shape([v.shape for v in given], given[0].dtype), given[0].dtype)
        self.compute(given, y)
        return y

    def _join(self, operations: list[Operation], sources: tuple[int, ...], name: str) -> int:
        """Append the operation that joins values; return the result."""
        target = len(operations) + 1
        operations.append(Apply(name, self, sources, target))
        return target

    def _lower(self, operations: list[Operation], source: int, prefix: str) -> int:
        sources = tuple(
            _lower(layer, operations, source, prefix + name) for name, layer in self._layers.items()
        )
        return self._join(operations, sources or (source,), prefix.rstrip("."))

    def _keeping(self, x: NDArray[Any]) -> tuple[NDArray[Any], Any]:
        made = [_keeping(layer, x) for layer in self._layers.values()]
        given = [y for y, _ in made] or [x]
        return self._joined(given), (given, [kept for _, kept in made])

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        given, branches = kept
        gradients = self._back_from(g, given)
        if not branches:
            return gradients[0]
        total, *rest = map(_back, gradients, branches)
        for grad in rest:
            total = total + grad
        return total

    def extra_repr(self) -> str:
        return ""


class Concat(_Joint):
    """What several layers make of one input, one behind the other along the channels.

    Parameters
    ----------
    *branches : Conv1d, ConvTranspose1d, any other layer, Sequential or another network
        Or one dict of them, as for `Sequential`; none in a `Graph`, which joins values of its own.
    dim : int, default -2
        The axis: the channels of (N, C, L) and (C, L).

    Raises
    ------
    TypeError
        If a branch is no layer.
    ValueError
        When called, if the sizes along the other axes differ.

    Notes
    -----
    With `Identity` as its first branch it is the skip connection of a U-Net.

    Examples
    --------
    A U-Net of two levels:

    >>> import numpy as np
    >>> from fastconv1d import Concat, Conv1d, Identity, MaxPool1d, Sequential, Upsample
    >>> inside = Sequential(MaxPool1d(2), Conv1d(4, 4, 3, padding=1), Upsample(scale_factor=2))
    >>> net = Sequential(Conv1d(1, 4, 3, padding=1), Concat(Identity(), inside), Conv1d(8, 1, 1))
    >>> net(np.ones((1, 1, 64), np.float32)).shape
    (1, 1, 64)
    """

    dim = Shaping(as_index)

    def __init__(self, *branches: Any, dim: int = -2) -> None:
        super().__init__(branches)
        self.dim = dim

    def _flow(self, run: Run) -> Flow:
        return PerPosition(run) if self.dim in (1, -2) else super()._flow(run)

    def output_shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        first = shapes[0]
        axis = as_axis("dim", self.dim, first)
        for other in shapes[1:]:
            same = len(other) == len(first) and all(
                a == b for i, (a, b) in enumerate(zip(first, other, strict=True)) if i != axis
            )
            if not same:
                raise ValueError(
                    f"Sizes of tensors must match except in dimension {axis}: got {list(first)} "
                    f"and {list(other)}; the layers of a branch should keep the length"
                )
        return (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])

    def compute(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        np.concatenate(given, axis=self.dim, out=out)

    def _back_from(self, g: NDArray[Any], given: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        check_gradient(
            g, self.output_shape([v.shape for v in given], given[0].dtype), given[0].dtype
        )
        ends = np.cumsum([v.shape[self.dim] for v in given])[:-1]
        return [np.ascontiguousarray(part) for part in np.split(g, ends, axis=self.dim)]

    def extra_repr(self) -> str:
        return "" if self.dim == -2 else f"dim={self.dim}"


class Gate(_Joint):
    """``tanh(a) * sigmoid(b)``: the gated activation of WaveNet.

    Parameters
    ----------
    *branches : two layers or networks, or none
        What makes a and b of the input. Without them a is the first half of the input's channels
        and b the second, or in a `Graph` the two values that it joins.

    Raises
    ------
    TypeError
        If a branch is no layer.
    ValueError
        If there are other than two branches or, when called, if the sizes of a and b differ or the
        number of channels is odd.

    Notes
    -----
    ``a * sigmoid(b)`` is `GLU`.

    References
    ----------
    van den Oord et al., "WaveNet: A Generative Model for Raw Audio", 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import Conv1d, Gate, Residual
    >>> block = Residual(Conv1d(4, 8, 3, padding="causal", dilation=2), Gate(), Conv1d(4, 4, 1))
    >>> block(np.ones((1, 4, 20), np.float32)).shape
    (1, 4, 20)
    """

    def __init__(self, *branches: Any) -> None:
        super().__init__(branches)
        if len(self._layers) not in (0, 2):
            raise ValueError(
                f"a gate should have two branches, or none to halve its input, got {len(self)}"
            )

    def _flow(self, run: Run) -> Flow:
        return PerPosition(run)

    def output_shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        check_real(self, dtype)
        if len(shapes) == 1:
            (shape,) = shapes
            axis = as_axis("dim", -2, shape)
            if shape[axis] % 2:
                raise ValueError(
                    f"Halving dimension must be even, but dimension {axis} is size {shape[axis]}"
                )
            return (*shape[:axis], shape[axis] // 2, *shape[axis + 1 :])
        if len(shapes) != 2 or shapes[0] != shapes[1]:
            sizes = " and ".join(str(list(shape)) for shape in shapes)
            raise ValueError(f"a gate should have two values of one size, got {sizes}")
        return shapes[0]

    @staticmethod
    def _halves(given: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        return np.split(given[0], 2, axis=-2) if len(given) == 1 else given

    def compute(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        a, b = self._halves(given)
        gate(a, b, out, squashed=True)

    def _back_from(self, g: NDArray[Any], given: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        from scipy.special import expit

        a, b = self._halves(given)
        check_gradient(g, a.shape, a.dtype)
        t, s = np.tanh(a), expit(b)
        gradients = [g * s * (1 - t * t), g * t * s * (1 - s)]
        return [np.concatenate(gradients, axis=-2)] if len(given) == 1 else gradients


class Sum(_Joint):
    """The sum of what several layers make of one input.

    Parameters
    ----------
    *branches : Conv1d, ConvTranspose1d, any other layer, Sequential or another network
        Or one dict of them, as for `Sequential`; none in a `Graph`, which adds values of its own.
        Outputs of one size.

    Raises
    ------
    TypeError
        If a branch is no layer.
    ValueError
        When called, if the sizes of the outputs differ.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import Conv1d, Identity, Sum
    >>> Sum(Identity(), Conv1d(4, 4, 3, padding=1))(np.ones((4, 100), np.float32)).shape
    (4, 100)
    """

    def __init__(self, *branches: Any) -> None:
        super().__init__(branches)

    def _combined(self, n: int) -> Combine:
        return Combine("", self, tuple(range(n)), n)

    def _join(self, operations: list[Operation], sources: tuple[int, ...], name: str) -> int:
        """Two at a time, so that each becomes the last step of the convolution that makes it."""
        total = sources[0]
        pairs: list[tuple[int, ...]] = [(source,) for source in sources[1:]]
        for more in pairs or [()]:
            before, total = total, len(operations) + 1
            operations.append(Combine(name, self, (before, *more), total))
        return total

    def output_shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        return self._combined(len(shapes)).shape(shapes, dtype)

    def compute(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        self._combined(len(given)).run(given, out)

    def _back_from(self, g: NDArray[Any], given: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        check_gradient(g, given[0].shape, given[0].dtype)
        return [g] * len(given)


class Graph(Container):
    """Layers under names, each of which says what it reads: any network without loops.

    Parameters
    ----------
    nodes : dict of str to a layer, or to a tuple of a layer and the names that it reads
        In order. A layer alone reads the node before it, the first one 'input'. `Concat`, `Gate`
        and `Sum` without branches join what they read; all others read one value. The last node is
        the output. Names may have dots, as the keys of a torch model's lists of layers have.

    Raises
    ------
    TypeError
        If a node is no layer.
    ValueError
        If a name is unknown, read by nobody or the beginning of another one.

    Notes
    -----
    As `Sequential`, which it may be part of, and whose parts it may have.

    Examples
    --------
    A WaveNet of two layers, whose skip connections are added up:

    >>> import numpy as np
    >>> from fastconv1d import Conv1d, Gate, Graph, ReLU, Sum
    >>> nodes = {"start": Conv1d(1, 4, 1)}
    >>> source = "start"
    >>> for i in range(2):
    ...     nodes[f"dilated.{i}"] = Conv1d(4, 8, 2, padding="causal", dilation=2**i), source
    ...     nodes[f"gate{i}"] = Gate()
    ...     nodes[f"skip.{i}"] = Conv1d(4, 6, 1), f"gate{i}"
    ...     if i < 1:
    ...         nodes[f"residual.{i}"] = Conv1d(4, 4, 1), f"gate{i}"
    ...         nodes[f"sum{i}"] = Sum(), f"residual.{i}", source
    ...         source = f"sum{i}"
    >>> nodes["skips"] = Sum(), "skip.0", "skip.1"
    >>> nodes["relu"], nodes["end"] = ReLU(), Conv1d(6, 1, 1)
    >>> net = Graph(nodes)
    >>> net(np.ones((1, 1, 16), np.float32)).shape
    (1, 1, 16)
    >>> list(net.state_dict())[2:4]
    ['dilated.0.weight', 'dilated.0.bias']
    """

    def __init__(self, nodes: dict[str, Any]) -> None:
        if not isinstance(nodes, dict) or not nodes:
            raise TypeError(
                f"nodes should be a dict of layers, one at least, got {shown(nodes)} of type "
                f"{type(nodes).__name__}"
            )
        super().__init__(())
        self._sources: dict[str, tuple[str, ...]] = {}
        before = "input"
        for name, node in nodes.items():
            layer, *sources = node if isinstance(node, (tuple, list)) else (node,)
            self._add(name, layer, tuple(sources) or (before,))
            before = name
        read = {source for sources in self._sources.values() for source in sources}
        unread = [name for name in self._layers if name not in read and name != before]
        if unread:
            raise ValueError(
                f"every node but the last should be read by another one, got {unread} that are not"
            )

    def _add(self, name: str, layer: Any, sources: tuple[str, ...]) -> None:
        for part in name.split(".") if isinstance(name, str) else [name]:
            _check_name(part)
        clash = [n for n in self._layers if f"{n}.".startswith(f"{name}.")]
        clash += [n for n in self._layers if f"{name}.".startswith(f"{n}.")]
        if clash or name == "input":
            raise ValueError(
                f"the name of a node should not be 'input', nor the beginning of another's, "
                f"got {name!r}" + (f" beside {clash[0]!r}" if clash else "")
            )
        _check_layer(name, layer)
        unknown = [s for s in sources if s != "input" and s not in self._layers]
        if unknown:
            raise ValueError(
                f"node {name} should read 'input' or nodes before it, got {unknown[0]!r}"
            )
        joins = isinstance(layer, _Joint) and not len(layer)
        if len(sources) > 1 and not joins:
            raise ValueError(
                f"node {name} should read one value, got {list(sources)}: Concat(), Gate() and "
                "Sum() join several"
            )
        self._layers[name], self._sources[name] = layer, sources

    def _lower(self, operations: list[Operation], source: int, prefix: str) -> int:
        values = {"input": source}
        for name, layer in self._layers.items():
            read = tuple(values[s] for s in self._sources[name])
            if len(read) > 1:
                values[name] = layer._join(operations, read, prefix + name)
            else:
                values[name] = _lower(layer, operations, read[0], prefix + name)
        return values[name]

    def _keeping(self, x: NDArray[Any]) -> tuple[NDArray[Any], Any]:
        values, kept = {"input": x}, []
        for name, layer in self._layers.items():
            given = [values[s] for s in self._sources[name]]
            if len(given) > 1:
                values[name] = layer._joined(given)
                kept.append(given)
            else:
                values[name], of_layer = _keeping(layer, given[0])
                kept.append(of_layer)
        return values[name], kept

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        names = list(self._layers)
        gradients = {names[-1]: g}
        for name, of_layer in zip(reversed(names), reversed(kept), strict=True):
            sources, by_output = self._sources[name], gradients.pop(name)
            if len(sources) > 1:
                parts = self._layers[name]._back_from(by_output, of_layer)
            else:
                parts = [_back(by_output, of_layer)]
            for source, part in zip(sources, parts, strict=True):
                gradients[source] = gradients[source] + part if source in gradients else part
        return gradients["input"]

    def __repr__(self) -> str:
        text, before = super().__repr__(), "input"
        for name, sources in self._sources.items():
            if sources != (before,):
                text = text.replace(f"\n  ({name}): ", f"\n  ({name} of {', '.join(sources)}): ", 1)
            before = name
        return text


# ---- layer by layer, in train mode: what a call of a layer kept is a pair of the layer and that


def _keeping(layer: Any, x: NDArray[Any]) -> tuple[NDArray[Any], Any]:
    if has_own(layer, "forward", "__call__", "backward"):
        return layer(x), (layer, _OF_ITS_OWN)
    if not layer.training and not isinstance(layer, (Between, Container)):
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


def _into(out: NDArray[Any], y: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """Return `out`, checked, with a result in it."""
    target = arrays.target(out, y.shape, True, x)
    np.copyto(target, y)
    return arrays.delivered(target, True, out)


# ---- in eval mode


def _lowering(network: Container) -> Callable[[], list[Operation]] | None:
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
    if isinstance(layer, Container):
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
    if not isinstance(layer, (Convolution, ActivationLayer, Between, Container)):
        is_list = isinstance(layer, (list, tuple))
        hint = "; a list is unpacked with *: Sequential(*layers)" if is_list else _hint(layer)
        raise TypeError(
            f"layer {name} should be a Conv1d, Conv2d, ConvTranspose1d, another layer or network "
            f"of fastconv1d, got {shown(layer)} of type {type(layer).__name__}{hint}"
        )
    if getattr(layer, "return_indices", False):
        raise ValueError(
            f"layer {name} should have one output in a network, got {type(layer).__name__} with "
            "return_indices=True"
        )


def _lower(layer: Any, operations: list[Operation], source: int, name: str) -> int:
    if has_own(layer, "forward", "__call__"):
        raise TypeError(
            f"layer {name or 'alone'} should compute what its class does here, got "
            f"{type(layer).__name__} with a forward of its own, whose operations are not known"
        )
    if isinstance(layer, Container):
        return layer._lower(operations, source, name + ".")
    target = len(operations) + 1
    if isinstance(layer, Linear):
        operations.append(Dense(name, layer, source, target))
    elif isinstance(layer, (Convolution, ActivationLayer)):
        kind = Convolve if isinstance(layer, Convolution) else Activate
        operations.append(kind(name, layer, source, target))
    else:
        operations.append(Apply(name, layer, (source,), target))
    return target
