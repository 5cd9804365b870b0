"""The broker in a process of its own, and who starts it again."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc.aio
from ibgateway.broker.v1 import broker_service_pb2, broker_service_pb2_grpc

from tests.program import ROOT, environment, free_address
from tests.robustness.history import Incarnation

SERVE = ("-m", "broker", "serve")
_STOPS = 20.0
"""Seconds after which a broker that was told to stop is taken to hang."""
_PAUSE = 0.2
"""Seconds before one that ended by itself is started again."""
_BUGS = ("Traceback", "session_crashed", "request_failed", "was never retrieved")
_NONE = ("ExecuteBatchError",)
"""What gRPC itself says of a peer that went away in the middle of a message."""


class BrokerProcess:
    """Runs the broker, and starts it again whenever it has ended, as a service manager does.

    Args:
        command: what python is told to run.
        settings: its environment.
        logs: where its log goes, one file for each incarnation.

    Attributes:
        incarnations: all so far, the one that runs last.
        address: where it listens; the same for ever.
    """

    def __init__(self, command: Sequence[str], settings: Mapping[str, str], logs: Path) -> None:
        self.incarnations: list[Incarnation] = []
        self.address = free_address()
        self._command = command
        self._settings = {**settings, "GATEWAY_BROKER_GRPC_LISTEN": self.address}
        self._logs = logs
        self._process: asyncio.subprocess.Process | None = None
        self._ended = asyncio.Event()
        self._serving = asyncio.Event()
        self._may_start = asyncio.Event()
        self._done = False

    @property
    def now(self) -> Incarnation:
        """The one that runs, or ran last."""
        return self.incarnations[-1]

    def log(self, incarnation: Incarnation) -> Path:
        """The log file of an incarnation."""
        return self._logs / f"broker-{incarnation.number}.log"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[BrokerProcess]:
        """Keep it running meanwhile; at the end it is stopped as an administrator does."""
        self._may_start.set()
        async with asyncio.TaskGroup() as tasks:
            keeper = tasks.create_task(self._keep(), name="service-manager")
            try:
                yield self
                self._done = True
                await self.terminate()
            finally:
                if self._process is not None and self._process.returncode is None:
                    self._process.kill()
                keeper.cancel()

    async def serves(self, timeout: float = 60.0) -> None:
        """Wait until it serves."""
        async with asyncio.timeout(timeout):
            await self._serving.wait()

    async def kill(self) -> None:
        """End it with -9. It is not started again before ``release``."""
        await self._end(signal.SIGKILL, "KILLED")

    async def terminate(self) -> None:
        """Tell it to stop, and wait until it has. It is not started again before ``release``."""
        await self._end(signal.SIGTERM, "TERMINATED")

    def release(self) -> None:
        """Let it be started again."""
        self._may_start.set()

    async def freeze(self, seconds: float) -> None:
        """Let it stand still for so long."""
        if self._process is None or self._process.returncode is not None:
            return
        process, incarnation = self._process, self.now
        began = asyncio.get_running_loop().time()
        process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            incarnation.pauses.append((began, asyncio.get_running_loop().time()))

    async def _end(self, number: int, how: str) -> None:
        self._may_start.clear()
        process = self._process
        if process is None or process.returncode is not None:
            return
        self.now.ended, self.now.how = asyncio.get_running_loop().time(), how
        self._serving.clear()
        process.send_signal(number)
        try:
            async with asyncio.timeout(_STOPS):
                await self._ended.wait()
        except TimeoutError:
            process.kill()
            await self._ended.wait()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._done:
            await self._may_start.wait()
            incarnation = Incarnation(len(self.incarnations) + 1, started=loop.time())
            self.incarnations.append(incarnation)
            self._ended.clear()
            with self.log(incarnation).open("wb") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, *self._command),
                    cwd=ROOT,
                    env=environment(**self._settings),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            async with asyncio.TaskGroup() as tasks:
                knock = tasks.create_task(self._knock(incarnation), name="knock")
                incarnation.code = await self._process.wait()
                knock.cancel()
            incarnation.crashes = _bugs(self.log(incarnation))
            by_itself = not incarnation.how
            if by_itself:
                incarnation.ended, incarnation.how = loop.time(), "EXITED"
            self._serving.clear()
            self._ended.set()
            if by_itself:
                await asyncio.sleep(_PAUSE)

    async def _knock(self, incarnation: Incarnation) -> None:
        """Ask until it answers who it is."""
        options = (
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 100),
        )
        async with grpc.aio.insecure_channel(self.address, options=options) as channel:
            stub: Any = broker_service_pb2_grpc.BrokerServiceStub(channel)
            while not incarnation.ready:
                try:
                    info = await stub.GetBrokerInfo(
                        broker_service_pb2.GetBrokerInfoRequest(), timeout=1.0
                    )
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.02)
                    continue
                incarnation.epoch = info.epoch
                incarnation.ready = asyncio.get_running_loop().time()
                if not incarnation.ended:
                    self._serving.set()


def _bugs(log: Path) -> list[str]:
    """What the log says of bugs: what the broker itself calls one, or Python does."""
    found = []
    for line in log.read_text(errors="replace").splitlines():
        if any(bug in line for bug in _BUGS) and not any(none in line for none in _NONE):
            with suppress(ValueError):
                said = json.loads(line)
                line = f"{said.get('event')}: {said.get('exception', '')[-400:]}"  # noqa: PLW2901
            found.append(line[:600])
    return found
