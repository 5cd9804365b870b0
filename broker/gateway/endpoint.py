"""One configured gateway: who dials it, one handshake at a time, and what is known of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from broker.errors import (
    GATEWAY_ERRORS,
    CircuitBreakerOpenError,
    ErrorCode,
    GatewayDrainingError,
    GatewayError,
    Phase,
)
from broker.gateway.base import Dialled, GatewayConnector, GatewayKind, Link, Notice, Probe
from broker.gateway.breaker import Breaker, BreakerState
from broker.gateway.faults import account_failure
from broker.gateway.maintenance import Calendar
from broker.session.backoff import Backoff
from broker.session.budgets import Budgets
from broker.session.client_ids import Pool
from broker.session.drain import Drain
from broker.session.machine import DRAINED
from broker.session.model import Failure, SessionNotice

logger = logging.getLogger(__name__)

PATIENCE: Final = 5.0
"""Seconds of silence from which on it is the Gateway's, not an impatient caller's."""

GRAIN: Final = 0.01
"""Seconds by which a timer may come early: clocks are rounded, uvloop's to milliseconds."""

TRIAL_PAUSE: Final = 1.0
"""Seconds after which somebody else's trial may be over."""

_BREAKING: Final = frozenset(
    {
        ErrorCode.CONNECTION,
        ErrorCode.TIMEOUT,
        ErrorCode.NETWORK_UNREACHABLE,
        ErrorCode.INCOMPATIBLE_VERSION,
    }
)
"""The failures that the breaker counts: those that the next session would meet, too."""

_CIRCUIT_HINTS: Final = {
    BreakerState.OPEN: "New sessions are refused. Those that exist go on trying by themselves.",
    BreakerState.HALF_OPEN: "The next attempt is a trial.",
    BreakerState.CLOSED: "New sessions are taken again.",
}

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
        heartbeat_interval: after so much silence of a link the Gateway is asked for its time.
        auth_grace: how long a Gateway is tried that accepts no sessions yet, as after its
            start, before that is final.
        health_check_interval: how often a gateway that no session uses is dialled while it is
            unreachable.
        sentinel: keep one connection to a gateway that no session uses, so that its health is
            known.
        breaker_failures: how many failures in a row open the circuit.
        breaker_successes: how many successes in a row close it again.
        breaker_timeout: how long the circuit is open before a trial.
        maintenance: when loss of the link is expected.
        budgets: how long a state or a condition may last before somebody is told.
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
    heartbeat_interval: float = 10.0
    auth_grace: float = 30.0
    health_check_interval: float = 30.0
    sentinel: bool = True
    breaker_failures: int = 5
    breaker_successes: int = 2
    breaker_timeout: float = 30.0
    maintenance: Calendar = Calendar(())
    budgets: Budgets = Budgets()


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    """Who waits for his turn, and how long he allows an attempt to take."""

    turn: asyncio.Future[None]
    timeout: float


class Endpoint:
    """Admits one handshake at a time to a gateway, and knows whether it is there.

    While it gives no version reply there is one ladder of waits for all: whoever dials next
    probes for everybody, and his failure is that of all who wait. As soon as anybody is
    answered, all are woken.

    Args:
        settings: the gateway.
        connector: dials it.
        now: the time, in UTC.
        random: a number in [0, 1).
        on_dialled: called with each dial that has succeeded or failed.
        on_probed: called with the answer to the probe of a trial.

    Attributes:
        reachable: whether the last attempt was answered; None before any has ended.
        drain: set while an operator takes the gateway out of use.
        breaker: refuses new sessions after repeated failures.
        tell: called with what everybody should know who has a session of this gateway.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        connector: GatewayConnector,
        *,
        now: Callable[[], datetime],
        random: Callable[[], float],
        on_dialled: Callable[[Dialled], None] = lambda _: None,
        on_probed: Callable[[Probe], None] = lambda _: None,
    ) -> None:
        self.settings = settings
        self.reachable: bool | None = None
        self.reachable_time: datetime | None = None
        self.server_version: int | None = None
        self.last_failure: Failure | None = None
        self.drain: Drain | None = None
        self.tell: Callable[[SessionNotice], None] = lambda _: None
        self.breaker = Breaker(
            settings.breaker_failures,
            settings.breaker_successes,
            settings.breaker_timeout,
            on_change=self._breaker_changed,
        )
        self._connector = connector
        self._now = now
        self._random = random
        self._on_dialled = on_dialled
        self._on_probed = on_probed
        self._busy = False
        self._last_start = float("-inf")
        # Bounded by the session limit: a session waits here at most once.
        self._waiting: deque[_Waiter] = deque()
        self._rung = 0
        self._due: float | None = None
        self._check_due: float | None = None
        self._outage: GatewayError | None = None
        self._news: asyncio.Future[None] | None = None
        self._orders: asyncio.Future[None] | None = None

    # -- what is known -------------------------------------------------------------

    @property
    def retry_in(self) -> float | None:
        """Seconds until a gateway that does not answer is tried again; None if it answers."""
        if self._due is None:
            return None
        return max(self._due - asyncio.get_running_loop().time(), 0.0)

    @property
    def check_in(self) -> float | None:
        """Seconds until the sentinel dials a gateway that does not answer; None if none does."""
        if self._check_due is None or self.reachable is not False or self.drain is not None:
            return None
        return max(self._check_due - asyncio.get_running_loop().time(), 0.0)

    @property
    def half_open_in(self) -> float | None:
        """Seconds until the open circuit lets a trial through; None unless it is open."""
        if self.breaker.half_open_at is None:
            return None
        return max(self.breaker.half_open_at - asyncio.get_running_loop().time(), 0.0)

    @property
    def waiting(self) -> int:
        """How many wait for their turn to dial."""
        return len(self._waiting)

    def maintenance_end(self) -> datetime | None:
        """The end of the maintenance window that the gateway is in, if it is in one."""
        return self.settings.maintenance.until(self._now())

    def require_open(self) -> None:
        """Refuse a new session if the gateway takes none.

        Raises:
            GatewayDrainingError: an operator takes it out of use.
            CircuitBreakerOpenError: it has failed repeatedly, and nobody else's trial is over.
        """
        name = self.settings.gateway_id
        if self.drain is not None:
            raise GatewayDrainingError(name, self.drain.actor, self.drain.reason)
        match self.breaker.state:
            case BreakerState.OPEN:
                raise CircuitBreakerOpenError(name, self.breaker.failures, self.half_open_in or 0.0)
            case BreakerState.HALF_OPEN if self._busy:
                raise CircuitBreakerOpenError(name, self.breaker.failures, TRIAL_PAUSE)

    # -- what is decided about it --------------------------------------------------

    def set_drain(self, drain: Drain | None) -> None:
        """Take the gateway out of use, or back into it, and tell."""
        before, self.drain = self.drain, drain
        name = self.settings.gateway_id
        if drain is not None:
            why = f": {drain.reason}" if drain.reason else ""
            self.tell(
                SessionNotice(
                    reason=DRAINED,
                    subject=name,
                    message=f"gateway {name!r} is drained by {drain.actor!r}{why}",
                    hint="The session stays while its link lives; if it loses it, it waits for an "
                    "operator to resume the gateway.",
                    since=drain.time,
                )
            )
        elif before is not None:
            self.tell(
                SessionNotice(
                    reason="GATEWAY_RESUMED",
                    subject=name,
                    message=f"gateway {name!r} is in use again",
                    hint="Sessions that waited for it dial now.",
                    since=self._now(),
                )
            )
            self._begin_anew()

    def try_now(self) -> None:
        """Close the circuit, and let whoever waits for the gateway try at once."""
        self.breaker.reset()
        self._begin_anew()

    def plan_check(self, seconds: float | None) -> None:
        """The sentinel dials in so many seconds, or is about to; None if there is no sentinel."""
        now = asyncio.get_running_loop().time()
        self._check_due = now + seconds if seconds is not None else None

    def stop(self) -> None:
        """Stop what would happen by itself."""
        self.breaker.stop()

    # -- dialling ------------------------------------------------------------------

    async def wait(self, seconds: float, *, unanswered_at: datetime | None) -> None:
        """Wait before an attempt.

        Args:
            seconds: how long at most.
            unanswered_at: when the gateway gave no answer; the wait ends as soon as it has given
                one to anybody since. None: the wait is for the session's own sake. An operator who
                lets the gateway be tried at once ends both.

        Cancellation is safe.
        """
        answered_at = self.reachable_time if self.reachable else None
        if unanswered_at is not None and answered_at is not None and answered_at > unanswered_at:
            return
        awaited = {self._next_order()}
        if unanswered_at is not None:
            awaited.add(self._next_news())
        await asyncio.wait(awaited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)

    async def connect(
        self,
        client_id: int,
        *,
        timeout: float,
        on_notice: Callable[[Notice], None],
        on_dial: Callable[[], None] = lambda: None,
        held_back: bool = False,
    ) -> Link:
        """Dial, when it is this caller's turn.

        A failure of the gateway itself (no version reply) is shared with all that wait
        for their turn, so that nobody waits in line for a failure of his own.

        Args:
            client_id: the TWS client id.
            timeout: seconds for the attempt, from the dial, not from this call.
            on_notice: called for each notice of the link.
            on_dial: called when it is this caller's turn, before the dial; never if the failure is
                another's.
            held_back: do not dial while the gateway is drained, but wait; nor, while it gives no
                answer, before it is tried again: its last failure is then this caller's, too.

        Raises:
            GatewayError: the attempt failed; its socket has ended.

        Cancellation gives the turn up, and ends the socket before it returns.
        """
        await self._admitted(timeout, held_back=held_back)
        try:
            await self._space()
            on_dial()
            link = await self._timed_dial(client_id, timeout, on_notice)
        except GatewayError as error:
            self._failed(error, timeout)
            raise
        finally:
            self._pass_on()
        return link

    async def _admitted(self, timeout: float, *, held_back: bool) -> None:
        while True:
            while held_back and self.drain is not None:
                await asyncio.wait({self._next_order()})
            if held_back and self._outage is not None and (self.retry_in or 0.0) > GRAIN:
                raise _copy(self._outage)
            await self._turn(timeout)
            if not (held_back and self.drain is not None):
                return
            self._pass_on()

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

    async def _timed_dial(
        self, client_id: int, timeout: float, on_notice: Callable[[Notice], None]
    ) -> Link:
        """Dial, and tell what came of it; a cancelled dial comes to nothing."""
        began = time.perf_counter()
        phases: list[tuple[Phase, float]] = []

        def tell(version: int | None, error: GatewayError | None) -> None:
            settings, took = self.settings, time.perf_counter() - began
            self._on_dialled(
                Dialled(
                    gateway_id=settings.gateway_id,
                    host=settings.host,
                    port=settings.port,
                    client_id=client_id,
                    duration=took,
                    phases=tuple(phases),
                    server_version=version,
                    error=error,
                )
            )

        def reached(phase: Phase) -> None:
            phases.append((phase, time.perf_counter() - began))

        try:
            link = await self._dial(client_id, timeout, on_notice, reached)
        except GatewayError as error:
            tell(None, error)
            raise
        tell(link.server_version, None)
        return link

    async def _dial(
        self,
        client_id: int,
        timeout: float,
        on_notice: Callable[[Notice], None],
        on_phase: Callable[[Phase], None],
    ) -> Link:
        link = await self._connector.connect(
            host=self.settings.host,
            port=self.settings.port,
            client_id=client_id,
            timeout=timeout,
            on_notice=on_notice,
            on_phase=on_phase,
        )
        try:
            if self.breaker.state is not BreakerState.CLOSED:
                # A Gateway that hangs completes handshakes, too.
                self._on_probed(await link.probe(self.settings.heartbeat_timeout))
            refusal = account_failure(self.settings.kind, link.accounts)
        except BaseException:  # a cancellation, too, must not leave the socket
            await link.close()
            raise
        self._answered()
        self.server_version = link.server_version
        if refusal is not None:
            await link.close()
            raise refusal
        self.breaker.record_success()
        return link

    def _failed(self, error: GatewayError, timeout: float) -> None:
        self.last_failure = Failure.of(error, time=self._now(), attempt=0)
        # So short a silence proves nothing; how long a probe waits is not the caller's choice.
        impatient = (
            error.code is ErrorCode.TIMEOUT
            and error.phase is not Phase.HEARTBEAT
            and timeout < min(PATIENCE, self.settings.timeout)
        )
        if error.answered:
            self._answered()
        elif error.code in _GATEWAY_FAILURES:
            self._share(error, timeout)
            if not impatient:
                self._unanswered(error)
        if impatient:
            return
        if error.code in _BREAKING and self.maintenance_end() is None:
            self.breaker.record_failure()

    def _answered(self) -> None:
        self._learned(reachable=True)
        self._rung, self._due, self._outage = 0, None, None
        news, self._news = self._news, None
        if news is not None:
            news.set_result(None)

    def _unanswered(self, error: GatewayError) -> None:
        self._learned(reachable=False)
        self._outage = _copy(error)
        now = asyncio.get_running_loop().time()
        if self._due is None or now >= self._due - GRAIN:
            self._rung += 1
            self._due = now + self.settings.backoff.delay(self._rung, self._random())

    def _share(self, error: GatewayError, timeout: float) -> None:
        """Let the failure be that of all who wait for their turn."""
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

    def _next_news(self) -> asyncio.Future[None]:
        if self._news is None:
            self._news = asyncio.get_running_loop().create_future()
        return self._news

    def _next_order(self) -> asyncio.Future[None]:
        if self._orders is None:
            self._orders = asyncio.get_running_loop().create_future()
        return self._orders

    def _begin_anew(self) -> None:
        self._rung, self._due, self._outage = 0, None, None
        orders, self._orders = self._orders, None
        if orders is not None:
            orders.set_result(None)

    def _breaker_changed(self, old: BreakerState, new: BreakerState) -> None:
        name = self.settings.gateway_id
        logger.error(
            "circuit_breaker_state_change",
            extra={"gateway_id": name, "old_state": old.value, "new_state": new.value},
        )
        self.tell(
            SessionNotice(
                reason=f"CIRCUIT_{new.value}",
                subject=name,
                message=f"the circuit breaker of gateway {name!r} is {new.value}",
                hint=_CIRCUIT_HINTS[new],
                since=self._now(),
            )
        )


def _copy(error: GatewayError) -> GatewayError:
    """An exception of one's own for each task: a traceback belongs to one raise."""
    return GATEWAY_ERRORS[error.code](
        error.message,
        phase=error.phase,
        hint=error.hint,
        tws_code=error.tws_code,
        answered=error.answered,
    )
