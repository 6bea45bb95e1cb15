"""Calls of every public function and layer with hostile arguments.

A call may raise one of ALLOWED. What is accepted has to equal the reference, and what the reference
computes for ordinary arguments has to be accepted.
"""

import contextlib
import dataclasses
import inspect
import operator
import time

import numpy as np

import fastconv1d
from fastconv1d import reference

ALLOWED = (ValueError, TypeError, OverflowError, MemoryError)
HOSTILE = (
    -(2**63), -1, 0, 1, 2, 3, 2**31 - 1, 2**31, 2**61, 2**62 - 1, 2**63 - 1,
    True, 1.0, float("nan"), None, np.int8(1), 2**64, "x",
)  # fmt: skip
# Integers around which size arithmetic breaks.
EDGES = (2**7, 2**15, 2**16, 2**20, 2**31, 2**32, 2**40, 2**55, 2**60, 2**61, 2**62, 2**63)
MODES = ("zeros", "reflect", "replicate", "circular")
SMALL = 100
# No call may take longer, whatever its arguments.
SECONDS = 1.0
# What is accepted with more elements is not compared.
COMPARED = 20_000

OPERATIONS = ("conv1d", "conv_transpose1d")
GRADIENTS = tuple(f"{op}_backward" for op in OPERATIONS)
SINGLE_GRADIENTS = tuple(f"{op}_{by}" for op in OPERATIONS for by in ("input", "weight"))
FOLDS = ("unfold1d", "fold1d")
FILES = ("load_file", "save_file")
LAYERS = ("Conv1d", "ConvTranspose1d")
FUSED = {"activation", "pre_activation", "residual_scale", "residual_position", "layout"}
GEOMETRY = ("stride", "padding", "dilation", "groups", "output_padding", "padding_mode")


def public_callables():
    """Return every public function and class by name, those of `fastconv1d.grad` among them."""
    found = {name: getattr(fastconv1d, name) for name in fastconv1d.__all__}
    found.update({name: getattr(fastconv1d.grad, name) for name in fastconv1d.grad.__all__})
    return {
        name: call
        for name, call in sorted(found.items())
        if callable(call) and not (isinstance(call, type) and issubclass(call, Exception))
    }


CALLABLES = public_callables()
PARAMETERS = {name: inspect.signature(call).parameters for name, call in CALLABLES.items()}
# The convolutions more often than what only sets or shows something.
NAMES = tuple(
    name for name in CALLABLES for _ in range(6 if "conv" in name.lower() or name in FOLDS else 1)
)


@dataclasses.dataclass
class Sizes:
    """Sizes of one layer that fit together."""

    dtype: str
    n_batch: int
    c_in: int
    c_out: int
    groups: int
    kernel_size: int
    length: int
    transposed: bool

    @property
    def weight(self):
        rows, columns = (self.c_in, self.c_out) if self.transposed else (self.c_out, self.c_in)
        return rows, columns // self.groups, self.kernel_size


def draw_sizes(rng, transposed):
    groups = rng.choice((1, 1, 1, 2, 3))
    return Sizes(
        dtype=rng.choice(("float32", "float32", "float64", "complex64", "complex128")),
        n_batch=rng.choice((1, 1, 2, 3, 0)),
        c_in=groups * rng.choice((1, 2, 3, 5)),
        c_out=groups * rng.choice((1, 2, 3, 4)),
        groups=groups,
        kernel_size=rng.choice((1, 2, 3, 4, 5, 9)),
        length=rng.choice((1, 2, 5, 8, 9, 17, 40)),
        transposed=transposed,
    )


def integers(rng, shape, dtype):
    """Return small integers, whose sums every dtype holds exactly."""
    size = int(np.prod(shape))
    values = (np.arange(size) * rng.randrange(1, 4000) + rng.randrange(4000)) % 7919 % 9 - 4
    if dtype.startswith("complex"):
        values = values + 1j * ((values * 5 + 3) % 7)
    return values.reshape(shape).astype(dtype)


def hostile_value(rng):
    """Return an argument that nobody means."""
    kind = rng.random()
    if kind < 0.7:
        return rng.choice(HOSTILE)
    if kind < 0.85:
        sign = rng.choice((1, 1, 1, -1))
        return sign * (rng.choice(EDGES) // rng.choice((1, 1, 3, 5)) + rng.randrange(-5, 6))
    items = [hostile_value(rng) for _ in range(rng.choice((0, 1, 2, 2, 2, 3)))]
    return tuple(items) if rng.random() < 0.8 else items


def hostile_array(rng, like):
    """Return something else in the place of an array."""
    kind = rng.randrange(6)
    if kind == 0:
        return hostile_value(rng)
    if kind == 1:  # a dimension too many, too few, or none
        shape = [rng.choice((0, 1, 2, 5)) for _ in range(rng.randrange(5))]
        return np.ones(shape, like.dtype)
    if kind == 2:  # a dimension of another size
        shape = list(like.shape)
        if shape:
            shape[rng.randrange(len(shape))] = rng.choice((0, 1, 2, 7, 64))
        return np.ones(shape, like.dtype)
    if kind == 3:
        return like.real.astype(rng.choice(("int8", "bool", "float16", "float64", "U3", "object")))
    if kind == 4:  # as large as memory views allow, but nothing is stored
        shape = list(like.shape)
        if shape:
            shape[rng.randrange(len(shape))] = rng.choice((2**12, 2**31, 2**40))
        try:
            return np.broadcast_to(like.dtype.type(0), shape)
        except ValueError:
            return like
    return like.tolist()


def ordinary_value(rng, name, sizes):
    """Return an argument that fits, for parameters that are no arrays."""
    options = {
        "stride": (1, 1, 2, 3, (2,), np.int64(2)),
        "padding": (0, 1, 2, (1, 2), [0, 3], np.uint8(1))
        + (() if sizes.transposed else ("same", "valid")),
        "dilation": (1, 1, 2, 3),
        "groups": (sizes.groups,),
        "output_padding": (0, 0, 1),
        "padding_mode": ("zeros",) if sizes.transposed else MODES,
        "algorithm": ("auto", "auto", "blas", "direct"),
        "output_mask": ((True,) * 3, (True, False, False), (False, True, True)),
        "in_channels": (sizes.c_in,),
        "out_channels": (sizes.c_out,),
        "kernel_size": (sizes.kernel_size,),
        "bias": (True, False),
        "dtype": (sizes.dtype,),
        "output_size": (sizes.length,),
        "input_size": ((sizes.n_batch, sizes.c_in, sizes.length),),
        "weight_size": (sizes.weight,),
        "n": (1, 2),
        "mode": (False,),
    }
    return rng.choice(options[name]) if name in options else None


def ordinary_array(rng, name, sizes):
    """Return an array that fits."""
    batch = (sizes.n_batch,) if rng.random() < 0.9 else ()
    shapes = {
        "input": (*batch, sizes.c_in, sizes.length),
        "weight": sizes.weight,
        "bias": (sizes.c_out,),
        "grad_output": (*batch, sizes.c_out, sizes.length),
    }
    return integers(rng, shapes[name], sizes.dtype)


def draw_arguments(rng, name, sizes):
    """Return keyword arguments, some of them hostile, and the names of those."""
    is_layer = name in LAYERS
    arrays = {"input", "weight", "grad_output"} | (set() if is_layer else {"bias"})
    arguments = {}
    for key, parameter in PARAMETERS[name].items():
        if key in arrays:
            if parameter.default is parameter.empty or rng.random() < 0.5:
                arguments[key] = ordinary_array(rng, key, sizes)
        elif parameter.default is parameter.empty or rng.random() < 0.5 or key == "groups":
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            value = ordinary_value(rng, key, sizes)
            if value is not None or parameter.default is parameter.empty:
                arguments[key] = value
    candidates = [key for key in PARAMETERS[name] if key not in arrays]
    if rng.random() < 0.15:
        candidates = list(PARAMETERS[name])
    chosen = rng.sample(candidates, min(len(candidates), rng.choice((0, 1, 1, 1, 2, 2, 3, 9))))
    for key in chosen:
        if isinstance(arguments.get(key), np.ndarray):
            arguments[key] = hostile_array(rng, arguments[key])
        else:
            arguments[key] = hostile_value(rng)
    return arguments, chosen


def run(rng):
    """Make one call and check its outcome; return its name and arguments as text with the error."""
    name = rng.choice(NAMES)
    sizes = draw_sizes(rng, "ranspose" in name)
    if name == "fold1d":
        sizes.c_in *= sizes.kernel_size
    arguments, hostile = draw_arguments(rng, name, sizes)
    if name in GRADIENTS:
        fit_grad_output(rng, name, arguments)
    try:
        check(rng, name, arguments, hostile, sizes)
    except Exception as error:
        error.add_note(f"{name}({', '.join(f'{k}={shown(v)}' for k, v in arguments.items())})")
        raise


def check(rng, name, arguments, hostile, sizes):
    before = fastconv1d.get_num_threads(), fastconv1d.are_deterministic_algorithms_enabled()
    try:
        with contextlib.redirect_stdout(None):
            result = quickly(CALLABLES[name], **arguments)
        if name == "num_threads":
            with result:
                assert fastconv1d.get_num_threads() == operator.index(arguments["n"])
    except ALLOWED as error:
        assert str(error), "an error without a text"
        if isinstance(error, ValueError):
            check_refusal(name, arguments, hostile, error)
        return
    except OSError:
        assert name in FILES
        return
    finally:
        fastconv1d.set_num_threads(before[0])
        fastconv1d.use_deterministic_algorithms(before[1])
    if name in LAYERS:
        if not set(arguments) & FUSED:
            check_layer(rng, result, sizes)
    elif name in OPERATIONS + FOLDS:
        compare(result, name, arguments)
    elif name in GRADIENTS:
        for one, other in zip(result, expected(name, arguments, result), strict=True):
            assert (one is None) == (other is None)
            assert_equal(one, other)
    elif name in SINGLE_GRADIENTS and not is_large(result):
        check_single_gradient(name, arguments, result)


def compare(result, name, arguments):
    assert_equal(result, *expected(name, arguments, (result,)))


def plain(arguments):
    """Return the arguments without what the reference does not take."""
    return {k: v for k, v in arguments.items() if k not in ("algorithm", "out")}


def beyond_reference(name, arguments):
    """Return whether an argument is one that the reference does not have, as what is fused."""
    return bool(set(plain(arguments)) - set(inspect.signature(getattr(reference, name)).parameters))


def expected(name, arguments, results):
    """Return what the reference computes, or `results` if that is too much for it."""
    if any(r is not None and is_large(r) for r in results) or beyond_reference(name, arguments):
        return results
    try:
        wanted = getattr(reference, name)(**plain(arguments))
    except MemoryError:  # no items, and a length that the reference counts through
        return results
    return wanted if isinstance(wanted, tuple) else (wanted,)


def assert_equal(result, wanted):
    if result is None or result is wanted:
        return
    assert result.shape == wanted.shape, (result.shape, wanted.shape)
    assert result.dtype == wanted.dtype, (result.dtype, wanted.dtype)
    wrong = int(np.count_nonzero(result != wanted))
    assert not wrong, f"{wrong} of {result.size} elements are wrong"


def fit_grad_output(rng, name, arguments):
    """Give grad_output the shape of the output, if the forward accepts its arguments."""
    if rng.random() < 0.05 or not isinstance(arguments["grad_output"], np.ndarray):
        return
    operation = name.removesuffix("_backward")
    forward = {k: v for k, v in arguments.items() if k in PARAMETERS[operation]}
    try:
        output = getattr(fastconv1d, operation)(**forward)
    except ALLOWED:
        return
    if not is_large(output):
        arguments["grad_output"] = integers(rng, output.shape, output.dtype.name)


def check_single_gradient(name, arguments, result):
    operation, by = name.rsplit("_", 1)
    others = {k: v for k, v in arguments.items() if k not in ("input_size", "weight_size")}
    like = np.asarray(arguments["grad_output"])
    for missing in {"input", "weight"} - set(others):
        others[missing] = np.zeros(result.shape, like.dtype)
    by_input, by_weight, _ = expected(operation + "_backward", others, (result,) * 3)
    assert_equal(result, by_input if by == "input" else by_weight)


def check_refusal(name, arguments, hostile, error):
    """Fail if the reference computes what was refused and nothing in it is extraordinary."""
    if name not in OPERATIONS + FOLDS or arguments.get("algorithm", "auto") not in ("auto", "blas"):
        return
    if "out" in hostile or any(not is_ordinary(arguments[key]) for key in arguments):
        return
    if "padding_mode" in arguments and arguments["padding_mode"] not in MODES:
        return
    if beyond_reference(name, arguments):
        return
    try:
        wanted = getattr(reference, name)(**plain(arguments))
    except ALLOWED:
        return
    raise AssertionError(f"refused, but the result has the shape {wanted.shape}") from error


def is_ordinary(value):
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "fc" and value.dtype.itemsize >= 4 and value.size <= COMPARED
    if isinstance(value, (tuple, list)):
        return all(map(is_ordinary, value))
    if isinstance(value, str) or value is None:
        return value != "x"
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value < SMALL


def check_layer(rng, layer, sizes):
    """Call a layer that was made: its first and its packed forward and its gradients."""
    repr(layer)
    if layer.weight.size > COMPARED or layer.in_channels > SMALL:
        return
    state = {name: integers(rng, a.shape, a.dtype.name) for name, a in layer.state_dict().items()}
    layer.load_state_dict(state)
    x = integers(rng, (sizes.n_batch, layer.in_channels, sizes.length), layer.dtype.name)
    arguments = {"input": x, "weight": state["weight"], "bias": state.get("bias")}
    names = PARAMETERS["conv_transpose1d" if layer.transposed else "conv1d"]
    for name in set(GEOMETRY) & set(names):
        value = getattr(layer, name)
        arguments[name] = value
    operation = "conv_transpose1d" if layer.transposed else "conv1d"
    # First call, packed call, call in train mode: all give the same, or all refuse.
    outcomes = [attempt(layer, x), attempt(layer, x), attempt(layer.train(), x)]
    results = [outcome for outcome in outcomes if isinstance(outcome, np.ndarray)]
    if any(isinstance(outcome, MemoryError) for outcome in outcomes):
        pass  # what the calls before have left may not do for the next
    elif layer.algorithm != "direct":  # it refuses a huge stride before it sees one output alone
        assert len(results) in (0, 3), [repr(outcome)[:300] for outcome in outcomes]
    if not results:
        return
    for result in results:
        compare(result, operation, arguments)
    if is_large(results[0]):
        return
    g = integers(rng, results[0].shape, layer.dtype.name)
    try:
        by_input = layer.backward(g)
    except ALLOWED:
        return
    del arguments["bias"]
    results = by_input, layer.weight_grad, layer.bias_grad
    wanted = expected(operation + "_backward", {"grad_output": g, **arguments}, results)
    for one, other in zip(results, wanted, strict=True):
        assert_equal(one, other)


def quickly(function, *args, **kwargs):
    """Call a function and fail if that took too long (in CPU time: others are at work, too)."""
    started = time.process_time()
    try:
        return function(*args, **kwargs)
    finally:
        spent = time.process_time() - started
        assert spent < SECONDS, f"took {spent:.2f} s"


def attempt(layer, x):
    """Return the output of a layer, or the error that it raises."""
    try:
        return quickly(layer, x)
    except ALLOWED as error:
        return error


def is_large(array):
    return max(array.size, *array.shape) > COMPARED


def shown(value):
    if isinstance(value, np.ndarray):
        return f"<{value.dtype} {value.shape}>"
    text = repr(value)
    return text if len(text) < 200 else text[:200] + "..."
