"""The one boundary: callers are let in here, and errors become status codes, and nowhere else.

- A BrokerError becomes its status, with ErrorInfo and whatever else helps the caller.
- Anything unexpected becomes INTERNAL with an id that stands in the log beside the cause;
  its text stays here.
- A handler's own cancellation (the caller went away) passes. A CancelledError that comes
  from within would send nothing at all, so that the caller would wait for ever: it is
  told that the broker stops, the only time when this happens.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Protocol, TypeAlias, cast

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from ibgateway.broker.v1 import error_pb2

from broker.errors import BrokerDrainingError, BrokerError, GatewayError, InvalidArgumentError
from broker.rpc import convert
from broker.rpc.auth import Gate
from broker.rpc.caller import Context, Metadata
from broker.runtime.trace import correlation_id

logger = logging.getLogger(__name__)

DOMAIN: Final = "ibgateway.broker.v1"
CORRELATION_KEY: Final = "x-correlation-id"
LONGEST_MESSAGE: Final = 1024

_OK: Final = grpc.StatusCode.OK.name

STATUS_CODES: Final[Mapping[str, grpc.StatusCode]] = {
    "IB_CONN_001": grpc.StatusCode.UNAVAILABLE,
    "IB_CONN_002": grpc.StatusCode.ALREADY_EXISTS,
    "IB_CONN_003": grpc.StatusCode.DEADLINE_EXCEEDED,
    "IB_CONN_004": grpc.StatusCode.UNAVAILABLE,
    "IB_CONN_005": grpc.StatusCode.FAILED_PRECONDITION,
    "IB_CONN_006": grpc.StatusCode.FAILED_PRECONDITION,
    "CIRCUIT_OPEN": grpc.StatusCode.UNAVAILABLE,
    "GATEWAY_DRAINING": grpc.StatusCode.UNAVAILABLE,
    "BROKER_DRAINING": grpc.StatusCode.UNAVAILABLE,
    "STORE_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "SESSION_LIMIT": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "CLIENT_IDS_EXHAUSTED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "SLOW_CONSUMER": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "SESSION_NOT_CONNECTED": grpc.StatusCode.FAILED_PRECONDITION,
    "SESSION_CLOSED": grpc.StatusCode.ABORTED,
    "REQUEST_ID_REUSED": grpc.StatusCode.ALREADY_EXISTS,
    "SESSION_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "GATEWAY_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "INVALID_ARGUMENT": grpc.StatusCode.INVALID_ARGUMENT,
    "UNAUTHENTICATED": grpc.StatusCode.UNAUTHENTICATED,
    "PERMISSION_DENIED": grpc.StatusCode.PERMISSION_DENIED,
    "INTERNAL": grpc.StatusCode.INTERNAL,
}
"""The status of each ErrorReason."""

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Unary = Callable[[Any, Context], Awaitable[Message]]
Stream = Callable[[Any, Context], AsyncIterator[Message | bytes]]


class Tally(Protocol):
    """Counts the rpcs of one method; it is quick, since every rpc pays for it."""

    def begin(self) -> float:
        """One has begun; returns what ``end`` is to be given."""

    def end(self, began: float, code: str) -> None:
        """It has ended with the name of a status code."""

    def refused(self, reason: str) -> None:
        """It ends with the reason of an ErrorInfo."""


class RpcObserver(Protocol):
    """Looks on at every rpc, from when its handler is added."""

    def tally(self, method: str, *, unary: bool) -> Tally:
        """What counts the rpcs of this method."""

    def around(self, method: str, handler: Unary) -> Unary:
        """The handler of a unary method, or one that calls it."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What a caller is told of an error."""

    reason: str
    message: str
    details: Sequence[Message]
    metadata: Mapping[str, str]


class Boundary:
    """Stands between gRPC and every handler of this API; counts those that run.

    Services are added to it as to a server. It wraps their handlers when they are added: gRPC's own
    interceptors cost every rpc a tenth.

    Args:
        server: what it stands before.
        gate: lets callers in.
        observer: looks on.
    """

    def __init__(self, server: grpc.aio.Server, gate: Gate, observer: RpcObserver) -> None:
        self._server = server
        self._gate = gate
        self._observer = observer
        self._running = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    async def wait_quiet(self, timeout: float) -> bool:
        """Wait until no handler runs; returns whether that is so within the seconds given."""
        try:
            async with asyncio.timeout(timeout):
                await self._quiet.wait()
        except TimeoutError:
            logger.error("requests_unfinished", extra={"requests": self._running})
            return False
        return True

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Add a service; called by its generated ``add_…_to_server``."""
        self._server.add_generic_rpc_handlers(
            [_Wrapped(handler, self._wrap) for handler in handlers]
        )

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Called by newer generated code for the same handlers again. Handlers that are registered
        so are served as they are, before those above: none is.
        """

    def _wrap(self, method: str, handler: Handler) -> Handler:
        name = method.rpartition("/")[2]
        tally = self._observer.tally(name, unary=not handler.response_streaming)
        if not handler.response_streaming:
            unary = self._observer.around(name, cast("Unary", handler.unary_unary))
            return grpc.unary_unary_rpc_method_handler(
                self._unary(method, unary, tally),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                # It ends when its caller says so: a stop does not wait for it.
                self._stream(method, cast("Stream", handler.stream_stream), tally, counts=False),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        serialize = handler.response_serializer
        assert serialize is not None
        return grpc.unary_stream_rpc_method_handler(
            self._stream(method, cast("Stream", handler.unary_stream), tally),
            request_deserializer=handler.request_deserializer,
            # What many streams send alike is serialized by the first of them.
            response_serializer=lambda message: (
                message if isinstance(message, bytes) else serialize(message)
            ),
        )

    def _unary(self, method: str, handler: Unary, tally: Tally) -> Unary:
        async def handle(request: Any, context: Context) -> Message:
            self._enter()
            began, code = tally.begin(), _OK
            try:
                metadata = context.invocation_metadata() or ()
                _correlate(metadata, context)
                await self._gate.admit(method, request, metadata, context)
                return await handler(request, context)
            except BaseException as error:
                refusal = _refusal(error)
                code = _code(refusal, tally)
                if refusal is not None:
                    await _abort(context, refusal)
                raise
            finally:
                tally.end(began, code)
                self._leave()

        return handle

    def _stream(self, method: str, handler: Stream, tally: Tally, *, counts: bool = True) -> Stream:
        async def handle(request: Any, context: Context) -> AsyncIterator[Message | bytes]:
            if counts:
                self._enter()
            began, code = tally.begin(), _OK
            try:
                metadata = context.invocation_metadata() or ()
                _correlate(metadata, context)
                admitted = await self._gate.admit(method, request, metadata, context)
                messages = handler(request, context)
                with self._gate.holding(admitted) as leash:
                    while not leash.is_cut:
                        leash.is_waiting = True
                        try:
                            message = await anext(messages)
                        except StopAsyncIteration:
                            return
                        except asyncio.CancelledError:
                            if not leash.has_cancelled():
                                raise
                            break
                        finally:
                            leash.is_waiting = False
                        yield message
                    raise self._gate.revoked(leash, method, context)
            except BaseException as error:
                refusal = _refusal(error)
                code = _code(refusal, tally)
                if refusal is not None:
                    await _abort(context, refusal)
                raise
            finally:
                tally.end(began, code)
                if counts:
                    self._leave()

        return handle

    def _enter(self) -> None:
        self._running += 1
        self._quiet.clear()

    def _leave(self) -> None:
        self._running -= 1
        if not self._running:
            self._quiet.set()


class _Wrapped(grpc.GenericRpcHandler):
    """A service whose handlers are wrapped, each once."""

    def __init__(
        self, service: grpc.GenericRpcHandler, wrap: Callable[[str, Handler], Handler]
    ) -> None:
        self._service = service
        self._wrap = wrap
        self._wrapped: dict[str, Handler] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = self._service.service(handler_call_details)
            if handler is None:
                return None
            wrapped = self._wrapped[method] = self._wrap(method, handler)
        return wrapped


def _correlate(metadata: Metadata, context: Context) -> None:
    given = dict(metadata).get(CORRELATION_KEY)
    if given is None:
        value = _new_id()
    else:
        try:
            told = uuid.UUID(str(given)[:64])
            if told.version != 4:
                raise ValueError
        except ValueError:
            raise InvalidArgumentError(
                [(f"metadata {CORRELATION_KEY}", "must be a UUID of version 4")]
            ) from None
        value = str(told)
    correlation_id.set(value)
    context.set_trailing_metadata(((CORRELATION_KEY, value),))


def _new_id() -> str:
    """A UUID4 (RFC 9562), as text. It names and is no secret; by ``uuid.uuid4`` it costs a
    tenth of an rpc that reads.
    """
    number = random.getrandbits(128)  # nosec B311 # it is no secret
    digits = f"{number:032x}"
    variant = "89ab"[number & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def _refusal(error: BaseException) -> _Refusal | None:
    """What the error means to the caller; None if it is not for us to say: he has gone."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is None or task.cancelling():
            return None
        error = BrokerDrainingError()
    if isinstance(error, BrokerError):
        return _Refusal(error.reason, error.message, _details(error), error.metadata)
    if isinstance(error, Exception):
        error_id = str(uuid.uuid4())
        logger.error("request_failed", exc_info=error, extra={"error_id": error_id})
        message = f"the broker erred; its log says more under error_id {error_id}"
        return _Refusal("INTERNAL", message, (), {"error_id": error_id})
    return None


def _code(refusal: _Refusal | None, tally: Tally) -> str:
    """The name of the status code that an rpc ends with; counts the reason."""
    if refusal is None:
        return grpc.StatusCode.CANCELLED.name
    tally.refused(refusal.reason)
    return STATUS_CODES[refusal.reason].name


def _details(error: BrokerError) -> list[Message]:
    details: list[Message] = []
    if error.retry_after is not None:
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    match error:
        case InvalidArgumentError():
            details.append(
                error_details_pb2.BadRequest(
                    field_violations=[
                        error_details_pb2.BadRequest.FieldViolation(
                            field=field, description=description
                        )
                        for field, description in error.violations
                    ]
                )
            )
        case GatewayError():
            details.append(
                error_pb2.ConnectionFailure(
                    code=error_pb2.ErrorCode.Name(error.code),
                    reason=error.reason,
                    retryable=error.code.retryable,
                    phase=error.phase.value,
                    tws_code=error.tws_code,
                    message=error.message[:LONGEST_MESSAGE],
                    hint=error.hint[:LONGEST_MESSAGE],
                    attempt=error.attempt,
                    time=convert.timestamp(error.time),
                )
            )
    return details


async def _abort(context: Context, refusal: _Refusal) -> NoReturn:
    info = error_details_pb2.ErrorInfo(
        reason=refusal.reason, domain=DOMAIN, metadata=dict(refusal.metadata)
    )
    packed = []
    for detail in (info, *refusal.details):
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    status = rpc_status.to_status(
        status_pb2.Status(
            code=STATUS_CODES[refusal.reason].value[0],
            message=refusal.message[:LONGEST_MESSAGE],
            details=packed,
        )
    )
    trailing = tuple(status.trailing_metadata or ())
    current = correlation_id.get(None)
    if current is not None:
        trailing += ((CORRELATION_KEY, current),)
    await context.abort(status.code, status.details, trailing)
