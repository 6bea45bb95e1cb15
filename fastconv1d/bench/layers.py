"""The benchmark layers: read from layers.csv, sized, and filled with data."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..core.geometry import conv_length, conv_transpose_length

_COLUMNS = {
    "n_batch": "n",
    "c_in": "c_in",
    "c_out": "c_out",
    "l_in": "length",
    "kernel_size": "kernel",
    "stride": "stride",
    "padding": "padding",
    "dilation": "dilation",
    "groups": "groups",
    "output_padding": "output_padding",
}


@dataclass(frozen=True)
class Layer:
    """One row of layers.csv."""

    name: str
    transposed: bool
    network: str
    n_batch: int
    c_in: int
    c_out: int
    l_in: int
    kernel_size: int
    stride: int
    padding: int
    dilation: int
    groups: int
    output_padding: int

    @property
    def l_out(self) -> int:
        """The output length."""
        k, s, p, d = self.kernel_size, self.stride, self.padding, self.dilation
        if self.transposed:
            return conv_transpose_length(self.l_in, k, s, p, p, d, self.output_padding)
        return conv_length(self.l_in, k, s, p, p, d)

    @property
    def weight_shape(self) -> tuple[int, int, int]:
        """The weight's shape, in torch's order."""
        if self.transposed:
            return (self.c_in, self.c_out // self.groups, self.kernel_size)
        return (self.c_out, self.c_in // self.groups, self.kernel_size)

    @property
    def window(self) -> dict[str, Any]:
        """The arguments of the functions that say where the kernel goes."""
        sizes = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        return {**sizes, "output_padding": self.output_padding} if self.transposed else sizes

    @property
    def reduction(self) -> int:
        """The number of products in one output element, at most."""
        return self.c_in // self.groups * self.kernel_size

    @property
    def n_elements(self) -> int:
        """The elements of input, weight, bias and output: what a call must read or write."""
        columns = self.c_in * self.l_in + self.c_out * self.l_out
        return self.n_batch * columns + int(np.prod(self.weight_shape)) + self.c_out

    def flops(self, dtype: DTypeLike, backward: bool = False) -> int:
        """Count two operations a multiply-add (eight if complex); twice as many for gradients."""
        columns = self.l_in if self.transposed else self.l_out
        products = self.n_batch * columns * int(np.prod(self.weight_shape))
        return products * (8 if np.dtype(dtype).kind == "c" else 2) * (2 if backward else 1)


@dataclass(frozen=True)
class Problem:
    """A layer with its arrays, all N(0, 1)."""

    layer: Layer
    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    grad_output: np.ndarray


def parse_layers(lines: Iterable[str]) -> list[Layer]:
    """Read layers from the lines of a CSV file with the header of layers.csv."""
    layers = []
    for row in csv.DictReader(lines):
        if row["op"] not in ("conv", "convt"):
            raise ValueError(f"op must be conv or convt, got {row['op']!r} for {row['name']}")
        sizes: dict[str, Any] = {field: int(row[column]) for field, column in _COLUMNS.items()}
        layers.append(Layer(row["name"], row["op"] == "convt", network=row["network"], **sizes))
    return layers


def load_layers() -> list[Layer]:
    """Read the layers.csv shipped in the package."""
    text = (resources.files("fastconv1d") / "data" / "layers.csv").read_text(encoding="utf-8")
    return parse_layers(text.splitlines())


def read_layers(path: str) -> list[Layer]:
    """Read a CSV file of layers; raises ValueError for another file."""
    with open(path, encoding="utf-8") as file:
        try:
            layers = parse_layers(file)
        except KeyError as error:
            raise ValueError(f"has no column {error}, as layers.csv has") from error
    if not layers:
        raise ValueError("holds no layers")
    return layers


def select_layers(layers: Sequence[Layer], pattern: str) -> list[Layer]:
    """Keep the layers whose name matches one of the comma-separated patterns."""
    patterns = [part.strip() for part in pattern.split(",")]
    return [layer for layer in layers if any(fnmatchcase(layer.name, p) for p in patterns)]


def make_problem(layer: Layer, dtype: DTypeLike, backward: bool = False) -> Problem:
    """Draw a layer's arrays, the same every time."""
    rng = np.random.default_rng(list(layer.name.encode()))

    def normal(shape: tuple[int, ...]) -> np.ndarray:
        values = rng.standard_normal(shape)
        if np.dtype(dtype).kind == "c":
            values = values + 1j * rng.standard_normal(shape)
        return values.astype(dtype)

    grad_shape = (layer.n_batch, layer.c_out, layer.l_out) if backward else (0,)
    return Problem(
        layer,
        normal((layer.n_batch, layer.c_in, layer.l_in)),
        normal(layer.weight_shape),
        normal((layer.c_out,)),
        normal(grad_shape),
    )
