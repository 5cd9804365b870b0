"""`gateway-broker` in processes of its own, as a user runs it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_OURS = ("GATEWAY_BROKER_", "IB_GATEWAY_", "DATABASE_URL", "LOG_LEVEL")


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


def environment(**more: str) -> dict[str, str]:
    """Ours without any setting of the broker, but for those given."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return {**clean, "COLUMNS": "100", **more}


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


async def ended(process: asyncio.subprocess.Process, timeout: float = 20.0) -> Said:
    """Wait for a command to end."""
    async with asyncio.timeout(timeout):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Said(process.returncode, out.decode(), err.decode())


async def run(*arguments: str, **settings: str) -> Said:
    """Run a command to its end."""
    async with running(*arguments, **settings) as process:
        return await ended(process)


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


async def until(process: asyncio.subprocess.Process, text: str, timeout: float = 20.0) -> str:
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
