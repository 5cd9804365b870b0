"""One configured gateway: who dials it, one handshake at a time, and what is known of it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from broker.errors import GATEWAY_ERRORS, ErrorCode, GatewayError
from broker.gateway.base import GatewayConnector, GatewayKind, Link, Notice
from broker.gateway.faults import account_failure
from broker.session.backoff import Backoff
from broker.session.client_ids import Pool
from broker.session.model import Failure

_GATEWAY_FAILURES: Final = frozenset(
    {ErrorCode.CONNECTION, ErrorCode.TIMEOUT, ErrorCode.NETWORK_UNREACHABLE}
)


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """One gateway, as configured. Times are in seconds.

    Args:
        gateway_id: the name by which callers know it.
        host: where it listens.
        port: where it listens.
        kind: which accounts it may show; with the wrong ones no session is connected.
        readonly: every session of it is read-only.
        timeout: bounds one attempt, from the dial, unless the caller says otherwise.
        max_attempts: how often a session is dialled before it has FAILED.
        session_limit: how many sessions may be open; a Gateway has 32 seats.
        handshake_spacing: from the start of one handshake to that of the next; a Gateway
            that is dialled in bursts wedges.
        heartbeat_timeout: how long an answer to a probe may take.
        client_ids: the pool for callers that name no id.
        master_client_id: the Gateway's master client id, never given from the pool.
        backoff: the delays between attempts.
    """

    gateway_id: str
    host: str
    port: int
    kind: GatewayKind = GatewayKind.UNKNOWN
    readonly: bool = False
    timeout: float = 30.0
    max_attempts: int = 7
    session_limit: int = 32
    handshake_spacing: float = 0.05
    heartbeat_timeout: float = 5.0
    client_ids: Pool = Pool()
    master_client_id: int | None = None
    backoff: Backoff = Backoff()


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    """Who waits for his turn, and how long he allows an attempt to take."""

    turn: asyncio.Future[None]
    timeout: float


class Endpoint:
    """Admits one handshake at a time to a gateway.

    Args:
        settings: the gateway.
        connector: dials it.
        now: the time, in UTC.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        connector: GatewayConnector,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self.settings = settings
        self.reachable: bool | None = None
        self.reachable_time: datetime | None = None
        self.server_version: int | None = None
        self.last_failure: Failure | None = None
        self._connector = connector
        self._now = now
        self._busy = False
        self._last_start = float("-inf")
        # Bounded by the session limit: a session waits here at most once.
        self._waiting: deque[_Waiter] = deque()

    async def connect(
        self, client_id: int, *, timeout: float, on_notice: Callable[[Notice], None]
    ) -> Link:
        """Dial, when it is this caller's turn.

        A failure of the gateway itself (no version reply) is shared with all that wait
        for their turn, so that nobody waits in line for a failure of his own.

        Args:
            client_id: the TWS client id.
            timeout: seconds for the attempt, from the dial, not from this call.
            on_notice: called for each notice of the link.

        Raises:
            GatewayError: the attempt failed; its socket has ended.

        Cancellation gives the turn up, and ends the socket before it returns.
        """
        await self._turn(timeout)
        try:
            await self._space()
            link = await self._dial(client_id, timeout, on_notice)
        except GatewayError as error:
            self._failed(error, timeout)
            raise
        finally:
            self._pass_on()
        return link

    async def _turn(self, timeout: float) -> None:
        if not self._busy:
            self._busy = True
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(turn, timeout)
        self._waiting.append(waiter)
        try:
            await turn
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif turn.done() and not turn.cancelled() and turn.exception() is None:
                self._pass_on()  # the turn was given in the same instant
            raise

    def _pass_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft().turn
            if not turn.done():
                turn.set_result(None)
                return
        self._busy = False

    async def _space(self) -> None:
        loop = asyncio.get_running_loop()
        pause = self._last_start + self.settings.handshake_spacing - loop.time()
        if pause > 0:
            await asyncio.sleep(pause)
        self._last_start = loop.time()

    async def _dial(
        self, client_id: int, timeout: float, on_notice: Callable[[Notice], None]
    ) -> Link:
        link = await self._connector.connect(
            host=self.settings.host,
            port=self.settings.port,
            client_id=client_id,
            timeout=timeout,
            on_notice=on_notice,
        )
        self._learned(reachable=True)
        self.server_version = link.server_version
        refusal = account_failure(self.settings.kind, link.accounts)
        if refusal is not None:
            await link.close()
            raise refusal
        return link

    def _failed(self, error: GatewayError, timeout: float) -> None:
        self.last_failure = Failure.of(error, time=self._now(), attempt=0)
        if error.answered:
            self._learned(reachable=True)
            return
        if error.code not in _GATEWAY_FAILURES:
            return
        self._learned(reachable=False)
        waiting, self._waiting = self._waiting, deque()
        for waiter in waiting:
            if error.code is ErrorCode.TIMEOUT and waiter.timeout > timeout:
                # Silence for less than he allows proves nothing to him.
                self._waiting.append(waiter)
            elif not waiter.turn.done():
                waiter.turn.set_exception(_copy(error))

    def _learned(self, *, reachable: bool) -> None:
        self.reachable = reachable
        self.reachable_time = self._now()


def _copy(error: GatewayError) -> GatewayError:
    """An exception of one's own for each task: a traceback belongs to one raise."""
    return GATEWAY_ERRORS[error.code](
        error.message,
        phase=error.phase,
        hint=error.hint,
        tws_code=error.tws_code,
        answered=error.answered,
    )
