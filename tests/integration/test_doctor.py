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
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from broker.runtime.gateways import PROBE_CLIENT_ID
from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway, SimulatorSettings
from broker.simulator.journal import End
from tests.doctor import LINK, examined, peer, settings
from tests.harness import eventually
from tests.integration.scripted_peer import ACCOUNTS, ORDER_ID, VERSION, message
from tests.program import ROOT, environment, free_address

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
