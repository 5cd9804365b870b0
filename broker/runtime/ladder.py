"""How long a session waits before it dials again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from broker.gateway.endpoint import Endpoint
from broker.session import machine
from broker.session.model import Failure, Session

STABLE: Final = 60.0
"""Seconds after which a link counts as one that works: losing it is news, not the same trouble."""

HUMAN_PAUSE: Final = 60.0
"""Seconds between two dials of a Gateway that waits for a human."""


class Ladder:
    """A session's own waits, beside those for a gateway that gives nobody an answer.

    Args:
        endpoint: the session's gateway.
        random: a number in [0, 1).
    """

    def __init__(self, endpoint: Endpoint, random: Callable[[], float]) -> None:
        self._endpoint = endpoint
        self._random = random
        self._up_at = 0.0
        # Links that did not last, and dials since the last one that was answered and failed all
        # the same.
        self._unstable = 0
        self._rung = 0

    def link_up(self) -> None:
        """A link was made."""
        self._up_at = asyncio.get_running_loop().time()
        self._rung = 0

    def link_lost(self) -> float | None:
        """Seconds until the first dial for a link that was lost; None if an operator decides."""
        stable = asyncio.get_running_loop().time() - self._up_at >= STABLE
        self._unstable = 0 if stable else self._unstable + 1
        if self._endpoint.drain is not None:
            return None
        return 0.0 if stable else self._delay(self._unstable)

    def failed(self, session: Session, failure: Failure) -> float | None:
        """Seconds until the next dial after one that failed; None if an operator decides."""
        reconnecting = session.state is machine.RECONNECTING
        if self._endpoint.drain is not None and reconnecting:
            return None
        retry_in = self._endpoint.retry_in
        if failure.blames_gateway and retry_in is not None:
            return retry_in
        # A ladder of the session's own: how long the Gateway was away is no reason to wait.
        self._rung += 1
        if failure.awaits_human and reconnecting:
            since = machine.with_since(session, failure).since or failure.time
            if (failure.time - since).total_seconds() >= self._endpoint.settings.auth_grace:
                return HUMAN_PAUSE
        return self._delay(self._rung + self._unstable)

    def crashed(self, in_a_row: int) -> float:
        """Seconds until a session goes on whose own task has failed so often."""
        return self._delay(in_a_row)

    def _delay(self, rung: int) -> float:
        return self._endpoint.settings.backoff.delay(rung, self._random())
