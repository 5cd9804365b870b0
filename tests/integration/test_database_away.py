"""The database goes away and comes back under a running broker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import grpc
import grpc.aio
import pytest
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.simulator.gateway import SimulatedGateway
from tests.harness import CONNECTED, FAILED, Client, eventually, refusal, serving


@asynccontextmanager
async def away(database_url: str) -> AsyncIterator[None]:
    """No connection to this database survives or succeeds while the body runs."""
    name = database_url.partition("?")[0].rpartition("/")[2]
    admin = await asyncpg.connect(database_url.replace(f"/{name}?", "/postgres?"))
    kill = "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1"

    async def renamed(source: str, target: str) -> bool:
        await admin.fetch(kill, source)
        try:
            await admin.execute(f"alter database {source} rename to {target}")
        except asyncpg.ObjectInUseError:
            return False
        return True

    try:
        await eventually(lambda: renamed(name, f"{name}_away"))
        try:
            yield
        finally:
            await eventually(lambda: renamed(f"{name}_away", name))
    finally:
        await admin.close()


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


async def test_what_happens_meanwhile_is_written_in_order_when_it_is_back(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, store_timeout=1.0) as client:
        first = await client.open(client_id=7, reconnect_max_attempts=0)
        second = await client.open(client_id=8)
        stream = aiter(client.sessions.WatchSessions(pb.WatchSessionsRequest()))
        for _ in range(3):
            await anext(stream)
        async with away(database_url):
            simulator.drop(client_id=7)
            await eventually(lambda: len(simulator.clients) == 1)
            with pytest.raises(grpc.aio.AioRpcError):
                await client.sessions.CloseSession(
                    pb.CloseSessionRequest(session_id=second.session_id), timeout=0.5
                )
            await eventually(lambda: not simulator.clients)
            # Nothing is seen that is not kept.
            assert await state(client, first.session_id, CONNECTED)
        await eventually(lambda: state(client, first.session_id, FAILED), timeout=10)
        seen = [(await anext(stream)).event for _ in range(4)]
        assert [event.revision for event in seen] == [5, 6, 7, 8]
        assert {event.session_id for event in seen[:2]} == {first.session_id}
        assert seen[3].session.close_reason == "CLOSE_REQUESTED"


async def test_a_second_broker_on_one_database_says_who_holds_it(
    simulator: SimulatedGateway, database_url: str
) -> None:
    from broker.errors import StartupError

    async with serving(simulator, database_url) as client:
        await client.open()
        with pytest.raises(StartupError, match="pid"):
            async with serving(simulator, database_url):
                pass
        assert len(await client.list()) == 1
