"""What a check is, and how many of them are run: in order where they depend, else at once."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

CaseT = TypeVar("CaseT")

PATIENCE: Final = 1.0
"""Seconds of a check after which somebody is told that it still runs."""


class Status(enum.StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has found.

    Args:
        status: how it ended.
        text: what was seen.
        advice: what to do about it, and who must; empty if nothing.
        ends: whether there is nothing to be seen for the checks that need this one.
    """

    status: Status
    text: str
    advice: str = ""
    ends: bool = False


def ok(text: str) -> Finding:
    """All is well."""
    return Finding(Status.OK, text)


def warning(text: str, advice: str) -> Finding:
    """It works, and may not for long, or not as is meant."""
    return Finding(Status.WARNING, text, advice)


def wrong(text: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(Status.WRONG, text, advice)


def skipped(text: str) -> Finding:
    """It was not looked at; the text says why."""
    return Finding(Status.SKIPPED, text)


@dataclass(frozen=True)  # slots and generics do not go together in Python 3.11
class Check(Generic[CaseT]):
    """One row of the table.

    Args:
        name: as people read it; unique.
        run: looks, and notes in the case what later checks need; it may be cancelled.
        needs: checks that must have ended, neither wrong nor skipped, and leave something to be
            seen; else it is skipped.
        after: checks that must have ended.
    """

    name: str
    run: Callable[[CaseT], Awaitable[Finding]]
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a check.

    Args:
        name: which.
        finding: what it has found.
        seconds: how long it took.
        because: the check that it needs and that it was skipped for.
    """

    name: str
    finding: Finding
    seconds: float
    because: str = ""


async def examine(
    checks: Sequence[Check[CaseT]],
    case: CaseT,
    *,
    timeout: float,
    tell: Callable[[Result], None],
    waits: Callable[[str], None],
) -> list[Result]:
    """Run checks.

    Args:
        checks: each behind those that it names.
        case: what they look at.
        timeout: seconds for all of them together; what has not ended by then is wrong.
        tell: called with each result, in the order of the checks.
        waits: called once with the name of each check that takes more than a second.

    Cancellation cancels the checks.
    """
    end = asyncio.get_running_loop().time() + timeout
    tasks: dict[str, asyncio.Task[Result]] = {}
    results = []
    async with asyncio.TaskGroup() as group:
        for check in checks:
            before = {name: tasks[name] for name in (*check.needs, *check.after)}
            tasks[check.name] = group.create_task(
                _run(check, case, before, end=end, timeout=timeout, waits=waits),
                name=f"check {check.name}",
            )
        for task in tasks.values():
            result = await task
            tell(result)
            results.append(result)
    return results


async def _run(
    check: Check[CaseT],
    case: CaseT,
    before: Mapping[str, asyncio.Task[Result]],
    *,
    end: float,
    timeout: float,
    waits: Callable[[str], None],
) -> Result:
    for task in before.values():
        await asyncio.wait({task})
    loop = asyncio.get_running_loop()
    for name in check.needs:
        met = before[name].result()
        if met.finding.ends or met.finding.status in _UNMET:
            because = met.because or name
            return Result(check.name, skipped(f"not looked at, because of {because}"), 0.0, because)
    began = loop.time()
    timer = loop.call_later(PATIENCE, waits, check.name)
    try:
        async with asyncio.timeout_at(end) as bound:
            finding = await check.run(case)
    except Exception as error:  # noqa: BLE001 - one check must not end the others
        finding = _not_known(error, timeout if bound.expired() else None)
    finally:
        timer.cancel()
    return Result(check.name, finding, loop.time() - began)


def _not_known(error: Exception, timeout: float | None) -> Finding:
    if timeout is not None:
        return wrong(
            f"not known: it took longer than all checks may, {timeout:g} s",
            "Try again with a longer --deadline; what takes so long hangs, or its network does.",
        )
    return wrong(
        f"not known: the check itself failed: {type(error).__name__}: {error}",
        "This is a bug of gateway-broker: report it, with this line.",
    )


_UNMET: Final = frozenset({Status.WRONG, Status.SKIPPED})
