"""The port to the record: what the broker asks of a database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from broker.session.filters import SessionFilter
from broker.session.model import Session, SessionEvent


@dataclass(frozen=True, slots=True)
class PageKey:
    """Where a page of sessions begins: after this one, by (create_time, session_id)."""

    create_time: datetime
    session_id: UUID


class Store(Protocol):
    """The durable record of sessions and their events.

    Every method raises StoreUnavailableError when the database does not answer within
    the store's own timeout, and may be cancelled; a cancelled or failed ``append`` may
    or may not have been committed.
    """

    @property
    def store_id(self) -> UUID:
        """Names the log that revisions belong to; made with the database."""

    @property
    def epoch(self) -> int:
        """+1 for each broker that took the database over."""

    async def append(self, events: Sequence[SessionEvent]) -> Sequence[int]:
        """Record events and fold them into their sessions' rows, in one transaction.

        Args:
            events: in order; those of one session have consecutive sequences.

        Returns:
            The revision of each event. An event that is already recorded under its
            (session_id, sequence) keeps its revision, so that an append whose outcome
            is unknown can be repeated.
        """

    async def revision(self) -> int:
        """The revision of the newest event; 0 in an empty log."""

    async def get_connection(self, session_id: UUID) -> Session | None:
        """The session, or None if there is no record of it."""

    async def list_active_connections(self) -> Sequence[Session]:
        """All sessions that are not final, by (create_time, session_id)."""

    async def list_connections(
        self, wanted: SessionFilter, *, after: PageKey | None, limit: int
    ) -> Sequence[Session]:
        """At most ``limit`` sessions that match, final ones too, by (create_time, session_id)."""

    async def list_events(self, session_id: UUID) -> Sequence[SessionEvent]:
        """The recorded events of a session, by sequence."""

    async def cleanup_stale_connections(self, max_age_seconds: float) -> int:
        """Delete final sessions that ended longer ago and have no events left; returns how many."""

    async def close(self) -> None:
        """Give the database up; idempotent."""
