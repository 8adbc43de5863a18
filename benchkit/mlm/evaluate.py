"""How well masked words are predicted in the texts that were held out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchkit.encoder import Tokenized
from benchkit.encoder.batch import Batch, gather
from benchkit.mlm.masking import Pieces, mask
from benchkit.mlm.model import MaskedLm
from benchkit.mlm.pieces import cut
from benchkit.rng import generator

# The same for every recipe and seed, so that perplexities over one vocabulary can be compared.
_RATE, _SEED, _BATCH = 0.15, 0, 4096


@dataclass(frozen=True)
class Score:
    """Mean negative log-likelihood of a masked word piece in nats, and the share of them that was guessed right."""

    loss: float
    accuracy: float

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))


class HeldOut:
    """Held-out sequences with masks that are always the same: 15 % of the word pieces, whatever the recipe says."""

    def __init__(self, tokenized: Tokenized, pieces: Pieces, device: torch.device) -> None:
        self.batches: list[tuple[Batch, Tensor, Tensor]] = []
        stream, lengths = generator(_SEED, "held out"), tokenized.lengths
        for rows in cut(torch.arange(len(lengths)), lengths, _BATCH):
            batch = gather(tokenized, rows, device, padded=device.type != "cpu")
            self.batches.append((batch, *mask(batch.ids, pieces, _RATE, False, stream)))

    @property
    def targets(self) -> Tensor:
        """Ids of all masked word pieces, (n,) int64."""
        return torch.cat([batch.ids[positions] for batch, _, positions in self.batches]).long()

    @torch.no_grad()
    def score(self, model: MaskedLm, autocast: bool) -> Score:
        """Without dropout; leaves the model in `train()`."""
        model.eval()
        loss, right, count = 0.0, 0, 0
        for batch, ids, positions in self.batches:
            with torch.autocast(ids.device.type, torch.bfloat16, enabled=autocast):
                logits = model(batch, ids, positions).float()
            targets = batch.ids[positions].long()
            loss += float(F.cross_entropy(logits, targets, reduction="sum"))
            right += int((logits.argmax(1) == targets).sum())
            count += len(targets)
        model.train()
        return Score(loss / count, right / count)

    def unigram(self, frequencies: Tensor) -> Score:
        """What the training texts' frequencies (vocab,) alone reach: the model must get below that."""
        targets = self.targets.cpu()
        guess = int(frequencies.argmax())
        return Score(float(-frequencies[targets].log().mean()), float((targets == guess).float().mean()))
