"""How long a state or a condition may last before somebody is told, and when again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Budgets:
    """What may pass without alarm, in seconds.

    Args:
        connecting: a session may be CONNECTING.
        reconnecting: a session may be RECONNECTING.
        condition: a condition may be FALSE.
    """

    connecting: float = 60.0
    reconnecting: float = 300.0
    condition: float = 300.0


def next_alarm(since: datetime, budget: float, now: datetime) -> datetime:
    """The first alarm after ``now``: they come 1, 2, 4, 8 … budgets after ``since``.

    Never silent and never a flood: each waits as long as it has lasted already.

    Args:
        since: when the state or condition began.
        budget: seconds that it may last.
        now: the time; an alarm at this very moment is not after it.
    """
    # A budget that no clock can measure would never grow.
    distance = max(timedelta(seconds=budget), timedelta.resolution)
    while since + distance <= now:
        distance *= 2
    return since + distance
