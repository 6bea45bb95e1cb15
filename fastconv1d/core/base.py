"""What every layer and network is: two modes, state dicts, gradients, repr."""

from __future__ import annotations

import copy
import difflib
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from . import geometry
from .arrays import widened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from .flow import Flow, Run

_Layer = TypeVar("_Layer", bound="Layer")


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict` did not find in the state, and what it found too much."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Layer:
    """A layer, or a network of layers, in train or eval mode.

    Attributes
    ----------
    training : bool
        Whether calls keep what `backward` needs.
    """

    training = False
    _buffers: ClassVar[tuple[str, ...]] = ()  # of a leaf's arrays those that no gradient changes
    _optional: ClassVar[tuple[str, ...]] = ()  # and those that older state dicts lack
    _overrides = 0  # how often a layer was given a forward of its own: networks look again then

    def _keeping(self, x: NDArray[Any]) -> tuple[NDArray[Any], Any]:
        """Return the output for a batch in train mode, and what `_backward` needs of this call."""
        raise NotImplementedError

    def _backward(self, g: NDArray[Any], kept: Any) -> NDArray[Any]:
        """Add to the gradients by the parameters; return that by the input of a call."""
        raise NotImplementedError

    def _switching(self, mode: bool) -> Iterable[Assignment]:
        """Return what `assign` has to do to come to train or eval mode."""
        return [setting(self, "training", mode)]

    def _leaves(self, prefix: str = "") -> dict[str, Any]:
        """Return all layers that are no networks under the prefixes of their state dict keys."""
        return {prefix: self}

    def _parameters(self) -> dict[str, NDArray[Any]]:
        """Return a leaf's own arrays by name."""
        return {}

    def _replacing(self, parameters: Mapping[str, NDArray[Any]]) -> Iterable[Assignment]:
        """Return what `assign` has to do for new values of some parameters, which are copied."""
        return ()

    def _drop_gradients(self) -> None:
        """Forget a leaf's gradients."""

    def _flow(self, run: Run) -> Flow:
        """Return how a layer that is one operation takes sequences piece by piece.

        `run(given, out)` computes it for whole arrays. A layer whose outputs read what is at their
        position returns ``PerPosition(run)``, one that slides a window ``Windows(...)``.

        Raises
        ------
        ValueError
            If outputs may depend on all of the input.
        """
        raise ValueError(
            "its outputs may depend on the whole sequence, which a stream does not have: apply it "
            "to what the stream of the layers before it has returned"
        )

    def _as_it_is(self: _Layer, made: dict[int, Any]) -> _Layer:
        """Return a copy in eval mode that later assignments to the layer do not change.

        `made` has the copies of layers that occur several times, by their id.
        """
        if id(self) not in made:
            made[id(self)] = self._copy_in_eval(made)
        layer: _Layer = made[id(self)]
        return layer

    def _copy_in_eval(self: _Layer, made: dict[int, Any]) -> _Layer:
        layer = copy.copy(self)
        assign(layer._switching(False))
        return layer

    def train(self: _Layer, mode: bool = True) -> _Layer:
        """Go to train mode, in which calls keep what `backward` needs, or to eval mode.

        Parameters
        ----------
        mode : bool, default True
            False goes to eval mode.

        Returns
        -------
        The layer itself; of a network, all layers change.

        Raises
        ------
        ValueError
            If `mode` is not a bool.

        Notes
        -----
        In train mode the parameters are writable. An input is kept as it is, not copied: it should
        not be changed before `backward`.

        Examples
        --------
        >>> from fastconv1d import Conv1d, Sequential
        >>> layer = Conv1d(1, 1, 1).train()
        >>> layer.weight[:] = 2.0
        >>> Sequential(Conv1d(1, 1, 1)).train()[0].training
        True
        """
        if not isinstance(mode, bool):
            raise ValueError(f"training mode is expected to be boolean, got {geometry.shown(mode)}")
        assign(self._switching(mode))
        return self

    def eval(self: _Layer) -> _Layer:
        """Go to eval mode, that of a new layer: nothing is kept, parameters are read-only.

        Returns
        -------
        The layer itself.

        Notes
        -----
        A layer takes a copy of its parameters, so that arrays obtained in train mode no longer
        change it. In eval mode it may be called from several threads at once.

        Examples
        --------
        >>> from fastconv1d import Conv1d
        >>> layer = Conv1d(1, 1, 1).train().eval()
        >>> layer.weight.flags.writeable
        False
        """
        return self.train(False)

    def zero_grad(self) -> None:
        """Set the gradients by the parameters to None, as before the first `backward`.

        Examples
        --------
        >>> from fastconv1d import Conv1d
        >>> Conv1d(1, 1, 1).zero_grad()
        """
        for leaf in self._leaves().values():
            leaf._drop_gradients()

    def named_parameters(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield the keys and arrays of all parameters, without buffers such as running means.

        Yields
        ------
        tuple of str and ndarray
            The array itself in train mode, in which it may be written to, otherwise a read-only
            view. A layer that occurs several times is there once, as in torch.

        Examples
        --------
        >>> from fastconv1d import BatchNorm1d, Conv1d, Sequential
        >>> net = Sequential(Conv1d(1, 2, 3), BatchNorm1d(2))
        >>> [key for key, array in net.named_parameters()]
        ['0.weight', '0.bias', '1.weight', '1.bias']
        """
        for key, leaf, name in self._own_parameters():
            yield key, getattr(leaf, name)

    def parameters(self) -> Iterator[NDArray[Any]]:
        """Yield the arrays of all parameters, as `named_parameters`.

        Yields
        ------
        ndarray

        Examples
        --------
        >>> from fastconv1d import Conv1d
        >>> sum(array.size for array in Conv1d(4, 8, 3).parameters())
        104
        """
        for _, array in self.named_parameters():
            yield array

    def named_gradients(self) -> Iterator[tuple[str, NDArray[Any] | None]]:
        """Yield the keys of all parameters with the gradients by them, in the same order.

        Yields
        ------
        tuple of str and ndarray or None
            The sum over every `backward` since `zero_grad`; None before the first.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import Conv1d
        >>> layer = Conv1d(1, 1, 1).train()
        >>> y = layer.backward(layer(np.ones((1, 3), np.float32)))
        >>> [key for key, gradient in layer.named_gradients() if gradient is not None]
        ['weight', 'bias']
        """
        for key, leaf, name in self._own_parameters():
            yield key, getattr(leaf, f"{name}_grad", None)

    def _own_parameters(self) -> Iterator[tuple[str, Any, str]]:
        """Yield key, leaf and name of each parameter, of each leaf once."""
        seen = set()
        for prefix, leaf in self._leaves().items():
            if id(leaf) not in seen:
                seen.add(id(leaf))
                for name in leaf._parameters():
                    if name not in leaf._buffers:
                        yield prefix + name, leaf, name

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return copies of the parameters and buffers under torch's keys.

        Returns
        -------
        dict of str to ndarray
            'weight' and 'bias' of a convolution; in a network with the layer's name and a dot
            before.

        Examples
        --------
        >>> from fastconv1d import Conv1d, ReLU, Residual, Sequential
        >>> list(Sequential(ReLU(), Residual(Conv1d(1, 1, 1))).state_dict())
        ['1.0.weight', '1.0.bias']
        """
        return {
            prefix + key: value.copy()
            for prefix, leaf in self._leaves().items()
            for key, value in leaf._parameters().items()
        }

    def load_state_dict(
        self, state_dict: Mapping[str, ArrayLike], strict: bool = True
    ) -> IncompatibleKeys:
        """Copy the parameters out of a dict with torch's keys.

        Parameters
        ----------
        state_dict : mapping of str to array-like
            Values are cast to the layer's dtype, bfloat16 too, but complex ones not to real.
        strict : bool, default True
            Whether missing and unexpected keys are errors.

        Returns
        -------
        IncompatibleKeys
            Named tuple of the lists `missing_keys` and `unexpected_keys`.

        Raises
        ------
        ValueError
            If a shape differs, or with `strict` a key.
        TypeError
            If `state_dict` is not a mapping or a value cannot be cast.

        Notes
        -----
        All parameters are loaded or, whatever is raised, none.

        Examples
        --------
        >>> from fastconv1d import Conv1d
        >>> layer = Conv1d(1, 1, 1)
        >>> layer.load_state_dict({"weight": [[[2.0]]]}, strict=False)
        IncompatibleKeys(missing_keys=['bias'], unexpected_keys=[])
        """
        if not (hasattr(state_dict, "keys") and hasattr(state_dict, "__getitem__")):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
        leaves = self._leaves()
        own = {
            prefix + key: (prefix, key, parameter)
            for prefix, leaf in leaves.items()
            for key, parameter in leaf._parameters().items()
        }
        optional = {prefix + name for prefix, leaf in leaves.items() for name in leaf._optional}
        missing = [key for key in own if key not in state_dict and key not in optional]
        unexpected = [key for key in state_dict if key not in own]
        problems = []
        if strict and missing:
            problems.append(f"Missing key(s) in state_dict: {_quoted(missing)}. ")
        if strict and unexpected:
            problems.append(f"Unexpected key(s) in state_dict: {_quoted(unexpected)}. ")
        if problems:
            problems += _common_prefix(state_dict, own)
        new: dict[str, dict[str, NDArray[Any]]] = {prefix: {} for prefix in leaves}
        for full, (prefix, key, parameter) in own.items():
            if full in state_dict:
                value = _castable(full, state_dict[full], parameter)
                new[prefix][key] = value
                if value.shape != parameter.shape:
                    problems.append(
                        f"size mismatch for {full}: copying a param with shape "
                        f"{list(value.shape)} from checkpoint, the shape in current model is "
                        f"{list(parameter.shape)}."
                    )
        if problems:
            name = type(self).__name__
            raise ValueError(
                f"Error(s) in loading state_dict for {name}:\n\t" + "\n\t".join(problems)
            )
        assign(step for prefix, leaf in leaves.items() for step in leaf._replacing(new[prefix]))
        return IncompatibleKeys(missing, unexpected)

    def __setattr__(self, name: str, value: Any) -> None:
        # not by self.__dict__: the first look at it makes every later access to an attribute slower
        known = name.startswith("_") or hasattr(type(self), name) or hasattr(self, name)
        if not known:
            _refuse_unknown(self, name)
        if name == "forward":
            Layer._overrides += 1
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        """Return the arguments that `repr` shows, as torch's layers do.

        Returns
        -------
        str

        Examples
        --------
        >>> from fastconv1d import Conv1d, LeakyReLU
        >>> Conv1d(16, 33, 3, stride=2).extra_repr()
        '16, 33, kernel_size=(3,), stride=(2,)'
        >>> LeakyReLU(0.5).extra_repr()
        'negative_slope=0.5'
        """
        return ""


def _refuse_unknown(layer: Layer, name: str) -> None:
    """Raise AttributeError for a layer of this library; subclasses have what they like."""
    if not type(layer).__module__.startswith("fastconv1d."):
        return
    known = [other for other in (*dir(type(layer)), *layer.__dict__) if not other.startswith("_")]
    close = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise AttributeError(
        f"{type(layer).__name__} should have no attribute {name!r}, which nothing reads{hint} "
        "(a subclass may have attributes of its own)"
    )


def has_own(layer: Layer, *methods: str) -> bool:
    """Whether one of the methods is not this library's, but a subclass's or the layer's own."""
    found = [vars(layer).get(name, getattr(type(layer), name)) for name in methods]
    return not all(str(method.__module__).startswith("fastconv1d.") for method in found)


class Option:
    """An attribute of a layer that is kept as it is, but checked when it is set."""

    def __init__(self, check: Callable[[str, Any], Any]) -> None:
        self._check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, layer: Any, owner: type | None = None) -> Any:
        return self if layer is None else layer.__dict__[self._name]

    def __set__(self, layer: Any, value: Any) -> None:
        layer.__dict__[self._name] = self._check(self._name, value)


def number(name: str, value: Any) -> float:
    """Return `value` as a float, or raise TypeError."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name} should be a number, got {geometry.shown(value)}")
    return float(value)


# A call of compiled code.
Assignment = partial[None]


def assign(assignments: Iterable[Assignment]) -> None:
    """Do what changes several fields or arrays in one piece.

    Everything is made before the first is done, and between the first and the last no Python code
    runs, therefore no signal's handler: an interrupted call leaves all as it was, or all changed.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from fastconv1d.core.base import assign, setting
    >>> a = SimpleNamespace(x=1, y=2)
    >>> assign([setting(a, "x", 3), setting(a, "y", 4)])
    >>> a
    namespace(x=3, y=4)
    """
    made = tuple(assignments)
    deque(map(partial.__call__, made), maxlen=0)


def setting(owner: object, name: str, value: Any) -> Assignment:
    """Return the assignment of an attribute."""
    return partial(object.__setattr__, owner, name, value)


def writing(array: NDArray[Any], values: NDArray[Any]) -> Assignment:
    """Return the assignment of all elements; not by np.copyto, parts of which are Python code."""
    return partial(np.ndarray.__setitem__, array, ..., values)


def _castable(name: str, value: ArrayLike, current: NDArray[Any]) -> NDArray[Any]:
    new = widened(np.asarray(value))
    if new.dtype.kind not in "iufcb" or not np.can_cast(new.dtype, current.dtype, "same_kind"):
        raise TypeError(
            f"the value of {name} in state_dict should be an array that can be cast to "
            f"{current.dtype}, got {type(value).__name__} of dtype {new.dtype}"
        )
    return new.astype(current.dtype)


def _common_prefix(state_dict: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Return how to take off what all keys begin with, where a layer's own keys are behind it."""
    keys = [*state_dict]
    if not keys or not all(isinstance(key, str) for key in keys):
        return []
    parts = keys[0].split(".")
    for count in range(1, len(parts)):
        prefix = ".".join(parts[:count]) + "."
        if all(key.startswith(prefix) and key[len(prefix) :] in own for key in keys):
            return [
                f"All keys begin with {prefix!r}: "
                f"{{key.removeprefix({prefix!r}): value for key, value in state_dict.items()}} "
                "has them without it."
            ]
    return []


def _quoted(keys: Sequence[object]) -> str:
    return ", ".join(f'"{key}"' for key in keys)
