"""All of a session's state, and every way in which it moves.

Rule 1: everything that changes a session is in this file. The shell brings inputs and
carries out what ``needed`` asks for; it never builds a Session itself.
Rule 2: no I/O, no clock, no randomness. Time, jitter and ids come in with the inputs.

An input that a state does not take raises IllegalInputError and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from broker.errors import ErrorCode, IllegalInputError
from broker.session.effects import Dial, Effect, EndLink, HoldLink, Rest
from broker.session.inputs import (
    AttemptFailed,
    BrokerRestarted,
    BrokerStopping,
    ConditionSeen,
    EndRequested,
    Input,
    LeaseChanged,
    LinkEnded,
    LinkLost,
    LinkUp,
    TaskCrashed,
    Told,
)
from broker.session.model import (
    Attempt,
    Change,
    ClientIdPolicy,
    CloseReason,
    Condition,
    ConditionChange,
    ConditionStatus,
    Failure,
    Session,
    SessionEvent,
    SessionNotice,
    SessionSpec,
    SessionState,
    Transition,
    Update,
)

DISCONNECTED: Final = SessionState.DISCONNECTED
CONNECTING: Final = SessionState.CONNECTING
CONNECTED: Final = SessionState.CONNECTED
RECONNECTING: Final = SessionState.RECONNECTING
FAILED: Final = SessionState.FAILED

TRANSITIONS: Final[Mapping[tuple[SessionState, SessionState], int]] = {
    (DISCONNECTED, CONNECTING): 1,
    (CONNECTING, CONNECTED): 2,
    (CONNECTING, FAILED): 3,
    (CONNECTING, DISCONNECTED): 4,
    (CONNECTED, RECONNECTING): 5,
    (CONNECTED, DISCONNECTED): 6,
    (RECONNECTING, CONNECTED): 7,
    (RECONNECTING, FAILED): 8,
    (RECONNECTING, DISCONNECTED): 9,
}
"""The nine transitions and their numbers; the database holds the same nine pairs."""

CLIENT_ID_DIALS: Final = 10
"""How many ids INCREMENT dials in all."""

CRASHES: Final = 3
"""How many crashes in a row of its own task end a session that has no link."""

CONDITIONS: Final = 64
"""How many conditions a session has at most: the peer must not decide how large it grows."""

FARMS: Final = CONDITIONS - 8
"""How many of them may be about a subject that the peer names: the others must find room."""

DATA_CONTINUOUS: Final = "DATA_CONTINUOUS"

DRAINED: Final = "GATEWAY_DRAINING"
"""The notice after which a session that has no link waits for an operator."""


@dataclass(frozen=True, slots=True)
class Step:
    """What an input did: the session after it, and what is to be recorded, in order."""

    session: Session
    events: tuple[SessionEvent, ...]


def open_session(
    spec: SessionSpec,
    client_id: int,
    *,
    lease_ttl: float | None = None,
    now: datetime,
    correlation_id: UUID,
) -> Step:
    """Begin a session: transition 1.

    Args:
        spec: what was asked for.
        client_id: the id that the broker holds for it.
        lease_ttl: seconds that its lease lasts; None for one without.
        now: the time, in UTC.
        correlation_id: that of the request.
    """
    blank = Session(
        spec=spec,
        state=DISCONNECTED,
        client_id=client_id,
        create_time=now,
        state_time=now,
        lease_ttl=lease_ttl,
    )
    recorder = _Recorder(blank, now, correlation_id)
    recorder.move(CONNECTING, "OPENED")
    return recorder.step()


def step(session: Session, item: Input, *, now: datetime, correlation_id: UUID) -> Step:
    """Give a session an input.

    Args:
        session: as it is.
        item: what happened.
        now: the time, in UTC.
        correlation_id: that of the request or the outage that caused it.

    Raises:
        IllegalInputError: the session does not take this input now; nothing changed.
    """
    if session.state.is_final or (
        session.is_closing and not isinstance(item, LinkEnded | BrokerRestarted)
    ):
        raise IllegalInputError(_refusal(session, item))
    recorder = _Recorder(session, now, correlation_id)
    match session.state, item:
        case ((SessionState.CONNECTING | SessionState.RECONNECTING), LinkUp()):
            recorder.link_up(item)
        case ((SessionState.CONNECTING | SessionState.RECONNECTING), AttemptFailed()):
            recorder.attempt_failed(item)
        case SessionState.CONNECTED, LinkLost():
            recorder.link_lost(item.failure, item.reason, item.delay)
        case _, TaskCrashed():
            recorder.task_crashed(item)
        case SessionState.CONNECTED, ConditionSeen():
            recorder.condition_seen(item.condition)
        case _, Told():
            recorder.told(item.notice)
        case _, EndRequested():
            recorder.end_requested(item.close_reason, item.actor)
        case _, LinkEnded() if session.is_closing:
            recorder.move(DISCONNECTED, session.close_reason or "")
        case _, LeaseChanged():
            recorder.lease_changed(item)
        case _, BrokerStopping():
            recorder.broker_stopping(item.failure)
        case _, BrokerRestarted():
            recorder.broker_restarted(item.failure)
        case _:
            raise IllegalInputError(_refusal(session, item))
    return recorder.step()


def needed(session: Session) -> Effect:
    """What a session needs of the shell now. Derived from the session alone, so that
    a session that was read from the database goes on as if it had never been away.
    """
    if session.state.is_final:
        return Rest()
    if session.is_closing:
        return EndLink()
    if session.state is CONNECTED:
        return HoldLink()
    return Dial(client_id=session.client_id, not_before=session.next_attempt_time)


def moves_client_id(session: Session, failure_code: ErrorCode) -> bool:
    """Whether a failed attempt asks for the next client id (I6: only while CONNECTING)."""
    return (
        session.state is CONNECTING
        and failure_code is ErrorCode.CLIENT_ID_IN_USE
        and session.spec.client_id_policy is ClientIdPolicy.INCREMENT
        and session.client_id_moves < CLIENT_ID_DIALS - 1
    )


def with_since(session: Session, failure: Failure) -> Failure:
    """The failure, with the time of the first of its kind in a row in the session's state."""
    last = session.last_failure
    if (
        last is not None
        and last.time > session.state_time
        and (last.code, last.tws_code) == (failure.code, failure.tws_code)
    ):
        return replace(failure, since=last.since)
    return replace(failure, since=failure.time)


def fold(session: Session | None, event: SessionEvent) -> Session:
    """The session after one more event of its log.

    Raises:
        IllegalInputError: the event does not follow the session's last one (I5).
    """
    expected = session.sequence + 1 if session is not None else 1
    if event.sequence != expected:
        raise IllegalInputError(f"event {event.sequence} of {event.session_id}, not {expected}")
    state = session.state if session is not None else DISCONNECTED
    if isinstance(event.change, Transition):
        pair = (event.change.source, event.change.target)
        if event.change.source is not state or TRANSITIONS.get(pair) != event.change.number:
            raise IllegalInputError(f"{event.change} does not leave {state}")
        state = event.change.target
    if event.session.state is not state:
        raise IllegalInputError(f"{event.session.state} after {event.change}")
    return replace(event.session, revision=event.revision)


def _refusal(session: Session, item: Input) -> str:
    closing = ", closing" if session.is_closing else ""
    return f"{type(item).__name__} in {session.state}{closing} (session {session.spec.session_id})"


class _Recorder:
    """Collects the events of one step; the session is always that after the last of them."""

    def __init__(self, session: Session, now: datetime, correlation_id: UUID) -> None:
        self.session = session
        self.now = now
        self.correlation_id = correlation_id
        self.events: list[SessionEvent] = []

    def step(self) -> Step:
        return Step(self.session, tuple(self.events))

    def record(self, change: Change) -> None:
        self.session = replace(self.session, sequence=self.session.sequence + 1)
        self.events.append(
            SessionEvent(
                session_id=self.session.spec.session_id,
                sequence=self.session.sequence,
                time=self.now,
                correlation_id=self.correlation_id,
                change=change,
                session=self.session,
            )
        )

    def move(self, target: SessionState, reason: str, due: datetime | None = None) -> None:
        source = self.session.state
        final = target.is_final
        self.session = replace(
            self.session,
            state=target,
            state_time=self.now,
            next_attempt_time=due,
            disconnect_time=self.now if final else None,
        )
        self.record(
            Transition(
                number=TRANSITIONS[source, target], source=source, target=target, reason=reason
            )
        )

    def link_up(self, item: LinkUp) -> None:
        self.session = replace(
            self.session,
            generation=self.session.generation + 1,
            attempt=0,
            server_version=item.server_version,
            accounts=item.accounts,
            connect_time=self.now,
            conditions=(),
        )
        for condition in item.conditions:
            self._put(condition)
        again = self.session.generation > 1
        if again:
            self._put(
                Condition(
                    type=DATA_CONTINUOUS,
                    subject="",
                    status=ConditionStatus.FALSE,
                    reason="NEW_GENERATION",
                    message="the link was made anew; subscriptions over the last one ended with it",
                    transition_time=self.now,
                )
            )
        self.move(CONNECTED, "HANDSHAKE_COMPLETED")
        for condition in self.session.conditions:
            if condition.status is ConditionStatus.FALSE:
                self.record(ConditionChange(condition))

    def attempt_failed(self, item: AttemptFailed) -> None:
        failure = with_since(self.session, item.failure)
        if item.next_client_id is not None:
            self._move_client_id(failure, item.next_client_id)
            return
        number = self.session.attempt + 1
        self._count(failure, attempt=number)
        budget = self._budget()
        if not failure.code.retryable and not self._waits_for_human(failure, item.auth_grace):
            self.move(FAILED, "NOT_RETRYABLE")
        elif budget is not None and number >= budget:
            self.move(FAILED, "ATTEMPTS_EXHAUSTED")
        elif self._client_ids_exhausted(failure):
            self.move(FAILED, "CLIENT_IDS_EXHAUSTED")
        else:
            self._retry(number, failure, item.delay)

    def link_lost(self, failure: Failure, reason: str, delay: float | None) -> None:
        self._count(failure, attempt=0)
        # What was known of the world beyond the link was known by the link.
        self.session = replace(self.session, conditions=())
        gives_up = self.session.spec.reconnect_max_attempts == 0
        due = None
        if delay is not None and not gives_up:
            due = self.now + timedelta(seconds=delay)
        self.move(RECONNECTING, reason, due)
        if gives_up:
            self.move(FAILED, "ATTEMPTS_EXHAUSTED")

    def task_crashed(self, item: TaskCrashed) -> None:
        if self.session.state is CONNECTED:
            self.link_lost(item.failure, "BROKER_ERROR", item.delay)
            return
        number = self.session.attempt + 1
        failure = with_since(self.session, item.failure)
        self._count(failure, attempt=number)
        if item.in_a_row >= CRASHES:
            self.move(FAILED, "BROKER_ERROR")
        else:
            self._retry(number, failure, item.delay)

    def told(self, notice: SessionNotice) -> None:
        if notice.reason == DRAINED and self.session.state is RECONNECTING:
            self.session = replace(self.session, next_attempt_time=None)
        self.record(notice)

    def condition_seen(self, condition: Condition) -> None:
        changed = self._put(condition)
        if changed is not None:
            self.record(ConditionChange(changed))

    def end_requested(self, reason: CloseReason, actor: str) -> None:
        self.session = replace(self.session, close_reason=reason)
        self.record(Update(fields=("close_reason",), actor=actor))

    def lease_changed(self, item: LeaseChanged) -> None:
        if item.lease_ttl != self.session.lease_ttl:
            self.session = replace(self.session, lease_ttl=item.lease_ttl)
            self.record(Update(fields=("lease_ttl",), actor=item.actor))

    def broker_stopping(self, failure: Failure) -> None:
        if self.session.state is CONNECTED:
            self.link_lost(failure, "BROKER_STOPPING", 0.0)
        elif self._is_only_its_callers():
            self.end_requested(CloseReason.BROKER_STOPPING, "broker")

    def broker_restarted(self, failure: Failure) -> None:
        """Go on where the broker before this one was stopped or died."""
        if self.session.is_closing:
            self.move(DISCONNECTED, self.session.close_reason or "")
        elif self.session.state is CONNECTED:
            self.link_lost(failure, "BROKER_RESTARTED", 0.0)
        elif self._is_only_its_callers():
            self.session = replace(self.session, close_reason=CloseReason.CALLER_GONE)
            self.move(DISCONNECTED, CloseReason.CALLER_GONE)

    def _is_only_its_callers(self) -> bool:
        return self.session.state is CONNECTING and not self.session.spec.outlives_caller

    def _move_client_id(self, failure: Failure, client_id: int) -> None:
        if not moves_client_id(self.session, failure.code):
            raise IllegalInputError(f"{self.session.spec.session_id} must keep its client id")
        self._count(failure, attempt=self.session.attempt)
        self.session = replace(
            self.session, client_id=client_id, client_id_moves=self.session.client_id_moves + 1
        )
        self._retry(self.session.client_id_moves, failure, 0.0)

    def _put(self, condition: Condition) -> Condition | None:
        """Make it a condition of the session; returns it, or None if it changes nothing.

        Its time is that of the last change of its status: another reason for the same status is
        no news of how long that has lasted.
        """
        key = (condition.type, condition.subject)
        known = {(item.type, item.subject): item for item in self.session.conditions}
        before = known.get(key)
        if before is not None and (before.status, before.reason) == (
            condition.status,
            condition.reason,
        ):
            return None
        if before is None and len(known) >= (FARMS if condition.subject else CONDITIONS):
            return None
        if before is not None and before.status is condition.status:
            condition = replace(condition, transition_time=before.transition_time)
        known[key] = condition
        self.session = replace(
            self.session, conditions=tuple(known[each] for each in sorted(known))
        )
        return condition

    def _budget(self) -> int | None:
        spec = self.session.spec
        return (
            spec.max_attempts if self.session.state is CONNECTING else spec.reconnect_max_attempts
        )

    def _waits_for_human(self, failure: Failure, grace: float) -> bool:
        """Whether it is worth dialling again after a failure that only a human can end."""
        if not failure.awaits_human:
            return False
        if self.session.state is RECONNECTING and self._budget() is None:
            return True
        since = failure.since or failure.time
        return (failure.time - since).total_seconds() < grace

    def _client_ids_exhausted(self, failure: Failure) -> bool:
        """INCREMENT has dialled all its ids, or there is no other to be had."""
        return (
            failure.code is ErrorCode.CLIENT_ID_IN_USE
            and self.session.state is CONNECTING
            and self.session.spec.client_id_policy is ClientIdPolicy.INCREMENT
        )

    def _count(self, failure: Failure, *, attempt: int) -> None:
        self.session = replace(
            self.session,
            attempt=attempt,
            last_failure=failure,
            error_count=self.session.error_count + 1,
        )

    def _retry(self, number: int, failure: Failure, delay: float | None) -> None:
        due = self.now + timedelta(seconds=delay) if delay is not None else None
        self.session = replace(self.session, next_attempt_time=due)
        self.record(Attempt(number=number, failure=failure, next_attempt_time=due))
