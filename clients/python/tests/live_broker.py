"""A real broker with a simulated Gateway and a PostgreSQL of its own, as `make dev` starts it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import grpc.aio

from ibgateway.client import BrokerError, connect
from ibgateway.simulator.v1 import simulator_service_pb2 as sim
from ibgateway.simulator.v1 import simulator_service_pb2_grpc as sim_grpc

ROOT = Path(__file__).resolve().parents[3]
_OURS = ("GATEWAY_BROKER_", "IB_GATEWAY_", "DATABASE_URL", "LOG_LEVEL")
_READY = b"Ctrl-C stops all of it."
_PORTS = 2_500
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_next_port = itertools.count(secrets.randbelow(_PORTS))


@contextlib.contextmanager
def data_directory() -> Iterator[Path]:
    """A directory that the database's own user can pass through."""
    path = Path(tempfile.mkdtemp(prefix="sdk-"))
    if os.geteuid() == 0:
        path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def free_port() -> int:
    """One that nobody has, nor will, also while whoever listened there is away.

    It is below the ports that the system gives away, and among those that no other worker of pytest
    takes; none is given twice.
    """
    while True:
        port = 10_000 + _WORKER % 8 * _PORTS + next(_next_port) % _PORTS
        with contextlib.suppress(OSError), socket.socket() as free:
            free.bind(("127.0.0.1", port))
            return port


class LiveBroker:
    """`gateway-broker dev`, on the same ports for its whole life.

    Args:
        data_dir: where it keeps its database; the same after a restart.
        access: the directory of `access init`, for one that asks who calls.
    """

    def __init__(self, data_dir: Path, access: Path | None = None) -> None:
        self._access = () if access is None else ("--access", str(access))
        self.address = f"127.0.0.1:{free_port()}"
        self.gateway = f"127.0.0.1:{free_port()}"
        self.control = f"127.0.0.1:{free_port()}"
        self._data_dir = data_dir
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, timeout: float = 90.0) -> None:
        """Start it, and wait until it serves."""
        python = os.environ.get("GATEWAY_BROKER_PYTHON") or sys.executable
        clean = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        # What is on the path of these tests is not for the broker's interpreter.
        clean.pop("PYTHONPATH", None)
        self._log = (self._data_dir / "broker.log").open("a+")
        self._process = subprocess.Popen(
            [
                *(python, "-m", "broker", "dev"),
                *("--grpc-listen", self.address),
                *("--gateway-listen", self.gateway),
                *("--control-listen", self.control),
                *("--http-listen", "127.0.0.1:0", "--prometheus-port", "0"),
                *("--data-dir", str(self._data_dir / "data")),
                *self._access,
            ],
            cwd=ROOT,
            env=clean,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        deadline, said = time.monotonic() + timeout, b""
        while _READY not in said:
            ready, _, _ = select.select([output], [], [], max(deadline - time.monotonic(), 0))
            more = os.read(output, 65_536) if ready else b""
            if not more:
                self.kill()
                raise AssertionError(f"the broker does not serve: {said.decode()}{self.log()}")
            said += more

    def stop(self) -> None:
        """Ask it to end, as an operator does."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it without a warning."""
        self._end(signal.SIGKILL)

    def log(self) -> str:
        """What it has logged, without the marks of its words' colours."""
        text = (self._data_dir / "broker.log").read_text()
        return re.sub(r"\x1b\[[0-9;]*m", "", text)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
            raise
        finally:
            if process.stdout is not None:
                process.stdout.close()
            self._log.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def simulator(self, rpc: str, **fields: Any) -> Any:
        """Call the simulated Gateway's control service."""
        async with grpc.aio.insecure_channel(self.control) as channel:
            stub = sim_grpc.SimulatorServiceStub(channel)
            return await getattr(stub, rpc)(getattr(sim, f"{rpc}Request")(**fields), timeout=10)

    async def tidy(self) -> None:
        """All is well with the simulated Gateway, and no session is open."""
        for script in ("restart", "storm"):
            await self.simulator("StopScript", name=script)
        await self.simulator("ClearFaults")
        await self.simulator("SetMute", muted=False)
        await self.simulator("SetListening", listening=True)
        async with connect(self.address) as broker:
            await broker.gateways.resume()
            await broker.gateways.reset_breaker()
            async with asyncio.timeout(60):
                async for info in broker.list_sessions():
                    with contextlib.suppress(BrokerError):
                        await broker.close_session(info.session_id, reason="the test has ended")
