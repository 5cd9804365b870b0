"""Every error that the broker raises on purpose.

BrokerError
├── GatewayError                    an attempt or a link failed; one class per code
│   ├── GatewayConnectionError      IB_CONN_001  refused, reset, closed by the peer
│   ├── ClientIDInUseError          IB_CONN_002  error 326, or the broker holds the id
│   ├── GatewayTimeoutError         IB_CONN_003  silence
│   ├── NetworkUnreachableError     IB_CONN_004  no route, no such host
│   ├── AuthenticationError         IB_CONN_005  a human must act at the Gateway
│   └── IncompatibleVersionError    IB_CONN_006  the Gateway is too old
├── InvalidArgumentError            the caller erred: a field is wrong
├── SessionNotFoundError            the caller erred: no such session
├── GatewayNotFoundError            the caller erred: no such gateway
├── SessionLimitError               all sessions are in use
├── ClientIdsExhaustedError         the gateway's pool is empty
├── RequestIdReusedError            the caller erred: the request_id stands for another open
├── SessionClosedError              the session ended while the caller waited for it
├── UnauthenticatedError            the caller did not say who it is
├── PermissionDeniedError           the caller may not do this
├── SlowConsumerError               the watcher fell too far behind
├── SessionNotConnectedError        the session has no link now
├── CircuitBreakerOpenError         the gateway has failed repeatedly
├── GatewayDrainingError            an operator takes the gateway out of use
├── BrokerDrainingError             the broker stops
└── StoreUnavailableError           the database does not take or give the record
    └── StoreFencedError            another broker has taken the database over

IllegalInputError is not among them: it is a bug of ours. A refused configuration
(ConfigurationError) or a database that another broker holds end the start, not a request:
StartupError.

Metrics and logs name the six as the error codes' table does (``error_type``);
Python's own ConnectionError and TimeoutError are not shadowed.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Final


class ErrorCode(enum.IntEnum):
    """The six ways in which a connection to IB Gateway fails; the number is the code's."""

    CONNECTION = 1
    CLIENT_ID_IN_USE = 2
    TIMEOUT = 3
    NETWORK_UNREACHABLE = 4
    AUTHENTICATION = 5
    INCOMPATIBLE_VERSION = 6

    @property
    def reason(self) -> str:
        """The code as callers see it, such as ``IB_CONN_003``."""
        return f"IB_CONN_{self:03d}"

    @property
    def retryable(self) -> bool:
        """Whether the same attempt may succeed later without a human's help."""
        return self not in (ErrorCode.AUTHENTICATION, ErrorCode.INCOMPATIBLE_VERSION)

    @property
    def error_type(self) -> str:
        """The name in logs and metrics."""
        return _ERROR_TYPES[self]


_ERROR_TYPES: Final[Mapping[ErrorCode, str]] = {
    ErrorCode.CONNECTION: "ConnectionError",
    ErrorCode.CLIENT_ID_IN_USE: "ClientIDInUseError",
    ErrorCode.TIMEOUT: "TimeoutError",
    ErrorCode.NETWORK_UNREACHABLE: "NetworkUnreachableError",
    ErrorCode.AUTHENTICATION: "AuthenticationError",
    ErrorCode.INCOMPATIBLE_VERSION: "IncompatibleVersionError",
}


class Phase(enum.StrEnum):
    """Where an attempt or a link failed."""

    ADMISSION = "admission"
    TCP = "tcp"
    HANDSHAKE = "handshake"
    START_API = "start_api"
    CONNECTED = "connected"
    HEARTBEAT = "heartbeat"


class StartupError(Exception):
    """The broker cannot start; the message says why and what to do."""


class UnusableFileError(StartupError):
    """A file that decides who may come in is not usable; one that was so at the start stays in
    force as it was then.
    """


@dataclass(frozen=True, slots=True)
class SettingProblem:
    """What is wrong with one setting.

    Args:
        field: which, as in ``gateways.paper.port``; or the variable that none is.
        text: what is wrong with it.
        got: what was given, as it may be shown; empty if it may not, or is not known.
        source: where it was given: a variable, an option, a file with the line; empty if nowhere.
    """

    field: str
    text: str
    got: str = ""
    source: str = ""

    def __str__(self) -> str:
        """On one line."""
        said = " ".join(
            part
            for part in (self.got and f"got {self.got}", self.source and f"in {self.source}")
            if part
        )
        return f"{self.field}: {self.text}" + (f" ({said})" if said else "")


class ConfigurationError(StartupError):
    """The configuration is refused.

    Args:
        problems: all that is wrong with it, at least one.
    """

    def __init__(self, problems: Sequence[SettingProblem]) -> None:
        lines = "\n".join(f"  {problem}" for problem in problems)
        super().__init__(f"the configuration is refused:\n{lines}")
        self.problems = tuple(problems)


class IllegalInputError(Exception):
    """The state machine was given an input that its state does not take: a bug of ours."""


class BrokerError(Exception):
    """Base of all that a request may end with.

    Args:
        message: what happened, for people.
        metadata: every dynamic part of the message, for machines.
        retry_after: seconds until the same request may succeed; None if waiting does not help.
    """

    reason: ClassVar[str]

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.retry_after = retry_after


class GatewayError(BrokerError):
    """An attempt or a link failed.

    Args:
        message: what happened.
        phase: where.
        hint: what to do about it, and who must.
        tws_code: the Gateway's own error number, 0 if it sent none.
        answered: whether a version reply was read, so that the Gateway is known to be there.
        attempt: the number of the dial, from 1; 0 if there was none, or it is not counted yet.
        time: when it was known; None if that is now.
    """

    code: ClassVar[ErrorCode]

    def __init__(
        self,
        message: str,
        *,
        phase: Phase,
        hint: str = "",
        tws_code: int = 0,
        answered: bool = False,
        attempt: int = 0,
        time: datetime | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, metadata=metadata, retry_after=retry_after)
        self.phase = phase
        self.hint = hint
        self.tws_code = tws_code
        self.answered = answered
        self.attempt = attempt
        self.time = time

    @property
    def reason(self) -> str:  # type: ignore[override]
        """The code, such as ``IB_CONN_003``."""
        return self.code.reason


class GatewayConnectionError(GatewayError):
    """IB_CONN_001: refused, reset, or closed by the peer."""

    code = ErrorCode.CONNECTION


class ClientIDInUseError(GatewayError):
    """IB_CONN_002: the Gateway said error 326, or the broker itself holds the id."""

    code = ErrorCode.CLIENT_ID_IN_USE


class GatewayTimeoutError(GatewayError):
    """IB_CONN_003: silence; the phase says where."""

    code = ErrorCode.TIMEOUT


class NetworkUnreachableError(GatewayError):
    """IB_CONN_004: no route to the host, or its name does not resolve."""

    code = ErrorCode.NETWORK_UNREACHABLE


class AuthenticationError(GatewayError):
    """IB_CONN_005: the Gateway does not accept the session until a human acts."""

    code = ErrorCode.AUTHENTICATION


class IncompatibleVersionError(GatewayError):
    """IB_CONN_006: the Gateway's server version is below what the client library speaks."""

    code = ErrorCode.INCOMPATIBLE_VERSION


GATEWAY_ERRORS: Final[Mapping[ErrorCode, type[GatewayError]]] = {
    error.code: error
    for error in (
        GatewayConnectionError,
        ClientIDInUseError,
        GatewayTimeoutError,
        NetworkUnreachableError,
        AuthenticationError,
        IncompatibleVersionError,
    )
}


class InvalidArgumentError(BrokerError):
    """A request was refused as written; nothing happened.

    Args:
        violations: (field, what is wrong with it) pairs, at least one.
    """

    reason = "INVALID_ARGUMENT"

    def __init__(self, violations: Sequence[tuple[str, str]]) -> None:
        super().__init__(
            "; ".join(f"{field}: {description}" for field, description in violations),
            metadata=dict(violations),
        )
        self.violations = tuple(violations)


class SessionNotFoundError(BrokerError):
    """No session has this id."""

    reason = "SESSION_NOT_FOUND"

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"no session {session_id}; it was never opened here, or its record has been cleaned up",
            metadata={"session_id": session_id},
        )


class GatewayNotFoundError(BrokerError):
    """No gateway is configured under this name."""

    reason = "GATEWAY_NOT_FOUND"

    def __init__(self, gateway_id: str, known: Sequence[str]) -> None:
        names = ",".join(sorted(known))
        super().__init__(
            f"no gateway {gateway_id!r} is configured; there are: {names}",
            metadata={"gateway_id": gateway_id, "gateways": names},
        )


class SessionLimitError(BrokerError):
    """All sessions are in use; nothing was dialled."""

    reason = "SESSION_LIMIT"

    def __init__(self, scope: str, used: int, limit: int) -> None:
        super().__init__(
            f"{used} of {limit} sessions of this {scope} are in use; close one, or raise the limit",
            metadata={"scope": scope, "used": str(used), "limit": str(limit)},
        )


class ClientIdsExhaustedError(BrokerError):
    """Every client id of the gateway's pool is held."""

    reason = "CLIENT_IDS_EXHAUSTED"

    def __init__(self, gateway_id: str, pool: str) -> None:
        super().__init__(
            f"all client ids {pool} of gateway {gateway_id!r} are held; close a session, "
            "widen client_ids, or name a client_id outside the pool",
            metadata={"gateway_id": gateway_id, "pool": pool},
        )


class SessionClosedError(BrokerError):
    """The session was ended, before it was connected or before it was renewed."""

    reason = "SESSION_CLOSED"

    def __init__(self, session_id: str, close_reason: str) -> None:
        super().__init__(
            f"session {session_id} has ended: {close_reason}; open another",
            metadata={"session_id": session_id, "close_reason": close_reason},
        )


class RequestIdReusedError(BrokerError):
    """The request_id belongs to an open with other parameters; nothing happened."""

    reason = "REQUEST_ID_REUSED"

    def __init__(self, request_id: str, session_id: str) -> None:
        super().__init__(
            f"request_id {request_id} has opened session {session_id} with other parameters; "
            "make a new one for each open, and repeat it only with the same request",
            metadata={"request_id": request_id, "session_id": session_id},
        )


class SessionNotConnectedError(BrokerError):
    """The session has no link now."""

    reason = "SESSION_NOT_CONNECTED"

    def __init__(self, session_id: str, state: str) -> None:
        super().__init__(
            f"session {session_id} is {state}; watch it, or try again when it is CONNECTED",
            metadata={"session_id": session_id, "state": state},
        )


class CircuitBreakerOpenError(BrokerError):
    """The gateway has failed repeatedly; nothing was dialled."""

    reason = "CIRCUIT_OPEN"

    def __init__(self, gateway_id: str, failures: int, retry_after: float) -> None:
        super().__init__(
            f"gateway {gateway_id!r} has failed {failures} times in a row; new sessions are "
            f"refused until it was tried again, in {retry_after:.0f} s at the earliest",
            metadata={"gateway_id": gateway_id, "failures": str(failures)},
            retry_after=retry_after,
        )


class GatewayDrainingError(BrokerError):
    """An operator takes the gateway out of use; nothing was dialled."""

    reason = "GATEWAY_DRAINING"

    def __init__(
        self, gateway_id: str, actor: str, drain_reason: str, retry_after: float = 60.0
    ) -> None:
        super().__init__(
            f"gateway {gateway_id!r} is drained by {actor!r}"
            f"{': ' + drain_reason if drain_reason else ''}; it takes new sessions when an "
            "operator resumes it",
            metadata={"gateway_id": gateway_id, "actor": actor, "drain_reason": drain_reason},
            retry_after=retry_after,
        )


class UnauthenticatedError(BrokerError):
    """The caller has not said who it is, or not truly.

    Args:
        cause: what is wrong, for people.
        method: the rpc that it called.
        needed_role: whom the broker would let do this, at the least.
    """

    reason = "UNAUTHENTICATED"

    def __init__(self, cause: str, method: str, needed_role: str) -> None:
        super().__init__(
            f"{cause}; send metadata `authorization: Bearer TOKEN`, or show a certificate that "
            "the broker knows",
            metadata={"cause": cause, "method": method, "needed_role": needed_role},
        )


class PermissionDeniedError(BrokerError):
    """The caller is known, and may not do this.

    Args:
        message: what it may not do, and who may.
        metadata: caller, role, method, needed_role, and what else the message says.
    """

    reason = "PERMISSION_DENIED"

    def __init__(self, message: str, metadata: Mapping[str, str]) -> None:
        super().__init__(message, metadata=metadata)


class SlowConsumerError(BrokerError):
    """The watcher fell too far behind; its last resume token is still good."""

    reason = "SLOW_CONSUMER"

    def __init__(self, lag: int) -> None:
        super().__init__(
            f"the watcher lags {lag} events behind; read faster, or resume with the last token",
            metadata={"lag": str(lag)},
        )


class BrokerDrainingError(BrokerError):
    """The broker stops and takes no new work."""

    reason = "BROKER_DRAINING"

    def __init__(self, retry_after: float = 5.0) -> None:
        super().__init__(
            "the broker is stopping; ask again when it is back", retry_after=retry_after
        )


class StoreUnavailableError(BrokerError):
    """The database does not take or give the record."""

    reason = "STORE_UNAVAILABLE"

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message, retry_after=retry_after)


class StoreFencedError(StoreUnavailableError):
    """Another broker has taken the database over; this one must end its sessions and stop."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"another broker has taken over since epoch {epoch}, which was ours")
