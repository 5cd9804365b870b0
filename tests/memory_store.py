"""A record in memory: just enough of ``Store`` for ``EventLog``, held to the same sentences."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from broker.session import machine
from broker.session.model import Session, SessionEvent


class MemoryStore:
    """Appends; every event is folded, so that none gets in that does not follow."""

    def __init__(self) -> None:
        self.events: list[SessionEvent] = []
        self._revisions: dict[tuple[UUID, int], int] = {}
        self._sessions: dict[UUID, Session] = {}

    async def append(self, events: Sequence[SessionEvent]) -> Sequence[int]:
        for event in events:
            key = (event.session_id, event.sequence)
            if key not in self._revisions:
                self._sessions[event.session_id] = machine.fold(
                    self._sessions.get(event.session_id), event
                )
                self.events.append(event)
                self._revisions[key] = len(self.events)
        return [self._revisions[event.session_id, event.sequence] for event in events]

    async def revision(self) -> int:
        return len(self.events)
