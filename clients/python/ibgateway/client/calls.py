"""The calls about sessions that name them by their id."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from typing import Final

from ibgateway.broker.v1 import session_service_pb2 as pb
from ibgateway.client import conversion
from ibgateway.client.connection import Connection
from ibgateway.client.events import SessionEvent
from ibgateway.client.filters import Filter
from ibgateway.client.model import SessionInfo, SessionState, Verification
from ibgateway.client.watch import SILENCE, Watch

TIMEOUT: Final = 10.0
"""Seconds for a call that does not wait for a Gateway."""
VERIFY_TIMEOUT: Final = 30.0
"""Seconds for a probe: longer than the broker itself waits for the Gateway."""
CLOSE_TIMEOUT: Final = 30.0
"""Seconds for a session to end: longer than the broker itself waits for its link."""
_PAGE: Final = 500


class SessionCalls:
    """Finds, watches, probes, renews and ends sessions by their id.

    What all methods have in common:

    - ``timeout`` is in seconds, over all tries; None is the default.
    - ``correlation_id`` is a UUID4 that stands in every event and log line that the call causes,
      and in its error; None makes one.
    - Every BrokerError may be raised; only those with a meaning of their own are listed.
    - Calls are repeated within their timeout if the broker cannot be reached, or says that it
      could not serve them now; see `connect`.
    - Cancellation cancels the call at once.

    Args:
        connection: to the broker.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def get_session(
        self, session_id: str, *, timeout: float | None = None, correlation_id: str | None = None
    ) -> SessionInfo:
        """One session, also one that has ended.

        Raises:
            SessionNotFoundError: there is no record of it.

        Cancellation is safe.
        """
        response = await self._connection.call(
            self._connection.sessions.GetSession,
            pb.GetSessionRequest(session_id=session_id),
            timeout=timeout or TIMEOUT,
            idempotent=True,
            correlation_id=correlation_id,
        )
        return conversion.session(response.session)

    async def list_sessions(
        self,
        *,
        session_ids: Collection[str] = (),
        gateway_id: str = "",
        owner: str = "",
        labels: Mapping[str, str] | None = None,
        states: Collection[SessionState] = (),
        include_final: bool = False,
        page_size: int = _PAGE,
        timeout: float | None = None,
        correlation_id: str | None = None,
    ) -> AsyncIterator[SessionInfo]:
        """The sessions that match, oldest first, fetched page by page.

        Args:
            session_ids: only these, at most 100; empty is all. So for the other filters, all of
                which must match.
            gateway_id: only those of this gateway.
            owner: only those of this owner.
            labels: only those with each of these labels.
            states: only those in one of these states.
            include_final: also those that have ended; naming such a state does it, too.
            page_size: how many are fetched at once, at most 1000.
            timeout: seconds for each page.
            correlation_id: see the class.

        Cancellation is safe.
        """
        fields = Filter.of(
            session_ids=session_ids,
            gateway_id=gateway_id,
            owner=owner,
            labels=labels,
            states=states,
            include_final=include_final,
        ).fields()
        token = ""  # nosec B105 # a place in a list
        while True:
            response = await self._connection.call(
                self._connection.sessions.ListSessions,
                pb.ListSessionsRequest(page_size=page_size, page_token=token, **fields),
                timeout=timeout or TIMEOUT,
                idempotent=True,
                correlation_id=correlation_id,
            )
            for session in response.sessions:
                yield conversion.session(session)
            token = response.next_page_token
            if not token:
                return

    async def session_events(
        self,
        session_id: str,
        *,
        page_size: int = _PAGE,
        timeout: float | None = None,
        correlation_id: str | None = None,
    ) -> AsyncIterator[SessionEvent]:
        """The recorded history of a session, oldest first, fetched page by page.

        Events older than the broker's retention are gone: the sequence of the first says how many.

        Args:
            session_id: the session.
            page_size: how many events are fetched at once, at most 1000.
            timeout: seconds for each page.
            correlation_id: see the class.

        Raises:
            SessionNotFoundError: there is no record of it.

        Cancellation is safe.
        """
        token = ""  # nosec B105 # a place in a list
        while True:
            response = await self._connection.call(
                self._connection.sessions.ListSessionEvents,
                pb.ListSessionEventsRequest(
                    session_id=session_id, page_size=page_size, page_token=token
                ),
                timeout=timeout or TIMEOUT,
                idempotent=True,
                correlation_id=correlation_id,
            )
            for event in response.events:
                yield conversion.event(event)
            token = response.next_page_token
            if not token:
                return

    async def close_session(
        self,
        session_id: str,
        *,
        reason: str = "",
        timeout: float | None = None,
        correlation_id: str | None = None,
    ) -> SessionInfo:
        """End a session; returns when its link has ended. One that has ended stays as it is.

        Args:
            session_id: the session.
            reason: for the broker's log, at most 256 characters.
            timeout: seconds to wait, 30 by default.
            correlation_id: see the class.

        Raises:
            SessionNotFoundError: there is no record of it.

        Cancellation ends the wait; once the broker has the request, the session closes all the
        same.
        """
        response = await self._connection.call(
            self._connection.sessions.CloseSession,
            pb.CloseSessionRequest(session_id=session_id, reason=reason),
            timeout=timeout or CLOSE_TIMEOUT,
            idempotent=True,
            correlation_id=correlation_id,
        )
        return conversion.session(response.session)

    async def renew_session(
        self,
        session_id: str,
        *,
        lease_ttl: float | None = None,
        timeout: float | None = None,
        correlation_id: str | None = None,
    ) -> SessionInfo:
        """Let the lease of a session begin anew. A `Session` does it by itself.

        Args:
            session_id: the session.
            lease_ttl: seconds that the lease lasts from now on, 1 to 86400; None is as before.
                The broker may shorten it: see `SessionInfo.lease_ttl`.
            timeout: see the class.
            correlation_id: see the class.

        Raises:
            SessionNotFoundError: there is no record of it.
            SessionEndedError: it has ended, or is closing.
            InvalidArgumentError: it has no lease and none is asked for.

        Cancellation is safe: the lease was renewed, or not.
        """
        response = await self._connection.call(
            self._connection.sessions.RenewSession,
            pb.RenewSessionRequest(session_id=session_id, lease_ttl=conversion.duration(lease_ttl)),
            timeout=timeout or TIMEOUT,
            idempotent=True,
            correlation_id=correlation_id,
        )
        return conversion.session(response.session)

    async def verify_session(
        self, session_id: str, *, timeout: float | None = None, correlation_id: str | None = None
    ) -> Verification:
        """Ask the Gateway, over the session's own link, for its time.

        A session that is not CONNECTED is not healthy, which is no error. A probe that is not
        answered counts as the loss of the link. It is not repeated: what matters is how it is now.

        Args:
            session_id: the session.
            timeout: seconds to wait, 30 by default.
            correlation_id: see the class.

        Raises:
            SessionNotFoundError: there is no record of it.

        Cancellation ends the wait; the probe is out all the same.
        """
        response = await self._connection.call(
            self._connection.sessions.VerifySession,
            pb.VerifySessionRequest(session_id=session_id),
            timeout=timeout or VERIFY_TIMEOUT,
            idempotent=False,
            correlation_id=correlation_id,
        )
        return conversion.verification(response)

    async def acknowledge_data(
        self,
        session_id: str,
        *,
        generation: int,
        timeout: float | None = None,
        correlation_id: str | None = None,
    ) -> SessionInfo:
        """Say that whatever was interrupted is subscribed anew: DATA_CONTINUOUS is TRUE again.

        Args:
            session_id: the session.
            generation: that of the session when you subscribed, as the event said that told you
                to. Not the newest: the link may have been lost again since.
            timeout: see the class.
            correlation_id: see the class.

        Raises:
            SessionNotFoundError: there is no record of it.
            SessionNotConnectedError: it has no link now.
            InvalidArgumentError: its link was made anew meanwhile.

        Cancellation is safe: to say it again is no error.
        """
        response = await self._connection.call(
            self._connection.sessions.AcknowledgeData,
            pb.AcknowledgeDataRequest(session_id=session_id, generation=generation),
            timeout=timeout or TIMEOUT,
            idempotent=True,
            correlation_id=correlation_id,
        )
        return conversion.session(response.session)

    def watch(
        self,
        *,
        session_ids: Collection[str] = (),
        gateway_id: str = "",
        owner: str = "",
        labels: Mapping[str, str] | None = None,
        states: Collection[SessionState] = (),
        include_final: bool = False,
        resume_token: str = "",
        silence: float = SILENCE,
        give_up_after: float | None = None,
        correlation_id: str | None = None,
    ) -> Watch:
        """Follow the sessions that match: their snapshot, then whatever happens to them.

        The watch resumes by itself after any loss of its stream, for as long as it takes; that it
        is interrupted is told as an item.

        Args:
            session_ids: only these, at most 100; empty is all. So for the other filters, all of
                which must match. An event is told if its session matched before or after it.
            gateway_id: only those of this gateway.
            owner: only those of this owner.
            labels: only those with each of these labels.
            states: only those in one of these states.
            include_final: also sessions that have ended before; that one ends is always told.
            resume_token: the `token` of the last item that was handled, also by another process;
                empty begins with a snapshot. With it, the filter should be the same.
            silence: seconds without a message after which a stream is given up as dead. The broker
                speaks every 10 s unless it is configured otherwise.
            give_up_after: seconds without any stream after which the reason is raised; None never
                gives up.
            correlation_id: of its streams.

        Raises:
            TypeError: a single id or state, where several are expected.
            ValueError: a state that does not exist.

        Nothing is sent before the first item is asked for. See `Watch` for cancellation.
        """
        wanted = Filter.of(
            session_ids=session_ids,
            gateway_id=gateway_id,
            owner=owner,
            labels=labels,
            states=states,
            include_final=include_final,
        )
        return Watch(
            self._connection,
            wanted,
            resume_token=resume_token,
            silence=silence,
            give_up_after=give_up_after,
            correlation_id=correlation_id,
        )
