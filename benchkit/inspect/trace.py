"""What a head does in one forward: the layers and functions it applies, and how much it computes.

Counted are multiply-accumulates (MACs) of matrix products, convolutions, attention and recurrence; 1 MAC is 2 FLOPs. As
in public counters, what does a few operations an element (activations, norms, softmax, pooling, look-ups) counts as
nothing. Counted while it runs, below autograd, so by what is computed and not by how a layer is called. Fused LSTMs are
counted, and what is not known is listed by name; torch's own counter does neither.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

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
        result = function(*args, **(kwargs or {}))
        namespace, name = function._schema.name.split("::")
        formula = _FORMULAS.get(name) if namespace == "aten" else None
        if formula is not None:
            self.macs += formula(args, result)
        elif not _is_cheap(function, namespace, name):
            self.unknown[name if namespace == "aten" else f"{namespace}::{name}"] += 1
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


@dataclass(frozen=True)
class Macs:
    """What one forward took.

    Attributes:
        trunk: of it, inside the module that the tasks share; the branch is the rest.
        unknown: names of what could not be counted.
    """

    total: int
    trunk: int
    unknown: tuple[str, ...]

    @property
    def branch(self) -> int:
        return self.total - self.trunk


@torch.no_grad()
def head_macs(head: nn.Module, features: Pooled, task: str, trunk: str = "") -> Macs:
    """One forward of a head for one task, over all examples of `features`; the head is on the CPU.

    Args:
        trunk: attribute of the head, as in `HeadSpec.trunk`; "" or no such module: nothing is shared.
    """
    module = dict(head.named_modules(remove_duplicate=False)).get(trunk) if trunk else None
    inside: list[int] = []
    with counting() as counter:
        handles = []
        if module is not None:
            handles += [module.register_forward_pre_hook(lambda *_: inside.append(-counter.macs))]
            handles += [module.register_forward_hook(lambda *_: inside.append(counter.macs))]
        try:
            head(features, task)
        finally:
            for handle in handles:
                handle.remove()
    return Macs(counter.macs, sum(inside), tuple(sorted(counter.unknown)))


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


def _matrix(args: Any, result: Any, first: int = 0) -> int:
    """Of a product: every number of the result sums over the columns of the first matrix."""
    return int(result.numel() * args[first].shape[-1])


def _convolution(args: Any, result: Any) -> int:
    return _convolved(args[0], args[1], result, transposed=bool(args[6]))


def _convolution_backward(args: Any, result: Any) -> int:
    """As much again for each gradient that was asked for: of the input, of the weights."""
    gradient, given, weight, transposed, wanted = args[0], args[1], args[2], bool(args[7]), args[10]
    return _convolved(given, weight, gradient, transposed) * (int(wanted[0]) + int(wanted[1]))


def _convolved(given: Tensor, weight: Tensor, result: Tensor, transposed: bool) -> int:
    """Every output of a convolution (input of a transposed one) meets a whole filter once."""
    places = given if transposed else result
    return int(places.shape[0] * prod(places.shape[2:]) * weight.numel())


def _recurrent_layer(args: Any, result: Any) -> int:
    """(time, batch, input) through one direction of a layer; each step multiplies both matrices."""
    steps = args[0].numel() // args[0].shape[-1]
    return int(steps * (args[1].numel() + args[2].numel()))


def _recurrent_layer_backward(args: Any, result: Any) -> int:
    return 2 * _recurrent_layer(args, result)


_FORMULAS: dict[str, Callable[[Any, Any], int]] = {
    "mm": _matrix,
    "bmm": _matrix,
    "mv": _matrix,
    "dot": lambda args, result: int(args[0].numel()),
    "addmm": lambda args, result: _matrix(args, result, 1),
    "baddbmm": lambda args, result: _matrix(args, result, 1),
    "addmv": lambda args, result: _matrix(args, result, 1),
    "addbmm": lambda args, result: int(result.numel() * args[1].shape[0] * args[1].shape[-1]),
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "mkldnn_rnn_layer": _recurrent_layer,
    "mkldnn_rnn_layer_backward": _recurrent_layer_backward,
}

# Operations of torch that do a few things an element, or none: make, move, choose, sum, normalise, pool.
_CHEAP = frozenset(
    """
    adaptive_avg_pool1d adaptive_max_pool2d all amax amin aminmax any arange argmax argmin argsort as_strided
    avg_pool1d avg_pool2d bernoulli bernoulli_ binary_cross_entropy bincount bucketize cat clone constant_pad_nd copy
    copy_ count_nonzero _cudnn_init_dropout_state cummax cummin cumprod cumsum detach diag_embed diagonal_scatter elu
    embedding embedding_dense embedding_dense_backward empty empty_like empty_permuted empty_strided equal eye fill
    fill_ flip fmod full full_like _fused_adamw_ gather glu huber_loss index index_add index_add_ index_copy
    index_copy_ index_fill index_fill_ index_put index_put_ index_reduce index_select kthvalue lift_fresh
    lift_fresh_copy linalg_vector_norm linspace _local_scalar_dense log_sigmoid log_sigmoid_forward _log_softmax
    _log_softmax_backward_data logcumsumexp logsumexp masked_fill masked_fill_ masked_scatter masked_select max
    max_pool2d_with_indices max_pool3d_with_indices max_unpool2d mean median min mode mse_loss native_batch_norm
    _native_batch_norm_legit _native_batch_norm_legit_no_training native_dropout native_group_norm native_layer_norm
    new_empty new_empty_strided new_full new_ones new_zeros nll_loss nll_loss_forward nonzero norm normal_ one_hot
    ones ones_like _pack_padded_sequence pixel_shuffle _prelu_kernel prod rand rand_like randint randint_like randn
    randn_like random_ randperm reflection_pad1d repeat repeat_interleave replication_pad1d _reshape_alias resize_
    _resize_output_ roll rot90 rrelu_with_noise _safe_softmax scalar_tensor scatter scatter_ scatter_add scatter_add_
    scatter_reduce scatter_reduce_ searchsorted select_backward select_scatter set_ slice_backward slice_scatter
    smooth_l1_loss _softmax _softmax_backward_data sort split_with_sizes_copy stack std std_mean sum take _to_copy
    topk tril tril_indices triu triu_indices unfold_backward uniform uniform_ _unique2 unique_consecutive unique_dim
    unsafe_chunk _unsafe_index _unsafe_index_put unsafe_split unsafe_split_with_sizes _unsafe_view upsample_nearest1d
    value_selecting_reduction_backward var var_mean zero_ zeros zeros_like
    """.split()  # noqa: SIM905 - words are easier to read than a list of strings
)


def _is_cheap(function: Any, namespace: str, name: str) -> bool:
    if namespace == "prim":
        return True
    if namespace != "aten":
        return False
    if name in _CHEAP or name.removesuffix("_backward") in _CHEAP or _only_moves(function):
        return True
    # The gradient, or the in-place form, of something that goes element by element is no more than that.
    base = getattr(torch.ops.aten, name.removesuffix("_backward").removesuffix("_"), None)
    return base is not None and any(_only_moves(getattr(base, each)) for each in base.overloads())


def _only_moves(function: Any) -> bool:
    """Whether it goes element by element, or only looks at a tensor in another way."""
    return function.is_view or torch.Tag.pointwise in function.tags


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
