"""Data sets from a hub: their sources, and how they are cut into the tasks' splits."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchkit.core.errors import UserError, unknown
from benchkit.data.tables import Table, read_table
from benchkit.hub.download import Downloader, Patience, Stage, Watch, chosen, look_up, staged
from benchkit.hub.record import Fetched, RemoteFile, damage, named, read_record, sums
from benchkit.store.files import hub_root


@dataclass(frozen=True)
class Source:
    """A data set of one task.

    Attributes:
        files: at `revision`, all of them with their sha256.
        cut: how splits are made of the files: `none`, one file a split, or `quora`, see `benchkit.hub.datasets`.
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


Row = Mapping[str, Any]

DEV, TEST = 0.05, 0.10
"""Shares of Quora's dev and test: those of the CS224N project."""


def by_hash(path: Path) -> dict[str, list[Row]]:
    """Quora's pairs, drawn into dev and test by the hash of the two questions.

    The same pair, turned round too, is always in the same split, whatever else the file holds.
    """
    rows: dict[str, list[Row]] = {"train": [], "dev": [], "test": []}
    for row in _rows(read_table(path), path, "q", ("sentence1", "sentence2", "label")):
        rows[_draw(str(row["sentence1"]), str(row["sentence2"]))].append(row)
    return rows


def _draw(first: str, second: str) -> str:
    digest = hashlib.sha256("\n".join(sorted((first, second))).encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return "dev" if place < DEV else "test" if place < DEV + TEST else "train"


def _rows(table: Table, path: Path, prefix: str, columns: tuple[str, ...]) -> Iterable[Row]:
    """Each row's columns, and an id that says where it stood."""
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise UserError(f"{path.name} has no column {missing[0]!r}, only {', '.join(table.columns)}: another layout?")
    places = [table.columns.index(name) for name in columns]
    for line, cells in table.rows:
        yield {"id": f"{prefix}{line}", **{name: cells[at] for name, at in zip(columns, places, strict=True)}}


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """JSON Lines: the same bytes wherever it is written."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


HUB = "hub"
"""What `--data` takes for the folder of everything fetched."""
_SPLITS = {"train": "train", "dev": "dev", "validation": "dev", "test": "test"}


@dataclass(frozen=True)
class SetRequest:
    """How a data set is wanted.

    Attributes:
        revision: a commit, branch or tag instead of the pinned commit, or "".
        by_hand: a folder that holds the repository's files already.
    """

    revision: str = ""
    by_hand: Path | None = None


def data_root() -> Path:
    """The folder with a folder for each fetched task."""
    return hub_root() / "data"


def fetch_set(source: Source, request: SetRequest, watch: Watch, patience: Patience | None = None) -> Fetched:
    """Fetch, check, cut and place one data set; nothing is done where it is there already, whole and as wanted.

    Raises:
        UserError: it cannot be had, is not what was expected, or cannot be cut as wanted.
    """
    place = data_root() / source.task
    with staged(f"data-{source.task}") as stage:
        record = read_record(place)
        if record and _serves(record, source, request) and not damage(place, record):
            watch.say(f"{source.task} is there already, whole")
            return record
        patience = patience or Patience()
        revision, files = _find(source, request, watch, patience)
        downloader = Downloader(source.repo, "dataset", revision, stage.raw.parent, watch, patience, advice(source))
        stage.take(downloader, files, request.by_hand)
        _cut(source, stage, watch)
        record = _describe(source, revision, files, stage)
        record.write(stage.new)
        stage.place(place)
    return record


def advice(source: Source) -> str:
    """How to go on without the hub, for the end of a message."""
    names = ", ".join(file.name for file in source.files)
    return f"by hand: get {names} elsewhere and give their folder: benchkit data fetch {source.task} --from DIR"


def _serves(record: Fetched, source: Source, request: SetRequest) -> bool:
    return record.revision.startswith(request.revision) if request.revision else record.revision == source.revision


def _find(source: Source, request: SetRequest, watch: Watch, patience: Patience) -> tuple[str, list[RemoteFile]]:
    """The commit and its files: ours, whose bytes are known beforehand, or what the hub says of another."""
    if not request.revision or request.revision == source.revision:
        return source.revision, list(source.files)
    listing = look_up(source.repo, "dataset", request.revision, watch, patience, advice(source))
    return listing.revision, chosen(listing, [file.path for file in source.files], advice(source))


def _cut(source: Source, stage: Stage, watch: Watch) -> None:
    """Make the splits in `stage.new`."""
    paths = {file.name: stage.raw / file.path for file in source.files}
    if source.cut == "quora":
        (path,) = paths.values()
        watch.say("cutting the pairs into train, dev and test")
        for split, rows in by_hash(path).items():
            write_rows(stage.new / f"{split}.jsonl", rows)
        return
    for name, path in paths.items():
        split, _, suffix = name.partition(".")
        shutil.copyfile(path, stage.new / f"{_SPLITS[split]}.{suffix}")


def _describe(source: Source, revision: str, files: Iterable[RemoteFile], stage: Stage) -> Fetched:
    """The record; at the pinned commit, the rows must be as many as is known.

    Raises:
        UserError: they are not.
    """
    made = sorted(path.name for path in stage.new.iterdir())
    rows = {name.partition(".")[0]: _count(stage.new / name) for name in made}
    pinned = revision == source.revision
    if pinned:
        _check_rows(source, rows)
    return Fetched(
        repo=source.repo,
        revision=revision,
        pinned="benchkit" if pinned else "hub",
        source={file.path: named(file) for file in files},
        files=sums(stage.new, made),
        licence=source.licence,
        citation=source.citation,
        splits=source.splits,
        rows={split: rows[split] for split in ("train", "dev", "test") if split in rows},
    )


def _check_rows(source: Source, rows: dict[str, int]) -> None:
    if (source.cut == "none" and rows != source.rows) or sum(rows.values()) != sum(source.rows.values()):
        raise UserError(f"{source.repo} has {rows} rows, not {dict(source.rows)}: its files cannot be used")


def _count(path: Path) -> int:
    return len(read_table(path).rows)


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
