"""The tail of the log: order, filters, signals and slow watchers."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace

import pytest

from broker.errors import SlowConsumerError
from broker.events.hub import Entry, Hub, Signal
from broker.events.log import BATCH
from broker.session import machine
from broker.session.filters import SessionFilter
from broker.session.inputs import LinkEnded
from broker.session.model import CloseReason, SessionEvent, SessionState
from tests.unit.test_machine import CORRELATION, END, NOW, UP, spec, step

EVERYTHING = SessionFilter()


def story(owner: str = "alice", first_revision: int = 1) -> list[SessionEvent]:
    """Opened, connected, asked to close, closed; with revisions as the store gives them."""
    opened = machine.open_session(
        spec(session_id=uuid.uuid4(), owner=owner), 7, now=NOW, correlation_id=CORRELATION
    )
    session, events = opened.session, list(opened.events)
    for item in (UP, END, LinkEnded()):
        done = step(session, item)
        session = done.session
        events += done.events
    return [
        replace(event, revision=revision, session=replace(event.session, revision=revision))
        for revision, event in enumerate(events, first_revision)
    ]


async def read(
    hub: Hub, count: int, wanted: SessionFilter = EVERYTHING, after: int = 0
) -> list[int]:
    """The revisions of the next entries."""
    revisions: list[int] = []
    async for item, revision in hub.tail(wanted, after, idle=5):
        assert isinstance(item, Entry)
        revisions.append(revision)
        if len(revisions) == count:
            return revisions
    return revisions


async def test_a_tail_gives_every_event_once_and_in_order() -> None:
    hub = Hub(0, capacity=100)
    hub.publish(story())
    reader = asyncio.create_task(read(hub, 8), name="reader")
    await asyncio.sleep(0)
    hub.publish(story(first_revision=5))
    assert await reader == list(range(1, 9))


async def test_only_sessions_that_are_not_final_are_kept() -> None:
    hub = Hub(0, capacity=100)
    events = story()
    hub.publish(events[:2])
    [session] = hub.sessions.values()
    assert session.state is SessionState.CONNECTED
    hub.publish(events[2:])
    assert not hub.sessions
    assert hub.revision == 4
    assert events[-1].session.close_reason == CloseReason.CLOSE_REQUESTED


async def test_an_event_concerns_a_watcher_if_the_session_matched_before_or_after() -> None:
    hub = Hub(0, capacity=100)
    hub.publish(story())
    wanted = SessionFilter(states=frozenset({SessionState.CONNECTED}))
    # 2 enters CONNECTED, 3 stays in it (closing), 4 leaves it.
    assert await read(hub, 3, wanted) == [2, 3, 4]


async def test_another_owners_events_are_passed_over_but_counted() -> None:
    hub = Hub(0, capacity=100)
    hub.publish(story("bob"))
    hub.publish(story("alice", first_revision=5))
    assert await read(hub, 4, SessionFilter(owner="alice")) == [5, 6, 7, 8]


async def test_a_watcher_that_the_ring_has_passed_is_cut() -> None:
    hub = Hub(0, capacity=4)
    tail = hub.tail(EVERYTHING, 0, idle=5)
    hub.publish(story())
    assert (await anext(tail))[1] == 1
    hub.publish(story(first_revision=5))
    with pytest.raises(SlowConsumerError, match="7 events behind"):
        await anext(tail)


async def test_an_idle_tail_says_so_again_and_again() -> None:
    hub = Hub(3, capacity=4)
    tail = hub.tail(EVERYTHING, 3, idle=0.01)
    assert await anext(tail) == (Signal.IDLE, 3)
    assert await anext(tail) == (Signal.IDLE, 3)
    await tail.aclose()


async def test_a_watcher_of_other_sessions_moves_on_by_bookmarks() -> None:
    hub = Hub(0, capacity=4)
    tail = hub.tail(SessionFilter(owner="bob"), 0, idle=0.05)
    for first in (1, 5, 9):
        hub.publish(story("alice", first_revision=first))
        assert await anext(tail) == (Signal.IDLE, first + 3)
    await tail.aclose()


async def test_draining_is_told_once_and_what_follows_is_still_delivered() -> None:
    hub = Hub(0, capacity=100)
    tail = hub.tail(EVERYTHING, 0, idle=5)
    hub.announce_draining()
    assert await anext(tail) == (Signal.DRAINING, 0)
    hub.publish(story())
    hub.end()
    assert [revision async for _, revision in tail] == [1, 2, 3, 4]


async def test_a_cancelled_watcher_leaves_nothing_behind() -> None:
    hub = Hub(0, capacity=4)
    task = asyncio.create_task(read(hub, 1), name="reader")
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not hub._waiters


async def test_a_watcher_that_has_read_everything_is_not_cut_by_one_batch() -> None:
    hub = Hub(0, capacity=2 * BATCH)
    reader = asyncio.create_task(read(hub, BATCH), name="reader")
    await asyncio.sleep(0)
    hub.publish([event for n in range(BATCH // 4) for event in story(first_revision=1 + 4 * n)])
    assert await reader == list(range(1, BATCH + 1))
