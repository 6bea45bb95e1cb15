"""The libraries that are timed: each prepares a layer once and returns a call to time.

A contestant has ``name``, ``version``, ``prepare(problem, backward)``, which returns a callable
without arguments, and ``arrays(result)``, which turns what that callable returns into a tuple of
ndarrays.  Weights, graphs and input conversions belong to ``prepare``: the call is what a user of
that library runs for each new input.
"""

import argparse
import importlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Protocol

import numpy as np

from .layers import Layer, Problem

PEER_NAMES = ("torch", "onnxruntime", "openvino")


class Contestant(Protocol):
    """What the benchmark needs of a library."""

    name: str
    version: str

    def prepare(self, problem: Problem, backward: bool) -> Callable[[], Any]: ...

    def arrays(self, result: Any) -> tuple[np.ndarray, ...]: ...


class Fastconv1d:
    """A module in eval mode, or the functional gradients."""

    name = "fastconv1d"

    def __init__(self, algorithm: str = "auto") -> None:
        import fastconv1d

        self._library = fastconv1d
        self._options: dict[str, Any] = {} if algorithm == "auto" else {"algorithm": algorithm}
        self.version = f"fastconv1d {getattr(fastconv1d, '__version__', 'unknown')}"

    def prepare(self, problem: Problem, backward: bool) -> Callable[[], Any]:
        layer = problem.layer
        if backward:
            return self._backward(problem)
        kind: Any = self._library.ConvTranspose1d if layer.transposed else self._library.Conv1d
        module = kind(**_module_sizes(layer), dtype=problem.x.dtype, **self._options)
        module.load_state_dict({"weight": problem.weight, "bias": problem.bias})
        return partial(module.eval(), problem.x)

    def _backward(self, problem: Problem) -> Callable[[], Any]:
        layer, arrays = problem.layer, (problem.grad_output, problem.x, problem.weight)
        backward: Callable[..., Any] = self._library.conv1d_backward
        if layer.transposed:
            backward = self._library.conv_transpose1d_backward
        return partial(backward, *arrays, groups=layer.groups, **layer.window, **self._options)

    def arrays(self, result: Any) -> tuple[np.ndarray, ...]:
        return result if isinstance(result, tuple) else (result,)


class Torch:
    """A torch module in inference mode, or the one operation behind its three gradients."""

    name = "torch"

    def __init__(self, n_threads: int, stack: ExitStack) -> None:
        import torch

        torch.set_num_threads(n_threads)
        stack.enter_context(torch.inference_mode())
        self._torch = torch
        capability = torch.backends.cpu.get_cpu_capability()
        self.version = f"torch {torch.__version__} ({capability})"

    def prepare(self, problem: Problem, backward: bool) -> Callable[[], Any]:
        torch, layer = self._torch, problem.layer
        x, weight, bias, grad_output = map(
            torch.from_numpy, (problem.x, problem.weight, problem.bias, problem.grad_output)
        )
        if backward:
            window = ([layer.stride], [layer.padding], [layer.dilation])
            transposed = (layer.transposed, [layer.output_padding])
            rest = (layer.groups, [True, True, True])
            arrays = (grad_output, x, weight, [layer.c_out])
            operation = torch.ops.aten.convolution_backward
            return partial(operation, *arrays, *window, *transposed, *rest)
        kind = torch.nn.ConvTranspose1d if layer.transposed else torch.nn.Conv1d
        module = kind(**_module_sizes(layer), dtype=x.dtype)
        module.load_state_dict({"weight": weight, "bias": bias})
        return partial(module.eval(), x)

    def arrays(self, result: Any) -> tuple[np.ndarray, ...]:
        results = result if isinstance(result, tuple) else (result,)
        return tuple(each.numpy() for each in results)


class OnnxRuntime:
    """One Conv or ConvTranspose node in an inference session."""

    name = "onnxruntime"

    def __init__(self, n_threads: int) -> None:
        import onnxruntime

        importlib.import_module("onnx")
        onnxruntime.set_default_logger_severity(4)  # errors come back as exceptions anyway
        self._library, self._n_threads = onnxruntime, n_threads
        self.version = f"onnxruntime {onnxruntime.__version__}"

    def prepare(self, problem: Problem, backward: bool) -> Callable[[], Any]:
        options = self._library.SessionOptions()
        options.intra_op_num_threads = self._n_threads
        options.inter_op_num_threads = 1
        session = self._library.InferenceSession(
            onnx_model(problem), options, providers=["CPUExecutionProvider"]
        )
        return partial(session.run, None, {"x": problem.x})

    def arrays(self, result: Any) -> tuple[np.ndarray, ...]:
        return tuple(result)


class OpenVino:
    """The same ONNX model, compiled for the CPU for latency in the model's own precision."""

    name = "openvino"

    def __init__(self, n_threads: int) -> None:
        import openvino

        importlib.import_module("onnx")
        self._core, self._n_threads = openvino.Core(), n_threads
        self.version = f"openvino {openvino.__version__.partition('-')[0]}"

    def prepare(self, problem: Problem, backward: bool) -> Callable[[], Any]:
        if problem.x.dtype != np.float32:
            raise TypeError(f"computes {problem.x.dtype} in float32")
        settings = {
            "INFERENCE_NUM_THREADS": self._n_threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        model = self._core.read_model(onnx_model(problem), b"")
        request = self._core.compile_model(model, "CPU", settings).create_infer_request()
        return partial(request.infer, [problem.x], share_inputs=True, share_outputs=True)

    def arrays(self, result: Any) -> tuple[np.ndarray, ...]:
        return tuple(result.values())


def _module_sizes(layer: Layer) -> dict[str, Any]:
    return {
        "in_channels": layer.c_in,
        "out_channels": layer.c_out,
        "kernel_size": layer.kernel_size,
        "groups": layer.groups,
        **layer.window,
    }


def onnx_model(problem: Problem) -> bytes:
    """Return the bytes of an ONNX model of one layer with fixed shapes."""
    from onnx import helper, numpy_helper

    layer = problem.layer
    attributes: dict[str, Any] = {
        "kernel_shape": [layer.kernel_size],
        "strides": [layer.stride],
        "pads": [layer.padding, layer.padding],
        "dilations": [layer.dilation],
        "group": layer.groups,
    }
    if layer.transposed:
        attributes["output_padding"] = [layer.output_padding]
    kind = "ConvTranspose" if layer.transposed else "Conv"
    dtype = helper.np_dtype_to_tensor_dtype(problem.x.dtype)
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", "weight", "bias"], ["y"], **attributes)],
        layer.name,
        [helper.make_tensor_value_info("x", dtype, problem.x.shape)],
        [helper.make_tensor_value_info("y", dtype, (layer.n_batch, layer.c_out, layer.l_out))],
        [
            numpy_helper.from_array(problem.weight, "weight"),
            numpy_helper.from_array(problem.bias, "bias"),
        ],
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def build(
    args: argparse.Namespace, names: Sequence[str], stack: ExitStack
) -> tuple[list[Contestant], list[str]]:
    """Return the contestants that can be had, fastconv1d first, and a note for each that cannot.

    Only torch has gradients to compare with.
    """
    makers: dict[str, Callable[[], Contestant]] = {
        "torch": lambda: Torch(args.threads, stack),
        "onnxruntime": lambda: OnnxRuntime(args.threads),
        "openvino": lambda: OpenVino(args.threads),
    }
    contestants: list[Contestant] = [Fastconv1d(args.algorithm)]
    notes = []
    for name in names:
        if args.backward and name != "torch":
            continue
        try:
            contestants.append(makers[name]())
        except ImportError as error:
            notes.append(f"left out  {name}: {error}")
        else:
            if args.isa and name != "torch":
                notes.append(f"note      {name} has no switch for the ISA and uses all it finds")
    return contestants, notes
