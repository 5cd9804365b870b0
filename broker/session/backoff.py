"""How long to wait between two attempts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential delays: 1, 2, 4, 8, 16, 32 s by default, each ±20 %.

    ``initial`` and ``maximum`` are in seconds; ``jitter`` is a fraction.
    """

    initial: float = 1.0
    maximum: float = 32.0
    jitter: float = 0.2

    def delay(self, attempt: int, random: float) -> float:
        """Seconds to wait after a failed attempt.

        Args:
            attempt: the number of attempts that failed, from 1.
            random: in [0, 1); 0.5 is no jitter.
        """
        # 2.0**1024 overflows; long before that every delay is the maximum.
        base = min(self.initial * 2.0 ** min(attempt - 1, 64), self.maximum)
        return base * (1.0 + self.jitter * (2.0 * random - 1.0))
