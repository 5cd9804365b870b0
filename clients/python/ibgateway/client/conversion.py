"""From the messages of the API to frozen values; nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, TypeVar

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
from ibgateway.client.events import (
    Attempt,
    Bookmark,
    Change,
    Draining,
    Notice,
    Reset,
    SessionEvent,
    Snapshot,
    SnapshotComplete,
    Transition,
    Update,
    WatchItem,
)
from ibgateway.client.model import (
    BrokerAccess,
    BrokerInfo,
    BrokerLimits,
    CircuitBreaker,
    CircuitState,
    ClientIdHolder,
    Condition,
    ConditionStatus,
    ConnectionFailure,
    Drain,
    Gateway,
    GatewayKind,
    QuarantinedClientId,
    Role,
    SessionInfo,
    SessionState,
    Verification,
)

E = TypeVar("E", bound=StrEnum)


def _members(generated: Any, prefix: str, members: type[E]) -> Mapping[int, E]:
    """The member for each number of a generated enum."""
    return {
        number: members[name.removeprefix(prefix)]
        for name, number in generated.items()
        if name.removeprefix(prefix) in members.__members__
    }


_STATES: Final = _members(session_pb2.SessionState, "SESSION_STATE_", SessionState)
_STATUSES: Final = _members(session_pb2.ConditionStatus, "CONDITION_STATUS_", ConditionStatus)
_ROLES: Final = _members(broker_service_pb2.Role, "ROLE_", Role)
_KINDS: Final = _members(gateway_pb2.GatewayKind, "GATEWAY_KIND_", GatewayKind)
_CIRCUITS: Final = _members(gateway_pb2.CircuitBreakerState, "CIRCUIT_BREAKER_STATE_", CircuitState)


def time(message: Any, field: str) -> datetime | None:
    """A time, in UTC; None if it is absent."""
    if not message.HasField(field):
        return None
    value: Timestamp = getattr(message, field)
    return value.ToDatetime(tzinfo=UTC)


def seconds(message: Any, field: str) -> float | None:
    """A duration in seconds; None if it is absent."""
    if not message.HasField(field):
        return None
    value: Duration = getattr(message, field)
    return value.seconds + value.nanos / 1e9


def duration(value: float | None) -> Duration | None:
    """Seconds as a message; None if there are none."""
    if value is None:
        return None
    message = Duration()
    message.FromNanoseconds(round(value * 1e9))
    return message


def failure(message: error_pb2.ConnectionFailure) -> ConnectionFailure:
    """Why an attempt or a link failed."""
    return ConnectionFailure(
        reason=message.reason,
        retryable=message.retryable,
        phase=message.phase,
        tws_code=message.tws_code,
        message=message.message,
        hint=message.hint,
        attempt=message.attempt,
        time=time(message, "time"),
    )


def _failure(message: Any, field: str) -> ConnectionFailure | None:
    return failure(getattr(message, field)) if message.HasField(field) else None


def condition(message: session_pb2.Condition) -> Condition:
    """One fact beside the state."""
    return Condition(
        type=message.type,
        subject=message.subject,
        status=_STATUSES.get(message.status, ConditionStatus.UNKNOWN),
        reason=message.reason,
        message=message.message,
        tws_code=message.tws_code,
        transition_time=time(message, "transition_time"),
    )


def state(number: int) -> SessionState:
    """A state."""
    return _STATES.get(number, SessionState.UNKNOWN)


def state_name(value: SessionState) -> str:
    """A state as requests have it.

    Raises:
        ValueError: it is UNKNOWN.
    """
    if value is SessionState.UNKNOWN:
        raise ValueError("UNKNOWN is what a broker may say, not what it can be asked for")
    return f"SESSION_STATE_{value}"


def session(message: session_pb2.Session) -> SessionInfo:
    """A session."""
    return SessionInfo(
        session_id=message.session_id,
        gateway_id=message.gateway_id,
        client_id=message.client_id,
        client_id_changed=message.client_id_changed,
        readonly=message.readonly,
        state=state(message.state),
        conditions=tuple(map(condition, message.conditions)),
        generation=message.generation,
        sequence=message.sequence,
        revision=message.revision,
        owner=message.owner,
        labels=dict(message.labels),
        accounts=tuple(message.accounts),
        server_version=message.server_version,
        attempt=message.attempt,
        next_attempt_time=time(message, "next_attempt_time"),
        last_failure=_failure(message, "last_failure"),
        close_reason=message.close_reason,
        error_count=message.error_count,
        heartbeat_latency=seconds(message, "heartbeat_latency"),
        create_time=time(message, "create_time"),
        connect_time=time(message, "connect_time"),
        state_time=time(message, "state_time"),
        disconnect_time=time(message, "disconnect_time"),
        lease_expire_time=time(message, "lease_expire_time"),
        lease_ttl=seconds(message, "lease_ttl"),
    )


def verification(message: session_service_pb2.VerifySessionResponse) -> Verification:
    """A verdict."""
    return Verification(
        healthy=message.healthy,
        latency=seconds(message, "latency"),
        server_time=time(message, "server_time"),
        age=seconds(message, "age"),
        failure=_failure(message, "failure"),
    )


def _transition(message: session_event_pb2.Transition) -> Transition:
    return Transition(
        from_state=state(getattr(message, "from")),
        to_state=state(message.to),
        reason=message.reason,
    )


def _attempt(message: session_event_pb2.Attempt) -> Attempt:
    return Attempt(
        number=message.number,
        failure=failure(message.failure),
        next_attempt_time=time(message, "next_attempt_time"),
    )


def _notice(message: session_event_pb2.Notice) -> Notice:
    return Notice(
        reason=message.reason,
        subject=message.subject,
        message=message.message,
        hint=message.hint,
        since_time=time(message, "since_time"),
    )


def _update(message: session_event_pb2.Update) -> Update:
    return Update(fields=tuple(message.fields), actor=message.actor)


_CHANGES: Final[Mapping[str, Callable[[Any], Change]]] = {
    "transition": _transition,
    "attempt": _attempt,
    "condition": condition,
    "notice": _notice,
    "updated": _update,
}


def event(
    message: session_event_pb2.SessionEvent,
    token: str = "",  # nosec B107 # a place in a stream
) -> SessionEvent:
    """An entry of a session's log."""
    kind = message.WhichOneof("change")
    return SessionEvent(
        session_id=message.session_id,
        sequence=message.sequence,
        revision=message.revision,
        persisted=message.persisted,
        time=time(message, "time"),
        correlation_id=message.correlation_id,
        session=session(message.session),
        change=None if kind is None else _CHANGES[kind](getattr(message, kind)),
        token=token,
    )


def watch_item(message: session_service_pb2.WatchSessionsResponse) -> WatchItem | None:
    """An item of a watch; None for one that this library does not know."""
    token = message.resume_token
    match message.WhichOneof("message"):
        case "event":
            return event(message.event, token)
        case "snapshot":
            return Snapshot(session=session(message.snapshot))
        case "snapshot_complete":
            return SnapshotComplete(revision=message.revision, token=token)
        case "bookmark":
            return Bookmark(
                revision=message.revision,
                oldest_revision=message.bookmark.oldest_revision,
                token=token,
            )
        case "reset":
            return Reset(reason=message.reset.reason, oldest_revision=message.reset.oldest_revision)
        case "draining":
            return Draining(stop_time=time(message.draining, "stop_time"), token=token)
    return None


def gateway(message: gateway_pb2.Gateway) -> Gateway:
    """A configured endpoint."""
    breaker, drain = message.circuit_breaker, message.drain
    return Gateway(
        gateway_id=message.gateway_id,
        kind=_KINDS.get(message.kind, GatewayKind.UNKNOWN),
        host=message.host,
        port=message.port,
        readonly=message.readonly,
        reachable=message.reachable if message.HasField("reachable") else None,
        reachable_time=time(message, "reachable_time"),
        server_version=message.server_version,
        sessions_used=message.sessions_used,
        session_limit=message.session_limit,
        client_ids=tuple(
            ClientIdHolder(client_id=held.client_id, session_id=held.session_id, owner=held.owner)
            for held in message.client_ids
        ),
        last_failure=_failure(message, "last_failure"),
        quarantined_client_ids=tuple(
            QuarantinedClientId(
                client_id=held.client_id,
                reason=held.reason,
                quarantine_time=time(held, "quarantine_time"),
            )
            for held in message.quarantined_client_ids
        ),
        circuit_breaker=CircuitBreaker(
            state=_CIRCUITS.get(breaker.state, CircuitState.UNKNOWN),
            failures=breaker.failures,
            half_open_time=time(breaker, "half_open_time"),
        ),
        drain=(
            Drain(actor=drain.actor, reason=drain.reason, drain_time=time(drain, "drain_time"))
            if message.HasField("drain")
            else None
        ),
        next_attempt_time=time(message, "next_attempt_time"),
        maintenance_end_time=time(message, "maintenance_end_time"),
    )


def broker_info(message: broker_service_pb2.GetBrokerInfoResponse) -> BrokerInfo:
    """What a broker is and can do."""
    limits = message.limits
    return BrokerInfo(
        version=message.version,
        instance=message.instance,
        store_id=message.store_id,
        start_time=time(message, "start_time"),
        capabilities=frozenset(message.capabilities),
        limits=BrokerLimits(
            sessions=limits.sessions,
            watchers=limits.watchers,
            watch_lag=limits.watch_lag,
            lease_ttl=seconds(limits, "lease_ttl"),
            retention_age=seconds(limits, "retention_age"),
            retention_events=limits.retention_events,
        ),
        epoch=message.epoch,
        revision=message.revision,
        oldest_revision=message.oldest_revision,
        access=BrokerAccess(
            caller=message.access.caller,
            role=_ROLES.get(message.access.role),
            problem=message.access.problem,
        ),
    )
