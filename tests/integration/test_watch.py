"""WatchSessions: snapshot, events in order, bookmarks, reset, draining."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from ibgateway.broker.v1 import broker_service_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker import app
from broker.events.token import NOWHERE, ResumeToken
from broker.simulator.gateway import SimulatedGateway
from tests.harness import (
    CONNECTED,
    CONNECTING,
    DISCONNECTED,
    FAILED,
    RECONNECTING,
    Client,
    connected,
    refusal,
    serving,
)
from tests.postgres import execute


class Watch:
    """A stream, read message by message."""

    def __init__(self, client: Client, **fields: Any) -> None:
        self.call = client.sessions.WatchSessions(pb.WatchSessionsRequest(**fields))
        self.messages: AsyncIterator[pb.WatchSessionsResponse] = aiter(self.call)

    async def next(self) -> pb.WatchSessionsResponse:
        async with asyncio.timeout(5):
            return await anext(self.messages)

    async def kinds(self, count: int) -> list[str]:
        return [(await self.next()).WhichOneof("message") or "" for _ in range(count)]

    async def events(self, count: int) -> list[Any]:
        return [(await self.next()).event for _ in range(count)]

    async def snapshot(self) -> list[Any]:
        found = []
        while (message := await self.next()).WhichOneof("message") != "snapshot_complete":
            found.append(message.snapshot)
        return found


async def test_a_watcher_sees_the_whole_life_of_a_session_in_order(client: Client) -> None:
    watch = Watch(client)
    assert await watch.snapshot() == []
    session = await client.open()
    await client.close(session.session_id)
    events = await watch.events(4)
    assert [event.revision for event in events] == [1, 2, 3, 4]
    assert [event.sequence for event in events] == [1, 2, 3, 4]
    assert all(event.persisted for event in events)
    assert [(e.transition.to, e.transition.reason) for e in events if e.HasField("transition")] == [
        (CONNECTING, "OPENED"),
        (CONNECTED, "HANDSHAKE_COMPLETED"),
        (DISCONNECTED, "CLOSE_REQUESTED"),
    ]
    assert list(events[2].updated.fields) == ["close_reason"]
    assert events[3].session.state == DISCONNECTED


async def test_the_snapshot_holds_what_is_open_and_final_sessions_if_wanted(
    client: Client,
) -> None:
    first, second = await client.open(), await client.open()
    await client.close(first.session_id)
    assert [s.session_id for s in await Watch(client).snapshot()] == [second.session_id]
    everything = await Watch(client, include_final=True).snapshot()
    assert {s.session_id for s in everything} == {first.session_id, second.session_id}
    ended = await Watch(client, states=[DISCONNECTED]).snapshot()
    assert [s.session_id for s in ended] == [first.session_id]


async def test_a_filter_lets_a_session_leave_in_sight(client: Client) -> None:
    watch = Watch(client, states=[CONNECTED])
    await watch.snapshot()
    session = await client.open()
    await client.close(session.session_id)
    assert [event.session.state for event in await watch.events(3)] == [
        CONNECTED,
        CONNECTED,
        DISCONNECTED,
    ]


async def test_a_lost_link_is_told_with_its_cause(
    client: Client, simulator: SimulatedGateway
) -> None:
    await client.open(reconnect_max_attempts=0)
    watch = Watch(client)
    await watch.snapshot()
    simulator.drop()
    lost, failed = await watch.events(2)
    assert (lost.session.state, failed.session.state) == (RECONNECTING, FAILED)
    assert failed.session.last_failure.reason == "IB_CONN_001"
    assert failed.session.last_failure.hint
    assert lost.correlation_id == failed.correlation_id


async def test_an_idle_stream_gets_bookmarks(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, bookmark_interval=0.05) as client:
        await client.open()
        watch = Watch(client, owner="somebody else")
        assert await watch.kinds(3) == ["snapshot_complete", "bookmark", "bookmark"]
        message = await watch.next()
        assert message.revision == 2
        assert ResumeToken.decode(message.resume_token).revision == 2


async def test_a_token_is_continued_with_what_is_newer_and_nothing_else(client: Client) -> None:
    watch = Watch(client)
    await watch.snapshot()
    session = await client.open()
    first = await watch.next()
    await client.close(session.session_id)
    rest = [await watch.next() for _ in range(3)]
    for token, expected in ((first, rest), (rest[0], rest[1:])):
        resumed = Watch(client, resume_token=token.resume_token)
        assert [await resumed.next() for _ in expected] == expected
    assert [message.revision for message in rest] == [2, 3, 4]


async def test_a_stream_that_is_resumed_is_open_before_anything_happens(client: Client) -> None:
    watch = Watch(client)
    token = (await watch.next()).resume_token
    resumed = Watch(client, resume_token=token)
    async with asyncio.timeout(5):
        await resumed.call.initial_metadata()
    await client.open()
    assert (await resumed.next()).event.revision == 1


async def test_a_filter_holds_for_what_is_resumed_too(client: Client) -> None:
    watch = Watch(client)
    token = (await watch.next()).resume_token
    first = await client.open()
    second = await client.open()
    await client.close(second.session_id)
    resumed = Watch(client, resume_token=token, session_ids=[second.session_id])
    assert [event.revision for event in await resumed.events(4)] == [3, 4, 5, 6]
    ended = Watch(client, resume_token=token, states=[DISCONNECTED])
    assert [event.revision for event in await ended.events(1)] == [6]
    assert first.session_id != second.session_id


@pytest.mark.parametrize(
    ("store", "revision", "reason"),
    [
        ("other", 0, "TOKEN_OF_ANOTHER_STORE"),
        ("own", 10**6, "TOKEN_AHEAD"),
        ("own", NOWHERE, "SNAPSHOT_INCOMPLETE"),
    ],
)
async def test_a_token_that_is_no_place_in_this_log_is_reset_and_says_why(
    client: Client, store: str, revision: int, reason: str
) -> None:
    session = await client.open()
    own = ResumeToken.decode((await Watch(client).next()).resume_token)
    store_id = own.store_id if store == "own" else uuid.uuid4()
    resumed = Watch(client, resume_token=ResumeToken(store_id, revision).encode())
    first = await resumed.next()
    assert (first.reset.reason, first.reset.oldest_revision) == (reason, 1)
    assert [s.session_id for s in await resumed.snapshot()] == [session.session_id]


async def test_who_is_cut_in_the_middle_of_a_snapshot_begins_anew(client: Client) -> None:
    sessions = [await client.open() for _ in range(3)]
    watch = Watch(client)
    message = await watch.next()
    assert (message.WhichOneof("message"), message.revision) == ("snapshot", 0)
    resumed = Watch(client, resume_token=message.resume_token)
    assert (await resumed.next()).reset.reason == "SNAPSHOT_INCOMPLETE"
    assert len(await resumed.snapshot()) == len(sessions)


async def test_a_token_older_than_memory_is_continued_from_the_record(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, watch_memory=16) as client:
        token = (await Watch(client).next()).resume_token
        for _ in range(25):
            session = await client.open()
            await client.close(session.session_id)
        resumed = Watch(client, resume_token=token)
        assert [event.revision for event in await resumed.events(100)] == list(range(1, 101))


@pytest.mark.parametrize("page", [7, 5000])
async def test_tokens_are_good_after_a_restart_and_bookmarks_say_how_old_they_may_be(
    simulator: SimulatedGateway, database_url: str, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(app, "_PAGE", page)
    async with serving(simulator, database_url, watch_memory=16) as client:
        watch = Watch(client)
        old = (await watch.next()).resume_token
        for _ in range(10):
            session = await client.open()
            await client.close(session.session_id)
        recent = (await watch.events(30), await watch.next())[1].resume_token
    async with serving(simulator, database_url, watch_memory=16, bookmark_interval=0.1) as client:
        for token, begin in ((old, 1), (recent, 32)):
            resumed = Watch(client, resume_token=token)
            events = await resumed.events(41 - begin)
            assert [event.revision for event in events] == list(range(begin, 41))
            bookmark = await resumed.next()
            assert (bookmark.revision, bookmark.bookmark.oldest_revision) == (40, 1)


async def test_a_token_that_retention_has_passed_is_reset_with_the_oldest_revision(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, watch_memory=16) as client:
        token = (await Watch(client).next()).resume_token
        for _ in range(10):
            session = await client.open()
            await client.close(session.session_id)
        open_ = await client.open()
    await execute(
        database_url,
        "UPDATE broker_store SET retention_horizon = 21",
        "DELETE FROM session_events WHERE revision < 21",
    )
    async with serving(simulator, database_url, watch_memory=16) as client:
        resumed = Watch(client, resume_token=token)
        first = await resumed.next()
        assert (first.reset.reason, first.reset.oldest_revision) == ("TOKEN_TOO_OLD", 21)
        assert [s.session_id for s in await resumed.snapshot()] == [open_.session_id]
        info = await client.broker.GetBrokerInfo(broker_service_pb2.GetBrokerInfoRequest())
        assert info.oldest_revision == 21


async def test_a_token_that_is_none_is_refused(client: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await Watch(client, resume_token="nonsense").next()
    assert refusal(caught.value).fields == ["resume_token"]


async def test_a_hundred_watchers_see_the_same_events(client: Client) -> None:
    watches = [Watch(client) for _ in range(100)]
    await asyncio.gather(*(watch.snapshot() for watch in watches))
    session = await client.open()
    await client.close(session.session_id)
    seen = await asyncio.gather(*(watch.events(4) for watch in watches))
    assert all(events == seen[0] for events in seen)


SMALL_WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_535))
BULKY = {str(number): "x" * 256 for number in range(32)}


async def test_a_watcher_that_does_not_read_hurts_nobody_and_misses_nothing(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with (
        serving(simulator, database_url, watch_memory=16) as client,
        connected(client.running, *SMALL_WINDOW) as other,
    ):
        slow, quick = Watch(other), Watch(client)
        await asyncio.gather(slow.snapshot(), quick.snapshot())
        for _ in range(100):
            session = await client.open(labels=BULKY)
            await client.close(session.session_id)
            await quick.events(4)
        assert [event.revision for event in await slow.events(400)] == list(range(1, 401))


async def test_a_watcher_whose_lag_grows_too_far_is_cut_and_resumes_with_its_token(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with (
        serving(simulator, database_url, watch_memory=16, watch_lag=1000) as client,
        connected(client.running, *SMALL_WINDOW) as other,
    ):
        slow = Watch(other)
        await slow.snapshot()
        for _ in range(270):
            session = await client.open(labels=BULKY)
            await client.close(session.session_id)
        read: list[pb.WatchSessionsResponse] = []

        async def read_on() -> None:
            while True:
                read.append(await slow.next())

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_on()
        said = refusal(caught.value)
        assert (said.status, said.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "SLOW_CONSUMER",
        )
        assert int(said.metadata["lag"]) > 1000
        assert [message.revision for message in read] == list(range(1, len(read) + 1))
        resumed = Watch(other, resume_token=read[-1].resume_token)
        rest = await resumed.events(1080 - len(read))
        assert [event.revision for event in rest] == list(range(len(read) + 1, 1081))


async def test_a_thousand_watchers_that_come_back_at_once_are_all_served(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, watch_memory=16) as client:
        token = (await Watch(client).next()).resume_token
        for _ in range(5):
            session = await client.open()
            await client.close(session.session_id)
        watches = [Watch(client, resume_token=token) for _ in range(1000)]

        async def all_of(watch: Watch) -> list[int]:
            async with asyncio.timeout(80):
                return [(await anext(watch.messages)).event.revision for _ in range(20)]

        seen = await asyncio.gather(*(all_of(watch) for watch in watches))
        assert all(revisions == list(range(1, 21)) for revisions in seen)
