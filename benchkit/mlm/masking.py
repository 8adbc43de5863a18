"""Which word pieces are hidden, and behind what (Devlin et al. 2019), drawn anew each time (Liu et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from benchkit.errors import UserError


@dataclass(frozen=True)
class Pieces:
    """What masking must know of a vocabulary.

    Attributes:
        mask: id of `[MASK]`.
        special: (vocab,) bool; these are never hidden.
        starts: (vocab,) bool; where a word, or a special piece, begins.
        ordinary: ids that can stand in for another.
    """

    mask: int
    special: Tensor
    starts: Tensor
    ordinary: Tensor

    @classmethod
    def of(cls, tokenizer: Tokenizer, size: int, device: torch.device) -> Pieces:
        """Of a tokenizer; `size` is that of the embeddings, which may have rows to spare.

        Raises:
            UserError: it has no `[MASK]`.
        """
        vocab = tokenizer.get_vocab()
        if "[MASK]" not in vocab:
            raise UserError("the encoder's vocabulary has no [MASK]: it cannot be pre-trained on masked words")
        special, starts = torch.ones(size, dtype=torch.bool), torch.ones(size, dtype=torch.bool)
        for piece, number in vocab.items():
            special[number] = piece.startswith("[") and piece.endswith("]") and len(piece) > 2
            starts[number] = not piece.startswith("##")
        return cls(vocab["[MASK]"], special.to(device), starts.to(device), (~special).nonzero().squeeze(1).to(device))


def mask(ids: Tensor, pieces: Pieces, rate: float, whole_word: bool, stream: torch.Generator) -> tuple[Tensor, Tensor]:
    """What the encoder sees, (total,), and the positions (n,) it must predict, at least one.

    Of the pieces chosen, eight in ten become `[MASK]`, one a random piece, one stays.

    Args:
        whole_word: choose words with all their pieces, instead of pieces.
        stream: on the CPU, so that all devices draw the same.
    """
    draw, kind = (torch.rand(len(ids), generator=stream).to(ids.device) for _ in range(2))
    other = torch.randint(len(pieces.ordinary), (len(ids),), generator=stream).to(ids.device)
    if whole_word:
        draw = draw[pieces.starts[ids].cumsum(0) - 1]
    draw = draw.masked_fill(pieces.special[ids], 2.0)
    chosen = (draw < rate) | (draw == draw.min())
    seen = torch.where(chosen & (kind < 0.8), pieces.mask, ids)
    seen = torch.where(chosen & (kind >= 0.9), pieces.ordinary[other].to(ids.dtype), seen)
    return seen, chosen.nonzero().squeeze(1)
