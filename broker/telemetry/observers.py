"""What of telemetry is switched on, as the broker sees it: one observer, and one of rpcs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from broker.config import Settings
from broker.errors import ErrorCode, GatewayError
from broker.gateway.base import Dialled
from broker.runtime.observer import Observer
from broker.session.model import Session, SessionEvent
from broker.telemetry.metrics import Metrics
from broker.telemetry.readings import Readings
from broker.telemetry.rpcs import MethodTally, NoTally

if TYPE_CHECKING:
    from broker.telemetry.traces import Traces, Unary


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Metrics and traces, each None if it is off.

    Args:
        observer: tells those that are on.
    """

    metrics: Metrics | None
    traces: Traces | None
    observer: Observer

    async def run(self, readings: Readings, left: Sequence[Session]) -> None:
        """Measure until cancelled, if metrics are on.

        Args:
            readings: what is read at a scrape.
            left: the sessions of a broker before this one.
        """
        if self.metrics is not None:
            await self.metrics.run(readings, left)

    def tally(self, method: str, *, unary: bool) -> MethodTally | NoTally:
        """What counts the rpcs of a method."""
        return self.metrics.rpcs.of(method, unary=unary) if self.metrics else NoTally()

    def around(self, method: str, handler: Unary) -> Unary:
        """The handler of a unary method, with what is to be around it."""
        return self.traces.around(method, handler) if self.traces else handler


@asynccontextmanager
async def telemetry(
    settings: Settings, *, version: str, instance: UUID, now: Callable[[], datetime]
) -> AsyncIterator[Telemetry]:
    """Run what is switched on.

    Raises:
        StartupError: traces are wanted, and what sends them is not installed.
    """
    metrics = (
        Metrics(list(settings.gateways), version=version, now=now) if settings.metrics else None
    )
    traces = None
    if settings.traces_endpoint is not None:
        # Half a second of imports that only who wants traces pays for.
        from broker.telemetry.traces import Traces  # noqa: PLC0415

        traces = Traces(settings.traces_endpoint, version=version, instance=instance)
    on: list[Observer] = [each for each in (metrics, traces) if each is not None]
    try:
        yield Telemetry(metrics, traces, on[0] if len(on) == 1 else Observers(on))
    finally:
        if metrics is not None:
            metrics.close()
        if traces is not None:
            await traces.close()


class Observers:
    """Several, as one.

    Args:
        observers: are told in this order.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def dialled(self, dial: Dialled) -> None:
        """Tell each."""
        for observer in self._observers:
            observer.dialled(dial)

    def retried(self, gateway_id: str, code: ErrorCode) -> None:
        """Tell each."""
        for observer in self._observers:
            observer.retried(gateway_id, code)

    def lost(self, gateway_id: str, error: GatewayError) -> None:
        """Tell each."""
        for observer in self._observers:
            observer.lost(gateway_id, error)

    def answered(self, gateway_id: str, latency: float) -> None:
        """Tell each."""
        for observer in self._observers:
            observer.answered(gateway_id, latency)

    def seen(self, before: Session | None, event: SessionEvent) -> None:
        """Tell each."""
        for observer in self._observers:
            observer.seen(before, event)

    def stored(self, operation: str, duration: float, *, failed: bool) -> None:
        """Tell each."""
        for observer in self._observers:
            observer.stored(operation, duration, failed=failed)

    def written(self, events: int, duration: float) -> None:
        """Tell each."""
        for observer in self._observers:
            observer.written(events, duration)

    def outage_began(self, session: Session, correlation_id: UUID) -> None:
        """Tell each."""
        for observer in self._observers:
            observer.outage_began(session, correlation_id)

    def settled(self) -> None:
        """Tell each."""
        for observer in self._observers:
            observer.settled()
