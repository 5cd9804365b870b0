"""Who waits for an open, and what it means when they go away."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from broker.errors import BrokerDrainingError
from broker.runtime.opening import Opening
from broker.session.model import Session, SessionState
from tests.unit.test_machine import in_state

SESSION = in_state(SessionState.CONNECTED)


class World:
    def __init__(self, *, repeatable: bool = True) -> None:
        self.told: list[str] = []
        self.opening = Opening(
            repeatable=repeatable,
            on_wait=lambda: self.told.append("wait"),
            on_answer=lambda: self.told.append("answer"),
            on_abandoned=lambda: self.told.append("abandoned"),
        )

    def wait(self, *, at_once: bool = False) -> asyncio.Task[Session]:
        return asyncio.create_task(self.opening.answer(at_once=at_once), name="caller")


async def gone(*callers: asyncio.Task[Session]) -> None:
    await asyncio.sleep(0)
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)


async def test_all_who_wait_get_the_answer() -> None:
    world = World()
    callers = [world.wait() for _ in range(3)]
    await asyncio.sleep(0)
    world.opening.settled.set_result(SESSION)
    assert await asyncio.gather(*callers) == [SESSION] * 3
    assert world.told == ["wait"] * 3 + ["answer"] * 3


async def test_the_last_who_goes_away_unanswered_abandons_it() -> None:
    world = World()
    first, second = world.wait(), world.wait()
    await gone(first)
    assert "abandoned" not in world.told
    await gone(second)
    assert world.told == ["wait", "wait", "abandoned"]


async def test_once_somebody_has_the_answer_nobody_abandons_it() -> None:
    world = World()
    world.opening.recorded.set_result(SESSION)
    await world.wait(at_once=True)
    await gone(world.wait())
    assert world.told == ["wait", "answer", "wait", "answer"]


@pytest.mark.parametrize(("repeatable", "last"), [(True, "answer"), (False, "abandoned")])
async def test_who_goes_away_in_the_instant_of_the_answer_may_ask_again_if_that_is_possible(
    repeatable: bool, last: str
) -> None:
    world = World(repeatable=repeatable)
    caller = world.wait()
    await asyncio.sleep(0)
    world.opening.settled.set_result(SESSION)
    caller.cancel()
    await asyncio.wait([caller])
    assert world.told == ["wait", last]


async def test_who_waits_for_what_never_comes_is_told_so_and_nobody_else_notices() -> None:
    world = World()
    caller = world.wait()
    await asyncio.sleep(0)
    world.opening.fail(BrokerDrainingError)
    with pytest.raises(BrokerDrainingError):
        await caller
    with pytest.raises(BrokerDrainingError):
        await world.opening.answer(at_once=True)
    assert "abandoned" not in world.told
    world.opening.fail(BrokerDrainingError)
    assert cast("object", world.opening.settled.exception()) is not None
