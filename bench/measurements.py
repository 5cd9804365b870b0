"""Measure the broker against bare equivalents in the same run: a table, and bench/results.json.

Ratios carry over from machine to machine; absolute figures do not. Nothing here fails a
build. Everything listens on 127.0.0.1 and ends by itself.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from ib_async import IB, StartupFetchNONE
from ibgateway.broker.v1 import session_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb

from bench import outages
from bench.server import HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT
from bench.target import Figure, Server, channel, server
from broker.simulator.gateway import SimulatedGateway, SimulatorSettings

RESULTS: Final = Path(__file__).with_name("results.json")
WATCHERS: Final = 1000
ROUNDS: Final = 5
SESSIONS: Final = 10


async def rate(call: Callable[[], Awaitable[object]], seconds: float = 1.5) -> float:
    """Calls a second, 16 at a time."""
    end = time.perf_counter() + seconds
    count = 0

    async def caller() -> None:
        nonlocal count
        while time.perf_counter() < end:
            await call()
            count += 1

    begin = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(16)))
    return count / (time.perf_counter() - begin)


async def get_session(broker: Server, bare: Server, session: session_pb2.Session) -> list[Figure]:
    """GetSession against an answer that is made already."""
    ask = pb.GetSessionRequest(session_id=session.session_id)
    answer = await broker.stub.GetSession(ask)
    event = pb.WatchSessionsResponse(resume_token="x" * 32, revision=1)
    event.event.session.CopyFrom(session)
    prepared = f"{answer.SerializeToString().hex()}|{event.SerializeToString().hex()}"
    await bare.stub.CloseSession(pb.CloseSessionRequest(reason=prepared))
    ours, theirs = [], []
    for _ in range(ROUNDS):
        theirs.append(await rate(lambda: bare.stub.GetSession(ask)))
        ours.append(await rate(lambda: broker.stub.GetSession(ask)))
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    return [
        Figure("GetSession", statistics.median(ours), "rpcs/s", "", None),
        Figure("GetSession, bare handler", statistics.median(theirs), "rpcs/s", "", None),
        Figure("GetSession against bare", ratio, "ratio", "≥ 0.8", ratio >= 0.8),
    ]


async def open_session(broker: Server, gateway: SimulatedGateway) -> list[Figure]:
    """OpenSession, recorded durably, against ib_async dialling the same Gateway."""
    ours, theirs = [], []
    for _ in range(100):
        ib = IB()
        begin = time.perf_counter()
        await ib.connectAsync(
            gateway.host, gateway.port, clientId=5000, fetchFields=StartupFetchNONE
        )
        theirs.append(time.perf_counter() - begin)
        ib.disconnect()
        begin = time.perf_counter()
        response = await broker.stub.OpenSession(pb.OpenSessionRequest(client_id=6000))
        ours.append(time.perf_counter() - begin)
        await broker.stub.CloseSession(
            pb.CloseSessionRequest(session_id=response.session.session_id)
        )
    p50, bare = (statistics.median(values) * 1e3 for values in (ours, theirs))
    return [
        Figure("OpenSession, p50", p50, "ms", "", None),
        Figure("ib_async alone, p50", bare, "ms", "", None),
        Figure("OpenSession against ib_async, p50", p50 - bare, "ms more", "≤ 5", p50 - bare <= 5),
    ]


async def fan_out(broker: Server, bare: Server) -> list[Figure]:
    """One event to many watchers; and what an idle one costs."""

    async def broker_event() -> None:
        response = await broker.stub.OpenSession(pb.OpenSessionRequest(return_immediately=True))
        await broker.stub.CloseSession(
            pb.CloseSessionRequest(session_id=response.session.session_id)
        )

    async def bare_event() -> None:
        await bare.stub.CloseSession(bare_request)

    answer = pb.WatchSessionsResponse(resume_token="x" * 32, revision=1)
    answer.event.session.labels["padding"] = "x" * 250
    bare_request = pb.CloseSessionRequest(reason=f"|{answer.SerializeToString().hex()}")
    figures = []
    results = {}
    for name, target, cause in (
        ("bare", bare, bare_event),
        ("broker", broker, broker_event),
        ("bare again", bare, bare_event),
    ):
        before = target.memory
        async with AsyncExitStack() as stack:
            stubs = [await stack.enter_async_context(channel(target.address)) for _ in range(8)]
            streams = [
                stubs[number % 8].WatchSessions(pb.WatchSessionsRequest())
                for number in range(WATCHERS)
            ]
            messages = [aiter(stream) for stream in streams]
            for one in messages:
                while (await anext(one)).WhichOneof("message") != "snapshot_complete":
                    pass
            await asyncio.sleep(0.5)
            results[name, "memory"] = (target.memory - before) * 1024 / WATCHERS
            own = 1 if name != "broker" else None
            spans = [await _spread(messages, cause, own) for _ in range(ROUNDS)]
            results[name, "spread"] = statistics.median(spans) * 1e3
            for stream in streams:
                stream.cancel()
    ours = results["broker", "spread"]
    theirs = (results["bare", "spread"] + results["bare again", "spread"]) / 2
    ratio = ours / theirs
    idle = results["broker", "memory"]
    figures += [
        Figure(f"one event to {WATCHERS} watchers, first to p99", ours, "ms", "", None),
        Figure("the same, bare", theirs, "ms", "", None),
        Figure("fan-out against bare", ratio, "ratio", "≤ 1.25", ratio <= 1.25),
        Figure("memory of an idle watcher", idle, "KiB", "≤ 28", idle <= 28),
        Figure("the same, bare", results["bare", "memory"], "KiB", "", None),
    ]
    return figures


async def _spread(
    messages: list[Any], cause: Callable[[], Awaitable[None]], count: int | None
) -> float:
    """Seconds from the first to the 99th percentile of the watchers to have the next event.

    The cause may send several events; the first is timed, the others are read away.
    """
    times: list[float] = []

    async def follow(one: Any) -> None:
        await anext(one)
        times.append(time.perf_counter())

    followers = [asyncio.ensure_future(follow(one)) for one in messages]
    await asyncio.sleep(0.05)
    await cause()
    await asyncio.gather(*followers)
    if count is None:
        await _read_away(messages)
    times.sort()
    return times[int(len(times) * 0.99)] - times[0]


async def _read_away(messages: list[Any]) -> None:
    """Until the session that the cause has opened is final for every watcher."""

    async def until_final(one: Any) -> None:
        while (await anext(one)).event.session.state != session_pb2.SESSION_STATE_DISCONNECTED:
            pass

    await asyncio.gather(*(until_final(one) for one in messages))


async def notice_of_loss(broker: Server, gateway: SimulatedGateway) -> list[Figure]:
    """From the Gateway's FIN to RECONNECTING at a watcher."""
    stream = aiter(broker.stub.WatchSessions(pb.WatchSessionsRequest()))
    while (await anext(stream)).WhichOneof("message") != "snapshot_complete":
        pass
    times = []
    for _ in range(50):
        await broker.stub.OpenSession(
            pb.OpenSessionRequest(client_id=7000, reconnect_max_attempts=0)
        )
        for _ in range(2):
            await anext(stream)
        begin = time.perf_counter()
        gateway.drop(client_id=7000)
        await anext(stream)
        times.append(time.perf_counter() - begin)
        await anext(stream)
    times.sort()
    p99 = times[-1] * 1e3
    return [
        Figure(
            "peer closes → RECONNECTING at the watcher, of 50 the worst",
            p99,
            "ms",
            "≤ 10",
            p99 <= 10,
        )
    ]


async def recovery(broker: Server, gateway: SimulatedGateway) -> list[Figure]:
    """A Gateway that hangs, and one that goes away and returns, in front of 10 sessions."""
    stream = aiter(broker.stub.WatchSessions(pb.WatchSessionsRequest()))
    states: dict[str, int] = {}

    async def until(wanted: int) -> None:
        """Read until all sessions are in a state."""
        while True:
            message = await anext(stream)
            kind = message.WhichOneof("message")
            if kind in ("snapshot", "event"):
                session = message.snapshot if kind == "snapshot" else message.event.session
                states[session.session_id] = session.state
                if len(states) == SESSIONS and set(states.values()) == {wanted}:
                    return

    await until(session_pb2.SESSION_STATE_CONNECTED)
    gateway.mute(True)
    begin = time.perf_counter()
    await until(session_pb2.SESSION_STATE_RECONNECTING)
    hung = time.perf_counter() - begin
    await gateway.stop_listening()
    gateway.drop()
    gateway.mute(False)
    await asyncio.sleep(5)
    waiting = (await broker.stub.ListSessions(pb.ListSessionsRequest())).sessions
    due = max(session.next_attempt_time.ToNanoseconds() / 1e9 for session in waiting)
    wait = max(due - time.time(), 0.0)
    await gateway.start_listening()
    begin = time.perf_counter()
    await until(session_pb2.SESSION_STATE_CONNECTED)
    back = time.perf_counter() - begin
    bound = HEARTBEAT_INTERVAL + HEARTBEAT_TIMEOUT + 1.0
    return [
        Figure(
            "hung Gateway → the last of 10 RECONNECTING", hung, "s", f"≤ {bound:g}", hung <= bound
        ),
        Figure(
            "Gateway returns → the last of 10 CONNECTED, beyond the prober's wait",
            back - wait,
            "s",
            "≤ 2",
            back - wait <= 2,
        ),
    ]


async def measure() -> list[Figure]:
    """All of it, in order."""
    with outages.directory() as directory:
        async with (
            SimulatedGateway(SimulatorSettings(port=0)) as gateway,
            server("bare") as bare,
            server(
                *("broker", "--gateway-port", str(gateway.port), "--data-dir", directory)
            ) as broker,
        ):
            figures = [
                Figure("start to serving, with a new cluster", broker.started_in, "s", "", None)
            ]
            opened = [
                (await broker.stub.OpenSession(pb.OpenSessionRequest())).session
                for _ in range(SESSIONS)
            ]
            figures += await get_session(broker, bare, opened[0])
            figures += await open_session(broker, gateway)
            figures += await notice_of_loss(broker, gateway)
            figures += await fan_out(broker, bare)
            figures += await recovery(broker, gateway)
            figures.append(Figure("memory after all of it", broker.memory, "MiB"))
            figures += await outages.deaf(broker)
    async with SimulatedGateway(SimulatorSettings(port=0)) as gateway:
        figures += await outages.killed(gateway)
    async with SimulatedGateway(SimulatorSettings(port=0)) as gateway:
        figures += await outages.database_stopped(gateway)
    return figures


def run() -> None:
    """Measure, print and write."""
    figures = asyncio.run(measure())
    width = max(len(figure.name) for figure in figures)
    for figure in figures:
        verdict = {True: "ok", False: "OVER", None: ""}[figure.ok]
        print(
            f"{figure.name:{width}}  {figure.value:10.2f} {figure.unit:8} "
            f"{figure.budget:8} {verdict}"
        )
    RESULTS.write_text(
        json.dumps([asdict(figure) for figure in figures], indent=2, ensure_ascii=False) + "\n"
    )
