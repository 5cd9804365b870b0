"""Between the domain and protobuf, both ways, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from ibgateway.broker.v1 import (
    broker_service_pb2,
    error_pb2,
    gateway_pb2,
    session_event_pb2,
    session_pb2,
    session_service_pb2,
)

from broker.access.identity import Identity, Role
from broker.events.archive import Entry
from broker.events.token import ResumeToken
from broker.gateway.base import GatewayKind
from broker.gateway.breaker import BreakerState
from broker.gateway.endpoint import Endpoint
from broker.runtime.supervisor import Vitals
from broker.session.client_ids import Quarantined
from broker.session.model import (
    Attempt,
    Condition,
    ConditionChange,
    ConditionStatus,
    Failure,
    Session,
    SessionEvent,
    SessionNotice,
    SessionState,
    Transition,
    Update,
)

STATES: Final[Mapping[SessionState, session_pb2.SessionState]] = {
    SessionState.DISCONNECTED: session_pb2.SESSION_STATE_DISCONNECTED,
    SessionState.CONNECTING: session_pb2.SESSION_STATE_CONNECTING,
    SessionState.CONNECTED: session_pb2.SESSION_STATE_CONNECTED,
    SessionState.RECONNECTING: session_pb2.SESSION_STATE_RECONNECTING,
    SessionState.FAILED: session_pb2.SESSION_STATE_FAILED,
}
_ROLES: Final[Mapping[Role, broker_service_pb2.Role]] = {
    Role.VIEWER: broker_service_pb2.ROLE_VIEWER,
    Role.TRADER: broker_service_pb2.ROLE_TRADER,
    Role.OPERATOR: broker_service_pb2.ROLE_OPERATOR,
}
_CONDITION_STATUS: Final[Mapping[ConditionStatus, session_pb2.ConditionStatus]] = {
    ConditionStatus.TRUE: session_pb2.CONDITION_STATUS_TRUE,
    ConditionStatus.FALSE: session_pb2.CONDITION_STATUS_FALSE,
    ConditionStatus.UNKNOWN: session_pb2.CONDITION_STATUS_UNKNOWN,
}
_BREAKERS: Final[Mapping[BreakerState, gateway_pb2.CircuitBreakerState]] = {
    BreakerState.CLOSED: gateway_pb2.CIRCUIT_BREAKER_STATE_CLOSED,
    BreakerState.OPEN: gateway_pb2.CIRCUIT_BREAKER_STATE_OPEN,
    BreakerState.HALF_OPEN: gateway_pb2.CIRCUIT_BREAKER_STATE_HALF_OPEN,
}
_KINDS: Final[Mapping[GatewayKind, gateway_pb2.GatewayKind]] = {
    GatewayKind.UNKNOWN: gateway_pb2.GATEWAY_KIND_UNKNOWN,
    GatewayKind.PAPER: gateway_pb2.GATEWAY_KIND_PAPER,
    GatewayKind.LIVE: gateway_pb2.GATEWAY_KIND_LIVE,
}


def timestamp(time: datetime | None) -> Timestamp | None:
    """None stays absent."""
    if time is None:
        return None
    message = Timestamp()
    message.FromDatetime(time)
    return message


def duration(seconds: float | None) -> Duration | None:
    """None stays absent."""
    if seconds is None:
        return None
    message = Duration()
    message.FromTimedelta(timedelta(seconds=seconds))
    return message


def failure(value: Failure | None) -> error_pb2.ConnectionFailure | None:
    """None stays absent."""
    if value is None:
        return None
    return error_pb2.ConnectionFailure(
        code=error_pb2.ErrorCode.Name(value.code),
        reason=value.code.reason,
        retryable=value.code.retryable,
        phase=value.phase.value,
        tws_code=value.tws_code,
        message=value.message,
        hint=value.hint,
        attempt=value.attempt,
        time=timestamp(value.time),
    )


def session(value: Session, vitals: Vitals | None = None) -> session_pb2.Session:
    """A session as callers see it."""
    spec = value.spec
    return session_pb2.Session(
        session_id=str(spec.session_id),
        gateway_id=spec.gateway_id,
        client_id=value.client_id,
        client_id_changed=value.client_id_changed,
        readonly=spec.readonly,
        state=STATES[value.state],
        conditions=[condition(item) for item in value.conditions],
        generation=value.generation,
        sequence=value.sequence,
        revision=value.revision,
        owner=spec.owner,
        labels=spec.labels,
        accounts=value.accounts,
        server_version=value.server_version or 0,
        attempt=value.attempt,
        next_attempt_time=timestamp(value.next_attempt_time),
        last_failure=failure(value.last_failure),
        close_reason=value.close_reason or "",
        error_count=value.error_count,
        heartbeat_latency=duration(vitals.heartbeat_latency if vitals else None),
        create_time=timestamp(value.create_time),
        connect_time=timestamp(value.connect_time),
        state_time=timestamp(value.state_time),
        disconnect_time=timestamp(value.disconnect_time),
        lease_expire_time=timestamp(vitals.lease_expire_time if vitals else None),
        lease_ttl=duration(value.lease_ttl),
    )


class Sessions:
    """Sessions as callers see them, each made once for as long as it stays as it is.

    Making one costs as much as a quarter of the rpc that asks for it; most ask for one that
    has not changed. Each is in the answer of GetSession: to put it there costs a fiftieth.

    Args:
        limit: how many are kept; beyond it the oldest are made anew.
    """

    def __init__(self, limit: int = 1024) -> None:
        self._limit = limit
        self._made: dict[UUID, tuple[Session, Vitals, session_service_pb2.GetSessionResponse]] = {}

    def encode(self, value: Session, vitals: Vitals) -> session_service_pb2.GetSessionResponse:
        """As ``session``, in its answer; the message is shared and must not be changed."""
        session_id = value.spec.session_id
        known = self._made.get(session_id)
        if known is not None and known[0] is value and known[1] == vitals:
            return known[2]
        message = session_service_pb2.GetSessionResponse(session=session(value, vitals))
        self._made.pop(session_id, None)
        self._made[session_id] = value, vitals, message
        if len(self._made) > self._limit:
            del self._made[next(iter(self._made))]
        return message


def condition(value: Condition) -> session_pb2.Condition:
    """A condition as callers see it."""
    return session_pb2.Condition(
        type=value.type,
        subject=value.subject,
        status=_CONDITION_STATUS[value.status],
        reason=value.reason,
        message=value.message,
        tws_code=value.tws_code,
        transition_time=timestamp(value.transition_time),
    )


def event(value: SessionEvent) -> session_event_pb2.SessionEvent:
    """An event as watchers see it."""
    message = session_event_pb2.SessionEvent(
        revision=value.revision,
        sequence=value.sequence,
        session_id=str(value.session_id),
        time=timestamp(value.time),
        correlation_id=str(value.correlation_id),
        persisted=value.revision > 0,
        session=session(value.session),
    )
    match value.change:
        case Transition() as change:
            message.transition.CopyFrom(
                session_event_pb2.Transition(
                    to=STATES[change.target],
                    reason=change.reason,
                    **{"from": STATES[change.source]},  # a keyword of Python
                )
            )
        case Attempt() as change:
            message.attempt.CopyFrom(
                session_event_pb2.Attempt(
                    number=change.number,
                    failure=failure(change.failure),
                    next_attempt_time=timestamp(change.next_attempt_time),
                )
            )
        case ConditionChange() as change:
            message.condition.CopyFrom(condition(change.condition))
        case Update() as change:
            message.updated.CopyFrom(
                session_event_pb2.Update(fields=change.fields, actor=change.actor)
            )
        case SessionNotice() as change:
            message.notice.CopyFrom(
                session_event_pb2.Notice(
                    reason=change.reason,
                    subject=change.subject,
                    message=change.message,
                    hint=change.hint,
                    since_time=timestamp(change.since),
                )
            )
    return message


def watched(entry: Entry, store_id: UUID, revision: int) -> bytes:
    """An event as a message of the stream, serialized: made once, and shared by all watchers.

    Args:
        entry: the event.
        store_id: names the log.
        revision: up to which the watcher has all; for an event that is not kept yet this may
            differ from watcher to watcher.
    """
    if entry.encoded is None or entry.encoded_for != revision:
        message = session_service_pb2.WatchSessionsResponse(
            resume_token=ResumeToken(store_id, revision).encode(),
            revision=revision,
            event=event(entry.event),
        )
        entry.encoded, entry.encoded_for = message.SerializeToString(), revision
    return entry.encoded


def gateway(
    endpoint: Endpoint,
    holders: Mapping[int, Session],
    quarantined: Mapping[int, Quarantined],
    now: datetime,
) -> gateway_pb2.Gateway:
    """A gateway as callers see it."""
    settings, breaker, drain = endpoint.settings, endpoint.breaker, endpoint.drain
    message = gateway_pb2.Gateway(
        gateway_id=settings.gateway_id,
        kind=_KINDS[settings.kind],
        host=settings.host,
        port=settings.port,
        readonly=settings.readonly,
        reachable_time=timestamp(endpoint.reachable_time),
        server_version=endpoint.server_version or 0,
        sessions_used=len({holder.spec.session_id for holder in holders.values()}),
        session_limit=settings.session_limit,
        client_ids=[
            gateway_pb2.ClientIdHolder(
                client_id=client_id,
                session_id=str(holder.spec.session_id),
                owner=holder.spec.owner,
            )
            for client_id, holder in sorted(holders.items())
        ],
        last_failure=failure(endpoint.last_failure),
        quarantined_client_ids=[
            gateway_pb2.QuarantinedClientId(
                client_id=client_id, reason=item.reason, quarantine_time=timestamp(item.time)
            )
            for client_id, item in sorted(quarantined.items())
        ],
        circuit_breaker=gateway_pb2.CircuitBreaker(
            state=_BREAKERS[breaker.state],
            failures=breaker.failures,
            half_open_time=_in(endpoint.half_open_in, now),
        ),
        drain=gateway_pb2.Drain(
            actor=drain.actor, reason=drain.reason, drain_time=timestamp(drain.time)
        )
        if drain is not None
        else None,
        next_attempt_time=_in(endpoint.retry_in if holders else endpoint.check_in, now),
        maintenance_end_time=timestamp(endpoint.maintenance_end()),
    )
    if endpoint.reachable is not None:
        message.reachable = endpoint.reachable
    return message


def access(identity: Identity | None, problem: str) -> broker_service_pb2.BrokerAccess:
    """Who the caller is; None if it need not say so."""
    if identity is None:
        return broker_service_pb2.BrokerAccess(problem=problem)
    return broker_service_pb2.BrokerAccess(
        caller=identity.name, role=_ROLES[identity.role], problem=problem
    )


def limits(
    *,
    sessions: int,
    watchers: int,
    watch_lag: int,
    lease_ttl: float,
    retention_age: float,
    retention_events: int,
) -> broker_service_pb2.BrokerLimits:
    """The bounds in force; times are in seconds."""
    return broker_service_pb2.BrokerLimits(
        sessions=sessions,
        watchers=watchers,
        watch_lag=watch_lag,
        lease_ttl=duration(lease_ttl),
        retention_age=duration(retention_age),
        retention_events=retention_events,
    )


def _in(seconds: float | None, now: datetime) -> Timestamp | None:
    return timestamp(now + timedelta(seconds=seconds)) if seconds is not None else None
