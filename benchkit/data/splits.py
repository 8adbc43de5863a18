"""A split of a task: texts, labels, broken rows, subsets and shuffled labels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchkit.core.rng import derive


@dataclass(frozen=True)
class BrokenRow:
    """A row that was left out: `line` counts from 1, the header included (Parquet: rows, from 1)."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(frozen=True)
class Split:
    """The usable rows of one split, in file order.

    Attributes:
        ids: distinct; given by the file, or the row's number. A repeated id gets a suffix: `a`, `a#2`, `a#3`.
        texts: (n) tuples of one text, or two for a pair.
        labels: (n,) float64, class indices or scores; all NaN where the split is unlabelled.
        source: file, format and columns that were read, for records.
        sha256: of the file's bytes, as `sha256sum` gives it (of several files, one after the other); of the content
            where there is no file. A subset keeps it.
        broken: rows that were left out.
        repeated_ids: rows whose id got a suffix.
    """

    task: str
    name: str
    ids: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    labels: np.ndarray
    source: str
    sha256: str
    broken: tuple[BrokenRow, ...] = ()
    repeated_ids: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled(self) -> bool:
        return not bool(np.isnan(self.labels).any())

    def digest(self) -> str:
        """sha256 of ids, texts and labels: what a model sees, whatever file and format it came from."""
        return content_sha256(self.ids, self.texts, self.labels)


def content_sha256(ids: Sequence[str], texts: Sequence[tuple[str, ...]], labels: np.ndarray) -> str:
    digest = hashlib.sha256()
    for name, row in zip(ids, texts, strict=True):
        for field in (name, *row):
            data = field.encode()
            digest.update(len(data).to_bytes(4, "little") + data)
        digest.update(b"\n")
    digest.update(np.where(np.isnan(labels), np.nan, labels).astype("<f8").tobytes())
    return digest.hexdigest()


def subsample(split: Split, size: int, seed: int, stratified: bool) -> Split:
    """`size` rows in their old order; 0, or as many as there are, gives the split itself.

    Rows are taken by the hash of seed and id, not from a library's generator: the same rows on any machine, for
    ever, and a smaller plain subset is part of a larger one.

    Args:
        stratified: draw from each label by its share, remainders to the largest (ties to the lower label).

    Raises:
        ValueError: a negative size.
    """
    if size < 0:
        raise ValueError(f"size must be at least 0, not {size}")
    if size == 0 or size >= len(split):
        return split
    names = [f"{seed}/{split.task}/{split.name}/{each}".encode() for each in split.ids]
    order = sorted(range(len(split)), key=lambda row: hashlib.sha256(names[row]).digest())
    if stratified and split.labelled:
        quota = _quotas(split.labels, size)
        chosen = []
        for row in order:
            label = float(split.labels[row])
            if quota[label]:
                quota[label] -= 1
                chosen.append(row)
    else:
        chosen = order[:size]
    rows = sorted(chosen)
    return replace(
        split,
        ids=tuple(split.ids[row] for row in rows),
        texts=tuple(split.texts[row] for row in rows),
        labels=split.labels[rows],
        source=f"{split.source}; {size} of {len(split)} rows, {'stratified, ' if stratified else ''}seed {seed}",
    )


def _quotas(labels: np.ndarray, size: int) -> dict[float, int]:
    """Rows of each label, by the largest remainder (Hamilton's method), in whole numbers throughout."""
    values, counts = np.unique(labels, return_counts=True)
    total = len(labels)
    whole = [int(count) * size // total for count in counts]
    rest = [int(count) * size % total for count in counts]
    for index in sorted(range(len(values)), key=lambda i: -rest[i])[: size - sum(whole)]:
        whole[index] += 1
    return dict(zip((float(value) for value in values), whole, strict=True))


SHUFFLED = "shuffled:"
"""Before the name of data, in a cell: the labels of its train splits are shuffled."""


def shuffle_labels(split: Split, seed: int) -> Split:
    """The same rows and the same labels, in another order: one that the seed and the task's name decide."""
    order = np.random.default_rng(derive(seed, "shuffled labels", split.task)).permutation(len(split))
    return replace(split, labels=split.labels[order], source=f"{split.source}; labels shuffled, seed {seed}")
