"""The contract that every head keeps, as checks that anyone can run.

`HeadContract` gives all checks to pytest; `check_head(spec)`, and `benchkit heads check` on the command line, run them
without it. Each check is also here under its own name, `shapes` and so on: `shapes(spec)` is a `Verdict`, and
`shapes.function.__doc__` says in full what is asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from benchkit.core.head import HeadSpec
from benchkit.testing import checks as checks  # registers the checks
from benchkit.testing.contract import CHECKS as CHECKS
from benchkit.testing.contract import Check, Skipped
from benchkit.testing.contract import Verdict as Verdict


def __getattr__(name: str) -> Check:
    for each in CHECKS:
        if each.name == name:
            return each
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def check_head(spec: HeadSpec) -> Iterator[Verdict]:
    """One verdict a check, as they come; a few seconds in all.

    An exception of the head is described once: later checks that meet the same one refer to the first.
    """
    raised: dict[str, str] = {}
    for each in CHECKS:
        verdict = each(spec)
        if verdict.raised in raised:
            kind = verdict.raised.partition(":")[0]
            verdict = dataclasses.replace(verdict, reason=f"the same {kind} as under {raised[verdict.raised]}")
        elif verdict.raised:
            raised[verdict.raised] = each.name
        yield verdict


class HeadContract:
    """The checks as pytest tests: subclass it, and give one fixture, `spec`.

        class TestMyHead(HeadContract):
            @pytest.fixture
            def spec(self):
                return benchkit_my_head.benchkit_heads()[0]

    Each check is a test, `test_shapes` and so on, so `-k shapes` picks one and what the head raised is shown with its
    traceback. A check that does not concern the head is skipped.
    """


def _test(each: Check) -> Callable[[HeadContract, HeadSpec], None]:
    def test(self: HeadContract, spec: HeadSpec) -> None:
        import pytest

        try:
            each.function(spec)
        except Skipped as found:
            pytest.skip(str(found))

    test.__name__ = test.__qualname__ = f"test_{each.name}"
    test.__doc__ = each.function.__doc__
    return test


for _check in CHECKS:
    setattr(HeadContract, f"test_{_check.name}", _test(_check))
