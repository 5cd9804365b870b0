"""A session with a lease lives as long as somebody renews it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from ibgateway.broker.v1 import session_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway
from tests.harness import (
    CONNECTED,
    CONNECTING,
    DISCONNECTED,
    Client,
    eventually,
    refusal,
    serving,
    sockets,
)
from tests.integration.test_database_away import away
from tests.integration.test_restart import in_state, killed, process
from tests.integration.test_watch import Watch

UNKNOWN = "00000000-0000-4000-8000-000000000000"


def seconds(value: float) -> Duration:
    return Duration(seconds=int(value), nanos=round(value % 1 * 1e9))


async def renew(client: Client, session_id: str, ttl: float | None = None) -> session_pb2.Session:
    response = await client.sessions.RenewSession(
        pb.RenewSessionRequest(
            session_id=session_id, lease_ttl=seconds(ttl) if ttl is not None else None
        )
    )
    session: session_pb2.Session = response.session
    return session


def left(session: session_pb2.Session) -> float:
    """Seconds until the lease runs out."""
    return float(session.lease_expire_time.ToNanoseconds() / 1e9 - time.time())


async def test_a_session_that_nobody_renews_ends_and_says_why(
    client: Client, simulator: SimulatedGateway
) -> None:
    watch = Watch(client)
    await watch.snapshot()
    session = await client.open(client_id=7, lease_ttl=seconds(1))
    assert 0 < left(session) <= 1
    assert session.lease_ttl == seconds(1)
    events = await watch.events(4)
    assert events[-1].session.state == DISCONNECTED
    assert events[-1].session.close_reason == "LEASE_EXPIRED"
    assert events[2].updated.actor == "broker"
    await eventually(lambda: not sockets(simulator))
    assert (await client.open(client_id=7)).client_id == 7


async def test_a_session_that_is_renewed_lives_and_renewals_are_no_events(client: Client) -> None:
    session = await client.open(client_id=7, lease_ttl=seconds(1))
    begin = time.monotonic()
    while time.monotonic() - begin < 2.5:
        renewed = await renew(client, session.session_id)
        assert left(renewed) > 0.5
        assert renewed.sequence == session.sequence
        await asyncio.sleep(0.2)
    assert (await client.get(session.session_id)).state == CONNECTED
    await eventually(in_state(client, session.session_id, DISCONNECTED))


async def test_without_a_lease_a_session_lives_until_it_is_closed(client: Client) -> None:
    session = await client.open(client_id=7)
    assert not session.HasField("lease_ttl")
    assert not session.HasField("lease_expire_time")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await renew(client, session.session_id)
    assert refusal(caught.value).fields == ["lease_ttl"]
    assert (await client.get(session.session_id)).state == CONNECTED


async def test_a_renewal_may_change_the_length_and_that_is_an_update(client: Client) -> None:
    watch = Watch(client)
    await watch.snapshot()
    session = await client.open(client_id=7)
    await watch.events(2)
    response = await client.sessions.RenewSession(
        pb.RenewSessionRequest(session_id=session.session_id, lease_ttl=seconds(60)),
        metadata=(("x-broker-owner", "ops"),),
    )
    assert response.session.lease_ttl == seconds(60)
    assert 59 < left(response.session) <= 60
    [event] = await watch.events(1)
    assert (list(event.updated.fields), event.updated.actor) == (["lease_ttl"], "ops")
    assert event.session.lease_ttl == seconds(60)
    assert not event.session.HasField("lease_expire_time")
    assert (await client.get(session.session_id)).lease_expire_time.seconds


async def test_the_broker_shortens_what_is_too_long(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, lease_limit=20.0) as client:
        session = await client.open(client_id=7, lease_ttl=seconds(86_400))
        assert session.lease_ttl == seconds(20)
        assert 19 < left(session) <= 20
        assert (await renew(client, session.session_id, 3600)).lease_ttl == seconds(20)


@pytest.mark.parametrize("ttl", [0.0, 0.999, -5.0, 86_401.0, 1e12])
async def test_a_length_out_of_range_is_refused_by_field_and_nothing_happens(
    client: Client, ttl: float
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.open(client_id=7, lease_ttl=seconds(ttl))
    assert refusal(caught.value).fields == ["lease_ttl"]
    assert await client.list(include_final=True) == []
    session = await client.open(client_id=7, lease_ttl=seconds(60))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await renew(client, session.session_id, ttl)
    assert refusal(caught.value).fields == ["lease_ttl"]
    assert (await client.get(session.session_id)).lease_ttl == seconds(60)


async def test_renewing_what_is_not_there_or_has_ended_says_so(client: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await renew(client, UNKNOWN)
    assert refusal(caught.value).reason == "SESSION_NOT_FOUND"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await renew(client, "x")
    assert refusal(caught.value).fields == ["session_id"]
    session = await client.open(client_id=7, lease_ttl=seconds(60))
    await client.close(session.session_id)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await renew(client, session.session_id)
    said = refusal(caught.value)
    assert (said.status, said.reason) == (grpc.StatusCode.ABORTED, "SESSION_CLOSED")
    assert said.metadata["close_reason"] == "CLOSE_REQUESTED"


async def test_a_lease_does_not_run_while_the_open_is_waited_for(
    client: Client, simulator: SimulatedGateway
) -> None:
    simulator.arm(Fault.SILENT_AFTER_ACCEPT, times=1)
    opening = asyncio.ensure_future(
        client.open(client_id=7, lease_ttl=seconds(1), timeout=seconds(2.5))
    )
    await eventually(lambda: sockets(simulator))
    [session] = await client.list()
    assert (session.state, session.HasField("lease_expire_time")) == (CONNECTING, False)
    opened = await opening
    assert opened.state == CONNECTED
    assert left(opened) > 0.5


async def test_a_lease_of_a_session_that_is_not_waited_for_runs_from_the_answer(
    client: Client, simulator: SimulatedGateway
) -> None:
    simulator.arm(Fault.SILENT_AFTER_ACCEPT)
    session = await client.open(client_id=7, lease_ttl=seconds(1), return_immediately=True)
    assert left(session) > 0.5
    ended = await eventually(in_state(client, session.session_id, DISCONNECTED))
    assert ended.close_reason == "LEASE_EXPIRED"


async def test_a_lease_does_not_run_while_somebody_asks_for_the_answer_again(
    client: Client, simulator: SimulatedGateway
) -> None:
    simulator.arm(Fault.SILENT_AFTER_ACCEPT)
    fields: dict[str, Any] = {
        "client_id": 7,
        "request_id": str(uuid.uuid4()),
        "lease_ttl": seconds(1),
    }
    session = await client.open(**fields, return_immediately=True)
    waiting = asyncio.ensure_future(client.open(**fields))
    await asyncio.sleep(1.5)
    assert not (await client.get(session.session_id)).HasField("lease_expire_time")
    waiting.cancel()
    ended = await eventually(in_state(client, session.session_id, DISCONNECTED))
    assert ended.close_reason == "LEASE_EXPIRED"


async def test_leases_begin_anew_when_the_broker_was_restarted(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with process(simulator, database_url) as (broker, client):
        session = await client.open(client_id=7, lease_ttl=seconds(2))
        renewed = await client.open(client_id=8)
        await renew(client, renewed.session_id, 2)
        await killed(broker)
    await asyncio.sleep(2.2)  # no lease runs while there is no broker
    async with serving(simulator, database_url) as client:
        for each in (session, renewed):
            back = await eventually(in_state(client, each.session_id, CONNECTED))
            assert back.lease_ttl == seconds(2)
            assert left(back) > 0.5
            await renew(client, each.session_id)
        await eventually(in_state(client, session.session_id, DISCONNECTED))


async def test_a_broker_that_was_stopped_by_a_signal_ends_no_session_for_it(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with process(simulator, database_url) as (broker, client):
        session = await client.open(client_id=7, lease_ttl=seconds(1))
        broker.send_signal(signal.SIGSTOP)
        await asyncio.sleep(2.5)
        os.kill(broker.pid, signal.SIGCONT)
        await renew(client, session.session_id)
        assert (await client.get(session.session_id)).state == CONNECTED


async def test_leases_are_renewed_and_run_out_while_the_database_is_away(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, store_timeout=1.0) as client:
        session = await client.open(client_id=7, lease_ttl=seconds(1))
        longer = await client.open(client_id=8, lease_ttl=seconds(1))
        watch = Watch(client, session_ids=[session.session_id])
        await watch.snapshot()
        async with away(database_url):
            assert (await renew(client, longer.session_id, 30)).lease_ttl == seconds(30)
            events = await watch.events(2)
            assert [event.persisted for event in events] == [False, False]
            assert events[-1].session.close_reason == "LEASE_EXPIRED"
            assert left(await renew(client, longer.session_id)) > 29
        kept: list[Any] = await watch.events(2)
        assert [event.persisted for event in kept] == [True, True]
        assert [event.sequence for event in kept] == [event.sequence for event in events]
