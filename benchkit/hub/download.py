"""Files from a Hugging Face hub: downloads that resume, checksums, and the record of what was fetched. No torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import quote

from benchkit import __version__
from benchkit.core.errors import UserError
from benchkit.core.progress import Progress
from benchkit.core.settings import parse, read_json
from benchkit.store.files import hub_root, locked, write_atomic, writing

Kind = Literal["model", "dataset"]

NAME = "fetched.json"
RETRIES = 3
"""How often a request is repeated before it is given up; progress resets the count."""
_LONGEST, _NOTICED = 8.0, 3.0  # seconds between two tries: at most, and after which a user wonders


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository at one revision. The server may choose the values, and `path` becomes a local path.

    Attributes:
        size: bytes; None if unknown.
        sha256: of the content, or "". The hub gives it for large files (git-lfs).
        blob: git's id of the content, or "". The hub gives it for small files.

    Raises:
        ValueError: the path leads out of its folder, or a checksum or the size is invalid.
    """

    path: str
    size: int | None = None
    sha256: str = ""
    blob: str = ""

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.path)
        if not parts.name or parts.is_absolute() or ".." in parts.parts or "\\" in self.path or "\0" in self.path:
            raise ValueError(f"{self.path!r} is not the name of a file")
        if not re.fullmatch("([0-9a-f]{64})?", self.sha256) or not re.fullmatch("([0-9a-f]{40})?", self.blob):
            raise ValueError(f"{self.path!r} has no valid checksum")
        if self.size is not None and self.size < 0:
            raise ValueError(f"{self.path!r} has no valid size")

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def identity(self) -> str:
        """The checksum that identifies the content, in hex digits, or "" if none is known."""
        return self.sha256 or self.blob

    @property
    def source(self) -> str:
        """The content's id as a record holds it."""
        return f"sha256:{self.sha256}" if self.sha256 else f"git:{self.blob}" if self.blob else "unknown"

    def flaw(self, path: Path) -> str:
        """What is wrong with a local copy, or "". Size and checksum are compared, as far as they are known."""
        size = path.stat().st_size
        if self.size is not None and size != self.size:
            return f"it has {size:,} bytes, not {self.size:,}"
        if not self.identity:
            return ""
        kind, found = ("sha256", sha256_of(path)) if self.sha256 else ("git id", git_blob(path))
        return "" if found == self.identity else f"its {kind} is {found}, not {self.identity}"


def sha256_of(path: Path) -> str:
    """As `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_blob(path: Path) -> str:
    """As `git hash-object` prints it."""
    header = f"blob {path.stat().st_size}\0".encode()
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha1(header, usedforsecurity=False)).hexdigest()


@dataclass(frozen=True)
class Repository:
    """A repository at one commit.

    Attributes:
        advice: what to do without the hub, for the end of a message.
        licence: as the repository's card says, or "".
    """

    name: str
    kind: Kind
    revision: str
    files: Mapping[str, RemoteFile]
    advice: str
    licence: str = ""

    def __str__(self) -> str:
        return f"{self.name} at {self.revision[:12]}"


def look_up(repo: str, kind: Kind, revision: str, advice: str) -> Repository:
    """The commit that a branch, tag or commit id stands for, and its files.

    Raises:
        UserError: there is no such repository or revision, or the hub cannot be asked.
    """
    from huggingface_hub import constants

    endpoint = constants.ENDPOINT.rstrip("/")
    page = f"{endpoint}/{'datasets/' if kind == 'dataset' else ''}{repo}"
    url = f"{endpoint}/api/{kind}s/{repo}/revision/{quote(revision, safe='')}?blobs=true"
    with asking(page, advice), _get(url, {}, timeout=constants.HF_HUB_ETAG_TIMEOUT) as response:
        answer = response.read()
    try:
        return _listed(repo, kind, json.loads(answer), advice)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"cannot fetch {page}: the answer lists no files ({error!r:.120}); is HF_ENDPOINT a hub? {advice}"
        ) from error


@contextmanager
def _get(url: str, headers: dict[str, str], **options: Any) -> Iterator[Any]:
    """The answer to a request, to be read; a busy server is asked again. Raises what `asking` takes."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        hf_raise_for_status,
        http_stream_backoff,
    )

    own = build_hf_headers(library_name="benchkit", library_version=__version__) | headers
    options = {"headers": own, "follow_redirects": True, "max_retries": RETRIES, **options}
    with http_stream_backoff("GET", url, **options) as response:
        if response.status_code >= 400:
            response.read()
        hf_raise_for_status(response)
        yield response


def _listed(repo: str, kind: Kind, answer: Any, advice: str) -> Repository:
    """Parse a server's answer, which is not trusted."""
    if not re.fullmatch("[0-9a-f]{40}", answer["sha"]):
        raise ValueError("no commit")
    files = {}
    for each in answer["siblings"]:
        sha256 = (each.get("lfs") or {}).get("sha256", "")
        known = {"path": each["rfilename"], "size": each.get("size"), "sha256": sha256}
        known["blob"] = "" if sha256 else each.get("blobId") or ""
        files[each["rfilename"]] = parse(RemoteFile, known, "file")
    licence = (answer.get("cardData") or {}).get("license") or ""
    text = ", ".join(map(str, licence)) if isinstance(licence, list) else str(licence)
    printable = "".join(letter for letter in text if letter.isprintable())  # it goes to a terminal
    return Repository(repo, kind, answer["sha"], files, advice, printable[:200])


@contextmanager
def asking(url: str, advice: str) -> Iterator[None]:
    """Turn exceptions of the hub's library into a UserError of one line."""
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise UserError(f"cannot fetch {url}: HF_HUB_OFFLINE is set; {advice}") from error
    except (errors.HfHubHTTPError, errors.HTTPError) as error:  # type: ignore[attr-defined]
        nowhere = isinstance(error, errors.RepositoryNotFoundError) and not isinstance(error, errors.GatedRepoError)
        raise UserError(f"cannot fetch {url}: {_reason(error)}{'' if nowhere else f'; {advice}'}") from error


_STATUS = {
    401: "HF_TOKEN is missing or wrong",
    403: "access is forbidden",
    404: "nothing is there",
    429: "too many requests; wait some minutes, or set HF_TOKEN",
}


def _reason(error: Exception) -> str:
    """Why a request failed, and what the user can do about it."""
    from huggingface_hub import errors

    for kind, reason in (
        (errors.GatedRepoError, "its owner asks for a request: apply on the repository's page, then set HF_TOKEN"),
        (errors.RepositoryNotFoundError, "no such repository, or a private one and no HF_TOKEN that may read it"),
        (errors.RevisionNotFoundError, "the repository has no such revision"),
        (errors.RemoteEntryNotFoundError, "the repository has no such file"),
    ):
        if isinstance(error, kind):
            return reason
    if isinstance(error, errors.HfHubHTTPError):
        status: int = error.response.status_code
        usual = "the server failed" if status >= 500 else error.response.reason_phrase
        return f"HTTP {status}, {_STATUS.get(status, usual)}"
    name, text = type(error).__name__, " ".join(str(error).split())
    kinds = {"Proxy": "the proxy does not answer", "Timeout": "no answer in time", "Connect": "no connection"}
    reason = next((kinds[part] for part in kinds if part in name), "the connection broke")
    return f"{reason} ({text})" if text else reason


def download(repository: Repository, file: RemoteFile, folder: Path, progress: Progress) -> Path:
    """Download a file to `folder` under a temporary name, complete and checked. The caller moves it.

    An interrupted download is continued. Content that does not match its checksum is fetched once more.

    Raises:
        UserError: the file cannot be fetched, or is not the expected one.
    """
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(repository.name, file.path, repo_type=repository.kind, revision=repository.revision)
    place = f"{repository.kind} {repository.name} {repository.revision} {file.path}"
    part = folder / f"{file.identity or hashlib.sha256(place.encode()).hexdigest()}.part"
    flaw = ""
    with writing(part):
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_links([part])
        for more in ("; fetching it once more", ""):
            progress.start(file.path, _size(part), file.size)
            try:
                if file.size is None or _size(part) < file.size:
                    with asking(url, repository.advice):
                        _complete(part, url, repository.advice, progress)
            finally:
                progress.stop()
            if not (flaw := file.flaw(part)):
                return part
            part.unlink()  # a wrong beginning would spoil every later try
            if more:
                progress.say(f"{file.name}: {flaw}{more}")
    raise UserError(f"{url} is not what was expected: {flaw}; nothing of it was kept; {repository.advice}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _complete(part: Path, url: str, advice: str, progress: Progress) -> None:
    """Request the missing rest of `part`, and repeat if the connection breaks.

    The hub's own `hf_hub_download` starts over in each process and writes at least 10 MB at a time.
    """
    from huggingface_hub import errors

    failures = 0
    while True:
        before = _size(part)
        try:
            return _append(part, url, progress)
        except (errors.HfHubHTTPError, errors.HTTPError) as error:  # type: ignore[attr-defined]
            failures = 1 if _size(part) > before else failures + 1
            status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
            if status == 416:  # the server has fewer bytes than are here
                progress.advance(-before)
                part.unlink()
            if status not in (0, 416) or failures > RETRIES:
                kept = f"{_size(part):,} bytes are kept, and the same command continues from there; "
                with asking(url, kept * (_size(part) > 0) + advice):
                    raise
            wait = min(2.0 ** (failures - 1), _LONGEST)
            if wait > _NOTICED:
                progress.say(f"{_reason(error)}: trying again in {wait:.0f} s")
            time.sleep(wait)


def _append(part: Path, url: str, progress: Progress) -> None:
    """Send one request. Data that arrives before the connection breaks stays in `part`."""
    from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT

    have = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with _get(url, headers, timeout=HF_HUB_DOWNLOAD_TIMEOUT, retry_on_exceptions=()) as response:
        resumed = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if have and not resumed:
            progress.advance(-have)  # the server sends the file from its beginning
        with open(part, "ab" if resumed else "wb", opener=_no_link) as target:
            for block in response.iter_bytes():
                target.write(block)
                progress.advance(len(block))


def _no_link(path: str, flags: int) -> int:
    """Opens a file, but not through a symbolic link that somebody has put in its place."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _refuse_links(paths: Iterable[Path]) -> None:
    """Raise UserError if a path is a symbolic link: benchkit makes none, and would write where it leads."""
    for path in paths:
        if path.is_symlink():
            raise UserError(f"{path} is a link, and benchkit did not make it: remove it")


@dataclass(frozen=True)
class Stage:
    """Folders of one download: `raw` has the repository's files, `new` the files that will be kept."""

    raw: Path
    new: Path
    progress: Progress

    def take(self, repository: Repository, paths: Iterable[str], by_hand: Path | None = None) -> None:
        """Put files into `raw`: from `by_hand`, the cache of the hub's own library, or the hub.

        Raises:
            UserError: a file cannot be fetched, or is not the expected one.
        """
        for file in (repository.files[path] for path in paths):
            target = self.raw / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_file() and file.identity and not file.flaw(target):
                continue
            target.unlink(missing_ok=True)
            if by_hand is not None:
                _link(_given(by_hand, file), target)
            elif found := _cached(repository, file):
                self.progress.say(f"{file.name} is in the hub's cache already")
                _link(found, target)
            else:
                download(repository, file, self.raw.parent, self.progress).replace(target)

    def place(self, where: Path, repository: Repository, paths: Iterable[str], **about: Any) -> Fetched:
        """Write the record into `new` and move it to `where`; an older folder there is replaced."""
        source = {path: repository.files[path].source for path in paths}
        record = Fetched(repository.name, repository.revision, source=source, files=sums(self.new), **about)
        write_atomic(self.new / NAME, (json.dumps(asdict(record), indent=2, ensure_ascii=False) + "\n").encode())
        where.parent.mkdir(parents=True, exist_ok=True)
        if where.exists():
            where.replace(self.raw.parent / "old")
        self.new.replace(where)
        shutil.rmtree(self.raw.parent)
        return record


@contextmanager
def staged(name: str, progress: Progress) -> Iterator[Stage]:
    """A stage under a name, for one process at a time. Files that an earlier process left in `raw` are kept."""
    base = hub_root() / "downloads" / name.replace("/", "--")
    with locked(base.with_name(f"{base.name}.lock"), wait=True), writing(base):
        _refuse_links([base, *base.rglob("*")])
        stage = Stage(base / "raw", base / "new", progress)
        for leftover in (stage.new, base / "old"):
            shutil.rmtree(leftover, ignore_errors=True)
        stage.raw.mkdir(parents=True, exist_ok=True)
        stage.new.mkdir()
        yield stage
        if base.exists() and not any(path.is_file() for path in base.rglob("*")):
            shutil.rmtree(base)


def _given(folder: Path, file: RemoteFile) -> Path:
    """A file that the user has placed, under its whole path or its name alone; a UserError if it is another one."""
    path = next((path for path in (folder / file.path, folder / file.name) if path.is_file()), None)
    if path is None:
        raise UserError(f"no {file.name} in {folder}: put it there, as the repository has it")
    if flaw := file.flaw(path):
        raise UserError(f"{path} is not what was expected: {flaw}; download it again")
    return path.resolve()  # a second name for a link would be a link


def _cached(repository: Repository, file: RemoteFile) -> Path | None:
    """The file in the cache of the hub's library ($HF_HOME), if it is complete and correct."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository.name, file.path, revision=repository.revision, repo_type=repository.kind)
    path = Path(found).resolve() if isinstance(found, str) else None
    return path if path and file.identity and path.is_file() and not file.flaw(path) else None


def _link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it if the disk cannot link."""
    try:
        os.link(source, target)
    except OSError:
        with source.open("rb") as file:
            write_atomic(target, lambda copy: shutil.copyfileobj(file, copy), durable=False)


@dataclass(frozen=True)
class Fetched:
    """The record of a fetched folder.

    Attributes:
        revision: the commit.
        pinned: where the checksums come from: `benchkit` (built in) or `hub` (given at the first fetch).
        source: files as the repository has them: path -> `sha256:…` or `git:…`.
        files: in the folder: name -> sha256.
        splits: for data, which split they have; `rows` counts them.
    """

    repo: str
    revision: str
    pinned: str
    source: Mapping[str, str]
    files: Mapping[str, str]
    licence: str = ""
    citation: str = ""
    splits: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)
    fingerprint: str = ""
    parameters: int = 0
    notes: tuple[str, ...] = ()
    when: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def read_record(folder: Path) -> Fetched | None:
    """The record of a folder, or None where there is none; a UserError if it cannot be read as one."""
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        record: Fetched = parse(Fetched, read_json(path), NAME)
        for name in record.files:
            RemoteFile(name)  # refuses one that leads elsewhere
    except (UserError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): remove {folder} and fetch it again") from error
    return record


def damage(folder: Path, record: Fetched) -> list[str]:
    """Files that are missing from a fetched folder or differ from its record, one line each."""
    problems = []
    for path, wanted in ((folder / name, wanted) for name, wanted in record.files.items()):
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif (found := sha256_of(path)) != wanted:
            problems.append(f"{path} has changed since it was fetched: its sha256 is {found}, not {wanted}")
    return problems


def sums(folder: Path) -> dict[str, str]:
    """sha256 of all files in a folder, by name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in paths}
