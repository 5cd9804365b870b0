"""A session of the broker before, in virtual time: it goes on as if it had never been away."""

from __future__ import annotations

import asyncio

from broker.session import machine
from broker.session.budgets import Budgets
from tests.scripted_gateway import Mood
from tests.unit.test_outages import HOUR, world
from tests.virtual_time import now, run, until


def test_alarms_that_the_broker_before_has_given_are_not_given_again() -> None:
    async def body() -> None:
        async with world(budgets=Budgets(reconnecting=300.0)) as made:
            before = await made.connected(7)
            made.gateway.leave()
            await asyncio.sleep(10 * HOUR)
            before.request_stop()
            await before.released
            told = made.notices("OVERDUE")
            assert [round(time) for time, _ in told][-1] < 10 * HOUR
            made.take_up(made.hub.kept[before.session.spec.session_id])
            await asyncio.sleep(1)
            assert made.notices("OVERDUE") == told
            # 300 s * 2**7 after the loss.
            await asyncio.sleep(HOUR)
            assert len(made.notices("OVERDUE")) == len(told) + 1

    run(body())


def test_a_session_of_the_broker_before_dials_on_as_it_would_have() -> None:
    async def body() -> None:
        async with world() as made:
            before = await made.connected(7)
            made.gateway.leave()
            await until(lambda: before.session.attempt == 3)
            before.request_stop()
            await before.released
            due = before.session.next_attempt_time
            assert due is not None
            dials = len(made.gateway.dials)
            after = made.take_up(made.hub.kept[before.session.spec.session_id])
            await until(lambda: len(made.gateway.dials) > dials)
            assert now() >= due
            made.gateway.mood = Mood.WELL
            await until(lambda: after.session.state is machine.CONNECTED, 60)
            assert (after.session.generation, after.session.client_id) == (2, 7)

    run(body())
