"""The gRPC server: options, services, and what it takes to stop without losing an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from ibgateway.broker.v1 import (
    broker_service_pb2,
    broker_service_pb2_grpc,
    gateway_service_pb2,
    gateway_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
)

from broker.access.doorkeeper import Doorkeeper
from broker.errors import StartupError
from broker.rpc.auth import Gate
from broker.rpc.boundary import Boundary, RpcObserver
from broker.rpc.broker_service import BrokerService
from broker.rpc.gateway_service import GatewayService
from broker.rpc.health import HealthReporter
from broker.rpc.session_service import SessionService

if TYPE_CHECKING:
    from broker.access.certificates import Material

_LAST_ANSWERS: Final = 0.5
"""Seconds that answers have to leave, once their handlers have ended."""

LARGEST_REQUEST: Final = 64 * 1024
"""Bytes; no request of this API comes near."""


class Server:
    """Serves the API on one address.

    Args:
        listen: HOST:PORT; port 0 takes a free one.
        watcher_limit: how many calls may arrive at once without being refused.
        doorkeeper: has the certificate to show, if there is one.
        gate: lets callers in.
        observer: looks on at every rpc.

    Attributes:
        sessions: serves sessions.
        gateways: serves gateways.
        broker: tells of the broker.
    """

    def __init__(
        self,
        listen: str,
        *,
        watcher_limit: int,
        doorkeeper: Doorkeeper,
        gate: Gate,
        sessions: SessionService,
        gateways: GatewayService,
        broker: BrokerService,
        health: HealthReporter,
        observer: RpcObserver,
    ) -> None:
        self.sessions = sessions
        self.gateways = gateways
        self.broker = broker
        self._server = grpc.aio.server(options=options(watcher_limit))
        self.boundary = Boundary(self._server, gate, observer)
        # Generated code asks a server for nothing but to add handlers.
        ours: Any = self.boundary
        session_service_pb2_grpc.add_SessionServiceServicer_to_server(sessions, ours)
        gateway_service_pb2_grpc.add_GatewayServiceServicer_to_server(gateways, ours)
        broker_service_pb2_grpc.add_BrokerServiceServicer_to_server(broker, ours)
        health_pb2_grpc.add_HealthServicer_to_server(health.servicer, self._server)
        described = reflection.aio.ReflectionServicer(
            [
                session_service_pb2.DESCRIPTOR.services_by_name["SessionService"].full_name,
                gateway_service_pb2.DESCRIPTOR.services_by_name["GatewayService"].full_name,
                broker_service_pb2.DESCRIPTOR.services_by_name["BrokerService"].full_name,
                health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
                reflection.SERVICE_NAME,
            ]
        )
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
            described, ours
        )
        host = listen.rpartition(":")[0]
        credentials = _credentials(doorkeeper)
        try:
            port = (
                self._server.add_insecure_port(listen)
                if credentials is None
                else self._server.add_secure_port(listen, credentials)
            )
        except RuntimeError as error:
            raise StartupError(
                f"cannot listen on {listen}: is another broker running there? Stop it, or choose "
                f"another address with --grpc-listen (GATEWAY_BROKER_GRPC_LISTEN): {error}"
            ) from None
        self.address = f"{host}:{port}"

    async def start(self) -> None:
        """Begin to serve."""
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """End what still runs within ``grace`` seconds, and wait for the last handler.

        ``server.stop`` returns before cancelled stream handlers have ended, so the
        boundary's own count is waited for.
        """
        stopping = asyncio.create_task(self._server.stop(grace), name="grpc-stop")
        await self.boundary.wait_quiet(grace)
        # What still runs is none of ours: a watch of health or reflection never ends by itself.
        # The last answers of ours may still be on their way.
        await self._server.stop(min(grace, _LAST_ANSWERS))
        await stopping


def _credentials(doorkeeper: Doorkeeper) -> grpc.ServerCredentials | None:
    """For TLS, with whatever certificate is the doorkeeper's when a caller connects."""
    shown = doorkeeper.tls
    if shown is None:
        return None

    def newest() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        before, shown = shown, doorkeeper.tls
        return None if shown is None or shown is before else _configuration(shown)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(shown),
        newest,  # type: ignore[arg-type]  # None is for no change
        require_client_authentication=doorkeeper.takes_certificates,
    )


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.certificate)], root_certificates=material.client_ca
    )


def options(watcher_limit: int) -> Sequence[tuple[str, Any]]:
    """The channel arguments of the server, for this many calls that arrive at once."""
    return (
        # Two brokers on one port would each get half of the calls.
        ("grpc.so_reuseport", 0),
        # Beyond these gRPC refuses new streams with a bare CANCELLED, which no client can
        # tell from its own; watchers that all come back at once are more than the default.
        ("grpc.server.max_pending_requests", watcher_limit),
        ("grpc.server.max_pending_requests_hard_limit", 2 * watcher_limit),
        ("grpc.max_receive_message_length", LARGEST_REQUEST),
        # Dead watchers are found in 40 s instead of gRPC's 2 hours.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    )
