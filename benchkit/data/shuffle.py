"""Labels that have nothing to do with their texts: what a head then learns, it learns from the labels alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchkit.data.split import Split
from benchkit.rng import derive

SHUFFLED = "shuffled:"
"""Before the name of data, in a cell: the labels of its train splits are shuffled."""


def shuffle_labels(split: Split, seed: int) -> Split:
    """The same rows and the same labels, in another order: one that the seed and the task's name decide."""
    order = np.random.default_rng(derive(seed, "shuffled labels", split.task)).permutation(len(split))
    return replace(split, labels=split.labels[order], source=f"{split.source}; labels shuffled, seed {seed}")
