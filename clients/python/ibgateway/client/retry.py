"""How long to wait before something is tried again."""

from __future__ import annotations

from dataclasses import dataclass

_MOST_DOUBLINGS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waits that double, up to a limit, and differ from client to client.

    The wait after the n-th failure in a row, from 0, is between a half and the whole of
    ``min(maximum, initial * 2**n)``. If the broker says when to ask again, it is that, and up to a
    quarter longer: those who were refused together do not return together.

    Args:
        initial: seconds of the first wait, at most.
        maximum: seconds of any wait, unless the broker asks for a longer one.
    """

    initial: float = 0.2
    maximum: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.initial <= self.maximum:
            raise ValueError(f"0 < initial <= maximum must hold, not {self}")

    def delay(self, failures: int, *, retry_after: float | None, chance: float) -> float:
        """Seconds to wait.

        Args:
            failures: how many failures in a row came before this one.
            retry_after: seconds that the broker asks for; None if it does not.
            chance: a random number, 0 to 1.
        """
        if retry_after is not None:
            return max(self.initial, retry_after) * (1 + chance / 4)
        whole: float = min(self.maximum, self.initial * 2 ** min(failures, _MOST_DOUBLINGS))
        return whole * (1 + chance) / 2
