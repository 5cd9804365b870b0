"""What the record gives up: how far, and bit by bit."""

from __future__ import annotations

from typing import Final, cast

from broker.store.postgres import Database

_STEP: Final = 10_000
"""Events that are looked at in one statement: some milliseconds."""


class Expiry:
    """Deletes from the record what is no longer kept.

    It asks for no epoch, so that a command can do it beside a broker: ``queries.sql`` says why
    that is safe.

    Args:
        database: where the record is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        # Everything below is deleted; 0 is that it was not looked up yet.
        self._first = 0

    async def find_horizon(self, max_age_seconds: float, max_events: int) -> int:
        """Where ``raise_horizon`` would move the horizon to."""
        horizon, found = 0, False
        while not found:
            (row,) = await self._database.fetch(
                "find_horizon", max_age_seconds, max_events, horizon, _STEP
            )
            horizon, found = row["horizon"], row["found"]
        return horizon

    async def raise_horizon(self, max_age_seconds: float, max_events: int) -> int:
        """Move the retention horizon up; see ``Store``."""
        horizon = await self.find_horizon(max_age_seconds, max_events)
        (row,) = await self._database.fetch("raise_horizon", horizon)
        return cast("int", row["retention_horizon"])

    async def expire_events(self, limit: int) -> int:
        """Delete events below the horizon; see ``Store``."""
        if not self._first:
            self._first, _ = await self.log_extent()
        deleted, more = 0, True
        # What another has deleted meanwhile is no reason to stop.
        while not deleted and more:
            (row,) = await self._database.fetch("expire_events", self._first, limit)
            deleted, more = row["deleted"], row["more"]
            self._first = max(self._first, row["next"])
        return deleted

    async def cleanup_stale_connections(self, max_age_seconds: float, *, limit: int) -> int:
        """Delete final sessions without events; see ``Store``."""
        (row,) = await self._database.fetch("cleanup_stale_connections", max_age_seconds, limit)
        return cast("int", row["deleted"])

    async def count_stale_connections(self, max_age_seconds: float) -> int:
        """How many sessions there are to be cleaned up."""
        (row,) = await self._database.fetch("count_stale_connections", max_age_seconds)
        return cast("int", row["count"])

    async def log_extent(self) -> tuple[int, int]:
        """The revision of the oldest event that is there, and of the newest; in a log without
        events the oldest is one more than the newest.
        """
        (row,) = await self._database.fetch("log_extent")
        return row["oldest"], row["newest"]
