"""How much a module computes: multiply-accumulates (MACs) of matrix products, convolutions, attention and recurrence.

1 MAC is 2 FLOPs. As in public counters, what does a few operations an element (activations, norms, softmax, pooling,
look-ups) counts as nothing. Counted while it runs, below autograd, so by what is computed and not by how a layer is
called. Fused LSTMs, which torch's own counter takes for nothing, are counted; what is not known is listed by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from benchkit.core.features import Pooled
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
