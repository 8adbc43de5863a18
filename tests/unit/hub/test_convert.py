"""Converting an encoder: whole or not at all, through no planted link, and once where several do it at once."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.checkpoints import CONFIG, VOCAB

from benchkit.core.errors import UserError
from benchkit.encoder import Encoder, load_encoder, random_encoder
from benchkit.hub.encoders import convert_encoder


@pytest.fixture
def encoder() -> Encoder:
    return random_encoder("tiny", VOCAB, CONFIG, seed=0)


def test_a_planted_link_is_not_followed(encoder: Encoder, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("x")
    work = tmp_path / "work"
    work.mkdir()
    (work / ".new.part").symlink_to(victim)  # the name that was used once
    convert_encoder(encoder, None, work / "new")
    assert [path.name for path in victim.iterdir()] == ["precious"]
    assert sorted(path.name for path in work.iterdir()) == [".new.part", "new"]
    assert load_encoder(work / "new").fingerprint == encoder.fingerprint
    assert stat.S_IMODE((work / "new").stat().st_mode) == stat.S_IMODE(work.stat().st_mode)


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_in_the_place_of_the_folder_is_refused(encoder: Encoder, tmp_path: Path, exists: bool) -> None:
    if exists:
        (tmp_path / "victim").mkdir()
    (tmp_path / "new").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="is there already: name a new folder"):
        convert_encoder(encoder, None, tmp_path / "new")
    assert not exists or not any((tmp_path / "victim").iterdir())


def test_several_at_once(encoder: Encoder, tmp_path: Path) -> None:
    def convert(number: int) -> str:
        try:
            convert_encoder(random_encoder("tiny", VOCAB, CONFIG, seed=0), None, tmp_path / "deep" / "new")
        except UserError as error:
            return str(error)
        return "done"

    with ThreadPoolExecutor(6) as pool:
        ends = list(pool.map(convert, range(6)))
    assert ends.count("done") == 1
    assert set(ends) - {"done"} == {f"{tmp_path / 'deep' / 'new'} is there already: name a new folder"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["new"]
    assert load_encoder(tmp_path / "deep" / "new").fingerprint == encoder.fingerprint


def test_a_failure_leaves_nothing(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("benchkit.encoder.checkpoint.save", fail)
    with pytest.raises(RuntimeError):
        convert_encoder(encoder, None, tmp_path / "new")
    assert not any(tmp_path.iterdir())
