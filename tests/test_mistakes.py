"""What a user does wrong in the first hour: the message of each mistake holds what mends it."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastconv1d
from fastconv1d import Conv1d, ConvTranspose1d, Linear, ReLU, Sequential, conv1d
from fastconv1d.bench.contestants import PEER_NAMES
from fastconv1d.core.extras import how_to_install, require
from fastconv1d.planner import explain

# The table below has one mistake a line.
# ruff: noqa: E501


def z(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def frame(rows, columns):
    """What np.asarray makes of a DataFrame whose columns differ in kind."""
    return np.array([[0.0, *["a"] * (columns - 1)]] * rows, object)


LAYER = Conv1d(4, 6, 3)
CALLS = [
    ("float64 into a layer", lambda: LAYER(z(2, 4, 9, dtype="d")), "x.astype(np.float32), or dtype=np.float64 of the layer"),
    ("float64 into a function", lambda: conv1d(z(2, 4, 9, dtype="d"), z(6, 4, 3)), "x.astype(np.float32)"),
    ("float32 into a layer of float64", lambda: Conv1d(4, 6, 3, dtype="d")(z(2, 4, 9)), "x.astype(np.float64)"),
    ("float32 into ConvTranspose1d of float64", lambda: ConvTranspose1d(4, 6, 3, dtype="d")(z(4, 9)), "x.astype(np.float64)"),
    ("float64 into a network", lambda: Sequential(LAYER)(z(2, 4, 9, dtype="d")), "x.astype(np.float32)"),
    ("float64 into a stream", lambda: LAYER.stream()(z(4, 9, dtype="d")), "x.astype(np.float32)"),
    ("complex into a real layer", lambda: LAYER(z(4, 9, dtype="F")), "dtype=np.complex64 of the layer, or x.real"),
    ("audio of int16", lambda: Conv1d(1, 6, 3)(z(1, 99, dtype="i2")), "x.astype(np.float32) / 32768 for audio"),
    ("audio of int16, function", lambda: conv1d(z(1, 99, dtype="i2"), z(6, 1, 3)), "/ 32768 for audio"),
    ("audio and taps of int16", lambda: conv1d(z(1, 99, dtype="i2"), z(6, 1, 3, dtype="i2")), "/ 32768 for audio"),
    ("audio of int16, stream", lambda: Conv1d(1, 6, 3).stream()(z(1, 99, dtype="i2")), "/ 32768 for audio"),
    ("bytes", lambda: Conv1d(1, 6, 3)(z(1, 99, dtype="u1")), "x.astype(np.float32)"),
    ("booleans", lambda: Conv1d(1, 6, 3)(z(1, 99, dtype=bool)), "x.astype(np.float32)"),
    ("a list of integers", lambda: Conv1d(1, 1, 2)([[1, 2, 3]]), "x.astype(np.float32)"),
    ("bias of another dtype", lambda: conv1d(z(4, 9), z(6, 4, 3), z(6, dtype="d")), "bias.astype(np.float32)"),
    ("weight of integers", lambda: conv1d(z(4, 9), z(6, 4, 3, dtype=int)), "weight.astype(np.float32)"),
    ("gradient of another dtype", lambda: fastconv1d.conv1d_backward(z(6, 7, dtype="d"), z(4, 9), z(6, 4, 3)), "grad_output.astype(np.float32)"),
    ("residual of another dtype", lambda: conv1d(z(4, 9), z(6, 4, 3), residual=z(6, 7, dtype="d")), "residual.astype(np.float32)"),
    ("None", lambda: LAYER(None), "an array of numbers, not None"),
    ("None into a function", lambda: conv1d(None, z(6, 4, 3)), "an array of numbers, not None"),
    ("no weight", lambda: conv1d(z(4, 9), None), "weight should be an array of numbers, not None"),
    ("a DataFrame of mixed columns", lambda: LAYER(frame(9, 4)), "df.to_numpy(np.float32).T is (channels, length)"),
    ("a dict", lambda: LAYER({"x": 1}), "an array of numbers, not None or objects"),
    ("a path", lambda: LAYER("x.npy"), "np.load(path) reads one"),
    ("padding as the third argument", lambda: conv1d(z(4, 9), z(6, 4, 3), "same"), "give others by name, as padding="),
    ("keys of DataParallel", lambda: LAYER.load_state_dict({f"module.{k}": v for k, v in LAYER.state_dict().items()}), "key.removeprefix('module.')"),
    ("keys of a larger model", lambda: Sequential(LAYER).load_state_dict({f"net.enc.{k}": v for k, v in Sequential(LAYER).state_dict().items()}), "key.removeprefix('net.enc.')"),
    ("a layer of a larger model", lambda: Conv1d.from_state_dict({"net.weight": z(6, 4, 3)}), "prefix='net.'"),
    ("channels last", lambda: LAYER(z(2, 10, 4)), "x.swapaxes(-1, -2) or the other layout="),
    ("channels last, one item", lambda: LAYER(z(10, 4)), "x.swapaxes(-1, -2) or the other layout="),
    ("channels last, function", lambda: conv1d(z(2, 10, 4), z(6, 4, 3)), "x.swapaxes(-1, -2)"),
    ("channels last, transposed", lambda: ConvTranspose1d(4, 6, 3)(z(2, 10, 4)), "x.swapaxes(-1, -2)"),
    ("channels last, network", lambda: Sequential(LAYER)(z(2, 10, 4)), "x.swapaxes(-1, -2)"),
    ("channels second for NLC", lambda: Conv1d(4, 6, 3, layout="NLC")(z(2, 4, 10)), "input[2, 4, 10] to have 4 channels, but got 10 channels instead: the axes are swapped"),
    ("a signal (L,)", lambda: Conv1d(1, 6, 3)(z(100)), "x[None] for a signal of one channel"),
    ("a signal (L,), function", lambda: conv1d(z(100), z(6, 1, 3)), "x[None] for a signal of one channel"),
    ("a signal (L,), transposed", lambda: ConvTranspose1d(1, 6, 3)(z(100)), "x[None] for a signal"),
    ("four axes", lambda: LAYER(z(1, 2, 4, 10)), "x.reshape(-1, *x.shape[-2:])"),
    ("taps of a filter", lambda: conv1d(z(1, 1, 99), z(31)), "taps[None, None] for one filter"),
    ("a bank of filters", lambda: conv1d(z(1, 1, 99), z(8, 31)), "weight[:, None] for a filter each row"),
    ("a list of layers", lambda: Sequential([LAYER]), "unpacked with *: Sequential(*layers)"),
    ("a tuple of layers", lambda: Sequential((LAYER,)), "unpacked with *: Sequential(*layers)"),
    ("a class in a network", lambda: Sequential(LAYER, ReLU), "a class makes a layer: ReLU()"),
    ("a function in a network", lambda: Sequential(LAYER, np.tanh), "should be a Conv1d, Conv2d, ConvTranspose1d, another layer"),
    ("activation=ReLU()", lambda: Conv1d(1, 1, 1, activation=ReLU()), "got ReLU(): activation='relu'"),
    ("activation=ReLU", lambda: Conv1d(1, 1, 1, activation=ReLU), ": activation='relu'"),
    ("activation=LeakyReLU()", lambda: Conv1d(1, 1, 1, activation=fastconv1d.LeakyReLU()), ": activation='leaky_relu'"),
    ("activation=np.tanh", lambda: Conv1d(1, 1, 1, activation=np.tanh), ": activation='tanh'"),
    ("activation=a function", lambda: Conv1d(1, 1, 1, activation=len), ": one of 'relu', 'leaky_relu'"),
    ("activation='RELU'", lambda: Conv1d(1, 1, 1, activation="RELU"), "one of 'relu', 'leaky_relu'"),
    ("three paddings", lambda: Conv1d(4, 6, 3, padding=(1, 1, 1)), "one number is enough, as there is one axis, or (left, right)"),
    ("two kernel sizes", lambda: Conv1d(4, 6, (3, 3)), "one number is enough"),
    ("padding='SAME'", lambda: Conv1d(4, 6, 3, padding="SAME"), "should be one of {'valid', 'same', 'causal'"),
    ("padding_mode='constant'", lambda: Conv1d(4, 6, 3, padding_mode="constant"), "one of {'zeros', 'replicate'"),
    ("stride of a float", lambda: Conv1d(4, 6, 3, stride=2.0), "stride should be an int"),
    ("groups that do not divide", lambda: Conv1d(4, 6, 3, groups=3), "in_channels must be divisible by groups"),
    ("a layer of float16", lambda: Conv1d(4, 6, 3, dtype=np.float16), "layers of float32 take 16-bit inputs"),
    ("a layer of integers", lambda: Conv1d(4, 6, 3, dtype=int), "the dtype should be float32, float64"),
    ("a dtype that NumPy has not", lambda: Conv1d(4, 6, 3, dtype="bfloat16"), "the dtype should be float32, float64"),
    ("a dtype of torch", lambda: Conv1d(4, 6, 3, dtype="torch.float64"), "np.float64 of a torch dtype"),
    ("values for bias=", lambda: Conv1d(4, 6, 3, bias=z(6)), "load_state_dict, or layer.bias = values"),
    ("device='cuda'", lambda: Conv1d(4, 6, 3, device="cuda"), "leave device= out"),
    ("layout='NWC'", lambda: Conv1d(4, 6, 3, layout="NWC"), "layout should be 'NCL' or 'NLC'"),
    ("an algorithm that is none", lambda: Conv1d(4, 6, 3, algorithm="fastest"), "one of 'auto', 'blas', 'direct'"),
    ("an attribute misspelt", lambda: setattr(LAYER, "wieght", 1), "did you mean 'weight'?"),
    ("another dtype set", lambda: setattr(LAYER, "dtype", np.float64), "make a new layer for another and load_state_dict"),
    ("a weight of another size", lambda: setattr(Conv1d(4, 6, 3), "weight", z(6, 4, 5)), "should have the shape [6, 4, 3]"),
    ("out= of another size", lambda: LAYER(z(2, 4, 10), out=z(2, 6, 9)), "out should have the shape [2, 6, 8]"),
    ("out= of another dtype", lambda: LAYER(z(2, 4, 10), out=z(2, 6, 8, dtype="d")), "out should have the dtype float32"),
    ("backward in eval mode", lambda: LAYER.backward(z(2, 6, 8)), "call train() and then the layer before it"),
    ("a file of torch to write", lambda: fastconv1d.save_file({}, "x.pt"), "end in '.safetensors' or '.npz', got 'x.pt'"),
    ("no threads", lambda: fastconv1d.set_num_threads(0), "a positive integer"),
    ("an input too short", lambda: LAYER(z(2, 4, 2)), "Kernel size can't be greater than actual input size"),
    ("explain of one axis", lambda: explain(LAYER, (9,)), "a shape (N, C, L), or (C, L) for one item"),
    ("Linear of another size", lambda: fastconv1d.flops(Linear(4, 5), (1, 3)), "should have in_features=4 numbers, got an input of size [1, 3]"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("mistake", "words"), [each[1:] for each in CALLS], ids=[each[0] for each in CALLS]
)
def test_a_mistake_says_how_to_mend_it(mistake, words):
    with pytest.raises((ValueError, TypeError, AttributeError, RuntimeError)) as caught:
        mistake()
    assert words in str(caught.value)


def test_there_are_sixty():
    assert len({name for name, *_ in CALLS}) == len(CALLS) >= 60


def test_tensors_and_layers_of_torch():
    torch = pytest.importorskip("torch")
    with pytest.raises(RuntimeError, match=r"tensor\.detach\(\)\.numpy\(\)"):
        LAYER(torch.zeros(2, 4, 10, requires_grad=True))
    with pytest.raises(TypeError, match="load_state_dict takes the weights"):
        Sequential(torch.nn.Conv1d(1, 1, 1))
    with pytest.raises(TypeError, match=r"np\.float64 of a torch dtype"):
        Conv1d(4, 6, 3, dtype=torch.float64)


@pytest.mark.parametrize("module", ["onnx", "torch"])
def test_guests_without_their_package(module):
    code = f"import sys; sys.modules[{module!r}] = None; import fastconv1d.{module}"
    text = run(code)
    assert f"fastconv1d.{module} needs {module}, which is not installed: " in text
    assert how_to_install(module) in text


def test_packages_are_named_with_what_installs_them():
    assert how_to_install("safetensors").startswith("pip install 'fastconv1d[safetensors]'")
    assert "download.pytorch.org/whl/cpu" in how_to_install("torch")
    assert all(map(how_to_install, set(PEER_NAMES) - {"scipy"}))  # which is always there
    require("this", "numpy")


def run(code, cwd=None):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=False
    )
    assert done.returncode == 1
    return done.stderr.strip().splitlines()[-1]


def test_sources_without_kernels(tmp_path):
    """A clone that Python finds before the package that was installed from it."""
    source = Path(fastconv1d.__file__).parent
    skip = shutil.ignore_patterns("*.so", "*.pyd", "*.c", "__pycache__")
    shutil.copytree(source, tmp_path / "fastconv1d", ignore=skip)
    text = run("import fastconv1d", tmp_path)
    assert text.startswith("ImportError: ")
    assert "holds the sources of fastconv1d without its compiled kernels" in text
    assert "Run from another folder" in text and "pip install -e ." in text
