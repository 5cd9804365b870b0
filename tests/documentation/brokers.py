"""A `gateway-broker dev` for what the documentation says to type."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.postgres import data_directory
from tests.program import FREE_PORTS, ask, free_address, running, until


@dataclass(frozen=True)
class Broker:
    """A `gateway-broker dev` of the test, and where it is."""

    grpc: str
    control: str
    home: Path
    database_url: str


@asynccontextmanager
async def dev(*more: str) -> AsyncIterator[Broker]:
    """One that runs meanwhile, with these options."""
    grpc, control = free_address(), free_address()
    with data_directory() as home:
        where = {"GATEWAY_BROKER_DATA_DIR": str(home)}
        options = ("--grpc-listen", grpc, "--control-listen", control, *FREE_PORTS, *more)
        async with running("dev", *options, **where) as process:
            await until(process, "Ctrl-C stops all of it", timeout=80)
            url = await ask("db", "url", "--dev", **where)
            yield Broker(grpc, control, home, url.out.strip())
