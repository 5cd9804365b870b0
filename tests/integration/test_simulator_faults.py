"""What each fault of the simulated Gateway looks like on the wire."""

import asyncio

import pytest

from broker.simulator.faults import Fault, FaultBlockedError
from broker.simulator.gateway import SimulatedGateway, SimulatorSettings
from broker.simulator.journal import End
from broker.simulator.raw_client import RawClient

HELLO = b"API\0\0\0\0\x09v157..178"

NEVER_ANSWERED = {Fault.SILENT_AFTER_ACCEPT: b""}
ENDS_BEFORE_VERSION = {
    Fault.CLOSE_AFTER_ACCEPT: (b"", End.FIN),
    Fault.RESET_AFTER_ACCEPT: (b"", End.RESET),
    Fault.GARBAGE: (bytes(range(255, 0, -3)), End.FIN),
    Fault.HTTP: (
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        End.FIN,
    ),
    Fault.CUT_VERSION_REPLY: (b"\0\0\0\x1a178\x002025042", End.FIN),
}
CLOSES_AFTER_START = {
    Fault.CLOSE_AFTER_START: (0.0, 0.1),
    Fault.CLOSE_AFTER_START_4_MS: (0.003, 0.1),
    Fault.CLOSE_AFTER_START_500_MS: (0.45, 0.8),
}
IN_USE = {
    Fault.CLIENT_ID_IN_USE: 0.0,
    Fault.CLIENT_ID_IN_USE_CLOSE_500_MS: 0.5,
    Fault.CLIENT_ID_IN_USE_NO_CLOSE: None,
}
STARTS_BADLY = {
    Fault.EMPTY_ACCOUNTS: (["15", "1", ""], ["9", "1", "1"]),
    Fault.NO_MANAGED_ACCOUNTS: (["9", "1", "1"],),
    Fault.NO_NEXT_VALID_ID: (["15", "1", "DU1234567"],),
    Fault.SPLIT_SEGMENTS: (["15", "1", "DU1234567"], ["9", "1", "1"]),
    Fault.ONE_SEGMENT: (["15", "1", "DU1234567"], ["9", "1", "1"]),
}
ALONE = {
    Fault.OLD_SERVER_VERSION,
    Fault.NEWS_BEFORE_VERSION,
    Fault.CLOSE_AFTER_VERSION,
    Fault.SILENT_AFTER_START,
    Fault.PAPER_DISCLAIMER,
}

SETTINGS = SimulatorSettings(connection_time=b"20250425 15:23:54 EST", farm_notices=())


def test_every_fault_is_shown_here() -> None:
    shown = [
        *NEVER_ANSWERED,
        *ENDS_BEFORE_VERSION,
        *CLOSES_AFTER_START,
        *IN_USE,
        *STARTS_BADLY,
        *ALONE,
    ]
    assert sorted(fault.name for fault in shown) == sorted(fault.name for fault in Fault)


@pytest.mark.parametrize("fault", NEVER_ANSWERED)
async def test_a_hung_gateway_accepts_and_says_nothing(fault: Fault) -> None:
    async with SimulatedGateway(SETTINGS) as sim:
        sim.arm(fault)
        async with RawClient(sim.host, sim.port) as client:
            await client.send(HELLO)
            assert await client.silence(0.1)


@pytest.mark.parametrize(("fault", "expected"), ENDS_BEFORE_VERSION.items())
async def test_the_connection_ends_without_a_version_reply(
    fault: Fault, expected: tuple[bytes, End]
) -> None:
    async with SimulatedGateway(SETTINGS) as sim:
        sim.arm(fault)
        async with RawClient(sim.host, sim.port) as client:
            try:
                await client.send(HELLO)
            except ConnectionResetError:
                assert expected[1] is End.RESET
            assert await client.end() == expected
        assert sim.connections[0].fault == fault.label
        assert sim.connections[0].end is End.OURS


async def test_an_old_gateway_replies_version_100_and_is_silent() -> None:
    async with SimulatedGateway(SETTINGS) as sim:
        sim.arm(Fault.OLD_SERVER_VERSION)
        async with RawClient(sim.host, sim.port) as client:
            await client.start(7)
            assert await client.silence(0.05)
        sim.clear()
        sim.arm(Fault.OLD_SERVER_VERSION)
        async with RawClient(sim.host, sim.port) as client:
            assert await client.hello() == ["100", "20250425 15:23:54 EST"]


async def test_news_can_come_before_the_version() -> None:
    async with SimulatedGateway(SETTINGS) as sim:
        sim.arm(Fault.NEWS_BEFORE_VERSION)
        async with RawClient(sim.host, sim.port) as client:
            assert (await client.hello())[0] == "14"
            assert (await client.message())[0] == "178"
            await client.request(71, 2, 7, "")
            await client.until(9)


async def test_the_gateway_can_close_right_after_its_version() -> None:
    async with SimulatedGateway(SETTINGS) as sim:
        sim.arm(Fault.CLOSE_AFTER_VERSION)
        async with RawClient(sim.host, sim.port) as client:
            assert (await client.hello())[0] == "178"
            assert await client.end() == (b"", End.FIN)


@pytest.mark.parametrize(("fault", "bounds"), CLOSES_AFTER_START.items())
async def test_the_gateway_can_close_after_start_api_without_a_word(
    fault: Fault, bounds: tuple[float, float]
) -> None:
    async with SimulatedGateway(SETTINGS) as sim:
        sim.arm(fault)
        async with RawClient(sim.host, sim.port) as client:
            started = asyncio.get_running_loop().time()
            await client.start(7)
            assert await client.end() == (b"", End.FIN)
            assert bounds[0] <= asyncio.get_running_loop().time() - started < bounds[1]


async def test_start_api_can_stay_unanswered() -> None:
    async with SimulatedGateway(SETTINGS) as sim:
        sim.arm(Fault.SILENT_AFTER_START)
        async with RawClient(sim.host, sim.port) as client:
            await client.start(7)
            assert await client.silence(0.1)


@pytest.mark.parametrize(("fault", "delay"), IN_USE.items())
async def test_a_client_id_can_seem_to_be_in_use(fault: Fault, delay: float | None) -> None:
    async with SimulatedGateway(SETTINGS) as sim:
        sim.arm(fault)
        async with RawClient(sim.host, sim.port) as client:
            await client.start(7)
            assert (await client.message())[:4] == ["4", "2", "-1", "326"]
            if delay != 0.0:
                assert await client.silence(0.1)
            if delay is not None:
                assert await client.end() == (b"", End.FIN)
        assert sim.connections[0].refused == "326"
        assert sim.statistics.refused_client_ids == 0
        assert sim.client_ids == frozenset()


async def test_the_paper_disclaimer_is_demanded_as_often_as_armed() -> None:
    async with SimulatedGateway(SETTINGS) as sim:
        sim.arm(Fault.PAPER_DISCLAIMER, times=2)
        for _ in range(2):
            async with RawClient(sim.host, sim.port) as client:
                await client.start(7)
                assert (await client.message())[3] == "10141"
                assert await client.end() == (b"", End.FIN)
        async with RawClient(sim.host, sim.port) as client:
            await client.ready(7)


@pytest.mark.parametrize(("fault", "messages"), STARTS_BADLY.items())
async def test_what_start_api_brings_is_distorted(
    fault: Fault, messages: tuple[list[str], ...]
) -> None:
    async with SimulatedGateway(SETTINGS) as sim:
        sim.arm(fault)
        async with RawClient(sim.host, sim.port) as client:
            await client.start(7)
            assert tuple([await client.message() for _ in messages]) == messages
            assert await client.silence(0.05)


async def test_answers_do_not_come_between_the_segments_of_another_message() -> None:
    async with SimulatedGateway() as sim:
        sim.arm(Fault.SPLIT_SEGMENTS)
        async with RawClient(sim.host, sim.port) as client:
            await client.ready(7)
            await client.request(61, 1)
            kinds = [(await client.message())[0] for _ in range(4)]
        assert sorted(kinds) == ["4", "4", "4", "62"]


async def test_faults_act_one_after_another_each_for_its_number_of_connections() -> None:
    async with SimulatedGateway(SETTINGS) as sim:
        sim.arm(Fault.CLOSE_AFTER_ACCEPT, times=2)
        sim.arm(Fault.RESET_AFTER_ACCEPT, times=1)
        for _ in range(3):
            async with RawClient(sim.host, sim.port) as client:
                await client.end()
        async with RawClient(sim.host, sim.port) as client:
            await client.ready(7)
        faults = [record.fault for record in sim.connections]
        assert faults == ["close-after-accept", "close-after-accept", "reset-after-accept", None]
        assert sim.armed == ()


async def test_a_fault_without_a_number_stays_until_cleared() -> None:
    async with SimulatedGateway(SETTINGS) as sim:
        sim.arm(Fault.CLOSE_AFTER_ACCEPT)
        with pytest.raises(FaultBlockedError, match="close-after-accept stays armed"):
            sim.arm(Fault.HTTP)
        for _ in range(3):
            async with RawClient(sim.host, sim.port) as client:
                await client.end()
        sim.clear()
        async with RawClient(sim.host, sim.port) as client:
            await client.ready(7)


@pytest.mark.parametrize("times", [0, -1, 1_000_001])
async def test_a_fault_cannot_be_armed_for_a_senseless_number(times: int) -> None:
    with pytest.raises(ValueError, match="1 to 1000000"):
        SimulatedGateway(SETTINGS).arm(Fault.HTTP, times)
