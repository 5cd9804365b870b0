"""Fixtures, and what must be so before gRPC is imported."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator

# The broker of the live tests is a child: gRPC's fork handlers would disturb it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import pytest
import pytest_asyncio

from ibgateway.client import Broker, connect
from live_broker import LiveBroker, data_directory
from scripted_broker import ScriptedBroker
from scripted_session import QUICK, Peer

# What a shell starts in the background ignores SIGINT, and so would programs that are to end by it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest_asyncio.fixture
async def scripted() -> AsyncIterator[ScriptedBroker]:
    """A peer that speaks the contract as the test says."""
    async with ScriptedBroker() as broker:
        yield broker


@pytest_asyncio.fixture
async def peer(scripted: ScriptedBroker) -> Peer:
    """It, with one session that the test moves."""
    return Peer(scripted)


@pytest_asyncio.fixture
async def broker(scripted: ScriptedBroker) -> AsyncIterator[Broker]:
    """A client of it that waits for nothing long."""
    async with connect(scripted.address, backoff=QUICK) as connected:
        yield connected


@pytest.fixture(scope="session")
def shared_live() -> Iterator[LiveBroker]:
    """A real broker, its database and a simulated Gateway, in processes of their own."""
    with data_directory() as path, LiveBroker(path) as broker:
        yield broker


@pytest_asyncio.fixture
async def live(shared_live: LiveBroker) -> AsyncIterator[LiveBroker]:
    """The real broker, with all well and no session open."""
    await shared_live.tidy()
    yield shared_live
    await shared_live.tidy()


@pytest_asyncio.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    """Whatever a test has used has ended its tasks."""
    before = asyncio.all_tasks()
    yield
    left = {
        task.get_name()
        for task in asyncio.all_tasks() - before
        if task.get_name().startswith("ibgateway-")
    }
    assert not left
