"""Whose convolutions of a model are computed here: exchanging classes, and the report of it."""

from __future__ import annotations

import contextlib
import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .. import config
from . import fusing
from .classes import EqualToTorchs, class_of, derived, give_back, own_class, reason_against
from .layers import Fast, FastConv1d, FastConvTranspose1d
from .planes import FastConv2d
from .report import (
    Report,
    asks_torchs_class,
    called,
    described,
    is_line,
    reason_elsewhere,
    reason_of_instance,
    reason_to_leave,
)
from .watch import disabled

# Of the largest value, an output of a fused model may differ on the example inputs: sums of 16 bits
# fewer would differ more, rounding in a hundred layers less (3e-6 over the models of the table).
TOLERANCE = 1e-4
CHECK = "example_inputs"
_ALGORITHMS = ("auto", "fast", "fft", "winograd")
_Module = TypeVar("_Module", bound=nn.Module)
_LAYERS: tuple[Any, ...] = (FastConv1d, FastConvTranspose1d, FastConv2d)


def accelerate(
    model: _Module,
    inplace: bool = False,
    *,
    algorithm: str = "auto",
    fuse: bool = False,
    example_inputs: tuple[Any, ...] | None = None,
    conv2d: bool = False,
) -> tuple[_Module, Report]:
    """Let fastconv1d compute the 1-D convolutions of a model.

    Every `torch.nn.Conv1d` and `torch.nn.ConvTranspose1d` with float32 or float64 parameters on the
    CPU becomes a `FastConv1d` or `FastConvTranspose1d`, weight-normed and shared ones included, and
    a `torch.nn.Conv2d` with a kernel of (K, 1) or (1, K) a `FastConv2d`, for inputs of one column
    or row. Subclasses, and modules whose code calls ``F.conv1d``, get a class after their own. Only
    classes change: parameters, state dict, hooks and names stay. Tensors are not copied.

    Parameters
    ----------
    model : torch.nn.Module
        A module, or a convolution itself.
    inplace : bool, default False
        Change the model itself instead of a deep copy.
    algorithm : {'auto', 'fast', 'fft', 'winograd'}, default 'auto'
        As for `fastconv1d.Conv1d`, for calls without gradients of layers in eval mode. 'winograd'
        takes half the multiplications of many layers, at a few times the error; 'fast' the fastest
        of all for each layer. 'auto' is what `fastconv1d.config.get_algorithm` says now.
    fuse : bool, default False
        Compute a convolution and what stands around it (padding, cut, batch norm, activations, an
        addition) as one step, in eval mode without gradients, where nothing sees the difference.
    example_inputs : tuple, optional
        Arguments of the model, with which a fused one is compared with torch's: it is not fused
        where they differ by more than 1e-4 of the largest value. Without them it is not checked.
    conv2d : bool, default False
        Take every `torch.nn.Conv2d`, its subclasses, and what code asks of ``F.conv2d``, for inputs
        of any size, without gradients.

    Returns
    -------
    model : torch.nn.Module
        The copy, or the model itself.
    report : Report
        ``report.replaced`` lists the names of modules, ``report.left`` maps the names of those
        with convolutions that stay torch's to the reason and what helps; ``report.fused`` lists
        what was fused.

    Raises
    ------
    TypeError
        If `model` is not a module.
    ValueError
        If there is no such algorithm.

    Notes
    -----
    Threads: the smaller of `torch.get_num_threads` and `fastconv1d.get_num_threads`.

    Calls that torch should see or compute stay torch's: on other devices, dtypes, layouts and
    classes of tensors, under autocast, in forward-mode AD, `torch.func` transforms,
    `torch.jit.trace`, `torch.export`, dispatch and function modes, and in `disabled` blocks; also
    whatever does not fit, so that errors are torch's own. `torch.compile` sees custom operators.
    `restore` is the inverse.

    Without gradients a layer in eval mode keeps its packed weight as long as its attributes and
    parameters stay as they are. Parameters of up to 16 KiB are compared bit by bit in each call,
    larger ones in calls of at least 1,024 output positions. In shorter calls these are known by
    their storage, version and 16 of their elements: a write through ``.data``, a NumPy view or
    another process to a part of them goes unseen there until ``eval()`` is called. Parameters that
    were made in `torch.inference_mode` have no version and are compared in each call, which takes
    up to a sixth of a model's time: the copy that is made here has none such, with
    ``inplace=True`` make the model outside of that mode.

    Examples
    --------
    >>> import torch
    >>> from fastconv1d.torch import accelerate
    >>> model = torch.nn.Sequential(torch.nn.Conv1d(4, 8, 3), torch.nn.ReLU())
    >>> fast, report = accelerate(model.eval())
    >>> report.replaced, report.left
    (['0'], {})
    >>> x = torch.randn(1, 4, 20)
    >>> bool(torch.allclose(fast(x), model(x), atol=1e-6))
    True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model should be a torch.nn.Module, got {type(model).__name__}")
    if algorithm not in _ALGORITHMS:
        known = ", ".join(map(repr, _ALGORITHMS))
        raise ValueError(f"algorithm should be one of {known}, got {algorithm!r}")
    if algorithm == "auto":
        algorithm = config.get_algorithm()
    if not inplace:
        # Parameters made in inference mode have no version: calls would compare all of their bits,
        # for 8 % of HiFi-GAN's time and 15 % of ResNet1d's.
        with torch.inference_mode(False):
            model = copy.deepcopy(model, _derived(model))
    fusing.unfuse(model)
    replaced, left = [], {}
    layers = {}
    for name, module in list(model.named_modules()):
        place, reason = _place_of(module, conv2d)
        if reason is not None:
            left[name] = reason
        elif place is not None:
            _exchange_class(module, place, algorithm, conv2d)
            replaced.append(name)
            layers[name] = described(module)
    report = Report(replaced, left)
    report.layers = layers
    if fuse:
        programs, report.unfused = fusing.fuse(model)
        report.fused = {name: program.told for name, program in programs.items()}
        if programs and example_inputs is not None:
            report.unfused.update(_check(model, example_inputs))
            report.checked = not report.unfused.get(CHECK)
            if not report.checked:
                fusing.unfuse(model)
                report.fused = {}
    return model, report


def _check(model: nn.Module, inputs: Any) -> dict[str, str]:
    """Why a fused model is not the same as torch's on inputs, if it is not."""
    if not isinstance(inputs, (tuple, list)):
        inputs = (inputs,)
    modes = [(m, m.training) for m in model.modules()]
    try:
        for m, _ in modes:
            m.__dict__["training"] = False
        with torch.no_grad():
            outputs = []
            for context in (disabled(), contextlib.nullcontext()):
                with context, torch.random.fork_rng(devices=[]):
                    outputs.append(tree_leaves(model(*copy.deepcopy(tuple(inputs)))))
    finally:
        for m, mode in modes:
            m.__dict__["training"] = mode
    for expected, actual in zip(*outputs, strict=True):
        if not isinstance(expected, Tensor) or not expected.is_floating_point():
            same = type(expected) is type(actual) and bool(
                torch.equal(expected, actual) if isinstance(expected, Tensor) else True
            )
        else:
            same = expected.shape == actual.shape and _close(expected, actual)
        if not same:
            return {CHECK: "on the example inputs its output differs from torch's"}
    return {}


def _close(expected: Tensor, actual: Tensor) -> bool:
    if expected.numel() == 0:
        return True
    finite = expected.isfinite()
    if not torch.equal(finite, actual.isfinite()):
        return False
    expected, actual = expected[finite].double(), actual[finite].double()
    if not expected.numel():
        return True
    return bool((expected - actual).abs().max() <= TOLERANCE * expected.abs().max())


def restore(model: _Module, inplace: bool = False) -> _Module:
    """Give the layers that `accelerate` exchanged back to torch: its exact inverse.

    Parameters
    ----------
    model : torch.nn.Module
        A model, or a layer itself.
    inplace : bool, default False
        Change the model itself instead of a deep copy.

    Returns
    -------
    torch.nn.Module
        The copy, or the model itself, whose layers are `torch.nn.Conv1d` and
        `torch.nn.ConvTranspose1d` again. Parameters, state dict, hooks and names stay, and nothing
        of fastconv1d is left in it or its pickles.

    Raises
    ------
    TypeError
        If `model` is not a module.

    Notes
    -----
    Layers that were made as `FastConv1d` and `FastConvTranspose1d` become torch's, too; classes
    derived from these stay as they are.

    Examples
    --------
    >>> import torch
    >>> from fastconv1d.torch import accelerate, restore
    >>> fast, _ = accelerate(torch.nn.Conv1d(4, 8, 3))
    >>> type(restore(fast)) is torch.nn.Conv1d
    True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model should be a torch.nn.Module, got {type(model).__name__}")
    if not inplace:
        model = copy.deepcopy(model, _derived(model))
    for module in model.modules():
        give_back(module)
    return model


def _derived(model: nn.Module) -> dict[int, Any]:
    """A memo for deepcopy with the weights that old weight norms computed: torch copies no such."""
    return {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }


def _place_of(module: nn.Module, conv2d: bool) -> tuple[Any, str | None]:
    """The class that a module should get, or why it gets none, or two Nones where it needs none."""
    own = own_class(module)
    if isinstance(own, EqualToTorchs):
        return own, reason_to_leave(module) if isinstance(module, Fast) else None
    for layer in _LAYERS:
        if isinstance(module, layer._torchs):
            return _place_of_layer(module, own, layer, conv2d)
    kinds = _kinds_of(own, conv2d)
    if kinds and not isinstance(module, (torch.fx.GraphModule, torch.jit.ScriptModule)):
        reason = reason_against(own) or reason_of_instance(module)
        return _derived_class(own, (), kinds) if reason is None else (None, reason)
    return None, reason_elsewhere(module)


def _kinds_of(own: Any, conv2d: bool) -> tuple[str, ...]:
    """What is put around the forward of a class."""
    if conv2d and len(called(own, True)) > len(called(own, False)):
        return ("calls of planes",)
    return ("calls",) if called(own, False) else ()


def _place_of_layer(
    module: nn.Module, own: Any, layer: Any, conv2d: bool
) -> tuple[Any, str | None]:
    if layer is FastConv2d and not conv2d and (own is not nn.Conv2d or not is_line(module)):
        return None, reason_elsewhere(module)
    reason = reason_to_leave(module)
    if reason is None and own is layer._torchs:
        return layer, None
    kinds = _kinds_of(own, conv2d)
    if reason is None and not kinds and not asks_torchs_class(own):
        reason = f"{own.__module__}.{own.__qualname__} does not ask torch's forward or functions"
    reason = reason or reason_against(own)
    return _derived_class(own, (layer,), kinds) if reason is None else (None, reason)


def _derived_class(own: Any, bases: tuple[Any, ...], kinds: tuple[str, ...]) -> Any:
    try:
        return derived(own, bases, kinds), None
    except TypeError as error:
        return None, f"Python has no class after {own.__qualname__} and another: {error}"


def _exchange_class(module: Any, place: Any, algorithm: str, conv2d: bool) -> None:
    if isinstance(module, nn.Conv2d):
        if conv2d:
            module.__dict__.pop("_takes_lines", None)
        elif not isinstance(module, Fast):
            module.__dict__["_takes_lines"] = True
    if not isinstance(own_class(module), EqualToTorchs):
        module.__class__ = class_of(module, place)
        if place in _LAYERS:
            # torch.fx takes modules whose module is torch's as they are, and looks into others
            module.__dict__["__module__"] = place._torchs.__module__
    if isinstance(module, Fast):
        module.algorithm = algorithm
