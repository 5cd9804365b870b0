"""From the status of a call to an error; nowhere else.

The broker packs a ``google.rpc.Status`` into the trailing metadata. An error without our
``ErrorInfo`` in it does not come from a broker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from ibgateway.broker.v1 import error_pb2
from ibgateway.client import conversion
from ibgateway.client.errors import (
    AuthenticationError,
    BrokerDrainingError,
    BrokerError,
    BrokerInternalError,
    BrokerUnreachableError,
    CallTimeoutError,
    CircuitBreakerOpenError,
    ClientIDInUseError,
    ClientIdsExhaustedError,
    GatewayConnectionError,
    GatewayDrainingError,
    GatewayError,
    GatewayNotFoundError,
    GatewayTimeoutError,
    IncompatibleVersionError,
    InvalidArgumentError,
    NetworkUnreachableError,
    PermissionDeniedError,
    RequestIdReusedError,
    SessionEndedError,
    SessionLimitError,
    SessionNotConnectedError,
    SessionNotFoundError,
    SlowConsumerError,
    StoreUnavailableError,
    UnauthenticatedError,
    UnexpectedAnswerError,
)
from ibgateway.client.model import ConnectionFailure

DOMAIN: Final = "ibgateway.broker.v1"
CORRELATION_KEY: Final = "x-correlation-id"
_DETAILS_KEY: Final = "grpc-status-details-bin"

ERRORS: Final[Mapping[str, type[BrokerError]]] = {
    error.REASON: error
    for error in (
        GatewayConnectionError,
        ClientIDInUseError,
        GatewayTimeoutError,
        NetworkUnreachableError,
        AuthenticationError,
        IncompatibleVersionError,
        InvalidArgumentError,
        SessionNotFoundError,
        GatewayNotFoundError,
        RequestIdReusedError,
        SessionEndedError,
        SessionNotConnectedError,
        SessionLimitError,
        ClientIdsExhaustedError,
        UnauthenticatedError,
        PermissionDeniedError,
        SlowConsumerError,
        CircuitBreakerOpenError,
        GatewayDrainingError,
        BrokerDrainingError,
        StoreUnavailableError,
        BrokerInternalError,
    )
}
"""The class of each reason that a broker gives."""


@dataclass(frozen=True)
class _Details:
    """What the broker has packed into an error."""

    info: error_details_pb2.ErrorInfo
    violations: tuple[tuple[str, str], ...]
    retry_after: float | None
    failure: ConnectionFailure | None


def read(
    error: grpc.aio.AioRpcError, *, address: str, timeout: float | None, correlation_id: str
) -> BrokerError:
    """What the end of a call means.

    Args:
        error: the end.
        address: whom was asked, for the message.
        timeout: the seconds that the caller gave it; None if there was no limit.
        correlation_id: that of the call.
    """
    # dict(metadata) would fail with gRPC 1.62, whose Metadata is no whole mapping.
    found = {key: value for key, value in error.trailing_metadata() or ()}  # noqa: C416
    given = found.get(CORRELATION_KEY)
    correlation_id = given if isinstance(given, str) else correlation_id
    packed = found.get(_DETAILS_KEY)
    details = _details(packed) if isinstance(packed, bytes) else None
    if details is None:
        return _foreign(error, address, timeout, correlation_id)
    return _ours(details, error.details() or "", correlation_id)


def _details(packed: bytes) -> _Details | None:
    """The details of an error of ours; None if it is somebody else's."""
    status = status_pb2.Status()
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    failure = error_pb2.ConnectionFailure()
    has_retry = has_failure = False
    try:
        status.ParseFromString(packed)
        for detail in status.details:
            detail.Unpack(info)
            detail.Unpack(bad)
            has_retry |= detail.Unpack(retry)
            has_failure |= detail.Unpack(failure)
    except DecodeError:
        return None
    if info.domain != DOMAIN:
        return None
    return _Details(
        info=info,
        violations=tuple((item.field, item.description) for item in bad.field_violations),
        retry_after=conversion.seconds(retry, "retry_delay") if has_retry else None,
        failure=conversion.failure(failure) if has_failure else None,
    )


def _ours(details: _Details, message: str, correlation_id: str) -> BrokerError:
    reason, metadata = details.info.reason, dict(details.info.metadata)
    kind = ERRORS.get(reason, BrokerError)
    if issubclass(kind, GatewayError):
        return kind(
            details.failure or _bare(reason, message),
            metadata=metadata,
            retry_after=details.retry_after,
            correlation_id=correlation_id,
        )
    if issubclass(kind, InvalidArgumentError):
        return kind(
            message,
            violations=details.violations,
            metadata=metadata,
            correlation_id=correlation_id,
        )
    return kind(
        message,
        reason=reason,
        metadata=metadata,
        retry_after=details.retry_after,
        correlation_id=correlation_id,
    )


def _bare(reason: str, message: str) -> ConnectionFailure:
    """A failure of which nothing but the code is told."""
    return ConnectionFailure(
        reason=reason,
        retryable=False,
        phase="",
        tws_code=0,
        message=message,
        hint="",
        attempt=0,
        time=None,
    )


def _foreign(
    error: grpc.aio.AioRpcError, address: str, timeout: float | None, correlation_id: str
) -> BrokerError:
    said = error.details() or ""
    match error.code():
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            within = "in time" if timeout is None else f"within {timeout:g} s"
            return CallTimeoutError(
                f"the broker at {address} has not answered {within}", correlation_id=correlation_id
            )
        # A server that has too many calls waiting, and proxies, end a call with a bare CANCELLED.
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            return BrokerUnreachableError(
                f"no broker answers at {address}: {said}", correlation_id=correlation_id
            )
        case code:
            return UnexpectedAnswerError(
                f"{address} answered {code.name}: {said}",
                code=code.name,
                correlation_id=correlation_id,
            )
