"""Each task asks its own questions of the word pieces: attention pooling by learned queries.

Source: Lin et al. 2017, "A Structured Self-attentive Sentence Embedding", with a query in place of their two-layer
scorer.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from benchkit import HeadSpec, TaskShape, Tokens, hookimpl, option
from benchkit.nn.blocks import BranchConfig, asked_loss, branches, packed, padded, sentences


@dataclass(frozen=True)
class AttentionConfig(BranchConfig):
    queries: int = option(2, low=1, high=8, log=True, help="learned queries a task")


class Attention(nn.Module):
    def __init__(self, config: AttentionConfig, hidden: int, tasks: tuple[TaskShape, ...]) -> None:
        super().__init__()
        self.trunk = nn.LayerNorm(hidden)
        self.queries = nn.ModuleDict({each.name: nn.Linear(hidden, config.queries, bias=False) for each in tasks})
        self.branches = branches(config, config.queries * hidden, tasks)

    def forward(self, features: Tokens, task: str) -> Tensor:
        tokens, mask = sentences(features)
        pieces = self.trunk(packed(tokens, mask))  # (piece, hidden)
        scores = padded(self.queries[task](pieces), mask, float("-inf"))  # (n, time, queries)
        weights = scores.softmax(dim=1)  # 0 in padding
        vectors = weights.transpose(1, 2) @ padded(pieces, mask)  # (n, queries, hidden)
        batch, segment = features.mask.shape[:2]
        outputs: Tensor = self.branches[task](vectors.reshape(batch, segment, -1))
        return outputs


@hookimpl
def benchkit_heads() -> list[HeadSpec]:
    summary = "Learned queries over the word pieces, an MLP a task."
    return [HeadSpec("attention", summary, Attention, AttentionConfig, Tokens, loss=asked_loss)]
