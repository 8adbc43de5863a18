"""Data sets from a hub: their sources, and how they are split for the tasks."""

from __future__ import annotations

import hashlib
import json
import shutil
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from benchkit.core.errors import UserError, unknown
from benchkit.core.progress import Progress
from benchkit.core.settings import parse
from benchkit.core.task import SPLITS
from benchkit.data.tables import read_table
from benchkit.hub import download as hub
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
    files: tuple[hub.RemoteFile, ...]
    one_file: bool
    rows: Mapping[str, int]
    splits: str
    licence: str
    citation: str

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(file.size or 0 for file in self.files)


@cache
def sources() -> dict[str, Source]:
    """The data sets that can be fetched, by task: what `sources.toml` lists."""
    tables = tomllib.loads((files("benchkit.hub") / "sources.toml").read_text("utf-8"))
    return {task: parse(Source, {"task": task, **table}, task) for task, table in tables.items()}


def source_of(name: str) -> Source:
    """A data set by its task's name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in sources():
        raise unknown("data set", name, [*sources(), "all"])
    return sources()[name]


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
    rows: dict[str, list[Row]] = {"train": [], "dev": [], "test": []}
    for line, cells in table.rows:
        values = dict(zip(table.columns, cells, strict=False))
        row = {"id": f"q{line}", **{name: values[name] for name in columns}}
        pair = sorted((str(row["sentence1"]), str(row["sentence2"])))
        place = int.from_bytes(hashlib.sha256("\n".join(pair).encode()).digest()[:8], "big") / 2**64
        rows["dev" if place < DEV else "test" if place < DEV + TEST else "train"].append(row)
    return rows


def data_root() -> Path:
    """The folder with a folder for each fetched task."""
    return hub_root() / "data"


def fetch_set(source: Source, progress: Progress, revision: str = "", by_hand: Path | None = None) -> hub.Fetched:
    """Fetch, check, split and place one data set; nothing is done where it is there already, complete and as wanted.

    Args:
        revision: a commit, branch or tag instead of the pinned commit, or "".
        by_hand: a folder that holds the repository's files already.

    Raises:
        UserError: it cannot be had, or is not what was expected.
    """
    place = data_root() / source.task
    with hub.staged(f"data-{source.task}", progress) as stage:
        record = hub.read_record(place)
        wanted = revision or source.revision
        if record and record.revision.startswith(wanted) and not hub.damage(place, record):
            progress.say(f"{source.task} is there already, complete")
            return record
        repository = _find(source, wanted)
        paths = [file.path for file in source.files]
        stage.take(repository, paths, by_hand)
        _split(source, stage)
        pinned, rows = repository.revision == source.revision, _count_rows(stage.new)
        total = sum(rows.values()) if source.one_file else rows
        if pinned and total != (sum(source.rows.values()) if source.one_file else source.rows):
            raise UserError(f"{source.repo} has {rows} rows, not {dict(source.rows)}: its files cannot be used")
        about = {name: getattr(source, name) for name in ("licence", "citation", "splits")}
        return stage.place(place, repository, paths, pinned="benchkit" if pinned else "hub", rows=rows, **about)


def _find(source: Source, revision: str) -> hub.Repository:
    """The pinned commit, whose checksums are known beforehand, or what the hub says of another."""
    names = ", ".join(file.name for file in source.files)
    advice = f"by hand: get {names} elsewhere and give their folder: benchkit data fetch {source.task} --from DIR"
    if revision == source.revision:
        return hub.Repository(source.repo, "dataset", revision, {file.path: file for file in source.files}, advice)
    repository = hub.look_up(source.repo, "dataset", revision, advice)
    missing = [file.path for file in source.files if file.path not in repository.files]
    if missing:
        raise UserError(f"{repository} has no {missing[0]}: its files are laid out in another way; {advice}")
    return repository


def _split(source: Source, stage: hub.Stage) -> None:
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


def _count_rows(folder: Path) -> dict[str, int]:
    found = {path.name.partition(".")[0]: len(read_table(path).rows) for path in folder.iterdir()}
    return {split: found[split] for split in SPLITS if split in found}


def fetched_sets() -> dict[str, hub.Fetched]:
    """What has been fetched, by task."""
    root = data_root()
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return {folder.name: record for folder in folders if (record := hub.read_record(folder))}


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
    missing = [task for task in tasks if task in sources() and task not in here]
    if missing:
        way_out = f"benchkit data fetch {' '.join(missing)}, or leave them out with --tasks {','.join(here)}"
        raise UserError(f"--data hub has no {', '.join(missing)}: {way_out}")
    return data_root()


def changed(folder: Path) -> list[str]:
    """What differs, in a folder of fetched tasks, from their records, a line each; nothing where there are none."""
    places = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [line for place in places if (record := hub.read_record(place)) for line in hub.damage(place, record)]
