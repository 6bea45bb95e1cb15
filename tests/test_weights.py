"""Weight files and layers from state dicts."""

import io
import os
import stat
import struct
import zipfile

import numpy as np
import pytest

import fastconv1d
from fastconv1d import Conv1d, ConvTranspose1d, WeightFileError
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


def test_bfloat16(tmp_path):
    pytest.importorskip("safetensors")
    values = np.array([1.0, -2.5, 3e38, np.inf], np.float32)
    bits = (values.view(np.uint32) >> 16).astype("<u2")
    header = b'{"w":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}'
    content = struct.pack("<Q", len(header)) + header + bits.tobytes()
    loaded = fastconv1d.load_file(write(tmp_path / "b.safetensors", content))["w"]
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, (bits.astype(np.uint32) << 16).view("f4").reshape(2, 2))


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
    with pytest.raises(FileNotFoundError):
        fastconv1d.load_file(tmp_path / "missing.npz")
    with pytest.raises((WeightFileError, IsADirectoryError)):
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
