"""Heads as frozen data: a name, a module class, its config, what it reads, how its config is searched."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchkit.core.errors import UserError
from benchkit.core.features import Layers, Pooled
from benchkit.core.settings import apply
from benchkit.core.source import FILE_MARK, code_hash, files_beside

if TYPE_CHECKING:
    from torch import Tensor, nn

    from benchkit.core.task import Loss, TaskShape


@dataclass(frozen=True)
class Range:
    """A number searched between `low` and `high`, both included."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """One of a few values; also the values a user may set."""

    values: tuple[Any, ...]


def option(default: Any, *, low: float | None = None, high: float | None = None, log: bool = False,
           choices: Sequence[Any] = (), help: str = "") -> Any:  # fmt: skip
    """A config field with its search range: `dropout: float = option(0.3, low=0.0, high=0.6)`.

    Raises:
        TypeError: both a range and choices were given, or only one end of a range.
    """
    if (low is None) != (high is None) or (choices and low is not None):
        raise TypeError("option() takes low and high together, or choices, or neither")
    if low is not None and high is not None and not (low < high and (low > 0 or not log)):
        raise TypeError(f"option() searches from low to a higher high, above 0 if log, not from {low} to {high}")
    if choices and default not in choices:
        raise TypeError(f"option(): the default {default!r} is not one of the choices {tuple(choices)}")
    in_range = Range(low, high, log) if low is not None and high is not None else None
    search = Choice(tuple(choices)) if choices else in_range
    return dataclasses.field(default=default, metadata={"search": search, "help": help})


@dataclass(frozen=True)
class HeadSpec:
    """A multitask architecture: a trunk shared by all tasks and one branch a task.

    Attributes:
        cls: `cls(config, hidden, tasks)` builds an `nn.Module` whose `forward(features, task)` returns
            (batch, out): logits for a classification, a score in the task's own label range for a regression.
            `hidden` is the width of a feature vector, `tasks` a tuple of `TaskShape`. A head that reads `Layers` is
            also told how many: `cls(config, hidden, tasks, layers=7)`.
        config: a frozen dataclass, every field with a default; its field names are what `--set` shows.
        reads: the features it needs: `Pooled`, `Tokens` or `Layers`.
        trunk: attribute of the module that the tasks share, for parameter counts; "" if there is none.
        symmetric: whether swapping a pair's sentences leaves the output unchanged; checked by `benchkit heads check`.
        loss: `loss(config, shape)` returns the loss of the head: the name of one of the task's losses, a function
            `(outputs, labels, shape) -> ()`, or "" for the task's default. A loss that the protocol names has priority.
        auxiliary: `auxiliary(head, features, outputs, labels, shape) -> ()`, added to a batch's loss in training, or
            None. `head` is the module, `features` its input and `outputs` its output. Curves show the loss without it.
    """

    name: str
    summary: str
    cls: type[nn.Module]
    config: type[Any]
    reads: type[Pooled] = Pooled
    trunk: str = "trunk"
    symmetric: bool = False
    loss: Callable[[Any, TaskShape], str | Loss] | None = None
    auxiliary: Callable[[nn.Module, Pooled, Tensor, Tensor, TaskShape], Tensor] | None = None

    def configure(self, values: Mapping[str, Any]) -> Any:
        """A config with `values` over the defaults.

        Raises:
            UserError: a field is unknown, or a value has the wrong type or is rejected by the config.
        """
        try:
            config = apply(self.config(), values, where=self.name)
        except ValueError as error:
            raise UserError(f"head {self.name!r}: {error}") from error
        for field in dataclasses.fields(config):
            search = field.metadata.get("search")
            value = getattr(config, field.name)
            if isinstance(search, Choice) and value not in search.values:
                known = ", ".join(map(str, search.values))
                raise UserError(f"{self.name}.{field.name} is one of {known}, not {value!r}")
        return config

    def build(self, config: Any, hidden: int, tasks: Sequence[TaskShape], layers: int = 1) -> nn.Module:
        """Build the module. Its weights are drawn from torch's global generator.

        Args:
            hidden: width of the feature vectors that the head reads.
            layers: number of layers in `Layers`; ignored unless the head reads them.
        """
        if issubclass(self.reads, Layers):
            return self.cls(config, hidden, tuple(tasks), layers=layers)
        return self.cls(config, hidden, tuple(tasks))

    def source(self) -> str:
        """Hash of the head's source code: its module, or all modules of its package.

        For a head file, the hash covers the file and the modules in its folder that it imports.
        """
        return code_hash(self.files())

    def files(self) -> dict[str, Path]:
        """The files of the head's source, by name.

        Raises:
            UserError: the class has no source file.
        """
        try:
            file = inspect.getsourcefile(self.cls)
        except (TypeError, OSError):
            file = None
        if file is None:
            where = self.cls.__module__
            raise UserError(f"head {self.name!r}: {where} has no source file, so its results could not be keyed")
        path = Path(file)
        if hasattr(sys.modules.get(self.cls.__module__), FILE_MARK):
            return files_beside(path)
        depth = self.cls.__module__.count(".") + (path.name == "__init__.py") - 1
        root = path.parents[depth] if depth >= 0 else path.parent
        files = sorted(root.rglob("*.py")) if depth >= 0 else [path]
        return {each.relative_to(root).as_posix(): each for each in files}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def parameter_counts(head: nn.Module, trunk: str) -> dict[str, int]:
    """Parameters of the head, of the part that its tasks share, and of the rest of it.

    Args:
        trunk: attribute of the head, as in `HeadSpec.trunk`; counts as 0 if the head has no such module.
    """
    total = count(head)
    module = dict(head.named_modules(remove_duplicate=False)).get(trunk) if trunk else None
    shared = count(module) if module is not None else 0
    return {"head": total, "trunk": shared, "branches": total - shared}
