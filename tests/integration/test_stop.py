"""The stop, in its order: what openers, watchers and the database see of it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncpg
import grpc.aio
import pytest
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.app import broker
from broker.config import Settings
from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway
from tests.harness import NO_FIXED_PORTS, connected, eventually, gateway, refusal, sockets


def settings(simulator: SimulatedGateway, database_url: str) -> Settings:
    return Settings(
        gateways={"default": gateway(simulator)},
        database_url=database_url,
        **{**NO_FIXED_PORTS, "http_listen": "127.0.0.1:0"},
    )


async def test_the_stop_keeps_its_order(simulator: SimulatedGateway, database_url: str) -> None:
    """What a watcher, an opener and the database see of a stop, one after the other."""
    told: list[str] = []

    async def watch(client: Any) -> None:
        async for message in client.sessions.WatchSessions(pb.WatchSessionsRequest()):
            kind = message.WhichOneof("message")
            told.append(kind if kind != "event" else message.event.session.close_reason)

    async with broker(settings(simulator, database_url)) as running:
        # The channel outlives the broker, so that what comes after its stop is seen.
        channel = connected(running)
        client = await channel.__aenter__()
        session = await client.open()
        watching = asyncio.ensure_future(watch(client))
        await eventually(lambda: "snapshot_complete" in told)
        simulator.arm(Fault.SILENT_AFTER_ACCEPT)
        opening = asyncio.ensure_future(client.open(client_id=55))
        await eventually(lambda: sockets(simulator) == 2)
        begin = time.monotonic()
    assert time.monotonic() - begin < 5
    await watching  # ended with OK, else it raises
    assert told[:4] == ["snapshot", "snapshot_complete", "", "draining"]
    # One session is left to the next broker; the open that only its caller knows of ends.
    assert sorted(told[4:-1]) == ["", "BROKER_STOPPING", "BROKER_STOPPING"]
    assert told[-1] == "bookmark"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await opening
    assert refusal(caught.value).reason == "BROKER_DRAINING"
    assert not sockets(simulator)
    connection = await asyncpg.connect(database_url)
    left = await connection.fetch(
        "select session_id, state, close_reason from gateway_connections order by created_at"
    )
    await connection.close()
    assert [(row["state"], row["close_reason"]) for row in left] == [
        ("RECONNECTING", None),
        ("DISCONNECTED", "BROKER_STOPPING"),
    ]
    assert session.session_id == str(left[0]["session_id"])
    await channel.__aexit__(None, None, None)


async def test_nothing_is_left_after_a_stop(simulator: SimulatedGateway, database_url: str) -> None:
    before = {task for task in asyncio.all_tasks() if not task.done()}
    async with broker(settings(simulator, database_url)) as running, connected(running) as client:
        await client.open()
    await eventually(lambda: not sockets(simulator))

    def only_what_was_there() -> bool:
        now = {task for task in asyncio.all_tasks() if not task.done()}
        return not {task for task in now - before if "grpc" not in repr(task)}

    await eventually(only_what_was_there)
