"""The data sets that `benchkit data fetch` knows: where they are, which bytes they are, whose they are.

Revisions, sizes and sha256 are those of the hub's own commit pages (git-lfs pointers) and, for SetFit/sst5, of the
`download_checksums` that the `datasets` library published for that commit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from benchkit.errors import unknown
from benchkit.hub.checksum import RemoteFile


@dataclass(frozen=True)
class Source:
    """A data set of one task.

    Attributes:
        files: at `revision`, all of them with their sha256.
        cut: how splits are made of the files: `none`, one file a split, or `quora`, see `benchkit.hub.cut`.
        rows: what the splits, or for `quora` all pairs together, must have at `revision`.
    """

    task: str
    repo: str
    revision: str
    files: tuple[RemoteFile, ...]
    cut: Literal["none", "quora", "sts"]
    rows: Mapping[str, int]
    splits: str
    licence: str
    citation: str

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(file.size or 0 for file in self.files)


SST = Source(
    task="sst",
    repo="SetFit/sst5",
    revision="e51bdcd8cd3a30da231967c1a249ba59361279a3",
    files=(
        RemoteFile("train.jsonl", 1_323_698, "46bde4fb5abc93ffbadfa9a9f67de17c08a2f535cfb5756c59188d070434f433"),
        RemoteFile("dev.jsonl", 171_422, "4369df4d4229e736fa734af49b342c7d6002c4d8514d9c206a5aa26edc620b79"),
        RemoteFile("test.jsonl", 342_783, "1384216112a34f3d70b6fa210762f3399bb080410c0456ac6e54a5cb413f04b2"),
    ),
    cut="none",
    rows={"train": 8544, "dev": 1101, "test": 2210},
    splits="official, which the CS224N project uses too",
    licence="none stated by the repository; the treebank was published for research",
    citation=(
        "Socher, Perelygin, Wu, Chuang, Manning, Ng, Potts (2013): Recursive Deep Models for Semantic "
        "Compositionality Over a Sentiment Treebank. EMNLP"
    ),
)

QUORA = Source(
    task="quora",
    repo="sentence-transformers/quora-duplicates",
    revision="17139635dac015abb960f0c494d62df1551b91f4",
    files=(
        RemoteFile(
            "pair-class/train-00000-of-00001.parquet",
            34_965_546,
            "71954cb44e706ad26675731b6138995763c6dc8079c14f1fdf956122ccea587f",
        ),
    ),
    cut="quora",
    rows={"all": 404_290},
    splits="benchkit's own, by hash: about 85/5/10 %, as the CS224N project's; there are no official ones with labels",
    licence="Quora's terms of service: non-commercial use",
    citation="Iyer, Dandekar, Csernai (2017): First Quora Dataset Release: Question Pairs",
)

STS = Source(
    task="sts",
    repo="mteb/stsbenchmark-sts",
    revision="b0fddb56ed78048fa8b90373c8a3cfc37b684831",
    files=(
        RemoteFile("train.jsonl.gz", 277_970, "a65b4c9e9b1e7a8f784b0099cba2d5db046d6763e63cccb1286e1eaada24db63"),
        RemoteFile("validation.jsonl.gz", 86_431, "e2cf5a5881c37c44d5de5c5b390834585234acdab4e6e08071c474bf00157783"),
        RemoteFile("test.jsonl.gz", 63_205, "524a75137d413dbfc40c3e84905f733714232647c3848521acb6bc375b834e1c"),
    ),
    cut="none",
    rows={"train": 5749, "dev": 1500, "test": 1379},
    splits="official; the CS224N project cuts the same pairs into 6,040 / 863 / 1,725: never mix the two",
    licence="scores CC BY-SA 4.0; the sentences are their sources'",
    citation=(
        "Cer, Diab, Agirre, Lopez-Gazpio, Specia (2017): SemEval-2017 Task 1: Semantic Textual Similarity "
        "Multilingual and Crosslingual Focused Evaluation. SemEval"
    ),
)

SOURCES: Mapping[str, Source] = {source.task: source for source in (SST, QUORA, STS)}


def source_of(name: str) -> Source:
    """A data set by its task's name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in SOURCES:
        raise unknown("data set", name, [*SOURCES, "all"])
    return SOURCES[name]
