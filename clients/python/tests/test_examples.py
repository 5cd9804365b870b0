"""What the documentation shows runs as it is shown."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ibgateway.client import BrokerClosedError, connect
from live_broker import LiveBroker
from scripted_broker import eventually

HERE = Path(__file__).resolve().parents[1]
EXAMPLES = HERE / "examples"
README = (HERE / "README.md").read_text()
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
BLOCKS = PYTHON.findall(README)
[FIRST_PROGRAM] = PYTHON.findall((HERE.parents[1] / "README.md").read_text())


class Program:
    """A program that runs, and what it has said so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = ""

    async def until(self, text: str, timeout: float = 60.0) -> None:
        """Read until it has said something."""
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(timeout):
                while text not in self.said:
                    line = await self.process.stdout.readline()
                    assert line, f"it ended without {text!r}: {self.said}"
                    self.said += line.decode()
        except TimeoutError:
            raise AssertionError(f"it has not said {text!r}: {self.said}") from None

    async def end(self, *, interrupt: bool = True) -> int:
        """Press Ctrl-C, and wait for its end."""
        if interrupt:
            self.process.send_signal(signal.SIGINT)
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            self.said += (await self.process.stdout.read()).decode()
            return await self.process.wait()


@asynccontextmanager
async def running(*arguments: str | Path) -> AsyncIterator[Program]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", *arguments),
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    program = Program(process)
    try:
        yield program
    finally:
        if process.returncode is None:
            process.kill()
        assert process.stdout is not None
        await process.stdout.read()
        await process.wait()


async def open_sessions(live: LiveBroker) -> list[int]:
    async with connect(live.address) as broker:
        return [info.client_id async for info in broker.list_sessions()]


def test_every_example_is_run_by_a_test_and_says_how_it_is_called() -> None:
    tests = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f'"{path.name}"' in tests
        assert f"python {path.name} 127.0.0.1:50051" in path.read_text()


async def test_keep_a_session(live: LiveBroker) -> None:
    async with running(EXAMPLES / "keep_a_session.py", live.address) as program:
        await program.until("changes follow")
        assert "the Gateway answers: True" in program.said
        assert "CONNECTED: client id 11" in program.said
        assert await open_sessions(live) == [11]
        await live.simulator("SetListening", listening=False)
        await live.simulator("DropClients", reset=True)
        await program.until("RECONNECTING: PEER_CLOSED")
        await program.until("not yet: IB_CONN_001")
        await live.simulator("SetListening", listening=True)
        await program.until("CONNECTED: HANDSHAKE_COMPLETED")
        assert await program.end() == 0
    assert "closed" in program.said
    assert "Traceback" not in program.said
    assert await open_sessions(live) == []


async def test_keep_a_session_that_somebody_else_ends(live: LiveBroker) -> None:
    async with running(EXAMPLES / "keep_a_session.py", live.address) as program:
        await program.until("the Gateway answers: True")
        async with connect(live.address) as broker:
            async for info in broker.list_sessions():
                await broker.close_session(info.session_id)
        assert await program.end(interrupt=False) == 1
    assert "somebody else has ended it" in program.said
    assert "CLOSE_REQUESTED" in program.said


async def test_resume_from_a_file(live: LiveBroker, tmp_path: Path) -> None:
    name, token = EXAMPLES / "resume_from_a_file.py", tmp_path / "token.txt"
    async with connect(live.address) as broker:
        async with running(name, live.address, token) as program:
            await program.until("these are all")
            await eventually(lambda: token.exists() and token.read_text())
            assert await program.end() == 0
        session = await broker.open_session(client_id=21)
        async with running(name, live.address, token) as program:
            await program.until(f"continue after {token.read_text()}")
            await program.until("HANDSHAKE_COMPLETED")
            assert await program.end() == 0
        assert "is void" not in program.said
        assert "these are all" not in program.said
        assert f"{session.session_id} is CONNECTING" in program.said


async def test_subscribe_again(live: LiveBroker) -> None:
    async with running(EXAMPLES / "subscribe_again.py", live.address) as program:
        await program.until("changes follow")
        assert "subscribed on generation 1" in program.said
        await live.simulator("DropClients", reset=True)
        await program.until("do not trade: IB_CONN_001")
        await program.until("subscribed on generation 2")
        await program.until("trade on")
        assert await program.end() == 0
    assert "too late" not in program.said


async def test_show_the_history(live: LiveBroker) -> None:
    async with connect(live.address) as broker:
        session = await broker.open_session(client_id=22)
        await session.close()

        async def is_on_record() -> bool:
            return any([event.session.is_final async for event in session.events()])

        await eventually(is_on_record)
    async with running(EXAMPLES / "show_the_history.py", live.address) as program:
        assert await program.end(interrupt=False) == 0
    assert "client id 22: DISCONNECTED" in program.said
    assert "CONNECTING -> CONNECTED: HANDSHAKE_COMPLETED" in program.said


async def test_handle_each_error(live: LiveBroker) -> None:
    async with running(EXAMPLES / "handle_each_error.py", live.address) as program:
        assert await program.end(interrupt=False) == 0
    opened, nowhere, wrong, nobody = program.said.splitlines()
    assert opened.startswith("opened ")
    assert nowhere.startswith("this program has a bug: GATEWAY_NOT_FOUND")
    assert wrong.startswith("this program has a bug: INVALID_ARGUMENT: client_id: must be between")
    assert nobody.startswith("no broker")
    assert await open_sessions(live) == []


async def test_handle_each_error_names_who_holds_the_id(live: LiveBroker) -> None:
    async with connect(live.address, owner="holder") as broker:
        held = await broker.open_session(client_id=13)
        async with running(EXAMPLES / "handle_each_error.py", live.address) as program:
            assert await program.end(interrupt=False) == 0
        await held.close()
    assert "another program has the id: IB_CONN_002" in program.said
    assert "'holder'" in program.said


def copied(program: str, live: LiveBroker, directory: Path) -> Path:
    """A program of a page, with the address of the broker that runs."""
    assert '"127.0.0.1:50051"' in program
    path = directory / "copied.py"
    path.write_text(program.replace("127.0.0.1:50051", live.address))
    return path


async def test_the_first_program_of_the_project_runs_as_it_is_copied(
    live: LiveBroker, tmp_path: Path
) -> None:
    async with running(copied(FIRST_PROGRAM, live, tmp_path)) as program:
        await program.until("('DU")
        await program.until("SnapshotComplete")
        await program.end()
    await eventually(lambda: _none(live))


async def test_the_program_of_the_readme_runs_as_it_is_copied(
    live: LiveBroker, tmp_path: Path
) -> None:
    path = copied(BLOCKS[0], live, tmp_path)
    async with running(path) as program:
        await program.until("now CONNECTED")
        assert program.said.startswith("7 ('DU")
        assert await open_sessions(live) == [7]
        await live.simulator("DropClients", reset=True)
        await program.until("RECONNECTING")
        await program.end()
    await eventually(lambda: _none(live))


async def _none(live: LiveBroker) -> bool:
    return not await open_sessions(live)


async def test_the_functions_of_the_readme_run(live: LiveBroker, tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    for block in BLOCKS[1:]:
        exec(compile(block, "README.md", "exec"), names)  # noqa: S102 - our own text
    async with connect(live.address, owner="momentum") as broker:
        session = await broker.open_session(client_id=7)
        await names["more"](broker, session)
        path = tmp_path / "token"
        following = asyncio.create_task(names["follow"](broker, path))
        await eventually(lambda: path.exists() and path.read_text())
    with pytest.raises(BrokerClosedError):
        await following


def test_the_readme_names_every_error_and_item() -> None:
    import ibgateway.client
    from ibgateway.client import events

    shown = set(re.findall(r"`(\w+)`", README))
    kinds = {kind.__name__ for kind in events.WatchItem.__args__}
    errors = {name for name in ibgateway.client.__all__ if name.endswith("Error")}
    own = {"BrokerError", "GatewayError", "SlowConsumerError", "BrokerClosedError"}
    assert kinds <= shown
    assert errors - own <= shown


@pytest.mark.parametrize("block", BLOCKS)
def test_the_readme_imports_what_it_names(block: str) -> None:
    ast.parse(block)
