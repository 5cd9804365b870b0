"""Ten sessions in front of a Gateway that fails in every way, for minutes.

`make soak` runs it for long (MINUTES) and with the SEED of your choice; the suite for a moment.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections import Counter
from functools import partial

import psutil
import pytest

from broker.simulator.gateway import SimulatedGateway, SimulatorSettings
from tests.harness import CONNECTED, Client, connected, eventually, serving, sockets
from tests.soak.faults import FaultStream
from tests.soak.witness import FINAL, Witness

SECONDS = float(os.environ.get("MINUTES", "0.4")) * 60
SEED = int(os.environ.get("SEED", "20"))
CLIENT_IDS = list(range(1, 11))
GATEWAY = {
    "heartbeat_interval": 1.2,
    "heartbeat_timeout": 0.5,
    "retry_max_delay": 1.0,
    "auth_grace": 30.0,
    "circuit_breaker_timeout": 0.5,
    "sentinel": True,
}


@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.requirement("AC-008")
async def test_ten_sessions_outlive_every_fault_and_tell_all_of_it(database_url: str) -> None:
    settings = SimulatorSettings(rate_limit=None, hold_after_reset=0.3, hold_after_loss=0.3)
    async with SimulatedGateway(settings) as gateway:
        before = {task.get_name() for task in asyncio.all_tasks()}
        async with serving(gateway, database_url, gateway_changes=GATEWAY) as client:
            await _soak(gateway, client)
        await eventually(lambda: not sockets(gateway), timeout=10)
        left = {
            task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("session")
        }
        assert not left - before, "a task is left"


async def _soak(gateway: SimulatedGateway, client: Client) -> None:
    async with connected(client.running) as second, connected(client.running) as third:
        witnesses = [Witness(watcher) for watcher in (client, second, third)]
        async with asyncio.TaskGroup() as tasks:
            watching = [
                tasks.create_task(witness.follow(), name=f"witness-{number}")
                for number, witness in enumerate(witnesses)
            ]
            await asyncio.sleep(0.5)
            for client_id in CLIENT_IDS:
                await client.open(client_id=client_id, labels={"number": str(client_id)})
            memory = _memory()
            faults = FaultStream(gateway, CLIENT_IDS, SEED)
            print(f"seed {SEED}, {SECONDS:.0f} s")
            await faults.run(SECONDS)
            mended = time.monotonic()
            await eventually(lambda: _all_work(client), timeout=30)
            print(f"all are back {time.monotonic() - mended:.1f} s after the last fault")
            await eventually(lambda: len({witness.revision for witness in witnesses}) == 1)
            # Not at one look: an event may be on its way, and a session may change meanwhile.
            for witness in witnesses:
                await eventually(partial(_adds_up, client, witness), timeout=30)
            await eventually(lambda: _held(gateway) == _connected(witnesses[0]), timeout=30)
            for task in watching:
                task.cancel()
    generations = [session.generation for session in witnesses[0].sessions.values()]
    print(f"{dict(faults.done)}; {witnesses[0].events} events; generations {sorted(generations)}")
    assert max(gateway.statistics.max_claims.values()) == 1, "the Gateway saw a double"
    assert gateway.statistics.max_handshakes == 1, "two dials at once"
    assert sum(generations) > len(generations), "nothing was broken"
    assert _memory() - memory < 64 * 2**20, "memory is lost"
    for session in await client.list():
        await client.close(session.session_id)


async def _adds_up(client: Client, witness: Witness) -> bool:
    """Whether what it saw is what there is."""
    sessions = await client.list(include_final=True)
    for session in sessions:
        session.ClearField("heartbeat_latency")
    assert len(sessions) == len(CLIENT_IDS)
    return {session.session_id: session for session in sessions} == witness.sessions


def _held(gateway: SimulatedGateway) -> Counter[int | None]:
    return Counter(record.client_id for record in gateway.clients)


def _connected(witness: Witness) -> Counter[int | None]:
    sessions = witness.sessions.values()
    return Counter(session.client_id for session in sessions if session.state == CONNECTED)


async def _all_work(client: Client) -> bool:
    sessions = await client.list(include_final=True)
    return len(sessions) == len(CLIENT_IDS) and all(
        session.state == CONNECTED or (session.state in FINAL and session.last_failure.reason)
        for session in sessions
    )


def _memory() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)
