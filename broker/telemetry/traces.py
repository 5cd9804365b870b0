"""Traces: from a caller's rpc to the dials and the writes that it causes, to an OTLP collector.

A span follows the context of the task that does the work: a session's task is made by the request
that opens it and inherits its span. The runtime only says what has ended and how long it took, so
that a span of it is made in retrospect, and nothing is paid while nobody wants traces.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import UUID

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from broker.errors import BrokerError, StartupError
from broker.gateway.base import Dialled
from broker.runtime.observer import Nobody
from broker.runtime.trace import correlation_id
from broker.session.model import Session, SessionEvent, SessionState, Transition

SPANNED: Final = ("OpenSession", "CloseSession", "VerifySession")
"""The rpcs that talk to a Gateway. A span on every rpc would cost a third of them."""

EXPORT_TIMEOUT: Final = 5.0
"""Seconds that the collector may take, and that a stop waits for it."""

EXPORT_INTERVAL: Final = 1.0
"""Seconds between two sendings."""

_SERVICE: Final = "ibgateway.broker.v1.SessionService"

Unary = Callable[[Any, Any], Awaitable[Any]]


class Traces(Nobody):
    """Makes spans and sends them, in a thread of OpenTelemetry's, until closed.

    Args:
        endpoint: the collector's OTLP over gRPC: ``http://HOST:PORT``, or https for TLS.
        version: that of the broker.
        instance: tells brokers apart.

    Raises:
        StartupError: the extra that can send traces is not installed.
    """

    def __init__(self, endpoint: str, *, version: str, instance: UUID) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
                OTLPSpanExporter,
            )
        except ImportError:
            raise StartupError(
                "traces_endpoint is set, but what sends traces is not installed; "
                "run: pip install 'gateway-broker[traces]', or unset it"
            ) from None
        self._exporter = OTLPSpanExporter(endpoint, timeout=EXPORT_TIMEOUT)
        resource = Resource.create(
            {
                "service.name": "gateway-broker",
                "service.version": version,
                "service.instance.id": str(instance),
            }
        )
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(
            BatchSpanProcessor(self._exporter, schedule_delay_millis=1e3 * EXPORT_INTERVAL)
        )
        self._tracer = self._provider.get_tracer("gateway_broker", version)
        self._outages: dict[UUID, Span] = {}

    async def close(self) -> None:
        """Send what is left, as far as the collector takes it in time."""
        for span in self._outages.values():
            span.end()
        loop = asyncio.get_running_loop()
        ending = loop.run_in_executor(None, self._provider.shutdown)
        done, _ = await asyncio.wait({ending}, timeout=EXPORT_TIMEOUT)
        if not done:
            # It goes on trying for each batch that is left, unless it is told not to.
            self._exporter.shutdown()
        await ending

    def around(self, method: str, handler: Unary) -> Unary:
        """The handler of an rpc, in a span if the rpc has one; the caller's trace goes on in it."""
        if method not in SPANNED:
            return handler

        async def traced(request: Any, context: Any) -> Any:
            carrier = {
                key: value
                for key, value in context.invocation_metadata() or ()
                if isinstance(value, str)
            }
            with self._tracer.start_as_current_span(
                f"{_SERVICE}/{method}",
                context=TraceContextTextMapPropagator().extract(carrier, Context()),
                kind=SpanKind.SERVER,
                attributes={
                    "rpc.system": "grpc",
                    "rpc.service": _SERVICE,
                    "rpc.method": method,
                    "correlation_id": correlation_id.get(),
                },
                record_exception=False,
                set_status_on_exception=False,
            ) as span:
                try:
                    return await handler(request, context)
                except BrokerError as error:
                    _fail(span, error.reason)
                    raise
                except BaseException as error:
                    _fail(span, type(error).__name__)
                    raise

        return traced

    # -- what is told ----------------------------------------------------------------

    def dialled(self, dial: Dialled) -> None:
        """A span for the dial, below the request or the outage that it is for."""
        span = self._past(
            "connect",
            dial.duration,
            {
                "server.address": dial.host,
                "server.port": dial.port,
                "gateway_id": dial.gateway_id,
                "client_id": dial.client_id,
            },
        )
        began = time.time_ns() - int(dial.duration * 1e9)
        for phase, after in dial.phases:
            span.add_event(phase.value, timestamp=began + int(after * 1e9))
        if dial.server_version is not None:
            span.set_attribute("server_version", dial.server_version)
        if dial.error is not None:
            _fail(span, dial.error.reason)
            span.set_attribute("phase", dial.error.phase.value)
            span.set_attribute("tws_code", dial.error.tws_code)
        span.end()

    def stored(self, operation: str, duration: float, *, failed: bool) -> None:
        """A span for a statement that a request waits for."""
        if trace.get_current_span().is_recording():
            span = self._past(operation, duration, _sql(operation))
            if failed:
                _fail(span, "STORE_UNAVAILABLE")
            span.end()

    def written(self, events: int, duration: float) -> None:
        """A span for the transaction that has put a session's events on record."""
        if trace.get_current_span().get_span_context().is_valid:
            attributes = {**_sql("append_events"), "events": events}
            self._past("append_events", duration, attributes).end()

    def seen(self, before: Session | None, event: SessionEvent) -> None:  # noqa: ARG002
        """An outage ends when its session is connected again, or ends itself."""
        change = event.change
        if isinstance(change, Transition) and change.source is SessionState.RECONNECTING:
            span = self._outages.pop(event.session_id, None)
            if span is not None:
                span.set_attribute("outcome", change.target.value)
                span.end()

    def outage_began(self, session: Session, correlation_id: UUID) -> None:
        """A trace of its own: the request that opened the session may be long gone."""
        last = self._outages.pop(session.spec.session_id, None)
        if last is not None:
            last.end()
        span = self._tracer.start_span(
            "outage",
            context=Context(),
            attributes={
                "session_id": str(session.spec.session_id),
                "gateway_id": session.spec.gateway_id,
                "correlation_id": str(correlation_id),
            },
        )
        self._outages[session.spec.session_id] = span
        contexts.attach(trace.set_span_in_context(span, Context()))

    def settled(self) -> None:
        """What the task does from now on belongs to no trace."""
        contexts.attach(Context())

    def _past(self, name: str, duration: float, attributes: dict[str, Any]) -> Span:
        """A span of what has just ended; to be ended at once."""
        return self._tracer.start_span(
            name,
            kind=SpanKind.CLIENT,
            start_time=time.time_ns() - int(duration * 1e9),
            attributes={**attributes, **_cause()},
        )


def _fail(span: Span, reason: str) -> None:
    span.set_attribute("error.type", reason)
    span.set_status(Status(StatusCode.ERROR))


def _cause() -> dict[str, str]:
    cause = correlation_id.get(None)
    return {} if cause is None else {"correlation_id": cause}


def _sql(operation: str) -> dict[str, Any]:
    return {"db.system.name": "postgresql", "db.operation.name": operation}
