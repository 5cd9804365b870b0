"""What the broker tells about sessions and gateways, as frozen values.

Times are in UTC, durations in seconds. What is absent is None; what a newer broker says and
this library does not know is UNKNOWN.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


class SessionState(enum.StrEnum):
    """The one state of a session."""

    DISCONNECTED = "DISCONNECTED"
    """Ended as somebody asked; ``close_reason`` says who. Final."""
    CONNECTING = "CONNECTING"
    """Being opened for the first time."""
    CONNECTED = "CONNECTED"
    """The handshake is complete and the link answers."""
    RECONNECTING = "RECONNECTING"
    """Was connected, lost its link, keeps its client id."""
    FAILED = "FAILED"
    """Given up; ``last_failure`` says why. Final."""
    UNKNOWN = "UNKNOWN"
    """A state that this library does not know."""

    @property
    def is_final(self) -> bool:
        """Whether a session in this state never moves again."""
        return self in (SessionState.DISCONNECTED, SessionState.FAILED)


class ConditionStatus(enum.StrEnum):
    """What is known of a condition."""

    TRUE = "TRUE"
    """As it should be."""
    FALSE = "FALSE"
    """Not as it should be; reason and message say why."""
    UNKNOWN = "UNKNOWN"
    """Nothing was heard yet, or no longer."""


class ClientIdPolicy(enum.StrEnum):
    """What to do when the Gateway says that a client id is in use."""

    INCREMENT = "INCREMENT"
    """Try the next free id."""
    EXACT = "EXACT"
    """Never take another id: for sessions that own orders."""


class GatewayKind(enum.StrEnum):
    """The kind of account that a gateway was declared to serve."""

    UNKNOWN = "UNKNOWN"
    """Any account."""
    PAPER = "PAPER"
    """Paper accounts only."""
    LIVE = "LIVE"
    """No paper account."""


class Role(enum.StrEnum):
    """What a caller may do. Each may do what those before it may."""

    VIEWER = "VIEWER"
    """See everything, change nothing."""
    TRADER = "TRADER"
    """Open sessions, use and end those of its own."""
    OPERATOR = "OPERATOR"
    """Do so with everybody's, and with gateways."""


class CircuitState(enum.StrEnum):
    """Whether a gateway takes new sessions after repeated failures."""

    CLOSED = "CLOSED"
    """It takes them."""
    OPEN = "OPEN"
    """It refuses them; sessions that exist go on trying."""
    HALF_OPEN = "HALF_OPEN"
    """It takes one at a time, as a trial."""
    UNKNOWN = "UNKNOWN"
    """A state that this library does not know."""


class Health(enum.StrEnum):
    """What the standard health service says."""

    SERVING = "SERVING"
    NOT_SERVING = "NOT_SERVING"
    UNKNOWN = "UNKNOWN"
    SERVICE_UNKNOWN = "SERVICE_UNKNOWN"
    """The broker has no service of this name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionFailure:
    """Why one attempt, or one link, failed.

    Attributes:
        reason: one of the six codes, such as ``"IB_CONN_002"``.
        retryable: whether the same request may succeed later without a human's help.
        phase: where: ``"tcp"``, ``"handshake"``, ``"start_api"``, ``"connected"``,
            ``"heartbeat"`` or ``"admission"``.
        tws_code: the Gateway's own error number, 0 if it sent none.
        message: what happened.
        hint: what to do about it, and who must.
        attempt: the number of the dial, from 1; 0 if there was none.
        time: when it was known.
    """

    reason: str
    retryable: bool
    phase: str
    tws_code: int
    message: str
    hint: str
    attempt: int
    time: datetime | None

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}{f' Hint: {self.hint}' if self.hint else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One fact beside the state, such as ``UPSTREAM`` or ``DATA_CONTINUOUS``.

    Attributes:
        type: names the fact.
        subject: what it is about, such as a farm's name; empty if there is only one.
        status: what is known of it.
        reason: a constant such as ``"CONNECTIVITY_LOST"``.
        message: for people.
        tws_code: the Gateway's number that caused it, 0 if none did.
        transition_time: when the status last changed.
    """

    type: str
    subject: str
    status: ConditionStatus
    reason: str
    message: str
    tws_code: int
    transition_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """A session as it was at one moment.

    Attributes:
        session_id: given by the broker.
        gateway_id: the configured gateway.
        client_id: the effective one, which owns the session's orders.
        client_id_changed: whether INCREMENT gave another id than was asked for.
        readonly: whether it is without order entry.
        state: the one state.
        conditions: facts beside the state, ordered by type and subject.
        generation: grows by one with each completed handshake; 0 before the first.
        sequence: that of the session's last event, from 1.
        revision: that of the session's last persisted event; 0 if there is none yet.
        owner: who opened it.
        labels: as given when it was opened.
        accounts: the managed accounts; empty before the first handshake.
        server_version: the negotiated TWS server version; 0 before the first handshake.
        attempt: dials that failed since the session last worked for a minute.
        next_attempt_time: when the next dial is due; None if none is planned.
        last_failure: the last failure of an attempt or a link.
        close_reason: why it ends or ended; in a state that is not final it is closing.
        error_count: how many attempts and links have failed.
        heartbeat_latency: seconds that the last answered probe took.
        create_time: when the open was admitted.
        connect_time: when the last handshake was completed.
        state_time: when the state was entered.
        disconnect_time: when the session became final.
        lease_expire_time: when it ends unless its lease is renewed; None without a lease, and in
            events.
        lease_ttl: seconds that its lease lasts from each renewal; None without a lease.
    """

    session_id: str
    gateway_id: str
    client_id: int
    client_id_changed: bool
    readonly: bool
    state: SessionState
    conditions: tuple[Condition, ...]
    generation: int
    sequence: int
    revision: int
    owner: str
    labels: Mapping[str, str]
    accounts: tuple[str, ...]
    server_version: int
    attempt: int
    next_attempt_time: datetime | None
    last_failure: ConnectionFailure | None
    close_reason: str
    error_count: int
    heartbeat_latency: float | None
    create_time: datetime | None
    connect_time: datetime | None
    state_time: datetime | None
    disconnect_time: datetime | None
    lease_expire_time: datetime | None
    lease_ttl: float | None

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.state.is_final

    @property
    def is_closing(self) -> bool:
        """Whether its end was asked for and its link has not ended yet."""
        return bool(self.close_reason) and not self.is_final

    def condition(self, type: str, subject: str = "") -> Condition | None:  # noqa: A002 - the proto's name
        """One of its conditions; None if nothing was heard of it."""
        for condition in self.conditions:
            if condition.type == type and condition.subject == subject:
                return condition
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a probe of a session's link has shown.

    Attributes:
        healthy: whether the Gateway answered.
        latency: seconds from request to answer.
        server_time: the Gateway's clock, to the second.
        age: seconds since the answer: the Gateway ignores probes less than 1.1 s apart, so that
            the last answer is given again within that time.
        failure: why it is not healthy; None if it is, or if the session was closed as asked.
    """

    healthy: bool
    latency: float | None
    server_time: datetime | None
    age: float | None
    failure: ConnectionFailure | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientIdHolder:
    """A client id in use, and by whom."""

    client_id: int
    session_id: str
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedClientId:
    """A client id that the Gateway may still hold for a connection that did not end cleanly."""

    client_id: int
    reason: str
    quarantine_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitBreaker:
    """Refuses new sessions of one gateway after repeated failures.

    Attributes:
        state: as it is now.
        failures: how many in a row.
        half_open_time: when an open circuit lets a trial through; None unless it is open.
    """

    state: CircuitState
    failures: int
    half_open_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """An operator takes a gateway out of use: who, why, and since when."""

    actor: str
    reason: str
    drain_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """A configured endpoint.

    Attributes:
        gateway_id: its name.
        kind: what the configuration declares.
        host: where it listens.
        port: where it listens.
        readonly: whether all of its sessions are read-only.
        reachable: whether the last attempt read a version reply; None before any attempt ended.
        reachable_time: when that was learned.
        server_version: that of the last version reply; 0 before.
        sessions_used: sessions that are not final.
        session_limit: how many there may be.
        client_ids: those held, ordered by id.
        last_failure: that of the last attempt that failed.
        quarantined_client_ids: those that may still be held at the Gateway.
        circuit_breaker: refuses new sessions after repeated failures.
        drain: None unless an operator drains the gateway.
        next_attempt_time: when an unreachable gateway is tried again.
        maintenance_end_time: the end of the maintenance window that it is in; None outside one.
    """

    gateway_id: str
    kind: GatewayKind
    host: str
    port: int
    readonly: bool
    reachable: bool | None
    reachable_time: datetime | None
    server_version: int
    sessions_used: int
    session_limit: int
    client_ids: tuple[ClientIdHolder, ...]
    last_failure: ConnectionFailure | None
    quarantined_client_ids: tuple[QuarantinedClientId, ...]
    circuit_breaker: CircuitBreaker
    drain: Drain | None
    next_attempt_time: datetime | None
    maintenance_end_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerLimits:
    """The bounds that requests meet.

    Attributes:
        sessions: how many may be open at once, over all gateways.
        watchers: how many streams may watch at once.
        watch_lag: by how many events a watcher's lag may grow before it is cut.
        lease_ttl: the longest lease in seconds; longer ones are shortened to it.
        retention_age: seconds after which an event is deleted.
        retention_events: how many events are kept at most.
    """

    sessions: int
    watchers: int
    watch_lag: int
    lease_ttl: float | None
    retention_age: float | None
    retention_events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAccess:
    """Who the broker takes you for.

    Attributes:
        caller: the name under which you open sessions; empty if the broker does not ask for one.
        role: what you may do; None if the broker does not ask, and lets everybody do everything.
        problem: why a change of the broker's access file or certificate is not in force; empty if
            all are.
    """

    caller: str
    role: Role | None
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerInfo:
    """What a broker is and can do.

    Attributes:
        version: that of the server.
        instance: new with each start.
        store_id: the event log that resume tokens belong to.
        start_time: when this instance began to serve.
        capabilities: what it can do, such as ``"watch.resume"``.
        limits: the bounds in force.
        epoch: grows by one with each broker that takes over the database.
        revision: that of the newest persisted event.
        oldest_revision: the oldest event that a resume token can still continue from.
        access: who the broker takes you for.
    """

    version: str
    instance: str
    store_id: str
    start_time: datetime | None
    capabilities: frozenset[str]
    limits: BrokerLimits
    epoch: int
    revision: int
    oldest_revision: int
    access: BrokerAccess
