"""A download ends with the right bytes, or with one line and nothing that a later one would trip over."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from helpers.hub import COMMIT, Fault, Hub, etag, serving, use

from benchkit.core.errors import UserError
from benchkit.hub.download import (
    RETRIES,
    RemoteFile,
    Repository,
    _no_link,
    download,
    look_up,
    read_record,
    staged,
)

DATA = random.Random(0).randbytes(300_000)
FILE = RemoteFile("data.parquet", len(DATA), etag("data.parquet", DATA))
SMALL = RemoteFile("small.json", 2, blob=etag("small.json", b"{}"))
REPOSITORY = Repository("a/b", "dataset", COMMIT, {}, "by hand: do this")


class Lines:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.done = 0

    def start(self, name: str, done: int, total: int | None, unit: str = "B") -> None:
        self.done = done

    def advance(self, count: int, note: str = "") -> None:
        self.done += count

    def stop(self) -> None: ...

    def say(self, line: str) -> None:
        self.lines.append(line)


@dataclass
class Downloader:
    """`download` into one folder."""

    folder: Path
    progress: Lines

    def get(self, file: RemoteFile) -> Path:
        return download(REPOSITORY, file, self.folder, self.progress)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as hub:
        hub.add("datasets/a/b", {"data.parquet": DATA, "small.json": b"{}"})
        use(hub, tmp_path, monkeypatch)
        yield hub


@pytest.fixture
def downloader(hub: Hub, tmp_path: Path) -> Downloader:
    return Downloader(tmp_path / "parts", Lines())


def test_whole_and_checked(hub: Hub, downloader: Downloader) -> None:
    assert downloader.get(FILE).read_bytes() == DATA
    assert downloader.get(SMALL).read_bytes() == b"{}"
    assert downloader.progress.done == 2


@pytest.mark.parametrize("cut", [0, 1, len(DATA) - 1, *random.Random(1).sample(range(len(DATA)), 3)])
def test_a_cut_connection_goes_on_where_it_was(hub: Hub, downloader: Downloader, cut: int) -> None:
    hub.fail("data.parquet", Fault(cut=cut))
    assert downloader.get(FILE).read_bytes() == DATA
    first, second = hub.asked("data.parquet")
    assert "range" not in first
    assert second.get("range") == (f"bytes={cut}-" if cut else None)
    assert downloader.progress.done == len(DATA)


def test_cuts_do_not_count_while_bytes_arrive(hub: Hub, downloader: Downloader) -> None:
    hub.fail("data.parquet", *[Fault(cut=20_000)] * 10)
    assert downloader.get(FILE).read_bytes() == DATA
    assert len(hub.asked("data.parquet")) == 11


def test_what_a_dead_process_left_is_used(hub: Hub, downloader: Downloader) -> None:
    downloader.folder.mkdir()
    (downloader.folder / f"{FILE.sha256}.part").write_bytes(DATA[:123_456])
    assert downloader.get(FILE).read_bytes() == DATA
    assert [headers["range"] for headers in hub.asked("data.parquet")] == ["bytes=123456-"]


def test_a_server_without_ranges_sends_it_all_again(hub: Hub, downloader: Downloader) -> None:
    hub.fail("data.parquet", Fault(cut=1000), Fault(no_range=True))
    assert downloader.get(FILE).read_bytes() == DATA
    assert downloader.progress.done == len(DATA)


def test_a_part_that_is_too_long_or_wrong_is_fetched_anew(hub: Hub, downloader: Downloader) -> None:
    part = downloader.folder / f"{FILE.sha256}.part"
    part.parent.mkdir()
    for wrong in (DATA + b"more", b"x" * 1000, b"x" * len(DATA)):
        part.write_bytes(wrong)
        assert downloader.get(FILE).read_bytes() == DATA


def test_without_a_known_size_the_server_says_where_it_ends(hub: Hub, downloader: Downloader) -> None:
    unknown = RemoteFile("data.parquet")
    hub.fail("data.parquet", Fault(cut=1000))
    part = downloader.get(unknown)
    assert part.read_bytes() == DATA
    assert downloader.get(unknown).read_bytes() == DATA  # 416: all of it is here; that is fetched again


@pytest.mark.parametrize("file", [FILE, replace(SMALL, size=None)])
def test_a_wrong_checksum_is_tried_once_more_then_refused(hub: Hub, downloader: Downloader, file: RemoteFile) -> None:
    def flip(data: bytes) -> bytes:
        return bytes([data[0] ^ 1]) + data[1:]

    hub.fail(file.name, Fault(change=flip))
    part = downloader.get(file)  # the second answer is right
    part.unlink()
    hub.fail(file.name, *[Fault(change=flip)] * 2)
    with pytest.raises(UserError, match=r"is not what was expected: its (sha256|git id) is .*; nothing of it was kept"):
        downloader.get(file)
    assert list(downloader.folder.iterdir()) == []


def test_a_short_file_is_not_taken_for_the_whole(hub: Hub, downloader: Downloader) -> None:
    hub.fail("data.parquet", *[Fault(change=lambda data: data[:5000])] * 2)
    with pytest.raises(UserError, match="has 5,000 bytes, not 300,000"):
        downloader.get(FILE)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_busy_server_is_asked_again(hub: Hub, downloader: Downloader, status: int) -> None:
    hub.fail("data.parquet", *[Fault(status, {"Retry-After": "1"})] * 2)
    assert downloader.get(FILE).read_bytes() == DATA


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (404, "HTTP 404, nothing is there"),
        (401, "HTTP 401, HF_TOKEN is missing or wrong"),
        (403, "HTTP 403, access is forbidden"),
        (429, "HTTP 429, too many requests; wait some minutes, or set HF_TOKEN"),
        (500, "HTTP 500, the server failed"),
        (410, "HTTP 410, Gone"),
    ],
)
def test_a_status_is_told_in_one_line(hub: Hub, downloader: Downloader, status: int, reason: str) -> None:
    hub.fail("data.parquet", *[Fault(status)] * (RETRIES + 1))
    with pytest.raises(UserError) as error:
        downloader.get(FILE)
    url = f"{hub.url}/datasets/a/b/resolve/{COMMIT}/data.parquet"
    assert str(error.value) == f"cannot fetch {url}: {reason}; by hand: do this"


def test_a_server_s_wait_is_kept_and_told(hub: Hub, downloader: Downloader, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    hub.fail("data.parquet", Fault(429, {"Retry-After": "30"}))
    assert downloader.get(FILE).read_bytes() == DATA
    assert sum(waited) >= 30


def test_what_arrived_before_giving_up_is_kept_and_told(hub: Hub, downloader: Downloader) -> None:
    hub.fail("data.parquet", Fault(cut=7000), *[Fault(500)] * (RETRIES + 1))
    with pytest.raises(UserError, match="HTTP 500, the server failed; 7,000 bytes are kept"):
        downloader.get(FILE)
    assert downloader.get(FILE).read_bytes() == DATA
    assert hub.asked("data.parquet")[-1]["range"] == "bytes=7000-"


def test_a_file_that_is_not_there(hub: Hub, downloader: Downloader) -> None:
    with pytest.raises(UserError, match="the repository has no such file; by hand"):
        downloader.get(RemoteFile("other.json"))


def test_large_files_come_from_elsewhere_and_the_token_does_not_go_there(
    hub: Hub, downloader: Downloader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "good")
    hub.repos["datasets/a/b"].gated = True
    hub.elsewhere = hub.url.replace("127.0.0.1", "localhost")
    hub.fail("data.parquet", Fault(cut=100))
    assert downloader.get(FILE).read_bytes() == DATA
    sent = {("blobs" in path): "authorization" in headers for _, path, headers in hub.requests}
    assert sent == {False: True, True: False}


@pytest.mark.parametrize(
    ("repo", "revision", "reason"),
    [
        ("a/b", "gone", "the repository has no such revision"),
        ("a/nothing", "main", "no such repository, or a private one and no HF_TOKEN that may read it"),
        ("a/closed", "main", "its owner asks for a request"),
    ],
)
def test_looking_up_what_is_not_there(hub: Hub, repo: str, revision: str, reason: str) -> None:
    hub.add("datasets/a/closed", {}, gated=True)
    with pytest.raises(UserError, match=reason):
        look_up(repo, "dataset", revision, "by hand: do this")


def test_looking_up(hub: Hub) -> None:
    hub.fail("api", Fault(500), Fault(429))
    listing = look_up("a/b", "dataset", "main", "")
    assert (listing.revision, listing.licence) == (COMMIT, "apache-2.0")
    assert listing.files == {"data.parquet": FILE, "small.json": SMALL}


def test_nobody_there(downloader: Downloader, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    with pytest.raises(UserError, match=r"cannot fetch http://127.0.0.1:9/\S+: no connection \(.*refused.*\); by hand"):
        downloader.get(FILE)


@pytest.mark.parametrize(
    "change",
    [
        {"siblings": [{"rfilename": "x.json", "size": 2, "blobId": "../../../evil"}]},
        {"siblings": [{"rfilename": "x.json", "size": 2, "blobId": "/etc/evil"}]},
        {"siblings": [{"rfilename": "x.bin", "lfs": {"sha256": "../evil"}}]},
        {"siblings": [{"rfilename": "x.bin", "lfs": {"sha256": "A" * 64}}]},
        {"siblings": [{"rfilename": "x.bin", "lfs": {"sha256": "a" * 64 + "\n"}}]},
        {"siblings": [{"rfilename": "../evil.json", "size": 2}]},
        {"siblings": [{"rfilename": "/evil.json", "size": 2}]},
        {"siblings": [{"rfilename": "x.json", "size": "2"}]},
        {"siblings": [{"rfilename": "x.json", "size": -2}]},
        {"siblings": [{"rfilename": 7}]},
        {"siblings": "x.json"},
        {"siblings": None},
        {"sha": "../../evil"},
        {"sha": "main"},
        {"sha": None},
        {"cardData": 3},
    ],
)
def test_a_server_does_not_choose_a_local_path(hub: Hub, change: dict[str, Any]) -> None:
    hub.answer = change
    with pytest.raises(UserError, match=r"cannot fetch http://\S+/datasets/a/b: the answer lists no files") as caught:
        look_up("a/b", "dataset", "main", "by hand: do this")
    assert "\n" not in str(caught.value)


def test_a_licence_is_printable(hub: Hub) -> None:
    hub.answer = {"cardData": {"license": ["mit\x1b[2J", "other"]}}
    assert look_up("a/b", "dataset", "main", "").licence == "mit[2J, other"


@pytest.mark.parametrize(("name", "digits"), [("blob", 40), ("sha256", 64)])
def test_only_hex_digits_name_a_file(name: str, digits: int) -> None:
    whole = "a" * digits
    assert RemoteFile("x.json", **{name: whole}).identity == whole  # type: ignore[arg-type]
    for value in ("../x", whole[1:], whole + "a", "A" * digits, whole + "\n", "/" + whole[1:], whole[5:] + "/../"):
        with pytest.raises(ValueError, match="checksum"):
            RemoteFile("x.json", **{name: value})  # type: ignore[arg-type]


WHOLE = {"repo": "a/b", "revision": COMMIT, "pinned": "hub", "source": {}, "files": {"train.tsv": "0" * 64}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        json.dumps({name: value for name, value in WHOLE.items() if name != "files"}).encode(),
        *(
            json.dumps(WHOLE | change).encode()
            for change in (
                {"files": ["train.tsv"]},
                {"files": {"train.tsv": 7}},
                {"files": {"../train.tsv": "0" * 64}},
                {"files": {"/etc/passwd": "0" * 64}},
                {"revision": 7},
                {"rows": {"train": "many"}},
                {"notes": "text"},
                {"parameters": 1.5},
            )
        ),
    ],
)
def test_a_damaged_record_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "fetched.json").write_bytes(content)
    with pytest.raises(UserError, match=r"fetched.json is damaged .*: remove .* and fetch it again") as caught:
        read_record(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("exists", [True, False])
def test_a_planted_link_is_not_written_through(hub: Hub, downloader: Downloader, tmp_path: Path, exists: bool) -> None:
    victim = tmp_path / "victim"
    if exists:
        victim.write_bytes(b"precious")
    downloader.folder.mkdir()
    part = downloader.folder / f"{FILE.sha256}.part"
    part.symlink_to(victim)
    with pytest.raises(UserError, match=r"\.part is a link, and benchkit did not make it: remove it"):
        downloader.get(FILE)
    assert hub.requests == []
    assert victim.exists() == exists
    assert not exists or victim.read_bytes() == b"precious"
    part.unlink()
    assert downloader.get(FILE).read_bytes() == DATA


def test_a_link_that_comes_after_the_look_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "x.part").symlink_to(tmp_path / "victim")
    for mode in ("ab", "wb"):
        with pytest.raises(OSError, match=r"x\.part"), open(tmp_path / "x.part", mode, opener=_no_link):
            pass
    assert (tmp_path / "victim").read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["", "raw", "new", "raw/sub", "raw/data.parquet"])
def test_a_planted_link_in_a_stage_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("BENCHKIT_CACHE", str(tmp_path / "cache"))
    victim = tmp_path / "victim"
    victim.mkdir()
    link = tmp_path / "cache" / "hub" / "downloads" / "data-x" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(victim)
    with pytest.raises(UserError, match="is a link, and benchkit did not make it"), staged("data-x", Lines()):
        pass
    assert list(victim.iterdir()) == []


def test_a_copy_of_a_given_file_goes_through_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk can have no second name for a file."""

    def refuse(*_: object) -> None:
        raise OSError

    monkeypatch.setattr("os.link", refuse)
    monkeypatch.setenv("BENCHKIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "small.json").write_bytes(b"{}")
    (tmp_path / "victim").write_bytes(b"precious")
    with staged("data-x", Lines()) as stage:
        (stage.raw / "small.json.part").symlink_to(tmp_path / "victim")  # the name that was used once
        stage.take(replace(REPOSITORY, files={"small.json": SMALL}), ["small.json"], tmp_path / "mine")
        assert (stage.raw / "small.json").read_bytes() == b"{}"
    assert (tmp_path / "victim").read_bytes() == b"precious"
