"""Bytes that no client should send, against the simulated Gateway: they end their own connection
and nothing else.
"""

import asyncio

import pytest

from broker.simulator.gateway import SimulatedGateway, SimulatorSettings
from broker.simulator.journal import End
from broker.simulator.protocol import MAX_FRAME, frame
from broker.simulator.raw_client import RawClient

HELLO = b"API\0\0\0\0\x09v157..178"


async def _serves(sim: SimulatedGateway) -> None:
    async with RawClient(sim.host, sim.port) as client:
        await client.ready(99)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"63\0",
        b"API",
        b"API\0" + b"\xff\xff\xff\xff",
        b"API\0" + (4097).to_bytes(4, "big"),
        b"API\0" + frame(b""),
        b"API\0" + frame(b"v"),
        b"API\0" + frame(b"v178..157"),
        b"API\0" + frame(b"v-1..178"),
        b"API\0" + frame(b"v157..178x"),
        b"API\0" + frame(b"v99999999999..1"),
        b"API\0" + frame(b"\xff\xfe"),
    ],
)
async def test_a_bad_hello_ends_with_fin_and_without_an_answer(data: bytes) -> None:
    async with SimulatedGateway(SimulatorSettings(handshake_deadline=0.2)) as sim:
        async with RawClient(sim.host, sim.port) as client:
            await client.send(data)
            assert await client.end() == (b"", End.FIN)
        assert sim.statistics.protocol_errors == 1
        assert sim.connections[0].refused
        await _serves(sim)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\0",
        b"71",
        b"71\0",
        b"71\x002\0",
        b"71\x002\0\0\0",
        b"71\x002\0seven\0\0",
        b"71\x002\x00-1\0\0",
        b"71\x002\x002147483648\0\0",
        b"71\x002\x0099999999999999999999\0\0",
        b"71\x002\x007.5\0\0",
        "71\x002\x00\N{ARABIC-INDIC DIGIT SEVEN}\0\0".encode(),
        b"seventy-one\x002\x007\0\0",
        b"\xff\xfe\0",
    ],
)
async def test_a_bad_start_api_is_answered_with_320_and_fin(payload: bytes) -> None:
    async with SimulatedGateway() as sim:
        async with RawClient(sim.host, sim.port) as client:
            await client.hello()
            await client.send(frame(payload))
            assert (await client.message())[:4] == ["4", "2", "-1", "320"]
            assert await client.end() == (b"", End.FIN)
        assert sim.client_ids == frozenset()
        assert sim.statistics.protocol_errors == 1
        await _serves(sim)


@pytest.mark.parametrize(
    "payload", [b"", b"\0", b"x\0", b"7\x003\0", b"76\x001\0x\0", b"49", b"3\0x\0", b"62\x001\0"]
)
async def test_a_bad_request_is_answered_with_320_and_fin(payload: bytes) -> None:
    async with SimulatedGateway(SimulatorSettings(farm_notices=())) as sim:
        async with RawClient(sim.host, sim.port) as client:
            await client.ready(7)
            await client.send(frame(payload))
            assert (await client.message())[3] == "320"
            assert await client.end() == (b"", End.FIN)
        await _serves(sim)


async def test_a_frame_beyond_the_limit_ends_the_connection_as_soon_as_its_length_is_known() -> (
    None
):
    async with (
        SimulatedGateway(SimulatorSettings(farm_notices=())) as sim,
        RawClient(sim.host, sim.port) as client,
    ):
        await client.ready(7)
        await client.send((MAX_FRAME + 1).to_bytes(4, "big"))
        assert (await client.message())[3] == "320"
        assert await client.end() == (b"", End.FIN)


async def test_a_frame_at_the_limit_is_read() -> None:
    async with SimulatedGateway() as sim, RawClient(sim.host, sim.port) as client:
        await client.ready(7)
        await client.send(frame(b"104\0" + bytes(MAX_FRAME - 4)))
        await client.request(61, 1)
        await client.until(62)
        assert sim.statistics.unknown_requests == {104: 1}


async def test_a_second_start_api_changes_nothing() -> None:
    async with SimulatedGateway() as sim, RawClient(sim.host, sim.port) as client:
        await client.ready(7)
        await client.request(71, 2, 8, "")
        await client.request(61, 1)
        await client.until(62)
        assert sim.statistics.duplicate_start_api == 1
        assert sim.client_ids == {7}


async def test_a_client_that_never_finishes_its_hello_is_closed_at_the_deadline() -> None:
    async with (
        SimulatedGateway(SimulatorSettings(handshake_deadline=0.2)) as sim,
        RawClient(sim.host, sim.port) as client,
    ):
        started = asyncio.get_running_loop().time()
        for byte in range(4):
            await client.send(HELLO[byte : byte + 1])
            await asyncio.sleep(0.03)
        assert await client.end() == (b"", End.FIN)
        assert asyncio.get_running_loop().time() - started < 1


async def test_a_client_that_never_sends_start_api_is_closed_at_the_deadline() -> None:
    async with (
        SimulatedGateway(SimulatorSettings(handshake_deadline=0.1)) as sim,
        RawClient(sim.host, sim.port) as client,
    ):
        await client.hello()
        assert (await client.message())[3] == "320"
        assert await client.end() == (b"", End.FIN)


async def test_a_frame_that_trickles_in_is_cut_off_at_the_deadline() -> None:
    async with (
        SimulatedGateway(SimulatorSettings(frame_deadline=0.2, farm_notices=())) as sim,
        RawClient(sim.host, sim.port) as client,
    ):
        await client.ready(7)
        data = frame(b"61\x001\0")
        for byte in range(3):
            await client.send(data[byte : byte + 1])
            await asyncio.sleep(0.03)
        assert (await client.message())[3] == "320"
        assert await client.end() == (b"", End.FIN)


async def test_frames_that_are_complete_in_time_never_meet_the_deadline() -> None:
    async with (
        SimulatedGateway(SimulatorSettings(frame_deadline=0.6, farm_notices=())) as sim,
        RawClient(sim.host, sim.port) as client,
    ):
        await client.ready(7)
        data = frame(b"61\x001\0")
        for _ in range(4):
            await client.send(data[:5])
            await asyncio.sleep(0.2)
            await client.send(data[5:])
            await client.until(62)
        await asyncio.sleep(0.7)
        await client.request(61, 1)
        await client.until(62)


async def test_a_client_that_does_not_read_its_answers_is_no_longer_read() -> None:
    unlimited = SimulatorSettings(rate_limit=None)
    async with (
        SimulatedGateway(unlimited) as sim,
        RawClient(sim.host, sim.port, deadline=0.5) as client,
    ):
        await client.ready(7)
        burst = frame(b"6\x002\x001\0DU1234567\0") * 20_000

        async def ask_for_ever() -> None:
            while True:
                await client.send(burst)

        with pytest.raises(TimeoutError):
            await ask_for_ever()
        assert len(sim.clients) == 1
        await client.reset()


async def test_strangers_that_connect_and_leave_cost_nothing() -> None:
    async with SimulatedGateway() as sim:
        for _ in range(50):
            async with RawClient(sim.host, sim.port):
                pass
        for _ in range(1000):
            if not sim.clients and sim.statistics.accepts == 50:
                break
            await asyncio.sleep(0.002)
        assert sim.statistics.handshakes == 0
        await _serves(sim)
