"""Convolutions, networks and gradients of Dask arrays: lazily, by chunks, bits as in one call.

Needs Dask: ``pip install 'fastconv1d[dask]'``. Arrays are chunked along batch and length in any
way; each output chunk reads the inputs that it needs from as many chunks as have them.
"""

from __future__ import annotations

import hashlib
import math
import pickle
import threading
from bisect import bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakValueDictionary

import dask.array as da
import numpy as np
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import DataNode, Task, TaskRef

from .core import adjoint, arrays, forward, pieces
from .core.convolution import Convolution, Parameters
from .core.engines import choose_engine
from .core.geometry import shown
from .core.pieces import BiasGradient, Convolved, Piece, Pipeline, WeightGradient
from .core.program import Convolve, check_lines, fuse
from .core.spec import Around, Spec
from .sequential import lowered

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from .core.base import Layer
    from .core.pieces import Interval

__all__ = ["apply", "conv1d", "conv1d_backward", "conv_transpose1d", "conv_transpose1d_backward"]

# Bytes of a block from which on a part of it, of a quarter at most, is a task of its own. Otherwise
# the whole block goes to the worker that needs the part.
_LARGE_BLOCK = 1 << 20
# Partial sums of gradients that one task adds up.
_SUMMANDS = 8


def conv1d(
    input: da.Array,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    activation: Any = None,
    pre_activation: Any = None,
    residual: ArrayLike | da.Array | None = None,
    residual_scale: float = 1.0,
    residual_position: str = "before",
    layout: str = "NCL",
    algorithm: str = "auto",
) -> da.Array:
    """Apply `fastconv1d.conv1d` to a Dask array, lazily.

    Parameters
    ----------
    input : dask.array.Array of shape (N, C_in, L_in) or (C_in, L_in)
        Chunked in any way; with layout 'NLC' (N, L_in, C_in) or (L_in, C_in).
    weight, bias : ndarray
        In memory. They are copied.
    stride, padding, dilation, groups, padding_mode, activation, pre_activation
        As `fastconv1d.conv1d`.
    residual : dask.array.Array or ndarray of the result's shape, optional
        Chunked in any way.
    residual_scale, residual_position, layout, algorithm
        As `fastconv1d.conv1d`.

    Returns
    -------
    dask.array.Array
        Chunked as the input along batch and length, a stride aside, and one chunk of all channels.

    Raises
    ------
    ValueError, TypeError, OverflowError
        As `fastconv1d.conv1d`, before anything is computed. Also for arrays of unknown chunk sizes,
        and for an input that is no Dask array or a weight that is one.

    Notes
    -----
    The result has the bits of `fastconv1d.conv1d` on the whole array, however it is chunked, on any
    scheduler; where the BLAS engine computes, those of a call in deterministic mode. `algorithm`
    'fft' and 'fast' take transforms of each chunk: last bits are then of the chunks, too.

    A task is made for each output chunk. It takes the chunks that it reads, and of large ones that
    it reads little of only that part; chunks of channels are joined in it, which copies them. The
    weight is in the graph once, and packed once in each worker process.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from fastconv1d.dask import conv1d
    >>> x = da.ones((2, 100), chunks=(2, 30), dtype=np.float32)
    >>> y = conv1d(x, np.ones((4, 2, 3), np.float32), padding="same")
    >>> y.chunks
    ((4,), (30, 30, 30, 10))
    >>> y[0, :4].compute()
    array([4., 6., 6., 6.], dtype=float32)
    """
    around = Around(pre_activation, activation, residual_scale, residual_position)
    spec = Spec(
        False,
        0,
        stride,
        dilation,
        groups,
        0,
        padding,
        padding_mode,
        around,
        None,
        layout,
        algorithm,
    )
    return _convolve(spec, input, weight, bias, residual)


def conv_transpose1d(
    input: da.Array,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    *,
    padding_mode: str = "zeros",
    activation: Any = None,
    pre_activation: Any = None,
    residual: ArrayLike | da.Array | None = None,
    residual_scale: float = 1.0,
    residual_position: str = "before",
    layout: str = "NCL",
    algorithm: str = "auto",
) -> da.Array:
    """Apply `fastconv1d.conv_transpose1d` to a Dask array, lazily.

    Parameters
    ----------
    input : dask.array.Array of shape (N, C_in, L_in) or (C_in, L_in)
        Chunked in any way.
    weight, bias : ndarray
        In memory. They are copied.
    stride, padding, output_padding, groups, dilation, padding_mode
        As `fastconv1d.conv_transpose1d`.
    activation, pre_activation, residual, residual_scale, residual_position, layout, algorithm
        As `conv1d`.

    Returns
    -------
    dask.array.Array
        As `conv1d`; for stride s chunks are s times as long as the input's.

    Raises
    ------
    ValueError, TypeError, OverflowError
        As `conv1d`.

    Notes
    -----
    As `conv1d`.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from fastconv1d.dask import conv_transpose1d
    >>> x = da.ones((2, 100), chunks=(2, 30), dtype=np.float32)
    >>> conv_transpose1d(x, np.ones((2, 4, 8), np.float32), stride=4, padding=2).chunks
    ((4,), (120, 120, 120, 40))
    """
    around = Around(pre_activation, activation, residual_scale, residual_position)
    window = stride, dilation, groups, output_padding, padding, padding_mode
    spec = Spec(True, 0, *window, around, None, layout, algorithm)
    return _convolve(spec, input, weight, bias, residual)


def apply(network: Layer, input: da.Array) -> da.Array:
    """Apply a layer or a network to a Dask array, lazily and in one pass.

    Parameters
    ----------
    network : Layer
        Whose outputs read windows of the input: convolutions, activations, pooling, norms over
        channels, and networks of them.
        As it is now: later changes of its parameters are not seen.
    input : dask.array.Array of shape (N, C_in, L_in) or (C_in, L_in)
        Chunked in any way, of the layers' dtype. A single layer of layout 'NLC' takes (N, L_in,
        C_in) or (L_in, C_in).

    Returns
    -------
    dask.array.Array
        Chunked as the input along batch and length, up to the network's stride, and one chunk of
        all channels.

    Raises
    ------
    ValueError, TypeError, OverflowError
        If a layer does not take what comes to it, or cannot be computed from pieces of its input;
        the text names the layer.

    See Also
    --------
    fastconv1d.receptive_field : What an output reads.

    Notes
    -----
    The result has the bits of ``network(input)`` in eval mode on the whole array; where the BLAS
    engine or `algorithm` 'winograd' computes, those of a call in deterministic mode. A task for
    each output chunk runs all layers over the chunk and the receptive field around it, each no
    further than the next one reads.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from fastconv1d import Conv1d, ReLU, Residual, Sequential
    >>> from fastconv1d.dask import apply
    >>> net = Sequential(Conv1d(2, 8, 3, stride=2, padding=1), Residual(ReLU(), Conv1d(8, 8, 1)))
    >>> apply(net, da.ones((2, 100), chunks=(2, 30), dtype=np.float32)).chunks
    ((8,), (15, 15, 15, 5))
    """
    lowered(network)  # which says what is no network
    network = network._as_it_is({})
    operations = lowered(network)
    check_lines(operations)
    if isinstance(network, Convolution):
        spec, (weight, bias) = Convolve("", network, 0, 1).as_now()
        return _convolve(spec, input, weight, bias, None)
    source = _Chunked("apply", input)
    dummy, _ = arrays.batched(type(network).__name__, source.stand_in())
    pipeline, shape = pieces.of_operations(fuse(operations), lowered(network), dummy)
    return _computed("apply", pipeline, [source], shape, dummy.dtype)


def conv1d_backward(
    grad_output: da.Array,
    input: da.Array,
    weight: ArrayLike,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    algorithm: str = "auto",
    output_mask: Sequence[bool] = (True, True, True),
) -> tuple[da.Array | None, da.Array | None, da.Array | None]:
    """Return the gradients of `conv1d` by input, weight and bias, lazily.

    Parameters
    ----------
    grad_output : dask.array.Array of shape (N, C_out, L_out) or (C_out, L_out)
    input : dask.array.Array of shape (N, C_in, L_in) or (C_in, L_in)
        Both chunked in any way.
    weight : ndarray of shape (C_out, C_in / groups, K)
        In memory.
    stride, padding, dilation, groups, padding_mode, algorithm, output_mask
        As `fastconv1d.conv1d_backward`.

    Returns
    -------
    grad_input : dask.array.Array of the input's shape, or None
        Chunked as the input along batch and length.
    grad_weight : dask.array.Array of the weight's shape, or None
    grad_bias : dask.array.Array of shape (C_out,), or None
        One chunk each.

    Raises
    ------
    ValueError, TypeError, OverflowError
        As `fastconv1d.conv1d_backward`, before anything is computed.

    Notes
    -----
    `grad_input` has the bits of the call on whole arrays. The other two are sums of partial sums,
    one for each chunk of `grad_output`, added up in a tree that the chunks alone give: they are
    the same for any number of workers and threads, and another order of sums than the whole call.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from fastconv1d.dask import conv1d_backward
    >>> x, g = da.ones((1, 9), chunks=3), da.ones((1, 8), chunks=4)
    >>> by_input, by_weight, by_bias = conv1d_backward(g, x, np.ones((1, 1, 2)))
    >>> by_input.compute()
    array([[1., 2., 2., 2., 2., 2., 2., 2., 1.]])
    >>> by_weight.compute(), by_bias.compute()
    (array([[[8., 8.]]]), array([8.]))
    """
    spec = Spec(False, 0, stride, dilation, groups, 0, padding, padding_mode, algorithm=algorithm)
    return _backward(spec, grad_output, input, weight, output_mask)


def conv_transpose1d_backward(
    grad_output: da.Array,
    input: da.Array,
    weight: ArrayLike,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    *,
    padding_mode: str = "zeros",
    algorithm: str = "auto",
    output_mask: Sequence[bool] = (True, True, True),
) -> tuple[da.Array | None, da.Array | None, da.Array | None]:
    """Return the gradients of `conv_transpose1d` by input, weight and bias, lazily.

    Parameters
    ----------
    grad_output : dask.array.Array of shape (N, C_out, L_out) or (C_out, L_out)
    input : dask.array.Array of shape (N, C_in, L_in) or (C_in, L_in)
        Both chunked in any way.
    weight : ndarray of shape (C_in, C_out / groups, K)
        In memory.
    stride, padding, output_padding, groups, dilation, padding_mode, algorithm, output_mask
        As `fastconv1d.conv_transpose1d_backward`.

    Returns
    -------
    grad_input, grad_weight, grad_bias : dask.array.Array or None
        As `conv1d_backward`.

    Raises
    ------
    ValueError, TypeError, OverflowError
        As `conv1d_backward`.

    Notes
    -----
    As `conv1d_backward`; the partial sums are those of chunks of the input.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from fastconv1d.dask import conv_transpose1d_backward
    >>> x, g = da.ones((1, 8), chunks=3), da.ones((1, 9), chunks=4)
    >>> by_input, _, _ = conv_transpose1d_backward(g, x, np.ones((1, 1, 2)))
    >>> by_input.compute()
    array([[2., 2., 2., 2., 2., 2., 2., 2.]])
    """
    window = stride, dilation, groups, output_padding, padding, padding_mode
    spec = Spec(True, 0, *window, algorithm=algorithm)
    return _backward(spec, grad_output, input, weight, output_mask)


# ---- what the functions share


def _convolve(
    spec: Spec, input: Any, weight: ArrayLike, bias: ArrayLike | None, residual: Any
) -> da.Array:
    for name, parameter in (("weight", weight), ("bias", bias)):
        _check_in_memory(name, parameter)
    sources = [_Chunked(spec.name, input, spec.channels_last)]
    more = residual
    if isinstance(residual, da.Array):
        more = _Chunked(spec.name, residual, spec.channels_last).stand_in()
    call = forward.checked(spec, sources[0].stand_in(), weight, bias, more)
    parameters = Parameters(*map(_copied, (call.weight, call.bias)))
    spec = spec._replace(steps=call.steps)
    stage = Convolved(spec, parameters, call.geometry, call.x.shape[2], call.geometry.l_out)
    if residual is not None:
        sources.append(_Chunked(spec.name, da.asarray(residual), spec.channels_last))
    shape = call.x.shape[0], call.geometry.c_out, call.geometry.l_out
    return _computed(spec.name, Pipeline.of(stage, len(sources)), sources, shape, call.x.dtype)


def _check_in_memory(name: str, parameter: Any) -> None:
    if isinstance(parameter, da.Array):
        raise TypeError(
            f"{name} should be an array in memory, got a Dask array of {parameter.npartitions} "
            f"chunks: pass {name}.compute()"
        )
    if arrays.is_complex32_call(parameter):
        raise TypeError(f"complex32 is not implemented for Dask arrays, got a {name} of complex32")


def _copied(parameter: NDArray[Any] | None) -> Any:
    return None if parameter is None else np.array(parameter, order="C")


def _backward(
    spec: Spec, grad_output: Any, input: Any, weight: ArrayLike, output_mask: Sequence[bool]
) -> tuple[da.Array | None, da.Array | None, da.Array | None]:
    mask = adjoint.checked_mask(output_mask)
    _check_in_memory("weight", weight)
    name = f"{spec.name}_backward"
    x, g = _Chunked(name, input), _Chunked(name, grad_output)
    dtype, stored = np.asarray(weight).dtype, arrays.is_stored(x.stand_in())
    dummies = g.stand_in(), x.stand_in()
    if stored:
        adjoint.check_stored(*dummies)
        weight = arrays.as_float32("weight", weight)
        dummies = g.stand_in(np.float32), x.stand_in(np.float32)
    of_g, of_x, w, geometry, _ = adjoint.checked(spec.transposed, *dummies, weight, spec.geometry)
    g = g.like(x)
    _, _, stride, dilation, left, right, _, _ = geometry
    pads = left, right
    engine = choose_engine(
        spec.algorithm, w.dtype.char, w.shape, stride, dilation, pads, transposed=False
    )
    by_input = by_weight = by_bias = None
    if mask[0]:
        stage = Convolved.gradient(spec, _copied(w), geometry, engine, of_g.shape, of_x.shape)
        by_input = _computed(
            name, Pipeline.of(stage), [g], of_x.shape, x.array.dtype.newbyteorder("="), x
        )
    if mask[1]:
        pair = (x, g) if spec.transposed else (g, x)
        correlation = WeightGradient(
            spec.transposed, w.shape, w.dtype, geometry, engine, pair[1].bounds[-1]
        )
        by_weight = _summed(f"{name}-weight", correlation, pair, w.shape, dtype)
    if mask[2]:
        channels = of_g.shape[1]
        summing = BiasGradient(spec.algorithm, channels, w.dtype)
        by_bias = _summed(f"{name}-bias", summing, (g,), (channels,), dtype)
    return by_input, by_weight, by_bias


# ---- chunks


class _Form(NamedTuple):
    """How the blocks of an array lie in memory."""

    batched: bool
    channels_last: bool
    channel_blocks: int


class _Chunked:
    """A Dask array as batch, channels and positions, whatever its layout.

    Attributes
    ----------
    array : dask.array.Array
    form : _Form
    batches : tuple of int
        Sizes of its chunks along the batch.
    bounds : list of int
        Where its chunks begin along the positions, and its length.
    """

    def __init__(self, function: str, array: Any, channels_last: bool = False) -> None:
        self.array = _checked(function, array)
        if array.ndim not in (2, 3):
            self.form = _Form(True, channels_last, 1)
            return  # which is an error of the function
        batch, positions = array.ndim == 3, array.ndim - 1 - channels_last
        channels = 2 * array.ndim - 3 - positions
        self.form = _Form(batch, channels_last, len(array.chunks[channels]))
        self.batches: tuple[int, ...] = array.chunks[0] if batch else (1,)
        self.bounds: list[int] = np.cumsum([0, *array.chunks[positions]]).tolist()
        items = max(self.batches) * max(array.chunks[channels])
        self._position_bytes = items * array.dtype.itemsize

    def stand_in(self, dtype: Any = None) -> NDArray[Any]:
        """Return an array of the same shape, and dtype, that takes no memory."""
        dtype = self.array.dtype.newbyteorder("=") if dtype is None else dtype
        zero = np.zeros((), dtype)
        return np.broadcast_to(zero, self.array.shape)

    def like(self, other: _Chunked) -> _Chunked:
        """Return the same with the other's chunks along the batch."""
        if not self.form.batched or self.batches == other.batches:
            return self
        array = self.array.rechunk({0: other.batches})
        return _Chunked("", array, self.form.channels_last)

    def key(self, n: int, channel: int, position: int) -> tuple[Any, ...]:
        """Return the key of a block."""
        last = (position, channel) if self.form.channels_last else (channel, position)
        return (self.array.name, n, *last) if self.form.batched else (self.array.name, *last)

    def read(
        self, n: int, intervals: Iterable[Interval], graph: dict[Any, Any]
    ) -> tuple[tuple[Any, ...], list[TaskRef]]:
        """Return how `_pieces` makes intervals of blocks, and these.

        Tasks for parts of blocks are added to the graph.
        """
        recipe = []
        blocks: list[TaskRef] = []
        for first, last in intervals:
            slices = []
            for at, low, high in self._parts(first, last):
                keys = [self.key(n, channel, at) for channel in range(self.form.channel_blocks)]
                size = self.bounds[at + 1] - self.bounds[at]
                if size * self._position_bytes >= _LARGE_BLOCK and 4 * (high - low) <= size:
                    keys = [self._part(key, low, high, graph) for key in keys]
                    slices.append((0, high - low))
                else:
                    slices.append((low, high))
                blocks += map(TaskRef, keys)
            recipe.append((first, tuple(slices)))
        return tuple(recipe), blocks

    def _part(
        self, key: tuple[Any, ...], low: int, high: int, graph: dict[Any, Any]
    ) -> tuple[Any, ...]:
        name, *place = key
        part = (f"{name}-part", *place, low, high)
        if part not in graph:
            graph[part] = Task(part, _part_of, TaskRef(key), self.form.channels_last, low, high)
        return part

    def _parts(self, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """Yield which blocks have the positions, and where."""
        at = bisect_right(self.bounds, first) - 1
        while at + 1 < len(self.bounds) and self.bounds[at] < last:
            start, end = self.bounds[at : at + 2]
            if start < end:
                yield at, max(first, start) - start, min(last, end) - start
            at += 1


def _checked(function: str, array: Any) -> da.Array:
    if not isinstance(array, da.Array):
        raise TypeError(
            f"{function} takes Dask arrays, got {type(array).__name__}: "
            "dask.array.from_array(x, chunks=...) makes one of an array"
        )
    if not isinstance(array._meta, np.ndarray):
        raise TypeError(
            f"{function} takes Dask arrays of NumPy arrays, got chunks of type "
            f"{type(array._meta).__name__}: x.map_blocks(np.asarray) may make them"
        )
    if any(math.isnan(size) for sizes in array.chunks for size in sizes):
        raise ValueError(
            f"{function} needs the sizes of all chunks, got {shown(array.chunks)}: "
            "x.compute_chunk_sizes() finds them"
        )
    return array


# ---- graphs


class _Shared:
    """What all tasks of a graph share: in each process there is one, with the weight it has packed.

    Attributes
    ----------
    token : str
        Of equal ones.
    work : Pipeline, WeightGradient or BiasGradient
    forms : list of _Form
        Of the arrays that tasks read.
    channels : int
        Of the output.
    """

    def __init__(self, token: str, work: Any, forms: list[_Form], channels: int) -> None:
        self.token, self.work, self.forms, self.channels = token, work, forms, channels

    def __reduce__(self) -> Any:
        return _the_one, (self.token, self.work, self.forms, self.channels)


_shared: WeakValueDictionary[str, _Shared] = WeakValueDictionary()
_sharing = threading.Lock()


def _the_one(token: str, work: Any, forms: list[_Form], channels: int) -> _Shared:
    """Return the process's own where it has one."""
    with _sharing:
        made = _shared.get(token)
        if made is None:
            made = _shared[token] = _Shared(token, work, forms, channels)
        return made


def _share(
    name: str, work: Any, sources: Sequence[_Chunked], channels: int, *also: Any
) -> tuple[str, dict[Any, Any], TaskRef]:
    """Return the name of an array, and the beginning of its graph: what its tasks share.

    The name is that of all that the array depends on, `also` among it.
    """
    forms = [source.form for source in sources]
    names = [source.array.name for source in sources]
    content = pickle.dumps((work, forms, names, also), protocol=5)
    token = hashlib.blake2b(content, digest_size=16).hexdigest()
    key = f"{name}-layer-{token}"
    return (
        f"{name}-{token}",
        {key: DataNode(key, _the_one(token, work, forms, channels))},
        TaskRef(key),
    )


def _read(
    sources: Sequence[_Chunked], n: int, wanted: Sequence[list[Interval]], graph: dict[Any, Any]
) -> tuple[list[Any], list[TaskRef]]:
    """Return how tasks make intervals of each source, and the blocks for all of them."""
    recipes, blocks = [], []
    for source, intervals in zip(sources, wanted, strict=True):
        recipe, read = source.read(n, intervals, graph)
        recipes.append(recipe)
        blocks += read
    return recipes, blocks


def _computed(
    name: str,
    pipeline: Pipeline,
    sources: list[_Chunked],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    like: _Chunked | None = None,
) -> da.Array:
    """Return the output (N, C, L) of a pipeline in the layout of its first source.

    Chunks along the positions are those of `like`, or follow the first source.
    """
    source = sources[0]
    _, channels, length = shape
    batched, channels_last, _ = source.form
    if 0 in shape:
        whole = (shape[0], length, channels) if channels_last else shape
        return da.zeros(whole if batched else whole[1:], dtype=dtype, chunks=-1)
    sources = [source, *(other.like(source) for other in sources[1:])]
    bounds = pieces.follow(source.bounds, pipeline.step, length) if like is None else like.bounds
    name, graph, layer = _share(name, pipeline, sources, channels, bounds, dtype)
    for at, (first, last) in enumerate(pairwise(bounds)):
        wanted = [pipeline.needs(first, last) if first < last else []]
        wanted += [[(first, last)] for _ in sources[1:]]
        for n, size in enumerate(source.batches):
            recipes, blocks = _read(sources, n, wanted, graph)
            place = (at, 0) if channels_last else (0, at)
            key = (name, n, *place) if batched else (name, *place)
            graph[key] = Task(key, _output, layer, dtype, size, first, last, recipes, *blocks)
    positions = tuple(b - a for a, b in pairwise(bounds))
    chunks: tuple[Any, ...] = ((channels,), positions)
    chunks = chunks[::-1] if channels_last else chunks
    chunks = (source.batches, *chunks) if batched else chunks
    return _array(name, graph, sources, chunks, dtype)


def _array(
    name: str, graph: dict[Any, Any], sources: Sequence[_Chunked], chunks: Any, dtype: Any
) -> da.Array:
    dependencies: Any = [source.array for source in sources]
    layers = HighLevelGraph.from_collections(name, graph, dependencies=dependencies)
    return da.Array(layers, name, chunks, dtype, meta=np.empty((0,) * len(chunks), dtype))


def _summed(
    name: str, work: Any, sources: Sequence[_Chunked], shape: tuple[int, ...], dtype: Any
) -> da.Array:
    """Return the sum of what `work` makes of each chunk of the first source, as one chunk."""
    first_source = sources[0]
    name, graph, layer = _share(name, work, sources, shape[0], dtype)
    parts = []
    for n in range(len(first_source.batches)):
        for first, last in pairwise(first_source.bounds):
            if first == last or 0 in first_source.array.shape:
                continue
            wanted = [[(first, last)]] + [work.needs(first, last) for _ in sources[1:]]
            recipes, blocks = _read(sources, n, wanted, graph)
            key = (f"{name}-part", n, first)
            graph[key] = Task(key, _partial_sum, layer, first, last, recipes, *blocks)
            parts.append(key)
    level = 0
    while len(parts) > 1:
        sums = []
        for i in range(0, len(parts), _SUMMANDS):
            key = (f"{name}-sum", level, i)
            graph[key] = Task(key, _sum, *map(TaskRef, parts[i : i + _SUMMANDS]))
            sums.append(key)
        parts, level = sums, level + 1
    result = (name, *(0 for _ in shape))
    graph[result] = Task(result, _rounded, shape, dtype, *map(TaskRef, parts))
    return _array(name, graph, sources, tuple((size,) for size in shape), dtype)


# ---- tasks


def _part_of(block: Any, channels_last: bool, low: int, high: int) -> NDArray[Any]:
    """Return a copy of positions of a block, which may then be forgotten."""
    block = np.asarray(block)
    return np.array(block[..., low:high, :] if channels_last else block[..., low:high])


def _pieces(form: _Form, recipe: tuple[Any, ...], blocks: Iterator[Any]) -> list[Piece]:
    batched, channels_last, channel_blocks = form
    axis_l, axis_c = (-2, -1) if channels_last else (-1, -2)
    result = []
    for first, slices in recipe:
        along = []
        for low, high in slices:
            place = slice(low, high)
            cut = (..., place, slice(None)) if channels_last else (..., place)
            beside = [np.asarray(next(blocks))[cut] for _ in range(channel_blocks)]
            along.append(beside[0] if channel_blocks == 1 else np.concatenate(beside, axis_c))
        values = arrays.operand(along[0] if len(along) == 1 else np.concatenate(along, axis_l))
        values = values if batched else values[np.newaxis]
        result.append(Piece(first, values.swapaxes(1, 2) if channels_last else values))
    return result


def _output(
    layer: _Shared,
    dtype: np.dtype[Any],
    n_batch: int,
    first: int,
    last: int,
    recipes: Sequence[Any],
    *blocks: Any,
) -> NDArray[Any]:
    """Return one chunk of an output."""
    batched, channels_last, _ = layer.forms[0]
    shape = n_batch, layer.channels, last - first
    y = np.empty((n_batch, shape[2], shape[1]) if channels_last else shape, dtype)
    if y.size:
        left = iter(blocks)
        given = [_pieces(*each, left) for each in zip(layer.forms, recipes, strict=True)]
        layer.work.compute(given, first, last, y.swapaxes(1, 2) if channels_last else y)
    return y if batched else y[0]


def _partial_sum(
    layer: _Shared, first: int, last: int, recipes: Sequence[Any], *blocks: Any
) -> NDArray[Any]:
    left = iter(blocks)
    given = [_pieces(*each, left) for each in zip(layer.forms, recipes, strict=True)]
    result: NDArray[Any] = layer.work.compute(given, first, last)
    return result


def _sum(*parts: NDArray[Any]) -> NDArray[Any]:
    total = parts[0].copy()
    with np.errstate(over="ignore", invalid="ignore"):
        for part in parts[1:]:
            total += part
    return total


def _rounded(shape: tuple[int, ...], dtype: np.dtype[Any], *total: NDArray[Any]) -> NDArray[Any]:
    """Return a sum in the dtype of the parameter; zeros for no summands."""
    with np.errstate(over="ignore"):
        return total[0].astype(dtype) if total else np.zeros(shape, dtype)
