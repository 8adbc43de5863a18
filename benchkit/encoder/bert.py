"""miniBERT: its configuration, the model, what a phase trains of it, and its poolings."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchkit.core.errors import UserError
from benchkit.encoder.attention import Layout, add_norm, attend_packed, attend_rows, inferring, usable

# How activations are called in configs, and which function each name means.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


# The largest sizes: above what any BERT has, and below what makes a machine allocate or count for minutes.
_MOST = {
    "vocab_size": 2**24,
    "hidden_size": 2**16,
    "num_hidden_layers": 2**10,
    "num_attention_heads": 2**16,
    "intermediate_size": 2**20,
    "max_position_embeddings": 2**20,
    "type_vocab_size": 2**16,
}


@cache
def read_names() -> dict[str, Any]:
    """The content of `names.toml`: names of parameters in checkpoints, and models that are none of ours."""
    return tomllib.loads((files("benchkit.encoder") / "names.toml").read_text("utf-8"))


@dataclass(frozen=True)
class BertConfig:
    """A BERT's shape. Field names and defaults are those of Hugging Face's `config.json` (bert-base-uncased).

    Raises:
        ValueError: a size that is not a whole number from 1 to the largest in `_MOST`, heads that do not divide the
            hidden size, a dropout outside [0, 1), or an activation that is not known.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            most = _MOST.get(field.name, 0)
            if most and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most):
                raise ValueError(f"{field.name} must be a whole number from 1 to {most:,}, not {value!r:.40}")
            if field.type == "float" and (not isinstance(value, int | float) or not 0 <= value < 1):
                raise ValueError(f"{field.name} must be a number from 0 to below 1, not {value!r:.40}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"{self.num_attention_heads} heads do not divide hidden_size {self.hidden_size}")
        if self.hidden_act not in list(ACTIVATIONS):  # a list is compared, where a dictionary would ask for a hash
            raise ValueError(f"hidden_act {self.hidden_act!r:.40} is not one of {', '.join(ACTIVATIONS)}")

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> BertConfig:
        """From the content of a `config.json`; `where` names it in messages.

        Raises:
            UserError: it describes something else than a BERT encoder, or a size is missing or impossible.
        """
        kind = values.get("model_type", "bert")
        if kind != "bert":
            why = f" ({found})" if (found := read_names()["others"].get(str(kind))) else ""
            raise UserError(f"{where}: model_type is {kind!r:.40}{why}; only 'bert' and 'distilbert' can be loaded")
        position = values.get("position_embedding_type", "absolute")
        if position != "absolute":
            raise UserError(f"{where}: position_embedding_type is {position!r:.40}; only 'absolute' can be loaded")
        for flag in ("is_decoder", "add_cross_attention"):
            if values.get(flag):
                raise UserError(f"{where}: {flag} is set; only encoders can be loaded")
        missing = [name for name in _SIZES if name not in values]
        if missing:
            raise UserError(f"{where}: {', '.join(missing)} missing; is this the config.json of a BERT?")
        try:
            return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: {error}") from None


# What a config.json must say itself: a default here would only surface later, as a shape that does not fit.
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


class MiniBert(nn.Module):
    """Embeddings, then `num_hidden_layers` post-norm transformer layers, then (where it exists) the pooler.

    Its weights are to be read or drawn by whoever makes one.
    """

    def __init__(self, config: BertConfig, pooler: bool = True) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.config = config
        self.word = _embedding(config.vocab_size, hidden)
        self.position = _embedding(config.max_position_embeddings, hidden)
        self.segment = _embedding(config.type_vocab_size, hidden)
        self.norm = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.pooler = nn.Linear(hidden, hidden) if pooler else None
        self.train_layer: Callable[..., Tensor] = Layer.__call__

    def compile_layers(self) -> None:
        """Train all layers on fixed layouts by one function of `torch.compile`, made at the first step."""
        self.train_layer = torch.compile(Layer.forward, dynamic=True, fullgraph=True)

    def forward(
        self,
        ids: Tensor,
        segments: Tensor,
        layout: Layout,
        keep: Collection[int],
        first_only: bool = False,
        lower: Mapping[int, Tensor] | None = None,
    ) -> dict[int, Tensor]:
        """Hidden states by layer: 0 is the embeddings, 1 the first layer's output, and so on.

        Args:
            ids, segments: (total,) integers, on the layout's device.
            keep: layers to return; those above the highest are not computed.
            first_only: of the highest layer return `[CLS]` alone, (rows, hidden): only its query is computed.
            lower: (total, hidden) states by layer that are known already; computing begins above the highest of them,
                and `ids` and `segments` are not read.

        Returns:
            (total, hidden) each, but for the highest if `first_only`.
        """
        top = max(keep)
        known = dict(lower) if lower else {0: self._embed(ids, segments, layout)}
        start = max(known)
        x = known[start].to(self.norm.weight.dtype)
        kept = {number: states for number, states in known.items() if number in keep}
        for number, layer in enumerate(self.layers[start:top], start=start + 1):
            run = self.train_layer if self.training and layout.fixed else Layer.__call__
            x = run(layer, x, layout, first_only and number == top)
            if number in keep:
                kept[number] = x
        if first_only and top <= start:
            kept[top] = known[top][layout.starts]
        return kept

    def _embed(self, ids: Tensor, segments: Tensor, layout: Layout) -> Tensor:
        embedded: Tensor = self.norm(self.word(ids) + self.position(layout.positions) + self.segment(segments))
        return self.dropout(embedded)  # type: ignore[no-any-return]


class TopLayers(nn.Module):
    """The highest layers of a model and its pooler, as a module of their own: what a phase may train alone.

    In `train()` the layers below stay in eval mode.
    """

    def __init__(self, model: MiniBert, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(model.layers[len(model.layers) - count :])
        self.pooler = model.pooler
        self.model = (model,)  # in a tuple, so that it is no part of this module

    def train(self, mode: bool = True) -> Self:
        self.model[0].training = mode
        return super().train(mode)


LORA_SCALE = 2.0
"""What a change is multiplied with: alpha over rank in the paper's terms."""


class LowRank(nn.Module):
    """LoRA (Hu et al. 2021): a change `up @ down` for each matrix of the layers, which are frozen; zero at first.

    In `train()` the whole encoder is in train mode, dropout included.

    Attributes:
        down: by number of the matrix, (rank, in).
        up: (out, rank), zeros at first.
    """

    def __init__(self, model: MiniBert, rank: int) -> None:
        super().__init__()
        self.model = (model,)  # in a tuple, so that it is no part of this module
        self.names = [
            f"layers.{name}.weight" for name, each in model.layers.named_modules() if isinstance(each, nn.Linear)
        ]
        shapes = [model.get_parameter(name).shape for name in self.names]
        self.down = nn.ParameterList(torch.randn(rank, width) / width**0.5 for _, width in shapes)
        self.up = nn.ParameterList(torch.zeros(out, rank) for out, _ in shapes)
        self.to(model.word.weight.device)

    def train(self, mode: bool = True) -> Self:
        self.model[0].train(mode)
        return super().train(mode)

    def weights(self) -> dict[str, Tensor]:
        """The changed matrices by name, with gradients to `up` and `down`."""
        changes = {name: up @ down for name, up, down in zip(self.names, self.up, self.down, strict=True)}
        return {name: self.model[0].get_parameter(name) + LORA_SCALE * each for name, each in changes.items()}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the changed matrices meanwhile."""
        kept = {name: self.model[0].get_parameter(name).detach().clone() for name in self.names}
        self.merge()
        try:
            yield
        finally:
            self._set(kept)

    @torch.no_grad()
    def merge(self) -> None:
        """Give the model the changed matrices for good."""
        self._set(self.weights())

    @torch.no_grad()
    def _set(self, weights: dict[str, Tensor]) -> None:
        for name, value in weights.items():
            self.model[0].get_parameter(name).copy_(value)


def _embedding(count: int, hidden: int) -> nn.Embedding:
    """One yet to be filled. Torch would fill it, and on the meta device loads its compiler for that: a second."""
    found: nn.Embedding = nn.Embedding.from_pretrained(torch.empty(count, hidden), freeze=False)  # type: ignore[no-untyped-call]
    return found


class Layer(nn.Module):
    """Attention, add & norm, feed-forward, add & norm."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)
        self.norm1 = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.up = nn.Linear(hidden, inner)
        self.down = nn.Linear(inner, hidden)
        self.norm2 = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.attention_dropout = config.attention_probs_dropout_prob

    def forward(self, x: Tensor, layout: Layout, first_only: bool) -> Tensor:
        """(total, hidden) to (total, hidden), or to (rows, hidden) if `first_only`."""
        dropout = self.attention_dropout if self.training else 0.0
        if first_only:
            hidden = x.shape[1]
            keys = F.linear(x, self.qkv.weight[hidden:], self.qkv.bias[hidden:])
            x = x[layout.starts]
            queries = F.linear(x, self.qkv.weight[:hidden], self.qkv.bias[:hidden])
            mixed = attend_first(queries, keys, layout, self.heads, dropout)
        else:
            mixed = attend(self.qkv(x), layout, self.heads, dropout)
        x = _add_norm(x, self.dropout(self.out(mixed)), self.norm1)
        return _add_norm(x, self.dropout(self.down(activate(self.up(x), self.activation))), self.norm2)


def activate(x: Tensor, activation: str) -> Tensor:
    """One of the functions of `ACTIVATIONS`."""
    if activation == "relu":
        return F.relu(x)
    if activation == "silu":
        return F.silu(x)
    # In place where nobody needs the old value: one third of GELU's time is fresh memory.
    gelu = F.gelu if torch.is_grad_enabled() else torch.ops.aten.gelu_
    return gelu(x, approximate="tanh" if activation == "gelu_tanh" else "none")


def attend(qkv: Tensor, layout: Layout, heads: int, dropout: float) -> Tensor:
    """Self-attention within each sentence: (total, 3 * hidden) to (total, hidden)."""
    total, hidden = len(qkv), qkv.shape[1] // 3
    qkv = qkv.view(total, 3, heads, -1)
    if layout.short and qkv.shape[-1] <= 128:
        return attend_rows(qkv, layout.spans[0], layout.spans[1], layout.longest, dropout).flatten(1)
    if layout.padded and not layout.fixed and usable(qkv, dropout):
        return attend_packed(qkv, layout).flatten(1)
    if layout.padded:
        q, k, v = layout.pad(qkv).permute(2, 0, 3, 1, 4)  # rows heads time dim
        mixed = F.scaled_dot_product_attention(q, k, v, layout.bias.to(q.dtype), dropout)
        return layout.unpad(mixed.transpose(1, 2)).view(total, hidden)
    parts = []
    for view in layout.views(qkv):
        q, k, v = view.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        parts.append(mixed.transpose(1, 2).reshape(-1, hidden))
    return join(parts)


def attend_first(q: Tensor, kv: Tensor, layout: Layout, heads: int, dropout: float) -> Tensor:
    """Attention of each sentence's first piece to all of it: (rows, hidden), (total, 2 * hidden) to (rows, hidden)."""
    q = q.view(layout.rows, heads, 1, -1)
    kv = kv.view(layout.total, 2, heads, -1)
    if layout.padded:
        k, v = layout.pad(kv).permute(2, 0, 3, 1, 4)  # rows heads time dim
        return F.scaled_dot_product_attention(q, k, v, layout.bias.to(q.dtype), dropout).flatten(1)
    parts = []
    counts = [rows for rows, _ in layout.groups]
    for queries, view in zip(torch.split(q, counts), layout.views(kv), strict=True):
        k, v = view.permute(2, 0, 3, 1, 4)
        parts.append(F.scaled_dot_product_attention(queries, k, v, dropout_p=dropout).flatten(1))
    return join(parts)


def join(parts: list[Tensor], dim: int = 0) -> Tensor:
    """As `torch.cat`, without a copy of a single part."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _add_norm(x: Tensor, change: Tensor, norm: nn.LayerNorm) -> Tensor:
    if change.dtype == x.dtype == norm.weight.dtype and inferring(x):
        return add_norm(x, change, norm)
    # In place where nobody needs the old value; autocast's mixed types must widen instead.
    in_place = not torch.is_grad_enabled() and change.dtype == x.dtype
    normed: Tensor = norm(change.add_(x) if in_place else x + change)
    return normed


def pool(states: Tensor, layout: Layout, pooling: str) -> Tensor:
    """(total, hidden) to (rows, hidden); `mean` and `max` go over all word pieces, `[CLS]` and `[SEP]` included."""
    if pooling in ("cls", "pooler"):
        return states[layout.starts]
    if layout.padded:
        padded = layout.pad(states)  # rows time hidden, zero on padding
        if pooling == "max":
            return padded.masked_fill(~layout.mask[..., None], float("-inf")).amax(1)
        return padded.sum(1) / layout.lengths_there[:, None]
    return join([view.amax(1) if pooling == "max" else view.mean(1) for view in layout.views(states)])
