"""Data sets fetched from a hub on the loopback: checked, split, placed, recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.hub import COMMIT, Fault, Hub, serving, use
from helpers.hub_sets import CONTENT, QUORA, ROWS, SMALL, SST, pairs, parquet, sst
from helpers.progress import Silent

from benchkit.core.errors import UserError
from benchkit.core.plugins import load_plugins
from benchkit.data import load_data
from benchkit.hub.datasets import data_root, fetch_set, split_pairs
from benchkit.hub.download import RETRIES, git_blob, read_record, sha256_of


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as hub:
        for repo, content in CONTENT.items():
            hub.add(f"datasets/{repo}", content)
        use(hub, tmp_path, monkeypatch)
        yield hub


def fetch(task: str, revision: str = "", by_hand: Path | None = None) -> dict[str, int]:
    record = fetch_set(SMALL[task], Silent(), revision, by_hand)
    return dict(record.rows)


def test_all_three_and_what_is_fetched_can_be_trained_on(hub: Hub) -> None:
    for task in SMALL:
        fetch(task)
    tasks = load_plugins().tasks
    data = load_data(data_root(), [tasks[name] for name in SMALL])
    assert {name: len(split) for name, split in data["sst"].items()} == ROWS["sst"]
    assert {name: len(split) for name, split in data["sts"].items()} == ROWS["sts"]
    assert sum(len(split) for split in data["quora"].values()) == 400
    assert all(split.labelled for splits in data.values() for split in splits.values())
    assert not (data_root().parent / "downloads").exists() or not list((data_root().parent / "downloads").glob("*/*"))


def test_pinned_files_need_no_question(hub: Hub) -> None:
    fetch("sst")
    assert [path.rpartition("/")[2] for _, path, _ in hub.requests] == ["train.jsonl", "dev.jsonl", "test.jsonl"]


def test_the_record_says_what_it_is(hub: Hub) -> None:
    fetch("sst")
    record = read_record(data_root() / "sst")
    assert record is not None
    assert (record.repo, record.revision, record.pinned) == (SST.repo, COMMIT, "benchkit")
    assert record.source == {file.path: f"sha256:{file.sha256}" for file in SMALL["sst"].files}
    assert record.files == {name: sha256_of(data_root() / "sst" / name) for name in record.files}
    assert "Socher" in record.citation
    assert "CS224N" in record.splits


def test_a_second_fetch_asks_nothing_and_a_damaged_file_is_fetched_again(hub: Hub) -> None:
    fetch("sst")
    asked = len(hub.requests)
    fetch("sst")
    assert len(hub.requests) == asked
    (data_root() / "sst" / "dev.jsonl").write_bytes(sst(10, "forged"))
    fetch("sst")
    assert (data_root() / "sst" / "dev.jsonl").read_bytes() == CONTENT[SST.repo]["dev.jsonl"]


def test_another_revision_is_recorded_with_what_the_hub_says_of_it(hub: Hub) -> None:
    fetch("sst")
    newer = "f" * 40
    content = CONTENT[SST.repo] | {"dev.jsonl": sst(7, "new")}
    hub.repos[f"datasets/{SST.repo}"].files[newer] = content
    hub.repos[f"datasets/{SST.repo}"].branches["main"] = newer
    assert fetch("sst", revision="main") == {"train": 20, "dev": 7, "test": 10}
    record = read_record(data_root() / "sst")
    assert record is not None
    assert (record.revision, record.pinned) == (newer, "hub")
    assert record.source["dev.jsonl"] == f"git:{git_blob(data_root() / 'sst' / 'dev.jsonl')}"
    assert fetch("sst") == ROWS["sst"]  # the pinned one again


def test_a_failure_leaves_what_was_there(hub: Hub) -> None:
    fetch("sst")
    hub.repos[f"datasets/{SST.repo}"].files["e" * 40] = CONTENT[SST.repo]
    hub.fail("test.jsonl", *[Fault(500)] * (RETRIES + 1))
    with pytest.raises(UserError, match="HTTP 500"):
        fetch("sst", revision="e" * 40)
    record = read_record(data_root() / "sst")
    assert record is not None
    assert record.revision == COMMIT


def test_pinned_bytes_that_differ_are_refused(hub: Hub) -> None:
    hub.fail("dev.jsonl", *[Fault(change=lambda data: data.replace(b"films", b"filth"))] * 2)
    with pytest.raises(
        UserError, match=r"dev.jsonl is not what was expected: its sha256 is .*by hand: get train.jsonl"
    ):
        fetch("sst")
    assert not (data_root() / "sst").exists()


def test_rows_that_are_missing_are_refused(hub: Hub) -> None:
    source = replace(SMALL["sst"], rows={"train": 21, "dev": 10, "test": 10})
    with pytest.raises(UserError, match=r"SetFit/sst5 has .*'train': 20.* rows, not .*'train': 21"):
        fetch_set(source, Silent())


def test_by_hand(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("train.jsonl", "dev.jsonl"):
        (folder / name).write_bytes(CONTENT[SST.repo][name])
    with pytest.raises(UserError, match=r"no test.jsonl in .*mine: put it there"):
        fetch("sst", by_hand=folder)
    (folder / "test.jsonl").write_bytes(b"{}")
    with pytest.raises(UserError, match=r"test.jsonl is not what was expected: it has 2 bytes"):
        fetch("sst", by_hand=folder)
    (tmp_path / "elsewhere").write_bytes(CONTENT[SST.repo]["test.jsonl"])
    (folder / "test.jsonl").unlink()
    (folder / "test.jsonl").symlink_to("../elsewhere")  # as in the hub's own cache
    assert fetch("sst", by_hand=folder) == ROWS["sst"]
    assert not any(path.is_symlink() for path in (data_root() / "sst").iterdir())
    assert hub.requests == []


def test_the_hub_s_own_cache_is_used_where_it_is_right(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import hf_hub_download

    file = SMALL["quora"].files[0]
    copy = hf_hub_download(QUORA.repo, file.path, repo_type="dataset", revision=COMMIT, endpoint=hub.url)
    hub.requests.clear()
    fetch("quora")
    assert hub.requests == []
    Path(copy).resolve().write_bytes(b"broken")
    (data_root() / "quora" / "fetched.json").unlink()
    fetch("quora")
    assert len(hub.requests) == 1


def test_quora_is_split_by_the_pair_alone(tmp_path: Path) -> None:
    rows = pairs(4000)
    (tmp_path / "a.parquet").write_bytes(parquet(rows))
    turned = [{"sentence1": r["sentence2"], "sentence2": r["sentence1"], "label": r["label"]} for r in rows[:1000]]
    (tmp_path / "b.parquet").write_bytes(parquet([*turned, *rows[1000:1500]]))
    first, second = (split_pairs(tmp_path / name) for name in ("a.parquet", "b.parquet"))

    def keys(splits: object, split: str) -> set[frozenset[object]]:
        return {frozenset((row["sentence1"], row["sentence2"])) for row in splits[split]}  # type: ignore[index]

    assert all(keys(second, split) <= keys(first, split) for split in first)
    assert {split: len(rows) / 4000 for split, rows in first.items()} == pytest.approx(
        {"train": 0.85, "dev": 0.05, "test": 0.10}, abs=0.015
    )
