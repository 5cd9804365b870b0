"""The tail of the log: order, filters, signals, slow watchers, and what is not kept yet."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from broker.errors import SlowConsumerError, StoreUnavailableError
from broker.events.archive import BLOCK, Archive, Entry
from broker.events.hub import ExpiredError, Hub, Signal
from broker.events.log import BATCH
from broker.session import machine
from broker.session.filters import SessionFilter
from broker.session.inputs import LinkEnded
from broker.session.model import CloseReason, SessionEvent, SessionState
from broker.store.base import LogPage, Store
from tests.harness import eventually
from tests.memory_store import MemoryStore
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
    return [kept(event, revision) for revision, event in enumerate(events, first_revision)]


def kept(event: SessionEvent, revision: int) -> SessionEvent:
    return replace(event, revision=revision, session=replace(event.session, revision=revision))


def unkept(events: Sequence[SessionEvent]) -> list[SessionEvent]:
    """As they are before the store has taken them."""
    return [kept(event, 0) for event in events]


class Counted(MemoryStore):
    """Says how often it was read."""

    reads = 0

    async def read_log(self, after: int, *, limit: int) -> LogPage:
        self.reads += 1
        await asyncio.sleep(0)
        return await super().read_log(after, limit=limit)


def hub(
    store: MemoryStore | None = None, *, memory: int = 100, lag: int = 1000, **more: Any
) -> Hub:
    archive = Archive(cast("Store", store or MemoryStore()))
    return Hub(archive, memory=memory, lag=lag, **more)


async def filled(stories: int) -> tuple[Counted, list[SessionEvent]]:
    """A record with so many stories, four events each."""
    store = Counted()
    events = [event for n in range(stories) for event in story(first_revision=1 + 4 * n)]
    await store.append(events)
    return store, events


async def read(
    told: Hub, count: int, wanted: SessionFilter = EVERYTHING, after: int = 0
) -> list[int]:
    """The revisions of the next entries."""
    revisions: list[int] = []
    async for item, revision in told.tail(wanted, after, idle=5):
        assert isinstance(item, Entry)
        revisions.append(revision)
        if len(revisions) == count:
            return revisions
    return revisions


async def test_a_tail_gives_every_event_once_and_in_order() -> None:
    told = hub()
    told.publish(story())
    reader = asyncio.create_task(read(told, 8), name="reader")
    await asyncio.sleep(0)
    told.publish(story(first_revision=5))
    assert await reader == list(range(1, 9))


async def test_only_sessions_that_are_not_final_are_kept() -> None:
    told = hub()
    events = story()
    told.publish(events[:2])
    [session] = told.visible()
    assert session.state is SessionState.CONNECTED
    assert told.find(events[0].session_id) == session
    told.publish(events[2:])
    assert not told.visible()
    assert told.find(events[0].session_id) is None
    assert told.revision == 4
    assert events[-1].session.close_reason == CloseReason.CLOSE_REQUESTED


async def test_an_event_concerns_a_watcher_if_the_session_matched_before_or_after() -> None:
    told = hub()
    told.publish(story())
    wanted = SessionFilter(states=frozenset({SessionState.CONNECTED}))
    # 2 enters CONNECTED, 3 stays in it (closing), 4 leaves it.
    assert await read(told, 3, wanted) == [2, 3, 4]


async def test_a_session_was_nothing_before_its_first_event() -> None:
    told = hub()
    told.publish(story())
    assert await read(told, 1, SessionFilter(states=frozenset({SessionState.DISCONNECTED}))) == [4]


async def test_another_owners_events_are_passed_over_but_counted() -> None:
    told = hub()
    told.publish(story("bob"))
    told.publish(story("alice", first_revision=5))
    assert await read(told, 4, SessionFilter(owner="alice")) == [5, 6, 7, 8]


async def test_an_idle_tail_says_so_again_and_again() -> None:
    told = hub(revision=3)
    tail = told.tail(EVERYTHING, 3, idle=0.01)
    assert await anext(tail) == (Signal.IDLE, 3)
    assert await anext(tail) == (Signal.IDLE, 3)
    await tail.aclose()


async def test_a_watcher_of_other_sessions_moves_on_by_bookmarks() -> None:
    told = hub(memory=4)
    tail = told.tail(SessionFilter(owner="bob"), 0, idle=0.05)
    for first in (1, 5, 9):
        told.publish(story("alice", first_revision=first))
        assert await anext(tail) == (Signal.IDLE, first + 3)
    await tail.aclose()


async def test_draining_is_told_once_what_follows_is_delivered_and_the_place_is_the_last() -> None:
    told = hub()
    tail = told.tail(EVERYTHING, 0, idle=5)
    told.announce_draining()
    assert await anext(tail) == (Signal.DRAINING, 0)
    told.publish(story())
    told.end()
    rest = [(item, revision) async for item, revision in tail]
    assert [revision for _, revision in rest] == [1, 2, 3, 4, 4]
    assert rest[-1][0] is Signal.IDLE


async def test_a_cancelled_watcher_leaves_nothing_behind() -> None:
    told = hub()
    task = asyncio.create_task(read(told, 1), name="reader")
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not told._waiters


async def test_a_watcher_that_has_read_everything_needs_no_record_for_one_batch() -> None:
    store, events = await filled(BATCH // 4)
    told = hub(store, memory=2 * BATCH)
    reader = asyncio.create_task(read(told, BATCH), name="reader")
    await asyncio.sleep(0)
    told.publish(events)
    assert await reader == list(range(1, BATCH + 1))
    assert not store.reads


# -- slow watchers ---------------------------------------------------------------------


async def test_a_watcher_that_the_ring_has_passed_reads_the_record_and_misses_nothing() -> None:
    store, events = await filled(50)
    told = hub(store, memory=4)
    tail = told.tail(EVERYTHING, 0, idle=5)
    told.publish(events[:4])
    assert (await anext(tail))[1] == 1
    told.publish(events[4:100])
    seen = [(await anext(tail))[1] for _ in range(99)]
    told.publish(events[100:])
    seen += [(await anext(tail))[1] for _ in range(100)]
    assert seen == list(range(2, 201))
    await tail.aclose()


async def test_the_record_is_read_only_as_far_as_events_are_visible() -> None:
    store, events = await filled(10)
    told = hub(store, memory=2)
    told.publish(events[:20])
    tail = told.tail(EVERYTHING, 0, idle=0.02)
    assert [(await anext(tail))[1] for _ in range(20)] == list(range(1, 21))
    assert await anext(tail) == (Signal.IDLE, 20)
    await tail.aclose()


async def test_a_thousand_watchers_that_come_back_to_one_place_read_each_block_once() -> None:
    store, _events = await filled(100)
    told = hub(store, memory=4, revision=400)
    readers = [asyncio.create_task(read(told, 400), name=f"reader-{n}") for n in range(100)]
    assert all(seen == list(range(1, 401)) for seen in await asyncio.gather(*readers))
    whole, rest = divmod(400, BLOCK)
    assert rest
    # What is not a whole block yet is not kept, and read by each who needs it.
    assert store.reads <= whole + 100


async def test_a_watcher_whose_lag_grows_too_far_is_cut() -> None:
    store, events = await filled(300)
    told = hub(store, memory=4, lag=1000)
    tail = told.tail(EVERYTHING, 0, idle=5)
    told.publish(events[:8])
    assert (await anext(tail))[1] == 1
    told.publish(events[8:1002])
    assert (await anext(tail))[1] == 2
    for _ in range(BLOCK - 2):
        await anext(tail)
    told.publish(events[1002:])
    with pytest.raises(SlowConsumerError, match="1136 events behind"):
        await anext(tail)


async def test_a_watcher_that_resumes_from_far_behind_is_not_cut_for_that() -> None:
    store, _events = await filled(300)
    told = hub(store, memory=4, lag=10, revision=1200)
    assert await read(told, 1200) == list(range(1, 1201))


async def test_a_watcher_for_whom_events_are_gone_is_told_so() -> None:
    store, _events = await filled(100)
    await store.raise_horizon(10**9, 100)
    await store.expire_events(10**9)
    told = hub(store, memory=4, revision=400, oldest=301)
    assert not told.holds(299)
    assert told.holds(300)
    with pytest.raises(ExpiredError):
        await anext(told.tail(EVERYTHING, 299, idle=5))
    assert (await anext(told.tail(EVERYTHING, 300, idle=5)))[1] == 301


async def test_what_memory_still_has_can_be_continued_although_the_record_has_not() -> None:
    told = hub()
    told.publish(story())
    told.expire(4)
    assert told.holds(0)
    assert told.oldest == 4
    told.expire(2)
    assert told.oldest == 4


# -- what is seen of it ----------------------------------------------------------------


async def test_the_lag_is_that_of_the_watcher_furthest_behind_and_goes_with_it() -> None:
    told = hub()
    assert (told.watchers, told.lag) == (0, 0)
    told.publish(story())
    slow, quick = (told.tail(EVERYTHING, after, idle=5) for after in (0, 3))
    assert await next_ones(slow, 1) == [(1, 1, 1)]
    assert await next_ones(quick, 1) == [(4, 4, 4)]
    assert (told.watchers, told.lag) == (2, 3)
    told.publish(story("bob", first_revision=5))
    assert told.lag == 7
    await slow.aclose()
    assert (told.watchers, told.lag) == (1, 4)
    del quick  # nobody reads it any more
    await eventually(lambda: (told.watchers, told.lag) == (0, 0))


async def test_each_event_is_seen_once_with_its_session_before_it() -> None:
    seen: list[tuple[SessionState | None, int]] = []
    told = hub(seen=lambda before, event: seen.append((before and before.state, event.sequence)))
    events = story()
    told.publish(events[:1])
    told.publish_provisional(unkept(events[1:3]))
    told.publish(events[1:])
    connecting, connected = SessionState.CONNECTING, SessionState.CONNECTED
    assert seen == [(None, 1), (connecting, 2), (connected, 3), (connected, 4)]


# -- while the database is away --------------------------------------------------------


async def next_ones(tail: Any, count: int) -> list[tuple[int, int, int]]:
    """Revision of the watcher, of the event, and its sequence."""
    found = []
    for _ in range(count):
        item, revision = await anext(tail)
        found.append((revision, item.event.revision, item.event.sequence))
    return found


async def test_what_is_not_kept_is_told_with_revision_0_and_again_once_it_is() -> None:
    told = hub()
    events = story()
    told.publish(events[:1])
    tail = told.tail(EVERYTHING, 0, idle=5)
    assert await next_ones(tail, 1) == [(1, 1, 1)]
    told.publish_provisional(unkept(events[1:]))
    assert await next_ones(tail, 3) == [(1, 0, 2), (1, 0, 3), (1, 0, 4)]
    told.publish(events[1:])
    assert await next_ones(tail, 3) == [(2, 2, 2), (3, 3, 3), (4, 4, 4)]
    await tail.aclose()


async def test_who_comes_while_events_wait_is_told_all_that_wait() -> None:
    told = hub()
    events = story()
    told.publish(events[:2])
    told.publish_provisional(unkept(events[2:]))
    early = told.tail(EVERYTHING, 2, idle=5)
    assert await next_ones(early, 2) == [(2, 0, 3), (2, 0, 4)]
    told.publish(events[2:3])
    late = told.tail(EVERYTHING, 2, idle=5)
    assert await next_ones(late, 2) == [(3, 3, 3), (3, 0, 4)]
    assert await next_ones(early, 1) == [(3, 3, 3)]


async def test_a_slow_watcher_is_not_told_what_is_kept_by_then() -> None:
    told = hub()
    events = story()
    tail = told.tail(EVERYTHING, 0, idle=0.02)
    told.publish_provisional(unkept(events))
    assert await next_ones(tail, 1) == [(0, 0, 1)]
    told.publish(events)
    assert await next_ones(tail, 4) == [(1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4)]
    assert await anext(tail) == (Signal.IDLE, 4)
    await tail.aclose()


async def test_a_filter_holds_for_what_is_not_kept_too() -> None:
    told = hub()
    told.publish_provisional(unkept(story("bob")))
    told.publish_provisional(unkept(story("alice")))
    tail = told.tail(SessionFilter(owner="alice"), 0, idle=5)
    assert await next_ones(tail, 4) == [(0, 0, n) for n in range(1, 5)]


async def test_sessions_are_found_as_they_are_visible_and_kept_as_they_are_on_record() -> None:
    told = hub()
    events = story()
    session_id = events[0].session_id
    told.publish(events[:1])
    [up, _asked, ended] = told.publish_provisional(unkept(events[1:]))
    assert (up.revision, up.state) == (1, SessionState.CONNECTED)
    assert told.find(session_id) == ended
    assert told.visible() == []
    assert told.kept[session_id].sequence == 1
    told.publish(events[1:3])
    assert told.find(session_id) == ended
    told.publish(events[3:])
    assert told.find(session_id) is None
    assert not told._shown
    assert not told._provisional


class Stalled(Counted):
    """Does not answer; whoever asks is told so after a while."""

    async def read_log(self, after: int, *, limit: int) -> LogPage:
        self.reads += 1
        await asyncio.sleep(0.05)
        raise StoreUnavailableError("no answer")


async def test_a_record_that_does_not_answer_is_asked_once_for_all_who_wait() -> None:
    store = Stalled()
    told = hub(store, memory=4, revision=400)
    readers = [asyncio.create_task(read(told, 1), name=f"reader-{n}") for n in range(50)]
    for outcome in await asyncio.gather(*readers, return_exceptions=True):
        assert isinstance(outcome, StoreUnavailableError)
    assert store.reads == 1
    with pytest.raises(StoreUnavailableError):
        await read(told, 1)
    assert store.reads == 2
