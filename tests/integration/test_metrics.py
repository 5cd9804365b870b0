"""What is exposed for Prometheus, after a run whose every dial, failure and answer is known."""

from __future__ import annotations

from collections.abc import Mapping

import asyncpg
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from ibgateway.broker.v1 import gateway_service_pb2
from ibgateway.broker.v1 import session_service_pb2 as pb
from prometheus_client.parser import text_string_to_metric_families

from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway
from broker.telemetry.metric_table import METRICS, Kind
from tests.harness import CONNECTED, RECONNECTING, Client, eventually, serving
from tests.integration.test_watch import Watch
from tests.scripted_run import SETTINGS, play

Series = tuple[str, frozenset[tuple[str, str]]]


class Scrape:
    """What one scrape gives."""

    def __init__(self, client: Client) -> None:
        metrics = client.running.metrics
        assert metrics is not None
        body, content_type = metrics.exposition()
        assert content_type.startswith("text/plain")
        self.text = body.decode()
        self.families = list(text_string_to_metric_families(self.text))
        self.samples: Mapping[Series, float] = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        return self.samples[name, frozenset(labels.items())]

    def total(self, name: str, **labels: str) -> float:
        """The sum over the labels that are not named."""
        return sum(
            value
            for (found, having), value in self.samples.items()
            if found == name and labels.items() <= dict(having).items()
        )


PLANS = {
    "ib_gateway_connections_total": {"gateway", "status"},
    "ib_gateway_connection_duration_seconds": {"gateway"},
    "ib_gateway_active_connections": {"gateway"},
    "ib_gateway_connection_errors_total": {"gateway", "error_type"},
    "ib_gateway_circuit_breaker_state": {"gateway"},
    "ib_gateway_retry_attempts_total": {"gateway", "error_type"},
    "ib_gateway_heartbeat_latency_ms": {"gateway"},
}
GATEWAY = {"gateway": "default"}


@pytest.mark.requirement("AC-011")
async def test_the_seven_metrics_tell_of_a_run_what_the_wire_has_seen(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, gateway_changes=SETTINGS) as client:
        await play(client, simulator)
        after = Scrape(client)
        for status, dials in (("success", 4), ("failure", 5)):
            assert after.value("ib_gateway_connections_total", **GATEWAY, status=status) == dials
        assert len(simulator.journal) == 9
        assert after.value("ib_gateway_connection_duration_seconds_count", **GATEWAY) == 4
        assert 0 < after.value("ib_gateway_connection_duration_seconds_sum", **GATEWAY) < 4
        # Three dials were refused, and a link was lost.
        errors = {"ConnectionError": 4, "ClientIDInUseError": 2}
        # After each conflict, after the loss, and after the first two of the refused dials.
        retries = {"ConnectionError": 3, "ClientIDInUseError": 2}
        for error_type in (
            *("ConnectionError", "ClientIDInUseError", "TimeoutError"),
            *("NetworkUnreachableError", "AuthenticationError", "IncompatibleVersionError"),
        ):
            labels = {**GATEWAY, "error_type": error_type}
            found = after.value("ib_gateway_connection_errors_total", **labels)
            assert found == errors.get(error_type, 0)
            found = after.value("ib_gateway_retry_attempts_total", **labels)
            assert found == retries.get(error_type, 0)
        assert after.value("ib_gateway_active_connections", **GATEWAY) == 0
        assert after.value("ib_gateway_circuit_breaker_state", **GATEWAY) == 0
        # The answer to the verify, and one each to the trials of the half-open circuit.
        assert after.value("ib_gateway_heartbeat_latency_ms_count", **GATEWAY) == 3
        assert 0 < after.value("ib_gateway_heartbeat_latency_ms_sum", **GATEWAY) < 3000

        await client.open(client_id=30)
        assert Scrape(client).value("ib_gateway_active_connections", **GATEWAY) == 1


@pytest.mark.requirement("AC-011")
async def test_each_heartbeat_is_an_observation_and_an_answer_that_is_given_again_is_none(
    simulator: SimulatedGateway, database_url: str
) -> None:
    often = {"heartbeat_interval": 1.2, "heartbeat_timeout": 5.0}
    name = "ib_gateway_heartbeat_latency_ms_count"
    async with serving(simulator, database_url, gateway_changes=often) as client:
        session = await client.open(client_id=7)
        ask = pb.VerifySessionRequest(session_id=session.session_id)
        first, again = [await client.sessions.VerifySession(ask) for _ in range(2)]
        assert first.server_time == again.server_time
        assert Scrape(client).value(name, **GATEWAY) == 1
        await eventually(lambda: Scrape(client).value(name, **GATEWAY) == 2)
        await eventually(lambda: Scrape(client).value(name, **GATEWAY) == 3)


@pytest.mark.requirement("AC-011")
async def test_names_labels_and_buckets_are_those_of_the_plan_and_of_the_table(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, gateway_changes=SETTINGS) as client:
        await play(client, simulator)
        # It is measured four times a second.
        await eventually(lambda: "event_loop_lag_seconds_count" in Scrape(client).text)
        after = Scrape(client)
    labels: dict[str, set[str]] = {}
    buckets: dict[str, list[str]] = {}
    kinds: dict[str, str] = {}
    for family in after.families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        kinds[name] = family.type
        for sample in family.samples:
            labels.setdefault(name, set()).update(sample.labels.keys() - {"le"})
            if "le" in sample.labels and sample.labels["le"] not in buckets.setdefault(name, []):
                buckets[name].append(sample.labels["le"])
    assert {name: labels[name] for name in PLANS} == PLANS
    assert buckets["ib_gateway_connection_duration_seconds"] == [
        *("0.1", "0.5", "1.0", "2.0", "5.0", "10.0", "30.0", "+Inf")
    ]
    assert buckets["ib_gateway_heartbeat_latency_ms"] == [
        *("10.0", "50.0", "100.0", "500.0", "1000.0", "5000.0", "+Inf")
    ]
    ours = {name for name in kinds if not name.startswith("process_")}
    assert ours == {metric.name for metric in METRICS}
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes"} <= kinds.keys()
    for metric in METRICS:
        assert labels[metric.name] == set(metric.labels), metric.name
        assert kinds[metric.name] == metric.kind.value, metric.name
        if metric.kind is Kind.HISTOGRAM:
            assert [*(str(bound) for bound in metric.buckets), "+Inf"] == buckets[metric.name]


@pytest.mark.requirement("AC-011")
async def test_no_metric_tells_of_one_session_or_caller(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url, gateway_changes=SETTINGS) as client:
        session = await play(client, simulator)
        await client.open(client_id=31, labels={"strategy": "momentum"})
        text = Scrape(client).text
    for secret in (session.session_id, session.owner, "momentum", *session.accounts):
        assert f'"{secret}"' not in text
    assert len(text.splitlines()) < 800


async def test_an_outage_is_counted_while_it_lasts_and_by_its_cause(
    client: Client, simulator: SimulatedGateway
) -> None:
    simulator.configure(hold_after_reset=0.0)
    opened = [await client.open() for _ in range(2)]
    await simulator.stop_listening()
    simulator.drop()
    name = "gateway_broker_outage_seconds_total"
    cause = {**GATEWAY, "cause": "IB_CONN_001"}
    await eventually(lambda: Scrape(client).value(name, **cause) > 0.2)
    during = Scrape(client)
    state = {**GATEWAY, "state": "RECONNECTING"}
    assert during.value("gateway_broker_sessions", **state) == 2
    assert 0 < during.value("gateway_broker_session_state_age_seconds", **state) < 10
    assert during.value("gateway_broker_gateway_reachable", **GATEWAY) == 0
    await simulator.start_listening()

    async def all_back() -> bool:
        return len(await client.list(states=[CONNECTED])) == len(opened)

    await eventually(all_back)
    first, second = Scrape(client), Scrape(client)
    assert first.value(name, **cause) == second.value(name, **cause) > during.value(name, **cause)
    assert first.total(name) == first.value(name, **cause)
    assert first.value("gateway_broker_gateway_reachable", **GATEWAY) == 1
    left = "gateway_broker_session_state_duration_seconds"
    assert first.value(f"{left}_count", state="RECONNECTING") == 2
    assert first.value(f"{left}_sum", state="RECONNECTING") == pytest.approx(
        first.value(name, **cause)
    )
    conditions = {**GATEWAY, "type": "DATA_CONTINUOUS"}
    assert first.value("gateway_broker_conditions_false", **conditions) == 2


async def test_rpcs_are_counted_by_status_and_refusals_by_reason(client: Client) -> None:
    session = await client.open(client_id=7)
    for _ in range(3):
        await client.get(session.session_id)
    for bad in ("nonsense", "3c9ad6a5-4a3e-4b8d-9f53-0a1b2c3d4e5f"):
        with pytest.raises(grpc.aio.AioRpcError):
            await client.get(bad)
    watch = Watch(client)
    await watch.snapshot()
    now = Scrape(client)
    rpcs = "gateway_broker_rpcs_total"
    assert now.value(rpcs, method="GetSession", code="OK") == 3
    assert now.value(rpcs, method="GetSession", code="INVALID_ARGUMENT") == 1
    assert now.value(rpcs, method="GetSession", code="NOT_FOUND") == 1
    assert now.value("gateway_broker_rpc_duration_seconds_count", method="GetSession") == 5
    assert now.value("gateway_broker_refusals_total", reason="SESSION_NOT_FOUND") == 1
    assert now.value("gateway_broker_refusals_total", reason="CIRCUIT_OPEN") == 0
    assert now.value("gateway_broker_rpcs_in_progress", method="WatchSessions") == 1
    assert now.value("gateway_broker_watchers") == 1
    assert now.value("gateway_broker_watcher_lag_events") == 0
    watch.call.cancel()

    def gone() -> bool:
        now = Scrape(client)
        cancelled = now.total(rpcs, method="WatchSessions", code="CANCELLED") == 1
        return cancelled and not now.value("gateway_broker_watchers")

    await eventually(gone)
    assert Scrape(client).value("gateway_broker_rpcs_in_progress", method="WatchSessions") == 0


async def test_events_are_counted_once_though_watchers_get_them_twice(
    simulator: SimulatedGateway, database_url: str
) -> None:
    simulator.arm(Fault.ONE_SEGMENT)  # no condition is an event of its own
    async with serving(simulator, database_url, store_timeout=1.0, open_unrecorded=True) as client:
        first = await client.open(client_id=7)
        kept = Scrape(client)
        blocker = await asyncpg.connect(database_url)
        block = blocker.transaction()
        await block.start()
        await blocker.execute("LOCK TABLE session_events IN ACCESS EXCLUSIVE MODE")
        second = await client.open(client_id=8)
        assert second.state == CONNECTED

        def told_and_not_kept() -> bool:
            now = Scrape(client)
            waits = now.value("gateway_broker_events_unrecorded") == 2
            return waits and not now.value("gateway_broker_store_available")

        await eventually(told_and_not_kept)
        during = Scrape(client)
        events = "gateway_broker_events_total"
        assert during.total(events) == kept.total(events) + 2
        assert during.total("gateway_broker_store_errors_total") >= 1
        assert during.value("gateway_broker_queue_depth", queue="journal") == 2
        await block.rollback()
        await blocker.close()
        await eventually(
            lambda: Scrape(client).value("gateway_broker_events_unrecorded") == 0, timeout=20
        )
        after = Scrape(client)
        assert after.total(events) == during.total(events)
        assert after.value("gateway_broker_event_lag_seconds_count") == after.total(events)
        assert after.value("gateway_broker_revision") == after.total(events)
        assert after.value("gateway_broker_store_available") == 1
        assert first.session_id != second.session_id


async def test_how_sessions_end_and_what_operators_decide_is_read_off(
    client: Client, simulator: SimulatedGateway
) -> None:
    await client.open(client_id=7, lease_ttl=Duration(seconds=1))
    ended = "gateway_broker_sessions_ended_total"
    assert Scrape(client).value("gateway_broker_seats_used", **GATEWAY) == 1
    await eventually(lambda: Scrape(client).value(ended, reason="LEASE_EXPIRED") == 1)
    assert Scrape(client).total(ended) == 1
    await eventually(lambda: Scrape(client).value("gateway_broker_seats_used", **GATEWAY) == 0)
    assert Scrape(client).value("gateway_broker_client_ids_held", **GATEWAY) == 0
    await client.gateways.DrainGateway(gateway_service_pb2.DrainGatewayRequest(reason="night"))
    assert Scrape(client).value("gateway_broker_gateway_drained", **GATEWAY) == 1


async def test_outages_of_sessions_that_were_taken_up_count_from_the_start(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with serving(simulator, database_url) as client:
        await client.open(client_id=7)
    await simulator.stop_listening()
    async with serving(simulator, database_url) as client:
        [session] = await client.list(states=[RECONNECTING])
        assert session.client_id == 7
        cause = {**GATEWAY, "cause": "BROKER_RESTARTED"}
        name = "gateway_broker_outage_seconds_total"
        await eventually(lambda: Scrape(client).value(name, **cause) > 0.05)
        now = Scrape(client)
        assert now.total(name) == now.value(name, **cause) < 30


async def test_metrics_can_be_switched_off(simulator: SimulatedGateway, database_url: str) -> None:
    async with serving(simulator, database_url, metrics=False) as client:
        session = await client.open(client_id=7)
        assert (await client.get(session.session_id)).state == CONNECTED
        assert client.running.metrics is None
        await client.sessions.CloseSession(pb.CloseSessionRequest(session_id=session.session_id))
