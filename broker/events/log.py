"""The way into the record: events in order, many to a transaction.

Events are visible once they are kept. Only while the database does not take them in time are they
visible before; then all that wait are, and all that follow, until none waits any more.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from broker.errors import StoreFencedError, StoreUnavailableError
from broker.events.hub import Hub
from broker.session.model import Session, SessionEvent, Transition
from broker.store.base import Store

logger = logging.getLogger(__name__)

BATCH: Final = 500
"""Events to a transaction at most."""
CAPACITY: Final = 10_000
"""Events that may wait for the database. Opens are refused while it is away, and a session
that is open adds a handful at most, so that this is never reached in earnest."""
RESERVE: Final = 2_000
"""Places of it that only transitions may take: what else is observed gives way to them."""
ALARMS: Final = (1_000, 4_000, RESERVE * 4)
"""Depths at which somebody should know; beyond the last one observations are lost."""
RETRY_INTERVAL: Final = 1.0
"""Seconds between two tries while the database is away."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What becomes of events that were submitted. Shield its futures when waiting with a deadline.

    Args:
        visible: the session after the last of them, once watchers can see it.
        kept: the same, once it is in the record.
    """

    visible: asyncio.Future[Session]
    kept: asyncio.Future[Session]

    @classmethod
    def of(cls, session: Session) -> Receipt:
        """That of a session which is in the record already."""
        receipt = cls.awaited()
        receipt.visible.set_result(session)
        receipt.kept.set_result(session)
        return receipt

    @classmethod
    def awaited(cls) -> Receipt:
        """That of events which wait."""
        loop = asyncio.get_running_loop()
        return cls(loop.create_future(), loop.create_future())


@dataclass(frozen=True, slots=True)
class _Pending:
    events: tuple[SessionEvent, ...]
    receipt: Receipt
    since: float
    context: contextvars.Context | None


class EventLog:
    """Writes events in the order in which they were submitted.

    Args:
        store: the record.
        hub: makes events visible.
        grace: seconds that an event may wait for the record before it is visible without.
        written: called for each submission that is kept, in the context of whoever submitted it,
            with the number of its events and the seconds that the transaction took; None if nobody
            wants to know.

    Attributes:
        available: whether the database took the last append.
    """

    def __init__(
        self,
        store: Store,
        hub: Hub,
        *,
        grace: float,
        written: Callable[[int, float], None] | None = None,
    ) -> None:
        self._store = store
        self._hub = hub
        self._grace = grace
        self._written = written
        # That of no session: who waits first is not the cause of the wait.
        self._context = contextvars.copy_context()
        self._pending: deque[_Pending] = deque()
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._depth = 0
        self._behind = False
        self._late: asyncio.TimerHandle | None = None
        self.available = True

    @property
    def depth(self) -> int:
        """How many events wait for the record."""
        return self._depth

    def submit(self, events: Sequence[SessionEvent]) -> Receipt:
        """Queue events; they are written even if nobody waits.

        Args:
            events: of one session, in order.

        Raises:
            StoreUnavailableError: the queue is full; nothing was queued.
        """
        moves = any(isinstance(event.change, Transition) for event in events)
        if self._depth + len(events) > CAPACITY - (0 if moves else RESERVE):
            raise StoreUnavailableError(f"{self._depth} events wait for the database")
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context() if self._written is not None else None
        pending = _Pending(tuple(events), Receipt.awaited(), loop.time(), context)
        self._pending.append(pending)
        before, self._depth = self._depth, self._depth + len(pending.events)
        if any(before < alarm <= self._depth for alarm in ALARMS):
            logger.error("journal_filling", extra={"events": self._depth, "limit": CAPACITY})
        self._idle.clear()
        self._work.set()
        if self._behind:
            self._foretell(pending)
        elif self._late is None:
            self._late = loop.call_later(self._grace, self._fall_behind, context=self._context)
        return pending.receipt

    def require_available(self) -> None:
        """Raise StoreUnavailableError while the database is known to be away."""
        if not self.available:
            raise StoreUnavailableError(
                "the database does not take the record, so that no session can be opened; "
                "open sessions live on",
                retry_after=RETRY_INTERVAL,
            )

    async def run(self) -> None:
        """Write until cancelled. Anything but an unavailable database ends the broker:
        a record that cannot be trusted is worse than none.
        """
        while True:
            await self._work.wait()
            batch = self._first()
            events = [event for pending in batch for event in pending.events]
            revisions, took = await self._append(events)
            kept = [
                replace(event, revision=revision, session=replace(event.session, revision=revision))
                for event, revision in zip(events, revisions, strict=True)
            ]
            self._hub.publish(kept)
            self._depth -= len(events)
            last = -1
            for pending in batch:
                self._pending.popleft()
                last += len(pending.events)
                if self._written is not None and pending.context is not None:
                    pending.context.run(self._written, len(pending.events), took)
                # Kept first: who waits for that is told before a session that is visible goes on.
                for future in (pending.receipt.kept, pending.receipt.visible):
                    if not future.done():
                        future.set_result(kept[last].session)
            self._look_ahead()

    async def flush(self, timeout: float) -> bool:
        """Wait until all that was submitted is kept.

        Args:
            timeout: seconds to wait.

        Returns:
            Whether all is kept.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            logger.error("events_unrecorded", extra={"events": self._depth})
            return False
        return True

    def _first(self) -> list[_Pending]:
        """What is written next; it stays in the queue until it is kept."""
        batch: list[_Pending] = []
        size = 0
        for pending in self._pending:
            size += len(pending.events)
            if batch and size > BATCH:
                break
            batch.append(pending)
        return batch

    def _look_ahead(self) -> None:
        """The head of the queue was kept: is the next one late?"""
        if self._late is not None:
            self._late.cancel()
            self._late = None
        if not self._pending:
            if self._behind:
                logger.warning("record_caught_up")
            self._behind = False
            self._work.clear()
            self._idle.set()
        elif not self._behind:
            due = self._pending[0].since + self._grace
            self._late = asyncio.get_running_loop().call_at(
                due, self._fall_behind, context=self._context
            )

    def _fall_behind(self) -> None:
        self._late = None
        self._behind = True
        logger.warning("record_behind", extra={"events": self._depth})
        for pending in self._pending:
            self._foretell(pending)

    def _foretell(self, pending: _Pending) -> None:
        sessions = self._hub.publish_provisional(pending.events)
        if not pending.receipt.visible.done():
            pending.receipt.visible.set_result(sessions[-1])

    async def _append(self, events: Sequence[SessionEvent]) -> tuple[Sequence[int], float]:
        """The revisions, and how many seconds the try took that succeeded."""
        while True:
            begin = asyncio.get_running_loop().time()
            try:
                revisions = await self._store.append(events)
            except StoreFencedError:
                raise
            except StoreUnavailableError as error:
                if self.available:
                    logger.error(
                        "store_unavailable", extra={"error": str(error), "events": self._depth}
                    )
                self.available = False
                await asyncio.sleep(RETRY_INTERVAL)
            else:
                if not self.available:
                    logger.warning("store_available", extra={"events": self._depth})
                self.available = True
                return revisions, asyncio.get_running_loop().time() - begin
