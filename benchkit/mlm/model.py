"""BERT's head for masked words on a miniBERT: one more layer, then the word embeddings read backwards."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchkit.encoder import MiniBert
from benchkit.encoder.batch import Batch
from benchkit.encoder.config import ACTIVATIONS
from benchkit.encoder.model import activate
from benchkit.rng import generator


class MaskedLm(nn.Module):
    """`BertForMaskedLM`: its outputs are tied to its inputs, so of its own it has a dense layer, a norm and a bias."""

    def __init__(self, bert: MiniBert) -> None:
        super().__init__()
        hidden = bert.config.hidden_size
        bert.pooler = None  # nothing here trains it
        self.bert = bert
        self.activation = ACTIVATIONS[bert.config.hidden_act]
        self.dense = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden, eps=bert.config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(bert.config.vocab_size))

    def forward(self, batch: Batch, ids: Tensor, positions: Tensor) -> Tensor:
        """Logits (n, vocab) at `positions`; `ids` (total,) stand in for the batch's own."""
        top = len(self.bert.layers)
        states = self.bert(ids, batch.segments, batch.layout, {top})[top]
        x = self.norm(activate(self.dense(states[positions]), self.activation))
        return F.linear(x, self.bert.word.weight, self.bias)

    @torch.no_grad()
    def start_head(self, frequencies: Tensor, seed: int) -> None:
        """A fresh head: BERT's initial weights, and a bias that alone predicts the word pieces' frequencies (vocab,).

        From a bias of zero, the first hundreds of steps would go by to learn no more than these.
        """
        spread = self.bert.config.initializer_range
        self.dense.weight.normal_(0.0, spread, generator=generator(seed, "encoder", "masked words"))
        self.dense.bias.zero_()
        self.bias.copy_(frequencies.log())


def frequencies(ids: Tensor, special: Tensor) -> Tensor:
    """Of word pieces as targets, (vocab,), summing to one; none is zero (add-one)."""
    counts = torch.bincount(ids.long(), minlength=len(special)).double() + 1
    counts[special.cpu()] = 1
    return (counts / counts.sum()).float()
