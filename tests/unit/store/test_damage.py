"""What is damaged, or not what was asked, is never served."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.stores import POOLED, TOKENS, WORDS, Store, encoder, sentences

from benchkit.core.errors import UserError
from benchkit.store.features import FeatureSettings, FeatureStore
from benchkit.store.files import cache_root


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how.startswith("cut"):
        path.write_bytes(content[: int(float(how[3:]) * len(content))])
    elif how.startswith("flip"):
        at = int(float(how[4:]) * (len(content) - 1))
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    elif how == "longer":
        path.write_bytes(content + b"\0")
    elif how == "misnamed":
        path.replace(path.with_name(f"{'0' * 64}.safetensors"))


HOWS = [
    "cut0",
    "cut0.004",
    "cut0.2",
    "cut0.7",
    "cut0.999",
    "flip0",
    "flip0.1",
    "flip0.5",
    "flip1",
    "longer",
    "misnamed",
]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("settings", [POOLED, TOKENS], ids=["pooled", "tokens"])
def test_a_damaged_segment_is_encoded_again(store: Store, settings: FeatureSettings, how: str) -> None:
    whole = store.table(encoder(), sentences(20), settings)
    expected = whole.pooled.clone()
    sound = store.segments(settings)
    damaged(sound[1], how)
    fresh = Store(store.root)
    assert fresh.missing(encoder(), sentences(20), settings) in (4, 8)
    table = fresh.table(encoder(), sentences(20), settings)
    assert table.report.encoded in (4, 8)
    assert torch.equal(table.pooled, expected)
    (line,) = fresh.lines
    assert line.startswith("removed ")
    assert "encoded again" in line
    assert store.segments(settings) == sound  # the same bits, so the same names


def test_damage_is_noticed_within_a_process(store: Store) -> None:
    store.table(encoder(), sentences(20), POOLED)
    damaged(store.segments()[0], "flip0.9")
    table = store.table(encoder(), sentences(20), POOLED)
    assert table.report.encoded > 0
    assert len(store.lines) == 1


def test_a_segment_of_another_store_is_not_served(store: Store) -> None:
    store.table(encoder(), sentences(8), POOLED)
    other = dataclasses.replace(POOLED, pooling="mean")
    theirs = store.table(encoder(), sentences(8), other)
    (ours,), (path,) = store.segments(), store.segments(other)
    ours.replace(path.with_name(ours.name))
    path.unlink()
    table = store.table(encoder(), sentences(8), other)
    assert table.report.encoded == 8
    assert torch.equal(table.pooled, theirs.pooled)
    assert "belongs to another store" in store.lines[0]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b"[" * 5000])
def test_damaged_settings_are_written_again(store: Store, content: bytes) -> None:
    store.table(encoder(), sentences(8), POOLED)
    path = store.segments()[0].with_name("settings.json")
    original = path.read_bytes()
    path.write_bytes(content)
    assert store.table(encoder(), sentences(8), POOLED).report.encoded == 0
    assert path.read_bytes() == original
    assert len(store.lines) == 1


def test_a_full_disk_leaves_whole_segments_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("may not mount a tmpfs")
    try:
        store = Store(folder)
        with pytest.raises(UserError, match=r"cannot write .*: No space left on device; free some space"):
            store.table(encoder(), sentences(200), TOKENS)
        kept = store.segments(TOKENS)
        left = [path.name for path in kept[0].parent.iterdir()]
        assert sorted(left) == sorted([*(path.name for path in kept), "lock", "settings.json"])
        assert Store(folder).missing(encoder(), sentences(200), TOKENS) == 200 - 8 * len(kept)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        # What is there is served without a write.
        assert store.table(encoder(), sentences(8), TOKENS).report.encoded == 0
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


SCRIPT = f"""if True:
    import os, signal, sys, time
    sys.path[:0] = [{str(Path(__file__).parents[2])!r}, {str(Path(__file__).parent)!r}]
    from pathlib import Path
    from test_features import POOLED, TOKENS, Store, encoder, sentences
    root = Path(sys.argv[1])


"""


def test_a_killed_process_loses_a_chunk_and_changes_no_number(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "killed"
    code = """
    for count in sys.stdin:  # a fork each, so that torch is imported once
        if not (child := os.fork()):
            Store(root).table(encoder(), sentences(1200), TOKENS)
            os._exit(0)
        while len(list(root.rglob("*.safetensors"))) < int(count):
            time.sleep(0.0007)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print("killed", flush=True)
    """
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT + code, str(root)]
    found = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for i in range(8):
            print(3 + 7 * i, file=process.stdin, flush=True)
            assert process.stdout.readline() == "killed\n"
            found.append(Store(root).missing(encoder(), sentences(1200), TOKENS))
        process.stdin.close()
    assert found == sorted(found, reverse=True)  # what was stored stays
    assert 0 < found[-1] < 1200
    resumed = Store(root)
    table = resumed.table(encoder(), sentences(1200), TOKENS)
    assert table.report.encoded == found[-1]
    assert resumed.lines == []  # a kill damages nothing
    whole = store.table(encoder(), sentences(1200), TOKENS)
    assert torch.equal(table.pooled, whole.pooled)
    assert [path.name for path in resumed.segments(TOKENS)] == [path.name for path in store.segments(TOKENS)]
    assert list(resumed.segments(TOKENS)[0].parent.glob(".*")) == []


def test_processes_encode_together_once(tmp_path: Path) -> None:
    code = """
    print("ready", flush=True)
    sys.stdin.readline()
    table = Store(root).table(encoder(), sentences(400), POOLED)
    print(table.report.encoded, float(table.pooled.double().sum()).hex())
    """
    command = [sys.executable, "-c", SCRIPT + code, str(tmp_path)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    outputs = [process.communicate("go\n", timeout=60)[0].split() for process in processes]
    assert sorted(int(count) for count, _ in outputs) == [0, 400]
    assert len({total for _, total in outputs}) == 1


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BENCHKIT_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("BENCHKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "benchkit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "benchkit"


def test_a_stored_table_opens_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = [(f"the {WORDS[i % 14]} {WORDS[i // 14 % 14]} saw {'a ' * (i // 196)}cat",) for i in range(2000)]
    inputs = list(dict.fromkeys(inputs))
    FeatureStore(tmp_path).table(encoder(), inputs, POOLED)
    started = time.perf_counter()
    FeatureStore(tmp_path).table(encoder(), inputs, POOLED)
    took = time.perf_counter() - started
    with capsys.disabled():
        print(f"\n{len(inputs)} stored inputs opened in {took:.3f} s")
    assert took < 1
