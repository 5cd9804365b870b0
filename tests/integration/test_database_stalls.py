"""The database stalls, or goes away at a bad moment."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncpg
import grpc.aio
import pytest

from broker.app import broker
from broker.simulator.gateway import SimulatedGateway
from tests.harness import FAILED, connected, eventually, refusal, serving, sockets
from tests.integration.test_database_away import away
from tests.integration.test_stop import settings


async def test_a_stop_while_the_database_is_away_ends(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async def run() -> None:
        context = broker(settings(simulator, database_url))
        running = await context.__aenter__()
        async with connected(running) as client:
            await client.open(client_id=7)
        async with away(database_url):
            async with asyncio.timeout(40):  # 15 s for the sessions, 5 s to flush, 10 s grace
                await context.__aexit__(None, None, None)

    await run()


async def test_a_batch_that_outlived_its_timeout_does_not_end_the_broker(
    simulator: SimulatedGateway, database_url: str
) -> None:
    """Two events in one append; a lock held by an administrator outlasts store_timeout."""
    async with serving(simulator, database_url, store_timeout=1.0) as client:
        session = await client.open(client_id=7, reconnect_max_attempts=0)
        admin = await asyncpg.connect(database_url)
        try:
            block = admin.transaction()
            await block.start()
            await admin.execute("select 1 from broker_store for update")
            simulator.drop()  # RECONNECTING and FAILED, one append

            async def two_tries() -> bool:
                connection = await asyncpg.connect(database_url)
                try:
                    waiting = await connection.fetchval(
                        "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
                    )
                    return bool(waiting >= 2)
                finally:
                    await connection.close()

            await eventually(two_tries, timeout=10)
            await block.rollback()
        finally:
            await admin.close()

        async def failed() -> bool:
            return bool((await client.get(session.session_id)).state == FAILED)

        await eventually(failed, timeout=10)


async def test_an_open_is_answered_though_the_database_goes_away_while_it_dials(
    simulator: SimulatedGateway, database_url: str
) -> None:
    await simulator.stop_listening()
    slow: dict[str, Any] = {"retry_initial_delay": 1.0, "retry_max_delay": 1.0}
    async with serving(simulator, database_url, store_timeout=1.0, gateway_changes=slow) as client:
        opening = asyncio.ensure_future(client.open(client_id=7, max_attempts=100))
        await asyncio.sleep(0.3)
        assert not opening.done()
        async with away(database_url):
            await simulator.start_listening()
            await eventually(lambda: simulator.clients)
            begin = time.monotonic()
            done, _ = await asyncio.wait({opening}, timeout=12)
            waited = time.monotonic() - begin
        if not done:
            opening.cancel()
        assert done, f"no answer after {waited:.0f} s, with the session on the wire"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            opening.result()
        assert refusal(caught.value).reason == "STORE_UNAVAILABLE"
        await eventually(lambda: not sockets(simulator))
