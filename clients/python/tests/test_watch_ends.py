"""A watch notices that its stream is dead, and ends whatever it has begun."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from ibgateway.client import Broker, Interrupted, Resumed, Watch
from ibgateway.client.connection import Connection
from scripted_broker import (
    Refusal,
    ScriptedBroker,
    bookmark,
    complete,
    controlled,
    event,
    eventually,
    idle,
    kinds,
    open_and_quiet,
    quiet,
    session,
    snapshot,
    take,
    told,
)

UNAVAILABLE = Refusal(grpc.StatusCode.UNAVAILABLE, message="gone")
HEAD = (snapshot(session(sequence=2)), complete(10))


def tokens(scripted: ScriptedBroker) -> list[str]:
    return [request.resume_token for request in scripted.requests("WatchSessions")]


# -- silence -----------------------------------------------------------------------


async def test_a_stream_that_is_silent_is_dead_and_resumed(
    scripted: ScriptedBroker, broker: Broker
) -> None:
    scripted.on("WatchSessions", quiet(*HEAD), quiet(event(11, 3)))
    async with broker.watch(silence=1.0) as watch:
        items = await take(watch, 5)
        assert "has sent nothing for 1 s" in items[2].error.message
        assert items[4].sequence == 3
        await eventually(lambda: scripted.open_streams == 1)
    assert tokens(scripted) == ["", "t10"]


async def test_a_stream_that_says_that_nothing_happens_lives(
    scripted: ScriptedBroker, broker: Broker
) -> None:
    scripted.on("WatchSessions", idle(*HEAD, revision=10, every=0.1))
    async with broker.watch(silence=1.5) as watch:
        items = await take(watch, 20)
    assert kinds(items[2:]) == ["Bookmark"] * 18
    assert len(tokens(scripted)) == 1


async def in_steps(watch: Watch, step: float = 0.05) -> Any:
    """The next item, for a caller that never waits for long."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await asyncio.wait_for(anext(watch), step)
            except TimeoutError:
                continue


@pytest.mark.parametrize("said", [(), HEAD], ids=["not-open-yet", "open"])
async def test_a_silence_is_noticed_by_a_caller_that_waits_in_short_steps(
    scripted: ScriptedBroker, broker: Broker, said: tuple[Any, ...]
) -> None:
    scripted.on("WatchSessions", quiet(*said), quiet(bookmark(10)))
    async with broker.watch(silence=1.0) as watch:
        await take(watch, len(said))
        item = await in_steps(watch)
        assert isinstance(item, Interrupted)
        assert "has sent nothing for 1 s" in item.error.message


async def test_a_caller_that_waits_in_short_steps_is_told_that_a_quiet_stream_is_open_again(
    scripted: ScriptedBroker, broker: Broker
) -> None:
    scripted.on("WatchSessions", told(*HEAD, UNAVAILABLE), open_and_quiet)
    async with broker.watch(silence=15) as watch:
        await take(watch, 3)
        assert isinstance(await in_steps(watch), Resumed)


WATCHES = """
import asyncio, sys
from ibgateway.client import connect

async def main():
    async with connect(sys.argv[1]) as broker, broker.watch(silence=2) as watch:
        async for item in watch:
            print(type(item).__name__, flush=True)

asyncio.run(main())
"""


async def test_what_came_while_the_process_was_stopped_is_taken(scripted: ScriptedBroker) -> None:
    queue: asyncio.Queue[Any] = asyncio.Queue()
    scripted.on("WatchSessions", controlled(queue, *HEAD))
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WATCHES, scripted.address),
        stdout=asyncio.subprocess.PIPE,
        # From where it is imported.
        cwd=Path(__file__).parents[1],
    )
    assert child.stdout is not None
    try:
        async with asyncio.timeout(40):
            for kind in (b"Snapshot\n", b"SnapshotComplete\n"):
                assert await child.stdout.readline() == kind
            child.send_signal(signal.SIGSTOP)
            queue.put_nowait(bookmark(11))
            await asyncio.sleep(3)
            child.send_signal(signal.SIGCONT)
            assert await child.stdout.readline() == b"Bookmark\n"
    finally:
        child.kill()
        await child.wait()


# -- ends --------------------------------------------------------------------------


async def test_to_cancel_the_wait_for_an_item_loses_nothing(
    scripted: ScriptedBroker, broker: Broker
) -> None:
    queue: asyncio.Queue[Any] = asyncio.Queue()
    scripted.on("WatchSessions", controlled(queue, *HEAD))
    async with broker.watch() as watch:
        await take(watch, 2)
        for number in range(1, 6):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(watch), 0.02)
            queue.put_nowait(event(10 + number, 2 + number))
            [item] = await take(watch, 1)
            assert item.sequence == 2 + number
    assert len(tokens(scripted)) == 1, "the stream has stayed"


async def test_to_cancel_the_wait_for_a_retry_does_not_begin_it_anew(
    scripted: ScriptedBroker, broker: Broker
) -> None:
    away = Refusal(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", retry_after=0.4)
    scripted.on("WatchSessions", told(*HEAD, away), quiet(bookmark(10)))
    async with broker.watch() as watch:
        begin = time.monotonic()
        await take(watch, 3)
        assert isinstance(await in_steps(watch), Resumed)
        assert time.monotonic() - begin >= 0.4


async def test_closing_ends_its_iteration(scripted: ScriptedBroker, broker: Broker) -> None:
    scripted.on("WatchSessions", quiet(*HEAD))
    watch = broker.watch()
    seen: asyncio.Queue[Any] = asyncio.Queue()

    async def iterate() -> None:
        async for item in watch:
            seen.put_nowait(item)

    iterating = asyncio.create_task(iterate())
    await eventually(lambda: seen.qsize() == 2)
    await watch.close()
    await watch.close()
    async with asyncio.timeout(20):
        await iterating
    await eventually(lambda: not scripted.open_streams)


async def test_closing_ends_the_wait_for_a_retry(scripted: ScriptedBroker, broker: Broker) -> None:
    away = Refusal(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", retry_after=3.0)
    scripted.on("WatchSessions", told(*HEAD, away), quiet())
    watch = broker.watch()
    await take(watch, 3)
    waiting = asyncio.create_task(anext(watch))
    await asyncio.sleep(0.05)
    await watch.close()
    async with asyncio.timeout(20):
        with pytest.raises(StopAsyncIteration):
            await waiting
    # Longer than it would have waited.
    await asyncio.sleep(4)
    assert len(tokens(scripted)) == 1, "no stream is opened after that"


async def test_to_cancel_the_wait_while_a_dead_stream_is_ended_does_not_hide_that(
    scripted: ScriptedBroker, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lingering(stream: Any) -> Any:
        read = stream.read

        async def late() -> Any:
            try:
                return await read()
            finally:
                await asyncio.sleep(0.3)

        stream.read = late
        return stream

    open_ = Connection.stream
    monkeypatch.setattr(
        Connection, "stream", lambda *given, **named: lingering(open_(*given, **named))
    )
    scripted.on("WatchSessions", open_and_quiet, quiet(bookmark(10)))
    async with broker.watch(resume_token="t9", silence=0.2) as watch:
        item = await in_steps(watch, 0.1)
        assert isinstance(item, Interrupted)
        assert "has sent nothing" in item.error.message


async def test_its_block_ends_its_stream(scripted: ScriptedBroker, broker: Broker) -> None:
    scripted.on("WatchSessions", quiet(*HEAD))
    async with broker.watch() as watch:
        async for _ in watch:
            break
        assert scripted.open_streams == 1
    await eventually(lambda: not scripted.open_streams)


async def test_one_that_is_dropped_ends_its_stream(
    scripted: ScriptedBroker, broker: Broker
) -> None:
    scripted.on("WatchSessions", quiet(*HEAD))
    async for _ in broker.watch():
        break
    await eventually(lambda: not scripted.open_streams)
    # Also if the wait for its next item was cancelled.
    dropped: Watch | None = broker.watch()
    assert dropped is not None
    await take(dropped, 2)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(dropped), 0.02)
    dropped = None
    gc.collect()
    await eventually(lambda: not scripted.open_streams)


async def test_two_tasks_cannot_share_it(scripted: ScriptedBroker, broker: Broker) -> None:
    scripted.on("WatchSessions", quiet(*HEAD))
    async with broker.watch() as watch:
        await take(watch, 2)
        first = asyncio.create_task(take(watch, 1))
        await asyncio.sleep(0.02)
        with pytest.raises(RuntimeError, match="another task"):
            await anext(watch)
        first.cancel()
