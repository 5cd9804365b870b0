"""A TWS client without any manners, to see what a Gateway does byte by byte: for tests of the
simulator and with it.
"""

import asyncio
import socket
import struct
from types import TracebackType
from typing import Final, Self

from broker.simulator.journal import End
from broker.simulator.protocol import MAX_FRAME, PREFIX, FrameBuffer, frame

_CLOSE_TIMEOUT: Final = 20.0
"""Seconds for the event loop to report the end of a socket that we closed."""


class RawClient:
    """Use as `async with RawClient(host, port) as client`. Every wait ends after `deadline`
    seconds: TimeoutError.
    """

    def __init__(self, host: str, port: int, *, deadline: float = 5.0) -> None:
        self._host = host
        self._port = port
        self._deadline = deadline
        self._buffer = FrameBuffer(MAX_FRAME)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        """Connect. Raises OSError if refused."""
        async with asyncio.timeout(self._deadline):
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def _streams(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is None or self._writer is None:
            raise RuntimeError("the client is not connected")
        return self._reader, self._writer

    async def send(self, data: bytes) -> None:
        """Write bytes as they are."""
        _, writer = self._streams
        writer.write(data)
        async with asyncio.timeout(self._deadline):
            await writer.drain()

    async def request(self, *fields: str | int) -> None:
        """Send one message."""
        await self.send(frame("".join(f"{field}\0" for field in fields).encode()))

    async def hello(self, versions: str = "v157..178") -> list[str]:
        """Announce versions and return the fields of the version reply."""
        await self.send(PREFIX + frame(versions.encode()))
        return await self.message()

    async def start(self, client_id: int, versions: str = "v157..178") -> None:
        """Say hello and send startApi, without waiting for what it brings."""
        await self.hello(versions)
        await self.request(71, 2, client_id, "")

    async def ready(self, client_id: int, versions: str = "v157..178") -> int:
        """Go through the whole handshake; returns the next valid order id."""
        await self.start(client_id, versions)
        return int((await self.until(9))[2])

    async def payload(self) -> bytes:
        """Return the next frame. Raises ConnectionError at the end of the connection."""
        reader, _ = self._streams
        async with asyncio.timeout(self._deadline):
            while (payload := self._buffer.next_frame()) is None:
                data = await reader.read(1 << 16)
                if not data:
                    raise ConnectionAbortedError(f"FIN, with {len(self._buffer)} bytes of a frame")
                self._buffer.feed(data)
        return payload

    async def message(self) -> list[str]:
        """Return the fields of the next message."""
        return (
            (await self.payload()).decode(errors="backslashreplace").removesuffix("\0").split("\0")
        )

    async def until(self, message_id: int) -> list[str]:
        """Return the next message of that id; drops those before it."""
        while (fields := await self.message())[0] != str(message_id):
            pass
        return fields

    async def end(self) -> tuple[bytes, End]:
        """Read to the end; returns what was not yet taken, and whether FIN or RST came."""
        reader, _ = self._streams
        data = bytearray()
        async with asyncio.timeout(self._deadline):
            try:
                while chunk := await reader.read(1 << 16):
                    data += chunk
            except ConnectionResetError:
                return bytes(data), End.RESET
        return bytes(data), End.FIN

    async def silence(self, seconds: float) -> bool:
        """Whether nothing at all comes for that long, not even an end."""
        reader, _ = self._streams
        try:
            async with asyncio.timeout(seconds):
                self._buffer.feed(await reader.read(1 << 16))
        except TimeoutError:
            return True
        return False

    async def close(self) -> None:
        """Close with FIN and read to the other side's, since closing over unread bytes sends RST.
        Idempotent.
        """
        if self._reader is None or self._writer is None:
            return
        try:
            if not self._writer.transport.is_closing():
                self._writer.write_eof()
            async with asyncio.timeout(self._deadline):
                while await self._reader.read(1 << 16):
                    pass
        except OSError:
            pass  # the other side was first, or never closes: TimeoutError is one of these
        await self._finish(reset=False)

    async def reset(self) -> None:
        """Close with RST. Idempotent."""
        await self._finish(reset=True)

    async def _finish(self, *, reset: bool) -> None:
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        if reset:
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        writer.close()
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await writer.wait_closed()
        except ConnectionError:
            pass  # the other side was first
