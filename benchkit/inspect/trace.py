"""What layers and functions are called in tables and diagrams."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from benchkit.core.features import Pooled
from benchkit.inspect.flops import MacCounter, counting

# Functions worth a box of their own. What is not named here only moves, masks or scales numbers.
_FUNCTIONS = {
    "cosine_similarity": "cosine similarity",
    "pairwise_distance": "distance",
    "cdist": "distance",
    "norm": "norm",
    "normalize": "normalise",
    "layer_norm": "layer norm",
    **{name: name for name in ("sigmoid", "tanh", "softmax", "exp", "log", "cumsum", "logsumexp")},
    "relu": "ReLU",
    "gelu": "GELU",
    "silu": "SiLU",
    "leaky_relu": "leaky ReLU",
    "elu": "ELU",
    "abs": "absolute value",
    "square": "square",
    "sqrt": "square root",
    **dict.fromkeys(("matmul", "bmm", "mm", "einsum", "baddbmm"), "matrix product"),
    **dict.fromkeys(("linear", "addmm"), "linear"),
    **{f"conv{n}d": f"convolution, {n}-D" for n in (1, 2)},
    **{
        f"{kind}_pool{n}d": f"{kind} pooling" for kind in ("max", "avg", "adaptive_max", "adaptive_avg") for n in (1, 2)
    },
    "scaled_dot_product_attention": "attention",
    "bilinear": "bilinear",
}
_REDUCTIONS = {"mean": "mean", "sum": "sum", "amax": "maximum", "max": "maximum", "amin": "minimum", "min": "minimum"}
_JOINS = {
    **dict.fromkeys(("cat", "concat", "concatenate", "hstack"), "concatenate"),
    "stack": "stack",
    **dict.fromkeys(("sub", "subtract", "rsub"), "difference"),
    **dict.fromkeys(("mul", "multiply", "rmul", "imul"), "product"),
    **dict.fromkeys(("add", "radd", "iadd"), "sum"),
    **dict.fromkeys(("div", "divide", "truediv", "rtruediv", "true_divide"), "quotient"),
    "maximum": "larger of both",
    "minimum": "smaller of both",
    "lerp": "mix",
}


def function_name(function: Callable[..., Any]) -> str:
    """A torch function's bare name: `__rsub__` and `sub_` are `rsub` and `sub`."""
    return str(getattr(function, "__name__", "")).strip("_")


def in_words(name: str) -> str:
    """What a function does, or "" if that is not worth telling."""
    return _FUNCTIONS.get(name) or _REDUCTIONS.get(name) or _JOINS.get(name) or ""


def is_reduction(name: str) -> bool:
    return name in _REDUCTIONS


def joins(name: str) -> bool:
    """Whether it is only worth telling where two computed tensors meet."""
    return name in _JOINS


def detail(module: nn.Module) -> str:
    """The sizes of a layer, shortly."""
    bare = "" if getattr(module, "bias", True) is not None else ", no bias"
    if isinstance(module, nn.Linear):
        return f"{module.in_features} → {module.out_features}{bare}"
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        kernel = "×".join(map(str, module.kernel_size))
        return f"{module.in_channels} → {module.out_channels}, kernel {kernel}{bare}"
    if isinstance(module, nn.RNNBase):
        ways = ", bidirectional" if module.bidirectional else ""
        deep = f", {module.num_layers} layers" if module.num_layers > 1 else ""
        return f"{module.input_size} → {module.hidden_size}{ways}{deep}"
    if isinstance(module, nn.Dropout):
        return f"{module.p:g}"
    if isinstance(module, nn.MultiheadAttention):
        return f"{module.embed_dim}, {module.num_heads} heads"
    if isinstance(module, nn.Embedding):
        return f"{module.num_embeddings} × {module.embedding_dim}"
    if isinstance(module, nn.MaxPool1d | nn.AvgPool1d | nn.AdaptiveMaxPool1d | nn.AdaptiveAvgPool1d):
        size = module.kernel_size if isinstance(module, nn.MaxPool1d | nn.AvgPool1d) else module.output_size
        return f"{size[0] if isinstance(size, tuple) else size}"
    return ""


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
        unknown: names of operations that could not be counted.
    """

    calls: tuple[Call, ...]
    ends: tuple[int, ...]
    output: Any
    macs: int
    unknown: tuple[str, ...]


def trace(head: nn.Module, features: Pooled, task: str) -> Trace:
    """Run a head once and note what it did. Whatever it raises is passed on."""
    counter = MacCounter()
    tracer = _Tracer(head, features, counter)
    handles = [
        handle
        for path, module in head.named_modules()
        if path and _is_layer(module)
        for handle in (
            module.register_forward_pre_hook(tracer.enter),
            module.register_forward_hook(tracer.leave(path), with_kwargs=True),
        )
    ]
    try:
        with counting(counter), tracer:
            output = head(features, task)
    finally:
        for handle in handles:
            handle.remove()
    ends = tuple(sorted(tracer.origin([output])[0]))
    return Trace(tuple(tracer.calls), ends, output, counter.macs, tuple(sorted(counter.unknown)))


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
            call = Call(path, type(module).__name__, detail(module), (), (), (), names, macs=macs)
            self._note(call, given, output)
            return output

        return hook

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.counter.macs
        result = function(*args, **(kwargs or {}))
        if not self.inside:
            self._function(function_name(function), args, kwargs or {}, result, self.counter.macs - before)
        return result

    def _function(self, name: str, args: Any, kwargs: Any, result: Any, macs: int) -> None:
        given, made = list(_tensors((args, kwargs))), list(_tensors(result))
        calls, names = self.origin(given)
        if not made or not (calls or names):
            return
        computed = sum(1 for each in given if self.origin([each])[0])
        kind = in_words(name)
        if joins(name) and computed < 2 and not names:
            kind = ""  # scaled, shifted, masked, or put beside nothing
        if not kind:
            self._set(made, (calls, names))
            return
        over = _axis(args, kwargs, given) if is_reduction(name) else None
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
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, Pooled):
        yield from (getattr(value, field.name) for field in dataclasses.fields(value))
