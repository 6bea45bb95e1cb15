"""Random numbers: NumPy's, other ones than those of other runtimes with the same seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..registry import Node, operator
from .attributes import integer, integers, number
from .sizes import allowed
from .types import Array, check_float, element_dtype, widened

_Run = Callable[..., Any]


def _generator(node: Node) -> np.random.Generator:
    """Return the node's generator: of a seed, its calls are the same numbers in each program."""
    seed = number(node, "seed", None)
    if seed is None:
        return np.random.default_rng()
    if math.isinf(seed):
        raise node.error(f"seed should be finite, got {seed}")
    return np.random.default_rng(int(abs(seed)))


def _normal(node: Node) -> Callable[[tuple[int, ...]], Array]:
    mean, scale, source = number(node, "mean", 0.0), number(node, "scale", 1.0), _generator(node)
    return lambda shape: source.standard_normal(shape, np.float32) * scale + mean


def _uniform(node: Node) -> Callable[[tuple[int, ...]], Array]:
    low, high, source = number(node, "low", 0.0), number(node, "high", 1.0), _generator(node)
    return lambda shape: source.random(shape, np.float32) * (high - low) + low


def _of_shape(law: Callable[[Node], Any]) -> Callable[[Node], _Run]:
    def build(node: Node) -> _Run:
        draw, dtype = law(node), element_dtype(node, integer(node, "dtype", 1))
        shape = integers(node, "shape", least=0)
        if shape is None:
            raise node.error("it should have a shape")
        return lambda: np.asarray(draw(allowed(shape, dtype))).astype(dtype)

    return build


def _of_input(law: Callable[[Node], Any]) -> Callable[[Node], _Run]:
    def build(node: Node) -> _Run:
        draw, number_of = law(node), integer(node, "dtype", None)
        dtype = None if number_of is None else element_dtype(node, number_of)
        return lambda x: np.asarray(draw(x.shape)).astype(dtype or x.dtype)

    return build


operator("RandomNormal")(_of_shape(_normal))
operator("RandomUniform")(_of_shape(_uniform))
operator("RandomNormalLike")(_of_input(_normal))
operator("RandomUniformLike")(_of_input(_uniform))


@operator("Bernoulli", since=15)
def _bernoulli(node: Node) -> _Run:
    number_of, source = integer(node, "dtype", None), _generator(node)
    dtype = None if number_of is None else element_dtype(node, number_of)

    def run(x: Array) -> Array:
        check_float(x)
        return np.asarray(source.random(x.shape) < widened(x)).astype(dtype or x.dtype)

    return run
