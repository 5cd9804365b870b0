"""What a watcher is told first, with and without a token, and when it must begin anew."""

from __future__ import annotations

import uuid
from typing import Any, cast

import pytest

from broker.events.archive import Archive, Entry
from broker.events.hub import Hub
from broker.events.token import NOWHERE, ResumeToken
from broker.events.watch import ResetReason, SnapshotComplete, Watches
from broker.session.filters import SessionFilter
from broker.session.model import Session
from broker.store.base import Store
from tests.memory_store import MemoryStore
from tests.unit.test_hub import story, unkept

STORE_ID = uuid.UUID("5f0c7a57-6a7e-4b8d-9d4b-0d0f3a1f2c11")


class Named(MemoryStore):
    store_id = STORE_ID


async def watches(stories: int, *, memory: int = 100, keep: int = 10**6) -> Watches:
    """Of a log with so many stories, of which the last one is half told."""
    store = Named()
    events = [event for n in range(stories) for event in story(first_revision=1 + 4 * n)][:-2]
    await store.append(events)
    oldest = await store.raise_horizon(10.0**9, keep)
    await store.expire_events(10**6)
    hub = Hub(Archive(cast("Store", store)), memory=memory, lag=1000, oldest=oldest)
    hub.publish(events)
    return Watches(hub, cast("Store", store), idle=5)


async def told(watched: Watches, count: int, revision: int | None = None) -> list[Any]:
    """What a watcher is told first, each with the revision up to which it has all."""
    token = None if revision is None else ResumeToken(STORE_ID, revision)
    found: list[Any] = []
    async for what, place in watched.follow(SessionFilter(), include_final=False, token=token):
        match what:
            case Session():
                found.append(("snapshot", place))
            case Entry():
                found.append((what.event.revision, place))
            case SnapshotComplete():
                found.append(("complete", place))
            case _:
                found.append((what, place))
        if len(found) == count:
            break
    return found


async def test_without_a_token_sessions_are_told_and_then_what_follows() -> None:
    watched = await watches(2)
    assert await told(watched, 2) == [("snapshot", NOWHERE), ("complete", 6)]


async def test_with_a_token_only_what_is_newer_is_told() -> None:
    watched = await watches(2)
    assert await told(watched, 2, revision=4) == [(5, 5), (6, 6)]


async def test_a_token_of_the_newest_event_is_told_nothing_until_there_is_more() -> None:
    watched = await watches(2)
    following = watched.follow(SessionFilter(), include_final=False, token=ResumeToken(STORE_ID, 6))
    waiting = anext(following)
    watched.hub.publish(story(first_revision=7)[:1])
    what, place = await waiting
    assert (cast("Entry", what).event.revision, place) == (7, 7)


async def test_a_token_older_than_memory_is_continued_from_the_record() -> None:
    watched = await watches(50, memory=16)
    assert await told(watched, 198, revision=0) == [(n, n) for n in range(1, 199)]


@pytest.mark.parametrize(
    ("revision", "reason"),
    [
        (7, ResetReason.TOKEN_AHEAD),
        (NOWHERE, ResetReason.SNAPSHOT_INCOMPLETE),
    ],
)
async def test_a_token_that_is_no_place_in_the_log_is_reset(
    revision: int, reason: ResetReason
) -> None:
    watched = await watches(2)
    assert await told(watched, 3, revision=revision) == [
        (reason, NOWHERE),
        ("snapshot", NOWHERE),
        ("complete", 6),
    ]


async def test_a_token_of_another_log_is_reset() -> None:
    watched = await watches(2)
    following = watched.follow(
        SessionFilter(), include_final=False, token=ResumeToken(uuid.uuid4(), 4)
    )
    assert await anext(following) == (ResetReason.TOKEN_OF_ANOTHER_STORE, NOWHERE)


async def test_a_token_that_retention_has_passed_is_reset_and_the_next_one_is_not() -> None:
    watched = await watches(50, memory=16, keep=100)
    assert watched.hub.oldest == 99
    assert await told(watched, 3, revision=97) == [
        (ResetReason.TOKEN_TOO_OLD, NOWHERE),
        ("snapshot", NOWHERE),
        ("complete", 198),
    ]
    assert await told(watched, 2, revision=98) == [(99, 99), (100, 100)]


async def test_a_watcher_whose_next_events_are_deleted_begins_anew_on_the_same_stream() -> None:
    watched = await watches(50, memory=16)
    following = watched.follow(SessionFilter(), include_final=False, token=ResumeToken(STORE_ID, 0))
    assert (await anext(following))[1] == 1
    store = cast("Named", watched.store)
    watched.hub.expire(await store.raise_horizon(10.0**9, 20))
    await store.expire_events(10**6)
    seen = [await anext(following)]
    while not isinstance(seen[-1][0], ResetReason):
        seen.append(await anext(following))
    # What had been read already is told; then the gap is said.
    assert [place for _, place in seen[:-1]] == list(range(2, 2 + len(seen) - 1))
    assert seen[-1][0] is ResetReason.EVENTS_EXPIRED
    assert isinstance((await anext(following))[0], Session)
    assert (await anext(following))[1] == 198


async def test_a_snapshot_is_of_what_is_on_record_and_what_waits_follows_it() -> None:
    watched = await watches(2)
    more = story(first_revision=7)
    watched.hub.publish_provisional(unkept(more[:2]))
    assert await told(watched, 4) == [
        ("snapshot", NOWHERE),
        ("complete", 6),
        (0, 6),
        (0, 6),
    ]
