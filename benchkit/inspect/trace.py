"""What a head does in one forward: the layers and functions it applies, and how much it computes.

Counted are multiply-accumulates (MACs) of matrix products, convolutions, attention and recurrence; 1 MAC is 2 FLOPs. As
in public counters, what does a few operations an element (activations, norms, softmax, pooling, look-ups) counts as
nothing. Counted while it runs, below autograd, so by what is computed and not by how a layer is called. The formulas
are those of `torch.utils.flop_counter`; its counter neither counts fused LSTMs nor lists what it does not know, and
loads torch's compiler.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import conv_flop_count, flop_registry

from benchkit.core.features import Pooled

if TYPE_CHECKING:
    from benchkit.encoder.bert import BertConfig


class MacCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is computed inside `with MacCounter() as counter:`, backward passes included.

    Attributes:
        macs: multiply-accumulates so far.
        unknown: calls of operations that may multiply matrices, but of which no count is known, by name.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0
        self.unknown: Counter[str] = Counter()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would load its compiler to tell it to keep out: two seconds, for what nobody compiles."""
        return False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result, operator = function(*args, **kwargs), function.overloadpacket
        if operator in _MACS:
            self.macs += _MACS[operator](*args)
        elif operator in flop_registry:
            self.macs += flop_registry[operator](*args, **kwargs, out_val=result) // 2
        elif not _is_cheap(function):
            self.unknown[str(operator).removeprefix("aten.").replace(".", "::")] += 1
        return result


@contextmanager
def counting(counter: MacCounter | None = None) -> Iterator[MacCounter]:
    """A counter at work, with attention taken apart into the products that it is made of."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel([SDPBackend.MATH]), counter or MacCounter() as used:
            yield used
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def encoder_macs(
    config: BertConfig,
    lengths: Sequence[int],
    *,
    top: int | None = None,
    first_only: bool = False,
    pooler: bool = False,
) -> int:
    """MACs of one forward of an encoder over sentences of these lengths, in word pieces; nothing for padding.

    Args:
        top: the highest layer that is computed; default: all of them.
        first_only: the highest layer computes `[CLS]` alone, as it does where nothing else of it is read.
        pooler: `[CLS]` goes through the pooler.
    """
    hidden = config.hidden_size
    layers = config.num_hidden_layers if top is None else top
    rows, tokens, pairs = len(lengths), sum(lengths), sum(length * length for length in lengths)
    dense = 4 * hidden * hidden + 2 * hidden * config.intermediate_size  # query, key, value, output, up, down
    whole = layers - 1 if first_only and layers else layers
    total = whole * (tokens * dense + 2 * pairs * hidden)
    if whole < layers:  # all keys and values, but one query, output and feed-forward a sentence
        keys = 2 * hidden * hidden
        total += tokens * keys + rows * (dense - keys) + 2 * tokens * hidden
    return total + (rows * hidden * hidden if pooler else 0)


def _convolution_backward(gradient: Tensor, given: Tensor, weight: Tensor, *more: Any) -> int:
    """As much again for each gradient that was asked for: of the input, of the weights. Torch's takes no groups."""
    transposed, wanted = more[4], more[7]
    forward = conv_flop_count(list(given.shape), list(weight.shape), list(gradient.shape), transposed) // 2
    return int(forward * (wanted[0] + wanted[1]))


def _recurrent_layer(given: Tensor, first: Tensor, second: Tensor, *more: Any) -> int:
    """(time, batch, input) through one direction of a layer; each step multiplies both matrices."""
    return given.shape[:-1].numel() * (first.numel() + second.numel())


_ATEN = torch.ops.aten
_MACS: dict[Any, Callable[..., int]] = {
    _ATEN.mv: lambda matrix, vector: matrix.numel(),
    _ATEN.dot: lambda one, two: one.numel(),
    _ATEN.addmv: lambda start, matrix, vector: matrix.numel(),
    _ATEN.addbmm: lambda start, one, two: one.numel() * two.shape[-1],
    _ATEN.convolution_backward: _convolution_backward,
    _ATEN.mkldnn_rnn_layer: _recurrent_layer,
    _ATEN.mkldnn_rnn_layer_backward: lambda *arguments: 2 * _recurrent_layer(*arguments),
}
"""What torch's registry of formulas lacks, or counts otherwise."""

_NAMES = tomllib.loads((files("benchkit.inspect") / "operators.toml").read_text("utf-8"))
_CHEAP = frozenset(_NAMES["cheap"].split())


def _is_cheap(function: Any) -> bool:
    namespace, name = function._schema.name.split("::")
    if namespace != "aten":
        return bool(namespace == "prim")
    bare = name.removesuffix("_backward")
    if name in _CHEAP or bare in _CHEAP or _only_moves(function):
        return True
    # The gradient, or the in-place form, of something that goes element by element is no more than that.
    base = getattr(_ATEN, bare.removesuffix("_"), None)
    return base is not None and any(_only_moves(getattr(base, each)) for each in base.overloads())


def _only_moves(function: Any) -> bool:
    """Whether it goes element by element, or only looks at a tensor in another way."""
    return function.is_view or torch.Tag.pointwise in function.tags


def _detail(module: nn.Module) -> str:
    """The sizes of one of torch's layers."""
    text = str(_NAMES["sizes"].get(type(module).__name__, "")).format(module)
    if isinstance(module, nn.RNNBase):
        text += ", bidirectional" * module.bidirectional + f", {module.num_layers} layers" * (module.num_layers > 1)
    return text + ", no bias" * bool(text and getattr(module, "bias", True) is None)


_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Call:
    """One layer or function that was applied, or a tensor of the features.

    Attributes:
        path: of the layer in the head, or the names of the parameters that a function used.
        kind: the layer's class, the function in words, or the name of the tensor.
        inputs: numbers of the calls that made what it was given; none for a tensor of the features.
        before, shape: of what it was given first, and of what it returned (its first tensor).
        parameters: names of those that it used.
        over: the axis that a reduction takes away; None for anything else.
        is_function: whether it is a function, not a layer.
        macs: multiply-accumulates that it took.
    """

    path: str
    kind: str
    detail: str
    inputs: tuple[int, ...]
    before: tuple[int, ...]
    shape: tuple[int, ...]
    parameters: frozenset[str] = frozenset()
    over: int | None = None
    is_function: bool = False
    macs: int = 0


@dataclass(frozen=True)
class Trace:
    """The calls of one forward, in order, and which of them made the output.

    Attributes:
        macs: multiply-accumulates of all of it, of what is no call too.
        trunk_macs: of these, inside the module that the tasks share.
        unknown: names of operations that could not be counted.
    """

    calls: tuple[Call, ...]
    ends: tuple[int, ...]
    output: Any
    macs: int
    trunk_macs: int
    unknown: tuple[str, ...]


def trace(head: nn.Module, features: Pooled, task: str, trunk: str = "") -> Trace:
    """Run a head on the CPU once, and note what it did. Whatever it raises is passed on.

    Args:
        trunk: attribute of the head, as in `HeadSpec.trunk`; "" or no such module: nothing is shared.
    """
    counter, inside = MacCounter(), list[int]()
    tracer = _Tracer(head, features, counter)
    handles = []
    for path, module in head.named_modules():
        if path and _is_layer(module):
            handles.append(module.register_forward_pre_hook(tracer.enter))
            handles.append(module.register_forward_hook(tracer.leave(path), with_kwargs=True))
    shared = dict(head.named_modules(remove_duplicate=False)).get(trunk) if trunk else None
    if shared is not None:
        handles += [
            shared.register_forward_pre_hook(lambda *_: inside.append(-counter.macs)),
            shared.register_forward_hook(lambda *_: inside.append(counter.macs)),
        ]
    try:
        with counting(counter), tracer:
            output = head(features, task)
    finally:
        for handle in handles:
            handle.remove()
    ends = tuple(sorted(tracer.origin([output])[0]))
    return Trace(tuple(tracer.calls), ends, output, counter.macs, sum(inside), tuple(sorted(counter.unknown)))


def _is_layer(module: nn.Module) -> bool:
    """A box in a diagram: torch's own layers, and modules without parts. Others are looked into."""
    if isinstance(module, nn.Identity) or type(module) in _CONTAINERS:
        return False
    return type(module).__module__.startswith("torch.nn.") or not any(True for _ in module.children())


_Origin = tuple[frozenset[int], frozenset[str]]


class _Tracer(TorchFunctionMode):
    """Knows of each tensor the calls and the parameters that it comes from."""

    def __init__(self, head: nn.Module, features: Pooled, counter: MacCounter) -> None:
        super().__init__()
        self.counter, self.before = counter, 0
        self.calls: list[Call] = []
        self.origins: dict[int, _Origin] = {}
        self.kept: list[Any] = []  # an id means something only as long as its tensor lives
        self.inside = 0  # of how many layers
        self.names = {id(parameter): name for name, parameter in head.named_parameters()}
        for name, parameter in head.named_parameters():
            self._set([parameter], (frozenset(), frozenset([name])))
        for field in dataclasses.fields(features):
            value = getattr(features, field.name)
            if value.is_floating_point():  # a mask shapes the results, but is not what they are made of
                self._set([value], (frozenset([len(self.calls)]), frozenset()))
                self.calls.append(Call("", field.name, "", (), (), tuple(value.shape)))

    def enter(self, module: nn.Module, args: Any) -> None:
        if not self.inside:
            self.before = self.counter.macs
        self.inside += 1

    def leave(self, path: str) -> Any:
        """The forward hook of the layer with this path."""

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            self.inside -= 1
            if self.inside:
                return output
            given = list(_tensors((args, kwargs)))
            if any(output is each for each in given):  # dropout in eval mode: tell what comes out from what went in
                output = output.view_as(output)
            names = frozenset(self.names[id(p)] for p in module.parameters() if id(p) in self.names)
            macs = self.counter.macs - self.before
            call = Call(path, type(module).__name__, _detail(module), (), (), (), names, macs=macs)
            self._note(call, given, output)
            return output

        return hook

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.counter.macs
        result = function(*args, **(kwargs or {}))
        if not self.inside:
            name = str(getattr(function, "__name__", "")).strip("_")  # `__rsub__` and `sub_` are `rsub` and `sub`
            self._function(name, args, kwargs or {}, result, self.counter.macs - before)
        return result

    def _function(self, name: str, args: Any, kwargs: Any, result: Any, macs: int) -> None:
        given, made = list(_tensors((args, kwargs))), list(_tensors(result))
        calls, names = self.origin(given)
        if not made or not (calls or names):
            return
        computed = sum(1 for each in given if self.origin([each])[0])
        kind = next(
            (_NAMES[group][name] for group in ("functions", "reductions", "joins") if name in _NAMES[group]), ""
        )
        if name in _NAMES["joins"] and computed < 2 and not names:
            kind = ""  # scaled, shifted, masked, or put beside nothing
        if not kind:
            self._set(made, (calls, names))
            return
        over = _axis(args, kwargs, given) if name in _NAMES["reductions"] else None
        self._note(Call(", ".join(sorted(names)), kind, "", (), (), (), names, over, True, macs), given, result)

    def _note(self, call: Call, given: Sequence[Tensor], result: Any) -> None:
        """Enter a call, once it is known what it was given and what it made."""
        made = list(_tensors(result))
        if not made:
            return
        calls, _ = self.origin(given)
        before = next((each for each in given if self.origin([each])[0]), made[0]).shape
        self._set(made, (frozenset([len(self.calls)]), frozenset()))
        self.calls.append(replace(call, inputs=tuple(sorted(calls)), before=tuple(before), shape=tuple(made[0].shape)))

    def origin(self, tensors: Sequence[Any]) -> _Origin:
        found = [self.origins[id(each)] for each in tensors if id(each) in self.origins]
        return frozenset().union(*(calls for calls, _ in found)), frozenset().union(*(names for _, names in found))

    def _set(self, tensors: Sequence[Tensor], origin: _Origin) -> None:
        for tensor in tensors:
            self.kept.append(tensor)
            self.origins[id(tensor)] = origin


def _axis(args: Any, kwargs: Any, given: Sequence[Tensor]) -> int | None:
    """The one axis that a reduction goes over, counted from the front."""
    axis = kwargs.get("dim", args[1] if len(args) > 1 else None)
    return axis % given[0].dim() if isinstance(axis, int) and given else None


def _tensors(value: Any) -> Iterator[Tensor]:
    for each in tree_leaves(value):
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, Pooled):
            yield from vars(each).values()
