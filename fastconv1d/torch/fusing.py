"""Chains around a convolution as one step, in the forward of a module that was traced.

`fuse` gives a module a class (`classes`) whose forward runs a `Program` instead: the same
operations in the same order, but that a `Chain` is a convolution with what stands around it:
padding before and a cut after, the activation before, a batch norm, the activation after, an
addition. The modules, their parameters and hooks stay where they are. In each call the program asks
whether all is as it was; whatever it does not like, torch computes in the module's own forward.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd import profiler
from torch.nn import functional as F

from ..core.activations import Steps, parse_activation
from .calls import computed, functions_in
from .classes import AROUND, class_of, derived, give_back, own_class, reason_against
from .layers import LONG, Fast, _Pack, _plain_array
from .norms import Part, PartOfNorm, folded
from .operators import num_threads, operands
from .pools import pool_of
from .tracing import Graph, Inner, Untraceable, Watched, layer_of, old_norm, trace
from .watch import is_plain, profiling, torch_watches

_UNFIT = (TypeError, ValueError, RuntimeError, MemoryError)


# ---- what stands around a convolution ------------------------------------------------------------


def _named(name: str, *attributes: str) -> Callable[[Any], Any]:
    def read(module: Any) -> Any:
        values = tuple(getattr(module, attribute) for attribute in attributes)
        return (name, *values) if values else name

    return read


def _prelu(module: Any) -> Any:
    one = module.weight.numel() == 1 and module.weight.dim() < 2
    return ("leaky_relu", module.weight.item()) if one else None


_MODULES: dict[type, Callable[[Any], Any]] = {
    nn.ReLU: _named("relu"),
    nn.LeakyReLU: _named("leaky_relu", "negative_slope"),
    nn.PReLU: _prelu,
    nn.ELU: _named("elu", "alpha"),
    nn.GELU: _named("gelu", "approximate"),
}
# Names, parameters and their defaults. SiLU, tanh and sigmoid are no part of a chain: torch takes
# 32 to 37 us for 64 channels of 1,000 columns with vectors of 16 lanes, a chain 20 to 30 us more
# (GELU by erf 80 us). The others are as fast in a chain, or faster (ELU by a fifth).
_FUNCTIONS: dict[Any, tuple[str, str | None, Any]] = {
    F.relu: ("relu", None, None), torch.relu: ("relu", None, None), "relu": ("relu", None, None),
    torch.relu_: ("relu", None, None), "relu_": ("relu", None, None),
    F.leaky_relu: ("leaky_relu", "negative_slope", 0.01), F.elu: ("elu", "alpha", 1.0),
    F.gelu: ("gelu", "approximate", "none"),
}  # fmt: skip
_SLOW = ("gelu", "none")
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
# Before the sums of several readers a function is computed once for each.
_CHEAP = ("relu", "leaky_relu")


class _Function:
    """An activation: how to read it now, and how torch computes it."""

    def __init__(
        self, run: Callable[..., Any], read: Callable[[], Any], module: Any = None
    ) -> None:
        self.run, self.read, self.module = run, read, module
        self.name = read() if isinstance(read(), str) else read()[0]


def _function_of(node: Any, root: nn.Module) -> _Function | None:
    """The activation that a node is, or None."""
    if not isinstance(node, fx.Node) or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        read = _MODULES.get(type(module))
        if read is None or read(module) is None or len(node.args) != 1:
            return None
        if read(module) == _SLOW:
            return None
        return _Function(module, functools.partial(read, module), module)
    known = _FUNCTIONS.get(node.target) if node.op in ("call_function", "call_method") else None
    if known is None:
        return None
    name, parameter, value = known
    given = {k: v for k, v in node.kwargs.items() if k not in ("inplace", parameter)}
    rest = [arg for arg in node.args[1:] if not isinstance(arg, bool)]
    if given or len(rest) > (parameter is not None):
        return None
    if parameter is not None:
        value = node.kwargs.get(parameter, rest[0] if rest else value)
        if not isinstance(value, (int, float, str)):
            return None
    spelled = name if parameter is None else (name, value)
    if spelled == _SLOW:
        return None
    run = _torchs_of(name, value)
    return _Function(run, lambda: spelled)


def _torchs_of(name: str, value: Any) -> Callable[..., Any]:
    if name == "relu":
        return F.relu
    keyword = {"leaky_relu": "negative_slope", "elu": "alpha", "gelu": "approximate"}[name]
    return functools.partial(getattr(F, name), **{keyword: value})


class Chain:
    """A convolution with its neighbours: ``chain(x)``, or ``chain(x, residual)``."""

    def __init__(self, layer: Any, run: Callable[..., Any]) -> None:
        self.layer, self.run = layer, run
        self.norm: Any = None
        self.part: Part | None = None  # the norm's channels; None: all
        self.before: _Function | None = None
        self.after: _Function | None = None
        self.left = self.right = 0  # columns of zeros before, and after; a cut is below zero
        self.adds, self.adds_last = False, False
        self.torchs: list[tuple[str, Callable[..., Any]]] = [("", run)]  # the same of torch
        self._pack = _Pack()
        self.__name__ = self.__qualname__ = "chain"

    @property
    def told(self) -> list[str]:
        """What was fused, in the order of computation."""
        steps = ["padding"] if self.left > 0 or self.right > 0 else []
        steps += [] if self.before is None else [self.before.name]
        steps += ["convolution"]
        steps += [] if self.norm is None else ["batch norm"]
        steps += ["cut"] if self.right < 0 else []
        after = [] if self.after is None else [self.after.name]
        addition = ["addition"] if self.adds else []
        return steps + (after + addition if self.adds_last else addition + after)

    @property
    def modules(self) -> list[Any]:
        functions = (self.before, self.after)
        return [m for m in (self.layer, self.norm, *(f.module for f in functions if f)) if m]

    def __call__(self, x: Tensor, residual: Any = None) -> Any:
        try:
            if profiling():
                with profiler.record_function("fastconv1d::chain"):
                    y = self._computed(x, residual)
            else:
                y = self._computed(x, residual)
        except _UNFIT:
            y = None
        return self._by_torch(x, residual) if y is None else y

    def _by_torch(self, x: Any, residual: Any) -> Any:
        for kind, run in self.torchs:
            x = run(x, residual) if kind == "addition" else run(x)
        return x

    def _parts(self) -> tuple[tuple[Tensor, ...], Any]:
        """All tensors that the result follows from, and the layer's weight norm."""
        layer, norm = self.layer, None
        if old_norm(layer) is None:
            _, _, parts, norm = layer._parts()
        else:
            found = layer.weight_g, layer.weight_v, layer.bias
            parts = tuple(part for part in found if part is not None)
        if self.norm is not None:
            bn = self.norm
            both = bn.weight, bn.bias, bn.running_mean, bn.running_var
            parts = (*parts, *(part for part in both if part is not None))
        for function in (self.before, self.after):
            if function is not None and isinstance(function.module, nn.PReLU):
                parts = (*parts, function.module.weight)
        return parts, norm

    def _settings(self) -> tuple[Any, ...]:
        before = None if self.before is None else self.before.read()
        after = None if self.after is None else self.after.read()
        hook, bn = old_norm(self.layer), self.norm
        dim = None if hook is None else hook.dim
        given = None if bn is None else (bn.eps, bn.weight is None, bn.bias is None)
        return before, after, dim, self.layer.bias is None, given

    def _computed(self, x: Tensor, residual: Any) -> Tensor | None:
        layer = self.layer
        if x.dim() != layer._rank + 2 or not layer._is_torchs():
            return None
        products = self._pack.products
        if products is not None and products.leaves(x, layer._rank, True):
            return None
        parts, norm = self._parts()
        if not layer._fits(x, parts):
            return None
        if self.adds and not (is_plain(residual) and layer._fits(residual, ())):
            return None
        array, arrays, pack = _plain_array(x), tuple(map(_plain_array, parts)), self._pack
        if not (
            layer._attributes_are(pack.attributes, norm)
            and pack.settings == self._settings()
            and pack.recognises(parts, arrays, array)
        ):
            pack = self._packed(x, parts, arrays, norm)
        if pack.layer is None or array.dtype is not pack.dtype:
            return None
        y = pack.layer(array, num_threads, _plain_array(residual) if self.adds else None)
        return None if y is None else torch.from_numpy(y)

    def _packed(self, x: Tensor, parts: Any, arrays: Any, norm: Any) -> _Pack:
        layer, pack = self.layer, _Pack()
        hook = old_norm(layer)
        if hook is not None:
            hook(layer, None)  # as before each call: the attribute weight is that of g and v
        weight, bias = layer.weight, layer.bias
        _, w, b = operands(weight, weight, bias)
        geometry = layer._geometry_for(weight) if layer.padding_mode == "zeros" else None
        if geometry is None or any(array.dtype != w.dtype for array in arrays):
            return pack
        if self.left or self.right:
            left, right = geometry.left + self.left, geometry.right + self.right
            if left < 0 or right < 0 or (self.right < 0 and geometry.stride != 1):
                return pack
            geometry = geometry._replace(left=left, right=right)
        layer._check(x.shape, w.shape, None if b is None else b.shape, geometry)
        if self.norm is not None:
            w, b = folded(self.norm, self.part, w, b, geometry.groups, layer._is_scatter)
        settings = self._settings()
        for function, setting in zip((self.before, self.after), settings, strict=False):
            if function is not None and setting is None:  # a PReLU with more slopes than before
                return pack
        before, after = map(parse_activation, settings[:2])
        steps = Steps(before, after, 1.0, self.adds_last)
        prepared = layer._prepared(w, b, geometry, layer.algorithm)
        if prepared is None:
            return pack
        pack.layer = prepared if steps == Steps() else prepared.with_steps(steps)
        pack.dtype, pack.settings = w.dtype, settings
        pack.products = layer._products(w.shape, geometry)
        pack.long = LONG * layer._step(geometry) * x.shape[1]
        attributes = layer._attributes(norm)
        if not any(isinstance(value, list) for value in attributes):
            pack.attributes = attributes
            pack.remember(parts, arrays)
            self._pack = pack
        return pack


# ---- finding chains ------------------------------------------------------------------------------


# What does nothing in eval mode.
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)


class _Matcher:
    """Rewrites a graph: each convolution takes on its neighbours."""

    def __init__(self, graph: fx.Graph, root: nn.Module, names: dict[int, str]) -> None:
        self.graph, self.root, self.names = graph, root, names
        self.chains: dict[str, Chain] = {}
        self.watched: list[Any] = []  # modules that are not called any more, beside those of chains

    def run(self) -> None:
        for node in list(self.graph.nodes):
            self._skip(node)
        for node in list(self.graph.nodes):
            self._part(node)
            self._pool(node)
        for node in list(self.graph.nodes):
            layer = None if node._erased else layer_of(node, self.root)
            if layer is None or len(node.args) != 1 or node.kwargs:
                continue
            if layer.padding_mode == "zeros":
                self._match(node, layer)
        self.graph.lint()

    def _skip(self, node: fx.Node) -> None:
        if node.op == "call_module" and len(node.args) == 1:
            module = self.root.get_submodule(str(node.target))
            if type(module) in _NOTHING:
                self.watched.append(module)
                node.replace_all_uses_with(_source(node))
                self.graph.erase_node(node)

    def _pool(self, node: fx.Node) -> None:
        found = pool_of(node, self.root)
        if found is not None:
            pool, module = found
            with self.graph.inserting_after(node):
                node.replace_all_uses_with(self.graph.call_function(pool, (_source(node),)))
            self.graph.erase_node(node)
            if module is not None:
                self.watched.append(module)

    def _part(self, node: fx.Node) -> None:
        """Have what follows joined convolutions follow each of these, where it can be fused."""
        layers = _joined(node, self.root)
        if layers is None:
            return
        followers, first = self._followers(node, layers[0]), 0
        sizes = [layer.out_channels for layer in layers]
        branches = list(node.all_input_nodes)
        for i, size in enumerate(sizes):
            part = Part(first, first + size, sum(sizes))
            for follower in followers:
                branches[i] = self._repeated(follower, branches[i], part, layers[0])
            first += size
        if followers:
            node.args, node.kwargs = (branches, 1), {}
            followers[-1].replace_all_uses_with(node)
            for follower in reversed(followers):
                self.graph.erase_node(follower)

    def _repeated(self, node: fx.Node, source: fx.Node, part: Part, layer: Any) -> fx.Node:
        """The same as a node for one of the values that were joined before it."""
        norm, target = self._norm_of(node, layer), node.target
        op = node.op
        if norm is not None:
            op, target = "call_function", PartOfNorm(norm[0], part)
            self.watched.append(norm[0])
        with self.graph.inserting_after(source):
            return self.graph.create_node(op, target, (source, *node.args[1:]), node.kwargs)

    def _followers(self, node: fx.Node, layer: Any) -> list[fx.Node]:
        """A batch norm and an activation, or one of both, that alone read what was joined."""
        found: list[fx.Node] = []
        last = node
        while len(last.users) == 1:
            (after,) = last.users
            norm, function = self._norm_of(after, layer), _function_of(after, self.root)
            if not (norm is not None and not found) and not (
                function is not None and after.args[0] is last
            ):
                break
            found.append(after)
            if norm is None:
                break
            last = after
        return found

    def _match(self, node: fx.Node, layer: Any) -> None:
        run = node.target if isinstance(node.target, Inner) else layer
        chain, source = Chain(layer, run), node.args[0]
        if not isinstance(source, fx.Node):
            return
        source = self._take_before(chain, source)
        last, residual = self._take_after(chain, node)
        if last is node and source is node.args[0] and old_norm(layer) is None:
            return
        with self.graph.inserting_after(last):
            args = (source,) if residual is None else (source, residual)
            fused = self.graph.call_function(chain, args)
        last.replace_all_uses_with(fused)
        self._drop(last)
        name = self.names.get(id(layer), "")
        self.chains[name if name not in self.chains else f"{name} ({len(self.chains)})"] = chain

    def _drop(self, node: fx.Node) -> None:
        """Erase an operation that nobody reads, and then those before it."""
        if node.users or node.op == "placeholder":
            return
        sources = node.all_input_nodes
        self.graph.erase_node(node)
        for source in sources:
            self._drop(source)

    def _take_before(self, chain: Chain, source: fx.Node) -> fx.Node:
        takes_pads = not chain.layer._is_scatter and chain.layer._rank == 1
        pads = _pads(source, self.root) if takes_pads else None
        if pads is not None:
            (chain.left, chain.right), inner = pads, _source(source)
            chain.torchs.insert(0, ("", functools.partial(F.pad, pad=pads)))
            source = inner
        function = _function_of(source, self.root)
        if function is not None and self._may_precede(source, function):
            chain.before = function
            chain.torchs.insert(0, ("", function.run))
            source = _source(source)
        return source

    def _may_precede(self, node: fx.Node, function: _Function) -> bool:
        """Whether all readers of an activation are convolutions, and who else reads its input."""
        if isinstance(getattr(function.module, "inplace", None), bool) and function.module.inplace:
            return False
        if node.kwargs.get("inplace") or any(arg is True for arg in node.args[1:]):
            return False
        if str(node.target).endswith("_"):
            return False
        readers = list(node.users)
        if len(readers) > 1 and function.name not in _CHEAP:
            return False
        return all(
            layer_of(reader, self.root) is not None
            or isinstance(reader.target, Chain)
            or (
                _pads(reader, self.root) is not None
                and all(layer_of(each, self.root) is not None for each in reader.users)
            )
            for reader in readers
        )

    def _take_after(self, chain: Chain, node: fx.Node) -> tuple[fx.Node, fx.Node | None]:
        residual = None
        last = node
        while len(last.users) == 1:
            (after,) = last.users
            norm = self._norm_of(after, chain.layer)
            cut = _cut(after) if chain.layer._rank == 1 else None
            function = _function_of(after, self.root)
            other = _other(after, last)
            if norm is not None and not (chain.norm or chain.after or chain.adds):
                chain.norm, chain.part, run = norm
                chain.torchs.append(("", run))
            elif cut is not None and chain.right >= 0 and not (chain.after or chain.adds):
                if chain.left or chain.right or not _has_padding(chain.layer, -cut):
                    break
                chain.right = cut
                chain.torchs.append(("", functools.partial(_cut_of, cut=cut)))
            elif _is_copy(after) and chain.right < 0:
                chain.torchs.append(("", Tensor.contiguous))
            elif function is not None and after.args[0] is last and not chain.after:
                chain.after = function
                chain.torchs.append(("", function.run))
            elif other is not None and not chain.adds:
                chain.adds, chain.adds_last, residual = True, chain.after is not None, other
                chain.torchs.append(("addition", torch.add))
            else:
                break
            last = after
        return last, residual

    def _norm_of(self, node: fx.Node, layer: Any) -> tuple[Any, Part | None, Any] | None:
        """The batch norm that a node is, which of its channels, and how torch computes it."""
        if isinstance(node.target, PartOfNorm):
            return node.target.norm, node.target.part, node.target
        if node.op != "call_module" or len(node.args) != 1:
            return None
        module = self.root.get_submodule(str(node.target))
        norm = nn.BatchNorm1d if layer._rank == 1 else nn.BatchNorm2d
        if type(module) is not norm or module.running_mean is None:
            return None
        return module, None, module


def _joined(node: fx.Node, root: nn.Module) -> list[Any] | None:
    """The convolutions whose channels a node joins, if nothing else reads them; otherwise None."""
    if node.target not in (torch.cat, torch.concat, torch.concatenate):
        return None
    given = dict(zip(("tensors", "dim"), node.args, strict=False)) | dict(node.kwargs)
    branches, dim = given.pop("tensors", None), given.pop("dim", 0)
    if given or dim != 1 or type(dim) is not int or not isinstance(branches, (list, tuple)):
        return None
    layers = [layer_of(branch, root) for branch in branches]
    if not layers or len({*branches}) != len(branches):
        return None
    for branch, layer in zip(branches, layers, strict=True):
        if layer is None or len(branch.users) != 1 or layer.padding_mode != "zeros":
            return None
        if layer._rank != layers[0]._rank or type(layer.out_channels) is not int:
            return None
    return layers


def _source(node: fx.Node) -> fx.Node:
    """What an operation is applied to."""
    (first, *_) = node.args
    if not isinstance(first, fx.Node):
        raise Untraceable(f"{node.name} is applied to no tensor")
    return first


def _pads(node: Any, root: nn.Module) -> Any:
    """How many zeros a node adds on both sides, or None."""
    if not isinstance(node, fx.Node) or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    if node.op == "call_module":
        module: Any = root.get_submodule(str(node.target))
        if type(module) is not nn.ConstantPad1d and type(module).__name__ != "ZeroPad1d":
            return None
        pads, mode, value = module.padding, "constant", module.value
    elif node.target is F.pad:
        given = dict(zip(("pad", "mode", "value"), node.args[1:], strict=False))
        given.update(node.kwargs)
        pads, mode = given.get("pad"), str(given.get("mode", "constant"))
        value = given.get("value")
    else:
        return None
    pads = tuple(pads) if isinstance(pads, (tuple, list)) else ()
    if len(pads) != 2 or mode != "constant" or value not in (None, 0):
        return None
    return pads if all(type(p) is int and p >= 0 for p in pads) else None


def _cut(node: fx.Node) -> int | None:
    """The columns that ``x[..., :-n]`` cuts, as a number below zero, or None."""
    if node.target is not operator.getitem or not isinstance(node.args[1], tuple):
        return None
    index = node.args[1]
    whole = slice(None, None, None)
    if index[:-1] not in ((Ellipsis,), (whole, whole)) or not isinstance(index[-1], slice):
        return None
    start, stop, step = index[-1].start, index[-1].stop, index[-1].step
    if start not in (None, 0) or step not in (None, 1) or type(stop) is not int or stop >= 0:
        return None
    return stop


def _has_padding(layer: Any, columns: int) -> bool:
    """Whether a layer pads so many columns on the right, which a cut makes needless."""
    if layer._is_scatter or layer.kernel_size == ():
        return False
    geometry = layer._geometry(layer.kernel_size[0])
    return geometry is not None and geometry.stride == 1 and geometry.right >= columns


def _cut_of(x: Tensor, cut: int) -> Tensor:
    return x[..., :cut]


def _is_copy(node: fx.Node) -> bool:
    return node.op == "call_method" and node.target == "contiguous" and len(node.args) == 1


def _other(node: fx.Node, known: fx.Node) -> fx.Node | None:
    """What a node adds to a known value, or None."""
    if node.target not in _ADDITIONS or len(node.args) != 2 or node.kwargs:
        return None
    first, second = node.args
    if first is second or not (isinstance(first, fx.Node) and isinstance(second, fx.Node)):
        return None
    if second is known and node.target in (operator.iadd, "add_"):
        return None  # it is the other one that changes
    return second if first is known else first


# ---- programs -----------------------------------------------------------------------------------


class Program:
    """What the forward of a fused module runs. Copies and pickles of it are traced anew."""

    def __init__(self, root: nn.Module | None = None) -> None:
        self.run: Any = None
        self.chains: dict[str, Chain] = {}
        self.arguments = -1
        self.watched: Watched | None = None
        self.refused = False
        if root is not None:
            self._make(root)

    @property
    def told(self) -> dict[str, list[str]]:
        """What each convolution took on."""
        return {name: chain.told for name, chain in self.chains.items()}

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Program, ()

    def __deepcopy__(self, memo: Any) -> Program:
        return Program()

    def _make(self, root: nn.Module) -> None:
        traced: Graph = trace(root)
        matcher = _Matcher(traced.graph, root, traced.names)
        matcher.run()
        self.chains, self.arguments = matcher.chains, traced.arguments
        leaves = [m for chain in self.chains.values() for m in chain.modules]
        self.watched = Watched(root, traced.entered, [*leaves, *matcher.watched])
        self.run = _compiled(traced.graph, root)

    def fits(self, root: nn.Module, args: tuple[Any, ...]) -> bool:
        if self.watched is None and not self.refused:
            self.refused = True
            try:
                self._make(root)
                self.refused = False
            except Untraceable:
                return False
        return (
            self.watched is not None
            and len(args) == self.arguments
            and self.watched.root is root
            and self.watched.are_as_they_were()
        )


def with_program(forward: Callable[..., Any], module: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a module's own forward, or its program where nobody sees the difference."""
    if kwargs or torch.is_grad_enabled() or torch.compiler.is_compiling() or torch_watches():
        return forward(*args, **kwargs)
    program = module.__dict__.get("_program")
    if program is None or not program.fits(module, args):
        return forward(*args)
    try:
        return program.run(*args)
    except Exception:  # torch has the right error, or the result
        return forward(*args)


AROUND["program"] = with_program


def _compiled(graph: fx.Graph, root: nn.Module) -> Callable[..., Any]:
    """The graph as a function. Values are forgotten after their last use."""
    writer = _Writer(root)
    last_use: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        for source in node.all_input_nodes:
            last_use[source] = node
    dying: dict[fx.Node, list[fx.Node]] = {}
    for source, node in last_use.items():
        dying.setdefault(node, []).append(source)
    parameters, lines = [], []
    for node in graph.nodes:
        if node.op == "placeholder":
            parameters.append(writer.name(node))
        elif node.op == "output":
            lines.append(f"return {writer.value(node.args[0])}")
        else:
            lines.append(f"{writer.name(node)} = {writer.call(node)}")
            dead = [writer.name(source) for source in dying.get(node, ())]
            if not node.users:
                dead.append(writer.name(node))
            if dead:
                lines.append(" = ".join(dead) + " = None")
    source = f"def program({', '.join(parameters)}):\n" + "".join(f"    {x}\n" for x in lines)
    namespace = writer.constants
    exec(compile(source, "<fastconv1d program>", "exec"), namespace)  # of names and numbers alone
    return namespace["program"]


class _Writer:
    """Source of a program: every name is one made here, everything else a constant by name."""

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.functions = functions_in(root)
        self.constants: dict[str, Any] = {}
        self.names: dict[fx.Node, str] = {}

    def name(self, node: fx.Node) -> str:
        return self.names.setdefault(node, f"v{len(self.names)}")

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name

    def value(self, value: Any) -> str:
        if isinstance(value, fx.Node):
            return self.name(value)
        if isinstance(value, tuple) and type(value) is tuple:
            return "(" + "".join(f"{self.value(item)}, " for item in value) + ")"
        if isinstance(value, list):
            return "[" + ", ".join(map(self.value, value)) + "]"
        if isinstance(value, dict):
            pairs = (f"{self.constant(k)}: {self.value(v)}" for k, v in value.items())
            return "{" + ", ".join(pairs) + "}"
        if isinstance(value, slice):
            parts = (value.start, value.stop, value.step)
            return f"{self.constant(slice)}({', '.join(map(self.value, parts))})"
        return self.constant(value)

    def call(self, node: fx.Node) -> str:
        if node.op == "get_attr":
            *path, name = str(node.target).split(".")
            owner = self.root.get_submodule(".".join(path))
            return f"{self.constant(getattr)}({self.constant(owner)}, {self.constant(name)})"
        args = [self.value(arg) for arg in node.args]
        for key, value in node.kwargs.items():
            if not key.isidentifier():
                raise Untraceable(f"{node.name} has an argument {key!r}")
            args.append(f"{key}={self.value(value)}")
        if node.op == "call_method":
            if not str(node.target).isidentifier():
                raise Untraceable(f"{node.name} calls {node.target!r}")
            return f"{args[0]}.{node.target}({', '.join(args[1:])})"
        function: Any = node.target
        if node.op == "call_module":
            function = self.root.get_submodule(str(node.target))
        elif function in self.functions:
            function = functools.partial(_convolved, function)
        return f"{self.constant(function)}({', '.join(args)})"


def _convolved(function: Any, *args: Any, **kwargs: Any) -> Any:
    output = computed(function, args, kwargs)
    return function(*args, **kwargs) if output is None else output


# ---- models -------------------------------------------------------------------------------------


def fuse(model: nn.Module) -> tuple[dict[str, Program], dict[str, str]]:
    """Fuse what can be; return programs, and reasons, by the names of modules."""
    programs: dict[str, Program] = {}
    reasons: dict[str, str] = {}
    seen: set[int] = set()
    for name, module in _candidates("", model, seen):
        try:
            reason = reason_against(_torchs(module))
            if reason is not None:
                raise Untraceable(reason)
            program = Program(module)
            if program.chains:
                _exchange(module, program)
                programs[name] = program
            _forget(module, seen)
        except Untraceable as error:
            if not isinstance(module, (nn.ModuleList, nn.ModuleDict)):
                reasons[name] = str(error)
    return programs, reasons


def _candidates(name: str, module: nn.Module, seen: set[int]) -> Iterator[tuple[str, nn.Module]]:
    """Modules that hold convolutions, the outer ones first; not what is in those that are done."""
    if id(module) in seen or isinstance(module, (torch.jit.ScriptModule, fx.GraphModule)):
        return
    seen.add(id(module))
    if not any(isinstance(m, Fast) for m in module.modules()):
        return
    if not (isinstance(module, Fast) and not list(module.children())):
        yield name, module
    for child, inner in module.named_children():
        yield from _candidates(f"{name}.{child}" if name else child, inner, seen)


def _forget(module: nn.Module, seen: set[int]) -> None:
    seen.update(id(m) for m in module.modules())


def _torchs(module: nn.Module) -> Any:
    own = own_class(module)
    return own.__dict__.get("_torchs", own)


def _exchange(module: Any, program: Program) -> None:
    own = own_class(module)
    made_of = vars(own).get("_made_of", (own, (), ()))
    torchs, bases, kinds = made_of
    module.__class__ = class_of(module, derived(torchs, bases, (*kinds, "program")))
    module.__dict__["_program"] = program


def unfuse(model: nn.Module) -> None:
    """Give the modules of a model their own forwards again."""
    for module in model.modules():
        made_of = vars(own_class(module)).get("_made_of")
        if made_of is None or "program" not in made_of[2]:
            continue
        torchs, bases, kinds = made_of
        kinds = tuple(kind for kind in kinds if kind != "program")
        if not bases and not kinds:
            give_back(module)
        else:
            module.__class__ = class_of(module, derived(torchs, bases, kinds))
            module.__dict__.pop("_program", None)
