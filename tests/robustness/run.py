"""One run: a broker, its Gateway and its database, what happens to them, and the record of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ibgateway.broker.v1 import session_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.simulator.gateway import SimulatedGateway, SimulatorSettings
from tests.harness import eventually, sockets
from tests.robustness.calls import Caller, connected
from tests.robustness.database import Database
from tests.robustness.history import OK, History, Limits
from tests.robustness.nemesis import ALL, Nemesis
from tests.robustness.process import SERVE, BrokerProcess
from tests.robustness.record import Record
from tests.robustness.timeline import FINAL
from tests.robustness.traffic import CLIENT_IDS, Book, Traffic
from tests.robustness.watchers import Watcher
from tests.soak.faults import FaultStream

PROBE = 9999
"""The client id of the broker's own connection, where no session has one."""
SIMULATOR = SimulatorSettings(rate_limit=None, hold_after_reset=0.3, hold_after_loss=0.3)
GATEWAY = {
    "RETRY_INITIAL_DELAY": "0.05",
    "RETRY_MAX_DELAY": "0.3",
    "HANDSHAKE_SPACING": "0",
    "HEARTBEAT_INTERVAL": "1.2",
    "HEARTBEAT_TIMEOUT": "0.5",
    "CIRCUIT_BREAKER_TIMEOUT": "0.5",
    "CIRCUIT_BREAKER_FAILURE_THRESHOLD": "10",
}
BROKER = {
    "SESSION_LIMIT": "8",
    "WATCH_MEMORY": "32",
    "STORE_TIMEOUT": "1",
    "STORE_GRACE": "0.25",
    "RETENTION_EVENTS": "1000",
    "RETENTION_DAYS": f"{15 / 86_400:.6f}",
    "RETENTION_INTERVAL": "1",
    "LOG_LEVEL": "WARNING",
}
"""Quick, and so small that nothing fits into memory."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens in a run.

    Args:
        seed: of all dice.
        seconds: of faults and traffic, at least.
        command: what python is told to run as the broker.
        cards: what befalls broker and database; see ``nemesis``.
        faults: whether the Gateway is broken, too.
        callers: how many.
        watchers: how many, beside a steady one.
        limits: what depends on time.
        favourites: what callers do most of the time; see ``Traffic``.
        pace: of watchers; see ``Watcher``.
        settings: of the broker, by name without the prefix, instead of those above.
        patience: seconds for everything to be well again after the last fault.
    """

    seed: int
    seconds: float
    command: Sequence[str] = SERVE
    cards: Sequence[str] = ALL
    faults: bool = True
    callers: int = 3
    watchers: int = 6
    favourites: Sequence[str] = ()
    pace: float = 1.0
    limits: Limits = Limits()
    settings: Mapping[str, str] = field(default_factory=dict)
    patience: float = 30.0


@dataclass(slots=True)
class Run:
    """A run, and what it did, to be told."""

    history: History
    done: Counter[str] = field(default_factory=Counter)
    settled_after: float = 0.0

    @property
    def unseen(self) -> set[str]:
        """What a run must have shown to have tested anything, and has not."""
        seen = {name for name, count in self.done.items() if count}
        return {*KINDS, "start CONTINUE", "end OK", "end UNAVAILABLE"} - seen

    def __str__(self) -> str:
        history, done = self.history, self.done
        calls = Counter(call.method for call in history.calls if call.end == OK)
        ends = Counter(call.end for call in history.calls if call.end != OK)
        cards = {name: done[name] for name in sorted(set(ALL)) if done[name]}
        messages = {kind: done[kind] for kind in KINDS if done[kind]}
        return (
            f"misfortunes {cards}; Gateway {_of(done, 'fault')}\n"
            f"calls answered {dict(calls)}; not {dict(ends.most_common())}\n"
            f"streams begun {_of(done, 'start')}, ended {_of(done, 'end')}\n"
            f"messages {messages}; resets {_of(done, 'because')}\n"
            f"log of {history.newest} events, the oldest kept {history.oldest}; "
            f"{len(history.rows)} sessions, {len(history.listed)} open; "
            f"{len(history.incarnations)} brokers, {len(history.outages)} outages; "
            f"well again after {self.settled_after:.1f} s"
        )


KINDS = ("snapshot", "snapshot_complete", "event", "provisional", "bookmark", "reset", "draining")


def _of(done: Counter[str], group: str) -> dict[str, int]:
    prefix = f"{group} "
    return {
        name.removeprefix(prefix): count
        for name, count in sorted(done.items())
        if name.startswith(prefix)
    }


async def run(scenario: Scenario, database: Database, directory: Path) -> Run:
    """Let it happen.

    Args:
        scenario: what.
        database: the cluster, in which a database is made.
        directory: where logs go.
    """
    history = History(limits=scenario.limits)
    name = f"run_{scenario.seed}_{time.monotonic_ns()}"
    record = Record(database, name)
    await record.create()
    result = Run(history)
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(SimulatedGateway(SIMULATOR))
        broker = BrokerProcess(
            scenario.command,
            _environment(scenario, gateway, database.proxied_url(name)),
            directory,
        )
        async with broker.running():
            await broker.serves()
            await _World(scenario, broker, (database, name), gateway, result).live(record)
        history.incarnations = broker.incarnations
        with contextlib.suppress(TimeoutError):
            await eventually(lambda: not sockets(gateway))
        history.left = sockets(gateway)
        history.claims = dict(gateway.statistics.max_claims)
        await record.read(history)
    return result


def _environment(
    scenario: Scenario, gateway: SimulatedGateway, database_url: str
) -> dict[str, str]:
    ours = {
        **BROKER,
        "BOOKMARK_INTERVAL": f"{scenario.limits.bookmark_interval:g}",
        "WATCH_LAG": str(scenario.limits.watch_lag),
        "STOP_GRACE": f"{scenario.limits.stop_grace:g}",
        **{f"GATEWAYS__DEFAULT__{key}": value for key, value in GATEWAY.items()},
        **scenario.settings,
    }
    return {
        "DATABASE_URL": database_url,
        "IB_GATEWAY_PORT": str(gateway.port),
        **{f"GATEWAY_BROKER_{key}": value for key, value in ours.items()},
    }


class _World:
    """All that acts in a run."""

    def __init__(
        self,
        scenario: Scenario,
        broker: BrokerProcess,
        database: tuple[Database, str],
        gateway: SimulatedGateway,
        result: Run,
    ) -> None:
        history, seed = result.history, scenario.seed
        book = Book()
        self._scenario = scenario
        self._broker = broker
        self._gateway = gateway
        self._result = result
        self._history = history
        self._traffic = [
            Traffic(number, broker.address, history, book, seed, scenario.favourites)
            for number in range(scenario.callers)
        ]
        self._watchers = [
            Watcher(
                number,
                broker.address,
                history,
                book,
                seed,
                steady=number == 0,
                pace=scenario.pace,
            )
            for number in range(scenario.watchers + 1)
        ]
        self._faults = FaultStream(gateway, list(CLIENT_IDS), seed)
        self._nemesis = Nemesis(broker, database, gateway, history, cards=scenario.cards, seed=seed)

    async def live(self, record: Record) -> None:
        """Traffic and faults until the time is over and all is mended; then wait until all is well
        and every watcher has seen the end of the log.
        """
        async with asyncio.TaskGroup() as tasks:
            watching = [
                tasks.create_task(watcher.run(), name=watcher.name) for watcher in self._watchers
            ]
            await self._break()
            await self._settle(record)
            for watcher in self._watchers:
                watcher.finish(self._history.newest)
            _, pending = await asyncio.wait(watching, timeout=self._scenario.patience)
            self._history.stuck = [task.get_name() for task in pending]
            for task in pending:
                task.cancel()
        for watcher in self._watchers:
            self._result.done.update(watcher.done)

    async def _break(self) -> None:
        end = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for number, traffic in enumerate(self._traffic):
                tasks.create_task(traffic.run(end), name=f"caller {number}")
            nemesis = tasks.create_task(self._nemesis.run(end), name="nemesis")
            if self._scenario.faults:
                await self._faults.run(self._scenario.seconds)
            else:
                await asyncio.sleep(self._scenario.seconds)
            end.set()
            await nemesis
        for done in (self._nemesis.done, *(traffic.done for traffic in self._traffic)):
            self._result.done.update(done)
        self._result.done.update(
            {f"fault {fault}": count for fault, count in self._faults.done.items()}
        )

    async def _settle(self, record: Record) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with connected(self._broker.address) as (sessions, _):
            caller = Caller("judge", "judge", sessions, self._history)
            with contextlib.suppress(TimeoutError):
                await eventually(lambda: self._well(caller), timeout=self._scenario.patience)
            self._result.settled_after = loop.time() - began
            await self._agree(caller, record)

    async def _well(self, caller: Caller) -> bool:
        """Whether every session that is not final is CONNECTED; leases may still run out."""
        listed = await self._list(caller)
        return listed is not None and all(
            session.state == session_pb2.SESSION_STATE_CONNECTED and not session.close_reason
            for session in listed.values()
        )

    async def _agree(self, caller: Caller, record: Record) -> None:
        """Read what is listed and what is recorded at one quiet moment."""

        async def quiet() -> bool:
            before = await self._list(caller)
            self._history.newest, self._history.recorded = await record.sessions()
            after = await self._list(caller)
            self._history.listed, self._history.listed_wall = after or {}, time.time()
            self._history.held = [
                client.client_id
                for client in self._gateway.clients
                if client.client_id is not None and client.client_id != PROBE
            ]
            recorded = {
                key: row for key, row in self._history.recorded.items() if row.state not in FINAL
            }
            return after is not None and _steps(before) == _steps(after) == _steps(recorded)

        with contextlib.suppress(TimeoutError):
            await eventually(quiet, timeout=self._scenario.patience)

    @staticmethod
    async def _list(caller: Caller) -> dict[str, Any] | None:
        call = await caller.call("ListSessions", pb.ListSessionsRequest(page_size=1000))
        if call.end != OK:
            return None
        return {session.session_id: session for session in call.response.sessions}


def _steps(listed: Mapping[str, Any] | None) -> dict[str, int] | None:
    if listed is None:
        return None
    return {session_id: session.sequence for session_id, session in listed.items()}
