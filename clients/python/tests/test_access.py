"""TLS and tokens: against a real broker that asks for them, and what is never sent."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from ibgateway.client import (
    Broker,
    BrokerUnreachableError,
    Health,
    PermissionDeniedError,
    Role,
    SessionEvent,
    SessionState,
    SnapshotComplete,
    UnauthenticatedError,
    connect,
)
from live_broker import ROOT, LiveBroker, data_directory
from scripted_broker import ScriptedBroker, eventually

TOKEN = "gwb_" + "x" * 43


def command(*arguments: str) -> str:
    """What a command of the broker says."""
    python = os.environ.get("GATEWAY_BROKER_PYTHON") or sys.executable
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-m", "broker", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=90,
    )
    return done.stdout


class Trial:
    """A broker that was made as `access init` says, and its files."""

    def __init__(self, live: LiveBroker, directory: Path) -> None:
        self.address = live.address
        self.directory = directory
        self.ca = (directory / "ca.pem").read_bytes()

    def token(self, role: str) -> str:
        return (self.directory / f"{role}.token").read_text().strip()

    def connect(self, role: str = "trader", **more: Any) -> Broker:
        credentials = grpc.ssl_channel_credentials(self.ca)
        given: dict[str, Any] = {"credentials": credentials, "token": self.token(role)}
        return connect(self.address, **(given | more))


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    with data_directory() as path:
        files = path / "trial"
        command("access", "init", str(files))
        with LiveBroker(path, access=files) as live:
            yield Trial(live, files)


@pytest_asyncio.fixture
async def trader(trial: Trial) -> AsyncIterator[Broker]:
    async with trial.connect() as broker:
        yield broker


async def test_a_token_opens_watches_and_closes_over_tls(trader: Broker) -> None:
    access = (await trader.info()).access
    assert (access.caller, access.role, access.problem) == ("trader", Role.TRADER, "")
    async with trader.open_session(lease_ttl=6) as session:
        assert session.info.owner == "trader"
        async with trader.watch(owner="trader") as watch:
            async for item in watch:
                if isinstance(item, SnapshotComplete):
                    break
            assert session.session_id in watch.sessions
        assert (await session.verify()).healthy
        before = session.info.lease_expire_time

        async def is_renewed() -> bool:
            return session.info.lease_expire_time != before

        await eventually(is_renewed)
    assert session.state is SessionState.DISCONNECTED


async def test_who_is_refused_is_told_why_at_once(trial: Trial) -> None:
    async with trial.connect("viewer") as viewer, trial.connect() as owner:
        assert (await viewer.info()).access.role is Role.VIEWER
        with pytest.raises(PermissionDeniedError) as denied:
            await viewer.open_session()
        assert (denied.value.needed_role, denied.value.retryable) == ("trader", False)
        async with owner.open_session() as session:
            with pytest.raises(PermissionDeniedError):
                await viewer.close_session(session.session_id)
        with pytest.raises(PermissionDeniedError) as denied:
            await owner.gateways.drain()
        assert denied.value.needed_role == "operator"
    for token in (None, TOKEN):
        async with trial.connect(token=token) as stranger:
            with pytest.raises(UnauthenticatedError) as caught:
                await stranger.info()
            assert not caught.value.retryable
            assert "token" in caught.value.message
            assert TOKEN not in str(caught.value)
            async with stranger.watch() as watch:
                with pytest.raises(UnauthenticatedError):
                    await anext(watch)
            assert await stranger.check_health() is Health.SERVING


async def test_an_owner_that_is_not_ones_own_is_refused(trial: Trial) -> None:
    async with trial.connect(owner="trader") as broker:
        assert (await broker.info()).access.caller == "trader"
    async with trial.connect(owner="momentum") as broker:
        with pytest.raises(PermissionDeniedError, match="momentum"):
            await broker.open_session()


async def test_a_revoked_token_ends_its_watch_and_another_continues_it(trial: Trial) -> None:
    access = str(trial.directory / "access")
    add = ("access", "token", "add", "watcher", "--role", "viewer", "--file", access)
    old = command(*add).strip()
    async with AsyncExitStack() as stack:
        owner = await stack.enter_async_context(trial.connect())
        watcher = await stack.enter_async_context(trial.connect(token=old))

        async def is_known() -> bool:
            try:
                return bool(await watcher.info())
            except UnauthenticatedError:
                return False

        await eventually(is_known)
        watch = await stack.enter_async_context(watcher.watch())
        while not isinstance(await anext(watch), SnapshotComplete):
            pass
        fresh = command(*add).strip()
        listed = command("access", "token", "list", "--file", access)
        keys = re.findall(r"^watcher +viewer +(\w+)", listed, re.MULTILINE)
        command("access", "token", "revoke", "watcher", "--key", keys[0], "--file", access)
        async with asyncio.timeout(20):
            with pytest.raises(UnauthenticatedError):
                await _consume(watch)
        session = await stack.enter_async_context(owner.open_session())
        again = await stack.enter_async_context(trial.connect(token=fresh))
        async with asyncio.timeout(20), again.watch(resume_token=watch.token) as resumed:
            item = await anext(resumed)
            while not isinstance(item, SessionEvent):
                item = await anext(resumed)
            assert item.session_id == session.session_id


async def test_a_handle_whose_token_is_gone_for_a_while_follows_again(trial: Trial) -> None:
    access = trial.directory / "access"
    unknown = access.read_text()
    token = command(
        *("access", "token", "add", "desk", "--role", "trader", "--file", str(access))
    ).strip()
    known = access.read_text()

    async def is_known() -> bool:
        try:
            return bool(await desk.info())
        except UnauthenticatedError:
            return False

    async with trial.connect(token=token) as desk:
        await eventually(is_known)
        # Its lease outlasts the time without a token, which ends with a renewal that is refused.
        async with desk.open_session(lease_ttl=24) as session:
            access.write_text(unknown)
            await eventually(lambda: session.interruption)
            await eventually(lambda: session.renewal_error)
            with pytest.raises(UnauthenticatedError):
                await session.wait_ended()
            access.write_text(known)
            await eventually(lambda: session.interruption is None)
            await eventually(lambda: session.renewal_error is None)
            assert (await session.wait_connected(timeout=20)).state is SessionState.CONNECTED


async def _consume(watch: Any) -> None:
    async for _ in watch:
        pass


async def test_a_broker_that_is_not_trusted_is_not_told_the_token(trial: Trial) -> None:
    async with trial.connect(credentials=grpc.ssl_channel_credentials(), backoff=None) as broker:
        with pytest.raises(BrokerUnreachableError):
            await broker.info(timeout=5)
    async with connect(trial.address, backoff=None) as broker:
        with pytest.raises(BrokerUnreachableError):
            await broker.info(timeout=5)


@pytest.mark.parametrize(
    "address", ["broker.example.net:50051", "10.0.0.1:50051", "localhost.evil.net:1", "[::2]:1"]
)
@pytest.mark.parametrize(
    "shown", [{"token": TOKEN}, {"metadata": [("Authorization", f"Bearer {TOKEN}")]}]
)
def test_a_token_is_not_sent_in_plain_text_beyond_this_machine(
    address: str, shown: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="plain text") as caught:
        connect(address, **shown)
    assert TOKEN not in str(caught.value)
    connect(address, credentials=grpc.ssl_channel_credentials(), **shown)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1", "[::1]:1", "127.9.9.9:1"])
def test_on_this_machine_a_token_needs_no_tls(address: str) -> None:
    connect(address, token=TOKEN)


@pytest.mark.parametrize("token", ["", f"{TOKEN}\n", "two words", "Zoë"])
def test_a_token_that_was_not_stripped_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(ValueError, match="token") as caught:
        connect(token=token)
    assert not token or token not in str(caught.value)


async def test_a_token_goes_with_every_call(scripted: ScriptedBroker) -> None:
    async with connect(scripted.address, token=TOKEN) as broker:
        await broker.check_health()
        await broker.info()
    assert {asked.metadata["authorization"] for asked in scripted.asked} == {f"Bearer {TOKEN}"}
