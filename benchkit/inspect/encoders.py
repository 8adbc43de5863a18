"""`benchkit encoders list` and `show` as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from benchkit.core.errors import UserError
from benchkit.core.plugins import Plugins
from benchkit.encoder import Encoder, MiniBert
from benchkit.encoder.bert import POOLINGS, BertConfig
from benchkit.encoder.checkpoint import model_folder, read_config, weight_files
from benchkit.experiment.workspace import weights_folders
from benchkit.hub.download import Fetched, read_record
from benchkit.hub.encoders import fetched_encoders, pooling_advice
from benchkit.inspect.heads import columns, paragraph, short_path

# A few that load, of every size; shapes and parameters as published.
KNOWN = (
    ("google/bert_uncased_L-2_H-128_A-2", "2×128", "4.4 M", "the smallest of Google's 24"),
    ("sentence-transformers/paraphrase-MiniLM-L3-v2", "3×384", "17.4 M", "sentence encoder"),
    ("sentence-transformers/all-MiniLM-L6-v2", "6×384", "22.7 M", "sentence encoder, a good start"),
    ("BAAI/bge-small-en-v1.5", "12×384", "33.4 M", "sentence encoder, pooled by cls"),
    ("thenlper/gte-small", "12×384", "33.4 M", "sentence encoder"),
    ("distilbert/distilbert-base-uncased", "6×768", "66.4 M", "plain"),
    ("google-bert/bert-base-uncased", "12×768", "109.5 M", "the report's; plain"),
)


def available(plugins: Plugins) -> list[tuple[str, str, str, str]]:
    """Name, shape, parameters and origin of every encoder that `--encoder` finds by name. Weights are not read."""
    rows = [
        (name, "", "", f"plugin {plugins.owners['encoder', name]}: {spec.summary}")
        for name, spec in plugins.encoders.items()
    ]
    rows += [(folder.name, *_by_config(folder), "a folder in $BENCHKIT_WEIGHTS") for folder in weights_folders()]
    for repo, folder in fetched_encoders().items():
        record = read_record(folder)
        assert record is not None
        rows.append((repo, *_by_config(folder), f"fetched, {record.revision[:12]}"))
    return rows


def _by_config(folder: Path) -> tuple[str, str]:
    try:
        inner = model_folder(folder)
        config, _ = read_config(inner / "config.json", folder.name)
        _, files = weight_files(inner)
    except UserError as error:
        return "–", f"unusable: {error}"
    with torch.device("meta"):  # nothing is allocated
        model = MiniBert(config, pooler=_has_pooler(files))
    return shape(config), millions(sum(weight.numel() for weight in model.parameters()))


def _has_pooler(files: Iterable[Path]) -> bool:
    """Whether the weights hold one; pickled ones are not opened and taken to have one."""
    names = set[str]()
    try:
        for path in files:
            with safe_open(path, "pt") as file:
                names.update(file.keys())
    except (OSError, SafetensorError):
        return True
    return any("pooler" in name for name in names)


def shape(config: BertConfig) -> str:
    return f"{config.num_hidden_layers}×{config.hidden_size}"


def millions(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M"


def render_list(here: Sequence[tuple[str, ...]]) -> str:
    """What is here, then what could be fetched."""
    names = {row[0] for row in here}
    more = [row for row in KNOWN if row[0] not in names]
    head = ("encoder", "shape", "parameters")
    parts = [columns((*head, "from"), here, right=("parameters",))] if here else ["No encoder is here."]
    if more:
        parts.append("On Hugging Face, a few of many: benchkit encoders fetch ID\n\n" + columns((*head, "what"), more))
    return "\n\n".join(parts)


def render_encoder(encoder: Encoder, folder: Path | None) -> str:
    """Shape, parameters, memory, vocabulary, layers and pooling of an encoder."""
    record = read_record(folder) if folder else None
    config, vocabulary = encoder.config, encoder.tokenizer.get_vocab_size()
    rows = [
        ("from", _origin(folder, record)),
        ("shape", f"{config.num_hidden_layers} layers of {config.hidden_size}, {config.num_attention_heads} heads, "
                  f"feed-forward {config.intermediate_size:,}, {config.hidden_act}"),
        ("parameters", f"{millions(encoder.parameters)}: {_parts(encoder)}"),
        ("memory", f"{_mib(encoder, 4)} in fp32, {_mib(encoder, 2)} in bf16; training takes four times as much"),
        ("vocabulary", f"{vocabulary:,} word pieces, {_case(encoder)}; up to {config.max_position_embeddings} a text"),
        ("layers", f"0, the embeddings, to {config.num_hidden_layers}, the last: --set layers=0,-1"),
        ("pooling", _pooling(encoder, folder)),
        ("fingerprint", encoder.fingerprint),
        *(("note", note) for note in encoder.notes),
    ]  # fmt: skip
    width = max(len(name) for name, _ in rows)
    lines = [paragraph(f"  {name:<{width}}  {text}", " " * (width + 4)) for name, text in rows]
    return "\n".join([encoder.name, *lines])


def _origin(folder: Path | None, record: Fetched | None) -> str:
    if folder is None:
        return "a plugin"
    if record is None:
        return short_path(str(folder))
    return f"{record.repo} at {record.revision}, licence {record.licence or 'not stated'}, in {short_path(str(folder))}"


def _parts(encoder: Encoder) -> str:
    model = encoder.model
    groups = {
        "embeddings": (model.word, model.position, model.segment, model.norm),
        "layers": (model.layers,),
        "pooler": (model.pooler,) if model.pooler else (),
    }
    counts = {
        name: sum(weight.numel() for module in modules for weight in module.parameters())
        for name, modules in groups.items()
    }
    return ", ".join(f"{name} {millions(count)}" for name, count in counts.items() if count)


def _mib(encoder: Encoder, width: int) -> str:
    return f"{encoder.parameters * width / 2**20:,.0f} MiB"


def _case(encoder: Encoder) -> str:
    pieces = encoder.tokenizer.encode("A").tokens
    return "lower-cased" if pieces == encoder.tokenizer.encode("a").tokens else "cased"


def _pooling(encoder: Encoder, folder: Path | None) -> str:
    poolings = [name for name in POOLINGS if name != "pooler" or encoder.model.pooler]
    trained = pooling_advice(folder) if folder else ""
    if trained in poolings:
        return f"{trained}, as its 1_Pooling/config.json says it was trained: --set pooling={trained}"
    if trained:
        return f"trained with {trained}, which is not one of {', '.join(poolings)}"
    return f"{', '.join(poolings)}; nothing says which it was trained with; frozen, mean is the safe choice"
