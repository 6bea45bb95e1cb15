"""``bench --sweep SEED``: layers as networks have them, drawn at random, and what losers share.

A layer is a kind (dense, grouped, depthwise, depthwise with multiplier) with a kernel size, stride,
dilation, batch and length of its own; powers of two, odd and awkward sizes all occur. The same seed
gives the same layers, whatever their number.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .layers import Layer
from .report import best_peer, geomean, ratio_to

CHANNELS = (
    *(1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 30, 32, 40, 48, 64, 72, 80, 96, 100, 120, 128, 130),
    *(160, 192, 200, 256, 257, 300, 320, 384, 400, 512, 513, 640, 768, 1000, 1024),
)
# kernel sizes by how often networks have them
SIZES = {
    **{3: 18, 1: 11, 5: 10, 7: 9, 4: 8, 2: 5, 9: 5, 8: 5, 11: 5, 16: 4, 15: 3, 6: 3, 10: 3, 31: 3},
    **{13: 2, 21: 2, 25: 2, 41: 2, 17: 1, 33: 1, 51: 1, 63: 1, 80: 1, 101: 1, 128: 1},
}
STRIDES = {1: 62, 2: 15, 3: 4, 4: 9, 5: 5, 8: 5}
UPSAMPLING = {1: 10, 2: 36, 3: 8, 4: 25, 5: 8, 8: 13}
DILATIONS = {1: 70, 2: 8, 3: 4, 4: 5, 8: 4, 9: 3, 16: 3, 32: 2, 64: 1}
BATCHES = {1: 52, 2: 8, 4: 10, 8: 10, 16: 8, 32: 6, 64: 6}
KINDS = {"dense": 58, "grouped": 14, "depthwise": 18, "multiplied": 10}
LONGEST = 100_000
LARGE_BATCH, LONGEST_OF_LARGE_BATCH = 16, 4096
# More than the call itself, a second at most; arrays that leave room for the copies of the peers.
FLOPS = (2e4, 2e9)
ELEMENTS, WEIGHTS = 30_000_000, 20_000_000
LOST = 0.95  # of the best peer's speed: below it the layer is named


def random_layers(seed: int, count: int) -> list[Layer]:
    """Return layers that are the first `count` of those of a seed."""
    rng = np.random.default_rng(seed)
    layers: list[Layer] = []
    while len(layers) < count:
        layer = _draw(rng, f"s{seed}_{len(layers):03d}")
        if layer is not None and _fits(layer):
            layers.append(layer)
    return layers


def _pick(rng: np.random.Generator, weights: Mapping[Any, int]) -> Any:
    shares = np.array([*weights.values()], float)
    return [*weights][int(rng.choice(len(shares), p=shares / shares.sum()))]


def _draw(rng: np.random.Generator, name: str) -> Layer | None:
    transposed = bool(rng.random() < 0.3)
    kernel = _pick(rng, SIZES)
    stride = _pick(rng, UPSAMPLING if transposed else STRIDES)
    if transposed and kernel < stride and rng.random() < 0.9:
        return None  # leaves columns that no tap reaches
    dilation = _pick(rng, DILATIONS)
    if transposed and rng.random() < 0.8:
        dilation = 1
    n_batch = _pick(rng, BATCHES)
    c_in, c_out, groups = _channels(rng)
    span = dilation * (kernel - 1) + 1
    around = max(span - stride, 0) if transposed else span - 1
    padding = int(rng.choice([0, around // 2, 0 if transposed else around], p=[0.35, 0.55, 0.1]))
    longer = int(transposed and stride > 1 and rng.random() < 0.2)
    length = _length(rng, n_batch)
    sizes = (n_batch, c_in, c_out, length, kernel, stride, padding, dilation, groups, longer)
    return Layer(name, transposed, "drawn at random", *sizes)


def _channels(rng: np.random.Generator) -> tuple[int, int, int]:
    """Return input and output channels and groups."""
    kind = _pick(rng, KINDS)
    c_in, c_out = (int(rng.choice(CHANNELS)) for _ in "io")
    if kind == "grouped":
        groups = int(rng.choice([2, 4, 8, 16]))
        return max(c_in // groups, 1) * groups, max(c_out // groups, 1) * groups, groups
    if kind == "dense":
        return c_in, c_in if rng.random() < 0.35 else c_out, 1
    channels = max(c_in, 8)
    times = 1 if kind == "depthwise" else int(rng.choice([2, 3, 4]))
    return channels, channels * times, channels


def _length(rng: np.random.Generator, n_batch: int) -> int:
    """Return a length, even on a logarithmic scale: a power of two, an odd one or any."""
    length = LONGEST ** rng.random()
    if n_batch >= LARGE_BATCH:
        length = min(length, LONGEST_OF_LARGE_BATCH ** rng.random())
    kind = rng.random()
    if kind < 0.35:
        return int(2 ** round(math.log2(length)))
    return int(length) | 1 if kind < 0.7 else max(round(length), 1)


def _fits(layer: Layer) -> bool:
    if not layer.transposed and layer.l_in + 2 * layer.padding < _span(layer):
        return False
    if layer.l_out < 1 or math.prod(layer.weight_shape) > WEIGHTS:
        return False
    largest = layer.n_batch * max(layer.c_in * layer.l_in, layer.c_out * layer.l_out)
    return largest <= ELEMENTS and FLOPS[0] <= layer.flops(np.float32) <= FLOPS[1]


def _span(layer: Layer) -> int:
    return layer.dilation * (layer.kernel_size - 1) + 1


# ---- what losers share ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Cause:
    """A class of layers that are slow for one reason; the first that holds is a layer's."""

    name: str
    holds: Callable[[Layer], bool]


def _is_depthwise(layer: Layer) -> bool:
    return layer.groups > 1 and layer.groups == layer.c_in


def _reads_much_padding(layer: Layer) -> bool:
    """Tell whether half of the products are of padding, where no tap needs to be multiplied."""
    reach = layer.l_out if layer.transposed else layer.l_in
    return _span(layer) > 2 * reach and layer.padding * 2 >= reach


def _is_large(shape: Sequence[int], n_bytes: int) -> bool:
    return 4 * math.prod(shape) >= n_bytes


def _is_power_of_two(size: int) -> bool:
    return size & (size - 1) == 0


CAUSES = (
    Cause("one position", lambda x: max(x.l_in, x.l_out) == 1),
    Cause("taps on padding alone", _reads_much_padding),
    Cause("depthwise, short", lambda x: _is_depthwise(x) and x.l_out <= 64),
    Cause("depthwise", _is_depthwise),
    Cause("many short items", lambda x: x.n_batch >= 8 and x.l_out <= 2 * x.kernel_size),
    Cause("few columns", lambda x: x.n_batch * x.l_out <= 16),
    Cause("large weights", lambda x: _is_large(x.weight_shape, 1 << 23)),
    Cause("transposed, odd stride", lambda x: x.transposed and x.stride not in (1, 2, 4, 8)),
    Cause("large output", lambda x: _is_large((x.n_batch, x.c_out, x.l_out), 1 << 24)),
    Cause("few channels", lambda x: min(x.c_in, x.c_out) // x.groups < 8),
    Cause("length a power of two", lambda x: x.l_in >= 64 and _is_power_of_two(x.l_in)),
    Cause("the rest", lambda x: True),
)


def cause(layer: Layer) -> str:
    """Return the class that a layer belongs to, whether it is slow or not."""
    return next(each.name for each in CAUSES if each.holds(layer))


def described(layer: Layer) -> str:
    """Return a line with a layer's sizes."""
    parts = [f"N{layer.n_batch} {layer.c_in} -> {layer.c_out}", f"K{layer.kernel_size}"]
    sizes = {"s": layer.stride, "d": layer.dilation, "g": layer.groups}
    parts += [f"{letter}{size}" for letter, size in sizes.items() if size > 1]
    parts += [f"p{layer.padding}"] if layer.padding else []
    return " ".join([*parts, f"L{layer.l_in}", *(["transposed"] if layer.transposed else [])])


def layer_of(row: Mapping[str, Any]) -> Layer:
    """Return the layer that a row was measured of."""
    return Layer(**{name: value for name, value in row["sizes"].items() if name != "l_out"})


@dataclass(frozen=True)
class Cluster:
    """The rows of one cause: how many, their geometric mean to the best peer, and the losers."""

    cause: str
    count: int
    geomean: float
    losers: Sequence[tuple[float, str, Mapping[str, Any]]]  # ratio, peer, row; the worst first


def clusters(rows: Sequence[Mapping[str, Any]]) -> list[Cluster]:
    """Group rows that were compared with a peer by cause, those with most losers first."""
    grouped: dict[str, list[tuple[float, str, Mapping[str, Any]]]] = {}
    for row in rows:
        peer = best_peer(row)
        ratio = ratio_to(row, peer)
        if peer is not None and ratio is not None:
            grouped.setdefault(cause(layer_of(row)), []).append((ratio, peer, row))
    found = []
    for name, entries in grouped.items():
        losers = sorted((e for e in entries if e[0] < LOST), key=lambda entry: entry[0])
        found.append(Cluster(name, len(entries), geomean([e[0] for e in entries]), losers))
    return sorted(found, key=lambda each: -len(each.losers))


def told(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the clusters as text: a line a cause, and one below it for each loser."""
    lines = []
    for each in clusters(rows):
        lost = f"{len(each.losers)} of {each.count} lost" if each.losers else f"{each.count} layers"
        lines.append(f"{each.cause}: {lost}, geomean to the best peer {each.geomean:.2f}")
        for ratio, peer, row in each.losers:
            lines.append(f"  {ratio:.2f} of {peer}: {row['layer']} {described(layer_of(row))}")
    return "\n".join(lines)
