"""What the log and its readers rely on, of the record in memory as of the real one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import pytest

from broker.session.model import SessionEvent, SessionState, Transition
from broker.store.base import LogPage
from broker.store.postgres import RecordRefusedError
from broker.store.record import PostgresStore
from tests.integration.test_store import life, opened
from tests.memory_store import MemoryStore

Record: TypeAlias = MemoryStore | PostgresStore
YEAR = 365 * 86400.0


@pytest.fixture(params=["real", "memory"])
def record(request: pytest.FixtureRequest) -> Record:
    if request.param == "memory":
        return MemoryStore()
    store: PostgresStore = request.getfixturevalue("store")
    return store


def kept(events: Sequence[SessionEvent], first: int = 1) -> list[SessionEvent]:
    """As the record gives them back."""
    return [
        replace(event, revision=number, session=replace(event.session, revision=number))
        for number, event in enumerate(events, first)
    ]


def told(page: LogPage) -> tuple[list[int], int, int]:
    return [event.revision for event in page.events], page.oldest, page.newest


async def test_nothing_is_appended_by_nothing(record: Record) -> None:
    assert list(await record.append([])) == []
    assert await record.revision() == 0


async def test_revisions_are_dense_over_all_sessions(record: Record) -> None:
    one, two = life(7), life(8)
    mixed = [event for pair in zip(one, two, strict=True) for event in pair]
    assert list(await record.append(mixed[:5])) == [1, 2, 3, 4, 5]
    assert list(await record.append(mixed[5:6])) == [6]
    assert list(await record.append(mixed[6:])) == list(range(7, len(mixed) + 1))
    assert await record.revision() == len(mixed)


async def test_an_event_that_is_recorded_keeps_its_revision(record: Record) -> None:
    events, other = life(7), opened(8)
    await record.append(events[:3])
    await record.append(other)
    assert list(await record.append(events[1:2])) == [2]
    assert list(await record.append([*other, *events])) == [4, 1, 2, 3, *range(5, len(events) + 2)]
    assert list(await record.append(events)) == [1, 2, 3, *range(5, len(events) + 2)]
    assert await record.revision() == len(events) + 1


async def test_a_gap_is_refused_and_nothing_of_its_batch_is_written(record: Record) -> None:
    events = life(7)
    await record.append(events[:1])
    for batch in (
        events[2:3],
        events[2:4],
        [events[1], events[3]],
        [*opened(8), *events[2:3]],
        life(9)[1:],
        [events[1], events[1]],
    ):
        with pytest.raises(RecordRefusedError):
            await record.append(batch)
        assert await record.revision() == 1
        assert told(await record.read_log(0, limit=9)) == ([1], 1, 1)
    assert list(await record.append(events[1:2])) == [2]


async def test_an_event_that_does_not_leave_the_sessions_state_is_refused(record: Record) -> None:
    events = life(7)
    await record.append(events[:2])
    assert isinstance(events[2].change, Transition)
    wrong = replace(events[2].change, source=SessionState.RECONNECTING, number=7)
    with pytest.raises(RecordRefusedError):
        await record.append([replace(events[2], change=wrong)])
    await record.append(events[2:3])


async def test_nothing_follows_the_end_of_a_session(record: Record) -> None:
    events = life(7)
    await record.append(events)
    last = events[-1]
    again = opened(7)[0]
    number = last.sequence + 1
    with pytest.raises(RecordRefusedError):
        await record.append(
            [
                replace(
                    again,
                    session_id=last.session_id,
                    sequence=number,
                    session=replace(again.session, spec=last.session.spec, sequence=number),
                )
            ]
        )
    assert await record.revision() == len(events)


async def test_an_empty_log_has_an_oldest_revision_that_is_not_there_yet(record: Record) -> None:
    assert told(await record.read_log(0, limit=10)) == ([], 1, 0)
    assert told(await record.read_log(5, limit=10)) == ([], 1, 0)


async def test_the_log_is_read_stretch_by_stretch_as_it_was_written(record: Record) -> None:
    events = [*life(7), *life(8)]
    await record.append(events)
    count = len(events)
    assert list((await record.read_log(0, limit=1000)).events) == kept(events)
    for after, limit in ((0, 1), (0, 5), (5, 5), (count - 2, 5), (count - 1, 1)):
        page = await record.read_log(after, limit=limit)
        wanted = list(range(after + 1, min(after + limit, count) + 1))
        assert told(page) == (wanted, 1, count)
    for after in (count, count + 5):
        assert told(await record.read_log(after, limit=5)) == ([], 1, count)


async def test_below_the_horizon_there_is_nothing_whether_it_is_deleted_yet_or_not(
    record: Record,
) -> None:
    events = life(7)
    await record.append(events)
    count = len(events)
    assert await record.raise_horizon(100 * YEAR, 4) == count - 3
    kept_revisions = list(range(count - 3, count + 1))
    for _ in range(3):
        assert told(await record.read_log(0, limit=100)) == (kept_revisions, count - 3, count)
        assert told(await record.read_log(0, limit=3)) == ([], count - 3, count)
        page = await record.read_log(count - 5, limit=2)
        assert told(page) == ([count - 3], count - 3, count)
        await record.expire_events(3)
    assert await record.revision() == count


async def test_what_is_given_up_is_deleted_in_portions(record: Record) -> None:
    events = [*life(7), *life(8)]
    await record.append(events)
    assert await record.expire_events(100) == 0
    await record.raise_horizon(100 * YEAR, 3)
    doomed = len(events) - 3
    assert [await record.expire_events(6) for _ in range(4)] == [6, 6, doomed - 12, 0]
    await record.raise_horizon(100 * YEAR, 2)
    assert [await record.expire_events(6) for _ in range(2)] == [1, 0]
    assert list(await record.append(opened(9))) == [len(events) + 1]


async def test_the_horizon_follows_age_and_number_and_never_goes_back(record: Record) -> None:
    now = datetime.now(UTC)
    for days in (30, 20, 10, 20, 0):
        event = opened(int(await record.revision()) + 1, at=now - timedelta(days=days))
        await record.append(event)

    async def raised(days: float, events: int) -> int:
        return await record.raise_horizon(days * 86400, events)

    assert await raised(40, 10) == 1
    assert await raised(25, 10) == 2
    assert await raised(40, 10) == 2
    # The third is younger than the fourth, and keeps it.
    assert await raised(15, 10) == 3
    assert await raised(15, 5) == 3
    assert await raised(15, 2) == 5
    assert await raised(0, 10) == 6
    assert await raised(0, 1) == 6
    assert told(await record.read_log(0, limit=10)) == ([], 6, 5)
    await record.append(opened(9))
    assert told(await record.read_log(0, limit=10)) == ([6], 6, 6)
