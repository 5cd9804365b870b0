"""Health, metrics and the console over HTTP: who may ask, and what every answer carries."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from broker.access.identity import Identity, Role
from broker.app import broker
from broker.config import Settings
from broker.errors import StartupError
from broker.http.guard import Guard, harden
from broker.simulator.gateway import SimulatedGateway
from tests.access import make, token_of
from tests.harness import NO_FIXED_PORTS, Client, eventually, gateway, serving
from tests.integration.test_database_away import away


@asynccontextmanager
async def http(
    simulator: SimulatedGateway, database_url: str, **changes: Any
) -> AsyncIterator[tuple[Client, aiohttp.ClientSession]]:
    """A broker with HTTP, and a client of each kind."""
    listen = {"http_listen": "127.0.0.1:0", **changes}
    async with serving(simulator, database_url, **listen) as client:
        address = client.running.http_address.replace("0.0.0.0", "127.0.0.1")
        async with aiohttp.ClientSession(f"http://{address}/") as session:
            yield client, session


async def ask(
    session: aiohttp.ClientSession, path: str, *, method: str = "GET", **headers: str
) -> tuple[int, Any, Mapping[str, str]]:
    """The status, the body and the headers of an answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with session.request(method, path, headers=named) as answer:
        is_json = answer.content_type == "application/json" and method != "HEAD"
        return answer.status, await (answer.json() if is_json else answer.text()), answer.headers


@pytest.mark.requirement("R-HEALTH")
async def test_a_broker_that_runs_is_alive_whatever_the_gateway_does(
    simulator: SimulatedGateway, database_url: str
) -> None:
    await simulator.stop_listening()
    async with http(simulator, database_url) as (_, session):
        status, body, _ = await ask(session, "health/live")
        assert (status, body) == (200, {"status": "alive"})


@pytest.mark.requirement("R-HEALTH")
async def test_a_broker_is_ready_once_a_gateway_is_reachable(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with http(simulator, database_url) as (client, session):
        status, body, _ = await ask(session, "health/ready")
        assert (status, body["status"]) == (503, "not_ready")
        assert body["reasons"] == {"gateways": {"default": "not tried yet"}}
        await client.open()
        status, body, _ = await ask(session, "health/ready")
        assert (status, body) == (200, {"status": "ready"})
        await simulator.stop_listening()
        simulator.drop()

        async def unreachable() -> bool:
            status, body, _ = await ask(session, "health/ready")
            why: str = body.get("reasons", {}).get("gateways", {}).get("default", "")
            return status == 503 and why.startswith("IB_CONN_001: ")

        await eventually(unreachable)


async def test_one_gateway_of_two_is_enough_to_be_ready(
    simulator: SimulatedGateway, database_url: str
) -> None:
    gone = gateway(simulator, port=1, host="localhost")
    async with http(simulator, database_url, more_gateways={"gone": gone}) as (client, session):
        await client.open()
        assert (await ask(session, "health/ready"))[0] == 200


@pytest.mark.requirement("R-HEALTH")
async def test_a_broker_whose_database_is_away_is_not_ready_and_says_so(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with http(simulator, database_url, store_timeout=1.0) as (client, session):
        await client.open()
        async with away(database_url):

            async def says(*reasons: str) -> bool:
                status, body, _ = await ask(session, "health/ready")
                return status == 503 and set(reasons) <= set(body["reasons"])

            await eventually(lambda: says("lock"), 10)
            simulator.drop()  # now there is something that it does not take
            await eventually(lambda: says("lock", "database"), 10)

        async def ready() -> bool:
            return (await ask(session, "health/ready"))[0] == 200

        await eventually(ready, 10)


async def test_an_address_that_is_taken_names_the_setting_to_change(
    simulator: SimulatedGateway, database_url: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = Settings(
            gateways={"default": gateway(simulator)},
            database_url=database_url,
            **{**NO_FIXED_PORTS, "http_listen": address},
        )
        with pytest.raises(StartupError) as caught:
            async with broker(settings):
                pytest.fail("it serves")
    assert address in str(caught.value)
    assert "--http-listen (GATEWAY_BROKER_HTTP_LISTEN" in str(caught.value)
    assert "Stop what runs there" in str(caught.value)


async def test_an_address_that_this_machine_has_not_is_nobodys_to_stop(
    simulator: SimulatedGateway, database_url: str
) -> None:
    settings = Settings(
        gateways={"default": gateway(simulator)},
        database_url=database_url,
        **{**NO_FIXED_PORTS, "metrics_host": "192.0.2.1"},
    )
    with pytest.raises(StartupError) as caught:
        async with broker(settings):
            pytest.fail("it serves")
    assert "cannot listen on 192.0.2.1:0" in str(caught.value)
    assert "GATEWAY_BROKER_METRICS_HOST" in str(caught.value)
    assert "Stop what runs there" not in str(caught.value)


async def test_metrics_on_ipv6_are_shown_with_brackets(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, metrics_host="::1") as client:
        address = client.running.metrics_address
        assert address.startswith("[::1]:")
        async with aiohttp.ClientSession() as session:
            assert (await ask(session, f"http://{address}/metrics"))[0] == 200


async def test_without_an_address_and_without_metrics_nothing_is_served(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, metrics=False) as client:
        assert (client.running.http_address, client.running.metrics_address) == ("", "")


async def test_only_reading_is_answered(simulator: SimulatedGateway, database_url: str) -> None:
    async with http(simulator, database_url) as (_, session):
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
            for path in ("", "api/watch", "health/live", "nothing"):
                status, _, headers = await ask(session, path, method=method)
                assert (status, headers["Allow"]) == (405, "GET, HEAD")
        for path in ("", "main.js", "api/watch", "health/live"):
            status, body, _ = await ask(session, path, method="HEAD")
            assert (status, body) == (200, "")


async def test_every_answer_forbids_what_a_browser_need_not_do(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with http(simulator, database_url) as (_, session):
        for path in ("", "console.css", "nothing", "health/ready", "api/sessions/x/events"):
            _, _, headers = await ask(session, path)
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["X-Frame-Options"] == "DENY"
            assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert headers["Cache-Control"] == "no-store"
            assert "Access-Control-Allow-Origin" not in headers
            assert "aiohttp" not in headers["Server"]


async def test_a_name_that_was_pointed_at_this_machine_reads_nothing(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with http(simulator, database_url) as (_, session):
        for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "10.0.0.1", ""):
            for path in ("", "api/watch", "api/sessions/x/events", "main.js", "health/ready"):
                status, body, _ = await ask(session, path, Host=host)
                assert (status, body["reason"]) == (403, "WRONG_HOST"), host
        for host in ("localhost:9999", "LOCALHOST", "127.0.0.1", "127.8.8.8:1", "[::1]:8080"):
            assert (await ask(session, "", Host=host))[0] == 200, host


async def test_another_sites_page_reads_nothing_but_may_link_here(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with http(simulator, database_url) as (_, session):
        for site in ("cross-site", "same-site"):
            for path in ("api/watch", "main.js", "api/sessions/x/events"):
                status, body, _ = await ask(session, path, Sec_Fetch_Site=site)
                assert (status, body["reason"]) == (403, "WRONG_ORIGIN")
            link = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": "navigate"}
            assert (await ask(session, "", **link))[0] == 200
            embedded = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": "no-cors"}
            assert (await ask(session, "", **embedded))[0] == 403


async def test_beyond_loopback_health_is_open_and_the_console_closed(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with http(simulator, database_url, http_listen="0.0.0.0:0") as (_, session):
        # A probe calls the broker by whatever address it has.
        assert (await ask(session, "health/live", Host="10.1.2.3:8080"))[0] == 200
        for path in ("", "api/watch", "main.js"):
            status, body, _ = await ask(session, path)
            assert (status, body["reason"]) == (403, "PERMISSION_DENIED")
    async with http(simulator, database_url, http_listen="0.0.0.0:0", insecure_no_auth=True) as (
        _,
        session,
    ):
        for host in ("192.0.2.7:8080", "[2001:db8::7]", "broker:8080", "localhost"):
            assert (await ask(session, "", Host=host))[0] == 200
        status, body, _ = await ask(session, "", Host="console.example")
        assert (status, body["reason"]) == (403, "WRONG_HOST")
        assert (await ask(session, "health/live", Host="console.example"))[0] == 200


@asynccontextmanager
async def guarded(guard: Guard) -> AsyncIterator[aiohttp.ClientSession]:
    """Something that a guard stands before."""

    async def secret(_: web.Request) -> web.Response:
        return web.Response(text="secret")

    app = web.Application(middlewares=[guard.middleware])
    app.add_routes([web.get("/", secret), web.get("/health/live", secret)])
    app.on_response_prepare.append(harden)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        async with aiohttp.ClientSession(address) as session:
            yield session
    finally:
        await runner.cleanup()


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def test_beyond_loopback_a_token_opens_the_console_by_bearer_or_basic() -> None:
    def authenticate(token: str) -> Identity | None:
        return Identity("night-shift", Role.VIEWER) if token == "t0ken:with-colon" else None

    async with guarded(Guard(local=False, authenticate=authenticate)) as session:
        assert (await ask(session, "health/live"))[0] == 200
        status, body, headers = await ask(session, "")
        assert (status, body["reason"]) == (401, "UNAUTHENTICATED")
        assert headers["WWW-Authenticate"].startswith("Basic ")
        for given in (
            "Bearer t0ken:with-colon",
            "bearer  t0ken:with-colon",
            basic("", "t0ken:with-colon"),
            basic("anybody", "t0ken:with-colon"),
        ):
            assert (await ask(session, "", Authorization=given))[:2] == (200, "secret"), given
        for given in (
            *("Bearer wrong", "Bearer", "Bearer ", "t0ken:with-colon", "Digest t0ken:with-colon"),
            *("Basic t0ken:with-colon", "Basic /////w==", basic("t0ken:with-colon", "")),
            "Bearer " + "x" * 7000,
        ):
            status, body, _ = await ask(session, "", Authorization=given)
            assert (status, "secret" in str(body)) == (401, False), given


async def test_two_tokens_are_none() -> None:
    guard = Guard(local=False, authenticate=lambda _: Identity("somebody", Role.VIEWER))
    async with guarded(guard) as session:
        twice = [("Authorization", "Bearer a"), ("Authorization", "Bearer b")]
        async with session.get("", headers=twice) as answer:
            assert answer.status == 401


async def test_metrics_are_served_at_their_own_address_as_they_are_made() -> None:
    from broker.http.server import HttpServer

    def exposition() -> tuple[bytes, str]:
        return b"ib_gateway_active_connections 3.0\n", "text/plain; version=0.0.4; charset=utf-8"

    unused: Any = None
    server = HttpServer(
        listen="",
        metrics_listen="127.0.0.1:0",
        readiness=unused,
        console=unused,
        guard=unused,
        metrics_guard=Guard(local=True, insecure=True),
        exposition=exposition,
    )
    await server.start()
    try:
        async with aiohttp.ClientSession(f"http://{server.metrics_address}/") as session:
            status, body, headers = await ask(session, "metrics")
            assert (status, body.encode()) == (200, exposition()[0])
            assert headers["Content-Type"] == exposition()[1]
            assert (await ask(session, "metrics", Host="evil.example"))[0] == 403
            assert (await ask(session, "health/live"))[0] == 404
        port = server.metrics_address.rpartition(":")[2]
        other = HttpServer(
            listen="",
            metrics_listen=f"127.0.0.1:{port}",
            readiness=unused,
            console=unused,
            guard=unused,
            metrics_guard=Guard(local=True, insecure=True),
            exposition=exposition,
        )
        with pytest.raises(StartupError, match="PROMETHEUS_PORT"):
            await other.start()
        await other.stop()
    finally:
        await server.stop()


async def test_garbage_on_the_port_is_answered_and_harms_nobody(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with http(simulator, database_url) as (client, session):
        host, _, port = client.running.http_address.partition(":")
        for sent in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            b"GET /%2e%2e/etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        ):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(sent)
            async with asyncio.timeout(5):
                answer = await reader.read()
            writer.close()
            assert answer.split(b" ")[1] in (b"400", b"403", b"404"), answer
            assert b"root:" not in answer
        assert (await ask(session, "health/live"))[0] == 200


async def test_where_callers_need_tokens_the_console_does_on_loopback_too_and_health_does_not(
    simulator: SimulatedGateway, database_url: str, tmp_path: Path
) -> None:
    trial = make(tmp_path)
    async with http(simulator, database_url, access_file=trial.access_file) as (_, session):
        assert (await ask(session, "health/live"))[0] == 200
        _, body, _ = await ask(session, "health/ready")
        assert body["reasons"] == {"gateways": "told to who may look"}
        status, body, headers = await ask(session, "")
        assert (status, body["reason"]) == (401, "UNAUTHENTICATED")
        assert headers["WWW-Authenticate"].startswith("Basic")
        token = token_of(trial, Role.VIEWER)
        assert (await ask(session, "", Authorization=f"Bearer {token}"))[0] == 200
        assert (await ask(session, "", Authorization=basic("", token)))[0] == 200
        assert (await ask(session, "", Authorization=f"Bearer {token[:-1]}"))[0] == 401


@pytest.mark.requirement("AC-011")
async def test_the_metrics_of_a_broker_are_served_on_their_own_port(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url) as client:
        await client.open()
        address = client.running.metrics_address
        async with aiohttp.ClientSession(f"http://{address}/") as session:
            status, body, headers = await ask(session, "metrics")
        assert status == 200
        assert headers["Content-Type"].startswith("text/plain; version=")
        assert 'ib_gateway_connections_total{gateway="default",status="success"} 1.0' in body
        assert "ib_gateway_active_connections" in body
