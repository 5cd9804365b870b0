"""What a scenario is played on: brokers, a database, simulated Gateways, and the reciter.

The broker is `gateway-broker serve` in a process of its own, as users run it, on an address that
stays over its restarts; so are its database, behind a proxy, and the Gateways. A second broker asks
who calls, over TLS.
"""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from ibgateway.broker.v1 import (
    gateway_service_pb2,
    gateway_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
)
from ibgateway.simulator.v1 import simulator_service_pb2, simulator_service_pb2_grpc

from broker.access.identity import Role
from broker.access.trial import Trial
from clients.conformance.processes import Process, ProcessError
from clients.conformance.reciter import Reciter, reciting
from tests.harness import eventually
from tests.postgres import data_directory, execute
from tests.program import ROOT, environment, free_address
from tests.robustness.database import Database, database

_STARTS: Final = 90.0
"""Seconds for a program to serve, on a computer that has much else to do."""
_STOPS: Final = 40.0
_TIDIES: Final = 60.0
_LOG_LINES: Final = 15
_CALL: Final = 20.0
_QUICK: Final = """
kind = "paper"
timeout = 5.0
retry_initial_delay = 0.05
retry_max_delay = 0.2
handshake_spacing = 0.0
sentinel = false
auth_grace = 0.0
"""
"""Waits of a gateway that suit a test."""
_SMALL: Final = """
client_ids = "500-500"
session_limit = 2
circuit_breaker_failure_threshold = 2
circuit_breaker_success_threshold = 1
circuit_breaker_timeout = 5.0
"""
_ACCESS_HERE: Final = "# access"


class StageError(Exception):
    """Something on the stage does not do what it is there for."""


class Broker:
    """A `gateway-broker serve` that can be stopped and started.

    Args:
        directory: where its configuration and its log are.
        config: the configuration, without its own address.
        database_url: its database.
    """

    def __init__(self, directory: Path, config: str, database_url: str) -> None:
        directory.mkdir()
        self.address = free_address()
        self._log = directory / "log"
        self._settings = {
            "GATEWAY_BROKER_CONFIG": str(directory / "broker.toml"),
            "GATEWAY_BROKER_GRPC_LISTEN": self.address,
            "DATABASE_URL": database_url,
        }
        (directory / "broker.toml").write_text(config)
        self._log.touch()
        self._process: Process | None = None

    @property
    def is_running(self) -> bool:
        """Whether it was started, and not stopped."""
        return self._process is not None

    async def start(self) -> None:
        """Start it, and wait until it serves.

        Raises:
            StageError: it does not.
        """
        begin = self._log.stat().st_size
        self._process = await Process.start(
            ["sh", "-c", 'exec "$0" -m broker serve >>"$1" 2>&1', sys.executable, str(self._log)],
            name="the broker",
            cwd=ROOT,
            env=environment(**self._settings),
        )
        try:
            async with asyncio.timeout(_STARTS):
                while b'"broker_serving"' not in self._log.read_bytes()[begin:]:
                    if self._process.code is not None:
                        raise StageError(f"the broker has ended at its start{self.log_tail()}")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise StageError(f"the broker does not serve{self.log_tail()}") from None

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it. Stopping twice is no error."""
        process, self._process = self._process, None
        if process is not None:
            await process.end(how, _STOPS)

    def log_tail(self) -> str:
        """The end of its log, to be put behind a message."""
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return "".join(f"\n    {line[:400]}" for line in lines)


class Simulator:
    """A `gateway-broker simulate`, and its addresses."""

    def __init__(self, process: Process, said: str) -> None:
        self.process = process
        [self.gateway] = re.findall(r"TWS clients: (\S+)", said)
        [self.control] = re.findall(r"control: +(\S+)", said)

    @classmethod
    async def start(cls) -> Simulator:
        """Start one."""
        process = await Process.start(
            [
                *(sys.executable, "-m", "broker", "simulate", "--hold-after-reset", "0.2"),
                *("--listen", "127.0.0.1:0", "--control-listen", "127.0.0.1:0"),
            ],
            name="the simulated Gateway",
            cwd=ROOT,
            env=environment(PYTHONUNBUFFERED="1"),
        )
        try:
            return cls(process, await process.read_until("Press Ctrl-C", _STARTS))
        except BaseException:
            await process.end()
            raise


class Stage:
    """All of it, once it is set up; see `stage`.

    Attributes:
        names: what a scenario may say for addresses, files and tokens.
        broker: the one that the scenario is about.
        database: of both brokers.
        reciter: what it has heard.
    """

    def __init__(
        self,
        *,
        names: Mapping[str, str],
        broker: Broker,
        guarded: Broker,
        database: Database,
        reciter: Reciter,
        simulators: tuple[Simulator, Simulator],
    ) -> None:
        self.names = names
        self.broker = broker
        self.database = database
        self.reciter = reciter
        self._guarded = guarded
        self._simulators = simulators

    async def perform(self, do: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """A step of the harness's own; returns its result.

        Raises:
            StageError: it cannot be done.
        """
        match do:
            case "stop_broker":
                await self.broker.stop(_signal(given))
            case "start_broker":
                await self.broker.start()
            case "restart_broker":
                await self.broker.stop(_signal(given))
                await self.broker.start()
            case "stop_database":
                await self.database.stop()
            case "start_database":
                await self.database.start()
            case "pause":
                await asyncio.sleep(given["seconds"])
            case "make_uuid":
                return {"uuid": str(uuid.uuid4())}
            case "heard":
                return {"calls": list(self.reciter.heard)}
            case "forget_heard":
                self.reciter.forget()
            case _:
                raise AssertionError(do)
        return {}

    async def tidy(self) -> None:
        """All is well and no session is open, whatever has happened before.

        Raises:
            StageError: it is not, and does not become so.
        """
        if not self.database.running:
            await self.database.start()
        for broker in (self.broker, self._guarded):
            if not broker.is_running:
                await broker.start()
        try:
            async with asyncio.timeout(_TIDIES):
                for simulator in self._simulators:
                    await _calm(simulator.control)
                await eventually(lambda: _tidied(self.broker.address), _TIDIES)
        except (TimeoutError, grpc.aio.AioRpcError) as error:
            raise StageError(f"the stage cannot be tidied: {error!r}{self.log_tail()}") from None

    def log_tail(self) -> str:
        """The end of the broker's log."""
        return self.broker.log_tail()


def _signal(given: Mapping[str, Any]) -> signal.Signals:
    return {"stopped": signal.SIGTERM, "killed": signal.SIGKILL}[given["how"]]


async def _calm(control: str) -> None:
    """The Gateway listens, answers, and has no fault armed."""
    sim = simulator_service_pb2
    async with grpc.aio.insecure_channel(control) as channel:
        stub: Any = simulator_service_pb2_grpc.SimulatorServiceStub(channel)
        await stub.ClearFaults(sim.ClearFaultsRequest(), timeout=_CALL)
        await stub.SetMute(sim.SetMuteRequest(muted=False), timeout=_CALL)
        await stub.SetListening(sim.SetListeningRequest(listening=True), timeout=_CALL)


async def _tidied(address: str) -> bool:
    """Close what is open; returns whether all could be done, which takes the database."""
    gateways, pb = gateway_service_pb2, session_service_pb2
    async with grpc.aio.insecure_channel(address) as channel:
        operators: Any = gateway_service_pb2_grpc.GatewayServiceStub(channel)
        sessions: Any = session_service_pb2_grpc.SessionServiceStub(channel)
        try:
            listed = await operators.ListGateways(gateways.ListGatewaysRequest(), timeout=_CALL)
            for gateway in listed.gateways:
                name = gateway.gateway_id
                if gateway.HasField("drain"):
                    await operators.ResumeGateway(
                        gateways.ResumeGatewayRequest(gateway_id=name), timeout=_CALL
                    )
                await operators.ResetCircuitBreaker(
                    gateways.ResetCircuitBreakerRequest(gateway_id=name), timeout=_CALL
                )
            page = await sessions.ListSessions(
                pb.ListSessionsRequest(page_size=1000), timeout=_CALL
            )
            for session in page.sessions:
                await sessions.CloseSession(
                    pb.CloseSessionRequest(session_id=session.session_id), timeout=_CALL
                )
            # It must be able to record again, too.
            await sessions.ListSessions(
                pb.ListSessionsRequest(page_size=1, include_final=True), timeout=_CALL
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return False
            raise
    return True


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """Everything that a scenario needs, meanwhile; all of it is ended in any case.

    Raises:
        StageError: something does not start.
    """
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(data_directory())
        try:
            yield await _set_up(stack, directory)
        except ProcessError as error:
            raise StageError(str(error)) from None


async def _set_up(stack: AsyncExitStack, directory: Path) -> Stage:
    cluster = directory / "cluster"
    cluster.mkdir(mode=0o711)
    reciter, recited_at = await stack.enter_async_context(reciting())

    async def simulator() -> Simulator:
        started = await Simulator.start()
        stack.push_async_callback(started.process.end, signal.SIGKILL)
        return started

    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(simulator(), name="simulator")
        second = tasks.create_task(simulator(), name="simulator")
        base = await stack.enter_async_context(database(cluster))
        await base.create("broker")
        await execute(
            base.url("postgres"),
            "CREATE DATABASE guarded TEMPLATE broker",
        )
        await execute(base.url("guarded"), "UPDATE broker_store SET store_id = gen_random_uuid()")
    default, small = first.result(), second.result()
    trial, other = Trial(directory / "access"), Trial(directory / "other")
    for made in (trial, other):
        made.make(["localhost", "127.0.0.1"], {}, now=datetime.now(UTC), days=1)
    refused, config = free_address(), _config(default, small)
    broker = Broker(
        directory / "broker",
        f"{config}{_gateway('refused', refused)}",
        base.proxied_url("broker"),
    )
    guarded = Broker(
        directory / "guarded",
        config.replace(_ACCESS_HERE, _access(trial)),
        base.proxied_url("guarded"),
    )
    for each in (broker, guarded):
        # Nothing of them is needed any more: what they would tidy up goes with the directory.
        stack.push_async_callback(each.stop, signal.SIGKILL)
    await asyncio.gather(broker.start(), guarded.start())
    return Stage(
        names={
            "broker": broker.address,
            "guarded": guarded.address,
            "reciter": recited_at,
            "nobody": refused,
            "control": default.control,
            "small_control": small.control,
            "ca": str(trial.ca),
            "other_ca": str(other.ca),
            **{f"{role.name.lower()}_token": _token(trial, role) for role in Role},
            "unknown_token": _token(other, Role.TRADER),
        },
        broker=broker,
        guarded=guarded,
        database=base,
        reciter=reciter,
        simulators=(default, small),
    )


def _token(trial: Trial, role: Role) -> str:
    return trial.token(role).read_text().strip()


def _access(trial: Trial) -> str:
    return (
        f'tls_certificate = "{trial.certificate}"\ntls_key = "{trial.key}"\n'
        f'access_file = "{trial.access_file}"\n'
    )


def _config(default: Simulator, small: Simulator) -> str:
    """Gateways for all that a scenario does; ``small`` has little of everything."""
    return (
        "session_limit = 90\nbookmark_interval = 1.5\nstore_timeout = 1.0\nstore_grace = 0.5\n"
        f"stop_grace = 0.5\n{_ACCESS_HERE}\n"
        f"{_gateway('default', default.gateway)}"
        f"{_gateway('small', small.gateway, _SMALL)}"
        f"{_gateway('unknown', 'gateway.invalid:4002')}"
    )


def _gateway(name: str, address: str, more: str = "") -> str:
    host, _, port = address.rpartition(":")
    return f'[gateways.{name}]\nhost = "{host}"\nport = {port}\n{_QUICK}{more}'
