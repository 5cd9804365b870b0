"""`gateway-broker doctor` where a broker runs, or something else is in its place."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2_grpc
from grpc_status import rpc_status
from ibgateway.broker.v1 import gateway_service_pb2

from broker.simulator.gateway import SimulatedGateway
from tests.doctor import LINK, examined, peer, settings
from tests.harness import NO_FIXED_PORTS, Client, connected, eventually, serving


@asynccontextmanager
async def running(
    simulator: SimulatedGateway, database_url: str, **changes: Any
) -> AsyncIterator[tuple[Client, dict[str, str]]]:
    """A broker, and the environment of its configuration."""
    async with serving(simulator, database_url, **changes) as client:
        here = {"GATEWAY_BROKER_GRPC_LISTEN": client.running.grpc_address}
        yield client, settings(database_url, simulator.port) | here


async def test_a_running_broker_is_asked_and_nothing_is_dialled(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with running(simulator, database_url) as (client, environ):
        await client.open(client_id=7)
        dialled = len(simulator.journal)
        report = await examined(**environ)
        assert len(simulator.journal) == dialled
    assert (report.code, report.bad()) == (0, set())
    assert "a broker runs there" in report.rows["grpc_listen"].text
    assert report.rows[LINK].text == (
        "the running broker says: reachable, server version 178, 1 session"
    )
    assert report.rows["database lock"].text.startswith("held by the running broker: ")
    assert report.rows["gateway default: accounts"].text == f"not looked at, because of {LINK}"


async def test_a_running_broker_says_what_is_wrong_with_its_gateway(
    simulator: SimulatedGateway, database_url: str
) -> None:
    sentinel = {"sentinel": True}
    async with running(simulator, database_url, gateway_changes=sentinel) as (client, environ):

        async def reachable() -> bool | None:
            ask = gateway_service_pb2.GetGatewayRequest()
            gateway = (await client.gateways.GetGateway(ask)).gateway
            return gateway.reachable if gateway.HasField("reachable") else None

        async def unreachable() -> bool:
            return await reachable() is False

        await eventually(reachable, 10)
        await simulator.stop_listening()
        simulator.drop()
        await eventually(unreachable, 10)
        report = await examined(**environ)
    assert (report.code, report.bad()) == (1, {LINK})
    assert "not reachable" in report.rows[LINK].text
    assert "IB_CONN_001" in report.rows[LINK].text
    assert "Nothing listens there" in report.rows[LINK].advice


async def test_a_drain_is_respected_with_and_without_a_broker(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with running(simulator, database_url) as (client, environ):
        drain = gateway_service_pb2.DrainGatewayRequest(reason="upgrade")
        await client.gateways.DrainGateway(drain)
        asked = await examined(**environ)
    alone = await examined(**environ)
    for report in (asked, alone):
        assert (report.code, report.bad()) == (0, {LINK})
        assert "upgrade" in report.rows[LINK].text
        assert "gateways resume default" in report.rows[LINK].advice
    assert "not dialled" in alone.rows[LINK].text
    assert not simulator.journal


async def test_a_configuration_that_changed_since_the_start_is_a_warning(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with running(simulator, database_url) as (_, environ):
        report = await examined(**environ | {"IB_GATEWAY_PORT": "4002"})
        more = {"GATEWAY_BROKER_GATEWAYS__LIVE__PORT": "4001"}
        added = await examined(**environ | more)
    assert LINK in report.bad()
    assert f"has it at 127.0.0.1:{simulator.port}" in report.rows[LINK].text
    assert "does not know this gateway" in added.rows["gateway live: connection"].text


async def test_a_broker_elsewhere_that_holds_the_database_is_named_and_its_gateway_left_alone(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with running(simulator, database_url):
        report = await examined(**settings(database_url, simulator.port))
    assert (report.code, report.bad()) == (1, {"database lock"})
    row = report.rows["database lock"]
    assert f"pid {os.getpid()}" in row.text
    assert "pg_terminate_backend" in row.advice
    assert report.rows[LINK].status == "skipped"
    assert not simulator.journal


@asynccontextmanager
async def grpc_server(*refuses: grpc.GenericRpcHandler) -> AsyncIterator[dict[str, str]]:
    """A gRPC server that is well, and no more; the environment that listens there."""
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    server.add_generic_rpc_handlers(refuses)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield {"GATEWAY_BROKER_GRPC_LISTEN": f"127.0.0.1:{port}"}
    finally:
        await server.stop(None)


async def test_a_grpc_server_that_is_no_broker_is_named(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with grpc_server() as there:
        report = await examined(**settings(database_url, simulator.port) | there)
    assert report.bad() == {"grpc_listen"}
    assert "no gateway-broker" in report.rows["grpc_listen"].text


async def test_a_broker_that_does_not_tell_us_is_left_alone_with_its_gateways(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async def refuse(_request: object, context: Any) -> None:
        info = error_details_pb2.ErrorInfo(reason="PERMISSION_DENIED", domain="ibgateway.broker.v1")
        status = status_pb2.Status(code=7, message="viewers only")
        status.details.add().Pack(info)
        await context.abort_with_status(rpc_status.to_status(status))

    refusing = grpc.method_handlers_generic_handler(
        "ibgateway.broker.v1.GatewayService",
        {"ListGateways": grpc.unary_unary_rpc_method_handler(refuse)},
    )
    async with grpc_server(refusing) as there:
        report = await examined(**settings(database_url, simulator.port) | there)
    assert {LINK, "grpc_listen"} & report.bad() == {"grpc_listen"}
    assert "PERMISSION_DENIED: viewers only" in report.rows["grpc_listen"].text
    assert report.rows[LINK].status == "skipped"
    assert not simulator.journal


async def test_a_port_that_another_program_has_is_named(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with peer(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        taken = {"GATEWAY_BROKER_GRPC_LISTEN": f"127.0.0.1:{port}"}
        report = await examined(**settings(database_url, simulator.port, **taken))
    assert (report.code, report.bad()) == (1, {"grpc_listen"})
    assert "no gateway-broker" in report.rows["grpc_listen"].text
    assert f"sport = :{port}" in report.rows["grpc_listen"].advice
    async with peer(b"") as port:
        taken = {"GATEWAY_BROKER_GRPC_LISTEN": f"127.0.0.1:{port}"}
        silent = await examined(**settings(database_url, simulator.port, **taken))
    assert "no gateway-broker" in silent.rows["grpc_listen"].text
    assert silent.rows["grpc_listen"].seconds < 5
    nowhere = {
        "GATEWAY_BROKER_GRPC_LISTEN": "192.0.2.1:50051",
        "GATEWAY_BROKER_INSECURE_NO_AUTH": "true",
    }
    absent = await examined(**settings(database_url, simulator.port, **nowhere))
    assert "no such address" in absent.rows["grpc_listen"].advice


async def test_the_broker_of_dev_and_its_own_database_are_found(
    simulator: SimulatedGateway, fresh_data_dir: Path
) -> None:
    from broker.app import broker
    from broker.config import load_settings

    given = load_settings(
        found=False,
        **NO_FIXED_PORTS,
        data_dir=fresh_data_dir,
        gateways={"default": {"port": simulator.port, "kind": "paper"}},
    )
    environ = settings("", simulator.port, GATEWAY_BROKER_DATA_DIR=str(fresh_data_dir))
    before = await examined(**environ)
    assert (before.code, before.bad()) == (0, set())
    assert "still without a record" in before.rows["data directory"].text
    assert before.rows["database"].status == "skipped"
    async with broker(given) as serves, connected(serves):
        here = {"GATEWAY_BROKER_GRPC_LISTEN": serves.grpc_address}
        report = await examined(**environ | here)
    assert (report.code, report.bad()) == (0, set())
    assert "PostgreSQL 18" in report.rows["database"].text
    assert report.rows["database lock"].text.startswith("held by the running broker")
