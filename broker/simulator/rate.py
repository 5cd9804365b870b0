"""How many messages a client may send, without I/O; time is an argument, in seconds."""

from collections import deque
from enum import Enum


class Verdict(Enum):
    """What becomes of a message."""

    ACCEPTED = "it is handled"
    VIOLATION = "it is rejected, and the client is told"
    REJECTED = "it is rejected like the one that the client was told of within this second"


class RateLimit:
    """The messages of one client in the last second."""

    def __init__(self) -> None:
        self._accepted: deque[float] = deque()
        self._told = float("-inf")
        self.violations = 0
        """How often the client was to be told."""

    def judge(self, now: float, limit: int) -> Verdict:
        """Count a message."""
        while self._accepted and (
            now - self._accepted[0] >= 1 or len(self._accepted) > limit  # it was lowered
        ):
            self._accepted.popleft()
        if len(self._accepted) < limit:
            self._accepted.append(now)
            return Verdict.ACCEPTED
        if now - self._told < 1:
            return Verdict.REJECTED
        self._told = now
        self.violations += 1
        return Verdict.VIOLATION
