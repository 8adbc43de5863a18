"""Heads and encoders as text and diagrams."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from benchkit.core.errors import UserError, one_line
from benchkit.core.features import POOLINGS, Layers, Pooled, Tokens
from benchkit.core.head import Choice, HeadSpec, Range, count
from benchkit.core.plugins import Plugin, Plugins
from benchkit.core.task import TaskShape, TaskSpec
from benchkit.encoder import Encoder, MiniBert
from benchkit.encoder.checkpoint import model_folder, read_config, weight_files
from benchkit.experiment.cell import losses_of
from benchkit.experiment.config import Plan, Request, resolve
from benchkit.experiment.open_cell import Assembly
from benchkit.experiment.workspace import Workspace, weights_folders
from benchkit.hub.download import read_record
from benchkit.hub.encoders import fetched_encoders, pooling_advice
from benchkit.inspect import NO_BREAK, columns, paragraph, short_path
from benchkit.inspect.diagram import Figure, axes, figure, label, meaning, millions, render_template
from benchkit.inspect.structure import LENGTH, Branch, Structure, structure
from benchkit.inspect.trace import encoder_macs
from benchkit.store.files import cache_root


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
        losses = losses_of(spec, config, tasks, self.assembly.protocol)
        asked = {shape.name for shape in self.assembly.shapes if spec.loss and spec.loss(config, shape)}
        return "; ".join(
            f"{losses[task.name][0]} for {task.name}{' (asked for)' * (task.name in asked)}" for task in tasks
        )


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
    """Where it is from and what it reads, its layers, parameters and multiply-accumulates, and its settings."""
    found, encoder = shown.structure, shown.encoder
    values = {
        "spec": shown.spec,
        "found": found,
        "home": f"{shown.plugin.distribution}, " * bool(shown.plugin.distribution) + short_path(shown.plugin.path),
        "encoder": encoder,
        "about": shown.about.replace(" · ", ", "),
        "reads": _reads(shown.spec.reads),
        "losses": shown.losses(),
        "length": LENGTH,
        "encoder_macs": encoder_macs(encoder.config, [LENGTH]),
        "uncounted": sorted({name for branch in found.branches for name in branch.uncounted}),
    }
    facts, numbers = (_filled(f"head_{part}.txt.jinja", **values) for part in ("facts", "numbers"))
    return "\n\n".join((facts, _layers(shown), numbers, _config(shown.spec, shown.assembly.config)))


def _filled(template: str, **values: Any) -> str:
    """A template with each line wrapped; the text beside a name, which two spaces follow, stays beside it."""
    lines = []
    for line in render_template(template, **values).splitlines():
        named = re.match(r" *\w+ {2,}", line)
        lines.append(paragraph(line, " " * (named.end() if named else 2)))
    return "\n".join(lines)


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
    return f"{config.num_hidden_layers}×{config.hidden_size}", millions(count(model))


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
    model, tokenizer = encoder.model, encoder.tokenizer
    parts = {"layers": count(model.layers), "pooler": count(model.pooler) if model.pooler else 0}
    return _filled(
        "encoder.txt.jinja",
        encoder=encoder,
        config=encoder.config,
        record=read_record(folder) if folder else None,
        origin=short_path(str(folder)) if folder else "a plugin",
        parts={"embeddings": encoder.parameters - sum(parts.values()), **parts},
        lowercase=tokenizer.encode("A").tokens == tokenizer.encode("a").tokens,
        poolings=[name for name in POOLINGS if name != "pooler" or model.pooler],
        trained=pooling_advice(folder) if folder else "",
    )
