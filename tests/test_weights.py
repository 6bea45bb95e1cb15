"""Weight files and layers from state dicts."""

import io
import os
import re
import stat
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import fastconv1d
from fastconv1d import Conv1d, ConvTranspose1d, WeightFileError, weights
from fastconv1d.folding import fold_weight_norm

DTYPES = ("bool", "int8", "uint16", "int64", "float16", "float32", "float64", "complex64")
SUFFIXES = (".npz", ".safetensors")


def some_state():
    rng = np.random.default_rng(0)
    state = {f"a.{name}": (9 * rng.standard_normal((3, 2))).astype(name) for name in DTYPES}
    return {**state, "scalar": np.float32(2.5), "empty": np.zeros((0, 3)), "": np.ones(1)}


def write(path, content):
    path.write_bytes(content)
    return path


def npz_of(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name + ".npy", content)
    return file.getvalue()


def npy_of(header, content=b""):
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    if request.param == ".safetensors":
        pytest.importorskip("safetensors")
    return tmp_path / ("state" + request.param)


def test_files_give_back_what_they_took(path):
    state = some_state()
    fastconv1d.save_file(state, path)
    loaded = fastconv1d.load_file(str(path))
    assert set(loaded) == set(state)
    for key, value in state.items():
        assert loaded[key].dtype == value.dtype and loaded[key].shape == value.shape
        np.testing.assert_array_equal(loaded[key], value)
        assert loaded[key].flags.writeable
    assert os.listdir(path.parent) == [path.name]


def test_strided_and_swapped_values(path):
    rows = np.arange(24.0).reshape(4, 6)
    fastconv1d.save_file({"t": rows.T, "s": rows[::2, ::-1], "b": rows.astype(">f8")}, path)
    loaded = fastconv1d.load_file(path)
    np.testing.assert_array_equal(loaded["t"], rows.T)
    np.testing.assert_array_equal(loaded["s"], rows[::2, ::-1])
    np.testing.assert_array_equal(loaded["b"], rows)


def test_npz_of_numpy(tmp_path):
    state = {"f": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "z": np.zeros(4, "c16")}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **state)
        loaded = fastconv1d.load_file(tmp_path / "x.npz")
        np.testing.assert_array_equal(loaded["f"], state["f"])
        np.testing.assert_array_equal(loaded["z"], state["z"])


def test_a_failed_save_leaves_the_file(path, monkeypatch):
    fastconv1d.save_file({"a": np.ones(2)}, path)
    os.chmod(path, 0o640)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        fastconv1d.save_file({"a": np.zeros(2)}, path)
    np.testing.assert_array_equal(fastconv1d.load_file(path)["a"], np.ones(2))
    monkeypatch.undo()
    fastconv1d.save_file({"a": np.zeros(2)}, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(path.parent) == [path.name]


def test_a_link_stays_and_what_it_leads_to_is_written(path):
    real = path.with_name(f"real{path.suffix}")
    path.symlink_to(real)
    for value in (1.0, 2.0):  # to nothing, and to a file
        weights.save_file({"x": np.array(value)}, path)
        assert path.is_symlink() and not real.is_symlink()
        assert weights.load_file(real)["x"] == weights.load_file(path)["x"] == value
    assert sorted(real.parent.iterdir()) == sorted([path, real])


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("a.pt", "torch.load(path, weights_only=True)"),
        ("a.pth", "save_file({key: value.numpy()"),
        ("A.ONNX", "fastconv1d.onnx.from_onnx"),
        ("a.npy", "numpy.load"),
    ],
)
@pytest.mark.parametrize("content", [b"PK\3\4data.pkl", b"\x08\x07"])
def test_files_of_other_kinds_say_who_reads_them(tmp_path, name, reader, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightFileError, match=re.escape(reader)):
        weights.load_file(tmp_path / name)


def test_bfloat16(tmp_path):
    pytest.importorskip("safetensors")
    values = np.array([1.0, -2.5, 3e38, np.inf], np.float32)
    bits = (values.view(np.uint32) >> 16).astype("<u2")
    header = b'{"w":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}'
    content = struct.pack("<Q", len(header)) + header + bits.tobytes()
    loaded = fastconv1d.load_file(write(tmp_path / "b.safetensors", content))["w"]
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, (bits.astype(np.uint32) << 16).view("f4").reshape(2, 2))


def test_bfloat16_of_ml_dtypes(path):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    values = np.array([1, -2.5, 3e38, np.inf, 0.1, 1e-40]).reshape(3, 1, 2).astype(bfloat16)
    fastconv1d.save_file({"w": values, "t": values.T, "e": values[:0]}, path)
    if path.suffix == ".safetensors":
        assert b'"BF16"' in path.read_bytes() and b'"F32"' not in path.read_bytes()
    loaded = fastconv1d.load_file(path)
    for key, value in {"w": values, "t": values.T, "e": values[:0]}.items():
        assert loaded[key].dtype == np.float32
        np.testing.assert_array_equal(loaded[key], value.astype(np.float32))


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_parameters_of_16_bits(dtype, stored):
    if stored == "bfloat16":
        stored = pytest.importorskip("ml_dtypes").bfloat16
    weight = np.linspace(-2, 2, 12).reshape(2, 2, 3).astype(stored)
    bias = np.array([0.1, -3]).astype(stored)
    state, exact = {"weight": weight, "bias": bias}, weight.astype(np.float32)
    loaded = fastconv1d.Sequential(Conv1d(2, 2, 3, dtype=dtype))
    loaded.load_state_dict({"0." + key: value for key, value in state.items()})
    assigned, trained = Conv1d(2, 2, 3, dtype=dtype), Conv1d(2, 2, 3, dtype=dtype).train()
    for layer in (assigned, trained):
        layer.weight, layer.bias = weight, bias
    made = Conv1d.from_state_dict(state, dtype=dtype)
    for layer in (loaded[0], assigned, trained, made):
        assert layer.weight.dtype == layer.bias.dtype == dtype
        np.testing.assert_array_equal(layer.weight, exact)
        np.testing.assert_array_equal(layer.bias, bias.astype(np.float32))
    assert Conv1d.from_state_dict(state).dtype == np.float32
    assert ConvTranspose1d.from_state_dict(state).dtype == np.float32
    with pytest.raises(TypeError, match="weight should have the dtype"):
        assigned.weight = weight.astype(np.int16)


def test_norms_of_bfloat16():
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    g, v = np.array([[[10.0]]], bfloat16), np.array([[[3.0, 4.0]]], bfloat16)
    folded = fold_weight_norm(g, v)
    assert folded.dtype == np.float32
    np.testing.assert_array_equal(folded, [[[6, 8]]])
    layer = Conv1d.from_state_dict({"weight_g": g, "weight_v": v})
    np.testing.assert_array_equal(layer.weight, [[[6, 8]]])
    state = {"c.weight": v, "n.running_mean": g.reshape(1), "n.running_var": g.reshape(1) - 6}
    folded = fastconv1d.fold_batch_norm(state, eps=0)
    np.testing.assert_array_equal(folded["c.weight"], [[[1.5, 2]]])
    np.testing.assert_array_equal(folded["c.bias"], [-5])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("value", [np.array([object()]), np.array(["a"]), np.zeros(1, "M8[s]")])
def test_dtypes_that_cannot_be_saved(tmp_path, suffix, value):
    with pytest.raises(TypeError, match="the dtype of 'w' cannot be saved"):
        fastconv1d.save_file({"w": value}, tmp_path / f"x{suffix}")
    assert os.listdir(tmp_path) == []


def test_paths_and_keys_that_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match=r"path should end in '.safetensors' or '.npz', got"):
        fastconv1d.save_file({}, tmp_path / "x.pt")
    with pytest.raises(TypeError, match="keys of a state dict should be str, got 1"):
        fastconv1d.save_file({1: np.ones(1)}, tmp_path / "x.npz")
    with pytest.raises(TypeError, match="Expected state_dict to be dict-like"):
        fastconv1d.save_file([("w", np.ones(1))], tmp_path / "x.npz")
    with pytest.raises(FileNotFoundError):
        fastconv1d.load_file(tmp_path / "missing.npz")
    with pytest.raises((WeightFileError, IsADirectoryError)):
        fastconv1d.load_file(tmp_path)


@pytest.mark.parametrize(
    ("suffix", "key", "reason"),
    [
        (".npz", "a\0b", r"the key 'a\\x00b' cannot be a name in an npz file"),
        (".npz", "k" * 65532, "at most 65531 bytes, got 65532"),
        (".npz", "ä" * 32766, "at most 65531 bytes, got 65532"),
        (".npz", "a\ud800", "a key should be Unicode text"),
        (".safetensors", "a\ud800", "a key should be Unicode text"),
        (".safetensors", "__metadata__", "rename the key, or save to a path that ends in '.npz'"),
    ],
    ids=["nul", "long", "long in bytes", "npz surrogate", "surrogate", "metadata"],
)
def test_keys_that_a_file_cannot_give_back(tmp_path, suffix, key, reason):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    with pytest.raises(ValueError, match=reason):
        fastconv1d.save_file({"w": np.ones(1), key: np.ones(1)}, tmp_path / f"x{suffix}")
    assert os.listdir(tmp_path) == []


def test_keys_that_look_hard(path):
    keys = ["", "/", "a/b", "../c", "w.npy", "w", "ä" * 1000, "\U0001f600", "\n", "k" * 65531]
    keys += ["__metadata__"] if path.suffix == ".npz" else ["a\0b", "k" * 10**6]
    fastconv1d.save_file({key: np.full(1, i) for i, key in enumerate(keys)}, path)
    loaded = fastconv1d.load_file(path)
    assert {key: int(value[0]) for key, value in loaded.items()} == {
        key: i for i, key in enumerate(keys)
    }


def test_a_header_that_safetensors_would_not_read(tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    monkeypatch.setattr(weights, "_LONGEST_HEADER", 200)
    fastconv1d.save_file({"w" * 100: np.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="should take at most 200 bytes, got "):
        fastconv1d.save_file({"w" * 300: np.zeros(1)}, tmp_path / "x.safetensors")
    assert list(fastconv1d.load_file(tmp_path / "x.safetensors")) == ["w" * 100]


def test_the_longest_file_names(path):
    longest = path.with_name("n" * (255 - len(path.suffix)) + path.suffix)
    for value in (1, 2):
        fastconv1d.save_file({"w": np.full(1, value)}, longest)
        np.testing.assert_array_equal(fastconv1d.load_file(longest)["w"], [value])
    assert os.listdir(path.parent) == [longest.name]


LOAD = """
import sys
import fastconv1d, fastconv1d.weights
try:
    print(fastconv1d.load_file(sys.argv[1]))
except fastconv1d.WeightFileError as error:
    print(error)
"""


def run_python(code, *arguments, timeout=300):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names on this system")
def test_what_is_no_regular_file_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "x.npz")
    assert "is a pipe: weights should be in a regular file" in run_python(LOAD, tmp_path / "x.npz")
    for device in ("/dev/zero", "/dev/tty", "/dev/full"):
        if os.path.exists(device):
            assert "is a device" in run_python(LOAD, device)
    with pytest.raises(WeightFileError, match="is a directory"):
        fastconv1d.load_file(tmp_path)


GOOD = "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }"
HOSTILE_MEMBERS = {
    "object": npy_of("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"cos\nsystem\n"),
    "huge": npy_of("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }"),
    "negative": npy_of("{'descr': '<f8', 'fortran_order': False, 'shape': (-2,), }"),
    "short": npy_of(GOOD, b"1234567"),
    "long": npy_of(GOOD, bytes(17)),
    "record": npy_of(
        "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,), }", bytes(8)
    ),
    "no dict": npy_of("17"),
    "deep": npy_of("-" * 9000 + "1"),
    "parentheses": npy_of("(" * 9000),
    "magic": b"NUMPY",
    "version": b"\x93NUMPY\x09\x00\x00\x00",
    "nothing": b"",
}


@pytest.mark.parametrize("member", HOSTILE_MEMBERS.values(), ids=HOSTILE_MEMBERS)
def test_hostile_members(tmp_path, member):
    with pytest.raises(WeightFileError, match="is not an npz file of numbers: "):
        fastconv1d.load_file(write(tmp_path / "x.npz", npz_of(w=member)))


def test_a_bomb(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        size = 1 << 27
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size},), }}"
        archive.writestr("w.npy", npy_of(header, bytes(size)))
    with pytest.raises(WeightFileError, match="that unpack to 134217"):
        fastconv1d.load_file(tmp_path / "x.npz")


def test_names_with_a_nul(tmp_path):
    content = npz_of(abc=npy_of(GOOD, bytes(16))).replace(b"abc.npy", b"a\0c.npy")
    with pytest.raises(WeightFileError, match="a name with a NUL"):
        fastconv1d.load_file(write(tmp_path / "x.npz", content))


def zip_of_entries(count):
    """An npz whose directory has `count` entries, all of one member."""
    content = npz_of(w=npy_of(GOOD, bytes(16)))
    start = content.index(b"PK\1\2")
    entry = content[start : start + 46]
    names = (b"%07d.npy" % i for i in range(count))
    directory = b"".join(entry[:28] + struct.pack("<H", 11) + entry[30:] + name for name in names)
    size = len(directory)
    record = struct.pack("<4s QHHII 4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4s IQI", b"PK\6\7", 0, start + size, 1)
    ending = struct.pack(
        "<4s 4H 2I H", b"PK\5\6", 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0
    )
    return content[:start] + directory + record + locator + ending


def test_the_most_members(tmp_path):
    path = tmp_path / "x.npz"
    with pytest.raises(WeightFileError, match="131073 members, more than 131072"):
        fastconv1d.load_file(write(path, zip_of_entries(131073)))
    with pytest.raises(WeightFileError, match=r"directory .* and header b'w.npy' differ"):
        fastconv1d.load_file(write(path, zip_of_entries(131072)))
    # what the directory's entries begin with is counted there alone
    signatures = np.frombuffer(b"PK\1\2" * 2**18, np.float32)
    fastconv1d.save_file({"w": signatures}, path)
    assert (fastconv1d.load_file(path)["w"].view(np.uint32) == signatures.view(np.uint32)).all()


def deflated(header, size=0):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        length = struct.pack("<I", len(header))
        archive.writestr("w.npy", b"\x93NUMPY\x02\x00" + length + header + bytes(size))
    return file.getvalue()


def tensors_of(count, dims):
    """A safetensors file of empty tensors."""
    shape = ",".join(["0"] * dims)
    entry = '"%x":{"dtype":"F32","shape":[' + shape + '],"data_offsets":[0,0]}'
    return safetensors_of("{" + ",".join(entry % i for i in range(count)) + "}")


BYTES = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }"
LARGE = {
    "array.npz": lambda: deflated(BYTES % (55 << 20) + b"\n", 55 << 20),
    "header.npz": lambda: deflated(BYTES % 0 + b" " * (62 << 20) + b"\n"),
    "entries.npz": lambda: zip_of_entries(1_000_000),
    "most.npz": lambda: zip_of_entries(131_072),
    "tensors.safetensors": lambda: tensors_of(400_000, 1),
    "most.safetensors": lambda: tensors_of(57_400, 1),
    "dimensions.safetensors": lambda: tensors_of(10_500, 129),
    "metadata.safetensors": lambda: safetensors_of(
        '{"__metadata__":{' + ",".join(f'"{i:x}":""' for i in range(1_000_000)) + "}}"
    ),
    "shape.safetensors": lambda: safetensors_of(
        '{"w":{"dtype":"F32","shape":[' + "0," * 5_000_000 + '0],"data_offsets":[0,0]}}'
    ),
    "bfloat16.safetensors": lambda: safetensors_of(
        '{"w":{"dtype":"BF16","shape":[33554432],"data_offsets":[0,67108864]}}', bytes(1 << 26)
    ),
}
PEAK = (
    """
import fastconv1d, safetensors  # their own memory is none of the file's

def peak():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024

with open("/proc/self/clear_refs", "w") as clear:
    clear.write("5")  # the peak starts again
before = peak()
"""
    + LOAD.replace("print(fastconv1d", "state = (fastconv1d")
    + """
print(peak() - before)
"""
)


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="peaks are Linux's")
@pytest.mark.parametrize("name", LARGE)
def test_peak_memory(tmp_path, name):
    pytest.importorskip("safetensors")
    path = write(tmp_path / name, LARGE[name]())
    used = int(run_python(PEAK, path).splitlines()[-1])
    assert used <= 2**26 + 16 * path.stat().st_size


def test_two_arrays_of_one_name(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("w.npy", "w"):
            archive.writestr(name, npy_of(GOOD, bytes(16)))
    with pytest.raises(WeightFileError, match="two arrays 'w'"):
        fastconv1d.load_file(write(tmp_path / "x.npz", file.getvalue()))


def safetensors_of(header, content=b""):
    return struct.pack("<Q", len(header)) + header.encode() + content


HOSTILE_SAFETENSORS = {
    "nothing": b"",
    "length": struct.pack("<Q", 2**63) + b"{}",
    "text": safetensors_of("hello"),
    "overlap": safetensors_of(
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        '"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        bytes(4),
    ),
    "outside": safetensors_of('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(4)),
    "product": safetensors_of(
        '{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'
    ),
    "shape": safetensors_of('{"a":{"dtype":"F32","shape":[0,1e30],"data_offsets":[0,0]}}'),
    "dimensions": safetensors_of(
        '{"a":{"dtype":"F32","shape":[' + "1," * 99 + '1],"data_offsets":[0,4]}}', bytes(4)
    ),
    "dtype": safetensors_of('{"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}', bytes(4)),
    "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
}


@pytest.mark.parametrize("content", HOSTILE_SAFETENSORS.values(), ids=HOSTILE_SAFETENSORS)
def test_hostile_safetensors(tmp_path, content):
    pytest.importorskip("safetensors")
    with pytest.raises(WeightFileError, match="is not a safetensors file: "):
        fastconv1d.load_file(write(tmp_path / "x.safetensors", content))


def test_mutations(path):
    """Three flipped bits of every byte and every cut of a small file: arrays, or the error."""
    pytest.importorskip("safetensors")  # what does not begin as an npz file is taken for one of its
    fastconv1d.save_file({"w": np.arange(4.0, dtype=np.float32), "b": np.ones((2, 1))}, path)
    content = path.read_bytes()
    outcomes = {True: 0, False: 0}
    flips = (
        content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :]
        for at in range(len(content))
        for bit in (0, 4, 7)
    )
    for mutated in (*flips, *(content[:cut] for cut in range(len(content)))):
        try:
            loaded = fastconv1d.load_file(write(path, mutated))
        except WeightFileError:
            outcomes[False] += 1
        else:
            outcomes[True] += 1
            assert all(isinstance(value, np.ndarray) for value in loaded.values())
    assert outcomes[False] > len(content)


@pytest.mark.parametrize("dim", [0, 1, 2, None])
def test_weight_norm(dim):
    rng = np.random.default_rng(1)
    v = rng.standard_normal((4, 3, 5))
    w = rng.standard_normal((4, 3, 5))
    axes = tuple({0, 1, 2} - {dim})
    g = np.sqrt((w**2).sum(axis=axes, keepdims=True))
    folded = fold_weight_norm(g, v, dim)
    np.testing.assert_allclose((folded**2).sum(axis=axes, keepdims=True), g**2, rtol=1e-12)
    np.testing.assert_allclose(fold_weight_norm(g, w, dim), w, rtol=1e-12)
    for names in (
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ):
        state = {"net.0." + names[0]: g, "net.0." + names[1]: w, "net.0.bias": np.ones(4)}
        layer = Conv1d.from_state_dict(state, "net.0")
        np.testing.assert_allclose(layer.weight, w, rtol=1e-12)
        assert repr(layer) == "Conv1d(3, 4, kernel_size=(5,), stride=(1,))"


@pytest.mark.parametrize("shape", [(1, 3, 5), (4, 3, 1), (1, 1, 1), (1, 3, 1)])
@pytest.mark.parametrize("dim", [0, 2])
def test_weight_norm_of_few(shape, dim):
    w = np.random.default_rng(2).standard_normal(shape)
    g = np.sqrt((w**2).sum(axis=tuple({0, 1, 2} - {dim}), keepdims=True))
    layer = Conv1d.from_state_dict({"weight_g": g, "weight_v": 3 * w})
    np.testing.assert_allclose(layer.weight, w, rtol=1e-12)


def test_layers_from_state_dicts():
    rng = np.random.default_rng(3)
    source = Conv1d(8, 6, 3, stride=2, groups=2, dtype=np.float64, rng=rng)
    state = {"x." + key: value for key, value in source.state_dict().items()}
    layer = Conv1d.from_state_dict(state, "x.", groups=2, stride=2)
    x = rng.standard_normal((2, 8, 20))
    np.testing.assert_array_equal(layer(x), source(x))
    assert not layer.training
    narrow = Conv1d.from_state_dict(state, "x", groups=2, stride=2, dtype=np.float32)
    assert narrow.weight.dtype == np.float32
    half = {"weight": source.weight.astype(np.float16)}
    assert Conv1d.from_state_dict(half).weight.dtype == np.float32

    source = ConvTranspose1d(6, 8, 4, stride=2, padding=1, groups=2, rng=rng)
    layer = ConvTranspose1d.from_state_dict(source.state_dict(), stride=2, padding=1)
    assert repr(layer) == repr(source)
    x = rng.standard_normal((1, 6, 9)).astype(np.float32)
    np.testing.assert_array_equal(layer(x), source(x))
    without = {"weight": source.weight}
    assert ConvTranspose1d.from_state_dict(without).out_channels == 4
    assert ConvTranspose1d.from_state_dict(without, groups=2).out_channels == 8


def test_state_dicts_that_fit_no_layer():
    with pytest.raises(ValueError, match=r"Missing key\(s\) in state_dict: none of 'a.weight', "):
        Conv1d.from_state_dict({"b.weight": np.ones((1, 1, 1))}, "a")
    with pytest.raises(ValueError, match=r"should have 3 dimensions, got weight of size \[2, 2\]"):
        Conv1d.from_state_dict({"weight": np.ones((2, 2))})
    with pytest.raises(ValueError, match="size mismatch for bias"):
        Conv1d.from_state_dict({"weight": np.ones((2, 2, 1)), "bias": np.ones(3)})
    with pytest.raises(TypeError, match="Expected state_dict to be dict-like"):
        Conv1d.from_state_dict([1])
    with pytest.raises(TypeError, match="unexpected keyword argument 'strides'"):
        Conv1d.from_state_dict({"weight": np.ones((2, 2, 1))}, strides=2)


def test_spellings_of_torch():
    torch = pytest.importorskip("torch")
    x = torch.randn(1, 4, 12, dtype=torch.float64)
    for dim in (0, 2):
        for make in (torch.nn.Conv1d, torch.nn.ConvTranspose1d):
            plain = make(4, 6, 3, stride=2, dtype=torch.float64)
            normed = torch.nn.utils.parametrizations.weight_norm(plain, dim=dim)
            expected = normed(x).detach().numpy()
            ours = Conv1d if make is torch.nn.Conv1d else ConvTranspose1d
            layer = ours.from_state_dict(normed.state_dict(), stride=2)
            np.testing.assert_allclose(layer(x.numpy()), expected, rtol=1e-12, atol=1e-12)
