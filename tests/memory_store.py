"""A record in memory: just enough of ``Store`` for the log and its readers, held to the same
sentences by ``tests/integration/test_store_contract.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from broker.errors import IllegalInputError
from broker.session import machine
from broker.session.model import Session, SessionEvent
from broker.store.base import LogPage
from broker.store.postgres import RecordRefusedError


class MemoryStore:
    """Appends, reads and deletes; every event is folded, so that none gets in that does not follow.

    Attributes:
        events: those that are not deleted, by revision.
    """

    def __init__(self) -> None:
        self.events: list[SessionEvent] = []
        self._newest = 0
        self._horizon = 1
        self._revisions: dict[tuple[UUID, int], int] = {}
        self._sessions: dict[UUID, Session] = {}

    async def append(self, events: Sequence[SessionEvent]) -> Sequence[int]:
        sessions = dict(self._sessions)
        fresh: list[SessionEvent] = []
        for event in events:
            if (event.session_id, event.sequence) in self._revisions:
                continue
            revision = self._newest + len(fresh) + 1
            sessions[event.session_id] = _follow(
                sessions.get(event.session_id), replace(event, revision=revision)
            )
            fresh.append(
                replace(event, revision=revision, session=sessions[event.session_id]),
            )
        self._sessions = sessions
        self._newest += len(fresh)
        self.events += fresh
        self._revisions.update(
            ((event.session_id, event.sequence), event.revision) for event in fresh
        )
        return [self._revisions[event.session_id, event.sequence] for event in events]

    async def revision(self) -> int:
        return self._newest

    async def read_log(self, after: int, *, limit: int) -> LogPage:
        first = max(after + 1, self._horizon)
        gone = self._newest - len(self.events)
        stretch = self.events[max(first - gone - 1, 0) : max(after + limit - gone, 0)]
        return LogPage(events=stretch, oldest=self._horizon, newest=self._newest)

    async def raise_horizon(self, max_age_seconds: float, max_events: int) -> int:
        now = datetime.now(UTC)
        horizon = max(self._horizon, self._newest + 1 - max_events)
        for event in self.events:
            if event.revision == horizon and (now - event.time).total_seconds() > max_age_seconds:
                horizon += 1
        self._horizon = horizon
        return horizon

    async def expire_events(self, limit: int) -> int:
        gone = self._newest - len(self.events)
        doomed = self.events[: max(min(self._horizon - 1 - gone, limit), 0)]
        del self.events[: len(doomed)]
        for event in doomed:
            del self._revisions[event.session_id, event.sequence]
        return len(doomed)


def _follow(before: Session | None, event: SessionEvent) -> Session:
    """The session after the event; refused where PostgreSQL would refuse it."""
    if before is not None and before.state.is_final:
        raise RecordRefusedError(f"{event.session_id} is final")
    try:
        return machine.fold(before, event)
    except IllegalInputError as error:
        raise RecordRefusedError(str(error)) from error
