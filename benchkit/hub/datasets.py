"""Data sets from a hub: their sources, and how they are split for the tasks."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchkit.core.errors import UserError, unknown
from benchkit.core.progress import Progress
from benchkit.core.task import SPLITS
from benchkit.data.tables import read_table
from benchkit.hub.download import (
    Fetched,
    RemoteFile,
    Repository,
    Stage,
    damage,
    look_up,
    read_record,
    staged,
    sums,
)
from benchkit.store.files import hub_root


@dataclass(frozen=True)
class Source:
    """A data set of one task.

    Attributes:
        files: at `revision`, all of them with their sha256.
        one_file: whether a single file holds all rows, which `split_pairs` then splits; else there is a file a split.
        rows: how many the splits, or all rows of `one_file` together, must have at `revision`.
        splits: which split it is, for people.
    """

    task: str
    repo: str
    revision: str
    files: tuple[RemoteFile, ...]
    one_file: bool
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
    one_file=False,
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
    one_file=True,
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
    one_file=False,
    rows={"train": 5749, "dev": 1500, "test": 1379},
    splits="official; the CS224N project splits the same pairs into 6,040 / 863 / 1,725: never mix the two",
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


Row = Mapping[str, Any]

DEV, TEST = 0.05, 0.10
"""Shares of Quora's dev and test: those of the CS224N project."""

HUB = "hub"
"""What `--data` takes for the folder of everything fetched."""


def split_pairs(path: Path) -> dict[str, list[Row]]:
    """Quora's pairs, drawn into train, dev and test by the hash of the two questions.

    A pair, in either order, is always in the same split, whatever else the file holds.
    """
    columns = ("sentence1", "sentence2", "label")
    table = read_table(path)
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise UserError(f"{path.name} has no column {missing[0]!r}, only {', '.join(table.columns)}: another layout?")
    places = [table.columns.index(name) for name in columns]
    rows: dict[str, list[Row]] = {"train": [], "dev": [], "test": []}
    for line, cells in table.rows:
        row = {"id": f"q{line}", **{name: cells[at] for name, at in zip(columns, places, strict=True)}}
        rows[_draw(str(row["sentence1"]), str(row["sentence2"]))].append(row)
    return rows


def _draw(first: str, second: str) -> str:
    digest = hashlib.sha256("\n".join(sorted((first, second))).encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return "dev" if place < DEV else "test" if place < DEV + TEST else "train"


def data_root() -> Path:
    """The folder with a folder for each fetched task."""
    return hub_root() / "data"


def fetch_set(source: Source, progress: Progress, revision: str = "", by_hand: Path | None = None) -> Fetched:
    """Fetch, check, split and place one data set; nothing is done where it is there already, complete and as wanted.

    Args:
        revision: a commit, branch or tag instead of the pinned commit, or "".
        by_hand: a folder that holds the repository's files already.

    Raises:
        UserError: it cannot be had, or is not what was expected.
    """
    place = data_root() / source.task
    with staged(f"data-{source.task}", progress) as stage:
        record = read_record(place)
        wanted = revision or source.revision
        if record and record.revision.startswith(wanted) and not damage(place, record):
            progress.say(f"{source.task} is there already, complete")
            return record
        repository = _find(source, wanted)
        stage.take(repository, [file.path for file in source.files], by_hand)
        _split(source, stage)
        record = _describe(source, repository, stage)
        stage.place(place, record)
    return record


def _find(source: Source, revision: str) -> Repository:
    """The pinned commit, whose checksums are known beforehand, or what the hub says of another."""
    names = ", ".join(file.name for file in source.files)
    advice = f"by hand: get {names} elsewhere and give their folder: benchkit data fetch {source.task} --from DIR"
    if revision == source.revision:
        return Repository(source.repo, "dataset", revision, {file.path: file for file in source.files}, advice)
    repository = look_up(source.repo, "dataset", revision, advice)
    missing = [file.path for file in source.files if file.path not in repository.files]
    if missing:
        raise UserError(f"{repository} has no {missing[0]}: its files are laid out in another way; {advice}")
    return repository


def _split(source: Source, stage: Stage) -> None:
    """Make the splits in `stage.new`: the same bytes wherever they are made."""
    if source.one_file:
        stage.progress.say("splitting the pairs into train, dev and test")
        for split, rows in split_pairs(stage.raw / source.files[0].path).items():
            with (stage.new / f"{split}.jsonl").open("w", encoding="utf-8", newline="\n") as lines:
                lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return
    for file in source.files:
        split, _, suffix = file.name.partition(".")
        shutil.copyfile(stage.raw / file.path, stage.new / f"{'dev' if split == 'validation' else split}.{suffix}")


def _describe(source: Source, repository: Repository, stage: Stage) -> Fetched:
    """The record.

    Raises:
        UserError: the pinned commit has another number of rows than is known.
    """
    found = {path.name.partition(".")[0]: len(read_table(path).rows) for path in stage.new.iterdir()}
    rows = {split: found[split] for split in SPLITS if split in found}
    pinned = repository.revision == source.revision
    if pinned and (rows != source.rows if not source.one_file else sum(rows.values()) != sum(source.rows.values())):
        raise UserError(f"{source.repo} has {rows} rows, not {dict(source.rows)}: its files cannot be used")
    return Fetched(
        repo=source.repo,
        revision=repository.revision,
        pinned="benchkit" if pinned else "hub",
        source={file.path: repository.files[file.path].source for file in source.files},
        files=sums(stage.new),
        licence=source.licence,
        citation=source.citation,
        splits=source.splits,
        rows=rows,
    )


def fetched_sets() -> dict[str, Fetched]:
    """What has been fetched, by task."""
    root = data_root()
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return {folder.name: record for folder in folders if (record := read_record(folder))}


def hub_folder(tasks: Iterable[str] = ()) -> Path:
    """The folder that `--data hub` means.

    Args:
        tasks: that must be in it, as far as they can be fetched.

    Raises:
        UserError: nothing has been fetched, or one of the tasks has not.
    """
    here = fetched_sets()
    if not here:
        raise UserError("nothing has been fetched yet for --data hub: run `benchkit data fetch all` first")
    missing = [task for task in tasks if task in SOURCES and task not in here]
    if missing:
        way_out = f"benchkit data fetch {' '.join(missing)}, or leave them out with --tasks {','.join(here)}"
        raise UserError(f"--data hub has no {', '.join(missing)}: {way_out}")
    return data_root()


def changed(folder: Path) -> list[str]:
    """What differs, in a folder of fetched tasks, from their records, a line each; nothing where there are none."""
    places = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [line for place in places if (record := read_record(place)) for line in damage(place, record)]
