"""What counts as a regression, as a user writes it: `sst.accuracy<-1.0`, `cnn:speed.train<-5%`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from benchkit.errors import UserError, unknown

GRAMMAR = "[HEAD:]TASK.METRIC<POINTS or [HEAD:]speed.train<PERCENT%"
_PATTERN = re.compile(
    r"^\s*(?:(?P<head>[^:<>]+?)\s*:)?\s*(?P<name>[\w-]+\.[\w-]+)\s*(?P<sign><=|>=|<|>)\s*"
    r"(?P<limit>[+-]?(?:\d+\.?\d*|\.\d+))\s*(?P<percent>%?)\s*$"
)


@dataclass(frozen=True)
class Condition:
    """A condition on B minus A.

    Attributes:
        head: "" means every head.
        name: `TASK.METRIC`, `mean.score` for the mean over tasks, or one of `speed.train`, `speed.eval`, `memory.peak`.
        sign: `<`, `<=`, `>` or `>=`.
        limit: in points, which are hundredths of a metric, or in per cent of A where `percent`.
    """

    text: str
    head: str
    name: str
    sign: str
    limit: float
    percent: bool

    def holds(self, value: float) -> bool:
        below, equal = value < self.limit, value == self.limit
        return (equal and "=" in self.sign) or (below if "<" in self.sign else not below and not equal)


def parse(text: str) -> Condition:
    """Read a condition.

    Raises:
        UserError: it is none.
    """
    found = _PATTERN.match(text)
    if found is None:
        raise UserError(f"--fail-if takes {GRAMMAR}, such as sst.accuracy<-1.0 or speed.train<-5%, not {text!r}")
    head, name, sign, limit, percent = found.groups()
    return Condition(text.strip(), head or "", name, sign, float(limit), bool(percent))


def check(
    conditions: Iterable[Condition], heads: Collection[str], points: Collection[str], shares: Collection[str]
) -> None:
    """Refuse what the runs do not have.

    Args:
        points: names that are compared in points.
        shares: names that are compared in per cent.

    Raises:
        UserError: a condition names a head or a quantity that is not there, or has the wrong unit.
    """
    for each in conditions:
        where = f"--fail-if {each.text!r}"
        if each.head and each.head not in heads:
            raise UserError(f"{where}: {unknown('head', each.head, heads)}")
        if each.name not in {*points, *shares}:
            raise UserError(f"{where}: {unknown('quantity', each.name, [*points, *shares])}")
        if each.name in points and each.percent:
            raise UserError(f"{where}: {each.name} is compared in points, hundredths of the metric: leave out the %")
        if each.name in shares and not each.percent:
            raise UserError(f"{where}: {each.name} is compared in per cent of the first run: write {each.limit:g}%")
