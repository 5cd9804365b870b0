"""What is measured: servers in processes of their own, and the rows of the table."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
import psutil
from ibgateway.broker.v1 import session_service_pb2_grpc


@dataclass(frozen=True)
class Figure:
    """One row of the table; ``ok`` is whether it is within its budget, if it has one."""

    name: str
    value: float
    unit: str
    budget: str = ""
    ok: bool | None = None


@dataclass(frozen=True)
class Server:
    """A server in a process of its own."""

    address: str
    process: psutil.Process
    stub: Any
    started_in: float

    @property
    def memory(self) -> float:
        """Resident MiB."""
        return float(self.process.memory_info().rss) / 2**20


@asynccontextmanager
async def server(*arguments: str) -> AsyncIterator[Server]:
    """Start ``bench.server``, and end it, unless it was killed."""
    begin = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.server", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    async with asyncio.timeout(60):
        address = (await process.stdout.readline()).decode().strip()
    started_in = time.perf_counter() - begin
    try:
        async with channel(address) as stub:
            yield Server(address, psutil.Process(process.pid), stub, started_in)
    finally:
        process.stdin.close()
        async with asyncio.timeout(30):
            await process.wait()


@asynccontextmanager
async def channel(address: str, *more: tuple[str, int]) -> AsyncIterator[Any]:
    """A connection of its own, and its stub."""
    options = (("grpc.use_local_subchannel_pool", 1), *more)
    async with grpc.aio.insecure_channel(address, options=options) as opened:
        yield session_service_pb2_grpc.SessionServiceStub(opened)


def free_address() -> str:
    """One that stays the same over a restart."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"
