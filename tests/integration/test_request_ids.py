"""An open with a request_id may be repeated until it is answered."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.app import broker
from broker.config import GatewayConfig, Settings
from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway
from tests.harness import (
    CONNECTED,
    CONNECTING,
    DISCONNECTED,
    FAILED,
    NO_FIXED_PORTS,
    RECONNECTING,
    Client,
    connected,
    eventually,
    refusal,
    serving,
    sockets,
)
from tests.integration.scripted_peer import HANDSHAKE, Do, ScriptedPeer
from tests.integration.test_database_away import away
from tests.integration.test_restart import in_state


def new_id() -> str:
    return str(uuid.uuid4())


async def open_(
    client: Client, request_id: str, *, owner: str = "alice", deadline: float = 10.0, **fields: Any
) -> pb.OpenSessionResponse:
    response: pb.OpenSessionResponse = await client.sessions.OpenSession(
        pb.OpenSessionRequest(request_id=request_id, **fields),
        metadata=(("x-broker-owner", owner),),
        timeout=deadline,
    )
    return response


async def test_a_repeated_open_is_answered_with_its_session(
    client: Client, simulator: SimulatedGateway
) -> None:
    request_id = new_id()
    first = await open_(client, request_id, client_id=7)
    again = await open_(client, request_id, client_id=7)
    assert (first.created, again.created) == (True, False)
    assert again.session.session_id == first.session.session_id
    assert len(simulator.journal) == 1


async def test_a_repeat_tells_the_session_as_it_is_now(
    client: Client, simulator: SimulatedGateway
) -> None:
    request_id = new_id()
    first = await open_(client, request_id, client_id=7)
    await simulator.stop_listening()
    simulator.drop()
    await eventually(in_state(client, first.session.session_id, RECONNECTING))
    assert (await open_(client, request_id, client_id=7)).session.state == RECONNECTING
    await client.close(first.session.session_id)
    ended = await open_(client, request_id, client_id=7)
    assert (ended.created, ended.session.state) == (False, DISCONNECTED)
    assert ended.session.session_id == first.session.session_id


@pytest.mark.parametrize("callers", [2, 20])
async def test_callers_at_once_share_one_open(
    client: Client, simulator: SimulatedGateway, callers: int
) -> None:
    request_id = new_id()
    answers = await asyncio.gather(*(open_(client, request_id) for _ in range(callers)))
    assert len({answer.session.session_id for answer in answers}) == 1
    assert sum(answer.created for answer in answers) == 1
    assert len(simulator.journal) == 1
    assert len(await client.list(include_final=True)) == 1


async def test_the_request_ids_of_two_owners_have_nothing_to_do_with_each_other(
    client: Client,
) -> None:
    request_id = new_id()
    one = await open_(client, request_id)
    other = await open_(client, request_id, owner="bob")
    assert other.created
    assert other.session.session_id != one.session.session_id


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": 8},
        {"client_id_policy": pb.CLIENT_ID_POLICY_EXACT},
        {"readonly": True},
        {"max_attempts": 5},
        {"reconnect_max_attempts": 5},
        {"lease_ttl": Duration(seconds=60)},
        {"labels": {"desk": "fx"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_the_same_request_id_for_another_open_is_refused(
    client: Client, changes: dict[str, Any]
) -> None:
    request_id = new_id()
    first = await open_(client, request_id, client_id=7)
    for ended in (False, True):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await open_(client, request_id, **({"client_id": 7} | changes))
        said = refusal(caught.value)
        assert (said.status, said.reason) == (
            grpc.StatusCode.ALREADY_EXISTS,
            "REQUEST_ID_REUSED",
        )
        assert said.metadata == {
            "request_id": request_id,
            "session_id": first.session.session_id,
        }
        if not ended:
            await client.close(first.session.session_id)


@pytest.mark.parametrize(
    "changes", [{"timeout": Duration(seconds=3)}, {"return_immediately": True}]
)
async def test_how_long_and_for_what_is_waited_is_not_compared(
    client: Client, changes: dict[str, Any]
) -> None:
    request_id = new_id()
    first = await open_(client, request_id, client_id=7)
    again = await open_(client, request_id, client_id=7, **changes)
    assert again.session.session_id == first.session.session_id


@pytest.mark.parametrize(
    "bad", ["x", "7", "4b1a2c3e-e832-11f1-b5c8-02fc00000001", "0" * 36, "x" * 10_000]
)
async def test_a_request_id_that_is_no_uuid4_is_refused_by_field(client: Client, bad: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await open_(client, bad)
    assert refusal(caught.value).fields == ["request_id"]
    assert await client.list(include_final=True) == []


async def test_one_caller_who_goes_away_leaves_the_open_to_the_other(
    client: Client, simulator: SimulatedGateway
) -> None:
    simulator.arm(Fault.CLOSE_AFTER_START_500_MS, times=1)
    request_id = new_id()
    leaves = asyncio.ensure_future(open_(client, request_id, client_id=7))
    await eventually(lambda: sockets(simulator))
    stays = asyncio.ensure_future(open_(client, request_id, client_id=7))
    await asyncio.sleep(0.05)
    leaves.cancel()
    answer = await stays
    assert (answer.session.state, answer.created) == (CONNECTED, False)


async def test_the_last_caller_who_goes_away_ends_the_open_and_the_request_id_is_free_again(
    client: Client, simulator: SimulatedGateway
) -> None:
    simulator.arm(Fault.SILENT_AFTER_ACCEPT)
    request_id = new_id()
    callers = [asyncio.ensure_future(open_(client, request_id, client_id=7)) for _ in range(3)]
    await eventually(lambda: sockets(simulator))
    [session] = await client.list()
    for caller in callers:
        assert (await client.get(session.session_id)).state == CONNECTING
        caller.cancel()
        await asyncio.wait([caller])
    simulator.clear()
    # At once: what is being given up is waited for.
    again = await open_(client, request_id, client_id=7)
    assert again.created
    assert (again.session.state, again.session.client_id) == (CONNECTED, 7)
    assert (await client.get(session.session_id)).close_reason == "CALLER_GONE"


async def test_a_caller_whose_deadline_passes_can_repeat_at_once(
    client: Client, simulator: SimulatedGateway
) -> None:
    simulator.arm(Fault.SILENT_AFTER_ACCEPT, times=1)
    request_id = new_id()
    with pytest.raises(grpc.aio.AioRpcError):
        await open_(client, request_id, deadline=0.3, client_id=7)
    assert (await open_(client, request_id, client_id=7)).session.state == CONNECTED


async def test_all_who_share_an_open_that_fails_get_its_error_and_the_request_id_is_free(
    client: Client, simulator: SimulatedGateway
) -> None:
    simulator.arm(Fault.CLOSE_AFTER_START_500_MS, times=1)
    request_id = new_id()
    fields: dict[str, Any] = {"client_id": 7, "max_attempts": 1}
    first = asyncio.ensure_future(open_(client, request_id, **fields))
    await eventually(lambda: sockets(simulator))
    second = asyncio.ensure_future(open_(client, request_id, **fields))
    for caller in (first, second):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await caller
        assert refusal(caught.value).reason == "IB_CONN_001"
    again = await open_(client, request_id, **fields)
    assert (again.created, again.session.state) == (True, CONNECTED)
    states = [session.state for session in await client.list(include_final=True)]
    assert states == [FAILED, CONNECTED]


async def test_an_answer_that_was_given_is_not_taken_back_by_who_goes_away_later(
    client: Client, simulator: SimulatedGateway
) -> None:
    simulator.arm(Fault.SILENT_AFTER_ACCEPT, times=1)
    request_id = new_id()
    first = await open_(client, request_id, client_id=7, return_immediately=True)
    with pytest.raises(grpc.aio.AioRpcError):
        await open_(client, request_id, deadline=0.2, client_id=7)
    assert (await client.get(first.session.session_id)).close_reason == ""


async def test_a_repeat_while_the_session_ends_is_told_that_it_has_ended(
    database_url: str,
) -> None:
    async with ScriptedPeer(*HANDSHAKE, Do.DEAF) as deaf:
        settings = Settings(
            gateways={"default": GatewayConfig(port=deaf.port, sentinel=False)},
            database_url=database_url,
            **NO_FIXED_PORTS,
        )
        async with broker(settings) as running, connected(running) as own:
            request_id = new_id()
            first = await open_(own, request_id, client_id=7)
            session_id = first.session.session_id
            closing = asyncio.ensure_future(own.close(session_id))

            async def is_closing() -> bool:
                return bool((await own.get(session_id)).close_reason)

            await eventually(is_closing)
            again = await open_(own, request_id, client_id=7)
            assert (again.session.state, again.session.close_reason) == (
                DISCONNECTED,
                "CLOSE_REQUESTED",
            )
            await closing


async def test_a_request_id_is_known_after_a_restart(
    simulator: SimulatedGateway, database_url: str
) -> None:
    kept, ended, failed = new_id(), new_id(), new_id()
    async with serving(simulator, database_url) as client:
        first = await open_(client, kept, client_id=7)
        gone = await open_(client, ended, client_id=8)
        await client.close(gone.session.session_id)
        simulator.arm(Fault.CLOSE_AFTER_ACCEPT, times=1)
        with pytest.raises(grpc.aio.AioRpcError):
            await open_(client, failed, client_id=9, max_attempts=1)
    async with serving(simulator, database_url) as client:
        again = await open_(client, kept, client_id=7)
        assert (again.created, again.session.session_id) == (False, first.session.session_id)
        once_more = await open_(client, ended, client_id=8)
        assert (once_more.created, once_more.session.state) == (False, DISCONNECTED)
        assert (await open_(client, failed, client_id=9, max_attempts=1)).created
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await open_(client, kept, client_id=70)
        assert refusal(caught.value).reason == "REQUEST_ID_REUSED"


async def test_validate_only_says_what_a_repeat_would(client: Client) -> None:
    request_id = new_id()
    assert not (await open_(client, request_id, client_id=7, validate_only=True)).HasField(
        "session"
    )
    await open_(client, request_id, client_id=7)
    # A repeat needs no client id: it has one.
    await open_(client, request_id, client_id=7, validate_only=True)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await open_(client, request_id, client_id=8, validate_only=True)
    assert refusal(caught.value).reason == "REQUEST_ID_REUSED"


async def test_a_repeat_is_answered_while_the_database_is_away_as_far_as_it_is_known(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, store_timeout=1.0) as client:
        request_id, ended = new_id(), new_id()
        first = await open_(client, request_id, client_id=7)
        gone = await open_(client, ended, client_id=8)
        await client.close(gone.session.session_id)
        async with away(database_url):
            again = await open_(client, request_id, client_id=7)
            assert again.session.session_id == first.session.session_id
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await open_(client, ended, client_id=8)
            assert refusal(caught.value).reason == "STORE_UNAVAILABLE"


async def test_repeats_from_many_channels_in_a_storm_of_faults_open_one_session(
    client: Client, simulator: SimulatedGateway
) -> None:
    request_id = new_id()
    simulator.arm(Fault.CLOSE_AFTER_ACCEPT, times=4)

    async def insist() -> str:
        async with connected(client.running) as own:
            while True:
                try:
                    answer = await open_(own, request_id, deadline=0.25, client_id=7)
                except grpc.aio.AioRpcError:
                    continue
                return str(answer.session.session_id)

    found = await asyncio.wait_for(asyncio.gather(*(insist() for _ in range(8))), 30)
    assert len(set(found)) == 1
    [session] = await client.list()
    assert session.session_id == found[0]
    assert max(simulator.statistics.max_claims.values()) == 1
