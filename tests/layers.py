"""The layers that the tests compute: how they are drawn, filled, run and compared."""

import dataclasses
import functools
import os

import numpy as np
from hypothesis import strategies as st

import fastconv1d
from fastconv1d import reference

DTYPES = ("float32", "float64", "complex64", "complex128")
OPS = ("conv1d", "conv_transpose1d")
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")

# Around every multiple of 8 and 16 lanes up to 64, then odd sizes.
L_OUT = (
    *sorted({1, 2, 3, 5} | {m + e for m in range(8, 65, 8) for e in (-1, 0, 1)}),
    *(97, 131, 250),
)
CHANNELS = (1, 1, 2, 3, 4, 5, 7, 8, 13, 17)
KERNEL_SIZES = (1, 1, 2, 3, 3, 4, 5, 7, 8, 9, 16, 31)


class Library:
    """The public functions, each called with the algorithm under test."""

    def __init__(self, algorithm):
        self.algorithm = algorithm

    def __getattr__(self, name):
        function = getattr(fastconv1d, name)
        if self.algorithm == "auto":
            return function
        return functools.partial(function, algorithm=self.algorithm)


@dataclasses.dataclass(frozen=True)
class Layer:
    """The sizes and arguments of one call; `arrays` makes its data and `grad_output` follows."""

    op: str = "conv1d"
    dtype: str = "float32"
    n_batch: int = 1
    c_in: int = 1
    c_out: int = 1
    l_in: int = 1
    kernel_size: int = 1
    stride: int = 1
    padding: int | str | tuple[int, int] = 0
    dilation: int = 1
    groups: int = 1
    output_padding: int = 0
    padding_mode: str = "zeros"
    bias: bool = True

    @property
    def weight_shape(self):
        if self.op == "conv1d":
            return (self.c_out, self.c_in // self.groups, self.kernel_size)
        return (self.c_in, self.c_out // self.groups, self.kernel_size)

    @property
    def span(self):
        return self.dilation * (self.kernel_size - 1) + 1

    @property
    def pads(self):
        if self.padding == "valid":
            return 0, 0
        if self.padding == "causal" and self.op == "conv1d":
            return self.span - 1, 0
        if isinstance(self.padding, str):
            # conv1d: what the last of ceil(l_in / stride) windows lacks; its adjoint: l_in * stride
            missing = self.span - self.stride
            if self.op == "conv1d":
                missing = (-(-self.l_in // self.stride) - 1) * self.stride + self.span - self.l_in
            missing = max(missing, 0)
            if self.padding == "causal":
                return 0, missing
            less, more = missing // 2, missing - missing // 2
            return (more, less) if self.padding == "same_lower" else (less, more)
        return self.padding if isinstance(self.padding, tuple) else (self.padding, self.padding)

    @property
    def l_out(self):
        if self.op == "conv1d":
            return (self.l_in + sum(self.pads) - self.span) // self.stride + 1
        return (self.l_in - 1) * self.stride - sum(self.pads) + self.span + self.output_padding

    @property
    def size(self):
        return (self.l_in,)

    @property
    def size_out(self):
        return (self.l_out,)

    @property
    def params(self):
        names = ["stride", "padding", "dilation", "groups"]
        names += ["output_padding"] if self.op == "conv_transpose1d" else []
        if self.op == "conv1d" or self.padding_mode != "zeros":
            names.append("padding_mode")
        return {name: getattr(self, name) for name in names}

    def forward(self, functions):
        """Return f(x, w, b) -> y of the module or library `functions`."""
        return functools.partial(getattr(functions, self.op), **self.params)

    def backward(self, functions):
        """Return f(g, x, w) -> (dx, dw, db) of the module or library `functions`."""
        return functools.partial(getattr(functions, self.op + "_backward"), **self.params)

    def normal_arrays(self, seed=0):
        """Return x, w, b (or None), g of N(0, 1)."""
        return self._arrays(np.random.default_rng(seed).standard_normal)

    def integer_arrays(self, seed=0):
        """Return x, w, b (or None), g of small integers, whose sums any dtype holds exactly."""
        rng = np.random.default_rng(seed)
        return self._arrays(lambda shape: rng.integers(-4, 5, shape))

    def _arrays(self, draw):
        def array(*shape):
            values = draw(shape)
            if self.dtype.startswith("complex"):
                values = values + 1j * draw(shape)
            return values.astype(self.dtype)

        x = array(self.n_batch, self.c_in, *self.size)
        w = array(*self.weight_shape)
        b = array(self.c_out)
        g = array(self.n_batch, self.c_out, *self.size_out)
        return x, w, b if self.bias else None, g


@dataclasses.dataclass(frozen=True)
class Planes(Layer):
    """The same of two dimensions: rows beside the columns, and of the same groups and mode."""

    op: str = "conv2d"
    rows: Layer = Layer()

    @property
    def size(self):
        return self.rows.l_in, self.l_in

    @property
    def size_out(self):
        return self.rows.l_out, self.l_out

    @property
    def weight_shape(self):
        return (
            self.c_out, self.c_in // self.groups, self.rows.kernel_size, self.kernel_size
        )  # fmt: skip

    @property
    def pads(self):
        return self.padding if isinstance(self.padding, tuple) else (self.padding,) * 2

    @property
    def l_out(self):
        return (self.l_in + sum(self.pads) - self.span) // self.stride + 1

    @property
    def params(self):
        both = {n: (getattr(self.rows, n), getattr(self, n)) for n in ("stride", "dilation")}
        both["padding"] = self.rows.pads, self.pads
        return {**both, "groups": self.groups, "padding_mode": self.padding_mode}


def draw_layer(choose, **fixed):
    """Return a valid layer from `choose`, which picks one item of a sequence."""

    def pick(name, options):
        return fixed[name] if name in fixed else choose(options)

    op, dtype, stride = pick("op", OPS), pick("dtype", DTYPES), pick("stride", range(1, 10))
    kernel_size, dilation = pick("kernel_size", KERNEL_SIZES), pick("dilation", range(1, 10))
    groups = pick("groups", (1, 1, 1, 2, 3, 5))
    transposed, span = op == "conv_transpose1d", dilation * (kernel_size - 1) + 1
    paddings = [0, 1, 2, 3, span // 2, span - 1, span + 2, (0, 2), (3, 1), (span - 1, 0)]
    if not transposed:
        paddings += ["valid"] + ["same"] * (stride == 1)
    layer = Layer(
        op=op,
        dtype=dtype,
        n_batch=pick("n_batch", (1, 1, 2, 3)),
        c_in=groups * pick("c_in_per_group", CHANNELS),
        c_out=groups * pick("c_out_per_group", CHANNELS),
        kernel_size=kernel_size,
        stride=stride,
        padding=pick("padding", paddings),
        dilation=dilation,
        groups=groups,
        output_padding=pick("output_padding", range(max(stride, dilation))) if transposed else 0,
        padding_mode="zeros" if transposed else pick("padding_mode", ("zeros", *PADDING_MODES)),
        bias=pick("bias", (True, False)),
    )
    return dataclasses.replace(layer, l_in=_input_length(layer, pick("l_out", L_OUT), choose))


def _input_length(layer, l_out, choose):
    """Return the length whose output is about `l_out` long, at least what the layer accepts."""
    pads = layer.pads
    if layer.op == "conv_transpose1d":
        # l_out = (l_in - 1) * stride - pads + span + output_padding must be positive.
        fixed = layer.span + layer.output_padding - sum(pads)
        shortest = max(1, 1 - (fixed - 1) // layer.stride)
        return max(shortest, (l_out - fixed) // layer.stride + 1)
    l_in = (l_out - 1) * layer.stride + layer.span - sum(pads) + choose(range(layer.stride))
    shortest = 1 if layer.padding_mode == "zeros" else max(pads) + 1
    return max(l_in, shortest, layer.span - sum(pads))


@st.composite
def layers(draw, **fixed):
    """Draw any valid layer, with the given choices fixed."""
    return draw_layer(lambda options: draw(st.sampled_from(options)), **fixed)


def random_layers(count, seed=0, **fixed):
    """Return `count` valid layers, the same ones every time."""
    rng = np.random.default_rng(seed)
    return [
        draw_layer(lambda options: options[int(rng.integers(len(options)))], **fixed)
        for _ in range(count)
    ]


def random_planes(count, seed=0, **fixed):
    """Return `count` valid layers of two dimensions: each of two of one."""
    fixed = {"op": "conv1d", "stride": 1, "l_out": 9, **fixed}
    rng = np.random.default_rng(seed)
    found = []
    for layer in random_layers(count, seed, **fixed):
        given = {**fixed, "padding_mode": layer.padding_mode, "groups": 1}
        given["stride"] = int(rng.integers(1, 4))
        (rows,) = random_layers(1, int(rng.integers(2**31)), kernel_size=int(rng.integers(1, 5)),
                                dilation=int(rng.integers(1, 4)), **given)  # fmt: skip
        shared = {f.name: getattr(layer, f.name) for f in dataclasses.fields(layer)}
        found.append(Planes(**shared | {"op": "conv2d", "padding": layer.pads, "rows": rows}))
    return found


def random_view(a, rng):
    """Return a view equal to `a` whose axes have any order, sign and step in memory."""
    order = rng.permutation(a.ndim)
    steps = rng.choice([-3, -2, -1, 1, 2, 3], a.ndim)
    holder = np.full([a.shape[axis] * abs(steps[axis]) for axis in order], np.nan, a.dtype)
    view = holder.transpose(np.argsort(order))[tuple(slice(None, None, int(s)) for s in steps)]
    view[...] = a
    return view


# Layers of real networks at odd lengths, large enough for several tiles and threads.
REALISTIC = (
    Layer(n_batch=2, c_in=64, c_out=61, l_in=1777, kernel_size=3, padding=1),
    Layer(n_batch=1, c_in=4, c_out=37, l_in=4001, kernel_size=19),
    Layer(n_batch=3, c_in=1, c_out=64, l_in=6003, kernel_size=10, stride=5),
    Layer(n_batch=1, c_in=33, c_out=33, l_in=5003, kernel_size=2, dilation=512, padding=(512, 0)),
    Layer(n_batch=2, c_in=97, c_out=97, l_in=999, kernel_size=7, padding=3, groups=97),
    Layer(n_batch=2, c_in=16, c_out=48, l_in=1501, kernel_size=5, padding=2, groups=16),
    Layer(n_batch=33, c_in=48, c_out=40, l_in=35, kernel_size=2),
    Layer(n_batch=1, c_in=384, c_out=31, l_in=150, kernel_size=31, padding="same"),
    Layer(n_batch=1, c_in=80, c_out=1, l_in=3001, kernel_size=7, padding=3, padding_mode="reflect"),
    Layer(n_batch=1, c_in=1, c_out=1, l_in=70_001, kernel_size=101, padding=50),
    Layer(
        n_batch=2, c_in=24, c_out=40, l_in=2003, kernel_size=9, stride=4, padding_mode="circular"
    ),
    Layer("conv_transpose1d", n_batch=2, c_in=64, c_out=31, l_in=401, kernel_size=16, stride=8),
    Layer("conv_transpose1d", n_batch=1, c_in=33, c_out=32, l_in=2003, kernel_size=3, padding=1),
    Layer(
        "conv_transpose1d",
        n_batch=2,
        c_in=40,
        c_out=40,
        l_in=777,
        kernel_size=4,
        stride=2,
        groups=40,
    ),
    Layer("conv_transpose1d", n_batch=1, c_in=20, c_out=1, l_in=5001, kernel_size=21, stride=10),
)


# And of networks over planes: square kernels, lines, depthwise, many short rows.
REALISTIC_PLANES = tuple(
    Planes(**columns, rows=Layer(**rows))
    for columns, rows in (
        ({"n_batch": 2, "c_in": 33, "c_out": 40, "l_in": 61, "kernel_size": 3, "padding": 1},
         {"l_in": 45, "kernel_size": 3, "padding": 1}),
        ({"n_batch": 1, "c_in": 3, "c_out": 32, "l_in": 131, "kernel_size": 7, "stride": 2},
         {"l_in": 99, "kernel_size": 7, "stride": 2, "padding": 3}),
        ({"n_batch": 2, "c_in": 97, "c_out": 97, "groups": 97, "l_in": 41, "kernel_size": 3,
          "padding": 1}, {"l_in": 37, "kernel_size": 3, "padding": 1}),
        ({"n_batch": 9, "c_in": 64, "c_out": 72, "l_in": 7, "kernel_size": 3, "padding": 1},
         {"l_in": 7, "kernel_size": 3, "padding": 1}),
        ({"n_batch": 1, "c_in": 48, "c_out": 40, "l_in": 1},
         {"l_in": 700, "kernel_size": 9, "padding": 4}),
        ({"n_batch": 2, "c_in": 40, "c_out": 61, "l_in": 55}, {"l_in": 43}),
    )
)  # fmt: skip


def assert_exact(result, wide, context=""):
    """Assert that `result` holds exactly the numbers of `wide`, the exact sums."""
    assert result.shape == wide.shape, context
    wrong = np.argwhere(result != wide)
    assert not len(wrong), f"{context}: {len(wrong)} wrong, first at {wrong[0]}"


def assert_within(result, wide, scale, context="", units=8):
    """Assert ``abs(result - wide) <= units * u * scale``, u the unit roundoff of the result."""
    assert result.shape == wide.shape, context
    allowed = units * np.finfo(result.dtype).eps / 2 * scale
    excess = np.abs(result - wide) > allowed
    assert not excess.any(), (
        f"{context}: off by {np.max((np.abs(result - wide) / allowed)[excess])} times the bound"
    )


def assert_same_bits(result, expected, context=""):
    assert result.dtype == expected.dtype, context
    assert result.shape == expected.shape, context
    assert result.tobytes() == expected.tobytes(), f"{context}: bits differ"


def assert_layer_exact(functions, layer, seed=0):
    """Assert forward and all gradients of small integers equal to the int64 reference."""
    arrays = layer.integer_arrays(seed)
    x, w, b, g = arrays
    exact = arrays
    if not layer.dtype.startswith("complex"):
        exact = [None if a is None else a.astype(np.int64) for a in arrays]
    y = layer.forward(functions)(x, w, b)
    assert y.dtype == layer.dtype
    assert_exact(y, reference.accumulate(layer.forward(reference), *exact[:3]), f"{layer} y")
    grads = layer.backward(functions)(g, x, w)
    exact_grads = reference.accumulate(layer.backward(reference), exact[3], exact[0], exact[1])
    for name, grad, wide in zip(("dx", "dw", "db"), grads, exact_grads, strict=True):
        assert grad.dtype == layer.dtype
        assert_exact(grad, wide, f"{layer} {name}")


def longer(array):
    """Return an array of a dtype with more bits, where there is one."""
    if array is None:
        return None
    longer = np.float64 if array.dtype in (np.float32, np.complex64) else np.longdouble
    return array.astype(np.result_type(array.dtype, longer))


def assert_forward_accurate(functions, layer, arrays, units=8):
    """Assert the forward within the error bound of sums in a longer dtype."""
    wide = [longer(a) for a in arrays[:3]]
    forward = layer.forward(reference)
    assert_within(
        layer.forward(functions)(*arrays[:3]),
        reference.accumulate(forward, *wide),
        reference.magnitude(forward, *wide),
        f"{layer} y",
        units,
    )


def assert_layer_accurate(functions, layer, arrays, units=8):
    """Assert forward and all gradients within the error bound of sums in a longer dtype."""
    assert_forward_accurate(functions, layer, arrays, units)
    x, w, _, g = arrays
    wide = [longer(a) for a in (g, x, w)]
    backward = layer.backward(reference)
    for name, grad, exact, scale in zip(
        ("dx", "dw", "db"),
        layer.backward(functions)(g, x, w),
        reference.accumulate(backward, *wide),
        reference.magnitude(backward, *wide),
        strict=True,
    ):
        assert_within(grad, exact, scale, f"{layer} {name}", units)


# Of algorithm='fft': what docs/fast.md says, norms of whole operands in place of those of blocks.
TRANSFORM_BOUND = 2


def assert_transforms_accurate(actual, expected, a, b, bias=None):
    """Results by transforms are within their bound of the direct sums of products of a and b.

    What is summed is a row of `a` times a row of `b` for each channel; the larger norm of either
    with the largest element of the other is no less than what the bound has for a block.
    """
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if actual.size == 0:
        return
    wide = np.complex128 if actual.dtype.kind == "c" else np.float64
    a, b = np.abs(a.astype(wide)), np.abs(b.astype(wide))
    norm = np.sqrt((a**2).sum()) * np.sqrt((b**2).sum())
    if bias is not None:
        norm += np.abs(bias).max(initial=0)
    unit = np.finfo(actual.dtype).eps / 2
    levels = np.log2(max(a.shape[-1], b.shape[-1], 2)) + 8
    error = np.abs(actual.astype(wide) - expected.astype(wide)).max()
    assert error <= TRANSFORM_BOUND * unit * levels * norm


def resident_kib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def recurring_growth(run, limit=1024):
    """KiB by which memory grows in each of three runs, or fewer than `limit`: leaks recur.

    Others in this process touch new pages once.
    """
    for _ in range(3):
        before = resident_kib()
        run()
        grown = resident_kib() - before
        if grown < limit:
            break
    return grown
