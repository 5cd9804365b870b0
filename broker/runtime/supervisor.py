"""One task per session: it finds out what happens next, and gives that to the machine.

The task is strictly sequential. What a session needs is derived from its state
(``machine.needed``); the one thing that may interrupt it is the request to end.
So there are no stale inputs: a dial or a wait that was interrupted has ended,
socket included, before the next input is looked for.

What is merely observed (a condition, a notice, an alarm) changes nothing that the
session needs, and is given to the machine at once, between two inputs of the task.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from broker.errors import (
    ErrorCode,
    GatewayError,
    InvalidArgumentError,
    Phase,
    SessionNotConnectedError,
    StoreUnavailableError,
)
from broker.events.log import RETRY_INTERVAL, EventLog
from broker.gateway import faults
from broker.gateway.base import Link, Notice, Probe
from broker.gateway.conditions import conditions_of
from broker.gateway.endpoint import Endpoint
from broker.gateway.fault_table import Symptom
from broker.gateway.faults import Target
from broker.gateway.heartbeat import watch_over
from broker.runtime.alarms import Alarms
from broker.session import machine
from broker.session.client_ids import ClientIds, Quarantined
from broker.session.effects import Dial, EndLink, HoldLink, Rest
from broker.session.inputs import (
    AttemptFailed,
    ConditionSeen,
    EndRequested,
    Input,
    LinkEnded,
    LinkLost,
    LinkUp,
    TaskCrashed,
    Told,
)
from broker.session.model import (
    CloseReason,
    Condition,
    ConditionStatus,
    Failure,
    Session,
    SessionNotice,
)

logger = logging.getLogger(__name__)

STABLE: Final = 60.0
"""Seconds after which a link counts as one that works: losing it is news, not the same trouble."""

HUMAN_PAUSE: Final = 60.0
"""Seconds between two dials of a Gateway that waits for a human."""


@dataclass(frozen=True, slots=True)
class Ports:
    """What a supervisor is given of the world.

    ``now`` is the time in UTC, ``random`` a number in [0, 1), ``new_id`` a UUID4.
    ``open_timeout`` is how many seconds the record of an open may take.
    """

    log: EventLog
    now: Callable[[], datetime]
    random: Callable[[], float]
    new_id: Callable[[], UUID]
    open_timeout: float = 5.0


class Supervisor:
    """Drives one session from CONNECTING to its end.

    Args:
        opening: the step that opened the session, not recorded yet.
        endpoint: the session's gateway.
        client_ids: the gateway's ids; the session holds its own when it begins.
        ports: the world.

    Raises:
        StoreUnavailableError: too much waits for the database already; nothing has begun.

    Attributes:
        session: as it is now. What others may see is what the log has published.
        opened: the session once its opening is visible, or StoreUnavailableError.
        settled: the session once it is visible that it is no longer CONNECTING, or
            StoreUnavailableError.
        ended: the session once it is final, visible so, and holds nothing any more.
        heartbeat_latency: seconds, of the last answered probe; None before the first.
    """

    def __init__(
        self, opening: machine.Step, endpoint: Endpoint, client_ids: ClientIds, ports: Ports
    ) -> None:
        loop = asyncio.get_running_loop()
        self.session: Session = opening.session
        self.opened: asyncio.Future[Session] = loop.create_future()
        self.settled: asyncio.Future[Session] = loop.create_future()
        self.ended: asyncio.Future[Session] = loop.create_future()
        self.heartbeat_latency: float | None = None
        self._correlation_id = opening.events[0].correlation_id
        self._endpoint = endpoint
        self._client_ids = client_ids
        self._ports = ports
        # At once: whatever happens to the session is recorded after its beginning.
        self._recorded: asyncio.Future[Session] = ports.log.submit(opening.events)
        self._link: Link | None = None
        self._end: asyncio.Future[EndRequested] = loop.create_future()
        self._end_correlation_id: UUID | None = None
        self._alarms = Alarms(endpoint.settings.budgets, endpoint.settings.maintenance, self.tell)
        self._told: dict[tuple[str, str], Condition] = {}
        self._up_at = 0.0
        # Rungs of the session's own ladder: links that did not last, and dials since the last one
        # that the Gateway answered and that failed all the same.
        self._unstable = 0
        self._rung = 0
        self._crashes = 0
        self._unclean: str | None = None

    def request_end(
        self, close_reason: CloseReason, actor: str, correlation_id: UUID | None = None
    ) -> None:
        """Ask the session to end; only the first request counts. ``ended`` tells when it has.

        The correlation id, if there is one, stands in the events from then on.
        """
        if not self._end.done():
            self._end.set_result(EndRequested(close_reason, actor))
            self._end_correlation_id = correlation_id

    @property
    def end_requested(self) -> bool:
        """Whether somebody asked the session to end."""
        return self._end.done()

    async def probe(self) -> Probe | None:
        """Ask the Gateway for its time over this session's link.

        Returns:
            The answer; None if the session has no link to ask over.

        Raises:
            GatewayError: no answer. The link is lost by that.

        Cancellation is safe.
        """
        if self._link is None or self.session.is_closing:
            return None
        probe = await self._link.probe(self._endpoint.settings.heartbeat_timeout)
        self._answered(probe)
        return probe

    def tell(self, notice: SessionNotice) -> None:
        """Tell the session's watchers something."""
        if not self.is_ending:
            self._observe(Told(notice))

    async def acknowledge(self, generation: int, actor: str) -> Session:
        """The owner has subscribed anew to what was interrupted.

        Returns:
            The session, once that is visible.

        Raises:
            SessionNotConnectedError: it has no link now.
            InvalidArgumentError: the generation is not the session's.
            StoreUnavailableError: it is not recorded yet, but will be.

        Cancellation is safe: it is acknowledged all the same.
        """
        session = self.session
        if session.state is not machine.CONNECTED or self.is_ending:
            raise SessionNotConnectedError(str(session.spec.session_id), session.state.value)
        if generation != session.generation:
            raise InvalidArgumentError(
                [("generation", f"is {session.generation} now: the link was made anew")]
            )
        item = Condition(
            type=machine.DATA_CONTINUOUS,
            subject="",
            status=ConditionStatus.TRUE,
            reason="ACKNOWLEDGED",
            message=f"{actor} has subscribed anew",
            transition_time=self._ports.now(),
        )
        known = {condition.type: condition for condition in session.conditions}
        if item.type in known and known[item.type].status is not ConditionStatus.TRUE:
            self._apply(ConditionSeen(item))
        try:
            async with asyncio.timeout(self._ports.open_timeout):
                return await asyncio.shield(self._recorded)
        except TimeoutError:
            raise StoreUnavailableError("it could not be recorded yet") from None

    @property
    def is_ending(self) -> bool:
        """Whether the session is final, or was asked to end."""
        return self._end.done() or self.session.state.is_final

    async def run(self) -> None:
        """Supervise until the session is final. Cancellation ends the link and records nothing."""
        final: Session | None = None
        try:
            await self._record_opening()
            while not self.session.state.is_final:
                await self._go_on()
            final = await self._recorded
            reason = final.close_reason or "FAILED"
            logger.info("disconnection", extra=self._about(reason=reason))
        finally:
            self._alarms.stop()
            if self._link is not None:
                await self._link.close()
            if self._unclean is not None:
                self._quarantine(self._unclean)
            self._release(self.session.client_id)
            if final is not None:
                self.ended.set_result(final)
            for future in (self.opened, self.settled, self.ended):
                future.cancel()  # nothing to those that are done

    async def _record_opening(self) -> None:
        """No dial before the record: what the database does not know of must not be on the wire."""
        self._alarms.follow(self.session, self._ports.now())
        try:
            async with asyncio.timeout(self._ports.open_timeout):
                self.opened.set_result(await asyncio.shield(self._recorded))
        except TimeoutError:
            # The record may be written yet, so the session goes on to its end, in order.
            for future in (self.opened, self.settled):
                future.set_exception(StoreUnavailableError("the open could not be recorded"))
                future.exception()  # whoever waited may be gone
            self.request_end(CloseReason.STORE_UNAVAILABLE, "broker")

    async def _go_on(self) -> None:
        try:
            await self._take(await self._next_input())
            self._crashes = 0
        except Exception as error:
            # A bug in one session must not cost the others.
            self._crashes += 1
            logger.error("session_crashed", exc_info=error, extra=self._about())
            if self._link is not None:
                self._unclean = "BROKER_ERROR"
                await self._link.close()
                self._link = None
                self.heartbeat_latency = None
                self._correlation_id = self._ports.new_id()
            await self._take(self._crash())

    async def _take(self, item: Input) -> None:
        while not self._observe(item):  # noqa: ASYNC110 - it is the database that is waited for
            await asyncio.sleep(RETRY_INTERVAL)

    def _crash(self) -> Input:
        if self.session.is_closing:
            return LinkEnded()
        error = faults.failure(Symptom.BROKER_ERROR, self._target())
        failure = Failure.of(error, time=self._ports.now(), attempt=self.session.attempt)
        delay = self._endpoint.settings.backoff.delay(self._crashes, self._ports.random())
        return TaskCrashed(failure, delay, self._crashes)

    async def _next_input(self) -> Input:
        if self._end.done() and not self.session.is_closing:
            return self._end.result()
        match machine.needed(self.session):
            case Dial() as dial:
                return await self._unless_ended(self._dial(dial))
            case HoldLink():
                return await self._unless_ended(self._hold())
            case EndLink():
                if self._link is not None:
                    if not await self._link.close():
                        self._unclean = "CLOSE_UNANSWERED"
                    self._link = None
                return LinkEnded()
            case Rest():
                raise AssertionError("a final session needs nothing")

    async def _unless_ended(self, work: Coroutine[Any, Any, Input]) -> Input:
        """The outcome of the work, or the request to end, once the work has stopped for it."""
        loop = asyncio.get_running_loop()
        working = True
        try:
            async with asyncio.timeout(None) as scope:

                def interrupt(_: object) -> None:
                    if working:  # a callback that is scheduled already cannot be removed
                        scope.reschedule(loop.time())

                self._end.add_done_callback(interrupt)
                try:
                    return await work
                finally:
                    working = False
                    self._end.remove_done_callback(interrupt)
        except TimeoutError:
            if not scope.expired():
                raise
            return self._end.result()

    async def _dial(self, dial: Dial) -> Input:
        if dial.not_before is not None:
            pause = (dial.not_before - self._ports.now()).total_seconds()
            last = self.session.last_failure
            await self._endpoint.wait(
                max(pause, 0.0),
                unanswered_at=last.time if last is not None and last.blames_gateway else None,
            )
        settings = self._endpoint.settings
        logger.info(
            "connection_attempt",
            extra=self._about(host=settings.host, port=settings.port, client_id=dial.client_id),
        )
        loop = asyncio.get_running_loop()
        begin = loop.time()
        self._told.clear()
        try:
            self._link = await self._endpoint.connect(
                dial.client_id,
                timeout=self.session.spec.timeout,
                on_notice=self._noticed,
                held_back=self.session.state is machine.RECONNECTING,
            )
        except GatewayError as error:
            return self._attempt_failed(error)
        self._up_at = loop.time()
        self._rung = 0
        self._unclean = None
        self._client_ids.lift(dial.client_id)
        logger.info("connection_success", extra=self._about(duration=round(self._up_at - begin, 6)))
        return LinkUp(self._link.server_version, self._link.accounts, tuple(self._told.values()))

    def _attempt_failed(self, error: GatewayError) -> Input:
        session = self.session
        number = session.attempt + 1
        if error.code is ErrorCode.CLIENT_ID_IN_USE and session.state is machine.RECONNECTING:
            error = self._own_ghost()
        failure = self._failure(error, attempt=number)
        settings = self._endpoint.settings
        next_client_id = self._next_client_id(failure)
        retry_in = self._endpoint.retry_in
        delay: float | None
        if next_client_id is not None:
            delay = 0.0
        elif failure.blames_gateway and retry_in is not None:
            delay = retry_in
        else:
            # A ladder of the session's own: how long the Gateway was away is no reason to wait.
            self._rung += 1
            delay = settings.backoff.delay(self._rung + self._unstable, self._ports.random())
        if failure.awaits_human and session.state is machine.RECONNECTING:
            since = machine.with_since(session, failure).since or failure.time
            if (failure.time - since).total_seconds() >= settings.auth_grace:
                delay = HUMAN_PAUSE
        if self._endpoint.drain is not None and session.state is machine.RECONNECTING:
            delay = None
        return AttemptFailed(failure, delay, next_client_id, auth_grace=settings.auth_grace)

    def _own_ghost(self) -> GatewayError:
        """Nobody else can be meant to have the id: it was ours until the link was lost."""
        since = self.session.state_time
        return faults.failure(
            Symptom.OWN_GHOST,
            self._target(),
            since=f"{since:%H:%M:%S}",
            seconds=round((self._ports.now() - since).total_seconds()),
        )

    async def _hold(self) -> Input:
        assert self._link is not None, "CONNECTED owns a link (I2)"
        settings = self._endpoint.settings
        error = await watch_over(
            self._link,
            interval=settings.heartbeat_interval,
            timeout=settings.heartbeat_timeout,
            answered=self._answered,
        )
        self._link = None
        self.heartbeat_latency = None
        self._correlation_id = self._ports.new_id()
        hung = error.phase is Phase.HEARTBEAT
        self._unclean = "HEARTBEAT_UNANSWERED" if hung else "LINK_LOST"
        stable = asyncio.get_running_loop().time() - self._up_at >= STABLE
        self._unstable = 0 if stable else self._unstable + 1
        delay: float | None = 0.0
        if self._endpoint.drain is not None:
            delay = None
        elif not stable:
            delay = settings.backoff.delay(self._unstable, self._ports.random())
        return LinkLost(
            self._failure(error, attempt=0),
            "HEARTBEAT_UNANSWERED" if hung else "PEER_CLOSED",
            delay,
        )

    def _answered(self, probe: Probe) -> None:
        self.heartbeat_latency = probe.latency

    def _failure(self, error: GatewayError, *, attempt: int) -> Failure:
        """The failure, with what else the one who reads it should know."""
        failure = Failure.of(error, time=self._ports.now(), attempt=attempt)
        hint = failure.hint
        end = self._endpoint.maintenance_end()
        if end is not None:
            hint = f"Expected: the Gateway is in maintenance until {end:%a %H:%M} UTC. {hint}"
        drain = self._endpoint.drain
        if drain is not None and self.session.state is not machine.CONNECTING:
            why = f" ({drain.reason})" if drain.reason else ""
            hint = f"{drain.actor} drains the gateway{why}: an operator must resume it."
        failure = replace(failure, hint=hint[: faults.TEXT_LIMIT])
        self._log_failure(failure)
        return failure

    def _target(self) -> Target:
        spec = self.session.spec
        return Target(spec.host, spec.port, self.session.client_id)

    def _quarantine(self, reason: str) -> None:
        self._client_ids.quarantine(Quarantined(self.session.client_id, reason, self._ports.now()))

    def _next_client_id(self, failure: Failure) -> int | None:
        """Hold the next id beside the one that is in use at the Gateway, if that is the policy."""
        if not machine.moves_client_id(self.session, failure.code):
            return None
        logger.warning(
            "client_id_conflict",
            extra=self._about(
                client_id=self.session.client_id, retry_count=self.session.client_id_moves
            ),
        )
        client_id = self._client_ids.after(self.session.client_id)
        if client_id is not None:
            self._client_ids.take(client_id, self.session.spec.session_id)
        return client_id

    def _noticed(self, notice: Notice) -> None:
        """Take a notice of the link; those of the handshake count once it is complete."""
        logger.info("notice", extra=self._about(tws_code=notice.code, text=notice.text))
        for condition in conditions_of(notice, self._ports.now()):
            if self._link is None:
                key = (condition.type, condition.subject)
                if key in self._told or not condition.subject or len(self._told) < machine.FARMS:
                    self._told[key] = condition
            elif self.session.state is machine.CONNECTED and not self.is_ending:
                self._observe(ConditionSeen(condition))

    def _observe(self, item: Input) -> bool:
        """Apply an input, unless too much waits for the database already; returns whether."""
        try:
            self._apply(item)
        except StoreUnavailableError as error:
            logger.error("not_recorded", extra=self._about(error=str(error), item=repr(item)))
            return False
        return True

    def _apply(self, item: Input) -> None:
        if isinstance(item, EndRequested) and self._end_correlation_id is not None:
            self._correlation_id = self._end_correlation_id
        step = machine.step(
            self.session,
            item,
            now=self._ports.now(),
            correlation_id=self._correlation_id,
        )
        if not step.events:
            return
        self._recorded = self._ports.log.submit(step.events)
        before, self.session = self.session, step.session
        self._alarms.follow(self.session, self._ports.now())
        if before.state is machine.CONNECTING and self.session.state is not machine.CONNECTING:
            self._recorded.add_done_callback(self._settle)
            if not self.session.spec.return_immediately:
                late = asyncio.get_running_loop().call_later(
                    self._ports.open_timeout, self._give_up_settling
                )
                self._recorded.add_done_callback(lambda _: late.cancel())
        if before.client_id != self.session.client_id:
            # Not before the record says so: two open rows must never hold one id.
            self._recorded.add_done_callback(lambda _: self._release(before.client_id))

    def _release(self, client_id: int) -> None:
        self._client_ids.release(client_id, self.session.spec.session_id)

    def _settle(self, recorded: asyncio.Future[Session]) -> None:
        if not self.settled.done() and not recorded.cancelled():
            self.settled.set_result(recorded.result())

    def _give_up_settling(self) -> None:
        """Fail closed: the caller learns that what came of the open could not be recorded."""
        if not self.settled.done():
            self.settled.set_exception(
                StoreUnavailableError("what came of the open could not be recorded")
            )
            self.settled.exception()  # whoever waited may be gone
            self.request_end(CloseReason.STORE_UNAVAILABLE, "broker")

    def _log_failure(self, failure: Failure) -> None:
        logger.error(
            "connection_failure",
            extra=self._about(
                error_type=failure.code.error_type,
                error_message=failure.message,
                code=failure.code.reason,
                phase=failure.phase.value,
                hint=failure.hint,
            ),
        )

    def _about(self, **more: object) -> dict[str, object]:
        return {
            "session_id": str(self.session.spec.session_id),
            "gateway_id": self.session.spec.gateway_id,
            "correlation_id": str(self._correlation_id),
            **more,
        }
