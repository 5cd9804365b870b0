"""Metrics, through OpenTelemetry: what happens is told and counted, what is gets read at a scrape.

Counters are plain numbers that OpenTelemetry reads: adding to one of its own takes 5 µs, and shows
nothing before the first time. Its histograms are recorded at once. Rpcs are counted beside it, in
``rpcs``, since every one of them pays.
"""

from __future__ import annotations

import asyncio
import functools
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Histogram, Observation
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from broker.errors import ErrorCode, GatewayError
from broker.gateway.base import Dialled
from broker.runtime.observer import Nobody
from broker.session.model import CloseReason, Session, SessionEvent, SessionState, Transition
from broker.store.codec import KINDS
from broker.telemetry import metric_table as table
from broker.telemetry.metric_table import Kind, Metric
from broker.telemetry.readings import Reading, Readings
from broker.telemetry.rpcs import RpcTallies

LAG_INTERVAL: Final = 0.25
"""Seconds between two looks at how late the event loop is."""

_BROKERS_OWN: Final = ("BROKER_RESTARTED", "BROKER_STOPPING", "BROKER_ERROR")
"""Reasons of a lost link that are no fault of the Gateway's."""


@dataclass(frozen=True, slots=True)
class _Outage:
    gateway_id: str
    cause: str
    since: datetime


class Metrics(Nobody):
    """All metrics of one broker.

    Args:
        gateways: their names.
        version: that of the broker.
        now: the time, in UTC.

    Attributes:
        rpcs: counts them.
    """

    def __init__(
        self,
        gateways: Sequence[str],
        *,
        version: str,
        now: Callable[[], datetime],
    ) -> None:
        self._now = now
        self._registry = CollectorRegistry()
        self._reader = PrometheusMetricReader(
            disable_target_info=True, scope_info_enabled=False, registry=self._registry
        )
        self._provider = MeterProvider(metric_readers=[self._reader], shutdown_on_exit=False)
        self._meter = self._provider.get_meter("gateway_broker")
        ProcessCollector(registry=self._registry)
        self.rpcs = RpcTallies()
        self._registry.register(self.rpcs)
        self._counts = {metric: dict(_zeros(metric, gateways)) for metric in _COUNTED}
        for metric in _COUNTED:
            if metric is not table.OUTAGE_SECONDS:
                self._read(metric, functools.partial(_items, self._counts[metric]))
        self._histograms: dict[Metric, Histogram] = {
            metric: self._meter.create_histogram(
                metric.name,
                description=metric.meaning,
                explicit_bucket_boundaries_advisory=metric.buckets,
            )
            for metric in table.METRICS
            if metric.kind is Kind.HISTOGRAM and metric is not table.RPC_DURATION
        }
        self._outages: dict[UUID, _Outage] = {}
        self._read(table.OUTAGE_SECONDS, self._outage_seconds)
        self._read(table.WATCHERS_CUT, lambda: [(self.rpcs.refusals["SLOW_CONSUMER"], ())])
        self._read(table.BUILD_INFO, lambda: [(1, (version, platform.python_version()))])

    async def run(self, readings: Readings, left: Sequence[Session]) -> None:
        """Measure until cancelled.

        Args:
            readings: what is read at a scrape.
            left: the sessions of a broker before this one, whose seconds of outage are not ours.
        """
        for metric, reader in readings.readers().items():
            self._read(metric, reader)
        for session in left:
            if session.state is SessionState.RECONNECTING:
                self._outages.setdefault(
                    session.spec.session_id,
                    _Outage(session.spec.gateway_id, _BROKERS_OWN[0], self._now()),
                )
        await self._watch_loop()

    def exposition(self) -> tuple[bytes, str]:
        """All metrics as they are now, and their content type: what Prometheus scrapes.

        To be called on the event loop, whose objects it reads; it takes some milliseconds.
        """
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    async def _watch_loop(self) -> None:
        """Measure how late timers are, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_INTERVAL
            await asyncio.sleep(LAG_INTERVAL)
            self._record(table.EVENT_LOOP_LAG, max(loop.time() - due, 0.0))

    def close(self) -> None:
        """Let go of what OpenTelemetry holds."""
        self._provider.shutdown()

    # -- what is told ----------------------------------------------------------------

    def dialled(self, dial: Dialled) -> None:
        """Count a dial, and what came of it."""
        name = dial.gateway_id
        if dial.error is not None:
            self._count(table.CONNECTIONS, name, "failure")
            self._count(table.CONNECTION_ERRORS, name, dial.error.code.error_type)
            return
        self._count(table.CONNECTIONS, name, "success")
        self._record(table.CONNECTION_DURATION, dial.duration, name)

    def retried(self, gateway_id: str, code: ErrorCode) -> None:
        """Count a retry."""
        self._count(table.RETRY_ATTEMPTS, gateway_id, code.error_type)

    def lost(self, gateway_id: str, error: GatewayError) -> None:
        """Count a lost link."""
        self._count(table.CONNECTION_ERRORS, gateway_id, error.code.error_type)

    def answered(self, gateway_id: str, latency: float) -> None:
        """Record a heartbeat."""
        self._record(table.HEARTBEAT_LATENCY, latency * 1e3, gateway_id)

    def stored(self, operation: str, duration: float, *, failed: bool) -> None:
        """Record a statement."""
        self._record(table.STORE_OPERATION, duration, operation)
        if failed:
            self._count(table.STORE_ERRORS, operation)

    def seen(self, before: Session | None, event: SessionEvent) -> None:
        """Count an event, and what it says of its session."""
        self._count(table.EVENTS, KINDS[type(event.change)])
        self._record(table.EVENT_LAG, max((self._now() - event.time).total_seconds(), 0.0))
        if isinstance(event.change, Transition):
            self._moved(before, event, event.change)

    def _moved(self, before: Session | None, event: SessionEvent, move: Transition) -> None:
        session = event.session
        if before is not None:
            lasted = max((event.time - before.state_time).total_seconds(), 0.0)
            self._record(table.SESSION_STATE_DURATION, lasted, move.source.value)
        outage = self._outages.pop(event.session_id, None)
        if outage is not None:
            lasted = (event.time - outage.since).total_seconds()
            self._count(table.OUTAGE_SECONDS, outage.gateway_id, outage.cause, by=max(lasted, 0.0))
        if move.target is SessionState.RECONNECTING:
            failure = session.last_failure
            own = move.reason in _BROKERS_OWN or failure is None
            cause = move.reason if own or failure is None else failure.code.reason
            self._outages[event.session_id] = _Outage(session.spec.gateway_id, cause, event.time)
        elif move.target is SessionState.FAILED:
            failure = session.last_failure
            self._count(table.SESSIONS_ENDED, failure.code.reason if failure else "UNKNOWN")
        elif move.target is SessionState.DISCONNECTED:
            self._count(table.SESSIONS_ENDED, str(session.close_reason))

    # -- what is read ----------------------------------------------------------------

    def _outage_seconds(self) -> Iterator[Reading]:
        """What has ended, and what lasts."""
        found = dict(self._counts[table.OUTAGE_SECONDS])
        now = self._now()
        for outage in self._outages.values():
            key = (outage.gateway_id, outage.cause)
            lasted = max((now - outage.since).total_seconds(), 0.0)
            found[key] = found.get(key, 0.0) + lasted
        return _items(found)

    def _count(self, metric: Metric, *labels: str, by: float = 1) -> None:
        counts = self._counts[metric]
        counts[labels] = counts.get(labels, 0) + by

    def _record(self, metric: Metric, value: float, *labels: str) -> None:
        self._histograms[metric].record(value, dict(zip(metric.labels, labels, strict=True)))

    def _read(self, metric: Metric, reader: Callable[[], Iterable[Reading]]) -> None:
        create = (
            self._meter.create_observable_counter
            if metric.kind is Kind.COUNTER
            else self._meter.create_observable_gauge
        )

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [
                Observation(value, dict(zip(metric.labels, labels, strict=True)))
                for value, labels in reader()
            ]

        create(metric.name, callbacks=[observe], description=metric.meaning)


_COUNTED: Final = (
    table.CONNECTIONS,
    table.CONNECTION_ERRORS,
    table.RETRY_ATTEMPTS,
    table.SESSIONS_ENDED,
    table.EVENTS,
    table.STORE_ERRORS,
    table.OUTAGE_SECONDS,
)


def _zeros(metric: Metric, gateways: Sequence[str]) -> Iterator[tuple[tuple[str, ...], float]]:
    """The label values that are known from the start: a counter that appears is no rise."""
    codes = [code.reason for code in ErrorCode]
    known: Mapping[str, Sequence[str]] = {
        "status": ("success", "failure"),
        "error_type": [code.error_type for code in ErrorCode],
        "reason": [*CloseReason, *codes],
        "kind": list(KINDS.values()),
        "cause": [*codes, *_BROKERS_OWN],
        "operation": ("append_events", "create_connection", "update_connection"),
    }
    [last] = metric.labels[-1:]
    prefixes = [(name,) for name in gateways] if metric.labels[0] == "gateway" else [()]
    for prefix in prefixes:
        for value in known[last]:
            yield (*prefix, str(value)), 0.0


def _items(counts: Mapping[tuple[str, ...], float]) -> Iterator[Reading]:
    return ((value, labels) for labels, value in counts.items())
