"""The control service of the simulated Gateway, called as another program would."""

import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from ibgateway.simulator.v1 import simulator_service_pb2 as pb
from ibgateway.simulator.v1 import simulator_service_pb2_grpc as pb_grpc

from broker.simulator.control import ControlServer
from broker.simulator.faults import Fault
from broker.simulator.gateway import SimulatedGateway, SimulatorSettings
from broker.simulator.journal import End
from broker.simulator.raw_client import RawClient
from tests.harness import eventually


class Setup:
    """A simulator and a stub that reaches its control service."""

    def __init__(
        self, sim: SimulatedGateway, control: ControlServer, channel: grpc.aio.Channel
    ) -> None:
        self.sim = sim
        self.control = control
        self.channel = channel
        # The stubs' types are those of the synchronous ones.
        self.stub: Any = pb_grpc.SimulatorServiceStub(channel)


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    """Everything on ports that the operating system chose."""
    async with (
        SimulatedGateway(SimulatorSettings(farm_notices=())) as sim,
        ControlServer(sim) as control,
        grpc.aio.insecure_channel(f"{control.host}:{control.port}") as channel,
    ):
        yield Setup(sim, control, channel)


async def _refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_the_simulator_describes_itself_and_all_its_faults(setup: Setup) -> None:
    answer = await setup.stub.GetSimulator(pb.GetSimulatorRequest(), timeout=2)
    assert (answer.host, answer.port) == (setup.sim.host, setup.sim.port)
    assert (answer.listening, answer.muted, answer.server_version) == (True, False, 178)
    assert list(answer.accounts) == ["DU1234567"]
    assert {fault.name: fault.description for fault in answer.faults} == {
        f.label: f.value for f in Fault
    }


async def test_clients_and_counts_are_listed(setup: Setup) -> None:
    async with (
        RawClient(setup.sim.host, setup.sim.port) as client,
        RawClient(setup.sim.host, setup.sim.port) as other,
    ):
        await client.ready(7)
        await other.hello()
        clients = (await setup.stub.ListClients(pb.ListClientsRequest(), timeout=2)).clients
        assert [(c.number, c.HasField("client_id"), c.client_id, c.ready) for c in clients] == [
            (1, True, 7, True),
            (2, False, 0, False),
        ]
        counts = (await setup.stub.GetSimulator(pb.GetSimulatorRequest(), timeout=2)).statistics
        assert (counts.accepts, counts.max_claims_per_client_id) == (2, 1)


async def test_a_fault_is_armed_shown_and_cleared(setup: Setup) -> None:
    armed = await setup.stub.ArmFault(
        pb.ArmFaultRequest(fault="CLOSE_AFTER_ACCEPT", times=1), timeout=2
    )
    armed = await setup.stub.ArmFault(pb.ArmFaultRequest(fault="reset-after-accept"), timeout=2)
    assert [(item.name, item.HasField("remaining"), item.remaining) for item in armed.armed] == [
        ("close-after-accept", True, 1),
        ("reset-after-accept", False, 0),
    ]
    for expected in (End.FIN, End.RESET, End.RESET):
        async with RawClient(setup.sim.host, setup.sim.port) as client:
            assert (await client.end())[1] is expected
    await setup.stub.ClearFaults(pb.ClearFaultsRequest(), timeout=2)
    assert not (await setup.stub.GetSimulator(pb.GetSimulatorRequest(), timeout=2)).armed
    async with RawClient(setup.sim.host, setup.sim.port) as client:
        await client.ready(7)


@pytest.mark.parametrize(("reset", "end"), [(False, End.FIN), (True, End.RESET)])
async def test_clients_are_dropped_all_or_one(setup: Setup, reset: bool, end: End) -> None:
    async with (
        RawClient(setup.sim.host, setup.sim.port) as one,
        RawClient(setup.sim.host, setup.sim.port) as two,
    ):
        await one.ready(1)
        await two.ready(2)
        request = pb.DropClientsRequest(reset=reset, client_id=2)
        assert (await setup.stub.DropClients(request, timeout=2)).dropped == 1
        assert (await two.end())[1] is end
        assert [client.client_id for client in setup.sim.clients] == [1]
        assert (
            await setup.stub.DropClients(pb.DropClientsRequest(reset=reset), timeout=2)
        ).dropped == 1
        assert (await one.end())[1] is end
        assert (await setup.stub.DropClients(pb.DropClientsRequest(), timeout=2)).dropped == 0


async def test_a_notice_reaches_ready_clients(setup: Setup) -> None:
    async with RawClient(setup.sim.host, setup.sim.port) as client:
        await client.ready(7)
        request = pb.SendNoticeRequest(code=321, text="read-only", request_id=2147483647)
        assert (await setup.stub.SendNotice(request, timeout=2)).sent == 1
        assert (await client.until(4))[2:5] == ["2147483647", "321", "read-only"]
        await setup.stub.SendNotice(pb.SendNoticeRequest(code=1100, text="lost"), timeout=2)
        assert (await client.until(4))[2:5] == ["-1", "1100", "lost"]


async def test_the_simulator_can_be_muted_and_its_listener_closed(setup: Setup) -> None:
    await setup.stub.SetMute(pb.SetMuteRequest(muted=True), timeout=2)
    async with RawClient(setup.sim.host, setup.sim.port) as client:
        await client.send(b"API\0\0\0\0\x09v157..178")
        assert await client.silence(0.05)
    await setup.stub.SetMute(pb.SetMuteRequest(muted=False), timeout=2)
    await setup.stub.SetListening(pb.SetListeningRequest(listening=False), timeout=2)
    with pytest.raises(ConnectionRefusedError):
        await RawClient(setup.sim.host, setup.sim.port).__aenter__()
    await setup.stub.SetListening(pb.SetListeningRequest(listening=True), timeout=2)
    async with RawClient(setup.sim.host, setup.sim.port) as client:
        await client.ready(7)


@pytest.mark.parametrize(
    ("rpc", "request_", "says"),
    [
        ("ArmFault", pb.ArmFaultRequest(), "known are silent-after-accept"),
        (
            "ArmFault",
            pb.ArmFaultRequest(fault="no-such-fault"),
            "no fault is named 'no-such-fault'",
        ),
        ("ArmFault", pb.ArmFaultRequest(fault="http", times=0), "1 to 1000000"),
        ("ArmFault", pb.ArmFaultRequest(fault="http", times=-5), "1 to 1000000"),
        ("SendNotice", pb.SendNoticeRequest(text="x"), "code is 0"),
        ("SendNotice", pb.SendNoticeRequest(code=-1, text="x"), "code is -1"),
        ("SendNotice", pb.SendNoticeRequest(code=4711), "code 4711 needs a text"),
        (
            "SendNotice",
            pb.SendNoticeRequest(code=1100, text="x" * 4097),
            "text has 4097 characters",
        ),
        ("SendNotice", pb.SendNoticeRequest(code=1100, text="x", client_id=-1), "client_id is -1"),
        ("DropClients", pb.DropClientsRequest(client_id=-2), "client_id is -2"),
        ("SetMute", pb.SetMuteRequest(muted=True, client_id=-2), "client_id is -2"),
        ("ResetPort", pb.ResetPortRequest(), "new_port is 0"),
        ("ResetPort", pb.ResetPortRequest(new_port=65536), "new_port is 65536"),
        ("HoldClientId", pb.HoldClientIdRequest(client_id=-1), "client_id is -1"),
        (
            "HoldClientId",
            pb.HoldClientIdRequest(client_id=1, duration=Duration(seconds=-1)),
            "duration is -1.0",
        ),
        ("StartStorm", pb.StartStormRequest(), "codes has 0 items"),
        ("StartStorm", pb.StartStormRequest(codes=[1100] * 21), "codes has 21 items"),
        ("StartStorm", pb.StartStormRequest(codes=[326]), "codes contains 326"),
        ("StartStorm", pb.StartStormRequest(codes=[1100], count=0), "count is 0"),
        ("StartStorm", pb.StartStormRequest(codes=[1100], count=10_001), "count is 10001"),
        (
            "StartStorm",
            pb.StartStormRequest(codes=[1100], interval=Duration(seconds=-1)),
            "interval is -1",
        ),
        ("StartStorm", pb.StartStormRequest(codes=[1100], client_id=-3), "client_id is -3"),
        ("StartRestart", pb.StartRestartRequest(down=Duration(nanos=-1)), "down is -1e-09"),
        ("StartRestart", pb.StartRestartRequest(notices=-1), "notices is -1"),
        ("StartRestart", pb.StartRestartRequest(first_fault="no-such"), "no fault is named"),
        ("StartRestart", pb.StartRestartRequest(next_order_id=0), "next_order_id is 0"),
        ("StopScript", pb.StopScriptRequest(), "name is ''"),
        ("Configure", pb.ConfigureRequest(rate_limit=-1), "rate_limit is -1"),
        ("Configure", pb.ConfigureRequest(rate_violations=0), "rate_violations is 0"),
        ("Configure", pb.ConfigureRequest(read_only_id=-2), "read_only_id is -2"),
        (
            "Configure",
            pb.ConfigureRequest(hold_after_fin=Duration(seconds=-1)),
            "hold_after_fin is -1",
        ),
    ],
)
async def test_bad_arguments_are_refused_in_clear_words(
    setup: Setup, rpc: str, request_: Any, says: str
) -> None:
    code, details = await _refused(getattr(setup.stub, rpc)(request_, timeout=2))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert says in details


async def test_a_fault_that_could_never_act_is_refused(setup: Setup) -> None:
    await setup.stub.ArmFault(pb.ArmFaultRequest(fault="http"), timeout=2)
    code, details = await _refused(
        setup.stub.ArmFault(pb.ArmFaultRequest(fault="garbage"), timeout=2)
    )
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "http stays armed" in details


async def test_a_restart_is_started_watched_refused_twice_and_stopped(setup: Setup) -> None:
    request = pb.StartRestartRequest(down=Duration(seconds=60))
    async with RawClient(setup.sim.host, setup.sim.port) as client:
        await client.ready(7)
        started = (await setup.stub.StartRestart(request, timeout=2)).script
        assert (started.name, started.state) == ("restart", pb.SCRIPT_STATE_RUNNING)
        assert (await client.end())[1] is End.RESET
    seen = await setup.stub.GetSimulator(pb.GetSimulatorRequest(), timeout=2)
    assert [(script.step, seen.listening) for script in seen.scripts] == [("down", False)]
    code, details = await _refused(setup.stub.StartRestart(request, timeout=2))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "restart is running already" in details
    stop = pb.StopScriptRequest(name="restart")
    assert (await setup.stub.StopScript(stop, timeout=2)).stopped
    assert not (await setup.stub.StopScript(stop, timeout=2)).stopped
    seen = await setup.stub.GetSimulator(pb.GetSimulatorRequest(), timeout=2)
    assert [script.state for script in seen.scripts] == [pb.SCRIPT_STATE_STOPPED]
    async with RawClient(setup.sim.host, setup.sim.port) as client:
        await client.ready(7)


async def test_every_part_of_a_restart_can_be_asked_for(setup: Setup) -> None:
    async with RawClient(setup.sim.host, setup.sim.port) as client:
        await client.ready(7)
        request = pb.StartRestartRequest(
            notices=1,
            notice_interval=Duration(nanos=1_000_000),
            fin=True,
            down=Duration(nanos=1_000_000),
            first_fault="empty-accounts",
            first_connections=1,
            first_duration=Duration(seconds=60),
            ghosts=Duration(seconds=60),
            next_order_id=9,
        )
        await setup.stub.StartRestart(request, timeout=2)
        assert (await client.message())[3] == "1100"
        assert (await client.end())[1] is End.FIN
    await eventually(lambda: setup.sim.listening)
    async with RawClient(setup.sim.host, setup.sim.port) as client:
        await client.start(8)
        assert await client.message() == ["15", "1", ""]
    async with RawClient(setup.sim.host, setup.sim.port) as client:
        assert await client.ready(8) == 9
    answer = await setup.stub.GetSimulator(pb.GetSimulatorRequest(), timeout=2)
    assert list(answer.held_client_ids) == [7]


async def test_a_restart_whose_port_is_taken_cannot_be_stopped(setup: Setup) -> None:
    await setup.stub.StartRestart(pb.StartRestartRequest(down=Duration(seconds=60)), timeout=2)
    await eventually(lambda: not setup.sim.listening)
    with socket.create_server((setup.sim.host, setup.sim.port)):
        code, details = await _refused(
            setup.stub.StopScript(pb.StopScriptRequest(name="restart"), timeout=5)
        )
    assert code is grpc.StatusCode.UNAVAILABLE
    assert f"port {setup.sim.port} was taken" in details


async def test_a_storm_is_started_refused_twice_and_stopped(setup: Setup) -> None:
    async with RawClient(setup.sim.host, setup.sim.port) as client:
        await client.ready(7)
        request = pb.StartStormRequest(
            codes=[1100, 10182], count=10_000, interval=Duration(nanos=1_000_000), request_id=3
        )
        await setup.stub.StartStorm(request, timeout=2)
        assert [(await client.message())[2:4] for _ in range(2)] == [["-1", "1100"], ["3", "10182"]]
        code, _ = await _refused(setup.stub.StartStorm(request, timeout=2))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        stop = pb.StopScriptRequest(name="storm")
        assert (await setup.stub.StopScript(stop, timeout=2)).stopped
    answer = await setup.stub.GetSimulator(pb.GetSimulatorRequest(), timeout=2)
    assert [notice.code for notice in answer.startup_notices] == [2110]
    assert answer.upstream_lost


async def test_a_notice_without_a_text_is_in_the_words_of_ib(setup: Setup) -> None:
    async with RawClient(setup.sim.host, setup.sim.port) as client:
        await client.ready(7)
        await setup.stub.SendNotice(pb.SendNoticeRequest(code=2103), timeout=2)
        assert (await client.message())[4] == "Market data farm connection is broken:usfarm"


async def test_settings_change_while_it_runs_and_the_rest_stays(setup: Setup) -> None:
    request = pb.ConfigureRequest(
        rate_limit=0, read_only=True, read_only_id=-1, hold_after_fin=Duration(seconds=60)
    )
    settings = (await setup.stub.Configure(request, timeout=2)).settings
    assert (settings.rate_limit, settings.rate_violations) == (0, 3)
    assert (settings.read_only, settings.read_only_id) == (True, -1)
    assert settings.hold_after_fin == Duration(seconds=60)
    assert settings.hold_after_reset == settings.hold_after_loss == Duration(seconds=5)
    async with RawClient(setup.sim.host, setup.sim.port) as client:
        await client.ready(7)
        await client.request(3, 41)
        assert (await client.until(4))[2:4] == ["-1", "321"]
    await setup.stub.Configure(pb.ConfigureRequest(read_only_id=0), timeout=2)
    async with RawClient(setup.sim.host, setup.sim.port) as client:
        await client.ready(8)
        await client.request(3, 41)
        assert (await client.until(4))[2:4] == ["41", "321"]
    answer = await setup.stub.GetSimulator(pb.GetSimulatorRequest(), timeout=2)
    assert answer.settings.read_only
    assert 7 in answer.held_client_ids


async def test_an_id_is_held_and_freed(setup: Setup) -> None:
    held = pb.HoldClientIdRequest(client_id=7, duration=Duration(seconds=60))
    await setup.stub.HoldClientId(held, timeout=2)
    async with RawClient(setup.sim.host, setup.sim.port) as client:
        await client.start(7)
        assert (await client.until(4))[3] == "326"
    await setup.stub.HoldClientId(pb.HoldClientIdRequest(client_id=7), timeout=2)
    async with RawClient(setup.sim.host, setup.sim.port) as client:
        await client.ready(7)


async def test_one_client_is_muted_and_another_cut_off_mid_message(setup: Setup) -> None:
    async with (
        RawClient(setup.sim.host, setup.sim.port) as mute,
        RawClient(setup.sim.host, setup.sim.port) as other,
    ):
        await mute.ready(7)
        await other.ready(8)
        await setup.stub.SetMute(pb.SetMuteRequest(muted=True, client_id=7), timeout=2)
        answer = await setup.stub.GetSimulator(pb.GetSimulatorRequest(), timeout=2)
        assert (answer.muted, list(answer.muted_client_ids)) == (False, [7])
        cut = pb.DropClientsRequest(mid_message=True)
        assert (await setup.stub.DropClients(cut, timeout=2)).dropped == 1
        data, end = await other.end()
        assert end is End.FIN
        assert 4 <= len(data) < 4 + int.from_bytes(data[:4], "big")
        assert await mute.silence(0.05)


async def test_clients_are_sent_to_another_port(setup: Setup) -> None:
    async with RawClient(setup.sim.host, setup.sim.port) as client:
        await client.ready(7)
        request = pb.ResetPortRequest(new_port=4003)
        assert (await setup.stub.ResetPort(request, timeout=2)).told == 1
        fields = await client.message()
        assert fields[3] == "1300"
        assert fields[4].endswith("Please reconnect on the new port - 4003")
        assert (await client.end())[1] is End.FIN


async def test_reflection_names_the_service(setup: Setup) -> None:
    channel: Any = setup.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=2
    )
    async for answer in call:
        assert "ibgateway.simulator.v1.SimulatorService" in [
            s.name for s in answer.list_services_response.service
        ]


async def test_two_control_services_cannot_share_a_port(setup: Setup) -> None:
    with pytest.raises(OSError, match="cannot listen"):
        await ControlServer(setup.sim, port=setup.control.port).__aenter__()
