"""What the simulated Gateway says of IB's servers: its words, its memory, and storms of it."""

import asyncio

import ib_async
import pytest

from broker.simulator.gateway import SimulatedGateway, SimulatorSettings
from broker.simulator.raw_client import RawClient
from broker.simulator.restart import Restart
from broker.simulator.scripts import ScriptRunningError, ScriptState
from broker.simulator.storm import Storm
from tests.harness import eventually

QUIET = SimulatorSettings(farm_notices=())
FARMS = ["2104", "2106", "2158"]


async def _told_at_start(sim: SimulatedGateway) -> list[str]:
    """The codes that a new client is told; the answer to a request comes after all of them."""
    async with RawClient(sim.host, sim.port) as client:
        await client.ready(99)
        await asyncio.sleep(0.02)
        await client.request(61, 1)
        codes = []
        while (fields := await client.message())[0] != "62":
            codes.append(fields[3])
        return codes


async def test_the_words_are_those_of_ib() -> None:
    async with SimulatedGateway() as sim, RawClient(sim.host, sim.port) as client:
        await client.ready(7)
        for _ in FARMS:
            await client.until(4)
        sim.notify(2105)
        heard = []
        for code in (1100, 1101, 1102, 2103, 2107, 2108, 2110, 2119, 2157, 10182, 10197):
            assert sim.notify(code) == 1
            fields = await client.message()
            heard.append(fields[4] if fields[3] != "2105" else (await client.message())[4])
    link = "Connectivity between IBKR and Trader Workstation has been"
    broken = "Connectivity between Trader Workstation and server is broken."
    farms = "The following farms are connected: usfarm; secdefil."
    farms += " The following farms are not connected: ushmds."
    inactive = "connection is inactive but should be available upon demand."
    assert heard == [
        f"{link} lost.",
        f"{link} restored - data lost. {farms}",
        f"{link} restored - data maintained. {farms}",
        "Market data farm connection is broken:usfarm",
        f"HMDS data farm {inactive}ushmds",
        f"Market data farm {inactive}usfarm",
        f"{broken} It will be restored automatically.",
        "Market data farm is connecting:usfarm",
        "Sec-def data farm connection is broken:secdefil",
        "Failed to request live updates (disconnected).",
        "No market data during competing live session",
    ]


async def test_a_code_without_known_words_needs_a_text() -> None:
    async with SimulatedGateway() as sim:
        with pytest.raises(ValueError, match="code 326 needs a text"):
            sim.notify(326)


@pytest.mark.parametrize("back", [1101, 1102])
async def test_who_connects_while_the_servers_are_lost_is_told_2110(back: int) -> None:
    async with SimulatedGateway() as sim:
        assert await _told_at_start(sim) == FARMS
        sim.notify(1100)
        assert sim.upstream_lost
        assert await _told_at_start(sim) == ["2110"]
        sim.notify(2103)
        assert await _told_at_start(sim) == ["2110", "2103"]
        sim.notify(back)
        assert not sim.upstream_lost
        assert await _told_at_start(sim) == ["2103", "2106", "2158"]


async def test_the_state_of_each_farm_is_told_to_those_that_connect_later() -> None:
    async with SimulatedGateway() as sim:
        sim.notify(2103, "Market data farm connection is broken:eufarm")
        sim.notify(2107)
        assert await _told_at_start(sim) == ["2104", "2107", "2158", "2103"]
        sim.notify(2104, "Market data farm connection is OK:eufarm")
        assert await _told_at_start(sim) == ["2104", "2107", "2158", "2104"]


async def test_what_one_client_is_told_is_not_remembered() -> None:
    async with SimulatedGateway() as sim, RawClient(sim.host, sim.port) as client:
        await client.ready(7)
        assert sim.notify(1100, client_id=7) == 1
        assert not sim.upstream_lost
        assert await _told_at_start(sim) == FARMS


async def test_of_too_many_farms_the_last_are_not_remembered() -> None:
    async with SimulatedGateway(QUIET) as sim:
        for number in range(101):
            sim.notify(2103, f"Market data farm connection is broken:farm{number}")
        assert len(sim.startup_notices) == 100


async def test_a_storm_tells_its_codes_in_turn_so_often_and_so_far_apart() -> None:
    async with SimulatedGateway(QUIET) as sim, RawClient(sim.host, sim.port) as client:
        await client.ready(7)
        loop = asyncio.get_running_loop()
        started = loop.time()
        script = sim.start_storm(Storm(codes=(1100, 2110, 1102), count=2, interval=0.03))
        codes = [(await client.message())[3] for _ in range(6)]
        assert codes == ["1100", "2110", "1102"] * 2
        assert loop.time() - started >= 5 * 0.03
        assert script.step == "round 2 of 2"
        assert await script.wait() is ScriptState.FINISHED
        assert await client.silence(0.05)


async def test_a_storm_reaches_one_client_or_all_that_are_there_by_then() -> None:
    async with SimulatedGateway(QUIET) as sim, RawClient(sim.host, sim.port) as one:
        await one.ready(1)
        sim.start_storm(Storm(codes=(2103, 2104), count=10_000, interval=0.005))
        async with RawClient(sim.host, sim.port) as two:
            await two.ready(2)
            await two.until(4)
        assert await sim.stop_storm()
        assert not await sim.stop_storm()
    async with (
        SimulatedGateway(QUIET) as sim,
        RawClient(sim.host, sim.port) as one,
        RawClient(sim.host, sim.port) as two,
    ):
        await one.ready(1)
        await two.ready(2)
        await sim.start_storm(Storm(codes=(2103,), interval=0, client_id=2)).wait()
        assert (await two.message())[3] == "2103"
        assert await one.silence(0.05)


async def test_the_blip_that_kills_live_bars_names_their_request() -> None:
    async with SimulatedGateway(QUIET) as sim, RawClient(sim.host, sim.port) as client:
        await client.ready(7)
        sim.start_storm(Storm(codes=(2105, 10182, 2106), interval=0, request_id=5))
        told = [(await client.message())[2:4] for _ in range(3)]
        assert told == [["-1", "2105"], ["5", "10182"], ["-1", "2106"]]


async def test_a_second_storm_is_refused_while_one_runs_but_a_restart_is_not() -> None:
    async with SimulatedGateway(QUIET) as sim:
        storm = sim.start_storm(Storm(codes=(1100,), count=10_000))
        with pytest.raises(ScriptRunningError, match="storm is running already"):
            sim.start_storm(Storm(codes=(1100,)))
        await eventually(lambda: sim.upstream_lost)
        assert await sim.start_restart(Restart(down=0)).wait() is ScriptState.FINISHED
        assert await sim.stop_storm()
        assert await storm.wait() is ScriptState.STOPPED
        assert await sim.start_storm(Storm(codes=(1102,), interval=0)).wait() is (
            ScriptState.FINISHED
        )


async def test_a_client_that_does_not_read_a_storm_is_reset() -> None:
    async with SimulatedGateway(QUIET) as sim, RawClient(sim.host, sim.port) as client:
        await client.ready(7)
        sim.start_storm(Storm(codes=(1100,) * 20, count=10_000, interval=0))
        await eventually(lambda: not sim.clients, 50)
        await sim.stop_storm()


async def test_ib_async_hears_a_storm_and_stays_connected() -> None:
    async with SimulatedGateway() as sim:
        ib = ib_async.IB()
        await ib.connectAsync(sim.host, sim.port, clientId=7, timeout=2)
        heard: list[int] = []
        ib.errorEvent.connect(lambda _request, code, _text, _contract: heard.append(code))
        sim.start_storm(Storm(codes=(1100, 1102, 2103, 2104), count=50, interval=0))
        await eventually(lambda: heard.count(1102) == heard.count(2104) == 50)
        assert ib.isConnected()
        ib.disconnect()
        await eventually(lambda: not sim.clients)
