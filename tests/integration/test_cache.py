"""`benchkit cache`: listed, cleared but never while in use, verified."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.course import call
from helpers.stores import POOLED, TOKENS, Store, encoder, sentences

from benchkit.store.files import Cache, caches, last_used


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Two feature stores, and a folder of someone else's."""
    monkeypatch.setenv("BENCHKIT_CACHE", str(tmp_path))
    store = Store(tmp_path)
    store.table(encoder(), sentences(20), POOLED)
    store.table(encoder(), sentences(20), TOKENS)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_bytes(b"12345")
    return store


def listed(store: Store) -> dict[str, Cache]:
    return {cache.name: cache for cache in caches(store.root)}


def test_list_says_what_is_there(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "cache", "list") == 0
    text = capsys.readouterr().out
    words = " ".join(text.split())
    for part in ("tiny", "pooled, cls, layers", "tokens, mean", "other"):
        assert part in words
    assert max(map(len, text.splitlines())) <= 100
    assert call(monkeypatch, "cache", "list", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["kind"] for each in found] == ["features", "features", "other"]
    assert found[0]["bytes"] == sum(path.stat().st_size for path in Path(found[0]["path"]).glob("*.safetensors"))
    assert found[2]["bytes"] == 5


@pytest.mark.parametrize("content", ["[" * 5000, "{}", '{"encoder": 3}', "\\ud800"])
def test_damaged_settings_are_listed_as_such(
    content: str, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store.segments()[0].with_name("settings.json").write_text(content)
    assert call(monkeypatch, "cache", "list") == 0
    assert "settings.json is missing or damaged" in " ".join(capsys.readouterr().out.split())


def test_what_was_cleared_is_encoded_again_and_the_rest_is_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    key = store.key(encoder(), POOLED)
    assert call(monkeypatch, "cache", "clear", key[:6], "--yes") == 0
    assert key not in listed(store)
    assert len(listed(store)) == 2
    assert (store.root / "features" / key / "lock").exists()  # whoever waits for it waits for this file
    assert Store(store.root).table(encoder(), sentences(20), POOLED).report.encoded == 20
    assert Store(store.root).table(encoder(), sentences(20), TOKENS).report.encoded == 0
    assert call(monkeypatch, "cache", "clear", "other", "-y") == 0
    assert "other" not in listed(store)
    assert call(monkeypatch, "cache", "clear", "--all", "-y") == 0
    assert listed(store) == {}


def test_age_counts_from_the_last_use(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    old = time.time() - 40 * 86400
    for path in (store.root / "features").rglob("*"):
        os.utime(path, (old, old))
    assert {round(cache.used) for cache in caches(store.root) if cache.kind == "features"} == {round(old)}
    store.table(encoder(), sentences(3), TOKENS)
    assert last_used(store.root / "features" / store.key(encoder(), TOKENS)) > time.time() - 60
    assert call(monkeypatch, "cache", "clear", "--older-than", "30d", "-y") == 0
    assert set(listed(store)) == {store.key(encoder(), TOKENS), "other"}


def test_without_a_yes_nothing_is_removed(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda text: "n")
    assert call(monkeypatch, "cache", "clear", "--all") == 130
    assert len(listed(store)) == 3


def test_what_another_process_holds_is_left_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = store.key(encoder(), POOLED)
    script = "import sys, filelock; a = filelock.FileLock(sys.argv[1]); a.acquire(); print('held', flush=True); input()"
    command = [sys.executable, "-c", script, str(store.root / "features" / key / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert call(monkeypatch, "cache", "clear", "--all", "-y") == 1
        holder.communicate("\n")
    assert "left alone, a process is using it" in capsys.readouterr().err
    assert set(listed(store)) == {key, "other"}
    assert Store(store.root).table(encoder(), sentences(20), POOLED).report.encoded == 0


def test_verify_names_what_is_damaged_and_the_next_run_repairs_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "cache", "verify") == 0
    assert "2 caches, 6 segments: all sound" in capsys.readouterr().out
    path = store.segments()[1]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert call(monkeypatch, "cache", "verify") == 1
    text = capsys.readouterr().out
    assert f"damaged: {path}: its content is not what its name says" in text
    assert "1 damaged; their texts are encoded again" in text
    assert Store(store.root).table(encoder(), sentences(20), POOLED).report.encoded in (4, 8)  # of 20, by eights
    assert call(monkeypatch, "cache", "verify") == 0


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "say what to clear"),
        (("--all", "--older-than", "1d"), "say what to clear"),
        (("--older-than", "soon"), "takes hours, days or weeks"),
        (("nothing",), "unknown cache 'nothing'"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: tuple[str, ...],
    part: str,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, "cache", "clear", *arguments, "-y") == 2
    assert part in capsys.readouterr().err
    assert len(listed(store)) == 3


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"[" * 5000, b'{"encoder": 3}', b'{"encoder": "a", "settings": []}']
)
def test_damaged_settings_are_shown_as_such_and_can_be_cleared(
    content: bytes, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = store.key(encoder(), POOLED)
    (store.root / "features" / key / "settings.json").write_bytes(content)
    assert call(monkeypatch, "cache", "list") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(key[:12])]
    assert "settings.json is missing or damaged" in line
    assert call(monkeypatch, "cache", "list", "--json") == 0
    assert {each["name"]: each["settings"] for each in json.loads(capsys.readouterr().out)}[key] == {}
    assert call(monkeypatch, "cache", "clear", key[:6], "--yes") == 0
    assert key not in listed(store)


def test_an_empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("BENCHKIT_CACHE", str(tmp_path / "none"))
    assert call(monkeypatch, "cache", "list") == 0
    assert call(monkeypatch, "cache", "clear", "--all", "-y") == 0
    assert call(monkeypatch, "cache", "verify") == 0
    assert "nothing is stored" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()
