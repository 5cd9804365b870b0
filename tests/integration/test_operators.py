"""What operators decide about a gateway, and the connection that watches over an idle one."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import grpc.aio
import pytest
from ibgateway.broker.v1 import gateway_pb2, gateway_service_pb2

from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway
from tests.harness import CONNECTED, RECONNECTING, Client, eventually, refusal, serving
from tests.integration.test_reconnecting import get_gateway, has_state, reached
from tests.integration.test_watch import Watch

# -- drain -----------------------------------------------------------------------


async def _drain(client: Client, **fields: Any) -> gateway_pb2.Gateway:
    answer = await client.gateways.DrainGateway(
        gateway_service_pb2.DrainGatewayRequest(**fields), metadata=(("x-broker-owner", "ops"),)
    )
    gateway: gateway_pb2.Gateway = answer.gateway
    return gateway


async def _resume(client: Client) -> gateway_pb2.Gateway:
    answer = await client.gateways.ResumeGateway(gateway_service_pb2.ResumeGatewayRequest())
    gateway: gateway_pb2.Gateway = answer.gateway
    return gateway


async def test_a_drained_gateway_takes_no_session_and_a_lost_one_waits_for_an_operator(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url) as client:
        session = await client.open()
        watch = Watch(client)
        await watch.snapshot()
        drained = await _drain(client, reason="upgrade")
        assert (drained.drain.actor, drained.drain.reason) == ("ops", "upgrade")
        [told] = await watch.events(1)
        assert told.notice.reason == "GATEWAY_DRAINING"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.open()
        said = refusal(caught.value)
        assert (said.status, said.reason) == (grpc.StatusCode.UNAVAILABLE, "GATEWAY_DRAINING")
        assert said.metadata == {
            "gateway_id": "default",
            "actor": "ops",
            "drain_reason": "upgrade",
        }
        assert await has_state(client, session.session_id, CONNECTED)
        accepts = simulator.statistics.accepts
        simulator.drop()
        [lost] = await watch.events(1)
        assert lost.session.state == RECONNECTING
        assert not lost.session.HasField("next_attempt_time")
        assert "an operator must resume it" in lost.session.last_failure.hint
        await asyncio.sleep(0.5)  # longer than any wait of this configuration
        assert simulator.statistics.accepts == accepts
        assert not (await _resume(client)).HasField("drain")
        await eventually(reached(client, session.session_id, 2))


async def test_a_drain_outlives_the_broker_and_may_end_the_sessions(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url) as client:
        session = await client.open()
        await _drain(client, close_sessions=True)
        left = await client.get(session.session_id)
        assert left.close_reason == "GATEWAY_DRAINED"
        assert not simulator.clients
    async with serving(simulator, database_url) as client:
        assert (await get_gateway(client)).drain.actor == "ops"
        with pytest.raises(grpc.aio.AioRpcError):
            await client.open()
        await _resume(client)
        await _resume(client)
        assert await client.open()


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"gateway_id": "x" * 1000}, "gateway_id"), ({"reason": "x" * 1000}, "reason")],
)
async def test_a_bad_drain_is_refused_by_field(
    client: Client, fields: dict[str, str], named: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _drain(client, **fields)
    assert refusal(caught.value).fields == [named]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _drain(client, gateway_id="nope")
    assert refusal(caught.value).reason == "GATEWAY_NOT_FOUND"


# -- the sentinel ----------------------------------------------------------------


async def test_a_gateway_without_sessions_is_watched_by_a_connection_of_the_brokers_own(
    simulator: SimulatedGateway, database_url: str
) -> None:
    changes = {"sentinel": True, "health_check_interval": 0.2}
    async with serving(simulator, database_url, gateway_changes=changes) as client:

        async def reachable(wanted: bool) -> bool:
            return bool((await get_gateway(client)).reachable == wanted)

        await eventually(lambda: _clients(simulator) == [9999])
        await eventually(lambda: reachable(True))
        session = await client.open(client_id=7)
        await eventually(lambda: _clients(simulator) == [7])
        await client.close(session.session_id)
        await eventually(lambda: _clients(simulator) == [9999])
        await simulator.stop_listening()
        simulator.drop()
        await eventually(lambda: reachable(False))
        await simulator.start_listening()
        await eventually(lambda: reachable(True))
    await eventually(lambda: not simulator.clients)


def _clients(simulator: SimulatedGateway) -> list[int]:
    return [record.client_id for record in simulator.clients if record.client_id is not None]


async def test_a_session_that_waits_for_the_gateway_plans_no_dial_while_it_is_drained(
    client: Client, simulator: SimulatedGateway
) -> None:
    session = await client.open()
    await simulator.stop_listening()
    simulator.drop()
    await eventually(lambda: has_state(client, session.session_id, RECONNECTING))
    assert (await client.get(session.session_id)).HasField("next_attempt_time")
    await _drain(client)

    async def plans_none() -> bool:
        return not (await client.get(session.session_id)).HasField("next_attempt_time")

    await eventually(plans_none)
    await simulator.start_listening()
    await asyncio.sleep(0.5)  # longer than any wait of this configuration
    assert await plans_none()
    await _resume(client)
    await eventually(reached(client, session.session_id, 2))


async def test_an_operator_wakes_also_a_session_that_waits_for_a_human(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, gateway_changes={"auth_grace": 0.2}) as client:
        session = await client.open()
        simulator.arm(Fault.PAPER_DISCLAIMER)
        simulator.drop()

        async def waits_a_minute() -> bool:
            left = await client.get(session.session_id)
            return left.next_attempt_time.ToNanoseconds() / 1e9 - time.time() > 50

        await eventually(waits_a_minute, timeout=10)
        simulator.clear()
        await client.gateways.ResetCircuitBreaker(gateway_service_pb2.ResetCircuitBreakerRequest())
        await eventually(reached(client, session.session_id, 2))
