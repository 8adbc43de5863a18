"""The embedded encoder is what it is said to be, and worth more than random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import benchkit
from benchkit.core.plugins import load_plugins
from benchkit.encoder import save_encoder
from benchkit.encoder.checkpoint import untrained

FOLDER = Path(__file__).parents[2] / "plugins" / "benchkit_demo" / "embedded"


def test_it_has_the_shape_that_its_summary_says() -> None:
    spec, encoder = load_plugins().encoders["embedded"], benchkit.load_encoder("embedded")
    config = encoder.config
    assert f"{config.num_hidden_layers} layers of {config.hidden_size}" in spec.summary
    assert encoder.notes == ()
    assert encoder.encode(["a film", "a dull film"], pooling="mean").shape == (2, 128)


def test_transformers_reads_the_same_encoder() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertModel.from_pretrained(FOLDER, add_pooling_layer=False).float().eval()
    tokenizer = transformers.BertTokenizerFast.from_pretrained(FOLDER)
    text = "The plot is thin, but I'd see it again!"
    with torch.inference_mode():
        wanted = theirs(**tokenizer([text], return_tensors="pt")).last_hidden_state.mean(1)
    found = benchkit.load_encoder("embedded").encode([text], pooling="mean", precision="fp32")
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_its_frozen_features_beat_random_weights_on_the_demo(tmp_path: Path) -> None:
    """As `make run` shows it: the first phase of the demo, one head, beside the same encoder untrained."""
    save_encoder(untrained(benchkit.load_encoder("embedded")), tmp_path / "random")
    scores = {}
    for encoder in ("embedded", str(tmp_path / "random")):
        table = benchkit.run(heads=["baseline"], encoder=encoder, phases=["pretrain"], out=tmp_path / "run").table()
        table = table[(table["split"] == "test") & (table["head"] == "baseline")]
        scores[encoder] = table.set_index("task")["mean"]
    own, random = scores.values()
    for task in ("sst", "quora", "sts"):
        assert own[task] > random[task], (task, scores)
