"""A graph as operations on numbered values, where it is nothing but layers along the positions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.program import Activate as Apply
from ..core.program import Combine, Convolve, Operation
from .layers import Activate, Convolution, activated, layer_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..core.activations import Activation
    from .model import OnnxModel
    from .program import Step


def operations_of(model: OnnxModel) -> list[Operation] | None:
    """Return what computes a model from pieces of its input; None where a node may need all of it.

    Examples
    --------
    >>> from fastconv1d import Conv1d, Residual, ReLU, Sequential
    >>> from fastconv1d.onnx import from_onnx, to_onnx
    >>> from fastconv1d.onnx.pieces import operations_of
    >>> net = Sequential(Conv1d(2, 2, 3), Residual(ReLU(), Conv1d(2, 2, 3, padding=1)))
    >>> [type(op).__name__ for op in operations_of(from_onnx(to_onnx(net)))]
    ['Convolve', 'Convolve']
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        return None
    values = {model.inputs[0]: 0}
    operations: list[Operation] = []
    for step in model._steps:
        sources = tuple(values.get(name, -1) for name in step.inputs)
        operation = None if -1 in sources else _operation(step, sources, len(operations) + 1)
        if operation is None:
            return None
        operations.append(operation)
        values[step.outputs[0]] = operation.target
    return operations if values.get(model.outputs[0]) == len(operations) else None


def _operation(step: Step, sources: tuple[int, ...], target: int) -> Operation | None:
    node, name = step.node, str(step.node)
    if isinstance(node, Convolution):
        layer = layer_of(node)
        if layer is None:
            return None
        convolve = Convolve(name, layer, sources[0], target)
        convolve.sources = sources
        return convolve if convolve.rank == 1 else None
    if isinstance(node, Activate):
        return Apply(name, _Element(node.activation), sources[0], target)
    if (node.op, node.domain, len(sources)) == ("Add", "", 2):
        return Combine(name, SimpleNamespace(residual_scale=1.0), sources, target)
    return None


class _Element:
    """An element-wise node as `Apply` takes it."""

    def __init__(self, activation: Activation) -> None:
        self.activation = activation

    def check(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Nothing is wrong with any input."""

    def apply(self, x: NDArray[Any], out: NDArray[Any]) -> None:
        np.copyto(out, activated(self.activation, x))
