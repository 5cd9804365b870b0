"""The TWS wire: frames, the two messages that a session lives by, and the live link.

A message is a big-endian 32-bit length and NUL-terminated fields. A link reads errors and the
answers to its own heartbeat, and drops the rest.
"""

from __future__ import annotations

import asyncio
import functools
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from broker.errors import GatewayError, Phase
from broker.gateway import faults
from broker.gateway.base import Notice, Probe
from broker.gateway.fault_table import Symptom
from broker.gateway.faults import Target

MAX_FRAME: Final = 0xFFFFFF
"""The longest payload that the official client accepts; a longer one is not TWS."""

PROBE_SPACING: Final = 1.1
"""Seconds from an answer to the next request: Gateway 10.45 ignores those within a second."""

CLOSE_TIMEOUT: Final = 5.0
"""Seconds that a FIN may stay unanswered before the socket is aborted."""

_ABORT_TIMEOUT: Final = 1.0
"""Seconds for the event loop to report the end of an aborted socket, which takes it one turn."""

_LATE_LOOK: Final = 0.01
"""Seconds between a heartbeat's deadline and the verdict: after the loop was held up, a timer may
run before the answer that waits in the socket was read."""

_CAUSE_WINDOW: Final = 10.0
"""Seconds for which a notice that announces an end counts as the cause of one."""

_NOTICE_LIMIT: Final = 1000
"""Characters kept of a notice: the peer must not decide the size of our events."""

_NO_REQUEST: Final = (-1, 0x7FFFFFFF)
_ERROR: Final = b"4\0"
_CURRENT_TIME: Final = b"49\0"
_ERROR_TIME_VERSION: Final = 194
"""From here on error messages have no version field, and end with a time."""

_KEEPALIVE: Final = (
    # The heartbeat finds a dead peer in 15 s; these do where none runs (a closing socket, a stopped
    # process), so that the Gateway's side is not held for hours: after 15 s of silence 3 x 5 s.
    ("TCP_KEEPIDLE", 15),
    ("TCP_KEEPALIVE", 15),  # macOS's name for the same
    ("TCP_KEEPINTVL", 5),
    ("TCP_KEEPCNT", 3),
    # Milliseconds for which sent data may stay unacknowledged; the default is about 15 minutes.
    ("TCP_USER_TIMEOUT", 30_000),
)


def frame(*fields: object) -> bytes:
    """Return the fields as one message, ready to be sent."""
    payload = b"".join(str(field).encode() + b"\0" for field in fields)
    return struct.pack(">I", len(payload)) + payload


class OversizedFrameError(Exception):
    """The stream announced a frame longer than ``MAX_FRAME``; the argument is its length."""


class FrameReader:
    """Cuts a byte stream into payloads, wherever its segments begin and end."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield each payload that ``data`` completes; to be exhausted before the next call.

        Raises:
            OversizedFrameError: the stream is no TWS stream; nothing after it can be read.
        """
        rest = self._rest
        rest += data
        start = 0
        while len(rest) - start >= 4:
            length = int.from_bytes(rest[start : start + 4])
            if length > MAX_FRAME:
                raise OversizedFrameError(length)
            end = start + 4 + length
            if len(rest) < end:
                break
            yield bytes(rest[start + 4 : end])
            start = end
        del rest[:start]


def text_fields(payload: bytes) -> list[str]:
    """Return the payload's fields; bytes that are no UTF-8 (other locales) are escaped."""
    return payload.decode(errors="backslashreplace").removesuffix("\0").split("\0")


def notice_of(fields: Sequence[str], server_version: int) -> Notice | None:
    """Return the notice in an error message (4); None if it is a request's, or malformed."""
    skip = 1 if server_version >= _ERROR_TIME_VERSION else 2
    if len(fields) < skip + 3:
        return None
    try:
        request, code = int(fields[skip]), int(fields[skip + 1])
    except ValueError:
        return None
    return (
        Notice(code, _unescaped(fields[skip + 2])[:_NOTICE_LIMIT])
        if request in _NO_REQUEST
        else None
    )


_ESCAPE: Final = re.compile(r"\\u([0-9a-fA-F]{4})")


def _unescaped(text: str) -> str:
    """Undo the escapes in which server versions from 153 on send what is not ASCII."""
    if "\\u" not in text:
        return text
    found = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    # Characters beyond the BMP come as two escapes; half a pair would break every encoder after us.
    return found.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def tune(transport: asyncio.Transport) -> None:
    """Set the socket options of a Gateway connection, as far as the platform has them."""
    sock: socket.socket = transport.get_extra_info("socket")
    options = [(socket.SOL_SOCKET, "SO_KEEPALIVE", 1), (socket.IPPROTO_TCP, "TCP_NODELAY", 1)]
    options += [(socket.IPPROTO_TCP, name, value) for name, value in _KEEPALIVE]
    for level, name, value in options:
        option = getattr(socket, name, None)
        if option is not None:
            try:
                sock.setsockopt(level, option, value)
            except OSError:  # a socket that has ended already, or a kernel that does not know it
                return


async def end(transport: asyncio.Transport, ended: asyncio.Future[None], patience: float) -> bool:
    """Close with FIN, wait ``patience`` seconds for the peer's own FIN, then make sure of the end.

    Returns whether the peer knows: it has ended the connection, too.

    Reading goes on meanwhile: a socket closed over unread data sends RST, after which a Gateway may
    hold the client id for a minute. Cancellation aborts the socket.
    """
    try:
        if patience > 0:
            _shut_down(transport)
            await asyncio.wait({ended}, timeout=patience)
    except asyncio.CancelledError:
        transport.abort()
        raise
    if ended.done():
        return True
    transport.abort()
    await asyncio.wait({ended}, timeout=_ABORT_TIMEOUT)
    return False


def _shut_down(transport: asyncio.Transport) -> None:
    if transport.is_closing():
        return
    try:
        transport.write_eof()
    except (OSError, RuntimeError):  # a reset that the loop has not reported yet
        transport.close()


class TcpLink(asyncio.Protocol):
    """One open TWS-API connection whose handshake is complete; implements ``Link``.

    Args:
        transport: the connected socket's transport; the caller gives it up.
        target: whom it is connected to.
        server_version: the negotiated server version.
        accounts: the managed accounts.
        on_notice: called for each notice as long as the link lives; it must not block.
    """

    __slots__ = (
        "_accounts",
        "_answer",
        "_asked_at",
        "_cause",
        "_closing",
        "_ended",
        "_last_answer",
        "_last_received",
        "_loop",
        "_loss",
        "_lost",
        "_on_notice",
        "_reader",
        "_server_version",
        "_target",
        "_timer",
        "_transport",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        target: Target,
        *,
        server_version: int,
        accounts: tuple[str, ...],
        on_notice: Callable[[Notice], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._target = target
        self._server_version = server_version
        self._accounts = accounts
        self._on_notice = on_notice
        self._reader = FrameReader()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._lost: asyncio.Future[None] = self._loop.create_future()
        # Made anew for each who asks: a shared exception would collect everybody's traceback.
        self._loss: Callable[[], GatewayError] | None = None
        self._closing = False
        self._cause: tuple[Notice, float] | None = None
        self._answer: asyncio.Future[Probe | None] | None = None
        self._asked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._last_answer: Probe | None = None
        self._last_received = self._loop.time()

    @property
    def server_version(self) -> int:
        """The negotiated server version."""
        return self._server_version

    @property
    def accounts(self) -> tuple[str, ...]:
        """The managed accounts, as the Gateway named them; never empty."""
        return self._accounts

    @property
    def last_received(self) -> float:
        """When the last byte came, on the event loop's clock."""
        return self._last_received

    async def wait_lost(self) -> GatewayError:
        """Return why the link ended, once it has ended without ``close``; after ``close``, never.

        Cancellation is safe; any number of tasks may wait.
        """
        await asyncio.wait({self._lost})
        return self._end_error()

    async def probe(self, timeout: float) -> Probe:
        """Ask the Gateway for its time, or return its last answer if it is younger than 1.1 s.

        One request is in flight at most: concurrent callers share its answer, and the first
        deadline among them decides.

        Args:
            timeout: seconds to wait for the answer.

        Raises:
            GatewayTimeoutError: no answer; the link is aborted, and ``wait_lost`` returns this.
            GatewayError: the link ended first.

        Cancellation is safe: the request stays in flight, and its deadline in force.
        """
        if self._ended.done() or self._closing or self._loss is not None:
            raise self._end_error()
        now = self._loop.time()
        if self._last_answer is not None and now - self._last_answer.answered_at < PROBE_SPACING:
            return self._last_answer
        if self._answer is None:
            # The loop's own clock may tick in milliseconds (uvloop): too coarse for a latency.
            self._answer = self._loop.create_future()
            self._asked_at = time.perf_counter()
            self._transport.write(frame(49, 1))
        answer = self._answer
        if self._timer is None or now + timeout < self._timer.when():
            self._stop_timer()
            self._timer = self._loop.call_at(now + timeout, self._late, timeout)
        await asyncio.wait({answer})
        probe = answer.result()
        if probe is None:
            raise self._end_error()
        return probe

    async def close(self) -> bool:
        """Close with FIN and return when the socket has ended; abort after 5 s. Idempotent.

        Returns:
            Whether the peer has ended it, too; else it may still hold the client id.

        Cancellation aborts the socket.
        """
        self._closing = True
        self._stop_timer()
        return await end(self._transport, self._ended, CLOSE_TIMEOUT)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the transport."""
        self._last_received = self._loop.time()
        try:
            for payload in self._reader.feed(data):
                if payload.startswith(_ERROR):
                    self._take_error(payload)
                elif payload.startswith(_CURRENT_TIME):
                    self._take_time(payload)
        except OversizedFrameError as error:
            self._give_up(
                functools.partial(
                    faults.failure, Symptom.LINK_GARBAGE, self._target, length=error.args[0]
                )
            )

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the socket's end."""
        self._stop_timer()
        if self._loss is None and not self._closing:
            # Without its frames, which would live as long as the link.
            error = exc.with_traceback(None) if exc is not None else None
            self._loss = functools.partial(
                faults.close_failure, self._target, Phase.CONNECTED, error, self._recent_cause()
            )
        if self._loss is not None:
            self._lost.set_result(None)
        if self._answer is not None:
            self._answer.set_result(None)
            self._answer = None
        self._ended.set_result(None)

    def _take_error(self, payload: bytes) -> None:
        notice = notice_of(text_fields(payload), self._server_version)
        if notice is None:
            return
        if faults.announces_end(notice):
            self._cause = (notice, self._loop.time())
        self._on_notice(notice)

    def _take_time(self, payload: bytes) -> None:
        answer = self._answer
        if answer is None:
            return
        try:
            server_time = datetime.fromtimestamp(int(text_fields(payload)[2]), UTC)
        except (IndexError, ValueError, OverflowError, OSError):
            return  # no answer that could be used; the deadline decides
        now = self._last_received
        self._last_answer = Probe(
            latency=time.perf_counter() - self._asked_at, server_time=server_time, answered_at=now
        )
        self._answer = None
        self._stop_timer()
        answer.set_result(self._last_answer)

    def _recent_cause(self) -> Notice | None:
        if self._cause is None or self._loop.time() - self._cause[1] > _CAUSE_WINDOW:
            return None
        return self._cause[0]

    def _late(self, timeout: float) -> None:
        self._timer = self._loop.call_later(_LATE_LOOK, self._unanswered, timeout)

    def _unanswered(self, timeout: float) -> None:
        self._timer = None
        self._give_up(
            functools.partial(faults.silence_failure, self._target, Phase.HEARTBEAT, timeout)
        )

    def _give_up(self, loss: Callable[[], GatewayError]) -> None:
        if self._loss is None and not self._closing:
            self._loss = loss
        self._transport.abort()

    def _end_error(self) -> GatewayError:
        if self._loss is not None:
            return self._loss()
        return faults.failure(Symptom.CLOSED_BY_BROKER, self._target)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
