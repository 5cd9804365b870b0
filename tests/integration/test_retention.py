"""The record does not grow without end, and nobody who writes it has to wait for that."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from broker.errors import StoreUnavailableError
from broker.session.inputs import LinkUp
from broker.store import expiry
from broker.store.expiry import Expiry
from broker.store.postgres import Database, StoreSettings
from broker.store.queries import QUERIES
from broker.store.record import PostgresStore
from tests.integration.test_store import after, failed, life, opened
from tests.postgres import execute

YEAR = 365 * 86400.0
DAY = 86400.0


async def revisions(dsn: str) -> list[int]:
    """Those of the events that are really there."""
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch("SELECT revision FROM session_events ORDER BY revision")
    await connection.close()
    return [row[0] for row in rows]


async def horizon(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    found: int = await connection.fetchval("SELECT retention_horizon FROM broker_store")
    await connection.close()
    return found


async def aged(store: PostgresStore, days: Sequence[float]) -> None:
    """Record events that are so many days old."""
    now = datetime.now(UTC)
    for number, age in enumerate(days, 1):
        await store.append(opened(number, at=now - timedelta(days=age)))


@pytest.mark.requirement("AC-012")
@pytest.mark.requirement("AC-012")
async def test_cleanup_deletes_only_old_final_sessions_without_events(
    store: PostgresStore, database_url: str
) -> None:
    old, active, never = life(1), opened(2), failed(3)
    await store.append([*old, *active, *never])
    assert await store.cleanup_stale_connections(0, limit=100) == 0
    await store.raise_horizon(0, 100)
    # Given up is not deleted: the rows that events refer to must outlive them.
    assert await store.cleanup_stale_connections(0, limit=100) == 0
    assert await store.expire_events(100) == len(old) + len(active) + len(never)
    assert await store.cleanup_stale_connections(100 * YEAR, limit=100) == 0
    assert await store.cleanup_stale_connections(60, limit=1) == 1
    assert await store.cleanup_stale_connections(60, limit=100) == 1
    assert await store.cleanup_stale_connections(60, limit=100) == 0
    assert await store.get_connection(old[0].session_id) is None
    assert await store.get_connection(never[0].session_id) is None
    assert await store.get_connection(active[0].session_id) is not None
    assert await store.revision() == len(old) + len(active) + len(never)
    assert await revisions(database_url) == []


async def test_a_session_of_which_one_event_is_kept_is_kept(store: PostgresStore) -> None:
    events = life(1)
    await store.append(events)
    await store.raise_horizon(100 * YEAR, 1)
    assert await store.expire_events(100) == len(events) - 1
    assert await store.cleanup_stale_connections(0, limit=100) == 0
    assert [event.sequence for event in await store.list_events(events[0].session_id, limit=9)] == [
        len(events)
    ]


async def test_a_session_goes_on_after_its_events_have_expired(store: PostgresStore) -> None:
    events = opened()
    await store.append(events)
    await store.raise_horizon(0, 100)
    assert await store.expire_events(100) == 1
    assert await store.list_events(events[0].session_id, limit=9) == []
    up = after(events, LinkUp(server_version=178, accounts=("A",)))
    assert list(await store.append(up)) == [2]
    assert [event.revision for event in (await store.read_log(0, limit=9)).events] == [2]


async def test_the_history_of_a_session_begins_at_the_horizon(store: PostgresStore) -> None:
    events = life()
    await store.append(events)
    await store.raise_horizon(100 * YEAR, 3)
    found = await store.list_events(events[0].session_id, limit=100)
    assert [event.sequence for event in found] == list(range(len(events) - 2, len(events) + 1))


async def test_the_horizon_passes_old_events_only_whatever_their_order(
    store: PostgresStore, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 25
    await aged(store, [1.0] * count)
    await execute(
        database_url, "ALTER TABLE session_events DISABLE TRIGGER session_events_immutable"
    )
    connection = await asyncpg.connect(database_url)
    dice = random.Random(20)
    for _ in range(60):
        monkeypatch.setattr(expiry, "_STEP", dice.choice([1, 2, 7, 25, 100]))
        # Mostly in order, as they are recorded; a clock that was set makes exceptions.
        days = sorted((dice.uniform(0, 10) for _ in range(count)), reverse=True)
        for _ in range(dice.choice([0, 1, 5])):
            days[dice.randrange(count)] = dice.uniform(0, 10)
        await connection.executemany(
            "UPDATE session_events SET time = now() - make_interval(secs => $2) "
            "WHERE revision = $1",
            [(number, age * DAY) for number, age in enumerate(days, 1)],
        )
        before = dice.choice([0, 1, 3, 20, count + 1])
        await connection.execute("UPDATE broker_store SET retention_horizon = $1", before)
        max_days, max_events = dice.uniform(-1, 11), dice.choice([1, 3, 24, 25, 26, 10**10])
        wanted = max(before, 1, count + 1 - max_events)
        while wanted <= count and days[wanted - 1] > max_days:
            wanted += 1
        assert await store.raise_horizon(max_days * DAY, max_events) == wanted
        assert await horizon(database_url) == wanted
    await connection.close()


async def test_an_event_that_comes_while_the_horizon_is_looked_for_is_kept(
    store: PostgresStore, database_url: str
) -> None:
    await store.append(life(1))
    database = await Database.open(StoreSettings(database_url))
    found = await Expiry(database).find_horizon(0, 1)
    assert found == len(life(1)) + 1
    await store.append(opened(2))
    # What a command in another process would do with it now.
    for past in (found, found + 100):
        (row,) = await database.fetch("raise_horizon", past)
        assert row["retention_horizon"] <= await store.revision() + 1
    (row,) = await database.fetch("raise_horizon", 3)
    assert row["retention_horizon"] == found + 1
    await database.close()


async def test_what_was_given_up_is_deleted_by_the_next_broker(database_url: str) -> None:
    first = await PostgresStore.open(StoreSettings(database_url), "first")
    await first.append([*life(1), *life(2)])
    await first.raise_horizon(100 * YEAR, 3)
    assert await first.expire_events(2) == 2
    await first.close()
    second = await PostgresStore.open(StoreSettings(database_url), "second")
    doomed = 2 * len(life(1)) - 3
    assert await second.expire_events(100) == doomed - 2
    assert await second.expire_events(100) == 0
    assert await revisions(database_url) == list(range(doomed + 1, doomed + 4))
    await second.close()


async def test_two_that_delete_at_once_delete_each_event_once(
    store: PostgresStore, database_url: str
) -> None:
    events = [event for number in range(1, 31) for event in life(number)]
    await store.append(events)
    await store.raise_horizon(100 * YEAR, 10)
    database = await Database.open(StoreSettings(database_url))
    deleters: list[PostgresStore | Expiry] = [store, Expiry(database), Expiry(database)]
    deleted = []

    async def delete(by: PostgresStore | Expiry) -> None:
        while count := await by.expire_events(7):
            deleted.append(count)

    async with asyncio.TaskGroup() as tasks:
        for number, by in enumerate(deleters):
            tasks.create_task(delete(by), name=f"delete-{number}")
    await database.close()
    assert sum(deleted) == len(events) - 10
    assert len(await revisions(database_url)) == 10


async def test_a_broker_of_an_older_epoch_may_delete_what_was_given_up(
    store: PostgresStore, database_url: str
) -> None:
    events = life(1)
    await store.append(events)
    await execute(database_url, "UPDATE broker_store SET epoch = epoch + 1")
    assert await store.raise_horizon(100 * YEAR, 2) == len(events) - 1
    assert await store.expire_events(100) == len(events) - 2
    assert await store.cleanup_stale_connections(0, limit=100) == 0


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("find_horizon", (0.0, 1, 0, 10_000)),
        ("expire_events", (1, 100)),
        ("cleanup_stale_connections", (0.0, 100)),
    ],
)
async def test_an_append_does_not_wait_for_what_is_deleted(
    store: PostgresStore, database_url: str, statement: str, values: tuple[object, ...]
) -> None:
    ended, active = [*life(1), *life(2)], opened(3)
    await store.append(ended)
    await store.raise_horizon(0, 1)
    if statement == "cleanup_stale_connections":
        await store.expire_events(100)
    await store.append(active)
    other = await asyncpg.connect(database_url)
    transaction = other.transaction()
    await transaction.start()
    done = await other.fetchrow(QUERIES[statement], *values)
    assert done is not None
    assert done[0] > 1
    # Whatever it has locked it holds now, until its transaction ends.
    async with asyncio.timeout(2):
        await store.append(after(active, LinkUp(server_version=178, accounts=("A",))))
        await store.append([*life(1), *opened(2)])
        await store.append(opened(4))
    await transaction.commit()
    await other.close()


async def test_a_horizon_is_not_raised_while_another_writes_and_the_next_try_does_it(
    database_url: str,
) -> None:
    store = await PostgresStore.open(StoreSettings(database_url, timeout=0.3), "impatient")
    await store.append(life(1))
    other = await asyncpg.connect(database_url)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("UPDATE broker_store SET holder = holder")
    with pytest.raises(StoreUnavailableError):
        await store.raise_horizon(0, 100)
    assert await store.expire_events(100) == 0
    await transaction.rollback()
    assert await store.raise_horizon(0, 100) == len(life(1)) + 1
    await other.close()
    await store.close()
