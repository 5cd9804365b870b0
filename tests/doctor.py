"""`gateway-broker doctor`, asked in this process, and what it says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.program import ask, free_address

LINK = "gateway default: connection"


@dataclass(frozen=True)
class Row:
    status: str
    text: str
    advice: str
    seconds: float


@dataclass(frozen=True)
class Report:
    code: int
    status: str
    seconds: float
    rows: dict[str, Row]

    def bad(self) -> set[str]:
        """The rows that are not well; how busy this machine is, is no finding of a test."""
        unwell = {name for name, row in self.rows.items() if row.status in ("warning", "wrong")}
        return unwell - {"event loop"}


def settings(database_url: str, port: int, **more: str) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "IB_GATEWAY_PORT": str(port),
        "IB_GATEWAY_KIND": "paper",
        "GATEWAY_BROKER_GRPC_LISTEN": free_address(),
        "GATEWAY_BROKER_GATEWAYS__DEFAULT__TIMEOUT": "2",
        **more,
    }


async def examined(*arguments: str, **environ: str) -> Report:
    said = await ask("doctor", "--output", "json", *arguments, **environ)
    assert said.err == ""
    told = json.loads(said.out)
    rows = {
        row["check"]: Row(row["status"], row["text"], row["advice"], row["seconds"])
        for row in told["checks"]
    }
    return Report(said.code, told["status"], told["seconds"], rows)


@asynccontextmanager
async def peer(answer: bytes, *, first: bool = False, **how: Any) -> AsyncIterator[int]:
    """A program that says something, at once or to what it reads."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not first:
            await reader.read(64)
        writer.write(answer)
        await reader.read(64)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, **how)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
