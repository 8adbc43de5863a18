"""From what a user asked for to the heads, as they are on that encoder and those tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchkit.describe.structure import Structure, structure
from benchkit.encoder import Encoder
from benchkit.errors import UserError
from benchkit.features import Layers
from benchkit.head import HeadSpec
from benchkit.parameters import parameter_counts
from benchkit.plugins import Plugin, Plugins
from benchkit.protocol import Protocol
from benchkit.runner.cell import loss_name
from benchkit.runner.request import Plan, Request, resolve
from benchkit.runner.workspace import Workspace, build_head, feature_settings
from benchkit.store.features import FeatureSettings
from benchkit.store.place import cache_root
from benchkit.task import TaskShape


@dataclass(frozen=True)
class Loss:
    """The loss of one task, and whether it is the head that asks for it."""

    task: str
    name: str
    asked: bool


@dataclass(frozen=True)
class Listed:
    """A head in the list; `parameters` is None where it cannot be built, `error` says why."""

    spec: HeadSpec
    owner: str
    parameters: int | None
    error: str = ""


@dataclass(frozen=True)
class Shown:
    """Everything about one head.

    Attributes:
        plugin: where it comes from.
        about: the encoder's size, and how its states become features.
    """

    spec: HeadSpec
    config: Any
    plugin: Plugin
    encoder: Encoder
    about: str
    losses: tuple[Loss, ...]
    structure: Structure


@dataclass(frozen=True)
class Setting:
    """An encoder and tasks that heads are looked at on."""

    plan: Plan
    plugins: Plugins
    workspace: Workspace
    encoder: Encoder
    shapes: tuple[TaskShape, ...]

    @staticmethod
    def open(request: Request, plugins: Plugins) -> Setting:
        """Raises: UserError: as `resolve` does, or the encoder cannot be used."""
        plan = resolve(request, plugins)
        workspace = Workspace(plugins, cache_root(), lambda line: None)
        joint = plan.protocol.pair_input == "joint"
        shapes = tuple(task.shape(joint=joint) for task in workspace.tasks(plan.protocol))
        return Setting(plan, plugins, workspace, workspace.encoder(plan.encoder), shapes)

    def listed(self, name: str) -> Listed:
        """How many parameters a head has here; a head that cannot be built takes no other down."""
        spec, owner = self.plugins.head(name), self.plugins.owners["head", name]
        try:
            with torch.device("meta"):
                head = build_head(spec, self.plan.configs[name], self.encoder, self._settings(spec), self.shapes)
        except Exception as error:  # noqa: BLE001 - a stranger's head may raise anything
            return Listed(spec, owner, None, f"{type(error).__name__}: {' '.join(str(error).split())}")
        return Listed(spec, owner, parameter_counts(head, spec.trunk)["head"])

    def shown(self, name: str) -> Shown:
        """A head, looked through.

        Raises:
            UserError: it cannot be built, does not run, or reads what the encoder does not have.
        """
        spec, config = self.plugins.head(name), self.plan.configs[name]
        settings = self._settings(spec)
        self.encoder.check(settings.pooling, settings.layers)
        width = self.encoder.hidden * (1 if settings.apart else len(settings.layers))
        tasks, protocol = self.workspace.tasks(self.plan.protocol), self.plan.protocol
        losses = tuple(
            Loss(task.name, loss_name(spec, config, task, protocol), bool(spec.loss and spec.loss(config, shape)))
            for task, shape in zip(tasks, self.shapes, strict=True)
        )
        found = structure(spec, config, width, self.shapes, len(settings.layers))
        plugin = next(each for each in self.plugins.plugins if name in each.heads)
        return Shown(spec, config, plugin, self.encoder, _about(self.encoder, spec, protocol), losses, found)

    def _settings(self, spec: HeadSpec) -> FeatureSettings:
        return feature_settings(self.plan.protocol, spec, self.encoder, "fp32", torch.device("cpu"))


def check_names(names: Sequence[str], plugins: Plugins) -> None:
    """Raises: UserError: a head is unknown, or there is none."""
    if not names:
        raise UserError("there is no head: see benchkit plugins")
    for name in names:
        plugins.head(name)


def _about(encoder: Encoder, spec: HeadSpec, protocol: Protocol) -> str:
    size = f"{encoder.config.num_hidden_layers} layers of {encoder.hidden}"
    if issubclass(spec.reads, Layers):
        return f"{size} · {protocol.pooling} pooling of each"
    where = "" if protocol.layers == (-1,) else f" of {', '.join(map(str, protocol.layers))} side by side"
    return f"{size} · {protocol.pooling} pooling{where}"
