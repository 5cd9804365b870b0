"""The command line, as a user types it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import socket
import sys
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
import typer.main
from typer.testing import CliRunner

from broker.cli.root import app
from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway
from tests.harness import CONNECTED, RECONNECTING, Client, eventually, serving, sockets
from tests.program import (
    FREE_PORTS,
    ROOT,
    ask,
    environment,
    free_address,
    interrupt,
    run,
    running,
    until,
)

UNKNOWN = "00000000-0000-4000-8000-000000000000"


def dev(address: str, data_dir: Path) -> list[str]:
    where = ["--grpc-listen", address, "--control-listen", "127.0.0.1:0", *FREE_PORTS]
    return ["dev", *where, "--data-dir", str(data_dir)]


async def test_dev_runs_everything_a_newcomer_needs(fresh_data_dir: Path) -> None:
    address = free_address()
    at = ["--broker", address]
    async with running(*dev(address, fresh_data_dir)) as process:
        banner = await until(process, "Ctrl-C stops all of it.")
        assert "SIMULATED" in banner
        assert re.search(r"console +http://127\.0\.0\.1:\d+/ ", banner)
        assert f"sessions watch --broker {address}" in banner
        async with running("sessions", "watch", *at) as watch:
            await until(watch, "changes follow")
            opened = await run("sessions", "open", "--client-id", "7", "--output", "json", *at)
            assert opened.code == 0, opened.err
            session = json.loads(opened.out)
            assert session["state"] == "SESSION_STATE_CONNECTED"
            assert session["client_id"] == 7
            assert session["server_version"] == 178
            assert session["accounts"] == ["DU1234567"]
            story = await until(watch, "CONNECTING -> CONNECTED")
            assert "DISCONNECTED -> CONNECTING" in story
            listed = await ask("sessions", "list", *at)
            assert session["session_id"] in listed.out
            shown = await ask("sessions", "get", session["session_id"], *at)
            assert re.search(r"state +CONNECTED", shown.out)
            verified = await ask("sessions", "verify", session["session_id"], *at)
            assert (verified.code, verified.out[:8]) == (0, "healthy:")
            closed = await ask("sessions", "close", session["session_id"], *at)
            assert re.search(r"why +CLOSE_REQUESTED", closed.out)
            await until(watch, "CONNECTED -> DISCONNECTED  CLOSE_REQUESTED")
            url = await run("db", "url", GATEWAY_BROKER_DATA_DIR=str(fresh_data_dir))
            connection = await asyncpg.connect(url.out.strip(), timeout=10)
            row = await connection.fetchrow("select * from gateway_connections")
            events = await connection.fetchval("select count(*) from session_events")
            await connection.close()
            assert row is not None
            assert (str(row["session_id"]), row["client_id"], row["final_state"], events) == (
                *(session["session_id"], 7, "DISCONNECTED", 4),
            )
            left = json.loads((await ask("sessions", "open", "--output", "json", *at)).out)
            children = psutil.Process(process.pid).children(recursive=True)
            stopped = await interrupt(process)
            assert stopped.code == 0, stopped.err
            assert "stopped" in stopped.out
            assert "Traceback" not in stopped.err
            assert not [child for child in children if child.is_running()]
            await until(watch, "waiting for it")
            # A broker that comes back is found, and the watch goes on where it was.
            async with running(*dev(address, fresh_data_dir)) as again:
                await until(watch, "it is back")
                # So is its Gateway, at the address to which the session belongs.
                kept = json.loads(
                    (await ask("sessions", "get", left["session_id"], "-o", "json", *at)).out
                )
                assert kept["close_reason"] == ""
                assert (await interrupt(again)).code == 0
            assert (await interrupt(watch)).err == ""


async def test_what_cannot_listen_says_where_and_what_to_do(fresh_data_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for option in ("--grpc-listen", "--control-listen", "--gateway-listen"):
            said = await run(
                *("dev", "--data-dir", str(fresh_data_dir)),
                *("--grpc-listen", "127.0.0.1:0", "--control-listen", "127.0.0.1:0"),
                *(*FREE_PORTS, option, address),
            )
            assert said.code == 1
            assert address in said.err
            assert option in said.err
            assert "Traceback" not in said.err


async def test_serve_names_the_setting_that_it_refuses() -> None:
    said = await run("serve", IB_GATEWAY_PORT="nope")
    assert said.code == 1
    assert "gateways.default.port" in said.err
    beyond = await run("serve", "--grpc-listen", "0.0.0.0:0")
    assert beyond.code == 1
    assert "grpc_listen" in beyond.err


async def test_migrate_and_db_url_say_what_to_do(fresh_data_dir: Path) -> None:
    where = {"GATEWAY_BROKER_DATA_DIR": str(fresh_data_dir)}
    none = await run("db", "url", **where)
    assert none.code == 1
    assert "gateway-broker serve" in none.err
    first = await run("migrate", **where)
    assert (first.code, first.out) == (0, "migrated the database: empty -> 0003\n")
    again = await run("migrate", **where)
    assert (again.code, again.out) == (0, "the database is at 0003 already\n")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["sessions", "get", UNKNOWN], 6, "SESSION_NOT_FOUND"),
        (["sessions", "get", "x"], 5, "session_id: must be"),
        (["sessions", "close", UNKNOWN], 6, "SESSION_NOT_FOUND"),
        (["sessions", "verify", UNKNOWN], 6, "SESSION_NOT_FOUND"),
        (["sessions", "open", "--client-id", "70000"], 5, "client_id: must be"),
        (["sessions", "open", "--gateway", "nope"], 6, "GATEWAY_NOT_FOUND"),
        (["sessions", "open", "--label", "nothing"], 2, "not KEY=VALUE"),
        (["sessions", "open", "--label", "a=1", "--label", "a=2"], 2, "given twice"),
        (["sessions", "open", "--client-id", "seven"], 2, "--client-id"),
        (["sessions", "watch", "--state", "asleep"], 2, "--state"),
        (["sessions", "watch", "x"], 5, "session_ids"),
        (["sessions", "open", "--reconnect-max-attempts", "-1"], 5, "reconnect_max_attempts: "),
        (["sessions", "acknowledge", UNKNOWN], 6, "SESSION_NOT_FOUND"),
        (["sessions", "acknowledge", "x", "--generation", "0"], 5, "generation: must be"),
        (["sessions", "acknowledge", UNKNOWN, "--generation", "one"], 2, "--generation"),
        (["gateways", "get", "nope"], 6, "GATEWAY_NOT_FOUND"),
        (["gateways", "drain"], 2, "GATEWAY"),
        (["gateways", "drain", "nope"], 6, "GATEWAY_NOT_FOUND"),
        (["gateways", "drain", "default", "--reason", "x" * 257], 5, "reason: must be"),
        (["gateways", "resume", "nope"], 6, "GATEWAY_NOT_FOUND"),
        (["gateways", "reset-breaker", "nope"], 6, "GATEWAY_NOT_FOUND"),
        (["health", "nope"], 1, ""),
        (["health", "--deadline", "0"], 2, "--deadline"),
    ],
)
async def test_errors_name_their_cause_with_an_exit_code(
    client: Client, arguments: list[str], code: int, says: str
) -> None:
    said = await ask(*arguments, "--broker", client.running.grpc_address)
    assert said.code == code
    assert says in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    "arguments", [["sessions", "list"], ["sessions", "watch"], ["gateways", "list"], ["health"]]
)
async def test_no_broker_is_exit_code_3_and_says_how_to_start_one(arguments: list[str]) -> None:
    address = free_address()
    said = await run(*arguments, GATEWAY_BROKER_ADDRESS=address)
    assert said.code == 3
    assert f"no broker answers at {address}" in said.err
    assert "gateway-broker serve" in said.err


async def test_a_failed_open_shows_code_hint_and_correlation_id(
    client: Client, simulator: SimulatedGateway
) -> None:
    simulator.arm(Fault.CLIENT_ID_IN_USE)
    said = await ask(
        *("sessions", "open", "--client-id", "7", "--max-attempts", "1"),
        *("--broker", client.running.grpc_address),
    )
    assert said.code == 22
    assert "error: IB_CONN_002: " in said.err
    assert "hint: " in said.err
    assert "correlation id: " in said.err


async def test_ctrl_c_while_opening_gives_the_session_up(
    client: Client, simulator: SimulatedGateway
) -> None:
    simulator.arm(Fault.SILENT_AFTER_ACCEPT)
    async with running("sessions", "open", "--broker", client.running.grpc_address) as process:
        await eventually(lambda: sockets(simulator) == 1, 20)
        said = await interrupt(process)
    assert said.code == 130
    assert said.err == ""
    await eventually(lambda: sockets(simulator) == 0)
    [left] = await client.list(include_final=True)
    assert left.close_reason == "CALLER_GONE"


async def test_lists_and_filters_are_json_for_programs(client: Client) -> None:
    at = ("--output", "json", "--broker", client.running.grpc_address)
    mine = await client.open(client_id=7, labels={"team": "a"})
    gone = await client.open(client_id=8)
    await client.close(gone.session_id)

    async def listed(*more: str) -> list[int]:
        said = await ask("sessions", "list", *more, *at)
        assert said.code == 0, said.err
        return [session["client_id"] for session in json.loads(said.out)["sessions"]]

    assert await listed() == [7]
    assert await listed("--include-final") == [7, 8]
    assert await listed("--include-final", "--state", "disconnected") == [8]
    assert await listed("--label", "team=b") == []
    assert await listed(mine.session_id) == [7]
    [gateway] = json.loads((await ask("gateways", "list", *at)).out)["gateways"]
    assert gateway["sessions_used"] == 1
    one = json.loads((await ask("gateways", "get", *at)).out)
    assert [held["client_id"] for held in one["client_ids"]] == [7]
    healthy = await run("health", "--broker", client.running.grpc_address)
    assert (healthy.code, healthy.out) == (0, "SERVING\n")


async def test_an_operator_drains_a_gateway_and_puts_it_into_use_again(client: Client) -> None:
    at = ("--broker", client.running.grpc_address)
    session = await client.open(client_id=7)
    async with running("sessions", "watch", *at) as watch:
        await until(watch, "changes follow")
        drained = await ask(
            *("gateways", "drain", "default", "--reason", "upgrade", "--owner", "ops", *at)
        )
        assert drained.code == 0, drained.err
        assert re.search(r"drained by +ops since \d{4}-.*: upgrade", drained.out)
        story = await until(watch, "GATEWAY_DRAINING")
        assert "gateway 'default' is drained by 'ops': upgrade" in story
        listed = await ask("gateways", "list", *at)
        assert "drained by ops since" in listed.out
        refused = await ask("sessions", "open", *at)
        assert refused.code == 8
        assert "GATEWAY_DRAINING" in refused.err
        assert "hint: `gateway-broker gateways resume default`" in refused.err
        assert (await client.get(session.session_id)).state == CONNECTED
        ended = await ask(
            *("gateways", "drain", "default", "--close-sessions", "--output", "json", *at)
        )
        said = json.loads(ended.out)
        assert said["drain"]["actor"] == "local"
        assert said["client_ids"] == []
        await until(watch, "CONNECTED -> DISCONNECTED  GATEWAY_DRAINED")
    resumed = await ask("gateways", "resume", "default", "--output", "json", *at)
    assert "drain" not in json.loads(resumed.out)
    again = await ask("gateways", "resume", "default", *at)
    assert (again.code, "drained" in again.out) == (0, False)


async def test_an_open_circuit_says_when_it_is_tried_and_is_closed_on_request(
    simulator: SimulatedGateway, database_url: str
) -> None:
    changes = {"circuit_breaker_failure_threshold": 1, "retry_initial_delay": 60.0}
    async with serving(
        simulator, database_url, gateway_changes={**changes, "retry_max_delay": 60.0}
    ) as client:
        at = ("--broker", client.running.grpc_address)
        await simulator.stop_listening()
        await client.open(client_id=7, return_immediately=True)

        async def is_open() -> bool:
            said = await ask("gateways", "list", *at)
            return bool(re.search(r"OPEN, a trial at \d{4}-", said.out))

        await eventually(is_open, timeout=20)
        shown = await ask("gateways", "get", *at)
        assert re.search(r"breaker +OPEN, a trial at \d{4}-", shown.out)
        assert re.search(r"next attempt +\d{4}-", shown.out)
        refused = await ask("sessions", "open", *at)
        assert "CIRCUIT_OPEN" in refused.err
        assert "gateways reset-breaker default" in refused.err
        assert "retry: in " in refused.err
        await simulator.start_listening()
        async with running("sessions", "watch", *at) as watch:
            await until(watch, "changes follow")
            closed = await ask("gateways", "reset-breaker", "default", "--output", "json", *at)
            state = json.loads(closed.out)["circuit_breaker"]["state"]
            assert state == "CIRCUIT_BREAKER_STATE_CLOSED"
            story = await until(watch, "CONNECTING -> CONNECTED")
            assert "CIRCUIT_CLOSED" in story


async def test_interrupted_data_is_shown_until_its_owner_has_subscribed_anew(
    client: Client, simulator: SimulatedGateway
) -> None:
    at = ("--broker", client.running.grpc_address)
    session = await client.open(client_id=7)
    simulator.notify(1101)

    async def shown(*command: str) -> str:
        said = await ask("sessions", *command, session.session_id, *at)
        return said.out if said.code == 0 else said.err

    async def is_interrupted() -> bool:
        return "DATA_CONTINUOUS is FALSE (1101)" in await shown("get")

    await eventually(is_interrupted, timeout=20)
    assert re.search(r"generation +1", await shown("get"))
    assert "UPSTREAM" not in await shown("get")
    assert "DATA_CONTINUOUS" in await shown("list")
    other = await shown("acknowledge", "--generation", "2")
    assert "generation: is 1 now" in other
    assert "conditions" not in await shown("acknowledge")
    once_more = await shown("acknowledge", "--generation", "1", "--output", "json")
    [data] = [
        fact for fact in json.loads(once_more)["conditions"] if fact["type"] == "DATA_CONTINUOUS"
    ]
    assert data["status"] == "CONDITION_STATUS_TRUE"
    await client.close(session.session_id)
    assert "SESSION_NOT_CONNECTED" in await shown("acknowledge")


async def test_a_session_that_shall_not_reconnect_fails_with_its_link(
    client: Client, simulator: SimulatedGateway
) -> None:
    at = ("--broker", client.running.grpc_address)
    async with running("sessions", "watch", *at) as watch:
        await until(watch, "changes follow")
        opened = await ask("sessions", "open", "--reconnect-max-attempts", "0", *at)
        assert opened.code == 0, opened.err
        simulator.drop()
        story = await until(watch, "RECONNECTING -> FAILED  ATTEMPTS_EXHAUSTED")
        assert "no attempt is planned" in story


async def test_an_id_in_quarantine_is_shown_with_its_reason(
    client: Client, simulator: SimulatedGateway
) -> None:
    session = await client.open(client_id=7)
    await simulator.stop_listening()
    simulator.drop(reset=True)

    async def lost() -> bool:
        return (await client.get(session.session_id)).state == RECONNECTING

    await eventually(lost)
    await client.close(session.session_id)
    at = ("--broker", client.running.grpc_address)
    shown = await ask("gateways", "get", *at)
    assert re.search(r"quarantined +7  LINK_LOST  since \d{4}-", shown.out)
    assert "quarantined 7" in (await ask("gateways", "list", *at)).out


async def test_a_gateway_in_maintenance_says_until_when(
    simulator: SimulatedGateway, database_url: str
) -> None:
    always = {"maintenance": ["00:00-23:59 UTC", "23:58-00:01 UTC"]}
    async with serving(simulator, database_url, gateway_changes=always) as client:
        at = ("--broker", client.running.grpc_address)
        shown = await ask("gateways", "get", *at)
        assert re.search(r"maintenance +until \d{4}-", shown.out)
        assert "maintenance until " in (await ask("gateways", "list", *at)).out


async def test_a_gateway_that_is_killed_and_started_again_is_a_story(database_url: str) -> None:
    # docs/reconnecting.md tells this very story; its words are asserted here.
    gateway, address = free_address(), free_address()
    simulate = ("simulate", "--listen", gateway, "--no-control")
    at = ("--broker", address)
    settings = {
        "DATABASE_URL": database_url,
        "IB_GATEWAY_PORT": gateway.rpartition(":")[2],
        "GATEWAY_BROKER_GRPC_LISTEN": address,
        "GATEWAY_BROKER_GATEWAYS__DEFAULT__RETRY_INITIAL_DELAY": "0.3",
        "GATEWAY_BROKER_GATEWAYS__DEFAULT__RETRY_MAX_DELAY": "0.6",
    }

    async def serves() -> bool:
        return (await ask("health", *at)).code == 0

    async with running(*simulate) as simulator, running("serve", **settings):
        await until(simulator, "Press Ctrl-C")
        await eventually(serves, timeout=30)
        async with running("sessions", "watch", *at) as watch:
            await until(watch, "changes follow")
            opened = await ask("sessions", "open", "--client-id", "7", *at)
            assert opened.code == 0, opened.err
            simulator.kill()
            story = await until(watch, "attempt 2: IB_CONN_001 again; the next attempt in ")
            assert "CONNECTED -> RECONNECTING  PEER_CLOSED" in story
            assert re.search(r"IB_CONN_001: .* (reset|closed) the connection", story)
            assert "The session dials anew by itself." in story
            assert re.search(r"the next attempt in 0\.\d s, at \d\d:\d\d:\d\d\.\d{3}\n", story)
            assert re.search(r"attempt 1: failed; the next attempt in 0\.\d s, at \d\d:", story)
            assert f"IB_CONN_001: {gateway} refused the connection" in story
            assert "Nothing listens there: the Gateway is not running" in story
            async with running(*simulate) as again:
                await until(again, "Press Ctrl-C")
                story = await until(watch, "sessions acknowledge")
                back = (
                    r"RECONNECTING -> CONNECTED generation 2 after \d+\.\d s  HANDSHAKE_COMPLETED"
                )
                assert re.search(back, story)
                assert "DATA_CONTINUOUS is FALSE: the link was made anew" in story


async def test_a_watch_in_json_is_one_message_a_line(client: Client) -> None:
    async with running(
        *("sessions", "watch", "--output", "json"), *("--broker", client.running.grpc_address)
    ) as watch:
        first = json.loads((await until(watch, "snapshot_complete")).splitlines()[-1])
        assert first["resume_token"]
        await client.open(client_id=7)
        lines = (await until(watch, "HANDSHAKE_COMPLETED")).splitlines()
        assert [json.loads(line)["event"]["session"]["state"] for line in lines] == [
            "SESSION_STATE_CONNECTING",
            "SESSION_STATE_CONNECTED",
        ]
        assert (await interrupt(watch)).err == ""


async def test_a_long_wait_is_told_on_a_terminal(
    client: Client, simulator: SimulatedGateway
) -> None:
    simulator.arm(Fault.SILENT_AFTER_ACCEPT)
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "broker", "sessions", "open", "--max-attempts", "1"),
        *("--timeout", "2", "--broker", client.running.grpc_address),
        cwd=ROOT,
        env=environment(TERM="xterm"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        async with asyncio.timeout(20):
            assert await process.wait() == 23
        said = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert "waiting for gateway 'default'" in said
    assert "IB_CONN_003" in said


ROOT_COMMAND: Any = typer.main.get_command(app)


def paths(command: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    subcommands = getattr(command, "commands", {})
    return [path] + [
        found for name, sub in subcommands.items() for found in paths(sub, (*path, name))
    ]


@pytest.mark.parametrize("path", paths(ROOT_COMMAND), ids=" ".join)
def test_every_command_and_every_option_explains_itself(path: tuple[str, ...]) -> None:
    said = CliRunner().invoke(app, [*path, "--help"], terminal_width=200)
    assert said.exit_code == 0
    command = ROOT_COMMAND
    for name in path:
        command = command.commands[name]
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), parameter.name


def test_the_version_is_that_of_the_distribution() -> None:
    said = CliRunner().invoke(app, ["--version"])
    assert re.fullmatch(r"gateway-broker \d+\.\d+\.\d+\n", said.stdout)
