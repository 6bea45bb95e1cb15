"""The kinds of cases; each case follows from the seed and its number alone."""

import random

import numpy as np
from layers import (
    Library,
    assert_layer_accurate,
    assert_layer_exact,
    assert_same_bits,
    draw_layer,
    random_view,
)

import fastconv1d

from . import files, hostile, mutated

LIBRARIES = [Library("auto"), Library("blas")]


def layers(rng):
    """A random layer: exact on integers, accurate on floats, forward and gradients."""
    layer, lib = draw_layer(rng.choice), rng.choice(LIBRARIES)
    threads = rng.choice((1, 2, 3))
    with fastconv1d.num_threads(threads):
        assert_layer_exact(lib, layer, rng.randrange(2**32))
        assert_layer_accurate(lib, layer, layer.normal_arrays(rng.randrange(2**32)))


def layouts(rng):
    """Arrays with any order, sign and step of axes: the bits of contiguous ones."""
    layer, lib = draw_layer(rng.choice), rng.choice(LIBRARIES)
    views = np.random.default_rng(rng.randrange(2**32))
    arrays = layer.normal_arrays(rng.randrange(2**32))
    x, w, b, g = arrays
    vx, vw, vb, vg = (None if a is None else random_view(a, views) for a in arrays)
    assert_same_bits(layer.forward(lib)(vx, vw, vb), layer.forward(lib)(x, w, b), layer)
    results = layer.backward(lib)(vg, vx, vw), layer.backward(lib)(g, x, w)
    for result, bits in zip(*results, strict=True):
        assert_same_bits(result, bits, layer)


KINDS = {"hostile": hostile.run, "files": files.run, "layers": layers, "layouts": layouts}
if mutated.torch is not None:  # an extra
    KINDS["mutated"] = mutated.run


def run(kinds, seed, number):
    """Run one case; it raises whatever it finds."""
    rng = random.Random(f"{seed}:{number}")
    KINDS[rng.choice(kinds)](rng)
