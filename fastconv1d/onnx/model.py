"""The callable that a model becomes."""

from __future__ import annotations

import contextlib
import os
from time import perf_counter
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray

from .. import config
from ..kernels.memory import enter, leave
from .program import Program
from .read import Graph, Type, load, read_model
from .registry import OnnxError
from .rest import checked
from .ways import ALONE, WHOLE, Ways


class OnnxModel:
    """A graph as a function of its inputs; `from_onnx` makes it.

    It may be called by several threads at a time.

    Parameters
    ----------
    graph : Graph
        As `read_model` returns it.
    rest : 'onnxruntime', optional
        As `from_onnx` takes it.
    whole : onnx.ModelProto, optional
        What the graph was read from, for ONNX Runtime where that is faster.
    algorithm : {'auto', 'fast'}
        As `from_onnx` takes it.

    Attributes
    ----------
    inputs, outputs : list of str
        Their names in the graph.

    Raises
    ------
    OnnxError
        If nodes cannot be computed here; the text names all of them.

    Examples
    --------
    >>> from fastconv1d import Conv1d
    >>> from fastconv1d.onnx import from_onnx, to_onnx
    >>> model = from_onnx(to_onnx(Conv1d(4, 8, 3)))
    >>> model
    OnnxModel(input: float32 [N, 4, L] -> output: float32 [N, 8, ?])
    """

    def __init__(
        self,
        graph: Graph,
        rest: str | None = None,
        whole: Any = None,
        algorithm: str = "auto",
    ) -> None:
        with config.algorithm(algorithm):  # which says what it may be
            self._algorithm = algorithm
        self.inputs, self.outputs = [*graph.inputs], [*graph.outputs]
        self._types = {name: graph.types.get(name, Type()) for name in self.inputs + self.outputs}
        self._program = Program(graph, rest)
        self._steps = self._program.steps
        self._ways: Ways | None = None
        if rest is not None and whole is not None:
            self._ways = Ways(whole, self._program, lambda: Program(read_model(whole)))

    def __repr__(self) -> str:
        def named(names: list[str]) -> str:
            return ", ".join(f"{name}{_shown(self._types[name])}" for name in names)

        return f"OnnxModel({named(self.inputs)} -> {named(self.outputs)})"

    def __call__(self, *inputs: ArrayLike, out: Any = None) -> Any:
        """Compute the outputs.

        Parameters
        ----------
        *inputs : array_like
            In the order of `inputs`.
        out : ndarray or sequence of ndarray, optional
            Where to write the outputs, in the order of `outputs`; None where one is to be new.

        Returns
        -------
        ndarray, or tuple of ndarray where the graph has several outputs
            New arrays, or those of `out`.

        Raises
        ------
        ValueError, TypeError
            If the number of inputs is wrong, or a node does not take its input; the text names it.
        """
        if len(inputs) != len(self.inputs):
            raise ValueError(f"the graph takes the inputs {self.inputs}, got {len(inputs)}")
        values = {name: as_value(v) for name, v in zip(self.inputs, inputs, strict=True)}
        found = self.compute(values, self.outputs)
        targets = [out] if isinstance(out, np.ndarray) else out
        if targets is not None:
            found = _written(found, [*targets], self.outputs)
        return found[0] if len(found) == 1 else tuple(found)

    def _default(self) -> contextlib.AbstractContextManager[None]:
        """What layers take for their algorithm: the default of the caller unless it is 'fast'."""
        fast = self._algorithm == "fast"
        return config.algorithm("fast") if fast else contextlib.nullcontext()

    def compute(self, values: dict[str, NDArray[Any]], wanted: list[str]) -> list[NDArray[Any]]:
        """Return some outputs for inputs under their names.

        Parameters
        ----------
        values : dict of str to ndarray
            All inputs; the dict itself is left as it is.
        wanted : list of str
            Names of outputs.

        Returns
        -------
        list of ndarray
            That share no memory with the inputs, nor with each other.

        Raises
        ------
        ValueError, TypeError
            If an input has not the declared size, or a node does not take its input.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import Conv1d
        >>> from fastconv1d.onnx import from_onnx, to_onnx
        >>> model = from_onnx(to_onnx(Conv1d(4, 8, 3)))
        >>> [y] = model.compute({"input": np.ones((1, 4, 9), np.float32)}, ["output"])
        >>> y.shape
        (1, 8, 7)
        """
        arrays = [values[name] for name in self.inputs]
        program, ways = self._program, self._ways
        key = program.key(arrays)
        if not program.knows(key):
            for name, array in zip(self.inputs, arrays, strict=True):
                _check_shape(name, array, self._types[name])
        elif ways is not None:
            return self._by_ways(ways, key, values, arrays, wanted)
        return self._computed(program, key, arrays, wanted)

    def _by_ways(
        self, ways: Ways, key: Any, values: dict[str, Any], arrays: list[Any], wanted: list[str]
    ) -> list[Any]:
        """Return the outputs by the way for these shapes, or by the next one to be tried."""
        way, begin = ways.way(key), perf_counter()
        if way == WHOLE:
            try:
                found = ways.session().run(wanted, values)
            except Exception as error:
                raise ValueError(f"ONNX Runtime: {str(error)[:300]}") from error
        else:
            program = ways.alone() if way == ALONE else self._program
            assert program is not None
            found = self._computed(program, program.key(arrays), arrays, wanted)
        ways.timed(key, way, begin)
        return found

    def _computed(
        self, program: Program, key: Any, arrays: list[Any], wanted: list[str]
    ) -> list[Any]:
        before = enter()
        try:
            with np.errstate(all="ignore"), self._default():
                results = program.run(arrays, key)
        finally:
            leave(before)
        if wanted != self.outputs:
            by_name = dict(zip(self.outputs, results, strict=True))
            results = [by_name[name] for name in wanted]
        return _owned(results, arrays)


def _owned(results: list[Any], inputs: list[Any]) -> list[Any]:
    """Return the results, copied where they share memory with an input, a constant or another."""
    taken = [_root(array) for array in inputs if isinstance(array, np.ndarray)]
    found: list[Any] = []
    for value in results:
        if isinstance(value, list):  # a sequence
            found.append([np.array(part) for part in value])
            continue
        array = np.asarray(value)
        root = _root(array)
        shared = any(root is other for other in taken)
        if root.base is not None:  # owned by what is no array
            shared = shared or any(np.may_share_memory(root, other) for other in taken)
        if shared or not array.flags.writeable:
            array = root = np.array(array)
        taken.append(root)
        found.append(array)
    return found


def _root(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array that owns the memory, or the last one that is known."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def as_value(value: Any) -> Any:
    """Return an input as an array; a list of arrays is a sequence."""
    if isinstance(value, list) and value and all(isinstance(v, np.ndarray) for v in value):
        return value
    return np.asarray(value)


def _shown(known: Type) -> str:
    """Return what is known of a value, as it follows its name."""
    dtype = "" if known.dtype is None else f" {known.dtype}"
    shape = ""
    if known.shape is not None:
        sizes = ("?" if n is None or str(n).startswith("unk__") else str(n) for n in known.shape)
        shape = f" [{', '.join(sizes)}]"
    return f":{dtype}{shape}" if dtype or shape else ""


def _check_shape(name: str, value: Any, kind: Type) -> None:
    """Raise if an input has not the size that the graph was lowered for."""
    shape = kind.shape
    if shape is None or (
        len(shape) == value.ndim
        and all(
            not isinstance(size, int) or size == n
            for size, n in zip(shape, value.shape, strict=True)
        )
    ):
        return
    raise ValueError(f"the input {name!r} should have the size {[*shape]}, got {list(value.shape)}")


def _written(found: list[NDArray[Any]], targets: list[Any], names: list[str]) -> list[NDArray[Any]]:
    if len(targets) != len(found):
        raise ValueError(f"out should have {len(found)} arrays, for {names}, got {len(targets)}")
    for name, array, target in zip(names, found, targets, strict=True):
        if target is None:
            continue
        if not isinstance(target, np.ndarray):
            raise TypeError(f"out should be an ndarray, got {type(target).__name__}")
        if target.shape != array.shape or target.dtype != array.dtype:
            raise ValueError(
                f"out for {name!r} should be an array of size {list(array.shape)} and dtype "
                f"{array.dtype}, got {list(target.shape)} and {target.dtype}"
            )
    kept = []
    for array, target in zip(found, targets, strict=True):
        if target is not None:
            np.copyto(target, array)
        kept.append(array if target is None else target)
    return kept


def from_onnx(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    *,
    rest: str | None = None,
    algorithm: str = "auto",
) -> OnnxModel:
    """Read an ONNX model of convolutions and what lies between them.

    Parameters
    ----------
    model : str, os.PathLike, bytes or onnx.ModelProto
        A path, or what such a file holds. Data in other files are found from a path alone.
    rest : 'onnxruntime', optional
        Compute with ONNX Runtime what does not surround a convolution: for models that are half
        transformer, or that hold operators which this library has not. After a first call, the
        next ones of the same shapes go through that, through one session of the whole model, and
        through this library alone, in turns; from then on they go the way that was fastest. In
        deterministic mode a rule by sizes decides. The sessions take the number of threads that
        `fastconv1d.get_num_threads` gives now.
    algorithm : {'auto', 'fast'}, default 'auto'
        With 'fast' the convolutions take fewer multiplications where that takes less time, as under
        ``config.algorithm("fast")``: their error and bits are those of `fastconv1d.Conv1d` with
        ``algorithm="fast"``.

    Returns
    -------
    OnnxModel
        A callable with the graph's inputs and outputs.

    Raises
    ------
    OnnxError
        A ValueError: if the model is not valid, or nodes or attributes are not supported; the text
        names all of them. Or if `rest` needs a package that is not installed.
    ValueError
        If `rest` or `algorithm` is another value.
    OSError
        If the file cannot be read.

    Notes
    -----
    The graph is lowered once: what depends on constants alone is computed; weights are packed;
    norms, paddings, activations and additions beside a convolution become part of it; element-wise
    nodes that follow each other are computed block by block.

    References
    ----------
    https://onnx.ai/onnx/operators/

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import Conv1d, ReLU, Sequential
    >>> from fastconv1d.onnx import from_onnx, to_onnx
    >>> net = Sequential(Conv1d(2, 3, 5, padding=2), ReLU())
    >>> model = from_onnx(to_onnx(net))
    >>> x = np.ones((1, 2, 100), np.float32)
    >>> bool((model(x) == net(x)).all())
    True
    """
    rest = checked(rest)
    proto = load(model)
    try:
        return OnnxModel(read_model(proto), rest, proto, algorithm)
    except RecursionError as error:
        raise OnnxError("the bodies of its nodes are nested too deeply") from error
