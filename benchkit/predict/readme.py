"""The README.md of an exported folder: what it holds, and how to use it, as code that runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchkit.predict.model import Model, Question
from benchkit.record import Record

_SENTENCES = '["A gripping film.", "Dull and far too long."]'
_PAIRS = '[("A man is eating.", "Someone is eating."), ("A man is eating.", "The cat is asleep.")]'


def readme(model: Model, record: Record, folder: Path) -> str:
    """Markdown; `folder` is what has been written so far."""
    graphs = sorted(each.name for each in folder.glob("onnx/*.onnx"))
    return "\n".join(
        [
            f"# {model.name} on {model.encoder.name}",
            "",
            *_contents(model, record, graphs),
            "",
            "## Use",
            "",
            "In this folder, with benchkit and the head's plugin installed:",
            "",
            "```python",
            *_example(model),
            "```",
            "",
            *(_onnx(model, graphs) if graphs else []),
            "## Scores",
            "",
            "| task | split | metric | value |",
            "|---|---|---|---|",
            *(f"| {s.task} | {s.split} | {s.metric} | {s.value:.4f} |" for s in record.phases[-1].scores),
            "",
        ]
    )


def _contents(model: Model, record: Record, graphs: list[str]) -> Iterator[str]:
    trained = "trained along with the head" if model.tuned else "as it was before, and frozen"
    yield f"Made by `benchkit export` from the cell `{record.key}`."
    yield ""
    yield f"* `encoder/`: the encoder, {trained}, in the Hugging Face layout"
    yield "* `head.safetensors`: the weights of the head"
    yield "* `benchkit.json`: the head's name and config, the tasks, and how texts become features"
    for name in graphs:
        yield f"* `onnx/{name}`: encoder and head of one task, from word pieces to the answer, in fp32"


def _example(model: Model) -> Iterator[str]:
    yield "import benchkit"
    yield ""
    yield 'model = benchkit.load_exported(".")'
    for task, question in model.questions.items():
        yield f'for answer in model.predict("{task}", {_PAIRS if len(question.texts) == 2 else _SENTENCES}):'
        yield f"    print(answer.texts, {_shown(question)})"


def _shown(question: Question) -> str:
    return "answer.label, answer.probabilities" if question.classes else "answer.value"


def _onnx(model: Model, graphs: list[str]) -> Iterator[str]:
    task = graphs[0].removesuffix(".onnx")
    question = model.questions[task]
    pair = len(question.texts) == 2
    yield f"With onnxruntime and tokenizers alone, here for {task}:"
    yield ""
    yield "```python"
    yield "import numpy as np"
    yield "import onnxruntime"
    yield "from tokenizers import Tokenizer"
    yield ""
    yield 'tokenizer = Tokenizer.from_file("encoder/tokenizer.json")'
    yield 'tokenizer.enable_padding(pad_id=tokenizer.token_to_id("[PAD]"))'
    yield f"tokenizer.enable_truncation({min(model.settings.max_length, model.encoder.config.max_position_embeddings)})"
    yield f"examples = {_PAIRS if pair else _SENTENCES}"
    yield f'session = onnxruntime.InferenceSession("onnx/{graphs[0]}")'
    if pair and not model.joint:
        # One call for all sentences, so that both sides are padded to one length.
        yield "rows = tokenizer.encode_batch([text for pair in examples for text in pair])"
        yield "ids = np.array([row.ids for row in rows])"
        yield "mask = np.array([row.attention_mask for row in rows])"
        yield 'feed = {"input_ids": ids[::2], "attention_mask": mask[::2]}'
        yield 'feed |= {"input_ids_2": ids[1::2], "attention_mask_2": mask[1::2]}'
    else:
        yield "rows = tokenizer.encode_batch(examples)"
        yield 'feed = {"input_ids": np.array([row.ids for row in rows])}'
        yield 'feed["attention_mask"] = np.array([row.attention_mask for row in rows])'
        if pair:
            yield 'feed["token_type_ids"] = np.array([row.type_ids for row in rows])'
    yield "print(session.run(None, feed)[0])"
    yield "```"
    yield ""
