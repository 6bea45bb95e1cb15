"""Mutated torch modules: an accelerated one gives torch's result, or raises what torch raises.

Of each case two equal modules are made, and one is accelerated. Then both are changed in the same
way, as programs do behind a library's back, and called again: attributes, parameters of other
shapes, types, devices and classes, hooks, modes, methods. Some are of subclasses, and some stand
among other modules in a model that is fused.
"""

import contextlib
import copy
import types
import warnings

import numpy as np

try:
    import torch
except ImportError:  # an extra
    torch = None
else:
    from torch import nn
    from torch.nn import functional as F

    from fastconv1d.torch import accelerate, disabled, layers, operators, pools, restore

    class Tagged(torch.Tensor):
        """A subclass that nobody expects, with torch's default behaviour."""

    class Padding(nn.Conv1d):
        def forward(self, x):
            return super().forward(F.pad(x, (2, 0)))

    class Handing(nn.Conv1d):
        def _conv_forward(self, x, weight, bias):
            return super()._conv_forward(x, weight * 2, bias)

    class Calling(nn.Conv1d):
        def forward(self, x):
            geometry = self.stride, self.padding, self.dilation, self.groups
            return F.conv1d(x, self.weight, self.bias, *geometry)

    class Cutting(nn.ConvTranspose1d):
        def forward(self, x, output_size=None):
            return super().forward(x, output_size)[..., :-1]

    class CallingTransposed(nn.ConvTranspose1d):
        def forward(self, x, output_size=None):
            return F.conv_transpose1d(
                x, self.weight, self.bias, self.stride, self.padding, groups=self.groups
            )

    class PaddingPlanes(nn.Conv2d):
        def forward(self, x):
            return super().forward(F.pad(x, (2, 0, 0, 1)))

    class HandingPlanes(nn.Conv2d):
        def _conv_forward(self, x, weight, bias):
            return super()._conv_forward(x, weight * 2, bias)

    class CallingPlanes(nn.Conv2d):
        def forward(self, x):
            geometry = self.stride, self.padding, self.dilation, self.groups
            return F.conv2d(x, self.weight, self.bias, *geometry)

    class Surrounded(nn.Module):
        """A convolution among others; `fuse=True` takes what it can of it."""

        def __init__(self, rng, layer):
            super().__init__()
            transposed = isinstance(layer, nn.ConvTranspose1d)
            c_out = layer.out_channels
            self.layer, self.other = layer, copy.deepcopy(layer)
            self.beside = copy.deepcopy(layer) if rng.random() < 0.3 else None
            self.before = rng.choice((None, nn.ReLU(), nn.Tanh(), nn.LeakyReLU(0.2)))
            norm = nn.BatchNorm2d if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d
            c_norm = c_out if self.beside is None else 2 * c_out
            self.norm = norm(c_norm) if rng.random() < 0.5 else None
            self.after = rng.choice(
                (None, nn.ReLU(inplace=True), nn.GELU(), nn.PReLU(), nn.ELU(), nn.SiLU())
            )
            self.adds = self.beside is None and rng.random() < 0.5
            self.late = rng.random() < 0.5
            pools = isinstance(layer, nn.Conv2d) and rng.random() < 0.3
            self.pool = nn.MaxPool2d(2, ceil_mode=True) if pools else None
            self.pads = rng.choice((0, 0, 1, 2))
            self.cut = 0 if transposed else rng.choice((0, 0, 1))
            if self.norm is not None:
                values = torch.arange(1.0, c_norm + 1)
                self.norm.running_mean.copy_(values)
                self.norm.running_var.copy_(values / 3)
            if rng.random() < 0.2 and not nn.utils.parametrize.is_parametrized(layer):
                self.layer = nn.utils.weight_norm(self.layer)
            for module in (self.norm, self.after):
                if module is not None:
                    module.to(layer.bias.dtype if layer.bias is not None else torch.float32)

        def forward(self, x):
            y = x if self.before is None else self.before(x)
            if self.pads:
                y = F.pad(y, (self.pads, 1))
            if self.beside is None:
                y = self.layer(y)
            else:
                y = torch.cat((self.layer(y), self.beside(y)), 1)
            if self.norm is not None:
                y = self.norm(y)
            if self.cut:
                y = y[..., : -self.cut]
            if self.after is not None and self.late:
                y = self.after(y)
            if self.adds:
                y = y + self.other(x)
            if self.after is not None and not self.late:
                y = self.after(y)
            if self.pool is not None:
                y = self.pool(y)
            return F.relu(y)


NUMBERS = (
    0, 1, 2, 3, -1, 7, (1,), (2,), (3,), (0,), (-1,), [1], [2], (1, 1), (), None, True, (True,),
    2.0, (2.0,), "same", "valid", "x", np.int64(1), np.int64(2), (np.int64(2),), [np.int8(1)],
    (64,), (2, 1), (0, 2), [1, 2], (1, np.int64(2)), (1, True), (1, "same"), 2**62, (2**62,),
    2**63 - 1,
)  # fmt: skip
CONTEXTS = (
    "grad", "grad", "no_grad", "no_grad", "inference", "autocast", "disabled", "device",
)  # fmt: skip
MODES = ("zeros", "reflect", "replicate", "circular", "mirror", None, 0)


def draw_layer(rng):
    """Return a small layer of torch's and the shape of an input that it takes."""
    groups = rng.choice((1, 1, 1, 2, 3))
    c_in, c_out = (groups * rng.choice((1, 2, 3, 8)) for _ in range(2))
    kernel, stride, dilation = (
        rng.choice((1, 2, 3, 5)),
        rng.choice((1, 1, 2, 3)),
        rng.choice((1, 1, 2)),
    )
    given = {"stride": stride, "dilation": dilation, "groups": groups}
    given["bias"] = rng.random() < 0.7
    given["dtype"] = rng.choice((torch.float32, torch.float32, torch.float64))
    planes = rng.random() < 0.25
    if planes:
        del given["stride"], given["dilation"]
        layer = draw_planes(rng, c_in, c_out, given)
    elif rng.random() < 0.4:
        given["output_padding"] = rng.randrange(max(stride, dilation))
        given["padding"] = rng.choice((0, 0, 1, 2))
        layer = nn.ConvTranspose1d(c_in, c_out, kernel, **given)
    else:
        given["padding"] = rng.choice((0, 1, 2, "valid") if stride > 1 else (0, 1, 3, "same"))
        given["padding_mode"] = rng.choice(
            ("zeros", "zeros", "zeros", "reflect", "replicate", "circular")
        )
        layer = nn.Conv1d(c_in, c_out, kernel, **given)
    with torch.no_grad():  # small integers: sums are exact
        for parameter in layer.parameters():
            parameter.copy_(torch.from_numpy(integers(rng, tuple(parameter.shape))))
    if rng.random() < 0.3:
        classes = (Cutting, CallingTransposed)
        if isinstance(layer, nn.Conv1d):
            classes = Padding, Handing, Calling
        elif planes:
            classes = PaddingPlanes, HandingPlanes, CallingPlanes
        layer.__class__ = rng.choice(classes)
    if rng.random() < 0.15:
        layer = torch.nn.utils.parametrizations.weight_norm(layer, dim=rng.choice((0, 2)))
    length = rng.choice((1, 4, 9, 20, 20, 40, 1200 if c_in < 4 else 30))
    batch = () if rng.random() < 0.2 else (rng.choice((0, 1, 1, 2, 3)),)
    size = (rng.choice((1, 4, 9, 20)), min(length, 40)) if planes else (length,)
    return layer.train(rng.random() < 0.3), (*batch, c_in, *size)


def draw_planes(rng, c_in, c_out, given):
    """Return a small Conv2d."""

    def pair(*values):
        return rng.choice((rng.choice(values), (rng.choice(values), rng.choice(values))))

    stride, dilation = pair(1, 1, 2, 3), pair(1, 1, 2)
    unit = stride in (1, (1, 1))
    padding = "same" if unit and rng.random() < 0.2 else pair(0, 1, 2)
    mode = rng.choice(("zeros", "zeros", "zeros", "reflect", "replicate", "circular"))
    return nn.Conv2d(
        c_in, c_out, pair(1, 2, 3, 5), stride, padding, dilation, padding_mode=mode, **given
    )


def integers(rng, shape):
    size = int(np.prod(shape))
    values = (np.arange(size) * rng.randrange(1, 4000) + rng.randrange(4000)) % 7919 % 9 - 4
    return values.reshape(shape).astype(np.float64)


def draw_tensor(rng, like, shape=None):
    """Return a tensor that may fit in the place of another, or not."""
    shape = list(like.shape if shape is None else shape)
    kind = rng.randrange(9)
    if kind < 4 and shape:
        shape[rng.randrange(len(shape))] = rng.choice((0, 1, 2, 3, 5, 64, 900))
    elif kind == 4:
        shape = shape[:-1]
    elif kind == 5:
        shape = [*shape, 1]
    values = torch.from_numpy(integers(rng, shape)).to(like.dtype)
    kind = rng.randrange(17)
    if kind == 16 and values.dim() == 4:
        return values.to(memory_format=torch.channels_last)
    if kind == 0:
        return values.to(rng.choice((torch.float16, torch.bfloat16, torch.float64, torch.float32)))
    if kind == 1:
        return values.to(rng.choice((torch.complex64, torch.int32, torch.bool)))
    if kind == 2:
        return values.to("meta")
    if kind == 3 and values.dim() and values.numel():
        return values.expand(2, *values.shape)[0].transpose(0, -1).contiguous().transpose(0, -1)
    if kind == 4:
        return values.as_subclass(Tagged)
    if kind == 5 and values.numel():
        memory = bytearray(values.numel() * values.element_size() + 1)
        odd = torch.frombuffer(memory, dtype=values.dtype, offset=1).view(values.shape)
        return odd.copy_(values)
    if kind == 6 and values.dtype in (torch.float32, torch.float64):
        return torch.complex(torch.zeros_like(values), values).conj().imag
    if kind == 7 and values.dtype == torch.float32:
        with contextlib.suppress(RuntimeError):
            return values.to_mkldnn()
    if kind == 8:
        return values.to_sparse()
    return values


# ---- what is done to a module, the same to both --------------------------------------------------


def set_number(rng):
    name = rng.choice(
        ("stride", "padding", "dilation", "groups", "output_padding", "kernel_size", "in_channels",
         "out_channels")
    )  # fmt: skip
    value = rng.choice(NUMBERS)
    return lambda module: setattr(module, name, copy.copy(value))


def set_mode(rng):
    mode, margins = (
        rng.choice(MODES),
        rng.choice(([0, 0], (1, 2), [-1, 0], (1,), None, (2, 2), (1, 0, 2, 1), [1, 1, 0, 1])),
    )

    def change(module):
        module.padding_mode = mode
        if rng_margins:
            module._reversed_padding_repeated_twice = margins

    rng_margins = rng.random() < 0.5
    return change


def set_parameter(rng):
    seed, name, way = rng.random(), rng.choice(("weight", "weight", "bias")), rng.randrange(5)

    def change(module):
        import random

        old = getattr(module, name)
        if old is None:
            old = module.weight.flatten(1)[:, 0]
        new = draw_tensor(random.Random(seed), old.detach())
        if way == 0 and name in module._parameters and module._parameters[name] is not None:
            module._parameters[name].data = new
        elif way == 1 and name in module._parameters:
            del module._parameters[name]
            setattr(module, name, new)
        else:
            grads = way != 2 and (new.is_floating_point() or new.is_complex())
            setattr(module, name, nn.Parameter(new, requires_grad=grads))

    return change


def write_values(rng):
    way, value, at = rng.randrange(4), rng.choice((9.0, -1.0, 0.5)), rng.random()

    def change(module):
        with torch.no_grad():
            first = next(module.parameters(), None)
            if first is None:
                return
            flat = first.data.view(-1)
            index = int(at * flat.numel())
            if way == 0:
                flat[index] = value
            elif way == 1:
                first.detach().numpy().reshape(-1)[index] = value
            elif way == 2:
                first.mul_(2)
            else:
                first.data = first.data.clone() * 3
            if way < 2 and max(p.nbytes for p in module.parameters()) > layers.SMALL:
                module.train(module.training)  # short calls do not see these

    return change


def replace_method(rng):
    name = rng.choice(("_conv_forward", "forward", "_output_padding"))

    def change(module):
        method = getattr(module, name, None)
        if method is None:
            return

        def replaced(self, *args, **kwargs):
            y = method(*args, **kwargs)
            return y * 2 if isinstance(y, torch.Tensor) else y

        setattr(module, name, types.MethodType(replaced, module))

    return change


def add_hook(rng):
    way = rng.randrange(3)

    def change(module):
        if way == 0:
            module.register_forward_pre_hook(lambda m, args: (args[0] * 2, *args[1:]))
        elif way == 1:
            module.register_forward_hook(lambda m, args, y: y + 1)
        else:
            module.register_full_backward_hook(lambda m, gx, gy: None)

    return change


def convert(rng):
    way = rng.choice(
        ("half", "double", "bfloat16", "to_meta", "train", "eval", "frozen", "prune", "last")
    )

    def change(module):
        if way == "to_meta":
            module.to("meta")
        elif way == "last":
            module.to(memory_format=torch.channels_last)
        elif way == "frozen":
            module.requires_grad_(False)
        elif way == "prune":
            torch.nn.utils.prune.l1_unstructured(module, "weight", 0.5)
        else:
            getattr(module, way)()

    return change


def change_neighbours(rng):
    """What happens to a model around its convolution."""
    way, value = rng.randrange(13), rng.choice((0, 1, 2, 0.5, None, True))
    child = rng.choice(("before", "layer", "norm", "after", "other", "beside", "pool"))

    def change(model):
        module = getattr(model, child)
        if way == 0:
            setattr(model, rng_flag, value)
        elif way == 1:
            model.norm.running_var.mul_(2)
        elif way == 2:
            model.norm.eps = 0.5
        elif way == 3:
            model.norm.weight = nn.Parameter(model.norm.weight.detach() * 3)
        elif way == 4:
            module.register_forward_hook(lambda m, args, y: y * 2)
        elif way == 5:
            module.register_forward_pre_hook(lambda m, args: (args[0] + 1,))
        elif way == 6:
            module.train()
        elif way == 7:
            setattr(model, child, nn.Identity() if value else None)
        elif way == 8:
            method = module.forward
            module.forward = lambda x: method(x) + 1
        elif way == 9:
            setattr(model.after, rng_slope, value)
        elif way == 10:
            model.norm.running_mean = model.norm.running_mean[:1]
        elif way == 11:
            model.norm.bias.data = model.norm.bias.data.double()
        else:
            model.forward = types.MethodType(lambda self, x: self.layer(x), model)

    rng_flag = rng.choice(("adds", "late", "pads", "cut"))
    rng_slope = rng.choice(("inplace", "negative_slope", "alpha", "approximate", "weight"))
    return change


CHANGES = (
    set_number, set_number, set_number, set_mode, set_parameter, set_parameter, set_parameter,
    write_values, write_values, replace_method, add_hook, convert,
)  # fmt: skip


# ---- calls ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def mode(name):
    with contextlib.ExitStack() as stack:
        if name == "no_grad":
            stack.enter_context(torch.no_grad())
        elif name == "inference":
            stack.enter_context(torch.inference_mode())
        elif name == "autocast":
            stack.enter_context(torch.autocast("cpu", dtype=torch.bfloat16))
        elif name == "disabled":
            stack.enter_context(disabled())
        elif name == "device":
            stack.enter_context(torch.device("cpu"))
        yield


def outcome(module, x, name, gradients, size):
    """Return the output and the gradients of a call, or the error."""
    try:
        with mode(name), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if gradients and (x.is_floating_point() or x.is_complex()):
                x = x.detach().requires_grad_()
            y = module(x) if size is None else module(x, size)
            leaves = [t for t in (x, *module.parameters()) if t.requires_grad and t.is_leaf]
            if not (gradients and y.requires_grad and leaves):
                return [y]
            found = torch.autograd.grad(y, leaves, torch.ones_like(y) * 2, allow_unused=True)
            return [y, *found]
    except Exception as error:  # of any type, which is compared
        return error


def has_huge_numbers(module):
    """Whether torch's own gradients may divide by zero or crash, which ends the process."""
    numbers = (module.stride, module.padding, module.dilation, module.output_padding)
    flat = [n for value in numbers for n in (value if isinstance(value, tuple) else (value,))]
    return any(isinstance(n, int) and n >= 2**12 for n in flat)


def crashes_in_16_bits(layer):
    """Whether torch 2.13 ends the process: oneDNN's bfloat16, transposed, with a stride of 64, and
    planes of several groups on two threads.
    """
    if isinstance(layer, nn.Conv2d):
        return layer.groups != 1
    return isinstance(layer, nn.ConvTranspose1d) and layer.stride in (64, (64,))


def tensors_of(module):
    values = (value for part in module.modules() for value in vars(part).values())
    plain = [value for value in values if isinstance(value, torch.Tensor)]
    return [*module.parameters(), *module.buffers(), *plain]


def assert_same(ours, torchs, values, exact=True):
    if "returned an invalid gradient" in str(torchs):
        return  # torch met what is left of a graph of before .data was exchanged
    if isinstance(torchs, Exception) or isinstance(ours, Exception):
        assert type(ours) is type(torchs), (repr(ours)[:300], repr(torchs)[:300])
        return
    assert len(ours) == len(torchs)
    for i, (a, b) in enumerate(zip(ours, torchs, strict=True)):
        if a is None or b is None:
            assert a is b
            continue
        if i and is_sum_to_an_old_shape(a, b):
            continue
        assert type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape, (a, b)
        assert a.device == b.device and a.layout == b.layout and a.requires_grad == b.requires_grad
        if i and not exact:
            continue  # gradients at a corner of an activation, where sums are rounded
        if values and a.device.type == "cpu" and a.numel():
            if i == 0 and a.dim() == 4:
                assert a.stride() == b.stride()
            assert_close(dense(a), dense(b))


def is_sum_to_an_old_shape(a, b):
    """Whether torch added a gradient up to the shape that `.data` had for a graph still alive."""
    if a.shape == b.shape or a.layout != torch.strided or a.dim() != b.dim():
        return False
    sizes = zip(a.shape, b.shape, strict=True)
    return all(n in (1, m) for m, n in sizes) and torch.equal(a.sum_to_size(b.shape), b)


def dense(tensor):
    tensor = tensor.detach()
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def assert_close(a, b):
    wide = a.dtype in (torch.float64, torch.complex128)
    close = 1e-9 if wide else 1e-4
    scale = b.abs()[b.isfinite()].max().item() if b.isfinite().any() else 0.0
    torch.testing.assert_close(a, b, rtol=close, atol=close * (1 + scale), equal_nan=True)


def run(rng):
    """One case, at times with the rule that leaves small calls with gradients to torch."""
    before = operators.LEAST_WORK, pools.LEAST, pools.NARROW
    operators.LEAST_WORK, pools.LEAST, pools.NARROW = rng.choice((0, 0, 0, before[0])), 0, 0
    try:
        _run(rng)
    finally:
        operators.LEAST_WORK, pools.LEAST, pools.NARROW = before


def _run(rng):
    torchs, shape = draw_layer(rng)
    fused = rng.random() < 0.3 and len(shape) == torchs.weight.dim()
    if fused:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # weight_norm is old
            torchs = Surrounded(rng, torchs)
            torchs.train(rng.random() < 0.2)
    fast, report = accelerate(torchs, fuse=fused, conv2d=True)
    assert report.left == {} and report.replaced[0] == ("layer" if fused else ""), report
    for _ in range(rng.choice((1, 2, 3))):
        call(rng, fast, torchs, shape)
        around = fused and rng.random() < 0.5
        change = change_neighbours(rng) if around else rng.choice(CHANGES)(rng)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                change(torchs.layer if fused and not around else torchs)
            except Exception:
                return  # the change itself is refused
            change(fast.layer if fused and not around else fast)
        for _ in range(rng.choice((1, 2))):
            call(rng, fast, torchs, shape)
    if rng.random() < 0.2 and "forward" not in vars(torchs):
        back = restore(fast, inplace=True)
        assert vars(back).keys() == vars(torchs).keys()
        assert type(back) is type(torchs) or nn.utils.parametrize.is_parametrized(torchs)
        call(rng, back, torchs, shape)


def call(rng, fast, torchs, shape):
    like = torch.zeros((), dtype=rng.choice((torch.float32, torch.float32, torch.float64)))
    if rng.random() < 0.7:
        like = next(iter(torchs.parameters()), like)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of imaginary parts
        x = torch.from_numpy(integers(rng, shape)).to(like.dtype)
        if rng.random() < 0.15:
            x = draw_tensor(rng, x)
    size = None
    if isinstance(torchs, nn.ConvTranspose1d) and rng.random() < 0.2:
        size = rng.choice(([rng.randrange(1, 90)], [0], (20, 20), None))
    name = rng.choice(
        ("grad", "grad", "no_grad", "no_grad", "inference", "autocast", "disabled", "device")
    )
    if name == "autocast" and crashes_in_16_bits(getattr(torchs, "layer", torchs)):
        name = "grad"
    gradients = rng.random() < 0.6
    threads = 2 if rng.random() < 0.05 else 1
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        expected = outcome(torchs, x, name, gradients, size)
        # torch leaves outputs unset with operands on the meta device, and at times, with 16 bits,
        # elements of gradients; it computes these for both
        tensors = (x, *tensors_of(torchs))
        halves = (torch.float16, torch.bfloat16)
        values = name != "autocast" and not any(t.is_meta or t.dtype in halves for t in tensors)
        exact = not isinstance(torchs, Surrounded)
        assert_same(outcome(fast, x, name, gradients, size), expected, values, exact)
    finally:
        torch.set_num_threads(before)
