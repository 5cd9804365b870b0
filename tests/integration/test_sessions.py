"""A session from gRPC to the Gateway and back."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import asyncpg
import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from ib_async import IB
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway
from tests.harness import (
    CONNECTED,
    CONNECTING,
    DISCONNECTED,
    FAILED,
    Client,
    connected,
    eventually,
    refusal,
    serving,
    sockets,
)


async def rows(database_url: str, query: str) -> list[asyncpg.Record]:
    """What is in the database, asked for on a connection of our own."""
    connection = await asyncpg.connect(database_url)
    try:
        return list(await connection.fetch(query))
    finally:
        await connection.close()


@pytest.mark.requirement("AC-001")
@pytest.mark.requirement("AC-002")
async def test_an_open_session_is_connected_and_has_an_identity(
    client: Client, simulator: SimulatedGateway
) -> None:
    session = await client.open(client_id=7, labels={"strategy": "x"})
    assert uuid.UUID(session.session_id).version == 4
    assert (session.state, session.client_id, session.generation) == (CONNECTED, 7, 1)
    assert (session.server_version, list(session.accounts)) == (178, ["DU1234567"])
    assert (session.gateway_id, session.owner) == ("default", "local")
    assert dict(session.labels) == {"strategy": "x"}
    assert session.revision == session.sequence == 2
    assert [one.client_id for one in simulator.clients] == [7]
    assert await client.get(session.session_id) == session


@pytest.mark.requirement("AC-003")
async def test_closing_ends_with_fin_and_finalises_the_row(
    client: Client, simulator: SimulatedGateway, database_url: str
) -> None:
    session = await client.open(client_id=7)
    closed = await client.close(session.session_id)
    assert (closed.state, closed.close_reason) == (DISCONNECTED, "CLOSE_REQUESTED")
    await eventually(lambda: not simulator.clients)
    assert simulator.journal[0].end is not None
    assert simulator.journal[0].end.value == "fin"
    [row] = await rows(database_url, "select * from gateway_connections")
    assert (row["final_state"], row["client_id"], row["server_version"]) == ("DISCONNECTED", 7, 178)
    assert row["disconnection_time"] is not None
    kinds = await rows(
        database_url, "select revision, sequence, kind from session_events order by revision"
    )
    assert [(row["revision"], row["sequence"]) for row in kinds] == [(1, 1), (2, 2), (3, 3), (4, 4)]


async def test_closing_twice_and_at_once_is_one_close(client: Client) -> None:
    session = await client.open()
    closed = await asyncio.gather(*(client.close(session.session_id) for _ in range(5)))
    assert {one.sequence for one in closed} == {4}
    assert await client.close(session.session_id) == closed[0]


async def test_a_closed_client_id_can_be_opened_again_at_once(
    client: Client, simulator: SimulatedGateway
) -> None:
    for _ in range(20):
        session = await client.open(client_id=7, client_id_policy=pb.CLIENT_ID_POLICY_EXACT)
        await client.close(session.session_id)
    assert simulator.statistics.max_claims[7] == 1


async def test_an_id_that_is_being_released_is_waited_for(client: Client) -> None:
    session = await client.open(client_id=7)
    closing = asyncio.ensure_future(client.close(session.session_id))
    await asyncio.sleep(0)
    again = await client.open(client_id=7, client_id_policy=pb.CLIENT_ID_POLICY_EXACT)
    assert again.client_id == 7
    assert (await closing).state == DISCONNECTED


@pytest.mark.requirement("AC-014")
async def test_ten_sessions_open_at_once_and_the_eleventh_is_refused_before_any_dial(
    client: Client, simulator: SimulatedGateway
) -> None:
    sessions = await asyncio.gather(*(client.open() for _ in range(10)))
    assert sorted(session.client_id for session in sessions) == list(range(100, 110))
    assert simulator.statistics.max_handshakes == 1
    accepts = simulator.statistics.accepts
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.open()
    said = refusal(caught.value)
    assert (said.status, said.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SESSION_LIMIT")
    assert said.metadata == {"scope": "instance", "used": "10", "limit": "10"}
    assert simulator.statistics.accepts == accepts
    await client.close(sessions[0].session_id)
    await client.open()


async def test_the_limit_of_a_gateway_is_kept_too(
    simulator: SimulatedGateway, database_url: str
) -> None:
    limits: dict[str, Any] = {"session_limit": 2}
    async with serving(simulator, database_url, gateway_changes=limits) as client:
        await asyncio.gather(client.open(), client.open())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.open()
        assert refusal(caught.value).metadata["scope"] == "gateway"


@pytest.mark.requirement("AC-005")
async def test_twenty_callers_of_one_id_each_get_their_own_and_the_gateway_sees_no_double(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, session_limit=32) as client:
        sessions = await asyncio.gather(*(client.open(client_id=7) for _ in range(20)))
        assert sorted(session.client_id for session in sessions) == list(range(7, 27))
        assert sum(session.client_id_changed for session in sessions) == 19
    assert max(simulator.statistics.max_claims.values()) == 1


async def test_twenty_callers_of_one_exact_id_are_one_session_and_nineteen_clear_refusals(
    client: Client, simulator: SimulatedGateway
) -> None:
    results = await asyncio.gather(
        *(client.open(client_id=7, client_id_policy=pb.CLIENT_ID_POLICY_EXACT) for _ in range(20)),
        return_exceptions=True,
    )
    errors = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
    [session] = [result for result in results if not isinstance(result, BaseException)]
    assert len(errors) == 19
    for error in errors:
        said = refusal(error)
        assert (said.status, said.reason) == (grpc.StatusCode.ALREADY_EXISTS, "IB_CONN_002")
        assert said.metadata["session_id"] == session.session_id
        assert said.failure is not None
        assert said.failure.phase == "admission"
    assert simulator.statistics.max_claims == {7: 1}


@pytest.mark.requirement("AC-005")
async def test_an_id_that_a_stranger_holds_is_incremented(
    client: Client, simulator: SimulatedGateway
) -> None:
    stranger = IB()
    await stranger.connectAsync(simulator.host, simulator.port, clientId=7)
    try:
        session = await client.open(client_id=7)
        assert (session.client_id, session.client_id_changed) == (8, True)
        assert session.last_failure.tws_code == 326
    finally:
        stranger.disconnect()


async def test_increment_gives_up_after_ten_ids(
    client: Client, simulator: SimulatedGateway
) -> None:
    simulator.arm(Fault.CLIENT_ID_IN_USE)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.open(client_id=7)
    said = refusal(caught.value)
    assert (said.status, said.reason) == (grpc.StatusCode.ALREADY_EXISTS, "IB_CONN_002")
    assert said.metadata["client_id"] == "16"
    assert [record.client_id for record in simulator.journal] == list(range(7, 17))


async def test_exact_dials_the_same_id_until_its_attempts_are_used_up(
    client: Client, simulator: SimulatedGateway
) -> None:
    simulator.arm(Fault.CLIENT_ID_IN_USE)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.open(client_id=7, client_id_policy=pb.CLIENT_ID_POLICY_EXACT, max_attempts=3)
    assert refusal(caught.value).reason == "IB_CONN_002"
    assert [record.client_id for record in simulator.journal] == [7, 7, 7]


@pytest.mark.parametrize(
    ("fault", "status", "reason", "phase"),
    [
        (Fault.CLOSE_AFTER_ACCEPT, grpc.StatusCode.UNAVAILABLE, "IB_CONN_001", "handshake"),
        (Fault.RESET_AFTER_ACCEPT, grpc.StatusCode.UNAVAILABLE, "IB_CONN_001", "handshake"),
        (
            Fault.SILENT_AFTER_ACCEPT,
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "IB_CONN_003",
            "handshake",
        ),
        (
            Fault.PAPER_DISCLAIMER,
            grpc.StatusCode.FAILED_PRECONDITION,
            "IB_CONN_005",
            "start_api",
        ),
        (
            Fault.OLD_SERVER_VERSION,
            grpc.StatusCode.FAILED_PRECONDITION,
            "IB_CONN_006",
            "handshake",
        ),
    ],
    ids=lambda value: value.label if isinstance(value, Fault) else "",
)
async def test_a_failed_open_says_which_of_the_six_it_was_and_what_to_do(
    client: Client,
    simulator: SimulatedGateway,
    database_url: str,
    fault: Fault,
    status: grpc.StatusCode,
    reason: str,
    phase: str,
) -> None:
    simulator.arm(fault)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.open(client_id=7, max_attempts=2, timeout=Duration(nanos=300_000_000))
    said = refusal(caught.value)
    assert (said.status, said.reason) == (status, reason)
    assert said.failure is not None
    assert said.failure.phase == phase
    assert said.failure.hint
    [row] = await rows(database_url, "select final_state, error_count from gateway_connections")
    retried = reason not in ("IB_CONN_005", "IB_CONN_006")
    assert said.failure.attempt == (2 if retried else 1)
    assert said.failure.HasField("time")
    assert (row["final_state"], row["error_count"]) == ("FAILED", 2 if retried else 1)


@pytest.mark.requirement("AC-006")
async def test_a_silent_gateway_is_given_up_after_the_timeout_of_the_request(
    client: Client, simulator: SimulatedGateway
) -> None:
    simulator.arm(Fault.SILENT_AFTER_START)
    begin = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.open(max_attempts=1, timeout=Duration(nanos=500_000_000))
    said = refusal(caught.value)
    assert said.reason == "IB_CONN_003"
    assert said.failure is not None
    assert said.failure.phase == "start_api"
    assert 0.4 < time.monotonic() - begin < 4.5  # the gateway's own would be 5


async def test_a_gateway_that_comes_back_is_reached_by_the_next_attempt(
    client: Client, simulator: SimulatedGateway
) -> None:
    simulator.arm(Fault.CLOSE_AFTER_ACCEPT, times=2)
    session = await client.open()
    assert (session.state, session.error_count, session.attempt) == (CONNECTED, 2, 0)


async def test_the_failure_of_the_gateway_is_an_attempt_of_everyone_who_waits(
    client: Client, simulator: SimulatedGateway
) -> None:
    simulator.arm(Fault.SILENT_AFTER_ACCEPT)
    begin = time.monotonic()
    results = await asyncio.gather(
        *(client.open(max_attempts=1, timeout=Duration(nanos=500_000_000)) for _ in range(10)),
        return_exceptions=True,
    )
    assert all(isinstance(result, grpc.aio.AioRpcError) for result in results)
    assert time.monotonic() - begin < 4.5  # not ten times half a second
    assert len(simulator.journal) <= 3


@pytest.mark.requirement("AC-007")
async def test_verify_is_healthy_only_by_an_answer_of_the_gateway(
    client: Client, simulator: SimulatedGateway
) -> None:
    session = await client.open()
    ask = pb.VerifySessionRequest(session_id=session.session_id)
    verdict = await client.sessions.VerifySession(ask)
    assert verdict.healthy
    assert verdict.latency.ToNanoseconds() > 0
    assert abs(verdict.server_time.seconds - time.time()) < 5
    again = await client.sessions.VerifySession(ask)
    assert again.healthy
    assert again.age.ToNanoseconds() > 0
    assert (await client.get(session.session_id)).heartbeat_latency.ToNanoseconds() > 0


@pytest.mark.requirement("AC-007")
async def test_verifying_a_mute_gateway_finds_the_link_lost(
    client: Client, simulator: SimulatedGateway
) -> None:
    session = await client.open(reconnect_max_attempts=0)
    simulator.mute(True)
    ask = pb.VerifySessionRequest(session_id=session.session_id)
    verdict = await client.sessions.VerifySession(ask)
    assert not verdict.healthy
    assert verdict.failure.reason == "IB_CONN_003"
    failed = await eventually(lambda: final(client, session.session_id))
    assert failed.state == FAILED
    assert failed.last_failure.reason == "IB_CONN_003"
    assert not (await client.sessions.VerifySession(ask)).healthy


async def final(client: Client, session_id: str) -> Any:
    session = await client.get(session_id)
    return session if session.state in (FAILED, DISCONNECTED) else None


async def test_without_a_budget_a_dropped_link_ends_the_session_by_5_and_8(
    client: Client, simulator: SimulatedGateway, database_url: str
) -> None:
    session = await client.open(reconnect_max_attempts=0)
    simulator.drop()
    failed = await eventually(lambda: final(client, session.session_id))
    assert (failed.state, failed.last_failure.reason) == (FAILED, "IB_CONN_001")
    events = await rows(
        database_url,
        "select transition_source s, transition_target t from session_events order by revision",
    )
    assert [(row["s"], row["t"]) for row in events][2:] == [
        ("CONNECTED", "RECONNECTING"),
        ("RECONNECTING", "FAILED"),
    ]


async def test_return_immediately_answers_in_connecting_and_goes_on(
    client: Client, simulator: SimulatedGateway
) -> None:
    simulator.arm(Fault.CLOSE_AFTER_START_500_MS, times=1)
    session = await client.open(return_immediately=True)
    assert session.state == CONNECTING

    async def is_connected() -> bool:
        return bool((await client.get(session.session_id)).state == CONNECTED)

    await eventually(is_connected)


async def test_an_open_that_is_closed_by_another_ends_with_session_closed(
    client: Client, simulator: SimulatedGateway
) -> None:
    simulator.arm(Fault.SILENT_AFTER_ACCEPT)
    opening = asyncio.ensure_future(client.open())
    [session] = await eventually(client.list)
    closed = await client.close(session.session_id)
    assert closed.state == DISCONNECTED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await opening
    said = refusal(caught.value)
    assert (said.status, said.reason) == (grpc.StatusCode.ABORTED, "SESSION_CLOSED")
    await eventually(lambda: not sockets(simulator))


GONE_AFTER = [0.0, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.05]


@pytest.mark.parametrize("fault", [None, Fault.SILENT_AFTER_ACCEPT, Fault.SILENT_AFTER_START])
@pytest.mark.parametrize("seconds", GONE_AFTER)
async def test_a_caller_that_goes_away_leaves_no_socket_no_open_row_and_no_client_id(
    client: Client,
    simulator: SimulatedGateway,
    database_url: str,
    fault: Fault | None,
    seconds: float,
) -> None:
    if fault is not None:
        simulator.arm(fault)
    opening = asyncio.ensure_future(client.open(client_id=7))
    await asyncio.sleep(seconds)
    opening.cancel()
    await asyncio.wait((opening,))

    async def nothing_is_left() -> bool:
        # An answer that was on its way already cannot be called back; its session is a
        # whole one, and can be found and closed.
        for session in await client.list(states=[CONNECTED]):
            assert fault is None
            await client.close(session.session_id)
        held = await client.gateways.ListGateways(pb_gateways())
        open_rows = await rows(
            database_url, "select 1 from gateway_connections where final_state is null"
        )
        return not (held.gateways[0].client_ids or open_rows or sockets(simulator))

    await eventually(nothing_is_left)
    simulator.clear()
    session = await client.open(client_id=7, client_id_policy=pb.CLIENT_ID_POLICY_EXACT)
    assert session.client_id == 7


def pb_gateways() -> Any:
    from ibgateway.broker.v1 import gateway_service_pb2

    return gateway_service_pb2.ListGatewaysRequest()


async def test_a_caller_whose_deadline_passes_is_gone_too(
    client: Client, simulator: SimulatedGateway, database_url: str
) -> None:
    simulator.arm(Fault.SILENT_AFTER_ACCEPT)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.sessions.OpenSession(pb.OpenSessionRequest(), timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    async def gone() -> bool:
        found = await rows(database_url, "select close_reason from gateway_connections")
        return [row["close_reason"] for row in found] == ["CALLER_GONE"]

    await eventually(gone)
    await eventually(lambda: not sockets(simulator))


async def test_a_caller_that_vanishes_with_its_connection_is_gone_too(
    client: Client, simulator: SimulatedGateway
) -> None:
    simulator.arm(Fault.SILENT_AFTER_ACCEPT)
    async with connected(client.running) as other:
        opening = asyncio.ensure_future(other.open(client_id=7))
        await eventually(lambda: sockets(simulator))
    with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
        await opening
    await eventually(lambda: not sockets(simulator))


async def test_a_readonly_gateway_makes_every_session_readonly(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, gateway_changes={"readonly": True}) as client:
        assert (await client.open()).readonly


async def test_a_paper_session_is_not_connected_to_a_gateway_declared_live(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, gateway_changes={"kind": "live"}) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.open()
        said = refusal(caught.value)
        assert (said.status, said.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "IB_CONN_005",
        )
    assert not simulator.clients
