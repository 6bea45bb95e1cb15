"""1-D convolutions of NumPy arrays on the CPU, forward and backward, as torch defines them.

Functions: `conv1d`, `conv_transpose1d`, their gradients `conv1d_backward` and
`conv_transpose1d_backward` (and the single ones in `fastconv1d.grad`), `unfold1d`, `fold1d`.
Of two dimensions: `conv2d`, `conv2d_backward`, `unfold2d`, `fold2d`, and the layer `Conv2d`.
Layers: `Conv1d`, `ConvTranspose1d`, activations such as `ReLU`, pooling, norms, `Linear`, `LSTM`,
`GRU` and others of torch's; networks of them: `Sequential`, `Residual`, `Mean`, `Sum`, `Concat`,
`Gate`, `Graph`; what they cost: `flops`, `summary`; what they read:
`receptive_field`; into their weights: `fold_batch_norm`, `fold_weight_norm`.
Over chunks of a signal: `StreamingConv1d`, `StreamingConvTranspose1d`, `StreamingNetwork`.
Weight files: `save_file`, `load_file`, `WeightFileError`.
Settings: `set_num_threads`, `get_num_threads`, `num_threads`, `use_deterministic_algorithms`,
`are_deterministic_algorithms_enabled`, `show_config`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from . import grad as grad
from .config import (
    are_deterministic_algorithms_enabled,
    get_num_threads,
    num_threads,
    set_num_threads,
    show_config,
    use_deterministic_algorithms,
)
from .costs import flops, summary
from .elementwise import (
    ELU,
    GELU,
    GLU,
    Dropout,
    Hardswish,
    Identity,
    LeakyReLU,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Snake,
    Softmax,
    Softplus,
    Tanh,
)
from .folding import fold_batch_norm, fold_weight_norm
from .functional import (
    conv1d,
    conv1d_backward,
    conv_transpose1d,
    conv_transpose1d_backward,
    fold1d,
    unfold1d,
)
from .functional2d import conv2d, conv2d_backward, fold2d, unfold2d
from .linear import Linear
from .modules import Conv1d, Conv2d, ConvTranspose1d
from .normalization import BatchNorm1d, GroupNorm, InstanceNorm1d, LayerNorm
from .pooling import AdaptiveAvgPool1d, AdaptiveMaxPool1d, AvgPool1d, MaxPool1d
from .receptive import ReceptiveField, receptive_field
from .recurrent import GRU, LSTM
from .sequential import Concat, Gate, Graph, Mean, Residual, Sequential, Sum
from .shaping import Flatten, Select, Transpose, Upsample
from .streaming import StreamingConv1d, StreamingConvTranspose1d, StreamingNetwork
from .version import __version__ as __version__
from .weights import WeightFileError, load_file, save_file

if not TYPE_CHECKING:  # for which every name would be known then

    def __getattr__(name: str) -> object:
        """Import a room that comes on request when it is first asked for."""
        if name in ("dask", "onnx", "planner", "reference", "torch"):
            return import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveMaxPool1d",
    "AvgPool1d",
    "BatchNorm1d",
    "Concat",
    "Conv1d",
    "Conv2d",
    "ConvTranspose1d",
    "Dropout",
    "ELU",
    "Flatten",
    "GELU",
    "GLU",
    "GRU",
    "Gate",
    "Graph",
    "GroupNorm",
    "Hardswish",
    "Identity",
    "InstanceNorm1d",
    "LSTM",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "MaxPool1d",
    "Mean",
    "Mish",
    "PReLU",
    "ReLU",
    "ReLU6",
    "ReceptiveField",
    "Residual",
    "Select",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Snake",
    "Softmax",
    "Softplus",
    "StreamingConv1d",
    "StreamingConvTranspose1d",
    "StreamingNetwork",
    "Sum",
    "Tanh",
    "Transpose",
    "Upsample",
    "WeightFileError",
    "are_deterministic_algorithms_enabled",
    "conv1d",
    "conv1d_backward",
    "conv2d",
    "conv2d_backward",
    "conv_transpose1d",
    "conv_transpose1d_backward",
    "flops",
    "fold1d",
    "fold2d",
    "fold_batch_norm",
    "fold_weight_norm",
    "get_num_threads",
    "grad",
    "load_file",
    "num_threads",
    "receptive_field",
    "save_file",
    "set_num_threads",
    "show_config",
    "summary",
    "unfold1d",
    "unfold2d",
    "use_deterministic_algorithms",
]
