"""The record keeps client ids in quarantine and gateways that are drained."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest

from broker.errors import StoreFencedError, StoreUnavailableError
from broker.session.client_ids import HIGHEST, LOWEST, Quarantined
from broker.session.drain import Drain
from broker.store.postgres import RecordRefusedError, StoreSettings
from broker.store.record import PostgresStore
from tests.harness import eventually
from tests.integration.test_database_away import away
from tests.integration.test_store import HOSTILE, NOW, life
from tests.postgres import execute

HOST, PORT = "127.0.0.1", 4002
LOST = Quarantined(7, "LINK_LOST", NOW)
LATER = Quarantined(7, "BROKER_RESTARTED", NOW + timedelta(seconds=1))
DRAIN = Drain("ops", "upgrade", NOW)
WAITING = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = $1"

Call: TypeAlias = Callable[[PostgresStore], Coroutine[Any, Any, object]]
READS: dict[str, Call] = {
    "list_quarantine": lambda store: store.list_quarantine(HOST, PORT),
    "get_drain": lambda store: store.get_drain("default"),
}
WRITES: dict[str, Call] = {
    "quarantine": lambda store: store.quarantine(HOST, PORT, Quarantined(8, "LINK_LOST", NOW)),
    "quarantine again": lambda store: store.quarantine(HOST, PORT, LATER),
    "lift_quarantine": lambda store: store.lift_quarantine(HOST, PORT, 7),
    "lift_quarantine of none": lambda store: store.lift_quarantine(HOST, PORT, 9),
    "set_drain": lambda store: store.set_drain("paper", DRAIN),
    "set_drain again": lambda store: store.set_drain("default", Drain("bob", "other", NOW)),
    "set_drain to None": lambda store: store.set_drain("default", None),
}


async def fill(store: PostgresStore) -> None:
    await store.quarantine(HOST, PORT, LOST)
    await store.set_drain("default", DRAIN)


async def recorded(store: PostgresStore) -> tuple[object, ...]:
    return (
        await store.list_quarantine(HOST, PORT),
        await store.get_drain("default"),
        await store.get_drain("paper"),
    )


FILLED = ([LOST], DRAIN, None)


async def epochs(dsn: str) -> set[int]:
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch(
        "SELECT epoch FROM client_id_quarantine UNION ALL SELECT epoch FROM gateways"
    )
    await connection.close()
    return {row[0] for row in rows}


async def test_a_quarantine_is_of_one_address_and_ordered_by_client_id(
    store: PostgresStore, database_url: str
) -> None:
    items = [Quarantined(number, f"R{number}", NOW) for number in (HIGHEST, 10, 9, LOWEST)]
    for item in items:
        await store.quarantine(HOST, PORT, item)
    await store.quarantine("localhost", PORT, LOST)
    await store.quarantine(HOST, 4001, LOST)
    # Without its index the table is read in the order in which it was filled.
    await execute(
        database_url, "ALTER TABLE client_id_quarantine DROP CONSTRAINT client_id_quarantine_pkey"
    )
    assert await store.list_quarantine(HOST, PORT) == items[::-1]
    assert await store.list_quarantine("localhost", PORT) == [LOST]
    assert await store.list_quarantine(HOST, 4001) == [LOST]
    assert await store.list_quarantine("localhost", 4001) == []


async def test_a_later_quarantine_replaces_reason_and_time(store: PostgresStore) -> None:
    other = Quarantined(8, "LINK_LOST", NOW)
    for item in (LOST, other, LATER):
        await store.quarantine(HOST, PORT, item)
    assert await store.list_quarantine(HOST, PORT) == [LATER, other]


async def test_lifting_frees_one_client_id_of_one_address_and_may_be_repeated(
    store: PostgresStore,
) -> None:
    other = Quarantined(8, "LINK_LOST", NOW)
    await store.quarantine(HOST, PORT, LOST)
    await store.quarantine(HOST, PORT, other)
    await store.quarantine(HOST, 4001, LOST)
    await store.quarantine("localhost", PORT, LOST)
    for _ in range(2):
        await store.lift_quarantine(HOST, PORT, 7)
        assert await store.list_quarantine(HOST, PORT) == [other]
    assert await store.list_quarantine(HOST, 4001) == [LOST]
    assert await store.list_quarantine("localhost", PORT) == [LOST]


async def test_a_drain_is_of_one_gateway_until_it_is_ended(store: PostgresStore) -> None:
    assert await store.get_drain("default") is None
    await store.set_drain("default", DRAIN)
    await store.set_drain("paper", again := Drain("bob", "", NOW + timedelta(days=1)))
    assert await store.get_drain("default") == DRAIN
    await store.set_drain("default", again)
    assert await store.get_drain("default") == again
    for _ in range(2):
        await store.set_drain("default", None)
        assert await store.get_drain("default") is None
    assert await store.get_drain("paper") == again
    await store.set_drain("default", DRAIN)
    assert await store.get_drain("default") == DRAIN


async def test_the_next_broker_finds_both_and_may_change_them(database_url: str) -> None:
    first = await PostgresStore.open(StoreSettings(database_url), "first")
    await fill(first)
    await first.close()
    assert await epochs(database_url) == {1}
    second = await PostgresStore.open(StoreSettings(database_url), "second")
    assert await recorded(second) == FILLED
    await second.quarantine(HOST, PORT, LATER)
    await second.set_drain("default", None)
    assert await recorded(second) == ([LATER], None, None)
    assert await epochs(database_url) == {2}
    await second.close()


@pytest.mark.requirement("AC-015")
async def test_hostile_text_is_kept_as_it_is(store: PostgresStore) -> None:
    item = Quarantined(7, HOSTILE[-40:], NOW)
    await store.quarantine(HOSTILE, PORT, item)
    await store.quarantine(HOST, PORT, LOST)
    assert await store.list_quarantine(HOSTILE, PORT) == [item]
    await store.lift_quarantine(HOSTILE, PORT, 7)
    assert await store.list_quarantine(HOSTILE, PORT) == []
    assert await store.list_quarantine(HOST, PORT) == [LOST]
    await store.set_drain(HOSTILE, Drain(HOSTILE, HOSTILE, NOW))
    await store.set_drain("default", DRAIN)
    assert await store.get_drain(HOSTILE) == Drain(HOSTILE, HOSTILE, NOW)
    await store.set_drain(HOSTILE, None)
    assert await store.get_drain("default") == DRAIN


async def test_text_that_no_database_takes_is_replaced_here_too(store: PostgresStore) -> None:
    text, kept = "a\0b\ud800", "a\ufffdb\ufffd"
    await store.quarantine(text, PORT, Quarantined(7, text, NOW))
    assert await store.list_quarantine(text, PORT) == [Quarantined(7, kept, NOW)]
    await store.lift_quarantine(text, PORT, 7)
    assert await store.list_quarantine(kept, PORT) == []
    await store.set_drain(text, Drain(text, text, NOW))
    assert await store.get_drain(text) == Drain(kept, kept, NOW)


async def test_text_is_kept_up_to_its_length_and_refused_beyond(store: PostgresStore) -> None:
    long = "\U0001f600"
    await store.quarantine(long * 253, PORT, Quarantined(7, long * 40, NOW))
    await store.set_drain(long * 63, Drain(long * 128, long * 256, NOW))
    for refused in (
        store.quarantine(long * 254, PORT, LOST),
        store.quarantine(HOST, PORT, Quarantined(7, long * 41, NOW)),
        store.set_drain(long * 64, DRAIN),
        store.set_drain("default", Drain(long * 129, "", NOW)),
        store.set_drain("default", Drain("", long * 257, NOW)),
    ):
        with pytest.raises(RecordRefusedError, match="too long"):
            await refused
    assert await recorded(store) == ([], None, None)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_a_broker_of_an_older_epoch_changes_nothing(
    store: PostgresStore, database_url: str, write: Call
) -> None:
    await fill(store)
    await execute(database_url, "UPDATE broker_store SET epoch = epoch + 1")
    with pytest.raises(StoreFencedError):
        await write(store)
    assert await recorded(store) == FILLED
    await asyncio.wait_for(store.wait_lock_lost(), 1)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_a_write_that_meets_a_take_over_waits_for_it_and_changes_nothing(
    store: PostgresStore, database_url: str, write: Call
) -> None:
    await fill(store)
    connection = await asyncpg.connect(database_url)
    name = await connection.fetchval("SELECT current_database()")
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("UPDATE broker_store SET epoch = epoch + 1")
    writing = asyncio.create_task(write(store), name="writer")

    async def waits() -> Any:
        return writing.done() or await connection.fetch(WAITING, name)

    await eventually(waits)
    assert not writing.done()
    await transaction.commit()
    with pytest.raises(StoreFencedError):
        await writing
    await connection.close()
    assert await recorded(store) == FILLED


@pytest.mark.parametrize("call", [*READS.values(), *WRITES.values()], ids=[*READS, *WRITES])
async def test_a_database_that_is_away_is_unavailable_and_comes_back(
    store: PostgresStore, database_url: str, call: Call
) -> None:
    await fill(store)
    async with away(database_url):
        with pytest.raises(StoreUnavailableError):
            await call(store)
    assert await recorded(store) == FILLED
    await call(store)


async def test_writers_at_once_all_succeed(store: PostgresStore) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(1, 21):
            item = Quarantined(1 + number % 4, f"R{number}", NOW)
            group.create_task(store.quarantine(HOST, PORT, item), name=f"quarantine-{number}")
            group.create_task(store.set_drain("default", DRAIN), name=f"drain-{number}")
            group.create_task(store.append(life(number)), name=f"append-{number}")
    assert [item.client_id for item in await store.list_quarantine(HOST, PORT)] == [1, 2, 3, 4]
    assert await store.get_drain("default") == DRAIN
    assert await store.revision() == 20 * len(life())
