"""Getting a repository's files side by side before any of them is put in its place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchkit.errors import UserError
from benchkit.hub.checksum import RemoteFile
from benchkit.hub.download import Downloader
from benchkit.hub.remote import Listing
from benchkit.store.atomic import writing
from benchkit.store.locks import locked
from benchkit.store.place import hub_root


@dataclass(frozen=True)
class Stage:
    """A folder for one thing that is being fetched: `raw` as the repository has it, `new` as it will be kept."""

    raw: Path
    new: Path

    def take(self, downloader: Downloader, files: Iterable[RemoteFile], by_hand: Path | None = None) -> None:
        """Put files into `raw`: from `by_hand`, the cache of the hub's own library, or the hub.

        Raises:
            UserError: one cannot be had, or is not what was expected.
        """
        for file in files:
            target = self.raw / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_file() and file.identity and not file.flaw(target):
                continue
            target.unlink(missing_ok=True)
            if by_hand is not None:
                _link(_given(by_hand, file), target)
            elif found := _cached(downloader, file):
                _link(found, target)
            else:
                downloader.get(file).replace(target)

    def only(self, files: Iterable[RemoteFile]) -> None:
        """Remove from `raw` what an earlier try of another revision left there."""
        wanted = {self.raw / file.path for file in files}
        for path in self.raw.rglob("*"):
            if path.is_file() and path not in wanted:
                path.unlink()

    def place(self, where: Path) -> None:
        """Put `new` where it belongs, in the place of what was there."""
        with writing(where):
            where.parent.mkdir(parents=True, exist_ok=True)
            old = self.raw.parent / "old"
            if where.exists():
                where.replace(old)
            self.new.replace(where)
            shutil.rmtree(self.raw.parent)


@contextmanager
def staged(name: str) -> Iterator[Stage]:
    """A stage under a name, for one process at a time; what an earlier one left in `raw` is still there."""
    base = hub_root() / "downloads" / name.replace("/", "--")
    with locked(base.with_name(f"{base.name}.lock"), wait=True), writing(base):
        stage = Stage(base / "raw", base / "new")
        for leftover in (stage.new, base / "old"):
            shutil.rmtree(leftover, ignore_errors=True)
        stage.raw.mkdir(parents=True, exist_ok=True)
        stage.new.mkdir()
        yield stage
        if base.exists() and not any(path.is_file() for path in base.rglob("*")):
            shutil.rmtree(base)


def chosen(listing: Listing, paths: Iterable[str], advice: str) -> list[RemoteFile]:
    """Some files of a listing.

    Raises:
        UserError: one is not there.
    """
    missing = [path for path in paths if path not in listing.files]
    if missing:
        at = f"{listing.repo} at {listing.revision[:12]}"
        raise UserError(f"{at} has no {missing[0]}: its files are laid out in another way; {advice}")
    return [listing.files[path] for path in paths]


def _given(folder: Path, file: RemoteFile) -> Path:
    """A file that the user has placed, under its whole path or its name alone.

    Raises:
        UserError: it is not there, or another one.
    """
    path = next((path for path in (folder / file.path, folder / file.name) if path.is_file()), None)
    if path is None:
        raise UserError(f"no {file.name} in {folder}: put it there, as the repository has it")
    if flaw := file.flaw(path):
        raise UserError(f"{path} is not what was expected: {flaw}; download it again")
    return path


def _cached(downloader: Downloader, file: RemoteFile) -> Path | None:
    """The file as another program has downloaded it ($HF_HOME), if it is whole and the right one."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(downloader.repo, file.path, revision=downloader.revision, repo_type=downloader.kind)
    if not isinstance(found, str) or not file.identity or not Path(found).is_file() or file.flaw(Path(found)):
        return None
    downloader.watch.say(f"{file.name} is in the hub's cache already")
    return Path(found).resolve()


def _link(source: Path, target: Path) -> None:
    """A second name for a file where the disk can, else a copy."""
    with suppress(OSError):
        os.link(source, target)
        return
    part = target.with_name(f"{target.name}.part")
    shutil.copyfile(source, part)
    part.replace(target)
