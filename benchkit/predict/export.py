"""An exported folder: head, encoder and tokenizer, and back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import benchkit
from benchkit.core.errors import UserError
from benchkit.core.plugins import load_plugins
from benchkit.core.record import Record
from benchkit.core.settings import plain
from benchkit.core.task import TaskShape
from benchkit.encoder import load_encoder, save_encoder
from benchkit.experiment.config import choose_device
from benchkit.experiment.workspace import build_head
from benchkit.predict.model import Model, Question, fill_head
from benchkit.store.features import FeatureSettings
from benchkit.store.files import writing


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path`, to be filled; renamed to it in the end, or removed if filling it fails.

    Raises:
        UserError: `path` is there and not empty, or cannot be written.
    """
    path = path.absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} is there already: choose another name, or remove it first")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        inside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        try:
            yield inside
            inside.chmod(0o755)
            inside.replace(path)
        except BaseException:
            shutil.rmtree(inside, ignore_errors=True)
            raise


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


FORMAT = 1
CONFIG, HEAD, ENCODER = "benchkit.json", "head.safetensors", "encoder"


def write_export(model: Model, record: Record, folder: Path, more: Callable[[Path], None] | None = None) -> None:
    """Write a folder that `load_exported` reads; it is there only when it is whole.

    Args:
        record: of the cell that the model comes from.
        more: adds files of its own, given the folder.

    Raises:
        UserError: the folder is there and not empty, or cannot be written.
    """
    with new_folder(folder) as inside:
        save_encoder(model.encoder, inside / ENCODER)
        weights = {name: value.detach().cpu().clone() for name, value in model.head.state_dict().items()}
        save_file(weights, inside / HEAD, metadata={"format": "pt", "cell": record.key})
        config = _config(model, record, hashlib.sha256((inside / HEAD).read_bytes()).hexdigest())
        (inside / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
        if more:
            more(inside)
        (inside / "README.md").write_text(readme(model, record, inside), "utf-8")


def load_exported(folder: str | Path, *, head_files: Sequence[str | Path] = (), device: str = "cpu") -> Model:
    """The model of a folder that `benchkit export` wrote; `load_exported(…).predict(task, texts)` gives the answers.

    Args:
        head_files: the Python file of a head that is not installed; a folder holds no code.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        UserError: there is no such folder, a file in it is missing or damaged, or the head is not installed.
    """
    folder, where = Path(folder), choose_device(device)
    config = _read_config(folder)
    encoder = load_encoder(folder / ENCODER)
    if encoder.fingerprint != config["encoder"]["fingerprint"]:
        raise UserError(f"{folder / ENCODER} is not the encoder that was exported: copy or export the folder again")
    encoder.name = config["encoder"]["name"]
    spec = load_plugins(map(Path, head_files)).head(config["head"]["name"])
    features = {**config["features"], "layers": tuple(config["features"]["layers"]), "device": where.type}
    settings = FeatureSettings(**features)
    questions = {each["shape"]["name"]: _question(each) for each in config["tasks"]}
    shapes = [question.shape for question in questions.values()]
    head = build_head(spec, spec.configure(config["head"]["config"]), encoder, settings, shapes)
    fill_head(head, _read_weights(folder / HEAD, config["head"]["sha256"]), spec)
    changed = spec.source() != config["head"]["source"]
    return Model(
        name=config["name"],
        encoder=encoder.to(where).eval(),
        head=head.to(where).eval(),
        questions=questions,
        settings=settings,
        joint=config["joint"],
        tuned=config["tuned"],
        threads=config["threads"],
        notes=(f"the source of head {spec.name!r} is not what it was at the export",) if changed else (),
    )


def _config(model: Model, record: Record, sha256: str) -> dict[str, Any]:
    head = record.identity["head"]
    features = {name: value for name, value in plain(model.settings).items() if name != "device"}
    return {
        "format": FORMAT,
        "benchkit": benchkit.__version__,
        "name": model.name,
        "cell": record.key,
        "head": {"name": record.head, "config": head["config"], "source": head["source"], "sha256": sha256},
        "encoder": {"name": model.encoder.name, "fingerprint": model.encoder.fingerprint},
        "features": features,
        "joint": model.joint,
        "tuned": model.tuned,
        "threads": model.threads,
        "tasks": [dataclasses.asdict(question) for question in model.questions.values()],
        "scores": [dataclasses.asdict(score) for score in record.phases[-1].scores],
    }


def _question(values: Mapping[str, Any]) -> Question:
    aliases = {name: tuple(others) for name, others in values["aliases"].items()}
    return Question(TaskShape(**values["shape"]), tuple(values["texts"]), tuple(values["classes"]), aliases)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} holds no {CONFIG}: give a folder that benchkit export wrote") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): export again") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise UserError(f"{path} is not of the format {FORMAT} that this benchkit reads: export again")
    return config


def _read_weights(path: Path, sha256: str) -> dict[str, Any]:
    try:
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise UserError(f"{path} is not what was exported: copy or export the folder again")
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}): copy or export the folder again") from error
