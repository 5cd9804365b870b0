"""One task per session: it finds out what happens next, and gives that to the machine.

The task is strictly sequential. What a session needs is derived from its state
(``machine.needed``); what may interrupt it is the request to end, or that the broker stops.
So there are no stale inputs: a dial or a wait that was interrupted has ended,
socket included, before the next input is looked for.

What is merely observed (a condition, a notice, an alarm, a lease's new length) changes nothing
that the session needs, and is given to the machine at once, between two inputs of the task.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from broker.errors import (
    BrokerDrainingError,
    InvalidArgumentError,
    SessionClosedError,
    SessionNotConnectedError,
    StoreUnavailableError,
)
from broker.events.log import RETRY_INTERVAL, EventLog, Receipt
from broker.gateway.base import Probe
from broker.gateway.endpoint import Endpoint
from broker.gateway.fault_table import Symptom
from broker.runtime.alarms import Alarms
from broker.runtime.lease import Lease
from broker.runtime.line import Line
from broker.runtime.observer import Nobody, Observer
from broker.runtime.opening import Opening
from broker.runtime.trace import Trace
from broker.session import machine
from broker.session.client_ids import ClientIds
from broker.session.effects import Dial, EndLink, HoldLink, Rest
from broker.session.inputs import (
    AttemptFailed,
    BrokerStopping,
    ConditionSeen,
    EndRequested,
    Input,
    LeaseChanged,
    LinkEnded,
    LinkUp,
    TaskCrashed,
    Told,
)
from broker.session.model import CloseReason, Condition, ConditionStatus, Session, SessionNotice

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ports:
    """What a supervisor is given of the world.

    ``now`` is the time in UTC, ``random`` a number in [0, 1), ``new_id`` a UUID4.
    ``open_timeout`` is how many seconds the record of an open may take; with ``open_unrecorded``
    it is not waited for while the database is away. ``observer`` is told what happens.
    """

    log: EventLog
    now: Callable[[], datetime]
    random: Callable[[], float]
    new_id: Callable[[], UUID]
    open_timeout: float = 5.0
    open_unrecorded: bool = False
    observer: Observer = field(default_factory=Nobody)


class Vitals(NamedTuple):
    """What is known of an open session beside its record.

    ``heartbeat_latency`` is in seconds, of the last answered probe; ``lease_expire_time`` is when
    the session ends unless it is renewed.
    """

    heartbeat_latency: float | None = None
    lease_expire_time: datetime | None = None


class Supervisor:
    """Drives one session from CONNECTING to its end, or until the broker stops.

    Args:
        beginning: the step with which the session begins here, not recorded yet.
        endpoint: the session's gateway.
        client_ids: the gateway's ids; the session holds its own when it begins.
        ports: the world.
        taken_up: whether a broker before this one had opened the session.

    Raises:
        StoreUnavailableError: too much waits for the database already; nothing has begun.

    Attributes:
        session: as it is now. What others may see is what the log has published.
        opening: what those are answered who open it.
        lease: when it ends by itself.
        line: its way to the Gateway.
        ended: the session once it is visible that it is final; it owns no link any more. Or
            BrokerDrainingError.
        released: done once it holds nothing any more, neither client id nor seat.
    """

    def __init__(
        self,
        beginning: machine.Step,
        endpoint: Endpoint,
        client_ids: ClientIds,
        ports: Ports,
        *,
        taken_up: bool = False,
    ) -> None:
        loop = asyncio.get_running_loop()
        session, events = beginning.session, beginning.events
        self.session: Session = session
        self.lease = Lease(self._lease_expired, ports.now, self._lease_extended)
        self.opening = Opening(
            repeatable=session.spec.request_id is not None,
            # Whoever waits for it shows that the session is wanted.
            on_wait=self.lease.stop,
            on_answer=self.begin_lease,
            on_abandoned=lambda: self.request_end(CloseReason.CALLER_GONE, session.spec.owner),
        )
        self._trace = Trace(
            session.spec,
            events[0].correlation_id if events else ports.new_id(),
            ports.new_id,
            ports.observer,
        )
        self.line = Line(
            endpoint,
            client_ids,
            self._trace,
            now=ports.now,
            random=ports.random,
            seen=self._seen,
            observer=ports.observer,
        )
        self.ended: asyncio.Future[Session] = loop.create_future()
        self.released: asyncio.Future[None] = loop.create_future()
        self._client_ids = client_ids
        self._ports = ports
        # At once: whatever happens to the session is recorded after its beginning.
        self._receipt = ports.log.submit(events) if events else Receipt.of(session)
        self._interrupt: asyncio.Future[EndRequested | BrokerStopping] = loop.create_future()
        self._end_cause: tuple[UUID, contextvars.Context] | None = None
        self._alarms = Alarms(
            endpoint.settings.budgets, endpoint.settings.maintenance, ports.now(), self.tell
        )
        self._crashes = 0
        if taken_up:
            self._take_up()

    # -- what others ask of it ---------------------------------------------------------

    @property
    def was_asked_to_end(self) -> bool:
        """Whether somebody asked for its end."""
        return self._interrupt.done() and isinstance(self._interrupt.result(), EndRequested)

    @property
    def is_ending(self) -> bool:
        """Whether it is final, or was asked to end."""
        return self.session.state.is_final or self.was_asked_to_end

    @property
    def vitals(self) -> Vitals:
        """As they are now."""
        return Vitals(self.line.heartbeat_latency, self.lease.expire_time)

    @property
    def is_interrupted(self) -> bool:
        """Whether it is ending, or left to the next broker."""
        return self.session.state.is_final or self._interrupt.done()

    def request_end(
        self, close_reason: CloseReason, actor: str, correlation_id: UUID | None = None
    ) -> None:
        """Ask the session to end; only the first request counts. ``ended`` tells when it has.

        The correlation id, if there is one, stands in the events from then on: that of the request
        which the caller handles.
        """
        if not self._interrupt.done():
            self._interrupt.set_result(EndRequested(close_reason, actor))
            if correlation_id is not None:
                self._end_cause = (correlation_id, contextvars.copy_context())

    def request_stop(self) -> None:
        """The broker stops: leave the session to the next one, unless it is to end anyway."""
        if not self._interrupt.done():
            failure = self.line.own_failure(self.session, Symptom.BROKER_STOPPING, attempt=0)
            self._interrupt.set_result(BrokerStopping(failure))

    async def probe(self) -> Probe | None:
        """Ask the Gateway for its time over this session's link.

        Returns:
            The answer; None if the session has no link to ask over.

        Raises:
            GatewayError: no answer. The link is lost by that.

        Cancellation is safe.
        """
        return None if self.session.is_closing else await self.line.probe()

    def tell(self, notice: SessionNotice) -> None:
        """Tell the session's watchers something."""
        if not self.is_interrupted:
            self._observe(Told(notice))

    async def acknowledge(self, generation: int, actor: str) -> None:
        """The owner has subscribed anew to what was interrupted; returns when that is visible.

        Raises:
            SessionNotConnectedError: it has no link now.
            InvalidArgumentError: the generation is not the session's.
            StoreUnavailableError: too much waits for the database already; nothing has changed.

        Cancellation is safe: it is acknowledged all the same.
        """
        session = self.session
        if session.state is not machine.CONNECTED or self.is_interrupted:
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
        await asyncio.shield(self._receipt.visible)

    def begin_lease(self) -> None:
        """Let the session's lease begin anew, if it has one."""
        if not self.is_interrupted:
            self.lease.begin(self.session.lease_ttl)

    async def renew(self, lease_ttl: float | None, actor: str) -> None:
        """Let the session's lease begin anew; returns when its length is visible.

        Args:
            lease_ttl: seconds that it lasts from now on; None as before.
            actor: who wants it.

        Raises:
            SessionClosedError: the session has ended, or is about to.
            BrokerDrainingError: the broker stops; the next one lets every lease begin anew.
            InvalidArgumentError: it has no lease, and none is asked for.
            StoreUnavailableError: too much waits for the database already; nothing has changed.

        Cancellation is safe: it is renewed all the same.
        """
        if self.is_ending:
            reason = self.session.close_reason or self.session.state.value
            raise SessionClosedError(str(self.session.spec.session_id), reason)
        if self.is_interrupted:
            raise BrokerDrainingError
        if lease_ttl is not None:
            self._apply(LeaseChanged(lease_ttl, actor))
        elif self.session.lease_ttl is None:
            raise InvalidArgumentError([("lease_ttl", "is required: the session has no lease")])
        self.begin_lease()
        await asyncio.shield(self._receipt.visible)

    # -- its task ----------------------------------------------------------------------

    async def run(self) -> None:
        """Supervise until the session is final, or the broker stops; and until that is on record.

        Cancellation ends the link and records nothing.
        """
        self._trace.begin(self.session)
        try:
            await self._record_opening()
            item: Input | None = None
            while not self.session.state.is_final:
                item = await self._go_on()
                if isinstance(item, BrokerStopping) and not self.session.is_closing:
                    break
            await self.line.end()
            if self.session.state.is_final:
                final = await self._receipt.visible
                logger.info("disconnection", extra=self._trace.about(reason=_why(final)))
                self.ended.set_result(final)
            else:
                self._leave()
            # Until the record says so the client id is not free: two open rows must never hold it.
            await self._receipt.kept
        finally:
            self._alarms.stop()
            self.lease.stop()
            await self.line.end()
            if self.session.state.is_final:
                self.line.give_up(self.session)
            self._release(self.session.client_id)
            self._leave()
            self.released.set_result(None)

    def _leave(self) -> None:
        """Whoever still waits for the session waits for the next broker."""
        self.opening.fail(BrokerDrainingError)
        if not self.ended.done():
            self.ended.set_exception(BrokerDrainingError())
            self.ended.exception()  # nobody may be waiting

    def _take_up(self) -> None:
        """Go on with a session whose broker has stopped or died."""
        self.line.inherit()
        self.opening.recorded.set_result(self.session)
        if self.session.state is not machine.CONNECTING:
            self.opening.settled.set_result(self.session)
        if self.session.spec.return_immediately:
            self.opening.answered()

    async def _record_opening(self) -> None:
        """No dial before the record: what the database does not know of must not be on the wire."""
        self._alarms.follow(self.session, self._ports.now())
        if self.opening.recorded.done():
            return
        receipt = self._receipt
        awaited = receipt.visible if self._ports.open_unrecorded else receipt.kept
        try:
            async with asyncio.timeout(self._ports.open_timeout):
                self.opening.recorded.set_result(await asyncio.shield(awaited))
        except TimeoutError:
            # The record may be written yet, so the session goes on to its end, in order.
            self._refuse("the open could not be recorded")

    async def _go_on(self) -> Input:
        try:
            item = await self._next_input()
            await self._take(item)
            self._crashes = 0
        except Exception as error:
            # A bug in one session must not cost the others.
            self._crashes += 1
            logger.error("session_crashed", exc_info=error, extra=self._trace.about())
            await self.line.abandon(self.session)
            item = self._crash()
            await self._take(item)
        return item

    async def _take(self, item: Input) -> None:
        while not self._observe(item):
            if isinstance(item, AttemptFailed) and item.next_client_id is None:
                # Better to dial unrecorded than not at all.
                await asyncio.sleep(item.delay or RETRY_INTERVAL)
                return
            await asyncio.sleep(RETRY_INTERVAL)

    def _crash(self) -> Input:
        if self.session.is_closing:
            return LinkEnded()
        failure = self.line.own_failure(
            self.session, Symptom.BROKER_ERROR, attempt=self.session.attempt
        )
        return TaskCrashed(failure, self.line.pause_after_crash(self._crashes), self._crashes)

    async def _next_input(self) -> Input:
        if self._interrupt.done() and not self.session.is_closing:
            return self._interrupt.result()
        match machine.needed(self.session):
            case Dial() as dial:
                return await self._unless_interrupted(self.line.dial(self.session, dial))
            case HoldLink():
                return await self._unless_interrupted(self.line.hold(self.session))
            case EndLink():
                await self.line.end()
                return LinkEnded()
            case Rest():
                raise AssertionError("a final session needs nothing")

    async def _unless_interrupted(self, work: Coroutine[Any, Any, Input]) -> Input:
        """The outcome of the work, or what interrupts it, once the work has stopped for that."""
        loop = asyncio.get_running_loop()
        working = True
        try:
            async with asyncio.timeout(None) as scope:

                def interrupt(_: object) -> None:
                    if working:  # a callback that is scheduled already cannot be removed
                        scope.reschedule(loop.time())

                self._interrupt.add_done_callback(interrupt)
                try:
                    return await work
                finally:
                    working = False
                    self._interrupt.remove_done_callback(interrupt)
        except TimeoutError:
            if not scope.expired():
                raise
            return self._interrupt.result()

    # -- what it gives to the machine --------------------------------------------------

    def _seen(self, condition: Condition) -> None:
        if self.session.state is machine.CONNECTED and not self.is_interrupted:
            self._observe(ConditionSeen(condition))

    def _observe(self, item: Input) -> bool:
        """Apply an input, unless too much waits for the database already; returns whether."""
        try:
            self._apply(item)
        except StoreUnavailableError as error:
            logger.error("not_recorded", extra=self._trace.about(error=str(error), item=repr(item)))
            return False
        return True

    def _apply(self, item: Input) -> None:
        if isinstance(item, EndRequested) and self._end_cause is not None:
            self._trace.adopt(*self._end_cause)
        elif isinstance(item, BrokerStopping):
            self._trace.begin_anew(self.session)
        step = machine.step(
            self.session,
            item,
            now=self._ports.now(),
            correlation_id=self._trace.correlation_id,
        )
        if not step.events:
            return
        self._receipt = self._ports.log.submit(step.events)
        before, self.session = self.session, step.session
        self._alarms.follow(self.session, self._ports.now())
        if before.state is machine.CONNECTING and self.session.state is not machine.CONNECTING:
            self._settle(self._receipt)
        if isinstance(item, LinkUp):
            self._trace.settle()
        if before.client_id != self.session.client_id:
            self._receipt.kept.add_done_callback(lambda _: self._release(before.client_id))

    def _settle(self, receipt: Receipt) -> None:
        """Tell whoever opens the session what came of it, once a crash could not take it back."""
        settled = self.opening.settled
        if self._ports.open_unrecorded or self.session.spec.outlives_caller:
            awaited = receipt.visible
        else:
            awaited = receipt.kept
            late = asyncio.get_running_loop().call_later(
                self._ports.open_timeout,
                self._refuse,
                "what came of the open could not be recorded",
            )
            awaited.add_done_callback(lambda _: late.cancel())

        def settle(_: object) -> None:
            if not settled.done() and not awaited.cancelled():
                settled.set_result(awaited.result())

        awaited.add_done_callback(settle)

    def _refuse(self, message: str) -> None:
        """Fail closed: whoever opens a session must not believe in what is not on record."""
        if not self.opening.settled.done():
            self.opening.fail(lambda: StoreUnavailableError(message))
            self.request_end(CloseReason.STORE_UNAVAILABLE, "broker")

    def _lease_expired(self) -> None:
        logger.warning("lease_expired", extra=self._trace.about(lease_ttl=self.session.lease_ttl))
        self.request_end(CloseReason.LEASE_EXPIRED, "broker")

    def _lease_extended(self) -> None:
        about = self._trace.about(lease_ttl=self.session.lease_ttl)
        logger.warning("lease_extended", extra=about)

    def _release(self, client_id: int) -> None:
        self._client_ids.release(client_id, self.session.spec.session_id)


def _why(final: Session) -> str:
    """Why a session is final: as somebody asked, or the code of what it FAILED by."""
    failure = final.last_failure
    if final.close_reason is not None or failure is None:
        return final.close_reason or final.state.value
    return failure.code.reason
