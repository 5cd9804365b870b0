"""How many messages a client may send, without I/O; time is an argument, in seconds."""

from enum import Enum


class Verdict(Enum):
    """What becomes of a message."""

    ACCEPTED = "it is handled"
    VIOLATION = "it is rejected, and the client is told"
    REJECTED = "it is rejected like the one that the client was told of within this second"


class RateLimit:
    """A bucket of `limit` messages that fills in a second: so many at once, and so many a second.

    A client that paces itself, as ib_async does, is never rejected because a message was late.
    """

    def __init__(self) -> None:
        self._left: float | None = None
        self._counted = self._told = float("-inf")
        self.violations = 0
        """How often the client was to be told."""

    def judge(self, now: float, limit: int) -> Verdict:
        """Count a message; `limit` may change from one to the next."""
        filled = limit if self._left is None else self._left + (now - self._counted) * limit
        self._counted, self._left = now, min(float(limit), filled)
        if self._left >= 1:
            self._left -= 1
            return Verdict.ACCEPTED
        if now - self._told < 1:
            return Verdict.REJECTED
        self._told = now
        self.violations += 1
        return Verdict.VIOLATION
