"""A session ends: by its block, by others, with the broker; and that is told."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest

from ibgateway.broker.v1 import session_service_pb2 as pb
from ibgateway.client import (
    Broker,
    BrokerClosedError,
    CallTimeoutError,
    Session,
    SessionEndedError,
    SessionNotConnectedError,
    SessionState,
    StoreUnavailableError,
    connect,
)
from scripted_broker import (
    SESSION_ID,
    Refusal,
    ScriptedBroker,
    complete,
    event,
    eventually,
    kinds,
    quiet,
    session,
    snapshot,
)
from scripted_session import Peer, opened

NOT_FOUND = Refusal(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
# Beyond the time that a close has: it is told at once, and not asked again.
AWAY = Refusal(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", retry_after=60)
CLOSED = Refusal(
    grpc.StatusCode.ABORTED,
    "SESSION_CLOSED",
    metadata={"session_id": SESSION_ID, "close_reason": "LEASE_EXPIRED"},
)


# -- its end -----------------------------------------------------------------------


async def test_the_end_of_a_block_closes_the_session(peer: Peer, broker: Broker) -> None:
    async with broker.open_session(client_id=7) as held:
        pass
    assert held.state is SessionState.DISCONNECTED
    assert held.ended
    [request] = peer.closes()
    assert request.session_id == SESSION_ID
    await eventually(lambda: not peer.scripted.open_streams)


async def test_an_exception_closes_the_session_and_passes(peer: Peer, broker: Broker) -> None:
    with pytest.raises(LookupError):
        async with broker.open_session(client_id=7):
            raise LookupError
    assert len(peer.closes()) == 1


async def test_a_cancellation_closes_the_session_and_passes(peer: Peer, broker: Broker) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        async with broker.open_session(client_id=7):
            inside.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(peer.closes()) == 1


async def test_a_second_cancellation_ends_the_wait_for_the_close(
    peer: Peer, broker: Broker
) -> None:
    async def never(_: Any, __: Any) -> None:
        await asyncio.sleep(60)

    peer.scripted.on("CloseSession", never)
    inside = asyncio.Event()

    async def work() -> None:
        async with broker.open_session(client_id=7):
            inside.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    await eventually(peer.closes)
    task.cancel()
    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_closing_takes_no_longer_than_it_may(peer: Peer, broker: Broker) -> None:
    async def never(_: Any, __: Any) -> None:
        await asyncio.sleep(60)

    peer.scripted.on("CloseSession", never)
    begin = time.monotonic()
    with pytest.raises(CallTimeoutError):
        async with broker.open_session(client_id=7, close_timeout=1.0):
            pass
    assert time.monotonic() - begin < 20
    [asked] = [asked for asked in peer.scripted.asked if asked.rpc == "CloseSession"]
    assert asked.timeout is not None
    assert asked.timeout < 2  # what gRPC sends is rounded up


async def test_a_close_that_fails_does_not_hide_the_exception(
    peer: Peer, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    peer.scripted.on("CloseSession", AWAY)
    with pytest.raises(LookupError) as caught:
        async with broker.open_session(client_id=7, close_timeout=30):
            raise LookupError
    assert "could not be closed" in caught.value.__notes__[0]
    assert "could not be closed" in caplog.text


async def test_a_close_that_fails_alone_is_raised(peer: Peer, broker: Broker) -> None:
    peer.scripted.on("CloseSession", AWAY)
    with pytest.raises(StoreUnavailableError):
        async with broker.open_session(client_id=7, close_timeout=30):
            pass


@pytest.mark.parametrize("how", ["keep_open", "detach"])
async def test_a_session_can_be_left_open(peer: Peer, broker: Broker, how: str) -> None:
    async with broker.open_session(client_id=7, keep_open=how == "keep_open") as held:
        if how == "detach":
            held.detach()
    assert not held.ended
    assert not peer.closes()
    with pytest.raises(BrokerClosedError, match="followed no longer"):
        await held.wait_ended()


async def test_closing_it_by_hand_is_no_end_by_others(peer: Peer, broker: Broker) -> None:
    async with broker.open_session(client_id=7) as held:
        assert (await held.close()).close_reason == "CLOSE_REQUESTED"
        assert held.ended
        await held.close()
        await asyncio.sleep(0.05)
    assert len(peer.closes()) == 2


async def test_a_block_whose_session_is_ended_by_others_raises_at_once(
    peer: Peer, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    begin = time.monotonic()
    with pytest.raises(SessionEndedError, match="GATEWAY_DRAINED") as caught:
        async with broker.open_session(client_id=7):
            peer.tell("DISCONNECTED", close_reason="GATEWAY_DRAINED")
            await asyncio.sleep(60)
    assert time.monotonic() - begin < 30
    assert caught.value.close_reason == "GATEWAY_DRAINED"
    assert caught.value.session is not None
    assert not peer.closes()
    assert (
        "GATEWAY_DRAINED"
        in next(record for record in caplog.records if record.levelname == "ERROR").message
    )
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_a_failed_session_says_why(peer: Peer, broker: Broker) -> None:
    failure = {"reason": "IB_CONN_005", "message": "the disclaimer", "hint": "accept it"}
    with pytest.raises(
        SessionEndedError, match=r"FAILED: the disclaimer\. Hint: accept it"
    ) as caught:
        async with broker.open_session(client_id=7) as held:
            peer.tell("FAILED", last_failure=failure)
            await held.wait_ended()
            await asyncio.sleep(60)
    assert caught.value.failure is not None
    assert caught.value.failure.reason == "IB_CONN_005"


async def test_a_block_that_ends_by_itself_after_its_session_raises(
    peer: Peer, broker: Broker
) -> None:
    with pytest.raises(SessionEndedError):
        async with broker.open_session(client_id=7) as held:
            peer.tell("DISCONNECTED", close_reason="LEASE_EXPIRED")
            while not held.ended:
                try:
                    await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    break


async def test_an_exception_of_the_body_is_not_replaced(peer: Peer, broker: Broker) -> None:
    with pytest.raises(LookupError):
        async with broker.open_session(client_id=7):
            peer.tell("DISCONNECTED", close_reason="LEASE_EXPIRED")
            try:
                await asyncio.sleep(60)
            finally:
                raise LookupError


async def test_a_cancellation_from_outside_stays_one(peer: Peer, broker: Broker) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        async with broker.open_session(client_id=7) as held:
            inside.set()
            try:
                await asyncio.sleep(60)
            finally:
                peer.tell("DISCONNECTED", close_reason="LEASE_EXPIRED")
                await eventually(lambda: held.ended)

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_who_wants_no_exception_is_told_otherwise(peer: Peer, broker: Broker) -> None:
    async with broker.open_session(client_id=7, raise_on_end=False) as held:
        peer.tell("DISCONNECTED", close_reason="LEASE_EXPIRED")
        info = await held.wait_ended()
        assert info.close_reason == "LEASE_EXPIRED"
        assert held.ended
        for call in (
            held.verify(),
            held.renew(),
            held.acknowledge_data(generation=1),
            held.wait_connected(),
        ):
            with pytest.raises(SessionEndedError, match="event loop"):
                await call
    assert not peer.closes()


async def test_a_renewal_that_is_refused_finds_out_how_the_session_has_ended(
    peer: Peer, broker: Broker
) -> None:
    ended = session(state="DISCONNECTED", sequence=5, close_reason="LEASE_EXPIRED")
    peer.scripted.on("OpenSession", opened(lease_ttl=0.1))
    peer.lease_ttl = 0.1
    peer.scripted.on("RenewSession", CLOSED)
    peer.scripted.on(
        "GetSession",
        pb.GetSessionResponse(session=session(close_reason="LEASE_EXPIRED")),
        pb.GetSessionResponse(session=ended),
    )
    with pytest.raises(SessionEndedError, match="LEASE_EXPIRED"):
        async with broker.open_session(client_id=7):
            await asyncio.sleep(60)
    assert len(peer.scripted.requests("GetSession")) == 2, "closing is not ended"


async def test_a_session_that_the_broker_does_not_know_has_ended(
    peer: Peer, broker: Broker
) -> None:
    peer.scripted.on("OpenSession", opened(lease_ttl=0.1))
    peer.lease_ttl = 0.1
    peer.scripted.on("RenewSession", NOT_FOUND)
    peer.scripted.on("GetSession", NOT_FOUND)
    with pytest.raises(SessionEndedError, match="no record of it"):
        async with broker.open_session(client_id=7):
            await asyncio.sleep(60)


async def test_a_session_that_a_new_snapshot_does_not_have_has_ended(
    peer: Peer, broker: Broker
) -> None:
    peer.scripted.on("WatchSessions", quiet(complete(10)))
    async with broker.open_session(client_id=7, raise_on_end=False) as held:
        await held.wait_ended()


async def test_a_call_that_finds_no_session_has_found_its_end(peer: Peer, broker: Broker) -> None:
    peer.scripted.on("VerifySession", NOT_FOUND)
    async with broker.open_session(client_id=7, raise_on_end=False) as held:
        with pytest.raises(SessionEndedError):
            await held.verify()
        await held.wait_ended()


async def test_other_errors_of_calls_pass(peer: Peer, broker: Broker) -> None:
    peer.scripted.on(
        "AcknowledgeData",
        Refusal(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_NOT_CONNECTED"),
    )
    async with broker.open_session(client_id=7) as held:
        with pytest.raises(SessionNotConnectedError):
            await held.acknowledge_data(generation=1)


async def test_an_end_that_was_void_is_forgotten_with_the_stream(
    peer: Peer, broker: Broker
) -> None:
    async with broker.open_session(client_id=7) as held:
        # Once this is known, what follows comes as an event.
        peer.tell("CONNECTED", generation=4)
        await eventually(lambda: held.generation == 4)
        peer.tell("RECONNECTING", persisted=False)
        await eventually(lambda: held.state is SessionState.RECONNECTING)
        # The broker dies with it, and what its successor finds is another fourth event.
        peer.scripted.on("WatchSessions", quiet(event(12, 4, state="CONNECTED", generation=5)))
        await peer.scripted.restart()
        await eventually(lambda: held.generation == 5)


async def test_an_end_that_a_watch_of_it_tells_is_known_to_the_handle(
    peer: Peer, broker: Broker
) -> None:
    with pytest.raises(SessionEndedError, match="CLOSE_REQUESTED"):
        async with broker.open_session(client_id=7) as held:
            await eventually(lambda: peer.scripted.open_streams)
            ended = event(11, 3, state="DISCONNECTED", close_reason="CLOSE_REQUESTED")
            peer.scripted.on("WatchSessions", quiet(snapshot(session()), complete(10), ended))
            assert kinds([item async for item in held.watch()])[-1] == "SessionEvent"
            assert held.ended
    assert not peer.closes()


async def test_a_close_that_finds_the_session_ended_by_others_is_told(
    peer: Peer, broker: Broker
) -> None:
    ended = session(state="DISCONNECTED", sequence=9, close_reason="LEASE_EXPIRED")
    peer.scripted.on("CloseSession", pb.CloseSessionResponse(session=ended))
    peer.scripted.on("WatchSessions", quiet())
    with pytest.raises(SessionEndedError, match="LEASE_EXPIRED"):
        async with broker.open_session(client_id=7):
            pass


# -- whose it is -------------------------------------------------------------------


async def test_what_was_awaited_is_closed_with_the_broker(
    peer: Peer, scripted: ScriptedBroker
) -> None:
    async with connect(scripted.address) as broker:
        held = await broker.open_session(client_id=7)
        assert isinstance(held, Session)
    assert len(peer.closes()) == 1
    assert held.ended


async def test_what_was_awaited_and_detached_is_not(peer: Peer, scripted: ScriptedBroker) -> None:
    async with connect(scripted.address) as broker:
        held = await broker.open_session(client_id=7)
        held.detach()
        waiting = asyncio.create_task(held.wait_ended())
        await asyncio.sleep(0)
    assert not peer.closes()
    with pytest.raises(BrokerClosedError):
        await waiting


async def test_a_broker_that_cannot_close_a_session_says_so(
    peer: Peer, scripted: ScriptedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect(scripted.address, backoff=None) as broker:
        await broker.open_session(client_id=7)
        await scripted.stop()
    assert "could not be closed" in caplog.text


async def test_nothing_is_raised_by_the_end_of_what_was_awaited(peer: Peer, broker: Broker) -> None:
    held = await broker.open_session(client_id=7)
    peer.tell("DISCONNECTED", close_reason="LEASE_EXPIRED")
    assert (await held.wait_ended()).close_reason == "LEASE_EXPIRED"
    await asyncio.sleep(0.02)


async def test_an_opening_is_entered_once(peer: Peer, broker: Broker) -> None:
    opening = broker.open_session(client_id=7)
    async with opening:
        with pytest.raises(RuntimeError, match="opened already"):
            await opening.__aenter__()


async def test_an_open_that_is_cancelled_is_cancelled_at_the_broker(
    peer: Peer, broker: Broker
) -> None:
    cancelled = asyncio.Event()

    async def never(_: Any, __: Any) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    peer.scripted.on("OpenSession", never)

    async def work() -> None:
        async with broker.open_session(client_id=7):
            pass

    task = asyncio.create_task(work())
    await eventually(lambda: peer.scripted.requests("OpenSession"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(20):
        await cancelled.wait()
