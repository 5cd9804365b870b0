"""A session is opened once, kept alive, and closed; that it has ended is told."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from ibgateway.broker.v1 import session_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb
from ibgateway.client import (
    Backoff,
    Broker,
    BrokerClosedError,
    BrokerUnreachableError,
    CallTimeoutError,
    ClientIdPolicy,
    Session,
    SessionEndedError,
    SessionNotConnectedError,
    SessionNotFoundError,
    SessionState,
    StoreUnavailableError,
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

QUICK = Backoff(initial=0.02, maximum=0.1)
NOT_FOUND = Refusal(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
CLOSED = Refusal(
    grpc.StatusCode.ABORTED,
    "SESSION_CLOSED",
    metadata={"session_id": SESSION_ID, "close_reason": "LEASE_EXPIRED"},
)


FIRST = 10
"""The revision at which the session was opened."""


def opened(**fields: Any) -> pb.OpenSessionResponse:
    return pb.OpenSessionResponse(session=session(**fields), created=True)


class Peer:
    """A scripted broker with one session, that a test moves."""

    def __init__(self, scripted: ScriptedBroker) -> None:
        self.scripted = scripted
        self.lease_ttl: float | None = None
        self._now = session()
        self._log: list[Any] = []
        self._moved = asyncio.Event()
        scripted.on("OpenSession", self._open)
        scripted.on("RenewSession", self._renew)
        scripted.on("CloseSession", self._close)
        scripted.on("WatchSessions", self._watch)

    async def _open(self, request: Any, _: Any) -> Any:
        if request.HasField("lease_ttl"):
            self.lease_ttl = request.lease_ttl.seconds + request.lease_ttl.nanos / 1e9
        return opened(lease_ttl=self.lease_ttl)

    async def _renew(self, request: Any, _: Any) -> Any:
        if request.HasField("lease_ttl"):
            self.lease_ttl = request.lease_ttl.seconds + request.lease_ttl.nanos / 1e9
        return pb.RenewSessionResponse(session=self._leased())

    def _leased(self) -> session_pb2.Session:
        """The session as it is now."""
        result = session(lease_ttl=self.lease_ttl)
        result.MergeFrom(self._now)
        del result.accounts[1:]
        return result

    async def _close(self, _: Any, __: Any) -> Any:
        if self._now.state != session_pb2.SESSION_STATE_DISCONNECTED:
            self.tell("DISCONNECTED", close_reason="CLOSE_REQUESTED")
        return pb.CloseSessionResponse(session=self._now)

    async def _watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await context.send_initial_metadata(())
        if request.resume_token:
            told = int(request.resume_token.removeprefix("t")) - FIRST
        else:
            told = len(self._log)
            yield snapshot(self._leased())
            yield complete(FIRST + told)
        while True:
            for message in self._log[told:]:
                told += 1
                yield message
            await self._moved.wait()

    def tell(self, state: str, *, persisted: bool = True, **fields: Any) -> None:
        """The session moves."""
        sequence = self._now.sequence + 1
        revision = FIRST + len(self._log) + persisted
        fields = {"state": state, "persisted": persisted, "lease_ttl": self.lease_ttl, **fields}
        self._log.append(event(revision, sequence, **fields))
        self._now = self._log[-1].event.session
        self._moved.set()
        self._moved = asyncio.Event()

    def renewals(self) -> int:
        return len(self.scripted.requests("RenewSession"))

    def closes(self) -> list[Any]:
        return self.scripted.requests("CloseSession")


@pytest_asyncio.fixture
async def peer(scripted: ScriptedBroker) -> Peer:
    return Peer(scripted)


@pytest_asyncio.fixture
async def broker(scripted: ScriptedBroker) -> AsyncIterator[Broker]:
    async with connect(scripted.address, backoff=QUICK) as connected:
        yield connected


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
        connected = asyncio.create_task(held.wait_connected(timeout=5))
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
    async with broker.open_session(client_id=7, lease_ttl=100):
        await eventually(lambda: peer.renewals() >= 5)
    assert 0.45 < time.monotonic() - begin < 1.5
    assert not peer.scripted.requests("RenewSession")[0].HasField("lease_ttl")


async def test_calls_do_not_put_a_renewal_off(peer: Peer, broker: Broker) -> None:
    peer.scripted.on("GetSession", pb.GetSessionResponse(session=session(lease_ttl=0.6)))
    peer.lease_ttl = 0.6
    peer.scripted.on("OpenSession", opened(lease_ttl=0.6))
    async with broker.open_session(client_id=7) as held:
        for _ in range(30):
            await held.refresh()
            await asyncio.sleep(0.02)
        assert peer.renewals() >= 2


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
        begin = time.monotonic()
        await eventually(lambda: peer.renewals() >= 3)
        assert time.monotonic() - begin < 1


async def test_a_lease_that_somebody_else_has_shortened_is_renewed_in_time(
    peer: Peer, broker: Broker
) -> None:
    async with broker.open_session(client_id=7, lease_ttl=100):
        await eventually(lambda: peer.scripted.open_streams)
        peer.lease_ttl = 0.3
        peer.tell("CONNECTED")
        await eventually(lambda: peer.renewals() >= 2, 2)


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
        await held.wait_connected(timeout=5)
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
        await asyncio.sleep(0.3)
        assert peer.renewals() == 1
        assert held.info.lease_ttl is None


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
    async with asyncio.timeout(2):
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_closing_takes_no_longer_than_it_may(peer: Peer, broker: Broker) -> None:
    async def never(_: Any, __: Any) -> None:
        await asyncio.sleep(60)

    peer.scripted.on("CloseSession", never)
    begin = time.monotonic()
    with pytest.raises(CallTimeoutError):
        async with broker.open_session(client_id=7, close_timeout=0.2):
            pass
    assert time.monotonic() - begin < 2


async def test_a_close_that_fails_does_not_hide_the_exception(
    peer: Peer, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    peer.scripted.on("CloseSession", Refusal(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"))
    with pytest.raises(LookupError) as caught:
        async with broker.open_session(client_id=7, close_timeout=0.2):
            raise LookupError
    assert "could not be closed" in caught.value.__notes__[0]
    assert "could not be closed" in caplog.text


async def test_a_close_that_fails_alone_is_raised(peer: Peer, broker: Broker) -> None:
    peer.scripted.on("CloseSession", Refusal(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"))
    with pytest.raises(StoreUnavailableError):
        async with broker.open_session(client_id=7, close_timeout=0.2):
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
    assert time.monotonic() - begin < 5
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
        await eventually(lambda: peer.scripted.open_streams)
        peer.tell("RECONNECTING", persisted=False)
        await eventually(lambda: held.state is SessionState.RECONNECTING)
        # The broker dies with it, and what its successor finds is another third event.
        peer.scripted.on("WatchSessions", quiet(event(11, 3, state="CONNECTED", generation=5)))
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
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), broker.open_session(client_id=7):
            pass
    async with asyncio.timeout(5):
        await cancelled.wait()


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
            await broker.open_session(client_id=7, timeout=0.3)
