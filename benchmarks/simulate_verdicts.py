"""How often do verdicts err? Heads of known quality are made up, again and again, and compared.

`python benchmarks/simulate_verdicts.py` prints the tables of `results/verdicts.md`; `--repeats 200` for a quick look.
Each case draws two heads, their seeds and a test set anew. Under the null both heads are equally good, and a verdict
that they differ (p < 0.05) is a false positive. With one head better, the 95 % interval should hold the true difference
in 95 % of cases. "Bootstrap" is the percentile bootstrap over seeds and examples, which papers commonly use.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import chdtri, ndtr, stdtr, stdtrit

from benchkit.analysis.statistics import (
    Array,
    Difference,
    Paired,
    Score,
    differences,
    evidence,
    holm,
    paired_differences,
    standard_error,
)
from benchkit.nn import metrics

_RESAMPLES = 300


@dataclass(frozen=True)
class Case:
    """Two heads on made-up tasks. Effects are in standard deviations of what makes an example easy or hard.

    Attributes:
        metric: `accuracy`, `pearson`, or `unknown`: accuracy as a metric of which nothing is known but its scores.
        common: effect of an example on all heads alike.
        own: effect of an example on one head, in all its seeds: what makes the choice of the test set matter.
        seed: effect of a seed on all examples: runs that are better and worse.
        noise: effect of a seed on one example.
        tail: how the effects of seeds are drawn: `normal`, `t5` (heavy tails), or `collapse` (1 run in 10 fails).
        better: by how much head B is better.
    """

    metric: str = "accuracy"
    seeds: int = 3
    examples: int = 800
    common: float = 1.0
    own: float = 0.3
    seed: float = 0.03
    noise: float = 0.5
    tail: str = "normal"
    tasks: int = 1
    better: float = 0.0

    @property
    def score(self) -> Score:
        return {"accuracy": metrics.accuracy.score, "pearson": metrics.pearson.score, "unknown": _share}[self.metric]


def _share(labels: Array, predictions: Array) -> float:
    return float(np.mean(labels == predictions))


def draw(case: Case, random: np.random.Generator) -> dict[str, Paired]:
    """Predictions of heads A and B on each task."""
    effects = _seed_effects(case, random)
    return {f"task {k}": _task(case, effects, random) for k in range(case.tasks)}


def _seed_effects(case: Case, random: np.random.Generator) -> Array:
    """(head, seed): of a run, on all its tasks. Pairs share a part: the order of batches."""
    shape = (2, case.seeds)
    if case.tail == "t5":
        drawn = random.standard_t(5, shape) / np.sqrt(5 / 3)
    elif case.tail == "collapse":
        drawn = random.standard_normal(shape) - 10 * (random.random(shape) < 0.1)
    else:
        drawn = random.standard_normal(shape)
    return case.seed * (drawn + 0.5 * random.standard_normal(case.seeds)) / np.sqrt(1.25)


def _task(case: Case, effects: Array, random: np.random.Generator) -> Paired:
    n = case.examples
    common, own = case.common * random.standard_normal(n), case.own * random.standard_normal((2, 1, n))
    noise = case.noise * random.standard_normal((2, case.seeds, n))
    good = np.array([0.0, case.better])[:, None] + effects  # (head, seed)
    if case.metric != "pearson":
        right = (0.3 + good[..., None] + common + own + noise > 0).astype(float)
        return Paired(np.ones(n), right[0], right[1], case.score)
    labels = random.standard_normal(n)
    found = (1 + good[..., None]) * labels + common + own + noise
    return Paired(labels, found[0], found[1], case.score)


def truth(case: Case) -> float:
    """The difference over all seeds and examples there could be."""
    if not case.better:
        return 0.0
    spread = case.common**2 + case.own**2 + case.noise**2
    if case.metric != "pearson":
        total = np.sqrt(spread + case.seed**2)
        return float(ndtr((0.3 + case.better) / total) - ndtr(0.3 / total))
    effects = case.seed * np.random.default_rng(0).standard_normal(200_000)
    means = [
        np.mean((1 + shift + effects) / np.sqrt((1 + shift + effects) ** 2 + spread)) for shift in (0, case.better)
    ]
    return float(means[1] - means[0])


@dataclass(frozen=True)
class Rates:
    """What came of the repeats of a case, as shares."""

    false_positive: float
    covered: float
    share: float
    width: float
    bootstrap: float


def measure(case: Case, repeats: int, *, better: float = 0.05, bootstraps: int = 0) -> Rates:
    """False positives with equal heads, coverage with unequal ones, and the seeds' share of the variance."""
    random = np.random.default_rng(1)
    hits, covered, shares, widths, rival = [], [], [], [], []
    real = truth(replace(case, better=better))
    for repeat in range(repeats):
        tasks = draw(case, random)
        hits.append(_verdict(tasks).p < 0.05)
        if repeat < bootstraps:
            rival.append(bootstrap(next(iter(tasks.values())), random) < 0.05)
        found = _verdict(draw(replace(case, better=better), random))
        covered.append(found.low <= real <= found.high)
        between = found.seed_variance / found.seeds
        shares.append(between / (between + found.example_variance))
        widths.append(found.high - found.low)
    mean = [float(np.mean(each)) if each else np.nan for each in (hits, covered, shares, widths, rival)]
    return Rates(*mean)


def _verdict(tasks: dict[str, Paired]) -> Difference:
    return paired_differences(tasks)["mean"]


def bootstrap(task: Paired, random: np.random.Generator) -> float:
    """The p of the percentile bootstrap over seeds and examples, for accuracy."""
    seeds, n = task.a.shape
    each = (task.b == task.labels).astype(float) - (task.a == task.labels)
    each, counts = np.unique(each, axis=1, return_counts=True)  # drawing examples is drawing their kinds
    examples = random.multinomial(n, counts / n, _RESAMPLES) / n
    rows = random.multinomial(seeds, np.full(seeds, 1 / seeds), _RESAMPLES) / seeds
    drawn = ((examples @ each.T) * rows).sum(axis=1)
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (_RESAMPLES + 1))


def family(heads: int, seeds: int, repeats: int) -> tuple[float, float]:
    """How often any of the pairs of equally good heads is said to differ, after Holm's correction.

    Returns:
        As verdicts are made, and with the degrees of freedom of a test at 5 % whatever the p.
    """
    random = np.random.default_rng(2)
    wrong = np.zeros(2)
    for _ in range(repeats):
        common = random.standard_normal(1000)
        right = [
            (0.3 + common + 0.3 * random.standard_normal(1000) + 0.03 * random.standard_normal((seeds, 1))
             + 0.5 * random.standard_normal((seeds, 1000)) > 0).astype(float)
            for _ in range(heads)
        ]  # fmt: skip
        sides = [{"t": evidence(np.ones(1000), each, metrics.accuracy.score)} for each in right]
        found = [differences(sides[a], sides[b])["t"] for a in range(heads) for b in range(a)]
        wrong += [min(holm(ps)) < 0.05 for ps in ([each.p for each in found], [_fixed(each) for each in found])]
    return float(wrong[0]) / repeats, float(wrong[1]) / repeats


def _fixed(found: Difference) -> float:
    """p with the degrees of freedom of a test at 5 %."""
    error, df = standard_error(found.seed_variance, found.example_variance, found.seeds, found.example_freedom)
    return float(2 * stdtr(df, -abs(found.value) / error))


def exact(seeds: int, share: float, level: float = 0.05, freedom_at: float = 0.0) -> float:
    """False positives where all is normal and examples are many, by integrating over what the seeds' variance is
    estimated as.

    Args:
        share: of the difference's variance that is between seeds.
        level: a verdict is a p below it.
        freedom_at: the level that the degrees of freedom are for, if another.
    """
    # Evenly, but closer together where seeds come out alike: small levels are decided there.
    edges = np.concatenate([[0], np.geomspace(1e-7, 1e-2, 500), np.linspace(1e-2, 1, 1000)[1:]])
    between = share * chdtri(seeds - 1, 1 - (edges[1:] + edges[:-1]) / 2) / (seeds - 1)
    found = np.array([standard_error(each * seeds, 1 - share, seeds, np.inf, freedom_at or level) for each in between])
    return float(2 * ndtr(-stdtrit(found[:, 1], 1 - level / 2) * found[:, 0]) @ np.diff(edges))


def cases() -> Iterator[tuple[str, Case]]:
    """Name and case; from test sets that matter alone to seeds that matter alone."""
    for seeds in (3, 5, 10):
        for seed in (0.0, 0.03, 0.06, 0.15):
            yield "accuracy", Case(seeds=seeds, seed=seed)
        for seed in (0.03, 0.15):
            yield "Pearson", Case("pearson", seeds, seed=seed)
        yield "mean of 3 tasks", Case(seeds=seeds, seed=0.03, tasks=3, examples=400)
    for seeds in (3, 10):
        yield "100 examples", Case(seeds=seeds, seed=0.06, examples=100)
        yield "seeds with heavy tails (t5)", Case(seeds=seeds, seed=0.06, tail="t5")
        yield "1 run in 10 collapses", Case(seeds=seeds, seed=0.06, tail="collapse")
    yield "a metric of which nothing is known", Case("unknown", 5, seed=0.03)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=4000, help="a quarter of it for the odd cases (default 4000)")
    parser.add_argument("--start", type=int, default=0, help="go on with this case, of which the first is 0")
    parser.add_argument("--cases", type=int, default=99, help="end before this one; 0 for the tables around them")
    args = parser.parse_args()
    repeats = args.repeats
    if not args.start:
        shares = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1)
        print(
            f"| seeds, by their share | {' | '.join(f'{share:.0%}' for share in shares)} |\n|:--{'|--:' * len(shares)}|"
        )
        for seeds in (3, 4, 5, 10, 30):
            print(f"| {seeds} | {' | '.join(f'{exact(seeds, share):.1%}' for share in shares)} |", flush=True)
        print("\n| seeds | p below | errors, at most | with the freedom of 5 % |\n|--:|--:|--:|--:|")
        for seeds, level in itertools.product((3, 5, 10), (0.05, 0.01, 0.0033, 0.001, 0.0001)):
            own, fixed = (
                max(exact(seeds, share, level, at) for share in (*shares, 0.97, 0.99)) for at in (level, 0.05)
            )
            print(f"| {seeds} | {level:.2%} | {own:.2%} | {fixed:.2%} |", flush=True)
        print()
    print("| case | seeds | seeds' share of the variance | false positives | coverage | width | bootstrap |")
    print("|:--|--:|--:|--:|--:|--:|--:|", flush=True)
    for name, case in list(cases())[args.start : args.cases]:
        usual = name.startswith(("accuracy", "Pearson", "mean"))
        rates = measure(
            case,
            repeats if usual else repeats // 4,
            bootstraps=repeats // 4 if case.seeds < 10 and name == "accuracy" else 0,
        )
        rival = "" if np.isnan(rates.bootstrap) else f"{rates.bootstrap:.1%}"
        print(
            f"| {name} | {case.seeds} | {rates.share:.0%} | {rates.false_positive:.1%} | {rates.covered:.1%} "
            f"| {rates.width:.3f} | {rival} |",
            flush=True,
        )
    print("\n| heads | seeds | any pair wrongly told apart | with the freedom of 5 % |\n|--:|--:|--:|--:|")
    for heads, seeds in ((3, 3), (6, 3), (6, 5), (6, 10)):
        own, fixed = family(heads, seeds, repeats // 2)
        print(f"| {heads} | {seeds} | {own:.1%} | {fixed:.1%} |", flush=True)


if __name__ == "__main__":
    main()
