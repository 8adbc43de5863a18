"""`benchkit pretrain`: learns, can be killed, goes on, and is read by transformers."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from benchkit.cli import cli
from benchkit.core.errors import UserError
from benchkit.encoder import load_encoder

SMALL = ("--layers", "1", "--hidden", "32", "--heads", "2", "--max-length", "16", "--dropout", "0.1", "--batch", "256")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences in which the animal decides the food, the place and the end."""
    draw, path = random.Random(0), tmp_path_factory.mktemp("corpus") / "toy.txt"
    words = ["".join(draw.choices("bcdfglmnprst", k=4)) for _ in range(24)]
    kinds = [words[start : start + 3] for start in range(0, 24, 3)]
    lines = [f"{animal} eats {food} in {place} {number}" for number in range(60) for animal, food, place in kinds]
    path.write_text("\n".join(lines))
    return path


def pretrain(*arguments: object) -> str:
    """Run the command in this process; its output."""
    done = CliRunner().invoke(cli, ["pretrain", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def curve(out: Path) -> list[dict[str, str]]:
    with (out / "curve.csv").open() as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "toy"
    said = pretrain(corpus, "--out", out, *SMALL, "--steps", 160, "--every", 20, "--lr", 5e-3, "--held-out", 0.1)
    assert f"use it with --encoder {out}" in said
    return out


def test_a_toy_corpus_is_learnt_beyond_its_frequencies(trained: Path) -> None:
    record = json.loads((trained / "pretrain.json").read_text())
    result, unigram = record["result"], record["unigram"]
    first, last = curve(trained)[0], curve(trained)[-1]
    assert float(first["held_out_loss"]) == pytest.approx(unigram["loss"], abs=0.2)
    assert result["held_out_loss"] < 0.7 * unigram["loss"]
    assert float(last["loss"]) < 0.7 * unigram["loss"]
    assert result["held_out_accuracy"] > unigram["accuracy"] + 0.2
    assert record["status"] == "done"
    assert record["texts"] == {"train": 432, "held_out": 48}
    assert record["sources"][0]["name"] == "toy.txt"
    assert result["step"] == 160
    assert (trained / "curve.png").stat().st_size > 10_000
    assert not (trained / "checkpoint.pt").exists()


def test_killed_and_called_again_it_ends_with_the_same_bits(trained: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "toy"
    asked = [corpus, "--out", out, *SMALL, "--steps", 160, "--every", 20, "--lr", 5e-3, "--held-out", 0.1]
    process = subprocess.Popen([sys.executable, "-m", "benchkit", "pretrain", *map(str, asked)], stderr=subprocess.PIPE)
    while process.poll() is None and not ((out / "curve.csv").exists() and len(curve(out)) >= 3):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert json.loads((out / "pretrain.json").read_text())["status"] == "running"
    assert load_encoder(out).encode(["a"]).isfinite().all()  # of use already
    said = pretrain(*asked)
    assert "done already" in said
    assert curve(out) == curve(trained)
    for name in ("model.safetensors", "tokenizer.json", "vocab.txt", "config.json"):
        assert (out / name).read_bytes() == (trained / name).read_bytes(), name
    assert "steps" in pretrain(*asked)  # finished: told again, not trained again
    with pytest.raises(UserError, match=r"holds another pre-training \(learning_rate differ\): choose another --out"):
        pretrain(*asked[:-3], 1e-3, *asked[-2:])


def test_stopped_in_its_first_checkpoint_it_has_no_row_twice(corpus: Path, tmp_path: Path) -> None:
    asked = [corpus, *SMALL, "--steps", 4, "--every", 2, "--held-out", 0.1, "--out"]
    pretrain(*asked, tmp_path / "whole")

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchkit.pretraining.write_folder", stop)
        done = CliRunner().invoke(cli, ["pretrain", *map(str, asked), str(tmp_path / "cut")])
    assert done.exit_code == 130, done.output
    assert (tmp_path / "cut" / "checkpoint.pt").exists()
    pretrain(*asked, tmp_path / "cut")
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"status": "done"}', '{"identity": []}', '{"identity": {"recipe": 1}}']
)
def test_a_damaged_record_is_one_line(content: str, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "pretrain.json").write_text(content)
    with pytest.raises(UserError, match=r"pretrain\.json") as caught:
        pretrain(corpus, "--out", tmp_path, *SMALL, "--steps", 1)
    assert "\n" not in str(caught.value)


def test_transformers_reads_it_with_equal_logits(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from transformers import AutoTokenizer, BertForMaskedLM

    from benchkit.encoder.packing import gather
    from benchkit.pretraining.masked_lm import MaskedLm, read_head

    found: Any = BertForMaskedLM.from_pretrained(trained, output_loading_info=True)
    theirs, loading = found
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    text = "bcdf eats mnpr in [MASK] 7"
    inputs = AutoTokenizer.from_pretrained(trained)(text, return_tensors="pt")
    encoder = load_encoder(trained)
    tokenized = encoder.tokenize([(text,)])
    assert inputs["input_ids"][0].tolist() == tokenized.ids.tolist()
    ours = MaskedLm(encoder.model)
    assert read_head(ours, trained)
    batch = gather(tokenized, torch.tensor([0]), torch.device("cpu"), padded=False)
    with torch.no_grad():
        logits = ours.eval()(batch, batch.ids, torch.arange(len(batch.ids)))
        torch.testing.assert_close(logits, theirs.eval()(**inputs).logits[0], atol=1e-5, rtol=1e-5)


def test_it_goes_on_from_a_checkpoint_with_its_vocabulary_and_head(trained: Path, corpus: Path, tmp_path: Path) -> None:
    pretrain(corpus, "--from", trained, "--out", tmp_path / "on", "--steps", 8, "--held-out", 0.1, "--half",
             "--whole-word", "--max-length", 99, "--batch", 256)  # fmt: skip
    record = json.loads((tmp_path / "on" / "pretrain.json").read_text())
    assert record["head"] == "kept"
    assert record["identity"]["recipe"]["learning_rate"] == 5e-5
    assert (tmp_path / "on" / "vocab.txt").read_bytes() == (trained / "vocab.txt").read_bytes()
    before, first = curve(trained)[-1], curve(tmp_path / "on")[0]
    assert float(first["held_out_loss"]) == pytest.approx(float(before["held_out_loss"]), abs=1e-4)
    assert load_encoder(tmp_path / "on").fingerprint != load_encoder(trained).fingerprint
    half, full = ((folder / "model.safetensors").stat().st_size for folder in (tmp_path / "on", trained))
    assert half < 0.6 * full


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "no texts: name files, or with --data a folder"),
        (("--tasks", "sst"), "--tasks chooses among the tasks of --data DIR"),
        (("nothing.txt",), "cannot read nothing.txt: No such file"),
        (("bytes.txt",), "bytes.txt is not UTF-8 text"),
        (("cut.txt.gz",), "cut.txt.gz is not a whole gzip file"),
        (("one.txt",), "one.txt: 1 distinct texts; at least two are needed"),
        (("table.tsv",), "table.tsv has columns a, b: say with --column which hold text"),
        (("table.tsv", "--column", "aa"), "table.tsv: unknown column 'aa'; did you mean 'a'"),
        (("--data", "nowhere"), "data folder nowhere does not exist"),
        (("--data", "."), "no training split of any task in ."),
        (("two.txt", "--vocab-size", 6), "a vocabulary of 6 does not hold the 8 special pieces"),
        (("two.txt", "--heads", 3), "no such encoder: 3 heads do not divide hidden_size 256"),
        (("two.txt", "--layers", 2**31), "num_hidden_layers must be a whole number from 1 to 1,024"),
        (("two.txt", "--layers", 1000, "--hidden", 65536), "GiB of memory"),
        (("two.txt", "--steps", 10**30), "steps must be from 0 to 1,000,000,000"),
        (("two.txt", "--epochs", 1e300), "epochs must be more than 0, and at most 1,000,000"),
        (("two.txt", "--batch", 10**12), "batch must be from 8 to 16,777,216"),
        (("two.txt", "--mask", 1.5), "mask is a share between 0 and 1, not 1.5"),
        (("two.txt", "--schedule", "round"), "schedule is one of constant, linear, cosine"),
        (("two.txt", "--from", "nowhere"), "unknown encoder 'nowhere'"),
        (("two.txt", "--from", "demo", "--layers", 3, "--cased"), "--layers, --cased: an encoder that is gone on with"),
        (("two.txt", "--out", "full"), "full holds an encoder that was not made here"),
        (("two.txt", "--steps", 20, "--every", 20, "--lr", 1e30, "--hidden", 16), "the loss is nan by step 20"),
    ],
)
def test_mistakes_are_one_line(
    arguments: tuple[object, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in (("one", b"a\na\n"), ("two", b"a b\nb c\nc a b\n"), ("bytes", b"a\n\xff\n")):
        Path(f"{name}.txt").write_bytes(content)
    Path("cut.txt.gz").write_bytes(b"\x1f\x8b\x08")
    Path("table.tsv").write_text("a\tb\n1\t2\n")
    Path("full").mkdir()
    Path("full/config.json").write_text("{}")
    with pytest.raises(UserError) as caught:
        pretrain("--out", "new", *arguments)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
