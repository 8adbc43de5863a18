"""Downloads from a Hugging Face hub: resumed and retried."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from benchkit import __version__
from benchkit.core.errors import UserError
from benchkit.hub.record import RemoteFile
from benchkit.store.files import hub_root, locked, writing


class Watch(Protocol):
    """Called in the order `start`, `advance` …, `stop`; `say` at any time."""

    def start(self, name: str, done: int, total: int | None) -> None:
        """A file begins: `done` bytes of it are here from an earlier try, `total` there will be, if known."""

    def advance(self, size: int) -> None:
        """So many more bytes are here; negative where the server sends the file from its beginning again."""

    def stop(self) -> None:
        """The file is whole, or given up."""

    def say(self, line: str) -> None:
        """A line for the user."""


class Silent:
    """A `Watch` that tells nobody."""

    def start(self, name: str, done: int, total: int | None) -> None: ...

    def advance(self, size: int) -> None: ...

    def stop(self) -> None: ...

    def say(self, line: str) -> None: ...


T = TypeVar("T")

_NOTICED = 3.0  # seconds


@dataclass(frozen=True)
class Patience:
    """How often and how long to wait for a server that fails.

    Attributes:
        tries: without anything new, before giving up.
        unreachable: the same, where there is not even a connection.
        pause: seconds after the first failure; doubled after each further one.
        longest: seconds that a server may ask for (`Retry-After`).
    """

    tries: int = 5
    unreachable: int = 2
    pause: float = 1.0
    longest: float = 60.0


class BusyError(Exception):
    """A failure that may pass.

    Attributes:
        wait: what the server asked for, in seconds.
        connected: whether there was a connection.
    """

    def __init__(self, reason: str, wait: float = 0.0, connected: bool = True) -> None:
        super().__init__(reason)
        self.wait, self.connected = wait, connected


def insist(
    attempt: Callable[[], T],
    url: str,
    advice: str,
    patience: Patience,
    tell: Callable[[str], None],
    here: Callable[[], int] = lambda: 0,
) -> T:
    """What `attempt` gives, once it does not raise `BusyError`.

    Args:
        url, advice: for the message of a failure.
        tell: hears of a wait that a user would wonder about.
        here: bytes that earlier attempts have left; while they grow, there is hope.

    Raises:
        UserError: it failed as often as `patience` allows.
    """
    failures = 0
    while True:
        before = here()
        try:
            return attempt()
        except BusyError as error:
            failures = 1 if here() > before else failures + 1
            if failures >= (patience.tries if error.connected else patience.unreachable):
                kept = f"; {here():,} bytes are kept, the same command goes on from there" if here() else ""
                raise UserError(f"cannot fetch {url}: {error}{kept}; {advice}") from error
            wait = min(max(patience.pause * 2 ** (failures - 1), error.wait), patience.longest)
            if wait >= _NOTICED:
                tell(f"{error}: trying again in {wait:.0f} s")
            time.sleep(wait)


Kind = Literal["model", "dataset"]
_BUSY = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Listing:
    """A repository at one commit.

    Attributes:
        files: by their path.
        licence: as the repository's card says, or "".
    """

    repo: str
    kind: Kind
    revision: str
    files: Mapping[str, RemoteFile] = field(default_factory=dict)
    licence: str = ""


def endpoint() -> str:
    """$HF_ENDPOINT, else https://huggingface.co; without a slash at the end."""
    from huggingface_hub import constants

    return constants.ENDPOINT.rstrip("/")


def file_url(repo: str, kind: Kind, revision: str, path: str) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repo, path, repo_type=kind, revision=revision)


def look_up(repo: str, kind: Kind, revision: str, watch: Watch, patience: Patience, advice: str) -> Listing:
    """The commit that a branch, tag or commit id stands for, and its files.

    Raises:
        UserError: there is no such repository or revision, or the hub cannot be asked.
    """
    from huggingface_hub.errors import HFValidationError

    page = f"{endpoint()}/{'datasets/' if kind == 'dataset' else ''}{repo}"
    try:
        info = insist(lambda: _ask(repo, kind, revision, page, advice), page, advice, patience, watch.say)
    except HFValidationError:
        raise UserError(f"{repo!r} cannot be the name of a repository: it looks like owner/name") from None
    if not info.sha or info.siblings is None:
        raise UserError(f"cannot fetch {page}: the server names no commit or no files; is HF_ENDPOINT a hub? {advice}")
    files = [_file(sibling) for sibling in info.siblings]
    return Listing(repo, kind, info.sha, {file.path: file for file in files}, _licence(info))


def _ask(repo: str, kind: Kind, revision: str, page: str, advice: str) -> Any:
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT

    with asking(page, advice):
        return HfApi().repo_info(
            repo, repo_type=kind, revision=revision, files_metadata=True, timeout=HF_HUB_ETAG_TIMEOUT
        )


def look_up_offline(repo: str, kind: Kind, revision: str, paths: Iterable[str]) -> Listing | None:
    """What the cache of the hub's own library ($HF_HOME) has of a repository: some of `paths`, or None."""
    from huggingface_hub import try_to_load_from_cache

    files, commit = {}, ""
    for path in paths:
        found = try_to_load_from_cache(repo, path, revision=revision, repo_type=kind)
        if isinstance(found, str):
            name = Path(found).resolve().name  # the cache calls a file by what the hub knows of it
            files[path] = RemoteFile(path, None, name if len(name) == 64 else "", name if len(name) == 40 else "")
            commit = Path(found).parents[path.count("/")].name
    return Listing(repo, kind, commit, files) if files else None


def _file(sibling: Any) -> RemoteFile:
    sha256 = sibling.lfs.sha256 if sibling.lfs else ""
    return RemoteFile(sibling.rfilename, sibling.size, sha256, "" if sha256 else sibling.blob_id or "")


def _licence(info: Any) -> str:
    licence = (info.card_data or {}).get("license", "")
    return ", ".join(licence) if isinstance(licence, list) else str(licence or "")


@contextmanager
def asking(url: str, advice: str) -> Iterator[None]:
    """Turn what goes wrong with a request into one line.

    Raises:
        BusyError: it may go better in a while.
        UserError: it will not.
    """
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
    from huggingface_hub.errors import HTTPError as ClientError  # type: ignore[attr-defined]

    try:
        yield
    except HfHubHTTPError as error:
        if error.response.status_code in _BUSY:
            raise BusyError(reason_of(error), _seconds(error.response.headers.get("Retry-After"))) from error
        nowhere = isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError)
        raise UserError(f"cannot fetch {url}: {reason_of(error)}{'' if nowhere else f'; {advice}'}") from error
    except OfflineModeIsEnabled as error:
        raise UserError(f"cannot fetch {url}: HF_HUB_OFFLINE is set; {advice}") from error
    except ClientError as error:
        raise BusyError(reason_of(error), connected="Connect" not in type(error).__name__) from error


def reason_of(error: Exception) -> str:
    """Why a request failed, and what the user can do about it."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "its owner wants to be asked for access: ask on the repository's page, then set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such repository, or a private one and no HF_TOKEN that may read it"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return "the repository has no such file"
    if isinstance(error, errors.HfHubHTTPError):
        return _status(error.response)
    text = " ".join(str(error).split())
    return f"{_kind(error)} ({text})" if text else _kind(error)


def _status(response: Any) -> str:
    meaning = {401: "HF_TOKEN is missing or wrong", 403: "access is forbidden", 404: "nothing is there",
               429: "too many requests; wait some minutes, or set HF_TOKEN"}  # fmt: skip
    status: int = response.status_code
    return f"HTTP {status}, {meaning.get(status, 'the server failed' if status >= 500 else response.reason_phrase)}"


def _kind(error: Exception) -> str:
    """`ConnectError` and its like in words; their names are the same in every client that the hub's library used."""
    name = type(error).__name__
    if "Proxy" in name:
        return "the proxy does not answer"
    if "Timeout" in name:
        return "no answer in time"
    return "no connection" if "Connect" in name else "the connection broke"


def _seconds(header: str | None) -> float:
    """`Retry-After` in seconds; a date counts as nothing."""
    with suppress(TypeError, ValueError):
        return float(header or "")
    return 0.0


@dataclass(frozen=True)
class Downloader:
    """Files of one repository at one commit.

    Attributes:
        folder: for what has arrived so far.
        advice: what to do instead, for the message of a failure.
    """

    repo: str
    kind: Kind
    revision: str
    folder: Path
    watch: Watch
    patience: Patience
    advice: str

    def get(self, file: RemoteFile) -> Path:
        """The file, whole and checked, under a name of its own; the caller moves it where it belongs.

        Raises:
            UserError: it could not be had, or is not what was expected.
        """
        url = file_url(self.repo, self.kind, self.revision, file.path)
        part = self.folder / f"{self._name(file)}.part"
        with writing(part):
            self.folder.mkdir(parents=True, exist_ok=True)
            flaw = self._fill(part, file, url)
            if flaw:
                self.watch.say(f"{file.name}: {flaw}; fetching it once more")
                flaw = self._fill(part, file, url)
        if flaw:
            raise UserError(f"{url} is not what was expected: {flaw}; nothing of it was kept; {self.advice}")
        return part

    def _name(self, file: RemoteFile) -> str:
        """The same wherever the same content comes from; another for another content."""
        place = f"{self.kind} {self.repo} {self.revision} {file.path}"
        return file.identity or hashlib.sha256(place.encode()).hexdigest()

    def _fill(self, part: Path, file: RemoteFile, url: str) -> str:
        """Add to `part` until it is whole; what is wrong with it then, and in that case remove it.

        A wrong beginning would spoil every later try as well.
        """
        self.watch.start(file.path, _size(part), file.size)
        try:
            if file.size is None or _size(part) < file.size:
                attempt = self._attempt(part, url)
                insist(attempt, url, self.advice, self.patience, self.watch.say, here=lambda: _size(part))
        finally:
            self.watch.stop()
        flaw = file.flaw(part)
        if flaw:
            part.unlink()
        return flaw

    def _attempt(self, part: Path, url: str) -> Callable[[], None]:
        def attempt() -> None:
            with asking(url, self.advice):
                _stream(part, url, self.watch)

        return attempt


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _stream(part: Path, url: str, watch: Watch) -> None:
    """One request; what arrives before it breaks stays in `part`. Raises what the client raises."""
    from huggingface_hub import get_session
    from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    have = _size(part)
    headers = build_hf_headers(library_name="benchkit", library_version=__version__) | {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with get_session().stream(
        "GET", url, headers=headers, follow_redirects=True, timeout=HF_HUB_DOWNLOAD_TIMEOUT
    ) as response:
        if response.status_code == 416:
            part.unlink(missing_ok=True)
            watch.advance(-have)
            raise BusyError("the server has fewer bytes than are here; beginning again")
        if response.status_code >= 400:
            response.read()
        hf_raise_for_status(response)
        _append(part, response, have, watch)


def _append(part: Path, response: Any, have: int, watch: Watch) -> None:
    resumed = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
    if have and not resumed:
        watch.advance(-have)  # the server sends the file from its beginning
    with part.open("ab" if resumed else "wb") as target:
        for block in response.iter_bytes():
            target.write(block)
            watch.advance(len(block))


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
