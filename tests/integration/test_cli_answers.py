"""What commands answer: to people at any width, to programs, and to the shell."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import sys
import termios
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import typer.main
from google.protobuf import json_format
from ibgateway.broker.v1 import (
    broker_service_pb2,
    gateway_pb2,
    gateway_service_pb2,
    session_event_pb2,
    session_pb2,
    session_service_pb2,
)
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.cli.root import app
from broker.rpc import session_service
from broker.simulator.gateway import SimulatedGateway
from tests.harness import Client, eventually, serving
from tests.program import (
    ROOT,
    ask,
    deaf_address,
    environment,
    free_address,
    interrupt,
    running,
    until,
)

COMPLETE = "_GATEWAY_BROKER_COMPLETE"


# -- all of the API ------------------------------------------------------------------

COMMANDS = {
    "OpenSession": ["sessions", "open", "--client-id", "8"],
    "GetSession": ["sessions", "get", "SESSION"],
    "ListSessions": ["sessions", "list"],
    "VerifySession": ["sessions", "verify", "SESSION"],
    "RenewSession": ["sessions", "renew", "SESSION", "--lease", "60"],
    "ListSessionEvents": ["sessions", "history", "SESSION"],
    "AcknowledgeData": ["sessions", "acknowledge", "SESSION"],
    "CloseSession": ["sessions", "close", "SESSION", "--reason", "done"],
    "ListGateways": ["gateways", "list"],
    "GetGateway": ["gateways", "get"],
    "DrainGateway": ["gateways", "drain", "default"],
    "ResumeGateway": ["gateways", "resume", "default"],
    "ResetCircuitBreaker": ["gateways", "reset-breaker", "default"],
    "GetBrokerInfo": ["info"],
}


def test_every_rpc_has_a_command() -> None:
    services = [
        module.DESCRIPTOR.services_by_name.values()
        for module in (broker_service_pb2, gateway_service_pb2, session_service_pb2)
    ]
    rpcs = {method.name for found in services for service in found for method in service.methods}
    assert rpcs == COMMANDS.keys() | {"WatchSessions"}


@pytest.mark.parametrize("form", ["table", "json"])
async def test_every_command_of_the_api_answers_people_and_programs(
    client: Client, form: str
) -> None:
    session = await client.open(client_id=7)
    for arguments in COMMANDS.values():
        named = [session.session_id if word == "SESSION" else word for word in arguments]
        said = await ask(*named, "-o", form, "--broker", client.running.grpc_address)
        assert (said.code, said.err) == (0, ""), named
        if form == "json":
            assert [json.loads(text) for text in _documents(said.out)]


def _documents(out: str) -> list[str]:
    """One document, or one on each line."""
    return out.splitlines() if out.startswith('{"') else [out]


async def test_json_is_that_of_the_contract(client: Client) -> None:
    at = ("-o", "json", "--broker", client.running.grpc_address)
    session = await client.open(client_id=7, labels={"desk": "fx"})

    async def parsed(message: Any, *arguments: str) -> Any:
        return json_format.Parse((await ask(*arguments, *at)).out, message)

    got = await parsed(session_pb2.Session(), "sessions", "get", session.session_id)
    assert got == await client.get(session.session_id)
    listed = await parsed(pb.ListSessionsResponse(), "sessions", "list")
    assert list(listed.sessions) == await client.list()
    gateways = await parsed(gateway_service_pb2.ListGatewaysResponse(), "gateways", "list")
    ask_all = gateway_service_pb2.ListGatewaysRequest()
    assert gateways == await client.gateways.ListGateways(ask_all)
    one = await parsed(gateway_pb2.Gateway(), "gateways", "get")
    assert one == gateways.gateways[0]
    info = await parsed(broker_service_pb2.GetBrokerInfoResponse(), "info")
    assert info == await client.broker.GetBrokerInfo(broker_service_pb2.GetBrokerInfoRequest())
    history = (await ask("sessions", "history", session.session_id, *at)).out.splitlines()
    events = [json_format.Parse(line, session_event_pb2.SessionEvent()) for line in history]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))


async def test_a_long_list_can_be_read_page_by_page(client: Client) -> None:
    at = ("--broker", client.running.grpc_address)
    for client_id in range(11, 16):
        await client.open(client_id=client_id)
    found: list[int] = []
    token = ""
    pages = 0
    while token or not pages:
        more = ("--page-token", token) if token else ()
        said = await ask("sessions", "list", "--limit", "2", *more, "-o", "json", *at)
        page = json.loads(said.out)
        found += [session["client_id"] for session in page["sessions"]]
        token, pages = page["next_page_token"], pages + 1
    assert (found, pages) == ([11, 12, 13, 14, 15], 3)
    people = await ask("sessions", "list", "--limit", "2", *at)
    assert people.err.startswith("There are more: --page-token ")


async def test_pages_that_are_shorter_than_asked_for_hide_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_service, "LARGEST_ANSWER", 1)
    at = ("--broker", client.running.grpc_address, "-o", "json")
    for client_id in range(11, 16):
        session = await client.open(client_id=client_id)

    async def ids(*arguments: str) -> tuple[list[int], str]:
        page = json.loads((await ask("sessions", "list", *arguments, *at)).out)
        return [each["client_id"] for each in page["sessions"]], page["next_page_token"]

    assert await ids() == ([11, 12, 13, 14, 15], "")
    first, token = await ids("--limit", "3")
    assert first == [11, 12, 13]
    assert await ids("--limit", "3", "--page-token", token) == ([14, 15], "")
    history = (await ask("sessions", "history", session.session_id, *at)).out.splitlines()
    assert [json.loads(line)["sequence"] for line in history] == ["1", "2"]


async def test_an_open_that_is_repeated_says_that_it_is_the_same_session(client: Client) -> None:
    at = ("--request-id", str(uuid.uuid4()), "--broker", client.running.grpc_address)
    first = await ask("sessions", "open", "--client-id", "7", *at)
    again = await ask("sessions", "open", "--client-id", "7", *at)
    assert first.err == ""
    assert "This request_id has opened it before" in again.err
    assert first.out.splitlines()[0] == again.out.splitlines()[0]


async def test_a_history_has_durations_and_a_sum(
    client: Client, simulator: SimulatedGateway
) -> None:
    session = await client.open(client_id=7)
    simulator.drop()

    async def is_back() -> bool:
        return (await client.get(session.session_id)).generation == 2

    await eventually(is_back)
    await client.close(session.session_id)
    said = await ask(
        *("sessions", "history", session.session_id), *("--broker", client.running.grpc_address)
    )
    assert said.out.startswith(f"session {session.session_id}  client 7 on default  owner ")
    assert re.search(r"\d\.\d{3} +\+\d+ ms  CONNECTED -> RECONNECTING  PEER_CLOSED", said.out)
    assert re.search(r"RECONNECTING -> CONNECTED generation 2 after 0\.\d s", said.out)
    assert re.search(r"^CONNECTED +\d+\.\d% .*\(2 times, the longest ", said.out, re.MULTILINE)
    assert "It is over: DISCONNECTED, CLOSE_REQUESTED, at " in said.out


# -- a watch of lines ----------------------------------------------------------------


async def test_a_watch_goes_on_after_its_token_without_a_snapshot(client: Client) -> None:
    at = ("--broker", client.running.grpc_address)
    session = await client.open(client_id=7)
    async with running("sessions", "watch", "-o", "json", *at) as watch:
        lines = (await until(watch, "snapshot_complete")).splitlines()
        assert (await interrupt(watch)).code == 130
    token = json.loads(lines[-1])["resume_token"]
    await client.close(session.session_id)
    async with running("sessions", "watch", "--resume-token", token, *at) as watch:
        story = await until(watch, "DISCONNECTED")
        asked, ended = story.splitlines()
        assert "close_reason CLOSE_REQUESTED by local" in asked
        assert "CONNECTED -> DISCONNECTED  CLOSE_REQUESTED" in ended


async def test_a_watch_of_programs_is_told_when_the_broker_goes_and_when_it_is_back(
    simulator: SimulatedGateway, database_url: str
) -> None:
    address = free_address()
    serve = ("serve", "--grpc-listen", address)
    settings = {
        "DATABASE_URL": database_url,
        "IB_GATEWAY_PORT": str(simulator.port),
        "GATEWAY_BROKER_GATEWAYS__DEFAULT__SENTINEL": "false",
    }

    async def serves() -> bool:
        return (await ask("health", "--broker", address)).code == 0

    async with running(*serve, **settings) as broker:
        await eventually(serves, timeout=30)
        async with running("sessions", "watch", "-o", "json", "--broker", address) as watch:
            await until(watch, "snapshot_complete")
            broker.kill()
            gone = json.loads((await until(watch, "interrupted")).splitlines()[-1])
            assert gone["resume_token"]
            assert gone["interrupted"]["message"]
            async with running(*serve, **settings):
                await until(watch, '"resumed": {}', timeout=60)
                assert (await interrupt(watch)).err == ""


# -- a terminal ----------------------------------------------------------------------


class Terminal:
    """A command on a terminal of a certain size, and what stands on its screen."""

    def __init__(self, process: asyncio.subprocess.Process, ours: int) -> None:
        self.process = process
        self._ours = ours
        self._read = ""

    def text(self) -> str:
        """All that was written until now, without colours."""
        try:
            while chunk := os.read(self._ours, 65536):
                self._read += chunk.decode(errors="replace")
        except (BlockingIOError, OSError):
            pass
        return re.sub(r"\x1b\[[\d;?]*[A-GI-Za-z]", "", self._read).replace("\r", "")

    def screen(self) -> str:
        """What was drawn last."""
        return self.text().rpartition("\x1b[H")[2]

    async def shows(self, words: str, timeout: float = 20.0) -> str:
        await eventually(lambda: words in self.screen(), timeout)
        return self.screen()


@asynccontextmanager
async def terminal(*arguments: str, width: int = 80, height: int = 24) -> AsyncIterator[Terminal]:
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (height, width))
    os.set_blocking(ours, False)
    clean = environment(TERM="xterm-256color")
    clean.pop("COLUMNS")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "broker", *arguments),
        cwd=ROOT,
        env=clean,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(ours)


async def test_a_watch_on_a_terminal_is_a_table_that_follows_a_fault_and_its_end(
    simulator: SimulatedGateway, database_url: str
) -> None:
    slow = {"retry_initial_delay": 1.0, "retry_max_delay": 1.0}
    async with serving(simulator, database_url, gateway_changes=slow) as client:
        calm = await client.open(client_id=8)
        at = ("--broker", client.running.grpc_address)
        async with terminal("sessions", "watch", *at) as watch:
            await watch.shows("1 CONNECTED")
            session = await client.open(client_id=7)
            await watch.shows("2 CONNECTED")
            await simulator.stop_listening()
            simulator.drop(client_id=7)
            screen = await watch.shows("attempt 2 in")
            head, headings, first, *rest = screen.splitlines()
            assert "1 RECONNECTING, 1 CONNECTED" in head
            assert headings.split() == [
                *("SESSION", "CLIENT", "GATEWAY", "OWNER", "STATE", "FOR", "NEXT"),
            ]
            assert first.split()[:5] == [
                *(session.session_id[:8], "7", "default", "local", "RECONNECTING"),
            ]
            assert "refused the connection" in " ".join(" ".join(rest).split())
            assert "Nothing listens there" in " ".join(" ".join(rest).split())
            assert any(line.startswith(calm.session_id[:8]) for line in rest)
            assert any("attempt 1: failed" in line for line in rest)
            assert max(map(len, screen.splitlines())) <= 80
            assert len(screen.rstrip("\n").splitlines()) <= 24
            await simulator.start_listening()
            screen = await watch.shows("2 CONNECTED")
            assert "DATA_CONTINUOUS is FALSE" in screen
            assert "RECONNECTING -> CONNECTED generation 2" in screen
            watch.process.send_signal(signal.SIGINT)
            # Who does not read on keeps it from writing its last table.
            await eventually(lambda: watch.text() and watch.process.returncode is not None, 20)
            assert watch.process.returncode == 130
            # The last table stays on the screen.
            assert "2 CONNECTED" in watch.text().rpartition("LAST EVENTS")[0]
            assert "Traceback" not in watch.text()


async def test_a_watch_on_a_terminal_is_lines_where_they_are_asked_for(client: Client) -> None:
    at = ("--broker", client.running.grpc_address)
    async with terminal("sessions", "watch", "--events", *at) as watch:
        await eventually(lambda: "changes follow" in watch.text(), 20)
        await client.open(client_id=7)
        await eventually(lambda: "CONNECTING -> CONNECTED" in watch.text(), 20)


@pytest.mark.parametrize(
    "arguments", [["sessions", "list"], ["gateways", "list"], ["sessions", "get", "SESSION"]]
)
async def test_no_line_is_wider_than_the_terminal_and_no_id_is_cut(
    client: Client, arguments: list[str]
) -> None:
    session = await client.open(client_id=7, labels={"strategy": "momentum" * 10})
    named = [session.session_id if word == "SESSION" else word for word in arguments]
    async with terminal(*named, "--broker", client.running.grpc_address) as shown:
        async with asyncio.timeout(20):
            assert await shown.process.wait() == 0
        text = shown.text()
    assert max(map(len, text.splitlines())) <= 80
    assert ("sessions" not in arguments) or session.session_id in text
    if arguments == ["sessions", "list"]:
        assert "(too narrow for: SINCE)" in text


async def test_what_is_piped_has_no_colour_unless_it_is_asked_for(client: Client) -> None:
    await client.open(client_id=7)
    at = ("sessions", "list", "--broker", client.running.grpc_address)
    assert "\x1b[" not in (await ask(*at)).out
    assert "\x1b[32m" in (await ask("--color", "always", *at, TERM="xterm")).out
    assert "\x1b[3" not in (await ask("--color", "always", *at, TERM="xterm", NO_COLOR="1")).out


HOSTILE = "\x1b[2J\x9b2J\u202eboo"


async def test_what_callers_write_is_no_command_to_the_terminal(client: Client) -> None:
    at = ("--broker", client.running.grpc_address)
    session = await client.open(client_id=7, labels={"x": HOSTILE})
    drained = await ask("gateways", "drain", "default", "--reason", HOSTILE, *at)
    commands = [
        *(["sessions", "get", session.session_id], ["sessions", "history", session.session_id]),
        *(["gateways", "get"], ["gateways", "list"], ["gateways", "explain"], ["sessions", "open"]),
    ]
    said = [drained, *[await ask(*command, *at) for command in commands]]
    for one in said:
        assert not {"\x1b", "\x9b", "\u202e"} & set(one.out + one.err)
    assert sum("boo" in one.out + one.err for one in said) == len(said)


# -- help and completion -------------------------------------------------------------

ROOT_COMMAND: Any = typer.main.get_command(app)


def leaves(command: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    below = getattr(command, "commands", None)
    if below is None:
        return [path]
    return [leaf for name in below for leaf in leaves(below[name], (*path, name))]


@pytest.mark.parametrize("path", leaves(ROOT_COMMAND), ids=" ".join)
def test_every_command_has_an_example_that_can_be_typed(path: tuple[str, ...]) -> None:
    command = ROOT_COMMAND
    for name in path:
        command = command.commands[name]
    title, _, example = command.epilog.partition(": ")
    assert title == "Example"
    program, *words = shlex.split(example)
    assert (program, tuple(words[: len(path)])) == ("gateway-broker", path)
    # Raises if it is refused; that it runs is another matter.
    command.make_context(path[-1], words[len(path) :])


async def completed(line: str, **settings: str) -> list[str]:
    words = line.split(" ")
    said = await ask(
        COMP_WORDS=line, COMP_CWORD=str(len(words) - 1), **{COMPLETE: "complete_bash"}, **settings
    )
    assert said.err == ""
    return said.out.split()


async def test_the_shell_completes_what_the_broker_knows(client: Client) -> None:
    session = await client.open(client_id=7, labels={"desk": "fx"})
    address = client.running.grpc_address
    at = {"GATEWAY_BROKER_ADDRESS": address}
    assert session.session_id in await completed("gateway-broker sessions get ", **at)
    begun = f"gateway-broker sessions close {session.session_id[:4]}"
    assert await completed(begun, **at) == [session.session_id]
    assert await completed("gateway-broker sessions close zz", **at) == []
    assert await completed("gateway-broker gateways explain ", **at) == ["default"]
    assert await completed("gateway-broker sessions list --label ", **at) == ["desk=fx"]
    assert await completed("gateway-broker sessions list --owner ", **at) == ["local"]
    assert await completed("gateway-broker sessions list --state reco", **at) == ["RECONNECTING"]
    here = f"gateway-broker gateways get --broker {address} "
    assert await completed(here, GATEWAY_BROKER_ADDRESS=free_address()) == ["default"]
    assert {"sessions", "gateways", "health"} <= set(await completed("gateway-broker ", **at))


async def test_without_a_broker_the_shell_completes_nothing_quietly_and_soon() -> None:
    with deaf_address() as silent:
        for address in (free_address(), silent):
            async with asyncio.timeout(10):
                found = await completed(
                    "gateway-broker sessions get ", GATEWAY_BROKER_ADDRESS=address
                )
            assert found == []
    refused = await completed("gateway-broker sessions get ", IB_GATEWAY_PORT="nope")
    assert refused == []
