"""A TCP peer that plays a script of bytes, and a runner that leaves nothing unnoticed.

For what the simulated Gateway is too well-behaved to do: single bytes, cuts, nonsense.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import gc
import inspect
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from types import TracebackType
from typing import Any, Self

import pytest

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
if os.name == "posix":
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop
    # libuv opens descriptors of the whole process with its first loop, and keeps them.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as _first:
        _first.run(asyncio.sleep(0))


class Do(enum.Enum):
    """What a script does besides sending bytes (``bytes``) and waiting (``float``)."""

    READ_HELLO = enum.auto()
    READ_FRAME = enum.auto()
    FIN = enum.auto()
    RESET = enum.auto()
    DEAF = enum.auto()
    """Stop here without reading: the client's FIN is seen by nobody but the kernel."""


Step = bytes | float | Do


def message(*fields: object) -> bytes:
    """Return a framed message, built independently of the code under test."""
    payload = "".join(f"{field}\0" for field in fields).encode()
    return struct.pack(">I", len(payload)) + payload


VERSION = message(178, "20250425 15:23:54 EST")
ACCOUNTS = message(15, 1, "DU1,DU2,")
ORDER_ID = message(9, 1, 1)
START = (Do.READ_HELLO, VERSION, Do.READ_FRAME)
HANDSHAKE = (*START, ACCOUNTS, ORDER_ID)


def notice(code: int, text: str, request: int = -1) -> bytes:
    """Return an error message in the layout of version 178."""
    return message(4, 2, request, code, text, "")


class ScriptedPeer:
    """Plays the script to each connection on loopback, then reads until the client ends it."""

    def __init__(self, *script: Step) -> None:
        self.script = script
        self.accepted = 0
        self.received: list[bytes] = []
        self.ends: list[str] = []
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept(), name="peer accepts")
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        assert self._accepting is not None
        for task in (tasks := [self._accepting, *self._tasks]):
            task.cancel()
        await asyncio.wait(tasks)
        self._listener.close()

    async def all_ended(self) -> list[str]:
        """Wait until every accepted connection was ended by the client; return how each was."""
        async with asyncio.timeout(3):
            while len(self.ends) < self.accepted:  # noqa: ASYNC110 - a test's patience
                await asyncio.sleep(0.002)
        return self.ends

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._listener)
            self.accepted += 1
            task = asyncio.create_task(self._play(connection), name=f"peer {self.accepted}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _play(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        received = bytearray()
        self.received.append(b"")
        index = len(self.received) - 1

        async def read(count: int) -> bytes:
            while len(received) < count:
                data = await loop.sock_recv(connection, 65536)
                if not data:
                    raise EOFError
                received.extend(data)
                self.received[index] += data
            taken = bytes(received[:count])
            del received[:count]
            return taken

        async def read_frame() -> None:
            await read(struct.unpack(">I", await read(4))[0])

        end = "fin"
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                for step in self.script:
                    match step:
                        case bytes():
                            await loop.sock_sendall(connection, step)
                        case float():
                            await asyncio.sleep(step)
                        case Do.READ_HELLO:
                            await read(4)
                            await read_frame()
                        case Do.READ_FRAME:
                            await read_frame()
                        case Do.FIN:
                            connection.shutdown(socket.SHUT_WR)
                        case Do.RESET:
                            connection.setsockopt(
                                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                            )
                            self.ends.append("reset by peer")
                            return
                        case Do.DEAF:
                            await asyncio.sleep(60)
                while True:
                    await read(1)
            except EOFError:
                pass
            except OSError:
                end = "reset"
            self.ends.append(end)


@contextlib.asynccontextmanager
async def nothing_listens() -> AsyncIterator[tuple[str, int]]:
    """A port that is taken, so that nobody else listens on it, and refuses."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield "127.0.0.1", taken.getsockname()[1]


@contextlib.asynccontextmanager
async def full_backlog() -> AsyncIterator[tuple[str, int]]:
    """A listener whose queue is full: the kernel drops further SYNs, as a firewall would."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        await asyncio.sleep(0.05)
        yield address[0], address[1]


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on asyncio's loop and on uvloop, and fail it for whatever it leaves behind.

    That is: a task, a file descriptor, an exception that nobody retrieved, or a log record.
    """

    @functools.wraps(test)
    def wrapper(
        loop_name: str, caplog: pytest.LogCaptureFixture, *args: Any, **kwargs: Any
    ) -> None:
        caplog.set_level(logging.INFO)
        unhandled: list[dict[str, Any]] = []
        gc.collect()
        before = _descriptors()
        with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
            runner.get_loop().set_exception_handler(
                lambda _loop, context: unhandled.append(context)
            )
            runner.run(_leaving_nothing(test(*args, **kwargs)))
        gc.collect()
        assert unhandled == []
        # Fewer is no leak: gRPC closes those of an earlier test in threads of its own.
        assert _descriptors() <= before
        assert caplog.records == []

    own = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        for name in ("loop_name", "caplog")
    ]
    wrapper.__signature__ = inspect.Signature([*own, *inspect.signature(test).parameters.values()])  # type: ignore[attr-defined]
    marked: Callable[..., None] = pytest.mark.parametrize("loop_name", LOOPS)(wrapper)
    return marked


async def _leaving_nothing(test: Coroutine[Any, Any, None]) -> None:
    async with asyncio.timeout(40):
        await test
    for _ in range(3):  # what has been cancelled or closed may take a turn to be gone
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208
