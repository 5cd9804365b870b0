"""A session that lives only as long as somebody says so in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

ABSENCE: Final = 1.0
"""Seconds by which a timer is late only if the broker itself was away: stopped, or out of memory.
Renewals may be waiting to be read then."""


class Lease:
    """Runs out unless it is begun anew; before the first time it does not run.

    Args:
        expire: called when it has run out.
        now: the time, in UTC.
        extended: called when it would have run out, but begins anew.
    """

    def __init__(
        self,
        expire: Callable[[], None],
        now: Callable[[], datetime],
        extended: Callable[[], None] = lambda: None,
    ) -> None:
        self._expire = expire
        self._now = now
        self._extended = extended
        self._timer: asyncio.TimerHandle | None = None
        self._expire_time: datetime | None = None

    @property
    def expire_time(self) -> datetime | None:
        """When it runs out; None if it does not run."""
        return self._expire_time

    def begin(self, ttl: float | None) -> None:
        """Let it run from now on for so many seconds; None is without end."""
        self.stop()
        if ttl is not None:
            loop = asyncio.get_running_loop()
            due = loop.time() + ttl
            self._timer = loop.call_at(due, self._run_out, due, ttl)
            self._expire_time = self._now() + timedelta(seconds=ttl)

    def stop(self) -> None:
        """It does not run any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._expire_time = None

    def _run_out(self, due: float, ttl: float) -> None:
        if asyncio.get_running_loop().time() - due > ABSENCE:
            self.begin(ttl)
            self._extended()
            return
        self.stop()
        self._expire()
