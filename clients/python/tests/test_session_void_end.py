"""An end that is not on record is told at once, and the session is followed until it is."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from ibgateway.broker.v1 import session_service_pb2 as pb
from ibgateway.client import Broker, SessionEndedError, SessionState, connect
from scripted_broker import (
    SESSION_ID,
    Refusal,
    ScriptedBroker,
    bookmark,
    complete,
    controlled,
    event,
    eventually,
    quiet,
    session,
    snapshot,
    take,
    told,
)
from scripted_session import FIRST, Peer

DENIED = Refusal(grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
GONE = Refusal(grpc.StatusCode.UNAVAILABLE, message="killed")
HEAD = (snapshot(session()), complete(FIRST))
VOID = event(FIRST, 3, state="FAILED", persisted=False)
ALIVE = pb.GetSessionResponse(session=session(state="RECONNECTING", sequence=3))
CLOSED = session(state="DISCONNECTED", sequence=5, close_reason="CLOSE_REQUESTED")


def dies_with_an_end(peer: Peer) -> asyncio.Queue[Any]:
    """The broker dies with an end that is not on record; the queue is what its successor tells."""
    queue: asyncio.Queue[Any] = asyncio.Queue()
    before = event(FIRST, 3, state="RECONNECTING", persisted=False)
    void = event(FIRST, 4, state="FAILED", persisted=False)
    peer.scripted.on("WatchSessions", told(*HEAD, before, void, GONE), controlled(queue))
    queue.put_nowait(event(FIRST + 1, 3, state="RECONNECTING"))
    peer.scripted.on("GetSession", ALIVE)
    return queue


def closes_it(peer: Peer, queue: asyncio.Queue[Any], *before: Any) -> None:
    """Its close is answered with these first, and is told then."""

    async def close(_: Any, __: Any) -> Any:
        reason = "CLOSE_REQUESTED"
        queue.put_nowait(event(FIRST + 3, 5, state="DISCONNECTED", close_reason=reason))
        return pb.CloseSessionResponse(session=CLOSED)

    peer.scripted.on("CloseSession", *before, close)


@pytest.mark.parametrize("failure", [(), (DENIED,)], ids=["at-once", "at-the-second-try"])
async def test_a_session_whose_end_was_void_is_closed_after_its_block(
    peer: Peer, broker: Broker, failure: tuple[Any, ...], caplog: pytest.LogCaptureFixture
) -> None:
    queue = dies_with_an_end(peer)
    closes_it(peer, queue, *failure)
    with pytest.raises(SessionEndedError, match="FAILED"):
        async with broker.open_session(client_id=7, lease_ttl=None) as held:
            await asyncio.sleep(60)
    queue.put_nowait(event(FIRST + 2, 4, state="CONNECTED"))
    await eventually(lambda: len(peer.closes()) == 1 + len(failure))
    await eventually(lambda: not peer.scripted.open_streams)
    assert held.ended
    assert held.info.close_reason == "CLOSE_REQUESTED"
    assert "lives, but was told to have ended" in caplog.text
    assert ("could not be closed" in caplog.text) is bool(failure)


async def test_an_end_that_was_told_stays_told(peer: Peer, broker: Broker) -> None:
    queue = dies_with_an_end(peer)
    held = await broker.open_session(client_id=7)
    await held.wait_ended()
    queue.put_nowait(event(FIRST + 2, 4, state="CONNECTED"))
    await eventually(peer.closes)
    assert held.ended
    assert held.state is not SessionState.CONNECTED
    with pytest.raises(SessionEndedError):
        await held.verify()


async def test_a_session_that_is_to_stay_open_is_not_closed(peer: Peer, broker: Broker) -> None:
    queue = dies_with_an_end(peer)
    held = await broker.open_session(client_id=7)
    held.detach()
    await held.wait_ended()
    queue.put_nowait(event(FIRST + 2, 4, state="FAILED"))
    await eventually(lambda: queue.empty() and not peer.scripted.open_streams)
    assert held.ended
    assert not peer.closes()


async def test_events_that_come_late_do_not_close_what_has_ended(
    peer: Peer, broker: Broker
) -> None:
    queue: asyncio.Queue[Any] = asyncio.Queue()
    peer.scripted.on("WatchSessions", told(*HEAD, GONE), controlled(queue))
    ended = session(state="DISCONNECTED", sequence=4, close_reason="LEASE_EXPIRED")
    peer.scripted.on("GetSession", pb.GetSessionResponse(session=ended))
    held = await broker.open_session(client_id=7)
    await eventually(lambda: held.interruption)
    assert (await held.refresh()).is_final
    queue.put_nowait(event(FIRST + 1, 3, state="RECONNECTING"))
    queue.put_nowait(event(FIRST + 2, 4, state="DISCONNECTED", close_reason="LEASE_EXPIRED"))
    await eventually(lambda: queue.empty() and not peer.scripted.open_streams)
    assert not peer.closes()


async def test_a_session_that_is_closed_while_that_is_not_on_record_is_followed(
    peer: Peer, broker: Broker
) -> None:
    queue: asyncio.Queue[Any] = asyncio.Queue()
    peer.scripted.on("WatchSessions", controlled(queue, *HEAD), controlled(queue))
    async with broker.open_session(client_id=7):
        await eventually(lambda: peer.scripted.open_streams)
    queue.put_nowait(GONE)
    peer.scripted.on("GetSession", ALIVE)
    queue.put_nowait(event(FIRST + 1, 3, state="RECONNECTING"))
    await eventually(lambda: len(peer.closes()) == 2)


async def test_a_session_of_others_that_was_closed_is_followed_too(
    peer: Peer, broker: Broker
) -> None:
    queue: asyncio.Queue[Any] = asyncio.Queue()
    peer.scripted.on("GetSession", ALIVE)
    peer.scripted.on("WatchSessions", controlled(queue, *HEAD), controlled(queue))
    async with broker.attach(SESSION_ID) as held:
        await eventually(lambda: peer.scripted.open_streams)
        await held.close()
    queue.put_nowait(GONE)
    queue.put_nowait(event(FIRST + 1, 3, state="RECONNECTING"))
    await eventually(lambda: len(peer.closes()) == 2)


async def test_a_broker_without_a_record_of_it_settles_that(peer: Peer, broker: Broker) -> None:
    peer.scripted.on("WatchSessions", told(*HEAD, VOID, GONE), quiet(event(FIRST + 1, 3)))
    peer.scripted.on("GetSession", Refusal(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"))
    held = await broker.open_session(client_id=7)
    await held.wait_ended()
    await eventually(lambda: peer.scripted.requests("GetSession"))
    await eventually(lambda: not peer.scripted.open_streams)
    assert not peer.closes()


# -- who does not wait -------------------------------------------------------------


async def test_nobody_waits_for_the_record_of_an_end(peer: Peer, scripted: ScriptedBroker) -> None:
    peer.scripted.on("WatchSessions", quiet(*HEAD, VOID))
    async with asyncio.timeout(30):
        async with connect(scripted.address) as broker:
            with pytest.raises(SessionEndedError, match="FAILED"):
                async with broker.open_session(client_id=7):
                    await asyncio.sleep(60)
            await asyncio.sleep(0.1)
            assert scripted.open_streams == 1, "it is followed on"
        assert not [task for task in asyncio.all_tasks() if "-follow-" in task.get_name()]
    await eventually(lambda: not scripted.open_streams)
    assert not peer.closes()


async def test_a_broker_that_is_closed_closes_what_lives_on(
    peer: Peer, scripted: ScriptedBroker
) -> None:
    queue = dies_with_an_end(peer)
    closes_it(peer, queue, DENIED)
    async with connect(scripted.address) as broker:
        held = await broker.open_session(client_id=7, lease_ttl=None)
        await held.wait_ended()
        await eventually(peer.closes)
    assert len(peer.closes()) == 2
    assert not [task for task in asyncio.all_tasks() if "-follow-" in task.get_name()]


# -- its watch ---------------------------------------------------------------------


async def test_the_watch_of_a_session_waits_for_the_record_of_its_end(
    peer: Peer, broker: Broker
) -> None:
    queue: asyncio.Queue[Any] = asyncio.Queue()
    peer.scripted.on("WatchSessions", quiet(*HEAD, VOID), controlled(queue, *HEAD, VOID))
    held = await broker.open_session(client_id=7)
    await held.wait_ended()
    async with held.watch() as watch:
        queue.put_nowait(bookmark(FIRST))
        assert len(await take(watch, 4)) == 4
        queue.put_nowait(event(FIRST + 1, 3, state="FAILED"))
        [last] = await take(watch, 1)
        assert last.persisted
        with pytest.raises(StopAsyncIteration):
            await anext(watch)
