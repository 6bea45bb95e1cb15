"""The recurrent layers LSTM and GRU, for inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .core import arrays, geometry
from .core.base import assign, number
from .core.between import Parametric
from .core.dense import dense_pack, multiplied
from .core.network import gru_states, in_panels, lstm_states
from .core.parameters import (
    as_size,
    check_device,
    checked_parameter,
    generator,
    parameter_dtype,
    uniform,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from .core.between import Shape
    from .core.convolution import Pack

States = list["NDArray[Any]"]


class _Direction:
    """What one direction of one layer is computed with: its matrices as the kernels take them."""

    def __init__(self, held: dict[str, Any], suffix: str, order: tuple[int, ...]) -> None:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        given = [held.get(f"{name}_{suffix}") for name in names]
        into, back, bias, back_bias = (None if a is None else _ordered(a, order) for a in given[:4])
        assert into is not None and back is not None
        self.hidden = len(back) // len(order)
        self.late = np.zeros(self.hidden, back.dtype)
        if bias is not None and back_bias is not None:
            if len(order) == 3:  # the reset of a GRU multiplies what comes from the last state
                self.late, back_bias = back_bias[-self.hidden :].copy(), back_bias.copy()
                back_bias[-self.hidden :] = 0
            bias = bias + back_bias
        self.inputs = dense_pack(into, bias)
        project = given[4]
        self.projection: Pack | None = None
        if project is None:
            self.panels = in_panels(back)
        else:
            self.back, self.projection = dense_pack(back, None), dense_pack(project, None)


def _ordered(array: NDArray[Any], order: tuple[int, ...]) -> NDArray[Any]:
    """Return the rows of the gates in another order."""
    gates = array.reshape(len(order), -1, *array.shape[1:])
    return gates[list(order)].reshape(array.shape)


class Recurrent(Parametric):
    """What both recurrent layers share."""

    # Where the kernels' gates are among torch's.
    _order: ClassVar[tuple[int, ...]]
    _n_states: ClassVar[int]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        proj_size: int,
        device: str | None,
        dtype: DTypeLike | None,
        rng: np.random.Generator | None,
    ) -> None:
        check_device(device)
        checked = parameter_dtype(dtype, real=True)
        self._sizes = as_size("input_size", input_size), as_size("hidden_size", hidden_size)
        self._projected = geometry.as_index("proj_size", proj_size)
        if not 0 <= self._projected < max(self._sizes[1], 1):
            raise ValueError(
                "proj_size has to be a positive integer, smaller than hidden_size, or zero for no "
                f"projections, got proj_size={proj_size} and hidden_size={hidden_size}"
            )
        if self._sizes[1] < 1:
            raise ValueError(f"hidden_size must be greater than zero, got {hidden_size}")
        self._num_layers = geometry.as_index("num_layers", num_layers)
        if self._num_layers < 1:
            raise ValueError(f"num_layers must be greater than zero, got {num_layers}")
        self._dropout = number("dropout", dropout)
        if not 0 <= self._dropout <= 1:
            raise ValueError(
                "dropout should be a number in range [0, 1] representing the probability of an "
                f"element being zeroed, got dropout={dropout}"
            )
        self._flags = bool(bias), bool(batch_first), bool(bidirectional)
        super().__init__({name: np.zeros(s, checked) for name, s in self._shapes().items()})
        self.reset_parameters(rng)

    def _shapes(self) -> dict[str, Shape]:
        """Return the shapes of all parameters under torch's names, in torch's order."""
        inputs, hidden = self._sizes
        gates, outputs = len(self._order) * hidden, self._projected or hidden
        shapes: dict[str, Shape] = {}
        for layer, suffixes in enumerate(self.suffixes()):
            width = outputs * self._directions if layer else inputs
            for suffix in suffixes:
                shapes[f"weight_ih_{suffix}"] = (gates, width)
                shapes[f"weight_hh_{suffix}"] = (gates, outputs)
                if self.bias:
                    shapes[f"bias_ih_{suffix}"] = shapes[f"bias_hh_{suffix}"] = (gates,)
                if self._projected:
                    shapes[f"weight_hr_{suffix}"] = (self._projected, hidden)
        return shapes

    def suffixes(self) -> list[list[str]]:
        """Return how the names of each layer's parameters end, a list of directions a layer.

        Returns
        -------
        list of lists of str

        Examples
        --------
        >>> from fastconv1d import GRU
        >>> GRU(4, 8, bidirectional=True).suffixes()
        [['l0', 'l0_reverse']]
        """
        count = 2 if self.bidirectional else 1
        return [[f"l{i}", f"l{i}_reverse"][:count] for i in range(self._num_layers)]

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    input_size = property(lambda self: self._sizes[0], doc="The size of an input step.")
    hidden_size = property(lambda self: self._sizes[1], doc="The size of a state.")
    num_layers = property(lambda self: self._num_layers, doc="How many layers follow each other.")
    bias = property(lambda self: self._flags[0], doc="Whether there are biases.")
    batch_first = property(lambda self: self._flags[1], doc="Whether the batch is the first axis.")
    bidirectional = property(lambda self: self._flags[2], doc="Whether both directions are run.")
    dropout = property(lambda self: self._dropout, doc="The dropout between layers in training.")

    def __getattr__(self, name: str) -> Any:
        held = self.__dict__.get("_held", {})
        if name not in held:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return held[name] if self.training else held[name].view()

    def __setattr__(self, name: str, value: Any) -> None:
        held = self.__dict__.get("_held", {})
        if name in held:
            assign(self._replacing({name: checked_parameter(name, value, held[name])}))
        else:
            super().__setattr__(name, value)

    def reset_parameters(self, rng: np.random.Generator | None = None) -> None:
        """Draw all parameters from U(-sqrt(k), sqrt(k)), ``k = 1/hidden_size``, as torch.

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
        >>> from fastconv1d import GRU
        >>> GRU(4, 16).reset_parameters()
        """
        rng, bound = generator(rng), self.hidden_size**-0.5
        new = {name: uniform(rng, bound, like) for name, like in self._parameters().items()}
        assign(self._replacing(new))

    def output_shape(self, shapes: Sequence[Shape], dtype: np.dtype[Any]) -> Shape:
        (shape,) = shapes
        self._check_dtype(dtype)
        name = type(self).__name__
        if len(shape) not in (2, 3):
            raise ValueError(f"{name}: Expected input to be 2D or 3D, got {len(shape)}D instead")
        if shape[-1] != self.input_size:
            raise ValueError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got "
                f"{shape[-1]}: (N, C, L) becomes steps of C numbers with Transpose(1, 2)"
            )
        steps = shape[1] if len(shape) == 3 and self.batch_first else shape[0]
        if steps == 0:
            raise ValueError(
                f"Expected sequence length to be larger than 0 in RNN, got input size {list(shape)}"
            )
        if self.training and self.dropout and self.num_layers > 1:
            raise RuntimeError(
                f"{name} is for inference and has no dropout: call eval(), "
                f"got a layer in train mode with dropout={self.dropout}"
            )
        return (*shape[:-1], self._directions * (self._projected or self.hidden_size))

    def compute(self, given: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
        self._run(given[0], None, out)

    def _stacked(self) -> list[_Direction]:
        """Return the directions of all layers, in the order of the states."""
        return [
            _Direction(self._held, suffix, self._order)
            for suffixes in self.suffixes()
            for suffix in suffixes
        ]

    def _run(self, x: NDArray[Any], states: States | None, out: NDArray[Any]) -> States:
        """Write the output of the last layer; return the last states of all."""
        batched = x.ndim == 3
        if not batched:
            x, out = x[:, np.newaxis], out[:, np.newaxis]
        elif self.batch_first:
            x, out = x.swapaxes(0, 1), out.swapaxes(0, 1)
        directions = self._derived(self._stacked)
        start = self._start(states, x.shape[1], x.dtype)
        ends: list[States] = []
        for layer in range(self.num_layers):
            parts = []
            for i in range(self._directions):
                place = layer * self._directions + i
                steps = x[::-1] if i else x
                y, last = self._walk(directions[place], steps, [s[place] for s in start])
                parts.append(y[::-1] if i else y)
                ends.append(last)
            x = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
        np.copyto(out, x)
        return [np.stack(each) for each in zip(*ends, strict=True)]

    def _walk(self, direction: _Direction, x: NDArray[Any], states: States) -> Any:
        """Return the outputs and last states of one direction."""
        raise NotImplementedError

    def _start(self, states: States | None, batch: int, dtype: np.dtype[Any]) -> States:
        if states is not None:
            return states
        shapes = self._state_shapes(batch)
        return [np.zeros(shape, dtype) for shape in shapes]

    def _state_shapes(self, batch: int) -> list[Shape]:
        count = self.num_layers * self._directions
        sizes = (self._projected or self.hidden_size, self.hidden_size)[: self._n_states]
        return [(count, batch, size) for size in sizes]

    def _with_states(
        self, input: ArrayLike, given: Sequence[ArrayLike] | None, out: NDArray[Any] | None
    ) -> tuple[NDArray[Any], States]:
        x = arrays.operand(input)
        shape = self.output_shape([x.shape], x.dtype)
        batched = x.ndim == 3
        batch = x.shape[0 if self.batch_first else 1] if batched else 1
        states = None
        if given is not None:
            states = [
                self._checked_state(i, arrays.operand(s), expected, batched, x.dtype)
                for i, (s, expected) in enumerate(
                    zip(given, self._state_shapes(batch), strict=True)
                )
            ]
        if out is None:
            y = arrays.new(shape, x.dtype)
        else:
            y = arrays.target(out, shape, True, x)
        ends = self._run(x, states, y)
        if not batched:
            ends = [end[:, 0] for end in ends]
        return arrays.delivered(y, True, out), ends

    def _checked_state(
        self, i: int, state: NDArray[Any], shape: Shape, batched: bool, dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        expected = shape if batched else (shape[0], shape[2])
        if state.shape != expected:
            raise ValueError(f"Expected hidden[{i}] size {list(expected)}, got {list(state.shape)}")
        if state.dtype != dtype:
            raise TypeError(
                f"Input type ({dtype}) and hidden type ({state.dtype}) should be the same"
            )
        return state if batched else state[:, np.newaxis]

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        if self._projected:
            text += f", proj_size={self._projected}"
        if self.num_layers != 1:
            text += f", num_layers={self.num_layers}"
        if not self.bias:
            text += ", bias=False"
        if self.batch_first:
            text += ", batch_first=True"
        if self.dropout:
            text += f", dropout={self.dropout}"
        if self.bidirectional:
            text += ", bidirectional=True"
        return text


class LSTM(Recurrent):
    """Long short-term memory, as ``torch.nn.LSTM``, for inference.

    Parameters
    ----------
    input_size : int
        Size F of an input step.
    hidden_size : int
        Size H of a state.
    num_layers : int, default 1
        Layers that follow each other.
    bias : bool, default True
        Whether there are biases.
    batch_first : bool, default False
        Whether input and output are (N, T, F) rather than (T, N, F).
    dropout : float, default 0.0
        Dropout between the layers in training, which there is none of here.
    bidirectional : bool, default False
        Whether a second direction runs from the last step to the first.
    proj_size : int, default 0
        Size of the projected states, or 0.
    device : None or 'cpu'
        For torch's argument order.
    dtype : dtype, default float32
        float32 or float64.
    rng : numpy.random.Generator, optional
        Where the initial parameters come from.

    Attributes
    ----------
    weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, weight_hr_l0, ... : ndarray
        The parameters under torch's names.

    Notes
    -----
    A call returns ``output, (h_n, c_n)``; a network takes the output. The bits of an item do not
    depend on the others.

    References
    ----------
    ``torch.nn.LSTM``: https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import LSTM
    >>> layer = LSTM(4, 8, batch_first=True, bidirectional=True)
    >>> output, (h_n, c_n) = layer(np.zeros((2, 10, 4), np.float32))
    >>> output.shape, h_n.shape
    ((2, 10, 16), (2, 2, 8))
    """

    _order = (0, 3, 1, 2)  # input, output, forget, new of torch's input, forget, new, output
    _n_states = 2

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: str | None = None,
        dtype: DTypeLike | None = None,
        *,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device,
            dtype,
            rng,
        )

    @property
    def proj_size(self) -> int:
        """The size of the projected states, or 0."""
        return self._projected

    def _walk(self, direction: _Direction, x: NDArray[Any], states: States) -> Any:
        gates = multiplied(direction.inputs, x)
        if direction.projection is None:
            return lstm_states(gates, direction.panels, *states)
        return _projected_states(direction, direction.projection, gates, *states)

    def forward(  # type: ignore[override]
        self,
        input: ArrayLike,
        hx: tuple[ArrayLike, ArrayLike] | None = None,
        *,
        out: NDArray[Any] | None = None,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], NDArray[Any]]]:
        """Return the states of the last layer after all steps, and the last states of all layers.

        Parameters
        ----------
        input : ndarray of shape (T, N, F), with `batch_first` (N, T, F), or (T, F)
        hx : tuple of two ndarrays, optional
            The initial states h_0 and c_0 of shape (layers and directions, N, H), by default zeros.
        out : ndarray of the output's shape and dtype, optional
            Where to write the output.

        Returns
        -------
        output : ndarray
        (h_n, c_n) : tuple of two ndarrays

        Raises
        ------
        ValueError, TypeError
            If shapes or dtypes do not fit.
        RuntimeError
            In train mode with dropout.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import LSTM
        >>> layer = LSTM(4, 8)
        >>> state = np.zeros((1, 2, 8), np.float32)
        >>> output, (h_n, c_n) = layer(np.zeros((10, 2, 4), np.float32), (state, state))
        >>> bool((output[-1] == h_n[0]).all())
        True
        """
        if hx is not None and (not isinstance(hx, (tuple, list)) or len(hx) != 2):
            raise TypeError(f"hx should be a tuple (h_0, c_0), got {geometry.shown(hx)}")
        y, (h_n, c_n) = self._with_states(input, hx, out)
        return y, (h_n, c_n)

    def __call__(  # type: ignore[override]
        self,
        input: ArrayLike,
        hx: tuple[ArrayLike, ArrayLike] | None = None,
        *,
        out: NDArray[Any] | None = None,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], NDArray[Any]]]:
        """Return ``forward(input, hx, out=out)``."""
        return self.forward(input, hx, out=out)


def _projected_states(
    direction: _Direction,
    projection: Pack,
    gates: NDArray[Any],
    state: NDArray[Any],
    cell: NDArray[Any],
) -> tuple[NDArray[Any], States]:
    """Return all projected states of an LSTM, and the last state and cell."""
    from scipy.special import expit

    outputs = np.empty((*gates.shape[:2], state.shape[1]), gates.dtype)
    for t, gate in enumerate(gates):
        total = gate + multiplied(direction.back, state)
        enter, leave, keep, new = np.split(total, 4, axis=1)
        cell = expit(keep) * cell + expit(enter) * np.tanh(new)
        state = outputs[t] = multiplied(projection, expit(leave) * np.tanh(cell))
    return outputs, [state, cell]


class GRU(Recurrent):
    """Gated recurrent units, as ``torch.nn.GRU``, for inference.

    Parameters
    ----------
    input_size : int
        Size F of an input step.
    hidden_size : int
        Size H of a state.
    num_layers : int, default 1
        Layers that follow each other.
    bias : bool, default True
        Whether there are biases.
    batch_first : bool, default False
        Whether input and output are (N, T, F) rather than (T, N, F).
    dropout : float, default 0.0
        Dropout between the layers in training, which there is none of here.
    bidirectional : bool, default False
        Whether a second direction runs from the last step to the first.
    device : None or 'cpu'
        For torch's argument order.
    dtype : dtype, default float32
        float32 or float64.
    rng : numpy.random.Generator, optional
        Where the initial parameters come from.

    Attributes
    ----------
    weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, ... : ndarray
        The parameters under torch's names.

    Notes
    -----
    A call returns ``output, h_n``; a network takes the output. The bits of an item do not depend on
    the others.

    References
    ----------
    ``torch.nn.GRU``: https://docs.pytorch.org/docs/stable/generated/torch.nn.GRU.html

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import GRU
    >>> output, h_n = GRU(4, 8, num_layers=2)(np.zeros((10, 2, 4), np.float32))
    >>> output.shape, h_n.shape
    ((10, 2, 8), (2, 2, 8))
    """

    _order = (1, 0, 2)  # update, reset, new of torch's reset, update, new
    _n_states = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: str | None = None,
        dtype: DTypeLike | None = None,
        *,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            0,
            device,
            dtype,
            rng,
        )

    def _walk(self, direction: _Direction, x: NDArray[Any], states: States) -> Any:
        gates = multiplied(direction.inputs, x)
        return gru_states(gates, direction.panels, direction.late, states[0])

    def forward(  # type: ignore[override]
        self,
        input: ArrayLike,
        hx: ArrayLike | None = None,
        *,
        out: NDArray[Any] | None = None,
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the states of the last layer after all steps, and the last states of all layers.

        Parameters
        ----------
        input : ndarray of shape (T, N, F), with `batch_first` (N, T, F), or (T, F)
        hx : ndarray of shape (layers and directions, N, H), optional
            The initial states, by default zeros.
        out : ndarray of the output's shape and dtype, optional
            Where to write the output.

        Returns
        -------
        output : ndarray
        h_n : ndarray

        Raises
        ------
        ValueError, TypeError
            If shapes or dtypes do not fit.
        RuntimeError
            In train mode with dropout.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import GRU
        >>> output, h_n = GRU(4, 8)(np.zeros((10, 4), np.float32), np.ones((1, 8), np.float32))
        >>> output.shape
        (10, 8)
        """
        y, (h_n,) = self._with_states(input, None if hx is None else [hx], out)
        return y, h_n

    def __call__(  # type: ignore[override]
        self,
        input: ArrayLike,
        hx: ArrayLike | None = None,
        *,
        out: NDArray[Any] | None = None,
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return ``forward(input, hx, out=out)``."""
        return self.forward(input, hx, out=out)
