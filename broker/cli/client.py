"""A caller of the broker for the command line; the only file of the CLI that knows gRPC."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from ibgateway.broker.v1 import (
    error_pb2,
    gateway_pb2,
    gateway_service_pb2,
    gateway_service_pb2_grpc,
    session_event_pb2,
    session_pb2,
    session_service_pb2_grpc,
)
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.cli.caller import Caller, caller

_TOKEN_KEY: Final = "authorization"  # noqa: S105  # a name, not a token
DEADLINE: Final = 10.0
"""Seconds for an answer that does not wait for a Gateway."""
CLOSE_DEADLINE: Final = 30.0
"""Seconds for a session to end: longer than the broker itself waits for its link."""
DRAIN_DEADLINE: Final = 120.0
"""Seconds for all sessions of a gateway to end."""
OPEN_DEADLINE: Final = 300.0
"""Seconds for a session to open: longer than the broker's own attempts take by default."""
_PAGE: Final = 500
_WATCH_PAUSES: Final = (0.5, 1.0, 2.0, 5.0)
"""Seconds before each further try to watch again."""
_OWNER_KEY: Final = "x-broker-owner"
_OPTIONS: Final = (
    # A broker whose machine has died is noticed in 40 s, also by a stream that has been quiet.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


@dataclass(eq=False)  # frozen it could not be raised through a context manager
class CallError(Exception):
    """The broker refused a request, or did not answer it.

    Args:
        message: what happened.
        reason: the ErrorReason without its prefix; empty if the broker did not answer.
        hint: what to do about it.
        violations: field and description of each field that is wrong.
        retry_after: seconds until the same request may succeed; None if not told.
        correlation_id: what to look for in the broker's log; empty if not told.
    """

    message: str
    reason: str = ""
    hint: str = ""
    violations: tuple[tuple[str, str], ...] = ()
    retry_after: float | None = None
    correlation_id: str = ""

    @property
    def unreachable(self) -> bool:
        """Whether no broker answered at all."""
        return not self.reason


@dataclass(frozen=True)
class Filter:
    """Which sessions are meant; what is empty asks for nothing."""

    session_ids: tuple[str, ...] = ()
    gateway_id: str = ""
    owner: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    states: tuple[str, ...] = ()
    include_final: bool = False

    def fields(self) -> dict[str, Any]:
        """As list and watch requests have them."""
        return {
            "session_ids": self.session_ids,
            "gateway_id": self.gateway_id,
            "owner": self.owner,
            "labels": self.labels,
            "states": [f"SESSION_STATE_{state}" for state in self.states],
            "include_final": self.include_final,
        }


@dataclass(frozen=True)
class Lost:
    """A watch has lost its broker and tries again.

    Args:
        message: why.
    """

    message: str


@dataclass(frozen=True)
class Resumed:
    """A watch that was lost goes on where it was."""


class Broker:
    """One channel to a broker. Every method raises CallError.

    Args:
        channel: where to.
        address: where that is, for messages.
        token: sent with each request; empty for none.
    """

    def __init__(self, channel: grpc.Channel, address: str, token: str = "") -> None:
        self._address = address
        self._metadata = ((_TOKEN_KEY, f"Bearer {token}"),) if token else ()
        self._service = session_service_pb2_grpc.SessionServiceStub(channel)
        self._gateway_service = gateway_service_pb2_grpc.GatewayServiceStub(channel)
        self._health: Any = health_pb2_grpc.HealthStub(channel)

    def open(
        self,
        *,
        owner: str | None,
        deadline: float,
        timeout: float | None,
        lease: float | None,
        client_id: int | None,
        exact: bool,
        **fields: Any,
    ) -> pb.OpenSessionResponse:
        """Open a session; a KeyboardInterrupt meanwhile gives it up.

        Args:
            owner: under which name; None leaves it to the broker.
            deadline: seconds to wait for it to be CONNECTED.
            timeout: seconds for one attempt; None is the gateway's own.
            lease: seconds that it lives unless it is renewed; None is until it is closed.
            client_id: None takes one from the pool.
            exact: never another id.
            fields: further fields of the request.
        """
        request = pb.OpenSessionRequest(
            client_id=client_id,
            client_id_policy=pb.CLIENT_ID_POLICY_EXACT if exact else pb.CLIENT_ID_POLICY_INCREMENT,
            timeout=_duration(timeout),
            lease_ttl=_duration(lease),
            **fields,
        )
        response: pb.OpenSessionResponse = self._call(
            self._service.OpenSession, request, deadline=deadline, metadata=_caller(owner)
        )
        return response

    def close(self, session_id: str, reason: str) -> session_pb2.Session:
        """End a session; returns when its link has ended."""
        request = pb.CloseSessionRequest(session_id=session_id, reason=reason)
        response: pb.CloseSessionResponse = self._call(
            self._service.CloseSession, request, deadline=CLOSE_DEADLINE
        )
        return response.session

    def get(self, session_id: str) -> session_pb2.Session:
        """One session."""
        request = pb.GetSessionRequest(session_id=session_id)
        response: pb.GetSessionResponse = self._call(self._service.GetSession, request)
        return response.session

    def sessions(self, wanted: Filter) -> Iterator[session_pb2.Session]:
        """All sessions that match, page by page."""
        token = ""  # nosec B105 # a place in a list
        while True:
            request = pb.ListSessionsRequest(page_size=_PAGE, page_token=token, **wanted.fields())
            response: pb.ListSessionsResponse = self._call(self._service.ListSessions, request)
            yield from response.sessions
            token = response.next_page_token
            if not token:
                return

    def verify(self, session_id: str) -> pb.VerifySessionResponse:
        """Probe a session's link."""
        request = pb.VerifySessionRequest(session_id=session_id)
        response: pb.VerifySessionResponse = self._call(
            self._service.VerifySession, request, deadline=OPEN_DEADLINE
        )
        return response

    def renew(self, session_id: str, lease: float | None, owner: str | None) -> session_pb2.Session:
        """Let a session's lease begin anew.

        Args:
            session_id: the session.
            lease: seconds that it lasts from now on; None as before.
            owner: who says it; None leaves it to the broker.
        """
        request = pb.RenewSessionRequest(session_id=session_id, lease_ttl=_duration(lease))
        response: pb.RenewSessionResponse = self._call(
            self._service.RenewSession, request, metadata=_caller(owner)
        )
        return response.session

    def events(self, session_id: str) -> Iterator[session_event_pb2.SessionEvent]:
        """All recorded events of a session, page by page."""
        token = ""  # nosec B105 # a place in a list
        while True:
            request = pb.ListSessionEventsRequest(
                session_id=session_id, page_size=_PAGE, page_token=token
            )
            response: pb.ListSessionEventsResponse = self._call(
                self._service.ListSessionEvents, request
            )
            yield from response.events
            token = response.next_page_token
            if not token:
                return

    def acknowledge(
        self, session_id: str, generation: int | None, owner: str | None
    ) -> session_pb2.Session:
        """Say that what was interrupted is subscribed anew.

        Args:
            session_id: the session.
            generation: that of the link; None is the session's as it is now.
            owner: who says it; None leaves it to the broker.
        """
        if generation is None:
            # One that never had a link is refused for that, not for the number.
            generation = max(self.get(session_id).generation, 1)
        request = pb.AcknowledgeDataRequest(session_id=session_id, generation=generation)
        response: pb.AcknowledgeDataResponse = self._call(
            self._service.AcknowledgeData, request, metadata=_caller(owner)
        )
        return response.session

    def watch(self, wanted: Filter) -> Iterator[pb.WatchSessionsResponse | Lost | Resumed]:
        """Follow sessions until interrupted.

        Once the first message has come, a lost stream is opened again with the last token,
        for as long as it takes; each loss is told once, and that it is over.
        """
        token = ""  # nosec B105 # a place in a list
        failed = 0
        while True:
            request = pb.WatchSessionsRequest(resume_token=token, **wanted.fields())
            try:
                with self._errors(None):
                    stream = self._service.WatchSessions(
                        request, wait_for_ready=failed > 0, metadata=self._metadata
                    )
                    if failed:
                        # A broker answers at once, though it may have nothing to tell for long.
                        stream.initial_metadata()
                        if stream.is_active():
                            yield Resumed()
                    for message in stream:
                        failed = 0
                        token = message.resume_token or token
                        yield message
                reason = "the broker has ended the stream"
            except CallError as error:
                again = error.unreachable or error.reason in _WATCH_AGAIN
                if not again or not token:
                    raise
                reason = error.message
            if not failed:
                yield Lost(reason)
            time.sleep(_WATCH_PAUSES[min(failed, len(_WATCH_PAUSES) - 1)])
            failed += 1

    def gateways(self) -> list[gateway_pb2.Gateway]:
        """All gateways."""
        request = gateway_service_pb2.ListGatewaysRequest()
        response: gateway_service_pb2.ListGatewaysResponse = self._call(
            self._gateway_service.ListGateways, request
        )
        return list(response.gateways)

    def gateway(self, gateway_id: str) -> gateway_pb2.Gateway:
        """One gateway."""
        request = gateway_service_pb2.GetGatewayRequest(gateway_id=gateway_id)
        response: gateway_service_pb2.GetGatewayResponse = self._call(
            self._gateway_service.GetGateway, request
        )
        return response.gateway

    def drain(
        self, gateway_id: str, reason: str, *, close_sessions: bool, owner: str | None
    ) -> gateway_pb2.Gateway:
        """Take a gateway out of use; returns when its sessions have ended, if they are to."""
        request = gateway_service_pb2.DrainGatewayRequest(
            gateway_id=gateway_id, reason=reason, close_sessions=close_sessions
        )
        response: gateway_service_pb2.DrainGatewayResponse = self._call(
            self._gateway_service.DrainGateway,
            request,
            deadline=DRAIN_DEADLINE if close_sessions else DEADLINE,
            metadata=_caller(owner),
        )
        return response.gateway

    def resume(self, gateway_id: str, owner: str | None) -> gateway_pb2.Gateway:
        """Put a gateway into use again."""
        request = gateway_service_pb2.ResumeGatewayRequest(gateway_id=gateway_id)
        response: gateway_service_pb2.ResumeGatewayResponse = self._call(
            self._gateway_service.ResumeGateway, request, metadata=_caller(owner)
        )
        return response.gateway

    def reset_breaker(self, gateway_id: str) -> gateway_pb2.Gateway:
        """Close a gateway's circuit, and let whoever waits for it try at once."""
        request = gateway_service_pb2.ResetCircuitBreakerRequest(gateway_id=gateway_id)
        response: gateway_service_pb2.ResetCircuitBreakerResponse = self._call(
            self._gateway_service.ResetCircuitBreaker, request
        )
        return response.gateway

    def health(self, service: str, deadline: float) -> str:
        """What the health service says: SERVING, NOT_SERVING or SERVICE_UNKNOWN."""
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            response = self._health.Check(request, timeout=deadline, metadata=self._metadata)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return "SERVICE_UNKNOWN"
            raise self._read(error, deadline) from None
        status: str = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
        return status

    def _call(
        self,
        method: Any,
        request: Message,
        *,
        deadline: float = DEADLINE,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> Any:
        call = method.future(request, timeout=deadline, metadata=(*self._metadata, *metadata))
        with self._errors(deadline):
            try:
                return call.result()
            except KeyboardInterrupt:
                call.cancel()
                raise

    @contextmanager
    def _errors(self, deadline: float | None) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise self._read(error, deadline) from None

    def _read(self, error: Any, deadline: float | None) -> CallError:
        """What an error says; one without ErrorInfo is not from a broker."""
        trailing = dict(error.trailing_metadata() or ())
        correlation = str(trailing.get("x-correlation-id", ""))
        status = rpc_status.from_call(error)
        info = error_details_pb2.ErrorInfo()
        if status is None or not any(detail.Unpack(info) for detail in status.details):
            return self._unanswered(error, deadline)
        bad = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        failure = error_pb2.ConnectionFailure()
        delay = None
        for detail in status.details:
            detail.Unpack(bad)
            detail.Unpack(failure)
            if detail.Unpack(retry):
                delay = retry.retry_delay.ToNanoseconds() / 1e9
        return CallError(
            message=error.details() or "",
            reason=info.reason,
            hint=failure.hint or _hint(info.reason, info.metadata),
            violations=tuple((item.field, item.description) for item in bad.field_violations),
            retry_after=delay,
            correlation_id=correlation,
        )

    def _unanswered(self, error: Any, deadline: float | None) -> CallError:
        match error.code():
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                message = f"{self._address} has not answered within {deadline:g} s"
                hint = "wait longer with --deadline, or see the broker's log"
            case grpc.StatusCode.UNAVAILABLE:
                message = f"no broker answers at {self._address}"
                hint = (
                    "start one with `gateway-broker serve` or `gateway-broker dev`, "
                    "or say where it is with --broker, and with --tls-ca if it serves TLS"
                )
                if "SSL" in (said := error.details() or "") or "certificate" in said:
                    message = f"no broker that is trusted answers at {self._address}: {said}"
                    hint = (
                        "its certificate must be of --tls-ca, and name the host of --broker; if it "
                        "asks for one, give --cert and --key"
                    )
            case grpc.StatusCode.UNIMPLEMENTED:
                message = f"what answers at {self._address} does not know this request"
                hint = "it is not a gateway-broker, or an older one"
            case code:
                message = f"{self._address}: {code.name}: {error.details()}"
                hint = "is it a gateway-broker?"
        return CallError(message, hint=hint)


_WATCH_AGAIN: Final = frozenset(
    {"BROKER_DRAINING", "STORE_UNAVAILABLE", "SLOW_CONSUMER", "INTERNAL"}
)


@contextmanager
def calling(address: str) -> Iterator[Broker]:
    """A channel to the broker at an address, closed at the end.

    Args:
        address: HOST:PORT.
    """
    with _channel(address, shown := caller(address)) as channel:
        yield Broker(channel, address, shown.token)


def _channel(address: str, shown: Caller) -> grpc.Channel:
    if not shown.is_tls:
        # A proxy of the environment is on no way to this machine, where a token may go like this.
        options = (("grpc.enable_http_proxy", 0),) if shown.token else ()
        return grpc.insecure_channel(address, options=(*_OPTIONS, *options))
    credentials = grpc.ssl_channel_credentials(shown.roots, shown.key, shown.certificate)
    return grpc.secure_channel(address, credentials, options=_OPTIONS)


def _caller(owner: str | None) -> tuple[tuple[str, str], ...]:
    return () if owner is None else ((_OWNER_KEY, owner),)


def _hint(reason: str, metadata: Mapping[str, str]) -> str:
    """Which command helps, where one does."""
    gateway_id = metadata.get("gateway_id", "")
    match reason:
        case "GATEWAY_DRAINING":
            return f"`gateway-broker gateways resume {gateway_id}` puts it into use again"
        case "UNAUTHENTICATED":
            return "give --token-file, or --cert and --key; `gateway-broker access` makes them"
        case "PERMISSION_DENIED":
            return f"ask somebody whose role is {metadata.get('needed_role', 'higher')}"
        case "CIRCUIT_OPEN":
            return (
                f"`gateway-broker gateways get {gateway_id}` says what is wrong; once that is "
                f"repaired, `gateway-broker gateways reset-breaker {gateway_id}` saves the wait"
            )
    return ""


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    message = Duration()
    message.FromNanoseconds(int(seconds * 1e9))
    return message
