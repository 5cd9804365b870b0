"""The handshake with ib_async: what is sent, how it is handed over, and how it is given up."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import Final

import pytest
from ib_async.client import Client

from broker.errors import ErrorCode, GatewayError, Phase
from broker.gateway.base import Link, Notice
from broker.gateway.ib import IBConnector
from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway, SimulatorSettings
from tests.integration.scripted_peer import (
    ACCOUNTS,
    HANDSHAKE,
    ORDER_ID,
    START,
    VERSION,
    Do,
    ScriptedPeer,
    Step,
    full_backlog,
    message,
    nothing_listens,
    notice,
    on_both_loops,
)

IN_USE: Final = "Unable to connect as the client id is already in use"


async def connect(
    port: int, host: str = "127.0.0.1", *, timeout: float = 5, notices: list[Notice] | None = None
) -> Link:
    """Connect as client 7."""
    seen = [] if notices is None else notices
    return await IBConnector().connect(
        host=host, port=port, client_id=7, timeout=timeout, on_notice=seen.append
    )


@on_both_loops
async def test_a_host_name_is_dialled_at_each_of_its_addresses() -> None:
    async with ScriptedPeer(*HANDSHAKE) as peer:
        link = await connect(peer.port, "localhost")
        await link.close()
    async with nothing_listens() as (_, port):
        with pytest.raises(GatewayError) as caught:
            await connect(port, "localhost")
    assert (caught.value.code, caught.value.phase) == (ErrorCode.CONNECTION, Phase.TCP)


@on_both_loops
async def test_a_name_that_no_resolver_can_ask_for_is_a_network_error() -> None:
    for host in ("a" * 64 + ".invalid", "gateway..invalid", "\udc80"):
        with pytest.raises(GatewayError) as caught:
            await connect(4002, host)
        assert caught.value.code is ErrorCode.NETWORK_UNREACHABLE


@pytest.mark.requirement("AC-004")
@on_both_loops
async def test_an_empty_account_list_is_known_at_a_timeout_that_is_sooner() -> None:
    async with ScriptedPeer(*START, message(15, 1, ""), ORDER_ID) as peer:
        with pytest.raises(GatewayError) as caught:
            await connect(peer.port, timeout=0.3)
    assert (caught.value.code, caught.value.phase) == (ErrorCode.AUTHENTICATION, Phase.START_API)


@on_both_loops
async def test_an_empty_account_list_may_be_followed_by_a_full_one() -> None:
    async with ScriptedPeer(*START, message(15, 1, ""), ORDER_ID, 0.05, ACCOUNTS) as peer:
        link = await connect(peer.port)
        assert link.accounts == ("DU1", "DU2")
        await link.close()


@on_both_loops
async def test_a_handshake_may_come_in_one_segment_or_byte_by_byte_and_in_either_order() -> None:
    async with SimulatedGateway(SimulatorSettings(accounts_first=False)) as sim:
        for fault in (None, Fault.SPLIT_SEGMENTS, Fault.ONE_SEGMENT, Fault.NEWS_BEFORE_VERSION):
            if fault is not None:
                sim.arm(fault, times=1)
            link = await connect(sim.port)
            assert (link.server_version, link.accounts) == (178, ("DU1234567",))
            await link.close()


@on_both_loops
async def test_what_is_sent_is_the_whole_hello_at_once_and_then_start_api() -> None:
    async with ScriptedPeer(*HANDSHAKE) as peer:
        link = await connect(peer.port)
        await link.close()
        await peer.all_ended()
        assert peer.received == [b"API\0\0\0\0\x09v157..178\0\0\0\x0871\x002\x007\0\0"]


@on_both_loops
async def test_notices_of_the_handshake_arrive_before_connect_returns() -> None:
    farm = notice(2104, "Market data farm connection is OK:usfarm")
    own = notice(2106, "belongs to a request", request=5)
    read_only = notice(321, "read-only", request=2147483647)
    async with ScriptedPeer(*START, farm, own, ACCOUNTS, read_only + ORDER_ID + farm) as peer:
        seen: list[Notice] = []
        link = await connect(peer.port, notices=seen)
        assert [item.code for item in seen] == [2104, 321, 2104]
        await link.close()


@on_both_loops
async def test_an_id_in_use_is_closed_with_fin_before_the_error_is_raised() -> None:
    async with ScriptedPeer(*START, notice(326, IN_USE), ACCOUNTS, ORDER_ID) as peer:
        with pytest.raises(GatewayError) as caught:
            await connect(peer.port)
        assert caught.value.code is ErrorCode.CLIENT_ID_IN_USE
        assert await peer.all_ended() == ["fin"]


@on_both_loops
async def test_ib_async_is_gone_as_soon_as_the_link_is_there_or_the_attempt_has_failed() -> None:
    gc.collect()
    gc.disable()
    try:
        async with ScriptedPeer(*HANDSHAKE) as peer:
            link = await connect(peer.port)
            assert not any(isinstance(item, Client) for item in gc.get_objects())
            gc.collect()
            await link.close()
            assert await peer.all_ended() == ["fin"]
        async with ScriptedPeer(Do.FIN) as peer:
            with contextlib.suppress(GatewayError):
                await connect(peer.port)
            assert not any(isinstance(item, Client) for item in gc.get_objects())
    finally:
        gc.enable()


STALLS: Final[dict[str, tuple[Step, ...]]] = {
    "before the version": (Do.READ_HELLO,),
    "within the version": (Do.READ_HELLO, VERSION[:7]),
    "after the version": (Do.READ_HELLO, VERSION),
    "after startApi": START,
    "within the accounts": (*START, ACCOUNTS[:5]),
    "before nextValidId": (*START, ACCOUNTS),
    "with an empty account list": (*START, message(15, 1, ""), ORDER_ID),
    "while closing for 326": (*START, notice(326, IN_USE), 0.05, Do.DEAF),
}


@pytest.mark.parametrize("stall", STALLS)
@on_both_loops
async def test_cancelling_a_stalled_connect_ends_its_socket_before_it_returns(stall: str) -> None:
    async with ScriptedPeer(*STALLS[stall]) as peer:
        task = asyncio.create_task(connect(peer.port), name="connect")
        await asyncio.sleep(0.03)
        before = asyncio.get_running_loop().time()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.get_running_loop().time() - before < 0.5
        assert not [item for item in asyncio.all_tasks() if item.get_name().startswith("dial")]
        if Do.DEAF not in STALLS[stall]:
            await peer.all_ended()


@on_both_loops
async def test_cancelling_a_dial_into_silence_leaves_nothing() -> None:
    async with full_backlog() as (host, port):
        task = asyncio.create_task(connect(port, host), name="connect")
        await asyncio.sleep(0.03)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("script", [HANDSHAKE, (*START, notice(326, IN_USE), Do.FIN), (Do.FIN,)])
@pytest.mark.parametrize("cancels", [1, 2])
@on_both_loops
async def test_cancelling_at_any_turn_of_the_loop_leaves_no_socket(
    script: tuple[Step, ...], cancels: int
) -> None:
    async with ScriptedPeer(*script) as peer:
        for turns in range(60):
            task = asyncio.create_task(connect(peer.port), name="connect")
            for _ in range(turns):
                await asyncio.sleep(0)
            for _ in range(cancels):
                task.cancel()
                await asyncio.sleep(0)
            try:
                link = await task
            except (asyncio.CancelledError, GatewayError):
                pass
            else:
                await link.close()
            await asyncio.sleep(0)
            assert not [item for item in asyncio.all_tasks() if item.get_name().startswith("dial")]
        await peer.all_ended()
