"""benchkit: which head architecture is worth putting on this encoder?

Names below are imported on first use, so that `import benchkit` costs milliseconds and no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchkit.api import Result as Result
    from benchkit.api import load_encoder as load_encoder
    from benchkit.api import run as run
    from benchkit.encoder import Encoder as Encoder
    from benchkit.encoder import EncoderSpec as EncoderSpec
    from benchkit.errors import UserError as UserError
    from benchkit.features import Layers as Layers
    from benchkit.features import Pooled as Pooled
    from benchkit.features import Tokens as Tokens
    from benchkit.head import HeadSpec as HeadSpec
    from benchkit.head import option as option
    from benchkit.hookspecs import hookimpl as hookimpl
    from benchkit.predict.exported import load_exported as load_exported
    from benchkit.record import Record as Record
    from benchkit.task import Example as Example
    from benchkit.task import Metric as Metric
    from benchkit.task import TaskShape as TaskShape
    from benchkit.task import TaskSpec as TaskSpec

__version__ = "0.1.0"

_HOME = {
    "Result": "benchkit.api",
    "load_encoder": "benchkit.api",
    "run": "benchkit.api",
    "Encoder": "benchkit.encoder",
    "EncoderSpec": "benchkit.encoder",
    "UserError": "benchkit.errors",
    "Layers": "benchkit.features",
    "Pooled": "benchkit.features",
    "Tokens": "benchkit.features",
    "HeadSpec": "benchkit.head",
    "option": "benchkit.head",
    "hookimpl": "benchkit.hookspecs",
    "load_exported": "benchkit.predict.exported",
    "Record": "benchkit.record",
    "Example": "benchkit.task",
    "Metric": "benchkit.task",
    "TaskShape": "benchkit.task",
    "TaskSpec": "benchkit.task",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'benchkit' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
