"""A Gateway without sockets, for the event loop whose time is virtual.

It behaves as ``IBConnector`` does in front of a Gateway; ``test_gateway_contract.py`` holds
both to the same sentences, and errors are made where the real ones are.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from broker.errors import GatewayError, Phase
from broker.gateway import faults
from broker.gateway.base import Link, Notice, Probe
from broker.gateway.fault_table import Symptom
from broker.gateway.faults import Target
from broker.gateway.wire import PROBE_SPACING

LATENCY = 0.02
"""Seconds of a handshake, and of an answer."""


class Mood(enum.Enum):
    """What whoever dials meets."""

    WELL = enum.auto()
    REFUSES = enum.auto()
    SILENT = enum.auto()
    DISCLAIMER = enum.auto()
    IN_USE = enum.auto()
    BUG = enum.auto()
    """No Gateway does this: the connector itself fails."""


@dataclass(frozen=True)
class Dialled:
    time: float
    client_id: int
    mood: Mood


class ScriptedGateway:
    """A Gateway and its connector in one.

    Attributes:
        mood: what the next dials meet.
        muted: links stay open and answer nothing.
        greeting: what each link is told in its handshake.
        dials: all of them.
        most: how many dials there ever were at once.
    """

    def __init__(self) -> None:
        self.mood = Mood.WELL
        self.muted = False
        self.greeting: tuple[Notice, ...] = ()
        self.dials: list[Dialled] = []
        self.most = 0
        self.links: dict[int, ScriptedLink] = {}
        self._dialling = 0

    async def connect(
        self,
        *,
        host: str,
        port: int,
        client_id: int,
        timeout: float,
        on_notice: Callable[[Notice], None],
        on_phase: Callable[[Phase], None] = lambda _: None,
    ) -> Link:
        target = Target(host, port, client_id)
        mood = self.mood
        self.dials.append(Dialled(asyncio.get_running_loop().time(), client_id, mood))
        self._dialling += 1
        self.most = max(self.most, self._dialling)
        try:
            await self._meet(mood, target, timeout)
        finally:
            self._dialling -= 1
        link = ScriptedLink(self, target, on_notice)
        for notice in self.greeting:
            on_notice(notice)
        return link

    async def _meet(self, mood: Mood, target: Target, timeout: float) -> None:
        match mood:
            case Mood.BUG:
                raise RuntimeError("a bug of the connector")
            case Mood.REFUSES:
                await asyncio.sleep(0)
                raise faults.failure(Symptom.REFUSED, target)
            case Mood.SILENT:
                await asyncio.sleep(timeout)
                raise faults.silence_failure(target, Phase.HANDSHAKE, timeout)
        await asyncio.sleep(LATENCY)
        if mood is Mood.DISCLAIMER:
            raise faults.notice_failure(Notice(10141, "accept it"), target, Phase.START_API)
        if mood is Mood.IN_USE or target.client_id in self.links:
            raise faults.notice_failure(Notice(326, "in use"), target, Phase.START_API)

    def drop(self) -> None:
        """Close all links, with FIN."""
        for link in list(self.links.values()):
            link.end(Symptom.PEER_CLOSED)

    def leave(self) -> None:
        """Be away, as when nothing listens any more."""
        self.mood = Mood.REFUSES
        self.drop()

    def notify(self, code: int, text: str) -> None:
        for link in list(self.links.values()):
            link.take(Notice(code, text))


class ScriptedLink:
    """One link; it ends when the Gateway drops it, when it does not answer, or by ``close``."""

    server_version = 178
    accounts = ("DU1",)

    def __init__(
        self, gateway: ScriptedGateway, target: Target, on_notice: Callable[[Notice], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        self.last_received = loop.time()
        self.closing = False
        self.breaks = False
        self._gateway = gateway
        self._target = target
        self._on_notice = on_notice
        self._ended: asyncio.Future[None] = loop.create_future()
        self._lost: asyncio.Future[None] = loop.create_future()
        self._loss: Callable[[], GatewayError] | None = None
        self._last_answer: Probe | None = None
        self._asking: asyncio.Future[None] | None = None
        gateway.links[target.client_id] = self

    async def wait_lost(self) -> GatewayError:
        await asyncio.wait({self._lost})
        if self.breaks:
            raise RuntimeError("a bug of the link")
        return self._end_error()

    def crash(self) -> None:
        """No Gateway does this: whoever waits for the link's end meets a bug."""
        self.breaks = True
        self._lost.set_result(None)

    async def probe(self, timeout: float) -> Probe:
        loop = asyncio.get_running_loop()
        if self._ended.done():
            raise self._end_error()
        if (
            self._last_answer is not None
            and loop.time() - self._last_answer.answered_at < PROBE_SPACING
        ):
            return self._last_answer
        if self._asking is None:
            self._asking = loop.create_future()
            loop.call_later(LATENCY, self._answer, self._asking)
        done, _ = await asyncio.wait(
            {self._asking, self._ended}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
        )
        if not done:
            self._give_up(lambda: faults.silence_failure(self._target, Phase.HEARTBEAT, timeout))
        if self._ended.done() or self._last_answer is None:
            raise self._end_error()
        return self._last_answer

    async def close(self) -> bool:
        self.closing = True
        if not self._ended.done():
            await asyncio.sleep(0)
            self._finish()
        return True

    def take(self, notice: Notice) -> None:
        self.last_received = asyncio.get_running_loop().time()
        self._on_notice(notice)

    def end(self, symptom: Symptom) -> None:
        self._give_up(lambda: faults.failure(symptom, self._target))

    def _answer(self, asking: asyncio.Future[None]) -> None:
        if self._ended.done() or self._gateway.muted:
            return
        now = asyncio.get_running_loop().time()
        self.last_received = now
        server_time = datetime.fromtimestamp(int(now), UTC)
        self._last_answer = Probe(LATENCY, server_time, now)
        self._asking = None
        asking.set_result(None)

    def _give_up(self, loss: Callable[[], GatewayError]) -> None:
        if self._ended.done():
            return
        if not self.closing:
            self._loss = loss
            if not self._lost.done():
                self._lost.set_result(None)
        self._finish()

    def _finish(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
            del self._gateway.links[self._target.client_id]

    def _end_error(self) -> GatewayError:
        if self._loss is not None:
            return self._loss()
        return faults.failure(Symptom.CLOSED_BY_BROKER, self._target)
