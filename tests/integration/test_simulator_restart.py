"""The nightly restart of the simulated Gateway, as clients see it."""

import asyncio
import socket
import time

import ib_async
import pytest

from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway, SimulatorSettings
from broker.simulator.journal import End
from broker.simulator.raw_client import RawClient
from broker.simulator.restart import Restart
from broker.simulator.scripts import ScriptRunningError, ScriptState
from tests.harness import eventually

QUIET = SimulatorSettings(farm_notices=(), hold_after_reset=60)


async def _codes_until_end(client: RawClient) -> tuple[list[str], End]:
    """The codes of all error messages up to the end of the connection, and the end."""
    codes = []
    try:
        while True:
            codes.append((await client.until(4))[3])
    except ConnectionResetError:
        return codes, End.RESET
    except ConnectionAbortedError:
        return codes, End.FIN


async def _meets(sim: SimulatedGateway, client_id: int) -> str:
    """What a handshake comes to: refused, the code of an error, no account, or ready."""
    try:
        async with RawClient(sim.host, sim.port) as client:
            await client.start(client_id)
            fields = await client.message()
    except ConnectionRefusedError:
        return "refused"
    if fields[0] == "15":
        return "ready" if fields[2] else "no account"
    return fields[3]


@pytest.mark.parametrize(("reset", "end"), [(True, End.RESET), (False, End.FIN)])
async def test_a_whole_night_from_1100_to_a_lower_next_valid_id(reset: bool, end: End) -> None:
    settings = SimulatorSettings(farm_notices=(), first_order_id=500)
    async with SimulatedGateway(settings) as sim:
        async with RawClient(sim.host, sim.port) as seven, RawClient(sim.host, sim.port) as eight:
            assert (await seven.ready(7), await eight.ready(8)) == (500, 500)
            night = Restart(
                notices=2, notice_interval=0.02, reset=reset, down=0.2,
                first_connections=2, ghosts=0.6, next_order_id=3,
            )  # fmt: skip
            script = sim.start_restart(night)
            heard = await asyncio.gather(_codes_until_end(seven), _codes_until_end(eight))
            assert list(heard) == [(["1100", "1100"], end)] * 2
            assert (script.state, script.step) == (ScriptState.RUNNING, "down")
            assert await _meets(sim, 7) == "refused"
        await eventually(lambda: sim.listening)
        assert [await _meets(sim, 7), await _meets(sim, 9), await _meets(sim, 9)] == [
            "326", "10141", "ready",
        ]  # fmt: skip
        await eventually(lambda: script.step == "up, ids held")
        assert sim.held_client_ids.keys() == {7, 8}
        assert await script.wait() is ScriptState.FINISHED
        async with RawClient(sim.host, sim.port) as seven:
            assert await seven.ready(7) == 3
        assert not sim.upstream_lost


async def test_the_first_connections_can_be_named_no_account_for_some_time() -> None:
    async with SimulatedGateway(QUIET) as sim:
        night = Restart(down=0, first_fault=Fault.EMPTY_ACCOUNTS, first_duration=0.2)
        script = sim.start_restart(night)
        await eventually(lambda: script.step == "up, empty-accounts")
        assert [await _meets(sim, number) for number in range(3)] == ["no account"] * 3
        assert await script.wait() is ScriptState.FINISHED
        assert await _meets(sim, 3) == "ready"


async def test_armed_faults_come_before_those_of_a_restart() -> None:
    async with SimulatedGateway(QUIET) as sim:
        sim.arm(Fault.CLIENT_ID_IN_USE, times=1)
        script = sim.start_restart(Restart(down=0, first_connections=1))
        await eventually(lambda: script.step == "up, paper-disclaimer")
        assert [await _meets(sim, 7) for _ in range(3)] == ["326", "10141", "ready"]


async def test_a_restart_frees_ids_that_were_held_and_ends_a_mute() -> None:
    async with SimulatedGateway(QUIET) as sim:
        async with RawClient(sim.host, sim.port) as client:
            await client.ready(7)
            await client.reset()
        await eventually(lambda: sim.held_client_ids)
        sim.mute(True)
        sim.mute(True, client_id=8)
        sim.notify(1100)
        await sim.start_restart(Restart(down=0)).wait()
        assert [await _meets(sim, 7), await _meets(sim, 8)] == ["ready", "ready"]
        assert not sim.upstream_lost


async def test_order_ids_go_on_over_a_restart_unless_told_otherwise() -> None:
    async with SimulatedGateway(QUIET) as sim:
        async with RawClient(sim.host, sim.port) as client:
            await client.ready(7)
            await client.request(3, 41)
            await client.request(8, 1, 1)
            await client.until(9)
        await sim.start_restart(Restart(down=0)).wait()
        async with RawClient(sim.host, sim.port) as client:
            assert await client.ready(7) == 42


async def test_a_second_restart_is_refused_while_one_runs() -> None:
    async with SimulatedGateway(QUIET) as sim:
        first = sim.start_restart(Restart(down=60))
        await eventually(lambda: not sim.listening)
        with pytest.raises(ScriptRunningError, match=r"restart is running already \(down\)"):
            sim.start_restart(Restart(down=0))
        assert await sim.stop_restart()
        assert first.state is ScriptState.STOPPED
        again = sim.start_restart(Restart(down=0))
        assert await again.wait() is ScriptState.FINISHED
        assert sim.scripts == (again,)


async def test_a_restart_cut_short_leaves_a_gateway_that_is_well() -> None:
    async with SimulatedGateway(QUIET) as sim, RawClient(sim.host, sim.port) as client:
        await client.ready(7)
        script = sim.start_restart(Restart(down=0, first_duration=60, ghosts=60))
        await eventually(lambda: script.step == "up, paper-disclaimer")
        assert await _meets(sim, 7) == "326"
        assert await sim.stop_restart()
        assert await _meets(sim, 7) == "ready"
        script = sim.start_restart(Restart(down=60))
        await eventually(lambda: not sim.listening)
        assert await sim.stop_restart()
        assert await _meets(sim, 7) == "ready"
        assert not await sim.stop_restart()


async def test_leaving_ends_a_restart_and_its_task() -> None:
    before = asyncio.all_tasks()
    async with SimulatedGateway(QUIET) as sim:
        script = sim.start_restart(Restart(down=60))
        [task] = asyncio.all_tasks() - before
        assert task.get_name() == "simulator restart"
    assert script.state is ScriptState.STOPPED
    assert asyncio.all_tasks() == before
    with pytest.raises(ConnectionRefusedError):
        await RawClient(sim.host, sim.port).__aenter__()


async def test_a_restart_fails_if_the_port_was_taken_meanwhile() -> None:
    async with SimulatedGateway(QUIET) as sim:
        script = sim.start_restart(Restart(down=0.1))
        await eventually(lambda: not sim.listening)
        with socket.create_server((sim.host, sim.port)):
            assert await script.wait() is ScriptState.FAILED
        assert "in use" in script.failure
        await sim.start_listening()
        assert await _meets(sim, 7) == "ready"


async def test_ib_async_lives_through_a_restart() -> None:
    async with SimulatedGateway() as sim:
        ib = ib_async.IB()
        await ib.connectAsync(sim.host, sim.port, clientId=7, timeout=2)
        gone = asyncio.Event()
        ib.disconnectedEvent.connect(gone.set)
        started = time.monotonic()
        script = sim.start_restart(Restart(down=0.2))
        async with asyncio.timeout(2):
            await gone.wait()
        with pytest.raises(ConnectionRefusedError):
            await ib.connectAsync(sim.host, sim.port, clientId=7, timeout=2)
        assert await script.wait() is ScriptState.FINISHED
        assert 0.2 <= time.monotonic() - started < 10
        await ib.connectAsync(sim.host, sim.port, clientId=7, timeout=2)
        ib.disconnect()
        await eventually(lambda: not sim.clients)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"down": -1.0}, "down is -1.0, not a duration"),
        ({"down": float("nan")}, "down is nan"),
        ({"ghosts": float("inf")}, "ghosts is inf"),
        ({"notice_interval": -0.1}, "notice_interval is -0.1"),
        ({"first_duration": -0.1}, "first_duration is -0.1"),
        ({"notices": 1001}, "notices is 1001"),
        ({"first_connections": 0}, "first_connections is 0"),
        ({"next_order_id": 0}, "next_order_id is 0"),
    ],
)
def test_impossible_restarts_are_refused(wrong: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Restart(**wrong)  # type: ignore[arg-type]
