"""What is visible: the sessions as the log has them, and the log for watchers.

The newest events stay in a ring that all watchers share, each of which has a place in the log. One
that does not read costs its place and nothing more; when the ring has passed it by it reads the
record, at its own pace, until it has caught up.

While the database is away events are visible before they are kept. These provisional ones stand
beside the ring, in the order in which they will be kept, until each is published for good.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from uuid import UUID
from weakref import WeakSet

from broker.errors import SlowConsumerError
from broker.events.archive import Archive, Entry
from broker.session.filters import SessionFilter
from broker.session.model import Session, SessionEvent


class Signal(enum.Enum):
    """What a tail yields beside entries."""

    IDLE = "nothing else that matches up to here"
    DRAINING = "the broker is about to stop; what happens until then still follows"


class _Place:
    """Up to which revision one watcher has all."""

    __slots__ = ("__weakref__", "revision")

    def __init__(self, revision: int) -> None:
        self.revision = revision


class ExpiredError(Exception):
    """Events that a watcher has not read were deleted: it must begin anew."""


class Hub:
    """Publishes events.

    Args:
        archive: the log, for what the ring no longer holds.
        memory: how many events the ring holds.
        lag: by how many events a watcher's lag may grow before it is cut.
        revision: that of the newest event at the start.
        oldest: the oldest event that can be read.
        sessions: those that are not final.
        recent: the newest events, without gap up to ``revision``.
        seen: called with each event that becomes visible, once, and with its session before it.
    """

    def __init__(
        self,
        archive: Archive,
        *,
        memory: int,
        lag: int,
        revision: int = 0,
        oldest: int = 1,
        sessions: Sequence[Session] = (),
        recent: Sequence[SessionEvent] = (),
        seen: Callable[[Session | None, SessionEvent], None] = lambda *_: None,
    ) -> None:
        self._archive = archive
        self._lag = lag
        self._oldest = oldest
        self._revision = revision
        self._kept = {session.spec.session_id: session for session in sessions}
        # Revisions are dense, so that each has its slot.
        self._ring: list[Entry | None] = [None] * memory
        for event in recent[-memory:]:
            self._ring[event.revision % memory] = Entry(event)
        # By numbers of their own, without gap; the first is the next to be kept.
        self._provisional: dict[int, Entry] = {}
        self._first_provisional = 0
        self._next_provisional = 0
        self._shown: dict[UUID, Session] = {}
        self._waiters: set[asyncio.Future[bool]] = set()
        # Those whose tails somebody still reads: a place goes with its tail.
        self._places: WeakSet[_Place] = WeakSet()
        self._seen = seen
        self._draining = False
        self._ended = False

    @property
    def revision(self) -> int:
        """That of the newest event that is kept and visible."""
        return self._revision

    @property
    def oldest(self) -> int:
        """The oldest event that a watcher can still continue with."""
        return self._oldest

    @property
    def kept(self) -> Mapping[UUID, Session]:
        """All sessions that are not final, as the record has them up to ``revision``."""
        return self._kept

    @property
    def watchers(self) -> int:
        """How many follow the log."""
        return len(self._places)

    @property
    def lag(self) -> int:
        """By how many events the watcher that is furthest behind is behind."""
        furthest = min((place.revision for place in self._places), default=self._revision)
        return self._revision - furthest

    def find(self, session_id: UUID) -> Session | None:
        """A session as it is visible; None for one that is unknown, or in the record alone."""
        return self._shown.get(session_id) or self._kept.get(session_id)

    def visible(self) -> Sequence[Session]:
        """All sessions that are not final, as they are visible."""
        if not self._shown:
            return list(self._kept.values())
        merged = self._kept | self._shown
        return [session for session in merged.values() if not session.state.is_final]

    # -- what is told --------------------------------------------------------------

    def publish(self, events: Sequence[SessionEvent]) -> None:
        """Make events that are kept visible, in the order of their revisions."""
        for event in events:
            before = self._kept.get(event.session_id)
            if event.session.state.is_final:
                self._kept.pop(event.session_id, None)
            else:
                self._kept[event.session_id] = event.session
            self._revision = event.revision
            self._ring[event.revision % len(self._ring)] = Entry(event)
            if self._provisional:
                self._supersede(event)
            else:
                self._seen(before, event)
        self._wake()

    def publish_provisional(self, events: Sequence[SessionEvent]) -> Sequence[Session]:
        """Make events visible that are not kept yet, in the order in which they will be.

        Returns:
            The session after each, as it is visible: with the revision of its last kept event.
        """
        sessions: list[Session] = []
        for event in events:
            kept = self._kept.get(event.session_id)
            self._seen(self._shown.get(event.session_id, kept), event)
            session = replace(event.session, revision=kept.revision if kept is not None else 0)
            self._provisional[self._next_provisional] = Entry(replace(event, session=session))
            self._next_provisional += 1
            self._shown[event.session_id] = session
            sessions.append(session)
        self._wake()
        return sessions

    def expire(self, oldest: int) -> None:
        """Events below this revision are deleted from the record."""
        self._oldest = max(self._oldest, oldest)

    def announce_draining(self) -> None:
        """Tell every tail that the broker is about to stop."""
        self._draining = True
        self._wake()

    def end(self) -> None:
        """End every tail, once it has read all that there is."""
        self._ended = True
        self._wake()

    # -- what is read --------------------------------------------------------------

    def holds(self, revision: int) -> bool:
        """Whether a watcher that has all up to a revision can continue."""
        return revision + 1 >= self._oldest or self._remembered(revision + 1) is not None

    def remembered(self, revision: int, most: int) -> Sequence[Entry]:
        """The newest events up to a revision, without gap, as far as they are in memory."""
        found: list[Entry] = []
        while len(found) < most and (entry := self._remembered(revision)) is not None:
            found.append(entry)
            revision -= 1
        return found[::-1]

    async def tail(
        self, wanted: SessionFilter, after: int, *, idle: float
    ) -> AsyncGenerator[tuple[Entry | Signal, int], None]:
        """Follow the log.

        Args:
            wanted: which sessions.
            after: the revision that the watcher already has.
            idle: seconds without a matching event after which IDLE is yielded.

        Yields:
            An entry or a signal, and the revision up to which the watcher now has all. The last is
            IDLE, when the broker ends the tail.

        Raises:
            ExpiredError: what comes next was deleted.
            SlowConsumerError: the watcher's lag has grown too far.
            StoreUnavailableError: what comes next is in the record only, and that is away.

        Cancellation is safe: nothing is held.
        """
        loop = asyncio.get_running_loop()
        concerned = _everybody if wanted == SessionFilter() else wanted.concerned_by
        place = _Place(after)
        self._places.add(place)
        most = self._revision - after + self._lag
        # All that are there now are told, whatever the watcher has seen of them elsewhere.
        next_provisional = 0
        spoke = loop.time()
        told_draining = False
        while True:
            while place.revision < self._revision:
                known = self._remembered(place.revision + 1)
                for entry in (known,) if known else await self._archived(place.revision, most):
                    place.revision += 1
                    if concerned(entry.event):
                        yield entry, place.revision
                        spoke = loop.time()
            next_provisional = max(next_provisional, self._first_provisional)
            if next_provisional < self._next_provisional:
                entry = self._provisional[next_provisional]
                next_provisional += 1
                if concerned(entry.event):
                    yield entry, place.revision
                    spoke = loop.time()
            elif self._draining and not told_draining:
                told_draining = True
                yield Signal.DRAINING, place.revision
            elif self._ended:
                yield Signal.IDLE, place.revision
                return
            elif not await self._changed(spoke + idle):
                yield Signal.IDLE, place.revision
                spoke = loop.time()

    async def _archived(self, position: int, most: int) -> Sequence[Entry]:
        """At least one entry after a revision that is not the newest, without gap."""
        lag = self._revision - position
        if lag > most:
            raise SlowConsumerError(lag)
        block = await self._archive.after(position)
        if not block:
            raise ExpiredError
        # What is committed and not published yet has its turn later.
        return block[: self._revision - position]

    def _remembered(self, revision: int) -> Entry | None:
        entry = self._ring[revision % len(self._ring)]
        return entry if entry is not None and entry.event.revision == revision else None

    def _supersede(self, event: SessionEvent) -> None:
        """Forget the provisional form of an event that is kept now."""
        told = self._provisional.pop(self._first_provisional).event
        self._first_provisional += 1
        assert (told.session_id, told.sequence) == (event.session_id, event.sequence)
        if self._shown[event.session_id].sequence == event.sequence:
            del self._shown[event.session_id]

    async def _changed(self, deadline: float) -> bool:
        """Whether something is new; False at the deadline."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiters.add(waiter)
        # A bare timer costs a third of asyncio.timeout, and this is once per watcher and event.
        timer = loop.call_at(deadline, _answer, waiter, False)
        try:
            return await waiter
        finally:
            timer.cancel()
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            _answer(waiter, True)


def _answer(waiter: asyncio.Future[bool], new: bool) -> None:
    if not waiter.done():
        waiter.set_result(new)


def _everybody(_: SessionEvent) -> bool:
    return True
