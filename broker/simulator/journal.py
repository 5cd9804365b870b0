"""What a simulated Gateway saw, for assertions: one record per connection, and counts."""

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum


class End(Enum):
    """How a connection ended."""

    FIN = "fin"
    """The client closed properly."""
    RESET = "reset"
    """The client, or the network, sent RST."""
    LOST = "lost"
    """The client fell silent for longer than is allowed."""
    OURS = "ours"
    """The Gateway ended it."""


@dataclass(slots=True)
class ConnectionRecord:
    """One accepted connection. Times are of the event loop's clock, in seconds."""

    number: int
    peer: str
    accepted: float
    fault: str | None = None
    client_version: str | None = None
    """The versions that the client announced, such as "157..178"."""
    client_id: int | None = None
    refused: str | None = None
    """Why the Gateway would not serve it: "seats", "version", "326", "10141", or how it broke the
    protocol.
    """
    ready: float | None = None
    """When nextValidId was sent."""
    ended: float | None = None
    end: End | None = None


@dataclass(slots=True)
class Statistics:
    """Counts since the start of the simulator."""

    accepts: int = 0
    """TCP connections accepted, bare probes included."""
    handshakes: int = 0
    """Connections now between accept and nextValidId."""
    max_handshakes: int = 0
    """The most that there ever were at once."""
    refused_seats: int = 0
    refused_client_ids: int = 0
    """Clients turned away with 326 because their id was truly in use; faults do not count."""
    protocol_errors: int = 0
    duplicate_start_api: int = 0
    early_requests: int = 0
    """Requests before nextValidId."""
    muted_requests: int = 0
    """Requests that were read but not answered, being mute."""
    rejected_by_rate: int = 0
    """Messages beyond the rate limit."""
    ignored_current_time: int = 0
    """Requests for the time that came too soon after the last answer."""
    requests: Counter[int] = field(default_factory=Counter)
    """Requests of ready clients by message id."""
    unknown_requests: Counter[int] = field(default_factory=Counter)
    """Those of them that the simulator does not know, by message id; ignored."""
    max_holders: Counter[int] = field(default_factory=Counter)
    """Per client id, the most connections that it was granted to at once: 1, or the simulator is
    wrong.
    """
    max_claims: Counter[int] = field(default_factory=Counter)
    """Per client id, the most connections that asked for it at once: above 1, clients collided."""

    MAX_KEYS = 1000

    def count(self, counter: Counter[int], key: int) -> None:
        """Count a key that a client chose; beyond MAX_KEYS different ones the rest is counted under
        -1.
        """
        counter[key if key in counter or len(counter) < self.MAX_KEYS else -1] += 1
