"""A handle that cannot know how its session is says so, and learns of it again."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from typing import Any

import grpc
import pytest

from ibgateway.broker.v1 import session_service_pb2 as pb
from ibgateway.client import (
    Broker,
    BrokerClosedError,
    PermissionDeniedError,
    SessionEndedError,
    SessionNotFoundError,
    SessionState,
    StoreUnavailableError,
    UnauthenticatedError,
    connect,
)
from ibgateway.client.lifeline import Lifeline
from scripted_broker import (
    Refusal,
    ScriptedBroker,
    complete,
    event,
    eventually,
    quiet,
    session,
    snapshot,
    told,
)
from scripted_session import FIRST, Peer, opened

NOT_FOUND = Refusal(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
UNKNOWN = Refusal(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
DENIED = Refusal(grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
# Beyond the time that a close has: it is told at once, and not asked again.
AWAY = Refusal(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", retry_after=60)


# -- refused -----------------------------------------------------------------------


async def test_a_handle_whose_caller_is_refused_says_so_and_follows_again(
    peer: Peer, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    now = session(state="RECONNECTING", sequence=3)
    peer.scripted.on(
        "WatchSessions",
        told(snapshot(session()), complete(FIRST), UNKNOWN),
        told(UNKNOWN),
        quiet(snapshot(now), complete(FIRST + 1)),
    )
    async with broker.open_session(client_id=7) as held:
        await eventually(lambda: held.interruption)
        for wait in (held.wait_connected, held.wait_ended):
            with pytest.raises(UnauthenticatedError):
                async with asyncio.timeout(20):
                    await wait()
        await eventually(lambda: held.interruption is None)
        assert held.state is SessionState.RECONNECTING
        with pytest.raises(TimeoutError):
            await held.wait_connected(timeout=0.05)
    said = [record.message for record in caplog.records if "follow" in record.message]
    assert len(said) == 2, "the refusal once, and that it is over"


async def test_who_waits_when_the_caller_is_refused_is_told(peer: Peer, broker: Broker) -> None:
    refuse = asyncio.Event()

    async def stream(_: Any, __: Any) -> Any:
        yield snapshot(session(state="RECONNECTING", sequence=3))
        yield complete(FIRST)
        await refuse.wait()
        yield DENIED

    peer.scripted.on("WatchSessions", stream, told(DENIED))
    async with broker.open_session(client_id=7) as held:
        await eventually(lambda: held.state is SessionState.RECONNECTING)
        waits = [asyncio.create_task(wait) for wait in (held.wait_connected(), held.wait_ended())]
        await asyncio.sleep(0.02)
        refuse.set()
        for waiting in waits:
            with pytest.raises(PermissionDeniedError):
                async with asyncio.timeout(20):
                    await waiting


async def test_what_was_void_is_forgotten_by_who_follows_again(peer: Peer, broker: Broker) -> None:
    peer.scripted.on(
        "WatchSessions",
        told(
            snapshot(session()),
            complete(FIRST),
            event(FIRST, 3, state="RECONNECTING", persisted=False),
            UNKNOWN,
        ),
        quiet(snapshot(session()), complete(FIRST)),
    )
    async with broker.open_session(client_id=7) as held:
        await eventually(lambda: held.interruption)
        await eventually(lambda: held.interruption is None)
        await eventually(lambda: held.state is SessionState.CONNECTED)


async def test_a_handle_that_is_followed_no_longer_does_not_say_connected(
    peer: Peer, broker: Broker
) -> None:
    async with broker.open_session(client_id=7, keep_open=True) as held:
        await held.wait_connected(timeout=20)
    assert isinstance(held.interruption, BrokerClosedError)
    with pytest.raises(BrokerClosedError, match="followed no longer"):
        await held.wait_connected(timeout=20)


# -- a close that fails ------------------------------------------------------------


async def test_an_end_by_others_is_told_also_after_a_close_that_failed(
    peer: Peer, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    peer.scripted.on("CloseSession", AWAY)
    with pytest.raises(SessionEndedError, match="GATEWAY_DRAINED"):
        async with broker.open_session(client_id=7) as held:
            with pytest.raises(StoreUnavailableError):
                await held.close(timeout=30)
            peer.tell("DISCONNECTED", close_reason="GATEWAY_DRAINED")
            await asyncio.sleep(60)
    assert "GATEWAY_DRAINED" in caplog.text


@pytest.mark.parametrize(
    ("reason", "is_told"), [("LEASE_EXPIRED", True), ("CLOSE_REQUESTED", False)]
)
async def test_an_end_while_a_close_fails_is_told_if_it_is_by_others(
    peer: Peer, broker: Broker, caplog: pytest.LogCaptureFixture, reason: str, is_told: bool
) -> None:
    async def end(_: Any, __: Any) -> Any:
        peer.tell("DISCONNECTED", close_reason=reason)
        await eventually(lambda: held.ended)
        return AWAY

    peer.scripted.on("CloseSession", end)
    held = await broker.open_session(client_id=7)
    await eventually(lambda: peer.scripted.open_streams)
    with pytest.raises(StoreUnavailableError):
        await held.close(timeout=30)
    assert (reason in caplog.text) is is_told


@pytest.mark.parametrize("reason", ["LEASE_EXPIRED", "CLOSE_REQUESTED"])
@pytest.mark.parametrize("fails", [False, True])
async def test_closing_what_others_have_ended_does_not_hide_that(
    peer: Peer, broker: Broker, reason: str, fails: bool
) -> None:
    if fails:
        peer.scripted.on("CloseSession", AWAY)
    with pytest.raises(SessionEndedError, match=reason):
        async with broker.open_session(client_id=7) as held:
            await eventually(lambda: peer.scripted.open_streams)
            peer.tell("DISCONNECTED", close_reason=reason)
            try:
                await asyncio.sleep(60)
            finally:
                with contextlib.suppress(StoreUnavailableError):
                    await held.close(timeout=30)


async def test_a_close_by_hand_that_finds_an_end_by_others_tells_it(
    peer: Peer, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    ended = session(state="DISCONNECTED", sequence=9, close_reason="LEASE_EXPIRED")
    peer.scripted.on("CloseSession", pb.CloseSessionResponse(session=ended))
    with pytest.raises(SessionEndedError, match="LEASE_EXPIRED"):
        async with broker.open_session(client_id=7) as held:
            assert (await held.close()).close_reason == "LEASE_EXPIRED"
    assert "LEASE_EXPIRED" in caplog.text


async def test_a_close_that_finds_no_session_has_found_its_end(peer: Peer, broker: Broker) -> None:
    peer.scripted.on("CloseSession", NOT_FOUND)
    held = await broker.open_session(client_id=7)
    with pytest.raises(SessionNotFoundError):
        await held.close()
    assert held.ended
    await held.wait_ended()


# -- what is kept ------------------------------------------------------------------


def lifelines() -> int:
    gc.collect()
    return sum(isinstance(thing, Lifeline) for thing in gc.get_objects())


async def test_nothing_is_kept_of_sessions_that_have_ended(peer: Peer, broker: Broker) -> None:
    async def anew(_: Any, __: Any) -> Any:
        peer.__init__(peer.scripted)  # type: ignore[misc]
        return opened()

    before = lifelines()
    for by_others in (True, False) * 3:
        peer.scripted.on("OpenSession", anew)
        held = await broker.open_session(client_id=7)
        if by_others:
            await eventually(lambda: peer.scripted.open_streams)
            peer.tell("DISCONNECTED", close_reason="LEASE_EXPIRED")
            await held.wait_ended()
        else:
            await held.close()
        await eventually(lambda: not peer.scripted.open_streams)
    del held
    await eventually(lambda: lifelines() == before)


async def test_what_is_opened_while_the_broker_closes_is_closed_too(
    peer: Peer, scripted: ScriptedBroker
) -> None:
    close, answer = asyncio.Event(), asyncio.Event()

    async def late(_: Any, __: Any) -> Any:
        await answer.wait()
        return opened()

    async def slow(_: Any, __: Any) -> Any:
        answer.set()
        await close.wait()
        return pb.CloseSessionResponse(session=session(state="DISCONNECTED", sequence=9))

    async with connect(scripted.address) as broker:
        await broker.open_session(client_id=7)
        scripted.on("OpenSession", late)
        scripted.on("CloseSession", slow)
        opening = asyncio.create_task(_open(broker))
        await eventually(lambda: len(scripted.requests("OpenSession")) == 2)
        closing = asyncio.create_task(broker.close())
        held = await opening
        close.set()
        await closing
    assert len(peer.closes()) == 2
    assert held.ended


async def _open(broker: Broker) -> Any:
    return await broker.open_session(client_id=7)
