"""A stream of faults, random but seeded: the same seed gives the same faults."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable

from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway
from broker.simulator.restart import Restart

CONNECT_FAULTS = (
    Fault.RESET_AFTER_ACCEPT,
    Fault.CLOSE_AFTER_ACCEPT,
    Fault.SILENT_AFTER_START,
    Fault.CLIENT_ID_IN_USE,
    Fault.PAPER_DISCLAIMER,
    Fault.CLOSE_AFTER_START_500_MS,
)
NOTICES = (1100, 1101, 1102, 2103, 2104, 2105, 2106, 2107, 2108, 2110, 2119, 2157, 2158, 10197)


class FaultStream:
    """Breaks a simulated Gateway in every way that it knows, one after another.

    Args:
        gateway: what is broken.
        client_ids: those whose connections may be singled out.
        seed: of the dice.
    """

    def __init__(self, gateway: SimulatedGateway, client_ids: list[int], seed: int) -> None:
        self.done: Counter[str] = Counter()
        self._gateway = gateway
        self._client_ids = client_ids
        self._dice = random.Random(seed)
        self._faults: list[Callable[[], Awaitable[None]]] = [
            self._drop_one,
            self._drop_one,
            self._drop_all,
            self._notices,
            self._notices,
            self._connect_fault,
            self._mute,
            self._away,
            self._restart,
            self._ghost,
        ]

    async def run(self, seconds: float) -> None:
        """Break it for so long, and mend it at the end."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            fault = self._dice.choice(self._faults)
            self.done[fault.__name__.removeprefix("_")] += 1
            await fault()
            await asyncio.sleep(self._dice.uniform(0.05, 1.0))
        await self._gateway.stop_restart()
        self._gateway.clear()
        self._gateway.mute(False)
        await self._gateway.start_listening()
        for client_id in self._client_ids:
            self._gateway.ghost(client_id, 0)

    async def _drop_one(self) -> None:
        self._gateway.drop(
            client_id=self._dice.choice(self._client_ids),
            reset=self._dice.random() < 0.5,
            mid_message=self._dice.random() < 0.2,
        )

    async def _drop_all(self) -> None:
        self._gateway.drop(reset=self._dice.random() < 0.5)

    async def _notices(self) -> None:
        for _ in range(self._dice.randrange(1, 20)):
            self._gateway.notify(self._dice.choice(NOTICES))

    async def _connect_fault(self) -> None:
        self._gateway.arm(self._dice.choice(CONNECT_FAULTS), times=self._dice.randrange(1, 4))
        self._gateway.drop(client_id=self._dice.choice(self._client_ids))

    async def _mute(self) -> None:
        self._gateway.mute(True)
        await asyncio.sleep(self._dice.uniform(0.5, 3.0))
        self._gateway.mute(False)

    async def _away(self) -> None:
        await self._gateway.stop_listening()
        if self._dice.random() < 0.7:
            self._gateway.drop()
        await asyncio.sleep(self._dice.uniform(0.1, 2.0))
        await self._gateway.start_listening()

    async def _restart(self) -> None:
        restart = Restart(
            notices=self._dice.randrange(3),
            notice_interval=0.05,
            reset=self._dice.random() < 0.5,
            down=self._dice.uniform(0.1, 1.0),
            first_duration=self._dice.uniform(0.1, 0.5),
            ghosts=self._dice.uniform(0.0, 0.5),
        )
        await self._gateway.start_restart(restart).wait()

    async def _ghost(self) -> None:
        client_id = self._dice.choice(self._client_ids)
        self._gateway.ghost(client_id, self._dice.uniform(0.1, 1.0))
        self._gateway.drop(client_id=client_id, reset=True)
