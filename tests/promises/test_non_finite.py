"""NaN, infinities, subnormals and memory that was not cleared."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from layers import DTYPES, OPS, Layer, random_layers, random_planes

import fastconv1d
from fastconv1d import reference

SMALL = {"n_batch": 2, "c_in_per_group": 3, "c_out_per_group": 4}


def assert_non_finite_alike(result, expected, context):
    assert result.shape == expected.shape
    layer = context[0]
    if np.iscomplexobj(result) or layer.padding_mode == "replicate":
        # A product with an infinite complex number has no agreed parts, but is never finite. The
        # gradient of a repeated position multiplies a sum: infinite where its terms make a NaN.
        np.testing.assert_array_equal(np.isfinite(result), np.isfinite(expected), str(context))
        return
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected), str(context))
    infinite = np.isinf(expected)
    np.testing.assert_array_equal(result[infinite], expected[infinite], str(context))


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("position", ["x", "w", "b", "g"])
def test_non_finite_numbers_stay_where_they_belong(lib, share, position):
    rng = np.random.default_rng(50)
    layers = random_layers(40, seed=51, bias=True, **SMALL)
    for layer in layers + random_planes(8, seed=54, bias=True, **SMALL):
        arrays = dict(zip("xwbg", layer.normal_arrays(), strict=True))
        target = arrays[position]
        for _ in range(int(125 * share)):
            index = tuple(int(rng.integers(size)) for size in target.shape)
            kept = target[index]
            target[index] = rng.choice([np.nan, np.inf, -np.inf])
            x, w, b, g = arrays.values()
            if position in "xwb":
                assert_non_finite_alike(
                    layer.forward(lib)(x, w, b), layer.forward(reference)(x, w, b), (layer, index)
                )
            if position in "xwg" and layer.op != "conv2d":
                for result, expected in zip(
                    layer.backward(lib)(g, x, w), layer.backward(reference)(g, x, w), strict=True
                ):
                    assert_non_finite_alike(result, expected, (layer, index))
            target[index] = kept


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_one_nan_reaches_its_windows_and_no_further(lib, op, dtype):
    x, w = np.ones((2, 3, 40), dtype), np.ones((3, 3, 5), dtype)
    x[1, 2, 20] = np.nan
    y = getattr(lib, op)(x, w)
    reached = np.zeros(y.shape, bool)
    reached[1, :, 16:21] = op == "conv1d"
    if op == "conv_transpose1d":
        reached[1, :, 20:25] = True
    np.testing.assert_array_equal(np.isnan(y), reached)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_nan_of_planes_reaches_its_windows_and_no_further(lib, dtype):
    x, w = np.ones((2, 3, 12, 20), dtype), np.ones((3, 3, 3, 5), dtype)
    x[1, 2, 6, 9] = np.nan
    y = lib.conv2d(x, w)
    reached = np.zeros(y.shape, bool)
    reached[1, :, 4:7, 5:10] = True
    np.testing.assert_array_equal(np.isnan(y), reached)
    g = np.ones(y.shape, dtype)
    g[1, 0, 4, 5] = np.nan
    by_input, by_weight, by_bias = lib.conv2d_backward(g, np.ones_like(x), w)
    reached = np.zeros(x.shape, bool)
    reached[1, :, 4:7, 5:10] = True
    np.testing.assert_array_equal(np.isnan(by_input), reached)
    np.testing.assert_array_equal(np.isnan(by_weight).any(axis=(1, 2, 3)), [True, False, False])
    np.testing.assert_array_equal(np.isnan(by_bias), [True, False, False])


def test_overflow_is_infinite(lib):
    x = np.full((1, 1, 40), 3e38, "float32")
    assert np.all(lib.conv1d(x, np.full((1, 1, 3), 2, "float32")) == np.inf)
    assert np.all(lib.conv1d(x, np.full((1, 1, 3), -2, "float32")) == -np.inf)


def subnormals_survive(lib, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    x = (np.arange(1, 201) * tiny).reshape(1, 1, 200).astype(dtype)
    w = np.ones((1, 1, 1), dtype)
    for function in (lib.conv1d, lib.conv_transpose1d):
        assert function(x, w).tobytes() == x.tobytes()
    # Subnormal products too: the smallest normal number times a half.
    smallest = np.full((3, 5, 900), np.finfo(dtype).tiny, dtype)
    half = np.zeros((5, 5, 1), dtype)
    half[range(5), range(5)] = 0.5
    for n_threads in (1, 2, 4):
        with fastconv1d.num_threads(n_threads):
            assert np.all(lib.conv1d(smallest, half) == np.finfo(dtype).tiny / 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_subnormals_survive(lib, dtype):
    subnormals_survive(lib, dtype)


def test_subnormals_survive_in_other_threads(lib):
    failures = []

    def work():
        try:
            subnormals_survive(lib, "float32")
        except AssertionError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def run_python(code, **environment):
    env = {**os.environ, **environment}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), env.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_changes_no_floating_point_state():
    code = """
import threading
import numpy as np

def state():
    # Flush-to-zero, denormals-are-zero and the rounding mode all show in these.
    tiny, one = np.float32(1e-40), np.float64(1)
    with np.errstate(all="ignore"):
        return [
            (np.float32(1.2e-38) * np.float32(0.1)).hex() if hasattr(np.float32, "hex")
            else float(np.float32(1.2e-38) * np.float32(0.1)),
            float(tiny + tiny), float(np.array([tiny]) @ np.array([1], "f4")),
            float(one / 3), float(-one / 3), 5e-324 * 3, np.geterr(),
        ]

def everywhere():
    found = [state()]
    thread = threading.Thread(target=lambda: found.append(state()))
    thread.start()
    thread.join()
    return found

before = everywhere()
assert before[0][1] > 0
import fastconv1d
assert everywhere() == before
x = np.ones((4, 16, 3000), "f4")
with fastconv1d.num_threads(2):
    fastconv1d.conv1d(x, np.ones((16, 16, 3), "f4"))
assert everywhere() == before
print("same")
"""
    assert run_python(code) == "same\n"


POISONED = """
import ctypes
from layers import DTYPES, REALISTIC, Library, assert_layer_exact, random_layers

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
fresh = libc.malloc(ctypes.c_size_t(5000))  # more than glibc keeps to hand out again as it is
assert ctypes.string_at(fresh, 5000) == bytes([POISON]) * 5000, "nothing was poisoned"
for algorithm in ("auto", "blas"):
    for layer in [*random_layers(150, seed=52), *REALISTIC[:6]]:
        assert_layer_exact(Library(algorithm), layer)
print("exact")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="MALLOC_PERTURB_ is glibc's")
def test_results_do_not_depend_on_uncleared_memory():
    # glibc fills what it hands out with the complement: a huge number in every dtype.
    code = POISONED.replace("POISON]", "0xFE]")
    assert run_python(code, MALLOC_PERTURB_="1") == "exact\n"


@pytest.fixture(scope="module")
def poison(tmp_path_factory):
    """A library to preload that fills new memory with NaN."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler and LD_PRELOAD")
    made = tmp_path_factory.mktemp("poison") / "poison.so"
    source = Path(__file__).with_name("poison.c")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", source, "-o", made, "-ldl"], check=True)
    return str(made)


def test_poisoned_scratch_does_not_leak(poison):
    # All bits set is NaN in every dtype: what is read before it is written stays NaN.
    assert run_python(POISONED.replace("POISON]", "0xFF]"), LD_PRELOAD=poison) == "exact\n"


def test_non_finite_scratch_of_an_earlier_call_does_not_leak(lib):
    nans = Layer(n_batch=1, c_in=16, c_out=16, l_in=3001, kernel_size=9, padding=4)
    x, w, _, _ = nans.normal_arrays()
    for layer in random_layers(50, seed=53, dtype="float32"):
        lib.conv1d(np.full_like(x, np.nan), w, padding=4)
        arrays = layer.integer_arrays()
        np.testing.assert_array_equal(
            layer.forward(lib)(*arrays[:3]), layer.forward(reference)(*arrays[:3])
        )
