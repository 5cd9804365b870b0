"""A broker that asks who calls, and channels to it of those who may come in and who may not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from ibgateway.broker.v1 import (
    broker_service_pb2_grpc,
    gateway_service_pb2_grpc,
    session_service_pb2_grpc,
)

from broker.access import roster, tokens
from broker.access.identity import Identity, Role
from broker.access.roster import Entry
from broker.access.trial import Trial
from broker.simulator.gateway import SimulatedGateway
from tests.harness import Client, serving


def make(directory: Path, **clients: Role) -> Trial:
    """The files of `access init`."""
    trial = Trial(directory / "trial")
    trial.make(["localhost", "127.0.0.1"], clients, now=datetime.now(UTC), days=30)
    return trial


def give_token(
    trial: Trial, name: str, role: Role = Role.TRADER, until: datetime | None = None
) -> str:
    """Let somebody in."""
    token = tokens.new_token()
    roster.add(trial.access_file, Entry(Identity(name, role), until, tokens.digest(token)))
    return token


def token_of(trial: Trial, role: Role) -> str:
    return trial.token(role).read_text().strip()


def settings(trial: Trial, *, mutual: bool = False) -> dict[str, Any]:
    """What a broker with these files is told."""
    return {
        "tls_certificate": trial.certificate,
        "tls_key": trial.key,
        "access_file": trial.access_file,
        **({"tls_client_ca": trial.ca} if mutual else {}),
    }


@asynccontextmanager
async def guarded(
    simulator: SimulatedGateway, database_url: str, trial: Trial, **changes: Any
) -> AsyncIterator[str]:
    """A broker with TLS that asks who calls; gives its address."""
    async with serving(simulator, database_url, **(settings(trial) | changes)) as client:
        yield client.running.grpc_address


def bearer(token: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {token}")


@asynccontextmanager
async def calling(
    address: str,
    trial: Trial,
    token: str | None = None,
    *,
    client: str | None = None,
    more: tuple[tuple[str, str], ...] = (),
    ca: bytes | None = None,
) -> AsyncIterator[Client]:
    """A channel over TLS of its own, that shows a token, a certificate, both or nothing."""
    certificate, key = (
        (None, None) if client is None else (path.read_bytes() for path in trial.client(client))
    )
    credentials = grpc.ssl_channel_credentials(ca or trial.ca.read_bytes(), key, certificate)
    metadata = (*((bearer(token),) if token is not None else ()), *more)
    async with grpc.aio.secure_channel(
        address,
        credentials,
        options=(("grpc.use_local_subchannel_pool", 1),),
        interceptors=_showing(metadata),
    ) as channel:
        yield Client(
            None,  # type: ignore[arg-type]  # it is elsewhere
            channel,
            session_service_pb2_grpc.SessionServiceStub(channel),
            gateway_service_pb2_grpc.GatewayServiceStub(channel),
            broker_service_pb2_grpc.BrokerServiceStub(channel),
        )


def _showing(metadata: tuple[tuple[str, str], ...]) -> list[Any]:
    async def show(continuation: Any, details: Any, request: Any) -> Any:
        sent = [*(details.metadata or ()), *metadata]
        return await continuation(details._replace(metadata=grpc.aio.Metadata(*sent)), request)

    class UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation, details, request):
            return await show(continuation, details, request)

    class UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
        async def intercept_unary_stream(self, continuation, details, request):
            return await show(continuation, details, request)

    class StreamStream(grpc.aio.StreamStreamClientInterceptor):
        async def intercept_stream_stream(self, continuation, details, requests):
            return await show(continuation, details, requests)

    return [UnaryUnary(), UnaryStream(), StreamStream()] if metadata else []


def lines(text: str) -> Mapping[str, str]:
    """The lines of an access file, by name."""
    return {line.split()[0]: line for line in text.splitlines() if not line.startswith("#")}
