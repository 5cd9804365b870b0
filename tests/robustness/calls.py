"""Calls the broker, and records what was asked and what came of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from ibgateway.broker.v1 import session_service_pb2_grpc

from tests.robustness.history import CANCELLED, OK, REFUSED, Call, History

DOMAIN = "ibgateway.broker.v1"
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 100),
)
SMALL_WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_535))
"""Lets a client that does not read be felt by the server soon."""


@asynccontextmanager
async def connected(
    address: str, *, small_window: bool = False
) -> AsyncIterator[tuple[Any, grpc.aio.Channel]]:
    """The session service, and the channel to it: a connection of its own."""
    options = (*OPTIONS, *(SMALL_WINDOW if small_window else ()))
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield session_service_pb2_grpc.SessionServiceStub(channel), channel


def reason(error: grpc.aio.AioRpcError) -> tuple[str, dict[str, str]]:
    """The reason that the API's error gives, with its metadata; or gRPC's own status."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status is not None else ():
        if detail.Unpack(info) and info.domain == DOMAIN:
            return info.reason, dict(info.metadata)
    name = error.code().name
    return (REFUSED if name == CANCELLED else name), {}


class Caller:
    """One owner at one channel.

    Args:
        name: in the history.
        owner: under which name it calls.
        sessions: the stub.
        history: where its calls are recorded.
    """

    def __init__(self, name: str, owner: str, sessions: Any, history: History) -> None:
        self.name = name
        self.owner = owner
        self._sessions = sessions
        self._history = history

    async def call(self, method: str, request: Any, timeout: float = 5.0) -> Call:
        """Call, and wait for whatever comes of it."""
        loop = asyncio.get_running_loop()
        call = Call(self.name, self.owner, method, request, loop.time(), time.time())
        call.timeout = timeout
        self._history.calls.append(call)
        try:
            call.response = await getattr(self._sessions, method)(
                request, timeout=timeout, metadata=(("x-broker-owner", self.owner),)
            )
            call.end = OK
        except grpc.aio.AioRpcError as error:
            call.end = reason(error)[0]
        finally:
            call.ended, call.ended_wall = loop.time(), time.time()
        return call
