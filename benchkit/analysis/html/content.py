"""What the page says, from stored cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchkit.core.task import TaskSpec

if TYPE_CHECKING:
    from benchkit.analysis.comparisons import Verdict
    from benchkit.analysis.results import Results, Stored
    from benchkit.core.record import Record


BINS = 10

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Outcome:
    """One head on one split of a task, over its seeds.

    Attributes:
        confusion: (class, class), label by prediction, counted over all seeds; (0, 0) for a regression.
        bins: (bin, 3): examples, sum of x and sum of y. For classes x is the probability of the predicted class and
            y whether it was right; for a regression x is the prediction and y the label.
        errors: (seed,): expected calibration error of classes (Guo et al. 2017); root mean square error of scores.
        miss: (n,): share of seeds that got an example wrong; of a regression the mean distance from the label, as a
            share of the label range.
        said: (n,): the class that most seeds predicted, the lower one of two; of a regression the mean prediction.
    """

    seeds: int
    confusion: Counts
    bins: Floats
    errors: Floats
    miss: Floats
    said: Floats


@dataclass(frozen=True)
class Observed:
    """All heads on one split of a task, in the phase whose predictions are kept; `labels` (n,), ids in that order."""

    task: TaskSpec
    phase: str
    split: str
    ids: tuple[str, ...]
    labels: Floats
    outcomes: Mapping[str, Outcome]


class Tally:
    """Sums over the seeds of one head."""

    def __init__(self, task: TaskSpec, labels: Floats) -> None:
        self._task, self._labels = task, labels
        classes = len(task.classes)
        self._confusion = np.zeros((classes, classes), np.int64)
        self._votes = np.zeros((len(labels), max(classes, 1)))
        self._bins = np.zeros((BINS, 3))
        self._miss = np.zeros(len(labels))
        self._errors: list[float] = []

    def add(self, predictions: Floats, scores: Floats) -> None:
        """One seed: predictions (n,) as class indices or scores, and of classes their probabilities (n,)."""
        if self._task.classes:
            self._add_classes(predictions.astype(np.int64), scores)
        else:
            self._add_scores(predictions)

    def outcome(self) -> Outcome:
        seeds = len(self._errors)
        said = self._votes.argmax(axis=1) if self._task.classes else self._votes[:, 0] / seeds
        errors = np.array(self._errors)
        return Outcome(seeds, self._confusion, self._bins, errors, self._miss / seeds, said.astype(np.float64))

    def _add_classes(self, predictions: Counts, scores: Floats) -> None:
        classes = len(self._task.classes)
        labels = self._labels.astype(np.int64)
        pairs = np.bincount(labels * classes + predictions, minlength=classes**2)
        self._confusion += pairs.reshape(classes, classes)
        right = (labels == predictions).astype(np.float64)
        self._votes[np.arange(len(labels)), predictions] += 1
        self._miss += 1 - right
        bins = _bins(scores, right, 0.0, 1.0)
        self._bins += bins
        self._errors.append(float(np.abs(bins[:, 1] - bins[:, 2]).sum() / len(labels)))

    def _add_scores(self, predictions: Floats) -> None:
        task, off = self._task, predictions - self._labels
        self._votes[:, 0] += predictions
        self._miss += np.abs(off) / (task.high - task.low)
        self._bins += _bins(predictions, self._labels, task.low, task.high)
        self._errors.append(float(np.sqrt(np.mean(off**2))))


def _bins(x: Floats, y: Floats, low: float, high: float) -> Floats:
    """(bin, 3): count, sum of x, sum of y, in bins of equal width over x; what is outside is in the last ones."""
    place = np.clip((x - low) / (high - low) * BINS, 0, BINS - 1).astype(np.int64)
    return np.stack([np.bincount(place, each, minlength=BINS) for each in (np.ones_like(x), x, y)], axis=1)


@dataclass(frozen=True)
class Dispute:
    """An example on which heads differ; `row` is its place in the split."""

    id: str
    label: float
    row: int


def disputes(observed: Observed, count: int) -> list[Dispute]:
    """The examples that divide heads most: some get them right, others do not; of equals, the hardest first."""
    if len(observed.outcomes) < 2:
        return []
    miss = np.stack([outcome.miss for outcome in observed.outcomes.values()])
    spread, mean = np.ptp(miss, axis=0), miss.mean(axis=0)
    order = np.lexsort((np.arange(len(mean)), -mean.round(9), -spread.round(9)))
    best = [int(row) for row in order[:count] if spread[row] > 0]
    return [Dispute(observed.ids[row], float(observed.labels[row]), row) for row in best]


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
