"""The library against a real broker, a real database and a simulated Gateway that is broken."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
import pytest_asyncio

from ibgateway.client import (
    Backoff,
    Bookmark,
    Broker,
    CallTimeoutError,
    CircuitState,
    ClientIDInUseError,
    ClientIdPolicy,
    Condition,
    ConditionStatus,
    Draining,
    GatewayConnectionError,
    GatewayDrainingError,
    GatewayKind,
    GatewayNotFoundError,
    GatewayTimeoutError,
    Health,
    Interrupted,
    InvalidArgumentError,
    RequestIdReusedError,
    Reset,
    Session,
    SessionEndedError,
    SessionEvent,
    SessionNotFoundError,
    SessionState,
    Snapshot,
    SnapshotComplete,
    Transition,
    Watch,
    connect,
)
from live_broker import LiveBroker, data_directory
from scripted_broker import eventually, kinds, take

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest_asyncio.fixture
async def broker(live: LiveBroker) -> AsyncIterator[Broker]:
    async with connect(live.address, owner="momentum") as connected:
        yield connected


@pytest.fixture
def own_live() -> Iterator[LiveBroker]:
    """A broker of a test's own, which it may kill."""
    with data_directory() as path:
        with LiveBroker(path) as started:
            yield started
        print(started.log())  # noqa: T201 - shown if the test has failed


async def until(watch: Watch, wanted: Any, timeout: float = 20.0) -> list[Any]:
    """The items up to the first one that is wanted."""
    items: list[Any] = []
    async with asyncio.timeout(timeout):
        async for item in watch:
            items.append(item)
            if wanted(item):
                return items
    raise AssertionError(f"the watch has ended: {items}")


def moved(item: Any, state: SessionState) -> bool:
    return (
        isinstance(item, SessionEvent)
        and isinstance(item.change, Transition)
        and item.change.to_state is state
    )


async def history(broker: Broker, session_id: str) -> list[SessionEvent]:
    return [event async for event in broker.session_events(session_id)]


async def open_sessions(broker: Broker) -> dict[str, SessionState]:
    return {info.session_id: info.state async for info in broker.list_sessions()}


# -- sessions ----------------------------------------------------------------------


async def test_a_session_is_opened_verified_watched_and_closed(broker: Broker) -> None:
    async with broker.open_session(client_id=7, labels={"desk": "fx"}) as session:
        info = session.info
        assert (info.state, info.client_id, info.owner) == (SessionState.CONNECTED, 7, "momentum")
        assert (dict(info.labels), info.gateway_id, info.generation) == (
            {"desk": "fx"},
            "default",
            1,
        )
        assert info.accounts
        assert info.lease_ttl == 60
        assert info.lease_expire_time is not None
        assert 50 < (info.lease_expire_time - datetime.now(UTC)).total_seconds() <= 61
        verification = await session.verify()
        assert verification.healthy
        assert verification.latency is not None
        async with session.watch() as watch:
            assert kinds(await take(watch, 2)) == ["Snapshot", "SnapshotComplete"]
        found = [info.session_id async for info in broker.list_sessions(labels={"desk": "fx"})]
        assert found == [session.session_id]
    assert session.info.close_reason == "CLOSE_REQUESTED"

    async def ended() -> list[SessionEvent]:
        """What is on record, once the end is."""
        events = await history(broker, session.session_id)
        return events if events[-1].session.is_final else []

    events = await eventually(ended)
    assert [event.sequence for event in events] == [*range(1, len(events) + 1)]


async def test_an_exception_and_a_cancellation_leave_no_session(broker: Broker) -> None:
    with pytest.raises(LookupError):
        async with broker.open_session(client_id=7):
            raise LookupError
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as limit, broker.open_session(client_id=8):
            limit.reschedule(asyncio.get_running_loop().time())
            await asyncio.sleep(60)
    assert await open_sessions(broker) == {}


async def test_an_open_that_is_given_up_leaves_no_session(live: LiveBroker, broker: Broker) -> None:
    await live.simulator("ArmFault", fault="silent-after-accept")
    opening = asyncio.create_task(_opened(broker))
    await eventually(lambda: _one(broker))
    [session_id] = await open_sessions(broker)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await eventually(lambda: _empty(broker))
    assert (await broker.get_session(session_id)).close_reason == "CALLER_GONE"


async def _empty(broker: Broker) -> bool:
    return not await open_sessions(broker)


async def test_callers_with_one_request_id_share_a_session(broker: Broker) -> None:
    request_id = str(uuid.uuid4())
    first = await broker.open_session(client_id=7, request_id=request_id)
    second = await broker.open_session(client_id=7, request_id=request_id)
    assert first.session_id == second.session_id
    assert (first.created, second.created) == (True, False)
    with pytest.raises(RequestIdReusedError):
        await broker.open_session(client_id=8, request_id=request_id)


async def test_a_lost_link_is_told_and_acknowledged(live: LiveBroker, broker: Broker) -> None:
    async with broker.open_session(client_id=7) as session, session.watch() as watch:
        await until(watch, lambda item: isinstance(item, SnapshotComplete))
        await live.simulator("DropClients", reset=True)
        items = await until(watch, lambda item: moved(item, SessionState.RECONNECTING))
        failure = items[-1].session.last_failure
        assert failure is not None
        assert failure.reason == "IB_CONN_001"
        assert failure.hint
        await eventually(lambda: session.state is SessionState.RECONNECTING)
        await session.wait_connected(timeout=20)
        [*_, told] = await until(
            watch,
            lambda item: isinstance(item, SessionEvent) and isinstance(item.change, Condition),
        )
        assert told.change.type == "DATA_CONTINUOUS"
        assert told.change.status is ConditionStatus.FALSE
        with pytest.raises(InvalidArgumentError):
            await session.acknowledge_data(generation=told.session.generation - 1)
        info = await session.acknowledge_data(generation=told.session.generation)
        condition = info.condition("DATA_CONTINUOUS")
        assert condition is not None
        assert condition.status is ConditionStatus.TRUE


async def test_a_session_that_nobody_renews_ends_and_its_watchers_are_told(
    live: LiveBroker, broker: Broker
) -> None:
    async with broker.watch(labels={"desk": "left"}) as watch:
        await until(watch, lambda item: isinstance(item, SnapshotComplete))
        async with (
            connect(live.address) as other,
            other.open_session(
                client_id=7, lease_ttl=3.0, labels={"desk": "left"}, keep_open=True
            ) as session,
        ):
            pass
        [*_, last] = await until(watch, lambda item: moved(item, SessionState.DISCONNECTED))
        assert last.session_id == session.session_id
        assert last.session.close_reason == "LEASE_EXPIRED"
    with pytest.raises(SessionEndedError) as caught:
        await broker.renew_session(session.session_id)
    assert caught.value.close_reason == "LEASE_EXPIRED"
    with pytest.raises(SessionEndedError):
        await broker.attach(session.session_id)


async def test_a_short_lease_is_kept_alive(broker: Broker) -> None:
    async with broker.open_session(client_id=7, lease_ttl=3.0) as session:
        first = session.lease_expire_time
        assert first is not None
        # It was renewed after two thirds of its time, and has outlived it.
        await eventually(lambda: _left(session, first) > 1.5)
        await eventually(lambda: datetime.now(UTC) > first)
        await session.refresh()
        assert session.state is SessionState.CONNECTED


async def test_a_session_is_taken_up_by_another_program(live: LiveBroker, broker: Broker) -> None:
    async with (
        connect(live.address) as other,
        other.open_session(client_id=7, lease_ttl=20) as session,
    ):
        session.detach()
    async with broker.attach(session.session_id, lease_ttl=30, keep_open=False) as taken:
        assert taken.info.lease_ttl == 30
        assert taken.client_id == 7
    assert taken.info.close_reason == "CLOSE_REQUESTED"


async def test_a_block_is_told_that_an_operator_ends_its_session(
    live: LiveBroker, broker: Broker
) -> None:
    with pytest.raises(SessionEndedError, match="GATEWAY_DRAINED"):
        async with asyncio.timeout(40), broker.open_session(client_id=7):
            async with connect(live.address, owner="ops") as operator:
                await operator.gateways.drain(reason="upgrade", close_sessions=True)
            await asyncio.sleep(60)
    with pytest.raises(GatewayDrainingError, match="upgrade") as caught:
        await broker.open_session(client_id=7, timeout=20)
    assert "gateways resume default" in str(caught.value)
    assert caught.value.metadata["actor"] == "ops"


# -- errors ------------------------------------------------------------------------


async def test_an_id_that_is_in_use_is_never_replaced(live: LiveBroker, broker: Broker) -> None:
    await live.simulator("HoldClientId", client_id=7, duration={"seconds": 60})
    try:
        with pytest.raises(ClientIDInUseError) as caught:
            await broker.open_session(client_id=7, max_attempts=1)
        assert (caught.value.tws_code, caught.value.phase) == (326, "start_api")
        assert caught.value.hint
        session = await broker.open_session(client_id=7, client_id_policy=ClientIdPolicy.INCREMENT)
        assert session.client_id == 8
        assert session.info.client_id_changed
    finally:
        await live.simulator("HoldClientId", client_id=7)


async def test_a_gateway_that_refuses_or_is_silent_says_so(
    live: LiveBroker, broker: Broker
) -> None:
    await live.simulator("SetListening", listening=False)
    with pytest.raises(GatewayConnectionError, match="IB_CONN_001") as refused:
        await broker.open_session(client_id=7, max_attempts=1)
    assert refused.value.phase == "tcp"
    await live.simulator("SetListening", listening=True)
    await broker.gateways.reset_breaker()
    await live.simulator("ArmFault", fault="silent-after-accept")
    with pytest.raises(GatewayTimeoutError) as silent:
        await broker.open_session(client_id=7, max_attempts=1, attempt_timeout=0.5)
    assert silent.value.phase == "handshake"


async def test_what_is_wrong_with_a_request_is_named(broker: Broker) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await broker.open_session(client_id=100_000, lease_ttl=0.1).validate()
    assert {field for field, _ in caught.value.violations} == {"client_id", "lease_ttl"}
    with pytest.raises(GatewayNotFoundError) as nowhere:
        await broker.open_session(gateway_id="nowhere")
    assert nowhere.value.metadata["gateways"] == "default"
    with pytest.raises(SessionNotFoundError):
        await broker.get_session(UNKNOWN)
    with pytest.raises(InvalidArgumentError, match="resume_token"):
        await anext(broker.watch(resume_token="no token"))
    await broker.open_session(client_id=7).validate()
    assert await open_sessions(broker) == {}


async def test_a_correlation_id_reaches_events_and_errors(broker: Broker) -> None:
    mine = str(uuid.uuid4())
    session = await broker.open_session(client_id=7, correlation_id=mine)
    await eventually(lambda: _is_connected(broker, session.session_id))
    events = await history(broker, session.session_id)
    assert {event.correlation_id for event in events[:2]} == {mine}
    with pytest.raises(SessionNotFoundError) as caught:
        await broker.get_session(UNKNOWN, correlation_id=mine)
    assert caught.value.correlation_id == mine


async def test_a_deadline_that_passes_while_opening_ends_the_session(
    live: LiveBroker, broker: Broker
) -> None:
    await live.simulator("ArmFault", fault="silent-after-accept")
    with pytest.raises(CallTimeoutError):
        await broker.open_session(client_id=7, timeout=0.5)
    await eventually(lambda: _empty(broker))


# -- gateways and the broker -------------------------------------------------------


async def test_operators_see_and_decide(broker: Broker) -> None:
    session = await broker.open_session(client_id=7)

    async def is_the_same() -> bool:
        """The broker's own link, lost in the test before, may come back between the two."""
        return await broker.gateways.list() == (await broker.gateways.get(),)

    await eventually(is_the_same)
    gateway = await broker.gateways.get()
    assert (gateway.gateway_id, gateway.kind) == ("default", GatewayKind.PAPER)
    assert gateway.reachable
    assert gateway.circuit_breaker.state is CircuitState.CLOSED
    assert [(held.client_id, held.session_id) for held in gateway.client_ids] == [
        (7, session.session_id)
    ]
    drained = await broker.gateways.drain(reason="lunch")
    assert drained.drain is not None
    assert (drained.drain.actor, drained.drain.reason) == ("momentum", "lunch")
    assert (await broker.gateways.resume()).drain is None
    assert (await broker.gateways.reset_breaker()).circuit_breaker.failures == 0


async def test_the_broker_tells_of_itself(broker: Broker) -> None:
    info = await broker.info()
    assert info.version
    assert {"watch.resume", "session.lease", "session.request-id"} <= info.capabilities
    assert info.limits.sessions > 0
    assert info.limits.lease_ttl is not None
    assert await broker.check_health() is Health.SERVING
    await eventually(lambda: _serves(broker, "gateways/default"))
    assert await broker.check_health("nope") is Health.SERVICE_UNKNOWN


async def _serves(broker: Broker, service: str) -> bool:
    return await broker.check_health(service) is Health.SERVING


# -- watching ----------------------------------------------------------------------


async def test_a_kept_token_continues_without_a_snapshot(broker: Broker) -> None:
    async with broker.watch() as watch:
        await until(watch, lambda item: isinstance(item, SnapshotComplete))
        token = watch.token
    session = await broker.open_session(client_id=7)
    await session.close()
    async with broker.watch(resume_token=token) as watch:
        items = await until(
            watch, lambda item: moved(item, SessionState.DISCONNECTED) and item.persisted
        )
    assert set(kinds(items)) == {"SessionEvent"}
    sequences = [item.sequence for item in items if item.persisted]
    assert sequences == [*range(1, len(sequences) + 1)]


async def test_what_a_watch_has_folded_is_what_the_broker_lists(
    live: LiveBroker, broker: Broker
) -> None:
    async with broker.watch() as watch, broker.watch(states=[SessionState.CONNECTED]) as some:
        await until(watch, lambda item: isinstance(item, SnapshotComplete))
        await until(some, lambda item: isinstance(item, SnapshotComplete))
        sessions = [await broker.open_session(client_id=number) for number in range(7, 12)]
        await live.simulator("DropClients", client_id=8, reset=True)
        await sessions[0].close()
        await live.simulator("DropClients", client_id=9)
        # Until they have a new link: before that a handle may not know that the old one is lost.
        await eventually(lambda: all(session.generation == 2 for session in sessions[1:3]), 40)
        await sessions[4].close()
        last = sessions[4].session_id

        def ended(item: Any) -> bool:
            return moved(item, SessionState.DISCONNECTED) and item.session_id == last

        await until(watch, ended)
        await until(some, ended)
        listed = await open_sessions(broker)
        for folded in (watch.sessions, some.sessions):
            assert {key: info.state for key, info in folded.items()} == listed


# -- a broker that restarts --------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_sessions_and_watches_survive_a_restart_without_a_gap(
    own_live: LiveBroker, how: str
) -> None:
    backoff = Backoff(initial=0.1, maximum=1.0)
    async with connect(own_live.address, owner="momentum", backoff=backoff) as broker:
        async with (
            broker.open_session(client_id=7, lease_ttl=6.0) as session,
            broker.watch() as watch,
        ):
            await until(watch, lambda item: isinstance(item, SnapshotComplete))
            before = session.session_id
            instance = (await broker.info()).instance
            await eventually(lambda: _is_connected(broker, before))
            await asyncio.to_thread(own_live.stop if how == "stop" else own_live.kill)
            await asyncio.to_thread(own_live.start)
            items = await until(watch, lambda item: moved(item, SessionState.CONNECTED), 60)
            assert not [item for item in items if isinstance(item, Reset | Snapshot)]
            assert [item for item in items if isinstance(item, Interrupted)]
            if how == "stop":
                assert [item for item in items if isinstance(item, Draining)]
            assert any(moved(item, SessionState.RECONNECTING) for item in items)
            await eventually(lambda: session.generation == 2, 20)
            await session.wait_connected(timeout=20)
            assert (session.session_id, session.client_id) == (before, 7)
            assert (await broker.info()).instance != instance
            taken_up = datetime.now(UTC)
            await eventually(lambda: _left(session, taken_up) > 8, 30)
            assert session.state is SessionState.CONNECTED, "its lease is renewed"
            assert session.renewal_error is None
            assert session.interruption is None
        assert session.info.close_reason == "CLOSE_REQUESTED"


async def test_an_open_survives_a_restart_and_opens_nothing_twice(own_live: LiveBroker) -> None:
    await own_live.simulator("ArmFault", fault="silent-after-accept")
    async with connect(own_live.address, owner="momentum") as broker:
        opening = asyncio.create_task(_opened(broker))
        await eventually(lambda: _one(broker))
        await asyncio.to_thread(own_live.kill)
        await asyncio.to_thread(own_live.start)
        session = await opening
        assert session.state is SessionState.CONNECTED
        found = [info async for info in broker.list_sessions(include_final=True)]
        assert [info.session_id for info in found if not info.is_final] == [session.session_id]
        await session.close()


async def _is_connected(broker: Broker, session_id: str) -> bool:
    """Whether that is on record: a broker that is killed before that forgets it."""
    return any(moved(item, SessionState.CONNECTED) for item in await history(broker, session_id))


def _left(session: Session, since: datetime) -> float:
    """Seconds from a time to the end of a session's lease."""
    assert session.lease_expire_time is not None
    return (session.lease_expire_time - since).total_seconds()


async def _opened(broker: Broker) -> Any:
    return await broker.open_session(client_id=7, timeout=60)


async def _one(broker: Broker) -> bool:
    return len(await open_sessions(broker)) == 1


async def test_a_token_of_another_database_is_reset(broker: Broker, own_live: LiveBroker) -> None:
    async with broker.watch() as watch:
        await until(watch, lambda item: isinstance(item, SnapshotComplete))
        token = watch.token
    async with connect(own_live.address) as other, other.watch(resume_token=token) as watch:
        items = await until(watch, lambda item: isinstance(item, SnapshotComplete))
    assert items[0] == Reset(
        reason="TOKEN_OF_ANOTHER_STORE", oldest_revision=items[0].oldest_revision
    )


async def test_a_quiet_watch_hears_that_all_is_quiet(broker: Broker) -> None:
    async with broker.watch() as watch:
        await until(watch, lambda item: isinstance(item, SnapshotComplete))
        [item] = await take(watch, 1, timeout=30)
    assert isinstance(item, Bookmark)


async def test_a_channel_may_be_given_credentials(live: LiveBroker) -> None:
    # The broker speaks no TLS yet: what matters is that the channel does, and that it is told.
    credentials = grpc.ssl_channel_credentials()
    async with connect(live.address, credentials=credentials, backoff=None) as broker:
        with pytest.raises(Exception, match="no broker answers"):
            await broker.info(timeout=5)
