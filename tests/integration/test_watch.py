"""WatchSessions: snapshot, events in order, bookmarks, reset, draining."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.events.token import ResumeToken
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


async def test_every_token_of_this_log_gets_a_reset_and_a_fresh_snapshot(client: Client) -> None:
    session = await client.open()
    watch = Watch(client)
    await watch.next()
    token = (await watch.next()).resume_token
    resumed = Watch(client, resume_token=token)
    first = await resumed.next()
    assert first.reset.reason == "TOKEN_NOT_CONTINUED"
    assert first.reset.oldest_revision == 1
    assert [s.session_id for s in await resumed.snapshot()] == [session.session_id]


@pytest.mark.parametrize("ahead", [True, False])
async def test_a_token_from_elsewhere_is_reset_and_says_so(client: Client, ahead: bool) -> None:
    watch = Watch(client)
    own = ResumeToken.decode((await watch.next()).resume_token)
    foreign = ResumeToken(own.store_id if ahead else uuid.uuid4(), 10**6)
    resumed = Watch(client, resume_token=foreign.encode())
    assert (await resumed.next()).reset.reason == "TOKEN_UNKNOWN"
    assert await resumed.snapshot() == []


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


async def test_a_watcher_that_does_not_read_is_cut_and_hurts_nobody(
    simulator: SimulatedGateway, database_url: str
) -> None:
    small_window = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_535))
    async with (
        serving(simulator, database_url, watch_lag=1000) as client,
        connected(client.running, *small_window) as other,
    ):
        slow, quick = Watch(other), Watch(client)
        await asyncio.gather(slow.snapshot(), quick.snapshot())
        labels = {str(number): "x" * 256 for number in range(32)}
        for _ in range(300):
            session = await client.open(labels=labels)
            await client.close(session.session_id)
            await quick.events(4)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await slow.events(10**6)
        assert refusal(caught.value).reason == "SLOW_CONSUMER"
