"""miniBERT: BERT (Devlin et al. 2018, arXiv:1810.04805) on packed sentences, in one file.

Word pieces of all sentences lie end to end in one `(total, hidden)` tensor, so nothing is ever computed on padding;
only attention needs to know where a sentence ends, and takes that from the `Layout`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchkit.encoder import fused
from benchkit.encoder.config import ACTIVATIONS, BertConfig
from benchkit.encoder.layout import Layout
from benchkit.encoder.varlen import attend_packed, usable


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
        from benchkit.encoder import fused_op  # noqa: F401 - defines the operator that compiled layers call

        self.train_layer = torch.compile(Layer.forward, dynamic=True, fullgraph=True)

    def forward(
        self, ids: Tensor, segments: Tensor, layout: Layout, keep: Collection[int], first_only: bool = False
    ) -> dict[int, Tensor]:
        """Hidden states by layer: 0 is the embeddings, 1 the first layer's output, and so on.

        Args:
            ids, segments: (total,) integers, on the layout's device.
            keep: layers to return; those above the highest are not computed.
            first_only: of the highest layer return `[CLS]` alone, (rows, hidden): only its query is computed.

        Returns:
            (total, hidden) each, but for the highest if `first_only`.
        """
        top = max(keep)
        x = self.dropout(self.norm(self.word(ids) + self.position(layout.positions) + self.segment(segments)))
        kept = {0: x} if 0 in keep else {}
        for number, layer in enumerate(self.layers[:top], start=1):
            run = self.train_layer if self.training and layout.fixed else Layer.__call__
            x = run(layer, x, layout, first_only and number == top)
            if number in keep:
                kept[number] = x
        if first_only and top == 0:
            kept[0] = x[layout.starts]
        return kept


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
        x = _normed(x, self.dropout(self.out(mixed)), self.norm1)
        return _normed(x, self.dropout(self.down(activate(self.up(x), self.activation))), self.norm2)


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
        return fused.attend_rows(qkv, layout.spans[0], layout.spans[1], layout.longest, dropout).flatten(1)
    if layout.padded and not layout.fixed and usable(qkv, dropout):
        return attend_packed(qkv, layout).flatten(1)
    if layout.padded:
        q, k, v = layout.pad(qkv).permute(2, 0, 3, 1, 4)  # rows heads time dim
        mixed = F.scaled_dot_product_attention(q, k, v, layout.bias.to(q.dtype), dropout)
        return layout.unpad(mixed.transpose(1, 2)).view(total, hidden)
    parts = []
    for group in layout.groups:
        view = qkv[group.token_slice].view(group.rows, group.time, 3, heads, -1)
        q, k, v = view.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        parts.append(mixed.transpose(1, 2).reshape(-1, hidden))
    return _join(parts)


def attend_first(q: Tensor, kv: Tensor, layout: Layout, heads: int, dropout: float) -> Tensor:
    """Attention of each sentence's first piece to all of it: (rows, hidden), (total, 2 * hidden) to (rows, hidden)."""
    q = q.view(layout.rows, heads, 1, -1)
    kv = kv.view(layout.total, 2, heads, -1)
    if layout.padded:
        k, v = layout.pad(kv).permute(2, 0, 3, 1, 4)  # rows heads time dim
        return F.scaled_dot_product_attention(q, k, v, layout.bias.to(q.dtype), dropout).flatten(1)
    parts = []
    for group in layout.groups:
        view = kv[group.token_slice].view(group.rows, group.time, 2, heads, -1)
        k, v = view.permute(2, 0, 3, 1, 4)
        parts.append(F.scaled_dot_product_attention(q[group.row_slice], k, v, dropout_p=dropout).flatten(1))
    return _join(parts)


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _normed(x: Tensor, change: Tensor, norm: nn.LayerNorm) -> Tensor:
    if change.dtype == x.dtype == norm.weight.dtype and fused.inferring(x):
        return fused.add_norm(x, change, norm)
    normed: Tensor = norm(_add(change, x))
    return normed


def _add(change: Tensor, x: Tensor) -> Tensor:
    # In place where nobody needs the old value; autocast's mixed types must widen instead.
    if torch.is_grad_enabled() or change.dtype != x.dtype:
        return x + change
    return change.add_(x)
