"""The socket of one connection and the timers that live and die with it."""

import asyncio
import socket
import struct
from collections.abc import Callable


class Channel:
    """Writes, ends and times one connection; every method is harmless once the socket is closed."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._transport: asyncio.Transport | None = None
        self._waiting = b""
        self._amid_message = False
        self.paused = False
        """Whether the client reads too slowly to be answered."""

    @property
    def amid_message(self) -> bool:
        """Whether a message was begun and its rest is still to come."""
        return self._amid_message

    @property
    def backlog(self) -> int:
        """Bytes that wait to be sent."""
        sending = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return sending + len(self._waiting)

    def open(self, transport: asyncio.Transport) -> str:
        """Take the transport over; returns the peer's address."""
        self._transport = transport
        peer = transport.get_extra_info("peername")
        return f"{peer[0]}:{peer[1]}" if peer else ""

    def write(self, data: bytes) -> None:
        """Send whole messages, at once or after the message that is being sent in segments."""
        if self._amid_message:
            self._waiting += data
        elif self._transport is not None:
            self._transport.write(data)

    def write_segment(self, data: bytes, *, whole: bool) -> None:
        """Send a part of a message; `whole` says that the message ends with it."""
        self._amid_message = False
        self.write(data)
        waiting, self._waiting = (self._waiting, b"") if whole else (b"", self._waiting)
        self.write(waiting)
        self._amid_message = not whole

    def pause(self, paused: bool) -> None:
        """Stop or resume reading."""
        self.paused = paused
        if self._transport is not None and not self._transport.is_closing():
            if paused:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def finish(self, linger: float) -> None:
        """Send FIN; the socket is closed at the client's FIN, at the latest `linger` seconds on."""
        self.pause(False)
        try:
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write_eof()
        except OSError:  # the client's RST has arrived but was not yet read
            self.abort()
        else:
            self.after("linger", linger, self.abort)

    def abort(self, *, reset: bool = False) -> None:
        """Close the socket at once, with RST if so wanted."""
        if self._transport is None:
            return
        if reset and not self._transport.is_closing():
            raw = self._transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def after(
        self, name: str, delay: float, callback: Callable[..., None], *arguments: object
    ) -> None:
        """Call back in `delay` seconds, instead of what the timer of that name was set to."""
        self.cancel(name)
        self._timers[name] = self._loop.call_later(delay, callback, *arguments)

    def awaits(self, name: str) -> bool:
        """Whether the timer of that name was set and not cancelled."""
        return name in self._timers

    def cancel(self, name: str) -> None:
        """Cancel one timer."""
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def cancel_all(self) -> None:
        """Cancel all timers."""
        for name in list(self._timers):
            self.cancel(name)
