"""A recurrent network reads the word pieces in both directions.

Source: Conneau et al. 2017, "Supervised Learning of Universal Sentence Representations" (BiLSTM-max); the report's
future work asks for word embeddings and for other cells.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchkit import HeadSpec, TaskShape, Tokens, hookimpl, option
from benchkit.nn.blocks import BranchConfig, asked_loss, branches, sentences

_CELLS: dict[str, type[nn.LSTM] | type[nn.GRU] | type[nn.RNN]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


@dataclass(frozen=True)
class TokenRnnConfig(BranchConfig):
    cell: str = option("gru", choices=("lstm", "gru", "rnn"), help="kind of recurrent cell")
    units: int = option(128, low=16, high=512, log=True, help="units a direction")
    read: str = option("max", choices=("max", "last"), help="a sentence's vector: maximum over time, or last states")


class Recurrence(nn.Module):
    """Word pieces to a sentence's vector."""

    def __init__(self, config: TokenRnnConfig, hidden: int) -> None:
        super().__init__()
        self.read = config.read
        self.norm = nn.LayerNorm(hidden)
        self.cells = _CELLS[config.cell](hidden, config.units, batch_first=True, bidirectional=True)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(n, time, hidden), (n, time) -> (n, 2 * units)."""
        # Packed: the backward direction starts at a sentence's last piece, wherever its padding ends. What is done to
        # each piece by itself is done once it is packed, so not to padding.
        sequence = pack_padded_sequence(tokens, mask.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        states, last = self.cells(sequence._replace(data=self.norm(sequence.data)))
        if self.read == "max":
            padded, _ = pad_packed_sequence(states, batch_first=True, padding_value=float("-inf"))
            return padded.amax(dim=1)
        final = last[0] if isinstance(last, tuple) else last  # an LSTM returns (state, cell); (2, n, units)
        vectors: Tensor = final.transpose(0, 1).flatten(1)
        return vectors


class TokenRnn(nn.Module):
    def __init__(self, config: TokenRnnConfig, hidden: int, tasks: tuple[TaskShape, ...]) -> None:
        super().__init__()
        self.trunk = Recurrence(config, hidden)
        self.branches = branches(config, 2 * config.units, tasks)

    def forward(self, features: Tokens, task: str) -> Tensor:
        vectors = self.trunk(*sentences(features))
        outputs: Tensor = self.branches[task](vectors.view(*features.mask.shape[:2], -1))
        return outputs


@hookimpl
def benchkit_heads() -> list[HeadSpec]:
    summary = "A bidirectional RNN, GRU or LSTM over the word pieces, an MLP a task."
    return [HeadSpec("token-rnn", summary, TokenRnn, TokenRnnConfig, Tokens, loss=asked_loss)]
