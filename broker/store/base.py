"""The port to the record: what the broker asks of a database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from broker.session.client_ids import Quarantined
from broker.session.drain import Drain
from broker.session.filters import SessionFilter
from broker.session.model import Session, SessionEvent


@dataclass(frozen=True, slots=True)
class PageKey:
    """Where a page of sessions begins: after this one, by (create_time, session_id)."""

    create_time: datetime
    session_id: UUID


@dataclass(frozen=True, slots=True)
class LogPage:
    """A stretch of the log, as of one instant.

    Args:
        events: those of the stretch that are not below ``oldest``, by revision, without gap.
        oldest: the retention horizon: what is below this revision is gone for good, or about to be.
        newest: the revision of the newest event in the log.
    """

    events: Sequence[SessionEvent]
    oldest: int
    newest: int


class Store(Protocol):
    """The durable record of sessions and their events.

    Every method raises StoreUnavailableError when the database does not answer within
    the store's own timeout, and may be cancelled; a cancelled or failed write may or may
    not have been committed, and can be repeated. ``append``, ``quarantine``,
    ``lift_quarantine`` and ``set_drain`` raise StoreFencedError, and write nothing, once
    another broker has taken the database over.
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

    async def list_events(
        self, session_id: UUID, *, after: int = 0, limit: int
    ) -> Sequence[SessionEvent]:
        """At most ``limit`` recorded events of a session after a sequence, by sequence."""

    async def read_log(self, after: int, *, limit: int) -> LogPage:
        """The events of all sessions with revisions in (after, after + limit]."""

    async def find_request(self, owner: str, request_id: UUID) -> Session | None:
        """The session that an open with this request_id stands for: one that is not final, or that
        was CONNECTED once; None if the request_id is free.
        """

    async def raise_horizon(self, max_age_seconds: float, max_events: int) -> int:
        """Move the retention horizon up, never down, and not past the newest event plus one.

        Args:
            max_age_seconds: events that are older are to be deleted.
            max_events: beyond so many of the newest, too.

        Returns:
            The horizon: the oldest revision that is kept.
        """

    async def expire_events(self, limit: int) -> int:
        """Delete at most ``limit`` events below the horizon, the oldest first; returns how many."""

    async def cleanup_stale_connections(self, max_age_seconds: float, *, limit: int) -> int:
        """Delete final sessions that ended longer ago and have no events left.

        Args:
            max_age_seconds: since the end.
            limit: how many at most.

        Returns:
            How many were deleted.
        """

    async def list_quarantine(self, host: str, port: int) -> Sequence[Quarantined]:
        """The client ids in quarantine at one address of a Gateway, by client id."""

    async def quarantine(self, host: str, port: int, item: Quarantined) -> None:
        """Put a client id into quarantine; where it is already, the reason and time are replaced.

        Args:
            host: where the Gateway listens, as configured.
            port: where the Gateway listens.
            item: the id, the reason in at most 40 characters, and the time.
        """

    async def lift_quarantine(self, host: str, port: int, client_id: int) -> None:
        """End the quarantine of a client id; idempotent."""

    async def get_drain(self, gateway_id: str) -> Drain | None:
        """Who drains the gateway; None if nobody does."""

    async def set_drain(self, gateway_id: str, drain: Drain | None) -> None:
        """Drain a gateway instead of as before, or with None no longer; idempotent.

        Args:
            gateway_id: at most 63 characters.
            drain: an actor of at most 128 characters, a reason of at most 256.
        """

    async def close(self) -> None:
        """Give the database up; idempotent."""
