"""Connections to the database are cut, and another broker takes it over."""

from __future__ import annotations

import asyncio
import random

import asyncpg
import grpc
import grpc.aio
import pytest

from broker.app import broker
from broker.errors import StoreFencedError
from broker.simulator.gateway import SimulatedGateway
from tests.harness import connected, eventually, refusal, serving, sockets
from tests.integration.test_stop import settings
from tests.integration.test_watch import Watch


async def recorded(database_url: str) -> int:
    """How many events are on record, once all are, without gap."""
    check = await asyncpg.connect(database_url)
    try:

        async def all_is_recorded() -> bool:
            active = "select count(*) from gateway_connections where final_state is null"
            return not await check.fetchval(active)

        await eventually(all_is_recorded, timeout=20)
        total: int = await check.fetchval("select count(*) from session_events")
        assert not await check.fetch(
            "select session_id from session_events group by 1 having max(sequence) <> count(*)"
        )
        assert await check.fetchval("select revision from broker_store") == total
    finally:
        await check.close()
    return total


async def test_connections_to_the_database_are_cut_all_the_time(
    simulator: SimulatedGateway, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    dice = random.Random(5)
    async with serving(simulator, database_url, store_timeout=2.0, session_limit=30) as client:
        watch = Watch(client)
        await watch.snapshot()
        name = database_url.partition("?")[0].rpartition("/")[2]
        admin = await asyncpg.connect(database_url.replace(f"/{name}?", "/postgres?"))
        stop = False

        async def cut() -> None:
            while not stop:
                await admin.fetch(
                    "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1",
                    name,
                )
                await asyncio.sleep(dice.uniform(0.02, 0.4))

        reasons: list[str] = []

        async def user(number: int) -> None:
            for _ in range(6):
                try:
                    async with asyncio.timeout(dice.choice([0.05, 0.2, 3, 10])):
                        session = await client.open(client_id=dice.randrange(1, 6))
                        if dice.random() < 0.3:
                            simulator.drop(client_id=session.client_id)
                        await client.close(session.session_id)
                except TimeoutError:
                    reasons.append("gone")
                except grpc.aio.AioRpcError as error:
                    reasons.append(refusal(error).reason)
                await asyncio.sleep(dice.uniform(0, 0.2))

        cutter = asyncio.create_task(cut(), name="cutter")
        await asyncio.gather(*(user(number) for number in range(5)))
        stop = True
        await cutter
        await admin.close()

        async def quiet() -> bool:
            try:
                left = await client.list()
            except grpc.aio.AioRpcError:
                return False
            for session in left:
                await client.close(session.session_id)
            return not left

        await eventually(quiet, timeout=20)
        await eventually(lambda: not sockets(simulator))
        total = await recorded(database_url)
        kept: list[int] = []
        while len(kept) < total:
            [event] = await watch.events(1)
            if event.persisted:
                kept.append(event.revision)
        assert kept == list(range(1, total + 1))
    assert "INTERNAL" not in reasons
    assert not [r for r in caplog.records if r.name == "asyncio"], caplog.text


async def test_a_broker_that_another_has_replaced_ends_its_links_and_stops(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async def serve() -> None:
        async with broker(settings(simulator, database_url)) as running:
            async with connected(running) as client:
                await client.open()
                admin = await asyncpg.connect(database_url)
                await admin.execute("update broker_store set epoch = epoch + 1")
                await admin.close()
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await client.open(client_id=6)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            await asyncio.sleep(30)  # cancelled: the broker cannot go on

    with pytest.raises(StoreFencedError):
        await serve()
    assert not sockets(simulator)
