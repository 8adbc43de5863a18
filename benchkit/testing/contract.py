"""The contract: all checks in order, for a program and for pytest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from benchkit.core.head import HeadSpec
from benchkit.testing import behaviour as inputs
from benchkit.testing import behaviour as training
from benchkit.testing import checks as configs
from benchkit.testing import checks as importing
from benchkit.testing import checks as outputs
from benchkit.testing import checks as precision
from benchkit.testing.verdict import Check, Skipped, Verdict

CHECKS: tuple[Check, ...] = (
    configs.described,
    importing.imports,
    inputs.reads,
    outputs.shapes,
    outputs.alone,
    outputs.scores,
    inputs.company,
    inputs.padding,
    inputs.segments,
    inputs.symmetric,
    inputs.untouched,
    inputs.reaches,
    training.gradients,
    training.trunk,
    training.seed,
    training.state,
    configs.config,
    configs.search,
    precision.bf16,
    precision.compiles,
)
"""Every check, in the order in which a head should be mended."""


def check_head(spec: HeadSpec) -> Iterator[Verdict]:
    """One verdict a check, as they come; a few seconds in all.

    What the head raises is told once: later checks that meet the same point to the first.
    """
    told: dict[str, str] = {}
    for check in CHECKS:
        verdict = check(spec)
        if verdict.raised in told:
            verdict = replace(verdict, reason=f"the same {_kind(verdict)} as under {told[verdict.raised]}")
        elif verdict.raised:
            told[verdict.raised] = check.name
        yield verdict


def _kind(verdict: Verdict) -> str:
    return verdict.raised.partition(":")[0]


class HeadContract:
    """The checks as pytest tests: subclass it, and give one fixture, `spec`.

        class TestMyHead(HeadContract):
            @pytest.fixture
            def spec(self):
                return benchkit_my_head.benchkit_heads()[0]

    Each check is a test, `test_shapes` and so on, so `-k shapes` picks one and what the head raised is shown with its
    traceback. A check that does not concern the head is skipped.
    """


def _test(check: Check) -> Callable[[HeadContract, HeadSpec], None]:
    def test(self: HeadContract, spec: HeadSpec) -> None:
        import pytest

        try:
            check.function(spec)
        except Skipped as found:
            pytest.skip(str(found))

    test.__name__ = test.__qualname__ = f"test_{check.name}"
    test.__doc__ = check.function.__doc__
    return test


for _check in CHECKS:
    setattr(HeadContract, f"test_{_check.name}", _test(_check))
