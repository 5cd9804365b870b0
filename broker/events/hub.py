"""What is visible: the sessions as the log has them, and the tail of the log for watchers.

One ring is shared by all watchers, each of which has a place in it. A watcher that does
not read costs its place and nothing more; when the ring has passed it by, it is cut.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from broker.errors import SlowConsumerError
from broker.session.filters import SessionFilter
from broker.session.model import Session, SessionEvent


@dataclass(slots=True)
class Entry:
    """One persisted event in the ring.

    ``before`` is the session as it was visible before. ``encoded`` is for the transport:
    the first watcher to send the event leaves its message there for the others.
    """

    event: SessionEvent
    before: Session | None
    encoded: Any = field(default=None)

    def concerns(self, wanted: SessionFilter) -> bool:
        """Whether the session matched before or after the event."""
        return wanted.matches(self.event.session) or (
            self.before is not None and wanted.matches(self.before)
        )


class Signal(enum.Enum):
    """What a tail yields beside entries."""

    IDLE = "nothing matching for a while"
    DRAINING = "the broker is about to stop; what happens until then still follows"


class Hub:
    """Publishes persisted events.

    Args:
        revision: that of the newest event at the start.
        capacity: how many events a watcher may lag behind before it is cut.
    """

    def __init__(self, revision: int, capacity: int) -> None:
        self._sessions: dict[UUID, Session] = {}
        # Revisions are dense, so that each has its slot.
        self._ring: list[Entry | None] = [None] * capacity
        self._revision = revision
        self._waiters: set[asyncio.Future[None]] = set()
        self._draining = False
        self._ended = False

    @property
    def revision(self) -> int:
        """That of the newest visible event."""
        return self._revision

    @property
    def sessions(self) -> Mapping[UUID, Session]:
        """All sessions that are not final, as the log has them."""
        return self._sessions

    def publish(self, events: Sequence[SessionEvent]) -> None:
        """Make persisted events visible, in the order of their revisions."""
        for event in events:
            before = self._sessions.get(event.session_id)
            if event.session.state.is_final:
                self._sessions.pop(event.session_id, None)
            else:
                self._sessions[event.session_id] = event.session
            self._revision = event.revision
            self._ring[event.revision % len(self._ring)] = Entry(event, before)
        self._wake()

    def announce_draining(self) -> None:
        """Tell every tail that the broker is about to stop."""
        self._draining = True
        self._wake()

    def end(self) -> None:
        """End every tail, once it has read all that there is."""
        self._ended = True
        self._wake()

    async def tail(
        self, wanted: SessionFilter, after: int, *, idle: float
    ) -> AsyncGenerator[tuple[Entry | Signal, int], None]:
        """Follow the log.

        Args:
            wanted: which sessions.
            after: the revision that the watcher already has.
            idle: seconds without a matching event after which IDLE is yielded.

        Yields:
            An entry or a signal, and the revision up to which the watcher now has all.

        Raises:
            SlowConsumerError: the ring has passed the watcher by.

        Cancellation is safe: nothing is held.
        """
        loop = asyncio.get_running_loop()
        position = after
        spoke = loop.time()
        told_draining = False
        while True:
            while position < self._revision:
                entry = self._entry(position + 1)
                position += 1
                if entry.concerns(wanted):
                    yield entry, position
                    spoke = loop.time()
            if self._draining and not told_draining:
                told_draining = True
                yield Signal.DRAINING, position
            elif self._ended:
                return
            elif not await self._changed(spoke + idle):
                yield Signal.IDLE, position
                spoke = loop.time()

    def _entry(self, revision: int) -> Entry:
        entry = self._ring[revision % len(self._ring)]
        if entry is None or entry.event.revision != revision:
            raise SlowConsumerError(self._revision - revision + 1)
        return entry

    async def _changed(self, deadline: float) -> bool:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout_at(deadline):
                await waiter
        except TimeoutError:
            return False
        finally:
            self._waiters.discard(waiter)
        return True

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
