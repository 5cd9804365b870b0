"""The database goes away and comes back under a running broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import grpc
import grpc.aio
import pytest
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.events.token import ResumeToken
from broker.simulator.gateway import SimulatedGateway
from tests.harness import (
    CONNECTED,
    DISCONNECTED,
    FAILED,
    RECONNECTING,
    Client,
    eventually,
    refusal,
    serving,
)
from tests.integration.test_watch import Watch
from tests.postgres import execute


@asynccontextmanager
async def away(database_url: str) -> AsyncIterator[None]:
    """No connection to this database survives or succeeds while the body runs."""
    name = database_url.partition("?")[0].rpartition("/")[2]
    server = database_url.replace(f"/{name}?", "/postgres?")
    admin, killer = await asyncpg.connect(server), await asyncpg.connect(server)
    kill = "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1"

    async def rename(source: str, target: str) -> None:
        renaming = asyncio.ensure_future(
            admin.execute(f"alter database {source} rename to {target}")
        )
        # It waits until nobody is connected, and the broker may always just have been.
        while not renaming.done():
            await killer.fetch(kill, source)
            await asyncio.wait((renaming,), timeout=0.02)
        await renaming

    try:
        await rename(name, f"{name}_away")
        try:
            yield
        finally:
            await rename(f"{name}_away", name)
    finally:
        await admin.close()
        await killer.close()


async def state(client: Client, session_id: str, wanted: Any) -> bool:
    return bool((await client.get(session_id)).state == wanted)


async def test_open_sessions_live_on_and_new_ones_are_refused_while_it_is_away(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, store_timeout=1.0) as client:
        session = await client.open(client_id=7)
        async with away(database_url):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.open()
            said = refusal(caught.value)
            assert (said.status, said.reason) == (
                grpc.StatusCode.UNAVAILABLE,
                "STORE_UNAVAILABLE",
            )
            assert said.retry_after
            assert await state(client, session.session_id, CONNECTED)
            ask = pb.VerifySessionRequest(session_id=session.session_id)
            assert (await client.sessions.VerifySession(ask)).healthy

        async def opened() -> bool:
            try:
                await client.open(client_id=8)
            except grpc.aio.AioRpcError:
                return False
            return True

        await eventually(opened, timeout=10)
        ended = [s for s in await client.list(include_final=True) if s.close_reason]
        assert [s.close_reason for s in ended] == ["STORE_UNAVAILABLE"]


async def test_what_happens_meanwhile_is_told_at_once_and_written_in_order_when_it_is_back(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, store_timeout=1.0) as client:
        first = await client.open(client_id=7, reconnect_max_attempts=0)
        second = await client.open(client_id=8)
        watch = Watch(client)
        await watch.snapshot()
        async with away(database_url):
            simulator.drop(client_id=7)
            lost = await watch.next()
            failed = await watch.next()
            assert [message.event.session.state for message in (lost, failed)] == [
                RECONNECTING,
                FAILED,
            ]
            for message in (lost, failed):
                assert not message.event.persisted
                assert (message.event.revision, message.event.session.revision) == (0, 2)
                # Whoever resumes begins after the last event that is kept.
                assert message.revision == 4
                assert ResumeToken.decode(message.resume_token).revision == 4
            assert await state(client, first.session_id, FAILED)
            assert [s.session_id for s in await client.list()] == [second.session_id]
            closed = await client.close(second.session_id)
            assert (closed.state, closed.close_reason) == (DISCONNECTED, "CLOSE_REQUESTED")
            await eventually(lambda: not simulator.clients)
            told = [lost.event, failed.event, *await watch.events(2)]
            late = Watch(client)
            assert {s.session_id for s in await late.snapshot()} == {
                first.session_id,
                second.session_id,
            }
            assert await late.events(4) == told
            resumed = Watch(client, resume_token=failed.resume_token)
            assert await resumed.events(4) == told
        kept = await watch.events(4)
        assert [event.revision for event in kept] == [5, 6, 7, 8]
        for event, before in zip(kept, told, strict=True):
            assert event.persisted
            assert (event.session_id, event.sequence) == (before.session_id, before.sequence)
            assert event.WhichOneof("change") == before.WhichOneof("change")
        assert await late.events(4) == kept
        assert await state(client, first.session_id, FAILED)


async def test_a_resume_older_than_memory_says_that_the_record_is_away(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, store_timeout=1.0, watch_memory=16) as client:
        old = (await Watch(client).next()).resume_token
        for _ in range(5):
            session = await client.open()
            await client.close(session.session_id)
        recent = Watch(client, resume_token=old)
        token = (await recent.events(9), await recent.next())[1].resume_token
        async with away(database_url):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await Watch(client, resume_token=old).next()
            said = refusal(caught.value)
            assert (said.reason, bool(said.retry_after)) == ("STORE_UNAVAILABLE", True)
            resumed = Watch(client, resume_token=token)
            assert [event.revision for event in await resumed.events(10)] == list(range(11, 21))

        async def continued() -> bool:
            try:
                return bool((await Watch(client, resume_token=old).next()).event.revision == 1)
            except grpc.aio.AioRpcError:
                return False

        await eventually(continued)


async def test_sessions_are_opened_unrecorded_where_that_is_configured(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, store_timeout=1.0, open_unrecorded=True) as client:
        async with away(database_url):
            session = await client.open(client_id=7)
            assert session.state == CONNECTED
            watch = Watch(client)
            assert await watch.snapshot() == []
            told = await watch.events(2)
            assert [event.persisted for event in told] == [False, False]
            ended = await client.open(client_id=8)
            await client.close(ended.session_id)
        await eventually(lambda: kept(client, session.session_id), timeout=10)
        assert (await client.get(session.session_id)).state == CONNECTED


async def kept(client: Client, session_id: str) -> bool:
    return (await client.get(session_id)).revision > 0


async def test_an_open_is_refused_in_time_when_the_database_takes_too_long(
    simulator: SimulatedGateway, database_url: str
) -> None:
    """Slow is not away: what lasts longer than the grace is told provisionally, and kept."""
    async with serving(simulator, database_url) as client:
        session = await client.open(client_id=7)
        watch = Watch(client)
        await watch.snapshot()
        admin = await asyncpg.connect(database_url)
        try:
            block = admin.transaction()
            await block.start()
            await admin.execute("select 1 from broker_store for update")
            simulator.drop()
            [lost] = await watch.events(1)
            assert (lost.persisted, lost.session.state) == (False, RECONNECTING)
            assert (await client.get(session.session_id)).state in (RECONNECTING, CONNECTED)
            await block.rollback()
        finally:
            await admin.close()
        while not (event := (await watch.events(1))[0]).persisted:
            pass
        assert (event.session_id, event.sequence) == (lost.session_id, lost.sequence)


async def test_a_full_disk_is_a_database_that_is_away(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, store_timeout=1.0) as client:
        session = await client.open(client_id=7)
        watch = Watch(client)
        await watch.snapshot()
        await execute(
            database_url,
            "create function full_disk() returns trigger language plpgsql as "
            "$$ begin raise exception 'no space left on device' using errcode = '53100'; end $$",
            "create trigger full_disk before insert on session_events "
            "for each statement execute function full_disk()",
        )
        simulator.drop()
        [lost] = await watch.events(1)
        assert (lost.persisted, lost.session.state) == (False, RECONNECTING)

        async def refused() -> bool:
            try:
                await client.open(client_id=8)
            except grpc.aio.AioRpcError as error:
                return refusal(error).reason == "STORE_UNAVAILABLE"
            return False

        await eventually(refused, timeout=10)
        await execute(database_url, "drop trigger full_disk on session_events")
        await eventually(lambda: is_kept(client, session.session_id), timeout=10)


async def is_kept(client: Client, session_id: str) -> bool:
    session = await client.get(session_id)
    return bool(session.state == CONNECTED and session.generation == 2 and session.revision > 2)
