"""Sessions and their history, as callers may look them up: what is visible, else the record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from broker.errors import SessionNotFoundError
from broker.events.hub import Hub
from broker.session.filters import SessionFilter
from broker.session.model import Session, SessionEvent
from broker.store.base import PageKey, Store


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Finds sessions.

    Args:
        hub: those that are not final, and what is visible of the others.
        store: the record.
    """

    hub: Hub
    store: Store

    async def get(self, session_id: UUID) -> Session:
        """The session as it is visible, final ones included.

        Raises:
            SessionNotFoundError: there is no record of it.
            StoreUnavailableError: it is not open, and the database does not answer.
        """
        session = self.hub.find(session_id)
        if session is None:
            session = await self.store.get_connection(session_id)
        if session is None:
            raise SessionNotFoundError(str(session_id))
        return session

    async def list_sessions(
        self, wanted: SessionFilter, *, include_final: bool, after: PageKey | None, limit: int
    ) -> Sequence[Session]:
        """At most ``limit`` sessions after a key, by (create_time, session_id).

        Raises:
            StoreUnavailableError: final ones are wanted, and the database does not answer.
        """
        if include_final:
            return await self.store.list_connections(wanted, after=after, limit=limit)
        sessions = sorted(
            (session for session in self.hub.visible() if wanted.matches(session)),
            key=lambda session: (session.create_time, session.spec.session_id),
        )
        if after is not None:
            key = (after.create_time, after.session_id)
            sessions = [
                session
                for session in sessions
                if (session.create_time, session.spec.session_id) > key
            ]
        return sessions[:limit]

    async def list_events(
        self, session_id: UUID, *, after: int, limit: int
    ) -> Sequence[SessionEvent]:
        """At most ``limit`` recorded events of a session after a sequence, by sequence.

        Raises:
            SessionNotFoundError: there is no record of it.
            StoreUnavailableError: the database does not answer.
        """
        events = await self.store.list_events(session_id, after=after, limit=limit)
        if not events and not after:
            # None: it is unknown, or they have all expired.
            await self.get(session_id)
        return events
