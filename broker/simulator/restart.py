"""The nightly restart of a Gateway, as its clients see it: what it is told, and what the first
connections afterwards meet. Without I/O.
"""

import asyncio
from dataclasses import dataclass

from broker.simulator.faults import Fault
from broker.simulator.settings import check_durations

MAX_NOTICES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """What happens, in this order. All durations are seconds. Raises ValueError for what cannot be.

    A restarted Gateway is no longer mute, has forgotten which ids it held and reaches IB's servers.
    Armed faults stay armed; they come before `first_fault`.
    """

    notices: int = 0
    """How many 1100 come first."""
    notice_interval: float = 1.0
    """After each of them."""
    reset: bool = True
    """Whether clients are dropped with RST; otherwise with FIN."""
    down: float = 30.0
    """From the drop until the port is open again."""
    first_fault: Fault = Fault.PAPER_DISCLAIMER
    """What the first connections meet, if either of the next two says so; EMPTY_ACCOUNTS is another
    likely one.
    """
    first_connections: int | None = None
    """It ends when so many connections have met it..."""
    first_duration: float | None = None
    """...or so long after the port was opened, whichever is sooner."""
    ghosts: float = 0.0
    """For how long after the port was opened the ids that were connected before are in use."""
    next_order_id: int | None = None
    """The nextValidId of every client id afterwards, even if lower than before; None keeps them."""

    def __post_init__(self) -> None:
        check_durations(self, "notice_interval", "down", "first_duration", "ghosts")
        if not 0 <= self.notices <= MAX_NOTICES:
            raise ValueError(f"notices is {self.notices}, not 0 to {MAX_NOTICES}")
        if self.first_connections is not None and not 1 <= self.first_connections <= 1_000_000:
            raise ValueError(f"first_connections is {self.first_connections}, not 1 to 1000000")
        if self.next_order_id is not None and not 1 <= self.next_order_id < 2**31:
            raise ValueError(f"next_order_id is {self.next_order_id}, not 1 to 2147483647")

    @property
    def has_first_fault(self) -> bool:
        """Whether the first connections afterwards suffer a fault."""
        return self.first_connections is not None or self.first_duration is not None


class Aftermath:
    """The fault of the first connections after a restart; `over` is set once the last met it."""

    def __init__(self, fault: Fault, connections: int | None) -> None:
        self._fault = fault
        self._left = connections
        self.over = asyncio.Event()

    def take(self) -> Fault | None:
        """Return the fault of a new connection and count it."""
        if self.over.is_set():
            return None
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                self.over.set()
        return self._fault
