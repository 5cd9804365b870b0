"""SessionService: decode, call, encode."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from ibgateway.broker.v1 import session_pb2, session_service_pb2_grpc
from ibgateway.broker.v1 import session_service_pb2 as pb

from broker.events.hub import Hub, Signal
from broker.events.token import ResumeToken
from broker.rpc import convert, requests
from broker.rpc.boundary import correlation_id
from broker.rpc.caller import Context, owner
from broker.runtime.manager import SessionManager
from broker.session.filters import SessionFilter
from broker.session.model import Session
from broker.store.base import PageKey, Store

SNAPSHOT_PAGE: Final = 500
NOTHING: Final = 0
"""The revision in the token of a stream whose snapshot is not complete: it has nothing yet."""


@dataclass(frozen=True, slots=True)
class SessionService(session_service_pb2_grpc.SessionServiceServicer):
    """Serves sessions.

    Args:
        manager: opens, finds and ends them.
        hub: what watchers see.
        store: the record, for final sessions in a snapshot.
        now: the time, in UTC.
        bookmark_interval: seconds without a message after which an idle watcher is told so.
        stop_grace: seconds between the announcement of a stop and the stop itself, at most.
        encoded: sessions that were encoded already.
    """

    manager: SessionManager
    hub: Hub
    store: Store
    now: Callable[[], datetime]
    bookmark_interval: float
    stop_grace: float
    encoded: convert.Sessions = field(default_factory=convert.Sessions)

    async def OpenSession(
        self, request: pb.OpenSessionRequest, context: Context
    ) -> pb.OpenSessionResponse:
        """See the proto."""
        wanted = requests.open_request(request, owner(context))
        if request.validate_only:
            await self.manager.validate(wanted)
            return pb.OpenSessionResponse()
        session = await self.manager.open(wanted, correlation_id=correlation_id.get())
        return pb.OpenSessionResponse(session=convert.session(session), created=True)

    async def CloseSession(
        self, request: pb.CloseSessionRequest, context: Context
    ) -> pb.CloseSessionResponse:
        """See the proto."""
        session_id = requests.close_request(request)
        session = await self.manager.close(
            session_id,
            actor=owner(context),
            comment=request.reason,
            correlation_id=correlation_id.get(),
        )
        return pb.CloseSessionResponse(session=convert.session(session))

    async def GetSession(
        self, request: pb.GetSessionRequest, context: Context
    ) -> pb.GetSessionResponse:
        """See the proto."""
        session = await self.manager.get(requests.session_id(request.session_id))
        return pb.GetSessionResponse(session=self._encode(session))

    async def ListSessions(
        self, request: pb.ListSessionsRequest, context: Context
    ) -> pb.ListSessionsResponse:
        """See the proto."""
        wanted = requests.session_filter(request)
        size, after = requests.page(request)
        sessions = await self.manager.list_sessions(
            wanted, include_final=_wants_final(request, wanted), after=after, limit=size + 1
        )
        page = sessions[:size]
        return pb.ListSessionsResponse(
            sessions=[self._encode(session) for session in page],
            next_page_token=requests.page_token(page[-1].create_time, page[-1].spec.session_id)
            if len(sessions) > size
            else "",
        )

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

    async def AcknowledgeData(
        self, request: pb.AcknowledgeDataRequest, context: Context
    ) -> pb.AcknowledgeDataResponse:
        """See the proto."""
        session_id = requests.acknowledge_request(request)
        session = await self.manager.acknowledge(
            session_id, request.generation, actor=owner(context)
        )
        return pb.AcknowledgeDataResponse(session=self._encode(session))

    async def WatchSessions(
        self, request: pb.WatchSessionsRequest, context: Context
    ) -> AsyncIterator[pb.WatchSessionsResponse]:
        """See the proto."""
        wanted = requests.session_filter(request)
        if request.resume_token:
            token = ResumeToken.decode(request.resume_token)
            known = token.store_id == self.store.store_id and token.revision <= self.hub.revision
            yield self._message(
                NOTHING,
                reset=pb.Reset(
                    oldest_revision=1,
                    reason="TOKEN_NOT_CONTINUED" if known else "TOKEN_UNKNOWN",
                ),
            )
        # The snapshot is that of one instant; what happens while it is sent follows as events.
        position = self.hub.revision
        live = [session for session in self.hub.sessions.values() if wanted.matches(session)]
        for session in live:
            yield self._message(NOTHING, snapshot=self._encode(session))
        if _wants_final(request, wanted):
            async for session in self._final(wanted, position):
                yield self._message(NOTHING, snapshot=self._encode(session))
        yield self._message(position, snapshot_complete=pb.SnapshotComplete())
        async for item, revision in self.hub.tail(wanted, position, idle=self.bookmark_interval):
            match item:
                case Signal.IDLE:
                    yield self._message(revision, bookmark=pb.Bookmark())
                case Signal.DRAINING:
                    stop_time = self.now() + timedelta(seconds=self.stop_grace)
                    yield self._message(
                        revision, draining=pb.Draining(stop_time=convert.timestamp(stop_time))
                    )
                case entry:
                    yield convert.watched(entry, self.store.store_id)

    async def _final(self, wanted: SessionFilter, position: int) -> AsyncIterator[Session]:
        """The final sessions of the record, as of a revision; later ones follow as events."""
        after = None
        while True:
            page = await self.store.list_connections(wanted, after=after, limit=SNAPSHOT_PAGE)
            for session in page:
                if session.state.is_final and session.revision <= position:
                    yield session
            if len(page) < SNAPSHOT_PAGE:
                return
            after = PageKey(page[-1].create_time, page[-1].spec.session_id)

    def _encode(self, session: Session) -> session_pb2.Session:
        latency = self.manager.heartbeat_latency(session.spec.session_id)
        return self.encoded.encode(session, latency)

    def _message(self, revision: int, **message: object) -> pb.WatchSessionsResponse:
        return pb.WatchSessionsResponse(
            resume_token=ResumeToken(self.store.store_id, revision).encode(),
            revision=revision,
            **message,  # type: ignore[arg-type]  # one of the oneof, by its name
        )


def _wants_final(
    request: pb.ListSessionsRequest | pb.WatchSessionsRequest, wanted: SessionFilter
) -> bool:
    return request.include_final or any(state.is_final for state in wanted.states)
