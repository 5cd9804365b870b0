"""Every error of this library.

BrokerError
├── GatewayError                    a connection to IB Gateway failed; `failure` says more
│   ├── GatewayConnectionError      IB_CONN_001  refused, reset, closed by the Gateway
│   ├── ClientIDInUseError          IB_CONN_002  error 326, or the broker holds the id
│   ├── GatewayTimeoutError         IB_CONN_003  silence
│   ├── NetworkUnreachableError     IB_CONN_004  no route, no such host
│   ├── AuthenticationError         IB_CONN_005  a human must act at the Gateway
│   └── IncompatibleVersionError    IB_CONN_006  the Gateway is too old
├── InvalidArgumentError            a field is wrong; `violations` says which
├── SessionNotFoundError            no such session
├── GatewayNotFoundError            no such gateway
├── RequestIdReusedError            the request_id belongs to another open
├── SessionEndedError               the session is over
├── SessionNotConnectedError        the session has no link now
├── SessionLimitError               all sessions are in use
├── ClientIdsExhaustedError         the gateway's pool of client ids is empty
├── UnauthenticatedError            the broker does not know who calls
├── PermissionDeniedError           the caller may not do this
├── SlowConsumerError               a watcher read too slowly
├── CircuitBreakerOpenError         the gateway has failed repeatedly
├── GatewayDrainingError            an operator takes the gateway out of use
├── BrokerDrainingError             the broker stops
├── StoreUnavailableError           the broker's database is away
├── BrokerInternalError             the broker erred
├── BrokerUnreachableError          no answer at all
│   └── CallTimeoutError            no answer within the time given
├── UnexpectedAnswerError           what answers is no gateway-broker, or an older one
├── WatchGapError                   a watch has proof that an event is missing
└── BrokerClosedError               the call was made, or cut, when the Broker was closed

Python's own ConnectionError and TimeoutError are not shadowed. A reason that this library does not
know, of a newer broker, is a plain BrokerError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from ibgateway.client.model import ConnectionFailure, SessionInfo


class _Blank(dict[str, str]):
    """Metadata for a hint: what is missing is left out."""

    def __missing__(self, key: str) -> str:
        return ""


class BrokerError(Exception):
    """A call to the broker failed.

    Args:
        message: what happened.
        reason: the ErrorReason without its prefix; None is that of the class.
        metadata: every dynamic part of the message, for machines.
        hint: what to do about it, and who must; None is that of the class.
        retry_after: seconds until the same request may succeed; None if the broker did not say.
        correlation_id: what to look for in the broker's log and events.

    Attributes:
        REASON: what the broker calls it; empty if it is not the broker that says so.
    """

    REASON: ClassVar[str] = ""
    _HINT: ClassVar[str] = ""
    _RETRYABLE: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        hint: str | None = None,
        retry_after: float | None = None,
        correlation_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = self.REASON if reason is None else reason
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.hint = self._HINT.format_map(_Blank(self.metadata)) if hint is None else hint
        self.retry_after = retry_after
        self.correlation_id = correlation_id

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later without anybody's help."""
        return self._RETRYABLE

    def __str__(self) -> str:
        text = f"{self.reason}: {self.message}" if self.reason else self.message
        if self.hint:
            text = f"{text.rstrip('.')}. Hint: {self.hint}"
        return f"{text} (correlation id {self.correlation_id})" if self.correlation_id else text


class GatewayError(BrokerError):
    """An attempt to connect to IB Gateway, or a link to it, failed.

    Args:
        failure: what the broker knows about it.
        metadata: see BrokerError.
        retry_after: see BrokerError.
        correlation_id: see BrokerError.
    """

    def __init__(
        self,
        failure: ConnectionFailure,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        correlation_id: str = "",
    ) -> None:
        super().__init__(
            failure.message,
            reason=failure.reason,
            metadata=metadata,
            hint=failure.hint,
            retry_after=retry_after,
            correlation_id=correlation_id,
        )
        self.failure = failure

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later without anybody's help."""
        return self.failure.retryable

    @property
    def phase(self) -> str:
        """Where: ``"tcp"``, ``"handshake"``, ``"start_api"``, ``"connected"``, ``"heartbeat"`` or
        ``"admission"``.
        """
        return self.failure.phase

    @property
    def tws_code(self) -> int:
        """The Gateway's own error number, 0 if it sent none."""
        return self.failure.tws_code

    @property
    def attempt(self) -> int:
        """The number of the dial, from 1; 0 if there was none."""
        return self.failure.attempt


class GatewayConnectionError(GatewayError):
    """IB_CONN_001: refused, reset or closed by the Gateway."""

    REASON = "IB_CONN_001"


class ClientIDInUseError(GatewayError):
    """IB_CONN_002: the Gateway said error 326, or the broker itself holds the id."""

    REASON = "IB_CONN_002"


class GatewayTimeoutError(GatewayError):
    """IB_CONN_003: silence; the phase says where."""

    REASON = "IB_CONN_003"


class NetworkUnreachableError(GatewayError):
    """IB_CONN_004: no route to the host, or its name does not resolve."""

    REASON = "IB_CONN_004"


class AuthenticationError(GatewayError):
    """IB_CONN_005: the Gateway does not accept the session until a human acts."""

    REASON = "IB_CONN_005"


class IncompatibleVersionError(GatewayError):
    """IB_CONN_006: the Gateway must be upgraded."""

    REASON = "IB_CONN_006"


class InvalidArgumentError(BrokerError):
    """The request was refused as written; nothing happened.

    Args:
        message: what is wrong.
        violations: (field, what is wrong with it) pairs.
        metadata: see BrokerError.
        correlation_id: see BrokerError.
    """

    REASON = "INVALID_ARGUMENT"

    def __init__(
        self,
        message: str,
        *,
        violations: Sequence[tuple[str, str]] = (),
        metadata: Mapping[str, str] | None = None,
        correlation_id: str = "",
    ) -> None:
        super().__init__(message, metadata=metadata, correlation_id=correlation_id)
        self.violations = tuple(violations)


class SessionNotFoundError(BrokerError):
    """No session has this id."""

    REASON = "SESSION_NOT_FOUND"


class GatewayNotFoundError(BrokerError):
    """No gateway is configured under this name."""

    REASON = "GATEWAY_NOT_FOUND"


class RequestIdReusedError(BrokerError):
    """The request_id belongs to an open with other parameters."""

    REASON = "REQUEST_ID_REUSED"
    _HINT = "send a new request_id for each open, and the same one only to repeat it unchanged"


class SessionEndedError(BrokerError):
    """The session is over: closed by somebody, its lease run out, or FAILED.

    Attributes:
        session: the session as it was last seen; None if it was not.
    """

    REASON = "SESSION_CLOSED"
    _HINT = "open a new session"

    session: SessionInfo | None = None

    @property
    def session_id(self) -> str:
        """The session."""
        return self.metadata.get("session_id", "")

    @property
    def close_reason(self) -> str:
        """Who ended it, such as ``"LEASE_EXPIRED"``; empty if it FAILED, or if that is unknown."""
        return self.metadata.get("close_reason", "")

    @property
    def failure(self) -> ConnectionFailure | None:
        """Why it FAILED; None if it was ended as somebody asked."""
        return None if self.session is None or self.close_reason else self.session.last_failure


class SessionNotConnectedError(BrokerError):
    """The session has no link now."""

    REASON = "SESSION_NOT_CONNECTED"
    _HINT = "watch it, or try again when it is CONNECTED"
    _RETRYABLE = True


class SessionLimitError(BrokerError):
    """All sessions of the broker or of the gateway are in use; nothing was dialled."""

    REASON = "SESSION_LIMIT"


class ClientIdsExhaustedError(BrokerError):
    """Every client id of the gateway's pool is held."""

    REASON = "CLIENT_IDS_EXHAUSTED"


class UnauthenticatedError(BrokerError):
    """The broker does not know who calls: no token, or one that is unknown, revoked or expired."""

    REASON = "UNAUTHENTICATED"
    _HINT = "connect(token=...) shows a token; whoever runs the broker gives them out"


class PermissionDeniedError(BrokerError):
    """The broker knows who calls, and does not let him do this."""

    REASON = "PERMISSION_DENIED"
    _HINT = "ask somebody whose role is {needed_role}, or the owner of the session"

    @property
    def needed_role(self) -> str:
        """Who may: ``"viewer"``, ``"trader"`` or ``"operator"``."""
        return self.metadata.get("needed_role", "")


class SlowConsumerError(BrokerError):
    """A watcher read too slowly; its last token is still good."""

    REASON = "SLOW_CONSUMER"
    _HINT = "handle the items of a watch faster, or narrow its filter"
    _RETRYABLE = True


class CircuitBreakerOpenError(BrokerError):
    """The gateway has failed repeatedly; new sessions are refused until it was tried again."""

    REASON = "CIRCUIT_OPEN"
    _HINT = (
        "`gateway-broker gateways explain {gateway_id}` says what is wrong; once that is repaired, "
        "`gateway-broker gateways reset-breaker {gateway_id}` saves the wait"
    )
    _RETRYABLE = True


class GatewayDrainingError(BrokerError):
    """An operator takes the gateway out of use."""

    REASON = "GATEWAY_DRAINING"
    _HINT = "`gateway-broker gateways resume {gateway_id}` puts it into use again"
    _RETRYABLE = True


class BrokerDrainingError(BrokerError):
    """The broker stops; ask again when it is back."""

    REASON = "BROKER_DRAINING"
    _RETRYABLE = True


class StoreUnavailableError(BrokerError):
    """The broker's database did not take or give the record."""

    REASON = "STORE_UNAVAILABLE"
    _HINT = "whoever runs the broker must see to its database"
    _RETRYABLE = True


class BrokerInternalError(BrokerError):
    """The broker erred; its log says more."""

    REASON = "INTERNAL"
    _HINT = "look for error_id {error_id} in the broker's log"


class BrokerUnreachableError(BrokerError):
    """No broker answers. Whether it has done what was asked is unknown."""

    _HINT = "is it running there? `gateway-broker serve` or `gateway-broker dev` starts one"
    _RETRYABLE = True


class CallTimeoutError(BrokerUnreachableError):
    """No answer within the time given. Whether the broker has done what was asked is unknown."""

    _HINT = "give it more time with timeout=, or see the broker's log"


class UnexpectedAnswerError(BrokerError):
    """Something answers, but not as this library expects of a broker.

    Args:
        message: what it said.
        code: the name of the gRPC status, such as ``"UNIMPLEMENTED"``.
        correlation_id: see BrokerError.
    """

    _HINT = "it is no gateway-broker, an older one, or something between has answered"

    def __init__(self, message: str, *, code: str, correlation_id: str = "") -> None:
        super().__init__(message, correlation_id=correlation_id)
        self.code = code


class WatchGapError(BrokerError):
    """A watch has proof that its stream is not complete: the broker, or something between, erred.

    Args:
        message: what is missing or out of order.
        session_id: the session whose events are; empty if it is about the stream itself.
        expected: the sequence or revision that should have come.
        received: the one that came.
    """

    _HINT = "begin a new watch without a token: its snapshot is complete. Report this"

    def __init__(
        self, message: str, *, session_id: str = "", expected: int = 0, received: int = 0
    ) -> None:
        super().__init__(message)
        self.session_id = session_id
        self.expected = expected
        self.received = received


class BrokerClosedError(BrokerError):
    """The Broker was closed: by the end of its ``async with`` block, or by ``close()``."""

    _HINT = "end what uses a Broker before its block ends"
