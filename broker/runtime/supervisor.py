"""One task per session: it finds out what happens next, and gives that to the machine.

The task is strictly sequential. What a session needs is derived from its state
(``machine.needed``); the one thing that may interrupt it is the request to end.
So there are no stale inputs: a dial or a wait that was interrupted has ended,
socket included, before the next input is looked for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from broker.errors import GatewayConnectionError, GatewayError, Phase, StoreUnavailableError
from broker.events.log import EventLog
from broker.gateway.base import Link, Notice, Probe
from broker.gateway.endpoint import Endpoint
from broker.session import machine
from broker.session.client_ids import ClientIds
from broker.session.effects import Dial, EndLink, HoldLink, Rest
from broker.session.inputs import (
    AttemptFailed,
    EndRequested,
    Input,
    LinkEnded,
    LinkLost,
    LinkUp,
)
from broker.session.model import CloseReason, Failure, Session, SessionEvent

logger = logging.getLogger(__name__)


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
        self._opening = opening.events
        self._correlation_id = opening.events[0].correlation_id
        self._endpoint = endpoint
        self._client_ids = client_ids
        self._ports = ports
        self._recorded: asyncio.Future[Session] = loop.create_future()
        self._link: Link | None = None
        self._end: asyncio.Future[EndRequested] = loop.create_future()
        self._end_correlation_id: UUID | None = None

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
        self.heartbeat_latency = probe.latency
        return probe

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
                self._apply(await self._next_input())
            final = await self._recorded
            reason = final.close_reason or "FAILED"
            logger.info("disconnection", extra=self._about(reason=reason))
        finally:
            if self._link is not None:
                await self._link.close()
            self._release(self.session.client_id)
            if final is not None:
                self.ended.set_result(final)
            for future in (self.opened, self.settled, self.ended):
                future.cancel()  # nothing to those that are done

    async def _record_opening(self) -> None:
        """No dial before the record: what the database does not know of must not be on the wire."""
        self._submit(self._opening)
        try:
            async with asyncio.timeout(self._ports.open_timeout):
                self.opened.set_result(await asyncio.shield(self._recorded))
        except TimeoutError:
            # The record may be written yet, so the session goes on to its end, in order.
            for future in (self.opened, self.settled):
                future.set_exception(StoreUnavailableError("the open could not be recorded"))
                future.exception()  # whoever waited may be gone
            self.request_end(CloseReason.STORE_UNAVAILABLE, "broker")

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
                    await self._link.close()
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
            await asyncio.sleep(max(pause, 0.0))
        attempt = self.session.attempt + 1
        settings = self._endpoint.settings
        logger.info(
            "connection_attempt",
            extra=self._about(host=settings.host, port=settings.port, client_id=dial.client_id),
        )
        begin = asyncio.get_running_loop().time()
        try:
            self._link = await self._endpoint.connect(
                dial.client_id, timeout=self.session.spec.timeout, on_notice=self._noticed
            )
        except Exception as error:
            if not isinstance(error, GatewayError):
                logger.error("attempt_crashed", exc_info=error, extra=self._about())
                error = GatewayConnectionError(
                    "the broker erred while dialling; its log says more",
                    phase=Phase.TCP,
                    hint="Report it, with the log.",
                )
            failure = Failure.of(error, time=self._ports.now(), attempt=attempt)
            self._log_failure(failure)
            delay = settings.backoff.delay(attempt, self._ports.random())
            return AttemptFailed(failure, delay, self._next_client_id(failure))
        duration = asyncio.get_running_loop().time() - begin
        logger.info("connection_success", extra=self._about(duration=round(duration, 6)))
        return LinkUp(self._link.server_version, self._link.accounts)

    async def _hold(self) -> Input:
        assert self._link is not None, "CONNECTED owns a link (I2)"
        error = await self._link.wait_lost()
        self._link = None
        self.heartbeat_latency = None
        self._correlation_id = self._ports.new_id()
        reason = "HEARTBEAT_UNANSWERED" if error.phase is Phase.HEARTBEAT else "PEER_CLOSED"
        failure = Failure.of(error, time=self._ports.now(), attempt=0)
        self._log_failure(failure)
        return LinkLost(failure, reason)

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
        logger.info("notice", extra=self._about(tws_code=notice.code, text=notice.text))

    def _apply(self, item: Input) -> None:
        if isinstance(item, EndRequested) and self._end_correlation_id is not None:
            self._correlation_id = self._end_correlation_id
        step = machine.step(
            self.session,
            item,
            now=self._ports.now(),
            correlation_id=self._correlation_id,
        )
        before, self.session = self.session, step.session
        self._submit(step.events)
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

    def _submit(self, events: tuple[SessionEvent, ...]) -> None:
        self._recorded = self._ports.log.submit(events)

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
