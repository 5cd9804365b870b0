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
from tests.harness import Client, eventually, sockets
from tests.program import ROOT, environment, interrupt, run, running, until

UNKNOWN = "00000000-0000-4000-8000-000000000000"


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def dev(address: str, data_dir: Path) -> list[str]:
    where = ["--grpc-listen", address, "--control-listen", "127.0.0.1:0"]
    return ["dev", *where, "--data-dir", str(data_dir)]


async def test_dev_runs_everything_a_newcomer_needs(fresh_data_dir: Path) -> None:
    address = free_address()
    at = ["--broker", address]
    async with running(*dev(address, fresh_data_dir)) as process:
        banner = await until(process, "Ctrl-C stops all of it.")
        assert "SIMULATED" in banner
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
            listed = await run("sessions", "list", *at)
            assert session["session_id"] in listed.out
            shown = await run("sessions", "get", session["session_id"], *at)
            assert re.search(r"state +CONNECTED", shown.out)
            verified = await run("sessions", "verify", session["session_id"], *at)
            assert (verified.code, verified.out[:8]) == (0, "healthy:")
            closed = await run("sessions", "close", session["session_id"], *at)
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
            children = psutil.Process(process.pid).children(recursive=True)
            stopped = await interrupt(process)
            assert stopped.code == 0, stopped.err
            assert "stopped" in stopped.out
            assert "Traceback" not in stopped.err
            assert not [child for child in children if child.is_running()]
            await until(watch, "waiting for it")
            # A broker that comes back is found, and what it cannot continue is said.
            async with running(*dev(address, fresh_data_dir)) as again:
                await until(watch, "changes follow")
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
                *(option, address),
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
    assert (first.code, first.out) == (0, "migrated the database: empty -> 0001\n")
    again = await run("migrate", **where)
    assert (again.code, again.out) == (0, "the database is at 0001 already\n")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["sessions", "get", UNKNOWN], 1, "SESSION_NOT_FOUND"),
        (["sessions", "get", "x"], 1, "session_id: must be"),
        (["sessions", "close", UNKNOWN], 1, "SESSION_NOT_FOUND"),
        (["sessions", "verify", UNKNOWN], 1, "SESSION_NOT_FOUND"),
        (["sessions", "open", "--client-id", "70000"], 1, "client_id: must be"),
        (["sessions", "open", "--gateway", "nope"], 1, "GATEWAY_NOT_FOUND"),
        (["sessions", "open", "--label", "nothing"], 2, "not KEY=VALUE"),
        (["sessions", "open", "--label", "a=1", "--label", "a=2"], 2, "given twice"),
        (["sessions", "open", "--client-id", "seven"], 2, "--client-id"),
        (["sessions", "watch", "--state", "asleep"], 2, "--state"),
        (["sessions", "watch", "x"], 1, "session_ids"),
        (["gateways", "get", "nope"], 1, "GATEWAY_NOT_FOUND"),
        (["health", "nope"], 1, ""),
        (["health", "--deadline", "0"], 2, "--deadline"),
    ],
)
async def test_errors_name_their_cause_with_an_exit_code(
    client: Client, arguments: list[str], code: int, says: str
) -> None:
    said = await run(*arguments, "--broker", client.running.grpc_address)
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
    said = await run(
        *("sessions", "open", "--client-id", "7", "--max-attempts", "1"),
        *("--broker", client.running.grpc_address),
    )
    assert said.code == 1
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
    assert said.code != 0
    assert "Traceback" not in said.err
    await eventually(lambda: sockets(simulator) == 0)
    [left] = await client.list(include_final=True)
    assert left.close_reason == "CALLER_GONE"


async def test_lists_and_filters_are_json_for_programs(client: Client) -> None:
    at = ("--output", "json", "--broker", client.running.grpc_address)
    mine = await client.open(client_id=7, labels={"team": "a"})
    gone = await client.open(client_id=8)
    await client.close(gone.session_id)

    async def listed(*more: str) -> list[int]:
        said = await run("sessions", "list", *more, *at)
        assert said.code == 0, said.err
        return [session["client_id"] for session in json.loads(said.out)]

    assert await listed() == [7]
    assert await listed("--include-final") == [7, 8]
    assert await listed("--include-final", "--state", "disconnected") == [8]
    assert await listed("--label", "team=b") == []
    assert await listed(mine.session_id) == [7]
    [gateway] = json.loads((await run("gateways", "list", *at)).out)
    assert gateway["sessions_used"] == 1
    one = json.loads((await run("gateways", "get", *at)).out)
    assert [held["client_id"] for held in one["client_ids"]] == [7]
    healthy = await run("health", "--broker", client.running.grpc_address)
    assert (healthy.code, healthy.out) == (0, "SERVING\n")


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
            assert await process.wait() == 1
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
