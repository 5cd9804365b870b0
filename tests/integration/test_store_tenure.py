"""A database belongs to one broker; what it is told when it cannot have it."""

from __future__ import annotations

import asyncio
import os
import signal

import psutil
import pytest

from broker.errors import StartupError, StoreFencedError, StoreUnavailableError
from broker.session.inputs import LinkUp
from broker.session.model import SessionEvent
from broker.store.embedded import EmbeddedPostgres, EmbeddedSettings
from broker.store.migration import upgrade
from broker.store.postgres import StoreSettings
from broker.store.record import PostgresStore
from tests.harness import eventually
from tests.integration.test_store import after, life, opened
from tests.postgres import data_directory, execute


async def test_a_second_broker_is_told_who_holds_the_database(
    store: PostgresStore, database_url: str
) -> None:
    with pytest.raises(StartupError, match=r"another broker: test, since .*pg_terminate_backend"):
        await PostgresStore.open(StoreSettings(database_url), "second")
    assert await store.revision() == 0


async def test_each_take_over_is_an_epoch(database_url: str) -> None:
    ids = set()
    for epoch in (1, 2, 3):
        store = await PostgresStore.open(StoreSettings(database_url), f"broker {epoch}")
        assert store.epoch == epoch
        ids.add(store.store_id)
        await store.close()
        await store.close()
    assert len(ids) == 1


async def test_a_broker_that_was_replaced_writes_nothing(
    store: PostgresStore, database_url: str
) -> None:
    events = opened()
    await store.append(events)
    await execute(
        database_url,
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'",
    )
    await asyncio.wait_for(store.wait_lock_lost(), 5)
    await store.reacquire()
    await execute(
        database_url,
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'",
    )
    await asyncio.wait_for(store.wait_lock_lost(), 5)
    second = await PostgresStore.open(StoreSettings(database_url), "second")
    with pytest.raises(StoreFencedError):
        await store.reacquire()
    for batch in (opened(9), life(8), after(events, LinkUp(server_version=178, accounts=("A",)))):
        with pytest.raises(StoreFencedError):
            await store.append(batch)
    assert await second.revision() == 1
    await second.close()


@pytest.mark.requirement("AC-012")
async def test_a_database_that_is_killed_under_an_append_is_unavailable_and_comes_back() -> None:
    with data_directory() as path:
        async with EmbeddedPostgres(EmbeddedSettings(path)) as postgres:
            await upgrade(postgres.dsn)
            store = await PostgresStore.open(StoreSettings(postgres.dsn, timeout=1.0), "test")
            events = life()
            await store.append(events[:2])
            loop = asyncio.get_running_loop()

            os.kill(postgres.pid, signal.SIGSTOP)
            backends = [child.pid for child in psutil.Process(postgres.pid).children()]
            for backend in backends:
                os.kill(backend, signal.SIGSTOP)
            began = loop.time()
            with pytest.raises(StoreUnavailableError):
                await store.append(events[2:4])
            assert loop.time() - began < 1.5
            for pid in (*backends, postgres.pid):
                os.kill(pid, signal.SIGCONT)
            assert list(await store.append(events[2:4])) == [3, 4]

            # One child that dies by a signal makes PostgreSQL end all others and recover.
            os.kill(psutil.Process(postgres.pid).children()[0].pid, signal.SIGKILL)

            # When they do so is theirs to choose, so that any append may meet it.
            async def kept(wanted: list[SessionEvent]) -> list[int]:
                try:
                    return list(await store.append(wanted))
                except StoreUnavailableError:
                    return []

            first = await eventually(lambda: kept(events[:5]), timeout=20)
            assert first == [1, 2, 3, 4, 5]
            rest = await eventually(lambda: kept(events[4:]), timeout=20)
            assert rest == list(range(5, len(events) + 1))
            await store.close()


async def test_a_database_that_was_never_migrated_is_refused_with_the_command(
    empty_database_url: str,
) -> None:
    with pytest.raises(StartupError, match="gateway-broker migrate"):
        await PostgresStore.open(StoreSettings(empty_database_url), "test")


async def test_a_database_that_is_not_there_is_refused_without_its_password() -> None:
    with pytest.raises(StartupError, match="is it running") as refused:
        await PostgresStore.open(StoreSettings("postgresql://a:hunter2@127.0.0.1:1/x"), "test")
    assert "hunter2" not in str(refused.value)
