"""Weight files with flipped, cut, moved and rewritten bytes: a state dict or WeightFileError."""

import functools
import json
import os
import struct

import numpy as np

import fastconv1d

from . import hostile

SUFFIXES = (".safetensors", ".npz")
DTYPES = ("float32", "float64", "float16", "int64", "uint8", "bool", "complex64")
NAMES = ("F64", "F32", "F16", "BF16", "I64", "U8", "BOOL", "C64", "F8_E4M3", "F4", "x", "", None)
# Arrays may hold twice the bytes of a file (bfloat16), or what a small npz unpacks to.
UNPACKED = 64 * 2**20


def draw_state(rng):
    state = {}
    for i in range(rng.choice((0, 1, 2, 3, 6))):
        shape = tuple(rng.choice((0, 1, 2, 3, 8)) for _ in range(rng.randrange(4)))
        values = np.arange(int(np.prod(shape)), dtype=np.float64).reshape(shape) % 2
        state[rng.choice(("w", "a.weight", "ä", "", "x" * 40)) + str(i)] = values.astype(
            rng.choice(DTYPES)
        )
    return state


@functools.cache
def _template(suffix, number):
    """Return the bytes of one of a few files."""
    import random

    return whole(draw_state(random.Random(number)), suffix)


def whole(state, suffix):
    """Return the bytes of the file that holds a state dict."""
    path = f"whole.{os.getpid()}{suffix}"
    fastconv1d.save_file(state, path)
    with open(path, "rb") as file:
        return file.read()


def flip_bits(rng, content):
    for _ in range(rng.choice((1, 1, 2, 8))):
        if content:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def set_bytes(rng, content):
    at = rng.randrange(len(content) + 1)
    width = rng.choice((1, 2, 4, 8))
    content[at : at + width] = rng.choice(
        (bytes(width), b"\xff" * width, b"\x7f" * width, rng.randbytes(width))
    )


def cut(rng, content):
    del content[rng.randrange(len(content) + 1) :]


def remove(rng, content):
    at = rng.randrange(len(content) + 1)
    del content[at : at + rng.choice((1, 3, 8, 100))]


def repeat(rng, content):
    at = rng.randrange(len(content) + 1)
    content[at:at] = content[at : at + rng.choice((1, 8, 64))] * rng.choice((1, 2, 50))


def set_header_length(rng, content):
    lengths = (0, 1, 7, len(content), 2**31, 2**32, 2**62, 2**63, 2**64 - 1, rng.randrange(999))
    content[:8] = struct.pack("<Q", rng.choice(lengths))


def rewrite_header(rng, content):
    """Put other values into the header of a safetensors file, which stays valid JSON."""
    try:
        length = struct.unpack("<Q", content[:8])[0]
        header = json.loads(bytes(content[8 : 8 + length]))
        entry = header[rng.choice(sorted(header))]
        key = rng.choice(("dtype", "shape", "data_offsets"))
        entry[key] = {
            "dtype": lambda: rng.choice(NAMES),
            "shape": lambda: [hostile_number(rng) for _ in range(rng.randrange(4))],
            "data_offsets": lambda: [hostile_number(rng) for _ in range(rng.choice((2, 2, 1, 3)))],
        }[key]()
        if rng.random() < 0.2:
            header[rng.choice(("__metadata__", "w", "\ud800", "a" * 5000))] = rng.choice(
                ({}, [], entry, 7, {"a": "b"}, {"a": 1})
            )
        text = json.dumps(header, allow_nan=True).encode()
    except (ValueError, LookupError, TypeError, RecursionError, struct.error):
        return
    content[:] = struct.pack("<Q", len(text)) + text + content[8 + length :]


def nest_header(rng, content):
    text = b"[" * rng.choice((10, 1000, 100_000)) + b"]" * rng.choice((0, 10, 1000))
    content[:] = struct.pack("<Q", len(text)) + text


def hostile_number(rng):
    value = hostile.hostile_value(rng)
    return value if isinstance(value, (int, float, str)) or value is None else rng.randrange(40)


MUTATIONS = (
    flip_bits, set_bytes, cut, remove, repeat, set_header_length, rewrite_header, rewrite_header,
    rewrite_header, nest_header,
)  # fmt: skip


def load(content):
    path = f"mutated.{os.getpid()}"
    with open(path, "wb") as file:
        file.write(content)
    return fastconv1d.load_file(path)


def run(rng):
    """Load one mutated file."""
    suffix = rng.choice(SUFFIXES[:1] * 3 + SUFFIXES[1:])
    content = bytearray(_template(suffix, rng.randrange(40)))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(MUTATIONS)(rng, content)
    try:
        state = hostile.quickly(load, content)
    except fastconv1d.WeightFileError as error:
        assert str(error), "an error without a text"
        return
    size = sum(array.nbytes for array in state.values())
    assert size <= max(2 * len(content), UNPACKED * (suffix == ".npz")), f"{size} bytes"
    for key, array in state.items():
        assert isinstance(key, str)
        assert array.dtype.kind in "biufc"
        array.tobytes()  # all of it can be read
