"""The way into the record, in virtual time: order, patience, and what is visible meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

import pytest

from broker.errors import StoreUnavailableError
from broker.events.archive import Archive
from broker.events.hub import Hub
from broker.events.log import ALARMS, CAPACITY, RESERVE, EventLog
from broker.session.model import SessionEvent, SessionNotice
from broker.store.base import Store
from tests.memory_store import MemoryStore
from tests.unit.test_hub import story, unkept
from tests.unit.test_machine import NOW
from tests.virtual_time import run

GRACE = 0.25


class Away(MemoryStore):
    """Takes nothing while it is away, and its time while it is slow."""

    away = False
    delay = 0.0

    async def append(self, events: Sequence[SessionEvent]) -> Sequence[int]:
        await asyncio.sleep(self.delay)
        if self.away:
            raise StoreUnavailableError("it is away")
        return await super().append(events)


class World:
    def __init__(self) -> None:
        self.store = Away()
        self.hub = Hub(Archive(cast("Store", self.store)), memory=100, lag=1000)
        self.log = EventLog(cast("Store", self.store), self.hub, grace=GRACE)

    def shown(self) -> list[tuple[int, int]]:
        """Sequence and revision of each session that is visible."""
        return [(session.sequence, session.revision) for session in self.hub.visible()]


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    made = World()
    async with asyncio.TaskGroup() as tasks:
        writer = tasks.create_task(made.log.run(), name="event-log")
        yield made
        writer.cancel()


def test_what_is_kept_in_time_is_visible_once_it_is_kept() -> None:
    async def body() -> None:
        async with world() as made:
            made.store.delay = GRACE / 2
            receipt = made.log.submit(unkept(story()[:2]))
            await asyncio.sleep(GRACE / 4)
            assert made.shown() == []
            assert not receipt.visible.done()
            session = await receipt.visible
            assert receipt.kept.result() == session
            assert (session.sequence, session.revision) == (2, 2)
            assert made.shown() == [(2, 2)]

    run(body())


def test_what_is_late_is_visible_before_it_is_kept() -> None:
    async def body() -> None:
        async with world() as made:
            made.store.away = True
            receipt = made.log.submit(unkept(story()[:2]))
            begin = asyncio.get_running_loop().time()
            session = await receipt.visible
            assert asyncio.get_running_loop().time() - begin == pytest.approx(GRACE)
            assert (session.sequence, session.revision) == (2, 0)
            assert made.shown() == [(2, 0)]
            assert not receipt.kept.done()
            made.store.away = False
            assert (await receipt.kept).revision == 2
            assert made.shown() == [(2, 2)]
            assert made.log.depth == 0

    run(body())


def test_while_something_waits_all_that_is_new_is_visible_at_once_and_kept_in_order() -> None:
    async def body() -> None:
        async with world() as made:
            made.store.away = True
            first, second = unkept(story("alice")), unkept(story("bob"))
            await made.log.submit(first[:1]).visible
            receipts = [made.log.submit(second[:2]), made.log.submit(first[1:3])]
            assert all(receipt.visible.done() for receipt in receipts)
            assert made.shown() == [(3, 0), (2, 0)]
            with pytest.raises(StoreUnavailableError):
                made.log.require_available()
            made.store.away = False
            assert await made.log.flush(10)
            assert [(e.session_id, e.sequence) for e in made.store.events] == [
                (first[0].session_id, 1),
                (second[0].session_id, 1),
                (second[0].session_id, 2),
                (first[0].session_id, 2),
                (first[0].session_id, 3),
            ]
            made.log.require_available()

    run(body())


def test_once_all_is_kept_new_events_wait_for_the_record_again() -> None:
    async def body() -> None:
        async with world() as made:
            made.store.away = True
            events = unkept(story())
            await made.log.submit(events[:1]).visible
            made.store.away = False
            assert await made.log.flush(10)
            made.store.delay = GRACE / 2
            receipt = made.log.submit(events[1:2])
            assert not receipt.visible.done()
            assert (await receipt.visible).revision == 2

    run(body())


def test_an_event_that_comes_behind_a_slow_one_is_late_by_its_own_clock() -> None:
    async def body() -> None:
        async with world() as made:
            loop = asyncio.get_running_loop()
            begin = loop.time()
            made.store.delay = GRACE * 0.7
            first = made.log.submit(unkept(story()[:1]))
            await asyncio.sleep(GRACE * 0.5)
            second = made.log.submit(unkept(story()[:1]))
            await first.kept
            # One grace after the first began; the second has waited for half of one.
            await asyncio.sleep(GRACE * 0.3)
            assert not second.visible.done()
            made.store.delay = GRACE * 9
            third = made.log.submit(unkept(story()[:1]))
            assert (await second.visible).revision == 2
            assert loop.time() - begin == pytest.approx(GRACE * 1.4)
            assert (await third.visible).revision == 0
            assert loop.time() - begin == pytest.approx(GRACE * 2)
            assert (await third.kept).revision == 3

    run(body())


def notices(count: int) -> list[SessionEvent]:
    [opened, *_] = unkept(story())
    notice = SessionNotice("OVERDUE", "x", "x", "x", NOW)
    return [
        SessionEvent(opened.session_id, n, NOW, opened.correlation_id, notice, opened.session)
        for n in range(2, 2 + count)
    ]


def test_a_journal_that_fills_gives_alarm_and_keeps_room_for_transitions(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def body() -> None:
        made = World()
        for event in notices(CAPACITY - RESERVE):
            made.log.submit([event])
        with pytest.raises(StoreUnavailableError, match=f"{CAPACITY - RESERVE} events wait"):
            made.log.submit(notices(1))
        for _ in range(RESERVE):
            made.log.submit(unkept(story()[:1]))
        with pytest.raises(StoreUnavailableError):
            made.log.submit(unkept(story()[:1]))
        assert made.log.depth == CAPACITY

    run(body())
    told = [record.events for record in caplog.records if record.levelname == "ERROR"]  # type: ignore[attr-defined]
    assert told == list(ALARMS)


def test_a_flush_that_is_in_vain_says_so() -> None:
    async def body() -> None:
        async with world() as made:
            made.store.away = True
            made.log.submit(unkept(story()[:1]))
            assert not await made.log.flush(5)

    run(body())
