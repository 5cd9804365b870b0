"""A lease runs out unless it is begun anew; not because the broker itself was away."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest

from broker.runtime.lease import ABSENCE, Lease
from tests.virtual_time import BEGIN, now, run


def test_a_lease_runs_out_when_its_time_is_over() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        expired: list[float] = []
        lease = Lease(lambda: expired.append(loop.time()), now)
        assert lease.expire_time is None
        lease.begin(30)
        assert lease.expire_time == BEGIN + timedelta(seconds=30)
        await asyncio.sleep(29.9)
        assert not expired
        await asyncio.sleep(1)
        assert expired == [pytest.approx(30)]
        assert lease.expire_time is None

    run(body())


def test_each_beginning_is_a_whole_term_and_the_last_one_counts() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        expired: list[float] = []
        lease = Lease(lambda: expired.append(loop.time()), now)
        lease.begin(30)
        for _ in range(10):
            await asyncio.sleep(29)
            lease.begin(30)
        lease.begin(5)
        await asyncio.sleep(100)
        assert expired == [pytest.approx(295)]

    run(body())


def test_without_a_length_and_once_stopped_it_never_runs_out() -> None:
    async def body() -> None:
        expired: list[None] = []
        lease = Lease(lambda: expired.append(None), now)
        lease.begin(1)
        lease.begin(None)
        await asyncio.sleep(1000)
        lease.begin(1)
        lease.stop()
        await asyncio.sleep(1000)
        assert not expired

    run(body())


async def test_a_broker_that_was_away_itself_lets_nobody_pay_for_it() -> None:
    expired: list[None] = []
    extended: list[None] = []
    lease = Lease(lambda: expired.append(None), now, lambda: extended.append(None))
    lease.begin(0.05)
    first = lease.expire_time
    time.sleep(0.1 + ABSENCE)  # noqa: ASYNC251 - as if the whole process had been stopped
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (len(expired), len(extended)) == (0, 1)
    assert lease.expire_time is not None
    assert first is not None
    assert lease.expire_time > first
    await asyncio.sleep(0.1)
    assert expired
