"""The standard for sentence pairs: one network for both sentences, then an MLP that sees how they differ.

Sources: Conneau et al. 2017, "Supervised Learning of Universal Sentence Representations" (InferSent), section 3.1;
Reimers & Gurevych 2019, "Sentence-BERT".
"""

from torch import Tensor, nn

from benchkit import HeadSpec, Pooled, TaskShape, hookimpl
from benchkit.nn.blocks import BranchConfig, asked_loss, branches


class Siamese(nn.Module):
    def __init__(self, config: BranchConfig, hidden: int, tasks: tuple[TaskShape, ...]) -> None:
        super().__init__()
        # No linear before the comparison: in the encoder's own space u*v already says what a cosine says, and a shared
        # linear had to learn that anew (results/LOG.md).
        self.trunk = nn.LayerNorm(hidden)
        self.branches = branches(config, hidden, tasks)

    def forward(self, features: Pooled, task: str) -> Tensor:
        outputs: Tensor = self.branches[task](self.trunk(features.pooled))
        return outputs


@hookimpl
def benchkit_heads() -> list[HeadSpec]:
    summary = "[u; v; |u−v|; u*v] of the normalised vectors, an MLP a task."
    return [HeadSpec("siamese", summary, Siamese, BranchConfig, loss=asked_loss)]
