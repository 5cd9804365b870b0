"""The plan's own figures, with room to spare; finer ones are ratios, and no test."""

from __future__ import annotations

import time

import psutil
import pytest

from broker.simulator.gateway import SimulatedGateway
from tests.integration.test_restart import process


@pytest.mark.requirement("AC-001")
@pytest.mark.requirement("AC-014")
async def test_a_hundred_sessions_open_in_less_than_a_minute_each_within_the_plans_bounds(
    simulator: SimulatedGateway, database_url: str
) -> None:
    async with process(simulator, database_url) as (started, client):
        broker = psutil.Process(started.pid)
        begin, cpu = time.monotonic(), broker.cpu_times()
        latencies = []
        for _ in range(100):
            asked = time.monotonic()
            session = await client.open()
            latencies.append(time.monotonic() - asked)
            await client.close(session.session_id)
        elapsed = time.monotonic() - begin
        used, memory = broker.cpu_times(), broker.memory_info()
    latencies.sort()
    assert elapsed < 60  # the plan asks for 60 a minute
    assert latencies[94] < 5
    assert latencies[98] < 10
    assert simulator.statistics.accepts == 100
    assert memory.rss < 256 * 2**20
    per_session = (used.user + used.system - cpu.user - cpu.system) / 100
    assert per_session * 60 / 60 < 0.7  # at the plan's rate, of one core
