"""A session outlives its link, and says all of it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from ibgateway.broker.v1 import gateway_pb2, gateway_service_pb2, session_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway, SimulatorSettings
from tests.harness import CONNECTED, FAILED, RECONNECTING, Client, eventually, refusal, serving
from tests.integration.test_watch import Watch


def reached(client: Client, session_id: str, generation: int) -> Callable[[], Awaitable[Any]]:
    async def check() -> Any:
        session = await client.get(session_id)
        there = session.state == CONNECTED and session.generation == generation
        return session if there else None

    return check


def conditions(session: session_pb2.Session) -> dict[str, tuple[str, str]]:
    names = session_pb2.ConditionStatus
    return {
        "/".join(filter(None, (item.type, item.subject))): (
            names.Name(item.status).removeprefix("CONDITION_STATUS_"),
            item.reason,
        )
        for item in session.conditions
    }


async def get_gateway(client: Client) -> gateway_pb2.Gateway:
    answer = await client.gateways.GetGateway(gateway_service_pb2.GetGatewayRequest())
    gateway: gateway_pb2.Gateway = answer.gateway
    return gateway


@pytest.mark.parametrize("reset", [False, True])
async def test_a_dropped_link_is_made_anew_under_the_same_ids(
    client: Client, simulator: SimulatedGateway, reset: bool
) -> None:
    simulator.configure(hold_after_reset=0.0)
    before = await client.open(client_id=7, labels={"a": "b"})
    watch = Watch(client)
    await watch.snapshot()
    simulator.drop(reset=reset)
    after = await eventually(reached(client, before.session_id, 2))
    for name in ("session_id", "client_id", "owner", "labels", "create_time", "accounts"):
        assert getattr(after, name) == getattr(before, name)
    assert after.attempt == 0
    lost, back, data = await watch.events(3)
    assert (lost.session.state, lost.session.last_failure.reason) == (RECONNECTING, "IB_CONN_001")
    assert lost.session.HasField("next_attempt_time")
    assert not back.session.HasField("next_attempt_time")
    assert lost.correlation_id == back.correlation_id
    assert data.condition.type == "DATA_CONTINUOUS"
    assert data.condition.reason == "NEW_GENERATION"
    assert simulator.statistics.max_claims[7] == 1


async def test_a_gateway_that_is_away_is_dialled_until_it_returns_and_all_are_back_at_once(
    client: Client, simulator: SimulatedGateway
) -> None:
    sessions = [await client.open() for _ in range(10)]
    await simulator.stop_listening()
    simulator.drop()

    async def all_wait() -> bool:
        left = await client.list(states=[RECONNECTING])
        return len(left) == 10 and all(
            session.attempt >= 3 and session.HasField("next_attempt_time") for session in left
        )

    await eventually(all_wait, timeout=10)
    assert not (await get_gateway(client)).reachable
    await simulator.start_listening()
    for session in sessions:
        await eventually(reached(client, session.session_id, 2), timeout=10)
    gateway = await get_gateway(client)
    assert gateway.reachable
    assert not gateway.HasField("next_attempt_time")
    assert simulator.statistics.max_handshakes == 1
    assert all(claims == 1 for claims in simulator.statistics.max_claims.values())


async def test_a_hung_gateway_is_noticed_without_anybody_asking(
    simulator: SimulatedGateway, database_url: str
) -> None:
    changes = {"heartbeat_interval": 1.2, "heartbeat_timeout": 0.3}
    async with serving(simulator, database_url, gateway_changes=changes) as client:
        session = await client.open()
        await eventually(
            lambda: _latency(client, session.session_id), timeout=5
        )  # it is asked while it is well
        simulator.mute(True)
        begin = time.monotonic()
        watch = Watch(client)
        await watch.snapshot()
        [lost] = await watch.events(1)
        assert time.monotonic() - begin < 1.2 + 0.3 + 3.0
        assert lost.transition.reason == "HEARTBEAT_UNANSWERED"
        assert lost.session.last_failure.reason == "IB_CONN_003"
        assert lost.session.last_failure.phase == "heartbeat"
        simulator.mute(False)
        await eventually(reached(client, session.session_id, 2), timeout=20)


async def _latency(client: Client, session_id: str) -> bool:
    return (await client.get(session_id)).HasField("heartbeat_latency")


async def test_its_own_ghost_is_waited_for_under_the_same_id_and_named(
    client: Client, simulator: SimulatedGateway
) -> None:
    session = await client.open(client_id=7)
    watch = Watch(client)
    await watch.snapshot()
    simulator.ghost(7, 0.6)
    simulator.drop(client_id=7, reset=True)
    after = await eventually(reached(client, session.session_id, 2), timeout=10)
    assert after.client_id == 7
    events = await watch.events(3)
    ghosts = [event for event in events if event.WhichOneof("change") == "attempt"]
    assert ghosts
    failure = ghosts[0].attempt.failure
    assert failure.reason == "IB_CONN_002"
    assert "this session's own last connection" in failure.message


async def test_a_long_outage_of_the_gateway_does_not_lengthen_the_wait_for_its_own_ghost(
    simulator: SimulatedGateway, database_url: str
) -> None:
    changes = {"retry_initial_delay": 0.05, "retry_max_delay": 60.0, "retry_jitter": 0.0}
    async with serving(simulator, database_url, gateway_changes=changes) as client:
        await client.open(client_id=7)
        watch = Watch(client)
        await watch.snapshot()
        await simulator.stop_listening()
        simulator.drop()
        attempts = 0
        while attempts < 4:
            [event] = await watch.events(1)
            attempts += event.WhichOneof("change") == "attempt"
        simulator.ghost(7, 0.5)
        await simulator.start_listening()
        while event.attempt.failure.tws_code != 326:
            [event] = await watch.events(1)
        wait = event.attempt.next_attempt_time.ToNanoseconds() - event.time.ToNanoseconds()
        assert wait / 1e9 == pytest.approx(0.1, abs=0.01)  # the loss of a young link, and the ghost


async def test_an_id_that_ended_uncleanly_is_not_given_to_others_until_it_is_seen_free(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url) as client:
        session = await client.open()
        await simulator.stop_listening()
        simulator.drop(reset=True)
        await eventually(lambda: has_state(client, session.session_id, RECONNECTING))
        await client.close(session.session_id)
        await simulator.start_listening()
    # Over a restart, too.
    async with serving(simulator, database_url) as client:
        quarantined = (await get_gateway(client)).quarantined_client_ids
        assert [(item.client_id, item.reason) for item in quarantined] == [
            (session.client_id, "LINK_LOST")
        ]
        other = await client.open()
        assert other.client_id != session.client_id
        named = await client.open(client_id=session.client_id, max_attempts=100)
        assert named.client_id == session.client_id
        assert not (await get_gateway(client)).quarantined_client_ids
    async with serving(simulator, database_url) as client:
        assert not (await get_gateway(client)).quarantined_client_ids


async def has_state(client: Client, session_id: str, state: int) -> bool:
    return bool((await client.get(session_id)).state == state)


# -- conditions ------------------------------------------------------------------


async def test_notices_become_conditions_and_cost_no_link(
    client: Client, simulator: SimulatedGateway
) -> None:
    session = await client.open()
    watch = Watch(client)
    await watch.snapshot()
    for _ in range(20):  # a repeat is no news
        simulator.notify(1100)
    simulator.notify(2103)
    simulator.notify(2105)
    simulator.notify(1101)
    events = await watch.events(5)
    assert [(event.condition.type, event.condition.reason) for event in events] == [
        ("UPSTREAM", "CONNECTIVITY_LOST"),
        ("MARKET_DATA_FARM", "BROKEN"),
        ("HISTORICAL_DATA_FARM", "BROKEN"),
        ("UPSTREAM", "RESTORED_DATA_LOST"),
        ("DATA_CONTINUOUS", "DATA_LOST"),
    ]
    assert all(event.session.state == CONNECTED for event in events)
    now = await client.get(session.session_id)
    assert conditions(now)["UPSTREAM"] == ("TRUE", "RESTORED_DATA_LOST")
    assert conditions(now)["DATA_CONTINUOUS"] == ("FALSE", "DATA_LOST")
    assert now.generation == 1

    ask = pb.AcknowledgeDataRequest(session_id=session.session_id, generation=1)
    answer = await client.sessions.AcknowledgeData(ask)
    assert conditions(answer.session)["DATA_CONTINUOUS"] == ("TRUE", "ACKNOWLEDGED")
    again = await client.sessions.AcknowledgeData(ask)
    assert again.session.sequence == answer.session.sequence


async def test_data_is_acknowledged_for_the_generation_that_is_only(
    client: Client, simulator: SimulatedGateway
) -> None:
    simulator.configure(hold_after_reset=0.0)
    session = await client.open()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _acknowledge(client, session.session_id, 2)
    assert refusal(caught.value).fields == ["generation"]
    await simulator.stop_listening()
    simulator.drop()
    await eventually(lambda: has_state(client, session.session_id, RECONNECTING))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _acknowledge(client, session.session_id, 1)
    assert refusal(caught.value).reason == "SESSION_NOT_CONNECTED"
    await simulator.start_listening()
    await eventually(reached(client, session.session_id, 2), timeout=10)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _acknowledge(client, session.session_id, 1)
    assert refusal(caught.value).fields == ["generation"]
    await _acknowledge(client, session.session_id, 2)
    await client.close(session.session_id)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _acknowledge(client, session.session_id, 2)
    assert refusal(caught.value).reason == "SESSION_NOT_CONNECTED"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _acknowledge(client, "00000000-0000-4000-8000-000000000000", 1)
    assert refusal(caught.value).reason == "SESSION_NOT_FOUND"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _acknowledge(client, "x", 0)
    assert set(refusal(caught.value).fields) == {"session_id", "generation"}


async def _acknowledge(client: Client, session_id: str, generation: int) -> Any:
    return await client.sessions.AcknowledgeData(
        pb.AcknowledgeDataRequest(session_id=session_id, generation=generation)
    )


async def test_what_lasts_too_long_is_told_again_and_again(
    simulator: SimulatedGateway, database_url: str
) -> None:
    changes = {"condition_budget": 0.4, "reconnecting_budget": 0.2}
    async with serving(simulator, database_url, gateway_changes=changes) as client:
        await client.open()
        watch = Watch(client)
        await watch.snapshot()
        simulator.notify(1100)
        condition, *alarms = await watch.events(4)
        assert condition.WhichOneof("change") == "condition"
        assert [(alarm.notice.reason, alarm.notice.subject) for alarm in alarms] == [
            ("OVERDUE", "UPSTREAM")
        ] * 3
        times = [
            event.time.ToNanoseconds() / 1e9
            - condition.condition.transition_time.ToNanoseconds() / 1e9
            for event in alarms
        ]
        for time_told, due in zip(times, (0.4, 0.8, 1.6), strict=True):
            assert due - 0.05 < time_told < 2 * due + 1.0
        await simulator.stop_listening()
        simulator.drop()
        while True:
            [event] = await watch.events(1)
            if event.WhichOneof("change") == "notice" and event.notice.subject == "RECONNECTING":
                break
        assert event.notice.hint


async def test_an_impatient_caller_is_backed_off_and_costs_nobody_else(
    simulator: SimulatedGateway, database_url: str
) -> None:
    changes = {"retry_initial_delay": 0.2, "retry_jitter": 0.0}
    async with serving(simulator, database_url, gateway_changes=changes) as client:
        simulator.arm(Fault.SILENT_AFTER_ACCEPT)
        begin = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError):
            await client.open(max_attempts=4, timeout=Duration(nanos=100_000_000))
        assert time.monotonic() - begin > 3 * 0.2
        assert simulator.statistics.accepts == 4
        gateway = await get_gateway(client)
        assert not gateway.HasField("reachable")
        assert gateway.circuit_breaker.failures == 0


# -- the breaker -----------------------------------------------------------------


@pytest.mark.requirement("AC-010")
async def test_repeated_failures_open_the_circuit_for_new_sessions_only(
    simulator: SimulatedGateway, database_url: str
) -> None:
    changes = {"circuit_breaker_timeout": 1.0, "retry_max_delay": 0.1}
    async with serving(simulator, database_url, gateway_changes=changes) as client:
        session = await client.open()
        watch = Watch(client)
        await watch.snapshot()
        await simulator.stop_listening()
        simulator.drop()

        async def is_open() -> bool:
            state = (await get_gateway(client)).circuit_breaker.state
            return bool(state == gateway_pb2.CIRCUIT_BREAKER_STATE_OPEN)

        await eventually(is_open)
        accepts = simulator.statistics.accepts
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.open()
        said = refusal(caught.value)
        assert (said.status, said.reason) == (grpc.StatusCode.UNAVAILABLE, "CIRCUIT_OPEN")
        assert said.retry_after is not None
        assert 0 < said.retry_after <= 1.0
        assert simulator.statistics.accepts == accepts
        assert (await get_gateway(client)).circuit_breaker.HasField("half_open_time")
        # The session that exists goes on trying, and finds the Gateway when it is back.
        await simulator.start_listening()
        await eventually(reached(client, session.session_id, 2), timeout=10)
        await eventually(lambda: _opened(client), timeout=10)
        closed = (await get_gateway(client)).circuit_breaker
        assert closed.state == gateway_pb2.CIRCUIT_BREAKER_STATE_CLOSED
        notices: set[str] = set()
        while not notices >= {"CIRCUIT_OPEN", "CIRCUIT_CLOSED"}:
            [event] = await watch.events(1)
            if event.WhichOneof("change") == "notice":
                notices.add(event.notice.reason)


@pytest.mark.parametrize("fault", [Fault.SILENT_AFTER_ACCEPT, Fault.SILENT_AFTER_START])
async def test_an_impatient_caller_opens_no_circuit(
    simulator: SimulatedGateway, database_url: str, fault: Fault
) -> None:
    changes = {"circuit_breaker_failure_threshold": 1}
    async with serving(simulator, database_url, gateway_changes=changes) as client:
        simulator.arm(fault)
        hasty = Duration(nanos=200_000_000)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.open(timeout=hasty, max_attempts=1)
        assert refusal(caught.value).reason == "IB_CONN_003"
        breaker = (await get_gateway(client)).circuit_breaker
        assert breaker.state == gateway_pb2.CIRCUIT_BREAKER_STATE_CLOSED
        assert breaker.failures == 0


async def _opened(client: Client) -> bool:
    try:
        await client.open()
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_an_operator_closes_the_circuit_and_who_waits_tries_at_once(
    simulator: SimulatedGateway, database_url: str
) -> None:
    changes = {
        "circuit_breaker_timeout": 3600.0,
        "circuit_breaker_failure_threshold": 2,
        "retry_initial_delay": 0.05,
        "retry_max_delay": 600.0,
    }
    async with serving(simulator, database_url, gateway_changes=changes) as client:
        session = await client.open()
        await simulator.stop_listening()
        simulator.drop()

        async def waits_long() -> bool:
            left = await client.get(session.session_id)
            wait = left.next_attempt_time.ToNanoseconds() / 1e9 - time.time()
            return wait > 5.0

        await eventually(waits_long, timeout=20)
        await simulator.start_listening()
        begin = time.monotonic()
        ask = gateway_service_pb2.ResetCircuitBreakerRequest()
        answer = await client.gateways.ResetCircuitBreaker(ask)
        state = answer.gateway.circuit_breaker.state
        assert state == gateway_pb2.CIRCUIT_BREAKER_STATE_CLOSED
        await eventually(reached(client, session.session_id, 2))
        assert time.monotonic() - begin < 4.0


# -- humans and maintenance ------------------------------------------------------


async def test_a_disclaimer_that_is_accepted_soon_costs_no_open(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, gateway_changes={"auth_grace": 5.0}) as client:
        simulator.arm(Fault.PAPER_DISCLAIMER, 3)
        session = await client.open()
        assert session.state == CONNECTED
        assert session.error_count == 3


@pytest.mark.requirement("AC-004")
async def test_a_disclaimer_that_nobody_accepts_ends_an_open_after_the_grace(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, gateway_changes={"auth_grace": 0.3}) as client:
        simulator.arm(Fault.PAPER_DISCLAIMER)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.open(max_attempts=100)
        assert refusal(caught.value).reason == "IB_CONN_005"


async def test_a_session_that_had_a_link_waits_for_a_human_without_end(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, gateway_changes={"auth_grace": 0.2}) as client:
        session = await client.open()
        simulator.arm(Fault.PAPER_DISCLAIMER)
        simulator.drop()

        async def waits_a_minute() -> bool:
            left = await client.get(session.session_id)
            wait = left.next_attempt_time.ToNanoseconds() / 1e9 - time.time()
            return left.last_failure.tws_code == 10141 and wait > 50

        await eventually(waits_a_minute, timeout=10)
        left = await client.get(session.session_id)
        assert left.state == RECONNECTING
        assert "human" in left.last_failure.hint


async def test_the_wrong_kind_of_account_ends_a_session_also_when_it_comes_back(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, gateway_changes={"kind": "paper"}) as client:
        session = await client.open()
        await simulator.stop_listening()
        simulator.drop()
        settings = SimulatorSettings(port=simulator.port, accounts=("U7654321",))
        async with SimulatedGateway(settings) as live:
            await eventually(lambda: has_state(client, session.session_id, FAILED))
            left = await client.get(session.session_id)
            assert left.last_failure.reason == "IB_CONN_005"
            await eventually(lambda: not live.clients)


async def test_a_loss_in_a_maintenance_window_is_expected_and_opens_no_circuit(
    simulator: SimulatedGateway, database_url: str
) -> None:
    changes = {"maintenance": ["00:00-23:59 UTC", "23:58-00:01 UTC"]}
    async with serving(simulator, database_url, gateway_changes=changes) as client:
        session = await client.open()
        await simulator.stop_listening()
        simulator.drop()

        async def tried_often() -> bool:
            return bool((await client.get(session.session_id)).attempt >= 8)

        await eventually(tried_often, timeout=10)
        gateway = await get_gateway(client)
        assert gateway.circuit_breaker.state == gateway_pb2.CIRCUIT_BREAKER_STATE_CLOSED
        assert gateway.HasField("maintenance_end_time")
        hint = (await client.get(session.session_id)).last_failure.hint
        assert hint.startswith("Expected: the Gateway is in maintenance until")


async def test_sessions_whose_own_waits_end_do_not_dial_beside_the_prober(
    simulator: SimulatedGateway, database_url: str
) -> None:
    changes = {"retry_initial_delay": 0.3, "retry_max_delay": 5.0, "retry_jitter": 0.5}
    async with serving(simulator, database_url, gateway_changes=changes) as client:
        for _ in range(10):
            await client.open()
        await simulator.stop_listening()
        simulator.drop()  # young links: each session waits on a ladder of its own

        async def all_were_told() -> bool:
            return all(session.attempt >= 2 for session in await client.list())

        await eventually(all_were_told, timeout=10)
        gateway = await get_gateway(client)
        assert gateway.circuit_breaker.failures <= 3  # one a rung, not one a session
