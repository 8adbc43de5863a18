"""All that the page and its figures show, gathered once from stored cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchkit.page.outcomes import Observed, Outcome, Tally

if TYPE_CHECKING:
    from benchkit.page.outcomes import Floats
    from benchkit.record import Record
    from benchkit.report.results import Results
    from benchkit.report.stored import Stored
    from benchkit.report.verdicts import Verdict


@dataclass(frozen=True)
class Content:
    """One comparison.

    Attributes:
        observed: predictions of the last phase, by task; a task that nobody has labelled predictions of is not in it.
        verdicts: paired comparisons of heads; empty where there is nothing to pair.
        texts: show examples with their texts; else by their ids.
    """

    stored: Stored
    observed: Mapping[str, Observed]
    verdicts: Sequence[Verdict]
    texts: bool = True

    @property
    def results(self) -> Results:
        return self.stored.results

    @property
    def records(self) -> Sequence[Record]:
        return self.stored.records


def gather(stored: Stored, verdicts: Sequence[Verdict], *, texts: bool = True) -> Content:
    """Read every cell's predictions once, one cell at a time.

    Args:
        texts: show examples with their texts; without, by their ids.

    Raises:
        UserError: predictions cannot be read.
    """
    phase = stored.results.phases[-1]
    splits = {task: judged(stored.results, phase, task) for task in stored.tasks}
    ids: dict[str, tuple[str, ...]] = {}
    labels: dict[str, Floats] = {}
    tallies: dict[str, dict[str, Tally]] = {task: {} for task in stored.tasks}
    for record in counting(stored, phase):
        for name, task in stored.tasks.items():
            rows = stored.predictions(record, phase, name, splits[name])
            if rows.empty or rows["label"].isna().any():
                continue
            if name not in ids:
                ids[name] = tuple(str(each) for each in rows.index)
                labels[name] = rows["label"].to_numpy(np.float64)
            tally = tallies[name].setdefault(record.head, Tally(task, labels[name]))
            tally.add(rows["prediction"].to_numpy(np.float64), rows["score"].to_numpy(np.float64))
    observed = {
        name: Observed(stored.tasks[name], phase, splits[name], ids[name], labels[name], _outcomes(tallies[name]))
        for name in ids
    }
    return Content(stored, observed, verdicts, texts)


def judged(results: Results, phase: str, task: str) -> str:
    """The split that heads are compared on: test, or dev where test is unlabelled."""
    return "test" if "test" in results.splits(phase, task) else "dev"


def counting(stored: Stored, phase: str) -> Iterator[Record]:
    """Cells whose numbers of a phase are in the means and whose predictions are of that phase."""
    spoilt = {(each.head, each.seed) for each in stored.results.faults if not each.counts and phase in each.phases}
    for record in stored.records:
        if (record.head, record.seed) not in spoilt and stored.phase_of_predictions(record) == phase:
            yield record


def _outcomes(tallies: Mapping[str, Tally]) -> dict[str, Outcome]:
    return {head: tally.outcome() for head, tally in tallies.items()}
