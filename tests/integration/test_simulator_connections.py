"""Client ids, seats and what the simulated Gateway remembers of its connections."""

import asyncio
import gc
import socket

import pytest

from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway, SimulatorSettings
from broker.simulator.journal import End
from broker.simulator.raw_client import RawClient


async def _ended(sim: SimulatedGateway, number: int) -> None:
    for _ in range(1000):
        if sim.connections[number - 1].ended is not None:
            return
        await asyncio.sleep(0.002)
    raise AssertionError(f"not ended: {sim.connections[number - 1]}")


async def test_a_client_id_in_use_is_answered_with_326_and_fin() -> None:
    async with SimulatedGateway() as sim:
        async with RawClient(sim.host, sim.port) as first, RawClient(sim.host, sim.port) as second:
            await first.ready(7)
            await second.start(7)
            assert (await second.until(4))[:4] == ["4", "2", "-1", "326"]
            assert await second.end() == (b"", End.FIN)
            assert [client.client_id for client in sim.clients] == [7]
        record = sim.connections[1]
        assert (record.refused, record.end, record.ready) == ("326", End.OURS, None)
        assert sim.statistics.refused_client_ids == 1
        assert sim.statistics.max_holders == {7: 1}
        assert sim.statistics.max_claims == {7: 2}


@pytest.mark.parametrize(("delay", "closes"), [(0.1, True), (None, False)])
async def test_the_close_after_326_can_be_delayed_or_left_out(
    delay: float | None, closes: bool
) -> None:
    async with (
        SimulatedGateway(SimulatorSettings(id_in_use_close=delay)) as sim,
        RawClient(sim.host, sim.port) as first,
        RawClient(sim.host, sim.port) as second,
    ):
        await first.ready(7)
        await second.start(7)
        await second.until(4)
        assert await second.silence(0.05)
        if closes:
            assert await second.end() == (b"", End.FIN)
        else:
            assert await second.silence(0.1)


async def test_a_client_id_is_free_at_once_after_fin() -> None:
    async with SimulatedGateway() as sim:
        for number in (1, 2, 3):
            async with RawClient(sim.host, sim.port) as client:
                await client.ready(7)
            await _ended(sim, number)
        assert [record.end for record in sim.connections] == [End.FIN] * 3
        assert sim.statistics.max_claims == {7: 1}
        assert sim.statistics.max_handshakes == 1


async def test_a_client_id_is_held_for_a_while_after_rst() -> None:
    async with SimulatedGateway(SimulatorSettings(hold_after_reset=0.2)) as sim:
        async with RawClient(sim.host, sim.port) as client:
            await client.ready(7)
            await client.reset()
        await _ended(sim, 1)
        assert sim.connections[0].end is End.RESET
        assert 0 < sim.held_client_ids[7] <= 0.2
        async with RawClient(sim.host, sim.port) as client:
            await client.start(7)
            assert (await client.until(4))[3] == "326"
        await asyncio.sleep(0.2)
        assert sim.held_client_ids == {}
        async with RawClient(sim.host, sim.port) as client:
            await client.ready(7)


async def test_a_client_id_can_be_held_after_fin() -> None:
    async with SimulatedGateway(SimulatorSettings(hold_after_fin=60)) as sim:
        async with RawClient(sim.host, sim.port) as client:
            await client.ready(7)
        await _ended(sim, 1)
        async with RawClient(sim.host, sim.port) as client:
            await client.start(7)
            assert (await client.until(4))[3] == "326"


async def test_a_silent_client_is_taken_for_lost_and_its_id_held() -> None:
    async with SimulatedGateway(SimulatorSettings(silent_loss=0.1, hold_after_reset=60)) as sim:
        async with RawClient(sim.host, sim.port) as client:
            await client.ready(7)
            for _ in range(3):
                await asyncio.sleep(0.05)
                await client.request(61, 1)
            assert (await client.end())[1] is End.RESET
        assert sim.connections[0].end is End.LOST
        assert sim.held_client_ids.keys() == {7}


async def test_client_ids_are_free_at_once_after_the_gateway_dropped_their_clients() -> None:
    async with SimulatedGateway() as sim:
        for reset, expected in ((False, End.FIN), (True, End.RESET)):
            async with RawClient(sim.host, sim.port) as client:
                await client.ready(7)
                assert sim.drop(reset=reset) == 1
                assert (await client.end())[1] is expected
                assert sim.client_ids == frozenset()
                async with RawClient(sim.host, sim.port) as successor:
                    await successor.ready(7)
        await _ended(sim, 4)
        assert [record.end for record in sim.connections] == [End.OURS, End.FIN, End.OURS, End.FIN]


async def test_the_33rd_client_is_accepted_and_closed() -> None:
    async with SimulatedGateway() as sim:
        clients = [RawClient(sim.host, sim.port) for _ in range(32)]
        for client_id, client in enumerate(clients):
            await client.__aenter__()
            await client.ready(client_id)
        async with RawClient(sim.host, sim.port) as late:
            assert await late.end() == (b"", End.FIN)
        assert sim.statistics.refused_seats == 1
        assert sim.connections[32].refused == "seats"
        await clients[0].close()
        await _ended(sim, 1)
        async with RawClient(sim.host, sim.port) as next_one:
            await next_one.ready(100)
        for client in clients:
            await client.close()


async def test_an_id_that_is_held_takes_a_seat() -> None:
    async with SimulatedGateway(SimulatorSettings(seats=1, hold_after_reset=60)) as sim:
        async with RawClient(sim.host, sim.port) as client:
            await client.ready(7)
            await client.reset()
        await _ended(sim, 1)
        async with RawClient(sim.host, sim.port) as client:
            assert await client.end() == (b"", End.FIN)


async def test_next_valid_id_is_kept_per_client_id_over_connections() -> None:
    async with SimulatedGateway(SimulatorSettings(first_order_id=5)) as sim:
        async with RawClient(sim.host, sim.port) as client:
            assert await client.ready(7) == 5
            await client.request(3, 41)
            await client.request(3, 40)
            await client.request(8, 1, 1)
            assert (await client.until(9))[2] == "42"
        async with RawClient(sim.host, sim.port) as client, RawClient(sim.host, sim.port) as other:
            assert await client.ready(7) == 42
            assert await other.ready(8) == 5


@pytest.mark.parametrize(
    ("announced", "version"),
    [
        ("v157..178", "178"),
        ("v100..160", "160"),
        ("v100..225", "178"),
        ("v170", "170"),
        ("v157..178 +PACEAPI", "178"),
    ],
)
async def test_the_smaller_of_both_highest_versions_is_spoken(announced: str, version: str) -> None:
    async with SimulatedGateway() as sim, RawClient(sim.host, sim.port) as client:
        reply = await client.hello(announced)
        assert reply[0] == version
        assert len(reply) == 2


@pytest.mark.parametrize("announced", ["v213..225", "v100..151", "v201"])
@pytest.mark.parametrize("close", [True, False])
async def test_a_client_without_a_common_version_is_ignored_or_closed(
    announced: str, close: bool
) -> None:
    async with SimulatedGateway(SimulatorSettings(close_on_version_mismatch=close)) as sim:
        async with RawClient(sim.host, sim.port) as client:
            if close:
                with pytest.raises(ConnectionAbortedError):
                    await client.hello(announced)
            else:
                await client.send(b"API\0" + len(announced).to_bytes(4, "big") + announced.encode())
                assert await client.silence(0.1)
        assert sim.connections[0].refused == "version"


async def test_nothing_is_answered_before_the_version_string_is_complete() -> None:
    async with SimulatedGateway() as sim, RawClient(sim.host, sim.port) as client:
        hello = b"API\0\0\0\0\x09v157..178"
        for byte in range(len(hello) - 1):
            await client.send(hello[byte : byte + 1])
        assert await client.silence(0.05)
        await client.send(hello[-1:])
        assert (await client.message())[0] == "178"


async def test_the_connection_time_can_be_bytes_that_are_no_utf_8() -> None:
    odd = "20250425 15:23:54 中国标准时间".encode("gbk")
    async with (
        SimulatedGateway(SimulatorSettings(connection_time=odd)) as sim,
        RawClient(sim.host, sim.port) as client,
    ):
        await client.send(b"API\0\0\0\0\x09v157..178")
        assert await client.payload() == b"178\0" + odd + b"\0"


@pytest.mark.parametrize("accounts_first", [True, False])
async def test_the_order_after_start_api_can_be_chosen_and_farms_follow(
    accounts_first: bool,
) -> None:
    async with (
        SimulatedGateway(SimulatorSettings(accounts_first=accounts_first, startup_gap=0.01)) as sim,
        RawClient(sim.host, sim.port) as client,
    ):
        await client.start(7)
        messages = [await client.message() for _ in range(5)]
    assert [fields[0] for fields in messages[:2]] == (
        ["15", "9"] if accounts_first else ["9", "15"]
    )
    assert [fields[3] for fields in messages[2:]] == ["2104", "2106", "2158"]


@pytest.mark.parametrize("close", [False, True])
async def test_requests_before_next_valid_id_are_dropped_or_close_the_connection(
    close: bool,
) -> None:
    async with SimulatedGateway(
        SimulatorSettings(close_on_early_request=close, farm_notices=())
    ) as sim:
        async with RawClient(sim.host, sim.port) as client:
            await client.hello()
            await client.send(b"\0\0\0\x0871\x002\x007\0\0" + b"\0\0\0\x0561\x001\0")
            if close:
                assert await client.end() == (b"", End.FIN)
            else:
                await client.until(9)
                assert await client.silence(0.05)
                await client.request(61, 1)
                await client.until(62)
        assert sim.statistics.early_requests == 1


async def test_the_time_is_not_told_twice_within_a_second() -> None:
    async with (
        SimulatedGateway(SimulatorSettings(farm_notices=())) as sim,
        RawClient(sim.host, sim.port) as client,
    ):
        await client.ready(7)
        await client.request(49, 1)
        await client.until(49)
        await client.request(49, 1)
        assert await client.silence(0.1)
        assert sim.statistics.ignored_current_time == 1
        await asyncio.sleep(0.95)
        await client.request(49, 1)
        await client.until(49)


async def test_the_time_is_told_as_often_as_asked_if_so_configured() -> None:
    async with (
        SimulatedGateway(SimulatorSettings(current_time_interval=0)) as sim,
        RawClient(sim.host, sim.port) as client,
    ):
        await client.ready(7)
        for _ in range(3):
            await client.request(49, 1)
            await client.until(49)


async def test_unknown_requests_are_ignored_and_counted() -> None:
    async with SimulatedGateway() as sim, RawClient(sim.host, sim.port) as client:
        await client.ready(7)
        await client.request(104, 1)
        await client.request(61, 1)
        await client.until(62)
        assert sim.statistics.unknown_requests == {104: 1}


async def test_account_requests_for_an_account_that_is_not_there_are_refused_with_321() -> None:
    async with SimulatedGateway() as sim, RawClient(sim.host, sim.port) as client:
        await client.ready(7)
        for request, request_id in (((6, 2, 1, "DU9"), "-1"), ((76, 1, 11, "DU9", "", 0), "11")):
            await client.request(*request)
            while (fields := await client.until(4))[3] != "321":
                pass
            assert fields[2] == request_id


async def test_a_notice_can_go_to_one_client_only() -> None:
    async with (
        SimulatedGateway(SimulatorSettings(farm_notices=())) as sim,
        RawClient(sim.host, sim.port) as one,
        RawClient(sim.host, sim.port) as two,
    ):
        await one.ready(1)
        await two.ready(2)
        assert sim.notify(1100, "lost", client_id=2) == 1
        assert (await two.until(4))[2:5] == ["-1", "1100", "lost"]
        assert await one.silence(0.05)


async def test_a_mute_gateway_reads_but_never_answers_and_still_sees_ends() -> None:
    settings = SimulatorSettings(current_time_interval=0, farm_notices=())
    async with SimulatedGateway(settings) as sim:
        async with (
            RawClient(sim.host, sim.port) as client,
            RawClient(sim.host, sim.port) as stranger,
        ):
            await client.ready(7)
            await client.request(49, 1)
            await client.until(49)
            sim.mute(True)
            await client.request(49, 1)
            await stranger.send(b"API\0\0\0\0\x09v157..178")
            assert await stranger.silence(0.1)
            assert await client.silence(0.01)
            assert sim.notify(1100, "lost") == 0
            assert sim.statistics.muted_requests == 1
            sim.mute(False)
            await client.request(49, 1)
            await client.until(49)
            sim.mute(True)
        await _ended(sim, 1)
        assert sim.connections[0].end is End.FIN


async def test_a_mute_does_not_cut_a_message_in_two() -> None:
    async with SimulatedGateway() as sim, RawClient(sim.host, sim.port) as client:
        sim.arm(Fault.SPLIT_SEGMENTS)
        await client.ready(7)
        await asyncio.sleep(0.01)  # amid the farm notices
        sim.mute(True)
        await asyncio.sleep(0.05)
        sim.mute(False)
        await client.request(61, 1)
        assert (await client.until(62)) == ["62", "1"]


async def test_a_handshake_that_meets_a_mute_stays_silent() -> None:
    async with SimulatedGateway() as sim, RawClient(sim.host, sim.port) as client:
        await client.hello()
        sim.mute(True)
        await client.request(71, 2, 7, "")
        assert await client.silence(0.05)
        sim.mute(False)
        assert await client.silence(0.05)


async def test_a_closed_listener_refuses_and_opens_again_on_the_same_port() -> None:
    async with SimulatedGateway() as sim:
        port = sim.port
        async with RawClient(sim.host, port) as client:
            await client.ready(7)
            await sim.stop_listening()
            await sim.stop_listening()
            with pytest.raises(ConnectionRefusedError):
                await RawClient(sim.host, port).__aenter__()
            await client.request(61, 1)
            await client.until(62)
            await sim.start_listening()
            await sim.start_listening()
            assert sim.port == port
            async with RawClient(sim.host, port) as other:
                await other.ready(8)


async def test_nobody_is_given_the_port_while_it_refuses() -> None:
    async with SimulatedGateway() as sim:
        await sim.stop_listening()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind((sim.host, sim.port))


async def test_leaving_closes_clients_with_fin_and_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    async with SimulatedGateway() as sim:
        client = await RawClient(sim.host, sim.port).__aenter__()
        await client.ready(7)
        half_way = await RawClient(sim.host, sim.port).__aenter__()
        await half_way.hello()
        probe = await RawClient(sim.host, sim.port).__aenter__()
    assert (await client.end())[1] is End.FIN
    for left in (client, half_way, probe):
        await left.close()
    assert asyncio.all_tasks() == before
    with pytest.raises(ConnectionRefusedError):
        await RawClient(sim.host, sim.port).__aenter__()


async def test_a_port_that_is_taken_is_reported() -> None:
    async with SimulatedGateway() as sim:
        with pytest.raises(OSError, match="in use"):
            await SimulatedGateway(SimulatorSettings(port=sim.port)).__aenter__()


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"server_version": 156}, "157 to 200"),
        ({"server_version": 201}, "157 to 200"),
        ({"port": 65536}, "65535"),
        ({"accounts": ("DU1,DU2",)}, "letters and digits"),
        ({"connection_time": b"a\0b"}, "NUL"),
        ({"seats": 0}, "at least 1"),
        ({"startup_gap": -1.0}, "not a duration"),
        ({"hold_after_reset": float("nan")}, "not a duration"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        SimulatorSettings(**wrong)  # type: ignore[arg-type]


# asyncio leaves the socket that it drops to the garbage collector, which complains of it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("turns", range(5))
async def test_a_client_that_is_accepted_while_listening_stops_holds_up_no_end(turns: int) -> None:
    with socket.socket() as client:
        client.setblocking(False)
        async with SimulatedGateway(SimulatorSettings()) as sim:
            client.connect_ex((sim.host, sim.port))
            for _ in range(turns):
                await asyncio.sleep(0)
            await sim.stop_listening()
        assert not sim.clients
    gc.collect()
