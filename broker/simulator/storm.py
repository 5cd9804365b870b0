"""A storm of error messages, such as a Gateway sends while its line to IB's servers flaps."""

from dataclasses import dataclass

from broker.simulator.protocol import NO_ID
from broker.simulator.settings import check_durations
from broker.simulator.upstream import KNOWN_CODES

MAX_CODES = 20
MAX_ROUNDS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """The codes in their order are one round. Raises ValueError for what cannot be."""

    codes: tuple[int, ...]
    """Such as (1100, 1102); those whose words are known."""
    count: int = 1
    """How many rounds."""
    interval: float = 1.0
    """Seconds from one message to the next."""
    client_id: int | None = None
    """Only that client is told; None tells all that are ready when a message is sent."""
    request_id: int = NO_ID
    """The request that 10182 and 10197 are about."""

    def __post_init__(self) -> None:
        check_durations(self, "interval")
        if not 1 <= len(self.codes) <= MAX_CODES:
            raise ValueError(f"codes has {len(self.codes)} items, not 1 to {MAX_CODES}")
        for code in self.codes:
            if code not in KNOWN_CODES:
                known = ", ".join(map(str, KNOWN_CODES))
                raise ValueError(f"codes contains {code}; IB's words are known for {known}")
        if not 1 <= self.count <= MAX_ROUNDS:
            raise ValueError(f"count is {self.count}, not 1 to {MAX_ROUNDS}")
