"""A server that answers what a healthy broker cannot be made to answer in a test.

A request names a cue where it names a session or, for gateways and opens, a gateway. A cue is
recited always, or as often as the number behind its asterisk says: ``BROKER_DRAINING*2`` refuses
twice and then answers. Errors of ours are packed by the broker's own code. It keeps what it has
heard.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final, cast
from uuid import UUID

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from ibgateway.broker.v1 import (
    gateway_pb2,
    gateway_service_pb2_grpc,
    session_event_pb2,
    session_pb2,
    session_service_pb2_grpc,
)
from ibgateway.broker.v1 import gateway_service_pb2 as gateways_pb
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.access.doorkeeper import Doorkeeper
from broker.errors import (
    BrokerDrainingError,
    BrokerError,
    GatewayDrainingError,
    SessionNotFoundError,
    SlowConsumerError,
    StoreUnavailableError,
)
from broker.rpc.audit import Audit
from broker.rpc.auth import Gate
from broker.rpc.boundary import DOMAIN, Boundary
from broker.rpc.caller import Context
from broker.telemetry.observers import Observers, Telemetry

FUTURE: Final = "A_REASON_OF_THE_FUTURE"
SOON: Final = 0.05
"""Seconds after which it says to ask again."""
_DETAILS: Final = "grpc-status-details-bin"
_SILENCE: Final = 30.0
_NO_DEADLINE: Final = 1e6
"""Seconds; gRPC has a longest deadline instead of none."""
_ERRORS: Final[Mapping[str, BrokerError]] = {
    "BROKER_DRAINING": BrokerDrainingError(SOON),
    "GATEWAY_DRAINING": GatewayDrainingError("default", "ops", "upgrade", SOON),
    "STORE_UNAVAILABLE": StoreUnavailableError("the database is away", SOON),
    "SLOW_CONSUMER": SlowConsumerError(100_001),
}


def _packed(
    reason: str, domain: str, code: grpc.StatusCode, message: str
) -> tuple[grpc.StatusCode, str, bytes]:
    """A status with an ErrorInfo."""
    detail = any_pb2.Any()
    detail.Pack(
        error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata={"part": "said"})
    )
    status = status_pb2.Status(code=code.value[0], message=message, details=[detail])
    return code, message, status.SerializeToString()


_STATUSES: Final[Mapping[str, tuple[grpc.StatusCode, str, bytes]]] = {
    # A reason that no client of today knows.
    "FUTURE": _packed(FUTURE, DOMAIN, grpc.StatusCode.FAILED_PRECONDITION, "something new"),
    # One of the six, without the ConnectionFailure that belongs to it.
    "NO_FAILURE": _packed(
        "IB_CONN_001", DOMAIN, grpc.StatusCode.UNAVAILABLE, "refused, and nothing more is told"
    ),
    # Somebody between has the same words for something else.
    "FOREIGN": _packed(
        "SESSION_NOT_FOUND", "proxy.example.net", grpc.StatusCode.NOT_FOUND, "not ours"
    ),
    "BROKEN_DETAILS": (grpc.StatusCode.INTERNAL, "broken", b"\xff\xff\xff no message at all"),
    "BARE_UNIMPLEMENTED": (grpc.StatusCode.UNIMPLEMENTED, "never heard of it", b""),
    "BARE_INTERNAL": (grpc.StatusCode.INTERNAL, "a proxy erred", b""),
    "BARE_UNAVAILABLE": (grpc.StatusCode.UNAVAILABLE, "nobody is there", b""),
    "BARE_CANCELLED": (grpc.StatusCode.CANCELLED, "too much to do", b""),
}


class Reciter:
    """What it knows by heart, and what it has heard.

    Attributes:
        heard: each call since `forget`.
    """

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self._recited: Counter[tuple[str, str]] = Counter()

    def forget(self) -> None:
        """Begin anew."""
        self.heard.clear()
        self._recited.clear()

    async def recite(self, rpc: str, cue: str, request: Any, context: Context) -> None:
        """Answer what the cue says, unless that was answered often enough.

        Raises:
            BrokerError: it is that.
        """
        metadata = {key: str(value) for key, value in context.invocation_metadata() or ()}
        # Its type says that there is always one.
        left: float | None = cast("Any", context).time_remaining()
        self.heard.append(
            {
                "rpc": rpc,
                "cue": cue,
                "deadline": left if left is not None and left < _NO_DEADLINE else None,
                "request_id": getattr(request, "request_id", None),
                "lease_ttl": request.lease_ttl.seconds if hasattr(request, "lease_ttl") else None,
                "owner": metadata.get("x-broker-owner"),
                "token": metadata.get("authorization"),
                "correlation_id": metadata.get("x-correlation-id"),
            }
        )
        name, _, times = cue.partition("*")
        if times and self._recited[rpc, cue] >= int(times):
            return
        self._recited[rpc, cue] += 1
        if name in _ERRORS:
            raise _ERRORS[name]
        if name == "INTERNAL":
            raise RuntimeError("the reciter errs, as its cue says")
        if name == "SILENCE":
            await asyncio.sleep(_SILENCE)
        if name in _STATUSES:
            code, message, details = _STATUSES[name]
            if details:
                context.set_trailing_metadata(((_DETAILS, details),))
            await context.abort(code, message)


def _session(session_id: str, sequence: int = 1) -> session_pb2.Session:
    return session_pb2.Session(
        session_id=session_id,
        gateway_id="default",
        client_id=7,
        state=session_pb2.SESSION_STATE_CONNECTED,
        generation=1,
        sequence=sequence,
        revision=sequence,
        owner="local",
    )


class _Sessions(session_service_pb2_grpc.SessionServiceServicer):
    """Those rpcs of SessionService that differ in how clients treat them."""

    def __init__(self, reciter: Reciter) -> None:
        self._reciter = reciter

    async def OpenSession(  # noqa: N802
        self, request: pb.OpenSessionRequest, context: Any
    ) -> pb.OpenSessionResponse:
        await self._reciter.recite("OpenSession", request.gateway_id, request, context)
        return pb.OpenSessionResponse(session=_session(request.gateway_id), created=True)

    async def CloseSession(  # noqa: N802
        self, request: pb.CloseSessionRequest, context: Any
    ) -> pb.CloseSessionResponse:
        await self._reciter.recite("CloseSession", request.session_id, request, context)
        closed = _session(request.session_id, 2)
        closed.state = session_pb2.SESSION_STATE_DISCONNECTED
        closed.close_reason = "CLOSE_REQUESTED"
        return pb.CloseSessionResponse(session=closed)

    async def GetSession(  # noqa: N802
        self, request: pb.GetSessionRequest, context: Any
    ) -> pb.GetSessionResponse:
        await self._reciter.recite("GetSession", request.session_id, request, context)
        return pb.GetSessionResponse(session=_session(request.session_id))

    async def VerifySession(  # noqa: N802
        self, request: pb.VerifySessionRequest, context: Any
    ) -> pb.VerifySessionResponse:
        await self._reciter.recite("VerifySession", request.session_id, request, context)
        return pb.VerifySessionResponse(healthy=True)

    async def WatchSessions(  # noqa: N802
        self, request: pb.WatchSessionsRequest, context: Any
    ) -> AsyncIterator[pb.WatchSessionsResponse]:
        """A snapshot, then event 2; the cue says what becomes of the rest."""
        cue = request.session_ids[0] if request.session_ids else ""
        if cue in {"GAP", "AGAIN", "SLOW_CONSUMER*1"}:
            if not request.resume_token:
                yield pb.WatchSessionsResponse(resume_token="0", snapshot=_session(cue, 1))
                yield pb.WatchSessionsResponse(
                    resume_token="1", revision=1, snapshot_complete=pb.SnapshotComplete()
                )
                yield _event(cue, 2)
            if cue == "SLOW_CONSUMER*1":
                await self._reciter.recite("WatchSessions", cue, request, context)
            yield _event(cue, {"GAP": 4, "AGAIN": 2}.get(cue, 3))
            await asyncio.sleep(_SILENCE)
        await self._reciter.recite("WatchSessions", cue, request, context)
        raise SessionNotFoundError(cue)


def _event(session_id: str, sequence: int) -> pb.WatchSessionsResponse:
    session = _session(session_id, sequence)
    return pb.WatchSessionsResponse(
        resume_token=str(sequence),
        revision=sequence,
        event=session_event_pb2.SessionEvent(
            session_id=session_id,
            sequence=sequence,
            revision=sequence,
            persisted=True,
            session=session,
            updated=session_event_pb2.Update(fields=["error_count"], actor="broker"),
        ),
    )


class _Gateways(gateway_service_pb2_grpc.GatewayServiceServicer):
    """What operators decide is not repeated when nobody answers; what they ask is."""

    def __init__(self, reciter: Reciter) -> None:
        self._reciter = reciter

    async def GetGateway(  # noqa: N802
        self, request: gateways_pb.GetGatewayRequest, context: Any
    ) -> gateways_pb.GetGatewayResponse:
        await self._reciter.recite("GetGateway", request.gateway_id, request, context)
        return gateways_pb.GetGatewayResponse(gateway=_gateway())

    async def DrainGateway(  # noqa: N802
        self, request: gateways_pb.DrainGatewayRequest, context: Any
    ) -> gateways_pb.DrainGatewayResponse:
        await self._reciter.recite("DrainGateway", request.gateway_id, request, context)
        return gateways_pb.DrainGatewayResponse(gateway=_gateway())


def _gateway() -> gateway_pb2.Gateway:
    return gateway_pb2.Gateway(gateway_id="default", session_limit=32)


@asynccontextmanager
async def reciting() -> AsyncIterator[tuple[Reciter, str]]:
    """The reciter and its address, meanwhile."""
    reciter = Reciter()

    async def owner_of(_: UUID) -> str:
        return "local"

    gate = Gate(Doorkeeper(now=lambda: datetime.now(UTC)), owner_of, Audit(time.monotonic))
    server = grpc.aio.server()
    # Generated code asks a server for nothing but to add handlers.
    boundary: Any = Boundary(server, gate, Telemetry(None, None, Observers([])))
    # Rpcs that it does not know are UNIMPLEMENTED; only the stubs' types call that abstract.
    sessions = _Sessions(reciter)  # type: ignore[abstract]
    gateways = _Gateways(reciter)  # type: ignore[abstract]
    session_service_pb2_grpc.add_SessionServiceServicer_to_server(sessions, boundary)
    gateway_service_pb2_grpc.add_GatewayServiceServicer_to_server(gateways, boundary)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    # What is recited is no news, and to the boundary a bare status is an error of ours.
    log = logging.getLogger("broker.rpc.boundary")
    was, log.disabled = log.disabled, True
    try:
        yield reciter, f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
        await boundary.wait_quiet(5)
        log.disabled = was
