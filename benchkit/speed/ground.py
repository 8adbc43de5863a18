"""What everything is timed on: an encoder, tasks, a device, heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from benchkit.encoder import Encoder
from benchkit.plugins import Plugins
from benchkit.rng import global_stream
from benchkit.runner.cell import loss_name
from benchkit.runner.request import Plan, Request, resolve
from benchkit.runner.workspace import Workspace, build_head, feature_settings
from benchkit.store.features import FeatureSettings
from benchkit.store.place import cache_root
from benchkit.task import Loss, TaskShape, TaskSpec


@dataclass(frozen=True)
class Ground:
    """A request of `benchkit run`, resolved and loaded as far as speed needs it: there are no data."""

    plan: Plan
    plugins: Plugins
    encoder: Encoder
    tasks: tuple[TaskSpec, ...]
    shapes: tuple[TaskShape, ...]

    @staticmethod
    def open(request: Request, plugins: Plugins) -> Ground:
        """Raises: UserError: as `resolve` does, or a head or the encoder cannot be used."""
        plan = resolve(request, plugins)
        workspace = Workspace(plugins, cache_root(), lambda line: None)
        tasks = tuple(workspace.tasks(plan.protocol))
        shapes = tuple(task.shape(joint=plan.protocol.pair_input == "joint") for task in tasks)
        encoder = workspace.encoder(plan.encoder).to(plan.execution.device).eval()
        ground = Ground(plan, plugins, encoder, tasks, shapes)
        for head in plan.heads:
            settings = ground.settings(head, "fp32")
            encoder.check(settings.pooling, settings.layers)
        return ground

    @property
    def device(self) -> torch.device:
        return torch.device(self.plan.execution.device)

    def settings(self, head: str, precision: str) -> FeatureSettings:
        """How the head's inputs are encoded."""
        return feature_settings(self.plan.protocol, self.plugins.head(head), self.encoder, precision, self.device)

    def head(self, name: str) -> nn.Module:
        """The head with fresh weights, the same each time, on the CPU."""
        spec, config = self.plugins.head(name), self.plan.configs[name]
        with global_stream(0, "init"):
            return build_head(spec, config, self.encoder, self.settings(name, "fp32"), self.shapes)

    def losses(self, head: str) -> dict[str, Loss]:
        spec, config = self.plugins.head(head), self.plan.configs[head]
        return {task.name: task.losses[loss_name(spec, config, task, self.plan.protocol)] for task in self.tasks}
