"""Fixtures that every test may ask for."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, settings

from broker import before_grpc

# Before gRPC is imported, as the command line does: a child that its fork handlers disturb fails.
before_grpc.prepare()

# What a shell starts in the background ignores SIGINT, and so would our children: for them to be
# stopped by Ctrl-C, we must not.
signal.signal(signal.SIGINT, signal.default_int_handler)

from broker.simulator.gateway import SimulatedGateway, SimulatorSettings  # noqa: E402
from tests.harness import Client, serving  # noqa: E402
from tests.program import NO_FIXED_PORTS  # noqa: E402

os.environ.update(NO_FIXED_PORTS)

# A slow machine is no finding.
settings.register_profile(
    "any machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

pytest_plugins = ["tests.postgres"]


def pytest_collection_finish() -> None:
    """Keep what is here before the first test out of the collections that tests look for leaks by.

    All that was imported is never garbage, and took a tenth of a second of each.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
async def simulator() -> AsyncIterator[SimulatedGateway]:
    """A simulated Gateway on a free port."""
    async with SimulatedGateway(SimulatorSettings(host="127.0.0.1", port=0)) as gateway:
        yield gateway


@pytest.fixture
async def client(simulator: SimulatedGateway, database_url: str) -> AsyncIterator[Client]:
    """A broker in front of the simulated Gateway, and a channel to it."""
    async with serving(simulator, database_url) as started:
        yield started
