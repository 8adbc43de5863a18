"""The statistics of verdicts, against SciPy, statsmodels where it is installed, and the definitions spelt out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from benchkit.analysis.statistics import (
    Difference,
    Evidence,
    Need,
    Paired,
    differences,
    evidence,
    holm,
    mcnemar,
    min_epsilon,
    need,
    paired_differences,
    power_of,
    standard_error,
    violations,
)
from benchkit.nn import metrics


def _evidence(scores: np.ndarray, parts: np.ndarray) -> Evidence:
    return Evidence(scores, parts - parts.mean(axis=1, keepdims=True))


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_where_examples_do_not_matter_it_is_the_paired_t_test(seeds: int) -> None:
    random = np.random.default_rng(seeds)
    a, b = random.normal(0.5, 0.02, seeds), random.normal(0.52, 0.02, seeds)
    still = np.zeros((seeds, 50))
    found = differences({"t": Evidence(a, still)}, {"t": Evidence(b, still)})["t"]
    expected = scipy_stats.ttest_rel(b, a)
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_where_seeds_do_not_matter_it_is_the_t_test_over_examples() -> None:
    random = np.random.default_rng(0)
    labels = np.ones(300)
    a, b = (np.tile((random.random(300) < share).astype(float), (4, 1)) for share in (0.6, 0.7))
    found = paired_differences({"t": Paired(labels, a, b, metrics.accuracy.score)})["t"]
    expected = scipy_stats.ttest_rel(b[0], a[0])
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_variances_are_those_of_the_two_way_analysis() -> None:
    random = np.random.default_rng(1)
    seeds, n = 5, 40
    values = random.normal(size=(seeds, 1)) + random.normal(size=(1, n)) + random.normal(size=(seeds, n))
    rows, columns, all_ = values.mean(1), values.mean(0), values.mean()
    ms_rows = n * sum((row - all_) ** 2 for row in rows) / (seeds - 1)
    ms_columns = seeds * sum((column - all_) ** 2 for column in columns) / (n - 1)
    rest = sum((values[i, j] - rows[i] - columns[j] + all_) ** 2 for i in range(seeds) for j in range(n))
    ms_rest = rest / ((seeds - 1) * (n - 1))
    still = Evidence(np.zeros(seeds), np.zeros((seeds, n)))
    found = differences({"t": still}, {"t": _evidence(rows, values)})["t"]
    total = found.seed_variance / seeds + found.example_variance
    assert found.seed_variance == pytest.approx(ms_rows / n)
    assert total == pytest.approx((ms_rows + ms_columns - ms_rest) / (seeds * n))


def test_variances_of_tasks_add_up_and_seeds_stay_together() -> None:
    random = np.random.default_rng(2)
    a, b = (
        {name: _evidence(random.normal(size=4), random.normal(size=(4, 30))) for name in ("x", "y")} for _ in range(2)
    )
    found = differences(a, b)
    mean = found["mean"]
    both = [(b["x"].scores - a["x"].scores + b["y"].scores - a["y"].scores) / 2]
    assert mean.value == pytest.approx((found["x"].value + found["y"].value) / 2)
    assert mean.seed_variance == pytest.approx(np.var(both, ddof=1))
    assert mean.example_variance == pytest.approx((found["x"].example_variance + found["y"].example_variance) / 4)


def test_the_influence_on_pearson_is_that_of_leaving_an_example_out() -> None:
    random = np.random.default_rng(3)
    labels = random.uniform(0, 5, 400)
    row = labels + random.normal(size=400)
    found = evidence(labels, row[None], metrics.pearson.score)
    whole, others = found.scores[0], np.arange(400)
    left_out = [399 * (whole - scipy_stats.pearsonr(labels[others != i], row[others != i])[0]) for i in range(400)]
    assert found.scores[0] == pytest.approx(scipy_stats.pearsonr(labels, row)[0])
    assert np.corrcoef(left_out, found.parts[0])[0, 1] > 0.9999
    assert np.var(left_out) == pytest.approx(np.var(found.parts[0]), rel=0.03)
    flat = evidence(labels, np.ones((1, 400)), metrics.pearson.score)
    assert not flat.parts.any()
    assert flat.scores[0] == 0


def test_of_an_unknown_metric_groups_are_left_out() -> None:
    random = np.random.default_rng(4)
    labels = random.integers(3, size=5000).astype(float)
    predictions = np.where(random.random((2, 5000)) < 0.7, labels, 3)
    known = evidence(labels, predictions, metrics.accuracy.score)
    unknown = evidence(labels, predictions, lambda x, y: float(np.mean(x == y)))
    variances = [each.parts.var(axis=1, ddof=1) / each.parts.shape[1] for each in (known, unknown)]
    assert known.scores == pytest.approx(unknown.scores)
    assert variances[0] == pytest.approx(variances[1], rel=0.4)  # 50 groups: ± 20 %
    assert len(evidence(labels[:20], predictions[:, :20], lambda *_: 0.5).parts[0]) == 20


def test_one_seed_has_no_interval() -> None:
    one = {"t": _evidence(np.array([0.5]), np.ones((1, 10)))}
    found = differences(one, one)["t"]
    assert np.isnan([found.low, found.high, found.p]).all()
    assert found.seeds == 1


@pytest.mark.parametrize("seed", range(3))
def test_mcnemar_is_the_binomial_test_of_scipy(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(2, size=80).astype(float)
    a, b = (np.where(random.random((3, 80)) < share, labels, 1 - labels) for share in (0.6, 0.75))
    each = []
    for first, second in zip(a == labels, b == labels, strict=True):
        only = int((first & ~second).sum()), int((second & ~first).sum())
        each.append(scipy_stats.binomtest(only[0], sum(only)).pvalue)
    assert mcnemar(labels, a[:1], b[:1]) == pytest.approx(each[0])
    assert mcnemar(labels, a, b) == pytest.approx(min(1, 2 * np.median(each)))
    assert mcnemar(labels, a, a) == 1


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, float("nan"), 0.4])[0] == pytest.approx(0.8)
    assert np.isnan(holm([float("nan")])[0])
    assert holm([]) == []


def test_against_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    contingency = pytest.importorskip("statsmodels.stats.contingency_tables")
    tests = pytest.importorskip("statsmodels.stats.power")
    ps = np.random.default_rng(5).random(30) ** 4
    assert holm(list(ps)) == pytest.approx(multitest.multipletests(ps, method="holm")[1])
    a, b = np.array([[1.0] * 20 + [0.0] * 20]), np.array([[1.0] * 8 + [0.0] * 29 + [1.0] * 3])
    expected = contingency.mcnemar([[8, 12], [3, 17]], exact=True).pvalue
    assert mcnemar(np.ones(40), a, b) == pytest.approx(expected)
    expected = tests.TTestPower().power(0.9, 8, 0.05)  # also counts a find on the wrong side
    assert power_of(1.0, 0.0, 8, 100)(0.9) == pytest.approx(expected, abs=1e-3)


def test_power_is_that_of_the_noncentral_t() -> None:
    for seeds, effect in ((3, 2.0), (10, 0.8), (30, 0.5)):
        limit = scipy_stats.t.ppf(0.975, seeds - 1)
        expected = scipy_stats.nct.sf(limit, seeds - 1, effect * np.sqrt(seeds))
        assert power_of(1.0, 0.0, seeds, 100)(effect) == pytest.approx(expected, abs=1e-6)
    assert power_of(0.0, 0.05**2, 3, 1e12)(0.1) == pytest.approx(scipy_stats.norm.sf(1.96 - 2), abs=1e-3)
    assert power_of(0.01, 0.0, 100, 10)(1.0) == 1
    assert power_of(0.0, 0.0, 3, 10)(0.0) == 0


def test_more_seeds_do_not_lower_the_examples_part() -> None:
    errors = [standard_error(0.01, 0.0004, seeds, 1000)[0] for seeds in (2, 10, 10_000)]
    assert errors[0] > errors[1] > errors[2] > 0.02


def test_almost_stochastic_order() -> None:
    low, high = np.array([0.1, 0.2, 0.3]), np.array([0.4, 0.5, 0.6, 0.7])
    assert violations(high[None], low[None]) == 0
    assert violations(low[None], high[None]) == 1
    assert violations(low[None], low[None]) == 0.5
    assert min_epsilon(high, low, resamples=200) == 0
    # By the definition, on a fine grid: the order of quantiles changes in the middle.
    a, b = np.array([0.0, 0.5, 1.0]), np.array([0.2, 0.4])
    grid = (np.arange(60_000) + 0.5) / 60_000
    gap = a[(grid * 3).astype(int)] - b[(grid * 2).astype(int)]
    assert violations(a[None], b[None])[0] == pytest.approx((np.minimum(gap, 0) ** 2).sum() / (gap**2).sum())
    random = np.random.default_rng(6)
    same = min_epsilon(random.normal(size=20), random.normal(size=20), resamples=200)
    better = min_epsilon(random.normal(2, 1, 20), random.normal(size=20), resamples=200)
    assert better < 0.1 < same


def test_what_does_not_match_is_refused() -> None:
    one = {"t": _evidence(np.zeros(2), np.ones((2, 10)))}
    with pytest.raises(ValueError, match="the same tasks"):
        differences(one, {"u": one["t"]})
    with pytest.raises(ValueError, match="the same tasks"):
        differences({}, {})
    with pytest.raises(ValueError, match="do not match"):
        evidence(np.zeros(3), np.zeros((2, 4)), metrics.accuracy.score)


@pytest.mark.parametrize(("seeds", "level"), [(3, 0.05), (3, 0.001), (5, 0.0033), (10, 0.01)])
def test_small_p_are_not_too_small(seeds: int, level: float) -> None:
    """By integrating over the variance that seeds show, for a true one that is anything from nothing to all of it.

    With the degrees of freedom of a test at 5 %, three seeds err nine times too often at 0.1 %.
    """
    edges = np.concatenate([[0], np.geomspace(1e-7, 1e-2, 300), np.linspace(1e-2, 1, 500)[1:]])
    quantiles = scipy_stats.chi2.ppf((edges[1:] + edges[:-1]) / 2, seeds - 1) / (seeds - 1)
    for share in (0.0, 0.3, 0.6, 0.8, 0.9, 0.97, 1.0):
        found = np.array([standard_error(share * each * seeds, 1 - share, seeds, 1e9, level) for each in quantiles])
        errors = 2 * scipy_stats.norm.sf(scipy_stats.t.isf(level / 2, found[:, 1]) * found[:, 0])
        assert errors @ np.diff(edges) < 1.3 * level


def test_p_is_the_level_at_which_the_difference_is_just_found() -> None:
    random = np.random.default_rng(3)
    labels = np.ones(400)
    a, b = ((random.random((3, 400)) < share).astype(float) for share in (0.6, 0.8))
    found = paired_differences({"t": Paired(labels, a, b, metrics.accuracy.score)})["t"]
    assert found.p < 0.01
    variances = found.seed_variance, found.example_variance
    error, df = standard_error(*variances, found.seeds, found.example_freedom, found.p)
    assert 2 * scipy_stats.t.sf(found.value / error, df) == pytest.approx(found.p, rel=1e-6)


def _found(seed_variance: float, example_variance: float) -> Need:
    return need(Difference(0.5, 0.5, 0.5, 0.5, 1.0, 3, seed_variance, example_variance, 99), 0.01, 0.8)


def test_without_any_variance_two_seeds_find_every_difference() -> None:
    found = _found(0.0, 0.0)
    assert (found.detects, found.limit, found.seeds, found.cautious) == (0.0, 0.0, 2, 2)


@pytest.mark.parametrize("variances", [(1e-4, 0.0), (0.0, 1e-6), (1e-4, 1e-6), (1e-30, 0.0)])
def test_what_is_found_is_the_smallest_that_is_enough(variances: tuple[float, float]) -> None:
    found = _found(*variances)
    assert power_of(*variances, 3, 99)(found.detects) >= 0.8
    assert power_of(*variances, 3, 99)(found.detects * 0.998) < 0.8 or found.detects <= 1e-6
    assert found.seeds is not None
    assert power_of(*variances, found.seeds, 99)(0.01) >= 0.8
    assert found.seeds == 2 or power_of(*variances, found.seeds - 1, 99)(0.01) < 0.8
    assert math.isfinite(found.limit)
