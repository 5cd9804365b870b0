"""Every exit code, by a command that ends with it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest

from broker.cli.exits import ExitCode
from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway
from tests.harness import Client, eventually, gateway, serving, sockets
from tests.program import Said, ask, deaf_address, free_address, interrupt, running

UNKNOWN = "00000000-0000-4000-8000-000000000000"
NOWHERE = "nowhere.invalid"


class Scene:
    """A broker and its Gateway, and the command line in front of them."""

    def __init__(self, client: Client, simulator: SimulatedGateway) -> None:
        self.client = client
        self.simulator = simulator

    async def ask(self, *arguments: str) -> Said:
        return await ask(*arguments, "--broker", self.client.running.grpc_address)

    async def open(self, *more: str) -> Said:
        return await self.ask("sessions", "open", "--client-id", "7", "--max-attempts", "1", *more)


@pytest.fixture
async def scene(simulator: SimulatedGateway, database_url: str) -> AsyncIterator[Scene]:
    away = {"lost": gateway(simulator, host=NOWHERE)}
    async with serving(simulator, database_url, more_gateways=away, session_limit=2) as client:
        yield Scene(client, simulator)


@asynccontextmanager
async def strange_server(code: grpc.StatusCode) -> AsyncIterator[str]:
    """A gRPC server that answers everything with one status, as a proxy might."""

    async def refuse(request: bytes, context: Any) -> bytes:
        await context.abort(code, "no")
        return b""

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(refuse)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def faulty(fault: Fault, *more: str) -> Callable[[Scene], Awaitable[Said]]:
    async def run(scene: Scene) -> Said:
        scene.simulator.arm(fault)
        return await scene.open(*more)

    return run


async def ok(scene: Scene) -> Said:
    return await scene.open()


async def failed(scene: Scene) -> Said:
    return await scene.ask("health", "nonsense")


async def usage(scene: Scene) -> Said:
    return await scene.ask("sessions", "open", "--client-id", "seven")


async def unreachable(scene: Scene) -> Said:
    return await ask("sessions", "list", "--broker", free_address())


async def timed_out(scene: Scene) -> Said:
    with deaf_address() as address:
        return await ask("health", "--deadline", "0.3", "--broker", address)


async def refused(scene: Scene) -> Said:
    return await scene.open("--reconnect-max-attempts", "-1")


async def not_found(scene: Scene) -> Said:
    return await scene.ask("sessions", "history", UNKNOWN)


async def not_connected(scene: Scene) -> Said:
    session = await scene.client.open(client_id=7)
    await scene.client.close(session.session_id)
    return await scene.ask("sessions", "renew", session.session_id, "--lease", "60")


async def not_now(scene: Scene) -> Said:
    await scene.ask("gateways", "drain", "default")
    return await scene.open()


async def exhausted(scene: Scene) -> Said:
    await scene.client.open(client_id=8)
    await scene.client.open(client_id=9)
    return await scene.open()


async def denied(scene: Scene) -> Said:
    async with strange_server(grpc.StatusCode.UNAUTHENTICATED) as address:
        return await ask("sessions", "list", "--broker", address)


async def broker_erred(scene: Scene) -> Said:
    async with strange_server(grpc.StatusCode.UNIMPLEMENTED) as address:
        return await ask("gateways", "list", "--broker", address)


async def unresolvable(scene: Scene) -> Said:
    return await scene.open("--gateway", "lost")


async def interrupted(scene: Scene) -> Said:
    scene.simulator.arm(Fault.SILENT_AFTER_ACCEPT)
    at = ("--broker", scene.client.running.grpc_address)
    async with running("sessions", "open", *at) as process:
        await eventually(lambda: sockets(scene.simulator) == 1, 20)
        return await interrupt(process)


SCENES: dict[ExitCode, Callable[[Scene], Awaitable[Said]]] = {
    ExitCode.OK: ok,
    ExitCode.FAILED: failed,
    ExitCode.USAGE: usage,
    ExitCode.UNREACHABLE: unreachable,
    ExitCode.TIMED_OUT: timed_out,
    ExitCode.REFUSED: refused,
    ExitCode.NOT_FOUND: not_found,
    ExitCode.NOT_CONNECTED: not_connected,
    ExitCode.NOT_NOW: not_now,
    ExitCode.EXHAUSTED: exhausted,
    ExitCode.DENIED: denied,
    ExitCode.BROKER_ERRED: broker_erred,
    ExitCode.IB_CONN_001: faulty(Fault.CLOSE_AFTER_ACCEPT),
    ExitCode.IB_CONN_002: faulty(Fault.CLIENT_ID_IN_USE),
    ExitCode.IB_CONN_003: faulty(Fault.SILENT_AFTER_ACCEPT, "--timeout", "0.3"),
    ExitCode.IB_CONN_004: unresolvable,
    ExitCode.IB_CONN_005: faulty(Fault.EMPTY_ACCOUNTS),
    ExitCode.IB_CONN_006: faulty(Fault.OLD_SERVER_VERSION),
    ExitCode.INTERRUPTED: interrupted,
}
SILENT = {ExitCode.OK, ExitCode.FAILED, ExitCode.INTERRUPTED}
"""With these nothing is said on standard error: what is wrong is the answer, or was asked for."""


@pytest.mark.parametrize("code", ExitCode, ids=lambda code: f"{code.value}-{code.name}")
async def test_each_exit_code_is_that_of_a_command(scene: Scene, code: ExitCode) -> None:
    said = await SCENES[code](scene)
    assert said.code == code, said
    assert (said.err == "") == (code in SILENT)
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (unreachable, ["no broker answers at ", "hint: start one with `gateway-broker serve`"]),
        (timed_out, ["has not answered within 0.3 s", "hint: wait longer with --deadline"]),
        (not_now, ["GATEWAY_DRAINING", "hint: `gateway-broker gateways resume default`", "retry:"]),
        (exhausted, ["SESSION_LIMIT", "close one, or raise the limit"]),
        (broker_erred, ["UNIMPLEMENTED", "hint: it is no gateway-broker"]),
        (unresolvable, ["IB_CONN_004", f"'{NOWHERE}'", "hint: "]),
    ],
)
async def test_an_error_names_the_cause_and_the_next_step(
    scene: Scene, run: Callable[[Scene], Awaitable[Said]], says: list[str]
) -> None:
    said = await run(scene)
    assert said.err.startswith("error: ")
    for words in says:
        assert words in said.err


async def test_errors_are_json_where_answers_are(scene: Scene) -> None:
    bad = await scene.open("--reconnect-max-attempts", "-1", "--output", "json")
    assert bad.out == ""
    error = json.loads(bad.err)["error"]
    assert (error["reason"], error["exit_code"]) == ("INVALID_ARGUMENT", bad.code)
    assert [item["field"] for item in error["violations"]] == ["reconnect_max_attempts"]
    assert error["correlation_id"]
    await scene.ask("gateways", "drain", "default", "--reason", "upgrade")
    drained = json.loads((await scene.open("-o", "json")).err)["error"]
    assert drained["retry_after"] > 0
    assert drained["metadata"]["drain_reason"] == "upgrade"
    assert "gateways resume default" in drained["hint"]
    gone = await ask("sessions", "list", "-o", "json", "--broker", free_address())
    assert json.loads(gone.err)["error"]["exit_code"] == 3
    # One command's way of speaking is not the next one's.
    assert (await scene.open()).err.startswith("error: ")


async def test_a_configuration_that_is_refused_is_json_too() -> None:
    said = await ask("sessions", "list", "--output", "json", IB_GATEWAY_PORT="nope")
    assert said.code == 1
    assert "gateways.default.port" in json.loads(said.err)["error"]["message"]
