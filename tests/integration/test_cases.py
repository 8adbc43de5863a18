"""Small inputs that users met, from a folder that `BENCHKIT_CASES` names: each gets the right answer."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from benchkit_cs224n import benchkit_tasks
from safetensors.torch import save_file

from benchkit.core.errors import UserError
from benchkit.core.plugins import load_plugins
from benchkit.core.protocol import load_file
from benchkit.data import Split, load_data
from benchkit.encoder import BertConfig, load_encoder
from benchkit.encoder.bert import MiniBert
from benchkit.encoder.checkpoint import names

pytestmark = pytest.mark.real
QUORA = [task for task in benchkit_tasks() if task.name == "quora"]


@pytest.fixture(scope="module")
def cases() -> Path:
    folder = os.environ.get("BENCHKIT_CASES")
    if not folder:
        pytest.skip("$BENCHKIT_CASES is not set")
    return Path(folder)


@pytest.fixture
def quora(cases: Path, tmp_path: Path) -> Callable[[str], tuple[list[str], Split]]:
    """The lines of a case, and what is read of it."""

    def read(name: str) -> tuple[list[str], Split]:
        (tmp_path / "quora").mkdir()
        for split in ("train", "dev"):
            shutil.copy(cases / name, tmp_path / "quora" / f"{split}.{name.rpartition('.')[2]}")
        found = load_data(tmp_path, QUORA)["quora"]["dev"]
        return (cases / name).read_text("utf-8").splitlines(), found

    return read


def test_quotes_that_pair_up_over_rows(quora: Callable[[str], tuple[list[str], Split]]) -> None:
    lines, found = quora("quotes-pair-up-over-30-rows.quora-dev.csv")
    assert len(found) == len(lines) - 1 == 80
    firsts = [line.split("\t")[2] for line in lines[1:]]
    assert [texts[0] for texts in found.texts] == firsts
    assert sum('"' in first for first in firsts) == 2


def test_a_tsv_with_the_quoting_of_csv(cases: Path, quora: Callable[[str], tuple[list[str], Split]]) -> None:
    name = "pandas-to_csv-sep-tab.quora-dev.tsv"
    _, found = quora(name)
    with (cases / name).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [tuple(texts) for texts in found.texts] == [(row["sentence1"], row["sentence2"]) for row in rows]
    assert not any('""' in text for texts in found.texts for text in texts)
    assert any('"' in text for texts in found.texts for text in texts)


def test_a_header_with_capitals(quora: Callable[[str], tuple[list[str], Split]]) -> None:
    lines, found = quora("header-Sentence1-capital.quora-dev.tsv")
    assert [tuple(texts) for texts in found.texts] == [tuple(line.split("\t")[1:3]) for line in lines[1:]]
    assert found.labels.tolist() == [int(line.split("\t")[3]) for line in lines[1:]]


def test_a_protocol_with_a_byte_order_mark(cases: Path) -> None:
    protocol = load_file(cases / "protocol-with-BOM.toml", load_plugins().tasks, load_plugins().heads)
    assert (protocol.pooling, protocol.encoder) == ("mean", "embedded")


def test_a_head_without_a_mark(cases: Path) -> None:
    """It is from a time when `benchkit.nn.blocks` was `benchkit.blocks`: that is said too."""
    told = r"it is now benchkit\.nn\.blocks; and benchkit_heads is there without @hookimpl"
    with pytest.raises(UserError, match=told):
        load_plugins([cases / "head-without-hookimpl.py"])


@pytest.mark.parametrize("rows", [85, 88])
def test_an_encoder_with_added_tokens(rows: int, cases: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = shutil.copytree(cases / "bert-with-added_tokens", tmp_path / "bert", copy_function=shutil.copyfile)
    config = {**json.loads((folder / "config.json").read_text()), "vocab_size": rows}
    (folder / "config.json").write_text(json.dumps(config))
    shape = BertConfig.from_json(config, "")
    model = MiniBert(shape, pooler=False)
    tensors = {
        name: torch.randn_like(part) * 0.02
        for ours, theirs in names(shape, pooler=False)
        for name, part in zip(theirs, model.get_parameter(ours).chunk(len(theirs)), strict=True)
    }
    save_file(tensors, folder / "model.safetensors")
    tokenizer = load_encoder(folder).tokenizer
    theirs = transformers.BertTokenizer.from_pretrained(folder)
    for text in ("read <url> and the film", "<url>", "the dog<url>."):
        assert tokenizer.encode(text).ids == theirs(text)["input_ids"]
    assert tokenizer.encode("read <url>").ids.count(84) == 1
