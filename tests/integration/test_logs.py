"""What the log says of a run: once, in order, with the fields that the plan asks for."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import uuid
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import grpc.aio
import pytest

from broker.gateway.base import GatewayKind
from broker.rpc import convert
from broker.simulator.gateway import SimulatedGateway
from broker.telemetry import logs
from tests.access import make
from tests.harness import Client, eventually, serving
from tests.program import ended, free_address, start
from tests.scripted_run import CORRELATION_ID, SETTINGS, play

Line = dict[str, Any]

PLAN = {
    "connection_attempt": ("info", {"host", "port", "client_id"}),
    "connection_success": ("info", {"session_id", "duration"}),
    "connection_failure": ("error", {"error_type", "error_message"}),
    "client_id_conflict": ("warning", {"client_id", "retry_count"}),
    "circuit_breaker_state_change": ("error", {"old_state", "new_state"}),
    "disconnection": ("info", {"session_id", "reason"}),
}
"""The six events of the plan: level and fields."""


class Log:
    """What goes to standard error, as text."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def lines(self) -> list[Line]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def named(self, event: str) -> list[Line]:
        return [line for line in self.lines if line["event"] == event]


def recorded(log_format: str, stream: io.StringIO) -> Iterator[None]:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.formatter(log_format))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield
    root.setLevel(level)
    root.removeHandler(handler)


@pytest.fixture
def log() -> Iterator[Log]:
    found = Log()
    for _ in recorded("json", found.stream):
        yield found


@pytest.mark.requirement("AC-011")
async def test_the_log_of_a_run_tells_each_thing_once_and_in_order(
    simulator: SimulatedGateway, database_url: str, log: Log
) -> None:
    async with serving(simulator, database_url, gateway_changes=SETTINGS, store_grace=10) as client:
        session = await play(client, simulator)
        lines = log.lines
    assert [(line["event"], line.get("client_id")) for line in lines] == [
        # An open meets two conflicts.
        ("connection_attempt", 7),
        ("client_id_conflict", 7),
        ("connection_attempt", 8),
        ("client_id_conflict", 8),
        ("connection_attempt", 9),
        ("connection_success", None),
        # Its link is lost, and made anew.
        ("connection_failure", None),
        ("connection_attempt", 9),
        ("connection_success", None),
        # Another one fails, and opens the circuit.
        ("connection_attempt", 20),
        ("connection_failure", None),
        ("connection_attempt", 20),
        ("connection_failure", None),
        ("connection_attempt", 20),
        ("circuit_breaker_state_change", None),
        ("connection_failure", None),
        ("disconnection", None),
        # Two trials close it.
        ("circuit_breaker_state_change", None),
        ("connection_attempt", 21),
        ("connection_success", None),
        ("connection_attempt", 22),
        ("circuit_breaker_state_change", None),
        ("connection_success", None),
        *[("close_requested", None), ("disconnection", None)] * 3,
    ]
    for name, (level, fields) in PLAN.items():
        assert log.named(name), name
        for line in log.named(name):
            assert line["level"] == level
            assert fields <= line.keys()
    states = [(line["old_state"], line["new_state"]) for line in log.named(list(PLAN)[4])]
    assert states == [("CLOSED", "OPEN"), ("OPEN", "HALF_OPEN"), ("HALF_OPEN", "CLOSED")]
    conflicts = [line["retry_count"] for line in log.named("client_id_conflict")]
    assert conflicts == [0, 1]
    ended = [line["reason"] for line in log.named("disconnection")]
    assert ended == ["IB_CONN_001", *["CLOSE_REQUESTED"] * 3]
    assert log.named("connection_attempt")[0]["host"] == simulator.host
    assert {line["session_id"] for line in lines[:9]} == {session.session_id}
    assert {line["error_type"] for line in log.named("connection_failure")} == {"ConnectionError"}
    # What to do is said with the first failure of a kind, not with each.
    assert [("hint" in line) for line in log.named("connection_failure")] == [
        *(True, True, False, False)
    ]


@pytest.mark.requirement("AC-011")
async def test_every_line_of_a_request_or_session_has_the_id_of_its_cause(
    simulator: SimulatedGateway, database_url: str, log: Log
) -> None:
    async with serving(simulator, database_url, gateway_changes=SETTINGS, store_grace=10) as client:
        await play(client, simulator)
        lines = log.lines
    for line in lines:
        assert uuid.UUID(line["correlation_id"]).version == 4
        assert line["timestamp"].endswith("Z")
    causes = [line["correlation_id"] for line in lines]
    assert causes[:6] == [CORRELATION_ID] * 6
    # The outage has its own, and so has each open and each close; the circuit's is that of who
    # opened it.
    assert [one for one, next_one in pairwise([*causes, None]) if one != next_one] == list(
        dict.fromkeys(causes)
    )
    assert len(set(causes)) == 1 + 1 + 1 + 2 + 3


async def test_the_log_of_a_sentinel_tells_what_happens_to_its_gateway(
    simulator: SimulatedGateway, database_url: str, log: Log
) -> None:
    quick = {"sentinel": True, "health_check_interval": 0.1}
    async with serving(simulator, database_url, gateway_changes=quick, store_grace=10):
        await eventually(lambda: log.named("sentinel_connected"))
        await simulator.stop_listening()
        simulator.drop()
        await eventually(lambda: log.named("gateway_unreachable"))
        await simulator.start_listening()
        await eventually(lambda: len(log.named("sentinel_connected")) == 2)
    first, lost, *unreachable, again = log.lines
    assert (first["event"], lost["event"]) == ("sentinel_connected", "sentinel_lost")
    assert {line["event"] for line in unreachable} == {"gateway_unreachable"}
    outage = {line["correlation_id"] for line in (lost, *unreachable, again)}
    assert len(outage) == 1
    assert outage != {first["correlation_id"]}


async def test_no_line_has_a_password_a_token_or_an_account(
    simulator: SimulatedGateway, database_url: str, log: Log
) -> None:
    password = urlsplit(database_url).password
    assert password
    wrong = {"kind": GatewayKind.LIVE}
    async with serving(
        simulator, database_url, gateway_changes=wrong, store_timeout=0.2, open_unrecorded=True
    ) as client:
        connection = await asyncpg.connect(database_url)
        await connection.execute("BEGIN; LOCK TABLE session_events IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.open(client_id=7)
        await eventually(lambda: log.named("store_unavailable"))
        await connection.close()
        await eventually(lambda: log.named("store_available"))
    assert "DU1234567" in (caught.value.details() or "")  # the caller may know
    [failure] = log.named("connection_failure")
    assert "DU***567" in failure["error_message"]
    logger = logging.getLogger("somebody.else")
    logger.warning("cannot connect to postgresql://broker:hunter2@db/broker?sslmode=require")
    logger.warning("no postgresql://db/broker?user=broker&password=hunter2&sslmode=require")
    logger.warning("refused", extra={"header": "Bearer abc.def", "by": {"dsn": "a://b:hunter2@c"}})
    try:
        raise ValueError("password of postgresql://:hunter2@db is wrong for DU7654321")
    except ValueError:
        logger.exception("failed")
    text = log.stream.getvalue()
    for secret in (password, "hunter2", "abc.def", "DU1234567", "DU7654321"):
        assert secret not in text
    assert "postgresql://broker:***@db/broker?sslmode=require" in text
    assert log.lines[-1]["event"] == "failed"


async def test_what_fails_unexpectedly_is_in_the_log_under_the_id_that_the_caller_got(
    client: Client, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await client.open(client_id=7)

    def breaks(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(convert.Sessions, "encode", breaks)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.get(session.session_id)
    [line] = log.named("request_failed")
    assert line["error_id"] in (caught.value.details() or "")
    trailing = dict(caught.value.trailing_metadata() or ())
    assert line["correlation_id"] == trailing["x-correlation-id"]
    assert "a bug" in line["exception"]


async def test_the_same_run_is_readable_for_people(
    simulator: SimulatedGateway, database_url: str
) -> None:
    stream = io.StringIO()
    for _ in recorded("console", stream):
        async with serving(simulator, database_url, store_grace=10) as client:
            session = await client.open(client_id=7)
            await client.close(session.session_id)
    attempt, success, *_ = stream.getvalue().splitlines()
    assert "[info     ] connection_attempt" in attempt
    assert "client_id=7" in attempt
    assert "{" not in success


async def test_no_stranger_writes_into_the_log(
    simulator: SimulatedGateway, database_url: str, tmp_path: Path
) -> None:
    trial = make(tmp_path)
    grpc_address, http_address = free_address(), free_address()
    process = await start(
        "serve",
        DATABASE_URL=database_url,
        IB_GATEWAY_PORT=str(simulator.port),
        GATEWAY_BROKER_GRPC_LISTEN=grpc_address,
        GATEWAY_BROKER_HTTP_LISTEN=http_address,
        GATEWAY_BROKER_TLS_CERTIFICATE=str(trial.certificate),
        GATEWAY_BROKER_TLS_KEY=str(trial.key),
        GATEWAY_BROKER_ACCESS_FILE=str(trial.access_file),
    )

    async def alive() -> bool:
        return "200 OK" in await knock(
            http_address, "GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )

    await eventually(alive, timeout=30)
    huge = f"GET / HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {'A' * 14_000}\r\n\r\n"
    for text in (huge, "nonsense\r\n\r\n"):
        await knock(http_address, text)
        await knock(grpc_address, text)
    process.terminate()
    said = await ended(process)
    events = [json.loads(line)["event"] for line in said.err.splitlines()]
    assert events[-1] == "broker_stopped"
    assert not {"Error handling request", "request_failed"} & set(events)


async def knock(address: str, text: str) -> str:
    """What a port answers to a text; empty if it hangs up."""
    host, _, port = address.rpartition(":")
    try:
        reader, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return ""
    writer.write(text.encode())
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(2):
            answer = (await reader.read(4096)).decode(errors="replace")
            writer.close()
            return answer
    writer.close()
    return ""
