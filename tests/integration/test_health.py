"""Health, reflection, and what the broker says of itself and its gateways."""

from __future__ import annotations

import uuid
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from ibgateway.broker.v1 import broker_service_pb2, gateway_service_pb2

from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway
from tests.harness import Client, eventually, serving
from tests.integration.test_database_away import away

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health(client: Client, service: str) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(client.channel)
    response = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return response.status


async def is_status(client: Client, service: str, wanted: Any) -> bool:
    try:
        return bool(await health(client, service) == wanted)
    except grpc.aio.AioRpcError:
        return False


async def test_the_process_is_serving_whatever_the_gateway_does(
    client: Client, simulator: SimulatedGateway
) -> None:
    await simulator.stop_listening()
    with pytest.raises(grpc.aio.AioRpcError):
        await client.open(max_attempts=1)
    await eventually(lambda: is_status(client, "", SERVING))
    await eventually(lambda: is_status(client, "ibgateway.broker.v1.SessionService", SERVING))
    await eventually(lambda: is_status(client, "gateways/default", NOT_SERVING))


async def test_a_gateway_that_answers_is_serving(
    client: Client, simulator: SimulatedGateway
) -> None:
    await client.open()
    await eventually(lambda: is_status(client, "gateways/default", SERVING))


async def test_an_unknown_service_is_not_found(client: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health(client, "nonsense")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_names_every_service(client: Client) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(client.channel)  # type: ignore[arg-type]
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    call = stub.ServerReflectionInfo(iter([request]))
    async for response in call:
        names = {service.name for service in response.list_services_response.service}
        break
    assert names == {
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "ibgateway.broker.v1.BrokerService",
        "ibgateway.broker.v1.GatewayService",
        "ibgateway.broker.v1.SessionService",
    }


async def test_the_broker_says_what_it_is(client: Client) -> None:
    info = await client.broker.GetBrokerInfo(broker_service_pb2.GetBrokerInfoRequest())
    assert uuid.UUID(info.instance).version == 4
    assert info.version
    assert info.epoch == 1
    assert info.limits.sessions == 10
    assert "watch.snapshot" in info.capabilities


async def test_a_gateway_shows_who_holds_what_and_why_it_last_failed(
    client: Client, simulator: SimulatedGateway
) -> None:
    ask = gateway_service_pb2.GetGatewayRequest()
    fresh = (await client.gateways.GetGateway(ask)).gateway
    assert (fresh.gateway_id, fresh.HasField("reachable")) == ("default", False)
    session = await client.open(client_id=7)
    simulator.arm(Fault.CLOSE_AFTER_ACCEPT, times=1)
    with pytest.raises(grpc.aio.AioRpcError):
        await client.open(max_attempts=1)
    gateway = (await client.gateways.GetGateway(ask)).gateway
    assert [(held.client_id, held.session_id) for held in gateway.client_ids] == [
        (7, session.session_id)
    ]
    assert (gateway.sessions_used, gateway.session_limit) == (1, 32)
    assert (gateway.reachable, gateway.server_version) == (False, 178)
    assert gateway.last_failure.reason == "IB_CONN_001"


async def test_health_says_so_while_the_database_is_away_though_nobody_opens(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, store_timeout=1.0) as client:
        stub: Any = health_pb2_grpc.HealthStub(client.channel)
        ask = health_pb2.HealthCheckRequest(service="ibgateway.broker.v1.SessionService")

        async def status(wanted: Any) -> bool:
            return bool((await stub.Check(ask)).status == wanted)

        await eventually(lambda: status(health_pb2.HealthCheckResponse.SERVING))
        async with away(database_url):
            await eventually(lambda: status(health_pb2.HealthCheckResponse.NOT_SERVING), timeout=6)
