"""One gateway: turns, spacing, and failures that are shared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from broker.errors import (
    AuthenticationError,
    ClientIDInUseError,
    GatewayConnectionError,
    GatewayError,
    Phase,
)
from broker.gateway.base import GatewayKind, Link, Notice, Probe
from broker.gateway.endpoint import Endpoint, GatewaySettings


class ScriptedLink:
    """A link that is up until it is closed."""

    server_version = 178
    last_received = 0.0

    def __init__(self, accounts: tuple[str, ...]) -> None:
        self.accounts = accounts
        self.closed = False

    async def wait_lost(self) -> GatewayError:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async def probe(self, timeout: float) -> Probe:
        raise AssertionError

    async def close(self) -> bool:
        self.closed = True
        return True


class ScriptedConnector:
    """Connects, or fails as told, and notes how many dials ran at once."""

    def __init__(self, *, error: GatewayError | None = None, accounts: tuple[str, ...] = ("DU1",)):
        self.error = error
        self.accounts = accounts
        self.gate = asyncio.Event()
        self.gate.set()
        self.dialled: list[int] = []
        self.starts: list[float] = []
        self.running = 0
        self.most = 0
        self.links: list[ScriptedLink] = []

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
        self.dialled.append(client_id)
        self.starts.append(asyncio.get_running_loop().time())
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self.running -= 1
        if self.error is not None:
            raise self.error
        self.links.append(ScriptedLink(self.accounts))
        return self.links[-1]


def endpoint(
    connector: ScriptedConnector,
    kind: GatewayKind = GatewayKind.UNKNOWN,
    handshake_spacing: float = 0.0,
) -> Endpoint:
    settings = GatewaySettings(
        "default", "127.0.0.1", 4002, kind=kind, handshake_spacing=handshake_spacing
    )
    return Endpoint(settings, connector, now=lambda: datetime.now(UTC), random=lambda: 0.5)


async def dial(target: Endpoint, client_id: int) -> Link:
    return await target.connect(client_id, timeout=5, on_notice=lambda _: None)


async def test_one_handshake_at_a_time_in_the_order_of_asking() -> None:
    connector = ScriptedConnector()
    target = endpoint(connector)
    await asyncio.gather(*(dial(target, number) for number in range(1, 11)))
    assert connector.most == 1
    assert connector.dialled == list(range(1, 11))
    assert target.reachable


async def test_handshakes_begin_apart() -> None:
    connector = ScriptedConnector()
    target = endpoint(connector, handshake_spacing=0.2)
    await asyncio.gather(*(dial(target, number) for number in range(1, 4)))
    first, second, third = connector.starts
    # Half of it: between the turn that is taken and the start that is seen we may be preempted.
    assert second - first >= 0.1
    assert third - second >= 0.1


async def test_a_failure_of_the_gateway_is_shared_by_all_that_wait() -> None:
    error = GatewayConnectionError("refused", phase=Phase.TCP)
    connector = ScriptedConnector(error=error)
    target = endpoint(connector)
    results = await asyncio.gather(
        *(dial(target, number) for number in range(1, 11)), return_exceptions=True
    )
    assert [type(result) for result in results] == [GatewayConnectionError] * 10
    assert len({id(result) for result in results}) == 10
    assert connector.dialled == [1]
    assert target.reachable is False
    assert target.last_failure is not None


async def test_a_failure_of_one_session_is_its_own() -> None:
    error = ClientIDInUseError("in use", phase=Phase.START_API, answered=True)
    connector = ScriptedConnector(error=error)
    target = endpoint(connector)
    await asyncio.gather(*(dial(target, number) for number in (1, 2)), return_exceptions=True)
    assert connector.dialled == [1, 2]
    assert target.reachable


@pytest.mark.parametrize("steps", range(8))
async def test_a_turn_that_is_given_up_at_any_point_goes_to_the_next(steps: int) -> None:
    connector = ScriptedConnector()
    target = endpoint(connector)
    tasks = [asyncio.create_task(dial(target, number), name=str(number)) for number in (1, 2, 3)]
    for _ in range(steps):
        await asyncio.sleep(0)
    tasks[1].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert not isinstance(results[0], BaseException)
    assert not isinstance(results[2], BaseException)
    assert connector.most == 1
    await dial(target, 4)


@pytest.mark.parametrize(
    ("kind", "accounts", "accepted"),
    [
        (GatewayKind.PAPER, ("DU1", "DF2"), True),
        (GatewayKind.PAPER, ("DU1", "U2"), False),
        (GatewayKind.LIVE, ("U2",), True),
        (GatewayKind.LIVE, ("U2", "DU1"), False),
        (GatewayKind.UNKNOWN, ("DU1", "U2"), True),
    ],
)
async def test_accounts_of_the_wrong_kind_are_refused_and_the_link_closed(
    kind: GatewayKind, accounts: tuple[str, ...], accepted: bool
) -> None:
    connector = ScriptedConnector(accounts=accounts)
    target = endpoint(connector, kind)
    if accepted:
        await dial(target, 1)
    else:
        with pytest.raises(AuthenticationError):
            await dial(target, 1)
        assert connector.links[0].closed
