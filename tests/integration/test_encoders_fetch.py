"""`benchkit encoders list`, `fetch`, `show` and `convert`, and `--encoder ID`, against a hub on the loopback."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import CONFIG, VOCAB
from helpers.hub import COMMIT, Fault, Hub, benchkit, call, serving, use, variables
from helpers.progress import Silent
from safetensors.torch import load_file

from benchkit.core.errors import UserError
from benchkit.core.plugins import load_plugins
from benchkit.encoder import Encoder, load_encoder, random_encoder, save_encoder
from benchkit.experiment.workspace import open_encoder
from benchkit.hub.download import RETRIES, read_record
from benchkit.hub.encoders import encoders_root, fetch_encoder, fetched_encoders

ID = "somebody/tiny-bert"
POOLING = json.dumps({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}).encode()


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return random_encoder("tiny", VOCAB, CONFIG, seed=0)


@pytest.fixture(scope="module")
def content(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    folder = tmp_path_factory.mktemp("tiny")
    save_encoder(encoder, folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    others = {"README.md": b"x", "tf_model.h5": b"x" * 99, "onnx/model.onnx": b"x", "rust_model.ot": b"x"}
    return files | others | {"vocab.txt": "\n".join(VOCAB).encode() + b"\n", "1_Pooling/config.json": POOLING}


@pytest.fixture
def hub(content: Mapping[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as hub:
        hub.add(f"models/{ID}", content)
        use(hub, tmp_path, monkeypatch)
        monkeypatch.delenv("BENCHKIT_WEIGHTS", raising=False)
        yield hub


def fetch(repo: str = ID, revision: str = "") -> Path:
    fetch_encoder(repo, revision, Silent())
    return encoders_root() / repo


def pickled(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_fetched_is_what_was_there(hub: Hub, encoder: Encoder) -> None:
    folder = fetch()
    assert load_encoder(folder).fingerprint == encoder.fingerprint
    record = read_record(folder)
    assert record is not None
    assert (record.revision, record.fingerprint, record.licence) == (COMMIT, encoder.fingerprint, "apache-2.0")
    assert record.parameters == encoder.parameters


def test_only_what_is_needed_is_fetched(hub: Hub) -> None:
    folder = fetch()
    needed = {"config.json", "model.safetensors", "tokenizer.json", "vocab.txt", "1_Pooling/config.json"}
    assert {path.partition(f"/resolve/{COMMIT}/")[2] for _, path, _ in hub.requests if "/resolve/" in path} == needed
    kept = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert kept == needed | {"fetched.json"}


def test_a_cut_download_goes_on(hub: Hub, encoder: Encoder) -> None:
    hub.fail("model.safetensors", Fault(cut=777), Fault(500))
    assert load_encoder(fetch()).fingerprint == encoder.fingerprint
    assert [headers.get("range") for headers in hub.asked("model.safetensors")] == [None, "bytes=777-", "bytes=777-"]


def test_wrong_weights_are_refused(hub: Hub) -> None:
    hub.fail("model.safetensors", *[Fault(change=lambda data: data[:-1] + b"!")] * 2)
    with pytest.raises(UserError, match=r"its sha256 is .*; by hand: get the files of somebody/tiny-bert at 0123"):
        fetch()
    assert fetched_encoders() == {}


def test_again_asks_nothing_but_for_another_revision(hub: Hub, content: Mapping[str, bytes]) -> None:
    fetch()
    asked = len(hub.requests)
    fetch()
    fetch(revision=COMMIT[:12])
    assert len(hub.requests) == asked
    hub.repos[f"models/{ID}"].files["f" * 40] = dict(content)
    hub.repos[f"models/{ID}"].branches["main"] = "f" * 40
    fetch(revision="main")
    record = read_record(encoders_root() / ID)
    assert record is not None
    assert record.revision == "f" * 40


def test_what_another_revision_left_behind_does_not_get_in(hub: Hub, encoder: Encoder) -> None:
    hub.fail("model.safetensors", *[Fault(500)] * (RETRIES + 1))
    with pytest.raises(UserError):
        fetch()
    without = {name: data for name, data in hub.repos[f"models/{ID}"].files[COMMIT].items() if "Pool" not in name}
    hub.add(f"models/{ID}", without, commit="e" * 40)
    folder = fetch()
    assert not (folder / "1_Pooling").exists()
    assert load_encoder(folder).fingerprint == encoder.fingerprint


def test_pickled_weights_become_safetensors(hub: Hub, encoder: Encoder, content: Mapping[str, bytes]) -> None:
    others = {name: data for name, data in content.items() if name != "model.safetensors"}
    tensors = _old_names(encoder)
    hub.add("models/old", others | {"pytorch_model.bin": pickled(tensors)})
    folder = fetch("old")
    assert (folder / "model.safetensors").is_file()
    assert not (folder / "pytorch_model.bin").exists()
    assert load_encoder(folder).fingerprint == encoder.fingerprint
    record = read_record(folder)
    assert record is not None
    assert record.source["pytorch_model.bin"].startswith("sha256:")


def _old_names(encoder: Encoder) -> dict[str, torch.Tensor]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        save_encoder(encoder, folder)
        tensors = load_file(Path(folder) / "model.safetensors")
    return {f"bert.{name}": tensor for name, tensor in tensors.items()} | {"cls.predictions.bias": torch.zeros(3)}


class Evil:
    """What a pickle could do when it is read as more than tensors."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("evil-was-here"),))


def test_a_pickle_is_read_as_tensors_alone(
    hub: Hub, content: Mapping[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    others = {name: data for name, data in content.items() if name != "model.safetensors"}
    hub.add("models/evil", others | {"pytorch_model.bin": pickled({"a": Evil()})})
    with pytest.raises(UserError, match=r"holds Python objects \(getattr\)"):
        fetch("evil")
    assert not (tmp_path / "evil-was-here").exists()
    assert fetched_encoders() == {}


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"config.json": b'{"model_type": "mpnet"}'}, r"has no model.safetensors and no pytorch_model.bin"),
        (
            {"config.json": b'{"model_type": "mpnet"}', "model.safetensors": b"x"},
            r"a/b at 0123456789ab: model_type is 'mpnet' \(its attention has a relative position bias\)",
        ),
        ({"config.json": b"{}", "tf_model.h5": b"x"}, r"has its weights for TensorFlow alone"),
        ({"config.json": b"{}", "flax_model.msgpack": b"x"}, r"has its weights for Flax alone"),
        ({"config.json": b"{}", "model.safetensors.index.json": b"x"}, r"has its weights in several files"),
        ({"model.safetensors": b"x"}, r"has no config.json: it is not an encoder"),
    ],
)
def test_what_cannot_be_loaded_is_refused_before_its_weights(hub: Hub, files: dict[str, bytes], reason: str) -> None:
    hub.add("models/a/b", files)
    with pytest.raises(UserError, match=reason):
        fetch("a/b")
    assert hub.asked("model.safetensors") == []


def test_no_tokenizer(hub: Hub, content: Mapping[str, bytes]) -> None:
    hub.add("models/a/b", {name: content[name] for name in ("config.json", "model.safetensors")})
    with pytest.raises(UserError, match=r"has no tokenizer.json and no vocab.txt"):
        fetch("a/b")


def test_ids_that_cannot_be(hub: Hub) -> None:
    for name in ("../x", "a/b/c", "a b", ""):
        with pytest.raises(UserError, match="cannot be on the hub"):
            fetch(name)


def test_an_encoder_is_found_by_id_and_by_its_last_part(hub: Hub, encoder: Encoder, tmp_path: Path) -> None:
    plugins = load_plugins()
    with pytest.raises(UserError, match=f"; if it is on Hugging Face: benchkit encoders fetch {ID}"):
        open_encoder(ID, plugins)
    with pytest.raises(UserError, match="; if it is on Hugging Face: benchkit encoders fetch tiny-bert"):
        open_encoder("tiny-bert", plugins)
    fetch()
    for name in (ID, "tiny-bert"):
        assert open_encoder(name, plugins).fingerprint == encoder.fingerprint
    assert open_encoder(ID, plugins).name == "tiny-bert"
    hub.add("models/other/tiny-bert", hub.repos[f"models/{ID}"].files[COMMIT])
    fetch("other/tiny-bert")
    with pytest.raises(UserError, match=r"unknown encoder 'tiny-bert'.*known: .*other/tiny-bert, somebody/tiny-bert"):
        open_encoder("tiny-bert", plugins)


def test_list_and_show(hub: Hub, encoder: Encoder, capsys: pytest.CaptureFixture[str]) -> None:
    assert "benchkit encoders fetch ID" in call(capsys, "encoders", "list")
    fetch()
    listed = call(capsys, "encoders", "list")
    assert f"{ID}  " in listed
    assert "2×32" in listed
    assert "demo" in listed
    shown = call(capsys, "encoders", "show", ID)
    for text in ("2 layers of 32", "4 heads", "mean, as its 1_Pooling/config.json says", COMMIT, "apache-2.0",
                 encoder.fingerprint, f"{len(VOCAB)} word pieces, lower-cased", "0, the embeddings, to 2"):  # fmt: skip
        assert text in " ".join(shown.split()), text
    assert max(len(line) for line in (listed + shown).splitlines() if "/tmp" not in line) <= 100
    assert "a plugin" in call(capsys, "encoders", "show", "demo")


def test_convert(hub: Hub, encoder: Encoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch()
    call(capsys, "encoders", "convert", ID, str(tmp_path / "new"))
    assert load_encoder(tmp_path / "new").fingerprint == encoder.fingerprint
    assert (tmp_path / "new" / "1_Pooling" / "config.json").read_bytes() == POOLING
    with pytest.raises(UserError, match="is there already"):
        call(capsys, "encoders", "convert", ID, str(tmp_path / "new"))


def test_the_command_and_the_hub_s_own_cache_offline(hub: Hub, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download

    env = variables(hub, tmp_path)
    offline = env | {"HF_HUB_OFFLINE": "1"}
    done = benchkit("encoders", "fetch", ID, env=offline)
    assert done.returncode == 2
    assert done.stderr == (
        f"benchkit: error: cannot fetch {hub.url}/{ID}: HF_HUB_OFFLINE is set; "
        f"by hand: get the files of {ID} at main elsewhere and give their folder: --encoder DIR\n"
    )
    for name in ("config.json", "vocab.txt", "model.safetensors"):
        hf_hub_download(ID, name, endpoint=hub.url, cache_dir=tmp_path / "hf" / "hub")
    hub.requests.clear()
    done = benchkit("encoders", "fetch", ID, env=offline)
    assert done.returncode == 0, done.stderr
    assert f"{ID} at {COMMIT}, 0.0 M parameters" in done.stdout
    assert hub.requests == []
