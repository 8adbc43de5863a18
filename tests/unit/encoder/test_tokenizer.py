"""Tokens that were added later: the same ids as transformers gives, for `vocab.txt` and `tokenizer.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.checkpoints import VOCAB

from benchkit.encoder.tokenizer import load_tokenizer

transformers = pytest.importorskip("transformers")

TEXTS = ["a <url> b", "<url><url>", "A <URL> b", "a<url>b", "<e1> a </e1>", "[NEW] a", "a [new]", "<url", ""]
ADDED = {"<url>": 14, "<e1>": 15, "</e1>": 16, "[NEW]": 17}
_NO = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": False}
DECODER = {
    "0": _NO | {"content": "[PAD]", "special": True},
    "14": _NO | {"content": "<url>", "lstrip": True, "normalized": True},
    "15": _NO | {"content": "[NEW]", "single_word": True, "special": True},
}

FOLDERS: dict[str, dict[str, Any]] = {
    "added_tokens": {"added_tokens.json": ADDED, "tokenizer_config.json": {"do_lower_case": True}},
    "cased": {"added_tokens.json": ADDED, "tokenizer_config.json": {"do_lower_case": False}},
    "special": {
        "added_tokens.json": ADDED,
        "special_tokens_map.json": {"additional_special_tokens": ["[NEW]"], "cls_token": "[CLS]"},
    },
    "special by its present name": {
        "added_tokens.json": ADDED,
        "tokenizer_config.json": {"extra_special_tokens": ["[NEW]", "<e1>"]},
    },
    "decoder": {"tokenizer_config.json": {"added_tokens_decoder": DECODER}},
    "decoder wins": {"added_tokens.json": {"<e1>": 14}, "tokenizer_config.json": {"added_tokens_decoder": DECODER}},
    "in the vocabulary": {"added_tokens.json": {"b": 6}},
}


@pytest.mark.parametrize("files", FOLDERS.values(), ids=FOLDERS.keys())
@pytest.mark.parametrize("fast", [False, True], ids=["vocab.txt", "tokenizer.json"])
def test_added_tokens_are_transformers(tmp_path: Path, files: dict[str, Any], fast: bool) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    theirs = transformers.BertTokenizerFast.from_pretrained(tmp_path)
    if fast:
        theirs.save_pretrained(tmp_path / "fast")
        tmp_path = tmp_path / "fast"
        theirs = transformers.BertTokenizerFast.from_pretrained(tmp_path)
    ours, _ = load_tokenizer(tmp_path, 32)
    assert [ours.encode(text).ids for text in TEXTS] == [theirs(text).input_ids for text in TEXTS]
    assert ours.get_vocab_size() == len(theirs)


def test_an_added_token_is_one_piece(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    (tmp_path / "added_tokens.json").write_text('{"<url>": 14}')
    for table in (15, 16):  # the vocabulary and one, and padded to a multiple of 8
        tokenizer, notes = load_tokenizer(tmp_path, table)
        assert (tokenizer.encode("a <url>").ids, notes) == ([2, 5, 14, 3], ())
