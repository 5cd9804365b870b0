"""A broker on real sockets and a real database, and the errors that it answers with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from ibgateway.broker.v1 import (
    broker_service_pb2_grpc,
    error_pb2,
    gateway_service_pb2_grpc,
    session_pb2,
    session_service_pb2_grpc,
)
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.app import Running, broker
from broker.config import OFF, GatewayConfig, Settings
from broker.simulator.gateway import SimulatedGateway

CONNECTED = session_pb2.SESSION_STATE_CONNECTED
CONNECTING = session_pb2.SESSION_STATE_CONNECTING
RECONNECTING = session_pb2.SESSION_STATE_RECONNECTING
DISCONNECTED = session_pb2.SESSION_STATE_DISCONNECTED
FAILED = session_pb2.SESSION_STATE_FAILED


@dataclass(frozen=True)
class Client:
    """The stubs of one channel."""

    running: Running
    channel: grpc.aio.Channel
    sessions: Any
    gateways: Any
    broker: Any

    async def open(self, **fields: Any) -> session_pb2.Session:
        response = await self.sessions.OpenSession(pb.OpenSessionRequest(**fields))
        session: session_pb2.Session = response.session
        return session

    async def get(self, session_id: str) -> session_pb2.Session:
        response = await self.sessions.GetSession(pb.GetSessionRequest(session_id=session_id))
        session: session_pb2.Session = response.session
        return session

    async def close(self, session_id: str) -> session_pb2.Session:
        response = await self.sessions.CloseSession(pb.CloseSessionRequest(session_id=session_id))
        session: session_pb2.Session = response.session
        return session

    async def list(self, **fields: Any) -> list[session_pb2.Session]:
        response = await self.sessions.ListSessions(pb.ListSessionsRequest(**fields))
        return list(response.sessions)


NO_FIXED_PORTS: dict[str, Any] = {
    "grpc_listen": "127.0.0.1:0",
    "http_listen": OFF,
    "prometheus_port": 0,
}
"""The settings of a broker that takes no port which others would miss."""


UNHURRIED: dict[str, Any] = {"store_grace": 4.0}
"""A database that is slow for once makes no watcher see an event twice."""


def gateway(simulator: SimulatedGateway, **changes: Any) -> GatewayConfig:
    """The simulated Gateway, with waits that suit a test."""
    quick: dict[str, Any] = {
        "timeout": 5.0,
        "retry_initial_delay": 0.05,
        "retry_max_delay": 0.2,
        "handshake_spacing": 0.0,
        "heartbeat_timeout": 1.0,
        "sentinel": False,
        "auth_grace": 0.0,
    }
    address: dict[str, Any] = {"host": simulator.host, "port": simulator.port}
    return GatewayConfig(**(address | quick | changes))


@asynccontextmanager
async def serving(
    simulator: SimulatedGateway,
    database_url: str,
    *,
    gateway_changes: dict[str, Any] | None = None,
    more_gateways: dict[str, GatewayConfig] | None = None,
    **changes: Any,
) -> AsyncIterator[Client]:
    """A broker in this process, and a channel to it."""
    settings = Settings(
        gateways={
            "default": gateway(simulator, **(gateway_changes or {})),
            **(more_gateways or {}),
        },
        database_url=database_url,
        **{**NO_FIXED_PORTS, **UNHURRIED, **changes},
    )
    async with broker(settings) as running, connected(running) as client:
        yield client


@asynccontextmanager
async def connected(running: Running, *more: tuple[str, int]) -> AsyncIterator[Client]:
    """A channel of its own to a broker."""
    # Each channel its own connection: a test's channels must not share one.
    options = (("grpc.use_local_subchannel_pool", 1), *more)
    async with grpc.aio.insecure_channel(running.grpc_address, options=options) as channel:
        yield Client(
            running,
            channel,
            session_service_pb2_grpc.SessionServiceStub(channel),
            gateway_service_pb2_grpc.GatewayServiceStub(channel),
            broker_service_pb2_grpc.BrokerServiceStub(channel),
        )


def sockets(simulator: SimulatedGateway) -> int:
    """How many sockets the Gateway has open, whatever their handshake has come to."""
    return sum(record.ended is None for record in simulator.journal)


async def eventually(check: Callable[[], Any], timeout: float = 5.0) -> Any:
    """Wait until a check gives something true; the only way in which tests wait."""
    async with asyncio.timeout(timeout):
        while True:
            result = check()
            if asyncio.iscoroutine(result):
                result = await result
            if result:
                return result
            await asyncio.sleep(0.005)


@dataclass(frozen=True)
class Refusal:
    """What a gRPC error says."""

    status: grpc.StatusCode
    reason: str
    message: str
    metadata: dict[str, str]
    fields: list[str]
    failure: error_pb2.ConnectionFailure | None
    retry_after: float | None


def refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """Read the details of an error of this API."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None, error
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    failure = error_pb2.ConnectionFailure()
    retry = error_details_pb2.RetryInfo()
    found = {
        type(message): message
        for detail in status.details
        for message in (info, bad, failure, retry)
        if detail.Unpack(message)
    }
    assert info.domain == "ibgateway.broker.v1"
    return Refusal(
        status=error.code(),
        reason=info.reason,
        message=error.details() or "",
        metadata=dict(info.metadata),
        fields=[violation.field for violation in bad.field_violations],
        failure=failure if type(failure) in found else None,
        retry_after=retry.retry_delay.ToNanoseconds() / 1e9 if type(retry) in found else None,
    )
