"""The record does not grow without end: what is old is deleted, bit by bit, in the background."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from broker.errors import StoreFencedError, StoreUnavailableError
from broker.events.hub import Hub
from broker.store.base import Store

logger = logging.getLogger(__name__)

CHUNK: Final = 500
"""Rows that are deleted at once: whoever writes meanwhile must not notice."""

PAUSE: Final = 0.05
"""Seconds between two chunks."""


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept.

    Args:
        max_age: seconds for which events are kept, and sessions that have ended.
        max_events: how many events are kept at most.
        interval: seconds between two looks.
    """

    max_age: float
    max_events: int
    interval: float


class Housekeeper:
    """Deletes what is no longer kept.

    Args:
        store: the record.
        hub: is told which events can still be read.
        retention: what is kept.
    """

    def __init__(self, store: Store, hub: Hub, retention: Retention) -> None:
        self._store = store
        self._hub = hub
        self._retention = retention

    async def run(self) -> None:
        """Look again and again, until cancelled; a database that is away has its turn later."""
        while True:
            try:
                await self.sweep()
            except StoreFencedError:
                raise
            except StoreUnavailableError as error:
                logger.info("cleaning_postponed", extra={"error": str(error)})
            await asyncio.sleep(self._retention.interval)

    async def sweep(self) -> None:
        """Delete once all that is no longer kept.

        Raises:
            StoreUnavailableError: the database does not take it; what is left has its turn later.

        Cancellation is safe.
        """
        keep = self._retention
        oldest = await self._store.raise_horizon(keep.max_age, keep.max_events)
        # First of all: who asks for what is about to go is told so.
        self._hub.expire(oldest)
        events = sessions = 0
        while deleted := await self._store.expire_events(CHUNK):
            events += deleted
            await asyncio.sleep(PAUSE)
        while deleted := await self._store.cleanup_stale_connections(keep.max_age, limit=CHUNK):
            sessions += deleted
            await asyncio.sleep(PAUSE)
        if events or sessions:
            logger.info(
                "record_cleaned",
                extra={"events": events, "sessions": sessions, "oldest_revision": oldest},
            )
