"""A broker stops, dies, is replaced: the next one takes its sessions up."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from ibgateway.broker.v1 import gateway_service_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.app import Running
from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway
from broker.simulator.journal import End
from tests.harness import (
    CONNECTED,
    CONNECTING,
    DISCONNECTED,
    RECONNECTING,
    Client,
    connected,
    eventually,
    gateway,
    refusal,
    serving,
    sockets,
)
from tests.integration.scripted_peer import HANDSHAKE, Do, ScriptedPeer
from tests.integration.test_watch import Watch
from tests.program import free_address

ROOT = Path(__file__).resolve().parents[2]


@asynccontextmanager
async def process(
    simulator: SimulatedGateway, database_url: str, **settings: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Client]]:
    """A broker in a process of its own, and a channel to it."""
    address = free_address()
    environment = {
        **os.environ,
        "DATABASE_URL": database_url,
        "IB_GATEWAY_PORT": str(simulator.port),
        "GATEWAY_BROKER_GRPC_LISTEN": address,
        "GATEWAY_BROKER_GATEWAYS__DEFAULT__SENTINEL": "false",
        **settings,
    }
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "broker", "serve"),
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        running = Running(grpc_address=address, embedded=False, taken_up=0)
        # A channel that was refused would wait ever longer, up to minutes, before it tries again.
        at_once = (
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 100),
        )
        async with connected(running, *at_once) as client:
            async with asyncio.timeout(40):
                await client.channel.channel_ready()
            yield started, client
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def killed(broker: asyncio.subprocess.Process) -> None:
    broker.send_signal(signal.SIGKILL)
    await broker.wait()


async def moves(database_url: str, session_id: str) -> list[tuple[str, str]]:
    """Where a session went, and why, as the record has it."""
    connection = await asyncpg.connect(database_url)
    rows = await connection.fetch(
        "select transition_target, payload #>> '{change,reason}' from session_events "
        "where transition_target is not null and session_id = $1 order by sequence",
        uuid.UUID(session_id),
    )
    await connection.close()
    return [(row[0], row[1]) for row in rows]


def in_state(client: Client, session_id: str, state: Any) -> Any:
    async def check() -> Any:
        session = await client.get(session_id)
        return session if session.state == state else None

    return check


async def test_the_sessions_of_a_killed_broker_come_back_under_the_same_ids(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with process(simulator, database_url) as (broker, client):
        before = await client.open(client_id=7, labels={"desk": "fx"})
        watch = Watch(client)
        await watch.snapshot()
        other = await client.open(client_id=8)
        last = [await watch.next(), await watch.next()][-1]
        await killed(broker)
    async with serving(simulator, database_url) as client:
        assert client.running.taken_up == 2
        resumed = Watch(client, resume_token=last.resume_token)
        after = await eventually(in_state(client, before.session_id, CONNECTED))
        for name in ("session_id", "client_id", "owner", "labels", "create_time", "accounts"):
            assert getattr(after, name) == getattr(before, name)
        assert after.generation == 2
        assert [item.type for item in after.conditions if item.status == 2] == ["DATA_CONTINUOUS"]
        await eventually(in_state(client, other.session_id, CONNECTED))
        # Whoever watched goes on where it was: no snapshot, no gap, nothing twice. Where that is
        # depends on how many of the Gateway's first notices came before the snapshot.
        events = await resumed.events(6)
        seen = last.event.revision
        assert [event.revision for event in events] == list(range(seen + 1, seen + 7))
        assert {event.session_id for event in events} == {before.session_id, other.session_id}
    assert await moves(database_url, before.session_id) == [
        ("CONNECTING", "OPENED"),
        ("CONNECTED", "HANDSHAKE_COMPLETED"),
        ("RECONNECTING", "BROKER_RESTARTED"),
        ("CONNECTED", "HANDSHAKE_COMPLETED"),
        ("RECONNECTING", "BROKER_STOPPING"),
    ]


async def test_a_stopped_broker_closes_its_links_with_fin_and_leaves_its_sessions(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with process(simulator, database_url) as (broker, client):
        session = await client.open(client_id=7)
        watch = Watch(client)
        await watch.snapshot()
        broker.send_signal(signal.SIGTERM)
        told = [message async for message in watch.messages]
        kinds = [message.WhichOneof("message") for message in told]
        assert (kinds[-1], kinds.count("draining")) == ("bookmark", 1)
        left = told[-2].event.session
        assert (left.state, left.close_reason) == (RECONNECTING, "")
        assert left.last_failure.message.startswith("the broker stops")
        async with asyncio.timeout(10):
            assert await broker.wait() == 0
    assert [record.end for record in simulator.journal] == [End.FIN]
    async with serving(simulator, database_url) as client:
        assert client.running.taken_up == 1
        back = await eventually(in_state(client, session.session_id, CONNECTED))
        assert (back.client_id, back.generation) == (7, 2)
        events = await Watch(client, resume_token=told[-1].resume_token).events(2)
        assert [event.session.state for event in events] == [CONNECTED, CONNECTED]


async def test_what_was_under_way_when_the_broker_died_is_resolved(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with process(simulator, database_url) as (broker, client):
        simulator.arm(Fault.SILENT_AFTER_ACCEPT)
        patient = await client.open(client_id=1, return_immediately=True)
        request_id = str(uuid.uuid4())
        repeatable = asyncio.ensure_future(client.open(client_id=2, request_id=request_id))
        plain = asyncio.ensure_future(client.open(client_id=3))
        await eventually(lambda: _count(client, 3))
        await killed(broker)
        for waiting in (repeatable, plain):
            with pytest.raises(grpc.aio.AioRpcError):
                await waiting
    simulator.clear()
    async with serving(simulator, database_url) as client:
        again = await client.sessions.OpenSession(
            pb.OpenSessionRequest(client_id=2, request_id=request_id)
        )
        assert (again.created, again.session.state) == (False, CONNECTED)
        await eventually(in_state(client, patient.session_id, CONNECTED))
        [gone] = await client.list(states=[DISCONNECTED])
        assert (gone.client_id, gone.close_reason) == (3, "CALLER_GONE")
        assert (await client.open(client_id=3)).client_id == 3


async def _count(client: Client, wanted: int) -> bool:
    return len(await client.list()) == wanted


async def test_an_end_that_the_broker_died_over_is_finished_by_the_next(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with ScriptedPeer(*HANDSHAKE, Do.DEAF) as deaf:
        port = {"IB_GATEWAY_PORT": str(deaf.port)}
        async with process(simulator, database_url, **port) as (broker, client):
            session = await client.open(client_id=7)
            closing = asyncio.ensure_future(client.close(session.session_id))

            async def is_closing() -> bool:
                return bool((await client.get(session.session_id)).close_reason)

            await eventually(is_closing)
            await killed(broker)
            with pytest.raises(grpc.aio.AioRpcError):
                await closing
        same = {"port": deaf.port}
        async with serving(simulator, database_url, gateway_changes=same) as client:
            ended = await client.get(session.session_id)
            assert (ended.state, ended.close_reason) == (DISCONNECTED, "CLOSE_REQUESTED")


async def test_a_session_whose_gateway_is_gone_from_the_configuration_ends_and_says_so(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(
        simulator, database_url, more_gateways={"old": gateway(simulator, port=9)}
    ) as client:
        session = await client.open(gateway_id="old", return_immediately=True)
        assert session.state == CONNECTING
    async with serving(simulator, database_url) as client:
        ended = await client.get(session.session_id)
        assert (ended.state, ended.close_reason) == (DISCONNECTED, "GATEWAY_REMOVED")
        assert await client.list() == []


async def test_a_session_that_waits_for_its_gateway_waits_on_with_the_next_broker(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url) as client:
        session = await client.open(client_id=7)
        await simulator.stop_listening()
        simulator.drop()
        await eventually(in_state(client, session.session_id, RECONNECTING))
    async with serving(simulator, database_url) as client:
        assert (await client.get(session.session_id)).state == RECONNECTING
        await simulator.start_listening()
        back = await eventually(in_state(client, session.session_id, CONNECTED))
        assert back.generation == 2


async def test_a_drained_gateway_stays_drained_and_its_sessions_wait_for_an_operator(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url) as client:
        session = await client.open(client_id=7)
        await client.gateways.DrainGateway(gateway_service_pb2.DrainGatewayRequest(reason="move"))
    accepts = simulator.statistics.accepts
    async with serving(simulator, database_url) as client:
        waiting = await client.get(session.session_id)
        assert waiting.state == RECONNECTING
        assert simulator.statistics.accepts == accepts
        await client.gateways.ResumeGateway(gateway_service_pb2.ResumeGatewayRequest())
        await eventually(in_state(client, session.session_id, CONNECTED))


async def test_a_session_of_the_broker_before_can_be_closed_verified_and_acknowledged(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url) as client:
        session = await client.open(client_id=7)
    async with serving(simulator, database_url) as client:
        await eventually(in_state(client, session.session_id, CONNECTED))
        ask = pb.VerifySessionRequest(session_id=session.session_id)
        assert (await client.sessions.VerifySession(ask)).healthy
        answer = await client.sessions.AcknowledgeData(
            pb.AcknowledgeDataRequest(session_id=session.session_id, generation=2)
        )
        assert {item.status for item in answer.session.conditions} == {1}
        ended = await client.close(session.session_id)
        assert (ended.state, ended.close_reason) == (DISCONNECTED, "CLOSE_REQUESTED")
    assert not sockets(simulator)


async def test_while_the_broker_stops_a_close_is_left_to_the_next_one(
    simulator: SimulatedGateway, database_url: str
) -> None:
    """A session that is not over must not be called ended."""
    async with ScriptedPeer(*HANDSHAKE, Do.DEAF) as deaf:  # answers no FIN, so that the stop lasts
        port = {"IB_GATEWAY_PORT": str(deaf.port)}
        async with process(simulator, database_url, **port) as (broker, client):
            session = await client.open(client_id=7, lease_ttl=Duration(seconds=1))
            watch = Watch(client)
            await watch.snapshot()
            broker.send_signal(signal.SIGTERM)
            assert await watch.kinds(2) == ["draining", "event"]
            asks = {
                "close": client.close(session.session_id),
                "renew": client.sessions.RenewSession(
                    pb.RenewSessionRequest(session_id=session.session_id)
                ),
                "open": client.open(client_id=9),
            }
            waiting = {name: asyncio.ensure_future(ask) for name, ask in asks.items()}
            assert (await client.get(session.session_id)).state == RECONNECTING
            for name, ask in waiting.items():
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await ask
                assert refusal(caught.value).reason == "BROKER_DRAINING", name
            await broker.wait()


async def test_a_restart_brings_ten_sessions_back_without_waiting_out_a_timer(
    simulator: SimulatedGateway, database_url: str
) -> None:
    """How long it takes is a figure of the bench."""
    async with process(simulator, database_url) as (broker, client):
        for client_id in range(1, 11):
            await client.open(client_id=client_id)
        await killed(broker)
    async with process(simulator, database_url) as (broker, client):

        async def all_back() -> bool:
            return len(await client.list(states=[CONNECTED])) == 10

        await eventually(all_back, timeout=15)


async def test_a_second_broker_does_not_touch_the_sessions_of_the_first(
    simulator: SimulatedGateway, database_url: str
) -> None:
    from broker.errors import StartupError

    async with serving(simulator, database_url) as client:
        session = await client.open(client_id=7)
        with pytest.raises(StartupError, match=r"another broker: .* pid \d+"):
            async with serving(simulator, database_url):
                pass
        assert (await client.get(session.session_id)).generation == 1
        assert len(simulator.clients) == 1


async def test_a_stop_tells_an_opener_that_another_broker_will_have_its_answer(
    simulator: SimulatedGateway, database_url: str
) -> None:
    simulator.arm(Fault.SILENT_AFTER_ACCEPT)
    request_id = str(uuid.uuid4())
    async with process(simulator, database_url) as (broker, client):
        opening = asyncio.ensure_future(client.open(client_id=7, request_id=request_id))
        await eventually(lambda: sockets(simulator) == 1)
        [session] = await client.list()
        broker.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await opening
        said = refusal(caught.value)
        assert (said.reason, bool(said.retry_after)) == ("BROKER_DRAINING", True)
        await broker.wait()
    simulator.clear()
    async with serving(simulator, database_url) as client:
        again = await client.open(client_id=7, request_id=request_id)
        assert (again.session_id, again.state) == (session.session_id, CONNECTED)
