"""A session is opened once, kept alive, and taken up by others."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from itertools import pairwise
from typing import Any

import grpc
import pytest

from ibgateway.broker.v1 import session_service_pb2 as pb
from ibgateway.client import (
    Broker,
    BrokerUnreachableError,
    ClientIdPolicy,
    SessionEndedError,
    SessionNotFoundError,
    SessionState,
    connect,
)
from scripted_broker import (
    OTHER_ID,
    SESSION_ID,
    Refusal,
    ScriptedBroker,
    complete,
    controlled,
    event,
    eventually,
    idle,
    kinds,
    quiet,
    session,
    snapshot,
)
from scripted_session import QUICK, Peer, opened

NOT_FOUND = Refusal(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
CLOSED = Refusal(
    grpc.StatusCode.ABORTED,
    "SESSION_CLOSED",
    metadata={"session_id": SESSION_ID, "close_reason": "LEASE_EXPIRED"},
)


# -- what is asked for -------------------------------------------------------------


async def test_an_open_can_be_repeated_owns_its_orders_and_has_a_lease(
    peer: Peer, broker: Broker
) -> None:
    async with broker.open_session(client_id=7) as held:
        assert (held.session_id, held.client_id, held.accounts) == (SESSION_ID, 7, ("DU1",))
        assert held.created
    [request] = peer.scripted.requests("OpenSession")
    assert uuid.UUID(request.request_id).version == 4
    assert request.client_id_policy == pb.CLIENT_ID_POLICY_EXACT
    assert request.lease_ttl.seconds == 60


async def test_each_open_has_a_request_id_of_its_own(peer: Peer, broker: Broker) -> None:
    opening = broker.open_session(client_id=7)
    await (await opening).close()
    await (await opening).close()
    first, second = peer.scripted.requests("OpenSession")
    assert first.request_id != second.request_id


async def test_who_names_no_client_id_takes_any(peer: Peer, broker: Broker) -> None:
    async with broker.open_session():
        pass
    [request] = peer.scripted.requests("OpenSession")
    assert not request.HasField("client_id")
    assert request.client_id_policy == pb.CLIENT_ID_POLICY_INCREMENT


async def test_every_field_of_the_request_can_be_given(peer: Peer, broker: Broker) -> None:
    request_id = str(uuid.uuid4())
    await (
        await broker.open_session(
            gateway_id="paper",
            client_id=7,
            client_id_policy=ClientIdPolicy.INCREMENT,
            readonly=True,
            attempt_timeout=2.5,
            max_attempts=3,
            reconnect_max_attempts=0,
            request_id=request_id,
            lease_ttl=None,
            labels={"desk": "fx"},
            return_immediately=True,
        )
    ).close(reason="done")
    [request] = peer.scripted.requests("OpenSession")
    assert request == pb.OpenSessionRequest(
        gateway_id="paper",
        client_id=7,
        client_id_policy="CLIENT_ID_POLICY_INCREMENT",
        readonly=True,
        timeout={"seconds": 2, "nanos": 500_000_000},
        max_attempts=3,
        reconnect_max_attempts=0,
        request_id=request_id,
        labels={"desk": "fx"},
        return_immediately=True,
    )
    given = {field.name for field, _ in request.ListFields()} | {"lease_ttl", "validate_only"}
    assert given == set(pb.OpenSessionRequest.DESCRIPTOR.fields_by_name)
    assert peer.closes()[0].reason == "done"


async def test_a_request_can_be_checked_without_opening_anything(
    peer: Peer, broker: Broker
) -> None:
    peer.scripted.on("OpenSession", pb.OpenSessionResponse())
    await broker.open_session(client_id=7).validate()
    [request] = peer.scripted.requests("OpenSession")
    assert request.validate_only


async def test_an_open_whose_session_has_ended_meanwhile_says_so(
    peer: Peer, broker: Broker
) -> None:
    peer.scripted.on("OpenSession", opened(state="DISCONNECTED", close_reason="LEASE_EXPIRED"))
    with pytest.raises(SessionEndedError) as caught:
        await broker.open_session(client_id=7)
    assert caught.value.close_reason == "LEASE_EXPIRED"
    assert caught.value.session is not None


# -- what is known -----------------------------------------------------------------


async def test_a_handle_stays_current(peer: Peer, broker: Broker) -> None:
    async with broker.open_session(client_id=7) as held:
        peer.tell("RECONNECTING")
        await eventually(lambda: held.state is SessionState.RECONNECTING)
        connected = asyncio.create_task(held.wait_connected(timeout=20))
        await asyncio.sleep(0.02)
        peer.tell("CONNECTED", generation=2)
        assert (await connected).generation == 2
        assert held.generation == 2
        assert "client_id=7" in repr(held)
        assert held.lease_expire_time is not None, "events do not say it, and do not void it"


async def test_waiting_for_a_connection_may_take_too_long(peer: Peer, broker: Broker) -> None:
    async with broker.open_session(client_id=7) as held:
        peer.tell("RECONNECTING")
        await eventually(lambda: held.state is SessionState.RECONNECTING)
        with pytest.raises(TimeoutError):
            await held.wait_connected(timeout=0.05)


async def test_its_watch_tells_only_about_it_until_it_has_ended(peer: Peer, broker: Broker) -> None:
    async with broker.open_session(client_id=7, raise_on_end=False) as held:
        await eventually(lambda: peer.scripted.open_streams)
        queue: asyncio.Queue[Any] = asyncio.Queue()
        peer.scripted.on(
            "WatchSessions",
            controlled(queue, snapshot(session()), complete(10)),
        )
        queue.put_nowait(event(11, 3, state="FAILED", persisted=False))
        queue.put_nowait(event(11, 3, state="FAILED"))
        items = [item async for item in held.watch()]
    assert kinds(items) == ["Snapshot", "SnapshotComplete", "SessionEvent", "SessionEvent"]
    request = peer.scripted.requests("WatchSessions")[-1]
    assert list(request.session_ids) == [SESSION_ID]
    assert request.include_final


async def test_the_watch_of_an_ended_session_ends(peer: Peer, broker: Broker) -> None:
    async with broker.open_session(client_id=7, raise_on_end=False) as held:
        peer.tell("FAILED")
        await held.wait_ended()
        ended = snapshot(session(state="FAILED", sequence=3, revision=11))
        peer.scripted.on("WatchSessions", quiet(ended, complete(11)))
        assert kinds([item async for item in held.watch()]) == ["Snapshot", "SnapshotComplete"]
        # With a token of after its end nothing would ever come.
        peer.scripted.on("WatchSessions", idle(revision=12))
        assert kinds([item async for item in held.watch(resume_token="t11")]) == ["Bookmark"]


# -- leases ------------------------------------------------------------------------


async def test_a_lease_is_renewed_at_a_third_of_what_was_granted(
    peer: Peer, broker: Broker
) -> None:
    peer.scripted.on("OpenSession", opened(lease_ttl=0.3))
    peer.lease_ttl = 0.3
    begin = time.monotonic()
    renewed: list[float] = []

    async def renew(request: Any, context: Any) -> Any:
        renewed.append(time.monotonic() - begin)
        return await peer.renew(request, context)

    peer.scripted.on("RenewSession", renew)
    async with broker.open_session(client_id=7, lease_ttl=100):
        # A slow machine is late, but not each time: at a half, none would come so soon.
        await eventually(
            lambda: (
                len(renewed) >= 5
                and min(after - before for before, after in pairwise(renewed)) < 0.14
            )
        )
    assert all(at > 0.095 * number for number, at in enumerate(renewed, start=1))
    assert not peer.scripted.requests("RenewSession")[0].HasField("lease_ttl")


async def test_calls_do_not_put_a_renewal_off(peer: Peer, broker: Broker) -> None:
    peer.scripted.on("GetSession", pb.GetSessionResponse(session=session(lease_ttl=0.6)))
    peer.lease_ttl = 0.6
    peer.scripted.on("OpenSession", opened(lease_ttl=0.6))
    async with broker.open_session(client_id=7) as held:
        async with asyncio.timeout(20):
            while peer.renewals() < 2:
                await held.refresh()
                await asyncio.sleep(0.02)


async def test_a_session_without_a_lease_is_not_renewed_until_it_gets_one(
    peer: Peer, broker: Broker
) -> None:
    async with broker.open_session(client_id=7, lease_ttl=None) as held:
        await asyncio.sleep(0.1)
        assert peer.renewals() == 0
        info = await held.renew(lease_ttl=0.3)
        assert info.lease_ttl == 0.3
        await eventually(lambda: peer.renewals() >= 3)


async def test_a_shorter_lease_is_renewed_in_time(peer: Peer, broker: Broker) -> None:
    async with broker.open_session(client_id=7, lease_ttl=100) as held:
        await held.renew(lease_ttl=0.15)
        # A third of what it was before is longer than the patience of a test.
        await eventually(lambda: peer.renewals() >= 3)


async def test_a_lease_that_somebody_else_has_shortened_is_renewed_in_time(
    peer: Peer, broker: Broker
) -> None:
    async with broker.open_session(client_id=7, lease_ttl=100):
        await eventually(lambda: peer.scripted.open_streams)
        peer.lease_ttl = 0.3
        peer.tell("CONNECTED")
        await eventually(lambda: peer.renewals() >= 2)


async def test_renewals_go_on_while_the_broker_is_away(
    peer: Peer, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    peer.scripted.on("OpenSession", opened(lease_ttl=0.3))
    peer.lease_ttl = 0.3
    async with broker.open_session(client_id=7) as held:
        await eventually(peer.renewals)
        await peer.scripted.stop()
        await eventually(lambda: held.renewal_error)
        assert not held.ended, "nobody knows"
        await eventually(lambda: held.interruption)
        with pytest.raises(TimeoutError):
            await held.wait_connected(timeout=0.05)
        before = peer.renewals()
        await peer.scripted.start()
        await eventually(lambda: peer.renewals() > before)
        await eventually(lambda: held.renewal_error is None)
        await held.wait_connected(timeout=20)
        assert held.interruption is None
    said = [record.message for record in caplog.records if "lease" in record.message]
    assert len([text for text in said if "could not be renewed; trying again" in text]) == 1
    assert len([text for text in said if "is renewed again" in text]) == 1


async def test_a_lease_that_was_taken_away_is_not_renewed(peer: Peer, broker: Broker) -> None:
    peer.scripted.on("OpenSession", opened(lease_ttl=0.3))
    peer.lease_ttl = 0.3
    peer.scripted.on("RenewSession", Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"))
    async with broker.open_session(client_id=7) as held:
        await eventually(lambda: peer.renewals() == 1)
        await eventually(lambda: held.info.lease_ttl is None)
        await asyncio.sleep(0.3)
        assert peer.renewals() == 1


# -- attaching ---------------------------------------------------------------------


async def test_who_attaches_renews_the_lease_and_leaves_the_session_open(
    peer: Peer, broker: Broker
) -> None:
    peer.lease_ttl = 0.3
    peer.scripted.on("GetSession", pb.GetSessionResponse(session=session(lease_ttl=0.3)))
    async with broker.attach(SESSION_ID) as held:
        assert peer.renewals() == 1, "at once: who knows how much is left"
        assert not held.created
        await eventually(lambda: peer.renewals() >= 3)
    assert not peer.closes()


async def test_who_attaches_can_give_a_lease_and_close(peer: Peer, broker: Broker) -> None:
    peer.scripted.on("GetSession", pb.GetSessionResponse(session=session()))
    async with broker.attach(SESSION_ID, lease_ttl=30, keep_open=False) as held:
        assert held.info.lease_ttl == 30
    assert len(peer.closes()) == 1


async def test_a_session_without_a_lease_is_attached_to_as_it_is(
    peer: Peer, broker: Broker
) -> None:
    peer.scripted.on("GetSession", pb.GetSessionResponse(session=session()))
    held = await broker.attach(SESSION_ID)
    assert held.client_id == 7
    assert peer.renewals() == 0


async def test_nobody_attaches_to_what_has_ended_or_never_was(peer: Peer, broker: Broker) -> None:
    peer.scripted.on("GetSession", pb.GetSessionResponse(session=session(state="FAILED")))
    with pytest.raises(SessionEndedError):
        await broker.attach(SESSION_ID)
    peer.scripted.on("GetSession", NOT_FOUND)
    with pytest.raises(SessionNotFoundError):
        await broker.attach(OTHER_ID)


async def test_unreachable_is_told_also_while_opening(scripted: ScriptedBroker) -> None:
    await scripted.stop()
    async with connect(scripted.address, backoff=QUICK) as broker:
        with pytest.raises(BrokerUnreachableError):
            await broker.open_session(client_id=7, timeout=1)
