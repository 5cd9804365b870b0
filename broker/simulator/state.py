"""What the connections of one simulated Gateway share. Owned by SimulatedGateway; used on one event
loop only.
"""

import time
from collections import deque
from collections.abc import Callable

from broker.simulator.faults import Fault, FaultQueue
from broker.simulator.journal import ConnectionRecord, Statistics
from broker.simulator.registry import Registry
from broker.simulator.restart import Aftermath
from broker.simulator.settings import SimulatorSettings
from broker.simulator.upstream import Upstream


class SimulatorState:
    """Settings, registry, armed faults, journal. `wall_clock` returns seconds since 1970."""

    MAX_MUTED_IDS = 1000

    def __init__(
        self, settings: SimulatorSettings, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self.settings = settings
        self.wall_clock = wall_clock
        self.statistics = Statistics()
        self.registry = Registry(settings.seats, settings.first_order_id, self.statistics)
        self.faults = FaultQueue()
        self.journal: deque[ConnectionRecord] = deque(maxlen=settings.journal_limit)
        self.upstream = Upstream(settings.farm_notices)
        self.aftermath: Aftermath | None = None
        self.muted = False
        self.muted_ids: set[int] = set()
        self.down = False
        """Whether connections that were accepted in the last moment are to be reset."""

    def is_muted(self, client_id: int | None) -> bool:
        """Whether a connection, known by the id that it asked for if it did, is not answered."""
        return self.muted or client_id in self.muted_ids

    def mute(self, muted: bool, client_id: int | None) -> None:
        """Mute everything or one id, or end that. Raises ValueError beyond MAX_MUTED_IDS ids."""
        if client_id is None:
            self.muted = muted
        elif not muted:
            self.muted_ids.discard(client_id)
        elif client_id < 0:
            raise ValueError(f"client_id is {client_id}; ids are 0 or above")
        elif len(self.muted_ids) >= self.MAX_MUTED_IDS:
            raise ValueError(f"{self.MAX_MUTED_IDS} ids are mute already")
        else:
            self.muted_ids.add(client_id)

    def take_fault(self) -> Fault | None:
        """The fault of a new connection: one that was armed, or that of a restart."""
        armed = self.faults.take()
        return self.aftermath.take() if armed is None and self.aftermath is not None else armed

    def restart(self, next_order_id: int | None) -> None:
        """Forget what a process forgets when it is restarted."""
        self.muted, self.muted_ids = False, set()
        self.upstream.restart()
        self.registry.restart(next_order_id)

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
