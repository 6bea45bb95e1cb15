"""The libraries that are timed: each prepares a layer once and returns a call to time.

A contestant has ``name``, ``version``, ``prepare(problem, backward)``, which returns a callable
without arguments, and ``arrays(result)``, which turns what that callable returns into a tuple of
ndarrays.  Weights, graphs and input conversions belong to ``prepare``: the call is what a user of
that library runs for each new input.  ``any_length(problem)`` returns a callable of one ndarray,
the input, for layers that are called with inputs of changing lengths.
"""

import argparse
import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np

from ..core.extras import how_to_install
from .filters import Scipy
from .layers import Layer, Problem

# the inputs of a model by name, in its order
Feeds: TypeAlias = Mapping[str, np.ndarray]

PEER_NAMES = ("torch", "onnxruntime", "openvino", "jax", "scipy")
# Those that run layers of every kind, and models.
MODEL_PEERS = PEER_NAMES[:3]


class Contestant(Protocol):
    """What the benchmark needs of a library."""

    name: str
    version: str

    def prepare(self, problem: Problem, backward: bool) -> Callable[[], Any]: ...

    def any_length(self, problem: Problem) -> Callable[[np.ndarray], Any]: ...

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
        if backward:
            return self._backward(problem)
        return partial(self.any_length(problem), problem.x)

    def any_length(self, problem: Problem) -> Callable[[np.ndarray], Any]:
        layer = problem.layer
        kind: Any = self._library.ConvTranspose1d if layer.transposed else self._library.Conv1d
        module = kind(**_module_sizes(layer), dtype=problem.x.dtype, **self._options)
        module.load_state_dict({"weight": problem.weight, "bias": problem.bias})
        return module.eval()

    def _backward(self, problem: Problem) -> Callable[[], Any]:
        layer, arrays = problem.layer, (problem.grad_output, problem.x, problem.weight)
        backward: Callable[..., Any] = self._library.conv1d_backward
        if layer.transposed:
            backward = self._library.conv_transpose1d_backward
        return partial(backward, *arrays, groups=layer.groups, **layer.window, **self._options)

    def run_model(
        self, model: str | bytes, feeds: Feeds, rest: str | None = None
    ) -> Callable[[], Any]:
        """Return a call of an ONNX model, a file or its bytes."""
        from ..onnx import from_onnx

        return partial(from_onnx(model, rest=rest), *feeds.values())

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
        if backward:
            return self._backward(problem)
        return partial(self._module(problem), self._torch.from_numpy(problem.x))

    def any_length(self, problem: Problem) -> Callable[[np.ndarray], Any]:
        module, from_numpy = self._module(problem), self._torch.from_numpy
        return lambda x: module(from_numpy(x))

    def _module(self, problem: Problem) -> Callable[[Any], Any]:
        torch, layer = self._torch, problem.layer
        weight, bias = map(torch.from_numpy, (problem.weight, problem.bias))
        kind = torch.nn.ConvTranspose1d if layer.transposed else torch.nn.Conv1d
        module = kind(**_module_sizes(layer), dtype=weight.dtype)
        module.load_state_dict({"weight": weight, "bias": bias})
        return module.eval()

    def _backward(self, problem: Problem) -> Callable[[], Any]:
        torch, layer = self._torch, problem.layer
        x, weight, grad = map(torch.from_numpy, (problem.x, problem.weight, problem.grad_output))
        window = ([layer.stride], [layer.padding], [layer.dilation])
        transposed = (layer.transposed, [layer.output_padding])
        rest = (layer.groups, [True, True, True])
        operation = torch.ops.aten.convolution_backward
        return partial(operation, grad, x, weight, [layer.c_out], *window, *transposed, *rest)

    def run_program(self, program: Callable[..., Any], feeds: Feeds) -> Callable[[], Any]:
        """Return a call of a function of tensors."""
        return partial(program, *(self._torch.from_numpy(value) for value in feeds.values()))

    def arrays(self, result: Any) -> tuple[np.ndarray, ...]:
        results = result if isinstance(result, (tuple, list)) else (result,)
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
        return partial(self._session(onnx_model(problem)).run, None, {"x": problem.x})

    def any_length(self, problem: Problem) -> Callable[[np.ndarray], Any]:
        session = self._session(onnx_model(problem, fixed=False))
        return lambda x: session.run(None, {"x": x})

    def run_model(self, model: str | bytes, feeds: Feeds) -> Callable[[], Any]:
        return partial(self._session(model).run, None, dict(feeds))

    def _session(self, model: str | bytes) -> Any:
        options = self._library.SessionOptions()
        options.intra_op_num_threads = self._n_threads
        options.inter_op_num_threads = 1
        return self._library.InferenceSession(model, options, providers=["CPUExecutionProvider"])

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
        infer = self._request(onnx_model(problem)).infer
        return partial(infer, [problem.x], share_inputs=True, share_outputs=True)

    def any_length(self, problem: Problem) -> Callable[[np.ndarray], Any]:
        infer = self._request(onnx_model(problem, fixed=False)).infer
        return lambda x: infer([x], share_inputs=True, share_outputs=True)

    def run_model(self, model: str | bytes, feeds: Feeds) -> Callable[[], Any]:
        infer = self._request(model).infer
        return partial(infer, list(feeds.values()), share_inputs=True, share_outputs=True)

    def _request(self, model: str | bytes) -> Any:
        settings = {
            "INFERENCE_NUM_THREADS": self._n_threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        given = (model,) if isinstance(model, str) else (model, b"")
        read = self._core.read_model(*given)
        return self._core.compile_model(read, "CPU", settings).create_infer_request()

    def arrays(self, result: Any) -> tuple[np.ndarray, ...]:
        return tuple(result.values())


class Jax:
    """One compiled function of arrays that JAX holds; its threads are set before it is loaded."""

    name = "jax"

    def __init__(self) -> None:
        import jax

        jax.config.update("jax_enable_x64", True)
        self._library = jax
        self.version = f"jax {jax.__version__}"

    def prepare(self, problem: Problem, backward: bool) -> Callable[[], Any]:
        x = self._library.device_put(problem.x)
        return partial(self._compiled(problem), x)

    def any_length(self, problem: Problem) -> Callable[[np.ndarray], Any]:
        return self._compiled(problem)

    def _compiled(self, problem: Problem) -> Callable[[Any], Any]:
        jax, layer = self._library, problem.layer
        arguments = _lax_arguments(layer)

        def convolve(x: Any, weight: Any, bias: Any) -> Any:
            if layer.transposed:
                weight = _as_correlation(layer, weight)
            return jax.lax.conv_general_dilated(x, weight, **arguments) + bias[:, None]

        function = jax.jit(convolve)
        weight, bias = map(jax.device_put, (problem.weight, problem.bias))
        return lambda x: function(x, weight, bias).block_until_ready()

    def arrays(self, result: Any) -> tuple[np.ndarray, ...]:
        return (np.asarray(result),)


def _lax_arguments(layer: Layer) -> dict[str, Any]:
    """Return the arguments of lax.conv_general_dilated; a transposed one dilates its input."""
    left = right = layer.padding
    if layer.transposed:
        left = layer.dilation * (layer.kernel_size - 1) - layer.padding
        right = left + layer.output_padding
    return {
        "window_strides": (1 if layer.transposed else layer.stride,),
        "padding": [(left, right)],
        "lhs_dilation": (layer.stride if layer.transposed else 1,),
        "rhs_dilation": (layer.dilation,),
        "dimension_numbers": ("NCH", "OIH", "NCH"),
        "feature_group_count": layer.groups,
    }


def _as_correlation(layer: Layer, weight: Any) -> Any:
    """Return the weight of a transposed layer as that of the correlation it is: taps reversed."""
    n_in, n_out = layer.c_in // layer.groups, layer.c_out // layer.groups
    grouped = weight.reshape(layer.groups, n_in, n_out, layer.kernel_size).swapaxes(1, 2)
    return grouped.reshape(layer.c_out, n_in, layer.kernel_size)[:, :, ::-1]


def _module_sizes(layer: Layer) -> dict[str, Any]:
    return {
        "in_channels": layer.c_in,
        "out_channels": layer.c_out,
        "kernel_size": layer.kernel_size,
        "groups": layer.groups,
        **layer.window,
    }


def onnx_model(problem: Problem, fixed: bool = True) -> bytes:
    """Return the bytes of an ONNX model of one layer, for one length or for any."""
    from onnx import helper, numpy_helper

    layer = problem.layer
    l_in, l_out = (layer.l_in, layer.l_out) if fixed else ("l_in", "l_out")
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
        [helper.make_tensor_value_info("x", dtype, (layer.n_batch, layer.c_in, l_in))],
        [helper.make_tensor_value_info("y", dtype, (layer.n_batch, layer.c_out, l_out))],
        [
            numpy_helper.from_array(problem.weight, "weight"),
            numpy_helper.from_array(problem.bias, "bias"),
        ],
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def make(name: str, args: argparse.Namespace, stack: ExitStack) -> Contestant:
    """Load a library, whose settings hold until the stack is closed."""
    makers: dict[str, Callable[[], Contestant]] = {
        "fastconv1d": lambda: Fastconv1d(args.algorithm),
        "torch": lambda: Torch(args.threads, stack),
        "onnxruntime": lambda: OnnxRuntime(args.threads),
        "openvino": lambda: OpenVino(args.threads),
        "jax": Jax,
        "scipy": Scipy,
    }
    return makers[name]()


def _why(error: ImportError) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name in (*PEER_NAMES, "onnx"):
        return f"needs {error.name}: {how_to_install(error.name)}"
    return str(error)


def build(
    args: argparse.Namespace, names: Sequence[str], stack: ExitStack
) -> tuple[list[Contestant], list[str]]:
    """Return the contestants that can be had, fastconv1d first, and a note for each that cannot.

    Only torch's gradients are compared with: JAX's took 0.5 s for conformer_dw31 and more than a
    minute for mamba_dw4, and the others have none.
    """
    contestants = [make("fastconv1d", args, stack)]
    notes = []
    for name in names:
        if args.backward and name != "torch":
            continue
        try:
            contestants.append(make(name, args, stack))
        except ImportError as error:
            notes.append(f"left out  {name}: {_why(error)}")
        else:
            if args.isa and name in ("onnxruntime", "openvino"):
                notes.append(f"note      {name} has no switch for the ISA and uses all it finds")
    return contestants, notes
