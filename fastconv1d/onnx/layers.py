"""Nodes that this library computes itself: convolutions with their steps, and activations.

`Convolution` and `Activate` are nodes of the lowered graph; patterns make them of ONNX's nodes. A
convolution of two dimensions is a `Conv2d`; a transposed one, or one of more dimensions, is one of
a single dimension: directly where only one dimension has more than a point, otherwise over the
unfolded rows of the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import config, functional
from ..core.activations import Activation
from ..core.arrays import half_of
from ..core.program import output_shape
from ..kernels import direct_engine
from ..kernels.chain import Chain
from ..kernels.product import Product
from ..modules import Conv1d, Conv2d, ConvTranspose1d
from .bound import in_place
from .registry import Node, OnnxError

Array = NDArray[Any]

_AUTO_PADS = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
_ATTRIBUTES = {
    "Conv": {"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"},
    "ConvTranspose": {
        *("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"),
        *("output_padding", "output_shape"),
    },
}
# No layer of a network has more padding on a side; a file could ask for any number of bytes.
LARGEST_PAD = 1 << 24
# Elements that an activation takes at once: 64 KiB of float32 stay in L1 and L2.
_BLOCK = 1 << 14


# Activations in float64: an element takes some 2 ns, what is gained on 1,000 multiply-adds.
_WIDE_CURVES, _MACS_OF_WIDE_CURVE = {"gelu", "gelu_tanh", "snake"}, 1000


@dataclass
class Fused(Node):
    """A node made of others; `replaced` are those of the file."""

    replaced: list[Node] = field(default_factory=list)

    def build(self) -> Callable[..., Any]:
        """Return the function of the inputs that computes the node."""
        raise NotImplementedError


@dataclass
class Refused(Fused):
    """A node that cannot be computed."""

    reason: OnnxError | None = None

    def build(self) -> Callable[..., Any]:
        assert self.reason is not None
        raise self.reason


@dataclass
class Activate(Fused):
    """An activation that the kernels know, as a pass of its own."""

    activation: Activation = field(default_factory=lambda: Activation("relu"))

    def build(self) -> Callable[..., Any]:
        step = self.activation
        chain = Chain(1, [("step", [0], (step,))]) if step.alpha is None else None

        def run(x: Array) -> Array:
            y = None if chain is None else chain((x,), None, config.get_num_threads())
            return activated(step, x) if y is None else y

        if chain is not None:
            run.shorter = partial(in_place, chain, run)  # type: ignore[attr-defined]
        return run


def activated(step: Activation, x: Array) -> Array:
    """Return the activation of every element, in the dtype of `x`."""
    if x.dtype.char not in "fd":
        if x.dtype.kind != "f" and not half_of(x.dtype):  # Relu of integers
            return np.maximum(x, x.dtype.type(0))
        wide = x.astype(np.float32) if half_of(x.dtype) else x
        return step.apply(wide, min(1, x.ndim - 1)).astype(x.dtype)
    y = np.array(x, order="C")
    if step.alpha is not None:
        direct_engine.finish(step, y if y.ndim == 3 else y[np.newaxis], None, 1.0, False)
        return y
    flat = y.reshape(1, 1, -1)
    for begin in range(0, y.size, _BLOCK):
        direct_engine.finish(step, flat[:, :, begin : begin + _BLOCK], None, 1.0, False)
    return y


@dataclass
class Convolution(Fused):
    """A convolution of constant parameters with steps around its sums.

    The inputs are x and, where `position` is not None, what is added before or after `after`.
    """

    weight: Array = field(default_factory=lambda: np.zeros((1, 1, 1), np.float32))
    bias: Array | None = None
    strides: list[int] = field(default_factory=list)
    dilations: list[int] = field(default_factory=list)
    group: int = 1
    pads: list[int] = field(default_factory=list)
    auto_pad: str = "NOTSET"
    output_padding: list[int] = field(default_factory=list)
    output_shape: list[int] | None = None
    padding_mode: str = "zeros"
    before: Activation | None = None
    after: Activation | None = None
    position: str | None = None
    channels_last: bool = False
    squeezed: tuple[int, ...] = ()  # dimensions of the input that are dropped
    flat: bool = False  # a matrix product: any number of dimensions before the channels

    @property
    def transposed(self) -> bool:
        return self.op == "ConvTranspose"

    @property
    def rank(self) -> int:
        return self.weight.ndim - 2

    @property
    def out_channels(self) -> int:
        return self.weight.shape[1] * self.group if self.transposed else self.weight.shape[0]

    @property
    def follows_length(self) -> bool:
        """Whether the padding depends on the length of the input."""
        return self.auto_pad.startswith("SAME") or self.output_shape is not None

    @property
    def is_plane(self) -> bool:
        """Whether it is what Conv2d computes."""
        return self.rank == 2 and not self.transposed and min(self.pads) >= 0

    @property
    def takes_steps(self) -> bool:
        """Whether activations and additions may become its last steps."""
        if self.weight.dtype.kind != "f" and not half_of(self.weight.dtype):
            return False
        return not (self.transposed and self.follows_length)

    def macs(self, x: Any, y: Any) -> float:
        """Return the multiply-adds that make y of x, less a curve's; none of a matrix product."""
        if self.flat or not isinstance(y, np.ndarray):
            return 0.0
        macs = float(math.prod(self.weight.shape[1:])) * (x.size if self.transposed else y.size)
        slow = self.after is not None and self.after.name in _WIDE_CURVES
        return macs - _MACS_OF_WIDE_CURVE * y.size if slow else macs

    def leaves(self, axis: int) -> bool:
        """Whether the convolution leaves this dimension as it is."""
        ones = self.weight.shape[2 + axis], self.strides[axis]
        ends = self.pads[axis], self.pads[self.rank + axis], self.output_padding[axis]
        given = self.output_shape is None or self.output_shape[axis] == -1
        return ones == (1, 1) and ends == (0, 0, 0) and given

    def without(self, axes: Iterable[int]) -> Convolution:
        """Return the convolution without dimensions (of the input) that it leaves."""
        dropped = {axis - 2 for axis in axes}
        kept = [axis for axis in range(self.rank) if axis not in dropped]
        both = kept + [self.rank + axis for axis in kept]
        given = self.output_shape
        return replace(
            self,
            weight=self.weight.squeeze(tuple(2 + axis for axis in dropped)),
            strides=[self.strides[axis] for axis in kept],
            dilations=[self.dilations[axis] for axis in kept],
            pads=[self.pads[axis] for axis in both],
            output_padding=[self.output_padding[axis] for axis in kept],
            output_shape=None if given is None else [given[axis] for axis in kept],
            attributes={},
        )

    def check(self) -> None:
        """Raise what is wrong with the attributes."""
        rank, shape = self.rank, list(self.weight.shape[2:])
        if rank < 1:
            raise self.error(f"the weight should have 3 dimensions at least, got {rank + 2}")
        for name in ("strides", "dilations", "output_padding", "output_shape"):
            values = getattr(self, name)
            if values is not None and len(values) != rank:
                raise self.error(f"{name} should have {rank} values, got {values}")
        if min((*self.strides, *self.dilations, self.group), default=1) < 1:
            raise self.error("strides, dilations and group should be positive")
        if len(self.pads) != 2 * rank:
            raise self.error(f"pads should have {2 * rank} values, got {self.pads}")
        asked = [*self.pads, *self.output_padding, *self.strides, *self.dilations]
        if max(map(abs, asked)) > LARGEST_PAD:
            raise self.error(
                f"pads, strides and dilations of more than {LARGEST_PAD} are not supported, "
                f"got {max(map(abs, asked))}"
            )
        if self.auto_pad not in _AUTO_PADS:
            raise self.error(f"auto_pad {self.auto_pad!r} is not supported")
        if self.weight.size == 0:
            raise self.error(f"the weight should not be empty, got size {list(self.weight.shape)}")
        kernel_shape = self.attributes.get("kernel_shape", shape)
        if list(kernel_shape) != shape:
            raise self.error(
                f"kernel_shape should be that of the weight, {shape}, got {list(kernel_shape)}"
            )

    def build(self) -> Callable[..., Any]:
        self.check()
        with _errors_of(self):
            if self.position is None:
                return _apply(self)
            if (self.rank == 1 or self.is_plane) and not self.squeezed:
                return _adding_layer(self)
            return _adding(self, _apply(replace(self, position=None, after=None)))


@contextmanager
def _errors_of(node: Node) -> Iterator[None]:
    """Turn the errors of a layer's constructor into the node's."""
    try:
        yield
    except OnnxError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise node.error(str(error)) from error


def convolution_of(node: Node, weight: Array, bias: Array | None) -> Convolution:
    """Return a Conv or ConvTranspose node with its parameters."""
    for name in node.attributes:
        if name not in _ATTRIBUTES[node.op]:
            raise node.error(f"its attribute {name!r} is not supported")
    rank = max(weight.ndim - 2, 0)
    get = node.attributes.get
    auto_pad = get("auto_pad", "NOTSET")
    pads = get("pads") if auto_pad == "NOTSET" else None
    return Convolution(
        node.op,
        name=node.name,
        inputs=node.inputs[:1],
        outputs=node.outputs,
        opset=node.opset,
        attributes=node.attributes,
        replaced=[node],
        weight=weight,
        bias=bias,
        strides=get("strides") or [1] * rank,
        dilations=get("dilations") or [1] * rank,
        group=get("group", 1),
        pads=pads or [0] * (2 * rank),
        auto_pad=auto_pad,
        output_padding=get("output_padding") or [0] * rank,
        output_shape=get("output_shape"),
    )


# ---- one dimension -----------------------------------------------------------------------------


def _apply(node: Convolution) -> Callable[..., Any]:
    """Return the function of x, and of a residual of the output's shape where there is one."""
    if node.squeezed:
        axes, inner = node.squeezed, _apply(replace(node, squeezed=()))
        return lambda x: inner(x.squeeze(axes))
    if node.rank == 1:
        return _one_dimension(node)
    if node.is_plane:
        return _layer(node)
    others = [axis for axis in range(node.rank) if not node.leaves(axis)]
    if not others:
        return _pointwise(_along(node, node.rank - 1))
    if len(others) == 1:
        return _rows(_along(node, others[0]), others[0])
    return _unfolded_transposed(node) if node.transposed else _unfolded(node)


def _one_dimension(node: Convolution) -> Callable[..., Any]:
    if node.transposed and node.follows_length:
        return lambda x: _transposed_to_length(node, x)
    return _product_or_layer(node) or _matrix_or_layer(node, _layer(node))


def _matrix_or_layer(node: Convolution, layer: Any) -> Callable[..., Any]:
    return _matrix_product(layer) if node.flat else layer


def _packed(node: Convolution) -> Product | None:
    """Return a product with the packed weight, where that does what the convolution does after
    what is `before`.

    On 50 sequences of 21 positions with channels last it takes half of the time of the layer, on a
    row of 128 numbers a fifth, and never more.
    """
    weight, step = node.weight, node.after
    plain = node.group == 1 and not node.transposed and node.padding_mode == "zeros"
    plain = plain and node.auto_pad in ("NOTSET", "VALID")
    if not plain or weight.dtype.char not in "fd":
        return None
    if min(node.pads) < 0 or (step is not None and step.alpha is not None):
        return None
    if node.bias is not None and node.bias.shape != weight.shape[:1]:
        return None
    by_tap = np.ascontiguousarray(weight[:, :, 0] if node.flat else weight.swapaxes(1, 2))
    first = not node.channels_last
    along = () if node.flat else (node.strides[0], node.dilations[0], *node.pads, first, first)
    return Product(by_tap, node.bias, step, node.position == "after", *along)


# Where channels come first, a product of so many positions takes 0.5 to 0.9 of the layer's time,
# of more it takes longer; a transform of a single channel takes 0.5 to 0.8 at any length.
_MOST_POSITIONS = 28


def _always_suits(node: Convolution) -> bool:
    return node.channels_last or (node.weight.shape[1] == 1 and node.strides[0] > 1)


def _suits_product(node: Convolution, product: Product, x: Array) -> bool:
    """Whether the product is the faster way for an input."""
    if _always_suits(node):
        return True
    if config.are_deterministic_algorithms_enabled():
        return False  # a rule by the length, and the sums have another order
    shape = product.shape(x)
    return shape is None or shape[2] <= _MOST_POSITIONS


def _product_or_layer(node: Convolution) -> Callable[..., Any] | None:
    product = _packed(node)
    if product is None:
        return None
    layer, prepared = _LaterLayer(node), _prepared(node)

    def run(x: Array) -> Array:
        y = None
        if _suits_product(node, product, x):
            y = product(prepared(x), None, None, config.get_num_threads())
        return layer(x) if y is None else y  # of another dtype, or with an error

    run.shorter = partial(_bound_product, node, product, run)  # type: ignore[attr-defined]
    return run


def _bound_product(
    node: Convolution,
    product: Product,
    run: Callable[..., Any],
    inputs: Sequence[Any],
    *_: Any,
) -> Callable[..., Any] | None:
    """Return the product alone for inputs of these shapes; `run` does what it does not take."""
    if product.shape(inputs[0]) is None or not _suits_product(node, product, inputs[0]):
        return None
    threads, in_order = config.get_num_threads, config.are_deterministic_algorithms_enabled
    always, prepared, plain = _always_suits(node), _prepared(node), node.before is None

    def run_bound(x: Array, other: Array | None = None) -> Array:
        if always or not in_order():
            y = product(x if plain else prepared(x), other, None, threads())
            if y is not None:
                return y
        return run(x) if other is None else run(x, other)

    return run_bound


def _prepared(node: Convolution) -> Callable[[Array], Array]:
    """Return what is done before a product."""
    if node.before is None:
        return lambda x: x
    return Activate(node.op, activation=node.before).build()


class _LaterLayer:
    """A layer that is made when it is first called."""

    def __init__(self, node: Convolution, make: Callable[[Convolution], Any] | None = None) -> None:
        self.node, self.make = node, make or (lambda node: _matrix_or_layer(node, _layer(node)))
        self.made: Any = None

    def __call__(self, *arrays: Array) -> Array:
        if self.made is None:
            self.made = self.make(self.node)
        return self.made(*arrays)


def _matrix_product(layer: Any) -> Callable[..., Any]:
    """A layer of (N, L, C) as a function of matrices, or of any number of them."""

    def run(x: Array, residual: Array | None = None) -> Array:
        n_in, n_out = layer.in_channels, layer.out_channels
        if x.ndim == 0 or x.shape[-1] != n_in:
            raise ValueError(f"expected an input of size [..., {n_in}], got {list(x.shape)}")
        rows = x.size // n_in
        if rows == 0:
            return np.empty((*x.shape[:-1], n_out), x.dtype)
        if residual is not None:
            residual = residual.reshape(1, rows, n_out)
        return layer(x.reshape(1, rows, n_in), residual=residual).reshape(*x.shape[:-1], n_out)

    return run


class _NoNumbers(np.random.Generator):
    """Draws nothing: a layer's first parameters, which the file's replace, would take seconds."""

    def random(self, *args: Any, **kwargs: Any) -> Any:
        return 0.0


_NO_NUMBERS = _NoNumbers(np.random.PCG64(0))


def layer_of(node: Convolution) -> Any:
    """Return the layer that a convolution of (N, C, L) is; None where it is more than that."""
    alone = node.rank == 1 and not node.squeezed and not node.flat and not node.channels_last
    return _layer(node) if alone and not (node.transposed and node.follows_length) else None


def _layer(node: Convolution) -> Any:
    weight, bias = node.weight, node.bias
    if half_of(weight.dtype):  # the kernels take 16-bit data with float32 parameters
        weight = weight.astype(np.float32)
        bias = None if bias is None else bias.astype(np.float32)
    state = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    plane = node.rank == 2
    padding: Any = tuple(node.pads)
    if node.auto_pad.startswith("SAME"):
        padding = node.auto_pad.lower()
    elif plane:
        padding = tuple(zip(node.pads[:2], node.pads[2:], strict=True))
    arguments: dict[str, Any] = {
        "stride": tuple(node.strides),
        "dilation": tuple(node.dilations),
        "groups": node.group,
        "padding": padding,
        "activation": node.after,
        "pre_activation": node.before,
        "residual_position": node.position or "before",
        "rng": _NO_NUMBERS,
    }
    if plane:
        return Conv2d.from_state_dict(state, padding_mode=node.padding_mode, **arguments)
    arguments["layout"] = "NLC" if node.channels_last else "NCL"
    if node.transposed:
        arguments["output_padding"] = node.output_padding[0]
        return ConvTranspose1d.from_state_dict(state, **arguments)
    return Conv1d.from_state_dict(state, padding_mode=node.padding_mode, **arguments)


def _transposed_to_length(node: Convolution, x: Array) -> Array:
    """A transposed convolution of a given length, which ONNX crops or extends the result to."""
    stride, dilation = node.strides[0], node.dilations[0]
    length, span = x.shape[-1], dilation * (node.weight.shape[2] - 1) + 1
    target = length * stride if node.output_shape is None else node.output_shape[0]
    surplus = (length - 1) * stride + span + node.output_padding[0] - target
    less = max(surplus, 0) // 2
    more = max(surplus, 0) - less
    return functional.conv_transpose1d(
        x,
        node.weight,
        node.bias,
        stride,
        (less, more) if node.auto_pad == "SAME_UPPER" else (more, less),
        node.output_padding[0] + max(-surplus, 0),
        node.group,
        dilation,
    )


def _adding_layer(node: Convolution) -> Callable[..., Any]:
    """Return a layer as a function of x and of what is added, which may have to be repeated."""
    packed = _packed(node)
    if packed is None:
        return _adding_unpacked(node)
    layer, prepared = _LaterLayer(node, _adding_unpacked), _prepared(node)

    def run(x: Array, other: Array) -> Array:
        if not _suits_product(node, packed, x):
            return layer(x, other)
        y = packed(prepared(x), other, None, config.get_num_threads())
        shape = packed.shape(x) if y is None and other.dtype == x.dtype else None
        if shape is not None and other.shape != shape and _repeats_to(other.shape, shape):
            repeated = np.ascontiguousarray(np.broadcast_to(other, shape))
            y = packed(prepared(x), repeated, None, config.get_num_threads())
        return layer(x, other) if y is None else y

    def shorter(inputs: Sequence[Any], *_: Any) -> Callable[..., Any] | None:
        x, other = inputs
        same = other.dtype == x.dtype and other.shape == packed.shape(x)
        return _bound_product(node, packed, run, inputs) if same else None

    run.shorter = shorter  # type: ignore[attr-defined]
    return run


def _repeats_to(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Whether an array of one shape can be repeated to another."""
    pairs = zip(reversed(shape), reversed(whole), strict=False)
    return len(shape) <= len(whole) and all(size in (1, full) for size, full in pairs)


def _adding_unpacked(node: Convolution) -> Callable[..., Any]:
    layer, rank = _layer(node), node.rank
    plain, shaped = layer._sharing_parameters(), layer._sharing_parameters()
    plain.activation = None
    if node.channels_last:
        shaped.layout = "NCL"
    adding = _adding(node, _matrix_product(plain) if node.flat else plain)
    product = _matrix_product(layer)

    def run(x: Array, other: Array) -> Array:
        if node.flat:
            if other.dtype == x.dtype and other.shape == (*x.shape[:-1], layer.out_channels):
                return product(x, other)
        elif other.ndim == x.ndim == 2 + rank and other.dtype == x.dtype:
            last = node.channels_last
            n, c, *size = output_shape(shaped, x.swapaxes(1, 2).shape if last else x.shape)
            if other.shape == ((n, *size, c) if last else (n, c, *size)):
                return layer(x, residual=other)
        return adding(x, other)

    return run


def _adding(node: Convolution, plain: Callable[..., Any]) -> Callable[..., Any]:
    after, last = node.after, node.position == "after"

    def run(x: Array, other: Array) -> Array:
        y = plain(x)
        if after is None:
            return y + other
        return activated(after, y) + other if last else activated(after, y + other)

    return run


# ---- more dimensions ---------------------------------------------------------------------------


def _along(node: Convolution, axis: int) -> Convolution:
    """Return the convolution along one dimension alone."""
    others = [2 + other for other in range(node.rank) if other != axis]
    return replace(node.without(others), position=None)


def _checked_rank(x: Array, rank: int) -> None:
    if x.ndim != 2 + rank:
        raise ValueError(f"expected an input of {2 + rank} dimensions, got {list(x.shape)}")


def _pointwise(node: Convolution) -> Callable[[Array], Array]:
    """A kernel of one point: all positions are one long row."""
    apply = _one_dimension(node)

    def run(x: Array) -> Array:
        if x.ndim < 3:
            raise ValueError(f"expected an input of 3 dimensions at least, got {list(x.shape)}")
        y = apply(x.reshape(*x.shape[:2], int(np.prod(x.shape[2:]))))
        return y.reshape(*y.shape[:2], *x.shape[2:])

    return run


def _rows(node: Convolution, axis: int) -> Callable[[Array], Array]:
    """A convolution along one of several dimensions: the others are rows of a batch."""
    apply = _one_dimension(node)

    def run(x: Array) -> Array:
        if x.ndim < 3:
            raise ValueError(f"expected an input of 3 dimensions at least, got {list(x.shape)}")
        lines = np.moveaxis(np.moveaxis(x, 2 + axis, -1), 1, -2)
        y = apply(lines.reshape(int(np.prod(lines.shape[:-2])), *lines.shape[-2:]))
        y = y.reshape(*lines.shape[:-2], *y.shape[1:])
        return np.moveaxis(np.moveaxis(y, -2, 1), -1, 2 + axis)

    return run


def _unfolded(node: Convolution) -> Callable[[Array], Array]:
    """A convolution along the last dimension whose channels are those of all kernel rows.

    ``y[n, o, h, w] = sum of weight[o, c, i, k] * x[n, c, h*stride + i*dilation, w*s + k*d]``: for
    each h, the rows that it reads are C*I channels of a convolution along w.
    """
    rank, kernel = node.rank, node.weight.shape[2:]
    inner = _squeezed_last(node)
    apply = _one_dimension(inner)

    def run(x: Array) -> Array:
        _checked_rank(x, rank)
        n, channels = x.shape[:2]
        ends = [_ends(node, axis, x.shape[2 + axis]) for axis in range(rank - 1)]
        if any(ends_of != (0, 0) for ends_of in ends):
            x = np.pad(x, [(0, 0), (0, 0), *ends, (0, 0)])
        spans = [d * (k - 1) + 1 for d, k in zip(node.dilations[:-1], kernel[:-1], strict=True)]
        sizes = [
            max((x.shape[2 + i] - spans[i]) // node.strides[i] + 1, 0) for i in range(rank - 1)
        ]
        # (N, out rows..., C, kernel rows..., L) as a view of x
        steps = x.strides[2:-1]
        view = np.lib.stride_tricks.as_strided(
            x,
            (n, *sizes, channels, *kernel[:-1], x.shape[-1]),
            (
                x.strides[0],
                *(s * t for s, t in zip(node.strides[:-1], steps, strict=True)),
                x.strides[1],
                *(d * t for d, t in zip(node.dilations[:-1], steps, strict=True)),
                x.strides[-1],
            ),
            writeable=False,
        )
        rows = n * int(np.prod(sizes))
        y = apply(view.reshape(rows, inner.weight.shape[1] * node.group, x.shape[-1]))
        return np.moveaxis(y.reshape(n, *sizes, *y.shape[1:]), -2, 1)

    return run


def _squeezed_last(node: Convolution) -> Convolution:
    last = node.rank - 1
    weight = node.weight.reshape(node.weight.shape[0], -1, node.weight.shape[-1])
    return replace(
        node,
        weight=weight,
        strides=node.strides[-1:],
        dilations=node.dilations[-1:],
        pads=[node.pads[last], node.pads[node.rank + last]],
        output_padding=node.output_padding[-1:],
        attributes={},
        position=None,
    )


def _ends(node: Convolution, axis: int, size: int) -> tuple[int, int]:
    """Return the zeros before and after a dimension."""
    if not node.auto_pad.startswith("SAME"):
        return node.pads[axis], node.pads[node.rank + axis]
    stride = node.strides[axis]
    span = node.dilations[axis] * (node.weight.shape[2 + axis] - 1) + 1
    total = max((-(-size // stride) - 1) * stride + span - size, 0)
    less = total // 2
    return (less, total - less) if node.auto_pad == "SAME_UPPER" else (total - less, less)


def _unfolded_transposed(node: Convolution) -> Callable[[Array], Array]:
    """A transposed convolution as a sum over the kernel's rows of ones along the last dimension."""
    rank, kernel, last = node.rank, node.weight.shape[2:], node.rank - 1
    rows = [
        (
            index,
            _one_dimension(
                replace(
                    _squeezed_last(replace(node, weight=node.weight[_at(index)])),
                    pads=[0, 0],
                    output_padding=[0],
                    output_shape=None,
                    auto_pad="NOTSET",
                    bias=None,
                    before=None,
                    after=None,
                )
            ),
        )
        for index in product(*map(range, kernel[:-1]))
    ]

    def run(x: Array) -> Array:
        _checked_rank(x, rank)
        sizes = [
            (x.shape[2 + i] - 1) * node.strides[i] + node.dilations[i] * (kernel[i] - 1) + 1
            for i in range(rank)
        ]
        full = np.zeros((x.shape[0], node.out_channels, *sizes), x.dtype)
        lines = np.moveaxis(x, 1, -2)
        flat = lines.reshape(-1, *lines.shape[-2:])
        for index, apply in rows:
            z = apply(flat)
            z = np.moveaxis(z.reshape(*lines.shape[:-2], *z.shape[1:]), -2, 1)
            where = tuple(
                slice(k * d, k * d + (size - 1) * s + 1, s)
                for k, d, s, size in zip(
                    index, node.dilations[:last], node.strides[:last], x.shape[2:-1], strict=True
                )
            )
            full[_at(where)] += z
        y = _cropped(node, full, x.shape[2:])
        if node.bias is not None:
            y += node.bias.reshape(-1, *(1,) * rank).astype(y.dtype)
        return y if node.after is None else activated(node.after, y)

    return run


def _at(where: tuple[int | slice, ...]) -> tuple[Any, ...]:
    """Return the index of positions in the dimensions after the first two."""
    return (slice(None), slice(None), *where)


def _cropped(node: Convolution, full: Array, lengths: tuple[int, ...]) -> Array:
    """Return the result between the pads, with output_padding's zeros after it."""
    crop, more = [(0, 0)] * 2, [(0, 0)] * 2
    for axis, length in enumerate(lengths):
        size = full.shape[2 + axis]
        extra = node.output_padding[axis]
        begin, end = node.pads[axis], node.pads[node.rank + axis]
        if node.follows_length:
            target = (
                length * node.strides[axis]
                if node.output_shape is None
                else node.output_shape[axis]
            )
            surplus = size + extra - target
            less = max(surplus, 0) // 2
            begin, end = max(surplus, 0) - less, less
            if node.auto_pad == "SAME_UPPER":
                begin, end = end, begin
            extra += max(-surplus, 0)
        crop.append((max(begin, 0), size - max(end - extra, 0)))
        more.append((max(-begin, 0), max(extra - end, 0)))
    part = full[_at(tuple(slice(*bounds) for bounds in crop[2:]))]
    return np.pad(part, more) if any(pair != (0, 0) for pair in more) else np.array(part)
