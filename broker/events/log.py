"""The way into the record: events in order, many to a transaction, seen only once they are kept."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from broker.errors import StoreFencedError, StoreUnavailableError
from broker.session.model import Session, SessionEvent
from broker.store.base import Store

logger = logging.getLogger(__name__)

BATCH: Final = 500
"""Events to a transaction at most."""
CAPACITY: Final = 10_000
"""Events that may wait for the database. Opens are refused while it is away, and a session
that is open adds a handful at most, so that this is never reached in earnest."""
RETRY_INTERVAL: Final = 1.0
"""Seconds between two tries while the database is away."""


@dataclass(slots=True)
class _Pending:
    events: tuple[SessionEvent, ...]
    done: asyncio.Future[Session]


class EventLog:
    """Writes events in the order in which they were submitted.

    Args:
        store: the record.
        publish: makes events visible, once they are kept.
    """

    def __init__(self, store: Store, publish: Callable[[Sequence[SessionEvent]], None]) -> None:
        self._store = store
        self._publish = publish
        self._pending: deque[_Pending] = deque()
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._depth = 0
        self.available = True

    def submit(self, events: Sequence[SessionEvent]) -> asyncio.Future[Session]:
        """Queue events; they are written even if nobody waits.

        Args:
            events: of one session, in order.

        Returns:
            The session after the last of them, once they are kept and visible. Shield it when
            waiting with a deadline.

        Raises:
            StoreUnavailableError: the queue is full; nothing was queued.
        """
        if self._depth + len(events) > CAPACITY:
            raise StoreUnavailableError(f"{self._depth} events wait for the database")
        pending = _Pending(tuple(events), asyncio.get_running_loop().create_future())
        self._pending.append(pending)
        self._depth += len(pending.events)
        self._idle.clear()
        self._work.set()
        return pending.done

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
            batch = self._take()
            events = [event for pending in batch for event in pending.events]
            revisions = await self._append(events)
            kept = [
                replace(event, revision=revision, session=replace(event.session, revision=revision))
                for event, revision in zip(events, revisions, strict=True)
            ]
            self._publish(kept)
            self._depth -= len(events)
            last = -1
            for pending in batch:
                last += len(pending.events)
                if not pending.done.done():
                    pending.done.set_result(kept[last].session)
            if not self._pending:
                self._work.clear()
                self._idle.set()

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
            logger.error("%d events could not be recorded before the stop", self._depth)
            return False
        return True

    def _take(self) -> list[_Pending]:
        batch = [self._pending.popleft()]
        size = len(batch[0].events)
        while self._pending and size + len(self._pending[0].events) <= BATCH:
            batch.append(self._pending.popleft())
            size += len(batch[-1].events)
        return batch

    async def _append(self, events: Sequence[SessionEvent]) -> Sequence[int]:
        while True:
            try:
                revisions = await self._store.append(events)
            except StoreFencedError:
                raise
            except StoreUnavailableError as error:
                if self.available:
                    logger.error("the database is away: %s; %d events wait", error, self._depth)
                self.available = False
                await asyncio.sleep(RETRY_INTERVAL)
            else:
                if not self.available:
                    logger.warning("the database is back; %d events waited", self._depth)
                self.available = True
                return revisions
