"""A broker dies; the next one finds its rows."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import grpc.aio

from broker.app import Running
from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway
from tests.harness import DISCONNECTED, Client, connected, eventually, serving, sockets

ROOT = Path(__file__).resolve().parents[2]


@asynccontextmanager
async def process(
    simulator: SimulatedGateway, database_url: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Client]]:
    """A broker in a process of its own, and a channel to it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        "DATABASE_URL": database_url,
        "IB_GATEWAY_PORT": str(simulator.port),
        "GATEWAY_BROKER_GRPC_LISTEN": address,
    }
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "broker", "serve"),
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        running = Running(grpc_address=address, embedded=False, finalised=0)
        async with connected(running) as client:
            async with asyncio.timeout(20):
                await client.channel.channel_ready()
            yield started, client
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def test_what_a_killed_broker_leaves_is_finalised_by_the_next(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with process(simulator, database_url) as (broker, client):
        up = await client.open(client_id=7)
        simulator.arm(Fault.SILENT_AFTER_ACCEPT)
        trying = await client.open(client_id=8, return_immediately=True)
        await eventually(lambda: sockets(simulator) == 2)
        broker.send_signal(signal.SIGKILL)
        await broker.wait()
    simulator.clear()
    async with serving(simulator, database_url) as client:
        assert client.running.finalised == 2
        for session in (up, trying):
            left = await client.get(session.session_id)
            assert (left.state, left.close_reason) == (DISCONNECTED, "BROKER_RESTARTED")
        # Their ids are free: nothing of the dead broker holds them.
        assert (await client.open(client_id=7)).client_id == 7
    connection = await asyncpg.connect(database_url)
    moves = await connection.fetch(
        "select session_id, transition_source s, transition_target t, revision "
        "from session_events where transition_target is not null order by revision"
    )
    await connection.close()
    path = {str(up.session_id): [], str(trying.session_id): []}  # type: ignore[var-annotated]
    for row in moves:
        path.setdefault(str(row["session_id"]), []).append(row["t"])
    assert path[up.session_id] == ["CONNECTING", "CONNECTED", "RECONNECTING", "DISCONNECTED"]
    assert path[trying.session_id] == ["CONNECTING", "DISCONNECTED"]


async def test_a_terminated_broker_ends_its_sessions_itself(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with process(simulator, database_url) as (broker, client):
        session = await client.open(client_id=7)
        broker.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await broker.wait() == 0
    await eventually(lambda: not sockets(simulator))
    async with serving(simulator, database_url) as client:
        assert client.running.finalised == 0
        left = await client.get(session.session_id)
        assert left.close_reason == "BROKER_STOPPING"
        assert isinstance(client.channel, grpc.aio.Channel)
