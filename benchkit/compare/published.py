"""The report's numbers, as the package's data file has them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Published:
    """What a report states.

    Attributes:
        source: title, author and place in it.
        numbers: of one run a head, by head, task and split.
        rows: of its data, by task and split.
        encoder, config: the encoder's name, and the sizes that tell it from others.
    """

    source: str
    numbers: Mapping[str, Mapping[str, Mapping[str, float]]]
    rows: Mapping[str, Mapping[str, int]]
    encoder: str
    config: Mapping[str, Any]


def published() -> Published:
    values = tomllib.loads((files("benchkit") / "compare" / "report_numbers.toml").read_text("utf-8"))
    encoder = values["encoder"]
    return Published(values["source"], values["numbers"], values["rows"], encoder["name"], encoder["config"])
