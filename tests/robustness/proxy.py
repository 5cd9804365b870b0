"""A TCP proxy whose address stays, whatever happens to what is behind it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

_CHUNK = 65_536


class Proxy:
    """Passes bytes both ways, until it is told not to.

    Attributes:
        upstream: the port on 127.0.0.1 that it leads to; None refuses.
        delay: seconds by which each answer is late.
    """

    def __init__(self) -> None:
        self.upstream: int | None = None
        self.delay = 0.0
        self.port = 0
        self._asks, self._answers = asyncio.Event(), asyncio.Event()
        self._transports: set[asyncio.WriteTransport] = set()
        self._gone = asyncio.Event()
        self._refusing = False
        self.flow()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Proxy]:
        """Listen meanwhile."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.flow()
            while self._transports:
                self.cut()
                self._gone.clear()
                await self._gone.wait()

    def stall(self, *, answers_only: bool = False) -> None:
        """Pass nothing on, or only what is asked: it is done, and nobody hears of it."""
        if not answers_only:
            self._asks.clear()
        self._answers.clear()

    def refuse(self) -> None:
        """Reset every connection, and whoever comes."""
        self._refusing = True
        self.cut()

    def flow(self) -> None:
        """Pass everything on, with what came meanwhile."""
        self._refusing = False
        self._asks.set()
        self._answers.set()

    def cut(self) -> None:
        """Reset every connection."""
        for transport in self._transports:
            transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._known(writer), contextlib.suppress(OSError):
            await self._asks.wait()
            if self._refusing or self.upstream is None:
                return
            there, back = await asyncio.open_connection("127.0.0.1", self.upstream)
            with self._known(back):
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._ask(reader, back), name="asks")
                    tasks.create_task(self._answer(there, writer), name="answers")

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for data in _read(reader, writer):
            await self._asks.wait()
            writer.write(data)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for data in _read(reader, writer):
            await asyncio.sleep(self.delay)
            await self._answers.wait()
            writer.write(data)

    @contextlib.contextmanager
    def _known(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        self._transports.add(writer.transport)
        try:
            yield
        finally:
            writer.transport.abort()
            self._transports.discard(writer.transport)
            self._gone.set()


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> AsyncIterator[bytes]:
    """What comes from one side, until either ends; then neither has anything to say any more."""
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            yield data
            await writer.drain()
    writer.close()
