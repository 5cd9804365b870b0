"""The servers that are measured, each in a process of its own: the broker, and a bare one.

Prints its address when it serves, and ends when its standard input does.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
from pathlib import Path
from typing import Any, Final

import grpc.aio
import uvloop
from ibgateway.broker.v1 import session_service_pb2 as pb
from ibgateway.broker.v1 import session_service_pb2_grpc

from broker.app import broker
from broker.config import OFF, GatewayConfig, Settings
from broker.rpc.server import options
from broker.telemetry import logs

HEARTBEAT_INTERVAL: Final = 2.0
HEARTBEAT_TIMEOUT: Final = 1.0
"""Seconds; shorter than by default, so that a bench ends soon."""


class Bare(session_service_pb2_grpc.SessionServiceServicer):
    """What gRPC alone costs: answers that are made already, one future per watcher."""

    def __init__(self) -> None:
        self._session = pb.GetSessionResponse()
        self._message = pb.WatchSessionsResponse()
        self._waiters: set[asyncio.Future[None]] = set()

    async def GetSession(self, request: Any, context: Any) -> Any:
        """Answer with the session that the last CloseSession left here."""
        return self._session

    async def CloseSession(self, request: Any, context: Any) -> Any:
        """Take the bytes of an answer and of an event to give out from now on; send the event."""
        session, _, event = request.reason.partition("|")
        self._session = pb.GetSessionResponse.FromString(bytes.fromhex(session))
        self._message = pb.WatchSessionsResponse.FromString(bytes.fromhex(event))
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            waiter.set_result(None)
        return pb.CloseSessionResponse()

    async def WatchSessions(self, request: Any, context: Any) -> Any:
        """One message at once, and one for each event."""
        yield pb.WatchSessionsResponse(snapshot_complete=pb.SnapshotComplete())
        while True:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
            yield self._message


async def serve_bare() -> None:
    """Serve with the broker's own options, so that only its work is compared."""
    gc.set_threshold(50_000, 20, 100)
    arguments = [*options(20_000), ("grpc.max_receive_message_length", 2**20)]
    server = grpc.aio.server(options=arguments)
    session_service_pb2_grpc.add_SessionServiceServicer_to_server(
        Bare(),  # type: ignore[abstract]  # the other rpcs answer UNIMPLEMENTED
        server,
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await _told_to_end(f"127.0.0.1:{port}")
    await server.stop(0)


async def serve_broker(
    gateway_port: int, data_dir: Path, database_url: str | None, listen: str
) -> None:
    """The broker as it is, with its own PostgreSQL unless another is named."""
    logs.configure("CRITICAL", "json")
    settings = Settings(
        gateways={
            "default": GatewayConfig(
                port=gateway_port,
                handshake_spacing=0,
                heartbeat_interval=HEARTBEAT_INTERVAL,
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
            )
        },
        session_limit=32,
        grpc_listen=listen,
        http_listen=OFF,
        prometheus_port=0,
        data_dir=data_dir,
        database_url=database_url,
    )
    async with broker(settings) as running:
        await _told_to_end(running.grpc_address)


async def _told_to_end(address: str) -> None:
    sys.stdout.write(f"{address}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("bare", "broker"))
    parser.add_argument("--gateway-port", type=int, default=0)
    parser.add_argument("--data-dir", type=Path, default=Path())
    parser.add_argument("--database-url")
    parser.add_argument("--listen", default="127.0.0.1:0")
    arguments = parser.parse_args()
    work = (
        serve_bare()
        if arguments.kind == "bare"
        else serve_broker(
            arguments.gateway_port, arguments.data_dir, arguments.database_url, arguments.listen
        )
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


if __name__ == "__main__":
    main()
