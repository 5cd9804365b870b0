"""A peer over TCP that answers as a test says. It speaks the contract; it is no broker."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf import any_pb2, message_factory
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2

from ibgateway.broker.v1 import (
    broker_service_pb2,
    error_pb2,
    gateway_service_pb2,
    session_event_pb2,
    session_pb2,
    session_service_pb2,
)
from ibgateway.broker.v1 import session_service_pb2 as pb
from live_broker import free_port

SESSION_ID = "11111111-1111-4111-8111-111111111111"
OTHER_ID = "22222222-2222-4222-8222-222222222222"
SERVICES = {
    service.full_name: service
    for module in (session_service_pb2, gateway_service_pb2, broker_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
}
STREAM_RPCS = {"WatchSessions"}


@dataclass(frozen=True)
class Refusal:
    """An error as the broker packs it; without a reason as a proxy would send it."""

    code: grpc.StatusCode
    reason: str = ""
    message: str = "refused"
    metadata: Mapping[str, str] | None = None
    retry_after: float | None = None
    violations: Sequence[tuple[str, str]] = ()
    failure: error_pb2.ConnectionFailure | None = None
    domain: str = "ibgateway.broker.v1"
    correlation_id: str = ""

    def trailing(self) -> tuple[tuple[str, str | bytes], ...]:
        """The trailing metadata."""
        details: list[Message] = []
        if self.reason:
            details.append(
                error_details_pb2.ErrorInfo(
                    reason=self.reason, domain=self.domain, metadata=dict(self.metadata or {})
                )
            )
        if self.retry_after is not None:
            delay = Duration()
            delay.FromNanoseconds(int(self.retry_after * 1e9))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        if self.violations:
            details.append(
                error_details_pb2.BadRequest(
                    field_violations=[
                        error_details_pb2.BadRequest.FieldViolation(field=field, description=text)
                        for field, text in self.violations
                    ]
                )
            )
        if self.failure is not None:
            details.append(self.failure)
        result: tuple[tuple[str, str | bytes], ...] = ()
        if details:
            status = status_pb2.Status(code=self.code.value[0], message=self.message)
            for detail in details:
                packed = any_pb2.Any()
                packed.Pack(detail)
                status.details.append(packed)
            result = (("grpc-status-details-bin", status.SerializeToString()),)
        if self.correlation_id:
            result += (("x-correlation-id", self.correlation_id),)
        return result


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    rpc: str
    request: Any
    metadata: Mapping[str, str | bytes]
    timeout: float | None


Answer = Any
"""A message, a Refusal, or an async function of request and context; for a stream a generator."""


class ScriptedBroker:
    """Listens on loopback, on one port for its whole life; `stop` and `start` restart it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.asked: list[Asked] = []
        self.ended_streams = 0
        self.open_streams = 0
        self._answers: dict[str, list[Answer]] = {}
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def on(self, rpc: str, *answers: Answer) -> None:
        """Answer an rpc, one answer after the other; the last one again and again."""
        self._answers[rpc] = list(answers)

    def requests(self, rpc: str) -> list[Any]:
        """The requests of an rpc that came so far."""
        return [asked.request for asked in self.asked if asked.rpc == rpc]

    async def start(self) -> None:
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        self._server.add_generic_rpc_handlers((_Handler(self),))
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop(0)

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def answer_to(self, rpc: str) -> Answer | None:
        answers = self._answers.get(rpc)
        if not answers:
            return None
        return answers.pop(0) if len(answers) > 1 else answers[0]


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, broker: ScriptedBroker) -> None:
        self._broker = broker

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        service, _, rpc = details.method.lstrip("/").partition("/")
        if service == "grpc.health.v1.Health":
            return grpc.unary_unary_rpc_method_handler(self._health)
        if service not in SERVICES:
            return None
        method = SERVICES[service].methods_by_name[rpc]
        request = message_factory.GetMessageClass(method.input_type)
        response = message_factory.GetMessageClass(method.output_type)
        wrap, handle = (
            (grpc.unary_stream_rpc_method_handler, self._stream)
            if rpc in STREAM_RPCS
            else (grpc.unary_unary_rpc_method_handler, self._unary)
        )
        return wrap(
            handle(rpc, response),
            request_deserializer=request.FromString,
            response_serializer=response.SerializeToString,
        )

    def _note(self, rpc: str, request: Any, context: Any) -> None:
        metadata = dict(context.invocation_metadata() or ())
        self._broker.asked.append(Asked(rpc, request, metadata, context.time_remaining()))

    async def _health(self, request: bytes, context: Any) -> bytes:
        self._note("Check", request, context)
        answer = self._broker.answer_to("Check")
        if isinstance(answer, Refusal):
            await _abort(context, answer)
        return b"\x08\x01" if answer is None else answer

    def _unary(self, rpc: str, response: Any) -> Callable[[Any, Any], Awaitable[Any]]:
        async def handle(request: Any, context: Any) -> Any:
            self._note(rpc, request, context)
            answer = self._broker.answer_to(rpc)
            if callable(answer):
                answer = await answer(request, context)
            if isinstance(answer, Refusal):
                await _abort(context, answer)
            return response() if answer is None else answer

        return handle

    def _stream(self, rpc: str, _: Any) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def handle(request: Any, context: Any) -> AsyncIterator[Any]:
            self._note(rpc, request, context)
            self._broker.open_streams += 1
            try:
                answer = self._broker.answer_to(rpc) or quiet()
                async for message in answer(request, context):
                    if isinstance(message, Refusal):
                        await _abort(context, message)
                    yield message
            finally:
                self._broker.open_streams -= 1
                self._broker.ended_streams += 1

        return handle


async def _abort(context: Any, refusal: Refusal) -> None:
    await context.abort(refusal.code, refusal.message, refusal.trailing())


# -- messages ----------------------------------------------------------------------


def seconds(value: float) -> Duration:
    result = Duration()
    result.FromNanoseconds(round(value * 1e9))
    return result


def moment(value: int) -> Timestamp:
    return Timestamp(seconds=value)


def session(
    session_id: str = SESSION_ID,
    *,
    state: str = "CONNECTED",
    sequence: int = 2,
    lease_ttl: float | None = None,
    in_event: bool = False,
    **fields: Any,
) -> session_pb2.Session:
    """A session; in an event it does not say when its lease runs out."""
    if lease_ttl is not None:
        fields["lease_ttl"] = seconds(lease_ttl)
        if not in_event:
            fields["lease_expire_time"] = moment(2_000_000_000)
    return session_pb2.Session(
        **{
            "session_id": session_id,
            "gateway_id": "default",
            "client_id": 7,
            "state": f"SESSION_STATE_{state}",
            "sequence": sequence,
            "revision": sequence,
            "generation": 1,
            "accounts": ["DU1"],
            **fields,
        }
    )


def token(revision: int) -> str:
    return f"t{revision}"


def snapshot(value: session_pb2.Session) -> pb.WatchSessionsResponse:
    return pb.WatchSessionsResponse(resume_token="nowhere", snapshot=value)


def complete(revision: int) -> pb.WatchSessionsResponse:
    return pb.WatchSessionsResponse(
        resume_token=token(revision), revision=revision, snapshot_complete=pb.SnapshotComplete()
    )


def event(
    revision: int,
    sequence: int,
    *,
    session_id: str = SESSION_ID,
    persisted: bool = True,
    state: str = "CONNECTED",
    before: int = 0,
    **fields: Any,
) -> pb.WatchSessionsResponse:
    """An event; of one that is not persisted, ``revision`` is that of the last persisted one."""
    return pb.WatchSessionsResponse(
        resume_token=token(revision),
        revision=revision,
        event=session_event_pb2.SessionEvent(
            revision=revision if persisted else 0,
            sequence=sequence,
            session_id=session_id,
            persisted=persisted,
            session=session(session_id, state=state, sequence=sequence, in_event=True, **fields),
            transition=session_event_pb2.Transition(to=f"SESSION_STATE_{state}", reason="SCRIPTED"),
        ),
    )


def bookmark(revision: int) -> pb.WatchSessionsResponse:
    return pb.WatchSessionsResponse(
        resume_token=token(revision), revision=revision, bookmark=pb.Bookmark(oldest_revision=1)
    )


def reset(reason: str = "TOKEN_TOO_OLD") -> pb.WatchSessionsResponse:
    return pb.WatchSessionsResponse(
        resume_token="nowhere", reset=pb.Reset(oldest_revision=9, reason=reason)
    )


def draining(revision: int) -> pb.WatchSessionsResponse:
    return pb.WatchSessionsResponse(
        resume_token=token(revision),
        revision=revision,
        draining=pb.Draining(stop_time=moment(2_000_000_000)),
    )


# -- streams -----------------------------------------------------------------------


def told(*messages: Any) -> Callable[[Any, Any], AsyncIterator[Any]]:
    """A stream of these messages; its end is OK, unless the last one is a Refusal."""

    async def stream(_: Any, __: Any) -> AsyncIterator[Any]:
        for message in messages:
            yield message

    return stream


def quiet(*messages: Any) -> Callable[[Any, Any], AsyncIterator[Any]]:
    """A stream of these messages, and then nothing more, for ever."""

    async def stream(_: Any, __: Any) -> AsyncIterator[Any]:
        for message in messages:
            yield message
        await asyncio.Event().wait()

    return stream


async def open_and_quiet(_: Any, context: Any) -> AsyncIterator[Any]:
    """A stream that is open, and says nothing."""
    await context.send_initial_metadata(())
    await asyncio.sleep(60)
    yield bookmark(10)


def idle(*messages: Any, revision: int, every: float = 0.05) -> Callable[[Any, Any], Any]:
    """A stream of these messages, and then a bookmark now and then."""

    async def stream(_: Any, __: Any) -> AsyncIterator[Any]:
        for message in messages:
            yield message
        while True:
            await asyncio.sleep(every)
            yield bookmark(revision)

    return stream


def controlled(queue: asyncio.Queue[Any], *messages: Any) -> Callable[[Any, Any], Any]:
    """A stream of these messages, and then of whatever is put into a queue."""

    async def stream(_: Any, __: Any) -> AsyncIterator[Any]:
        for message in messages:
            yield message
        while True:
            yield await queue.get()

    return stream


async def eventually(check: Callable[[], Any], timeout: float = 20.0) -> Any:
    """Wait until a check gives something true; the only way in which tests wait."""
    async with asyncio.timeout(timeout):
        while True:
            result = check()
            if asyncio.iscoroutine(result):
                result = await result
            if result:
                return result
            await asyncio.sleep(0.005)


def kinds(items: Iterable[Any]) -> list[str]:
    """The names of the classes of items."""
    return [type(item).__name__ for item in items]


async def take(source: AsyncIterator[Any], count: int, timeout: float = 20.0) -> list[Any]:
    """The next items."""
    async with asyncio.timeout(timeout):
        return [await anext(source) for _ in itertools.repeat(None, count)]
