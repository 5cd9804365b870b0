"""Half-open connections, messages that are cut in two, and ids that stay in use after their client,
at the simulated Gateway.
"""

import asyncio

import pytest

from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway, SimulatorSettings
from broker.simulator.journal import End
from broker.simulator.raw_client import RawClient
from tests.harness import eventually

HELLO = b"API\0\0\0\0\x09v157..178"
QUIET = SimulatorSettings(farm_notices=())


async def test_one_muted_id_is_silent_while_others_are_served() -> None:
    async with (
        SimulatedGateway(QUIET) as sim,
        RawClient(sim.host, sim.port) as mute,
        RawClient(sim.host, sim.port) as other,
    ):
        await mute.ready(7)
        await other.ready(8)
        sim.mute(True, client_id=7)
        assert not sim.muted
        assert sim.muted_client_ids == {7}
        await mute.request(61, 1)
        await other.request(61, 1)
        await other.until(62)
        assert sim.notify(1102) == 1
        assert await mute.silence(0.05)
        sim.mute(False, client_id=7)
        await mute.request(61, 1)
        await mute.until(62)


async def test_who_asks_for_a_muted_id_hears_the_version_and_then_nothing() -> None:
    async with SimulatedGateway(QUIET) as sim:
        sim.mute(True, client_id=7)
        async with RawClient(sim.host, sim.port) as client:
            await client.start(7)
            assert await client.silence(0.05)
            sim.mute(False, client_id=7)
            assert await client.silence(0.05)
        await eventually(lambda: not sim.clients)
        async with RawClient(sim.host, sim.port) as client:
            await client.ready(7)


async def test_a_mute_gateway_accepts_and_neither_answers_nor_closes() -> None:
    settings = SimulatorSettings(
        farm_notices=(), seats=1, handshake_deadline=0.05, frame_deadline=0.05
    )
    async with SimulatedGateway(settings) as sim, RawClient(sim.host, sim.port) as ready:
        await ready.ready(7)
        sim.arm(Fault.CLOSE_AFTER_ACCEPT, times=1)
        sim.mute(True)
        async with (
            RawClient(sim.host, sim.port) as hello,
            RawClient(sim.host, sim.port) as probe,
            RawClient(sim.host, sim.port) as garbage,
        ):
            await hello.send(HELLO)
            await garbage.send(b"GET / HTTP/1.1\r\n\r\n")
            await ready.send(b"\0\0\0\x05" + b"61")
            silent = await asyncio.gather(
                *(client.silence(0.2) for client in (hello, probe, garbage, ready))
            )
            assert silent == [True] * 4
            assert sim.statistics.refused_seats == 0
            assert [fault.remaining for fault in sim.armed] == [1]
            assert sim.client_ids == {7}


async def test_a_client_that_leaves_a_mute_gateway_is_noticed() -> None:
    async with SimulatedGateway(QUIET) as sim:
        async with RawClient(sim.host, sim.port) as client:
            await client.ready(7)
            sim.mute(True)
        await eventually(lambda: sim.connections[0].end is End.FIN)
        assert sim.client_ids == frozenset()


async def test_no_more_than_1000_ids_are_mute() -> None:
    async with SimulatedGateway(QUIET) as sim:
        for client_id in range(1000):
            sim.mute(True, client_id=client_id)
        with pytest.raises(ValueError, match="1000 ids are mute already"):
            sim.mute(True, client_id=1000)
        with pytest.raises(ValueError, match="client_id is -1"):
            sim.mute(True, client_id=-1)


@pytest.mark.parametrize(("reset", "end"), [(False, End.FIN), (True, End.RESET)])
async def test_a_message_can_be_cut_in_two(reset: bool, end: End) -> None:
    async with (
        SimulatedGateway(QUIET) as sim,
        RawClient(sim.host, sim.port) as client,
        RawClient(sim.host, sim.port) as other,
        RawClient(sim.host, sim.port) as early,
    ):
        await client.ready(7)
        await other.ready(8)
        await early.hello()
        assert sim.drop(client_id=7, reset=reset, mid_message=True) == 1
        sim.notify(1100)
        data, how = await client.end()
        assert how is end
        assert 4 < len(data) < 4 + int.from_bytes(data[:4], "big")
        assert (await other.message())[3] == "1100"
        assert sim.drop(reset=reset, mid_message=True) == 1
        assert await early.silence(0.05)
        assert sim.connections[0].end is End.OURS


async def test_a_changed_port_is_told_before_the_close() -> None:
    async with SimulatedGateway(QUIET) as sim, RawClient(sim.host, sim.port) as client:
        await client.ready(7)
        assert sim.reset_port(4003) == 1
        fields = await client.message()
        text = "TWS socket port has been reset and this connection is being dropped."
        text += " Please reconnect on the new port - 4003"
        assert fields[2:5] == ["-1", "1300", text]
        assert await client.end() == (b"", End.FIN)
        with pytest.raises(ValueError, match="new_port is 0"):
            sim.reset_port(0)


@pytest.mark.parametrize("end", [End.FIN, End.RESET, End.LOST])
async def test_each_kind_of_end_holds_the_id_for_its_own_time(end: End) -> None:
    holds = {f"hold_after_{kind}": 0.0 for kind in ("fin", "reset", "loss")}
    name = {End.FIN: "hold_after_fin", End.RESET: "hold_after_reset", End.LOST: "hold_after_loss"}
    settings = SimulatorSettings(silent_loss=0.2, **(holds | {name[end]: 60.0}))  # type: ignore[arg-type]
    async with SimulatedGateway(settings) as sim:
        for number, kind in enumerate((End.FIN, End.RESET, End.LOST)):
            async with RawClient(sim.host, sim.port) as client:
                await client.ready(number)
                if kind is End.RESET:
                    await client.reset()
                elif kind is End.LOST:
                    await client.end()
            await eventually(lambda: sim.connections[-1].end is not None)
        assert [record.end for record in sim.connections] == [End.FIN, End.RESET, End.LOST]
        assert sim.held_client_ids.keys() == {(End.FIN, End.RESET, End.LOST).index(end)}
        sim.configure(**dict.fromkeys(holds, 60.0))
        async with RawClient(sim.host, sim.port) as client:
            await client.ready(9)
        await eventually(lambda: 9 in sim.held_client_ids)


async def test_an_id_can_seem_to_be_in_use_for_a_while() -> None:
    async with SimulatedGateway(QUIET) as sim:
        sim.ghost(7, 0.2)
        async with RawClient(sim.host, sim.port) as client:
            await client.start(7)
            assert (await client.message())[3] == "326"
        async with RawClient(sim.host, sim.port) as client:
            await client.ready(8)
        await eventually(lambda: not sim.held_client_ids)
        async with RawClient(sim.host, sim.port) as client:
            await client.ready(7)


async def test_a_ghost_outlives_the_connection_that_has_its_id() -> None:
    async with SimulatedGateway(SimulatorSettings(seats=2)) as sim:
        async with RawClient(sim.host, sim.port) as client:
            await client.ready(7)
            sim.ghost(7, 60)
            async with RawClient(sim.host, sim.port) as other:
                await other.ready(8)  # the id and its connection take one seat, not two
        await eventually(lambda: not sim.clients)
        async with RawClient(sim.host, sim.port) as client:
            await client.start(7)
            assert (await client.until(4))[3] == "326"
        sim.ghost(7, 0)
        async with RawClient(sim.host, sim.port) as client:
            await client.ready(7)


@pytest.mark.parametrize(
    ("client_id", "seconds", "text"),
    [
        (-1, 1.0, "client_id is -1"),
        (2**31, 1.0, "client_id is 2147483648"),
        (7, -1.0, "duration is -1.0"),
        (7, float("inf"), "duration is inf"),
    ],
)
async def test_impossible_ghosts_are_refused(client_id: int, seconds: float, text: str) -> None:
    async with SimulatedGateway() as sim:
        with pytest.raises(ValueError, match=text):
            sim.ghost(client_id, seconds)


async def test_no_more_than_1000_ids_are_held() -> None:
    async with SimulatedGateway() as sim:
        for client_id in range(1000):
            sim.ghost(client_id, 60)
        with pytest.raises(ValueError, match="1000 ids are held already"):
            sim.ghost(1000, 60)
        sim.ghost(999, 30)
