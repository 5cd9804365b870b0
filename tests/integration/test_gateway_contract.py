"""What the port to a Gateway promises: of the connector over TCP, and of the fake beside it.

The fake is what tests in virtual time talk to, so that what they find is true of the real one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Protocol

import pytest

from broker.errors import ErrorCode, GatewayError, IllegalInputError, Phase
from broker.gateway.base import GatewayConnector, Link, Notice, Probe
from broker.gateway.ib import IBConnector
from broker.session.model import SessionEvent
from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway
from broker.store.postgres import RecordRefusedError
from broker.store.record import PostgresStore
from tests.harness import eventually
from tests.integration.test_store import opened
from tests.memory_store import MemoryStore
from tests.scripted_gateway import Mood, ScriptedGateway


class World(Protocol):
    """A Gateway that can be told what to do, and the connector to it."""

    port: int

    @property
    def connector(self) -> GatewayConnector: ...

    async def refuse(self) -> None: ...
    def meet(self, mood: Mood) -> None: ...
    def drop(self) -> None: ...
    def mute(self) -> None: ...
    def notify(self, code: int, text: str) -> None: ...
    def held(self) -> set[int]: ...


class Real:
    """``IBConnector`` and the simulated Gateway."""

    def __init__(self, simulator: SimulatedGateway) -> None:
        self.connector = IBConnector()
        self.port = simulator.port
        self._simulator = simulator

    async def refuse(self) -> None:
        await self._simulator.stop_listening()

    def meet(self, mood: Mood) -> None:
        self._simulator.arm(
            {
                Mood.SILENT: Fault.SILENT_AFTER_ACCEPT,
                Mood.DISCLAIMER: Fault.PAPER_DISCLAIMER,
                Mood.IN_USE: Fault.CLIENT_ID_IN_USE,
            }[mood]
        )

    def drop(self) -> None:
        self._simulator.drop()

    def mute(self) -> None:
        self._simulator.mute(True)

    def notify(self, code: int, text: str) -> None:
        self._simulator.notify(code, text)

    def held(self) -> set[int]:
        return set(self._simulator.client_ids)


class Fake:
    """``ScriptedGateway``, which is both."""

    port = 4002

    def __init__(self) -> None:
        self.connector = ScriptedGateway()
        self.connector.greeting = (Notice(2104, "Market data farm connection is OK:usfarm"),)

    async def refuse(self) -> None:
        self.connector.mood = Mood.REFUSES

    def meet(self, mood: Mood) -> None:
        self.connector.mood = mood

    def drop(self) -> None:
        self.connector.drop()

    def mute(self) -> None:
        self.connector.muted = True

    def notify(self, code: int, text: str) -> None:
        self.connector.notify(code, text)

    def held(self) -> set[int]:
        return set(self.connector.links)


@pytest.fixture(params=["real", "fake"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "fake":
        yield Fake()
        return
    async with SimulatedGateway() as simulator:
        yield Real(simulator)


async def dial(
    world: World,
    client_id: int = 7,
    *,
    timeout: float = 5.0,
    on_notice: Callable[[Notice], None] = lambda _: None,
) -> Link:
    return await world.connector.connect(
        host="127.0.0.1",
        port=world.port,
        client_id=client_id,
        timeout=timeout,
        on_notice=on_notice,
    )


async def test_a_link_knows_its_version_and_accounts_and_holds_its_id(world: World) -> None:
    link = await dial(world)
    assert link.server_version == 178
    assert link.accounts
    assert world.held() == {7}
    await link.close()
    await eventually(lambda: not world.held())


async def test_notices_come_during_the_handshake_and_after_it(world: World) -> None:
    seen: list[Notice] = []
    link = await dial(world, on_notice=seen.append)
    await eventually(lambda: any(notice.code == 2104 for notice in seen))
    before = link.last_received
    await asyncio.sleep(0.01)
    world.notify(1100, "lost")
    await eventually(lambda: seen[-1] == Notice(1100, "lost"))
    assert link.last_received > before
    await link.close()


@pytest.mark.parametrize(
    ("mood", "code", "phase", "tws_code", "answered"),
    [
        (Mood.REFUSES, ErrorCode.CONNECTION, Phase.TCP, 0, False),
        (Mood.SILENT, ErrorCode.TIMEOUT, Phase.HANDSHAKE, 0, False),
        (Mood.DISCLAIMER, ErrorCode.AUTHENTICATION, Phase.START_API, 10141, True),
        (Mood.IN_USE, ErrorCode.CLIENT_ID_IN_USE, Phase.START_API, 326, True),
    ],
)
async def test_a_failed_attempt_says_what_failed_and_leaves_nothing(
    world: World, mood: Mood, code: ErrorCode, phase: Phase, tws_code: int, answered: bool
) -> None:
    if mood is Mood.REFUSES:
        await world.refuse()
    else:
        world.meet(mood)
    with pytest.raises(GatewayError) as caught:
        await dial(world, timeout=0.3)
    error = caught.value
    assert (error.code, error.phase, error.tws_code, error.answered) == (
        code,
        phase,
        tws_code,
        answered,
    )
    assert error.hint
    assert not world.held()


async def test_one_id_is_granted_to_one_link(world: World) -> None:
    link = await dial(world)
    with pytest.raises(GatewayError) as caught:
        await dial(world)
    assert caught.value.tws_code == 326
    await link.close()
    await (await dial(world)).close()


async def test_a_dial_that_is_given_up_leaves_nothing(world: World) -> None:
    world.meet(Mood.SILENT)
    task = asyncio.create_task(dial(world), name="dial")
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert not world.held()


async def test_all_who_wait_learn_why_the_link_was_lost(world: World) -> None:
    link = await dial(world)
    waiting = [asyncio.create_task(link.wait_lost(), name=f"wait {n}") for n in range(2)]
    await asyncio.sleep(0)
    world.drop()
    errors = await asyncio.wait_for(asyncio.gather(*waiting), 5)
    assert {(error.code, error.phase, error.answered) for error in errors} == {
        (ErrorCode.CONNECTION, Phase.CONNECTED, True)
    }
    assert len({id(error) for error in errors}) == 2
    with pytest.raises(GatewayError):
        await link.probe(1.0)
    assert not world.held()
    await link.close()


async def test_an_answer_is_shared_and_stands_for_a_second(world: World) -> None:
    link = await dial(world)
    first, second = await asyncio.gather(link.probe(5.0), link.probe(5.0))
    assert first is second
    assert await link.probe(5.0) is first
    assert link.last_received >= first.answered_at
    assert first.latency > 0
    await link.close()


async def test_a_mute_gateway_loses_the_link_by_the_probe(world: World) -> None:
    link = await dial(world)
    world.mute()
    with pytest.raises(GatewayError) as caught:
        await link.probe(0.1)
    assert (caught.value.code, caught.value.phase) == (ErrorCode.TIMEOUT, Phase.HEARTBEAT)
    error = await asyncio.wait_for(link.wait_lost(), 5)
    assert (error.code, error.phase) == (ErrorCode.TIMEOUT, Phase.HEARTBEAT)
    await eventually(lambda: not world.held())


async def test_a_probe_that_is_given_up_spares_the_link(world: World) -> None:
    link = await dial(world)
    task: asyncio.Task[Probe] = asyncio.create_task(link.probe(5.0), name="probe")
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert await link.probe(5.0)
    await link.close()


async def test_a_closed_link_was_not_lost_and_answers_nothing(world: World) -> None:
    link = await dial(world)
    waiting = asyncio.create_task(link.wait_lost(), name="wait")
    await link.close()
    await link.close()
    with pytest.raises(GatewayError):
        await link.probe(1.0)
    await asyncio.sleep(0.05)
    assert not waiting.done()
    waiting.cancel()


@pytest.fixture(params=["real", "fake"])
def record(request: pytest.FixtureRequest) -> MemoryStore | PostgresStore:
    if request.param == "fake":
        return MemoryStore()
    store: PostgresStore = request.getfixturevalue("store")
    return store


async def test_events_are_kept_once_each_with_a_dense_revision(
    record: MemoryStore | PostgresStore,
) -> None:
    first: Sequence[SessionEvent] = opened(7)
    second = opened(8)
    assert await record.append([*first, *second]) == [1, 2]
    assert await record.append(second) == [2]
    assert await record.revision() == 2
    with pytest.raises((RecordRefusedError, IllegalInputError)):
        await record.append(_gap(first))
    assert await record.revision() == 2


def _gap(events: Sequence[SessionEvent]) -> list[SessionEvent]:
    last = events[-1]
    return [replace(last, sequence=3, session=replace(last.session, sequence=3))]
