"""One session's way to its Gateway: dialling, the link while it lives, and how it ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from broker.errors import ErrorCode, GatewayError, Phase
from broker.gateway import faults
from broker.gateway.base import Link, Notice, Probe
from broker.gateway.conditions import News, conditions_of
from broker.gateway.endpoint import Endpoint
from broker.gateway.fault_table import Symptom
from broker.gateway.faults import Target
from broker.gateway.heartbeat import watch_over
from broker.runtime.ladder import Ladder
from broker.runtime.observer import Observer
from broker.runtime.trace import Trace
from broker.session import machine
from broker.session.client_ids import ClientIds, Quarantined
from broker.session.effects import Dial
from broker.session.inputs import AttemptFailed, Input, LinkLost, LinkUp
from broker.session.model import Condition, Failure, Session

logger = logging.getLogger(__name__)


class Line:
    """Owns a session's link; every method but ``probe`` is for the session's own task.

    Args:
        endpoint: the session's gateway.
        client_ids: the gateway's ids.
        trace: for log lines.
        now: the time, in UTC.
        random: a number in [0, 1).
        seen: called with each condition that the Gateway tells over the live link.
        observer: is told of dials, answers and losses.

    Attributes:
        heartbeat_latency: seconds, of the last answered probe; None before the first.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        client_ids: ClientIds,
        trace: Trace,
        *,
        now: Callable[[], datetime],
        random: Callable[[], float],
        seen: Callable[[Condition], None],
        observer: Observer,
    ) -> None:
        self.heartbeat_latency: float | None = None
        self._endpoint = endpoint
        self._client_ids = client_ids
        self._trace = trace
        self._now = now
        self._seen = seen
        self._observer = observer
        self._ladder = Ladder(endpoint, random)
        self._link: Link | None = None
        self._last_answer: Probe | None = None
        self._told: dict[tuple[str, str], Condition] = {}
        self._news = News()
        # How the last link ended, if the Gateway may not know that it has.
        self._unclean: str | None = None

    async def dial(self, session: Session, dial: Dial) -> Input:
        """Dial once, when it is time.

        Cancellation ends the socket before it returns.
        """
        if dial.not_before is not None:
            pause = (dial.not_before - self._now()).total_seconds()
            last = session.last_failure
            await self._endpoint.wait(
                max(pause, 0.0),
                unanswered_at=last.time if last is not None and last.blames_gateway else None,
            )
        loop = asyncio.get_running_loop()
        begin = loop.time()

        def dialling() -> None:
            nonlocal begin
            begin = loop.time()
            self._dialling(session, dial)

        self._told.clear()
        self._news = News()
        try:
            link = await self._endpoint.connect(
                dial.client_id,
                timeout=session.spec.timeout,
                on_notice=self._noticed,
                on_dial=dialling,
                held_back=session.state is machine.RECONNECTING,
            )
        except GatewayError as error:
            return self._attempt_failed(session, error)
        self._link = link
        self._ladder.link_up()
        self._unclean = None
        self._client_ids.lift(dial.client_id)
        duration = round(loop.time() - begin, 6)
        logger.info("connection_success", extra=self._trace.about(duration=duration))
        return LinkUp(link.server_version, link.accounts, tuple(self._told.values()))

    async def hold(self, session: Session) -> Input:
        """Watch over the link until it is lost. Cancellation is safe."""
        assert self._link is not None, "CONNECTED owns a link (I2)"
        settings = self._endpoint.settings
        error = await watch_over(
            self._link,
            interval=settings.heartbeat_interval,
            timeout=settings.heartbeat_timeout,
            answered=self._answered,
        )
        self._observer.lost(session.spec.gateway_id, error)
        hung = error.phase is Phase.HEARTBEAT
        self._lost(session, "HEARTBEAT_UNANSWERED" if hung else "LINK_LOST")
        failure = self._failure(session, error, attempt=0)
        self._log_failure(session, failure)
        return LinkLost(
            failure,
            "HEARTBEAT_UNANSWERED" if hung else "PEER_CLOSED",
            self._ladder.link_lost(),
        )

    async def end(self) -> None:
        """Close the link with FIN, if there is one, and return when its socket has ended."""
        if self._link is not None:
            link, self._link = self._link, None
            if not await link.close():
                self._unclean = "CLOSE_UNANSWERED"

    async def abandon(self, session: Session) -> None:
        """End the link because the session's task has failed."""
        if self._link is not None:
            await self._link.close()
            self._lost(session, "BROKER_ERROR")

    async def probe(self) -> Probe | None:
        """Ask the Gateway for its time; None if there is no link to ask over.

        Raises:
            GatewayError: no answer. The link is lost by that.

        Cancellation is safe.
        """
        if self._link is None:
            return None
        probe = await self._link.probe(self._endpoint.settings.heartbeat_timeout)
        self._answered(probe)
        return probe

    def inherit(self) -> None:
        """The last link was that of a broker before this one, and ended as that did."""
        self._unclean = "BROKER_RESTARTED"

    def give_up(self, session: Session) -> None:
        """The session has ended: set its id aside if the Gateway may still hold it."""
        if self._unclean is not None:
            item = Quarantined(session.client_id, self._unclean, self._now())
            self._client_ids.quarantine(item)

    def own_failure(self, session: Session, symptom: Symptom, *, attempt: int) -> Failure:
        """A failure that is the broker's, not the Gateway's."""
        error = faults.failure(symptom, _target(session))
        return Failure.of(error, time=self._now(), attempt=attempt)

    def pause_after_crash(self, in_a_row: int) -> float:
        """Seconds until a session goes on whose own task has failed so often."""
        return self._ladder.crashed(in_a_row)

    def _dialling(self, session: Session, dial: Dial) -> None:
        """It is the session's turn: the dial begins now."""
        settings = self._endpoint.settings
        logger.info(
            "connection_attempt",
            extra=self._trace.about(
                host=settings.host, port=settings.port, client_id=dial.client_id
            ),
        )
        if session.last_failure is not None:
            self._observer.retried(settings.gateway_id, session.last_failure.code)

    def _attempt_failed(self, session: Session, error: GatewayError) -> Input:
        if error.code is ErrorCode.CLIENT_ID_IN_USE and session.state is machine.RECONNECTING:
            error = self._own_ghost(session)
        failure = self._failure(session, error, attempt=session.attempt + 1)
        next_client_id = self._next_client_id(session, failure)
        if next_client_id is None:
            self._log_failure(session, failure)
        delay = 0.0 if next_client_id is not None else self._ladder.failed(session, failure)
        grace = self._endpoint.settings.auth_grace
        return AttemptFailed(failure, delay, next_client_id, auth_grace=grace)

    def _own_ghost(self, session: Session) -> GatewayError:
        """Nobody else can be meant to have the id: it was ours until the link was lost."""
        since = session.state_time
        return faults.failure(
            Symptom.OWN_GHOST,
            _target(session),
            since=f"{since:%H:%M:%S}",
            seconds=round((self._now() - since).total_seconds()),
        )

    def _failure(self, session: Session, error: GatewayError, *, attempt: int) -> Failure:
        """The failure, with what else the one who reads it should know."""
        failure = Failure.of(error, time=self._now(), attempt=attempt)
        hint = failure.hint
        end = self._endpoint.maintenance_end()
        if end is not None:
            hint = f"Expected: the Gateway is in maintenance until {end:%a %H:%M} UTC. {hint}"
        drain = self._endpoint.drain
        if drain is not None and session.state is not machine.CONNECTING:
            why = f" ({drain.reason})" if drain.reason else ""
            hint = f"{drain.actor} drains the gateway{why}: an operator must resume it."
        return replace(failure, hint=hint[: faults.TEXT_LIMIT])

    def _log_failure(self, session: Session, failure: Failure) -> None:
        last = session.last_failure
        # What to do is said once: the same may fail for a weekend.
        hint = {} if last is not None and last.hint == failure.hint else {"hint": failure.hint}
        logger.error(
            "connection_failure",
            extra=self._trace.about(
                error_type=failure.code.error_type,
                error_message=failure.message,
                code=failure.code.reason,
                phase=failure.phase.value,
                **hint,
            ),
        )

    def _next_client_id(self, session: Session, failure: Failure) -> int | None:
        """Hold the next id beside the one that is in use at the Gateway, if that is the policy."""
        if not machine.moves_client_id(session, failure.code):
            return None
        logger.warning(
            "client_id_conflict",
            extra=self._trace.about(
                client_id=session.client_id, retry_count=session.client_id_moves
            ),
        )
        client_id = self._client_ids.after(session.client_id)
        if client_id is not None:
            self._client_ids.take(client_id, session.spec.session_id)
        return client_id

    def _lost(self, session: Session, how: str) -> None:
        self._link = None
        self.heartbeat_latency = None
        self._unclean = how
        self._trace.begin_anew(session)

    def _answered(self, probe: Probe) -> None:
        self.heartbeat_latency = probe.latency
        if probe is not self._last_answer:  # a link gives its last one again while that is young
            self._last_answer = probe
            self._observer.answered(self._endpoint.settings.gateway_id, probe.latency)

    def _noticed(self, notice: Notice) -> None:
        """Take a notice of the link; those of the handshake count once it is complete."""
        conditions = conditions_of(notice, self._now())
        if self._news.has(notice, conditions, live=self._link is not None):
            logger.info("notice", extra=self._trace.about(tws_code=notice.code, text=notice.text))
        for condition in conditions:
            if self._link is not None:
                self._seen(condition)
                continue
            key = (condition.type, condition.subject)
            if key in self._told or not condition.subject or len(self._told) < machine.FARMS:
                self._told[key] = condition


def _target(session: Session) -> Target:
    return Target(session.spec.host, session.spec.port, session.client_id)
