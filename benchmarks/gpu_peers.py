"""What others need for the same work, measured beside ours. Imports what may not be installed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from made_up import SHAPES

from benchkit.data import load_data
from benchkit.encoder import BertConfig, Encoder, random_encoder, resolve_precision, save_encoder
from benchkit.plugins import load_plugins


def sentence_transformers(setting: Any) -> Iterator[dict[str, Any]]:
    """H2: distinct strings to vectors, 6×384: its fp32 defaults, and bf16 with large batches."""
    texts = demo_texts()[: 200 if setting.smoke else None]
    encoder = worded_encoder(setting.small).to(setting.device)
    precision = resolve_precision("auto", setting.device)
    ours = setting.seconds(lambda: encoder.encode(texts, precision=precision))
    yield {"what": f"benchkit {precision}, texts/s", "value": f"{len(texts) / ours:,.0f}", "target": ""}
    try:
        import sentence_transformers as theirs
    except ImportError:
        yield {"what": "sentence-transformers", "value": "not installed", "target": "20× and 4×"}
        return
    with tempfile.TemporaryDirectory() as folder:
        save_encoder(encoder, Path(folder))
        for label, options, batch, target in (
            ("defaults", {}, 32, "20× (28×)"),
            ("bf16, batches of 512", {"dtype": "bfloat16"}, 512, "4× (6×)"),
        ):
            body = theirs.models.Transformer(folder, model_args=options)
            model = theirs.SentenceTransformer(
                modules=[body, theirs.models.Pooling(encoder.hidden)], device=str(setting.device)
            )
            spent = setting.seconds(lambda: model.encode(texts, batch_size=batch, show_progress_bar=False))  # noqa: B023
            what = f"× sentence-transformers {theirs.__version__}, {label} ({len(texts) / spent:,.0f} texts/s)"
            yield {"what": what, "value": f"{spent / ours:.1f}", "target": target}


def demo_texts() -> list[str]:
    """All distinct texts of the demo, as many times over as make it worth measuring, each time in other words."""
    plugins = load_plugins()
    data = load_data("demo", list(map(plugins.task, ("sst", "quora", "sts"))))
    texts = {text for splits in data.values() for row in splits["train"].texts for text in row}
    return [f"{text} {number}" for number in range(20) for text in sorted(texts)]


def worded_encoder(shape: str) -> Encoder:
    """Random weights, and the demo encoder's words."""
    words = load_plugins().encoders["demo"].load().tokenizer.get_vocab()
    layers, hidden, heads = SHAPES[shape]
    config = BertConfig(len(words), hidden, layers, heads, 4 * hidden)
    return random_encoder("random", sorted(words, key=words.__getitem__), config, seed=0)
