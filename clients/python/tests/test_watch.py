"""A watch outlives its streams, loses nothing, and is never silent about it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from ibgateway.broker.v1 import session_service_pb2 as pb
from ibgateway.client import (
    Attempt,
    Backoff,
    Broker,
    BrokerDrainingError,
    BrokerUnreachableError,
    Condition,
    ConditionStatus,
    Interrupted,
    InvalidArgumentError,
    Notice,
    Reset,
    SessionEvent,
    SessionState,
    SlowConsumerError,
    StoreUnavailableError,
    UnexpectedAnswerError,
    Update,
    Watch,
    WatchGapError,
    connect,
)
from ibgateway.client import watch as watch_module
from live_broker import free_port
from scripted_broker import (
    OTHER_ID,
    SESSION_ID,
    Refusal,
    ScriptedBroker,
    bookmark,
    complete,
    draining,
    event,
    eventually,
    kinds,
    open_and_quiet,
    quiet,
    reset,
    session,
    snapshot,
    take,
    told,
)

QUICK = Backoff(initial=0.05, maximum=0.2)
UNAVAILABLE = Refusal(grpc.StatusCode.UNAVAILABLE, message="gone")
SLOW = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "SLOW_CONSUMER", metadata={"lag": "9"})
HEAD = (snapshot(session(sequence=2)), complete(10))


@pytest_asyncio.fixture
async def broker(scripted: ScriptedBroker) -> AsyncIterator[Broker]:
    async with connect(scripted.address, backoff=QUICK) as connected:
        yield connected


def tokens(scripted: ScriptedBroker) -> list[str]:
    return [request.resume_token for request in scripted.requests("WatchSessions")]


# -- what is told ------------------------------------------------------------------


async def test_it_tells_the_snapshot_and_then_what_happens(
    scripted: ScriptedBroker, broker: Broker
) -> None:
    scripted.on("WatchSessions", quiet(*HEAD, event(11, 3, state="RECONNECTING"), bookmark(12)))
    async with broker.watch() as watch:
        items = await take(watch, 4)
        assert kinds(items) == ["Snapshot", "SnapshotComplete", "SessionEvent", "Bookmark"]
        assert [item.token for item in items] == ["", "t10", "t11", "t12"]
        assert items[0].session.accounts == ("DU1",)
        assert watch.token == "t12"
        assert watch.is_complete
        assert watch.sessions[SESSION_ID].state is SessionState.RECONNECTING


async def test_what_it_tells_can_be_passed_on_as_the_broker_sent_it(
    scripted: ScriptedBroker, broker: Broker
) -> None:
    scripted.on("WatchSessions", told(*HEAD, UNAVAILABLE), quiet(bookmark(12)))
    async with broker.watch() as watch:
        assert watch.message is None
        sent = [watch.message async for _ in _first(watch, 5)]
    assert sent == [*HEAD, None, None, bookmark(12)]


async def _first(watch: Watch, count: int) -> AsyncIterator[object]:
    for _ in range(count):
        yield await anext(watch)


async def test_its_filter_is_sent_with_each_stream(
    scripted: ScriptedBroker, broker: Broker
) -> None:
    scripted.on("WatchSessions", told(complete(10), UNAVAILABLE), quiet(bookmark(10)))
    async with broker.watch(
        session_ids=[SESSION_ID],
        gateway_id="paper",
        owner="momentum",
        labels={"desk": "fx"},
        states=[SessionState.CONNECTED, SessionState.FAILED],
        include_final=True,
    ) as watch:
        await take(watch, 3)
    first, second = scripted.requests("WatchSessions")
    assert (first.resume_token, second.resume_token) == ("", "t10")
    second.resume_token = ""
    assert first == second
    assert first == pb.WatchSessionsRequest(
        session_ids=[SESSION_ID],
        gateway_id="paper",
        owner="momentum",
        labels={"desk": "fx"},
        states=["SESSION_STATE_CONNECTED", "SESSION_STATE_FAILED"],
        include_final=True,
    )


@pytest.mark.parametrize("fields", [{"session_ids": "abc"}, {"states": "CONNECTED"}])
async def test_a_single_value_is_no_collection(broker: Broker, fields: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="must be a collection"):
        broker.watch(**fields)


async def test_an_unknown_state_cannot_be_asked_for(broker: Broker) -> None:
    with pytest.raises(ValueError, match="UNKNOWN"):
        broker.watch(states=[SessionState.UNKNOWN])


async def test_each_kind_of_change_is_a_value_of_its_own(
    scripted: ScriptedBroker, broker: Broker
) -> None:
    changes: list[dict[str, Any]] = [
        {"attempt": {"number": 3, "failure": {"reason": "IB_CONN_001"}}},
        {"condition": {"type": "UPSTREAM", "status": "CONDITION_STATUS_FALSE"}},
        {"notice": {"reason": "OVERDUE", "hint": "look"}},
        {"updated": {"fields": ["labels"], "actor": "ops"}},
        {},
    ]
    messages = []
    for number, change in enumerate(changes):
        message = event(11 + number, 3 + number)
        message.event.ClearField("transition")
        message.MergeFrom(pb.WatchSessionsResponse(event=change))
        messages.append(message)
    scripted.on("WatchSessions", quiet(*HEAD, *messages))
    async with broker.watch() as watch:
        items = await take(watch, 7)
    attempt, condition, notice, update, unknown = [item.change for item in items[2:]]
    assert isinstance(attempt, Attempt)
    assert attempt.failure.reason == "IB_CONN_001"
    assert isinstance(condition, Condition)
    assert condition.status is ConditionStatus.FALSE
    assert isinstance(notice, Notice)
    assert notice.hint == "look"
    assert update == Update(fields=("labels",), actor="ops")
    assert unknown is None


async def test_a_message_of_a_newer_broker_is_passed_over(
    scripted: ScriptedBroker, broker: Broker
) -> None:
    newer = pb.WatchSessionsResponse(resume_token="t10", revision=10)
    scripted.on("WatchSessions", quiet(*HEAD, newer, bookmark(10)))
    async with broker.watch() as watch:
        assert kinds(await take(watch, 3)) == ["Snapshot", "SnapshotComplete", "Bookmark"]


# -- resuming ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (UNAVAILABLE, BrokerUnreachableError),
        (Refusal(grpc.StatusCode.CANCELLED), BrokerUnreachableError),
        (SLOW, SlowConsumerError),
        (
            Refusal(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", retry_after=0.01),
            StoreUnavailableError,
        ),
        (Refusal(grpc.StatusCode.INTERNAL, message="RST_STREAM"), UnexpectedAnswerError),
        (None, BrokerDrainingError),
    ],
    ids=["unavailable", "cancelled", "slow", "store", "reset-stream", "ended-with-ok"],
)
async def test_it_resumes_with_its_last_token_after_any_loss(
    scripted: ScriptedBroker, broker: Broker, end: Refusal | None, error: type[Exception]
) -> None:
    scripted.on(
        "WatchSessions",
        told(*HEAD, event(11, 3), *([end] if end else [])),
        quiet(event(12, 4)),
    )
    async with broker.watch() as watch:
        items = await take(watch, 6)
    assert kinds(items[2:]) == ["SessionEvent", "Interrupted", "Resumed", "SessionEvent"]
    assert isinstance(items[3].error, error)
    assert items[3].token == items[4].token == "t11"
    assert [items[2].sequence, items[5].sequence] == [3, 4]
    assert tokens(scripted) == ["", "t11"]


async def test_it_goes_on_with_a_broker_that_was_restarted(
    scripted: ScriptedBroker, broker: Broker
) -> None:
    scripted.on("WatchSessions", quiet(*HEAD, draining(10)), quiet(event(11, 3)))
    async with broker.watch() as watch:
        await take(watch, 3)
        await scripted.stop()
        [interrupted] = await take(watch, 1)
        assert isinstance(interrupted.error, BrokerUnreachableError)
        assert watch.interruption is interrupted.error
        waiting = asyncio.create_task(take(watch, 1))
        await asyncio.sleep(0.5)
        assert not waiting.done(), "an outage is told once"
        await scripted.start()
        assert kinds(await waiting) == ["Resumed"]
        assert watch.interruption is None
        [item] = await take(watch, 1)
        assert item.sequence == 3


async def test_an_outage_is_told_again_when_its_cause_changes(
    scripted: ScriptedBroker, broker: Broker
) -> None:
    store = Refusal(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", retry_after=0.01)
    scripted.on(
        "WatchSessions",
        told(*HEAD, UNAVAILABLE),
        *(told(UNAVAILABLE), told(store), told(store), told(UNAVAILABLE)),
        quiet(bookmark(10)),
    )
    async with broker.watch() as watch:
        items = await take(watch, 7)
    assert kinds(items[2:]) == ["Interrupted"] * 3 + ["Resumed", "Bookmark"]
    assert [item.error.reason for item in items[2:5]] == ["", "STORE_UNAVAILABLE", ""]
    assert tokens(scripted) == ["", *["t10"] * 5]


async def test_it_waits_as_long_as_the_broker_asks(
    scripted: ScriptedBroker, broker: Broker
) -> None:
    away = Refusal(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", retry_after=0.4)
    scripted.on("WatchSessions", told(*HEAD, away), quiet(bookmark(10)))
    async with broker.watch() as watch:
        begin = time.monotonic()
        items = await take(watch, 5)
    assert items[2].retry_in >= 0.4
    assert time.monotonic() - begin >= 0.4


async def test_a_long_wait_is_told_also_if_its_cause_is_known(
    scripted: ScriptedBroker, broker: Broker
) -> None:
    waits = [0.01, 0.01, 600.0]
    away = [
        Refusal(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", retry_after=wait)
        for wait in waits
    ]
    scripted.on("WatchSessions", told(*HEAD, away[0]), *(told(one) for one in away[1:]))
    async with broker.watch() as watch:
        items = await take(watch, 4)
    assert kinds(items[2:]) == ["Interrupted", "Interrupted"]
    assert items[2].retry_in < 1
    assert items[3].retry_in >= 600


@pytest.mark.parametrize("asked", [9e9, -5.0, -9e9])
async def test_absurd_waits_are_bounded(
    scripted: ScriptedBroker, broker: Broker, asked: float
) -> None:
    away = Refusal(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", retry_after=asked)
    scripted.on("WatchSessions", told(*HEAD, away), quiet(bookmark(10)))
    async with broker.watch() as watch:
        items = await take(watch, 3)
    assert 0 < items[2].retry_in <= 3600


async def test_it_gives_up_in_time_however_long_the_broker_would_have_it_wait(
    scripted: ScriptedBroker, broker: Broker
) -> None:
    away = Refusal(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", retry_after=60.0)
    scripted.on("WatchSessions", told(away))
    watch = broker.watch(give_up_after=0.3)
    async with asyncio.timeout(5):
        [item] = await take(watch, 1)
        assert item.retry_in <= 0.3
        with pytest.raises(StoreUnavailableError):
            await anext(watch)


async def test_it_begins_anew_if_the_snapshot_was_not_complete(
    scripted: ScriptedBroker, broker: Broker
) -> None:
    scripted.on(
        "WatchSessions",
        told(snapshot(session()), UNAVAILABLE),
        quiet(snapshot(session(OTHER_ID)), complete(11)),
    )
    async with broker.watch() as watch:
        items = await take(watch, 6)
        assert kinds(items) == [
            *("Snapshot", "Interrupted", "Resumed", "Reset", "Snapshot", "SnapshotComplete")
        ]
        assert (items[2].token, items[3].reason) == ("", "SNAPSHOT_INCOMPLETE")
        assert list(watch.sessions) == [OTHER_ID]
    assert tokens(scripted) == ["", ""]


async def test_a_stream_that_was_lost_before_it_said_anything_resets_nothing(
    scripted: ScriptedBroker, broker: Broker
) -> None:
    scripted.on("WatchSessions", told(UNAVAILABLE), quiet(*HEAD))
    async with broker.watch() as watch:
        items = await take(watch, 4)
    assert kinds(items) == ["Interrupted", "Resumed", "Snapshot", "SnapshotComplete"]


async def test_a_kept_token_continues_without_a_snapshot(
    scripted: ScriptedBroker, broker: Broker
) -> None:
    scripted.on("WatchSessions", told(UNAVAILABLE), quiet(event(12, 40)))
    async with broker.watch(resume_token="t11") as watch:
        assert kinds(await take(watch, 3)) == ["Interrupted", "Resumed", "SessionEvent"]
        assert not watch.is_complete
    assert tokens(scripted) == ["t11", "t11"]


async def test_a_reset_is_told_and_its_snapshot_replaces_what_is_known(
    scripted: ScriptedBroker, broker: Broker
) -> None:
    scripted.on(
        "WatchSessions",
        told(*HEAD, UNAVAILABLE),
        quiet(
            reset(),
            snapshot(session(OTHER_ID, sequence=7)),
            complete(5),
            event(6, 8, session_id=OTHER_ID),
        ),
    )
    async with broker.watch() as watch:
        items = await take(watch, 8)
        assert items[4] == Reset(reason="TOKEN_TOO_OLD", oldest_revision=9)
        assert list(watch.sessions) == [OTHER_ID]
        assert watch.sessions[OTHER_ID].sequence == 8


async def test_a_loss_in_the_snapshot_of_a_reset_begins_anew(
    scripted: ScriptedBroker, broker: Broker
) -> None:
    scripted.on(
        "WatchSessions",
        told(reset(), snapshot(session()), UNAVAILABLE),
        quiet(*HEAD),
    )
    async with broker.watch(resume_token="old") as watch:
        items = await take(watch, 7)
    assert kinds(items[:4]) == ["Reset", "Snapshot", "Interrupted", "Resumed"]
    assert kinds(items[4:]) == ["Reset", "Snapshot", "SnapshotComplete"]
    assert tokens(scripted) == ["old", ""]


async def test_a_broker_that_is_not_there_yet_is_waited_for() -> None:
    async with connect(f"127.0.0.1:{free_port()}") as broker, broker.watch() as watch:
        [item] = await take(watch, 1)
        assert isinstance(item, Interrupted)
        assert "gateway-broker serve" in str(item.error)
        assert item.token == ""


async def test_it_gives_up_when_it_is_told_to() -> None:
    async with connect(f"127.0.0.1:{free_port()}") as broker:
        watch = broker.watch(give_up_after=2)
        assert isinstance(await anext(watch), Interrupted)
        with pytest.raises(BrokerUnreachableError):
            await take(watch, 1)
        with pytest.raises(StopAsyncIteration):
            await anext(watch)


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (
            Refusal(
                grpc.StatusCode.INVALID_ARGUMENT,
                "INVALID_ARGUMENT",
                violations=[("resume_token", "is not a token of this API")],
            ),
            InvalidArgumentError,
        ),
        (Refusal(grpc.StatusCode.UNIMPLEMENTED), UnexpectedAnswerError),
        (Refusal(grpc.StatusCode.UNAUTHENTICATED), UnexpectedAnswerError),
    ],
)
async def test_what_no_wait_will_change_is_raised(
    scripted: ScriptedBroker, broker: Broker, refusal: Refusal, kind: type[Exception]
) -> None:
    scripted.on("WatchSessions", told(refusal))
    with pytest.raises(kind):
        await anext(broker.watch())
    assert len(tokens(scripted)) == 1


async def test_a_stream_that_is_open_again_but_quiet_has_resumed(
    scripted: ScriptedBroker, broker: Broker
) -> None:
    scripted.on("WatchSessions", told(*HEAD, UNAVAILABLE), open_and_quiet)
    async with broker.watch(silence=15) as watch:
        items = await take(watch, 4)
        assert kinds(items[2:]) == ["Interrupted", "Resumed"]
        assert watch.interruption is None


async def test_a_stream_that_is_refused_as_soon_as_it_is_open_has_not_resumed(
    scripted: ScriptedBroker, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A slow machine takes its time for what comes right after the other.
    monkeypatch.setattr(watch_module, "_SETTLED", 10.0)
    away = Refusal(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", retry_after=0.01)

    async def opened(_: Any, context: Any) -> AsyncIterator[Any]:
        await context.send_initial_metadata(())
        await asyncio.sleep(0.02)
        yield away

    scripted.on("WatchSessions", told(*HEAD, away), opened, opened, quiet(bookmark(10)))
    async with broker.watch() as watch:
        items = await take(watch, 5)
    assert kinds(items[2:]) == ["Interrupted", "Resumed", "Bookmark"]


# -- proof -------------------------------------------------------------------------


async def test_a_missing_event_ends_the_watch_with_its_name(
    scripted: ScriptedBroker, broker: Broker
) -> None:
    scripted.on("WatchSessions", told(*HEAD, UNAVAILABLE), quiet(event(12, 4)))
    watch = broker.watch()
    await take(watch, 4)
    with pytest.raises(WatchGapError, match=f"event 3 is missing of session {SESSION_ID}"):
        await anext(watch)
    with pytest.raises(StopAsyncIteration):
        await anext(watch)
    await eventually(lambda: not scripted.open_streams)


async def test_a_provisional_event_is_told_and_superseded(
    scripted: ScriptedBroker, broker: Broker
) -> None:
    scripted.on(
        "WatchSessions",
        quiet(*HEAD, event(10, 3, persisted=False, state="RECONNECTING"), event(11, 3)),
    )
    async with broker.watch() as watch:
        items = await take(watch, 3)
        assert (items[2].persisted, items[2].revision, items[2].token) == (False, 0, "t10")
        assert watch.sessions[SESSION_ID].state is SessionState.RECONNECTING
        [item] = await take(watch, 1)
        assert item.persisted
        assert watch.sessions[SESSION_ID].state is SessionState.CONNECTED


async def test_a_burst_is_read_in_order(scripted: ScriptedBroker, broker: Broker) -> None:
    scripted.on("WatchSessions", quiet(*HEAD, *(event(10 + n, 2 + n) for n in range(1, 1001))))
    async with broker.watch() as watch:
        items = await take(watch, 1002, timeout=20)
    assert [item.sequence for item in items if isinstance(item, SessionEvent)] == [*range(3, 1003)]
