"""`gateway-broker doctor` against what it will meet: each trouble is named rightly, and nothing
is done to whoever is well.
"""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import pty
import re
import secrets
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from aiohttp import web
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2_grpc
from grpc_status import rpc_status
from ibgateway.broker.v1 import gateway_service_pb2

from broker.runtime.gateways import PROBE_CLIENT_ID
from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway, SimulatorSettings
from broker.simulator.journal import End
from broker.store.embedded import EmbeddedPostgres
from broker.store.migration import downgrade
from tests.harness import NO_FIXED_PORTS, Client, connected, eventually, serving
from tests.integration.scripted_peer import ACCOUNTS, ORDER_ID, VERSION, message
from tests.postgres import execute
from tests.program import ROOT, ask, environment, free_address

LINK = "gateway default: connection"


@dataclass(frozen=True)
class Row:
    status: str
    text: str
    advice: str
    seconds: float


@dataclass(frozen=True)
class Report:
    code: int
    status: str
    seconds: float
    rows: dict[str, Row]

    def bad(self) -> set[str]:
        """The rows that are not well; how busy this machine is, is no finding of a test."""
        unwell = {name for name, row in self.rows.items() if row.status in ("warning", "wrong")}
        return unwell - {"event loop"}


def settings(database_url: str, port: int, **more: str) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "IB_GATEWAY_PORT": str(port),
        "IB_GATEWAY_KIND": "paper",
        "GATEWAY_BROKER_GRPC_LISTEN": free_address(),
        "GATEWAY_BROKER_GATEWAYS__DEFAULT__TIMEOUT": "2",
        **more,
    }


async def examined(*arguments: str, **environ: str) -> Report:
    said = await ask("doctor", "--output", "json", *arguments, **environ)
    assert said.err == ""
    told = json.loads(said.out)
    rows = {
        row["check"]: Row(row["status"], row["text"], row["advice"], row["seconds"])
        for row in told["checks"]
    }
    return Report(said.code, told["status"], told["seconds"], rows)


@asynccontextmanager
async def peer(answer: bytes, *, first: bool = False, **how: Any) -> AsyncIterator[int]:
    """A program that says something, at once or to what it reads."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not first:
            await reader.read(64)
        writer.write(answer)
        await reader.read(64)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, **how)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


# -- all is well ------------------------------------------------------------------


async def test_nothing_is_wrong_where_nothing_is(
    simulator: SimulatedGateway, database_url: str
) -> None:
    report = await examined(**settings(database_url, simulator.port))
    assert (report.code, report.bad()) == (0, set()), report
    assert "server version 178" in report.rows[LINK].text
    assert report.rows["gateway default: accounts"].text == "DU1234567: paper, as declared"
    assert report.rows["database lock"].text == "free: a broker can start"
    assert report.rows["database"].text.startswith("postgresql://broker:***@")
    assert "differ by less than 1 s" in report.rows["database clock"].text


async def test_a_gateway_is_dialled_once_and_left_as_it_was(
    simulator: SimulatedGateway, database_url: str
) -> None:
    await examined(**settings(database_url, simulator.port))
    [visit] = simulator.journal
    assert visit.client_id == PROBE_CLIENT_ID
    await eventually(lambda: simulator.journal[0].ended)
    assert simulator.journal[0].end is End.FIN
    assert simulator.held_client_ids == {}


# -- the Gateway ------------------------------------------------------------------


async def test_nothing_that_listens_is_a_refusal(database_url: str) -> None:
    port = int(free_address().rpartition(":")[2])
    report = await examined(**settings(database_url, port))
    assert (report.code, report.bad()) == (1, {LINK})
    row = report.rows[LINK]
    assert row.text == f"IB_CONN_001: 127.0.0.1:{port} refused the connection"
    assert "not logged in yet" in row.advice
    assert "the port is wrong" in row.advice
    assert report.rows["gateway default: accounts"].status == "skipped"


async def test_a_host_that_does_not_resolve_is_not_dialled(database_url: str) -> None:
    more = {"IB_GATEWAY_HOST": "gw.invalid"}
    report = await examined(**settings(database_url, 4002, **more))
    assert report.bad() == {"gateway default: host"}
    row = report.rows["gateway default: host"]
    assert row.text.startswith("IB_CONN_004: 'gw.invalid' does not resolve")
    assert report.rows[LINK].text == "not looked at, because of gateway default: host"


@pytest.mark.parametrize(
    ("answer", "first", "named"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", True, "that is an SSH server"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False, "that is a web server"),
        (b"220 mail.example ESMTP\r\n", True, "that is a mail or file server"),
        (b"\x00\x00\xff\xff\xff\xff nonsense", False, ""),
    ],
)
async def test_a_port_of_another_program_is_named(
    database_url: str, answer: bytes, first: bool, named: str
) -> None:
    async with peer(answer, first=first) as port:
        report = await examined(**settings(database_url, port))
    assert (report.code, report.bad()) == (1, {LINK})
    row = report.rows[LINK]
    assert named in row.text
    assert re.search("does not speak the TWS API|did not answer|before answering", row.text)


async def test_a_web_server_is_named(database_url: str) -> None:
    runner = web.AppRunner(web.Application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        report = await examined(**settings(database_url, port))
    finally:
        await runner.cleanup()
    assert report.rows[LINK].text.endswith("that is a web server")
    assert "must correct host and port" in report.rows[LINK].advice


@contextmanager
def patient_web_server() -> Iterator[int]:
    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            """The streams of this process are the command's."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def test_a_silent_program_may_be_no_gateway_and_that_is_said(database_url: str) -> None:
    more = {"GATEWAY_BROKER_GATEWAYS__DEFAULT__TIMEOUT": "0.5"}
    with patient_web_server() as port:
        report = await examined(**settings(database_url, port, **more))
    row = report.rows[LINK]
    assert row.text.startswith("IB_CONN_003: ")
    assert "many web servers wait for more" in row.advice


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-subj", "/CN=x", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


async def test_a_tls_server_is_named(database_url: str, tls: ssl.SSLContext) -> None:
    async with peer(b"", ssl=tls) as port:
        report = await examined(**settings(database_url, port))
    row = report.rows[LINK]
    assert row.status == "wrong"
    assert "that is a TLS server" in row.text or "one that expects TLS" in row.advice


async def test_a_silent_gateway_is_given_up_and_both_causes_are_told(
    simulator: SimulatedGateway, database_url: str
) -> None:
    simulator.arm(Fault.SILENT_AFTER_ACCEPT)
    more = {"GATEWAY_BROKER_GATEWAYS__DEFAULT__TIMEOUT": "0.5"}
    report = await examined(**settings(database_url, simulator.port, **more))
    assert (report.code, report.bad()) == (1, {LINK})
    row = report.rows[LINK]
    assert "accepted the connection but did not answer within 0.5 s" in row.text
    assert "hangs, or a dialog in its window" in row.advice
    assert row.seconds < 2


@pytest.mark.parametrize(
    ("fault", "says", "advises"),
    [
        (Fault.CLOSE_AFTER_ACCEPT, "IB_CONN_001: ", "Trusted IPs"),
        (Fault.PAPER_DISCLAIMER, "IB_CONN_005: ", "must accept the paper trading disclaimer"),
        (Fault.OLD_SERVER_VERSION, "speaks server version 100", "install a current IB Gateway"),
        (Fault.CLOSE_AFTER_START, "IB_CONN_001: ", "limit of 32 clients"),
        (Fault.SILENT_AFTER_START, "did not send nextValidId and managedAccounts", "stuck"),
    ],
)
async def test_a_fault_of_the_gateway_is_named_with_what_to_do(
    simulator: SimulatedGateway, database_url: str, fault: Fault, says: str, advises: str
) -> None:
    simulator.arm(fault)
    report = await examined(**settings(database_url, simulator.port))
    assert (report.code, report.bad()) == (1, {LINK})
    assert says in report.rows[LINK].text
    assert advises in report.rows[LINK].advice


async def test_a_gateway_that_completes_the_handshake_and_hangs_is_found(
    simulator: SimulatedGateway, database_url: str
) -> None:
    simulator.mute(True)
    more = {"GATEWAY_BROKER_GATEWAYS__DEFAULT__HEARTBEAT_TIMEOUT": "0.3"}
    report = await examined(**settings(database_url, simulator.port, **more))
    assert report.bad() == {LINK}


async def test_the_wrong_kind_of_account_is_refused_by_its_name(
    simulator: SimulatedGateway, database_url: str
) -> None:
    live = {"IB_GATEWAY_KIND": "live"}
    report = await examined(**settings(database_url, simulator.port, **live))
    assert (report.code, report.bad()) == (1, {"gateway default: accounts"})
    row = report.rows["gateway default: accounts"]
    assert "declared live, but serves account DU1234567" in row.text
    assert report.rows[LINK].status == "ok"


async def test_a_kind_that_is_not_declared_is_a_warning(
    simulator: SimulatedGateway, database_url: str
) -> None:
    unknown = {"IB_GATEWAY_KIND": "unknown"}
    report = await examined(**settings(database_url, simulator.port, **unknown))
    assert (report.code, report.status) == (0, "warning")
    assert report.bad() == {"configuration", "gateway default: accounts"}
    assert "DU1234567: paper" in report.rows["gateway default: accounts"].text


async def test_a_client_id_in_use_is_a_gateway_that_is_there(
    simulator: SimulatedGateway, database_url: str
) -> None:
    simulator.ghost(PROBE_CLIENT_ID, 30)
    report = await examined(**settings(database_url, simulator.port))
    assert (report.code, report.bad()) == (0, {LINK})
    row = report.rows[LINK]
    assert "the Gateway is there" in row.text
    assert "IB_CONN_002" in row.text
    assert "another broker" in row.advice


async def test_a_gateway_without_ib_is_a_warning(database_url: str) -> None:
    broken = (2110, "Connectivity between TWS and server is broken.")
    told = SimulatorSettings(host="127.0.0.1", port=0, farm_notices=(broken,))
    async with SimulatedGateway(told) as simulator:
        report = await examined(**settings(database_url, simulator.port))
    assert (report.code, report.bad()) == (0, {"gateway default: upstream"})
    assert "is broken. (2110)" in report.rows["gateway default: upstream"].text


async def test_a_gateway_whose_clock_is_wrong_is_a_warning(database_url: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)
        for answer in (VERSION, ACCOUNTS + ORDER_ID, message(49, 1, int(time.time()) - 3600)):
            await reader.readexactly(int.from_bytes(await reader.readexactly(4)))
            writer.write(answer)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        report = await examined(**settings(database_url, server.sockets[0].getsockname()[1]))
    assert (report.code, report.bad()) == (0, {"gateway default: clock"})
    row = report.rows["gateway default: clock"]
    assert re.search(r"is 3,(599|600|601) s behind this machine's", row.text)
    assert "run NTP" in row.advice


async def test_in_its_maintenance_window_a_dead_gateway_is_a_warning(database_url: str) -> None:
    now = datetime.now(UTC)
    window = f"{now - timedelta(hours=1):%H:%M}-{now + timedelta(hours=1):%H:%M} UTC"
    more = {"GATEWAY_BROKER_GATEWAYS__DEFAULT__MAINTENANCE": json.dumps([window])}
    port = int(free_address().rpartition(":")[2])
    report = await examined(**settings(database_url, port, **more))
    assert (report.code, report.bad()) == (0, {LINK})
    assert "in its maintenance window, until" in report.rows[LINK].text


async def test_each_of_several_gateways_has_its_own_rows_at_the_same_time(
    simulator: SimulatedGateway, database_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "broker.toml"
    async with SimulatedGateway(SimulatorSettings(port=0)) as other:
        simulator.arm(Fault.SILENT_AFTER_ACCEPT)
        other.arm(Fault.SILENT_AFTER_ACCEPT)
        file.write_text(
            f"database_url = '{database_url}'\ngrpc_listen = '{free_address()}'\n"
            f"[gateways.a]\nport = {simulator.port}\nkind = 'paper'\ntimeout = 1\n"
            f"[gateways.b]\nport = {other.port}\nkind = 'paper'\ntimeout = 1\n"
        )
        file.chmod(0o600)
        report = await examined(GATEWAY_BROKER_CONFIG=str(file))
    slow = [report.rows[f"gateway {name}: connection"] for name in ("a", "b")]
    assert [row.status for row in slow] == ["wrong", "wrong"]
    assert report.seconds < sum(row.seconds for row in slow)


# -- the database -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says", "advises"),
    [
        (("broker:", "broker:x"), "password authentication failed", "escape what a URL cannot"),
        (("/test_", "/none_"), "does not exist", "CREATE DATABASE"),
    ],
)
async def test_a_database_that_refuses_is_named(
    simulator: SimulatedGateway,
    database_url: str,
    change: tuple[str, str],
    says: str,
    advises: str,
) -> None:
    report = await examined(**settings(database_url.replace(*change), simulator.port))
    assert (report.code, report.bad()) == (1, {"database"})
    row = report.rows["database"]
    assert says in row.text
    assert advises in row.advice
    assert ":x" not in row.text
    assert report.rows["database schema"].status == "skipped"
    assert report.rows[LINK].status == "ok"


async def test_a_database_that_is_not_there_is_named(simulator: SimulatedGateway) -> None:
    url = f"postgresql://u:hunter2@{free_address()}/x"
    report = await examined(**settings(url, simulator.port))
    row = report.rows["database"]
    assert row.status == "wrong"
    assert re.search("refused|Connect call failed", row.text)
    assert "No PostgreSQL runs there" in row.advice
    unknown = await examined(**settings("postgresql://u:hunter2@db.invalid/x", simulator.port))
    assert "host name is probably wrong" in unknown.rows["database"].advice
    async with peer(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        web_server = f"postgresql://u:hunter2@127.0.0.1:{port}/x"
        other = await examined(**settings(web_server, simulator.port))
    assert "another program listens" in other.rows["database"].advice
    assert "hunter2" not in repr((report, unknown, other))


async def test_a_silent_database_is_given_up(simulator: SimulatedGateway) -> None:
    more = {"GATEWAY_BROKER_STORE_TIMEOUT": "0.5"}
    async with peer(b"") as port:
        url = f"postgresql://u:p@127.0.0.1:{port}/x"
        report = await examined(**settings(url, simulator.port, **more))
    assert "no answer within 0.5 s" in report.rows["database"].text
    assert report.rows[LINK].status == "ok"


async def test_a_database_behind_is_to_be_migrated(
    simulator: SimulatedGateway, empty_database_url: str, database_url: str
) -> None:
    empty = await examined(**settings(empty_database_url, simulator.port))
    assert (empty.code, empty.bad()) == (1, {"database schema"})
    assert "is at none, this broker needs 0003" in empty.rows["database schema"].text
    assert "gateway-broker migrate" in empty.rows["database schema"].advice
    await downgrade(database_url, "0002")
    behind = await examined(**settings(database_url, simulator.port))
    assert "is at 0002, this broker needs 0003" in behind.rows["database schema"].text
    automatic = {"GATEWAY_BROKER_AUTO_MIGRATE": "true"}
    itself = await examined(**settings(database_url, simulator.port, **automatic))
    assert (itself.code, itself.bad()) == (0, set())


async def test_a_database_ahead_wants_a_newer_broker(
    simulator: SimulatedGateway, database_url: str
) -> None:
    await execute(database_url, "UPDATE alembic_version SET version_num = '0099'")
    report = await examined(**settings(database_url, simulator.port))
    assert (report.code, report.bad()) == (1, {"database schema"})
    assert "0099" in report.rows["database schema"].text
    assert "newer broker" in report.rows["database schema"].advice


async def test_a_database_that_takes_no_writes_is_named(
    simulator: SimulatedGateway, database_url: str, postgres_cluster: EmbeddedPostgres
) -> None:
    name = re.search(r"/(test_\w+)\?", database_url)
    assert name is not None
    await execute(
        postgres_cluster.dsn, f"ALTER DATABASE {name[1]} SET default_transaction_read_only = on"
    )
    report = await examined(**settings(database_url, simulator.port))
    assert "takes no writes" in report.rows["database"].text


async def test_a_user_without_rights_is_named(
    simulator: SimulatedGateway,
    database_url: str,
    empty_database_url: str,
    postgres_cluster: EmbeddedPostgres,
) -> None:
    role = f"reader_{secrets.token_hex(4)}"
    await execute(postgres_cluster.dsn, f"CREATE ROLE {role} LOGIN PASSWORD 'p'")
    grants = f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"
    await execute(database_url, grants)
    await execute(empty_database_url, grants)
    try:
        for url, what in ((database_url, "write"), (empty_database_url, "make")):
            as_reader = re.sub(r"//broker:[^@]+@", f"//{role}:p@", url)
            report = await examined(**settings(as_reader, simulator.port))
            assert f"user '{role}' may not {what}" in report.rows["database"].text
    finally:
        for url in (database_url, empty_database_url):
            await execute(url, f"DROP OWNED BY {role}")
        await execute(postgres_cluster.dsn, f"DROP ROLE {role}")


# -- a broker that runs -----------------------------------------------------------


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


# -- the rest ---------------------------------------------------------------------


async def test_a_bad_setting_is_named_and_the_rest_is_left_out() -> None:
    report = await examined(IB_GATEWAY_PORT="nope", LOG_LEVEL="loud")
    assert (report.code, report.bad()) == (1, {"configuration"})
    row = report.rows["configuration"]
    assert "gateways.default.port" in row.text
    assert "'nope' in IB_GATEWAY_PORT" in row.text
    assert "log_level" in row.text
    assert report.rows["everything else"].status == "skipped"


async def test_a_data_directory_of_nobody_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    where = {"GATEWAY_BROKER_DATA_DIR": str(tmp_path / "file" / "below")}
    report = await examined(**settings("", 4002, **where))
    assert "data directory" in report.bad()
    assert "is no directory" in report.rows["data directory"].text


async def test_it_ends_in_the_time_that_it_has(database_url: str) -> None:
    slow = {"GATEWAY_BROKER_GATEWAYS__DEFAULT__TIMEOUT": "60"}
    async with peer(b"") as port:
        began = time.monotonic()
        report = await examined("--deadline", "1", **settings(database_url, port, **slow))
    assert time.monotonic() - began < 6
    row = report.rows[LINK]
    assert (row.status, "longer than all checks may, 1 s" in row.text) == ("wrong", True)


async def test_people_are_told_what_is_wrong_what_to_do_and_what_it_waits_for(
    simulator: SimulatedGateway, database_url: str
) -> None:
    simulator.arm(Fault.SILENT_AFTER_ACCEPT)
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "broker", "doctor"),
        cwd=ROOT,
        env=environment(**settings(database_url, simulator.port), TERM="dumb") | {"COLUMNS": "80"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    said = b""
    with open(master, "rb", buffering=0) as terminal:  # noqa: ASYNC230, PTH123 - a descriptor
        while True:
            try:
                part = await asyncio.to_thread(terminal.read, 4096)
            except OSError:
                break
            if not part:
                break
            said += part
    assert await process.wait() == 1
    lines = said.decode().replace("\r\n", "\n").splitlines()
    text = "\n".join(lines)
    assert f"... {LINK}" in text
    assert re.search(rf"wrong +2\.\d\d s {LINK}: IB_CONN_003", text)
    assert "-> The Gateway hangs" in text
    assert "because of" not in text
    assert re.fullmatch(r"1 wrong, (1 warning, )?\d+ ok, 3 skipped, in \d\.\d s", lines[-1])
    assert max(len(line) for line in lines if "postgresql://" not in line) <= 80
