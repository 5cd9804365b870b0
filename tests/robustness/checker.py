"""Holds a history against every guarantee."""

from __future__ import annotations

from collections.abc import Sequence

from tests.robustness.guarantees import (
    answers,
    delivery,
    positions,
    reads,
    record,
    rest,
    states,
)
from tests.robustness.history import History
from tests.robustness.verdict import GUARANTEES, Violation

MODULES = (delivery, positions, states, record, reads, answers, rest)
"""Where they are written."""


def check(history: History) -> list[Violation]:
    """All violations, guarantee by guarantee."""
    return [violation for check in GUARANTEES.values() for violation in check(history)]


def report(violations: Sequence[Violation], most: int = 5) -> str:
    """The violations as text, at most so many of each guarantee."""
    lines = []
    for name in GUARANTEES:
        of_this = [violation for violation in violations if violation.guarantee == name]
        lines += [str(violation) for violation in of_this[:most]]
        if len(of_this) > most:
            lines.append(f"{name}: and {len(of_this) - most} more")
    return "\n".join(lines)
