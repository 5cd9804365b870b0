"""What befalls the broker and its database: a deck of misfortunes, shuffled by a seed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from broker.simulator.gateway import SimulatedGateway
from tests.harness import eventually
from tests.robustness.database import Database
from tests.robustness.history import History, Outage
from tests.robustness.process import BrokerProcess


class Nemesis:
    """Deals one card after another; each heals what it broke.

    Args:
        broker: the process.
        database: the cluster, and the name of the broker's database in it.
        gateway: which must not be quiet while the database is away.
        history: where outages are recorded.
        cards: the names of the misfortunes that are dealt; each once before one comes again.
        seed: of the dice.
    """

    def __init__(
        self,
        broker: BrokerProcess,
        database: tuple[Database, str],
        gateway: SimulatedGateway,
        history: History,
        *,
        cards: Sequence[str],
        seed: object,
    ) -> None:
        self.done: Counter[str] = Counter()
        self._broker = broker
        self._database, self._name = database
        self._gateway = gateway
        self._history = history
        self._dice = random.Random(f"{seed} nemesis")
        self._cards = list(cards)

    async def run(self, end: asyncio.Event) -> None:
        """Deal until the end, and the whole deck at least once."""
        dealt = False
        while self._cards and not (dealt and end.is_set()):
            self._dice.shuffle(self._cards)
            for name in self._cards:
                if dealt and end.is_set():
                    break
                await asyncio.sleep(self._dice.uniform(0.2, 0.8))
                await self._broker.serves()
                card: Callable[[], Awaitable[None]] = getattr(self, name)
                self.done[name] += 1
                await card()
            dealt = True
        await self._broker.serves()

    # -- the cards ---------------------------------------------------------------------

    async def kill_broker(self) -> None:
        """-9, at any moment; often in the middle of something."""
        if self._dice.random() < 0.7:
            await self._noise(self._dice.uniform(0.0, 0.3))
        await self._broker.kill()
        await self._restart()

    async def stop_broker(self) -> None:
        """SIGTERM."""
        await self._broker.terminate()
        await self._restart()

    async def freeze_broker(self) -> None:
        """SIGSTOP, SIGCONT."""
        await self._broker.freeze(self._dice.uniform(0.2, 2.0))

    async def cut_database(self) -> None:
        """All its connections are reset."""
        async with self._away("cut"):
            self._database.proxy.cut()

    async def hide_answers(self) -> None:
        """What the database does is done, and nobody hears of it; then its connections are cut."""
        async with self._away("answers hidden"):
            self._database.proxy.stall(answers_only=True)
            await self._noise(self._dice.uniform(0.2, 1.5))
            self._database.proxy.cut()
            self._database.proxy.flow()

    async def slow_database(self) -> None:
        """It answers, but later than anybody waits for it."""
        async with self._away("slow"):
            self._database.proxy.delay = self._dice.uniform(0.05, 0.5)
            await self._noise(self._dice.uniform(1.0, 2.0))
            self._database.proxy.delay = 0.0

    async def stall_database(self) -> None:
        """It does not answer, and then does as if nothing had been."""
        async with self._away("stalled"):
            self._database.proxy.stall()
            await self._noise(self._dice.uniform(0.5, 2.5))
            self._database.proxy.flow()

    async def restart_database(self) -> None:
        """As an administrator does."""
        async with self._away("restarted"):
            await self._database.stop()
            await self._noise(self._dice.uniform(0.0, 1.0))
            await self._database.start()

    async def kill_database(self) -> None:
        """-9."""
        async with self._away("killed"):
            await self._database.kill()
            await self._noise(self._dice.uniform(0.0, 1.0))
            await self._database.start()

    async def kill_broker_while_the_database_is_away(self) -> None:
        """What was told before it was kept is lost."""
        async with self._away("stalled, broker killed"):
            self._database.proxy.stall()
            await self._noise(self._dice.uniform(0.5, 1.5))
            await self._broker.kill()
            self._database.proxy.cut()
            self._database.proxy.flow()
        await self._restart()

    async def kill_broker_while_answers_are_hidden(self) -> None:
        """The record has what the broker that wrote it never knew."""
        async with self._away("answers hidden, broker killed"):
            self._database.proxy.stall(answers_only=True)
            await self._noise(self._dice.uniform(0.1, 1.5))
            await self._broker.kill()
            self._database.proxy.cut()
            self._database.proxy.flow()
        await self._restart()

    async def stop_broker_while_the_database_is_away(self) -> None:
        """It cannot write what it has, and cannot wait for ever."""
        async with self._away("stalled, broker stopped"):
            self._database.proxy.stall()
            await self._noise(self._dice.uniform(0.5, 1.0))
            await self._broker.terminate()
            self._database.proxy.flow()
        await self._restart()

    async def start_broker_while_the_database_is_away(self) -> None:
        """It cannot, and says so, until it can."""
        await self._broker.kill()
        async with self._away("refused, broker started"):
            self._database.proxy.refuse()
            self._broker.release()
            await asyncio.sleep(self._dice.uniform(0.5, 2.5))
            self._database.proxy.flow()
        await self._broker.serves()

    async def burst(self) -> None:
        """More happens in a moment than memory holds."""
        for _ in range(30):
            self._flap()
            await asyncio.sleep(0.015)

    async def storm(self) -> None:
        """More happens than the record keeps, and than a watcher may lag behind."""
        for _ in range(150):
            self._flap()
            await asyncio.sleep(0.01)

    async def murmur(self) -> None:
        """A little happens."""
        for _ in range(10):
            self._flap()
            await asyncio.sleep(0.02)

    async def drop_links(self) -> None:
        """The Gateway drops every connection, twice."""
        for _ in range(2):
            self._gateway.drop()
            await asyncio.sleep(0.3)

    # -- how they are made -------------------------------------------------------------

    async def _restart(self) -> None:
        await asyncio.sleep(self._dice.choice((0.0, 0.3)) * self._dice.random())
        self._broker.release()
        await self._broker.serves()

    @asynccontextmanager
    async def _away(self, kind: str) -> AsyncIterator[None]:
        """An outage: until the database answers again."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        yield
        await eventually(lambda: self._database.answers(self._name), timeout=60)
        self._history.outages.append(Outage(kind, began, loop.time()))

    async def _noise(self, seconds: float) -> None:
        """Things happen meanwhile that the broker observes and cannot refuse."""
        end = asyncio.get_running_loop().time() + seconds
        while True:
            self._flap()
            if self._dice.random() < 0.3:
                self._gateway.drop(reset=self._dice.random() < 0.5)
            left = end - asyncio.get_running_loop().time()
            if left <= 0:
                return
            await asyncio.sleep(min(left, 0.15))

    def _flap(self) -> None:
        """Two events for each session that is CONNECTED."""
        for code in (2103, 2104):
            self._gateway.notify(code)


ALL = (
    "burst",
    "storm",
    "kill_broker",
    "kill_broker",
    "stop_broker",
    "freeze_broker",
    "cut_database",
    "hide_answers",
    "slow_database",
    "stall_database",
    "restart_database",
    "kill_database",
    "start_broker_while_the_database_is_away",
    "kill_broker_while_the_database_is_away",
    "kill_broker_while_answers_are_hidden",
    "stop_broker_while_the_database_is_away",
)
"""The whole deck."""

SHORT = (
    "burst",
    "storm",
    "kill_broker",
    "stop_broker",
    "hide_answers",
    "stall_database",
    "kill_database",
    "start_broker_while_the_database_is_away",
    "kill_broker_while_the_database_is_away",
)
"""What takes half a minute."""
