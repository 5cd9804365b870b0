"""What the connections of one simulated Gateway share. Owned by SimulatedGateway; used on one event
loop only.
"""

import time
from collections import deque
from collections.abc import Callable

from broker.simulator.faults import FaultQueue
from broker.simulator.journal import ConnectionRecord, Statistics
from broker.simulator.registry import Registry
from broker.simulator.settings import SimulatorSettings


class SimulatorState:
    """Settings, registry, armed faults, journal. `wall_clock` returns seconds since 1970."""

    def __init__(
        self, settings: SimulatorSettings, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self.settings = settings
        self.wall_clock = wall_clock
        self.statistics = Statistics()
        self.registry = Registry(settings.seats, settings.first_order_id, self.statistics)
        self.faults = FaultQueue()
        self.journal: deque[ConnectionRecord] = deque(maxlen=settings.journal_limit)
        self.muted = False
        self.stopping = False

    def connection_time(self) -> bytes:
        """The second field of the version reply."""
        if self.settings.connection_time is not None:
            return self.settings.connection_time
        return time.strftime("%Y%m%d %H:%M:%S UTC", time.gmtime(self.wall_clock())).encode()

    def milliseconds(self) -> int:
        """Wall time for error messages."""
        return int(self.wall_clock() * 1000)

    def begin_handshake(self) -> None:
        """Count a connection that was accepted."""
        self.statistics.handshakes += 1
        self.statistics.max_handshakes = max(
            self.statistics.max_handshakes, self.statistics.handshakes
        )

    def end_handshake(self) -> None:
        """Count a connection that became ready, or ended before."""
        self.statistics.handshakes -= 1
