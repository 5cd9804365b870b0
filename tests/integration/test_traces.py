"""Traces, as a real OTLP collector gets them over a socket."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from ibgateway.broker.v1 import session_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from broker.errors import StartupError
from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway
from broker.telemetry.traces import EXPORT_TIMEOUT
from tests.harness import CONNECTED, Client, eventually, refusal, serving
from tests.program import free_address
from tests.scripted_run import CORRELATION_ID

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = ("traceparent", f"00-{TRACE}-{CALLER}-01")
OPEN, CLOSE = (f"ibgateway.broker.v1.SessionService/{rpc}Session" for rpc in ("Open", "Close"))


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans, as OpenTelemetry's own collector does."""

    def __init__(self) -> None:
        self.address = ""
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        for batch in request.resource_spans:
            self.resources.append(
                {item.key: item.value.string_value for item in batch.resource.attributes}
            )
            self.spans += [span for scope in batch.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def of(self, trace: str) -> list[Span]:
        """The spans of one trace, in the order in which they began."""
        found = [span for span in self.spans if span.trace_id.hex() == trace]
        return sorted(found, key=lambda span: span.start_time_unix_nano)


def about(span: Span) -> dict[str, Any]:
    return {
        item.key: getattr(item.value, item.value.WhichOneof("value") or "string_value")
        for item in span.attributes
    }


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    found = Collector()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(found, server)  # type: ignore[no-untyped-call]
    found.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield found
    await server.stop(0)


@pytest.fixture
async def traced(
    simulator: SimulatedGateway, database_url: str, collector: Collector
) -> AsyncIterator[Client]:
    """A broker that sends its traces to the collector."""
    endpoint = f"http://{collector.address}"
    async with serving(simulator, database_url, traces_endpoint=endpoint) as client:
        yield client


async def opened(client: Client, *metadata: tuple[str, str], **fields: Any) -> Any:
    answer = await client.sessions.OpenSession(
        pb.OpenSessionRequest(**fields), metadata=(("x-correlation-id", CORRELATION_ID), *metadata)
    )
    return answer.session


@pytest.mark.requirement("AC-011")
async def test_a_trace_leads_from_the_callers_rpc_over_each_dial_to_the_sql_of_the_record(
    traced: Client, simulator: SimulatedGateway, collector: Collector
) -> None:
    simulator.arm(Fault.CLOSE_AFTER_ACCEPT, 1)
    begin = time.time_ns()
    session = await opened(traced, SAMPLED, client_id=7)
    end = time.time_ns()
    # The row is made, one dial fails, and the next succeeds: each of it is written.
    await eventually(lambda: len(collector.of(TRACE)) == 6)
    spans = collector.of(TRACE)
    rpc, *below = spans
    assert (rpc.name, rpc.parent_span_id.hex()) == (OPEN, CALLER)
    assert rpc.kind == Span.SPAN_KIND_SERVER
    assert {span.parent_span_id for span in below} == {rpc.span_id}
    names = [span.name for span in below]
    assert names == ["append_events", "connect", "append_events", "connect", "append_events"]
    failed, succeeded = (about(span) for span in below if span.name == "connect")
    assert (failed["error.type"], failed["phase"]) == ("IB_CONN_001", "handshake")
    assert (succeeded["client_id"], succeeded["server.port"]) == (7, simulator.port)
    assert succeeded["server_version"] == session.server_version
    assert "error.type" not in succeeded
    # How far each came, and when.
    [first, last] = (span for span in below if span.name == "connect")
    assert [event.name for event in first.events] == ["handshake"]
    assert [event.name for event in last.events] == ["handshake", "start_api"]
    times = [event.time_unix_nano for event in last.events]
    assert last.start_time_unix_nano <= times[0] < times[1] <= last.end_time_unix_nano
    for span in spans:
        assert begin <= span.start_time_unix_nano <= span.end_time_unix_nano <= end + 1_000_000
        assert about(span)["correlation_id"] == CORRELATION_ID
        if span.name == "append_events":
            assert about(span)["db.system.name"] == "postgresql"
    [resource, *_] = collector.resources
    assert resource["service.name"] == "gateway-broker"


async def test_a_lost_link_begins_a_trace_of_its_own_that_ends_when_it_is_back(
    traced: Client, simulator: SimulatedGateway, collector: Collector
) -> None:
    simulator.configure(hold_after_reset=0.0)
    session = await opened(traced, SAMPLED, client_id=7)
    simulator.arm(Fault.CLOSE_AFTER_ACCEPT, 1)
    simulator.drop()

    async def is_back() -> bool:
        now = await traced.get(session.session_id)
        return bool(now.state == CONNECTED and now.generation == 2)

    await eventually(is_back)

    def outage() -> Span | None:
        return next((span for span in collector.spans if span.name == "outage"), None)

    root = await eventually(outage)
    assert not root.parent_span_id
    assert about(root)["session_id"] == session.session_id
    assert about(root)["outcome"] == "CONNECTED"
    await eventually(lambda: len(collector.of(root.trace_id.hex())) == 6)
    below = collector.of(root.trace_id.hex())[1:]
    names = [span.name for span in below]
    assert names == ["append_events", "connect", "append_events", "connect", "append_events"]
    assert {span.parent_span_id for span in below} == {root.span_id}
    assert {about(span)["correlation_id"] for span in below} == {about(root)["correlation_id"]}
    assert about(root)["correlation_id"] != CORRELATION_ID
    # What happens to a session that works belongs to nobody's trace.
    count = len(collector.of(root.trace_id.hex()))
    await traced.sessions.AcknowledgeData(
        pb.AcknowledgeDataRequest(session_id=session.session_id, generation=2)
    )
    await traced.sessions.CloseSession(
        pb.CloseSessionRequest(session_id=session.session_id), metadata=(SAMPLED,)
    )
    await eventually(lambda: CLOSE in [span.name for span in collector.of(TRACE)])
    assert len(collector.of(root.trace_id.hex())) == count
    [close] = [span for span in collector.of(TRACE) if span.name == CLOSE]
    writes = [span for span in collector.of(TRACE) if span.parent_span_id == close.span_id]
    assert [span.name for span in writes] == ["append_events"] * 2


async def test_a_session_that_is_taken_up_dials_in_the_trace_of_its_outage(
    simulator: SimulatedGateway, database_url: str, collector: Collector
) -> None:
    async with serving(simulator, database_url) as client:
        await client.open(client_id=7)
    endpoint = f"http://{collector.address}"
    async with serving(simulator, database_url, traces_endpoint=endpoint) as client:

        async def is_back() -> bool:
            return bool(await client.list(states=[CONNECTED]))

        await eventually(is_back)
        await eventually(lambda: len(collector.spans) == 3)
    outages = [span for span in collector.spans if span.name == "outage"]
    # Of the stop there is one more, which the next broker would end.
    [root, stop] = sorted(outages, key=lambda span: span.start_time_unix_nano)
    spans = collector.of(root.trace_id.hex())
    assert [span.name for span in spans] == ["outage", "connect", "append_events"]
    assert stop.trace_id != root.trace_id


async def test_an_open_that_fails_says_so_in_its_span_and_one_that_is_not_sampled_has_none(
    traced: Client, simulator: SimulatedGateway, collector: Collector
) -> None:
    not_sampled = ("traceparent", f"00-{'1' * 32}-{CALLER}-00")
    await opened(traced, not_sampled, client_id=7)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await opened(traced, SAMPLED, client_id=7, client_id_policy=pb.CLIENT_ID_POLICY_EXACT)
    assert refusal(caught.value).reason == "IB_CONN_002"
    simulator.arm(Fault.OLD_SERVER_VERSION, 1)
    with pytest.raises(grpc.aio.AioRpcError):
        await opened(traced, ("traceparent", "nonsense"), client_id=8)
    await eventually(lambda: len([span for span in collector.spans if span.name == OPEN]) == 2)
    refused, failed = sorted(
        (span for span in collector.spans if span.name == OPEN),
        key=lambda span: span.start_time_unix_nano,
    )
    assert about(refused)["error.type"] == "IB_CONN_002"
    assert about(failed)["error.type"] == "IB_CONN_006"
    assert not failed.parent_span_id
    assert not collector.of("1" * 32)


@pytest.mark.parametrize("hangs", [False, True], ids=["nobody listens", "it never answers"])
async def test_a_collector_that_is_away_costs_neither_an_open_nor_a_stop(
    simulator: SimulatedGateway, database_url: str, hangs: bool
) -> None:
    with socket.socket() as deaf:
        address = free_address()
        if hangs:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen()
            address = "{}:{}".format(*deaf.getsockname())
        async with serving(simulator, database_url, traces_endpoint=f"http://{address}") as client:
            session = await client.open(client_id=7)
            assert session.state == CONNECTED
            begin = time.monotonic()
        assert time.monotonic() - begin < 3 * EXPORT_TIMEOUT


async def test_an_endpoint_without_the_extra_is_a_clear_error_at_the_start(
    simulator: SimulatedGateway, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(StartupError, match=r"pip install 'gateway-broker\[traces\]'"):
        async with serving(simulator, database_url, traces_endpoint="http://127.0.0.1:4317"):
            raise AssertionError("it has started")


async def test_without_an_endpoint_nothing_of_tracing_is_even_imported(tmp_path: Any) -> None:
    program = (
        "import sys, broker.app\n"
        "sys.exit(any(name.startswith(('opentelemetry.sdk.trace', 'opentelemetry.exporter.otlp', "
        "'broker.telemetry.traces')) for name in sys.modules))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    assert await process.wait() == 0
