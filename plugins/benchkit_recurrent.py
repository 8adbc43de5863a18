"""The report's recurrent head: a convolution turns one embedding into eight, a bidirectional LSTM reads them.

Source: Michaels, "miniBERT and Multitasking: An Architectural Analysis", section Architectures (Figure 2).
"""

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from benchkit import HeadSpec, Pooled, TaskShape, hookimpl, option
from benchkit.nn.blocks import finish, joined

_CELLS: dict[str, type[nn.LSTM] | type[nn.GRU] | type[nn.RNN]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


@dataclass(frozen=True)
class RecurrentConfig:
    channels: int = option(8, low=2, high=32, log=True, help="embeddings that the convolution makes of one")
    kernel_size: int = option(3, choices=(1, 3, 5, 7, 9), help="filter size of the convolution")
    cell: str = option("lstm", choices=("lstm", "gru", "rnn"), help="kind of recurrent cell")
    units: int = option(16, low=4, high=128, log=True, help="units a direction")
    dropout: float = option(0.3, low=0.0, high=0.6, help="after the convolution and after the recurrence")


class Recurrent(nn.Module):
    def __init__(self, config: RecurrentConfig, hidden: int, tasks: tuple[TaskShape, ...]) -> None:
        super().__init__()
        self.shapes = {shape.name: shape for shape in tasks}
        self.dropout = nn.Dropout(config.dropout)
        convolution = nn.Conv1d(1, config.channels, config.kernel_size, padding=config.kernel_size // 2)
        self.trunk = nn.Sequential(convolution, nn.ReLU())
        # Regression branches read the embeddings as a sequence; classification branches see them all at once.
        cell = partial(_CELLS[config.cell], hidden, config.units, batch_first=True, bidirectional=True)
        self.readers = nn.ModuleDict({shape.name: cell() for shape in tasks if not shape.classes})
        flat, state = config.channels * hidden, 2 * config.units
        self.branches = nn.ModuleDict(
            {shape.name: nn.Linear((flat if shape.classes else state) * shape.segments, shape.out) for shape in tasks}
        )

    def forward(self, features: Pooled, task: str) -> Tensor:
        batch, segment, hidden = features.pooled.shape
        inputs = features.pooled.reshape(batch * segment, 1, hidden)
        embeddings = self.dropout(self.trunk(inputs))  # (batch*segment, channels, hidden)
        vectors = self._read(embeddings, task) if task in self.readers else embeddings.flatten(1)
        return finish(self.branches[task](joined(vectors.reshape(batch, segment, -1))), self.shapes[task])

    def _read(self, embeddings: Tensor, task: str) -> Tensor:
        """Final states of both directions: (batch*segment, channels, hidden) -> (batch*segment, 2 * units)."""
        _, state = self.readers[task](embeddings)
        final = state[0] if isinstance(state, tuple) else state  # an LSTM returns (state, cell); (2, n, units)
        vectors: Tensor = self.dropout(final.transpose(0, 1).flatten(1))
        return vectors


@hookimpl
def benchkit_heads() -> list[HeadSpec]:
    summary = "Convolution over the features; a BiLSTM reads its channels."
    return [HeadSpec("recurrent", summary, Recurrent, RecurrentConfig)]
