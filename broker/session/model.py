"""The nouns of a session: frozen values, no behaviour that needs a clock or a socket."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from broker.errors import GATEWAY_ERRORS, ErrorCode, GatewayError, Phase

DISCLAIMER: Final = 10141
"""The paper-trading disclaimer was not accepted yet: common right after a Gateway's restart."""


class SessionState(enum.StrEnum):
    """The one state of a session."""

    DISCONNECTED = "DISCONNECTED"
    CONNECTING = "CONNECTING"
    CONNECTED = "CONNECTED"
    RECONNECTING = "RECONNECTING"
    FAILED = "FAILED"

    @property
    def is_final(self) -> bool:
        """Whether a session in this state never moves again."""
        return self in (SessionState.DISCONNECTED, SessionState.FAILED)


class ClientIdPolicy(enum.StrEnum):
    """What to do when the Gateway says that a client id is in use."""

    INCREMENT = "INCREMENT"
    EXACT = "EXACT"


class ConditionStatus(enum.StrEnum):
    """What is known of a condition."""

    TRUE = "TRUE"
    FALSE = "FALSE"
    UNKNOWN = "UNKNOWN"


class CloseReason(enum.StrEnum):
    """Why a session ends other than by failing."""

    CLOSE_REQUESTED = "CLOSE_REQUESTED"
    CALLER_GONE = "CALLER_GONE"
    LEASE_EXPIRED = "LEASE_EXPIRED"
    GATEWAY_DRAINED = "GATEWAY_DRAINED"
    GATEWAY_REMOVED = "GATEWAY_REMOVED"
    BROKER_STOPPING = "BROKER_STOPPING"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt or a link failed.

    ``since`` is when the first of the consecutive failures of this kind happened; None if
    that is not known.
    """

    code: ErrorCode
    phase: Phase
    message: str
    hint: str
    time: datetime
    tws_code: int = 0
    attempt: int = 0
    since: datetime | None = None

    @property
    def blames_gateway(self) -> bool:
        """Whether the Gateway gave no version reply: everybody's failure, not this session's."""
        return self.phase in (Phase.TCP, Phase.HANDSHAKE)

    @property
    def awaits_human(self) -> bool:
        """Whether it goes away when somebody accepts a disclaimer at the Gateway (10141)."""
        return self.tws_code == DISCLAIMER

    @classmethod
    def of(cls, error: GatewayError, *, time: datetime, attempt: int) -> Failure:
        """The failure that an error of the Gateway side stands for."""
        return cls(
            code=error.code,
            phase=error.phase,
            message=error.message,
            hint=error.hint,
            time=time,
            tws_code=error.tws_code,
            attempt=attempt,
        )

    def as_error(self, metadata: Mapping[str, str]) -> GatewayError:
        """The error that ends a request because of this failure."""
        return GATEWAY_ERRORS[self.code](
            self.message,
            phase=self.phase,
            hint=self.hint,
            tws_code=self.tws_code,
            attempt=self.attempt,
            time=self.time,
            metadata=metadata,
        )


@dataclass(frozen=True, slots=True)
class Condition:
    """One fact beside the state; ``type`` and ``subject`` identify it within a session."""

    type: str
    subject: str
    status: ConditionStatus
    reason: str
    message: str
    transition_time: datetime
    tws_code: int = 0


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """What was asked for; it never changes.

    ``timeout`` is in seconds and bounds one attempt. ``requested_client_id`` is None
    if the broker chose. ``reconnect_max_attempts`` is how often a lost link is dialled
    again before the session has FAILED; None is without end. ``request_id`` makes the open
    repeatable; ``request_hash`` is that of the parameters that a repeat must have, too.
    """

    session_id: UUID
    gateway_id: str
    host: str
    port: int
    owner: str
    requested_client_id: int | None
    client_id_policy: ClientIdPolicy
    readonly: bool
    timeout: float
    max_attempts: int
    reconnect_max_attempts: int | None
    return_immediately: bool
    labels: Mapping[str, str] = field(default_factory=dict)
    request_id: UUID | None = None
    request_hash: str | None = None

    @property
    def outlives_caller(self) -> bool:
        """Whether the open goes on when a broker that stops can no longer answer its caller:
        who opened it can find out what came of it.
        """
        return self.return_immediately or self.request_id is not None


@dataclass(frozen=True, slots=True)
class Session:
    """A session as it is after its last event: the fold of its log, and a row of the database.

    ``sequence`` is that of the last event; ``revision`` is its place in the log, 0 until
    it is persisted. ``attempt`` counts the dials since the session last worked,
    ``error_count`` all that ever failed, ``client_id_moves`` the ids that INCREMENT left.
    ``lease_ttl`` is how many seconds a lease lasts; None if the session has none. When it runs
    out is not part of the record: a renewal is no event.
    """

    spec: SessionSpec
    state: SessionState
    client_id: int
    create_time: datetime
    state_time: datetime
    sequence: int = 0
    revision: int = 0
    generation: int = 0
    attempt: int = 0
    client_id_moves: int = 0
    error_count: int = 0
    server_version: int | None = None
    accounts: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    next_attempt_time: datetime | None = None
    last_failure: Failure | None = None
    close_reason: str | None = None
    connect_time: datetime | None = None
    disconnect_time: datetime | None = None
    lease_ttl: float | None = None

    @property
    def client_id_changed(self) -> bool:
        """Whether INCREMENT gave another id than was asked for."""
        requested = self.spec.requested_client_id
        return requested is not None and requested != self.client_id

    @property
    def is_closing(self) -> bool:
        """Whether an end was requested and the link has not ended yet."""
        return self.close_reason is not None and not self.state.is_final


@dataclass(frozen=True, slots=True)
class Transition:
    """A move along one of the nine edges."""

    number: int
    source: SessionState
    target: SessionState
    reason: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """A dial that failed without moving the state; another follows at ``next_attempt_time``, or,
    if that is None, when an operator allows it.
    """

    number: int
    failure: Failure
    next_attempt_time: datetime | None


@dataclass(frozen=True, slots=True)
class ConditionChange:
    """A condition as it is now."""

    condition: Condition


@dataclass(frozen=True, slots=True)
class Update:
    """A change of other fields, and who caused it."""

    fields: tuple[str, ...]
    actor: str


@dataclass(frozen=True, slots=True)
class SessionNotice:
    """Something that moved neither state nor condition, but that somebody should know.

    ``reason`` is a constant, ``subject`` what it is about: a state, a condition or the
    gateway; ``since`` is when that began.
    """

    reason: str
    subject: str
    message: str
    hint: str
    since: datetime


Change = Transition | Attempt | ConditionChange | Update | SessionNotice


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """One entry of a session's log.

    ``session`` is the session after the event; its ``sequence`` is the event's.
    ``revision`` is 0 until the event is persisted.
    """

    session_id: UUID
    sequence: int
    time: datetime
    correlation_id: UUID
    change: Change
    session: Session
    revision: int = 0
