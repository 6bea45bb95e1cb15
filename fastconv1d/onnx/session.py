"""ONNX Runtime's interface over this library."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import onnx
from numpy.typing import ArrayLike, NDArray

from .model import OnnxModel, as_value, from_onnx
from .read import Type
from .ways import WHOLE, Ways

# So many sets of shapes are known to be those of one session or not.
_MOST_SHAPES = 64

_TYPES = {
    "float32": "float",
    "float64": "double",
    "complex64": "complex64",
    "complex128": "complex128",
    "object": "string",
}


class NodeArg(NamedTuple):
    """An input or output as ONNX Runtime describes it.

    Attributes
    ----------
    name : str
    shape : list
        Integers; names, or None, where the size is not fixed.
    type : str
        Such as 'tensor(float)'.
    """

    name: str
    shape: list[int | str | None] | None
    type: str


class InferenceSession:
    """A model with the interface of ``onnxruntime.InferenceSession``.

    Parameters
    ----------
    path_or_bytes : str, os.PathLike, bytes or onnx.ModelProto
        As `from_onnx` takes it.
    sess_options, providers, provider_options : optional
        Accepted and ignored, for code that was written for ONNX Runtime; so are other keywords.
    rest : 'onnxruntime', optional
        As `from_onnx` takes it.

    Raises
    ------
    OnnxError, OSError
        As `from_onnx`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import Conv1d
    >>> from fastconv1d.onnx import InferenceSession, to_onnx
    >>> session = InferenceSession(to_onnx(Conv1d(4, 8, 3)).SerializeToString())
    >>> session.get_inputs()[0]
    NodeArg(name='input', shape=['N', 4, 'L'], type='tensor(float)')
    >>> [y] = session.run(None, {"input": np.ones((1, 4, 9), np.float32)})
    >>> y.shape
    (1, 8, 7)
    """

    def __init__(
        self,
        path_or_bytes: str | os.PathLike[str] | bytes | onnx.ModelProto,
        sess_options: Any = None,
        providers: Any = None,
        provider_options: Any = None,
        *,
        rest: str | None = None,
        **ignored: Any,
    ) -> None:
        self._model: OnnxModel = from_onnx(path_or_bytes, rest=rest)
        ways = self._model._ways
        # by inputs' names, shapes and dtypes; by None for lists of numbers
        self._sessions: dict[Any, Any] = {}
        if ways is not None and not ways.gains:
            self._sessions[None] = ways.session()
        self._inputs, self._outputs = {*self._model.inputs}, {*self._model.outputs}

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, ArrayLike],
        run_options: Any = None,
    ) -> list[NDArray[Any]]:
        """Compute outputs.

        Parameters
        ----------
        output_names : sequence of str or None
            None, or an empty one, for all.
        input_feed : mapping of str to array_like
            Every input under its name.
        run_options : optional
            Ignored.

        Returns
        -------
        list of ndarray

        Raises
        ------
        ValueError, TypeError
            If a name is missing or unknown, or a node does not take its input.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import Conv1d
        >>> from fastconv1d.onnx import InferenceSession, to_onnx
        >>> session = InferenceSession(to_onnx(Conv1d(4, 8, 3)))
        >>> session.run(["output"], {"input": np.ones((1, 4, 9), np.float32)})[0].shape
        (1, 8, 7)
        """
        model = self._model
        if self._sessions:  # nothing but ONNX Runtime's own time where it computes a whole model
            session = self._sessions.get(_shapes(input_feed))
            if session is not None:
                try:
                    return session.run(output_names or None, input_feed)
                except Exception:  # what is wrong is said below
                    pass
        wanted = [*(output_names or model.outputs)]
        if input_feed.keys() == self._inputs and self._outputs.issuperset(wanted):
            found = model.compute({k: as_value(v) for k, v in input_feed.items()}, wanted)
            if model._ways is not None:
                self._note(model._ways, input_feed)
            return found
        unknown = [name for name in wanted if name not in model.outputs]
        unknown += [name for name in input_feed if name not in model.inputs]
        missing = [name for name in model.inputs if name not in input_feed]
        raise ValueError(
            f"the graph has the inputs {model.inputs} and outputs {model.outputs}; "
            f"missing are {missing}, unknown {unknown}"
        )

    def _note(self, ways: Ways, feed: Mapping[str, ArrayLike]) -> None:
        """Remember the session of the whole model where inputs like these are computed by it."""
        shapes = _shapes(feed)
        if shapes is None or shapes in self._sessions:
            return
        key = self._model._program.key([feed[name] for name in self._model.inputs])
        way = ways.chosen(key)
        if way is not None:
            others = [*self._sessions.items()][1 - _MOST_SHAPES :]
            self._sessions = {**dict(others), shapes: ways.session() if way == WHOLE else None}

    def get_inputs(self) -> list[NodeArg]:
        """Return the inputs: their names, shapes and types.

        Returns
        -------
        list of NodeArg

        Examples
        --------
        >>> from fastconv1d import Conv1d
        >>> from fastconv1d.onnx import InferenceSession, to_onnx
        >>> [entry.name for entry in InferenceSession(to_onnx(Conv1d(4, 8, 3))).get_inputs()]
        ['input']
        """
        return [_argument(name, self._model._types[name]) for name in self._model.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """Return the outputs: their names, shapes and types.

        Returns
        -------
        list of NodeArg

        Examples
        --------
        >>> from fastconv1d import Conv1d
        >>> from fastconv1d.onnx import InferenceSession, to_onnx
        >>> [entry.name for entry in InferenceSession(to_onnx(Conv1d(4, 8, 3))).get_outputs()]
        ['output']
        """
        return [_argument(name, self._model._types[name]) for name in self._model.outputs]


def _shapes(feed: Mapping[str, Any]) -> Any:
    """Return what inputs that go the same way have in common; None if not all are arrays."""
    try:
        return tuple([(name, value.shape, value.dtype) for name, value in feed.items()])
    except AttributeError:
        return None


def _argument(name: str, kind: Type) -> NodeArg:
    dtype = "undefined" if kind.dtype is None else kind.dtype.name
    shape = None if kind.shape is None else [*kind.shape]
    return NodeArg(name, shape, f"tensor({_TYPES.get(dtype, dtype)})")
