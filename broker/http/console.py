"""The console: one page for people who operate the broker, and what feeds it.

All that it shows is what the API tells, in the JSON mapping of the API's messages: the handlers of
the rpcs that read are asked, not the broker behind them. It changes nothing.

A stream is server-sent events, each ``data`` one JSON document:

- ``watch``: a WatchSessionsResponse; its ``id`` is the resume token, so that whoever comes back
  with ``Last-Event-ID`` misses nothing and is told nothing twice.
- ``past``: after each snapshot, the newest events before it, as far as they are in memory.
- ``broker``, ``gateways``: a GetBrokerInfoResponse, first; a ListGatewaysResponse, often.
- ``health``: the answer of ``/health/ready``, with the broker's time: nothing is silent for longer
  than two of ``PULSE``.
- ``error``: why the stream ends, unless the broker stops.
"""

from __future__ import annotations

import asyncio
import functools
import json
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from ibgateway.broker.v1 import (
    broker_service_pb2,
    gateway_service_pb2,
    session_event_pb2,
    session_service_pb2,
)

from broker.errors import BrokerError, InvalidArgumentError
from broker.events.token import ResumeToken
from broker.events.watch import SnapshotComplete, Watches
from broker.http.guard import Guard, refusal
from broker.http.health import Readiness
from broker.rpc import convert, requests
from broker.rpc.broker_service import BrokerService
from broker.rpc.gateway_service import GatewayService
from broker.rpc.session_service import SessionService
from broker.session.filters import SessionFilter
from broker.session.model import Session

PULSE: Final = 1.0
"""Seconds without news after which a console is told so, and how the gateways are."""

PATIENCE: Final = 30.0
"""Seconds that a browser may take to take what it is sent; it comes back when it is cut."""

PAST: Final = 200
"""How many of the newest events a console that begins is told."""

_PAGE: Final = Path(__file__).with_name("page")
_TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_NOBODY: Final[Any] = None
"""The caller of rpcs that only read, and ask nothing of theirs."""


@dataclass(slots=True)
class Console:
    """Serves the page and its streams.

    Args:
        sessions: reads sessions, their events, and words what watchers are told.
        gateways: reads the gateways.
        broker: tells what the broker is.
        watches: what watchers are told; its ``idle`` is that of the consoles.
        readiness: whether the broker can be used.
        guard: who may look, asked again while a stream goes on.
        limit: how many streams there may be at once.
    """

    sessions: SessionService
    gateways: GatewayService
    broker: BrokerService
    watches: Watches
    readiness: Readiness
    guard: Guard
    limit: int
    _streams: int = field(default=0, init=False)

    def routes(self) -> list[web.RouteDef]:
        """Everything that it answers."""
        files = [
            web.get("/" if path.name == "index.html" else f"/{path.name}", _file(path))
            for path in sorted(_PAGE.iterdir())
        ]
        return [
            *files,
            web.get("/api/watch", self.watch),
            web.get("/api/sessions/{session_id}/events", self.events),
        ]

    async def events(self, request: web.Request) -> web.Response:
        """A page of a session's events, as ListSessionEvents has them: the last ones before the
        sequence ``before``, or the newest. None is left if it is empty.

        Raises:
            InvalidArgumentError: something is not as it must be.
            SessionNotFoundError: there is no record of it.
            StoreUnavailableError: the database does not answer.
        """
        session_id = request.match_info["session_id"]
        size = _number(request, "page_size", 1) or requests.DEFAULT_PAGE
        before = _number(request, "before", 2)
        if before is None:
            wanted = session_service_pb2.GetSessionRequest(session_id=session_id)
            before = (await self.sessions.GetSession(wanted, _NOBODY)).session.sequence + 1
        first = max(before - min(size, requests.LARGEST_PAGE), 1)
        events: list[session_event_pb2.SessionEvent] = []
        token = requests.events_page_token(first - 1)
        # A page of the API ends before it is too long.
        while token and (not events or events[-1].sequence < before - 1):
            page = await self.sessions.ListSessionEvents(
                session_service_pb2.ListSessionEventsRequest(
                    session_id=session_id, page_size=before - first, page_token=token
                ),
                _NOBODY,
            )
            events += page.events
            token = page.next_page_token
        # Where the oldest have expired it goes on with what is newer.
        events = [event for event in events if event.sequence < before]
        answer = session_service_pb2.ListSessionEventsResponse(events=events)
        return web.json_response(_document(answer))

    async def watch(self, request: web.Request) -> web.StreamResponse:
        """Follow everything, from ``Last-Event-ID`` on if it is given.

        Raises:
            InvalidArgumentError: it is no resume token.
        """
        last = request.headers.get("Last-Event-ID")
        token = ResumeToken.decode(last) if last else None
        if self._streams >= self.limit:
            return refusal(
                503,
                "CONSOLE_LIMIT",
                f"{self._streams} consoles are open already; close one, or raise console_limit",
                Retry_After="5",
            )
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        )
        self._streams += 1
        try:
            await response.prepare(request)
            if request.method == "GET":
                await self._tell(request, response, token)
        except (ConnectionError, TimeoutError):
            # The browser has gone, or takes nothing: it comes back with its last token.
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._streams -= 1
        return response

    async def _tell(
        self, request: web.Request, response: web.StreamResponse, token: ResumeToken | None
    ) -> None:
        loop = asyncio.get_running_loop()
        told_at = float("-inf")
        await _send(response, _frame("broker", await self._broker()))
        follow = self.watches.follow(SessionFilter(), include_final=False, token=token)
        async with aclosing(follow) as told:
            try:
                async for item, revision in told:
                    await _send(response, _watched(self.sessions.message(item, revision)))
                    if isinstance(item, SnapshotComplete):
                        await _send(response, self._past(revision))
                    if isinstance(item, Session):
                        continue  # of a snapshot: the rest first
                    if loop.time() - told_at >= PULSE / 2:
                        told_at = loop.time()
                        await _send(response, await self._pulse())
                        if not self.guard.admits(request):
                            return
            except BrokerError as error:
                ending = {"reason": error.reason, "message": error.message}
                await _send(response, _frame("error", ending))

    async def _broker(self) -> Any:
        ask = broker_service_pb2.GetBrokerInfoRequest()
        return _document(await self.broker.GetBrokerInfo(ask, _NOBODY))

    async def _pulse(self) -> bytes:
        ask = gateway_service_pb2.ListGatewaysRequest()
        gateways = await self.gateways.ListGateways(ask, _NOBODY)
        reasons = self.readiness.reasons()
        time = convert.timestamp(self.sessions.now())
        assert time is not None
        health = {
            "time": time.ToJsonString(),
            "status": "not_ready" if reasons else "ready",
            "reasons": reasons,
        }
        return _frame("health", health) + _frame("gateways", _document(gateways))

    def _past(self, revision: int) -> bytes:
        entries = self.watches.hub.remembered(revision, PAST)
        messages = [
            _document(_parsed(self.sessions.message(entry, entry.event.revision)))
            for entry in entries
        ]
        return _frame("past", {"messages": messages})


def _file(path: Path) -> Any:
    body, kind = path.read_bytes(), _TYPES[path.suffix]

    async def serve(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8")

    return serve


def _number(request: web.Request, name: str, least: int) -> int | None:
    """A parameter of the query that is a whole number; None if it is absent."""
    text = request.query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 18 and int(text) >= least):
        raise InvalidArgumentError([(name, f"must be a whole number, from {least} on")])
    return int(text)


async def _send(response: web.StreamResponse, frame: bytes) -> None:
    """Send a frame, as fast as the browser takes it.

    Raises:
        TimeoutError: it takes nothing.
        ConnectionError: it has gone.
    """
    async with asyncio.timeout(PATIENCE):
        await response.write(frame)
    # What a snapshot has to say is much, and others wait.
    await asyncio.sleep(0)


def _watched(message: session_service_pb2.WatchSessionsResponse | bytes) -> bytes:
    return _shared(message) if isinstance(message, bytes) else _watch_frame(message)


@functools.lru_cache(maxsize=256)
def _shared(serialized: bytes) -> bytes:
    """The frame of an event, made once for all consoles: what is serialized is shared, too."""
    return _watch_frame(_parsed(serialized))


def _watch_frame(message: session_service_pb2.WatchSessionsResponse) -> bytes:
    return f"id: {message.resume_token}\n".encode() + _frame("watch", _document(message))


def _parsed(
    message: session_service_pb2.WatchSessionsResponse | bytes,
) -> session_service_pb2.WatchSessionsResponse:
    if isinstance(message, bytes):
        return session_service_pb2.WatchSessionsResponse.FromString(message)
    return message


def _frame(kind: str, data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def _document(message: Message) -> dict[str, Any]:
    """A message as the JSON mapping has it, with the names of the contract: as the commands do."""
    found: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return found
