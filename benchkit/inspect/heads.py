"""Heads and encoders as text and diagrams."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from benchkit.core.errors import UserError
from benchkit.core.features import Layers, Pooled, Tokens
from benchkit.core.head import Choice, HeadSpec, Range, count
from benchkit.core.plugins import Plugin, Plugins
from benchkit.core.task import TaskShape, TaskSpec
from benchkit.encoder import Encoder, MiniBert
from benchkit.encoder.bert import POOLINGS
from benchkit.encoder.checkpoint import model_folder, read_config, weight_files
from benchkit.experiment.cell import loss_names
from benchkit.experiment.config import Plan, Request, resolve
from benchkit.experiment.open_cell import Assembly
from benchkit.experiment.workspace import Workspace, weights_folders
from benchkit.hub import read_record
from benchkit.hub.encoders import fetched_encoders, pooling_advice
from benchkit.inspect import NO_BREAK, columns, paragraph, short_path
from benchkit.inspect.diagram import Figure, axes, figure, label, meaning
from benchkit.inspect.structure import LENGTH, Branch, Structure, structure
from benchkit.inspect.trace import encoder_macs
from benchkit.store.files import cache_root
from benchkit.testing import one_line


@dataclass(frozen=True)
class Shown:
    """Everything about one head; `plugin` is where it comes from."""

    assembly: Assembly
    plugin: Plugin
    structure: Structure

    @property
    def spec(self) -> HeadSpec:
        return self.assembly.spec

    @property
    def encoder(self) -> Encoder:
        return self.assembly.encoder

    @property
    def about(self) -> str:
        """The encoder's size, and how its hidden states become features."""
        protocol, encoder = self.assembly.protocol, self.encoder
        size = f"{encoder.config.num_hidden_layers} layers of {encoder.hidden}"
        if self.assembly.features.apart:
            return f"{size} · {protocol.pooling} pooling of each"
        where = "" if protocol.layers == (-1,) else f" of {', '.join(map(str, protocol.layers))} side by side"
        return f"{size} · {protocol.pooling} pooling{where}"

    @property
    def figure(self) -> Figure:
        return figure(self.structure, f"encoder {self.encoder.name}", self.about)

    def losses(self) -> str:
        """The loss of each task, and whether the head chose it."""
        spec, config, tasks = self.spec, self.assembly.config, self.assembly.tasks
        names = loss_names(spec, config, tasks, self.assembly.protocol)
        asked = {shape.name for shape in self.assembly.shapes if spec.loss and spec.loss(config, shape)}
        return "; ".join(f"{names[task.name]} for {task.name}{' (asked for)' * (task.name in asked)}" for task in tasks)


@dataclass(frozen=True)
class Setup:
    """A resolved request of `benchkit run` with its encoder loaded, to inspect and time heads without data."""

    plan: Plan
    plugins: Plugins
    encoder: Encoder
    tasks: tuple[TaskSpec, ...]

    @staticmethod
    def open(request: Request, plugins: Plugins) -> Setup:
        """Resolve a request and load its encoder.

        Raises:
            UserError: the request cannot be resolved (see `resolve`), or the encoder cannot be used.
        """
        plan = resolve(request, plugins)
        workspace = Workspace(plugins, cache_root(), lambda line: None)
        encoder = workspace.encoder(plan.encoder).to(plan.execution.device).eval()
        return Setup(plan, plugins, encoder, tuple(workspace.tasks(plan.protocol)))

    @property
    def device(self) -> torch.device:
        return torch.device(self.plan.execution.device)

    @property
    def shapes(self) -> tuple[TaskShape, ...]:
        return self.plan.protocol.shapes(self.tasks)

    def assembly(self, head: str, precision: str = "fp32") -> Assembly:
        """The parts that a head is built from.

        Raises:
            UserError: the head or the protocol reads features that the encoder does not have.
        """
        spec, config = self.plugins.head(head), self.plan.configs[head]
        return Assembly.of(spec, config, self.plan.protocol, self.tasks, self.encoder, precision, self.device)

    def shown(self, name: str) -> Shown:
        """Build a head, run it and describe it.

        Raises:
            UserError: the head cannot be built, does not run, or reads features that the encoder does not have.
        """
        assembly = self.assembly(name)
        plugin = next(each for each in self.plugins.plugins if name in each.heads)
        layers = len(assembly.features.layers)
        found = structure(assembly.spec, assembly.config, width_of(assembly), assembly.shapes, layers)
        return Shown(assembly, plugin, found)


def width_of(assembly: Assembly) -> int:
    """Width of a feature vector. The layers are concatenated unless the head reads them separately."""
    return assembly.encoder.hidden * (1 if assembly.features.apart else len(assembly.features.layers))


def render_heads(setup: Setup) -> str:
    """One line per head with its parameters, then the errors of heads and plugins that do not work."""
    rows, notes = [], []
    for name in setup.plan.heads:
        spec, owner, parameters = setup.plugins.head(name), setup.plugins.owners["head", name], "—"
        try:
            with torch.device("meta"):
                parameters = f"{count(setup.assembly(name).build()):,}"
        except Exception as error:  # noqa: BLE001 - a stranger's head may raise anything
            notes.append(f"{name} ({owner}) cannot be built: {one_line(error)}")
        rows.append((name, _reads(spec.reads), parameters, owner, spec.summary))
    tasks = ", ".join(shape.name for shape in setup.shapes)
    where = f"Parameters on encoder {setup.encoder.name} (hidden {setup.encoder.hidden}) for the tasks {tasks}."
    notes += [f"plugin {each.name} is broken: {each.error}" for each in setup.plugins.broken]
    table = columns(("head", "reads", "parameters", "plugin", "summary"), rows, right=("parameters",))
    return "\n\n".join([table, "\n".join(paragraph(line) for line in (where, *notes))])


def render_head(shown: Shown) -> str:
    config = _config(shown.spec, shown.assembly.config)
    return "\n\n".join((_facts(shown), _layers(shown), _parameters(shown), _work(shown), config))


def _facts(shown: Shown) -> str:
    spec, found = shown.spec, shown.structure
    pairs = ", ".join(branch.task.name for branch in found.branches if branch.task.segments == 2)
    home = f"{shown.plugin.distribution}, " if shown.plugin.distribution else ""
    facts = {
        "from": home + short_path(shown.plugin.path),
        "encoder": f"{shown.encoder.name}, {shown.about.replace(' · ', ', ')}",
        "reads": f"{_reads(spec.reads)}; hidden is {found.width}"
        + (f", segment is 2 for the pairs of {pairs}" if pairs else ""),
        "symmetric": "yes: a pair's sentences may change places" if spec.symmetric else "not declared",
        "loss": shown.losses(),
    }
    lines = [paragraph(f"{name:<11}{text}", " " * 11) for name, text in facts.items()]
    return "\n".join([paragraph(f"{spec.name}: {spec.summary}"), "", *lines])


def _layers(shown: Shown) -> str:
    """All layers in order, shared ones once. A layer lists its inputs by number unless it reads only the one before."""
    found, rows = shown.structure, list[tuple[str, ...]]()
    shared = "shared by all tasks" if len(found.branches) > 1 else "trunk"
    groups = [(shared, found.widest, range(found.shared))]
    for branch in found.branches:
        what = "a pair" if branch.task.segments == 2 else "one input"
        title = f"{branch.task.name}: {what}, {meaning(branch.task)}"
        groups.append((title, branch, range(found.shared, len(branch.layers))))
    for title, branch, numbers in groups:
        inside = [_row(branch, number) for number in numbers if not branch.layers[number].is_feature]
        rows += [(title, "", "", "", ""), *inside] if inside or title != shared else []
    return columns(("layer", "output", "parameters", "MACs", "in the head"), rows, right=("parameters", "MACs"))


def _row(branch: Branch, number: int) -> tuple[str, ...]:
    layer = branch.layers[number]
    before = max((i for i in range(number) if not branch.layers[i].is_feature), default=None)
    takes = {i: branch.layers[i] for i in layer.inputs}
    source = ""
    if layer.inputs != (before,) and not (before is None and all(each.is_feature for each in takes.values())):
        sources = [each.kind if each.is_feature else str(i) for i, each in takes.items()]
        source = f"  ←{NO_BREAK}{f',{NO_BREAK}'.join(sources) or 'nothing'}"
    return (
        f"  {number:>2} {label(layer).replace(' → ', f'{NO_BREAK}→{NO_BREAK}')}{source}",
        axes(layer),
        f"{layer.parameters:,}" if layer.parameters else "",
        _short_number(layer.macs) if layer.macs else "",
        "" if layer.is_function else layer.path,
    )


def _parameters(shown: Shown) -> str:
    found = shown.structure
    counts = found.parameters
    parts = [f"{counts['trunk']:,} in the trunk"] if shown.spec.trunk else []
    parts += [f"{branch.parameters:,} for {branch.task.name} alone" for branch in found.branches]
    more = found.common - counts["trunk"]
    parts += [f"{more:,} for several tasks outside the trunk"] if more > 0 else []
    parts += [f"{found.idle:,} that no task uses"] if found.idle else []
    total = f"{counts['head']:,} parameters: {', '.join(parts)}; the encoder has {shown.encoder.parameters:,}"
    return paragraph(total)


def _work(shown: Shown) -> str:
    """Multiply-accumulates of the head for one example, and of the encoder for one sentence."""
    parts, unknown = [], set[str]()
    for branch in shown.structure.branches:
        if branch.macs is None:
            parts.append(f"not known for {branch.task.name}, since it takes no single example")
            continue
        trunk = f" ({branch.trunk_macs:,} of them in the trunk)" if branch.trunk_macs else ""
        parts.append(f"{branch.macs:,} for {branch.task.name}{trunk}")
        unknown.update(branch.uncounted)
    encoder = encoder_macs(shown.encoder.config, [LENGTH])
    pair = any(branch.task.segments == 2 for branch in shown.structure.branches)
    text = (
        f"MACs (1 MAC is 2 FLOPs) of one example with sentences of {LENGTH} word pieces: {', '.join(parts)}; the "
        f"encoder takes {encoder:,} a sentence{'; above, what tasks share is counted for a pair' * pair}"
    )
    missing = f"; not counted: {', '.join(sorted(unknown))}" if unknown else ""
    return paragraph(text + missing)


def _config(spec: HeadSpec, config: Any) -> str:
    rows = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        text = f"{value}" if value == field.default else f"{value} (default {field.default})"
        rows.append(
            (f"{spec.name}.{field.name}", text, _search(field.metadata.get("search")), field.metadata.get("help", ""))
        )
    return columns(("setting", "value", "search", "meaning"), rows) if rows else "no settings"


def _search(search: Range | Choice | None) -> str:
    if isinstance(search, Range):
        return f"{search.low:g} to {search.high:g}{', log' * search.log}"
    return f"one of {', '.join(map(str, search.values))}" if search else "fixed"


def _reads(kind: type[Pooled]) -> str:
    return "tokens" if issubclass(kind, Tokens) else "layers" if issubclass(kind, Layers) else "pooled"


def _short_number(value: int) -> str:
    """Three digits: `8.19k`, `262k`, `3.15M`."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= unit:
            return f"{value / unit:#.3g}".rstrip(".") + name
    return str(value)


_KNOWN = tomllib.loads((files("benchkit.inspect") / "known_encoders.toml").read_text("utf-8"))["known"]


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
    return f"{config.num_hidden_layers}×{config.hidden_size}", _millions(count(model))


def _has_pooler(files: Iterable[Path]) -> bool:
    """Whether the weights have a pooler. Pickled weights are not opened; they are assumed to have one."""
    names = set[str]()
    try:
        for path in files:
            with safe_open(path, "pt") as file:
                names.update(file.keys())
    except (OSError, SafetensorError):
        return True
    return any("pooler" in name for name in names)


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M"


def render_encoders(here: Sequence[tuple[str, ...]]) -> str:
    """The encoders that are here, then those that could be fetched."""
    names = {row[0] for row in here}
    more = [row for row in _KNOWN if row[0] not in names]
    head = ("encoder", "shape", "parameters")
    parts = [columns((*head, "from"), here, right=("parameters",))] if here else ["No encoder is here."]
    if more:
        parts.append("On Hugging Face, a few of many: benchkit encoders fetch ID\n\n" + columns((*head, "what"), more))
    return "\n\n".join(parts)


def render_encoder(encoder: Encoder, folder: Path | None) -> str:
    """Shape, parameters, memory, vocabulary, layers and pooling of an encoder."""
    record, origin = read_record(folder) if folder else None, short_path(str(folder)) if folder else "a plugin"
    if record:
        origin = f"{record.repo} at {record.revision}, licence {record.licence or 'not stated'}, in {origin}"
    config, model, vocabulary = encoder.config, encoder.model, encoder.tokenizer.get_vocab_size()
    pooler = count(model.pooler) if model.pooler else 0
    parts = {"layers": count(model.layers), "pooler": pooler}
    parts = {"embeddings": encoder.parameters - sum(parts.values()), **parts}
    fp32, bf16 = (f"{encoder.parameters * width / 2**20:,.0f} MiB" for width in (4, 2))
    rows = [
        ("from", origin),
        ("shape", f"{config.num_hidden_layers} layers of {config.hidden_size}, {config.num_attention_heads} heads, "
                  f"feed-forward {config.intermediate_size:,}, {config.hidden_act}"),
        ("parameters", f"{_millions(encoder.parameters)}: "
                       + ", ".join(f"{name} {_millions(number)}" for name, number in parts.items() if number)),
        ("memory", f"{fp32} in fp32, {bf16} in bf16; training takes four times as much"),
        ("vocabulary", f"{vocabulary:,} word pieces, {_case(encoder)}; up to {config.max_position_embeddings} a text"),
        ("layers", f"0, the embeddings, to {config.num_hidden_layers}, the last: --set layers=0,-1"),
        ("pooling", _pooling(encoder, folder)),
        ("fingerprint", encoder.fingerprint),
        *(("note", note) for note in encoder.notes),
    ]  # fmt: skip
    width = max(len(name) for name, _ in rows)
    lines = [paragraph(f"  {name:<{width}}  {text}", " " * (width + 4)) for name, text in rows]
    return "\n".join([encoder.name, *lines])


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
