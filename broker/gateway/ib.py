"""Dialling a Gateway with ib_async; the only module that imports it.

ib_async reports nearly every failure as an empty TimeoutError after the whole timeout, and
its connection outlives its use. So one fresh ``Client`` opens the connection and completes the
handshake, while we watch the wire beside it; then the live socket moves to a ``TcpLink`` for good.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Callable
from typing import Final, cast

from ib_async.client import Client
from ib_async.connection import Connection

from broker.errors import GatewayError, Phase
from broker.gateway import faults, wire
from broker.gateway.base import Link, Notice
from broker.gateway.fault_table import Symptom
from broker.gateway.faults import Target

ACCOUNTS_GRACE: Final = 5.0
"""Seconds after nextValidId for which an empty account list may be followed by another one."""

_LINGER: Final = 0.2
"""Seconds that an attempt which failed or was given up waits for the peer's FIN after its own, so
that what the peer still sends is read and no RST answers it."""

_SETTLE: Final = 0.05
"""Seconds, many turns of the event loop, for the end of a closed socket to be reported."""

_LARGEST_VERSION: Final = 0x7FFFFFFF
"""A server version beyond is none: neither the record nor the API could hold it."""

_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)

# ib_async logs each failure again, some with a traceback and most with a wrong guess ("clientId
# already in use?"). What failed is in the error that the attempt raises, once. A logger of our own
# without handlers keeps it quiet at the source, and leaves the process's logging alone.
_SILENT: Final = logging.Logger("ib_async", logging.CRITICAL + 1)  # noqa: LOG001


class IBConnector:
    """Dials Gateways; implements ``GatewayConnector``. It has no state and may be shared."""

    async def connect(
        self,
        *,
        host: str,
        port: int,
        client_id: int,
        timeout: float,
        on_notice: Callable[[Notice], None],
        on_phase: Callable[[Phase], None] = lambda _: None,
    ) -> Link:
        """Open a connection and complete its handshake; see ``GatewayConnector.connect``."""
        target = Target(host, port, client_id)
        handshake = _Handshake(target, timeout, on_notice, on_phase)
        dialling = handshake.connectAsync(host, port, client_id, timeout=0)  # type: ignore[no-untyped-call]
        dial = asyncio.create_task(dialling, name=f"dial {target} as {client_id}")
        dial.add_done_callback(_look_at)
        try:
            await asyncio.wait(
                {dial, handshake.outcome}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
            outcome = handshake.conclude(dial)
            if isinstance(outcome, GatewayError):
                # Who has spoken is listened to until his FIN; who was silent is not.
                await handshake.end(_LINGER if handshake.outcome.done() else 0)
            await _stopped(dial)
            if isinstance(outcome, GatewayError):
                await handshake.settle()
        except BaseException:  # mostly a cancellation
            await handshake.abandon(dial)
            raise
        if not isinstance(outcome, GatewayError):
            return outcome
        try:
            raise outcome from None
        finally:
            # The exception's traceback holds this frame, which must not hold the exception in turn.
            del dial, dialling, handshake, outcome


async def _stopped(dial: asyncio.Task[None]) -> None:
    """Cancel the dial and wait until it has ended, whatever it raises."""
    dial.cancel()
    await asyncio.wait({dial}, timeout=wire.CLOSE_TIMEOUT)


def _look_at(dial: asyncio.Task[None]) -> None:
    """Take the dial's exception, which asyncio would log if nobody did; the outcome tells it."""
    if not dial.cancelled():
        dial.exception()


class _Socket(Connection):
    """ib_async's connection, which knows why it ended and can be taken from ib_async alive."""

    def __init__(self, target: Target, timeout: float, on_phase: Callable[[Phase], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._on_phase = on_phase
        self.target = target
        self.timeout = timeout
        self.opened: asyncio.Transport | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.end_error: Exception | None = None

    # ``transport`` is ib_async's handle on the socket: without it, its client can neither write nor
    # close. ``opened`` is ours.

    def detach(self) -> None:
        """Take the socket from ib_async, whose ``disconnect`` then does nothing."""
        self.transport = None

    async def connectAsync(self, host: str, port: int) -> None:  # noqa: N802
        """Dial the host's addresses in turn; raise GatewayError if all of them fail."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.timeout
        failures: list[Exception] = []
        try:
            addresses = await _addresses(host, port)
        except (OSError, UnicodeError) as error:
            addresses, failures = [], [error]
        for index, address in enumerate(addresses):
            # A silent address leaves the others their share.
            share = (deadline - loop.time()) / (len(addresses) - index)
            last = index == len(addresses) - 1
            try:
                async with asyncio.timeout(None if last else share):
                    await loop.create_connection(lambda: self, address, port)
            except (OSError, TimeoutError) as error:
                failures.append(error)
            else:
                return
        raise faults.dial_failure(failures, self.target, self.timeout) from None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the socket before ``create_connection`` returns: a cancellation may come between."""
        # uvloop's transports are registered as no class of asyncio's.
        self.opened = self.transport = cast("asyncio.Transport", transport)
        wire.tune(self.opened)
        self._on_phase(Phase.HANDSHAKE)

    def data_received(self, data: bytes) -> None:
        """Pass the bytes on, acknowledged at once.

        The messages after startApi are small. A peer with Nagle's algorithm holds each back until
        the one before is acknowledged, which Linux puts off for 40 ms; the option does not last.
        """
        if self.opened is not None and _QUICKACK is not None:
            with contextlib.suppress(OSError):
                self.opened.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        self.hasData.emit(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end, and tell the handshake."""
        self.transport = None
        self.end_error = exc.with_traceback(None) if exc is not None else None
        self.ended.set_result(None)
        self.disconnected.emit("")


async def _addresses(host: str, port: int) -> list[str]:
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


class _Messages:
    """Stands in for ib_async's decoder: reads what the handshake needs, and skips the rest."""

    def __init__(self) -> None:
        self.serverVersion = 0
        self.notices: list[Notice] = []
        self.accounts_seen = False
        self.order_id_seen = False

    def interpret(self, fields: list[str]) -> None:
        """Take one message."""
        if fields[0] == "4":
            notice = wire.notice_of(fields, self.serverVersion)
            if notice is not None:
                self.notices.append(notice)
        elif fields[0] == "9":
            self.order_id_seen = True
        elif fields[0] == "15":
            self.accounts_seen = True


class _Wrapper:
    """The callbacks that ib_async's client itself makes."""

    def connectAck(self) -> None:  # noqa: N802
        """Take note of the version reply: nothing to do."""


class _Handshake(Client):
    """One attempt: ib_async's client, and our eyes on the wire.

    ``outcome`` is the link, or what the wire said has failed, as soon as it says so.
    """

    conn: _Socket

    def __init__(
        self,
        target: Target,
        timeout: float,
        on_notice: Callable[[Notice], None],
        on_phase: Callable[[Phase], None],
    ) -> None:
        super().__init__(_Wrapper())  # type: ignore[no-untyped-call]
        self._logger = _SILENT
        self._target = target
        self._timeout = timeout
        self._on_notice = on_notice
        self._on_phase = on_phase
        self._messages = _Messages()
        self.decoder = self._messages  # type: ignore[assignment]
        self.conn = _Socket(target, timeout, on_phase)
        self.conn.hasData += self._onSocketHasData
        self.conn.disconnected += self._onSocketDisconnected
        self.outcome: asyncio.Future[wire.TcpLink | GatewayError] = (
            asyncio.get_running_loop().create_future()
        )
        self._accounts_deadline: float | None = None
        self._accounts_timer: asyncio.TimerHandle | None = None
        self._cause: Notice | None = None
        self._link: wire.TcpLink | None = None
        self._unread = b""

    def conclude(self, dial: asyncio.Task[None]) -> wire.TcpLink | GatewayError:
        """Return what came of the attempt, now that something has happened or time is up."""
        self._stop()
        if self.outcome.done():
            return self.outcome.result()
        if dial.done():
            error = dial.exception()
            if isinstance(error, GatewayError):
                return error.with_traceback(None)
            raise error or AssertionError("the dial ended without an outcome")
        if self._messages.accounts_seen and self._messages.order_id_seen:
            return faults.failure(Symptom.NO_ACCOUNTS, self._target)
        return faults.silence_failure(self._target, self._phase(), self._timeout, self._missing())

    async def end(self, patience: float) -> None:
        """End the attempt's socket, if it has one, and return when it has ended."""
        if self.conn.opened is not None:
            await wire.end(self.conn.opened, self.conn.ended, patience)

    async def settle(self) -> None:
        """Wait for the end of a socket that the dial, cancelled while opening it, closed itself.

        uvloop does not report that end, though the socket is closed at once: hence the short wait.
        """
        if self.conn.opened is not None and not self.conn.ended.done():
            self.conn.opened.abort()
            await asyncio.wait({self.conn.ended}, timeout=_SETTLE)

    async def abandon(self, dial: asyncio.Task[None]) -> None:
        """End everything that the attempt made, even if it is cancelled again.

        With FIN, if the Gateway answers it soon: after a reset it may hold the client id.
        """
        self._stop()
        try:
            # The socket first: uvloop never reports the end of one that a cancelled dial closed.
            if self._link is not None:
                await self._link.close()
            else:
                await self.end(_LINGER)
        finally:
            dial.cancel()
        await _stopped(dial)
        if self._link is None:
            await self.settle()

    def _stop(self) -> None:
        self.conn.detach()
        if self._accounts_timer is not None:
            self._accounts_timer.cancel()

    def _onSocketHasData(self, data: bytes) -> None:  # noqa: N802
        if self.outcome.done():
            return  # the attempt has failed, and this is what came until the peer's FIN
        was_answered = bool(self._messages.serverVersion)
        unreadable = False
        try:
            super()._onSocketHasData(data)  # type: ignore[no-untyped-call]
        except Exception:  # noqa: BLE001 - ib_async takes the fields apart without looking
            unreadable = True
        if self._messages.serverVersion and not was_answered:
            self._on_phase(Phase.START_API)
        unreadable |= self.serverVersion() > _LARGEST_VERSION
        rest: bytes = self._data
        unreadable |= len(rest) >= 4 and int.from_bytes(rest[:4]) > wire.MAX_FRAME
        self._unread = (self._unread + data)[:64]
        notices, self._messages.notices = self._messages.notices, []
        deciding = next((notice for notice in notices if faults.ends_attempt(notice)), None)
        if deciding is not None:
            self._fail(faults.notice_failure(deciding, self._target, Phase.START_API))
        ready = not self.outcome.done() and not unreadable and self.isReady()
        for notice in notices:
            if faults.announces_end(notice):
                self._cause = notice
            self._on_notice(notice)
        if ready:
            self._hand_over(rest)
        elif unreadable:
            symptom = Symptom.UNREADABLE if self._messages.serverVersion else Symptom.NOT_TWS
            self._fail(
                faults.failure(
                    symptom, self._target, quote=faults.quoted(repr(bytes(self._unread)))
                )
            )
        else:
            self._wait_for_accounts()

    def _onSocketDisconnected(self, _msg: str) -> None:  # noqa: N802
        if self.outcome.done():
            return
        if not self.conn.ended.done():  # ib_async calls this too when the version is too old
            self._fail(faults.failure(Symptom.TOO_OLD, self._target, version=self.serverVersion()))
        else:
            self._fail(
                faults.close_failure(self._target, self._phase(), self.conn.end_error, self._cause)
            )

    def _hand_over(self, rest: bytes) -> None:
        """Move the live socket to a link, with what ib_async received and did not consume."""
        transport = self.conn.opened
        assert transport is not None
        link = wire.TcpLink(
            transport,
            self._target,
            server_version=self.serverVersion(),
            accounts=tuple(self.getAccounts()),
            on_notice=self._on_notice,
        )
        self.conn.detach()
        transport.set_protocol(link)
        self._link = link
        self.outcome.set_result(link)
        link.data_received(rest)

    def _wait_for_accounts(self) -> None:
        if self._messages.order_id_seen and self._accounts_deadline is None:
            self._accounts_deadline = asyncio.get_running_loop().time() + ACCOUNTS_GRACE
        if (
            self._accounts_deadline is None
            or not self._messages.accounts_seen
            or self._accounts_timer is not None
        ):
            return
        self._accounts_timer = asyncio.get_running_loop().call_at(
            self._accounts_deadline, self._fail, faults.failure(Symptom.NO_ACCOUNTS, self._target)
        )

    def _fail(self, error: GatewayError) -> None:
        if not self.outcome.done():
            self.outcome.set_result(error)

    def _phase(self) -> Phase:
        if self.conn.opened is None:
            return Phase.TCP
        return Phase.START_API if self._messages.serverVersion else Phase.HANDSHAKE

    def _missing(self) -> list[str]:
        seen = {
            "nextValidId": self._messages.order_id_seen,
            "managedAccounts": self._messages.accounts_seen,
        }
        return [name for name, was_seen in seen.items() if not was_seen]
