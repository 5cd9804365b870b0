"""Calls: who sends what, what is repeated, and what a closed Broker means."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from ibgateway.broker.v1 import gateway_service_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb
from ibgateway.client import (
    Backoff,
    Broker,
    BrokerClosedError,
    BrokerDrainingError,
    BrokerUnreachableError,
    CallTimeoutError,
    CircuitBreakerOpenError,
    ClientIDInUseError,
    Health,
    SessionLimitError,
    connect,
    connection,
)
from live_broker import free_port
from scripted_broker import (
    SERVICES,
    SESSION_ID,
    Refusal,
    ScriptedBroker,
    complete,
    event,
    eventually,
    quiet,
    session,
)

QUICK = Backoff(initial=0.01, maximum=0.05)
FOUND = pb.GetSessionResponse(session=session())
DRAINING = Refusal(grpc.StatusCode.UNAVAILABLE, "BROKER_DRAINING", retry_after=0.05)


async def _consume(source: Any) -> None:
    async for _ in source:
        pass


async def _watch(broker: Broker) -> None:
    async with broker.watch() as watch:
        await anext(watch)


async def _open(broker: Broker) -> None:
    await (await broker.open_session()).close()


EVERY_RPC: dict[str, Callable[[Broker], Awaitable[Any]]] = {
    "OpenSession": _open,
    "CloseSession": lambda broker: broker.close_session(SESSION_ID),
    "GetSession": lambda broker: broker.get_session(SESSION_ID),
    "ListSessions": lambda broker: _consume(broker.list_sessions()),
    "VerifySession": lambda broker: broker.verify_session(SESSION_ID),
    "RenewSession": lambda broker: broker.renew_session(SESSION_ID),
    "ListSessionEvents": lambda broker: _consume(broker.session_events(SESSION_ID)),
    "AcknowledgeData": lambda broker: broker.acknowledge_data(SESSION_ID, generation=1),
    "WatchSessions": _watch,
    "ListGateways": lambda broker: broker.gateways.list(),
    "GetGateway": lambda broker: broker.gateways.get(),
    "DrainGateway": lambda broker: broker.gateways.drain(),
    "ResumeGateway": lambda broker: broker.gateways.resume(),
    "ResetCircuitBreaker": lambda broker: broker.gateways.reset_breaker(),
    "GetBrokerInfo": lambda broker: broker.info(),
    "Check": lambda broker: broker.check_health(),
}


def test_every_rpc_of_every_service_has_its_method() -> None:
    rpcs = {method.name for service in SERVICES.values() for method in service.methods}
    assert set(EVERY_RPC) == rpcs | {"Check"}


@pytest.mark.parametrize("rpc", EVERY_RPC)
async def test_a_method_calls_its_rpc_with_a_deadline_and_its_metadata(
    scripted: ScriptedBroker, rpc: str
) -> None:
    scripted.on("OpenSession", pb.OpenSessionResponse(session=session(), created=True))
    scripted.on("CloseSession", pb.CloseSessionResponse(session=session(state="DISCONNECTED")))
    scripted.on("WatchSessions", quiet(complete(1)))
    async with connect(scripted.address, owner="momentum", metadata=[("x-more", "1")]) as broker:
        await EVERY_RPC[rpc](broker)
    [asked] = [asked for asked in scripted.asked if asked.rpc == rpc][:1]
    assert asked.metadata["x-broker-owner"] == "momentum"
    assert asked.metadata["x-more"] == "1"
    assert asked.metadata["x-correlation-id"]
    if rpc != "WatchSessions":  # bounded by its silence instead
        assert asked.timeout is not None
        assert asked.timeout <= 302


async def test_lists_are_fetched_page_by_page(scripted: ScriptedBroker) -> None:
    scripted.on(
        "ListSessions",
        pb.ListSessionsResponse(sessions=[session("a"), session("b")], next_page_token="more"),
        pb.ListSessionsResponse(sessions=[session("c")]),
    )
    async with connect(scripted.address) as broker:
        found = [
            info.session_id
            async for info in broker.list_sessions(labels={"desk": "fx"}, page_size=9)
        ]
    assert found == ["a", "b", "c"]
    first, second = scripted.requests("ListSessions")
    assert (first.page_token, second.page_token) == ("", "more")
    assert dict(second.labels) == {"desk": "fx"}
    assert second.page_size == 9


async def test_histories_are_fetched_page_by_page(scripted: ScriptedBroker) -> None:
    scripted.on(
        "ListSessionEvents",
        pb.ListSessionEventsResponse(events=[event(1, 1).event], next_page_token="more"),
        pb.ListSessionEventsResponse(events=[event(2, 2).event]),
    )
    async with connect(scripted.address) as broker:
        found = [item.sequence async for item in broker.session_events(SESSION_ID)]
    assert found == [1, 2]
    assert scripted.requests("ListSessionEvents")[1].page_token == "more"


@pytest.mark.parametrize(
    ("answer", "health"),
    [
        (b"", Health.UNKNOWN),
        (b"\x08\x01", Health.SERVING),
        (b"\x08\x02", Health.NOT_SERVING),
        (Refusal(grpc.StatusCode.NOT_FOUND), Health.SERVICE_UNKNOWN),
    ],
)
async def test_health_is_that_of_the_standard_service(
    scripted: ScriptedBroker, answer: Any, health: Health
) -> None:
    scripted.on("Check", answer)
    async with connect(scripted.address) as broker:
        assert await broker.check_health("gateways/default") is health
    assert scripted.requests("Check") == [b"\x0a\x10gateways/default"]


# -- repeating ---------------------------------------------------------------------


async def test_a_broker_that_cannot_serve_now_is_asked_again_when_it_says(
    scripted: ScriptedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.on("GetSession", DRAINING, DRAINING, FOUND)
    async with connect(scripted.address, backoff=QUICK) as broker:
        begin = time.monotonic()
        info = await broker.get_session(SESSION_ID)
    assert info.session_id == SESSION_ID
    assert time.monotonic() - begin >= 0.1
    assert len(scripted.requests("GetSession")) == 3
    assert len({asked.metadata["x-correlation-id"] for asked in scripted.asked}) == 1
    [warning] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "BROKER_DRAINING" in warning.message
    assert "trying again in" in warning.message


@pytest.mark.parametrize(
    "reason", ["CIRCUIT_OPEN", "GATEWAY_DRAINING", "BROKER_DRAINING", "STORE_UNAVAILABLE"]
)
async def test_an_open_that_was_refused_for_now_is_repeated_with_its_request_id(
    scripted: ScriptedBroker, reason: str
) -> None:
    refusal = Refusal(grpc.StatusCode.UNAVAILABLE, reason, retry_after=0.01)
    scripted.on("OpenSession", refusal, pb.OpenSessionResponse(session=session()))
    scripted.on("CloseSession", pb.CloseSessionResponse(session=session(state="DISCONNECTED")))
    async with connect(scripted.address, backoff=QUICK) as broker:
        await (await broker.open_session(client_id=7)).close()
    first, second = scripted.requests("OpenSession")
    assert first == second
    assert first.request_id


async def test_a_wait_beyond_the_deadline_is_not_begun(scripted: ScriptedBroker) -> None:
    scripted.on(
        "OpenSession", Refusal(grpc.StatusCode.UNAVAILABLE, "CIRCUIT_OPEN", retry_after=60.0)
    )
    async with connect(scripted.address) as broker:
        begin = time.monotonic()
        with pytest.raises(CircuitBreakerOpenError) as caught:
            await broker.open_session(client_id=7, timeout=40)
    assert caught.value.retry_after == 60
    assert time.monotonic() - begin < 30


@pytest.mark.parametrize(
    ("reason", "code", "kind"),
    [
        ("IB_CONN_002", grpc.StatusCode.ALREADY_EXISTS, ClientIDInUseError),
        ("SESSION_LIMIT", grpc.StatusCode.RESOURCE_EXHAUSTED, SessionLimitError),
    ],
)
async def test_what_no_wait_of_ours_will_change_is_not_repeated(
    scripted: ScriptedBroker, reason: str, code: grpc.StatusCode, kind: type[Exception]
) -> None:
    scripted.on("OpenSession", Refusal(code, reason))
    async with connect(scripted.address, backoff=QUICK) as broker:
        with pytest.raises(kind):
            await broker.open_session(client_id=7)
    assert len(scripted.requests("OpenSession")) == 1


async def test_unavailable_of_the_gateway_is_not_repeated(scripted: ScriptedBroker) -> None:
    scripted.on("OpenSession", Refusal(grpc.StatusCode.UNAVAILABLE, "IB_CONN_001"))
    async with connect(scripted.address, backoff=QUICK) as broker:
        with pytest.raises(Exception, match="IB_CONN_001"):
            await broker.open_session(client_id=7)
    assert len(scripted.requests("OpenSession")) == 1


async def test_without_backoff_nothing_is_repeated(scripted: ScriptedBroker) -> None:
    scripted.on("GetSession", DRAINING, FOUND)
    async with connect(scripted.address, backoff=None) as broker:
        with pytest.raises(BrokerDrainingError):
            await broker.get_session(SESSION_ID)


async def test_a_broker_that_is_started_meanwhile_is_found(scripted: ScriptedBroker) -> None:
    scripted.on("GetSession", FOUND)
    await scripted.stop()
    async with connect(scripted.address, backoff=QUICK) as broker:
        call = asyncio.create_task(broker.get_session(SESSION_ID))
        await asyncio.sleep(0.3)
        assert not call.done()
        await scripted.start()
        assert (await call).session_id == SESSION_ID


async def test_a_read_whose_answer_was_cut_is_repeated(scripted: ScriptedBroker) -> None:
    scripted.on("GetSession", Refusal(grpc.StatusCode.UNAVAILABLE, message="cut"), FOUND)
    async with connect(scripted.address, backoff=QUICK) as broker:
        await broker.get_session(SESSION_ID)
    assert len(scripted.requests("GetSession")) == 2


@pytest.mark.parametrize("rpc", ["DrainGateway", "ResumeGateway", "VerifySession", "Check"])
async def test_what_is_not_safe_to_repeat_unanswered_is_not(
    scripted: ScriptedBroker, rpc: str
) -> None:
    scripted.on(rpc, Refusal(grpc.StatusCode.UNAVAILABLE, message="cut"))
    async with connect(scripted.address, backoff=QUICK) as broker:
        with pytest.raises(BrokerUnreachableError):
            await EVERY_RPC[rpc](broker)
    assert len(scripted.requests(rpc)) == 1


async def test_what_was_answered_with_nothing_done_is_repeated_all_the_same(
    scripted: ScriptedBroker,
) -> None:
    scripted.on(
        "DrainGateway",
        Refusal(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", retry_after=0.01),
        gateway_service_pb2.DrainGatewayResponse(),
    )
    async with connect(scripted.address, backoff=QUICK) as broker:
        await broker.gateways.drain()
    assert len(scripted.requests("DrainGateway")) == 2


async def test_an_open_without_a_request_id_is_not_repeated_unanswered(
    scripted: ScriptedBroker,
) -> None:
    scripted.on("OpenSession", Refusal(grpc.StatusCode.UNAVAILABLE, message="cut"))
    async with connect(scripted.address, backoff=QUICK) as broker:
        with pytest.raises(BrokerUnreachableError):
            await broker.open_session(client_id=7, request_id="")
    assert len(scripted.requests("OpenSession")) == 1


async def test_no_broker_is_told_before_the_deadline(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    # However slow the machine is, the last try is over before the deadline.
    monkeypatch.setattr(connection, "_LAST_TRY", 9.0)
    async with connect(f"127.0.0.1:{free_port()}", backoff=QUICK) as broker:
        begin = time.monotonic()
        with pytest.raises(BrokerUnreachableError, match="refused") as caught:
            await broker.get_session(SESSION_ID, timeout=10)
    assert not isinstance(caught.value, CallTimeoutError)
    assert time.monotonic() - begin < 10
    assert [record for record in caplog.records if "trying again in" in record.message]


# -- backoff -----------------------------------------------------------------------


def test_waits_double_up_to_a_limit_and_are_jittered() -> None:
    backoff = Backoff(initial=1.0, maximum=10.0)
    whole = [backoff.delay(n, retry_after=None, chance=1.0) for n in range(6)]
    half = [backoff.delay(n, retry_after=None, chance=0.0) for n in range(6)]
    assert whole == [1, 2, 4, 8, 10, 10]
    assert half == [0.5, 1, 2, 4, 5, 5]
    assert backoff.delay(100_000, retry_after=None, chance=1.0) == 10


def test_what_the_broker_asks_for_is_waited_and_a_little_more() -> None:
    backoff = Backoff(initial=0.1, maximum=1.0)
    assert backoff.delay(0, retry_after=60.0, chance=0.0) == 60
    assert backoff.delay(9, retry_after=60.0, chance=1.0) == 75
    assert backoff.delay(0, retry_after=0.0, chance=0.0) == 0.1


@pytest.mark.parametrize(("initial", "maximum"), [(0.0, 1.0), (2.0, 1.0)])
def test_a_backoff_that_cannot_be_is_refused(initial: float, maximum: float) -> None:
    with pytest.raises(ValueError, match="initial"):
        Backoff(initial=initial, maximum=maximum)


# -- closing -----------------------------------------------------------------------


async def test_closing_cuts_calls_with_an_error_and_not_a_cancellation(
    scripted: ScriptedBroker,
) -> None:
    async def never(_: object, __: object) -> None:
        await asyncio.sleep(60)

    scripted.on("GetSession", never)
    async with connect(scripted.address) as broker:
        call = asyncio.create_task(broker.get_session(SESSION_ID))
        await eventually(lambda: scripted.asked)
    with pytest.raises(BrokerClosedError):
        await call


async def test_closing_cuts_a_wait_between_two_tries() -> None:
    async with connect(
        f"127.0.0.1:{free_port()}", backoff=Backoff(initial=30, maximum=30)
    ) as broker:
        call = asyncio.create_task(broker.get_session(SESSION_ID, timeout=100))
        await asyncio.sleep(0.1)
    with pytest.raises(BrokerClosedError):
        await call


async def test_closing_ends_watches_with_an_error(scripted: ScriptedBroker) -> None:
    scripted.on("WatchSessions", quiet(complete(1)))
    async with connect(scripted.address) as broker:
        watch = broker.watch()
        await anext(watch)
        waiting = asyncio.create_task(anext(watch))
        await asyncio.sleep(0.05)
    with pytest.raises(BrokerClosedError):
        await waiting
    with pytest.raises(StopAsyncIteration):
        await anext(watch)


async def test_a_closed_broker_refuses_calls_and_may_be_closed_again(
    scripted: ScriptedBroker,
) -> None:
    async with connect(scripted.address) as broker:
        pass
    await broker.close()
    assert "closed" in repr(broker)
    with pytest.raises(BrokerClosedError):
        await broker.get_session(SESSION_ID)
    with pytest.raises(BrokerClosedError):
        await anext(broker.watch())


async def test_a_broker_that_was_never_used_needs_no_loop_to_be_made() -> None:
    broker = await asyncio.to_thread(connect, "127.0.0.1:1")
    await broker.close()


async def test_a_cancelled_call_is_cancelled_at_the_broker(scripted: ScriptedBroker) -> None:
    cancelled = asyncio.Event()

    async def never(_: object, __: object) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    scripted.on("GetSession", never)
    async with connect(scripted.address) as broker:
        call = asyncio.create_task(broker.get_session(SESSION_ID))
        await eventually(lambda: scripted.asked)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        async with asyncio.timeout(20):
            await cancelled.wait()


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "https://host"])
def test_an_address_is_no_url(address: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        connect(address)


@pytest.mark.parametrize("owner", ["", "Zoë", "a\nb"])
def test_an_owner_is_a_printable_name(owner: str) -> None:
    with pytest.raises(ValueError, match="owner"):
        connect("127.0.0.1:1", owner=owner)
