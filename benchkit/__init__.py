"""benchkit: which head architecture is worth putting on this encoder?

Names below are imported on first use, so that `import benchkit` costs milliseconds and no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchkit.api import Result, load_encoder, run
    from benchkit.core.errors import UserError
    from benchkit.core.features import Layers, Pooled, Tokens
    from benchkit.core.head import HeadSpec, option
    from benchkit.core.hookspecs import hookimpl
    from benchkit.core.record import Record
    from benchkit.core.task import Example, Metric, TaskShape, TaskSpec
    from benchkit.encoder import Encoder, EncoderSpec
    from benchkit.predict.export import load_exported

__version__ = "0.1.0"

# fmt: off
__all__ = [
    "Encoder", "EncoderSpec", "Example", "HeadSpec", "Layers", "Metric", "Pooled", "Record", "Result", "TaskShape",
    "TaskSpec", "Tokens", "UserError", "__version__", "hookimpl", "load_encoder", "load_exported", "option", "run",
]
# fmt: on
_MODULES = {
    "api": ("Result", "load_encoder", "run"),
    "core.errors": ("UserError",),
    "core.features": ("Layers", "Pooled", "Tokens"),
    "core.head": ("HeadSpec", "option"),
    "core.hookspecs": ("hookimpl",),
    "core.record": ("Record",),
    "core.task": ("Example", "Metric", "TaskShape", "TaskSpec"),
    "encoder": ("Encoder", "EncoderSpec"),
    "predict.export": ("load_exported",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"benchkit.{module}"), name)
    raise AttributeError(f"module 'benchkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
