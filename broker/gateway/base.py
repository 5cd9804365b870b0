"""The port to a Gateway: dialling it, and the live link that comes of it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from broker.errors import GatewayError, Phase


class GatewayKind(enum.StrEnum):
    """What kind of accounts a gateway is declared to serve."""

    UNKNOWN = "unknown"
    PAPER = "paper"
    LIVE = "live"


@dataclass(frozen=True, slots=True)
class Probe:
    """An answered request for the Gateway's time.

    Args:
        latency: seconds from request to answer.
        server_time: the Gateway's clock, to the second.
        answered_at: when, on the event loop's clock.
    """

    latency: float
    server_time: datetime
    answered_at: float


@dataclass(frozen=True, slots=True)
class Notice:
    """An error message of the Gateway that belongs to no request (id -1 or 2147483647)."""

    code: int
    text: str


@dataclass(frozen=True, slots=True)
class Dialled:
    """A dial that has ended.

    Args:
        gateway_id: which gateway was dialled.
        host: where.
        port: where.
        client_id: under which client id.
        duration: seconds from the dial to the completed handshake, or to the failure.
        phases: those that were reached, each with the seconds from the dial until it began.
        server_version: the negotiated server version; None if the dial failed.
        error: why it failed; None if it did not.
    """

    gateway_id: str
    host: str
    port: int
    client_id: int
    duration: float
    phases: tuple[tuple[Phase, float], ...]
    server_version: int | None
    error: GatewayError | None


class Link(Protocol):
    """One open TWS-API connection whose handshake is complete."""

    @property
    def server_version(self) -> int:
        """The negotiated server version."""

    @property
    def accounts(self) -> tuple[str, ...]:
        """The managed accounts, as the Gateway named them; never empty."""

    @property
    def last_received(self) -> float:
        """When the last byte came, on the event loop's clock: any byte is a sign of life."""

    async def wait_lost(self) -> GatewayError:
        """Return why the link ended, once it has ended without ``close``.

        Cancellation is safe; any number of tasks may wait.
        """

    async def probe(self, timeout: float) -> Probe:
        """Ask the Gateway for its time (message 49), or return an answer younger than 1.1 s.

        One request is in flight at most: concurrent callers share its answer.

        Args:
            timeout: seconds to wait for the answer.

        Raises:
            GatewayTimeoutError: no answer; the link is aborted, and ``wait_lost`` returns this.
            GatewayConnectionError: the link ended first.

        Cancellation is safe: the request stays in flight for others.
        """

    async def close(self) -> bool:
        """Close with FIN and return when the socket has ended; abort after 5 s. Idempotent.

        Returns:
            Whether the Gateway has ended it, too; else it may still hold the client id.

        Cancellation aborts the socket.
        """


class GatewayConnector(Protocol):
    """Dials a Gateway; one fresh client per attempt."""

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
        """Open a connection and complete its handshake.

        Args:
            host: where the Gateway listens.
            port: where the Gateway listens.
            client_id: the TWS client id.
            timeout: seconds for all of it, from the dial.
            on_notice: called for each notice, those of the handshake included (before this
                method returns), as long as the link lives; it must not block.
            on_phase: called as each phase after TCP begins; likewise.

        Returns:
            The live link: server version, nextValidId and a non-empty account list were read.

        Raises:
            GatewayError: one of the six, with phase, hint and whether a version reply was
                read, as soon as the wire tells, and at the latest after ``timeout``. The
                socket has ended by then.

        Cancellation ends the socket before it returns.
        """
