"""SessionService: decode, call, encode."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, TypeVar
from uuid import UUID

from google.protobuf.message import Message
from ibgateway.broker.v1 import session_pb2, session_service_pb2_grpc
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.events.archive import Entry
from broker.events.hub import Signal
from broker.events.token import NOWHERE, ResumeToken
from broker.events.watch import ResetReason, SnapshotComplete, Told, Watches
from broker.rpc import convert, requests
from broker.rpc.caller import Context, owner
from broker.runtime.admission import Admission
from broker.runtime.manager import SessionManager
from broker.runtime.trace import correlation_id
from broker.session.filters import SessionFilter
from broker.session.model import Session

M = TypeVar("M", bound=Message)

LARGEST_ANSWER: Final = 2**20
"""Bytes of a page's messages. Clients take 4 MiB, unless they are told to take more; one session
with the largest labels has 40 KB."""


@dataclass(frozen=True, slots=True)
class SessionService(session_service_pb2_grpc.SessionServiceServicer):
    """Serves sessions.

    Args:
        admission: opens them.
        manager: uses and ends them.
        watches: what watchers are told.
        now: the time, in UTC.
        stop_grace: seconds between the announcement of a stop and the stop itself, at most.
        encoded: sessions that were encoded already.
    """

    admission: Admission
    manager: SessionManager
    watches: Watches
    now: Callable[[], datetime]
    stop_grace: float
    encoded: convert.Sessions = field(default_factory=convert.Sessions)

    async def OpenSession(
        self, request: pb.OpenSessionRequest, context: Context
    ) -> pb.OpenSessionResponse:
        """See the proto."""
        wanted = requests.open_request(request, owner(context))
        if request.validate_only:
            await self.admission.validate(wanted)
            return pb.OpenSessionResponse()
        opened = await self.admission.open(wanted, correlation_id=UUID(correlation_id.get()))
        return pb.OpenSessionResponse(session=self._encode(opened.session), created=opened.created)

    async def CloseSession(
        self, request: pb.CloseSessionRequest, context: Context
    ) -> pb.CloseSessionResponse:
        """See the proto."""
        session_id = requests.close_request(request)
        session = await self.manager.close(
            session_id,
            actor=owner(context),
            comment=request.reason,
            correlation_id=UUID(correlation_id.get()),
        )
        return pb.CloseSessionResponse(session=convert.session(session))

    async def GetSession(
        self, request: pb.GetSessionRequest, context: Context
    ) -> pb.GetSessionResponse:
        """See the proto."""
        session = await self.manager.catalogue.get(requests.session_id(request.session_id))
        return self._encoded(session)

    async def ListSessions(
        self, request: pb.ListSessionsRequest, context: Context
    ) -> pb.ListSessionsResponse:
        """See the proto."""
        wanted = requests.session_filter(request)
        size, after = requests.page(request)
        sessions = await self.manager.catalogue.list_sessions(
            wanted, include_final=_wants_final(request, wanted), after=after, limit=size + 1
        )
        page = _fitting(self._encode(session) for session in sessions[:size])
        answer = pb.ListSessionsResponse(sessions=page)
        if len(sessions) > len(page):
            last = sessions[len(page) - 1]
            answer.next_page_token = requests.page_token(last.create_time, last.spec.session_id)
        return answer

    async def VerifySession(
        self, request: pb.VerifySessionRequest, context: Context
    ) -> pb.VerifySessionResponse:
        """See the proto."""
        verdict = await self.manager.verify(requests.session_id(request.session_id))
        if verdict.probe is None:
            return pb.VerifySessionResponse(healthy=False, failure=convert.failure(verdict.failure))
        return pb.VerifySessionResponse(
            healthy=True,
            latency=convert.duration(verdict.probe.latency),
            server_time=convert.timestamp(verdict.probe.server_time),
            age=convert.duration(verdict.age),
        )

    async def RenewSession(
        self, request: pb.RenewSessionRequest, context: Context
    ) -> pb.RenewSessionResponse:
        """See the proto."""
        session_id, lease_ttl = requests.renew_request(request)
        session = await self.manager.renew(session_id, lease_ttl, actor=owner(context))
        return pb.RenewSessionResponse(session=self._encode(session))

    async def ListSessionEvents(
        self, request: pb.ListSessionEventsRequest, context: Context
    ) -> pb.ListSessionEventsResponse:
        """See the proto."""
        session_id, size, after = requests.events_page(request)
        events = await self.manager.catalogue.list_events(session_id, after=after, limit=size + 1)
        page = _fitting(convert.event(event) for event in events[:size])
        answer = pb.ListSessionEventsResponse(events=page)
        if len(events) > len(page):
            answer.next_page_token = requests.events_page_token(page[-1].sequence)
        return answer

    async def AcknowledgeData(
        self, request: pb.AcknowledgeDataRequest, context: Context
    ) -> pb.AcknowledgeDataResponse:
        """See the proto."""
        session_id = requests.acknowledge_request(request)
        session = await self.manager.acknowledge(
            session_id, request.generation, actor=owner(context)
        )
        return pb.AcknowledgeDataResponse(session=self._encode(session))

    async def WatchSessions(  # type: ignore[override]  # the boundary takes what is serialized, too
        self, request: pb.WatchSessionsRequest, context: Context
    ) -> AsyncIterator[pb.WatchSessionsResponse | bytes]:
        """See the proto."""
        wanted = requests.session_filter(request)
        token = ResumeToken.decode(request.resume_token) if request.resume_token else None
        # At once: a stream that is resumed may be quiet for long.
        await context.send_initial_metadata(())
        async for told, revision in self.watches.follow(
            wanted, include_final=_wants_final(request, wanted), token=token
        ):
            yield self.message(told, revision)

    def message(self, told: Told, revision: int) -> pb.WatchSessionsResponse | bytes:
        """What a watcher is told, as a message of the stream; an event is serialized already."""
        store_id = self.watches.store_id
        if isinstance(told, Entry):
            return convert.watched(told, store_id, revision)
        message = pb.WatchSessionsResponse(
            resume_token=ResumeToken(store_id, revision).encode(),
            revision=0 if revision == NOWHERE else revision,
        )
        oldest = self.watches.hub.oldest
        match told:
            case Session():
                message.snapshot.CopyFrom(self._encode(told))
            case SnapshotComplete():
                message.snapshot_complete.SetInParent()
            case ResetReason():
                message.reset.CopyFrom(pb.Reset(oldest_revision=oldest, reason=told.value))
            case Signal.IDLE:
                message.bookmark.CopyFrom(pb.Bookmark(oldest_revision=oldest))
            case Signal.DRAINING:
                stop_time = self.now() + timedelta(seconds=self.stop_grace)
                message.draining.CopyFrom(pb.Draining(stop_time=convert.timestamp(stop_time)))
        return message

    def _encode(self, session: Session) -> session_pb2.Session:
        return self._encoded(session).session

    def _encoded(self, session: Session) -> pb.GetSessionResponse:
        return self.encoded.encode(session, self.manager.vitals(session.spec.session_id))


def _fitting(messages: Iterable[M]) -> list[M]:
    """As many of them as one answer may hold, and at least one, if there is any."""
    page: list[M] = []
    room = LARGEST_ANSWER
    for message in messages:
        room -= message.ByteSize()
        if page and room < 0:
            break
        page.append(message)
    return page


def _wants_final(
    request: pb.ListSessionsRequest | pb.WatchSessionsRequest, wanted: SessionFilter
) -> bool:
    return request.include_final or any(state.is_final for state in wanted.states)
