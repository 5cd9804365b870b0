"""What happens in the same instant, or is asked for twice, or comes from a peer that errs."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ibgateway.broker.v1 import gateway_service_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.app import broker
from broker.config import GatewayConfig, Settings
from broker.gateway.ib import IBConnector
from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway
from tests.harness import (
    CONNECTED,
    NO_FIXED_PORTS,
    Client,
    connected,
    eventually,
    refusal,
    serving,
    sockets,
)
from tests.integration.scripted_peer import ACCOUNTS, ORDER_ID, message
from tests.integration.test_stop import settings
from tests.integration.test_watch import Watch


@pytest.mark.parametrize("version", [2**31, 2**40])
async def test_a_peer_with_an_absurd_server_version_does_not_end_the_broker(
    database_url: str, version: int
) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(message(version, "20250425 15:23:54 EST"))
        await reader.read(100)
        writer.write(ACCOUNTS + ORDER_ID)
        await reader.read(100)
        writer.close()

    server = await asyncio.start_server(play, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        peer = Settings(
            gateways={"default": GatewayConfig(host="127.0.0.1", port=port)},
            database_url=database_url,
            **NO_FIXED_PORTS,
        )
        async with broker(peer) as running, connected(running) as client:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.open(max_attempts=1)
            assert refusal(caught.value).reason.startswith("IB_CONN_")
            assert await client.list() == []
    finally:
        server.close()


async def test_a_gateway_id_of_any_length_is_refused_as_what_it_is(client: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.gateways.GetGateway(
            gateway_service_pb2.GetGatewayRequest(gateway_id="x" * 20_000)
        )
    assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


async def test_the_events_of_a_close_carry_its_correlation_id(client: Client) -> None:
    session = await client.open()
    watch = Watch(client)
    await watch.snapshot()
    mine = str(uuid.uuid4())
    await client.sessions.CloseSession(
        pb.CloseSessionRequest(session_id=session.session_id),
        metadata=(("x-correlation-id", mine),),
    )
    assert {event.correlation_id for event in await watch.events(2)} == {mine}


async def test_a_session_closed_as_asked_has_no_failure_to_verify(
    client: Client, simulator: SimulatedGateway
) -> None:
    simulator.arm(Fault.CLOSE_AFTER_ACCEPT, times=1)
    session = await client.open()
    await client.close(session.session_id)
    verdict = await client.sessions.VerifySession(
        pb.VerifySessionRequest(session_id=session.session_id)
    )
    assert not verdict.healthy
    assert not verdict.HasField("failure"), verdict.failure


async def test_the_impatience_of_one_caller_is_no_failure_of_another(
    client: Client, simulator: SimulatedGateway
) -> None:
    """One dials with 0.1 s, the Gateway needs longer; who allows 5 s was never dialled."""
    simulator.arm(Fault.SILENT_AFTER_ACCEPT, times=1)
    hasty = asyncio.ensure_future(client.open(max_attempts=1, timeout=Duration(nanos=100_000_000)))
    await eventually(lambda: sockets(simulator))
    patient = asyncio.ensure_future(client.open(max_attempts=1, timeout=Duration(seconds=5)))
    with pytest.raises(grpc.aio.AioRpcError):
        await hasty
    assert (await patient).state == CONNECTED


async def test_an_end_in_the_instant_of_the_connect_raises_nothing_in_the_loop() -> None:
    from broker.runtime.supervisor import Supervisor
    from broker.session.inputs import EndRequested
    from broker.session.model import CloseReason

    loop = asyncio.get_running_loop()
    raised: list[Any] = []
    loop.set_exception_handler(lambda _, context: raised.append(context))
    supervisor = Supervisor.__new__(Supervisor)
    supervisor._interrupt = loop.create_future()
    dialled: asyncio.Future[Any] = loop.create_future()

    async def work() -> Any:
        return await dialled

    task = asyncio.ensure_future(supervisor._unless_interrupted(work()))
    await asyncio.sleep(0.01)
    dialled.set_result("up")
    supervisor._interrupt.set_result(EndRequested(CloseReason.CALLER_GONE, "x"))
    assert await task in ("up", supervisor._interrupt.result())
    await asyncio.sleep(0.01)
    loop.set_exception_handler(None)
    assert not raised, raised


async def test_cancelled_watchers_do_not_hold_up_the_stop(
    simulator: SimulatedGateway, database_url: str
) -> None:
    small = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_535))
    context = broker(settings(simulator, database_url))
    running = await context.__aenter__()
    async with connected(running) as client:
        async with connected(running, *small) as other:
            watches = [Watch(other) for _ in range(5)]
            await asyncio.gather(*(watch.snapshot() for watch in watches))
            labels = {str(number): "x" * 256 for number in range(32)}
            for _ in range(30):
                session = await client.open(labels=labels)
                await client.close(session.session_id)
            for watch in watches:
                watch.call.cancel()
        await asyncio.sleep(0.3)
    begin = time.monotonic()
    await context.__aexit__(None, None, None)
    assert time.monotonic() - begin < 5


async def test_at_the_limit_an_id_that_is_being_released_is_waited_for(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, session_limit=1) as client:
        session = await client.open(client_id=7)
        closing = asyncio.ensure_future(client.close(session.session_id))
        await asyncio.sleep(0)
        again = await client.open(client_id=7, client_id_policy=pb.CLIENT_ID_POLICY_EXACT)
        assert again.client_id == 7
        await closing


async def test_a_watch_of_health_does_not_hold_up_the_stop(
    simulator: SimulatedGateway, database_url: str
) -> None:
    context = broker(settings(simulator, database_url))
    running = await context.__aenter__()
    async with connected(running) as client:
        stub: Any = health_pb2_grpc.HealthStub(client.channel)
        stream = aiter(stub.Watch(health_pb2.HealthCheckRequest(service="")))
        await anext(stream)
        begin = time.monotonic()
        await context.__aexit__(None, None, None)
        assert time.monotonic() - begin < 5


async def test_a_probe_that_a_close_interrupts_has_no_failure(
    client: Client, simulator: SimulatedGateway
) -> None:
    session = await client.open()
    simulator.mute(True)
    ask = pb.VerifySessionRequest(session_id=session.session_id)
    asking = asyncio.ensure_future(client.sessions.VerifySession(ask))
    await asyncio.sleep(0.05)
    await client.close(session.session_id)
    verdict = await asking
    assert not verdict.healthy
    assert not verdict.HasField("failure"), verdict.failure


async def test_an_attempt_that_crashes_ends_its_own_session_only(
    client: Client, simulator: SimulatedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await client.open(client_id=7)

    async def crash(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(IBConnector, "connect", crash)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.open(max_attempts=1)
    assert refusal(caught.value).reason == "IB_CONN_001"
    assert (await client.get(session.session_id)).state == CONNECTED
