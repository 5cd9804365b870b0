"""What a broker that dies, a database that goes away and watchers that do not read cost others."""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from ibgateway.broker.v1 import session_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb

from bench.target import Figure, Server, channel, free_address, server
from broker.simulator.gateway import SimulatedGateway
from tests.robustness.database import database

SESSIONS: Final = 10
WATCHERS: Final = 100
OUTAGE: Final = 30.0
"""Seconds without a database."""
CROWD: Final = 1000
DEAF: Final = 10
"""Watchers of the crowd that never read."""
SMALL_WINDOW: Final = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_535))


@contextmanager
def directory() -> Iterator[str]:
    """One that the server's user can pass through."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o711)
        yield path


class Watcher:
    """Follows all sessions over any number of brokers, and counts what should not be.

    Attributes:
        sessions: each as it was last told.
        gaps: revisions that it missed.
        doubles: revisions that it got twice.
        provisional: events that it got before they were kept.
        silence: the longest time in seconds without any message.
    """

    def __init__(self, stub: Any) -> None:
        self.sessions: dict[str, session_pb2.Session] = {}
        self.gaps = self.doubles = self.provisional = 0
        self.silence = 0.0
        self.resumed_at = 0.0
        self._stub = stub
        self._token = ""
        self._revision = -1
        self._unkept: set[tuple[str, int]] = set()

    async def follow(self) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await self._follow()
            await asyncio.sleep(0.02)

    async def _follow(self) -> None:
        request = pb.WatchSessionsRequest(resume_token=self._token)
        call = self._stub.WatchSessions(request, wait_for_ready=True)
        if self._token:
            await call.initial_metadata()
            self.resumed_at = time.perf_counter()
        heard = time.perf_counter()
        async for message in call:
            now = time.perf_counter()
            self.silence, heard = max(self.silence, now - heard), now
            self._take(message)

    def _take(self, message: pb.WatchSessionsResponse) -> None:
        kind = message.WhichOneof("message")
        if kind != "snapshot":
            self._token = message.resume_token
        if kind == "snapshot":
            self.sessions[message.snapshot.session_id] = message.snapshot
        elif kind == "snapshot_complete":
            self._revision = message.revision
        elif kind == "event":
            self.sessions[message.event.session_id] = message.event.session
            key = message.event.session_id, message.event.sequence
            if not message.event.persisted:
                self.provisional += 1
                self._unkept.add(key)
                return
            self._unkept.discard(key)
            self.gaps += max(message.revision - self._revision - 1, 0)
            self.doubles += message.revision <= self._revision
            self._revision = message.revision

    def all_connected(self, generation: int = 1) -> bool:
        """Whether it has been told that every session works, over this link or a later one."""
        return len(self.sessions) == SESSIONS and all(
            session.state == session_pb2.SESSION_STATE_CONNECTED
            and session.generation >= generation
            for session in self.sessions.values()
        )

    @property
    def is_up_to_date(self) -> bool:
        """Whether all that it was told of is kept."""
        return not self._unkept


async def until(check: Any, limit: float = 60.0) -> float:
    """When a check holds, on the performance counter."""
    async with asyncio.timeout(limit):
        while not check():  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(0.002)
    return time.perf_counter()


async def watchers(stack: AsyncExitStack, address: str, count: int) -> list[Watcher]:
    """So many, over a handful of connections; they end with the stack."""
    stubs = [
        await stack.enter_async_context(channel(address, ("grpc.max_reconnect_backoff_ms", 100)))
        for _ in range(min(count, 8))
    ]
    made = [Watcher(stubs[number % len(stubs)]) for number in range(count)]
    tasks = await stack.enter_async_context(asyncio.TaskGroup())
    following = [
        tasks.create_task(watcher.follow(), name=f"watcher-{number}")
        for number, watcher in enumerate(made)
    ]
    stack.callback(lambda: [task.cancel() for task in following])
    return made


async def killed(gateway: SimulatedGateway) -> list[Figure]:
    """Kill -9 of a broker with sessions and watchers, and another one on the same database."""
    address = free_address()
    with directory() as data_dir:
        arguments = ["broker", "--gateway-port", str(gateway.port), "--data-dir", data_dir]
        arguments += ["--listen", address]
        async with AsyncExitStack() as stack:
            async with server(*arguments) as first:
                for _ in range(SESSIONS):
                    await first.stub.OpenSession(pb.OpenSessionRequest())
                seen = await watchers(stack, address, WATCHERS)
                await until(lambda: all(watcher.all_connected() for watcher in seen))
                first.process.kill()
            begin = time.perf_counter()
            async with server(*arguments) as second:
                serving = time.perf_counter()
                resumed = await until(lambda: all(w.resumed_at > begin for w in seen))
                back = await until(lambda: all(watcher.all_connected(2) for watcher in seen))
                listed = await second.stub.ListSessions(pb.ListSessionsRequest())
                assert len(listed.sessions) == SESSIONS
                # The watchers end before their broker does.
                await stack.aclose()
    lost, twice = sum(w.gaps for w in seen), sum(w.doubles for w in seen)
    return [
        Figure("broker killed → the next one serves", serving - begin, "s"),
        Figure(f"broker killed → {WATCHERS} watchers have resumed", resumed - begin, "s"),
        Figure(
            f"broker killed and started → its {SESSIONS} sessions CONNECTED at every watcher",
            back - begin,
            "s",
            "≤ 3",
            back - begin <= 3,
        ),
        Figure("events that a watcher missed over that", lost, "", "0", not lost),
        Figure("events that a watcher got twice", twice, "", "0", not twice),
    ]


async def database_stopped(gateway: SimulatedGateway) -> list[Figure]:
    """PostgreSQL is stopped under sessions that lose their links all the time."""
    dice = random.Random(1)
    with directory() as data_dir:
        async with database(Path(data_dir)) as postgres, AsyncExitStack() as stack:
            await postgres.create("bench")
            url = postgres.proxied_url("bench")
            arguments = ("broker", "--gateway-port", str(gateway.port), "--database-url", url)
            broker = await stack.enter_async_context(server(*arguments))
            opened = [
                (await broker.stub.OpenSession(pb.OpenSessionRequest())).session
                for _ in range(SESSIONS)
            ]
            live = await stack.enter_async_context(AsyncExitStack())
            seen = await watchers(live, broker.address, WATCHERS)
            await until(lambda: all(watcher.all_connected() for watcher in seen))
            for watcher in seen:
                watcher.silence = 0.0
            await postgres.stop()
            end = time.perf_counter() + OUTAGE
            drops = 0
            while time.perf_counter() < end:
                gateway.drop(client_id=dice.choice(opened).client_id)
                drops += 1
                await asyncio.sleep(0.1)
            silence = max(watcher.silence for watcher in seen)
            begin = time.perf_counter()
            await postgres.start()
            written = await until(lambda: all(watcher.is_up_to_date for watcher in seen))
            sessions = (await broker.stub.ListSessions(pb.ListSessionsRequest())).sessions
            await until(lambda: all(watcher.all_connected() for watcher in seen))
            await live.aclose()
    told = min(watcher.provisional for watcher in seen)
    kept = {session.session_id for session in sessions} == {s.session_id for s in opened}
    wrong = sum(watcher.gaps + watcher.doubles for watcher in seen)
    return [
        Figure(f"links lost while PostgreSQL was stopped for {OUTAGE:g} s", drops, ""),
        Figure("sessions dropped by that", SESSIONS - len(sessions), "", "0", kept),
        Figure("events told to every watcher meanwhile", told, "", "> 0", told > 0),
        Figure("longest silence at a watcher meanwhile", silence, "s"),
        Figure("PostgreSQL started → all of them are kept", written - begin, "s"),
        Figure("events lost, doubled or out of order once kept", wrong, "", "0", not wrong),
    ]


async def deaf(broker: Server) -> list[Figure]:
    """One event to many watchers, of whom some never read."""
    async with AsyncExitStack() as stack:
        stubs = [await stack.enter_async_context(channel(broker.address)) for _ in range(8)]
        small = await stack.enter_async_context(channel(broker.address, *SMALL_WINDOW))
        calls = [
            stubs[number % 8].WatchSessions(pb.WatchSessionsRequest())
            for number in range(CROWD - DEAF)
        ]
        messages = [aiter(call) for call in calls]
        for one in messages:
            while (await anext(one)).WhichOneof("message") != "snapshot_complete":
                pass
        alone = await _bursts(broker, messages)
        before = broker.memory
        silent = [small.WatchSessions(pb.WatchSessionsRequest()) for _ in range(DEAF)]
        await _bursts(broker, messages)
        beside = await _bursts(broker, messages)
        after = broker.memory
        for call in (*calls, *silent):
            call.cancel()
    ratio = beside / alone
    return [
        Figure(f"20 events to {CROWD - DEAF} watchers, the last has them", alone * 1e3, "ms"),
        Figure(f"the same beside {DEAF} that never read", beside * 1e3, "ms"),
        Figure(
            "with those that never read against without", ratio, "ratio", "≤ 1.25", ratio <= 1.25
        ),
        Figure("memory that they cost", after - before, "MiB"),
    ]


async def _bursts(broker: Server, messages: list[Any]) -> float:
    """Seconds until all watchers have the events of five sessions, as a median."""
    labels = {str(number): "x" * 256 for number in range(16)}
    spans = []
    for _ in range(10):
        begin = time.perf_counter()
        for _ in range(5):
            opened = await broker.stub.OpenSession(pb.OpenSessionRequest(labels=labels))
            await broker.stub.CloseSession(
                pb.CloseSessionRequest(session_id=opened.session.session_id)
            )
        last = opened.session.session_id

        async def read(one: Any, last: str = last) -> None:
            while True:
                event = (await anext(one)).event
                final = event.session.state == session_pb2.SESSION_STATE_DISCONNECTED
                if event.session_id == last and final:
                    return

        await asyncio.gather(*(read(one) for one in messages))
        spans.append(time.perf_counter() - begin)
    return statistics.median(spans)
