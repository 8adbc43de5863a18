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
    from benchkit.core.errors import UserError as UserError
    from benchkit.core.features import Layers as Layers
    from benchkit.core.features import Pooled as Pooled
    from benchkit.core.features import Tokens as Tokens
    from benchkit.core.head import HeadSpec as HeadSpec
    from benchkit.core.head import option as option
    from benchkit.core.hookspecs import hookimpl as hookimpl
    from benchkit.core.record import Record as Record
    from benchkit.core.task import Example as Example
    from benchkit.core.task import Metric as Metric
    from benchkit.core.task import TaskShape as TaskShape
    from benchkit.core.task import TaskSpec as TaskSpec
    from benchkit.encoder import Encoder as Encoder
    from benchkit.encoder import EncoderSpec as EncoderSpec
    from benchkit.predict.export import load_exported as load_exported

__version__ = "0.1.0"

_HOME = {
    "Result": "benchkit.api",
    "load_encoder": "benchkit.api",
    "run": "benchkit.api",
    "Encoder": "benchkit.encoder",
    "EncoderSpec": "benchkit.encoder",
    "UserError": "benchkit.core.errors",
    "Layers": "benchkit.core.features",
    "Pooled": "benchkit.core.features",
    "Tokens": "benchkit.core.features",
    "HeadSpec": "benchkit.core.head",
    "option": "benchkit.core.head",
    "hookimpl": "benchkit.core.hookspecs",
    "load_exported": "benchkit.predict.export",
    "Record": "benchkit.core.record",
    "Example": "benchkit.core.task",
    "Metric": "benchkit.core.task",
    "TaskShape": "benchkit.core.task",
    "TaskSpec": "benchkit.core.task",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'benchkit' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
