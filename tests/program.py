"""`gateway-broker`, as a user runs it."""

from __future__ import annotations

import asyncio
import io
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import (
    asynccontextmanager,
    contextmanager,
    redirect_stderr,
    redirect_stdout,
    suppress,
)
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from unittest import mock

import pytest

from broker.cli import root

ROOT = Path(__file__).resolve().parents[1]
_OURS = ("GATEWAY_BROKER_", "IB_GATEWAY_", "DATABASE_URL", "LOG_LEVEL", "PROMETHEUS_PORT")
NO_FIXED_PORTS = {"GATEWAY_BROKER_HTTP_LISTEN": "off", "PROMETHEUS_PORT": "0"}
"""The settings of a broker that takes no port which tests beside it would miss."""
FREE_PORTS = ("--http-listen", "127.0.0.1:0", "--prometheus-port", "0")
"""Likewise, for `dev`, which reads no settings."""
_STREAMS = threading.Lock()
"""Held by the one command that has the streams of this process."""


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


def environment(**more: str) -> dict[str, str]:
    """Ours without any setting of the broker, but for those given and the ports of HTTP."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return {**clean, "COLUMNS": "100", **NO_FIXED_PORTS, **more}


def free_address() -> str:
    """Where nobody listens, nor will by chance: below the ports that the system gives away."""
    while True:
        address = "127.0.0.1", 10_000 + secrets.randbelow(20_000)
        with suppress(OSError), socket.socket() as free:
            free.bind(address)
            return "{}:{}".format(*address)


@contextmanager
def deaf_address() -> Iterator[str]:
    """Where somebody listens who never answers."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        yield "{}:{}".format(*deaf.getsockname())


def missing(what: str) -> NoReturn:
    """Skip the test for want of a program, or fail it where nothing may be missing."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


async def start(*arguments: str, **settings: str) -> asyncio.subprocess.Process:
    """Start a command."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "broker", *arguments),
        cwd=ROOT,
        env=environment(**settings),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process, timeout: float = 40.0) -> Said:
    """Wait for a command to end."""
    async with asyncio.timeout(timeout):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Said(process.returncode, out.decode(), err.decode())


async def run(*arguments: str, **settings: str) -> Said:
    """Run a command to its end."""
    async with running(*arguments, **settings) as process:
        return await ended(process)


async def ask(*arguments: str, **settings: str) -> Said:
    """Run a command to its end in a thread of this process; as `run`, without a second to start.

    For what a command says. `run` is for how a process ends, and for commands that serve.
    """
    return await asyncio.to_thread(_ask, arguments, environment(**settings))


def _ask(arguments: tuple[str, ...], settings: dict[str, str]) -> Said:
    out, err = io.StringIO(), io.StringIO()
    with (
        _STREAMS,
        mock.patch.dict(os.environ, settings, clear=True),
        mock.patch.object(sys, "argv", ["gateway-broker", *arguments]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            root.run()
        except SystemExit as ended:
            code = ended.code
        else:
            code = 0
    assert isinstance(code, int)
    return Said(code, out.getvalue(), err.getvalue())


@asynccontextmanager
async def running(*arguments: str, **settings: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A command that runs meanwhile; killed if it still does."""
    process = await start(*arguments, **settings)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def until(process: asyncio.subprocess.Process, text: str, timeout: float = 40.0) -> str:
    """Read its standard output until a line has a text; returns what was read."""
    assert process.stdout is not None
    read = ""
    async with asyncio.timeout(timeout):
        while text not in read:
            line = await process.stdout.readline()
            assert line, f"it ended without {text!r}: {read}"
            read += line.decode()
    return read


async def interrupt(process: asyncio.subprocess.Process) -> Said:
    """Press Ctrl-C."""
    process.send_signal(signal.SIGINT)
    return await ended(process)
