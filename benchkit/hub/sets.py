"""Fetching a data set into a folder that `--data` reads."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchkit.data.tables import read_table
from benchkit.errors import UserError
from benchkit.hub.checksum import RemoteFile
from benchkit.hub.cut import by_hash, write_rows
from benchkit.hub.download import Downloader
from benchkit.hub.patience import Patience
from benchkit.hub.record import Fetched, damage, named, read_record, sums
from benchkit.hub.remote import look_up
from benchkit.hub.sources import SOURCES, Source
from benchkit.hub.stage import Stage, chosen, staged
from benchkit.hub.watch import Watch
from benchkit.store.place import hub_root

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
